"""One connection to Redis, and the exchange over it: every answer to whoever asked, and nothing out of order."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.redis.fake import Command, FakeRedis
from tests.redis.marks import NEEDS_REDIS
from tests.redis.proxy import Proxy
from tests.redis.server import RedisServer
from tests.redis.tls import NEEDS_OPENSSL, tls_server
from tests.support import turns, until
from websocket_core.errors import LogUnavailable, ManagerClosed
from websocket_core.logs.redis.addresses import Addresses, Rests
from websocket_core.logs.redis.exchange import Exchange, Script
from websocket_core.logs.redis.link import Link, ReplyError, pack
from websocket_core.logs.redis.refusals import word_of
from websocket_core.logs.redis.waiting import MOST

pytestmark = NEEDS_REDIS

ECHO = Script("return ARGV[1]")
PUSH = Script("return redis.call('RPUSH', KEYS[1], ARGV[1])")

_numbers = itertools.count()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    servers: list[RedisServer] = []

    def starting(*options: str) -> RedisServer:
        servers.append(RedisServer(tmp_path, *options))
        return servers[-1]

    yield starting
    for each in servers:
        each.stop()


@asynccontextmanager
async def an_exchange(url: str, **options: Any) -> AsyncIterator[Exchange]:
    exchange = Exchange(url, **{"timeout": 1.0} | options)
    try:
        yield exchange
    finally:
        await exchange.close()


@asynccontextmanager
async def a_link(url: str) -> AsyncIterator[Link]:
    link = Link(await Addresses(url, timeout=1.0).dial())
    try:
        yield link
    finally:
        link.close()
        await link.wait_closed()


async def persistent(ask: Callable[[], Awaitable[Any]], seconds: float = 5.0) -> Any:
    """Ask until there is an answer."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await ask()
        except LogUnavailable:
            assert time.monotonic() < deadline, "Redis was not reached again"
            await asyncio.sleep(0.01)


# -- one connection


async def test_redis_py_gives_its_transport_away_and_keeps_nothing(server: RedisServer) -> None:
    """The one private attribute that is touched. If this fails, redis-py has changed: look at `Link.__init__`."""
    connection = await Addresses(server.url, timeout=1.0).dial()
    assert isinstance(connection._writer, asyncio.StreamWriter)
    link = Link(connection)
    assert not connection.is_connected
    del connection
    gc.collect()
    await turns()
    assert await link.ask([pack("ECHO", "alive")], timeout=1.0) == [b"alive"], "the connection went with its maker"
    link.close()
    await link.wait_closed()


async def test_replies_come_in_order_whatever_the_pieces_and_errors_are_values(server: RedisServer) -> None:
    async with a_link(server.url) as link:
        large = "x" * 1_000_000
        commands = [pack("ECHO", "1"), pack("NO-SUCH"), pack("ECHO", large), pack("ECHO", "2")]
        one, refusal, middle, two = await link.ask(commands, timeout=5.0)
        assert (one, middle, two) == (b"1", large.encode(), b"2")
        assert type(refusal) is ReplyError
        assert not link.closed


async def test_nothing_reaches_anybody_after_close() -> None:
    async with FakeRedis() as fake, a_link(fake.url) as link:
        heard: list[Any] = []
        link.received, link.lost = heard.append, heard.append
        link.write(pack("PING"))
        link.close()
        link.buffer_updated(0)
        link.connection_lost(None)
        link.connection_lost(ConnectionResetError())
        await turns()
        assert heard == []


@pytest.mark.parametrize("said", [b"!what is this\r\n", b"+nobody asked\r\n"])
async def test_a_connection_that_says_what_nobody_asked_for_is_lost(said: bytes) -> None:
    async with FakeRedis() as fake, a_link(fake.url) as link:
        ended: list[Link] = []
        link.lost = ended.append
        fake.writers[0].write(said)
        await until(lambda: link.closed, "the end")
        assert ended == [link]
        with pytest.raises(OSError, match="lost"):
            await link.ask([pack("PING")], timeout=1.0)


async def test_who_asks_over_a_connection_that_ends_is_told() -> None:
    async with FakeRedis() as fake, a_link(fake.url) as link:
        fake.says = lambda command: b""
        asking = asyncio.ensure_future(link.ask([pack("PING")], timeout=5.0))
        await turns()
        fake.cut()
        with pytest.raises(ConnectionResetError):
            await asking
    async with FakeRedis() as fake, a_link(fake.url) as link:
        fake.says = lambda command: b"+1\r\n+2\r\n"
        with pytest.raises(OSError, match="answers"):
            await link.ask([pack("PING")], timeout=5.0)


