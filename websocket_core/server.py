"""uvicorn for long-lived sockets: set safely, able to cut a socket, and drained before it stops. Needs the extra
`server`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from asyncio import TimerHandle
from collections.abc import Callable, Coroutine
from functools import partial
from types import FrameType
from typing import Any, Final, Protocol

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.exceptions import InvalidState

from websocket_core.inbound import SERVER_EXTENSION
from websocket_core.lag import LATE
from websocket_core.limits import Limits

logger = logging.getLogger(__name__)

_LINGER_NOT: Final = struct.pack("ii", 1, 0)
"""For SO_LINGER: reset the connection instead of closing it in good order."""

DRAIN_SECONDS: Final = 25.0
"""The default budget, below the 30 seconds that Kubernetes gives."""

FORCED_SECONDS: Final = 2.0
"""What is left to the application after a second signal."""


def _cut(transport: asyncio.Transport) -> None:
    """Close the socket now. What waits to be sent is dropped, also by the kernel: to a client that has stopped reading
    it would offer megabytes for minutes after the close."""
    end: Any = transport.get_extra_info("socket")
    if transport.get_write_buffer_size() and end is not None:
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    transport.abort()


class CuttableProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, whose sockets go when they should although the client takes nothing any more.

    uvicorn closes a socket when all that it buffered has been sent, which is never if the client has stopped reading.
    Here a client that answers no ping is cut, one whose application has ended is cut `close_timeout` seconds later,
    and an application may cut it at once, by the extension that `websocket_core.inbound` describes.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._register = server_state.register if isinstance(server_state, _State) else None
        self._cutting: TimerHandle | None = None

    def run_asgi(self) -> Coroutine[Any, Any, None]:
        offers: dict[object, object] = {"abort": partial(_cut, self.transport)}
        if self._register is not None:
            offers["register"] = self._register
        self.scope["extensions"][SERVER_EXTENSION] = offers
        return super().run_asgi()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.close_sent:
            # A header of more than 8 KB, say. uvicorn takes no notice: the client would wait for ever, and a server
            # that is stopped meanwhile would crash before the application's own shutdown.
            self.close_sent = True
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    def keepalive_timeout(self) -> None:
        assert self.ping_timeout is not None
        late = self.loop.time() - self.ping_sent_at - self.ping_timeout
        if late >= LATE:  # the loop stood still, perhaps with the answer waiting to be read
            self.ping_sent_at += 2 * late  # the next look is due then, and late only after another stall
            self.pong_timer = self.loop.call_later(late, self.keepalive_timeout)
            return
        super().keepalive_timeout()
        _cut(self.transport)

    def shutdown(self) -> None:
        try:
            super().shutdown()
        except InvalidState:
            # The client has sent its close and does not take ours. uvicorn would crash here, before it has closed the
            # other sockets and before the application's own shutdown.
            _cut(self.transport)

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        if not self.disconnected:
            self._cutting = self.loop.call_later(self.close_timeout, _cut, self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._cutting is not None:
            self._cutting.cancel()
        super().connection_lost(exc)


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
        late = set(draining)
        while late and not self.force_exit:
            _done, late = await asyncio.wait(late, timeout=0.1)
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


def server_config(app: Any, *, host: str = "127.0.0.1", port: int = 8000, **overrides: Any) -> uvicorn.Config:
    """A uvicorn configuration for `app`: sockets that can be cut, no per-message deflate, small frames.

    Deflate costs about half as much CPU again per event and more than twice the memory per connection; frames above
    `Limits.frame_bytes` are refused before they are in memory. `overrides` are uvicorn's own settings and win.
    """
    settings: dict[str, Any] = {
        "host": host,
        "port": port,
        "ws": CuttableProtocol,
        "ws_per_message_deflate": False,
        "ws_max_size": Limits().frame_bytes,
        "log_level": "warning",
        "timeout_graceful_shutdown": 10,
        **overrides,
    }
    return uvicorn.Config(app, **settings)


def run(
    app: Any,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    drain: float = DRAIN_SECONDS,
    announce: Callable[[str], object] | None = None,
    **overrides: Any,
) -> None:
    """Serve `app` until SIGTERM or SIGINT ends it, then send its clients away over `drain` seconds.

    `announce` is called with the address when the server listens; `overrides` are as for `server_config`.
    Returns after an orderly end. Raises `SystemExit`: 1 after a second signal, and uvicorn's 3 if it cannot start.
    """
    config = server_config(app, host=host, port=port, **overrides)
    server = DrainingServer(config, drain=drain, announce=announce)
    server.run()
    if server.force_exit:
        raise SystemExit(1)
