"""The fakes that are shipped to users do what they say."""

from __future__ import annotations

import ast
import asyncio
import inspect
import subprocess
import sys
from collections.abc import Awaitable
from types import ModuleType

import pytest

from websocket_core import log_conformance, log_probe, testing
from websocket_core.errors import AppendFailed, LogUnavailable
from websocket_core.limits import Limits, RetryPolicy
from websocket_core.log import LogStore
from websocket_core.log_probe import LOG, Wakes, an_event, append, ids, read_on
from websocket_core.logs.memory import MemoryLog
from websocket_core.metrics import Metrics
from websocket_core.testing import FailingLog, FakeSocket, LogConformance, SuspendingLog
from websocket_core.unified_manager import UnifiedWebSocketManager
from websocket_core.wire import PROTOCOL, CloseCode

SOON = 0.01
"""Long enough for what must not happen to happen in an event loop that has nothing else to do."""


async def hangs(waiting: Awaitable[object]) -> bool:
    """Whether it does not end by itself."""
    task = asyncio.ensure_future(waiting)
    done, _ = await asyncio.wait([task], timeout=SOON)
    task.cancel()
    await asyncio.wait([task])
    return not done


# -- the kit as a whole


def test_importing_the_kit_brings_in_no_test_runner() -> None:
    code = "import sys, websocket_core.testing; sys.exit(any(name in sys.modules for name in ('pytest', 'hypothesis')))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0


@pytest.mark.parametrize("module", [log_conformance, log_probe])
def test_every_assertion_of_the_suite_says_what_is_wrong(module: ModuleType) -> None:
    """Assertions outside of test modules are not rewritten by pytest, so a silent one would say nothing at all."""
    asserts = [node for node in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(node, ast.Assert)]
    assert asserts
    assert [node.lineno for node in asserts if node.msg is None] == []


def test_all_of_the_suite_is_tests_of_coroutines() -> None:
    names = [name for name in vars(LogConformance) if name.startswith("test_")]
    assert len(names) >= 25
    assert all(inspect.iscoroutinefunction(getattr(LogConformance, name)) for name in names)


async def test_the_suite_refuses_to_run_without_a_log_to_test() -> None:
    with pytest.raises(NotImplementedError):
        await LogConformance().test_reading_changes_nothing()


# -- SuspendingLog


async def steps(call: Awaitable[object]) -> int:
    """How often a call gives up the event loop."""
    task = asyncio.ensure_future(call)
    turns = 0
    while True:
        await asyncio.sleep(0)
        if task.done():
            task.result()
            return turns
        turns += 1


@pytest.mark.parametrize("turns", [1, 3])
async def test_every_call_of_a_suspending_log_gives_up_the_loop_before_and_after(turns: int) -> None:
    log: LogStore = SuspendingLog(MemoryLog(), turns=turns)
    calls: list[Awaitable[object]] = [
        log.open(LOG),
        log.append(LOG, an_event("e1")),
        log.read(LOG, None, 10),
        log.expire(),
        log.forget(LOG),
        log.close(),
    ]
    for call in calls:
        assert await steps(call) == 2 * turns


async def test_a_suspending_log_gives_up_the_loop_on_both_sides_of_an_append() -> None:
    inner = MemoryLog()
    log = SuspendingLog(inner)
    task = asyncio.create_task(log.append(LOG, an_event("e1")))
    await asyncio.sleep(0)
    assert ids(await read_on(inner, None, 10)) == [], "the first turn is given up before the append"
    await asyncio.sleep(0)
    assert ids(await read_on(inner, None, 10)) == ["e1"]
    assert not task.done(), "the second turn is given up after the append"
    await task


async def test_a_suspending_log_passes_everything_on() -> None:
    inner = MemoryLog()
    log = SuspendingLog(inner)
    wakes = Wakes(log, LOG)
    positions = await append(log, 3)
    await wakes.reach(3)
    assert ids(await read_on(log, positions[0], 1)) == ["e2", "e3"]
    assert await log.open(LOG) == positions[-1]
    wakes.stop()
    await append(log, 1, first=4)
    assert wakes.count == 3
    await log.forget(LOG)
    assert inner.statistics()["entries"] == 0


# -- FailingLog


async def test_a_failing_log_that_was_told_nothing_fails_nothing() -> None:
    log = FailingLog(MemoryLog())
    await append(log, 3)
    assert ids(await read_on(log, None, 10)) == ["e1", "e2", "e3"]
    assert (log.appends, log.reads) == (3, 1)


async def test_so_many_appends_fail_as_were_asked_for_and_append_nothing() -> None:
    inner = MemoryLog()
    log = FailingLog(inner)
    log.fail_appends(2)
    for _ in range(2):
        with pytest.raises(LogUnavailable):
            await log.append(LOG, an_event("e1"))
    assert (await inner.read(LOG, None, 10)).start is None
    assert (await log.append(LOG, an_event("e1"))).offset == 1
    assert log.appends == 3


