"""What a cursor makes of what was read: entries in a chain, a gap wherever it breaks, nothing of another log."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from websocket_core.control import CONTROL, Order, control_event
from websocket_core.cursor import Ended, Gap, LogCursor
from websocket_core.errors import IsolationViolation
from websocket_core.events import Event
from websocket_core.identity import Grant, LogName, Principal
from websocket_core.log import Batch, Entry, GapReason, Position

ALICE = LogName("user", "alice")


def an_entry(
    offset: int,
    *,
    log: LogName = ALICE,
    epoch: str = "e",
    mark: str | None = None,
    prev: str | None = None,
    connection_id: str | None = None,
    thread_id: str | None = None,
) -> Entry:
    mark = f"m{offset}" if mark is None else mark
    prev = (f"m{offset - 1}" if offset > 1 else "") if prev is None else prev
    return Entry(log, epoch, offset, mark, prev, Event(mark, b"{", connection_id, thread_id), 0.0)


def a_cursor(position: Position | None = None, *, thread_id: str | None = None) -> LogCursor:
    return LogCursor(Grant.own(Principal("alice")), connection_id="tab", thread_id=thread_id, position=position)


START = Position("e", 0, "")


def at(offset: int, epoch: str = "e") -> Position:
    return Position(epoch, offset, f"m{offset}" if offset else "")


def test_a_cursor_reads_the_log_of_its_grant() -> None:
    assert a_cursor().log == ALICE
    assert a_cursor().position is None


def test_entries_in_a_chain_come_out_as_they_are_and_the_position_is_behind_them() -> None:
    cursor = a_cursor()
    entries = [an_entry(1), an_entry(2), an_entry(3)]
    assert cursor.advance(Batch(START, entries, False)) == entries
    assert cursor.position == at(3)
    assert cursor.advance(Batch(at(3), [an_entry(4)], False)) == [an_entry(4)]
    assert cursor.position == at(4)


def test_an_empty_batch_gives_a_reader_without_a_cursor_a_place() -> None:
    """A connection to an empty log has a position too."""
    cursor = a_cursor()
    assert cursor.advance(Batch(at(7), [], False)) == []
    assert cursor.position == at(7)


def test_a_batch_of_a_log_that_does_not_exist_is_a_mistake_of_the_caller() -> None:
    cursor = a_cursor(at(3))
    with pytest.raises(ValueError, match="open the log first"):
        cursor.advance(Batch(None, [], False))
    assert cursor.position == at(3)


@pytest.mark.parametrize("reason", list(GapReason))
def test_a_gap_that_the_log_tells_comes_before_the_entries(reason: GapReason) -> None:
    cursor = a_cursor(at(2))
    assert cursor.advance(Batch(at(5), [an_entry(6)], False, reason)) == [Gap(reason, at(5)), an_entry(6)]
    assert cursor.position == at(6)


def test_a_gap_without_entries_moves_the_position() -> None:
    """Or the gap would be told again at every read."""
    cursor = a_cursor(at(2))
    start = Position("f", 0, "")
    assert cursor.advance(Batch(start, [], False, GapReason.NEW_EPOCH)) == [Gap(GapReason.NEW_EPOCH, start)]
    assert cursor.position == start


@pytest.mark.parametrize(
    "start",
    [at(3), at(1), Position("e", 2, "another"), Position("f", 2, "m2"), START],
    ids=["ahead", "behind", "mark", "epoch", "beginning"],
)
def test_a_batch_that_starts_elsewhere_without_saying_so_is_told_as_a_gap(start: Position) -> None:
    cursor = a_cursor(at(2))
    assert cursor.advance(Batch(start, [], False)) == [Gap(GapReason.DIVERGED, start)]
    assert cursor.position == start


@pytest.mark.parametrize(
    ("second", "gap"),
    [
        (an_entry(3), Gap(GapReason.DIVERGED, Position("e", 2, "m2"))),
        (an_entry(2, prev="other"), Gap(GapReason.DIVERGED, Position("e", 1, "other"))),
        (an_entry(1), Gap(GapReason.DIVERGED, Position("e", 0, ""))),
        (an_entry(2, epoch="f"), Gap(GapReason.NEW_EPOCH, Position("f", 1, "m1"))),
    ],
    ids=["hole", "mark", "again", "epoch"],
)
def test_a_break_in_the_chain_is_a_gap_where_it_breaks(second: Entry, gap: Gap) -> None:
    cursor = a_cursor()
    assert cursor.advance(Batch(START, [an_entry(1), second], False)) == [an_entry(1), gap, second]
    assert cursor.position == second.position


def test_after_a_break_the_chain_goes_on_without_another_gap() -> None:
    cursor = a_cursor()
    entries = [an_entry(1), an_entry(5, epoch="f"), an_entry(6, epoch="f")]
    out = cursor.advance(Batch(START, entries, False))
    assert [type(step) for step in out] == [Entry, Gap, Entry, Entry]
    assert cursor.position == at(6, "f")


def test_the_first_entry_must_join_the_start_of_its_batch() -> None:
    cursor = a_cursor(at(2))
    out = cursor.advance(Batch(at(2), [an_entry(3, prev="other")], False))
    assert out == [Gap(GapReason.DIVERGED, Position("e", 2, "other")), an_entry(3, prev="other")]


@pytest.mark.parametrize("log", [LogName("user", "bob"), LogName("topic", "alice"), LogName("user", "Alice")])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_an_entry_of_another_log_is_a_violation_and_nothing_comes_out(log: LogName, index: int) -> None:
    """Also when it is addressed to another connection and would have been stepped over."""
    cursor = a_cursor(START)
    entries = [an_entry(1), an_entry(2), an_entry(3)]
    entries[index] = entries[index]._replace(log=log, event=Event("x", b"{", "another tab"))
    with pytest.raises(IsolationViolation):
        cursor.advance(Batch(START, entries, False))
    assert cursor.position == START


def test_events_for_another_connection_are_stepped_over() -> None:
    cursor = a_cursor()
    entries = [an_entry(1, connection_id="other"), an_entry(2, connection_id="tab"), an_entry(3, connection_id="Tab")]
    assert cursor.advance(Batch(START, entries, False)) == [entries[1]]
    assert cursor.position == at(3)


def test_a_connection_for_one_thread_is_given_that_thread_alone() -> None:
    entries = [an_entry(1, thread_id="t1"), an_entry(2, thread_id="t2"), an_entry(3)]
    assert a_cursor(thread_id="t1").advance(Batch(START, entries, False)) == [entries[0]]
    assert a_cursor().advance(Batch(START, entries, False)) == entries


def test_a_gap_is_told_also_to_who_is_given_none_of_the_entries() -> None:
    cursor = a_cursor(at(1), thread_id="t1")
    assert cursor.advance(Batch(at(4), [an_entry(5)], False, GapReason.TRIMMED)) == [Gap(GapReason.TRIMMED, at(4))]
    assert cursor.position == at(5)


@settings(deadline=None)
@given(
    chain=st.lists(
        st.tuples(st.sampled_from("ef"), st.integers(1, 4), st.sampled_from("ab"), st.sampled_from(["", "a", "b"])),
        max_size=6,
    )
)
def test_every_entry_follows_its_predecessor_or_a_gap(chain: list[tuple[str, int, str, str]]) -> None:
    """Whatever a broken store hands over: between two entries without a gap there is a proven chain."""
    entries = [an_entry(offset, epoch=epoch, mark=mark, prev=prev) for epoch, offset, mark, prev in chain]
    cursor = a_cursor(START)
    here = START
    for step in cursor.advance(Batch(START, entries, False)):
        if isinstance(step, Gap):
            here = step.start
        else:
            assert isinstance(step, Entry)
            assert (step.epoch, step.offset, step.prev) == (here.epoch, here.offset + 1, here.mark)
            here = step.position
    assert cursor.position == here


# -- control entries


def an_order(offset: int, order: Order | None = None, *, log: LogName = ALICE, epoch: str = "e") -> Entry:
    event = control_event(order or Order(4410), f"m{offset}")
    return an_entry(offset, log=log, epoch=epoch)._replace(event=event)


def a_settled_cursor(settled: Position | None, position: Position | None = None, tab: str = "tab") -> LogCursor:
    """One of a connection `tab` with the token `t1`, whose deny-list was consulted when the log ended there."""
    cursor = LogCursor(
        Grant.own(Principal("alice")),
        connection_id=tab,
        position=position,
        concerns=lambda order: order.concerns(tab, "t1"),
    )
    cursor.settled = settled
    return cursor


def test_an_order_ends_everything_that_comes_later() -> None:
    cursor = a_settled_cursor(START, START)
    entries = [an_entry(1), an_order(2), an_entry(3), an_order(4, Order(1000)), an_entry(5)]
    assert cursor.advance(Batch(START, entries, True)) == [an_entry(1), Ended(4410)]
    assert cursor.position == at(2), "it stands at the order"


def test_nothing_of_a_batch_is_read_beyond_an_order() -> None:
    """Not even to find fault with it: a break in the chain behind the order is no gap for who is gone."""
    cursor = a_settled_cursor(START, START)
    assert cursor.advance(Batch(START, [an_order(1), an_entry(7, epoch="f")], False)) == [Ended(4410)]


def test_an_order_among_what_a_gap_leaves_comes_behind_the_gap() -> None:
    cursor = a_settled_cursor(at(2), at(2))
    steps = cursor.advance(Batch(at(5), [an_entry(6), an_order(7)], False, GapReason.TRIMMED))
    assert steps == [Gap(GapReason.TRIMMED, at(5)), an_entry(6), Ended(4410)]


@pytest.mark.parametrize(
    ("order", "ends"),
    [
        (Order(4410), True),
        (Order(1000, "tab"), True),
        (Order(1000, "other"), False),
        (Order(1000, "Tab"), False),
        (Order(4410, None, "t1"), True),
        (Order(4410, None, "t2"), False),
        (Order(4410, "tab", "t2"), False),
    ],
)
def test_an_order_ends_whom_it_concerns_and_is_shown_to_nobody(order: Order, ends: bool) -> None:
    cursor = a_settled_cursor(START, START)
    steps = cursor.advance(Batch(START, [an_order(1, order), an_entry(2)], False))
    assert steps == ([Ended(order.code)] if ends else [an_entry(2)])
    assert cursor.position == (at(1) if ends else at(2))


@pytest.mark.parametrize("thread_id", [None, "t1"])
def test_a_connection_for_one_thread_is_ended_like_any_other(thread_id: str | None) -> None:
    cursor = a_cursor(START, thread_id=thread_id)
    assert cursor.advance(Batch(START, [an_order(1), an_entry(2, thread_id="t1")], False)) == [Ended(4410)]


def test_a_control_entry_of_an_unknown_kind_is_stepped_over() -> None:
    cursor = a_settled_cursor(START, START)
    unknown = an_entry(1, connection_id=CONTROL)
    assert cursor.advance(Batch(START, [unknown, an_entry(2)], False)) == [an_entry(2)]


def test_orders_up_to_the_settled_head_are_stepped_over_and_the_next_is_obeyed() -> None:
    """Who comes back with an old cursor after a revocation, and was let in, is not ended by it again."""
    cursor = a_settled_cursor(at(3), START)
    entries = [an_order(1), an_order(2, Order(1000)), an_order(3)]
    assert cursor.advance(Batch(START, entries, True)) == []
    assert cursor.position == at(3)
    assert cursor.advance(Batch(at(3), [an_order(4)], False)) == [Ended(4410)]


def test_a_settled_head_of_another_life_settles_nothing_of_this_one() -> None:
    cursor = a_settled_cursor(at(9, "f"), START)
    assert cursor.advance(Batch(START, [an_order(1)], False)) == [Ended(4410)]


def test_without_a_settled_head_every_order_counts() -> None:
    assert a_settled_cursor(None, START).advance(Batch(START, [an_order(1)], False)) == [Ended(4410)]


def test_a_single_order_is_judged_as_one_that_was_read() -> None:
    cursor = a_settled_cursor(at(3), at(3))
    assert cursor.ordered(an_order(3)) is None
    assert cursor.ordered(an_order(4)) == Ended(4410)
    assert cursor.ordered(an_order(2, epoch="f")) == Ended(4410)
    assert cursor.ordered(an_order(4, Order(1000, "other"))) is None
    assert cursor.ordered(an_entry(4, connection_id=CONTROL)) is None
    assert cursor.position == at(3), "and moves nothing"


@pytest.mark.parametrize(
    ("last", "settled"),
    [
        (None, START),
        (an_order(3), at(3)),
        (an_order(9), at(9)),
        (an_order(12), at(9)),
        (an_order(3, epoch="f"), at(9)),
    ],
)
def test_a_deny_list_that_was_consulted_again_settles_no_more_than_the_orders_that_stood_there(
    last: Entry | None, settled: Position
) -> None:
    """Less than before if the store went back in time. Never more: there may be orders in between, not yet read."""
    cursor = a_settled_cursor(at(9), at(5))
    cursor.settle(last)
    assert cursor.settled is not None
    assert cursor.settled[:2] == settled[:2]


def test_what_was_settled_of_an_earlier_life_stays_so_in_the_next() -> None:
    cursor = a_settled_cursor(at(9), at(2, "f"))
    for last in (None, an_order(1, epoch="f")):
        cursor.settle(last)
        assert cursor.settled == at(9)
    cursor = a_settled_cursor(None, at(2))
    cursor.settle(an_order(1))
    assert cursor.settled is None


@pytest.mark.parametrize("log", [LogName("user", "bob"), LogName("topic", "alice"), LogName("user", "Alice")])
def test_an_order_of_another_log_is_a_violation_and_ends_nobody_for_a_reason_of_others(log: LogName) -> None:
    """Also one that is settled, concerns another connection, or stands behind an order of this log's own."""
    cursor = a_settled_cursor(at(3), START)
    for order in (an_order(1, log=log), an_order(9, log=log), an_order(9, Order(1000, "other"), log=log)):
        with pytest.raises(IsolationViolation):
            cursor.ordered(order)
    with pytest.raises(IsolationViolation):
        cursor.advance(Batch(START, [an_order(1, log=log)], False))
    assert cursor.position == START


