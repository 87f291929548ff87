"""`python -m websocket_core serve` in a process of its own, with an application to put under it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
from websockets.typing import Subprotocol

from tests.integration.support import SECRET, Client, bearer
from tests.support import until
from websocket_core.wire import PROTOCOL

APPLICATION = f"""
import asyncio, contextlib, json, os, time
from fastapi import FastAPI
from websocket_core import Limits, ManagerClosed, Retention, UnifiedWebSocketManager
from websocket_core.auth import JWTAuthenticator
from websocket_core.router import health_router, metrics_router, websocket_router

manager = UnifiedWebSocketManager(
    limits=Limits(**json.loads(os.environ.get("LIMITS", "{{}}"))), retention=Retention(bytes=64 * 2**20)
)
app = FastAPI(lifespan=manager.lifespan)
app.include_router(
    websocket_router(manager, authenticate=JWTAuthenticator({SECRET!r}, algorithms=["HS256"])), prefix="/live"
)
app.include_router(health_router(manager))
app.include_router(metrics_router())
begun: dict[str, int] = {{}}
emitted: dict[str, int] = {{}}
flows = set()


async def emit(user, size=0):
    number = begun[user] = begun.get(user, -1) + 1
    await manager.get_emitter(user).emit("custom", {{"n": number, "padding": "x" * size}})
    emitted[user] = max(emitted.get(user, 0), number + 1)


async def flow(user):
    with contextlib.suppress(ManagerClosed):
        while True:
            await emit(user)
            await asyncio.sleep(0.01)


@app.post("/flow/{{user}}")
async def start(user: str):
    flows.add(asyncio.create_task(flow(user)))


@app.post("/emit/{{user}}/{{count}}")
async def several(user: str, count: int, size: int = 0):
    for _ in range(count):
        await emit(user, size)


@app.get("/emitted")
async def counts() -> dict[str, int]:
    return emitted


@app.post("/cut/{{user}}")
async def cut(user: str) -> None:
    for connection in manager._registry.of(user).values():
        connection.cut()


@app.post("/block/{{seconds}}")
async def block(seconds: float) -> None:
    time.sleep(seconds)


@app.get("/connections")
async def connections() -> int:
    return manager.get_stats()["total_connections"]


def create():
    return app
"""


class Served:
    """A server that runs. `errors` is all that it has written to standard error so far."""

    def __init__(self, directory: Path, *arguments: str, **environment: str) -> None:
        (directory / "served.py").write_text(APPLICATION, encoding="utf-8")
        paths = os.pathsep.join(path for path in sys.path if path)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "websocket_core", "serve", *(arguments or ("served:app", "--port", "0"))],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.errors = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors += line

    async def started(self) -> str:
        """The address, when it listens."""
        pattern = re.compile(r"^Serving \S+ on (\S+)$", re.MULTILINE)
        await until(lambda: pattern.search(self.errors) or self.process.poll() is not None, "the start", 30)
        found = pattern.search(self.errors)
        assert found, self.errors
        self.address = found[1]
        return found[1]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self, seconds: float = 20.0) -> int:
        """The exit code."""
        await until(lambda: self.process.poll() is not None, "the end of the process", seconds)
        await asyncio.to_thread(self._reader.join, 5)
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(5)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def sockets(self) -> int:
        """How many sockets the process has open."""
        count = 0
        for descriptor in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                count += os.readlink(descriptor).startswith("socket:")
        return count

    def client(self, user: str, *, v1: bool = False, **query: str) -> Client:
        url = f"ws{self.address[4:]}/live/ws?{httpx.QueryParams(query)}"
        return Client(url, headers=bearer(user), subprotocols=[Subprotocol(PROTOCOL)] if v1 else None)

    def http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.address, trust_env=False, timeout=10)

    async def metric(self, name: str) -> float:
        async with self.http() as http:
            text = (await http.get("/metrics")).text
        return float(next(line for line in text.splitlines() if line.startswith(f"{name} ")).split()[1])


@contextlib.asynccontextmanager
async def served(directory: Path, *arguments: str, **environment: str) -> AsyncIterator[Served]:
    """A server that has started; it is killed if it still runs at the end."""
    server = Served(directory, *arguments, **environment)
    try:
        await server.started()
        yield server
    finally:
        await asyncio.to_thread(server.close)


async def silent_client(address: str, user: str, *, v1: bool = False) -> socket.socket:
    """A client that has shaken hands and reads nothing more, with hardly a buffer."""
    loop = asyncio.get_running_loop()
    host, port = address.removeprefix("http://").split(":")
    end = socket.socket()
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    end.setblocking(False)
    await loop.sock_connect(end, (host, int(port)))
    headers = {
        "Host": f"{host}:{port}",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        **bearer(user),
        **({"Sec-WebSocket-Protocol": PROTOCOL} if v1 else {}),
    }
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    await loop.sock_sendall(end, f"GET /live/ws HTTP/1.1\r\n{''.join(lines)}\r\n".encode())
    answer: Any = b""
    while b"connected" not in answer:
        answer += await loop.sock_recv(end, 256)
    return end
