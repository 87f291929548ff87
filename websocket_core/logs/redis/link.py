"""`Link`: one connection to Redis, whose bytes hiredis reads as they arrive.

redis-py makes the connection; then this takes its transport over. Decision 0012 says why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import hiredis
from hiredis import ReplyError

__all__ = ["Link", "ReplyError", "pack"]

BUFFER: Final = 65_536
_MORE: Final = object()


def pack(*command: str | bytes | int | float) -> bytes:
    """A command as it travels. Raises `TypeError` or `UnicodeEncodeError` for what cannot be encoded."""
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its annotation is a tuple of one
    return packed


class Link(asyncio.BufferedProtocol):
    """One connection, from when it was greeted to when it is lost or closed; it is never used again after that.

    `received` is called with the replies of each piece of data, in order, errors as values; `lost` once, with this
    link, if it ends without `close`. Neither is called after `close`: what is late reaches nobody.
    """

    def __init__(self, connection: Any) -> None:
        """Takes the transport of a redis-py connection over, which is left without one."""
        # The one private attribute that is touched. The writer is kept: collected, it would close the transport.
        self._writer, connection._writer = connection._writer, None
        self._transport = self._writer.transport
        self._reader = hiredis.Reader(notEnoughData=_MORE)
        # One buffer for all that arrives: a new one of the size that asyncio asks for costs more than what is in it.
        self._buffer = bytearray(BUFFER)
        self._view = memoryview(self._buffer)  # TLS of asyncio writes to slices of it, which must be no copies
        self._writable = asyncio.Event()
        self._writable.set()
        self._gone = asyncio.get_running_loop().create_future()
        self.closed = False
        self.taken = 0
        """How many bytes have arrived."""
        self.received: Callable[[list[Any]], None] = self._unasked
        self.lost: Callable[[Link], None] = _nobody
        self._transport.set_protocol(self)
        if self._transport.is_closing():
            self.closed = True
            self._gone.set_result(None)  # whoever was told is the protocol before this

    def write(self, packed: bytes) -> None:
        """Send it, unless the link is lost, which is told otherwise; uvloop would raise."""
        if not self.closed:
            self._transport.write(packed)

    async def drained(self) -> None:
        """Wait until not too much is waiting to be sent."""
        await self._writable.wait()

    async def ask(self, commands: Sequence[bytes], *, timeout: float) -> list[Any]:
        """Send packed commands over a link that nobody else uses yet; their answers, errors among them. Raises
        `OSError` or `TimeoutError`; then the link is to be closed."""
        if self.closed:
            raise ConnectionResetError("the connection was lost")
        answers: list[Any] = []
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def received(replies: list[Any]) -> None:
            answers.extend(replies)
            if len(answers) >= len(commands) and not done.done():
                done.set_result(None)

        def lost(_link: Link) -> None:
            if not done.done():
                done.set_exception(ConnectionResetError("the connection was lost"))

        self.received, self.lost = received, lost
        try:
            async with asyncio.timeout(timeout):
                self.write(b"".join(commands))
                await done
        finally:
            self.received, self.lost = self._unasked, _nobody
        if len(answers) != len(commands):
            raise ConnectionAbortedError("more answers than questions")
        return answers

    def close(self) -> None:
        """End it at once, with whatever is still to be sent."""
        self.closed = True
        self.received, self.lost = _ignored, _nobody
        self._transport.abort()

    async def wait_closed(self) -> None:
        await asyncio.wait([self._gone], timeout=1.0)

    # -- what the transport calls

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, count: int) -> None:
        self.taken += count
        reader = self._reader
        replies = []
        try:
            reader.feed(self._buffer, 0, count)  # type: ignore[arg-type]  # any buffer will do, and is copied
            while (reply := reader.gets()) is not _MORE:
                replies.append(reply)
        except hiredis.ProtocolError:
            self._end()
            return
        if replies:
            self.received(replies)

    def eof_received(self) -> None:
        """Nothing is sent any more either."""

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, error: Exception | None) -> None:
        self._writable.set()
        if not self._gone.done():
            self._gone.set_result(None)
        self._end()

    def _unasked(self, _replies: list[Any]) -> None:
        self._end()

    def _end(self) -> None:
        lost = self.lost
        if not self.closed:
            self.close()
            lost(self)


def _ignored(_replies: list[Any]) -> None:
    pass


def _nobody(_link: Link) -> None:
    pass
