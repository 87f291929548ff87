"""Promise: the five events that tell a run exist, on the emitter and on the wire, in order and in a frozen shape.

Applications and clients are written against these names, keys and bytes.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.support import Tab, a_manager, counted_entropy, frozen_clock, virtual_time
from websocket_core import UnifiedWebSocketEmitter
from websocket_core.events import CRITICAL_EVENTS, RESERVED_TYPES
from websocket_core.unified_manager import UnifiedWebSocketManager

FIVE = ("agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed")

LABELS = {"run_id": "r1", "thread_id": "t1", "event_id": "e1"}

NOTIFY: list[tuple[str, tuple[Any, ...], str, dict[str, Any]]] = [
    ("notify_agent_started", ("planner",), "agent_started", {"agent": "planner"}),
    ("notify_agent_thinking", ("hm",), "agent_thinking", {"thought": "hm"}),
    ("notify_tool_executing", ("search",), "tool_executing", {"tool": "search"}),
    ("notify_tool_completed", ("search", {"hits": 3}), "tool_completed", {"tool": "search", "result": {"hits": 3}}),
    ("notify_agent_completed", ({"answer": 42},), "agent_completed", {"result": {"answer": 42}}),
    ("notify_agent_error", ("no flights",), "agent_error", {"error": "no flights"}),
]

GOLDEN = {
    "the least": (
        '{"type":"agent_started","data":{"agent":"planner"},'
        '"timestamp":"2026-11-18T11:06:40.123456+00:00","user_id":"alice",'
        '"id":"AAECAwQFBgc1","cursor":"AAECAwQF.1.AAECAwQFBgc1"}'
    ),
    "everything": (
        '{"type":"tool_completed","data":{"tool":"search","tool_call_id":"c1","result":{"hits":3,"of":[1.5,true,null,'
        '"\u00e9\u4e2d\U0001f600","line\\nbreak","</script>","quote\\"back\\\\slash"]},"status":"success"},'
        '"timestamp":"2026-11-18T11:06:40.123456+00:00","user_id":"a\\"b\u00e9","run_id":"r1","thread_id":"t\\\\1",'
        '"id":"order-1","cursor":"AAECAwQF.1.order-1"}'
    ),
    "greeting": (
        '{"type":"connected","connection_id":"tab-1","user_id":"alice","protocol":"plain","heartbeat":25.0,'
        '"resumed":false,"cursor":"AAECAwQF.0."}'
    ),
}
"""What stands on the wire with a frozen clock and counted entropy. These bytes do not change."""


def a_frozen_manager() -> UnifiedWebSocketManager:
    return a_manager(clock=frozen_clock, entropy=lambda size: bytes(range(size)))


def test_the_five_are_five_and_in_the_order_of_a_run() -> None:
    assert CRITICAL_EVENTS == UnifiedWebSocketEmitter.CRITICAL_EVENTS == FIVE
    assert not RESERVED_TYPES & set(FIVE)


@pytest.mark.parametrize("event_type", FIVE)
def test_each_has_a_written_method(event_type: str) -> None:
    """In the class itself, so that none is generated when missing and none is lost unnoticed."""
    method = vars(UnifiedWebSocketEmitter)[f"emit_{event_type}"]
    assert inspect.iscoroutinefunction(method)
    parameters = inspect.signature(method).parameters
    assert list(parameters) == ["self", "data", "run_id", "thread_id", "event_id"]
    for name in LABELS:
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[name].default is None
    assert method.__code__.co_name == f"emit_{event_type}"  # of the code, so no copy of a template
    assert method.__closure__ is None


@pytest.mark.parametrize("name", [*(row[0] for row in NOTIFY), "notify_custom"])
def test_each_notify_form_is_written_out(name: str) -> None:
    method = vars(UnifiedWebSocketEmitter)[name]
    assert inspect.iscoroutinefunction(method)
    assert (method.__code__.co_name, method.__closure__) == (name, None)
    parameters = inspect.signature(method).parameters
    for label in LABELS:
        assert parameters[label].kind is inspect.Parameter.KEYWORD_ONLY
    takes_extra = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    assert takes_extra is (name != "notify_custom")
    assert "user_id" not in parameters, "an emitter is bound to its user"


def test_no_method_of_an_emitter_takes_a_user() -> None:
    for name, method in inspect.getmembers(UnifiedWebSocketEmitter, inspect.isfunction):
        if name != "__init__":
            assert "user_id" not in inspect.signature(method).parameters, name


@pytest.mark.parametrize("event_type", FIVE)
@pytest.mark.parametrize("labelled", [False, True])
@virtual_time
async def test_each_emit_method_reaches_the_wire(event_type: str, labelled: bool) -> None:
    async with a_frozen_manager() as manager:
        tab = await Tab.open(manager, "alice")
        emit: Callable[..., Awaitable[Any]] = getattr(manager.get_emitter("alice"), f"emit_{event_type}")
        data = {"any": ["thing"]}
        position = await emit(data, **(LABELS if labelled else {}))
        event = (await tab.has(1))[0]
        assert (event["type"], event["data"], event["user_id"]) == (event_type, data, "alice")
        assert event["id"] == position.mark
        if labelled:
            assert (event["run_id"], event["thread_id"], event["id"]) == ("r1", "t1", "e1")
        else:
            assert not {"run_id", "thread_id"} & set(event)


@pytest.mark.parametrize(("name", "arguments", "event_type", "data"), NOTIFY, ids=[row[0] for row in NOTIFY])
@virtual_time
async def test_each_notify_form_uses_its_keys(
    name: str, arguments: tuple[Any, ...], event_type: str, data: dict[str, Any]
) -> None:
    async with a_frozen_manager() as manager:
        tab = await Tab.open(manager, "alice")
        notify: Callable[..., Awaitable[Any]] = getattr(manager.get_emitter("alice"), name)
        await notify(*arguments)
        await notify(*arguments, extra=1, more={"x": None}, **LABELS)
        plain, full = await tab.has(2)
        assert (plain["type"], plain["data"]) == (event_type, data)
        assert not {"run_id", "thread_id"} & set(plain)
        assert (full["type"], full["data"]) == (event_type, {"extra": 1, "more": {"x": None}, **data})
        assert (full["run_id"], full["thread_id"], full["id"]) == ("r1", "t1", "e1")


@virtual_time
async def test_extra_keys_named_like_the_envelope_stay_in_the_data() -> None:
    async with a_frozen_manager() as manager:
        tab = await Tab.open(manager, "alice")
        await manager.get_emitter("alice").notify_agent_thinking("hm", type="x", data="y", user_id="bob", cursor="c")
        event = (await tab.has(1))[0]
        assert (event["type"], event["user_id"]) == ("agent_thinking", "alice")
        assert event["data"] == {"type": "x", "data": "y", "user_id": "bob", "cursor": "c", "thought": "hm"}


@virtual_time
async def test_extra_keys_do_not_replace_what_a_notify_form_says() -> None:
    async with a_frozen_manager() as manager:
        tab = await Tab.open(manager, "alice")
        emitter = manager.get_emitter("alice")
        await emitter.notify_agent_started("planner", agent="other")
        await emitter.notify_tool_executing("search", tool="other")
        await emitter.notify_tool_completed("search", 1, tool="other")
        data = [event["data"] for event in await tab.has(3)]
        assert data == [{"agent": "planner"}, {"tool": "search"}, {"tool": "search", "result": 1}]


@virtual_time
async def test_a_custom_event_and_emit_critical_event_take_any_type() -> None:
    async with a_frozen_manager() as manager:
        tab = await Tab.open(manager, "alice")
        emitter = manager.get_emitter("alice")
        await emitter.notify_custom("price.changed", {"n": 1}, **LABELS)
        await manager.emit_critical_event("alice", "agent_thinking", {"n": 2})
        await emitter.emit("\u00e4nderung", {"n": 3})
        events = await tab.has(3)
        assert [event["type"] for event in events] == ["price.changed", "agent_thinking", "\u00e4nderung"]
        assert events[0]["id"] == "e1"


@pytest.mark.parametrize("v1", [False, True])
@virtual_time
async def test_a_simple_run_arrives_in_order(v1: bool) -> None:
    async with a_manager() as manager:
        tab = await Tab.open(manager, "alice", v1=v1)
        emitter = manager.get_emitter("alice")
        await emitter.notify_agent_started("planner")
        await emitter.notify_agent_thinking("hm")
        await emitter.notify_tool_executing("search")
        await emitter.notify_tool_completed("search", 3)
        await emitter.notify_agent_completed("done")
        assert tuple(event["type"] for event in await tab.has(5)) == FIVE
        assert emitter.get_stats() == {
            "user_id": "alice", "event_counts": dict.fromkeys(FIVE, 1), "total_events": 5,
        }  # fmt: skip
        await emitter.cleanup()
        assert emitter.get_stats() == {"user_id": "alice", "event_counts": {}, "total_events": 0}
        await emitter.notify_agent_started("planner")
        await tab.has(6)


# -- the bytes


@virtual_time
async def test_the_least_event_is_these_bytes() -> None:
    async with a_frozen_manager() as manager:
        tab = await Tab.open(manager, "alice", "tab-1")
        await manager.get_emitter("alice").notify_agent_started("planner")
        await tab.has(1)
        assert tab.socket.texts == [GOLDEN["greeting"], GOLDEN["the least"]]


@pytest.mark.parametrize("v1", [False, True])
@virtual_time
async def test_an_event_with_everything_is_these_bytes(v1: bool) -> None:
    """Whoever reads it, live or later, alone in a frame or beside others, gets the same bytes."""
    texts = ["\u00e9\u4e2d\U0001f600", "line\nbreak", "</script>", 'quote"back\\slash']
    result = {"hits": 3, "of": [1.5, True, None, *texts]}
    async with a_frozen_manager() as manager:
        live = await Tab.open(manager, 'a"b\u00e9', v1=v1)
        await live.greeted()
        await manager.get_emitter('a"b\u00e9').emit_tool_completed(
            {"tool": "search", "tool_call_id": "c1", "result": result, "status": "success"},
            run_id="r1",
            thread_id="t\\1",
            event_id="order-1",
        )
        await live.has(1)
        late = await Tab.open(manager, 'a"b\u00e9', v1=v1)
        await late.has(1)
        for tab in (live, late):
            lines = [line for text in tab.socket.texts for line in text.split("\n")]
            assert lines[-1] == GOLDEN["everything"]
        assert list(json.loads(GOLDEN["everything"])) == [
            "type", "data", "timestamp", "user_id", "run_id", "thread_id", "id", "cursor",
        ]  # fmt: skip


@virtual_time
async def test_the_keys_of_a_payload_keep_their_order() -> None:
    async with a_frozen_manager() as manager:
        tab = await Tab.open(manager, "alice")
        await manager.get_emitter("alice").emit("custom", {"z": 1, "a": {"y": 1, "b": 2}, "m": 3})
        await tab.has(1)
        assert '"data":{"z":1,"a":{"y":1,"b":2},"m":3}' in tab.socket.texts[-1]


@virtual_time
async def test_time_and_ids_come_from_what_was_injected() -> None:
    """Without that no test of the bytes could be trusted."""
    async with a_manager(clock=lambda: 0.0, entropy=counted_entropy()) as manager:
        tab = await Tab.open(manager, "alice")
        for _ in range(2):
            await manager.get_emitter("alice").emit("custom", {})
        first, second = await tab.has(2)
        assert first["timestamp"] == "1970-01-01T00:00:00.000000+00:00"
        assert first["id"][:-1] == second["id"][:-1]
        assert (first["id"][-1], second["id"][-1]) == ("1", "2")


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (0.999_999_9, "1970-01-01T00:00:00.999999+00:00"),
        (951_782_400.0, "2000-02-29T00:00:00.000000+00:00"),
        (1_700_000_000.5, "2023-11-14T22:13:20.500000+00:00"),
        (4_102_444_799.5, "2099-12-31T23:59:59.500000+00:00"),
    ],
)
@virtual_time
async def test_timestamps_are_utc_with_microseconds(moment: float, text: str) -> None:
    async with a_manager(clock=lambda: moment) as manager:
        tab = await Tab.open(manager, "alice")
        await manager.get_emitter("alice").emit("custom", {})
        assert (await tab.has(1))[0]["timestamp"] == text
