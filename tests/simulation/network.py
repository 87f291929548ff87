"""An in-memory network of byte streams, with the faults of a real one.

A `Link` joins a client and a server with one `Pipe` in each direction. Bytes arrive after a latency, in pieces of any
size, never out of order within a link and in any order between links. A link can stall, go dead without a word (half
open), be reset, also in the middle of a WebSocket frame, and it holds only so many bytes: behind a reader who does not
read, the writer's buffer fills and its protocol is paused, as with TCP.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from tests.simulation.loop import SimLoop

TICK: Final = 1e-6
"""Between two deliveries of one pipe. Timers that are due at the same moment run in no particular order."""


TEXT: Final = 0x81
CLOSE: Final = 0x88
"""How a frame of that kind begins."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What one client's network is like. Seconds and bytes."""

    latency: float = 0.02
    jitter: float = 0.01
    fragments: float = 0.2
    """How probably a piece that arrives is split."""
    capacity: int = 16_384
    """How much is under way at most, in each direction."""
    high_water: int = 65_536
    """Above it a writer's protocol is paused."""


class FrameMeter:
    """Follows a server's bytes and knows whether they stop inside a WebSocket frame."""

    __slots__ = ("_head", "_left", "frames", "upgraded")

    def __init__(self) -> None:
        self._head = bytearray()
        self._left = 0
        self.upgraded = False
        self.frames = 0

    @property
    def inside(self) -> bool:
        return self.upgraded and (self._left > 0 or len(self._head) > 0)

    def feed(self, data: bytes) -> None:
        at, size = 0, len(data)
        while at < size:
            if self._left:
                step = min(self._left, size - at)
                self._left -= step
                at += step
                self.frames += not self._left
                continue
            self._head.append(data[at])
            at += 1
            if self.upgraded:
                self._begin()
            elif data[at - 1] == 10 and self._head.endswith(b"\r\n\r\n"):
                self.upgraded = self._head.startswith(b"HTTP/1.1 101")
                self._head.clear()

    def _begin(self) -> None:
        head = self._head
        if len(head) < 2:
            return
        short = head[1] & 0x7F
        extra = {126: 2, 127: 8}.get(short, 0)
        if len(head) < 2 + extra:
            return
        self._left = int.from_bytes(head[2:], "big") if extra else short
        self.frames += not self._left
        head.clear()


class Pipe:
    """One direction of a link."""

    def __init__(self, link: Link, sender: SimTransport, receiver: SimTransport) -> None:
        self._link = link
        self._sender = sender
        self._receiver = receiver
        self._segments: deque[tuple[float, bytes, bool]] = (
            deque()
        )  # with whether it may be split; empty ends the stream
        self._timer: asyncio.TimerHandle | None = None
        self._last = 0.0
        self.held = 0
        self.stalled_until = 0.0
        self.stall_bit = False
        self.dead = False
        self.cut_inside = False

    @property
    def room(self) -> int:
        return self._link.conditions.capacity - self.held

    def push(self, data: bytes) -> None:
        conditions = self._link.conditions
        net = self._link.net
        delay = conditions.latency + net.rng.random() * conditions.jitter
        self._last = max(self._last + TICK, net.loop.time() + delay)
        self._segments.append((self._last, data, True))
        self.held += len(data)
        self.schedule()

    def schedule(self) -> None:
        receiver = self._receiver
        if self._timer is not None or not self._segments or self.dead or receiver.reading_paused:
            return
        when = max(self._segments[0][0], self.stalled_until, self._link.net.loop.time() + TICK)
        self._timer = self._link.net.loop.call_at(when, self._deliver, context=receiver.context)

    def _waiting(self, now: float) -> bytes:
        """What has come meanwhile, for a receiver that comes late: one read finds all of it."""
        waiting = bytearray()
        while self._segments and self._segments[0][0] <= now and self._segments[0][1]:
            waiting += self._segments.popleft()[1]
        return bytes(waiting)

    def clear(self) -> None:
        self._segments.clear()
        self.held = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _deliver(self) -> None:
        self._timer = None
        net = self._link.net
        if self.dead or self._receiver.reading_paused:
            return
        if net.loop.time() < self.stalled_until:
            if not self.stall_bit:
                self.stall_bit = True
                net.faults["stall"] += 1
            self.schedule()
            return
        self.stall_bit = False
        arrival, data, whole = self._segments.popleft()
        late = net.loop.time() > arrival + TICK
        if late and data:
            data += self._waiting(net.loop.time())
        splits = whole and not late and net.rng.random() < self._link.conditions.fragments
        if len(data) > 1 and (self.cut_inside or splits):
            size = net.rng.randrange(1, len(data))
            self._segments.appendleft((net.loop.time() + TICK, data[size:], net.rng.random() < 0.3))
            data = data[:size]
            net.faults["fragment"] += 1
        self.held -= len(data)
        net.record(self._link.number, self._sender.is_server, data)
        meter = self._link.meter
        if self._sender.is_server:
            meter.feed(data)
        if not data:
            self._receiver.end_of_stream()
        else:
            self._receiver.arrived(data)
            self._sender.flush()
        if self.cut_inside and meter.inside:
            self.cut_inside = False
            self._link.cut()
        else:
            self.schedule()


