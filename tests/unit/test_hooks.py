"""The application's own code: called at the right time, waited for no longer than it may take, and of no harm when it
fails."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

import pytest

from tests.support import Tab, a_manager, turns, until, virtual_time
from websocket_core.connection import WebSocketConnection
from websocket_core.hooks import ConnectionHook, Hooks, SnapshotHook
from websocket_core.limits import Limits, Retention
from websocket_core.unified_manager import UnifiedWebSocketManager


def some_hooks(
    *,
    on_connect: ConnectionHook | None = None,
    on_disconnect: ConnectionHook | None = None,
    snapshot: Any = None,
    limits: Limits | None = None,
) -> Hooks:
    return Hooks(on_connect=on_connect, on_disconnect=on_disconnect, snapshot=snapshot, limits=limits or Limits())


CONNECTION: Any = object()
"""What hooks are handed on as it is."""


async def shown(value: Any, limits: Limits | None = None) -> bytes | None:
    """What a hook that returns this shows."""

    async def snapshot(_connection: WebSocketConnection) -> Any:
        return value

    return await some_hooks(snapshot=snapshot, limits=limits).snapshot(CONNECTION)


# -- on_connect and on_disconnect


async def test_on_connect_is_awaited_and_what_it_raises_is_raised() -> None:
    seen: list[object] = []

    async def hook(connection: WebSocketConnection) -> None:
        await turns(3)
        seen.append(connection)
        if len(seen) == 2:
            raise ValueError("not welcome")

    hooks = some_hooks(on_connect=hook)
    await hooks.connected(CONNECTION)
    assert seen == [CONNECTION]
    with pytest.raises(ValueError, match="not welcome"):
        await hooks.connected(CONNECTION)


async def test_without_hooks_nothing_is_called_and_no_task_is_made() -> None:
    hooks = some_hooks()
    await hooks.connected(CONNECTION)
    hooks.disconnected(CONNECTION, asyncio.get_running_loop())
    assert hooks.running() == []
    assert not hooks.takes_snapshots


async def test_on_disconnect_runs_beside_and_is_known_until_it_has_ended() -> None:
    seen: list[object] = []
    go = asyncio.Event()

    async def hook(connection: WebSocketConnection) -> None:
        await go.wait()
        seen.append(connection)

    hooks = some_hooks(on_disconnect=hook)
    for _ in range(3):
        hooks.disconnected(CONNECTION, asyncio.get_running_loop())
    await turns()
    assert (len(hooks.running()), seen) == (3, [])
    go.set()
    await turns()
    assert (hooks.running(), seen) == ([], [CONNECTION] * 3)


async def test_an_on_disconnect_that_fails_is_logged_and_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    async def hook(_connection: WebSocketConnection) -> None:
        raise ValueError("hook")

    hooks = some_hooks(on_disconnect=hook)
    hooks.disconnected(CONNECTION, asyncio.get_running_loop())
    await turns()
    assert hooks.running() == []
    assert [(record.name, record.levelname) for record in caplog.records] == [("websocket_core.hooks", "ERROR")]
    assert caplog.records[0].exc_info is not None


async def test_an_on_disconnect_that_is_cancelled_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    async def hook(_connection: WebSocketConnection) -> None:
        await asyncio.sleep(1e9)

    hooks = some_hooks(on_disconnect=hook)
    hooks.disconnected(CONNECTION, asyncio.get_running_loop())
    await turns()
    for task in hooks.running():
        task.cancel()
    await turns()
    assert (hooks.running(), caplog.records) == ([], [])


async def test_what_ran_in_a_loop_that_is_gone_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    async def hook(_connection: WebSocketConnection) -> None:
        await asyncio.sleep(1e9)

    hooks = some_hooks(on_disconnect=hook)
    hooks.disconnected(CONNECTION, asyncio.get_running_loop())
    (task,) = hooks.running()
    hooks.clear()
    assert hooks.running() == []
    task.cancel()
    await turns()
    assert (hooks.running(), caplog.records) == ([], []), "and its end is no error"


# -- the snapshot


@pytest.mark.parametrize(
    "value",
    [{}, {"n": 1}, {"text": 'é "\U0001f600\n', "deep": [{"a": [None, 1.5, True]}]}, {"type": "x", "cursor": "y"}],
)
async def test_a_snapshot_is_shown_as_it_was_given(value: dict[str, Any]) -> None:
    text = await shown(value)
    assert text is not None
    assert json.loads(text) == value
    assert b"\n" not in text, "a line break would end the frame of a client that shares frames"


async def test_a_hook_that_has_nothing_to_show_shows_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert await shown(None) is None
    assert caplog.records == []


def deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "value",
    [
        [], "text", 5, b"{}", '{"a":1}', ({"a": 1},), MappingProxyType({"a": 1}), {1: "a"}, {"a": {1, 2}},
        {"a": object()}, {"a": float("nan")}, {"a": float("inf")}, {"a": b"x"}, {"a": "\ud800"}, {"a": 2**70},
        deep(200), deep(5_000), {"a": "x" * 262_144},
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
async def test_what_cannot_be_shown_is_logged_and_left_out(value: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert await shown(value) is None
    assert [(record.name, record.levelname) for record in caplog.records] == [("websocket_core.hooks", "ERROR")]


async def test_the_bounds_of_a_snapshot_are_those_of_an_event() -> None:
    limits = Limits(event_bytes=100, event_depth=3)
    assert await shown({"a": "x" * 92}, limits) == b'{"a":"' + b"x" * 92 + b'"}'
    assert await shown({"a": "x" * 93}, limits) is None
    assert await shown({"a": "é" * 47}, limits) is None, "counted in bytes"
    assert await shown(deep(2), limits) is not None
    assert await shown(deep(3), limits) is None


async def test_a_value_that_refers_to_itself_is_left_out() -> None:
    value: dict[str, Any] = {}
    value["a"] = value
    assert await shown(value) is None


@virtual_time
async def test_a_snapshot_that_takes_too_long_is_given_up_and_cancelled() -> None:
    loop = asyncio.get_running_loop()
    ended: list[str] = []
    takes = iter([2.9, 1e9])

    async def snapshot(_connection: WebSocketConnection) -> dict[str, Any]:
        try:
            await asyncio.sleep(next(takes))
            ended.append("came")
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return {"n": 1}

    hooks = some_hooks(snapshot=snapshot, limits=Limits(snapshot_timeout=3.0))
    for expected in (b'{"n":1}', None):
        began = loop.time()
        assert await hooks.snapshot(CONNECTION) == expected
        assert loop.time() - began <= 3.0
    assert ended == ["came", "cancelled"]


@pytest.mark.parametrize("error", [ValueError("x"), TimeoutError(), OSError(), KeyError("x"), RecursionError()])
async def test_a_snapshot_that_fails_is_logged_with_its_traceback(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def snapshot(_connection: WebSocketConnection) -> dict[str, Any]:
        raise error

    assert await some_hooks(snapshot=snapshot).snapshot(CONNECTION) is None
    assert [record.exc_info is not None and record.exc_info[1] for record in caplog.records] == [error]


@virtual_time
async def test_a_snapshot_that_waited_for_something_that_was_cancelled_is_a_failure_of_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def snapshot(_connection: WebSocketConnection) -> dict[str, Any]:
        waited: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        waited.cancel()
        return await waited

    assert await some_hooks(snapshot=snapshot).snapshot(CONNECTION) is None
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_being_cancelled_in_a_snapshot_is_no_failure_of_it(caplog: pytest.LogCaptureFixture) -> None:
    async def snapshot(_connection: WebSocketConnection) -> dict[str, Any]:
        await asyncio.sleep(1.0)
        return {}

    taking = asyncio.ensure_future(some_hooks(snapshot=snapshot).snapshot(CONNECTION))
    await turns()
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    assert caplog.records == []


# -- over connections: the gap is told, whatever the hook does


async def a_tab_behind(manager: UnifiedWebSocketManager, *, v1: bool, cursor: str | None = None) -> Tab:
    """A tab that comes back with the cursor of an event that was trimmed."""
    emitter = manager.get_emitter("alice")
    first = await emitter.emit("x", {"n": 0})
    for n in range(1, 6):
        await emitter.emit("x", {"n": n})
    return await Tab.open(manager, "alice", "tab", v1=v1, cursor=cursor or f"{first.epoch}.{first.offset}.{first.mark}")


async def _raises(_connection: WebSocketConnection) -> Mapping[str, Any]:
    raise ValueError("told to fail")


async def _hangs(_connection: WebSocketConnection) -> Mapping[str, Any]:
    await asyncio.sleep(1e9)
    return {}


async def _is_huge(_connection: WebSocketConnection) -> Mapping[str, Any]:
    return {"text": "x" * 1_000_000}


async def _is_no_json(_connection: WebSocketConnection) -> Mapping[str, Any]:
    return {"at": {1, 2}}


async def _has_nothing(_connection: WebSocketConnection) -> None:
    return None


@pytest.mark.parametrize("v1", [False, True], ids=["plain", "v1"])
@pytest.mark.parametrize("hook", [_raises, _hangs, _is_huge, _is_no_json, _has_nothing, None])
@virtual_time
async def test_a_gap_is_told_also_without_the_snapshot_that_should_come_with_it(
    hook: Callable[[WebSocketConnection], Awaitable[Any]] | None, v1: bool
) -> None:
    async with a_manager(retention=Retention(events=3), snapshot=hook) as manager:
        tab = await a_tab_behind(manager, v1=v1)
        await tab.has(3, seconds=10.0)
        (gap,) = tab.socket.of_type("gap")
        assert set(gap) == {"type", "reason", "cursor"}
        assert (gap["reason"], tab.numbers) == ("trimmed", [3, 4, 5])
        assert tab.connection.state == "open"
        await manager.get_emitter("alice").emit("x", {"n": 6})
        assert [event["data"]["n"] for event in await tab.has(4)] == [3, 4, 5, 6]


@pytest.mark.parametrize("v1", [False, True], ids=["plain", "v1"])
@virtual_time
async def test_a_snapshot_stands_in_the_gap_that_it_is_for(v1: bool) -> None:
    asked: list[WebSocketConnection] = []

    async def snapshot(connection: WebSocketConnection) -> dict[str, Any]:
        asked.append(connection)
        return {"for": connection.user_id, "answers": [1, {"text": "é"}]}

    async with a_manager(retention=Retention(events=3), snapshot=snapshot) as manager:
        tab = await a_tab_behind(manager, v1=v1)
        await tab.has(3)
        (gap,) = tab.socket.of_type("gap")
        assert gap["snapshot"] == {"for": "alice", "answers": [1, {"text": "é"}]}
        assert asked == [tab.connection]
        assert [frame["type"] for frame in tab.socket.frames] == ["connected", "gap", "x", "x", "x"]


@virtual_time
async def test_without_a_gap_no_snapshot_is_asked_for() -> None:
    async def snapshot(_connection: WebSocketConnection) -> dict[str, Any]:
        raise AssertionError("nothing is missing")

    async with a_manager(retention=Retention(events=3), snapshot=snapshot) as manager:
        for cursor in (None, "latest"):
            tab = await Tab.open(manager, "alice", cursor=cursor)
            await tab.greeted()
            await manager.get_emitter("alice").emit("x", {"n": 1})
            await tab.has(1)
            again = await Tab.open(manager, "alice", cursor=tab.cursor)
            assert (await again.greeted())["resumed"] is True
            assert tab.socket.of_type("gap") == again.socket.of_type("gap") == []


@virtual_time
async def test_events_that_come_while_a_snapshot_is_taken_follow_it() -> None:
    """The hook may take its time: whatever it shows, nothing that is appended meanwhile is left out."""
    taking, go = asyncio.Event(), asyncio.Event()

    async def snapshot(_connection: WebSocketConnection) -> dict[str, Any]:
        taking.set()
        await go.wait()
        return {"n": "snapshot"}

    async with a_manager(retention=Retention(events=3), snapshot=snapshot) as manager:
        tab = await a_tab_behind(manager, v1=False)
        await taking.wait()
        await manager.get_emitter("alice").emit("x", {"n": 6})
        go.set()
        await tab.has(4)
        assert (tab.socket.of_type("gap")[0]["snapshot"], tab.numbers) == ({"n": "snapshot"}, [3, 4, 5, 6])


@virtual_time
async def test_a_snapshot_is_for_one_connection_and_a_slow_one_delays_nobody_else() -> None:
    async def snapshot(connection: WebSocketConnection) -> dict[str, Any]:
        if connection.user_id == "alice":
            await asyncio.sleep(1e9)
        return {"for": connection.user_id}

    loop = asyncio.get_running_loop()
    async with a_manager(retention=Retention(events=3), snapshot=snapshot) as manager:
        await a_tab_behind(manager, v1=False)
        await turns()
        began = loop.time()
        bob = await Tab.open(manager, "bob", cursor="before.1.e1")
        await until(lambda: bob.socket.of_type("gap"), "bob's gap")
        await manager.get_emitter("bob").emit("x", {"n": 1})
        await bob.has(1)
        assert loop.time() - began < 0.1
        assert bob.socket.of_type("gap")[0]["snapshot"] == {"for": "bob"}


@virtual_time
async def test_a_snapshot_is_not_taken_for_who_was_ended_in_the_gap() -> None:
    """What is not shown must not be asked for either: it may be what the revocation is to protect."""

    async def snapshot(_connection: WebSocketConnection) -> dict[str, Any]:
        raise AssertionError("this user is revoked")

    async with a_manager(retention=Retention(events=3), snapshot=snapshot) as manager:
        tab = await Tab.open(manager, "alice", "tab", v1=True)
        await tab.greeted()
        tab.socket.block()
        await manager.get_emitter("alice").emit("x", {"n": 0})
        await turns()
        await manager.revoke("alice")
        for n in range(1, 9):
            await manager.get_emitter("alice").emit("x", {"n": n})
        tab.socket.unblock()
        assert await tab.ended() == 4410
        assert tab.socket.of_type("gap") == []


@virtual_time
async def test_a_shutdown_does_not_wait_for_a_snapshot_that_hangs() -> None:
    loop = asyncio.get_running_loop()
    manager = a_manager(retention=Retention(events=3), snapshot=_hangs, limits=Limits(snapshot_timeout=1_000.0))
    async with manager:
        await a_tab_behind(manager, v1=False)
        await turns()
        began = loop.time()
    assert loop.time() - began <= Limits().shutdown_timeout + 2.0


@pytest.mark.parametrize("leaves", ["revoked", "disconnected", "gone"])
@virtual_time
async def test_a_connection_that_is_to_go_is_not_held_by_a_snapshot(leaves: str) -> None:
    loop = asyncio.get_running_loop()
    limits = Limits(snapshot_timeout=1_000.0)
    async with a_manager(retention=Retention(events=3), snapshot=_hangs, limits=limits) as manager:
        tab = await a_tab_behind(manager, v1=False)
        await turns()
        began = loop.time()
        if leaves == "gone":
            tab.socket.client_leaves()
        else:
            await (manager.revoke("alice") if leaves == "revoked" else manager.disconnect_user("alice"))
        await until(tab.serving.done, "the end of the connection", 2.1)
        assert loop.time() - began <= 2.1
        assert tab.events == []


async def test_what_a_snapshot_holds_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "websocket_core"):
        assert await shown({"text": "s3cret " * 100_000}) is None
        assert await shown({"text": ["s3cret", {"s3cret"}]}) is None
    assert len(caplog.records) == 2
    assert "s3cret" not in caplog.text


def test_the_type_of_a_hook_is_that_of_the_manager() -> None:
    hook: SnapshotHook = _is_huge
    assert some_hooks(snapshot=hook).takes_snapshots
