"""The vocabulary, strict JSON, and the encoding of an event: exactly what was given, or a refusal that names it."""

from __future__ import annotations

import collections
import copy
import dataclasses
import datetime
import decimal
import enum
import json
import math
import pathlib
import random
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from websocket_core.errors import InvalidEvent
from websocket_core.events import (
    CRITICAL_EVENTS,
    DATA_MODELS,
    RESERVED_TYPES,
    AgentCompleted,
    AgentStarted,
    Event,
    EventEncoder,
    ToolCompleted,
    check_event_id,
    encode_json,
    owner_part,
    random_text,
)
from websocket_core.identity import UserId, checked_user_id
from websocket_core.limits import Limits

OWNER = owner_part(UserId("alice"))


def an_encoder(
    *,
    clock: Callable[[], float] = lambda: 1_795_000_000.5,
    entropy: Callable[[int], bytes] = bytes,
    limits: Limits = Limits(),
) -> EventEncoder:
    return EventEncoder(event_bytes=limits.event_bytes, event_depth=limits.event_depth, clock=clock, entropy=entropy)


def decoded(event: Event) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(event.body + b"}")
    return body


# -- strict JSON: what is JSON comes out exactly

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
)
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=20,
)


def same(a: object, b: object) -> bool:
    """Equal, with the same types and the same floats to the bit, and keys in the same order."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        assert isinstance(b, float)
        return a == b and math.copysign(1.0, a) == math.copysign(1.0, b)
    if isinstance(a, list):
        assert isinstance(b, list)
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        assert isinstance(b, dict)
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return a == b


@settings(max_examples=250, deadline=None)
@given(JSON)
@example(-0.0)
@example(5e-324)
@example(1.7976931348623157e308)
@example(1e16)
@example(2**64 - 1)
@example(-(2**63))
@example('\x00\x1f\x7f\u2028\u2029\ufeff\uffff\U0010ffff"\\/')
@example({"": {"": []}})
@example([[], {}, "", None, 0, False])
def test_every_json_value_comes_back_exactly(value: Any) -> None:
    before = copy.deepcopy(value)
    encoded = encode_json(value)
    assert same(json.loads(encoded), value)
    assert same(value, before), "the caller's data was changed"
    assert b"\n" not in encoded, "a frame may hold several events, one per line"


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Ratio(float, enum.Enum):
    HALF = 0.5


class OldColour(str, enum.Enum):  # noqa: UP042
    RED = "red"


class Celsius(float):
    pass


class Name(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((1, (2, 3)), [1, [2, 3]]),
        (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (Colour.RED, "red"),
        (OldColour.RED, "red"),
        (Level.HIGH, 3),
        (Ratio.HALF, 0.5),
        (Celsius(21.5), 21.5),
        (Name("x"), "x"),
        ([Colour.RED, {"a": Level.HIGH}], ["red", {"a": 3}]),
    ],
)
def test_kinds_of_json_types_are_written_as_what_they_extend(value: object, expected: object) -> None:
    assert json.loads(encode_json(value)) == expected
    assert json.loads(encode_json({"x": [value]})) == {"x": [expected]}


# -- strict JSON: what is not is refused, wherever it stands


class Pair(NamedTuple):
    a: int
    b: int


@dataclasses.dataclass
class Plain:
    a: int = 1


@dataclasses.dataclass
class Both(dict[str, object]):
    """As some machine-learning libraries have it: a dict whose dataclass fields are something else."""

    secret: object = None


class Model(BaseModel):
    a: int = 1


class Only(enum.Enum):
    A = "a"


class Hidden(str, enum.Enum):  # noqa: UP042
    """A text whose value, which is what serializers write, is something else."""

    label: str

    def __new__(cls, text: str, value: object) -> Hidden:
        member = str.__new__(cls, text)
        member._value_ = value
        return member

    SET = ("set", frozenset({1}))
    NAN = ("nan", float("nan"))


class WithJson:
    def __json__(self) -> str:
        return "x"

    def __str__(self) -> str:
        return "x"


def _endless() -> Iterator[int]:
    yield 1


NOT_JSON: dict[str, object] = {
    "NaN": float("nan"),
    "infinity": float("inf"),
    "minus infinity": float("-inf"),
    "a NaN of a kind": Celsius("nan"),
    "a big int": 2**64,
    "a big negative int": -(2**63) - 1,
    "a huge int": 10**5000,
    "bytes": b"abc",
    "bytearray": bytearray(b"abc"),
    "memoryview": memoryview(b"abc"),
    "set": {1, 2},
    "frozenset": frozenset({1}),
    "range": range(3),
    "generator": _endless(),
    "deque": collections.deque([1]),
    "dict keys": {"a": 1}.keys(),
    "chain map": collections.ChainMap({"a": 1}),
    "user dict": collections.UserDict({"a": 1}),
    "named tuple": Pair(1, 2),
    "datetime": datetime.datetime(2026, 1, 1),
    "date": datetime.date(2026, 1, 1),
    "time": datetime.time(1),
    "timedelta": datetime.timedelta(1),
    "uuid": uuid.UUID(int=1),
    "decimal": decimal.Decimal("1.5"),
    "complex": 1j,
    "path": pathlib.PurePath("x"),
    "enum": Only.A,
    "an enum that hides a set": Hidden.SET,
    "an enum that hides NaN": Hidden.NAN,
    "dataclass": Plain(),
    "a dict that is a dataclass": Both({1, 2}),
    "pydantic model": Model(),
    "exception": ValueError("x"),
    "object": object(),
    "object with __json__": WithJson(),
    "class": int,
    "function": print,
    "lone surrogate": "a\ud800",
    "lone surrogate of a kind": Name("\udfff"),
    "int key": {1: "a"},
    "None key": {None: "a"},
    "bool key": {True: "a"},
    "float key": {1.5: "a"},
    "tuple key": {("a",): "a"},
    "bytes key": {b"a": "a"},
    "a key of a kind": {Name("a"): 1},
    "enum key": {Colour.RED: 1},
    "lone surrogate as a key": {"\ud800": 1},
}


@pytest.mark.parametrize("value", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_what_is_not_json_is_refused_at_the_top(value: object) -> None:
    with pytest.raises(InvalidEvent, match=r"\bdata\b.*Nothing was appended"):
        encode_json(value)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_what_is_not_json_is_refused_wherever_it_is_planted_and_its_path_is_named(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(NOT_JSON)))
    value = NOT_JSON[name]
    path = "data"
    for step in data.draw(st.lists(st.integers(0, 2) | st.text("abc ", min_size=1, max_size=3), max_size=5))[::-1]:
        neighbours = data.draw(st.lists(SCALARS, min_size=3, max_size=3))
        if isinstance(step, int):
            value = [*neighbours[:step], value, *neighbours[step:]]
            path = f"[{step}]{path.removeprefix('data')}"
        else:
            value = {"first": neighbours[0], step: value, "last": neighbours[1]}
            path = f".{step}{path.removeprefix('data')}"
        path = f"data{path}"
    with pytest.raises(InvalidEvent) as refused:
        encode_json(value)
    assert str(refused.value).removeprefix("a key of ").startswith(f"{path} is ")
    assert "Nothing was appended" in str(refused.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, {"b": {1}}]}, "data.a[1].b is of type set, which is not JSON"),
        ({"a": b"secret"}, "data.a is of type bytes, which is not JSON"),
        ({"a": float("nan")}, "data.a is a float that is not finite: send None or a str"),
        ({"a": 2**64}, "data.a is an int of more than 64 bits: send it as a str"),
        ({"a": "\ud800secret"}, "data.a is a str with a lone surrogate"),
        ({"a": {1: "secret"}}, "a key of data.a is not a str that can be encoded, but of type int"),
        ([Pair(1, 2)], "data[0] is of type Pair, which is not JSON"),
    ],
)
def test_a_refusal_names_type_and_path_and_quotes_no_value(value: object, message: str) -> None:
    with pytest.raises(InvalidEvent) as refused:
        encode_json(value)
    assert str(refused.value) == f"{message}. Nothing was appended"
    assert "secret" not in str(refused.value)
    str(refused.value).encode()


def test_a_long_key_is_cut_in_the_message() -> None:
    with pytest.raises(InvalidEvent) as refused:
        encode_json({"k" * 10_000: {1}})
    assert len(str(refused.value)) < 200


def _nested(depth: int, kind: str) -> object:
    value: Any = 1
    for _ in range(depth):
        value = {"list": [value], "dict": {"a": value}, "tuple": (value,)}[kind]
    return value


@pytest.mark.parametrize("kind", ["list", "dict", "tuple"])
def test_nesting_is_allowed_to_the_depth_and_no_deeper(kind: str) -> None:
    encode_json(_nested(5, kind), depth=5)
    with pytest.raises(InvalidEvent, match="nested too deeply"):
        encode_json(_nested(6, kind), depth=5)
    encode_json(_nested(100, kind))
    with pytest.raises(InvalidEvent, match="nested too deeply"):
        encode_json(_nested(101, kind))


def test_a_value_of_a_hundred_thousand_levels_is_refused_and_not_followed() -> None:
    with pytest.raises(InvalidEvent, match="nested too deeply"):
        encode_json(_nested(100_000, "list"))


def test_a_cycle_is_refused_by_its_path() -> None:
    ring: list[object] = [1]
    ring.append({"self": ring})
    with pytest.raises(InvalidEvent, match=r"data\[1\]\.self is a list that contains itself"):
        encode_json(ring)
    loop: dict[str, object] = {}
    loop["a"] = loop
    with pytest.raises(InvalidEvent, match=r"data\.a is a dict that contains itself"):
        encode_json(loop)
    wide: list[object] = []
    wide += [wide] * 50
    with pytest.raises(InvalidEvent, match="contains itself"):
        encode_json(wide)


def test_the_same_value_twice_is_no_cycle() -> None:
    shared = [1]
    assert encode_json([shared, shared, {"a": shared}]) == b'[[1],[1],{"a":[1]}]'


# -- ids


def test_ids_of_one_encoder_are_never_the_same() -> None:
    encoder = an_encoder()
    ids = [encoder.new_id() for _ in range(10_000)]
    assert len(set(ids)) == len(ids)
    assert all(check_event_id(each) == each for each in ids)


def test_ids_of_two_encoders_differ_by_what_entropy_gave_them() -> None:
    drawn = random.Random(5)
    encoders = [an_encoder(entropy=drawn.randbytes) for _ in range(500)]
    assert len({encoder.new_id() for encoder in encoders for _ in range(20)}) == 500 * 20


def test_entropy_is_drawn_once_and_not_before_the_first_event() -> None:
    """A manager may be made before a server forks its workers: they must not share their ids."""
    sizes: list[int] = []

    def entropy(size: int) -> bytes:
        sizes.append(size)
        return bytes(size)

    encoder = an_encoder(entropy=entropy)
    assert sizes == []
    encoder.new_id()
    encoder.new_id()
    assert sizes == [8], "64 bits, once"


def test_every_prefix_of_an_id_is_as_long_so_that_no_count_runs_into_it() -> None:
    for fill in (b"\x00", b"\xff", b"\xfb\xef", b"a"):
        encoder = an_encoder(entropy=lambda size, fill=fill: (fill * size)[:size])  # type: ignore[misc]
        assert len(encoder.new_id()) == 12
    assert random_text(lambda size: b"\xfb\xff\xfe"[:size], 3) == "-__-"


@pytest.mark.parametrize("event_id", ["a", "A-Z_a.z", "0" * 64, "...", "-"])
def test_an_event_id_of_the_caller_is_taken(event_id: str) -> None:
    event = an_encoder().encode("x", {}, OWNER, event_id=event_id)
    assert event.id == decoded(event)["id"] == event_id


@pytest.mark.parametrize("event_id", ["", "0" * 65, "a b", "a\n", "\n", "é", "a:b", 'a"', "a/b", "٣", b"a", 5])
def test_an_event_id_that_is_none_is_refused(event_id: Any) -> None:
    with pytest.raises(InvalidEvent, match="event_id must be 1 to 64"):
        an_encoder().encode("x", {}, OWNER, event_id=event_id)


# -- time


def _stamp(moment: float) -> str:
    return str(decoded(an_encoder(clock=lambda: moment).encode("x", {}, OWNER))["timestamp"])


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000000+00:00"),
        (1_795_000_000.0, "2026-11-18T11:06:40.000000+00:00"),
        (1_795_000_000.5, "2026-11-18T11:06:40.500000+00:00"),
        (1_795_000_000, "2026-11-18T11:06:40.000000+00:00"),
        (0.000001, "1970-01-01T00:00:00.000001+00:00"),
        (math.nextafter(1_795_000_001.0, 0), "2026-11-18T11:06:40.999999+00:00"),
        (math.nextafter(1.0, 0), "1970-01-01T00:00:00.999999+00:00"),
        (1_709_164_800.25, "2024-02-29T00:00:00.250000+00:00"),
        (4_102_444_799.999, "2099-12-31T23:59:59.999"),
    ],
)
def test_a_timestamp_has_microseconds_and_utc(moment: float, text: str) -> None:
    stamp = _stamp(moment)
    assert stamp.startswith(text)
    assert len(stamp) == 32


@settings(max_examples=200, deadline=None)
@given(st.floats(min_value=0, max_value=4e9), st.integers(-3, 3))
@example(1_795_000_000.9999998, 0)
def test_a_timestamp_is_the_moment_to_a_microsecond(moment: float, ulps: int) -> None:
    """Also right at the second, where rounding up would give it seven digits or the next second's."""
    near = float(round(moment))
    for _ in range(abs(ulps)):
        near = max(0.0, math.nextafter(near, math.inf if ulps > 0 else -math.inf))
    for each in (moment, near):
        stamp = _stamp(each)
        read = datetime.datetime.fromisoformat(stamp)
        assert read.utcoffset() == datetime.timedelta(0)
        assert abs(read.timestamp() - each) < 2e-6
        assert len(stamp) == 32


