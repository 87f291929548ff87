"""Several processes on one Redis, and everything that happens to it: nothing twice, in order, and losses are told."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.redis.marks import NEEDS_REDIS
from tests.redis.proxy import Proxy
from tests.redis.server import RedisServer
from tests.support import Tab, a_manager, decoded, turns, until
from websocket_core.appender import Appender
from websocket_core.control import CONTROL
from websocket_core.errors import AppendFailed, LogUnavailable
from websocket_core.events import Event
from websocket_core.identity import LogName
from websocket_core.limits import Limits, Retention, RetryPolicy
from websocket_core.log import GapReason, Position
from websocket_core.logs.redis import RedisLog
from websocket_core.logs.redis.exchange import Exchange, Script
from websocket_core.metrics import Metrics
from websocket_core.unified_manager import UnifiedWebSocketManager

pytestmark = NEEDS_REDIS

ALICE = LogName("user", "alice")
STUBBORN = RetryPolicy(attempts=200, seconds=20.0, initial=0.02, maximum=0.1)

_numbers = itertools.count()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that stays as it is."""
    started = RedisServer(tmp_path_factory.mktemp("redis"))
    yield started
    started.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Start a server of one's own, with options."""
    servers: list[RedisServer] = []

    def starting(*options: str) -> RedisServer:
        servers.append(RedisServer(tmp_path, *options))
        return servers[-1]

    yield starting
    for server in servers:
        server.stop()


@pytest.fixture
def namespace() -> str:
    return f"faults{os.getpid()}.{next(_numbers)}"


async def tell(server: RedisServer, *command: Any) -> Any:
    client: Redis = Redis.from_url(server.url, protocol=2)
    try:
        return await client.execute_command(*command)  # type: ignore[no-untyped-call]
    finally:
        await client.aclose()


def an_event(name: str | int, text: str = "") -> Event:
    return Event(f"e{name}", f'{{"type":"t","data":{{"n":"{name}","text":"{text}"}},"id":"e{name}"'.encode())


def an_appender(log: RedisLog, retry: RetryPolicy = STUBBORN) -> Appender:
    return Appender(log, retry=retry, metrics=Metrics())


async def ids_in(log: RedisLog, name: LogName = ALICE) -> list[str]:
    """All that is retained, in order."""
    found: list[str] = []
    after = None
    while True:
        batch = await log.read(name, after, 1_000)
        found += [entry.event.id for entry in batch.entries if entry.event.connection_id != CONTROL]
        if not batch.more:
            return found
        after = batch.entries[-1].position


@contextlib.asynccontextmanager
async def a_fleet(
    url: str, namespace: str, count: int = 3, **options: Any
) -> AsyncIterator[list[UnifiedWebSocketManager]]:
    """Managers that have nothing in common but Redis, as those of several processes."""
    options.setdefault("retry", STUBBORN)
    async with contextlib.AsyncExitStack() as stack:
        managers = []
        for _ in range(count):
            log = RedisLog(url, options.get("retention"), namespace=namespace)
            managers.append(await stack.enter_async_context(a_manager(log, **options)))
        yield managers


# -- across processes


async def test_an_event_emitted_in_one_process_reaches_the_tabs_in_all_once_and_in_order(
    shared: RedisServer, namespace: str
) -> None:
    async with a_fleet(shared.url, namespace, 3) as fleet:
        tabs = [await Tab.open(manager, "alice") for manager in fleet for _ in range(2)]
        stranger = await Tab.open(fleet[1], "bob")
        for tab in tabs:
            await tab.greeted()
        for number in range(200):
            await fleet[number % 3].get_emitter("alice").emit("t", {"n": number})
        for tab in tabs:
            await tab.has(200)
            assert tab.numbers == list(range(200))
        await fleet[2].get_emitter("bob").emit("t", {"n": -1})
        await stranger.has(1)
        assert stranger.numbers == [-1]


async def test_a_client_resumes_in_any_process_with_the_cursor_of_any(shared: RedisServer, namespace: str) -> None:
    rng = random.Random(3)
    async with a_fleet(shared.url, namespace, 3) as fleet:
        tab = await Tab.open(fleet[0], "alice", v1=True)
        await tab.greeted()
        for step in range(30):
            number = step * 3
            await rng.choice(fleet).get_emitter("alice").emit("t", {"n": number})
            await tab.has(number + 1)
            cursor = tab.cursor
            before = tab.events
            await tab.cut()
            for missed in (number + 1, number + 2):
                await rng.choice(fleet).get_emitter("alice").emit("t", {"n": missed})
            tab = await Tab.open(rng.choice(fleet), "alice", cursor=cursor, v1=True)
            tab.before = before
            assert (await tab.greeted())["resumed"] is True
            await tab.has(number + 3)
            assert tab.numbers == list(range(number + 3))
            assert tab.socket.of_type("gap") == []


