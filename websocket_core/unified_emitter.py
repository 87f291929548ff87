"""`UnifiedWebSocketEmitter`: appends events to the log of one user, and of that user only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Protocol

from websocket_core.appender import Appender
from websocket_core.errors import AppendFailed, InvalidUserId, LogUnavailable
from websocket_core.events import (
    AGENT_COMPLETED,
    AGENT_ERROR,
    AGENT_STARTED,
    AGENT_THINKING,
    CRITICAL_EVENTS,
    TOOL_COMPLETED,
    TOOL_EXECUTING,
    Event,
    EventEncoder,
    owner_part,
)
from websocket_core.hand_over import HandOvers
from websocket_core.identity import LogName, UserId, checked_user_id
from websocket_core.log import Position
from websocket_core.sync_emitter import SyncEmitter

_COUNTED_TYPES: Final = 256
"""How many different event types one emitter counts one by one; the total counts all."""


class EmitterHost(Protocol):
    """What an emitter needs of a manager."""

    @property
    def appender(self) -> Appender: ...

    @property
    def encoder(self) -> EventEncoder: ...

    @property
    def hand_overs(self) -> HandOvers:
        """How other threads reach the manager's loop."""
        ...

    async def require_connection(self, user_id: UserId, connection_id: str) -> None:
        """Raise `UnknownConnection` unless this user has, or lately had, a connection of that id."""
        ...


class RunLabels(Protocol):
    """What an emitter takes from a context: the labels of its events."""

    @property
    def user_id(self) -> str: ...

    @property
    def run_id(self) -> str | None: ...

    @property
    def thread_id(self) -> str | None: ...


