"""When a writer writes, at once or together with what follows; and how much a client may send."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import Tab, a_manager, turns, virtual_time
from websocket_core.limits import Limits, Retention
from websocket_core.metrics import Metrics
from websocket_core.pacing import BURST_SECONDS, LOAD_SECONDS, Alarm, Allowance, BurstCredit, Pacing

# -- the alarm


def started(waiting: Awaitable[None]) -> asyncio.Future[None]:
    return asyncio.ensure_future(waiting)


@virtual_time
async def test_an_alarm_wakes_who_waits_and_keeps_no_signal_for_later() -> None:
    alarm = Alarm(asyncio.get_running_loop())
    for signal in (alarm.ring, alarm.count):
        signal()
        waiting = started(alarm.wait())
        await turns()
        assert not waiting.done(), "it came before anybody waited"
        signal()
        signal()
        await turns()
        assert waiting.done()
        signal()


@virtual_time
async def test_who_lingers_is_woken_by_the_time_by_enough_or_by_a_ring() -> None:
    loop = asyncio.get_running_loop()
    alarm = Alarm(loop)

    async def lingered(*signals: str) -> float:
        began = loop.time()
        lingering = started(alarm.linger(5.0, 3))
        for signal in signals:
            await asyncio.sleep(1.0)
            (alarm.ring if signal == "ring" else alarm.count)()
        await lingering
        return loop.time() - began

    assert await lingered() == 5.0
    assert await lingered("count", "count") == 5.0, "two are not enough"
    assert await lingered("count", "count", "count") == 3.0
    assert await lingered("count", "ring") == 2.0
    assert await lingered("count", "count") == 5.0, "and none of an earlier time counts"


@virtual_time
async def test_what_was_counted_before_the_wait_is_not_enough() -> None:
    loop = asyncio.get_running_loop()
    alarm = Alarm(loop)
    for _ in range(10):
        alarm.count()
    began = loop.time()
    await alarm.linger(5.0, 3)
    assert loop.time() - began == 5.0


@virtual_time
async def test_after_lingering_one_signal_is_enough_again_and_no_old_timer_wakes_anybody() -> None:
    loop = asyncio.get_running_loop()
    alarm = Alarm(loop)
    lingering = started(alarm.linger(5.0, 100))
    await turns()
    alarm.ring()
    await lingering
    waiting = started(alarm.wait())
    await asyncio.sleep(10.0)
    assert not waiting.done()
    alarm.count()
    await turns()
    assert waiting.done()


@virtual_time
async def test_an_alarm_outlives_a_wait_that_was_cancelled() -> None:
    alarm = Alarm(asyncio.get_running_loop())
    for waits in (alarm.wait(), alarm.linger(5.0, 2)):
        waiting = started(waits)
        await turns()
        waiting.cancel()
        await turns()
        alarm.ring()
        alarm.count()
    waiting = started(alarm.wait())
    await turns()
    alarm.ring()
    await turns()
    assert waiting.done()


def test_an_alarm_of_a_loop_that_was_closed_says_so() -> None:
    """Whoever appends is told, and leaves that connection alone."""
    for signal in (Alarm.ring, Alarm.count):
        loop = asyncio.new_event_loop()
        alarm = Alarm(loop)
        signal(alarm)
        alarm.wait().add_done_callback(lambda _: None)  # somebody waits
        loop.close()
        with pytest.raises(RuntimeError):
            signal(alarm)


# -- what a client may send


def level(taken: list[tuple[int, int]], rate: int) -> int:
    """What is used of an allowance after these, each of a time and a size: the most that any stretch of them up to now
    has taken beyond what its time gave back."""
    now = taken[-1][0]
    return max(sum(size for _, size in taken[first:]) - rate * (now - taken[first][0]) for first in range(len(taken)))


@given(
    frames_per_second=st.integers(1, 5),
    bytes_per_second=st.integers(1, 50),
    frames=st.lists(
        st.tuples(st.sampled_from([0, 0, 0, 1, 2, 10]), st.just(0) | st.integers(0, 120)), min_size=1, max_size=60
    ),
)
def test_an_allowance_takes_what_the_rates_and_a_few_seconds_worth_leave_room_for(
    frames_per_second: int, bytes_per_second: int, frames: list[tuple[int, int]]
) -> None:
    """Against a model that knows no state: frames and bytes of the past, and how long ago they came."""
    allowance = Allowance(frames_per_second=frames_per_second, bytes_per_second=bytes_per_second)
    now = 1_000
    came: list[tuple[int, int]] = []
    for passed, size in frames:
        now += passed
        unused = not came or level([*came, (now, 0)], bytes_per_second) == 0
        came.append((now, size))
        enough_frames = level([(at, 1) for at, _ in came], frames_per_second) <= BURST_SECONDS * frames_per_second
        enough_bytes = level(came, bytes_per_second) <= BURST_SECONDS * bytes_per_second
        assert allowance.take(size, now) == (enough_frames and (enough_bytes or unused))


def test_a_first_frame_always_fits_however_large_and_however_small_the_rates() -> None:
    allowance = Allowance(frames_per_second=0.01, bytes_per_second=1.0)
    assert allowance.take(65_536, 5.0)
    assert not allowance.take(1, 6.0), "but it has to be given back"
    allowance = Allowance(frames_per_second=10.0, bytes_per_second=1_000.0)
    assert allowance.take(65_536, 5.0)
    assert not allowance.take(1, 66.0)
    allowance = Allowance(frames_per_second=10.0, bytes_per_second=1_000.0)
    assert allowance.take(65_536, 5.0)
    assert allowance.take(65_536, 71.0), "after which it is a first one again"


def test_a_silence_saves_nothing_up() -> None:
    allowance = Allowance(frames_per_second=2.0, bytes_per_second=100.0)
    for began in (1_000.0, 2_000.0):
        assert [allowance.take(0, began) for _ in range(10)] == [True] * 8 + [False] * 2
    allowance = Allowance(frames_per_second=1_000.0, bytes_per_second=100.0)
    for began in (1_000.0, 2_000.0):
        assert [allowance.take(100, began) for _ in range(6)] == [True] * 4 + [False] * 2


def test_a_client_that_keeps_to_the_rates_is_never_refused() -> None:
    allowance = Allowance(frames_per_second=4.0, bytes_per_second=64.0)
    assert all(allowance.take(16, 100.0 + number * 0.25) for number in range(10_000))


# -- the credit for frames that go at once


def a_pacing(
    *,
    burst_frames: int = 4,
    burst_window: float = 1.0,
    busy_window: float = 1.0,
    busy_events: int = 1_000,
    metrics: Metrics | None = None,
) -> Pacing:
    limits = Limits(
        burst_frames=burst_frames, burst_window=burst_window, busy_window=busy_window, busy_events=busy_events
    )
    return Pacing(limits, metrics or Metrics())


def test_the_first_frames_of_a_window_go_at_once_and_the_next_waits_for_its_end() -> None:
    credit = BurstCredit(a_pacing(burst_frames=3))
    assert [credit.take(10.0), credit.take(10.25), credit.take(10.5)] == [0.0, 0.0, 0.0]
    assert credit.take(10.75) == 0.25
    assert credit.take(11.0) == 0.0


def test_a_frame_that_waited_begins_a_window_of_its_own() -> None:
    credit = BurstCredit(a_pacing(burst_frames=2))
    credit.renew(5.0)
    assert credit.take(5.5) == 0.0
    assert credit.take(5.5) == 0.5


@given(st.lists(st.integers(min_value=0, max_value=10), min_size=1, max_size=200))
def test_of_frames_that_go_at_once_a_fifth_is_never_in_the_window_of_the_first(gaps: list[int]) -> None:
    """Whatever the rhythm, in whole milliseconds: each window begins with a frame and holds at most four."""
    credit = BurstCredit(a_pacing(burst_frames=4, burst_window=20))
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


def test_one_connection_takes_no_credit_of_another() -> None:
    pacing = a_pacing(burst_frames=1)
    one, other = BurstCredit(pacing), BurstCredit(pacing)
    assert [one.take(5.0), one.take(5.5), other.take(5.5)] == [0.0, 0.5, 0.0]


# -- a process that is busy


def test_a_process_is_busy_above_so_many_deliveries_per_second_and_not_before_or_after() -> None:
    metrics = Metrics()
    pacing = a_pacing(busy_events=1_000, metrics=metrics)
    assert not pacing.busy(100.0)
    metrics.events_delivered += 125
    assert not pacing.busy(100.125), "as many as allowed"
    metrics.events_delivered += 126
    assert not pacing.busy(100.1875), "it is measured over a while"
    assert pacing.busy(100.25)
    metrics.events_delivered += 1_000
    assert pacing.busy(100.375)
    assert pacing.busy(100.4375), "and said until the next measurement"
    assert not pacing.busy(100.5)


def test_what_was_delivered_before_is_no_load() -> None:
    """As of another manager that counts into the same metrics."""
    metrics = Metrics()
    metrics.events_delivered = 1_000_000
    assert not a_pacing(metrics=metrics).busy(100.0)


def test_while_the_process_is_busy_windows_are_longer_and_only_their_first_frame_goes_at_once() -> None:
    metrics = Metrics()
    pacing = a_pacing(burst_window=1.0, busy_window=5.0, busy_events=1_000, metrics=metrics)
    credit, other = BurstCredit(pacing), BurstCredit(pacing)

    def take(which: BurstCredit, now: float, delivered: int) -> float:
        metrics.events_delivered += delivered
        return which.take(now)

    assert [take(credit, 100.0, 0), take(credit, 100.5, 0)] == [0.0, 0.0]
    assert take(credit, 100.75, 100_000) == 4.25, "to the end of a longer window, whatever credit is left"
    assert take(credit, 102.0, 100_000) == 3.0, "also when the short one is over"
    assert take(other, 102.0, 0) == 0.0, "the first frame of a connection waits for nothing"
    assert take(credit, 105.0, 100_000) == 0.0
    assert take(credit, 105.5, 100_000) == 4.5, "one frame for each window"
    assert [take(credit, 106.5 + later, 0) for later in (0.0, 0.25, 0.5, 0.75)] == [0.0] * 4, "and then as before"
    assert take(credit, 107.375, 0) == 0.125


def test_a_busy_window_is_never_shorter_than_another() -> None:
    metrics = Metrics()
    pacing = a_pacing(burst_window=2.0, busy_window=0.5, busy_events=1_000, metrics=metrics)
    credit = BurstCredit(pacing)
    assert [credit.take(100.0), credit.take(100.25)] == [0.0, 0.0]
    metrics.events_delivered += 100_000
    assert credit.take(101.0) == 1.0


# -- over connections


@virtual_time
async def test_in_a_busy_process_events_share_frames_and_none_waits_longer_than_a_busy_window() -> None:
    loop = asyncio.get_running_loop()
    limits = Limits(busy_events=100, busy_window=0.05)
    async with a_manager(limits=limits) as manager:
        tabs = [await Tab.open(manager, user, v1=True) for user in ("alice", "bob")]
        for tab in tabs:
            await tab.greeted()
        seen = {tab: 0 for tab in tabs}
        for number in range(1_100):
            if number < 1_000:
                for user in ("alice", "bob"):
                    await manager.get_emitter(user).emit("custom", {"n": number, "at": loop.time()})
            await asyncio.sleep(0.001)
            for tab in tabs:
                late = [loop.time() - event["data"]["at"] for event in tab.socket.events[seen[tab] :]]
                assert max(late, default=0.0) <= limits.busy_window + 0.001 + 1e-6
                seen[tab] += len(late)
        for tab in tabs:
            assert tab.numbers == list(range(1_000))
            assert len(tab.socket.texts) < 1.0 / limits.busy_window + 5 * LOAD_SECONDS / limits.burst_window + 10


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
