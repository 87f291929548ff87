"""Serves a page's `app` with uvicorn in a process of its own, on a port that the system chooses."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 15.0
_RUNNING: Final = re.compile(r"Uvicorn running on http://127\.0\.0\.1:(\d+)")


class Served:
    """A server that runs. `port` is where; `log` is what it has said so far."""

    def __init__(self, directory: Path, module: str) -> None:
        self.port = 0
        self._lines: list[str] = []
        self._running = threading.Event()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", f"{module}:app", "--port", "0"],
            cwd=directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def log(self) -> str:
        return "".join(self._lines)

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._lines.append(line)
            if found := _RUNNING.search(line):
                self.port = int(found[1])
                self._running.set()
        self._running.set()

    def wait_until_running(self) -> None:
        assert self._running.wait(START_SECONDS), f"the server did not start:\n{self.log}"
        assert self.port, f"the server ended:\n{self.log}"

    def stop(self) -> None:
        """Stop it as Ctrl+C does, and wait until it is gone."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        late = self._process.poll() is None
        if late:
            self._process.kill()
            self._process.wait()
        self._reader.join(STOP_SECONDS)
        assert self._process.stderr is not None
        self._process.stderr.close()
        assert not late, f"the server did not stop:\n{self.log}"


@contextlib.contextmanager
def served(directory: Path, module: str) -> Iterator[Served]:
    """The app of that module, served while the block runs. Fails if the server logged a traceback."""
    server = Served(directory, module)
    try:
        server.wait_until_running()
        yield server
    finally:
        server.stop()
    assert "Traceback" not in server.log, server.log
