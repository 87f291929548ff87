"""The manager: its life over loops and restarts, limits, emitters, hooks, drain, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import threading
from typing import Any

import pytest

from bridge import AgentWebSocketBridge, UserExecutionContext
from tests.support import (
    FakeSocket,
    Tab,
    TroubledLog,
    a_manager,
    check_runs,
    entries_of,
    events_of,
    turns,
    until,
    virtual_time,
)
from websocket_core.connection import ConnectionState, WebSocketConnection
from websocket_core.errors import (
    ConnectionRefused,
    InvalidConfiguration,
    InvalidInput,
    InvalidUserId,
    LogUnavailable,
    MalformedCursor,
    ManagerClosed,
    UnknownConnection,
    WrongEventLoop,
)
from websocket_core.identity import LogName, Principal
from websocket_core.limits import Limits, Retention
from websocket_core.log import Position
from websocket_core.logs.memory import MemoryLog
from websocket_core.metrics import Metrics
from websocket_core.testing import SuspendingLog
from websocket_core.unified_manager import UnifiedWebSocketManager
from websocket_core.wire import encode_cursor

NOTHING = {"total_users": 0, "total_connections": 0, "active_emitters": 0, "heartbeat_tasks": 0}


def tasks_of_ours() -> list[str]:
    return sorted(task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("websocket_core"))


# -- being made


def test_making_a_manager_needs_no_loop_and_starts_nothing() -> None:
    manager = a_manager()
    assert manager.get_stats() == NOTHING
    emitter = manager.get_emitter("alice")
    assert manager.get_emitter("alice") is emitter
    manager.create_agent_bridge(UserExecutionContext("alice"))
    assert manager.outbox("alice") is manager.outbox("alice")


@pytest.mark.parametrize("log", ["redis:/", "memory:", "MEMORY://", "", "postgres://user:secret@host/db"])
def test_an_unknown_log_is_refused_without_its_credentials(log: str) -> None:
    with pytest.raises(InvalidConfiguration) as refused:
        a_manager(log)
    assert "secret" not in str(refused.value)


def test_managers_share_nothing_but_the_metrics_of_the_process() -> None:
    first, second = UnifiedWebSocketManager(), UnifiedWebSocketManager()
    assert first.metrics is second.metrics
    assert first.get_emitter("alice") is not second.get_emitter("alice")
    assert (first.runs, first.encoder, first.appender) != (second.runs, second.encoder, second.appender)


async def test_events_of_one_manager_do_not_reach_the_connections_of_another() -> None:
    async with a_manager() as first, a_manager() as second:
        tab, other = await Tab.open(first, "alice"), await Tab.open(second, "alice")
        await first.get_emitter("alice").emit("x", {"n": 1})
        await tab.has(1)
        await turns()
        assert other.events == []


# -- life


async def test_a_manager_lives_as_long_as_its_async_with() -> None:
    manager = a_manager()
    async with manager as entered:
        assert entered is manager
        assert tasks_of_ours() == ["websocket_core sweeper"]
        tab = await Tab.open(manager, "alice")
        await tab.greeted()
        assert manager.get_stats() == NOTHING | {"total_users": 1, "total_connections": 1, "heartbeat_tasks": 1}
    assert tasks_of_ours() == []
    assert manager.get_stats() == NOTHING
    assert await tab.ended() == 1012


async def test_a_manager_ends_with_an_application_by_its_lifespan() -> None:
    manager = a_manager()
    async with manager.lifespan(object()):
        tab = await Tab.open(manager, "alice")
        await manager.get_emitter("alice").emit("x", {"n": 1})
    assert tab.numbers == [1]
    assert await tab.ended() == 1012
    assert tasks_of_ours() == []


async def test_an_error_in_the_block_passes_and_the_manager_is_shut_down() -> None:
    manager = a_manager()
    with pytest.raises(KeyError):
        async with manager:
            raise KeyError
    assert tasks_of_ours() == []
    with pytest.raises(ManagerClosed):
        await manager.get_emitter("alice").emit("x", {})


async def test_without_either_the_first_connect_starts_what_is_needed() -> None:
    manager = a_manager()
    assert tasks_of_ours() == []
    await manager.get_emitter("alice").emit("x", {"n": 1})
    tab = await Tab.open(manager, "alice")
    await tab.has(1)
    assert "websocket_core sweeper" in tasks_of_ours()
    await manager.shutdown()
    assert tasks_of_ours() == []


async def test_after_a_shutdown_connecting_and_emitting_are_refused() -> None:
    manager = a_manager()
    async with manager:
        pass
    socket = FakeSocket()
    with pytest.raises(ManagerClosed):
        await manager.connect_user(socket, "alice")
    for emit in (manager.get_emitter("alice").emit("x", {}), manager.emit_critical_event("alice", "x", {})):
        with pytest.raises(ManagerClosed):
            await emit
    assert (socket.frames, socket.close_code, manager.get_stats()["total_connections"]) == ([], None, 0)


async def test_a_manager_may_be_started_again_and_its_logs_are_still_there() -> None:
    manager = a_manager()
    for number in range(3):
        async with manager:
            await manager.get_emitter("alice").emit("x", {"n": number})
            tab = await Tab.open(manager, "alice")
            await tab.has(number + 1)
    assert tab.numbers == [0, 1, 2]


async def test_shutting_down_twice_or_unstarted_is_nothing() -> None:
    manager = a_manager()
    await manager.shutdown()
    await manager.shutdown()
    async with manager:
        await manager.shutdown()
    assert tasks_of_ours() == []


@virtual_time
async def test_a_shutdown_delivers_what_was_emitted_before_it() -> None:
    manager = a_manager(SuspendingLog(MemoryLog()))
    async with manager:
        tabs = [await Tab.open(manager, "alice", v1=v1) for v1 in (False, True)]
        for number in range(500):
            await manager.get_emitter("alice").emit("x", {"n": number})
        bridge = manager.create_agent_bridge(UserExecutionContext("alice"))
        bridge_outbox = manager.outbox("alice")
        async with bridge.run("a"):
            pass
    assert len(bridge_outbox) == 0
    for tab in tabs:
        assert [event["data"].get("n") for event in tab.events] == [*range(500), None, None]
        assert await tab.ended() == 1012


@virtual_time
async def test_a_socket_that_hangs_holds_up_a_shutdown_no_longer_than_allowed() -> None:
    loop = asyncio.get_running_loop()
    manager = a_manager(limits=Limits(shutdown_timeout=3.0))
    async with manager:
        hanging, other = await Tab.open(manager, "alice"), await Tab.open(manager, "bob")
        await hanging.greeted()
        hanging.socket.block()
        await manager.get_emitter("alice").emit("x", {"n": 1})
        await manager.get_emitter("bob").emit("x", {"n": 1})
        began = loop.time()
    assert loop.time() - began == pytest.approx(3.0, abs=1.1)
    assert await other.ended() == 1012
    assert (other.numbers, hanging.numbers) == ([1], [])
    assert tasks_of_ours() == []
    assert manager.get_stats() == NOTHING
    assert not hanging.connection.is_healthy
    await hanging.serving


@virtual_time
async def test_a_log_that_is_away_holds_up_a_shutdown_no_longer_than_allowed() -> None:
    log = TroubledLog()
    manager = a_manager(log, limits=Limits(shutdown_timeout=3.0))
    loop = asyncio.get_running_loop()
    async with manager:
        for trouble in ("refuse", "hang"):
            log.trouble = trouble
            async with manager.create_agent_bridge(UserExecutionContext(trouble)).run("a") as run:
                await run.thinking("hm")
        began = loop.time()
    assert loop.time() - began == pytest.approx(2.25, abs=0.6), "three quarters: the rest is for the clients"
    assert tasks_of_ours() == []


@virtual_time
async def test_a_log_that_takes_nothing_leaves_time_to_tell_the_clients() -> None:
    class Slow(FakeSocket):
        async def send_text(self, data: str) -> None:
            await asyncio.sleep(0.4)
            await super().send_text(data)

        async def close(self, code: int = 1000, reason: str = "") -> None:
            await asyncio.sleep(0.4)
            await super().close(code, reason)

    log = TroubledLog()
    async with a_manager(log, limits=Limits(shutdown_timeout=4.0)) as manager:
        tab = await Tab.open(manager, "alice", socket=Slow())
        for n in range(5):
            await manager.get_emitter("alice").emit("x", {"n": n})
        log.trouble = "hang"
        async with manager.create_agent_bridge(UserExecutionContext("bob")).run("a") as run:
            await run.thinking("hm")
    assert tab.numbers == [0, 1, 2, 3, 4]
    assert await tab.ended() == 1012


@virtual_time
async def test_a_run_that_outlives_the_manager_starts_no_task_and_sees_no_error() -> None:
    log = TroubledLog()
    manager = a_manager(log, limits=Limits(shutdown_timeout=1.0))
    steps = 0

    async def agent(name: str) -> None:
        nonlocal steps
        async with manager.create_agent_bridge(UserExecutionContext(name)).run("a") as run:
            for _ in range(300):
                await run.thinking("hm")
                steps += 1
                await asyncio.sleep(0.01)

    async with manager:
        log.trouble = "refuse"
        agents = [asyncio.create_task(agent(f"user {number}")) for number in range(5)]
        await asyncio.sleep(0.5)
    assert tasks_of_ours() == [], "while all five still run"
    await asyncio.gather(*agents)
    assert steps == 5 * 300
    assert tasks_of_ours() == []


async def test_runs_that_put_events_at_every_turn_of_the_loop_start_no_task_while_the_manager_ends() -> None:
    """Ending several pumps takes a few turns, in which other runs of the same users still put events."""
    log = TroubledLog()
    manager = a_manager(log, limits=Limits(shutdown_timeout=0.05))
    going = True

    async def agent(name: str) -> None:
        async with manager.create_agent_bridge(UserExecutionContext(name)).run("a") as run:
            while going:
                await run.thinking("hm")
                await asyncio.sleep(0)

    async with manager:
        log.trouble = "refuse"
        agents = [asyncio.create_task(agent(f"user {number % 4}")) for number in range(8)]
        await until(lambda: manager.outbox("user 3").failing)
    assert tasks_of_ours() == []
    await turns()
    assert tasks_of_ours() == [], "also later, while all of them still run"
    going = False
    await asyncio.gather(*agents)
    assert tasks_of_ours() == []


@virtual_time
async def test_a_slow_log_finishes_what_waits_before_the_manager_ends() -> None:
    log = TroubledLog()
    manager = a_manager(log)
    async with manager:
        log.trouble = "refuse"
        async with manager.create_agent_bridge(UserExecutionContext("alice")).run("a") as run:
            for _ in range(10):
                await run.thinking("hm")
        asyncio.get_running_loop().call_later(4.0, log.recover)
    check_runs(await events_of(log, "alice"))
    assert len(await events_of(log, "alice")) == 12


# -- loops


def test_one_manager_serves_one_loop_after_another() -> None:
    """Old tests and scripts call `asyncio.run` more than once."""
    manager = a_manager()

    async def use(number: int) -> list[int]:
        tab = await Tab.open(manager, "alice")
        await manager.get_emitter("alice").emit("x", {"n": number})
        await tab.has(number + 1)
        numbers = tab.numbers
        await tab.cut()
        return numbers

    assert asyncio.run(use(0)) == [0]
    assert asyncio.run(use(1)) == [0, 1]
    assert asyncio.run(use(2)) == [0, 1, 2]
    assert manager.get_stats() == NOTHING


def test_a_loop_that_ends_with_connections_open_leaves_none_behind() -> None:
    manager = a_manager()

    async def leave_open() -> Tab:
        tab = await Tab.open(manager, "alice")
        await tab.greeted()
        return tab

    tab = asyncio.run(leave_open())
    assert manager.get_stats() == NOTHING, "the loop cancelled its tasks, and the connection went with them"
    assert tab.connection.state is ConnectionState.CLOSED
    asyncio.run(manager.shutdown())


GONE = """
import asyncio, json, sys
sys.path[:0] = %r
from websocket_core import UnifiedWebSocketManager
from websocket_core.metrics import Metrics
from websocket_core.testing import FakeSocket
from bridge import UserExecutionContext

