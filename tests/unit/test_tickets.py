"""Tickets: for one user, one origin, one connection and half a minute, and worth nothing to who finds one later."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import FakeSocket, VirtualLoop, a_manager, virtual_time
from websocket_core.errors import AuthenticationFailed, ConnectionRefused, InvalidInput, LogUnavailable
from websocket_core.identity import Principal, UserId
from websocket_core.state import TICKETS_PER_USER, MemoryState
from websocket_core.tickets import TICKET_CHARACTERS, TICKET_SECONDS, Tickets

ORIGIN = "https://app.example"


class State(MemoryState):
    """Shows what was kept, suspends, and is away when told to."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(age=60.0, per_user=3, monotonic=loop.time, clock=loop.time)
        self.kept: list[tuple[str, str, bytes, float]] = []
        self.asked: list[str] = []
        self.away = False

    async def keep_ticket(self, user_id: UserId, key: str, content: bytes, *, seconds: float) -> None:
        await asyncio.sleep(0)
        if self.away:
            raise LogUnavailable("told to be away")
        self.kept.append((user_id, key, content, seconds))
        await super().keep_ticket(user_id, key, content, seconds=seconds)

    async def take_ticket(self, key: str) -> bytes | None:
        self.asked.append(key)
        await asyncio.sleep(0)
        if self.away:
            raise LogUnavailable("told to be away")
        content = await super().take_ticket(key)
        await asyncio.sleep(0)
        return content


def some_tickets(**options: Any) -> tuple[Tickets, State]:
    state = State()
    return Tickets(a_manager(state=state, **options)), state


ALICE = Principal("alice", 1_900_000_000.5, "t1", {"iat": 1_000, "roles": ["a", {"b": None}], "name": "é\U0001f600"})


def same(one: Principal, other: Principal) -> bool:
    return (one, dict(one.claims)) == (other, dict(other.claims))


@virtual_time
async def test_a_ticket_stands_for_its_principal_once() -> None:
    tickets, _ = some_tickets()
    ticket = await tickets.issue(ALICE, origin=ORIGIN)
    assert same(await tickets.spend(ticket, origin=ORIGIN), ALICE)
    for _ in range(3):
        with pytest.raises(AuthenticationFailed):
            await tickets.spend(ticket, origin=ORIGIN)


@virtual_time
async def test_of_fifty_who_spend_a_ticket_at_once_one_gets_in() -> None:
    tickets, _ = some_tickets()
    ticket = await tickets.issue(ALICE, origin=ORIGIN)
    outcomes = await asyncio.gather(*[tickets.spend(ticket, origin=ORIGIN) for _ in range(50)], return_exceptions=True)
    assert [type(outcome) for outcome in outcomes].count(Principal) == 1
    assert [type(outcome) for outcome in outcomes].count(AuthenticationFailed) == 49


@pytest.mark.parametrize("issued_for", [ORIGIN, None])
@pytest.mark.parametrize(
    "spent_by", [ORIGIN, None, "", "https://app.example.evil", "http://app.example", "https://APP.example", "null"]
)
@virtual_time
async def test_a_ticket_is_of_use_to_its_own_origin_only_and_is_spent_by_any(
    issued_for: str | None, spent_by: str | None
) -> None:
    tickets, _ = some_tickets()
    ticket = await tickets.issue(ALICE, origin=issued_for)
    if issued_for == spent_by:
        assert same(await tickets.spend(ticket, origin=spent_by), ALICE)
    else:
        with pytest.raises(AuthenticationFailed):
            await tickets.spend(ticket, origin=spent_by)
    with pytest.raises(AuthenticationFailed):
        await tickets.spend(ticket, origin=issued_for)


@virtual_time
async def test_a_ticket_is_good_for_half_a_minute() -> None:
    tickets, _ = some_tickets()
    early, late = await tickets.issue(ALICE), await tickets.issue(ALICE)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.now += TICKET_SECONDS
    assert same(await tickets.spend(early, origin=None), ALICE)
    loop.now += 0.001
    with pytest.raises(AuthenticationFailed):
        await tickets.spend(late, origin=None)
    assert TICKET_SECONDS == 30.0


