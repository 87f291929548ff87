"""The log: what stands in it, where a reader stands, and what a backend must do.

A backend implements `LogReader`, `LogWriter` and `LogStore`. Its laws, checked by
`websocket_core.testing.LogConformance`:

1.  Appends to one log are totally ordered; offsets are 1, 2, 3 ... without holes within one epoch.
2.  Every entry carries its event id, its mark and `prev`, the mark of the entry before it (empty at offset 1).
3.  Append is idempotent by event id while that entry is retained: it returns the position the entry already has.
4.  Deduplicate, number, chain, store, trim and wake are one atomic step.
5.  `read` changes nothing.
6.  A position is honoured only if the entry at that offset exists and has that mark. One that was trimmed is honoured
    if its successor's `prev` is the mark, and the head is honoured when nothing is retained. Anything else is a gap,
    followed by everything that is retained.
7.  A wake-up may be late, spurious or lost: a reader must be right without it, by reading again on every heartbeat.
8.  What is kept is bounded by count, bytes and age. The last control entry is known beyond that, for the life of the
    epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol, runtime_checkable

from websocket_core.events import Event
from websocket_core.identity import LogName


class Position(NamedTuple):
    """Where an entry stands. Offset 0 with an empty mark is before the first entry."""

    epoch: str
    offset: int
    mark: str


class Entry(NamedTuple):
    """One event where it stands in its log. It names that log, and readers compare."""

    log: LogName
    epoch: str
    offset: int
    mark: str
    prev: str
    event: Event
    at: float
    """When this process came to know of the entry, in monotonic seconds."""

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.offset, self.mark)


class GapReason(StrEnum):
    """Why what follows does not join what a reader has seen."""

    TRIMMED = "trimmed"
    """Events after the position are no longer held."""
    DIVERGED = "diverged"
    """The log holds another history at that position, or none yet."""
    NEW_EPOCH = "new_epoch"
    """The log has lost its memory of itself since."""


class Batch(NamedTuple):
    """What a read returns."""

    start: Position | None
    """The position that `entries` follow: where the reader asked from, or after a gap the one before the oldest
    retained entry. None if there is no such log."""
    entries: Sequence[Entry]
    more: bool
    """Whether further entries followed `entries` when this was read."""
    gap: GapReason | None = None


class LogReader(Protocol):
    """Used by connections, once for each log that they hold a grant for."""

    async def open(self, log: LogName) -> Position:
        """The head of the log. Makes the log, and with it an epoch, if there is none."""
        ...

    async def read(self, log: LogName, after: Position | None, limit: int) -> Batch:
        """Up to `limit` entries after a position, or with None from the oldest that is retained.

        Called by a connection whenever it was woken, and on every heartbeat. Makes no log. May return fewer entries
        than `limit` while more follow, so that one batch stays small in bytes, but at least one if there is one.
        Raises `LogUnavailable`.
        """
        ...

    async def control(self, log: LogName) -> Entry | None:
        """The last control entry of the log (`websocket_core.control`), also when it is retained no more.

        Read by a connection after each gap, since what it has not read may have ended it. Raises `LogUnavailable`.
        """
        ...

    def watch(self, log: LogName, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake` after each append to the log, from now until the returned function is called.

        `wake` is called on the event loop, must not block and must not raise.
        """
        ...


class LogWriter(Protocol):
    """Used by emitters and outboxes."""

    async def append(self, log: LogName, event: Event) -> Position:
        """Append the event, or find it by its id; its position either way.

        Wholly appended or not at all, also when the caller is cancelled. Raises `LogUnavailable` within a bounded
        time if the outcome is no or unknown.
        """
        ...


class LogStore(LogReader, LogWriter, Protocol):
    """Used by the manager that owns the backend."""

    async def forget(self, log: LogName) -> None:
        """Drop the log with its epoch: every position in it is answered with a gap from now on."""
        ...

    async def expire(self) -> None:
        """Drop what is older than the retention allows. Called at every sweep."""
        ...

    async def close(self) -> None:
        """Release what the backend holds open. What a process-local log holds is kept."""
        ...


@runtime_checkable
class Checkable(Protocol):
    """A store that can be away, and be asked whether it is. One that is always there has none of this."""

    async def check(self) -> None:
        """Make a round trip to the store. Called by the manager every `Limits.check_interval`, with a time limit.

        Raises `LogUnavailable` if the store is away, or takes no events.
        """
        ...
