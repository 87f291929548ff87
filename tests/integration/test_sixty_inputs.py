"""The sixty bad inputs of our research on attacks, each with the answer that it is to get from a served process.

After each: the process lives, another user's event arrives, somebody hostile who is connected all the time has
received nothing, and no log line, metric, traceback or close reason holds a token, a ticket, a cursor or a payload.

Everything here runs over the WebSocket and the ticket route, with the log in memory. What is tested elsewhere, or
cannot be tested before it exists, is listed as such, so that no row is forgotten.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import importlib.util
import json
import random
import re
import time
import unicodedata
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import jwt
import pytest
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from tests.integration.attacked import APP, CANARY, ISSUER, REPORT, Attacked, Peer
from tests.integration.support import SECRET, token
from tests.support import until
from websocket_core.auth import JWTAuthenticator
from websocket_core.errors import InvalidInput
from websocket_core.router import websocket_router
from websocket_core.unified_manager import UnifiedWebSocketManager

ELSEWHERE: Final = {
    31: "tests.integration.test_protocol_violations",
    32: "tests.integration.test_protocol_violations",
    33: "tests.integration.test_protocol_violations",
    34: "tests.integration.test_protocol_violations",
    35: "tests.integration.test_protocol_violations",
    36: "tests.integration.test_protocol_violations",
    37: "tests.integration.test_protocol_violations",
    50: "tests.integration.test_hostile_handshakes",
    51: "tests.integration.test_hostile_handshakes",
    60: "tests.integration.test_hostile_handshakes",
}
"""Rows that have a file of their own, which needs sockets of a lower kind than the clients here."""

NOT_YET: Final = {
    29: "hash tags choose a slot in a Redis cluster, and there is no log on Redis yet; as user ids they are in row 26",
    46: "there are no server-sent events yet",
    54: "there is no long-polling yet",
    56: "nothing is read from a store that others can write to, until the log may be on Redis",
    57: "nothing is published to channels, until the log may be on Redis; foreign entries in a log in memory are "
    "planted in tests/mission_critical/test_isolation.py",
    58: "there is no poll and no stream that a proxy could keep; the ticket route is in row 59",
}
"""Rows about what does not exist."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    """One process for the whole table. What it has more in memory at the end is reported, and bounded."""
    site = Attacked(tmp_path_factory.mktemp("attacked"))
    try:
        asyncio.run(_warm_up(site))
        before = site.rss()
        yield site
        grown = (site.rss() - before) / 2**20
        site.watch.judge(len(site.arrivals))
        arrivals = sorted(site.arrivals)
        REPORT.append(
            f"sixty inputs: after each of {len(arrivals)}, another user's event arrived within "
            f"{1_000 * arrivals[len(arrivals) // 2]:.1f} ms (median), {1_000 * arrivals[-1]:.1f} ms (slowest); "
            f"the server grew by {grown:.1f} MiB"
        )
        assert grown < 64.0
    finally:
        site.close()
    assert set(site.keys.asked) <= {"/a.json", "/b.json"}, "keys come from where the configuration says"


async def _warm_up(site: Attacked) -> None:
    """Have done what is done once: imports, caches, the buffers of a busy hour."""
    for n in range(30):
        async with Peer(site, token(f"warm {n}"), v1=n % 2 == 0) as peer:
            await peer.greeted()
        await site.control("emit", user=f"warm {n}", data={"text": "x" * 20_000})
        await site.http("POST", "/live/ticket", headers={"Authorization": "Bearer x"})
    await site.survives(set())


# -- an attack


class Attack:
    """What one test does to the process, and all that it learns from it."""

    def __init__(self, site: Attacked) -> None:
        self.site = site
        self.peers: list[tuple[Peer, str | None]] = []
        self.secrets: set[str] = set()
        self.errors = False
        """Whether the process may log errors."""

    def peer(self, bearer: str | None = None, *, user: str | None = "alice", **options: Any) -> Peer:
        """A client that, if it is let in, must be taken for `user`."""
        peer = Peer(self.site, bearer, **options)
        self.peers.append((peer, user))
        return peer

    async def ws(self, bearer: str | None = None, *, first: Any = None, say: Any = (), **options: Any) -> Any:
        """Connect, send a first frame and others, and say what came of it: an HTTP status, a close code, the code of
        an `error`, the reason of a `gap`, or that the client is connected."""
        peer = self.peer(bearer, **options)
        try:
            async with peer:
                try:
                    if first is not None:
                        await peer.say(first)
                    await until(lambda: peer.frames or peer.code is not None, "an answer")
                    for frame in say:
                        await peer.say(frame)
                except ConnectionClosed:
                    pass
                if say:
                    await until(lambda: len(peer.of_type("error")) or peer.code is not None, "an answer")
                await until(lambda: peer.code is not None or peer.frames, "the end")
                if (
                    peer.frames
                    and not say
                    and peer.frames[0]["resumed"] is False
                    and "cursor" in options.get("query", "")
                ):
                    await until(lambda: len(peer.frames) > 1 or peer.code is not None, "a gap")
        except InvalidStatus as refused:
            return refused.response.status_code
        except (InvalidHandshake, OSError):
            return 0
        if say and peer.of_type("error") and peer.code in (None, 1000, 1005):
            return peer.of_type("error")[0]["code"]
        if peer.frames and peer.frames[1:2] and peer.frames[1]["type"] == "gap":
            return f"gap: {peer.frames[1]['reason']}"
        return "connected" if peer.frames and peer.code in (None, 1000, 1005) else peer.code

    async def ticket(self, bearer: str | None = None, *, prefix: str = "/live", **headers: str) -> int:
        """Ask for a ticket; the status."""
        authorization = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
        status, _headers, body = await self.site.http("POST", f"{prefix}/ticket", headers={**authorization, **headers})
        if status == 200:
            self.secrets.add(json.loads(body)["ticket"])
        return status

    async def a_ticket(self, user: str = "alice") -> str:
        _status, _headers, body = await self.site.http(
            "POST", "/live/ticket", headers={"Authorization": f"Bearer {token(user)}"}
        )
        ticket: str = json.loads(body)["ticket"]
        self.secrets.add(ticket)
        return ticket

    async def emit(self, user: str, data: Any, **options: Any) -> Any:
        return await self.site.control("emit", user=user, data=data, **options)

    async def judge(self) -> None:
        for peer, user in self.peers:
            peer.judge(user)
            self.secrets |= peer.secrets
        await self.site.survives(self.secrets, errors=self.errors)


class Input(NamedTuple):
    row: int
    name: str
    attack: Callable[[Attack], Awaitable[Any]]
    expected: Any


# -- inputs that are tokens


def now() -> int:
    return int(time.time())


def segment(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def raw(payload: str, header: str = '{"alg":"HS256","typ":"JWT"}', key: bytes = SECRET.encode()) -> str:
    """A token with a right HS256 signature over whatever text."""
    head = f"{segment(header.encode())}.{segment(payload.encode())}"
    return f"{head}.{segment(hmac.new(key, head.encode(), hashlib.sha256).digest())}"


def claims(**changed: str) -> str:
    """A payload in which claims have the JSON text given; an empty one is left out."""
    good = {"sub": '"alice"', "exp": str(now() + 3_600)} | changed
    return "{" + ",".join(f'"{name}":{text}' for name, text in good.items() if text) + "}"


def by_token(
    row: int, name: str, make: Callable[[Attack], str] | str, *, prefix: str = "/live", expected: Any = 4401
) -> Input:
    """One token, by each way in which a token comes: in a header, in the first frame, for a ticket, and, if it is bad,
    on the socket of somebody who is connected."""

    async def attack(attack: Attack) -> Any:
        text = make if isinstance(make, str) else make(attack)
        outcomes = [
            await attack.ws(text, path=f"{prefix}/ws"),
            await attack.ws(first=json.dumps({"type": "auth", "token": text}), path=f"{prefix}/ws"),
            await attack.ticket(text, prefix=prefix),
        ]
        if prefix == "/live" and expected == 4401:
            outcomes.append(await attack.ws(token(), say=[json.dumps({"type": "auth", "token": text})]))
        return outcomes

    answers = [expected, expected, {4401: 401, "connected": 200}[expected]]
    more = ["unauthenticated"] if prefix == "/live" and expected == 4401 else []
    return Input(row, f"{name}, at {prefix}", attack, [*answers, *more])


def timed(more: dict[str, str] | None = None, **seconds: int) -> Callable[[Attack], str]:
    """A token with claims that are times, so many seconds from when it is used."""
    return lambda _attack: raw(claims(**(more or {}), **{name: str(now() + each) for name, each in seconds.items()}))


def tokens() -> list[Input]:
    inputs: list[Input] = []

    def add(*arguments: Any, **options: Any) -> None:
        inputs.append(by_token(*arguments, **options))

    for name in ("none", "None", "nOnE"):
        unsigned = f"{segment(json.dumps({'alg': name}).encode())}.{segment(claims().encode())}."
        add(2, f"alg {name}", (unsigned))
        add(2, f"alg {name} with a signature", (unsigned + segment(b"x" * 32)), prefix="/rs")
    add(3, "the public key as a secret", lambda a: raw(claims(), key=a.site.issuer.public), prefix="/rs")
    add(
        3, "the public key with other spaces", lambda a: raw(claims(), key=a.site.issuer.public.replace(b"\n", b" \n")),
        prefix="/rs",
    )  # fmt: skip
    add(4, "HS512", (token(key=SECRET * 2, algorithm="HS512")))
    add(4, "HS384 with the right key", (token(algorithm="HS384", key=SECRET * 2)))
    add(4, "alg is a list", (raw(claims(), '{"alg":["HS256"]}')))
    add(4, "no alg", (raw(claims(), '{"typ":"JWT"}')))
    add(
        4, "HS256 by the key of a JWK",
        lambda a: raw(claims(), '{"alg":"HS256","kid":"k1"}', a.site.keys.issuers["/a.json"].public), prefix="/a",
    )  # fmt: skip
    add(5, "crit", (raw(claims(), '{"alg":"HS256","crit":["x"]}')))
    add(5, "crit with b64", (raw(claims(), '{"alg":"HS256","crit":["b64"],"b64":false}')))
    for name in ("exp", "sub"):
        add(7, f"no {name}", (raw(claims(**{name: ""}))))
        add(7, f"{name} is null", (raw(claims(**{name: "null"}))))
    strict = {"aud": '"live"', "iss": f'"{ISSUER}"'}
    for name in strict:
        add(7, f"no {name}", (raw(claims(**strict | {name: ""}))), prefix="/strict")
    add(8, "expired", timed(exp=-10))
    add(8, "not yet", timed(nbf=3_600))
    add(8, "issued in the future", timed(iat=3_600))
    for name, inside, outside in (("exp", -15, -40), ("nbf", 15, 300), ("iat", 15, 300)):
        add(8, f"{name} within the leeway", timed(strict, **{name: inside}), prefix="/strict", expected="connected")
        add(8, f"{name} beyond the leeway", timed(strict, **{name: outside}), prefix="/strict")
    add(9, "exp is 1e30", (raw(claims(exp="1e30"))), expected="connected")
    for text in ("NaN", "Infinity", "1e400", '"soon"', "-1", "0", "[]", "true", "9" * 4_400):
        add(9, f"exp is {text[:20]}", (raw(claims(exp=text))))
    both = json.dumps(["other", "live"])
    add(10, "aud with ours", (raw(claims(**strict | {"aud": both}))), prefix="/strict", expected="connected")
    for text in ('"liv"', '"live2"', '"LIVE"', '["other"]', "[]", '"live "', '{"live":1}', '[["live"]]'):
        add(10, f"aud is {text}", (raw(claims(**strict | {"aud": text}))), prefix="/strict")
    for text in (
        "123",
        '""',
        "null",
        '["alice"]',
        f'"{"x" * 4_000}"',
        r'"\u0000"',
        r'"a\nb"',
        r'"\ud800"',
        "{}",
        "true",
    ):
        add(11, f"sub is {text[:20]}", (raw(claims(sub=text))))
    for kid in ("../../etc/passwd", "' OR 1=1 --", "http://127.0.0.1/x", "k" * 3_000, "\x00", ""):
        named = json.dumps({"alg": "RS256", "kid": kid})
        add(12, f"kid is {kid[:20]!r}", (raw(claims(), named)), prefix="/a")
    for name in ("jku", "x5u", "jwk", "x5c"):

        def elsewhere(attack: Attack, name: str = name) -> str:
            address = f"{attack.site.keys.address}/mallory.json"
            value = {"jwk": {"kty": "oct", "k": segment(b"m" * 32)}, "x5c": [address]}.get(name, address)
            forger = attack.site.keys.issuers["/b.json"]
            return forger.token(headers={name: value, "kid": "unknown"})

        add(12, f"a key by {name}", elsewhere, prefix="/a")
        add(12, f"a key by {name}", elsewhere, prefix="/live")
    add(13, "the other issuer's token", lambda a: a.site.keys.issuers["/b.json"].token(), prefix="/a")
    add(13, "the one issuer's token", lambda a: a.site.keys.issuers["/a.json"].token(), prefix="/b")
    for prefix in ("/a", "/b"):
        own = f"{prefix}.json"
        fine = partial(lambda own, a: a.site.keys.issuers[own].token(), own)
        add(13, "the own issuer's token", fine, prefix=prefix, expected="connected")
    return inputs


# -- inputs that are one frame or one request


def ws(row: int, name: str, expected: Any, **options: Any) -> Input:
    """One connection; without a token of its own, Alice's."""
    bearer = options.pop("bearer", "good")

    async def attack(attack: Attack) -> Any:
        return await attack.ws(token() if bearer == "good" else bearer, **options)

    return Input(row, name, attack, expected)


