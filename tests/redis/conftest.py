"""For all tests on a real Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.redis.server import RedisServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that stays as it is."""
    started = RedisServer(tmp_path_factory.mktemp("redis"))
    yield started
    started.stop()
