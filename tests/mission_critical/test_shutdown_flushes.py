"""Promise: what was emitted before a shutdown reaches every client that still takes it, however far behind it is."""

from __future__ import annotations

import asyncio

import pytest

from tests.support import until
from websocket_core import UnifiedWebSocketManager
from websocket_core.testing import FakeSocket
from websocket_core.wire import PROTOCOL


@pytest.mark.parametrize("subprotocol", [None, PROTOCOL])
async def test_a_client_that_was_behind_gets_the_rest_before_it_is_sent_away(subprotocol: str | None) -> None:
    """More than one batch waits behind a socket that takes nothing when the shutdown begins, and then takes it."""
    manager = UnifiedWebSocketManager()
    socket = FakeSocket(subprotocol=subprotocol)
    async with manager:
        connection = await manager.connect_user(socket, "alice")
        await socket.wait_for(lambda each: each.controls)
        socket.block()
        for number in range(1_000):
            await manager.get_emitter("alice").emit("custom", {"n": number})
        ending = asyncio.create_task(manager.shutdown())
        await until(lambda: connection.state == "closing")
        socket.unblock()
        await ending
    assert [event["data"]["n"] for event in socket.events] == list(range(1_000))
    assert socket.close_code == 1012
