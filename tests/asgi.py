"""An ASGI application driven by hand: no server, no sockets, and so in virtual time as well."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from tests.support import until
from websocket_core.wire import PROTOCOL

App = Callable[[Any, Any, Any], Awaitable[None]]
Headers = Mapping[str, str] | Sequence[tuple[str, str]]

HOST = "server.example"
CLIENT = ("192.0.2.1", 50_000)


class Answer(NamedTuple):
    """What an HTTP request was answered with. Header names are lower-case; repeated ones are joined by a comma."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)


def scope_of(
    kind: str,
    path: str,
    *,
    headers: Headers = (),
    query: Mapping[str, str] | str = "",
    client: tuple[str, int] | None = CLIENT,
    scheme: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The scope of a request. Names and values of headers are text in which each character stands for a byte."""
    pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
    if not any(name.lower() == "host" for name, _ in pairs):
        pairs.insert(0, ("host", HOST))
    text = query if isinstance(query, str) else urlencode(query)
    return {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "scheme": scheme or ("ws" if kind == "websocket" else "http"),
        "path": path,
        "raw_path": quote(path).encode(),
        "root_path": "",
        "query_string": text.encode("latin-1", "surrogateescape"),
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in pairs],
        "client": client,
        "server": (HOST, 80),
        **more,
    }


async def ask(app: App, method: str, path: str, **options: Any) -> Answer:
    """Make one request, with a body that nobody may read."""
    scope = scope_of("http", path, method=method, **options)
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        raise AssertionError("the body of the request was read")

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return _answer(sent, "http.response")


def _answer(sent: Sequence[MutableMapping[str, Any]], prefix: str) -> Answer:
    start, *bodies = sent
    assert start["type"] == f"{prefix}.start"
    headers: dict[str, str] = {}
    for name, value in start["headers"]:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return Answer(start["status"], headers, b"".join(message.get("body", b"") for message in bodies).decode())


class ASGIClient:
    """A WebSocket client of an application. Used as `async with`; leaves at the end if it was not closed before."""

    def __init__(self, app: App, path: str, *, v1: bool = False, **options: Any) -> None:
        more = {
            "subprotocols": [PROTOCOL] if v1 else [],
            "extensions": {"websocket.http.response": {}},
        }
        self._app = app
        self.scope = scope_of("websocket", path, **more | options)
        self.texts: list[str] = []
        self.frames: list[dict[str, Any]] = []
        self.accepted = False
        self.refused: Answer | None = None
        """The HTTP answer in place of a handshake."""
        self.code: int | None = None
        self.reason = ""
        self._v1 = v1
        self._refusing: list[MutableMapping[str, Any]] = []
        self._incoming: deque[dict[str, Any]] = deque([{"type": "websocket.connect"}])
        self._arrived = asyncio.Event()
        self._gone = False

    async def __aenter__(self) -> ASGIClient:
        self.task: asyncio.Task[None] = asyncio.get_running_loop().create_task(self._run())
        return self

    async def _run(self) -> None:
        await self._app(self.scope, self._receive, self._send)

    async def __aexit__(self, *_exc: object) -> None:
        self.leave()
        await self.task

    def leave(self) -> None:
        self._gone = True
        self._arrived.set()

    def say(self, frame: Mapping[str, Any] | str) -> None:
        text = frame if isinstance(frame, str) else json.dumps(frame)
        self._incoming.append({"type": "websocket.receive", "text": text})
        self._arrived.set()

    async def _receive(self) -> dict[str, Any]:
        while not self._incoming:
            if self._gone or self.code is not None:
                return {"type": "websocket.disconnect", "code": self.code or 1006}
            self._arrived.clear()
            await self._arrived.wait()
        return self._incoming.popleft()

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        if self._gone:
            raise OSError("the client is gone")
        kind = message["type"]
        if kind == "websocket.accept":
            self.accepted = True
        elif kind == "websocket.send":
            self.texts.append(message["text"])
            for line in message["text"].split("\n"):
                frame = json.loads(line)
                self.frames.append(frame)
                if frame["type"] == "ping" and self._v1:
                    self.say({"type": "pong"})
        elif kind == "websocket.close":
            self.code, self.reason = message["code"], message.get("reason", "")
            self._arrived.set()
        else:
            self._refusing.append(message)
            if kind == "websocket.http.response.body":
                self.refused = _answer(self._refusing, "websocket.http.response")

    async def greeted(self) -> dict[str, Any]:
        """The greeting. Fails if the client is refused."""
        await until(lambda: self.frames or self.task.done() or self.code is not None, "an answer")
        assert self.frames, f"closed with {self.code}, {self.refused}"
        assert self.frames[0]["type"] == "connected"
        return self.frames[0]

    async def ended(self) -> int | None:
        """Wait until the application has ended; the close code."""
        done, _late = await asyncio.wait([self.task], timeout=40)
        assert done, "the application has not ended"
        return self.code

    async def gets(self, kind: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait for so many frames of a type; they."""

        def there() -> list[dict[str, Any]]:
            return [frame for frame in self.frames if frame["type"] == kind]

        await until(lambda: len(there()) >= count or self.code is not None, f"{count} of {kind}")
        assert len(there()) >= count, f"closed with {self.code}"
        return there()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [frame for frame in self.frames if "id" in frame]
