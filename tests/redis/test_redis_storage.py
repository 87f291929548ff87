"""What stands in Redis: how much it takes, what others may do to it, and that nothing there is trusted."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import struct
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis as RedisClient

from tests.redis.marks import NEEDS_REDIS
from tests.redis.server import RedisServer
from tests.support import Tab, a_manager, until
from websocket_core.control import CONTROL
from websocket_core.errors import LogUnavailable
from websocket_core.events import Event
from websocket_core.identity import LogName, UserId
from websocket_core.limits import Limits, Retention
from websocket_core.log import Entry, GapReason, Position
from websocket_core.logs.redis import RedisLog
from websocket_core.logs.redis.names import Names, Namespace
from websocket_core.logs.redis.packing import published_entry, stored_entry
from websocket_core.metrics import Metrics

pytestmark = NEEDS_REDIS

Redis = Any  # its annotations mix what it answers now with what it would answer in a pipeline, or as text
ALICE = LogName("user", "alice")
_numbers = itertools.count()


@pytest.fixture
def redis(server: RedisServer) -> Iterator[Redis]:
    client = RedisClient.from_url(server.url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def namespace() -> str:
    return f"storage{os.getpid()}.{next(_numbers)}"


@pytest.fixture
def names(namespace: str) -> Names:
    return Namespace(namespace).of_log(ALICE)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def log(server: RedisServer, namespace: str, metrics: Metrics) -> AsyncIterator[RedisLog]:
    log = RedisLog(server.url, namespace=namespace, metrics=metrics)
    yield log
    await log.close()


def known(epoch: str, mark: str, head: float, held: float = 0) -> bytes:
    """What is known of a log, as it is stored: beside this, the oldest entry, and when it is looked at again."""
    return struct.pack(">8s8sddddd", epoch.encode(), mark.encode(), head, held, 1, 0, 0)


def an_event(name: str, size: int = 20) -> Event:
    return Event(name, b'{"type":"t","data":{"text":"%b"},"id":"%b"' % (b"x" * size, name.encode()))


async def append(log: RedisLog, *names: str, to: LogName = ALICE) -> list[Position]:
    return [await log.append(to, an_event(name)) for name in names]


async def all_of(log: RedisLog, after: Position | None = None, of: LogName = ALICE) -> tuple[list[str], object]:
    """The ids of all that follows, and the reason of the gap before it."""
    batch = await log.read(of, after, 1_000)
    assert not batch.more
    return [entry.event.id for entry in batch.entries], batch.gap


# -- how much it takes


async def test_a_hundred_events_of_300_bytes_take_less_than_48_kib_of_each_user(log: RedisLog, redis: Redis) -> None:
    await log.append(LogName("user", "first"), an_event("first"))
    before = redis.info("memory")["used_memory"]
    users, events = 200, 100

    async def fill(number: int) -> None:
        for each in range(events):
            await log.append(LogName("user", f"user-{number}"), an_event(f"A1b2C3d4E5f6-{each:x}", 270))

    await asyncio.gather(*[fill(number) for number in range(users)])
    each = (redis.info("memory")["used_memory"] - before) / users
    assert each < 48 * 1024, f"{each / 1024:.1f} KiB"


async def test_a_log_takes_three_keys_however_long_it_is(log: RedisLog, redis: Redis, namespace: str) -> None:
    await append(log, *[f"e{number}" for number in range(300)])
    assert len(redis.keys(f"{namespace}:1:{{*")) == 3


async def test_an_append_asks_no_more_of_redis_when_the_log_is_full(
    server: RedisServer, namespace: str, redis: Redis
) -> None:
    """Complexity gates: a few commands for each append, whether the log is short, long, or trimmed at each append."""
    log = RedisLog(server.url, Retention(events=500), namespace=namespace)
    try:

        async def commands_for(first: int, count: int) -> float:
            redis.config_resetstat()
            await append(log, *[f"e{number}" for number in range(first, first + count)])
            stats = redis.info("commandstats")
            return (
                sum(
                    float(stats[f"cmdstat_{name}"]["calls"])
                    for name in (
                        "hget",
                        "hset",
                        "hsetnx",
                        "hlen",
                        "hdel",
                        "xadd",
                        "xrange",
                        "xdel",
                        "publish",
                        "pexpire",
                    )
                    if f"cmdstat_{name}" in stats
                )
                / count
            )

        await commands_for(0, 10)
        assert await commands_for(10, 100) < 6.5
        assert await commands_for(110, 380) < 6.5
        assert await commands_for(490, 300) < 9.0
    finally:
        await log.close()


async def test_what_has_expired_leaves_nothing_but_the_head(
    server: RedisServer, namespace: str, redis: Redis, names: Names
) -> None:
    log = RedisLog(server.url, Retention(age=0.2), namespace=namespace)
    try:
        head = (await append(log, "e1", "e2", "e3"))[-1]
        await until(lambda: not redis.exists(names.entries, names.ids), "what was retained expires")
        assert await all_of(log, head) == ([], None), "the head is honoured"
        assert redis.ttl(names.meta) > 29 * 86_400
        assert (await log.append(ALICE, an_event("e4"))).offset == 4
        assert await all_of(log, head) == (["e4"], None)
        assert redis.hlen(names.ids) == redis.xlen(names.entries) == 1
        assert redis.pttl(names.entries) > 0
        assert redis.pttl(names.ids) > 0
    finally:
        await log.close()


async def test_every_key_of_a_log_that_is_used_again_and_again_expires_in_the_end(
    server: RedisServer, namespace: str, redis: Redis, names: Names
) -> None:
    log = RedisLog(server.url, Retention(age=30.0), namespace=namespace)
    try:
        for _ in range(3):
            await append(log, "e1", "e2")
            redis.delete(names.ids)
            await append(log, *[f"f{number}" for number in range(70)])
        assert 30.0 <= redis.pttl(names.entries) / 1000 + 1 <= 36.0
        assert 30.0 <= redis.pttl(names.ids) / 1000 + 1 <= 36.0
    finally:
        await log.close()


# -- what others do to it


async def test_a_lost_memory_of_ids_is_made_anew_from_the_entries(log: RedisLog, redis: Redis, names: Names) -> None:
    """Redis may throw away any key when it is told to evict."""
    await append(log, *[f"e{number}" for number in range(1, 64)])
    redis.delete(names.ids)
    assert (await append(log, "e5"))[0].offset == 5, "an append that is tried again is known"
    await append(log, "e64")
    assert redis.hlen(names.ids) == 64
    assert (await all_of(log))[0] == [f"e{number}" for number in range(1, 65)]


async def test_lost_entries_are_told_as_a_gap(log: RedisLog, redis: Redis, names: Names) -> None:
    seen, _, _ = await append(log, "e1", "e2", "e3")
    redis.delete(names.entries)
    assert await all_of(log, seen) == ([], GapReason.TRIMMED)
    await append(log, "e4")
    assert await all_of(log, seen) == (["e4"], GapReason.TRIMMED)


async def test_a_lost_head_is_another_life(log: RedisLog, redis: Redis, names: Names) -> None:
    seen, _ = await append(log, "e1", "e2")
    redis.delete(names.meta)
    again = (await append(log, "e2"))[0]
    assert (again.offset, again.epoch == seen.epoch) == (1, False)
    assert await all_of(log, seen) == (["e2"], GapReason.NEW_EPOCH)


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"nonsense",
        b"\xff\xfe",
        b"x" * 56,
        b"\xff" * 56,
        known("epoch 89", "markmark", 2),
        known("epoch-89", "a mark 8", 2),
        known("epoch-89", "markmark", 2.5),
        known("epoch-89", "markmark", math.nan),
        known("epoch-89", "markmark", math.inf),
        known("epoch-89", "markmark", 2) + b"x",
    ],
)
async def test_a_head_that_is_none_of_ours_is_another_life(
    log: RedisLog, redis: Redis, names: Names, state: bytes
) -> None:
    seen, _ = await append(log, "e1", "e2")
    redis.hset(names.meta, "s", state)
    await append(log, "e3")
    ids, gap = await all_of(log, seen)
    assert (ids, gap) == (["e3"], GapReason.NEW_EPOCH)


async def test_what_somebody_else_put_into_the_stream_is_counted_and_passed_over(
    log: RedisLog, redis: Redis, names: Names, metrics: Metrics
) -> None:
    seen = (await append(log, "e1", "e2"))[0]
    redis.xadd(names.entries, {"d": b"\x80\x04\x95pickled"}, id="2-1")
    redis.xadd(names.entries, {"other": "field"}, id="2-2")
    await append(log, "e3")
    assert await all_of(log, seen) == (["e2", "e3"], None)
    assert metrics.foreign_entries == 2


async def test_more_of_it_than_one_read_takes_stops_nobody(log: RedisLog, redis: Redis, names: Names) -> None:
    seen = (await append(log, "e1"))[0]
    for number in range(50):
        redis.xadd(names.entries, {"d": "x"}, id=f"1-{number + 1}")
    await append(log, "e2")
    batch = await log.read(ALICE, seen, 10)
    assert [entry.event.id for entry in batch.entries] == ["e2"]


async def test_a_stream_that_somebody_else_has_numbered_is_another_life(
    log: RedisLog, redis: Redis, names: Names
) -> None:
    """Redis takes only ids that are higher, so nothing could ever be appended again."""
    seen = (await append(log, "e1"))[0]
    redis.xadd(names.entries, {"d": "x"})
    position = (await append(log, "e2"))[0]
    assert (position.offset, position.epoch == seen.epoch) == (1, False)
    assert await all_of(log, seen) == (["e2"], GapReason.NEW_EPOCH)
    assert (await append(log, "e3"))[0].offset == 2


async def test_an_entry_of_100_mb_is_counted_and_passed_over_and_what_follows_is_a_gap(
    server: RedisServer, namespace: str, redis: Redis, names: Names, metrics: Metrics
) -> None:
    log = RedisLog(server.url, namespace=namespace, metrics=metrics, timeout=20.0)  # of Redis, to look at all of it
    try:
        seen = (await append(log, "e1"))[0]
        large = b"largemrk\x1f%b\x1f9999999999999\x1fe2\x1f\x1f\x1falice\n" % seen.mark.encode() + b"x" * 104_857_600
        redis.xadd(names.entries, {"d": large}, id="2-0")
        redis.hset(names.meta, "s", known(seen.epoch, "largemrk", 2, 40))
        assert (await all_of(log, seen)) == ([], None)
        assert metrics.foreign_entries == 1
        await append(log, "e3")
        entry = (await log.read(ALICE, seen, 10)).entries[0]
        assert (entry.event.id, entry.prev) == ("e3", "largemrk"), "whoever reads on finds that it does not join"
    finally:
        await log.close()


async def test_the_owner_of_an_entry_is_the_one_that_is_stored(
    log: RedisLog, redis: Redis, names: Names, namespace: str
) -> None:
    """Whoever copies an entry into another log is found out by whoever reads it there."""
    await append(log, "e1", to=LogName("user", "bob"))
    of_bob = Namespace(namespace).of_log(LogName("user", "bob"))
    await log.open(ALICE)
    redis.copy(of_bob.entries, names.entries, replace=True)
    redis.hset(names.meta, "s", redis.hget(of_bob.meta, "s"))
    batch = await log.read(ALICE, None, 10)
    assert [entry.log for entry in batch.entries] == [LogName("user", "bob")]


async def test_an_entry_of_somebody_else_closes_the_connection_and_is_never_shown(
    server: RedisServer, redis: Redis, names: Names, namespace: str
) -> None:
    log = RedisLog(server.url, namespace=namespace)
    async with a_manager(log) as manager:
        tab = await Tab.open(manager, "alice")
        await tab.greeted()
        await manager.get_emitter("bob").emit("t", {"secret": "of bob"})
        of_bob = Namespace(namespace).of_log(LogName("user", "bob"))
        data = redis.xrange(of_bob.entries)[0][1][b"d"]
        epoch = str((await log.open(ALICE)).epoch)
        redis.publish(names.channel, epoch.encode() + b"\x1f1\x1f" + data)
        redis.xadd(names.entries, {"d": data}, id="1-0")
        redis.hset(names.meta, "s", known(epoch, "markmark", 1))
        await until(lambda: manager.metrics.isolation_violations == 1, "it is noticed")
        assert await tab.ended() == 1011
        assert not any("of bob" in str(frame) for frame in tab.socket.frames)
        manager.metrics.isolation_violations = 0


@pytest.mark.parametrize(
    "data",
    [
        b"", b"x", b"\xff" * 300, b"\x80\x04\x95\x10\x00", b"\x1f" * 8 + b"\nbody",
        b"ep\x1fone\x1fm\x1f\x1f1\x1fe1\x1f\x1f\x1falice\n{",
        b"ep\x1f" + b"9" * 5_000 + b"\x1fm\x1f\x1f1\x1fe1\x1f\x1f\x1falice\n{",
    ],
)  # fmt: skip
async def test_what_somebody_else_publishes_is_no_event(
    server: RedisServer, redis: Redis, names: Names, namespace: str, data: bytes
) -> None:
    log = RedisLog(server.url, namespace=namespace)
    async with a_manager(log) as manager:
        tab = await Tab.open(manager, "alice")
        await tab.greeted()
        await manager.get_emitter("alice").emit("t", {"n": 1})
        await tab.has(1)
        redis.publish(names.channel, data)
        await manager.get_emitter("alice").emit("t", {"n": 2})
        await tab.has(2)
        assert tab.numbers == [1, 2]


@pytest.mark.parametrize(
    "name",
    [
        "*",
        "alice*",
        "{alice}",
        "a}b{c",
        "alice:m",
        "alice\x7f",
        "\u00e9",
        "e\u0301",
        "ALICE",
        "x" * 250,
        "../alice",
        "\U0001f600",
    ],
)
async def test_a_user_id_is_never_a_pattern_a_key_or_a_hash_tag(
    log: RedisLog, redis: Redis, namespace: str, name: str
) -> None:
    theirs = LogName("user", name)
    await append(log, "mine")
    await append(log, "theirs", to=theirs)
    assert (await all_of(log))[0] == ["mine"]
    assert (await all_of(log, of=theirs))[0] == ["theirs"]
    for key in redis.keys(f"{namespace}:1:*"):
        tag = key.split(b"{", 1)[1].split(b"}", 1)[0]
        assert tag.replace(b"-", b"").replace(b"_", b"").isalnum()
    await log.forget(theirs)
    assert (await all_of(log))[0] == ["mine"]


async def test_what_is_forgotten_goes_at_once_and_altogether(log: RedisLog, redis: Redis, namespace: str) -> None:
    seen = (await append(log, "e1", "e2"))[0]
    topic = LogName("topic", "crawl:7")
    await append(log, "t1", to=topic)
    await log.forget(ALICE)
    await log.forget(topic)
    assert redis.keys(f"{namespace}:1:{{*") == []
    assert (await log.read(ALICE, seen, 10)).gap is GapReason.NEW_EPOCH


async def test_labels_come_back_as_they_were(log: RedisLog) -> None:
    body = b'{"type":"t","data":{"text":"a\\nb"},"id":"e"'
    events = [
        Event("e1", body), Event("e2", body, "tab", None), Event("e3", body, None, "t 1"), Event("e4", body, "=", ""),
        Event("e5", body + b"\n\x1f" * 20, CONTROL, "é"),
    ]  # fmt: skip
    for event in events:
        await log.append(ALICE, event)
    batch = await log.read(ALICE, None, 10)
    assert [entry.event for entry in batch.entries] == events
    last: Entry | None = await log.control(ALICE)
    assert last == batch.entries[-1]


async def test_two_formats_stand_side_by_side(redis: Redis, log: RedisLog, namespace: str) -> None:
    """Another release that stores otherwise uses other keys."""
    await append(log, "e1")
    assert all(key.startswith(f"{namespace}:1:".encode()) for key in redis.keys("*"))


def test_an_entry_may_be_larger_here_than_where_it_was_written() -> None:
    """Limits differ from process to process, during a deploy at least."""
    assert Limits().event_bytes * 2 < Limits().event_bytes + 1_048_576


async def test_what_was_denied_a_moment_before_redis_forgot_it_is_denied_again(tmp_path: Path, namespace: str) -> None:
    """As an event is appended again: a logout must not be undone by a failover."""
    server = RedisServer(tmp_path)
    log = RedisLog(server.url, namespace=namespace)
    try:
        state = log.state(per_user=10, clock=time.time)
        await state.deny(UserId("alice"), None, issued_until=time.time(), until=time.time() + 600.0)
        assert await state.denied(UserId("alice"), None, None)
        server.kill()
        server.start()

        async def denied() -> bool:
            try:
                return await state.denied(UserId("alice"), None, None)
            except LogUnavailable:
                return False

        deadline = time.monotonic() + 10.0
        while not await denied():
            assert time.monotonic() < deadline, "it is denied again"
            await asyncio.sleep(0.05)
    finally:
        await log.close()
        server.stop()


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ((), False),
        (("--maxmemory", "100mb"), False),
        (("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"), True),
        (("--maxmemory-policy", "allkeys-lru"), False),
    ],
)
async def test_a_redis_that_throws_keys_away_is_warned_of_once(
    tmp_path: Path, namespace: str, options: tuple[str, ...], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    server = RedisServer(tmp_path, *options)
    log = RedisLog(server.url, namespace=namespace)
    try:
        for _ in range(3):
            await log.check()
        assert [record.levelname for record in caplog.records if "throws keys away" in record.message] == (
            ["WARNING"] if warned else []
        )
    finally:
        await log.close()
        server.stop()


async def test_a_log_in_constant_use_does_not_expire(server: RedisServer, namespace: str) -> None:
    log = RedisLog(server.url, Retention(age=0.5), namespace=namespace)
    try:
        began = time.monotonic()
        appended: list[tuple[float, str]] = []
        while time.monotonic() - began < 1.5:
            appended.append((time.monotonic(), f"e{len(appended)}"))
            await append(log, appended[-1][1])
            young = [name for at, name in appended if time.monotonic() - at < 0.3]
            assert set(young) <= set((await all_of(log))[0])
            await asyncio.sleep(0.01)
    finally:
        await log.close()


async def test_foreign_entries_before_the_oldest_of_ours_are_passed_over(
    log: RedisLog, redis: Redis, names: Names
) -> None:
    await append(log, "e1")
    for number in range(50):
        redis.xadd(names.entries, {"d": "x"}, id=f"1-{number + 1}")
    await append(log, "e2")
    redis.xdel(names.entries, "1-0")
    batch = await log.read(ALICE, None, 10)
    assert [entry.event.id for entry in batch.entries] == ["e2"]


async def test_a_redis_that_takes_no_writes_is_away(tmp_path: Path, namespace: str) -> None:
    """It answers, and yet nothing can be appended."""
    server = RedisServer(tmp_path)
    log = RedisLog(server.url, namespace=namespace)
    client = RedisClient.from_url(server.url)
    try:
        await log.check()
        client.replicaof("127.0.0.1", 1)
        with pytest.raises(LogUnavailable):
            await log.check()
        client.replicaof("NO", "ONE")
        deadline = time.monotonic() + 10.0
        while True:
            try:
                await log.check()
                break
            except LogUnavailable:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
    finally:
        client.close()
        await log.close()
        server.stop()


def test_labels_that_a_later_release_adds_are_passed_over() -> None:
    stored = b"mark1234\x1fprev1234\x1f1795163507541\x1fe1\x1f=c1\x1f\x1falice\x1fanother\x1fand another\n{\x1f}\n"
    for entry in (
        stored_entry(ALICE, "epoch123", 7, stored, 0.0),
        published_entry(ALICE, b"epoch123\x1f7\x1f" + stored, 0.0),
    ):
        assert entry.log is ALICE
        assert entry.position == Position("epoch123", 7, "mark1234")
        assert (entry.prev, entry.event) == ("prev1234", Event("e1", b"{\x1f}\n", "c1", None))
    foreign = published_entry(LogName("user", "bob"), b"epoch123\x1f7\x1f" + stored, 0.0)
    assert foreign.log == ALICE
