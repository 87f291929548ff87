"""Promise: whatever a client sends as frames, the server closes it with the code that says what is wrong, lives on,
and other users notice nothing.

The rows are those of our research on bad inputs.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.raw_socket import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    RawServer,
    RawSocket,
    frame,
    raw_server,
    wait_for,
)
from tests.integration.served_process import served
from tests.integration.support import token
from tests.support import until

ROOM = 48 * 2**20
"""Bytes that the server's memory may grow by over all of this; the largest single input is 16 MiB."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawServer]:
    with raw_server(tmp_path_factory.mktemp("server")) as running:
        before = running.resident()
        yield running
        wait_for(lambda: running.connections() == 2, "the end of every connection but the users'")
        assert running.resident() - before < ROOM


def code(number: int) -> bytes:
    return struct.pack("!H", number)


def fragments(opcode: int, *parts: bytes) -> bytes:
    """One message in so many frames."""
    last = len(parts) - 1
    return b"".join(frame(CONT if at else opcode, part, fin=at == last) for at, part in enumerate(parts))


def header(opcode: int, length: int) -> bytes:
    """The beginning of a frame that says it is so long."""
    return bytes([0x80 | opcode, 0xFF]) + struct.pack("!Q", length) + b"\0\0\0\0"


EMPTY = frame(TEXT, fin=False), frame(CONT, fin=False)

