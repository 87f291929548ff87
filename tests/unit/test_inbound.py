"""What a client sends on an open socket: taken, answered or refused, and never an error of the server."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import virtual_time
from websocket_core.errors import AuthenticationFailed, AuthenticationUnavailable, FrameRefused, LogUnavailable
from websocket_core.identity import Principal, UserId
from websocket_core.inbound import (
    MALFORMED_FRAMES,
    REQUEST_ID_CHARACTERS,
    Authenticate,
    FrameHandler,
    Inbound,
    Peer,
    accept_socket,
    protocol_of,
    receive_frame,
)
from websocket_core.limits import Limits
from websocket_core.log import Position
from websocket_core.wire import ERROR_CODES, PLAIN, PROTOCOL, CloseCode, control_frame


class FakePeer:
    """A connection, as far as an answer needs it."""

    def __init__(self, user_id: str = "alice") -> None:
        self.user_id = UserId(user_id)
        self.connection_id = "tab"
        self.principal = Principal(user_id)
        self.cursor: str | None = "e.7.m"
        self.sent: list[dict[str, Any]] = []
        self.closed: list[CloseCode] = []
        self.renewed: list[Principal] = []
        self.claimed: list[Position] = []
        self.did: list[str] = []
        self.may_be_here = True
        self.reachable = True

    def send_control(self, frame_type: str, /, **fields: object) -> None:
        self.sent.append(json.loads(control_frame(frame_type, **fields)))
        self.did.append(frame_type)

    def close(self, code: CloseCode) -> None:
        self.closed.append(code)
        self.did.append("close")

    async def heard(self) -> None:
        self.did.append("heard")

    async def wait_closed(self) -> None:
        self.did.append("wait_closed")

    def compare(self, claimed: Position) -> None:
        self.claimed.append(claimed)

    async def permitted(self) -> bool:
        """By the deny-list, of whatever principal the connection has now."""
        self.did.append("permitted")
        if not self.reachable:
            raise LogUnavailable("told to be away")
        return self.may_be_here

    def renew(self, principal: Principal) -> float | None:
        self.renewed.append(principal)
        self.did.append("renew")
        return None if principal.expires_at is None else principal.expires_at - 1_000.0


async def answers(
    *frames: str | Mapping[str, Any],
    peer: FakePeer | None = None,
    handlers: Mapping[str, FrameHandler] | None = None,
    authenticate: Authenticate | None = None,
) -> list[dict[str, Any]]:
    """What a connection answers to these frames."""
    peer = peer or FakePeer()
    inbound = Inbound(handlers or {}, Limits())
    for frame in frames:
        await inbound.answer(peer, frame if isinstance(frame, str) else json.dumps(frame), authenticate)
    return peer.sent


# -- taking a frame from a socket


class AsgiSocket:
    def __init__(self, *messages: Any) -> None:
        self.messages = list(messages)

    async def receive(self) -> Any:
        message = self.messages.pop(0)
        if isinstance(message, BaseException):
            raise message
        return message


class TextSocket:
    def __init__(self, *texts: Any) -> None:
        self.texts = list(texts)

    async def receive_text(self) -> Any:
        text = self.texts.pop(0)
        if isinstance(text, BaseException):
            raise text
        return text


@pytest.mark.parametrize(
    ("message", "taken"),
    [
        ({"type": "websocket.receive", "text": "hello"}, "hello"),
        ({"type": "websocket.receive", "text": "hello", "bytes": None}, "hello"),
        ({"type": "websocket.receive", "text": ""}, ""),
        ({"type": "websocket.receive", "bytes": b"hello"}, CloseCode.NOT_TEXT),
        ({"type": "websocket.receive", "text": None, "bytes": b""}, CloseCode.NOT_TEXT),
        ({"type": "websocket.receive"}, CloseCode.NOT_TEXT),
        ({"type": "websocket.disconnect", "code": 1006}, None),
        ({"type": "websocket.disconnect"}, None),
        ({}, None),
        (RuntimeError('Cannot call "receive" once a disconnect message has been received.'), None),
        (ConnectionResetError(), None),
    ],
)
async def test_an_asgi_message_is_a_frame_a_close_code_or_the_end(message: Any, taken: object) -> None:
    assert await receive_frame(AsgiSocket(message), Limits()) == taken


@pytest.mark.parametrize(("text", "taken"), [("hello", "hello"), (b"hello", CloseCode.NOT_TEXT), (OSError(), None)])
async def test_a_socket_with_receive_text_alone_will_do(text: Any, taken: object) -> None:
    assert await receive_frame(TextSocket(text), Limits()) == taken


@pytest.mark.parametrize("letter", ["x", "é", "€", "\U0001f600", "\ud800"])
async def test_the_size_of_a_frame_is_counted_in_bytes(letter: str) -> None:
    """Not in characters: four times as many bytes would pass. A surrogate counts as what it would take."""
    size = len(letter.encode(errors="surrogatepass"))
    limits = Limits(frame_bytes=10 * size)
    assert await receive_frame(TextSocket(letter * 10), limits) == letter * 10
    assert await receive_frame(TextSocket(letter * 10 + "x"), limits) is CloseCode.TOO_BIG


async def test_being_cancelled_while_receiving_is_no_end_of_the_socket() -> None:
    with pytest.raises(asyncio.CancelledError):
        await receive_frame(TextSocket(asyncio.CancelledError()), Limits())


@pytest.mark.parametrize(("state", "accepts"), [("CONNECTING", 1), ("CONNECTED", 0), ("DISCONNECTED", 0)])
async def test_a_socket_is_accepted_if_that_has_not_happened_yet(state: str, accepts: int) -> None:
    accepted = []

    async def accept() -> None:
        accepted.append(1)

    await accept_socket(SimpleNamespace(application_state=SimpleNamespace(name=state), accept=accept))
    assert len(accepted) == accepts


@pytest.mark.parametrize("socket", [object(), SimpleNamespace(application_state=None)])
async def test_a_socket_that_does_not_tell_is_taken_as_accepted(socket: object) -> None:
    await accept_socket(socket)


@pytest.mark.parametrize(
    ("subprotocol", "protocol"),
    [
        (PROTOCOL, PROTOCOL),
        (None, PLAIN),
        ("", PLAIN),
        ("Unified-WebSocket.v1", PLAIN),
        ("unified-websocket.v2", PLAIN),
    ],
)
def test_the_protocol_is_that_of_the_subprotocol_which_was_accepted(subprotocol: str | None, protocol: str) -> None:
    assert protocol_of(SimpleNamespace(subprotocol=subprotocol)) == protocol
    assert protocol_of(object()) == PLAIN


# -- reading one frame after the other


async def a_reading(*texts: object, limits: Limits | None = None) -> FakePeer:
    """A connection whose client sends these and goes."""
    peer = FakePeer()
    await Inbound({}, limits or Limits()).read(peer, TextSocket(*texts, OSError()), None)
    return peer


PING = '{"type":"ping"}'


async def test_each_frame_is_a_sign_of_life_before_it_is_answered() -> None:
    """Also one that is malformed; and there must be room for the answer first."""
    peer = await a_reading(PING, "x", '{"type":"pong"}')
    assert peer.did == ["heard", "pong", "heard", "error", "heard"]


@pytest.mark.parametrize(("frame", "code"), [(b"x", CloseCode.NOT_TEXT), ("x" * 65_537, CloseCode.TOO_BIG)])
async def test_after_a_frame_that_is_none_nothing_more_is_read(frame: object, code: CloseCode) -> None:
    """Nor is the endpoint left before the client was told why."""
    peer = await a_reading(PING, frame, PING)
    assert peer.closed == [code]
    assert peer.did == ["heard", "pong", "close", "wait_closed"]


@virtual_time
async def test_more_frames_than_the_rate_allows_end_in_4429() -> None:
    """Four seconds' worth at once; the one too many is answered by the close alone."""
    peer = await a_reading(*[PING] * 60, limits=Limits(frames_per_second=5.0))
    assert peer.closed == [CloseCode.LIMIT]
    assert len(peer.sent) == 20
    assert peer.did[-2:] == ["close", "wait_closed"]


