"""Who is at the other end: a token is believed only when everything about it is right, and no error quotes it."""

from __future__ import annotations

import asyncio
import base64
import datetime
import hashlib
import hmac
import json
import logging
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.listening import free_port
from websocket_core.auth import (
    TOKEN_CHARACTERS,
    AuthenticationFailed,
    AuthRequest,
    DevelopmentAuthenticator,
    JWTAuthenticator,
)
from websocket_core.errors import InvalidConfiguration
from websocket_core.identity import Principal

SECRET = "not a real secret, and sixty-four bytes long for HS512: 0123456789"
FAR = 4_000_000_000


class Pair:
    """A private key and its public half as PEM."""

    def __init__(self, private: Any) -> None:
        self.private = private
        self.public: bytes = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.private_pem: bytes = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def jwk(self, kid: str, algorithm: str) -> dict[str, Any]:
        made: dict[str, Any] = jwt.get_algorithm_by_name(algorithm).to_jwk(self.private.public_key(), as_dict=True)
        return made | {"kid": kid, "alg": algorithm, "use": "sig"}


RSA = Pair(rsa.generate_private_key(public_exponent=65_537, key_size=2_048))
P256 = Pair(ec.generate_private_key(ec.SECP256R1()))
ED = Pair(ed25519.Ed25519PrivateKey.generate())

FAMILIES: dict[str, tuple[Any, str | bytes]] = {
    "HS256": (SECRET, SECRET),
    "HS384": (SECRET, SECRET),
    "HS512": (SECRET, SECRET.encode()),
    "RS256": (RSA.private, RSA.public),
    "RS512": (RSA.private, RSA.public.decode()),
    "PS256": (RSA.private, RSA.public),
    "ES256": (P256.private, P256.public),
    "ES384": ((P384 := Pair(ec.generate_private_key(ec.SECP384R1()))).private, P384.public),
    "ES512": ((P521 := Pair(ec.generate_private_key(ec.SECP521R1()))).private, P521.public),
    "EdDSA": (ED.private, ED.public),
}


def a_token(
    claims: Mapping[str, Any] | None = None, *, key: Any = SECRET, algorithm: str = "HS256", headers: Any = None
) -> str:
    return jwt.encode({"sub": "alice", "exp": FAR, **(claims or {})}, key, algorithm=algorithm, headers=headers)