metrics = Metrics()
manager = UnifiedWebSocketManager(metrics=metrics)
keep = []

async def first():
    keep.append(await manager.connect_user(FakeSocket(), "alice", "tab"))
    keep.append(await manager.connect_user(FakeSocket(), "alice", "another"))
    async def agent():
        async with manager.create_agent_bridge(UserExecutionContext("alice", "r1")).run("a"):
            await asyncio.sleep(1000)
    keep.append(asyncio.create_task(agent()))
    await asyncio.sleep(0.05)

loop = asyncio.new_event_loop()
loop.run_until_complete(first())
loop.close()  # without cancelling anything

async def second():
    positions = [await manager.get_emitter("alice").emit("x", {"n": n}) for n in range(3)]
    socket = FakeSocket()
    connection = await manager.connect_user(socket, "alice", "tab")
    await socket.wait_for(4)
    print([position.offset for position in positions], [event["type"] for event in socket.events])
    print(manager.get_stats()["total_connections"], metrics.connections, len(manager.runs))
    print(manager.runs.cancel("alice", "r1"))
    await manager.shutdown()
    print(socket.close_code, manager.get_stats()["total_connections"], metrics.connections)

asyncio.run(second())
"""


def test_a_loop_that_was_closed_under_its_connections_is_replaced() -> None:
    """No emit fails because of a socket whose loop has gone, and nothing of it is counted any more."""
    done = subprocess.run(
        [sys.executable, "-c", GONE % (sys.path,)], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.stdout.splitlines() == [
        "[2, 3, 4] ['agent_started', 'x', 'x', 'x']",
        "1 1 0",
        "False",
        "1012 0 0",
    ], done.stderr


async def test_a_manager_serves_no_second_loop_while_the_first_is_running() -> None:
    manager = a_manager()
    raised: list[BaseException] = []

    def elsewhere() -> None:
        for use in (manager.connect_user(FakeSocket(), "bob"), manager.__aenter__(), manager.shutdown()):
            try:
                asyncio.run(use)
            except BaseException as error:
                raised.append(error)

    async with manager:
        tab = await Tab.open(manager, "alice")
        thread = threading.Thread(target=elsewhere)
        thread.start()
        await until(lambda: not thread.is_alive())
        thread.join()
        assert [type(error) for error in raised] == [WrongEventLoop] * 3
        await manager.get_emitter("alice").emit("x", {"n": 1})
        await tab.has(1)
        assert manager.get_stats()["total_connections"] == 1


# -- emitters


async def test_an_emitter_is_the_same_while_somebody_holds_it_and_gone_when_nobody_does() -> None:
    async with a_manager() as manager:
        emitter = manager.get_emitter("alice")
        assert manager.get_emitter("alice") is emitter
        assert manager.get_emitter("Alice") is not emitter
        assert emitter.user_id == "alice"
        await emitter.emit("x", {})
        gc.collect()
        assert manager.get_stats()["active_emitters"] == 1
        del emitter
        gc.collect()
        assert manager.get_stats()["active_emitters"] == 0
        assert manager.get_emitter("alice").get_stats()["total_events"] == 0


@pytest.mark.parametrize("first", ["emitter", "connection"])
async def test_an_emitter_is_kept_while_its_user_is_connected(first: str) -> None:
    async with a_manager() as manager:
        emitter = manager.get_emitter("alice") if first == "emitter" else None
        tabs = [await Tab.open(manager, "alice") for _ in range(2)]
        await (emitter or manager.get_emitter("alice")).emit("x", {})
        del emitter
        for tab in tabs:
            gc.collect()
            assert manager.get_emitter("alice").get_stats()["total_events"] == 1
            await tab.cut()
        gc.collect()
        assert manager.get_stats() == NOTHING


async def test_an_emitter_that_is_held_works_on_after_the_last_connection_went() -> None:
    async with a_manager() as manager:
        tab = await Tab.open(manager, "alice")
        emitter = manager.get_emitter("alice")
        await tab.cut()
        await emitter.emit("x", {"n": 1})
        assert manager.get_emitter("alice") is emitter
        later = await Tab.open(manager, "alice")
        await later.has(1)
        assert later.numbers == [1]


async def test_a_thousand_users_who_came_and_went_leave_nothing() -> None:
    async with a_manager() as manager:
        for number in range(1_000):
            tab = await Tab.open(manager, f"user {number}")
            manager.get_emitter(f"user {number}")
            await tab.cut()
        gc.collect()
        assert manager.get_stats() == NOTHING
        assert tasks_of_ours() == ["websocket_core sweeper"]
        assert len(manager._outboxes) == 0


@pytest.mark.parametrize("user_id", ["", "a\n", "\ud800", "x" * 257, None, 5, b"alice"])
async def test_every_verb_refuses_what_is_no_user_id(user_id: Any) -> None:
    async with a_manager() as manager:
        socket = FakeSocket()
        for call in (
            manager.connect_user(socket, user_id),
            manager.disconnect_user(user_id),
            manager.emit_critical_event(user_id, "x", {}),
            manager.head(user_id),
            manager.delete_user(user_id),
        ):
            with pytest.raises(InvalidUserId):
                await call
        for use in (manager.get_emitter, manager.outbox):
            with pytest.raises(InvalidUserId):
                use(user_id)
        with pytest.raises(InvalidUserId):
            manager.create_agent_bridge(UserExecutionContext(user_id))
        assert (socket.frames, socket.close_code, manager.get_stats()) == ([], None, NOTHING)


async def test_a_critical_event_is_the_same_as_the_emitters() -> None:
    log = MemoryLog()
    async with a_manager(log) as manager:
        position = await manager.emit_critical_event("alice", "agent_thinking", {"thought": "hm"})
        assert position == await manager.head("alice")
        with pytest.raises(UnknownConnection):
            await manager.emit_critical_event("alice", "x", {}, connection_id="tab")
        await Tab.open(manager, "alice", "tab")
        await manager.emit_critical_event("alice", "x", {}, "tab")
        assert [entry.event.connection_id for entry in await entries_of(log, "alice")] == [None, "tab"]


def test_a_bridge_is_made_for_the_context() -> None:
    bridge = a_manager().create_agent_bridge(UserExecutionContext("alice", "r1", "t1"))
    assert type(bridge) is AgentWebSocketBridge
    assert (bridge.user_id, bridge.run_id, bridge.thread_id) == ("alice", "r1", "t1")


# -- connecting


async def test_a_connection_has_what_it_was_given_and_an_id_of_its_own_otherwise() -> None:
    async with a_manager(clock=lambda: 1_795_000_000.0) as manager:
        socket = FakeSocket()
        connection = await manager.connect_user(socket, "alice", thread_id="t1")
        assert (connection.websocket, connection.user_id, connection.thread_id) == (socket, "alice", "t1")
        assert connection.created_at.isoformat() == "2026-11-18T11:06:40+00:00"
        assert connection.is_healthy
        ids = {(await manager.connect_user(FakeSocket(), f"user {n}")).connection_id for n in range(100)}
        assert len(ids) == 100
        assert all(len(each) == 12 for each in ids)


@pytest.mark.parametrize("connection_id", ["", "a\n", "\ud800", "x" * 257, 5, b"tab"])
async def test_what_is_no_connection_id_is_refused_before_anything_happens(connection_id: Any) -> None:
    async with a_manager() as manager:
        socket = FakeSocket()
        with pytest.raises(InvalidInput, match="connection id"):
            await manager.connect_user(socket, "alice", connection_id)
        assert (socket.frames, socket.close_code, manager.get_stats()) == ([], None, NOTHING)


@pytest.mark.parametrize("cursor", ["", "x", "e.1", "Latest", "e.1.m\n", "\ud800"])
async def test_what_is_no_cursor_is_refused_before_anything_happens(cursor: str) -> None:
    async with a_manager() as manager:
        socket = FakeSocket()
        with pytest.raises(MalformedCursor):
            await manager.connect_user(socket, "alice", cursor=cursor)
        assert (socket.frames, socket.close_code, manager.get_stats()) == ([], None, NOTHING)


@pytest.mark.parametrize("user_id", ["bob", "Alice", "alice ", ""])
async def test_a_principal_of_another_user_is_refused(user_id: str) -> None:
    async with a_manager() as manager:
        with pytest.raises(InvalidInput):
            await manager.connect_user(FakeSocket(), user_id, principal=Principal("alice"))
        assert manager.get_stats() == NOTHING


async def test_a_connection_of_the_same_id_is_replaced() -> None:
    async with a_manager() as manager:
        first = await Tab.open(manager, "alice", "tab")
        other = await Tab.open(manager, "bob", "tab")
        second = await Tab.open(manager, "alice", "tab")
        assert await first.ended() == 4409
        await manager.get_emitter("alice").emit("x", {"n": 1})
        await second.has(1)
        assert manager.get_stats()["total_connections"] == 2
        assert other.socket.close_code is None


@pytest.mark.parametrize("log", ["memory://", "suspending"])
async def test_the_users_oldest_makes_room_also_when_many_come_at_once(log: str) -> None:
    metrics = Metrics()
    async with a_manager(
        SuspendingLog(MemoryLog(), turns=3) if log == "suspending" else log,
        limits=Limits(connections_per_user=3),
        metrics=metrics,
    ) as manager:
        other = await Tab.open(manager, "bob")
        names = [f"{name}" for name in "zyxwvutsrq"]
        tabs = await asyncio.gather(*[Tab.open(manager, "alice", name) for name in names])
        assert manager.get_stats()["total_connections"] == 4
        assert [await tab.ended() for tab in tabs[:7]] == [4409] * 7
        assert [tab.connection.connection_id for tab in tabs if tab.socket.close_code is None] == ["s", "r", "q"]
        assert other.socket.close_code is None
        assert (metrics.evictions, metrics.connections) == (7, 4)
        await manager.get_emitter("alice").emit("x", {"n": 1})
        for tab in tabs[7:]:
            await tab.has(1)


@pytest.mark.parametrize("log", ["memory://", "suspending"])
async def test_above_the_limit_of_all_the_newcomer_is_refused(log: str) -> None:
    metrics = Metrics()
    async with a_manager(
        SuspendingLog(MemoryLog()) if log == "suspending" else log, limits=Limits(connections=3), metrics=metrics
    ) as manager:
        tabs = [await Tab.open(manager, f"user {number}") for number in range(3)]
        sockets = [FakeSocket() for _ in range(5)]
        refusals = await asyncio.gather(
            *[manager.connect_user(socket, f"new {number}") for number, socket in enumerate(sockets)],
            return_exceptions=True,
        )
        assert [(type(error), getattr(error, "code", None)) for error in refusals] == [(ConnectionRefused, 1013)] * 5
        assert [(socket.close_code, socket.frames) for socket in sockets] == [(1013, [])] * 5
        assert (manager.get_stats()["total_connections"], metrics.refusals) == (3, 5)
        await tabs[0].cut()
        await Tab.open(manager, "new")
        assert manager.get_stats()["total_connections"] == 3


async def test_a_log_that_is_away_refuses_a_connection_and_keeps_nothing_of_it() -> None:
    class Away(MemoryLog):
        watching = 0

        async def open(self, log: LogName) -> Position:
            raise LogUnavailable("away")

        def watch(self, log: LogName, wake: Any) -> Any:
            self.watching += 1
            unwatch = super().watch(log, wake)

            def end() -> None:
                self.watching -= 1
                unwatch()

            return end

    log = Away()
    async with a_manager(log) as manager:
        with pytest.raises(LogUnavailable):
            await manager.connect_user(FakeSocket(), "alice")
        await turns()
        assert manager.get_stats() == NOTHING
        assert log.watching == 0
        assert tasks_of_ours() == ["websocket_core sweeper"]


async def test_a_client_that_is_gone_before_the_first_write_is_not_kept_for_ever() -> None:
    """`serve` ends before the writer had its first turn; a task that is cancelled then runs nothing of its own."""
    log = MemoryLog()
    metrics = Metrics()
    left: list[str] = []

    async def note(connection: WebSocketConnection) -> None:
        left.append(connection.connection_id)

    async with a_manager(log, metrics=metrics, on_disconnect=note) as manager:
        for number in range(3):
            socket = FakeSocket()
            socket.client_leaves()
            connection = await manager.connect_user(socket, "alice", str(number))
            await connection.serve()
            assert connection.state is ConnectionState.CLOSED
        await turns()
        assert manager.get_stats() == NOTHING
        assert metrics.connections == 0
        assert left == ["0", "1", "2"]
        assert log._get(LogName("user", "alice")).watchers == ()


async def test_an_endpoint_that_is_cancelled_while_it_connects_keeps_nothing() -> None:
    log = SuspendingLog(MemoryLog(), turns=5)
    async with a_manager(log) as manager:
        for wait in range(12):
            task = asyncio.create_task(manager.connect_user(FakeSocket(), "alice"))
            await turns(wait)
            if task.done():
                await manager.disconnect_user("alice")
                continue
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await until(lambda: tasks_of_ours() == ["websocket_core sweeper"])
        assert manager.get_stats() == NOTHING


async def test_the_head_is_where_a_snapshot_is_continued_from() -> None:
    async with a_manager() as manager:
        empty = await manager.head("alice")
        assert (empty.offset, empty.mark) == (0, "")
        assert await manager.head("alice") == empty
        position = await manager.get_emitter("alice").emit("x", {"n": 1})
        head = await manager.head("alice")
        assert head == position
        await manager.get_emitter("alice").emit("x", {"n": 2})
        tab = await Tab.open(manager, "alice", cursor=encode_cursor(head))
        await tab.has(1)
        assert tab.numbers == [2]
        assert (await tab.greeted())["resumed"] is True
        assert (await manager.head("bob")).epoch != empty.epoch


# -- disconnecting


async def test_disconnecting_a_user_closes_that_users_connections_alone() -> None:
    async with a_manager() as manager:
        tabs = [await Tab.open(manager, "alice", name) for name in ("a", "b")]
        others = [await Tab.open(manager, "bob", "a"), await Tab.open(manager, "Alice", "a")]
        await manager.disconnect_user("alice")
        assert manager.get_stats()["total_connections"] == 2, "at once"
        assert [await tab.ended() for tab in tabs] == [1000, 1000]
        assert [tab.socket.close_code for tab in others] == [None, None]


async def test_disconnecting_one_connection_leaves_the_others() -> None:
    async with a_manager() as manager:
        tabs = {name: await Tab.open(manager, "alice", name) for name in ("a", "b", "A")}
        await manager.disconnect_user("alice", "a")
        assert await tabs["a"].ended() == 1000
        await turns()
        assert [tabs[name].socket.close_code for name in ("b", "A")] == [None, None]
        for connection_id in ("a", "nobody", ""):
            await manager.disconnect_user("alice", connection_id)
        await manager.disconnect_user("nobody")
        assert manager.get_stats()["total_connections"] == 2


@virtual_time
async def test_what_was_emitted_before_an_eviction_is_not_lost_to_the_next_connection() -> None:
    async with a_manager() as manager:
        first = await Tab.open(manager, "alice", "tab")
        await manager.get_emitter("alice").emit("x", {"n": 1})
        await first.has(1)
        cursor = first.cursor
        await manager.get_emitter("alice").emit("x", {"n": 2})
        second = await Tab.open(manager, "alice", "tab", cursor=cursor)
        await second.has(1)
        assert second.numbers == [2]
        await first.ended()


async def test_a_deleted_user_is_forgotten_and_nobody_else_is() -> None:
    log = MemoryLog()
    async with a_manager(log) as manager:
        tab, other = await Tab.open(manager, "alice", "tab"), await Tab.open(manager, "bob", "tab")
        for name in ("alice", "bob"):
            await manager.get_emitter(name).emit("x", {"n": 1})
        await tab.has(1)
        await other.has(1)
        before = await manager.head("alice")
        cursor = tab.cursor
        await manager.delete_user("alice")
        assert await tab.ended() == 1000
        assert other.socket.close_code is None
        after = await manager.head("alice")
        assert after.epoch != before.epoch
        assert after.offset == 0
        with pytest.raises(UnknownConnection):
            await manager.emit_critical_event("alice", "x", {}, "tab")
        await manager.emit_critical_event("bob", "x", {"n": 2}, "tab")
        back = await Tab.open(manager, "alice", cursor=cursor)
        assert (await back.greeted())["resumed"] is False
        await until(lambda: back.socket.of_type("gap"))
        assert back.socket.of_type("gap")[0]["reason"] == "new_epoch"
        assert back.events == []
        assert len(await entries_of(log, "bob")) == 2


# -- hooks


async def test_the_hooks_are_told_of_each_connection_once() -> None:
    told: list[tuple[str, str]] = []

    async def connected(connection: WebSocketConnection) -> None:
        await asyncio.sleep(0)
        told.append(("connected", connection.connection_id))

    async def disconnected(connection: WebSocketConnection) -> None:
        told.append(("disconnected", connection.connection_id))

    async with a_manager(on_connect=connected, on_disconnect=disconnected) as manager:
        tab = await Tab.open(manager, "alice", "a")
        assert told == [("connected", "a")], "before connect_user returns"
        await tab.cut()
        await until(lambda: len(told) == 2)
        await Tab.open(manager, "alice", "b")
        await manager.disconnect_user("alice")
        await until(lambda: len(told) == 4)
        await Tab.open(manager, "alice", "c")
        await Tab.open(manager, "alice", "c")
        await until(lambda: len(told) == 7)
    assert told == [
        ("connected", "a"),
        ("disconnected", "a"),
        ("connected", "b"),
        ("disconnected", "b"),
        ("connected", "c"),
        ("connected", "c"),
        ("disconnected", "c"),
        ("disconnected", "c"),
    ]


@pytest.mark.parametrize("suspends", [False, True])
async def test_a_connect_hook_that_fails_ends_the_connection(suspends: bool) -> None:
    """The error reaches the endpoint, which is not left with a connection that nobody serves."""
    metrics = Metrics()

    async def fail(connection: WebSocketConnection) -> None:
        if suspends:
            await turns()
        raise ValueError("not welcome")

    async with a_manager(on_connect=fail, metrics=metrics) as manager:
        socket = FakeSocket()
        with pytest.raises(ValueError, match="not welcome"):
            await manager.connect_user(socket, "alice")
        await turns()
        assert manager.get_stats() == NOTHING
        assert metrics.connections == 0
        assert tasks_of_ours() == ["websocket_core sweeper"]
        await manager.get_emitter("alice").emit("x", {})
        await turns()
        assert socket.events == []


async def test_a_disconnect_hook_that_fails_is_logged_and_harms_nothing(caplog: pytest.LogCaptureFixture) -> None:
    called = 0

    async def fail(connection: WebSocketConnection) -> None:
        nonlocal called
        called += 1
        raise ValueError("hook")

    async with a_manager(on_disconnect=fail) as manager:
        tabs = [await Tab.open(manager, "alice") for _ in range(3)]
        with caplog.at_level(logging.ERROR):
            for tab in tabs:
                await tab.cut()
            await until(lambda: called == 3)
        assert manager.get_stats() == NOTHING
        await Tab.open(manager, "alice")
    assert called == 4
    failures = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.name for record in failures] == ["websocket_core.hooks"] * 4


@virtual_time
async def test_a_shutdown_waits_for_disconnect_hooks_but_not_for_ever() -> None:
    finished = []

    async def hook(connection: WebSocketConnection) -> None:
        await asyncio.sleep(2.0 if connection.connection_id == "quick" else 1_000.0)
        finished.append(connection.connection_id)

    loop = asyncio.get_running_loop()
    manager = a_manager(on_disconnect=hook, limits=Limits(shutdown_timeout=5.0))
    async with manager:
        await Tab.open(manager, "alice", "slow")
        await Tab.open(manager, "bob", "quick")
        began = loop.time()
    assert finished == ["quick"]
    assert loop.time() - began <= 10.0
    await turns()
    assert tasks_of_ours() == []


async def test_a_hook_may_use_the_manager() -> None:
    async def greet(connection: WebSocketConnection) -> None:
        await manager.get_emitter(connection.user_id).emit("hello", {}, connection_id=connection.connection_id)

    async def tell(connection: WebSocketConnection) -> None:
        await manager.get_emitter(connection.user_id).emit("bye", {})
        await manager.disconnect_user(connection.user_id)

    log = MemoryLog()
    manager = a_manager(log, on_connect=greet, on_disconnect=tell)
    async with manager:
        tab = await Tab.open(manager, "alice", "tab")
        await tab.has(1)
        other = await Tab.open(manager, "alice", "other")
        await tab.cut()
        assert await other.ended() == 1000
        await until(lambda: log.statistics()["entries"] == 6, "two more events, and each time an order to go")
    assert [event["type"] for event in await events_of(log, "alice")] == ["hello", "hello", "bye", "bye"]


# -- drain


@virtual_time
async def test_draining_sends_clients_away_evenly_over_the_budget() -> None:
    loop = asyncio.get_running_loop()
    ended: list[float] = []

    async def note(connection: WebSocketConnection) -> None:
        ended.append(loop.time())

    manager = a_manager(on_disconnect=note)
    async with manager:
        tabs = [await Tab.open(manager, f"user {number}") for number in range(50)]
        await manager.get_emitter("user 7").emit("x", {"n": 7})
        began = loop.time()
        await manager.drain(budget=10.0)
        took = loop.time() - began
    assert 9.0 <= took <= 11.0
    assert [round(moment - began, 1) for moment in sorted(ended)] == [round(number * 0.2, 1) for number in range(50)]
    assert [await tab.ended() for tab in tabs] == [1012] * 50
    assert tabs[7].numbers == [7], "after its events"
    assert manager.get_stats() == NOTHING


@virtual_time
async def test_while_draining_newcomers_are_refused() -> None:
    manager = a_manager()
    async with manager:
        tabs = [await Tab.open(manager, f"user {number}") for number in range(4)]
        draining = asyncio.create_task(manager.drain(budget=4.0))
        await asyncio.sleep(0.5)
        socket = FakeSocket()
        with pytest.raises(ConnectionRefused) as refused:
            await manager.connect_user(socket, "late")
        assert (refused.value.code, socket.close_code) == (1013, 1013)
        assert tabs[3].socket.close_code is None, "its turn has not come"
        await manager.get_emitter("user 3").emit("x", {"n": 3})
        await draining
        assert tabs[3].numbers == [3]
        with pytest.raises(ManagerClosed):
            await manager.connect_user(FakeSocket(), "late")
    async with manager:
        assert (await (await Tab.open(manager, "late")).greeted())["type"] == "connected"


@virtual_time
async def test_draining_few_or_none_does_not_use_up_the_budget() -> None:
    loop = asyncio.get_running_loop()
    for count in (0, 1, 3):
        manager = a_manager()
        async with manager:
            tabs = [await Tab.open(manager, f"user {number}") for number in range(count)]
            began = loop.time()
            await manager.drain(budget=25.0)
            assert loop.time() - began <= count * 1.0 + 0.1
            assert [await tab.ended() for tab in tabs] == [1012] * count


# -- the sweeper


@virtual_time
async def test_the_sweeper_survives_a_log_that_fails_to_expire(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(MemoryLog):
        sweeps = 0

        async def expire(self) -> None:
            self.sweeps += 1
            if self.sweeps <= 3:
                raise RuntimeError("expire")
            await super().expire()

    log = Broken(Retention(age=2.0), monotonic=asyncio.get_running_loop().time)
    async with a_manager(log) as manager:
        await manager.get_emitter("alice").emit("x", {})
        with caplog.at_level(logging.ERROR):
            await asyncio.sleep(5.5)
        assert log.sweeps == 5
        assert log.statistics()["entries"] == 0
        assert [record.levelname for record in caplog.records] == ["ERROR"] * 3
        assert tasks_of_ours() == ["websocket_core sweeper"]


@virtual_time
async def test_the_sweeper_ends_a_connection_whose_write_hangs_and_no_other() -> None:
    metrics = Metrics()
    async with a_manager(limits=Limits(write_timeout=3.0, sweep_interval=1.0), metrics=metrics) as manager:
        hanging, other = await Tab.open(manager, "alice"), await Tab.open(manager, "alice")
        await hanging.greeted()
        hanging.socket.block()
        await manager.get_emitter("alice").emit("x", {"n": 1})
        await other.has(1)
        await asyncio.sleep(2.9)
        assert manager.get_stats()["total_connections"] == 2
        await asyncio.sleep(2.0)
        assert manager.get_stats()["total_connections"] == 1
        assert not hanging.connection.is_healthy
        assert metrics.stale == 1
        assert other.connection.is_healthy
        hanging.socket.unblock()
        await hanging.serving


@virtual_time
async def test_a_sweeper_that_died_with_its_task_is_started_again_by_the_next_connect() -> None:
    manager = a_manager()
    async with manager:
        for task in asyncio.all_tasks():
            if task.get_name() == "websocket_core sweeper":
                task.cancel()
        await turns()
        assert tasks_of_ours() == []
        tab = await Tab.open(manager, "alice")
        assert "websocket_core sweeper" in tasks_of_ours()
        await tab.cut()


# -- cancelling a run from the socket


async def test_a_user_stops_a_run_of_their_own_and_of_nobody_else() -> None:
    log = MemoryLog()
    async with a_manager(log) as manager:
        started = asyncio.Event()

        async def agent() -> None:
            async with manager.create_agent_bridge(UserExecutionContext("alice", "r1")).run("a"):
                started.set()
                await asyncio.Event().wait()

        running = asyncio.create_task(agent())
        await started.wait()
        alice, bob = await Tab.open(manager, "alice"), await Tab.open(manager, "bob")
        for tab, run_id in ((bob, "r1"), (alice, "r2"), (alice, "R1"), (alice, None), (alice, 5)):
            tab.socket.client_sends({"type": "cancel", "run_id": run_id, "request_id": "q"})
        await until(lambda: len(alice.socket.of_type("error")) == 4 and len(bob.socket.of_type("error")) == 1)
        assert bob.socket.of_type("error")[0]["code"] == "not_found"
        codes = [frame["code"] for frame in alice.socket.of_type("error")]
        assert codes == ["not_found", "not_found", "invalid", "invalid"]
        assert not running.done()
        alice.socket.client_sends({"type": "cancel", "run_id": "r1", "request_id": "stop"})
        with pytest.raises(asyncio.CancelledError):
            await running
        await alice.has(2)
        assert alice.socket.of_type("ack") == [{"type": "ack", "request_id": "stop"}]
        assert alice.events[-1]["data"]["status"] == "cancelled"
        assert bob.events == []
        assert len(manager.runs) == 0
