"""`python -m tests.redis.fleet.emitter`: a worker process without connections that emits, and writes down what.

Each line of its journal is `[kind, when, user, lane, n, cursor]`, handed to the kernel before the emission and after
the acknowledgement, so that a process which is killed has left everything behind that counts. It ends on SIGTERM, when
every emission that was begun has been acknowledged.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

from tests.redis.fleet.ledger import KIND, Fact
from tests.simulation.ledger import Secrets
from websocket_core.errors import AppendFailed, LogUnavailable, ManagerClosed
from websocket_core.limits import Limits, Retention, RetryPolicy
from websocket_core.unified_emitter import UnifiedWebSocketEmitter
from websocket_core.unified_manager import UnifiedWebSocketManager
from websocket_core.wire import encode_cursor
from websocket_core.worker import Worker

LARGE: Final = 40_000
RETENTION: Final = Retention(events=200_000, bytes=256 * 2**20)
"""More than a run emits: what is missing was lost and not trimmed."""
LIMITS: Final = Limits(heartbeat=1.0, heartbeat_timeout=6.0, sweep_interval=0.2, connections_per_user=1_000)
"""Nobody has to make room for another tab, which would be ordered by an entry that nobody is shown: as it is, whatever
stands in a log is shown to every reader, without a hole."""
RETRY: Final = RetryPolicy(attempts=6, seconds=6.0)


@dataclass(frozen=True, slots=True)
class Work:
    """What one process is to emit."""

    url: str
    namespace: str
    seed: int
    users: tuple[str, ...]
    """All users there are."""
    journal: str = ""
    """Where to write it down; empty for a process that emits nothing."""
    lanes: tuple[tuple[str, int], ...] = ()
    """Users and the numbers of the lanes for them."""
    rate: float = 20.0
    """Events per second of each lane."""
    large: float = 0.0
    """Which part of the events is so large that it fills buffers."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        fields = json.loads(text)
        lanes = tuple((str(user), int(lane)) for user, lane in fields.pop("lanes"))
        return cls(**{**fields, "users": tuple(fields["users"])}, lanes=lanes)

    def manager(self) -> UnifiedWebSocketManager:
        """As an application would make it."""
        return UnifiedWebSocketManager(
            self.url, namespace=self.namespace, limits=LIMITS, retention=RETENTION, retry=RETRY
        )

    def worker(self) -> Worker:
        """The same for a process that serves nobody."""
        return Worker(self.url, namespace=self.namespace, limits=LIMITS, retention=RETENTION, retry=RETRY)


class Journal:
    """A file to which lines are only ever added."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, kind: str, fact: Fact, cursor: str = "") -> None:
        line = json.dumps([kind, time.monotonic(), fact.user, fact.lane, fact.n, cursor])
        os.write(self._file, line.encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)


def read_journal(path: Path) -> list[str]:
    """The lines that are whole: the last one may have been cut by a kill."""
    return [] if not path.exists() else path.read_text(encoding="utf-8").split("\n")[:-1]


class Emitting:
    """The lanes of one process, each a task that emits one event after the other."""

    def __init__(self, emitter_of: Callable[[str], UnifiedWebSocketEmitter], work: Work) -> None:
        self._emitter_of = emitter_of
        self._work = work
        self._secrets = Secrets(work.seed, list(work.users))
        self._journal = Journal(work.journal)
        self._stopped = asyncio.Event()
        self._lanes = [asyncio.create_task(self._lane(user, lane)) for user, lane in work.lanes]

    async def stop(self) -> None:
        """Begin nothing more, and wait until what was begun has been acknowledged."""
        self._stopped.set()
        if self._lanes:
            await asyncio.wait(self._lanes)
        self._journal.close()
        for lane in self._lanes:
            lane.result()

    async def _lane(self, user: str, lane: int) -> None:
        rng = random.Random(f"{self._work.seed}/{lane}")
        emitter = self._emitter_of(user)
        n = 0
        while not self._stopped.is_set():
            for _ in range(rng.choice((1, 1, 1, 5))):
                n += 1
                fact = Fact(user, lane, n)
                data = fact.data(self._secrets, LARGE if rng.random() < self._work.large else 0)
                self._journal.note("invoked", fact)
                while True:
                    try:
                        position = await emitter.emit(KIND, data, event_id=fact.id)
                    except (AppendFailed, LogUnavailable):  # as `AppendFailed` asks: again, with the same id
                        self._journal.note("failed", fact)
                        continue
                    except ManagerClosed:
                        return
                    break
                self._journal.note("acknowledged", fact, encode_cursor(position))
            wait = asyncio.create_task(self._stopped.wait())
            await asyncio.wait([wait], timeout=rng.expovariate(self._work.rate / 2.0))
            wait.cancel()


async def work_until_told(work: Work) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with work.worker() as worker:
        emitting = Emitting(worker.emitter, work)
        await stopped.wait()
        await emitting.stop()


def main(arguments: Sequence[str]) -> None:
    asyncio.run(work_until_told(Work.from_json(arguments[0])))


if __name__ == "__main__":
    main(sys.argv[1:])
