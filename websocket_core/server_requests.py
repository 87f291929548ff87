"""uvicorn's HTTP protocols, h11 and httptools, with an end to requests that never end.

uvicorn waits for ever for the rest of a request, lets its head grow without bound under httptools, and takes a
WebSocket upgrade in HTTP/1.0. See `websocket_core.server_bounds` for what is granted here.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Any, ClassVar, Final

import h11
import uvicorn
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from websocket_core.server_bounds import BODY_RATE, Handshakes, ServerBounds, cut, has_unread

try:
    import resource
except ModuleNotFoundError:  # only Unix has it
    resource = None  # type: ignore[assignment]

LINGER: Final = 1.0
"""Seconds that a refusal has to reach a client that may have stopped reading."""
PIPELINED: Final = 32
"""The most requests that wait for the answer to the one before them."""

BAD_REQUEST: Final = "400 Bad Request"
TIMED_OUT: Final = "408 Request Timeout"
TOO_LARGE: Final = "431 Request Header Fields Too Large"


def answer(status: str) -> bytes:
    """A whole response that says no more than its status."""
    return f"HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".encode("ascii")


class ServerConfig(uvicorn.Config):
    """uvicorn's configuration, and what the protocols grant a peer."""

    def __init__(self, app: Any, *, bounds: ServerBounds, **settings: Any) -> None:
        self.bounds = bounds
        super().__init__(app, **settings)


def bounds_of(config: uvicorn.Config) -> ServerBounds:
    return config.bounds if isinstance(config, ServerConfig) else ServerBounds()


def _descriptors() -> int | None:
    """How many file descriptors this process may have; None if that is not bounded, or not known."""
    if resource is None:
        return None
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else int(soft)


def _handshakes_of(state: ServerState, config: uvicorn.Config, loop: asyncio.AbstractEventLoop) -> Handshakes:
    """The one of this server: `state` is what uvicorn has one of for all protocols of a server."""
    found: Handshakes | None = vars(state).get("handshakes")
    if found is None:
        nothing: Any = None
        hops = config.forwarded_allow_ips if config.proxy_headers else []
        proxies = ProxyHeadersMiddleware(nothing, hops).trusted_hosts
        found = Handshakes(bounds_of(config), loop, trusts=proxies.__contains__, descriptors=_descriptors())
        vars(state)["handshakes"] = found
    return found


class Stage(Enum):
    """What of a request was read last."""

    BETWEEN = "nothing: there was none yet, or the last one is whole"
    HEAD = "a part of its head"
    BODY = "its head, and perhaps a part of its body"


class _TooMuch(Exception):
    """A head is larger than granted."""


class BoundedRequests(asyncio.Protocol):
    """What is the same for both parsers. A subclass says how far its parser is."""

    bounds_requests: ClassVar[bool] = True

    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop
    client: tuple[str, int] | None
    cycle: Any
    flow: Any
    scope: Any

    _handshakes: Handshakes
    _bounds: ServerBounds

    def _bound(self, config: uvicorn.Config, server_state: ServerState) -> None:
        """Called once, when uvicorn's part is made."""
        self._handshakes = _handshakes_of(server_state, config, self.loop)
        self._bounds = bounds_of(config)
        self._over = False  # turned away, or handed over to the WebSocket protocol
        self._refusal = BAD_REQUEST
        self._received = 0
        self._noted = 0
        self._cutting: asyncio.TimerHandle | None = None

    def _stage(self) -> Stage:
        raise NotImplementedError

    @property
    def _answering(self) -> bool:
        """Whether an answer is owed, or on its way."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _answer_begun(self) -> bool:
        """Whether a part of an answer was sent. `cycle` is the last of several requests that came at once."""
        return self._answering and (self.cycle.response_started or bool(getattr(self, "pipeline", None)))

    # -- what asyncio and uvicorn tell

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._handshakes.expect_head(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        if self._cutting is not None:
            self._cutting.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        self._received += len(data)
        super().data_received(data)
        self._take_stock()

    def _take_stock(self, *, idle: bool = False) -> None:
        """Note what the client owes now. `idle` is True after an answer: then uvicorn's keep-alive time-out is
        running, which the next byte stops."""
        if self._over or self.transport.is_closing():
            self._handshakes.settle(self)
            return
        stage = self._stage()
        if stage is Stage.BODY:
            if self._handshakes.expect_body(self):
                self._noted = self._received
        elif self._answering or (idle and stage is Stage.BETWEEN):
            self._handshakes.settle(self)
        else:
            self._handshakes.expect_head(self)

    def _leave(self) -> None:
        self._over = True
        self._handshakes.settle(self)

    # -- what `Handshakes` asks

    @property
    def address(self) -> str | None:
        return self.client[0] if self.client else None

    def has_unread(self) -> bool:
        return has_unread(self.transport)

    def refuse(self) -> None:
        self._leave()
        self.transport.abort()

    def head_is_late(self) -> None:
        self._turn_away(TIMED_OUT if self._stage() is Stage.HEAD else None)

    def body_is_late(self) -> bool:
        brought = self._received - self._noted
        self._noted = self._received
        if brought >= BODY_RATE * self._bounds.body_timeout:
            return False
        if self.flow.read_paused or self.cycle.waiting_for_100_continue:  # it is the application that takes its time
            return False
        self._turn_away(TIMED_OUT)
        return True

    def _turn_away(self, status: str | None) -> None:
        """End the connection, with that status if no answer has begun."""
        self._leave()
        if status is None:
            cut(self.transport)
            return
        if not self._answer_begun:
            self.transport.write(answer(status))
        self.transport.close()
        self._cutting = self.loop.call_later(LINGER, cut, self.transport)

    # -- what a parser refuses

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn when the parser gave up. uvicorn's own would write into an answer that has begun."""
        self._turn_away(self._refusal)

    def _may_upgrade(self) -> bool:
        """The connection is about to become a WebSocket. uvicorn would rewrite an HTTP/1.0 request as HTTP/1.1."""
        if self._answering or self.scope["http_version"] != "1.1":
            self._turn_away(BAD_REQUEST)
            return False
        self._leave()
        return True


