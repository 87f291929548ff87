"""What processes share that is no log: the connection ids that a user has had, the deny-list, and tickets.

`SharedState` is what the manager consumes; `MemoryState` is its form for one process. One that several processes share
has two attributes more, which are looked for by name: `leases` (`websocket_core.leases`) and `seats`.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from websocket_core.identity import UserId

TICKETS_PER_USER: Final = 32
"""How many unspent tickets of one user are kept; the oldest goes first."""


class SharedState(Protocol):
    """Asked at each connect, at each emit to one connection, and by whoever revokes or hands out tickets.

    Every method raises `LogUnavailable` when it cannot tell.
    """

    async def remember_connection(self, user_id: UserId, connection_id: str) -> None:
        """Note that this user has this connection now."""
        ...

    async def knows_connection(self, user_id: UserId, connection_id: str) -> bool:
        """Whether this user had this connection within `Retention.age`."""
        ...

    async def forget_user(self, user_id: UserId) -> None:
        """Drop all that is known of the user, except what is denied."""
        ...

    async def deny(self, user_id: UserId, token_id: str | None, *, issued_until: float, until: float) -> None:
        """Deny the user's credentials that were issued until then, with a token id only those that carry it. The
        entry may be dropped after `until`. Both are Unix seconds."""
        ...

    async def denied(self, user_id: UserId, token_id: str | None, issued_at: float | None) -> bool:
        """Whether a credential of this user is denied. One that does not say when it was issued counts as old."""
        ...

    async def keep_ticket(self, user_id: UserId, key: str, content: bytes, *, seconds: float) -> None:
        """Keep what a ticket stands for, for so long."""
        ...

    async def take_ticket(self, key: str) -> bytes | None:
        """What the ticket stands for; one of several who ask gets it. None if it is spent, expired or unknown."""
        ...


class Seat(NamedTuple):
    """One connection of a user, wherever it is."""

    id: str
    """Random: another connection with the same connection id has another seat."""
    connection_id: str
    process: str
    """Which process has the connection."""


class Seats(Protocol):
    """How many connections a user has in all processes together. Every coroutine method raises `LogUnavailable`, and
    may be called again."""

    @property
    def process(self) -> str:
        """What this process is called."""
        ...

    async def take(self, user_id: UserId, seat: Seat, *, most: int) -> list[Seat]:
        """Note that a connection comes, as `SharedState.remember_connection` does as well; the seats that have to make
        room for it, in one atomic step: those with the same connection id, and of more than `most` the oldest by
        arrival. Never the one that comes. They count no more."""
        ...

    async def leave(self, left: Sequence[tuple[UserId, str]]) -> None:
        """Note that connections have gone: of which user, and the seat."""
        ...

    async def elsewhere(self, user_id: UserId) -> bool:
        """Whether another process has connections of this user."""
        ...

    async def stay(self, seconds: float) -> None:
        """Say that this process is there, for so long. The seats of one that is not count no more."""
        ...

    async def is_there(self, process: str) -> bool:
        """Whether a process has said that it is there."""
        ...


class _Denial(NamedTuple):
    issued_until: float
    until: float


class MemoryState:
    """`SharedState` of one process.

    Keeps at most `per_user` connection ids of a user, for `age` seconds after each was last noted; denials until they
    run out; and tickets, at most `TICKETS_PER_USER` of each user.
    """

    def __init__(
        self,
        *,
        age: float,
        per_user: int,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._age = age
        self._per_user = per_user
        self._clock = clock
        self._monotonic = monotonic
        self._connections: OrderedDict[UserId, OrderedDict[str, float]] = OrderedDict()
        self._denials: dict[tuple[UserId, str | None], _Denial] = {}
        self._denials_end: list[tuple[float, int, tuple[UserId, str | None]]] = []
        self._count = itertools.count()
        self._tickets: dict[str, tuple[UserId, bytes, float]] = {}
        self._tickets_end: list[tuple[float, str]] = []
        self._tickets_of: dict[UserId, OrderedDict[str, None]] = {}

    async def remember_connection(self, user_id: UserId, connection_id: str) -> None:
        self._expire()
        known = self._connections.setdefault(user_id, OrderedDict())
        known[connection_id] = self._monotonic()
        known.move_to_end(connection_id)
        self._connections.move_to_end(user_id)
        if len(known) > self._per_user:
            known.popitem(last=False)

    async def knows_connection(self, user_id: UserId, connection_id: str) -> bool:
        known = self._connections.get(user_id)
        seen = None if known is None else known.get(connection_id)
        return seen is not None and self._monotonic() - seen <= self._age

    async def forget_user(self, user_id: UserId) -> None:
        self._connections.pop(user_id, None)
        for key in list(self._tickets_of.get(user_id, ())):
            self._drop_ticket(key)

    async def deny(self, user_id: UserId, token_id: str | None, *, issued_until: float, until: float) -> None:
        now = self._clock()
        while self._denials_end and self._denials_end[0][0] < now:
            ended = heapq.heappop(self._denials_end)[2]
            if self._denials[ended].until < now:
                del self._denials[ended]
            else:  # it was prolonged
                heapq.heappush(self._denials_end, (self._denials[ended].until, next(self._count), ended))
        key = (user_id, token_id)
        known = self._denials.get(key)
        if known is None:
            self._denials[key] = _Denial(issued_until, until)
            heapq.heappush(self._denials_end, (until, next(self._count), key))
        else:
            self._denials[key] = _Denial(max(issued_until, known.issued_until), max(until, known.until))

    async def denied(self, user_id: UserId, token_id: str | None, issued_at: float | None) -> bool:
        now = self._clock()
        everything = self._denials.get((user_id, None))
        old = everything is not None and (issued_at is None or issued_at <= everything.issued_until)
        if everything is not None and old and now <= everything.until:
            return True
        denial = None if token_id is None else self._denials.get((user_id, token_id))
        return denial is not None and now <= denial.until

    async def keep_ticket(self, user_id: UserId, key: str, content: bytes, *, seconds: float) -> None:
        now = self._monotonic()
        while self._tickets_end and self._tickets_end[0][0] < now:
            self._drop_ticket(heapq.heappop(self._tickets_end)[1])
        self._tickets[key] = (user_id, content, now + seconds)
        heapq.heappush(self._tickets_end, (now + seconds, key))
        of_user = self._tickets_of.setdefault(user_id, OrderedDict())
        of_user[key] = None
        if len(of_user) > TICKETS_PER_USER:
            self._drop_ticket(next(iter(of_user)))

    async def take_ticket(self, key: str) -> bytes | None:
        kept = self._tickets.get(key)
        self._drop_ticket(key)
        return kept[1] if kept is not None and self._monotonic() <= kept[2] else None

    def _drop_ticket(self, key: str) -> None:
        kept = self._tickets.pop(key, None)
        if kept is not None:
            of_user = self._tickets_of[kept[0]]
            del of_user[key]
            if not of_user:
                del self._tickets_of[kept[0]]

    def _expire(self) -> None:
        """Drop the users whose newest connection is too old; the longest unseen user is first."""
        horizon = self._monotonic() - self._age
        while self._connections:
            user_id, known = next(iter(self._connections.items()))
            if next(reversed(known.values())) >= horizon:
                break
            del self._connections[user_id]
