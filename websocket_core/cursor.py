"""Where a connection stands in one of its logs, and what to send it next. Decides; does no I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from websocket_core.control import CONTROL, Order, order_of
from websocket_core.errors import IsolationViolation
from websocket_core.events import Event
from websocket_core.identity import Grant, LogName
from websocket_core.log import Batch, Entry, GapReason, Position

new_position = tuple.__new__  # half the cost of Position(...), for what is made once for each event


class Gap(NamedTuple):
    """What follows does not join what was sent before. The events after `start` come next."""

    reason: GapReason
    start: Position
    snapshot: bytes | None = None
    """What the application shows in place of what is missing: a JSON object."""


class Ended(NamedTuple):
    """A control entry ends the connection here, with this close code. Nothing comes after it."""

    code: int


Step = Entry | Gap | Ended
"""What a cursor says to send next."""


class LogCursor:
    """A place in the log of one grant, moved forward by what was read after it.

    Only entries for everybody or for this `connection_id` come out, and with `thread_id` only that conversation;
    the position passes over the others. Of control entries, those behind `settled` that concern this connection end it.
    """

    __slots__ = ("_concerns", "_connection_id", "_grant", "_thread_id", "position", "settled")

    def __init__(
        self,
        grant: Grant,
        *,
        connection_id: str,
        thread_id: str | None = None,
        position: Position | None = None,
        concerns: Callable[[Order], bool] = lambda _order: True,
    ) -> None:
        self._grant = grant
        self._connection_id = connection_id
        self._thread_id = thread_id
        self.position = position
        """The last entry passed over; None before the first read of a reader without a cursor."""
        self.settled: Position | None = None
        """The head of the log before the deny-list was consulted: control entries up to it are settled by that."""
        self._concerns = concerns

    @property
    def log(self) -> LogName:
        """The log of the grant, and the only one to read for this cursor."""
        return self._grant.log

    def passes_over(self, start: Position) -> bool:
        """Whether reading on from `start` leaves out entries behind `settled`, which may be control entries."""
        settled = self.settled
        return settled is not None and (start.epoch != settled.epoch or start.offset > settled.offset)

    def settle(self, last: Entry | None) -> None:
        """The deny-list was consulted again, while this was the last control entry. What comes behind it counts, also
        where a store that went back in time uses offsets up to `settled` anew."""
        settled, position = self.settled, self.position
        if settled is not None and position is not None and position.epoch == settled.epoch:
            if last is None:
                self.settled = Position(settled.epoch, 0, "")
            elif last.epoch == settled.epoch and last.offset < settled.offset:
                self.settled = last.position

    def ordered(self, entry: Entry) -> Ended | None:
        """What a control entry orders of this connection, if it came after `settled`. Raises `IsolationViolation` for
        an entry of another log."""
        if entry.log != self._grant.log:
            raise IsolationViolation("a control entry of another log was read for this connection")
        settled = self.settled
        if settled is not None and entry.epoch == settled.epoch and entry.offset <= settled.offset:
            return None
        order = order_of(entry.event)
        return Ended(order.code) if order is not None and self._concerns(order) else None

    def foresees(self, log: LogName, event: Event) -> bool:
        """Whether an event that waits for that log would come out here. Raises `IsolationViolation` if that is another
        than the log of the grant."""
        if log != self._grant.log:
            raise IsolationViolation("an event that waits for another log came up for this connection")
        only = event.connection_id
        if only is not None and only != self._connection_id:
            return False
        return self._thread_id is None or event.thread_id == self._thread_id

    def advance(self, batch: Batch) -> list[Step]:
        """What to send for this batch, in order; the position is then behind it.

        The batch must have been read after `position`. Every entry must belong to the log of the grant
        (`IsolationViolation` otherwise, and the position stays) and must join its predecessor by offset and mark; a
        break in that chain is told as a gap. After `Ended` nothing more comes.
        """
        start = batch.start
        if start is None:
            raise ValueError("a batch of a log that does not exist; open the log first")
        out: list[Step] = []
        if batch.gap is not None:
            out.append(Gap(batch.gap, start))
        elif start is not self.position and self.position is not None and start != self.position:
            out.append(Gap(GapReason.DIVERGED, start))
        own = self._grant.log
        epoch, offset, mark = start
        for entry in batch.entries:
            log, entry_epoch, entry_offset, entry_mark, prev, event, _at = entry
            if log != own:
                raise IsolationViolation("an entry of another log was read for this connection")
            if entry_offset != offset + 1 or prev != mark or entry_epoch != epoch:
                # The store broke its own chain. What is there is shown, but not as a continuation.
                reason = GapReason.DIVERGED if entry_epoch == epoch else GapReason.NEW_EPOCH
                out.append(Gap(reason, Position(entry_epoch, entry_offset - 1, prev)))
                epoch = entry_epoch
            offset = entry_offset
            mark = entry_mark
            if event.connection_id is not None and event.connection_id != self._connection_id:
                if event.connection_id == CONTROL and (ended := self.ordered(entry)) is not None:
                    out.append(ended)
                    break
                continue
            if self._thread_id is not None and event.thread_id != self._thread_id:
                continue
            out.append(entry)
        self.position = new_position(Position, (epoch, offset, mark))
        return out
