"""`Queues`: the work queues beside a log, each made when it is first asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from websocket_core.errors import InvalidConfiguration
from websocket_core.identity import text_fault
from websocket_core.log import LogStore
from websocket_core.work import MemoryWork, WorkLimits, WorkQueue


@runtime_checkable
class KeepsWork(Protocol):
    """A log whose store also keeps work, for all processes that share it."""

    def work(self, queue: str, limits: WorkLimits) -> WorkQueue: ...


class Queues:
    """The queues beside one log, by name. A log that keeps none has them in this process."""

    def __init__(
        self,
        log: LogStore,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._clock = clock
        self._monotonic = monotonic
        self._queues: dict[str, tuple[WorkLimits, WorkQueue]] = {}

    def of(self, name: str, limits: WorkLimits) -> WorkQueue:
        """The queue of that name. Raises `InvalidConfiguration` for a name that is none, and for other limits than it
        has."""
        if fault := text_fault(name, characters=64, utf8_bytes=256):
            raise InvalidConfiguration(f"this is not the name of a queue: {fault}")
        known = self._queues.get(name)
        if known is None:
            if isinstance(self._log, KeepsWork):
                queue = self._log.work(name, limits)
            else:
                queue = MemoryWork(limits, clock=self._clock, monotonic=self._monotonic)
            known = self._queues[name] = (limits, queue)
        if known[0] != limits:
            raise InvalidConfiguration(f"the queue {name!r} is in use with other limits")
        return known[1]