@virtual_time
async def test_a_user_has_so_many_tickets_and_takes_none_of_another() -> None:
    tickets, _ = some_tickets()
    bobs = await tickets.issue(Principal("bob"))
    issued = [await tickets.issue(ALICE) for _ in range(TICKETS_PER_USER + 5)]
    outcomes = [
        isinstance(outcome, Principal)
        for outcome in await asyncio.gather(
            *[tickets.spend(ticket, origin=None) for ticket in issued], return_exceptions=True
        )
    ]
    assert outcomes == [False] * 5 + [True] * TICKETS_PER_USER
    assert same(await tickets.spend(bobs, origin=None), Principal("bob"))


# -- what it is made of


@virtual_time
async def test_a_ticket_is_random_and_fits_into_an_address() -> None:
    tickets, _ = some_tickets()
    issued = [await tickets.issue(Principal(f"user {number}")) for number in range(1_000)]
    assert len(set(issued)) == 1_000
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{32}", ticket) for ticket in issued)


@virtual_time
async def test_a_ticket_is_made_of_192_bits_of_the_managers_entropy() -> None:
    drawn: list[int] = []

    def entropy(size: int) -> bytes:
        drawn.append(size)
        return bytes([len(drawn) % 256] * size)

    tickets, _ = some_tickets(entropy=entropy)
    drawn.clear()
    first, second = await tickets.issue(ALICE), await tickets.issue(ALICE)
    assert drawn == [24, 24]
    assert first != second


@virtual_time
async def test_what_is_kept_shows_no_ticket() -> None:
    """Only its hash, so that nobody who reads the store can spend what stands there."""
    tickets, state = some_tickets()
    ticket = await tickets.issue(ALICE, origin=ORIGIN)
    ((user_id, key, content, seconds),) = state.kept
    assert (user_id, key, seconds) == ("alice", hashlib.sha256(ticket.encode()).hexdigest(), 30.0)
    assert ticket not in content.decode()
    with pytest.raises(AuthenticationFailed):
        await tickets.spend(key, origin=ORIGIN)


@virtual_time
async def test_what_is_kept_is_json_that_another_process_can_read() -> None:
    tickets, state = some_tickets()
    await tickets.issue(ALICE, origin=ORIGIN)
    assert json.loads(state.kept[0][2]) == {
        "user_id": "alice",
        "expires_at": 1_900_000_000.5,
        "token_id": "t1",
        "claims": dict(ALICE.claims),
        "origin": ORIGIN,
    }
    await tickets.issue(Principal("bob"))
    assert json.loads(state.kept[1][2])["expires_at"] is None


CLAIMS = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**63 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(
    st.text(min_size=1, max_size=20).filter(str.isprintable),
    st.none() | st.floats(0, 1e10),
    st.none() | st.text(max_size=9),
    CLAIMS,
)
def test_every_principal_comes_back_as_it_was(
    user_id: str, expires_at: float | None, token_id: str | None, claims: dict[str, Any]
) -> None:
    principal = Principal(user_id, expires_at, token_id, claims)

    async def there_and_back() -> Principal:
        tickets = Tickets(a_manager())
        return await tickets.spend(await tickets.issue(principal), origin=None)

    assert same(asyncio.run(there_and_back()), principal)


@pytest.mark.parametrize(
    "claims", [{"at": {1}}, {"x": object()}, {"x": b"x"}, {"x": float("nan")}, {5: "x"}, {"x": "\ud800"}, {"x": 2**70}]
)
@virtual_time
async def test_claims_that_are_no_json_are_refused_and_nothing_is_kept(claims: Any) -> None:
    tickets, state = some_tickets()
    with pytest.raises(InvalidInput, match="a ticket carries JSON"):
        await tickets.issue(Principal("alice", claims=claims))
    assert state.kept == []