async def test_whoever_sends_much_can_wait_until_it_is_on_its_way(start: Callable[..., RedisServer]) -> None:
    async with Proxy(start().port) as proxy, a_link(proxy.url) as link:
        proxy.delay = 0.01  # for each piece of 64 KiB
        link.received = lambda replies: None
        await link.drained()
        link.write(pack("ECHO", b"x" * 30_000_000))
        waiting = asyncio.ensure_future(link.drained())
        await turns()
        assert not waiting.done()
        async with asyncio.timeout(20.0):
            await waiting


@pytest.mark.parametrize("how", ["unix", "password", "database"])
async def test_redis_py_owns_the_way_there(start: Callable[..., RedisServer], tmp_path: Path, how: str) -> None:
    server = start("--unixsocket", str(tmp_path / "redis.sock"))
    server.ask("CONFIG", "SET", "requirepass", "p@ss")
    url = {
        "unix": f"unix://:p%40ss@{tmp_path}/redis.sock?db=0",
        "password": f"redis://default:p%40ss@127.0.0.1:{server.port}/0",
        "database": f"redis://:p%40ss@127.0.0.1:{server.port}/3",
    }[how]
    async with an_exchange(url) as exchange:
        assert await exchange.submit("SET", "key", how) == b"OK"
        expected = b"db=3" if how == "database" else b"db=0"
        assert expected in await exchange.submit("CLIENT", "INFO")


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_it_works_in_either_loop_also_when_the_loop_stands_still_for_a_while(server: RedisServer, kind: str) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def drive() -> None:
        async with an_exchange(server.url, timeout=0.5) as exchange:
            assert await asyncio.gather(*[exchange.submit("ECHO", f"{number}") for number in range(500)]) == [
                f"{number}".encode() for number in range(500)
            ]
            link = exchange._link
            for _ in range(2):
                asked = exchange.submit("ECHO", "there")
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                time.sleep(1.2)  # noqa: ASYNC251 - the answer is there, and nobody could look
                assert await asked == b"there"
            assert exchange._link is link, "it was taken for silent"

    factory = uvloop.new_event_loop if kind == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(drive())


@NEEDS_OPENSSL
@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_the_transport_of_tls_is_taken_over_too(tmp_path: Path, kind: str) -> None:
    uvloop = pytest.importorskip("uvloop")
    server, address, trusting = tls_server(tmp_path)

    async def drive() -> None:
        async with an_exchange(address + trusting) as exchange:
            large = "x" * 2_000_000
            calls = [exchange.submit("ECHO", f"{number}") for number in range(500)]
            assert await exchange.submit("ECHO", large) == large.encode()
            assert await asyncio.gather(*calls) == [f"{number}".encode() for number in range(500)]
        async with an_exchange(address) as exchange:
            with pytest.raises(LogUnavailable, match="cannot be reached"):
                await exchange.submit("PING")

    factory = uvloop.new_event_loop if kind == "uvloop" else asyncio.new_event_loop
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(drive())
    finally:
        server.stop()


# -- what is sent together


async def test_commands_collect_while_a_round_trip_is_under_way_and_go_in_order(server: RedisServer) -> None:
    async with Proxy(server.port) as proxy, an_exchange(proxy.url) as exchange:
        await exchange.submit("PING")
        sizes: list[int] = []
        link = exchange._link
        assert link is not None
        original = exchange._received

        def received(replies: list[Any]) -> None:
            if not sizes or len(exchange._waiting.flight) > 0:
                sizes.append(len(exchange._waiting.flight))
            original(replies)

        link.received = received
        key = f"order{next(_numbers)}"
        calls = [exchange.submit("RPUSH", key, number) for number in range(1_000)]
        assert await asyncio.gather(*calls) == list(range(1, 1_001))
        assert max(sizes) == MOST
        assert await exchange.submit("LRANGE", key, 0, -1) == [b"%d" % number for number in range(1_000)]


