"""Those who ask in the same turn of the loop share a call: in order, each with an answer of its own."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest
from redis import Redis as RedisClient

from tests.redis.fake import FakeRedis
from tests.redis.marks import NEEDS_REDIS
from tests.redis.server import RedisServer, binaries, redis_binary
from tests.support import until
from websocket_core.errors import LogUnavailable
from websocket_core.events import Event
from websocket_core.identity import LogName
from websocket_core.leases import LeasedEvent, LeaseLost
from websocket_core.log import Position
from websocket_core.logs.redis import RedisLog
from websocket_core.logs.redis.exchange import Exchange
from websocket_core.logs.redis.link import ReplyError, pack
from websocket_core.logs.redis.shares import Call, Share
from websocket_core.logs.redis.waiting import TOGETHER, TOGETHER_BYTES, Waiting

pytestmark = NEEDS_REDIS

SERVERS = {path: name for name, path in reversed(binaries().items()) if path is not None}
"""Each server of this machine once: they say in different ways what went wrong within a script."""
CALL = Call("d" * 40, ("fixed",), arguments=1)
_numbers = itertools.count()


@pytest.fixture(scope="module", params=SERVERS or [redis_binary()], ids=SERVERS.get)
def any_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    started = RedisServer(tmp_path_factory.mktemp("redis"), binary=request.param)
    yield started
    started.stop()


@pytest.fixture
async def log(any_server: RedisServer) -> AsyncIterator[RedisLog]:
    log = RedisLog(any_server.url, namespace=f"shares{os.getpid()}.{next(_numbers)}")
    await log.check()
    yield log
    await log.close()


@pytest.fixture
def redis(any_server: RedisServer) -> Iterator[Any]:
    client = RedisClient.from_url(any_server.url)
    client.config_resetstat()
    yield client
    client.close()


def of(user: str) -> LogName:
    return LogName("user", user)


def an_event(name: str, size: int = 20) -> Event:
    return Event(name, b'{"type":"t","data":{"text":"%b"},"id":"%b"' % (b"x" * size, name.encode()))


def an_event_of(lease_id: str, name: str) -> LeasedEvent:
    event: LeasedEvent = tuple.__new__(LeasedEvent, an_event(name))
    event.lease_id = lease_id
    return event


def calls(redis: Any) -> int:
    """How often a script was called."""
    return sum(redis.info("commandstats").get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval"))


def a_share(text: str, size: int = 0, call: Call = CALL) -> Share:
    argument = pack(text.ljust(size))[4:]
    return Share(call, 1, pack(f"key-{text}")[4:], argument)


def texts(call: bytes) -> list[str]:
    """Whose shares a call holds, and that its numbers are right."""
    words = [word.decode() for word in re.findall(rb"\$\d+\r\n([^\r]*)\r\n", call)]
    assert call.startswith(b"*%d\r\n" % len(words))
    count = int(words[2])
    keys, fixed, arguments = words[3 : 3 + count], words[3 + count], words[4 + count :]
    assert (words[:2], fixed) == (["EVALSHA", "d" * 40], "fixed")
    assert keys == [f"key-{argument.strip()}" for argument in arguments]
    return [argument.strip() for argument in arguments]


def round_trips(waiting: Waiting) -> list[list[str | list[str]]]:
    """What goes in each, until nobody is left: commands, and those who share a call."""
    trips: list[list[str | list[str]]] = []
    while waiting.queue:
        trips.append([texts(call) if call.startswith(b"*") else call.decode() for call in waiting.depart()])
        waiting.flight.clear()
    return trips


# -- on a real Redis


async def test_appends_of_one_turn_share_calls_and_keep_their_order(log: RedisLog, redis: Any) -> None:
    users = [f"user-{number}" for number in range(16)]
    appends = [log.append(of(user), an_event(f"{user}.{number}")) for number in range(20) for user in users]
    positions = await asyncio.gather(*appends)
    assert calls(redis) <= len(appends) / 32
    assert [position.offset for position in positions] == [number // 16 + 1 for number in range(320)]
    for user in users:
        batch = await log.read(of(user), None, 100)
        assert [entry.event.id for entry in batch.entries] == [f"{user}.{number}" for number in range(20)]
        assert [entry.prev for entry in batch.entries[1:]] == [entry.mark for entry in batch.entries[:-1]]


async def test_one_whose_log_is_broken_fails_alone(log: RedisLog, redis: Any) -> None:
    names = log._names.of_log(of("bob"))
    redis.set(names.meta, "of another type")
    users = ["alice", "bob", "carol"] * 5
    appends = [log.append(of(user), an_event(f"{number}")) for number, user in enumerate(users)]
    outcomes = await asyncio.gather(*appends, return_exceptions=True)
    assert calls(redis) == 1
    for user, outcome in zip(users, outcomes, strict=True):
        if user == "bob":
            assert isinstance(outcome, LogUnavailable)
            assert str(outcome) == "Redis refused a command: WRONGTYPE"
    assert [outcome.offset for outcome in outcomes if isinstance(outcome, Position)] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


async def test_one_whose_run_has_been_ended_fails_alone(log: RedisLog, redis: Any) -> None:
    redis.sadd(log._names.of_user("bob", "x"), "lost")
    events = {
        "before": an_event("before"),
        "lost": an_event_of("lost", "e1"),
        "between": an_event("between"),
        "alive": an_event_of("alive", "e2"),
        "after": an_event("after"),
    }
    appends = [log.append(of("bob"), event) for event in events.values()]
    outcomes = dict(zip(events, await asyncio.gather(*appends, return_exceptions=True), strict=True))
    assert calls(redis) == 1
    assert isinstance(outcomes.pop("lost"), LeaseLost)
    assert [outcome.offset for outcome in outcomes.values() if isinstance(outcome, Position)] == [1, 2, 3, 4]
    kept = [entry.event.id for entry in (await log.read(of("bob"), None, 100)).entries]
    assert kept == ["before", "between", "e2", "after"]


async def test_an_id_that_comes_twice_in_one_call_is_one_event(log: RedisLog, redis: Any) -> None:
    appends = [log.append(of("alice"), an_event(name)) for name in ("e1", "e2", "e1", "e2")]
    positions = await asyncio.gather(*appends)
    assert calls(redis) == 1
    assert positions[:2] == positions[2:]
    assert [entry.event.id for entry in (await log.read(of("alice"), None, 100)).entries] == ["e1", "e2"]


async def test_an_append_after_forgetting_is_not_called_before_it(log: RedisLog) -> None:
    first = log.append(of("alice"), an_event("e1"))
    forgotten = log.forget(of("alice"))
    last = log.append(of("alice"), an_event("e2"))
    one, _, two = await asyncio.gather(first, forgotten, last)
    assert (one.offset, two.offset, one.epoch == two.epoch) == (1, 1, False)
    assert [entry.event.id for entry in (await log.read(of("alice"), None, 100)).entries] == ["e2"]


async def test_a_refusal_within_a_call_that_is_sent_again_is_found() -> None:
    async with FakeRedis() as fake:
        again = CALL.of([a_share("again")])
        exchange = Exchange(fake.url, timeout=1.0, replay=lambda: [again])
        await exchange.submit("PING")
        fake.about = fake.about.replace(b"one", b"another")
        fake.says = lambda command: (
            b"*1\r\n-READONLY no\r\n" if command[0] == b"EVALSHA" and len(fake.opened) == 2 else None
        )
        fake.scripts.add(b"d" * 40)
        fake.cut()
        await until(lambda: exchange._link is None, "the end of the connection")
        for _ in range(1_000):
            try:
                assert await exchange.submit("ECHO", "last") == b"last"
                break
            except LogUnavailable:
                await asyncio.sleep(0.005)
        assert fake.executed == [b"again"]
        assert len(fake.opened) == 3, "whoever takes no writes was left"
        await exchange.close()


# -- who waits


async def test_a_call_is_shared_by_so_many_and_no_more() -> None:
    waiting = Waiting()
    for number in range(TOGETHER + 5):
        waiting.ask(a_share(f"{number}"))
    (call,) = waiting.depart()
    assert texts(call) == [f"{number}" for number in range(TOGETHER)]
    assert len(waiting.queue) == 5


async def test_a_large_share_has_no_more_than_little_company() -> None:
    waiting = Waiting()
    for number in range(6):
        waiting.ask(a_share(f"{number}", size=TOGETHER_BYTES // 2))
    assert round_trips(waiting) == [[["0", "1"]], [["2", "3"]], [["4", "5"]]]


async def test_a_command_between_two_shares_stays_between_them() -> None:
    waiting = Waiting()
    other = Call("d" * 40, ("fixed",), arguments=1)
    for what in (a_share("1"), a_share("2"), b"between", a_share("3"), a_share("4", call=other), a_share("5")):
        waiting.ask(what)
    waiting.ask(b"at the end")
    assert round_trips(waiting) == [[["1", "2"]], ["between", ["3"]], [["4"]], [["5"]], ["at the end"]]


async def test_no_call_follows_another_before_its_answer_is_there() -> None:
    """Redis might have the script for one that comes later only, and the order of a log would change."""
    waiting = Waiting()
    for what in (b"1", b"2", a_share("3"), b"4"):
        waiting.ask(what)
    assert round_trips(waiting) == [["1", "2", ["3"]], ["4"]]


async def test_whoever_has_gone_has_no_share() -> None:
    waiting = Waiting()
    answers = [waiting.ask(a_share(f"{number}")) for number in range(4)]
    answers[0].cancel()
    answers[2].cancel()
    (call,) = waiting.depart()
    assert texts(call) == ["1", "3"]
    assert waiting.settle([[b"one", b"three"]]) == []
    assert (answers[1].result(), answers[3].result()) == (b"one", b"three")


@pytest.mark.parametrize(
    ("replies", "given"),
    [([[b"one"]], 1), ([[b"one", b"two", b"three"]], 2), ([b"one"], 0), ([None], 0), ([[b"one", b"two"], b"more"], 0)],
)
async def test_an_answer_of_another_shape_is_trusted_no_further(replies: Sequence[Any], given: int) -> None:
    waiting = Waiting()
    answers = [waiting.ask(a_share("1")), waiting.ask(a_share("2"))]
    waiting.depart()
    with pytest.raises(ValueError, match=r"answer|zip"):
        waiting.settle(replies)
    waiting.fail_sent("Redis did not answer", queued=False)
    outcomes = await asyncio.gather(*answers, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [bytes] * given + [LogUnavailable] * (2 - given)


async def test_a_call_that_is_refused_is_refused_to_all_who_share_it() -> None:
    waiting = Waiting()
    answers = [waiting.ask(what) for what in (b"another", a_share("1"), a_share("2"))]
    waiting.depart()
    refusals = waiting.settle([b"answer", ReplyError("NOPERM no")])
    assert [(refusal.answer, refusal.word) for refusal in refusals] == [(answers[1], "NOPERM"), (answers[2], "NOPERM")]
    assert answers[0].result() == b"answer"


async def test_a_command_that_is_refused_is_refused_to_nobody_else() -> None:
    waiting = Waiting()
    answers = [waiting.ask(b"%d" % number) for number in range(3)]
    waiting.depart()
    refusals = waiting.settle([b"one", ReplyError("WRONGTYPE no"), b"three"])
    assert [(refusal.answer, refusal.word) for refusal in refusals] == [(answers[1], "WRONGTYPE")]
    assert (answers[0].result(), answers[2].result()) == (b"one", b"three")


async def test_those_whose_script_was_not_there_are_asked_again_before_who_came_after() -> None:
    waiting = Waiting()
    for text in ("1", "2"):
        waiting.ask(a_share(text))
    waiting.depart()
    waiting.ask(a_share("3"))
    assert waiting.settle([ReplyError("NOSCRIPT no")]) == []
    assert waiting.lacks_scripts
    waiting.ask_again()
    assert [texts(call) for call in waiting.depart()] == [["1", "2", "3"]]
