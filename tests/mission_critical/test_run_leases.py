"""Promise: a run whose process is gone is ended by another, once, and what a user asks of a run reaches it wherever it
is.

Several managers share a log and leases, as processes do. One that dies is told by what it does no more: its jobs stop,
and its tasks with them. One that is frozen does nothing for a while, and goes on where it was.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from bridge import RunCancelled, UserExecutionContext
from tests.leases import FakeLeases, LeasedState, SharedLeases
from tests.support import Tab, TroubledLog, a_manager, check_runs, events_of, turns, until, virtual_time
from websocket_core.errors import LogUnavailable
from websocket_core.events import Event
from websocket_core.identity import LogName, UserId
from websocket_core.limits import Limits, Retention
from websocket_core.log import Position
from websocket_core.reaper import GONE

LEASE = 30.0
ALICE = UserId("alice")
CONTEXT = UserExecutionContext("alice", "r1", "t1")


class SharedLog(TroubledLog):
    """A log that outlives the managers on it."""

    async def close(self) -> None:
        pass


class Process:
    """One manager among several."""

    def __init__(self, world: World, **options: Any) -> None:
        self.leases: FakeLeases = world.leases.process()
        self.manager = a_manager(
            world.log, state=LeasedState(self.leases), limits=Limits(lease=LEASE, **options), rng=random.Random(4)
        )
        self.runs: list[asyncio.Task[Any]] = []
        self.went_on: list[str] = []

    @property
    def held(self) -> int:
        assert self.manager.runs.keeper is not None
        return len(self.manager.runs.keeper)

    def start_run(
        self, work: Callable[[Any], Any] | None = None, *, run_id: str = "r1", agent: str = "planner"
    ) -> None:
        """A run that works until it is stopped."""

        async def run() -> None:
            bridge = self.manager.create_agent_bridge(CONTEXT)
            try:
                async with bridge.run("planner") as run:
                    self.went_on.append("opened")
                    if work is not None:
                        await work(run)
                    await asyncio.sleep(10**6)
            except RunCancelled:
                self.went_on.append("stopped")

        self.runs.append(asyncio.get_running_loop().create_task(run()))

    async def die(self) -> None:
        """As by SIGKILL: nothing more is appended, renewed or said."""
        self.manager.appender.closed = True
        self.leases.away = True
        await self.manager._background.stop()
        await self.manager._outboxes.close()
        for run in self.runs:
            run.cancel()
        await asyncio.gather(*self.runs, return_exceptions=True)
        await turns()

    async def freeze(self) -> Callable[[], None]:
        """Stop the jobs, as SIGSTOP would; what is returned lets them go on."""
        await self.manager._background.stop()
        keeper = self.manager.runs.keeper
        assert keeper is not None
        keeper.running = True
        return self.manager._background.start


class World:
    def __init__(self, retention: Retention | None = None) -> None:
        self.log = SharedLog(retention)
        self.leases = SharedLeases(asyncio.get_running_loop().time)
        self.processes: list[Process] = []

    async def process(self, **options: Any) -> Process:
        process = Process(self, **options)
        await process.manager.__aenter__()
        self.processes.append(process)
        return process

    async def events(self) -> list[dict[str, Any]]:
        return await events_of(self.log, "alice")

    async def story(self) -> list[str]:
        return [event["type"] for event in await self.events()]

    async def ended(self, seconds: float = 2 * LEASE) -> list[str]:
        """The types of all events, once every run has its end."""
        async with asyncio.timeout(seconds):
            while True:
                story = await self.story()
                ends = story.count("agent_completed") + story.count("agent_error")
                if story.count("agent_started") == ends > 0:
                    return story
                await asyncio.sleep(0.1)


@asynccontextmanager
async def a_world(retention: Retention | None = None) -> AsyncIterator[World]:
    world = World(retention)
    yield world
    for process in world.processes:
        for run in process.runs:
            run.cancel()
        await asyncio.gather(*process.runs, return_exceptions=True)
        await process.manager.shutdown()
    assert world.leases.listeners == {} or not any(world.leases.listeners.values())


# -- a process that dies


@virtual_time
async def test_the_runs_of_a_dead_process_are_ended_by_another_within_the_lease() -> None:
    async with a_world() as world:
        dead, other = await world.process(), await world.process()
        await asyncio.sleep(LEASE)
        dead.start_run()
        await until(lambda: dead.went_on, "the run")
        await asyncio.sleep(100.0)
        assert await world.story() == ["agent_started"], "a run whose lease is renewed is left alone"
        await dead.die()
        await asyncio.sleep(LEASE * 2 / 3 - 2.0)
        assert await world.story() == ["agent_started"]
        await asyncio.sleep(LEASE / 3 + LEASE / 4 + 3.0)
        started, lost = await world.events()
        assert lost["type"] == "agent_error"
        assert lost["data"] == {"agent": "planner", "error": GONE, "reason": "lost"}
        assert (lost["run_id"], lost["thread_id"], lost["user_id"]) == ("r1", "t1", "alice")
        assert lost["id"] == f"{started['id']}.end"
        assert other.manager.metrics.runs_lost == 1
        assert (world.leases.records, world.leases.due) == ({}, {}), "nothing is left but that it was lost"
        await asyncio.sleep(10 * LEASE)
        assert len(await world.events()) == 2


@virtual_time
async def test_of_several_who_look_one_ends_the_run() -> None:
    async with a_world() as world:
        dead = await world.process()
        others = [await world.process() for _ in range(4)]
        await asyncio.sleep(LEASE)
        dead.start_run()
        await until(lambda: dead.went_on, "the run")
        await dead.die()
        assert await world.ended() == ["agent_started", "agent_error"]
        await asyncio.sleep(3 * LEASE)
        assert await world.story() == ["agent_started", "agent_error"]
        assert sum(each.manager.metrics.runs_lost for each in others) == 1


@virtual_time
async def test_one_who_claims_a_run_and_dies_is_followed_by_another() -> None:
    async with a_world() as world:
        dead, other = await world.process(), await world.process()
        await asyncio.sleep(LEASE)
        dead.start_run()
        await until(lambda: dead.went_on, "the run")
        await dead.die()
        await asyncio.sleep(LEASE + 1.0)
        if not world.leases.lost:
            await world.leases.process().claim(None, seconds=LEASE, most=10)
        world.leases.lost.setdefault(next(iter(world.leases.records), (ALICE, "")), 0.0)
        assert await world.ended(4 * LEASE) == ["agent_started", "agent_error"]
        assert other.held == 0


@virtual_time
async def test_the_leases_of_a_process_expire_together() -> None:
    """Else whoever ends them finds one expired and its child not yet."""
    async with a_world() as world:
        process = await world.process()

        async def work(run: Any) -> None:
            await asyncio.sleep(0.3)
            async with run.child("reader", run_id="c1"):
                await asyncio.sleep(10**6)

        process.start_run(work)
        await until(lambda: len(world.leases.due) == 2, "both leases")
        one, other = world.leases.due.values()
        assert abs(one - other) < 0.01
        await process.die()


@virtual_time
async def test_children_are_ended_before_their_parents() -> None:
    async with a_world() as world:
        dead, _other = await world.process(), await world.process()
        await asyncio.sleep(LEASE)

        async def work(run: Any) -> None:
            await asyncio.sleep(LEASE * 0.9)  # renewed in between: the parent's lease would be the older one
            async with run.child("reader", run_id="c1") as child, child.child("looker", run_id="c2"):
                await asyncio.sleep(10**6)

        dead.start_run(work)
        await asyncio.sleep(LEASE * 0.9 + 1.0)
        assert await world.story() == ["agent_started"] * 3
        await dead.die()
        await world.ended()
        ends = [(event["run_id"], event["type"]) for event in (await world.events())[3:]]
        assert ends == [("c2", "agent_error"), ("c1", "agent_error"), ("r1", "agent_error")]


@virtual_time
async def test_the_lease_is_written_before_the_run_is_told() -> None:
    async with a_world() as world:
        process = await world.process()
        seen: list[int] = []
        append = world.log.append

        async def look(log: LogName, event: Event) -> Position:
            seen.append(len(world.leases.records))
            return await append(log, event)

        world.log.append = look  # type: ignore[method-assign]
        process.start_run()
        await until(lambda: seen, "an append")
        assert seen == [1]


@virtual_time
async def test_who_dies_between_the_lease_and_the_first_event_leaves_a_whole_story() -> None:
    async with a_world() as world:
        dead, _other = await world.process(), await world.process()
        await asyncio.sleep(LEASE)
        world.log.plan.extend(["hang"])
        dead.start_run()
        await until(lambda: world.leases.records, "the lease")
        await dead.die()
        assert await world.ended() == ["agent_started", "agent_error"]
        check_runs(await world.events())


@virtual_time
async def test_who_dies_right_after_the_first_event_makes_no_second_one() -> None:
    async with a_world() as world:
        dead, _other = await world.process(), await world.process()
        await asyncio.sleep(LEASE)
        dead.start_run()
        await until(lambda: dead.went_on, "the run")
        for record in world.leases.records.values():
            record.begun = False
        await dead.die()
        assert await world.ended() == ["agent_started", "agent_error"]


@virtual_time
async def test_a_beginning_that_was_trimmed_is_not_told_again() -> None:
    async with a_world(Retention(events=5)) as world:
        dead, other = await world.process(), await world.process()
        await asyncio.sleep(LEASE)
        dead.start_run()
        await until(lambda: dead.went_on, "the run")
        await asyncio.sleep(1.0)
        for number in range(10):
            await other.manager.get_emitter("alice").emit("work", {"n": number})
        await dead.die()
        await asyncio.sleep(2 * LEASE)
        assert await world.story() == ["work"] * 4 + ["agent_error"]


@virtual_time
async def test_a_run_that_has_ended_leaves_no_lease() -> None:
    async with a_world() as world:
        process = await world.process()
        bridge = process.manager.create_agent_bridge(CONTEXT)
        async with bridge.run("planner"):
            await until(lambda: world.leases.records, "the lease")
            assert process.held == 1
        await until(lambda: not world.leases.records, "the end of the lease")
        assert (world.leases.due, process.held) == ({}, 0)


@virtual_time
async def test_a_run_whose_end_is_not_in_the_log_yet_keeps_its_lease() -> None:
    """Or a process that dies then would leave a run without an end."""
    async with a_world() as world:
        dead, _other = await world.process(), await world.process()
        await asyncio.sleep(LEASE)
        bridge = dead.manager.create_agent_bridge(CONTEXT)
        async with bridge.run("planner"):
            world.log.trouble = "refuse"
        await asyncio.sleep(LEASE)
        assert dead.held == len(world.leases.records) == 1
        await dead.die()
        world.log.recover()
        assert await world.ended() == ["agent_started", "agent_error"]


@virtual_time
async def test_runs_that_a_shutdown_leaves_open_are_ended_by_another() -> None:
    async with a_world() as world:
        leaving, _other = await world.process(), await world.process()
        await asyncio.sleep(LEASE)
        leaving.start_run()
        await until(lambda: leaving.went_on, "the run")
        await leaving.manager.shutdown()
        assert await world.ended() == ["agent_started", "agent_error"]


@virtual_time
async def test_a_process_that_comes_later_ends_what_others_have_left() -> None:
    async with a_world() as world:
        dead = await world.process()
        dead.start_run()
        await until(lambda: dead.went_on, "the run")
        await dead.die()
        await asyncio.sleep(10 * LEASE)
        await world.process()
        assert await world.ended() == ["agent_started", "agent_error"]


@virtual_time
async def test_a_cancellation_at_every_turn_leaves_no_lease_and_no_open_run() -> None:
    for point in range(60):
        async with a_world() as world:
            process = await world.process()

            async def work(run: Any) -> None:
                async with run.child("reader", run_id="c1") as child, child.tool("search"):
                    await child.thinking("hm")

            process.start_run(work)
            await turns(point)
            process.runs[0].cancel()
            await asyncio.wait(process.runs)
            await process.manager.outbox("alice").flush()
            await until(lambda world=world: not world.leases.records, "the end of the leases")  # type: ignore[misc]
            assert (process.held, world.leases.due) == (0, {})
            check_runs(await world.events())


@virtual_time
async def test_a_run_that_ends_while_its_process_shuts_down_is_ended_by_another() -> None:
    """Its terminal event comes too late for the outbox, so its lease must not be ended as if it had been told."""
    async with a_world() as world:
        leaving, other = await world.process(), await world.process()
        await asyncio.sleep(LEASE)
        leaving.start_run()
        await until(lambda: leaving.went_on, "the run")
        tab = await Tab.open(leaving.manager, "alice")
        await tab.greeted()
        tab.socket.block()  # which takes up the time of the shutdown
        await other.manager.get_emitter("alice").emit("work", {})
        shutdown = asyncio.create_task(leaving.manager.shutdown())
        await until(lambda: leaving.manager.appender.closed, "the shutdown")
        leaving.runs[0].cancel()
        await asyncio.wait([leaving.runs[0]])
        assert not shutdown.done()
        await shutdown
        assert await world.ended() == ["agent_started", "work", "agent_error"]
        tab.socket.unblock()
        await tab.cut()


# -- a process that was only frozen


@virtual_time
async def test_a_frozen_process_stops_the_runs_that_it_lost_and_tells_nothing_more_of_them() -> None:
    async with a_world() as world:
        frozen, _other = await world.process(), await world.process()
        await asyncio.sleep(LEASE)
        emitted = asyncio.Event()

        async def work(run: Any) -> None:
            await emitted.wait()
            await run.thinking("after the freeze, before it knows")
            frozen.went_on.append("thought")

        frozen.start_run(work)
        await until(lambda: frozen.went_on, "the run")
        thaw = await frozen.freeze()
        assert await world.ended() == ["agent_started", "agent_error"]
        emitted.set()
        await until(lambda: "stopped" in frozen.went_on, "the end of the run")
        thaw()
        await asyncio.sleep(5 * LEASE)
        assert await world.story() == ["agent_started", "agent_error"]
        check_runs(await world.events())
        assert frozen.held == 0


@virtual_time
async def test_a_frozen_process_learns_it_at_its_next_renewal() -> None:
    async with a_world() as world:
        frozen, _other = await world.process(), await world.process()
        await asyncio.sleep(LEASE)
        frozen.start_run()
        await until(lambda: frozen.went_on, "the run")
        thaw = await frozen.freeze()
        assert await world.ended() == ["agent_started", "agent_error"]
        thaw()
        await until(lambda: "stopped" in frozen.went_on, "the end of the run", LEASE / 3 + 1.0)
        await asyncio.sleep(LEASE)
        assert await world.story() == ["agent_started", "agent_error"]
        frozen.start_run()
        await until(lambda: frozen.went_on[-1] == "opened", "a run that is begun anew")
        await asyncio.sleep(5 * LEASE)
        assert await world.story() == ["agent_started", "agent_error", "agent_started"], "the same id is another run"


@virtual_time
async def test_a_frozen_process_with_something_to_write_does_not_write_it_for_a_lost_run() -> None:
    """Or its lease would be there again, and nobody would ever drop it."""
    async with a_world() as world:
        frozen, _other = await world.process(), await world.process()
        await asyncio.sleep(LEASE)
        asks = asyncio.Event()

        async def work(run: Any) -> None:
            await asks.wait()
            await run.approval(approval_id="a1")

        frozen.start_run(work)
        await until(lambda: frozen.went_on, "the run")
        thaw = await frozen.freeze()
        assert await world.ended() == ["agent_started", "agent_error"]
        asks.set()
        await until(lambda: "stopped" in frozen.went_on, "the end of the run")
        thaw()
        await asyncio.sleep(5 * LEASE)
        assert await world.story() == ["agent_started", "agent_error"]
        assert (world.leases.records, world.leases.approvals, world.leases.due) == ({}, {}, {})


@virtual_time
async def test_an_outage_of_the_store_loses_no_run() -> None:
    """All leases have expired when it comes back. Holders get the time to renew them."""
    async with a_world() as world:
        process, _other = await world.process(), await world.process()
        await asyncio.sleep(LEASE)
        process.start_run()
        await until(lambda: process.went_on, "the run")
        world.leases.away = True
        await asyncio.sleep(10 * LEASE)
        world.leases.away = False
        await asyncio.sleep(5 * LEASE)
        assert await world.story() == ["agent_started"]
        assert process.held == 1


@virtual_time
async def test_a_store_that_forgot_everything_is_told_again() -> None:
    async with a_world() as world:
        dead, _other = await world.process(), await world.process()
        await asyncio.sleep(LEASE)
        dead.start_run()
        await until(lambda: dead.went_on, "the run")
        world.leases.forget_everything()
        await until(lambda: len(world.leases.records) == len(world.leases.due) == 1, "a lease that is back", LEASE)
        assert await world.story() == ["agent_started"]
        await dead.die()
        assert await world.ended() == ["agent_started", "agent_error"]


@virtual_time
async def test_a_run_does_not_wait_for_leases_that_cannot_be_written() -> None:
    async with a_world() as world:
        process = await world.process()
        world.leases.away = True
        process.start_run()
        await until(lambda: process.went_on, "the run", 3.0)
        assert await world.story() == ["agent_started"]
        world.leases.away = False
        await until(lambda: world.leases.records, "the lease", LEASE)


# -- cancel


@virtual_time
async def test_a_run_is_cancelled_from_another_process() -> None:
    async with a_world() as world:
        holder, other = await world.process(), await world.process()
        holder.start_run()
        await until(lambda: holder.went_on, "the run")
        tab = await Tab.open(other.manager, "alice")
        tab.socket.client_sends({"type": "cancel", "run_id": "r1", "request_id": "q"})
        await until(lambda: tab.socket.of_type("ack"), "the answer")
        await until(lambda: "stopped" in holder.went_on, "the end of the run", 1.0)
        await turns()
        completed = (await world.events())[-1]
        assert (completed["type"], completed["data"]["status"]) == ("agent_completed", "cancelled")
        await tab.cut()


@virtual_time
async def test_a_holder_that_hears_nothing_finds_it_at_its_next_renewal() -> None:
    async with a_world() as world:
        holder, other = await world.process(), await world.process()
        holder.start_run()
        await until(lambda: holder.went_on, "the run")
        world.leases.deaf = True
        assert await other.manager.runs.cancel_anywhere(ALICE, "r1")
        await until(lambda: "stopped" in holder.went_on, "the end of the run", LEASE / 3 + 1.0)


@virtual_time
async def test_somebody_elses_run_is_no_run_in_any_process() -> None:
    async with a_world() as world:
        holder, other = await world.process(), await world.process()
        holder.start_run()
        await until(lambda: holder.went_on, "the run")
        for user_id, run_id in ((UserId("bob"), "r1"), (UserId("Alice"), "r1"), (ALICE, "r2"), (ALICE, "")):
            assert not await other.manager.runs.cancel_anywhere(user_id, run_id)
        await asyncio.sleep(LEASE)
        assert holder.went_on == ["opened"]


@virtual_time
async def test_a_cancel_that_cannot_be_noted_is_unavailable_and_not_lost() -> None:
    async with a_world() as world:
        holder, other = await world.process(), await world.process()
        holder.start_run()
        await until(lambda: holder.went_on, "the run")
        tab = await Tab.open(other.manager, "alice")
        other.leases.away = True
        tab.socket.client_sends({"type": "cancel", "run_id": "r1", "request_id": "q"})
        await until(lambda: tab.socket.of_type("error"), "the answer")
        assert [(frame["code"], frame["request_id"]) for frame in tab.socket.of_type("error")] == [("unavailable", "q")]
        other.leases.away = False
        await tab.cut()


@virtual_time
async def test_a_run_is_stopped_once_however_often_it_is_asked_for() -> None:
    """It may take its time to end; a second cancellation would strike where it cleans up."""
    async with a_world() as world:
        holder, other = await world.process(), await world.process()
        cleaned: list[str] = []

        async def work(_run: Any) -> None:
            try:
                await asyncio.sleep(10**6)
            finally:
                await asyncio.sleep(LEASE)
                cleaned.append("up")

        holder.start_run(work)
        await until(lambda: holder.went_on, "the run")
        for _ in range(3):
            assert await other.manager.runs.cancel_anywhere(ALICE, "r1")
            await asyncio.sleep(1.0)
        await until(lambda: cleaned, "the end", 2 * LEASE)


# -- what else touches it


@virtual_time
async def test_a_deleted_users_leases_are_gone() -> None:
    async with a_world() as world:
        dead, other = await world.process(), await world.process()
        await asyncio.sleep(LEASE)
        dead.start_run()
        await until(lambda: dead.went_on, "the run")
        await dead.die()
        world.leases.records.clear()  # as `forget_user` does in Redis
        await asyncio.sleep(3 * LEASE)
        assert await world.story() == ["agent_started"]
        assert (other.manager.metrics.runs_lost, world.leases.due) == (0, {})


@virtual_time
async def test_in_memory_there_are_no_leases_and_no_jobs_for_them() -> None:
    async with a_manager() as manager:
        assert manager.runs.keeper is None
        assert manager.runs.writer(manager._log) is manager._log
        names = {task.get_name() for task in asyncio.all_tasks()}
        assert not names & {"websocket_core run keeper", "websocket_core reaper"}


@virtual_time
async def test_a_manager_that_was_not_started_holds_no_leases() -> None:
    """Nobody would renew them, and a run that goes on would be told as lost."""
    world = World()
    process = Process(world)
    async with process.manager.create_agent_bridge(CONTEXT).run("planner"):
        await turns()
        assert (world.leases.records, process.held) == ({}, 0)
    await process.manager.shutdown()
    assert await world.story() == ["agent_started", "agent_completed"]


@pytest.mark.parametrize("call", ["hold", "write", "look", "drop"])
@virtual_time
async def test_whichever_call_fails_the_runs_go_on_and_are_renewed(call: str) -> None:
    async with a_world() as world:
        process, _other = await world.process(), await world.process()
        original = getattr(process.leases, call)
        failures = [LogUnavailable("once"), RuntimeError("a defect"), LogUnavailable("twice")]

        async def failing(*arguments: Any, **options: Any) -> Any:
            if failures:
                raise failures.pop()
            return await original(*arguments, **options)

        setattr(process.leases, call, failing)
        process.start_run()
        await until(lambda: process.went_on, "the run", 5.0)
        await asyncio.sleep(5 * LEASE)
        assert (await world.story(), process.went_on) == (["agent_started"], ["opened"])
        for run in process.runs:
            run.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*process.runs)
        await until(lambda: not world.leases.records, "the end of the lease", LEASE)
