"""`Outbox`: events of one user that wait for a log, and the pump that appends them in order.

An application's `emit` uses the appender and learns what became of the event. The bridge uses an outbox, so that a
log that is away never holds up or kills an agent's run.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from websocket_core.appender import TURN, Appender
from websocket_core.events import EVENTS_DROPPED, Event, EventEncoder, owner_part
from websocket_core.identity import LogName, UserId
from websocket_core.limits import Limits
from websocket_core.metrics import Metrics

logger = logging.getLogger(__name__)

SETTLE_SECONDS: Final = 1.0
"""How long a caller of the bridge waits at most for its event to reach a log that neither takes nor refuses it."""


class Waiting(NamedTuple):
    """An event that waits in an outbox. It names the log that the outbox is for, and who shows it compares."""

    log: LogName
    event: Event


class _Dropped:
    """Stands in the queue where events did not fit."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 1


class Outbox:
    """The events of one user that wait for the log, appended in order by one pump.

    Bounded by count and bytes. Slots can be reserved, so that an event which must come (the end of a run, the end of
    a tool) finds room. What does not fit is dropped, counted, and told in its place by one `events_dropped {count}`.
    The pump is a task that exists only while something waits; it belongs to this outbox, and `close` ends it.
    """

    def __init__(
        self,
        log: LogName,
        owner: bytes,
        *,
        appender: Appender,
        encoder: EventEncoder,
        limits: Limits,
        metrics: Metrics,
        idle: Callable[[], None],
        stuck: Callable[[], None] = lambda: None,
        moved: Callable[[], None] = lambda: None,
    ) -> None:
        self._log = log
        self._owner = owner
        self._appender = appender
        self._encoder = encoder
        self._limits = limits
        self._metrics = metrics
        self._idle = idle
        self._stuck = stuck
        self._moved = moved
        self._queue: deque[Event | _Dropped] = deque()
        self._bytes = 0
        self._reserved = 0
        self._put = 0
        self._done = 0
        self._unsettled = 0
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._pump: asyncio.Task[None] | None = None
        self.failing = False
        """Whether the last attempt to append failed, or has taken longer than `SETTLE_SECONDS`."""

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def in_use(self) -> bool:
        """Whether something waits or a slot is reserved."""
        return bool(self._queue) or self._reserved > 0

    @property
    def newest(self) -> int:
        """The number of what was put last; numbers begin with 1."""
        return self._done + len(self._queue)

    def after(self, number: int, limit: int, most_bytes: int) -> tuple[list[Waiting], int]:
        """Events that wait and were put after the one with that number, oldest first, and how far this reaches.

        So many at most, the marks of what was dropped included, which are passed over; at least one if there is one.
        """
        reached = max(number, self._done)
        found: list[Waiting] = []
        size = 0
        first = reached - self._done
        for index in range(first, min(first + limit, len(self._queue))):
            item = self._queue[index]  # cheap near both ends, where readers are
            if isinstance(item, Event):
                size += len(item.body)
                if found and size > most_bytes:
                    break
                found.append(Waiting(self._log, item))
            reached += 1
        return found, reached

    def reserve(self) -> bool:
        """Keep a slot for an event that must come. False if there is no room left to keep."""
        if len(self._queue) + self._reserved >= self._limits.outbox:
            return False
        self._reserved += 1
        return True

    def release(self) -> None:
        """Give a reserved slot back unused."""
        self._reserved = max(0, self._reserved - 1)
        self._end_if_idle()

    def put(self, event: Event, *, reserved: bool = False) -> bool:
        """Queue the event; False if it did not fit. With `reserved` it takes a reserved slot and always fits.

        Never waits, so that no cancellation can come between.
        """
        if reserved:
            self._reserved = max(0, self._reserved - 1)
        if self._appender.closed:
            self.drop()  # the manager was shut down, which must not reach an agent's run
            return False
        if not reserved and (
            len(self._queue) + self._reserved >= self._limits.outbox
            or self._bytes + len(event.body) > self._limits.outbox_bytes
        ):
            self.drop()
            return False
        self._enqueue(event)
        self._bytes += len(event.body)
        return True

    def _enqueue(self, item: Event | _Dropped) -> None:
        self._queue.append(item)
        self._put += 1
        if self._pump is None:
            self._pump = asyncio.get_running_loop().create_task(self._run(), name="websocket_core outbox pump")
            # One that is cancelled before its first turn runs nothing at all, no `finally` either.
            self._pump.add_done_callback(lambda pump: self._ended() if pump is self._pump else None)
        if self.failing:
            self._stuck()

    def drop(self) -> None:
        """Count an event that is not put, and tell so in its place, if anything can still be told."""
        self._metrics.events_dropped += 1
        if self._appender.closed:
            self._end_if_idle()
            return
        last = self._queue[-1] if self._queue else None
        if isinstance(last, _Dropped):
            last.count += 1
        else:
            self._enqueue(_Dropped())

    async def settled(self) -> None:
        """Wait until what was put so far is in the log, unless the log is failing; at most `SETTLE_SECONDS`.

        This gives `await run.thinking(...)` the order that a reader of the code expects, without ever making a run
        depend on the log.
        """
        if self._done >= self._put or self.failing:
            self._unsettled += 1
            if self._unsettled % TURN == 0:
                await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        while self._waiters and self._waiters[-1][1].done():
            self._waiters.pop()  # of those who gave up, or they would pile up before a log that hangs
        self._waiters.append((self._put, waiter))
        timer = loop.call_later(SETTLE_SECONDS, self._failed)  # a log that hangs costs one wait, not one for each event
        try:
            await waiter
        finally:
            timer.cancel()

    async def wait_in_log(self) -> None:
        """Wait until what was put so far is in the log, however long the log takes."""
        mark = self._put
        while self._done < mark and self._pump is not None:  # everybody is woken by each attempt that failed
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append((mark, waiter))
            await waiter

    async def flush(self) -> None:
        """Wait until nothing waits any more, however long the log takes."""
        while self._pump is not None:
            await asyncio.wait([self._pump])

    async def close(self) -> None:
        """End the pump. What still waits is lost, which the log line counts."""
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait([self._pump])
        if self._queue:
            logger.error("events were still waiting for the log at the end", extra={"events": len(self._queue)})
            self._queue.clear()

    async def _run(self) -> None:
        try:
            while self._queue:
                await self._append_next()
        finally:
            self._ended()

    def _ended(self) -> None:
        self._pump = None
        self._release_waiters(everyone=True)
        self._end_if_idle()

    async def _append_next(self) -> None:
        event = self._queue[0]
        if isinstance(event, _Dropped):
            # From here on further drops need a place of their own, behind this one.
            event = self._encoder.encode(EVENTS_DROPPED, {"count": event.count}, self._owner)
            self._queue[0] = event
            self._bytes += len(event.body)  # it stays in the queue if the pump is cancelled now
        try:
            await self._appender.append_surely(self._log, event, self._failed)
        except Exception:
            # A backend broke its contract with this event. Trying it for ever would hold up all that follow.
            logger.exception("an event could not be appended and is dropped")
            self._metrics.events_dropped += 1
        self._queue.popleft()
        self._bytes -= len(event.body)
        self._done += 1
        if self.failing:
            self.failing = False
            self._moved()
        self._release_waiters()

    def _failed(self) -> None:
        if not self.failing:
            self.failing = True
            self._stuck()
        self._release_waiters(everyone=True)

    def suspect(self) -> None:
        """The log is known to be away: let nobody wait for it."""
        self._failed()

    def trust(self) -> None:
        """The log is back. An outbox in which something waits learns that by the next append."""
        self.failing = bool(self._queue) and self.failing

    def _release_waiters(self, *, everyone: bool = False) -> None:
        while self._waiters and (everyone or self._waiters[0][0] <= self._done):
            waiter = self._waiters.popleft()[1]
            if not waiter.done():
                waiter.set_result(None)

    def _end_if_idle(self) -> None:
        if not self.in_use and self._pump is None:
            self._idle()


