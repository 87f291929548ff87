"""How the public API types in a user's code. Checked by `mypy --strict` in `test_typing_public_api.py`; never run.

A `type: ignore` marks a call that must not type: strict mypy reports it as unused the moment the call does type.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, assert_type

import fastapi
import uvicorn
from prometheus_client import CollectorRegistry

from bridge import AgentRun, AgentWebSocketBridge, RunCancelled, ToolCall, UserExecutionContext
from websocket_core import (
    AppendFailed,
    ConnectionRefused,
    Grant,
    Limits,
    Position,
    Principal,
    Retention,
    RetryPolicy,
    SyncEmitter,
    UnifiedWebSocketEmitter,
    UnifiedWebSocketManager,
    UserId,
    WebSocketConnection,
    WebSocketManager,
    get_websocket_manager,
    websocket_manager,
)
from websocket_core.agent_bridge import AgentWebSocketBridge as OldBridge
from websocket_core.auth import (
    AuthenticationFailed,
    Authenticator,
    AuthRequest,
    DevelopmentAuthenticator,
    JWTAuthenticator,
)
from websocket_core.events import AGENT_STARTED, Event, ToolCompleted, encode_json
from websocket_core.identity import LogName
from websocket_core.log import Batch, LogStore
from websocket_core.logs.memory import MemoryLog
from websocket_core.metrics import Metrics
from websocket_core.router import metrics_router, websocket_router
from websocket_core.server import ServerBounds, ServerConfig, server_config
from websocket_core.wire import CloseCode, decode_cursor, encode_cursor


async def managers() -> None:
    manager = UnifiedWebSocketManager(
        log="memory://", limits=Limits(connections_per_user=3), retention=Retention(events=100), retry=RetryPolicy()
    )
    async with manager as entered:
        assert_type(entered, UnifiedWebSocketManager)
    UnifiedWebSocketManager(MemoryLog(), metrics=Metrics(), clock=lambda: 0.0, entropy=bytes)
    UnifiedWebSocketManager(limits={"connections": 3})  # type: ignore[arg-type]
    UnifiedWebSocketManager(on_connect=lambda connection: None)  # type: ignore[arg-type,return-value]
    UnifiedWebSocketManager(on_connect=own_hook, on_disconnect=own_hook, snapshot=own_snapshot)
    UnifiedWebSocketManager(snapshot=own_hook_without_argument)  # type: ignore[arg-type]
    assert_type(get_websocket_manager(), UnifiedWebSocketManager)
    assert_type(websocket_manager, UnifiedWebSocketManager)
    assert_type(WebSocketManager(), UnifiedWebSocketManager)
    assert_type(manager.get_stats(), dict[str, int])
    assert_type(manager.limits, Limits)
    assert_type(await manager.head("alice"), Position)
    await manager.disconnect_user("alice", "tab-1")
    await manager.revoke("alice")
    await manager.revoke("alice", "t1", seconds=60)
    await manager.revoke("alice", "t1", 60)  # type: ignore[call-arg]
    await manager.delete_user("alice")
    await manager.drain(budget=10)
    await manager.shutdown()
    Limits(3)  # type: ignore[call-arg]
    Limits().heartbeat = 5.0  # type: ignore[misc]


async def own_hook(connection: WebSocketConnection) -> None: ...


async def own_snapshot(connection: WebSocketConnection) -> dict[str, Any] | None:
    return {"for": connection.user_id}


async def own_hook_without_argument() -> None: ...


class OwnSocket:
    """An endpoint of one's own needs no framework."""

    async def send_text(self, data: str) -> None: ...

    async def receive_text(self) -> str:
        return ""

    async def close(self, code: int, reason: str) -> None: ...


class NoSocket:
    async def send_text(self, data: bytes) -> None: ...


async def connections(manager: UnifiedWebSocketManager, websocket: fastapi.WebSocket) -> None:
    connection = await manager.connect_user(websocket, "alice")
    assert_type(connection, WebSocketConnection)
    assert_type(connection.user_id, UserId)
    assert_type(connection.connection_id, str)
    assert_type(connection.thread_id, str | None)
    assert_type(connection.cursor, str | None)
    assert_type(connection.is_healthy, bool)
    await connection.serve()
    principal = Principal("alice", expires_at=1.0, token_id="t", claims={"role": "admin"})
    await manager.connect_user(OwnSocket(), "alice", "tab-1", "t1", principal=principal, cursor="latest")
    await manager.connect_user(NoSocket(), "alice")  # type: ignore[arg-type]
    await manager.connect_user(OwnSocket())  # type: ignore[call-arg]
    await manager.connect_user(OwnSocket(), "alice", principal="alice")  # type: ignore[arg-type]


