"""A served process that is attacked, and what watches it meanwhile: a user whose events must go on arriving, somebody
who must receive nothing, and everything that the process writes to its logs."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from websockets.asyncio.client import connect
from websockets.typing import Origin, Subprotocol

from tests.integration.support import SECRET, Client, token
from tests.support import until
from websocket_core.wire import CLOSE_RULES, PROTOCOL

CANARY = "payload-canary-e7a1"
APP = "https://app.example"
ISSUER = "https://id.example"
REPORT: list[str] = []
"""What is said at the end of a test run."""


class Issuer:
    """An issuer with a key of its own, under a key id that others use too."""

    KEY_ID = "k1"

    def __init__(self) -> None:
        self.private = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
        self.public: bytes = self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def jwks(self) -> bytes:
        made: dict[str, Any] = jwt.get_algorithm_by_name("RS256").to_jwk(self.private.public_key(), as_dict=True)
        return json.dumps({"keys": [made | {"kid": self.KEY_ID, "alg": "RS256", "use": "sig"}]}).encode()

    def token(self, user: str = "alice", *, headers: dict[str, Any] | None = None) -> str:
        claims = {"sub": user, "exp": int(time.time()) + 3_600}
        return jwt.encode(claims, self.private, algorithm="RS256", headers={"kid": self.KEY_ID} | (headers or {}))


class KeyServer:
    """Serves the keys of two issuers, and notes every address that it was asked for."""

    def __init__(self) -> None:
        self.issuers = {"/a.json": Issuer(), "/b.json": Issuer()}
        self.asked: list[str] = []
        keys = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                keys.asked.append(self.path)
                issuer = keys.issuers.get(self.path)
                self.send_response(404 if issuer is None else 200)
                self.end_headers()
                self.wfile.write(b"" if issuer is None else issuer.jwks())

            def log_message(self, *_arguments: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


# -- the process

APPLICATION = f"""
import asyncio, datetime, json, logging, os, sys
from fastapi import FastAPI, Request
from websocket_core import Limits, UnifiedWebSocketManager
from websocket_core.auth import JWTAuthenticator
from websocket_core.router import metrics_router, websocket_router
from websocket_core.server_logging import JSONFormatter
from websocket_core.wire import encode_cursor

handler = logging.StreamHandler(sys.stderr)
handler.setFormatter(JSONFormatter())
logging.getLogger().handlers[:] = [handler]
logging.getLogger().setLevel(logging.DEBUG)
logging.getLogger("attacked").setLevel(logging.DEBUG)
settings = json.loads(os.environ["ATTACKED"])
manager = UnifiedWebSocketManager(
    limits=Limits(auth_timeout=0.4, expiry_grace=0.2, sweep_interval=0.1, connections_per_address=40, handshakes=100)
)
app = FastAPI(lifespan=manager.lifespan)
hs = JWTAuthenticator({SECRET!r}, algorithms=["HS256"])
strict = JWTAuthenticator({SECRET!r}, algorithms=["HS256"], audience="live", issuer={ISSUER!r}, leeway=30)
rs = JWTAuthenticator(settings["public"], algorithms=["RS256"])
a, b = (JWTAuthenticator(jwks_url=url, algorithms=["RS256"]) for url in settings["jwks"])
app.include_router(websocket_router(manager, authenticate=hs, origins=[{APP!r}]), prefix="/live")
app.include_router(websocket_router(manager, authenticate=hs, query_token=True), prefix="/own")
for prefix, authenticate in (("/strict", strict), ("/rs", rs), ("/a", a), ("/b", b)):
    app.include_router(websocket_router(manager, authenticate=authenticate), prefix=prefix)
app.include_router(metrics_router())


async def crash(_peer, _frame):
    raise ZeroDivisionError


manager._handlers["crash"] = crash
cycle = []
cycle.append(cycle)
deep = 1
for _ in range(2_000):
    deep = [deep]
BAD = {{
    "NaN": float("nan"), "infinity": float("inf"), "set": {{1}}, "bytes": b"x", "datetime": datetime.datetime.now(),
    "cycle": cycle, "object": object(), "surrogate": "\\ud800", "surrogate key": {{"\\ud800": 1}},
    "int key": {{1: 1}}, "huge int": 10**400, "10 MB": "x" * 10_000_000, "deep": deep, "complex": 1j,
    "exception": ValueError("s3cret"), "function": crash,
}}