async def test_an_append_whose_reply_is_lost_has_happened() -> None:
    log = FailingLog(MemoryLog())
    log.fail_appends(reply_lost=True)
    log.fail_appends()
    with pytest.raises(LogUnavailable):
        await log.append(LOG, an_event("e1"))
    assert ids(await read_on(log, None, 10)) == ["e1"]
    with pytest.raises(LogUnavailable):
        await log.append(LOG, an_event("e2"))
    assert ids(await read_on(log, None, 10)) == ["e1"], "failures come in the order they were asked for"
    assert (await log.append(LOG, an_event("e1"))).offset == 1
    assert ids(await read_on(log, None, 10)) == ["e1"]


async def test_so_many_reads_and_opens_fail_as_were_asked_for() -> None:
    log = FailingLog(MemoryLog())
    await append(log, 1)
    log.fail_reads(2)
    with pytest.raises(LogUnavailable):
        await log.read(LOG, None, 10)
    with pytest.raises(LogUnavailable):
        await log.open(LOG)
    assert ids(await read_on(log, None, 10)) == ["e1"]


async def test_a_hanging_log_goes_on_where_it_was_when_it_is_released() -> None:
    log = FailingLog(MemoryLog())
    log.hang()
    calls: list[Awaitable[object]] = [log.append(LOG, an_event("lost")), log.read(LOG, None, 1), log.open(LOG)]
    calls += [log.expire(), log.forget(LOG)]
    for call in calls:
        assert await hangs(call)
    task = asyncio.create_task(log.append(LOG, an_event("e1")))
    await asyncio.sleep(0)
    log.hang()
    log.release()
    assert (await task).offset == 1
    assert ids(await read_on(log, None, 10)) == ["e1"]


async def test_recovering_takes_back_everything() -> None:
    log = FailingLog(MemoryLog())
    log.fail_appends(5)
    log.fail_reads(5)
    log.hang()
    log.recover()
    await append(log, 1)
    assert ids(await read_on(log, None, 10)) == ["e1"]


async def test_an_emit_outlives_failures_as_the_retry_policy_says() -> None:
    """The fake in its place: behind a manager."""
    log = FailingLog(SuspendingLog(MemoryLog()))
    policy = RetryPolicy(attempts=3, initial=0.001, maximum=0.001)
    async with UnifiedWebSocketManager(log, retry=policy, metrics=Metrics()) as manager:
        socket = FakeSocket()
        await manager.connect_user(socket, "alice")
        emitter = manager.get_emitter("alice")
        log.fail_appends(2, reply_lost=True)
        await emitter.notify_agent_thinking("one")
        log.fail_appends(3)
        with pytest.raises(AppendFailed):
            await emitter.notify_agent_thinking("two")
        await emitter.notify_agent_thinking("three")
        await socket.wait_for(2)
        assert [event["data"]["thought"] for event in socket.events] == ["one", "three"]


# -- FakeSocket


async def test_a_socket_keeps_what_was_sent_as_text_and_as_frames() -> None:
    socket = FakeSocket()
    await socket.send_text('{"type":"connected","cursor":"e.0."}')
    await socket.send_text('{"type":"a","id":"1"}\n{"type":"gap"}\n{"type":"b","id":"2"}')
    assert [text.count("\n") for text in socket.texts] == [0, 2]
    assert [frame["type"] for frame in socket.frames] == ["connected", "a", "gap", "b"]
    assert [frame["type"] for frame in socket.events] == ["a", "b"]
    assert [frame["type"] for frame in socket.controls] == ["connected", "gap"]


async def test_waiting_ends_with_the_event_that_was_waited_for() -> None:
    socket = FakeSocket()
    waiting = asyncio.create_task(socket.wait_for(2))
    others = asyncio.create_task(socket.wait_for(lambda it: it.events and it.events[-1]["type"] == "b"))
    await socket.send_text('{"type":"a","id":"1"}')
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    assert not others.done()
    await socket.send_text('{"type":"b","id":"2"}')
    await asyncio.gather(waiting, others)
    await socket.wait_for(2)


async def test_waiting_in_vain_says_what_is_there_but_no_payload() -> None:
    socket = FakeSocket()
    await socket.send_text('{"type":"connected"}')
    await socket.send_text('{"type":"a","id":"1","data":{"secret":"sesame"}}')
    with pytest.raises(TimeoutError, match=r"1 events, controls \['connected'\], close code None") as caught:
        await socket.wait_for(2, timeout=SOON)
    assert "sesame" not in str(caught.value)


async def test_a_cancelled_wait_is_no_time_out() -> None:
    socket = FakeSocket()
    waiting = asyncio.create_task(socket.wait_for(1))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await socket.send_text('{"type":"a","id":"1"}')