async def test_a_large_command_does_not_wait_for_company_and_takes_none_along() -> None:
    async with FakeRedis() as fake, an_exchange(fake.url, timeout=5.0) as exchange:
        await exchange.submit("PING")
        flights: list[int] = []

        def says(_command: Command) -> None:
            flights.append(len(exchange._waiting.flight))

        fake.says = says
        calls = [exchange.submit("SET", "k", b"x" * 600_000) for _ in range(5)]
        await asyncio.gather(*calls)
        assert max(flights) == 2, "a megabyte at once, and what exceeds it"


async def test_what_was_cancelled_before_it_was_sent_is_not_sent() -> None:
    async with FakeRedis() as fake, an_exchange(fake.url) as exchange:
        await exchange.submit("PING")
        under_way = exchange.submit("ECHO", "first")
        await turns(2)
        behind = [exchange.submit("ECHO", f"{number}") for number in range(3)]
        behind[1].cancel()
        assert [await each for each in (under_way, behind[0], behind[2])] == [b"first", b"0", b"2"]
        assert [command[-1] for command in fake.asked] == [b"PING", b"first", b"0", b"2"]


async def test_a_command_that_cannot_be_encoded_has_no_place(server: RedisServer) -> None:
    async with an_exchange(server.url) as exchange:
        neighbours = [exchange.submit("ECHO", f"{number}") for number in range(3)]
        for nonsense in (None, object(), ["list"]):
            with pytest.raises(TypeError):
                exchange.submit("ECHO", nonsense)
        neighbours.append(exchange.send(pack("ECHO", "3")))
        assert await asyncio.gather(*neighbours) == [b"0", b"1", b"2", b"3"]


async def test_a_closed_exchange_takes_nothing(server: RedisServer) -> None:
    async with an_exchange(server.url) as exchange:
        await exchange.submit("PING")
    with pytest.raises(ManagerClosed):
        exchange.submit("PING")


# -- scripts


@pytest.mark.parametrize("after", range(0, 12, 3))
async def test_scripts_flushed_amid_a_batch_turn_nothing_around(after: int) -> None:
    async with FakeRedis() as fake, an_exchange(fake.url, scripts=[ECHO]) as exchange:
        await exchange.run(ECHO, (), ("-",))
        left = after

        def says(command: Command) -> None:
            nonlocal left
            if command[0] == b"EVALSHA":
                left -= 1
                if left == -1:
                    fake.scripts.clear()

        fake.says = says
        calls = [exchange.run(ECHO, (), (number,)) for number in range(10)]
        later = [exchange.run(ECHO, (), (number,)) for number in range(10, 300)]
        answers = await asyncio.gather(*calls, *later)
        assert answers == [f"{number}".encode() for number in range(300)]
        assert fake.executed[1:] == answers, "in another order, or twice"
        assert len(fake.opened) == 1


async def test_scripts_flushed_again_and_again_turn_nothing_around(server: RedisServer) -> None:
    async with an_exchange(server.url) as exchange, an_exchange(server.url) as other:
        key = f"flushed{next(_numbers)}"
        for start_ in range(0, 3_000, 300):
            calls = [
                asyncio.ensure_future(exchange.run(PUSH, (key,), (number,))) for number in range(start_, start_ + 300)
            ]
            await turns(2)
            await other.submit("SCRIPT", "FLUSH")
            assert await asyncio.gather(*calls) == list(range(start_ + 1, start_ + 301))
        assert await exchange.submit("LRANGE", key, 0, -1) == [b"%d" % number for number in range(3_000)]


async def test_scripts_are_there_before_the_first_command(server: RedisServer) -> None:
    script = Script(f"return '{os.urandom(8).hex()}'")
    async with an_exchange(server.url, scripts=[script]) as exchange, an_exchange(server.url) as other:
        await exchange.submit("PING")
        assert await other.submit("SCRIPT", "EXISTS", script.digest) == [1]


async def test_a_redis_that_keeps_no_scripts_is_told_apart_and_blocks_nobody() -> None:
    async with FakeRedis() as fake, an_exchange(fake.url) as exchange:
        fake.says = lambda command: b"-NOSCRIPT No matching script.\r\n" if command[0] == b"EVALSHA" else None
        calls = [exchange.run(ECHO, (), (number,)) for number in range(3)]
        outcomes = await asyncio.gather(*calls, exchange.submit("ECHO", "other"), return_exceptions=True)
        assert [str(outcome) for outcome in outcomes[:3]] == ["Redis does not keep scripts"] * 3
        assert outcomes[3] == b"other"
        fake.says = lambda command: None
        assert await exchange.run(ECHO, (), ("again",)) == b"again"