def test_the_text_of_a_second_is_not_used_for_another() -> None:
    """Time goes on, and now and then back."""
    now = [10.5]
    encoder = an_encoder(clock=lambda: now[0])
    seen = []
    for moment in (10.5, 10.75, 11.0, 9.0, 11.0):
        now[0] = moment
        seen.append(decoded(encoder.encode("x", {}, OWNER))["timestamp"][17:21])
    assert seen == ["10.5", "10.7", "11.0", "09.0", "11.0"]


# -- the envelope


def test_the_bytes_of_an_event_are_the_frozen_shape() -> None:
    event = an_encoder().encode(
        "tool_completed",
        {"tool": "search", "result": {"hits": 3}},
        OWNER,
        run_id="r1",
        thread_id="t1",
        event_id="b3J0aG9nb25hbDE",
        connection_id="tab",
    )
    assert event.body == (
        b'{"type":"tool_completed","data":{"tool":"search","result":{"hits":3}},'
        b'"timestamp":"2026-11-18T11:06:40.500000+00:00","user_id":"alice","run_id":"r1","thread_id":"t1",'
        b'"id":"b3J0aG9nb25hbDE"'
    )
    assert (event.id, event.connection_id, event.thread_id) == ("b3J0aG9nb25hbDE", "tab", "t1")