class UnifiedWebSocketEmitter:
    """Emits events to one user. No method takes a user id, and there is no way to reach anybody else.

    With a `context`, its run and thread label every event that names none. Raises `InvalidUserId`, also if the
    context is another user's.

    Every emitting method returns the `Position` of the event in the user's log, whether or not the user is connected,
    and raises `InvalidEvent` (nothing was appended: fix the call), `AppendFailed` (outcome unknown: emit again with
    the same `event_id`) or `ManagerClosed`. It never waits for a socket and never changes the data it is given.
    """

    CRITICAL_EVENTS: ClassVar[tuple[str, ...]] = CRITICAL_EVENTS

    def __init__(self, manager: EmitterHost, user_id: str, context: RunLabels | None = None) -> None:
        self._user_id = checked_user_id(user_id)
        if context is not None and context.user_id != self._user_id:
            raise InvalidUserId("the context belongs to another user than the emitter")
        self._host = manager
        self._appender = manager.appender
        self._encoder = manager.encoder
        self._log = LogName.of_user(self._user_id)
        self._owner = owner_part(self._user_id)
        self._run_id = None if context is None else context.run_id
        self._thread_id = None if context is None else context.thread_id
        self._counts: dict[str, int] = {}
        self._total = 0

    @property
    def user_id(self) -> UserId:
        """The user whose log this emitter appends to."""
        return self._user_id

    @property
    def sync(self) -> SyncEmitter:
        """This emitter for code that runs in threads: the same methods, to be called without `await`."""
        return SyncEmitter(
            self._user_id, encode=self._encode, append=self._append_encoded, hand_overs=self._host.hand_overs
        )

    def _encode(
        self,
        event_type: str,
        data: Mapping[str, Any],
        run_id: str | None,
        thread_id: str | None,
        event_id: str | None,
        connection_id: str | None = None,
    ) -> Event:
        return self._encoder.encode(
            event_type,
            data,
            self._owner,
            self._run_id if run_id is None else run_id,
            self._thread_id if thread_id is None else thread_id,
            event_id,
            connection_id,
        )

    async def _append_encoded(self, event_type: str, event: Event) -> Position:
        if event.connection_id is not None:
            try:
                await self._host.require_connection(self._user_id, event.connection_id)
            except LogUnavailable as error:
                raise AppendFailed(event.id, 0) from error
        position = await self._appender.append(self._log, event)
        self._total += 1
        counts = self._counts
        if event_type in counts:
            counts[event_type] += 1
        elif len(counts) < _COUNTED_TYPES:
            counts[event_type] = 1
        return position

    async def emit(
        self,
        event_type: str,
        data: Mapping[str, Any],
        *,
        run_id: str | None = None,
        thread_id: str | None = None,
        event_id: str | None = None,
        connection_id: str | None = None,
    ) -> Position:
        """Append one event of any type.

        With `connection_id` only that connection of this user reads it, also after it reconnected under the same id;
        `UnknownConnection` is raised if this user has no such connection and registered none within `Retention.age`.
        """
        event = self._encode(event_type, data, run_id, thread_id, event_id, connection_id)
        return await self._append_encoded(event_type, event)

    async def emit_agent_started(
        self,
        data: Mapping[str, Any],
        *,
        run_id: str | None = None,
        thread_id: str | None = None,
        event_id: str | None = None,
    ) -> Position:
        """Emit `agent_started`: a run began."""
        return await self.emit(AGENT_STARTED, data, run_id=run_id, thread_id=thread_id, event_id=event_id)

    async def emit_agent_thinking(
        self,
        data: Mapping[str, Any],
        *,
        run_id: str | None = None,
        thread_id: str | None = None,
        event_id: str | None = None,
    ) -> Position:
        """Emit `agent_thinking`: the agent reasons."""
        return await self.emit(AGENT_THINKING, data, run_id=run_id, thread_id=thread_id, event_id=event_id)

    async def emit_tool_executing(
        self,
        data: Mapping[str, Any],
        *,
        run_id: str | None = None,
        thread_id: str | None = None,
        event_id: str | None = None,
    ) -> Position:
        """Emit `tool_executing`: a tool was called."""
        return await self.emit(TOOL_EXECUTING, data, run_id=run_id, thread_id=thread_id, event_id=event_id)

    async def emit_tool_completed(
        self,
        data: Mapping[str, Any],
        *,
        run_id: str | None = None,
        thread_id: str | None = None,
        event_id: str | None = None,
    ) -> Position:
        """Emit `tool_completed`: a tool returned."""
        return await self.emit(TOOL_COMPLETED, data, run_id=run_id, thread_id=thread_id, event_id=event_id)

    async def emit_agent_completed(
        self,
        data: Mapping[str, Any],
        *,
        run_id: str | None = None,
        thread_id: str | None = None,
        event_id: str | None = None,
    ) -> Position:
        """Emit `agent_completed`: the run is over."""
        return await self.emit(AGENT_COMPLETED, data, run_id=run_id, thread_id=thread_id, event_id=event_id)

    async def notify_agent_started(
        self,
        agent_name: str,
        *,
        run_id: str | None = None,
        thread_id: str | None = None,
        event_id: str | None = None,
        **extra: object,
    ) -> Position:
        """Emit `agent_started` with `agent` and the keys of `extra`."""
        data = {**extra, "agent": agent_name}
        return await self.emit(AGENT_STARTED, data, run_id=run_id, thread_id=thread_id, event_id=event_id)

    async def notify_agent_thinking(
        self,
        thought: str,
        *,
        run_id: str | None = None,
        thread_id: str | None = None,
        event_id: str | None = None,
        **extra: object,
    ) -> Position:
        """Emit `agent_thinking` with `thought` and the keys of `extra`."""
        data = {**extra, "thought": thought}
        return await self.emit(AGENT_THINKING, data, run_id=run_id, thread_id=thread_id, event_id=event_id)

    async def notify_tool_executing(
        self,
        tool_name: str,
        *,
        run_id: str | None = None,
        thread_id: str | None = None,
        event_id: str | None = None,
        **extra: object,
    ) -> Position:
        """Emit `tool_executing` with `tool` and the keys of `extra`."""
        data = {**extra, "tool": tool_name}
        return await self.emit(TOOL_EXECUTING, data, run_id=run_id, thread_id=thread_id, event_id=event_id)

    async def notify_tool_completed(
        self,
        tool_name: str,
        result: object,
        *,
        run_id: str | None = None,
        thread_id: str | None = None,
        event_id: str | None = None,
        **extra: object,
    ) -> Position:
        """Emit `tool_completed` with `tool` and `result` and the keys of `extra`."""
        data = {**extra, "tool": tool_name, "result": result}
        return await self.emit(TOOL_COMPLETED, data, run_id=run_id, thread_id=thread_id, event_id=event_id)

    async def notify_agent_completed(
        self,
        result: object,
        *,
        run_id: str | None = None,
        thread_id: str | None = None,
        event_id: str | None = None,
        **extra: object,
    ) -> Position:
        """Emit `agent_completed` with `result` and the keys of `extra`."""
        data = {**extra, "result": result}
        return await self.emit(AGENT_COMPLETED, data, run_id=run_id, thread_id=thread_id, event_id=event_id)

    async def notify_agent_error(
        self,
        error: str,
        *,
        run_id: str | None = None,
        thread_id: str | None = None,
        event_id: str | None = None,
        **extra: object,
    ) -> Position:
        """Emit `agent_error` with `error` and the keys of `extra`."""
        data = {**extra, "error": error}
        return await self.emit(AGENT_ERROR, data, run_id=run_id, thread_id=thread_id, event_id=event_id)

    async def notify_custom(
        self,
        event_type: str,
        data: Mapping[str, Any],
        *,
        run_id: str | None = None,
        thread_id: str | None = None,
        event_id: str | None = None,
    ) -> Position:
        """Emit an event of the application's own type."""
        return await self.emit(event_type, data, run_id=run_id, thread_id=thread_id, event_id=event_id)

    def get_stats(self) -> dict[str, Any]:
        """`user_id`, `event_counts` by type and `total_events`, as of this emitter alone."""
        return {"user_id": self._user_id, "event_counts": dict(self._counts), "total_events": self._total}

    async def cleanup(self) -> None:
        """Start the statistics anew. The emitter keeps working."""
        self._counts.clear()
        self._total = 0
