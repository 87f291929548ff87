"""Frames and cursors to text and back; hostile text is refused and never does harm."""

from __future__ import annotations

import contextlib
import json
import re
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from websocket_core.errors import InvalidInput, MalformedCursor, MalformedFrame
from websocket_core.events import Event
from websocket_core.identity import LogName
from websocket_core.log import Entry, Position
from websocket_core.wire import (
    CLOSE_RULES,
    ERROR_CODES,
    PROTOCOL,
    CloseCode,
    control_frame,
    decode_cursor,
    encode_cursor,
    event_frame,
    parse_frame,
)

WORD = st.text(st.sampled_from("abcXYZ019_-"), min_size=1, max_size=64)
MARK = st.text(st.sampled_from("abcXYZ019_.-"), min_size=1, max_size=64)
POSITIONS = st.one_of(
    st.builds(Position, WORD, st.integers(1, 2**53 - 1), MARK), st.builds(Position, WORD, st.just(0), st.just(""))
)
ANYTHING = st.text(st.characters(), max_size=60)


# -- cursors


@given(POSITIONS)
@example(Position("e", 1, "..a.b"))
@example(Position("-_", 2**53 - 1, "." * 64))
def test_a_cursor_comes_back_as_the_position_it_was_made_of(position: Position) -> None:
    assert decode_cursor(encode_cursor(position)) == position


def test_a_cursor_has_the_documented_form_and_is_split_at_its_first_two_dots() -> None:
    assert encode_cursor(Position("k3v9", 17, "Zm9v")) == "k3v9.17.Zm9v"
    assert decode_cursor("k3v9.17.a.b.c") == Position("k3v9", 17, "a.b.c")
    assert decode_cursor("k3v9.0.") == Position("k3v9", 0, "")


HOSTILE_CURSORS: list[object] = [
    "", ".", "..", "...", "e", "e.1", "e.1.", "e.0.m", ".1.m", "e..m", "e.-1.m", "e.+1.m", "e.01.m", "e.1_0.m",
    "e. 1.m", "e.1 .m", "e.1.5.m m", "e.1e3.m", "e.0x1.m", "e.١.m", "e.１.m", "e.².m", "e.1.m\n", "e.1\n.m",
    "e\n.1.m", "e.1.m\x00", "é.1.m", "e.1.é", "e.1.m/", "e.1.{m}", "e/.1.m", "e.9007199254740992.m",
    "e." + "9" * 16 + ".m",
    "e." + "9" * 17 + ".m", "e." + "9" * 5000 + ".m", "e" * 65 + ".1.m", "e.1." + "m" * 65, "e.1." + "m" * 10**6,
    "." * 10**6, "latest", "\ud800.1.m", None, 1, 1.5, True, b"e.1.m", ["e", 1, "m"], ("e", 1, "m"), {"e": 1},
    Position("e", 1, "m"),
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE_CURSORS, ids=range(len(HOSTILE_CURSORS)))
def test_a_hostile_cursor_is_malformed_and_not_quoted(text: object) -> None:
    with pytest.raises(MalformedCursor) as refused:
        decode_cursor(text)
    assert str(refused.value) == "this is not a cursor"
    assert isinstance(refused.value, InvalidInput)


NEARLY = st.lists(st.sampled_from([*".....eE019_-", "+", " ", "\n", "é", "١", "１", "m", "17", "\x00"]), max_size=14)


@settings(max_examples=300, deadline=None)
@given(st.one_of(ANYTHING, NEARLY.map("".join), st.builds("{}.{}.{}".format, WORD, st.integers(-5, 2**54), MARK)))
def test_whatever_decodes_is_what_encodes(text: str) -> None:
    """One position has one text, so that no second spelling of it can be compared as another."""
    try:
        position = decode_cursor(text)
    except MalformedCursor:
        return
    assert encode_cursor(position) == text


# -- frames out


def test_an_event_frame_is_the_stored_bytes_with_the_cursor_put_in() -> None:
    event = Event("b3J0aG9nb25hbDE", '{"type":"x","data":{"é":"}"},"id":"b3J0aG9nb25hbDE"'.encode())
    entry = Entry(LogName("user", "alice"), "k3v9", 17, "Zm9v", "prev", event, 0.0)
    assert event_frame(entry) == ('{"type":"x","data":{"é":"}"},"id":"b3J0aG9nb25hbDE","cursor":"k3v9.17.Zm9v"}')
    assert decode_cursor(json.loads(event_frame(entry))["cursor"]) == entry.position


