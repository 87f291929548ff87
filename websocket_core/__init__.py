"""Unified WebSocket: carries what AI agents do to the people waiting for them, live, in order, and to nobody else.

Importing this package does nothing: every name below is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from websocket_core.compat import get_websocket_manager
    from websocket_core.connection import WebSocketConnection
    from websocket_core.errors import (
        AppendFailed,
        AuthenticationFailed,
        AuthenticationUnavailable,
        ConnectionRefused,
        FrameRefused,
        InvalidConfiguration,
        InvalidEvent,
        InvalidInput,
        InvalidUserId,
        IsolationViolation,
        LogUnavailable,
        MalformedCursor,
        MalformedFrame,
        ManagerClosed,
        UnifiedWebSocketError,
        UnknownConnection,
        WrongEventLoop,
    )
    from websocket_core.identity import Grant, Principal, UserId
    from websocket_core.limits import Limits, Retention, RetryPolicy
    from websocket_core.log import Position
    from websocket_core.sync_emitter import SyncEmitter
    from websocket_core.unified_emitter import UnifiedWebSocketEmitter
    from websocket_core.unified_manager import UnifiedWebSocketManager
    from websocket_core.unified_manager import UnifiedWebSocketManager as WebSocketManager
    from websocket_core.worker import emitter_for

    websocket_manager: UnifiedWebSocketManager

__version__: Final = "0.1.0"

_HOMES: Final = {
    "connection": ("WebSocketConnection",),
    "errors": (
        "AppendFailed", "AuthenticationFailed", "AuthenticationUnavailable", "ConnectionRefused", "FrameRefused",
        "InvalidConfiguration", "InvalidEvent", "InvalidInput", "InvalidUserId", "IsolationViolation",
        "LogUnavailable", "MalformedCursor", "MalformedFrame", "ManagerClosed", "UnifiedWebSocketError",
        "UnknownConnection", "WrongEventLoop",
    ),
    "identity": ("Grant", "Principal", "UserId"),
    "limits": ("Limits", "Retention", "RetryPolicy"),
    "log": ("Position",),
    "sync_emitter": ("SyncEmitter",),
    "unified_emitter": ("UnifiedWebSocketEmitter",),
    "unified_manager": ("UnifiedWebSocketManager",),
    "worker": ("emitter_for",),
}  # fmt: skip
_HOME_OF: Final = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AppendFailed", "AuthenticationFailed", "AuthenticationUnavailable", "ConnectionRefused", "FrameRefused", "Grant",
    "InvalidConfiguration", "InvalidEvent", "InvalidInput", "InvalidUserId", "IsolationViolation", "Limits",
    "LogUnavailable", "MalformedCursor", "MalformedFrame", "ManagerClosed", "Position", "Principal", "Retention",
    "RetryPolicy", "SyncEmitter", "UnifiedWebSocketEmitter", "UnifiedWebSocketError", "UnifiedWebSocketManager",
    "UnknownConnection", "UserId", "WebSocketConnection", "WebSocketManager", "WrongEventLoop",
    "emitter_for", "get_websocket_manager", "websocket_manager",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is not None:
        value = getattr(import_module(f"websocket_core.{home}"), name)
    elif name in __all__:
        value = import_module("websocket_core.compat").resolve(name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
