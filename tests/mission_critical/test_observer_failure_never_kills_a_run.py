"""Promise: an agent's run does not depend on being watched.

A log that refuses, loses replies or hangs, an outbox that is full, a manager that is shut down: the agent goes on as
if nothing were the matter. Its events wait in order and bounded, are appended once the log is back, and what did not
fit is told, while pairs and ends still hold.
"""

from __future__ import annotations

import asyncio
import logging

import pytest

from bridge import UserExecutionContext
from tests.support import (
    FakeSocket,
    Tab,
    Trouble,
    TroubledLog,
    a_manager,
    check_runs,
    events_of,
    turns,
    until,
    virtual_time,
)
from websocket_core.events import Event
from websocket_core.identity import LogName
from websocket_core.limits import Limits
from websocket_core.log import Position
from websocket_core.logs.memory import MemoryLog
from websocket_core.unified_manager import UnifiedWebSocketManager

CONTEXT = UserExecutionContext("alice", "r1", "t1")

TROUBLES = pytest.mark.parametrize("trouble", ["refuse", "lose", "hang"])


async def work(manager: UnifiedWebSocketManager, steps: int = 5, context: UserExecutionContext = CONTEXT) -> str:
    """An agent that uses everything, and checks that nothing of the log reaches it."""
    async with manager.create_agent_bridge(context).run("planner") as run:
        for n in range(steps):
            await run.thinking(str(n))
            async with run.tool("search", n=n) as tool:
                await tool.progress(done=n)
                tool.result = n
            await run.emit("custom", {"n": n})
        await run.delta("answer")
        run.result = "done"
    return "done"


@TROUBLES
@virtual_time
async def test_a_log_in_trouble_kills_no_run_and_loses_no_event(trouble: Trouble) -> None:
    """From the middle of the run until after its end. Everything is there afterwards, in order and once."""
    log = TroubledLog()
    async with a_manager(log) as manager:
        tab = await Tab.open(manager, "alice")
        async with manager.create_agent_bridge(UserExecutionContext("alice", "r0")).run("before"):
            pass
        log.trouble = trouble
        assert await work(manager) == "done"
        await asyncio.sleep(60.0)
        log.recover()
        events = await tab.has(2 + 1 + 5 * 5 + 1 + 1)
        await turns()
        assert events == [
            event | {"cursor": events[n]["cursor"]} for n, event in enumerate(await events_of(log, "alice"))
        ]
        check_runs(events)
        told = [(event["type"], event["data"].get("thought", event["data"].get("n"))) for event in events[3:]]
        one = ["agent_thinking", "tool_executing", "tool_progress", "tool_completed", "custom"]
        assert [kind for kind, _ in told] == [*(one * 5), "message_delta", "agent_completed"]
        assert [value for kind, value in told if kind == "agent_thinking"] == list("01234")
        assert manager.metrics.events_dropped == 0


@TROUBLES
@virtual_time
async def test_a_run_is_hardly_slower_while_the_log_is_in_trouble(trouble: Trouble) -> None:
    """A log that hangs costs one short wait, not one for each event."""
    loop = asyncio.get_running_loop()
    log = TroubledLog()
    async with a_manager(log) as manager:
        log.trouble = trouble
        began = loop.time()
        await work(manager, steps=200)
        assert loop.time() - began < 5.0
        log.recover()


@virtual_time
async def test_events_that_waited_keep_their_ids() -> None:
    """Whatever became of an attempt, the next one carries the same id, so that nothing is in the log twice."""
    log = TroubledLog()
    async with a_manager(log) as manager:
        log.plan.extend(["lose", "refuse", "lose", "refuse", "refuse", "lose"] * 5)
        await work(manager)
        await until(lambda: not log.plan, seconds=600.0)
    events = await events_of(log, "alice")
    check_runs(events)
    assert len(events) == 28
    first_tried = list(dict.fromkeys(log.attempts))
    assert [event["id"] for event in events] == first_tried, "in the order in which they were emitted"
    assert len(log.attempts) > len(first_tried)


