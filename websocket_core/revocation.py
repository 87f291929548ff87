"""Who may not be here any more: revocation and forced disconnect, by the deny-list first and then by an order in the
user's own log."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from websocket_core.appender import Appender
from websocket_core.connection import WebSocketConnection
from websocket_core.control import Order, control_event
from websocket_core.errors import InvalidInput
from websocket_core.events import EventEncoder
from websocket_core.identity import LogName, Principal, UserId, text_fault
from websocket_core.registry import Registry
from websocket_core.state import SharedState
from websocket_core.wire import CloseCode

TOKEN_ID_CHARACTERS: Final = 1_024
LATELY_SECONDS: Final = 10.0
"""No connect takes longer from its question to the deny-list to its registration."""


class Revocations:
    """Orders connections to end, in every process that follows the user's log."""

    def __init__(
        self,
        *,
        appender: Appender,
        encoder: EventEncoder,
        state: SharedState,
        registry: Registry,
        clock: Callable[[], float],
    ) -> None:
        self._appender = appender
        self._encoder = encoder
        self._state = state
        self._registry = registry
        self._clock = clock
        self._lately: deque[tuple[float, UserId, Order]] = deque()

    async def permits(self, principal: Principal) -> bool:
        """Whether the deny-list lets this principal be here. To be asked after the head of its log was noted."""
        return not await self._state.denied(UserId(principal.user_id), principal.token_id, principal.issued_at)

    async def revoke(self, user_id: UserId, token_id: str | None, *, seconds: float) -> None:
        """Deny what was issued until now, then order every matching connection to close with 4410."""
        if token_id is not None and (fault := text_fault(token_id, characters=TOKEN_ID_CHARACTERS, utf8_bytes=4_096)):
            raise InvalidInput(f"this is not a token id: {fault}")
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < float("inf"):
            raise InvalidInput("seconds is a finite number above zero")
        now = self._clock()
        await self._state.deny(user_id, token_id, issued_until=now, until=now + seconds)
        # Who logs in anew while the order is on its way is not meant by it.
        issued_until = now if token_id is None else None
        await self._order(user_id, Order(int(CloseCode.REVOKED), token_id=token_id, issued_until=issued_until))

    async def disconnect(self, user_id: UserId, connection_id: str | None) -> None:
        """Order the connection with this id, or all of them, to close with 1000."""
        if connection_id is not None and text_fault(connection_id, characters=256, utf8_bytes=512):
            return  # no connection can have such an id
        await self._order(user_id, Order(int(CloseCode.DISCONNECTED), connection_id=connection_id))

    async def _order(self, user_id: UserId, order: Order) -> None:
        """Append the order. The connections of this process are held to it by a deadline as well: one that is far
        behind, or waits for a write, would come to it late."""
        if order.code == CloseCode.REVOKED:
            self._lately.append((asyncio.get_running_loop().time() + LATELY_SECONDS, user_id, order))
        told = self._tell(user_id, order, [])
        try:
            await self._appender.append(LogName.of_user(user_id), control_event(order, self._encoder.new_id()))
        finally:
            if order.code == CloseCode.REVOKED:  # who came while it was on its way may wait for a wake-up that is lost
                self._tell(user_id, order, told)

    def admitted(self, connection: WebSocketConnection) -> None:
        """Hold a connection that is registered now to what was revoked while it was on its way: it may have been asked
        for in the deny-list a moment before."""
        now = asyncio.get_running_loop().time()
        while self._lately and self._lately[0][0] < now:
            self._lately.popleft()
        for _, user_id, order in self._lately:
            if user_id == connection.user_id:
                self._tell(user_id, order, [])

    def _tell(self, user_id: UserId, order: Order, told: list[WebSocketConnection]) -> list[WebSocketConnection]:
        """Hold the connections of this process to the order, except those that were told; who was told now."""
        concerned = [
            connection
            for connection in (*self._registry.of(user_id).values(), *self._registry.leaving())
            if connection.user_id == user_id
            and order.concerns(connection.connection_id, connection.principal.token_id, connection.principal.issued_at)
            and connection not in told
        ]
        for connection in concerned:
            self._registry.remove(connection)
            connection.order(CloseCode(order.code))
        return concerned
