"""The emitter: every method appends the right event to the log of one user, and of nobody else."""

from __future__ import annotations

import copy
import json
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from websocket_core.appender import Appender
from websocket_core.errors import (
    AppendFailed,
    InvalidEvent,
    InvalidUserId,
    LogUnavailable,
    ManagerClosed,
    UnknownConnection,
)
from websocket_core.events import Event, EventEncoder
from websocket_core.hand_over import HandOvers
from websocket_core.identity import LogName, UserId
from websocket_core.limits import Limits, RetryPolicy
from websocket_core.log import Position
from websocket_core.logs.memory import MemoryLog
from websocket_core.metrics import Metrics
from websocket_core.outbox import Outboxes
from websocket_core.unified_emitter import UnifiedWebSocketEmitter


class Host:
    """A manager, as far as an emitter needs it."""

    def __init__(self, log: Any = None) -> None:
        self.log = log or MemoryLog()
        self.metrics = Metrics()
        self.appender = Appender(self.log, retry=RetryPolicy(attempts=2, initial=0.0001), metrics=self.metrics)
        self.encoder = EventEncoder(event_bytes=5_000, event_depth=10, clock=lambda: 1_795_000_000.5)
        limits, outboxes = (
            Limits(),
            Outboxes(self.appender, encoder=self.encoder, limits=Limits(), metrics=self.metrics),
        )
        self.hand_overs = HandOvers(self.appender, outboxes, limits=limits)
        self.asked: list[tuple[str, str]] = []

    async def require_connection(self, user_id: UserId, connection_id: str) -> None:
        self.asked.append((user_id, connection_id))
        if connection_id != "tab":
            raise UnknownConnection("no such connection")

    async def entries(self, user_id: str = "alice") -> list[Event]:
        batch = await self.log.read(LogName("user", user_id), None, 1_000)
        return [entry.event for entry in batch.entries]

    async def events(self, user_id: str = "alice") -> list[dict[str, Any]]:
        return [json.loads(event.body + b"}") for event in await self.entries(user_id)]


Emit = Callable[..., Awaitable[Position]]

METHODS: list[tuple[str, tuple[Any, ...], str, dict[str, Any]]] = [
    ("emit", ("my_event", {"n": 1}), "my_event", {"n": 1}),
    ("emit_agent_started", ({"agent": "a"},), "agent_started", {"agent": "a"}),
    ("emit_agent_thinking", ({"thought": "t"},), "agent_thinking", {"thought": "t"}),
    ("emit_tool_executing", ({"tool": "s"},), "tool_executing", {"tool": "s"}),
    ("emit_tool_completed", ({"tool": "s", "result": 1},), "tool_completed", {"tool": "s", "result": 1}),
    ("emit_agent_completed", ({"result": None},), "agent_completed", {"result": None}),
    ("notify_agent_started", ("a",), "agent_started", {"agent": "a"}),
    ("notify_agent_thinking", ("t",), "agent_thinking", {"thought": "t"}),
    ("notify_tool_executing", ("s",), "tool_executing", {"tool": "s"}),
    ("notify_tool_completed", ("s", {"hits": 3}), "tool_completed", {"tool": "s", "result": {"hits": 3}}),
    ("notify_agent_completed", ({"answer": 1},), "agent_completed", {"result": {"answer": 1}}),
    ("notify_agent_error", ("it failed",), "agent_error", {"error": "it failed"}),
    ("notify_custom", ("my_event", {"n": 1}), "my_event", {"n": 1}),
]
NAMES = [method[0] for method in METHODS]


@pytest.mark.parametrize(("name", "arguments", "event_type", "data"), METHODS, ids=NAMES)
async def test_a_method_appends_its_event_with_its_labels_and_returns_the_position(
    name: str, arguments: tuple[Any, ...], event_type: str, data: dict[str, Any]
) -> None:
    host = Host()
    emitter = UnifiedWebSocketEmitter(host, "alice")
    emit: Emit = getattr(emitter, name)
    position = await emit(*arguments, run_id="r1", thread_id="t1", event_id="e1")
    assert (position.offset, position.mark) == (1, "e1")
    assert await host.events() == [
        {
            "type": event_type,
            "data": data,
            "timestamp": "2026-11-18T11:06:40.500000+00:00",
            "user_id": "alice",
            "run_id": "r1",
            "thread_id": "t1",
            "id": "e1",
        }
    ]
    await emit(*arguments)
    second = (await host.events())[1]
    assert second["type"] == event_type
    assert not {"run_id", "thread_id"} & second.keys()
    assert [event.thread_id for event in await host.entries()] == ["t1", None]