@pytest.mark.parametrize(
    ("start", "passes"),
    [(START, False), (at(2), False), (at(3), False), (at(4), True), (Position("f", 0, ""), True), (at(2, "f"), True)],
)
def test_reading_on_from_behind_the_settled_head_or_in_another_life_may_pass_over_orders(
    start: Position, passes: bool
) -> None:
    assert a_settled_cursor(at(3)).passes_over(start) is passes
    assert not a_settled_cursor(None).passes_over(start)


@settings(deadline=None)
@given(
    kinds=st.lists(st.sampled_from(["event", "all", "tab", "other", "t1", "t2"]), min_size=1, max_size=12),
    settled=st.integers(0, 12),
    cuts=st.sets(st.integers(1, 11)),
)
def test_however_a_log_is_read_an_order_is_obeyed_where_it_stands(
    kinds: list[str], settled: int, cuts: set[int]
) -> None:
    """Every event before the first order that concerns the connection, and nothing after it, in batches of any size."""
    orders = {
        "all": Order(1),
        "tab": Order(1, "tab"),
        "other": Order(1, "x"),
        "t1": Order(1, None, "t1"),
        "t2": Order(1, None, "t2"),
    }
    entries = [an_order(n, orders[kind]) if kind in orders else an_entry(n) for n, kind in enumerate(kinds, 1)]
    expected: list[int] = []
    for offset, kind in enumerate(kinds, 1):
        if kind in ("all", "tab", "t1") and offset > settled:
            expected.append(-1)
            break
        if kind == "event":
            expected.append(offset)
    cursor = a_settled_cursor(at(settled), START)
    steps: list[int] = []
    for first, last in itertools.pairwise([0, *sorted(cut for cut in cuts if cut < len(entries)), len(entries)]):
        for step in cursor.advance(Batch(at(first), entries[first:last], last < len(entries))):
            assert not isinstance(step, Gap)
            steps.append(-1 if isinstance(step, Ended) else step.offset)
        if -1 in steps:
            break
    assert steps == expected
