"""What a connection sends: frames made of control frames, gaps and entries, and the last look before the socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from websocket_core.cursor import Ended, Gap
from websocket_core.errors import IsolationViolation
from websocket_core.identity import LogName
from websocket_core.log import Entry
from websocket_core.metrics import Metrics
from websocket_core.outbox import Waiting
from websocket_core.provisional import Shown
from websocket_core.wire import PROTOCOL, control_frame, encode_cursor, event_frame, provisional_frame

CONTROL_FRAMES: Final = 64
"""With this many control frames waiting, no further frame is read from the client."""
CURSOR_BYTES: Final = 180
"""What the cursor and a line break add to a stored event at most."""


class Socket(Protocol):
    """What a connection needs of a WebSocket, beside one of `receive()` (an ASGI message) and `receive_text()`."""

    async def send_text(self, data: str) -> None: ...

    async def close(self, code: int, reason: str) -> None: ...


class SocketLost(Exception):
    """The socket did not take a frame."""


class Expired(Exception):
    """The time of the principal, or of the connection, is up: nothing more may be written to it."""


class Ordered(Exception):
    """A control entry has ended the connection: everything before it was written, and nothing may come after it."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class ControlFrames:
    """The control frames that wait for the writer of a connection."""

    __slots__ = ("_taken", "_waiting")

    def __init__(self) -> None:
        self._waiting: list[str] = []
        self._taken: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, frame: str) -> None:
        self._waiting.append(frame)

    def take(self) -> list[str]:
        """All of them, which were written when `taken` is called."""
        frames, self._waiting = self._waiting, []
        return frames

    def taken(self) -> None:
        if self._taken is not None and not self._taken.done():
            self._taken.set_result(None)

    async def room(self) -> None:
        """Wait until fewer than `CONTROL_FRAMES` wait."""
        while len(self._waiting) >= CONTROL_FRAMES:
            self._taken = asyncio.get_running_loop().create_future()
            await self._taken