def test_a_label_without_a_value_is_left_out() -> None:
    encoder = an_encoder()
    assert list(decoded(encoder.encode("x", {}, OWNER))) == ["type", "data", "timestamp", "user_id", "id"]
    assert "thread_id" not in decoded(encoder.encode("x", {}, OWNER, run_id="r"))
    assert "run_id" not in decoded(encoder.encode("x", {}, OWNER, thread_id="t"))


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["type", "data", "timestamp", "user_id", "run_id", "thread_id", "id", "cursor", "topic", "a"]),
        st.sampled_from(["ping", "bob", None, {"type": "ping"}, ["x"]]),
    )
)
def test_a_key_in_the_data_never_replaces_a_field_of_the_envelope(data: dict[str, Any]) -> None:
    body = decoded(an_encoder().encode("x", data, OWNER, run_id="r", event_id="e"))
    assert body.pop("data") == data
    assert body == {
        "type": "x",
        "timestamp": "2026-11-18T11:06:40.500000+00:00",
        "user_id": "alice",
        "run_id": "r",
        "id": "e",
    }


NASTY = ['"', "\\", '","user_id":"bob', "</script>", "\u2028", "é\U0001f600", '"}', "{", "%s", "\ufeff"]


@pytest.mark.parametrize("text", NASTY)
def test_no_text_breaks_out_of_its_place(text: str) -> None:
    event = an_encoder().encode(text, {text: text}, owner_part(checked_user_id(text)), run_id=text, thread_id=text)
    body = decoded(event)
    assert (body["type"], body["user_id"], body["run_id"], body["thread_id"]) == (text,) * 4
    assert body["data"] == {text: text}
    assert b"\n" not in event.body


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=100))
def test_every_user_id_is_written_so_that_it_reads_back(text: str) -> None:
    body = decoded(an_encoder().encode("x", {}, owner_part(checked_user_id(text))))
    assert body["user_id"] == text


