"""The log of one process: fast, bounded, and gone with the process.

Every method runs without giving up the event loop, which makes each of them one atomic step.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from websocket_core.events import Event, random_text
from websocket_core.identity import LogName
from websocket_core.limits import Limits, Retention
from websocket_core.log import Batch, Entry, GapReason, Position

ENTRY_OVERHEAD: Final = 400
"""Bytes that an entry takes beside its body, for `Retention.total_bytes`; measured with tracemalloc, CPython 3.11."""


class _Log:
    """One log. `entries[start:]` are retained; what is before `start` is None and waits to be cut off in bulk."""

    __slots__ = (
        "bytes",
        "entries",
        "epoch",
        "head",
        "ids",
        "mark",
        "name",
        "size_class",
        "start",
        "watchers",
    )

    def __init__(self, name: LogName, epoch: str) -> None:
        self.name = name
        self.epoch = epoch
        self.entries: list[Entry | None] = []
        self.start = 0
        self.head = 0
        self.mark = ""
        self.ids: dict[str, int] = {}
        self.bytes = 0
        self.size_class = 0
        self.watchers: tuple[Callable[[], None], ...] = ()

    def __len__(self) -> int:
        return len(self.entries) - self.start

    def at(self, offset: int) -> Entry:
        """The retained entry at that offset."""
        entry = self.entries[len(self.entries) - 1 - (self.head - offset)]
        assert entry is not None
        return entry

    @property
    def oldest(self) -> int:
        """The offset of the oldest retained entry; past the head if there is none."""
        return self.head - len(self) + 1

    def base(self) -> Position:
        """The position before the oldest retained entry; the head if there is none."""
        mark = self.at(self.oldest).prev if len(self) else self.mark
        return Position(self.epoch, self.oldest - 1, mark)

    def fault(self, position: Position) -> GapReason | None:
        """Why the position is not honoured; None if it is."""
        epoch, offset, mark = position
        if epoch != self.epoch:
            return GapReason.NEW_EPOCH
        if offset > self.head:
            return GapReason.DIVERGED
        base = self.base()
        if offset < base.offset:
            return GapReason.TRIMMED
        held = base.mark if offset == base.offset else self.at(offset).mark
        return None if held == mark else GapReason.DIVERGED

    def drop_oldest(self) -> int:
        """Drop the oldest entry; the bytes of its body."""
        entry = self.entries[self.start]
        assert entry is not None
        self.entries[self.start] = None
        self.start += 1
        if self.start > 64 and self.start * 2 > len(self.entries):
            del self.entries[: self.start]
            self.start = 0
        if self.ids.get(entry.event.id) == entry.offset:
            del self.ids[entry.event.id]
        size = len(entry.event.body)
        self.bytes -= size
        return size


def _size_class(size: int) -> int:
    """Logs of one class differ in size by at most a quarter."""
    bits = size.bit_length()
    return size if bits <= 3 else (bits << 2) | ((size >> (bits - 3)) & 3)


class MemoryLog:
    """A `LogStore` in the memory of this process.

    Marks are event ids, since nothing here can roll back. A log costs about 600 bytes and grows as it is used. With
    all logs together above `retention.total_bytes`, the largest is trimmed first, where sizes that differ by less
    than a quarter count as equal.
    """

    def __init__(
        self,
        retention: Retention | None = None,
        *,
        limits: Limits | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._retention = retention or Retention()
        self._batch_bytes = (limits or Limits()).batch_bytes
        self._monotonic = monotonic
        self._entropy = entropy
        self._logs: OrderedDict[LogName, _Log] = OrderedDict()  # those that hold entries, longest unused first
        self._heads: OrderedDict[LogName, _Log] = OrderedDict()  # those that hold none, longest unused first
        self._classes: dict[int, OrderedDict[LogName, _Log]] = {}
        self._cost = 0

    async def open(self, log: LogName) -> Position:
        held = self._get(log)
        return Position(held.epoch, held.head, held.mark)

    async def read(self, log: LogName, after: Position | None, limit: int) -> Batch:
        held = self._logs.get(log) or self._heads.get(log)
        if held is None:
            return Batch(None, (), False, GapReason.NEW_EPOCH if after is not None else None)
        self._drop_old(held)
        gap = held.fault(after) if after is not None else None
        start = held.base() if after is None or gap is not None else after
        first = len(held.entries) - (held.head - start.offset)
        entries: list[Entry] = []
        size = 0
        for index in range(first, min(first + limit, len(held.entries))):
            entry = held.entries[index]
            assert entry is not None
            size += len(entry.event.body)
            if entries and size > self._batch_bytes:
                break
            entries.append(entry)
        return Batch(start, entries, start.offset + len(entries) < held.head, gap)

    def watch(self, log: LogName, wake: Callable[[], None]) -> Callable[[], None]:
        held = self._get(log)
        held.watchers = (*held.watchers, wake)

        def unwatch() -> None:
            # The log of that name may have been forgotten and made again; its watchers moved with it.
            current = self._logs.get(log) or self._heads.get(log)
            if current is not None:
                rest = list(current.watchers)
                if wake in rest:
                    rest.remove(wake)
                current.watchers = tuple(rest)

        return unwatch

    async def append(self, log: LogName, event: Event) -> Position:
        held = self._get(log)
        known = held.ids.get(event.id)
        if known is not None:
            return held.at(known).position
        offset = held.head + 1
        now = self._monotonic()
        entry = Entry(log, held.epoch, offset, event.id, held.mark, event, now)
        held.entries.append(entry)
        held.ids[event.id] = offset
        held.head = offset
        held.mark = event.id
        size = len(event.body)
        held.bytes += size
        self._cost += size + ENTRY_OVERHEAD
        if len(held) == 1:
            self._heads.pop(log, None)
            self._logs[log] = held
        self._logs.move_to_end(log)
        self._trim(held, now)
        for wake in held.watchers:
            wake()
        return entry.position

    async def forget(self, log: LogName) -> None:
        held = self._logs.get(log) or self._heads.get(log)
        if held is None:
            return
        while len(held):
            self._drop(held)
        self._heads.pop(log, None)
        if held.watchers:  # somebody is connected: the log lives on under a new epoch, and they learn of it
            successor = self._get(log)
            successor.watchers = held.watchers
            for wake in successor.watchers:
                wake()

    async def expire(self) -> None:
        horizon = self._monotonic() - self._retention.age
        while self._logs:
            held = next(iter(self._logs.values()))
            newest = held.entries[-1]
            assert newest is not None
            if newest.at >= horizon:
                break
            while len(held):
                self._drop(held)

    async def close(self) -> None:
        """Nothing is held open."""

    def statistics(self) -> dict[str, int]:
        """How much is held: `logs` with entries, `heads` of empty logs, `entries`, `bytes` of bodies."""
        return {
            "logs": len(self._logs),
            "heads": len(self._heads),
            "entries": sum(len(held) for held in self._logs.values()),
            "bytes": sum(held.bytes for held in self._logs.values()),
        }

    def _get(self, name: LogName) -> _Log:
        """The log of that name, made if there is none."""
        held = self._logs.get(name)
        if held is not None:
            return held
        held = self._heads.get(name)
        if held is None:
            held = self._heads[name] = _Log(name, random_text(self._entropy, 6))
            self._forget_heads()
        else:
            self._heads.move_to_end(name)
        return held

    def _forget_heads(self) -> None:
        """Keep the number of empty logs bounded. One that somebody watches is passed over."""
        for _ in range(len(self._heads) - self._retention.heads):
            name, held = self._heads.popitem(last=False)
            if held.watchers or not self._heads:
                self._heads[name] = held

    def _trim(self, held: _Log, now: float) -> None:
        """Bring the log, and all logs together, back within the retention."""
        retention = self._retention
        while len(held) > retention.events or (held.bytes > retention.bytes and len(held) > 1):
            self._drop(held)
        self._drop_old(held, now)
        self._classify(held)
        while self._cost > retention.total_bytes:
            largest = next(iter(self._classes[max(self._classes)].values()))
            if largest is held and len(held) == 1:
                break  # what was just appended stays; the next append to another log drops it
            self._drop(largest)
            self._classify(largest)

    def _drop_old(self, held: _Log, now: float | None = None) -> None:
        horizon = (self._monotonic() if now is None else now) - self._retention.age
        while len(held):
            oldest = held.entries[held.start]
            assert oldest is not None
            if oldest.at >= horizon:
                break
            self._drop(held)

    def _drop(self, held: _Log) -> None:
        self._cost -= held.drop_oldest() + ENTRY_OVERHEAD
        if not len(held):
            held.entries = []
            held.start = 0
            self._classify(held)
            del self._logs[held.name]
            self._heads[held.name] = held
            self._forget_heads()

    def _classify(self, held: _Log) -> None:
        """File the log under its size, so that the largest is found without looking at all."""
        size_class = _size_class(held.bytes + len(held) * ENTRY_OVERHEAD) if len(held) else 0
        if size_class == held.size_class:
            return
        if held.size_class:
            members = self._classes[held.size_class]
            del members[held.name]
            if not members:
                del self._classes[held.size_class]
        held.size_class = size_class
        if size_class:
            self._classes.setdefault(size_class, OrderedDict())[held.name] = held
