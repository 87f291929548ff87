"""What a connection sends: frames made of control frames, gaps and entries, and the last look before the socket."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from websocket_core.cursor import Gap
from websocket_core.errors import IsolationViolation
from websocket_core.identity import LogName
from websocket_core.log import Entry
from websocket_core.metrics import Metrics
from websocket_core.wire import PROTOCOL, control_frame, encode_cursor, event_frame

CURSOR_BYTES: Final = 180
"""What the cursor and a line break add to a stored event at most."""


class Socket(Protocol):
    """What a connection needs of a WebSocket, beside one of `receive()` (an ASGI message) and `receive_text()`."""

    async def send_text(self, data: str) -> None: ...

    async def close(self, code: int, reason: str) -> None: ...


class SocketLost(Exception):
    """The socket did not take a frame."""


class Outbound:
    """Writes to one socket; used by one writer.

    `own_log` is made from the principal, apart from the grant that decides what is read, so that one mistake in
    either is not enough to show a user somebody else's event.
    """

    __slots__ = (
        "_batch_bytes",
        "_loop",
        "_metrics",
        "_own_log",
        "_shares_frames",
        "_socket",
        "write_since",
        "wrote_at",
    )

    def __init__(self, socket: Socket, *, own_log: LogName, protocol: str, batch_bytes: int, metrics: Metrics) -> None:
        self._socket = socket
        self._own_log = own_log
        self._shares_frames = protocol == PROTOCOL
        self._batch_bytes = batch_bytes
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self.write_since: float | None = None
        """When the write that is under way began, in the loop's time; None if there is none."""
        self.wrote_at = self._loop.time()
        """When the last write ended, in the loop's time."""

    async def send(self, controls: Sequence[str], steps: Sequence[Entry | Gap]) -> None:
        """Send control frames, then gaps and events: one frame each, or as few as the protocol allows.

        Raises `SocketLost`, and `IsolationViolation` before anything of an entry that does not belong here is sent.
        """
        if self._shares_frames:
            await self._send_shared(controls, steps)
            return
        for frame in controls:
            await self._write(frame)
        for step in steps:
            await self._write(self._render(step))
            if isinstance(step, Entry):
                self._delivered(1, step.at)

    async def _send_shared(self, controls: Sequence[str], steps: Sequence[Entry | Gap]) -> None:
        lines = list(controls)
        size = sum(map(len, lines))
        events = 0
        oldest = 0.0
        for step in steps:
            line = self._render(step)
            length = len(step.event.body) + CURSOR_BYTES if isinstance(step, Entry) else len(line)
            if lines and size + length > self._batch_bytes:
                await self._write("\n".join(lines))
                self._delivered(events, oldest)
                lines, size, events = [], 0, 0
            if isinstance(step, Entry):
                oldest = oldest if events else step.at
                events += 1
            lines.append(line)
            size += length
        if lines:
            await self._write("\n".join(lines) if len(lines) > 1 else lines[0])
            self._delivered(events, oldest)

    def _render(self, step: Entry | Gap) -> str:
        if isinstance(step, Gap):
            self._metrics.gaps += 1
            return control_frame("gap", reason=step.reason.value, cursor=encode_cursor(step.start))
        if step.log != self._own_log:
            raise IsolationViolation("an entry of another log came up for this connection")
        return event_frame(step)

    def _delivered(self, events: int, oldest: float) -> None:
        if events:
            self._metrics.events_delivered += events
            self._metrics.delivery_latency.observe(max(0.0, self.wrote_at - oldest))

    async def _write(self, text: str) -> None:
        self.write_since = self._loop.time()
        try:
            await self._socket.send_text(text)
        except Exception as error:  # sockets of any make raise anything: each means that this one is lost
            raise SocketLost from error
        finally:
            self.write_since = None
        self.wrote_at = self._loop.time()

    async def close(self, code: int, reason: str) -> None:
        """Close the socket. Raises `SocketLost`."""
        self.write_since = self._loop.time()
        try:
            await self._socket.close(code, reason)
        except Exception as error:  # as above
            raise SocketLost from error
        finally:
            self.write_since = None
