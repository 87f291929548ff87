"""Promise: a ticket lets one client in, once, within thirty seconds, as the user who asked for it, and only from where
it was asked for."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI

from tests.asgi import CLIENT, Answer, ASGIClient, ask
from tests.support import VirtualLoop, a_manager, counted_entropy, turns, virtual_time
from websocket_core.auth import AuthenticationFailed, AuthRequest
from websocket_core.errors import InvalidInput, LogUnavailable
from websocket_core.identity import Principal, UserId
from websocket_core.limits import Limits
from websocket_core.router import websocket_router
from websocket_core.state import TICKETS_PER_USER, MemoryState
from websocket_core.tickets import TICKET_SECONDS
from websocket_core.unified_manager import UnifiedWebSocketManager
from websocket_core.wire import CLOSE_RULES, CloseCode

APP = "https://app.example"
ADMIN = "https://admin.example"

_issued: list[str] = []


@pytest.fixture(autouse=True)
def no_ticket_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """At whatever level."""
    _issued.clear()
    caplog.set_level(logging.DEBUG)
    yield
    formatter = logging.Formatter()
    said = [formatter.format(record) + repr(vars(record)) for record in caplog.records]
    for ticket in _issued:
        assert not any(ticket in text for text in said)


def wall_clock() -> float:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop.wall_clock()


async def authenticate(request: AuthRequest) -> Principal:
    """The token is `user`, `user/token id` or `user/token id/seconds it lives`; a cookie `session` is the user."""
    token = request.token or request.cookies.get("session")
    if token is None or token == "wrong":
        raise AuthenticationFailed("no")
    if token == "crash":
        raise ZeroDivisionError("s3cret")
    user, _, rest = token.partition("/")
    token_id, _, seconds = rest.partition("/")
    claims: dict[str, Any] = {"set": {1, 2}} if user == "no json" else {"iat": wall_clock()}
    expires_at = wall_clock() + float(seconds) if seconds else None
    return Principal(user, expires_at=expires_at, token_id=token_id or None, claims=claims)


class SlowState(MemoryState):
    """Gives up the loop around every ticket that is taken, and can be away."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        super().__init__(age=3_600.0, per_user=100, clock=loop.wall_clock, monotonic=loop.time)
        self.away = False

    async def keep_ticket(self, user_id: UserId, key: str, content: bytes, *, seconds: float) -> None:
        if self.away:
            raise LogUnavailable("told to be away")
        await super().keep_ticket(user_id, key, content, seconds=seconds)

    async def take_ticket(self, key: str) -> bytes | None:
        if self.away:
            raise LogUnavailable("told to be away")
        await asyncio.sleep(0.01)
        content = await super().take_ticket(key)
        await asyncio.sleep(0.01)
        return content


class Site:
    """An application with our router under `/live`."""

    def __init__(self, *, origins: list[str] | None = None, query_token: bool = False, **options: Any) -> None:
        self.manager: UnifiedWebSocketManager = a_manager(**options)
        self.app = FastAPI(lifespan=self.manager.lifespan)
        self.app.include_router(
            websocket_router(self.manager, authenticate=authenticate, origins=origins, query_token=query_token),
            prefix="/live",
        )

    async def __aenter__(self) -> Site:
        await self.manager.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.manager.__aexit__(*exc)

    async def post(self, token: str | None = None, *, method: str = "POST", **options: Any) -> Answer:
        headers = dict(options.pop("headers", {}))
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        return await ask(self.app, method, "/live/ticket", headers=headers, **options)

    async def ticket(self, token: str = "alice", *, origin: str | None = None) -> str:
        answer = await self.post(token, headers={} if origin is None else {"origin": origin})
        assert answer.status == 200, answer
        ticket = answer.body["ticket"]
        assert isinstance(ticket, str)
        _issued.append(ticket)
        return ticket

    def by_query(self, ticket: str, *, token: str | None = None, origin: str | None = None, **more: Any) -> ASGIClient:
        headers = {} if origin is None else {"origin": origin}
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        return ASGIClient(self.app, "/live/ws", query={"ticket": ticket}, headers=headers, **more)

    def by_frame(self, ticket: Any, *, origin: str | None = None, **fields: Any) -> ASGIClient:
        client = ASGIClient(self.app, "/live/ws", headers={} if origin is None else {"origin": origin})
        client.say({"type": "auth", "ticket": ticket, **fields})
        return client

    def spend(self, way: str, ticket: str, **options: Any) -> ASGIClient:
        return self.by_query(ticket, **options) if way == "query" else self.by_frame(ticket, **options)


