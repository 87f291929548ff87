"""The log of one process: fast, bounded, and gone with the process.

Every method runs without giving up the event loop, which makes each of them one atomic step. Only `expire` gives it
up, between steps of which each is atomic.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from websocket_core.control import CONTROL
from websocket_core.events import Event, random_text
from websocket_core.identity import LogName
from websocket_core.limits import Limits, Retention
from websocket_core.log import Batch, Entry, GapReason, Position
from websocket_core.logs.ages import Ages
from websocket_core.logs.sizes import ENTRY_OVERHEAD, LOG_OVERHEAD, Sizes

EXPIRE_STEPS: Final = 1_000
"""How many entries `expire` drops before it gives the loop a turn; one to two milliseconds' worth."""

new_tuple = tuple.__new__  # half the cost of calling a NamedTuple, for what is made once for each event

_Held = tuple[str, str, str, str, bytes, str | None, str | None, float]
"""An entry as it is kept: kind and name of its log, event id (which is its mark), prev, body, connection id, thread id,
and when it came.

An exact tuple of strings and numbers, and no `Entry`: the garbage collector stops looking at such a tuple the first
time it sees it, while it would walk every retained `Entry` again and again. Measured on a server with 200 users, that
walk cost 10 µs for each event, more than everything else that an append does.
"""
_PREV: Final = 3
_BODY: Final = 4
_AT: Final = 7


class _Log:
    """One log. `entries[start:]` are retained; what is before `start` is None and waits to be cut off in bulk."""

    __slots__ = (
        "bytes", "ceiling", "control", "count", "due", "entries", "epoch", "floor", "head", "ids", "mark", "name",
        "size_class", "start", "watchers",
    )  # fmt: skip

    def __init__(self, name: LogName, epoch: str) -> None:
        self.name = name
        self.epoch = epoch
        self.entries: list[_Held | None] = []
        self.start = 0
        self.count = 0
        self.head = 0
        self.mark = ""
        self.ids: dict[str, int] = {}
        self.bytes = 0
        self.size_class = 0
        self.floor = 0
        self.ceiling = 0
        self.watchers: tuple[Callable[[], None], ...] = ()
        self.control: Entry | None = None
        self.due: float | None = None

    def cost(self) -> int:
        """What its entries take; 0 if there are none."""
        return self.bytes + self.count * ENTRY_OVERHEAD

    def oldest(self) -> _Held:
        """The oldest retained entry; there must be one."""
        held = self.entries[self.start]
        assert held is not None
        return held

    def entry(self, offset: int) -> Entry:
        """The retained entry at that offset, as readers see it."""
        held = self.entries[offset - self.head - 1]
        assert held is not None
        kind, name, event_id, prev, body, connection_id, thread_id, at = held
        event = new_tuple(Event, (event_id, body, connection_id, thread_id))
        return new_tuple(Entry, (new_tuple(LogName, (kind, name)), self.epoch, offset, event_id, prev, event, at))

    def position(self, offset: int) -> Position:
        held = self.entries[offset - self.head - 1]
        assert held is not None
        return Position(self.epoch, offset, held[2])

    def base(self) -> Position:
        """The position before the oldest retained entry; the head if there is none."""
        mark = self.oldest()[_PREV] if self.count else self.mark
        return Position(self.epoch, self.head - self.count, mark)

    def fault(self, position: Position) -> GapReason | None:
        """Why the position is not honoured; None if it is."""
        epoch, offset, mark = position
        if epoch != self.epoch:
            return GapReason.NEW_EPOCH
        behind = self.head - offset
        if behind < 0:
            return GapReason.DIVERGED
        if behind == 0:
            held = self.mark
        elif behind <= self.count:
            # The successor's `prev`, which also stands for an entry that was just trimmed.
            held = self.entries[-behind][_PREV]  # type: ignore[index]
        else:
            return GapReason.TRIMMED
        return None if held == mark else GapReason.DIVERGED

    def drop_oldest(self) -> int:
        """Drop the oldest entry; the bytes of its body."""
        held = self.oldest()
        offset = self.head - self.count + 1
        self.count -= 1
        self.entries[self.start] = None
        self.start += 1
        if self.ids.get(held[2]) == offset:
            del self.ids[held[2]]
        if self.start > 64 and self.start * 2 > len(self.entries):
            del self.entries[: self.start]
            self.start = 0
            self.ids = dict(self.ids)  # a dictionary does not shrink by itself
        size = len(held[_BODY])
        self.bytes -= size
        return size

    def clear(self) -> None:
        """Keep only the head."""
        self.entries = []
        self.ids = {}
        self.start = self.count = self.bytes = 0


