"""Clients that record what they are shown: tabs that come back with their cursor, to whichever server there is.

The protocol is spoken by the `websockets` library without its own tasks, so that a process holds a thousand of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import urlencode

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from tests.redis.fleet.ledger import Place
from tests.simulation.ledger import Closed, Connecting, Received
from websocket_core.wire import PROTOCOL

OPEN_SECONDS: Final = 3.0
"""How long a handshake may take."""
LARGEST: Final = 4 * 2**20

Record = Connecting | Received | Closed


class Wire(asyncio.Protocol):
    """One WebSocket connection. `ended` is done with the close code, None if there was no close frame, when it is
    over; nothing comes after that."""

    def __init__(self, address: str, token: str, query: dict[str, str], receive: Callable[[str], None], *, v1: bool):
        self._receive = receive
        self._socket = ClientProtocol(
            parse_uri(f"ws{address[4:]}/live/ws?{urlencode(query)}"),
            subprotocols=[Subprotocol(PROTOCOL)] if v1 else None,
            max_size=LARGEST,
        )
        self._token = token
        self._transport: asyncio.Transport | None = None
        self.open = False
        self.ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        request = self._socket.connect()
        request.headers["Authorization"] = f"Bearer {self._token}"
        self._socket.send_request(request)
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._socket.receive_data(data)
        self._take()
        self._flush()

    def eof_received(self) -> None:
        self._socket.receive_eof()
        self._take()
        self._flush()

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(self._socket.close_code if self._socket.close_rcvd is not None else None)

    def _take(self) -> None:
        for event in self._socket.events_received():
            if isinstance(event, Response):
                self.open = self._socket.handshake_exc is None
            elif isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                assert event.fin, "a message in parts"
                self._receive(bytes(event.data).decode())
        if isinstance(self._socket.handshake_exc, InvalidHandshake):
            self.abort()

    def _flush(self) -> None:
        assert self._transport is not None
        for data in self._socket.data_to_send():
            if data:
                self._transport.write(data)
            elif self._transport.can_write_eof():
                self._transport.write_eof()
            if not data:
                self._transport.close()

    def send(self, text: str) -> None:
        with contextlib.suppress(Exception):  # closed meanwhile
            self._socket.send_text(text.encode())
            self._flush()

    def abort(self) -> None:
        """Go without a word, as a network does."""
        if self._transport is not None:
            self._transport.abort()


class Tab:
    """One tab of one user. `addresses` is asked at each attempt, and one of them is chosen."""

    def __init__(
        self,
        name: str,
        user: str,
        token: str,
        addresses: Callable[[], Sequence[str]],
        *,
        rng: random.Random,
        v1: bool = True,
        patience: float = 1e9,
        pause: float = 0.2,
    ) -> None:
        """Without a word for `patience` seconds it takes the server for dead; between two attempts it waits up to
        `pause` seconds, and twice as long after each that failed."""
        self.name = name
        self.user = user
        self.records: list[Record] = []
        self.cursor: str | None = None
        self.connected_to: str | None = None
        """The server that greeted it, as long as it is connected."""
        self.greeted_at = 0.0
        self.greetings = 0
        self.events = 0
        self._token = token
        self._addresses = addresses
        self._rng = rng
        self._v1 = v1
        self._patience = patience
        self._pause = pause
        self._number = 0
        self._heard_at = 0.0
        self._wire: Wire | None = None
        self._address = ""

    @property
    def place(self) -> Place | None:
        return None if self.cursor is None else Place.of(self.cursor)

    async def live(self) -> None:
        """Be connected, again and again, until this is cancelled."""
        failures = 0
        try:
            while True:
                addresses = self._addresses()
                if addresses:
                    before = self.greetings
                    await self._session(self._rng.choice(addresses))
                    failures = 0 if self.greetings > before else failures + 1
                await asyncio.sleep(self._rng.uniform(0.0, self._pause * 2 ** min(failures, 3)))
        finally:
            if self._wire is not None:
                self._wire.abort()

    def cut(self) -> None:
        """Lose the network."""
        if self._wire is not None:
            self._wire.abort()

    async def _session(self, address: str) -> None:
        loop = asyncio.get_running_loop()
        self._number += 1
        self._address = address
        query = {} if self.cursor is None else {"cursor": self.cursor}
        kind = "none" if self.cursor is None else "own"
        self.records.append(Connecting(time.monotonic(), self.name, self._number, self.user, kind, self.cursor))
        host, port = address.removeprefix("http://").split(":")
        self._heard_at = loop.time()
        code: int | None = None
        wire = self._wire = Wire(address, self._token, query, self._received, v1=self._v1)
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await loop.create_connection(lambda: wire, host, int(port))
            code = await self._until_ended(wire)
        except OSError:  # TimeoutError among them
            pass
        finally:
            wire.abort()
            self._wire = self.connected_to = None
            self.records.append(Closed(time.monotonic(), self._number, code if code is not None else 1006))

    async def _until_ended(self, wire: Wire) -> int | None:
        loop = asyncio.get_running_loop()
        while not wire.ended.done():
            patience = OPEN_SECONDS if self.connected_to is None else self._patience
            left = self._heard_at + patience - loop.time()
            if left <= 0.0:
                return None
            await asyncio.wait([wire.ended], timeout=min(left, 1.0))
        return wire.ended.result()

    def _received(self, text: str) -> None:
        now = time.monotonic()
        self._heard_at = asyncio.get_running_loop().time()
        for line in text.split("\n"):
            frame: dict[str, Any] = json.loads(line)
            self.records.append(Received(now, self._number, frame))
            kind = frame["type"]
            if "id" in frame or kind in ("connected", "gap", "ping"):
                self.cursor = frame["cursor"]
            if "id" in frame:
                self.events += 1
            elif kind == "connected":
                self.connected_to, self.greeted_at = self._address, now
                self.greetings += 1
            elif kind == "ping" and self._v1 and self._wire is not None:
                self._wire.send(json.dumps({"type": "pong", "cursor": self.cursor}))
