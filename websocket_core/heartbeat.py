"""`Heartbeat`: what a connection knows of its client by the answers to its pings: whether it is there, and where."""

from __future__ import annotations

from websocket_core.log import Position


class Heartbeat:
    """One client's answers. Times are of the event loop's clock, in seconds."""

    __slots__ = ("_asked_since", "_behind", "_judged", "_named", "_timeout")

    def __init__(self, *, timeout: float) -> None:
        self._timeout = timeout
        self._asked_since: float | None = None
        self._named: Position | None = None
        self._behind: Position | None = None
        self._judged = True

    def asked(self, now: float, named: Position | None, *, owes: bool) -> None:
        """A ping was sent that named this position. With `owes` the client promised to answer."""
        if owes and self._asked_since is None:
            self._asked_since = now
        self._named = named
        self._judged = False

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

        A claim that nobody here sent, of another life of the log or from ahead, is doubtful at once. One from behind
        is not, since a client may be slow to handle what it was sent: only if it stands still from one ping to the
        next, behind what both of them named, has it missed something.
        """
        if sent is None:
            return False
        if claimed.epoch != sent.epoch or claimed.offset > sent.offset:
            return True
        if claimed.offset == sent.offset:
            return claimed.mark != sent.mark
        named = self._named
        if self._judged or named is None:
            return False
        self._judged = True
        stuck = claimed == self._behind
        behind = claimed.epoch == named.epoch and claimed.offset < named.offset
        self._behind = claimed if behind and not stuck else None
        return stuck and behind