def test_a_control_frame_leaves_out_what_has_no_value() -> None:
    assert control_frame("pong", cursor=None, request_id=None) == '{"type":"pong"}'
    assert control_frame("ack", request_id="r", result={}) == '{"type":"ack","request_id":"r","result":{}}'
    assert control_frame("connected", resumed=False, heartbeat=25.0, n=0) == (
        '{"type":"connected","resumed":false,"heartbeat":25.0,"n":0}'
    )


@pytest.mark.parametrize("text", ["\n", "\r\n", "\u2028", '"', "\\", "\x00", "é\U0001f600", "</script>"])
def test_a_control_frame_is_one_line_whatever_is_in_it(text: str) -> None:
    """Frames may be joined by line breaks, so none may contain one."""
    frame = control_frame("error", message=text)
    assert "\n" not in frame
    assert json.loads(frame)["message"] == text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"x"])
def test_a_control_frame_of_what_is_no_json_is_not_made(value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        control_frame("ack", result=value)


# -- frames in


def test_a_frame_is_an_object_with_a_type() -> None:
    assert parse_frame('{"type": "ping"}') == {"type": "ping"}
    assert parse_frame(' \n{"type":"x","a":[1,-2.5e3,true,null,"é",{}]}\t') == {
        "type": "x",
        "a": [1, -2500.0, True, None, "é", {}],
    }
    assert parse_frame('{"type":"\\ud83d\\ude00"}') == {"type": "\U0001f600"}
    assert parse_frame('{"type":"x","n":-9223372036854775808,"m":18446744073709551615}')["m"] == 2**64 - 1


DEEP = '{"type":"x","a":' + "[" * 99 + "]" * 99 + "}"

HOSTILE_FRAMES = {
    "nothing": "",
    "blank": "  \n",
    "no JSON": "hello",
    "single quotes": "{'type': 'ping'}",
    "comment": '{"type":"ping"} // hello',
    "trailing comma": '{"type":"ping",}',
    "two objects": '{"type":"ping"}{"type":"ping"}',
    "two lines": '{"type":"ping"}\n{"type":"ping"}',
    "byte order mark": '\ufeff{"type":"ping"}',
    "list": '[{"type":"ping"}]',
    "text": '"ping"',
    "null": "null",
    "number": "1",
    "no type": "{}",
    "type null": '{"type":null}',
    "type number": '{"type":1}',
    "type list": '{"type":["ping"]}',
    "type object": '{"type":{"type":"ping"}}',
    "duplicate type": '{"type":"ping","type":"cancel"}',
    "duplicate key": '{"type":"x","a":1,"a":1}',
    "duplicate key inside": '{"type":"x","a":[{"b":1,"b":2}]}',
    "duplicate key by escape": '{"type":"x","a":1,"\\u0061":2}',
    "NaN": '{"type":"x","a":NaN}',
    "Infinity": '{"type":"x","a":Infinity}',
    "-Infinity": '{"type":"x","a":-Infinity}',
    "1e400": '{"type":"x","a":1e400}',
    "-1e400": '{"type":"x","a":-1e400}',
    "21 digits": '{"type":"x","a":' + "9" * 21 + "}",
    "4301 digits": '{"type":"x","a":' + "9" * 4301 + "}",
    "400 digits and a fraction": '{"type":"x","a":' + "9" * 400 + ".5}",
    "leading zero": '{"type":"x","a":01}',
    "plus": '{"type":"x","a":+1}',
    "hexadecimal": '{"type":"x","a":0x1}',
    "control character": '{"type":"x\x00"}',
    "line break in a string": '{"type":"x\n"}',
    "bad escape": '{"type":"\\x41"}',
    "half an escape": '{"type":"\\u00"}',
    "lone surrogate": '{"type":"x","a":"\\ud800"}',
    "lone surrogate in a key": '{"type":"x","\\udfff":1}',
    "lone surrogate in the type": '{"type":"\\ud800"}',
    "surrogates the wrong way round": '{"type":"x","a":"\\ude00\\ud83d"}',
    "lone surrogate let through by a transport": '{"type":"x","a":"\ud800"}',
    "surrogate let through outside of strings": '{"type":"x"}\udfff',
    "too deep": DEEP.replace("[", "[[", 1).replace("]", "]]", 1),
    "far too deep": '{"type":"x","a":' + "[" * 30_000 + "]" * 30_000 + "}",
    "deep and open": "[" * 60_000,
    "deep objects": '{"type":"x","a":' + '{"a":' * 101 + "1" + "}" * 102,
    "closed before it opens": "]" * 200 + "[" * 200,
}  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE_FRAMES.values(), ids=HOSTILE_FRAMES.keys())
def test_a_hostile_frame_is_malformed_and_not_quoted(text: str) -> None:
    with pytest.raises(MalformedFrame) as refused:
        parse_frame(text)
    assert str(refused.value) in ("the frame is not strict JSON", "the frame is not a JSON object with a type")


