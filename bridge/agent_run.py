"""`AgentRun` and `ToolCall`: one run, and one call of a tool, from their first event to their last."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

from bridge.approvals import Approval
from bridge.deltas import DeltaBuffer
from bridge.run_channel import RunChannel, check_name
from websocket_core.appender import TURN
from websocket_core.approvals import Decision
from websocket_core.errors import InvalidEvent
from websocket_core.events import (
    AGENT_COMPLETED,
    AGENT_ERROR,
    AGENT_THINKING,
    MESSAGE_DELTA,
    TOOL_COMPLETED,
    TOOL_EXECUTING,
    TOOL_PROGRESS,
)
from websocket_core.leases import terminal_id
from websocket_core.run_keeper import HeldRun

logger = logging.getLogger(__name__)


class RunCancelled(asyncio.CancelledError):
    """The user stopped the run. Raised out of `async with bridge.run(...)` in place of the cancellation.

    It ends the task as a cancellation does, unless it is caught around the `async with`.
    """


class AgentRun:
    """One run of an agent. Made by `AgentWebSocketBridge.run` and `AgentRun.child`; used with `async with`.

    Set `result` to what the agent answers. Every method raises `InvalidEvent` for what is not JSON, and nothing that
    has to do with the log.
    """

    def __init__(
        self,
        channel: RunChannel,
        agent: str,
        *,
        run_id: str,
        parent_run_id: str | None = None,
        parent: AgentRun | None = None,
    ) -> None:
        self.agent: Final = agent
        self.run_id: Final = run_id
        self.parent_run_id: Final = parent_run_id
        self.result: object = None
        self.status: str = "new"
        """`new`, `open`, then how it ended: `success`, `cancelled`, `interrupted` or `error`."""
        self._channel = channel
        self._parent = parent
        self._began = 0.0
        self._terminal_id = ""
        self._told = False
        self._interrupted = False
        self._stops = 0
        self._cancelling = 0
        self._task: asyncio.Task[Any] | None = None
        self._held: HeldRun | None = None
        self._close: Callable[[], None] | None = None
        self._tools: dict[str, ToolCall] = {}
        self._approvals: list[Approval] = []
        self._children: dict[AgentRun, None] = {}
        self._deltas: dict[str, DeltaBuffer] = {}
        self._message_id: str | None = None
        self._streak = 0

    async def __aenter__(self) -> Self:
        """Begin the run: `agent_started`. Raises `InvalidEvent` for a bad agent name or run id."""
        if self.status != "new":
            raise RuntimeError("a run is entered once; ask the bridge for another")
        check_name("agent", self.agent)
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._began = self._channel.monotonic()
        started_id = self._channel.new_id()
        # Derived, so that whoever ends this run appends the same id, and the log holds it once.
        self._terminal_id = terminal_id(started_id)
        self._told, self._held = self._channel.begin(
            self.agent, self.run_id, parent_run_id=self.parent_run_id, started_id=started_id, stop=self._stop
        )
        if not self._told:
            logger.warning("the outbox is full: a run is not told to its user")
        self.status = "open"
        if self._parent is not None:
            self._parent._children[self] = None
        self._close = self._channel.open_runs.open(self._channel.user_id, self.run_id, self._stop)
        await self._settled_or_end()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self._end(exc)
        only_ours = self._take_back()
        if exc is None:
            await self._channel.outbox.settled()
        elif only_ours and isinstance(exc, asyncio.CancelledError):
            raise RunCancelled("the user stopped the run") from exc

    async def _settled_or_end(self) -> None:
        """Wait for what was just put. A cancellation here comes before any `__aexit__` could see it."""
        try:
            await self._channel.outbox.settled()
        except BaseException as error:
            self._end(error)
            if self._take_back() and isinstance(error, asyncio.CancelledError):
                raise RunCancelled("the user stopped the run") from error
            raise

    def _stop(self) -> None:
        """The user asked for it: cancel the task that runs the agent."""
        if self._task is not None:
            self._stops += 1
            self._task.cancel()

    def _take_back(self) -> bool:
        """Undo our cancellations of the task; whether there were some, and nobody else's."""
        if self._task is None or self._stops == 0:
            return False
        left = 0
        for _ in range(self._stops):
            left = self._task.uncancel()
        self._stops = 0
        return left <= self._cancelling

    def _end(self, error: BaseException | None) -> None:
        """Close what is open, tools and children first, then the run itself. Never waits."""
        if self.status != "open":
            return
        for child in list(self._children):
            child._end(error or asyncio.CancelledError())
        for tool in list(self._tools.values()):
            tool._end(error or asyncio.CancelledError())
        for approval in self._approvals:
            approval.end()
        self._flush()
        data: dict[str, Any] = {
            "agent": self.agent,
            "duration": round(self._channel.monotonic() - self._began, 6),
        }
        if error is None or isinstance(error, asyncio.CancelledError):
            self.status = "cancelled" if error is not None else "interrupted" if self._interrupted else "success"
            event_type = AGENT_COMPLETED
            data |= {"status": self.status, "result": self.result}
        else:
            self.status = "error"
            event_type = AGENT_ERROR
            reason = "timeout" if isinstance(error, TimeoutError) else "exception"
            data |= {"error": self._channel.describe(error), "error_type": type(error).__name__, "reason": reason}
        told = False
        try:
            if self._told:
                told = self._channel.put(
                    event_type,
                    data,
                    self.run_id,
                    event_id=self._terminal_id,
                    reserved=True,
                    optional=("result",),
                    held=self._held,
                )
        finally:
            if self._held is not None:
                self._channel.open_runs.release(self._held, told=told)
        if self._parent is not None:
            self._parent._children.pop(self, None)
        if self._close is not None:
            self._close()

    def _flush(self) -> None:
        for buffer in self._deltas.values():
            buffer.flush()

    async def _put(self, event_type: str, data: Mapping[str, Any]) -> None:
        if self.status != "open":
            raise RuntimeError("the run is not open; use it inside its `async with`")
        self._flush()
        if self._told:
            self._channel.put(event_type, data, self.run_id, held=self._held)
            await self._channel.outbox.settled()

    async def thinking(self, thought: str, **extra: object) -> None:
        """Emit `agent_thinking` with `thought` and the keys of `extra`."""
        await self._put(AGENT_THINKING, {**extra, "thought": thought})

    async def emit(self, event_type: str, data: Mapping[str, Any]) -> None:
        """Emit an event of the application's own type, labelled with this run."""
        await self._put(event_type, data)

    async def delta(self, text: str, *, message_id: str | None = None) -> None:
        """Add text to the answer. Pieces are coalesced into `message_delta` events; see `bridge.deltas`.

        Without a `message_id` it is the one message of this run.
        """
        if self.status != "open":
            raise RuntimeError("the run is not open; use it inside its `async with`")
        if not isinstance(text, str) or any("\ud800" <= character <= "\udfff" for character in text):
            raise InvalidEvent("a delta is a str without lone surrogates. Nothing was appended")
        if message_id is None:
            message_id = self._message_id = self._message_id or self._channel.new_id()
        elif not isinstance(message_id, str):
            raise InvalidEvent("a message_id is a str. Nothing was appended")
        buffer = self._deltas.get(message_id)
        if buffer is None:
            check_name("message_id", message_id)
            self._flush()  # a message that begins comes after what was said before it
            buffer = self._deltas[message_id] = DeltaBuffer(
                self._delta_sender(message_id), characters=self._channel.delta_characters
            )
        if buffer.add(text) and self._told:
            await self._channel.outbox.settled()
        else:
            self._streak += 1
            if self._streak % TURN == 0:
                await asyncio.sleep(0)

    async def reset_message(self, message_id: str | None = None) -> None:
        """Take back the text of a message, because the model begins it again. Readers keep what stands before the
        `start` of a delta and drop what they had from there on; this sends one with the start 0 and no text."""
        buffer = self._deltas.get(message_id or self._message_id or "")
        if buffer is not None and self.status == "open":
            buffer.reset()
            if self._told:
                await self._channel.outbox.settled()

    def _delta_sender(self, message_id: str) -> Callable[[int, str], None]:
        def send(start: int, text: str) -> None:
            if self._told:
                data = {"message_id": message_id, "start": start, "text": text}
                self._channel.put(MESSAGE_DELTA, data, self.run_id, held=self._held)

        return send

    async def approval(
        self,
        message: str | None = None,
        *,
        approval_id: str | None = None,
        tool_call_id: str | None = None,
        timeout: float | None = None,
        **extra: object,
    ) -> Decision:
        """Ask the user, and wait for the decision, wherever it is given: `approval_requested`, then
        `approval_resolved`. The first decision stands. Raises `TimeoutError` after `timeout` seconds, and
        `InvalidEvent` for an `approval_id` that is open."""
        if self.status != "open":
            raise RuntimeError("the run is not open; use it inside its `async with`")
        approval_id = approval_id or self._channel.new_id()
        named = {"approval_id": approval_id, "message": message, "tool_call_id": tool_call_id}
        approval = Approval(self._channel, self.run_id, approval_id, held=self._held, told=self._told)
        self._approvals.append(approval)
        self._flush()
        return await approval.wait(
            {**extra, **{key: value for key, value in named.items() if value is not None}}, timeout
        )

    def interrupt(self) -> None:
        """Let the run end with the status `interrupted`: it waits for somebody and will be taken up again."""
        self._interrupted = True

    def tool(self, name: str, /, **arguments: object) -> ToolCall:
        """A tool call, for `async with`. Its arguments are shown to the user; set `result` on what it gives."""
        return ToolCall(self, name, arguments, self._channel.new_id())

    def call_tool(self, name: str, arguments: object = None, *, tool_call_id: str | None = None) -> ToolCall:
        """The same for callers that bring the id of the call, or arguments that are no keywords."""
        return ToolCall(self, name, arguments, tool_call_id or self._channel.new_id())

    def child(self, agent: str, *, run_id: str | None = None) -> AgentRun:
        """A run of another agent on behalf of this one, for `async with`, with this run's id as `parent_run_id`."""
        run_id = run_id or self._channel.new_id()
        return AgentRun(self._channel, agent, run_id=run_id, parent_run_id=self.run_id, parent=self)


