"""One connection's place in one log: what it reads, what a gap calls for before anything of it is sent, and that no
trouble with the log loses anything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.support import turns, virtual_time
from websocket_core.control import Order, control_event
from websocket_core.cursor import Ended, Gap, LogCursor
from websocket_core.errors import IsolationViolation, LogUnavailable
from websocket_core.events import Event
from websocket_core.follower import RETRY_SECONDS, LogFollower
from websocket_core.identity import Grant, LogName, Principal, UserId
from websocket_core.limits import Retention
from websocket_core.log import Batch, Entry, GapReason, Position
from websocket_core.logs.memory import MemoryLog
from websocket_core.outbox import Waiting
from websocket_core.provisional import Shown
from websocket_core.wire import encode_cursor

ALICE = LogName.of_user(UserId("alice"))
BOB = LogName.of_user(UserId("bob"))


def event(number: int, *, name: str = "e") -> Event:
    return Event(f"{name}{number}", f'{{"type":"x","data":{{"n":{number}}},"id":"{name}{number}"'.encode())


class Reader:
    """A log that notes what is asked of it, fails as often as it is told to, and can be lost. What it answers to a read
    can be doctored."""

    def __init__(self, retention: Retention | None = None) -> None:
        self._retention = retention
        self.lose()
        self.asked: list[str] = []
        self.failures: dict[str, int] = {}
        self.during: dict[str, Callable[[], None]] = {}
        self.doctor: Callable[[Batch], Batch] = lambda batch: batch
        self.control_of = ALICE

    def lose(self) -> None:
        """Forget everything, as a store does that has lost its memory; nobody is woken."""
        self.inner = MemoryLog(self._retention)

    async def ask(self, what: str) -> None:
        self.asked.append(what)
        await asyncio.sleep(0)
        self.during.get(what, lambda: None)()
        if self.failures.get(what, 0):
            self.failures[what] -= 1
            raise LogUnavailable("told to fail")

    async def open(self, log: LogName) -> Position:
        await self.ask("open")
        return await self.inner.open(log)

    async def read(self, log: LogName, after: Position | None, limit: int) -> Batch:
        await self.ask("read")
        assert log == ALICE, "a log was read that is not the grant's"
        return self.doctor(await self.inner.read(log, after, limit))

    async def control(self, log: LogName) -> Entry | None:
        await self.ask("control")
        assert log == ALICE
        return await self.inner.control(self.control_of)

    def watch(self, log: LogName, wake: Callable[[], None]) -> Callable[[], None]:
        return self.inner.watch(log, wake)

    async def append(self, log: LogName, event: Event) -> Position:
        return await self.inner.append(log, event)

    async def fill(self, first: int, last: int) -> list[Position]:
        return [await self.append(ALICE, event(number)) for number in range(first, last + 1)]

    async def order(self, order: Order | None = None, *, name: str = "order") -> Position:
        return await self.append(ALICE, control_event(order or Order(4410), name))


class Follower(LogFollower):
    """One of the tab `tab` with the token `t1`, made as a connection makes it."""

    def __init__(self, reader: Reader, *, limit: int = 256, snapshot: bytes | str | None = "without") -> None:
        self.reader = reader
        self.woken = 0
        self.may_be_here = True

        async def permits() -> bool:
            await reader.ask("permits")
            return self.may_be_here

        async def shown() -> bytes | None:
            await reader.ask("snapshot")
            return None if isinstance(snapshot, str) else snapshot

        super().__init__(
            reader,
            LogCursor(
                Grant.own(Principal("alice")),
                connection_id="tab",
                concerns=lambda order: order.concerns("tab", "t1"),
            ),
            limit=limit,
            wake=self.wake,
            permits=permits,
            snapshot=None if snapshot == "without" else shown,
        )

    def wake(self) -> None:
        self.woken += 1
        self.dirty = True

    @classmethod
    async def started(
        cls, reader: Reader, position: Position | None = None, *, latest: bool = False, **options: Any
    ) -> Follower:
        follower = cls(reader, **options)
        follower.start(await reader.open(ALICE), position, latest=latest)
        reader.asked.clear()
        return follower

    @classmethod
    async def at_the_end(cls, reader: Reader, **options: Any) -> Follower:
        """One that has read everything."""
        follower = await cls.started(reader, latest=True, **options)
        await follower.first()
        reader.asked.clear()
        return follower


def brief(steps: Sequence[Shown]) -> list[Any]:
    """Steps in short: the number of an event, the reason of a gap, minus the code of an order."""
    out: list[Any] = []
    for step in steps:
        if isinstance(step, Entry):
            out.append(int(step.event.id.lstrip("abcdefghijklmnopqrstuvwxyz")))
        else:
            assert not isinstance(step, Waiting)
            out.append(step.reason.value if isinstance(step, Gap) else -step.code)
    return out


# -- where it begins


@virtual_time
async def test_without_a_cursor_it_begins_before_the_oldest_event() -> None:
    reader = Reader(Retention(events=3))
    positions = await reader.fill(1, 5)
    follower = await Follower.started(reader)
    assert (follower.position, follower.cursor) == (None, None)
    cursor, resumed, steps = await follower.first()
    assert (cursor, resumed, brief(steps)) == (encode_cursor(positions[1]), False, [3, 4, 5])
    assert follower.cursor == encode_cursor(positions[4])


@virtual_time
async def test_an_empty_log_is_a_place_too() -> None:
    reader = Reader()
    head = await reader.open(ALICE)
    follower = await Follower.started(reader)
    assert await follower.first() == (encode_cursor(head), False, [])
    assert follower.position == head


@virtual_time
async def test_a_cursor_that_is_honoured_resumes_and_one_that_is_not_is_told_a_gap() -> None:
    reader = Reader()
    positions = await reader.fill(1, 5)
    follower = await Follower.started(reader, positions[2])
    cursor, resumed, steps = await follower.first()
    assert (cursor, resumed, brief(steps)) == (encode_cursor(positions[2]), True, [4, 5])
    wrong = positions[2]._replace(mark="other")
    follower = await Follower.started(reader, wrong)
    cursor, resumed, steps = await follower.first()
    assert (resumed, brief(steps)) == (False, ["diverged", 1, 2, 3, 4, 5])
    assert cursor == encode_cursor(wrong), "which it keeps until it was told the gap, in case it is cut before"
    assert isinstance(steps[0], Gap)
    assert steps[0].start == Position(positions[0].epoch, 0, "")


@virtual_time
async def test_latest_begins_at_the_end_as_it_was_noted_and_resumes_nothing() -> None:
    reader = Reader()
    positions = await reader.fill(1, 3)
    follower = await Follower.started(reader, latest=True)
    await reader.fill(4, 5)
    cursor, resumed, steps = await follower.first()
    assert (cursor, resumed, brief(steps)) == (encode_cursor(positions[2]), False, [4, 5])
    follower = await Follower.started(reader, latest=True)
    head = follower.position
    reader.lose()
    cursor, resumed, steps = await follower.first()
    assert (cursor, resumed, brief(steps)) == (encode_cursor(head or positions[0]), False, ["new_epoch"])


@pytest.mark.parametrize("what", ["read", "open", "control", "permits"])
@virtual_time
async def test_a_beginning_that_cannot_be_read_is_an_error_of_the_log(what: str) -> None:
    """The client is sent away to come again; it is not shown a gap that was not looked into."""
    reader = Reader(Retention(events=1))
    (gone, *_) = await reader.fill(1, 3)
    follower = await Follower.started(reader, gone)
    if what == "open":
        reader.lose()
    reader.failures[what] = 1
    with pytest.raises(LogUnavailable):
        await follower.first()


# -- going on


@virtual_time
async def test_a_connection_that_keeps_up_costs_one_read_for_each_event() -> None:
    reader = Reader()
    follower = await Follower.at_the_end(reader, snapshot=b"{}")
    for number in range(1, 4):
        await reader.append(ALICE, event(number))
        assert brief(await follower.next()) == [number]
    await reader.fill(4, 6)
    assert brief(await follower.next()) == [4, 5, 6]
    assert await follower.next() == []
    assert reader.asked == ["read"] * 5


@virtual_time
async def test_it_is_woken_by_every_append_from_its_start_to_its_stop() -> None:
    reader = Reader()
    Follower(reader).stop()
    follower = await Follower.started(reader)
    await reader.fill(1, 2)
    assert follower.woken == 2
    follower.stop()
    await reader.fill(3, 4)
    assert follower.woken == 2
    follower.stop()


@virtual_time
async def test_an_append_during_a_read_is_not_missed() -> None:
    """`dirty` is cleared before the read and not after it."""
    reader = Reader()
    follower = await Follower.at_the_end(reader)
    assert not follower.dirty
    reader.during["read"] = follower.wake
    follower.wake()
    assert await follower.next() == []
    assert follower.dirty


@virtual_time
async def test_what_does_not_fit_into_a_batch_is_read_next() -> None:
    reader = Reader()
    follower = await Follower.at_the_end(reader, limit=2)
    await reader.fill(1, 5)
    seen = []
    follower.dirty = True
    while follower.dirty:
        seen.append(brief(await follower.next()))
    assert seen == [[1, 2], [3, 4], [5]]


@virtual_time
async def test_a_log_that_is_gone_is_opened_anew_and_told_as_another_life() -> None:
    reader = Reader()
    await reader.fill(1, 3)
    follower = await Follower.at_the_end(reader)
    reader.lose()
    assert brief(await follower.next()) == ["new_epoch"]
    assert reader.asked == ["read", "open", "control", "permits"]
    assert follower.dirty, "what was appended between the two is read at once"
    await reader.fill(1, 1)
    assert brief(await follower.next()) == [1]


@virtual_time
async def test_adjacent_pieces_of_text_come_as_one() -> None:
    reader = Reader()
    follower = await Follower.at_the_end(reader)
    for start, text in ((0, "one "), (4, "two")):
        body = f'{{"type":"message_delta","data":{{"message_id":"m","start":{start},"text":"{text}"}},"id":"d{start}"'
        await reader.append(ALICE, Event(f"d{start}", body.encode()))
    (step,) = await follower.next()
    assert isinstance(step, Entry)
    assert (step.event.id, b'"one two"' in step.event.body) == ("d4", True)


# -- a gap


async def a_gap_ahead(**options: Any) -> tuple[Reader, Follower]:
    """A follower at the end of a log of one event, of which more were trimmed meanwhile than it has read."""
    reader = Reader(Retention(events=3))
    await reader.fill(1, 1)
    follower = await Follower.at_the_end(reader, **options)
    await reader.fill(2, 9)
    return reader, follower


@virtual_time
async def test_after_a_gap_the_last_order_and_the_deny_list_are_looked_at_and_then_the_snapshot_is_taken() -> None:
    reader, follower = await a_gap_ahead(snapshot=b'{"n":1}')
    steps = await follower.next()
    assert brief(steps) == ["trimmed", 7, 8, 9]
    assert reader.asked == ["read", "control", "permits", "snapshot"]
    assert isinstance(steps[0], Gap)
    assert steps[0].snapshot == b'{"n":1}'


@virtual_time
async def test_an_order_that_was_trimmed_ends_the_connection_before_anything_is_sent() -> None:
    reader, follower = await a_gap_ahead(snapshot=b"{}")
    await reader.order()
    await reader.fill(10, 15)
    assert await follower.next() == [Ended(4410)]
    assert reader.asked == ["read", "control"], "and nothing is shown to it, or asked for to be shown"


@pytest.mark.parametrize("order", [Order(1000, "other"), Order(4410, None, "t2"), None])
@virtual_time
async def test_an_order_for_somebody_else_ends_nobody(order: Order | None) -> None:
    reader, follower = await a_gap_ahead()
    if order is None:
        await reader.append(ALICE, Event("order", b'{"order":"of a kind to come"', "\x00"))
    else:
        await reader.order(order)
    await reader.fill(10, 12)
    assert brief(await follower.next()) == ["trimmed", 10, 11, 12]


@virtual_time
async def test_an_order_from_before_the_connection_was_let_in_does_not_end_it() -> None:
    reader = Reader(Retention(events=3))
    (old, *_) = await reader.fill(1, 4)
    await reader.order()
    follower = await Follower.started(reader, old)
    _, resumed, steps = await follower.first()
    assert (resumed, brief(steps)) == (False, ["trimmed", 3, 4])


@virtual_time
async def test_who_is_on_the_deny_list_is_ended_in_a_gap_though_no_order_says_so() -> None:
    """The order is behind by now, or went with its log."""
    for snapshot in ("without", b"{}"):
        reader, follower = await a_gap_ahead(snapshot=snapshot)
        follower.may_be_here = False
        assert await follower.next() == [Ended(4410)]
        assert reader.asked == ["read", "control", "permits"]


@virtual_time
async def test_an_order_that_is_retained_ends_it_where_it_stands() -> None:
    reader, follower = await a_gap_ahead()
    await reader.order(Order(1000, "tab"))
    await reader.order(Order(1000, "other"), name="another")
    assert brief(await follower.next()) == ["trimmed", 9, -1000]


@virtual_time
async def test_a_reader_without_a_cursor_for_whom_an_order_was_trimmed_is_ended_too() -> None:
    """It is told no gap, since it had seen nothing: but it was let in before the order."""
    for limit in (1, 256):
        reader = Reader(Retention(events=3))
        await reader.fill(1, 2)
        follower = await Follower.started(reader, limit=limit)
        await reader.order()
        await reader.fill(3, 9)
        _, _, steps = await follower.first()
        assert steps == [Ended(4410)]


@virtual_time
async def test_a_reader_without_a_cursor_whose_log_was_lost_meanwhile_is_looked_up_in_the_deny_list() -> None:
    reader = Reader()
    await reader.fill(1, 2)
    follower = await Follower.started(reader)
    await reader.order()
    await reader.inner.forget(ALICE)
    follower.may_be_here = False
    assert (await follower.first())[2] == [Ended(4410)]


@virtual_time
async def test_a_beginning_that_passes_over_nothing_asks_for_nothing_more_than_one_read() -> None:
    reader = Reader()
    positions = await reader.fill(1, 3)
    for position in (None, positions[0], positions[2]):
        follower = await Follower.started(reader, position)
        await follower.first()
        assert reader.asked == ["read"]


@virtual_time
async def test_a_break_in_the_chain_is_a_gap_like_any_other() -> None:
    """Also if the log itself tells of none."""
    reader = Reader()
    follower = await Follower.at_the_end(reader)
    await reader.fill(1, 3)
    reader.doctor = lambda batch: batch._replace(entries=[batch.entries[0], batch.entries[2]])
    assert brief(await follower.next()) == [1, "diverged", 3]
    assert reader.asked == ["read", "control", "permits"]


@virtual_time
async def test_orders_after_a_store_went_back_in_time_count_though_their_offsets_were_settled_before() -> None:
    reader = Reader()
    for order in (None, Order(4410), Order(1000, "other")):
        reader.inner = MemoryLog(entropy=bytes)
        await reader.fill(1, 3)
        if order is not None:
            await reader.order(order, name="old")
        await reader.fill(4, 9)
        follower = await Follower.at_the_end(reader)
        reader.inner = MemoryLog(entropy=bytes)
        await reader.fill(1, 3)
        if order is not None:
            await reader.order(order, name="old")
        assert brief(await follower.next()) == ["diverged", 1, 2, 3], (
            "an order that stood there when it came is settled"
        )
        await reader.fill(4, 4)
        await reader.order()
        await reader.fill(5, 5)
        assert brief(await follower.next()) == [4, -4410]


@virtual_time
async def test_every_gap_of_a_batch_carries_the_one_snapshot_that_was_taken() -> None:
    reader, follower = await a_gap_ahead(snapshot=b'{"n":1}')
    reader.doctor = lambda batch: batch._replace(entries=[batch.entries[0], batch.entries[2]])
    steps = await follower.next()
    assert brief(steps) == ["trimmed", 7, "diverged", 9]
    assert [step.snapshot for step in steps if isinstance(step, Gap)] == [b'{"n":1}'] * 2
    assert reader.asked.count("snapshot") == 1


@virtual_time
async def test_a_gap_without_a_snapshot_stays_as_it_is() -> None:
    _, follower = await a_gap_ahead(snapshot=None)
    (gap, *_) = await follower.next()
    assert isinstance(gap, Gap)
    assert gap.snapshot is None


@virtual_time
async def test_the_last_order_of_another_log_is_a_violation() -> None:
    reader, follower = await a_gap_ahead()
    await reader.append(BOB, control_event(Order(4410), "order"))
    reader.control_of = BOB
    with pytest.raises(IsolationViolation):
        await follower.next()


# -- a log in trouble


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("what", ["read", "control", "permits"])
@virtual_time
async def test_trouble_with_the_log_is_nothing_to_send_and_is_tried_again_soon(what: str, times: int) -> None:
    """The position stays where it was, so that the gap and everything behind it comes later and once."""
    loop = asyncio.get_running_loop()
    reader, follower = await a_gap_ahead()
    before = follower.position
    reader.failures[what] = times
    for _ in range(times):
        woken, began = follower.woken, loop.time()
        assert await follower.next() == []
        assert follower.position == before
        assert not follower.dirty, "it is not read again and again"
        await asyncio.sleep(RETRY_SECONDS)
        await turns(2)
        assert (follower.woken, follower.dirty) == (woken + 1, True)
        assert loop.time() - began == RETRY_SECONDS
    assert brief(await follower.next()) == ["trimmed", 7, 8, 9]
    assert await follower.next() == []


@virtual_time
async def test_what_is_appended_while_the_log_is_in_trouble_is_not_lost_either() -> None:
    reader = Reader()
    follower = await Follower.at_the_end(reader)
    await reader.fill(1, 2)
    reader.failures["read"] = 1
    assert await follower.next() == []
    await reader.fill(3, 4)
    assert follower.dirty
    assert brief(await follower.next()) == [1, 2, 3, 4]


@virtual_time
async def test_a_log_that_is_gone_and_cannot_be_opened_is_told_once_it_can() -> None:
    reader = Reader()
    await reader.fill(1, 3)
    follower = await Follower.at_the_end(reader)
    reader.lose()
    reader.failures["open"] = 1
    assert await follower.next() == []
    assert brief(await follower.next()) == ["new_epoch"]


@virtual_time
async def test_being_cancelled_while_a_gap_is_looked_into_sends_nothing() -> None:
    _, follower = await a_gap_ahead()
    reading = asyncio.ensure_future(follower.next())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


# -- a client that says where it stands


async def a_follower_behind_five() -> tuple[Reader, Follower, list[Position]]:
    reader = Reader(Retention(events=4))
    positions = await reader.fill(1, 5)
    return reader, await Follower.at_the_end(reader), positions


@virtual_time
async def test_a_client_behind_is_sent_what_it_lacks() -> None:
    reader, follower, positions = await a_follower_behind_five()
    assert brief(await follower.compare(positions[2])) == [4, 5]
    assert follower.position == positions[4]
    assert "control" not in reader.asked


@virtual_time
async def test_a_client_behind_what_is_retained_is_told_a_gap() -> None:
    _, follower, positions = await a_follower_behind_five()
    assert brief(await follower.compare(Position(positions[0].epoch, 0, ""))) == ["trimmed", 2, 3, 4, 5]


@virtual_time
async def test_a_client_that_is_ahead_and_right_is_sent_nothing_and_moves_nobody() -> None:
    reader, follower, positions = await a_follower_behind_five()
    (ahead,) = await reader.fill(6, 6)
    assert await follower.compare(ahead) == []
    assert follower.position == positions[4]
    assert brief(await follower.next()) == [6], "this connection comes to it by itself"


@pytest.mark.parametrize(
    ("claimed", "reason"),
    [
        (lambda head: head._replace(offset=head.offset + 1, mark="later"), GapReason.DIVERGED),
        (lambda head: head._replace(mark="other"), GapReason.DIVERGED),
        (lambda head: head._replace(epoch="before"), GapReason.NEW_EPOCH),
        (lambda head: Position("before", 9_999, "x"), GapReason.NEW_EPOCH),
    ],
    ids=["ahead", "mark", "epoch", "anywhere"],
)
@virtual_time
async def test_a_client_that_cannot_stand_there_is_told_a_gap_and_everything(
    claimed: Callable[[Position], Position], reason: GapReason
) -> None:
    reader, follower, positions = await a_follower_behind_five()
    assert brief(await follower.compare(claimed(positions[4]))) == [reason.value, 2, 3, 4, 5]
    assert follower.position == positions[4]
    assert reader.asked[-2:] == ["control", "permits"]


@virtual_time
async def test_a_claim_looks_into_the_log_of_the_grant_and_no_other() -> None:
    reader, follower, _ = await a_follower_behind_five()
    hers = [await reader.append(BOB, event(number, name="b")) for number in range(3)]
    for position in hers:
        assert brief(await follower.compare(position)) == ["new_epoch", 2, 3, 4, 5]


@virtual_time
async def test_going_back_goes_past_no_order() -> None:
    """Neither one that ended others, which is not shown, nor one that ended this connection."""
    reader, follower, positions = await a_follower_behind_five()
    await reader.order(Order(1000, "other"))
    assert await follower.next() == []
    assert brief(await follower.compare(positions[3])) == [5]
    await reader.order(name="for all")
    assert brief(await follower.compare(positions[3])) == [5, -4410]


@pytest.mark.parametrize("what", ["read", "control", "permits"])
@virtual_time
async def test_a_claim_that_cannot_be_compared_now_loses_nothing(what: str) -> None:
    reader, follower, positions = await a_follower_behind_five()
    reader.failures[what] = 1
    wrong = positions[4]._replace(mark="other")
    woken = follower.woken
    assert await follower.compare(wrong) == []
    await asyncio.sleep(RETRY_SECONDS)
    await turns(2)
    assert follower.woken == woken + 1
    await reader.fill(6, 6)
    if what == "read":
        assert brief(await follower.next()) == [6], "the claim is made again with the next heartbeat"
    else:
        assert brief(await follower.next()) == ["diverged", 3, 4, 5, 6]


@virtual_time
async def test_a_claim_on_a_log_that_is_gone_waits_for_the_next_read() -> None:
    reader, follower, positions = await a_follower_behind_five()
    reader.lose()
    assert await follower.compare(positions[0]) == []
    assert brief(await follower.next()) == ["new_epoch"]