# -- refusals


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("READONLY You can't write against a read only replica.", "READONLY"),
        (
            "ERR Error running script (call to f_6b1b): @user_script:1: @user_script: 1: -READONLY You can't write",
            "READONLY",
        ),
        ("ERR Error running script (call to f_6b1b): @user_script:1: -OOM command not allowed when", "OOM"),
        ("ERR Error running script (call to f_6b1b): @user_script:9: attempt to index a nil value", "ERR"),
        ("ERR unknown command 'x', with args beginning with: ' -READONLY '", "ERR"),
        ("WRONGTYPE Operation against a key", "WRONGTYPE"),
        ("SECRET-AND-LONG what", "ERR"),
        ("AVERYLONGWORDTHATISNOTONE what", "ERR"),
        ("", "ERR"),
    ],
)
def test_a_refusal_is_known_by_its_word(text: str, word: str) -> None:
    assert word_of(text) == word


@pytest.mark.parametrize(
    "refusal",
    [
        b"-READONLY You can't write against a read only replica.\r\n",
        b"-ERR Error running script (call to f_1): @user_script:1: @user_script: 1: -READONLY You can't write\r\n",
        b"-LOADING Redis is loading the dataset in memory\r\n",
        b"-MASTERDOWN Link with MASTER is down\r\n",
        b"-NOAUTH Authentication required.\r\n",
    ],
)
async def test_a_server_that_is_no_longer_the_right_one_is_left_for_whoever_is_there_now(refusal: bytes) -> None:
    async with FakeRedis() as fake, an_exchange(fake.url, scripts=[ECHO]) as exchange:
        await exchange.submit("PING")
        fake.says = lambda command: refusal if command[0] == b"EVALSHA" and len(fake.opened) == 1 else None
        calls = [exchange.run(ECHO, (), ("1",)), exchange.submit("ECHO", "2")]
        refused, neighbour = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(refused, LogUnavailable)
        assert neighbour == b"2"
        assert await exchange.run(ECHO, (), ("3",)) == b"3"
        assert len(fake.opened) == 2


async def test_a_server_that_is_still_loading_when_scripts_are_loaded_is_asked_again() -> None:
    async with FakeRedis() as fake, an_exchange(fake.url, scripts=[ECHO]) as exchange:
        fake.says = lambda command: (
            b"-LOADING Redis is loading\r\n" if command[0] == b"SCRIPT" and len(fake.opened) < 3 else None
        )
        with pytest.raises(LogUnavailable, match="still loading"):
            await exchange.run(ECHO, (), ("1",))
        assert await persistent(lambda: exchange.run(ECHO, (), ("1",))) == b"1"
        assert len(fake.opened) == 3
        assert fake.executed == [b"1"]


async def test_what_was_acknowledged_is_sent_again_until_it_was_taken() -> None:
    async with FakeRedis() as fake:
        replayed = [("SET", "one", "1"), pack("SET", "two", "2")]
        async with an_exchange(fake.url, replay=lambda: replayed) as exchange:
            await exchange.submit("PING")
            fake.about = fake.about.replace(b"one", b"another")
            fake.says = lambda command: b"-LOADING\r\n" if command[1:2] == [b"two"] and len(fake.opened) == 2 else None
            fake.cut()
            await until(lambda: exchange._link is None, "the end of the connection")
            await persistent(lambda: exchange.submit("ECHO", "last"))
            assert [command[-1] for command in fake.asked] == [b"PING", b"1", b"1", b"2", b"last"]
            assert len(fake.opened) == 3


async def test_answers_that_nobody_asked_for_are_given_to_nobody() -> None:
    async with FakeRedis() as fake, an_exchange(fake.url) as exchange:
        await exchange.submit("PING")
        fake.says = lambda command: b"+PONG\r\n+stray\r\n" if command == [b"PING"] else None
        with pytest.raises(LogUnavailable):
            await exchange.submit("PING")
        assert await exchange.submit("ECHO", "mine") == b"mine"
        fake.writers[-1].write(b"+stray\r\n")
        link = exchange._link
        await until(lambda: exchange._link is not link, "leaving the connection")
        assert await exchange.submit("ECHO", "mine") == b"mine"


