"""What a client sends on an open socket: received, parsed, and answered with `ack`, `error` or a close code."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from websocket_core.errors import (
    AuthenticationFailed,
    AuthenticationUnavailable,
    FrameRefused,
    LogUnavailable,
    MalformedCursor,
    MalformedFrame,
)
from websocket_core.identity import Principal, UserId
from websocket_core.limits import Limits
from websocket_core.log import Position
from websocket_core.pacing import Allowance
from websocket_core.wire import PLAIN, PROTOCOL, CloseCode, decode_cursor, parse_frame

logger = logging.getLogger(__name__)

MALFORMED_FRAMES: Final = 10
"""So many malformed frames in a row close the socket."""
REQUEST_ID_CHARACTERS: Final = 128
SERVER_EXTENSION: Final = "unified_websocket"
"""The ASGI extension of `websocket_core.server`. Its `abort()` cuts the socket at once, which no ASGI message can;
`register(manager)` has that manager drained when the server is told to stop."""


class Peer(Protocol):
    """The connection, as far as answering a frame needs it."""

    @property
    def user_id(self) -> UserId: ...

    @property
    def principal(self) -> Principal: ...

    @property
    def connection_id(self) -> str: ...

    @property
    def cursor(self) -> str | None: ...

    def send_control(self, frame_type: str, /, **fields: object) -> None: ...

    def close(self, code: CloseCode) -> None: ...

    async def heard(self) -> None:
        """Note that the client is there. Returns when there is room for the answer."""
        ...

    async def wait_closed(self) -> None: ...

    def compare(self, claimed: Position) -> None:
        """Take note of where in the user's own log the client says that it stands."""
        ...

    async def permitted(self) -> bool:
        """Whether the deny-list lets the principal of the connection be here. Raises `LogUnavailable`."""
        ...

    def renew(self, principal: Principal) -> float | None:
        """Take a newer principal of the same user; how many seconds it has left."""
        ...


FrameHandler = Callable[[Peer, Mapping[str, Any]], Awaitable[Mapping[str, Any] | None]]
"""Answers one type of client frame: its result goes into the `ack`; it refuses by raising `FrameRefused`."""

Authenticate = Callable[[str], Awaitable[Principal]]
"""Makes a principal of a token that came on an open socket; raises `AuthenticationFailed`. One that takes tickets as
well has a method `by_ticket` of the same kind."""


async def accept_socket(socket: object) -> None:
    """Accept the socket if that has not happened yet. Starlette's sockets tell; others are taken as accepted."""
    source: Any = socket
    if getattr(getattr(source, "application_state", None), "name", None) == "CONNECTING":
        await source.accept()


def protocol_of(socket: object) -> str:
    """What a connection speaks over this socket, by the subprotocol that was accepted, where the socket knows it."""
    return PROTOCOL if getattr(socket, "subprotocol", None) == PROTOCOL else PLAIN


def _offered(socket: object, name: str) -> Callable[..., None] | None:
    """What the server below this socket offers by our extension; sockets of ours and of Starlette know their scope."""
    extensions = (getattr(socket, "scope", None) or {}).get("extensions") or {}
    offer: Callable[..., None] | None = extensions.get(SERVER_EXTENSION, {}).get(name)
    return offer


def register_with_server(socket: object, manager: object) -> None:
    """Tell the server below this socket, if it asks, to drain the manager before it stops."""
    register = _offered(socket, "register")
    if register is not None:
        register(manager)


def cut_socket(socket: object) -> bool:
    """Cut the socket at once, without a word to the client; False if the server below it offers no way to."""
    abort = _offered(socket, "abort")
    if abort is None:
        return False
    abort()
    return True


async def receive_frame(socket: object, limits: Limits) -> str | CloseCode | None:
    """The next text frame; the code to close with if the frame is not one; None when the client is gone.

    `socket` has `receive()`, which returns ASGI messages, or `receive_text()`.
    """
    source: Any = socket
    try:
        if hasattr(source, "receive"):
            message = await source.receive()
            if message["type"] == "websocket.disconnect":
                return None
            text = message.get("text")
        else:
            text = await source.receive_text()
    except Exception as error:  # sockets of any make raise anything when the client is gone
        logger.debug("a socket ended", extra={"error": type(error).__name__})
        return None
    if not isinstance(text, str):
        return CloseCode.NOT_TEXT
    return text if _size(text) <= limits.frame_bytes else CloseCode.TOO_BIG


def _size(text: str) -> int:
    """In bytes, as it came."""
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


