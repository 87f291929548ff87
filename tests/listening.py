"""Ports to listen on, and servers of this process that end while somebody connects."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket

import uvicorn

TURNS = 10
"""More turns of the loop than a connection takes from being accepted to reaching whoever serves it."""


def free_port() -> int:
    """A port that nobody listens on, outside the range from which connections take theirs: it is still free in a
    moment, and when a server that was killed is started again."""
    chance = random.SystemRandom()
    for _ in range(1_000):
        port = chance.randrange(10_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


async def stop_accepting(server: asyncio.Server) -> None:
    """Close a server of asyncio's own loop, and lose nobody who was just accepted.

    A connection that is accepted in the very turn in which its server is closed is dropped by asyncio without being
    closed (an assertion in `Server._attach`). That is whoever collects the garbage's warning, at any time later.
    """
    for listening in server.sockets:
        asyncio.get_running_loop().remove_reader(listening.fileno())
    for _ in range(TURNS):
        await asyncio.sleep(0)
    server.close()


class OrderlyServer(uvicorn.Server):
    """uvicorn, whose end loses nobody who was just accepted."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            await stop_accepting(server)
        await super().shutdown(sockets)
