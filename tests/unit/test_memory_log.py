"""What `MemoryLog` promises beyond the laws of every log: bounded in all, small when empty, and steadily quick."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable, Coroutine
from itertools import count
from types import FrameType
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from websocket_core.events import Event
from websocket_core.identity import LogName
from websocket_core.limits import Limits, Retention
from websocket_core.log import Entry, GapReason
from websocket_core.logs import memory
from websocket_core.logs.memory import ENTRY_OVERHEAD, MemoryLog

T = TypeVar("T")

ids = (f"e{number}" for number in count())


def user(name: object) -> LogName:
    return LogName("user", str(name))


def an_event(size: int = 100) -> Event:
    return Event(next(ids), b"x" * size)


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that must not suspend."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise AssertionError("the call gave up the event loop")


def append(log: MemoryLog, name: object, *sizes: int) -> None:
    for size in sizes:
        at_once(log.append(user(name), an_event(size)))


def held(log: MemoryLog, name: object) -> list[Entry]:
    """All that is retained of one log."""
    entries: list[Entry] = []
    after = None
    while True:
        batch = at_once(log.read(user(name), after, 1_000))
        entries += batch.entries
        if not batch.more:
            return entries
        after = entries[-1].position


def sizes(log: MemoryLog, name: object) -> list[int]:
    """The sizes of the bodies that are retained."""
    return [len(entry.event.body) for entry in held(log, name)]


def cost(log: MemoryLog) -> int:
    """What counts towards `Retention.total_bytes`."""
    statistics = log.statistics()
    return statistics["bytes"] + statistics["entries"] * ENTRY_OVERHEAD


def test_no_call_gives_up_the_event_loop() -> None:
    """Which is what makes each of them one atomic step."""
    log = MemoryLog()
    at_once(log.open(user("a")))
    append(log, "a", 10, 10)
    at_once(log.read(user("a"), None, 10))
    at_once(log.expire())
    at_once(log.forget(user("a")))
    at_once(log.close())


# -- bounded by bytes, all logs together


def test_the_largest_log_is_trimmed_first_whoever_appends() -> None:
    log = MemoryLog(Retention(total_bytes=10 * (100 + ENTRY_OVERHEAD)))
    append(log, "large", *[100] * 6)
    append(log, "small", *[100] * 2)
    append(log, "tiny", 100)
    append(log, "tiny", 100)
    assert [len(held(log, name)) for name in ("large", "small", "tiny")] == [6, 2, 2], "all of this fits"
    append(log, "small", 100)
    append(log, "tiny", 100)
    assert [len(held(log, name)) for name in ("large", "small", "tiny")] == [4, 3, 3]


def test_one_user_who_floods_takes_nothing_from_the_others() -> None:
    log = MemoryLog(Retention(total_bytes=100 * (100 + ENTRY_OVERHEAD)))
    for name in range(20):
        append(log, name, 100, 100)
    append(log, "flood", *[100] * 5_000)
    assert [len(held(log, name)) for name in range(20)] == [2] * 20
    assert len(held(log, "flood")) == 60


def test_a_log_is_as_large_as_what_it_still_holds() -> None:
    """A log that was the largest, and lost most of its entries to age, is a small one."""
    now = [0.0]
    log = MemoryLog(Retention(age=60, total_bytes=30 * (100 + ENTRY_OVERHEAD)), monotonic=lambda: now[0])
    append(log, "was large", *[100] * 25)
    now[0] = 50.0
    append(log, "was large", 100)
    now[0] = 70.0
    assert len(held(log, "was large")) == 1
    append(log, "is larger", *[100] * 20)
    append(log, "is large", *[100] * 15)
    assert [len(held(log, name)) for name in ("was large", "is larger", "is large")] == [1, 14, 15]


def test_a_single_event_larger_than_all_memory_is_kept_until_the_next_append_to_another_log() -> None:
    log = MemoryLog(Retention(total_bytes=10_000))
    append(log, "a", 100)
    append(log, "giant", 20_000)
    assert sizes(log, "giant") == [20_000]
    append(log, "b", 100)
    assert sizes(log, "giant") == []
    assert sizes(log, "a") == sizes(log, "b") == [100]


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from([1, 50, 400, 401, 3_000])), min_size=1, max_size=80),
    st.integers(1, 12),
)
def test_all_logs_together_stay_within_bounds_and_lose_no_more_than_needed(
    appends: list[tuple[int, int]], factor: int
) -> None:
    total = factor * 1_000
    log = MemoryLog(Retention(total_bytes=total))
    before: dict[int, list[int]] = {name: [] for name in range(5)}
    for appended, size in appends:
        append(log, appended, size)
        before[appended].append(size)
        after = {name: sizes(log, name) for name in before}
        weight = {name: sum(left) + ENTRY_OVERHEAD * len(left) for name, left in after.items()}
        dropped = {name: before[name][: len(before[name]) - len(left)] for name, left in after.items()}
        lost = [size for gone in dropped.values() for size in gone]
        assert cost(log) == sum(weight.values())
        assert all(before[name] == [*dropped[name], *after[name]] for name in before), "not the oldest went first"
        assert after[appended], "what was just appended stays"
        alone = len(after[appended]) == 1 and weight[appended] * 1.25 >= max(weight.values())
        assert cost(log) <= total or alone
        if lost:
            assert cost(log) + max(lost) + ENTRY_OVERHEAD > total, "more was dropped than needed"
        for name, gone in dropped.items():
            if gone:
                larger_than = weight[name] + gone[-1] + ENTRY_OVERHEAD
                assert larger_than * 1.25 >= max(weight.values()), "a smaller log was trimmed before a larger one"
        before = after


# -- bounded heads


def test_the_number_of_empty_logs_is_bounded_and_the_longest_unused_goes_first() -> None:
    log = MemoryLog(Retention(heads=10))
    heads = {name: at_once(log.open(user(name))) for name in range(10)}
    at_once(log.open(user(0)))
    for name in range(10, 15):
        heads[name] = at_once(log.open(user(name)))
    assert log.statistics()["heads"] == 10
    for name in (0, *range(6, 15)):
        assert at_once(log.open(user(name))) == heads[name], "a head went that was in use"
    gone = at_once(log.read(user(1), heads[1], 10))
    assert (gone.start, gone.gap) == (None, GapReason.NEW_EPOCH), "the end of an epoch is told"


def test_a_log_that_somebody_watches_keeps_its_head() -> None:
    log = MemoryLog(Retention(heads=10))
    heads = {name: at_once(log.open(user(name))) for name in range(8)}
    stops = [log.watch(user(name), lambda: None) for name in heads]
    for name in range(100, 1_100):
        at_once(log.open(user(name)))
    assert {name: at_once(log.open(user(name))) for name in heads} == heads
    assert log.statistics()["heads"] <= 10 + len(stops)
    for stop in stops:
        stop()
    for name in range(2_000, 2_020):
        at_once(log.open(user(name)))
    assert log.statistics()["heads"] == 10
    assert at_once(log.read(user(0), None, 10)).start is None, "a head that nobody watches any more is kept for ever"


def test_more_watched_logs_than_heads_leave_the_rest_bounded() -> None:
    log = MemoryLog(Retention(heads=10))
    heads = {name: at_once(log.open(user(name))) for name in range(30)}
    for name in heads:
        log.watch(user(name), lambda: None)
        heads[name] = at_once(log.open(user(name)))
    for name in range(100, 1_100):
        at_once(log.open(user(name)))
    assert {name: at_once(log.open(user(name))) for name in heads} == heads
    assert log.statistics()["heads"] <= 30 + 10


def test_logs_that_expired_count_as_empty_ones() -> None:
    now = [0.0]
    log = MemoryLog(Retention(age=60, heads=10), monotonic=lambda: now[0])
    for name in range(50):
        append(log, name, 100)
    assert log.statistics() == {"logs": 50, "heads": 0, "entries": 50, "bytes": 5_000}
    now[0] = 61.0
    at_once(log.expire())
    assert log.statistics() == {"logs": 0, "heads": 10, "entries": 0, "bytes": 0}


# -- what it costs


def traced(work: Callable[[], object]) -> int:
    """How many bytes more are allocated after `work` than before."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = work()
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
        del kept
        return after - before
    finally:
        tracemalloc.stop()


