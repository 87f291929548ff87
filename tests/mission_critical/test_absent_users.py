"""Promise: what was emitted while its user was away is there when the user comes, through the same code as live events.

A late tab rebuilds the whole picture; one that wants live events only, or to go on from a snapshot, says so.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bridge import UserExecutionContext
from tests.support import Tab, TroubledLog, a_manager, check_runs, turns, virtual_time
from websocket_core.errors import MalformedCursor
from websocket_core.limits import Retention
from websocket_core.wire import decode_cursor, encode_cursor

PROTOCOLS = pytest.mark.parametrize("v1", [False, True], ids=["plain", "v1"])


@PROTOCOLS
@virtual_time
async def test_events_for_an_absent_user_are_there_when_the_user_comes(v1: bool) -> None:
    async with a_manager() as manager:
        positions = [await manager.get_emitter("alice").emit("custom", {"n": n}) for n in range(300)]
        assert [position.offset for position in positions] == list(range(1, 301))
        tab = await Tab.open(manager, "alice", v1=v1)
        await tab.has(300)
        await manager.get_emitter("alice").emit("custom", {"n": 300})
        await tab.has(301)
        assert tab.numbers == list(range(301))


@virtual_time
async def test_a_whole_run_can_happen_while_its_user_is_away() -> None:
    async with a_manager(TroubledLog()) as manager:
        async with manager.create_agent_bridge(UserExecutionContext("alice", "r1")).run("planner") as run:
            async with run.tool("search") as tool:
                tool.result = 3
            await run.delta("answer")
        tab = await Tab.open(manager, "alice")
        events = await tab.has(5)
        check_runs(events)
        assert events[0]["type"] == "agent_started"


@virtual_time
async def test_an_emitter_that_is_still_held_works_after_the_last_connection_went() -> None:
    async with a_manager() as manager:
        tab = await Tab.open(manager, "alice")
        emitter = manager.get_emitter("alice")
        await emitter.emit("custom", {"n": 0})
        await tab.has(1)
        await tab.cut()
        await turns()
        assert manager.get_stats()["total_users"] == 0
        await emitter.emit("custom", {"n": 1})
        assert manager.get_emitter("alice") is emitter, "somebody holds it"
        back = await Tab.open(manager, "alice", cursor=tab.cursor)
        await back.has(1)
        assert back.numbers == [1]


@virtual_time
async def test_the_emitter_of_a_connected_user_is_the_same_one() -> None:
    async with a_manager() as manager:
        tab = await Tab.open(manager, "alice")
        first = id(manager.get_emitter("alice"))
        await manager.get_emitter("alice").emit("custom", {})
        assert id(manager.get_emitter("alice")) == first
        assert manager.get_emitter("alice").get_stats()["total_events"] == 1
        assert manager.get_stats()["active_emitters"] == 1
        await tab.cut()
        await turns()
        assert manager.get_stats()["active_emitters"] == 0, "nobody holds it and nobody is there"


@PROTOCOLS
@virtual_time
async def test_a_late_tab_rebuilds_the_whole_picture(v1: bool) -> None:
    """It comes while events flow, and sees what the early one saw, in the same order and the same bytes."""
    async with a_manager(TroubledLog()) as manager:
        early = await Tab.open(manager, "alice", v1=v1)
        late: list[Tab] = []
        for n in range(100):
            await manager.get_emitter("alice").emit("custom", {"n": n})
            if n % 10 == 5:
                late.append(await Tab.open(manager, "alice", f"late-{n}", v1=v1))
                if len(late) > 5:
                    await late.pop(0).cut()
        await early.has(100)
        for tab in late:
            assert await tab.has(100) == early.events
            assert tab.numbers == list(range(100))


@PROTOCOLS
@virtual_time
async def test_cursor_latest_asks_for_live_events_only(v1: bool) -> None:
    async with a_manager() as manager:
        for n in range(5):
            head = await manager.get_emitter("alice").emit("custom", {"n": n})
        tab = await Tab.open(manager, "alice", cursor="latest", v1=v1)
        greeting = await tab.greeted()
        await manager.get_emitter("alice").emit("custom", {"n": 5})
        await tab.has(1)
        await turns()
        assert tab.numbers == [5]
        assert greeting["cursor"] == encode_cursor(head), "the position from which events follow"
        assert greeting["resumed"] is False
        assert tab.socket.of_type("gap") == []


@virtual_time
async def test_latest_on_an_empty_log_misses_nothing_that_comes() -> None:
    async with a_manager(TroubledLog()) as manager:
        tab = await Tab.open(manager, "alice", cursor="latest")
        await manager.get_emitter("alice").emit("custom", {"n": 0})
        await tab.has(1)
        assert tab.numbers == [0]


@PROTOCOLS
@virtual_time
async def test_a_client_goes_on_from_the_head_that_went_with_a_snapshot(v1: bool) -> None:
    """Nothing between the snapshot and the connect is missing, and nothing of the snapshot comes again."""
    async with a_manager(TroubledLog()) as manager:
        for n in range(5):
            await manager.get_emitter("alice").emit("custom", {"n": n})
        head = await manager.head("alice")
        assert head.offset == 5
        for n in range(5, 8):
            await manager.get_emitter("alice").emit("custom", {"n": n})
        tab = await Tab.open(manager, "alice", cursor=encode_cursor(head), v1=v1)
        await tab.has(3)
        await turns()
        assert tab.numbers == [5, 6, 7]
        assert (await tab.greeted())["resumed"] is True


@virtual_time
async def test_the_head_of_a_user_nobody_has_heard_of_is_a_place_to_go_on_from() -> None:
    async with a_manager() as manager:
        head = await manager.head("alice")
        assert (head.offset, head.mark) == (0, "")
        assert await manager.head("alice") == head, "asking changes nothing"
        await manager.get_emitter("alice").emit("custom", {"n": 1})
        tab = await Tab.open(manager, "alice", cursor=encode_cursor(head))
        await tab.has(1)
        assert (await tab.greeted())["resumed"] is True


@virtual_time
async def test_what_is_no_longer_retained_is_not_there() -> None:
    """By count, by bytes and by age; what is left is the newest, in order."""
    for retention, count in ((Retention(events=7), 7), (Retention(bytes=3_000), 2), (Retention(age=5.0), 5)):
        async with a_manager(retention=retention) as manager:
            for n in range(20):
                await manager.get_emitter("alice").emit("custom", {"n": n, "pad": "x" * 1_000})
                await asyncio.sleep(0.99)
            tab = await Tab.open(manager, "alice")
            await tab.has(count)
            await turns()
            assert tab.numbers == list(range(20 - count, 20))


MALFORMED = [
    "", "x", "a.b", "a.1", "..", "a.1.", "a.0.m", ".1.m", "a.-1.m", "a.01.m", "a.1e3.m", "a.1.m\n", "a. 1.m", "a.1.m m",
    "a.9007199254740992.m", "a." + "9" * 400 + ".m", "x" * 200 + ".1.m", "a.\u0661.m", "LATEST", "latest ", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("cursor", MALFORMED)
@virtual_time
async def test_a_malformed_cursor_is_refused_before_anything_happens(cursor: Any) -> None:
    async with a_manager() as manager:
        before = await Tab.open(manager, "alice", "same")
        with pytest.raises(MalformedCursor) as caught:
            await Tab.open(manager, "alice", "same", cursor=cursor)
        assert len(cursor) < 3 or cursor not in str(caught.value)
        await turns()
        assert before.connection.state == "open", "the connection of that id was not replaced"
        assert manager.get_stats()["total_connections"] == 1


@virtual_time
async def test_every_cursor_that_is_sent_can_be_read() -> None:
    async with a_manager() as manager:
        tab = await Tab.open(manager, "alice")
        for n, event_id in enumerate(("a", "a.b.c", "...", "-", "x" * 64, "0")):
            await manager.get_emitter("alice").emit("custom", {"n": n}, event_id=event_id)
        for n, event in enumerate(await tab.has(6)):
            position = decode_cursor(event["cursor"])
            assert (position.offset, position.mark) == (n + 1, event["id"])
            again = await Tab.open(manager, "alice", cursor=event["cursor"])
            assert (await again.greeted())["resumed"] is True
