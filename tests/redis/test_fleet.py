"""Servers and workers as real processes on one Redis: killed, frozen, restarted.

Nothing that was acknowledged is lost, nothing is shown twice or out of order, and nobody sees anything of another user.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.redis.fleet.ledger import Ledger, Promise, Verdict
from tests.redis.fleet.processes import Fleet, Process, metric, wait_for
from tests.redis.fleet.reconnect import measure
from tests.redis.marks import NEEDS_REDIS
from tests.redis.server import PERSISTENCE, RedisServer

pytestmark = NEEDS_REDIS

USERS = ("alice", "Alice", "alice*", "{alice}", "ali:ce", "al ice")
"""Users who would be one another if a name were folded, cut, or taken for a pattern."""
FROZEN_SECONDS = 4.5
"""Longer than an exchange with Redis may take, and than a client waits for a word."""


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    started = RedisServer(tmp_path, *PERSISTENCE["always"])
    yield started
    started.stop()


def first(fleet: Fleet, node: Process) -> Callable[[], list[str]]:
    """That server as long as there is one, then any."""
    return lambda: [node.address] if node in fleet.nodes else fleet.addresses()


def everybody_everywhere(fleet: Fleet, **options: float) -> None:
    """Each user has a tab on each server, every other one that of a plain browser."""
    for number, node in enumerate(fleet.nodes):
        for position, user in enumerate(fleet.users):
            fleet.open(user, addresses=first(fleet, node), v1=(number + position) % 2 == 0, **options)


async def more_events(fleet: Fleet, count: int = 15) -> None:
    """Everybody is shown so many more."""
    wanted = [(tab, tab.events + count) for tab in fleet.tabs]
    await wait_for(lambda: all(tab.events >= events for tab, events in wanted), "events for everybody", 15)


async def judged(fleet: Fleet, redis: RedisServer) -> Verdict:
    """Nobody emits any more, everybody has come to the end, and the ledger has found nothing."""
    await fleet.halt()
    await fleet.settle(redis.url)
    await fleet.leave()
    verdict = Ledger(await fleet.story(Promise(durable=True))).judge()
    assert verdict.violations == []
    assert verdict.acknowledged > 100
    assert verdict.shown >= verdict.acknowledged
    return verdict


async def test_an_event_of_any_process_reaches_every_tab_of_its_user_on_every_server_and_nobody_else(
    redis: RedisServer, tmp_path: Path
) -> None:
    async with Fleet(tmp_path, redis.url, users=USERS, rate=40.0) as fleet:
        await fleet.start(2, 1, emits=USERS)
        everybody_everywhere(fleet)
        await more_events(fleet, 60)
        for tab in fleet.tabs[::2]:
            tab.cut()
        await more_events(fleet)
        verdict = await judged(fleet, redis)
        assert verdict.resumed >= len(fleet.tabs) // 2
        for node in fleet.nodes:
            assert await metric(node, "websocket_connections") == 0


async def test_the_clients_of_a_killed_server_go_on_at_another(redis: RedisServer, tmp_path: Path) -> None:
    async with Fleet(tmp_path, redis.url, users=USERS, rate=40.0) as fleet:
        await fleet.start(2, 1, emits=USERS[:3])
        everybody_everywhere(fleet)
        await more_events(fleet)
        for node in list(fleet.nodes):
            fleet.kill(node)
            await more_events(fleet)
            await fleet.replace_killed(node)
        await more_events(fleet)
        assert (await judged(fleet, redis)).resumed >= len(fleet.tabs)


async def test_a_server_that_stands_still_goes_on_where_it_was(redis: RedisServer, tmp_path: Path) -> None:
    """Half of its clients wait for it, the others lose patience and go on elsewhere."""
    async with Fleet(tmp_path, redis.url, users=USERS, rate=40.0) as fleet:
        await fleet.start(2, 1, emits=USERS[:3])
        everybody_everywhere(fleet)
        everybody_everywhere(fleet, patience=2.5)
        await more_events(fleet)
        frozen, runs = fleet.nodes
        patient, impatient = fleet.tabs[: len(USERS)], fleet.tabs[2 * len(USERS) : 3 * len(USERS)]
        fleet.nodes.remove(frozen)
        frozen.signal(signal.SIGSTOP)
        await asyncio.sleep(FROZEN_SECONDS)
        await wait_for(lambda: all(tab.connected_to == runs.address for tab in impatient), "patience to end", 5)
        assert all(tab.connected_to == frozen.address for tab in patient)
        frozen.signal(signal.SIGCONT)
        fleet.nodes.append(frozen)
        await more_events(fleet)
        await judged(fleet, redis)


async def test_four_servers_and_two_workers_that_are_killed_and_frozen_in_turn(
    redis: RedisServer, tmp_path: Path
) -> None:
    async with Fleet(tmp_path, redis.url, users=USERS, rate=30.0) as fleet:
        await fleet.start(4, 2, emits=USERS[:2])
        everybody_everywhere(fleet, patience=2.5)
        await more_events(fleet)
        killed, frozen, other = fleet.nodes[0], fleet.nodes[1], fleet.workers[0]
        fleet.kill(killed)
        frozen.signal(signal.SIGSTOP)
        fleet.kill(other)
        fleet.workers[0].signal(signal.SIGSTOP)
        await fleet.replace_killed(killed)
        await fleet.replace_killed(other)
        await asyncio.sleep(FROZEN_SECONDS)
        fleet.kill(fleet.nodes[1])
        frozen.signal(signal.SIGCONT)
        fleet.workers[0].signal(signal.SIGCONT)
        await more_events(fleet)
        assert (await judged(fleet, redis)).resumed >= len(USERS)


async def test_the_clients_of_a_killed_server_are_whole_again_on_the_others(tmp_path: Path) -> None:
    """`python -m tests.redis.fleet.reconnect --clients 1000` asks for 2 seconds of a machine that does nothing else."""
    figures = await measure(tmp_path, clients=150)
    assert figures.verdict.violations == []
    assert figures.whole[-1] < 10.0
    assert len(figures.whole) == 150
