"""Who may do what: one function for every verb. What no rule allows is denied."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Final

from websocket_core.identity import Principal, UserId
from websocket_core.wire import CloseCode


class Verb(StrEnum):
    """What somebody asks for. Everything that a client can cause is one of these."""

    CONNECT = "connect"
    """To be sent what comes from now on."""
    RESUME = "resume"
    """To be sent what came after a cursor."""
    HISTORY = "history"
    """To be sent everything that is retained."""
    TICKET = "ticket"
    """To get a ticket, which connects once."""
    CANCEL = "cancel"
    """To stop a run."""
    APPROVE = "approve"
    """To decide what a run waits for."""
    COMMAND = "command"
    """To hand in work."""


_OWNERS: Final = frozenset(
    {Verb.CONNECT, Verb.RESUME, Verb.HISTORY, Verb.TICKET, Verb.CANCEL, Verb.APPROVE, Verb.COMMAND}
)
"""What everybody may do with what is theirs, and nobody with what is not."""

Narrow = Callable[[Principal, Verb], Awaitable[bool]]
"""The application's own rule, asked about what the owner may do otherwise: it can only take away."""


class Authorization:
    """The rules of one manager. `permits` is the deny-list."""

    def __init__(self, *, permits: Callable[[Principal], Awaitable[bool]], narrow: Narrow | None) -> None:
        self._permits = permits
        self._narrow = narrow

    async def refusal(self, principal: Principal, verb: Verb, owner: UserId) -> CloseCode | None:
        """Why this principal may not do that with what belongs to `owner`: 4403, or 4410 if it was revoked. None if it
        may. Raises `LogUnavailable` if the deny-list cannot be asked, and what the application's rule raises: neither
        is a yes."""
        if verb not in _OWNERS or principal.user_id != owner:
            return CloseCode.NOT_ALLOWED
        if not await self._permits(principal):
            return CloseCode.REVOKED
        if self._narrow is not None and await self._narrow(principal, verb) is not True:
            return CloseCode.NOT_ALLOWED
        return None
