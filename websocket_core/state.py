"""What processes share that is no log. So far: which connection ids a user has had.

`SharedState` is what the manager consumes; `MemoryState` is its form for one process.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from websocket_core.identity import UserId


class SharedState(Protocol):
    """Asked at each connect and at each emit to one connection."""

    async def remember_connection(self, user_id: UserId, connection_id: str) -> None:
        """Note that this user has this connection now."""
        ...

    async def knows_connection(self, user_id: UserId, connection_id: str) -> bool:
        """Whether this user had this connection within `Retention.age`."""
        ...

    async def forget_user(self, user_id: UserId) -> None:
        """Drop all that is known of the user."""
        ...


class MemoryState:
    """`SharedState` of one process.

    Keeps at most `per_user` connection ids of a user, for `age` seconds after each was last noted.
    """

    def __init__(self, *, age: float, per_user: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._age = age
        self._per_user = per_user
        self._monotonic = monotonic
        self._connections: OrderedDict[UserId, OrderedDict[str, float]] = OrderedDict()

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

    def _expire(self) -> None:
        """Drop the users whose newest connection is too old; the longest unseen user is first."""
        horizon = self._monotonic() - self._age
        while self._connections:
            user_id, known = next(iter(self._connections.items()))
            if next(reversed(known.values())) >= horizon:
                break
            del self._connections[user_id]
