"""What the simulation found, pinned: each story is the short form of a seed that failed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.frames import Frame, Opcode

from tests.simulation.loop import SimLoop, seeded_world
from tests.simulation.network import Conditions, Network
from websocket_core.server import DrainingServer, server_config


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
