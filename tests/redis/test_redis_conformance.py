"""The laws of a log, on a real Redis."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
from collections.abc import Callable

import pytest

from tests.redis.marks import NEEDS_REDIS
from tests.redis.server import RedisServer
from websocket_core.limits import Retention
from websocket_core.log_probe import LOG, Wakes, append, ids, read_on
from websocket_core.logs.redis import RedisLog
from websocket_core.testing import LogConformance

pytestmark = NEEDS_REDIS

_numbers = itertools.count()


class TestRedisLog(LogConformance):
    @pytest.fixture(autouse=True)
    def _server(self, server: RedisServer) -> None:
        self.url = server.url

    def make_log(self, retention: Retention, monotonic: Callable[[], float]) -> RedisLog:
        return RedisLog(
            self.url, retention, namespace=f"test{os.getpid()}.{next(_numbers)}", skew=lambda: self.now - 1_000.0
        )


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_has_gone_is_replaced(server: RedisServer) -> None:
    """Old tests and scripts call `asyncio.run` more than once, and close nothing in between."""
    log = RedisLog(server.url, namespace=f"loops{os.getpid()}")

    async def use(number: int) -> list[str]:
        wakes = Wakes(log, LOG)
        await append(log, 1, first=number)
        await wakes.reach(1)
        return ids(await read_on(log, None, 10))

    assert asyncio.run(use(1)) == ["e1"]
    assert asyncio.run(use(2)) == ["e1", "e2"]
    asyncio.run(log.close())
    gc.collect()
