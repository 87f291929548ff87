"""The runs under way: a few per user, owned by one task group, cancelled when the application stops."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from types import TracebackType

from examples.docs_agent.library import DocumentNotFound
from websocket_core.identity import UserId

logger = logging.getLogger(__name__)


class TooManyRuns(Exception):
    """This user, or everybody together, has as many runs under way as the demo allows. Wait, or stop one."""


class Runs:
    """Starts runs while its block is open. Leaving the block cancels what is under way and waits for it."""

    def __init__(self, *, per_user: int = 4, total: int = 64) -> None:
        self._per_user = per_user
        self._total = total
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()
        self._users: Counter[UserId] = Counter()

    async def __aenter__(self) -> Runs:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await self._group.__aexit__(kind, error, trace)

    def start(self, user: UserId, work: Callable[[], Coroutine[None, None, None]]) -> None:
        """Starts one run of that user, or raises `TooManyRuns`. Its end is told to the user by its own events."""
        if self._users[user] >= self._per_user or len(self._tasks) >= self._total:
            raise TooManyRuns
        task = self._group.create_task(_watched(work()))
        self._tasks.add(task)
        self._users[user] += 1
        task.add_done_callback(lambda done: self._ended(user, done))

    def _ended(self, user: UserId, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._users[user] -= 1
        if not self._users[user]:
            del self._users[user]


async def _watched(work: Coroutine[None, None, None]) -> None:
    # The edge of a run: whatever it raises was already told to its user as `agent_error`, and must not end other runs.
    try:
        await work
    except DocumentNotFound:
        pass
    except Exception:
        logger.exception("a run of the demo failed")