def test_an_empty_log_costs_less_than_a_kilobyte() -> None:
    """About 400 bytes with CPython 3.11, beside its name. A ring that is allocated ahead would cost 8 KB."""
    log = MemoryLog()
    names = [user(f"somebody with a long name {number}") for number in range(1_000)]
    spent = traced(lambda: [at_once(log.open(name)) and None for name in names])
    assert spent / len(names) < 1_000


def test_an_entry_costs_about_what_is_counted_for_it() -> None:
    """365 bytes with CPython 3.11."""
    log = MemoryLog()
    bodies = 0

    def fill() -> None:
        nonlocal bodies
        for number in range(4_000):
            event = Event(f"AbCdEfGhIjK{number:x}", bytes(200 + number % 2))
            bodies += len(event.body)
            at_once(log.append(user("a"), event))

    spent = traced(fill)
    assert log.statistics()["entries"] == 4_000
    assert 0.6 * ENTRY_OVERHEAD < (spent - bodies) / 4_000 < 1.3 * ENTRY_OVERHEAD


def test_nothing_of_a_forgotten_log_is_left() -> None:
    log = MemoryLog(Retention(total_bytes=50 * (100 + ENTRY_OVERHEAD)))

    def come_and_go() -> None:
        for name in range(300):
            append(log, name, *[100] * 40)
            at_once(log.forget(user(name)))

    come_and_go()
    assert log.statistics() == {"logs": 0, "heads": 0, "entries": 0, "bytes": 0}
    assert traced(come_and_go) < 20_000
    append(log, "last", *[100] * 50)
    assert len(held(log, "last")) == 50, "what was forgotten still counts towards the bound"