@virtual_time
async def test_more_bytes_than_the_rate_allows_end_in_4429() -> None:
    frame = json.dumps({"type": "pong", "pad": "x" * 973})
    assert len(frame) == 1_000
    peer = await a_reading(*[frame] * 60, limits=Limits(bytes_per_second=2_000.0))
    assert (peer.closed, peer.did.count("heard")) == ([CloseCode.LIMIT], 8)


@virtual_time
async def test_malformed_frames_count_against_the_rates_too() -> None:
    peer = await a_reading(*["x", "y", PING] * 20, limits=Limits(frames_per_second=5.0))
    assert (peer.closed, len(peer.sent)) == ([CloseCode.LIMIT], 20)


@virtual_time
async def test_a_client_within_the_rates_may_send_for_ever() -> None:
    """As fast as they allow for long, after as much at once as they allow."""

    class Paced(TextSocket):
        async def receive_text(self) -> Any:
            if len(self.texts) <= 1_000:
                await asyncio.sleep(0.2)
            return await super().receive_text()

    peer = FakePeer()
    socket = Paced(*[PING] * 1_019, OSError())
    await Inbound({}, Limits(frames_per_second=5.0)).read(peer, socket, None)
    assert (peer.closed, len(peer.sent)) == ([], 1_019)


@pytest.mark.parametrize("text", ["é" * 500, "x" * 1_000])
@virtual_time
async def test_the_rate_of_bytes_is_one_of_bytes_and_not_of_characters(text: str) -> None:
    peer = await a_reading(*[text] * 9, limits=Limits(bytes_per_second=1_000.0))
    assert (peer.closed, peer.did.count("heard")) == ([CloseCode.LIMIT], 4)


