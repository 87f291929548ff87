"""The fixtures: an application that is served, and somebody hostile who is connected to it all the time."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from tests.integration.support import CANARY, Application, Client, Site, serving

Serve = Callable[..., AbstractAsyncContextManager[tuple[Site, Application]]]


class Hostile:
    """A user who is connected under every name that there is to give, and must receive nothing of anybody else."""

    USER = "mallory"

    def __init__(self, site: Site) -> None:
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

    def judge(self) -> None:
        for client in self.clients:
            assert client.events == []
            assert client.frames[0]["user_id"] == self.USER
            assert CANARY not in "".join(client.texts)
            assert "alice" not in "".join(client.texts)


@pytest.fixture
def serve() -> Serve:
    """`async with serve(**options) as (site, application)`: the application of the tutorial, served, with somebody
    hostile in it (unless `hostile=False`)."""

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
        mallory.judge()

    return run
