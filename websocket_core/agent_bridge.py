"""`AgentWebSocketBridge` under the path where earlier code imports it from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridge import AgentWebSocketBridge, UserExecutionContext

__all__ = ["AgentWebSocketBridge", "UserExecutionContext"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        import bridge

        return getattr(bridge, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
