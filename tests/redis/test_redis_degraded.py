"""Redis goes away in every way that it can, and comes back: connections stay and are told, and runs lose nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from bridge import UserExecutionContext
from tests.asgi import ask
from tests.listening import free_port
from tests.redis.marks import NEEDS_REDIS
from tests.redis.proxy import Proxy
from tests.redis.server import PERSISTENCE, RedisServer
from tests.support import Tab, a_manager, check_runs, until
from websocket_core.auth import AuthRequest
from websocket_core.errors import AppendFailed
from websocket_core.identity import Principal
from websocket_core.limits import Limits, RetryPolicy
from websocket_core.router import health_router, websocket_router
from websocket_core.server import DrainingServer, server_config
from websocket_core.unified_manager import UnifiedWebSocketManager

pytestmark = NEEDS_REDIS

QUICK = Limits(check_interval=0.4, degraded_after=1.0, shutdown_timeout=3.0)
WAYS = ("killed", "frozen", "black hole")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that keeps what it acknowledged."""
    started = RedisServer(tmp_path, *PERSISTENCE["always"])
    yield started
    started.stop()


class Away:
    """A Redis behind a network, and the ways in which it goes and comes back."""

    def __init__(self, server: RedisServer, proxy: Proxy, way: str) -> None:
        self.server = server
        self.proxy = proxy
        self.way = way

    @property
    def url(self) -> str:
        return self.proxy.url if self.way == "black hole" else self.server.url

    def go(self) -> None:
        match self.way:
            case "killed":
                self.server.kill()
            case "frozen":
                self.server.signal(signal.SIGSTOP)
            case _:
                self.proxy.blackholed = True

    def come_back(self) -> None:
        match self.way:
            case "killed":
                self.server.start()
            case "frozen":
                self.server.signal(signal.SIGCONT)
            case _:
                self.proxy.blackholed = False


@contextlib.asynccontextmanager
async def redis(server: RedisServer, way: str) -> AsyncIterator[Away]:
    async with Proxy(server.port) as proxy:
        away = Away(server, proxy, way)
        yield away
        proxy.blackholed = False


def types(tab: Tab) -> list[str]:
    return [frame["type"] for frame in tab.socket.frames if frame["type"] not in ("ping", "pong")]


async def told(what: str, *tabs: Tab, seconds: float = 8.0) -> None:
    await until(lambda: all(what in types(tab) for tab in tabs), f"telling {what}", seconds)


async def a_tab(manager: UnifiedWebSocketManager, user: str, **options: Any) -> Tab:
    tab = await Tab.open(manager, user, **options)
    await tab.greeted()
    return tab


