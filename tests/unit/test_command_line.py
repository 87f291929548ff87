"""`python -m websocket_core`: what it makes, what it refuses, and how it says so."""

from __future__ import annotations

import json
from typing import Any

import jwt
import pytest

from websocket_core.__main__ import _Tail, main
from websocket_core.auth import AuthRequest, JWTAuthenticator
from websocket_core.server_bounds import ServerBounds

KEY = "a secret of at least thirty-two bytes"
NOW = 1_795_000_000.5


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, **environ: str) -> tuple[Any, str]:
    """The exit code and what was said; nothing is on standard output."""
    with pytest.raises(SystemExit) as ended:
        main(arguments, environ=environ, clock=lambda: NOW)
    out, err = capsys.readouterr()
    assert out == ""
    return ended.value.code, err


def minted(capsys: pytest.CaptureFixture[str], *arguments: str, **environ: str) -> str:
    main(("token", *arguments), environ={"UNIFIED_WEBSOCKET_KEY": KEY, **environ}, clock=lambda: NOW)
    out, err = capsys.readouterr()
    assert err == ""
    assert out.endswith("\n")
    return out.strip()


# -- token


def test_a_token_has_the_claims_that_were_asked_for_and_no_others(capsys: pytest.CaptureFixture[str]) -> None:
    def claims(text: str) -> dict[str, Any]:
        return dict(jwt.decode(text, options={"verify_signature": False}))

    assert claims(minted(capsys, "--user", "alice")) == {"sub": "alice", "iat": 1795000000, "exp": 1795003600}
    text = minted(capsys, "--user", "a:b é", "--expires", "60", "--audience", "app", "--issuer", "me")
    assert claims(text) == {"sub": "a:b é", "iat": 1795000000, "exp": 1795000060, "aud": "app", "iss": "me"}


