"""The WebSocket transport: raw ASGI from the handshake to the close.

Raw, because a connection through FastAPI's own WebSocket route costs half as much memory again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import replace
from functools import partial
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final, NoReturn
from urllib.parse import parse_qsl, urlsplit

from websocket_core.auth import Authenticator, AuthRequest
from websocket_core.connection import WebSocketConnection
from websocket_core.errors import (
    AuthenticationFailed,
    ConnectionRefused,
    InvalidInput,
    LogUnavailable,
    MalformedFrame,
    ManagerClosed,
)
from websocket_core.identity import Principal
from websocket_core.inbound import receive_frame
from websocket_core.lag import LATE
from websocket_core.limits import Limits
from websocket_core.unified_manager import UnifiedWebSocketManager
from websocket_core.wire import CLOSE_RULES, PROTOCOL, CloseCode, parse_frame

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

AUTH_FRAME_BYTES: Final = 24_576


class ASGISocket:
    """A WebSocket over the ASGI triple, without what a general framework adds."""

    __slots__ = ("_receive", "_send", "scope", "subprotocol")

    def __init__(self, scope: Scope, receive: Receive, send: Send, subprotocol: str | None) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self.subprotocol = subprotocol

    async def accept(self) -> None:
        message = await self._receive()
        if message["type"] != "websocket.connect":
            raise ConnectionError("the client left before the handshake")
        await self._send({"type": "websocket.accept", "subprotocol": self.subprotocol})

    async def receive(self) -> MutableMapping[str, Any]:
        return await self._receive()

    async def send_text(self, data: str) -> None:
        await self._send({"type": "websocket.send", "text": data})

    async def close(self, code: int, reason: str) -> None:
        await self._send({"type": "websocket.close", "code": code, "reason": reason})


class WebSocketEndpoint:
    """The ASGI application behind `GET /ws`.

    The origin is checked before anything else. Then the socket is accepted, so that every further refusal reaches a
    browser as a close code, and the client is authenticated: by `Authorization: Bearer`, by `?token=` if
    `query_token` is on, by whatever else the authenticator finds in the request, or by the first frame. Cookies are
    shown to the authenticator only if there is an exact list of origins.
    """

    def __init__(
        self,
        manager: UnifiedWebSocketManager,
        *,
        authenticate: Authenticator,
        origins: list[str] | None = None,
        query_token: bool = False,
    ) -> None:
        self._manager = manager
        self._authenticate = authenticate
        self._origins = None if origins is None else frozenset(map(_origin, origins))
        self._query_token = query_token
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection. What was needed to make it is not kept while it idles."""
        connection = await self._connect(scope, receive, send)
        if connection is not None:
            await connection.serve(authenticate=partial(self._reauthenticate, scope))

    async def _connect(self, scope: Scope, receive: Receive, send: Send) -> WebSocketConnection | None:
        """From the handshake to a registered connection; None if it was refused or the client left."""
        request = self._request(scope)
        if not self._origin_allowed(request.origin, request.headers.get("host", ""), scope):
            await _refuse_handshake(receive, send)
            return None
        subprotocol = PROTOCOL if PROTOCOL in scope.get("subprotocols", ()) else None
        socket = ASGISocket(scope, receive, send, subprotocol)
        try:
            await socket.accept()
            return await self._register(socket, request)
        except OSError as error:  # the client left; there is nobody to tell
            logger.debug("a client left during the handshake", extra={"error": type(error).__name__})
        return None

    def _request(self, scope: Scope, token: str | None = None) -> AuthRequest:
        """What an authenticator may look at."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        query = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True))
        return AuthRequest(
            headers=headers,
            query=query,
            cookies={} if self._origins is None else _cookies(headers.get("cookie", "")),
            client=tuple(scope["client"]) if scope.get("client") else None,
            origin=headers.get("origin"),
            token=token or _bearer(headers) or (query.get("token") if self._query_token else None),
        )

    async def _register(self, socket: ASGISocket, request: AuthRequest) -> WebSocketConnection | None:
        """Authenticate an accepted socket and connect it; None if it was closed with a code."""
        cursor = request.query.get("cursor")
        try:
            try:
                principal = await self._authenticate(request)
            except AuthenticationFailed:
                if request.token is not None:
                    raise
                request, given = await self._first_frame(socket, request)
                cursor = given or cursor
                principal = await self._authenticate(request)
            if principal.expires_at is not None and self._manager.now() >= principal.expires_at:
                raise AuthenticationFailed("the token has expired")
            return await self._manager.connect_user(
                socket,
                principal.user_id,
                request.query.get("connection_id"),
                request.query.get("thread_id"),
                principal=principal,
                cursor=cursor,
                only_thread=request.query.get("thread_id") or None,  # no event has an empty one
            )
        except (_Closed, ConnectionRefused):
            return None  # the socket is closed already
        except AuthenticationFailed:
            await _close(socket, CloseCode.NOT_AUTHENTICATED)
        except InvalidInput:
            await _close(socket, CloseCode.MALFORMED)
        except (LogUnavailable, ManagerClosed):
            await _close(socket, CloseCode.OVERLOADED)
        except OSError:  # the client left, whatever the server calls that
            raise
        except Exception:
            logger.exception("a connection could not be made")
            await _close(socket, CloseCode.INTERNAL)
        return None

    async def _first_frame(self, socket: ASGISocket, request: AuthRequest) -> tuple[AuthRequest, str | None]:
        """Wait for `auth {token, cursors?}`; the request with its token, and the cursor of the user's own log."""
        limits = self._manager.limits
        if self._waiting >= limits.unauthenticated:
            await _leave(socket, CloseCode.OVERLOADED)
        self._waiting += 1
        try:
            text = await _receive_within(limits.auth_timeout, socket, limits)
        except TimeoutError:
            await _leave(socket, CloseCode.TIMED_OUT)
        finally:
            self._waiting -= 1
        if text is None:
            raise _Closed
        if isinstance(text, CloseCode):
            await _leave(socket, text)
        if len(text) > AUTH_FRAME_BYTES:
            await _leave(socket, CloseCode.TOO_BIG)
        try:
            frame = parse_frame(text, depth=limits.event_depth)
        except MalformedFrame:
            await _leave(socket, CloseCode.MALFORMED)
        token = frame.get("token")
        cursors = frame.get("cursors", {})
        if frame["type"] != "auth" or not isinstance(token, str):
            await _leave(socket, CloseCode.NOT_AUTHENTICATED)
        if not isinstance(cursors, dict) or not isinstance(cursors.get("", ""), str):
            await _leave(socket, CloseCode.MALFORMED)
        return replace(request, token=token), cursors.get("") or None

    async def _reauthenticate(self, scope: Scope, token: str) -> Principal:
        """The principal of a token that came on the open socket."""
        return await self._authenticate(self._request(scope, token))

    def _origin_allowed(self, origin: str | None, host: str, scope: Scope) -> bool:
        """Programs send no origin. A browser's must be on the list; without a list it must be the server's own."""
        if origin is None:
            return True
        try:
            named = _origin(origin)
        except InvalidInput:
            return False
        if self._origins is not None:
            return named in self._origins
        scheme = "https" if scope.get("scheme") in ("wss", "https") else "http"
        try:
            return named == _origin(f"{scheme}://{host}")
        except InvalidInput:
            return False


