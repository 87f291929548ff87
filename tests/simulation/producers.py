"""What an application does: emits events, and runs agents over the bridge. Everything is entered in the ledger."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bridge.agent_run import AgentRun, RunCancelled
from bridge.context import UserExecutionContext
from tests.simulation.ledger import DELTA, Answered, Emission, Invoked, Key, RunStopped
from websocket_core.errors import AppendFailed, ManagerClosed, UnknownConnection

if TYPE_CHECKING:
    from tests.simulation.scenario import World
    from websocket_core.unified_manager import UnifiedWebSocketManager


class AgentCrash(Exception):
    """What an agent's own code raises."""


@dataclass(slots=True, eq=False)
class _Emit:
    """A plain emit, which can be made again."""

    emission: Emission
    data: dict[str, Any]
    event_id: str
    labels: dict[str, Any]


class Producer:
    """The producers of one user."""

    def __init__(self, world: World, user: str, index: int) -> None:
        self.world = world
        self.user = user
        self.rng = random.Random(f"{world.seed}/producer/{index}")
        self.number = 0
        self.open_runs: list[str] = []
        self.doubts = False
        """Whether the store may have lost what it acknowledged, so that the last events are emitted again."""
        self._manager: UnifiedWebSocketManager = world.manager
        self._recent: deque[_Emit] = deque(maxlen=8)

    def next_number(self) -> int:
        self.number += 1
        return self.number

    def invoke(self, key: Key, lane: str, data: dict[str, Any] | None, **labels: Any) -> Emission:
        emission = Emission(self.user, key, lane, data, **labels)
        self.world.record(Invoked(self.world.loop.time(), emission))
        return emission

    def answer(self, emission: Emission, outcome: str, position: str = "") -> None:
        self.world.record(Answered(self.world.loop.time(), emission, outcome, position))

    # -- plain emits

    async def emit_events(self, count: int) -> None:
        """One after the other, so that the ledger knows their order."""
        rng = self.rng
        while count > 0:
            burst = rng.choice((1, 1, 1, 2, 5, 12, 40)) if rng.random() < 0.5 else 1
            burst = min(burst, count)
            count -= burst
            for _ in range(burst):
                if self.doubts:
                    self.doubts = False
                    await self.emit_again(rng.randrange(1, 9))
                await self._emit_one()
            await asyncio.sleep(min(2.0, rng.expovariate(4.0 / burst)))

    async def emit_last(self, *, remember: bool = True) -> None:
        """One event, and then nothing that could make up for its loss."""
        await self._emit_one("last", remember=remember)

    async def emit_burst(self, count: int, lane: str) -> None:
        """So many events, one after the other."""
        for _ in range(count):
            await self._emit_one(lane, remember=False)

    async def emit_again(self, count: int) -> None:
        """The last events that were remembered once more, with the ids that they have."""
        for emit in list(self._recent)[max(0, len(self._recent) - count) :]:
            await self._persist(emit)

    async def _emit_one(self, lane: str = "plain", *, remember: bool = True) -> None:
        rng, world = self.rng, self.world
        number = self.next_number()
        data: dict[str, Any] = {"stamp": world.secrets.stamp(self.user, number), "n": number}
        if rng.random() < 0.3:
            data["pad"] = "x" * rng.choice((10, 300, 3_000))
        if rng.random() < 0.1:
            data |= {"user_id": "somebody", "type": "gap", "cursor": "x.1.y", "id": "no"}  # keys of the envelope
        kind = rng.choice(("note", "note", "agent_thinking", "price"))
        connection_id = "nobody" if rng.random() < 0.01 else None
        if rng.random() < 0.1:
            named = [tab.known_as for tab in world.tabs if tab.user == self.user and tab.connection_id is not None]
            connection_id = rng.choice(named) if named else None
        thread_id = rng.choice((None, None, "t1", "t2"))
        run_id = rng.choice((None, "r0"))
        labels = {"connection_id": connection_id, "thread_id": thread_id, "run_id": run_id}
        emission = self.invoke(Key(number, kind), lane, data, **labels)
        emit = _Emit(emission, data, f"e{number}", labels)  # the id is the same for every user
        if rng.random() < 0.12 and await self._cancelled(lambda: self._attempt(emit)) and rng.random() < 0.2:
            return  # given up; nobody knows whether it was appended
        if await self._persist(emit) and remember:
            self._recent.append(emit)

    async def _attempt(self, emit: _Emit) -> None:
        emitter = self.world.manager.get_emitter(self.user)
        position = await emitter.emit(emit.emission.key.kind, dict(emit.data), event_id=emit.event_id, **emit.labels)
        self.answer(emit.emission, "ok", f"{position.epoch}.{position.offset}.{position.mark}")

    async def _persist(self, emit: _Emit) -> bool:
        """Try until it is acknowledged, which it was if True, and now and then once more."""
        for _ in range(30):
            try:
                await self._attempt(emit)
            except AppendFailed:
                self.world.faults["append_failed"] += 1
            except ManagerClosed:
                await asyncio.sleep(0.1)
            except UnknownConnection:
                self.answer(emit.emission, "failed")
                return False
            else:
                if self.rng.random() >= 0.08:
                    return True
                self.world.faults["retried_emit"] += 1
        return False

    async def _cancelled(self, attempt: Callable[[], Awaitable[None]]) -> bool:
        """Start an emit and cancel it some steps later; whether it was cut off in the middle."""

        async def guarded() -> None:
            with contextlib.suppress(AppendFailed, ManagerClosed, UnknownConnection):
                await attempt()

        task = asyncio.create_task(guarded())
        for _ in range(self.rng.randrange(6)):
            await asyncio.sleep(self.rng.choice((0.0, 0.0, 0.005)))
        task.cancel()
        await asyncio.wait([task])
        if task.cancelled():
            self.world.faults["cancelled_emit"] += 1
            return True
        return False

    # -- agent runs

    async def run_agents(self, count: int) -> None:
        for _ in range(count):
            await asyncio.sleep(self.rng.uniform(0.2, 3.0))
            await self._run_agent()

    async def _run_agent(self) -> None:
        rng, world = self.rng, self.world
        number = self.next_number()
        run_id = f"run{number}"
        manager = self._manager = world.manager
        if world.closing:
            return
        context = UserExecutionContext(user_id=self.user, run_id=run_id, thread_id=rng.choice(("t1", "t2")))
        labels = {"run_id": run_id, "thread_id": context.thread_id}
        agent = world.secrets.stamp(self.user, number)
        started = self.invoke(Key(number, "agent_started"), run_id, None, **labels)
        ended = self.invoke(Key(number, "agent_completed"), f"{run_id}/end", None, **labels)
        self.open_runs.append(run_id)

        entered = False

        async def agent_code() -> None:
            nonlocal entered
            entered = True
            try:
                async with manager.create_agent_bridge(context).run(agent) as run:
                    self._promised(started)
                    for _ in range(rng.randrange(1, 7)):
                        await self._step(run, run_id, labels)
                        await asyncio.sleep(rng.choice((0.0, 0.01, 0.3)))
                    if rng.random() < 0.15:
                        raise AgentCrash("the agent's own")
            except RunCancelled:
                world.record(RunStopped(world.loop.time(), self.user, run_id))
                world.faults["run_stopped_by_user"] += 1
            except AgentCrash:
                world.faults["agent_crash"] += 1

        task = asyncio.create_task(agent_code())
        if rng.random() < 0.2:
            await asyncio.sleep(rng.choice((0.0, 0.001, 0.02, 0.3)))
            if not task.done():
                task.cancel()
                world.faults["cancelled_run"] += 1
        await asyncio.wait([task])
        self.open_runs.remove(run_id)
        if entered:
            self._promised(ended)
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error

    def _promised(self, emission: Emission) -> None:
        if not self.world.closing and self.world.manager is self._manager:  # a server that stops promises no more
            self.answer(emission, "queued")

    async def _step(self, run: AgentRun, run_id: str, labels: dict[str, Any]) -> None:
        rng, secrets = self.rng, self.world.secrets
        number = self.next_number()
        stamp = secrets.stamp(self.user, number)
        match rng.randrange(4):
            case 0:
                data = {"stamp": stamp, "thought": "hm"}
                thought = self.invoke(Key(number, "agent_thinking"), run_id, data, **labels)
                await run.thinking("hm", stamp=stamp)
                self._promised(thought)
            case 1:
                executing = self.invoke(Key(number, "tool_executing"), run_id, None, **labels)
                completed = self.invoke(Key(number, "tool_completed"), f"{run_id}/tools", None, **labels)
                try:
                    async with run.tool(stamp, query="LIS") as tool:
                        self._promised(executing)
                        await asyncio.sleep(rng.choice((0.0, 0.05)))
                        tool.result = {"hits": number}
                finally:  # entered or cancelled while entering: it is told, so its end is too
                    self._promised(completed)
            case 2:
                self.invoke(Key(number, DELTA), f"{run_id}/text", None, **labels)
                whole = secrets.text(self.user, number, rng.randrange(10, 400))
                done = 0
                while done < len(whole):
                    step = rng.randrange(1, 40)
                    await run.delta(whole[done : done + step], message_id=stamp)
                    done += step
                    if rng.random() < 0.04:
                        await run.reset_message(stamp)  # a model that is asked again
                        done = 0
                        self.world.faults["message_reset"] += 1
                    if rng.random() < 0.5:
                        await asyncio.sleep(rng.choice((0.005, 0.03)))
            case _:
                child_run = f"{run_id}.{number}"
                child_labels = {**labels, "run_id": child_run}
                started = self.invoke(Key(number, "agent_started"), child_run, None, **child_labels)
                ended = self.invoke(Key(number, "agent_completed"), f"{child_run}/end", None, **child_labels)
                try:
                    async with run.child(stamp, run_id=child_run):
                        self._promised(started)
                        await asyncio.sleep(0.0)
                finally:
                    self._promised(ended)
