"""What is published reaches who follows it, and a subscriber that hears nothing is replaced without help."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.redis.marks import NEEDS_REDIS
from tests.redis.proxy import Proxy
from tests.redis.server import RedisServer
from tests.support import Tab, a_manager, turns, until, virtual_time
from websocket_core.errors import LogUnavailable
from websocket_core.events import Event
from websocket_core.identity import LogName
from websocket_core.limits import Limits
from websocket_core.log import Entry
from websocket_core.logs.redis import RedisLog
from websocket_core.logs.redis import feed as feed_module
from websocket_core.logs.redis.exchange import Exchange, end_task
from websocket_core.logs.redis.feed import COPIES, COPIES_BYTES, Feed, Hub
from websocket_core.logs.redis.names import Namespace
from websocket_core.metrics import Metrics

pytestmark = NEEDS_REDIS

ALICE = LogName("user", "alice")

_numbers = itertools.count()


@pytest.fixture
def namespace() -> str:
    return f"feed{os.getpid()}.{next(_numbers)}"


async def tell(server: RedisServer, *command: Any) -> Any:
    client: Redis = Redis.from_url(server.url)
    try:
        return await client.execute_command(*command)  # type: ignore[no-untyped-call]
    finally:
        await client.aclose()


def an_event(number: int, text: str = "") -> Event:
    return Event(f"e{number}", f'{{"type":"t","data":{{"n":{number},"text":"{text}"}},"id":"e{number}"'.encode())


async def channels(server: RedisServer, namespace: str) -> list[bytes]:
    """What is subscribed to, without the probe."""
    found: list[bytes] = await tell(server, "PUBSUB", "CHANNELS", f"{namespace}:*")
    return sorted(channel for channel in found if b":process:" not in channel)


async def until_it_says(ask: Callable[[], Awaitable[Any]], condition: Callable[[Any], bool]) -> None:
    """Ask again and again until the answer is right."""
    async with asyncio.timeout(5.0):
        while not condition(await ask()):  # noqa: ASYNC110 - Redis tells nobody
            await asyncio.sleep(0.01)


class Follower:
    """Follows a log as a connection does: reads after each wake-up."""

    def __init__(self, log: RedisLog, name: LogName = ALICE) -> None:
        self.log = log
        self.name = name
        self.entries: list[Entry] = []
        self.woken = asyncio.Event()
        self.woken.set()
        self.stop = log.watch(name, self.woken.set)
        self.task = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        after = None
        while True:
            await self.woken.wait()
            self.woken.clear()
            more = True
            while more:
                try:
                    batch = await self.log.read(self.name, after, 100)
                except LogUnavailable:
                    asyncio.get_running_loop().call_later(0.05, self.woken.set)
                    break
                assert batch.gap is None
                self.entries += batch.entries
                more = batch.more
                if batch.entries:
                    after = batch.entries[-1].position

    @property
    def ids(self) -> list[str]:
        return [entry.event.id for entry in self.entries]

    async def has(self, ids: list[str], seconds: float = 5.0) -> None:
        await until(lambda: len(self.ids) >= len(ids) or self.task.done(), f"reading {len(ids)} entries", seconds)
        assert self.ids == ids

    async def end(self) -> None:
        self.stop()
        self.task.cancel()
        await asyncio.wait([self.task])


async def heard(log: RedisLog) -> None:
    """Wait until the subscriber has heard its probe."""
    await until(lambda: log._feed is not None and log._feed._heard_at > 0.0, "the probe")


def subscribers(proxy: Proxy) -> int:
    """How many connections asked for a subscription so far."""
    return sum(link.subscriber for link in proxy.links)


async def test_a_deaf_subscriber_is_replaced_within_eight_seconds_without_help(
    server: RedisServer, namespace: str
) -> None:
    metrics = Metrics()
    writer = RedisLog(server.url, namespace=namespace)
    async with Proxy(server.port) as proxy:
        log = RedisLog(proxy.url, namespace=namespace, metrics=metrics)
        follower = Follower(log)
        await heard(log)
        await writer.append(ALICE, an_event(1))
        await follower.has(["e1"])
        proxy.deaf = True
        deaf_since = time.monotonic()
        await writer.append(ALICE, an_event(2))
        await until(lambda: subscribers(proxy) == 2, "noticing", 8.0)
        assert metrics.feed_replacements == 0, "the replacement hears nothing yet"
        proxy.cut()
        proxy.deaf = False
        await follower.has(["e1", "e2"], 8.0 - (time.monotonic() - deaf_since))
        await until(lambda: metrics.feed_replacements == 1, "counting")
        await writer.append(ALICE, an_event(3))
        await follower.has(["e1", "e2", "e3"])
        await follower.end()
        await log.close()
    await writer.close()


@pytest.mark.parametrize("how", ["kill", "cut", "half-close", "output buffer"])
async def test_a_subscriber_that_is_cut_off_misses_nothing(server: RedisServer, namespace: str, how: str) -> None:
    metrics = Metrics()
    writer = RedisLog(server.url, namespace=namespace)
    async with Proxy(server.port) as proxy:
        log = RedisLog(proxy.url, namespace=namespace, metrics=metrics)
        follower = Follower(log)
        await heard(log)
        expected: list[str] = []
        for number in range(1, 61):
            if number % 20 == 0:
                times = metrics.feed_replacements
                match how:
                    case "kill":
                        await tell(server, "CLIENT", "KILL", "TYPE", "pubsub")
                    case "cut":
                        next(link for link in reversed(proxy.links) if link.subscriber).close()
                    case "half-close":
                        proxy.half_close(towards_client=True)
                    case "output buffer":
                        await tell(server, "CONFIG", "SET", "client-output-buffer-limit", "pubsub 1kb 0 0")
                        await writer.append(ALICE, an_event(1_000 + number, "x" * 100_000))
                        expected.append(f"e{1_000 + number}")
                        await tell(server, "CONFIG", "SET", "client-output-buffer-limit", "pubsub 32mb 8mb 60")
            await writer.append(ALICE, an_event(number))
            expected.append(f"e{number}")
            if number % 20 == 0:
                await until(lambda: metrics.feed_replacements == times + 1, "replacing")  # noqa: B023
                await heard(log)
        await follower.has(expected)
        await follower.end()
        await log.close()
    await writer.close()


async def test_a_push_that_is_lost_costs_at_most_a_heartbeat(server: RedisServer, namespace: str) -> None:
    emitting = a_manager(RedisLog(server.url, namespace=namespace))
    async with Proxy(server.port) as proxy, emitting:
        log = RedisLog(proxy.url, namespace=namespace)
        async with a_manager(log, limits=Limits(heartbeat=0.4, sweep_interval=0.05)) as manager:
            tab = await Tab.open(manager, "alice", v1=True)
            await tab.greeted()
            await heard(log)
            emitter = emitting.get_emitter("alice")
            await emitter.emit("t", {"n": 1})
            await tab.has(1)
            proxy.swallowed = b'"n":2'
            await emitter.emit("t", {"n": 2})
            await until(lambda: proxy.lost == 1, "losing the push")
            await tab.has(2, 0.8)
            proxy.swallowed = b'"n":3'
            await emitter.emit("t", {"n": 3})
            await emitter.emit("t", {"n": 4})  # shows at once that one is missing
            await tab.has(4)
            assert tab.numbers == [1, 2, 3, 4]
            assert tab.socket.of_type("gap") == []


async def test_nobody_waits_for_a_push_that_came_before_the_subscription(server: RedisServer, namespace: str) -> None:
    """What is appended between the first read and the subscription is found when the subscription is confirmed."""
    writer = RedisLog(server.url, namespace=namespace)
    async with Proxy(server.port) as proxy:
        log = RedisLog(proxy.url, namespace=namespace)
        await log.open(ALICE)
        proxy.hold(b"SUBSCRIBE")
        follower = Follower(log)
        await until(lambda: proxy.holds, "the subscription")
        await until(lambda: not follower.woken.is_set(), "the first read")
        await turns()
        await writer.append(ALICE, an_event(1))
        assert follower.ids == []
        await proxy.release()
        await follower.has(["e1"])
        await follower.end()
        await log.close()
    await writer.close()


async def test_two_thousand_users_who_come_and_go_leave_nothing(
    server: RedisServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RedisLog(server.url, namespace=namespace)
    writer = RedisLog(server.url, namespace=namespace)
    rng = random.Random(7)
    names = [LogName("user", f"user-{number}") for number in range(2_000)]
    woken = dict.fromkeys(names, 0)

    def waking(name: LogName) -> Callable[[], None]:
        def wake() -> None:
            woken[name] += 1

        return wake

    held: list[tuple[LogName, Callable[[], None]]] = []
    started = time.process_time()
    for name in names:
        held.append((name, log.watch(name, waking(name))))
    for step in range(4_000):
        index = rng.randrange(len(held))
        name, leave = held[index]
        leave()
        held[index] = (name, log.watch(name, waking(name)))
        if step % 500 == 0:
            await asyncio.sleep(0)
    feed = log._feed
    assert feed is not None
    monkeypatch.setattr(feed_module, "LINGER_SECONDS", 0.5)

    async def subscribed(count: int) -> None:
        await until_it_says(lambda: channels(server, namespace), lambda found: len(found) == count)

    await subscribed(2_000)
    print(f"2,000 subscriptions and 4,000 changes: {time.process_time() - started:.2f} s of CPU")
    await until(lambda: not feed._changed, "carrying out what was asked for")
    for name in names[::100]:
        before = woken[name]
        await writer.append(name, an_event(1))
        await until(lambda: woken[name] > before, "a wake-up of somebody who came and went")  # noqa: B023
    for _, leave in held:
        leave()
        leave()  # to leave twice is nothing
    await subscribed(0)
    assert (feed._hubs, feed._hub_of, feed._lingering, feed._changed) == ({}, {}, {}, {})
    await log.close()
    await writer.close()


async def test_whoever_leaves_takes_nobody_along(server: RedisServer, namespace: str) -> None:
    log = RedisLog(server.url, namespace=namespace)
    one, other = Follower(log), Follower(log)
    await heard(log)
    await one.end()
    await log.append(ALICE, an_event(1))
    await other.has(["e1"])
    await other.end()
    await log.close()


@pytest.mark.parametrize("state", ["idle", "working", "frozen"])
async def test_closing_leaves_neither_tasks_nor_connections(tmp_path: Path, namespace: str, state: str) -> None:
    server = RedisServer(tmp_path)
    try:
        log = RedisLog(server.url, namespace=namespace)
        before = asyncio.all_tasks()
        followers = [Follower(log, LogName("user", f"u{number}")) for number in range(5)]
        await heard(log)
        await asyncio.gather(*[log.append(each.name, an_event(1)) for each in followers])
        for each in followers:
            await each.has(["e1"])
        calls = []
        if state == "frozen":
            server.signal(signal.SIGSTOP)
        if state != "idle":
            calls = [asyncio.ensure_future(log.append(ALICE, an_event(number))) for number in range(300)]
            await turns(5)
        for each in followers:
            await each.end()
        async with asyncio.timeout(2.0):
            await log.close()
            await asyncio.gather(*calls, return_exceptions=True)
        await turns()
        assert asyncio.all_tasks() == before
        if state == "frozen":
            server.signal(signal.SIGCONT)
        await until_it_says(lambda: tell(server, "CLIENT", "LIST"), lambda found: found.count(b"id=") == 1)
    finally:
        server.stop()


async def test_what_is_no_entry_is_no_entry(
    server: RedisServer, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Foreign bytes on a channel wake whoever follows it, who reads the log and finds what is there."""
    log = RedisLog(server.url, namespace=namespace)
    follower = Follower(log)
    await heard(log)
    await log.append(ALICE, an_event(1))
    await follower.has(["e1"])
    channel = Namespace(namespace).of_log(ALICE).channel
    epoch = follower.entries[0].epoch
    for data in (
        b"", b"\n", b"\xff", b"x" * 100_000, b"\n" * 9,
        b"\n".join([epoch.encode(), b"two", *[b""] * 7, b"alice", b"{"]),
        b"\n".join([epoch.encode(), b"2", b"m", b"p", b"9" * 400, b"e", b"", b"", b"alice", b"{"]),
        b"\n".join([epoch.encode(), b"2", b"m", b"\xff", b"0", b"e", b"", b"", b"alice", b"{"]),
        b"\n".join([epoch.encode(), b"2", b"m", b"p", b"nan", b"e", b"", b"", b"alice", b"{"]),
        b"\n".join([epoch.encode(), b"2", b"m", b"p", b"1e999", b"e", b"", b"", b"alice", b"{"]),
    ):  # fmt: skip
        await tell(server, "PUBLISH", channel, data)
    await log.append(ALICE, an_event(2))
    await follower.has(["e1", "e2"])
    assert "replaced" not in caplog.text, "foreign bytes ended the subscriber"
    await follower.end()
    await log.close()


