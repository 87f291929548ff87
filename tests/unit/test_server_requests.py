"""Requests that do not end, are too large or say two things at once, on both of uvicorn's parsers, in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from tests.support import VirtualLoop, run_in_virtual_time, turns, virtual_time
from websocket_core.server_bounds import ServerBounds
from websocket_core.server_frames import CuttableProtocol
from websocket_core.server_requests import PIPELINED, BoundedRequests, ServerConfig, request_protocol

PARSERS = ["h11", "httptools"]

GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
POST_BOTH = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"


def post(size: int | None, *, extra: bytes = b"") -> bytes:
    length = b"Transfer-Encoding: chunked" if size is None else b"Content-Length: %d" % size
    return b"POST /x HTTP/1.1\r\nHost: h\r\n" + extra + length + b"\r\n\r\n"


class Wire(asyncio.Transport):
    """A transport whose client is the test. What is written is taken at once, unless it is told to be `stuck`."""

    def __init__(self, peer: tuple[str, int] | None = ("10.0.0.1", 5)) -> None:
        super().__init__({"peername": peer, "sockname": ("10.0.0.9", 80)})
        self.loop = asyncio.get_running_loop()
        self.protocol: Any = None
        self.written = b""
        self.stuck = False
        self.reading = True
        self.ended: str | None = None
        self.ended_at = float("nan")
        self.lost = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return len(self.written) if self.stuck else 0

    def is_closing(self) -> bool:
        return self.ended is not None

    def _end(self, how: str) -> None:
        if self.ended is None:
            self.ended, self.ended_at = how, self.loop.time()

    def close(self) -> None:
        self._end("closed")
        if not self.stuck:
            self._lose()

    def abort(self) -> None:
        self._end("aborted")
        self._lose()

    def _lose(self) -> None:
        if not self.lost:
            self.lost = True
            self.loop.call_soon(lambda: self.protocol.connection_lost(None))

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return cast(asyncio.BaseProtocol, self.protocol)

    def feed(self, data: bytes) -> None:
        """What a loop would do with it: nothing arrives any more once the transport is closing."""
        if self.ended is None:
            self.protocol.data_received(data)

    @property
    def statuses(self) -> list[int]:
        return [int(part[:3]) for part in self.written.split(b"HTTP/1.1 ")[1:]]


class App:
    """Answers 200 to a request when `go` is set, after `reads` parts of its body, and notes what it saw."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.reads = 0
        self.begins = False
        self.paths: list[str] = []
        self.bodies: list[bytes] = []
        self.ends: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            self.ends.append((await receive())["type"])
            return
        start = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
        if self.begins:
            await send(start)
        body = b""
        while self.reads:
            message = await receive()
            body += message.get("body", b"")
            if message["type"] == "http.disconnect":
                self.ends.append("disconnect")
                return
            if not message["more_body"]:
                break
            self.reads -= 1
        self.bodies.append(body)
        await self.go.wait()
        if not self.begins:
            await send(start)
        await send({"type": "http.response.body", "body": b"ok"})


class Server:
    """The protocols of one server, without a server."""

    def __init__(self, parser: str, **bounds: Any) -> None:
        self.loop = asyncio.get_running_loop()
        self.app = App()
        http = request_protocol(parser)
        assert not isinstance(http, str)
        self.config = ServerConfig(
            self.app,
            bounds=ServerBounds(**bounds),
            http=http,
            ws=CuttableProtocol,
            lifespan="off",
            log_config=None,
            timeout_keep_alive=5,
            proxy_headers=False,
        )
        self.config.load()
        self.state = ServerState()

    def connect(self, data: bytes = b"", peer: tuple[str, int] | None = ("10.0.0.1", 5)) -> Wire:
        wire = Wire(peer)
        make: Any = self.config.http_protocol_class
        wire.protocol = make(config=self.config, server_state=self.state, app_state={})
        wire.protocol.connection_made(wire)
        if data:
            wire.feed(data)
        return wire

    @property
    def waiting(self) -> int:
        return int(vars(self.state)["handshakes"].waiting)

    async def drips(self, wire: Wire, data: bytes, *, every: float = 0.25) -> None:
        """Send it a byte at a time, until it is all sent or the connection is over."""
        for byte in data:
            if wire.ended:
                return
            wire.feed(bytes([byte]))
            await asyncio.sleep(every)


