"""What hostile handshakes cost everybody else: `python -m benchmarks.handshakes [--silent N] [--dripping N] [--plain]`.

Starts a server on the loopback address, opens connections that send nothing and connections that send the head of
their request a byte at a time, and has honest clients connect all the while. Prints when the hostile ones were closed
and how long the honest ones took. The hostile ones come from as many loopback addresses as `--addresses` says, since
the server bounds them by address as well. `--plain` is uvicorn with its own settings. Ends by itself, in `--seconds`
at the latest.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import subprocess
import sys
import time
from typing import Any

from fastapi import FastAPI
from websockets.asyncio.client import connect

DRIP = b"GET /ws HTTP/1.1\r\nHost: h\r\nX-Slow: " + b"x" * 1_000
DRIP_INTERVAL = 0.25
HONEST_INTERVAL = 0.02


def application() -> Any:
    """Ours, with an authenticator that believes what it is told."""
    from websocket_core import UnifiedWebSocketManager
    from websocket_core.auth import DevelopmentAuthenticator
    from websocket_core.router import websocket_router

    manager = UnifiedWebSocketManager()
    app = FastAPI(lifespan=manager.lifespan)
    authenticate = DevelopmentAuthenticator(i_know_that_anybody_can_be_anybody=True)
    app.include_router(websocket_router(manager, authenticate=authenticate, query_token=True))

    @app.get("/usage")
    async def usage() -> dict[str, float]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return {"cpu": used.ru_utime + used.ru_stime, "sockets": len(os.listdir("/proc/self/fd"))}

    return app


class Hostile:
    """One connection, and when it was opened and closed."""

    def __init__(self, port: int, source: str, *, drips: bool) -> None:
        self._port = port
        self._source = source
        self._drips = drips
        self.opened = float("nan")
        self.lived: float | None = None
        self.answer = b""

    async def run(self) -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port, local_addr=(self._source, 0))
        except OSError:
            self.lived = 0.0
            return
        self.opened = time.monotonic()
        dripping = asyncio.create_task(self._drip(writer)) if self._drips else None
        try:
            with contextlib.suppress(ConnectionError):
                self.answer = await reader.read()
            self.lived = time.monotonic() - self.opened
        finally:
            if dripping is not None:
                dripping.cancel()
            writer.close()

    async def _drip(self, writer: asyncio.StreamWriter) -> None:
        for byte in DRIP:
            writer.write(bytes([byte]))
            await asyncio.sleep(DRIP_INTERVAL)


async def honest(port: int, took: list[float], failed: list[str], stop: asyncio.Event) -> None:
    """Connect, wait for the greeting, leave; one after another, without waiting for the one before."""

    async def one(number: int) -> None:
        began = time.monotonic()
        try:
            async with connect(f"ws://127.0.0.1:{port}/ws?token=user-{number}", proxy=None, open_timeout=20) as socket:
                await asyncio.wait_for(socket.recv(), 20)
                took.append(time.monotonic() - began)
        except Exception as error:
            failed.append(type(error).__name__)

    number = 0
    async with asyncio.TaskGroup() as group:
        while not stop.is_set():
            group.create_task(one(number % 200))
            number += 1
            await asyncio.sleep(HONEST_INTERVAL)


def source(number: int) -> str:
    """One of the addresses of this machine that Linux has beside 127.0.0.1."""
    return f"127.0.{1 + number // 250}.{1 + number % 250}"


def percentile(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")


async def attack(options: argparse.Namespace, port: int) -> None:
    took: list[float] = []
    failed: list[str] = []
    stop = asyncio.Event()
    calm = asyncio.create_task(honest(port, took, failed, stop))
    await asyncio.sleep(2.0)
    before, failed_before = list(took), len(failed)
    took.clear()
    count = options.silent + options.dripping
    hostile = [Hostile(port, source(n % options.addresses), drips=n >= options.silent) for n in range(count)]
    began = time.monotonic()
    tasks = [asyncio.create_task(each.run()) for each in hostile]
    await asyncio.wait(tasks, timeout=options.seconds)
    seconds = time.monotonic() - began
    stop.set()
    await calm
    still = sum(each.lived is None for each in hostile)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for name, drips in (("silent", False), ("dripping", True)):
        lived = [each.lived for each in hostile if each._drips is drips and each.lived is not None]
        early = sum(each < options.timeout * 0.9 for each in lived)
        told = sum(each.answer.startswith(b"HTTP/1.1 408") for each in hostile if each._drips is drips)
        print(
            f"{name:9} closed {len(lived)}, of which {early} earlier, for want of room, and "
            f"{len(lived) - early} at the deadline; longest {max(lived, default=float('nan')):.2f} s; told 408: {told}"
        )
    print(f"hostile connections still open after {seconds:.1f} s: {still} of {count}")
    for name, values, bad in (("before", before, failed_before), ("during", took, len(failed) - failed_before)):
        print(
            f"honest connects {name}: {len(values)}, failed {bad}; p50 {percentile(values, 0.5) * 1e3:.0f} ms, "
            f"p99 {percentile(values, 0.99) * 1e3:.0f} ms, longest {max(values, default=float('nan')) * 1e3:.0f} ms"
        )


def serve(options: argparse.Namespace) -> None:
    """The server's process."""
    if options.plain:
        import uvicorn

        uvicorn.run(application(), port=options.port, ws="websockets-sansio", log_level="error", access_log=False)
        return
    from websocket_core.server import ServerBounds, run

    run(application(), port=options.port, http=options.http, bounds=ServerBounds(handshake_timeout=options.timeout))


async def drive(options: argparse.Namespace) -> None:
    command = [sys.executable, "-m", "benchmarks.handshakes", "--serve", *sys.argv[1:]]
    server = subprocess.Popen(command)
    try:
        for _ in range(200):
            await asyncio.sleep(0.05)
            try:
                _reader, writer = await asyncio.open_connection("127.0.0.1", options.port)
            except OSError:
                continue
            writer.close()
            break
        await attack(options, options.port)
    finally:
        server.terminate()
        try:
            server.wait(40)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--silent", type=int, default=1_000)
    parser.add_argument("--dripping", type=int, default=1_000)
    parser.add_argument("--addresses", type=int, default=20, help="that the hostile ones come from")
    parser.add_argument("--timeout", type=float, default=5.0, help="the server's handshake_timeout")
    parser.add_argument("--seconds", type=float, default=15.0, help="when to give up")
    parser.add_argument("--http", default="auto", choices=("auto", "h11", "httptools"))
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--plain", action="store_true", help="uvicorn with its own settings")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options)
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 16_384)), hard))
    asyncio.run(drive(options))


if __name__ == "__main__":
    main()
