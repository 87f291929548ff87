"""The event loop's lag: measured by the sweeper, told once a minute, and held against nobody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import MutableMapping
from typing import Any

import pytest

from tests.support import FakeSocket, Tab, VirtualLoop, a_manager, turns, until, virtual_time
from websocket_core.auth import DevelopmentAuthenticator
from websocket_core.lag import LATE, WARNING_INTERVAL, LoopLag
from websocket_core.limits import Limits
from websocket_core.metrics import Metrics
from websocket_core.transports.entrance import Entrance
from websocket_core.transports.websocket import WebSocketEndpoint
from websocket_core.wire import PROTOCOL


def stall(seconds: float) -> None:
    """What a blocking call does: time passes, and nothing else runs."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.now += seconds


@virtual_time
async def test_a_tick_tells_the_time_that_was_lost_and_nothing_below_the_threshold() -> None:
    loop = asyncio.get_running_loop()
    metrics = Metrics()
    lag = LoopLag(1.0, metrics)
    began = loop.time()
    assert await lag.tick() == (began + 1.0, 0.0)
    for seconds, expected in ((LATE - 0.01, 0.0), (LATE, LATE), (5.0, 5.0)):
        began = loop.time()
        ticking = asyncio.create_task(lag.tick())
        await turns()
        stall(1.0 + seconds)
        now, lost = await ticking
        assert now == loop.time()
        assert lost == pytest.approx(expected)
        assert now - began == pytest.approx(1.0 + seconds)
    assert sum(metrics.loop_lag.counts) == 4, "each tick counts, whether it was late or not"
    assert metrics.loop_lag.sum == pytest.approx(LATE - 0.01 + LATE + 5.0)


@virtual_time
async def test_a_stall_is_told_once_a_minute_at_most_and_names_the_usual_cause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lag = LoopLag(1.0, Metrics())

    async def stalled() -> None:
        ticking = asyncio.create_task(lag.tick())
        await turns()
        stall(4.0)
        await ticking

    for _ in range(10):
        await stalled()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    text = caplog.records[0].getMessage()
    assert text.startswith("the event loop stood still for 3.0 s")
    assert "time.sleep" in text
    assert "asyncio.to_thread" in text
    await asyncio.sleep(WARNING_INTERVAL)
    await stalled()
    assert len(caplog.records) == 2


@virtual_time
async def test_a_loop_in_time_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        lag = LoopLag(1.0, Metrics())
        for _ in range(100):
            await lag.tick()
    assert caplog.records == []


@virtual_time
async def test_the_time_of_a_stall_counts_against_no_pong_that_is_owed() -> None:
    metrics = Metrics()
    limits = Limits(heartbeat=10.0, heartbeat_timeout=3.0, sweep_interval=1.0)
    async with a_manager(limits=limits, metrics=metrics) as manager:
        tab = await Tab.open(manager, "alice", socket=FakeSocket(subprotocol=PROTOCOL, answers_pings=False))
        await until(lambda: tab.socket.of_type("ping"), "a ping", 11.0)
        stall(5.0)
        await asyncio.sleep(1.5)
        assert tab.socket.close_code is None
        tab.socket.client_sends({"type": "pong"})
        await asyncio.sleep(4.0)
        assert tab.socket.close_code is None
        assert metrics.stale == 0
        await until(lambda: len(tab.socket.of_type("ping")) == 2, "the next ping", 11.0)
        stall(5.0)
        assert await tab.ended(10.0) == 4408, "who never answers is found all the same"
        assert metrics.stale == 1


@virtual_time
async def test_the_time_of_a_stall_counts_against_no_write() -> None:
    metrics = Metrics()
    async with a_manager(limits=Limits(write_timeout=3.0, sweep_interval=1.0), metrics=metrics) as manager:
        tab = await Tab.open(manager, "alice")
        await tab.greeted()
        tab.socket.block()
        await manager.get_emitter("alice").emit("x", {"n": 1})
        await turns()
        stall(5.0)
        await asyncio.sleep(1.5)
        assert manager.get_stats()["total_connections"] == 1
        tab.socket.unblock()
        assert await tab.has(1)
        tab.socket.block()
        await manager.get_emitter("alice").emit("x", {"n": 2})
        await turns()
        stall(5.0)
        await until(lambda: manager.get_stats()["total_connections"] == 0, "the end of the connection", 6.0)
        assert metrics.stale == 1
        tab.socket.unblock()
        await tab.serving


class Handshake:
    """A client of the endpoint that authenticates with its first frame. `closed` is the code it was closed with."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.incoming.put_nowait({"type": "websocket.connect"})
        self.sent: list[dict[str, Any]] = []
        self.scope: dict[str, Any] = {"type": "websocket", "headers": [], "query_string": b"", "client": None}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        self.sent.append(dict(message))

    @property
    def closed(self) -> Any:
        return next((message["code"] for message in self.sent if message["type"] == "websocket.close"), None)


@virtual_time
async def test_the_time_of_a_stall_counts_against_no_first_frame() -> None:
    async with a_manager(limits=Limits(auth_timeout=5.0)) as manager:
        authenticate = DevelopmentAuthenticator(i_know_that_anybody_can_be_anybody=True)
        endpoint = WebSocketEndpoint(manager, Entrance(manager, authenticate=authenticate))
        slow, silent = Handshake(), Handshake()
        serving = [
            asyncio.create_task(endpoint(client.scope, client.incoming.get, client.send)) for client in (slow, silent)
        ]
        await asyncio.sleep(1.0)
        stall(5.0)
        await asyncio.sleep(0.5)
        assert (slow.closed, silent.closed) == (None, None)
        slow.incoming.put_nowait({"type": "websocket.receive", "text": '{"type":"auth","token":"alice"}'})
        await asyncio.sleep(1.0)
        assert (slow.closed, silent.closed) == (None, 4408)
        assert manager.get_stats()["total_connections"] == 1
        slow.incoming.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await asyncio.gather(*serving)


@virtual_time
async def test_a_stale_connection_is_counted_once_however_long_its_close_takes() -> None:
    metrics = Metrics()
    limits = Limits(heartbeat=10.0, heartbeat_timeout=3.0, sweep_interval=1.0, write_timeout=30.0)
    async with a_manager(limits=limits, metrics=metrics) as manager:
        tab = await Tab.open(manager, "alice", socket=FakeSocket(subprotocol=PROTOCOL, answers_pings=False))
        await until(lambda: tab.socket.of_type("ping"), "a ping", 11.0)
        tab.socket.block()
        await asyncio.sleep(20.0)
        assert metrics.stale == 1
        tab.socket.unblock()
        assert await tab.ended() == 4408