async def emit(user, data, event_type="custom", **options):
    try:
        return {{"cursor": encode_cursor(await manager.get_emitter(user).emit(event_type, data, **options))}}
    except (ValueError, LookupError, TypeError) as error:
        return {{"error": type(error).__name__}}


async def bad_emits(user):
    before = await manager.head(user)
    refused = {{name: (await emit(user, {{"value": value}})).get("error") for name, value in BAD.items()}}
    return {{"refused": refused, "moved": (await manager.head(user)).offset - before.offset}}


async def canary(n):
    logging.getLogger("attacked").warning("mark %d", n)
    return await emit("bob", {{"n": n, "secret": {CANARY!r}}})


async def revoke(user, token_id=None):
    await manager.revoke(user, token_id)


async def delete(user):
    await manager.delete_user(user)


@app.post("/control")
async def control(request: Request):
    order = json.loads(await request.body())
    return await globals()[order.pop("do")](**order)
"""


class Record(NamedTuple):
    """A line that the process wrote."""

    line: str
    fields: dict[str, Any]


class Attacked:
    """The process, and whoever watches it."""

    def __init__(self, directory: Path) -> None:
        self.keys = KeyServer()
        self.issuer = Issuer()
        (directory / "attacked.py").write_text(APPLICATION, encoding="utf-8")
        settings = {
            "public": self.issuer.public.decode(),
            "jwks": [f"{self.keys.address}/a.json", f"{self.keys.address}/b.json"],
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "websocket_core", "serve", "attacked:app", "--port", "0", "--log-level", "info",
             "--log-format", "json"],
            cwd=directory,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                "PYTHONDONTWRITEBYTECODE": "1",
                "ATTACKED": json.dumps(settings),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="surrogateescape",
        )  # fmt: skip
        self.lines: list[str] = []
        self._seen = 0
        self._marks = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.address = self._started()
        self.host = self.address.removeprefix("http://")
        self.arrivals: list[float] = []
        self.secrets: set[str] = {CANARY, SECRET}
        self.watch = _Watch(self)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def _started(self) -> str:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self.process.poll() is None:
            for line in self.lines:
                if found := re.search(r"Serving attacked:app on (http://[0-9.:]+)", line):
                    return found[1]
            time.sleep(0.01)
        raise AssertionError("\n".join(self.lines))

    def rss(self) -> int:
        """Bytes that the process has in memory."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        found = re.search(r"VmRSS:\s+(\d+) kB", text)
        assert found is not None
        return int(found[1]) * 1_024

    async def control(self, do: str, **fields: Any) -> Any:
        status, _headers, body = await self.http("POST", "/control", body=json.dumps({"do": do, **fields}).encode())
        assert status == 200, body
        return json.loads(body)

    async def http(
        self,
        method: str,
        path: str,
        *,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        address: str | None = None,
    ) -> tuple[int, dict[str, str], str]:
        """One request; status, headers and body of the answer."""
        lines = {"Host": self.host, "Connection": "close", "Content-Length": str(len(body)), **(headers or {})}
        text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return await self.raw(f"{method} {path} HTTP/1.1\r\n{text}\r\n".encode("latin-1") + body, address=address)

    async def raw(self, data: bytes, *, address: str | None = None) -> tuple[int, dict[str, str], str]:
        """Whatever bytes, and what is answered before the connection ends; status 0 is no answer at all."""
        host, port = self.host.split(":")
        local = None if address is None else (address, 0)
        reader, writer = await asyncio.open_connection(host, int(port), local_addr=local)
        try:
            writer.write(data)
            answer = await asyncio.wait_for(reader.read(), 5.0)
        except (ConnectionError, TimeoutError):
            answer = b""
        finally:
            writer.close()
        head, _, body = answer.decode("latin-1").partition("\r\n\r\n")
        first, *rest = head.split("\r\n")
        status = int(first.split(" ")[1]) if first.startswith("HTTP/1.1 ") else 0
        return status, {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}, body

    async def survives(self, secrets: set[str], *, errors: bool = False) -> None:
        """The process lives, another user's event arrives, nobody got what is not theirs, and none of the secrets was
        written anywhere. With `errors` records of that level are in order."""
        assert self.process.poll() is None, "\n".join(self.lines[-50:])
        self._marks += 1
        seconds = await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(self.watch.canary(self._marks), self.watch.loop)
        )
        self.arrivals.append(seconds)
        assert seconds < 5.0
        mark = f'"mark {self._marks}"'
        await until(lambda: any(mark in line for line in self.lines[self._seen :]), "the mark in the log")
        lines, self._seen = self.lines[self._seen :], len(self.lines)
        secret = self.secrets | secrets
        _status, _headers, metrics = await self.http("GET", "/metrics")
        for line in lines:
            assert line.isascii(), "a record is ASCII"
            record = json.loads(line)
            assert record["level"] not in ("error", "critical") or errors, line
            for each in secret:
                assert each not in line
                assert each not in record.get("exception", "")
                assert each not in record["message"]
        for each in secret:
            assert each not in metrics
        assert "isolation_violations_total 0.0" in metrics

    def close(self) -> None:
        self.watch.close()
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.keys.close()


