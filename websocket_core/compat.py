"""The names of earlier managers, as aliases of the same objects, made when they are first asked for."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any, Final

from websocket_core.unified_manager import UnifiedWebSocketManager


@cache
def get_websocket_manager() -> UnifiedWebSocketManager:
    """The manager of this process for code that passes none around; made on the first call, with the defaults."""
    return UnifiedWebSocketManager()


ALIASES: Final = {
    "WebSocketManager": ("websocket_core.unified_manager", "UnifiedWebSocketManager"),
    "get_websocket_manager": ("websocket_core.compat", "get_websocket_manager"),
}
"""Old name: the module and the name of what it is."""


def resolve(name: str) -> Any:
    """What an old name stands for. Raises `KeyError` for any other name."""
    if name == "websocket_manager":
        return get_websocket_manager()
    module, attribute = ALIASES[name]
    return getattr(import_module(module), attribute)