async def test_the_authenticator_takes_the_token_until_it_expires(capsys: pytest.CaptureFixture[str]) -> None:
    main(("token", "--user", "alice", "--key-env", "OTHER"), environ={"OTHER": KEY})
    text = capsys.readouterr().out.strip()
    principal = await JWTAuthenticator(KEY, algorithms=["HS256"])(AuthRequest(token=text))
    assert principal.user_id == "alice"


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_the_algorithm_may_be_chosen(algorithm: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = minted(capsys, "--user", "alice", "--algorithm", algorithm, UNIFIED_WEBSOCKET_KEY=KEY * 2)
    assert jwt.get_unverified_header(text)["alg"] == algorithm


def test_without_a_key_it_says_where_to_put_one(capsys: pytest.CaptureFixture[str]) -> None:
    for environ in ({}, {"UNIFIED_WEBSOCKET_KEY": ""}, {"OTHER": KEY}):
        code, said = refused(capsys, "token", "--user", "alice", **environ)
        assert code == 2
        assert "UNIFIED_WEBSOCKET_KEY" in said
        assert said.count("\n") == 1


def test_a_key_that_the_server_would_refuse_is_refused_and_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = refused(capsys, "token", "--user", "alice", UNIFIED_WEBSOCKET_KEY="too short a key")
    assert code == 2
    assert "32" in said
    assert "too short a key" not in said


@pytest.mark.parametrize("user", ["", "a\n", "x" * 257])
def test_a_user_id_that_is_none_is_refused(user: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = refused(capsys, "token", "--user", user, UNIFIED_WEBSOCKET_KEY=KEY)
    assert code == 2
    assert said.startswith("error: ")


# -- serve


def test_several_workers_are_refused_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = refused(capsys, "serve", "app:app", "--workers", "2")
    assert code == 2
    assert "logs are in memory" in said


def test_the_arguments_of_serve_reach_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr("websocket_core.server.run", lambda app, **options: given.append((app, options)))
    main(("serve", "m:a"))
    app, options = given.pop()
    assert callable(options.pop("announce"))
    assert options.pop("bounds") == ServerBounds()
    assert (app, options) == (
        "m:a",
        {
            "host": "127.0.0.1",
            "port": 8000,
            "uds": None,
            "factory": False,
            "drain": 25.0,
            "ws_ping_interval": 20.0,
            "ws_ping_timeout": 20.0,
            "forwarded_allow_ips": None,
            "log_level": "warning",
            "log_format": "text",
        },
    )
    flags = "--host 0.0.0.0 --port 9 --uds /s --factory --drain 5 --ping-interval 3 --ping-timeout 0 --log-level error"
    more = "--handshake-timeout 2.5 --log-format json --forwarded-allow-ips"
    main(("serve", "m:a", *flags.split(), *more.split(), "*"))
    _, options = given.pop()
    del options["announce"]
    assert options.pop("bounds") == ServerBounds(handshake_timeout=2.5)
    assert list(options.values()) == ["0.0.0.0", 9, "/s", True, 5.0, 3.0, None, "*", "error", "json"]


@pytest.mark.parametrize("hops", ["*", "127.0.0.1", "127.0.0.1,10.0.0.0/8, ::1 , 2001:db8::/32"])
def test_trusted_proxies_are_addresses_and_networks(hops: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr("websocket_core.server.run", lambda app, **options: given.append(options))
    main(("serve", "m:a", "--forwarded-allow-ips", hops))
    assert given[0]["forwarded_allow_ips"] == hops


@pytest.mark.parametrize("hops", ["", "proxy", "127.0.0.1,", "127.0.0.1/8", "127.0.0.256", "127.0.0.1 10.0.0.1", "**"])
def test_a_trusted_proxy_that_is_no_address_is_refused_and_not_taken_for_a_name(
    hops: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = refused(capsys, "serve", "m:a", "--forwarded-allow-ips", hops)
    assert code == 2
    assert "--forwarded-allow-ips" in said


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_what_serve_says_first_is_in_the_format_of_the_log(
    log_format: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("websocket_core.server.run", lambda app, **options: options["announce"]("http://h:1"))
    main(("serve", "m:a", "--log-format", log_format))
    said = capsys.readouterr()
    line = (said.out + said.err).strip()
    if log_format == "text":
        assert line == "Serving m:a on http://h:1"
    else:
        assert "Serving m:a on http://h:1" in json.loads(line).values()


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "x"])
def test_seconds_are_finite_and_not_negative(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = refused(capsys, "serve", "m:a", f"--drain={text}")
    assert code == 2
    assert "--drain" in said


def test_ctrl_c_is_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_args: Any, **_options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("websocket_core.server.run", interrupted)
    assert refused(capsys, "serve", "m:a") == (130, "")


@pytest.mark.parametrize("arguments", [(), ("demo",), ("tail",), ("token",), ("serve",)])
def test_a_command_that_is_none_or_not_whole_is_refused(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = refused(capsys, *arguments)
    assert code == 2
    assert "usage: python -m websocket_core" in said


# -- tail


def test_the_cursor_replaces_the_one_of_the_address_and_http_becomes_ws() -> None:
    for given, expected in (
        ("ws://h/live/ws", "ws://h/live/ws"),
        ("http://h:1/live/ws?thread_id=t&cursor=a.1.b", "ws://h:1/live/ws?thread_id=t"),
        ("https://h/ws?a=&b=%26", "wss://h/ws?a=&b=%26"),
    ):
        tail = _Tail(given, None, None)
        assert tail._address() == expected
        tail._cursor = "e.7.m"
        assert tail._address() == f"{expected}{'&' if '?' in expected else '?'}cursor=e.7.m"


@pytest.mark.parametrize("text", ["not json", "[]", "{}", "7"])
def test_a_server_of_another_kind_is_said_to_be_one(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        _Tail("ws://h", None, None)._take(text)
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: this server does not speak the protocol of unified-websocket\n"
