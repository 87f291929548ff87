"""Promise: what was emitted arrives, in order, once per cursor, while it is retained; what does not arrive is told.

`emit` returns a position or raises. A cut, a slow reader, a lost wake-up or a failed append lose nothing and double
nothing; what is no longer held is told as a gap. A producer starves nobody, and the end of a manager leaves no task.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
import tenacity

from tests.support import (
    FakeSocket,
    Suspensions,
    Tab,
    TroubledLog,
    a_manager,
    entries_of,
    events_of,
    quick_retry,
    turns,
    until,
    virtual_time,
)
from websocket_core import appender
from websocket_core.errors import AppendFailed, ConnectionRefused, InvalidEvent, ManagerClosed
from websocket_core.events import Event
from websocket_core.identity import LogName
from websocket_core.limits import Limits, Retention, RetryPolicy
from websocket_core.log import Batch, LogStore, Position
from websocket_core.logs.memory import MemoryLog
from websocket_core.wire import PROTOCOL, decode_cursor, encode_cursor

LOGS = pytest.mark.parametrize("make_log", [MemoryLog, TroubledLog], ids=["memory", "every call suspends"])
PROTOCOLS = pytest.mark.parametrize("v1", [False, True], ids=["plain", "v1"])

MakeLog = Callable[[], LogStore]


# -- order


@LOGS
@virtual_time
async def test_events_arrive_in_the_order_of_their_positions(make_log: MakeLog) -> None:
    """Many producers at once for one user: offsets have no hole, and each producer's events keep their order."""
    async with a_manager(make_log()) as manager:
        emitter = manager.get_emitter("alice")
        tabs = [await Tab.open(manager, "alice", v1=v1) for v1 in (False, True)]
        offset_of: dict[tuple[int, int], int] = {}

        async def produce(producer: int) -> None:
            for n in range(20):
                position = await emitter.emit("custom", {"producer": producer, "n": n})
                offset_of[producer, n] = position.offset

        async with asyncio.TaskGroup() as group:
            for producer in range(20):
                group.create_task(produce(producer))
        assert sorted(offset_of.values()) == list(range(1, 401))
        for tab in tabs:
            events = await tab.has(400)
            seen = [(event["data"]["producer"], event["data"]["n"]) for event in events]
            assert [offset_of[key] for key in seen] == list(range(1, 401))
            assert [decode_cursor(event["cursor"]).offset for event in events] == list(range(1, 401))
            for producer in range(20):
                assert [n for who, n in seen if who == producer] == list(range(20))


@virtual_time
async def test_emit_returns_where_the_event_stands() -> None:
    log = TroubledLog()
    async with a_manager(log) as manager:
        positions = [await manager.get_emitter("alice").emit("custom", {"n": n}) for n in range(3)]
        assert [position.offset for position in positions] == [1, 2, 3]
        assert [entry.position for entry in await entries_of(log, "alice")] == positions
        assert await manager.head("alice") == positions[-1]
        assert len({position.epoch for position in positions}) == 1


# -- an append that fails


