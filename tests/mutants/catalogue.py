"""The mutants: what each breaks, the edit that breaks it, and the tests that must notice.

The numbers in brackets are those of the isolation mutants in our research on faults; features that do not exist yet
bring theirs with them.
"""

from __future__ import annotations

from typing import NamedTuple


class Edit(NamedTuple):
    """Replace `old`, which stands exactly once in the file, by `new`."""

    file: str
    old: str
    new: str


class Mutant(NamedTuple):
    name: str
    promise: str
    edits: tuple[Edit, ...]
    killers: tuple[str, ...]
    """Each of these tests must fail."""


CURSOR = "websocket_core/cursor.py"
OUTBOUND = "websocket_core/outbound.py"
CONNECTION = "websocket_core/connection.py"
FOLLOWER = "websocket_core/follower.py"
IDENTITY = "websocket_core/identity.py"
REGISTRY = "websocket_core/registry.py"
MANAGER = "websocket_core/unified_manager.py"
EMITTER = "websocket_core/unified_emitter.py"
MEMORY = "websocket_core/logs/memory.py"
MERGING = "websocket_core/merging.py"
APPENDER = "websocket_core/appender.py"
OUTBOX = "websocket_core/outbox.py"
EVENTS = "websocket_core/events.py"
INBOUND = "websocket_core/inbound.py"
ENDPOINT = "websocket_core/transports/websocket.py"
ENTRANCE = "websocket_core/transports/entrance.py"
REVOCATION = "websocket_core/revocation.py"
TICKETS = "websocket_core/tickets.py"
STATE = "websocket_core/state.py"
AUTH = "websocket_core/auth.py"
RUN = "bridge/agent_run.py"

ISOLATION = "tests/mission_critical/test_isolation.py::"
AUDIENCE = "tests/mission_critical/test_no_fallback_audience.py::"
DELIVERY = "tests/mission_critical/test_delivery.py::"
RUNS = "tests/mission_critical/test_runs_are_closed.py::"
OBSERVER = "tests/mission_critical/test_observer_failure_never_kills_a_run.py::"
HANGING = "tests/mission_critical/test_hanging_sockets_delay_nobody.py::"
LIMITS = "tests/mission_critical/test_limits.py::"
BAD_EVENTS = "tests/mission_critical/test_bad_events.py::"
DATA = "tests/mission_critical/test_data_is_never_changed.py::"
AUTHENTICATION = "tests/integration/test_authentication.py::"
IMPORTS = "tests/mission_critical/test_imports_have_no_effect.py::"
TEXT = "tests/mission_critical/test_text_grows.py::"
CRITICAL = "tests/mission_critical/test_critical_events.py::"

REVOKED = "tests/mission_critical/test_revocation.py::"
TICKET = "tests/mission_critical/test_tickets.py::"
CANCELLED = "tests/mission_critical/test_every_await_cancelled.py::"
ADMISSION = "tests/unit/test_admission.py::"
MEMORY_LOG = "tests/unit/test_memory_log.py::"

_READ_CHECK = Edit(CURSOR, "            if log != own:\n", "            if False:\n")
_WRITE_CHECK = Edit(OUTBOUND, "        if entry.log != self._own_log:\n", "        if False:\n")

