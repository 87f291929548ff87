"""`AgentWebSocketBridge`: turns the life of an agent run into events.

What it promises holds on success, exception, cancellation and time-out: every `agent_started` is followed by exactly
one terminal event, and every `tool_executing` by exactly one `tool_completed`. Closing events are handed to the
user's outbox without an `await`, so that no cancellation can come between, and in slots that were reserved for them.
An unreachable log delays or kills no run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from bridge.agent_run import AgentRun
from bridge.context import RunContext
from bridge.run_channel import DescribeError, RunChannel, describe_by_type
from websocket_core.events import EventEncoder
from websocket_core.identity import UserId, checked_user_id
from websocket_core.outbox import Outbox
from websocket_core.runs import OpenRuns


class BridgeHost(Protocol):
    """What the bridge needs of a manager."""

    @property
    def encoder(self) -> EventEncoder: ...

    @property
    def runs(self) -> OpenRuns: ...

    @property
    def monotonic(self) -> Callable[[], float]:
        """The clock of durations, in seconds."""
        ...

    def outbox(self, user_id: str) -> Outbox: ...


class AgentWebSocketBridge:
    """Tells the runs of one context to its user. `context` is anything with `user_id`, `run_id` and `thread_id`.

    `describe_error` decides what the user is shown of an exception; by default only its type. Raises `InvalidUserId`.
    """

    def __init__(
        self, manager: BridgeHost, context: RunContext, *, describe_error: DescribeError = describe_by_type
    ) -> None:
        self.user_id: Final[UserId] = checked_user_id(context.user_id)
        self.run_id: Final[str | None] = context.run_id
        self.thread_id: Final[str | None] = context.thread_id
        user_id = self.user_id
        self._channel = RunChannel(
            user_id,
            self.thread_id,
            outbox=lambda: manager.outbox(user_id),
            encoder=manager.encoder,
            open_runs=manager.runs,
            monotonic=manager.monotonic,
            describe_error=describe_error,
        )

    def run(self, agent: str, *, run_id: str | None = None, parent_run_id: str | None = None) -> AgentRun:
        """One run of the agent, for `async with`. Without a `run_id` it is the context's, or else a new one."""
        run_id = run_id or self.run_id or self._channel.new_id()
        return AgentRun(self._channel, agent, run_id=run_id, parent_run_id=parent_run_id)