@virtual_time
async def test_the_retry_machinery_is_not_entered_on_the_happy_path(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    class Counting(tenacity.AsyncRetrying):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            made.append(1)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(appender, "AsyncRetrying", Counting)
    log = TroubledLog()
    async with a_manager(log, retry=quick_retry()) as manager:
        for n in range(100):
            await manager.get_emitter("alice").emit("custom", {"n": n})
        assert made == []
        log.plan.append("refuse")
        await manager.get_emitter("alice").emit("custom", {"n": 100})
        assert made == [1]
        await manager.get_emitter("alice").emit("custom", {"n": 101})
        assert made == [1]


@virtual_time
async def test_an_append_that_failed_is_tried_again_until_it_succeeds() -> None:
    log = TroubledLog()
    async with a_manager(log, retry=RetryPolicy(attempts=5)) as manager:
        log.plan.extend(["refuse"] * 4)
        position = await manager.get_emitter("alice").emit("custom", {"n": 1})
        assert position.offset == 1
        assert len(log.attempts) == 5
        assert len(set(log.attempts)) == 1, "every attempt carries the same event id"
        assert manager.metrics.retries == 4
        assert manager.metrics.append_failures == 0
        assert manager.metrics.events_appended == 1


@virtual_time
async def test_a_retried_append_is_not_delivered_twice() -> None:
    """The reply was lost and not the event: the next attempt finds it by its id."""
    log = TroubledLog()
    async with a_manager(log, retry=quick_retry(5)) as manager:
        tab = await Tab.open(manager, "alice")
        log.plan.extend(["lose", "lose", "refuse", "lose"])
        position = await manager.get_emitter("alice").emit("custom", {"n": 1})
        assert position.offset == 1
        assert (await manager.get_emitter("alice").emit("custom", {"n": 2})).offset == 2
        await tab.has(2)
        await turns()
        assert tab.numbers == [1, 2]


@virtual_time
async def test_the_pauses_between_attempts_grow_and_vary() -> None:
    """Full jitter: each pause is a random part of a bound that doubles up to a maximum."""
    loop = asyncio.get_running_loop()
    moments: list[float] = []

    class Timed(TroubledLog):
        async def append(self, log: LogName, event: Event) -> Position:
            moments.append(loop.time())
            return await super().append(log, event)

    policy = RetryPolicy(attempts=8, initial=0.1, maximum=1.0, seconds=60.0)
    ratios = []
    for seed in range(20):
        moments.clear()
        log = Timed()
        log.trouble = "refuse"
        async with a_manager(log, retry=policy, rng=random.Random(seed)) as manager:
            with pytest.raises(AppendFailed):
                await manager.get_emitter("alice").emit("custom", {})
        pauses = [later - earlier for earlier, later in itertools.pairwise(moments)]
        bounds = [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
        assert len(pauses) == len(bounds)
        for pause, bound in zip(pauses, bounds, strict=True):
            assert 0 <= pause <= bound + 0.001
            ratios.append(pause / bound)
    assert 0.4 < sum(ratios) / len(ratios) < 0.6
    assert min(ratios) < 0.1
    assert max(ratios) > 0.9


@virtual_time
async def test_attempts_end_after_the_seconds_of_the_policy() -> None:
    loop = asyncio.get_running_loop()
    log = TroubledLog()
    log.trouble = "refuse"
    async with a_manager(log, retry=RetryPolicy(attempts=1_000, initial=1.0, maximum=1.0, seconds=5.0)) as manager:
        began = loop.time()
        with pytest.raises(AppendFailed) as caught:
            await manager.get_emitter("alice").emit("custom", {})
        assert loop.time() - began <= 5.01
        assert 4 <= caught.value.attempts == len(log.attempts) < 100


@pytest.mark.parametrize("trouble", ["refuse", "lose"])
@virtual_time
async def test_append_failed_carries_the_id_that_makes_a_later_try_safe(trouble: Any) -> None:
    """Whether the event is in the log or not is unknown; emitting it again with the id is right in both cases."""
    log = TroubledLog()
    async with a_manager(log, retry=quick_retry(3)) as manager:
        emitter = manager.get_emitter("alice")
        log.trouble = trouble
        with pytest.raises(AppendFailed) as caught:
            await emitter.emit("custom", {"n": "canary"})
        assert caught.value.attempts == 3
        assert set(log.attempts) == {caught.value.event_id}
        assert "canary" not in str(caught.value)
        assert "alice" not in str(caught.value)
        assert manager.metrics.append_failures == 1
        assert emitter.get_stats()["total_events"] == 0
        log.recover()
        position = await emitter.emit("custom", {"n": "canary"}, event_id=caught.value.event_id)
        assert position.offset == 1
        assert (await emitter.emit("custom", {"n": 2})).offset == 2
        assert [event["data"]["n"] for event in await events_of(log, "alice")] == ["canary", 2]


@virtual_time
async def test_an_error_of_another_kind_is_not_tried_again() -> None:
    class Broken(MemoryLog):
        calls = 0

        async def append(self, log: LogName, event: Event) -> Position:
            self.calls += 1
            raise ZeroDivisionError

    log = Broken()
    async with a_manager(log) as manager:
        with pytest.raises(ZeroDivisionError):
            await manager.get_emitter("alice").emit("custom", {})
        assert log.calls == 1


@virtual_time
async def test_an_emit_that_is_cancelled_disturbs_nobody() -> None:
    log = TroubledLog()
    async with a_manager(log) as manager:
        tab = await Tab.open(manager, "alice")
        log.plan.append("hang")
        stuck = asyncio.create_task(manager.get_emitter("alice").emit("custom", {"n": 0}))
        await turns()
        await manager.get_emitter("alice").emit("custom", {"n": 1})
        stuck.cancel()
        await asyncio.wait([stuck])
        assert stuck.cancelled()
        await manager.get_emitter("alice").emit("custom", {"n": 2})
        await tab.has(2)
        assert tab.numbers == [1, 2]


# -- the same event id


@LOGS
@virtual_time
async def test_an_event_id_is_in_a_log_once(make_log: MakeLog) -> None:
    log = make_log()
    async with a_manager(log) as manager:
        tab = await Tab.open(manager, "alice")
        emitter = manager.get_emitter("alice")
        first = await emitter.emit("custom", {"n": 1}, event_id="order-1")
        await emitter.emit("custom", {"n": 2})
        again = await emitter.emit("custom", {"n": "changed"}, event_id="order-1")
        assert again == first
        both = await asyncio.gather(*(emitter.emit("custom", {"n": 3}, event_id="order-2") for _ in range(5)))
        assert len(set(both)) == 1
        await tab.has(3)
        await turns()
        assert tab.numbers == [1, 2, 3]
        bob = await manager.get_emitter("bob").emit("custom", {"n": 4}, event_id="order-1")
        assert bob.offset == 1
        assert [event["data"]["n"] for event in await events_of(log, "bob")] == [4]


@virtual_time
async def test_event_ids_are_unique_across_managers_and_users() -> None:
    ids = []
    for _ in range(3):
        async with a_manager() as manager:
            for user in ("alice", "bob"):
                ids += [(await manager.get_emitter(user).emit("custom", {})).mark for _ in range(200)]
    assert len(set(ids)) == len(ids) == 1_200


# -- a cut, and the way back


@LOGS
@PROTOCOLS
@virtual_time
async def test_a_client_that_resumes_after_a_cut_loses_nothing_and_gets_nothing_twice(
    make_log: MakeLog, v1: bool
) -> None:
    """Cut at random moments, thirty times, while events flow."""
    rng = random.Random(7)
    async with a_manager(make_log()) as manager:
        finished = asyncio.Event()

        async def produce() -> None:
            for n in range(400):
                await manager.get_emitter("alice").emit("custom", {"n": n})
                if rng.random() < 0.5:
                    await asyncio.sleep(rng.random() * 0.002)
            finished.set()

        task = asyncio.create_task(produce())
        seen: list[Any] = []
        cursor = None
        cuts = 0
        while len(seen) < 400:
            tab = await Tab.open(manager, "alice", "c", cursor=cursor, v1=v1)
            greeting = await tab.greeted()
            assert greeting["resumed"] is (cursor is not None)
            assert cursor is None or greeting["cursor"] == cursor
            if cuts < 30 and not finished.is_set():
                await asyncio.sleep(rng.random() * 0.02)
                cuts += 1
            else:
                await tab.has(400 - len(seen))
            await tab.cut()
            assert tab.socket.of_type("gap") == []
            seen += tab.numbers
            cursor = tab.cursor
        assert seen == list(range(400))
        assert cuts >= 10
        await task


@PROTOCOLS
@virtual_time
async def test_every_position_can_be_resumed_from(v1: bool) -> None:
    async with a_manager() as manager:
        await manager.head("alice")
        start = encode_cursor(await manager.head("alice"))
        cursors = [start]
        for n in range(10):
            cursors.append(encode_cursor(await manager.get_emitter("alice").emit("custom", {"n": n})))
        for k, cursor in enumerate(cursors):
            tab = await Tab.open(manager, "alice", cursor=cursor, v1=v1)
            await tab.has(10 - k)
            await turns()
            assert tab.numbers == list(range(k, 10))
            assert tab.socket.frames[0] | {"connection_id": ""} == {
                "type": "connected", "connection_id": "", "user_id": "alice",
                "protocol": "unified-websocket.v1" if v1 else "plain",
                "heartbeat": 25.0, "resumed": True, "cursor": cursor,
            }  # fmt: skip
            assert tab.socket.of_type("gap") == []
            await tab.cut()


@virtual_time
async def test_an_append_at_any_moment_of_a_connect_is_not_missed() -> None:
    """It strikes at each suspension of `connect_user`; the event comes without the help of a heartbeat."""
    for k in range(1, 20):
        async with a_manager(TroubledLog()) as manager:
            emitting: list[asyncio.Task[Position]] = []

            def emit(manager: Any = manager, emitting: list[Any] = emitting) -> None:
                emitting.append(asyncio.create_task(manager.get_emitter("alice").emit("custom", {"n": 1})))

            socket = FakeSocket()
            drive = Suspensions(manager.connect_user(socket, "alice"), (k,), emit)
            connection = await drive
            tab = Tab(socket, connection)
            if not emitting:
                for _ in range(k - drive.count):
                    await asyncio.sleep(0)
                emit()
            await tab.has(1, seconds=1.0)
            await asyncio.gather(*emitting)
            await turns()
            assert tab.numbers == [1]


@virtual_time
async def test_an_append_just_after_a_read_is_not_missed() -> None:
    """The wake-up comes while the writer still holds the result of its last read."""

    class Busy(TroubledLog):
        extra = 50

        async def read(self, log: LogName, after: Position | None, limit: int) -> Batch:
            batch = await super().read(log, after, limit)
            if self.extra:
                self.extra -= 1
                await super().append(log, manager.encoder.encode("custom", {"n": self.extra}, b',"user_id":"alice"'))
            return batch

    async with a_manager(Busy()) as manager:
        tab = await Tab.open(manager, "alice")
        await tab.has(50, seconds=1.0)
        assert tab.numbers == list(reversed(range(50)))


# -- gaps


@PROTOCOLS
@virtual_time
async def test_events_that_were_trimmed_are_told_as_a_gap(v1: bool) -> None:
    async with a_manager(retention=Retention(events=10)) as manager:
        cursors = [encode_cursor(await manager.head("alice"))]
        for n in range(30):
            cursors.append(encode_cursor(await manager.get_emitter("alice").emit("custom", {"n": n})))
        for offset, cursor in enumerate(cursors):
            tab = await Tab.open(manager, "alice", cursor=cursor, v1=v1)
            honoured = offset >= 20  # 20 itself is trimmed, and what follows it is all there
            await tab.has(30 - max(offset, 20))
            await turns()
            greeting = tab.socket.frames[0]
            assert greeting["resumed"] is honoured
            gaps = tab.socket.of_type("gap")
            if honoured:
                assert gaps == []
                assert tab.numbers == list(range(offset, 30))
            else:
                assert gaps == [{"type": "gap", "reason": "trimmed", "cursor": cursors[20]}]
                assert tab.socket.frames[1] == gaps[0], "the gap comes before what follows it"
                assert greeting["cursor"] == cursors[offset], "who is cut before the gap comes back with its own cursor"
                assert tab.numbers == list(range(20, 30))
            await tab.cut()
        assert manager.metrics.gaps == 20


@virtual_time
async def test_a_newcomer_is_told_no_gap() -> None:
    """Who never saw anything misses nothing: it starts at the oldest retained event."""
    async with a_manager(retention=Retention(events=10)) as manager:
        for n in range(30):
            await manager.get_emitter("alice").emit("custom", {"n": n})
        tab = await Tab.open(manager, "alice")
        await tab.has(10)
        assert tab.numbers == list(range(20, 30))
        assert tab.socket.of_type("gap") == []
        assert tab.socket.frames[0]["resumed"] is False


@virtual_time
async def test_events_that_grew_too_old_are_told_as_a_gap() -> None:
    """By age, and by nothing else: the head is honoured also when nothing is retained."""
    async with a_manager(retention=Retention(age=60.0)) as manager:
        emitter = manager.get_emitter("alice")
        old = encode_cursor(await emitter.emit("custom", {"n": 0}))
        head = encode_cursor(await emitter.emit("custom", {"n": 1}))
        await asyncio.sleep(61.0)
        late = await Tab.open(manager, "alice", cursor=old)
        assert (await late.greeted())["resumed"] is False
        await until(lambda: late.socket.of_type("gap"))
        assert late.socket.of_type("gap") == [{"type": "gap", "reason": "trimmed", "cursor": head}]
        just_there = await Tab.open(manager, "alice", cursor=head)
        assert (await just_there.greeted())["resumed"] is True
        await emitter.emit("custom", {"n": 2})
        for tab in (late, just_there):
            await tab.has(1)
            assert tab.numbers == [2]
            assert decode_cursor(tab.cursor).offset == 3
        assert just_there.socket.of_type("gap") == []


@virtual_time
async def test_a_cursor_that_the_log_never_gave_out_is_told_as_diverged() -> None:
    async with a_manager() as manager:
        first, second = [await manager.get_emitter("alice").emit("custom", {"n": n}) for n in range(2)]
        wrong = [
            first._replace(mark=second.mark),
            second._replace(mark=first.mark),
            second._replace(offset=3),
            second._replace(offset=2**53 - 1),
            first._replace(mark="x"),
        ]
        for position in wrong:
            tab = await Tab.open(manager, "alice", cursor=encode_cursor(position))
            await tab.has(2)
            assert tab.socket.of_type("gap")[0]["reason"] == "diverged"
            assert tab.socket.frames[0]["resumed"] is False
            assert tab.numbers == [0, 1]


@virtual_time
async def test_a_log_that_lost_its_memory_is_told_as_a_new_epoch() -> None:
    """Also to a client that stays connected."""
    log = TroubledLog()
    async with a_manager(log) as manager:
        emitter = manager.get_emitter("alice")
        old = encode_cursor(await emitter.emit("custom", {"n": 0}))
        live = await Tab.open(manager, "alice")
        await live.has(1)
        await log.forget(LogName("user", "alice"))
        await until(lambda: live.socket.of_type("gap"))
        await emitter.emit("custom", {"n": 1})
        resumed = await Tab.open(manager, "alice", cursor=old)
        await resumed.has(1)
        await live.has(2)
        assert live.numbers == [0, 1]
        assert resumed.numbers == [1]
        assert live.socket.of_type("gap")[0]["reason"] == resumed.socket.of_type("gap")[0]["reason"] == "new_epoch"
        assert decode_cursor(live.cursor).epoch != decode_cursor(old).epoch


@virtual_time
async def test_a_log_that_rewrote_its_history_is_noticed_by_who_read_it() -> None:
    """A store that was rolled back keeps its epoch and gives the offsets out again: the chain of marks breaks."""

    class Rewriting(TroubledLog):
        shift = 0

        async def read(self, log: LogName, after: Position | None, limit: int) -> Batch:
            batch = await super().read(log, None, limit)
            if not self.shift:
                return await super().read(log, after, limit)
            entries = [entry for entry in batch.entries if after is None or entry.offset > after.offset]
            return Batch(after, [entries[0]._replace(prev="rewritten"), *entries[1:]] if entries else [], False)

    log = Rewriting()
    async with a_manager(log) as manager:
        tab = await Tab.open(manager, "alice")
        await manager.get_emitter("alice").emit("custom", {"n": 0})
        await tab.has(1)
        log.shift = 1
        await manager.get_emitter("alice").emit("custom", {"n": 1})
        await tab.has(2)
        assert [frame["type"] for frame in tab.socket.frames] == ["connected", "custom", "gap", "custom"]
        assert tab.socket.of_type("gap")[0]["reason"] == "diverged"


@virtual_time
async def test_a_slow_reader_is_told_of_what_it_missed_and_gets_the_newest() -> None:
    async with a_manager(retention=Retention(events=100), limits=Limits(write_timeout=60.0)) as manager:
        tab = await Tab.open(manager, "alice")
        await tab.greeted()
        tab.socket.block()
        for n in range(1_000):
            await manager.get_emitter("alice").emit("custom", {"n": n})
        tab.socket.unblock()
        await until(lambda: tab.numbers[-1:] == [999])
        gaps = [index for index, frame in enumerate(tab.socket.frames) if frame["type"] == "gap"]
        assert len(gaps) == 1, "one honest gap"
        assert tab.numbers[-100:] == list(range(900, 1_000))
        assert tab.numbers == sorted(set(tab.numbers))
        before = tab.numbers[: gaps[0] - 1]
        assert before == list(range(len(before)))


# -- a failing log, seen by readers


@virtual_time
async def test_a_log_that_cannot_be_read_for_a_while_costs_no_event_and_no_connection() -> None:
    log = TroubledLog()
    async with a_manager(log) as manager:
        tab = await Tab.open(manager, "alice")
        await tab.greeted()
        log.unreadable = True
        await manager.get_emitter("alice").emit("custom", {"n": 0})
        await asyncio.sleep(10.0)
        assert tab.numbers == []
        log.unreadable = False
        await tab.has(1, seconds=2.0)
        assert tab.numbers == [0]
        assert tab.socket.of_type("gap") == []


@pytest.mark.parametrize("with_cursor", [False, True])
@virtual_time
async def test_no_resume_is_claimed_while_the_log_cannot_be_read(with_cursor: bool) -> None:
    """A client that connects meanwhile is sent away to come again, and not told that its cursor was honoured."""
    log = TroubledLog()
    async with a_manager(log) as manager:
        cursor = encode_cursor(await manager.get_emitter("alice").emit("custom", {"n": 0}))
        log.unreadable = True
        tab = await Tab.open(manager, "alice", cursor=cursor if with_cursor else None)
        assert await tab.ended() == 1013
        assert all(frame.get("resumed") is not True for frame in tab.socket.frames)
        assert manager.get_stats()["total_connections"] == 0


# -- heartbeat


@PROTOCOLS
@virtual_time
async def test_a_ping_with_the_position_comes_at_every_interval(v1: bool) -> None:
    loop = asyncio.get_running_loop()
    async with a_manager(limits=Limits(heartbeat=25.0)) as manager:
        tab = await Tab.open(manager, "alice", v1=v1)
        greeting = await tab.greeted()
        began = loop.time()
        await until(lambda: tab.socket.of_type("ping"), seconds=30.0)
        assert loop.time() - began == pytest.approx(25.0, abs=0.1)
        assert tab.socket.of_type("ping") == [{"type": "ping", "cursor": greeting["cursor"]}]
        assert decode_cursor(greeting["cursor"]).offset == 0, "a log that is empty has a position too"
        position = await manager.get_emitter("alice").emit("custom", {"n": 1})
        await asyncio.sleep(76.0)
        pings = tab.socket.of_type("ping")
        assert len(pings) == 4
        assert {ping["cursor"] for ping in pings[1:]} == {encode_cursor(position)}


@virtual_time
async def test_a_v1_client_that_owes_a_pong_is_closed_as_timed_out() -> None:
    loop = asyncio.get_running_loop()
    async with a_manager(limits=Limits(heartbeat=25.0, heartbeat_timeout=20.0)) as manager:
        silent = await Tab.open(manager, "alice", v1=True, socket=FakeSocket(subprotocol=PROTOCOL, answers_pings=False))
        began = loop.time()
        assert await silent.ended(seconds=60.0) == 4408
        assert 45.0 <= loop.time() - began <= 47.5, "one heartbeat, the time to answer, and a sweep"
        assert manager.metrics.stale == 1
        assert manager.get_stats()["total_connections"] == 0


@virtual_time
async def test_who_answers_and_who_promised_no_answer_stays_for_hours() -> None:
    async with a_manager() as manager:
        answering = await Tab.open(manager, "alice", v1=True)
        plain = await Tab.open(manager, "alice", v1=False)
        asks = await Tab.open(manager, "alice", socket=FakeSocket(subprotocol=PROTOCOL, answers_pings=False))
        for _ in range(360):
            await asyncio.sleep(10.0)
            asks.socket.client_sends({"type": "ping"})
        for tab in (answering, plain, asks):
            assert tab.connection.state == "open"
            assert not tab.serving.done()
        assert manager.metrics.stale == 0


@virtual_time
async def test_last_activity_moves_with_what_the_client_does() -> None:
    async with a_manager() as manager:
        plain = await Tab.open(manager, "alice", v1=False)
        silent = FakeSocket(subprotocol=PROTOCOL, answers_pings=False)
        owing = await Tab.open(manager, "alice", socket=silent)
        await asyncio.sleep(26.0)

        def seconds(tab: Tab) -> float:
            return (tab.connection.last_activity - tab.connection.created_at).total_seconds()

        assert seconds(plain) == pytest.approx(25, abs=0.5), "the ping was written"
        assert seconds(owing) == pytest.approx(0, abs=0.5), "a written ping is no sign of life of who owes a pong"
        silent.client_sends({"type": "pong"})
        await turns()
        assert seconds(owing) == pytest.approx(26, abs=0.5)


@PROTOCOLS
@virtual_time
async def test_a_lost_wake_up_costs_at_most_one_heartbeat(v1: bool) -> None:
    """With every signal lost, also the last event of all comes, and nothing comes twice."""
    loop = asyncio.get_running_loop()
    log = TroubledLog()
    async with a_manager(log, limits=Limits(heartbeat=25.0)) as manager:
        tab = await Tab.open(manager, "alice", v1=v1)
        await tab.greeted()
        log.deaf = True
        for n in range(5):
            await manager.get_emitter("alice").emit("custom", {"n": n})
            emitted = loop.time()
            await turns()
            assert len(tab.events) == n
            await tab.has(n + 1, seconds=26.0)
            assert loop.time() - emitted <= 25.1
            await asyncio.sleep(3.0)
        assert tab.numbers == list(range(5))
        assert tab.socket.frames[-1] == {"type": "ping", "cursor": tab.events[-1]["cursor"]}


# -- frames


@virtual_time
async def test_a_plain_client_gets_exactly_one_object_per_frame() -> None:
    async with a_manager() as manager:
        for n in range(300):
            await manager.get_emitter("alice").emit("custom", {"n": n, "text": "two\nlines\u2028three"})
        tab = await Tab.open(manager, "alice")
        await tab.has(300)
        assert len(tab.socket.texts) == 301
        assert all(isinstance(json.loads(text), dict) for text in tab.socket.texts)
        assert not any("\n" in text for text in tab.socket.texts)


@virtual_time
async def test_a_v1_client_gets_many_events_in_few_frames_one_object_per_line() -> None:
    async with a_manager() as manager:
        for n in range(1_000):
            await manager.get_emitter("alice").emit("custom", {"n": n, "text": "two\nlines\u2028three"})
        tab = await Tab.open(manager, "alice", v1=True)
        await tab.has(1_000)
        assert tab.numbers == list(range(1_000))
        assert len(tab.socket.texts) <= 5
        for text in tab.socket.texts:
            for line in text.split("\n"):
                assert isinstance(json.loads(line), dict)


@virtual_time
async def test_a_frame_of_many_events_stays_below_the_size_of_a_batch() -> None:
    limits = Limits(batch_bytes=65_536)
    async with a_manager(limits=limits, retention=Retention(bytes=8_000_000)) as manager:
        for n in range(200):
            size = 100 if n % 3 else 20_000
            await manager.get_emitter("alice").emit("custom", {"n": n, "pad": "\u00e9" * size})
        await manager.get_emitter("alice").emit("custom", {"n": 200, "pad": "x" * 200_000})
        tab = await Tab.open(manager, "alice", v1=True)
        await tab.has(201)
        assert tab.numbers == list(range(201))
        for text in tab.socket.texts:
            assert len(text.encode()) <= 65_536 or "\n" not in text
        assert len(tab.socket.texts) < 150


@virtual_time
async def test_what_a_frame_adds_to_its_events_counts_as_well() -> None:
    """Cursors and line breaks: with events of all sizes no frame is larger than a batch."""
    rng = random.Random(5)
    limits = Limits(batch_bytes=16_384, batch_events=1_000)
    async with a_manager(limits=limits, retention=Retention(bytes=8_000_000)) as manager:
        for n in range(2_000):
            await manager.get_emitter("alice").emit("custom", {"n": n, "pad": "x" * int(4_000 * rng.random() ** 4)})
        tab = await Tab.open(manager, "alice", v1=True)
        await tab.has(2_000)
        assert max(len(text.encode()) for text in tab.socket.texts) <= 16_384
        assert len(tab.socket.texts) < 400


@PROTOCOLS
@virtual_time
async def test_a_burst_of_thousands_arrives_whole_and_in_order(v1: bool) -> None:
    """More than the log retains, by a producer that never pauses: the reader gets its turns and keeps up."""
    async with a_manager() as manager:
        tab = await Tab.open(manager, "alice", v1=v1)
        emitter = manager.get_emitter("alice")
        for n in range(7_000):
            await emitter.emit("custom", {"n": n})
        await until(lambda: len(tab.socket.frames) >= 7_001)
        assert tab.numbers == list(range(7_000))
        assert tab.socket.of_type("gap") == []


# -- fairness


@virtual_time
async def test_a_producer_gives_the_loop_a_turn_every_64_appends() -> None:
    """Also when it emits to many users, and although a log in memory never waits."""
    async with a_manager() as manager:
        appended = 0
        longest = 0
        running = True

        async def watch() -> None:
            nonlocal longest
            last = 0
            while running:
                longest = max(longest, appended - last)
                last = appended
                await asyncio.sleep(0)

        watcher = asyncio.create_task(watch())
        emitters = [manager.get_emitter(f"user-{number}") for number in range(7)]
        for n in range(2_000):
            await emitters[n % 7].emit("custom", {"n": n})
            appended += 1
        running = False
        await watcher
        assert 0 < longest <= 64


@virtual_time
async def test_another_user_is_served_in_the_middle_of_somebodys_burst() -> None:
    async with a_manager() as manager:
        bob = await Tab.open(manager, "bob")
        await bob.greeted()
        reached: list[int] = []

        async def burst() -> None:
            for n in range(5_000):
                await manager.get_emitter("alice").emit("custom", {"n": n})
                reached.append(n)

        task = asyncio.create_task(burst())
        await asyncio.sleep(0)
        await manager.get_emitter("bob").emit("custom", {"n": "for bob"})
        await bob.socket.wait_for(1)
        assert len(reached) < 1_000
        await task


# -- the end


@PROTOCOLS
@LOGS
@virtual_time
async def test_shutdown_delivers_what_was_emitted_before_it(make_log: MakeLog, v1: bool) -> None:
    manager = a_manager(make_log())
    async with manager:
        tabs = [await Tab.open(manager, user, v1=v1) for user in ("alice", "alice", "bob")]
        for n in range(500):
            await manager.get_emitter("alice").emit("custom", {"n": n})
            await manager.get_emitter("bob").emit("custom", {"n": n})
    for tab in tabs:
        assert await tab.ended() == 1012
        assert tab.numbers == list(range(500))
    assert asyncio.all_tasks() == {asyncio.current_task()}, "no task is left"
    assert manager.get_stats()["total_connections"] == 0
    assert manager.get_stats()["heartbeat_tasks"] == 0


@virtual_time
async def test_shutdown_waits_for_a_hanging_socket_no_longer_than_the_limit() -> None:
    loop = asyncio.get_running_loop()
    manager = a_manager(limits=Limits(shutdown_timeout=3.0))
    async with manager:
        hanging, reading = await Tab.open(manager, "alice"), await Tab.open(manager, "bob")
        await hanging.greeted()
        hanging.socket.block()
        for user in ("alice", "bob"):
            await manager.get_emitter(user).emit("custom", {"n": 1})
        began = loop.time()
    assert loop.time() - began <= 5.0
    assert await reading.ended() == 1012
    assert reading.numbers == [1]
    assert await hanging.ended() is None
    assert asyncio.all_tasks() == {asyncio.current_task()}


@virtual_time
async def test_after_shutdown_everything_says_so_and_the_manager_may_start_again() -> None:
    manager = a_manager()
    async with manager:
        emitter = manager.get_emitter("alice")
        first = await emitter.emit("custom", {"n": 1})
    for attempt in (
        emitter.emit("custom", {}),
        manager.emit_critical_event("alice", "custom", {}),
        manager.connect_user(FakeSocket(), "alice"),
    ):
        with pytest.raises(ManagerClosed):
            await attempt
    async with manager:
        second = await emitter.emit("custom", {"n": 2})
        assert second == Position(first.epoch, 2, second.mark)
        tab = await Tab.open(manager, "alice")
        await tab.has(2)


@virtual_time
async def test_shutdown_twice_is_shutdown() -> None:
    manager = a_manager()
    async with manager:
        await Tab.open(manager, "alice")
        await manager.shutdown()
        await manager.shutdown()


@virtual_time
async def test_drain_sends_everybody_away_gently_and_refuses_newcomers() -> None:
    loop = asyncio.get_running_loop()
    manager = a_manager()
    async with manager:
        tabs = [await Tab.open(manager, f"user-{number}") for number in range(10)]
        for tab in tabs:
            await manager.get_emitter(tab.connection.user_id).emit("custom", {"n": 1})
        began = loop.time()
        drain = asyncio.create_task(manager.drain(budget=5.0))
        await turns()
        late = FakeSocket()
        with pytest.raises(ConnectionRefused) as refused:
            await manager.connect_user(late, "late")
        assert refused.value.code == late.close_code == 1013
        await asyncio.sleep(2.0)
        left = sum(tab.serving.done() for tab in tabs)
        assert 1 < left < 10, "they go one after the other"
        await drain
        assert loop.time() - began <= 6.0
        for tab in tabs:
            assert await tab.ended() == 1012
            assert tab.numbers == [1]


@virtual_time
async def test_a_connection_that_ends_leaves_nothing_behind() -> None:
    """However it ends: no task, no registration, no watcher of the log."""
    log = MemoryLog()
    ended: list[str] = []

    async def note(connection: Any) -> None:
        ended.append(connection.connection_id)

    async with a_manager(log, on_disconnect=note) as manager:
        before = len(asyncio.all_tasks())
        for n in range(5):
            tab = await Tab.open(manager, "alice", f"cut-{n}")
            if n % 2:
                await tab.greeted()
            await tab.cut()
        gone = FakeSocket()
        gone.client_leaves()
        tab = await Tab.open(manager, "alice", "gone", socket=gone)
        await tab.serving
        tab = await Tab.open(manager, "alice", "cancelled")
        await tab.greeted()
        tab.serving.cancel()
        await asyncio.wait([tab.serving])
        tab = await Tab.open(manager, "alice", "asked")
        await manager.disconnect_user("alice", "asked")
        assert await tab.ended() == 1000
        await turns()
        assert sorted(ended) == sorted([*(f"cut-{n}" for n in range(5)), "gone", "cancelled", "asked"])
        assert len(asyncio.all_tasks()) == before
        assert manager.get_stats() == {
            "total_users": 0, "total_connections": 0, "active_emitters": 0, "heartbeat_tasks": 0,
        }  # fmt: skip
        assert manager.metrics.connections == 0
        assert await _wakes(log, "alice") == 0


async def _wakes(log: MemoryLog, user: str) -> int:
    """How many readers still watch the log of that user."""
    held = log._logs.get(LogName("user", user)) or log._heads.get(LogName("user", user))
    return 0 if held is None else len(held.watchers)


@virtual_time
async def test_a_hook_that_fails_at_connect_leaves_no_connection() -> None:
    async def refuse(_connection: Any) -> None:
        raise ZeroDivisionError

    async with a_manager(on_connect=refuse) as manager:
        with pytest.raises(ZeroDivisionError):
            await manager.connect_user(FakeSocket(), "alice")
        await turns()
        assert manager.get_stats()["total_connections"] == 0


@virtual_time
async def test_an_invalid_event_takes_no_turn_and_no_offset() -> None:
    async with a_manager() as manager:
        emitter = manager.get_emitter("alice")
        with pytest.raises(InvalidEvent):
            await emitter.emit("custom", {"n": object()})
        assert (await emitter.emit("custom", {})).offset == 1
