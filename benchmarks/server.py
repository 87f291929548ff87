"""One server of the comparison, in a process of its own: `python -m benchmarks.server STACK PORT`.

Every stack runs on the same uvicorn settings and answers the same control routes, so that the driver measures all
alike: `/control/usage` (CPU seconds and resident memory of this process) and `/control/run` (emit a workload).
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import uvicorn
from fastapi import FastAPI, WebSocket
from starlette.routing import WebSocketRoute

Emit = Callable[[str, dict[str, Any]], Awaitable[Any]]
TEXT = "x" * 96


def payload(number: int) -> dict[str, Any]:
    """The data of one event. `t` is read from the clock that all processes of a machine share."""
    return {"bench": number, "t": time.monotonic_ns(), "text": TEXT}


def by_hand(user: str, data: dict[str, Any]) -> dict[str, Any]:
    """The event as a hand-written loop would build it: about 250 bytes of JSON."""
    return {
        "type": "agent_thinking",
        "data": data,
        "timestamp": datetime.now(UTC).isoformat(),
        "user_id": user,
        "run_id": "run-1",
        "thread_id": "thread-1",
    }


async def unicast(emit: Emit, users: list[str], events: int) -> None:
    """One producer for each user, which gives the loop a turn after each event."""

    async def produce(user: str) -> None:
        for number in range(events // len(users)):
            await emit(user, payload(number))
            await asyncio.sleep(0)

    await asyncio.gather(*map(produce, users))


async def burst(emit: Emit, users: list[str], events: int) -> None:
    """One user's events, as fast as they can be emitted."""
    for number in range(events):
        await emit(users[0], payload(number))


async def at_once(emit: Emit, users: list[str], events: int) -> None:
    """Every user gets one event in the same moment, again and again."""
    for number in range(events // len(users)):
        await asyncio.gather(*(emit(user, payload(number)) for user in users))
        await asyncio.sleep(0.05)


async def paced(emit: Emit, users: list[str], events: int, rate: float = 2_000.0) -> None:
    """Events to random users at random moments, `rate` a second on average."""
    rng = random.Random(7)
    due = time.monotonic()
    for number in range(events):
        due += rng.expovariate(rate)
        while (wait := due - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        await emit(rng.choice(users), payload(number))


WORKLOADS = {"unicast": unicast, "burst": burst, "at_once": at_once, "paced": paced}


def add_control(app: FastAPI, emit: Emit) -> None:
    @app.get("/control/usage")
    async def usage() -> dict[str, float]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        with open("/proc/self/statm") as statm:
            resident = int(statm.read().split()[1]) * resource.getpagesize()
        return {"cpu": used.ru_utime + used.ru_stime, "resident": resident}

    @app.get("/control/run")
    async def run(workload: str, users: int, events: int, first: int = 0) -> dict[str, float]:
        names = [f"user-{number}" for number in range(first, first + users)]
        before = resource.getrusage(resource.RUSAGE_SELF)
        began = time.monotonic()
        await WORKLOADS[workload](emit, names, events)
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return {"cpu": cpu, "seconds": time.monotonic() - began}


def ours() -> Any:
    """Unified WebSocket: validation, ids, cursors, the log, isolation checks and metrics included."""
    from websocket_core import Limits, Retention, UnifiedWebSocketManager
    from websocket_core.auth import DevelopmentAuthenticator
    from websocket_core.router import websocket_router

    retention = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
    manager = UnifiedWebSocketManager(
        limits=Limits(connections=20_000, connections_per_address=20_000), retention=Retention(**retention)
    )
    app = FastAPI(lifespan=manager.lifespan)
    app.include_router(
        websocket_router(
            manager, authenticate=DevelopmentAuthenticator(i_know_that_anybody_can_be_anybody=True), query_token=True
        )
    )
    emitters: dict[str, Any] = {}

    async def emit(user: str, data: dict[str, Any]) -> None:
        emitter = emitters.get(user)
        if emitter is None:
            emitter = emitters[user] = manager.get_emitter(user)
        await emitter.emit("agent_thinking", data, run_id="run-1", thread_id="thread-1")

    add_control(app, emit)
    return app


def ours_without_gate() -> Any:
    """The same, letting everybody in at once; for `benchmarks.storm`."""
    from websocket_core.admission import AdmissionGate, Admitted

    AdmissionGate.enter = lambda gate, address: _Everybody(gate, address)  # type: ignore[method-assign]

    class _Everybody(Admitted):
        def served(self) -> None: ...
        def leave(self) -> None: ...

    return ours()


def handwritten() -> Any:
    """A dict of sockets and `await websocket.send_json(event)`: no ids, no resume, no isolation, no limits."""
    app = FastAPI()
    sockets: dict[str, WebSocket] = {}

    @app.websocket("/ws")
    async def endpoint(websocket: WebSocket, token: str) -> None:
        await websocket.accept()
        sockets[token] = websocket
        async for _ in websocket.iter_text():
            pass

    async def emit(user: str, data: dict[str, Any]) -> None:
        await sockets[user].send_json(by_hand(user, data))

    add_control(app, emit)
    return app


def socketio() -> Any:
    """python-socketio: `await server.emit(name, event, to=sid)`."""
    import socketio as sio

    server = sio.AsyncServer(async_mode="asgi", cors_allowed_origins="*")
    app = FastAPI()
    sids: dict[str, str] = {}

    @server.event
    async def connect(sid: str, environ: dict[str, Any], auth: Any) -> None:
        sids[environ["QUERY_STRING"].split("token=")[1].split("&")[0]] = sid

    async def emit(user: str, data: dict[str, Any]) -> None:
        await server.emit("event", by_hand(user, data), to=sids[user])

    add_control(app, emit)
    return sio.ASGIApp(server, app)


def empty() -> Any:
    """An ASGI endpoint that accepts and waits: what the server itself costs."""

    class Endpoint:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            while (await receive())["type"] != "websocket.disconnect":
                pass

    app = FastAPI()
    app.router.routes.append(WebSocketRoute("/ws", Endpoint(), name="empty"))

    async def emit(user: str, data: dict[str, Any]) -> None:
        raise NotImplementedError

    add_control(app, emit)
    return app


STACKS: dict[str, Callable[[], Any]] = {
    "ours": ours, "ours_without_gate": ours_without_gate, "handwritten": handwritten, "socketio": socketio,
    "empty": empty,
}  # fmt: skip

if __name__ == "__main__":
    uvicorn.run(
        STACKS[sys.argv[1]](),
        host="127.0.0.1",
        port=int(sys.argv[2]),
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        log_level="error",
        access_log=False,
        backlog=4096,
    )
