"""`BurstCredit`: at once while there is credit, then together at the window's end."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from tests.support import Tab, a_manager, virtual_time
from websocket_core.limits import Limits, Retention
from websocket_core.pacing import BurstCredit


def test_the_first_frames_of_a_window_go_at_once_and_the_next_waits_for_its_end() -> None:
    credit = BurstCredit(frames=3, window=1.0)
    assert [credit.take(10.0), credit.take(10.25), credit.take(10.5)] == [0.0, 0.0, 0.0]
    assert credit.take(10.75) == 0.25
    assert credit.take(11.0) == 0.0


def test_a_frame_that_waited_begins_a_window_of_its_own() -> None:
    credit = BurstCredit(frames=2, window=1.0)
    credit.renew(5.0)
    assert credit.take(5.5) == 0.0
    assert credit.take(5.5) == 0.5


@given(st.lists(st.integers(min_value=0, max_value=10), min_size=1, max_size=200))
def test_of_frames_that_go_at_once_a_fifth_is_never_in_the_window_of_the_first(gaps: list[int]) -> None:
    """Whatever the rhythm, in whole milliseconds: each window begins with a frame and holds at most four."""
    credit = BurstCredit(frames=4, window=20)
    now, begins, held = 100, -1, 0
    for gap in gaps:
        now += gap
        if credit.take(now) == 0:
            if begins < 0 or now - begins >= 20:
                begins, held = now, 0
            held += 1
            assert held <= 4
        else:
            assert held == 4


@virtual_time
async def test_a_stream_of_single_events_shares_frames_and_keeps_its_order() -> None:
    """One event each millisecond for a second: at most five frames in each 20 ms."""
    limits = Limits()
    async with a_manager(limits=limits) as manager:
        tab = await Tab.open(manager, "alice", v1=True)
        await tab.greeted()
        for number in range(1_000):
            await manager.get_emitter("alice").emit("custom", {"n": number})
            await asyncio.sleep(0.001)
        await asyncio.sleep(limits.burst_window)
        assert tab.numbers == list(range(1_000))
        assert len(tab.socket.texts) < 1_000 * 5 / 20 + 10


@virtual_time
async def test_no_event_waits_longer_than_a_window() -> None:
    limits = Limits()
    loop = asyncio.get_running_loop()
    async with a_manager(limits=limits) as manager:
        tab = await Tab.open(manager, "alice", v1=True)
        await tab.greeted()
        for number in range(100):
            emitted = loop.time()
            await manager.get_emitter("alice").emit("custom", {"n": number})
            await tab.socket.wait_for(number + 1)
            assert loop.time() - emitted <= limits.burst_window + 1e-6


@virtual_time
async def test_a_control_frame_does_not_wait_for_a_window() -> None:
    loop = asyncio.get_running_loop()
    async with a_manager(limits=Limits(burst_window=5.0)) as manager:
        tab = await Tab.open(manager, "alice", v1=True)
        await tab.greeted()
        began = loop.time()
        for number in range(10):
            await manager.get_emitter("alice").emit("custom", {"n": number})
            await asyncio.sleep(0.001)
        tab.socket.client_sends({"type": "ping", "request_id": "q"})
        await tab.socket.wait_for(lambda socket: any(frame["type"] == "pong" for frame in socket.controls))
        assert loop.time() - began < 1.0
        assert tab.numbers == list(range(10)), "and it takes along what waited"


@virtual_time
async def test_a_full_batch_waits_for_nothing() -> None:
    loop = asyncio.get_running_loop()
    async with a_manager(limits=Limits(burst_window=5.0, batch_events=16)) as manager:
        tab = await Tab.open(manager, "alice", v1=True)
        await tab.greeted()
        began = loop.time()
        for number in range(400):
            await manager.get_emitter("alice").emit("custom", {"n": number})
            await asyncio.sleep(0)
        assert len(tab.numbers) >= 350
        assert loop.time() - began < 1.0


@virtual_time
async def test_a_plain_client_never_waits_for_company() -> None:
    loop = asyncio.get_running_loop()
    async with a_manager(limits=Limits(burst_window=5.0)) as manager:
        tab = await Tab.open(manager, "alice")
        await tab.greeted()
        began = loop.time()
        for number in range(50):
            await manager.get_emitter("alice").emit("custom", {"n": number})
            await tab.socket.wait_for(number + 1)
        assert loop.time() == began


@virtual_time
async def test_waiting_for_company_costs_no_event_of_a_short_retention() -> None:
    """A log that holds less than a batch is read before it is trimmed, window or not."""
    async with a_manager(limits=Limits(burst_window=5.0), retention=Retention(events=60)) as manager:
        tab = await Tab.open(manager, "alice", v1=True)
        await tab.greeted()
        for number in range(300):
            await manager.get_emitter("alice").emit("custom", {"n": number})
            await asyncio.sleep(0)
        await asyncio.sleep(5.0)
        assert tab.numbers == list(range(300))
        assert tab.socket.of_type("gap") == []
