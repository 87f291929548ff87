"""A served application, and clients that send bytes of their own choice. All of it blocks: what is sent is sent."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.integration.served_process import APPLICATION
from tests.integration.support import CANARY, bearer

MORE = """
import json, logging, os, sys, warnings
from fastapi import Request, WebSocket
from served import app
from websocket_core.server import ServerBounds, run


@app.get("/client")
async def client(request: Request):
    return [request.client.host, request.url.scheme]


@app.websocket("/client")
async def socket_client(websocket: WebSocket):
    await websocket.accept()
    await websocket.send_json([websocket.client.host, websocket.scope["scheme"]])


@app.post("/log")
async def log(request: Request):
    logging.getLogger("application").warning(await request.json(), extra={"number": 7})
    warnings.warn("this will go")
    return 1 / 0


@app.post("/size")
async def size(request: Request):
    return len(await request.body())


if __name__ == "__main__":
    run(
        app,
        port=0,
        http=sys.argv[1],
        loop=sys.argv[2],
        bounds=ServerBounds(**json.loads(sys.argv[3])),
        announce=lambda address: print(f"Serving on {address}", file=sys.stderr, flush=True),
    )
"""

KEY = b"AAAAAAAAAAAAAAAAAAAAAA=="
UPGRADE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n"
)


def write_application(directory: Path) -> None:
    """The modules `served` and `raw`, the second with more routes of the same application."""
    (directory / "served.py").write_text(APPLICATION, encoding="utf-8")
    (directory / "raw.py").write_text(MORE, encoding="utf-8")


class RawServer:
    """`websocket_core.server.run` in a process of its own, and two users who are connected all the time."""

    def __init__(self, directory: Path, http: str = "auto", *, loop: str = "auto", **bounds: float) -> None:
        write_application(directory)
        paths = os.pathsep.join(path for path in sys.path if path)
        self.process = subprocess.Popen(
            [sys.executable, "raw.py", http, loop, json.dumps(bounds)],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.errors = ""
        self._said = 0
        self._open = contextlib.ExitStack()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self._start()
        except BaseException:
            self._end()
            raise

    def _start(self) -> None:
        wait_for(lambda: "Serving on http" in self.errors or self.process.poll() is not None, "the start", 30)
        found = re.search(r"Serving on http://127\.0\.0\.1:(\d+)", self.errors)
        assert found, self.errors
        self.port = int(found[1])
        http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=10)
        self._http = self._open.enter_context(http)
        self._bob, self._mallory = (self._client(user) for user in ("bob", "mallory"))

    def _end(self) -> None:
        self._open.close()
        self.process.kill()
        self.process.wait()
        self._reader.join(5)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors += line

    def _client(self, user: str) -> ClientConnection:
        """A client that has been greeted."""
        address = f"ws://127.0.0.1:{self.port}/live/ws?user_id=alice&sub=alice"
        client = self._open.enter_context(
            connect(address, additional_headers=bearer(user), proxy=None, compression=None, close_timeout=2)
        )
        assert json.loads(client.recv(timeout=10))["user_id"] == user
        return client

    def is_well(self) -> float:
        """Demand that the process lives and that another user's event still arrives; after how many seconds."""
        assert self.process.poll() is None, self.errors
        began = time.monotonic()
        assert self._http.post("/emit/bob/1").status_code == 200
        while True:
            frame = json.loads(self._bob.recv(timeout=10))
            if "id" in frame:
                assert frame["data"]["n"] == self._said
                self._said += 1
                return time.monotonic() - began

    def sockets(self) -> int:
        """How many sockets the process has open."""
        count = 0
        for descriptor in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                count += os.readlink(descriptor).startswith("socket:")
        return count

    def resident(self) -> int:
        """Bytes of memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def connections(self) -> int:
        """How many connections the manager knows."""
        return int(self._http.get("/connections").text)

    def close(self, *, judge: bool = True) -> None:
        """End it as a signal does, and look at what it wrote and at what the hostile user was sent."""
        try:
            if judge:
                self.judge()
        finally:
            self._end()

    def judge(self) -> None:
        received = ""
        with contextlib.suppress(TimeoutError):
            while True:
                received += str(self._mallory.recv(timeout=0.2))
        assert '"id"' not in received
        assert "bob" not in received
        self._open.close()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(20) == 0, self.errors
        self._reader.join(5)
        assert "Traceback" not in self.errors, self.errors
        assert "eyJ" not in self.errors, "a token"
        assert CANARY not in self.errors


def wait_for(condition: Any, what: str, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about within {seconds} s"
        time.sleep(0.01)


# -- requests


def exchange(port: int, data: bytes, *, seconds: float = 5.0, source: str = "127.0.0.1") -> bytes:
    """Send the bytes; what comes back until the server ends the connection, or an answer is whole."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds, source_address=(source, 0)) as end:
        with contextlib.suppress(ConnectionError):  # the answer may come before all is sent
            end.sendall(data)
        received = b""
        with contextlib.suppress(ConnectionError):
            while b"\r\n\r\n" not in received:
                more = end.recv(65_536)
                if not more:
                    break
                received += more
    return received


