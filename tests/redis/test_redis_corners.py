"""What is seldom met: a log that another process forgets, lives that are over, and connections that end half."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from redis import Redis as RedisClient

from tests.redis.fake import Command, FakeRedis
from tests.redis.marks import NEEDS_REDIS
from tests.redis.server import RedisServer
from tests.redis.test_redis_acl import RULES
from tests.redis.test_redis_feed import heard
from tests.redis.test_redis_link import persistent
from tests.redis.test_redis_seats import ALICE as ALICE_ID
from tests.redis.test_redis_seats import World, sit
from tests.redis.tls import NEEDS_OPENSSL, tls_server
from tests.support import turns, until
from websocket_core.control import Order, control_event
from websocket_core.errors import LogUnavailable
from websocket_core.events import Event
from websocket_core.identity import LogName
from websocket_core.limits import Limits
from websocket_core.log import GapReason
from websocket_core.log_probe import Wakes
from websocket_core.logs.redis import RedisLog
from websocket_core.logs.redis.addresses import Addresses
from websocket_core.logs.redis.exchange import Exchange
from websocket_core.logs.redis.link import Link, pack
from websocket_core.logs.redis.names import Names, Namespace
from websocket_core.logs.redis.seats import seats_key
from websocket_core.metrics import Metrics

pytestmark = NEEDS_REDIS

ALICE = LogName("user", "alice")

_numbers = itertools.count()


@pytest.fixture
def redis(server: RedisServer) -> Iterator[Any]:
    client = RedisClient.from_url(server.url)
    yield client
    client.close()


@pytest.fixture
def namespace() -> str:
    return f"corners{os.getpid()}.{next(_numbers)}"


@pytest.fixture
def names(namespace: str) -> Names:
    return Namespace(namespace).of_log(ALICE)


@asynccontextmanager
async def a_log(server: RedisServer, namespace: str, **options: Any) -> AsyncIterator[RedisLog]:
    log = RedisLog(server.url, namespace=namespace, **options)
    try:
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def an_exchange(url: str, *, timeout: float = 1.0) -> AsyncIterator[Exchange]:
    exchange = Exchange(url, timeout=timeout)
    try:
        yield exchange
    finally:
        await exchange.close()


def an_event(name: str, size: int = 20) -> Event:
    return Event(name, b'{"type":"t","data":{"text":"%b"},"id":"%b"' % (b"x" * size, name.encode()))


# -- lives of a log


async def test_who_follows_a_log_is_woken_when_another_process_forgets_it(server: RedisServer, namespace: str) -> None:
    """And is shown no copy of what is forgotten."""
    metrics = Metrics()
    async with a_log(server, namespace, metrics=metrics) as here, a_log(server, namespace) as there:
        wakes = Wakes(here, ALICE)
        await heard(here)  # from here on nothing but a push wakes anybody
        seen, _ = [await there.append(ALICE, an_event(name)) for name in ("e1", "e2")]
        await wakes.reach(3)  # the subscription, and one for each
        assert [entry.event.id for entry in (await here.read(ALICE, seen, 10)).entries] == ["e2"]
        await there.forget(ALICE)
        await wakes.reach(4)
        gone = await here.read(ALICE, seen, 10)
        assert (gone.start, list(gone.entries), gone.gap) == (None, [], GapReason.NEW_EPOCH)
        await there.append(ALICE, an_event("e3"))
        await wakes.reach(5)
        begun = await here.read(ALICE, seen, 10)
        assert ([entry.event.id for entry in begun.entries], begun.gap) == (["e3"], GapReason.NEW_EPOCH)
        assert metrics.foreign_entries == 0, "the word that a log is forgotten is ours"


@pytest.mark.parametrize("how", ["head lost, appended to", "head lost, opened", "numbered by somebody else"])
async def test_the_last_order_of_a_life_that_is_over_is_none_of_the_next(
    server: RedisServer, namespace: str, redis: Any, names: Names, how: str
) -> None:
    async with a_log(server, namespace) as log:
        before = await log.append(ALICE, control_event(Order(4410), "c1"))
        assert await log.control(ALICE) is not None
        if how == "numbered by somebody else":
            redis.xadd(names.entries, {"d": "x"})
        else:
            redis.hset(names.meta, "s", b"nonsense")
        if how == "head lost, opened":
            head = await log.open(ALICE)
            assert await log.control(ALICE) is None
            begun = await log.append(ALICE, an_event("e1"))
            assert begun.epoch == head.epoch, "what was opened is the life that goes on"
        else:
            begun = await log.append(ALICE, an_event("e1"))
        assert (begun.offset, begun.epoch == before.epoch) == (1, False)
        assert await log.control(ALICE) is None
        await log.append(ALICE, control_event(Order(4410), "c2"))
        order = await log.control(ALICE)
        assert order is not None
        assert (order.event.id, order.epoch) == ("c2", begun.epoch)


async def test_a_read_has_no_more_bytes_than_a_batch_may_have_and_the_next_goes_on(
    server: RedisServer, namespace: str
) -> None:
    most = 4_000
    sizes = [1_000] * 6 + [9_000, 9_000] + [1_000] * 6 + [9_000]
    async with a_log(server, namespace, limits=Limits(batch_bytes=most)) as log:
        names = [f"e{number}" for number in range(len(sizes))]
        for name, size in zip(names, sizes, strict=True):
            await log.append(ALICE, an_event(name, size))
        read: list[str] = []
        lengths: list[int] = []
        after, more = None, True
        while more:
            batch = await log.read(ALICE, after, 100)
            assert batch.gap is None
            assert batch.entries, "one comes, however large"
            assert len(batch.entries) == 1 or sum(len(entry.event.body) for entry in batch.entries) <= most
            read += [entry.event.id for entry in batch.entries]
            lengths.append(len(batch.entries))
            assert batch.more == (len(read) < len(names))
            after, more = batch.entries[-1].position, batch.more
        assert read == names
        assert lengths == [3, 3, 1, 1, 3, 3, 1], "as many as there is room for"


# -- one connection


class Transport:
    """What a link needs of a transport; it is gone when the test says so."""

    def __init__(self, *, closing: bool = False) -> None:
        self.closing = closing
        self.written: list[bytes] = []

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def abort(self) -> None:
        self.closing = True


def a_link(transport: Transport) -> Link:
    return Link(SimpleNamespace(_writer=SimpleNamespace(transport=transport)))


async def is_over(waiting: asyncio.Task[None]) -> bool:
    await turns()
    return waiting.done()


async def test_a_connection_that_redis_closes_half_is_left_before_anybody_uses_it() -> None:
    async with FakeRedis() as fake, an_exchange(fake.url, timeout=60.0) as exchange:
        assert await exchange.submit("ECHO", "1") == b"1"
        fake.writers[0].write_eof()
        await until(lambda: exchange._link is None, "leaving it, long before a ping shows it")
        assert await exchange.submit("ECHO", "2") == b"2"
        assert len(fake.opened) == 2


async def test_closing_takes_until_the_transport_is_gone_and_no_longer() -> None:
    link = a_link(Transport())
    link.close()
    waiting = asyncio.create_task(link.wait_closed())
    assert not await is_over(waiting)
    link.connection_lost(None)
    assert await is_over(waiting)


async def test_whose_transport_was_lost_before_it_was_taken_over_is_closed_and_has_nothing_to_wait_for() -> None:
    link = a_link(Transport(closing=True))
    assert link.closed
    assert await is_over(asyncio.create_task(link.wait_closed()))


async def test_the_owner_is_told_once_and_after_the_end_nothing_is_said_or_sent() -> None:
    transport = Transport()
    link = a_link(transport)
    told: list[Any] = []
    link.received, link.lost = told.append, told.append
    link.connection_lost(ConnectionResetError())
    assert told == [link]
    link.received, link.lost = told.append, told.append  # by whoever does not know yet
    link.connection_lost(None)
    link.write(pack("PING"))
    assert (told, transport.written) == ([link], [])


async def test_what_arrives_after_close_reaches_nobody() -> None:
    link = a_link(Transport())
    told: list[Any] = []
    link.received, link.lost = told.append, told.append
    link.close()
    late = b"+PONG\r\n"
    link.get_buffer(-1)[: len(late)] = late
    link.buffer_updated(len(late))
    link.connection_lost(None)
    assert told == []


async def test_what_is_written_into_parts_of_the_buffer_is_read_as_one() -> None:
    """As TLS of asyncio does with each record; a slice that is a copy would lose all but the first."""
    link = a_link(Transport())
    told: list[Any] = []
    link.received = told.append
    for pieces in ((b"+PO", b"NG\r\n+2"), (b"\r\n",)):
        buffer = link.get_buffer(-1)
        offset = 0
        for piece in pieces:
            buffer[offset:][: len(piece)] = piece
            offset += len(piece)
        link.buffer_updated(offset)
    assert told == [[b"PONG"], [b"2"]]


@pytest.mark.parametrize("how", ["there is room", "the connection is lost"])
async def test_who_waits_to_send_more_goes_on(how: str) -> None:
    link = a_link(Transport())
    link.pause_writing()
    waiting = asyncio.create_task(link.drained())
    assert not await is_over(waiting)
    if how == "there is room":
        link.resume_writing()
    else:
        link.connection_lost(None)
    assert await is_over(waiting)


@NEEDS_OPENSSL
@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_what_tls_can_only_send_in_parts_arrives_whole_and_whoever_sends_more_can_wait(
    tmp_path: Path, kind: str
) -> None:
    uvloop = pytest.importorskip("uvloop")
    server, address, trusting = tls_server(tmp_path)

    async def drive() -> None:
        link = Link(await Addresses(address + trusting, timeout=5.0).dial())
        replies: list[Any] = []
        link.received = replies.extend
        try:
            large = [bytes(range(251)) * 100_000, bytes(range(241)) * 10_000, b"behind"]
            server.signal(signal.SIGSTOP)
            for each in large:
                link.write(pack("ECHO", each))
            waiting = asyncio.create_task(link.drained())
            stands = not await is_over(waiting)
            server.signal(signal.SIGCONT)
            async with asyncio.timeout(10.0):
                await waiting
            assert stands, "nobody took what was sent"
            await until(lambda: len(replies) == len(large), "the answers", 10.0)
            assert replies == large
        finally:
            link.close()
            await link.wait_closed()

    factory = uvloop.new_event_loop if kind == "uvloop" else asyncio.new_event_loop
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(drive())
    finally:
        server.stop()


# -- who is there


def naming(port: int) -> Callable[[Command], bytes | None]:
    """What a sentinel says that knows one master, on that port."""
    where = ("127.0.0.1", port)
    state = (
        "name", "mymaster", "ip", where[0], "port", port, "flags", "master", "num-other-sentinels", 0,
        "config-epoch", 1,
    )  # fmt: skip

    def says(command: Command) -> bytes | None:
        match [part.upper() for part in command[:2]]:
            case [b"SENTINEL", b"MASTERS"]:
                return b"*1\r\n" + pack(*state)
            case [b"SENTINEL", _]:
                return pack(*where)
            case [b"PING"]:
                return pack("pong", "")
        return None

    return says


def through(sentinel: FakeRedis, credentials: str = "") -> str:
    return sentinel.url.replace("redis://", f"redis+sentinel://{credentials}").replace("/0", "/mymaster/0")


async def test_a_replica_that_a_sentinel_names_is_not_taken_for_the_master(tmp_path: Path) -> None:
    """As a sentinel does that has not heard of another master yet: what a replica answers is of yesterday."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = RedisServer(tmp_path, "--replicaof", "127.0.0.1", f"{silent.getsockname()[1]}")
        try:
            async with FakeRedis() as sentinel, an_exchange(through(sentinel)) as exchange:
                sentinel.says = naming(server.port)
                for _ in range(3):
                    with pytest.raises(LogUnavailable):
                        await exchange.submit("PING")  # which a replica answers
                server.ask("REPLICAOF", "NO", "ONE")
                assert await persistent(lambda: exchange.submit("PING")) == b"PONG"
        finally:
            server.stop()