@pytest.mark.parametrize("way", WAYS)
async def test_a_run_goes_on_while_redis_is_away_and_everybody_has_it_once_and_in_order_when_it_is_back(
    server: RedisServer, way: str
) -> None:
    """In this process it is shown provisionally, to its own user; in another it comes when Redis is back."""
    async with redis(server, way) as away:
        retry = RetryPolicy(attempts=3, initial=0.01, maximum=0.2)
        async with a_manager(away.url, limits=QUICK, retry=retry) as here, a_manager(away.url, limits=QUICK) as there:
            alice, second = await a_tab(here, "alice"), await a_tab(here, "alice", v1=True)
            bob, elsewhere = await a_tab(here, "bob"), await a_tab(there, "alice")
            tabs = [alice, second, bob, elsewhere]
            await until(lambda: not here.availability.degraded)
            await here.get_emitter("alice").emit("work", {"n": 1})
            for tab in (alice, second, elsewhere):
                await tab.has(1)
            gone = time.monotonic()
            away.go()
            await told("degraded", *tabs)
            assert time.monotonic() - gone < 4.0
            bridge = here.create_agent_bridge(UserExecutionContext("alice", "r1", "t1"))
            began = time.monotonic()
            async with bridge.run("planner") as run:
                for number in range(20):
                    await run.thinking(f"thought {number}")
                async with run.tool("search") as tool:
                    tool.result = 1
            assert time.monotonic() - began < 0.5, "the run waited for Redis"
            for tab in (alice, second):
                await until(lambda tab=tab: len(tab.socket.of_type("provisional")) == 24, "showing it")  # type: ignore[misc]
            shown = [frame["event"]["id"] for frame in alice.socket.of_type("provisional")]
            assert shown == [frame["event"]["id"] for frame in second.socket.of_type("provisional")]
            assert "provisional" not in types(bob) + types(elsewhere)
            if way == "killed":
                with pytest.raises(AppendFailed):
                    await here.get_emitter("alice").emit("work", {"n": 2}, event_id="own")
            assert [tab.serving.done() for tab in tabs] == [False] * 4
            away.come_back()
            await told("restored", *tabs, seconds=15.0)
            await there.get_emitter("alice").emit("work", {"n": 3})
            for tab in (alice, second, elsewhere):
                events = await tab.has(26, 15.0)
                assert len(events) == 26
                order = [event["id"] for event in events if event["type"] != "work"]
                assert order == shown
                assert types(tab).count("gap") == 0
                after = types(tab)[types(tab).index("restored") :]
                assert "provisional" not in after
                check_runs(events)
            assert types(bob) == ["connected", "degraded", "restored"]
            metrics = here.metrics
            assert (metrics.outages, metrics.degraded, metrics.isolation_violations) == (1, 0, 0)


async def test_with_the_defaults_everybody_is_told_within_eight_seconds(tmp_path: Path) -> None:
    """All three ways at the same time, each with a Redis of its own; some are just reading."""

    async def one(way: str) -> float:
        directory = tmp_path / way
        directory.mkdir()
        server = RedisServer(directory)
        try:
            async with redis(server, way) as away, a_manager(away.url) as manager:
                tabs = [await a_tab(manager, f"user{number}") for number in range(20)]
                await manager.get_emitter("user1").emit("work", {"n": 1})
                await asyncio.sleep(0.5)
                for number in range(10):
                    tabs[number].connection._wake()
                gone = time.monotonic()
                away.go()
                await told("degraded", *tabs, seconds=15.0)
                seconds = time.monotonic() - gone
                away.come_back()
                await told("restored", *tabs, seconds=15.0)
                assert not any(tab.serving.done() for tab in tabs)
                return seconds
        finally:
            server.stop()

    times = await asyncio.gather(*map(one, WAYS))
    assert all(2.5 < seconds < 8.0 for seconds in times), times


@pytest.mark.parametrize("way", ["killed", "frozen"])
async def test_a_hiccup_is_told_to_nobody(server: RedisServer, way: str) -> None:
    limits = Limits(check_interval=0.4, degraded_after=3.0, shutdown_timeout=3.0)
    async with redis(server, way) as away, a_manager(away.url, limits=limits) as manager:
        tab = await a_tab(manager, "alice")
        away.go()
        await asyncio.sleep(1.0)
        away.come_back()
        bridge = manager.create_agent_bridge(UserExecutionContext("alice", "r1", "t1"))
        async with bridge.run("planner") as run:
            await run.thinking("hm")
        await tab.has(3, 10.0)
        assert "degraded" not in types(tab)


