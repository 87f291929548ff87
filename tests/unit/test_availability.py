"""Whether the log is there: when that is asked, when it counts as away, and how its return is told."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from tests.away import AwayLog, Way
from tests.support import FakeSocket, Tab, VirtualLoop, a_manager, turns, until, virtual_time
from websocket_core.appender import Appender
from websocket_core.availability import READS_PER_SECOND, TOLD_AT_ONCE, Availability
from websocket_core.errors import ConnectionRefused
from websocket_core.events import EventEncoder
from websocket_core.limits import Limits, RetryPolicy
from websocket_core.log import Checkable
from websocket_core.logs.memory import MemoryLog
from websocket_core.metrics import Metrics
from websocket_core.outbox import Outboxes

WAYS: list[Way] = ["killed", "frozen"]


def now() -> float:
    return asyncio.get_running_loop().time()


class Member:
    """A connection that only notes when it is told something new."""

    def __init__(self, told: list[tuple[str, float]]) -> None:
        self._told = told
        self.is_degraded = False

    def degrade(self, _outage: object) -> None:
        if not self.is_degraded:
            self.is_degraded = True
            self._told.append(("degraded", now()))

    def restore(self) -> None:
        if self.is_degraded:
            self.is_degraded = False
            self._told.append(("restored", now()))


class Crowd:
    """A registry of them."""

    def __init__(self, count: int) -> None:
        self.told: list[tuple[str, float]] = []
        self.members = [Member(self.told) for _ in range(count)]

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members)


class Watched:
    """An availability with everything around it."""

    def __init__(self, *, connections: int = 1, limits: Limits | None = None) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.loop = loop
        self.log = AwayLog()
        self.metrics = Metrics()
        self.crowd = Crowd(connections)
        self.limits = limits or Limits()
        appender = Appender(self.log, retry=RetryPolicy(), metrics=self.metrics, rng=random.Random(1))
        encoder = EventEncoder(event_bytes=10_000, event_depth=10)
        self.outboxes = Outboxes(appender, encoder=encoder, limits=self.limits, metrics=self.metrics)
        self.availability = Availability(
            self.log,
            self.crowd,  # type: ignore[arg-type]
            self.outboxes,
            limits=self.limits,
            metrics=self.metrics,
            clock=loop.wall_clock,
            rng=random.Random(5),
        )

    async def __aenter__(self) -> Watched:
        self.task = asyncio.create_task(self.availability.run())
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])

    @property
    def told(self) -> list[str]:
        return [what for what, _ in self.crowd.told]

    async def until_told(self, *what: str) -> float:
        await until(lambda: self.told == list(what), f"telling {what}", 60.0)
        return now()


def test_a_log_in_memory_is_never_away_and_costs_no_job() -> None:
    manager = a_manager()
    assert not isinstance(MemoryLog(), Checkable)
    assert manager.availability.jobs() == {}
    assert (manager.availability.degraded, manager.availability.since) == (False, None)


@virtual_time
async def test_a_log_that_is_there_is_asked_at_every_interval_and_nobody_is_told_anything() -> None:
    async with Watched() as watched:
        await asyncio.sleep(60.0)
        gaps = {round(b - a, 6) for a, b in itertools.pairwise(watched.log.checks)}
        assert (gaps, watched.told) == ({2.0}, [])
        assert (watched.metrics.outages, watched.metrics.degraded) == (0, 0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("moment", [0.001, 0.7, 1.3, 1.999])
def test_a_log_that_goes_away_is_told_within_eight_seconds(way: Way, moment: float) -> None:
    @virtual_time
    async def story() -> None:
        async with Watched() as watched:
            await asyncio.sleep(20.0 + moment)
            gone = now()
            watched.log.go_away(way)
            told = await watched.until_told("degraded")
            assert 3.0 <= told - gone <= 7.0
            assert watched.availability.degraded
            assert (watched.metrics.outages, watched.metrics.degraded) == (1, 1)

    story()


@pytest.mark.parametrize("way", WAYS)
def test_a_log_that_is_away_for_three_seconds_is_told_to_nobody(way: Way) -> None:
    @virtual_time
    async def story() -> None:
        async with Watched() as watched:
            for moment in (0.1, 0.9, 1.7):
                await asyncio.sleep(20.0 + moment)
                watched.log.go_away(way)
                await asyncio.sleep(3.0)
                watched.log.come_back()
            await asyncio.sleep(20.0)
            assert watched.told == []

    story()


@virtual_time
async def test_hiccups_with_answers_between_them_do_not_add_up() -> None:
    async with Watched() as watched:
        await asyncio.sleep(1.0)
        for _ in range(20):
            watched.log.go_away()
            await asyncio.sleep(2.5)
            watched.log.come_back()
            await asyncio.sleep(2.1)
        assert watched.told == []


@virtual_time
async def test_since_is_when_it_was_first_found_away_as_times_are_written_on_the_wire() -> None:
    async with Watched() as watched:
        await asyncio.sleep(11.0)
        watched.log.go_away()
        await watched.until_told("degraded")
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        first_failure = next(at for at in watched.log.checks if at > 1_011.0)
        expected = datetime.fromtimestamp(loop.wall_clock() - loop.time() + first_failure, UTC)
        since = watched.availability.since
        assert since is not None
        assert abs((datetime.fromisoformat(since) - expected).total_seconds()) < 0.01
        assert len(since) == len("2026-11-20T09:00:00.123456+00:00")
        assert since.endswith("+00:00")


@virtual_time
async def test_while_it_is_away_it_is_asked_after_one_two_and_four_seconds_with_jitter() -> None:
    async with Watched() as watched:
        await asyncio.sleep(10.0)
        watched.log.go_away()
        await watched.until_told("degraded")
        asked = len(watched.log.checks)
        await asyncio.sleep(200.0)
        times = watched.log.checks[asked - 1 :]
        pauses = [b - a for a, b in itertools.pairwise(times)]
        for pause, whole in zip(pauses, [1.0, 2.0, *[4.0] * len(pauses)], strict=False):
            assert whole / 2 <= pause <= whole + 0.001
        assert len({round(pause, 3) for pause in pauses}) > len(pauses) / 2, "there is no jitter"


@pytest.mark.parametrize("way", WAYS)
def test_its_return_is_told_without_anybodys_help(way: Way) -> None:
    @virtual_time
    async def story() -> None:
        async with Watched() as watched:
            await asyncio.sleep(10.0)
            for seconds in (10.0, 100.0):
                watched.crowd.told.clear()
                watched.log.go_away(way)
                await watched.until_told("degraded")
                await asyncio.sleep(seconds)
                watched.log.come_back()
                back = now()
                assert await watched.until_told("degraded", "restored") - back <= 4.1
                assert (watched.availability.degraded, watched.metrics.degraded) == (False, 0)
            assert watched.metrics.outages == 2

    story()


@virtual_time
async def test_a_hiccup_right_after_an_outage_is_told_to_nobody() -> None:
    async with Watched() as watched:
        await asyncio.sleep(10.0)
        watched.log.go_away()
        await watched.until_told("degraded")
        restore = watched.crowd.members[0].restore

        def restored_and_away() -> None:
            restore()
            watched.log.go_away()

        watched.crowd.members[0].restore = restored_and_away  # type: ignore[method-assign]
        watched.log.come_back()
        await watched.until_told("degraded", "restored")
        await asyncio.sleep(2.5)
        watched.log.come_back()
        await asyncio.sleep(20.0)
        assert watched.told == ["degraded", "restored"]


@virtual_time
async def test_an_outbox_that_gets_something_into_the_log_has_it_asked_at_once() -> None:
    async with Watched() as watched:
        await asyncio.sleep(10.0)
        watched.log.go_away()
        await watched.until_told("degraded")
        await asyncio.sleep(100.0)
        asked = len(watched.log.checks)
        await until(lambda: len(watched.log.checks) > asked, "the next question", 10.0)
        await asyncio.sleep(0.6)  # the next one is 1.4 s away at least
        watched.log.come_back()
        outbox = watched.outboxes.of("alice")  # type: ignore[arg-type]
        outbox.put(watched.outboxes._encoder.encode("work", {}, b',"user_id":"alice"'))
        back = now()
        assert await watched.until_told("degraded", "restored") - back < 0.1


@virtual_time
async def test_a_log_that_is_away_at_the_start_counts_as_away_from_the_first_failure_on() -> None:
    watched = Watched()
    watched.log.go_away()
    async with watched:
        await turns()
        assert watched.availability.degraded
        await asyncio.sleep(30.0)
        watched.log.come_back()
        await watched.until_told("degraded", "restored")


@virtual_time
async def test_an_event_loop_that_stands_still_is_not_held_against_the_log() -> None:
    """The time limit of the question runs out while nothing runs here; the answer was there all the time."""

    class Blocked(AwayLog):
        stall = 0.0

        async def check(self) -> None:
            self.checks.append(now())
            if self.stall:
                loop = asyncio.get_running_loop()
                assert isinstance(loop, VirtualLoop)
                loop.now += self.stall
                self.stall = 0.0
                await asyncio.sleep(0.001)  # the answer is read behind the timers that are due

    watched = Watched(limits=Limits(check_interval=1.0, degraded_after=0.5))
    log = watched.availability._store = Blocked()
    async with watched:
        for _ in range(5):
            await asyncio.sleep(3.0)
            log.stall = 10.0
        await asyncio.sleep(5.0)
        assert watched.told == []
        assert log.stall == 0.0


@virtual_time
async def test_after_a_long_stall_one_failure_is_not_enough() -> None:
    async with Watched() as watched:
        await asyncio.sleep(10.0)
        watched.loop.now += 30.0
        watched.log.go_away()
        asked = len(watched.log.checks)
        await until(lambda: len(watched.log.checks) > asked)
        await turns()
        assert not watched.availability.degraded
        await asyncio.sleep(1.0)
        watched.log.come_back()
        await asyncio.sleep(10.0)
        assert watched.told == []


@virtual_time
async def test_when_the_log_is_back_not_everybody_reads_at_once() -> None:
    async with Watched(connections=10_000) as watched:
        await asyncio.sleep(10.0)
        watched.log.go_away()
        await until(lambda: len(watched.told) == 10_000, "telling everybody", 30.0)
        began = watched.crowd.told[0][1]
        assert watched.crowd.told[-1][1] - began < 1.0
        watched.crowd.told.clear()
        watched.log.come_back()
        await until(lambda: len(watched.told) == 10_000, "telling everybody", 30.0)
        assert set(watched.told) == {"restored"}
        times = [at for _, at in watched.crowd.told]
        assert 1.0 < times[-1] - times[0] < 3.0
        assert max(times.count(at) for at in set(times)) <= TOLD_AT_ONCE
        assert len(times) / READS_PER_SECOND <= 3.0
        assert len({round(b - a, 6) for a, b in zip(times, times[100:], strict=False)}) > 20, "there is no jitter"


@virtual_time
async def test_a_few_connections_are_told_at_once() -> None:
    async with Watched(connections=100) as watched:
        await asyncio.sleep(10.0)
        watched.log.go_away()
        await until(lambda: len(watched.told) == 100, "telling everybody", 30.0)
        assert len({at for _, at in watched.crowd.told}) == 1
        watched.log.come_back()
        await until(lambda: len(watched.told) == 200, "telling everybody", 30.0)
        assert len({at for _, at in watched.crowd.told}) == 2


@virtual_time
async def test_a_store_that_raises_something_else_is_away_and_that_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched()

    async def broken() -> None:
        raise ZeroDivisionError

    watched.log.check = broken  # type: ignore[method-assign]
    with caplog.at_level(logging.ERROR):
        async with watched:
            await turns()
            assert watched.availability.degraded
    assert "could not be asked" in caplog.text


@virtual_time
async def test_a_job_that_ends_takes_its_outage_with_it() -> None:
    watched = Watched()
    watched.log.go_away()
    for _ in range(2):
        async with watched:
            await turns()
            assert (watched.availability.degraded, watched.metrics.degraded) == (True, 1)
        assert (watched.availability.degraded, watched.metrics.degraded) == (False, 0)


@virtual_time
async def test_whom_a_job_left_degraded_the_next_one_restores() -> None:
    """It was ended alone, by whatever mistake, and the connections live on."""
    watched = Watched(connections=3)
    async with watched:
        await asyncio.sleep(1.0)
        watched.log.go_away()
        await watched.until_told(*["degraded"] * 3)
    watched.log.come_back()
    async with watched:
        await watched.until_told(*["degraded"] * 3, *["restored"] * 3)


@virtual_time
async def test_a_job_whose_loop_is_gone_leaves_nothing_behind() -> None:
    """Nothing of it ran to its end, so the next one begins with that."""
    watched = Watched()
    watched.log.go_away()
    async with watched:
        await turns()
        assert watched.availability.degraded
        again = watched.availability.run()
        assert (watched.availability.degraded, watched.metrics.degraded) == (False, 0)
        again.close()


@virtual_time
async def test_outboxes_know_that_the_log_is_away_and_let_nobody_wait_for_it() -> None:
    watched = Watched()
    watched.log.go_away("frozen")
    async with watched:
        await until(lambda: watched.availability.degraded)
        outbox = watched.outboxes.of("alice")  # type: ignore[arg-type]
        began = now()
        for _ in range(3):
            outbox.put(watched.outboxes._encoder.encode("work", {}, b',"user_id":"alice"'))
            await outbox.settled()
        assert now() == began
        idle = watched.outboxes.of("bob")  # type: ignore[arg-type]
        assert idle.reserve()
        watched.log.come_back()
        await watched.until_told("degraded", "restored")
        assert not idle.failing
        idle.release()
        await outbox.flush()
        assert not watched.outboxes.of("alice").failing  # type: ignore[arg-type]


@virtual_time
async def test_a_manager_starts_while_its_log_is_away_and_serves_when_it_is_back() -> None:
    log = AwayLog()
    log.go_away()
    async with a_manager(log) as manager:
        await until(lambda: manager.availability.degraded)
        with pytest.raises(ConnectionRefused, match="overloaded"):
            await manager.connect_user(FakeSocket(), "alice")
        log.come_back()
        await until(lambda: not manager.availability.degraded, seconds=10.0)
        tab = await Tab.open(manager, "alice")
        await manager.get_emitter("alice").emit("work", {"n": 1})
        await tab.has(1)
        assert [frame["type"] for frame in tab.socket.frames] == ["connected", "work"]