def test_nothing_of_what_expired_is_left_but_heads() -> None:
    now = [0.0]
    log = MemoryLog(Retention(age=60, total_bytes=50 * (100 + ENTRY_OVERHEAD)), monotonic=lambda: now[0])
    append(log, "a", *[100] * 40)
    now[0] = 61.0
    at_once(log.expire())
    assert log.statistics() == {"logs": 0, "heads": 1, "entries": 0, "bytes": 0}
    append(log, "b", *[100] * 50)
    assert len(held(log, "b")) == 50, "what has expired still counts towards the bound"


def calls(work: Callable[[], object]) -> int:
    """How many functions are called, in Python and in C: a measure of work that does not depend on the machine."""
    number = 0

    def profile(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal number
        number += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(before)
    return number


@pytest.mark.parametrize("others", [10, 3_000])
@pytest.mark.parametrize("own", [10, 3_000])
def test_an_append_costs_the_same_however_many_users_and_events_there_are(others: int, own: int) -> None:
    log = MemoryLog()
    for name in range(others):
        append(log, name, 100)
    append(log, "a", *[100] * own)
    event = an_event()
    assert calls(lambda: at_once(log.append(user("a"), event))) < 30


@pytest.mark.parametrize("others", [10, 3_000])
def test_a_read_of_what_is_new_costs_the_same_however_much_there_is(others: int) -> None:
    log = MemoryLog()
    for name in range(others):
        append(log, name, 100)
    append(log, "a", *[100] * others)
    behind = held(log, "a")[-3].position
    assert calls(lambda: at_once(log.read(user("a"), behind, 256))) < 40


def test_trimming_costs_the_same_for_each_append_however_much_is_kept() -> None:
    def per_append(retention: Retention, users: int) -> float:
        log = MemoryLog(retention)
        for _ in range(3_000 // users):
            for name in range(users):
                append(log, name, 100)
        events = [an_event() for _ in range(600)]
        return calls(lambda: [at_once(log.append(user(n % users), event)) for n, event in enumerate(events)]) / 600

    full = 100 + ENTRY_OVERHEAD
    assert per_append(Retention(events=10), 1) < 40
    assert per_append(Retention(events=2_000), 1) < 40
    assert per_append(Retention(total_bytes=10 * full), 1) < 60
    assert per_append(Retention(total_bytes=2_000 * full), 1) < 60
    assert per_append(Retention(total_bytes=2_000 * full), 500) < 60


def test_dropping_the_oldest_moves_each_entry_a_bounded_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is dropped is cut off in bulk; cutting at each append would move everything that is kept, each time."""
    moved = 0

    class CountingList(list[Any]):
        def __delitem__(self, key: Any) -> None:
            nonlocal moved
            assert isinstance(key, slice)
            moved += len(self) - len(range(*key.indices(len(self))))
            super().__delitem__(key)

        def pop(self, *_arguments: Any) -> Any:
            raise AssertionError("entries are cut off in bulk")

        remove = pop

    class CountedLog(memory._Log):
        __slots__ = ()

        def __init__(self, name: LogName, epoch: str) -> None:
            super().__init__(name, epoch)
            self.entries = CountingList()

    monkeypatch.setattr(memory, "_Log", CountedLog)
    log = MemoryLog(Retention(events=1_000))
    append(log, "a", *[10] * 10_000)
    assert len(held(log, "a")) == 1_000
    assert 0 < moved <= 10_000, "moved once for each append at most"


# -- reading and watching


def test_a_batch_is_cut_where_it_would_become_too_large_but_holds_one_entry_at_least() -> None:
    log = MemoryLog(limits=Limits(batch_bytes=1_000))
    append(log, "a", 400, 400, 400, 5_000, 400)
    batches = []
    after = None
    while True:
        batch = at_once(log.read(user("a"), after, 256))
        batches.append([len(entry.event.body) for entry in batch.entries])
        if not batch.more:
            break
        after = batch.entries[-1].position
    assert batches == [[400, 400], [400], [5_000], [400]]


def test_a_batch_is_not_changed_by_what_happens_after_it() -> None:
    log = MemoryLog(Retention(events=3))
    append(log, "a", 1, 2, 3)
    batch = at_once(log.read(user("a"), None, 10))
    one = at_once(log.read(user("a"), batch.entries[1].position, 10))
    append(log, "a", 4, 5, 6)
    at_once(log.forget(user("a")))
    assert [len(entry.event.body) for entry in batch.entries] == [1, 2, 3]
    assert [len(entry.event.body) for entry in one.entries] == [3]


def test_watchers_stay_with_the_name_when_a_log_is_forgotten() -> None:
    woken: list[str] = []
    log = MemoryLog()
    stop = log.watch(user("a"), lambda: woken.append("first"))
    log.watch(user("a"), lambda: woken.append("second"))
    at_once(log.forget(user("a")))
    assert woken == ["first", "second"]
    append(log, "a", 1)
    assert woken == ["first", "second"] * 2
    stop()
    append(log, "a", 1)
    assert woken == ["first", "second"] * 2 + ["second"]


def test_one_callable_that_watches_twice_is_woken_twice_and_stops_one_by_one() -> None:
    woken: list[str] = []

    def wake() -> None:
        woken.append("woken")

    log = MemoryLog()
    stops = [log.watch(user("a"), wake) for _ in range(2)]
    append(log, "a", 1)
    assert len(woken) == 2
    stops[0]()
    append(log, "a", 1)
    assert len(woken) == 3
    stops[1]()
    append(log, "a", 1)
    assert len(woken) == 3


def test_one_log_is_not_woken_by_another() -> None:
    woken: list[str] = []
    log = MemoryLog()
    log.watch(user("a"), lambda: woken.append("a"))
    log.watch(user("A"), lambda: woken.append("A"))
    append(log, "a", 1)
    assert woken == ["a"]


def test_a_watcher_may_stop_watching_while_it_is_woken() -> None:
    woken: list[str] = []
    log = MemoryLog()

    def once() -> None:
        woken.append("once")
        stop()

    stop = log.watch(user("a"), once)
    log.watch(user("a"), lambda: woken.append("always"))
    append(log, "a", 1, 1)
    assert woken == ["once", "always", "always"]


def test_epochs_come_from_the_given_entropy() -> None:
    draws = iter(range(100))

    def entropy(size: int) -> bytes:
        return bytes([next(draws)] * size)

    log = MemoryLog(entropy=entropy)
    assert at_once(log.open(user("a"))).epoch == "AAAAAAAA"
    assert at_once(log.open(user("b"))).epoch == "AQEBAQEB"
    at_once(log.forget(user("a")))
    assert at_once(log.open(user("a"))).epoch == "AgICAgIC"


def test_entries_carry_the_time_they_were_appended_at() -> None:
    now = [7.5]
    log = MemoryLog(monotonic=lambda: now[0])
    append(log, "a", 1)
    now[0] = 9.0
    append(log, "a", 1)
    assert [entry.at for entry in held(log, "a")] == [7.5, 9.0]