@pytest.mark.parametrize(
    ("name", "arguments", "event_type", "data"),
    [method for method in METHODS if method[0].startswith("notify_") and method[0] != "notify_custom"],
)
async def test_extra_keys_go_into_the_data_and_replace_nothing(
    name: str, arguments: tuple[Any, ...], event_type: str, data: dict[str, Any]
) -> None:
    host = Host()
    emit: Emit = getattr(UnifiedWebSocketEmitter(host, "alice"), name)
    free = dict.fromkeys(data.keys() & {"agent", "tool"}, "an impostor")
    await emit(*arguments, type="ping", user_id="bob", cursor="x", timestamp=0, id="x", data={}, more=[1], **free)
    (event,) = await host.events()
    more = {"type": "ping", "user_id": "bob", "cursor": "x", "timestamp": 0, "id": "x", "data": {}, "more": [1]}
    assert event["data"] == more | data
    assert (event["type"], event["user_id"]) == (event_type, "alice")


@pytest.mark.parametrize(("name", "arguments"), [method[:2] for method in METHODS], ids=NAMES)
async def test_the_callers_data_is_not_changed_and_not_kept(name: str, arguments: tuple[Any, ...]) -> None:
    host = Host()
    before = copy.deepcopy(arguments)
    await getattr(UnifiedWebSocketEmitter(host, "alice"), name)(*arguments)
    assert arguments == before
    stored = await host.events()
    for argument in arguments:
        if isinstance(argument, dict):
            argument["later"] = True
    assert await host.events() == stored
    for argument in arguments:
        if isinstance(argument, dict):
            del argument["later"]


@pytest.mark.parametrize(("name", "arguments"), [method[:2] for method in METHODS], ids=NAMES)
async def test_no_method_reaches_another_user(name: str, arguments: tuple[Any, ...]) -> None:
    host = Host()
    emit: Emit = getattr(UnifiedWebSocketEmitter(host, "alice"), name)
    await emit(*arguments)
    statistics = host.log.statistics()
    assert (statistics["logs"], statistics["entries"]) == (1, 1)
    if not name.startswith("notify_") or name == "notify_custom":
        with pytest.raises(TypeError):
            await emit(*arguments, user_id="bob")


async def test_users_that_look_alike_have_logs_of_their_own() -> None:
    host = Host()
    for user_id in ("a", "A", "a ", "é", "e\u0301", "a:b", "{a}", "*"):
        await UnifiedWebSocketEmitter(host, user_id).emit("x", {"to": user_id})
        assert [event["data"]["to"] for event in await host.events(user_id)] == [user_id]


@pytest.mark.parametrize("user_id", ["", "a\n", "\ud800", "x" * 257, None, 5, b"alice", ["alice"]])
def test_there_is_no_emitter_without_a_user(user_id: Any) -> None:
    with pytest.raises(InvalidUserId):
        UnifiedWebSocketEmitter(Host(), user_id)


def test_an_emitter_keeps_its_user_for_life() -> None:
    emitter = UnifiedWebSocketEmitter(Host(), "alice")
    assert emitter.user_id == "alice"
    with pytest.raises(AttributeError):
        emitter.user_id = UserId("bob")  # type: ignore[misc]


# -- a context


def a_context(user_id: str = "alice", run_id: str | None = "r1", thread_id: str | None = "t1") -> Any:
    return SimpleNamespace(user_id=user_id, run_id=run_id, thread_id=thread_id)


async def test_a_context_labels_what_names_no_run_and_no_thread() -> None:
    host = Host()
    emitter = UnifiedWebSocketEmitter(host, "alice", a_context())
    await emitter.emit("x", {})
    await emitter.emit("x", {}, run_id="r2")
    await emitter.notify_agent_thinking("t", thread_id="t2")
    labels = [(event["run_id"], event["thread_id"]) for event in await host.events()]
    assert labels == [("r1", "t1"), ("r2", "t1"), ("r1", "t2")]


@pytest.mark.parametrize("label", ["run_id", "thread_id"])
async def test_an_empty_label_is_a_mistake_and_not_that_of_the_context(label: str) -> None:
    host = Host()
    with pytest.raises(InvalidEvent):
        await UnifiedWebSocketEmitter(host, "alice", a_context()).emit("x", {}, **{label: ""})
    assert await host.entries() == []


async def test_a_context_without_labels_gives_none() -> None:
    host = Host()
    await UnifiedWebSocketEmitter(host, "alice", a_context(run_id=None, thread_id=None)).emit("x", {})
    assert not {"run_id", "thread_id"} & (await host.events())[0].keys()