async def test_a_connection_that_was_lost_long_ago_ends_no_other() -> None:
    async with FakeRedis() as fake, an_exchange(fake.url) as exchange:
        await exchange.submit("PING")
        old = exchange._link
        assert old is not None
        callback = old.lost
        fake.cut()
        await until(lambda: exchange._link is None, "the end of the connection")
        assert await exchange.submit("ECHO", "1") == b"1"
        new = exchange._link
        old.connection_lost(None)
        callback(old)
        assert exchange._link is new
        assert await exchange.submit("ECHO", "2") == b"2"
        assert len(fake.opened) == 2


async def test_a_silent_connection_that_nobody_uses_is_left(server: RedisServer) -> None:
    async with Proxy(server.port) as proxy, an_exchange(proxy.url, timeout=0.4) as exchange:
        await exchange.submit("PING")
        link = exchange._link
        await asyncio.sleep(1.0)
        assert exchange._link is link, "it answers"
        proxy.blackholed = True
        await until(lambda: exchange._link is None, "leaving it", 2.0)
        proxy.blackholed = False
        assert await exchange.submit("ECHO", "1") == b"1"


async def test_a_process_that_stood_still_asks_anew_who_is_there() -> None:
    async with FakeRedis() as fake, an_exchange(fake.url) as exchange:
        await exchange.submit("PING")
        exchange._heard_at -= 10.0  # as after a SIGSTOP, in which another may have become the master
        assert await exchange.submit("ECHO", "1") == b"1"
        assert len(fake.opened) == 2


async def test_whatever_is_sent_as_the_connection_ends_has_an_outcome() -> None:
    async with FakeRedis() as fake, an_exchange(fake.url) as exchange:
        for turn in range(12):
            await persistent(lambda: exchange.submit("PING"))
            calls = [exchange.submit("ECHO", f"{number}") for number in range(300)]
            await turns(turn)
            fake.cut()
            await turns(turn % 3)
            calls += [exchange.submit("ECHO", f"{number}") for number in range(300, 600)]
            async with asyncio.timeout(2.0):
                outcomes = await asyncio.gather(*calls, return_exceptions=True)
            for number, outcome in enumerate(outcomes):
                assert isinstance(outcome, LogUnavailable) or outcome == f"{number}".encode()
        assert not exchange._waiting.flight
        assert not exchange._waiting.queue


async def test_an_answer_that_takes_long_to_arrive_is_no_silence() -> None:
    async with FakeRedis() as fake, an_exchange(fake.url, timeout=0.4) as exchange:
        await exchange.submit("PING")
        fake.says = lambda command: b"$8\r\n" if command[0] == b"GET" else None
        asked = exchange.submit("GET", "large")
        await turns()
        for _ in range(8):
            await asyncio.sleep(0.1)
            assert not asked.done()
            fake.writers[0].write(b"x")
        fake.writers[0].write(b"\r\n")
        assert await asked == b"x" * 8
        asked = exchange.submit("GET", "large")
        await turns()
        fake.writers[0].write(b"xxxx")
        started = time.monotonic()
        with pytest.raises(LogUnavailable):
            await asked
        assert time.monotonic() - started < 1.2, "then it is silent"


# -- coming to Redis


async def test_attempts_are_further_and_further_apart_and_need_nobody() -> None:
    async with FakeRedis() as fake, an_exchange(fake.url) as exchange:
        fake.refuses = True
        loop = asyncio.get_running_loop()
        began = loop.time()
        failed = 0
        while loop.time() - began < 2.5:
            with pytest.raises(LogUnavailable):
                await exchange.submit("PING")
            failed += 1
            await asyncio.sleep(0.01)
        gaps = [after - before for before, after in itertools.pairwise(fake.opened)]
        assert 4 <= len(fake.opened) <= 7, gaps
        for number, gap in enumerate(gaps):
            assert gap >= 0.04 * 2**number, gaps
        assert failed > 20, "some failed at once"
        exchange.submit("PING").cancel()
        fake.refuses = False
        await until(lambda: exchange._link is not None, "coming back without being asked again")
        assert await exchange.submit("ECHO", "1") == b"1"


async def test_who_gives_up_asking_leaves_no_attempts_behind() -> None:
    async with FakeRedis() as fake, an_exchange(fake.url) as exchange:
        fake.refuses = True
        with pytest.raises(LogUnavailable):
            await exchange.submit("PING")
        await until(lambda: exchange._reaching is None, "giving up")
        assert len(fake.opened) <= 2
        fake.refuses = False
        assert await persistent(lambda: exchange.submit("ECHO", "1")) == b"1"


