"""How many connections a user has in all processes together: the limit holds, the oldest go, and nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import pytest
from redis import Redis

from tests.redis.marks import NEEDS_REDIS
from tests.redis.server import RedisServer
from tests.support import Tab, a_manager, quick_retry, turns, until
from websocket_core.control import CONTROL
from websocket_core.errors import LogUnavailable
from websocket_core.events import Event
from websocket_core.identity import LogName, UserId
from websocket_core.limits import Limits
from websocket_core.log import Position
from websocket_core.log_probe import HOSTILE
from websocket_core.logs.redis.exchange import Exchange
from websocket_core.logs.redis.names import Namespace
from websocket_core.logs.redis.seats import RedisSeats
from websocket_core.state import Seat
from websocket_core.unified_manager import UnifiedWebSocketManager

pytestmark = NEEDS_REDIS

ALICE, BOB = UserId("alice"), UserId("bob")
NAMES: Final = sorted({each.name for each in HOSTILE})

_numbers = itertools.count()


class Process:
    """What a log on Redis is to seats."""

    def __init__(self, world: World) -> None:
        self.exchange = Exchange(world.url, timeout=5.0)
        self.channel = Namespace(world.namespace).plain(f"process:{next(_numbers)}")
        self.submit, self.run = self.exchange.submit, self.exchange.run
        self.subscriber = Redis.from_url(world.url).pubsub()  # type: ignore[no-untyped-call]
        self.subscriber.subscribe(self.channel)
        assert self.subscriber.get_message(timeout=5.0) is not None

    def listen(self, _heard: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


class World:
    """A namespace of its own in Redis."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.namespace = f"seats{os.getpid()}.{next(_numbers)}"
        self.raw = Exchange(url, timeout=5.0)
        self.processes: list[Process] = []

    def process(self, *, known: int = 100) -> RedisSeats:
        self.processes.append(Process(self))
        return RedisSeats(self.processes[-1], Namespace(self.namespace), age=60.0, known=known)

    async def keys(self) -> list[bytes]:
        found: list[bytes] = await self.raw.submit("KEYS", f"{self.namespace}:*")
        return found

    async def close(self) -> None:
        for process in self.processes:
            await process.exchange.close()
            process.subscriber.connection_pool.disconnect()
            process.subscriber.close()
        await self.raw.close()

    @contextlib.asynccontextmanager
    async def fleet(self, count: int = 2, **options: Any) -> AsyncIterator[list[UnifiedWebSocketManager]]:
        """Managers that have nothing in common but Redis."""
        options.setdefault("limits", Limits(connections_per_user=3))
        async with contextlib.AsyncExitStack() as stack:
            managers = [
                await stack.enter_async_context(a_manager(self.url, namespace=self.namespace, **options))
                for _ in range(count)
            ]
            yield managers