class ToolCall:
    """One call of a tool. Made by `AgentRun.tool` and `AgentRun.call_tool`; used with `async with`.

    Set `result` to what the tool returned. A result that is not JSON still completes the call: `result` is then null
    and `result_omitted` names its type.
    """

    def __init__(self, run: AgentRun, name: str, arguments: object, tool_call_id: str) -> None:
        self.name: Final = name
        self.arguments: Final = arguments
        self.tool_call_id: Final = tool_call_id
        self.result: object = None
        self._run = run
        self._began = 0.0
        self._open = False
        self._told = False

    async def __aenter__(self) -> Self:
        run = self._run
        if run.status != "open":
            raise RuntimeError("the run is not open; call tools inside its `async with`")
        check_name("tool", self.name)
        check_name("tool_call_id", self.tool_call_id)
        if self.tool_call_id in run._tools:
            raise InvalidEvent("a call with this tool_call_id is open in this run")
        channel = run._channel
        run._flush()
        self._began = run._channel.monotonic()
        # Either the call and its end are told, or neither is.
        self._told = run._told and channel.outbox.reserve()
        data = {"tool": self.name, "tool_call_id": self.tool_call_id, "arguments": self.arguments}
        if self._told:
            self._told = channel.open(TOOL_EXECUTING, data, run.run_id, optional=("arguments",), held=run._held)
        elif run._told:
            channel.outbox.drop()
        self._open = True
        run._tools[self.tool_call_id] = self
        try:
            await channel.outbox.settled()
        except BaseException as error:
            self._end(error)
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self._end(exc)
        if exc is None:
            await self._run._channel.outbox.settled()

    async def progress(self, **data: object) -> None:
        """Emit `tool_progress` with the id of this call and the given keys."""
        await self._run._put(TOOL_PROGRESS, {**data, "tool_call_id": self.tool_call_id})

    def _end(self, error: BaseException | None) -> None:
        """Emit `tool_completed`, once. Never waits."""
        if not self._open:
            return
        self._open = False
        run = self._run
        del run._tools[self.tool_call_id]
        run._flush()
        data: dict[str, Any] = {
            "tool": self.name,
            "tool_call_id": self.tool_call_id,
            "result": self.result,
            "status": "success",
            "duration": round(run._channel.monotonic() - self._began, 6),
        }
        if isinstance(error, asyncio.CancelledError):
            data["status"] = "cancelled"
        elif error is not None:
            data |= {"status": "error", "error": run._channel.describe(error)}
        if self._told:
            run._channel.put(TOOL_COMPLETED, data, run.run_id, reserved=True, optional=("result",), held=run._held)
