"""Runs the fleet: `python -m examples.fleet [--host 127.0.0.1] [--port 8000] [--redis URL]`."""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time

from examples.fleet.redis_process import RedisMissing, RedisProcess

SERVERS = 3
RESTART_SECONDS = 1.0
"""So long a process stays dead, so that it can be seen."""


class Fleet:
    """The processes by name. One that ends is started again; `run` returns when this one is told to end.

    All servers accept from the one listening socket that they inherit: there is nothing between a client and its
    server, and a server that is killed takes only its own connections along.
    """

    def __init__(self, listening: socket.socket, redis_url: str) -> None:
        self._listening = listening
        self._orders, told = os.pipe()
        os.set_inheritable(told, True)
        self._environment = {
            **os.environ,
            "FLEET_REDIS": redis_url,
            "FLEET_KEY": secrets.token_urlsafe(48),
            "FLEET_SOCKET": str(listening.fileno()),
            "FLEET_ORDERS": str(told),
        }
        self._inherited = (listening.fileno(), told)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._due = {**{f"server-{number}": 0.0 for number in range(1, SERVERS + 1)}, "worker-1": 0.0}

    def run(self) -> None:
        """Keep the processes alive, and carry out what they ask for."""
        try:
            while True:
                self._start_what_is_due()
                readable, _, _ = select.select([self._orders], [], [], 0.1)
                for name in os.read(self._orders, 4096).decode(errors="replace").split("\n") if readable else ():
                    if (process := self._processes.get(name)) is not None:
                        process.kill()
        finally:
            self._end()

    def _start_what_is_due(self) -> None:
        for name, due in self._due.items():
            process = self._processes.get(name)
            if process is not None and process.poll() is not None:
                print(f"{name} (process {process.pid}) has ended; another takes its place", flush=True)
                del self._processes[name]
                self._due[name] = time.monotonic() + RESTART_SECONDS
            elif process is None and time.monotonic() >= due:
                module = f"examples.fleet.{name.partition('-')[0]}"
                self._processes[name] = subprocess.Popen(
                    [sys.executable, "-m", module, name], env=self._environment, pass_fds=self._inherited
                )

    def _end(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10.0)
            process.kill()
            process.wait()


def main() -> None:
    """Prints the address to open, then runs until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m examples.fleet", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
    parser.add_argument("--redis", metavar="URL", help="a Redis that runs already (default: one of its own)")
    options = parser.parse_args()
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        listening = socket.create_server((options.host, options.port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        raise SystemExit(f"Cannot listen on {options.host}:{options.port} ({error}). Choose another --port.") from error
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.suppress(KeyboardInterrupt))
        stack.enter_context(listening)
        redis_url = options.redis
        if redis_url is None:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="fleet-redis-"))
            try:
                redis_url = stack.enter_context(RedisProcess(directory)).url
            except RedisMissing as error:
                raise SystemExit(str(error)) from error
        shown = f"[{options.host}]" if ":" in options.host else options.host
        port = listening.getsockname()[1]
        print(f"Fleet: open http://{shown}:{port}/?left=alice&right=bob in a browser. Ctrl+C stops it.", flush=True)
        Fleet(listening, redis_url).run()


if __name__ == "__main__":
    main()
