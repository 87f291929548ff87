"""Promise: whatever bytes come where a frame, a cursor, a token, a ticket or an origin is expected, they are taken
exactly or refused as documented, soon, and nobody else notices.

Half of what is tried is random; the other half is something good with a few bytes changed, which gets further in.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import logging
import math
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import FastAPI
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.asgi import ASGIClient, ask, scope_of
from tests.support import Tab, a_manager, frozen_clock, run_in_virtual_time, turns, virtual_time
from websocket_core.admission import network_of
from websocket_core.auth import AuthenticationFailed, AuthRequest, JWTAuthenticator
from websocket_core.control import CONTROL, Order, order_of
from websocket_core.errors import (
    ConnectionRefused,
    InvalidInput,
    InvalidUserId,
    MalformedCursor,
    MalformedFrame,
)
from websocket_core.events import Event
from websocket_core.identity import Principal, checked_user_id
from websocket_core.limits import Limits
from websocket_core.log import Position
from websocket_core.router import websocket_router
from websocket_core.tickets import Tickets
from websocket_core.transports.entrance import Entrance
from websocket_core.wire import CLOSE_RULES, ERROR_CODES, decode_cursor, encode_cursor, parse_frame

T = TypeVar("T")

SECRET = "a secret of at least thirty-two bytes"
FAR = 4_000_000_000
APP = "https://app.example"
SOON = 1.0
"""Seconds of CPU that no single input may take, however bad; what is really needed is a hundredth of it."""

MANY = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
FEW = settings(MANY, max_examples=40)


# -- hostile text


def decoded(data: bytes) -> str:
    """Text with a lone surrogate for each byte that is no UTF-8."""
    return data.decode("utf-8", "surrogateescape")


@st.composite
def damaged(draw: st.DrawFn, good: st.SearchStrategy[bytes]) -> bytes:
    """Something good with a few bytes flipped, cut, doubled, moved or put in."""
    data = bytearray(draw(good))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["flip", "cut", "double", "insert", "truncate", "swap"])):
            case "flip" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at : at + draw(st.integers(1, 8))]
            case "double":
                data[at:at] = data[at : at + 16]
            case "insert":
                data[at:at] = draw(st.sampled_from(SPECIAL))
            case "truncate":
                del data[at:]
            case _:
                data.reverse()
    return bytes(data)


SPECIAL = [
    b"", b"\x00", b"\n", b"\r\n", b".", b"..", b"-", b"+", b"{", b"}", b"[", b'"', b"\\", b"\\u0000", b"\\ud800",
    b"\xff", b"\xed\xa0\x80", b"\xc0\xaf", b"\xef\xbb\xbf", b"1e999", b"NaN", b"9" * 30, b"null", b"%00", b"%", b"&",
    b"=", b";", b"\xe2\x80\xa8", b"\xd9\xa1", b"\xef\xbc\x91", b"*", b"/../", b"A" * 200,
]  # fmt: skip


def hostile(*good: bytes) -> st.SearchStrategy[bytes]:
    return st.one_of(
        damaged(st.sampled_from(good)),
        st.binary(max_size=200),
        st.lists(st.sampled_from([*SPECIAL, *good]), max_size=8).map(b"".join),
    )


def hostile_text(*good: bytes) -> st.SearchStrategy[str]:
    return st.one_of(hostile(*good).map(decoded), st.text(st.characters(), max_size=60))


def in_time(call: Callable[..., Any], *arguments: Any) -> Any:
    began = time.process_time()
    try:
        return call(*arguments)
    finally:
        assert time.process_time() - began < SOON


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("it waits")


def unquoted(text: str, error: Exception) -> None:
    """An error says what is wrong, and not with what."""
    assert len(text) < 12 or text not in str(error)


# -- cursors


POSITION = Position("k3v9Zz_-", 17, "b3J0aG9nb25hbDE.1")
CURSOR = encode_cursor(POSITION)


@MANY
@example("AAAAAAAA.\u0661.x")
@example("AAAAAAAA.01.x")
@example("AAAAAAAA.1.x\n")
@example("AAAAAAAA.1.")
@example("AAAAAAAA.0.x")
@given(hostile_text(CURSOR.encode(), b"AAAAAAAA.0.", b"AAAAAAAA.9007199254740991.x"))
def test_a_hostile_cursor_is_a_position_written_exactly_so_or_malformed(text: str) -> None:
    try:
        position = decode_cursor(text)
    except MalformedCursor as error:
        unquoted(text, error)
        return
    assert encode_cursor(position) == text
    assert text.isascii()
    assert text.isprintable()
    assert 0 <= position.offset < 2**53


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=20) | st.just(CURSOR.encode()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@MANY
@given(VALUES)
def test_a_cursor_that_is_no_text_is_malformed(value: Any) -> None:
    with pytest.raises(MalformedCursor):
        decode_cursor(value)


@virtual_time
async def test_a_thousand_cursors_with_flipped_bits_show_nobody_anything_but_their_own_log() -> None:
    """Of Bob's cursor and of Alice's own, with one to three bits flipped, presented by Alice."""
    rng = random.Random(24)
    async with a_manager(limits=Limits(connections_per_user=10_000)) as manager:
        hers = [await manager.get_emitter("alice").emit("custom", {"n": n}) for n in range(4)]
        his = [await manager.get_emitter("bob").emit("custom", {"n": f"bob {n}"}) for n in range(4)]
        outcomes = {"malformed": 0, "gap": 0, "honoured": 0}
        for n in range(1_000):
            data = bytearray(encode_cursor((hers if n % 2 else his)[n % 4]).encode())
            for _ in range(rng.randint(1, 3)):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            text = data.decode("latin-1")
            try:
                tab = await Tab.open(manager, "alice", cursor=text)
            except MalformedCursor:
                outcomes["malformed"] += 1
                continue
            await tab.greeted()
            await turns(3)
            if tab.socket.frames[0]["resumed"]:
                outcomes["honoured"] += 1
                assert decode_cursor(text) in hers
            else:
                outcomes["gap"] += 1
                assert tab.socket.frames[1]["type"] == "gap"
                assert tab.numbers == [0, 1, 2, 3]
            assert not any("bob" in sent for sent in tab.socket.texts)
            await tab.cut()
        assert outcomes["malformed"] > 100
        assert outcomes["gap"] > 100
        assert manager.metrics.isolation_violations == 0


# -- frames


FRAMES = [
    b'{"type":"ping","cursor":"' + CURSOR.encode() + b'","request_id":"q"}',
    b'{"type":"auth","token":"t","cursors":{"":"' + CURSOR.encode() + b'"}}',
    b'{"type":"cancel","run_id":"r1","request_id":"q"}',
    b'{"type":"subscribe","topics":["thread:1"],"cursors":{"a":1.5e3,"b":-0}}',
]


@MANY
@given(hostile_text(*FRAMES))
def test_a_hostile_frame_is_an_object_with_a_type_or_malformed(text: str) -> None:
    try:
        frame = in_time(parse_frame, text)
    except MalformedFrame as error:
        unquoted(text, error)
        return
    assert isinstance(frame["type"], str)
    assert json.loads(text) == frame
    text.encode()
    json.dumps(frame, allow_nan=False, ensure_ascii=False).encode()


def bad_frames() -> list[str]:
    """The largest that are let in, each bad for some parser."""
    size = Limits().frame_bytes
    return [
        "[" * size,
        '{"a":' * (size // 5),
        "[" * 100 + "]" * 100 + " " * (size - 200),
        '"' * size,
        '"' + "\\" * (size - 1),
        '{"type":"' + "\\u0000" * (size // 7) + '"}',
        '{"type":"x","k":' + "9" * (size - 20) + "}",
        '{"type":"x","k":1e' + "9" * (size - 20) + "}",
        '{"type":"x","k":0.' + "1" * (size - 20) + "}",
        '{"type":"x",' + ",".join(f'"{n}":0' for n in range(6_500)) + "}",
        '{"type":"x","k":[' + "[],{}," * (size // 7) + "0]}",
        '{"type":"x","k":"' + "[{" * (size // 2 - 10) + '"}',
        " " * size,
        "\x00" * size,
        "\ud800" * (size // 3),
        "é" * (size // 2),
        '{"type":"x","k":"' + "\U0001f600" * (size // 4 - 6) + '"}',
        "-" * size,
        "," * size,
        '{"type":"x"}' + '{"type":"x"}' * (size // 12 - 1),
        '{"type":"x","k":' + "[" * 99 + "]" * 99 + "}",
    ]


def test_the_worst_frames_are_judged_soon() -> None:
    for text in bad_frames():
        with contextlib.suppress(MalformedFrame):
            in_time(parse_frame, text)


@FEW
@given(st.lists(hostile_text(*FRAMES), min_size=1, max_size=25))
def test_what_hostile_frames_do_to_an_open_connection_is_documented_and_to_others_nothing(texts: list[str]) -> None:
    async def main() -> None:
        async with a_manager() as manager:
            alice, bob = await Tab.open(manager, "alice", v1=True), await Tab.open(manager, "bob")
            await bob.greeted()
            for text in texts:
                alice.socket.client_sends(text)
            await manager.get_emitter("bob").emit("custom", {"n": 1})
            await bob.has(1)
            await turns(5 * len(texts))
            assert alice.socket.close_code in {None, *CLOSE_RULES} - {1011}
            for frame in alice.socket.frames:
                assert frame["type"] in ("connected", "error", "pong", "ack", "gap")
                if frame["type"] == "error":
                    assert frame["code"] in ERROR_CODES - {"internal"}
                    assert not any(len(text) > 12 and text in frame["message"] for text in texts)
            assert len(bob.socket.frames) == 2
            await alice.cut()
            await bob.cut()

    run_in_virtual_time(main())


# -- tokens


def segment(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def signed(header: bytes, payload: bytes, key: str = SECRET) -> bytes:
    head = segment(header) + b"." + segment(payload)
    return head + b"." + segment(hmac.new(key.encode(), head, hashlib.sha256).digest())


HEADER = b'{"alg":"HS256","typ":"JWT"}'
PAYLOAD = b'{"sub":"alice","exp":4000000000,"iat":1700000000,"nbf":1,"jti":"t1","aud":"live","iss":"id"}'
TOKEN = signed(HEADER, PAYLOAD)
PUBLIC = (
    rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    .public_key()
    .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
)
BY_SECRET = JWTAuthenticator(SECRET, algorithms=["HS256"])
STRICT = JWTAuthenticator(SECRET, algorithms=["HS256"], audience="live", issuer="id")
BY_KEY = JWTAuthenticator(PUBLIC, algorithms=["RS256"])


async def who(authenticate: JWTAuthenticator, token: str) -> Principal | None:
    """The principal; None if the token is refused, as it must be if not accepted, without being quoted."""
    try:
        return await authenticate(AuthRequest(token=token))
    except AuthenticationFailed as error:
        unquoted(token, error)
        return None


@MANY
@given(hostile_text(TOKEN, signed(b'{"alg":"none"}', PAYLOAD), signed(HEADER, PAYLOAD, "x" * 32)))
def test_a_hostile_token_is_refused(text: str) -> None:
    """One that is still good is one whose change changes nothing that is signed."""
    signature = TOKEN.rsplit(b".", 1)[1]
    for authenticate in (BY_SECRET, STRICT, BY_KEY):
        principal = at_once(who(authenticate, text))
        if principal is not None:
            assert authenticate is not BY_KEY
            head, _, rest = text.rpartition(".")
            expected = hmac.new(SECRET.encode(), head.encode(), hashlib.sha256).digest()
            given_ = base64.urlsafe_b64decode(rest + "=" * (-len(rest) % 4))
            assert given_ == expected
            assert len(rest) == len(signature)


def hostile_claims() -> st.SearchStrategy[bytes]:
    value = st.sampled_from(
        ["1", "-1", "0", "1e30", "1e400", "-1e400", "NaN", "Infinity", "true", "null", '""', '"alice"', '"a\\u0000"',
         "[]", '"\\ud800"', "{}", '["live"]', '["live",1]', '"4000000000"', "4000000000", "4000000000.5", "9" * 400,
         '"id"', "[" * 200 + "]" * 200, '"' + "x" * 257 + '"', '"live"', "18446744073709551616"]
    )  # fmt: skip
    name = st.sampled_from(["sub", "exp", "iat", "nbf", "jti", "aud", "iss", "crit", "__proto__", "sub\\u0000"])
    good = {"sub": '"alice"', "exp": "4000000000", "aud": '"live"', "iss": '"id"'}
    changes = st.dictionaries(name, value, max_size=3)
    return changes.map(
        lambda changed: ("{" + ",".join(f'"{key}":{text}' for key, text in (good | changed).items()) + "}").encode()
    )


def hostile_headers() -> st.SearchStrategy[bytes]:
    extra = st.sampled_from(
        ["", ',"kid":"../../etc/passwd"', ',"kid":7', ',"kid":null', ',"jku":"http://127.0.0.1:9/"', ',"crit":["x"]',
         ',"x5u":"http://127.0.0.1:9/"', ',"jwk":{"kty":"oct","k":"eA"}', ',"b64":false,"crit":["b64"]', ',"zip":"DEF"',
         ',"alg":"none"', ',"typ":[]', ',"cty":"JWT"', ',"kid":"' + "k" * 3_000 + '"']
    )  # fmt: skip
    algorithm = st.sampled_from(['"HS256"', '"none"', '"RS256"', '"hs256"', "null", "[]", '"HS256 "', "1"])
    return st.builds(lambda alg, more: f'{{"alg":{alg}{more}}}'.encode(), algorithm, extra)


@MANY
@given(
    header=st.one_of(st.just(HEADER), hostile_headers(), damaged(st.just(HEADER))),
    payload=st.one_of(hostile_claims(), damaged(st.just(PAYLOAD)), st.binary(max_size=60)),
)
def test_a_token_signed_by_us_over_hostile_claims_names_a_user_exactly_or_is_refused(
    header: bytes, payload: bytes
) -> None:
    """An issuer that puts in what its users say is as bad as a forger."""
    token = signed(header, payload).decode()
    for authenticate in (BY_SECRET, STRICT, BY_KEY):
        principal = at_once(who(authenticate, token))
        if principal is None:
            continue
        assert authenticate is not BY_KEY
        claims = json.loads(payload)
        assert json.loads(header)["alg"] == "HS256"
        assert principal.user_id == checked_user_id(claims["sub"])
        assert principal.expires_at is not None
        assert time.time() < principal.expires_at < math.inf
        assert principal.token_id is None or isinstance(principal.token_id, str)
        assert principal.issued_at is None or math.isfinite(principal.issued_at)
        if authenticate is STRICT:
            assert claims["iss"] == "id"
            assert "live" in claims["aud"]


def test_the_worst_tokens_are_judged_soon() -> None:
    most = 16_384
    deep = b"[" * 6_000 + b"]" * 6_000
    bad = [
        b"." * most,
        b"a" * most,
        b"a" * (most - 2) + b"..",
        TOKEN + b"=" * (most - len(TOKEN)),
        signed(HEADER, b'{"sub":"alice","exp":4000000000,"x":' + deep + b"}"),
        signed(b'{"alg":"HS256","x":' + deep + b"}", PAYLOAD),
        signed(HEADER, b'{"sub":"alice","exp":' + b"9" * 12_000 + b"}"),
        signed(HEADER, b'{"sub":"' + b"\\u0000" * 2_000 + b'","exp":4000000000}'),
        signed(b'{"alg":"HS256","kid":"' + b"k" * 11_000 + b'"}', PAYLOAD),
        signed(HEADER, b'{"sub":"alice","exp":4000000000,"crit":' + b"[[" * 3_000 + b"]]" * 3_000 + b"}"),
        b"\xff" * most,
        TOKEN * 400,
    ]
    for data in bad:
        for authenticate in (BY_SECRET, STRICT, BY_KEY):
            token = data.decode("latin-1")
            in_time(at_once, who(authenticate, token))


# -- tickets


@FEW
@given(st.data())
def test_no_text_but_the_ticket_itself_is_accepted(data: st.DataObject) -> None:
    async def main() -> None:
        manager = a_manager()
        tickets = Tickets(manager)
        ticket = await tickets.issue(Principal("alice"), origin=APP)
        texts = data.draw(st.lists(hostile_text(ticket.encode(), b"A" * 32), min_size=1, max_size=20))
        for text in texts:
            if text == ticket:
                continue
            with pytest.raises(AuthenticationFailed) as refused:
                await tickets.spend(text, origin=data.draw(st.sampled_from([APP, None, "", "null"])))
            unquoted(text, refused.value)
        assert (await tickets.spend(ticket, origin=APP)).user_id == "alice"

    at_once(main())


CLAIMS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(st.characters(), max_size=8)
    | st.binary(max_size=3) | st.frozensets(st.integers(), max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    | st.tuples(inner, inner),
    max_leaves=6,
)  # fmt: skip


@MANY
@given(
    user=st.text(st.characters(), min_size=1, max_size=20),
    claims=st.dictionaries(st.text(st.characters(), max_size=6), CLAIMS, max_size=4),
    token_id=st.none() | st.text(st.characters(), max_size=8),
    expires_at=st.none() | st.floats(allow_nan=False, allow_infinity=False),
)
def test_a_ticket_gives_back_the_principal_that_it_was_given_or_is_not_issued(
    user: str, claims: dict[str, Any], token_id: str | None, expires_at: float | None
) -> None:
    async def main() -> None:
        try:
            principal = Principal(user, expires_at=expires_at, token_id=token_id, claims=claims)
        except InvalidUserId:
            return
        tickets = Tickets(a_manager())
        try:
            ticket = await tickets.issue(principal)
        except InvalidInput:
            return
        back = await tickets.spend(ticket, origin=None)
        assert (back.user_id, back.expires_at, back.token_id) == (user, expires_at, token_id)
        assert back.issued_at == principal.issued_at
        assert back.claims == json.loads(json.dumps(claims))

    at_once(main())


# -- headers, addresses, origins


async def by_token(request: AuthRequest) -> Principal:
    if request.token == "good":
        return Principal("alice")
    raise AuthenticationFailed("no")


def an_entrance(origins: list[str] | None) -> Entrance:
    return Entrance(a_manager(clock=frozen_clock), authenticate=by_token, origins=origins, query_token=True)


LISTED, OWN = an_entrance([APP, "http://[::1]:8000"]), an_entrance(None)
ALLOWED = {"https://app.example", "https://app.example:443", "http://[::1]:8000"}


@MANY
@example(b"https://app.example:444")
@example(b"http://app.example")
@example(b"https://app.example.evil.example")
@example(APP.encode() + b"\t")
@given(hostile(APP.encode(), b"https://app.example:443", b"http://[::1]:8000", b"null", b"https://app.example/"))
def test_a_hostile_origin_is_one_that_is_listed_or_refused(value: bytes) -> None:
    scope = scope_of("websocket", "/ws", headers=[("origin", value.decode("latin-1"))])
    allowed = in_time(LISTED.allows_origin, scope)
    assert allowed is (value.decode("latin-1").lower() in ALLOWED or value.lower() == b"https://app.example:0443")
    assert OWN.allows_origin(scope) is (value.lower() in (b"http://server.example", b"http://server.example:80"))


@MANY
@given(
    origin=hostile(b"http://server.example", b"http://evil.example"),
    host=hostile(b"server.example", b"a/?x=", b"server.example@evil.example", b"evil.example", b"[::1]:80"),
)
def test_a_hostile_host_makes_no_foreign_origin_the_server_s_own(origin: bytes, host: bytes) -> None:
    headers = [("host", host.decode("latin-1")), ("origin", origin.decode("latin-1"))]
    if OWN.allows_origin(scope_of("websocket", "/ws", headers=headers)):
        assert origin.lower().removeprefix(b"http://").removesuffix(b":80") == host.lower().removesuffix(b":80")


@MANY
@given(
    query=hostile(b"token=good&cursor=" + CURSOR.encode(), b"ticket=x&ticket=y", b"a=%ff&b=%u0041;c", b"&" * 70),
    cookie=hostile(b"session=s1; other=o", b'a="b\\054c"; $Version=1', b"session=" + b"\\" * 40),
    bearer=hostile(b"Bearer good", b"bearer  good", b"Basic Z29vZA=="),
)
def test_hostile_headers_and_addresses_become_a_request_or_are_malformed(
    query: bytes, cookie: bytes, bearer: bytes
) -> None:
    headers = [("cookie", cookie.decode("latin-1")), ("authorization", bearer.decode("latin-1"))]
    for entrance in (LISTED, OWN):
        try:
            request = in_time(
                entrance.request, scope_of("websocket", "/ws", headers=headers, query=query.decode("latin-1"))
            )
        except InvalidInput as error:
            unquoted(query.decode("latin-1"), error)
            continue
        assert request.cookies == {} or entrance is LISTED
        assert all(isinstance(text, str) for text in (*request.query.values(), *request.cookies.values()))
        if request.token == "good":
            assert b"good" in bearer or b"good" in query
        assert "good" not in repr(request)


def test_the_worst_headers_are_read_soon() -> None:
    """As large as a server lets them be. The standard library's cookies once took minutes for these."""
    most = 32_768
    cookies = ['a="' + "\\" * most + '"', 'a="' + '\\"' * (most // 2) + '"', 'a="' + "\\1" * (most // 2) + '"',
               "a" * most, ";" * most, "=" * most, "a=" * (most // 2), " " * most, '"' * most,
               "a=b;" * (most // 4)]  # fmt: skip
    queries = ["&" * most, "=" * most, "%" * most, "a=%41&" * 60 + "b" * most, "+" * most, ";" * most]
    origins = ["https://" + "a" * most, "https://" + "." * most, ":" * most, "https://a:" + "0" * most, "[" * most]
    for entrance in (LISTED, OWN):
        for name, values in (("cookie", cookies), ("origin", origins), ("authorization", cookies)):
            for value in values:
                scope = scope_of("http", "/ticket", headers=[(name, value)], query="")
                in_time(entrance.request, scope)
                in_time(entrance.allows_origin, scope)
        for query in queries:
            scope = scope_of("http", "/ticket", query=query)
            with contextlib.suppress(InvalidInput):
                in_time(entrance.request, scope)


@pytest.mark.parametrize(
    ("header", "cookies"),
    [
        ("session=s1; other=o", {"session": "s1", "other": "o"}),
        ('a="b c"; d=""', {"a": "b c", "d": ""}),
        ('a="b\\054c\\"d\\\\e"', {"a": 'b,c"d\\e'}),
        ("a=1; a=2", {"a": "2"}),
        ("a=b=c==; =x; y", {"a": "b=c=="}),
        ("", {}),
        (";;; ;", {}),
        ('a="; b=1', {"a": '"', "b": "1"}),
        ("path=/; expires=never", {"path": "/", "expires": "never"}),
    ],
)
def test_cookies_are_read_as_they_are_written(header: str, cookies: dict[str, str]) -> None:
    assert LISTED.request(scope_of("http", "/ticket", headers={"cookie": header})).cookies == cookies


@MANY
@given(hostile_text(b"192.0.2.1", b"2001:db8::1%eth0", b"::ffff:192.0.2.1", b"/run/app.sock"))
def test_a_hostile_address_is_counted_as_something(text: str) -> None:
    network = in_time(network_of, text)
    assert network is None or isinstance(network, str)
    assert (network is None) is (not text)


# -- the whole way in


@FEW
@given(
    first=hostile_text(*FRAMES, b'{"type":"auth","token":"' + TOKEN + b'"}'),
    query=hostile(b"token=x&cursor=" + CURSOR.encode(), b"ticket=AAAA", b"connection_id=a&thread_id=b"),
    header=hostile(b"Bearer " + TOKEN, b"Bearer x"),
    with_header=st.booleans(),
)
def test_a_hostile_handshake_ends_in_a_documented_code_and_in_no_crash(
    first: str, query: bytes, header: bytes, with_header: bool
) -> None:
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    async def main() -> None:
        async with a_manager() as manager:
            app = FastAPI()
            app.include_router(websocket_router(manager, authenticate=BY_SECRET, origins=[APP]))
            headers = [("authorization", header.decode("latin-1"))] if with_header else []
            client = ASGIClient(app, "/ws", headers=headers, query=query.decode("latin-1"))
            client.say(first)
            async with client:
                await asyncio.sleep(6.0)
                assert client.accepted
                if client.code is None:
                    assert (await client.greeted())["user_id"] == "alice"
                else:
                    assert client.code in (1003, 1009, 4400, 4401, 4408)
                    assert client.reason in {rule.reason for rule in CLOSE_RULES.values()}
                    assert client.frames == []
            answer = await ask(app, "POST", "/ticket", headers=headers, query=query.decode("latin-1"))
            assert answer.status in (200, 400, 401)

    keep = Keep(logging.WARNING)
    logging.getLogger("websocket_core").addHandler(keep)
    try:
        run_in_virtual_time(main())
    finally:
        logging.getLogger("websocket_core").removeHandler(keep)
    assert [record.getMessage() for record in records if record.levelno >= logging.ERROR] == []


# -- what a store hands out


@MANY
@given(
    hostile(
        b'{"type":"control","order":{"code":4410,"token_id":"t1"},"id":"x"', b'{"order":{"code":1000}', b"[" * 9_000
    )
)
def test_a_hostile_control_entry_is_an_order_or_nothing(body: bytes) -> None:
    order = in_time(order_of, Event("x", body, CONTROL))
    assert order is None or isinstance(order, Order)
    if order is not None:
        assert type(order.code) is int
        assert isinstance(order.concerns("a", "t"), bool)


# -- names


@MANY
@given(hostile_text(b"alice", b"alice\x00", "Al\u0301ice".encode()))
def test_a_hostile_name_is_a_user_exactly_or_no_user(text: str) -> None:
    async def main() -> None:
        async with a_manager() as manager:
            try:
                tab = await Tab.open(manager, text)
            except (InvalidUserId, ConnectionRefused):
                with pytest.raises(InvalidUserId):
                    manager.get_emitter(text)
                return
            assert (await tab.greeted())["user_id"] == text
            await tab.cut()

    run_in_virtual_time(main())


def test_a_good_token_is_still_good() -> None:
    """So that the refusals above are not of everything."""
    assert at_once(who(BY_SECRET, TOKEN.decode())) is not None
    token = jwt.encode({"sub": "a", "exp": FAR, "aud": "live", "iss": "id"}, SECRET)
    assert at_once(who(STRICT, token)) is not None
