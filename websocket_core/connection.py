"""`WebSocketConnection`: one registered socket with its cursor, its one writer and its reader.

The writer is the only task that sends. It sleeps until it is woken, by an append, a control frame or the heartbeat,
then reads from the log after its own position and sends what it finds. A wake-up that is lost costs at most one
heartbeat, since every heartbeat reads as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Any, Final

from websocket_core.control import Order
from websocket_core.cursor import LogCursor
from websocket_core.endings import ending_of
from websocket_core.follower import LogFollower
from websocket_core.heartbeat import Heartbeat
from websocket_core.identity import Grant, LogName, Principal, UserId
from websocket_core.inbound import Authenticate, FrameHandler, Inbound, cut_socket
from websocket_core.limits import Limits
from websocket_core.log import LogReader, Position
from websocket_core.metrics import Metrics
from websocket_core.outbound import ControlFrames, Outbound, Socket, SocketLost
from websocket_core.pacing import Alarm, BurstCredit, Pacing
from websocket_core.provisional import Outage
from websocket_core.wire import CLOSE_RULES, PROTOCOL, CloseCode, control_frame

logger = logging.getLogger(__name__)

ORDER_SECONDS: Final = 1.0
"""How long a connection that was ordered to end may take to come to the order in its log."""
CUT_SECONDS: Final = 0.75
"""How much longer it may take to close: a write or a read may not return."""


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
        "__weakref__", "_active_at", "_alarm", "_claimed", "_clock", "_close_code", "_controls", "_credit", "_due",
        "_ended", "_flush", "_follower", "_full_batch", "_heartbeat", "_inbound", "_interrupted", "_limits",
        "_loop", "_metrics", "_outbound", "_permits", "_ping_due", "_server", "_timer", "_writer",
        "connection_id", "created_at", "is_healthy", "principal", "protocol", "seat", "state", "thread_id", "user_id",
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
        pacing: Pacing,
        permits: Callable[[Principal], Awaitable[bool]],
        ended: Callable[[WebSocketConnection], None],
        snapshot: Callable[[WebSocketConnection], Awaitable[bytes | None]] | None = None,
        only_thread: str | None = None,
        full_batch: int | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
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
        self._inbound = Inbound(handlers, limits)
        self._permits = permits
        self._ended = ended
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._alarm = Alarm(self._loop)
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
        self._credit = BurstCredit(pacing) if protocol == PROTOCOL else None
        own = Grant.own(principal)
        self._follower = LogFollower(
            reader,
            LogCursor(own, connection_id=connection_id, thread_id=only_thread, concerns=self._concerned),
            limit=limits.batch_events,
            wake=self._wake,
            permits=self.permitted,
            snapshot=None if snapshot is None else partial(snapshot, self),
            rng=rng,
        )
        self._controls = ControlFrames()
        self._writer: asyncio.Task[None] | None = None
        self._server: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.seat = ""
        self._interrupted = self._due = self._ping_due = self._flush = False
        self._close_code: CloseCode | None = None
        self._active_at = self._loop.time()
        self._heartbeat = Heartbeat(timeout=limits.heartbeat_timeout)
        self._claimed: Position | None = None

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

    def compare(self, claimed: Position) -> None:
        """Take note of where the client says it stands. If that can't be, it is told a gap or sent what it lacks."""
        if self._heartbeat.doubts(claimed, self._follower.position):
            self._claimed = claimed
            self._wake_writer()

    async def permitted(self) -> bool:
        """Whether the deny-list permits the connection's principal. Raises `LogUnavailable`."""
        return await self._permits(self.principal)

    def _concerned(self, order: Order) -> bool:
        return order.concerns(self.connection_id, self.principal.token_id, self.principal.issued_at, self.seat)

    def order(self, code: CloseCode) -> None:
        """Expect the log to order an end with `code`; soon end without that, and in the end by force."""
        self._follower.hush()
        self._loop.call_later(ORDER_SECONDS, self._obey, code)

    def _obey(self, code: CloseCode) -> None:
        self.close(code)
        self._loop.call_later(CUT_SECONDS, self.cut)

    def start(self, head: Position, position: Position | None, *, latest: bool = False) -> None:
        """Take a place in the log and send from it: after `position`, from the end, or from the oldest entry. `head` is
        where the log ended before the deny-list was consulted. Called once, by the manager."""
        self._follower.start(head, position, latest=latest)
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
            await self._inbound.read(self, self.websocket, authenticate)
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
        except that one without `flush` ends the flushing, and that a revocation overrides any other code."""
        if code is not CloseCode.REVOKED and self._close_code is not None and (flush or not self._flush):
            return
        if self._close_code is None or code is CloseCode.REVOKED:
            self._close_code = code
        self._flush = flush
        if flush:
            self._follower.dirty = True  # a wake-up may have been lost
        else:
            self._outbound.stop()
        if self.state is ConnectionState.OPEN:
            self.state = ConnectionState.CLOSING
        self._wake_writer()

    def abandon(self) -> None:
        """End the connection without a word to the client: it is gone, or takes no frame."""
        self.is_healthy = False
        if self._close_code is None:
            self._close_code = CloseCode.TIMED_OUT
        if self._writer is not None:
            self._writer.cancel()

    def cut(self) -> None:
        """Abandon the connection and cut its socket, where the server offers that; elsewhere it stays, and counts."""
        if self.state is not ConnectionState.CLOSED:
            self.abandon()
            self._metrics.uncut += not cut_socket(self.websocket)

    async def heard(self) -> None:
        """Note that the client is there. Returns when there is room for the answer."""
        self._active_at = self._loop.time()
        self._heartbeat.heard()
        await self._controls.room()

    async def wait_closed(self) -> None:
        """Wait until the writer has ended."""
        if self._writer is not None:
            await asyncio.wait([self._writer])

    def check(self, now: float, lost: float = 0.0) -> None:
        """End what is overdue at `now`, in the loop's time: a write, a pong, a token. Called at every sweep. The `lost`
        seconds, in which the loop stood still, count against no client: it may have answered meanwhile."""
        if self._outbound.stuck(now, lost, self._limits.write_timeout):
            self._metrics.stale += 1
            logger.info("a write took too long", extra={"connection_id": self.connection_id})
            self.cut()
        elif self._heartbeat.overdue(now, lost):
            self._metrics.stale += 1
            self.close(CloseCode.TIMED_OUT)
        elif self._outbound.expired():
            self.close(CloseCode.EXPIRED)

    def send_control(self, frame_type: str, /, **fields: object) -> None:
        """Queue a control frame; it is sent before any event that is read from now on."""
        self._controls.put(control_frame(frame_type, **fields))
        self._wake_writer()

    def degrade(self, outage: Outage) -> None:
        """The log is away: tell the client, and show it what waits here for the log, until `restore`."""
        if self.state is not ConnectionState.CLOSED and self._follower.degrade(outage, self._writer):
            self.send_control("degraded", since=outage.since)

    def restore(self) -> None:
        """The log is back: tell the client if it was told otherwise, and read."""
        if self._follower.restore():
            self.send_control("restored")

    def _wake(self) -> None:
        """Called by the log after an append."""
        self._follower.dirty = True
        try:
            self._alarm.count()
        except RuntimeError:
            self.detach()  # the loop was closed under us, which is nothing to whoever appends

    def _wake_writer(self) -> None:
        self._due = True
        with contextlib.suppress(RuntimeError):  # as above
            self._alarm.ring()

    def _beat(self) -> None:
        self._ping_due = self._follower.dirty = True
        self._wake_writer()

    async def _write(self) -> None:
        """The writer: from `connected` to the close of the socket."""
        say_goodbye = True
        try:
            await self._greet()
            self._timer = self._loop.call_later(self._limits.heartbeat, self._beat)
            while True:
                if self._due:
                    if await self._attend():
                        break
                elif self._follower.dirty:
                    if self._credit is not None:
                        await self._credit.spend(self._alarm, self._full_batch, self._loop.time)
                        if self._due:
                            continue
                    await self._outbound.send((), await self._follower.next())
                else:
                    await self._alarm.wait()
        except asyncio.CancelledError:
            say_goodbye = False
            raise
        except Exception as error:  # whatever it is, it says how the connection ends
            self._close_code, say_goodbye = ending_of(error, self._close_code, self._metrics)
        finally:
            await self._finish(say_goodbye=say_goodbye)

    async def _finish(self, *, say_goodbye: bool) -> None:
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

    async def _attend(self) -> bool:
        """See to everything but plain events: a close, control frames, the heartbeat. True if this was the end."""
        if self._close_code is not None and not self._flush:
            return True
        controls = self._controls.take()
        claimed, self._claimed = self._claimed, None
        if claimed is not None:
            steps = await self._follower.compare(claimed)
        else:
            steps = await self._follower.next() if self._follower.dirty else []
        await self._outbound.send(controls, steps)
        self._controls.taken()
        if self._follower.dirty or self._controls or self._claimed is not None:
            return False
        if self._ping_due:  # it names the position that the client has by now
            self._ping_due = False
            self._timer = self._loop.call_later(self._limits.heartbeat, self._beat)
            self._heartbeat.asked(self._loop.time(), self._follower.position, owes=self.protocol == PROTOCOL)
            await self._outbound.send([control_frame("ping", cursor=self.cursor)], ())
        elif self._close_code is not None:
            return True
        else:
            self._due = False
        return False
