"""Many processes on one Redis: `python -m benchmarks.redis_log [--quick] [--only WORD] [--save]`.

Redis, publisher and subscriber are processes of this machine, started here and stopped again. CPU is of each process
alone, user and system; compare within one run. The peers keep nothing and lose what is published while nobody listens;
ours stores, numbers, chains and deduplicates each event.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis

from benchmarks.run import machine
from tests.redis.server import RedisServer

OURS, SOCKETIO, CHANNELS = "ours", "python-socketio", "channels_redis"
FLOOR = "hiredis, uvloop"
"""Reads what is published and does nothing with it: less than that nobody pays."""


class Role:
    """One process of `benchmarks.redis_roles`, for `with`. It is ready when the block begins."""

    def __init__(self, role: str, stack: str, url: str, **options: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.redis_roles", role, stack, url, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Role:
        self.answer()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if not said:
            raise SystemExit("a process of the benchmark has ended; see above")
        found: dict[str, Any] = json.loads(said)
        return found


class Bench:
    """The rows, as they are measured."""

    def __init__(self, *, quick: bool, only: str) -> None:
        self.quick = quick
        self._only = only
        self.rows: list[dict[str, Any]] = []

    def wants(self, name: str) -> bool:
        return self._only in name

    def row(self, what: str, stack: str, **figures: float) -> None:
        self.rows.append({"what": what, "stack": stack, **figures})
        shown = "  ".join(f"{name} {value:,.1f}" for name, value in figures.items())
        print(f"{what:<58} {stack:<16} {shown}", flush=True)

    @contextmanager
    def redis(self) -> Iterator[tuple[str, Redis]]:
        with tempfile.TemporaryDirectory() as directory:
            server = RedisServer(Path(directory))
            client: Redis = Redis.from_url(server.url)
            try:
                yield server.url, client
            finally:
                client.close()
                server.stop()

    # -- what is measured

    def appends(self) -> None:
        every = (OURS, SOCKETIO, CHANNELS)
        cases = [
            ("append, 64 at once", 64, 40_000, every, False),
            ("append of what is encoded already, 64 at once", 64, 40_000, (OURS,), True),
            ("append, one by one", 1, 5_000, every, False),
            ("append in bulk, 1,024 at once", 1_024, 80_000, (OURS,), False),  # the peers open a connection for each
        ]
        for what, concurrent, total, stacks, encoded in cases:
            for stack in stacks:
                count = total // (4 if self.quick else 1) // (1 if stack == OURS else 4)
                first = count // 1_000 + 1 if encoded else 0  # of each user
                with (
                    self.redis() as (url, client),
                    Role("append", stack, url, users=1_000, concurrent=concurrent, total=count, encoded=first) as role,
                ):
                    before = redis_cpu(client)
                    role.go()
                    found = role.answer()
                    used = redis_cpu(client) - before
                self.row(
                    what, stack, per_second=found["events"] / found["seconds"], client_us=each(found),
                    redis_us=used / found["events"] * 1e6,
                )  # fmt: skip

    def deliveries(self) -> None:
        for users, rate in ((1_000, 2_000), (50_000, 2_000), (10_000, 10_000)):
            what = f"append to callback, {users:,} users, {rate:,}/s"
            self._deliver(what, OURS, users=users, rate=rate, served=users)
            self._deliver(what, FLOOR, users=users, rate=rate, served=users)
        for stack in (SOCKETIO, CHANNELS):
            self._deliver("append to callback, 1,000 users, 2,000/s", stack, users=1_000, rate=2_000, served=1_000)
        for rate in (2_000, 10_000):
            what = f"and a cursor advanced, 10,000 users, {rate:,}/s"
            self._deliver(what, OURS, users=10_000, rate=rate, served=10_000, cursors=True)

    def strangers(self) -> None:
        for stack in (OURS, SOCKETIO):
            self._deliver("a process that serves 1 % of the users, 2,000/s for the rest", stack, 10_000, 2_000, 100)

    def _deliver(self, what: str, stack: str, users: int, rate: int, served: int, *, cursors: bool = False) -> None:
        seconds = 3 if self.quick else 8
        first = served if served < users else 0
        with (
            self.redis() as (url, client),
            Role("subscribe", stack, url, users=served, first=0, cursors=cursors) as subscriber,
            Role(
                "paced", OURS if stack == FLOOR else stack, url, users=users, first=first, rate=rate, seconds=seconds
            ) as publisher,
        ):
            time.sleep(1.0)
            before = redis_cpu(client)
            subscriber.go()
            subscriber.answer()
            publisher.go()
            sent = publisher.answer()
            time.sleep(0.3)
            used = redis_cpu(client) - before
            subscriber.go()
            found = subscriber.answer()
        figures = {"subscriber_us": found["cpu"] / sent["events"] * 1e6, "redis_us": used / sent["events"] * 1e6}
        if "p50" in found:
            figures |= {"p50_us": found["p50"] * 1e6, "p99_us": found["p99"] * 1e6}
        self.row(what, stack, arrived=100.0 * found["events"] / sent["events"], **figures)

    def catch_up(self) -> None:
        users, events = 1_000, 200
        with self.redis() as (url, client):
            with Role("append", OURS, url, users=users, concurrent=256, total=users * events) as writer:
                writer.go()
                writer.answer()
            with Role("catch_up", OURS, url, users=users) as reader:
                before = redis_cpu(client)
                reader.go()
                found = reader.answer()
                used = redis_cpu(client) - before
        self.row(
            f"catch-up of {users:,} users with {events} events each", OURS, seconds=found["seconds"],
            events=found["events"], client_us=each(found), redis_us=used / found["events"] * 1e6,
        )  # fmt: skip

    def memory(self) -> None:
        users, events = 1_000, 100
        with self.redis() as (url, client):
            before = client.info("memory")["used_memory"]
            with Role("append", OURS, url, users=users, concurrent=256, total=users * (events - 1)) as writer:
                writer.go()
                writer.answer()
            used = client.info("memory")["used_memory"] - before
        self.row(f"Redis memory of a user with {events} events", OURS, kib=used / users / 1024)


def each(found: dict[str, Any]) -> float:
    """CPU microseconds of each event."""
    return float(found["cpu"]) / float(found["events"]) * 1e6


def redis_cpu(client: Redis) -> float:
    found: Any = client.info("cpu")
    return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small numbers, to try the benchmark itself")
    parser.add_argument("--only", default="", metavar="WORD", help="what is measured: a part of the method's name")
    parser.add_argument("--save", action="store_true", help="write a file under benchmarks/results/")
    options = parser.parse_args()
    bench = Bench(quick=options.quick, only=options.only)
    for measure in (bench.appends, bench.deliveries, bench.strangers, bench.catch_up, bench.memory):
        if bench.wants(measure.__name__):
            measure()
    if options.save:
        about = machine()
        name = about["date"].replace(":", "").replace("+0000", "Z")
        target = Path(__file__).parent / "results" / f"redis-{name}.json"
        target.write_text(json.dumps({"about": about, "rows": bench.rows}, indent=1) + "\n")
        print(f"saved as benchmarks/results/{target.name}")


if __name__ == "__main__":
    main()
