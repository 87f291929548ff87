"""Promise: whoever names every connection, thread, run, topic and cursor that there is, and is nobody of those whose
they are, receives nothing.

The strangers of `tests/hostile.py` are present in every integration test too. So it is also tested here that they
would notice: a judge who cannot find anybody guilty is none.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from bridge import UserExecutionContext
from tests.hostile import USERS, Names, Stranger, Strangers, beside
from tests.support import Tab, TroubledLog, a_manager, virtual_time
from websocket_core.cursor import LogCursor
from websocket_core.identity import LogName, UserId
from websocket_core.limits import Retention
from websocket_core.log import Batch, Entry, LogStore, Position
from websocket_core.logs.memory import MemoryLog
from websocket_core.outbound import Outbound
from websocket_core.runs import OpenRuns
from websocket_core.unified_manager import UnifiedWebSocketManager
from websocket_core.wire import event_frame

ALICE = LogName.of_user(UserId("alice"))


async def a_busy_day(manager: UnifiedWebSocketManager, *, seed: int = 0) -> None:
    """Runs, threads, addressed events, tabs that come and go, a revocation, a deletion."""
    rng = random.Random(seed)
    users = ["alice", "bob", "Alice", "alice ", "alice:1", "mallory ", "Mallory", "topic", "user"]
    stop = asyncio.Event()

    async def run(user: str) -> None:
        bridge = manager.create_agent_bridge(UserExecutionContext(user, f"r-{user}", "t1"))
        async with bridge.run("planner") as run:
            await run.thinking(f"secret of {user}")
            async with run.tool("search", query=user) as tool:
                await stop.wait()
                tool.result = user
            run.result = user

    async with asyncio.TaskGroup() as group:
        for user in users:
            group.create_task(run(user))
        for user in users:
            tab = await Tab.open(manager, user, "tab-1", v1=rng.random() < 0.5)
            emitter = manager.get_emitter(user)
            for n in range(10):
                await emitter.emit("custom", {"n": n}, thread_id=rng.choice(["t1", "t2", None]), run_id=f"r{n}")
            await emitter.emit("custom", {"n": "for one"}, connection_id="tab-1")
            await tab.has(2)
            if rng.random() < 0.5:
                await tab.cut()
        await manager.revoke("bob")
        await manager.delete_user("topic")
        await manager.disconnect_user("Alice", "tab-1")
        await manager.get_emitter("alice").emit("custom", {"n": "last"})
        stop.set()
    await manager.get_emitter("alice").emit("custom", {"n": "after all"})


@pytest.mark.parametrize("make_log", [MemoryLog, TroubledLog], ids=["memory", "every call suspends"])
@pytest.mark.parametrize("retention", [Retention(), Retention(events=4)], ids=["all is kept", "most is trimmed"])
@pytest.mark.parametrize("seed", range(2))
@virtual_time
async def test_who_names_everything_receives_nothing(
    make_log: Callable[[Retention], LogStore], retention: Retention, seed: int
) -> None:
    async with a_manager(make_log(retention)) as manager:
        strangers = await beside(manager, lambda: a_busy_day(manager, seed=seed))
        strangers.judge()
        assert len(strangers.all) >= 15
        assert sum(stranger.asked for stranger in strangers.all) > 30
        assert manager.metrics.isolation_violations == 0


@virtual_time
async def test_there_was_much_to_name() -> None:
    """Else the test above would prove little."""
    async with a_manager() as manager:
        await a_busy_day(manager)
        names = Names.of(manager)
        assert {"alice", "bob", "mallory "} <= set(names.users)
        assert not set(USERS) & set(names.users)
        assert "tab-1" in names.connections
        assert set(names.threads) == {"t1", "t2"}
        assert any(run.startswith("r-") for run in names.runs)
        assert len(names.cursors) == 12
        assert len(names.epochs) >= 8


@virtual_time
async def test_strangers_do_not_count_and_leave_nothing_behind() -> None:
    async with a_manager() as manager:
        before = manager.get_stats()

        async def work() -> None:
            assert manager.get_stats() == before

        tasks = asyncio.all_tasks()
        await beside(manager, work)
        assert asyncio.all_tasks() == tasks
        assert manager.get_stats() == before


@virtual_time
async def test_whose_run_it_is_decides_who_may_stop_it() -> None:
    async with a_manager() as manager:
        stopped: list[str] = []
        manager.runs.open(UserId("alice"), "r1", lambda: stopped.append("alice's"))
        manager.runs.open(UserId("mallory"), "r2", lambda: stopped.append("mallory's"))
        tab = await Tab.open(manager, "mallory")
        for frame in (
            {"run_id": "r1"},
            {"run_id": "r1", "user_id": "alice"},
            {"run_id": ["r1"]},
            {"run_id": None},
            {"run_id": "alice:r1"},
            {"run_id": "nobody's"},
        ):
            tab.socket.client_sends({"type": "cancel", **frame})
        tab.socket.client_sends({"type": "cancel", "run_id": "r2"})
        await tab.socket.wait_for(lambda socket: any(frame["type"] == "ack" for frame in socket.frames))
        answers = [(frame.get("code"), frame.get("message")) for frame in tab.socket.of_type("error")]
        assert len({answer for answer in answers if answer[0] == "not_found"}) == 1, "hers and nobody's look the same"
        assert {code for code, _ in answers} == {"not_found", "invalid"}
        assert stopped == ["mallory's"]


# -- the judge would notice


class _Relabelling(MemoryLog):
    """Hands out Alice's entries as those of whoever asks: a store that mixes up its keys from top to bottom."""

    async def read(self, log: LogName, after: Position | None, limit: int) -> Batch:
        if log.name not in USERS:
            return await super().read(log, after, limit)
        batch = await super().read(ALICE, None, limit)
        entries = [entry._replace(log=log) for entry in batch.entries]
        return batch._replace(entries=entries)


