"""Applies mutants to copies of the packages and lets the simulation look for them.

    python -m tests.simulation.mutants             all of them, alone and in pairs
    python -m tests.simulation.mutants NAME ...    those whose name contains one of the words
    python -m tests.simulation.mutants --seeds 50  so many seeds for each at most

Defences that are there twice hide each other's absence. Such a mutant is expected to live when it is alone, says why,
and belongs to a pair that must die. A mutant that does otherwise than expected fails the run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from tests.mutants.__main__ import copy_to, mutate
from tests.mutants.catalogue import MUTANTS, Edit, Mutant
from tests.simulation.scenario import Kind

SEEDS: Final = 120

CONTROL: Final = "websocket_core/control.py"
CURSOR: Final = "websocket_core/cursor.py"
FOLLOWER: Final = "websocket_core/follower.py"
OUTBOUND: Final = "websocket_core/outbound.py"
HEARTBEAT: Final = "websocket_core/heartbeat.py"
MEMORY: Final = "websocket_core/logs/memory.py"
OUTBOX: Final = "websocket_core/outbox.py"
PROVISIONAL: Final = "websocket_core/provisional.py"
AVAILABILITY: Final = "websocket_core/availability.py"
MANAGER: Final = "websocket_core/unified_manager.py"
EMITTERS: Final = "websocket_core/emitters.py"
WIRE: Final = "websocket_core/wire.py"
RUNS: Final = "websocket_core/runs.py"
REVOCATION: Final = "websocket_core/revocation.py"
STATE: Final = "websocket_core/state.py"
SWEEPER: Final = "websocket_core/sweeper.py"
ENDPOINT: Final = "websocket_core/transports/websocket.py"
SERVER: Final = "websocket_core/server_frames.py"
ROLLING: Final = "tests/simulation/rolling_log.py"


class Trial(NamedTuple):
    """One or several mutants at once, and what is expected of the simulation."""

    name: str
    edits: tuple[Edit, ...]
    hidden_by: str = ""
    """Why it is expected to live; empty if it must die."""
    kind: Kind | None = None
    """The kind of the worlds to try it in, where it is not left to the seed."""


_OF_CATALOGUE: Final = {mutant.name.partition(" ")[0]: mutant for mutant in MUTANTS}


def known(name: str) -> tuple[Edit, ...]:
    """The edits of a mutant that the tests are judged by too."""
    return _OF_CATALOGUE[name].edits


_OWN: Final[dict[str, tuple[Edit, ...]]] = {
    "subscribed_after_reading": (  # GAP: what is appended between the first read and the subscription is not seen
        Edit(FOLLOWER, "        self._unwatch = self._reader.watch(self._cursor.log, self._wake)\n", ""),
        Edit(
            FOLLOWER,
            "        batch = await self._read()\n        assert batch.start is not None\n",
            "        batch = await self._read()\n        await asyncio.sleep(0.01)\n"
            "        self._unwatch = self._reader.watch(self._cursor.log, self._wake)\n"
            "        assert batch.start is not None\n",
        ),
    ),
    "one_watcher_is_woken": (
        Edit(
            MEMORY,
            "        for wake in held.watchers:\n            wake()\n        return new_tuple",
            "        for wake in held.watchers[-1:]:\n            wake()\n        return new_tuple",
        ),
    ),
    "offset_race": (  # number and store are two steps
        Edit(
            MEMORY,
            "        offset = held.head + 1\n        now = self._monotonic()\n",
            "        offset = held.head + 1\n        import asyncio\n        await asyncio.sleep(0)\n"
            "        now = self._monotonic()\n",
        ),
    ),
    "never_unwatched [29]": (Edit(MEMORY, "                rest.remove(wake)\n", ""),),
    "frames_cached_by_event_id [12]": (
        Edit(
            WIRE,
            '    return f\'{event.body.decode()},"cursor":"{epoch}.{offset}.{mark}"}}\'\n',
            '    return _FRAMES.setdefault(event.id, f\'{event.body.decode()},"cursor":"{epoch}.{offset}.{mark}"}}\')\n'
            "\n\n_FRAMES: dict[str, str] = {}\n",
        ),
    ),
    "controls_shared_by_connections [10]": (
        Edit(OUTBOUND, "        self._waiting: list[str] = []\n", "        self._waiting = _WAITING\n"),
        Edit(
            OUTBOUND,
            "        frames, self._waiting = self._waiting, []\n",
            "        frames = self._waiting[:]\n        self._waiting.clear()\n",
        ),
        Edit(OUTBOUND, "class ControlFrames:", "_WAITING: list[str] = []\n\n\nclass ControlFrames:"),
    ),
    "outbox_of_the_last_user [14]": (
        Edit(
            OUTBOX,
            "                LogName.of_user(user_id),\n",
            "                LogName.of_user(next(reversed(self._outboxes), user_id)),\n",
        ),
    ),
    "emitters_cached_by_folded_id": (
        Edit(
            EMITTERS,
            "        emitter = self._held.get(user_id)\n        if emitter is None:\n",
            "        emitter = next((e for u, e in self._held.items() if u.casefold() == user_id.casefold()), None)\n"
            "        if emitter is None:\n",
        ),
    ),
    "emitter_of_a_longer_id [5]": (
        Edit(
            EMITTERS,
            "        emitter = self._held.get(user_id)\n        if emitter is None:\n",
            "        emitter = next((e for u, e in self._held.items() if u.startswith(user_id)), None)\n"
            "        if emitter is None:\n",
        ),
    ),
    "starts_at_the_head": (
        Edit(
            FOLLOWER,
            "        self._cursor.position = head if latest else position\n",
            "        self._cursor.position = head if latest or position is None else position\n",
        ),
    ),
    "latest_is_ignored": (Edit(FOLLOWER, "head if latest else position", "position"),),
    "every_resume_is_a_gap": (
        Edit(
            MEMORY,
            "        elif behind <= self.count:\n",
            "        elif behind <= self.count:\n            return GapReason.DIVERGED\n        elif False:\n",
        ),
    ),
    "trimmed_by_one_is_a_gap": (
        Edit(MEMORY, "        elif behind <= self.count:\n", "        elif behind < self.count:\n"),
    ),
    "empty_log_honours_nothing": (
        Edit(
            MEMORY,
            "        if behind == 0:\n            held = self.mark\n",
            "        if behind == 0:\n            held = self.mark if self.count else '?'\n",
        ),
    ),
    "position_moves_before_the_read_ends": (
        Edit(FOLLOWER, "        if batch.more:\n            self.dirty = True\n", ""),
    ),
    "stopped_by_run_id_alone": known("cancel_without_user"),
    # -- a store that is rolled back
    "epoch_only_resume": (
        Edit(
            ROLLING, "        return None if held == position.mark else GapReason.DIVERGED\n", "        return None\n"
        ),
    ),
    "ahead_is_up_to_date": (
        Edit(
            ROLLING,
            "        if position.offset > self.head:\n            return GapReason.DIVERGED\n",
            "        if position.offset > self.head:\n            return None\n",
        ),
    ),
    "marks_are_event_ids": (
        Edit(ROLLING, "        mark = random_text(self._entropy, 9)\n", "        mark = event.id\n"),
    ),
    "late_answer_is_doubted": (
        Edit(HEARTBEAT, "        answers = self._answers(claimed)\n", "        answers = False\n"),
    ),
    "sent_elsewhere_before_the_gap": (
        Edit(
            FOLLOWER,
            "        stands = batch.start if batch.gap is None or before is None else before\n",
            "        stands = batch.start\n",
        ),
    ),
    # -- revocation
    "settled_horizon_ignored": (
        Edit(
            CURSOR,
            "        if settled is not None and entry.epoch == settled.epoch and entry.offset <= settled.offset:\n"
            "            return None\n",
            "",
        ),
    ),
    "denied_before_the_head_was_noted": (
        Edit(MANAGER, "        head = await self._log.open(LogName.of_user(user))\n        verb =", "        verb ="),
        Edit(
            MANAGER,
            "        if refusal is not None:\n            await self._refuse(websocket, refusal)\n",
            "        if refusal is not None:\n            await self._refuse(websocket, refusal)\n"
            "        head = await self._log.open(LogName.of_user(user))\n",
        ),
    ),
    "order_never_written": (
        Edit(
            REVOCATION,
            "        await self._appender.append(LogName.of_user(user_id), "
            "control_event(order, self._encoder.new_id()))\n",
            "        pass\n",
        ),
    ),
    "newer_credentials_are_denied": (
        Edit(
            STATE,
            "everything is not None and (issued_at is None or issued_at <= everything.issued_until)",
            "everything is not None",
        ),
    ),
    "every_token_is_meant": (Edit(CONTROL, " and self.token_id in (None, token_id)\n", "\n"),),
    # -- a log that is away
    "outbox_of_somebody": (
        Edit(
            OUTBOX,
            '        return self._outboxes.get(UserId(log.name)) if log.kind == "user" else None\n',
            "        return next(iter(self._outboxes.values()), None)\n",
        ),
    ),
    "no_look_at_what_waits": (Edit(CURSOR, "        if log != self._grant.log:\n", "        if False:\n"),),
    "no_last_look_at_what_waits": (Edit(OUTBOUND, "        if step.log != self._own_log:\n", "        if False:\n"),),
    "waiting_events_shown_again": (
        Edit(PROVISIONAL, "waiting, self._seen = outbox.after(", "waiting, _seen = outbox.after("),
        Edit(PROVISIONAL, "], self._seen < outbox.newest", "], False"),
    ),
    "restored_is_not_told": (
        Edit(
            AVAILABILITY, "lambda connection: connection.restore(), pause=TOLD", "lambda connection: None, pause=TOLD"
        ),
    ),
    # -- a loop that stands still
    "stalls_count_against_clients": (
        Edit("websocket_core/sweeper.py", "connection.check(now, lost)", "connection.check(now)"),
    ),
    "stalls_count_against_newcomers": (
        Edit(ENDPOINT, "            if over:\n                raise\n", "            raise\n"),
    ),
    "stalls_count_against_pongs": (Edit(SERVER, "        if late >= LATE:", "        if False:"),),
}


def own(name: str) -> tuple[Edit, ...]:
    return _OWN[name]


SIGNALS: Final = Kind.SIGNALS
"""Where no wake-up is lost: a lost one kills every mutant of the position check."""
ROLLBACK: Final = Kind.ROLLBACK
STALLS: Final = Kind.STALLS
AWAY: Final = Kind.AWAY

MASKED_BY_MARKS: Final = "the store compares the mark at every read, so that no batch ever breaks the chain"
MASKED_BY_READING: Final = "what came during a stall is read before the timers run that were due in it"
MASKED_BY_CHECK: Final = "the heartbeat's position check repairs it within 3 s"

TRIALS: Final[tuple[Trial, ...]] = (
    # -- isolation
    Trial("read_check_missing", known("read_check_missing")),
    Trial("write_check_missing", known("write_check_missing"), "the check after the read caught it before"),
    Trial("pair: read_check_missing + write_check_missing", known("both_checks_missing")),
    Trial("prefix_match [5]", known("prefix_match")),
    Trial("pair: prefix_match + write_check_missing", known("prefix_match") + known("write_check_missing")),
    Trial("ids_case_folded [8]", known("ids_case_folded")),
    Trial("ids_normalised [8]", known("ids_normalised")),
    Trial("principal_in_a_global [1]", known("principal_in_a_global")),
    Trial("auth_cache_by_prefix [3]", known("auth_cache_by_prefix")),
    Trial("client_names_the_user [20]", known("client_names_the_user")),
    Trial("resume_skips_authentication [21]", known("resume_skips_authentication")),
    Trial("refresh_changes_the_user [25]", known("refresh_changes_the_user")),
    Trial("expiry_checked_at_connect_only [27]", known("expiry_checked_at_connect_only")),
    Trial("last_tab_wins [28]", known("last_tab_wins")),
    Trial("cancel_without_user", known("cancel_without_user")),
    Trial("fallback_broadcast", known("fallback_broadcast")),
    Trial("addressed_to_all_tabs", known("addressed_to_all_tabs")),
    Trial("mutated_payload", known("mutated_payload")),
    Trial("payload_merged_into_the_envelope", known("payload_merged_into_the_envelope")),
    Trial("never_unwatched [29]", own("never_unwatched [29]")),
    Trial("frames_cached_by_event_id [12]", own("frames_cached_by_event_id [12]")),
    Trial("controls_shared_by_connections [10]", own("controls_shared_by_connections [10]")),
    Trial("outbox_of_the_last_user [14]", own("outbox_of_the_last_user [14]")),
    Trial("emitters_cached_by_folded_id", own("emitters_cached_by_folded_id")),
    Trial("emitter_of_a_longer_id [5]", own("emitter_of_a_longer_id [5]")),
    # -- delivery
    Trial("no_idempotency (NO_IDEM)", known("no_idempotency")),
    Trial("history_read_twice (NO_DEDUP)", known("history_read_twice")),
    Trial("offset_race (OFFSET_RACE)", own("offset_race")),
    Trial("trimmed_in_silence (TRIM_SILENT)", known("trimmed_in_silence")),
    Trial("no_position_check (NO_POSCHECK)", known("no_position_check")),
    Trial("epoch_ignored", known("epoch_ignored")),
    Trial("mark_ignored (EPOCH_ONLY_RESUME)", known("mark_ignored")),
    Trial("chain_ignored (NO_CHAIN)", known("chain_ignored"), "a log in memory never breaks its chain"),
    Trial("pair: chain_ignored + offset_race", known("chain_ignored") + own("offset_race")),
    Trial("pair: epoch_ignored + mark_ignored", known("epoch_ignored") + known("mark_ignored")),
    Trial("subscribed_after_reading (GAP)", own("subscribed_after_reading"), MASKED_BY_CHECK, SIGNALS),
    Trial(
        "pair: subscribed_after_reading + no_position_check",
        own("subscribed_after_reading") + known("no_position_check"),
        "",
        SIGNALS,
    ),
    Trial("lost_wake_up", known("lost_wake_up"), "", SIGNALS),
    Trial("pair: lost_wake_up + no_position_check", known("lost_wake_up") + known("no_position_check"), "", SIGNALS),
    Trial("one_watcher_is_woken", own("one_watcher_is_woken"), MASKED_BY_CHECK, SIGNALS),
    Trial(
        "pair: one_watcher_is_woken + no_position_check",
        own("one_watcher_is_woken") + known("no_position_check"),
        "",
        SIGNALS,
    ),
    Trial("no_position_check where signals arrive", known("no_position_check"), "no signal is lost there", SIGNALS),
    Trial("more_is_forgotten", own("position_moves_before_the_read_ends")),
    Trial("starts_at_the_head", own("starts_at_the_head")),
    Trial("latest_is_ignored", own("latest_is_ignored")),
    Trial("every_resume_is_a_gap", own("every_resume_is_a_gap")),
    Trial("trimmed_by_one_is_a_gap", own("trimmed_by_one_is_a_gap")),
    Trial("empty_log_honours_nothing", own("empty_log_honours_nothing")),
    # -- a store that is rolled back
    Trial("epoch_only_resume (EPOCH_ONLY_RESUME)", own("epoch_only_resume"), "", ROLLBACK),
    Trial("chain_ignored where the store rolls back (NO_CHAIN)", known("chain_ignored"), MASKED_BY_MARKS, ROLLBACK),
    Trial("pair: chain_ignored + epoch_only_resume", known("chain_ignored") + own("epoch_only_resume"), "", ROLLBACK),
    Trial("ahead_is_up_to_date", own("ahead_is_up_to_date"), "", ROLLBACK),
    Trial("marks_are_event_ids", own("marks_are_event_ids"), "", ROLLBACK),
    # -- revocation
    Trial("order_not_obeyed [26]", known("order_not_obeyed")),
    Trial("order_never_written", own("order_never_written")),
    Trial("no_deadline_for_an_order [26]", known("no_deadline_for_an_order")),
    Trial("revocation_forgotten (no deny-list)", known("revocation_forgotten")),
    Trial("denied_before_the_head_was_noted", own("denied_before_the_head_was_noted")),
    Trial("newer_credentials_are_denied", own("newer_credentials_are_denied")),
    Trial("every_token_is_meant", own("every_token_is_meant")),
    Trial("settled_horizon_ignored", own("settled_horizon_ignored")),
    Trial("order_obeyed_though_settled", known("order_obeyed_though_settled")),
    # -- a log that is away
    Trial("outbox_of_somebody", own("outbox_of_somebody"), "", AWAY),
    Trial("no_look_at_what_waits", own("no_look_at_what_waits"), "an outbox is found by the log of the grant", AWAY),
    Trial("no_last_look_at_what_waits", own("no_last_look_at_what_waits"), "the first look comes before it", AWAY),
    Trial(
        "pair: outbox_of_somebody + both looks",
        own("outbox_of_somebody") + own("no_look_at_what_waits") + own("no_last_look_at_what_waits"),
        "",
        AWAY,
    ),
    Trial("waiting_events_shown_again", own("waiting_events_shown_again"), "", AWAY),
    Trial("restored_is_not_told", own("restored_is_not_told"), "", AWAY),
    # -- a loop that stands still
    Trial("stalls_count_against_clients", own("stalls_count_against_clients"), "", STALLS),
    Trial("stalls_count_against_newcomers", own("stalls_count_against_newcomers"), "", STALLS),
    Trial("stalls_count_against_pongs", own("stalls_count_against_pongs"), MASKED_BY_READING, STALLS),
    # -- the end, and the order
    Trial("late_answer_is_doubted", own("late_answer_is_doubted")),
    Trial("sent_elsewhere_before_the_gap", own("sent_elsewhere_before_the_gap")),
    Trial("shutdown_discards", known("shutdown_discards")),
    Trial("several_events_for_a_plain_client", known("several_events_for_a_plain_client")),
    Trial("deltas_merged_across_a_hole", known("deltas_merged_across_a_hole")),
    Trial("no_terminal_event_on_cancel", known("no_terminal_event_on_cancel")),
    Trial("unpaired_tool_on_cancel", known("unpaired_tool_on_cancel")),
    Trial("cancelled_while_entering", known("cancelled_while_entering")),
    Trial("outbox_out_of_order", known("outbox_out_of_order")),
    Trial("log_trouble_kills_the_run", known("log_trouble_kills_the_run")),
)


class Verdict(NamedTuple):
    trial: Trial
    seeds: int
    """How many seeds were run, the last of which killed it if it was killed."""
    faults: tuple[str, ...]
    broken: str = ""

    @property
    def as_expected(self) -> bool:
        return not self.broken and bool(self.faults) != bool(self.trial.hidden_by)


def run_trial(base: Path, trial: Trial, seeds: int) -> Verdict:
    """Make the mutant of a copy of `base`, and run seeds until one notices."""
    with tempfile.TemporaryDirectory(prefix="simulated-mutant-") as directory:
        root = Path(directory) / "copy"
        shutil.copytree(base, root)
        if fault := mutate(root, Mutant(trial.name, "", trial.edits, ())):
            return Verdict(trial, 0, (), fault)
        command = [sys.executable, "-m", "tests.simulation", "--stop", "--worker", "0", str(seeds)]
        command += [] if trial.kind is None else ["--kind", trial.kind]
        environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                command, cwd=root, env=environment, capture_output=True, text=True, timeout=600, check=False
            )
        except subprocess.TimeoutExpired:
            return Verdict(trial, 0, (), "it ran for ten minutes")
    results = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode != 0:
        return Verdict(trial, len(results), (), f"the simulation itself failed: {done.stderr[-600:]}")
    found = tuple(dict.fromkeys(fault for fault, _at, _what in results[-1]["violations"]))
    return Verdict(trial, len(results), found)


def describe(verdict: Verdict) -> str:
    if verdict.broken:
        return f"BROKEN {verdict.trial.name}: {verdict.broken}"
    if verdict.faults:
        word = f"killed by seed {verdict.seeds - 1} ({', '.join(verdict.faults)})"
        return f"{'ok    ' if verdict.as_expected else 'ODD   '} {verdict.trial.name}: {word}"
    if verdict.as_expected:
        return f"hidden {verdict.trial.name}: lives through {verdict.seeds} seeds, since {verdict.trial.hidden_by}"
    return f"LIVE   {verdict.trial.name}: lives through {verdict.seeds} seeds"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    arguments = parser.parse_args()
    chosen = [trial for trial in TRIALS if not arguments.names or any(name in trial.name for name in arguments.names)]
    began = time.monotonic()
    verdicts: list[Verdict] = []
    with tempfile.TemporaryDirectory(prefix="simulated-base-") as directory:
        base = Path(directory)
        copy_to(base)
        unmutated = run_trial(base, Trial("the code as it is", (), "it is right"), arguments.seeds)
        print(describe(unmutated), flush=True)
        if not unmutated.as_expected:
            print("the simulation does not pass without a mutant, so it proves nothing")
            return 1
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 2) as pool:
            for verdict in pool.map(lambda trial: run_trial(base, trial, arguments.seeds), chosen):
                verdicts.append(verdict)
                print(describe(verdict), flush=True)
    killed = [verdict.seeds for verdict in verdicts if verdict.faults]
    odd = [verdict for verdict in verdicts if not verdict.as_expected]
    print(
        f"{len(verdicts)} trials: {len(killed)} killed, {sum(not each.faults for each in verdicts)} lived, "
        f"{len(odd)} not as expected; {time.monotonic() - began:.0f} s"
    )
    if killed:
        print(f"seeds to kill: median {statistics.median(killed):g}, most {max(killed)}")
    return 1 if odd else 0


if __name__ == "__main__":
    sys.exit(main())
