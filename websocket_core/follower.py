"""`LogFollower`: follows one log for one connection. Knows when there is something to read, reads it, and keeps the
cursor."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from websocket_core.cursor import Gap, LogCursor
from websocket_core.errors import LogUnavailable
from websocket_core.log import Batch, Entry, GapReason, LogReader, Position
from websocket_core.merging import merge_deltas
from websocket_core.wire import encode_cursor

logger = logging.getLogger(__name__)

RETRY_SECONDS: Final = 1.0
"""How soon a log that could not be read is read again."""


class LogFollower:
    """One connection's place in one log.

    `wake` is called after each append; it sets `dirty` and sees to it that `next` is called soon. Used by one writer.
    """

    __slots__ = ("_cursor", "_given", "_limit", "_reader", "_unwatch", "_wake", "dirty")

    def __init__(self, reader: LogReader, cursor: LogCursor, *, limit: int, wake: Callable[[], None]) -> None:
        self._reader = reader
        self._cursor = cursor
        self._limit = limit
        self._wake = wake
        self._given = False
        self._unwatch: Callable[[], None] | None = None
        self.dirty = True
        """Whether there may be something to read. Cleared before a read and not after, so that an append during the
        read is not missed."""

    @property
    def cursor(self) -> str | None:
        """Where the connection stands, as a client keeps it; None before the first read."""
        position = self._cursor.position
        return None if position is None else encode_cursor(position)

    async def start(self, position: Position | None, *, latest: bool) -> None:
        """Take a place: after `position`, at the end, or before the oldest entry. Raises `LogUnavailable`."""
        self._unwatch = self._reader.watch(self._cursor.log, self._wake)
        try:
            head = await self._reader.open(self._cursor.log)
        except BaseException:
            self._unwatch()
            raise
        self._given = position is not None
        self._cursor.position = head if latest else position

    def stop(self) -> None:
        """Be woken no more."""
        if self._unwatch is not None:
            self._unwatch()

    async def first(self) -> tuple[str, bool, list[Entry | Gap]]:
        """The cursor that everything follows, whether the client's own was honoured, and what to send first.

        Raises `LogUnavailable`.
        """
        batch = await self._read()
        assert batch.start is not None
        return encode_cursor(batch.start), self._given and batch.gap is None, self._steps(batch)

    async def next(self) -> list[Entry | Gap]:
        """What to send next. While the log cannot be read, nothing, and it is tried again soon."""
        try:
            return self._steps(await self._read())
        except LogUnavailable:
            logger.warning("the log of a connection cannot be read")
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._wake)
            return []

    def _steps(self, batch: Batch) -> list[Entry | Gap]:
        steps = self._cursor.advance(batch)
        return steps if len(steps) < 2 else merge_deltas(steps)

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
