"""The bridge: tells the life of an agent run to its user.

Importing this package does nothing: every name below is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from bridge.agent_bridge import AgentWebSocketBridge
    from bridge.agent_run import AgentRun, RunCancelled, ToolCall
    from bridge.context import RunContext, UserExecutionContext
    from websocket_core.approvals import Decision

_HOMES: Final = {
    "AgentRun": "agent_run",
    "AgentWebSocketBridge": "agent_bridge",
    "Decision": "approvals",
    "RunCancelled": "agent_run",
    "RunContext": "context",
    "ToolCall": "agent_run",
    "UserExecutionContext": "context",
}

__all__ = [
    "AgentRun", "AgentWebSocketBridge", "Decision", "RunCancelled", "RunContext", "ToolCall", "UserExecutionContext",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"bridge.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
