"""What happens to a fleet and its Redis. Each fault is a coroutine that makes something go wrong, and mends it."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from tests.redis.fleet.processes import Fleet, Process, comes_about
from tests.redis.proxy import Proxy
from tests.redis.server import RedisServer

Inflict = Callable[[], Awaitable[None]]

STORE: Final = (
    "redis_killed",
    "redis_frozen_briefly",
    "redis_frozen_for_long",
    "commands_killed",
    "subscribers_killed",
    "scripts_flushed",
    "buffers_overrun",
    "redis_full",
    "redis_read_only",
)
NETWORK: Final = (
    "slow",
    "cut",
    "half_closed_to_us",
    "half_closed_to_redis",
    "silent",
    "deaf",
    "reply_lost",
    "clients_cut",
)
PROCESSES: Final = ("server_killed", "server_frozen", "server_stopped", "worker_killed", "worker_frozen")


class Switch(Proxy):
    """A proxy whose other end can be another server later, as an address that moves with a failover."""

    def turn_to(self, port: int) -> None:
        self._target = port


class Faults:
    """All that can be inflicted. `counts` says how often each was, and whether it took hold."""

    def __init__(
        self, fleet: Fleet, redis: RedisServer, proxy: Switch, rng: random.Random, start: Callable[..., RedisServer]
    ) -> None:
        """`start(*options)` starts another Redis in a directory of its own."""
        self.fleet = fleet
        self.redis = redis
        self.proxy = proxy
        self.counts: Counter[str] = Counter()
        self._rng = rng
        self._start = start

    async def inflict(self, name: str) -> None:
        fault: Inflict = getattr(self, f"_{name}")
        await fault()
        self.counts[name] += 1

    async def go_on(self, names: Sequence[str], until: asyncio.Event, pause: float) -> None:
        """One fault of these after the other, each as often as the others, with pauses, until it is enough. The first
        of them comes first, and surely."""
        deck = list(names)
        while True:
            for name in deck:
                await self.inflict(name)
                if await comes_about(until.is_set, self._rng.uniform(0.3, 1.0) * pause):
                    return
            self._rng.shuffle(deck)

    async def _some_time(self, low: float, high: float) -> None:
        await asyncio.sleep(self._rng.uniform(low, high))

    async def _ask(self, *command: object, of: RedisServer | None = None) -> bytes:
        return await asyncio.to_thread((of or self.redis).ask, *command)

    # -- Redis

    async def _redis_killed(self) -> None:
        self.redis.kill()
        await self._some_time(0.0, 1.0)
        await asyncio.to_thread(self.redis.start)

    async def _redis_frozen(self, low: float, high: float) -> None:
        self.redis.signal(signal.SIGSTOP)
        try:
            await self._some_time(low, high)
        finally:
            self.redis.signal(signal.SIGCONT)

    async def _redis_frozen_briefly(self) -> None:
        await self._redis_frozen(0.2, 1.5)

    async def _redis_frozen_for_long(self) -> None:
        """For longer than an exchange waits."""
        await self._redis_frozen(2.3, 3.2)

    async def _commands_killed(self) -> None:
        for _ in range(3):
            self.counts["connections killed"] += int((await self._ask("CLIENT", "KILL", "TYPE", "normal"))[1:-2])
            await self._some_time(0.0, 0.1)

    async def _subscribers_killed(self) -> None:
        self.counts["connections killed"] += int((await self._ask("CLIENT", "KILL", "TYPE", "pubsub"))[1:-2])

    async def _scripts_flushed(self) -> None:
        for _ in range(3):
            await self._ask("SCRIPT", "FLUSH")
            await self._some_time(0.0, 0.1)

    async def _subscribers(self) -> set[bytes]:
        listed = await self._ask("CLIENT", "LIST", "TYPE", "pubsub")
        return {line.split(b" ", 1)[0] for line in listed.split(b"\n") if line.startswith(b"id=")}

    async def _buffers_overrun(self) -> None:
        """Whoever does not read a large event at once is disconnected by Redis."""
        before = await self._subscribers()
        await self._ask("CONFIG", "SET", "client-output-buffer-limit", "pubsub 1 0 0")
        await self._some_time(0.5, 1.0)
        after = await self._subscribers()
        await self._ask("CONFIG", "SET", "client-output-buffer-limit", "pubsub 33554432 8388608 60")
        self.counts["subscribers overrun"] += len(before - after)

    async def _redis_full(self) -> None:
        await self._ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        await self._ask("CONFIG", "SET", "maxmemory", 1)
        await self._some_time(0.3, 1.0)
        await self._ask("CONFIG", "SET", "maxmemory", 0)

    async def _redis_read_only(self) -> None:
        await self._ask("REPLICAOF", "127.0.0.1", 1)
        await self._some_time(0.3, 1.0)
        await self._ask("REPLICAOF", "NO", "ONE")

    # -- Redis, when it may forget

    async def _flushed(self) -> None:
        await self._ask("FLUSHALL")

    async def _evicted(self) -> None:
        about = await self._ask("INFO", "memory")
        used = int(about.split(b"used_memory:", 1)[1].split(b"\r\n", 1)[0])
        empty = int(about.split(b"used_memory_startup:", 1)[1].split(b"\r\n", 1)[0])
        await self._ask("CONFIG", "SET", "maxmemory-policy", self._rng.choice(("allkeys-lru", "allkeys-random")))
        await self._ask("CONFIG", "SET", "maxmemory", empty + (used - empty) * 2 // 3)
        await self._some_time(0.2, 0.6)
        await self._ask("CONFIG", "SET", "maxmemory", 0)
        stats = await self._ask("INFO", "stats")
        self.counts["keys evicted"] += int(stats.split(b"evicted_keys:", 1)[1].split(b"\r\n", 1)[0])
        await self._ask("CONFIG", "RESETSTAT")

    async def _rolled_back(self) -> None:
        """It comes back with what it had a while ago, however often it has written since."""
        dump = self.redis.directory / "dump.rdb"
        kept = self.redis.directory / "kept.rdb"
        await self._ask("SAVE")
        shutil.copy(dump, kept)
        await self._some_time(0.5, 4.0)
        self.redis.kill()
        shutil.copy(kept, dump)
        await self._some_time(0.0, 0.5)
        await asyncio.to_thread(self.redis.start)

    async def _failed_over(self) -> None:
        """A replica takes the place of the server that has not seen the last it wrote."""
        async with Switch(self.redis.port) as between:
            replica = await asyncio.to_thread(self._start, "--replicaof", f"127.0.0.1 {between.port}")
            await self._caught_up(replica)
            between.blackholed = True
            await self._some_time(0.3, 2.0)
            self.redis.kill()
            await self._ask("REPLICAOF", "NO", "ONE", of=replica)
        self.redis = replica
        self.proxy.turn_to(replica.port)
        self.proxy.cut()

    async def _caught_up(self, replica: RedisServer) -> None:
        for _ in range(500):
            if b"master_link_status:up" in await self._ask("INFO", "replication", of=replica):
                return
            await asyncio.sleep(0.02)
        raise AssertionError("the replica did not catch up")

    # -- the network between Redis and those that go through the proxy, and to the clients

    async def _slow(self) -> None:
        self.proxy.delay = self._rng.uniform(0.01, 0.3)
        await self._some_time(0.5, 1.5)
        self.proxy.delay = 0.0

    async def _cut(self) -> None:
        for _ in range(3):
            self.proxy.cut()
            await self._some_time(0.0, 0.2)

    async def _half_closed_to_us(self) -> None:
        self.proxy.half_close(towards_client=True)

    async def _half_closed_to_redis(self) -> None:
        self.proxy.half_close(towards_client=False)

    async def _silent(self) -> None:
        """What is sent meanwhile is lost, and nothing is closed."""
        self.proxy.blackholed = True
        await self._some_time(0.5, 3.0)
        self.proxy.blackholed = False
        self.proxy.cut()  # a stream that has lost bytes is not one that TCP would go on with

    async def _deaf(self) -> None:
        self.proxy.deaf = True
        await self._some_time(0.5, 2.0)
        self.proxy.deaf = False

    async def _reply_lost(self) -> None:
        before = self.proxy.lost
        self.proxy.lose_replies(b"EVALSHA", 3)
        await comes_about(lambda: self.proxy.lost >= before + 3, 1.0)
        self.counts["replies lost"] += self.proxy.lost - before
        self.proxy.lose_replies(b"", 0)

    async def _clients_cut(self) -> None:
        for tab in self._rng.sample(self.fleet.tabs, len(self.fleet.tabs) // 2):
            tab.cut()

    # -- the processes

    def _one_of(self, running: Sequence[Process]) -> Process:
        return self._rng.choice(list(running))

    async def _server_killed(self) -> None:
        node = self._one_of(self.fleet.nodes)
        self.fleet.kill(node)
        await self.fleet.replace_killed(node)

    async def _frozen(self, process: Process) -> None:
        process.signal(signal.SIGSTOP)
        try:
            await self._some_time(0.5, 4.0)
        finally:
            process.signal(signal.SIGCONT)

    async def _server_frozen(self) -> None:
        await self._frozen(self._one_of(self.fleet.nodes))

    async def _server_stopped(self) -> None:
        """In order, as for a deploy."""
        node = self._one_of(self.fleet.nodes)
        self.fleet.nodes.remove(node)
        await self.fleet.stopped(node)
        await self.fleet.replace_killed(node)

    async def _worker_killed(self) -> None:
        worker = self._one_of(self.fleet.workers)
        self.fleet.kill(worker)
        await self.fleet.replace_killed(worker)

    async def _worker_frozen(self) -> None:
        await self._frozen(self._one_of(self.fleet.workers))


def directories(root: Path, binary: str | None = None) -> Callable[..., RedisServer]:
    """Starts servers, each in a directory of its own."""
    numbers = iter(range(1_000_000))

    def start(*options: str) -> RedisServer:
        directory = root / f"redis-{next(numbers)}"
        directory.mkdir()
        return RedisServer(directory, *options, binary=binary)

    return start
