"""What processes share that is no log: in Redis it means what it means in memory, and several processes see it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Protocol

import pytest
from redis.asyncio import Redis

from tests.redis.marks import NEEDS_REDIS
from tests.redis.server import RedisServer
from websocket_core.errors import LogUnavailable
from websocket_core.identity import UserId
from websocket_core.log_probe import HOSTILE
from websocket_core.logs.redis.exchange import Exchange
from websocket_core.logs.redis.names import Namespace
from websocket_core.logs.redis.state import RedisState
from websocket_core.state import TICKETS_PER_USER, MemoryState, SharedState

pytestmark = NEEDS_REDIS

ALICE, BOB = UserId("alice"), UserId("bob")
NAMES: Final = sorted({each.name for each in HOSTILE})
TIMEOUT: Final = 5.0

_numbers = itertools.count()


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class World(Protocol):
    """Where states live, and how time passes there."""

    clock: Clock

    def state(self, *, age: float = 60.0, per_user: int = 3) -> SharedState: ...

    async def wait(self, seconds: float) -> None: ...

    async def close(self) -> None: ...


class InMemory:
    def __init__(self) -> None:
        self.clock = Clock()

    def state(self, *, age: float = 60.0, per_user: int = 3) -> MemoryState:
        return MemoryState(age=age, per_user=per_user, clock=self.clock, monotonic=self.clock)

    async def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    async def close(self) -> None:
        pass


class InRedis:
    """A namespace of its own. Nobody sets the clock of a server: instead everything stored there grows older."""

    def __init__(self, url: str) -> None:
        self.clock = Clock()
        self.raw: Any = Redis.from_url(url, protocol=2)
        self.namespace = f"test{os.getpid()}.{next(_numbers)}"
        self._url = url
        self.exchanges: list[Exchange] = []

    def state(
        self,
        *,
        age: float = 60.0,
        per_user: int = 3,
        exchange: Exchange | None = None,
        clock: Callable[[], float] | None = None,
    ) -> RedisState:
        """Of another process each time: with an exchange of its own."""
        exchange = exchange or Exchange(self._url, timeout=TIMEOUT)
        self.exchanges.append(exchange)
        names = Namespace(self.namespace)
        return RedisState(exchange, names, age=age, per_user=per_user, clock=clock or self.clock)

    async def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        for key in await self.keys():
            kind = await self.raw.type(key)
            if kind == b"zset":
                for member in await self.raw.zrange(key, 0, -1):
                    await self.raw.zincrby(key, -seconds * 1e6, member)
            elif kind == b"hash":
                for field, value in (await self.raw.hgetall(key)).items():
                    number, ends = value.split()
                    await self.raw.hset(key, field, b"%b %d" % (number, int(ends) - int(seconds * 1000)))
            left = await self.raw.pttl(key)
            assert left > 0, "what is stored has an end"
            await self.raw.pexpire(key, left - int(seconds * 1000))

    async def keys(self) -> list[bytes]:
        return [key async for key in self.raw.scan_iter(match=f"{self.namespace}:*", count=1_000)]

    async def close(self) -> None:
        for exchange in self.exchanges:
            await exchange.close()
        await self.raw.aclose()


@pytest.fixture(params=["memory", "redis"])
async def world(request: pytest.FixtureRequest, server: RedisServer) -> AsyncIterator[World]:
    made: World = InMemory() if request.param == "memory" else InRedis(server.url)
    yield made
    await made.close()


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[InRedis]:
    made = InRedis(server.url)
    yield made
    await made.close()


async def known(state: SharedState, user_id: UserId, ids: str) -> str:
    return "".join([each for each in ids if await state.knows_connection(user_id, each)])


async def becomes(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(5.0):
        while not await condition():  # noqa: ASYNC110 - it is another program that makes it true
            await asyncio.sleep(0.01)


# -- connection ids


async def test_what_was_noted_is_known_for_that_user_alone(world: World) -> None:
    state = world.state()
    await state.remember_connection(ALICE, "tab")
    assert await state.knows_connection(ALICE, "tab")
    for user_id in (BOB, UserId("Alice"), UserId("alice\u200b")):
        assert not await state.knows_connection(user_id, "tab")
    for connection_id in ("Tab", "tab ", "", "ta"):
        assert not await state.knows_connection(ALICE, connection_id)


async def test_hostile_ids_are_not_taken_for_one_another(world: World) -> None:
    state = world.state(per_user=1)
    for name in NAMES:
        await state.remember_connection(UserId(name), name)
    pairs = list(itertools.product(NAMES, NAMES))
    answers = await asyncio.gather(*[state.knows_connection(UserId(user), each) for user, each in pairs])
    assert answers == [user == each for user, each in pairs]


async def test_ids_that_would_join_to_the_same_text_are_kept_apart(world: World) -> None:
    state = world.state()
    await state.remember_connection(UserId("a:b"), "c")
    assert not await state.knows_connection(UserId("a"), "b:c")


async def test_a_connection_is_known_for_its_age(world: World) -> None:
    state = world.state(age=60.0)
    await state.remember_connection(ALICE, "tab")
    await world.wait(50.0)
    assert await state.knows_connection(ALICE, "tab")
    await world.wait(11.0)
    assert not await state.knows_connection(ALICE, "tab")


async def test_being_noted_again_makes_it_young(world: World) -> None:
    state = world.state(age=60.0)
    await state.remember_connection(ALICE, "a")
    await world.wait(40.0)
    await state.remember_connection(ALICE, "a")
    await world.wait(40.0)
    assert await state.knows_connection(ALICE, "a")


async def test_another_connection_of_the_user_does_not_keep_an_old_one_known(world: World) -> None:
    state = world.state(age=60.0)
    await state.remember_connection(ALICE, "a")
    await world.wait(40.0)
    await state.remember_connection(ALICE, "b")
    await world.wait(40.0)
    assert await known(state, ALICE, "ab") == "b"


async def test_the_longest_unused_goes_first_when_there_are_too_many(world: World) -> None:
    state = world.state(per_user=3)
    for connection_id in "zba":
        await state.remember_connection(ALICE, connection_id)
    await state.remember_connection(ALICE, "z")
    await state.remember_connection(ALICE, "c")
    assert await known(state, ALICE, "abcz") == "acz", "b is the longest unused, a the first of the alphabet"


async def test_the_ids_of_one_user_push_out_no_other_users(world: World) -> None:
    state = world.state(per_user=2)
    await state.remember_connection(BOB, "tab")
    for number in range(20):
        await state.remember_connection(ALICE, str(number))
    assert await state.knows_connection(BOB, "tab")


async def test_a_user_is_forgotten_and_nobody_else(world: World) -> None:
    state = world.state()
    for user_id, key in ((ALICE, "a"), (BOB, "b")):
        await state.remember_connection(user_id, "tab")
        await state.keep_ticket(user_id, key, key.encode(), seconds=30.0)
    await state.forget_user(ALICE)
    await state.forget_user(UserId("nobody"))
    assert not await state.knows_connection(ALICE, "tab")
    assert await state.knows_connection(BOB, "tab")
    assert await state.take_ticket("a") is None
    assert await state.take_ticket("b") == b"b"


# -- the deny-list


async def test_what_was_issued_until_then_is_denied_and_what_comes_later_is_not(world: World) -> None:
    state = world.state()
    assert not await state.denied(ALICE, "t1", 900.0)
    await state.deny(ALICE, None, issued_until=1_000.123456, until=2_000.0)
    for token_id in (None, "t1", ""):
        assert await state.denied(ALICE, token_id, None)
        assert await state.denied(ALICE, token_id, 900.0)
        assert await state.denied(ALICE, token_id, 1_000.123456)
        assert not await state.denied(ALICE, token_id, 1_000.123457)


async def test_a_denied_token_is_denied_whenever_it_says_it_was_issued(world: World) -> None:
    state = world.state()
    await state.deny(ALICE, "t1", issued_until=1_000.0, until=2_000.0)
    for issued_at in (None, 0.0, 1_000.0, 5_000.0):
        assert await state.denied(ALICE, "t1", issued_at)
        for token_id in (None, "t2", "T1", "t1 ", ""):
            assert not await state.denied(ALICE, token_id, issued_at)


async def test_an_empty_token_id_is_one_token_and_not_everything(world: World) -> None:
    state = world.state()
    await state.deny(ALICE, "", issued_until=1_000.0, until=2_000.0)
    assert await state.denied(ALICE, "", 5_000.0)
    assert not await state.denied(ALICE, None, 900.0)
    assert not await state.denied(ALICE, "t1", 900.0)


async def test_denials_of_hostile_users_and_tokens_are_not_taken_for_one_another(world: World) -> None:
    state = world.state()
    for name in NAMES:
        await state.deny(UserId(name), name, issued_until=1_000.0, until=2_000.0)
    pairs = list(itertools.product(NAMES, NAMES))
    answers = await asyncio.gather(*[state.denied(UserId(user), each, 900.0) for user, each in pairs])
    wrong = [pair for pair, denied in zip(pairs, answers, strict=True) if denied != (pair[0] == pair[1])]
    assert not wrong  # two lists of so many would be compared line by line, for longer than a test may take
    assert not await state.denied(UserId(NAMES[0]), None, 900.0)


async def test_a_token_may_name_itself_by_what_has_no_utf8(world: World) -> None:
    """JSON may hold a lone surrogate. It is a token id like another, and disturbs nobody who asks at the same time."""
    state = world.state()
    await state.deny(ALICE, "\ud800", issued_until=1_000.0, until=2_000.0)
    asked = ("\ud800", "\udfff", "?", "\ufffd")
    assert await asyncio.gather(*[state.denied(ALICE, each, 900.0) for each in asked]) == [True, False, False, False]


async def test_a_denial_lasts_until_its_end_and_not_longer(world: World) -> None:
    state = world.state()
    for user_id, token_id in ((ALICE, None), (BOB, "t1")):
        await state.deny(user_id, token_id, issued_until=1_000.0, until=2_000.0)
    world.clock.now = 2_000.0
    assert await state.denied(ALICE, "t1", None)
    assert await state.denied(BOB, "t1", None)
    world.clock.now = 2_000.001
    assert not await state.denied(ALICE, "t1", None)
    assert not await state.denied(BOB, "t1", None)


async def test_a_user_wide_denial_that_has_ended_hides_none_of_a_token(world: World) -> None:
    state = world.state()
    await state.deny(ALICE, None, issued_until=1_000.0, until=1_100.0)
    await state.deny(ALICE, "t1", issued_until=1_000.0, until=2_000.0)
    world.clock.now = 1_500.0
    assert await state.denied(ALICE, "t1", 900.0)
    assert not await state.denied(ALICE, "t2", 900.0)


@pytest.mark.parametrize("token_id", [None, "t1"])
async def test_a_denial_is_prolonged_and_never_shortened(world: World, token_id: str | None) -> None:
    state = world.state()
    for issued_until, until in ((1_000.0, 2_000.0), (1_050.0, 3_000.0), (1_020.0, 1_500.0), (900.0, 999.0)):
        await state.deny(ALICE, token_id, issued_until=issued_until, until=until)
    assert await state.denied(ALICE, token_id, 1_050.0)
    await world.wait(1_900.0)
    assert await state.denied(ALICE, token_id, 1_050.0), "a repetition has not let Redis drop it sooner"
    await world.wait(101.0)
    assert not await state.denied(ALICE, token_id, 1_050.0)


async def test_how_far_a_denial_reaches_is_compared_as_numbers(world: World) -> None:
    """As texts, 999 comes after 1000."""
    state = world.state()
    await state.deny(ALICE, None, issued_until=1_000.0, until=10_000.0)
    await state.deny(ALICE, None, issued_until=999.0, until=9_999.0)
    assert await state.denied(ALICE, None, 1_000.0)
    world.clock.now = 10_000.0
    assert await state.denied(ALICE, None, 1_000.0)


async def test_a_later_denial_with_an_earlier_end_still_reaches_further(world: World) -> None:
    state = world.state()
    await state.deny(ALICE, None, issued_until=1_000.0, until=5_000.0)
    await state.deny(ALICE, None, issued_until=1_200.0, until=2_000.0)
    world.clock.now = 4_000.0
    assert await state.denied(ALICE, None, 1_200.0)


async def test_a_denial_that_has_ended_already_denies_nothing(world: World) -> None:
    state = world.state()
    await state.deny(ALICE, None, issued_until=1_000.0, until=900.0)
    assert not await state.denied(ALICE, None, 800.0)


@pytest.mark.parametrize("until", [1e300, float("inf")])
async def test_a_denial_may_last_for_ever(world: World, until: float) -> None:
    state = world.state()
    for _ in range(2):
        await state.deny(ALICE, None, issued_until=1_000.0, until=until)
    world.clock.now = 1e12
    assert await state.denied(ALICE, None, 900.0)


async def test_a_forgotten_user_stays_denied(world: World) -> None:
    """Or deleting an account would let its stolen token in again."""
    state = world.state()
    await state.deny(ALICE, None, issued_until=1_000.0, until=2_000.0)
    await state.deny(ALICE, "t1", issued_until=1_000.0, until=2_000.0)
    await state.forget_user(ALICE)
    assert await state.denied(ALICE, None, 900.0)
    assert await state.denied(ALICE, "t1", 5_000.0)


# -- tickets


async def test_a_ticket_is_taken_once(world: World) -> None:
    state = world.state()
    await state.keep_ticket(ALICE, "k", b"content", seconds=30.0)
    assert await state.take_ticket("K") is None
    assert [await state.take_ticket("k") for _ in range(3)] == [b"content", None, None]


@pytest.mark.parametrize("content", [b"", b"\n", b"1\n2", b"\x00\xff", b"x" * 70_000])
async def test_a_ticket_stands_for_exactly_what_was_kept(world: World, content: bytes) -> None:
    state = world.state()
    for number, name in enumerate(NAMES):
        await state.keep_ticket(UserId(name), str(number), content, seconds=30.0)
    assert [await state.take_ticket(str(number)) for number in range(len(NAMES))] == [content] * len(NAMES)


async def test_hostile_keys_of_tickets_are_not_taken_for_one_another(world: World) -> None:
    state = world.state()
    await asyncio.gather(
        *[
            state.keep_ticket(UserId(name), name, str(number).encode(), seconds=30.0)
            for number, name in enumerate(NAMES)
        ]
    )
    taken = [await state.take_ticket(name) for name in NAMES]
    assert taken == [str(number).encode() for number in range(len(NAMES))]


async def test_a_ticket_is_kept_for_its_time(world: World) -> None:
    state = world.state()
    await state.keep_ticket(ALICE, "a", b"a", seconds=30.0)
    await state.keep_ticket(ALICE, "b", b"b", seconds=30.0)
    await world.wait(28.0)
    assert await state.take_ticket("a") == b"a"
    await world.wait(3.0)
    assert await state.take_ticket("b") is None


async def test_of_too_many_tickets_of_a_user_the_oldest_goes_and_no_other_users(world: World) -> None:
    state = world.state()
    await state.keep_ticket(BOB, "bob's", b"b", seconds=30.0)
    keys = [str(99 - number) for number in range(TICKETS_PER_USER + 2)]
    for key in keys:
        await state.keep_ticket(ALICE, key, key.encode(), seconds=30.0)
    left = [await state.take_ticket(key) for key in keys]
    assert left == [None, None, *[key.encode() for key in keys[2:]]], "the oldest, and not the first of the alphabet"
    assert await state.take_ticket("bob's") == b"b"


async def test_a_spent_ticket_makes_room_for_another(world: World) -> None:
    state = world.state()
    for number in range(TICKETS_PER_USER):
        await state.keep_ticket(ALICE, str(number), b"x", seconds=30.0)
    assert await state.take_ticket("7") == b"x"
    await state.keep_ticket(ALICE, "new", b"x", seconds=30.0)
    assert await state.take_ticket("0") == b"x"


async def test_expired_tickets_make_room_for_others(world: World) -> None:
    state = world.state()
    await state.keep_ticket(ALICE, "first", b"x", seconds=90.0)
    for number in range(TICKETS_PER_USER - 1):
        await state.keep_ticket(ALICE, str(number), b"x", seconds=30.0)
    await world.wait(31.0)
    for number in range(TICKETS_PER_USER - 1):
        await state.keep_ticket(ALICE, f"new {number}", b"x", seconds=30.0)
    assert await state.take_ticket("first") == b"x"


async def test_a_short_ticket_does_not_end_the_account_of_a_long_one(world: World) -> None:
    state = world.state()
    await state.keep_ticket(ALICE, "long", b"x", seconds=90.0)
    await state.keep_ticket(ALICE, "short", b"x", seconds=30.0)
    await world.wait(60.0)
    await state.forget_user(ALICE)
    assert await state.take_ticket("long") is None


# -- in Redis


async def test_of_fifty_who_ask_for_a_ticket_in_several_processes_one_gets_it(redis: InRedis) -> None:
    states = [redis.state() for _ in range(5)]
    for number in range(5):
        await states[0].keep_ticket(ALICE, str(number), b"x", seconds=30.0)
        answers = await asyncio.gather(*[states[each % 5].take_ticket(str(number)) for each in range(50)])
        assert sorted(answers, key=str) == [*[None] * 49, b"x"]


async def test_processes_see_what_another_has_noted(redis: InRedis) -> None:
    one, other = redis.state(), redis.state()
    await one.remember_connection(ALICE, "tab")
    await one.deny(ALICE, None, issued_until=1_000.0, until=2_000.0)
    await one.deny(BOB, "t1", issued_until=1_000.0, until=2_000.0)
    await one.keep_ticket(ALICE, "k", b"x", seconds=30.0)
    assert await other.knows_connection(ALICE, "tab")
    assert await other.denied(ALICE, "t2", 900.0)
    assert await other.denied(BOB, "t1", 5_000.0)
    assert await other.take_ticket("k") == b"x"
    assert await one.take_ticket("k") is None
    await other.forget_user(ALICE)
    assert not await one.knows_connection(ALICE, "tab")


async def test_namespaces_share_nothing(redis: InRedis, server: RedisServer) -> None:
    one, elsewhere = redis.state(), InRedis(server.url)
    other = elsewhere.state()
    await one.remember_connection(ALICE, "tab")
    await one.deny(ALICE, None, issued_until=1_000.0, until=2_000.0)
    await one.keep_ticket(ALICE, "k", b"x", seconds=30.0)
    assert not await other.knows_connection(ALICE, "tab")
    assert not await other.denied(ALICE, None, 900.0)
    assert await other.take_ticket("k") is None
    await elsewhere.close()


async def test_of_racing_denials_the_furthest_of_each_end_stays(redis: InRedis) -> None:
    states = [redis.state() for _ in range(4)]
    for round_ in range(5):
        user = UserId(f"user {round_}")
        reaches = [(1_000.0 + (7 * each) % 20, 2_000.0 + (3 * each) % 20) for each in range(20)]
        await asyncio.gather(
            *[
                states[each % 4].deny(user, None, issued_until=issued_until, until=until)
                for each, (issued_until, until) in enumerate(reaches)
            ]
        )
        redis.clock.now = 2_019.0
        assert await states[0].denied(user, None, 1_019.0)
        redis.clock.now = 1_000.0


async def test_a_user_never_has_more_tickets_than_allowed_whoever_hands_them_out(redis: InRedis) -> None:
    states = [redis.state() for _ in range(4)]
    total = TICKETS_PER_USER * 2
    await asyncio.gather(*[states[n % 4].keep_ticket(ALICE, str(n), b"x", seconds=30.0) for n in range(total)])
    taken = await asyncio.gather(*[states[0].take_ticket(str(n)) for n in range(total)])
    assert taken.count(b"x") == TICKETS_PER_USER


class Dying(Exchange):
    """Whose process dies before one kind of command."""

    mortal: str = ""

    def submit(self, *command: Any) -> asyncio.Future[Any]:
        if command[0] == self.mortal:
            answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            answer.set_exception(LogUnavailable("died"))
            return answer
        return super().submit(*command)


@pytest.mark.parametrize("mortal", ["DEL", "HDEL"])
async def test_a_ticket_that_one_process_died_before_dropping_is_dropped_by_the_next(
    redis: InRedis, server: RedisServer, mortal: str
) -> None:
    dying = Dying(server.url, timeout=TIMEOUT)
    first, second = redis.state(exchange=dying), redis.state()
    for number in range(TICKETS_PER_USER):
        await first.keep_ticket(ALICE, str(number), b"x", seconds=30.0)
    dying.mortal = mortal
    with pytest.raises(LogUnavailable):
        await first.keep_ticket(ALICE, "one more", b"x", seconds=30.0)
    with pytest.raises(LogUnavailable):
        await first.forget_user(ALICE)
    await second.keep_ticket(ALICE, "and one", b"x", seconds=30.0)
    assert await second.take_ticket("0") is None
    assert await second.take_ticket("1") is None
    await second.forget_user(ALICE)
    for key in ("2", "one more", "and one"):
        assert await second.take_ticket(key) is None


async def test_a_ticket_that_was_taken_is_given_even_if_its_room_cannot_be_cleared(
    redis: InRedis, server: RedisServer
) -> None:
    dying = Dying(server.url, timeout=TIMEOUT)
    state = redis.state(exchange=dying)
    await state.keep_ticket(ALICE, "k", b"x", seconds=30.0)
    dying.mortal = "HDEL"
    assert await state.take_ticket("k") == b"x"


async def test_redis_drops_everything_at_its_end_by_itself(redis: InRedis) -> None:
    state = redis.state(age=0.2, clock=time.time)
    began = time.monotonic()
    await state.keep_ticket(ALICE, "k", b"x", seconds=0.2)
    await state.remember_connection(ALICE, "tab")
    now = time.time()
    await state.deny(ALICE, None, issued_until=now, until=now + 0.2)
    await state.deny(ALICE, "t1", issued_until=now, until=now + 0.2)
    assert len(await redis.keys()) == 5
    for key in await redis.keys():
        assert await redis.raw.pttl(key) <= 201

    async def empty() -> bool:
        return not await redis.keys()

    await becomes(empty)
    assert time.monotonic() - began >= 0.2
    assert await state.take_ticket("k") is None
    assert not await state.knows_connection(ALICE, "tab")


async def test_what_is_too_old_or_too_much_takes_no_room(redis: InRedis) -> None:
    state = redis.state(age=60.0, per_user=3)
    for number in range(20):
        await state.remember_connection(ALICE, str(number))
        await state.keep_ticket(ALICE, str(number), b"x", seconds=30.0)
        if number % 2:
            await state.take_ticket(str(number))
        await state.deny(ALICE, None, issued_until=1_000.0 + number, until=2_000.0)
    names = Namespace(redis.namespace)
    assert await redis.raw.zcard(names.of_user(ALICE, "k")) == 3
    assert await redis.raw.hlen(names.of_user(ALICE, "t")) == 10
    assert len(await redis.keys()) == 3 + 10
    await redis.wait(40.0)
    await state.remember_connection(ALICE, "new")
    await redis.wait(40.0)
    await state.remember_connection(ALICE, "newer")
    await state.keep_ticket(ALICE, "new", b"x", seconds=30.0)
    assert await redis.raw.zcard(names.of_user(ALICE, "k")) == 2
    assert await redis.raw.hlen(names.of_user(ALICE, "t")) == 1
    assert len(await redis.keys()) == 3 + 1


async def test_the_keys_of_a_user_share_a_slot_and_only_a_ticket_has_another(redis: InRedis) -> None:
    state = redis.state()
    await state.remember_connection(ALICE, "tab")
    await state.deny(ALICE, None, issued_until=1_000.0, until=2_000.0)
    await state.deny(ALICE, "{t}1", issued_until=1_000.0, until=2_000.0)
    await state.keep_ticket(ALICE, "k", b"x", seconds=30.0)
    names = Namespace(redis.namespace)
    beside = names.of_user(ALICE, "").encode()
    other = [key for key in await redis.keys() if not key.startswith(beside)]
    assert other == [names.plain("t:k").encode()]


async def test_a_clock_that_is_set_back_does_not_turn_the_order_around(redis: InRedis) -> None:
    """A replica that was promoted may have another time."""
    state = redis.state(per_user=2)
    await state.remember_connection(ALICE, "a")
    await state.remember_connection(ALICE, "b")
    key = Namespace(redis.namespace).of_user(ALICE, "k")
    for member in ("a", "b"):
        await redis.raw.zincrby(key, 30e6, member)
    await state.remember_connection(ALICE, "c")
    assert await known(state, ALICE, "abc") == "bc"


async def test_a_restart_without_persistence_forgets_denials_too(tmp_path: Path) -> None:
    """As the documentation says: whoever denies for long needs a Redis that persists."""
    server = RedisServer(tmp_path)
    world = InRedis(server.url)
    try:
        state = world.state()
        await state.remember_connection(ALICE, "tab")
        await state.deny(ALICE, None, issued_until=1_000.0, until=2_000.0)
        await state.keep_ticket(ALICE, "k", b"x", seconds=30.0)
        server.kill()
        server.start()

        async def answers() -> bool:
            with contextlib.suppress(LogUnavailable):
                return not await state.denied(ALICE, None, 900.0)
            return False

        await becomes(answers)
        assert not await state.knows_connection(ALICE, "tab")
        assert await state.take_ticket("k") is None
        await state.deny(ALICE, None, issued_until=1_000.0, until=2_000.0)
        assert await state.denied(ALICE, None, 900.0)
    finally:
        await world.close()
        server.stop()


async def test_without_redis_nothing_is_answered(tmp_path: Path) -> None:
    """Nobody is let in because it cannot be told whether they are denied."""
    server = RedisServer(tmp_path)
    world = InRedis(server.url)
    try:
        state, fresh = world.state(), world.state()
        await state.deny(ALICE, None, issued_until=1_000.0, until=2_000.0)
        server.kill()
        for each in (state, fresh):
            with pytest.raises(LogUnavailable):
                await each.denied(ALICE, "t1", 900.0)
            with pytest.raises(LogUnavailable):
                await each.deny(ALICE, None, issued_until=1_000.0, until=2_000.0)
            with pytest.raises(LogUnavailable):
                await each.remember_connection(ALICE, "tab")
            with pytest.raises(LogUnavailable):
                await each.knows_connection(ALICE, "tab")
            with pytest.raises(LogUnavailable):
                await each.forget_user(ALICE)
            with pytest.raises(LogUnavailable):
                await each.keep_ticket(ALICE, "k", b"x", seconds=30.0)
            with pytest.raises(LogUnavailable):
                await each.take_ticket("k")
    finally:
        await world.close()
        server.stop()


async def test_what_is_not_ours_denies_nobody_silently_and_lets_nobody_in(redis: InRedis) -> None:
    state = redis.state()
    names = Namespace(redis.namespace)
    denial = names.of_user(ALICE, "d")
    for foreign in (b"", b"1000.0", b"a b", b"1 2 3", b"\xff \xff"):
        await redis.raw.set(denial, foreign)
        with pytest.raises(LogUnavailable):
            await state.denied(ALICE, None, 900.0)
    await state.deny(ALICE, None, issued_until=1_000.0, until=2_000.0)
    assert await state.denied(ALICE, None, 900.0), "and is written over by what is"
    await redis.raw.delete(denial)
    await redis.raw.rpush(denial, b"x")
    with pytest.raises(LogUnavailable):
        await state.denied(ALICE, None, 900.0)
    for foreign in (b"", b"x", b"5", b"5\nab", b"-1\nabc", b"1\n\xff", b"9" * 5_000 + b"\n"):
        await redis.raw.set(names.plain("t:k"), foreign)
        with pytest.raises(LogUnavailable):
            await state.take_ticket("k")
    await redis.raw.hset(names.of_user(BOB, "t"), b"\xff", b"x")
    await state.keep_ticket(BOB, "k", b"x", seconds=30.0)
    await redis.raw.hset(names.of_user(BOB, "t"), b"\xff", b"1 2")
    await state.forget_user(BOB)
    assert await state.take_ticket("k") is None


async def test_scripts_that_redis_lost_are_sent_again(redis: InRedis) -> None:
    state = redis.state()
    for _ in range(2):
        await redis.raw.script_flush()
        await state.remember_connection(ALICE, "tab")
        await state.deny(ALICE, None, issued_until=1_000.0, until=2_000.0)
        await state.keep_ticket(ALICE, "k", b"x", seconds=30.0)
        assert await state.knows_connection(ALICE, "tab")
        assert await state.denied(ALICE, None, 900.0)
        assert await state.take_ticket("k") == b"x"


async def test_a_caller_that_is_cancelled_disturbs_nobody(redis: InRedis) -> None:
    state = redis.state()
    await state.deny(ALICE, None, issued_until=1_000.0, until=2_000.0)
    for turns in range(6):
        lost = [asyncio.ensure_future(state.denied(ALICE, "t1", 900.0)) for _ in range(20)]
        others = [asyncio.ensure_future(state.denied(user, "t1", 900.0)) for user in (ALICE, BOB) * 10]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in lost:
            task.cancel()
        assert await asyncio.gather(*others) == [True, False] * 10
        await asyncio.gather(*lost, return_exceptions=True)