def frame(row: int, name: str, text: str | bytes, first: Any, later: Any) -> list[Input]:
    """One frame, as the first one and on an open socket."""
    return [
        ws(row, f"{name}, first", first, bearer=None, first=text),
        ws(row, f"{name}, later", later, say=[text]),
    ]


def ticket(row: int, name: str, expected: int, **headers: str) -> Input:
    return Input(row, name, lambda attack: attack.ticket(token(), **headers), expected)


def request(row: int, name: str, expected: Any, lines: str, *, key: bool = True) -> Input:
    """Bytes on a socket, and the status of the answer. `{host}` and `{bearer}` are put in."""
    upgrade = (
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )

    async def attack(attack: Attack) -> Any:
        bearer = f"Authorization: Bearer {token()}\r\n"
        text = lines.replace("{host}", attack.site.host).replace("{bearer}", bearer).replace("{upgrade}", upgrade)
        host, port = attack.site.host.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(f"{text}\r\n".encode("latin-1"))
            line = await asyncio.wait_for(reader.readline(), 5.0)
        finally:
            writer.close()
        return int(line.split(b" ")[1]) if line.startswith(b"HTTP/1.1 ") else 0

    return Input(row, name, attack, expected)


def refused_configuration(row: int, name: str, make: Callable[[], object]) -> Input:
    """A configuration that is refused at once, and so attacks nothing."""

    async def attack(_attack: Attack) -> Any:
        try:
            make()
        except InvalidInput:
            return "refused"
        return "accepted"

    return Input(row, name, attack, "refused")


