"""What a cursor makes of what was read: entries in a chain, a gap wherever it breaks, nothing of another log."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from websocket_core.cursor import Gap, LogCursor
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
            assert (step.epoch, step.offset, step.prev) == (here.epoch, here.offset + 1, here.mark)
            here = step.position
    assert cursor.position == here
