"""Which connections there are: by arrival, exactly by user and id, and counted right on every path."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from websocket_core.connection import WebSocketConnection
from websocket_core.identity import UserId, checked_user_id
from websocket_core.metrics import Metrics
from websocket_core.registry import Registry


class FakeConnection:
    """As much of a connection as a registry looks at."""

    def __init__(self, user_id: str, connection_id: str) -> None:
        self.user_id = checked_user_id(user_id)
        self.connection_id = connection_id
        self.detached = 0

    def detach(self) -> None:
        self.detached += 1

    def __repr__(self) -> str:
        return f"{self.user_id}/{self.connection_id}"


def a_connection(user_id: str = "alice", connection_id: str = "tab") -> Any:
    return FakeConnection(user_id, connection_id)


class Fixture:
    def __init__(self) -> None:
        self.metrics = Metrics()
        self.registry = Registry(self.metrics)

    def add(self, *connections: WebSocketConnection, per_user: int = 10) -> list[WebSocketConnection | None]:
        return [self.registry.add(connection, per_user=per_user) for connection in connections]


@pytest.fixture
def some() -> Fixture:
    return Fixture()


ALICE = UserId("alice")


def test_what_was_added_is_found_by_user_and_id_and_nothing_else_is(some: Fixture) -> None:
    one = a_connection()
    assert some.add(one) == [None]
    registry = some.registry
    assert registry.of(ALICE) == {"tab": one}
    assert registry.has(ALICE)
    assert registry.has(ALICE, "tab")
    for user_id in ("Alice", "alice ", "alic", "bob"):
        assert not registry.has(UserId(user_id))
        assert registry.of(UserId(user_id)) == {}
    for connection_id in ("Tab", "tab ", "ta", "", "tab2"):
        assert not registry.has(ALICE, connection_id)
    assert (len(registry), registry.users, list(registry), some.metrics.connections) == (1, 1, [one], 1)


def test_the_same_id_of_two_users_is_two_connections(some: Fixture) -> None:
    one, other = a_connection("alice"), a_connection("bob")
    assert some.add(one, other) == [None, None]
    assert (len(some.registry), some.registry.users) == (2, 2)
    some.registry.ended(one)
    assert list(some.registry) == [other]


def test_ids_that_would_join_to_the_same_text_are_kept_apart(some: Fixture) -> None:
    one, other = a_connection("a:b", "c"), a_connection("a", "b:c")
    some.add(one, other)
    assert some.registry.of(UserId("a:b")) == {"c": one}
    assert some.registry.of(UserId("a")) == {"b:c": other}


def test_the_oldest_by_arrival_makes_room_and_not_the_first_of_the_alphabet(some: Fixture) -> None:
    tabs = [a_connection(connection_id=name) for name in ("zebra", "middle", "ant")]
    some.add(*tabs, per_user=3)
    assert some.add(a_connection(connection_id="aaa"), per_user=3) == [tabs[0]]
    assert list(some.registry.of(ALICE)) == ["middle", "ant", "aaa"]
    assert some.add(a_connection(connection_id="zzz"), per_user=3) == [tabs[1]]
    assert (len(some.registry), some.metrics.connections) == (3, 3)


def test_a_connection_that_comes_again_replaces_its_predecessor_and_is_the_newest(some: Fixture) -> None:
    tabs = [a_connection(connection_id=name) for name in ("a", "b", "c")]
    some.add(*tabs, per_user=3)
    again = a_connection(connection_id="a")
    assert some.add(again, per_user=3) == [tabs[0]], "its own predecessor, and nobody else"
    assert list(some.registry.of(ALICE)) == ["b", "c", "a"]
    assert some.add(a_connection(connection_id="d"), per_user=3) == [tabs[1]]
    assert some.registry.leaving() == [tabs[0], tabs[1]]


def test_only_the_users_own_connections_make_room(some: Fixture) -> None:
    bobs = [a_connection("bob", str(number)) for number in range(3)]
    some.add(*bobs, per_user=3)
    assert some.add(a_connection("alice", "0"), per_user=1) == [None]
    assert list(some.registry.of(UserId("bob")).values()) == bobs


def test_with_room_for_one_the_newest_stays(some: Fixture) -> None:
    tabs = [a_connection(connection_id=str(number)) for number in range(3)]
    assert some.add(*tabs, per_user=1) == [None, tabs[0], tabs[1]]
    assert (list(some.registry), some.registry.users, some.metrics.connections) == ([tabs[2]], 1, 1)


def test_a_connection_leaves_in_two_steps(some: Fixture) -> None:
    """Out of what counts at once, and forgotten when its writer has ended."""
    one = a_connection()
    some.add(one)
    assert some.registry.remove(one)
    assert (len(some.registry), some.registry.users, some.metrics.connections) == (0, 0, 0)
    assert some.registry.leaving() == [one]
    assert not some.registry.remove(one), "only once"
    assert some.metrics.connections == 0
    some.registry.ended(one)
    assert some.registry.leaving() == []
    some.registry.ended(one)
    assert some.metrics.connections == 0


def test_the_end_of_a_replaced_connection_does_not_take_out_its_successor(some: Fixture) -> None:
    old, new = a_connection(), a_connection()
    some.add(old, new)
    some.registry.ended(old)
    assert not some.registry.remove(old)
    assert some.registry.of(ALICE) == {"tab": new}
    assert (len(some.registry), some.metrics.connections, some.registry.leaving()) == (1, 1, [])


def test_a_connection_that_was_never_added_is_not_taken_out(some: Fixture) -> None:
    some.add(a_connection())
    assert not some.registry.remove(a_connection())
    some.registry.ended(a_connection("bob"))
    assert (len(some.registry), some.registry.users, some.registry.leaving()) == (1, 1, [])


def test_going_through_all_while_some_go_is_safe(some: Fixture) -> None:
    some.add(*[a_connection(str(number)) for number in range(5)])
    for connection in some.registry:
        some.registry.ended(connection)
    assert len(some.registry) == 0
    one = a_connection()
    some.add(one)
    copy = some.registry.of(ALICE)
    copy["x"] = a_connection()
    assert some.registry.of(ALICE) == {"tab": one}


def test_clearing_forgets_and_detaches_all_and_keeps_the_gauge_right(some: Fixture) -> None:
    """The gauge is of the process: another manager's connections stay in it."""
    other = Registry(some.metrics)
    other.add(a_connection("bob"), per_user=10)
    tabs = [a_connection(connection_id=str(number)) for number in range(3)]
    some.add(*tabs)
    some.registry.remove(tabs[0])
    some.registry.clear()
    assert (len(some.registry), some.registry.users, some.registry.leaving()) == (0, 0, [])
    assert some.metrics.connections == 1
    assert [tab.detached for tab in tabs] == [1, 1, 1]