@pytest.mark.parametrize(("how", "code"), [("revoke", 4410), ("disconnect", 1000), ("delete", 1000)])
async def test_who_is_sent_away_in_one_process_is_sent_away_in_all(
    shared: RedisServer, namespace: str, how: str, code: int
) -> None:
    async with a_fleet(shared.url, namespace, 3) as fleet:
        tabs = [await Tab.open(manager, "alice") for manager in fleet]
        others = [await Tab.open(manager, "bob") for manager in fleet]
        for tab in (*tabs, *others):
            await tab.greeted()
        await fleet[0].get_emitter("alice").emit("t", {"n": 1})
        match how:
            case "revoke":
                await fleet[0].revoke("alice")
            case "disconnect":
                await fleet[0].disconnect_user("alice")
            case "delete":
                await fleet[0].delete_user("alice")
        if how != "delete":
            await fleet[0].get_emitter("alice").emit("t", {"n": 2})
        ended = [await tab.ended(2.0) for tab in tabs]
        assert ended == [code] * 3
        for tab in tabs:
            assert 2 not in tab.numbers, "an event emitted behind the order was shown"
        await fleet[0].get_emitter("bob").emit("t", {"n": 3})
        for tab in others:
            await tab.has(1)


async def test_an_event_crosses_processes_in_little_time(shared: RedisServer, namespace: str) -> None:
    async with a_fleet(shared.url, namespace, 2) as (here, there):
        tab = await Tab.open(there, "alice")
        await tab.greeted()
        emitter = here.get_emitter("alice")
        taken = []
        for number in range(200):
            started = time.perf_counter()
            await emitter.emit("t", {"n": number})
            while len(tab.socket.events) <= number:  # noqa: ASYNC110 - what is measured is the time until it is there
                await asyncio.sleep(0)
            taken.append(time.perf_counter() - started)
        taken.sort()
        print(f"across managers: p50 {taken[100] * 1e3:.2f} ms, p99 {taken[197] * 1e3:.2f} ms")
        assert taken[100] < 0.1


# -- replies that are lost, requests that are late


async def test_an_append_whose_reply_was_lost_is_in_the_log_once(shared: RedisServer, namespace: str) -> None:
    async with Proxy(shared.port) as proxy:
        log = RedisLog(proxy.url, namespace=namespace)
        await log.append(ALICE, an_event(0))
        proxy.lose_replies(b"e1", 1)
        with pytest.raises(LogUnavailable):
            await log.append(ALICE, an_event(1))
        assert proxy.lost == 1
        assert await ids_in(log) == ["e0", "e1"], "the first attempt was executed"
        position = await log.append(ALICE, an_event(1))
        assert position.offset == 2
        proxy.lose_replies(b"e2", 3)
        position = await an_appender(log).append(ALICE, an_event(2))
        assert (proxy.lost, position.offset) == (4, 3)
        assert await ids_in(log) == ["e0", "e1", "e2"]
        await log.close()


async def test_redis_py_as_it_comes_executes_one_append_several_times(shared: RedisServer, namespace: str) -> None:
    """The positive control of the test before: the proxy loses replies in a way that does harm."""
    async with Proxy(shared.port) as proxy:
        client: Redis = Redis(port=proxy.port, protocol=2)
        proxy.lose_replies(b"XADD", 2)
        await client.xadd(f"{namespace}:control", {"n": 1})
        assert await client.xlen(f"{namespace}:control") == 3
        await client.aclose()


async def test_a_request_that_is_late_is_never_executed_behind_its_retry(shared: RedisServer, namespace: str) -> None:
    """By then the log holds the event no more, and would not know it by its id."""
    async with Proxy(shared.port) as proxy:
        log = RedisLog(proxy.url, Retention(events=1), namespace=namespace, timeout=0.2)
        await log.append(ALICE, an_event(0))
        proxy.hold(b"e1")
        with pytest.raises(LogUnavailable):
            await log.append(ALICE, an_event(1))
        assert proxy.holds
        assert (await log.append(ALICE, an_event(1))).offset == 2
        assert (await log.append(ALICE, an_event(2))).offset == 3
        await proxy.release()
        await tell(shared, "PING")
        await turns(50)
        head = await log.open(ALICE)
        assert head.offset == 3, "a request of an abandoned connection was executed"
        await log.close()


