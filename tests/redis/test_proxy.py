"""The proxy itself: what it accepted is closed when it goes, whenever that is."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket

import pytest

from tests.redis.proxy import Proxy


@pytest.mark.parametrize("turns", range(6))
async def test_whoever_connects_while_the_proxy_goes_is_closed_and_nothing_is_left_to_the_collector(turns: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as target:
        async with Proxy(target.getsockname()[1]) as proxy:
            client = socket.create_connection(("127.0.0.1", proxy.port))
            for _ in range(turns):
                await asyncio.sleep(0)
    with client:
        gc.collect()  # a connection left behind fails the test here
        client.settimeout(5.0)
        with contextlib.suppress(ConnectionError):  # never accepted, or cut
            assert client.recv(1) == b""
