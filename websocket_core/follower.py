"""`LogFollower`: follows one log for one connection. Knows when there is something to read, reads it, and keeps the
cursor."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from websocket_core.cursor import Ended, Gap, LogCursor, Step
from websocket_core.errors import LogUnavailable
from websocket_core.log import Batch, Entry, GapReason, LogReader, Position
from websocket_core.merging import merge_deltas
from websocket_core.wire import CloseCode, encode_cursor

logger = logging.getLogger(__name__)

RETRY_SECONDS: Final = 1.0
"""How soon a log that could not be read is read again."""

Permits = Callable[[], Awaitable[bool]]
"""Whether this connection may still be there, by the deny-list. Raises `LogUnavailable` if that can't be told."""
Snapshot = Callable[[], Awaitable[bytes | None]]
"""What the application shows after a gap: a JSON object, or None. Raises nothing."""


class LogFollower:
    """One connection's place in one log.

    `wake` is called after each append; it sets `dirty` and sees to it that `next` is called soon. Used by one writer.
    """

    __slots__ = ("_cursor", "_given", "_limit", "_permits", "_reader", "_snapshot", "_unwatch", "_wake", "dirty")

    def __init__(
        self,
        reader: LogReader,
        cursor: LogCursor,
        *,
        limit: int,
        wake: Callable[[], None],
        permits: Permits,
        snapshot: Snapshot | None = None,
    ) -> None:
        self._reader = reader
        self._cursor = cursor
        self._limit = limit
        self._wake = wake
        self._permits = permits
        self._snapshot = snapshot
        self._given = False
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

    async def first(self) -> tuple[str, bool, list[Step]]:
        """Where the client stands, whether its own cursor was honoured, and what to send first.

        A client whose cursor is not honoured keeps it until it was told the gap: if it is cut between the two, it comes
        back with a cursor that is not honoured either. Raises `LogUnavailable`.
        """
        before = self._cursor.position
        batch = await self._read()
        assert batch.start is not None
        steps = self._cursor.advance(batch)
        if self._cursor.passes_over(batch.start):  # trimmed already, or the client knew what would come
            steps = await self._settled(steps)
        steps = await self._completed(steps, before)
        stands = batch.start if batch.gap is None or before is None else before
        return encode_cursor(stands), self._given and batch.gap is None, steps

    async def next(self) -> list[Step]:
        """What to send next. While the log cannot be read, nothing, and it is tried again soon."""
        before = self._cursor.position
        try:
            steps = self._cursor.advance(await self._read())
            if not steps or (len(steps) == 1 and type(steps[0]) is Entry):
                return steps  # what a connection that keeps up finds
            return await self._completed(steps, before)
        except LogUnavailable:
            return self._later()

    async def compare(self, claimed: Position) -> list[Step]:
        """What to send to a client that says it stands at `claimed`, which is not where this connection stands."""
        try:
            batch = await self._reader.read(self._cursor.log, claimed, 1)
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
        order = await self._reader.control(self._cursor.log)
        if order is not None and (ended := self._cursor.ordered(order)) is not None:
            return [ended]
        if not await self._permits():
            return [Ended(CloseCode.REVOKED)]
        self._cursor.settle(order)
        return steps

    def _later(self) -> list[Step]:
        logger.warning("the log of a connection cannot be read")
        asyncio.get_running_loop().call_later(RETRY_SECONDS, self._wake)
        return []

    async def _read(self) -> Batch:
        self.dirty = False
        position = self._cursor.position
        batch = await self._reader.read(self._cursor.log, position, self._limit)
        if batch.start is None:  # the log is gone: open its next life, and tell that it is one
            head = await self._reader.open(self._cursor.log)
            self.dirty = True
            gap = GapReason.NEW_EPOCH if position is not None else None
            return Batch(Position(head.epoch, 0, ""), (), True, gap)
        if batch.more:
            self.dirty = True
        return batch
