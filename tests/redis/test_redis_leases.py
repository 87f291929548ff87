"""The leases of runs: in Redis they mean what they mean in memory, and processes that die leave no run without an end.

Time is the clock of Redis, which nobody sets: where it must pass, everything stored there grows older instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final, Protocol

import pytest

from tests.leases import SharedLeases
from tests.redis.marks import NEEDS_REDIS
from tests.redis.server import RedisServer
from tests.support import Tab, a_manager, check_runs, until
from websocket_core.errors import LogUnavailable
from websocket_core.events import Event
from websocket_core.identity import LogName, UserId
from websocket_core.leases import Contact, Lease, LeasedEvent, LeaseLost, Leases, Look
from websocket_core.limits import Limits
from websocket_core.log_probe import HOSTILE
from websocket_core.logs.redis import RedisLog
from websocket_core.logs.redis.exchange import Exchange
from websocket_core.logs.redis.leases import RedisLeases
from websocket_core.logs.redis.names import Namespace
from websocket_core.logs.redis.state import RedisState
from websocket_core.unified_manager import UnifiedWebSocketManager

pytestmark = NEEDS_REDIS

ALICE, BOB = UserId("alice"), UserId("bob")
NAMES: Final = sorted({each.name for each in HOSTILE})
LEASE: Final = 30.0
LONG_AGO: Final = Contact(0, 0)

_numbers = itertools.count()


def a_lease(user_id: UserId = ALICE, run_id: str = "r1", **fields: Any) -> Lease:
    number = next(_numbers)
    lease = Lease(
        id=f"{number:016x}", number=number, user_id=user_id, run_id=run_id, thread_id="t1", parent_run_id=None,
        agent="planner", started=Event(f"e{number}", b'{"type":"agent_started","data":{}', None, "t1"),
    )  # fmt: skip
    return lease._replace(**fields)


class World(Protocol):
    def process(self) -> Leases: ...

    async def wait(self, seconds: float) -> None: ...

    async def in_touch(self) -> Contact:
        """A contact that has lasted long enough to claim."""
        ...

    async def close(self) -> None: ...


class InMemory:
    def __init__(self) -> None:
        self.now = 1_000.0
        self.shared = SharedLeases(lambda: self.now)

    def process(self) -> Leases:
        return self.shared.process()

    async def wait(self, seconds: float) -> None:
        self.now += seconds

    async def in_touch(self) -> Contact:
        now = int(self.now * 1000)
        return Contact(now, now - int(LEASE * 1000))

    async def close(self) -> None:
        pass


class Process:
    """What a log on Redis is to leases: an exchange, a channel, and those who listen."""

    def __init__(self, world: InRedis) -> None:
        self.exchange = Exchange(world.url, timeout=5.0)
        self.channel = f"{world.namespace}:process:{next(_numbers)}"
        self.heard: list[Callable[[], None]] = []
        self.submit, self.run = self.exchange.submit, self.exchange.run

    def listen(self, heard: Callable[[], None]) -> Callable[[], None]:
        self.heard.append(heard)
        return lambda: self.heard.remove(heard)


class InRedis:
    def __init__(self, url: str) -> None:
        self.url = url
        self.namespace = f"leases{os.getpid()}.{next(_numbers)}"
        self.names = Namespace(self.namespace)
        self.processes: list[Process] = []
        self.raw = Exchange(url, timeout=5.0)

    def process(self) -> RedisLeases:
        self.processes.append(Process(self))
        return RedisLeases(self.processes[-1], self.names, age=60.0)

    async def wait(self, seconds: float) -> None:
        for key in await self.keys():
            if await self.raw.submit("TYPE", key) in (b"zset", "zset"):
                for member in await self.raw.submit("ZRANGE", key, 0, -1):
                    await self.raw.submit("ZINCRBY", key, -seconds * 1000, member)

    async def in_touch(self) -> Contact:
        seconds, micros = await self.raw.submit("TIME")
        now = int(seconds) * 1000 + int(micros) // 1000
        return Contact(now, now - int(LEASE * 1000))

    async def keys(self) -> list[bytes]:
        found: list[bytes] = await self.raw.submit("KEYS", f"{self.namespace}:*")
        return found

    async def close(self) -> None:
        for process in self.processes:
            await process.exchange.close()
        await self.raw.close()


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


async def take(leases: Leases, *held: Lease, begun: bool = True, approvals: tuple[str, ...] = ()) -> None:
    """As a process does that begins a run."""
    assert not (await leases.hold(held, seconds=LEASE)).lost
    for lease in held:
        await leases.write(lease, begun=begun, approvals=approvals)


async def claimed(world: World, leases: Leases, most: int = 100) -> list[Lease]:
    _, expired = await leases.claim(await world.in_touch(), seconds=LEASE, most=most)
    return [each.lease for each in expired]


# -- holding and claiming


async def test_a_lease_is_claimed_when_it_has_expired_and_comes_back_exactly(world: World) -> None:
    holder, other = world.process(), world.process()
    lease = a_lease(thread_id=None, parent_run_id="p", agent="Pl\u00e4ner \U0001f600")
    await take(holder, lease)
    assert await claimed(world, other) == []
    await world.wait(LEASE - 1.0)
    assert await claimed(world, other) == []
    await world.wait(2.0)
    found = await claimed(world, other)
    assert [each._replace(started=None) for each in found] == [lease._replace(started=None)]
    assert found[0].started is not None
    assert lease.started is not None
    assert found[0].started[:2] == lease.started[:2]


async def test_a_lease_that_is_prolonged_is_not_claimed(world: World) -> None:
    holder, other = world.process(), world.process()
    lease = a_lease()
    await take(holder, lease)
    for _ in range(4):
        await world.wait(LEASE * 0.9)
        assert not (await holder.hold([lease], seconds=LEASE)).lost
        assert await claimed(world, other) == []


async def test_a_lease_says_whether_its_run_has_begun(world: World) -> None:
    holder, other = world.process(), world.process()
    one, two = a_lease(), a_lease()
    await take(holder, one, begun=False)
    await take(holder, two, begun=False)
    await holder.write(two, begun=True, approvals=())
    await world.wait(LEASE + 1.0)
    _, expired = await other.claim(await world.in_touch(), seconds=LEASE, most=10)
    assert {each.lease.id: each.begun for each in expired} == {one.id: False, two.id: True}


async def test_of_many_who_claim_one_gets_it(world: World) -> None:
    holder, others = world.process(), [world.process() for _ in range(8)]
    leases = [a_lease() for _ in range(20)]
    await take(holder, *leases)
    await world.wait(LEASE + 1.0)
    found = await asyncio.gather(*[claimed(world, other, 7) for other in others])
    assert sorted(each.id for some in found for each in some) == sorted(each.id for each in leases)
    assert max(map(len, found)) <= 7


async def test_a_claimed_lease_is_lost_to_its_holder_and_a_new_one_of_the_same_run_is_not(world: World) -> None:
    holder, other = world.process(), world.process()
    lease, again = a_lease(), a_lease()
    await take(holder, lease)
    await world.wait(LEASE + 1.0)
    assert [each.id for each in await claimed(world, other)] == [lease.id]
    held = await holder.hold([lease, again], seconds=LEASE)
    assert held.lost == {lease.id}
    await other.drop([lease])
    assert (await holder.hold([lease], seconds=LEASE)).lost == {lease.id}, "also when it was settled"
    await world.wait(2.0)
    assert await claimed(world, other) == []


async def test_who_claims_and_dies_is_followed_by_another(world: World) -> None:
    holder, first, second = world.process(), world.process(), world.process()
    lease = a_lease()
    await take(holder, lease)
    await world.wait(LEASE + 1.0)
    assert len(await claimed(world, first)) == 1
    assert await claimed(world, second) == []
    await world.wait(LEASE + 1.0)
    assert [each.id for each in await claimed(world, second)] == [lease.id]


async def test_what_was_settled_is_claimed_by_nobody(world: World) -> None:
    holder, other = world.process(), world.process()
    lease = a_lease()
    await take(holder, lease)
    await holder.drop([lease])
    await world.wait(10 * LEASE)
    assert await claimed(world, other) == []


async def test_nobody_claims_who_was_not_in_touch_for_the_time_of_a_lease(world: World) -> None:
    holder, other = world.process(), world.process()
    await take(holder, a_lease())
    await world.wait(LEASE + 1.0)
    now, since = await world.in_touch()
    seconds = int(LEASE * 1000)
    for contact in (None, Contact(now, now - seconds // 2), Contact(now - seconds, now - 3 * seconds), LONG_AGO):
        after, expired = await other.claim(contact, seconds=LEASE, most=10)
        assert expired == []
        assert after.last >= now
        assert (after.since >= now) == (contact is None or contact.last < now)
    later = Contact(now + 10**6, since)
    after, expired = await other.claim(later, seconds=LEASE, most=10)
    assert (expired, after.since) == ([], after.last), "a clock that was set back is a break as well"
    after, expired = await other.claim(Contact(now - seconds // 3, since), seconds=LEASE, most=10)
    assert (len(expired), after.since) == (1, since)


async def test_leases_that_are_held_together_expire_together(world: World) -> None:
    holder, other = world.process(), world.process()
    parent, child = a_lease(), a_lease()
    await take(holder, parent)
    held = await holder.hold([parent], seconds=LEASE)
    await world.wait(LEASE / 2)
    until = held.until - int(LEASE / 2 * 1000) if isinstance(world, InRedis) else held.until
    late = await holder.hold([child], seconds=LEASE, until=until)
    assert late.until == until
    assert late.seconds == pytest.approx(LEASE / 2, abs=1.0)
    await holder.write(child, begun=True, approvals=())
    await world.wait(LEASE / 2 + 1.0)
    assert {each.id for each in await claimed(world, other)} == {parent.id, child.id}


async def test_a_time_that_is_over_or_too_far_off_is_a_full_lease(world: World) -> None:
    holder = world.process()
    lease = a_lease()
    for then in (None, 0, 10**14):
        held = await holder.hold([lease], seconds=LEASE, until=then)
        assert held.seconds == pytest.approx(LEASE, abs=0.01)


async def test_more_leases_than_go_into_one_script_are_held_at_once(world: World) -> None:
    holder, other = world.process(), world.process()
    leases = [a_lease() for _ in range(1_203)]
    held = await holder.hold(leases, seconds=LEASE)
    assert not held.lost
    assert held.seconds == pytest.approx(LEASE, abs=1.0)
    await holder.drop(leases)
    await world.wait(LEASE + 1.0)
    assert await claimed(world, other, 10_000) == []


# -- what is asked of runs


async def seen(leases: Leases, lease: Lease, *approvals: str) -> tuple[bool, bool, dict[str, str]]:
    """Whether the lease is known, whether it was cancelled, and what was decided."""
    [found] = await leases.look([Look(lease.user_id, [lease.id], approvals)])
    return lease.id not in found.missing, lease.id in found.cancelled, dict(found.decisions)


async def test_a_cancel_is_noted_on_every_lease_of_the_run_and_on_no_other(world: World) -> None:
    holder, other = world.process(), world.process()
    meant = [a_lease(), a_lease()]
    others = [a_lease(BOB), a_lease(run_id="r2"), a_lease(run_id="R1"), a_lease(run_id="r1 ")]
    await take(holder, *meant, *others)
    assert await other.cancel(ALICE, "r1")
    assert [await seen(holder, each) for each in meant] == [(True, True, {})] * 2
    assert [await seen(holder, each) for each in others] == [(True, False, {})] * 4
    for user_id, run_id in ((ALICE, "r3"), (UserId("Alice"), "r1"), (ALICE, ""), (ALICE, "*")):
        assert not await other.cancel(user_id, run_id)


async def test_a_run_that_has_ended_cannot_be_cancelled(world: World) -> None:
    holder, other = world.process(), world.process()
    one, two = a_lease(), a_lease()
    await take(holder, one, two)
    await holder.drop([one])
    assert (await seen(holder, one))[0] is False
    assert await other.cancel(ALICE, "r1")
    await holder.drop([two])
    assert not await other.cancel(ALICE, "r1")


async def test_writing_a_lease_again_forgets_no_cancel(world: World) -> None:
    holder, other = world.process(), world.process()
    lease = a_lease()
    await take(holder, lease, approvals=("a1",))
    await other.cancel(ALICE, "r1")
    assert await other.decide(ALICE, "a1", '"yes"') == '"yes"'
    await holder.write(lease, begun=True, approvals=("a1", "a2"))
    assert await seen(holder, lease, "a1", "a2") == (True, True, {"a1": '"yes"'})


async def test_hostile_names_are_not_taken_for_one_another(world: World) -> None:
    holder, other = world.process(), world.process()
    leases = [a_lease(UserId(name), name) for name in NAMES]
    await take(holder, *leases)
    for lease in leases[::2]:
        assert await other.cancel(lease.user_id, lease.run_id)
    found = [(await seen(holder, lease))[1] for lease in leases]
    assert found == [place % 2 == 0 for place in range(len(leases))]
    await world.wait(LEASE + 1.0)
    back = {(each.user_id, each.run_id) for each in await claimed(world, other)}
    assert back == {(lease.user_id, lease.run_id) for lease in leases}


async def test_the_first_decision_stands(world: World) -> None:
    holder, other = world.process(), world.process()
    lease = a_lease()
    await take(holder, lease, approvals=("a1", "a2"))
    assert await seen(holder, lease, "a1", "a2") == (True, False, {})
    assert await other.decide(ALICE, "a1", '"yes"') == '"yes"'
    assert await other.decide(ALICE, "a1", '"no"') == '"yes"'
    assert await seen(holder, lease, "a1", "a2") == (True, False, {"a1": '"yes"'})
    for user_id, approval_id in ((BOB, "a1"), (ALICE, "a3"), (ALICE, "A1"), (ALICE, "")):
        assert await other.decide(user_id, approval_id, '"yes"') is None
    await holder.drop([lease])
    assert await other.decide(ALICE, "a2", '"yes"') is None, "who waited for it is gone"


async def test_of_many_who_decide_all_are_told_the_same(world: World) -> None:
    holder, others = world.process(), [world.process() for _ in range(6)]
    await take(holder, a_lease(), approvals=("a1",))
    stands = await asyncio.gather(*[other.decide(ALICE, "a1", f'"{number}"') for number, other in enumerate(others)])
    assert len(set(stands)) == 1
    assert stands[0] is not None


# -- only in Redis


async def test_who_holds_a_run_is_signalled_and_nobody_else(redis: InRedis) -> None:
    holder, other = redis.process(), redis.process()
    await take(holder, a_lease(), approvals=("a1",))
    subscriber = Exchange(redis.url, timeout=5.0)
    published: list[bytes] = []

    async def publish(*command: Any) -> Any:
        published.append(command[1])
        return 0

    submit = redis.processes[1].exchange.submit

    def watching(*command: Any) -> Any:
        if command[0] == "PUBLISH":
            assert command[2], "an empty message is a probe"
            return asyncio.ensure_future(publish(*command))
        return submit(*command)

    redis.processes[1].submit = watching
    assert await other.cancel(ALICE, "r1")
    assert await other.decide(ALICE, "a1", "1") == "1"
    assert [each.decode() for each in published] == [redis.processes[0].channel] * 2
    await subscriber.close()


async def test_what_is_stored_has_an_end_and_goes_with_its_run(redis: InRedis) -> None:
    holder = redis.process()
    lease = a_lease()
    await take(holder, lease, approvals=("a1",))
    keys = await redis.keys()
    assert len(keys) == 2
    for key in keys:
        assert int(await redis.raw.submit("PTTL", key)) > 80_000_000
    await holder.drop([lease])
    assert await redis.keys() == []


async def test_the_keys_of_a_user_are_in_one_slot_and_what_is_asked_together_as_well(redis: InRedis) -> None:
    holder, other = redis.process(), redis.process()
    await take(holder, a_lease(UserId("{bob}:*")))
    await redis.wait(LEASE + 1.0)
    assert len(await claimed(redis, other)) == 1
    tags = {key.decode().split("{")[1].split("}")[0] for key in await redis.keys()}
    assert tags == {"r", redis.names.of_user("{bob}:*", "r").split("{")[1].split("}")[0]}


async def test_foreign_bytes_are_passed_over_and_disturb_nobody(redis: InRedis) -> None:
    holder, other = redis.process(), redis.process()
    good, broken, orphan, foreign = a_lease(), a_lease(UserId("b")), a_lease(UserId("c")), a_lease(UserId("d"))
    await take(holder, good, broken, orphan, foreign)
    runs = redis.names.of_user
    await redis.raw.submit("HSET", runs("b", "r"), f"{broken.id}.d", b"\xff{")
    await redis.raw.submit("DEL", runs("c", "r"))
    await redis.raw.submit("SET", runs("d", "r"), "a text")
    stolen = f"{good.id}".encode() + b"d"
    await redis.raw.submit("ZADD", redis.names.plain("{r}:due"), 1, stolen, 1, b"\xff\xff", 1, b"")
    [*answers] = await holder.look([Look(each.user_id, [each.id]) for each in (good, broken, orphan, foreign)])
    assert [set(each.missing) for each in answers] == [set(), set(), {orphan.id}, set()]
    await redis.wait(LEASE + 1.0)
    assert [each.id for each in await claimed(redis, other)] == [good.id]
    await redis.wait(LEASE + 1.0)
    assert [each.id for each in await claimed(redis, other)] == [good.id]
    left = [member[:16] for member in await redis.raw.submit("ZRANGE", redis.names.plain("{r}:due"), 0, -1)]
    assert set(left) <= {good.id.encode(), foreign.id.encode()}, "what is none of ours is not looked at for ever"


async def test_a_lease_that_names_another_user_is_not_believed(redis: InRedis) -> None:
    """Or whoever can write into one user's key could write into another's log."""
    holder, other = redis.process(), redis.process()
    bobs, alices = a_lease(BOB), a_lease(ALICE)
    await take(holder, bobs, alices)
    said = await redis.raw.submit("HGET", redis.names.of_user("bob", "r"), f"{bobs.id}.d")
    await redis.raw.submit("HSET", redis.names.of_user("alice", "r"), f"{alices.id}.d", said)
    await redis.wait(LEASE + 1.0)
    assert [each.user_id for each in await claimed(redis, other)] == [BOB]


async def test_a_store_that_is_away_says_so(redis: InRedis) -> None:
    away = Process(redis)
    redis.processes.append(away)
    leases = RedisLeases(away, redis.names, age=60.0)
    await away.exchange.close()
    dead = RedisServerThatIsNotThere()
    leases = RedisLeases(dead, redis.names, age=60.0)
    lease = a_lease()
    for call in (
        leases.hold([lease], seconds=LEASE),
        leases.write(lease, begun=True, approvals=()),
        leases.look([Look(ALICE, [lease.id])]),
        leases.drop([lease]),
        leases.claim(None, seconds=LEASE, most=1),
        leases.cancel(ALICE, "r1"),
        leases.decide(ALICE, "a1", "1"),
    ):
        with pytest.raises(LogUnavailable):
            await call


class RedisServerThatIsNotThere:
    channel = "nobody"

    def submit(self, *_command: Any) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answer.set_exception(LogUnavailable("told to be away"))
        return answer

    async def run(self, *_what: Any) -> Any:
        raise LogUnavailable("told to be away")

    def listen(self, _heard: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


async def test_a_deleted_users_leases_are_dropped(redis: InRedis) -> None:
    holder, other = redis.process(), redis.process()
    await take(holder, a_lease(), a_lease(BOB))
    state = RedisState(redis.processes[1], redis.names, age=60.0, per_user=3)
    await state.forget_user(ALICE)
    assert not await other.cancel(ALICE, "r1")
    await redis.wait(LEASE + 1.0)
    assert [each.user_id for each in await claimed(redis, other)] == [BOB]


async def test_an_event_that_was_on_its_way_when_its_run_was_lost_is_not_appended(redis: InRedis) -> None:
    """A frozen process has sent it, or is about to: no clock of its own could tell."""
    log = RedisLog(redis.url, namespace=redis.namespace)
    holder, other = redis.process(), redis.process()
    mine, another = a_lease(), a_lease()
    await take(holder, mine, another)

    def an_event(name: str, lease: Lease) -> LeasedEvent:
        event = tuple.__new__(LeasedEvent, Event(name, b'{"type":"t","data":{}'))
        event.lease_id = lease.id
        return event

    assert (await log.append(LogName.of_user(ALICE), an_event("e1", mine))).offset == 1
    await redis.wait(LEASE + 1.0)
    await holder.hold([another], seconds=LEASE)
    assert [each.id for each in await claimed(redis, other)] == [mine.id]
    with pytest.raises(LeaseLost):
        await log.append(LogName.of_user(ALICE), an_event("e2", mine))
    assert (await log.append(LogName.of_user(ALICE), an_event("e3", another))).offset == 2
    assert (await log.append(LogName.of_user(ALICE), Event("e4", b'{"type":"t","data":{}'))).offset == 3
    await redis.raw.submit("SCRIPT", "FLUSH")
    with pytest.raises(LeaseLost):
        await log.append(LogName.of_user(ALICE), an_event("e5", mine))
    assert (await log.append(LogName.of_user(ALICE), an_event("e6", another))).offset == 4
    await log.close()


# -- processes of the operating system


SHORT: Final = 1.5
"""A lease that a test can wait for."""


class Worker:
    """A process with open runs, and what it said."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[str] = []
        self._reading = asyncio.get_running_loop().create_task(self._read())

    @classmethod
    async def start(cls, url: str, namespace: str, runs: int) -> Worker:
        command = (sys.executable, "-m", "tests.redis.lease_process", url, namespace, str(SHORT), str(runs))
        return cls(await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE))

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.said.append(line.decode().strip())

    async def thinks(self) -> None:
        """Wait until its runs have just thought, and rest now."""
        before = len(self.said)
        await until(lambda: len(self.said) > before, "a thought", 20.0)

    async def end(self) -> None:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        await self.process.wait()
        await self._reading


