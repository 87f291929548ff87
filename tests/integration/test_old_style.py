# ruff: noqa: SIM117  the server outside, its clients inside: two levels read better than one long line
"""Code as it is written today keeps working: an endpoint of one's own, no lifespan, the names of earlier managers."""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket
from starlette.websockets import WebSocketDisconnect

from bridge import UserExecutionContext
from tests.integration.support import Application, bearer, serving
from tests.support import check_runs, until
from websocket_core import Limits, UnifiedWebSocketManager, WebSocketManager
from websocket_core.errors import ConnectionRefused

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it would rather have another HTTP client
    from starlette.testclient import TestClient


def an_old_application(manager: UnifiedWebSocketManager) -> FastAPI:
    """No lifespan, no router; one endpoint that needs two lines."""
    app = FastAPI()

    @app.websocket("/mine/{user_id}")
    async def endpoint(websocket: WebSocket, user_id: str) -> None:
        connection = await manager.connect_user(websocket, user_id)
        await connection.serve()

    @app.websocket("/accepted/{user_id}")
    async def accepted(websocket: WebSocket, user_id: str) -> None:
        await websocket.accept()
        connection = await manager.connect_user(websocket, user_id, "tab-1", "t1")
        await connection.serve()

    @app.websocket("/full/{user_id}")
    async def full(websocket: WebSocket, user_id: str) -> None:
        try:
            connection = await manager.connect_user(websocket, user_id)
        except ConnectionRefused:
            return
        await connection.serve()

    return app


async def test_an_endpoint_of_ones_own_needs_two_lines_and_no_lifespan() -> None:
    manager = WebSocketManager()
    async with serving(an_old_application(manager)) as site:
        async with site.client(path="/mine/alice") as alice, site.client(path="/accepted/bob") as bob:
            assert (await alice.greeted())["user_id"] == "alice"
            assert (await bob.greeted())["connection_id"] == "tab-1"
            await manager.emit_critical_event("alice", "agent_started", {"agent": "planner"})
            await manager.get_emitter("bob").notify_agent_thinking("hm")
            await manager.emit_critical_event("bob", "custom", {"n": 1}, "tab-1")
            async with manager.create_agent_bridge(UserExecutionContext("bob", "r1")).run("planner"):
                pass
            assert [event["type"] for event in await alice.has(1)] == ["agent_started"]
            events = await bob.has(4)
            assert [event["type"] for event in events[:2]] == ["agent_thinking", "custom"]
            check_runs(events[2:])
            assert (await alice.ask({"type": "ping"}))["type"] == "pong"
            assert (await alice.ask({"type": "auth", "token": "x"}))["code"] == "unknown_type", "no authenticator here"
            assert manager.get_stats() == {
                "total_users": 2, "total_connections": 2, "active_emitters": 2, "heartbeat_tasks": 2,
            }  # fmt: skip
            await manager.disconnect_user("alice", (await alice.greeted())["connection_id"])
            assert await alice.closed() == 1000
            await bob.cut()
        await until(lambda: manager.get_stats()["total_connections"] == 0, "the end of both")
        await manager.shutdown()


async def test_a_full_manager_closes_an_endpoint_of_ones_own() -> None:
    manager = UnifiedWebSocketManager(limits=Limits(connections=1))
    async with serving(an_old_application(manager)) as site, site.client(path="/full/alice") as alice:
        await alice.greeted()
        async with site.client(path="/full/bob") as bob:
            assert await bob.closed() == 1013
        await manager.shutdown()
        assert await alice.closed() == 1012


async def test_a_bare_socket_with_only_receive_text_works() -> None:
    """Anything that has `send_text`, `receive_text` and `close`."""

    class Bare:
        def __init__(self) -> None:
            self.sent: list[str] = []
            self.closed: list[int] = []
            self._incoming: asyncio.Queue[str] = asyncio.Queue()

        async def send_text(self, data: str) -> None:
            self.sent.append(data)

        async def receive_text(self) -> str:
            text = await self._incoming.get()
            if not text:
                raise WebSocketDisconnect(1006)
            return text

        async def close(self, code: int, reason: str) -> None:
            self.closed.append(code)

        def put(self, text: str) -> None:
            self._incoming.put_nowait(text)

    async with UnifiedWebSocketManager() as manager:
        socket = Bare()
        connection = await manager.connect_user(socket, "alice")
        serving_it = asyncio.create_task(connection.serve())
        await manager.get_emitter("alice").emit("custom", {"n": 1})
        socket.put('{"type": "ping"}')
        await until(lambda: len(socket.sent) == 3)
        socket.put("")
        await serving_it
        assert manager.get_stats()["total_connections"] == 0


def test_a_test_client_may_enter_the_lifespan_twice() -> None:
    """Each time in a loop of its own, as test clients do; the log goes on."""
    application = Application()
    offsets: list[Any] = []
    for _ in range(2):
        with TestClient(application.app) as client:
            with client.websocket_connect("/live/ws?cursor=latest", headers=bearer("alice")) as socket:
                assert socket.receive_json()["type"] == "connected"
                assert client.portal is not None
                client.portal.call(application.emit, "alice", 1)
                event = socket.receive_json()
                offsets.append(event["cursor"].split(".")[1])
                socket.send_json({"type": "ping", "request_id": "q"})
                assert socket.receive_json()["type"] == "pong"
    assert offsets == ["1", "2"]


def test_a_test_client_sees_close_codes() -> None:
    application = Application()
    with TestClient(application.app) as client:
        with client.websocket_connect("/live/ws", headers={"Authorization": "Bearer wrong"}) as socket:
            with pytest.raises(WebSocketDisconnect) as closed:
                socket.receive_json()
            assert closed.value.code == 4401
        with pytest.raises(WebSocketDisconnect):
            client.websocket_connect("/live/ws", headers={"Origin": "https://evil.example"}).__enter__()


def test_a_test_client_without_a_lifespan_works_with_an_old_endpoint() -> None:
    manager = UnifiedWebSocketManager()
    app = an_old_application(manager)
    for n in range(2):
        with TestClient(app).websocket_connect("/mine/alice") as socket:
            assert socket.receive_json()["user_id"] == "alice"
            asyncio.run(manager.head("alice"))  # asking needs no loop of the manager's own
        assert manager.get_stats()["total_connections"] <= 1, n