# -- heads


@pytest.mark.parametrize("parser", PARSERS)
@virtual_time
async def test_who_sends_nothing_is_cut_without_a_word(parser: str) -> None:
    server = Server(parser, handshake_timeout=5.0)
    wire = server.connect()
    began = server.loop.time()
    await asyncio.sleep(6.0)
    assert (wire.ended, wire.written) == ("aborted", b"")
    assert wire.ended_at - began == pytest.approx(5.0)
    assert not server.state.connections


@pytest.mark.parametrize("parser", PARSERS)
@virtual_time
async def test_who_drips_a_head_is_told_408_when_its_time_is_up(parser: str) -> None:
    server = Server(parser, handshake_timeout=5.0)
    wire = server.connect()
    began = server.loop.time()
    await server.drips(wire, b"GET /x HTTP/1.1\r\nHost: h\r\nX-Slow: " + b"x" * 1_000)
    await asyncio.sleep(0.1)
    assert wire.statuses == [408]
    assert wire.ended_at - began == pytest.approx(5.0)
    assert server.app.paths == []
    assert not server.state.connections


@pytest.mark.parametrize("parser", PARSERS)
@virtual_time
async def test_who_drips_empty_lines_has_sent_nothing(parser: str) -> None:
    server = Server(parser, handshake_timeout=5.0)
    wire = server.connect()
    began = server.loop.time()
    await server.drips(wire, b"\r\n" * 100)
    assert wire.ended is not None
    assert wire.ended_at - began < 5.1
    assert server.app.paths == []


@pytest.mark.parametrize("parser", PARSERS)
@virtual_time
async def test_a_slow_head_that_comes_in_time_is_served_and_keep_alive_goes_on_as_it_did(parser: str) -> None:
    server = Server(parser, handshake_timeout=5.0)
    wire = server.connect()
    for number in range(1, 4):
        await server.drips(wire, GET, every=0.1)
        await turns()
        assert wire.statuses == [200] * number
        await asyncio.sleep(4.0)
        assert wire.ended is None
    answered = server.loop.time() - 4.0
    await asyncio.sleep(2.0)
    assert wire.ended == "closed"
    assert wire.ended_at - answered == pytest.approx(5.0, abs=0.3), "uvicorn's own time-out"
    assert wire.statuses == [200] * 3, "no 408 for a client that was idle"


@pytest.mark.parametrize("rest", [GET[:-2], b"\r\n" * 20, b"G"])
@pytest.mark.parametrize("parser", PARSERS)
@virtual_time
async def test_the_next_request_on_a_connection_has_a_deadline_as_well(parser: str, rest: bytes) -> None:
    """uvicorn's own time-out ends with the first byte, whatever it is."""
    server = Server(parser, handshake_timeout=5.0)
    wire = server.connect(GET)
    await turns()
    await asyncio.sleep(4.0)
    began = server.loop.time()
    await server.drips(wire, rest, every=0.2)
    await asyncio.sleep(6.0)
    assert wire.ended is not None
    assert wire.ended_at - began < 5.1
    assert wire.statuses in ([200, 408], [200, 400], [200])


@pytest.mark.parametrize("parser", PARSERS)
@virtual_time
async def test_a_long_answer_is_not_cut_short_by_the_beginning_of_the_next_request(parser: str) -> None:
    server = Server(parser, handshake_timeout=2.0)
    server.app.go.clear()
    wire = server.connect(GET)
    await turns()
    wire.feed(GET[:10])
    await asyncio.sleep(30.0)
    assert wire.ended is None
    server.app.go.set()
    await turns()
    assert wire.statuses == [200]
    await asyncio.sleep(2.5)
    assert wire.statuses == [200, 408], "from the end of the answer on, it is owed"


