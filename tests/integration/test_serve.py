"""Promise: `python -m websocket_core serve` sends its clients away before it stops, and loses them nothing; `tail`
comes back by itself, and `token` makes what `serve` accepts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from websockets.asyncio.client import connect

from tests.integration.served_process import Served, served
from tests.integration.support import SECRET, Client, Site, serving, token
from tests.support import until
from websocket_core.limits import Limits
from websocket_core.server_check import check_server

# -- drain


@contextlib.asynccontextmanager
async def connected(server: Served, count: int) -> AsyncIterator[list[Client]]:
    """So many users, each with one client, every other one of which shares frames."""
    clients = [server.client(f"user-{number}", v1=number % 2 == 0) for number in range(count)]
    async with contextlib.AsyncExitStack() as stack:
        for client in clients:
            await stack.enter_async_context(client)
            await client.greeted()
        yield clients


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_sends_everybody_away_evenly_and_after_all_that_was_emitted(
    how: signal.Signals, tmp_path: Path
) -> None:
    loop = asyncio.get_running_loop()
    async with (
        served(tmp_path, "served:app", "--port", "0", "--drain", "3") as server,
        connected(server, 50) as clients,
    ):
        async with server.http() as http:
            for number in range(50):
                await http.post(f"/flow/user-{number}")
            await clients[49].has(5)
            for number in range(50):
                await http.post(f"/emit/user-{number}/20")
            emitted = (await http.get("/emitted")).json()
        server.signal(how)
        signalled = loop.time()
        left: dict[int, float] = {}

        def all_left() -> bool:
            for number, client in enumerate(clients):
                if client.code is not None:
                    left.setdefault(number, loop.time() - signalled)
            return len(left) == len(clients)

        await until(all_left, "the last close", 15)
        assert await server.ended() == 0
        assert server.errors == f"Serving served:app on {server.address}\n"
        for number, client in enumerate(clients):
            assert client.code == 1012
            assert client.numbers == list(range(len(client.numbers))), "a hole, or a repetition"
            assert len(client.numbers) >= emitted[f"user-{number}"] >= 20
        moments = sorted(left.values())
        assert moments[-1] - moments[0] > 2.0, "all at once"
        for start in range(3):
            assert sum(start <= moment < start + 1 for moment in moments) <= 30, "not evenly"
        assert moments[-1] < 5.0, "beyond the budget"


async def test_while_it_drains_it_is_not_ready_but_alive_and_refuses_newcomers(tmp_path: Path) -> None:
    async with (
        served(tmp_path, "served:create", "--factory", "--port", "0", "--drain", "2") as server,
        connected(server, 10) as clients,
        server.http() as http,
    ):
        assert (await http.get("/readyz")).status_code == 200
        server.signal(signal.SIGTERM)
        await until(lambda: clients[0].code, "the first close")
        assert clients[9].code is None
        assert (await http.get("/readyz")).status_code == 503
        assert (await http.get("/livez")).status_code == 200
        async with server.client("late") as late:
            assert await late.closed() == 1013
            assert late.frames == []
        await http.post("/emit/user-9/3")
        assert await clients[9].closed(10) == 1012
        assert clients[9].numbers == [0, 1, 2], "emitted while it drained, before the turn of this client"
        await http.aclose()
        assert await server.ended() == 0
        assert "Traceback" not in server.errors


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with (
        served(tmp_path, "served:app", "--port", "0", "--drain", "60") as server,
        connected(server, 60) as clients,
    ):
        server.signal(signal.SIGTERM)
        await until(lambda: clients[0].code, "the first close")
        again = loop.time()
        server.signal(signal.SIGTERM)
        assert await server.ended() == 1
        assert loop.time() - again < 5.0
        assert "Traceback" not in server.errors, server.errors
        assert {await client.closed() for client in clients} == {1012}


async def test_a_server_without_connections_stops_at_once(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with served(tmp_path) as server:
        began = loop.time()
        server.signal(signal.SIGTERM)
        assert await server.ended() == 0
        assert loop.time() - began < 5.0
        assert "Traceback" not in server.errors


async def test_it_listens_on_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    async with served(tmp_path, "served:app", "--uds", path) as server:
        assert server.address == f"unix:{path}"
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()


# -- refusals


def run(*arguments: str, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run(
        [sys.executable, "-m", "websocket_core", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=40,
    )


def test_a_port_that_is_taken_is_said_without_a_traceback(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        (tmp_path / "m.py").write_text("async def app(scope, receive, send): ...\n")
        done = run("serve", "m:app", "--port", str(taken.getsockname()[1]), directory=tmp_path)
    assert done.returncode == 3
    assert "address already in use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("app", ["nothing_here:app", "json:app", "json"])
def test_an_application_that_is_not_there_is_said_without_a_traceback(app: str, tmp_path: Path) -> None:
    done = run("serve", app, directory=tmp_path)
    assert done.returncode == 3
    assert app.partition(":")[0] in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("hops", ["127.0.0.1/8", "localhost", "", "10.0.0.1,", "10.0.0.256"])
def test_a_proxy_that_is_no_address_is_refused(hops: str, tmp_path: Path) -> None:
    """uvicorn would take it for a name, and believe nobody."""
    (tmp_path / "m.py").write_text("async def app(scope, receive, send): ...\n")
    done = run("serve", "m:app", "--forwarded-allow-ips", hops, directory=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --forwarded-allow-ips takes addresses and networks")
    assert done.stderr.count("\n") == 1


# -- what an application can find out about its server


class Asking:
    """An application that asks about its server, from a request and from a socket."""

    def __init__(self) -> None:
        self.findings: dict[str, list[str]] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await receive()
        self.findings[scope["type"]] = check_server(scope, Limits())
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.close", "code": 1000})
        else:
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})


async def asked(site: Site, asking: Asking) -> tuple[list[str], list[str]]:
    async with httpx.AsyncClient(trust_env=False) as http:
        await http.get(site.http)
    async with connect(f"ws://{site.host}", proxy=None) as client:
        await client.wait_closed()
    return asking.findings["websocket"], asking.findings["http"]


@pytest.mark.parametrize("http", ["auto", "h11", "httptools"])
async def test_our_own_server_has_nothing_unsafe_to_tell(http: str) -> None:
    asking = Asking()
    async with serving(asking, http=http) as site:
        assert await asked(site, asking) == ([], [])
    wrapped = FastAPI()
    wrapped.mount("/", asking)
    asking.findings.clear()
    async with serving(wrapped, http=http) as site:
        assert await asked(site, asking) == ([], [])


@pytest.mark.filterwarnings("ignore")  # uvicorn's older implementation is deprecated, and still in use
@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize("ws", ["websockets-sansio", "websockets", "auto"])
async def test_uvicorn_with_its_own_settings_is_told_of(http: str, ws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def plain(app: Any, **settings: Any) -> uvicorn.Config:
        return uvicorn.Config(app, http=http, ws=ws, log_level="warning", forwarded_allow_ips="*", **settings)

    asking = Asking()
    monkeypatch.setattr("tests.integration.support.server_config", plain)
    async with serving(asking) as site:
        of_socket, of_request = await asked(site, asking)
    for advice in ("ws=", "ws_per_message_deflate=False", "ws_max_size=65536", "no deadline", "forwarded_allow_ips"):
        assert len([finding for finding in of_request if advice in finding]) == 1
    assert of_socket == of_request


# -- token and tail


class Tailing:
    """`tail` in a process of its own."""

    def __init__(self, address: str, *arguments: str, secret: str | None = None, until_line: int | None = None) -> None:
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", "NO_PROXY": "127.0.0.1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "websocket_core", "tail", address, *arguments],
            env={**environment, **({"UNIFIED_WEBSOCKET_TOKEN": secret} if secret else {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self.errors = ""
        self._until_line = until_line
        self._readers = [threading.Thread(target=each, daemon=True) for each in (self._read_lines, self._read_errors)]
        for reader in self._readers:
            reader.start()

    def _read_lines(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if len(self.lines) == self._until_line:
                self.process.stdout.close()
                return

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors += line

    def shows(self, *, lines: int = 0, cuts: int = 0) -> bool:
        return len(self.lines) >= lines and self.errors.count("cut (1006)") >= cuts

    @property
    def numbers(self) -> list[int]:
        return [json.loads(line)["data"]["n"] for line in self.lines]

    async def ended(self) -> int:
        await until(lambda: self.process.poll() is not None, "the end of tail", 15)
        for reader in self._readers:
            await asyncio.to_thread(reader.join, 5)
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join(5)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


async def test_tail_prints_each_event_once_over_cuts_until_it_is_interrupted(tmp_path: Path) -> None:
    async with served(tmp_path) as server, server.http() as http:
        tail = Tailing(f"{server.address}/live/ws", secret=token("alice"))
        try:
            for cuts in range(3):
                await http.post("/emit/alice/10")
                await until(partial(tail.shows, lines=10 * cuts + 10), "the events", 20)
                await http.post("/cut/alice")
                await until(partial(tail.shows, cuts=cuts + 1), "the cut")
            await until(lambda: tail.errors.count("connected as 'alice'") == 4, "the last return", 20)
            await http.post("/emit/alice/1")
            await until(lambda: len(tail.lines) >= 31, "the last event")
            assert tail.errors.count("connected as 'alice', resumed") == 3
            assert "gap" not in tail.errors
            tail.process.send_signal(signal.SIGINT)
            assert await tail.ended() == 130
            assert tail.numbers == list(range(31))
            assert "Traceback" not in tail.errors
        finally:
            await asyncio.to_thread(tail.close)


async def test_tail_answers_pings_and_sees_a_gap_and_ends_where_a_client_is_to_end(tmp_path: Path) -> None:
    limits = json.dumps({"heartbeat": 0.2, "heartbeat_timeout": 0.5, "sweep_interval": 0.1})
    async with served(tmp_path, LIMITS=limits) as server, server.http() as http:
        tail = Tailing(f"ws{server.address[4:]}/live/ws", "--cursor", "another.7.life", secret=token("alice"))
        try:
            await until(lambda: "gap (new_epoch)" in tail.errors, "the gap", 20)
            for _ in range(4):
                await http.post("/emit/alice/1")
                await asyncio.sleep(0.4)
            await until(lambda: len(tail.lines) == 4, "the events")
            assert "cut" not in tail.errors
            assert (await http.get("/connections")).json() == 1
            server.signal(signal.SIGTERM)
            await until(lambda: "cut (1012); trying again in" in tail.errors, "the restart")
        finally:
            await asyncio.to_thread(tail.close)


async def test_what_refuses_tail_is_said_in_one_line(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        cases = [
            (
                f"{server.address}/live/ws",
                "not a token",
                "error: the server closed the connection: 4401 not authenticated",
            ),
            (f"{server.address}/nowhere", "x", "error: cannot connect: server rejected WebSocket connection: HTTP 403"),
            ("ws://127.0.0.1:1/live/ws", "x", "error: cannot connect: "),
            ("ftp://127.0.0.1/", "x", "error: the address looks like ws://host:port/path"),
            ("nonsense", "x", "error: the address looks like ws://host:port/path"),
        ]
        for address, secret, message in cases:
            tail = Tailing(address, "--token", secret)
            try:
                assert await tail.ended() in (1, 2)
                assert tail.errors.startswith(message)
                assert tail.errors.count("\n") == 1
                assert tail.lines == []
            finally:
                await asyncio.to_thread(tail.close)


async def test_a_token_that_is_made_is_taken(tmp_path: Path) -> None:
    made = await asyncio.to_thread(
        lambda: run("token", "--user", "alice", directory=tmp_path, UNIFIED_WEBSOCKET_KEY=SECRET)
    )
    assert made.returncode == 0, made.stderr
    async with served(tmp_path) as server, server.http() as http:
        tail = Tailing(f"{server.address}/live/ws", "--token", made.stdout.strip())
        try:
            await http.post("/emit/alice/1")
            await http.post("/emit/bob/1")
            await http.post("/emit/alice/1")
            await until(lambda: len(tail.lines) == 2, "the events", 20)
            assert [json.loads(line)["user_id"] for line in tail.lines] == ["alice", "alice"]
        finally:
            await asyncio.to_thread(tail.close)


async def test_tail_ends_in_silence_when_nobody_reads_it(tmp_path: Path) -> None:
    """It learns that `head` has gone by the next event that it writes."""
    async with served(tmp_path) as server, server.http() as http:
        tail = Tailing(f"{server.address}/live/ws", secret=token("alice"), until_line=1)
        try:
            for _ in range(100):
                await http.post("/emit/alice/1")
                if tail.process.poll() is not None:
                    break
                await asyncio.sleep(0.1)
            assert await tail.ended() == 0
            assert tail.numbers == [0]
            assert tail.errors == "connected as 'alice'\n"
        finally:
            await asyncio.to_thread(tail.close)
