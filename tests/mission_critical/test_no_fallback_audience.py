"""Promise: nobody is spoken to by default. An event has the one audience that was named, or there is an error.

There is no way to emit without a user; a connection that is not that user's own is an error and never a broadcast;
and an event addressed to one connection is read by that connection only.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from tests.support import Tab, TroubledLog, a_manager, turns, until, virtual_time
from websocket_core.errors import InvalidInput, InvalidUserId, UnknownConnection
from websocket_core.limits import Limits, Retention
from websocket_core.log import Position
from websocket_core.unified_emitter import UnifiedWebSocketEmitter
from websocket_core.unified_manager import UnifiedWebSocketManager
from websocket_core.wire import decode_cursor


@virtual_time
async def test_there_is_no_emit_without_a_user() -> None:
    async with a_manager() as manager:
        tabs = [await Tab.open(manager, user) for user in ("alice", "bob")]
        for nobody in (None, "", [], ["alice", "bob"], object()):
            with pytest.raises(InvalidUserId):
                await manager.emit_critical_event(nobody, "custom", {})  # type: ignore[arg-type]
            with pytest.raises(InvalidUserId):
                manager.get_emitter(nobody)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            await manager.emit_critical_event(event_type="custom", data={})  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            UnifiedWebSocketEmitter(manager)  # type: ignore[call-arg]
        await turns()
        assert [tab.events for tab in tabs] == [[], []]


def test_the_user_of_everything_that_emits_has_no_default() -> None:
    for function in (
        UnifiedWebSocketManager.emit_critical_event,
        UnifiedWebSocketManager.get_emitter,
        UnifiedWebSocketManager.connect_user,
        UnifiedWebSocketEmitter.__init__,
    ):
        assert inspect.signature(function).parameters["user_id"].default is inspect.Parameter.empty


def test_nothing_offers_to_reach_everybody() -> None:
    offered = {name for owner in (UnifiedWebSocketManager, UnifiedWebSocketEmitter) for name in dir(owner)}
    assert not [name for name in offered if "broadcast" in name or "everyone" in name or name.endswith("_all")]


@virtual_time
async def test_a_user_who_is_not_there_gets_the_event_later_and_nobody_instead() -> None:
    async with a_manager() as manager:
        bob = await Tab.open(manager, "bob")
        await manager.get_emitter("alice").emit("custom", {"n": 1})
        await turns()
        assert bob.events == []
        alice = await Tab.open(manager, "alice")
        await alice.has(1)


@pytest.mark.parametrize("connection_id", ["nobodys", "", "TAB", "tab ", "ta", "tab*", "*", "bobs", "t\u0430b"])
@virtual_time
async def test_an_unknown_connection_is_an_error_and_reaches_nobody(connection_id: str) -> None:
    async with a_manager() as manager:
        alice, bob = await Tab.open(manager, "alice", "tab"), await Tab.open(manager, "bob", "bobs")
        for emit in (
            manager.get_emitter("alice").emit("custom", {}, connection_id=connection_id),
            manager.emit_critical_event("alice", "custom", {}, connection_id),
        ):
            with pytest.raises(UnknownConnection) as caught:
                await emit
            assert isinstance(caught.value, LookupError)
        await turns()
        assert alice.events == bob.events == []
        assert (await manager.head("alice")).offset == 0, "nothing was appended"
        assert (await manager.head("bob")).offset == 0


@pytest.mark.parametrize("connection_id", [1, b"tab", ["tab"], True])
@virtual_time
async def test_what_is_no_connection_id_is_refused(connection_id: Any) -> None:
    async with a_manager() as manager:
        tab = await Tab.open(manager, "alice", "tab")
        with pytest.raises(InvalidInput):
            await manager.get_emitter("alice").emit("custom", {}, connection_id=connection_id)
        await turns()
        assert tab.events == []


@virtual_time
async def test_another_users_connection_is_an_error_also_when_both_use_its_id() -> None:
    async with a_manager() as manager:
        hers, his = await Tab.open(manager, "alice", "same"), await Tab.open(manager, "bob", "same")
        await Tab.open(manager, "bob", "only-bobs")
        await manager.emit_critical_event("alice", "custom", {"n": 1}, "same")
        await hers.has(1)
        with pytest.raises(UnknownConnection):
            await manager.emit_critical_event("alice", "custom", {"n": 2}, "only-bobs")
        await turns()
        assert his.events == []


@pytest.mark.parametrize("v1", [False, True])
@virtual_time
async def test_an_addressed_event_is_read_by_that_connection_only(v1: bool) -> None:
    """The others step over it: their position moves on, they are told no gap, and they resume behind it."""
    async with a_manager(TroubledLog(), limits=Limits(heartbeat=10.0)) as manager:
        one, two = [await Tab.open(manager, "alice", name, v1=v1) for name in ("one", "two")]
        emitter = manager.get_emitter("alice")
        await emitter.emit("custom", {"n": 1})
        position = await emitter.emit("custom", {"n": 2}, connection_id="one")
        await one.has(2)
        await turns()
        assert (one.numbers, two.numbers) == ([1, 2], [1])
        await until(lambda: two.socket.of_type("ping"), seconds=11.0)
        assert decode_cursor(two.cursor) == position, "the position of the other tab is behind the event"
        await two.cut()
        await emitter.emit("custom", {"n": 3})
        again = await Tab.open(manager, "alice", "two", cursor=two.cursor, v1=v1)
        await again.has(1)
        await one.has(3)
        await turns()
        assert again.numbers == [3]
        assert (await again.greeted())["resumed"] is True
        assert one.socket.of_type("gap") == two.socket.of_type("gap") == again.socket.of_type("gap") == []
        late = await Tab.open(manager, "alice", "late", v1=v1)
        await late.has(2)
        await turns()
        assert late.numbers == [1, 3]


@virtual_time
async def test_an_addressed_event_waits_for_its_connection_to_come_back() -> None:
    async with a_manager() as manager:
        one, two = [await Tab.open(manager, "alice", name) for name in ("one", "two")]
        await one.greeted()
        await one.cut()
        await manager.emit_critical_event("alice", "custom", {"n": 1}, "one")
        await manager.emit_critical_event("alice", "custom", {"n": 2})
        stranger = await Tab.open(manager, "bob", "one")
        back = await Tab.open(manager, "alice", "one", cursor=one.cursor)
        await back.has(2)
        await two.has(1)
        await turns()
        assert back.numbers == [1, 2]
        assert two.numbers == [2]
        assert stranger.events == []


@virtual_time
async def test_a_log_of_events_for_others_is_no_gap_for_me() -> None:
    async with a_manager() as manager:
        one, two = [await Tab.open(manager, "alice", name) for name in ("one", "two")]
        for n in range(600):
            await manager.emit_critical_event("alice", "custom", {"n": n}, "one")
        await manager.emit_critical_event("alice", "custom", {"n": "for all"})
        await one.has(601)
        await two.has(1)
        assert two.numbers == ["for all"]
        assert two.socket.of_type("gap") == []


@virtual_time
async def test_a_connection_that_went_is_known_for_as_long_as_events_are_kept() -> None:
    async with a_manager(retention=Retention(age=60.0)) as manager:
        tab = await Tab.open(manager, "alice", "tab")
        await tab.greeted()
        await tab.cut()
        await asyncio.sleep(59.0)
        assert isinstance(await manager.emit_critical_event("alice", "custom", {}, "tab"), Position)
        await asyncio.sleep(2.0)
        with pytest.raises(UnknownConnection):
            await manager.emit_critical_event("alice", "custom", {}, "tab")


@virtual_time
async def test_a_connection_is_known_however_long_it_has_been_open() -> None:
    async with a_manager(retention=Retention(age=60.0)) as manager:
        tab = await Tab.open(manager, "alice", "tab")
        await asyncio.sleep(600.0)
        await manager.emit_critical_event("alice", "custom", {"n": 1}, "tab")
        await tab.has(1)


@virtual_time
async def test_a_deleted_user_has_no_connections_left_to_name() -> None:
    async with a_manager() as manager:
        tab = await Tab.open(manager, "alice", "tab")
        await manager.delete_user("alice")
        assert await tab.ended() == 1000
        with pytest.raises(UnknownConnection):
            await manager.emit_critical_event("alice", "custom", {}, "tab")


@virtual_time
async def test_a_thread_of_a_connection_labels_it_and_does_not_filter() -> None:
    async with a_manager() as manager:
        labelled = await Tab.open(manager, "alice", thread_id="t1")
        narrowed = await Tab.open(manager, "alice", only_thread="t1")
        emitter = manager.get_emitter("alice")
        for n, thread in enumerate(("t1", "t2", None, "T1", "t1")):
            await emitter.emit("custom", {"n": n}, thread_id=thread)
        await labelled.has(5)
        await narrowed.has(2)
        await turns()
        assert labelled.connection.thread_id == "t1"
        assert labelled.numbers == [0, 1, 2, 3, 4]
        assert narrowed.numbers == [0, 4]
        assert narrowed.socket.of_type("gap") == []
