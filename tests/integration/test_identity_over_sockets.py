"""Who a connection belongs to is decided by what was authenticated on it, whatever else a client says and whoever
connects in the same moment. Over real sockets."""

from __future__ import annotations

import asyncio

from tests.integration.conftest import Serve
from tests.integration.support import token


async def test_users_who_connect_at_once_are_not_mixed_up(serve: Serve) -> None:
    """Forty users connect in the same moment, each with a token of its own; each is greeted as itself and gets only
    what was emitted to it."""
    async with serve() as (site, application):
        users = [f"user-{number}" for number in range(40)]
        clients = [site.client(user) for user in users]
        await asyncio.gather(*(client.__aenter__() for client in clients))
        try:
            for user, client in zip(users, clients, strict=True):
                await client.greeted()
                assert client.frames[0]["user_id"] == user
            for user in users:
                await application.manager.get_emitter(user).emit("mine", {"for": user})
            for user, client in zip(users, clients, strict=True):
                await client.has(1)
                assert [event["data"] for event in client.events] == [{"for": user}]
        finally:
            await asyncio.gather(*(client.__aexit__(None, None, None) for client in clients))


async def test_no_word_of_a_client_names_another_user(serve: Serve) -> None:
    async with serve() as (site, application):
        await application.manager.get_emitter("alice").emit("secret", {"of": "alice"})
        lies = {name: "alice" for name in ("user_id", "user", "sub", "principal", "connection_id")}
        async with site.client("bob", query=lies, headers={"X-User-Id": "alice"}) as client:
            await client.greeted()
            assert client.frames[0]["user_id"] == "bob"
            await application.manager.get_emitter("bob").emit("mine", {"of": "bob"})
            await client.has(1)
            assert [event["data"] for event in client.events] == [{"of": "bob"}]


async def test_a_resume_authenticates_again(serve: Serve) -> None:
    """Whoever holds a cursor, and even names the user, gets nothing without that user's credential."""
    async with serve() as (site, application):
        await application.manager.get_emitter("alice").emit("secret", {"of": "alice"})
        async with site.client("alice") as client:
            await client.has(1)
            cursor = client.events[0]["cursor"]
        forged = token("alice", key="another secret of thirty-two bytes!!")
        for first_frame in (None, {"type": "auth", "token": forged, "cursors": {"": cursor}}):
            async with site.client(None, query={"cursor": cursor, "user_id": "alice"}) as client:
                await client.say(first_frame or {"type": "auth", "token": "", "cursors": {"": cursor}})
                assert await client.closed() == 4401
                assert client.frames == []