@contextlib.asynccontextmanager
async def a_survivor(url: str, namespace: str) -> AsyncIterator[tuple[UnifiedWebSocketManager, Tab]]:
    """A process that stays, with one of alice's tabs."""
    async with a_manager(url, namespace=namespace, limits=Limits(lease=SHORT)) as manager:
        tab = await Tab.open(manager, "alice")
        yield manager, tab
        await tab.cut()


def of_runs(tab: Tab, *types: str) -> list[tuple[str, str]]:
    return [(event["type"], event["run_id"]) for event in tab.events if event["type"] in types]


async def test_the_runs_of_a_killed_process_are_ended_within_the_lease_once_and_children_first(redis: InRedis) -> None:
    runs = 5
    async with a_survivor(redis.url, redis.namespace) as (manager, tab):
        worker = await Worker.start(redis.url, redis.namespace, runs)
        try:
            await worker.thinks()
            await asyncio.sleep(2 * SHORT)
            assert of_runs(tab, "agent_error", "agent_completed") == []
            began = time.monotonic()
            worker.process.kill()
            await until(lambda: len(of_runs(tab, "agent_error")) >= 2 * runs, "the ends", 4 * SHORT)
            assert time.monotonic() - began < 1.5 * SHORT
        finally:
            await worker.end()
        await asyncio.sleep(2 * SHORT)
        check_runs(tab.events)
        errors = [event for event in tab.events if event["type"] == "agent_error"]
        assert len(errors) == 2 * runs == manager.metrics.runs_lost
        assert {event["data"]["reason"] for event in errors} == {"lost"}
        for number in range(runs):
            ends = [event["run_id"] for event in errors if event["run_id"].endswith(f" {number}")]
            assert ends == [f"child {number}", f"run {number}"]
        left = [key.decode().rpartition("}:")[2] for key in await redis.keys()]
        assert "r" not in left
        assert "due" not in left


