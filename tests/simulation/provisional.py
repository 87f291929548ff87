"""Judges what connections are told and shown while the log is away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Outage:
    """One time that the log was away, as one connection was told."""

    user: str
    shown: list[str] = field(default_factory=list)
    """Event ids, in order."""
    over: bool = False


class Provisional:
    """Follows each connection from `degraded` to `restored`. What it finds is told in words; nothing else is wrong."""

    def __init__(self) -> None:
        self._outages: dict[int, list[_Outage]] = {}
        self._taken: dict[str, dict[str, int]] = {}

    def degraded(self, connection: int, user: str) -> Iterator[str]:
        if self._current(connection) is not None:
            yield f"connection {connection} is told `degraded` twice"
        self._outages.setdefault(connection, []).append(_Outage(user))

    def restored(self, connection: int) -> Iterator[str]:
        outage = self._current(connection)
        if outage is None:
            yield f"connection {connection} is told `restored` and was not degraded"
        else:
            outage.over = True

    def shown(self, connection: int, event_id: str) -> Iterator[str]:
        outage = self._current(connection)
        if outage is None:
            yield f"connection {connection} is shown {event_id} provisionally, and is not degraded"
        elif event_id in outage.shown:
            yield f"connection {connection} is shown {event_id} provisionally for the second time"
        else:
            outage.shown.append(event_id)

    def taken(self, user: str, event_id: str) -> None:
        """The user's log took this event."""
        order = self._taken.setdefault(user, {})
        order.setdefault(event_id, len(order))

    def end(self, live: set[int]) -> Iterator[str]:
        """When the log has been back for long. Every outbox has kept what it had, and its order."""
        for connection, outages in self._outages.items():
            if connection in live and not outages[-1].over:
                yield f"connection {connection} was never told `restored`"
            for outage in outages:
                taken = self._taken.get(outage.user, {})
                missing = [event_id for event_id in outage.shown if event_id not in taken]
                if missing:
                    yield f"connection {connection} was shown {missing[0]} provisionally, and it never came"
                places = [taken[event_id] for event_id in outage.shown if event_id in taken]
                if places != sorted(places):
                    yield f"connection {connection} was shown events in another order than the log took them in"

    def _current(self, connection: int) -> _Outage | None:
        outages = self._outages.get(connection)
        return None if not outages or outages[-1].over else outages[-1]
