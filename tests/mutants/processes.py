"""The mutants of many processes: leases and seats, a log that is away, workers and commands."""

# ruff: noqa: E501  # an edit repeats lines of the source as they stand there

from __future__ import annotations

from tests.mutants.catalogue import Edit, Mutant

APPROVALS = "bridge/approvals.py"
AVAILABILITY = "websocket_core/availability.py"
COMMANDS = "websocket_core/commands.py"
CONNECTION = "websocket_core/connection.py"
CONTROL = "websocket_core/control.py"
CURSOR = "websocket_core/cursor.py"
EMITTER = "websocket_core/unified_emitter.py"
ENTRANCE = "websocket_core/transports/entrance.py"
FOLLOWER = "websocket_core/follower.py"
KEEPER = "websocket_core/run_keeper.py"
MANAGER = "websocket_core/unified_manager.py"
OUTBOUND = "websocket_core/outbound.py"
OUTBOX = "websocket_core/outbox.py"
PROVISIONAL = "websocket_core/provisional.py"
REAPER = "websocket_core/reaper.py"
REDIS = "websocket_core/logs/redis/"
RUN = "bridge/agent_run.py"
RUNS = "websocket_core/runs.py"
SEATING = "websocket_core/seating.py"
SHIFT = "websocket_core/shift.py"
WORKER = "websocket_core/worker.py"

APPROVED = "tests/mission_critical/test_approvals.py::"
AVAILABLE = "tests/unit/test_availability.py::"
COMMAND = "tests/unit/test_commands.py::"
CONTROLLED = "tests/unit/test_control.py::"
DEGRADED = "tests/mission_critical/test_degraded.py::"
LAWS_OF_WORK = "tests/redis/test_redis_work.py::TestRedisWork::"
LEASED = "tests/mission_critical/test_run_leases.py::"
LEASES = "tests/redis/test_redis_leases.py::"
SEATS = "tests/redis/test_redis_seats.py::"
WORK = "tests/redis/test_redis_work.py::"
WORKERS = "tests/redis/test_redis_worker.py::"
WORKER_UNIT = "tests/unit/test_worker.py::"

