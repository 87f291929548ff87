"""What connections are shown while the log is away: events of this process that wait for it, outside every promise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from websocket_core.cursor import LogCursor, Step
from websocket_core.outbox import Outbox, Outboxes, Waiting

AT_ONCE: Final = 64
"""So many waiting events are looked at for a connection at once."""
AT_ONCE_BYTES: Final = 65_536

Shown = Step | Waiting
"""What a connection is sent: of its log, or while that is away of the outbox."""


class Outage(NamedTuple):
    """One time that the log is away, the same for every connection of a manager."""

    since: str
    """When it was first found away, as times are written on the wire."""
    outboxes: Outboxes


class Provisional:
    """One connection's place in its user's outbox, from `degraded` to `restored`.

    It holds a number and no copies: a reader that is behind costs nothing, and passes over what the log has taken
    meanwhile. Which outbox that is, the cursor says, and so the grant that it was made for.
    """

    __slots__ = ("_cursor", "_outbox", "_outboxes", "_seen", "_unwatch")

    def __init__(self, cursor: LogCursor, outage: Outage, wake: Callable[[], None]) -> None:
        self._cursor = cursor
        self._outboxes = outage.outboxes
        self._outbox: Outbox | None = None
        self._seen = 0
        self._unwatch = self._outboxes.watch(cursor.log, wake)

    def next(self) -> tuple[list[Shown], bool]:
        """What to show next, each event once and in order, and whether there is more. Raises `IsolationViolation`."""
        outbox = self._outboxes.waiting_for(self._cursor.log)
        if outbox is None:
            return [], False
        if outbox is not self._outbox:  # its numbers begin anew
            self._outbox, self._seen = outbox, 0
        waiting, self._seen = outbox.after(self._seen, AT_ONCE, AT_ONCE_BYTES)
        return [each for each in waiting if self._cursor.foresees(each.log, each.event)], self._seen < outbox.newest

    def stop(self) -> None:
        """Be woken no more."""
        self._unwatch()
