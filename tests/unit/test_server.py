"""uvicorn's settings, its drain, the extension that cuts a socket, and the health routes. Without a network."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from websockets.frames import Frame, Opcode

from tests.support import FakeSocket, Tab, VirtualLoop, a_manager, turns, until, virtual_time
from websocket_core.connection import WebSocketConnection
from websocket_core.errors import ManagerClosed
from websocket_core.inbound import SERVER_EXTENSION, cut_socket, register_with_server
from websocket_core.limits import Limits
from websocket_core.metrics import Metrics
from websocket_core.router import health_router
from websocket_core.server import CuttableProtocol, DrainingServer, ServerBounds, server_config
from websocket_core.server_logging import (
    LOGGERS,
    JSONFormatter,
    LogFormat,
    TextFormatter,
    WithoutQueries,
    logging_config,
)
from websocket_core.server_requests import BoundedRequests, bounds_of

# -- settings


async def nothing(_scope: Any, _receive: Any, _send: Any) -> None: ...


def test_the_settings_are_right_for_sockets_that_stay_open() -> None:
    config = server_config(nothing, port=9000)
    config.load()
    assert config.ws_protocol_class is CuttableProtocol
    assert config.ws_per_message_deflate is False
    assert config.ws_max_size == Limits().frame_bytes
    assert config.log_level == "warning", "at info there is a line for every socket and request"
    assert config.timeout_graceful_shutdown == 10
    assert (config.host, config.port) == ("127.0.0.1", 9000)


def test_what_the_application_chooses_wins() -> None:
    config = server_config(nothing, ws="websockets-sansio", ws_max_size=7, log_level="error", log_config=None)
    assert (config.ws, config.ws_max_size, config.log_level) == ("websockets-sansio", 7, "error")
    assert config.log_config is None
    assert server_config(nothing, http=asyncio.Protocol).http is asyncio.Protocol


@pytest.mark.parametrize("http", ["auto", "h11", "httptools"])
def test_every_parser_of_uvicorns_has_the_bounds_that_were_asked_for(http: str) -> None:
    bounds = ServerBounds(handshake_timeout=1.5)
    config = server_config(nothing, http=http, bounds=bounds)
    config.load()
    assert issubclass(config.http_protocol_class, BoundedRequests)
    assert bounds_of(config) is bounds
    assert bounds_of(server_config(nothing)) == ServerBounds()


@pytest.mark.parametrize("given", [{}, {"forwarded_allow_ips": None}, {"proxy_headers": True}])
def test_nobody_is_believed_to_be_a_proxy_whatever_the_environment_says(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    config = server_config(nothing, **given)
    assert config.forwarded_allow_ips == []
    assert config.proxy_headers is bool(given.get("proxy_headers", False))
    named = server_config(nothing, forwarded_allow_ips="10.0.0.1")
    assert (named.forwarded_allow_ips, named.proxy_headers) == ("10.0.0.1", True)


def test_queries_are_cut_off_what_uvicorn_logs_whatever_the_configuration_of_its_loggers() -> None:
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [list(each.filters) for each in loggers]
    try:
        for each in loggers:
            each.filters = []
        for _ in range(2):
            server_config(nothing, log_config=None)
        assert [[type(one) for one in each.filters] for each in loggers] == [[WithoutQueries]] * len(loggers)
    finally:
        for each, filters in zip(loggers, before, strict=True):
            each.filters = filters


@pytest.mark.parametrize(("log_format", "formatter"), [("text", TextFormatter), ("json", JSONFormatter)])
def test_the_format_of_the_log_is_the_one_that_was_asked_for(log_format: LogFormat, formatter: type) -> None:
    logger = logging.getLogger("uvicorn")
    try:
        config = server_config(nothing, log_format=log_format)
        assert config.log_config == logging_config(log_format)
        [handler] = logger.handlers
        assert isinstance(handler.formatter, formatter)
    finally:
        server_config(nothing)


# -- the server


class Waiting:
    """A manager that drains when it is told to."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.budgets: list[float] = []
        self.go = asyncio.Event()
        self.failure = failure
        self.cancelled = False

    async def drain(self, budget: float) -> None:
        self.budgets.append(budget)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        if self.failure is not None:
            raise self.failure


class Lifespan:
    """An application that may take its time to shut down."""

    def __init__(self) -> None:
        self.begun = False
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.begun = True
        await self.go.wait()
        await send({"type": "lifespan.shutdown.complete"})


async def started(app: Any, drain: float = 7.0) -> tuple[DrainingServer, asyncio.Task[None]]:
    """A server that listens, but leaves the signals alone."""
    server = DrainingServer(server_config(app, port=0), drain=drain)
    serving = asyncio.create_task(server._serve())
    await until(lambda: server.started, "the start")
    return server, serving


