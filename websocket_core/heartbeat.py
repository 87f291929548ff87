"""`Heartbeat`: what a connection knows of its client by the answers to its pings: whether it is there, and where."""

from __future__ import annotations

from typing import Final

from websocket_core.log import Position

UNANSWERED: Final = 4
"""So many pings are remembered that a client has not answered."""


class Heartbeat:
    """One client's answers. Times are of the event loop's clock, in seconds."""

    __slots__ = ("_asked_since", "_behind", "_doubted", "_judged", "_named", "_timeout", "_unanswered")

    def __init__(self, *, timeout: float) -> None:
        self._timeout = timeout
        self._asked_since: float | None = None
        self._named: Position | None = None
        self._behind: Position | None = None
        self._judged = True
        self._doubted = False
        self._unanswered: tuple[Position, ...] = ()

    def asked(self, now: float, named: Position | None, *, owes: bool) -> None:
        """A ping was sent that named this position. With `owes` the client promised to answer."""
        if owes and self._asked_since is None:
            self._asked_since = now
        self._named = named
        self._judged = self._doubted = False
        if owes and named is not None:
            self._unanswered = (*self._unanswered, named)[-UNANSWERED:]

    def heard(self) -> None:
        """Something came from the client: it is there."""
        self._asked_since = None

    def overdue(self, now: float, lost: float) -> bool:
        """Whether the client owes an answer for too long; told once. The `lost` seconds, in which the loop stood still,
        count for it: it may have answered meanwhile."""
        since = self._asked_since
        if since is None:
            return False
        if lost:
            since = self._asked_since = min(now, since + lost)
        if now - since <= self._timeout:
            return False
        self._asked_since = None
        return True

    def doubts(self, claimed: Position, sent: Position | None) -> bool:
        """Whether the client, which says that it stands at `claimed`, and the connection, which stands at `sent`, need
        to compare with the log.

        A claim that nobody here sent, of another life of the log or from ahead, is doubtful at once, and once for each
        ping, since a client is not to have its log read to it as often as it likes. One from behind is not, since a
        client may be slow to handle what it was sent: only if it stands still from one ping to the next, behind what
        both of them named, has it missed something. Nor is the answer to a ping that was sent before a gap: it was
        under way when the client was told.
        """
        answers = self._answers(claimed)
        if sent is None:
            return False
        if claimed.epoch != sent.epoch or claimed.offset > sent.offset:
            return not answers and self._for_the_first_time()
        if claimed.offset == sent.offset:
            return claimed.mark != sent.mark and not answers and self._for_the_first_time()
        named = self._named
        if self._judged or named is None:
            return False
        self._judged = True
        stuck = claimed == self._behind
        behind = claimed.epoch == named.epoch and claimed.offset < named.offset
        self._behind = claimed if behind and not stuck else None
        return stuck and behind

    def _for_the_first_time(self) -> bool:
        """Since the last ping."""
        first, self._doubted = not self._doubted, True
        return first

    def _answers(self, claimed: Position) -> bool:
        """Whether a client says that which has come to an unanswered ping, and to nothing that was sent after it. Each
        claim is the answer to the oldest ping that it fits, or to the oldest."""
        for number, named in enumerate(self._unanswered, 1):
            if claimed == named or (claimed.epoch == named.epoch and claimed.offset < named.offset):
                self._unanswered = self._unanswered[number:]
                return True
        self._unanswered = self._unanswered[1:]
        return False