async def test_again_and_again(server: RedisServer) -> None:
    """What was put before, while and after Redis is away comes in order and once; and a lost log is told as a gap."""
    retry = RetryPolicy(initial=0.01, maximum=0.2)
    async with a_manager(server.url, limits=QUICK, retry=retry) as manager:
        tab = await a_tab(manager, "alice")
        outbox = manager.outbox
        number = 0

        def put(count: int) -> None:
            nonlocal number
            for _ in range(count):
                event = manager.encoder.encode("work", {"n": number}, b',"user_id":"alice"')
                assert outbox("alice").put(event)
                number += 1

        for round_ in range(3):
            put(20)
            server.kill()
            put(20)
            await until(lambda round_=round_: types(tab).count("degraded") == round_ + 1, "degraded", 8.0)  # type: ignore[misc]
            put(20)
            server.start()
            put(20)
            await until(lambda round_=round_: types(tab).count("restored") == round_ + 1, "restored", 15.0)  # type: ignore[misc]
            put(5)
            await tab.has(number, 15.0)
        assert tab.numbers == list(range(number))
        seen = types(tab)
        assert seen.count("gap") == 0
        state = "restored"
        for kind in seen:
            if kind in ("degraded", "restored"):
                assert kind != state
                state = kind
            assert kind != "provisional" or state == "degraded"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], RedisServer]]:
    """A server that is not there yet: it is started by the call."""
    server = RedisServer(tmp_path, *PERSISTENCE["always"])
    server.kill()

    def starting() -> RedisServer:
        server.start()
        return server

    starting.url = server.url  # type: ignore[attr-defined]
    yield starting
    server.stop()


async def test_an_application_starts_while_redis_is_away_and_serves_when_it_is_there(start: Any) -> None:
    async def authenticate(request: AuthRequest) -> Principal:
        return Principal(str(request.token))

    manager = a_manager(start.url, limits=QUICK)
    app = FastAPI(lifespan=manager.lifespan)
    app.include_router(websocket_router(manager, authenticate=authenticate), prefix="/live")
    app.include_router(health_router(manager))
    port = free_port()
    server = DrainingServer(server_config(app, host="127.0.0.1", port=port, lifespan="on", log_config=None), drain=1.0)
    serving = asyncio.create_task(server._serve())
    await until(lambda: server.started or serving.done(), "the start of the server")
    assert server.started
    headers = {"Authorization": "Bearer alice"}
    address = f"ws://127.0.0.1:{port}/live/ws"
    try:
        await until(lambda: manager.availability.degraded, "degraded")
        assert (await ask(app, "GET", "/livez")).status == 200
        assert (await ask(app, "GET", "/readyz")).text == "degraded\n"
        assert (await ask(app, "POST", "/live/ticket", headers=headers)).status == 503
        async with connect(address, additional_headers=headers, proxy=None) as refused:
            began = time.monotonic()
            with pytest.raises(ConnectionClosed):
                await refused.recv()
            assert (refused.close_code, refused.close_reason) == (1013, "overloaded")
            assert time.monotonic() - began < 0.5
        bridge = manager.create_agent_bridge(UserExecutionContext("alice", "r1", "t1"))
        async with bridge.run("planner") as run:
            await run.thinking("hm")
        start()
        await until(lambda: not manager.availability.degraded, "the return of Redis", 15.0)
        async with connect(address, additional_headers=headers, proxy=None) as client:
            seen: list[str] = []
            async with asyncio.timeout(10.0):
                while len(seen) < 4:
                    text = await client.recv()
                    seen += [json.loads(line)["type"] for line in str(text).split("\n")]
            assert seen == ["connected", "agent_started", "agent_thinking", "agent_completed"]
        assert (await ask(app, "GET", "/readyz")).text == "ok\n"
    finally:
        server.should_exit = True
        await serving


@pytest.mark.parametrize("way", ["killed", "frozen"])
async def test_a_shutdown_while_redis_is_away_ends_in_time(server: RedisServer, way: str) -> None:
    async with redis(server, way) as away:
        async with a_manager(away.url, limits=QUICK) as manager:
            tab = await a_tab(manager, "alice")
            away.go()
            await told("degraded", tab)
            event = manager.encoder.encode("work", {"n": 1}, b',"user_id":"alice"')
            assert manager.outbox("alice").put(event)
            began = time.monotonic()
        assert time.monotonic() - began < QUICK.shutdown_timeout + 2.0
        assert tab.socket.close_code == 1012