MUTANTS: tuple[Mutant, ...] = (
    # -- isolation
    Mutant(
        "read_check_missing",
        "an entry is compared with the grant when it is read",
        (_READ_CHECK,),
        (ISOLATION + "test_a_cursor_takes_no_entry_of_another_log_and_stays_where_it_is",),
    ),
    Mutant(
        "write_check_missing",
        "an entry is compared with the principal before it is written",
        (_WRITE_CHECK,),
        (ISOLATION + "test_the_last_look_before_the_socket_knows_its_own_log_only",),
    ),
    Mutant(
        "both_checks_missing",
        "a foreign entry in the store is not sent (a pair: each check hides the absence of the other)",
        (_READ_CHECK, _WRITE_CHECK),
        (ISOLATION + "test_a_foreign_entry_in_the_store_closes_the_connection_and_is_not_sent",),
    ),
    Mutant(
        "prefix_match [5]",
        "logs are compared exactly",
        (Edit(CURSOR, "if log != own:", "if not log.name.startswith(own.name):"),),
        (ISOLATION + "test_a_cursor_takes_no_entry_of_another_log_and_stays_where_it_is",),
    ),
    Mutant(
        "keys_concatenated [7]",
        "a user's log and a topic's of the same name are two logs",
        (
            Edit(
                MEMORY,
                "        held = self._logs.get(log)\n        if held is None:\n            held = self._get(log)\n",
                "        log = LogName('user', log.name.removeprefix('user:'))\n"
                "        held = self._logs.get(log)\n        if held is None:\n            held = self._get(log)\n",
            ),
        ),
        ("tests/unit/test_log_conformance.py",),
    ),
    Mutant(
        "ids_case_folded [8]",
        "user ids are compared exactly",
        (Edit(IDENTITY, "return UserId(str.__str__(value))", "return UserId(str.__str__(value).casefold())"),),
        (ISOLATION + "test_a_hundred_users_at_once_each_see_exactly_their_own_events",),
    ),
    Mutant(
        "ids_normalised [8]",
        "user ids are not normalised",
        (
            Edit(
                IDENTITY,
                "return UserId(str.__str__(value))",
                "return UserId(unicodedata.normalize('NFKC', str.__str__(value)))",
            ),
        ),
        (ISOLATION + "test_a_hundred_users_at_once_each_see_exactly_their_own_events",),
    ),
    Mutant(
        "ids_coerced [9]",
        "the number 1 is not the user '1'",
        (
            Edit(
                IDENTITY,
                "    fault = text_fault(value, characters=USER_ID_CHARACTERS, utf8_bytes=USER_ID_BYTES)\n",
                "    value = str(value) if isinstance(value, int) else value\n"
                "    fault = text_fault(value, characters=USER_ID_CHARACTERS, utf8_bytes=USER_ID_BYTES)\n",
            ),
        ),
        (ISOLATION + "test_what_is_no_user_id_is_refused_alike_everywhere",),
    ),
    Mutant(
        "principal_in_a_global [1]",
        "who connects is known from the connection, not from something shared",
        (
            Edit(
                ENDPOINT,
                "            return await self._manager.connect_user(",
                "            self.principal = principal\n"
                "            import asyncio as _asyncio\n"
                "            await _asyncio.sleep(0.01)\n"
                "            principal = self.principal\n"
                "            return await self._manager.connect_user(",
            ),
        ),
        ("tests/integration/test_identity_over_sockets.py::test_users_who_connect_at_once_are_not_mixed_up",),
    ),
    Mutant(
        "auth_cache_by_prefix [3]",
        "a token is verified as a whole",
        (
            Edit(
                AUTH,
                "            claims = self._decode(token, await self._verification_key(token))\n",
                "            cache = self.__dict__.setdefault('_cache', {})\n"
                "            if token[:36] not in cache:\n"
                "                cache[token[:36]] = self._decode(token, await self._verification_key(token))\n"
                "            claims = cache[token[:36]]\n",
            ),
        ),
        ("tests/integration/test_identity_over_sockets.py::test_users_who_connect_at_once_are_not_mixed_up",),
    ),
    Mutant(
        "client_names_the_user [20]",
        "the user comes from the principal, never from what a client sends",
        (
            Edit(
                ENDPOINT,
                "            return await self._manager.connect_user(\n                socket,\n"
                "                principal.user_id,\n",
                "            if 'user_id' in request.query:\n"
                "                principal = Principal(request.query['user_id'])\n"
                "            return await self._manager.connect_user(\n                socket,\n"
                "                principal.user_id,\n",
            ),
        ),
        ("tests/integration/test_identity_over_sockets.py::test_no_word_of_a_client_names_another_user",),
    ),
    Mutant(
        "resume_skips_authentication [21]",
        "a resume authenticates again",
        (
            Edit(
                ENDPOINT,
                "                if request.token is not None or ticket is not None:\n                    raise\n",
                "                if cursor is not None and 'user_id' in request.query:\n"
                "                    return await self._manager.connect_user(\n"
                "                        socket, request.query['user_id'], cursor=cursor)\n"
                "                if request.token is not None or ticket is not None:\n                    raise\n",
            ),
        ),
        ("tests/integration/test_identity_over_sockets.py::test_a_resume_authenticates_again",),
    ),
    Mutant(
        "refresh_changes_the_user [25]",
        "a token refreshed on an open socket is for the same user (a pair: both places check)",
        (
            Edit(INBOUND, "    if principal.user_id != peer.user_id:\n", "    if False:\n"),
            Edit(CONNECTION, "        if principal.user_id != self.user_id:\n", "        if False:\n"),
        ),
        (ISOLATION + "test_a_token_refreshed_on_an_open_socket_must_be_for_the_same_user",),
    ),
    Mutant(
        "expiry_checked_at_connect_only [27]",
        "nothing is written after a token has expired",
        (
            Edit(
                OUTBOUND,
                "        if self.not_after is not None and self._clock() > self.not_after:\n",
                "        if False:\n",
            ),
        ),
        ("tests/unit/test_outbound.py",),
    ),
    Mutant(
        "last_tab_wins [28]",
        "every tab of a user is served",
        (Edit(REGISTRY, "if replaced is None and len(of_user) >= per_user:", "if replaced is None and of_user:"),),
        (ISOLATION + "test_a_hundred_users_at_once_each_see_exactly_their_own_events",),
    ),
    Mutant(
        "context_of_another_user",
        "an emitter is not made with another user's context",
        (
            Edit(
                EMITTER,
                "if context is not None and context.user_id != self._user_id:",
                "if False and context is not None:",
            ),
        ),
        (ISOLATION + "test_an_emitter_is_bound_to_one_user_for_life",),
    ),
    Mutant(
        "cancel_without_user",
        "somebody else's run does not exist",
        (
            Edit(
                "websocket_core/runs.py",
                "        stops = list(self._runs.get(user_id, {}).get(run_id, ()))\n",
                "        stops = [stop for runs in self._runs.values() for stop in runs.get(run_id, ())]\n",
            ),
        ),
        (ISOLATION + "test_somebody_elses_run_answers_a_cancel_as_if_it_did_not_exist",),
    ),
    # -- audience
    Mutant(
        "fallback_broadcast",
        "an unknown connection is an error, never everybody",
        (
            Edit(
                EMITTER,
                "            except LogUnavailable as error:\n                raise AppendFailed(event.id, 0)",
                "            except LookupError:\n"
                "                event = event._replace(connection_id=None)\n"
                "            except LogUnavailable as error:\n                raise AppendFailed(event.id, 0)",
            ),
        ),
        (AUDIENCE + "test_an_unknown_connection_is_an_error_and_reaches_nobody",),
    ),
    Mutant(
        "addressed_to_all_tabs",
        "an addressed event is read by that connection only",
        (
            Edit(
                CURSOR,
                "if event.connection_id is not None and event.connection_id != self._connection_id:",
                "if False:",
            ),
        ),
        (AUDIENCE + "test_an_addressed_event_is_read_by_that_connection_only",),
    ),
    # -- limits
    Mutant(
        "alphabetical_eviction",
        "the oldest connection by arrival makes room",
        (Edit(REGISTRY, "replaced = next(iter(of_user.values()))", "replaced = of_user[min(of_user)]"),),
        (LIMITS + "test_the_oldest_by_arrival_goes_and_not_the_first_by_name",),
    ),
    Mutant(
        "one_connection_too_many",
        "a limit is a limit",
        (Edit(REGISTRY, "len(of_user) >= per_user", "len(of_user) > per_user"),),
        (LIMITS + "test_fifty_connects_at_once_never_exceed_the_limit",),
    ),
    # -- data
    Mutant(
        "mutated_payload",
        "the caller's data is never changed",
        (
            Edit(
                EMITTER,
                "        event = self._encode(event_type, data, run_id, thread_id, event_id, connection_id)\n",
                "        data.setdefault('sent', True)  # type: ignore[attr-defined]\n"
                "        event = self._encode(event_type, data, run_id, thread_id, event_id, connection_id)\n",
            ),
        ),
        (DATA + "test_the_data_is_the_same_object_with_the_same_content_afterwards",),
    ),
    Mutant(
        "not_a_number_becomes_null",
        "what is not JSON is refused",
        (Edit(EVENTS, "        return math.isfinite(value)  # type: ignore[arg-type]\n", "        return True\n"),),
        (BAD_EVENTS + "test_what_is_not_json_is_refused_by_type_and_path_and_leaves_no_trace",),
    ),
    Mutant(
        "payload_merged_into_the_envelope",
        "a key in the data replaces no field of the envelope",
        (
            Edit(
                EVENTS,
                "            encode_json(data, depth=self._event_depth),\n",
                "            encode_json(data, depth=self._event_depth) + b',' + encode_json(data)[1:-1]\n"
                "            if data else b'{}',\n",
            ),
        ),
        (ISOLATION + "test_a_key_in_the_data_replaces_no_field_of_the_envelope",),
    ),
    # -- delivery
    Mutant(
        "retry_never_runs",
        "an append that failed is tried again",
        (
            Edit(
                APPENDER,
                "            position = await self._again(log, event, error, started)\n",
                "            raise AppendFailed(event.id, 1) from error\n",
            ),
        ),
        (DELIVERY + "test_an_append_that_failed_is_tried_again_until_it_succeeds",),
    ),
    Mutant(
        "retry_wraps_every_append",
        "the happy path enters no retry machinery",
        (
            Edit(
                APPENDER,
                "            position = await self._writer.append(log, event)\n        except LogUnavailable as error:\n"
                "            position = await self._again(log, event, error, started)\n",
                "            position = await self._again(log, event, LogUnavailable(), started)\n"
                "        except LogUnavailable as error:\n"
                "            position = await self._again(log, event, error, started)\n",
            ),
        ),
        (DELIVERY + "test_the_retry_machinery_is_not_entered_on_the_happy_path",),
    ),
    Mutant(
        "no_idempotency",
        "an event id stands in a log once",
        (Edit(MEMORY, "        if known is not None:\n", "        if False:\n"),),
        (DELIVERY + "test_a_retried_append_is_not_delivered_twice", DELIVERY + "test_an_event_id_is_in_a_log_once"),
    ),
    Mutant(
        "epoch_ignored",
        "a cursor of an earlier life is answered with a gap",
        (Edit(MEMORY, "        if epoch != self.epoch:\n", "        if False:\n"),),
        (DELIVERY + "test_a_log_that_lost_its_memory_is_told_as_a_new_epoch",),
    ),
    Mutant(
        "mark_ignored",
        "a position is honoured only with its mark",
        (Edit(MEMORY, "return None if held == mark else GapReason.DIVERGED", "return None"),),
        (DELIVERY + "test_a_cursor_that_the_log_never_gave_out_is_told_as_diverged",),
    ),
    Mutant(
        "chain_ignored",
        "a break in the chain is a gap",
        (Edit(CURSOR, "if entry_offset != offset + 1 or prev != mark or entry_epoch != epoch:", "if False:"),),
        ("tests/unit/test_cursor.py",),
    ),
    Mutant(
        "trimmed_in_silence",
        "what was trimmed is told",
        (Edit(MEMORY, "            return GapReason.TRIMMED\n", "            return None\n"),),
        (DELIVERY + "test_events_that_were_trimmed_are_told_as_a_gap",),
    ),
    Mutant(
        "gap_untold",
        "a gap that the log tells is told",
        (Edit(CURSOR, "out.append(Gap(batch.gap, start))", "pass"),),
        ("tests/unit/test_cursor.py::test_a_gap_that_the_log_tells_comes_before_the_entries",),
    ),
    Mutant(
        "latest_is_the_oldest",
        "who asks for what is new begins at the end",
        (Edit(FOLLOWER, "head if latest else position", "position"),),
        ("tests/unit/test_follower.py::test_latest_begins_at_the_end_as_it_was_noted_and_resumes_nothing",),
    ),
    Mutant(
        "lost_wake_up",
        "an append during a read is not missed",
        (
            Edit(FOLLOWER, "        self.dirty = False\n        position", "        position"),
            Edit(
                FOLLOWER, "        if batch.more:\n            self.dirty = True\n", "        self.dirty = batch.more\n"
            ),
        ),
        (DELIVERY + "test_an_append_just_after_a_read_is_not_missed",),
    ),
    Mutant(
        "no_position_check",
        "a lost wake-up costs at most one heartbeat",
        (
            Edit(
                CONNECTION,
                "        self._ping_due = self._follower.dirty = True\n",
                "        self._ping_due = True\n",
            ),
        ),
        (DELIVERY + "test_a_lost_wake_up_costs_at_most_one_heartbeat",),
    ),
    Mutant(
        "history_read_twice",
        "nothing is delivered twice to one cursor",
        (
            Edit(
                FOLLOWER,
                "        stands = batch.start if batch.gap is None or before is None else before\n",
                "        self._cursor.position = stands = batch.start\n        self.dirty = True\n",
            ),
        ),
        (DELIVERY + "test_a_client_that_resumes_after_a_cut_loses_nothing_and_gets_nothing_twice",),
    ),
    Mutant(
        "shutdown_discards",
        "shutdown delivers what was emitted before it",
        (
            Edit(
                MANAGER,
                "        for connection in self._registry:\n            connection.close(CloseCode.RESTARTING, flush=True)\n",
                "        for connection in self._registry:\n            connection.close(CloseCode.RESTARTING)\n",
            ),
        ),
        (
            "tests/mission_critical/test_shutdown_flushes.py::test_a_client_that_was_behind_gets_the_rest_before_it_is_sent_away",
        ),
    ),
    Mutant(
        "producer_never_yields",
        "a tight producer starves nobody",
        (Edit(APPENDER, "TURN: Final = 64", "TURN: Final = 64_000_000"),),
        (DELIVERY + "test_another_user_is_served_in_the_middle_of_somebodys_burst",),
    ),
    Mutant(
        "several_events_for_a_plain_client",
        "a plain client gets one object per frame",
        (Edit(OUTBOUND, "self._shares_frames = protocol == PROTOCOL", "self._shares_frames = True"),),
        (DELIVERY + "test_a_plain_client_gets_exactly_one_object_per_frame",),
    ),
    # -- text
    Mutant(
        "deltas_never_merged",
        "a late tab reads an answer in few pieces",
        (Edit(FOLLOWER, "return merge_deltas(steps)", "return steps"),),
        (TEXT + "test_a_minute_of_tokens_makes_few_events_and_a_late_tab_reads_few_pieces",),
    ),
    Mutant(
        "deltas_merged_across_a_hole",
        "only deltas that join are merged",
        (Edit(MERGING, '        or two["start"] != one["start"] + len(one["text"])\n', ""),),
        (TEXT + "test_what_does_not_join_is_left_alone",),
    ),
    Mutant(
        "deltas_of_two_runs_merged",
        "deltas of different runs stay apart",
        (Edit(MERGING, '        or first.get("run_id") != second.get("run_id")\n', ""),),
        (TEXT + "test_deltas_of_two_runs_and_for_one_connection_are_not_mixed",),
    ),
    Mutant(
        "addressed_deltas_merged",
        "a delta for one connection is not merged with one for all",
        (Edit(MERGING, " if last.event[2:] == step.event[2:] else None", ""),),
        (TEXT + "test_deltas_of_two_runs_and_for_one_connection_are_not_mixed",),
    ),
    Mutant(
        "text_after_the_tool",
        "what waits of a message is sent before what comes after it",
        (
            Edit(
                RUN,
                "        channel = run._channel\n        run._flush()\n",
                "        channel = run._channel\n",
            ),
        ),
        ("tests/unit/test_deltas.py::test_text_comes_before_whatever_the_agent_does_after_it",),
    ),
    Mutant(
        "linger_without_end",
        "no event waits longer than a window for company",
        (
            Edit(
                "websocket_core/pacing.py", "return pacing.window - passed\n", "return 50 * (pacing.window - passed)\n"
            ),
        ),
        ("tests/unit/test_pacing.py::test_no_event_waits_longer_than_a_window",),
    ),
    # -- slow and dead peers
    Mutant(
        "sending_under_a_lock",
        "a hung socket delays nobody",
        (
            Edit(
                OUTBOUND,
                "            await self._send_text(text)\n",
                "            lock = self._metrics.__class__.__dict__.get('lock') or asyncio.Lock()\n"
                "            self._metrics.__class__.lock = lock  # type: ignore[attr-defined]\n"
                "            async with lock:\n"
                "                await self._send_text(text)\n",
            ),
        ),
        (HANGING + "test_a_hung_socket_delays_no_emit_no_other_tab_and_no_other_user",),
    ),
    Mutant(
        "write_time_out_ignored",
        "a connection whose write does not finish is deregistered",
        (Edit(OUTBOUND, "return now - since > seconds", "return False"),),
        (HANGING + "test_a_hung_connection_is_deregistered_after_the_write_time_out_and_counted",),
    ),
    # -- runs
    Mutant(
        "no_terminal_event_on_cancel",
        "every run ends with exactly one terminal event",
        (
            Edit(
                RUN,
                '        """Close what is open, tools and children first, then the run itself. Never waits."""\n',
                '        """Close what is open, tools and children first, then the run itself. Never waits."""\n'
                "        if isinstance(error, asyncio.CancelledError):\n            return\n",
            ),
        ),
        (RUNS + "test_a_run_whose_task_is_cancelled",),
    ),
    Mutant(
        "unpaired_tool_on_cancel",
        "every tool that was called is completed",
        (
            Edit(
                RUN,
                '        """Emit `tool_completed`, once. Never waits."""\n',
                '        """Emit `tool_completed`, once. Never waits."""\n'
                "        if isinstance(error, asyncio.CancelledError):\n            return\n",
            ),
        ),
        (RUNS + "test_a_cancellation_at_every_await_leaves_nothing_open",),
    ),
    Mutant(
        "cancelled_while_entering",
        "a run that is cancelled before its block began has an end too",
        (
            Edit(
                RUN,
                "            await self._channel.outbox.settled()\n        except BaseException as error:\n            self._end(error)\n",
                "            await self._channel.outbox.settled()\n        except BaseException as error:\n",
            ),
        ),
        (RUNS + "test_a_cancellation_at_every_await_leaves_nothing_open",),
    ),
    Mutant(
        "reserved_slots_ignored",
        "pairs and ends find room in a full outbox",
        (
            Edit(
                OUTBOX,
                "            len(self._queue) + self._reserved >= self._limits.outbox\n            or",
                "            len(self._queue) >= self._limits.outbox\n            or",
            ),
            Edit(OUTBOX, "        if not reserved and (\n", "        if (\n"),
        ),
        (OBSERVER + "test_pairs_and_ends_hold_however_little_room_there_is",),
    ),
    Mutant(
        "outbox_out_of_order",
        "events wait in order",
        (
            Edit(
                OUTBOX,
                "        self._queue.append(item)\n",
                "        self._queue.insert(min(1, len(self._queue)), item)\n",
            ),
        ),
        (OBSERVER + "test_a_log_in_trouble_kills_no_run_and_loses_no_event",),
    ),
    Mutant(
        "drops_are_silent",
        "what did not fit is told",
        (Edit(OUTBOX, "            self._enqueue(_Dropped())\n", "            pass\n"),),
        (OBSERVER + "test_what_does_not_fit_is_counted_and_told_in_its_place",),
    ),
    Mutant(
        "log_trouble_kills_the_run",
        "an observer's failure never kills an agent's run",
        (
            Edit(
                OUTBOX,
                "        if self._done >= self._put or self.failing:\n",
                "        if self.failing:\n            raise RuntimeError\n        if self._done >= self._put:\n",
            ),
        ),
        (OBSERVER + "test_a_log_in_trouble_kills_no_run_and_loses_no_event",),
    ),
    # -- the door
    Mutant(
        "origin_ignored",
        "a foreign page is refused",
        (Edit(ENTRANCE, "                return named in self._origins\n", "                return True\n"),),
        (AUTHENTICATION + "test_only_pages_of_the_listed_origins_may_connect",),
    ),
    Mutant(
        "expired_token_accepted",
        "a token that has expired does not connect",
        (Edit(AUTH, 'required = ["exp", "sub"]', 'required = ["sub"]'),),
        ("tests/unit/test_auth.py::test_a_token_without_subject_or_expiry_is_refused",),
    ),
    Mutant(
        "ticket_spent_twice [24]",
        "a ticket lets in once",
        (Edit(STATE, "        self._drop_ticket(key)\n        return kept", "        return kept"),),
        (TICKET + "test_of_fifty_sockets_that_race_for_a_ticket_one_gets_in",),
    ),
    Mutant(
        "ticket_of_any_origin [24]",
        "a ticket is bound to the origin that asked for it",
        (Edit(TICKETS, 'if fields is None or fields["origin"] != origin:', "if fields is None:"),),
        (TICKET + "test_a_ticket_is_spent_from_the_origin_that_it_was_issued_to_or_is_gone",),
    ),
    Mutant(
        "ticket_kept_in_the_clear",
        "who reads the store can spend no ticket",
        (Edit(TICKETS, 'hashlib.sha256(ticket.encode(errors="surrogatepass")).hexdigest()', "ticket"),),
        (TICKET + "test_a_ticket_is_random_and_what_is_kept_of_it_opens_nothing",),
    ),
    Mutant(
        "gate_always_open",
        "when newcomers take a turn of the loop, half of the time goes to those who get in",
        (Edit("websocket_core/admission.py", "int(spent / SLICE) % 2 == 1", "False"),),
        (ADMISSION + "test_a_turn_that_takes_long_lets_in_and_sends_away_for_as_long_as_each_other",),
    ),
    # -- revocation
    Mutant(
        "order_not_obeyed [26]",
        "nothing behind a revocation is delivered, in any process that follows the log (a pair: this process has a "
        "deadline as well)",
        (
            Edit(
                CURSOR,
                "                    out.append(ended)\n                    break\n",
                "                    pass\n",
            ),
        ),
        (REVOKED + "test_what_follows_the_order_in_the_same_batch_is_not_sent",),
    ),
    Mutant(
        "no_deadline_for_an_order [26]",
        "a connection that is far behind its log is revoked within two seconds all the same",
        (Edit(REVOCATION, "            connection.order(CloseCode(order.code))\n", ""),),
        (REVOKED + "test_a_reader_that_is_blocked_in_a_write_is_given_up",),
    ),
    Mutant(
        "revocation_forgotten",
        "who was revoked does not come back with the old credential",
        (
            Edit(
                REVOCATION,
                "        await self._state.deny(user_id, token_id, issued_until=now, until=now + seconds)\n",
                "",
            ),
        ),
        (REVOKED + "test_the_old_token_is_refused_with_whatever_cursor",),
    ),
    Mutant(
        "gap_steps_over_the_order",
        "a connection that comes to a gap asks for the last order before it sends anything",
        (
            Edit(
                FOLLOWER,
                "        if order is not None and (ended := self._cursor.ordered(order)) is not None:\n"
                "            return [ended]\n",
                "",
            ),
        ),
        (REVOKED + "test_after_a_gap_the_log_is_asked_for_its_last_order_also_when_it_aged_out",),
    ),
    Mutant(
        "deny_list_asked_before_the_token_is_renewed",
        "a revocation in the middle of a refresh is not escaped by it",
        (
            Edit(
                INBOUND,
                "    expires_in = peer.renew(principal)\n    try:\n        permitted = await peer.permitted()",
                "    try:\n        permitted = await peer.permitted()\n        expires_in = peer.renew(principal)",
            ),
        ),
        (REVOKED + "test_a_revocation_in_the_middle_of_a_refresh_is_not_escaped_by_it",),
    ),
    Mutant(
        "greeting_moves_the_client_over_the_gap",
        "a plain client that is cut between its greeting and the gap is told the gap when it comes back",
        (
            Edit(
                FOLLOWER,
                "        stands = batch.start if batch.gap is None or before is None else before\n",
                "        stands = batch.start\n",
            ),
        ),
        (CANCELLED + "test_a_writer_that_is_cancelled_writes_nothing_more_and_loses_nothing",),
    ),
    Mutant(
        "claims_are_not_compared",
        "a client that has missed something learns it from the answer to a ping",
        (
            Edit(
                CONNECTION,
                "        if self._heartbeat.doubts(claimed, self._follower.position):\n",
                "        if False:\n",
            ),
        ),
        ("tests/unit/test_heartbeat.py::test_a_client_that_missed_something_is_sent_it_again_without_a_gap",),
    ),
    # -- cancellation
    Mutant(
        "pump_cancelled_before_its_first_turn",
        "a cancellation takes nothing out of an outbox",
        (
            Edit(
                OUTBOX,
                "            self._pump.add_done_callback(lambda pump: self._ended() if pump is self._pump else None)\n",
                "",
            ),
        ),
        (CANCELLED + "test_a_cancellation_takes_nothing_out_of_an_outbox",),
    ),
    Mutant(
        "close_inside_half_a_frame",
        "a writer that is cancelled writes nothing more",
        (Edit(CONNECTION, "            say_goodbye = False\n            raise\n", "            raise\n"),),
        (CANCELLED + "test_a_writer_that_is_cancelled_writes_nothing_more_and_loses_nothing",),
    ),
    Mutant(
        "cancelled_connect_stays_registered",
        "a connect that is cancelled leaves nothing behind",
        (
            Edit(
                MANAGER,
                "        except BaseException:\n            self._forget(connection)",
                "        except Exception:\n            self._forget(connection)",
            ),
        ),
        (CANCELLED + "test_a_connect_that_is_cancelled_leaves_nothing_of_it",),
    ),
    # -- bounds
    Mutant(
        "logs_cost_nothing",
        "many tiny logs together stay within the bound of all",
        (Edit(MEMORY, "            self._cost += LOG_OVERHEAD\n", "            self._cost += 0\n"),),
        (MEMORY_LOG + "test_the_largest_log_is_trimmed_first_whoever_appends",),
    ),
    Mutant(
        "sweep_without_turns",
        "a long sweep gives the loop its turns",
        (Edit(MEMORY, "            await asyncio.sleep(0)\n", "            pass\n"),),
        (MEMORY_LOG + "test_a_long_sweep_gives_the_loop_its_turns",),
    ),
    Mutant(
        "signature_not_verified",
        "no module switches the verification of signatures off",
        (
            Edit(
                AUTH,
                '"enforce_minimum_key_length": True,',
                '"enforce_minimum_key_length": True, "verify_signature": False,',
            ),
        ),
        ("tests/unit/test_supply_chain.py::test_no_module_of_the_packages_breaks_the_rule",),
    ),
    Mutant(
        "control_entry_is_shown",
        "an order is shown to no client",
        (
            Edit(
                CURSOR,
                "                continue\n            if self._thread_id",
                "                pass\n            if self._thread_id",
            ),
        ),
        ("tests/unit/test_cursor.py::test_a_control_entry_of_an_unknown_kind_is_stepped_over",),
    ),
    Mutant(
        "order_is_not_the_last_thing",
        "nothing comes after an order",
        (
            Edit(
                CURSOR,
                "                    out.append(ended)\n                    break\n",
                "                    out.append(ended)\n                    continue\n",
            ),
        ),
        ("tests/unit/test_cursor.py::test_an_order_ends_everything_that_comes_later",),
    ),
    Mutant(
        "order_obeyed_though_settled",
        "an order from before a connection was let in does not end it",
        (
            Edit(
                CURSOR,
                "entry.offset <= settled.offset:\n            return None",
                "entry.offset < settled.offset:\n            return None",
            ),
        ),
        ("tests/unit/test_cursor.py::test_orders_up_to_the_settled_head_are_stepped_over_and_the_next_is_obeyed",),
    ),
    Mutant(
        "order_settled_in_another_life",
        "what was settled in one life of a log says nothing of the next",
        (
            Edit(
                CURSOR,
                "settled is not None and entry.epoch == settled.epoch and entry.offset <=",
                "settled is not None and entry.offset <=",
            ),
        ),
        ("tests/unit/test_cursor.py::test_a_settled_head_of_another_life_settles_nothing_of_this_one",),
    ),
    Mutant(
        "rollback_settles_later_orders",
        "an order counts though a store that went back in time uses its offset anew",
        (Edit(CURSOR, "                self.settled = last.position", "                pass"),),
        (
            "tests/unit/test_follower.py::test_orders_after_a_store_went_back_in_time_count_though_their_offsets_were_settled_before",
        ),
    ),
    Mutant(
        "control_log_not_compared",
        "an order of another log ends nobody and is an alarm",
        (Edit(CURSOR, "        if entry.log != self._grant.log:", "        if False:"),),
        (
            "tests/unit/test_cursor.py::test_an_order_of_another_log_is_a_violation_and_ends_nobody_for_a_reason_of_others",
        ),
    ),
    Mutant(
        "gap_without_a_look_at_the_deny_list",
        "after a gap the deny-list is asked before anything is sent",
        (Edit(FOLLOWER, "if not await self._asked(self._permits()):", "if False:"),),
        ("tests/unit/test_follower.py::test_who_is_on_the_deny_list_is_ended_in_a_gap_though_no_order_says_so",),
    ),
    Mutant(
        "gap_lost_when_the_log_is_in_trouble",
        "a gap that cannot be settled now is told later",
        (Edit(FOLLOWER, "                self._cursor.position = before  # nothing of this was sent\n", ""),),
        ("tests/unit/test_follower.py::test_trouble_with_the_log_is_nothing_to_send_and_is_tried_again_soon",),
    ),
    Mutant(
        "first_read_passes_over_orders",
        "a reader without a cursor passes over no order that was trimmed",
        (Edit(FOLLOWER, "if self._cursor.passes_over(batch.start):", "if False:"),),
        ("tests/unit/test_follower.py::test_a_reader_without_a_cursor_for_whom_an_order_was_trimmed_is_ended_too",),
    ),
    Mutant(
        "rate_of_frames_ignored",
        "a client sends so many frames a second and no more",
        (Edit(INBOUND, "not self._allows(_size(frame))", "False"),),
        ("tests/unit/test_inbound.py::test_more_frames_than_the_rate_allows_end_in_4429",),
    ),
    Mutant(
        "rate_in_characters",
        "bytes are counted as bytes",
        (Edit(INBOUND, "self._allows(_size(frame))", "self._allows(len(frame))"),),
        ("tests/unit/test_inbound.py::test_the_rate_of_bytes_is_one_of_bytes_and_not_of_characters",),
    ),
    Mutant(
        "refresh_with_a_revoked_token",
        "a revoked token does not renew a connection",
        (Edit(INBOUND, "if not permitted:", "if False:"),),
        ("tests/unit/test_inbound.py::test_a_newer_token_that_is_denied_closes_the_socket_and_is_not_acknowledged",),
    ),
    Mutant(
        "order_before_what_it_follows",
        "what was emitted before an order is delivered before it",
        (
            Edit(
                OUTBOUND,
                '                if lines:\n                    await self._write("\\n".join(lines), events, oldest)\n                raise Ordered',
                "                raise Ordered",
            ),
        ),
        (
            "tests/unit/test_outbound.py::test_an_order_comes_after_what_was_before_it_was_written_and_before_anything_else",
        ),
    ),
    Mutant(
        "deny_list_after_the_order",
        "the deny-list is written first",
        (
            Edit(
                REVOCATION,
                "        await self._state.deny(user_id, token_id, issued_until=now, until=now + seconds)\n",
                "        await self._order(user_id, Order(int(CloseCode.REVOKED), token_id=token_id, issued_until=now))\n"
                "        await self._state.deny(user_id, token_id, issued_until=now, until=now + seconds)\n"
                "        return\n",
            ),
        ),
        ("tests/unit/test_revocation.py::test_the_deny_list_is_written_before_the_log_and_before_anybody_is_told",),
    ),
    Mutant(
        "leaving_connections_are_not_ordered",
        "a connection that is being sent away is revoked all the same",
        (
            Edit(
                REVOCATION,
                "(*self._registry.of(user_id).values(), *self._registry.leaving())",
                "self._registry.of(user_id).values()",
            ),
        ),
        ("tests/unit/test_revocation.py::test_those_on_their_way_out_are_told_as_well",),
    ),
    Mutant(
        "token_without_a_date_counts_as_new",
        "a credential that does not say when it was issued counts as old",
        (
            Edit(
                STATE,
                "(issued_at is None or issued_at <= everything.issued_until)",
                "(issued_at is not None and issued_at <= everything.issued_until)",
            ),
        ),
        ("tests/unit/test_state.py::test_a_credential_that_does_not_say_when_it_was_issued_counts_as_old",),
    ),
    Mutant(
        "denial_shortened",
        "a denial is never shortened",
        (
            Edit(
                STATE,
                "_Denial(max(issued_until, known.issued_until), max(until, known.until))",
                "_Denial(issued_until, until)",
            ),
        ),
        ("tests/unit/test_state.py::test_a_denial_is_prolonged_and_never_shortened",),
    ),
    Mutant(
        "storm_comes_again_at_once",
        "those who are sent away come again one after the other",
        (
            Edit(
                "websocket_core/admission.py",
                "self._slot = min(max(self._slot, now + SOONEST) + 1.0 / pace, now + LATEST)",
                "self._slot = now + SOONEST",
            ),
        ),
        ("tests/unit/test_admission.py::test_each_is_given_a_time_of_its_own_one_after_the_other",),
    ),
    Mutant(
        "address_never_forgotten",
        "nothing is kept of an address that has gone",
        (
            Edit(
                "websocket_core/admission.py",
                "            if not self._addresses[address]:\n                del self._addresses[address]\n",
                "",
            ),
        ),
        ("tests/unit/test_admission.py::test_whoever_comes_and_goes_nothing_is_left_behind_and_no_bound_is_passed",),
    ),
    Mutant(
        "snapshot_without_end",
        "a gap is told though its snapshot does not come",
        (Edit("websocket_core/hooks.py", "asyncio.timeout(self._limits.snapshot_timeout)", "asyncio.timeout(None)"),),
        ("tests/unit/test_hooks.py::test_a_gap_is_told_also_without_the_snapshot_that_should_come_with_it",),
    ),
    Mutant(
        "almost_true_is_a_yes",
        "anything but True is a no",
        (
            Edit(
                "websocket_core/authorization.py",
                "await self._narrow(principal, verb) is not True",
                "not await self._narrow(principal, verb)",
            ),
        ),
        ("tests/unit/test_authorization.py::test_whatever_is_not_true_is_a_no",),
    ),
    Mutant(
        "owner_not_compared",
        "nobody may do anything with what is somebody else's",
        (
            Edit(
                "websocket_core/authorization.py",
                "if verb not in _OWNERS or principal.user_id != owner:",
                "if verb not in _OWNERS:",
            ),
        ),
        ("tests/unit/test_authorization.py::test_nobody_may_do_anything_with_what_is_somebody_elses",),
    ),
    Mutant(
        "shutdown_leaves_clients_no_time",
        "a log that is away leaves clients the time to be told",
        (Edit(MANAGER, "self.limits.shutdown_timeout / 4", "0.0"),),
        ("tests/unit/test_unified_manager.py::test_a_log_that_takes_nothing_leaves_time_to_tell_the_clients",),
    ),
    Mutant(
        "busy_process_sends_each_event_by_itself",
        "a busy process shares frames",
        (
            Edit(
                "websocket_core/pacing.py",
                "self._busy = delivered - self._delivered > self._busy_events * passed",
                "self._busy = False",
            ),
        ),
        (
            "tests/unit/test_pacing.py::test_in_a_busy_process_events_share_frames_and_none_waits_longer_than_a_busy_window",
        ),
    ),
    Mutant(
        "passes_over_honours_guess",
        "nobody steps over an order with a cursor that was guessed",
        (
            Edit(
                FOLLOWER,
                "        if self._cursor.passes_over(batch.start):",
                "        if before is None and self._cursor.passes_over(batch.start):",
            ),
        ),
        ("tests/mission_critical/test_revocation.py::test_nobody_steps_over_the_order_with_a_cursor_that_was_guessed",),
    ),
    Mutant(
        "gap_fails_open",
        "without the deny-list a gap waits",
        (
            Edit(
                FOLLOWER,
                "            try:\n                steps = await self._settled(steps)\n            except LogUnavailable:\n                self._cursor.position = before  # nothing of this was sent\n                raise\n",
                "            try:\n                steps = await self._settled(steps)\n            except LogUnavailable:\n                pass\n",
            ),
        ),
        ("tests/mission_critical/test_revocation.py::test_without_the_deny_list_a_gap_waits_and_then_loses_nothing",),
    ),
    Mutant(
        "claim_jumps_ahead",
        "a client's claim leads it past no order",
        (
            Edit(
                FOLLOWER,
                "        if batch.gap is None and claimed.offset > position.offset:\n            return []",
                "        if False:\n            return []",
            ),
        ),
        (
            "tests/mission_critical/test_revocation.py::test_a_client_that_claims_to_stand_behind_the_order_is_ended_by_it_all_the_same",
        ),
    ),
    Mutant(
        "no_order [26]",
        "a revocation reaches every process by the log",
        (
            Edit(
                REVOCATION,
                "        await self._order(user_id, "
                "Order(int(CloseCode.REVOKED), token_id=token_id, issued_until=issued_until))\n",
                "",
            ),
        ),
        ("tests/mission_critical/test_revocation.py::test_a_revoked_user_is_out_everywhere_within_two_seconds",),
    ),
    Mutant(
        "only_here [26]",
        "a revocation is not only local",
        (
            Edit(
                REVOCATION,
                "        await self._appender.append(LogName.of_user(user_id), control_event(order, self._encoder.new_id()))",
                "        pass",
            ),
        ),
        (
            "tests/mission_critical/test_revocation.py::test_a_revoked_user_is_out_everywhere_within_two_seconds[another process]",
        ),
    ),
    Mutant(
        "revocation_overrides_nothing",
        "who is being sent away is told to forget when revoked",
        (
            Edit(
                CONNECTION,
                "        if code is not CloseCode.REVOKED and self._close_code is not None and (flush or not self._flush):\n            return\n        if self._close_code is None or code is CloseCode.REVOKED:",
                "        if self._close_code is not None and (flush or not self._flush):\n            return\n        if self._close_code is None:",
            ),
        ),
        ("tests/mission_critical/test_revocation.py::test_who_is_being_sent_away_is_revoked_all_the_same",),
    ),
    Mutant(
        "no_force",
        "a read that does not return keeps no revoked socket open",
        (Edit(CONNECTION, "        self._loop.call_later(CUT_SECONDS, self.cut)\n", ""),),
        ("tests/mission_critical/test_revocation.py::test_a_reader_whose_read_does_not_return_is_out_in_time",),
    ),
    Mutant(
        "cut_at_once",
        "a slow reader that comes along is told 4410",
        (
            Edit(
                CONNECTION,
                "        self.close(code)\n        self._loop.call_later(CUT_SECONDS, self.cut)\n",
                "        self.close(code)\n        self.cut()\n",
            ),
        ),
        ("tests/mission_critical/test_revocation.py::test_a_reader_that_is_far_behind_and_slow_is_out_in_time",),
    ),
    Mutant(
        "disconnect_at_once",
        "what was emitted before a disconnect is delivered first",
        (
            Edit(
                CONNECTION, "        self._loop.call_later(ORDER_SECONDS, self._obey, code)", "        self._obey(code)"
            ),
        ),
        (
            "tests/mission_critical/test_revocation.py::test_a_disconnected_user_is_sent_what_was_emitted_before_and_then_1000",
        ),
    ),
    Mutant(
        "refresh_fails_open",
        "without the deny-list a refresh keeps nobody in",
        (
            Edit(
                INBOUND,
                '        peer.close(CloseCode.OVERLOADED)\n        raise FrameRefused("unavailable", "the token cannot be judged now") from None\n',
                '        raise FrameRefused("unavailable", "the token cannot be judged now") from None\n',
            ),
        ),
        ("tests/mission_critical/test_revocation.py::test_without_the_deny_list_a_refresh_keeps_nobody_in",),
    ),
    Mutant(
        "control_trimmed",
        "the last order outlives the retention",
        (Edit(MEMORY, "        if connection_id == CONTROL:\n            held.control = held.entry(offset)\n", ""),),
        (
            "tests/mission_critical/test_revocation.py::test_an_order_that_was_trimmed_ends_whoever_comes_to_the_gap[the order only-v1]",
        ),
    ),
    Mutant(
        "denial_deleted_with_user",
        "who is deleted and comes again is still revoked",
        (
            Edit(
                STATE,
                "        self._connections.pop(user_id, None)\n",
                "        self._connections.pop(user_id, None)\n        self._denials.pop((user_id, None), None)\n",
            ),
        ),
        ("tests/mission_critical/test_revocation.py::test_who_is_deleted_and_comes_again_is_still_revoked",),
    ),
    Mutant(
        "denial_of_everybodys_token",
        "the token ids of one user say nothing of another's",
        (
            Edit(
                STATE,
                "None if token_id is None else self._denials.get((user_id, token_id))",
                "None if token_id is None else next((d for k, d in self._denials.items() if k[1] == token_id), None)",
            ),
        ),
        (
            "tests/mission_critical/test_revocation.py::test_a_revoked_token_ends_the_connections_that_it_opened_and_no_others",
        ),
    ),
    Mutant(
        "ticket_no_expiry",
        "a ticket lives thirty seconds",
        (Edit(STATE, "kept is not None and self._monotonic() <= kept[2]", "kept is not None"),),
        ("tests/mission_critical/test_tickets.py::test_a_ticket_lives_thirty_seconds",),
    ),
    Mutant(
        "tickets_unbounded",
        "the unspent tickets of a user are bounded",
        (
            Edit(
                STATE,
                "        if len(of_user) > TICKETS_PER_USER:\n            self._drop_ticket(next(iter(of_user)))\n",
                "",
            ),
        ),
        ("tests/mission_critical/test_tickets.py::test_unspent_tickets_are_bounded_for_each_user_and_the_oldest_goes",),
    ),
    Mutant(
        "tickets_never_forgotten",
        "tickets that nobody spends are forgotten",
        (
            Edit(
                STATE,
                "        while self._tickets_end and self._tickets_end[0][0] < now:\n            self._drop_ticket(heapq.heappop(self._tickets_end)[1])\n",
                "",
            ),
        ),
        ("tests/mission_critical/test_tickets.py::test_tickets_that_nobody_spends_are_forgotten",),
    ),
    Mutant(
        "tickets_outlive_user",
        "the tickets of a user who is deleted are gone",
        (
            Edit(
                STATE,
                "        for key in list(self._tickets_of.get(user_id, ())):\n            self._drop_ticket(key)\n",
                "",
            ),
        ),
        ("tests/mission_critical/test_tickets.py::test_the_tickets_of_a_user_who_is_deleted_are_gone",),
    ),
    Mutant(
        "ticket_without_expiry",
        "a ticket carries the expiry of the token that bought it",
        (Edit(TICKETS, '            "expires_at": principal.expires_at,', '            "expires_at": None,'),),
        ("tests/mission_critical/test_tickets.py::test_a_ticket_carries_the_expiry_of_the_token_that_bought_it",),
    ),
    Mutant(
        "ticket_without_token_id",
        "a connection by ticket is revoked with the token behind it",
        (Edit(TICKETS, '            "token_id": principal.token_id,', '            "token_id": None,'),),
        (
            "tests/mission_critical/test_tickets.py::test_a_connection_by_ticket_is_ended_by_a_revocation_of_the_token_behind_it",
        ),
    ),
    Mutant(
        "ticket_falls_back",
        "a ticket that is not accepted is not replaced by something else",
        (
            Edit(
                ENDPOINT,
                "                if request.token is not None or ticket is not None:\n                    raise\n",
                "                if ticket is not None and request.token is not None:\n                    return await self._manager.connect_user(socket, (p := await self._entrance.principal(request)).user_id, principal=p)\n                if request.token is not None or ticket is not None:\n                    raise\n",
            ),
        ),
        ("tests/mission_critical/test_tickets.py::test_a_ticket_that_is_not_accepted_is_not_replaced_by_a_header",),
    ),
    Mutant(
        "ticket_for_revoked",
        "a revoked credential gets no ticket",
        (
            Edit(
                "websocket_core/transports/ticket.py",
                '            if refusal is CloseCode.REVOKED:\n                raise AuthenticationFailed("the credential was revoked")\n            if refusal is not None:',
                "            if False:",
            ),
        ),
        ("tests/mission_critical/test_tickets.py::test_a_revoked_credential_gets_no_ticket",),
    ),
    Mutant(
        "ticket_cached",
        "no answer with a ticket is kept by anybody",
        (
            Edit(
                "websocket_core/transports/ticket.py",
                'NO_STORE: Final = {"Cache-Control": "no-store", ',
                "NO_STORE: Final = {",
            ),
        ),
        ("tests/mission_critical/test_tickets.py::test_no_answer_may_be_kept_by_anybody",),
    ),
    Mutant(
        "authenticate_before_gate",
        "who is sent away costs the authenticator nothing",
        (
            Edit(
                "websocket_core/transports/ticket.py",
                "        admitted = self._manager.admission.enter(network_of(host_of(scope)))\n",
                "        try:\n            await self._entrance.principal(self._entrance.request(scope))\n        except Exception:\n            pass\n        admitted = self._manager.admission.enter(network_of(host_of(scope)))\n",
            ),
        ),
        ("tests/mission_critical/test_tickets.py::test_who_may_not_come_in_costs_the_authenticator_nothing",),
    ),
    Mutant(
        "cookies_always",
        "cookies count only where the origins are listed",
        (
            Edit(
                ENTRANCE,
                "            cookies={} if self._origins is None else _cookies",
                "            cookies=_cookies",
            ),
        ),
        ("tests/mission_critical/test_tickets.py::test_a_cookie_counts_only_where_the_origins_are_listed",),
    ),
    Mutant(
        "cors_any",
        "pages of the listed origins and no others read a ticket",
        (Edit("websocket_core/router.py", "            allow_origins=listed,", "            allow_origins=['*'],"),),
        ("tests/mission_critical/test_tickets.py::test_pages_of_the_listed_origins_and_no_others_may_read_a_ticket",),
    ),
    Mutant(
        "origin_prefix",
        "an origin is compared exactly",
        (
            Edit(
                ENTRANCE,
                "                return named in self._origins",
                "                return any(named[:2] == each[:2] for each in self._origins)",
            ),
        ),
        ("tests/mission_critical/test_hostile_bytes.py::test_a_hostile_origin_is_one_that_is_listed_or_refused",),
    ),
    Mutant(
        "cookies_of_the_library",
        "a hostile header costs no more than its length",
        (
            Edit(
                ENTRANCE,
                '    cookies = {}\n    for part in header.split(";"):',
                '    from http.cookies import CookieError, SimpleCookie\n    try:\n        return {n: m.value for n, m in SimpleCookie(header).items()}\n    except CookieError:\n        return {}\n    cookies = {}\n    for part in header.split(";"):',
            ),
        ),
        ("tests/mission_critical/test_hostile_bytes.py::test_the_worst_headers_are_read_soon",),
    ),
    Mutant(
        "deep_order",
        "a hostile control entry is an order or nothing",
        (Edit("websocket_core/control.py", ", AttributeError, RecursionError)", ", AttributeError)"),),
        ("tests/mission_critical/test_hostile_bytes.py::test_a_hostile_control_entry_is_an_order_or_nothing",),
    ),
    Mutant(
        "cursor_unicode_digits",
        "a cursor is written exactly so, or malformed",
        (
            Edit(
                "websocket_core/wire.py",
                '_OFFSET: Final = re.compile(r"(?:0|[1-9][0-9]{0,15})\\Z")',
                '_OFFSET: Final = re.compile(r"\\d{1,16}\\Z")',
            ),
        ),
        (
            "tests/mission_critical/test_hostile_bytes.py::test_a_hostile_cursor_is_a_position_written_exactly_so_or_malformed",
        ),
    ),
    Mutant(
        "cancel_anybodys",
        "somebody else's run does not exist",
        (
            Edit(
                "websocket_core/runs.py",
                "        stops = list(self._runs.get(user_id, {}).get(run_id, ()))",
                "        stops = [stop for runs in self._runs.values() for stop in runs.get(run_id, ())]",
            ),
        ),
        ("tests/mission_critical/test_hostile_user.py::test_whose_run_it_is_decides_who_may_stop_it",),
    ),
    Mutant(
        "cursor_is_an_address [20]",
        "a cursor is data, never an address",
        (
            Edit(
                MEMORY,
                "        held = self._logs.get(log)\n        if held is None:\n            return Batch(None, (), False, GapReason.NEW_EPOCH if after is not None else None)",
                "        held = next((each for each in self._logs.values() if after is not None and each.epoch == after.epoch), None) or self._logs.get(log)\n        if held is None:\n            return Batch(None, (), False, GapReason.NEW_EPOCH if after is not None else None)",
            ),
        ),
        ("tests/mission_critical/test_hostile_user.py::test_who_names_everything_receives_nothing",),
    ),
    Mutant(
        "cursor_logged",
        "no cursor reaches a log",
        (
            Edit(
                MANAGER,
                '            logger.info("connected", extra={"connection_id": connection_id})',
                '            logger.info("connected", extra={"connection_id": connection_id, "cursor": cursor})',
            ),
        ),
        (
            "tests/integration/test_sixty_inputs.py::test_a_bad_input_gets_its_answer_and_harms_nobody[48: secrets everywhere]",
        ),
    ),
    Mutant(
        "query_logged",
        "no query string reaches a log",
        (
            Edit(
                "websocket_core/server_logging.py",
                '    return escaped(str(value).partition("?")[0])',
                "    return escaped(str(value))",
            ),
        ),
        (
            "tests/integration/test_sixty_inputs.py::test_a_bad_input_gets_its_answer_and_harms_nobody[48: secrets everywhere]",
        ),
    ),
    Mutant(
        "refusal_logs_error",
        "a flood of refusals is no flood of errors in the log",
        (
            Edit(
                "websocket_core/server_frames.py",
                "            self.handshake_complete = True\n        return super().send",
                "            pass\n        return super().send",
            ),
        ),
        (
            "tests/integration/test_sixty_inputs.py::test_a_bad_input_gets_its_answer_and_harms_nobody[52: a flood of one address]",
        ),
    ),
    Mutant(
        "metric_by_user",
        "the number of series does not depend on users",
        (
            Edit(
                "websocket_core/metrics.py",
                "            yield CounterMetricFamily(name, documentation, value=getattr(self, attribute))",
                "            family = CounterMetricFamily(name, documentation, labels=['n'])\n            for each in range(1 + getattr(self, attribute)):\n                family.add_metric([str(each)], 1)\n            yield family",
            ),
        ),
        ("tests/mission_critical/test_metrics_name_nobody.py::test_ten_thousand_users_leave_the_series_as_they_were",),
    ),
    Mutant(
        "answers_under_way_are_doubted",
        "an answer that was under way when a gap was told is no reason for another gap",
        (
            Edit(
                "websocket_core/heartbeat.py", "        answers = self._answers(claimed)\n", "        answers = False\n"
            ),
        ),
        (
            "tests/simulation/test_found.py::"
            "test_an_answer_that_was_under_way_when_a_gap_was_told_is_no_reason_for_another_gap",
        ),
    ),
    Mutant(
        "claims_are_free",
        "a client does not have its log read to it as often as it likes",
        (Edit("websocket_core/heartbeat.py", "not self._doubted, True", "True, True"),),
        (
            "tests/unit/test_heartbeat.py::"
            "test_what_nobody_here_can_have_sent_is_doubtful_at_once_and_once_for_each_ping",
        ),
    ),
    Mutant(
        "drip_resets",
        "a head is late so long after it was first owed, whatever came since",
        (
            Edit(
                "websocket_core/server_bounds.py",
                "        if who in self._new or who in self._slow:\n            return\n",
                "        self.settle(who)\n",
            ),
        ),
        ("tests/unit/test_server_bounds.py::test_a_head_is_late_so_long_after_it_was_first_owed_whatever_came_since",),
    ),
    Mutant(
        "storm_refused",
        "nobody is refused whose request waits to be read",
        (Edit("websocket_core/server_bounds.py", "if full and not who.has_unread()", "if full"),),
        ("tests/unit/test_server_bounds.py::test_nobody_is_refused_whose_request_waits_to_be_read",),
    ),
    Mutant(
        "fragments_unbounded",
        "a million empty fragments cost nothing",
        (Edit("websocket_core/server_frames.py", "if self._fragments > self._most_fragments:", "if False:"),),
        ("tests/unit/test_server_frames.py::test_a_million_empty_fragments_end_the_parser_at_the_bound",),
    ),
    Mutant(
        "closing_flood",
        "after our close every frame counts",
        (Edit("websocket_core/server_frames.py", " and self.state is State.OPEN", ""),),
        ("tests/unit/test_server_frames.py::test_after_our_close_every_frame_counts_since_nobody_is_shown_it",),
    ),
    Mutant(
        "smuggling",
        "a request that two servers could understand differently is refused",
        (
            Edit(
                "websocket_core/server_requests.py",
                'if b"transfer-encoding" in names and b"content-length" in names:',
                "if False:",
            ),
        ),
        (
            "tests/unit/test_server_requests.py::test_a_request_that_two_servers_could_understand_differently_is_refused",
        ),
    ),
    Mutant(
        "left_take_places",
        "those who have left take no place",
        (
            Edit(
                "websocket_core/server_requests.py",
                "        self._leave()\n        if self._cutting is not None:",
                "        if self._cutting is not None:",
            ),
        ),
        ("tests/unit/test_server_requests.py::test_those_who_have_left_take_no_place",),
    ),
    Mutant(
        "environment_names_proxies",
        "nobody is believed to be a proxy, whatever the environment says",
        (Edit("websocket_core/server.py", '        settings["forwarded_allow_ips"] = []\n', "        pass\n"),),
        ("tests/unit/test_server.py::test_nobody_is_believed_to_be_a_proxy_whatever_the_environment_says",),
    ),
    Mutant(
        "order_means_newer_credentials",
        "who logs in anew while an order is on its way is not meant by it",
        (
            Edit(
                "websocket_core/control.py",
                "        if self.issued_until is not None and issued_at is not None and issued_at > self.issued_until:\n            return False\n",
                "",
            ),
        ),
        ("tests/unit/test_control.py::test_an_order_against_a_user_does_not_mean_credentials_that_are_newer",),
    ),
    Mutant(
        "importing_has_an_effect",
        "nothing happens at import",
        (
            Edit(
                "websocket_core/__init__.py",
                "def __dir__()",
                "import websocket_core.metrics as _metrics\n\n_metrics.process_metrics()\n\n\ndef __dir__()",
            ),
        ),
        (IMPORTS + "test_importing_every_module_has_no_effect",),
    ),
)