def status_of(answer: bytes) -> int:
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
    assert found, answer
    return int(found[1])


# -- sockets


def frame(opcode: int, data: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bool = True) -> bytes:
    """A frame, right or wrong. The mask changes nothing."""
    size = len(data)
    if size < 126:
        length = struct.pack("!B", size | 0x80 * mask)
    elif size < 65_536:
        length = struct.pack("!BH", 126 | 0x80 * mask, size)
    else:
        length = struct.pack("!BQ", 127 | 0x80 * mask, size)
    return bytes([0x80 * fin | rsv << 4 | opcode]) + length + (b"\0\0\0\0" if mask else b"") + data


CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class RawSocket:
    """A WebSocket after its handshake. With `user` it is authenticated and has been greeted."""

    def __init__(self, port: int, user: str | None = "alice", *, extra: bytes = b"") -> None:
        self._end = socket.create_connection(("127.0.0.1", port), timeout=10)
        authorization = b"" if user is None else f"Authorization: {bearer(user)['Authorization']}\r\n".encode()
        request = b"GET /live/ws?cursor=latest HTTP/1.1\r\nHost: h\r\n" + UPGRADE + authorization + extra + b"\r\n"
        self._end.sendall(request)
        self._buffer = b""
        self.code: int | None = None
        """The code of the server's close frame."""
        self.pongs = 0
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        self.answer, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        assert status_of(self.answer) == 101
        if user is not None:
            opcode, text = self.next_frame()
            assert opcode == TEXT
            assert json.loads(text)["type"] == "connected"

    def _more(self) -> None:
        more = self._end.recv(65_536)
        if not more:
            raise EOFError
        self._buffer += more

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def next_frame(self) -> tuple[int, bytes]:
        head, size = self._take(2)
        assert head & 0x70 == 0, "a reserved bit"
        if size == 126:
            (size,) = struct.unpack("!H", self._take(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self._take(8))
        return head & 0x0F, self._take(size)

    def send(self, data: bytes) -> None:
        """As much as the server takes."""
        with contextlib.suppress(ConnectionError):
            self._end.sendall(data)

    def closed(self) -> int | None:
        """Read to the end of the connection, and answer the close; its code, None if there was none."""
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                opcode, data = self.next_frame()
                if opcode == CLOSE:
                    assert self.code is None, "two close frames"
                    self.code = struct.unpack("!H", data[:2])[0] if data else 1005
                    self.send(frame(CLOSE, data[:2]))
                self.pongs += opcode == PONG
        return self.code

    def cut(self) -> None:
        self._end.close()

    def __enter__(self) -> RawSocket:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._end.close()


@contextlib.contextmanager
def raw_server(directory: Path, http: str = "auto", *, loop: str = "auto", **bounds: float) -> Iterator[RawServer]:
    server = RawServer(directory, http, loop=loop, **bounds)
    well = False
    try:
        yield server
        well = True
    finally:
        server.close(judge=well)
