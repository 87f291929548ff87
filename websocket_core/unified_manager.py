"""`UnifiedWebSocketManager`: owns the connections, keyed by user and connection id, and hands out emitters."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Self

from websocket_core.admission import AdmissionGate
from websocket_core.appender import Appender
from websocket_core.authorization import Authorization, Narrow, Verb
from websocket_core.availability import Availability
from websocket_core.background import Background
from websocket_core.connection import WebSocketConnection
from websocket_core.emitters import Emitters
from websocket_core.errors import ConnectionRefused, InvalidInput, ManagerClosed, UnknownConnection, WrongEventLoop
from websocket_core.events import EventEncoder, random_text
from websocket_core.hand_over import HandOvers
from websocket_core.hooks import ConnectionHook, Hooks, SnapshotHook
from websocket_core.identity import LogName, Principal, UserId, checked_user_id, text_fault
from websocket_core.inbound import FrameHandler, accept_socket, protocol_of, register_with_server
from websocket_core.limits import Limits, Retention, RetryPolicy
from websocket_core.log import LogStore, Position
from websocket_core.logs import open_backend
from websocket_core.logs.queues import Queues
from websocket_core.metrics import Metrics, process_metrics
from websocket_core.outbound import Socket
from websocket_core.outbox import Outbox, Outboxes
from websocket_core.pacing import Pacing
from websocket_core.registry import Registry
from websocket_core.revocation import Revocations
from websocket_core.runs import OpenRuns, handlers_of, keeper_of
from websocket_core.seating import Seating
from websocket_core.state import SharedState
from websocket_core.sweeper import Sweeper
from websocket_core.tasks import wait_until
from websocket_core.unified_emitter import UnifiedWebSocketEmitter
from websocket_core.wire import CLOSE_RULES, CURSOR_LATEST, CloseCode, decode_cursor

if TYPE_CHECKING:
    from bridge.agent_bridge import AgentWebSocketBridge
    from bridge.context import RunContext

logger = logging.getLogger(__name__)


class UnifiedWebSocketManager:
    """The connections of one application, and the way to its users' logs.

    Used as `async with UnifiedWebSocketManager() as manager:`, by `FastAPI(lifespan=manager.lifespan)`, or with
    neither: then the first connect starts what is needed in the running loop, and a loop that has gone is replaced.

    `log` is `"memory://"`, `"redis://host:6379/0"` (with a `namespace` that separates applications), or a `LogStore` of
    one's own. `on_connect` and `on_disconnect` are awaited with the
    connection; what `snapshot` returns for it, a dict, is shown to a client that is told a gap. `authorize` may take
    away what a principal may do with its own (`websocket_core.authorization`).
    `clock` (Unix seconds), `monotonic` (seconds), `entropy` (random bytes) and `rng` (jitter) are there for tests and
    simulations. Raises `InvalidConfiguration`. `draining` is True from `drain` or `shutdown` on.
    """

    MAX_CONNECTIONS_PER_USER: ClassVar[int] = Limits().connections_per_user
    MAX_TOTAL_CONNECTIONS: ClassVar[int] = Limits().connections
    CLEANUP_INTERVAL_SECONDS: ClassVar[float] = Limits().sweep_interval
    STALE_CONNECTION_TIMEOUT: ClassVar[float] = Limits().heartbeat + Limits().heartbeat_timeout
    MAX_PENDING_MESSAGES: ClassVar[int] = Limits().outbox

    def __init__(
        self,
        log: str | LogStore = "memory://",
        *,
        limits: Limits | None = None,
        retention: Retention | None = None,
        retry: RetryPolicy | None = None,
        state: SharedState | None = None,
        metrics: Metrics | None = None,
        on_connect: ConnectionHook | None = None,
        on_disconnect: ConnectionHook | None = None,
        snapshot: SnapshotHook | None = None,
        authorize: Narrow | None = None,
        namespace: str = "unified-websocket",
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        entropy: Callable[[int], bytes] = os.urandom,
        rng: random.Random | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.retention = retention or Retention()
        self.metrics = metrics or process_metrics()
        self.admission = AdmissionGate(self.limits, self.metrics)
        self._pacing = Pacing(self.limits, self.metrics)
        self.encoder = EventEncoder(
            event_bytes=self.limits.event_bytes, event_depth=self.limits.event_depth, clock=clock, entropy=entropy
        )
        self._log, self.state = open_backend(
            log, state, namespace=namespace, retention=self.retention, limits=self.limits,
            clock=clock, monotonic=monotonic, entropy=entropy, rng=rng, metrics=self.metrics,
        )  # fmt: skip
        self.runs = OpenRuns(keeper_of(self.state, limits=self.limits, monotonic=monotonic, entropy=entropy, rng=rng))
        writer = self.runs.writer(self._log)
        retry = retry or RetryPolicy()
        self.appender = Appender(writer, retry=retry, metrics=self.metrics, monotonic=monotonic, rng=rng)
        self._clock = clock
        self.monotonic = monotonic
        self.entropy = entropy
        self._hooks = Hooks(on_connect=on_connect, on_disconnect=on_disconnect, snapshot=snapshot, limits=self.limits)
        self._registry = Registry(self.metrics)
        self.revocations = Revocations(
            appender=self.appender, encoder=self.encoder, state=self.state, registry=self._registry, clock=clock
        )
        self._seating = Seating(
            self.state, self._registry, self.appender, self.encoder,
            most=self.limits.connections_per_user, metrics=self.metrics, entropy=entropy,
        )  # fmt: skip
        self.authorization = Authorization(permits=self.revocations.permits, narrow=authorize)
        self._emitters = Emitters(self)
        self._outboxes = Outboxes(self.appender, encoder=self.encoder, limits=self.limits, metrics=self.metrics)
        self.hand_overs = HandOvers(self.appender, self._outboxes, limits=self.limits)
        self._handlers: dict[str, FrameHandler] = handlers_of(self.runs, self.authorization)
        self.frame_handlers = self._handlers
        self.queues = Queues(self._log, clock=clock, monotonic=monotonic)
        self._loop: asyncio.AbstractEventLoop | None = None
        sweeper = Sweeper(self._registry, self._log, limits=self.limits, metrics=self.metrics)
        self.availability = Availability(
            self._log, self._registry, self._outboxes, limits=self.limits, metrics=self.metrics, clock=clock, rng=rng
        )
        jobs = {"sweeper": sweeper.run, **self.availability.jobs(), **self._seating.jobs()}
        jobs |= self.runs.jobs(self.appender, self.encoder, limits=self.limits, metrics=self.metrics)
        self._background = Background(jobs)
        self._closed = False
        self.draining = False

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.shutdown()

    @asynccontextmanager
    async def lifespan(self, _app: object) -> AsyncIterator[None]:
        """For `FastAPI(lifespan=manager.lifespan)`: started with the application, shut down with it."""
        async with self:
            yield

    def _start(self) -> None:
        """Start, or start again after a shutdown, in the running loop."""
        loop = asyncio.get_running_loop()
        self._forget_other_loop(loop)
        self._closed = self.draining = self.appender.closed = False
        self._loop = loop
        self.hand_overs.start()
        self._background.start()

    def _forget_other_loop(self, running: asyncio.AbstractEventLoop) -> None:
        """Drop what belonged to a loop that is gone. Its tasks can neither run nor be cancelled any more."""
        if self._loop is None or self._loop is running:
            return
        if self._loop.is_running():
            raise WrongEventLoop("this manager serves another running event loop; make one manager for each")
        self._registry.clear()
        self._emitters.clear()
        self._outboxes.clear()
        self.runs.clear()
        self._seating.clear()
        self._hooks.clear()
        self._background.forget()

    async def shutdown(self) -> None:
        """End everything: deliver what was emitted before, close every connection with 1012, end every task.

        Takes at most `Limits.shutdown_timeout` seconds; a socket that does not take its events by then is abandoned.
        Emitting afterwards raises `ManagerClosed`. The manager may be started again.
        """
        loop = asyncio.get_running_loop()
        self._forget_other_loop(loop)
        self._closed = self.draining = True
        deadline = loop.time() + self.limits.shutdown_timeout
        flushed = deadline - self.limits.shutdown_timeout / 4  # a log that is away leaves some time for the clients
        await wait_until(flushed, [self.hand_overs.close(), self._outboxes.flush()])
        self.appender.closed = True  # before the pumps end, so that no run starts another
        await self._outboxes.close()
        ending = [*self._registry, *self._registry.leaving()]
        for connection in self._registry:
            connection.close(CloseCode.RESTARTING, flush=True)
        await wait_until(deadline, [connection.wait_closed() for connection in ending])
        for connection in ending:
            connection.cut()
        await wait_until(deadline + 1.0, [connection.wait_closed() for connection in ending])
        await self._background.stop()
        await wait_until(deadline + 1.0, [self.runs.close(), self._seating.close()])
        await wait_until(deadline + 1.0, self._hooks.running())
        await self._log.close()
        self._emitters.clear()
        self._loop = None

    async def drain(self, budget: float = 25.0) -> None:
        """Send every client away, evenly over `budget` seconds, with 1012 after its events; then shut down. Connections
        that come meanwhile are refused with 1013."""
        self.draining = True
        leaving = list(self._registry)
        pause = min(1.0, budget / len(leaving)) if leaving else 0.0
        for connection in leaving:
            connection.close(CloseCode.RESTARTING, flush=True)
            await asyncio.sleep(pause)
        await self.shutdown()

    def now(self) -> float:
        """Unix seconds, by the clock that expiry is judged by."""
        return self._clock()

    async def connect_user(
        self,
        websocket: Socket,
        user_id: str,
        connection_id: str | None = None,
        thread_id: str | None = None,
        *,
        principal: Principal | None = None,
        cursor: str | None = None,
        only_thread: str | None = None,
    ) -> WebSocketConnection:
        """Register a connection of this user and start to send to it. `await connection.serve()` then reads from it.

        `websocket` is anything with `send_text`, `receive` or `receive_text`, and `close`; one that was not accepted
        yet is accepted. `cursor` resumes after that position of the user's own log, or with `"latest"` starts at its
        end; without one the connection starts at the oldest event. `thread_id` is a label; `only_thread` narrows the
        connection to the events of one thread.

        A connection of the same user and id is closed with 4409, and so is the user's oldest above
        `Limits.connections_per_user`. Raises `InvalidUserId`, `InvalidInput` (a bad connection id), `MalformedCursor`,
        `LogUnavailable`, and after closing the socket `ConnectionRefused` (limits, drain, revoked, not authorised).
        """
        if principal is None:
            principal = Principal(user_id)
        elif principal.user_id != user_id:
            raise InvalidInput("principal and user_id name different users")
        user = UserId(principal.user_id)
        if connection_id is None:
            connection_id = random_text(self.entropy, 9)
        elif fault := text_fault(connection_id, characters=256, utf8_bytes=512):
            raise InvalidInput(f"this is not a connection id: {fault}")
        latest = cursor == CURSOR_LATEST
        position = None if cursor is None or latest else decode_cursor(cursor)
        if self._closed:
            raise ManagerClosed("the manager was shut down")
        self._start_if_needed()
        register_with_server(websocket, self)
        await accept_socket(websocket)
        if self.availability.degraded:  # nobody waits for a log that is known to be away
            await self._refuse(websocket, CloseCode.OVERLOADED)
        head = await self._log.open(LogName.of_user(user))
        verb = Verb.HISTORY if cursor is None else Verb.CONNECT if latest else Verb.RESUME
        # Asked after the head was noted: later orders stand behind it.
        refusal = await self.authorization.refusal(principal, verb, user)
        if refusal is not None:
            await self._refuse(websocket, refusal)
        taken = await self._seating.take(user, connection_id)
        closed = self.draining or self._closed or self.availability.degraded
        if closed or len(self._registry) >= self.limits.connections:
            self._seating.leave(user, taken.id)
            await self._refuse(websocket, CloseCode.OVERLOADED)
        connection = WebSocketConnection(
            websocket,
            principal=principal,
            connection_id=connection_id,
            thread_id=thread_id,
            protocol=protocol_of(websocket),
            reader=self._log,
            limits=self.limits,
            metrics=self.metrics,
            handlers=self._handlers,
            pacing=self._pacing,
            permits=self.revocations.permits,
            ended=self._connection_ended,
            snapshot=self._hooks.snapshot if self._hooks.takes_snapshots else None,
            only_thread=only_thread,
            full_batch=min(self.limits.batch_events, max(1, self.retention.events // 4)),
            clock=self._clock,
            monotonic=self.monotonic,
            rng=self.availability.rng,
        )
        self._seating.admit(connection, taken)
        self._emitters.keep(user)
        try:
            connection.start(head, position, latest=latest)
            self.revocations.admitted(connection)
            logger.info("connected", extra={"connection_id": connection_id})
            await self._hooks.connected(connection)
        except BaseException:
            self._forget(connection)
            connection.abandon()
            raise
        return connection

    def _start_if_needed(self) -> None:
        if self._loop is not asyncio.get_running_loop() or not self._background.running:
            self._start()

    async def _refuse(self, websocket: Socket, code: CloseCode) -> None:
        self.metrics.refusals += 1
        reason = CLOSE_RULES[code].reason
        await websocket.close(int(code), reason)
        raise ConnectionRefused(int(code), reason)

    def _forget(self, connection: WebSocketConnection) -> None:
        self._registry.ended(connection)
        self._seating.leave(connection.user_id, connection.seat)
        if not self._registry.has(connection.user_id):
            self._emitters.release(connection.user_id)

    def _connection_ended(self, connection: WebSocketConnection) -> None:
        """Called by a connection when its writer has ended."""
        self._forget(connection)
        logger.info("disconnected", extra={"connection_id": connection.connection_id})
        if self._loop is not None:
            self._hooks.disconnected(connection, self._loop)

    async def disconnect_user(self, user_id: str, connection_id: str | None = None) -> None:
        """Close one connection of the user with 1000, or all without a connection id, once it has been sent what was
        emitted before. A user or connection that is not there is no error. Raises `AppendFailed`."""
        await self.revocations.disconnect(checked_user_id(user_id), connection_id)

    async def revoke(self, user_id: str, token_id: str | None = None, *, seconds: float = 86_400.0) -> None:
        """Log a user out everywhere, or with a token id (`Principal.token_id`) only where that token was used.

        From now on, for so many `seconds`, credentials that were issued until now are refused with 4410: choose no
        fewer than the longest of them lives. One without an `iat` claim counts as issued before. What is open is
        closed with 4410 within 2 seconds and sent nothing that was emitted after this. Raises `LogUnavailable` if
        nothing was denied, and `AppendFailed` if connections of other processes may not have learned of it; calling
        again is safe.
        """
        await self.revocations.revoke(checked_user_id(user_id), token_id, seconds=seconds)

    async def require_connection(self, user_id: UserId, connection_id: str) -> None:
        """Raise `UnknownConnection` unless this user has this connection, or registered it within `Retention.age`."""
        if not isinstance(connection_id, str):
            raise InvalidInput("a connection id is a string")
        if self._registry.has(user_id, connection_id):
            return
        if not await self.state.knows_connection(user_id, connection_id):
            raise UnknownConnection("this user has no connection of that id; nothing was appended")

    def get_emitter(self, user_id: str) -> UnifiedWebSocketEmitter:
        """The emitter of this user: the same one while the user is connected or somebody holds it."""
        user = checked_user_id(user_id)
        emitter = self._emitters.of(user)
        if self._registry.has(user):
            self._emitters.keep(user)
        return emitter

    async def emit_critical_event(
        self, user_id: str, event_type: str, data: Mapping[str, Any], connection_id: str | None = None
    ) -> Position:
        """The same as `get_emitter(user_id).emit(...)`, for any event type."""
        return await self.get_emitter(user_id).emit(event_type, data, connection_id=connection_id)

    def outbox(self, user_id: str) -> Outbox:
        """Where the events of this user's agent runs wait for the log. For the bridge."""
        return self._outboxes.of(checked_user_id(user_id))

    def create_agent_bridge(self, context: RunContext) -> AgentWebSocketBridge:
        """A bridge for one agent run. `context` is anything with `user_id`, `run_id` and `thread_id`."""
        from bridge.agent_bridge import AgentWebSocketBridge

        return AgentWebSocketBridge(self, context)

    async def head(self, user_id: str) -> Position:
        """Where the user's log ends now. A snapshot taken after this call goes with it: a client that connects with
        `cursor=encode_cursor(position)` continues from there."""
        return await self._log.open(LogName.of_user(checked_user_id(user_id)))

    async def delete_user(self, user_id: str) -> None:
        """Forget a user: close the connections with 1000, drop the log with its epoch, forget the connection ids."""
        user = checked_user_id(user_id)
        elsewhere = await self._seating.elsewhere(user)
        await self.disconnect_user(user)
        for connection in self._registry.leaving():
            if connection.user_id == user:
                connection.close(CloseCode.DISCONNECTED)  # now: the order goes with the log
        await self._log.forget(LogName.of_user(user))
        if elsewhere:  # once more, in the new life of the log: those of other processes may not have come to it
            await self.disconnect_user(user)
        await self.state.forget_user(user)

    def get_stats(self) -> dict[str, int]:
        """How much there is now: users and connections that are connected, emitters in use, connections watched."""
        return {
            "total_users": self._registry.users,
            "total_connections": len(self._registry),
            "active_emitters": len(self._emitters),
            "heartbeat_tasks": len(self._registry),
        }
