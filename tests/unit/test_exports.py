"""The names that users import, their signatures, and that asking for one costs nothing before it is used."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Final

import pytest

import bridge
import websocket_core
from bridge import AgentWebSocketBridge, UserExecutionContext
from websocket_core import (
    Limits,
    Principal,
    SyncEmitter,
    UnifiedWebSocketEmitter,
    UnifiedWebSocketManager,
    WebSocketConnection,
)
from websocket_core.auth import DevelopmentAuthenticator, JWTAuthenticator
from websocket_core.limits import Retention, RetryPolicy

DECLARED: Final = {
    "websocket_core": """
        AppendFailed AuthenticationFailed AuthenticationUnavailable ConnectionRefused FrameRefused Grant
        InvalidConfiguration InvalidEvent InvalidInput InvalidUserId IsolationViolation Limits LogUnavailable
        MalformedCursor MalformedFrame ManagerClosed Position Principal Retention RetryPolicy SyncEmitter
        UnifiedWebSocketEmitter UnifiedWebSocketError UnifiedWebSocketManager UnknownConnection UserId
        WebSocketConnection WebSocketManager WrongEventLoop emitter_for get_websocket_manager websocket_manager
    """,
    "bridge": "AgentRun AgentWebSocketBridge Decision RunCancelled RunContext ToolCall UserExecutionContext",
    "websocket_core.agent_bridge": "AgentWebSocketBridge UserExecutionContext",
    "websocket_core.auth": """
        AuthRequest AuthenticationFailed AuthenticationUnavailable Authenticator DevelopmentAuthenticator
        JWTAuthenticator
    """,
    "websocket_core.server": "CuttableProtocol Drainable DrainingServer ServerBounds ServerConfig run server_config",
}
"""What `from module import *` gives."""

DEFINED: Final = {
    "websocket_core.router": "health_router metrics_router websocket_router",
    "websocket_core.server": "DRAIN_SECONDS Drainable DrainingServer FORCED_SECONDS run server_config",
    "websocket_core.control": "CONTROL Order control_event order_of",
    "websocket_core.hooks": "ConnectionHook Hooks SnapshotHook",
    "websocket_core.tickets": "TICKET_BYTES TICKET_CHARACTERS TICKET_SECONDS Tickets",
    "websocket_core.errors": """
        AppendFailed AuthenticationFailed AuthenticationUnavailable ConnectionRefused FrameRefused InvalidConfiguration
        InvalidEvent InvalidInput InvalidUserId IsolationViolation LogUnavailable MalformedCursor MalformedFrame
        ManagerClosed UnifiedWebSocketError UnknownConnection WrongEventLoop
    """,
    "websocket_core.events": """
        AGENT_COMPLETED AGENT_ERROR AGENT_STARTED AGENT_THINKING APPROVAL_REQUESTED APPROVAL_RESOLVED CRITICAL_EVENTS
        DATA_MODELS EVENTS_DROPPED MESSAGE_DELTA RESERVED_TYPES TOOL_COMPLETED TOOL_EXECUTING TOOL_PROGRESS
        AgentCompleted AgentError AgentStarted AgentThinking ApprovalRequested ApprovalResolved Event EventEncoder
        EventsDropped MessageDelta
        ToolCompleted ToolExecuting ToolProgress check_event_id encode_json owner_part random_text
    """,
    "websocket_core.limits": "Limits Retention RetryPolicy",
    "websocket_core.log": "Batch Checkable Entry GapReason LogReader LogStore LogWriter Position",
    "websocket_core.metrics": "LATENCY_BOUNDS Latency Metrics process_metrics",
    "websocket_core.unified_manager": "UnifiedWebSocketManager",
    "websocket_core.worker": "ENDING EmitterFor SyncWorker Worker WorkerOptions emitter_for",
    "websocket_core.commands": "AnsweringHost Check Command CommandHost Commands OURS",
    "websocket_core.work": "Held IDS Item MemoryWork Outcome Put WorkLimits WorkQueue",
    "websocket_core.wire": """
        CLOSE_RULES CURSOR_LATEST CloseCode CloseRule ERROR_CODES PLAIN PROTOCOL close_code control_frame
        decode_cursor encode_cursor event_frame parse_frame provisional_frame
    """,
}
"""What else is public in the modules that documentation and backends of other people import from."""


def _defined(module: Any) -> set[str]:
    """The names that a module defines itself, without a leading underscore."""
    names: set[str] = set()
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return {name for name in names if not name.startswith("_") and name != "logger"}


@pytest.mark.parametrize("name", DECLARED)
def test_the_declared_names_are_the_golden_list(name: str) -> None:
    module = importlib.import_module(name)
    assert sorted(module.__all__) == sorted(DECLARED[name].split())
    for each in module.__all__:
        assert getattr(module, each) is not None


@pytest.mark.parametrize("name", DEFINED)
def test_the_defined_names_are_the_golden_list(name: str) -> None:
    assert sorted(_defined(importlib.import_module(name))) == sorted(DEFINED[name].split())


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (
            "websocket_core",
            "UnifiedWebSocketManager UnifiedWebSocketEmitter WebSocketManager websocket_manager get_websocket_manager",
        ),
        ("websocket_core.unified_manager", "UnifiedWebSocketManager"),
        ("websocket_core.unified_emitter", "UnifiedWebSocketEmitter"),
        ("websocket_core.agent_bridge", "AgentWebSocketBridge"),
        ("bridge", "AgentWebSocketBridge UserExecutionContext"),
        ("websocket_core", "Limits Principal Retention"),
        ("websocket_core.auth", "AuthenticationFailed JWTAuthenticator"),
        ("websocket_core.router", "websocket_router metrics_router"),
    ],
)
def test_a_fixed_name_is_importable_from_its_fixed_place(module: str, names: str) -> None:
    for name in names.split():
        assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


def test_an_old_name_is_the_same_object_as_the_new_one() -> None:
    from websocket_core import agent_bridge, errors, identity, limits, log, unified_emitter, unified_manager
    from websocket_core.auth import AuthenticationFailed

    assert websocket_core.WebSocketManager is UnifiedWebSocketManager
    assert unified_manager.UnifiedWebSocketManager is UnifiedWebSocketManager
    assert unified_emitter.UnifiedWebSocketEmitter is UnifiedWebSocketEmitter
    assert websocket_core.websocket_manager is websocket_core.get_websocket_manager()
    assert websocket_core.get_websocket_manager() is websocket_core.get_websocket_manager()
    assert isinstance(websocket_core.websocket_manager, UnifiedWebSocketManager)
    assert agent_bridge.AgentWebSocketBridge is AgentWebSocketBridge
    assert agent_bridge.UserExecutionContext is UserExecutionContext
    assert websocket_core.Limits is limits.Limits
    assert websocket_core.Principal is identity.Principal
    assert websocket_core.Position is log.Position
    assert websocket_core.AuthenticationFailed is errors.AuthenticationFailed is AuthenticationFailed


@pytest.mark.parametrize("module", [websocket_core, bridge, importlib.import_module("websocket_core.agent_bridge")])
def test_an_unknown_name_is_an_attribute_error_that_names_it(module: Any) -> None:
    with pytest.raises(AttributeError, match=f"{module.__name__}.*'nonsense'"):
        _ = module.nonsense
    assert not hasattr(module, "__wrapped__"), "introspection asks for such names and must get a plain no"
    with pytest.raises(ImportError):
        exec(f"from {module.__name__} import nonsense")


@pytest.mark.parametrize("name", ["websocket_core", "bridge"])
def test_dir_shows_every_public_name_before_it_was_used(name: str) -> None:
    shown = _in_a_new_process(f"import {name}; print(*dir({name}))").split()
    assert set(DECLARED[name].split()) <= set(shown)


@pytest.mark.parametrize("name", DECLARED)
def test_a_star_import_gives_the_declared_names(name: str) -> None:
    namespace: dict[str, object] = {}
    exec(f"from {name} import *", namespace)
    assert set(DECLARED[name].split()) == namespace.keys() - {"__builtins__"}


def _in_a_new_process(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{code}"],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_a_package_loads_none_of_its_modules() -> None:
    """Lazy: the price of a name is paid when it is used, and importing has no effect."""
    loaded = _in_a_new_process(
        "import websocket_core, bridge\n"
        "print(*[m for m in sys.modules if m.startswith(('websocket_core.', 'bridge.'))])\n"
        "print(*[m for m in ('asyncio', 'pydantic', 'jwt', 'fastapi', 'prometheus_client') if m in sys.modules])\n"
    )
    assert loaded.split() == []


def test_the_manager_of_the_process_is_made_at_the_first_access_and_not_before() -> None:
    out = _in_a_new_process(
        "import websocket_core\n"
        "from websocket_core import UnifiedWebSocketManager, get_websocket_manager\n"
        "made = []\n"
        "init = UnifiedWebSocketManager.__init__\n"
        "def noting(self, *a, **k):\n"
        "    made.append(self)\n"
        "    init(self, *a, **k)\n"
        "UnifiedWebSocketManager.__init__ = noting\n"
        "dir(websocket_core); print(len(made))\n"
        "websocket_core.websocket_manager; get_websocket_manager(); websocket_core.websocket_manager\n"
        "from websocket_core import websocket_manager\n"
        "print(len(made), websocket_manager is made[0])\n"
    )
    assert out.split() == ["0", "1", "True"]


# -- signatures


def shape(call: Callable[..., object]) -> str:
    """The signature without annotations, which Python versions write differently."""
    signature = inspect.signature(call)
    bare = [each.replace(annotation=inspect.Parameter.empty) for each in signature.parameters.values()]
    kind = "async " if inspect.iscoroutinefunction(call) else ""
    return kind + str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


LABELS: Final = "run_id=None, thread_id=None, event_id=None"

SIGNATURES: Final[dict[Callable[..., object], str]] = {
    UnifiedWebSocketManager.connect_user: "async (self, websocket, user_id, connection_id=None, thread_id=None, *, "
    "principal=None, cursor=None, only_thread=None)",
    UnifiedWebSocketManager.disconnect_user: "async (self, user_id, connection_id=None)",
    UnifiedWebSocketManager.emit_critical_event: "async (self, user_id, event_type, data, connection_id=None)",
    UnifiedWebSocketManager.get_emitter: "(self, user_id)",
    UnifiedWebSocketManager.create_agent_bridge: "(self, context)",
    UnifiedWebSocketManager.get_stats: "(self)",
    UnifiedWebSocketManager.shutdown: "async (self)",
    UnifiedWebSocketManager.drain: "async (self, budget=25.0)",
    UnifiedWebSocketManager.head: "async (self, user_id)",
    UnifiedWebSocketManager.delete_user: "async (self, user_id)",
    UnifiedWebSocketManager.revoke: "async (self, user_id, token_id=None, *, seconds=86400.0)",
    WebSocketConnection.serve: "async (self, *, authenticate=None)",
    UnifiedWebSocketEmitter: "(manager, user_id, context=None)",
    UnifiedWebSocketEmitter.emit: f"async (self, event_type, data, *, {LABELS}, connection_id=None)",
    UnifiedWebSocketEmitter.emit_agent_started: f"async (self, data, *, {LABELS})",
    UnifiedWebSocketEmitter.emit_agent_thinking: f"async (self, data, *, {LABELS})",
    UnifiedWebSocketEmitter.emit_tool_executing: f"async (self, data, *, {LABELS})",
    UnifiedWebSocketEmitter.emit_tool_completed: f"async (self, data, *, {LABELS})",
    UnifiedWebSocketEmitter.emit_agent_completed: f"async (self, data, *, {LABELS})",
    UnifiedWebSocketEmitter.notify_agent_started: f"async (self, agent_name, *, {LABELS}, **extra)",
    UnifiedWebSocketEmitter.notify_agent_thinking: f"async (self, thought, *, {LABELS}, **extra)",
    UnifiedWebSocketEmitter.notify_tool_executing: f"async (self, tool_name, *, {LABELS}, **extra)",
    UnifiedWebSocketEmitter.notify_tool_completed: f"async (self, tool_name, result, *, {LABELS}, **extra)",
    UnifiedWebSocketEmitter.notify_agent_completed: f"async (self, result, *, {LABELS}, **extra)",
    UnifiedWebSocketEmitter.notify_agent_error: f"async (self, error, *, {LABELS}, **extra)",
    UnifiedWebSocketEmitter.notify_custom: f"async (self, event_type, data, *, {LABELS})",
    UnifiedWebSocketEmitter.get_stats: "(self)",
    UnifiedWebSocketEmitter.cleanup: "async (self)",
    SyncEmitter.post: f"(self, event_type, data, *, {LABELS})",
    Principal: "(user_id, expires_at=None, token_id=None, claims=<factory>)",
    JWTAuthenticator: "(key=None, *, jwks_url=None, algorithms, audience=None, issuer=None, leeway=0.0)",
    DevelopmentAuthenticator: "(*, i_know_that_anybody_can_be_anybody=False)",
    AgentWebSocketBridge.run: "(self, agent, *, run_id=None, parent_run_id=None)",
    UserExecutionContext: "(user_id, run_id=None, thread_id=None)",
    bridge.AgentRun.thinking: "async (self, thought, **extra)",
    bridge.AgentRun.emit: "async (self, event_type, data)",
    bridge.AgentRun.delta: "async (self, text, *, message_id=None)",
    bridge.AgentRun.tool: "(self, name, /, **arguments)",
    bridge.AgentRun.call_tool: "(self, name, arguments=None, *, tool_call_id=None)",
    bridge.AgentRun.child: "(self, agent, *, run_id=None)",
    bridge.ToolCall.progress: "async (self, **data)",
}


@pytest.mark.parametrize("call", SIGNATURES, ids=lambda call: call.__qualname__)
def test_a_fixed_signature_is_the_golden_one(call: Callable[..., object]) -> None:
    assert shape(call) == SIGNATURES[call]


def test_every_emitting_method_has_its_form_for_threads() -> None:
    """`emitter.sync` takes the same arguments, without `await`."""
    emitting = {
        name: shape(method)
        for name, method in inspect.getmembers(UnifiedWebSocketEmitter, inspect.iscoroutinefunction)
        if name.startswith(("emit", "notify_"))
    }
    assert len(emitting) == 13
    for name, signature in emitting.items():
        assert f"async {shape(getattr(SyncEmitter, name))}" == signature


def test_the_constructors_that_grow_keep_their_first_parameters() -> None:
    """Keyword-only parameters may be added; what comes before them may not change."""
    manager = shape(UnifiedWebSocketManager)
    assert manager.startswith("(log='memory://', *, limits=None, retention=None, ")
    assert shape(AgentWebSocketBridge).startswith("(manager, context, *, ")

    from websocket_core.router import metrics_router, websocket_router

    assert shape(websocket_router).startswith("(manager, *, authenticate, origins=None")
    assert shape(metrics_router).startswith("(path='/metrics', *, ")


def test_no_method_that_emits_takes_a_user() -> None:
    """Isolation is the absence of a path: the user of an emitter, a bridge and a run is fixed when it is made."""
    for cls in (UnifiedWebSocketEmitter, SyncEmitter, AgentWebSocketBridge, bridge.AgentRun, bridge.ToolCall):
        for name, method in inspect.getmembers(cls, inspect.isfunction):
            if not name.startswith("_"):
                assert not {"user_id", "user", "users"} & inspect.signature(method).parameters.keys(), name


def test_every_method_is_written_out_in_its_class() -> None:
    """Nothing is generated by `setattr`: the source of each method is a definition of that name."""
    for cls in (UnifiedWebSocketEmitter, SyncEmitter, UnifiedWebSocketManager):
        for name, method in inspect.getmembers(cls, inspect.isfunction):
            assert method.__name__ == name
            assert f"def {name}(" in inspect.getsource(method)


# -- values


def test_the_class_constants_are_the_defaults_of_limits() -> None:
    limits = Limits()
    assert limits.connections_per_user == UnifiedWebSocketManager.MAX_CONNECTIONS_PER_USER == 10
    assert limits.connections == UnifiedWebSocketManager.MAX_TOTAL_CONNECTIONS == 10_000
    assert limits.sweep_interval == UnifiedWebSocketManager.CLEANUP_INTERVAL_SECONDS
    assert limits.heartbeat + limits.heartbeat_timeout == UnifiedWebSocketManager.STALE_CONNECTION_TIMEOUT == 45.0
    assert limits.outbox == UnifiedWebSocketManager.MAX_PENDING_MESSAGES == 10_000


def test_the_defaults_are_the_documented_ones() -> None:
    limits, retention, retry = Limits(), Retention(), RetryPolicy()
    assert (limits.frame_bytes, limits.event_bytes) == (65_536, 262_144)
    assert (limits.heartbeat, limits.heartbeat_timeout, limits.write_timeout) == (25.0, 20.0, 10.0)
    assert (limits.auth_timeout, limits.expiry_grace, limits.topics) == (5.0, 5.0, 100)
    assert (retention.events, retention.bytes, retention.age) == (5_000, 2_097_152, 3_600.0)
    assert retention.total_bytes == 536_870_912
    assert retry.attempts > 1


def test_a_connection_has_the_fixed_attributes() -> None:
    names = "websocket user_id connection_id thread_id created_at last_activity is_healthy".split()
    assert all(hasattr(WebSocketConnection, name) for name in names)


def test_the_emitter_names_the_five_critical_events() -> None:
    assert UnifiedWebSocketEmitter.CRITICAL_EVENTS == (
        "agent_started",
        "agent_thinking",
        "tool_executing",
        "tool_completed",
        "agent_completed",
    )