class _BoundedParser(h11.Connection):
    """h11, which looks at the size of a head only while it is incomplete."""

    def __init__(self, most: int, bounds: ServerBounds) -> None:
        super().__init__(h11.SERVER, most)
        self._bounds = bounds
        self.too_large = False

    def next_event(self) -> Any:
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            self.too_large = error.error_status_hint == 431
            raise
        if isinstance(event, h11.Request):
            size = len(event.target) + sum(len(name) + len(value) + 4 for name, value in event.headers)
            if size > self._bounds.header_bytes or len(event.headers) > self._bounds.headers:
                self.too_large = True
                raise h11.RemoteProtocolError("the head of the request is too large", error_status_hint=431)
            if event.http_version not in (b"1.0", b"1.1"):
                raise h11.RemoteProtocolError("this is another protocol")
            names = {name for name, _ in event.headers}
            if b"transfer-encoding" in names and b"content-length" in names:
                # RFC 9112 lets a server choose one of them; a proxy that chose the other sees other requests.
                raise h11.RemoteProtocolError("the length of the request is given twice")
        return event


class BoundedH11(BoundedRequests, H11Protocol):
    """uvicorn's protocol on h11."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._bound(config, server_state)
        most = config.h11_max_incomplete_event_size
        self.conn = _BoundedParser(self._bounds.header_bytes if most is None else most, self._bounds)

    def _stage(self) -> Stage:
        state = self.conn.their_state
        if state is h11.SEND_BODY:
            return Stage.BODY
        return Stage.HEAD if state is h11.IDLE and self.conn.trailing_data[0] else Stage.BETWEEN

    def send_400_response(self, msg: str) -> None:
        if getattr(self.conn, "too_large", False):
            self._refusal = TOO_LARGE
        super().send_400_response(msg)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        if self._may_upgrade():
            super().handle_websocket_upgrade(event)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._take_stock(idle=True)

    def shutdown(self) -> None:
        if self._over:  # h11 was not told of the refusal, and would raise in the middle of uvicorn's shutdown
            cut(self.transport)
        else:
            super().shutdown()


try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
except ModuleNotFoundError:
    bounded_httptools: type[asyncio.Protocol] | None = None
else:

    class BoundedHttpTools(BoundedRequests, HttpToolsProtocol):
        """uvicorn's protocol on httptools."""

        def __init__(
            self,
            config: uvicorn.Config,
            server_state: ServerState,
            app_state: dict[str, Any],
            _loop: asyncio.AbstractEventLoop | None = None,
        ) -> None:
            super().__init__(config, server_state, app_state, _loop)
            self._bound(config, server_state)
            self._reading = Stage.BETWEEN
            self._head = 0
            self._unparsed = 0
            self._whole = 0

        def _stage(self) -> Stage:
            return self._reading

        def data_received(self, data: bytes) -> None:
            body, whole = self._reading is Stage.BODY, self._whole
            super().data_received(data)
            if self._reading is Stage.HEAD and not self._over and not body and whole == self._whole:
                # All of it is of this head. A field is told when it is whole: an endless one would grow in the parser.
                self._unparsed += len(data)
                if self._unparsed > self._bounds.header_bytes:
                    self._turn_away(TOO_LARGE)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._reading = Stage.HEAD
            self._head = self._unparsed = 0

        def on_url(self, url: bytes) -> None:
            self._grow(len(url))
            super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            self._grow(len(name) + len(value) + 4)
            if len(self.headers) >= self._bounds.headers:
                self._refuse_head()
            super().on_header(name, value)

        def on_headers_complete(self) -> None:
            if len(self.pipeline) >= PIPELINED:
                self._refuse_head()
            version = self.parser.get_http_version()
            if version not in ("1.0", "1.1"):
                raise ValueError("this is another protocol")
            hosts = sum(name == b"host" for name, _ in self.headers)
            if hosts > 1 or (not hosts and version == "1.1"):
                raise ValueError("a request names one host")  # h11 refuses it as well
            super().on_headers_complete()
            self._reading = Stage.BODY

        def on_message_complete(self) -> None:
            super().on_message_complete()
            self._reading = Stage.BETWEEN
            self._whole += 1

        def _grow(self, size: int) -> None:
            self._head += size
            if self._head > self._bounds.header_bytes:
                self._refuse_head()

        def _refuse_head(self) -> None:
            """The parser ends when a callback raises, and uvicorn answers what `send_400_response` says."""
            self._refusal = TOO_LARGE
            raise _TooMuch

        def handle_websocket_upgrade(self) -> None:
            if self._may_upgrade():
                super().handle_websocket_upgrade()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._take_stock(idle=True)

    bounded_httptools = BoundedHttpTools


def request_protocol(name: str) -> type[asyncio.Protocol] | str:
    """The bounded protocol for a name that uvicorn knows; another name as it is."""
    if name == "auto":
        return bounded_httptools or BoundedH11
    if name == "httptools":
        return bounded_httptools or name
    return BoundedH11 if name == "h11" else name