async def test_every_manager_drains_with_the_budget_while_the_server_still_listens() -> None:
    app, one, two = Lifespan(), Waiting(), Waiting()
    server, serving = await started(app)
    for manager in (one, two, one):
        server._state.register(manager)
    server.handle_exit(signal.SIGTERM, None)
    await until(lambda: one.budgets and two.budgets, "the drain")
    assert one.budgets == two.budgets == [7.0], "each once, and at the same time"
    one.go.set()
    await asyncio.sleep(0.3)
    assert server.servers[0].is_serving()
    assert not app.begun
    two.go.set()
    await asyncio.wait_for(serving, 5)
    assert not server.servers[0].is_serving()
    assert app.begun
    assert not server.force_exit


async def test_a_manager_that_cannot_drain_is_told_and_the_others_are_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server, serving = await started(Lifespan())
    broken, whole = Waiting(OSError("broken")), Waiting()
    server._state.register(broken)
    server._state.register(whole)
    server.handle_exit(signal.SIGTERM, None)
    broken.go.set()
    await asyncio.sleep(0.5)
    assert not serving.done()
    whole.go.set()
    await asyncio.wait_for(serving, 5)
    [record] = [record for record in caplog.records if record.name == "websocket_core.server"]
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None


async def test_a_second_signal_ends_the_drain_and_the_applications_shutdown_in_bounded_time() -> None:
    app, manager = Lifespan(), Waiting()
    app.go.clear()
    server, serving = await started(app)
    server._state.register(manager)
    server.handle_exit(signal.SIGTERM, None)
    await until(lambda: manager.budgets, "the drain")
    server.handle_exit(signal.SIGINT, None)
    await asyncio.wait_for(serving, 5)
    assert server.force_exit
    assert manager.cancelled
    assert app.begun, "Starlette would log a crash if its lifespan were just cancelled"
    app.go.set()
    await turns()


async def test_a_second_signal_ends_an_application_that_does_not_shut_down() -> None:
    app = Lifespan()
    app.go.clear()
    server, serving = await started(app)
    server.handle_exit(signal.SIGTERM, None)
    await until(lambda: app.begun, "the shutdown")
    server.handle_exit(signal.SIGTERM, None)
    await asyncio.wait_for(serving, 5)
    app.go.set()
    await turns()


async def test_the_process_does_not_end_by_the_signal_that_was_seen_to() -> None:
    server = DrainingServer(server_config(nothing))
    server.handle_exit(signal.SIGTERM, None)
    assert server.should_exit
    assert server._captured_signals == [], "uvicorn would raise it again at the end"


# -- the extension