class Outbound:
    """Writes to one socket; used by one writer.

    `own_log` is made from the principal, apart from the grant that decides what is read, so that one mistake in
    either is not enough to show a user somebody else's event.
    """

    __slots__ = (
        "_batch_bytes", "_clock", "_expires_at", "_metrics", "_monotonic", "_own_log", "_send_text",
        "_shares_frames", "_socket", "_time", "not_after", "write_since", "wrote_at",
    )  # fmt: skip

    def __init__(
        self,
        socket: Socket,
        *,
        own_log: LogName,
        protocol: str,
        batch_bytes: int,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._socket = socket
        self._send_text = socket.send_text
        self._own_log = own_log
        self._shares_frames = protocol == PROTOCOL
        self._batch_bytes = batch_bytes
        self._metrics = metrics
        self._clock = clock
        self._monotonic = monotonic
        self._time = asyncio.get_running_loop().time
        self._expires_at: float | None = None
        self.not_after: float | None = None
        """After this Unix second nothing is written."""
        self.write_since: float | None = None
        """When the write that is under way began, in the loop's time; None if there is none."""
        self.wrote_at = self._time()
        """When the last write ended, in the loop's time."""

    def expire(self, expires_at: float | None, *, grace: float) -> None:
        """Write nothing later than `grace` seconds after the Unix second `expires_at`; None never expires."""
        self._expires_at = expires_at
        self.not_after = None if expires_at is None else expires_at + grace

    def expires_in(self) -> float | None:
        """The seconds that are left until the expiry, without grace."""
        return None if self._expires_at is None else max(0.0, round(self._expires_at - self._clock(), 3))

    def expired(self) -> bool:
        """Whether nothing may be written any more."""
        return self.not_after is not None and self._clock() > self.not_after

    def stop(self) -> None:
        """Write nothing more: a connection that closes is not sent what is left of its batch."""
        self.not_after = float("-inf")

    def stuck(self, now: float, lost: float, seconds: float) -> bool:
        """Whether the write that is under way has taken longer than that. The `lost` seconds, in which the loop stood
        still, are not counted."""
        since = self.write_since
        if since is None:
            return False
        if lost:
            since = self.write_since = min(now, since + lost)
        return now - since > seconds

    def send(self, controls: Sequence[str], steps: Sequence[Shown]) -> Awaitable[None]:
        """Send control frames, then gaps, events and what waits: one frame each, or as few as the protocol allows.

        Raises `SocketLost`, `Expired`, `Ordered`, and `IsolationViolation` before anything of an entry that does not
        belong here is sent. To be awaited at once.
        """
        if len(steps) == 1 and not controls and isinstance(step := steps[0], Entry):
            return self._write(self._render(step), 1, step.at)  # what a client that keeps up is sent
        if self._shares_frames and (controls or steps):
            return self._send_shared(controls, steps)
        return self._send_each(controls, steps)

    async def _send_each(self, controls: Sequence[str], steps: Sequence[Shown]) -> None:
        for frame in controls:
            await self._write(frame, 0, 0.0)
        for step in steps:
            if isinstance(step, Entry):
                await self._write(self._render(step), 1, step.at)
            elif isinstance(step, Ended):
                raise Ordered(step.code)
            else:
                await self._write(self._render_other(step), 0, 0.0)

    async def _send_shared(self, controls: Sequence[str], steps: Sequence[Shown]) -> None:
        lines = list(controls)
        size = sum(map(len, lines)) + len(lines)
        events = 0
        oldest = 0.0
        for step in steps:
            if isinstance(step, Ended):
                if lines:
                    await self._write("\n".join(lines), events, oldest)
                raise Ordered(step.code)
            if isinstance(step, Entry):
                line = self._render(step)
                length = len(step.event.body) + CURSOR_BYTES
            else:
                line = self._render_other(step)
                length = len(line) + 1
            if lines and size + length > self._batch_bytes:
                await self._write("\n".join(lines), events, oldest)
                lines, size, events = [], 0, 0
            if isinstance(step, Entry):
                oldest = oldest if events else step.at
                events += 1
            lines.append(line)
            size += length
        await self._write("\n".join(lines), events, oldest)

    def _render(self, entry: Entry) -> str:
        if entry.log != self._own_log:
            raise IsolationViolation("an entry of another log came up for this connection")
        return event_frame(entry)

    def _render_other(self, step: Gap | Waiting) -> str:
        if isinstance(step, Gap):
            return self._render_gap(step)
        if step.log != self._own_log:
            raise IsolationViolation("an event that waits for another log came up for this connection")
        return provisional_frame(step.event)

    def _render_gap(self, gap: Gap) -> str:
        self._metrics.gaps += 1
        frame = control_frame("gap", reason=gap.reason.value, cursor=encode_cursor(gap.start))
        return frame if gap.snapshot is None else f'{frame[:-1]},"snapshot":{gap.snapshot.decode()}}}'

    async def _write(self, text: str, events: int, oldest: float) -> None:
        """Write one frame, with so many events, the oldest of which came to the log at that time."""
        if self.not_after is not None and self._clock() > self.not_after:
            raise Expired
        self.write_since = self._time()
        try:
            await self._send_text(text)
        except Exception as error:  # sockets of any make raise anything: each means that this one is lost
            raise SocketLost from error
        finally:
            self.write_since = None
        self.wrote_at = self._time()
        if events:
            metrics = self._metrics
            metrics.events_delivered += events
            # By the clock that `oldest` was read from: a loop may keep a time of its own, in whole milliseconds.
            metrics.delivery_latency.observe(self._monotonic() - oldest)

    async def close(self, code: int, reason: str) -> None:
        """Close the socket. Raises `SocketLost`."""
        self.write_since = self._time()
        try:
            await self._socket.close(code, reason)
        except Exception as error:  # as above
            raise SocketLost from error
        finally:
            self.write_since = None
