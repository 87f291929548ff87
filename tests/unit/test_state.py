"""What is remembered of connection ids: exactly, for a time, and never without bound."""

from __future__ import annotations

from websocket_core.identity import UserId
from websocket_core.state import MemoryState

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
