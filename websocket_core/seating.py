"""`Seating`: the limit of connections per user, in all processes together.

At connect the store says which connections have to make room. Those of this process are closed at once; one of another
process is ordered to close by a control entry in the user's log, in the background: an order that can't be appended
holds up nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Final, NamedTuple

from websocket_core.appender import Appender
from websocket_core.connection import WebSocketConnection
from websocket_core.control import Order, control_event
from websocket_core.errors import AppendFailed, LogUnavailable, ManagerClosed
from websocket_core.events import EventEncoder, random_text
from websocket_core.identity import LogName, UserId
from websocket_core.metrics import Metrics
from websocket_core.registry import Registry
from websocket_core.state import Seat, Seats, SharedState
from websocket_core.wire import CloseCode

logger = logging.getLogger(__name__)

STAY_SECONDS: Final = 15.0
"""After so long without a word from its process a seat does not count any more."""
WORDS: Final = 3
"""How many times in that time a process says that it is there."""


class Taken(NamedTuple):
    """A seat, and who has to make room for it."""

    id: str
    others: list[Seat]


class Seating:
    """The seats of the connections of one manager. Where processes share no state, there are none."""

    def __init__(
        self,
        state: SharedState,
        registry: Registry,
        appender: Appender,
        encoder: EventEncoder,
        *,
        most: int,
        metrics: Metrics,
        entropy: Callable[[int], bytes],
    ) -> None:
        self._state = state
        self._seats: Seats | None = getattr(state, "seats", None)
        self._registry = registry
        self._appender = appender
        self._encoder = encoder
        self._most = most
        self._metrics = metrics
        self._entropy = entropy
        self._coming: dict[str, bool] = {}
        """Seats of connections that are not registered yet, and whether another has come since that they are to make
        room for."""
        self._left: dict[tuple[UserId, str], None] = {}
        self._orders: dict[str, tuple[UserId, Seat]] = {}
        self._said_at = float("-inf")
        self._awake = asyncio.Event()

    async def take(self, user_id: UserId, connection_id: str) -> Taken:
        """Note that a connection comes. Raises `LogUnavailable`."""
        if self._seats is None:
            await self._state.remember_connection(user_id, connection_id)
            return Taken("", [])
        seat = Seat(random_text(self._entropy, 9), connection_id, self._seats.process)
        self._coming[seat.id] = False
        try:
            await self._stay(self._seats)
            return Taken(seat.id, await self._seats.take(user_id, seat, most=self._most))
        except BaseException:
            self.leave(user_id, seat.id)  # it may have been noted
            raise

    def admit(self, connection: WebSocketConnection, taken: Taken) -> None:
        """Register a connection, and close those that have to make room with 4409; those of other processes soon."""
        user_id = connection.user_id
        connection.seat = taken.id
        here = {each.seat: each for each in self._registry.of(user_id).values() if each.seat}
        for seat in taken.others:
            replaced = here.get(seat.id)
            if replaced is not None:
                self._registry.remove(replaced)
                self._replace(replaced)
            elif seat.id in self._coming:
                self._coming[seat.id] = True
            elif self._seats is not None and seat.process != self._seats.process:
                self._orders[seat.id] = (user_id, seat)
                self._awake.set()
        last = self._registry.add(connection, per_user=self._most)
        if last is not None:
            self._replace(last)
        if self._coming.pop(taken.id, False):
            self._registry.remove(connection)
            self._replace(connection)

    def _replace(self, connection: WebSocketConnection) -> None:
        self._metrics.evictions += 1
        connection.close(CloseCode.REPLACED)

    def leave(self, user_id: UserId, seat: str) -> None:
        """Give a seat back, in the background."""
        if seat and self._seats is not None:
            self._coming.pop(seat, None)
            self._left[user_id, seat] = None
            self._awake.set()

    async def elsewhere(self, user_id: UserId) -> bool:
        """Whether another process has connections of this user. Raises `LogUnavailable`."""
        return self._seats is not None and await self._seats.elsewhere(user_id)

    def clear(self) -> None:
        """Forget all at once; for a loop that is gone."""
        self._coming.clear()
        self._left.clear()
        self._orders.clear()
        self._said_at = float("-inf")

    # -- the job

    def jobs(self) -> dict[str, Callable[[], Coroutine[None, None, None]]]:
        return {} if self._seats is None else {"seats": self._run}

    async def _run(self) -> None:
        assert self._seats is not None
        self._awake = asyncio.Event()
        loop = asyncio.get_running_loop()
        while True:
            try:
                if len(self._registry):
                    await self._stay(self._seats)
                await self._give_back(self._seats)
                await self._order(self._seats)
            except (LogUnavailable, ManagerClosed) as error:
                logger.debug("seats could not be seen to", extra={"error": type(error).__name__})
            except Exception:  # the job must live, or this process counts as gone
                logger.exception("seeing to seats failed")
            timer = loop.call_later(STAY_SECONDS / WORDS, self._awake.set)
            try:
                await self._awake.wait()
            finally:
                timer.cancel()
            self._awake.clear()

    async def _stay(self, seats: Seats) -> None:
        """Say that this process is there, if that was not just said."""
        now = asyncio.get_running_loop().time()
        if now >= self._said_at + STAY_SECONDS / WORDS or now < self._said_at:
            await seats.stay(STAY_SECONDS)
            self._said_at = now

    async def close(self) -> None:
        """Give back what was left."""
        try:
            if self._seats is not None:
                await self._give_back(self._seats)
        except (LogUnavailable, ManagerClosed):
            logger.debug("seats could not be given back")

    async def _give_back(self, seats: Seats) -> None:
        left = list(self._left)
        if left:
            await seats.leave(left)
            for each in left:
                self._left.pop(each, None)

    async def _order(self, seats: Seats) -> None:
        """Order the connections of other processes to close. One that can't be ordered stays, and counts no more."""
        while self._orders:
            await self._stay(seats)
            user_id, seat = self._orders.pop(next(iter(self._orders)))
            try:
                if await seats.is_there(seat.process):
                    order = Order(int(CloseCode.REPLACED), connection_id=seat.connection_id, seat=seat.id)
                    event = control_event(order, self._encoder.new_id())
                    await self._appender.append(LogName.of_user(user_id), event)
                    self._metrics.evictions += 1
            except (LogUnavailable, AppendFailed):
                self._metrics.evictions_failed += 1
                logger.warning("a connection of another process could not be ordered to make room")