async def spent_ticket(attack: Attack) -> Any:
    ticket = await attack.a_ticket()
    outcomes = [await attack.ws(query={"ticket": ticket}) for _ in range(2)]
    return [*outcomes, await attack.ws(first=json.dumps({"type": "auth", "ticket": ticket}))]


async def raced_ticket(attack: Attack) -> Any:
    """Fifty sockets, from five addresses."""
    ticket = await attack.a_ticket()
    first = json.dumps({"type": "auth", "ticket": ticket})
    outcomes = await asyncio.gather(
        *(
            attack.ws(address=f"127.0.1.{n % 5}", **({"query": {"ticket": ticket}} if n % 2 else {"first": first}))
            for n in range(50)
        )
    )
    return sorted(map(str, outcomes))


async def ticket_of_another(attack: Attack) -> Any:
    """Bob's ticket with Alice's token is Bob; on Alice's open socket it ends that."""
    outcomes = [await attack.ws(token("carol"), query={"ticket": await attack.a_ticket("dave")}, user="dave")]
    ticket = await attack.a_ticket("dave")
    peer = attack.peer(token("carol"), user="carol")
    async with peer:
        await peer.greeted()
        await peer.say({"type": "auth", "ticket": ticket})
        outcomes.append(await peer.closed())
    return [*outcomes, await attack.ws(query={"ticket": ticket})]


async def expires(attack: Attack) -> Any:
    peer = attack.peer(token("expiring", exp=now() + 2), user="expiring")
    async with peer:
        await peer.greeted()
        code = await peer.closed()
        late = time.time() - (jwt.decode(peer._bearer or "", SECRET, ["HS256"], {"verify_exp": False})["exp"])
        await attack.emit("expiring", {"n": 1})
        assert late < 2.0, "its grace is a fifth of a second here"
    return [code, len(peer.events)]