class _Closed(Exception):
    """The socket is closed and that is all there is to say."""


async def _receive_within(seconds: float, socket: ASGISocket, limits: Limits) -> str | CloseCode | None:
    """As `receive_frame`. Raises `TimeoutError`; what a stall of the loop took of the time is given back."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + seconds
        try:
            async with asyncio.timeout_at(due):
                return await receive_frame(socket, limits)
        except TimeoutError:
            seconds = loop.time() - due
            if seconds < LATE:
                raise


async def _leave(socket: ASGISocket, code: CloseCode) -> NoReturn:
    await _close(socket, code)
    raise _Closed


async def _close(socket: ASGISocket, code: CloseCode) -> None:
    await socket.close(int(code), CLOSE_RULES[code].reason)


async def _refuse_handshake(receive: Receive, send: Send) -> None:
    """Refuse before the accept: the client gets HTTP 403."""
    await receive()
    await send({"type": "websocket.close", "code": int(CloseCode.NOT_ALLOWED)})


def _bearer(headers: dict[str, str]) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _cookies(header: str) -> dict[str, str]:
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(header).items()}
    except CookieError:
        return {}


def _origin(text: str) -> tuple[str, str, int]:
    """Scheme, host and port of an origin. Raises `InvalidInput` if it is none."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise InvalidInput("this is not an origin") from None
    default = {"http": 80, "https": 443}.get(parts.scheme)
    if not parts.hostname or default is None or parts.path or parts.query or parts.fragment or parts.username:
        raise InvalidInput("an origin is scheme://host[:port], and nothing else")
    return parts.scheme, parts.hostname, default if port is None else port
