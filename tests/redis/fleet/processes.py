"""The processes of a fleet, started and stopped by their ids, and the clients that look at them."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

import httpx

from tests.redis.fleet.client import Tab
from tests.redis.fleet.emitter import Work, read_journal
from tests.redis.fleet.ledger import Place, Promise, Story
from tests.redis.fleet.node import VARIABLE, token
from tests.simulation.ledger import Secrets
from websocket_core.errors import LogUnavailable
from websocket_core.identity import LogName, UserId
from websocket_core.logs.redis import RedisLog

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 20.0
SERVING: Final = re.compile(r"^Serving \S+ on (\S+)$", re.MULTILINE)
COMPLAINTS: Final = {
    "isolation_violations": "isolation violation",
    "crashes": "crashed",
    "tracebacks": "Traceback (most recent call last)",
}
"""What must not stand in anything that a process writes to standard error."""


async def wait_for(condition: Callable[[], object], what: str, seconds: float) -> None:
    """Wait until the condition holds. Raises `AssertionError`."""
    if not await comes_about(condition, seconds):
        raise AssertionError(f"{what} did not come about within {seconds:g} s")


async def comes_about(condition: Callable[[], object], seconds: float) -> bool:
    """Whether the condition holds within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.01)
    return True


class Process:
    """One process of ours. What it writes goes to a file."""

    def __init__(self, path: Path, command: Sequence[str], environment: dict[str, str], work: Work) -> None:
        self.path = path
        self.work = work
        self.address = ""
        """Where it serves, once it has started; empty for one that does not."""
        paths = os.pathsep.join(each for each in sys.path if each)
        with path.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, *command],
                cwd=path.parent,
                env={**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def errors(self) -> str:
        return self.path.read_text(encoding="utf-8", errors="replace")

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()
        self._process.wait()

    async def emits(self) -> None:
        """Wait until a worker has begun: before, SIGTERM would not end it in order."""
        await wait_for(
            lambda: Path(self.work.journal).exists() or not self.runs, "the start of a worker process", START_SECONDS
        )

    async def stop(self) -> bool:
        """SIGTERM; whether it ended in order."""
        self.signal(signal.SIGTERM)
        ended = await comes_about(lambda: not self.runs, STOP_SECONDS)
        self.kill()
        return ended and self._process.returncode == 0

    async def serves(self) -> None:
        """Wait until it serves. Raises `AssertionError`."""
        found: list[str] = []

        def looks() -> bool:
            found[:] = SERVING.findall(self.errors)
            return bool(found) or not self.runs

        await wait_for(looks, "the start of a server process", START_SECONDS)
        assert found, self.errors
        self.address = found[0]


class Fleet:
    """`async with Fleet(...) as fleet:`; at the end every process is gone, whatever happened."""

    def __init__(
        self,
        directory: Path,
        url: str,
        *,
        users: int | Sequence[str] = 8,
        namespace: str = "fleet",
        seed: int = 1,
        rate: float = 20.0,
        large: float = 0.0,
    ) -> None:
        self.directory = directory
        self.users = tuple(f"user-{number}" for number in range(users)) if isinstance(users, int) else tuple(users)
        self.nodes: list[Process] = []
        """Server processes that were started and not killed; some may stand still."""
        self.workers: list[Process] = []
        self.tabs: list[Tab] = []
        self.rng = random.Random(f"{seed}/fleet")
        self.restarts = 0
        self._work = Work(url, namespace, seed, self.users, rate=rate, large=large)
        self._all: list[Process] = []
        self.journals: list[Path] = []
        self._lanes = itertools.count(1)
        self._living: list[asyncio.Task[None]] = []
        self._late: dict[str, Tab] = {}
        self._badly_ended = 0
        self._tokens = {user: token(user) for user in self.users}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        try:
            await self.leave()
        finally:
            for process in self._all:
                process.kill()

    # -- processes

    def _emitting(self, users: Iterable[str] | None, url: str | None) -> Work:
        """Work for a process: one lane for each of these users."""
        work = self._work if url is None else replace(self._work, url=url)
        if users is None:
            return work
        path = self.directory / f"journal-{len(self.journals)}"
        self.journals.append(path)
        return replace(work, journal=str(path), lanes=tuple((user, next(self._lanes)) for user in users))

    def _start(self, name: str, command: Sequence[str], environment: dict[str, str], work: Work) -> Process:
        process = Process(self.directory / f"{name}-{len(self._all)}.err", command, environment, work)
        self._all.append(process)
        return process

    async def start(
        self, nodes: int, workers: int = 0, *, emits: Iterable[str] | None = None, url: str | None = None
    ) -> None:
        """Start processes: servers, which emit for the users in `emits`, and workers, which emit for everybody."""
        started = [self.begin_node(emits, url) for _ in range(nodes)]
        for _ in range(workers):
            self.start_worker(url=url)
        for process in started:
            await self.serving(process)

    def begin_node(self, emits: Iterable[str] | None = None, url: str | None = None) -> Process:
        work = self._emitting(emits, url)
        command = "-m websocket_core serve tests.redis.fleet.node:create --factory --port 0 --drain 1".split()
        return self._start("node", command, {VARIABLE: work.to_json()}, work)

    async def serving(self, process: Process) -> None:
        """Wait until it serves, and tell the clients."""
        await process.serves()
        self.nodes.append(process)

    def start_worker(self, users: Iterable[str] | None = None, url: str | None = None) -> Process:
        work = self._emitting(self.users if users is None else users, url)
        worker = self._start("worker", ["-m", "tests.redis.fleet.emitter", work.to_json()], {}, work)
        self.workers.append(worker)
        return worker

    def kill(self, process: Process) -> None:
        """SIGKILL."""
        process.kill()
        for running in (self.nodes, self.workers):
            if process in running:
                running.remove(process)

    async def stopped(self, process: Process) -> None:
        """SIGTERM, and wait until it has ended in order."""
        self._badly_ended += not await process.stop()

    async def replace_killed(self, process: Process) -> None:
        """Start another one in the place of a server or worker that was killed, to do the same for the same users."""
        users = [user for user, _ in process.work.lanes] if process.work.journal else None
        self.restarts += 1
        if process.address:
            await self.serving(self.begin_node(users, process.work.url))
        else:
            self.start_worker(users, process.work.url)

    # -- clients

    def addresses(self) -> list[str]:
        return [node.address for node in self.nodes]

    def open(self, user: str, *, addresses: Callable[[], Sequence[str]] | None = None, **options: float | bool) -> Tab:
        """A tab of that user, which lives from now on."""
        name = f"{user}/{len(self.tabs)}"
        tab = self._tab(name, user, addresses or self.addresses, **options)
        self.tabs.append(tab)
        return tab

    def _tab(self, name: str, user: str, addresses: Callable[[], Sequence[str]], **options: float | bool) -> Tab:
        rng = random.Random(self.rng.getrandbits(64))
        tab = Tab(name, user, self._tokens[user], addresses, rng=rng, **options)  # type: ignore[arg-type]
        self._living.append(asyncio.create_task(tab.live()))
        return tab

    async def leave(self) -> None:
        """All clients go."""
        living, self._living = self._living, []
        for each in living:
            each.cancel()
        if living:
            await asyncio.wait(living)
        for each in living:
            if not each.cancelled():
                each.result()  # a client that crashed proves nothing

    # -- the end

    async def halt(self) -> None:
        """Nobody emits any more, and all that was begun is acknowledged."""
        async with httpx.AsyncClient(trust_env=False, timeout=STOP_SECONDS) as http:
            for node in self.nodes:
                (await http.post(f"{node.address}/halt")).raise_for_status()
        for worker in self.workers:
            await worker.emits()
            await self.stopped(worker)
        self.workers.clear()

    async def settle(self, url: str, seconds: float = 25.0) -> bool:
        """Wait until every client stands where its log ends, one included that comes now, without a cursor. Whether
        that came about."""
        for user in self.users:
            self._late[user] = self._tab(f"{user}/late", user, self.addresses)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            heads = await self._heads(url)
            tabs = [*self.tabs, *self._late.values()]
            if heads and await comes_about(lambda: all(tab.place == heads[tab.user] for tab in tabs), 1.0):  # noqa: B023
                return True
        return False

    async def _heads(self, url: str) -> dict[str, Place]:
        log = RedisLog(url, namespace=self._work.namespace)
        try:
            heads = await asyncio.gather(*[log.open(LogName.of_user(UserId(user))) for user in self.users])
        except LogUnavailable:
            return {}
        finally:
            await log.close()
        return {user: Place(*head) for user, head in zip(self.users, heads, strict=True)}

    async def story(self, promise: Promise) -> Story:
        """All that is known, for the ledger."""
        story = Story(Secrets(self._work.seed, list(self.users)), promise)
        for journal in self.journals:
            story.journals += read_journal(journal)
        story.tabs = {tab.name: list(tab.records) for tab in self.tabs}
        story.last = {user: list(tab.records) for user, tab in self._late.items()}
        story.residue = {"processes that did not end in order": self._badly_ended}
        for process in self._all:
            errors = process.errors
            for name, words in COMPLAINTS.items():
                if count := errors.count(words):
                    story.residue[f"{name} of {process.path.stem}"] = count
        for node in self.nodes:
            story.residue[f"isolation_violations of {node.path.stem}, counted"] = int(
                await metric(node, "isolation_violations_total")
            )
        return story


async def metric(node: Process, name: str) -> float:
    async with httpx.AsyncClient(trust_env=False, timeout=STOP_SECONDS) as http:
        text = (await http.get(f"{node.address}/metrics")).text
    return float(next(line for line in text.splitlines() if line.startswith(f"{name} ")).split()[1])
