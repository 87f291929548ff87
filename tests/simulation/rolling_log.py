"""A log store that keeps every law of `websocket_core.log` and can be rolled back to what it held a while ago, as a
database does that had not yet written its last seconds to disk when it died.

After a rollback epochs are what they were, and offsets are used again for other entries. Only marks tell: each attempt
to append draws one, so that an entry which is appended once more is another entry.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from websocket_core.control import CONTROL
from websocket_core.events import Event, random_text
from websocket_core.identity import LogName
from websocket_core.limits import Limits, Retention
from websocket_core.log import Batch, Entry, GapReason, Position

SNAPSHOTS: Final = 4
"""So many snapshots are kept."""


@dataclass(slots=True)
class _Log:
    """What is stored of one log."""

    epoch: str
    head: int = 0
    mark: str = ""
    entries: list[Entry] = field(default_factory=list)
    """Those that are retained."""
    ids: dict[str, Position] = field(default_factory=dict)
    """Of the retained entries, by event id."""
    bytes: int = 0
    control: Entry | None = None
    """The last control entry, retained or not."""

    def copy(self) -> _Log:
        return replace(self, entries=self.entries[:], ids=dict(self.ids))

    def base(self) -> Position:
        """The position before the oldest retained entry; the head if there is none."""
        if not self.entries:
            return Position(self.epoch, self.head, self.mark)
        return Position(self.epoch, self.entries[0].offset - 1, self.entries[0].prev)

    def fault(self, position: Position) -> GapReason | None:
        """Why the position is not honoured; None if it is."""
        base = self.base()
        if position.epoch != self.epoch:
            return GapReason.NEW_EPOCH
        if position.offset > self.head:
            return GapReason.DIVERGED
        if position.offset < base.offset:
            return GapReason.TRIMMED
        stands = position.offset - base.offset
        held = self.entries[stands - 1].mark if stands else base.mark
        return None if held == position.mark else GapReason.DIVERGED

    def append(self, log: LogName, event: Event, mark: str, at: float) -> None:
        self.head += 1
        entry = Entry(log, self.epoch, self.head, mark, self.mark, event, at)
        self.entries.append(entry)
        if event.connection_id == CONTROL:
            self.control = entry
        self.mark = mark
        self.ids[event.id] = Position(self.epoch, self.head, mark)
        self.bytes += len(event.body)

    def drop_oldest(self) -> None:
        oldest = self.entries.pop(0)
        self.bytes -= len(oldest.event.body)
        if self.ids.get(oldest.event.id) == oldest.position:
            del self.ids[oldest.event.id]

    def drop_old(self, horizon: float) -> None:
        while self.entries and self.entries[0].at < horizon:
            self.drop_oldest()


class RollingLog:
    """A `LogStore` that several servers may share, one after the other, and that outlives them."""

    def __init__(
        self,
        retention: Retention,
        *,
        limits: Limits | None = None,
        monotonic: Callable[[], float],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._retention = retention
        self._batch_bytes = (limits or Limits()).batch_bytes
        self._monotonic = monotonic
        self._entropy = entropy
        self._logs: dict[LogName, _Log] = {}
        self._watchers: dict[LogName, dict[int, Callable[[], None]]] = {}
        self._numbers = itertools.count(1)
        self._snapshots: dict[int, dict[LogName, _Log]] = {}

    # -- what a database that dies does

    @property
    def snapshots(self) -> list[int]:
        """The numbers of those that can be rolled back to, oldest first."""
        return list(self._snapshots)

    def save(self) -> int:
        """Remember everything as it is now; the number of this snapshot."""
        number = next(self._numbers)
        self._snapshots[number] = {name: held.copy() for name, held in self._logs.items()}
        while len(self._snapshots) > SNAPSHOTS:
            del self._snapshots[next(iter(self._snapshots))]
        return number

    def roll_back(self, number: int, *, wake: bool) -> int:
        """Hold what was held at that snapshot, and nothing that came later; how many entries are lost by that. With
        `wake` everybody who watches is told to look, as when connections to a database are made anew."""
        saved = self._snapshots[number]
        self._snapshots = {each: held for each, held in self._snapshots.items() if each <= number}
        lost = 0
        for name, held in self._logs.items():
            kept = saved.get(name)
            lost += held.head - (kept.head if kept is not None and kept.epoch == held.epoch else 0)
        self._logs = {name: held.copy() for name, held in saved.items()}
        if wake:
            for name in list(self._watchers):
                self._wake(name)
        return lost

    def watched(self) -> int:
        """How many watch."""
        return sum(map(len, self._watchers.values()))

    # -- what every log does

    async def open(self, log: LogName) -> Position:
        held = self._get(log)
        return Position(held.epoch, held.head, held.mark)

    async def read(self, log: LogName, after: Position | None, limit: int) -> Batch:
        held = self._logs.get(log)
        if held is None:
            return Batch(None, (), False, None if after is None else GapReason.NEW_EPOCH)
        held.drop_old(self._horizon())
        base = held.base()
        gap = None if after is None else held.fault(after)
        start = base if after is None or gap is not None else after
        following = held.entries[start.offset - base.offset :]
        entries: list[Entry] = []
        size = 0
        for entry in following[:limit]:
            size += len(entry.event.body)
            if entries and size > self._batch_bytes:
                break
            entries.append(entry)
        return Batch(start, entries, len(entries) < len(following), gap)

    async def control(self, log: LogName) -> Entry | None:
        held = self._logs.get(log)
        return None if held is None else held.control

    def watch(self, log: LogName, wake: Callable[[], None]) -> Callable[[], None]:
        number = next(self._numbers)
        self._watchers.setdefault(log, {})[number] = wake

        def unwatch() -> None:
            self._watchers.get(log, {}).pop(number, None)

        return unwatch

    async def append(self, log: LogName, event: Event) -> Position:
        mark = random_text(self._entropy, 9)
        held = self._get(log)
        held.drop_old(self._horizon())
        known = held.ids.get(event.id)
        if known is not None:
            return known
        held.append(log, event, mark, self._monotonic())
        retention = self._retention
        while len(held.entries) > retention.events or (held.bytes > retention.bytes and len(held.entries) > 1):
            held.drop_oldest()
        self._wake(log)
        return Position(held.epoch, held.head, mark)

    async def forget(self, log: LogName) -> None:
        if self._logs.pop(log, None) is not None:
            self._wake(log)

    async def expire(self) -> None:
        for held in self._logs.values():
            held.drop_old(self._horizon())

    async def close(self) -> None:
        """Nothing is held open."""

    def _get(self, log: LogName) -> _Log:
        """What is stored of that log, which is made if there is nothing."""
        held = self._logs.get(log)
        if held is None:
            held = self._logs[log] = _Log(random_text(self._entropy, 6))
        return held

    def _horizon(self) -> float:
        return self._monotonic() - self._retention.age

    def _wake(self, log: LogName) -> None:
        for wake in list(self._watchers.get(log, {}).values()):
            wake()
