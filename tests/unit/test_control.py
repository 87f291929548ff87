"""Control entries: an order survives its way through a log exactly, and nothing else is taken for one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import Tab, a_manager, virtual_time
from websocket_core.control import CONTROL, Order, control_event, order_of
from websocket_core.errors import InvalidInput, UnknownConnection
from websocket_core.events import Event
from websocket_core.identity import LogName, UserId, text_fault
from websocket_core.logs.memory import MemoryLog
from websocket_core.wire import CloseCode

NAMES = st.none() | st.text(max_size=20)
SECONDS = st.none() | st.floats(min_value=0, max_value=1e12)
ORDERS = st.builds(Order, st.integers(1_000, 4_999), NAMES, NAMES, SECONDS, NAMES)


def test_an_order_against_a_user_does_not_mean_credentials_that_are_newer() -> None:
    order = Order(4410, issued_until=1_000.0)
    assert order.concerns("tab", "token", 1_000.0)
    assert order.concerns("tab", "token", None), "one that does not say when it was issued counts as old"
    assert not order.concerns("tab", "token", 1_000.5)


@given(ORDERS)
def test_an_order_comes_back_as_it_was_given(order: Order) -> None:
    assert order_of(control_event(order, "e1")) == order


def test_a_control_entry_is_an_event_for_a_connection_that_nobody_can_have() -> None:
    event = control_event(Order(4410, "tab", "t1"), "e1")
    assert (event.id, event.connection_id, event.thread_id) == ("e1", CONTROL, None)
    assert json.loads(event.body + b"}") == {
        "type": "control",
        "order": {"code": 4410, "connection_id": "tab", "token_id": "t1"},
        "id": "e1",
    }
    assert text_fault(CONTROL, characters=256, utf8_bytes=512) is not None


def test_what_an_order_does_not_name_is_left_out() -> None:
    """So that an older release, which knows fewer names, does not take an order for a wider one than it is."""
    assert json.loads(control_event(Order(1000), "e1").body + b"}")["order"] == {"code": 1000}


def test_an_order_to_a_seat_is_for_no_other_connection_with_the_same_id() -> None:
    order = Order(4409, "tab", seat="s1")
    assert order.concerns("tab", "token", None, "s1")
    for seat in ("s2", "", None):
        assert not order.concerns("tab", "token", None, seat)
    assert not order.concerns("other", "token", None, "s1")
    assert Order(4409, "tab").concerns("tab", "token", None, "s1")


def test_a_release_that_knows_no_seats_does_not_take_an_order_for_a_wider_one() -> None:
    """It looks for `code`, and passes over what has none; or it would close the connection that has come instead."""
    stored = json.loads(control_event(Order(4409, "tab", seat="s1"), "e1").body + b"}")
    assert stored["order"] == {"seat_code": 4409, "connection_id": "tab", "seat": "s1"}


@pytest.mark.parametrize(
    ("order", "concerned"),
    [
        (Order(1), "a1 a2 b1 b- -"),
        (Order(1, connection_id="a"), "a1 a2"),
        (Order(1, token_id="1"), "a1 b1"),
        (Order(1, "a", "1"), "a1"),
        (Order(1, "A"), ""),
        (Order(1, ""), "-"),
        (Order(1, token_id=""), ""),
        (Order(1, "b", "1"), "b1"),
    ],
)
def test_an_order_concerns_those_that_match_all_that_it_names(order: Order, concerned: str) -> None:
    """Exactly; and a connection without a token id is meant by no order that names one."""
    everybody = {"a1": ("a", "1"), "a2": ("a", "2"), "b1": ("b", "1"), "b-": ("b", None), "-": ("", None)}
    assert " ".join(name for name, who in everybody.items() if order.concerns(*who)) == concerned


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[1", b"5", b"\xff", b'{"type":"control"', b'{"order":null', b'{"order":4410', b'{"order":[4410]',
        b'{"order":"4410"', b'{"order":{}', b'{"order":{"code":null}', b'{"order":{"code":"4410"}',
        b'{"order":{"code":4410.0}', b'{"order":{"code":true}', b'{"order":{"code":4410,"connection_id":5}',
        b'{"order":{"code":4410,"token_id":["t"]}', b'{"orders":{"code":4410}',
    ],
)  # fmt: skip
def test_a_control_entry_of_an_unknown_kind_is_no_order(body: bytes) -> None:
    """A newer process may write what this release does not know: it steps over that, and crashes no writer."""
    assert order_of(Event("e1", body, CONTROL)) is None


def test_further_fields_of_a_newer_release_do_no_harm() -> None:
    body = b'{"type":"control","order":{"code":4410,"connection_id":null,"because":{"x":1}},"more":1,"id":"e1"'
    assert order_of(Event("e1", body, CONTROL)) == Order(4410)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["order", "code", "connection_id", "token_id"]), inner, max_size=4)
        ),
    )
)
def test_no_body_makes_it_raise(value: Any) -> None:
    order = order_of(Event("e1", json.dumps(value).encode()[:-1], CONTROL))
    assert order is None or isinstance(order.code, int)


@virtual_time
async def test_nobody_but_the_sdk_can_give_an_order() -> None:
    """Not by an event that looks like one, and not by emitting to the connection that stands for one."""
    async with a_manager() as manager:
        tab = await Tab.open(manager, "alice", "tab")
        order = {"order": {"code": 4410}, "type": "control"}
        await manager.get_emitter("alice").emit("control", order)
        await manager.get_emitter("alice").emit("control", order, connection_id="tab")
        with pytest.raises(UnknownConnection):
            await manager.get_emitter("alice").emit("control", order, connection_id=CONTROL)
        with pytest.raises(InvalidInput):
            await manager.connect_user(tab.socket, "alice", CONTROL)
        assert [event["data"] for event in await tab.has(2)] == [order, order]
        assert tab.connection.state == "open"


@virtual_time
async def test_an_order_of_an_unknown_code_ends_a_connection_so_that_it_stays_away() -> None:
    """As from a newer process: it was meant to go, and 1000 does not have it come back by itself."""
    log = MemoryLog()
    async with a_manager(log) as manager:
        tab = await Tab.open(manager, "alice")
        await tab.greeted()
        await log.append(LogName.of_user(UserId("alice")), control_event(Order(4999), "e1"))
        assert await tab.ended() == CloseCode.DISCONNECTED


@virtual_time
async def test_an_order_is_shown_to_nobody_and_nothing_after_it_either() -> None:
    log = MemoryLog()
    async with a_manager(log) as manager:
        name = LogName.of_user(UserId("alice"))
        tabs = [await Tab.open(manager, "alice", each, v1=each == "b") for each in ("a", "b", "c")]
        for tab in tabs:
            await tab.greeted()
        await manager.get_emitter("alice").emit("x", {"n": 1})
        await log.append(name, control_event(Order(4410, "a"), "e1"))
        await log.append(name, Event("e2", b'{"type":"control","order":{"code":"?"},"id":"e2"', CONTROL))
        await manager.get_emitter("alice").emit("x", {"n": 2})
        assert await tabs[0].ended() == 4410
        for tab in tabs[1:]:
            await tab.has(2)
        assert [tab.numbers for tab in tabs] == [[1], [1, 2], [1, 2]]
        assert not any("order" in text or "control" in text for tab in tabs for text in tab.socket.texts)