MUTANTS: tuple[Mutant, ...] = (
    # -- leases, approvals and seats
    Mutant(
        "event_before_its_lease",
        "the lease is written before the run is told",
        (Edit(KEEPER, "        if not run.lost:\n            await self._keeper.make_sure(run)\n", ""),),
        (LEASED + "test_the_lease_is_written_before_the_run_is_told",),
    ),
    Mutant(
        "frozen_process_speaks_on",
        "a run that was lost tells nothing more",
        (
            Edit(
                KEEPER,
                "        if run.sure_until != NEVER and self._monotonic() >= run.sure_until:\n",
                "        if run.lost:\n",
            ),
        ),
        (LEASED + "test_a_frozen_process_stops_the_runs_that_it_lost_and_tells_nothing_more_of_them",),
    ),
    Mutant(
        "lost_run_goes_on",
        "a run that was lost is stopped",
        (
            Edit(
                KEEPER,
                "            if run.stop is not None:\n                run.stop()\n\n    async def _write",
                "            pass\n\n    async def _write",
            ),
        ),
        (LEASED + "test_a_frozen_process_learns_it_at_its_next_renewal",),
    ),
    Mutant(
        "lease_ends_with_the_run",
        "a lease lasts until the end of the run is in the log",
        (
            Edit(
                KEEPER,
                "        if run.lease.started is None:\n            self._end(run)",
                "        if told:\n            self._end(run)",
            ),
        ),
        (LEASED + "test_a_run_whose_end_is_not_in_the_log_yet_keeps_its_lease",),
    ),
    Mutant(
        "lease_never_ends",
        "a run that has ended leaves no lease",
        (
            Edit(
                KEEPER,
                "        elif run.started_id is not None and event_id == terminal_id(run.started_id):\n"
                "            self._end(run)\n",
                "",
            ),
        ),
        (LEASED + "test_a_run_that_has_ended_leaves_no_lease",),
    ),
    Mutant(
        "leases_not_renewed",
        "a run that goes on is left alone",
        (Edit(KEEPER, "                        await self.renew()\n", ""),),
        (LEASED + "test_the_runs_of_a_dead_process_are_ended_by_another_within_the_lease",),
    ),
    Mutant(
        "forgotten_lease_stays_forgotten",
        "a store that forgot everything is told again",
        (Edit(KEEPER, "(run.lease.id in seen.missing or not run.written)", "not run.written"),),
        (LEASED + "test_a_store_that_forgot_everything_is_told_again",),
    ),
    Mutant(
        "every_run_its_own_time",
        "the leases of a process expire together",
        (Edit(KEEPER, "until = self._until if together and asked < self._together_until else None", "until = None"),),
        (LEASED + "test_the_leases_of_a_process_expire_together",),
    ),
    Mutant(
        "shutdown_renews_on",
        "runs that a shutdown leaves open are ended by another",
        (
            Edit(
                KEEPER,
                "        elif not told:\n            self._held.pop(run.lease.id, None)\n",
                "        elif not told:\n            self._end(run)\n",
            ),
        ),
        (LEASED + "test_a_run_that_ends_while_its_process_shuts_down_is_ended_by_another",),
    ),
    Mutant(
        "unstarted_manager_holds",
        "nobody holds leases who does not renew them",
        (Edit(KEEPER, "        if not self.running:\n            return None\n", ""),),
        (LEASED + "test_a_manager_that_was_not_started_holds_no_leases",),
    ),
    Mutant(
        "cancelled_again_and_again",
        "a run is cancelled once",
        (Edit(KEEPER, "run.lease.id in seen.cancelled and not run.cancelled", "run.lease.id in seen.cancelled"),),
        (LEASED + "test_a_run_is_stopped_once_however_often_it_is_asked_for",),
    ),
    Mutant(
        "parents_first",
        "children are ended before their parents",
        (Edit(REAPER, "reverse=True", "reverse=False"),),
        (LEASED + "test_children_are_ended_before_their_parents",),
    ),
    Mutant(
        "trimmed_beginning_told_again",
        "nobody sees a beginning twice",
        (Edit(REAPER, "            if not expired.begun:\n", "            if True:\n"),),
        (LEASED + "test_a_beginning_that_was_trimmed_is_not_told_again",),
    ),
    Mutant(
        "end_without_a_beginning",
        "a lost run's story is whole",
        (Edit(REAPER, "            if not expired.begun:\n", "            if False:\n"),),
        (LEASED + "test_who_dies_between_the_lease_and_the_first_event_leaves_a_whole_story",),
    ),
    Mutant(
        "an_end_of_its_own",
        "two parties that end a run are one event",
        (Edit(REAPER, "            event_id=terminal_id(started.id),\n", ""),),
        (LEASED + "test_the_runs_of_a_dead_process_are_ended_by_another_within_the_lease",),
    ),
    Mutant(
        "claim_after_an_outage",
        "an outage loses no run",
        (Edit(REDIS + "lease_claim.lua", "if now - since >= lease then", "if true then"),),
        (LEASES + "test_nobody_claims_who_was_not_in_touch_for_the_time_of_a_lease",),
    ),
    Mutant(
        "claimed_lease_prolonged",
        "a claimed lease is lost to its holder",
        (Edit(REDIS + "lease_hold.lua", "  if redis.call('ZSCORE', KEYS[2], ARGV[i]) then", "  if false then"),),
        (LEASES + "test_a_claimed_lease_is_lost_to_its_holder_and_a_new_one_of_the_same_run_is_not",),
    ),
    Mutant(
        "claimed_for_good",
        "one who claims and dies is followed by another",
        (
            Edit(
                REDIS + "lease_claim.lua",
                "    redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[4]), member)",
                "    redis.call('ZREM', KEYS[1], member)",
            ),
        ),
        (LEASES + "test_who_claims_and_dies_is_followed_by_another",),
    ),
    Mutant(
        "last_decision_stands",
        "the first decision stands",
        (Edit(REDIS + "lease_decide.lua", "if stands == '' then", "if true then"),),
        (LEASES + "test_the_first_decision_stands",),
    ),
    Mutant(
        "lease_of_somebody_else",
        "a lease names its user and is compared",
        (
            Edit(
                REDIS + "leases.py",
                '        if fields["user"] != checked_user_id(user_id):\n'
                '            raise ValueError("the lease of somebody else")\n',
                "",
            ),
        ),
        (LEASES + "test_a_lease_that_names_another_user_is_not_believed",),
    ),
    Mutant(
        "cancel_only_here",
        "a run is cancelled wherever it is",
        (Edit(RUNS, "        return await self.keeper.leases.cancel(user_id, run_id)\n", "        return False\n"),),
        (LEASED + "test_a_run_is_cancelled_from_another_process",),
    ),
    Mutant(
        "otherwise_is_fine",
        "a second, different decision is refused",
        (Edit(RUNS, "        if stands != chosen:\n", "        if False:\n"),),
        (APPROVED + "test_the_first_decision_stands",),
    ),
    Mutant(
        "anybody_approves",
        "whoever may not approve does not",
        (Edit(RUNS, "        await _authorize(authorization, peer, Verb.APPROVE)\n", ""),),
        (APPROVED + "test_who_may_not_approve_does_not",),
    ),
    Mutant(
        "decided_here_first",
        "the store decides which decision stands",
        (
            Edit(
                RUNS,
                "        if self.keeper is not None:\n"
                "            stands = await self.keeper.leases.decide(user_id, approval_id, decision)\n",
                "        if self.keeper is not None and self.approvals.decide(user_id, approval_id, decision) is None:\n"
                "            stands = await self.keeper.leases.decide(user_id, approval_id, decision)\n",
            ),
        ),
        (APPROVED + "test_decisions_in_two_processes_are_one",),
    ),
    Mutant(
        "question_left_open",
        "what was requested is resolved",
        (
            Edit(
                APPROVALS, "            self._resolve(EXPIRED if isinstance(error, TimeoutError) else CANCELLED)\n", ""
            ),
        ),
        (APPROVED + "test_a_question_that_nobody_answers_expires",),
    ),
    Mutant(
        "question_outlives_run",
        "a run that ends closes its questions",
        (Edit(RUN, "        for approval in self._approvals:\n            approval.end()\n", ""),),
        (APPROVED + "test_the_first_decision_stands",),
    ),
    Mutant(
        "any_seat_is_meant",
        "an order to a seat is for that seat",
        (Edit(CONTROL, "        if self.seat is not None and self.seat != seat:\n            return False\n", ""),),
        (SEATS + "test_a_connection_that_comes_back_to_another_process_replaces_itself_and_stays",),
    ),
    Mutant(
        "old_releases_misled",
        "an old release does not take an order for a wider one",
        (
            Edit(
                CONTROL,
                '        fields["seat_code"] = fields.pop("code")\n',
                '        fields["seat_code"] = fields["code"]\n',
            ),
        ),
        (CONTROLLED + "test_a_release_that_knows_no_seats_does_not_take_an_order_for_a_wider_one",),
    ),
    Mutant(
        "limit_of_one_process",
        "the limit counts all processes",
        (Edit(SEATING, "                self._orders[seat.id] = (user_id, seat)\n", "                pass\n"),),
        (SEATS + "test_the_limit_holds_for_all_processes_together",),
    ),
    Mutant(
        "dead_seats_count",
        "the seats of a process that is gone do not count",
        (
            Edit(
                REDIS + "seats.py",
                "gone = [other for other, is_there in zip(others, there, strict=True) if not is_there]",
                "gone = others[:0]",
            ),
        ),
        (SEATS + "test_the_seats_of_a_process_that_is_gone_do_not_count",),
    ),
    Mutant(
        "seats_never_given_back",
        "connections that have gone make room",
        (
            Edit(
                SEATING,
                "                await self._give_back(self._seats)\n                await self._order",
                "                await self._order",
            ),
        ),
        (SEATS + "test_connections_that_have_gone_make_room_in_all_processes",),
    ),
    Mutant(
        "order_goes_with_the_log",
        "a deleted user is sent away everywhere",
        (Edit(MANAGER, "        if elsewhere:", "        if False:"),),
        (SEATS + "test_a_deleted_users_connection_that_was_behind_is_sent_away_by_the_new_life",),
    ),
    Mutant(
        "newcomer_counted_twice",
        "as many stay as may",
        (Edit(REDIS + "state_unseat.lua", "math.min(count - ARGV[2], #left)", "#left + 1 - ARGV[2]"),),
        (SEATS + "test_of_many_who_come_at_once_as_many_stay_as_may",),
    ),
    Mutant(
        "lost_lease_written_again",
        "a lost run's lease is not written again",
        (
            Edit(
                KEEPER,
                "            if run.lost:  # whoever ends the run drops what the lease says\n                return\n",
                "",
            ),
        ),
        (LEASED + "test_a_frozen_process_with_something_to_write_does_not_write_it_for_a_lost_run",),
    ),
    Mutant(
        "fence_of_lost_runs_missing",
        "nothing of a run that was lost is appended, though it was on its way",
        (
            Edit(
                REDIS + "append.lua",
                "ended = call('SISMEMBER', KEYS[key], more) == 1",
                "ended = false",
            ),
        ),
        (LEASES + "test_an_event_that_was_on_its_way_when_its_run_was_lost_is_not_appended",),
    ),
    Mutant(
        "claim_does_not_fence",
        "whoever claims a lease fences its log first",
        (Edit(REDIS + "leases.py", "        await self._fence([each.lease for each in expired])\n", ""),),
        (LEASES + "test_an_event_that_was_on_its_way_when_its_run_was_lost_is_not_appended",),
    ),
    Mutant(
        "all_claim",
        "of many who claim one gets it",
        (
            Edit(
                REDIS + "lease_claim.lua",
                "    redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[4]), member)\n",
                "",
            ),
        ),
        (LEASES + "test_of_many_who_claim_one_gets_it",),
    ),
    Mutant(
        "cancel_signals_nobody",
        "who holds a run is signalled",
        (Edit(REDIS + "leases.py", "        await self._signal(channels)\n", ""),),
        (LEASES + "test_who_holds_a_run_is_signalled_and_nobody_else",),
    ),
    Mutant(
        "leases_without_end",
        "what is stored of leases has an end",
        (Edit(REDIS + "leases.py", '            submit("PEXPIRE", key, self._keep),\n', ""),),
        (LEASES + "test_what_is_stored_has_an_end_and_goes_with_its_run",),
    ),
    Mutant(
        "seats_without_end",
        "what is stored of seats has an end",
        (Edit(REDIS + "state_seat.lua", "redis.call('PEXPIRE', KEYS[2], ARGV[7])\n", ""),),
        (SEATS + "test_what_is_stored_has_an_end",),
    ),
    Mutant(
        "same_connection_id_counts_twice",
        "a connection id has one connection in all processes",
        (Edit(REDIS + "state_seat.lua", "  elseif connection == ARGV[1] then", "  elseif false then"),),
        (SEATS + "test_the_same_connection_id_makes_room_whichever_process_it_is_in",),
    ),
    Mutant(
        "killed_process_counts",
        "the seats of a killed process do not count",
        (Edit(REDIS + "seats.py", " and int(listening[1]) > 0", ""),),
        (SEATS + "test_a_process_that_was_killed_is_gone_before_its_time_is_up",),
    ),
    Mutant(
        "anybody_is_elsewhere",
        "a user who is nowhere else leaves nothing when deleted",
        (Edit(REDIS + "seats.py", " not in ([mine], [])", " not in ([],)"),),
        (SEATS + "test_whether_somebody_is_elsewhere",),
    ),
    # -- while the log is away
    Mutant(
        "waiting_event_not_compared_with_the_grant",
        "an event that waits is compared with the grant",
        (
            Edit(
                CURSOR,
                '        if log != self._grant.log:\n            raise IsolationViolation("an event that waits',
                '        if False:\n            raise IsolationViolation("an event that waits',
            ),
        ),
        (DEGRADED + "test_an_event_that_waits_for_another_log_is_compared_with_the_grant",),
    ),
    Mutant(
        "waiting_event_not_compared_before_the_write",
        "and again right before the write",
        (Edit(OUTBOUND, "        if step.log != self._own_log:\n", "        if False:\n"),),
        (DEGRADED + "test_an_event_that_waits_for_another_log_is_compared_again_right_before_the_write",),
    ),
    Mutant(
        "provisional_to_all_tabs",
        "an addressed event that waits is shown to that connection only",
        (Edit(CURSOR, "        if only is not None and only != self._connection_id:\n            return False\n", ""),),
        (DEGRADED + "test_only_what_is_for_this_connection_is_shown",),
    ),
    Mutant(
        "provisional_of_all_threads",
        "what waits is narrowed to the thread",
        (
            Edit(
                CURSOR,
                "        return self._thread_id is None or event.thread_id == self._thread_id\n",
                "        return True\n",
            ),
        ),
        (DEGRADED + "test_only_what_is_for_this_connection_is_shown",),
    ),
    Mutant(
        "outbox_numbers_not_reset",
        "an outbox that was filled again is shown whole",
        (Edit(PROVISIONAL, "self._outbox, self._seen = outbox, 0", "self._outbox = outbox"),),
        (DEGRADED + "test_an_outbox_that_was_emptied_and_filled_again_within_one_outage_is_shown_whole",),
    ),
    Mutant(
        "waiting_wakes_nobody",
        "what waits is shown at once",
        (Edit(OUTBOX, "        if self.failing:\n            self._stuck()\n\n    def drop", "\n    def drop"),),
        (DEGRADED + "test_each_time_that_it_is_away_is_told_and_shown_anew",),
    ),
    Mutant(
        "hanging_read_delays_degraded",
        "a read that hangs holds up nothing",
        (Edit(FOLLOWER, "            writer.cancel()\n", "            pass\n"),),
        (DEGRADED + "test_everybody_is_told_within_eight_seconds_and_stays_connected",),
    ),
    Mutant(
        "given_up_swallows_a_cancellation",
        "a writer that somebody else cancels ends",
        (Edit(FOLLOWER, "        return task.uncancel() == 0\n", "        task.uncancel()\n        return True\n"),),
        (DEGRADED + "test_a_writer_that_is_cancelled_when_the_log_goes_away_ends",),
    ),
    Mutant(
        "reads_a_log_that_is_away",
        "nobody asks a log that is known to be away",
        (Edit(FOLLOWER, "            return waiting\n", "            if waiting:\n                return waiting\n"),),
        (DEGRADED + "test_nobody_reads_a_log_that_is_known_to_be_away_and_everybody_does_when_it_is_back",),
    ),
    Mutant(
        "restored_reads_nothing",
        "restored wakes everybody",
        (
            Edit(
                FOLLOWER,
                "        self._provisional = None\n        self.dirty = True\n        return True",
                "        self._provisional = None\n        return True",
            ),
        ),
        (DEGRADED + "test_nobody_reads_a_log_that_is_known_to_be_away_and_everybody_does_when_it_is_back",),
    ),
    Mutant(
        "watch_of_an_outbox_leaks",
        "nothing is left of a connection",
        (
            Edit(
                FOLLOWER,
                "        if self._provisional is not None:\n            self._provisional.stop()\n\n    def degrade",
                "\n    def degrade",
            ),
        ),
        (DEGRADED + "test_nothing_is_left_of_a_connection_that_goes_while_the_log_is_away",),
    ),
    Mutant(
        "revoked_is_shown_provisionally",
        "nothing after an order to end",
        (Edit(CONNECTION, "        self._follower.hush()\n", ""),),
        (DEGRADED + "test_who_is_ordered_to_end_is_shown_nothing_provisional_any_more",),
    ),
    Mutant(
        "reads_again_all_at_once",
        "failed reads are tried again at different times",
        (Edit(FOLLOWER, "RETRY_SECONDS * (0.5 + jitter)", "RETRY_SECONDS"),),
        (DEGRADED + "test_a_read_that_failed_is_tried_again_by_each_at_its_own_time",),
    ),
    Mutant(
        "let_in_while_degraded",
        "who is on the way in is refused",
        (
            Edit(
                MANAGER,
                "closed = self.draining or self._closed or self.availability.degraded",
                "closed = self.draining or self._closed",
            ),
        ),
        (DEGRADED + "test_who_is_on_the_way_in_when_the_log_goes_away_is_refused_when_asked",),
    ),
    Mutant(
        "newcomers_wait_for_the_log",
        "newcomers are told at once",
        (Edit(ENTRANCE, "        if self._manager.availability.degraded:", "        if False:"),),
        (DEGRADED + "test_whoever_comes_through_a_route_is_told_at_once_too",),
    ),
    Mutant(
        "hiccup_is_told",
        "short hiccups are told to nobody",
        (
            Edit(
                AVAILABILITY,
                "            if loop.time() - silent_from >= self._degraded_after:",
                "            if True:",
            ),
        ),
        (AVAILABLE + "test_a_log_that_is_away_for_three_seconds_is_told_to_nobody",),
    ),
    Mutant(
        "stall_counts_against_the_log",
        "a loop that stands still is not held against the log",
        (Edit(AVAILABILITY, "if loop.time() - due < LATE:\n                    return False", "return False"),),
        (AVAILABLE + "test_an_event_loop_that_stands_still_is_not_held_against_the_log",),
    ),
    Mutant(
        "no_back_off",
        "the log is asked after 1, 2 and 4 seconds",
        (Edit(AVAILABILITY, "min(2.0, 0.5 * 2**attempt)", "0.5"),),
        (AVAILABLE + "test_while_it_is_away_it_is_asked_after_one_two_and_four_seconds_with_jitter",),
    ),
    Mutant(
        "stampede_when_the_log_is_back",
        "not everybody reads at once",
        (Edit(AVAILABILITY, "pause=TOLD_AT_ONCE / READS_PER_SECOND", "pause=0.0"),),
        (AVAILABLE + "test_when_the_log_is_back_not_everybody_reads_at_once",),
    ),
    Mutant(
        "degraded_for_ever",
        "whom a job left degraded the next one restores",
        (Edit(AVAILABILITY, "if answered_at is None:  # a job", "if False:  # a job"),),
        (AVAILABLE + "test_whom_a_job_left_degraded_the_next_one_restores",),
    ),
    Mutant(
        "away_again_at_once",
        "a hiccup right after an outage is told to nobody",
        (
            Edit(
                AVAILABILITY,
                "                answered_at = asyncio.get_running_loop().time()\n                await self._end()",
                "                await self._end()",
            ),
        ),
        (AVAILABLE + "test_a_hiccup_right_after_an_outage_is_told_to_nobody",),
    ),
    Mutant(
        "runs_wait_for_a_log_that_is_away",
        "a run does not wait for a log that is known to be away",
        (Edit(OUTBOX, "            outbox.failing = self._back is not None\n", ""),),
        (AVAILABLE + "test_outboxes_know_that_the_log_is_away_and_let_nobody_wait_for_it",),
    ),
    # -- workers and commands
    Mutant(
        "forked_worker_shares_a_loop",
        "a worker that is forked works in every process",
        (Edit(WORKER, "        pid = os.getpid()\n", "        pid = 0\n"),),
        (WORKERS + "test_a_worker_that_is_forked_in_the_midst_works_in_every_process_and_flushes_at_the_exit",),
    ),
    Mutant(
        "leaving_drops_appends",
        "leaving the block waits for what was begun",
        (Edit(WORKER, "        await wait_until(deadline, [self._writer.wait_idle()])\n", ""),),
        (WORKER_UNIT + "test_leaving_the_block_waits_for_what_was_begun_and_refuses_what_comes_later",),
    ),
    Mutant(
        "away_without_the_event_id",
        "without Redis every call names its event",
        (Edit(EMITTER, "                raise AppendFailed(event.id, 0) from error\n", "                raise\n"),),
        (WORKERS + "test_without_redis_every_call_fails_in_bounded_time_and_names_the_event",),
    ),
    Mutant(
        "request_id_is_a_command_id",
        "a request id is no command id",
        (Edit(COMMANDS, 'frame.get("command_id"),', 'frame.get("command_id") or frame.get("request_id"),'),),
        (COMMAND + "test_a_command_without_an_id_is_given_one_and_a_request_id_is_none",),
    ),
    Mutant(
        "commands_unguarded",
        "commands are guarded as every verb is",
        (Edit(COMMANDS, "                if refusal is not None:\n", "                if False:\n"),),
        (COMMAND + "test_commands_are_guarded_as_every_verb_is",),
    ),
    Mutant(
        "full_queue_untold",
        "a full queue is told",
        (Edit(COMMANDS, "        if put is Put.FULL:\n", "        if False:\n"),),
        (COMMAND + "test_a_full_queue_is_told_and_nothing_is_trimmed",),
    ),
    Mutant(
        "check_sees_what_is_stored",
        "a check cannot change what it looks at",
        (
            Edit(
                COMMANDS,
                "                    check(data)  # which is encoded already: a check changes nothing\n",
                "                    check(data)\n"
                "                    item = self._item(peer.user_id, frame_type, data, item.id, item.thread_id, item.connection_id)\n",
            ),
        ),
        (COMMAND + "test_a_check_cannot_change_what_it_looks_at",),
    ),
    Mutant(
        "cancelled_await_ends_the_worker",
        "a handler that awaits something cancelled has failed, and the worker goes on",
        (
            Edit(
                SHIFT,
                "                if task is not None and task.cancelling():\n                    raise\n",
                "                raise\n",
            ),
        ),
        (COMMAND + "test_a_handler_that_awaits_something_cancelled_has_failed_and_the_worker_goes_on",),
    ),
    Mutant(
        "own_lease_begun_again",
        "a worker does not begin again what it is running",
        (Edit(SHIFT, "asked, list(self._held))", "asked, ())"),),
        (COMMAND + "test_a_worker_does_not_begin_again_what_it_is_running_when_its_own_lease_has_ended",),
    ),
    Mutant(
        "stop_drops_the_leases",
        "a worker that was told to stop keeps the lease of what it still does",
        (Edit(SHIFT, "                while self._held:\n", "                while False:\n"),),
        (COMMAND + "test_a_worker_that_was_told_to_stop_keeps_the_lease_of_what_it_still_does",),
    ),
    Mutant(
        "killer_command_for_ever",
        "a command that kills its workers is given up",
        (Edit(SHIFT, "        if held.attempt <= self._limits.attempts:\n", "        if True:\n"),),
        (COMMAND + "test_a_command_that_kills_its_workers_is_given_up",),
    ),
    Mutant(
        "lost_lease_is_worked_on",
        "a worker that lost a lease cancels the handler",
        (Edit(SHIFT, "                    task.cancel()\n", "                    pass\n"),),
        (COMMAND + "test_a_worker_that_lost_a_lease_cancels_the_handler_and_another_does_the_command",),
    ),
    Mutant(
        "leases_of_work_not_renewed",
        "the lease of a long handler is renewed",
        (Edit(SHIFT, "            if not self._held:\n                continue\n", "            continue\n"),),
        (COMMAND + "test_the_lease_of_a_long_handler_is_renewed",),
    ),
    Mutant(
        "cancelled_worker_keeps",
        "a worker that is cancelled gives back what it held at once",
        (
            Edit(
                SHIFT,
                "                    await self._queue.settle(self._worker, held, Outcome.BACK)\n",
                "                    pass\n",
            ),
        ),
        (COMMAND + "test_a_worker_that_is_cancelled_gives_back_what_it_held_at_once",),
    ),
    Mutant(
        "taken_while_cancelled_is_nobodys",
        "what a worker is just being given when it is cancelled is given back too",
        (Edit(SHIFT, "                if self._taking is not None:\n", "                if False:\n"),),
        (COMMAND + "test_what_a_worker_is_just_being_given_when_it_is_cancelled_is_given_back_too",),
    ),
    Mutant(
        "work_ids_joined",
        "ids that would join to the same text are kept apart",
        (
            Edit(
                REDIS + "work_put.lua",
                "local name = #owner .. ':' .. owner .. ARGV[2]",
                "local name = owner .. ARGV[2]",
            ),
        ),
        (LAWS_OF_WORK + "test_what_one_user_calls_an_item_says_nothing_of_another_user",),
    ),
    Mutant(
        "work_done_twice",
        "a command is taken once",
        (Edit(REDIS + "work_put.lua", "then return 'known' end", "then end"),),
        (LAWS_OF_WORK + "test_an_id_is_taken_once_while_it_waits_is_held_and_was_settled",),
    ),
    Mutant(
        "work_of_one_user",
        "one user cannot fill the queue for the others",
        (Edit(REDIS + "work_put.lua", " or of_owner >= tonumber(ARGV[4])", ""),),
        (LAWS_OF_WORK + "test_one_user_cannot_fill_the_queue_for_the_others",),
    ),
    Mutant(
        "work_renews_what_is_lost",
        "renewing tells what was lost",
        (Edit(REDIS + "work_renew.lua", " and found[1][2] == worker", ""),),
        (LAWS_OF_WORK + "test_renewing_tells_what_was_lost_and_does_not_take_it_back",),
    ),
    Mutant(
        "work_settled_by_anybody",
        "only who holds an item settles it",
        (Edit(REDIS + "work_settle.lua", " or held[1][2] ~= worker", ""),),
        (LAWS_OF_WORK + "test_only_who_holds_an_item_settles_it",),
    ),
    Mutant(
        "work_dies_with_its_worker",
        "what a dead worker held is given to another",
        (Edit(REDIS + "work_take.lua", "if found[1] > 0 then", "if false then"),),
        (LAWS_OF_WORK + "test_what_a_dead_worker_held_is_given_to_another_which_learns_that_it_is_not_the_first",),
    ),
    Mutant(
        "work_taken_before_its_time",
        "nobody else is given an item before its lease has ended",
        (
            Edit(REDIS + "work_take.lua", "'IDLE', lease, '-'", "'IDLE', 0, '-'"),
            Edit(REDIS + "work_take.lua", "group, worker, lease, held[1])", "group, worker, 0, held[1])"),
        ),
        (LAWS_OF_WORK + "test_nobody_else_is_given_an_item_before_its_lease_has_ended",),
    ),
    Mutant(
        "work_large_item_read",
        "an item of 100 MB is set aside",
        (Edit(REDIS + "work_take.lua", "size > most_bytes and size or entry[2]", "entry[2]"),),
        (WORK + "test_what_is_none_of_ours_is_set_aside_and_counted_and_what_comes_behind_it_is_done",),
    ),
    Mutant(
        "work_stays_when_settled",
        "a queue has room again when something is settled",
        (Edit(REDIS + "work_settle.lua", "redis.call('XDEL', stream, key)\n", ""),),
        (LAWS_OF_WORK + "test_a_full_queue_refuses_newcomers_and_has_room_again_when_something_is_settled",),
    ),
    Mutant(
        "work_leaves_with_its_items",
        "a worker that leaves takes nothing with it",
        (Edit(REDIS + "work_leave.lua", "consumer.pending == 0 and (", "("),),
        (LAWS_OF_WORK + "test_a_worker_that_leaves_takes_nothing_with_it",),
    ),
    Mutant(
        "work_queues_share",
        "two queues share nothing",
        (Edit(REDIS + "work.py", "queue.encode()).rstrip(b'=')", "b'q').rstrip(b'=')"),),
        (WORK + "test_two_namespaces_and_two_queues_share_nothing",),
    ),
)