async def emitters(manager: UnifiedWebSocketManager) -> None:
    emitter = manager.get_emitter("alice")
    assert_type(emitter, UnifiedWebSocketEmitter)
    assert_type(emitter.user_id, UserId)
    position = await emitter.emit(
        "agent_thinking", {"thought": "..."}, run_id="r1", thread_id="t1", event_id=None, connection_id="tab-1"
    )
    assert_type(position, Position)
    assert_type(position.epoch, str)
    assert_type(position.offset, int)
    assert_type(position.mark, str)
    assert_type(encode_cursor(position), str)
    assert_type(decode_cursor("e.1.m"), Position)
    assert_type(await emitter.emit_agent_started({"agent": "a"}, run_id="r"), Position)
    assert_type(await emitter.emit_agent_thinking({"thought": "t"}), Position)
    assert_type(await emitter.emit_tool_executing({"tool": "s"}), Position)
    assert_type(await emitter.emit_tool_completed({"tool": "s"}), Position)
    assert_type(await emitter.emit_agent_completed({"result": 1}), Position)
    assert_type(await emitter.notify_agent_started("a", colour="blue"), Position)
    assert_type(await emitter.notify_agent_thinking("t", event_id="e1"), Position)
    assert_type(await emitter.notify_tool_executing("search", query="q"), Position)
    assert_type(await emitter.notify_tool_completed("search", {"hits": 3}), Position)
    assert_type(await emitter.notify_agent_completed({"answer": "..."}), Position)
    assert_type(await emitter.notify_agent_error("it failed"), Position)
    assert_type(await emitter.notify_custom("my_event", {"n": 1}), Position)
    assert_type(await manager.emit_critical_event("alice", AGENT_STARTED, {}, connection_id="tab-1"), Position)
    assert_type(emitter.get_stats(), dict[str, Any])
    await emitter.cleanup()
    UnifiedWebSocketEmitter(manager, "alice", context=UserExecutionContext("alice"))
    try:
        await emitter.emit("x", {})
    except AppendFailed as error:
        assert_type(error.event_id, str)
    except ConnectionRefused as refusal:
        assert_type(refusal.code, int)


def emitters_in_threads(manager: UnifiedWebSocketManager) -> None:
    emitter = manager.get_emitter("alice").sync
    assert_type(emitter, SyncEmitter)
    assert_type(emitter.user_id, UserId)
    assert_type(emitter.emit("my_event", {"n": 1}, run_id="r1", thread_id="t1", event_id="e1"), Position)
    assert_type(emitter.emit("my_event", {"n": 1}, connection_id="tab-1"), Position)
    assert_type(emitter.emit_agent_started({"agent": "a"}, run_id="r"), Position)
    assert_type(emitter.notify_tool_completed("search", {"hits": 3}, colour="blue"), Position)
    emitter.post("my_event", {"n": 1}, run_id="r1")
    emitter.emit("x", {}, user_id="bob")  # type: ignore[call-arg]
    emitter.post("x", ["not", "a", "mapping"])  # type: ignore[arg-type]
    emitter.user_id = UserId("bob")  # type: ignore[misc]


async def there_is_no_emitting_without_a_user(manager: UnifiedWebSocketManager) -> None:
    await manager.emit("agent_thinking", {})  # type: ignore[attr-defined]
    await manager.broadcast("agent_thinking", {})  # type: ignore[attr-defined]
    await manager.emit_critical_event("agent_thinking", {})  # type: ignore[call-arg,arg-type]
    await manager.emit_critical_event(None, "agent_thinking", {})  # type: ignore[arg-type]
    manager.get_emitter()  # type: ignore[call-arg]
    manager.get_emitter(None)  # type: ignore[arg-type]
    UnifiedWebSocketEmitter(manager)  # type: ignore[call-arg]
    emitter = manager.get_emitter("alice")
    await emitter.emit("x", {}, user_id="bob")  # type: ignore[call-arg]
    emitter.user_id = UserId("bob")  # type: ignore[misc]
    await emitter.emit("x", ["not", "a", "mapping"])  # type: ignore[arg-type]
    manager.create_agent_bridge(None)  # type: ignore[arg-type]
    UserExecutionContext()  # type: ignore[call-arg]
    AgentWebSocketBridge(manager)  # type: ignore[call-arg]


@dataclass
class OwnContext:
    """Any object with these three attributes will do."""

    user_id: str
    run_id: str
    thread_id: str | None
    anything: int = 0


