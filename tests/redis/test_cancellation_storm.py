"""Whoever is cancelled, or loses patience, leaves no answer behind that somebody else is given.

Thousands of calls for many users against a slow Redis, half of them cancelled at random moments. redis-py 4.5.1, run
the same way, shows that such a storm finds what it is for: it answers callers with the values of others
(CVE-2023-28858).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.redis.control import AT_ONCE, LONGEST, USERS, cancelled_after
from tests.redis.marks import NEEDS_REDIS
from tests.redis.proxy import Proxy
from tests.redis.server import RedisServer
from tests.support import decoded
from websocket_core.errors import LogUnavailable
from websocket_core.events import Event
from websocket_core.identity import LogName
from websocket_core.log import Position
from websocket_core.logs.redis import RedisLog

pytestmark = NEEDS_REDIS

REPOSITORY = Path(__file__).resolve().parents[2]
CONTROL = REPOSITORY / ".venv-control"
CALLS = 4_000
SLOW = LONGEST / 4
"""Seconds that every request takes on its way."""
TIMEOUT = 0.2


class Storm:
    """A log of each user with one entry, and calls about them, each of which says whether it was answered rightly."""

    def __init__(self, log: RedisLog, seed: int) -> None:
        self.log = log
        self.names = [LogName("user", f"user-{number}") for number in range(USERS)]
        self.epochs: dict[LogName, str] = {}
        self.appended: dict[LogName, dict[str, Position]] = {name: {} for name in self.names}
        self.counts: Counter[str] = Counter()
        self.rng = random.Random(seed)
        self._places = asyncio.Semaphore(AT_ONCE)
        self._numbers = iter(range(1_000_000))

    async def begin(self) -> None:
        for name in self.names:
            position = await self.append(name, "first")
            self.epochs[name] = position.epoch
        assert len(set(self.epochs.values())) == USERS

    async def append(self, name: LogName, event_id: str) -> Position:
        body = f'{{"type":"t","data":{{"of":"{name.name}"}},"id":"{event_id}"'.encode()
        position = await self.log.append(name, Event(event_id, body))
        self.appended[name][event_id] = position
        return position

    async def _append(self, name: LogName) -> bool:
        position = await self.append(name, f"e{next(self._numbers)}")
        return position.epoch == self.epochs[name]

    async def _open(self, name: LogName) -> bool:
        return (await self.log.open(name)).epoch == self.epochs[name]

    async def _read(self, name: LogName) -> bool:
        batch = await self.log.read(name, None, 10)
        assert batch.start is not None
        return (
            batch.start.epoch == self.epochs[name]
            and batch.entries[0].event.id == "first"
            and all(entry.log == name and decoded(entry)["data"]["of"] == name.name for entry in batch.entries)
        )

    async def call(self) -> None:
        rng = self.rng
        name = rng.choice(self.names)
        after = cancelled_after(rng)
        chosen: Coroutine[Any, Any, bool] = rng.choice((self._append, self._open, self._read, self._read))(name)
        async with self._places:
            calling = asyncio.ensure_future(chosen)
            if after is not None:
                asyncio.get_running_loop().call_later(after, calling.cancel)
            await asyncio.wait([calling])
            if calling.cancelled():
                self.counts["cancelled"] += 1
            elif isinstance(calling.exception(), LogUnavailable):
                self.counts["unavailable"] += 1
            else:  # an answer of another shape is another's too
                right = calling.exception() is None and calling.result()
                self.counts["right" if right else "WRONG"] += 1

    async def whole_logs_are_right(self, reader: RedisLog) -> None:
        """Each log holds what its user appended and nothing else, each event once, where its caller was told."""
        for name in self.names:
            stands: dict[str, Position] = {}
            after = None
            while True:
                batch = await reader.read(name, after, 256)
                for entry in batch.entries:
                    assert entry.log == name
                    assert decoded(entry)["data"]["of"] == name.name
                    assert entry.event.id not in stands
                    stands[entry.event.id] = entry.position
                if not batch.more:
                    break
                after = batch.entries[-1].position
            assert self.appended[name].items() <= stands.items()


@contextlib.asynccontextmanager
async def a_storm(server: RedisServer, proxy: Proxy, namespace: str) -> AsyncIterator[Storm]:
    log = RedisLog(proxy.url, namespace=namespace, timeout=TIMEOUT)
    reader = RedisLog(server.url, namespace=namespace)
    try:
        storm = Storm(log, seed=11)
        await storm.begin()
        proxy.delay = SLOW
        yield storm
        await storm.whole_logs_are_right(reader)
    finally:
        await log.close()
        await reader.close()


async def test_nobody_is_given_the_answer_to_a_call_that_was_cancelled(server: RedisServer) -> None:
    async with Proxy(server.port) as proxy, a_storm(server, proxy, "storm") as storm:
        await asyncio.gather(*[storm.call() for _ in range(CALLS)])
    assert storm.counts["WRONG"] == 0
    assert storm.counts["cancelled"] > CALLS // 10
    assert storm.counts["right"] > CALLS // 10


async def test_nobody_is_given_the_answer_to_a_call_that_took_too_long(server: RedisServer) -> None:
    """Redis answers too late again and again, when others are waiting, and connections are lost with answers under
    way."""
    async with Proxy(server.port) as proxy, a_storm(server, proxy, "late") as storm:
        calls = asyncio.gather(*[storm.call() for _ in range(CALLS)])
        for number in itertools.count(1):
            for delay in (SLOW, TIMEOUT * 1.5):
                proxy.delay = delay
                await asyncio.wait([calls], timeout=storm.rng.uniform(0.3, 0.6))
            if calls.done():
                break
            if number % 3 == 0:
                proxy.cut()
        await calls
    assert storm.counts["WRONG"] == 0
    assert storm.counts["unavailable"] > 0
    assert storm.counts["right"] > CALLS // 20


async def test_a_client_that_mixes_answers_up_is_found_out(server: RedisServer) -> None:
    if not CONTROL.is_dir():
        missing = "the control is not installed: make .venv-control/.ready"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    async with Proxy(server.port) as proxy:
        proxy.delay = SLOW
        control = await asyncio.create_subprocess_exec(
            sys.executable, str(REPOSITORY / "tests" / "redis" / "control.py"), str(proxy.port), "3000", "11",
            env={**os.environ, "PYTHONPATH": str(CONTROL), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            out, errors = await asyncio.wait_for(control.communicate(), 30)
        finally:
            if control.returncode is None:
                control.kill()
                await control.wait()
    assert control.returncode == 0, errors.decode()
    found = json.loads(out)
    assert found["version"] == "4.5.1"
    assert found["wrong"] > found["answered"] * 0.02, found
