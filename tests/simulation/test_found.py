"""What the simulation found, pinned: each story is the short form of a seed that failed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.frames import Frame, Opcode

from tests.simulation.loop import SimLoop, seeded_world
from tests.simulation.network import Conditions, Network
from websocket_core.authorization import Authorization
from websocket_core.errors import FrameRefused, LogUnavailable
from websocket_core.identity import LogName, Principal, UserId
from websocket_core.limits import Limits
from websocket_core.logs.memory import MemoryLog
from websocket_core.runs import OpenRuns, cancel_handler
from websocket_core.server import DrainingServer, server_config
from websocket_core.testing import FakeSocket
from websocket_core.transports.websocket import ASGISocket, _receive_within
from websocket_core.unified_manager import UnifiedWebSocketManager
from websocket_core.wire import PROTOCOL


class Application:
    """Accepts a WebSocket and sends it so many bytes; notes how its own shutdown went."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.shut_down = False

    async def __call__(
        self, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            self.shut_down = True
            await send({"type": "lifespan.shutdown.complete"})
            return
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "x" * self._size})
        while (await receive())["type"] != "websocket.disconnect":
            pass


def served(
    size: int, story: Callable[[Network, DrainingServer, ClientConnection, asyncio.Task[None]], Awaitable[None]]
) -> Application:
    """Our server on a simulated network, with one client behind a narrow line."""
    application = Application(size)
    loop = SimLoop()

    async def main() -> None:
        net = Network(loop, random.Random(1))
        net.conditions["me"] = Conditions(capacity=500, high_water=1_000)
        config = server_config(
            application, host="server", port=80, log_config=None, ws_ping_interval=4.0, ws_ping_timeout=4.0
        )
        server = DrainingServer(config)
        serving = asyncio.create_task(server._serve())
        await asyncio.sleep(0.1)
        client = await connect(
            "ws://server/", local_addr=("me", 0), proxy=None, ping_interval=None, close_timeout=0.5, compression=None
        )
        await story(net, server, client, serving)
        server.should_exit = True
        await serving
        await client.close()

    try:
        with seeded_world(loop, 1):
            loop.run_until_complete(main())
    finally:
        loop.close()
    assert not loop.failures
    return application


def test_a_half_open_socket_is_cut_although_the_loop_stood_still_when_its_pong_was_due() -> None:
    """The deadline was put off by the length of the stall, again and again."""

    async def story(
        net: Network, _server: DrainingServer, _client: ClientConnection, _serving: asyncio.Task[None]
    ) -> None:
        (link,) = net.links_of("me")
        link.vanish()
        await asyncio.sleep(7.5)  # the ping went at 4, its answer is due at 8
        net.loop.now += 2.0
        await asyncio.sleep(15.0)
        assert link.server.lost

    assert served(10, story).shut_down


def test_a_server_stops_in_good_order_although_a_client_has_closed_and_takes_nothing() -> None:
    """uvicorn sent a close where none may be sent, crashed, and left out the application's shutdown."""

    async def story(
        net: Network, server: DrainingServer, client: ClientConnection, serving: asyncio.Task[None]
    ) -> None:
        (link,) = net.links_of("me")
        link.client.pause_reading()
        link.client.write(Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=True))
        await asyncio.sleep(1.0)
        assert link.server.get_write_buffer_size() > 0
        server.should_exit = True
        await asyncio.wait([serving], timeout=20.0)
        assert serving.done()
        assert link.server.lost

    assert served(10_000, story).shut_down


async def first_frame(loop: SimLoop, *, arrives: float | None, stall: float) -> Any:
    """What an accepted socket has sent within 2 seconds, with a stall that begins after half a second."""
    incoming: asyncio.Queue[Any] = asyncio.Queue()

    async def send(_message: Any) -> None:
        """Nothing is said."""

    socket = ASGISocket({}, incoming.get, send, None)
    waiting = asyncio.ensure_future(_receive_within(2.0, socket, Limits()))
    if arrives is not None:
        loop.call_later(arrives, incoming.put_nowait, {"type": "websocket.receive", "text": "auth"})
    await asyncio.sleep(0.5)
    if stall:
        loop.stall(stall)
    return await waiting


@pytest.mark.parametrize("stall", [0.0, 1.4, 1.501, 1.6, 1.99, 2.1, 5.0, 60.0])
def test_a_first_frame_that_came_in_time_is_read_whenever_a_stall_of_the_loop_ends(stall: float) -> None:
    """A stall that ended less than half a second after the time was up took it for silence."""
    loop = SimLoop()
    try:
        assert loop.run_until_complete(first_frame(loop, arrives=1.0, stall=stall)) == "auth"
    finally:
        loop.close()


@pytest.mark.parametrize(("stall", "until"), [(0.0, 2.2), (1.6, 2.3), (5.0, 9.2)])
def test_a_client_that_sends_nothing_is_waited_for_no_longer_than_a_stall_took(stall: float, until: float) -> None:
    loop = SimLoop()
    try:
        with pytest.raises(TimeoutError):
            loop.run_until_complete(first_frame(loop, arrives=None, stall=stall))
        assert loop.time() < until
    finally:
        loop.close()


def test_an_answer_that_was_under_way_when_a_gap_was_told_is_no_reason_for_another_gap() -> None:
    """The pong named where the ping had found the client, in a log that was forgotten meanwhile."""
    loop = SimLoop()
    socket = FakeSocket(subprotocol=PROTOCOL, answers_pings=False)

    async def main() -> None:
        log = MemoryLog(monotonic=loop.time)
        limits = Limits(heartbeat=10.0, heartbeat_timeout=5.0)
        async with UnifiedWebSocketManager(log, limits=limits, monotonic=loop.time) as manager:
            connection = await manager.connect_user(socket, "alice")
            serving = asyncio.ensure_future(connection.serve())
            for number in range(3):
                await manager.get_emitter("alice").emit("note", {"n": number})
            await asyncio.sleep(10.5)
            (ping,) = [frame for frame in socket.controls if frame["type"] == "ping"]
            await log.forget(LogName.of_user(UserId("alice")))
            await manager.get_emitter("alice").emit("note", {"n": 3})
            await asyncio.sleep(1.0)
            socket.client_sends({"type": "pong", "cursor": ping["cursor"]})
            await asyncio.sleep(1.0)
            assert [frame["type"] for frame in socket.controls] == ["connected", "ping", "gap"]
            assert [event["data"]["n"] for event in socket.events] == [0, 1, 2, 3]
            await asyncio.sleep(9.0)
            socket.client_sends({"type": "pong", "cursor": ping["cursor"]})  # and now it is: it answers another ping
            await asyncio.sleep(1.0)
            assert [frame["type"] for frame in socket.controls] == ["connected", "ping", "gap", "ping", "gap"]
            socket.client_leaves()
            await serving

    try:
        with seeded_world(loop, 1):
            loop.run_until_complete(main())
    finally:
        loop.close()


async def test_a_cancel_while_the_deny_list_cannot_be_read_is_answered_and_is_no_crash() -> None:
    async def permits(_principal: Principal) -> bool:
        raise LogUnavailable("unreadable for a while")

    class Tab:
        principal = Principal("alice")
        user_id = UserId("alice")

    cancel = cancel_handler(OpenRuns(), Authorization(permits=permits, narrow=None))
    peer: Any = Tab()
    with pytest.raises(FrameRefused) as refused:
        await cancel(peer, {"type": "cancel", "run_id": "r1"})
    assert refused.value.code == "unavailable"
