"""uvicorn's WebSocket protocol, whose sockets can be cut, and on which frames that no application sees are bounded.

An application is shown messages. What they are made of costs the server as well: a million empty fragments took 3.7
seconds of the event loop, and a ping is answered before anybody hears of it.
"""

from __future__ import annotations

import asyncio
from asyncio import TimerHandle
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, ClassVar, Final

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.exceptions import InvalidState, ProtocolError
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from websocket_core.inbound import SERVER_EXTENSION
from websocket_core.lag import LATE
from websocket_core.server_bounds import Credit, ServerBounds, cut
from websocket_core.server_requests import BAD_REQUEST, answer, bounds_of
from websocket_core.wire import CLOSE_RULES, CloseCode

FLOOD_LINGER: Final = 1.0
"""Seconds that the close frame has to reach a client that was flooding."""
FRAGMENT_COST: Final = 4
"""What a control frame or a fragment costs; a message in one frame costs one, as its application counts it too."""


class Flood(Exception):
    """A client sent more frames than a socket may."""


class BoundedFrames(ServerProtocol):
    """The sans-I/O protocol of `websockets`, which gives up in the middle of what it reads when it is flooded."""

    def __init__(self, bounds: ServerBounds, clock: Callable[[], float], **options: Any) -> None:
        super().__init__(**options)
        self.debug = False  # it would log every header and frame, and with them tokens and what users say
        self._most_fragments = bounds.fragments
        self._fragments = 0
        self._credit = Credit(bounds, clock)

    def recv_frame(self, frame: Frame) -> None:
        opcode = frame.opcode
        if self.state is State.CONNECTING:
            raise ProtocolError("a frame came before the handshake was complete")
        # After our own close frame the application is shown nothing more.
        shown = frame.fin and opcode in (Opcode.TEXT, Opcode.BINARY) and self.state is State.OPEN
        if not self._credit.spend(1 if shown else FRAGMENT_COST):
            return self._flooded()
        if opcode is Opcode.CONT:
            self._fragments += 1
            if self._fragments > self._most_fragments:
                return self._flooded()
        elif opcode in (Opcode.TEXT, Opcode.BINARY):
            self._fragments = 1
        super().recv_frame(frame)

    def _flooded(self) -> None:
        """Fail the connection. That also discards what is buffered, so that the parser stops at its next step."""
        self.fail(CloseCode.LIMIT, CLOSE_RULES[CloseCode.LIMIT].reason)
        self.parser_exc = Flood()


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


class CuttableProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, whose sockets go when they should although the client takes nothing any more.

    uvicorn closes a socket when all that it buffered has been sent, which is never if the client has stopped reading.
    Here a client that answers no ping is cut, one whose application has ended is cut `close_timeout` seconds later,
    and an application may cut it at once, by the extension that `websocket_core.inbound` describes.

    A client that sends more control frames and fragments than `ServerBounds` grants is closed with 4429.
    """

    bounds_frames: ClassVar[bool] = True

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._register = getattr(server_state, "register", None)
        self._cutting: TimerHandle | None = None
        unbounded = self.conn
        unbounded.parser.close()  # a generator that waits would keep it in a cycle
        self.conn = BoundedFrames(
            bounds_of(config),
            self.loop.time,
            extensions=unbounded.available_extensions,
            max_size=config.ws_max_size,
            logger=unbounded.logger,
        )

    def run_asgi(self) -> Coroutine[Any, Any, None]:
        offers: dict[object, object] = {"abort": partial(cut, self.transport)}
        if self._register is not None:
            offers["register"] = self._register
        self.scope["extensions"][SERVER_EXTENSION] = offers
        return super().run_asgi()

    def send(self, message: Any) -> Coroutine[Any, Any, None]:
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            # uvicorn forgets it, and logs an error for everybody who is sent away with a status.
            self.handshake_complete = True
        return super().send(message)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.close_sent:
            # A header of more than 8 KB, say. uvicorn takes no notice: the client would wait for ever, and a server
            # that is stopped meanwhile would crash before the application's own shutdown.
            self.close_sent = True
            self.transport.write(b"".join(self.conn.data_to_send()) or answer(BAD_REQUEST))
            self.transport.close()

    def handle_ping(self) -> None:
        if self.writable.is_set():
            super().handle_ping()
        else:  # the client reads nothing; its pings are not to fill the buffer either
            self.conn.data_to_send()

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text" and not self.close_sent:
            text = b"".join(self.frames)
            self.frames = [text]
            if not text.isascii() and not _is_utf8(text):
                # uvicorn would log a traceback for what a client sends, and crash if the client's close came with it.
                self.frames = []
                self.conn.fail(1007)
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    def handle_parser_exception(self) -> None:
        if self.conn.close_sent is None:  # it failed before the handshake was complete, and uvicorn would crash
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
            self.close_sent = True
            self.transport.close()
            return
        super().handle_parser_exception()
        self._cut_in(FLOOD_LINGER if isinstance(self.conn.parser_exc, Flood) else self.close_timeout)

    def keepalive_timeout(self) -> None:
        assert self.ping_timeout is not None
        late = self.loop.time() - self.ping_sent_at - self.ping_timeout
        if late >= LATE:  # the loop stood still, perhaps with the answer waiting to be read
            self.ping_sent_at += 2 * late  # the next look is due then, and late only after another stall
            self.pong_timer = self.loop.call_later(late, self.keepalive_timeout)
            return
        super().keepalive_timeout()
        cut(self.transport)

    def shutdown(self) -> None:
        try:
            super().shutdown()
        except InvalidState:
            # The client has sent its close and does not take ours. uvicorn would crash here, before it has closed the
            # other sockets and before the application's own shutdown.
            cut(self.transport)

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        if not self.disconnected and self._cutting is None:
            self._cut_in(self.close_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._cutting is not None:
            self._cutting.cancel()
        super().connection_lost(exc)

    def _cut_in(self, seconds: float) -> None:
        if self._cutting is not None:
            self._cutting.cancel()
        self._cutting = self.loop.call_later(seconds, cut, self.transport)
