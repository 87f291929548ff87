"""A log in memory that behaves as one over a network does, and is watched from outside."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from tests.simulation.ledger import Appended, LifeEnded, Opened, Record
from tests.simulation.loop import SimLoop
from websocket_core.control import CONTROL
from websocket_core.errors import LogUnavailable
from websocket_core.events import Event
from websocket_core.identity import LogName, UserId
from websocket_core.log import Batch, Entry, LogStore, Position
from websocket_core.logs.memory import MemoryLog
from websocket_core.state import SharedState
from websocket_core.wire import encode_cursor

Way = Literal["killed", "frozen"]
WAYS: Final[tuple[Way, ...]] = ("killed", "frozen")
FROZEN_SECONDS: Final = 2.0
"""So long a call waits for an answer of a log that is frozen."""


@dataclass(slots=True)
class LogTrouble:
    """How a log misbehaves. Probabilities."""

    suspends: float = 0.0
    """That a call gives up the loop, before and after it does its work."""
    lost_wakes: float = 0.0
    late_wakes: float = 0.0
    refused: float = 0.0
    """That an append is refused, and nothing is appended."""
    lost_replies: float = 0.0
    """That an append is done and its caller is told otherwise."""
    unreadable: float = 0.0
    mixed_replies: float = 0.0
    """That a read returns what stands in another log, as a client library does that confuses its replies."""


class SimLog:
    """A `LogStore` whose calls suspend, fail and lose their replies and wake-ups; what it takes is recorded."""

    def __init__(
        self,
        inner: LogStore,
        *,
        loop: SimLoop,
        rng: random.Random,
        trouble: LogTrouble,
        faults: Counter[str],
        record: Callable[[Record], None],
    ) -> None:
        self.inner = inner
        self.trouble = trouble
        self.ambushes: dict[LogName, Callable[[], object]] = {}
        """What to do just after the next read of a log: the moment at which an append is most easily missed."""
        self.ambushes_at_open: dict[LogName, Callable[[], object]] = {}
        """What to do when the head of a log was told to somebody, who has not been let in yet."""
        self.ambushes_at_denial: dict[LogName, Callable[[], object]] = {}
        """What to do when the deny-list was asked about somebody, who is not registered yet."""
        self.slow_orders: dict[LogName, float] = {}
        """How many seconds the next control entry is under way to its log."""
        self.dead = False
        """Whether its process is gone."""
        self.watched_logs: Counter[LogName] = Counter()
        self.away: Way | None = None
        self._returned = asyncio.Event()
        self._loop = loop
        self._rng = rng
        self._faults = faults
        self._record = record

    async def pause(self) -> None:
        """Give up the loop, perhaps. Raises `LogUnavailable` when the process is gone."""
        if self.happens(self.trouble.suspends, "suspended_call"):
            await asyncio.sleep(self._rng.choice((0.0, 0.0, 0.001, 0.02)))
        if self.dead:
            raise LogUnavailable("the process of this log is gone")
        if self.away == "killed":
            raise LogUnavailable("nobody is there")
        if self.away == "frozen":
            try:
                async with asyncio.timeout(FROZEN_SECONDS):
                    await self._returned.wait()
            except TimeoutError:
                raise LogUnavailable("no answer in time") from None

    def go_away(self, way: Way) -> None:
        """Be away for everybody: `killed`, calls fail at once, or `frozen`, they wait for an answer for a while. What
        was done just then may be done, and its reply lost."""
        self.away = way
        self._returned.clear()

    def come_back(self) -> None:
        self.away = None
        self._returned.set()

    def happens(self, probability: float, fault: str) -> bool:
        if probability and self._rng.random() < probability:
            self._faults[fault] += 1
            return True
        return False

    def ambush(self, ambushes: dict[LogName, Callable[[], object]], log: LogName) -> None:
        """Do now what waits for this moment."""
        if (ambush := ambushes.pop(log, None)) is not None:
            self._loop.call_soon(ambush)

    async def open(self, log: LogName) -> Position:
        await self.pause()
        position = await self.inner.open(log)
        self._record(Opened(self._loop.time(), log.name, encode_cursor(position)))
        self.ambush(self.ambushes_at_open, log)
        await self.pause()
        return position

    async def read(self, log: LogName, after: Position | None, limit: int) -> Batch:
        await self.pause()
        if self.happens(self.trouble.unreadable, "read_failed"):
            raise LogUnavailable("unreadable for a while")
        batch = await self.inner.read(log, after, limit)
        ambush = self.ambushes.pop(log, None)
        if ambush is not None:
            self._faults["append_behind_a_read"] += 1
            self._loop.call_soon(ambush)
        await self.pause()
        if self.trouble.mixed_replies and self._rng.random() < self.trouble.mixed_replies:
            others = [other for other, count in self.watched_logs.items() if count and other != log]
            if others:
                foreign = await self.inner.read(self._rng.choice(others), None, limit)
                if foreign.entries:
                    self._faults["mixed_reply"] += 1
                    return foreign
        return batch

    async def control(self, log: LogName) -> Entry | None:
        await self.pause()
        if self.happens(self.trouble.unreadable, "read_failed"):
            raise LogUnavailable("unreadable for a while")
        entry = await self.inner.control(log)
        await self.pause()
        return entry

    async def append(self, log: LogName, event: Event) -> Position:
        try:
            await self.pause()
            if event.connection_id == CONTROL and (seconds := self.slow_orders.pop(log, 0.0)):
                self._faults["slow_order"] += 1
                await asyncio.sleep(seconds)
                await self.pause()
            if self.happens(self.trouble.refused, "append_refused"):
                raise LogUnavailable("refused for a while")
            position = await self.inner.append(log, event)
            self._record(
                Appended(
                    self._loop.time(),
                    log.name,
                    event.id,
                    json.loads(event.body + b"}"),
                    len(event.body),
                    event.connection_id,
                    encode_cursor(position),
                )
            )
            await self.pause()
        except asyncio.CancelledError:
            self._faults["cancelled_in_append"] += 1
            raise
        if self.happens(self.trouble.lost_replies, "append_reply_lost"):
            raise LogUnavailable("the reply was lost")
        return position

    def watch(self, log: LogName, wake: Callable[[], None]) -> Callable[[], None]:
        def woken() -> None:
            if self.happens(self.trouble.lost_wakes, "lost_wake_up"):
                return
            if self.happens(self.trouble.late_wakes, "late_wake_up"):
                self._loop.call_later(self._rng.random(), wake)
            else:
                wake()

        unwatch = self.inner.watch(log, woken)
        self.watched_logs[log] += 1
        if isinstance(self.inner, MemoryLog):  # it begins a life for who watches, where the last one has just ended
            opening = self.inner.open(log)
            try:
                opening.send(None)
            except StopIteration as done:
                self._record(Opened(self._loop.time(), log.name, encode_cursor(done.value)))
            else:
                raise AssertionError("a log in memory does not suspend")
        held = [unwatch]

        def stop() -> None:
            if held:
                self.watched_logs[log] -= 1
                held.pop()()

        return stop

    async def forget(self, log: LogName) -> None:
        await self.pause()
        self._record(LifeEnded(self._loop.time(), log.name))
        await self.inner.forget(log)
        if self.watched_logs.get(log):  # somebody is connected, so the log lives on; this read looks at it, no more
            batch = await self.inner.read(log, None, 1)
            if batch.start is not None:
                self._record(Opened(self._loop.time(), log.name, encode_cursor(batch.start)))

    async def expire(self) -> None:
        await self.inner.expire()

    async def close(self) -> None:
        await self.inner.close()


class CheckedSimLog(SimLog):
    """One that can be asked whether it is there."""

    async def check(self) -> None:
        await self.pause()


class SimState:
    """A `SharedState` whose calls suspend and fail as those of its log do. What it keeps outlives the server."""

    def __init__(self, inner: SharedState, log: SimLog) -> None:
        self._inner = inner
        self._log = log

    async def remember_connection(self, user_id: UserId, connection_id: str) -> None:
        await self._log.pause()
        await self._inner.remember_connection(user_id, connection_id)
        await self._log.pause()

    async def knows_connection(self, user_id: UserId, connection_id: str) -> bool:
        return await self._inner.knows_connection(user_id, connection_id)

    async def forget_user(self, user_id: UserId) -> None:
        await self._inner.forget_user(user_id)

    async def deny(self, user_id: UserId, token_id: str | None, *, issued_until: float, until: float) -> None:
        log = self._log
        await log.pause()
        if log.happens(log.trouble.refused, "denial_refused"):
            raise LogUnavailable("refused for a while")
        await self._inner.deny(user_id, token_id, issued_until=issued_until, until=until)
        await log.pause()
        if log.happens(log.trouble.lost_replies, "denial_reply_lost"):
            raise LogUnavailable("the reply was lost")

    async def denied(self, user_id: UserId, token_id: str | None, issued_at: float | None) -> bool:
        log = self._log
        await log.pause()
        if log.happens(log.trouble.unreadable, "deny_list_unreadable"):
            raise LogUnavailable("unreadable for a while")
        denied = await self._inner.denied(user_id, token_id, issued_at)
        log.ambush(log.ambushes_at_denial, LogName.of_user(user_id))
        await log.pause()
        return denied

    async def keep_ticket(self, user_id: UserId, key: str, content: bytes, *, seconds: float) -> None:
        await self._inner.keep_ticket(user_id, key, content, seconds=seconds)

    async def take_ticket(self, key: str) -> bytes | None:
        return await self._inner.take_ticket(key)