async def revoked(attack: Attack) -> Any:
    """Three tabs, one of them with another token id, and somebody else with the same."""
    tabs = [attack.peer(token("eve", jti=f"e{n}", iat=now() - 5), user="eve", v1=n == 1) for n in range(3)]
    other = attack.peer(token("frank", jti="e0"), user="frank")
    async with tabs[0], tabs[1], tabs[2], other:
        for tab in (*tabs, other):
            await tab.greeted()
        began = time.monotonic()
        await attack.site.control("revoke", user="eve", token_id="e0")
        codes = [await tabs[0].closed()]
        await attack.emit("eve", {"n": 1})
        await tabs[1].has(1)
        await attack.site.control("revoke", user="eve")
        await attack.emit("eve", {"n": 2})
        codes += [await tab.closed() for tab in tabs[1:]]
        assert time.monotonic() - began < 2.0
        assert [tab.numbers for tab in tabs] == [[], [1], [1]]
        assert other.code is None
        cursor = tabs[1].cursor
    for query in ({}, {"cursor": cursor}, {"cursor": "latest"}):
        codes.append(await attack.ws(token("eve", iat=now() - 5), query=query))
    status, _, _ = await attack.site.http(
        "POST", "/live/ticket", headers={"Authorization": f"Bearer {token('eve', iat=now() - 5)}"}
    )
    return [*codes, status]


async def refreshed_as_another(attack: Attack) -> Any:
    peer = attack.peer(token("carol"), user="carol")
    async with peer:
        await peer.greeted()
        await peer.say({"type": "auth", "token": token("dave")})
        return await peer.closed()


async def cursor_of_another(attack: Attack) -> Any:
    theirs = [(await attack.emit("grace", {"n": n, "secret": CANARY}))["cursor"] for n in range(3)]
    await attack.emit("heidi", {"n": "own"})
    outcomes = set()
    for cursor in theirs:
        peer = attack.peer(token("heidi"), user="heidi", query={"cursor": cursor})
        async with peer:
            await peer.has(1)
            assert peer.numbers == ["own"]
            outcomes.add(f"{peer.frames[0]['resumed']} {peer.frames[1]['reason']}")
            answer = await peer.ask({"type": "ping", "cursor": cursor})
            outcomes.add(answer["type"])
            await until(partial(_told_gaps, peer, 2), "the second gap")
    return outcomes


def _told_gaps(peer: Peer, count: int) -> bool:
    return len(peer.of_type("gap")) == count


async def flipped_cursors(attack: Attack) -> Any:
    """Bits flipped in the cursors of two users, presented by one of them. A thousand more are tried without a network
    in tests/mission_critical/test_hostile_bytes.py."""
    rng = random.Random(24)
    cursors = [(await attack.emit(user, {"n": user}))["cursor"] for user in ("ivan", "judy")]
    outcomes = set()
    for n in range(60):
        data = bytearray(cursors[n % 2].encode())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(7)
        outcomes.add(await attack.ws(token("ivan"), user="ivan", query={"cursor": data.decode("latin-1")}))
    for peer, _ in attack.peers:
        assert all(event["data"] == {"n": "ivan"} for event in peer.events)
    return outcomes <= {4400, "gap: new_epoch", "gap: diverged", "gap: trimmed"}


async def cursor_of_a_former_life(attack: Attack) -> Any:
    old = (await attack.emit("ken", {"n": "former"}))["cursor"]
    await attack.site.control("delete", user="ken")
    await attack.emit("ken", {"n": "present"})
    peer = attack.peer(token("ken"), user="ken", query={"cursor": old})
    async with peer:
        await peer.has(1)
        return [peer.frames[1].get("reason"), *peer.numbers]


def _answered(peer: Peer) -> bool:
    return bool(peer.frames) or peer.code is not None


def disjoint(users: list[str]) -> Callable[[Attack], Awaitable[Any]]:
    """Every user connects; each is sent one event; each sees its own and nothing else. How many were let in."""

    async def attack(attack: Attack) -> Any:
        inside: list[tuple[str, Peer]] = []
        refused = []
        for n, user in enumerate(users):
            peer = attack.peer(token(user), user=user, address=f"127.0.2.{n % 5}", query={"cursor": "latest"})
            await peer.__aenter__()
            await until(partial(_answered, peer), "an answer")
            if peer.code is None:
                inside.append((user, peer))
            else:
                assert peer.code == 4401
                refused.append(user)
        for user in users:
            answer = await attack.emit(user, {"for": user})
            assert ("error" in answer) is (user in refused), "connecting and emitting agree"
        for _user, peer in inside:
            await peer.has(1)
        for user, peer in inside:
            assert [event["data"]["for"] for event in peer.events] == [user]
            await peer.__aexit__()
        return len(inside), refused

    return attack


IDS = ["alice", "alice:*", "alice*", "al?ce", "[a]", "alice:1", "ali", "ALICE", "alice ", " alice", "../bob", "{x}",
       "a}{b", "%61lice", "alice\\", "alice/", "*", "?", "alice'--"]  # fmt: skip
REFUSED = ["alice\n", "", "\x00", "x" * 4_096]
UNICODE = [
    "caf\u00e9", unicodedata.normalize("NFD", "caf\u00e9"), "cafe", "\u212a", "K", "k", "\uff21lice", "\u0130", "I",
    "i", "\u0131", "a\u200db", "ab", "a\u200bb", "\u202ealice", "\ufb01", "fi", "\u00df", "ss", "\uff11", "1", "\u0661",
]  # fmt: skip
SPLIT = ["a:b", "a", "b", "a:b:c", "a::b", "a:b:", ":a:b", "a\u001fb".replace("\u001f", "|"), "1:a", "1:a1:b", "user:a"]
META = ["__meta", "idem", "meta", "head", "epoch", "user", "topic", "control", "log", "null", "None", "undefined", "0"]