@pytest.mark.parametrize("parser", PARSERS)
@virtual_time
async def test_above_the_bound_the_newest_connection_is_refused_and_those_who_are_served_do_not_count(
    parser: str,
) -> None:
    server = Server(parser, pending=2)
    served = [server.connect(GET, None), server.connect(UPGRADE, None)]
    await turns()
    silent = [server.connect(peer=None) for _ in range(3)]
    assert [wire.ended for wire in (*served, *silent)] == [None, None, None, None, "aborted"]
    silent[0].feed(GET)
    await turns()
    assert silent[0].statuses == [200]
    assert server.connect(peer=None).ended is None
    await asyncio.sleep(20.0)
    assert server.waiting == 0
    served[1].abort()
    await turns()


@pytest.mark.parametrize("parser", PARSERS)
@virtual_time
async def test_those_who_have_left_take_no_place(parser: str) -> None:
    server = Server(parser, pending=2)
    for data in (b"", GET[:10], GET, post(5), b"nonsense\r\n\r\n"):
        for _ in range(3):
            server.connect(data, None).abort()
            await turns()
    assert server.waiting == 0
    assert server.connect(peer=None).ended is None
    await asyncio.sleep(10.0)


@pytest.mark.parametrize("parser", PARSERS)
@virtual_time
async def test_what_still_arrives_after_a_refusal_is_not_read(parser: str) -> None:
    server = Server(parser)
    wire = server.connect(POST_BOTH)
    assert wire.statuses == [400]
    wire.protocol.data_received(GET)
    await turns()
    assert wire.statuses == [400]
    assert server.app.paths == []


@pytest.mark.parametrize("parser", PARSERS)
@virtual_time
async def test_the_connections_of_one_address_are_bounded(parser: str) -> None:
    server = Server(parser, pending_per_address=2)
    wires = [server.connect(peer=(host, 5)) for host in ("10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.2")]
    await asyncio.sleep(2.0)
    assert [wire.ended for wire in wires] == [None, None, "aborted", None]
    await asyncio.sleep(10.0)
    await turns()
    assert not server.state.connections


@virtual_time
async def test_the_descriptors_of_the_process_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    for soft, left in ((20, 10), (resource.RLIM_INFINITY, 30)):
        monkeypatch.setattr(resource, "getrlimit", lambda _what, soft=soft: (soft, 10**6))
        server = Server("h11")
        assert sum(server.connect(peer=None).ended is None for _ in range(30)) == left
        await asyncio.sleep(10.0)


@virtual_time
async def test_proxies_that_are_believed_are_not_counted_as_one_address() -> None:
    server = Server("h11", pending_per_address=1)
    server.config.proxy_headers, server.config.forwarded_allow_ips = True, "10.0.0.0/8"
    wires = [server.connect(peer=(host, 5)) for host in ("10.0.0.1", "10.0.0.1", "192.0.2.1", "192.0.2.1")]
    await asyncio.sleep(2.0)
    assert [wire.ended for wire in wires] == [None, None, None, "aborted"]
    await asyncio.sleep(10.0)


@pytest.mark.parametrize("parser", PARSERS)
@virtual_time
async def test_an_upgrade_is_handed_over_and_owes_nothing_more(parser: str) -> None:
    server = Server(parser, handshake_timeout=2.0)
    wire = server.connect(UPGRADE)
    await turns()
    assert wire.statuses == [101]
    assert isinstance(wire.protocol, CuttableProtocol)
    assert server.waiting == 0
    await asyncio.sleep(10.0)
    assert wire.ended is None
    wire.abort()
    await turns()


@pytest.mark.parametrize("parser", PARSERS)
@virtual_time
async def test_a_refusal_that_is_not_taken_does_not_keep_the_connection(parser: str) -> None:
    server = Server(parser, handshake_timeout=2.0)
    wire = server.connect(GET[:10])
    wire.stuck = True
    await asyncio.sleep(2.1)
    assert (wire.ended, wire.lost) == ("closed", False)
    await asyncio.sleep(1.1)
    assert wire.lost