WAYS = pytest.mark.parametrize("way", ["query", "first frame"])


async def is_refused(client: ASGIClient, code: int = 4401) -> None:
    """Accepted, closed with the code, and shown nothing."""
    async with client:
        assert await client.ended() == code
    assert client.accepted
    assert client.reason == CLOSE_RULES[CloseCode(code)].reason
    assert client.frames == []


# -- once


@WAYS
@virtual_time
async def test_a_ticket_lets_its_user_in_once(way: str) -> None:
    async with Site() as site:
        answer = await site.post("alice")
        assert answer.status == 200
        assert answer.body.keys() == {"ticket", "expires_in"}
        assert answer.body["expires_in"] == TICKET_SECONDS == 30
        ticket = answer.body["ticket"]
        async with site.spend(way, ticket) as client:
            assert (await client.greeted())["user_id"] == "alice"
            await site.manager.get_emitter("alice").emit("custom", {"n": 1})
            await client.gets("custom")
            for again in ("query", "first frame"):
                await is_refused(site.spend(again, ticket))
            assert client.code is None
        for again in ("query", "first frame"):
            await is_refused(site.spend(again, ticket))
        assert site.manager.get_stats()["total_connections"] == 0


@virtual_time
async def test_of_fifty_sockets_that_race_for_a_ticket_one_gets_in() -> None:
    async with Site(state=SlowState(), limits=Limits(connections_per_user=100)) as site:
        for _ in range(3):
            ticket = await site.ticket()
            clients = [site.spend("query" if n % 2 else "first frame", ticket) for n in range(50)]
            async with asyncio.TaskGroup() as group:
                for client in clients:
                    group.create_task(client.__aenter__())
            await asyncio.sleep(1.0)
            inside = [client for client in clients if client.code is None]
            assert len(inside) == 1
            assert (await inside[0].greeted())["user_id"] == "alice"
            assert {client.code for client in clients if client not in inside} == {4401}
            for client in clients:
                await client.__aexit__()


@virtual_time
async def test_a_ticket_is_random_and_what_is_kept_of_it_opens_nothing() -> None:
    async with Site() as site:
        tickets = [await site.ticket() for _ in range(TICKETS_PER_USER)]
        assert len(set(tickets)) == TICKETS_PER_USER
        assert {len(ticket) for ticket in tickets} == {32}, "24 random bytes"
        state = site.manager.state
        assert isinstance(state, MemoryState)
        kept = repr(vars(state))
        for ticket in tickets:
            assert ticket not in kept
        for key in list(state._tickets):
            await is_refused(site.by_query(key))
    drawn: list[int] = []

    def entropy(size: int) -> bytes:
        drawn.append(size)
        return counted(size)

    counted = counted_entropy()
    async with Site(entropy=entropy) as site:
        await site.ticket()
        assert drawn == [24]


@virtual_time
async def test_unspent_tickets_are_bounded_for_each_user_and_the_oldest_goes() -> None:
    async with Site() as site:
        bobs = await site.ticket("bob")
        tickets = [await site.ticket() for _ in range(TICKETS_PER_USER + 2)]
        for ticket in tickets[:2]:
            await is_refused(site.by_query(ticket))
        for ticket in (tickets[2], tickets[-1], bobs):
            async with site.by_query(ticket) as client:
                await client.greeted()


# -- within thirty seconds


@WAYS
@pytest.mark.parametrize(("seconds", "late"), [(29.9, False), (30.1, True), (3_600.0, True)])
@virtual_time
async def test_a_ticket_lives_thirty_seconds(way: str, seconds: float, late: bool) -> None:
    async with Site() as site:
        ticket = await site.ticket()
        await asyncio.sleep(seconds)
        if late:
            await is_refused(site.spend(way, ticket))
            return
        async with site.spend(way, ticket) as client:
            await client.greeted()


@virtual_time
async def test_tickets_that_nobody_spends_are_forgotten() -> None:
    async with Site() as site:
        for user in range(100):
            await site.ticket(f"user {user}")
        await asyncio.sleep(31.0)
        await site.ticket()
        state = site.manager.state
        assert isinstance(state, MemoryState)
        assert len(state._tickets) == len(state._tickets_of) == len(state._tickets_end) == 1