async def becomes(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(5.0):
        while not await condition():  # noqa: ASYNC110 - it is another program that makes it true
            await asyncio.sleep(0.01)


@pytest.fixture
async def world(server: RedisServer) -> AsyncIterator[World]:
    made = World(server.url)
    yield made
    await made.close()


async def sit(seats: RedisSeats, connection_id: str, user_id: UserId = ALICE, *, most: int = 3) -> list[str]:
    """Take a seat that is named like the connection and counted; the names of those that must go."""
    await seats.stay(60.0)
    seat = Seat(f"{connection_id}/{next(_numbers)}", connection_id, seats.process)
    return [each.id.rpartition("/")[0] for each in await seats.take(user_id, seat, most=most)]


# -- the seats themselves


async def test_above_the_limit_the_oldest_by_arrival_goes_whichever_process_it_is_in(world: World) -> None:
    one, two = world.process(), world.process()
    for connection_id, seats in (("z", one), ("b", two), ("a", one)):
        assert await sit(seats, connection_id) == []
    assert await sit(two, "y") == ["z"], "z is the oldest, a the first of the alphabet"
    assert await sit(one, "x") == ["b"]
    assert await sit(one, "w", most=1) == ["a", "y", "x"]


async def test_the_same_connection_id_makes_room_whichever_process_it_is_in(world: World) -> None:
    one, two = world.process(), world.process()
    assert await sit(one, "tab") == []
    assert await sit(two, "tab") == ["tab"]
    assert await sit(two, "tab") == ["tab"]
    assert await sit(one, "Tab") == []


async def test_who_comes_is_never_told_to_go(world: World) -> None:
    seats = world.process()
    for connection_id in "abcab":
        gone = await sit(seats, connection_id, most=1)
        assert len(gone) <= 1
    assert await sit(seats, "z", most=1) == ["b"]


async def test_a_call_that_is_made_again_makes_no_second_seat(world: World) -> None:
    seats = world.process()
    await seats.stay(60.0)
    seat = Seat("s1", "a", seats.process)
    for _ in range(3):
        assert await seats.take(ALICE, seat, most=1) == []


async def test_of_many_who_come_at_once_as_many_stay_as_may(world: World) -> None:
    processes = [world.process() for _ in range(4)]
    gone = await asyncio.gather(*[sit(processes[number % 4], f"c{number}") for number in range(40)])
    out = [each for some in gone for each in some]
    assert len(out) == len(set(out)) == 37


async def test_a_seat_that_was_given_back_makes_room(world: World) -> None:
    seats = world.process()
    await seats.stay(60.0)
    for name in "abc":
        assert await seats.take(ALICE, Seat(f"{name}/", name, seats.process), most=3) == []
    await seats.leave([(ALICE, "a/"), (BOB, "b/"), (ALICE, "nobody")])
    assert await sit(seats, "d") == []
    assert await sit(seats, "e") == ["b"]


async def test_a_process_that_was_killed_is_gone_before_its_time_is_up(world: World) -> None:
    """Its users come back at once, to other processes, and must not count twice."""
    world.process()
    killed, here = world.process(), world.process()
    for connection_id in ("a", "b", "c"):
        assert await sit(killed, connection_id) == []
    world.processes[1].subscriber.close()

    async def gone() -> bool:
        return not await here.is_there(killed.process)

    await becomes(gone)
    assert await sit(here, "d") == []
    assert await sit(here, "e") == []


async def test_the_seats_of_a_process_that_is_gone_do_not_count(world: World) -> None:
    """Its connections are the youngest here: nobody who is there has to go for them."""
    gone, here = world.process(), world.process()
    assert await sit(here, "old") == []
    for connection_id in "ab":
        assert await sit(gone, connection_id) == []
    await world.raw.submit("DEL", f"{gone.process}:there")
    assert await sit(here, "c") == []
    assert await sit(here, "d") == []
    assert await sit(here, "e") == ["old"]


async def test_users_do_not_make_room_for_one_another(world: World) -> None:
    seats = world.process()
    for name in NAMES:
        assert await sit(seats, name, UserId(name), most=1) == []
    for name in NAMES:
        assert await sit(seats, "other", UserId(name), most=1) == [name]


async def test_whether_somebody_is_elsewhere(world: World) -> None:
    one, two = world.process(), world.process()
    assert not await one.elsewhere(ALICE)
    await sit(one, "a")
    assert not await one.elsewhere(ALICE)
    assert await two.elsewhere(ALICE)
    assert not await two.elsewhere(BOB)


async def test_what_is_stored_has_an_end(world: World) -> None:
    await sit(world.process(), "a")
    keys = await world.keys()
    assert len(keys) == 3
    for key in keys:
        assert int(await world.raw.submit("PTTL", key)) > 0


async def test_foreign_bytes_are_thrown_out_and_name_no_key(world: World) -> None:
    seats = world.process()
    key = Namespace(world.namespace).of_user("alice", "s")
    await world.raw.submit("SET", "secret:there", "x")
    await world.raw.submit("HSET", key, "x", b"\xff", "y", b"1\nsecret\ntab", "z", b"\xff\n\n")
    for connection_id in "abcd":
        await sit(seats, connection_id)
    left = await world.raw.submit("HGETALL", key)
    assert len(left) == 2 * 3
    assert not await seats.is_there("secret")
    await world.raw.submit("DEL", "secret:there")


# -- managers


async def test_the_limit_holds_for_all_processes_together(world: World) -> None:
    async with world.fleet(3) as managers:
        places = (0, 0, 1, 1, 2)
        tabs = [await Tab.open(managers[place], "alice", f"tab {number}") for number, place in enumerate(places)]
        await until(lambda: [tab.socket.close_code for tab in tabs[:2]] == [4409, 4409], "room")
        await turns()
        assert [tab.connection.state for tab in tabs[2:]] == ["open"] * 3
        assert sum(manager.metrics.evictions for manager in managers) == 2
        position = await managers[0].get_emitter("alice").emit("work", {"n": 1})
        for tab in tabs[2:]:
            await tab.has(1)
        assert position.offset == 3, "the orders stand in the log and are shown to nobody"
        for tab in tabs:
            await tab.cut()


async def test_a_connection_that_comes_back_to_another_process_replaces_itself_and_stays(world: World) -> None:
    async with world.fleet(2) as (one, two):
        first = await Tab.open(one, "alice", "tab")
        second = await Tab.open(two, "alice", "tab")
        await until(lambda: first.socket.close_code == 4409, "the end of the first")
        await one.get_emitter("alice").emit("work", {"n": 1})
        await second.has(1)
        assert second.connection.state == "open", "the order was for the first, whose id it has"
        third = await Tab.open(one, "alice", "tab")
        await until(lambda: second.socket.close_code == 4409, "the end of the second")
        await one.get_emitter("alice").emit("work", {"n": 2})
        await third.has(2)
        assert third.connection.state == "open"
        late = await Tab.open(two, "alice", "late")
        await late.has(2)
        assert (late.connection.state, third.connection.state) == ("open", "open")
        for tab in (first, second, third, late):
            await tab.cut()


async def test_connections_that_have_gone_make_room_in_all_processes(world: World) -> None:
    async with world.fleet(2) as managers:
        for number in range(10):
            tab = await Tab.open(managers[number % 2], "alice", f"tab {number}")
            await tab.cut()
        key = Namespace(world.namespace).of_user("alice", "s")

        async def nobody() -> bool:
            return int(await world.raw.submit("HLEN", key)) == 0

        await becomes(nobody)
        assert sum(manager.metrics.evictions for manager in managers) == 0


async def test_an_order_that_cannot_be_appended_holds_up_nobody_and_is_counted(world: World) -> None:
    async with world.fleet(2, retry=quick_retry(2)) as (one, two):
        old = [await Tab.open(one, "alice", f"tab {number}") for number in range(3)]
        append = two._log.append

        async def refuse(log: LogName, event: Event) -> Position:
            if event.connection_id == CONTROL:
                raise LogUnavailable("told to refuse orders")
            return await append(log, event)

        two._log.append = refuse  # type: ignore[method-assign]
        async with asyncio.timeout(1.0):
            new = await Tab.open(two, "alice", "new")
        await until(lambda: two.metrics.evictions_failed == 1, "the count")
        assert new.connection.state == "open"
        for tab in (*old, new):
            await tab.cut()


async def test_a_deleted_user_is_sent_away_in_all_processes(world: World) -> None:
    """Also one who is behind: the log goes with its order, and the new life has one as well."""
    async with world.fleet(3) as managers:
        tabs = [await Tab.open(manager, "alice") for manager in managers]
        bob = await Tab.open(managers[1], "bob")
        await managers[0].get_emitter("alice").emit("work", {"n": 1})
        for tab in tabs:
            await tab.has(1)
        await managers[0].delete_user("alice")
        await until(lambda: [tab.socket.close_code for tab in tabs] == [1000] * 3, "the end of all")
        again = await Tab.open(managers[2], "alice")
        await managers[0].get_emitter("alice").emit("work", {"n": 2})
        await again.has(1)
        assert [event["data"] for event in again.events] == [{"n": 2}]
        assert (bob.connection.state, again.connection.state) == ("open", "open")
        for tab in (*tabs, bob, again):
            await tab.cut()


async def test_a_deleted_users_connection_that_was_behind_is_sent_away_by_the_new_life(world: World) -> None:
    async with world.fleet(2) as (one, two):
        tab = await Tab.open(two, "alice")
        await tab.greeted()
        tab.socket.block()
        for number in range(3):
            await one.get_emitter("alice").emit("work", {"n": number})
        await until(lambda: tab.socket.write_sizes[1:], "a write that does not return")
        await one.delete_user("alice")
        await one.get_emitter("alice").emit("work", {"n": "of the new life"})
        tab.socket.unblock()
        await until(lambda: tab.socket.close_code == 1000, "the end")
        assert "of the new life" not in str(tab.events)
        await tab.cut()


async def test_a_user_who_is_nowhere_else_leaves_nothing_when_deleted(world: World) -> None:
    async with world.fleet(2) as (one, _two):
        tab = await Tab.open(one, "alice")
        await one.get_emitter("alice").emit("work", {"n": 1})
        await tab.has(1)
        await one.delete_user("alice")
        await until(lambda: tab.socket.close_code == 1000, "the end")
        await tab.cut()
        left = [key.decode() for key in await world.keys() if b"{u" in key]
        assert left == []


async def test_a_connect_that_is_cancelled_or_refused_gives_its_seat_back(world: World) -> None:
    async with world.fleet(1, limits=Limits(connections=1)) as (manager,):
        tab = await Tab.open(manager, "alice", "tab")
        with pytest.raises(Exception, match="overload"):
            await Tab.open(manager, "alice", "other")
        key = Namespace(world.namespace).of_user("alice", "s")

        async def one() -> bool:
            return int(await world.raw.submit("HLEN", key)) == 1

        await becomes(one)
        await tab.cut()