async def test_a_process_that_stood_still_for_longer_than_its_lease_tells_nothing_more_of_its_runs(
    redis: InRedis,
) -> None:
    runs = 3
    async with a_survivor(redis.url, redis.namespace) as (_manager, tab):
        worker = await Worker.start(redis.url, redis.namespace, runs)
        try:
            await worker.thinks()
            await asyncio.sleep(SHORT)
            await worker.thinks()
            worker.process.send_signal(signal.SIGSTOP)
            await until(lambda: len(of_runs(tab, "agent_error")) == 2 * runs, "the ends", 4 * SHORT)
            told = len(tab.events)
            worker.process.send_signal(signal.SIGCONT)
            await until(lambda: worker.said.count("stopped") == runs, "the end of its runs", 2 * SHORT)
            await until(lambda: worker.said[-1] == "over", "its own end", 20.0)
        finally:
            await worker.end()
        await asyncio.sleep(0.2)
        assert len(tab.events) == told
        check_runs(tab.events)


async def test_a_process_that_stood_still_for_a_part_of_its_lease_keeps_its_runs(redis: InRedis) -> None:
    async with a_survivor(redis.url, redis.namespace) as (_manager, tab):
        worker = await Worker.start(redis.url, redis.namespace, 2)
        try:
            await worker.thinks()
            await asyncio.sleep(SHORT)
            worker.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(SHORT / 3)
            worker.process.send_signal(signal.SIGCONT)
            await asyncio.sleep(2 * SHORT)
            await worker.thinks()
            assert of_runs(tab, "agent_error", "agent_completed") == []
        finally:
            await worker.end()