class RegistryMachine(RuleBasedStateMachine):
    """Against a list of (user, id, connection) in order of arrival."""

    def __init__(self) -> None:
        super().__init__()
        self.some = Fixture()
        self.model: list[Any] = []
        self.leaving: list[Any] = []
        self.all: list[Any] = []

    @rule(user_id=st.sampled_from("abA"), connection_id=st.sampled_from("xyz1"), per_user=st.integers(1, 3))
    def add(self, user_id: str, connection_id: str, per_user: int) -> None:
        connection = a_connection(user_id, connection_id)
        of_user = [each for each in self.model if each.user_id == user_id]
        same = [each for each in of_user if each.connection_id == connection_id]
        expected = same[0] if same else of_user[0] if len(of_user) >= per_user else None
        assert self.some.add(connection, per_user=per_user) == [expected]
        if expected is not None:
            self.model.remove(expected)
            self.leaving.append(expected)
        self.model.append(connection)
        self.all.append(connection)

    @rule(data=st.data(), ended=st.booleans())
    def go(self, data: st.DataObject, ended: bool) -> None:
        if self.all:
            connection = data.draw(st.sampled_from(self.all))
            there = connection in self.model
            if there:
                self.model.remove(connection)
                self.leaving.append(connection)
            if ended:
                self.some.registry.ended(connection)
                if connection in self.leaving:
                    self.leaving.remove(connection)
            else:
                assert self.some.registry.remove(connection) is there

    @invariant()
    def agree(self) -> None:
        registry = self.some.registry
        assert sorted(map(id, registry)) == sorted(map(id, self.model))
        assert len(registry) == len(self.model) == self.some.metrics.connections
        assert registry.users == len({each.user_id for each in self.model})
        assert list(map(id, registry.leaving())) == list(map(id, self.leaving))
        for user_id in "abA":
            mine = [each for each in self.model if each.user_id == user_id]
            assert list(registry.of(UserId(user_id)).values()) == mine
            assert registry.has(UserId(user_id)) is bool(mine)


TestRegistryMachine = RegistryMachine.TestCase
TestRegistryMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
