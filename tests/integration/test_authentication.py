# ruff: noqa: SIM117  the server outside, its clients inside: two levels read better than one long line
"""Who may connect: over real sockets, by every way that a credential can come, and with every way it can be wrong."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.integration.conftest import Serve
from tests.integration.support import SECRET, bearer, serving, token
from tests.support import until
from websocket_core import Limits, Principal
from websocket_core.auth import AuthenticationFailed, AuthRequest, JWTAuthenticator
from websocket_core.connection import WebSocketConnection

STRICT = JWTAuthenticator(key=SECRET, algorithms=["HS256"], audience="live", issuer="https://id.example")

OTHER_KEY = "another secret of more than thirty-two bytes"


def forged(header: dict[str, Any], payload: dict[str, Any], signature: str = "") -> str:
    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part(header)}.{part(payload)}.{signature}"


def wrong_tokens() -> dict[str, str]:
    """Tokens that are wrong, each in one way."""
    good = token()
    head, payload, signature = good.split(".")
    hour = int(time.time()) + 3_600
    fine = {"sub": "alice", "exp": hour}
    return {
        "no token at all": "",
        "no JWT": "alice",
        "two parts": f"{head}.{payload}",
        "four parts": f"{good}.x",
        "no signature": f"{head}.{payload}.",
        "changed signature": f"{head}.{payload}.{signature[:-4]}AAAA",
        "changed payload": f"{head}.{forged({}, fine | {'sub': 'bob'}).split('.')[1]}.{signature}",
        "wrong key": token(key=OTHER_KEY),
        "alg none": forged({"alg": "none", "typ": "JWT"}, fine),
        "alg None": forged({"alg": "None"}, fine),
        "alg none with a signature": forged({"alg": "none"}, fine, signature),
        "no alg": forged({"typ": "JWT"}, fine, signature),
        "an algorithm that is not on the list": token(algorithm="HS512", key=SECRET * 2),
        "a key in the header": forged({"alg": "HS256", "jwk": {"kty": "oct", "k": "eA"}}, fine, signature),
        "expired": token(exp=int(time.time()) - 10),
        "no exp": token(without="exp"),
        "exp is text": token(exp="soon"),
        "not yet": token(nbf=hour),
        "no sub": token(without="sub"),
        "sub is empty": token(""),
        "sub is a number": forged({"alg": "HS256"}, fine | {"sub": 1}, signature),
        "sub has a control character": token("alice\n"),
        "sub is too long": token("x" * 257),
        "too long": token(pad="x" * 16_000),
    }


@pytest.mark.parametrize("way", ["header", "first frame", "query"])
async def test_a_wrong_token_is_accepted_and_closed_as_not_authenticated(serve: Serve, way: str) -> None:
    """Accepted first, since a browser learns nothing of a handshake that is refused. Nobody else notices."""
    async with serve(query_token=True) as (site, application), site.client("bob") as bob:
        await bob.greeted()
        for name, wrong in wrong_tokens().items():
            if way == "header" and not wrong:
                continue  # then the first frame is waited for
            if way != "first frame" and len(wrong) > 8_000:
                continue  # the server below takes no line of that length
            headers = {"Authorization": f"Bearer {wrong}"} if way == "header" else {}
            query = {"token": wrong} if way == "query" and wrong else {}
            async with site.client(None, headers=headers, query=query) as client:
                if way == "first frame" or not wrong:
                    await client.say({"type": "auth", "token": wrong})
                assert await client.closed() == 4401, name
                assert client.reason == "not authenticated"
                assert client.frames == []
        assert application.manager.get_stats()["total_users"] == 2
        await application.emit("bob", 1)
        await bob.has(1)


@pytest.mark.parametrize("v1", [False, True])
async def test_a_good_token_may_come_in_a_header_or_in_the_first_frame(serve: Serve, v1: bool) -> None:
    async with serve() as (site, _):
        async with site.client("alice", v1=v1) as by_header:
            assert (await by_header.greeted())["user_id"] == "alice"
        async with site.client(None, v1=v1) as by_frame:
            await by_frame.say({"type": "auth", "token": token("alice")})
            assert (await by_frame.greeted())["user_id"] == "alice"
        async with site.client(None, headers={"Authorization": f"bearer  {token()}"}) as lower_case:
            assert (await lower_case.greeted())["user_id"] == "alice"


async def test_a_token_in_the_address_counts_only_where_that_is_switched_on(serve: Serve) -> None:
    async with serve(query_token=True) as (site, _), site.client(None, token=token("alice")) as client:
        assert (await client.greeted())["user_id"] == "alice"
    async with serve(limits=Limits(auth_timeout=0.2)) as (site, _), site.client(None, token=token("alice")) as client:
        assert await client.closed() == 4408, "it waited for a first frame"
    async with serve() as (site, _), site.client(None, token=token("alice")) as client:
        await client.say({"type": "auth", "token": token("bob")})
        assert (await client.greeted())["user_id"] == "bob"


async def test_a_header_goes_before_an_address(serve: Serve) -> None:
    async with serve(query_token=True) as (site, _):
        async with site.client("alice", token=token("bob")) as client:
            assert (await client.greeted())["user_id"] == "alice"
        async with site.client(None, headers={"Authorization": "Bearer wrong"}, token=token("bob")) as client:
            assert await client.closed() == 4401


async def test_audience_and_issuer_are_checked_where_they_are_configured(serve: Serve) -> None:
    right: dict[str, Any] = {"aud": "live", "iss": "https://id.example"}
    async with serve(authenticate=STRICT, hostile=False) as (site, _):
        for claims in (right, right | {"aud": ["other", "live"]}):
            async with site.client(None, headers=bearer("alice", **claims)) as client:
                assert (await client.greeted())["user_id"] == "alice"
        wrong: list[dict[str, Any]] = [
            {},
            {"aud": "live"},
            {"iss": "https://id.example"},
            right | {"aud": "other"},
            right | {"aud": []},
            right | {"aud": "LIVE"},
            right | {"iss": "https://id.example/"},
        ]
        for claims in wrong:
            async with site.client(None, headers=bearer("alice", **claims)) as client:
                assert await client.closed() == 4401, claims


async def test_whoever_says_nothing_is_closed_after_a_while(serve: Serve) -> None:
    async with serve(limits=Limits(auth_timeout=0.2), hostile=False) as (site, application):
        began = time.monotonic()
        async with site.client(None) as client:
            assert await client.closed() == 4408
        assert 0.15 < time.monotonic() - began < 5.0
        assert application.manager.get_stats()["total_connections"] == 0


FIRST_FRAMES: list[tuple[str | bytes, int]] = [
    ("not json", 4400),
    ("[]", 4400),
    ('{"type": 1}', 4400),
    ('{"type": "auth", "type": "auth", "token": "x"}', 4400),
    ('{"type": "auth", "token": "x", "cursors": []}', 4400),
    ('{"type": "auth", "token": "x", "cursors": {"": 1}}', 4400),
    ('{"type": "auth"}', 4401),
    ('{"type": "auth", "token": null}', 4401),
    ('{"type": "auth", "token": ["x"]}', 4401),
    ('{"type": "ping"}', 4401),
    ('{"type": "subscribe", "topics": ["x"]}', 4401),
    ('{"type": "auth", "pad": "' + "x" * 30_000 + '"}', 1009),
    ("x" * 70_000, 1009),
    (b"binary", 1003),
]


async def test_a_first_frame_that_is_wrong_ends_the_connection(serve: Serve) -> None:
    async with serve() as (site, _):
        for frame, code in FIRST_FRAMES:
            async with site.client(None) as client:
                await client.say(frame)
                assert await client.closed() == code, frame[:80]
                assert client.frames == []


async def test_a_cursor_may_come_with_the_first_frame(serve: Serve) -> None:
    async with serve() as (site, application):
        async with site.client("alice") as before:
            for n in range(5):
                await application.emit("alice", n)
            events = await before.has(5)
        async with site.client(None, cursor=events[0]["cursor"]) as client:
            await client.say({"type": "auth", "token": token(), "cursors": {"": events[2]["cursor"]}})
            await client.has(2)
            assert client.numbers == [3, 4], "that of the frame is the newer one"
        async with site.client(None) as client:
            await client.say({"type": "auth", "token": token(), "cursors": {"": "no cursor"}})
            assert await client.closed() == 4400


async def test_nobody_is_heard_before_authenticating(serve: Serve) -> None:
    async with serve(hostile=False) as (site, application):
        task = asyncio.create_task(application.run("alice", "r1", stop=asyncio.Event()))
        await until(lambda: len(application.manager.runs) == 1)
        async with site.client(None) as client:
            await client.say({"type": "cancel", "run_id": "r1"})
            assert await client.closed() == 4401
        assert not task.done()
        application.manager.runs.cancel(application.manager.get_emitter("alice").user_id, "r1")
        await asyncio.wait([task])


async def test_sockets_that_wait_to_authenticate_are_bounded(serve: Serve) -> None:
    limits = Limits(unauthenticated=3, auth_timeout=1.5)
    async with serve(limits=limits, hostile=False) as (site, application):
        waiting = [site.client(None) for _ in range(3)]
        for client in waiting:
            await client.__aenter__()
        async with site.client(None) as refused:
            assert await refused.closed() == 1013
        async with site.client("alice") as known:
            assert (await known.greeted())["user_id"] == "alice", "who brings a token waits in no queue"
        await waiting[0].cut()

        async def gets_in() -> bool:
            async with site.client(None) as client:
                with contextlib.suppress(ConnectionClosed):
                    await client.say({"type": "auth", "token": token()})
                await until(lambda: client.frames or client.code is not None)
                return bool(client.frames)

        async with asyncio.timeout(5):
            while not await gets_in():
                pass  # until the server has seen that one has left
        for client in waiting[1:]:
            assert await client.closed() == 4408
        assert application.manager.get_stats()["total_connections"] == 0


@pytest.mark.parametrize("where", ["header", "address"])
async def test_a_credential_too_long_for_http_is_refused_and_holds_up_nothing(serve: Serve, where: str) -> None:
    """Above 8 KB the server below takes no line; such a token belongs into the first frame. Who sends it all the same
    is told and sent away, and one that stays does not keep the server from stopping in order."""
    long = token(pad="x" * 9_000)
    ended: list[str] = []

    async with serve(query_token=True) as (site, application), site.client("bob") as bob:
        await bob.greeted()

        async def disconnected(connection: WebSocketConnection) -> None:
            ended.append(connection.user_id)

        application.manager._hooks._on_disconnect = disconnected
        reader, writer = await asyncio.open_connection(*site.host.split(":"))
        query = f"?token={long}" if where == "address" else ""
        credential = f"Authorization: Bearer {long}\r\n" if where == "header" else ""
        writer.write(
            f"GET /live/ws{query} HTTP/1.1\r\nHost: {site.host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{credential}\r\n".encode()
        )
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.startswith(b"HTTP/1.1 431" if where == "header" else b"HTTP/1.1 414")
        assert long.encode() not in answer
        await application.emit("bob", 1)
        await bob.has(1)
        await site.stop()
        assert await bob.closed() == 1012
        assert "bob" in ended, "the manager was shut down as well"
        writer.close()
        async with serving(application.app) as again, again.client(None) as client:
            await client.say({"type": "auth", "token": long})
            assert (await client.greeted())["user_id"] == "alice"


# -- authenticators of one's own


async def test_an_application_authenticates_as_it_likes(serve: Serve) -> None:
    seen: list[AuthRequest] = []

    async def authenticate(request: AuthRequest) -> Principal:
        seen.append(request)
        if request.headers.get("x-key") != "right":
            raise AuthenticationFailed("no")
        return Principal(request.query["as"])

    async with serve(authenticate=authenticate, hostile=False) as (site, _):
        async with site.client(None, headers={"X-Key": "right"}, query={"as": "zo\u00eb"}) as client:
            assert (await client.greeted())["user_id"] == "zo\u00eb"
        assert seen[0].token is None
        assert seen[0].origin is None
        assert seen[0].client is not None
        assert seen[0].client[0] == "127.0.0.1"
        async with site.client(None, headers={"X-Key": "wrong"}) as client:
            await client.say({"type": "auth", "token": "t"})
            assert await client.closed() == 4401
        assert seen[-1].token == "t"


async def test_cookies_are_shown_only_with_an_exact_list_of_origins(serve: Serve) -> None:
    seen: list[dict[str, str]] = []

    async def authenticate(request: AuthRequest) -> Principal:
        seen.append(dict(request.cookies))
        return Principal("alice")

    cookie = {"Cookie": "session=s1; other=o"}
    async with (
        serve(authenticate=authenticate, hostile=False) as (site, _),
        site.client(None, headers=cookie) as client,
    ):
        await client.greeted()
    origin = "https://app.example"
    async with serve(authenticate=authenticate, hostile=False, origins=[origin]) as (site, _):
        async with site.client(None, headers=cookie, origin=origin) as client:
            await client.greeted()
    assert seen == [{}, {"session": "s1", "other": "o"}]


@pytest.mark.parametrize("error", [ValueError("canary"), KeyError("canary"), ZeroDivisionError()])
async def test_an_authenticator_that_crashes_lets_nobody_in(serve: Serve, error: Exception) -> None:
    async def authenticate(request: AuthRequest) -> Principal:
        raise error

    async with serve(authenticate=authenticate, hostile=False) as (site, application):
        async with site.client() as client:
            assert await client.closed() == 1011
            assert "canary" not in client.reason
            assert client.frames == []
        assert application.manager.get_stats()["total_connections"] == 0


# -- expiry and refresh


async def test_a_token_that_expires_on_an_open_socket_closes_it(serve: Serve) -> None:
    limits = Limits(expiry_grace=0.2, sweep_interval=0.05)
    async with serve(limits=limits) as (site, application):
        async with site.client(None, headers=bearer("alice", exp=int(time.time()) + 2)) as client:
            greeting = await client.greeted()
            assert 0 < greeting["expires_in"] <= 2
            await application.emit("alice", 1)
            await client.has(1)
            assert await client.closed() == 4419
            assert client.reason == "token expired"
        async with site.client("alice", cursor=client.cursor) as again:
            assert (await again.greeted())["resumed"] is True, "refresh, then resume"


async def test_nothing_is_sent_after_the_expiry_whatever_the_sweeper_does(serve: Serve) -> None:
    now = time.time()

    async def authenticate(request: AuthRequest) -> Principal:
        return Principal("alice", expires_at=now + 0.5)

    limits = Limits(expiry_grace=0.1, sweep_interval=3_600.0)
    async with serve(authenticate=authenticate, limits=limits, hostile=False) as (site, application):
        async with site.client() as client:
            await client.greeted()
            await until(lambda: time.time() > now + 0.7)
            await application.emit("alice", 1)
            assert await client.closed() == 4419
            assert client.events == []


async def test_a_token_is_refreshed_on_the_open_socket(serve: Serve) -> None:
    limits = Limits(expiry_grace=0.2, sweep_interval=0.05)
    async with serve(limits=limits) as (site, application):
        async with site.client(None, headers=bearer("alice", exp=int(time.time()) + 2)) as client:
            expiry = time.time() + 2.5
            await client.greeted()
            refused = await client.ask({"type": "auth", "token": token("alice", key=OTHER_KEY)})
            assert (refused["type"], refused["code"]) == ("error", "unauthenticated")
            assert (await client.ask({"type": "auth"}))["code"] == "invalid"
            answer = await client.ask({"type": "auth", "token": token("alice")})
            assert answer["type"] == "ack"
            assert 3_500 < answer["result"]["expires_in"] <= 3_600
            await until(lambda: time.time() > expiry)
            await application.emit("alice", 1)
            await client.has(1)
            assert client.code is None


async def test_a_refresh_for_another_user_closes_the_socket(serve: Serve) -> None:
    async with serve() as (site, application), site.client("alice") as client, site.client("bob") as bob:
        await client.greeted()
        await client.say({"type": "auth", "token": token("bob")})
        assert await client.closed() == 4403
        await application.emit("bob", 1)
        await bob.has(1)
        assert client.events == []


async def test_a_refresh_with_an_expired_token_is_refused(serve: Serve) -> None:
    async with serve() as (site, _), site.client("alice") as client:
        await client.greeted()
        answer = await client.ask({"type": "auth", "token": token("alice", exp=int(time.time()) - 5)})
        assert answer["code"] == "unauthenticated"
        assert client.code is None


# -- origins


LISTED = ["https://app.example"]

ORIGINS: list[tuple[list[str] | None, dict[str | None, bool]]] = [
    (
        None,
        {
            None: True, "http://{host}": True, "HTTP://{host}": True, "https://{host}": False,
            "http://127.0.0.1:1": False, "http://evil.example": False, "http://{host}.evil.example": False,
            "http://evil.example/{host}": False, "http://{host}@evil.example": False, "null": False, "file://": False,
            "": False,
        },
    ),
    (
        LISTED,
        {
            None: True, "https://app.example": True, "https://APP.example:443": True, "http://app.example": False,
            "https://app.example:444": False, "https://sub.app.example": False, "https://xapp.example": False,
            "https://app.example.evil.example": False, "http://{host}": False, "null": False,
        },
    ),
    ([], {None: True, "https://app.example": False, "http://{host}": False}),
]  # fmt: skip


@pytest.mark.parametrize(("origins", "cases"), ORIGINS, ids=["none listed", "one listed", "an empty list"])
async def test_only_pages_of_the_listed_origins_may_connect(
    serve: Serve, origins: list[str] | None, cases: dict[str | None, bool]
) -> None:
    """Without a list, pages of the server's own origin; programs send none."""
    async with serve(origins=origins, hostile=False) as (site, application):
        for origin, allowed in cases.items():
            headers = {} if origin is None else {"Origin": origin.format(host=site.host)}
            client = site.client("alice", headers=headers)
            if allowed:
                async with client:
                    await client.greeted()
                continue
            with pytest.raises(InvalidStatus) as refused:
                await client.__aenter__()
            assert refused.value.response.status_code == 403, origin
        await until(lambda: application.manager.get_stats()["total_connections"] == 0)
