"""The laws of `websocket_core.log` as a test suite. A backend's author takes it from `websocket_core.testing`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from websocket_core.control import CONTROL, Order, control_event
from websocket_core.limits import Retention
from websocket_core.log import Entry, GapReason, LogStore, Position
from websocket_core.log_probe import (
    HOSTILE,
    LOG,
    OTHER,
    WAKE_SECONDS,
    Wakes,
    an_event,
    append,
    check_chain,
    equal,
    ids,
    last_control,
    read_on,
    told_gap,
)


class LogConformance:
    """What every log backend must do. To be subclassed with a `make_log`:

        class TestMyLog(LogConformance):
            def make_log(self, retention, monotonic):
                return MyLog(retention, monotonic=monotonic)

    The methods are plain coroutines, for pytest with pytest-asyncio in auto mode or any runner that awaits them. They
    use `assert`: do not run them under `python -O`.
    """

    now: float = 1_000.0
    """What the clock shows that was given to `make_log`."""

    def make_log(self, retention: Retention, monotonic: Callable[[], float]) -> LogStore:
        """A new log store that holds nothing, with that retention. `monotonic` gives seconds."""
        raise NotImplementedError

    async def pass_time(self, seconds: float) -> None:
        """Let seconds go by. A backend that lives by a clock of its own overrides this."""
        self.now += seconds

    @asynccontextmanager
    async def store(self, retention: Retention | None = None) -> AsyncIterator[LogStore]:
        """A log store for one test, closed at its end."""
        log = self.make_log(retention or Retention(), lambda: self.now)
        try:
            yield log
        finally:
            await log.close()

    # -- laws 1 to 4: append

    async def test_offsets_count_from_one_and_every_entry_names_the_one_before_it(self) -> None:
        async with self.store() as log:
            positions = await append(log, 20)
            equal([position.offset for position in positions], list(range(1, 21)))
            entries = await read_on(log, None, 7)
            assert [entry.position for entry in entries] == positions, "append and read disagree on a position"
            assert all(entry.log == LOG for entry in entries), "an entry does not name its log"
            check_chain(entries, Position(positions[0].epoch, 0, ""))

    async def test_epochs_and_marks_fit_into_a_cursor(self) -> None:
        async with self.store() as log:
            positions = await append(log, 20)
            assert len({position.mark for position in positions}) == 20, "two entries share a mark"
            for epoch, _offset, mark in positions:
                assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", epoch), "the epoch does not fit into a cursor"
                assert re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", mark), "the mark does not fit into a cursor"

    async def test_an_event_is_read_exactly_as_it_was_appended(self) -> None:
        events = [
            an_event("plain"),
            an_event("Zz09_.-", "\u00e9 e\u0301 \U0001f600 \\n {} %s \\u0000"),
            an_event("to-one", connection_id="tab:1 \u00e9"),
            an_event("of-a-thread", thread_id="t/1 \u00e9"),
            an_event("both", "x" * 10_000, connection_id="", thread_id=""),
            an_event("control", connection_id=CONTROL),
        ]
        async with self.store() as log:
            for event in events:
                await log.append(LOG, event)
            equal([entry.event for entry in await read_on(log, None, 100)], events)

    async def test_an_id_that_is_appended_again_returns_its_position_and_adds_nothing(self) -> None:
        async with self.store() as log:
            positions = await append(log, 3)
            again = await log.append(LOG, an_event("e2", "another text"))
            assert again == positions[1], "the position of a retried event is not the one it has"
            entries = await read_on(log, None, 100)
            equal(ids(entries), ["e1", "e2", "e3"])
            assert entries[1].event == an_event("e2"), "a retry replaced what had been stored"
            assert (await log.append(LOG, an_event("e4"))).offset == 4, "a retry used up an offset"

    async def test_an_id_belongs_to_one_log(self) -> None:
        async with self.store() as log:
            await append(log, 2)
            await append(log, 1, name=OTHER)
            equal(ids(await read_on(log, None, 100)), ["e1", "e2"])
            assert ids(await read_on(log, None, 100, name=OTHER)) == ["e1"], "an id in one log hid it in another"

    async def test_concurrent_appends_of_one_id_make_one_entry(self) -> None:
        async with self.store() as log:
            positions = await asyncio.gather(*[log.append(LOG, an_event("same")) for _ in range(20)])
            assert set(positions) == {positions[0]}, "one event has two positions"
            equal(ids(await read_on(log, None, 100)), ["same"])

    async def test_concurrent_appends_are_numbered_and_chained_one_by_one(self) -> None:
        names = [f"e{number}" for number in range(100)]
        async with self.store() as log:
            positions = await asyncio.gather(*[log.append(LOG, an_event(name)) for name in names])
            entries = await read_on(log, None, 9)
            check_chain(entries, Position(positions[0].epoch, 0, ""))
            told = dict(zip(names, positions, strict=True))
            assert {entry.event.id: entry.position for entry in entries} == told, "append told a wrong position"

    async def test_readers_beside_concurrent_appends_see_each_entry_once_and_in_order(self) -> None:
        async with self.store() as log:
            start = await log.open(LOG)

            async def follow() -> list[Entry]:
                seen: list[Entry] = []
                while len(seen) < 60:
                    seen += await read_on(log, seen[-1].position if seen else start, 4)
                    await asyncio.sleep(0)
                return seen

            followers = [asyncio.create_task(follow()) for _ in range(3)]
            await asyncio.gather(*[log.append(LOG, an_event(f"e{number}")) for number in range(60)])
            async with asyncio.timeout(WAKE_SECONDS):
                views = await asyncio.gather(*followers)
            check_chain(views[0], start)
            assert [ids(view) for view in views[1:]] == [ids(views[0])] * 2, "two readers saw different histories"

    async def test_a_cancelled_append_has_happened_wholly_or_not_at_all(self) -> None:
        async with self.store() as log:
            for number in range(1, 13):
                task = asyncio.create_task(log.append(LOG, an_event(f"e{number}")))
                for _ in range(number - 1):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                await log.append(LOG, an_event(f"e{number}"))
            entries = await read_on(log, None, 100)
            equal(ids(entries), [f"e{number}" for number in range(1, 13)])
            check_chain(entries, Position(entries[0].epoch, 0, ""))

    # -- law 5: read

    async def test_reading_changes_nothing(self) -> None:
        async with self.store() as log:
            await append(log, 5)
            head = await log.open(LOG)
            first = await log.read(LOG, None, 3)
            again = await log.read(LOG, None, 3)
            equal(
                (again.start, again.more, again.gap, list(again.entries)),
                (first.start, first.more, first.gap, list(first.entries)),
            )
            equal(await log.open(LOG), head)

    async def test_opening_makes_an_epoch_and_reading_does_not(self) -> None:
        async with self.store() as log:
            nothing = await log.read(LOG, None, 10)
            equal((nothing.start, list(nothing.entries), nothing.gap), (None, [], None))
            lost = await log.read(LOG, Position("epoch", 1, "mark"), 10)
            equal((lost.start, list(lost.entries), lost.gap), (None, [], GapReason.NEW_EPOCH))
            assert (await log.read(LOG, None, 10)).start is None, "a read made a log"
            head = await log.open(LOG)
            assert head == (head.epoch, 0, ""), "the head of a new log is not offset 0 without a mark"
            assert await log.open(LOG) == head, "opening again changed the head"
            assert (await log.append(LOG, an_event("e1"))).epoch == head.epoch, "the first append changed the epoch"

    async def test_the_head_of_an_empty_log_is_a_position_to_read_from(self) -> None:
        async with self.store() as log:
            head = await log.open(LOG)
            empty = await log.read(LOG, head, 10)
            equal((empty.start, list(empty.entries), empty.more, empty.gap), (head, [], False, None))
            await append(log, 2)
            equal(ids(await read_on(log, head, 10)), ["e1", "e2"])

    async def test_a_reader_that_starts_anywhere_sees_what_follows_once_and_in_order(self) -> None:
        async with self.store() as log:
            positions = await append(log, 10)
            starts = [None, Position(positions[0].epoch, 0, ""), *positions]
            for limit in (1, 2, 3, 9, 10, 11, 100):
                for seen, start in zip([0, *range(11)], starts, strict=True):
                    found = ids(await read_on(log, start, limit))
                    assert found == [f"e{number}" for number in range(seen + 1, 11)], f"from {seen} in steps of {limit}"

    async def test_a_batch_says_whether_more_follows(self) -> None:
        async with self.store() as log:
            positions = await append(log, 3)
            equal((await log.read(LOG, None, 2)).more, True)
            equal((await log.read(LOG, None, 3)).more, False)
            equal((await log.read(LOG, positions[0], 2)).more, False)
            equal((await log.read(LOG, positions[2], 1)).more, False)

    # -- law 6: which positions are honoured

    async def test_a_position_is_honoured_only_with_its_mark(self) -> None:
        async with self.store() as log:
            positions = await append(log, 3)
            everything = ["e1", "e2", "e3"]
            for position in positions:
                for mark in ("invented", "", *{other.mark for other in positions} - {position.mark}):
                    await told_gap(log, position._replace(mark=mark), GapReason.DIVERGED, retained=everything)

    async def test_a_position_is_honoured_only_in_its_epoch(self) -> None:
        async with self.store() as log:
            positions = await append(log, 3)
            epochs = ["invented", (await log.open(OTHER)).epoch]
            await append(log, 3, name=OTHER)
            for position in [Position("", 0, ""), *positions]:
                for epoch in epochs:
                    after = position._replace(epoch=epoch)
                    await told_gap(log, after, GapReason.NEW_EPOCH, retained=["e1", "e2", "e3"])

    async def test_a_position_ahead_of_the_head_is_another_history(self) -> None:
        async with self.store() as log:
            head = (await append(log, 3))[-1]
            for ahead in (1, 2, 1_000_000):
                after = head._replace(offset=head.offset + ahead)
                await told_gap(log, after, GapReason.DIVERGED, retained=["e1", "e2", "e3"])

    async def test_a_reader_from_the_beginning_starts_at_the_oldest_entry_without_a_gap(self) -> None:
        async with self.store(Retention(events=3)) as log:
            positions = await append(log, 5)
            batch = await log.read(LOG, None, 10)
            equal((batch.start, ids(batch.entries), batch.gap), (positions[1], ["e3", "e4", "e5"], None))

    async def test_a_trimmed_position_is_honoured_while_its_successor_is_retained(self) -> None:
        async with self.store(Retention(events=3)) as log:
            positions = await append(log, 5)
            equal(ids(await read_on(log, positions[1], 10)), ["e3", "e4", "e5"])
            after = positions[1]._replace(mark="invented")
            await told_gap(log, after, GapReason.DIVERGED, retained=["e3", "e4", "e5"])

    async def test_a_position_before_trimmed_entries_is_told_so(self) -> None:
        async with self.store(Retention(events=3)) as log:
            positions = await append(log, 5)
            for after in (positions[0], Position(positions[0].epoch, 0, "")):
                await told_gap(log, after, GapReason.TRIMMED, retained=["e3", "e4", "e5"])

    async def test_the_head_is_honoured_when_every_entry_has_expired(self) -> None:
        async with self.store(Retention(age=60)) as log:
            positions = await append(log, 3)
            await self.pass_time(61)
            await log.expire()
            head = positions[-1]
            assert await log.open(LOG) == head, "an emptied log forgot its head"
            equal(ids(await read_on(log, head, 10)), [])
            for after in (Position(head.epoch, 0, ""), *positions[:-1]):
                await told_gap(log, after, GapReason.TRIMMED, retained=[])
            await told_gap(log, head._replace(mark="invented"), GapReason.DIVERGED, retained=[])
            assert (await append(log, 1, first=4))[0].offset == 4, "an emptied log counts from one again"
            check_chain(await read_on(log, head, 10), head)

    # -- law 7: wake-ups

    async def test_every_watcher_is_woken_by_an_append_until_it_stops_watching(self) -> None:
        async with self.store() as log:
            first, second = Wakes(log, LOG), Wakes(log, LOG)
            await append(log, 1)
            await first.reach(1)
            await second.reach(1)
            first.stop()
            seen = first.count
            await append(log, 2, first=2)
            await second.reach(2)
            first.stop()
            more = second.count + 1
            await append(log, 1, first=4)
            await second.reach(more)
            assert first.count == seen, "a watcher was woken after it had stopped"

    async def test_a_woken_reader_finds_what_woke_it(self) -> None:
        async with self.store() as log:
            wakes = Wakes(log, LOG)
            head = await log.open(LOG)
            appending = asyncio.create_task(append(log, 1))
            equal(await wakes.find(log, head), ["e1"])
            await appending

    async def test_forgetting_ends_the_epoch_and_tells_the_watchers(self) -> None:
        async with self.store() as log:
            positions = await append(log, 3)
            wakes = Wakes(log, LOG)
            await log.forget(LOG)
            await wakes.reach(1)
            head = await log.open(LOG)
            assert head.epoch != positions[0].epoch, "the epoch outlived the log"
            assert (head.offset, head.mark) == (0, ""), "a forgotten log remembers its head"
            for after in (Position(positions[0].epoch, 0, ""), *positions):
                await told_gap(log, after, GapReason.NEW_EPOCH, retained=[])
            seen = wakes.count
            assert (await append(log, 1, first=3))[0].offset == 1, "a forgotten event is still known by its id"
            await wakes.reach(seen + 1)
            equal(ids(await read_on(log, None, 10)), ["e3"])

    async def test_forgetting_a_log_that_nobody_watches_leaves_the_others(self) -> None:
        async with self.store() as log:
            await log.forget(LOG)
            await append(log, 2)
            positions = await append(log, 2, name=OTHER)
            await log.forget(LOG)
            await log.forget(LOG)
            old = await log.read(LOG, Position("invented", 2, "e2"), 10)
            equal((old.gap, list(old.entries)), (GapReason.NEW_EPOCH, []))
            equal(ids(await read_on(log, positions[0], 10, name=OTHER)), ["e2"])

    # -- law 8: what is kept is bounded

    async def test_no_more_events_are_kept_than_the_retention_says(self) -> None:
        async with self.store(Retention(events=5)) as log:
            for number in range(1, 40):
                await append(log, 1, first=number)
                expected = [f"e{kept}" for kept in range(max(1, number - 4), number + 1)]
                equal(ids(await read_on(log, None, 100)), expected)

    async def test_no_more_bytes_are_kept_than_the_retention_says(self) -> None:
        async with self.store(Retention(bytes=1_000)) as log:
            bodies: dict[str, int] = {}
            for number in range(40):
                event = an_event(f"e{number}", "x" * (number * 37 % 190))
                bodies[event.id] = len(event.body)
                await log.append(LOG, event)
                kept = ids(await read_on(log, None, 100))
                assert kept == list(bodies)[-len(kept) :], "something else than the oldest went first"
                size = sum(bodies[event_id] for event_id in kept)
                assert size <= 1_000, f"{size} bytes are kept"
                if len(kept) < len(bodies):
                    assert size + bodies[list(bodies)[-len(kept) - 1]] > 1_000, "more was dropped than needed"
            await log.append(LOG, an_event("large", "x" * 2_000))
            assert ids(await read_on(log, None, 100)) == ["large"], "the newest event is kept, however large"

    async def test_what_is_older_than_the_retention_says_is_not_read_whether_or_not_it_was_expired(self) -> None:
        for expire in (False, True):
            async with self.store(Retention(age=60)) as log:
                await append(log, 2)
                await append(log, 2, name=OTHER)
                await self.pass_time(40)
                last = (await append(log, 2, first=3))[-1]
                for seconds, expected in ((19, ["e1", "e2", "e3", "e4"]), (2, ["e3", "e4"]), (40, [])):
                    await self.pass_time(seconds)
                    if expire:
                        await log.expire()
                    equal(ids(await read_on(log, None, 10)), expected)
                    equal(ids(await read_on(log, None, 10, name=OTHER)), expected[:-2])
                equal(ids(await read_on(log, last, 10)), [])

    async def test_an_id_that_has_expired_is_appended_anew(self) -> None:
        async with self.store(Retention(age=60)) as log:
            first = (await append(log, 1))[0]
            await self.pass_time(61)
            await append(log, 1)
            assert ids(await read_on(log, first, 10)) == ["e1"], "an append was answered with an entry nobody can read"

    async def test_the_last_control_entry_of_a_life_of_a_log_is_known_also_when_it_is_dropped(self) -> None:
        async with self.store(Retention(events=3, age=60)) as log:
            equal((await last_control(log), (await log.read(LOG, None, 1)).start), (None, None))
            await append(log, 1)
            other = control_event(Order(9), "c2")
            there = (await log.append(OTHER, other), other)
            equal(await last_control(log), None)
            events = [control_event(Order(code), f"c{code}") for code in (1, 2, 1)]  # the last one is a retry
            here = ([await log.append(LOG, event) for event in events][1], events[1])
            await append(log, 5, first=2)
            equal(await last_control(log), here)
            await self.pass_time(61)
            await log.expire()
            equal([await last_control(log), await last_control(log, name=OTHER)], [here, there])
            await log.forget(LOG)
            await append(log, 1)
            equal([await last_control(log), await last_control(log, name=OTHER)], [None, there])

    # -- isolation

    async def test_logs_whose_names_look_alike_have_nothing_in_common(self) -> None:
        async with self.store() as log:
            for number, name in enumerate(HOSTILE):
                await log.append(name, an_event("same-id", f"text of {number}"))
            for number, name in enumerate(HOSTILE):
                [entry] = await read_on(log, None, 10, name=name)
                assert entry.log == name, f"an entry of {name} names another log"
                assert entry.event == an_event("same-id", f"text of {number}"), f"{name} holds another log's event"
            for name in HOSTILE[::2]:
                await log.forget(name)
            left = [name for name in HOSTILE if (await log.read(name, None, 10)).entries]
            assert left == HOSTILE[1::2], "forgetting one log reached another"