class SimTransport(asyncio.Transport):
    """One end of a link."""

    def __init__(self, link: Link, *, is_server: bool) -> None:
        super().__init__({"peername": (link.name, link.number), "sockname": ("server", 80)})
        self.is_server = is_server
        self.context = link.net.loop.inside if is_server else link.net.loop.outside
        """Where its protocol is called: a server that stands still is told nothing, and a client is."""
        self.reading_paused = False
        self.protocol: Any = None
        self.lost = False
        self.spoke = False
        """Whether a text frame was written."""
        self.said_goodbye = False
        """Whether a close frame was written."""
        self._link = link
        self._buffer = bytearray()
        self._closing = False
        self._ended = False
        self._eof_wanted = False
        self._paused = False
        self._high = link.conditions.high_water
        self._low = self._high // 4

    @property
    def _out(self) -> Pipe:
        return self._link.down if self.is_server else self._link.up

    @property
    def _into(self) -> Pipe:
        return self._link.up if self.is_server else self._link.down

    def get_protocol(self) -> Any:
        return self.protocol

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return not self.reading_paused

    def pause_reading(self) -> None:
        self.reading_paused = True

    def resume_reading(self) -> None:
        self.reading_paused = False
        self._into.schedule()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = self._link.conditions.high_water if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._eof_wanted = True
        self.flush()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.lost or self._closing or self._eof_wanted or not data:
            return
        if self.is_server:  # which writes whole frames
            self.spoke = self.spoke or data[0] == TEXT
            self.said_goodbye = self.said_goodbye or data[0] == CLOSE
        self._buffer += data
        self.flush()
        if len(self._buffer) > self._high and not self._paused and not self.lost:
            self._paused = True
            if self.is_server:
                self._link.net.faults["slow_reader"] += 1
            self.protocol.pause_writing()

    def writelines(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def flush(self) -> None:
        """Hand on what the pipe has room for."""
        if self.lost:
            return
        # Not for a few bytes of room, or small pieces would breed smaller ones (the silly window of TCP).
        while self._buffer and (room := self._out.room) >= min(len(self._buffer), self._link.conditions.capacity // 2):
            self._out.push(bytes(self._buffer[:room]))
            del self._buffer[:room]
        if self._paused and len(self._buffer) <= self._low:
            self._paused = False
            self.protocol.resume_writing()
        if not self._buffer and (self._closing or self._eof_wanted) and not self._ended:
            self._ended = True
            self._out.push(b"")
        if not self._buffer and self._closing:
            self.lose(None)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self.flush()

    def abort(self) -> None:
        if not self.lost:
            self._link.reset(self)

    def arrived(self, data: bytes) -> None:
        if self.lost:
            self._link.reset(self)  # nobody is there: the sender is told so
        elif not self._closing:
            self.protocol.data_received(data)

    def end_of_stream(self) -> None:
        if not self.lost and not self._closing and not self.protocol.eof_received():
            self.close()

    def lose(self, error: Exception | None) -> None:
        """The connection is over for this end."""
        if self.lost:
            return
        self.lost = self._closing = True
        self._buffer.clear()
        if self.protocol is not None:
            self._link.net.loop.call_soon(self.protocol.connection_lost, error, context=self.context)
        self._link.end_left()


class Link:
    """A connection between a client and a server."""

    def __init__(self, net: Network, number: int, name: str, conditions: Conditions, session: int = 0) -> None:
        self.net = net
        self.number = number
        self.name = name
        self.session = session
        """What its client calls it."""
        self.conditions = conditions
        self.meter = FrameMeter()
        self.client = SimTransport(self, is_server=False)
        self.server = SimTransport(self, is_server=True)
        self.up = Pipe(self, self.client, self.server)
        self.down = Pipe(self, self.server, self.client)

    @property
    def half_open(self) -> bool:
        return self.client.lost and not self.server.lost and self.down.dead

    @property
    def in_service(self) -> bool:
        """Whether the server has sent something to a client that it let in, and has neither closed it nor cut it."""
        server = self.server
        return server.spoke and not (server.said_goodbye or server.lost or server.is_closing())

    def end_left(self) -> None:
        if self.client.lost and self.server.lost:
            self.net.links.pop(self.number, None)

    def reset(self, by: SimTransport) -> None:
        """One end resets: it is gone at once, the other learns it after the latency; what is under way is lost."""
        other = self.client if by is self.server else self.server
        if not by.lost:
            by.lose(None)
        self._break(other)

    def cut(self) -> None:
        """Something in the middle resets the connection."""
        if self.net.links.get(self.number) is not self:
            return
        kind = "cut" if self.meter.upgraded else "cut_handshake"
        self.net.faults[kind] += 1
        if self.meter.inside:
            self.net.faults["cut_mid_frame"] += 1
        self._break(self.client)
        self._break(self.server)

    def _break(self, end: SimTransport) -> None:
        pipe = end._into
        if pipe.dead:
            return  # a reset does not pass through a dead link either
        pipe.clear()
        pipe.dead = True
        delay = self.conditions.latency + self.net.rng.random() * self.conditions.jitter
        error = ConnectionResetError("connection reset by peer")
        self.net.loop.call_later(delay, end.lose, error, context=end.context)

    def stall(self, seconds: float) -> None:
        """Nothing arrives for a while, in either direction."""
        until = self.net.loop.time() + seconds
        for pipe in (self.up, self.down):
            pipe.stalled_until = max(pipe.stalled_until, until)

    def vanish(self) -> None:
        """The client is gone without a word, and the server is not told: half open."""
        if self.net.links.get(self.number) is not self or self.server.lost or self.up.dead:
            return
        self.net.faults["half_open"] += 1
        self.up.clear()
        self.up.dead = self.down.dead = True
        self.client.lose(ConnectionAbortedError("the client died"))

    def heal(self) -> None:
        """The client's host is back and knows nothing of this connection."""
        if not self.server.lost:
            self.server.lose(ConnectionResetError("connection reset by peer"))


class SimServer:
    """What `loop.create_server` returns."""

    def __init__(self, net: Network, address: tuple[str, int]) -> None:
        self._net = net
        self._address = address
        self.sockets: list[Any] = []

    def close(self) -> None:
        self._net.listeners.pop(self._address, None)

    async def wait_closed(self) -> None:
        """Closing takes no time."""


class Network:
    """All links, and who listens where."""

    def __init__(
        self, loop: SimLoop, rng: random.Random, record: Callable[[int, bool, bytes], None] | None = None
    ) -> None:
        self.loop = loop
        self.rng = rng
        self.record = record or (lambda _number, _down, _data: None)
        self.faults: Counter[str] = Counter()
        self.links: dict[int, Link] = {}
        self.listeners: dict[tuple[str, int], Callable[[], Any]] = {}
        self.conditions: dict[str, Conditions] = {}
        self.connected = 0
        loop.network = self

    def listen(self, factory: Callable[[], Any], host: str, port: int) -> SimServer:
        self.listeners[host, port] = factory
        return SimServer(self, (host, port))

    async def connect(
        self, factory: Callable[[], Any], host: str, port: int, name: str, session: int = 0
    ) -> tuple[SimTransport, Any]:
        self.connected += 1
        link = Link(self, self.connected, name, self.conditions.get(name, Conditions()), session)
        delay = link.conditions.latency
        await asyncio.sleep(delay + self.rng.random() * link.conditions.jitter)
        listener = self.listeners.get((host, port))
        if listener is None:
            self.faults["refused"] += 1
            raise ConnectionRefusedError("nobody listens there")
        link.conditions = self.conditions.get(name, Conditions())  # which may have become good ones meanwhile
        server = link.server.protocol = listener()
        self.links[link.number] = link
        self.loop.call_soon(server.connection_made, link.server, context=link.server.context)
        try:
            await asyncio.sleep(delay)
        except asyncio.CancelledError:
            link.reset(link.client)
            raise
        if link.client.lost:
            raise ConnectionResetError("connection reset by peer")
        client = link.client.protocol = factory()
        client.connection_made(link.client)
        return link.client, client

    def links_of(self, name: str) -> list[Link]:
        return [link for link in self.links.values() if link.name == name]

    def heal(self) -> None:
        """End every fault: what stalled flows, and every network is a good one."""
        self.conditions.clear()
        for link in list(self.links.values()):
            link.conditions = Conditions()
            link.server.flush()
            link.up.stalled_until = link.down.stalled_until = 0.0
            for pipe in (link.up, link.down):
                pipe.schedule()
