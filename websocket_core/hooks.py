"""The application's own code that a manager calls: when a connection came, when it went, and after a gap."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from websocket_core.connection import WebSocketConnection
from websocket_core.errors import InvalidEvent
from websocket_core.events import encode_json
from websocket_core.limits import Limits

logger = logging.getLogger(__name__)

ConnectionHook = Callable[[WebSocketConnection], Awaitable[None]]
SnapshotHook = Callable[[WebSocketConnection], Awaitable[Mapping[str, Any] | None]]


class Hooks:
    """The hooks of one manager, and the tasks that run those which nobody waits for."""

    def __init__(
        self,
        *,
        on_connect: ConnectionHook | None,
        on_disconnect: ConnectionHook | None,
        snapshot: SnapshotHook | None,
        limits: Limits,
    ) -> None:
        self._on_connect = on_connect
        self._on_disconnect = on_disconnect
        self._snapshot = snapshot
        self._limits = limits
        self._tasks: dict[asyncio.Task[None], None] = {}

    async def connected(self, connection: WebSocketConnection) -> None:
        """Await `on_connect`. Raises what it raises: the connection is then refused."""
        if self._on_connect is not None:
            await self._on_connect(connection)

    def disconnected(self, connection: WebSocketConnection, loop: asyncio.AbstractEventLoop) -> None:
        """Start `on_disconnect` in a task of its own."""
        if self._on_disconnect is not None:
            task = loop.create_task(self._run(self._on_disconnect, connection))
            self._tasks[task] = None
            task.add_done_callback(lambda ended: self._tasks.pop(ended, None))

    @staticmethod
    async def _run(hook: ConnectionHook, connection: WebSocketConnection) -> None:
        try:
            await hook(connection)
        except Exception:  # the application's own code, in a task of ours
            logger.exception("the on_disconnect hook failed")

    @property
    def takes_snapshots(self) -> bool:
        return self._snapshot is not None

    async def snapshot(self, connection: WebSocketConnection) -> bytes | None:
        """What the application shows to this connection after a gap, as JSON; None if it has nothing, or fails."""
        assert self._snapshot is not None
        try:
            async with asyncio.timeout(self._limits.snapshot_timeout):
                shown = await self._snapshot(connection)
            if shown is None:
                return None
            if not isinstance(shown, dict):
                raise InvalidEvent(f"a snapshot is a dict, not of type {type(shown).__name__}")
            text = encode_json(shown, name="snapshot", depth=self._limits.event_depth)
            if len(text) > self._limits.event_bytes:
                raise InvalidEvent(f"the snapshot has {len(text)} bytes, and Limits.event_bytes allows less")
        except (Exception, asyncio.CancelledError) as error:  # the application's own; the gap must be told all the same
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # it is we who are cancelled, and not something that the hook waited for
            logger.exception("the snapshot hook failed: the gap is told without one")
            return None
        return text

    def running(self) -> list[asyncio.Task[None]]:
        """Every `on_disconnect` that has not ended."""
        return list(self._tasks)

    def clear(self) -> None:
        """Forget what is under way; for a loop that is gone."""
        self._tasks.clear()
