"""The client of the comparison: picows, in the driver's process, so that it is never the bottleneck of a server."""

from __future__ import annotations

import asyncio
import time

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

MARK = b'"bench"'


class Tally:
    """What all connections of one round received."""

    def __init__(self, *, latencies: bool = False) -> None:
        self.events = 0
        self.frames = 0
        self.gaps = 0
        self.last = time.monotonic()
        self.latencies: list[int] | None = [] if latencies else None

    async def reach(self, events: int, timeout: float) -> bool:
        """Wait for so many events; False if they have not come by then."""
        deadline = time.monotonic() + timeout
        while self.events < events:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.005)
        return True

    async def quiet(self, seconds: float = 0.5) -> None:
        """Wait until nothing has come for so long."""
        while time.monotonic() - self.last < seconds:
            await asyncio.sleep(0.05)


class Listener(WSListener):  # type: ignore[misc]
    """Counts events. Answers what its protocol demands: `pong`, and Socket.IO's handshake and pings."""

    def __init__(self, tally: Tally, stack: str) -> None:
        self.tally = tally
        self.stack = stack
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: WSTransport | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        if self.stack != "ours" and self.stack != "socketio":
            self.ready.set_result(None)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
            return
        if frame.msg_type != WSMsgType.TEXT:
            return
        data = frame.get_payload_as_bytes()
        events = data.count(MARK)
        if events:
            tally = self.tally
            tally.events += events
            tally.frames += 1
            tally.last = time.monotonic()
            if tally.latencies is not None:
                self._time(data, tally.latencies)
        self._answer(transport, data)

    def _time(self, data: bytes, latencies: list[int]) -> None:
        now = time.monotonic_ns()
        at = data.find(b'"t":')
        while at >= 0:
            end = data.index(b",", at)
            latencies.append(now - int(data[at + 4 : end]))
            at = data.find(b'"t":', end)

    def _answer(self, transport: WSTransport, data: bytes) -> None:
        if self.stack == "ours":
            if not self.ready.done() and data.startswith(b'{"type":"connected"'):
                self.ready.set_result(None)
            if b'{"type":"ping"' in data:
                transport.send(WSMsgType.TEXT, b'{"type":"pong"}')
            if b'{"type":"gap"' in data:
                self.tally.gaps += 1
        elif self.stack == "socketio":
            if data[:1] == b"0":
                transport.send(WSMsgType.TEXT, b"40")
            elif data[:2] == b"40":
                self.ready.set_result(None)
            elif data[:1] == b"2":
                transport.send(WSMsgType.TEXT, b"3")


class Crowd:
    """Connections of one round, one for each user."""

    def __init__(self) -> None:
        self.transports: list[WSTransport] = []

    async def connect(
        self, stack: str, port: int, users: int, tally: Tally, *, protocol: str | None = None, first: int = 0
    ) -> None:
        """Connect `users` users, at most 50 at a time, and wait until the server has taken each in."""
        gate = asyncio.Semaphore(50)

        async def one(number: int) -> None:
            path = "/socket.io/?EIO=4&transport=websocket&" if stack == "socketio" else "/ws?"
            url = f"ws://127.0.0.1:{port}{path}token=user-{number}"
            headers = {"Sec-WebSocket-Protocol": protocol} if protocol else None
            async with gate:
                transport, listener = await ws_connect(
                    lambda: Listener(tally, stack),
                    url,
                    extra_headers=headers,
                    websocket_handshake_timeout=30,
                    read_buffer_init_size=4096,
                )
                await asyncio.wait_for(listener.ready, 30)
                self.transports.append(transport)

        await asyncio.gather(*(one(number) for number in range(first, first + users)))

    async def close(self) -> None:
        for transport in self.transports:
            transport.disconnect()
        self.transports.clear()
        await asyncio.sleep(0.1)
