"""Frames that no application sees: how many a socket may send, and what becomes of those that are none."""

from __future__ import annotations

import asyncio
import logging
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState
from websockets.frames import Frame

from tests.support import run_in_virtual_time, turns, virtual_time
from tests.unit.test_server_requests import UPGRADE, Wire
from websocket_core.server_bounds import ServerBounds
from websocket_core.server_frames import FRAGMENT_COST, CuttableProtocol
from websocket_core.server_requests import ServerConfig
from websocket_core.wire import CLOSE_RULES, CloseCode

ZERO = b"\x00\x00\x00\x00"
"""A mask that changes nothing."""
LIMIT = struct.pack("!H", 4429) + b"limit reached"


def frame(opcode: int, data: bytes = b"", *, fin: bool = True) -> bytes:
    """A frame of a client, by hand, so that it may be wrong."""
    length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack("!H", len(data))
    return bytes([(0x80 if fin else 0) | opcode]) + length + ZERO + data


CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class Socket:
    """A WebSocket under uvicorn's protocol, whose client is the test."""

    def __init__(self, *, accepts: bool = True, **bounds: Any) -> None:
        self.messages: list[Any] = []
        self.accept = asyncio.Event()
        if accepts:
            self.accept.set()
        self.leave = asyncio.Event()
        config = ServerConfig(
            self.app,
            bounds=ServerBounds(**bounds),
            ws=CuttableProtocol,
            interface="asgi3",
            ws_per_message_deflate=False,
            ws_max_size=65_536,
            ws_ping_interval=None,
            lifespan="off",
            log_config=None,
            proxy_headers=False,
        )
        config.load()
        self.state = ServerState()
        self.wire = Wire()
        self.protocol = CuttableProtocol(config, self.state, {})
        self.wire.protocol = self.protocol
        self.protocol.connection_made(self.wire)
        self.parsed = 0

    async def app(self, _scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await self.accept.wait()
        await send({"type": "websocket.accept"})
        while not self.messages or self.messages[-1]["type"] != "websocket.disconnect":
            receiving = asyncio.ensure_future(receive())
            leaving = asyncio.ensure_future(self.leave.wait())
            await asyncio.wait([receiving, leaving], return_when="FIRST_COMPLETED")
            leaving.cancel()
            if not receiving.done():
                receiving.cancel()
                await send({"type": "websocket.close", "code": 1000, "reason": ""})
                return
            self.messages.append(receiving.result())

    async def open(self) -> Socket:
        self.wire.feed(UPGRADE)
        await turns()
        self.wire.written = b""
        return self

    async def end(self) -> None:
        self.wire.abort()
        self.accept.set()
        await turns()
        assert not self.state.connections
        assert not self.state.tasks

    @property
    def sent(self) -> list[tuple[int, bytes]]:
        """What the client received: opcode and payload."""
        found, data = [], self.wire.written
        while data:
            assert data[1] < 126
            end = 2 + data[1]
            found.append((data[0] & 0x0F, data[2:end]))
            data = data[end:]
        return found

    @property
    def texts(self) -> list[str]:
        return [message["text"] for message in self.messages if message.get("text") is not None]


# -- fragments


@virtual_time
async def test_a_message_may_come_in_so_many_fragments_and_no_more() -> None:
    socket = await Socket(fragments=4).open()
    for count in (1, 2, 4, 4):
        parts = [frame(TEXT, b"a", fin=count == 1)]
        parts += [frame(CONT, b"b", fin=number == count - 1) for number in range(1, count)]
        socket.wire.feed(b"".join(parts))
        await turns()
    assert socket.texts == ["a", "ab", "abbb", "abbb"]
    assert socket.sent == []
    socket.wire.feed(frame(TEXT, b"a", fin=False) + frame(CONT, b"b", fin=False) * 3 + frame(CONT, b"b"))
    await turns()
    assert socket.sent == [(CLOSE, LIMIT)]
    assert socket.wire.ended == "closed"
    assert len(socket.texts) == 4
    assert socket.messages[-1] == {"type": "websocket.disconnect", "code": 4429, "reason": "limit reached"}
    await socket.end()


@virtual_time
async def test_a_million_empty_fragments_end_the_parser_at_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = 0
    before = Frame.check

    def count(self: Frame) -> None:
        nonlocal parsed
        parsed += 1
        before(self)

    socket = await Socket().open()
    monkeypatch.setattr(Frame, "check", count)
    socket.wire.feed(frame(TEXT, fin=False) + frame(CONT, fin=False) * 1_000_000)
    assert 256 < parsed < 300, "in the middle of what was read"
    assert socket.sent == [(CLOSE, LIMIT)]
    socket.wire.feed(frame(CONT, fin=False) * 1_000)
    assert parsed < 300
    await socket.end()


@virtual_time
async def test_a_message_of_the_largest_size_is_shown_and_a_larger_one_is_1009() -> None:
    socket = await Socket().open()
    socket.wire.feed(frame(TEXT, b"x" * 65_535))
    await turns()
    assert [len(text) for text in socket.texts] == [65_535]
    socket.wire.feed(frame(TEXT, b"x" * 65_535, fin=False) + frame(CONT, b"xx"))
    assert socket.sent[0][1][:2] == struct.pack("!H", 1009)
    await socket.end()


# -- rates


@pytest.mark.parametrize("opcode", [PING, PONG, CONT])
@virtual_time
async def test_frames_that_no_application_sees_cost_more_and_run_out(opcode: int) -> None:
    socket = await Socket(wire_frames=400, fragments=100_000).open()
    first = frame(TEXT, fin=False) if opcode == CONT else b""
    socket.wire.feed(first + frame(opcode, fin=opcode != CONT) * (400 // FRAGMENT_COST - bool(first)))
    assert socket.wire.ended is None
    socket.wire.feed(frame(opcode, fin=opcode != CONT))
    await turns()
    assert socket.sent[-1] == (CLOSE, LIMIT)
    assert len([each for each in socket.sent if each[0] == PONG]) == (100 if opcode == PING else 0)
    assert socket.wire.ended is not None
    await socket.end()


@virtual_time
async def test_messages_cost_one_each() -> None:
    socket = await Socket(wire_frames=400).open()
    socket.wire.feed(frame(TEXT, b"{}") * 400)
    await turns(2_000)
    assert len(socket.texts) == 400
    socket.wire.feed(frame(TEXT, b"{}"))
    assert socket.sent == [(CLOSE, LIMIT)]
    await socket.end()


@virtual_time
async def test_a_client_that_keeps_to_the_rate_may_go_on_for_ever() -> None:
    socket = await Socket(wire_frames=100, wire_frames_per_second=40.0).open()
    for _ in range(500):
        socket.wire.feed(frame(PING, b"x"))
        await asyncio.sleep(0.1)
    assert socket.wire.ended is None
    assert socket.sent == [(PONG, b"x")] * 500
    await socket.end()


@virtual_time
async def test_after_our_close_every_frame_counts_since_nobody_is_shown_it() -> None:
    """Otherwise a client that is being closed could keep the loop busy for as long as we wait for its answer."""
    socket = await Socket(wire_frames=400).open()
    socket.leave.set()
    await turns()
    assert [each[0] for each in socket.sent] == [CLOSE]
    socket.wire.feed(frame(TEXT, b"{}") * 100)
    assert socket.wire.ended is None
    socket.wire.feed(frame(TEXT, b"{}"))
    assert socket.wire.ended == "closed"
    assert [each[0] for each in socket.sent] == [CLOSE], "one close frame and no second"
    await socket.end()


@virtual_time
async def test_who_floods_and_takes_nothing_is_cut() -> None:
    socket = await Socket(wire_frames=40).open()
    socket.wire.stuck = True
    socket.wire.written = b"x"
    socket.wire.feed(frame(PING) * 100)
    await asyncio.sleep(0.9)
    assert (socket.wire.ended, socket.wire.lost) == ("closed", False)
    await asyncio.sleep(0.2)
    assert socket.wire.lost
    await socket.end()


@virtual_time
async def test_who_breaks_the_protocol_and_takes_nothing_is_cut_as_well() -> None:
    socket = await Socket().open()
    socket.wire.stuck = True
    socket.wire.feed(b"\x83\x80" + ZERO)
    await asyncio.sleep(9.9)
    assert (socket.wire.ended, socket.wire.lost) == ("closed", False)
    await asyncio.sleep(0.2)
    assert socket.wire.lost
    await socket.end()


@virtual_time
async def test_pings_of_a_client_that_reads_nothing_are_not_answered() -> None:
    socket = await Socket().open()
    socket.protocol.pause_writing()
    socket.wire.feed(frame(PING, b"x" * 125) * 100)
    assert socket.sent == []
    socket.protocol.resume_writing()
    socket.wire.feed(frame(PING, b"y"))
    assert socket.sent == [(PONG, b"y")]
    await socket.end()


# -- the handshake


@pytest.mark.parametrize("data", [frame(PING), frame(TEXT, b"{}"), frame(CLOSE), b"\x83\x80" + ZERO, b"\xff" * 20])
@virtual_time
async def test_frames_before_the_handshake_is_complete_end_the_connection(data: bytes) -> None:
    """uvicorn would send a pong before the handshake, or fail in the middle of what it reads."""
    socket = Socket(accepts=False)
    socket.wire.feed(UPGRADE)
    await turns()
    socket.wire.feed(data)
    assert socket.wire.ended == "closed"
    assert socket.wire.written == b""
    await socket.end()


@pytest.mark.parametrize(
    "line",
    [b"Content-Length: 5", b"Transfer-Encoding: chunked", b"no field", b": x", b"X-\xff: x", b"X: \x01"],
)
@virtual_time
async def test_a_handshake_that_is_not_understood_is_answered(line: bytes) -> None:
    socket = Socket()
    socket.wire.feed(UPGRADE[:-2] + line + b"\r\n\r\n")
    assert socket.wire.statuses == [400]
    assert socket.wire.ended == "closed"
    await socket.end()


# -- text


@pytest.mark.parametrize(
    "data",
    [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"ok \xe2\x82", b"\xf8\x88\x80\x80\x80"],
)
@pytest.mark.parametrize("cut", [0, 1])
@pytest.mark.parametrize("closes", [False, True])
@virtual_time
async def test_text_that_is_no_utf8_is_1007_without_a_traceback(
    data: bytes, cut: int, closes: bool, caplog: pytest.LogCaptureFixture
) -> None:
    socket = await Socket().open()
    text = frame(TEXT, data[:cut], fin=False) + frame(CONT, data[cut:]) if cut else frame(TEXT, data)
    socket.wire.feed(text + (frame(CLOSE, struct.pack("!H", 1000)) if closes else b""))
    await turns()
    [(opcode, payload)] = socket.sent
    assert (opcode, payload[:2]) == (CLOSE, struct.pack("!H", 1000 if closes else 1007))
    assert socket.texts == []
    assert socket.wire.ended == "closed"
    assert not caplog.records
    await socket.end()


@virtual_time
async def test_text_beyond_ascii_is_not_changed() -> None:
    socket = await Socket().open()
    text = "né\u20ac\U0001f600".encode()
    socket.wire.feed(frame(TEXT, text))
    await turns()
    for cut in range(1, len(text)):
        socket.wire.feed(frame(TEXT, text[:cut], fin=False) + frame(CONT, text[cut:]))
        await turns()
    socket.wire.feed(frame(BINARY, b"\xff\xfe"))
    await turns()
    assert socket.texts == [text.decode()] * len(text)
    assert socket.messages[-1]["bytes"] == b"\xff\xfe"
    await socket.end()


# -- logs


@virtual_time
async def test_no_header_and_no_frame_is_logged_at_any_level(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, logger="uvicorn.error"):
        socket = Socket()
        socket.wire.feed(UPGRADE[:-2] + b"Authorization: Bearer s3cret\r\n\r\n")
        await turns()
        socket.wire.feed(frame(TEXT, b"s3cret") + frame(PING, b"s3cret"))
        await turns()
        assert socket.texts == ["s3cret"]
        await socket.end()
    assert "s3cret" not in caplog.text


# -- anything at all

ANY_FRAME = st.builds(
    lambda head, data: bytes([head]) + bytes([0x80 | len(data)]) + ZERO + data,
    st.integers(0, 255),
    st.binary(max_size=30),
)


@given(pieces=st.lists(st.one_of(ANY_FRAME, st.binary(min_size=1, max_size=20)), max_size=15), accepts=st.booleans())
@settings(max_examples=200, deadline=None)
def test_nothing_that_is_sent_makes_the_protocol_fail(pieces: list[bytes], accepts: bool) -> None:
    async def run() -> None:
        failed: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failed.append(context))
        socket = Socket(accepts=accepts, wire_frames=30, fragments=4)
        socket.wire.feed(UPGRADE)
        for piece in pieces:
            await turns()
            socket.wire.feed(piece)
        socket.protocol.shutdown()
        await turns()
        await socket.end()
        assert not failed

    run_in_virtual_time(run())


def test_what_a_flood_is_told_is_in_the_table_of_codes() -> None:
    assert CLOSE_RULES[CloseCode.LIMIT].reason == LIMIT[2:].decode()
