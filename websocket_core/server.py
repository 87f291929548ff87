"""uvicorn with the settings that are right for long-lived sockets. Needs the extra `server`."""

from __future__ import annotations

import contextlib
from typing import Any

import uvicorn

from websocket_core.limits import Limits


def server_config(app: Any, *, host: str = "127.0.0.1", port: int = 8000, **overrides: Any) -> uvicorn.Config:
    """A uvicorn configuration for `app`: websockets-sansio, no per-message deflate, small frames.

    Deflate costs about half as much CPU again per event and more than twice the memory per connection; frames above
    `Limits.frame_bytes` are refused before they are in memory. `overrides` are uvicorn's own settings and win.
    """
    settings: dict[str, Any] = {
        "host": host,
        "port": port,
        "ws": "websockets-sansio",
        "ws_per_message_deflate": False,
        "ws_max_size": Limits().frame_bytes,
        "log_level": "warning",
        "timeout_graceful_shutdown": 10,
        **overrides,
    }
    return uvicorn.Config(app, **settings)


def run(app: Any, *, host: str = "127.0.0.1", port: int = 8000, **overrides: Any) -> None:
    """Serve `app` until a signal ends it."""
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again after an orderly end
        uvicorn.Server(server_config(app, host=host, port=port, **overrides)).run()