class MemoryLog:
    """A `LogStore` in the memory of this process.

    Marks are event ids, since nothing here can roll back. A log costs `LOG_OVERHEAD` and grows as it is used. With
    all logs together above `retention.total_bytes`, the largest is trimmed first, where sizes that differ by less
    than a quarter count as equal, and all empty logs that nobody watches count as one. No append drops its own event:
    one that is alone in the largest log takes nothing from the smaller ones, and stands above the bound until the next
    append, or the next new log. Logs that are watched keep their heads, whatever the bound.
    """

    def __init__(
        self,
        retention: Retention | None = None,
        *,
        limits: Limits | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        retention = retention or Retention()
        self._events = retention.events
        self._bytes = retention.bytes
        self._age = retention.age
        self._total_bytes = retention.total_bytes
        self._most_heads = retention.heads
        self._batch_bytes = (limits or Limits()).batch_bytes
        self._monotonic = monotonic
        self._entropy = entropy
        self._logs: dict[LogName, _Log] = {}
        self._heads: OrderedDict[LogName, _Log] = OrderedDict()  # empty and not watched, longest unused first
        self._sizes: Sizes[_Log] = Sizes()
        self._ages: Ages[_Log] = Ages(self._logs)
        self._cost = 0

    async def open(self, log: LogName) -> Position:
        held = self._get(log)
        return Position(held.epoch, held.head, held.mark)

    async def read(self, log: LogName, after: Position | None, limit: int) -> Batch:
        held = self._logs.get(log)
        if held is None:
            return Batch(None, (), False, GapReason.NEW_EPOCH if after is not None else None)
        retained = held.entries
        if held.count and retained[held.start][_AT] < self._monotonic() - self._age:  # type: ignore[index]
            self._drop_old(held)
        gap = None
        if after is None or (gap := held.fault(after)) is not None:
            start = held.base()
        else:
            start = after
        offset = start.offset
        behind = held.head - offset
        if behind <= 1:  # what a connection that keeps up finds
            return new_tuple(Batch, (start, [held.entry(held.head)] if behind else [], False, gap))
        entries: list[Entry] = []
        size = 0
        for following in range(offset + 1, offset + 1 + min(limit, behind)):
            entry = held.entry(following)
            size += len(entry.event.body)
            if entries and size > self._batch_bytes:
                break
            entries.append(entry)
        return Batch(start, entries, len(entries) < behind, gap)

    async def control(self, log: LogName) -> Entry | None:
        held = self._logs.get(log)
        return None if held is None else held.control

    def watch(self, log: LogName, wake: Callable[[], None]) -> Callable[[], None]:
        held = self._get(log)
        held.watchers = (*held.watchers, wake)
        self._heads.pop(log, None)

        def unwatch() -> None:
            # The log of that name may have been forgotten and made again; its watchers moved with it.
            current = self._logs.get(log)
            if current is not None and wake in current.watchers:
                rest = list(current.watchers)
                rest.remove(wake)
                current.watchers = tuple(rest)
                self._note_head(current)

        return unwatch

    async def append(self, log: LogName, event: Event) -> Position:
        held = self._logs.get(log)
        if held is None:
            held = self._get(log)
        event_id, body, connection_id, thread_id = event
        if event_id in held.ids:
            self._drop_old(held)  # what has expired is not retained, though it may still be here
            known = held.ids.get(event_id)
            if known is not None:
                return held.position(known)
        offset = held.head + 1
        now = self._monotonic()
        held.entries.append((log.kind, log.name, event_id, held.mark, body, connection_id, thread_id, now))
        held.ids[event_id] = offset
        held.head = offset
        held.mark = event_id
        held.count += 1
        if connection_id == CONTROL:
            held.control = held.entry(offset)
        size = len(body)
        held.bytes += size
        self._cost += size + ENTRY_OVERHEAD
        if held.count == 1:
            self._heads.pop(log, None)
            if held.due is None:
                self._ages.file(held, now)
        oldest = held.entries[held.start]
        if held.count > self._events or held.bytes > self._bytes or oldest[_AT] < now - self._age:  # type: ignore[index]
            self._trim(held, now)
        if held.bytes + held.count * ENTRY_OVERHEAD > held.ceiling:
            self._sizes.file(held)
        if self._cost > self._total_bytes:
            self._trim_largest(held)
        for wake in held.watchers:
            wake()
        return new_tuple(Position, (held.epoch, offset, event_id))

    async def forget(self, log: LogName) -> None:
        held = self._logs.get(log)
        if held is None:
            return
        self._cost -= held.cost()
        held.clear()
        self._sizes.file(held)
        self._remove(held)
        if held.watchers:  # somebody is connected: the log lives on under a new epoch, and they learn of it
            successor = self._get(log)
            successor.watchers = held.watchers
            del self._heads[log]
            for wake in successor.watchers:
                wake()

    async def expire(self) -> None:
        horizon = self._monotonic() - self._age
        while True:
            if self._drop_due(horizon):
                return
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Nothing is held open."""

    def statistics(self) -> dict[str, int]:
        """How much is held: `logs` with entries, `heads` of empty logs, `entries`, `bytes` of bodies."""
        logs = [held for held in self._logs.values() if held.count]
        return {
            "logs": len(logs),
            "heads": len(self._logs) - len(logs),
            "entries": sum(held.count for held in logs),
            "bytes": sum(held.bytes for held in logs),
        }

    def _get(self, name: LogName) -> _Log:
        """The log of that name, made if there is none."""
        held = self._logs.get(name)
        if held is None:
            self._cost += LOG_OVERHEAD
            if self._cost > self._total_bytes:
                self._trim_largest()  # before the log is there, so that it cannot be what goes
            held = self._logs[name] = _Log(name, random_text(self._entropy, 6))
            self._note_head(held)
        elif name in self._heads:
            self._heads.move_to_end(name)
        return held

    def _note_head(self, held: _Log) -> None:
        """Remember a log that is empty and that nobody watches, and keep the number of those bounded."""
        if not held.count and not held.watchers:
            self._heads[held.name] = held
            if len(self._heads) > self._most_heads:
                self._remove(next(iter(self._heads.values())))

    def _remove(self, held: _Log) -> None:
        """Forget an empty log, and its epoch with it."""
        del self._logs[held.name]
        self._heads.pop(held.name, None)
        self._cost -= LOG_OVERHEAD
        self._ages.discard(held)

    def _drop_due(self, horizon: float) -> bool:
        """Drop up to `EXPIRE_STEPS` entries from before the horizon, and one; whether none is left.

        To take out a log counts as well, since it may be there for an entry that was dropped before.
        """
        steps = EXPIRE_STEPS
        while self._ages.reach(horizon):
            if steps <= 0:
                return False
            steps -= 1
            held = self._ages.take()
            while held is not None and held.count:
                if steps < 0 or held.oldest()[_AT] >= horizon:
                    self._ages.file(held, held.oldest()[_AT])
                    break
                self._drop(held)
                steps -= 1
        return True

    def _trim(self, held: _Log, now: float) -> None:
        """Bring the log back within its own retention."""
        while held.count > self._events or (held.bytes > self._bytes and held.count > 1):
            self._drop(held)
        self._drop_old(held, now)

    def _trim_largest(self, appended: _Log | None = None) -> None:
        """Bring all logs together back within the retention."""
        bound = self._total_bytes
        spared = None
        while self._cost > bound:
            largest = self._sizes.largest(spared)
            if self._heads and (largest is None or len(self._heads) * LOG_OVERHEAD >= largest.cost()):
                self._remove(next(iter(self._heads.values())))
            elif largest is None:
                break  # what is left is watched
            elif largest is appended and largest.count == 1:
                spared = largest
                bound += largest.cost()  # smaller logs need not make room for it
            else:
                self._drop(largest)

    def _drop_old(self, held: _Log, now: float | None = None) -> None:
        horizon = (self._monotonic() if now is None else now) - self._age
        while held.count and held.oldest()[_AT] < horizon:
            self._drop(held)

    def _drop(self, held: _Log) -> None:
        self._cost -= held.drop_oldest() + ENTRY_OVERHEAD
        if held.bytes + held.count * ENTRY_OVERHEAD < held.floor:
            self._sizes.file(held)
        if not held.count:
            held.clear()
            self._note_head(held)
