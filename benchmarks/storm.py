"""A reconnect storm: `python -m benchmarks.storm [--clients N] [--seconds S]`.

Thousands of clients connect to one server process in the same moment, each giving up after a few seconds and coming
again: with full jitter, or when the server said. Rows: paced at 50 at a time, all at once with the admission gate, and
all at once without it. The driver runs on the same machine and has its own costs, which are the same in every row:
compare rows of one run. A storm is one if the clients lose patience before a server that lets them all in could have
served them: clients / rate > patience.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections import Counter
from typing import Any

import uvloop

from benchmarks.run import Server

REQUEST = (
    "GET /ws?token=user-{number} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Client(asyncio.Protocol):
    """One attempt: connected when the first frame has come."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._data = b""
        self.answer: asyncio.Future[float | None] = asyncio.get_running_loop().create_future()
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(REQUEST.format(number=self._number).encode())

    def data_received(self, data: bytes) -> None:
        if self.answer.done():
            return
        self._data += data
        head, end, rest = self._data.partition(b"\r\n\r\n")
        if not end:
            return
        if head.startswith(b"HTTP/1.1 101"):
            if b'"connected"' in rest:
                self.answer.set_result(None)
            return
        again = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"retry-after:")), b":1")
        self.answer.set_result(float(again.partition(b":")[2]))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answer.done():
            self.answer.set_exception(ConnectionError("lost"))


class Storm:
    """What became of the clients."""

    def __init__(self, port: int, patience: float) -> None:
        self._port = port
        self._patience = patience
        self.began = time.monotonic()
        self.counts: Counter[str] = Counter()
        self.connected_at: list[float] = []
        self.sockets: list[Any] = []
        self._rng = random.Random(7)

    async def attempt(self, number: int) -> float | None:
        """None if it got in; else the seconds after which to come again, or below zero if it was not said."""
        loop = asyncio.get_running_loop()
        client = Client(number)
        self.counts["attempts"] += 1
        try:
            async with asyncio.timeout(self._patience):
                await loop.create_connection(lambda: client, "127.0.0.1", self._port)
                again = await client.answer
        except TimeoutError:
            self.counts["gave up"] += 1
            again = -1.0
        except OSError:
            self.counts["lost"] += 1
            again = -1.0
        if again is None:
            self.connected_at.append(time.monotonic() - self.began)
            self.sockets.append(client.transport)
            return None
        if again >= 0:
            self.counts["sent away"] += 1
        if client.transport is not None:
            client.transport.abort()
        return again

    async def persist(self, number: int) -> None:
        """One client, which comes until it is in."""
        tries = 0
        while (again := await self.attempt(number)) is not None:
            tries += 1
            if again < 0:
                again = self._rng.uniform(0.0, min(30.0, 2.0**tries))
            else:
                again = self._rng.uniform(again, again * 1.1)
            await asyncio.sleep(again)

    async def paced(self, clients: int) -> None:
        gate = asyncio.Semaphore(50)

        async def one(number: int) -> None:
            async with gate:
                await self.persist(number)

        await asyncio.gather(*map(one, range(clients)))

    def close(self) -> None:
        for socket in self.sockets:
            socket.abort()


async def measure(name: str, stack: str, port: int, options: argparse.Namespace, *, paced: bool) -> float:
    clients = options.clients
    server = Server(stack, port)
    try:
        await server.ready()
        warm = Storm(port, 30.0)
        await warm.paced(200)
        warm.close()
        storm = Storm(port, options.patience)
        coming = [storm.paced(clients)] if paced else list(map(storm.persist, range(clients)))
        tasks = list(map(asyncio.ensure_future, coming))
        await asyncio.wait(tasks, timeout=options.seconds)
        for task in tasks:
            task.cancel()
        times = sorted(storm.connected_at)
        most = times[int(len(times) * 0.99)] if times else float("nan")
        by_second = Counter(int(at) for at in times)
        busy = range(int(most) + 1) if times else range(0)
        rate = len(times) / (times[-1] if times else 1)
        slowest = min((by_second[second] for second in list(busy)[:-1]), default=0)
        print(
            f"  {name:28} in {len(times)} of {clients}, 99 % of them after {most:.1f} s, {rate:.0f} per second, "
            f"slowest second {slowest}; {dict(storm.counts)}",
            flush=True,
        )
        storm.close()
        await asyncio.sleep(0.5)
        return rate
    finally:
        server.stop()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=8_000)
    parser.add_argument("--patience", type=float, default=10.0, help="seconds after which a client gives up")
    parser.add_argument("--seconds", type=float, default=90.0, help="the longest that one row takes")
    options = parser.parse_args()
    print(f"{options.clients} clients, which give up after {options.patience:.0f} s")
    pace = await measure("paced, 50 at a time", "ours", 19_001, options, paced=True)
    gated = await measure("at once", "ours", 19_002, options, paced=False)
    await measure("at once, without the gate", "ours_without_gate", 19_003, options, paced=False)
    print(f"  with the gate, {gated / pace:.2f} x the paced rate")


if __name__ == "__main__":
    uvloop.run(main())
