"""Redis watched over by sentinels: whoever takes the master's place is found, and the old master is left alone."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio.sentinel import MasterNotFoundError

from tests.listening import free_port
from tests.redis.marks import NEEDS_REDIS
from tests.redis.server import RedisServer, redis_binary
from tests.redis.test_redis_faults import ALICE, STUBBORN, a_fleet, an_appender, an_event, emit_all, ids_in
from tests.redis.test_redis_feed import Follower, heard
from tests.support import Tab, until
from websocket_core.errors import InvalidConfiguration, LogUnavailable
from websocket_core.logs.redis import RedisLog
from websocket_core.logs.redis.addresses import Addresses, _Sentinels
from websocket_core.logs.redis.exchange import STALL_SECONDS, Exchange

pytestmark = NEEDS_REDIS

QUORUM = 2


class SentinelProcess:
    def __init__(self, directory: Path, master: int, number: int) -> None:
        self.port = free_port()
        configuration = directory / f"sentinel-{number}.conf"
        configuration.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {directory}\ndaemonize no\n"
            f"sentinel monitor mymaster 127.0.0.1 {master} {QUORUM}\n"
            "sentinel down-after-milliseconds mymaster 500\n"
            "sentinel failover-timeout mymaster 3000\n"
        )
        binary = redis_binary()
        assert binary is not None
        self.process = subprocess.Popen(
            [binary, str(configuration), "--sentinel"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def stop(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()


class House:
    """A master, two replicas and three sentinels."""

    def __init__(self, directory: Path) -> None:
        for number in range(3):
            (directory / str(number)).mkdir()
        at_once = ("--repl-diskless-sync-delay", "0")
        self.master = RedisServer(directory / "0", *at_once)
        replicaof = ("--replicaof", "127.0.0.1", f"{self.master.port}", *at_once)
        self.servers = [self.master]
        self.sentinels: list[SentinelProcess] = []
        try:
            self.servers += [RedisServer(directory / str(number), *replicaof) for number in (1, 2)]
            self.sentinels += [SentinelProcess(directory, self.master.port, number) for number in range(3)]
            self.until(lambda: all(self.complete(each) for each in self.sentinels), "the sentinels know each other")
            self.until(lambda: all(in_step(each) for each in self.servers[1:]), "the replicas have what the master has")
        except BaseException:
            self.stop()
            raise

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels)
        return f"redis+sentinel://{hosts}/mymaster/0"

    def stop(self) -> None:
        for sentinel in self.sentinels:
            sentinel.stop()
        for server in self.servers:
            server.stop()

    def asked(self, sentinel: SentinelProcess, *command: str) -> bytes:
        with socket.create_connection(("127.0.0.1", sentinel.port), 2.0) as connection:
            connection.sendall(" ".join(command).encode() + b"\r\n")
            time.sleep(0.02)
            return connection.recv(65_536)

    def complete(self, sentinel: SentinelProcess) -> bool:
        with contextlib.suppress(OSError):
            said = self.asked(sentinel, "SENTINEL", "MASTER", "mymaster").split(b"\r\n")
            facts = dict(zip(said[2::4], said[4::4], strict=False))
            return facts.get(b"num-other-sentinels") == b"2" and facts.get(b"num-slaves") == b"2"
        return False

    def named(self, sentinel: SentinelProcess) -> int:
        """The port of the master, as a sentinel says."""
        return int(self.asked(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster").split(b"\r\n")[4])

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 25.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
            time.sleep(0.05)

    async def until_another_is_master(self) -> None:
        before = self.master.port
        await asyncio.to_thread(
            self.until, lambda: all(self.named(each) != before for each in self.sentinels), "another master"
        )


def in_step(replica: RedisServer) -> bool:
    return b"master_link_status:up" in replica.ask("INFO", "replication")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    built = House(tmp_path)
    yield built
    built.stop()


async def port_of(exchange: Exchange) -> int:
    """Where the exchange has come to; tried until it has."""
    deadline = time.monotonic() + 20.0
    while True:
        try:
            return int((await exchange.submit("CONFIG", "GET", "port"))[1])
        except LogUnavailable:
            assert time.monotonic() < deadline, "no master was found"
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def an_exchange(url: str) -> AsyncIterator[Exchange]:
    exchange = Exchange(url, timeout=2.0)
    try:
        yield exchange
    finally:
        await exchange.close()


async def test_when_the_master_is_killed_everybody_comes_back_on_the_next_by_themselves(house: House) -> None:
    async with a_fleet(house.url, "sentinel", 2, retry=STUBBORN) as (here, there):
        tab = await Tab.open(there, "alice", v1=True)
        await tab.greeted()
        await emit_all(here, range(100))
        await tab.has(100)
        house.master.kill()
        started = time.monotonic()
        await emit_all(here, range(100, 200))
        print(f"a killed master cost {time.monotonic() - started:.1f} s")
        await until(lambda: 199 in tab.numbers, "the last event", 10.0)
        # What the replica did not have yet is appended again, behind a gap that says so; a client handles no id twice.
        assert list(dict.fromkeys(tab.numbers)) == list(range(200))
        assert {gap["reason"] for gap in tab.socket.of_type("gap")} <= {"diverged", "new_epoch"}


async def test_a_frozen_master_that_comes_back_is_written_no_more_by_who_was_idle_meanwhile(house: House) -> None:
    """It takes itself for the master for a while, and drops what it was given when it learns better."""
    async with an_exchange(house.url) as exchange:
        assert await exchange._addresses._master() == {"host": "127.0.0.1", "port": house.master.port}
        assert await port_of(exchange) == house.master.port
        house.master.signal(signal.SIGSTOP)
        await house.until_another_is_master()
        house.master.signal(signal.SIGCONT)
        written = await exchange.submit("SET", "late", "1")
        role = house.master.ask("ROLE")
        held = house.master.ask("EXISTS", "late")
        assert written == b"OK"
        assert b"master" in role, "it does not know yet; else this shows nothing"
        assert held == b":0\r\n", "the zombie was written"
        assert await port_of(exchange) != house.master.port


async def test_a_frozen_master_is_left_by_writers_and_followers(house: House) -> None:
    """What was sent to it before anybody knew, it carries out when it goes on; whoever read that is told."""
    async with a_fleet(house.url, "frozen", 2, retry=STUBBORN) as (here, there):
        tab = await Tab.open(there, "alice", v1=True)
        await tab.greeted()
        await emit_all(here, range(20))
        await tab.has(20)
        house.master.signal(signal.SIGSTOP)
        await emit_all(here, range(20, 30))
        house.master.signal(signal.SIGCONT)
        await emit_all(here, range(30, 40))
        await until(lambda: 39 in tab.numbers, "the last event", 10.0)
        assert list(dict.fromkeys(tab.numbers)) == list(range(40))
        assert {gap["reason"] for gap in tab.socket.of_type("gap")} <= {"diverged"}
        log = RedisLog(house.url, namespace="frozen")
        assert await ids_in(log) == [f"n{number}" for number in range(40)]
        await log.close()


async def test_a_master_that_hands_over_is_followed_before_it_knows(house: House) -> None:
    """Told to, sentinels choose another master while everybody is connected to the old one. That takes writes for ten
    seconds more, and drops them."""
    log = RedisLog(house.url, namespace="handed")
    await an_appender(log).append(ALICE, an_event(0))
    async with an_exchange(house.url) as exchange:
        before = await port_of(exchange)
        follower = Follower(log)
        await heard(log)
        told = ("SENTINEL", "FAILOVER", "mymaster")
        house.until(lambda: house.asked(house.sentinels[0], *told) == b"+OK\r\n", "the order")
        await house.until_another_is_master()
        switched = time.monotonic()
        while await port_of(exchange) == before:
            assert time.monotonic() < switched + 2.0, "the old master is still written"
            await asyncio.sleep(0.02)
        await an_appender(log).append(ALICE, an_event(1))
        await follower.has(["e0", "e1"], 4.0)
        assert b"master" in house.master.ask("ROLE"), "it does not know yet; else this shows nothing"
    await follower.end()
    await log.close()


async def test_a_sentinel_that_stands_still_and_one_that_is_gone_cost_little_time(house: House) -> None:
    house.sentinels[0].process.send_signal(signal.SIGSTOP)
    house.sentinels[1].stop()
    async with an_exchange(house.url) as exchange:
        started = time.monotonic()
        assert await exchange.submit("PING") == b"PONG"
        assert time.monotonic() - started < 2.0


async def test_a_master_that_answers_late_is_asked_for_again(house: House) -> None:
    """Long enough for another to be chosen, and nobody else may tell."""
    async with an_exchange(house.url) as exchange:
        await exchange.submit("PING")
        link = exchange._link
        assert exchange._guard is not None
        exchange._guard.task.cancel()
        house.master.signal(signal.SIGSTOP)
        late = exchange.submit("PING")
        await asyncio.sleep(STALL_SECONDS + 0.2)
        house.master.signal(signal.SIGCONT)
        assert await late == b"PONG"
        answer, deadline = None, time.monotonic() + 10.0
        while answer is None:  # a sentinel may take the master for down at this moment
            assert time.monotonic() < deadline
            with contextlib.suppress(LogUnavailable):
                answer = await exchange.submit("PING")
        assert exchange._link is not link


# -- without a server


class Told:
    """A sentinel that knows one master, or is about to make another one known."""

    def __init__(self, port: int, epoch: int, *, next_port: int | None = None, **flags: bool) -> None:
        self.where = ("127.0.0.1", next_port or port)
        state = {"is_master": True, "is_sdown": False, "is_odown": False, "num-other-sentinels": 2}
        self.state = state | {"ip": "127.0.0.1", "port": port, "config-epoch": epoch} | flags

    async def sentinel_masters(self) -> dict[str, Any]:
        return {"mymaster": self.state}

    async def sentinel_get_master_addr_by_name(self, service: str) -> tuple[str, int]:
        assert service == "mymaster"
        return self.where


class Away:
    async def sentinel_masters(self) -> dict[str, Any]:
        raise ConnectionRefusedError


async def test_among_sentinels_the_latest_decision_counts_whoever_answers_first() -> None:
    asked: Any = _Sentinels([])  # type: ignore[no-untyped-call]
    asked.sentinels = [Told(1, 4), Away(), Told(2, 5), Told(1, 4)]
    assert await asked.discover_master("mymaster") == ("127.0.0.1", 2)
    asked.sentinels = [Told(2, 5, is_odown=True), Told(1, 4)]
    assert await asked.discover_master("mymaster") == ("127.0.0.1", 1)
    asked.sentinels = [Told(1, 4), Told(1, 5, next_port=2, is_odown=True)]
    assert await asked.discover_master("mymaster") == ("127.0.0.1", 2), "the next one is named, and the old one is down"
    for nobody in ([Away()], [Told(2, 5, is_sdown=True)], []):
        asked.sentinels = nobody
        with pytest.raises(MasterNotFoundError):
            await asked.discover_master("mymaster")
    asked.sentinels = [Told(1, 1)]
    with pytest.raises(MasterNotFoundError):
        await asked.discover_master("another")


@pytest.mark.parametrize(
    ("url", "sentinels", "service", "options"),
    [
        ("redis+sentinel://one/mymaster", [("one", 26379)], "mymaster", {}),
        (
            "redis+sentinel://us%40er:p%2Fw@one:1,[::1]:2,three/main/3?health_check_interval=9&sentinel_password=s",
            [("one", 1), ("::1", 2), ("three", 26379)],
            "main",
            {"username": "us@er", "password": "p/w", "db": 3, "health_check_interval": 9},
        ),
    ],
)
def test_a_url_of_sentinels_names_them_the_service_and_the_database(
    url: str, sentinels: list[tuple[str, int]], service: str, options: dict[str, Any]
) -> None:
    addresses = Addresses(url, timeout=2.0)
    assert (addresses._sentinels, addresses._service) == (sentinels, service)
    assert {name: addresses._options[name] for name in options} == options
    assert addresses._sentinel_options.get("password") == ("s" if "sentinel_password" in url else None)
    assert addresses._sentinel_options["protocol"] == 2
    assert "sentinel_password" not in addresses._options
    assert addresses.guarded


def test_tls_is_for_the_sentinels_too() -> None:
    addresses = Addresses("rediss+sentinel://one/mymaster?ssl_cert_reqs=none", timeout=2.0)
    assert addresses._options["connection_class"].__name__ == "SSLConnection"
    assert addresses._options["ssl_cert_reqs"] == "none"
    assert addresses._sentinel_options["ssl"] is True
    assert addresses._sentinel_options["ssl_cert_reqs"] == "none"


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://sec:ret@one:26379",
        "redis+sentinel://sec:ret@one:26379/",
        "redis+sentinel://sec:ret@/mymaster",
        "redis+sentinel://sec:ret@one:port/mymaster",
        "redis://:sec/ret@one:6379/0",
        "redis://sec:ret@one:99999999/0",
        "redis://sec:ret@one/0?no_such_option=1",
        "redis://sec:ret@one/0?socket_timeout=ret",
    ],
)
def test_a_url_that_cannot_be_read_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(InvalidConfiguration) as refusal:
        Addresses(url, timeout=2.0)
    assert "ret" not in str(refusal.value).replace("redis", "")
    assert refusal.value.__cause__ is None
    assert refusal.value.__suppress_context__
