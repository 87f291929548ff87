"""Logs by their oldest entry, so that what has expired is found without looking at the rest."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from typing import Generic, Protocol, TypeVar

from websocket_core.identity import LogName


class Aged(Protocol):
    """A log as it is filed. `due` belongs to `Ages`, and is None while the log is not filed."""

    name: LogName
    due: float | None


T = TypeVar("T", bound=Aged)


class Ages(Generic[T]):
    """A heap of the logs in `logs`, each under a time that its oldest entry is not older than.

    A log stays where it is while it loses its oldest entries, and is filed anew when it is taken out. An item counts
    while its log says the same in `due`; those of logs that are gone are at most half of the heap, and 64.
    """

    def __init__(self, logs: Mapping[LogName, T]) -> None:
        self._logs = logs
        self._heap: list[tuple[float, LogName]] = []
        self._filed = 0

    def file(self, log: T, oldest: float) -> None:
        log.due = oldest
        heappush(self._heap, (oldest, log.name))
        self._filed += 1

    def discard(self, log: T) -> None:
        """Call this for a log that is no longer in `logs`."""
        if log.due is not None:
            log.due = None
            self._filed -= 1
            while self._heap and self._find(self._heap[0]) is None:
                heappop(self._heap)
            if len(self._heap) > 64 + 2 * self._filed:
                self._heap = [item for item in self._heap if self._find(item) is not None]
                heapify(self._heap)

    def reach(self, horizon: float) -> bool:
        """Whether there is something to take from before the horizon."""
        return bool(self._heap) and self._heap[0][0] < horizon

    def take(self) -> T | None:
        """Take out the first log; None if it is one that is gone."""
        log = self._find(heappop(self._heap))
        if log is not None:
            log.due = None
            self._filed -= 1
        return log

    def _find(self, item: tuple[float, LogName]) -> T | None:
        due, name = item
        log = self._logs.get(name)
        return log if log is not None and log.due == due else None