# -- ping and pong


async def test_a_ping_is_answered_with_the_place_of_the_connection() -> None:
    assert await answers({"type": "ping"}) == [{"type": "pong", "cursor": "e.7.m"}]
    assert await answers({"type": "ping", "cursor": "e.9.m", "request_id": "r"}) == [
        {"type": "pong", "cursor": "e.7.m", "request_id": "r"}
    ]


async def test_a_ping_before_the_first_read_is_answered_without_a_place() -> None:
    peer = FakePeer()
    peer.cursor = None
    assert await answers({"type": "ping"}, peer=peer) == [{"type": "pong"}]


async def test_a_pong_needs_no_answer() -> None:
    assert await answers({"type": "pong"}, {"type": "pong", "cursor": "e.7.m", "more": [1]}) == []


@pytest.mark.parametrize("kind", ["ping", "pong"])
async def test_where_a_client_says_it_stands_is_compared(kind: str) -> None:
    peer = FakePeer()
    await answers(
        {"type": kind, "cursor": "e.7.m"}, {"type": kind}, {"type": kind, "cursor": None}, {"type": kind}, peer=peer
    )
    assert peer.claimed == [Position("e", 7, "m")]


@pytest.mark.parametrize("kind", ["ping", "pong"])
@pytest.mark.parametrize(
    "cursor", ["", "x", "latest", "e.7", "e.-1.m", "e.7.", "e.0.m", "e.9007199254740992.m", 5, 1.5, True, ["e.7.m"], {}]
)
async def test_a_malformed_cursor_in_a_ping_or_pong_is_a_malformed_frame(kind: str, cursor: object) -> None:
    """It is answered without being quoted, compared with nothing, and the tenth in a row closes the socket."""
    peer = FakePeer()
    frame = {"type": kind, "cursor": cursor, "request_id": "r"}
    assert await answers(frame, peer=peer) == [
        {"type": "error", "code": "malformed", "message": "this is not a cursor"}
    ]
    await answers(*[frame] * 9, peer=peer)
    assert peer.closed == []
    await answers(*[frame] * 10, peer=peer)
    assert (peer.closed, peer.claimed) == ([CloseCode.MALFORMED], [])


async def test_the_cursor_of_another_frame_is_the_handlers_own_affair() -> None:
    async def take(_peer: Peer, frame: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"cursor": frame["cursor"]}

    peer = FakePeer()
    sent = await answers({"type": "x", "cursor": "not one"}, peer=peer, handlers={"x": take})
    assert (sent, peer.claimed) == ([{"type": "ack", "result": {"cursor": "not one"}}], [])


# -- refusals


@pytest.mark.parametrize(
    "kind",
    ["connected", "gap", "ack", "error", "subscribed", "agent_started", "", "PING", "ping ", "__init__", "é" * 99],
)
async def test_an_unknown_type_is_an_error_and_closes_nothing(kind: str) -> None:
    peer = FakePeer()
    sent = await answers(*[{"type": kind, "request_id": "r"}] * 30, peer=peer)
    assert (
        sent
        == [
            {
                "type": "error",
                "code": "unknown_type",
                "message": "this type of frame is not known here",
                "request_id": "r",
            }
        ]
        * 30
    )
    assert peer.closed == []