def test_the_longest_rest_is_four_seconds_and_a_success_ends_them() -> None:
    rests = Rests(random.Random(1))
    assert rests.left(0.0) == 0.0
    lengths = []
    for _ in range(40):
        rests.failed(0.0)
        lengths.append(rests.left(0.0))
    assert 0.05 <= lengths[0] <= 0.1
    assert all(2.0 <= length <= 4.0 for length in lengths[6:])
    assert len(set(lengths)) == 40, "they come in step with those of other processes"
    rests.succeeded()
    assert rests.left(0.0) == 0.0


async def test_a_fault_costs_no_more_than_two_connections(server: RedisServer) -> None:
    async with Proxy(server.port) as proxy, an_exchange(proxy.url) as exchange:
        done = 0

        async def press() -> None:
            nonlocal done
            while True:
                try:
                    await exchange.submit("PING")
                    done += 1
                except LogUnavailable:
                    pass
                await asyncio.sleep(0)

        pressing = [asyncio.ensure_future(press()) for _ in range(20)]
        await until(lambda: done > 100, "the first answers")
        for fault in range(1, 9):
            proxy.cut()
            before = done
            await until(lambda: done > before + 100, "answers")  # noqa: B023
            assert proxy.opened <= 1 + 2 * fault
        for task in pressing:
            task.cancel()
        await asyncio.wait(pressing)


async def asked_in_vain(exchange: Exchange, times: int) -> set[str]:
    texts = set()
    for _ in range(times):
        with pytest.raises(LogUnavailable) as refusal:
            await exchange.run(ECHO, ("hunter-key",), ("hunter-argument",))
        texts.add(str(refusal.value))
        await asyncio.sleep(0.12)
    return texts


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://default:hunter2@127.0.0.1:{port}/0", "Redis refused the user or the password"),
        ("redis://127.0.0.1:{port}/0", "Redis refused the user or the password"),
        ("redis://hunter:right@127.0.0.1:{port}/0", "Redis refuses scripts: NOPERM"),
        ("redis://silent:right@127.0.0.1:{port}/0", "Redis refuses INFO: NOPERM"),
        ("redis://127.0.0.1:1/0", "Redis cannot be reached"),
        ("redis://no-such-host.invalid/0", "Redis cannot be reached"),
    ],
)
async def test_what_is_wrong_is_said_clearly_once_and_without_secrets(
    start: Callable[..., RedisServer], url: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = start()
    server.ask("CONFIG", "SET", "requirepass", "right")
    with_password = f"redis://:right@127.0.0.1:{server.port}/0"
    async with an_exchange(with_password) as exchange:
        await exchange.submit("ACL", "SETUSER", "hunter", "on", ">right", "~*", "&*", "+@all", "-@scripting")
        await exchange.submit("ACL", "SETUSER", "silent", "on", ">right", "~*", "&*", "+@all", "-info")
    caplog.clear()
    caplog.set_level(logging.DEBUG)
    async with an_exchange(url.format(port=server.port), scripts=[ECHO]) as exchange:
        assert await asked_in_vain(exchange, 5) == {text}
    records = [record for record in caplog.records if record.name.startswith("websocket_core")]
    assert [record.levelno for record in records if record.levelno >= logging.WARNING] == [logging.WARNING]
    assert any(record.levelno == logging.DEBUG for record in records), "it tried once only"
    for record in records:
        assert "hunter" not in f"{record.getMessage()} {vars(record)}".replace("hunter2@", "")


async def test_a_redis_that_is_too_old_is_named_as_such() -> None:
    async with FakeRedis() as fake, an_exchange(fake.url) as exchange:
        fake.about = b"redis_version:6.0.16\r\nrun_id:one\r\n"
        with pytest.raises(LogUnavailable, match=r"too old: 6\.2"):
            await exchange.submit("PING")
        fake.about = b"redis_version:6.2.0\r\nrun_id:one\r\n"
        assert await persistent(lambda: exchange.submit("ECHO", "1")) == b"1"


async def test_the_same_refusal_is_warned_of_once(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async with an_exchange(server.url) as exchange:
        await exchange.submit("SET", "text", "1")
        for _ in range(5):
            with pytest.raises(LogUnavailable, match="WRONGTYPE"):
                await exchange.submit("RPUSH", "text", "private")
        assert await exchange.submit("GET", "text") == b"1"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "private" not in caplog.text
