"""Ordering connections to end: the deny-list first, then the log; and those of this process are told at once.

What a revocation promises as a whole is in `tests/mission_critical/test_revocation.py`.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import counted_entropy, decoded, entries_of, quick_retry, virtual_time
from websocket_core.appender import Appender
from websocket_core.control import CONTROL, Order, order_of
from websocket_core.errors import AppendFailed, InvalidInput, LogUnavailable, ManagerClosed
from websocket_core.events import Event, EventEncoder
from websocket_core.identity import LogName, Principal, UserId
from websocket_core.log import Position
from websocket_core.logs.memory import MemoryLog
from websocket_core.metrics import Metrics
from websocket_core.registry import Registry
from websocket_core.revocation import TOKEN_ID_CHARACTERS, Revocations
from websocket_core.state import MemoryState
from websocket_core.wire import CloseCode

ALICE, BOB = UserId("alice"), UserId("bob")


class Log(MemoryLog):
    """Notes what happens, and refuses appends when told to."""

    def __init__(self, notes: list[str]) -> None:
        super().__init__()
        self.notes = notes
        self.away = False

    async def append(self, log: LogName, event: Event) -> Position:
        self.notes.append("append")
        if self.away:
            raise LogUnavailable("told to be away")
        return await super().append(log, event)


class State(MemoryState):
    def __init__(self, notes: list[str]) -> None:
        super().__init__(age=60.0, per_user=3, clock=lambda: 1_000.0, monotonic=lambda: 0.0)
        self.notes = notes
        self.away = False

    async def deny(self, user_id: UserId, token_id: str | None, *, issued_until: float, until: float) -> None:
        self.notes.append(f"deny {user_id} {token_id} issued until {issued_until}, until {until}")
        if self.away:
            raise LogUnavailable("told to be away")
        await super().deny(user_id, token_id, issued_until=issued_until, until=until)

    async def denied(self, user_id: UserId, token_id: str | None, issued_at: float | None) -> bool:
        self.notes.append(f"denied {user_id} {token_id} {issued_at}")
        if self.away:
            raise LogUnavailable("told to be away")
        return await super().denied(user_id, token_id, issued_at)


class Connection:
    """One that notes what it is ordered."""

    def __init__(self, notes: list[str], user_id: UserId, connection_id: str, token_id: str | None) -> None:
        self.notes = notes
        self.user_id = user_id
        self.connection_id = connection_id
        self.principal = Principal(user_id, token_id=token_id)

    def order(self, code: CloseCode) -> None:
        self.notes.append(f"{self.user_id} {self.connection_id} {int(code)}")


class World:
    """Revocations over a log, a deny-list and a registry of connections that note what they are told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.log, self.state = Log(self.notes), State(self.notes)
        self.metrics = Metrics()
        self.registry = Registry(self.metrics)
        self.appender = Appender(self.log, retry=quick_retry(), metrics=self.metrics)
        encoder = EventEncoder(event_bytes=262_144, event_depth=100, clock=lambda: 1_000.0, entropy=counted_entropy())
        self.revocations = Revocations(
            appender=self.appender,
            encoder=encoder,
            state=self.state,
            registry=self.registry,
            clock=lambda: 1_000.0,
        )

    def connect(self, user_id: UserId, connection_id: str, token_id: str | None = None) -> Any:
        connection: Any = Connection(self.notes, user_id, connection_id, token_id)
        self.registry.add(connection, per_user=100)
        return connection

    async def orders(self, user_id: UserId) -> list[Order | None]:
        entries = await entries_of(self.log, user_id)
        assert all(entry.event.connection_id == CONTROL for entry in entries)
        return [order_of(entry.event) for entry in entries]


# -- revoking


@virtual_time
async def test_the_deny_list_is_written_before_the_log_and_before_anybody_is_told() -> None:
    """Or somebody who is sent away comes back between the two."""
    world = World()
    world.connect(ALICE, "tab")
    await world.revocations.revoke(ALICE, None, seconds=60.0)
    assert world.notes == ["deny alice None issued until 1000.0, until 1060.0", "alice tab 4410", "append"]
    assert await world.orders(ALICE) == [Order(CloseCode.REVOKED, issued_until=1_000.0)]


