"""`WebSocketConnection`: one registered socket with its cursor, its one writer and its reader.

The writer is the only task that sends. It sleeps until it is woken, by an append, a control frame or the heartbeat,
then reads from the log after its own position and sends what it finds. A wake-up that is lost costs at most one
heartbeat, since every heartbeat reads as well.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from websocket_core.cursor import LogCursor
from websocket_core.errors import IsolationViolation, LogUnavailable
from websocket_core.follower import LogFollower
from websocket_core.identity import Grant, LogName, Principal, UserId
from websocket_core.inbound import Authenticate, FrameHandler, Inbound, cut_socket, receive_frame
from websocket_core.limits import Limits
from websocket_core.log import LogReader, Position
from websocket_core.metrics import Metrics
from websocket_core.outbound import Expired, Outbound, Socket, SocketLost
from websocket_core.pacing import BurstCredit
from websocket_core.wire import (
    CLOSE_RULES,
    PROTOCOL,
    CloseCode,
    control_frame,
)

logger = logging.getLogger(__name__)

CONTROL_FRAMES: Final = 64
"""With this many control frames waiting, no further frame is read from the client."""


class ConnectionState(StrEnum):
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class WebSocketConnection:
    """A connection of one user. Made by `UnifiedWebSocketManager.connect_user`.

    Attributes: `websocket` (what was passed in), `user_id`, `connection_id`, `thread_id` (a label),
    `created_at` and `last_activity` (aware, UTC), `is_healthy` (False once a write failed or took too long).
    """

    __slots__ = (
        "__weakref__", "_active_at", "_clock", "_close_code", "_controls", "_credit", "_drained", "_due", "_ended",
        "_flush", "_follower", "_full_batch", "_inbound", "_interrupted", "_limits", "_loop", "_metrics", "_outbound",
        "_owed_since", "_ping_due", "_server", "_timer", "_waiter", "_wake_at", "_woken", "_writer",
        "connection_id", "created_at", "is_healthy", "principal", "protocol", "state", "thread_id", "user_id",
        "websocket",
    )  # fmt: skip

    def __init__(
        self,
        websocket: Socket,
        *,
        principal: Principal,
        connection_id: str,
        thread_id: str | None,
        protocol: str,
        reader: LogReader,
        limits: Limits,
        metrics: Metrics,
        handlers: Mapping[str, FrameHandler],
        ended: Callable[[WebSocketConnection], None],
        only_thread: str | None = None,
        full_batch: int | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.websocket = websocket
        self.principal = principal
        self.user_id = UserId(principal.user_id)
        self.connection_id = connection_id
        self.thread_id = thread_id
        self.protocol = protocol
        self.created_at = datetime.fromtimestamp(clock(), UTC)
        self.is_healthy = True
        self.state = ConnectionState.OPEN
        self._limits = limits
        self._metrics = metrics
        self._inbound = Inbound(handlers, depth=limits.event_depth)
        self._ended = ended
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._outbound = Outbound(
            websocket,
            own_log=LogName.of_user(self.user_id),
            protocol=protocol,
            batch_bytes=limits.batch_bytes,
            metrics=metrics,
            clock=clock,
            monotonic=monotonic,
        )
        self._outbound.expire(principal.expires_at, grace=limits.expiry_grace)
        self._full_batch = full_batch or limits.batch_events
        self._credit = (
            BurstCredit(frames=limits.burst_frames, window=limits.burst_window) if protocol == PROTOCOL else None
        )
        self._follower = LogFollower(
            reader,
            LogCursor(Grant.own(principal), connection_id=connection_id, thread_id=only_thread),
            limit=limits.batch_events,
            wake=self._wake,
        )
        self._controls: list[str] = []
        self._drained: asyncio.Future[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._server: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._interrupted = False
        self._woken = 0
        self._wake_at = 0
        self._due = False
        self._ping_due = False
        self._flush = False
        self._close_code: CloseCode | None = None
        self._active_at = self._loop.time()
        self._owed_since: float | None = None

    def __repr__(self) -> str:
        return f"<WebSocketConnection {self.connection_id!r} {self.state}>"

    @property
    def last_activity(self) -> datetime:
        """When the client was last known to be there: it sent something, or, if it owes no pong, took something."""
        active = self._active_at if self.protocol == PROTOCOL else max(self._active_at, self._outbound.wrote_at)
        return datetime.fromtimestamp(self._clock() - (self._loop.time() - active), UTC)

    @property
    def cursor(self) -> str | None:
        """Where the connection stands in the user's log; None before its first read."""
        return self._follower.cursor

    def renew(self, principal: Principal) -> float | None:
        """Take a newer principal of the same user, whose expiry counts from now on; its seconds left."""
        if principal.user_id != self.user_id:
            raise ValueError("a connection keeps its user for life")
        self.principal = principal
        if self._close_code is None or self._flush:
            self._outbound.expire(principal.expires_at, grace=self._limits.expiry_grace)
        return self._outbound.expires_in()

    async def start(self, position: Position | None, *, latest: bool = False) -> None:
        """Take a place in the log, then send from it: after `position`, from the end, or from the oldest entry.

        Raises `LogUnavailable`. Called once, by the manager.
        """
        await self._follower.start(position, latest=latest)
        # Owned by this connection: ended by `close` or `abandon`, watched by the manager's sweeper.
        self._writer = self._loop.create_task(self._write(), name="websocket_core connection writer")
        # A callback and no `finally` in the writer: one that is cancelled before its first turn runs nothing at all.
        self._writer.add_done_callback(self._left)

    async def serve(self, *, authenticate: Authenticate | None = None) -> None:
        """Read what the client sends until it, or the connection, is gone. Called once, in the task of the endpoint.

        With `authenticate`, an `auth` frame refreshes the token, for the same user only.
        """
        task = asyncio.current_task()
        assert task is not None
        if self.state is ConnectionState.CLOSED:
            return
        cancelling = task.cancelling()
        self._server = task
        try:
            while (frame := await receive_frame(self.websocket, self._limits)) is not None:
                if isinstance(frame, CloseCode):
                    self.close(frame)
                    await self.wait_closed()
                    break
                self._active_at = self._loop.time()
                self._owed_since = None
                await self._inbound.answer(self, frame, authenticate)
                while len(self._controls) >= CONTROL_FRAMES:
                    self._drained = self._loop.create_future()
                    await self._drained
        except asyncio.CancelledError:
            if not self._interrupted or task.uncancel() > cancelling:
                raise
        finally:
            self._server = None
            if self._close_code is None:
                self._close_code = CloseCode.DISCONNECTED
                self.abandon()
        await self.wait_closed()

    def close(self, code: CloseCode, *, flush: bool = False) -> None:
        """Begin to close: with `flush` after everything in the log was sent, else at once. Later calls change nothing,
        except that one without `flush` ends the flushing."""
        if self._close_code is not None and (flush or not self._flush):
            return
        if self._close_code is None:
            self._close_code = code
        self._flush = flush
        if flush:
            self._follower.dirty = True  # a wake-up may have been lost
        else:
            self._outbound.stop()
        if self.state is ConnectionState.OPEN:
            self.state = ConnectionState.CLOSING
        self._due = True
        self._wake_writer()

    def abandon(self) -> None:
        """End the connection without a word to the client: it is gone, or takes no frame."""
        self.is_healthy = False
        if self._close_code is None:
            self._close_code = CloseCode.TIMED_OUT
        if self._writer is not None:
            self._writer.cancel()

    def cut(self) -> None:
        """Abandon the connection, and cut its socket where the server offers that (`websocket_core.server` does).
        Elsewhere the socket stays until the server or the client drops it, and is counted."""
        if self.state is not ConnectionState.CLOSED:
            self.abandon()
            self._metrics.uncut += not cut_socket(self.websocket)

    async def wait_closed(self) -> None:
        """Wait until the writer has ended."""
        if self._writer is not None:
            await asyncio.wait([self._writer])

    def check(self, now: float, lost: float = 0.0) -> None:
        """End what is overdue at `now`, in the loop's time: a write, a pong, a token. Called at every sweep. The `lost`
        seconds, in which the loop stood still, count against no client: it may have answered meanwhile."""
        if lost and self._owed_since is not None:
            self._owed_since = min(now, self._owed_since + lost)
        if lost and self._outbound.write_since is not None:
            self._outbound.write_since = min(now, self._outbound.write_since + lost)
        writing = self._outbound.write_since
        if writing is not None and now - writing > self._limits.write_timeout:
            self._metrics.stale += 1
            logger.info("a write took too long", extra={"connection_id": self.connection_id})
            self.cut()
        elif self._owed_since is not None and now - self._owed_since > self._limits.heartbeat_timeout:
            self._owed_since = None
            self._metrics.stale += 1
            self.close(CloseCode.TIMED_OUT)
        elif self._outbound.expired():
            self.close(CloseCode.EXPIRED)

    def send_control(self, frame_type: str, /, **fields: object) -> None:
        """Queue a control frame; it is sent before any event that is read from now on."""
        self._controls.append(control_frame(frame_type, **fields))
        self._due = True
        self._wake_writer()

    def _wake(self) -> None:
        """Called by the log after an append."""
        self._follower.dirty = True
        self._woken += 1
        if self._woken >= self._wake_at:
            self._wake_writer()

    def _wake_writer(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            try:
                waiter.set_result(None)
            except RuntimeError:
                self.detach()  # the loop was closed under us, which is nothing to whoever appends

    def _heartbeat(self) -> None:
        self._ping_due = self._due = self._follower.dirty = True
        self._wake_writer()

    async def _write(self) -> None:
        """The writer: from `connected` to the close of the socket."""
        say_goodbye = True
        try:
            await self._greet()
            self._timer = self._loop.call_later(self._limits.heartbeat, self._heartbeat)
            while True:
                if self._due:
                    if await self._attend():
                        break
                elif self._follower.dirty:
                    if self._credit is not None and await self._lingered(self._credit):
                        continue
                    await self._outbound.send((), await self._follower.next())
                else:
                    self._waiter = self._loop.create_future()
                    await self._waiter
                    self._waiter = None
        except Expired:
            self._close_code = self._close_code or CloseCode.EXPIRED
        except SocketLost as lost:
            say_goodbye = False
            logger.debug("a socket took no frame", extra={"error": type(lost.__cause__).__name__})
        except IsolationViolation:
            self._metrics.isolation_violations += 1
            self._close_code = CloseCode.INTERNAL
            logger.critical("isolation violation: the connection is closed", exc_info=True)
        except LogUnavailable:
            self._close_code = CloseCode.OVERLOADED
        except asyncio.CancelledError:
            say_goodbye = False
            raise
        except Exception:
            self._close_code = CloseCode.INTERNAL
            logger.exception("the writer of a connection crashed")
        finally:
            await self._finish(say_goodbye=say_goodbye)

    async def _finish(self, *, say_goodbye: bool) -> None:
        """Close the socket."""
        self.is_healthy = self.is_healthy and say_goodbye
        self.state = ConnectionState.CLOSING
        self.detach()
        try:
            if say_goodbye:
                code = self._close_code or CloseCode.INTERNAL
                await self._outbound.close(int(code), CLOSE_RULES[code].reason)
                if code is CloseCode.TIMED_OUT and not cut_socket(self.websocket):
                    self._metrics.uncut += 1
        except SocketLost:
            self.is_healthy = False

    def detach(self) -> None:
        """Be woken by nothing any more. Enough for a connection whose event loop is gone."""
        if self._timer is not None:
            self._timer.cancel()
        self._follower.stop()

    def _left(self, _writer: asyncio.Task[None]) -> None:
        """The writer has ended: leave the log and the manager, and let `serve` return."""
        self.detach()
        self.state = ConnectionState.CLOSED
        self._ended(self)
        if self._server is not None:
            self._interrupted = True
            self._server.cancel()

    async def _greet(self) -> None:
        """Send `connected`, then what the first read found."""
        cursor, resumed, steps = await self._follower.first()
        greeting = control_frame(
            "connected",
            connection_id=self.connection_id,
            user_id=self.user_id,
            protocol=self.protocol,
            heartbeat=self._limits.heartbeat,
            resumed=resumed,
            cursor=cursor,
            expires_in=self._outbound.expires_in(),
        )
        await self._outbound.send([greeting], steps)

    async def _lingered(self, credit: BurstCredit) -> bool:
        """Without credit, wait until the window ends or a batch is full. True if something else is due instead."""
        seconds = credit.take(self._loop.time())
        if seconds == 0.0:
            return False
        self._woken, self._wake_at = 0, self._full_batch
        self._waiter = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._wake_writer)
        await self._waiter
        timer.cancel()
        self._waiter = None
        self._wake_at = 0
        credit.renew(self._loop.time())
        return self._due

    async def _attend(self) -> bool:
        """See to everything but plain events: a close, control frames, the heartbeat. True if this was the end."""
        if self._close_code is not None and not self._flush:
            return True
        controls, self._controls = self._controls, []
        steps = await self._follower.next() if self._follower.dirty else []
        await self._outbound.send(controls, steps)
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self._follower.dirty or self._controls:
            return False
        if self._ping_due:  # it names the position that the client has by now
            self._ping_due = False
            self._timer = self._loop.call_later(self._limits.heartbeat, self._heartbeat)
            if self.protocol == PROTOCOL and self._owed_since is None:
                self._owed_since = self._loop.time()
            await self._outbound.send([control_frame("ping", cursor=self.cursor)], ())
        elif self._close_code is not None:
            return True
        else:
            self._due = False
        return False
