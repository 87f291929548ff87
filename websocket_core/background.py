"""`Background`: the tasks that run as long as a manager does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping


class Background:
    """Jobs by name, each of which runs until it is stopped. Owned by a manager, in one event loop at a time."""

    def __init__(self, jobs: Mapping[str, Callable[[], Coroutine[None, None, None]]]) -> None:
        self._jobs = dict(jobs)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def running(self) -> bool:
        """Whether all jobs run."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks.values())

    def start(self) -> None:
        """Start the jobs that do not run."""
        loop = asyncio.get_running_loop()
        for name, job in self._jobs.items():
            task = self._tasks.get(name)
            if task is None or task.done():
                # Ended by `stop`, or gone with a loop that is replaced.
                self._tasks[name] = loop.create_task(job(), name=f"websocket_core {name}")

    async def stop(self) -> None:
        """End them all."""
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()))
        self._tasks.clear()

    def forget(self) -> None:
        """Forget the tasks of a loop that is gone."""
        self._tasks.clear()
