"""What clients send, right and wrong, over real sockets: an answer or a documented code; nobody else is disturbed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.integration.conftest import Serve
from tests.integration.support import CANARY
from websocket_core import Limits

MALFORMED: list[str] = [
    "", " ", "x", "null", "true", "1", '"text"', "[]", "{}", '{"type"}', '{"type": null}', '{"type": 1}',
    '{"type": ["ping"]}', '{"type": "ping"', '{"type": "ping"}{"type": "ping"}', '{"type": "ping"}\n{"type": "ping"}',
    '{"type": "ping", "type": "pong"}', '{"type": "ping", "n": NaN}', '{"type": "ping", "n": Infinity}',
    '{"type": "ping", "n": 1e999}', '{"type": "ping", "n": ' + "9" * 400 + "}", '{"type": "ping", "s": "\\ud800"}',
    "{'type': 'ping'}", '{"type": "ping",}', '{"type": "ping", "request_id": 1}',
    '{"type": "ping", "request_id": "' + "x" * 129 + '"}', '{"type": "ping", "x": ' + "[" * 200 + "]" * 200 + "}",
    "[" * 30_000, '{"a":' * 10_000, '{"type": "ping", "\\ud800": 1}', "\ufeff" + '{"type": "ping"}',
]  # fmt: skip


@pytest.mark.parametrize("v1", [False, True])
async def test_a_malformed_frame_is_answered_with_an_error_and_changes_nothing(serve: Serve, v1: bool) -> None:
    async with serve() as (site, application), site.client(v1=v1) as client, site.client("bob") as bob:
        await bob.greeted()
        for n, text in enumerate(MALFORMED):
            await client.say(text)
            await client.ask({"type": "ping"})  # a good one between, so that the count begins anew
            errors = client.of_type("error")
            assert len(errors) == n + 1, text[:60]
            assert errors[-1]["code"] == "malformed"
            assert "request_id" not in errors[-1]
        await application.emit("alice", 1)
        await application.emit("bob", 2)
        await client.has(1)
        await bob.has(1)
        assert client.code is None


async def test_ten_malformed_frames_in_a_row_end_the_connection(serve: Serve) -> None:
    async with serve() as (site, application):
        async with site.client() as client:
            for _ in range(9):
                await client.say("x")
            await client.ask({"type": "ping"})
            for _ in range(9):
                await client.say("x")
            await client.ask({"type": "ping"})
            assert len(client.of_type("error")) == 18
            assert client.code is None
            for _ in range(10):
                await client.say("x")
            assert await client.closed() == 4400
            assert client.reason == "malformed"
        async with site.client("bob") as bob:
            await application.emit("bob", 1)
            await bob.has(1)


async def test_a_binary_frame_ends_the_connection(serve: Serve) -> None:
    async with serve() as (site, _), site.client() as client:
        await client.greeted()
        await client.say(b'{"type": "ping"}')
        assert await client.closed() == 1003


async def test_a_frame_of_the_largest_size_is_read_and_a_larger_one_ends_the_connection(serve: Serve) -> None:
    async with serve() as (site, application), site.client("bob") as bob:
        await bob.greeted()
        async with site.client() as client:
            frame = {"type": "ping", "request_id": "big", "pad": ""}
            frame["pad"] = "x" * (65_536 - len(json.dumps(frame)))
            await client.say(frame)
            await client.gets(lambda: client.of_type("pong"))
            frame["pad"] += "x"
            await client.say(frame)
            assert await client.closed() == 1009
        async with site.client() as client:
            await client.greeted()
            await client.say("x" * 2_000_000)
            assert await client.closed() == 1009
        await application.emit("bob", 1)
        await bob.has(1)


async def test_the_size_of_a_frame_is_counted_in_bytes_and_bounded_by_the_manager_as_well(serve: Serve) -> None:
    async with serve(limits=Limits(frame_bytes=2_000)) as (site, _):
        fit, too_big = ["x" * 1_900, "\u00e9" * 900], ["x" * 2_100, "\u00e9" * 1_100]
        for text in fit + too_big:
            async with site.client() as client:
                await client.say(json.dumps({"type": "ping", "pad": text}, ensure_ascii=False))
                if text in fit:
                    await client.ask({"type": "ping"})
                    assert len(client.of_type("pong")) == 2
                else:
                    assert await client.closed() == 1009


UNKNOWN = ["", "nothing", "PING", "connected", "ack", "error", "gap", "agent_started", "__class__", "x" * 1_000]


async def test_an_unknown_type_is_answered_by_its_request_id_and_not_repeated(serve: Serve) -> None:
    async with serve() as (site, _), site.client() as client:
        for frame_type in UNKNOWN:
            answer = await client.ask({"type": frame_type, "data": CANARY})
            assert (answer["type"], answer["code"]) == ("error", "unknown_type"), frame_type
            assert len(answer["message"]) < 200
        assert CANARY not in json.dumps(client.frames)
        assert client.code is None


@pytest.mark.parametrize("v1", [False, True])
async def test_a_ping_is_answered_with_the_position(serve: Serve, v1: bool) -> None:
    async with serve() as (site, application), site.client(v1=v1) as client:
        greeting = await client.greeted()
        assert (await client.ask({"type": "ping"}))["cursor"] == greeting["cursor"]
        await application.emit("alice", 1)
        (event,) = await client.has(1)
        assert (await client.ask({"type": "ping", "cursor": event["cursor"]}))["cursor"] == event["cursor"]


@pytest.mark.parametrize("v1", [False, True])
async def test_heartbeats_reach_real_clients(serve: Serve, v1: bool) -> None:
    limits = Limits(heartbeat=0.1, heartbeat_timeout=1.0, sweep_interval=0.05)
    async with serve(limits=limits, hostile=False) as (site, application):
        async with site.client(v1=v1) as client:
            assert (await client.greeted())["heartbeat"] == 0.1
            await client.gets(lambda: len(client.of_type("ping")) >= 5)
            assert client.code is None
            assert len({ping["cursor"] for ping in client.of_type("ping")}) == 1
        if v1:
            silent = site.client(v1=True)
            silent.answers_pings = False
            async with silent:
                assert await silent.closed() == 4408
                assert silent.reason == "timed out"
        assert application.manager.get_stats()["total_connections"] == 0


MALFORMED_ADDRESSES = [
    {"cursor": "no cursor"}, {"cursor": ""}, {"cursor": "a.1."}, {"cursor": "x" * 500}, {"cursor": "a.1.m\n"},
    {"connection_id": ""}, {"connection_id": "a\n"}, {"connection_id": "x" * 257},
]  # fmt: skip


async def test_a_malformed_address_is_closed_as_malformed(serve: Serve) -> None:
    async with serve(hostile=False) as (site, application):
        for query in MALFORMED_ADDRESSES:
            async with site.client(query=query) as client:
                assert await client.closed() == 4400, query
                assert client.frames == []
        assert application.manager.get_stats()["total_connections"] == 0


async def test_who_sends_much_and_reads_nothing_is_held_up_alone(serve: Serve) -> None:
    limits = Limits(frames_per_second=1_000_000)
    async with serve(limits=limits) as (site, application), site.client() as flooding, site.client("bob") as bob:
        await bob.greeted()
        for n in range(2_000):
            await flooding.say({"type": "ping", "request_id": str(n)})
        await application.emit("bob", 1)
        await bob.has(1)
        await flooding.gets(lambda: len(flooding.of_type("pong")) == 2_000)
        assert [frame["request_id"] for frame in flooding.of_type("pong")] == [str(n) for n in range(2_000)]


async def test_who_sends_more_frames_than_allowed_is_told_to_back_off(serve: Serve) -> None:
    async with serve() as (site, application), site.client() as flooding, site.client("bob") as bob:
        await bob.greeted()
        for n in range(300):
            await flooding.say({"type": "ping", "request_id": str(n)})
        assert await flooding.closed() == 4429
        assert flooding.reason == "limit reached"
        await application.emit("bob", 1)
        await bob.has(1)


async def test_what_a_client_sends_reaches_no_other_client(serve: Serve) -> None:
    async with serve() as (site, _), site.client("alice") as alice, site.client("bob") as bob:
        await bob.greeted()
        frames: list[dict[str, Any]] = [
            {"type": "custom", "data": {"x": CANARY}, "user_id": "bob"},
            {"type": "message", "to": "bob", "text": CANARY},
            {"type": "agent_completed", "user_id": "bob", "data": {"result": CANARY}},
            {"type": "ping", "cursor": f"{CANARY}.1.m", "user_id": "bob"},
        ]
        for frame in frames:
            await alice.ask(frame)
        await bob.ask({"type": "ping"})
        assert [frame["type"] for frame in bob.frames] == ["connected", "pong"]
