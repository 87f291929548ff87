"""What is remembered of connection ids, denials and tickets: exactly, for a time, and never without bound."""

from __future__ import annotations

from websocket_core.identity import UserId
from websocket_core.state import TICKETS_PER_USER, MemoryState

ALICE, BOB = UserId("alice"), UserId("bob")


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def a_state(*, age: float = 60.0, per_user: int = 3) -> tuple[MemoryState, Clock]:
    clock = Clock()
    return MemoryState(age=age, per_user=per_user, monotonic=clock), clock


async def known(state: MemoryState, user_id: UserId, ids: str) -> str:
    return "".join([each for each in ids if await state.knows_connection(user_id, each)])


async def test_what_was_noted_is_known_for_that_user_alone() -> None:
    state, _ = a_state()
    await state.remember_connection(ALICE, "tab")
    assert await state.knows_connection(ALICE, "tab")
    for user_id in (BOB, UserId("Alice"), UserId("alice\u200b")):
        assert not await state.knows_connection(user_id, "tab")
    for connection_id in ("Tab", "tab ", "", "ta"):
        assert not await state.knows_connection(ALICE, connection_id)


async def test_ids_that_would_join_to_the_same_text_are_kept_apart() -> None:
    state, _ = a_state()
    await state.remember_connection(UserId("a:b"), "c")
    assert not await state.knows_connection(UserId("a"), "b:c")


async def test_a_connection_is_known_for_exactly_its_age() -> None:
    state, clock = a_state(age=60.0)
    await state.remember_connection(ALICE, "tab")
    clock.now += 60.0
    assert await state.knows_connection(ALICE, "tab")
    clock.now += 0.001
    assert not await state.knows_connection(ALICE, "tab")


async def test_being_noted_again_makes_it_young() -> None:
    state, clock = a_state(age=60.0)
    await state.remember_connection(ALICE, "a")
    clock.now += 40.0
    await state.remember_connection(ALICE, "a")
    clock.now += 40.0
    assert await state.knows_connection(ALICE, "a")


async def test_another_connection_of_the_user_does_not_keep_an_old_one_known() -> None:
    state, clock = a_state(age=60.0)
    await state.remember_connection(ALICE, "a")
    clock.now += 40.0
    await state.remember_connection(ALICE, "b")
    clock.now += 40.0
    assert await known(state, ALICE, "ab") == "b"


async def test_the_longest_unused_goes_first_when_there_are_too_many() -> None:
    state, _ = a_state(per_user=3)
    for connection_id in "zba":
        await state.remember_connection(ALICE, connection_id)
    await state.remember_connection(ALICE, "z")
    await state.remember_connection(ALICE, "c")
    assert await known(state, ALICE, "abcz") == "acz", "b is the longest unused, a the first of the alphabet"


async def test_the_ids_of_one_user_push_out_no_other_users() -> None:
    state, _ = a_state(per_user=2)
    await state.remember_connection(BOB, "tab")
    for number in range(100):
        await state.remember_connection(ALICE, str(number))
    assert await state.knows_connection(BOB, "tab")


async def test_a_user_is_forgotten_and_nobody_else() -> None:
    state, _ = a_state()
    await state.remember_connection(ALICE, "tab")
    await state.remember_connection(BOB, "tab")
    await state.forget_user(ALICE)
    await state.forget_user(UserId("nobody"))
    assert not await state.knows_connection(ALICE, "tab")
    assert await state.knows_connection(BOB, "tab")


async def test_users_who_have_not_come_for_long_take_no_room() -> None:
    state, clock = a_state(age=60.0)
    for number in range(100):
        await state.remember_connection(UserId(f"user {number}"), "tab")
        clock.now += 1.0
    assert len(state._connections) == 61
    await state.remember_connection(UserId("user 50"), "tab")
    clock.now += 50.0
    await state.remember_connection(ALICE, "tab")
    assert len(state._connections) == 12, "the last ten, user 50, and alice"
    assert await state.knows_connection(UserId("user 50"), "tab")


async def test_asking_notes_nothing() -> None:
    state, _ = a_state()
    assert not await state.knows_connection(ALICE, "tab")
    assert len(state._connections) == 0


# -- the deny-list