@pytest.mark.parametrize(
    "text", ["", "hello", "[]", "{}", '{"type":1}', '{"type":"ping","type":"ping"}', '{"type":NaN}']
)
async def test_a_malformed_frame_is_answered_with_an_error_that_does_not_quote_it(text: str) -> None:
    (error,) = await answers(text)
    assert error["code"] == "malformed"
    assert "request_id" not in error
    assert not text or text not in error["message"]


async def test_the_tenth_malformed_frame_in_a_row_closes_the_socket() -> None:
    peer = FakePeer()
    await answers(*["x"] * 9, peer=peer)
    assert (len(peer.sent), peer.closed) == (9, [])
    await answers(*["x"] * 10, peer=peer)
    assert peer.closed == [CloseCode.MALFORMED]
    assert MALFORMED_FRAMES == 10


@pytest.mark.parametrize("good", [{"type": "pong"}, {"type": "unknown"}, {"type": "broken"}])
async def test_a_well_formed_frame_starts_the_count_of_malformed_ones_anew(good: Mapping[str, Any]) -> None:
    async def broken(_peer: Peer, _frame: Mapping[str, Any]) -> None:
        raise FrameRefused("invalid", "no")

    peer = FakePeer()
    await answers(*(["x"] * 9 + [json.dumps(good)]) * 5, peer=peer, handlers={"broken": broken})
    assert peer.closed == []


@pytest.mark.parametrize("request_id", [5, ["r"], {"r": 1}, True, "r" * (REQUEST_ID_CHARACTERS + 1)])
async def test_a_request_id_that_is_none_is_malformed_and_not_echoed(request_id: object) -> None:
    (error,) = await answers({"type": "ping", "request_id": request_id})
    assert error == {
        "type": "error",
        "code": "malformed",
        "message": "request_id is a string of at most 128 characters",
    }


async def test_a_request_id_is_echoed_exactly() -> None:
    for request_id in ("", "r" * REQUEST_ID_CHARACTERS, '"\n', "é\U0001f600"):
        assert (await answers({"type": "ping", "request_id": request_id}))[0]["request_id"] == request_id
    assert "request_id" not in (await answers({"type": "ping", "request_id": None}))[0]


# -- the application's own frames


async def test_a_registered_frame_is_acknowledged_with_its_result() -> None:
    seen: list[tuple[str, Mapping[str, Any]]] = []

    async def echo(peer: Peer, frame: Mapping[str, Any]) -> Mapping[str, Any] | None:
        seen.append((peer.user_id, frame))
        return frame.get("give")

    sent = await answers(
        {"type": "echo", "request_id": "r", "give": {"a": 1}}, {"type": "echo"}, handlers={"echo": echo}
    )
    assert sent == [{"type": "ack", "request_id": "r", "result": {"a": 1}}, {"type": "ack"}]
    assert seen[0] == ("alice", {"type": "echo", "request_id": "r", "give": {"a": 1}})


async def test_a_refusal_of_a_handler_reaches_the_client_as_it_is() -> None:
    async def refuse(_peer: Peer, _frame: Mapping[str, Any]) -> None:
        raise FrameRefused("not_found", "there is no such run")

    sent = await answers({"type": "x", "request_id": "r"}, handlers={"x": refuse})
    assert sent == [{"type": "error", "code": "not_found", "message": "there is no such run", "request_id": "r"}]


@pytest.mark.parametrize("result", [{1, 2}, float("nan"), {"a": object()}, {1: {2}}])
async def test_a_result_that_is_no_json_is_an_internal_error(result: Any) -> None:
    async def give(_peer: Peer, _frame: Mapping[str, Any]) -> Any:
        return result

    sent = await answers({"type": "x", "request_id": "r"}, {"type": "ping"}, handlers={"x": give})
    assert [(frame["type"], frame.get("code")) for frame in sent] == [("error", "internal"), ("pong", None)]


