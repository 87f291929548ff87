"""Promise: every run that a user saw begin is seen to end, exactly once, and every tool call as well.

It holds on success, exception, cancellation and time-out, at whichever `await` a cancellation strikes, for nested and
concurrent tools, for child runs, and when what a tool returned cannot be shown.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bridge import AgentRun, AgentWebSocketBridge, RunCancelled, UserExecutionContext
from tests.support import (
    Suspensions,
    Tab,
    TroubledLog,
    a_manager,
    cancel_this_task,
    cancelling,
    check_runs,
    events_of,
    until,
    virtual_time,
)
from websocket_core.errors import InvalidEvent
from websocket_core.limits import Limits
from websocket_core.log import LogStore
from websocket_core.logs.memory import MemoryLog
from websocket_core.unified_manager import UnifiedWebSocketManager

CONTEXT = UserExecutionContext("alice", "r1", "t1")

Agent = Callable[[UnifiedWebSocketManager, AgentWebSocketBridge], Awaitable[None]]


async def tell(agent: Agent, log: LogStore | None = None, **options: Any) -> list[dict[str, Any]]:
    """Let the agent work for Alice; the events of her log once the manager is shut down, all of them closed."""
    log = log or TroubledLog()
    async with a_manager(log, **options) as manager:
        await agent(manager, manager.create_agent_bridge(CONTEXT))
        assert len(manager.runs) == 0
    events = await events_of(log, "alice")
    check_runs(events)
    return events


def types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


def stop_run(manager: UnifiedWebSocketManager, run_id: str = "r1") -> bool:
    """What the user's `cancel` frame does."""
    return manager.runs.cancel(manager.get_emitter("alice").user_id, run_id)


# -- how a run ends


