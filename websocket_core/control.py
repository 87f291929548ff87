"""Control entries: orders to connections that stand in a user's log, among its events, and are shown to nobody.

A revocation or a forced disconnect is ordered with the events around it, and reaches every process that follows the
log by the one mechanism there is.
"""

from __future__ import annotations

import json
from typing import Final, NamedTuple

from pydantic_core import to_json

from websocket_core.events import Event

CONTROL: Final = "\x00"
"""Stands where an event names the connection that it is for. No connection can have this id."""


class Order(NamedTuple):
    """Close the connections of this user that have this id and this token, and whose credential is not newer, where
    that is named; what is left out matches all."""

    code: int
    """The close code."""
    connection_id: str | None = None
    token_id: str | None = None
    issued_until: float | None = None
    """In Unix seconds. A credential that does not say when it was issued counts as old."""
    seat: str | None = None
    """Which of the connections that have had this connection id, one after the other, maybe in several processes."""

    def concerns(
        self, connection_id: str, token_id: str | None, issued_at: float | None = None, seat: str | None = None
    ) -> bool:
        """Whether a connection with this id and seat, whose principal has this token id and was issued then, is
        meant."""
        if self.seat is not None and self.seat != seat:
            return False
        if self.issued_until is not None and issued_at is not None and issued_at > self.issued_until:
            return False
        return self.connection_id in (None, connection_id) and self.token_id in (None, token_id)


def control_event(order: Order, event_id: str) -> Event:
    """The order as an event to append."""
    fields = {name: value for name, value in order._asdict().items() if value is not None}
    if order.seat is not None:
        # A release that knows no seats must not take the order for a wider one than it is: it looks for `code`.
        fields["seat_code"] = fields.pop("code")
    return Event(event_id, to_json({"type": "control", "order": fields, "id": event_id})[:-1], CONTROL)


def order_of(event: Event) -> Order | None:
    """The order that a control entry carries; None for one of a kind that this release does not know."""
    try:
        order = json.loads(event.body + b"}")["order"]
        names = [order.get(name) for name in ("connection_id", "token_id", "seat")]
        code = order["code" if names[2] is None else "seat_code"]
        issued_until = order.get("issued_until")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if type(code) is not int or not all(name is None or isinstance(name, str) for name in names):
        return None
    if issued_until is not None and (isinstance(issued_until, bool) or not isinstance(issued_until, (int, float))):
        return None
    return Order(code, names[0], names[1], issued_until, names[2])
