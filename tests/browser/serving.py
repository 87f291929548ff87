"""The demo behind a real uvicorn: in a thread of its own, where a test can reach into it, or in a process to kill."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from websockets.asyncio.client import connect

from examples.docs_agent.agent import Pace
from examples.docs_agent.app import create_app
from tests.listening import OrderlyServer, free_port
from tests.support import a_manager
from websocket_core.limits import Limits, Retention
from websocket_core.server import server_config
from websocket_core.unified_manager import UnifiedWebSocketManager
from websocket_core.wire import encode_cursor

T = TypeVar("T")

REPOSITORY = Path(__file__).resolve().parents[2]

QUICK = Pace(word=0.004, step=0.02)
"""A run of about half a second."""
SLOW = Pace(word=0.06, step=0.0)
"""A run whose answer grows for more than four seconds, so that it can be caught in the middle; then comes `hurry()`."""


class _Tempo(Pace):
    """A pace that changes while runs are under way: the agent asks for it before every pause."""

    def change(self, *, word: float, step: float) -> None:
        object.__setattr__(self, "word", word)
        object.__setattr__(self, "step", step)


def http_client(base: str, **settings: Any) -> httpx.AsyncClient:
    """A client of that server alone: no proxy of the environment's, no certificates to load."""
    return httpx.AsyncClient(base_url=base, trust_env=False, verify=False, **settings)


class Demo:
    """The demo on a port of the system's choice, for `async with`. `base` is its address."""

    def __init__(
        self,
        documentation: Path,
        pace: Pace = QUICK,
        *,
        limits: Limits | None = None,
        retention: Retention | None = None,
    ) -> None:
        self.manager: UnifiedWebSocketManager = a_manager(limits=limits, retention=retention)
        self._tempo = _Tempo(pace.word, pace.step)
        app = create_app(manager=self.manager, documentation=documentation, pace=self._tempo)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.base = f"http://127.0.0.1:{self.port}"
        self._server = OrderlyServer(server_config(app, port=self.port, timeout_graceful_shutdown=2))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = asyncio.Event()
        self._thread = threading.Thread(target=self._run, args=(asyncio.get_running_loop(),), name="the demo")

    def _run(self, caller: asyncio.AbstractEventLoop) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            # The socket listens already, so whoever connects from now on waits until it is served.
            caller.call_soon_threadsafe(self._ready.set)
            await self._server.serve(sockets=[self._listening])

        asyncio.run(serve())

    async def __aenter__(self) -> Self:
        self._thread.start()
        await self._ready.wait()
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Ends the server as an interrupt does. The second call does nothing."""
        self._server.should_exit = True
        await asyncio.to_thread(self._thread.join, 20)
        assert not self._thread.is_alive(), "the demo did not stop"

    def hurry(self) -> None:
        """From now on no run lingers."""
        self._tempo.change(word=0.0, step=0.0)

    async def inside(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Runs `work` in the server's loop; its result."""
        assert self._loop is not None
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work(), self._loop))

    async def emit(self, user: str, event_type: str, data: dict[str, Any], run_id: str | None = None) -> None:
        async def emitting() -> None:
            await self.manager.get_emitter(user).emit(event_type, data, run_id=run_id)

        await self.inside(emitting)

    async def break_sockets(self) -> int:
        """Resets every WebSocket without a word, as a network does; how many there were."""

        async def breaking() -> int:
            # HTTP connections are left alone: only a WebSocket's protocol object has `handshake_complete`.
            links = [link for link in self._server.server_state.connections if hasattr(link, "handshake_complete")]
            for link in links:
                link.transport.abort()
            return len(links)

        return await self.inside(breaking)

    async def head(self, user: str) -> str:
        return encode_cursor(await self.inside(lambda: self.manager.head(user)))

    async def events_so_far(self, user: str) -> int:
        """How many events the user's log has held."""
        return (await self.inside(lambda: self.manager.head(user))).offset

    async def token(self, user: str) -> str:
        async with http_client(self.base) as client:
            answer = await client.post("/session", json={"user": user})
            token: str = answer.raise_for_status().json()["token"]
            return token

    async def events(self, user: str) -> list[dict[str, Any]]:
        """The user's whole log, as a client without our JavaScript is given it."""
        head = await self.head(user)
        events: list[dict[str, Any]] = []
        async with asyncio.timeout(10), connect(f"ws://127.0.0.1:{self.port}/live/ws") as link:
            await link.send(json.dumps({"type": "auth", "token": await self.token(user)}))
            greeting = json.loads(await link.recv())
            assert greeting["type"] == "connected", greeting
            assert greeting["user_id"] == user
            while not events or events[-1]["cursor"] != head:
                frame = json.loads(await link.recv())
                if frame["type"] != "gap":
                    events.append(frame)
        return events


_PROGRAM = """
import sys
from pathlib import Path
from examples.docs_agent.agent import Pace
from examples.docs_agent.app import create_app
from websocket_core.server import run
run(create_app(documentation=Path(sys.argv[1]), pace=Pace(word=0.02, step=0.02)), port=int(sys.argv[2]))
"""


class DemoProcess:
    """The demo in a process of its own, always on the same port, for a test that kills it. For `async with`."""

    def __init__(self, documentation: Path) -> None:
        self._documentation = documentation
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.kill()

    def _spawn(self) -> subprocess.Popen[bytes]:
        arguments = [sys.executable, "-c", _PROGRAM, str(self._documentation), str(self.port)]
        return subprocess.Popen(arguments, cwd=REPOSITORY, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})

    async def start(self) -> None:
        self._process = self._spawn()
        async with asyncio.timeout(20), http_client(self.base) as client:
            while True:
                assert self._process.poll() is None, "the demo did not start"
                with contextlib.suppress(httpx.TransportError):
                    await client.get("/")
                    return
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """SIGKILL: nothing is said to anybody."""
        assert self._process is not None
        self._process.kill()
        await asyncio.to_thread(self._process.wait, 10)