class _Watch:
    """A thread in which Bob follows his events, and Mallory whatever she can get, from beginning to end."""

    def __init__(self, site: Attacked) -> None:
        self._site = site
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        site = self._site
        self.bob = Peer(site, token("bob"))
        self.mallory = [
            Peer(site, token("mallory"), v1=True, query={"cursor": "AAAAAAAA.1.x", "user_id": "bob"}),
            Peer(site, token("mallory"), query={"connection_id": "alice", "thread_id": "t1"}),
        ]
        site.secrets |= self.bob.secrets
        async with self.bob, self.mallory[0], self.mallory[1]:
            await self.bob.greeted()
            self._ready.set()
            await self._stop.wait()

    async def canary(self, n: int) -> float:
        """Have an event emitted for Bob; the seconds until he has it."""
        began = time.perf_counter()
        await self._site.control("canary", n=n)
        await until(
            lambda: self.bob.frames[-1].get("data", {}).get("n") == n or self.bob.code is not None, "the canary"
        )
        assert self.bob.code is None, f"Bob was closed with {self.bob.code}"
        return time.perf_counter() - began

    def judge(self, count: int) -> None:
        """Bob got every event once and in order, and Mallory none."""
        assert self.bob.numbers == list(range(1, count + 1))
        for client in self.mallory:
            assert client.events == []
            assert client.code is None
            assert {frame["type"] for frame in client.frames} <= {"connected", "gap", "ping"}

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)


class Peer(Client):
    """A client of the attacked process, from whatever address of this machine."""

    def __init__(
        self,
        site: Attacked,
        bearer: str | None = None,
        *,
        path: str = "/live/ws",
        query: dict[str, str] | str = "",
        headers: dict[str, str] | None = None,
        origin: str | None = None,
        v1: bool = False,
        address: str | None = None,
    ) -> None:
        text = query if isinstance(query, str) else urlencode(query, errors="surrogatepass", quote_via=quote)
        authorization = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
        quiet = logging.getLogger("tests.quiet")  # at the lowest level, `websockets` logs what it sends and receives
        quiet.propagate = False
        options: dict[str, Any] = {} if address is None else {"local_addr": (address, 0)}
        super().__init__("ws://unused")
        self._connecting = connect(
            f"ws://{site.host}{path}{'?' if text else ''}{text}",
            additional_headers={**authorization, **(headers or {})},
            subprotocols=[Subprotocol(PROTOCOL)] if v1 else None,
            origin=None if origin is None else Origin(origin),
            proxy=None,
            compression=None,
            max_size=None,
            open_timeout=10,
            close_timeout=2,
            logger=quiet,
            **options,
        )
        self._v1 = v1
        self._bearer = bearer
        self.left = False
        """Whether this end closed, with a code and a reason of its own."""

    @property
    def secrets(self) -> set[str]:
        """What came and went here that nobody else may see."""
        found = {str(frame["cursor"]) for frame in self.frames if "cursor" in frame}
        if self._bearer is not None:
            found |= {self._bearer, self._bearer.rpartition(".")[2]}
        return {each for each in found if len(each) >= 16}

    def judge(self, user: str | None) -> None:
        """Everything that was received is this user's, and what is said beside it says nothing of anybody."""
        for frame in self.frames:
            if frame["type"] == "connected" or "id" in frame:
                assert frame["user_id"] == user
        said = [self.reason, *(frame["message"] for frame in self.of_type("error"))]
        assert not any(secret in text for secret in self.secrets | {CANARY} for text in said)
        if self.code not in (1002, 1007, 1009):  # the server below closes with these before we see anything
            assert self.reason in {"", *(rule.reason for rule in CLOSE_RULES.values())} or self.left
