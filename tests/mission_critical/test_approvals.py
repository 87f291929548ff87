"""Promise: what a run asks its user is asked once, the first decision stands wherever it is given, nobody else can give
it, and what was requested is resolved, whatever happens to the run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from bridge import AgentRun, Decision, UserExecutionContext
from tests.mission_critical.test_run_leases import LEASE, Process, World, a_world
from tests.support import Tab, a_manager, check_runs, events_of, turns, until, virtual_time
from websocket_core.authorization import Verb
from websocket_core.errors import InvalidEvent
from websocket_core.identity import Principal, UserId
from websocket_core.limits import Limits
from websocket_core.unified_manager import UnifiedWebSocketManager

ALICE = UserId("alice")
CONTEXT = UserExecutionContext("alice", "r1", "t1")


class Asking:
    """A run that asks, and what it was told."""

    def __init__(self, manager: UnifiedWebSocketManager, *, context: Any = CONTEXT, **how: Any) -> None:
        self.manager = manager
        self.told: list[Decision | BaseException] = []
        how.setdefault("approval_id", "a1")
        self.task = asyncio.get_running_loop().create_task(self._run(context, how))

    async def _run(self, context: Any, how: dict[str, Any]) -> None:
        async with self.manager.create_agent_bridge(context).run("planner") as run:
            try:
                self.told.append(await run.approval("Send it?", **how))
            except BaseException as error:
                self.told.append(error)
                raise


async def answer(tab: Tab, decision: object = "approved", approval_id: object = "a1", **extra: Any) -> str:
    """Send `approve`; the code of the error, or `ack`."""
    before = len(tab.socket.frames)
    tab.socket.client_sends(
        {"type": "approve", "approval_id": approval_id, "decision": decision, "request_id": "q", **extra}
    )
    frames: list[dict[str, Any]] = []

    def answered() -> bool:
        frames[:] = [frame for frame in tab.socket.frames[before:] if frame.get("request_id") == "q"]
        return bool(frames)

    await until(answered, "the answer")
    return str(frames[0].get("code", frames[0]["type"]))


async def asked(tab: Tab, count: int = 1) -> list[dict[str, Any]]:
    def requested() -> list[dict[str, Any]]:
        return [event for event in tab.events if event["type"] == "approval_requested"]

    await until(lambda: len(requested()) >= count, "the question")
    return requested()


def resolved(events: list[dict[str, Any]]) -> list[Any]:
    return [event["data"] for event in events if event["type"] == "approval_resolved"]


@virtual_time
async def test_a_run_waits_for_what_its_user_decides() -> None:
    async with a_manager() as manager:
        tab = await Tab.open(manager, "alice")
        run = Asking(manager, tool_call_id="c1", risk="high")
        [request] = await asked(tab)
        assert request["data"] == {"approval_id": "a1", "message": "Send it?", "tool_call_id": "c1", "risk": "high"}
        assert (request["run_id"], request["thread_id"]) == ("r1", "t1")
        await asyncio.sleep(1_000.0)
        assert run.told == []
        assert await answer(tab, "approved", to=["bob"]) == "ack"
        await run.task
        assert run.told == [Decision("approved", {"to": ["bob"]})]
        assert Decision("approved", {}).approved
        assert not Decision("Approved", {}).approved
        events = await events_of(manager._log, "alice")
        assert resolved(events) == [{"approval_id": "a1", "decision": "approved"}], "what else was said is the run's"
        check_runs(events)
        assert len(manager.runs.approvals) == 0
        await tab.cut()


@virtual_time
async def test_the_first_decision_stands() -> None:
    async with a_manager() as manager:
        tab = await Tab.open(manager, "alice")
        goes_on = asyncio.Event()
        told: list[Decision] = []

        async def work() -> None:
            async with manager.create_agent_bridge(CONTEXT).run("planner") as run:
                told.append(await run.approval(approval_id="a1"))
                await goes_on.wait()

        task = asyncio.create_task(work())
        await asked(tab)
        assert await answer(tab, "rejected", why="no") == "ack"
        assert await answer(tab, "rejected", why="no") == "ack", "the same again, as after a lost answer"
        assert await answer(tab, "approved") == "invalid"
        assert await answer(tab, "rejected", why="other") == "invalid"
        assert told == [Decision("rejected", {"why": "no"})]
        goes_on.set()
        await task
        assert await answer(tab, "rejected", why="no") == "not_found", "the run has ended"
        await tab.cut()


@virtual_time
async def test_what_somebody_else_is_asked_is_not_there() -> None:
    async with a_manager() as manager:
        alice, bob = await Tab.open(manager, "alice"), await Tab.open(manager, "bob")
        run, other = Asking(manager), Asking(manager, context=UserExecutionContext("bob", "r1", "t1"))
        await asked(alice)
        await asked(bob)
        assert await answer(bob, approval_id="a2") == "not_found"
        assert await answer(bob, "rejected") == "ack", "the same id of two users is two questions"
        await other.task
        await turns()
        assert run.told == []
        assert await answer(alice) == "ack"
        await run.task
        assert (run.told, other.told) == ([Decision("approved", {})], [Decision("rejected", {})])
        for tab in (alice, bob):
            await tab.cut()


@pytest.mark.parametrize(
    "frame",
    [
        {"decision": None}, {"decision": True}, {"decision": ""}, {"decision": "x" * 65}, {"decision": "a\nb"},
        {"decision": "cancelled"}, {"decision": "expired"}, {"decision": ["approved"]}, {"approval_id": 1},
        {"approval_id": None}, {"approval_id": ""}, {"approval_id": "x" * 300},
    ],
)  # fmt: skip
@virtual_time
async def test_a_frame_that_decides_nothing_is_invalid(frame: dict[str, Any]) -> None:
    async with a_manager() as manager:
        tab = await Tab.open(manager, "alice")
        run = Asking(manager)
        await asked(tab)
        assert await answer(tab, **{"decision": "approved", **frame}) == "invalid"
        assert run.told == []
        run.task.cancel()
        await asyncio.wait([run.task])
        await tab.cut()


@virtual_time
async def test_who_may_not_approve_does_not() -> None:
    async def narrow(_principal: Principal, verb: Verb) -> bool:
        return verb is not Verb.APPROVE

    async with a_manager(authorize=narrow) as manager:
        tab = await Tab.open(manager, "alice")
        run = Asking(manager)
        await asked(tab)
        assert await answer(tab) == "forbidden"
        assert await answer(tab, approval_id="nothing") == "forbidden", "and learns nothing"
        assert run.told == []
        run.task.cancel()
        await asyncio.wait([run.task])
        await tab.cut()


@virtual_time
async def test_a_question_that_nobody_answers_expires() -> None:
    async with a_manager() as manager:
        tab = await Tab.open(manager, "alice")
        run = Asking(manager, timeout=60.0)
        await asyncio.wait([run.task])
        assert isinstance(run.told[0], TimeoutError)
        with pytest.raises(TimeoutError):
            run.task.result()
        events = await events_of(manager._log, "alice")
        assert resolved(events) == [{"approval_id": "a1", "decision": "expired"}]
        assert events[-1]["data"]["reason"] == "timeout"
        assert await answer(tab) == "not_found"
        await tab.cut()


@virtual_time
async def test_a_run_that_is_cancelled_closes_its_question() -> None:
    async with a_manager() as manager:
        tab = await Tab.open(manager, "alice")
        run = Asking(manager)
        await asked(tab)
        tab.socket.client_sends({"type": "cancel", "run_id": "r1"})
        await asyncio.wait([run.task])
        events = await events_of(manager._log, "alice")
        kinds = [event["type"] for event in events]
        assert kinds == ["agent_started", "approval_requested", "approval_resolved", "agent_completed"]
        assert resolved(events) == [{"approval_id": "a1", "decision": "cancelled"}]
        assert await answer(tab) == "not_found"
        await tab.cut()


@virtual_time
async def test_a_run_that_ends_closes_what_another_task_asks_for_it() -> None:
    async with a_manager() as manager:
        async with manager.create_agent_bridge(CONTEXT).run("planner") as run:
            asking = asyncio.create_task(run.approval(approval_id="a1"))
            await turns()
        with pytest.raises(RuntimeError, match="ended"):
            await asking
        events = await events_of(manager._log, "alice")
        assert [event["type"] for event in events[1:]] == ["approval_requested", "approval_resolved", "agent_completed"]
        with pytest.raises(RuntimeError, match="not open"):
            await run.approval()


@virtual_time
async def test_an_id_that_is_open_is_refused_and_the_first_question_stays() -> None:
    async with a_manager() as manager:
        async with manager.create_agent_bridge(CONTEXT).run("planner") as run:
            first = asyncio.create_task(run.approval(approval_id="a1"))
            await turns()
            with pytest.raises(InvalidEvent, match="approval_id"):
                await run.approval(approval_id="a1")
            with pytest.raises(InvalidEvent, match="approval_id"):
                await run.approval(approval_id="a\n1")
            with pytest.raises(InvalidEvent):
                await run.approval(approval_id="a2", what={1})
            assert await manager.runs.decide(ALICE, "a1", '["yes",{}]') == '["yes",{}]'
            assert await first == Decision("yes", {})
        events = await events_of(manager._log, "alice")
        assert [event["type"] for event in events].count("approval_requested") == 1
        assert len(resolved(events)) == 1


@virtual_time
async def test_a_question_that_does_not_fit_is_not_told_and_its_end_neither() -> None:
    async with a_manager(limits=Limits(outbox=2)) as manager:
        async with manager.create_agent_bridge(CONTEXT).run("planner") as run:
            outbox = manager.outbox("alice")
            assert outbox.reserve()
            with suppress(TimeoutError):
                await run.approval(approval_id="a1", timeout=1.0)
            outbox.release()
        kinds = [event["type"] for event in await events_of(manager._log, "alice")]
        assert kinds == ["agent_started", "events_dropped", "agent_completed"]


@virtual_time
async def test_a_cancellation_at_every_await_leaves_no_question_open() -> None:
    async def whole(run: AgentRun) -> None:
        await run.approval("Send it?", approval_id="a1")

    await _cancelled_at_each(whole)


async def _cancelled_at_each(work: Callable[[AgentRun], Awaitable[None]]) -> None:
    for point in range(1, 40):
        async with a_manager() as manager:

            async def main(manager: UnifiedWebSocketManager = manager) -> None:
                async with manager.create_agent_bridge(CONTEXT).run("planner") as run:
                    await work(run)

            task = asyncio.create_task(main())
            await turns(point)
            if point > 20:
                await manager.runs.decide(ALICE, "a1", '["yes",{}]')
                await turns(point - 20)
            task.cancel()
            await asyncio.wait([task])
            await turns()
            events = await events_of(manager._log, "alice")
            check_runs(events)
            kinds = [event["type"] for event in events]
            assert kinds.count("approval_requested") == kinds.count("approval_resolved")
            assert (len(manager.runs.approvals), len(manager.runs)) == (0, 0)


# -- across processes


async def a_pair(world: World) -> tuple[Process, Process, Tab]:
    holder, other = await world.process(), await world.process()
    return holder, other, await Tab.open(other.manager, "alice")


@virtual_time
async def test_a_decision_reaches_the_process_that_waits_for_it() -> None:
    async with a_world() as world:
        holder, _other, tab = await a_pair(world)
        run = Asking(holder.manager)
        await asked(tab)
        assert await answer(tab, "approved", n=1) == "ack"
        async with asyncio.timeout(1.0):
            await run.task
        assert run.told == [Decision("approved", {"n": 1})]
        await until(lambda: (world.leases.approvals, world.leases.records) == ({}, {}), "the end of the lease")
        await tab.cut()


@virtual_time
async def test_a_decision_that_is_not_heard_is_found_at_the_next_renewal() -> None:
    async with a_world() as world:
        holder, _other, tab = await a_pair(world)
        run = Asking(holder.manager)
        await asked(tab)
        world.leases.deaf = True
        assert await answer(tab) == "ack"
        async with asyncio.timeout(LEASE / 3 + 1.0):
            await run.task
        await tab.cut()


@virtual_time
async def test_decisions_in_two_processes_are_one() -> None:
    """Also where one of them has the run: the store decides, and not who comes first here."""
    async with a_world() as world:
        holder, _other, there = await a_pair(world)
        here = await Tab.open(holder.manager, "alice")
        run = Asking(holder.manager)
        await asked(here)
        await asked(there)
        world.leases.deaf = True
        assert await answer(there, "rejected") == "ack"
        assert await answer(here, "approved") == "invalid"
        async with asyncio.timeout(1.0):
            await run.task
        assert run.told == [Decision("rejected", {})]
        for tab in (here, there):
            await tab.cut()


@virtual_time
async def test_the_store_knows_of_the_question_before_the_user_does() -> None:
    async with a_world() as world:
        _holder, other, tab = await a_pair(world)
        world.leases.deaf = True
        run = Asking(_holder.manager)
        await asked(tab)
        assert list(world.leases.approvals) == [(ALICE, "a1")]
        assert await other.manager.runs.decide(UserId("bob"), "a1", '["yes",{}]') is None
        run.task.cancel()
        await asyncio.wait([run.task])
        await tab.cut()


@virtual_time
async def test_a_question_that_has_expired_is_nowhere_any_more() -> None:
    async with a_world() as world:
        holder, _other, tab = await a_pair(world)

        async def work(run: Any) -> None:
            with suppress(TimeoutError):
                await run.approval(approval_id="a1", timeout=1.0)

        holder.start_run(work)
        await asked(tab)
        await until(lambda: resolved(tab.events), "the end of the question")
        await asyncio.sleep(1.0)
        assert await answer(tab) == "not_found"
        await tab.cut()


@virtual_time
async def test_a_decision_that_cannot_be_noted_is_unavailable() -> None:
    async with a_world() as world:
        holder, other, tab = await a_pair(world)
        run = Asking(holder.manager)
        await asked(tab)
        other.leases.away = True
        assert await answer(tab) == "unavailable"
        other.leases.away = False
        assert run.told == []
        assert await answer(tab) == "ack"
        await run.task
        await tab.cut()