@virtual_time
async def test_a_log_that_breaks_its_contract_kills_no_run() -> None:
    class Broken(MemoryLog):
        calls = 0

        async def append(self, log: LogName, event: Event) -> Position:
            self.calls += 1
            if self.calls in (2, 5):
                raise ZeroDivisionError
            return await super().append(log, event)

    log = Broken()
    async with a_manager(log) as manager:
        assert await work(manager) == "done"
        assert manager.metrics.events_dropped == 2
    assert len(await events_of(log, "alice")) == 28 - 2


@virtual_time
async def test_an_event_that_is_refused_is_the_callers_mistake_and_says_so() -> None:
    """What is no JSON in the agent's own call is no failure of an observer."""
    async with a_manager() as manager:
        with pytest.raises(ValueError, match="set"):
            async with manager.create_agent_bridge(CONTEXT).run("planner") as run:
                await run.emit("custom", {"n": {1, 2}})


# -- the outbox is bounded


@virtual_time
async def test_what_does_not_fit_is_counted_and_told_in_its_place() -> None:
    log = TroubledLog()
    async with a_manager(log, limits=Limits(outbox=20)) as manager:
        tab = await Tab.open(manager, "alice")
        async with manager.create_agent_bridge(CONTEXT).run("planner") as run:
            log.trouble = "refuse"
            for n in range(100):
                await run.emit("custom", {"n": n})
            assert len(manager.outbox("alice")) <= 20
            log.recover()
            await until(lambda: len(manager.outbox("alice")) == 0, seconds=60.0)
            for n in range(100, 103):
                await run.emit("custom", {"n": n})
        events = await tab.has(1)
        await until(lambda: tab.events[-1]["type"] == "agent_completed")
        events = tab.events
        check_runs(events)
        numbers = [event["data"]["n"] for event in events if event["type"] == "custom"]
        kept = len(numbers) - 3
        assert numbers == [*range(kept), 100, 101, 102]
        assert 15 <= kept <= 19, "a slot is reserved for the end of the run"
        dropped = [event for event in events if event["type"] == "events_dropped"]
        assert [event["data"] for event in dropped] == [{"count": 100 - kept}]
        assert events.index(dropped[0]) == 1 + kept, "told where they are missing"
        assert manager.metrics.events_dropped == 100 - kept


@virtual_time
async def test_two_losses_are_told_in_two_places() -> None:
    log = TroubledLog()
    async with a_manager(log, limits=Limits(outbox=10)) as manager:
        async with manager.create_agent_bridge(CONTEXT).run("planner") as run:
            for half in range(2):
                log.trouble = "refuse"
                for n in range(30):
                    await run.emit("custom", {"n": 30 * half + n})
                log.recover()
                await until(lambda: len(manager.outbox("alice")) == 0, seconds=60.0)
        lost = manager.metrics.events_dropped
    events = await events_of(log, "alice")
    check_runs(events)
    counts = [event["data"]["count"] for event in events if event["type"] == "events_dropped"]
    assert len(counts) == 2
    assert sum(counts) == lost == 60 - sum(event["type"] == "custom" for event in events)


@virtual_time
async def test_the_outbox_is_bounded_by_bytes_as_well() -> None:
    log = TroubledLog()
    async with a_manager(log, limits=Limits(outbox_bytes=50_000)) as manager:
        async with manager.create_agent_bridge(CONTEXT).run("planner") as run:
            log.trouble = "refuse"
            for n in range(100):
                await run.emit("custom", {"n": n, "pad": "x" * 5_000})
            assert 5 <= len(manager.outbox("alice")) <= 12
            log.recover()
        assert 85 <= manager.metrics.events_dropped <= 95
    check_runs(await events_of(log, "alice"))