@virtual_time
async def test_a_run_that_succeeds() -> None:
    async def agent(_manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        async with bridge.run("planner") as run:
            assert run.status == "open"
            await asyncio.sleep(1.5)
            run.result = {"answer": 42}
        assert run.status == "success"

    started, completed = await tell(agent)
    assert (started["type"], started["data"]) == ("agent_started", {"agent": "planner"})
    assert completed["type"] == "agent_completed"
    assert completed["data"]["duration"] == pytest.approx(1.5, abs=0.01)
    del completed["data"]["duration"]
    assert completed["data"] == {"agent": "planner", "status": "success", "result": {"answer": 42}}
    for event in (started, completed):
        assert (event["user_id"], event["run_id"], event["thread_id"]) == ("alice", "r1", "t1")
    assert completed["id"] == f"{started['id']}.end"


@virtual_time
async def test_a_run_that_raises() -> None:
    """The exception goes on to the caller; the user sees its type, since its text may hold secrets."""

    async def agent(_manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        with pytest.raises(LookupError, match="secret"):
            async with bridge.run("planner"):
                raise LookupError("a secret")

    events = await tell(agent)
    assert types(events) == ["agent_started", "agent_error"]
    data = events[-1]["data"]
    del data["duration"]
    assert data == {"agent": "planner", "error": "LookupError", "error_type": "LookupError", "reason": "exception"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
@virtual_time
async def test_a_run_that_is_torn_down(error: type[BaseException]) -> None:
    async def agent(_manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        with pytest.raises(error):
            async with bridge.run("planner") as run, run.tool("search"):
                raise error

    assert types(await tell(agent)) == ["agent_started", "tool_executing", "tool_completed", "agent_error"]


@virtual_time
async def test_a_run_whose_task_is_cancelled() -> None:
    async def agent(_manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        async def work() -> None:
            async with bridge.run("planner") as run:
                run.result = "half"
                async with run.tool("search"):
                    await asyncio.sleep(3_600)

        task = asyncio.create_task(work())
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert type(caught.value) is asyncio.CancelledError
        assert task.cancelled()

    events = await tell(agent)
    assert types(events) == ["agent_started", "tool_executing", "tool_completed", "agent_completed"]
    assert [event["data"]["status"] for event in events[2:]] == ["cancelled", "cancelled"]
    assert events[-1]["data"]["result"] == "half"


@virtual_time
async def test_a_time_out_inside_a_run() -> None:
    async def agent(_manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        with pytest.raises(TimeoutError):
            async with bridge.run("planner") as run, asyncio.timeout(1.0), run.tool("search"):
                await asyncio.sleep(3_600)

    events = await tell(agent)
    assert types(events) == ["agent_started", "tool_executing", "tool_completed", "agent_error"]
    assert events[2]["data"]["status"] == "cancelled"
    assert events[3]["data"]["reason"] == "timeout"


@virtual_time
async def test_a_time_out_around_a_run() -> None:
    async def agent(_manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0), bridge.run("planner") as run, run.tool("search"):
                await asyncio.sleep(3_600)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(self_timed(bridge), 1.0)

    async def self_timed(bridge: AgentWebSocketBridge) -> None:
        async with bridge.run("planner"):
            await asyncio.sleep(3_600)

    events = await tell(agent)
    assert types(events) == [
        "agent_started", "tool_executing", "tool_completed", "agent_completed", "agent_started", "agent_completed",
    ]  # fmt: skip
    assert [events[index]["data"]["status"] for index in (2, 3, 5)] == ["cancelled"] * 3


@virtual_time
async def test_an_interrupted_run() -> None:
    async def agent(_manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        async with bridge.run("planner") as run:
            run.interrupt()

    assert (await tell(agent))[-1]["data"]["status"] == "interrupted"


@pytest.mark.parametrize("error", [LookupError("x"), TimeoutError("x"), asyncio.CancelledError()])
@virtual_time
async def test_an_interrupted_run_that_fails_after_all_says_so(error: BaseException) -> None:
    async def agent(_manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        async def work() -> None:
            async with bridge.run("planner") as run:
                run.interrupt()
                raise error

        with pytest.raises(type(error)):
            await work()

    assert (await tell(agent))[-1]["data"].get("status") in (None, "cancelled")


BAD_NAMES: list[Any] = ["", "x" * 257, "a\nb", "\ud800", b"bytes", 1, ["x"]]


@pytest.mark.parametrize("bad", BAD_NAMES, ids=range(len(BAD_NAMES)))
@virtual_time
async def test_a_bad_name_or_id_begins_nothing(bad: Any) -> None:
    """What could not be ended is not begun: the names and ids in an event that opens something are short text."""

    async def agent(_manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        with pytest.raises(InvalidEvent):
            await bridge.run(bad).__aenter__()
        if bad:
            with pytest.raises(InvalidEvent):
                await bridge.run("planner", run_id=bad).__aenter__()
        async with bridge.run("planner") as run:
            with pytest.raises(InvalidEvent):
                await run.tool(bad).__aenter__()
            if bad:
                with pytest.raises(InvalidEvent):
                    await run.call_tool("search", tool_call_id=bad).__aenter__()
                with pytest.raises(InvalidEvent):
                    await run.delta("x", message_id=bad)
            await run.thinking("unharmed")

    events = await tell(agent)
    assert types(events) == ["agent_started", "agent_thinking", "agent_completed"]


@virtual_time
async def test_what_could_not_begin_takes_no_room_from_what_can() -> None:
    """A slot that was reserved for the end of a run or a tool is given back when there will be none."""
    log = TroubledLog()
    async with a_manager(log, limits=Limits(outbox=6)) as manager:
        bridge = manager.create_agent_bridge(CONTEXT)
        for _ in range(20):
            with pytest.raises(InvalidEvent):
                await bridge.run("planner", run_id="a\nb").__aenter__()
        assert len(manager._outboxes) == 0
        async with bridge.run("planner") as run:
            for _ in range(20):
                with pytest.raises(InvalidEvent):
                    await run.call_tool("search", tool_call_id="a\nb").__aenter__()
            async with run.tool("search"):
                pass
        assert manager.metrics.events_dropped == 0
    events = await events_of(log, "alice")
    check_runs(events)
    assert types(events) == ["agent_started", "tool_executing", "tool_completed", "agent_completed"]


@virtual_time
async def test_the_longest_names_leave_room_for_the_end() -> None:
    """With every name and id at its longest, of characters that take the most room, what began is ended."""
    long = '"' * 256
    log = TroubledLog()
    user = "\u00e9" * 256
    async with a_manager(log, limits=Limits(event_bytes=16_384)) as manager:
        context = UserExecutionContext(user, long, long)
        bridge = AgentWebSocketBridge(manager, context, describe_error=lambda _error: "\x01" * 100_000)

        async def work() -> None:
            async with bridge.run(long) as run, run.call_tool(long, ["x" * 20_000], tool_call_id=long) as tool:
                tool.result = ["x" * 20_000]
                raise LookupError

        with pytest.raises(LookupError):
            await work()
    events = await events_of(log, user)
    check_runs(events)
    assert types(events) == ["agent_started", "tool_executing", "tool_completed", "agent_error"]


@virtual_time
async def test_a_run_is_entered_once_and_used_inside_only() -> None:
    async def agent(_manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        run = bridge.run("planner")
        with pytest.raises(RuntimeError):
            await run.thinking("too early")
        with pytest.raises(RuntimeError):
            await run.delta("too early")
        async with run:
            tool = run.tool("search")
        for late in (run.thinking("late"), run.delta("late"), run.emit("late", {}), tool.__aenter__()):
            with pytest.raises(RuntimeError):
                await late
        with pytest.raises(RuntimeError):
            await run.__aenter__()

    assert types(await tell(agent)) == ["agent_started", "agent_completed"]


@virtual_time
async def test_a_run_id_may_be_used_again() -> None:
    """One after the other, each has an end of its own."""

    async def agent(_manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        for _ in range(3):
            async with bridge.run("planner"):
                pass

    events = await tell(agent)
    assert types(events) == ["agent_started", "agent_completed"] * 3
    assert len({event["id"] for event in events}) == 6


@virtual_time
async def test_a_run_id_that_is_open_twice_is_stopped_twice() -> None:
    log = TroubledLog()
    async with a_manager(log) as manager:
        bridge = manager.create_agent_bridge(CONTEXT)

        async def work() -> None:
            async with bridge.run("planner"):
                await asyncio.sleep(3_600)

        tasks = [asyncio.create_task(work()) for _ in range(2)]
        await until(lambda: len(manager.runs) == 2)
        assert stop_run(manager)
        await asyncio.wait(tasks)
        assert len(manager.runs) == 0
        assert not stop_run(manager)
    assert sorted(types(await events_of(log, "alice"))) == ["agent_completed"] * 2 + ["agent_started"] * 2


@virtual_time
async def test_without_a_run_id_every_run_gets_one_of_its_own() -> None:
    log = TroubledLog()
    async with a_manager(log) as manager:
        bridge = manager.create_agent_bridge(UserExecutionContext("alice"))
        async with bridge.run("a") as one, bridge.run("b") as two:
            assert one.run_id != two.run_id
    events = await events_of(log, "alice")
    check_runs(events)
    assert all("thread_id" not in event for event in events)


# -- a cancellation at every await


async def a_full_agent(bridge: AgentWebSocketBridge) -> None:
    """Uses everything that can be awaited in a run."""
    async with bridge.run("planner") as run:
        await run.thinking("first")
        async with run.tool("outer", q=1) as outer:
            await outer.progress(done=1)
            async with run.tool("inner") as inner:
                inner.result = [1]
            outer.result = [2]
        async with run.child("assistant", run_id="r2") as child:
            await child.delta("text ")
            async with child.tool("deep") as deep:
                await run.delta("answer ")
                deep.result = [3]
        await run.delta("answer")
        await run.emit("custom", {"n": 1})
        run.result = "done"


def _awaits_of_the_full_agent() -> int:
    count = 0

    @virtual_time
    async def measure() -> None:
        nonlocal count
        async with a_manager(TroubledLog()) as manager:
            drive = Suspensions(a_full_agent(manager.create_agent_bridge(CONTEXT)), (), lambda: None)
            await drive
            count = drive.count

    measure()
    return count


async def _cancelled_at(at: tuple[int, ...], make_log: Callable[[], LogStore]) -> None:
    log = make_log()
    async with a_manager(log) as manager:
        bridge = manager.create_agent_bridge(CONTEXT)

        async def work() -> None:
            await Suspensions(a_full_agent(bridge), at, cancel_this_task)

        task = asyncio.create_task(work())
        await asyncio.wait([task])
        assert task.cancelled()
        assert len(manager.runs) == 0
    events = await events_of(log, "alice")
    check_runs(events)
    assert types(events)[0] == "agent_started"
    assert sum(event["type"] in ("agent_completed", "agent_error") and event["run_id"] == "r1" for event in events) == 1
    text = "".join(event["data"]["text"] for event in events if event["type"] == "message_delta")
    assert "text answer answer".startswith(text)


def test_a_cancellation_at_every_await_leaves_nothing_open() -> None:
    """The agent is cancelled at its first suspension, then in a new run at its second, and so on to its last."""
    count = _awaits_of_the_full_agent()
    assert count >= 14, "the agent awaits less than it should: this test would prove little"

    @virtual_time
    async def scenario() -> None:
        for k in range(1, count + 1):
            await _cancelled_at((k,), TroubledLog)

    scenario()


def test_a_second_cancellation_during_the_first_leaves_nothing_open() -> None:
    count = _awaits_of_the_full_agent()

    @virtual_time
    async def scenario() -> None:
        for pair in itertools.combinations(range(1, count + 3), 2):
            if pair[0] <= count:
                await _cancelled_at(pair, TroubledLog)

    scenario()


def test_a_stop_by_the_user_at_every_await_ends_in_run_cancelled() -> None:
    """Wherever it strikes while the run is open, the task has no cancellation left over and may go on."""
    count = _awaits_of_the_full_agent()
    outcomes: list[str] = []

    @virtual_time
    async def scenario() -> None:
        for k in range(1, count + 1):
            log = TroubledLog()
            async with a_manager(log) as manager:
                bridge = manager.create_agent_bridge(CONTEXT)
                found: list[bool] = []

                async def work(
                    manager: UnifiedWebSocketManager = manager,
                    bridge: AgentWebSocketBridge = bridge,
                    found: list[bool] = found,
                    k: int = k,
                ) -> str:
                    try:
                        await Suspensions(a_full_agent(bridge), (k,), lambda: found.append(stop_run(manager)))
                    except RunCancelled:
                        outcome = "stopped"
                    else:
                        outcome = "finished"
                    assert cancelling() == 0
                    async with asyncio.timeout(1.0):
                        await asyncio.sleep(0.1)  # a cancellation that was left over would strike here
                    return outcome

                outcome = await asyncio.create_task(work())
                assert found == [outcome == "stopped"], f"at suspension {k}"
                outcomes.append(outcome)
            events = await events_of(log, "alice")
            check_runs(events)
            status = [event["data"]["status"] for event in events if event["type"] == "agent_completed"][-1]
            assert status == ("cancelled" if outcome == "stopped" else "success")

    scenario()
    assert outcomes.count("finished") <= 1, "only the wait after the end of the run is not stopped"


# -- the user stops a run


@virtual_time
async def test_a_cancel_frame_is_acknowledged_and_then_the_run_ends() -> None:
    async with a_manager(TroubledLog()) as manager:
        tab = await Tab.open(manager, "alice")

        async def work() -> None:
            async with manager.create_agent_bridge(CONTEXT).run("planner") as run, run.tool("search"):
                await asyncio.sleep(3_600)

        task = asyncio.create_task(work())
        await tab.has(2)
        tab.socket.client_sends({"type": "cancel", "run_id": "r1", "request_id": "q7"})
        await tab.has(4)
        with pytest.raises(RunCancelled):
            await task
        assert tab.socket.of_type("ack") == [{"type": "ack", "request_id": "q7"}]
        assert [frame["type"] for frame in tab.socket.frames] == [
            "connected", "agent_started", "tool_executing", "ack", "tool_completed", "agent_completed",
        ]  # fmt: skip
        tab.socket.client_sends({"type": "cancel", "run_id": "r1", "request_id": "q8"})
        await until(lambda: tab.socket.of_type("error"))
        assert tab.socket.of_type("error")[0] | {"message": ""} == {
            "type": "error", "code": "not_found", "message": "", "request_id": "q8",
        }  # fmt: skip
        check_runs(tab.events)


def test_run_cancelled_is_a_cancellation() -> None:
    """`except Exception` in an agent does not swallow it, and a task that it ends counts as cancelled."""
    assert issubclass(RunCancelled, asyncio.CancelledError)
    assert not issubclass(RunCancelled, Exception)


async def _stopped_while(
    manager: UnifiedWebSocketManager, work: Callable[[], Awaitable[Any]], run_id: str = "r1"
) -> asyncio.Task[Any]:
    """Run `work` in a task and stop the run as soon as it is open and waits; the finished task."""

    async def run() -> Any:
        return await work()

    task = asyncio.create_task(run())
    await asyncio.sleep(1.0)
    assert stop_run(manager, run_id)
    await asyncio.wait([task])
    return task


@virtual_time
async def test_a_stopped_run_may_be_caught_and_the_task_goes_on() -> None:
    async def agent(manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        async def work() -> str:
            try:
                async with bridge.run("planner"):
                    await asyncio.sleep(3_600)
            except RunCancelled:
                assert cancelling() == 0
                await asyncio.sleep(0.1)
            return "went on"

        assert (await _stopped_while(manager, work)).result() == "went on"

    assert (await tell(agent))[-1]["data"]["status"] == "cancelled"


@virtual_time
async def test_a_stopped_run_ends_its_task_as_cancelled_if_nobody_catches_it() -> None:
    async def agent(manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        async def work() -> None:
            async with bridge.run("planner"):
                await asyncio.sleep(3_600)

        assert (await _stopped_while(manager, work)).cancelled()

    await tell(agent)


@virtual_time
async def test_several_stops_of_one_run_are_all_taken_back() -> None:
    async def agent(manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        async def work() -> int:
            try:
                async with bridge.run("planner"):
                    try:
                        await asyncio.sleep(3_600)
                    finally:
                        await asyncio.sleep(3_600)  # a clean-up that takes its time
            except RunCancelled:
                await asyncio.sleep(0.1)
            return cancelling()

        task = asyncio.create_task(work())
        await asyncio.sleep(1.0)
        assert stop_run(manager)
        assert stop_run(manager)
        await asyncio.sleep(1.0)
        assert stop_run(manager)
        assert await task == 0

    await tell(agent)


@virtual_time
async def test_a_cancellation_by_somebody_else_beside_a_stop_stays_a_cancellation() -> None:
    async def agent(manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        caught: list[BaseException] = []
        left: list[int] = []

        async def work() -> None:
            try:
                async with bridge.run("planner"):
                    await asyncio.sleep(3_600)
            except asyncio.CancelledError as error:
                caught.append(error)
                left.append(cancelling())
                raise

        task = asyncio.create_task(work())
        await asyncio.sleep(1.0)
        stop_run(manager)
        task.cancel()
        await asyncio.wait([task])
        assert [type(error) for error in caught] == [asyncio.CancelledError]
        assert left == [1]

    await tell(agent)


@virtual_time
async def test_a_stop_inside_a_time_out_is_no_time_out() -> None:
    async def agent(manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        async def work() -> str:
            try:
                async with asyncio.timeout(60.0):
                    async with bridge.run("planner"):
                        await asyncio.sleep(3_600)
            except RunCancelled:
                return "stopped"
            return "?"

        assert (await _stopped_while(manager, work)).result() == "stopped"

    await tell(agent)


@virtual_time
async def test_a_stop_while_the_agent_waits_for_a_task_group_stops_the_whole_group() -> None:
    async def agent(manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        async def work() -> int:
            try:
                async with bridge.run("planner") as run, asyncio.TaskGroup() as group:

                    async def use(name: str) -> None:
                        async with run.tool(name):
                            await asyncio.sleep(3_600)

                    for name in ("a", "b", "c"):
                        group.create_task(use(name))
            except RunCancelled:
                return cancelling()
            return -1

        assert (await _stopped_while(manager, work)).result() == 0

    events = await tell(agent)
    assert types(events) == ["agent_started", *["tool_executing"] * 3, *["tool_completed"] * 3, "agent_completed"]


@virtual_time
async def test_a_stopped_run_in_a_task_group_leaves_the_other_tasks_alone() -> None:
    async def agent(manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        done: list[str] = []

        async def work() -> None:
            async def stopped() -> None:
                async with bridge.run("planner"):
                    await asyncio.sleep(3_600)

            async def other() -> None:
                await asyncio.sleep(2.0)
                done.append("other")

            async with asyncio.TaskGroup() as group:
                group.create_task(stopped())
                group.create_task(other())

        assert (await _stopped_while(manager, work)).exception() is None
        assert done == ["other"]

    await tell(agent)


@virtual_time
async def test_an_agent_that_swallows_the_stop_ends_as_it_ends() -> None:
    """What it did then is a success, and no cancellation is left over that would strike later."""

    async def agent(manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        async def work() -> int:
            async with bridge.run("planner") as run:
                try:
                    await asyncio.sleep(3_600)
                except asyncio.CancelledError:
                    run.result = "finished all the same"
            await asyncio.sleep(0.1)
            async with asyncio.timeout(1.0):
                await asyncio.sleep(0.1)
            return cancelling()

        assert (await _stopped_while(manager, work)).result() == 0

    events = await tell(agent)
    assert events[-1]["data"]["status"] == "success"
    assert events[-1]["data"]["result"] == "finished all the same"


@virtual_time
async def test_an_agent_that_turns_the_stop_into_an_error_ends_with_it() -> None:
    async def agent(manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        async def work() -> int:
            async def translate() -> None:
                try:
                    await asyncio.sleep(3_600)
                except asyncio.CancelledError:
                    raise LookupError from None

            with pytest.raises(LookupError):
                async with bridge.run("planner"):
                    await translate()
            return cancelling()

        assert (await _stopped_while(manager, work)).result() == 0

    assert types(await tell(agent)) == ["agent_started", "agent_error"]


@virtual_time
async def test_a_stop_of_the_child_is_no_stop_of_the_parent() -> None:
    async def agent(manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        async def work() -> None:
            async with bridge.run("planner") as run:
                with pytest.raises(RunCancelled):
                    async with run.child("assistant", run_id="r2"):
                        await asyncio.sleep(3_600)
                await run.thinking("without the assistant then")

        assert (await _stopped_while(manager, work, "r2")).exception() is None

    events = await tell(agent)
    assert types(events) == [
        "agent_started", "agent_started", "agent_completed", "agent_thinking", "agent_completed",
    ]  # fmt: skip
    assert events[2]["data"]["status"] == "cancelled"
    assert events[4]["data"]["status"] == "success"


@virtual_time
async def test_a_stop_of_the_parent_ends_the_child_first() -> None:
    async def agent(manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        async def work() -> None:
            with pytest.raises(RunCancelled):
                async with bridge.run("planner") as run, run.child("assistant", run_id="r2") as child, child.tool("x"):
                    await asyncio.sleep(3_600)
            assert cancelling() == 0

        assert (await _stopped_while(manager, work)).exception() is None

    events = await tell(agent)
    assert [(event["type"], event["run_id"]) for event in events[3:]] == [
        ("tool_completed", "r2"), ("agent_completed", "r2"), ("agent_completed", "r1"),
    ]  # fmt: skip
    assert {event["data"]["status"] for event in events[3:]} == {"cancelled"}


# -- tools


@virtual_time
async def test_a_tool_call_is_told_with_arguments_result_status_and_duration() -> None:
    async def agent(_manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        async with bridge.run("planner") as run, run.tool("search", query="LIS", page=2) as tool:
            await asyncio.sleep(0.25)
            await tool.progress(done=0.5)
            tool.result = {"hits": 3}

    _, executing, progress, completed, _ = await tell(agent)
    call = executing["data"]["tool_call_id"]
    assert executing["data"] == {
        "tool": "search", "tool_call_id": call, "arguments": {"query": "LIS", "page": 2},
    }  # fmt: skip
    assert (progress["type"], progress["data"]) == ("tool_progress", {"done": 0.5, "tool_call_id": call})
    assert completed["data"].pop("duration") == pytest.approx(0.25, abs=0.01)
    assert completed["data"] == {"tool": "search", "tool_call_id": call, "result": {"hits": 3}, "status": "success"}


@virtual_time
async def test_a_tool_that_fails_is_paired_and_the_run_may_go_on() -> None:
    async def agent(_manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        async with bridge.run("planner") as run:
            with pytest.raises(LookupError):
                async with run.tool("search"):
                    raise LookupError("a secret")
            await run.thinking("otherwise then")

    events = await tell(agent)
    assert types(events) == [
        "agent_started", "tool_executing", "tool_completed", "agent_thinking", "agent_completed",
    ]  # fmt: skip
    assert (events[2]["data"]["status"], events[2]["data"]["error"]) == ("error", "LookupError")


@virtual_time
async def test_nested_tools_close_from_the_inside_out() -> None:
    async def agent(_manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        with pytest.raises(LookupError):
            async with bridge.run("planner") as run, run.tool("a"), run.tool("b"), run.tool("c"):
                raise LookupError

    events = await tell(agent)
    assert [event["data"]["tool"] for event in events[1:-1]] == ["a", "b", "c", "c", "b", "a"]


@virtual_time
async def test_concurrent_tools_of_one_name_are_told_apart() -> None:
    async def agent(_manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        async with bridge.run("planner") as run, asyncio.TaskGroup() as group:

            async def use(number: int) -> None:
                async with run.tool("search", number=number) as tool:
                    await asyncio.sleep((number * 7) % 5)
                    tool.result = number

            for number in range(10):
                group.create_task(use(number))

    events = await tell(agent)
    asked = {e["data"]["tool_call_id"]: e["data"]["arguments"] for e in events if e["type"] == "tool_executing"}
    got = {e["data"]["tool_call_id"]: e["data"]["result"] for e in events if e["type"] == "tool_completed"}
    assert {call: arguments["number"] for call, arguments in asked.items()} == got
    assert len(got) == 10


@virtual_time
async def test_when_one_of_several_concurrent_tools_fails_all_are_paired() -> None:
    async def use(run: AgentRun, number: int) -> None:
        async with run.tool("search", number=number):
            await asyncio.sleep(number)
            raise LookupError

    async def use_all(run: AgentRun) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(1, 4):
                group.create_task(use(run, number))

    async def agent(_manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        with pytest.raises(ExceptionGroup):
            async with bridge.run("planner") as run:
                await use_all(run)

    events = await tell(agent)
    status = [event["data"]["status"] for event in events if event["type"] == "tool_completed"]
    assert status == ["error", "cancelled", "cancelled"]
    assert events[-1]["data"]["error_type"] == "ExceptionGroup"


@virtual_time
async def test_a_tool_in_a_task_that_outlives_its_run_is_closed_with_the_run() -> None:
    async def agent(_manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        async def use(run: AgentRun) -> str:
            async with run.tool("search") as tool:
                await asyncio.sleep(5.0)
                tool.result = "too late"
            return "unharmed"

        async with bridge.run("planner") as run:
            task = asyncio.create_task(use(run))
            await asyncio.sleep(1.0)
        assert await task == "unharmed"

    events = await tell(agent)
    assert types(events) == ["agent_started", "tool_executing", "tool_completed", "agent_completed"]
    assert events[2]["data"]["status"] == "cancelled"


@virtual_time
async def test_a_tool_call_id_of_the_callers_own_is_kept_and_not_open_twice() -> None:
    async def agent(_manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        async with bridge.run("planner") as run, run.call_tool("search", [1, 2], tool_call_id="call_1"):
            with pytest.raises(InvalidEvent):
                async with run.call_tool("search", tool_call_id="call_1"):
                    raise AssertionError("not reached")

    events = await tell(agent)
    assert events[1]["data"] == {"tool": "search", "tool_call_id": "call_1", "arguments": [1, 2]}
    assert events[2]["data"]["tool_call_id"] == "call_1"


class Opaque:
    """What is no JSON. Its text must not be shown."""

    def __repr__(self) -> str:
        return "canary"

    __str__ = __repr__


_CYCLE: list[Any] = []
_CYCLE.append(_CYCLE)

NOT_JSON: list[tuple[object, str]] = [
    (Opaque(), "Opaque"),
    ({1, 2}, "set"),
    (b"bytes", "bytes"),
    (float("nan"), "float"),
    ({"deep": [float("inf")]}, "dict"),
    ({1: "x"}, "dict"),
    ("\ud800", "str"),
    (2**70, "int"),
    (_CYCLE, "list"),
    (["x" * 300_000], "list"),
    (Opaque, "type"),
]


@pytest.mark.parametrize(("value", "kind"), NOT_JSON, ids=[f"{n}-{kind}" for n, (_, kind) in enumerate(NOT_JSON)])
@virtual_time
async def test_what_cannot_be_shown_is_left_out_and_everything_is_still_paired(value: object, kind: str) -> None:
    async def agent(_manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        async with bridge.run("planner") as run:
            async with run.call_tool("search", value) as tool:
                tool.result = value
            run.result = value

    events = await tell(agent)
    _, executing, completed, ended = (event["data"] for event in events)
    assert (executing["arguments"], executing["arguments_omitted"]) == (None, kind)
    assert (completed["result"], completed["result_omitted"], completed["status"]) == (None, kind, "success")
    assert (ended["result"], ended["result_omitted"], ended["status"]) == (None, kind, "success")
    assert "canary" not in str(events)


@virtual_time
async def test_keyword_arguments_that_are_not_json_do_not_stop_the_tool() -> None:
    async def agent(_manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        async with bridge.run("planner") as run, run.tool("search", session=Opaque()) as tool:
            tool.result = 1

    events = await tell(agent)
    assert (events[1]["data"]["arguments"], events[1]["data"]["arguments_omitted"]) == (None, "dict")
    assert events[2]["data"]["result"] == 1


@pytest.mark.parametrize("result", [None, 0, False, "", [], {}, 1.5, {"a": [None]}])
@virtual_time
async def test_every_json_result_arrives_as_it_is(result: object) -> None:
    async def agent(_manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        async with bridge.run("planner") as run:
            async with run.tool("search") as tool:
                tool.result = result
            run.result = result

    events = await tell(agent)
    for event in events[2:]:
        assert event["data"]["result"] == result
        assert type(event["data"]["result"]) is type(result)
        assert "result_omitted" not in event["data"]


# -- child runs


@virtual_time
async def test_a_child_is_a_run_of_its_own_that_names_its_parent() -> None:
    async def agent(_manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        async with bridge.run("planner") as run, run.child("assistant") as child:
            assert child.run_id != run.run_id
            await child.thinking("hm")

    events = await tell(agent)
    assert types(events) == ["agent_started", "agent_started", "agent_thinking", "agent_completed", "agent_completed"]
    assert events[1]["data"] == {"agent": "assistant", "parent_run_id": "r1"}
    assert events[1]["run_id"] == events[2]["run_id"] == events[3]["run_id"] != "r1"
    assert all(event["thread_id"] == "t1" for event in events)


@virtual_time
async def test_children_in_other_tasks_are_ended_with_their_parent() -> None:
    """Those still open when the parent ends are told as cancelled before it, and their late words reach nobody."""

    async def agent(_manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        async def assist(run: AgentRun, seconds: float) -> str:
            try:
                async with run.child("assistant") as child, child.tool("search"):
                    await asyncio.sleep(seconds)
                    await child.thinking("late?")
            except RuntimeError:
                return "told that the run is over"
            return "in time"

        async with bridge.run("planner") as run:
            tasks = [asyncio.create_task(assist(run, seconds)) for seconds in (0.5, 5.0)]
            await asyncio.sleep(1.0)
        assert [await task for task in tasks] == ["in time", "told that the run is over"]

    events = await tell(agent)
    assert events[-1]["run_id"] == "r1"
    ended = [event for event in events if event["type"] == "agent_completed"]
    assert [event["data"]["status"] for event in ended] == ["success", "cancelled", "success"]


@virtual_time
async def test_the_failure_of_a_parent_is_the_end_of_its_children() -> None:
    async def agent(_manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        with pytest.raises(LookupError):
            async with bridge.run("planner") as run, run.child("a", run_id="a") as a, a.child("b", run_id="b"):
                raise LookupError

    events = await tell(agent)
    assert [(event["type"], event["run_id"]) for event in events] == [
        ("agent_started", "r1"), ("agent_started", "a"), ("agent_started", "b"),
        ("agent_error", "b"), ("agent_error", "a"), ("agent_error", "r1"),
    ]  # fmt: skip


# -- the answer


@virtual_time
async def test_the_text_of_an_answer_is_whole_before_whatever_comes_after_it() -> None:
    """Pieces may be joined, but `start` counts code points without a hole, and a tool or the end flushes."""
    pieces = ["Drei ", "Fl\u00fcge ", "\U0001f6eb", "\u00e9", "", "nach ", "LIS", "."]

    async def agent(_manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        async with bridge.run("planner") as run:
            for piece in pieces[:5]:
                await run.delta(piece)
            async with run.tool("search"):
                for piece in pieces[5:]:
                    await run.delta(piece)
            await run.delta("other", message_id="m2")

    events = await tell(agent)
    assert types(events)[-3:] == ["tool_completed", "message_delta", "agent_completed"]
    text = ""
    at_tool = None
    for event in events:
        if event["type"] == "tool_executing":
            at_tool = text
        if event["type"] == "message_delta" and event["data"]["message_id"] != "m2":
            assert event["data"]["start"] == len(text)
            text += event["data"]["text"]
    assert at_tool == "".join(pieces[:5])
    assert text == "".join(pieces)
    assert events[-2]["data"] == {"message_id": "m2", "start": 0, "text": "other"}


@pytest.mark.parametrize("end", ["raise", "cancel"])
@virtual_time
async def test_the_text_so_far_is_told_before_a_run_that_breaks_off_ends(end: str) -> None:
    async def agent(_manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        async def work() -> None:
            async with bridge.run("planner") as run:
                for piece in ("a", "b", "c"):
                    await run.delta(piece)
                if end == "raise":
                    raise LookupError
                cancel_this_task()
                await asyncio.sleep(0)

        task = asyncio.create_task(work())
        await asyncio.wait([task])
        assert task.cancelled() or isinstance(task.exception(), LookupError)

    events = await tell(agent)
    assert "".join(event["data"]["text"] for event in events if event["type"] == "message_delta") == "abc"


@pytest.mark.parametrize("make_log", [MemoryLog, TroubledLog], ids=["memory", "every call suspends"])
@virtual_time
async def test_a_long_answer_becomes_few_events(make_log: Callable[[], LogStore]) -> None:
    """100 pieces a second for a minute: coalesced at the source, first at once, then in windows that grow."""

    async def agent(_manager: UnifiedWebSocketManager, bridge: AgentWebSocketBridge) -> None:
        async with bridge.run("planner") as run:
            for number in range(6_000):
                await run.delta(f"{number} ")
                await asyncio.sleep(0.01)

    events = [event for event in await tell(agent, make_log()) if event["type"] == "message_delta"]
    assert "".join(event["data"]["text"] for event in events) == "".join(f"{number} " for number in range(6_000))
    assert events[0]["data"]["text"] == "0 "
    assert 200 < len(events) < 400


# -- what the user is shown of an error


@virtual_time
async def test_an_application_chooses_what_is_shown_of_an_error() -> None:
    log = TroubledLog()
    shown: list[Callable[[BaseException], Any]] = [
        lambda error: f"sorry: {error}",
        lambda error: "\ud800",
        lambda error: "x" * 100_000,
        lambda error: 1 / 0,
        lambda error: None,
    ]
    async with a_manager(log) as manager:
        for describe in shown:
            bridge = AgentWebSocketBridge(manager, CONTEXT, describe_error=describe)
            with pytest.raises(LookupError):
                async with bridge.run("planner") as run, run.tool("search"):
                    raise LookupError("LIS")
    events = await events_of(log, "alice")
    check_runs(events)
    told = [event["data"]["error"] for event in events if event["type"] == "agent_error"]
    assert told[0] == "sorry: 'LIS'" or told[0] == "sorry: LIS"
    assert len(told[2]) < 5_000
    assert told[3] == "LookupError"
    assert len(told) == 5


@virtual_time
async def test_a_long_description_of_an_error_does_not_cost_a_run_its_end() -> None:
    """However small an event may be."""
    log = TroubledLog()
    async with a_manager(log, limits=Limits(event_bytes=700)) as manager:
        bridge = AgentWebSocketBridge(manager, CONTEXT, describe_error=lambda _error: "\u20ac" * 4_000)
        with pytest.raises(LookupError):
            async with bridge.run("planner") as run, run.tool("search"):
                raise LookupError
    events = await events_of(log, "alice")
    check_runs(events)
    assert events[-1]["data"]["error"].startswith("\u20ac")