def a_deny_list() -> tuple[MemoryState, Clock]:
    """Its clock is that of Unix seconds; connections and tickets have another, which does not move here."""
    wall = Clock()
    return MemoryState(age=60.0, per_user=3, clock=wall, monotonic=Clock()), wall


async def test_what_was_issued_until_then_is_denied_and_what_comes_later_is_not() -> None:
    state, _ = a_deny_list()
    assert not await state.denied(ALICE, "t1", 900.0)
    await state.deny(ALICE, None, issued_until=1_000.0, until=2_000.0)
    for token_id in (None, "t1", ""):
        assert await state.denied(ALICE, token_id, 900.0)
        assert await state.denied(ALICE, token_id, 1_000.0)
        assert not await state.denied(ALICE, token_id, 1_000.001)


async def test_a_credential_that_does_not_say_when_it_was_issued_counts_as_old() -> None:
    state, _ = a_deny_list()
    await state.deny(ALICE, None, issued_until=1_000.0, until=2_000.0)
    assert await state.denied(ALICE, "t1", None)
    assert await state.denied(ALICE, None, None)


async def test_a_denied_token_is_denied_whenever_it_says_it_was_issued() -> None:
    """A token id is one token. Others of the same user, and those without an id, are not meant."""
    state, _ = a_deny_list()
    await state.deny(ALICE, "t1", issued_until=1_000.0, until=2_000.0)
    for issued_at in (None, 0.0, 1_000.0, 5_000.0):
        assert await state.denied(ALICE, "t1", issued_at)
        for token_id in (None, "t2", "T1", "t1 ", ""):
            assert not await state.denied(ALICE, token_id, issued_at)


async def test_a_denial_is_of_one_user_alone() -> None:
    state, _ = a_deny_list()
    await state.deny(ALICE, None, issued_until=1_000.0, until=2_000.0)
    await state.deny(ALICE, "t1", issued_until=1_000.0, until=2_000.0)
    for user_id in (BOB, UserId("Alice"), UserId("alice\u200b"), UserId("ali")):
        assert not await state.denied(user_id, "t1", 900.0)


async def test_a_denial_lasts_until_its_end_and_not_longer() -> None:
    for token_id in (None, "t1"):
        state, clock = a_deny_list()
        await state.deny(ALICE, token_id, issued_until=1_000.0, until=2_000.0)
        clock.now = 2_000.0
        assert await state.denied(ALICE, "t1", None)
        clock.now = 2_000.001
        assert not await state.denied(ALICE, "t1", None)


async def test_a_user_wide_denial_that_has_ended_hides_none_of_a_token() -> None:
    state, clock = a_deny_list()
    await state.deny(ALICE, None, issued_until=1_000.0, until=1_100.0)
    await state.deny(ALICE, "t1", issued_until=1_000.0, until=2_000.0)
    clock.now = 1_500.0
    assert await state.denied(ALICE, "t1", 900.0)
    assert not await state.denied(ALICE, "t2", 900.0)


async def test_a_denial_is_prolonged_and_never_shortened() -> None:
    state, clock = a_deny_list()
    await state.deny(ALICE, None, issued_until=1_000.0, until=2_000.0)
    await state.deny(ALICE, None, issued_until=1_050.0, until=3_000.0)
    await state.deny(ALICE, None, issued_until=1_020.0, until=1_500.0)
    assert await state.denied(ALICE, None, 1_050.0)
    clock.now = 2_500.0
    await state.deny(BOB, None, issued_until=0.0, until=9_000.0)
    assert await state.denied(ALICE, None, 1_050.0), "the end that it had first drops nothing of it"
    clock.now = 3_001.0
    assert not await state.denied(ALICE, None, 1_050.0)
    await state.deny(BOB, None, issued_until=0.0, until=9_000.0)
    assert len(state._denials) == len(state._denials_end) == 1, "and then it takes no room"


async def test_denials_that_have_ended_take_no_room() -> None:
    state, clock = a_deny_list()
    for number in range(1_000):
        clock.now += 1.0
        await state.deny(UserId(f"user {number}"), None, issued_until=clock.now, until=clock.now + 50.0)
        await state.deny(UserId(f"user {number}"), "t1", issued_until=clock.now, until=clock.now + 50.0)
    assert len(state._denials) == len(state._denials_end) == 2 * 51
    clock.now += 51.0
    await state.deny(ALICE, None, issued_until=clock.now, until=clock.now + 50.0)
    assert len(state._denials) == len(state._denials_end) == 1