@virtual_time
async def test_without_the_deny_list_nobody_is_told_and_nothing_is_ordered() -> None:
    world = World()
    world.connect(ALICE, "tab")
    world.state.away = True
    with pytest.raises(LogUnavailable):
        await world.revocations.revoke(ALICE, None, seconds=60.0)
    assert [note.split()[0] for note in world.notes] == ["deny"]
    assert world.registry.has(ALICE, "tab")


@virtual_time
async def test_without_the_log_those_who_are_here_are_told_all_the_same() -> None:
    world = World()
    world.connect(ALICE, "tab")
    world.log.away = True
    with pytest.raises(AppendFailed):
        await world.revocations.revoke(ALICE, None, seconds=60.0)
    assert world.notes[1] == "alice tab 4410"
    assert not await world.revocations.permits(Principal("alice"))
    world.log.away = False
    await world.revocations.revoke(ALICE, None, seconds=60.0)
    assert await world.orders(ALICE) == [Order(CloseCode.REVOKED, issued_until=1_000.0)], "calling again is safe"


@pytest.mark.parametrize(
    ("token_id", "told"),
    [(None, "a b c"), ("t1", "a b"), ("t2", ""), ("T1", "")],
)
@virtual_time
async def test_whose_token_it_is_is_told_and_taken_out_and_nobody_else(token_id: str | None, told: str) -> None:
    world = World()
    for name, token in (("a", "t1"), ("b", "t1"), ("c", None)):
        world.connect(ALICE, name, token)
        world.connect(BOB, name, token)
    await world.revocations.revoke(ALICE, token_id, seconds=60.0)
    assert [note for note in world.notes if note.endswith("4410")] == [f"alice {name} 4410" for name in told.split()]
    assert "".join(world.registry.of(ALICE)) == "".join(name for name in "abc" if name not in told)
    assert "".join(world.registry.of(BOB)) == "abc"
    assert world.metrics.connections == 6 - len(told.split())
    until = 1_000.0 if token_id is None else None
    assert await world.orders(ALICE) == [Order(CloseCode.REVOKED, None, token_id, until)]
    assert world.notes[0].startswith(f"deny alice {token_id} ")
    assert await world.orders(BOB) == []


@virtual_time
async def test_those_on_their_way_out_are_told_as_well() -> None:
    """Whoever flushes what is left of its log must not be sent what comes after the order."""
    world = World()
    for user_id in (ALICE, BOB):
        leaving = world.connect(user_id, "tab", "t1")
        world.registry.remove(leaving)
    await world.revocations.revoke(ALICE, "t1", seconds=60.0)
    assert [note for note in world.notes if "tab" in note] == ["alice tab 4410"]


@pytest.mark.parametrize("token_id", ["", "t\n", "\x00", "t" * (TOKEN_ID_CHARACTERS + 1), 5, b"t", "\ud800"])
@virtual_time
async def test_a_token_id_that_is_none_is_refused_and_not_quoted(token_id: Any) -> None:
    world = World()
    with pytest.raises(InvalidInput) as refusal:
        await world.revocations.revoke(ALICE, token_id, seconds=60.0)
    assert world.notes == []
    assert str(token_id)[:20] not in str(refusal.value) or not token_id


@pytest.mark.parametrize("seconds", [0, -1.0, float("inf"), float("nan"), True, None, "60"])
@virtual_time
async def test_a_denial_that_is_over_at_once_or_never_is_refused(seconds: Any) -> None:
    world = World()
    with pytest.raises(InvalidInput):
        await world.revocations.revoke(ALICE, None, seconds=seconds)
    assert world.notes == []


@virtual_time
async def test_after_a_shutdown_nothing_can_be_ordered_but_the_denial_stands() -> None:
    world = World()
    world.appender.closed = True
    with pytest.raises(ManagerClosed):
        await world.revocations.revoke(ALICE, None, seconds=60.0)
    assert not await world.revocations.permits(Principal("alice"))


