"""Tickets: for a browser, which can put no header on a WebSocket, and should put no token into an address.

A page asks for a ticket with the application's own authentication, and spends it within seconds on one connection. A
ticket that shows up in a log is worth nothing by then.
"""

from __future__ import annotations

import hashlib
import json
from typing import Final

from websocket_core.errors import AuthenticationFailed, InvalidInput
from websocket_core.events import encode_json, random_text
from websocket_core.identity import Principal, UserId
from websocket_core.unified_manager import UnifiedWebSocketManager

TICKET_SECONDS: Final = 30.0
TICKET_BYTES: Final = 24
TICKET_CHARACTERS: Final = 128


class Tickets:
    """Hands out tickets and takes them back. What a ticket stands for is kept under its hash, so that nobody who reads
    the store can spend one."""

    def __init__(self, manager: UnifiedWebSocketManager) -> None:
        self._manager = manager

    async def issue(self, principal: Principal, *, origin: str | None = None) -> str:
        """A ticket for this principal, 32 characters, to be spent once within `TICKET_SECONDS` and by a client of this
        origin only; None stands for a program, which sends no origin.

        Raises `InvalidInput` if the claims of the principal are no JSON, and `LogUnavailable`.
        """
        fields = {
            "user_id": principal.user_id,
            "expires_at": principal.expires_at,
            "token_id": principal.token_id,
            "claims": dict(principal.claims),
            "origin": origin,
        }
        try:
            content = encode_json(fields, name="principal")
        except InvalidInput as error:
            raise InvalidInput(f"a ticket carries JSON: {error}") from None
        ticket = random_text(self._manager.entropy, TICKET_BYTES)
        await self._manager.state.keep_ticket(UserId(principal.user_id), _key(ticket), content, seconds=TICKET_SECONDS)
        return ticket

    async def spend(self, ticket: str, *, origin: str | None) -> Principal:
        """The principal of a ticket, once. Raises `AuthenticationFailed` if it is spent, expired, unknown or for
        another origin (and spends it in that case too), and `LogUnavailable`."""
        content = None
        if len(ticket) <= TICKET_CHARACTERS:
            content = await self._manager.state.take_ticket(_key(ticket))
        fields = None if content is None else json.loads(content)
        if fields is None or fields["origin"] != origin:
            raise AuthenticationFailed("the ticket was not accepted")
        return Principal(fields["user_id"], fields["expires_at"], fields["token_id"], fields["claims"])


def _key(ticket: str) -> str:
    return hashlib.sha256(ticket.encode(errors="surrogatepass")).hexdigest()
