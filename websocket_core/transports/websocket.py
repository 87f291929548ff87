"""The WebSocket transport: raw ASGI from the handshake to the close.

Raw, because a connection through FastAPI's own WebSocket route costs half as much memory again.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import replace
from types import NoneType
from typing import Any, Final, NamedTuple, NoReturn

from websocket_core.admission import Admitted, Refusal, network_of
from websocket_core.connection import WebSocketConnection
from websocket_core.errors import (
    AuthenticationFailed,
    AuthenticationUnavailable,
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
from websocket_core.server_check import check_server
from websocket_core.transports.entrance import Entrance, Scope, host_of
from websocket_core.unified_manager import UnifiedWebSocketManager
from websocket_core.wire import CLOSE_RULES, PROTOCOL, CloseCode, parse_frame

logger = logging.getLogger(__name__)

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

AUTH_FRAME_BYTES: Final = 24_576
LAST_LOOK: Final = 0.1
"""Seconds that a wait goes on when its time is up, in which what has come is read."""


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
        try:
            await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except RuntimeError as error:  # uvicorn's word for a socket that it has closed itself, by its own time-out
            raise ConnectionError("the socket is closed already") from error


class WebSocketEndpoint:
    """The ASGI application behind `GET /ws`.

    The origin is checked before anything else, then the gate. Then the socket is accepted, so that every further
    refusal reaches a browser as a close code, and the client is authenticated: by `?ticket=`, by
    `Authorization: Bearer`, by `?token=` if that is switched on, by whatever else the authenticator finds in the
    request, or by the first frame.
    """

    def __init__(self, manager: UnifiedWebSocketManager, entrance: Entrance) -> None:
        self._manager = manager
        self._entrance = entrance
        self._checked = False
        self._waiting = 0
        self._waiting_by_address: Counter[str | None] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection. What was needed to make it is not kept while it idles."""
        if not self._checked:
            self._checked = True
            if findings := check_server(scope, self._manager.limits):
                logger.warning("the server is not set safely. %s", " ".join(findings))
        if not self._entrance.allows_origin(scope):
            await _refuse_handshake(receive, send)
            return
        admitted = self._manager.admission.enter(network_of(host_of(scope)))
        if isinstance(admitted, Refusal):
            await _send_away(scope, receive, send, admitted)
            return
        try:
            connection = await self._connect(scope, receive, send, admitted)
            admitted.served()
            if connection is not None:
                await connection.serve(authenticate=_Refresh(self._entrance, scope))
        finally:
            admitted.leave()

    async def _connect(
        self, scope: Scope, receive: Receive, send: Send, admitted: Admitted
    ) -> WebSocketConnection | None:
        """From the handshake to a registered connection; None if it was refused or the client left."""
        subprotocol = PROTOCOL if PROTOCOL in scope.get("subprotocols", ()) else None
        socket = ASGISocket(scope, receive, send, subprotocol)
        try:
            await socket.accept()
            return await self._register(socket, admitted)
        except OSError as error:  # the client left; there is nobody to tell
            logger.debug("a client left during the handshake", extra={"error": type(error).__name__})
        return None

    async def _register(self, socket: ASGISocket, admitted: Admitted) -> WebSocketConnection | None:
        """Authenticate an accepted socket and connect it; None if it was closed with a code."""
        try:
            request = self._entrance.request(socket.scope)
            cursor = request.query.get("cursor")
            ticket = request.query.get("ticket")
            try:
                principal = await self._entrance.principal(request, ticket)
            except AuthenticationUnavailable:
                raise
            except AuthenticationFailed:
                if request.token is not None or ticket is not None:
                    raise
                admitted.served()  # from now on it waits for the client, which other limits bound
                frame = await self._first_frame(socket)
                cursor = frame.cursor or cursor
                principal = await self._entrance.principal(replace(request, token=frame.token), frame.ticket)
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
        except AuthenticationUnavailable:
            await _close(socket, CloseCode.OVERLOADED)
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

    async def _first_frame(self, socket: ASGISocket) -> _FirstFrame:
        """Wait for `auth {token | ticket, cursors?}`."""
        limits = self._manager.limits
        address = network_of(host_of(socket.scope))
        if self._waiting >= limits.unauthenticated:
            await _leave(socket, CloseCode.OVERLOADED)
        if address is not None and self._waiting_by_address[address] >= limits.unauthenticated_per_address:
            await _leave(socket, CloseCode.LIMIT)
        self._waiting += 1
        self._waiting_by_address[address] += 1
        try:
            text = await _receive_within(limits.auth_timeout, socket, limits)
        except TimeoutError:
            await _leave(socket, CloseCode.TIMED_OUT)
        finally:
            self._waiting -= 1
            self._waiting_by_address[address] -= 1
            if not self._waiting_by_address[address]:
                del self._waiting_by_address[address]
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
        token, ticket, cursors = frame.get("token"), frame.get("ticket"), frame.get("cursors", {})
        if frame["type"] != "auth" or [type(token), type(ticket)] not in ([str, NoneType], [NoneType, str]):
            await _leave(socket, CloseCode.NOT_AUTHENTICATED)
        if not isinstance(cursors, dict) or not isinstance(cursors.get("", ""), str):
            await _leave(socket, CloseCode.MALFORMED)
        return _FirstFrame(token, ticket, cursors.get("") or None)


class _FirstFrame(NamedTuple):
    token: str | None
    ticket: str | None
    cursor: str | None


class _Refresh:
    """Makes a principal of what came in an `auth` frame on an open socket. Raises `AuthenticationFailed`."""

    __slots__ = ("_entrance", "_scope")

    def __init__(self, entrance: Entrance, scope: Scope) -> None:
        self._entrance = entrance
        self._scope = scope

    async def __call__(self, token: str) -> Principal:
        return await self._entrance.principal(self._entrance.request(self._scope, token))

    async def by_ticket(self, ticket: str) -> Principal:
        return await self._entrance.principal(self._entrance.request(self._scope), ticket)


class _Closed(Exception):
    """The socket is closed and that is all there is to say."""


async def _receive_within(seconds: float, socket: ASGISocket, limits: Limits) -> str | CloseCode | None:
    """As `receive_frame`. Raises `TimeoutError`; what a stall of the loop took of the time is given back."""
    loop = asyncio.get_running_loop()
    over = False
    while True:
        due = loop.time() + seconds
        try:
            async with asyncio.timeout_at(due):
                return await receive_frame(socket, limits)
        except TimeoutError:
            if over:
                raise
            late = loop.time() - due
            over = late < LATE
            seconds = max(late, LAST_LOOK)  # a stall that ends just now may have left the frame unread


async def _leave(socket: ASGISocket, code: CloseCode) -> NoReturn:
    await _close(socket, code)
    raise _Closed


async def _close(socket: ASGISocket, code: CloseCode) -> None:
    await socket.close(int(code), CLOSE_RULES[code].reason)


async def _refuse_handshake(receive: Receive, send: Send) -> None:
    """Refuse before the accept: the client gets HTTP 403."""
    await receive()
    await send({"type": "websocket.close", "code": int(CloseCode.NOT_ALLOWED)})


async def _send_away(scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
    """Refuse before the accept, with an HTTP status and when to come again, where the server can send one."""
    await receive()
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": int(CloseCode.OVERLOADED)})
        return
    seconds = str(math.ceil(refusal.retry_after)).encode()
    headers = [(b"retry-after", seconds), (b"cache-control", b"no-store"), (b"content-length", b"0")]
    await send({"type": "websocket.http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": b""})