async def test_a_fence_never_reaches_a_connection_of_somebody_else(
    start: Callable[..., RedisServer], namespace: str
) -> None:
    """After a restart the server counts its connections anew: killing the old number would kill another client."""
    server = start()
    log = RedisLog(server.url, namespace=namespace)
    for _ in range(20):
        await tell(server, "PING")
    await log.append(ALICE, an_event(0))
    assert log._writing is not None
    assert log._writing._server is not None
    number = log._writing._server.connection
    assert number is not None
    server.kill()
    server.start()
    async with contextlib.AsyncExitStack() as stack:
        bystander = 0
        while bystander < number:
            client: Redis = Redis.from_url(server.url, protocol=2, single_connection_client=True)
            stack.push_async_callback(client.aclose)
            bystander = await client.client_id()
        assert bystander == number, "the test is set up"
        await an_appender(log).append(ALICE, an_event(1))
        assert await client.client_id() == number, "a bystander was killed"
    await log.close()


async def test_cancelled_callers_take_nobody_elses_answer_and_cost_no_connection(
    shared: RedisServer, namespace: str
) -> None:
    rng = random.Random(5)
    async with Proxy(shared.port) as proxy:
        log = RedisLog(proxy.url, namespace=namespace)
        names = [LogName("user", f"user-{number}") for number in range(20)]
        for name in names:
            await log.append(name, Event("first", f'{{"of":"{name.name}"'.encode()))
        wrong: list[str] = []
        acknowledged: dict[LogName, dict[str, Position]] = {name: {} for name in names}

        async def read(name: LogName) -> None:
            batch = await log.read(name, None, 1)
            [entry] = batch.entries
            if entry.log != name or entry.event.body != f'{{"of":"{name.name}"'.encode():
                wrong.append(name.name)

        async def append(name: LogName, number: int) -> None:
            event = Event(f"{name.name}-{number}", f'{{"of":"{name.name}"'.encode())
            acknowledged[name][event.id] = await log.append(name, event)

        await read(names[0])
        before = proxy.opened
        proxy.delay = 0.001
        cancelled = 0
        for burst in range(60):
            tasks = [
                asyncio.ensure_future(
                    read(rng.choice(names)) if rng.random() < 0.6 else append(rng.choice(names), burst * 100 + number)
                )
                for number in range(100)
            ]
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0.0005 * rng.random())
            for task in tasks:
                if rng.random() < 0.4:
                    cancelled += task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome
        proxy.delay = 0.0
        assert cancelled > 1_000
        assert wrong == []
        assert proxy.opened == before, "a cancellation cost a connection"
        for name in names:
            entries = (await log.read(name, None, 5_000)).entries
            stands = {entry.event.id: entry.position for entry in entries}
            assert len(stands) == len(entries), "an event is in the log twice"
            assert {entry.event.body for entry in entries} == {f'{{"of":"{name.name}"'.encode()}
            assert acknowledged[name].items() <= stands.items(), "a caller was told another's position"
        await log.close()


