"""What is unsafe about the server that an application runs under, in plain words.

It finds the settings of a uvicorn that it did not start, from inside one of its requests, and imports nothing of
uvicorn, which may not be installed.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping
from typing import Any, Final

from websocket_core.limits import Limits

logger = logging.getLogger(__name__)

SERVE: Final = "python -m websocket_core serve"


def check_server(scope: Mapping[str, Any], limits: Limits) -> list[str]:
    """What is unsafe about the server whose request is served by the calling task; one sentence each.

    `scope` is the request's ASGI scope. Empty under `python -m websocket_core serve` with its defaults, and under a
    server that is not uvicorn, or whose settings are out of sight, as in a task that the application started itself.
    Never raises.
    """
    try:
        config = _config_of(scope)
        return [] if config is None else _findings(config, limits)
    except Exception:  # the settings of another version of uvicorn, say; a check is not to break what it checks
        logger.debug("the server could not be checked", exc_info=True)
        return []


def _config_of(scope: Mapping[str, Any]) -> Any:
    """The `uvicorn.Config` behind the current task; None if there is none to be seen.

    uvicorn runs an application in a task whose coroutine is a method: of the protocol, for a WebSocket, or of an
    object that holds a method of the protocol, for a request.
    """
    module = sys.modules.get("uvicorn.config")
    task = asyncio.current_task()
    if module is None or task is None or scope.get("type") not in ("websocket", "http"):
        return None
    owner = getattr(task.get_coro(), "cr_frame", None)
    owner = None if owner is None else owner.f_locals.get("self")
    config = getattr(owner, "config", None)
    if config is None:
        config = getattr(getattr(getattr(owner, "on_response", None), "__self__", None), "config", None)
    return config if isinstance(config, module.Config) else None


def _findings(config: Any, limits: Limits) -> list[str]:
    found = []
    socket, request = config.ws_protocol_class, config.http_protocol_class
    if not getattr(socket, "bounds_frames", False):
        sansio = any(base.__name__ == "WebSocketsSansIOProtocol" for base in getattr(socket, "__mro__", ()))
        if sansio:
            found.append(
                "The server bounds neither fragments nor control frames, and cannot cut the socket of a client that "
                f"has stopped reading: use ws=websocket_core.server.CuttableProtocol, or {SERVE}."
            )
        else:
            found.append(
                "The server's WebSocket implementation closes some malformed frames without a code and takes more "
                f"memory for large ones: use ws='websockets-sansio', or {SERVE}."
            )
    if config.ws_per_message_deflate:
        found.append(
            "Compression is on, so that a small frame can become a large one in memory: set "
            "ws_per_message_deflate=False."
        )
    if config.ws_max_size is None or config.ws_max_size > limits.frame_bytes:
        found.append(
            f"Frames of up to {config.ws_max_size} bytes are read into memory before Limits.frame_bytes refuses them: "
            f"set ws_max_size={limits.frame_bytes}."
        )
    if not getattr(request, "bounds_requests", False):
        found.append(
            "The server has no deadline for the head of a request, so that silent clients hold sockets for ever: put "
            f"a proxy with such a deadline before it, or use {SERVE}."
        )
    found += _about_logs(config, unbounded=not getattr(socket, "bounds_frames", False))
    if config.proxy_headers and "*" in _items(config.forwarded_allow_ips):
        found.append(
            "Everybody is believed to be a proxy, so that a client chooses its own address: set forwarded_allow_ips "
            "to the addresses of yours."
        )
    return found


def _items(hops: Any) -> list[str]:
    return [each.strip() for each in (hops.split(",") if isinstance(hops, str) else hops)]


def _about_logs(config: Any, *, unbounded: bool) -> list[str]:
    found = []
    for name, what in (("uvicorn.error", "socket"), ("uvicorn.access", "request")):
        logger = logging.getLogger(name)
        if what == "request" and not (config.access_log and logger.hasHandlers()):
            continue
        stripped = any(getattr(each, "strips_queries", False) for each in logger.filters)
        if logger.isEnabledFor(logging.INFO) and not stripped:
            found.append(
                f"The logger {name} writes the query string of every {what}, with tickets and cursors in it: set its "
                "level to WARNING, or call websocket_core.server_logging.strip_queries()."
            )
    if unbounded and logging.getLogger("uvicorn.error").isEnabledFor(logging.DEBUG):
        found.append(
            "The logger uvicorn.error is at DEBUG, where it writes every header and every frame, with tokens and what "
            "users say: set its level to WARNING."
        )
    return found
