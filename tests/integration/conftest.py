"""The fixtures: an application that is served, and somebody hostile who is connected to it all the time.

Beside every manager that runs in this process there are the strangers of `tests/hostile.py`, whatever the test is
about. Where a test uses `serve`, there is somebody hostile at the other end of real sockets as well.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from tests.hostile import Elsewhere, Names, Strangers
from tests.integration.attacked import REPORT
from tests.integration.support import CANARY, Application, Client, Site, serving
from websocket_core.unified_manager import UnifiedWebSocketManager

Serve = Callable[..., AbstractAsyncContextManager[tuple[Site, Application]]]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was measured."""
    for line in REPORT:
        terminalreporter.write_line(line)


# -- beside every manager


@pytest.fixture(autouse=True)
def strangers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Strangers]]:
    """The strangers beside each manager that was started in the test. They come when it starts, name everything when
    it shuts down, and are judged at the end of the test."""
    everybody: list[Strangers] = []
    present: dict[UnifiedWebSocketManager, tuple[Strangers, asyncio.Task[None]]] = {}
    start, shutdown = UnifiedWebSocketManager._start, UnifiedWebSocketManager.shutdown

    def started(manager: UnifiedWebSocketManager) -> None:
        start(manager)
        if isinstance(manager, Elsewhere) or (manager in present and not present[manager][1].get_loop().is_closed()):
            return
        beside = Strangers(manager)
        everybody.append(beside)
        coming = asyncio.get_running_loop().create_task(beside.come(), name="strangers")
        present[manager] = beside, coming

    async def shut_down(manager: UnifiedWebSocketManager) -> None:
        beside, coming = present.pop(manager, (None, None))
        if beside is not None and coming is not None and coming.get_loop() is asyncio.get_running_loop():
            await coming
            try:
                await beside.name_everything()
            finally:
                await beside.leave()
        await shutdown(manager)

    monkeypatch.setattr(UnifiedWebSocketManager, "_start", started)
    monkeypatch.setattr(UnifiedWebSocketManager, "shutdown", shut_down)
    yield everybody
    for each in everybody:
        each.judge()


# -- over real sockets


class Hostile:
    """A user who is connected under every name that there is to give, and must receive nothing of anybody else."""

    USER = "mallory"

    def __init__(self, site: Site) -> None:
        self._site = site
        self.late: list[Client] = []
        claims = {"user_id": "alice", "user": "alice", "sub": "alice"}
        lies = {"X-User-Id": "alice", "X-Forwarded-User": "alice", "Cookie": "user_id=alice; session=alice"}
        self.clients: list[Client] = [
            site.client(self.USER, connection_id="same"),
            site.client(self.USER, connection_id="tab-1", v1=True, headers=lies),
            site.client(self.USER, query=claims, thread_id="t1"),
            site.client(self.USER, cursor="AAAAAAAA.1.x", v1=True),
        ]

    async def attack(self) -> None:
        """Ask for what is somebody else's, in every way that a frame offers."""
        for client in self.clients:
            await client.greeted()
            for frame in (
                {"type": "cancel", "run_id": "r1", "user_id": "alice"},
                {"type": "subscribe", "topics": ["alice", "thread:t1", "*"]},
                {"type": "resume", "user_id": "alice"},
            ):
                answer = await client.ask(frame)
                assert answer["type"] == "error"
                assert answer["code"] in ("not_found", "unknown_type")

    async def name_everything(self, manager: UnifiedWebSocketManager) -> None:
        """Come again with other users' cursors, connections and threads, and ask for their runs."""
        names = Names.of(manager)
        for n, cursor in enumerate(names.cursors[-3:]):
            if self.clients[0].code is not None or len(manager._registry) >= manager.limits.connections:
                return  # the server is gone, or full
            query = {"cursor": cursor}
            for name, values in (
                ("connection_id", names.connections),
                ("thread_id", names.threads),
                ("user_id", names.users),
            ):
                if len(values) > n:
                    query[name] = values[n]
            async with self._site.client(self.USER, v1=n % 2 == 0, query=query) as client:
                assert (await client.greeted())["resumed"] is False
                for run in names.runs[:3]:
                    assert (await client.ask({"type": "cancel", "run_id": run}))["code"] == "not_found"
                assert (await client.ask({"type": "ping", "cursor": cursor}))["type"] == "pong"
            self.late.append(client)

    def judge(self) -> None:
        for client in (*self.clients, *self.late):
            assert client.events == []
            assert client.frames[0]["user_id"] == self.USER
            assert CANARY not in "".join(client.texts)
        for client in self.clients:
            assert "alice" not in "".join(client.texts)


@pytest.fixture
def serve() -> Serve:
    """`async with serve(**options) as (site, application)`: the application of the tutorial, served, with somebody
    hostile in it (unless `hostile=False`: where connections are counted, or everybody is let in as the same user)."""

    @contextlib.asynccontextmanager
    async def run(*, hostile: bool = True, **options: Any) -> AsyncIterator[tuple[Site, Application]]:
        application = Application(**options)
        async with serving(application.app) as site:
            if not hostile:
                yield site, application
                return
            mallory = Hostile(site)
            async with contextlib.AsyncExitStack() as stack:
                for client in mallory.clients:
                    await stack.enter_async_context(client)
                await mallory.attack()
                yield site, application
                mallory.judge()
                await mallory.name_everything(application.manager)
        mallory.judge()

    return run