@WAYS
@virtual_time
async def test_a_ticket_carries_the_expiry_of_the_token_that_bought_it(way: str) -> None:
    async with Site(limits=Limits(expiry_grace=1.0)) as site:
        first, second = await site.ticket("alice/t1/10"), await site.ticket("alice/t1/10")
        async with site.spend(way, first) as client:
            assert (await client.greeted())["expires_in"] == pytest.approx(10.0, abs=0.1)
            assert await client.ended() == 4419
        await is_refused(site.spend(way, second))


# -- as that user


@virtual_time
async def test_a_ticket_says_who_comes_whatever_else_the_request_says() -> None:
    """It was bought with the other user's own credential. A header does not change whose log is read."""
    async with Site() as site:
        bobs = await site.ticket("bob")
        async with site.by_query(bobs, token="alice") as client:
            assert (await client.greeted())["user_id"] == "bob"
            await site.manager.get_emitter("alice").emit("custom", {"n": 1})
            await turns()
            assert client.events == []


@virtual_time
async def test_a_ticket_that_is_not_accepted_is_not_replaced_by_a_header() -> None:
    async with Site() as site:
        ticket = await site.ticket("bob")
        async with site.by_query(ticket) as client:
            await client.greeted()
        for spent in (ticket, "", "x"):
            await is_refused(site.by_query(spent, token="alice"))


@pytest.mark.parametrize("whose", ["bob", "alice"])
@virtual_time
async def test_another_users_ticket_on_an_open_socket_ends_it(whose: str) -> None:
    """A socket keeps its user for life. One's own ticket renews the token, and is spent either way."""
    async with Site() as site:
        ticket = await site.ticket(f"{whose}/t2/500")
        async with site.by_query(await site.ticket("alice/t1/20")) as client:
            await client.greeted()
            client.say({"type": "auth", "ticket": ticket, "request_id": "q"})
            if whose == "alice":
                (ack,) = await client.gets("ack")
                assert ack["result"]["expires_in"] == pytest.approx(500.0, abs=0.1)
                await asyncio.sleep(60)
                assert client.code is None
            else:
                assert await client.ended() == 4403
                await site.manager.get_emitter("bob").emit("custom", {"n": 1})
                assert client.events == []
        await is_refused(site.by_query(ticket))


@virtual_time
async def test_a_ticket_is_no_token_and_a_token_no_ticket_and_neither_buys_a_ticket_with_a_ticket() -> None:
    async with Site(query_token=True) as site:
        await is_refused(site.by_query("alice"))
        await is_refused(site.by_frame("alice"))
        ticket = await site.ticket()
        for answer in (
            await site.post(query={"ticket": ticket}),
            await site.post(headers={"ticket": ticket, "sec-websocket-protocol": ticket}),
        ):
            assert answer.status == 401
        async with site.by_query(ticket) as client:
            await client.greeted()


@pytest.mark.parametrize("ticket", [None, 7, ["t"], {"a": 1}, True, "", "x" * 200, "\ud800", "\x00", "é" * 64])
@virtual_time
async def test_what_is_no_ticket_is_not_accepted(ticket: Any) -> None:
    async with Site() as site:
        await site.ticket()
        malformed = isinstance(ticket, str) and "\ud800" in ticket
        await is_refused(site.by_frame(ticket), 4400 if malformed else 4401)
        if ticket is not None:
            await is_refused(site.by_frame(ticket, token="alice"), 4400 if malformed else 4401)


@virtual_time
async def test_a_frame_with_a_ticket_and_a_token_is_not_accepted_and_spends_nothing() -> None:
    async with Site() as site:
        ticket = await site.ticket()
        await is_refused(site.by_frame(ticket, token="alice"))
        async with site.by_frame(ticket) as client:
            await client.greeted()


# -- from there


@WAYS
@pytest.mark.parametrize("spent_from", [ADMIN, None, "HTTPS://app.example", "https://app.example:443"])
@virtual_time
async def test_a_ticket_is_spent_from_the_origin_that_it_was_issued_to_or_is_gone(
    way: str, spent_from: str | None
) -> None:
    async with Site(origins=[APP, ADMIN]) as site:
        ticket = await site.ticket(origin=APP)
        await is_refused(site.spend(way, ticket, origin=spent_from))
        await is_refused(site.spend(way, ticket, origin=APP))
        async with site.spend(way, await site.ticket(origin=APP), origin=APP) as client:
            await client.greeted()