# -- disconnecting


@pytest.mark.parametrize(("connection_id", "told"), [(None, "a b"), ("a", "a"), ("A", ""), ("c", "")])
@virtual_time
async def test_one_connection_is_told_to_go_or_all_of_the_users(connection_id: str | None, told: str) -> None:
    world = World()
    for name in "ab":
        world.connect(ALICE, name)
        world.connect(BOB, name)
    await world.revocations.disconnect(ALICE, connection_id)
    assert [note for note in world.notes if note.endswith("1000")] == [f"alice {name} 1000" for name in told.split()]
    assert await world.orders(ALICE) == [Order(CloseCode.DISCONNECTED, connection_id)]
    assert "deny" not in "".join(world.notes), "who is disconnected may come again"
    assert await world.revocations.permits(Principal("alice"))


@pytest.mark.parametrize("connection_id", ["", "\x00", "a\n", "x" * 257, "é" * 257, "\ud800"])
@virtual_time
async def test_an_id_that_no_connection_can_have_orders_nothing(connection_id: str) -> None:
    """Above all not the one that stands for control entries, and none that would stand for everybody."""
    world = World()
    world.connect(ALICE, "a")
    await world.revocations.disconnect(ALICE, connection_id)
    assert world.notes == []


# -- orders


@virtual_time
async def test_every_order_has_an_id_of_its_own_and_says_nothing_of_others() -> None:
    """A log holds an id once: with the same one, a second revocation would be taken for a retry of the first."""
    world = World()
    for _ in range(3):
        await world.revocations.revoke(ALICE, "t1", seconds=60.0)
    entries = await entries_of(world.log, ALICE)
    assert len({entry.event.id for entry in entries}) == 3
    assert decoded(entries[0]) == {
        "type": "control",
        "order": {"code": 4410, "token_id": "t1"},
        "id": entries[0].event.id,
    }


@virtual_time
async def test_an_append_that_failed_is_tried_again_with_the_same_id() -> None:
    world = World()
    append, failures = world.log.append, 2

    async def failing(log: LogName, event: Event) -> Position:
        nonlocal failures
        failures -= 1
        position = await append(log, event)
        if failures >= 0:
            raise LogUnavailable("the reply was lost")
        return position

    world.log.append = failing  # type: ignore[method-assign]
    await world.revocations.disconnect(ALICE, None)
    assert await world.orders(ALICE) == [Order(CloseCode.DISCONNECTED)]


# -- who may be here


@virtual_time
async def test_a_principal_is_judged_by_its_user_its_token_and_when_that_was_issued() -> None:
    world = World()
    for claims, issued_at in (
        ({"iat": 900}, 900.0),
        ({"iat": 900.5}, 900.5),
        ({}, None),
        ({"iat": "900"}, None),
        ({"iat": True}, None),
        ({"iat": float("inf")}, None),
    ):
        await world.revocations.permits(Principal("alice", token_id="t1", claims=claims))
        assert world.notes.pop() == f"denied alice t1 {issued_at}"


@pytest.mark.parametrize("iat", [None, True, "2000", float("nan"), float("inf"), [2_000.0], -5.0, 1_000.0])
@virtual_time
async def test_a_token_that_does_not_say_truly_that_it_is_newer_is_not_permitted(iat: Any) -> None:
    world = World()
    await world.revocations.revoke(ALICE, None, seconds=60.0)
    assert not await world.revocations.permits(Principal("alice", claims={} if iat is None else {"iat": iat}))


@virtual_time
async def test_a_token_that_was_issued_later_is_permitted() -> None:
    world = World()
    await world.revocations.revoke(ALICE, None, seconds=60.0)
    assert await world.revocations.permits(Principal("alice", claims={"iat": 1_000.5}))
    assert await world.revocations.permits(Principal("bob"))


@virtual_time
async def test_a_deny_list_that_cannot_be_asked_permits_nobody() -> None:
    world = World()
    world.state.away = True
    with pytest.raises(LogUnavailable):
        await world.revocations.permits(Principal("alice"))
