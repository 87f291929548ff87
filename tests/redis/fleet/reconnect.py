"""How long it takes until the clients of a killed server are whole again on the others.

    python -m tests.redis.fleet.reconnect --clients 1000

A client is whole again when it was resumed from its cursor and has been shown everything that was acknowledged to its
user before the server was killed. Prints the times, and exits with 1 when something was lost, shown twice or out of
order, or when 99 % took longer than `--seconds`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.redis.fleet.emitter import read_journal
from tests.redis.fleet.ledger import Fact, Ledger, Promise, Verdict
from tests.redis.fleet.processes import Fleet, comes_about, wait_for
from tests.redis.server import PERSISTENCE, RedisServer
from tests.simulation.ledger import Received

RATE = 300.0
"""Events per second, for all users together, before, while and after the server is killed."""


@dataclass(frozen=True, slots=True)
class Figures:
    resumed: list[float]
    """For each client, how long after the kill it was greeted elsewhere; the shortest first."""
    whole: list[float]
    """For each client, how long after the kill it was whole again; the shortest first."""
    verdict: Verdict

    @staticmethod
    def within(seconds: Sequence[float], part: float) -> float:
        """How long it took for that part of them."""
        return seconds[max(0, int(len(seconds) * part + 0.999999) - 1)]


async def measure(directory: Path, *, clients: int, nodes: int = 3, pause: float = 0.1) -> Figures:
    redis = await asyncio.to_thread(RedisServer, directory, *PERSISTENCE["always"])
    try:
        async with Fleet(directory, redis.url, users=clients, rate=RATE / clients) as fleet:
            await fleet.start(nodes)
            doomed = fleet.nodes[0]
            for user in fleet.users:
                fleet.open(
                    user,
                    addresses=lambda: [doomed.address] if doomed in fleet.nodes else fleet.addresses(),
                    pause=pause,
                )
            await wait_for(lambda: all(tab.connected_to == doomed.address for tab in fleet.tabs), "clients", 30)
            fleet.start_worker()
            await wait_for(lambda: sum(tab.events > 0 for tab in fleet.tabs) > clients * 0.9, "events", 30)
            fleet.nodes.remove(doomed)
            doomed.kill()
            killed = time.monotonic()
            await comes_about(lambda: all(tab.greetings > 1 for tab in fleet.tabs), 15.0)
            await fleet.halt()
            await fleet.settle(redis.url, 30.0)
            await fleet.leave()
            verdict = Ledger(await fleet.story(Promise(durable=True))).judge()
            owed = _owed(fleet, killed)
            resumed, whole = [], []
            for tab in fleet.tabs:
                after = [each for each in tab.records if isinstance(each, Received) and each.at >= killed]
                greeting = next((each for each in after if each.frame["type"] == "connected"), None)
                if greeting is None or not greeting.frame["resumed"]:
                    continue
                resumed.append(greeting.at - killed)
                late = [each.at for each in after if each.frame.get("id") in owed.get(tab.user, ())]
                whole.append(max([greeting.at, *late]) - killed)
            return Figures(sorted(resumed), sorted(whole), verdict)
    finally:
        redis.stop()


def _owed(fleet: Fleet, killed: float) -> dict[str, set[str]]:
    """For each user, the ids of what was acknowledged before that moment."""
    owed: dict[str, set[str]] = {}
    for path in fleet.journals:
        for line in read_journal(path):
            kind, at, user, lane, n, _cursor = json.loads(line)
            if kind == "acknowledged" and at <= killed:
                owed.setdefault(user, set()).add(Fact(user, lane, n).id)
    return owed


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.redis.fleet.reconnect", description=__doc__)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="within which 99 %% are to be whole again")
    parser.add_argument("--pause", type=float, default=0.1, help="longest pause of a client before it comes back")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fleet-") as directory:
        figures = asyncio.run(
            measure(Path(directory), clients=options.clients, nodes=options.servers, pause=options.pause)
        )
    for name, times in (("resumed", figures.resumed), ("whole again", figures.whole)):
        marks = "  ".join(f"{part:.0%} {Figures.within(times, part):.2f} s" for part in (0.5, 0.9, 0.99, 1.0))
        print(f"{len(times)} of {options.clients} clients {name}: {marks}")
    verdict = figures.verdict
    print(f"{verdict.acknowledged} events acknowledged, {verdict.shown} shown, violations: {dict(verdict.by_class)}")
    for violation in verdict.violations[:10]:
        print(" ", violation.fault, violation.what)
    late = len(figures.whole) < options.clients or Figures.within(figures.whole, 0.99) > options.seconds
    raise SystemExit(1 if late or verdict.violations else 0)


if __name__ == "__main__":
    main()