async def test_the_server_reads_what_the_client_sends_in_order_and_then_that_it_left() -> None:
    socket = FakeSocket()
    reading = asyncio.create_task(socket.receive())
    await asyncio.sleep(0)
    socket.client_sends({"type": "ping"})
    assert await reading == {"type": "websocket.receive", "text": '{"type": "ping"}'}
    socket.client_sends("not json")
    socket.client_sends(b"\x00")
    socket.client_leaves(1001)
    assert await socket.receive() == {"type": "websocket.receive", "text": "not json"}
    assert await socket.receive() == {"type": "websocket.receive", "bytes": b"\x00"}
    for _ in range(2):
        assert await socket.receive() == {"type": "websocket.disconnect", "code": 1001}


async def test_a_client_that_left_takes_no_frame_and_no_close() -> None:
    socket = FakeSocket()
    socket.client_leaves()
    with pytest.raises(ConnectionResetError):
        await socket.send_text('{"type":"a"}')
    with pytest.raises(ConnectionResetError):
        await socket.close(1000, "")
    assert (socket.texts, socket.close_code) == ([], None)


async def test_a_closed_socket_says_with_what_and_takes_nothing_more() -> None:
    socket = FakeSocket()
    waiting = asyncio.create_task(socket.wait_closed())
    reading = asyncio.create_task(socket.receive())
    await asyncio.sleep(0)
    await socket.close(4409, "replaced")
    assert await waiting == socket.close_code == 4409
    assert socket.close_reason == "replaced"
    assert await reading == {"type": "websocket.disconnect", "code": 4409}
    with pytest.raises(RuntimeError):
        await socket.send_text('{"type":"a"}')
    with pytest.raises(RuntimeError):
        await socket.close(1000, "")
    assert socket.close_code == 4409


async def test_writes_to_a_blocked_socket_hang_until_it_is_unblocked() -> None:
    socket = FakeSocket()
    socket.block()
    assert await hangs(socket.send_text('{"type":"lost"}'))
    assert await hangs(socket.close(1000, ""))
    writing = asyncio.create_task(socket.send_text('{"type":"a"}'))
    await asyncio.sleep(0)
    assert socket.texts == []
    socket.client_sends({"type": "ping"})
    assert (await socket.receive())["text"] == '{"type": "ping"}', "a blocked socket can still be read from"
    await asyncio.sleep(0)
    assert socket.texts == []
    socket.unblock()
    await writing
    assert socket.texts == ['{"type":"a"}']


async def test_a_write_that_hangs_fails_when_the_client_leaves() -> None:
    socket = FakeSocket()
    socket.block()
    writing = asyncio.create_task(socket.send_text('{"type":"a"}'))
    await asyncio.sleep(0)
    socket.client_leaves()
    with pytest.raises(ConnectionResetError):
        await writing


async def test_a_client_of_the_protocol_answers_pings_and_a_plain_one_does_not() -> None:
    for socket, answers in (
        (FakeSocket(subprotocol=PROTOCOL), 1),
        (FakeSocket(subprotocol=PROTOCOL, answers_pings=False), 0),
        (FakeSocket(), 0),
    ):
        await socket.send_text('{"type":"ping","cursor":"e.0."}')
        socket.client_leaves()
        received = [await socket.receive() for _ in range(2)]
        assert [message.get("text") for message in received].count('{"type": "pong"}') == answers


async def test_a_connection_over_a_fake_socket_lives_as_over_a_real_one() -> None:
    limits = Limits(heartbeat=0.01, heartbeat_timeout=5.0)
    async with UnifiedWebSocketManager(limits=limits, metrics=Metrics()) as manager:
        socket = FakeSocket(subprotocol=PROTOCOL)
        connection = await manager.connect_user(socket, "alice")
        serving = asyncio.create_task(connection.serve())
        await socket.wait_for(lambda it: len([frame for frame in it.controls if frame["type"] == "ping"]) >= 3)
        for number in range(5):
            await manager.get_emitter("alice").emit("note", {"n": number})
        await socket.wait_for(5)
        assert [event["data"]["n"] for event in socket.events] == [0, 1, 2, 3, 4]
        assert socket.controls[0]["type"] == "connected"
        socket.client_sends({"type": "nonsense", "request_id": "q"})
        await socket.wait_for(lambda it: any(frame.get("request_id") == "q" for frame in it.controls))
        await manager.disconnect_user("alice")
        assert await socket.wait_closed() == CloseCode.DISCONNECTED
        await serving


async def test_a_client_that_answers_no_ping_is_closed() -> None:
    limits = Limits(heartbeat=0.01, heartbeat_timeout=0.01, sweep_interval=0.01)
    async with UnifiedWebSocketManager(limits=limits, metrics=Metrics()) as manager:
        socket = FakeSocket(subprotocol=PROTOCOL, answers_pings=False)
        connection = await manager.connect_user(socket, "alice")
        serving = asyncio.create_task(connection.serve())
        assert await socket.wait_closed() == CloseCode.TIMED_OUT
        await serving


def test_the_kit_names_what_it_offers() -> None:
    assert sorted(testing.__all__) == ["FailingLog", "FakeSocket", "LogConformance", "SuspendingLog"]
    assert all(inspect.getdoc(getattr(testing, name)) for name in testing.__all__)
