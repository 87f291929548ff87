"""A real server in this process, and real clients of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Self

import httpx
import jwt
from fastapi import FastAPI
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin, Subprotocol

from bridge import UserExecutionContext
from tests.listening import OrderlyServer
from tests.support import until
from websocket_core import Limits, Retention, UnifiedWebSocketManager
from websocket_core.auth import Authenticator, JWTAuthenticator
from websocket_core.router import metrics_router, websocket_router
from websocket_core.server import server_config
from websocket_core.wire import PROTOCOL

SECRET = "a secret of at least thirty-two bytes"
CANARY = "payload-canary-51c0"


def token(user: Any = "alice", *, key: str = SECRET, algorithm: str = "HS256", without: str = "", **claims: Any) -> str:
    """A token of that user, with any claim changed or left out."""
    payload = {"sub": user, "exp": int(time.time()) + 3_600} | claims
    payload.pop(without, None)
    return jwt.encode(payload, key, algorithm=algorithm)


def bearer(user: str = "alice", **claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(user, **claims)}"}


# -- the server


class _Server(OrderlyServer):
    stopping: asyncio.Event

    async def main_loop(self) -> None:
        """Wait to be stopped, without looking only every tenth of a second."""
        self.stopping = asyncio.Event()
        await self.stopping.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals of the process that runs the tests alone."""
        yield


class Site:
    """An application that is being served on a port of its own."""

    def __init__(self, server: _Server, serving: asyncio.Task[None]) -> None:
        self._server = server
        self._serving = serving
        port = server.servers[0].sockets[0].getsockname()[1]
        self.host = f"127.0.0.1:{port}"
        self.http = f"http://{self.host}"

    async def stop(self) -> None:
        """Stop as after a signal, and wait until everything has ended."""
        self._server.should_exit = True
        self._server.stopping.set()
        await asyncio.wait_for(self._serving, 15)

    def socket(self, path: str, query: Mapping[str, str]) -> str:
        return f"ws://{self.host}{path}{'?' if query else ''}{httpx.QueryParams(query)}"

    def client(
        self,
        user: str | None = "alice",
        *,
        v1: bool = False,
        headers: dict[str, str] | None = None,
        origin: str | None = None,
        path: str = "/live/ws",
        query: Mapping[str, str] | None = None,
        **more: str,
    ) -> Client:
        """A client that authenticates with a header, unless the user is None."""
        return Client(
            self.socket(path, {**(query or {}), **more}),
            headers={**(bearer(user) if user is not None else {}), **(headers or {})},
            subprotocols=[Subprotocol(PROTOCOL)] if v1 else None,
            origin=None if origin is None else Origin(origin),
        )


@contextlib.asynccontextmanager
async def serving(app: Any, **settings: Any) -> AsyncIterator[Site]:
    """Serve the application with the settings of the SDK, and demand that it leaves no task behind."""
    before = asyncio.all_tasks()
    server = _Server(server_config(app, port=0, **settings))
    task = asyncio.create_task(server.serve(), name="uvicorn")
    await until(lambda: server.started or task.done(), "the start of the server")
    site = Site(server, task)
    try:
        yield site
    finally:
        await site.stop()
    await until(lambda: not asyncio.all_tasks() - before, "the end of every task of the server")


class Application:
    """The application of the tutorial, with whatever a test wants different."""

    def __init__(
        self,
        *,
        authenticate: Authenticator | None = None,
        limits: Limits | None = None,
        retention: Retention | None = None,
        origins: list[str] | None = None,
        query_token: bool = False,
        manager: UnifiedWebSocketManager | None = None,
    ) -> None:
        self.manager = manager or UnifiedWebSocketManager(limits=limits, retention=retention)
        self.app = FastAPI(lifespan=self.manager.lifespan)
        self.app.include_router(
            websocket_router(
                self.manager,
                authenticate=authenticate or JWTAuthenticator(key=SECRET, algorithms=["HS256"]),
                origins=origins,
                query_token=query_token,
            ),
            prefix="/live",
        )
        self.app.include_router(metrics_router())

    async def emit(self, user: str, n: Any, **options: Any) -> None:
        await self.manager.get_emitter(user).emit("custom", {"n": n}, **options)

    async def run(self, user: str = "alice", run_id: str = "r1", *, stop: asyncio.Event | None = None) -> None:
        """A run of an agent, which waits for `stop` in the middle of its tool."""
        bridge = self.manager.create_agent_bridge(UserExecutionContext(user, run_id, "t1"))
        async with bridge.run("planner") as run:
            await run.thinking(f"{CANARY} for {user}")
            async with run.tool("search", query="LIS") as tool:
                if stop is not None:
                    await stop.wait()
                tool.result = {"hits": 3}
            await run.delta("Three flights")
            run.result = {"answer": "Three flights"}


