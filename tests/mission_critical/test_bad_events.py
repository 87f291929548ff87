"""Promise: an event that is wrong is refused at the call, clearly, and leaves no trace.

`InvalidEvent` names the type and the path of what is wrong and quotes no content; nothing is appended, no offset is
used, and nobody is disturbed.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import decimal
import enum
import fractions
import pathlib
import uuid
from collections import ChainMap, UserDict, namedtuple
from types import MappingProxyType
from typing import Any

import pytest
from pydantic import BaseModel

from tests.support import Tab, a_manager, events_of, turns, virtual_time
from websocket_core.errors import InvalidEvent, InvalidInput
from websocket_core.events import RESERVED_TYPES
from websocket_core.limits import Limits
from websocket_core.logs.memory import MemoryLog

CANARY = "canary-9f3a"


class Opaque:
    def __repr__(self) -> str:
        return CANARY

    __str__ = __repr__

    def __json__(self) -> str:
        return CANARY

    def __iter__(self) -> Any:
        return iter([CANARY])


@dataclasses.dataclass
class Data:
    text: str = CANARY


class Model(BaseModel):
    text: str = CANARY


class Plain(enum.Enum):
    VALUE = CANARY


Named = namedtuple("Named", "text")


def _cycle() -> dict[str, Any]:
    value: dict[str, Any] = {"inner": []}
    value["inner"].append(value)
    return value


def _deep(levels: int) -> Any:
    value: Any = CANARY
    for _ in range(levels):
        value = [value]
    return value


WRONG: dict[str, tuple[Any, str]] = {
    "set": ({CANARY}, "set"),
    "frozenset": (frozenset({CANARY}), "frozenset"),
    "bytes": (CANARY.encode(), "bytes"),
    "bytearray": (bytearray(CANARY.encode()), "bytearray"),
    "memoryview": (memoryview(CANARY.encode()), "memoryview"),
    "nan": (float("nan"), "float"),
    "inf": (float("inf"), "float"),
    "minus inf": (float("-inf"), "float"),
    "datetime": (datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), "datetime"),
    "date": (datetime.date(2026, 1, 1), "date"),
    "timedelta": (datetime.timedelta(1), "timedelta"),
    "uuid": (uuid.UUID(int=1), "UUID"),
    "decimal": (decimal.Decimal("1.5"), "Decimal"),
    "fraction": (fractions.Fraction(1, 2), "Fraction"),
    "complex": (1j, "complex"),
    "path": (pathlib.PurePosixPath(CANARY), "PurePosixPath"),
    "object": (Opaque(), "Opaque"),
    "class": (Opaque, "type"),
    "function": (_deep, "function"),
    "generator": ((n for n in range(3)), "generator"),
    "iterator": (iter([CANARY]), "list_iterator"),
    "range": (range(3), "range"),
    "dict view": ({CANARY: 1}.keys(), "dict_keys"),
    "dataclass": (Data(), "Data"),
    "model": (Model(), "Model"),
    "enum": (Plain.VALUE, "Plain"),
    "named tuple": (Named(CANARY), "Named"),
    "exception": (ValueError(CANARY), "ValueError"),
    "mapping": (MappingProxyType({"x": CANARY}), "mappingproxy"),
    "user dict": (UserDict({"x": CANARY}), "UserDict"),
    "chain map": (ChainMap({"x": CANARY}), "ChainMap"),
    "cycle": (_cycle(), "itself"),
    "too deep": (_deep(200), "deep"),
    "surrogate": ("\ud800", "surrogate"),
    "surrogate in text": (f"{CANARY}\udfff", "surrogate"),
    "integer above 64 bits": (2**64, "64 bits"),
    "integer below 64 bits": (-(2**63) - 1, "64 bits"),
    "huge integer": (10**5_000, "64 bits"),
    "integer key": ({1: CANARY}, "int"),
    "None key": ({None: CANARY}, "NoneType"),
    "boolean key": ({True: CANARY}, "bool"),
    "float key": ({1.5: CANARY}, "float"),
    "tuple key": ({(1, 2): CANARY}, "tuple"),
    "bytes key": ({b"x": CANARY}, "bytes"),
    "surrogate key": ({"\ud800": CANARY}, "str"),
    "not a number in a list": ([1, 2, {"x": [float("nan")]}], "float"),
}


@pytest.mark.parametrize(("value", "named"), WRONG.values(), ids=WRONG)
@virtual_time
async def test_what_is_not_json_is_refused_by_type_and_path_and_leaves_no_trace(value: Any, named: str) -> None:
    log = MemoryLog()
    async with a_manager(log) as manager:
        mine, others = await Tab.open(manager, "alice"), await Tab.open(manager, "bob")
        emitter = manager.get_emitter("alice")
        assert (await emitter.emit("custom", {"n": 1})).offset == 1
        stats = emitter.get_stats()
        for emit in (
            emitter.emit("custom", {"outer": {"list": [0, value]}}),
            emitter.emit_tool_completed({"outer": {"list": [0, value]}}),
            emitter.notify_tool_completed("search", value, outer={"list": [0, value]}),
            emitter.notify_custom("custom", {"outer": {"list": [0, value]}}),
            manager.emit_critical_event("alice", "custom", {"outer": {"list": [0, value]}}),
        ):
            with pytest.raises(InvalidEvent) as caught:
                await emit
            message = str(caught.value)
            assert named in message
            assert "data.outer.list[1]" in message or "data.result" in message
            assert CANARY not in message
            assert len(message) < 500
            assert isinstance(caught.value, ValueError)
            assert caught.value.__cause__ is None
            assert caught.value.__context__ is None or CANARY not in str(caught.value.__context__)
        assert (await emitter.emit("custom", {"n": 2})).offset == 2
        await manager.get_emitter("bob").emit("custom", {"n": 3})
        await mine.has(2)
        await others.has(1)
        await turns()
        assert (mine.numbers, others.numbers) == ([1, 2], [3])
        assert len(await events_of(log, "alice")) == 2
        assert emitter.get_stats()["total_events"] == stats["total_events"] + 1


@pytest.mark.parametrize("data", [None, [], [("n", 1)], "text", 1, b"x", Data(), Model(), UserDict(n=1), ChainMap()])
@virtual_time
async def test_data_is_a_dict(data: Any) -> None:
    async with a_manager() as manager:
        with pytest.raises(InvalidEvent, match=f"data is of type {type(data).__name__}"):
            await manager.get_emitter("alice").emit("custom", data)
        assert (await manager.head("alice")).offset == 0


@pytest.mark.parametrize("event_type", sorted(RESERVED_TYPES))
@virtual_time
async def test_the_names_of_control_frames_are_refused_as_event_types(event_type: str) -> None:
    """Nobody can make a client believe that the server spoke of the connection."""
    async with a_manager() as manager:
        tab = await Tab.open(manager, "alice")
        emitter = manager.get_emitter("alice")
        for emit in (
            emitter.emit(event_type, {}),
            emitter.notify_custom(event_type, {}),
            manager.emit_critical_event("alice", event_type, {}),
        ):
            with pytest.raises(InvalidEvent, match=event_type):
                await emit
        await turns()
        assert [frame["type"] for frame in tab.socket.frames] == ["connected"]
        assert (await manager.head("alice")).offset == 0


@pytest.mark.parametrize(
    "event_type", ["", " " * 200, "a\n", "\x00", "x" * 129, "\ud800", None, 1, b"custom", ["custom"], Plain.VALUE]
)
@virtual_time
async def test_what_is_no_event_type_is_refused(event_type: Any) -> None:
    async with a_manager() as manager:
        for _ in range(2):  # nothing of a refusal is remembered
            with pytest.raises(InvalidEvent):
                await manager.get_emitter("alice").emit(event_type, {})
        assert (await manager.get_emitter("alice").emit("custom", {})).offset == 1


@pytest.mark.parametrize("name", ["run_id", "thread_id"])
@pytest.mark.parametrize("value", ["", "a\n", "x" * 257, "\ud800", 1, b"r", ["r"], True])
@virtual_time
async def test_what_is_no_label_is_refused(name: str, value: Any) -> None:
    async with a_manager() as manager:
        with pytest.raises(InvalidEvent):
            await manager.get_emitter("alice").emit("custom", {}, **{name: value})
        with pytest.raises(InvalidEvent):
            await manager.get_emitter("alice").notify_agent_thinking("hm", **{name: value})
        assert (await manager.head("alice")).offset == 0


@pytest.mark.parametrize("event_id", ["", "a b", "a/b", "\u00e9", "x" * 65, "a\n", 1, b"e", "a:b"])
@virtual_time
async def test_what_is_no_event_id_is_refused(event_id: Any) -> None:
    async with a_manager() as manager:
        with pytest.raises(InvalidEvent):
            await manager.get_emitter("alice").emit("custom", {}, event_id=event_id)
        assert (await manager.head("alice")).offset == 0


@virtual_time
async def test_ten_megabytes_are_refused_and_nobody_is_held_up() -> None:
    async with a_manager() as manager:
        tab = await Tab.open(manager, "bob")
        for data in ({"x": CANARY * 1_000_000}, {"x": [1] * 3_000_000}, {"x" * 10_000_000: 1}):
            with pytest.raises(InvalidEvent, match="262144") as caught:
                await manager.get_emitter("alice").emit("custom", data)
            assert len(str(caught.value)) < 500
            assert CANARY not in str(caught.value)
        await manager.get_emitter("bob").emit("custom", {"n": 1})
        await tab.has(1)
        assert (await manager.head("alice")).offset == 0


@virtual_time
async def test_an_event_may_be_exactly_as_large_as_the_limit() -> None:
    async with a_manager(limits=Limits(event_bytes=1_000)) as manager:
        emitter = manager.get_emitter("alice")
        tab = await Tab.open(manager, "alice")
        await emitter.emit("custom", {"x": ""}, event_id="e")
        await tab.has(1)
        empty = len(tab.socket.texts[-1].split(',"cursor"')[0].encode())
        await emitter.emit("custom", {"x": "y" * (1_000 - empty)}, event_id="f")
        with pytest.raises(InvalidEvent, match="1001 bytes"):
            await emitter.emit("custom", {"x": "y" * (1_001 - empty)}, event_id="g")
        await tab.has(2)
        assert len(tab.socket.texts[-1].split(',"cursor"')[0].encode()) == 1_000


@pytest.mark.parametrize("levels", [90, 99, 100, 101, 5_000])
@virtual_time
async def test_nesting_is_bounded_by_the_limit_and_not_by_the_stack(levels: int) -> None:
    async with a_manager() as manager:
        data = {"x": _deep(levels - 1)}  # the dict is a level too
        if levels <= 100:
            tab = await Tab.open(manager, "alice")
            await manager.get_emitter("alice").emit("custom", data)
            assert (await tab.has(1))[0]["data"] == data
        else:
            with pytest.raises(InvalidEvent):
                await manager.get_emitter("alice").emit("custom", data)


@virtual_time
async def test_a_wide_cycle_is_refused_and_not_walked_for_ever() -> None:
    value: list[Any] = []
    for _ in range(50):
        value.append(value)
    async with a_manager() as manager:
        with pytest.raises(InvalidEvent):
            await manager.get_emitter("alice").emit("custom", {"x": value})


@virtual_time
async def test_an_object_used_twice_is_no_cycle() -> None:
    shared = {"a": [1]}
    async with a_manager() as manager:
        tab = await Tab.open(manager, "alice")
        await manager.get_emitter("alice").emit("custom", {"x": [shared, shared], "y": shared})
        assert (await tab.has(1))[0]["data"] == {"x": [shared, shared], "y": shared}


@virtual_time
async def test_a_message_shows_no_more_of_a_key_than_is_needed() -> None:
    async with a_manager() as manager:
        with pytest.raises(InvalidEvent) as caught:
            await manager.get_emitter("alice").emit("custom", {"k" * 10_000: {"inner": {1}}})
        assert len(str(caught.value)) < 500


@virtual_time
async def test_bad_events_among_good_ones_disturb_nothing() -> None:
    """Many at once, from many tasks: what is good arrives in order without a hole."""
    async with a_manager() as manager:
        tab = await Tab.open(manager, "alice")
        refused = 0

        async def produce(producer: int) -> None:
            nonlocal refused
            for n in range(50):
                bad = (n + producer) % 3 == 0
                try:
                    await manager.get_emitter("alice").emit("custom", {"n": n, "bad": {n} if bad else None})
                except InvalidInput:
                    refused += 1
                await asyncio.sleep(0)

        await asyncio.gather(*(produce(producer) for producer in range(10)))
        events = await tab.has(500 - refused)
        assert refused > 100
        assert [event["cursor"].split(".")[1] for event in events] == [str(n + 1) for n in range(500 - refused)]
