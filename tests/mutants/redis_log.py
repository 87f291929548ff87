"""The mutants of the log on Redis: what is stored, the way there, what is pushed, what processes share."""

# ruff: noqa: E501  # an edit repeats lines of the source as they stand there

from __future__ import annotations

from tests.mutants.catalogue import Edit, Mutant

REDIS = "websocket_core/logs/redis/"

CORNERS = "tests/redis/test_redis_corners.py::"
FAULTS = "tests/redis/test_redis_faults.py::"
FEED = "tests/redis/test_redis_feed.py::"
LAWS = "tests/redis/test_redis_conformance.py::TestRedisLog::"
LINK = "tests/redis/test_redis_link.py::"
SENTINEL = "tests/redis/test_redis_sentinel.py::"
SHARES = "tests/redis/test_redis_shares.py::"
STATE = "tests/redis/test_redis_state.py::"
STORAGE = "tests/redis/test_redis_storage.py::"

MUTANTS: tuple[Mutant, ...] = (
    # -- what is stored
    Mutant(
        "redis_retry_is_a_second_event",
        "an append that is tried again is no second event",
        (
            Edit(
                REDIS + "append.lua", "if whose == id and tonumber(at) >= now - age then return", "if false then return"
            ),
        ),
        (LAWS + "test_an_id_that_is_appended_again_returns_its_position_and_adds_nothing",),
    ),
    Mutant(
        "redis_id_known_for_ever",
        "an id is known for as long as its event is retained, and no longer",
        (
            Edit(
                REDIS + "append.lua",
                "if whose == id and tonumber(at) >= now - age then return",
                "if whose == id then return",
            ),
        ),
        (LAWS + "test_an_id_that_has_expired_is_appended_anew",),
    ),
    Mutant(
        "redis_entries_not_chained",
        "each entry names the one before it",
        (
            Edit(
                REDIS + "append.lua",
                "local packed = mark .. '\\31' .. prev .. now_said",
                "local packed = mark .. '\\31' .. '' .. now_said",
            ),
        ),
        (LAWS + "test_offsets_count_from_one_and_every_entry_names_the_one_before_it",),
    ),
    Mutant(
        "redis_retention_by_number",
        "no more events are kept than the retention says",
        (Edit(REDIS + "append.lua", "(head - first >= most or bytes", "(bytes"),),
        (LAWS + "test_no_more_events_are_kept_than_the_retention_says",),
    ),
    Mutant(
        "redis_retention_by_bytes",
        "no more bytes are kept than the retention says",
        (Edit(REDIS + "append.lua", "or bytes > most_bytes or", "or"),),
        (LAWS + "test_no_more_bytes_are_kept_than_the_retention_says",),
    ),
    Mutant(
        "redis_retention_by_age",
        "an entry that is too old is not read",
        (
            Edit(
                REDIS + "read.lua",
                "  if not entry or young(entry) then return entry end",
                "  if true then return entry end",
            ),
        ),
        (LAWS + "test_what_is_older_than_the_retention_says_is_not_read_whether_or_not_it_was_expired",),
    ),
    Mutant(
        "redis_ids_of_trimmed_events_stay",
        "an append costs a few commands however long the log is",
        (Edit(REDIS + "append.lua", "  if whose and whose ~= id then call('HDEL', ids, whose) end\n", ""),),
        (STORAGE + "test_an_append_asks_no_more_of_redis_when_the_log_is_full",),
    ),
    Mutant(
        "redis_entries_of_another_life",
        "a log begins without what stands there of a life before",
        (Edit(REDIS + "append.lua", "  call('DEL', entries, ids) -- of a life that is over\n", ""),),
        (STORAGE + "test_a_lost_head_is_another_life",),
    ),
    Mutant(
        "redis_publishes_nothing",
        "an append reaches other processes at once",
        (Edit(REDIS + "append.lua", "  call('PUBLISH', channel, published)\n", ""),),
        (LAWS + "test_a_woken_reader_finds_what_woke_it",),
    ),
    Mutant(
        "redis_trimmed_is_taken_for_forgotten",
        "what is retained no more is not appended again",
        (Edit(REDIS + "append.lua", "if life == epoch and tonumber(there) <= head then", "if false then"),),
        (FAULTS + "test_what_is_retained_no_more_is_not_taken_for_forgotten",),
    ),
    Mutant(
        "redis_head_goes_with_the_entries",
        "the epoch outlives a log that is idle",
        (
            Edit(
                REDIS + "append.lua",
                "call('PEXPIRE', meta, math.max(lasts, head_ms))",
                "call('PEXPIRE', meta, lasts)",
            ),
        ),
        (STORAGE + "test_what_has_expired_leaves_nothing_but_the_head",),
    ),
    Mutant(
        "redis_lost_ids_unnoticed",
        "ids that somebody deleted are known again",
        (Edit(REDIS + "append.lua", "~= head - first + 2 then", "== -1 then"),),
        (STORAGE + "test_a_lost_memory_of_ids_is_made_anew_from_the_entries",),
    ),
    Mutant(
        "redis_stuck_behind_a_strangers_entry",
        "a stream that somebody else has numbered is another life",
        (
            Edit(
                REDIS + "append.lua",
                "  call('DEL', entries, ids) -- what stands there",
                "  call('DEL', ids) -- what stands there",
            ),
        ),
        (STORAGE + "test_a_stream_that_somebody_else_has_numbered_is_another_life",),
    ),
    Mutant(
        "redis_repair_loses_expiry",
        "what was made anew expires as well",
        (Edit(REDIS + "append.lua", "  call('PEXPIRE', ids, math.floor(age / 8) + age)\n", ""),),
        (STORAGE + "test_every_key_of_a_log_that_is_used_again_and_again_expires_in_the_end",),
    ),
    Mutant(
        "redis_epoch_only_resume",
        "a reader at the end of a store that went back is told",
        (Edit(REDIS + "read.lua", "if mark == head_mark then start", "if true then start"),),
        (LAWS + "test_a_position_is_honoured_only_with_its_mark",),
    ),
    Mutant(
        "redis_prev_not_compared",
        "a reader of another history is told",
        (Edit(REDIS + "read.lua", "    if prev_of(next_) == mark then", "    if true then"),),
        (LAWS + "test_a_position_is_honoured_only_with_its_mark",),
    ),
    Mutant(
        "redis_ahead_is_at_the_end",
        "a reader ahead of a store that went back is told",
        (
            Edit(
                REDIS + "read.lua",
                "elseif ARGV[6] == epoch then\n  reason = 'diverged'",
                "elseif ARGV[6] == epoch then\n  reason = ''",
            ),
        ),
        (LAWS + "test_a_position_ahead_of_the_head_is_another_history",),
    ),
    Mutant(
        "redis_epoch_ignored",
        "a cursor of another life is answered with a gap",
        (Edit(REDIS + "read.lua", "  reason = 'new_epoch'\n", "  reason = ''\n"),),
        (LAWS + "test_a_position_is_honoured_only_in_its_epoch",),
    ),
    Mutant(
        "redis_trimmed_is_diverged",
        "a gap has its true reason",
        (Edit(REDIS + "read.lua", "and 'diverged' or 'trimmed'", "and 'diverged' or 'diverged'"),),
        (LAWS + "test_a_position_before_trimmed_entries_is_told_so",),
    ),
    Mutant(
        "redis_large_entry_is_read",
        "an entry of 100 MB is passed over",
        (Edit(REDIS + "read.lua", "#packed <= most_of_one and ", ""),),
        (STORAGE + "test_an_entry_of_100_mb_is_counted_and_passed_over_and_what_follows_is_a_gap",),
    ),
    Mutant(
        "redis_foreign_entries_uncounted",
        "foreign entries are counted",
        (Edit(REDIS + "read.lua", "foreign = foreign + 1", "foreign = foreign"),),
        (STORAGE + "test_what_somebody_else_put_into_the_stream_is_counted_and_passed_over",),
    ),
    Mutant(
        "redis_more_unsaid",
        "a batch says whether more follows",
        (Edit(REDIS + "read.lua", "if last and last < head then answer[5] = 1 end\n", ""),),
        (LAWS + "test_a_batch_says_whether_more_follows",),
    ),
    Mutant(
        "redis_forgotten_with_its_head",
        "a log that is forgotten begins another life",
        (
            Edit(
                REDIS + "forget.lua",
                "redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])",
                "redis.call('DEL', KEYS[2], KEYS[3])",
            ),
        ),
        (STORAGE + "test_what_is_forgotten_goes_at_once_and_altogether",),
    ),
    Mutant(
        "redis_reading_opens",
        "reading makes no log",
        (
            Edit(
                REDIS + "__init__.py",
                "        if not answer:\n            return Batch(None,",
                "        if not answer:\n            await self.open(log)\n            return Batch(None,",
            ),
        ),
        (LAWS + "test_opening_makes_an_epoch_and_reading_does_not",),
    ),
    Mutant(
        "redis_owner_not_as_stored",
        "an entry names its owner as it is stored",
        (
            Edit(
                REDIS + "packing.py",
                "        log = _named(log, owner.split(DIVIDER, 1)[0])\n    entry: Entry = _new(Entry, (log, epoch, offset,",
                "        pass\n    entry: Entry = _new(Entry, (log, epoch, offset,",
            ),
        ),
        (STORAGE + "test_the_owner_of_an_entry_is_the_one_that_is_stored",),
    ),
    Mutant(
        "redis_owner_not_as_published",
        "a push names its owner as it is published",
        (
            Edit(
                REDIS + "packing.py",
                "labels of a later release follow.\n        log = _named(log, owner.split(DIVIDER, 1)[0])\n",
                "labels of a later release follow.\n        pass\n",
            ),
        ),
        (STORAGE + "test_an_entry_of_somebody_else_closes_the_connection_and_is_never_shown",),
    ),
    Mutant(
        "redis_owner_with_later_labels",
        "labels that a later release adds are passed over",
        (
            Edit(
                REDIS + "packing.py",
                "labels of a later release follow.\n        log = _named(log, owner.split(DIVIDER, 1)[0])\n",
                "labels of a later release follow.\n        log = _named(log, owner)\n",
            ),
        ),
        (STORAGE + "test_labels_that_a_later_release_adds_are_passed_over",),
    ),
    Mutant(
        "redis_format_not_in_keys",
        "two releases that store differently stand side by side",
        (Edit(REDIS + "names.py", 'self._prefix = f"{namespace}:{FORMAT}:"', 'self._prefix = f"{namespace}:"'),),
        (STORAGE + "test_two_formats_stand_side_by_side",),
    ),
    Mutant(
        "redis_namespaces_share",
        "a namespace separates applications",
        (Edit(REDIS + "names.py", 'self._prefix = f"{namespace}:{FORMAT}:"', 'self._prefix = f"all:{FORMAT}:"'),),
        (STATE + "test_namespaces_share_nothing",),
    ),
    Mutant(
        "redis_names_folded",
        "names that differ by case are two",
        (Edit(REDIS + "names.py", "urlsafe_b64encode(text.encode())", "urlsafe_b64encode(text.lower().encode())"),),
        (STORAGE + "test_a_user_id_is_never_a_pattern_a_key_or_a_hash_tag",),
    ),
    Mutant(
        "redis_names_unencoded",
        "no user's text becomes a key or a hash tag",
        (
            Edit(
                REDIS + "names.py",
                'return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()',
                "return text",
            ),
        ),
        (STORAGE + "test_a_user_id_is_never_a_pattern_a_key_or_a_hash_tag",),
    ),
    Mutant(
        "redis_kinds_share_keys",
        "a user's log and a topic's of the same name are two logs",
        (Edit(REDIS + "names.py", "{{{log.kind[0]}{_encoded(log.name)}}}", "{{{_encoded(log.name)}}}"),),
        (LAWS + "test_logs_whose_names_look_alike_have_nothing_in_common",),
    ),
    Mutant(
        "redis_labels_lost",
        "an empty label is not none",
        (Edit(REDIS + "packing.py", 'return "" if text is None else f"={text}"', 'return text or ""'),),
        (STORAGE + "test_labels_come_back_as_they_were",),
    ),
    # -- the way to Redis
    Mutant(
        "redis_no_fence",
        "a request that is late is never executed behind its retry",
        (
            Edit(
                REDIS + "greeting.py",
                '            await link.ask([pack("CLIENT", "KILL", "ID", before.connection)], timeout=timeout)  # an error: it is gone',
                "            pass",
            ),
        ),
        (FAULTS + "test_a_request_that_is_late_is_never_executed_behind_its_retry",),
    ),
    Mutant(
        "redis_fences_a_stranger",
        "a fence never reaches a connection of somebody else",
        (Edit(REDIS + "greeting.py", " and run is not None and run == before.run:", " and run is not None:"),),
        (FAULTS + "test_a_fence_never_reaches_a_connection_of_somebody_else",),
    ),
    Mutant(
        "redis_restart_unnoticed",
        "what a restarted server forgot is sent again",
        (
            Edit(
                REDIS + "greeting.py", "    elif before is not None and (lately", "    elif before is None and (lately"
            ),
        ),
        (LINK + "test_what_was_acknowledged_is_sent_again_until_it_was_taken",),
    ),
    Mutant(
        "redis_acknowledged_forgotten",
        "events that Redis acknowledged and forgot are appended again",
        (
            Edit(
                REDIS + "__init__.py",
                "        acknowledged.add(log, len(event.body), partial(self._append_again, place, event, position))\n        return position",
                "        return position",
            ),
        ),
        (FAULTS + "test_clients_of_a_server_without_persistence_are_told_a_gap_and_shown_what_was_saved",),
    ),
    Mutant(
        "redis_refused_replay_is_given_up",
        "what could not be sent again now is sent again later",
        (
            Edit(
                REDIS + "greeting.py",
                '        if word in CONCERN_THE_SERVER or word == "NOSCRIPT":\n            raise',
                "        if False:\n            raise",
            ),
        ),
        (LINK + "test_what_was_acknowledged_is_sent_again_until_it_was_taken",),
    ),
    Mutant(
        "redis_answers_mixed_up",
        "cancelled callers take nobody else's answer",
        (
            Edit(
                REDIS + "waiting.py",
                "            call = flight[0]\n",
                "            while len(flight) > 1 and flight[0][0].answer.done():\n"
                "                flight.popleft()\n"
                "            call = flight[0]\n",
            ),
        ),
        (FAULTS + "test_cancelled_callers_take_nobody_elses_answer_and_cost_no_connection",),
    ),
    Mutant(
        "redis_cancelled_is_sent",
        "what was cancelled before it was sent is not sent",
        (
            Edit(
                REDIS + "waiting.py",
                "            if answer.done():  # cancelled before it was sent\n                queue.popleft()\n                continue\n",
                "",
            ),
        ),
        (LINK + "test_what_was_cancelled_before_it_was_sent_is_not_sent",),
    ),
    Mutant(
        "redis_no_batches",
        "commands collect while a round trip is under way",
        (Edit(REDIS + "waiting.py", "and len(calls) < MOST and", "and len(calls) < 1 and"),),
        (LINK + "test_commands_collect_while_a_round_trip_is_under_way_and_go_in_order",),
    ),
    Mutant(
        "redis_large_batches",
        "a large command takes none along",
        (Edit(REDIS + "waiting.py", " and size < MOST_BYTES:", ":"),),
        (LINK + "test_a_large_command_does_not_wait_for_company_and_takes_none_along",),
    ),
    Mutant(
        "redis_refusal_fails_neighbours",
        "one that Redis refuses fails alone",
        (
            Edit(
                REDIS + "waiting.py",
                "            refusals.append(Refusal(answer, word))\n",
                "            refusals += [Refusal(each.answer, word) for call in self.flight for each in call]\n",
            ),
        ),
        (SHARES + "test_a_command_that_is_refused_is_refused_to_nobody_else",),
    ),
    Mutant(
        "redis_scripts_out_of_order",
        "order is kept when scripts were flushed",
        (
            Edit(
                REDIS + "waiting.py",
                "self.queue.extendleft(reversed(self._unknown))",
                "self.queue.extend(self._unknown)",
            ),
        ),
        (LINK + "test_scripts_flushed_amid_a_batch_turn_nothing_around",),
    ),
    Mutant(
        "redis_lost_link_ends_another",
        "a connection that was lost long ago ends no other",
        (Edit(REDIS + "exchange.py", "        if link is self._link:\n", "        if True:\n"),),
        (LINK + "test_a_connection_that_was_lost_long_ago_ends_no_other",),
    ),
    Mutant(
        "redis_long_answer_is_silence",
        "an answer that takes long is no silence",
        (Edit(REDIS + "exchange.py", "                if link.taken == self._taken:", "                if True:"),),
        (LINK + "test_an_answer_that_takes_long_to_arrive_is_no_silence",),
    ),
    Mutant(
        "redis_in_flight_forgotten",
        "whatever is sent as the connection ends has an outcome",
        (
            Edit(
                REDIS + "waiting.py",
                "        for call in self.flight:\n            left += call\n",
                "",
            ),
        ),
        (LINK + "test_whatever_is_sent_as_the_connection_ends_has_an_outcome",),
    ),
    Mutant(
        "redis_answers_beyond_questions",
        "answers that nobody asked for are given to nobody",
        (
            Edit(
                REDIS + "waiting.py",
                '        if len(replies) > len(flight):\n            raise ValueError("more answers than questions")\n',
                "        replies = replies[: len(flight)]\n",
            ),
        ),
        (LINK + "test_answers_that_nobody_asked_for_are_given_to_nobody",),
    ),
    Mutant(
        "redis_frozen_process_trusts",
        "a process that stood still asks anew who is there",
        (Edit(REDIS + "exchange.py", "        if now - self._heard_at > 2 * self._timeout:", "        if False:"),),
        (LINK + "test_a_process_that_stood_still_asks_anew_who_is_there",),
    ),
    Mutant(
        "redis_wrong_server_kept",
        "a server that is no longer the right one is left",
        (
            Edit(
                REDIS + "exchange.py",
                "            self._retired = self._retired or refusal.word in CONCERN_THE_SERVER\n",
                "",
            ),
        ),
        (
            LINK
            + "test_a_server_that_is_no_longer_the_right_one_is_left_for_whoever_is_there_now[-READONLY You can't write against a read only replica.\\r\\n]",
        ),
    ),
    Mutant(
        "redis_idle_not_tried",
        "a connection that nobody uses is tried before it is trusted",
        (Edit(REDIS + "exchange.py", "                link.write(_PING)\n", "                pass\n"),),
        (LINK + "test_a_silent_connection_that_nobody_uses_is_left",),
    ),
    Mutant(
        "redis_refusals_flood_the_log",
        "the same refusal is warned of once",
        (Edit(REDIS + "exchange.py", "        if now >= self._quiet_until.get(word, now):", "        if True:"),),
        (LINK + "test_the_same_refusal_is_warned_of_once",),
    ),
    Mutant(
        "redis_too_old_unnoticed",
        "a Redis that is too old is a clear error",
        (Edit(REDIS + "greeting.py", "(int(version[1]), int(version[2])) < OLDEST:", "False:"),),
        (LINK + "test_a_redis_that_is_too_old_is_named_as_such",),
    ),
    Mutant(
        "redis_rest_without_end",
        "the longest rest is four seconds",
        (Edit(REDIS + "addresses.py", "min(LONGEST_REST, FIRST_REST", "min(60.0, FIRST_REST"),),
        (LINK + "test_the_longest_rest_is_four_seconds_and_a_success_ends_them",),
    ),
    Mutant(
        "redis_success_forgets_no_failure",
        "a success ends the rests",
        (
            Edit(
                REDIS + "addresses.py",
                "    def succeeded(self) -> None:\n        self.failures = 0",
                "    def succeeded(self) -> None:\n        pass",
            ),
        ),
        (LINK + "test_the_longest_rest_is_four_seconds_and_a_success_ends_them",),
    ),
    Mutant(
        "redis_any_sentinel",
        "among sentinels the latest decision counts",
        (Edit(REDIS + "addresses.py", "max(known, key=lambda answer: answer[0])[1]", "known[0][1]"),),
        (SENTINEL + "test_among_sentinels_the_latest_decision_counts_whoever_answers_first",),
    ),
    Mutant(
        "redis_url_quoted",
        "the address is not quoted in an error",
        (
            Edit(
                REDIS + "addresses.py",
                '                "the address of Redis cannot be read: write',
                '                f"the address of Redis {url} cannot be read: write',
            ),
        ),
        (SENTINEL + "test_a_url_that_cannot_be_read_is_refused_without_being_quoted",),
    ),
    Mutant(
        "redis_sentinels_in_the_clear",
        "TLS is for the sentinels too",
        (Edit(REDIS + "addresses.py", '        if plain == "rediss":', "        if False:"),),
        (SENTINEL + "test_tls_is_for_the_sentinels_too",),
    ),
    Mutant(
        "redis_database_forgotten",
        "a URL of sentinels names the database",
        (Edit(REDIS + "addresses.py", "{at}-/{database}{question}", "{at}-/{question}"),),
        (SENTINEL + "test_a_url_of_sentinels_names_them_the_service_and_the_database",),
    ),
    Mutant(
        "redis_error_quotes_the_address",
        "what is wrong is said without secrets",
        (Edit(REDIS + "refusals.py", '    return "Redis cannot be reached"', "    return str(error)"),),
        (
            LINK
            + "test_what_is_wrong_is_said_clearly_once_and_without_secrets[redis://127.0.0.1:1/0-Redis cannot be reached]",
        ),
    ),
    Mutant(
        "redis_reason_repeated",
        "what is wrong is said once",
        (Edit(REDIS + "refusals.py", "logging.DEBUG if reason in self._said else logging.WARNING", "logging.WARNING"),),
        (
            LINK
            + "test_what_is_wrong_is_said_clearly_once_and_without_secrets[redis://127.0.0.1:1/0-Redis cannot be reached]",
        ),
    ),
    Mutant(
        "redis_62_refusal_unread",
        "a refusal within a script is known on Redis 6.2 too",
        (Edit(REDIS + "refusals.py", "return found[1]", 'return "ERR"'),),
        (LINK + "test_a_refusal_is_known_by_its_word",),
    ),
    Mutant(
        "redis_scripts_refused_in_silence",
        "a Redis that refuses scripts is a clear error",
        (Edit(REDIS + "greeting.py", '            raise refused("scripts", str(answer))', "            pass"),),
        (
            LINK
            + "test_what_is_wrong_is_said_clearly_once_and_without_secrets[redis://hunter:right@127.0.0.1:{port}/0-Redis refuses scripts: NOPERM]",
        ),
    ),
    Mutant(
        "redis_client_retries",
        "the client library retries nothing by itself",
        (Edit(REDIS + "addresses.py", '"retry": Retry(NoBackoff(), 0)', '"retry": Retry(NoBackoff(), 3)'),),
        (LINK + "test_who_gives_up_asking_leaves_no_attempts_behind",),
    ),
    # -- what is pushed
    Mutant(
        "redis_copies_kept_when_cut",
        "what a subscriber missed is read",
        (
            Edit(
                REDIS + "feed.py",
                "            for hub in self._hubs.values():\n                hub.drop()\n            await",
                "            await",
            ),
        ),
        (FEED + "test_the_copies_are_gone_when_the_connection_is_not_when_the_next_one_stands",),
    ),
    Mutant(
        "redis_not_woken_by_the_subscription",
        "nobody waits for a push that came before the subscription",
        (
            Edit(
                REDIS + "feed.py",
                "            hub.take(None)  # whoever read before this may have missed something",
                "            pass",
            ),
        ),
        (FEED + "test_nobody_waits_for_a_push_that_came_before_the_subscription",),
    ),
    Mutant(
        "redis_push_that_does_not_join_kept",
        "a push that does not join drops the copies before it",
        (
            Edit(
                REDIS + "feed.py",
                "                    self.drop()\n                    copies.append(entry)",
                "                    copies.append(entry)",
            ),
        ),
        (FEED + "test_a_push_that_does_not_join_drops_the_copies_before_it",),
    ),
    Mutant(
        "redis_copies_without_bounds",
        "copies are bounded in bytes",
        (Edit(REDIS + "feed.py", "            if self.size > COPIES_BYTES:\n                self._shrink()\n", ""),),
        (FEED + "test_copies_are_bounded_in_number_and_in_bytes",),
    ),
    Mutant(
        "redis_subscriber_dies",
        "a subscriber that crashes is replaced",
        (
            Edit(
                REDIS + "feed.py",
                "            except Exception:  # a subscriber that dies for good leaves everybody waiting\n                logger.exception(",
                "            except ZeroDivisionError:\n                logger.exception(",
            ),
        ),
        (FEED + "test_a_subscriber_that_crashes_is_replaced",),
    ),
    Mutant(
        "redis_push_is_believed",
        "what somebody else publishes is no event",
        (
            Edit(
                REDIS + "__init__.py",
                "        except (ValueError, OverflowError):\n            if data:",
                "        except OverflowError:\n            if data:",
            ),
        ),
        (FEED + "test_what_is_no_entry_is_no_entry",),
    ),
    Mutant(
        "redis_cancellation_swallowed",
        "a task that swallows a cancellation is cancelled again",
        (
            Edit(
                REDIS + "exchange.py",
                "    while not task.done():\n        task.cancel()",
                "    if not task.done():\n        task.cancel()",
            ),
        ),
        (FEED + "test_a_task_that_swallows_a_cancellation_is_cancelled_again",),
    ),
    Mutant(
        "redis_reads_what_nobody_follows",
        "what nobody follows is not even read",
        (Edit(REDIS + "feed.py", "                elif hub.watchers:\n", "                elif True:\n"),),
        (FEED + "test_who_comes_back_soon_finds_the_subscription_still_there",),
    ),
    # -- lives of a log
    Mutant(
        "redis_forgotten_in_silence",
        "who follows a log is woken when another process forgets it",
        (Edit(REDIS + "forget.lua", "redis.call('PUBLISH', ARGV[1], '')\n", ""),),
        (CORNERS + "test_who_follows_a_log_is_woken_when_another_process_forgets_it",),
    ),
    Mutant(
        "redis_forgotten_is_foreign",
        "the word that a log is forgotten is not counted as foreign",
        (Edit(REDIS + "__init__.py", "            if data:\n", "            if True:\n"),),
        (CORNERS + "test_who_follows_a_log_is_woken_when_another_process_forgets_it",),
    ),
    Mutant(
        "redis_order_outlives_the_head",
        "the last order of a life that is over is none of the next",
        (
            Edit(
                REDIS + "append.lua",
                "    call('HDEL', meta, 'c')\n    call('DEL', entries, ids) -- of a life that is over\n",
                "    call('DEL', entries, ids) -- of a life that is over\n",
            ),
        ),
        (CORNERS + "test_the_last_order_of_a_life_that_is_over_is_none_of_the_next[head lost, appended to]",),
    ),
    Mutant(
        "redis_order_outlives_the_stream",
        "the last order of a life that is over is none of the next",
        (
            Edit(
                REDIS + "append.lua",
                "    call('HDEL', meta, 'c')\n    call('DEL', entries, ids) -- what stands there",
                "    call('DEL', entries, ids) -- what stands there",
            ),
        ),
        (CORNERS + "test_the_last_order_of_a_life_that_is_over_is_none_of_the_next[numbered by somebody else]",),
    ),
    Mutant(
        "redis_order_outlives_opening",
        "the last order of a life that is over is none of the next",
        (Edit(REDIS + "open.lua", "  redis.call('HDEL', KEYS[1], 'c')\n", ""),),
        (CORNERS + "test_the_last_order_of_a_life_that_is_over_is_none_of_the_next[head lost, opened]",),
    ),
    Mutant(
        "redis_entries_outlive_opening",
        "what was opened is the life that goes on",
        (Edit(REDIS + "open.lua", "  redis.call('DEL', KEYS[2], KEYS[3])\n", ""),),
        (CORNERS + "test_the_last_order_of_a_life_that_is_over_is_none_of_the_next[head lost, opened]",),
    ),
    Mutant(
        "redis_read_without_bounds",
        "a read has no more bytes than a batch may have",
        (Edit(REDIS + "read.lua", "  if last and size > most then break end\n", ""),),
        (CORNERS + "test_a_read_has_no_more_bytes_than_a_batch_may_have_and_the_next_goes_on",),
    ),
    Mutant(
        "redis_large_entry_never_comes",
        "an entry that is larger than a batch comes alone",
        (Edit(REDIS + "read.lua", "  if last and size > most then break end", "  if size > most then break end"),),
        (CORNERS + "test_a_read_has_no_more_bytes_than_a_batch_may_have_and_the_next_goes_on",),
    ),
    # -- one connection
    Mutant(
        "redis_half_closed_is_kept",
        "a connection that Redis closes half is left before anybody uses it",
        (
            Edit(
                REDIS + "link.py",
                '    def eof_received(self) -> None:\n        """Nothing is sent any more either."""\n',
                "    def eof_received(self) -> bool:\n        return True\n",
            ),
        ),
        (CORNERS + "test_a_connection_that_redis_closes_half_is_left_before_anybody_uses_it",),
    ),
    Mutant(
        "redis_buffer_of_copies",
        "what comes in several records of TLS at once arrives whole",
        (Edit(REDIS + "link.py", "self._view = memoryview(self._buffer)", "self._view: Any = self._buffer"),),
        (CORNERS + "test_what_is_written_into_parts_of_the_buffer_is_read_as_one",),
    ),
    Mutant(
        "redis_never_waits_to_send",
        "whoever sends much can wait until it is on its way",
        (Edit(REDIS + "link.py", "        self._writable.clear()\n", "        pass\n"),),
        (CORNERS + "test_who_waits_to_send_more_goes_on[there is room]",),
    ),
    Mutant(
        "redis_waits_to_send_for_ever",
        "who waits to send more goes on when there is room",
        (
            Edit(
                REDIS + "link.py",
                "    def resume_writing(self) -> None:\n        self._writable.set()\n",
                "    def resume_writing(self) -> None:\n        pass\n",
            ),
        ),
        (CORNERS + "test_who_waits_to_send_more_goes_on[there is room]",),
    ),
    Mutant(
        "redis_close_waits_for_nothing",
        "closing takes until the transport is gone",
        (Edit(REDIS + "link.py", "        await asyncio.wait([self._gone], timeout=1.0)\n", "        pass\n"),),
        (CORNERS + "test_closing_takes_until_the_transport_is_gone_and_no_longer",),
    ),
    Mutant(
        "redis_close_waits_in_vain",
        "closing takes no longer than until the transport is gone",
        (
            Edit(
                REDIS + "link.py",
                "        if not self._gone.done():\n            self._gone.set_result(None)\n        self._end()\n",
                "        self._end()\n",
            ),
        ),
        (CORNERS + "test_closing_takes_until_the_transport_is_gone_and_no_longer",),
    ),
    Mutant(
        "redis_close_of_what_is_gone_waits",
        "who took over a transport that was lost has nothing to wait for",
        (
            Edit(
                REDIS + "link.py",
                "            self._gone.set_result(None)  # whoever was told is the protocol before this\n",
                "",
            ),
        ),
        (CORNERS + "test_whose_transport_was_lost_before_it_was_taken_over_is_closed_and_has_nothing_to_wait_for",),
    ),
    Mutant(
        "redis_lost_is_told_twice",
        "the owner of a connection is told once that it is lost",
        (
            Edit(
                REDIS + "link.py",
                "        if not self.closed:\n            self.close()",
                "        if True:\n            self.close()",
            ),
        ),
        (CORNERS + "test_the_owner_is_told_once_and_after_the_end_nothing_is_said_or_sent",),
    ),
    Mutant(
        "redis_lost_is_written",
        "nothing is sent over a connection that is lost",
        (
            Edit(
                REDIS + "link.py",
                "        if not self.closed:\n            self._transport.write(packed)",
                "        if True:\n            self._transport.write(packed)",
            ),
        ),
        (CORNERS + "test_the_owner_is_told_once_and_after_the_end_nothing_is_said_or_sent",),
    ),
    Mutant(
        "redis_late_replies_are_heard",
        "what arrives after close reaches nobody",
        (Edit(REDIS + "link.py", "        self.received, self.lost = _ignored, _nobody\n", ""),),
        (CORNERS + "test_what_arrives_after_close_reaches_nobody",),
    ),
    Mutant(
        "redis_sender_waits_for_what_is_lost",
        "who waits to send more is let go when the connection is lost",
        (
            Edit(
                REDIS + "link.py",
                "        self._writable.set()\n        if not self._gone.done():",
                "        if not self._gone.done():",
            ),
        ),
        (CORNERS + "test_who_waits_to_send_more_goes_on[the connection is lost]",),
    ),
    # -- who is there
    Mutant(
        "redis_replica_is_the_master",
        "a replica that a sentinel names is not taken for the master",
        (Edit(REDIS + "addresses.py", '    if role[0] != b"master":\n', "    if False:\n"),),
        (CORNERS + "test_a_replica_that_a_sentinel_names_is_not_taken_for_the_master",),
    ),
    Mutant(
        "redis_master_must_be_asked",
        "a master that may not be asked what it is is one",
        (
            Edit(
                REDIS + "addresses.py",
                "        return  # it does not let us ask; a write will show\n",
                "        raise\n",
            ),
        ),
        (CORNERS + "test_a_master_that_may_not_be_asked_what_it_is_is_one",),
    ),
    Mutant(
        "redis_strangers_are_there",
        "what is read as a process is none unless it is called as those of this namespace",
        (
            Edit(
                REDIS + "seats.py",
                '        if not process.startswith(self._names.plain("process:")):\n            return False\n',
                "",
            ),
        ),
        (CORNERS + "test_what_is_read_as_a_process_is_none_unless_it_is_called_as_those_of_this_namespace",),
    ),
    # -- calls that are shared
    Mutant(
        "redis_calls_not_shared",
        "appends of one turn share calls",
        (Edit(REDIS + "waiting.py", " or len(sharing) == TOGETHER:", " or True:"),),
        (SHARES + "test_appends_of_one_turn_share_calls_and_keep_their_order",),
    ),
    Mutant(
        "redis_calls_grow",
        "a call is shared by no more than so many bytes",
        (Edit(REDIS + "waiting.py", "elif call is not of or size >= full or", "elif call is not of or"),),
        (SHARES + "test_a_large_share_has_no_more_than_little_company",),
    ),
    Mutant(
        "redis_share_overtakes_command",
        "a command between two shares stays between them",
        (Edit(REDIS + "waiting.py", "                if sharing:\n                    break\n", ""),),
        (SHARES + "test_a_command_between_two_shares_stays_between_them",),
    ),
    Mutant(
        "redis_short_answer_trusted",
        "an answer with less in it than was asked is trusted no further",
        (Edit(REDIS + "waiting.py", "zip(call, reply, strict=True)", "zip(call, reply, strict=False)"),),
        (SHARES + "test_an_answer_of_another_shape_is_trusted_no_further",),
    ),
    Mutant(
        "redis_error_fails_the_call",
        "one whose log is broken fails alone",
        (Edit(REDIS + "append.lua", "done, answer = pcall(append, meta", "answer = append(meta"),),
        (SHARES + "test_one_whose_log_is_broken_fails_alone",),
    ),
    Mutant(
        "redis_forget_overtaken",
        "an append after forgetting is not called before it",
        (
            Edit(
                REDIS + "__init__.py",
                "scripts=(self._append_script, self._forget_script),",
                "scripts=(self._append_script,),",
            ),
        ),
        (SHARES + "test_an_append_after_forgetting_is_not_called_before_it",),
    ),
    Mutant(
        "redis_refusal_within_a_call_unseen",
        "what was acknowledged is sent again to whoever takes writes, and to nobody else",
        (Edit(REDIS + "greeting.py", "(answer if type(answer) is list else [answer])", "[answer]"),),
        (SHARES + "test_a_refusal_within_a_call_that_is_sent_again_is_found",),
    ),
    Mutant(
        "redis_foreign_head_trusted",
        "a head that is none of ours is another life",
        (
            Edit(
                REDIS + "append.lua",
                " and match(known, OURS) == 17 and unpack('>d', known, 17) % 1 == 0 then",
                " then",
            ),
        ),
        (STORAGE + "test_a_head_that_is_none_of_ours_is_another_life",),
    ),
    # -- what processes share
    Mutant(
        "redis_denial_sent_once",
        "what was denied a moment before Redis forgot it is denied again",
        (Edit(REDIS + "state.py", "self._surely = surely or exchange.run", "self._surely = exchange.run"),),
        (STORAGE + "test_what_was_denied_a_moment_before_redis_forgot_it_is_denied_again",),
    ),
    Mutant(
        "redis_connections_never_old",
        "a connection is known for its age",
        (
            Edit(
                REDIS + "state.py",
                "return seen is not None and int(seconds) * 1_000_000 + int(micros) - float(seen) <= self._age * 1e6",
                "return seen is not None",
            ),
        ),
        (STATE + "test_another_connection_of_the_user_does_not_keep_an_old_one_known",),
    ),
    Mutant(
        "redis_connections_without_bounds",
        "a user has no more known connections than may be",
        (
            Edit(
                REDIS + "state_connection.lua",
                "redis.call('ZREMRANGEBYRANK', KEYS[1], 0, string.format('%d', -ARGV[3] - 1))\n",
                "",
            ),
        ),
        (STATE + "test_the_longest_unused_goes_first_when_there_are_too_many",),
    ),
    Mutant(
        "redis_clock_set_back",
        "a clock that is set back does not turn the order around",
        (
            Edit(
                REDIS + "state_connection.lua",
                "local at = youngest and math.max(now, tonumber(youngest) + 1) or now",
                "local at = now",
            ),
        ),
        (STATE + "test_a_clock_that_is_set_back_does_not_turn_the_order_around",),
    ),
    Mutant(
        "redis_tickets_outlive_user",
        "the tickets of a user who is deleted are gone",
        (
            Edit(
                REDIS + "state.py",
                "        await self._drop_tickets(user_id, keys)\n\n    async def deny",
                "\n    async def deny",
            ),
        ),
        (STATE + "test_a_user_is_forgotten_and_nobody_else",),
    ),
    Mutant(
        "redis_tickets_unbounded",
        "a user never has more tickets than allowed",
        (Edit(REDIS + "state.py", "        await self._drop_tickets(user_id, above)\n", ""),),
        (STATE + "test_of_too_many_tickets_of_a_user_the_oldest_goes_and_no_other_users",),
    ),
    Mutant(
        "redis_denials_merged",
        "the token ids of one user say nothing of another's",
        (
            Edit(
                REDIS + "state.py",
                "        return self._names.of_user(user_id, which)",
                "        return self._names.plain(which)",
            ),
        ),
        (STATE + "test_denials_of_hostile_users_and_tokens_are_not_taken_for_one_another",),
    ),
    Mutant(
        "redis_denials_as_text",
        "how far a denial reaches is compared as numbers",
        (Edit(REDIS + "state_deny.lua", "if tonumber(known_till) > tonumber(till) then", "if known_till > till then"),),
        (STATE + "test_how_far_a_denial_reaches_is_compared_as_numbers",),
    ),
    Mutant(
        "redis_foreign_denial_is_none",
        "a denial that cannot be read lets nobody in",
        (
            Edit(
                REDIS + "state.py",
                "        return _Denial(float(issued_until), float(until))\n"
                "    except ValueError:\n"
                "        raise _foreign() from None",
                "        return _Denial(float(issued_until), float(until))\n"
                "    except ValueError:\n"
                "        return None",
            ),
        ),
        (STATE + "test_what_is_not_ours_denies_nobody_silently_and_lets_nobody_in",),
    ),
    Mutant(
        "redis_deaf_for_ever",
        "a deaf subscriber is replaced",
        (Edit(REDIS + "feed.py", "> DEAF_SECONDS:", "> 60 * DEAF_SECONDS:"),),
        (FEED + "test_a_deaf_subscriber_is_replaced_within_eight_seconds_without_help",),
    ),
    Mutant(
        "redis_copies_do_not_join",
        "copies are given only where they join what was read",
        (Edit(REDIS + "feed.py", " or copies[-behind].prev != position.mark", ""),),
        (FEED + "test_copies_are_given_only_to_who_stands_where_they_join",),
    ),
    Mutant(
        "redis_ticket_spent_twice [24]",
        "a ticket lets in once, whatever process takes it",
        (Edit(REDIS + "state.py", '"GETDEL"', '"GET"'),),
        (STATE + "test_a_ticket_is_taken_once",),
    ),
    Mutant(
        "redis_denial_shortened",
        "a denial is never shortened",
        (Edit(REDIS + "state_deny.lua", "ms = math.max(ms, redis.call('PTTL', KEYS[1]))", ""),),
        (STATE + "test_a_denial_is_prolonged_and_never_shortened",),
    ),
    Mutant(
        "redis_expiry_never_prolonged",
        "a log in constant use does not expire",
        (Edit(REDIS + "append.lua", "local refresh = now >= fresh", "local refresh = fresh == 0"),),
        (STORAGE + "test_a_log_in_constant_use_does_not_expire",),
    ),
    Mutant(
        "redis_foreign_entry_ends_the_read",
        "what is none of ours is passed over, however much of it there is",
        (Edit(REDIS + "read.lua", "if #found > 0 or #held < limit then break end", "if true then break end"),),
        (STORAGE + "test_foreign_entries_before_the_oldest_of_ours_are_passed_over",),
    ),
    Mutant(
        "redis_that_takes_no_writes_is_there",
        "a log that takes nothing is away",
        (
            Edit(
                REDIS + "__init__.py",
                'self._writer.submit("SET", alive, "", "PX", 10_000)',
                'self._writer.submit("PING")',
            ),
        ),
        (STORAGE + "test_a_redis_that_takes_no_writes_is_away",),
    ),
    Mutant(
        "revoked_while_it_came",
        "who connects in the moment of a revocation is held to it",
        (Edit("websocket_core/unified_manager.py", "            self.revocations.admitted(connection)\n", ""),),
        (
            "tests/mission_critical/test_revocation.py::"
            "test_who_is_revoked_in_that_moment_and_reads_slowly_is_out_in_time_all_the_same",
        ),
    ),
)