async def surrogate_in_an_event(attack: Attack) -> Any:
    peer = attack.peer(token("leo"), user="leo")
    async with peer:
        await attack.emit("leo", {"n": 1})
        refused = await attack.emit("leo", {"n": "\ud800"})
        await attack.emit("leo", {"n": 2})
        await peer.has(2)
        offsets = [event["cursor"].split(".")[1] for event in peer.events]
        return refused.get("error"), peer.numbers, offsets


async def events_that_are_no_json(attack: Attack) -> Any:
    answer = await attack.site.control("bad_emits", user="mike")
    return set(answer["refused"].values()), answer["moved"], len(answer["refused"]) >= 16


async def heavy_frames(attack: Attack) -> Any:
    """As large as is allowed, and bad for a parser. The canary tells whether anybody else had to wait."""
    size = 60_000
    heavy = [
        '{"type":"x",' + ",".join(f'"k{n}":0' for n in range(5_500)) + "}",
        '{"type":"x","k":"' + "\\u0041" * 9_000 + '"}',
        '{"type":"x","k":[' + ",".join(["[]"] * 18_000) + "]}",
        '{"type":"x","k":"' + "[" * (size - 100) + '"}',
    ]
    outcomes = []
    for text in heavy:
        began = time.perf_counter()
        outcomes.append(await attack.ws(token(), say=[text]))
        assert time.perf_counter() - began < 5.0
    return outcomes


async def odd_names(attack: Attack) -> Any:
    """Names that mean something to JavaScript are names."""
    outcomes = []
    for name in ("__proto__", "constructor", "prototype", "toString", "hasOwnProperty"):
        peer = attack.peer(token(name), user=name)
        async with peer:
            data = {name: {"polluted": True}, "constructor": {"prototype": {"polluted": True}}}
            await attack.emit(name, data, event_type=name)
            (event,) = await peer.has(1)
            assert event["type"] == event["user_id"] == name
            assert event["data"] == data
            outcomes.append((await peer.ask({"type": name, name: 1}))["code"])
    return set(outcomes)


async def markup(attack: Attack) -> Any:
    """Data is data: it arrives exactly. What a page makes of it is tested in tests/browser/test_hostile_content.py."""
    text = "<img src=x onerror=alert(1)></script>\u2028\u2029javascript:x [a](javascript:x) \x1b[31m \x00 ${x} {{x}}"
    peer = attack.peer(token("nick"), user="nick")
    async with peer:
        await attack.emit("nick", {"n": text, text: 1}, event_type="custom", thread_id="<b>")
        (event,) = await peer.has(1)
        assert "\n" not in peer.texts[-1]
        return event["data"] == {"n": text, text: 1}, event["thread_id"]