class Outboxes:
    """The outboxes of a manager, one for each user for whom something waits or is reserved."""

    def __init__(self, appender: Appender, *, encoder: EventEncoder, limits: Limits, metrics: Metrics) -> None:
        self._appender = appender
        self._encoder = encoder
        self._limits = limits
        self._metrics = metrics
        self._outboxes: dict[UserId, Outbox] = {}
        self._watchers: dict[LogName, list[Callable[[], None]]] = {}
        self._back: Callable[[], None] | None = None

    def __len__(self) -> int:
        return len(self._outboxes)

    def of(self, user_id: UserId) -> Outbox:
        """The outbox of a user. To be asked for again at each use: one that is idle is forgotten."""
        outbox = self._outboxes.get(user_id)
        if outbox is None:
            outbox = self._outboxes[user_id] = Outbox(
                LogName.of_user(user_id),
                owner_part(user_id),
                appender=self._appender,
                encoder=self._encoder,
                limits=self._limits,
                metrics=self._metrics,
                idle=lambda: self._forget(user_id),
                stuck=lambda: self._wake(LogName.of_user(user_id)),
                moved=self._moved,
            )
            outbox.failing = self._back is not None
        return outbox

    def waiting(self, user_id: UserId) -> Outbox | None:
        return self._outboxes.get(user_id)

    def waiting_for(self, log: LogName) -> Outbox | None:
        """The outbox of that log, if something waits or is reserved there."""
        return self._outboxes.get(UserId(log.name)) if log.kind == "user" else None

    def watch(self, log: LogName, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake` whenever something more waits for a log that is away, until the returned function is called."""
        self._watchers.setdefault(log, []).append(wake)

        def leave() -> None:
            rest = self._watchers.get(log, [])
            if wake in rest:
                rest.remove(wake)
            if not rest:
                self._watchers.pop(log, None)

        return leave

    def _wake(self, log: LogName) -> None:
        for wake in list(self._watchers.get(log, ())):
            wake()

    def suspect(self, back: Callable[[], None]) -> None:
        """The log is known to be away, until `trust`: nobody waits for it. Each event that it takes calls `back`."""
        self._back = back
        for outbox in list(self._outboxes.values()):
            outbox.suspect()

    def trust(self) -> None:
        """The log is back."""
        self._back = None
        for outbox in self._outboxes.values():
            outbox.trust()

    def _moved(self) -> None:
        if self._back is not None:
            self._back()

    def _forget(self, user_id: UserId) -> None:
        outbox = self._outboxes.get(user_id)
        if outbox is not None and not outbox.in_use:
            del self._outboxes[user_id]

    async def flush(self) -> None:
        """Wait until nothing waits in any of them."""
        for outbox in list(self._outboxes.values()):
            await outbox.flush()

    async def close(self) -> None:
        """End all pumps."""
        for outbox in list(self._outboxes.values()):
            await outbox.close()
        self._outboxes.clear()

    def clear(self) -> None:
        """Forget all at once; for a loop that is gone."""
        self._outboxes.clear()
        self._watchers.clear()
        self._back = None