async def test_a_redis_that_stood_still_for_longer_than_a_lease_loses_no_run(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    try:
        async with a_survivor(server.url, "frozen") as (manager, tab):
            worker = await Worker.start(server.url, "frozen", 2)
            try:
                await worker.thinks()
                await asyncio.sleep(SHORT)
                server.signal(signal.SIGSTOP)
                await asyncio.sleep(3 * SHORT)
                server.signal(signal.SIGCONT)
                await asyncio.sleep(2 * SHORT)
                await worker.thinks()
                assert of_runs(tab, "agent_error", "agent_completed") == []
                assert "stopped" not in worker.said
                worker.process.kill()
                await until(lambda: manager.metrics.runs_lost == 4, "the ends", 4 * SHORT)
            finally:
                await worker.end()
    finally:
        server.stop()


async def test_a_run_of_another_process_is_cancelled_by_a_frame(redis: InRedis) -> None:
    async with a_survivor(redis.url, redis.namespace) as (_manager, tab):
        worker = await Worker.start(redis.url, redis.namespace, 1)
        try:
            await worker.thinks()
            tab.socket.client_sends({"type": "cancel", "run_id": "run 0", "request_id": "q"})
            await until(lambda: worker.said[-1:] != [] and "stopped" in worker.said, "the end", SHORT)
            await until(lambda: len(of_runs(tab, "agent_completed")) == 2, "the terminal events")
        finally:
            await worker.end()
        check_runs(tab.events)
        assert of_runs(tab, "agent_completed") == [("agent_completed", "child 0"), ("agent_completed", "run 0")]
        assert [frame["request_id"] for frame in tab.socket.of_type("ack")] == ["q"]