async def injected_lines(attack: Attack) -> Any:
    """Line ends and ANSI sequences, wherever a log might repeat them. Each record is one line of JSON all the same,
    which is looked at after each test."""
    before = len(attack.site.lines)
    nasty = '\x1b[31m\x07" forged'
    line = '{"level":"critical","message":"forged"}'
    outcomes = [
        await attack.ws(token(), query={"cursor": f"x\r\n{line}"}),
        await attack.ws(token(), query={"connection_id": f"x\r\n{line}"}),
        await attack.ws(token(), query={"thread_id": f"x\n{line}", "connection_id": "y\u2028" + line}),
        await attack.ws(first=json.dumps({"type": "auth", "token": f"x\r\n{line}{nasty}"})),
        await attack.ws(token(), say=[json.dumps({"type": f"x\r\n{line}{nasty}", "request_id": f"\n{line}"})]),
        await attack.ws(token("a\r\nb")),
    ]
    for path in (f"/live/ws%0d%0a{'%22forged%22'}", "/%1b[31m", "/live/ticket%0aforged"):
        await attack.site.http("GET", path)
    await attack.site.raw(b"GET /\x1b[31mforged\x80\xff HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    await attack.site.raw(b'GET /x HTTP/1.1\r\nHost: x\r\nUser-Agent: "\x1b[31m\r\nConnection: close\r\n\r\n')
    assert not any(json.loads(text)["message"].startswith("forged") for text in attack.site.lines[before:])
    return outcomes


async def secrets_everywhere(attack: Attack) -> Any:
    """Secrets in every place that there is, and a crash with a traceback. What was logged is searched afterwards."""
    attack.errors = True
    bearer, query = token("oscar", claim=f"{CANARY}-claim"), token("oscar", n=1)
    peer = attack.peer(bearer, user="oscar", query={"connection_id": "c"}, v1=True)
    async with peer:
        cursor = (await attack.emit("oscar", {"n": 1, "secret": CANARY}))["cursor"]
        await peer.has(1)
        outcomes = [(await peer.ask({"type": "crash", "secret": CANARY}))["code"]]
        outcomes.append((await peer.ask({"type": CANARY}))["code"])
        await peer.say(f'{{"type": "{CANARY}"')
        await peer.gets(lambda: any(each["code"] == "malformed" for each in peer.of_type("error")))
        await peer.ask({"type": "auth", "token": token("oscar", n=2)})
        await peer.ask({"type": "ping", "cursor": cursor})
    secret = "ticket-canary-0123456789abcdef"
    attack.secrets |= {query, secret, bearer, cursor}
    outcomes.append(await attack.ws(path="/own/ws", query={"token": query, "cursor": cursor}, user="oscar"))
    outcomes.append(await attack.ws(query={"ticket": secret, "cursor": cursor}))
    outcomes.append(await attack.ws(token("oscar"), query={"cursor": f"{CANARY}.x"}))
    outcomes.append(await attack.ticket(f"{CANARY}.x.y"))
    status, _, body = await attack.site.http("POST", f"/live/ticket?ticket={secret}", body=CANARY.encode())
    assert secret not in body
    found = [line for line in attack.site.lines if "ZeroDivisionError" in line]
    assert found, "the crash is in the log, with its traceback"
    return [*outcomes, status]


async def series(attack: Attack) -> Any:
    """The names of all series before and after a hundred types of frame, of users and of ways to fail. Ten thousand
    users are counted in tests/mission_critical/test_metrics_name_nobody.py."""

    async def names() -> set[str]:
        _, _, text = await attack.site.http("GET", "/metrics")
        return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}

    before = await names()
    for n in range(10):
        peer = attack.peer(token(f"series {n}"), user=f"series {n}")
        async with peer:
            for m in range(10):
                await peer.ask({"type": f"bad {n} {m}"})
            await attack.emit(f"series {n}", {"n": n}, event_type=f"type {n}")
            peer.left = True
            await peer.connection.close(3_000 + n, f"reason {n}")
    for text in ("x" * 70_000, "{", "[]"):
        await attack.ws(first=text)
    after = await names()
    assert not any("series" in name or "bad" in name or "127.0.0" in name for name in after)
    return after == before


async def flood_of_one_user(attack: Attack) -> Any:
    """Ten stay, and the oldest go."""
    peers = [attack.peer(token("peggy"), user="peggy") for _ in range(14)]
    for peer in peers:
        await peer.__aenter__()
        await peer.greeted()
    codes = [await peer.closed() for peer in peers[:4]]
    alive = [peer.code for peer in peers[4:]]
    for peer in peers:
        await peer.__aexit__()
    return codes, alive


async def flood_of_one_address(attack: Attack) -> Any:
    """Others get in meanwhile; and who says to be forwarded by a proxy is not believed."""
    outcomes = []
    peers = [attack.peer(token(f"flood {n}"), user=f"flood {n}", address="127.0.3.1") for n in range(40)]
    for peer in peers:
        await peer.__aenter__()
    for headers in ({}, {"X-Forwarded-For": "192.0.2.7"}, {"Forwarded": "for=192.0.2.7"}, {"X-Real-IP": "192.0.2.7"}):
        outcomes.append(await attack.ws(token(), address="127.0.3.1", headers=headers))
    status, answer, _ = await attack.site.http("POST", "/live/ticket", address="127.0.3.1")
    outcomes += [status, int(answer["retry-after"]) > 0, await attack.ws(token(), address="127.0.3.2")]
    for peer in peers:
        assert peer.code is None
        await peer.__aexit__()

    async def again() -> bool:
        return bool(await attack.ws(token(), address="127.0.3.1") == "connected")

    async with asyncio.timeout(5):
        while not await again():
            pass  # until the server has seen that they left
    return outcomes


async def forwarded(attack: Attack) -> Any:
    """An address that is made up with each request does not lead around the bound."""
    peers = [
        attack.peer(
            token(f"quinn {n}"), user=f"quinn {n}", address="127.0.3.9", headers={"X-Forwarded-For": f"192.0.2.{n}"}
        )
        for n in range(41)
    ]
    refused = 0
    entered = []
    for peer in peers:
        try:
            await peer.__aenter__()
            entered.append(peer)
        except InvalidStatus as answer:
            refused += answer.response.status_code == 429
    for peer in entered:
        await peer.__aexit__()
    return refused


def flood(text: str) -> Callable[[Attack], Awaitable[Any]]:
    """The same frame again and again, without waiting for an answer."""

    async def attack(attack: Attack) -> Any:
        peer = attack.peer(token("rupert"), user="rupert")
        async with peer:
            await peer.greeted()
            try:
                for _ in range(600):
                    await peer.say(text)
            except ConnectionClosed:
                pass
            return await peer.closed()

    return attack


async def preflight(attack: Attack) -> Any:
    """Which origins are told that they may ask for tickets with credentials; nothing is reflected."""
    told = {}
    for origin in (APP, "https://evil.example", "null", f"{APP}.evil.example", "http://app.example", "*"):
        for prefix in ("/live", "/own"):
            headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            for method, more in (("OPTIONS", {}), ("POST", {"Authorization": f"Bearer {token()}"})):
                status, answer, body = await attack.site.http(
                    method,
                    f"{prefix}/ticket",
                    headers={**(headers if method == "OPTIONS" else {"Origin": origin}), **more},
                )
                if allowed := answer.get("access-control-allow-origin"):
                    told[f"{method} {prefix} {origin}"] = allowed
                if status == 200 and method == "POST":
                    attack.secrets.add(json.loads(body)["ticket"])
                    assert answer["cache-control"] == "no-store"
                    assert "origin" in answer["vary"].lower()
    return told


def a_router(**options: Any) -> object:
    return websocket_router(
        UnifiedWebSocketManager(), authenticate=JWTAuthenticator(SECRET, algorithms=["HS256"]), **options
    )


GOOD_CURSOR = "AAAAAAAA.1.x"
EVIL_ORIGINS = [
    "https://evil.example", "null", f"{APP}.evil.example", "http://app.example", f"{APP}:8443", "https://sub.app",
    f"{APP}/", f"{APP}@evil.example", "https://APP.example.", "file://", "chrome-extension://x", "*", f"{APP}, {APP}",
]  # fmt: skip

INPUTS: Final[list[Input]] = [
    ws(1, "an auth frame without a token", 4401, bearer=None, first='{"type":"auth"}'),
    ws(1, "nothing at all", 4408, bearer=None),
    ws(1, "an empty token in a header", 4408, bearer=""),
    ws(1, "an empty token in the first frame", 4401, bearer=None, first='{"type":"auth","token":""}'),
    ws(1, "a token in the address, where that is off", 4408, bearer=None, query={"token": token()}),
    ws(1, "a token as a subprotocol", 4408, bearer=None, headers={"Sec-WebSocket-Protocol": token()}),
    ws(1, "a token in a cookie", 4408, bearer=None, headers={"Cookie": f"token={token()}; session={token()}"}),
    Input(1, "no token for a ticket", lambda attack: attack.ticket(), 401),
    *tokens(),
    refused_configuration(3, "a public key as the secret of HS256", lambda: JWTAuthenticator(
        "-----BEGIN PUBLIC KEY-----\n" + "A" * 100, algorithms=["HS256"])),
    refused_configuration(3, "mixed families", lambda: JWTAuthenticator(SECRET, algorithms=["HS256", "RS256"])),
    refused_configuration(6, "an empty key", lambda: JWTAuthenticator("", algorithms=["HS256"])),
    refused_configuration(6, "a short key", lambda: JWTAuthenticator("k" * 31, algorithms=["HS256"])),
    refused_configuration(6, "a short key for HS512", lambda: JWTAuthenticator("k" * 63, algorithms=["HS512"])),
    ws(12, "a token of a megabyte", 1009, bearer=None, first=json.dumps({"type": "auth", "token": "k" * 2**20})),
    Input(14, "a ticket spent twice", spent_ticket, ["connected", 4401, 4401]),
    Input(14, "a ticket that fifty race for", raced_ticket, ["4401"] * 49 + ["connected"]),
    Input(14, "a ticket of another user", ticket_of_another, ["connected", 4403, 4401]),
    ws(14, "a ticket that is none", 4401, query={"ticket": "x"}),
    ws(14, "a ticket that is empty", 4401, query={"ticket": ""}),
    Input(15, "a token that expires on the socket", expires, [4419, 0]),
    Input(16, "a revocation with three tabs", revoked, [4410] * 6 + [401]),
    Input(17, "a refresh with the token of another user", refreshed_as_another, 4403),
    *(ws(18, f"origin {origin!r}", 403, origin=origin) for origin in EVIL_ORIGINS),
    *(ticket(18, f"origin {origin!r} for a ticket", 403, Origin=origin) for origin in EVIL_ORIGINS),
    ws(18, "no origin, as programs have none", "connected"),
    ws(18, "the listed origin", "connected", origin=APP),
    ws(18, "the server's own origin where others are listed", 403, origin="http://127.0.0.1"),
    ws(18, "a foreign origin where none is listed", 403, path="/own/ws", origin=APP),
    request(19, "a host with a query", 101, "GET /live/ws HTTP/1.1\r\nHost: a/?x=\r\n{bearer}{upgrade}"),
    request(19, "a host with a query, and its origin", 403,
            "GET /own/ws HTTP/1.1\r\nHost: a/?x=\r\nOrigin: http://a\r\n{bearer}{upgrade}"),
    request(19, "a host with a user, and its origin", 403,
            "GET /own/ws HTTP/1.1\r\nHost: x@evil.example\r\nOrigin: http://evil.example\r\n{bearer}{upgrade}"),
    request(19, "two hosts", {400, 403},
            "GET /own/ws HTTP/1.1\r\nHost: {host}\r\nHost: a\r\nOrigin: http://b\r\n{bearer}{upgrade}"),
    request(19, "a path that is none", {400, 404}, "GET @evil.example HTTP/1.1\r\nHost: {host}\r\n{bearer}{upgrade}"),
    request(19, "a whole address of elsewhere, without a token", 401,
            "POST http://evil.example/live/ticket HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n"),
    request(20, "method _helper", {400, 405}, "_helper /live/ticket HTTP/1.1\r\nHost: {host}\r\n{bearer}"),
    request(20, "method post", {400, 405}, "post /live/ticket HTTP/1.1\r\nHost: {host}\r\n{bearer}"),
    *(request(20, f"method {method}", 405, f"{method} /live/ticket HTTP/1.1\r\nHost: {{host}}\r\n{{bearer}}")
      for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE")),
    request(20, "a method that is overridden", 405,
            "GET /live/ticket HTTP/1.1\r\nHost: {host}\r\nX-HTTP-Method-Override: POST\r\n{bearer}"),
    Input(21, "a cursor of another user", cursor_of_another, {"False new_epoch", "pong"}),
    *(ws(22, f"offset {offset}", 4400, query={"cursor": f"AAAAAAAA.{offset}.x"})
      for offset in ("-1", str(2**53), str(2**63), str(2**64), "1e9", "null", "[1]", "", " 1", "+1", "01", "0x1",
                     "\u0661", "\uff11", "9" * 300)),
    *(ws(22, f"cursor {value} in the first frame", 4400, bearer=None,
         first=f'{{"type":"auth","token":"{token()}","cursors":{value}}}')
      for value in ('{"":1}', '{"":1.5}', '{"":null}', '{"":["a.1.x"]}', "[]", "1", '"a.1.x"', '{"":true}', '{"":{}}')),
    *(ws(22, f"cursor {value} in a ping", "malformed", say=[f'{{"type":"ping","cursor":{value}}}'])
      for value in ("1", "[]", "{}", '""', '"x"', "true", '"a.-1.x"', f'"a.{2**53}.x"')),
    ws(23, "an offset of the future", "gap: new_epoch", query={"cursor": f"AAAAAAAA.{2**53 - 1}.x"}),
    ws(23, "an epoch that never was", "gap: new_epoch", query={"cursor": GOOD_CURSOR}),
    ws(23, "an epoch of 200 characters", 4400, query={"cursor": f"{'A' * 200}.1.x"}),
    ws(23, "an epoch of a megabyte, in the first frame", 1009, bearer=None,
       first=f'{{"type":"auth","token":"x","cursors":{{"":"{"A" * 2**20}.1.x"}}}}'),
    ws(23, "an epoch of 100 KB in the address", {414, 431}, query={"cursor": f"{'A' * 100_000}.1.x"}),
    Input(24, "cursors with flipped bits", flipped_cursors, True),
    Input(25, "a cursor of a user's former life", cursor_of_a_former_life, ["new_epoch", "present"]),
    Input(26, "ids that look like patterns", disjoint([*IDS, *REFUSED]), (len(IDS), REFUSED)),
    Input(27, "ids that look alike", disjoint(UNICODE), (len(UNICODE), [])),
    Input(28, "ids that could be two ids", disjoint(SPLIT), (len(SPLIT), [])),
    Input(30, "ids that could be keys of ours", disjoint(META), (len(META), [])),
    *frame(38, "1,000 deep", "[" * 1_000 + "]" * 1_000, 4400, "malformed"),
    *frame(38, "1,000 deep in an object", '{"type":"x","a":' + "[" * 1_000 + "]" * 1_000 + "}", 4400, "malformed"),
    *frame(38, "30,000 deep", "[" * 30_000, 1009, "malformed"),
    *frame(38, "100,000 deep", "[" * 100_000, 1009, 1009),
    *frame(38, "1,000,000 deep", "[" * 1_000_000, 1009, 1009),
    *(each for number in ("1" * 4_301, "1e400", "-1e400", "NaN", "Infinity", "-Infinity", "1" * 21, "01", "1.", "+1")
      for each in frame(39, f"number {number[:30]}", f'{{"type":"ping","x":{number}}}', 4400, "malformed")),
    *frame(39, "number -0", '{"type":"cancel","run_id":-0}', 4401, "invalid"),
    *frame(40, "duplicate keys", '{"type":"ping","user":"a","user":"b"}', 4400, "malformed"),
    *frame(40, "a duplicate type", '{"type":"auth","type":"ping","token":"x"}', 4400, "malformed"),
    *frame(40, "a duplicate key by an escape", '{"type":"ping","\\u0074ype":"auth"}', 4400, "malformed"),
    *frame(40, "duplicate keys further in", '{"type":"ping","x":[{"a":1,"a":2}]}', 4400, "malformed"),
    *frame(41, "a lone surrogate", '{"type":"x","text":"\\ud800"}', 4400, "malformed"),
    *frame(41, "a lone surrogate in a key", '{"type":"x","\\udfff":1}', 4400, "malformed"),
    *frame(41, "surrogates the wrong way round", '{"type":"\\udc00\\ud800"}', 4400, "malformed"),
    Input(41, "a lone surrogate in an event", surrogate_in_an_event, ("InvalidEvent", [1, 2], ["1", "2"])),
    Input(42, "events that are no JSON", events_that_are_no_json, ({"InvalidEvent"}, 0, True)),
    Input(43, "heavy frames", heavy_frames, ["unknown_type"] * 4),
    Input(44, "names that mean something to JavaScript", odd_names, {"unknown_type"}),
    Input(45, "markup in an event", markup, (True, "<b>")),
    Input(47, "line ends for the log", injected_lines, [4400, 4400, "connected", 4401, "unknown_type", 4401]),
    Input(48, "secrets everywhere", secrets_everywhere,
          ["internal", "unknown_type", "connected", 4401, 4400, 401, 401]),
    Input(49, "a hundred types, users and close codes", series, True),
    Input(52, "a flood of one user", flood_of_one_user, ([4409] * 4, [None] * 10)),
    Input(52, "a flood of one address", flood_of_one_address, [429, 429, 429, 429, 429, True, "connected"]),
    Input(52, "a flood of forwarded addresses", forwarded, 1),
    Input(53, "a flood of messages", flood('{"type":"x"}'), 4429),
    Input(53, "a flood of pings", flood('{"type":"ping"}'), 4429),
    Input(53, "a flood of pings with cursors", flood(f'{{"type":"ping","cursor":"{GOOD_CURSOR}"}}'), 4429),
    Input(53, "a flood of subscriptions", flood('{"type":"subscribe","topics":["a","b","c"]}'), 4429),
    Input(53, "a flood of large messages", flood(json.dumps({"type": "x", "text": "x" * 50_000})), 4429),
    Input(53, "a flood of what is no frame", flood("x"), 4400),
    *frame(55, "a packet with attachments", '52-["x",{"_placeholder":true,"num":0}]', 4400, "malformed"),
    *frame(55, "a partial attachment", b"\x04partial", 1003, 1003),
    refused_configuration(59, "a wildcard", lambda: a_router(origins=["*"])),
    refused_configuration(59, "a wildcard among others", lambda: a_router(origins=[APP, "*"])),
    refused_configuration(59, "a pattern", lambda: a_router(origins=["https://*.example"])),
    refused_configuration(59, "a wildcard that is no list", lambda: a_router(origins="*")),
    Input(59, "preflights", preflight, {f"OPTIONS /live {APP}": APP, f"POST /live {APP}": APP}),
]  # fmt: skip


@pytest.mark.parametrize("each", INPUTS, ids=lambda each: f"{each.row}: {each.name}")
async def test_a_bad_input_gets_its_answer_and_harms_nobody(site: Attacked, each: Input) -> None:
    attack = Attack(site)
    outcome = await each.attack(attack)
    if isinstance(each.expected, set) and not isinstance(outcome, set):
        assert outcome in each.expected
    else:
        assert outcome == each.expected
    await attack.judge()


def test_no_row_is_forgotten() -> None:
    tested = {each.row for each in INPUTS}
    assert not tested & set(NOT_YET)
    assert not tested & set(ELSEWHERE)
    assert tested | set(ELSEWHERE) | set(NOT_YET) == set(range(1, 61))
    names = [(each.row, each.name) for each in INPUTS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("row", ELSEWHERE)
def test_what_is_said_to_be_elsewhere_is_there(row: int) -> None:
    """By its number, which the names of those tests begin with, or the headings above them."""
    spec = importlib.util.find_spec(ELSEWHERE[row])
    assert spec is not None
    assert spec.origin is not None
    assert re.search(rf"(\"|rows? |and ){row}\b", Path(spec.origin).read_text(encoding="utf-8"))
