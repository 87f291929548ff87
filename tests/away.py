"""A log that goes away and comes back, as one over a network does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

from websocket_core.errors import LogUnavailable
from websocket_core.events import Event
from websocket_core.identity import LogName
from websocket_core.limits import Retention
from websocket_core.log import Batch, Entry, Position
from websocket_core.logs.memory import MemoryLog

Way = Literal["killed", "frozen"]


class AwayLog(MemoryLog):
    """A `MemoryLog` that can be asked whether it is there.

    `killed`: every call raises at once. `frozen`: every call waits for its return, or with `patience` for so many
    seconds. What was called before goes on as if nothing were the matter.
    """

    def __init__(self, retention: Retention | None = None, *, patience: float | None = None) -> None:
        super().__init__(retention, monotonic=asyncio.get_running_loop().time)
        self.way: Way | None = None
        self.patience = patience
        self.checks: list[float] = []
        """When it was asked whether it is there, in the loop's time."""
        self.reads = 0
        self.deaf = False
        """Whether wake-ups are lost."""
        self._back = asyncio.Event()

    def go_away(self, way: Way = "killed") -> None:
        self.way = way
        self._back.clear()

    def come_back(self) -> None:
        self.way = None
        self._back.set()

    async def _reach(self) -> None:
        await asyncio.sleep(0)
        if self.way == "killed":
            raise LogUnavailable("connection refused")
        if self.way == "frozen":
            try:
                async with asyncio.timeout(self.patience):
                    await self._back.wait()
            except TimeoutError:
                raise LogUnavailable("no answer in time") from None

    async def check(self) -> None:
        self.checks.append(asyncio.get_running_loop().time())
        await self._reach()

    async def open(self, log: LogName) -> Position:
        await self._reach()
        return await super().open(log)

    async def read(self, log: LogName, after: Position | None, limit: int) -> Batch:
        self.reads += 1
        await self._reach()
        return await super().read(log, after, limit)

    async def control(self, log: LogName) -> Entry | None:
        await self._reach()
        return await super().control(log)

    async def append(self, log: LogName, event: Event) -> Position:
        await self._reach()
        return await super().append(log, event)

    async def append_elsewhere(self, log: LogName, event: Event) -> Position:
        """What another process appends, which reaches the store."""
        return await super().append(log, event)

    def watch(self, log: LogName, wake: Callable[[], None]) -> Callable[[], None]:
        return super().watch(log, lambda: None if self.deaf else wake())
