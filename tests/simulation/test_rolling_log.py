"""The store that the simulation rolls back: it keeps every law of a log, and loses what it is told to lose."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.simulation.rolling_log import SNAPSHOTS, RollingLog
from websocket_core.control import CONTROL
from websocket_core.events import Event
from websocket_core.identity import LogName
from websocket_core.limits import Retention
from websocket_core.log import GapReason, LogStore, Position
from websocket_core.log_probe import LOG, OTHER, Wakes, an_event, append, check_chain, ids, read_on
from websocket_core.testing import LogConformance, SuspendingLog


def a_log(retention: Retention | None = None, monotonic: Callable[[], float] = lambda: 0.0) -> RollingLog:
    return RollingLog(retention or Retention(), monotonic=monotonic, entropy=random.Random(1).randbytes)


class TestRollingLog(LogConformance):
    def make_log(self, retention: Retention, monotonic: Callable[[], float]) -> LogStore:
        return a_log(retention, monotonic)


class TestRollingLogThatSuspends(LogConformance):
    def make_log(self, retention: Retention, monotonic: Callable[[], float]) -> LogStore:
        return SuspendingLog(a_log(retention, monotonic))


class TestRollingLogThatWasRolledBack(LogConformance):
    """A history that was lost leaves nothing behind that breaks a law."""

    def make_log(self, retention: Retention, monotonic: Callable[[], float]) -> LogStore:
        log = a_log(retention, monotonic)
        number = log.save()
        for name in (LOG, OTHER):
            coroutine = log.append(name, an_event("e1"))
            with pytest.raises(StopIteration):
                coroutine.send(None)
        assert log.roll_back(number, wake=False) == 2
        return log


async def test_what_came_after_the_snapshot_is_gone_and_the_epoch_stays() -> None:
    log = a_log()
    before = await append(log, 3)
    number = log.save()
    lost = await append(log, 2, first=4)
    assert log.roll_back(number, wake=False) == 2
    assert await log.open(LOG) == before[-1]
    assert ids(await read_on(log, None, 10)) == ["e1", "e2", "e3"]
    for position in lost:
        assert (await log.read(LOG, position, 10)).gap is GapReason.DIVERGED


async def test_an_offset_is_given_to_another_entry_and_its_old_position_is_not_honoured() -> None:
    log = a_log()
    await append(log, 3)
    number = log.save()
    lost = await append(log, 2, first=4)
    log.roll_back(number, wake=False)
    anew = await append(log, 3, first=6)
    assert [position[:2] for position in anew[:2]] == [position[:2] for position in lost]
    for position in lost:
        batch = await log.read(LOG, position, 10)
        assert batch.gap is GapReason.DIVERGED
        assert ids(batch.entries) == ["e1", "e2", "e3", "e6", "e7", "e8"]
    check_chain(await read_on(log, None, 10), Position(lost[0].epoch, 0, ""))


async def test_an_event_that_is_appended_again_is_another_entry() -> None:
    log = a_log()
    await append(log, 1)
    number = log.save()
    (lost,) = await append(log, 1, first=2)
    assert await log.append(LOG, an_event("e2")) == lost
    log.roll_back(number, wake=False)
    (again,) = await append(log, 1, first=2)
    assert again[:2] == lost[:2]
    assert again.mark != lost.mark
    assert await log.append(LOG, an_event("e1")) != again, "what was kept is known by its id"


async def test_each_attempt_to_append_draws_a_mark() -> None:
    drawn: list[int] = []

    def entropy(size: int) -> bytes:
        drawn.append(size)
        return len(drawn).to_bytes(size, "big")

    log = RollingLog(Retention(), monotonic=lambda: 0.0, entropy=entropy)
    await append(log, 1)
    before = len(drawn)
    await append(log, 1)
    assert len(drawn) == before + 1


async def test_what_was_trimmed_and_forgotten_since_is_back() -> None:
    log = a_log(Retention(events=3))
    before = await append(log, 3)
    number = log.save()
    await append(log, 3, first=4)
    await log.forget(LOG)
    await append(log, 1, first=7)
    log.roll_back(number, wake=False)
    assert [entry.position for entry in await read_on(log, None, 10)] == before


async def test_a_log_that_is_younger_than_the_snapshot_begins_another_life() -> None:
    log = a_log()
    number = log.save()
    first = await log.open(LOG)
    log.roll_back(number, wake=False)
    assert (await log.read(LOG, first, 10)).start is None
    assert (await log.open(LOG)).epoch != first.epoch


async def test_the_last_control_entry_is_kept_beyond_retention_and_rolled_back_with_the_rest() -> None:
    log = a_log(Retention(events=1))
    assert await log.control(LOG) is None
    await log.append(LOG, Event("o1", b'{"id":"o1"', CONTROL))
    await append(log, 2)
    number = log.save()
    await log.append(LOG, Event("o2", b'{"id":"o2"', CONTROL))
    for rolled_back, expected in ((False, "o2"), (True, "o1")):
        if rolled_back:
            log.roll_back(number, wake=False)
        entry = await log.control(LOG)
        assert entry is not None
        assert entry.event.id == expected


@pytest.mark.parametrize("wake", [False, True])
async def test_a_rollback_wakes_its_readers_only_if_it_is_to(wake: bool) -> None:
    log = a_log()
    await append(log, 1)
    number = log.save()
    wakes = Wakes(log, LOG)
    log.roll_back(number, wake=wake)
    assert wakes.count == wake
    await append(log, 1, first=2)
    assert wakes.count == wake + 1
    assert log.watched() == 1
    wakes.stop()
    assert log.watched() == 0


async def test_a_snapshot_of_a_history_that_is_no_more_cannot_be_rolled_back_to() -> None:
    log = a_log()
    first = log.save()
    await append(log, 1)
    second = log.save()
    log.roll_back(first, wake=False)
    with pytest.raises(KeyError):
        log.roll_back(second, wake=False)
    for _ in range(10):
        last = log.save()
    assert len(log.snapshots) == SNAPSHOTS
    assert log.snapshots[-1] == last


async def test_a_snapshot_is_not_changed_by_what_comes_later() -> None:
    log = a_log()
    await append(log, 1)
    number = log.save()
    for _ in range(2):
        await append(log, 2, first=2)
        await log.append(LogName("user", "another"), an_event("e1"))
        assert log.roll_back(number, wake=False) == 3
        assert ids(await read_on(log, None, 10)) == ["e1"]
