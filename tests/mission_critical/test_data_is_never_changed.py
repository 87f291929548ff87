"""Promise: what the caller passes in is read, and never changed, kept or shared.

What is delivered is what was emitted, exactly: nothing is cut, dropped, redacted or converted; and changing the data
afterwards changes nothing of what was emitted.
"""

from __future__ import annotations

import asyncio
import copy
import enum
from collections import OrderedDict, defaultdict
from typing import Any

import pytest

from bridge import UserExecutionContext
from tests.support import Tab, TroubledLog, a_manager, virtual_time


def a_payload() -> dict[str, Any]:
    return {
        "text": "\u00e9\u4e2d\U0001f600 \u2028 <script>",
        "empty": ["", [], {}, None, False, 0, 0.0],
        "numbers": [1, -1, 2**63 - 1, -(2**63), 2**64 - 1, 1.5, -0.0, 1e300, 5e-324, 0.1 + 0.2],
        "password": "not redacted",
        "token": None,
        "type": "not the type",
        "user_id": "not the user",
        "": {"": ""},
        "deep": [[[{"x": [1, {"y": (2, 3)}]}]]],
        "long": "x" * 50_000,
        'key with " and \\ and \n': True,
    }


def as_json(value: Any) -> Any:
    """What a payload is once it was JSON: tuples are lists."""
    match value:
        case dict():
            return {key: as_json(item) for key, item in value.items()}
        case list() | tuple():
            return [as_json(item) for item in value]
        case _:
            return value


@virtual_time
async def test_the_data_is_the_same_object_with_the_same_content_afterwards() -> None:
    async with a_manager() as manager:
        tab = await Tab.open(manager, "alice")
        emitter = manager.get_emitter("alice")
        data = a_payload()
        before = copy.deepcopy(data)
        identities = {key: id(value) for key, value in data.items()}
        await emitter.emit("custom", data, run_id="r", thread_id="t")
        await emitter.emit_agent_started(data)
        await emitter.notify_custom("custom", data)
        await manager.emit_critical_event("alice", "custom", data)
        await emitter.notify_tool_completed("search", data, extra=data)
        await tab.has(5)
        assert data == before
        assert list(data) == list(before), "the keys keep their order"
        assert {key: id(value) for key, value in data.items()} == identities
        assert isinstance(data["deep"][0][0][0]["x"][1]["y"], tuple)


@virtual_time
async def test_what_is_delivered_is_what_was_emitted() -> None:
    async with a_manager() as manager:
        tab = await Tab.open(manager, "alice")
        await manager.get_emitter("alice").emit("custom", a_payload())
        (event,) = await tab.has(1)
        assert event["data"] == as_json(a_payload())
        assert list(event["data"]) == list(a_payload())
        for emitted, delivered in zip(a_payload()["numbers"], event["data"]["numbers"], strict=True):
            assert (repr(emitted), type(emitted)) == (repr(delivered), type(delivered))


@pytest.mark.parametrize("when", ["before it is read", "while the append is under way"])
@virtual_time
async def test_changing_the_data_after_emit_changes_nothing_of_what_is_delivered(when: str) -> None:
    log = TroubledLog()
    async with a_manager(log) as manager:
        data = a_payload()
        if when == "while the append is under way":
            log.plan.append("hang")
            emitting = asyncio.create_task(manager.get_emitter("alice").emit("custom", data))
            await asyncio.sleep(0.1)
            data["text"] = "changed"
            data["deep"][0].append("changed")
            log.recover()
            await emitting
        else:
            await manager.get_emitter("alice").emit("custom", data)
            data["text"] = "changed"
            data["deep"][0].append("changed")
            data.clear()
        tab = await Tab.open(manager, "alice")
        (event,) = await tab.has(1)
        assert event["data"] == as_json(a_payload())


@virtual_time
async def test_a_tool_may_change_its_result_and_arguments_after_they_were_told() -> None:
    async with a_manager(TroubledLog()) as manager:
        tab = await Tab.open(manager, "alice")
        async with manager.create_agent_bridge(UserExecutionContext("alice", "r1")).run("planner") as run:
            filters = {"city": ["LIS"]}
            result = {"hits": [1]}
            async with run.tool("search", filters=filters) as tool:
                filters["city"].append("OPO")
                tool.result = result
            result["hits"].append(2)
            run.result = result
            before = copy.deepcopy(result)
        assert result == before
        events = await tab.has(4)
        assert events[1]["data"]["arguments"] == {"filters": {"city": ["LIS"]}}
        assert events[2]["data"]["result"] == {"hits": [1]}
        assert events[3]["data"]["result"] == {"hits": [1, 2]}
        assert tool.arguments == {"filters": {"city": ["LIS", "OPO"]}}


@virtual_time
async def test_a_result_that_is_left_out_of_an_event_is_left_as_it_is() -> None:
    async with a_manager() as manager:
        bridge = manager.create_agent_bridge(UserExecutionContext("alice", "r1"))
        result = {"a": {1, 2}, "b": [object()]}
        before = dict(result)
        async with bridge.run("planner") as run, run.call_tool("search", result) as tool:
            tool.result = result
        assert tool.result is result
        assert result == before


@virtual_time
async def test_one_payload_emitted_to_many_users_is_nobodys_but_the_callers() -> None:
    """Shared data does not connect users: no label of one shows up at another."""
    async with a_manager() as manager:
        data = a_payload()
        users = [f"user-{number}" for number in range(20)]
        tabs = [await Tab.open(manager, user) for user in users]
        for user in users:
            await manager.get_emitter(user).emit("custom", data, run_id=f"run of {user}")
        for user, tab in zip(users, tabs, strict=True):
            (event,) = await tab.has(1)
            assert (event["user_id"], event["run_id"]) == (user, f"run of {user}")
            assert event["data"] == as_json(a_payload())


@virtual_time
async def test_subclasses_of_json_types_are_written_as_what_they_extend() -> None:
    class Colour(enum.StrEnum):
        RED = "red"

    class Level(enum.IntEnum):
        HIGH = 3

    counts: defaultdict[str, list[int]] = defaultdict(list)
    counts["a"].append(1)
    data = {"counts": counts, "ordered": OrderedDict(z=1, a=2), "colour": Colour.RED, "level": Level.HIGH}
    async with a_manager() as manager:
        tab = await Tab.open(manager, "alice")
        await manager.get_emitter("alice").emit("custom", data)
        (event,) = await tab.has(1)
        assert event["data"] == {"counts": {"a": [1]}, "ordered": {"z": 1, "a": 2}, "colour": "red", "level": 3}
        assert list(event["data"]["ordered"]) == ["z", "a"]
        assert list(counts) == ["a"], "looking for a key that is not there would have made one"