@pytest.mark.parametrize("user_id", ["bob", "Alice", "alice ", ""])
def test_a_context_of_another_user_is_refused(user_id: str) -> None:
    with pytest.raises(InvalidUserId, match="another user"):
        UnifiedWebSocketEmitter(Host(), "alice", a_context(user_id))


# -- one connection


async def test_an_event_for_one_connection_is_appended_for_that_one() -> None:
    host = Host()
    emitter = UnifiedWebSocketEmitter(host, "alice")
    await emitter.emit("x", {}, connection_id="tab")
    await emitter.emit("x", {})
    assert [event.connection_id for event in await host.entries()] == ["tab", None]
    assert host.asked == [("alice", "tab")]


async def test_naming_an_unknown_connection_is_an_error_and_never_a_broadcast() -> None:
    host = Host()
    with pytest.raises(UnknownConnection):
        await UnifiedWebSocketEmitter(host, "alice").emit("x", {}, connection_id="another")
    with pytest.raises(UnknownConnection):
        await UnifiedWebSocketEmitter(host, "alice").emit("x", {}, connection_id="")
    assert await host.entries() == []


# -- failures


async def test_a_refused_event_uses_no_offset_and_is_not_counted() -> None:
    host = Host()
    emitter = UnifiedWebSocketEmitter(host, "alice")
    for event_type, data in (("ping", {}), ("", {}), ("x", {"a": {1}}), ("x", {"a": "y" * 10_000}), ("x", [])):
        with pytest.raises(InvalidEvent):
            await emitter.emit(event_type, data)  # type: ignore[arg-type]
    assert (await emitter.emit("x", {})).offset == 1
    assert emitter.get_stats() == {"user_id": "alice", "event_counts": {"x": 1}, "total_events": 1}


async def test_an_append_that_failed_for_good_raises_with_the_id_and_is_not_counted() -> None:
    class Away(MemoryLog):
        async def append(self, log: LogName, event: Event) -> Position:
            raise LogUnavailable("away")

    emitter = UnifiedWebSocketEmitter(Host(Away()), "alice")
    with pytest.raises(AppendFailed) as failed:
        await emitter.emit("x", {}, event_id="mine")
    assert failed.value.event_id == "mine"
    with pytest.raises(AppendFailed) as failed:
        await emitter.notify_agent_thinking("t")
    assert failed.value.event_id
    assert emitter.get_stats()["total_events"] == 0


async def test_emitting_again_with_the_id_of_the_failure_appends_once() -> None:
    class LosesReplies(MemoryLog):
        broken = True

        async def append(self, log: LogName, event: Event) -> Position:
            position = await super().append(log, event)
            if self.broken:
                raise LogUnavailable("the reply was lost")
            return position

    log = LosesReplies()
    host = Host(log)
    emitter = UnifiedWebSocketEmitter(host, "alice")
    with pytest.raises(AppendFailed) as failed:
        await emitter.emit("x", {"n": 1})
    log.broken = False
    position = await emitter.emit("x", {"n": 1}, event_id=failed.value.event_id)
    assert position.offset == 1
    assert len(await host.entries()) == 1


async def test_after_the_shutdown_of_the_manager_emitting_raises() -> None:
    host = Host()
    host.appender.closed = True
    with pytest.raises(ManagerClosed):
        await UnifiedWebSocketEmitter(host, "alice").emit("x", {})


# -- statistics


async def test_statistics_count_by_type_and_in_all_and_start_anew() -> None:
    host = Host()
    emitter = UnifiedWebSocketEmitter(host, "alice")
    assert emitter.get_stats() == {"user_id": "alice", "event_counts": {}, "total_events": 0}
    await emitter.notify_agent_thinking("a")
    await emitter.notify_agent_thinking("b")
    await emitter.notify_custom("mine", {})
    stats = emitter.get_stats()
    assert stats == {
        "user_id": "alice",
        "event_counts": {"agent_thinking": 2, "mine": 1},
        "total_events": 3,
    }
    stats["event_counts"].clear()
    assert emitter.get_stats()["event_counts"] == {"agent_thinking": 2, "mine": 1}, "a copy was given"
    await emitter.cleanup()
    assert emitter.get_stats() == {"user_id": "alice", "event_counts": {}, "total_events": 0}
    assert (await emitter.emit("x", {})).offset == 4, "the emitter keeps working"


async def test_a_thousand_event_types_do_not_make_a_thousand_counters() -> None:
    emitter = UnifiedWebSocketEmitter(Host(), "alice")
    for number in range(1_000):
        await emitter.emit(f"type {number}", {})
    await emitter.emit("type 0", {})
    stats = emitter.get_stats()
    assert len(stats["event_counts"]) == 256
    assert (stats["event_counts"]["type 0"], stats["total_events"]) == (2, 1_001)