async def test_a_master_that_may_not_be_asked_what_it_is_is_one(server: RedisServer) -> None:
    """The rights that the guide names do not include it."""
    server.ask("ACL", "SETUSER", "app", "on", ">secret", *RULES.split())
    async with FakeRedis() as sentinel, an_exchange(through(sentinel, "app:secret@")) as exchange:
        sentinel.says = naming(server.port)
        assert await exchange.submit("PING") == b"PONG"
        with pytest.raises(LogUnavailable, match="NOPERM"):
            await exchange.submit("ROLE")


async def test_what_is_read_as_a_process_is_none_unless_it_is_called_as_those_of_this_namespace(
    server: RedisServer,
) -> None:
    """However much it is there: a seat of somebody else's process sends nobody away."""
    here, elsewhere = World(server.url), World(server.url)
    try:
        seats, stranger = here.process(), elsewhere.process()
        await stranger.stay(60.0)
        assert await stranger.is_there(stranger.process)
        assert not await seats.is_there(stranger.process)
        key = seats_key(Namespace(here.namespace), ALICE_ID)
        await here.raw.submit("HSET", key, "old/1", f"1\n{stranger.process}\nold")
        for connection_id in "abc":
            assert await sit(seats, connection_id, most=3) == []
        assert int(await here.raw.submit("HLEN", key)) == 3
    finally:
        await here.close()
        await elsewhere.close()