# -- what is no ticket


@pytest.mark.parametrize(
    "text", ["", "x", "x" * 32, "x" * TICKET_CHARACTERS, "\x00", "é\U0001f600", "\ud800", "../a", "*", "%s", "None"]
)
@virtual_time
async def test_what_was_never_issued_is_refused_alike_and_not_quoted(text: str) -> None:
    tickets, _ = some_tickets()
    spent = await tickets.issue(ALICE)
    await tickets.spend(spent, origin=None)
    messages = []
    for ticket in (text, spent):
        with pytest.raises(AuthenticationFailed) as refusal:
            await tickets.spend(ticket, origin=None)
        messages.append(str(refusal.value))
    assert messages == ["the ticket was not accepted"] * 2


@virtual_time
async def test_what_is_too_long_for_a_ticket_is_not_even_looked_up() -> None:
    tickets, state = some_tickets()
    with pytest.raises(AuthenticationFailed):
        await tickets.spend("x" * (TICKET_CHARACTERS + 1), origin=None)
    assert state.asked == []


@virtual_time
async def test_a_store_that_is_away_issues_nothing_and_lets_nobody_in() -> None:
    tickets, state = some_tickets()
    ticket = await tickets.issue(ALICE)
    state.away = True
    with pytest.raises(LogUnavailable):
        await tickets.issue(ALICE)
    with pytest.raises(LogUnavailable):
        await tickets.spend(ticket, origin=None)
    state.away = False
    assert same(await tickets.spend(ticket, origin=None), ALICE)


@virtual_time
async def test_nothing_of_a_ticket_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    tickets, _ = some_tickets()
    with caplog.at_level(logging.DEBUG):
        ticket = await tickets.issue(ALICE)
        await tickets.spend(ticket, origin=None)
        with pytest.raises(AuthenticationFailed):
            await tickets.spend(ticket, origin=None)
    assert ticket not in caplog.text


# -- with the manager


@virtual_time
async def test_tickets_of_one_manager_are_worth_nothing_to_another() -> None:
    one, other = Tickets(a_manager()), Tickets(a_manager())
    ticket = await one.issue(ALICE)
    with pytest.raises(AuthenticationFailed):
        await other.spend(ticket, origin=None)
    assert same(await one.spend(ticket, origin=None), ALICE)


@virtual_time
async def test_processes_that_share_their_state_take_each_others_tickets_and_each_once() -> None:
    state = State()
    one, other = Tickets(a_manager(state=state)), Tickets(a_manager(state=state))
    ticket = await one.issue(ALICE)
    assert same(await other.spend(ticket, origin=None), ALICE)
    with pytest.raises(AuthenticationFailed):
        await one.spend(ticket, origin=None)


@pytest.mark.parametrize("token_id", [None, "t1"])
@virtual_time
async def test_a_ticket_that_was_issued_before_a_revocation_is_no_way_around_it(token_id: str | None) -> None:
    async with a_manager() as manager:
        tickets = Tickets(manager)
        ticket = await tickets.issue(Principal("alice", token_id="t1", claims={"iat": int(manager.now()) - 5}))
        await manager.revoke("alice", token_id)
        principal = await tickets.spend(ticket, origin=None)
        with pytest.raises(ConnectionRefused) as refused:
            await manager.connect_user(FakeSocket(), "alice", principal=principal)
        assert refused.value.code == 4410


@virtual_time
async def test_a_deleted_user_has_no_ticket() -> None:
    async with a_manager() as manager:
        tickets = Tickets(manager)
        ticket, bobs = await tickets.issue(ALICE), await tickets.issue(Principal("bob"))
        await manager.delete_user("alice")
        with pytest.raises(AuthenticationFailed):
            await tickets.spend(ticket, origin=None)
        assert same(await tickets.spend(bobs, origin=None), Principal("bob"))