async def test_a_user_who_is_denied_again_and_again_takes_the_room_of_one() -> None:
    state, clock = a_deny_list()
    for _ in range(1_000):
        clock.now += 1.0
        await state.deny(ALICE, None, issued_until=clock.now, until=clock.now + 86_400.0)
    assert len(state._denials) == len(state._denials_end) == 1
    clock.now += 86_400.0
    assert await state.denied(ALICE, None, 2_000.0)
    clock.now += 0.5
    await state.deny(BOB, None, issued_until=clock.now, until=clock.now + 1.0)
    assert len(state._denials) == len(state._denials_end) == 1


async def test_a_forgotten_user_stays_denied() -> None:
    """Or deleting an account would let its stolen token in again."""
    state, _ = a_deny_list()
    await state.deny(ALICE, None, issued_until=1_000.0, until=2_000.0)
    await state.deny(ALICE, "t1", issued_until=1_000.0, until=2_000.0)
    await state.forget_user(ALICE)
    assert await state.denied(ALICE, None, 900.0)
    assert await state.denied(ALICE, "t1", 5_000.0)


# -- tickets


async def test_a_ticket_is_taken_once() -> None:
    state, _ = a_state()
    await state.keep_ticket(ALICE, "k", b"content", seconds=30.0)
    assert await state.take_ticket("K") is None
    assert [await state.take_ticket("k") for _ in range(3)] == [b"content", None, None]


async def test_a_ticket_is_kept_for_exactly_its_time() -> None:
    state, clock = a_state()
    await state.keep_ticket(ALICE, "a", b"a", seconds=30.0)
    await state.keep_ticket(ALICE, "b", b"b", seconds=30.0)
    clock.now += 30.0
    assert await state.take_ticket("a") == b"a"
    clock.now += 0.001
    assert await state.take_ticket("b") is None
    clock.now -= 30.0
    assert await state.take_ticket("b") is None, "and asking too late spends it"


async def test_of_too_many_tickets_of_a_user_the_oldest_goes_and_no_other_users() -> None:
    state, _ = a_state()
    await state.keep_ticket(BOB, "bob's", b"b", seconds=30.0)
    for number in range(TICKETS_PER_USER + 2):
        await state.keep_ticket(ALICE, str(number), str(number).encode(), seconds=30.0)
    left = [await state.take_ticket(str(number)) for number in range(TICKETS_PER_USER + 2)]
    assert left == [None, None, *[str(number).encode() for number in range(2, TICKETS_PER_USER + 2)]]
    assert await state.take_ticket("bob's") == b"b"


async def test_a_spent_ticket_makes_room_for_another() -> None:
    state, _ = a_state()
    for number in range(TICKETS_PER_USER):
        await state.keep_ticket(ALICE, str(number), b"x", seconds=30.0)
    assert await state.take_ticket("7") == b"x"
    await state.keep_ticket(ALICE, "new", b"x", seconds=30.0)
    assert await state.take_ticket("0") == b"x"


async def test_a_forgotten_user_has_no_tickets() -> None:
    state, _ = a_state()
    await state.keep_ticket(ALICE, "a", b"a", seconds=30.0)
    await state.keep_ticket(BOB, "b", b"b", seconds=30.0)
    await state.forget_user(ALICE)
    assert await state.take_ticket("a") is None
    assert await state.take_ticket("b") == b"b"


async def test_tickets_that_were_spent_or_have_expired_leave_nothing() -> None:
    state, clock = a_state()
    for number in range(1_000):
        clock.now += 1.0
        await state.keep_ticket(UserId(f"user {number}"), str(number), b"x", seconds=30.0)
        if number % 2:
            assert await state.take_ticket(str(number)) == b"x"
    assert len(state._tickets) == len(state._tickets_of) <= 16
    assert len(state._tickets_end) <= 31
    clock.now += 31.0
    await state.keep_ticket(ALICE, "last", b"x", seconds=30.0)
    assert await state.take_ticket("last") == b"x"
    assert (state._tickets, state._tickets_of, len(state._tickets_end)) == ({}, {}, 1)
