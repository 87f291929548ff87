"""Which connections there are, by user and connection id. Serves limits, sweeping and statistics; never delivery."""

from __future__ import annotations

from collections.abc import Iterator

from websocket_core.connection import WebSocketConnection
from websocket_core.identity import UserId
from websocket_core.metrics import Metrics


class Registry:
    """The connections of one manager: those that count, and those that are on their way out."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._users: dict[UserId, dict[str, WebSocketConnection]] = {}
        self._leaving: dict[WebSocketConnection, None] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[WebSocketConnection]:
        """All that count, as of now."""
        return iter([connection for of_user in self._users.values() for connection in of_user.values()])

    @property
    def users(self) -> int:
        return len(self._users)

    def of(self, user_id: UserId) -> dict[str, WebSocketConnection]:
        """The connections of one user by id, oldest first; a copy."""
        return dict(self._users.get(user_id, ()))

    def has(self, user_id: UserId, connection_id: str | None = None) -> bool:
        """Whether the user has this connection, or with None any."""
        of_user = self._users.get(user_id)
        return of_user is not None and (connection_id is None or connection_id in of_user)

    def leaving(self) -> list[WebSocketConnection]:
        """Those that were taken out and whose writer has not ended yet."""
        return list(self._leaving)

    def add(self, connection: WebSocketConnection, *, per_user: int) -> WebSocketConnection | None:
        """Take a connection in; the one that had to make room for it, if any: of the same user, with the same id or,
        above `per_user`, the oldest by arrival. One step without an await, so the limit holds however many come."""
        of_user = self._users.setdefault(connection.user_id, {})
        replaced = of_user.get(connection.connection_id)
        if replaced is None and len(of_user) >= per_user:
            replaced = next(iter(of_user.values()))  # a dict keeps the order of arrival
        if replaced is not None:
            self.remove(replaced)
        self._users.setdefault(connection.user_id, {})[connection.connection_id] = connection
        self._count += 1
        self._metrics.connections += 1
        return replaced

    def remove(self, connection: WebSocketConnection) -> bool:
        """Take a connection out, to the leaving ones; False if it was out already."""
        of_user = self._users.get(connection.user_id, {})
        if of_user.get(connection.connection_id) is not connection:
            return False
        del of_user[connection.connection_id]
        if not of_user:
            del self._users[connection.user_id]
        self._count -= 1
        self._metrics.connections -= 1
        self._leaving[connection] = None
        return True

    def ended(self, connection: WebSocketConnection) -> None:
        """Its writer has ended: forget it."""
        self.remove(connection)
        self._leaving.pop(connection, None)

    def clear(self) -> None:
        """Forget all at once; for a loop that is gone."""
        for connection in (*self, *self._leaving):
            connection.detach()
        self._metrics.connections -= self._count
        self._users.clear()
        self._leaving.clear()
        self._count = 0
