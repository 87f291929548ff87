"""Promise: a client that is gone, or takes nothing any more, costs the server a bounded time; a stall of the server
itself costs no client its connection."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

from tests.integration.served_process import served, silent_client
from tests.integration.support import Application, Site, serving
from tests.support import until
from websocket_core import Limits, Retention, UnifiedWebSocketManager
from websocket_core.metrics import Metrics

QUICK = {"write_timeout": 1.0, "sweep_interval": 0.2}


def sockets_of(site: Site) -> list[Any]:
    """uvicorn's protocol objects, one for each open socket."""
    return list(site._server.server_state.connections)


async def test_a_client_that_stops_reading_loses_its_socket_within_the_time_of_a_write(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with served(tmp_path, LIMITS=json.dumps(QUICK)) as server:
        before = server.sockets()
        silent = await silent_client(server.address, "alice")
        async with server.client("alice", cursor="latest") as tab, server.client("bob") as other, server.http() as http:
            await tab.greeted()
            assert server.sockets() >= before + 3
            began = loop.time()
            await http.post("/emit/alice/60", params={"size": 200_000})
            await http.post("/emit/bob/5")
            await other.has(5)
            await tab.has(60)
            assert tab.code is None
        await until(lambda: server.sockets() == before, "the end of the socket", 4)
        assert loop.time() - began < 4.0
        assert await server.metric("websocket_stale_connections_total") == 1
        assert await server.metric("websocket_uncut_connections_total") == 0
        with contextlib.suppress(ConnectionResetError):  # a reset, so that the kernel keeps nothing either
            while await loop.sock_recv(silent, 65_536):
                pass
            raise AssertionError("the rest was delivered before the end")
        silent.close()
        assert server.errors.count("\n") == 1


async def test_a_client_that_answers_no_ping_is_told_and_loses_its_socket_at_once(tmp_path: Path) -> None:
    """uvicorn waits ten seconds for the answer to a close frame."""
    loop = asyncio.get_running_loop()
    limits = {"heartbeat": 0.4, "heartbeat_timeout": 0.6, "sweep_interval": 0.1}
    async with served(tmp_path, LIMITS=json.dumps(limits)) as server:
        before = server.sockets()
        began = loop.time()
        silent = await silent_client(server.address, "alice", v1=True)
        assert server.sockets() == before + 1
        await until(lambda: server.sockets() == before, "the end of the socket", 5)
        assert 0.9 < loop.time() - began < 4.0
        received = b""
        while more := await loop.sock_recv(silent, 65_536):
            received += more
        assert received.endswith((4408).to_bytes(2, "big") + b"timed out")
        silent.close()
        assert await server.metric("websocket_stale_connections_total") == 1
        assert await server.metric("websocket_uncut_connections_total") == 0


async def test_a_client_that_answers_no_protocol_ping_loses_its_socket_with_what_is_waiting(tmp_path: Path) -> None:
    """A plain client owes no `pong`: the server's own pings find it, although its buffers are full."""
    arguments = ("served:app", "--port", "0", "--ping-interval", "1", "--ping-timeout", "1")
    async with served(tmp_path, *arguments, LIMITS=json.dumps({"write_timeout": 60.0})) as server:
        before = server.sockets()
        silent = await silent_client(server.address, "alice")
        async with server.http() as http:
            await http.post("/emit/alice/60", params={"size": 200_000})
        await until(lambda: server.sockets() == before, "the end of the socket", 8)
        silent.close()
        async with server.http() as http:
            assert (await http.get("/connections")).json() == 0


async def test_a_stall_of_the_server_disconnects_nobody_who_answers_afterwards(tmp_path: Path) -> None:
    limits = {"heartbeat": 0.3, "heartbeat_timeout": 2.0, "sweep_interval": 0.1, "write_timeout": 2.0}
    async with (
        served(tmp_path, LIMITS=json.dumps(limits)) as server,
        server.client("alice", v1=True) as late,
        server.client("bob", v1=True) as prompt,
        server.client("carol") as plain,
        server.http() as http,
    ):
        late.answers_pings = False
        await until(lambda: late.of_type("ping"), "a ping that is owed an answer")
        silent = await silent_client(server.address, "dave", v1=True)
        await asyncio.sleep(0.5)
        for _ in range(2):
            await http.post("/block/5")
            await asyncio.sleep(0.5)
            late.answers_pings = True
            await late.say({"type": "pong"})
        await http.post("/emit/alice/1")
        await http.post("/emit/bob/1")
        await http.post("/emit/carol/1")
        await late.has(1)
        await prompt.has(1)
        await plain.has(1)
        await asyncio.sleep(3)
        assert [client.code for client in (late, prompt, plain)] == [None] * 3
        assert await server.metric("websocket_stale_connections_total") == 1, (
            "who does not answer is found all the same"
        )
        assert (await http.get("/connections")).json() == 3
        assert await server.metric("websocket_loop_lag_seconds_sum") > 9.0
        silent.close()
        assert server.errors.count("the event loop stood still for ") == 1
        assert server.errors.count("\n") == 2


async def test_under_plain_uvicorn_the_connection_goes_and_its_socket_is_counted() -> None:
    metrics = Metrics()
    manager = UnifiedWebSocketManager(
        limits=Limits(write_timeout=0.5, sweep_interval=0.1), retention=Retention(bytes=64 * 2**20), metrics=metrics
    )
    application = Application(manager=manager)
    async with serving(application.app, ws="websockets-sansio") as site:
        silent = await silent_client(site.http, "alice")
        for _ in range(60):
            await manager.get_emitter("alice").emit("custom", {"padding": "x" * 200_000})
        await until(lambda: manager.get_stats()["total_connections"] == 0, "the end of the connection")
        assert (metrics.stale, metrics.uncut) == (1, 1)
        await asyncio.sleep(0.5)
        assert len(sockets_of(site)) == 1
        silent.close()
        await until(lambda: not sockets_of(site), "the end of the socket")


async def test_a_socket_whose_application_has_ended_does_not_wait_for_its_client_for_ever() -> None:
    """What fits into the buffers is no write that takes long, so only the server can see that it does not go out."""
    manager = UnifiedWebSocketManager(retention=Retention(bytes=64 * 2**20), metrics=Metrics())
    application = Application(manager=manager)
    async with serving(application.app) as site:
        silent = await silent_client(site.http, "alice")
        [protocol] = sockets_of(site)
        protocol.close_timeout = 0.5
        while protocol.transport.get_write_buffer_size() == 0:
            await manager.get_emitter("alice").emit("custom", {"padding": "x" * 20_000})
            await asyncio.sleep(0.005)
        assert protocol.writable.is_set()
        await manager.disconnect_user("alice")
        await until(lambda: not sockets_of(site), "the end of the socket", 3)
        silent.close()