@dataclass
class NobodysContext:
    run_id: str
    thread_id: str


async def runs(manager: UnifiedWebSocketManager) -> None:
    bridge = manager.create_agent_bridge(OwnContext("alice", "r1", None))
    assert_type(bridge, AgentWebSocketBridge)
    assert_type(bridge.user_id, UserId)
    assert_type(bridge.run_id, str | None)
    async with bridge.run("planner") as run:
        assert_type(run, AgentRun)
        assert_type(run.run_id, str)
        await run.thinking("Looking for flights", confidence=0.5)
        await run.emit("my_event", {"n": 1})
        async with run.tool("search", query="LIS") as tool:
            assert_type(tool, ToolCall)
            assert_type(tool.tool_call_id, str)
            await tool.progress(percent=50)
            tool.result = {"hits": 3}
        async with run.call_tool("search", ["LIS"], tool_call_id="c1") as called:
            assert_type(called, ToolCall)
        async with run.child("helper") as child:
            assert_type(child, AgentRun)
            assert_type(child.parent_run_id, str | None)
        await run.delta("Three flights", message_id="m1")
        run.interrupt()
        run.result = {"answer": "Three flights"}
    assert_type(run.status, str)
    AgentWebSocketBridge(manager, UserExecutionContext("alice", "r1", "t1"), describe_error=str)
    assert_type(OldBridge(manager, UserExecutionContext("alice")), AgentWebSocketBridge)
    manager.create_agent_bridge(NobodysContext("r1", "t1"))  # type: ignore[arg-type]
    with bridge.run("planner"):  # type: ignore[attr-defined]
        pass
    try:
        await run.thinking("x")
    except RunCancelled:
        raise


def identities() -> None:
    principal = Principal("alice")
    assert_type(principal.expires_at, float | None)
    assert_type(principal.token_id, str | None)
    assert_type(principal.claims, Mapping[str, object])
    principal.user_id = "bob"  # type: ignore[misc]
    principal.claims["role"] = "admin"  # type: ignore[index]
    assert_type(Grant.own(principal).log, LogName)
    Principal()  # type: ignore[call-arg]


async def own_authenticator(request: AuthRequest) -> Principal:
    assert_type(request.token, str | None)
    assert_type(request.headers, Mapping[str, str])
    assert_type(request.client, tuple[str, int] | None)
    if request.cookies.get("session") is None:
        raise AuthenticationFailed("no session")
    return Principal("alice")


async def no_authenticator(request: AuthRequest) -> str:
    return "alice"


def routes(manager: UnifiedWebSocketManager) -> fastapi.FastAPI:
    authenticators: list[Authenticator] = [
        JWTAuthenticator("s" * 32, algorithms=["HS256"]),
        JWTAuthenticator(jwks_url="https://id.example/jwks", algorithms=("RS256",), audience=["a"], issuer="i"),
        DevelopmentAuthenticator(i_know_that_anybody_can_be_anybody=True),
        own_authenticator,
    ]
    app = fastapi.FastAPI(lifespan=manager.lifespan)
    router = websocket_router(manager, authenticate=authenticators[0], origins=["https://app.example"])
    assert_type(router, fastapi.APIRouter)
    app.include_router(router, prefix="/live")
    app.include_router(metrics_router())
    websocket_router(manager)  # type: ignore[call-arg]
    websocket_router(manager, authenticate=no_authenticator)  # type: ignore[arg-type]
    JWTAuthenticator("s" * 32)  # type: ignore[call-arg]
    config: uvicorn.Config = assert_type(server_config(app, bounds=ServerBounds(fragments=8)), ServerConfig)
    del config
    lifespan: AbstractAsyncContextManager[None] = manager.lifespan(app)
    del lifespan
    return app


def values(log: LogStore, registry: CollectorRegistry) -> None:
    Metrics().register(registry)
    assert_type(Metrics().isolation_violations, int)
    assert_type(encode_json({"n": 1}), bytes)
    assert_type(ToolCompleted(tool="s", tool_call_id="c", status="success", duration=1.0).tool, str)
    assert_type(int(CloseCode.REPLACED), int)
    assert_type(Event("e1", b"{").body, bytes)


async def backends(log: LogStore, name: LogName) -> AsyncIterator[Event]:
    batch = await log.read(name, None, 10)
    assert_type(batch, Batch)
    for entry in batch.entries:
        assert_type(entry.position, Position)
        yield entry.event
    store: LogStore = MemoryLog(Retention())
    assert_type(await store.append(name, Event("e1", b"{")), Position)