class _Mixing(MemoryLog):
    """Hands out Alice's entries as they are."""

    async def read(self, log: LogName, after: Position | None, limit: int) -> Batch:
        return await super().read(ALICE if log.name in USERS else log, after, limit)


class _FindingByCursor(MemoryLog):
    """Takes a cursor for an address: it reads the log in which the position is found."""

    async def read(self, log: LogName, after: Position | None, limit: int) -> Batch:
        for name, held in self._logs.items():
            if after is not None and held.epoch == after.epoch:
                batch = await super().read(name, after._replace(offset=0, mark=""), limit)
                return batch._replace(start=after, entries=[entry._replace(log=log) for entry in batch.entries])
        return await super().read(log, after, limit)


class _Globbing(MemoryLog):
    """Takes the name of a log for a pattern."""

    async def read(self, log: LogName, after: Position | None, limit: int) -> Batch:
        found = ALICE if log.name.endswith("*") else log
        batch = await super().read(found, after, limit)
        return batch._replace(entries=[entry._replace(log=log) for entry in batch.entries])


class _Telling(MemoryLog):
    """Tells somebody who is not there yet where Alice stands, and nothing else."""

    async def read(self, log: LogName, after: Position | None, limit: int) -> Batch:
        if log.name not in USERS:
            return await super().read(log, after, limit)
        held = self._logs[ALICE]
        return Batch(Position(held.epoch, held.head, held.mark), (), False, None)


LEAKS: dict[str, Callable[[], LogStore]] = {
    "relabelled": _Relabelling,
    "mixed": _Mixing,
    "found by its cursor": _FindingByCursor,
    "matched as a pattern": _Globbing,
    "told of its position": _Telling,
}


async def emit_for_alice(manager: UnifiedWebSocketManager) -> None:
    for n in range(3):
        await manager.get_emitter("alice").emit("custom", {"n": n})


@pytest.mark.parametrize("leak", LEAKS)
@virtual_time
async def test_a_log_that_leaks_is_noticed(leak: str) -> None:
    async with a_manager(LEAKS[leak]()) as manager:
        await emit_for_alice(manager)
        strangers = Strangers(manager)
        try:
            await strangers.come()
            await emit_for_alice(manager)
            await strangers.name_everything()
        except AssertionError:
            pass  # not all were answered, since some of them were closed
        finally:
            await strangers.leave()
        with pytest.raises(AssertionError):
            strangers.judge()


@virtual_time
async def test_a_run_that_strangers_can_stop_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        OpenRuns, "cancel", lambda runs, _user, run_id: any(run_id in own for own in runs._runs.values())
    )
    async with a_manager() as manager:
        manager.runs.open(UserId("alice"), "r1", lambda: None)
        strangers = await beside(manager, lambda: emit_for_alice(manager))
        with pytest.raises(AssertionError, match="ack"):
            strangers.judge()


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "custom", "data": {}, "id": "x", "user_id": "alice"},
        {"type": "custom", "data": {}, "id": "x", "user_id": "mallory"},
        {"type": "provisional", "event": {}},
        {"type": "subscribed", "topic": "alice"},
        {"type": "ack"},
        {"type": "connected", "user_id": "alice"},
        {"type": "gap", "reason": "trimmed", "cursor": "hers.1.x"},
        {"type": "pong", "cursor": "hers.0."},
        {"type": "error", "code": "internal"},
        {"type": "error", "code": "limit"},
    ],
    ids=lambda frame: f"{frame['type']} {frame.get('user_id') or frame.get('code') or ''}",
)
async def test_a_frame_that_no_stranger_may_be_sent_is_noticed(frame: dict[str, Any]) -> None:
    stranger = Stranger("mallory")
    stranger.judge({"hers"})
    await stranger.socket.send_text(json.dumps({"type": "gap", "reason": "trimmed", "cursor": "his.0."}))
    stranger.judge({"hers"})
    await stranger.socket.send_text(json.dumps(frame))
    with pytest.raises(AssertionError):
        stranger.judge({"hers"})


async def test_a_stranger_who_was_closed_for_a_defect_is_noticed() -> None:
    stranger = Stranger("mallory")
    await stranger.socket.close(1011)
    with pytest.raises(AssertionError, match="1011"):
        stranger.judge(set())


# -- both checks away, the strangers remain


@virtual_time
async def test_without_the_two_checks_a_mixed_up_log_reaches_the_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """That the checks are what keeps it from them, and that without those the judge finds the events themselves."""

    def advance(cursor: LogCursor, batch: Batch) -> list[Any]:
        cursor.position = batch.entries[-1].position if batch.entries else batch.start
        return list(batch.entries)

    def render(_outbound: Outbound, entry: Entry) -> str:
        return event_frame(entry)

    async with a_manager(_Mixing()) as manager:
        await emit_for_alice(manager)
        strangers = Strangers(manager)
        await strangers.come()
        await asyncio.sleep(1.0)
        assert all(stranger.socket.close_code == 1011 for stranger in strangers.all)
        assert all(stranger.socket.events == [] for stranger in strangers.all)
        await strangers.leave()
        monkeypatch.setattr(LogCursor, "advance", advance)
        monkeypatch.setattr(Outbound, "_render", render)
        strangers = Strangers(manager)
        await strangers.come()
        await asyncio.sleep(1.0)
        with pytest.raises(AssertionError, match="was sent events"):
            strangers.judge()
        await strangers.leave()
