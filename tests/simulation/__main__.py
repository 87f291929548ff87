"""Runs seeds and prints what landed and what was violated.

    python -m tests.simulation --seeds 500             seeds 0 to 499, on every core, and a fifth as many in worlds
                                                       whose log goes away
    python -m tests.simulation --first 500 --seeds 100 seeds 500 to 599
    python -m tests.simulation --seed 7 --trace        one seed, with all that happened in it
    python -m tests.simulation --kind rollback         every seed in a world of that kind

The exit status is 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from tests.simulation.checker import Fault
from tests.simulation.ledger import Answered, Appended, Invoked, Received
from tests.simulation.scenario import Kind, Outcome, run_seed

CHUNK: Final = 50
"""So many seeds are given to a process at a time, at most: to begin one costs as much as three seeds."""
SEED_SECONDS: Final = 60
"""No seed takes so long, unless something turns for ever."""
SHOWN: Final = 10
"""Of so many seeds that failed, what failed in them is printed."""
COUNTS: Final = ("virtual", "connections", "deliveries", "emitted")
MUST_LAND: Final = (
    "append_behind_a_read", "append_failed", "append_refused", "append_reply_lost", "cancel_by_user",
    "cancelled_emit", "cancelled_in_append", "cancelled_run", "closed_1012", "closed_4400", "closed_4401",
    "closed_4403", "closed_4408", "closed_4409", "closed_4410", "closed_4419", "connect_foreign", "connect_invented",
    "connect_latest", "connect_none", "crowd", "cut", "cut_handshake", "cut_mid_frame", "disconnected",
    "forgotten_log", "fragment", "gap_diverged", "gap_new_epoch", "gap_trimmed", "half_open", "late_wake_up",
    "loop_stall", "loop_stall_beyond_timeout", "lost_wake_up", "meddling", "message_reset", "mixed_reply",
    "read_failed", "restart_crash", "restart_drain", "restart_shutdown", "restart_stop", "resumed", "retried_emit",
    "rollback", "rollback_ahead", "rollback_ahead_idle", "rollback_lost_entry", "rollback_overgrown",
    "rollback_resume_kept", "rollback_resume_lost", "rollback_retried", "rollback_unnoticed", "rollback_woken",
    "revoke_again", "revoke_token", "revoke_user", "revoked_came_back", "revoked_open", "revoked_refused",
    "revoked_resuming", "denial_refused", "denial_reply_lost", "deny_list_unreadable",
    "log_frozen", "log_had_a_hiccup", "log_killed", "log_was_away", "shown_provisionally",
    "run_stopped_by_user", "shuffled_step", "slow_reader", "stall", "suspended_call",
)  # fmt: skip
"""Faults that a run of 100 seeds or more, of their own kinds, must have seen. One that never lands is no test."""


def summary(outcome: Outcome) -> dict[str, Any]:
    return {
        "seed": outcome.seed,
        "kind": outcome.kind.value,
        "violations": [[violation.fault.value, violation.at, violation.what] for violation in outcome.violations],
        "faults": dict(outcome.faults),
        "digest": outcome.digest,
        "virtual": outcome.virtual_seconds,
        "connections": outcome.connections,
        "deliveries": outcome.deliveries,
        "emitted": outcome.emitted,
    }


def _worker(first: int, count: int, *, stop: bool, kind: Kind | None) -> int:
    """Run some seeds and print one line of JSON for each."""
    seed = first

    def hung(_signal: int, _frame: object) -> None:
        """A step of the loop that never ends: nothing inside the loop could tell."""
        what = f"the seed took longer than {SEED_SECONDS} s; the seeds after it were not run"
        line = {**dict.fromkeys(COUNTS, 0), "seed": seed, "violations": [[Fault.RESIDUE.value, 0.0, what]]}
        print(json.dumps({**line, "kind": str(kind), "faults": {}, "digest": ""}), flush=True)
        os._exit(0)

    signal.signal(signal.SIGALRM, hung)
    for seed in range(first, first + count):
        signal.alarm(SEED_SECONDS)
        line = summary(run_seed(seed, kind))
        print(json.dumps(line), flush=True)
        if stop and line["violations"]:
            break
    return 0


def run_many(
    first: int, count: int, processes: int, *, stop: bool = False, kind: Kind | None = None
) -> Iterator[dict[str, Any]]:
    """The summaries of the seeds, in no particular order, run by that many processes. With `stop` no further seeds
    are begun after a violation."""
    chunk = 1 if stop else min(CHUNK, -(-count // processes))
    waiting = list(range(first, first + count, chunk))[::-1]
    running: list[subprocess.Popen[str]] = []
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                begin = waiting.pop()
                size = min(chunk, first + count - begin)
                command = [sys.executable, "-m", "tests.simulation", "--worker", str(begin), str(size)]
                command += [] if kind is None else ["--kind", kind]
                running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            oldest = running.pop(0)
            output, _ = oldest.communicate()
            if oldest.returncode != 0:
                raise SystemExit(f"a worker ended with status {oldest.returncode}")
            for line in output.splitlines():
                result = json.loads(line)
                yield result
                if stop and result["violations"]:
                    waiting.clear()
    finally:
        for process in running:
            process.kill()
            process.communicate()


def show_trace(outcome: Outcome) -> None:
    """Everything that happened in one seed."""
    for record in outcome.records:
        match record:
            case Received(connection=number, frame=frame):
                print(f"{record.at:10.6f}  received by {number}: {json.dumps(frame, ensure_ascii=False)}")
            case Invoked(emission=emission) | Answered(emission=emission):
                word = record.outcome if isinstance(record, Answered) else "emit"
                print(f"{record.at:10.6f}  {word} {emission.key} to {emission.user!r}")
            case Appended():
                print(f"{record.at:10.6f}  appended to {record.log_user!r}: {record.position} {record.event['type']}")
            case _:
                print(f"{record.at:10.6f}  {record}")
    print("faults:", dict(sorted(outcome.faults.items())))
    print("trace digest:", outcome.digest)


def report(results: list[dict[str, Any]], seconds: float) -> bool:
    """Print the figures; whether all is well."""
    faults: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for result in results:
        faults.update(result["faults"])
        found.update(fault for fault, _at, _what in result["violations"])
    seeds = len(results)
    deliveries = sum(result["deliveries"] for result in results)
    virtual = sum(result["virtual"] for result in results)
    kinds = Counter(result["kind"] for result in results)
    print(f"seeds                {seeds}  ({', '.join(f'{kinds[kind]} {kind}' for kind in Kind if kinds[kind])})")
    print(f"virtual seconds      {virtual:.0f}  ({virtual / max(seconds, 1e-9):.0f} times real time)")
    print(f"connections          {sum(result['connections'] for result in results)}")
    print(f"events appended      {sum(result['emitted'] for result in results)}")
    print(f"deliveries checked   {deliveries}")
    print("faults that landed")
    for name, count in sorted(faults.items()):
        print(f"  {name:<26} {count}")
    whole = seeds >= 100 and len(kinds) > 1
    missing = [name for name in MUST_LAND if not faults[name]] if whole else []
    for name in missing:
        print(f"  {name:<26} 0, so this run is no test of it")
    print("violations")
    for fault in Fault:
        count, of = found[fault.value], seeds if fault is Fault.RESIDUE else deliveries
        bound = f"  (95 %: fewer than {3 / of:.1e} per {'seed' if fault is Fault.RESIDUE else 'delivery'})"
        print(f"  {fault.value:<26} {count}{'' if count else bound if of else ''}")
    failed = sorted((result for result in results if result["violations"]), key=lambda each: int(each["seed"]))
    for result in failed[:SHOWN]:
        for fault, at, what in result["violations"][:5]:
            print(f"seed {result['seed']}: {fault} at {at:.3f}: {what}")
        print(f"  replay: python -m tests.simulation --kind {result['kind']} --seed {result['seed']} --trace")
    if len(failed) > SHOWN:
        print(f"and {len(failed) - SHOWN} more seeds: {', '.join(str(result['seed']) for result in failed[SHOWN:])}")
    print(f"wall time            {seconds:.1f} s")
    return not found and not missing


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--trace", action="store_true", help="with --seed: print everything that happened")
    parser.add_argument("--stop", action="store_true", help="begin no further seeds after a violation")
    parser.add_argument("--kind", type=Kind, choices=list(Kind), help="the kind of their worlds")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--worker", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker is not None:
        return _worker(*arguments.worker, stop=arguments.stop, kind=arguments.kind)
    began = time.perf_counter()
    if arguments.seed is not None:
        outcome = run_seed(arguments.seed, arguments.kind)
        if arguments.trace:
            show_trace(outcome)
        results = [summary(outcome)]
    else:
        seeds, processes, stop = arguments.seeds, arguments.processes, arguments.stop
        results = list(run_many(arguments.first, seeds, processes, stop=stop, kind=arguments.kind))
        if arguments.kind is None and not (stop and any(result["violations"] for result in results)):
            away = max(1, seeds // 5)  # worlds of a kind that is no seed's own
            results += run_many(arguments.first, away, processes, stop=stop, kind=Kind.AWAY)
    return 0 if report(results, time.perf_counter() - began) else 1


if __name__ == "__main__":
    sys.exit(main())