@WAYS
@virtual_time
async def test_a_program_s_ticket_is_not_spent_by_a_page(way: str) -> None:
    async with Site(origins=[APP]) as site:
        await is_refused(site.spend(way, await site.ticket(), origin=APP))
        async with site.spend(way, await site.ticket()) as client:
            await client.greeted()


@virtual_time
async def test_a_page_of_another_origin_gets_no_ticket_and_spends_none() -> None:
    async with Site(origins=[APP]) as site:
        ticket = await site.ticket(origin=APP)
        for origin in (ADMIN, "null", "", f"{APP}.evil.example", "http://app.example", f"{APP}:444", "*"):
            answer = await site.post("alice", headers={"origin": origin})
            assert answer.status == 403
            assert "access-control-allow-origin" not in answer.headers
            async with site.by_query(ticket, origin=origin) as client:
                await client.ended()
                assert not client.accepted
        async with site.by_query(ticket, origin=APP) as client:
            await client.greeted()


@virtual_time
async def test_without_a_list_only_pages_of_the_server_s_own_origin_get_tickets() -> None:
    async with Site() as site:
        own = "http://server.example"
        async with site.by_query(await site.ticket(origin=own), origin=own) as client:
            await client.greeted()
        for origin in (APP, "https://server.example", "http://server.example:81", "http://server.example.evil"):
            answer = await site.post("alice", headers={"origin": origin})
            assert answer.status == 403
        preflight = await site.post(method="OPTIONS", headers={"origin": own, "access-control-request-method": "POST"})
        assert preflight.status == 405
        assert not any(name.startswith("access-control") for name in preflight.headers)


# -- and not once the user is revoked


@WAYS
@pytest.mark.parametrize("token_id", [None, "t1"])
@virtual_time
async def test_a_revoked_users_tickets_open_nothing(way: str, token_id: str | None) -> None:
    async with Site() as site:
        ticket = await site.ticket("alice/t1")
        bobs = await site.ticket("bob/t1")
        await site.manager.revoke("alice", token_id)
        await is_refused(site.spend(way, ticket), 4410)
        async with site.spend(way, bobs) as client:
            await client.greeted()
        if token_id is None:
            await asyncio.sleep(1.0)
            async with site.spend(way, await site.ticket("alice/t1")) as client:
                assert (await client.greeted())["user_id"] == "alice", "who logs in anew is welcome"
        else:
            assert (await site.post("alice/t1")).status == 401
            async with site.spend(way, await site.ticket("alice/t2")) as client:
                await client.greeted()


@virtual_time
async def test_a_revoked_credential_gets_no_ticket() -> None:
    async def old(_request: AuthRequest) -> Principal:
        return Principal("alice", claims={"iat": wall_clock() - 100.0})

    async with Site() as site:
        site.app.include_router(websocket_router(site.manager, authenticate=old), prefix="/old")
        assert (await ask(site.app, "POST", "/old/ticket")).status == 200
        await site.manager.revoke("alice")
        answer = await ask(site.app, "POST", "/old/ticket")
        assert answer.status == 401
        assert "revoked" not in answer.text


@virtual_time
async def test_a_connection_by_ticket_is_ended_by_a_revocation_of_the_token_behind_it() -> None:
    async with (
        Site() as site,
        site.by_query(await site.ticket("alice/t1")) as meant,
        site.by_query(await site.ticket("alice/t2")) as spared,
    ):
        await meant.greeted()
        await spared.greeted()
        await site.manager.revoke("alice", "t1")
        assert await meant.ended() == 4410
        await site.manager.get_emitter("alice").emit("custom", {"n": 1})
        await spared.gets("custom")
        assert meant.events == []


@virtual_time
async def test_the_tickets_of_a_user_who_is_deleted_are_gone() -> None:
    async with Site() as site:
        ticket, bobs = await site.ticket(), await site.ticket("bob")
        await site.manager.delete_user("alice")
        await is_refused(site.by_query(ticket))
        async with site.by_query(bobs) as client:
            await client.greeted()


# -- what else a ticket comes with


@WAYS
@virtual_time
async def test_a_cursor_comes_with_a_ticket(way: str) -> None:
    async with Site() as site:
        emitter = site.manager.get_emitter("alice")
        for n in range(3):
            await emitter.emit("custom", {"n": n})
        async with site.by_query(await site.ticket()) as before:
            cursor = (await before.gets("custom", 3))[1]["cursor"]
        ticket = await site.ticket()
        client = (
            ASGIClient(site.app, "/live/ws", query={"ticket": ticket, "cursor": cursor})
            if way == "query"
            else site.by_frame(ticket, cursors={"": cursor})
        )
        async with client:
            assert (await client.greeted())["resumed"] is True
            assert [event["data"]["n"] for event in await client.gets("custom")] == [2]