async def test_who_waits_for_a_silent_redis_is_told_in_time_however_many_wait(
    shared: RedisServer, namespace: str
) -> None:
    async with Proxy(shared.port) as proxy:
        log = RedisLog(proxy.url, namespace=namespace, timeout=0.2)
        await log.append(ALICE, an_event(0))
        proxy.blackholed = True
        started = time.monotonic()
        calls = [log.append(ALICE, an_event(number)) for number in range(1, 2_001)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {LogUnavailable}
        assert len({id(outcome) for outcome in outcomes}) == 2_000, "callers share an exception, and its traceback"
        assert time.monotonic() - started < 2.0
        proxy.blackholed = False
        await an_appender(log).append(ALICE, an_event(1))
        assert await ids_in(log) == ["e0", "e1"]
        await log.close()


@pytest.mark.parametrize("towards_client", [True, False])
async def test_a_connection_of_which_one_half_is_closed_is_replaced_before_it_is_used(
    shared: RedisServer, namespace: str, towards_client: bool
) -> None:
    async with Proxy(shared.port) as proxy:
        log = RedisLog(proxy.url, namespace=namespace)
        await log.append(ALICE, an_event(0))
        proxy.half_close(towards_client=towards_client)
        assert log._writing is not None
        writing = log._writing
        await until(lambda: writing._link is None, "the end of the connection")
        assert (await log.append(ALICE, an_event(1))).offset == 2  # no LogUnavailable: nothing was in doubt
        assert (await log.open(ALICE)).offset == 2
        await log.close()


async def test_a_command_that_cannot_be_encoded_fails_alone(shared: RedisServer) -> None:
    exchange = Exchange(shared.url, timeout=1.0)
    neighbours = [exchange.submit("ECHO", f"{number}") for number in range(3)]
    with pytest.raises(ValueError, match="surrogates"):
        exchange.submit("ECHO", "\ud800")
    neighbours += [exchange.submit("ECHO", f"{number}") for number in range(3, 6)]
    assert await asyncio.gather(*neighbours) == [f"{number}".encode() for number in range(6)]
    await exchange.close()


async def test_one_that_redis_refuses_fails_alone(shared: RedisServer, namespace: str) -> None:
    log = RedisLog(shared.url, namespace=namespace)
    bob = LogName("user", "bob")
    await log.append(bob, an_event(0))
    await tell(shared, "SET", log._names.of_log(ALICE).meta, "of another type")
    outcomes = await asyncio.gather(
        *[log.append(name, an_event(number)) for number in range(1, 5) for name in (ALICE, bob)], return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes[::2]] == [LogUnavailable] * 4
    assert [outcome.offset for outcome in outcomes[1::2] if isinstance(outcome, Position)] == [2, 3, 4, 5]
    await log.close()


async def test_closing_ends_what_waits(shared: RedisServer, namespace: str) -> None:
    async with Proxy(shared.port) as proxy:
        log = RedisLog(proxy.url, namespace=namespace)
        await log.append(ALICE, an_event(0))
        proxy.blackholed = True
        calls = [asyncio.ensure_future(log.append(ALICE, an_event(number))) for number in range(300)]
        await turns(20)
        await log.close()
        async with asyncio.timeout(1.0):
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {LogUnavailable}


# -- what happens to a server that keeps its memory


async def test_nothing_is_lost_or_doubled_while_connections_are_killed_and_scripts_flushed(
    shared: RedisServer, namespace: str
) -> None:
    async with a_fleet(shared.url, namespace, 2) as (here, there):
        tabs = [await Tab.open(manager, "alice") for manager in (here, there)]
        for tab in tabs:
            await tab.greeted()
        emitting = asyncio.ensure_future(emit_all(here, range(600)))
        for kind in ("normal", "pubsub", "script", "normal", "script", "pubsub") * 2:
            await asyncio.sleep(0.02)
            if kind == "script":
                await tell(shared, "SCRIPT", "FLUSH")
            else:
                await tell(shared, "CLIENT", "KILL", "TYPE", kind)
        await emitting
        for tab in tabs:
            await tab.has(600)
            assert tab.numbers == list(range(600))
            assert tab.socket.of_type("gap") == []


async def emit_all(manager: UnifiedWebSocketManager, numbers: range) -> None:
    emitter = manager.get_emitter("alice")
    for number in numbers:
        await emitter.emit("t", {"n": number}, event_id=f"n{number}")


async def test_a_server_that_became_a_replica_takes_nothing_and_ends_nothing(
    start: Callable[..., RedisServer], namespace: str
) -> None:
    server = start()
    once = RetryPolicy(attempts=1)
    async with a_fleet(server.url, namespace, 2, retry=once) as (here, there):
        tab = await Tab.open(there, "alice")
        await tab.greeted()
        await emit_all(here, range(3))
        await tell(server, "REPLICAOF", "127.0.0.1", "1")
        for _ in range(3):
            with pytest.raises(AppendFailed):
                await emit_all(here, range(3, 4))
        await tell(server, "REPLICAOF", "NO", "ONE")
        await emit_all(here, range(3, 6))
        await tab.has(6)
        assert tab.numbers == list(range(6))
        assert tab.socket.of_type("gap") == []


async def test_a_server_that_is_full_refuses_and_keeps_what_it_has(
    start: Callable[..., RedisServer], namespace: str
) -> None:
    server = start("--maxmemory-policy", "noeviction")
    log = RedisLog(server.url, namespace=namespace)
    bob = LogName("user", "bob")
    for number in range(5):
        await log.append(ALICE, an_event(number))
    head = await log.open(ALICE)
    await tell(server, "CONFIG", "SET", "maxmemory", "1")
    for _ in range(2):
        for name in (ALICE, bob):
            with pytest.raises(LogUnavailable, match="OOM"):
                await log.append(name, an_event(9))
    assert await ids_in(log) == [f"e{number}" for number in range(5)], "it can still be read"
    assert await log.open(ALICE) == head
    await tell(server, "CONFIG", "SET", "maxmemory", "0")
    assert (await log.append(ALICE, an_event(9))).offset == 6
    assert (await log.append(bob, an_event(9))).offset == 1
    await log.close()


async def test_a_flushed_server_is_told_as_a_new_epoch(start: Callable[..., RedisServer], namespace: str) -> None:
    server = start()
    limits = Limits(heartbeat=0.3, sweep_interval=0.05)
    async with a_fleet(server.url, namespace, 2, limits=limits) as (here, there):
        idle, busy = [await Tab.open(there, name, v1=True) for name in ("idle", "alice")]
        for name in ("idle", "alice"):
            for number in range(3):
                await here.get_emitter(name).emit("t", {"n": number})
        for tab in (idle, busy):
            await tab.has(3)
        await tell(server, "FLUSHALL")
        await emit_all(here, range(3, 6))
        for tab in (idle, busy):
            await until(lambda: tab.socket.of_type("gap"), "the gap")  # noqa: B023
            assert [gap["reason"] for gap in tab.socket.of_type("gap")] == ["new_epoch"]
        await busy.has(6)
        assert busy.numbers == list(range(6))
        frames = [frame["type"] for frame in busy.socket.frames if frame["type"] in ("gap", "t", "events")]
        assert frames.index("gap") < len(frames) - 1, "the gap comes before what follows it"


async def test_a_frozen_server_that_goes_on_has_everything_once_and_in_order(
    start: Callable[..., RedisServer], namespace: str
) -> None:
    """It executes what was sent to it while it stood still, after whoever sent it has given up."""
    server = start()
    async with a_fleet(server.url, namespace, 2) as (here, there):
        tab = await Tab.open(there, "alice")
        await tab.greeted()
        await emit_all(here, range(50))
        emitting = asyncio.ensure_future(emit_all(here, range(50, 600)))
        await tab.has(60)
        server.signal(signal.SIGSTOP)
        await asyncio.sleep(3.0)  # beyond the time-out of an exchange
        server.signal(signal.SIGCONT)
        await emitting
        await tab.has(600)
        assert tab.numbers == list(range(600))
        assert tab.socket.of_type("gap") == []


# -- what happens to a server that may forget


@pytest.mark.parametrize("wait", [0.0, 0.4])
async def test_a_killed_server_that_wrote_everything_down_loses_nothing(
    start: Callable[..., RedisServer], namespace: str, wait: float
) -> None:
    server = start("--appendonly", "yes", "--appendfsync", "always")
    async with a_fleet(server.url, namespace, 2) as (here, there):
        tab = await Tab.open(there, "alice", v1=True)
        await tab.greeted()
        emitting = asyncio.ensure_future(emit_all(here, range(400)))
        for reached in (50, 150, 250):
            await tab.has(reached)
            server.kill()
            await asyncio.sleep(wait)
            server.start()
        await emitting
        await tab.has(400, 10.0)
        assert tab.numbers == list(range(400))
        assert tab.socket.of_type("gap") == []


@pytest.mark.parametrize("away", [0.0, 4.0])
async def test_what_a_restarted_server_forgot_is_told_and_what_was_acknowledged_last_is_appended_again(
    start: Callable[..., RedisServer], namespace: str, away: float
) -> None:
    """By an emitter that has nothing else to append, and however long the server was away."""
    server = start()
    writer = RedisLog(server.url, namespace=namespace)
    await writer.append(ALICE, an_event("old"))
    old = await writer.open(ALICE)
    writer._acknowledged._held.clear()  # as if it were older than three seconds
    names = [LogName("user", f"user-{number}") for number in range(10)]
    for start_ in range(0, 3_000, 100):
        await asyncio.gather(
            *[writer.append(names[number % 10], an_event(number)) for number in range(start_, start_ + 100)]
        )
    await writer.append(ALICE, an_event("new"))
    server.kill()
    await asyncio.sleep(away)
    server.start()
    reader = RedisLog(server.url, namespace=namespace)
    deadline = time.monotonic() + 6.0
    while await ids_in(reader) != ["enew"]:
        assert time.monotonic() < deadline, "what was acknowledged was not appended again"
        await asyncio.sleep(0.05)
    for index, name in enumerate(names):
        assert await ids_in(reader, name) == [f"e{number}" for number in range(index, 3_000, 10)]
    assert (await reader.read(ALICE, old, 10)).gap is GapReason.NEW_EPOCH
    await writer.append(ALICE, an_event("new"))
    assert await ids_in(reader) == ["enew"], "what was appended again is known by its id"
    await reader.close()
    await writer.close()


async def test_clients_of_a_server_without_persistence_are_told_a_gap_and_shown_what_was_saved(
    start: Callable[..., RedisServer], namespace: str
) -> None:
    server = start()
    async with a_fleet(server.url, namespace, 2) as (here, there):
        tab = await Tab.open(there, "alice", v1=True)
        await tab.greeted()
        emitting = asyncio.ensure_future(emit_all(here, range(400)))
        await tab.has(100)
        server.kill()
        await asyncio.sleep(0.1)
        server.start()
        await emitting
        await until(lambda: tab.numbers and tab.numbers[-1] == 399, "the last event", 10.0)
        assert [gap["reason"] for gap in tab.socket.of_type("gap")] == ["new_epoch"]
        seen = list(dict.fromkeys(tab.numbers))  # a client handles no id twice
        assert seen == list(range(400))
        log = RedisLog(server.url, namespace=namespace)
        assert await ids_in(log) == [f"n{number}" for number in range(400)]
        await log.close()


async def test_what_is_retained_no_more_is_not_taken_for_forgotten(
    start: Callable[..., RedisServer], namespace: str
) -> None:
    """A server that lost nothing is not given again what its retention dropped."""
    server = start("--appendonly", "yes", "--appendfsync", "always")
    log = RedisLog(server.url, Retention(events=3), namespace=namespace)
    for number in range(10):
        await log.append(ALICE, an_event(number))
    server.kill()
    server.start()
    await an_appender(log).append(ALICE, an_event(10))
    assert await ids_in(log) == ["e8", "e9", "e10"]
    assert (await log.open(ALICE)).offset == 11
    await log.close()


async def test_a_reader_ahead_of_a_store_that_went_back_is_told_so(
    start: Callable[..., RedisServer], namespace: str, tmp_path: Path
) -> None:
    server = start()
    emitter = RedisLog(server.url, namespace=namespace)  # gone, with its memory, before the store goes back
    log = RedisLog(server.url, namespace=namespace)
    async with a_manager(log, limits=Limits(heartbeat=0.3, sweep_interval=0.05)) as manager:
        ahead = await Tab.open(manager, "alice", v1=True)
        positions = [await emitter.append(ALICE, an_event(number)) for number in range(3)]
        await ahead.has(3)
        await tell(server, "SAVE")
        shutil.copy(tmp_path / "dump.rdb", tmp_path / "kept.rdb")
        positions += [await emitter.append(ALICE, an_event(number)) for number in range(3, 6)]
        await ahead.has(6)
        await emitter.close()
        server.kill()
        shutil.copy(tmp_path / "kept.rdb", tmp_path / "dump.rdb")
        server.start()
        await until(lambda: ahead.socket.of_type("gap"), "the gap")
        assert [gap["reason"] for gap in ahead.socket.of_type("gap")] == ["diverged"]
        forked = RedisLog(server.url, namespace=namespace)
        for number in range(3):
            await forked.append(ALICE, an_event(f"fork-{number}"))
        for position in positions[3:]:
            assert (await log.read(ALICE, position, 10)).gap is GapReason.DIVERGED
        for position in positions[:3]:
            batch = await log.read(ALICE, position, 10)
            assert batch.gap is None
            assert [decoded(entry)["data"]["n"] for entry in batch.entries][-3:] == ["fork-0", "fork-1", "fork-2"]
        await forked.close()


async def test_a_script_that_the_server_does_not_know_is_given_to_it(shared: RedisServer) -> None:
    exchange = Exchange(shared.url, timeout=1.0)
    script = Script("return ARGV[1]")
    await tell(shared, "SCRIPT", "FLUSH")
    calls = [exchange.run(script, (), (number,)) for number in range(300)]
    assert await asyncio.gather(*calls) == [f"{number}".encode() for number in range(300)]
    await exchange.close()