async def test_a_handler_that_fails_is_logged_and_its_text_stays_here(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(_peer: Peer, _frame: Mapping[str, Any]) -> None:
        raise ValueError("password=hunter2")

    with caplog.at_level(logging.ERROR):
        sent = await answers({"type": "x", "request_id": "r", "secret": "s3cret"}, handlers={"x": fail})
    assert sent == [{"type": "error", "code": "internal", "message": "the frame failed", "request_id": "r"}]
    assert len(caplog.records) == 1
    assert caplog.records[0].exc_info is not None
    assert "s3cret" not in caplog.text


async def test_being_cancelled_is_not_answered() -> None:
    async def wait(_peer: Peer, _frame: Mapping[str, Any]) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await answers({"type": "x"}, handlers={"x": wait})


async def test_no_handler_can_take_the_place_of_ping() -> None:
    async def never(_peer: Peer, _frame: Mapping[str, Any]) -> None:
        raise AssertionError

    assert (await answers({"type": "ping"}, handlers={"ping": never, "pong": never}))[0]["type"] == "pong"


# -- a newer token


async def _authenticate(token: str) -> Principal:
    match token:
        case "wrong":
            raise AuthenticationFailed("the token s3cret-token was not accepted")
        case "broken":
            raise OSError("the identity server is away")
        case "mallory":
            return Principal("mallory")
        case _:
            return Principal("alice", expires_at=1_060.0 if token == "minute" else None)


async def test_a_newer_token_of_the_same_user_renews_the_principal() -> None:
    peer = FakePeer()
    sent = await answers(
        {"type": "auth", "token": "minute", "request_id": "r"},
        {"type": "auth", "token": "endless"},
        peer=peer,
        authenticate=_authenticate,
    )
    assert sent == [
        {"type": "ack", "request_id": "r", "result": {"expires_in": 60.0}},
        {"type": "ack", "result": {}},
    ]
    assert [principal.expires_at for principal in peer.renewed] == [1_060.0, None]
    assert peer.closed == []
    assert peer.did == ["renew", "permitted", "ack"] * 2, "an order that comes while it is asked finds the new token"


async def test_a_newer_token_that_is_denied_closes_the_socket_and_is_not_acknowledged() -> None:
    peer = FakePeer()
    peer.may_be_here = False
    (error,) = await answers({"type": "auth", "token": "t", "request_id": "r"}, peer=peer, authenticate=_authenticate)
    assert (error["type"], error["code"], error["request_id"]) == ("error", "unauthenticated", "r")
    assert peer.closed == [CloseCode.REVOKED]


async def test_a_deny_list_that_cannot_be_asked_acknowledges_no_token_and_keeps_nobody() -> None:
    """The connection has the new token already, and orders about the old one may have been passed over."""
    peer = FakePeer()
    peer.reachable = False
    (error,) = await answers({"type": "auth", "token": "t"}, peer=peer, authenticate=_authenticate)
    assert (error["type"], error["code"], peer.closed) == ("error", "unavailable", [CloseCode.OVERLOADED])
    assert "told to be away" not in error["message"]


@pytest.mark.parametrize(
    "error", [AuthenticationUnavailable("keys.internal is away"), LogUnavailable("redis.internal")]
)
async def test_a_token_that_cannot_be_judged_now_is_told_as_that_and_the_old_one_holds(error: Exception) -> None:
    async def authenticate(_token: str) -> Principal:
        raise error

    peer = FakePeer()
    (refusal,) = await answers({"type": "auth", "token": "t"}, peer=peer, authenticate=authenticate)
    assert (refusal["code"], peer.renewed, peer.closed) == ("unavailable", [], [])
    assert "internal" not in refusal["message"]


class _WithTickets:
    """An authenticator that takes tickets too."""

    async def __call__(self, token: str) -> Principal:
        return await _authenticate(token)

    async def by_ticket(self, ticket: str) -> Principal:
        if ticket == "spent":
            raise AuthenticationFailed("the ticket s3cret-ticket was not accepted")
        return Principal("mallory" if ticket == "mallory's" else "alice", 1_030.0)


async def test_a_ticket_renews_the_principal_as_a_token_does() -> None:
    peer = FakePeer()
    sent = await answers(
        {"type": "auth", "ticket": "fresh", "request_id": "r"},
        {"type": "auth", "token": "minute"},
        {"type": "auth", "ticket": "spent"},
        peer=peer,
        authenticate=_WithTickets(),
    )
    assert sent[:2] == [
        {"type": "ack", "request_id": "r", "result": {"expires_in": 30.0}},
        {"type": "ack", "result": {"expires_in": 60.0}},
    ]
    assert sent[2]["code"] == "unauthenticated"
    assert "s3cret" not in json.dumps(sent)
    assert ([principal.expires_at for principal in peer.renewed], peer.closed) == ([1_030.0, 1_060.0], [])


async def test_a_ticket_of_another_user_closes_the_socket_and_renews_nothing() -> None:
    peer = FakePeer()
    (error,) = await answers({"type": "auth", "ticket": "mallory's"}, peer=peer, authenticate=_WithTickets())
    assert (error["code"], peer.closed, peer.renewed) == ("forbidden", [CloseCode.NOT_ALLOWED], [])


@pytest.mark.parametrize(
    "fields",
    [{"ticket": 5}, {"ticket": None}, {"ticket": ["t"]}, {"ticket": "t", "token": "t"}, {"ticket": "t", "token": 5}],
)
async def test_auth_carries_a_token_or_a_ticket_and_not_both(fields: Mapping[str, Any]) -> None:
    peer = FakePeer()
    (error,) = await answers({"type": "auth", **fields}, peer=peer, authenticate=_WithTickets())
    assert (error["code"], peer.renewed, peer.closed) == ("invalid", [], [])


async def test_where_no_tickets_are_taken_a_ticket_is_invalid_and_never_a_token() -> None:
    peer = FakePeer()
    (error,) = await answers({"type": "auth", "ticket": "t"}, peer=peer, authenticate=_authenticate)
    assert (error["code"], peer.renewed) == ("invalid", [])


async def test_a_token_of_another_user_closes_the_socket_and_renews_nothing() -> None:
    peer = FakePeer()
    (error,) = await answers({"type": "auth", "token": "mallory"}, peer=peer, authenticate=_authenticate)
    assert (error["code"], peer.closed, peer.renewed) == ("forbidden", [CloseCode.NOT_ALLOWED], [])
    assert "mallory" not in error["message"]


@pytest.mark.parametrize("user_id", ["Alice", "alice ", "a", "ali\u0301ce"])
async def test_a_user_id_that_looks_alike_is_another_user(user_id: str) -> None:
    peer = FakePeer(user_id)
    await answers({"type": "auth", "token": "t"}, peer=peer, authenticate=_authenticate)
    assert (peer.closed, peer.renewed) == ([CloseCode.NOT_ALLOWED], [])


async def test_a_wrong_token_is_refused_and_the_old_one_holds() -> None:
    peer = FakePeer()
    (error,) = await answers({"type": "auth", "token": "wrong"}, peer=peer, authenticate=_authenticate)
    assert (error["code"], peer.closed, peer.renewed) == ("unauthenticated", [], [])
    assert "s3cret" not in json.dumps(error)


@pytest.mark.parametrize("token", [None, 5, ["t"], {"t": 1}, True])
async def test_auth_without_a_token_is_invalid(token: object) -> None:
    (error,) = await answers({"type": "auth", "token": token}, authenticate=_authenticate)
    assert error["code"] == "invalid"


async def test_an_authenticator_that_fails_otherwise_is_an_internal_error(caplog: pytest.LogCaptureFixture) -> None:
    peer = FakePeer()
    (error,) = await answers({"type": "auth", "token": "broken"}, peer=peer, authenticate=_authenticate)
    assert (error["code"], peer.renewed) == ("internal", [])
    assert "identity server" not in error["message"]
    assert len(caplog.records) == 1


async def test_without_an_authenticator_auth_is_an_unknown_type() -> None:
    assert (await answers({"type": "auth", "token": "t"}))[0]["code"] == "unknown_type"


# -- whatever comes

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FRAMES = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["ping", "pong", "auth", "x", "fail", "cancel"]) | VALUES,
        "request_id": VALUES,
        "token": st.sampled_from(["wrong", "broken", "mallory", "t"]) | VALUES,
        "ticket": st.sampled_from(["spent", "mallory's", "t"]) | VALUES,
        "cursor": st.sampled_from(["e.7.m", "e.0.", "latest"]) | VALUES,
    },
).map(json.dumps)


@settings(max_examples=150, deadline=None)
@given(st.lists(FRAMES | st.text(max_size=30), max_size=5))
def test_nothing_that_a_client_sends_raises_and_every_error_code_is_known(frames: list[str]) -> None:
    async def echo(_peer: Peer, frame: Mapping[str, Any]) -> Mapping[str, Any]:
        return frame

    async def fail(_peer: Peer, frame: Mapping[str, Any]) -> Mapping[str, Any]:
        raise KeyError(frame["request_id"])

    logging.getLogger("websocket_core.inbound").disabled = True
    try:
        sent = asyncio.run(answers(*frames, handlers={"x": echo, "fail": fail}, authenticate=_WithTickets()))
    finally:
        logging.getLogger("websocket_core.inbound").disabled = False
    for frame in sent:
        assert frame["type"] in ("pong", "ack", "error")
        assert frame["type"] != "error" or frame["code"] in ERROR_CODES