@pytest.mark.parametrize("data", [b"", GET, POST_BOTH, b"nonsense\r\n\r\n", GET[:10]])
@pytest.mark.parametrize("parser", PARSERS)
@virtual_time
async def test_a_shutdown_ends_connections_in_any_state(parser: str, data: bytes) -> None:
    server = Server(parser)
    wire = server.connect()
    wire.stuck = True
    if data:
        wire.feed(data)
    await turns()
    wire.protocol.shutdown()
    wire.stuck = False
    wire.abort()
    await turns()
    assert not server.state.connections


# -- bodies


@pytest.mark.parametrize("size", [100, None])
@pytest.mark.parametrize("parser", PARSERS)
@virtual_time
async def test_a_dripping_body_is_cut_and_the_application_is_told(parser: str, size: int | None) -> None:
    server = Server(parser, body_timeout=10.0)
    server.app.reads = 10_000
    wire = server.connect(post(size))
    began = server.loop.time()
    await turns()
    await server.drips(wire, b"x" * 99 if size else b"1\r\nx\r\n" * 50)
    await turns()
    assert wire.statuses == [408]
    assert wire.ended_at - began == pytest.approx(10.0)
    assert server.app.ends == ["disconnect"]


@pytest.mark.parametrize("parser", PARSERS)
@virtual_time
async def test_a_body_that_comes_at_a_fair_pace_may_take_long(parser: str) -> None:
    server = Server(parser, body_timeout=10.0)
    server.app.reads = 10_000
    wire = server.connect(post(60 * 2_000))
    for _ in range(60):
        await asyncio.sleep(1.0)
        wire.feed(b"x" * 2_000)
    await turns()
    assert wire.statuses == [200]
    assert server.app.bodies == [b"x" * 120_000]
    await asyncio.sleep(6.0)


@pytest.mark.parametrize("parser", PARSERS)
@virtual_time
async def test_an_application_that_does_not_read_is_not_the_clients_fault(parser: str) -> None:
    server = Server(parser, body_timeout=10.0)
    server.app.go.clear()
    waits_for_100 = server.connect(post(5, extra=b"Expect: 100-continue\r\n"))
    held_up = server.connect(post(200_000))
    held_up.feed(b"x" * 100_000)
    assert not held_up.reading
    await asyncio.sleep(60.0)
    assert (waits_for_100.ended, held_up.ended) == (None, None)
    held_up.abort()
    waits_for_100.abort()
    server.app.go.set()
    await turns()


@pytest.mark.parametrize("parser", PARSERS)
@virtual_time
async def test_a_body_that_ends_after_its_answer_does_not_keep_the_connection(parser: str) -> None:
    """uvicorn stops its time-out with the last bytes of the body, and begins no other."""
    server = Server(parser, handshake_timeout=5.0)
    wire = server.connect(post(10))
    await turns()
    assert wire.statuses == [200]
    await asyncio.sleep(1.0)
    wire.feed(b"x" * 10)
    await asyncio.sleep(5.1)
    assert wire.ended is not None


@pytest.mark.parametrize("parser", PARSERS)
@virtual_time
async def test_a_body_that_never_ends_after_its_answer_does_not_keep_the_connection(parser: str) -> None:
    server = Server(parser, body_timeout=10.0)
    wire = server.connect(post(1_000))
    began = server.loop.time()
    await turns()
    await server.drips(wire, b"x" * 999)
    assert wire.ended_at - began <= 10.1
    assert wire.statuses in ([200], [200, 408])


# -- size


def with_headers(count: int, size: int = 1) -> bytes:
    return b"GET /x HTTP/1.1\r\nHost: h\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"v" * size) for n in range(count))


TOO_LARGE = {
    "one field": with_headers(1, 40_000) + b"\r\n",
    "many fields": with_headers(128) + b"\r\n",
    "fields that are large together": with_headers(50, 700) + b"\r\n",
    "the target": b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
    "the query": b"GET /?" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
    "an endless field": with_headers(1, 200_000),
    "an endless name": b"GET /x HTTP/1.1\r\n" + b"x" * 200_000,
    "an endless target": b"GET /" + b"x" * 200_000,
    "fields without end": with_headers(20_000),
}