@pytest.mark.parametrize("room", range(1, 16))
@virtual_time
async def test_pairs_and_ends_hold_however_little_room_there_is(room: int) -> None:
    """Whatever fits is told whole, a run or a tool with its end, or not at all; and that it is missing is told."""
    log = TroubledLog()
    log.trouble = "refuse"

    async def agent(manager: UnifiedWebSocketManager, name: str) -> None:
        run = manager.create_agent_bridge(UserExecutionContext("alice", name)).run("planner")
        child = run.child("c", run_id=f"{name}-c")
        async with run, run.tool("a"), run.tool("b"), child, child.tool("d"):
            await run.thinking("x")

    async with a_manager(log, limits=Limits(outbox=room)) as manager:
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(agent(manager, f"r{number}"))
        assert len(manager.outbox("alice")) <= 2 * room + 1
        log.recover()
    events = await events_of(log, "alice")
    check_runs(events)
    told = [event["data"]["count"] for event in events if event["type"] == "events_dropped"]
    assert sum(told) == manager.metrics.events_dropped > 0


@virtual_time
async def test_a_tool_for_which_there_is_no_room_is_counted_as_missing() -> None:
    log = TroubledLog()
    log.trouble = "refuse"
    async with a_manager(log, limits=Limits(outbox=2)) as manager:
        async with manager.create_agent_bridge(CONTEXT).run("planner") as run, run.tool("search"):
            assert manager.metrics.events_dropped == 1
        log.recover()
    events = await events_of(log, "alice")
    assert [event["type"] for event in events] == ["agent_started", "events_dropped", "agent_completed"]
    assert events[1]["data"] == {"count": 1}


@virtual_time
async def test_what_is_dropped_gives_back_the_room_that_was_kept_for_its_end() -> None:
    """A beginning that does not fit leaves no slot reserved behind: afterwards there is as much room as before."""
    log = TroubledLog()
    log.trouble = "refuse"
    async with a_manager(log, limits=Limits(outbox=5)) as manager:
        async with manager.create_agent_bridge(CONTEXT).run("planner") as run:
            for _ in range(3):
                await run.thinking("x")
            for _ in range(10):
                async with run.tool("search"):
                    pass
        log.recover()
        await until(lambda: len(manager._outboxes) == 0, seconds=60.0)
    check_runs(await events_of(log, "alice"))


@virtual_time
async def test_the_room_of_one_user_is_not_the_room_of_another() -> None:
    log = TroubledLog()
    async with a_manager(log, limits=Limits(outbox=5)) as manager:
        log.trouble = "refuse"
        await work(manager, steps=20)
        assert await work(manager, 0, UserExecutionContext("bob", "r1")) == "done"
        log.recover()
    check_runs(await events_of(log, "alice"))
    bob = await events_of(log, "bob")
    check_runs(bob)
    assert [event["type"] for event in bob] == ["agent_started", "message_delta", "agent_completed"]


@virtual_time
async def test_an_outbox_lives_only_while_something_waits() -> None:
    log = TroubledLog()
    async with a_manager(log) as manager:
        before = asyncio.all_tasks()
        for number in range(50):
            await work(manager, 1, UserExecutionContext(f"user-{number}"))
        await turns()
        assert len(manager._outboxes) == 0
        assert asyncio.all_tasks() == before


# -- one user's trouble is nobody else's


@virtual_time
async def test_a_log_that_hangs_for_one_user_holds_up_no_other() -> None:
    class HangsForAlice(TroubledLog):
        async def append(self, log: LogName, event: Event) -> Position:
            if log.name == "alice":
                await asyncio.Event().wait()
            return await super().append(log, event)

    log = HangsForAlice()
    loop = asyncio.get_running_loop()
    async with a_manager(log, limits=Limits(shutdown_timeout=1.0)) as manager:
        bob = await Tab.open(manager, "bob")
        hers = asyncio.create_task(work(manager))
        began = loop.time()
        await work(manager, 5, UserExecutionContext("bob", "r1"))
        await bob.has(28)
        assert loop.time() - began < 0.1
        assert await hers == "done"


# -- the manager ends in the middle of a run


