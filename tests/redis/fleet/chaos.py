"""A fleet of real processes under real faults, judged by the ledger; one row for each mode, never merged.

    python -m tests.redis.fleet.chaos --seconds 60 --mode always

The modes of persistence: `none`, `rdb` (Redis comes back with an older dump), `everysec`, `always`. Three more are what
may happen to any of them: `flushall`, `eviction`, and `failover` to a replica that is behind. Exits with 1 when a row
has a violation.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final

from tests.redis.fleet.faults import NETWORK, PROCESSES, STORE, Faults, Switch, directories
from tests.redis.fleet.ledger import Ledger, Promise, Verdict
from tests.redis.fleet.processes import Fleet, wait_for
from tests.redis.server import PERSISTENCE, RedisServer, binaries
from tests.simulation.checker import Fault

USERS: Final = ("alice", "Alice", "alice*", "{alice}", "ali:ce", "al ice", "user-7", "user-77")


@dataclass(frozen=True, slots=True)
class Mode:
    persistence: str
    promise: Promise
    store: tuple[str, ...] = STORE
    """What happens to Redis."""
    behind_proxy: bool = False
    """Whether everybody goes through the proxy, because Redis moves."""


WITHOUT_KILLS: Final = tuple(name for name in STORE if name != "redis_killed")
MODES: Final = {
    "none": Mode("none", Promise()),
    "rdb": Mode("rdb", Promise(unseen=True), (*STORE, "rolled_back", "rolled_back")),
    "everysec": Mode("everysec", Promise(unseen=True)),
    "always": Mode("always", Promise(durable=True)),
    "flushall": Mode("none", Promise(), (*WITHOUT_KILLS, "flushed", "flushed", "flushed")),
    "eviction": Mode("none", Promise(forgets_ids=True), (*WITHOUT_KILLS, "evicted", "evicted", "evicted")),
    "failover": Mode("none", Promise(unseen=True), ("failed_over", "failed_over", *WITHOUT_KILLS), behind_proxy=True),
}


@dataclass(slots=True)
class Row:
    mode: str
    seconds: float
    verdict: Verdict
    faults: Counter[str] = field(default_factory=Counter)
    inflicted: int = 0

    CLASSES: ClassVar = {
        "lost": (Fault.LOST, Fault.LOST_SILENT),
        "duplicates": (Fault.DUPLICATE,),
        "disorder": (Fault.REORDER,),
        "untold": (Fault.GAP_WITHOUT_NOTICE, Fault.CHAIN_BREAK),
        "leaks": (Fault.LEAK,),
    }
    HEAD: ClassVar = (
        "mode", "seconds", "emitted", "acked", "shown", "faults", "resumed", "gaps told", "shown again", "twice",
        "losses told", "unseen", *CLASSES, "other",
    )  # fmt: skip

    def cells(self) -> tuple[str, ...]:
        verdict, found = self.verdict, self.verdict.by_class
        classes = [sum(found[fault] for fault in faults) for faults in self.CLASSES.values()]
        numbers = (
            verdict.emitted, verdict.acknowledged, verdict.shown, self.inflicted, verdict.resumed,
            verdict.gaps.total(), verdict.repeated, verdict.twice, verdict.told, verdict.unseen,
            *classes, found.total() - sum(classes),
        )  # fmt: skip
        return (self.mode, f"{self.seconds:.0f}", *map(str, numbers))


async def run(
    directory: Path,
    mode: str,
    *,
    seconds: float,
    seed: int = 1,
    nodes: int = 3,
    rate: float = 60.0,
    pause: float = 0.6,
    store: tuple[str, ...] | None = None,
    network: tuple[str, ...] = NETWORK,
    processes: tuple[str, ...] = PROCESSES,
    binary: str | None = None,
) -> Row:
    """One row. `pause` is the longest rest between two faults of a kind, of which three go on beside one another."""
    chosen = MODES[mode]
    rng = random.Random(f"{seed}/{mode}")
    start = _kept(directories(directory, binary))
    redis = await asyncio.to_thread(start, *PERSISTENCE[chosen.persistence])
    try:
        async with (
            Switch(redis.port) as proxy,
            Fleet(
                directory, proxy.url if chosen.behind_proxy else redis.url, users=USERS, namespace=f"chaos-{mode}",
                seed=seed, rate=rate, large=0.02,
            ) as fleet,
        ):  # fmt: skip
            # One server and one worker go through the proxy; the other worker and servers do not, unless all must.
            await asyncio.gather(
                fleet.start(nodes - 1, 1, emits=USERS[:4]), fleet.start(1, 1, emits=USERS[4:], url=proxy.url)
            )
            _open_tabs(fleet, nodes)
            await wait_for(lambda: all(tab.events > 5 for tab in fleet.tabs), "the first events", 15)
            faults = Faults(fleet, redis, proxy, rng, start)
            enough = asyncio.Event()
            asyncio.get_running_loop().call_later(seconds, enough.set)
            began = time.monotonic()
            kinds = (chosen.store if store is None else store, network, processes)
            async with asyncio.TaskGroup() as group:
                for kind in kinds:
                    group.create_task(faults.go_on(kind, enough, pause))
            lasted = time.monotonic() - began
            await fleet.halt()
            await fleet.settle(faults.redis.url)
            await fleet.leave()
            verdict = Ledger(await fleet.story(chosen.promise)).judge()
            inflicted = sum(faults.counts[name] for kind in kinds for name in set(kind))
            return Row(mode, lasted, verdict, faults.counts, inflicted)
    finally:
        start.stop()


class _kept:
    """Starts servers, and stops all of them at the end."""

    def __init__(self, start: Callable[..., RedisServer]) -> None:
        self._start = start
        self._servers: list[RedisServer] = []

    def __call__(self, *options: str) -> RedisServer:
        self._servers.append(self._start(*options))
        return self._servers[-1]

    def stop(self) -> None:
        for server in self._servers:
            server.stop()


def _open_tabs(fleet: Fleet, nodes: int) -> None:
    """Each user has as many tabs as there are servers, of both kinds, at any server that there is; some are patient."""
    for user in fleet.users:
        for number in range(nodes):
            fleet.open(user, v1=number % 2 == 0, patience=2.5 if number else 8.0)


def table(rows: Iterable[Row]) -> str:
    cells = [Row.HEAD, *[row.cells() for row in rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.redis.fleet.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each row")
    parser.add_argument("--mode", action="append", choices=MODES, help="may be repeated; all, if none is named")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--binary", choices=binaries(), help="which server; by default the first that is found")
    parser.add_argument("--quiet", action="store_true", help="do not list the faults")
    parser.add_argument("--keep", action="store_true", help="keep what the processes wrote, and say where")
    options = parser.parse_args()
    rows = []
    for mode in options.mode or MODES:
        directory = Path(tempfile.mkdtemp(prefix=f"chaos-{mode}-"))
        try:
            row = asyncio.run(
                run(
                    directory, mode, seconds=options.seconds, seed=options.seed, nodes=options.servers,
                    binary=binaries()[options.binary] if options.binary else None,
                )
            )  # fmt: skip
        finally:
            if options.keep:
                print(f"{mode}: kept in {directory}")
            else:
                shutil.rmtree(directory)
        rows.append(row)
        if not options.quiet:
            print(f"{mode}: " + ", ".join(f"{name} {count}" for name, count in sorted(row.faults.items())))
            print(f"{mode}: gaps {dict(row.verdict.gaps)}")
        for violation in row.verdict.violations[:20]:
            print(f"{mode}: {violation.fault} {violation.what}")
    print(table(rows))
    raise SystemExit(1 if any(row.verdict.violations for row in rows) else 0)


if __name__ == "__main__":
    main()
