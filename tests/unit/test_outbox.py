"""How events get into a log: retries with back-off, and the ordered, bounded outbox that never holds up a run."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.support import turns, until, virtual_time
from websocket_core.appender import SAMPLE, TURN, Appender
from websocket_core.errors import AppendFailed, LogUnavailable, ManagerClosed
from websocket_core.events import Event, EventEncoder, owner_part
from websocket_core.identity import LogName, UserId
from websocket_core.limits import Limits, RetryPolicy
from websocket_core.log import Position
from websocket_core.logs.memory import MemoryLog
from websocket_core.metrics import Metrics
from websocket_core.outbox import SETTLE_SECONDS, Outbox, Outboxes

LOG = LogName("user", "alice")


class Writer:
    """A log that remembers what came, and does with the next calls what its plan says."""

    def __init__(self, *plan: BaseException | str) -> None:
        self.plan: deque[BaseException | str] = deque(plan)
        self.calls: list[str] = []
        self.appended: list[Event] = []
        self.logs: list[LogName] = []
        self.well = asyncio.Event()

    @property
    def ids(self) -> list[str]:
        return [event.id for event in self.appended]

    @property
    def told(self) -> list[object]:
        """Ids, and for `events_dropped` how many."""
        bodies = [json.loads(event.body + b"}") for event in self.appended]
        return [body["data"]["count"] if body["type"] == "events_dropped" else body["id"] for body in bodies]

    async def append(self, log: LogName, event: Event) -> Position:
        self.calls.append(event.id)
        step = self.plan.popleft() if self.plan else ""
        if isinstance(step, BaseException):
            raise step
        if step == "hang":
            await self.well.wait()
        if step == "suspend":
            await asyncio.sleep(0)
        self.appended.append(event)
        self.logs.append(log)
        return Position("e", len(self.appended), event.id)


def an_event(event_id: str, size: int = 0) -> Event:
    return Event(event_id, f'{{"type":"x","data":{{}},"id":"{event_id}"{" " * size}'.encode())


class Rng(random.Random):
    """Always the upper bound, and notes what it was asked for."""

    def __init__(self, part: float = 1.0) -> None:
        super().__init__(0)
        self.asked: list[tuple[float, float]] = []
        self.part = part

    def uniform(self, a: float, b: float) -> float:
        self.asked.append((a, b))
        return a + (b - a) * self.part


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


def an_appender(
    writer: Any,
    retry: RetryPolicy | None = None,
    *,
    time: Time | None = None,
    rng: random.Random | None = None,
    metrics: Metrics | None = None,
    sleep: Callable[[float], Awaitable[None]] | None = None,
) -> Appender:
    time = time or Time()
    return Appender(
        writer,
        retry=retry or RetryPolicy(),
        metrics=metrics or Metrics(),
        monotonic=time,
        rng=rng or Rng(),
        sleep=sleep or time.sleep,
    )


AWAY = LogUnavailable("away")


# -- the appender


async def test_an_append_that_succeeds_returns_its_position_and_never_sleeps() -> None:
    time, rng, metrics, writer = Time(), Rng(), Metrics(), Writer()
    appender = an_appender(writer, time=time, rng=rng, metrics=metrics)
    assert await appender.append(LOG, an_event("e1")) == Position("e", 1, "e1")
    assert (time.slept, rng.asked, writer.calls, writer.logs) == ([], [], ["e1"], [LOG])
    assert (metrics.events_appended, metrics.retries, metrics.append_failures) == (1, 0, 0)


async def test_a_failed_append_is_tried_again_with_exponential_back_off_and_full_jitter() -> None:
    time, rng, metrics, writer = Time(), Rng(0.5), Metrics(), Writer(*[AWAY] * 6)
    policy = RetryPolicy(attempts=7, initial=0.1, maximum=1.0, seconds=100.0)
    appender = an_appender(writer, policy, time=time, rng=rng, metrics=metrics)
    assert await appender.append(LOG, an_event("e1")) == Position("e", 1, "e1")
    assert writer.calls == ["e1"] * 7, "the same id each time"
    assert [low for low, _ in rng.asked] == [0.0] * 6
    assert [high for _, high in rng.asked] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])
    assert time.slept == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.5, 0.5])
    assert (metrics.events_appended, metrics.retries, metrics.append_failures) == (1, 6, 0)


async def test_the_latency_of_one_append_in_sixteen_is_measured_from_the_call() -> None:
    time, metrics = Time(), Metrics()

    class Slow(Writer):
        async def append(self, log: LogName, event: Event) -> Position:
            time.now += float(len(self.calls) + 1)
            return await super().append(log, event)

    appender = an_appender(Slow(), time=time, metrics=metrics)
    for number in range(SAMPLE * 2):
        await appender.append(LOG, an_event(f"e{number}"))
    assert metrics.append_latency.sum == SAMPLE + SAMPLE * 2
    assert sum(metrics.append_latency.counts) == 2
    assert metrics.events_appended == SAMPLE * 2


async def test_the_latency_of_an_append_contains_its_retries() -> None:
    time, metrics = Time(), Metrics()
    appender = an_appender(
        Writer(*[""] * (SAMPLE - 1), AWAY, AWAY), RetryPolicy(initial=0.1), time=time, metrics=metrics
    )
    for number in range(SAMPLE):
        await appender.append(LOG, an_event(f"e{number}"))
    assert metrics.append_latency.sum == pytest.approx(0.1 + 0.2)


@pytest.mark.parametrize("attempts", [1, 2, 5])
async def test_when_every_attempt_is_spent_the_error_carries_the_event_id(attempts: int) -> None:
    metrics, writer = Metrics(), Writer(*[AWAY] * 10)
    appender = an_appender(writer, RetryPolicy(attempts=attempts, seconds=1000.0), metrics=metrics)
    with pytest.raises(AppendFailed) as failed:
        await appender.append(LOG, an_event("e1"))
    assert (failed.value.event_id, failed.value.attempts) == ("e1", attempts)
    assert failed.value.__cause__ is AWAY
    assert writer.calls == ["e1"] * attempts
    assert (metrics.append_failures, metrics.retries, metrics.events_appended) == (1, attempts - 1, 0)


async def test_no_attempt_starts_later_than_the_policy_allows() -> None:
    """Neither by the time that attempts took, nor by the pause that would come before the next."""
    time = Time()
    starts: list[float] = []

    class Slow(Writer):
        async def append(self, log: LogName, event: Event) -> Position:
            starts.append(time.now - 100.0)
            time.now += 1.0
            raise AWAY

    policy = RetryPolicy(attempts=100, seconds=10.0, initial=3.0, maximum=3.0)
    with pytest.raises(AppendFailed):
        await an_appender(Slow(), policy, time=time).append(LOG, an_event("e1"))
    assert starts == [0.0, 4.0, 8.0]


async def test_an_attempt_may_start_exactly_at_the_last_moment() -> None:
    time = Time()
    policy = RetryPolicy(attempts=100, seconds=6.0, initial=3.0, maximum=3.0)
    writer = Writer(AWAY, AWAY)
    await an_appender(writer, policy, time=time).append(LOG, an_event("e1"))
    assert time.slept == [3.0, 3.0]


async def test_the_back_off_of_one_append_does_not_lengthen_that_of_the_next() -> None:
    rng = Rng()
    appender = an_appender(Writer(AWAY, AWAY, "", AWAY, AWAY), RetryPolicy(initial=0.1), rng=rng)
    await appender.append(LOG, an_event("e1"))
    await appender.append(LOG, an_event("e2"))
    assert [bound for _, bound in rng.asked] == [0.1, 0.2, 0.1, 0.2]


async def test_what_is_no_unavailable_log_is_not_tried_again() -> None:
    for error in (ValueError("x"), KeyError("x"), OSError("x")):
        for plan in ([error], [AWAY, error]):
            writer = Writer(*plan)
            with pytest.raises(type(error)) as raised:
                await an_appender(writer).append(LOG, an_event("e1"))
            assert raised.value is error
            assert len(writer.calls) == len(plan)


@virtual_time
async def test_a_cancelled_append_stops_trying() -> None:
    writer = Writer(*[AWAY] * 100)
    appender = an_appender(writer, RetryPolicy(attempts=100, seconds=1000.0), sleep=asyncio.sleep)
    task = asyncio.create_task(appender.append(LOG, an_event("e1")))
    await until(lambda: len(writer.calls) == 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(100)
    assert len(writer.calls) == 3


async def test_a_cancellation_inside_the_log_is_not_taken_for_a_failure() -> None:
    writer = Writer(AWAY, "hang")
    task = asyncio.create_task(an_appender(writer).append(LOG, an_event("e1")))
    await until(lambda: len(writer.calls) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(writer.calls) == 2


async def test_after_the_end_nothing_is_appended() -> None:
    writer = Writer()
    appender = an_appender(writer)
    appender.closed = True
    with pytest.raises(ManagerClosed):
        await appender.append(LOG, an_event("e1"))
    assert writer.calls == []


async def test_a_retry_whose_reply_was_lost_appends_once() -> None:
    log = MemoryLog()

    class LosesTheReply:
        lost = False

        async def append(self, name: LogName, event: Event) -> Position:
            position = await log.append(name, event)
            if not self.lost:
                self.lost = True
                raise LogUnavailable("the reply was lost")
            return position

    position = await an_appender(LosesTheReply()).append(LOG, an_event("e1"))
    batch = await log.read(LOG, None, 10)
    assert [entry.position for entry in batch.entries] == [position]


@pytest.mark.parametrize("surely", [False, True])
async def test_a_producer_that_never_waits_gives_the_loop_a_turn_every_64_appends(surely: bool) -> None:
    """A log in memory never suspends, so without this a tight loop of emits would starve every socket."""
    appender = an_appender(Writer())
    ticks = 0

    async def ticking() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    async def append(number: int) -> None:
        if surely:
            await appender.append_surely(LOG, an_event(f"e{number}"), lambda: None)
        else:
            await appender.append(LOG, an_event(f"e{number}"))

    other = asyncio.create_task(ticking())
    await asyncio.sleep(0)
    seen = []
    for number in range(TURN * 3):
        before = ticks
        await append(number)
        if ticks > before:
            seen.append(number + 1)
    other.cancel()
    assert seen == [TURN, TURN * 2, TURN * 3]
    assert TURN == 64


async def test_a_sure_append_has_no_last_attempt_and_its_pauses_stay_bounded() -> None:
    time, rng, failures = Time(), Rng(), []
    writer = Writer(*[AWAY] * 2_000)
    appender = an_appender(writer, RetryPolicy(attempts=2, seconds=1.0, initial=0.1, maximum=2.0), time=time, rng=rng)
    position = await appender.append_surely(LOG, an_event("e1"), lambda: failures.append(time.now))
    assert position == Position("e", 1, "e1")
    assert len(writer.calls) == 2_001
    assert len(failures) >= 2_000, "told of each failure"
    assert max(time.slept) == 2.0


def test_jitter_is_there_by_default() -> None:
    """Without it, a thousand emitters of a log that came back would all knock at once."""
    appender = Appender(Writer(), retry=RetryPolicy(), metrics=Metrics())
    assert isinstance(appender._rng, random.SystemRandom)


# -- the outbox


class Box:
    """An outbox with everything around it."""

    def __init__(self, writer: Writer | None = None, limits: Limits | None = None) -> None:
        self.writer = writer or Writer()
        self.metrics = Metrics()
        self.limits = limits or Limits()
        self.idle = 0
        self.appender = Appender(
            self.writer, retry=RetryPolicy(initial=0.1, maximum=2.0), metrics=self.metrics, rng=Rng()
        )
        self.encoder = EventEncoder(event_bytes=10_000, event_depth=10, clock=lambda: 0.0)
        self.outbox = Outbox(
            LOG,
            owner_part(UserId("alice")),
            appender=self.appender,
            encoder=self.encoder,
            limits=self.limits,
            metrics=self.metrics,
            idle=self._note_idle,
        )

    def _note_idle(self) -> None:
        self.idle += 1

    def put(self, *ids: str, reserved: bool = False) -> list[bool]:
        return [self.outbox.put(an_event(event_id), reserved=reserved) for event_id in ids]


def no_tasks_are_left() -> bool:
    return asyncio.all_tasks() == {asyncio.current_task()}


@virtual_time
async def test_events_come_out_in_the_order_they_were_put() -> None:
    plan: list[BaseException | str] = ["suspend", AWAY, "", "suspend"]
    box = Box(Writer(*plan * 100))
    ids = [f"e{number}" for number in range(200)]
    for event_id in ids:
        assert box.put(event_id) == [True]
        if event_id.endswith("7"):
            await turns(3)
    await box.outbox.flush()
    assert box.writer.ids == ids


async def test_put_only_queues_and_never_waits() -> None:
    box = Box()
    box.put("e1", "e2")
    assert (len(box.outbox), box.writer.calls) == (2, [])
    assert box.outbox.in_use
    await box.outbox.flush()
    assert (len(box.outbox), box.writer.ids) == (0, ["e1", "e2"])


async def test_the_pump_lives_only_while_something_waits() -> None:
    box = Box()
    assert no_tasks_are_left()
    for round_ in range(1, 4):
        box.put("e1", "e2")
        await box.outbox.flush()
        await turns()
        assert no_tasks_are_left()
        assert not box.outbox.in_use
        assert box.idle == round_


@virtual_time
async def test_a_log_that_is_away_is_tried_until_it_is_back_and_the_order_holds() -> None:
    box = Box(Writer(*[AWAY] * 50))
    box.put("e1", "e2", "e3")
    await until(lambda: box.outbox.failing)
    await box.outbox.flush()
    assert box.writer.ids == ["e1", "e2", "e3"]
    assert box.writer.calls == ["e1"] * 51 + ["e2", "e3"], "what is behind does not overtake"
    assert not box.outbox.failing
    assert box.metrics.events_dropped == 0


@virtual_time
async def test_above_the_count_events_are_dropped_and_told_in_their_place() -> None:
    box = Box(Writer("hang"), Limits(outbox=3))
    assert box.put("e1", "e2", "e3", "e4", "e5") == [True, True, True, False, False]
    await turns()
    assert len(box.outbox) == 4, "all drops in a row take one place"
    box.writer.well.set()
    await box.outbox.flush()
    assert box.put("e6") == [True]
    await box.outbox.flush()
    assert box.writer.told == ["e1", "e2", "e3", 2, "e6"]
    assert box.metrics.events_dropped == 2


@virtual_time
async def test_drops_at_different_places_are_told_at_each() -> None:
    box = Box(Writer("hang"), Limits(outbox=10, outbox_bytes=300))
    box.put("e1")
    await turns()
    for number in (2, 3):
        assert not box.outbox.put(an_event(f"big{number}", 1_000))
        assert box.outbox.put(an_event(f"e{number}"))
    box.writer.well.set()
    await box.outbox.flush()
    assert box.writer.told == ["e1", 1, "e2", 1, "e3"]


@virtual_time
async def test_a_drop_while_an_earlier_one_is_being_told_is_told_anew() -> None:
    """The count in an event that is on its way to the log cannot be raised any more."""
    box = Box(Writer("", "hang"), Limits(outbox=1))
    assert box.put("e1", "e2") == [True, False]
    await until(lambda: len(box.writer.calls) == 2)
    box.outbox.drop()
    box.outbox.drop()
    box.writer.well.set()
    await box.outbox.flush()
    assert box.writer.told == ["e1", 1, 2]
    assert box.metrics.events_dropped == 3


@virtual_time
async def test_what_is_told_of_drops_is_told_once_though_the_log_fails() -> None:
    """Every attempt has the same id, so the log can tell a repetition."""
    box = Box(Writer("", AWAY, AWAY), Limits(outbox=1))
    box.put("e1", "e2")
    await box.outbox.flush()
    assert box.writer.told == ["e1", 1]
    assert len(set(box.writer.calls[1:])) == 1


@virtual_time
async def test_above_the_bytes_events_are_dropped_and_room_comes_back() -> None:
    size = len(an_event("e1", 100).body)
    box = Box(Writer("hang"), Limits(outbox_bytes=size * 2))
    assert [box.outbox.put(an_event(f"e{number}", 100)) for number in (1, 2, 3)] == [True, True, False]
    await turns()
    box.writer.well.set()
    await box.outbox.flush()
    assert [box.outbox.put(an_event(f"f{number}", 100)) for number in (1, 2, 3)] == [True, True, False]
    await box.outbox.flush()
    assert box.writer.told == ["e1", "e2", 1, "f1", "f2", 1]


@virtual_time
async def test_telling_of_drops_makes_no_room_that_was_not_there() -> None:
    size = len(an_event("e1", 100).body)
    box = Box(Writer(), Limits(outbox_bytes=size))
    for _ in range(5):
        assert [box.outbox.put(an_event(event_id, 100)) for event_id in ("e1", "e2")] == [True, False]
        await box.outbox.flush()


@virtual_time
async def test_a_reserved_slot_is_kept_free_and_its_event_always_fits() -> None:
    box = Box(Writer("hang"), Limits(outbox=3, outbox_bytes=200))
    assert box.outbox.reserve()
    assert box.put("e1", "e2", "e3") == [True, True, False], "two of three: one is spoken for"
    assert not box.outbox.reserve(), "nothing is left to keep"
    assert box.outbox.put(an_event("end", 10_000), reserved=True), "whatever its size"
    box.writer.well.set()
    await box.outbox.flush()
    assert box.writer.told == ["e1", "e2", 1, "end"]


@virtual_time
async def test_a_reservation_is_used_once() -> None:
    box = Box(Writer("hang"), Limits(outbox=2))
    assert box.outbox.reserve()
    assert box.outbox.reserve()
    assert not box.outbox.reserve()
    assert box.put("end1", reserved=True) == [True]
    assert not box.outbox.reserve(), "it became an event that waits"
    box.outbox.release()
    assert box.outbox.reserve(), "what was given back can be taken again"
    box.writer.well.set()
    box.outbox.release()
    await box.outbox.flush()
    assert box.writer.told == ["end1"]


async def test_giving_back_too_often_makes_no_room() -> None:
    box = Box(limits=Limits(outbox=1))
    for _ in range(3):
        box.outbox.release()
    assert box.outbox.reserve()
    assert not box.outbox.reserve()


async def test_an_outbox_is_idle_when_nothing_waits_and_nothing_is_reserved() -> None:
    box = Box()
    box.outbox.reserve()
    box.put("e1")
    await box.outbox.flush()
    assert (box.idle, box.outbox.in_use) == (0, True)
    box.put("end", reserved=True)
    await box.outbox.flush()
    assert (box.idle, box.outbox.in_use) == (1, False)
    box.outbox.reserve()
    box.outbox.release()
    assert (box.idle, box.outbox.in_use) == (2, False)


# -- settled


async def test_settled_returns_when_what_was_put_is_in_the_log() -> None:
    box = Box(Writer("suspend", "suspend"))
    box.put("e1", "e2")
    await box.outbox.settled()
    assert box.writer.ids == ["e1", "e2"]
    await box.outbox.settled()


@virtual_time
async def test_settled_does_not_wait_for_what_is_put_later() -> None:
    box = Box(Writer("suspend", "hang"))
    box.put("e1")
    waiting = asyncio.create_task(box.outbox.settled())
    await asyncio.sleep(0)
    box.put("e2")
    before = asyncio.get_running_loop().time()
    await waiting
    assert asyncio.get_running_loop().time() == before
    assert box.writer.ids == ["e1"]
    box.writer.well.set()
    await box.outbox.flush()


@virtual_time
async def test_settled_waits_for_no_log_that_fails() -> None:
    box = Box(Writer(*[AWAY] * 5))
    box.put("e1")
    loop = asyncio.get_running_loop()
    before = loop.time()
    await box.outbox.settled()
    assert (loop.time(), box.writer.ids) == (before, []), "the first failure ends the waiting"
    box.put("e2")
    await box.outbox.settled()
    assert loop.time() == before
    await box.outbox.flush()
    box.put("e3")
    await box.outbox.settled()
    assert box.writer.ids == ["e1", "e2", "e3"], "with the log back, it waits again"


@virtual_time
async def test_a_log_that_hangs_costs_one_bounded_wait_and_not_one_for_each_event() -> None:
    """A run of a thousand steps must not take a thousand seconds because the log neither takes nor refuses."""
    box = Box(Writer("hang"))
    loop = asyncio.get_running_loop()
    before = loop.time()
    for number in range(1_000):
        box.put(f"e{number}")
        await box.outbox.settled()
    assert loop.time() - before == pytest.approx(SETTLE_SECONDS)
    box.writer.well.set()
    await box.outbox.flush()
    assert len(box.writer.ids) == 1_000
    box.put("last")
    await box.outbox.settled()
    assert box.writer.ids[-1] == "last"


@pytest.mark.parametrize("ended", [False, True])
async def test_a_run_that_never_waits_gives_others_a_turn_though_there_is_nothing_to_wait_for(ended: bool) -> None:
    """With the log away, or the manager shut down, every put is settled at once."""
    box = Box(Writer("hang"))
    box.put("e1")
    await turns()
    box.outbox._failed()
    box.appender.closed = ended
    ticks = 0

    async def ticking() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(ticking())
    for number in range(TURN * 5):
        box.put(f"f{number}")
        await box.outbox.settled()
    other.cancel()
    assert ticks >= 4
    await box.outbox.close()


@virtual_time
async def test_waiting_for_a_log_that_hangs_leaves_nothing_behind() -> None:
    box = Box(Writer("hang"), Limits(outbox=2))
    for number in range(500):
        box.put(f"e{number}")
        await box.outbox.settled()
    assert len(box.outbox._waiters) <= 1
    box.writer.well.set()
    await box.outbox.flush()


@virtual_time
async def test_a_cancelled_wait_harms_neither_the_event_nor_the_others_who_wait() -> None:
    box = Box(Writer("hang"))
    box.put("e1")
    first, second = (asyncio.create_task(box.outbox.settled()) for _ in range(2))
    await turns()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    box.writer.well.set()
    await second
    assert box.writer.ids == ["e1"]


# -- a backend that breaks its contract


@virtual_time
async def test_an_event_that_breaks_the_backend_is_dropped_and_holds_up_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    box = Box(Writer("", ValueError("secret payload"), AWAY, KeyError("x")))
    box.put("e1", "poison", "e2", "e3")
    await box.outbox.settled()
    await box.outbox.flush()
    assert box.writer.ids == ["e1", "e3"], "e2 failed once as it should and then broke the contract too"
    assert box.metrics.events_dropped == 2
    assert not box.outbox.failing
    assert [record.levelname for record in caplog.records if record.exc_info] == ["ERROR", "ERROR"]
    box.put("e4")
    await box.outbox.settled()
    assert box.writer.ids[-1] == "e4"


@virtual_time
async def test_the_room_of_an_event_that_broke_the_backend_is_given_back() -> None:
    size = len(an_event("e1").body)
    box = Box(Writer(ValueError("x")), Limits(outbox=1, outbox_bytes=size))
    for number in range(3):
        assert box.put(f"e{number}") == [True]
        await box.outbox.flush()


# -- the end


@virtual_time
async def test_closing_ends_the_pump_and_counts_what_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    box = Box(Writer("hang"))
    box.put("e1", "e2")
    waiting = asyncio.create_task(box.outbox.settled())
    await turns()
    began = asyncio.get_running_loop().time()
    with caplog.at_level(logging.ERROR):
        await box.outbox.close()
    await waiting
    assert asyncio.get_running_loop().time() == began, "who waits is let go at once"
    assert no_tasks_are_left()
    assert [(record.levelname, record.__dict__["events"]) for record in caplog.records] == [("ERROR", 2)]
    await box.outbox.flush()
    assert (box.writer.ids, len(box.outbox)) == ([], 0)


async def test_closing_an_idle_outbox_is_nothing(caplog: pytest.LogCaptureFixture) -> None:
    box = Box()
    await box.outbox.close()
    box.put("e1")
    await box.outbox.flush()
    await box.outbox.close()
    assert box.writer.ids == ["e1"]
    assert caplog.records == []


async def test_closing_waits_for_a_pump_in_a_log_that_finishes_its_append() -> None:
    """An append is whole or not at all, also when it is cancelled: a backend may take a moment for that."""

    class Careful(Writer):
        async def append(self, log: LogName, event: Event) -> Position:
            try:
                await self.well.wait()
            except asyncio.CancelledError:
                await turns(5)
                raise
            return Position("e", 1, "e1")

    box = Box(Careful())
    box.put("e1")
    await turns()
    await box.outbox.close()
    assert no_tasks_are_left()


async def test_after_the_end_a_run_may_put_and_nothing_happens_but_counting() -> None:
    """An agent that is still running when the server stops must not see an error, nor keep a task alive."""
    box = Box()
    assert box.outbox.reserve()
    box.appender.closed = True
    assert box.put("e1") == [False]
    assert box.put("end", reserved=True) == [False]
    box.outbox.drop()
    await box.outbox.settled()
    await box.outbox.flush()
    await turns()
    assert no_tasks_are_left()
    assert box.writer.calls == []
    assert box.metrics.events_dropped == 3
    assert not box.outbox.in_use
    assert box.idle > 0


# -- all outboxes of a manager


class Boxes:
    def __init__(self, writer: Any) -> None:
        self.metrics = Metrics()
        self.appender = Appender(writer, retry=RetryPolicy(), metrics=self.metrics, rng=Rng())
        self.encoder = EventEncoder(event_bytes=10_000, event_depth=10, clock=lambda: 0.0)
        self.all = Outboxes(self.appender, encoder=self.encoder, limits=Limits(outbox=1), metrics=self.metrics)

    def of(self, name: str) -> Outbox:
        return self.all.of(UserId(name))


async def test_each_user_has_an_outbox_of_their_own_while_it_is_used() -> None:
    boxes = Boxes(MemoryLog())
    alice = boxes.of("alice")
    assert boxes.of("alice") is alice
    assert boxes.of("Alice") is not alice
    alice.reserve()
    await turns()
    assert boxes.of("alice") is alice
    boxes.of("bob").put(an_event("e1"))
    await boxes.all.flush()
    await turns()
    assert len(boxes.all) == 2, "bob's is forgotten; alice's has a reservation, Alice's was never used"
    alice.release()
    assert boxes.of("alice") is not alice


async def test_an_outbox_writes_to_the_log_of_its_user_and_tells_drops_as_that_user() -> None:
    log = MemoryLog()
    boxes = Boxes(log)
    for name in ("alice", "bob"):
        for number in (1, 2):
            boxes.of(name).put(an_event(f"{name}{number}"))
    await boxes.all.flush()
    for name in ("alice", "bob"):
        batch = await log.read(LogName("user", name), None, 10)
        bodies = [json.loads(entry.event.body + b"}") for entry in batch.entries]
        assert [body["id"] for body in bodies][:1] == [f"{name}1"]
        assert bodies[1]["type"] == "events_dropped"
        assert bodies[1]["user_id"] == name


async def test_an_outbox_of_before_does_not_take_its_successor_with_it() -> None:
    """A run that outlives its loop or a restart holds the old one."""
    boxes = Boxes(MemoryLog())
    old = boxes.of("alice")
    old.reserve()
    boxes.all.clear()
    new = boxes.of("alice")
    new.reserve()
    old.release()
    assert boxes.of("alice") is new


@virtual_time
async def test_a_user_whose_events_hang_delays_no_other() -> None:
    class HangsForAlice(Writer):
        async def append(self, log: LogName, event: Event) -> Position:
            if log.name == "alice":
                await self.well.wait()
            return await super().append(log, event)

    writer = HangsForAlice()
    boxes = Boxes(writer)
    boxes.of("alice").put(an_event("a1"))
    await turns()
    boxes.of("bob").put(an_event("b1"))
    await boxes.of("bob").settled()
    assert writer.ids == ["b1"]
    flushing = asyncio.create_task(boxes.all.flush())
    await turns()
    assert not flushing.done()
    writer.well.set()
    await flushing
    assert writer.ids == ["b1", "a1"]


@virtual_time
async def test_closing_all_ends_every_pump() -> None:
    boxes = Boxes(Writer("hang", "hang", "hang"))
    for name in ("alice", "bob", "carol"):
        boxes.of(name).put(an_event(name))
    await turns()
    boxes.appender.closed = True
    await boxes.all.close()
    assert len(boxes.all) == 0
    assert no_tasks_are_left()