def _segment(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def raw_token(payload: str, header: str = '{"alg":"HS256","typ":"JWT"}', key: bytes = SECRET.encode()) -> str:
    """A token with a right HS256 signature over whatever text."""
    signed = f"{_segment(header.encode())}.{_segment(payload.encode())}"
    return f"{signed}.{_segment(hmac.new(key, signed.encode(), hashlib.sha256).digest())}"


def hs256(**options: Any) -> JWTAuthenticator:
    return JWTAuthenticator(SECRET, algorithms=["HS256"], **options)


async def who(authenticator: Any, token: str | None) -> Principal:
    principal: Principal = await authenticator(AuthRequest(token=token))
    return principal


async def refuses(authenticator: Any, token: str | None) -> bool:
    with pytest.raises(AuthenticationFailed) as failed:
        await who(authenticator, token)
    assert not token or token not in str(failed.value)
    return True


# -- what is accepted


@pytest.mark.parametrize("algorithm", FAMILIES)
async def test_a_right_token_of_each_family_gives_its_principal(algorithm: str) -> None:
    private, public = FAMILIES[algorithm]
    authenticator = JWTAuthenticator(public, algorithms=[algorithm])
    token = a_token({"jti": "t1", "role": "admin"}, key=private, algorithm=algorithm)
    principal = await who(authenticator, token)
    assert (principal.user_id, principal.expires_at, principal.token_id) == ("alice", float(FAR), "t1")
    assert principal.claims == {"sub": "alice", "exp": FAR, "jti": "t1", "role": "admin"}
    assert "admin" not in repr(principal)


async def test_a_token_without_an_id_has_none() -> None:
    assert (await who(hs256(), a_token())).token_id is None


@pytest.mark.parametrize("algorithm", FAMILIES)
async def test_a_token_of_another_key_or_with_a_changed_byte_is_refused(algorithm: str) -> None:
    private, public = FAMILIES[algorithm]
    authenticator = JWTAuthenticator(public, algorithms=[algorithm])
    other = {"H": SECRET[::-1], "R": rsa.generate_private_key(public_exponent=65_537, key_size=2_048), "P": None}
    if algorithm[0] in "HR":
        assert await refuses(authenticator, a_token(key=other[algorithm[0]], algorithm=algorithm))
    header, payload, signature = a_token(key=private, algorithm=algorithm).split(".")
    mallory = _segment(json.dumps({"sub": "mallory", "exp": FAR}).encode())
    assert await refuses(authenticator, f"{header}.{mallory}.{signature}")
    assert await refuses(authenticator, f"{header}.{payload}.{signature[:-4]}AAAA")
    assert await refuses(authenticator, f"{header}.{payload}.")


# -- algorithms


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE"])
async def test_a_token_without_a_signature_is_refused(name: str) -> None:
    header = _segment(json.dumps({"alg": name, "typ": "JWT"}).encode())
    payload = _segment(json.dumps({"sub": "alice", "exp": FAR}).encode())
    for authenticator in (hs256(), JWTAuthenticator(RSA.public, algorithms=["RS256"])):
        assert await refuses(authenticator, f"{header}.{payload}.")
        assert await refuses(authenticator, f"{header}.{payload}.{_segment(b'x' * 32)}")


async def test_an_algorithm_that_is_not_listed_is_refused_though_the_key_is_right() -> None:
    assert await refuses(hs256(), a_token(algorithm="HS512"))
    assert await refuses(
        JWTAuthenticator(RSA.public, algorithms=["RS256"]), a_token(key=RSA.private, algorithm="RS512")
    )
    both = JWTAuthenticator(SECRET, algorithms=["HS256", "HS512"])
    assert (await who(both, a_token(algorithm="HS512"))).user_id == "alice"


async def test_a_public_key_is_no_secret() -> None:
    """The classic confusion: a token signed with HS256 and the server's public key as the secret."""
    authenticator = JWTAuthenticator(RSA.public, algorithms=["RS256", "RS384"])
    forged = raw_token(f'{{"sub":"alice","exp":{FAR}}}', key=RSA.public)
    assert await refuses(authenticator, forged)
    assert await refuses(authenticator, forged.replace(forged.split(".")[0], _segment(b'{"alg":"RS256"}')))


@pytest.mark.parametrize(
    ("key", "algorithms"),
    [
        (SECRET, []),
        (SECRET, ["none"]),
        (SECRET, ["HS256", "none"]),
        (SECRET, ["hs256"]),
        (SECRET, ["HS1"]),
        (SECRET, "HS256"),
        (SECRET, ["HS256", "RS256"]),
        (RSA.public, ["RS256", "HS256"]),
        (RSA.public, ["HS256", "EdDSA"]),
    ],
)
def test_unknown_and_mixed_algorithms_are_refused_at_construction(key: Any, algorithms: Any) -> None:
    with pytest.raises(InvalidConfiguration, match="algorithms"):
        JWTAuthenticator(key, algorithms=algorithms)


async def test_a_list_of_algorithms_is_kept_whatever_kind_of_list_it_is() -> None:
    with pytest.raises(InvalidConfiguration):
        JWTAuthenticator(SECRET, algorithms=iter(["HS256", "RS256"]))
    algorithms = ["HS256"]
    for given_as in (iter(algorithms), tuple(algorithms), set(algorithms), algorithms):
        authenticator = JWTAuthenticator(SECRET, algorithms=given_as)
        for _ in range(2):
            assert (await who(authenticator, a_token())).user_id == "alice"
    algorithms.append("HS512")
    assert await refuses(authenticator, a_token(algorithm="HS512"))


# -- keys


@pytest.mark.parametrize(("algorithm", "wanted"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
def test_a_short_secret_is_refused_at_construction(algorithm: str, wanted: int) -> None:
    with pytest.raises(InvalidConfiguration, match=f"at least {wanted}"):
        JWTAuthenticator("k" * (wanted - 1), algorithms=[algorithm])
    with pytest.raises(InvalidConfiguration):
        JWTAuthenticator(b"", algorithms=[algorithm])
    JWTAuthenticator("k" * wanted, algorithms=[algorithm])
    JWTAuthenticator("é" * (wanted // 2), algorithms=[algorithm])


def test_the_longest_algorithm_decides_how_long_the_secret_must_be() -> None:
    with pytest.raises(InvalidConfiguration, match="at least 64"):
        JWTAuthenticator("k" * 63, algorithms=["HS256", "HS512"])


def test_a_short_rsa_key_is_refused_at_construction() -> None:
    weak = Pair(rsa.generate_private_key(public_exponent=65_537, key_size=1_024))
    with pytest.raises(InvalidConfiguration, match="1024 bits"):
        JWTAuthenticator(weak.public, algorithms=["RS256"])


@pytest.mark.parametrize(
    "key",
    [
        RSA.public,
        RSA.public.decode(),
        b"\n  " + RSA.public,
        RSA.private_pem,
        P256.public,
        ED.public,
        b"-----BEGIN CERTIFICATE-----\n" + b"A" * 100,
        "ssh-rsa " + "A" * 100,
        "ecdsa-sha2-nistp256 " + "A" * 100,
    ],
)
def test_a_pem_key_is_no_secret_for_hs(key: Any) -> None:
    with pytest.raises(InvalidConfiguration, match="no secret"):
        JWTAuthenticator(key, algorithms=["HS256"])


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        ("", "RS256"),
        ("nonsense", "RS256"),
        (SECRET, "ES256"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "RS256"),
        (RSA.public, "ES256"),
        (RSA.public, "EdDSA"),
        (P256.public, "RS256"),
        (P256.public, "ES384"),
        (ED.public, "PS256"),
        (RSA.private_pem, "RS256"),
        (P256.private_pem, "ES256"),
        (ED.private_pem, "EdDSA"),
    ],
)
def test_a_key_that_can_verify_nothing_is_refused_at_construction(key: Any, algorithm: str) -> None:
    """And not at each of ten thousand log-ins, with a reason that nobody sees."""
    with pytest.raises(InvalidConfiguration, match="key") as refused:
        JWTAuthenticator(key, algorithms=[algorithm])
    assert "BEGIN" not in str(refused.value)
    assert not key or str(key) not in str(refused.value)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"key": SECRET, "jwks_url": "https://id.example/jwks"},
        {"key": 12_345},
        {"key": ["k" * 64]},
        {"key": SECRET, "leeway": -1},
        {"key": SECRET, "leeway": 301},
        {"key": SECRET, "leeway": float("nan")},
        {"key": SECRET, "leeway": "5"},
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfiguration):
        JWTAuthenticator(**options, algorithms=["HS256"])


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://id.example/jwks", "id.example/jwks", "", "data:,{}"])
def test_keys_come_over_http_or_not_at_all(url: str) -> None:
    with pytest.raises(InvalidConfiguration, match="jwks_url"):
        JWTAuthenticator(jwks_url=url, algorithms=["RS256"])


def test_keys_from_an_address_are_no_secrets() -> None:
    with pytest.raises(InvalidConfiguration, match="asymmetric"):
        JWTAuthenticator(jwks_url="https://id.example/jwks", algorithms=["HS256"])


# -- claims


@pytest.mark.parametrize("claim", ["sub", "exp"])
async def test_a_token_without_subject_or_expiry_is_refused(claim: str) -> None:
    claims = {"sub": "alice", "exp": FAR}
    del claims[claim]
    assert await refuses(hs256(), jwt.encode(claims, SECRET, algorithm="HS256"))
    assert await refuses(hs256(), raw_token(json.dumps(claims | {claim: None})))


@pytest.mark.parametrize(
    "subject",
    ['""', "1", "null", "true", '["alice"]', '{"a":"alice"}', '"a\\u0000"', '"a\\n"', '"\\ud800"', f'"{"x" * 257}"'],
)
async def test_a_subject_that_is_no_user_id_is_refused(subject: str) -> None:
    assert await refuses(hs256(), raw_token(f'{{"exp":{FAR},"sub":{subject}}}'))


@pytest.mark.parametrize("subject", ["Alice", " alice", "a:b", "e\u0301", "é", "{a}", "x" * 256])
async def test_a_subject_is_taken_exactly(subject: str) -> None:
    assert (await who(hs256(), a_token({"sub": subject}))).user_id == subject


@pytest.mark.parametrize(
    "expiry",
    ["NaN", "Infinity", "-Infinity", "1e400", '"soon"', "[]", "{}", "null", "true", "false", "0", "-1", "1.5",
     "9" * 400, "9" * 5_000],
)  # fmt: skip
async def test_an_expiry_that_is_past_or_no_time_is_refused(expiry: str) -> None:
    assert await refuses(hs256(), raw_token(f'{{"sub":"alice","exp":{expiry}}}'))


async def test_an_expiry_in_the_far_future_is_a_time_like_any_other() -> None:
    principal = await who(hs256(), raw_token('{"sub":"alice","exp":1e30}'))
    assert principal.expires_at == 1e30


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time by which PyJWT judges; to be set."""
    now = [1_800_000_000.0]

    class Frozen(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Frozen:
            return cls.fromtimestamp(now[0], tz)

    monkeypatch.setattr("jwt.api_jwt.datetime", Frozen)
    return now


async def test_a_token_is_good_until_the_second_of_its_expiry(clock: list[float]) -> None:
    token = a_token({"exp": 1_800_000_010})
    for moment, good in ((1_800_000_009.9, True), (1_800_000_010.0, False), (1_800_000_011.0, False)):
        clock[0] = moment
        if good:
            assert (await who(hs256(), token)).expires_at == 1_800_000_010.0
        else:
            assert await refuses(hs256(), token)


async def test_leeway_lengthens_the_life_of_the_token_and_of_the_principal_alike(clock: list[float]) -> None:
    """Or a token that is accepted within the leeway would be closed as expired at once."""
    authenticator = hs256(leeway=30.0)
    clock[0] = 1_800_000_039.0
    principal = await who(authenticator, a_token({"exp": 1_800_000_010}))
    assert principal.expires_at == 1_800_000_040.0
    assert principal.expires_at > clock[0]
    clock[0] = 1_800_000_040.0
    assert await refuses(authenticator, a_token({"exp": 1_800_000_010}))


@pytest.mark.parametrize("claim", ["nbf", "iat"])
async def test_a_token_from_the_future_is_refused(clock: list[float], claim: str) -> None:
    assert await refuses(hs256(), a_token({claim: 1_800_000_100}))
    assert (await who(hs256(leeway=100), a_token({claim: 1_800_000_100}))).user_id == "alice"
    assert (await who(hs256(), a_token({claim: 1_800_000_000}))).user_id == "alice"


@pytest.mark.parametrize(
    ("audience", "claim", "good"),
    [
        ("app", "app", True),
        ("app", ["app"], True),
        ("app", ["other", "app"], True),
        (["app", "web"], "web", True),
        (("app", "web"), ["x", "web"], True),
        (iter(["app", "web"]), "web", True),
        ("app", "App", False),
        ("app", "app ", False),
        ("app", "ap", False),
        ("app", "", False),
        ("app", [], False),
        ("app", ["other"], False),
        ("app", 5, False),
        ("app", ["app", 5], False),
        ("app", {"app": 1}, False),
        ("app", None, False),
        (["app"], "a", False),
        ([], "app", False),
        ("", "app", False),
    ],
)
async def test_the_audience_must_be_one_of_those_configured(audience: Any, claim: Any, good: bool) -> None:
    authenticator = hs256(audience=audience)
    token = raw_token(json.dumps({"sub": "alice", "exp": FAR, "aud": claim}))
    if good:
        for _ in range(2):
            assert (await who(authenticator, token)).user_id == "alice"
    else:
        assert await refuses(authenticator, token)
    assert await refuses(authenticator, a_token())


async def test_without_a_configured_audience_any_is_taken() -> None:
    assert (await who(hs256(), a_token({"aud": "somebody else"}))).user_id == "alice"


@pytest.mark.parametrize("issuer", ["https://id.example/", "https://ID.example", "", ["https://id.example"], 5, None])
async def test_the_issuer_must_be_exactly_the_configured_one(issuer: Any) -> None:
    authenticator = hs256(issuer="https://id.example")
    assert await refuses(authenticator, raw_token(json.dumps({"sub": "alice", "exp": FAR, "iss": issuer})))
    assert await refuses(authenticator, a_token())
    assert (await who(authenticator, a_token({"iss": "https://id.example"}))).user_id == "alice"


# -- hostile tokens


HOSTILE = {
    "empty": "",
    "a word": "alice",
    "two parts": "a.b",
    "dots": "...",
    "many dots": "." * 1_000,
    "spaces": "   ",
    "control characters": "a\x00.b\n.c",
    "not ASCII": "é.é.é",
    "lone surrogate": "\ud800.a.b",
    "no base64": "!!!.???.###",
    "header no JSON": f"{_segment(b'hello')}.{_segment(b'{}')}.AAAA",
    "header a list": raw_token("{}", header='["HS256"]'),
    "header null": raw_token("{}", header="null"),
    "header not UTF-8": f"{_segment(bytes([255, 254]))}.{_segment(b'{}')}.AAAA",
    "algorithm a list": raw_token(f'{{"sub":"alice","exp":{FAR}}}', header='{"alg":["HS256"]}'),
    "algorithm an object": raw_token(f'{{"sub":"alice","exp":{FAR}}}', header='{"alg":{"HS256":1}}'),
    "no algorithm": raw_token(f'{{"sub":"alice","exp":{FAR}}}', header="{}"),
    "key id a number": raw_token(f'{{"sub":"alice","exp":{FAR}}}', header='{"alg":"HS256","kid":5}'),
    "unknown critical header": raw_token(f'{{"sub":"alice","exp":{FAR}}}', header='{"alg":"HS256","crit":["x"],"x":1}'),
    "detached payload": raw_token(
        f'{{"sub":"alice","exp":{FAR}}}', header='{"alg":"HS256","b64":false,"crit":["b64"]}'
    ),
    "payload a list": raw_token("[]"),
    "payload null": raw_token("null"),
    "payload a text": raw_token('"alice"'),
    "payload no JSON": raw_token("alice"),
    "deep header": raw_token("{}", header='{"alg":' + "[" * 5_000 + "]" * 5_000 + "}"),
    "deep payload": raw_token('{"sub":"alice","exp":' + "[" * 5_000 + "]" * 5_000 + "}"),
    "a number of 5000 digits": raw_token('{"sub":"alice","exp":' + "9" * 5_000 + "}"),
    "longer than allowed": "a" * (TOKEN_CHARACTERS + 1),
}


@pytest.mark.parametrize("token", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_hostile_token_is_refused_and_nothing_else_happens(
    token: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        for authenticator in (hs256(), JWTAuthenticator(RSA.public, algorithms=["RS256"])):
            assert await refuses(authenticator, token)
    assert len(token) < 4 or token not in caplog.text
    assert all(record.levelno <= logging.DEBUG for record in caplog.records)


async def test_a_huge_token_is_refused_though_it_is_right() -> None:
    token = a_token({"padding": "x" * TOKEN_CHARACTERS})
    assert len(token) > TOKEN_CHARACTERS
    assert await refuses(hs256(), token)
    fits = a_token({"padding": "x" * 10_000})
    assert len(fits) < TOKEN_CHARACTERS
    assert (await who(hs256(), fits)).user_id == "alice"


async def test_a_megabyte_is_refused_without_being_looked_at() -> None:
    started = time.process_time()
    for _ in range(100):
        assert await refuses(hs256(), "a.b." + "c" * 1_000_000)
    assert time.process_time() - started < 1.0


async def test_no_error_and_no_log_line_contains_anything_of_the_token(caplog: pytest.LogCaptureFixture) -> None:
    token = a_token({"sub": "sub-in-claims", "exp": 1, "email": "mail@example.org"}, headers={"kid": "kid-in-header"})
    with caplog.at_level(logging.DEBUG), pytest.raises(AuthenticationFailed) as failed:
        await who(hs256(), token)
    assert str(failed.value) == "the token was not accepted"
    assert failed.value.__cause__ is None
    assert failed.value.__suppress_context__
    shown = caplog.text + str([record.__dict__ for record in caplog.records])
    for secret in (*token.split("."), "sub-in-claims", "mail@example.org", "kid-in-header", SECRET):
        assert secret not in shown
    assert [record.__dict__["error"] for record in caplog.records] == ["ExpiredSignatureError"]


async def test_every_refusal_reads_the_same() -> None:
    """A forger does not learn which part was wrong."""
    texts = set()
    for token in (
        a_token({"exp": 1}),
        a_token(key=SECRET[::-1]),
        a_token(algorithm="HS512"),
        "a.b.c",
        a_token({"sub": ""}),
    ):
        with pytest.raises(AuthenticationFailed) as failed:
            await who(hs256(), token)
        texts.add(str(failed.value))
    assert texts == {"the token was not accepted"}


@pytest.mark.parametrize("token", [None, ""])
async def test_no_token_is_told_as_such(token: str | None) -> None:
    with pytest.raises(AuthenticationFailed, match="no token was sent"):
        await who(hs256(), token)


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.text(st.characters(), max_size=100),
        st.binary(max_size=60).map(lambda header: f"{_segment(header)}.{_segment(b'{}')}.AAAA"),
        st.binary(max_size=60).map(lambda payload: raw_token(payload.decode("latin-1"))),
    )
)
def test_whatever_comes_as_a_token_only_ever_fails_to_authenticate(token: str) -> None:
    with pytest.raises(AuthenticationFailed):
        asyncio.run(who(hs256(), token))


def test_a_request_shows_no_credentials() -> None:
    request = AuthRequest(
        {"authorization": "Bearer s3cret"}, {"token": "s3cret"}, {"session": "s3cret"}, token="s3cret"
    )
    assert "s3cret" not in repr(request)


# -- keys from an address


class KeyServer:
    """A server of JSON Web Keys that counts who asks and for what."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = []
        self.body: bytes | None = None
        self.status = 200
        self.asked: list[str] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.asked.append(self.path)
                body = owner.body if owner.body is not None else json.dumps({"keys": owner.keys}).encode()
                self.send_response(owner.status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def url(self, path: str = "/jwks") -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}{path}"

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[KeyServer]:
    served = KeyServer()
    served.keys = [RSA.jwk("rsa", "RS256"), P256.jwk("p256", "ES256")]
    yield served
    served.stop()


async def test_keys_are_fetched_once_and_found_by_their_id(server: KeyServer) -> None:
    authenticator = JWTAuthenticator(jwks_url=server.url(), algorithms=["RS256", "ES256"])
    assert server.asked == [], "nothing is fetched before it is needed"
    for _ in range(3):
        for pair, kid, algorithm in ((RSA, "rsa", "RS256"), (P256, "p256", "ES256")):
            token = a_token(key=pair.private, algorithm=algorithm, headers={"kid": kid})
            assert (await who(authenticator, token)).user_id == "alice"
    assert server.asked == ["/jwks"]


async def test_a_flood_of_unknown_key_ids_does_not_become_a_flood_of_fetches(server: KeyServer) -> None:
    authenticator = JWTAuthenticator(jwks_url=server.url(), algorithms=["RS256"])
    for number in range(20):
        token = a_token(key=RSA.private, algorithm="RS256", headers={"kid": f"unknown {number}"})
        assert await refuses(authenticator, token)
    assert await refuses(authenticator, a_token(key=RSA.private, algorithm="RS256"))
    assert len(server.asked) <= 2


async def test_the_id_of_another_key_does_not_help(server: KeyServer) -> None:
    authenticator = JWTAuthenticator(jwks_url=server.url(), algorithms=["RS256", "ES256"])
    assert await refuses(authenticator, a_token(key=RSA.private, algorithm="RS256", headers={"kid": "p256"}))
    assert await refuses(authenticator, a_token(key=P256.private, algorithm="ES256", headers={"kid": "rsa"}))
    forged = raw_token(f'{{"sub":"alice","exp":{FAR}}}', header='{"alg":"HS256","kid":"rsa"}', key=RSA.public)
    assert await refuses(authenticator, forged)


async def test_an_algorithm_of_the_key_that_is_not_configured_is_refused(server: KeyServer) -> None:
    authenticator = JWTAuthenticator(jwks_url=server.url(), algorithms=["RS256"])
    assert await refuses(authenticator, a_token(key=P256.private, algorithm="ES256", headers={"kid": "p256"}))


async def test_a_key_that_was_withdrawn_is_not_trusted_for_ever(server: KeyServer) -> None:
    """After the cache of the set is old, a key that is no longer in it verifies nothing."""
    authenticator = JWTAuthenticator(jwks_url=server.url(), algorithms=["RS256"])
    token = a_token(key=RSA.private, algorithm="RS256", headers={"kid": "rsa"})
    assert (await who(authenticator, token)).user_id == "alice"
    server.keys = [P256.jwk("p256", "ES256")]
    assert (await who(authenticator, token)).user_id == "alice", "the set is cached for a while"
    assert authenticator._jwks is not None
    assert authenticator._jwks.jwk_set_cache is not None
    assert authenticator._jwks.jwk_set_cache.lifespan <= 300
    authenticator._jwks.jwk_set_cache.put(None)
    assert await refuses(authenticator, token)


async def test_a_secret_or_a_weak_key_in_the_set_verifies_nothing(server: KeyServer) -> None:
    weak = Pair(rsa.generate_private_key(public_exponent=65_537, key_size=1_024))
    server.keys = [
        weak.jwk("weak", "RS256"),
        {"kty": "oct", "k": _segment(SECRET.encode()), "kid": "oct", "alg": "HS256"},
    ]
    authenticator = JWTAuthenticator(jwks_url=server.url(), algorithms=["RS256"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        token = a_token(key=weak.private, algorithm="RS256", headers={"kid": "weak"})
    assert await refuses(authenticator, token)
    assert await refuses(authenticator, a_token(headers={"kid": "oct"}))


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, b""), (404, b"{}"), (302, b""), (200, b""), (200, b"hello"), (200, b"[]"), (200, b'{"keys":[]}'),
     (200, b'{"keys":5}'), (200, b'{"keys":[{"kty":"RSA"}]}'), (200, b"[" * 50_000), (200, b"\xff\xfe")],
)  # fmt: skip
async def test_a_key_server_in_trouble_authenticates_nobody(server: KeyServer, status: int, body: bytes) -> None:
    server.status, server.body = status, body
    authenticator = JWTAuthenticator(jwks_url=server.url(), algorithms=["RS256"])
    assert await refuses(authenticator, a_token(key=RSA.private, algorithm="RS256", headers={"kid": "rsa"}))
    assert "/elsewhere" not in server.asked


