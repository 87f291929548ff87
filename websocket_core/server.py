"""uvicorn for long-lived sockets: set safely, able to cut a socket, and drained before it stops. Needs the extra
`server`."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, Protocol

import uvicorn
from uvicorn.server import ServerState

from websocket_core.limits import Limits
from websocket_core.server_bounds import ServerBounds
from websocket_core.server_frames import CuttableProtocol
from websocket_core.server_logging import LogFormat, logging_config, strip_queries
from websocket_core.server_requests import ServerConfig, request_protocol

__all__ = ["CuttableProtocol", "Drainable", "DrainingServer", "ServerBounds", "ServerConfig", "run", "server_config"]

logger = logging.getLogger(__name__)

DRAIN_SECONDS: Final = 25.0
"""The default budget, below the 30 seconds that Kubernetes gives."""

FORCED_SECONDS: Final = 2.0
"""What is left to the application after a second signal."""


class Drainable(Protocol):
    """What the server asks of a manager."""

    async def drain(self, budget: float) -> None:
        """Called once, when the server was told to stop and still listens. Sends every client away within `budget`
        seconds and refuses new ones."""
        ...


class _State(ServerState):
    """What the protocols of one server share."""

    def __init__(self) -> None:
        super().__init__()
        self.managers: dict[Drainable, None] = {}

    def register(self, manager: Drainable) -> None:
        self.managers[manager] = None


class DrainingServer(uvicorn.Server):
    """uvicorn's server, which lets the managers that it serves drain before it closes anything.

    uvicorn closes every socket on SIGTERM and runs the application's shutdown after that, when nothing can be delivered
    any more. Here the first SIGTERM or SIGINT starts `manager.drain(budget)` of every manager that has had a WebSocket
    connection here, while the server still listens: health checks answer that it is going, newcomers get 1013. When
    all are drained, uvicorn stops. A second signal stops it at once: `force_exit` is True then.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        drain: float = DRAIN_SECONDS,
        announce: Callable[[str], object] | None = None,
    ) -> None:
        super().__init__(config)
        self._budget = drain
        self._announce = announce
        self._state = self.server_state = _State()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._announce is not None:
            self._announce(_address(self.servers[0].sockets[0], tls=self.config.is_ssl))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by a signal. uvicorn's own would end the process by the same signal after an orderly end."""
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Owned by this call, which watches for the second signal whatever the application's shutdown waits for.
        stopping = asyncio.create_task(self._stop(sockets), name="websocket_core server")
        while not stopping.done() and not self.force_exit:
            await asyncio.wait([stopping], timeout=0.1)
        await asyncio.wait([stopping], timeout=FORCED_SECONDS)
        stopping.cancel()
        await asyncio.wait([stopping])
        if not stopping.cancelled():
            stopping.result()

    async def _stop(self, sockets: list[socket.socket] | None) -> None:
        await self._drain()
        await super().shutdown(sockets)
        if self.force_exit:
            await self.lifespan.shutdown()  # uvicorn leaves it out, and Starlette would log that as a crash

    async def _drain(self) -> None:
        draining = [asyncio.ensure_future(manager.drain(self._budget)) for manager in self._state.managers]
        while (late := [task for task in draining if not task.done()]) and not self.force_exit:
            await asyncio.wait(late, timeout=0.1)
        for task in late:
            task.cancel()
        for result in await asyncio.gather(*draining, return_exceptions=True):
            if isinstance(result, Exception):
                logger.error("a manager could not be drained", exc_info=result)


def _address(listening: Any, *, tls: bool) -> str:
    """Where a listening socket is reached."""
    name = listening.getsockname()
    if isinstance(name, str):
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{'https' if tls else 'http'}://{host}:{name[1]}"


def server_config(
    app: Any,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    bounds: ServerBounds | None = None,
    log_format: LogFormat = "text",
    **overrides: Any,
) -> ServerConfig:
    """A uvicorn configuration for `app`: sockets that can be cut, no per-message deflate, small frames, deadlines for
    requests, and nobody whose `X-Forwarded-*` headers are believed.

    Deflate costs about half as much CPU again per event and more than twice the memory per connection; frames above
    `Limits.frame_bytes` are refused before they are in memory. `bounds` is what a peer is granted before the
    application sees anything of it. `overrides` are uvicorn's own settings and win, with two differences: `http` as
    one of uvicorn's names is that parser with these bounds, and `forwarded_allow_ips=None` is nobody, whatever the
    environment says.

    Also has the query string cut off everything that uvicorn logs in this process.
    """
    settings: dict[str, Any] = {
        "host": host,
        "port": port,
        "http": "auto",
        "ws": CuttableProtocol,
        "ws_per_message_deflate": False,
        "ws_max_size": Limits().frame_bytes,
        "log_level": "warning",
        "log_config": logging_config(log_format),
        "timeout_graceful_shutdown": 10,
        **overrides,
    }
    if isinstance(settings["http"], str):
        settings["http"] = request_protocol(settings["http"])
    if settings.get("forwarded_allow_ips") is None:
        settings["forwarded_allow_ips"] = []
        settings.setdefault("proxy_headers", False)
    strip_queries()
    return ServerConfig(app, bounds=bounds or ServerBounds(), **settings)


def run(
    app: Any,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    drain: float = DRAIN_SECONDS,
    announce: Callable[[str], object] | None = None,
    bounds: ServerBounds | None = None,
    log_format: LogFormat = "text",
    **overrides: Any,
) -> None:
    """Serve `app` until SIGTERM or SIGINT ends it, then send its clients away over `drain` seconds.

    `announce` is called with the address when the server listens; `bounds`, `log_format` and `overrides` are as for
    `server_config`. Returns after an orderly end. Raises `SystemExit`: 1 after a second signal, and uvicorn's 3 if it
    cannot start.
    """
    config = server_config(app, host=host, port=port, bounds=bounds, log_format=log_format, **overrides)
    if log_format == "json":
        logging.captureWarnings(True)
    server = DrainingServer(config, drain=drain, announce=announce)
    server.run()
    if server.force_exit:
        raise SystemExit(1)