@pytest.mark.parametrize("name", sorted(RESERVED_TYPES))
def test_the_name_of_a_control_frame_is_no_event_type(name: str) -> None:
    """Also as a text of another class, and asked a second time, when a cache might answer."""
    for kind in (str, Name):
        for _ in range(2):
            with pytest.raises(InvalidEvent, match="control frame"):
                an_encoder().encode(kind(name), {}, OWNER)


def test_the_reserved_names_are_those_of_the_design() -> None:
    assert sorted(RESERVED_TYPES) == sorted(
        "connected ping pong gap subscribed unsubscribed ack error degraded provisional restored".split()
    )
    assert not RESERVED_TYPES & DATA_MODELS.keys()


@pytest.mark.parametrize(
    "event_type", ["", "a\n", "\x00", "\ud800", "x" * 129, None, 5, b"x", ["x"], {"x"}, True, ("agent_started",)]
)
def test_what_is_no_event_type_is_refused(event_type: Any) -> None:
    with pytest.raises(InvalidEvent):
        an_encoder().encode(event_type, {}, OWNER)


@pytest.mark.parametrize("event_type", ["x", "X" * 128, "my.event", "Ping", "PING", "ping ", "eigenes ereignis", "é"])
def test_any_other_text_is_an_event_type(event_type: str) -> None:
    assert decoded(an_encoder().encode(event_type, {}, OWNER))["type"] == event_type


