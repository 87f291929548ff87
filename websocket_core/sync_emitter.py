"""`emitter.sync`: the emitter of one user, for code that runs in threads.

An event is encoded in the thread that emits it, so that a bad one is refused there. Everything else happens on the
event loop of the manager, where the log and the outboxes live.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from websocket_core.events import (
    AGENT_COMPLETED,
    AGENT_ERROR,
    AGENT_STARTED,
    AGENT_THINKING,
    TOOL_COMPLETED,
    TOOL_EXECUTING,
    Event,
)
from websocket_core.hand_over import Append, HandOvers
from websocket_core.identity import UserId
from websocket_core.log import Position


class Encode(Protocol):
    """Makes an event of one user, with the labels of that user's emitter. Called in any thread."""

    def __call__(
        self,
        event_type: str,
        data: Mapping[str, Any],
        *,
        run_id: str | None,
        thread_id: str | None,
        event_id: str | None,
        connection_id: str | None = None,
    ) -> Event: ...


class SyncEmitter:
    """What `emitter.sync` gives: the emitter's methods for code that runs in threads, with the same arguments.

    Each emitting method waits until the event is in the log and returns its `Position`, or raises what the emitter
    raises. No answer within three times `RetryPolicy.seconds` is `AppendFailed` too. Safe from any thread except the
    one of the manager's event loop, where waiting would never end: `WrongEventLoop`. Each thread's events stand in
    the log in the order of its calls. It holds no state; `emitter.sync` may be asked for at every use.
    """

    __slots__ = ("_append", "_encode", "_hand_overs", "_user_id")

    def __init__(self, user_id: UserId, *, encode: Encode, append: Append, hand_overs: HandOvers) -> None:
        self._user_id = user_id
        self._encode = encode
        self._append = append
        self._hand_overs = hand_overs

    @property
    def user_id(self) -> UserId:
        """The user whose log this emitter appends to."""
        return self._user_id

    def emit(
        self,
        event_type: str,
        data: Mapping[str, Any],
        *,
        run_id: str | None = None,
        thread_id: str | None = None,
        event_id: str | None = None,
        connection_id: str | None = None,
    ) -> Position:
        """Append one event of any type; with `connection_id` for that connection only, or `UnknownConnection`."""
        event = self._encode(
            event_type, data, run_id=run_id, thread_id=thread_id, event_id=event_id, connection_id=connection_id
        )
        return self._hand_overs.append(self._user_id, event_type, event, self._append)

    def post(
        self,
        event_type: str,
        data: Mapping[str, Any],
        *,
        run_id: str | None = None,
        thread_id: str | None = None,
        event_id: str | None = None,
    ) -> None:
        """Hand one event over and go on, as the bridge does: it waits in the user's outbox for the log, in order.

        Raises `InvalidEvent` and `ManagerClosed`, and nothing about the log. What does not fit into the outbox is
        dropped, counted, and told by `events_dropped`. Works on the loop's own thread too. While the loop stands
        still and `Limits.outbox` events of threads wait for it, this waits; `AppendFailed` after
        `RetryPolicy.seconds`.
        """
        event = self._encode(event_type, data, run_id=run_id, thread_id=thread_id, event_id=event_id)
        self._hand_overs.post(self._user_id, event_type, event)

    def emit_agent_started(
        self,
        data: Mapping[str, Any],
        *,
        run_id: str | None = None,
        thread_id: str | None = None,
        event_id: str | None = None,
    ) -> Position:
        """Emit `agent_started`: a run began."""
        return self.emit(AGENT_STARTED, data, run_id=run_id, thread_id=thread_id, event_id=event_id)

    def emit_agent_thinking(
        self,
        data: Mapping[str, Any],
        *,
        run_id: str | None = None,
        thread_id: str | None = None,
        event_id: str | None = None,
    ) -> Position:
        """Emit `agent_thinking`: the agent reasons."""
        return self.emit(AGENT_THINKING, data, run_id=run_id, thread_id=thread_id, event_id=event_id)

    def emit_tool_executing(
        self,
        data: Mapping[str, Any],
        *,
        run_id: str | None = None,
        thread_id: str | None = None,
        event_id: str | None = None,
    ) -> Position:
        """Emit `tool_executing`: a tool was called."""
        return self.emit(TOOL_EXECUTING, data, run_id=run_id, thread_id=thread_id, event_id=event_id)

    def emit_tool_completed(
        self,
        data: Mapping[str, Any],
        *,
        run_id: str | None = None,
        thread_id: str | None = None,
        event_id: str | None = None,
    ) -> Position:
        """Emit `tool_completed`: a tool returned."""
        return self.emit(TOOL_COMPLETED, data, run_id=run_id, thread_id=thread_id, event_id=event_id)

    def emit_agent_completed(
        self,
        data: Mapping[str, Any],
        *,
        run_id: str | None = None,
        thread_id: str | None = None,
        event_id: str | None = None,
    ) -> Position:
        """Emit `agent_completed`: the run is over."""
        return self.emit(AGENT_COMPLETED, data, run_id=run_id, thread_id=thread_id, event_id=event_id)

    def notify_agent_started(
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
        return self.emit(AGENT_STARTED, data, run_id=run_id, thread_id=thread_id, event_id=event_id)

    def notify_agent_thinking(
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
        return self.emit(AGENT_THINKING, data, run_id=run_id, thread_id=thread_id, event_id=event_id)

    def notify_tool_executing(
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
        return self.emit(TOOL_EXECUTING, data, run_id=run_id, thread_id=thread_id, event_id=event_id)

    def notify_tool_completed(
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
        return self.emit(TOOL_COMPLETED, data, run_id=run_id, thread_id=thread_id, event_id=event_id)

    def notify_agent_completed(
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
        return self.emit(AGENT_COMPLETED, data, run_id=run_id, thread_id=thread_id, event_id=event_id)

    def notify_agent_error(
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
        return self.emit(AGENT_ERROR, data, run_id=run_id, thread_id=thread_id, event_id=event_id)

    def notify_custom(
        self,
        event_type: str,
        data: Mapping[str, Any],
        *,
        run_id: str | None = None,
        thread_id: str | None = None,
        event_id: str | None = None,
    ) -> Position:
        """Emit an event of the application's own type."""
        return self.emit(event_type, data, run_id=run_id, thread_id=thread_id, event_id=event_id)
