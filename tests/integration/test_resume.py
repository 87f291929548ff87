# ruff: noqa: SIM117  the server outside, its clients inside: two levels read better than one long line
"""A real cut and the way back: nothing lost, nothing twice, and what cannot be given any more is told."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from tests.integration.conftest import Serve
from tests.support import until
from websocket_core import Limits, Retention

PROTOCOLS = pytest.mark.parametrize("v1", [False, True], ids=["plain", "v1"])


@PROTOCOLS
async def test_a_client_that_is_cut_again_and_again_loses_nothing(serve: Serve, v1: bool) -> None:
    """Under one connection id while events flow, so that each return may also replace what is still there."""
    rng = random.Random(3)
    async with serve() as (site, application):

        async def produce() -> None:
            for n in range(1_000):
                await application.emit("alice", n)
                if n % 10 == 0:
                    await asyncio.sleep(0.001)

        producing = asyncio.create_task(produce())
        seen: list[Any] = []
        query: dict[str, str] = {}
        cuts = 0
        while len(seen) < 1_000:
            async with site.client(v1=v1, connection_id="tab-1", query=query) as client:
                greeting = await client.greeted()
                assert greeting["resumed"] is bool(query)
                if producing.done():
                    await client.has(1_000 - len(seen))
                else:
                    await asyncio.sleep(rng.random() * 0.02)
                    cuts += 1
                await client.cut()
                assert client.of_type("gap") == []
            seen += client.numbers
            query = {"cursor": client.cursor}
        assert seen == list(range(1_000))
        assert cuts >= 3
        await producing
        await until(lambda: application.manager.get_stats()["total_users"] == 1, "the end of the cut connections")


async def test_a_run_goes_on_while_its_user_is_cut_off(serve: Serve) -> None:
    async with serve() as (site, application):
        stop = asyncio.Event()
        async with site.client() as client:
            running = asyncio.create_task(application.run("alice", stop=stop))
            before = await client.has(3)
            await client.cut()
        stop.set()
        await running
        async with site.client(cursor=client.cursor, v1=True) as again:
            after = await again.has(3)
            assert (await again.greeted())["resumed"] is True
        assert [event["type"] for event in before + after] == [
            "agent_started", "agent_thinking", "tool_executing", "tool_completed", "message_delta", "agent_completed",
        ]  # fmt: skip


@PROTOCOLS
async def test_what_is_not_held_any_more_is_told_as_a_gap(serve: Serve, v1: bool) -> None:
    async with serve(retention=Retention(events=10)) as (site, application):
        await application.emit("alice", 0)
        async with site.client() as client:
            await client.has(1)
        for n in range(1, 30):
            await application.emit("alice", n)
        async with site.client(cursor=client.cursor, v1=v1) as again:
            await again.has(10)
            assert again.numbers == list(range(20, 30))
            assert [frame["type"] for frame in again.frames[:3]] == ["connected", "gap", "custom"]
            assert again.frames[0]["resumed"] is False
            assert again.frames[1]["reason"] == "trimmed"
            assert again.frames[0]["cursor"] == client.cursor, "its own, until the gap moves it"
            assert again.frames[1]["cursor"] != client.cursor


async def test_another_users_cursor_gives_my_own_log_and_a_gap(serve: Serve) -> None:
    async with serve() as (site, application), site.client("alice") as alice:
        for n in range(3):
            await application.emit("alice", f"alice {n}")
            await application.emit("bob", f"bob {n}")
        await alice.has(3)
        for event in alice.events:
            async with site.client("bob", cursor=event["cursor"]) as bob:
                await bob.has(3)
                assert bob.numbers == ["bob 0", "bob 1", "bob 2"]
                assert bob.of_type("gap")[0]["reason"] == "new_epoch"
                assert (await bob.greeted())["resumed"] is False


async def test_resuming_authenticates_again(serve: Serve) -> None:
    async with serve() as (site, application), site.client("alice") as alice:
        await application.emit("alice", 1)
        await alice.has(1)
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            async with site.client(None, headers=headers, cursor=alice.cursor, connection_id="tab-1") as thief:
                if not headers:
                    await thief.say({"type": "auth", "token": "wrong"})
                assert await thief.closed() == 4401
                assert thief.frames == []


async def test_latest_asks_for_live_events_only(serve: Serve) -> None:
    async with serve() as (site, application):
        await application.emit("alice", 1)
        async with site.client(cursor="latest") as client:
            await client.greeted()
            await application.emit("alice", 2)
            await client.has(1)
            assert client.numbers == [2]


async def test_a_client_that_stops_reading_delays_nobody_and_is_dropped(serve: Serve) -> None:
    """Its kernel buffers fill up, then its writes hang; everybody else goes on."""
    limits = Limits(write_timeout=1.0, sweep_interval=0.05)
    retention = Retention(bytes=4_000_000, events=100)
    async with serve(limits=limits, retention=retention, hostile=False) as (site, application):
        async with site.client("alice") as stuck, site.client("alice", v1=True) as other, site.client("bob") as bob:
            for client in (stuck, other, bob):
                await client.greeted()
            stuck.connection.transport.pause_reading()
            for n in range(400):
                await application.manager.get_emitter("alice").emit("custom", {"n": n, "pad": "x" * 100_000})
                if n % 20 == 0:
                    await asyncio.sleep(0.001)
            await application.emit("bob", 1)
            await bob.has(1)
            await other.gets(lambda: other.numbers[-1:] == [399])
            await until(lambda: application.manager.get_stats()["total_connections"] == 2, "the end of the stuck one")
            assert application.manager.metrics.stale >= 1
            stuck.connection.transport.abort()


async def test_clients_that_come_and_go_at_any_moment_leave_nothing_behind(serve: Serve) -> None:
    rng = random.Random(11)
    async with serve() as (site, application):

        async def come_and_go(number: int) -> None:
            user = rng.choice(["alice", "bob"])
            authenticated = rng.random() < 0.7
            client = site.client(user if authenticated else None, v1=rng.random() < 0.5, connection_id=f"{number % 7}")
            async with client:
                await asyncio.sleep(rng.random() * 0.02)
                if rng.random() < 0.7:
                    await client.cut()
            for event in client.events:
                assert event["user_id"] == user

        async with asyncio.TaskGroup() as group:
            for number in range(80):
                group.create_task(come_and_go(number))
                if number % 3 == 0:
                    await application.emit(rng.choice(["alice", "bob"]), number)
                    await asyncio.sleep(0.001)
        await until(lambda: application.manager.get_stats()["total_users"] == 1, "the end of all of them")
        assert application.manager.get_stats()["total_connections"] == 4, "Mallory's"
        assert application.manager.metrics.isolation_violations == 0