@pytest.mark.parametrize("data", [None, [], "x", 5, (), {1}, Pair(1, 2), collections.UserDict(), Model(), Plain()])
def test_data_that_is_no_dict_is_refused(data: Any) -> None:
    with pytest.raises(InvalidEvent, match="must be a dict"):
        an_encoder().encode("x", data, OWNER)


@pytest.mark.parametrize("label", ["", "a\n", "\ud800", "x" * 257, "é" * 513, 5, b"x", ["x"], {"x": 1}, True, 0, False])
def test_a_label_that_is_none_is_refused_as_run_and_as_thread(label: Any) -> None:
    """Also a falsy one: `run_id=0` is a mistake and not the absence of a run."""
    for name in ("run_id", "thread_id"):
        for _ in range(2):
            with pytest.raises(InvalidEvent):
                an_encoder().encode("x", {}, OWNER, **{name: label})


def test_labels_of_equal_parts_are_kept_apart() -> None:
    """The cache of labels is keyed by both: a run named like a thread is another thing."""
    encoder = an_encoder()
    first = decoded(encoder.encode("x", {}, OWNER, run_id="a", thread_id="b"))
    second = decoded(encoder.encode("x", {}, OWNER, run_id="b", thread_id="a"))
    third = decoded(encoder.encode("x", {}, OWNER, run_id="a"))
    fourth = decoded(encoder.encode("x", {}, OWNER, thread_id="a"))
    labels = [(each.get("run_id"), each.get("thread_id")) for each in (first, second, third, fourth)]
    assert labels == [("a", "b"), ("b", "a"), ("a", None), (None, "a")]