async def test_a_key_server_that_is_away_authenticates_nobody() -> None:
    port = free_port()
    authenticator = JWTAuthenticator(jwks_url=f"http://127.0.0.1:{port}/jwks", algorithms=["RS256"])
    assert await refuses(authenticator, a_token(key=RSA.private, algorithm="RS256", headers={"kid": "rsa"}))


async def test_no_address_and_no_key_in_a_token_is_ever_used(server: KeyServer) -> None:
    """`jku`, `x5u` and `jwk` let a token bring its own key; the configuration alone says which keys there are."""
    mallory = Pair(rsa.generate_private_key(public_exponent=65_537, key_size=2_048))
    jwk = mallory.jwk("mallory", "RS256")
    headers = {
        "jku": server.url("/evil"),
        "x5u": server.url("/evil"),
        "jwk": jwk,
        "x5c": ["AAAA"],
        "kid": "mallory",
    }
    token = a_token(key=mallory.private, algorithm="RS256", headers=headers)
    for authenticator in (
        JWTAuthenticator(RSA.public, algorithms=["RS256"]),
        JWTAuthenticator(jwks_url=server.url(), algorithms=["RS256"]),
        hs256(),
    ):
        assert await refuses(authenticator, token)
    known = a_token(key=mallory.private, algorithm="RS256", headers=headers | {"kid": "rsa"})
    assert await refuses(JWTAuthenticator(jwks_url=server.url(), algorithms=["RS256"]), known)
    assert set(server.asked) == {"/jwks"}


# -- for development


async def test_the_development_authenticator_believes_everybody_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        authenticator = DevelopmentAuthenticator(i_know_that_anybody_can_be_anybody=True)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "checks nothing" in caplog.text
    assert await who(authenticator, "alice") == Principal("alice")


def test_the_development_authenticator_is_not_made_by_accident() -> None:
    with pytest.raises(InvalidConfiguration, match="JWTAuthenticator"):
        DevelopmentAuthenticator()
    with pytest.raises(TypeError):
        DevelopmentAuthenticator(True)  # type: ignore[call-arg]


@pytest.mark.parametrize("token", [None, "", "a\n", "\ud800", "x" * 257])
async def test_the_development_authenticator_needs_a_user_id_all_the_same(token: str | None) -> None:
    assert await refuses(DevelopmentAuthenticator(i_know_that_anybody_can_be_anybody=True), token)