def test_a_frame_may_be_nested_to_the_limit_and_no_deeper() -> None:
    assert parse_frame(DEEP)["type"] == "x"
    assert parse_frame('{"type":"x","a":[1]}', depth=2)["a"] == [1]
    for deeper in ('{"type":"x","a":[[1]]}', '{"type":"x","a":[{}]}', '{"type":"x","a":{"b":{}}}'):
        with pytest.raises(MalformedFrame):
            parse_frame(deeper, depth=2)


def test_brackets_in_strings_are_not_nesting() -> None:
    assert parse_frame(json.dumps({"type": "x", "a": "[" * 500 + '\\"{' * 500}))["type"] == "x"
    with pytest.raises(MalformedFrame):
        parse_frame('{"type":"x","a":"\\"","b":' + "[" * 200 + "]" * 200 + "}")


FRAGMENTS = st.sampled_from(
    ['{"type":', '"x"', ",", "{", "}", "[", "]", ":", '"', "\\", "\\u", "d800", "0", "-", "1e999", "NaN", "é", "\ud83d"]
)


@settings(max_examples=500, deadline=None)
@given(st.one_of(ANYTHING, st.lists(FRAGMENTS, max_size=30).map("".join)))
def test_no_text_does_anything_but_parse_or_be_malformed(text: str) -> None:
    try:
        frame = parse_frame(text)
    except MalformedFrame:
        return
    assert isinstance(frame["type"], str)
    json.dumps(frame, ensure_ascii=False, allow_nan=False).encode()


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=4), JSON, max_size=5), st.booleans())
def test_every_frame_of_strict_json_is_taken_exactly(fields: dict[str, Any], ascii_only: bool) -> None:
    frame = {**fields, "type": "x"}
    text = json.dumps(frame, ensure_ascii=ascii_only)
    parsed = parse_frame(text)
    assert parsed == frame
    assert json.dumps(parsed) == json.dumps(frame)


def test_the_worst_frame_of_the_permitted_size_is_judged_quickly() -> None:
    """One client must not hold up the loop: nothing is quadratic, and no number becomes a thousand digits."""
    size = 65_536
    worst = [
        '{"type":"x","a":"' + '\\"[' * (size // 3) + '"}',
        '{"type":"x","a":[' + "[]," * (size // 3) + "1]}",
        '{"type":"x",' + ",".join(f'"{n}":{n}' for n in range(size // 12)) + "}",
        '{"type":"x","a":' + "1" * size + "}",
        '{"type":"x","a":0.' + "1" * size + "}",
        '"' + "\\u0061" * (size // 6),
        "{" * size,
    ]
    for text in worst:
        started = time.process_time()
        with contextlib.suppress(MalformedFrame):
            parse_frame(text)
        assert time.process_time() - started < 0.5


# -- the tables


def test_every_close_code_has_a_rule_and_every_rule_a_code() -> None:
    assert set(CLOSE_RULES) == set(CloseCode)
    with pytest.raises(TypeError):
        CLOSE_RULES[CloseCode.REPLACED] = CLOSE_RULES[CloseCode.REVOKED]  # type: ignore[index]


@pytest.mark.parametrize("code", list(CloseCode))
def test_a_close_reason_fits_into_a_close_frame_and_says_nothing_personal(code: CloseCode) -> None:
    """A control frame of RFC 6455 holds 125 bytes, two of which are the code."""
    reason = CLOSE_RULES[code].reason
    assert 0 < len(reason.encode()) < 123
    assert re.fullmatch(r"[a-z ]+", reason)


def test_the_close_codes_are_those_of_the_design() -> None:
    """The numbers, whether a client comes back, and whether it keeps its cursor: a contract with every client."""
    assert {int(code): (rule.reconnect, rule.keep_cursor) for code, rule in CLOSE_RULES.items()} == {
        1000: ("stop", True),
        1003: ("stop", True),
        1009: ("stop", True),
        1011: ("resume", True),
        1012: ("resume", True),
        1013: ("resume", True),
        4400: ("stop", True),
        4401: ("new_token", True),
        4403: ("stop", True),
        4408: ("resume", True),
        4409: ("stop", True),
        4410: ("stop", False),
        4419: ("refresh", True),
        4429: ("resume", True),
    }


def test_the_error_codes_are_those_of_the_design() -> None:
    assert sorted(ERROR_CODES) == sorted(
        "malformed unknown_type unauthenticated expired forbidden not_found invalid too_large limit unavailable "
        "internal".split()
    )
    assert all(re.fullmatch(r"[a-z_]+", code) for code in ERROR_CODES)


def test_the_subprotocol_is_the_documented_one() -> None:
    assert PROTOCOL == "unified-websocket.v1"