@virtual_time
async def test_a_run_survives_the_end_of_its_manager() -> None:
    log = TroubledLog()
    go_on = asyncio.Event()
    manager = a_manager(log)

    async def agent() -> str:
        async with manager.create_agent_bridge(CONTEXT).run("planner") as run:
            await run.thinking("before")
            await go_on.wait()
            await run.thinking("after")
            async with run.tool("search") as tool:
                await tool.progress(n=1)
                tool.result = 1
            async with run.child("assistant") as child:
                await child.delta("text")
            await run.delta("text")
            run.result = "done"
        async with manager.create_agent_bridge(CONTEXT).run("another"):
            pass
        return "done"

    async with manager:
        tab = await Tab.open(manager, "alice")
        task = asyncio.create_task(agent())
        await tab.has(2)
    go_on.set()
    assert await task == "done"
    assert [event["type"] for event in await events_of(log, "alice")] == ["agent_started", "agent_thinking"]
    assert len(manager.runs) == 0
    await turns()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@TROUBLES
@virtual_time
async def test_shutdown_ends_in_time_while_the_log_is_in_trouble_and_agents_go_on(
    trouble: Trouble, caplog: pytest.LogCaptureFixture
) -> None:
    """What still waits is lost, and a log line says how much. No pump is left behind, though agents keep emitting."""
    loop = asyncio.get_running_loop()
    log = TroubledLog()
    manager = a_manager(log, limits=Limits(shutdown_timeout=3.0))
    stop = False
    busy_from = float("inf")

    async def agent(user: str) -> None:
        async with manager.create_agent_bridge(UserExecutionContext(user)).run("planner") as run:
            while not stop:
                # While the pumps are ended, agents emit at every turn of the loop.
                for _ in range(100 if busy_from <= loop.time() < busy_from + 0.05 else 1):
                    await run.thinking("canary")
                    await asyncio.sleep(0)
                await asyncio.sleep(0.001)

    async with manager:
        tasks = [asyncio.create_task(agent(user)) for user in ("alice", "bob", "carol")]
        await turns()
        log.trouble = trouble
        await asyncio.sleep(1.0)
        began = loop.time()
        busy_from = began + 2.99
        with caplog.at_level(logging.DEBUG):
            await manager.shutdown()
        assert loop.time() - began <= 6.0
        await asyncio.sleep(0.5)
        stop = True
        await asyncio.gather(*tasks)
        await turns()
        assert asyncio.all_tasks() == {asyncio.current_task()}
    assert "canary" not in caplog.text
    if trouble == "refuse":
        lost = [record for record in caplog.records if record.levelname == "ERROR"]
        assert len(lost) == 3
        assert all(getattr(record, "events", 0) > 0 for record in lost)


@virtual_time
async def test_shutdown_appends_what_waits_once_the_log_is_back_in_time() -> None:
    log = TroubledLog()
    manager = a_manager(log)
    async with manager:
        tab = await Tab.open(manager, "alice")
        log.trouble = "refuse"
        await work(manager)
        asyncio.get_running_loop().call_later(3.0, log.recover)
    assert await tab.ended() == 1012
    assert tab.events[-1]["type"] == "agent_completed"
    check_runs(tab.events)
    assert len(tab.events) == 28


@virtual_time
async def test_a_socket_that_hangs_holds_up_no_run() -> None:
    loop = asyncio.get_running_loop()
    async with a_manager() as manager:
        tab = await Tab.open(manager, "alice", socket=FakeSocket())
        await tab.greeted()
        tab.socket.block()
        began = loop.time()
        await work(manager, steps=100)
        assert loop.time() - began < 0.1
        tab.socket.unblock()


@virtual_time
async def test_the_text_of_an_error_of_the_log_reaches_neither_user_nor_agent() -> None:
    log = TroubledLog()
    async with a_manager(log) as manager:
        tab = await Tab.open(manager, "alice")
        log.plan.extend(["refuse"] * 5)
        await work(manager)
        await until(lambda: any(event["type"] == "agent_completed" for event in tab.events), seconds=60.0)
        assert "told to refuse" not in str(tab.socket.texts)
