"""`LogFollower`: follows one log for one connection. Knows when there is something to read, reads it, and keeps the
cursor."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from websocket_core.cursor import Ended, Gap, LogCursor, Step
from websocket_core.errors import LogUnavailable
from websocket_core.log import Batch, Entry, GapReason, LogReader, Position
from websocket_core.merging import merge_deltas
from websocket_core.provisional import Outage, Provisional, Shown
from websocket_core.wire import CloseCode, encode_cursor

logger = logging.getLogger(__name__)

RETRY_SECONDS: Final = 1.0
"""How soon a log that could not be read is read again, give or take a half: thousands do not come at once."""

T = TypeVar("T")

Permits = Callable[[], Awaitable[bool]]
"""Whether this connection may still be there, by the deny-list. Raises `LogUnavailable` if that can't be told."""
Snapshot = Callable[[], Awaitable[bytes | None]]
"""What the application shows after a gap: a JSON object, or None. Raises nothing."""


class LogFollower:
    """One connection's place in one log.

    `wake` is called after each append; it sets `dirty` and sees to it that `next` is called soon. Used by one writer.
    From `degrade` to `restore` the log is left alone, and what waits for it here is shown instead.
    """

    __slots__ = (
        "_asking", "_cursor", "_given", "_given_up", "_hushed", "_limit", "_permits", "_provisional", "_reader", "_rng",
        "_snapshot", "_unwatch", "_wake", "dirty",
    )  # fmt: skip

    def __init__(
        self,
        reader: LogReader,
        cursor: LogCursor,
        *,
        limit: int,
        wake: Callable[[], None],
        permits: Permits,
        snapshot: Snapshot | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._reader = reader
        self._cursor = cursor
        self._limit = limit
        self._wake = wake
        self._permits = permits
        self._snapshot = snapshot
        self._rng = rng
        self._given = False
        self._provisional: Provisional | None = None
        self._asking = self._given_up = self._hushed = False
        self._unwatch: Callable[[], None] | None = None
        self.dirty = True
        """Whether there may be something to read. Cleared before a read and not after, so that an append during the
        read is not missed."""

    @property
    def position(self) -> Position | None:
        """Where the connection stands; None before the first read."""
        return self._cursor.position

    @property
    def cursor(self) -> str | None:
        """The same, as a client keeps it."""
        position = self._cursor.position
        return None if position is None else encode_cursor(position)

    def start(self, head: Position, position: Position | None, *, latest: bool) -> None:
        """Take a place: after `position`, at the end, or before the oldest entry. `head` is where the log ended before
        the deny-list was consulted."""
        self._given = position is not None
        self._cursor.settled = head
        self._cursor.position = head if latest else position
        self._unwatch = self._reader.watch(self._cursor.log, self._wake)

    def stop(self) -> None:
        """Be woken no more."""
        if self._unwatch is not None:
            self._unwatch()
        if self._provisional is not None:
            self._provisional.stop()

    def degrade(self, outage: Outage, writer: asyncio.Task[None] | None) -> bool:
        """The log is away; False if that is known. A question to it that the writer waits for is given up: its answer
        may take long."""
        if self._provisional is not None:
            return False
        self._provisional = Provisional(self._cursor, outage, self._wake)
        self.dirty = True
        if self._asking and not self._given_up and writer is not None:
            self._given_up = True
            writer.cancel()
        return True

    def hush(self) -> None:
        """Show nothing provisional from now on: what is emitted stands behind an order in the log that ends this
        connection, and that cannot be read."""
        self._hushed = True

    def restore(self) -> bool:
        """The log is back; False if it was not away for this connection."""
        if self._provisional is None:
            return False
        self._provisional.stop()
        self._provisional = None
        self.dirty = True
        return True

    async def first(self) -> tuple[str, bool, list[Step]]:
        """Where the client stands, whether its own cursor was honoured, and what to send first.

        A client whose cursor is not honoured keeps it until it was told the gap: if it is cut between the two, it comes
        back with a cursor that is not honoured either. Raises `LogUnavailable`.
        """
        if self._provisional is not None:
            raise LogUnavailable("the log is away")
        before = self._cursor.position
        batch = await self._read()
        assert batch.start is not None
        steps = self._cursor.advance(batch)
        if self._cursor.passes_over(batch.start):  # trimmed already, or the client knew what would come
            steps = await self._settled(steps)
        steps = await self._completed(steps, before)
        stands = batch.start if batch.gap is None or before is None else before
        return encode_cursor(stands), self._given and batch.gap is None, steps

    async def next(self) -> Sequence[Shown]:
        """What to send next. While the log cannot be read, nothing, and it is tried again soon; while it is known to be
        away, what waits for it."""
        if self._provisional is not None:
            waiting, self.dirty = ([], False) if self._hushed else self._provisional.next()
            return waiting
        before = self._cursor.position
        try:
            steps = self._cursor.advance(await self._read())
            if not steps or (len(steps) == 1 and type(steps[0]) is Entry):
                return steps  # what a connection that keeps up finds
            return await self._completed(steps, before)
        except LogUnavailable:
            return self._later()

    async def compare(self, claimed: Position) -> Sequence[Shown]:
        """What to send to a client that says it stands at `claimed`, which is not where this connection stands."""
        if self._provisional is not None:
            return []  # it will be told where it stands when the log is back
        try:
            batch = await self._asked(self._reader.read(self._cursor.log, claimed, 1))
        except LogUnavailable:
            return self._later()
        position = self._cursor.position
        if batch.start is None or position is None:
            return []  # the log is gone, which the next read tells
        if batch.gap is None and claimed.offset > position.offset:
            return []  # an entry that the client has from another connection; this one comes to it
        self._cursor.position = claimed
        return await self.next()

    async def _completed(self, steps: list[Step], before: Position | None) -> list[Step]:
        """The steps with what a gap calls for, and adjacent deltas made one."""
        if any(type(step) is Gap for step in steps):
            try:
                steps = await self._settled(steps)
            except LogUnavailable:
                self._cursor.position = before  # nothing of this was sent
                raise
            if self._snapshot is not None and type(steps[0]) is not Ended:
                snapshot = await self._snapshot()
                steps = [step._replace(snapshot=snapshot) if isinstance(step, Gap) else step for step in steps]
        return merge_deltas(steps)

    async def _settled(self, steps: list[Step]) -> list[Step]:
        """What was not read may have ended this connection: that is settled before anything is sent."""
        order = await self._asked(self._reader.control(self._cursor.log))
        if order is not None and (ended := self._cursor.ordered(order)) is not None:
            return [ended]
        if not await self._asked(self._permits()):
            return [Ended(CloseCode.REVOKED)]
        self._cursor.settle(order)
        return steps

    def _later(self) -> Sequence[Shown]:
        if self._provisional is None:
            logger.warning("the log of a connection cannot be read")
            jitter = 0.5 if self._rng is None else self._rng.random()
            asyncio.get_running_loop().call_later(RETRY_SECONDS * (0.5 + jitter), self._wake)
        return []

    async def _asked(self, question: Awaitable[T]) -> T:
        """The answer of the log. Raises `LogUnavailable` also when the log turns out to be away meanwhile."""
        self._asking = True
        try:
            return await question
        except asyncio.CancelledError:
            self._raise_if_given_up()
            raise
        finally:
            self._asking = False
            if self._given_up:  # the question did not end by that
                self._takes_back()

    def _raise_if_given_up(self) -> None:
        if self._takes_back():
            raise LogUnavailable("the log is away") from None

    def _takes_back(self) -> bool:
        """Undo the cancellation by `degrade`, if there was one; whether there was, and none by anybody else."""
        task = asyncio.current_task()
        if not self._given_up or task is None:
            return False
        self._given_up = False
        return task.uncancel() == 0

    async def _read(self) -> Batch:
        self.dirty = False
        position = self._cursor.position
        self._asking = True  # as in `_asked`, which would be a coroutine more for each event
        try:
            batch = await self._reader.read(self._cursor.log, position, self._limit)
        except asyncio.CancelledError:
            self._raise_if_given_up()
            raise
        finally:
            self._asking = False
            if self._given_up:
                self._takes_back()
        if batch.start is None:  # the log is gone: open its next life, and tell that it is one
            head = await self._asked(self._reader.open(self._cursor.log))
            self.dirty = True
            gap = GapReason.NEW_EPOCH if position is not None else None
            return Batch(Position(head.epoch, 0, ""), (), True, gap)
        if batch.more:
            self.dirty = True
        return batch