class Inbound:
    """Answers the frames of one connection."""

    __slots__ = ("_allowance", "_handlers", "_limits", "_malformed")

    def __init__(self, handlers: Mapping[str, FrameHandler], limits: Limits) -> None:
        self._handlers = handlers
        self._limits = limits
        self._malformed = 0
        self._allowance: Allowance | None = None  # most clients of an idle socket never send anything

    async def read(self, peer: Peer, socket: object, authenticate: Authenticate | None) -> None:
        """Answer every frame that comes, until the client is gone or is to be closed."""
        while (frame := await receive_frame(socket, self._limits)) is not None:
            if not isinstance(frame, CloseCode) and not self._allows(_size(frame)):
                frame = CloseCode.LIMIT
            if isinstance(frame, CloseCode):
                peer.close(frame)
                await peer.wait_closed()
                return
            await peer.heard()
            await self.answer(peer, frame, authenticate)

    def _allows(self, size: int) -> bool:
        """Count a frame of so many bytes; False if that is too much."""
        if self._allowance is None:
            rates = self._limits.frames_per_second, self._limits.bytes_per_second
            self._allowance = Allowance(frames_per_second=rates[0], bytes_per_second=rates[1])
        return self._allowance.take(size, asyncio.get_running_loop().time())

    async def answer(self, peer: Peer, text: str, authenticate: Authenticate | None) -> None:
        """Answer one frame. Nothing that a client sends makes this raise."""
        try:
            frame = parse_frame(text, depth=self._limits.event_depth)
            request_id = frame.get("request_id")
            if request_id is not None and not (
                isinstance(request_id, str) and len(request_id) <= REQUEST_ID_CHARACTERS
            ):
                raise MalformedFrame("request_id is a string of at most 128 characters")
            claimed = _claimed_position(frame)
        except MalformedFrame as error:
            self._malformed += 1
            peer.send_control("error", code="malformed", message=str(error))
            if self._malformed >= MALFORMED_FRAMES:
                peer.close(CloseCode.MALFORMED)
            return
        self._malformed = 0
        try:
            await self._answer(peer, frame, request_id, claimed, authenticate)
        except FrameRefused as refusal:
            peer.send_control("error", code=refusal.code, message=refusal.message, request_id=request_id)
        except Exception:
            logger.exception("a client frame could not be handled")
            peer.send_control("error", code="internal", message="the frame failed", request_id=request_id)

    async def _answer(
        self,
        peer: Peer,
        frame: Mapping[str, Any],
        request_id: str | None,
        claimed: Position | None,
        authenticate: Authenticate | None,
    ) -> None:
        kind = frame["type"]
        if kind in ("ping", "pong"):
            if claimed is not None:
                peer.compare(claimed)
            if kind == "ping":
                peer.send_control("pong", cursor=peer.cursor, request_id=request_id)
        elif kind == "auth" and authenticate is not None:
            result = await _refresh(peer, frame, authenticate)
            peer.send_control("ack", request_id=request_id, result=result)
        elif (handler := self._handlers.get(kind)) is not None:
            peer.send_control("ack", request_id=request_id, result=await handler(peer, frame))
        else:
            raise FrameRefused("unknown_type", "this type of frame is not known here")


def _claimed_position(frame: Mapping[str, Any]) -> Position | None:
    """Where a `ping` or `pong` says that the client stands, if it does. Raises `MalformedFrame`."""
    cursor = frame.get("cursor") if frame["type"] in ("ping", "pong") else None
    if cursor is None:
        return None
    try:
        return decode_cursor(cursor)
    except MalformedCursor as error:
        raise MalformedFrame(str(error)) from None


async def _refresh(peer: Peer, frame: Mapping[str, Any], authenticate: Authenticate) -> Mapping[str, Any]:
    """Take a newer token of the same user."""
    token, ticket = frame.get("token"), frame.get("ticket")
    by_ticket: Authenticate | None = getattr(authenticate, "by_ticket", None)
    try:
        if isinstance(token, str) and ticket is None:
            principal = await authenticate(token)
        elif isinstance(ticket, str) and token is None and by_ticket is not None:
            principal = await by_ticket(ticket)
        else:
            raise FrameRefused("invalid", "auth carries a token or a ticket")
    except (AuthenticationUnavailable, LogUnavailable):
        raise FrameRefused("unavailable", "whether it is good cannot be told now") from None
    except AuthenticationFailed:
        raise FrameRefused("unauthenticated", "the token was not accepted") from None
    if principal.user_id != peer.user_id:
        peer.close(CloseCode.NOT_ALLOWED)
        raise FrameRefused("forbidden", "the token is for another user")
    expires_in = peer.renew(principal)
    try:
        permitted = await peer.permitted()  # asked last: an order in the log that comes later finds the new token
    except LogUnavailable:  # the new token may be revoked, and orders about the old one may have been passed over
        peer.close(CloseCode.OVERLOADED)
        raise FrameRefused("unavailable", "the token cannot be judged now") from None
    if not permitted:
        peer.close(CloseCode.REVOKED)
        raise FrameRefused("unauthenticated", "the token was not accepted")
    return {} if expires_in is None else {"expires_in": expires_in}