class ServedSocket(FakeSocket):
    """A socket that knows its scope, with a server below it that offers the extension."""

    def __init__(self, offers: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.scope: dict[str, Any] = {"type": "websocket", "extensions": {SERVER_EXTENSION: offers or {}}}


class Knife:
    def __init__(self) -> None:
        self.cuts = 0
        self.socket = ServedSocket({"abort": self})

    def __call__(self) -> None:
        self.cuts += 1
        self.socket.client_leaves()


@pytest.mark.parametrize("scope", [None, {}, {"extensions": None}, {"extensions": {}}, {"extensions": {"tls": {}}}])
def test_a_server_that_offers_nothing_is_asked_for_nothing(scope: Any) -> None:
    socket = FakeSocket()
    if scope is not None:
        socket.scope = scope  # type: ignore[attr-defined]
    assert cut_socket(socket) is False
    register_with_server(socket, object())


async def test_a_manager_registers_with_each_server_that_brings_it_a_connection() -> None:
    told: list[object] = []
    async with a_manager() as manager:
        tabs = [await Tab.open(manager, "alice", socket=ServedSocket({"register": told.append})) for _ in range(2)]
        assert told == [manager, manager]
        for tab in tabs:
            await tab.cut()


async def test_a_write_that_takes_too_long_cuts_the_socket() -> None:
    metrics, knife = Metrics(), Knife()
    limits = Limits(write_timeout=0.05, sweep_interval=0.01)
    async with a_manager(limits=limits, metrics=metrics) as manager:
        tab = await Tab.open(manager, "alice", socket=knife.socket)
        await tab.greeted()
        knife.socket.block()
        await manager.get_emitter("alice").emit("x", {})
        await until(lambda: knife.cuts, "the cut")
        await tab.serving
        assert (knife.cuts, metrics.stale, metrics.uncut) == (1, 1, 0)


async def test_a_socket_that_cannot_be_cut_is_counted() -> None:
    metrics = Metrics()
    limits = Limits(write_timeout=0.05, sweep_interval=0.01)
    async with a_manager(limits=limits, metrics=metrics) as manager:
        tab = await Tab.open(manager, "alice")
        await tab.greeted()
        tab.socket.block()
        await manager.get_emitter("alice").emit("x", {})
        await until(lambda: metrics.stale, "the end")
        await tab.serving
        assert (metrics.stale, metrics.uncut) == (1, 1)


async def test_a_pong_that_does_not_come_is_told_before_the_socket_is_cut() -> None:
    metrics, knife = Metrics(), Knife()
    limits = Limits(heartbeat=0.02, heartbeat_timeout=0.05, sweep_interval=0.01)
    knife.socket.subprotocol = "unified-websocket.v1"
    knife.socket._answers_pings = False
    async with a_manager(limits=limits, metrics=metrics) as manager:
        tab = await Tab.open(manager, "alice", socket=knife.socket)
        assert await tab.ended() == 4408
        assert (knife.cuts, metrics.stale, metrics.uncut) == (1, 1, 0)


async def test_a_connection_that_ends_in_good_order_is_not_cut() -> None:
    """A cut would throw away the close frame, and what was sent just before it."""
    metrics = Metrics()
    manager = a_manager(metrics=metrics)
    knives = [Knife() for _ in range(4)]
    async with manager:
        replaced, _kept, gone, last = [
            await Tab.open(manager, "alice", f"tab {min(number, 1)}", socket=knife.socket)
            for number, knife in zip((0, 0, 1, 2), knives, strict=True)
        ]
        assert await replaced.ended() == 4409
        assert await gone.ended() == 4409
        await last.cut()
        await manager.disconnect_user("alice")
    assert [knife.cuts for knife in knives] == [0] * 4
    assert metrics.uncut == 0


async def test_a_shutdown_cuts_only_who_did_not_take_the_goodbye() -> None:
    metrics, slow, quick = Metrics(), Knife(), Knife()
    async with a_manager(limits=Limits(shutdown_timeout=0.1), metrics=metrics) as manager:
        tabs = [await Tab.open(manager, "alice", socket=knife.socket) for knife in (slow, quick)]
        await tabs[0].greeted()
        slow.socket.block()
        await manager.get_emitter("alice").emit("x", {})
        await tabs[1].has(1)
        await manager.shutdown()
        assert (slow.cuts, quick.cuts, metrics.uncut) == (1, 0, 0)
        assert await tabs[1].ended() == 1012
        await tabs[0].serving


async def test_a_connection_that_could_not_be_begun_can_still_be_told_why() -> None:
    """The endpoint closes it with a code, which a cut would take away."""

    async def refuse(_connection: WebSocketConnection) -> None:
        raise RuntimeError("refused")

    knife = Knife()
    async with a_manager(on_connect=refuse) as manager:
        with pytest.raises(RuntimeError, match="refused"):
            await manager.connect_user(knife.socket, "alice")
        await turns()
        assert knife.cuts == 0


# -- protocol pings


class FakeTransport(asyncio.Transport):
    """A transport that notes what is written, and whether it was cut."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.aborted

    def close(self) -> None:
        """As with a client that takes nothing: what is buffered keeps it open."""

    def abort(self) -> None:
        self.aborted = True

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


@virtual_time
async def test_a_stall_does_not_count_against_the_answer_to_a_protocol_ping() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    transport = FakeTransport()
    config = server_config(app, lifespan="off", ws_ping_interval=10.0, ws_ping_timeout=10.0)
    config.load()
    protocol = CuttableProtocol(config, uvicorn.Server(config).server_state, {})
    protocol.connection_made(transport)
    protocol.data_received(
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    await asyncio.sleep(10.5)
    payload = protocol.pending_ping_payload
    assert payload is not None
    loop.now += 15.0
    await asyncio.sleep(1.0)
    assert not transport.aborted
    protocol.data_received(Frame(Opcode.PONG, payload).serialize(mask=True))
    await until(lambda: protocol.pending_ping_payload, "the next ping", 11.0)
    await asyncio.sleep(9.5)
    assert not transport.aborted
    await asyncio.sleep(1.0)
    assert transport.aborted, "who never answers is cut, although its buffer is full"
    protocol.connection_lost(None)
    await turns()


# -- health


async def test_readiness_fails_from_the_first_moment_of_a_drain_and_life_goes_on() -> None:
    manager = a_manager()
    app = FastAPI()
    app.include_router(health_router(manager), prefix="/health")
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as http:

        async def answers() -> tuple[int, int]:
            return (await http.get("/health/livez")).status_code, (await http.get("/health/readyz")).status_code

        assert await answers() == (200, 200)
        async with manager:
            tabs = [await Tab.open(manager, f"user {number}") for number in range(3)]
            draining = asyncio.create_task(manager.drain(budget=0.3))
            await turns(1)
            assert await answers() == (200, 503)
            await draining
            assert await answers() == (200, 503), "until it is started again"
            with pytest.raises(ManagerClosed):
                await manager.connect_user(FakeSocket(), "late")
            for tab in tabs:
                assert await tab.ended() == 1012
        async with manager:
            assert await answers() == (200, 200)
        assert await answers() == (200, 503)


def test_the_health_routes_are_not_in_the_applications_schema() -> None:
    app = FastAPI()
    app.include_router(health_router(a_manager()))
    assert app.openapi()["paths"] == {}


def test_a_plain_server_of_uvicorn_is_served_by_the_same_configuration() -> None:
    """Then sockets can be cut, but nobody registers managers."""
    config = server_config(nothing)
    config.load()
    server = uvicorn.Server(config)

    async def make() -> CuttableProtocol:
        return CuttableProtocol(config, server.server_state, {})

    assert asyncio.run(make())._register is None