def test_an_event_of_exactly_the_permitted_size_is_made_and_one_byte_more_is_not() -> None:
    encoder = an_encoder(limits=Limits(event_bytes=1_000))
    room = 1_000 - len(encoder.encode("x", {"a": ""}, OWNER, event_id="e").body)
    assert len(encoder.encode("x", {"a": "y" * room}, OWNER, event_id="e").body) == 1_000
    with pytest.raises(InvalidEvent, match="1001 bytes, and at most 1000"):
        encoder.encode("x", {"a": "y" * (room + 1)}, OWNER, event_id="e")
    with pytest.raises(InvalidEvent, match="bytes"):
        encoder.encode("x", {"a": "é" * (room // 2 + 1)}, OWNER, event_id="e")


def test_ten_megabytes_are_refused() -> None:
    with pytest.raises(InvalidEvent, match="at most 262144 are allowed"):
        an_encoder().encode("x", {"a": "y" * 10_000_000}, OWNER)


def test_the_depth_counts_from_the_data() -> None:
    encoder = an_encoder(limits=Limits(event_depth=3))
    encoder.encode("x", {"a": [[1]]}, OWNER)
    with pytest.raises(InvalidEvent, match="nested too deeply"):
        encoder.encode("x", {"a": [[[1]]]}, OWNER)


def test_the_data_is_encoded_at_the_call_and_not_kept() -> None:
    data: dict[str, Any] = {"a": [1]}
    event = an_encoder().encode("x", data, OWNER)
    data["a"].append(2)
    data["b"] = 3
    assert decoded(event)["data"] == {"a": [1]}
    assert type(event.body) is bytes


def test_any_text_of_the_safe_length_fits_into_one_event() -> None:
    """The bridge cuts an answer at this length, and what it cuts must never be refused."""
    encoder = an_encoder()
    for character in ("\x00", '"', "\U0001f600", "a"):
        data = {"message_id": "\\" * 256, "start": 10**9, "text": character * encoder.safe_characters}
        owner = owner_part(checked_user_id('"' * 256))
        encoder.encode("message_delta", data, owner, run_id="\\" * 256, thread_id="\U0001f600" * 256)


# -- models


def test_every_known_type_has_a_model_and_the_table_is_read_only() -> None:
    assert set(CRITICAL_EVENTS) < DATA_MODELS.keys()
    assert set(DATA_MODELS) - set(CRITICAL_EVENTS) == {
        "agent_error",
        "tool_progress",
        "message_delta",
        "approval_requested",
        "approval_resolved",
        "events_dropped",
    }
    with pytest.raises(TypeError):
        DATA_MODELS["x"] = AgentStarted  # type: ignore[index]


@pytest.mark.parametrize("model", DATA_MODELS.values(), ids=DATA_MODELS.keys())
def test_a_model_keeps_extra_keys_and_is_frozen(model: type[BaseModel]) -> None:
    assert model.model_config.get("extra") == "allow"
    assert model.model_config.get("frozen") is True


def test_a_model_takes_what_an_application_adds() -> None:
    parsed = ToolCompleted.model_validate(
        {
            "tool": "s",
            "tool_call_id": "c",
            "result": {"a": [1]},
            "status": "success",
            "duration": 0.5,
            "cost": {"eur": 1},
        }
    )
    assert parsed.result == {"a": [1]}
    assert parsed.model_extra == {"cost": {"eur": 1}}
    with pytest.raises(ValidationError):
        parsed.tool = "other"


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (AgentStarted, {}),
        (AgentCompleted, {"agent": "a", "status": "done", "duration": 1.0}),
        (ToolCompleted, {"tool": "s", "tool_call_id": "c", "status": "interrupted", "duration": 1.0}),
        (ToolCompleted, {"tool": "s", "status": "success", "duration": 1.0}),
    ],
)
def test_a_model_refuses_what_the_bridge_never_sends(model: type[BaseModel], data: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        model.model_validate(data)


async def test_the_models_accept_everything_that_the_bridge_sends() -> None:
    """A run with all there is: a child, tools that succeed, fail and are cancelled, text, results that are no JSON."""
    from bridge import UserExecutionContext
    from tests.support import a_manager, events_of
    from websocket_core.logs.memory import MemoryLog

    log = MemoryLog()
    async with a_manager(log) as manager:
        bridge = manager.create_agent_bridge(UserExecutionContext("alice", thread_id="t"))
        async with bridge.run("planner") as run:
            await run.thinking("hm", depth=1)
            await run.delta("Hello")
            async with run.tool("search", query="x") as tool:
                await tool.progress(percent=50)
                tool.result = {1, 2}
            async with run.call_tool("other", object()):
                pass
            with pytest.raises(ValueError, match="boom"):
                async with run.tool("broken"):
                    raise ValueError("boom")
            async with run.child("helper") as child:
                child.interrupt()
            with pytest.raises(TimeoutError):
                await run.approval("Go on?", tool_call_id="c1", timeout=0.01, risk="high")
            run.result = object()
        with pytest.raises(RuntimeError):
            async with bridge.run("planner"):
                raise RuntimeError("x")
        with pytest.raises(TimeoutError):
            async with bridge.run("planner"):
                raise TimeoutError
    seen = set()
    for event in await events_of(log, "alice"):
        parsed = DATA_MODELS[event["type"]].model_validate(event["data"], strict=True)
        assert parsed.model_dump(exclude_unset=True) == event["data"]
        seen.add(event["type"])
    assert seen == DATA_MODELS.keys() - {"events_dropped"}