async def test_a_subscriber_that_crashes_is_replaced(
    server: RedisServer, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it is that goes wrong: one that dies for good leaves everybody waiting, silently."""
    exchange = Exchange(server.url, timeout=1.0)
    names = Namespace(namespace)
    crashes: list[None] = []

    def entry(_log: LogName, _data: bytes) -> Entry:
        crashes.append(None)
        raise RuntimeError("told to crash")

    feed = Feed(
        server.url, names, exchange, timeout=1.0, entry=entry, probe="p", healed=lambda: None,
        rng=random.Random(1), monotonic=time.monotonic,
    )  # fmt: skip
    woken: list[None] = []
    leave = feed.follow(ALICE, lambda: woken.append(None))
    writer = RedisLog(server.url, namespace=namespace)
    for number in (1, 2):
        before = len(woken)
        await until(lambda: len(woken) > before, "the subscription")  # noqa: B023
        await writer.append(ALICE, an_event(number))
        await until(lambda: len(crashes) == number, "the crash")  # noqa: B023
    assert "crashed and is replaced" in caplog.text
    leave()
    await feed.close()
    await exchange.close()
    await writer.close()


def chained(*marks: str, epoch: str = "E", first: int = 1) -> list[Entry]:
    """Entries that join."""
    prev = ""
    out = []
    for offset, mark in enumerate(marks, first):
        out.append(Entry(ALICE, epoch, offset, mark, prev, an_event(offset), 0.0))
        prev = mark
    return out


def test_copies_are_given_only_to_who_stands_where_they_join() -> None:
    hub = Hub(ALICE)
    one, two, three = chained("a", "b", "c")
    for entry in (one, two, three):
        hub.take(entry)
    given = hub.after(one.position, 10, 10**6)
    assert given is not None
    assert (given.entries, given.more, given.gap) == ([two, three], False, None)
    limited = hub.after(one.position, 1, 10**6)
    assert limited is not None
    assert (limited.entries, limited.more) == ([two], True)
    small = hub.after(one.position, 10, 1)
    assert small is not None
    assert (small.entries, small.more) == ([two], True)
    for position in (
        three.position,  # nothing follows: whether that is still so, the log knows
        one.position._replace(mark="other"),
        one.position._replace(epoch="F"),
        one.position._replace(offset=9),
        one.position._replace(offset=-1),
    ):
        assert hub.after(position, 10, 10**6) is None, position


def test_a_push_that_does_not_join_drops_the_copies_before_it() -> None:
    one, two, three = chained("a", "b", "c")
    [forked] = chained("z", first=2)
    for pushed, left in (
        ([one, three], [three]),
        ([one, two, two], [one, two]),
        ([one, two, forked], [forked]),
        ([one, two, forked._replace(epoch="F", offset=1)], [forked._replace(epoch="F", offset=1)]),
        ([one, two, None], []),
        ([one, None, three], [three]),
    ):
        hub = Hub(ALICE)
        woken: list[None] = []
        hub.watchers += (lambda woken=woken: woken.append(None),)  # type: ignore[misc]
        for entry in pushed:
            hub.take(entry)
        assert list(hub.copies) == left
        assert len(woken) == len(pushed)


@virtual_time
async def test_a_task_that_swallows_a_cancellation_is_cancelled_again() -> None:
    swallowed: list[int] = []

    async def stubborn() -> None:
        for number in range(3):
            try:
                await asyncio.sleep(1_000.0)
            except asyncio.CancelledError:
                swallowed.append(number)
        await asyncio.sleep(1_000.0)

    task = asyncio.ensure_future(stubborn())
    await asyncio.sleep(0)
    await end_task(task)
    assert task.cancelled()
    assert swallowed == [0, 1, 2]
    await end_task(task)


def test_copies_are_bounded_in_number_and_in_bytes() -> None:
    hub = Hub(ALICE)
    for entry in chained(*[f"m{number}" for number in range(2 * COPIES)]):
        hub.take(entry)
    assert [entry.offset for entry in hub.copies] == list(range(COPIES + 1, 2 * COPIES + 1))
    large = Hub(ALICE)
    for entry in chained(*[f"m{number}" for number in range(100)]):
        event = Event(entry.event.id, b"x" * (COPIES_BYTES // 10))
        large.take(entry._replace(event=event))
        assert sum(len(each.event.body) for each in large.copies) <= COPIES_BYTES
    assert large.copies[-1].offset == 100
    [huge] = chained("h", first=101)
    large.take(huge._replace(prev="m99", event=Event("h", b"x" * 10 * COPIES_BYTES)))
    assert [entry.offset for entry in large.copies] == [101], "one is kept, however large"


@asynccontextmanager
async def a_feed(url: str, namespace: str, **options: Any) -> AsyncIterator[Feed]:
    exchange = Exchange(url, timeout=1.0)
    settings: dict[str, Any] = {"entry": lambda log, data: None, "healed": lambda: None, "monotonic": time.monotonic}
    feed = Feed(url, Namespace(namespace), exchange, timeout=1.0, probe="p", rng=random.Random(1), **settings | options)
    try:
        yield feed
    finally:
        await feed.close()
        await exchange.close()


async def test_whoever_listens_hears_signals_to_this_process_and_when_some_may_have_been_missed(
    server: RedisServer, namespace: str
) -> None:
    async with Proxy(server.port) as proxy, a_feed(proxy.url, namespace) as feed:
        heard_: list[int] = []
        leave = feed.listen(lambda: heard_.append(1))
        await until(lambda: heard_ == [1], "the subscription")
        await until(lambda: feed._heard_at > 0.0, "the probe")
        assert heard_ == [1], "a probe is no signal"
        assert await tell(server, "PUBLISH", feed.channel, "look") == 1
        await until(lambda: heard_ == [1, 1], "the signal")
        next(link for link in reversed(proxy.links) if link.subscriber).close()
        await until(lambda: heard_ == [1, 1, 1], "the next subscription")
        leave()
        await tell(server, "PUBLISH", feed.channel, "look")
        await until(lambda: feed._heard_at > 0.0, "the probe")
        assert len(heard_) == 3


async def test_a_redis_that_is_away_for_long_is_one_replacement(tmp_path: Path, namespace: str) -> None:
    server = RedisServer(tmp_path)
    try:
        healed: list[None] = []
        async with a_feed(server.url, namespace, healed=lambda: healed.append(None)) as feed:
            feed.follow(ALICE, lambda: None)
            await until(lambda: feed._heard_at > 0.0, "the probe")
            for times in (1, 2):
                server.kill()
                await until(lambda: feed._rests.failures >= 3, "attempts")
                assert len(healed) == times - 1, "an attempt is no replacement"
                server.start()
                await until(lambda: len(healed) == times, "the replacement")  # noqa: B023
                await until(lambda: feed._rests.failures == 0, "that it stands")
            assert len(healed) == 2
    finally:
        server.stop()


async def test_who_comes_back_soon_finds_the_subscription_still_there(
    server: RedisServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "LINGERING", 3)
    parsed: list[bytes] = []
    async with (
        Proxy(server.port) as proxy,
        a_feed(proxy.url, namespace, entry=lambda log, data: parsed.append(data)) as feed,
    ):
        woken: list[int] = []
        leave = feed.follow(ALICE, lambda: woken.append(1))
        await until(lambda: woken, "the subscription")
        [channel] = await channels(server, namespace)
        leave()
        assert await tell(server, "PUBLISH", channel, "while nobody is there") == 1
        feed.follow(ALICE, lambda: woken.append(2))()
        leave = feed.follow(ALICE, lambda: woken.append(3))
        await tell(server, "PUBLISH", channel, "now")
        await until(lambda: 3 in woken, "the wake-up")
        assert parsed == [b"now"], "what nobody follows is not even read"
        assert woken == [1, 3], "it was subscribed to again"
        leave()
        for number in range(10):
            feed.follow(LogName("user", f"u{number}"), lambda: None)()
        assert len(feed._lingering) == 3
        await until_it_says(lambda: channels(server, namespace), lambda found: len(found) == 3)
        assert channel not in await channels(server, namespace), "the first to leave goes first"


async def test_the_copies_are_gone_when_the_connection_is_not_when_the_next_one_stands(
    server: RedisServer, namespace: str
) -> None:
    async with Proxy(server.port) as proxy:
        log = RedisLog(proxy.url, namespace=namespace)
        writer = RedisLog(server.url, namespace=namespace)
        follower = Follower(log)
        await heard(log)
        await writer.append(ALICE, an_event(1))
        await follower.has(["e1"])
        feed = log._feed
        assert feed is not None
        hub = feed.copies_of(ALICE)
        assert hub is not None
        assert len(hub.copies) == 1
        proxy.hold(b"SUBSCRIBE")
        next(link for link in reversed(proxy.links) if link.subscriber).close()
        await until(lambda: proxy.holds, "the next subscription")
        assert len(hub.copies) == 0
        await writer.append(ALICE, an_event(2))
        await proxy.release()
        await follower.has(["e1", "e2"])
        await follower.end()
        await log.close()
        await writer.close()


async def test_copies_of_what_became_quiet_are_dropped(
    server: RedisServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "COPIES_SECONDS", 0.0)
    log = RedisLog(server.url, namespace=namespace)
    follower = Follower(log)
    await heard(log)
    await log.append(ALICE, an_event(1))
    await follower.has(["e1"])
    assert log._feed is not None
    hub = log._feed.copies_of(ALICE)
    assert hub is not None
    await until(lambda: not hub.copies, "dropping them")
    await log.append(ALICE, an_event(2))
    await follower.has(["e1", "e2"])
    await follower.end()
    await log.close()


async def test_everybody_is_woken_after_a_reconnect_however_many_there_are(server: RedisServer, namespace: str) -> None:
    async with Proxy(server.port) as proxy, a_feed(proxy.url, namespace) as feed:
        woken: dict[int, int] = dict.fromkeys(range(1_500), 0)

        def waking(number: int) -> Callable[[], None]:
            def wake() -> None:
                woken[number] += 1

            return wake

        for number in woken:
            feed.follow(LogName("user", f"u{number}"), waking(number))
        await until(lambda: all(woken.values()), "the subscriptions")
        next(link for link in reversed(proxy.links) if link.subscriber).close()
        await until(lambda: all(times > 1 for times in woken.values()), "the next subscriptions")
        assert len(await channels(server, namespace)) == 1_500


async def test_a_redis_that_refuses_subscriptions_is_said_to_once(
    tmp_path: Path, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = RedisServer(tmp_path)
    try:
        server.ask("ACL", "SETUSER", "mute", "on", ">hunter2", "~*", "+@all", "resetchannels")
        async with a_feed(f"redis://mute:hunter2@127.0.0.1:{server.port}/0", namespace) as feed:
            feed.follow(ALICE, lambda: None)
            await until(lambda: feed._rests.failures >= 3, "attempts")
        [warning] = [record for record in caplog.records if record.name.endswith(".feed")]
        assert vars(warning)["reason"] == "Redis refuses subscriptions: NOPERM"
        assert "hunter2" not in caplog.text
    finally:
        server.stop()