@pytest.mark.parametrize("step", [1_000, 65_536, 1_000_000])
@pytest.mark.parametrize("what", TOO_LARGE)
@pytest.mark.parametrize("parser", PARSERS)
@virtual_time
async def test_a_head_that_is_too_large_is_refused(parser: str, what: str, step: int) -> None:
    server = Server(parser)
    wire = server.connect()
    data = TOO_LARGE[what]
    for at in range(0, len(data), step):
        wire.feed(data[at : at + step])
    assert wire.statuses == [431]
    assert wire.ended == "closed"
    assert server.app.paths == []
    await turns()


@pytest.mark.parametrize("parser", PARSERS)
@virtual_time
async def test_a_head_of_the_largest_size_is_served(parser: str) -> None:
    server = Server(parser)
    for data in (with_headers(127) + b"\r\n", with_headers(40, 780) + b"\r\n"):
        for step in (100, 100_000):
            wire = server.connect()
            for at in range(0, len(data), step):
                wire.feed(data[at : at + step])
            await turns()
            assert wire.statuses == [200]
            wire.abort()
    await turns()


@pytest.mark.parametrize("parser", PARSERS)
@virtual_time
async def test_the_size_of_a_head_is_counted_for_each_request(parser: str) -> None:
    server = Server(parser)
    wire = server.connect()
    for number in range(1, 6):
        wire.feed(with_headers(100, 200) + b"\r\n")
        await turns()
        assert wire.statuses == [200] * number
    wire.feed(with_headers(1, 40_000) + b"\r\n")
    assert wire.statuses == [200] * 5 + [431]
    await turns()


@virtual_time
async def test_only_so_many_requests_wait_for_the_answer_to_the_one_before() -> None:
    server = Server("httptools")
    server.app.go.clear()
    fits, does_not = server.connect(GET * (PIPELINED + 1)), server.connect(GET * (PIPELINED + 2))
    await turns()
    assert (fits.ended, does_not.ended) == (None, "closed")
    assert does_not.written == b"", "an answer is owed first"
    server.app.go.set()
    await turns(200)
    assert fits.statuses == [200] * (PIPELINED + 1)
    fits.abort()
    await turns()


# -- two things at once


LENGTH, CHUNKS = b"Content-Length: 4\r\n", b"Transfer-Encoding: chunked\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: h\r\n"
AMBIGUOUS = {
    "length and chunks": POST_BOTH,
    "chunks and length": POST + CHUNKS + LENGTH + b"\r\n0\r\n\r\n",
    "two lengths": POST + LENGTH + b"Content-Length: 5\r\n\r\nabcd",
    "two codings": POST + CHUNKS + b"Transfer-Encoding: x\r\n\r\n0\r\n\r\n",
    "two hosts": b"GET /x HTTP/1.1\r\nHost: h\r\nHost: evil\r\n\r\n",
    "no host": b"GET /x HTTP/1.1\r\n\r\n",
    "two hosts and an upgrade": UPGRADE.replace(b"Host: h\r\n", b"Host: h\r\nHost: evil\r\n"),
    "an upgrade in HTTP/1.0": UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "an upgrade with a body": UPGRADE[:-2] + LENGTH + b"\r\nhello",
    "an upgrade in chunks": UPGRADE[:-2] + CHUNKS + b"\r\n0\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2 as if it were HTTP/1": b"GET /x HTTP/2.0\r\nHost: h\r\n\r\n",
    "a target that is not ASCII": b"GET /x?a=\xff HTTP/1.1\r\nHost: h\r\n\r\n",
}


@pytest.mark.parametrize("what", AMBIGUOUS)
@pytest.mark.parametrize("parser", PARSERS)
@virtual_time
async def test_a_request_that_two_servers_could_understand_differently_is_refused(parser: str, what: str) -> None:
    server = Server(parser)
    wire = server.connect(AMBIGUOUS[what])
    await turns()
    assert wire.statuses == [400]
    assert wire.ended is not None
    assert server.app.paths == []


