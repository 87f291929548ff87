"""`emitter_for`, `Worker` and `SyncWorker`, over a log in memory that the test holds: what needs no Redis."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import TroubledLog, events_of, until
from websocket_core import emitter_for
from websocket_core.errors import (
    AppendFailed,
    InvalidConfiguration,
    InvalidEvent,
    InvalidInput,
    InvalidUserId,
    ManagerClosed,
    UnknownConnection,
    WrongEventLoop,
)
from websocket_core.limits import Limits, RetryPolicy
from websocket_core.logs.memory import MemoryLog
from websocket_core.metrics import Metrics
from websocket_core.worker import SyncWorker, Worker


def numbers(log: MemoryLog, user_id: str) -> list[Any]:
    return [event["data"]["n"] for event in asyncio.run(events_of(log, user_id))]


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("websocket_core")]


# -- what is refused


@pytest.mark.parametrize("make", [Worker, SyncWorker, lambda log: emitter_for(log, "alice")])
def test_a_log_that_nobody_else_reads_is_refused_with_what_to_do(make: Callable[[str], object]) -> None:
    with pytest.raises(InvalidConfiguration, match=r"redis://.*'memory://' ends with this process"):
        make("memory://")
    with pytest.raises(InvalidConfiguration, match="no log for the scheme"):
        make("http://127.0.0.1")


def test_what_is_wrong_is_raised_before_the_block_is_entered() -> None:
    with pytest.raises(InvalidUserId):
        emitter_for(MemoryLog(), "")
    with pytest.raises(InvalidUserId):
        emitter_for(MemoryLog(), "a\x00b")
    with pytest.raises(InvalidConfiguration):
        emitter_for("redis://127.0.0.1", "alice", namespace="{a}")


async def test_the_form_for_threads_is_refused_where_an_event_loop_runs() -> None:
    """It would hold up everybody else on that loop."""
    log = MemoryLog()
    with pytest.raises(WrongEventLoop, match="async with"), emitter_for(log, "alice"):
        pass
    with pytest.raises(WrongEventLoop):
        SyncWorker(log).emitter("alice")
    with pytest.raises(WrongEventLoop), SyncWorker(log):
        pass
    assert not our_threads()


async def test_an_emitter_is_given_out_only_while_the_worker_is_open() -> None:
    worker = Worker(MemoryLog(), metrics=Metrics())
    with pytest.raises(ManagerClosed, match="async with Worker"):
        worker.emitter("alice")
    async with worker:
        worker.emitter("alice")
    with pytest.raises(ManagerClosed):
        worker.emitter("alice")


async def test_a_worker_that_is_in_use_is_not_entered_again() -> None:
    worker = Worker(MemoryLog(), metrics=Metrics())
    async with worker:
        with pytest.raises(WrongEventLoop):
            await worker.__aenter__()
        assert await worker.emitter("alice").emit("t", {})


# -- async


async def test_an_emitter_has_its_user_and_the_labels_it_was_made_with() -> None:
    log = MemoryLog()
    async with emitter_for(log, user_id="alice", run_id="r1", thread_id="t1", metrics=Metrics()) as emitter:
        assert emitter.user_id == "alice"
        await emitter.emit("t", {"n": 1})
        await emitter.emit("t", {"n": 2}, run_id="r2")
    assert [(e["user_id"], e["run_id"], e["thread_id"]) for e in await events_of(log, "alice")] == [
        ("alice", "r1", "t1"),
        ("alice", "r2", "t1"),
    ]


async def test_it_validates_as_the_emitter_of_a_manager_does() -> None:
    async with emitter_for(MemoryLog(), "alice", limits=Limits(event_bytes=1_000), metrics=Metrics()) as emitter:
        for event_type, data in (("connected", {}), ("t", {"at": object()}), ("t", {"text": "x" * 1_000})):
            with pytest.raises(InvalidEvent):
                await emitter.emit(event_type, data)
        with pytest.raises(UnknownConnection):
            await emitter.emit("t", {}, connection_id="never")
        with pytest.raises(InvalidInput):
            await emitter.emit("t", {}, connection_id=7)  # type: ignore[arg-type]
        assert (await emitter.emit("t", {})).offset == 1


async def test_leaving_the_block_waits_for_what_was_begun_and_refuses_what_comes_later() -> None:
    log = TroubledLog()
    log.trouble = "hang"
    block = emitter_for(log, "alice", metrics=Metrics())
    emitter = await block.__aenter__()
    begun = asyncio.create_task(emitter.emit("t", {"n": 1}))
    await until(lambda: log.attempts, "the attempt")
    leaving = asyncio.create_task(block.__aexit__())
    await asyncio.sleep(0.02)
    assert not leaving.done()
    log.recover()
    await leaving
    assert (await begun).offset == 1
    with pytest.raises(ManagerClosed):
        await emitter.emit("t", {"n": 2})
    assert len(await events_of(log, "alice")) == 1


async def test_leaving_ends_in_time_when_the_log_hangs_and_what_was_begun_never_reaches_a_closed_log() -> None:
    log = TroubledLog()
    log.plan.append("refuse")
    retry = RetryPolicy(attempts=3, initial=0.4, maximum=0.4, seconds=5.0)
    block = emitter_for(log, "alice", limits=Limits(shutdown_timeout=0.05), retry=retry, metrics=Metrics())
    emitter = await block.__aenter__()
    begun = asyncio.create_task(emitter.emit("t", {"n": 1}, event_id="e1"))
    await until(lambda: log.attempts, "the attempt")
    async with asyncio.timeout(2.0):
        await block.__aexit__()
    with pytest.raises(AppendFailed) as failed:
        await begun
    assert failed.value.event_id == "e1"
    assert log.attempts == ["e1"], "a log that was closed was asked again"


async def test_a_worker_serves_many_users_and_keeps_them_apart() -> None:
    log = MemoryLog()
    async with Worker(log, metrics=Metrics()) as worker:
        for number in range(10):
            await worker.emitter(f"user{number % 2}").emit("t", {"n": number})
    for user in (0, 1):
        assert [event["data"]["n"] for event in await events_of(log, f"user{user}")] == list(range(user, 10, 2))


async def test_threads_of_an_async_worker_emit_as_those_of_a_manager() -> None:
    log = MemoryLog()
    async with Worker(log, metrics=Metrics()) as worker:
        emitter = worker.emitter("alice").sync
        await asyncio.to_thread(emitter.emit, "t", {"n": 1})
        emitter.post("t", {"n": 2})
    assert [event["data"]["n"] for event in await events_of(log, "alice")] == [1, 2]


def test_a_worker_works_in_one_loop_after_another() -> None:
    log = MemoryLog()
    worker = Worker(log, metrics=Metrics())

    async def once(number: int) -> None:
        async with worker:
            await worker.emitter("alice").emit("t", {"n": number})

    for number in range(3):
        asyncio.run(once(number))
    assert numbers(log, "alice") == [0, 1, 2]


# -- for code that cannot await


def test_the_block_for_threads_flushes_what_was_posted_and_leaves_no_thread() -> None:
    log = MemoryLog()
    with emitter_for(log, "alice", run_id="r1", metrics=Metrics()) as emitter:
        assert our_threads() == ["websocket_core worker"]
        for number in range(200):
            emitter.post("t", {"n": number})
    assert not our_threads()
    assert numbers(log, "alice") == list(range(200))
    with pytest.raises(ManagerClosed):
        emitter.emit("t", {})


def test_an_error_in_the_block_leaves_no_thread_either_and_is_not_swallowed() -> None:
    log = MemoryLog()

    def failing() -> None:
        with emitter_for(log, "alice", metrics=Metrics()) as emitter:
            emitter.post("t", {"n": 1})
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert not our_threads()
    assert numbers(log, "alice") == [1]


def test_a_worker_starts_nothing_before_it_is_used_and_ends_what_it_started() -> None:
    log = MemoryLog()
    worker = SyncWorker(log, metrics=Metrics())
    assert not our_threads()
    worker.emitter("alice").emit("t", {"n": 1})
    worker.emitter("bob").emit("t", {"n": 2})
    assert our_threads() == ["websocket_core worker"]
    worker.close()
    worker.close()
    assert not our_threads()
    with pytest.raises(ManagerClosed):
        worker.emitter("alice")
    with worker:
        worker.emitter("alice").emit("t", {"n": 3})
    assert not our_threads()
    assert numbers(log, "alice") == [1, 3]


def test_threads_that_use_it_first_at_the_same_time_share_one_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    enter = Worker.__aenter__

    async def slowly(self: Worker) -> Worker:
        await asyncio.sleep(0.05)
        return await enter(self)

    monkeypatch.setattr(Worker, "__aenter__", slowly)
    log = MemoryLog()
    worker = SyncWorker(log, metrics=Metrics())
    begin = threading.Barrier(8)

    def task(number: int) -> None:
        begin.wait()
        worker.emitter(f"user{number}").emit("t", {"n": number})

    threads = [threading.Thread(target=task, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert our_threads() == ["websocket_core worker"]
    worker.close()
    assert [numbers(log, f"user{number}") for number in range(8)] == [[number] for number in range(8)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_inside_the_block_leaves_the_thread_of_the_parent_alone() -> None:
    """In a subprocess, since a test process has threads of its own."""
    import subprocess
    import sys

    code = f"""
import sys; sys.path[:0] = {sys.path!r}
import os
from websocket_core import emitter_for
from websocket_core.errors import ManagerClosed
from websocket_core.logs.memory import MemoryLog

with emitter_for(MemoryLog(), "alice") as emitter:
    emitter.emit("t", {{}})
    pid = os.fork()
    if pid == 0:
        try:
            emitter.emit("t", {{}})
        except ManagerClosed:
            print("refused in the child", flush=True)
    else:
        assert os.waitpid(pid, 0)[1] == 0
        assert emitter.emit("t", {{}}).offset == 2
        print("goes on in the parent", flush=True)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["refused in the child", "goes on in the parent"]