# -- the client


class Client:
    """A client by the `websockets` library, which keeps all that it receives."""

    def __init__(
        self,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        subprotocols: list[Subprotocol] | None = None,
        origin: Origin | None = None,
    ) -> None:
        self._connecting = connect(
            url,
            additional_headers=headers,
            subprotocols=subprotocols,
            origin=origin,
            proxy=None,
            compression=None,
            max_size=None,
            open_timeout=10,
            close_timeout=2,
        )
        self._v1 = bool(subprotocols)
        self.answers_pings = True
        self.texts: list[str] = []
        self.frames: list[dict[str, Any]] = []
        self.code: int | None = None
        self.reason = ""

    async def __aenter__(self) -> Self:
        self.connection: ClientConnection = await self._connecting
        self._reader = asyncio.create_task(self._read(), name="client")
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.connection.close()
        await self._reader

    async def _read(self) -> None:
        try:
            async for text in self.connection:
                assert isinstance(text, str)
                self.texts.append(text)
                for line in text.split("\n"):
                    frame = json.loads(line)
                    self.frames.append(frame)
                    if frame["type"] == "ping" and self._v1 and self.answers_pings:
                        await self.say({"type": "pong", "cursor": frame["cursor"]})
        except ConnectionClosed:
            pass
        self.code, self.reason = self.connection.close_code, self.connection.close_reason or ""

    async def say(self, frame: dict[str, Any] | str | bytes) -> None:
        await self.connection.send(json.dumps(frame) if isinstance(frame, dict) else frame)

    async def ask(self, frame: dict[str, Any]) -> dict[str, Any]:
        """Send a request; the `ack` or `error` with its id."""
        request_id = f"q{len(self.frames)}-{id(frame)}"
        await self.say({**frame, "request_id": request_id})
        answer: dict[str, Any] = await self.gets(
            lambda: next((frame for frame in self.frames if frame.get("request_id") == request_id), None)
        )
        return answer

    async def gets(self, what: Callable[[], Any]) -> Any:
        """Wait until `what()` is something; that."""
        await until(lambda: what() or self.code is not None, "what the client waits for")
        found = what()
        assert found, f"the server closed with {self.code} after {self.frames}"
        return found

    @property
    def events(self) -> list[dict[str, Any]]:
        return [frame for frame in self.frames if "id" in frame]

    @property
    def numbers(self) -> list[Any]:
        return [event["data"]["n"] for event in self.events]

    @property
    def cursor(self) -> str:
        return str(next(frame["cursor"] for frame in reversed(self.frames) if "cursor" in frame))

    async def has(self, count: int) -> list[dict[str, Any]]:
        """Wait for that many events; they."""
        await self.gets(lambda: len(self.events) >= count)
        return self.events

    async def greeted(self) -> dict[str, Any]:
        frame: dict[str, Any] = await self.gets(lambda: self.frames[0] if self.frames else None)
        assert frame["type"] == "connected"
        return frame

    def of_type(self, frame_type: str) -> list[dict[str, Any]]:
        return [frame for frame in self.frames if frame["type"] == frame_type]

    async def closed(self, seconds: float = 5.0) -> int:
        """Wait until the server has closed; the code."""
        await until(self._reader.done, "the close", seconds)
        assert self.code is not None
        return self.code

    async def cut(self) -> None:
        """Lose the network: no close frame, the connection is just gone."""
        self.connection.transport.abort()
        await self._reader
