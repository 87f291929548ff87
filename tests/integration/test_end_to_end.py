# ruff: noqa: SIM117  the server outside, its clients inside: two levels read better than one long line
"""The application of the tutorial over real sockets: an agent runs, and its own user sees it live, and nobody else."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from fastapi import FastAPI

from bridge import UserExecutionContext
from tests.integration.conftest import Serve
from tests.integration.support import CANARY, SECRET, Application, serving, token
from tests.support import check_runs, until
from websocket_core import Limits, Retention, UnifiedWebSocketManager
from websocket_core.auth import JWTAuthenticator
from websocket_core.router import websocket_router

PROTOCOLS = pytest.mark.parametrize("v1", [False, True], ids=["plain", "v1"])


@PROTOCOLS
async def test_the_example_of_the_documentation_works_as_it_stands(v1: bool) -> None:
    manager = UnifiedWebSocketManager(log="memory://", limits=Limits(), retention=Retention())
    app = FastAPI(lifespan=manager.lifespan)
    app.include_router(
        websocket_router(
            manager,
            authenticate=JWTAuthenticator(key=SECRET, algorithms=["HS256"]),
            origins=["https://app.example"],
        ),
        prefix="/live",
    )

    @app.post("/ask")
    async def ask(user: str) -> dict[str, int]:
        position = await manager.get_emitter(user).emit(
            "agent_thinking", {"thought": "..."}, run_id="r1", thread_id="t1", event_id=None
        )
        bridge = manager.create_agent_bridge(UserExecutionContext(user, "r2", "t1"))
        async with bridge.run("planner") as run:
            await run.thinking("Looking for flights")
            async with run.tool("search", query="LIS") as tool:
                tool.result = {"hits": 3}
            await run.delta("Three flights")
            run.result = {"answer": "Three flights"}
        return {"offset": position.offset}

    async with serving(app) as site, site.client("alice", v1=v1) as alice, site.client("bob", v1=v1) as bob:
        greeting = await alice.greeted()
        assert greeting["user_id"] == "alice"
        assert greeting["protocol"] == ("unified-websocket.v1" if v1 else "plain")
        assert greeting["heartbeat"] == 25.0
        assert 3_500 < greeting["expires_in"] <= 3_600
        async with httpx.AsyncClient() as http:
            assert (await http.post(f"{site.http}/ask?user=alice")).json() == {"offset": 1}
        events = await alice.has(7)
        assert [event["type"] for event in events] == [
            "agent_thinking", "agent_started", "agent_thinking", "tool_executing", "tool_completed", "message_delta",
            "agent_completed",
        ]  # fmt: skip
        check_runs([event for event in events if event["run_id"] == "r2"])
        assert list(events[0]) == ["type", "data", "timestamp", "user_id", "run_id", "thread_id", "id", "cursor"]
        assert events[-1]["data"]["result"] == {"answer": "Three flights"}
        await bob.greeted()
        assert bob.events == []


@PROTOCOLS
async def test_twenty_users_run_at_once_and_each_sees_the_own_run(serve: Serve, v1: bool) -> None:
    users = [f"user-{number}" for number in range(20)]
    async with serve() as (site, application):
        clients = [site.client(user, v1=v1, connection_id="same") for user in users]
        for client in clients:
            await client.__aenter__()
        async with asyncio.TaskGroup() as group:
            for user in users:
                group.create_task(application.run(user))
        for user, client in zip(users, clients, strict=True):
            events = await client.has(6)
            check_runs(events)
            assert {event["user_id"] for event in events} == {user}
            assert events[1]["data"]["thought"] == f"{CANARY} for {user}"
            await client.__aexit__()
        assert application.manager.metrics.isolation_violations == 0


async def test_two_tabs_of_one_user_see_the_same(serve: Serve) -> None:
    async with serve() as (site, application), site.client(v1=True) as one, site.client() as two:
        await one.greeted()
        await application.run()
        await one.has(6)
        await two.has(6)
        assert one.events == two.events
        assert (await one.greeted())["connection_id"] != (await two.greeted())["connection_id"]
        async with site.client() as late:
            assert await late.has(6) == one.events


async def test_an_event_for_one_tab_is_read_by_that_tab_only(serve: Serve) -> None:
    async with serve() as (site, application):
        async with site.client(connection_id="tab-1") as one, site.client(connection_id="tab-2") as two:
            await one.greeted()
            await two.greeted()
            await application.emit("alice", 1, connection_id="tab-1")
            await application.emit("alice", 2)
            await one.has(2)
            await two.has(1)
            assert (one.numbers, two.numbers) == ([1, 2], [2])


async def test_a_thread_in_the_address_narrows_to_that_conversation(serve: Serve) -> None:
    async with serve() as (site, application), site.client(thread_id="t1") as narrowed, site.client() as whole:
        for n, thread in enumerate(("t1", "t2", None, "t1")):
            await application.emit("alice", n, thread_id=thread)
        await narrowed.has(2)
        await whole.has(4)
        assert narrowed.numbers == [0, 3]
        async with site.client(thread_id="") as blank:
            await blank.has(4)


@PROTOCOLS
async def test_a_user_stops_the_own_run_and_nobody_elses(serve: Serve, v1: bool) -> None:
    async with serve() as (site, application), site.client("alice", v1=v1) as alice, site.client("bob", v1=v1) as bob:
        task = asyncio.create_task(application.run("alice", "r1", stop=asyncio.Event()))
        other = asyncio.create_task(application.run("alice", "r2", stop=asyncio.Event()))
        await alice.has(6)
        for run_id in ("r1", "nobodys", "", "r1 "):
            answer = await bob.ask({"type": "cancel", "run_id": run_id})
            assert (answer["type"], answer["code"]) == ("error", "not_found")
        assert (await alice.ask({"type": "cancel", "run_id": "nobodys"}))["code"] == "not_found"
        assert (await alice.ask({"type": "cancel"}))["code"] == "invalid"
        assert (await alice.ask({"type": "cancel", "run_id": ["r1"]}))["code"] == "invalid"
        assert not task.done()
        assert (await alice.ask({"type": "cancel", "run_id": "r1"}))["type"] == "ack"
        await asyncio.wait([task])
        assert task.cancelled()
        await alice.has(8)
        ended = [event for event in alice.events if event["run_id"] == "r1"][-1]
        assert (ended["type"], ended["data"]["status"]) == ("agent_completed", "cancelled")
        frames = [frame["type"] for frame in alice.frames]
        assert frames.index("ack") < frames.index("agent_completed"), "the ack comes first"
        assert (await alice.ask({"type": "cancel", "run_id": "r1"}))["code"] == "not_found", "it has ended"
        assert not other.done()
        await alice.ask({"type": "cancel", "run_id": "r2"})
        await asyncio.wait([other])
        await alice.has(10)
        check_runs(alice.events)


@PROTOCOLS
async def test_ten_thousand_events_arrive_in_order(serve: Serve, v1: bool) -> None:
    retention = Retention(events=10_000, bytes=16_000_000)
    async with serve(retention=retention) as (site, application), site.client(v1=v1) as client:
        await client.greeted()
        for n in range(10_000):
            await application.emit("alice", n)
        await until(lambda: len(client.frames) > 10_000, seconds=30.0)
        assert client.numbers == list(range(10_000))
        if v1:
            assert len(client.texts) < 5_000
        else:
            assert len(client.texts) == 10_001


async def test_every_character_of_a_payload_arrives(serve: Serve) -> None:
    data = {"text": "".join(map(chr, [*range(0, 0xD800, 7), *range(0xE000, 0x11000, 11), 0x1F600])), "\u2028": "\n"}
    async with serve() as (site, application):
        await application.manager.get_emitter("alice").emit("custom", data)
        for v1 in (False, True):
            async with site.client(v1=v1) as client:
                assert (await client.has(1))[0]["data"] == data


async def test_the_metrics_are_served_and_name_nobody(serve: Serve) -> None:
    async with serve() as (site, application), site.client("alice") as client, httpx.AsyncClient() as http:
        before = (await http.get(f"{site.http}/metrics")).text
        await application.run("alice", "metrics-run")
        await client.has(6)
        answer = await http.get(f"{site.http}/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain")

    def value(text: str, name: str) -> float:
        return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name} "))

    text = answer.text
    assert value(text, "isolation_violations_total") == value(before, "isolation_violations_total")
    assert value(text, "websocket_events_appended_total") == value(before, "websocket_events_appended_total") + 6
    assert value(text, "websocket_events_delivered_total") == value(before, "websocket_events_delivered_total") + 6
    assert value(text, "websocket_connections") == 5
    for identity in ("alice", "mallory", "metrics-run", "t1", "tab-1", CANARY):
        assert f'"{identity}' not in text
    ours = [line for line in text.splitlines() if line.startswith(("websocket_", "isolation_"))]
    assert all("{" not in line or "{le=" in line for line in ours)
    assert len(text.splitlines()) == len(before.splitlines())


async def test_shutting_the_server_down_tells_clients_to_come_again(serve: Serve) -> None:
    async with serve() as (site, application), site.client(v1=True) as one, site.client("bob") as two:
        for n in range(100):
            await application.emit("alice", n)
        await one.has(100)
        await two.greeted()
        await site.stop()
        assert await one.closed() == await two.closed() == 1012
        assert application.manager.get_stats()["total_connections"] == 0


async def test_a_manager_that_shuts_down_under_a_running_server_delivers_first(serve: Serve) -> None:
    async with serve(hostile=False) as (site, application), site.client() as client:
        await client.greeted()
        for n in range(500):
            await application.emit("alice", n)
        await application.manager.shutdown()
        assert await client.closed() == 1012
        assert client.numbers == list(range(500))
        async with site.client() as refused:
            assert await refused.closed() == 1013


async def test_draining_sends_clients_away_and_takes_no_new_ones(serve: Serve) -> None:
    async with serve(hostile=False) as (site, application), site.client() as client:
        await application.emit("alice", 1)
        await client.greeted()
        drain = asyncio.create_task(application.manager.drain(budget=1.0))
        await asyncio.sleep(0)
        async with site.client("bob") as late:
            assert await late.closed() == 1013
        assert await client.closed() == 1012
        assert client.numbers == [1]
        await drain


async def test_a_server_may_be_started_again_with_the_same_application() -> None:
    """The log lives in the manager: a client that resumes finds everything."""
    application = Application()
    async with serving(application.app) as site, site.client() as client:
        await application.emit("alice", 1)
        await client.has(1)
    async with serving(application.app) as site, site.client(cursor=client.cursor) as again:
        assert (await again.greeted())["resumed"] is True
        await application.emit("alice", 2)
        await again.has(1)
        assert again.numbers == [2]


async def test_the_limits_hold_over_real_sockets(serve: Serve) -> None:
    limits = Limits(connections_per_user=4, connections=10)
    async with serve(limits=limits) as (site, application):
        names = ["d", "c", "b", "a", "e"]
        clients = [site.client("alice", connection_id=name) for name in names]
        for client in clients:
            await client.__aenter__()
            await client.greeted()
        assert await clients[0].closed() == 4409, "the oldest by arrival"
        assert [client.code for client in clients[1:]] == [None] * 4
        again = site.client("alice", connection_id="a")
        await again.__aenter__()
        await again.greeted()
        assert await clients[3].closed() == 4409, "the same id"
        for user in ("bob", "carol"):
            await site.client(user).__aenter__()
        async with site.client("dave") as refused:
            assert await refused.closed() == 1013
        assert application.manager.get_stats()["total_connections"] == 10
        await application.emit("alice", 1)
        await again.has(1)


async def test_nobody_can_read_a_token_out_of_what_the_server_says(serve: Serve) -> None:
    secret = token("alice", claim="claim-canary")
    async with serve() as (site, application):
        async with site.client(None) as client:
            await client.say({"type": "auth", "token": secret})
            await client.greeted()
            await application.emit("alice", 1)
            await client.has(1)
            await client.ask({"type": "auth", "token": secret})
            await client.ask({"type": secret})
            await client.ask({"type": "cancel", "run_id": secret})
            await client.say(f'{{"type": "x", {secret}')
            await client.gets(lambda: [f for f in client.of_type("error") if f["code"] == "malformed"])
            said = json.dumps(client.frames)
        assert secret not in said
        assert "claim-canary" not in said
