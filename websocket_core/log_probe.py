"""Tools to look into a log with: what `websocket_core.log_conformance` is written in."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from typing import Final
from unicodedata import normalize

from websocket_core.events import Event
from websocket_core.identity import LogName
from websocket_core.log import Entry, GapReason, LogStore, Position

LOG: Final = LogName("user", "conformance")
OTHER: Final = LogName("user", "conformance, another")
WAKE_SECONDS: Final = 5.0
"""How long a wake-up may take to come. The laws let it be lost; a suite that never saw one would prove nothing."""

_NAMES: Final = (
    "a", "A", "aa", "a:b", "A:B", "a:B", "a/b", "a.b", "a b", "a*", "a?", "[a]", "{a}", "{a", "a}", "{a}:b", "a%3Ab",
    "user:a", "topic:a", "%s", "../a", "a'", 'a"', "a\\", "1", "01", "\U0001f600", "x" * 256,
    normalize("NFC", "\u00e9"), normalize("NFD", "\u00e9"), "ss", "\u00df", "\u0130", "\u0131", "i", "I",
)  # fmt: skip
HOSTILE: Final = [LogName(kind, name) for name in _NAMES for kind in ("user", "topic")]
"""Names that a backend which escapes, folds, normalises or matches patterns takes for one another."""


def an_event(event_id: str, text: str = "", *, connection_id: str | None = None, thread_id: str | None = None) -> Event:
    """An event as an encoder would make it, with `text` in its data."""
    body = f'{{"type":"conformance","data":{{"text":"{text}"}},"id":"{event_id}"'
    return Event(event_id, body.encode(), connection_id, thread_id)


async def append(log: LogStore, count: int, *, name: LogName = LOG, first: int = 1) -> list[Position]:
    """Append events with the ids `e1`, `e2` ..."""
    return [await log.append(name, an_event(f"e{number}")) for number in range(first, first + count)]


async def read_on(log: LogStore, after: Position | None, limit: int, *, name: LogName = LOG) -> list[Entry]:
    """Everything after a position, batch by batch, as a connection reads it; there must be no gap."""
    entries: list[Entry] = []
    while True:
        batch = await log.read(name, after, limit)
        assert batch.gap is None, f"a reader that reads on was told of a gap: {batch.gap}"
        assert after is None or batch.start == after, "a batch without a gap starts where the reader asked from"
        assert len(batch.entries) <= limit, "a batch is longer than the limit"
        assert batch.entries or not batch.more, "more follows, and yet nothing came"
        entries += batch.entries
        if not batch.more:
            return entries
        after = batch.entries[-1].position


def ids(entries: Iterable[Entry]) -> list[str]:
    """The event ids, in order."""
    return [entry.event.id for entry in entries]


def equal(found: object, expected: object) -> None:
    """Demand that they are equal, and otherwise say what was found."""
    assert found == expected, f"found {found!r}, and not {expected!r}"


def check_chain(entries: Iterable[Entry], start: Position) -> None:
    """Each entry joins the one before it, and the first joins `start`."""
    epoch, offset, mark = start
    for entry in entries:
        assert entry.epoch == epoch, "the epoch changed between two entries"
        assert entry.offset == offset + 1, f"offset {entry.offset} follows {offset}"
        assert entry.prev == mark, f"the entry at offset {entry.offset} does not name the mark before it"
        offset, mark = entry.offset, entry.mark


async def last_control(log: LogStore, *, name: LogName = LOG) -> tuple[Position, Event] | None:
    """The last control entry: where it stands, and what it says."""
    entry = await log.control(name)
    assert entry is None or entry.log == name, "a control entry does not name its log"
    return None if entry is None else (entry.position, entry.event)


async def told_gap(log: LogStore, after: Position, reason: GapReason, *, retained: list[str]) -> None:
    """Demand a gap, then everything that is retained, joining the position where the batch starts."""
    batch = await log.read(LOG, after, 100)
    assert batch.gap is reason, f"told {batch.gap} and not {reason}"
    assert ids(batch.entries) == retained, "after a gap does not come everything that is retained"
    assert batch.start is not None, "a gap of a log that exists starts somewhere"
    check_chain(batch.entries, batch.start)
    follows = await log.read(LOG, batch.start, 100)
    assert follows.gap is None, "the position that a gap starts from is not honoured"
    assert ids(follows.entries) == retained, "from the position that a gap starts from comes something else"


class Wakes:
    """Watches a log and counts the wake-ups, which may be late and may be more than the appends."""

    def __init__(self, log: LogStore, name: LogName) -> None:
        self.count = 0
        self._came = asyncio.Event()
        self.stop = log.watch(name, self._wake)

    def _wake(self) -> None:
        self.count += 1
        self._came.set()

    async def find(self, log: LogStore, after: Position) -> list[str]:
        """The ids that a reader finds who reads at each wake-up, of which any may be spurious."""
        for count in itertools.count(1):
            await self.reach(count)
            if found := ids(await read_on(log, after, 10)):
                return found
        raise AssertionError

    async def reach(self, count: int) -> None:
        """Wait for that many wake-ups in all."""
        try:
            async with asyncio.timeout(WAKE_SECONDS):
                while self.count < count:
                    self._came.clear()
                    await self._came.wait()
        except TimeoutError:
            raise AssertionError(f"{self.count} wake-ups came within {WAKE_SECONDS} s, and not {count}") from None