VIOLATIONS: dict[str, tuple[bytes, int]] = {
    "31 a byte too many": (frame(TEXT, b"x" * 65_537), 1009),
    "31 sixteen megabytes": (frame(TEXT, b"x" * 2**24), 1009),
    "31 sixteen megabytes in fragments": (fragments(TEXT, *[b"x" * 2**16] * 256), 1009),
    "31 too much in two fragments": (fragments(TEXT, b"x" * 40_000, b"x" * 40_000), 1009),
    "32 a compressed frame that was not agreed on": (frame(TEXT, b"\xaa\x02\x00", rsv=4), 1002),
    "32 a bomb": (frame(TEXT, b"\xec\xc1\x01\x01" + b"\x00" * 60_000, rsv=4), 1002),
    "32 reserved bit two": (frame(TEXT, b"{}", rsv=2), 1002),
    "32 reserved bit three": (frame(TEXT, b"{}", rsv=1), 1002),
    "32 a compressed ping": (frame(PING, rsv=4), 1002),
    "33 a million empty fragments": (EMPTY[0] + EMPTY[1] * 1_000_000, 4429),
    "33 fragments of a byte": (fragments(TEXT, *[b"x"] * 60_000), 4429),
    "33 one fragment too many": (fragments(TEXT, *[b" "] * 255, b"{", b"}"), 4429),
    "34 a length of 2**63": (header(TEXT, 2**63), 1009),
    "34 a length of 2**64 - 1": (header(TEXT, 2**64 - 1), 1009),
    "34 a length of 2**32": (header(BINARY, 2**32), 1009),
    "34 a length of 2**63 for a ping": (header(PING, 2**63), 1009),
    "35 a fragmented ping": (frame(PING, fin=False), 1002),
    "35 a fragmented close": (frame(CLOSE, code(1000), fin=False), 1002),
    "35 a ping of 126 bytes": (frame(PING, b"x" * 126), 1002),
    "35 a pong of 126 bytes": (frame(PONG, b"x" * 126), 1002),
    "35 a close of 126 bytes": (frame(CLOSE, code(1000) + b"x" * 124), 1002),
    "35 an unmasked text": (frame(TEXT, b"{}", mask=False), 1002),
    "35 an unmasked ping": (frame(PING, mask=False), 1002),
    "35 an unmasked close": (frame(CLOSE, code(1000), mask=False), 1002),
    "35 a continuation of nothing": (frame(CONT, b"{}"), 1002),
    "35 a message within a message": (frame(TEXT, b"{", fin=False) + frame(TEXT, b"}"), 1002),
    "35 a close within a message": (frame(TEXT, b"{", fin=False) + frame(CLOSE, code(1000)), 1002),
    "35 a close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "36 a close whose reason is no UTF-8": (frame(CLOSE, code(1000) + b"\xff"), 1007),
    "37 a binary frame": (frame(BINARY, b'{"type": "ping"}'), 1003),
    "37 an empty binary frame": (frame(BINARY), 1003),
    "37 a binary message in fragments": (fragments(BINARY, b"{", b"}"), 1003),
    "53 a flood of pings": (frame(PING) * 100_000, 4429),
    "53 a flood of full pings": (frame(PING, b"x" * 125) * 10_000, 4429),
    "53 a flood of pongs": (frame(PONG) * 100_000, 4429),
    **{f"35 reserved opcode {opcode}": (frame(opcode), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    **{
        f"35 the close code {number}": (frame(CLOSE, code(number)), 1002)
        for number in (0, 999, 1004, 1005, 1006, 1015, 1016, 2_999, 5_000, 65_535)
    },
    **{
        f"36 {name}": (frame(TEXT, data), 1007)
        for name, data in {
            "a byte that never occurs": b'"\xff"',
            "an overlong slash": b'"\xc0\xaf"',
            "an overlong NUL": b'"\xc0\x80"',
            "a surrogate": b'"\xed\xa0\x80"',
            "beyond the last code point": b'"\xf4\x90\x80\x80"',
            "a character that breaks off": b'"\xe2\x82',
            "a continuation alone": b'"\x80"',
        }.items()
    },
    "36 a surrogate over two fragments": (fragments(TEXT, b'"\xed', b'\xa0\x80"'), 1007),
    "36 an end that never comes, over three fragments": (fragments(TEXT, b'"', b"\xe2", b"\x82"), 1007),
}


@pytest.mark.parametrize("user", ["alice", None], ids=["connected", "before authentication"])
@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation_is_closed_with_its_code_and_hurts_nobody_else(
    server: RawServer, name: str, user: str | None, record_property: Any
) -> None:
    data, expected = VIOLATIONS[name]
    began = time.monotonic()
    with RawSocket(server.port, user) as client:
        client.send(data)
        # Of a flood there is something under way when the server closes, which makes the kernel take the answer back.
        assert client.closed() in ((expected, None) if name.startswith("53") else (expected,))
    assert time.monotonic() - began < 5.0
    record_property("other_user_seconds", server.is_well())


@pytest.mark.parametrize("text", [b"", b"{}", b'{"type": "pong"}', b'{"type": "ping"}'])
@pytest.mark.parametrize("user", ["alice", None], ids=["connected", "before authentication"])
def test_a_flood_of_messages_is_closed_by_the_server_or_by_the_connection(
    server: RawServer, user: str | None, text: bytes
) -> None:
    """Which of them is first depends on how much the server reads at once."""
    with RawSocket(server.port, user) as client:
        client.send(frame(TEXT, text) * 100_000)
        assert client.closed() in ({4400, 4429, None} if user else {4400, 4401, 4429, None})
    server.is_well()


@pytest.mark.parametrize("step", [1, 7])
@pytest.mark.parametrize(
    "name", [name for name, (data, _code) in VIOLATIONS.items() if len(data) < 40 and "continuation alone" not in name]
)
def test_a_violation_that_comes_in_pieces_is_the_same(server: RawServer, name: str, step: int) -> None:
    data, expected = VIOLATIONS[name]
    with RawSocket(server.port) as client:
        for at in range(0, len(data), step):
            client.send(data[at : at + step])
        assert client.closed() == expected
    server.is_well()


# -- what is no violation


@pytest.mark.parametrize(
    "parts",
    [
        [b'{"type": "ping", "request_id": "\xe2', b"\x82", b'\xac"}'],
        [b"", b'{"type": "ping",', b"", b' "request_id": "\xe2\x82\xac"}', b""],
        [b'{"type": "ping", "request_id": "\xe2\x82\xac"}' + b" " * (65_536 - 42)],
        [b" "] * 214 + [bytes([each]) for each in b'{"type": "ping", "request_id": "\xe2\x82\xac"}'],
    ],
    ids=["a character over three", "empty ones between", "the largest", "the most"],
)
def test_a_message_may_come_in_fragments_with_pings_between(server: RawServer, parts: list[bytes]) -> None:
    assert len(parts) <= 256
    assert len(b"".join(parts)) <= 65_536
    with RawSocket(server.port) as client:
        last = len(parts) - 1
        for at, part in enumerate(parts):
            client.send(frame(CONT if at else TEXT, part, fin=at == last))
            if at < 10:
                client.send(frame(PING, str(at).encode()))
        pongs = []
        while True:
            opcode, data = client.next_frame()
            if opcode == TEXT and json.loads(data)["type"] == "pong":
                assert json.loads(data)["request_id"] == "\u20ac"
                break
            pongs.append(data)
        while len(pongs) < min(len(parts), 10):
            pongs.append(client.next_frame()[1])
        assert pongs == [str(at).encode() for at in range(min(len(parts), 10))]


@pytest.mark.parametrize("number", [1000, 1001, 1008, 1011, 3_000, 4_999])
def test_a_close_of_the_client_is_answered_with_its_code(server: RawServer, number: int) -> None:
    with RawSocket(server.port) as client:
        client.send(frame(CLOSE, code(number) + b"bye"))
        assert client.closed() == number


def test_a_close_without_a_code_is_answered(server: RawServer) -> None:
    with RawSocket(server.port) as client:
        client.send(frame(CLOSE))
        assert client.closed() == 1005


OFFERS = [
    b"permessage-deflate", b"permessage-deflate; client_max_window_bits; server_max_window_bits=8",
    b"permessage-deflate; client_max_window_bits=8", b"permessage-deflate, permessage-deflate, x-webkit-deflate-frame",
    b"permessage-bzip2", b"permessage-deflate; server_max_window_bits=99999999999999999999", b"; ;; ,, =", b"\xff\xfe",
    b"a" * 5_000,
]  # fmt: skip


@pytest.mark.parametrize("offer", OFFERS)
def test_every_offer_of_an_extension_is_declined(server: RawServer, offer: bytes) -> None:
    with RawSocket(server.port, extra=b"Sec-WebSocket-Extensions: " + offer + b"\r\n") as client:
        assert b"extensions" not in client.answer.lower()
        client.send(frame(TEXT, b"\xaa\x02\x00", rsv=4))
        assert client.closed() == 1002
    server.is_well()


# -- who breaks off, and who takes for ever


@pytest.mark.parametrize("said", [2, 100, 60_000])
def test_a_frame_that_breaks_off_leaves_nothing_behind(server: RawServer, said: int) -> None:
    before = server.sockets()
    client = RawSocket(server.port)
    client.send(frame(TEXT, b"x" * said)[:-1])
    wait_for(lambda: server.sockets() == before + 1, "the connection")
    client.cut()
    wait_for(lambda: server.sockets() == before, "its end")
    wait_for(lambda: server.connections() == 2, "its end for the manager")
    server.is_well()


async def test_a_frame_that_never_ends_is_cut_by_the_protocols_own_pings(tmp_path: Path) -> None:
    """While a frame is under way its sender cannot answer; and before authentication, a deadline is quicker."""
    limits = json.dumps({"auth_timeout": 1.0})
    intervals = ("--ping-interval", "0.5", "--ping-timeout", "0.5")
    async with served(tmp_path, "served:app", "--port", "0", *intervals, LIMITS=limits) as server:
        before = server.sockets()
        port = int(server.address.rsplit(":", 1)[1])
        for user in ("alice", None):
            client = RawSocket(port, user)
            try:
                client.send(frame(TEXT, b"x" * 60_000)[:500])
                await until(lambda: server.sockets() == before + 1, "the connection")
                await until(lambda: server.sockets() == before, "its end", 5)
            finally:
                client.cut()
        assert token("alice") not in server.errors
        assert "Traceback" not in server.errors