@WAYS
@virtual_time
async def test_while_the_store_of_tickets_is_away_nobody_is_let_in(way: str) -> None:
    state = SlowState()
    async with Site(state=state) as site:
        ticket = await site.ticket()
        async with site.by_query(await site.ticket("alice/t1/20")) as inside:
            await inside.greeted()
            state.away = True
            await is_refused(site.spend(way, ticket), 1013)
            inside.say({"type": "auth", "ticket": ticket, "request_id": "q"})
            (error,) = await inside.gets("error")
            assert error["code"] == "unavailable"
            answer = await site.post("alice")
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            state.away = False
            assert inside.code is None
        async with site.spend(way, ticket) as client:
            await client.greeted()


# -- the answers of the route


def closed_to_caches(answer: Answer) -> None:
    assert answer.headers["cache-control"] == "no-store"
    vary = {name.strip().lower() for name in answer.headers["vary"].split(",")}
    assert {"authorization", "cookie", "origin"} <= vary
    assert "set-cookie" not in answer.headers


def is_error(answer: Answer, status: int, code: str) -> None:
    assert answer.status == status
    assert answer.body.keys() == {"type", "code", "message"}
    assert (answer.body["type"], answer.body["code"]) == ("error", code)
    assert answer.headers["content-type"] == "application/json"
    closed_to_caches(answer)


@pytest.mark.parametrize("origins", [None, [APP]])
@virtual_time
async def test_no_answer_may_be_kept_by_anybody(origins: list[str] | None) -> None:
    state = SlowState()
    limits = Limits(connections_per_address=2)
    async with Site(origins=origins, state=state, limits=limits) as site:
        given = await site.post("alice")
        assert given.status == 200
        closed_to_caches(given)
        is_error(await site.post(), 401, "unauthenticated")
        is_error(await site.post("wrong"), 401, "unauthenticated")
        assert (await site.post("wrong")).headers["www-authenticate"] == "Bearer"
        is_error(await site.post("alice", headers={"origin": ADMIN}), 403, "forbidden")
        for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE", "_helper", "post", "X"):
            answer = await site.post("alice", method=method)
            assert answer.status == 405, method
            assert answer.headers["allow"] == "POST"
            closed_to_caches(answer)
        is_error(await site.post("no json"), 400, "invalid")
        is_error(await site.post("alice", query="&".join("abcdefghij" * 7)), 400, "invalid")
        crashed = await site.post("crash")
        is_error(crashed, 500, "internal")
        assert "s3cret" not in crashed.text
        async with ASGIClient(site.app, "/live/ws"), ASGIClient(site.app, "/live/ws"):
            await turns()
            refused = await site.post("alice")
            is_error(refused, 429, "limit")
            assert refused.headers["retry-after"] == "1"
            assert (await site.post("alice", client=("192.0.2.2", 1))).status == 200
        assert (await site.post("alice")).status == 200
        state.away = True
        is_error(await site.post("alice"), 503, "unavailable")
        state.away = False
        site.manager.draining = True
        is_error(await site.post("alice"), 503, "unavailable")


@virtual_time
async def test_above_the_handshakes_that_are_served_at_once_others_are_sent_away() -> None:
    async with Site(limits=Limits(handshakes=2)) as site:
        held = asyncio.Event()

        async def slow(_request: AuthRequest) -> Principal:
            await held.wait()
            return Principal("alice")

        site.app.include_router(websocket_router(site.manager, authenticate=slow), prefix="/slow")
        waiting = [asyncio.ensure_future(ask(site.app, "POST", "/slow/ticket")) for _ in range(2)]
        await turns()
        for client in (CLIENT, ("192.0.2.9", 1), None):
            answer = await site.post("alice", client=client)
            is_error(answer, 503, "unavailable")
            assert 1 <= int(answer.headers["retry-after"]) <= 60
        held.set()
        assert [answer.status for answer in await asyncio.gather(*waiting)] == [200, 200]
        assert (await site.post("alice")).status == 200