@pytest.mark.parametrize("parser", PARSERS)
@virtual_time
async def test_an_old_client_is_served_without_a_host(parser: str) -> None:
    wire = Server(parser).connect(b"GET /x HTTP/1.0\r\n\r\n")
    await turns()
    assert wire.statuses == [200]


@pytest.mark.parametrize("parser", PARSERS)
@virtual_time
async def test_a_malformed_body_puts_no_second_answer_into_one_that_has_begun(parser: str) -> None:
    server = Server(parser)
    server.app.begins, server.app.reads = True, 10_000
    wire = server.connect(post(None))
    await turns()
    wire.feed(b"not a chunk\r\n")
    await turns()
    assert wire.statuses == [200]
    assert wire.ended == "closed"


@pytest.mark.parametrize("parser", PARSERS)
@virtual_time
async def test_an_upgrade_does_not_take_the_place_of_an_answer_that_is_owed(parser: str) -> None:
    server = Server(parser)
    server.app.go.clear()
    wire = server.connect(GET + UPGRADE)
    await turns()
    assert not isinstance(wire.protocol, CuttableProtocol)
    assert b"101" not in wire.written
    server.app.go.set()
    await turns()
    wire.abort()
    await turns()


# -- anything at all

PIECES = [
    GET, UPGRADE, post(5), post(None), b"5\r\nhello\r\n", b"0\r\n\r\n", b"hello", b"\r\n", b"\n", b"\r", b" ", b"\x00",
    b"\xff", b"GET", b"HTTP/1.1", b"Host: h\r\n", b"Content-Length: 3\r\n", b"Connection: close\r\n", b"x" * 300,
    b"Upgrade: h2c\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x81\x80\0\0\0\0", b"Expect: 100-continue\r\n",
]  # fmt: skip


@pytest.mark.parametrize("parser", PARSERS)
@given(
    pieces=st.lists(st.one_of(st.sampled_from(PIECES), st.binary(min_size=1, max_size=20)), max_size=12),
    begins=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_nothing_that_is_sent_makes_a_protocol_fail_or_keeps_its_connection(
    parser: str, pieces: list[bytes], begins: bool
) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        failed: list[Any] = []
        loop.set_exception_handler(lambda _loop, context: failed.append(context))
        server = Server(parser, handshake_timeout=2.0, body_timeout=3.0)
        server.app.begins, server.app.reads = begins, 100
        wire = server.connect()
        for piece in pieces:
            wire.feed(piece)
            await asyncio.sleep(0.1)
        if isinstance(wire.protocol, CuttableProtocol):
            wire.abort()
        await asyncio.sleep(30.0)
        assert wire.lost
        assert not failed
        assert server.waiting == 0
        assert not server.state.connections
        assert not server.state.tasks

    run_in_virtual_time(run())


# -- which protocol


def test_a_name_that_uvicorn_knows_is_that_parser_with_bounds() -> None:
    for name in ("auto", "httptools"):
        assert getattr(request_protocol(name), "__name__", "") == "BoundedHttpTools"
    assert getattr(request_protocol("h11"), "__name__", "") == "BoundedH11"
    assert request_protocol("zttp") == "zttp"
    for name in ("auto", "h11", "httptools"):
        found = request_protocol(name)
        assert isinstance(found, type)
        assert issubclass(found, BoundedRequests)


@virtual_time
async def test_another_configuration_of_uvicorn_gets_the_default_bounds() -> None:
    http: Any = request_protocol("h11")
    config = uvicorn.Config(App(), lifespan="off", log_config=None, http=http)
    config.load()
    protocol = http(config, ServerState(), {})
    wire = Wire()
    wire.protocol = protocol
    protocol.connection_made(wire)
    assert isinstance(asyncio.get_running_loop(), VirtualLoop)
    await asyncio.sleep(5.1)
    assert wire.ended == "aborted"