@virtual_time
async def test_who_may_not_come_in_costs_the_authenticator_nothing() -> None:
    """The origin first, then the gate, then the credential."""
    asked: list[str] = []

    async def note(request: AuthRequest) -> Principal:
        asked.append(str(request.token))
        return Principal("alice")

    async with Site(limits=Limits(connections_per_address=1)) as site:
        router = websocket_router(site.manager, authenticate=note, origins=[APP])
        site.app.include_router(router, prefix="/noting")
        async with ASGIClient(site.app, "/live/ws"):
            await turns()
            limited = await ask(site.app, "POST", "/noting/ticket")
            foreign = await ask(site.app, "POST", "/noting/ticket", headers={"origin": ADMIN})
            method = await ask(site.app, "GET", "/noting/ticket")
        assert (limited.status, foreign.status, method.status) == (429, 403, 405)
        assert asked == []


# -- across origins


PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}


@virtual_time
async def test_pages_of_the_listed_origins_and_no_others_may_read_a_ticket() -> None:
    async with Site(origins=[APP, ADMIN]) as site:
        for origin in (APP, ADMIN):
            answer = await site.post("alice", headers={"origin": origin})
            assert answer.status == 200
            assert answer.headers["access-control-allow-origin"] == origin
            assert answer.headers["access-control-allow-credentials"] == "true"
            closed_to_caches(answer)
            preflight = await site.post(method="OPTIONS", headers={"origin": origin, **PREFLIGHT})
            assert preflight.status == 200
            assert preflight.headers["access-control-allow-origin"] == origin
            assert preflight.headers["access-control-allow-methods"] == "POST"
            assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
            assert "origin" in preflight.headers["vary"].lower()
            refused = await site.post(headers={"origin": origin})
            assert refused.headers["access-control-allow-origin"] == origin, "a page may read that it was refused"
        foreign = ["https://evil.example", f"{APP}.evil.example", "https://xapp.example", "http://app.example", "null",
                   f"{APP}:444", f"{APP}/", "*", "https://app.examplE.evil", "https://APP"]  # fmt: skip
        for origin in foreign:
            for answer in (
                await site.post("alice", headers={"origin": origin}),
                await site.post(method="OPTIONS", headers={"origin": origin, **PREFLIGHT}),
            ):
                assert answer.status in (400, 403)
                assert "access-control-allow-origin" not in answer.headers
                assert origin not in answer.text
        no_origin = await site.post("alice")
        assert no_origin.status == 200
        assert "access-control-allow-origin" not in no_origin.headers


@virtual_time
async def test_an_origin_is_the_same_however_it_is_written_in_the_list() -> None:
    """A browser writes it in one way: lower case, and without the usual port."""
    async with Site(origins=[APP.upper().replace("HTTPS", "https") + ":443"]) as site:
        answer = await site.post("alice", headers={"origin": APP})
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == APP


@pytest.mark.parametrize(
    "origins",
    [["*"], [APP, "*"], "*", APP, ["app.example"], [f"{APP}/"], [f"{APP}/x"], ["null"], [""], ["https://"],
     ["https://*.app.example", "https://user@app.example"], [f"{APP}?x"], ["ftp://app.example"], [f"{APP}:port"]],
    ids=repr,
)  # fmt: skip
def test_what_is_no_exact_list_of_origins_is_refused_when_the_router_is_made(origins: Any) -> None:
    """A wildcard above all: with credentials, it would show everybody's events to every page."""
    with pytest.raises(InvalidInput):
        websocket_router(a_manager(), authenticate=authenticate, origins=origins)


@virtual_time
async def test_a_cookie_counts_only_where_the_origins_are_listed() -> None:
    cookie = {"cookie": "session=alice"}
    async with Site() as site:
        assert (await site.post(headers=cookie)).status == 401
        assert (await site.post(headers=cookie | {"origin": "http://server.example"})).status == 401
    async with Site(origins=[APP]) as site:
        answer = await site.post(headers=cookie | {"origin": APP})
        assert answer.status == 200
        async with site.by_query(answer.body["ticket"], origin=APP) as client:
            assert (await client.greeted())["user_id"] == "alice"
        for origin in (ADMIN, "null", f"{APP}.evil.example"):
            assert (await site.post(headers=cookie | {"origin": origin})).status == 403
        for nonsense in ("session", "=", ";;;", "session=alice\x00; a", 'session="', "\xff\xfe", "$Version=1; session"):
            answer = await site.post(headers={"cookie": nonsense, "origin": APP})
            assert answer.status in (200, 400, 401)
            assert answer.status != 200 or json.loads(answer.text)["ticket"]
