"""Promise: what threads emit arrives as if it had been emitted on the loop, and every call ends.

Each thread's events stand in its user's log in the order of its calls, once each, and nobody else reads them. A call
returns a position or raises within its time, whatever the log and the loop do. What returned a position is delivered.

The ledger that the clients are compared with is written by the threads alone: who called what, and what came of it.
"""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support import Tab, TroubledLog, a_manager, events_of, until
from websocket_core.errors import AppendFailed, ManagerClosed
from websocket_core.events import Event
from websocket_core.identity import LogName
from websocket_core.limits import Limits, Retention, RetryPolicy
from websocket_core.log import LogStore, Position
from websocket_core.logs.memory import MemoryLog
from websocket_core.sync_emitter import SyncEmitter
from websocket_core.testing import FailingLog, SuspendingLog
from websocket_core.unified_manager import UnifiedWebSocketManager

USERS = ("alice", "bob", "carol", "dave")
MANY = Retention(events=100_000, bytes=1_000_000_000)


@dataclass
class Thread:
    """One thread of one user, and its page of the ledger. Only that thread writes it."""

    number: int
    user_id: str
    sync: SyncEmitter
    returned: list[int] = field(default_factory=list)
    """The `n` of each call that returned a position, in the order of the calls."""
    offsets: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    """The `n` of each call whose outcome is unknown."""
    longest: float = 0.0

    def data(self, n: int) -> dict[str, Any]:
        return {"thread": self.number, "n": n, "of": self.user_id}

    def emit(self, n: int) -> None:
        started = time.monotonic()
        try:
            self.offsets.append(self.sync.emit("work", self.data(n), event_id=f"t{self.number}-{n}").offset)
            self.returned.append(n)
        finally:
            self.longest = max(self.longest, time.monotonic() - started)

    def insist(self, n: int) -> None:
        """Emit, with the same id, until a position is returned."""
        while True:
            try:
                return self.emit(n)
            except AppendFailed:
                self.failed.append(n)


def threads_of(manager: UnifiedWebSocketManager, count: int) -> list[Thread]:
    """So many threads, dealt out to the users in turn."""
    return [
        Thread(number, user_id, manager.get_emitter(user_id).sync)
        for number, user_id in ((number, USERS[number % len(USERS)]) for number in range(count))
    ]


async def run_all(threads: list[Thread], work: Callable[[Thread], None]) -> None:
    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(len(threads))
    try:
        await asyncio.gather(*(loop.run_in_executor(pool, work, thread) for thread in threads))
    finally:
        pool.shutdown(wait=False)  # waiting would block the loop that the threads wait for


def check(user_id: str, events: list[dict[str, Any]], threads: list[Thread]) -> None:
    """The user's events are what the ledger says: nobody else's, each once, in the order of each thread's calls."""
    mine = {thread.number: thread for thread in threads if thread.user_id == user_id}
    seen: dict[int, list[int]] = {number: [] for number in mine}
    for event in events:
        data = event["data"]
        assert (event["user_id"], data["of"]) == (user_id, user_id)
        seen[data["thread"]].append(data["n"])
    for number, thread in mine.items():
        assert seen[number] == sorted(set(seen[number])), f"thread {number} is out of order, or doubled"
        unsure = set(thread.failed)
        assert [n for n in seen[number] if n not in unsure] == [n for n in thread.returned if n not in unsure]
        assert set(thread.returned) <= set(seen[number]), f"a position was returned for what is not there: {number}"
        assert thread.offsets == sorted(thread.offsets)


@pytest.mark.parametrize("make_log", [MemoryLog, lambda retention: SuspendingLog(MemoryLog(retention))])
async def test_sixteen_threads_of_four_users_lose_double_and_mix_up_nothing(
    make_log: Callable[[Retention], LogStore],
) -> None:
    async with a_manager(make_log(MANY)) as manager:
        threads = threads_of(manager, 16)
        tabs = {user_id: await Tab.open(manager, user_id, v1=user_id in ("alice", "bob")) for user_id in USERS}

        def work(thread: Thread) -> None:
            for n in range(500):
                thread.emit(n)

        await run_all(threads, work)
        for user_id, tab in tabs.items():
            check(user_id, await tab.has(4 * 500, 20), threads)
        assert [thread.returned for thread in threads] == [list(range(500))] * 16
        assert len(manager.hand_overs) == 0


async def test_what_is_posted_and_what_is_emitted_keep_their_order() -> None:
    """Also while the loop's own emitters and the log's troubles come between."""
    log = TroubledLog(MANY)
    plan = random.Random(4)
    async with a_manager(log, retry=RetryPolicy(attempts=50, initial=0.0005, maximum=0.001)) as manager:
        threads = threads_of(manager, 8)
        log.plan.extend(plan.choices(["none", "refuse", "lose"], [20, 1, 1], k=2_000))
        tabs = {user_id: await Tab.open(manager, user_id) for user_id in USERS}

        def work(thread: Thread) -> None:
            choose = random.Random(thread.number)
            for n in range(100):
                if choose.random() < 0.7:
                    thread.sync.post("work", thread.data(n))
                    thread.returned.append(n)
                else:
                    thread.emit(n)

        await run_all(threads, work)
        for user_id, tab in tabs.items():
            check(user_id, await tab.has(2 * 100, 20), threads)


async def test_a_log_in_trouble_loses_and_doubles_nothing_for_threads_that_insist() -> None:
    """Appends are refused and replies are lost, more often than there are attempts; the same id is emitted again."""
    log = TroubledLog(MANY)
    plan = random.Random(7)
    async with a_manager(log, retry=RetryPolicy(attempts=2, initial=0.0005, maximum=0.001)) as manager:
        threads = threads_of(manager, 8)
        log.plan.extend(plan.choices(["none", "refuse", "lose"], k=3_000))
        tabs = {user_id: await Tab.open(manager, user_id) for user_id in USERS}

        def work(thread: Thread) -> None:
            for n in range(100):
                thread.insist(n)

        await run_all(threads, work)
        assert sum(len(thread.failed) for thread in threads) > 50, "the trouble did not land"
        for thread in threads:
            assert thread.returned == list(range(100))
        for user_id, tab in tabs.items():
            check(user_id, await tab.has(2 * 100, 20), threads)
            assert [(event["data"]["thread"], event["data"]["n"]) for event in await events_of(log, user_id)] == [
                (event["data"]["thread"], event["data"]["n"]) for event in tab.events
            ]


@pytest.mark.parametrize("after", [0, 50, 400])
@pytest.mark.parametrize("suspends", [False, True])
async def test_a_shutdown_in_the_middle_answers_everybody_and_delivers_what_has_a_position(
    after: int, suspends: bool
) -> None:
    log: LogStore = SuspendingLog(MemoryLog(MANY), turns=3) if suspends else MemoryLog(MANY)
    manager = a_manager(log, limits=Limits(shutdown_timeout=20))
    async with manager:
        threads = threads_of(manager, 16)
        tabs = {user_id: await Tab.open(manager, user_id) for user_id in USERS}
        emitted = threading.Event()

        def work(thread: Thread) -> None:
            n = 0
            try:
                while True:
                    thread.emit(n)
                    n += 1
                    if sum(len(each.returned) for each in threads) >= after:
                        emitted.set()
            except AppendFailed:
                thread.failed.append(n)
            except ManagerClosed:
                emitted.set()

        working = asyncio.ensure_future(run_all(threads, work))
        await until(emitted.is_set)
        await manager.shutdown()
        await asyncio.wait_for(working, 10)
    assert sum(len(thread.returned) for thread in threads) >= after
    for user_id, tab in tabs.items():
        await tab.ended()
        check(user_id, tab.events, threads)
    assert max(thread.longest for thread in threads) < 10


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_ends_without_a_shutdown_leaves_no_thread_waiting() -> None:
    """As when `asyncio.run` returns from an application that never entered the manager.

    What came in while the loop was being torn down is a task that never ran, and Python says so when it is collected;
    that belongs to such an end, and to this test, so it is collected here.
    """
    _end_a_loop_without_a_shutdown()
    gc.collect()


def _end_a_loop_without_a_shutdown() -> None:
    log = FailingLog(MemoryLog())
    manager = a_manager(log)
    caught: list[type[BaseException]] = []

    def work(sync: SyncEmitter) -> None:
        try:
            while True:
                sync.emit("work", {})
        except (AppendFailed, ManagerClosed) as error:
            caught.append(type(error))

    async def main() -> list[threading.Thread]:
        await manager.__aenter__()
        threads = [threading.Thread(target=work, args=(manager.get_emitter(user).sync,)) for user in USERS]
        for thread in threads:
            thread.start()
        await until(lambda: log.appends > 20)
        log.hang()
        return threads

    for thread in asyncio.run(main()):
        thread.join(5)
        assert not thread.is_alive()
    assert len(caught) == 4


async def test_a_call_that_was_given_up_and_is_made_again_with_its_id_is_there_once() -> None:
    """The log hangs longer than the call waits, in the first append or after it."""
    log = TroubledLog(MANY)
    async with a_manager(log, retry=RetryPolicy(attempts=1, seconds=0.05)) as manager:
        threads = threads_of(manager, 8)

        def work(thread: Thread) -> None:
            for n in range(3):
                thread.insist(n)

        log.trouble = "hang"
        working = asyncio.ensure_future(run_all(threads, work))
        await until(lambda: all(thread.failed for thread in threads))
        log.recover()
        await asyncio.wait_for(working, 10)
        for user_id in USERS:
            events = await events_of(log, user_id)
            check(user_id, events, threads)
            assert len(events) == 2 * 3
        await until(lambda: len(manager.hand_overs) == 0)


async def test_a_user_whose_log_hangs_holds_up_no_other_users_threads() -> None:
    class AlicesHangs(MemoryLog):
        def __init__(self) -> None:
            super().__init__(MANY)
            self.well = asyncio.Event()

        async def append(self, log: LogName, event: Event) -> Position:
            if log.name == "alice":
                await self.well.wait()
            return await super().append(log, event)

    log = AlicesHangs()
    async with a_manager(log, limits=Limits(outbox=4)) as manager:
        threads = threads_of(manager, 32)

        def work(thread: Thread) -> None:
            for n in range(20):
                thread.emit(n)

        working = asyncio.ensure_future(run_all(threads, work))
        others = [thread for thread in threads if thread.user_id != "alice"]
        await until(lambda: all(len(thread.returned) == 20 for thread in others), seconds=10)
        assert not any(thread.returned for thread in threads if thread.user_id == "alice")
        log.well.set()
        await working
        check("alice", await events_of(log, "alice"), threads)


async def test_a_loop_that_stalls_costs_time_and_nothing_else() -> None:
    log = MemoryLog(MANY)
    async with a_manager(log) as manager:
        threads = threads_of(manager, 8)

        def work(thread: Thread) -> None:
            for n in range(50):
                thread.emit(n)

        working = asyncio.ensure_future(run_all(threads, work))
        for _ in range(3):
            await until(lambda: len(manager.hand_overs) > 0 or working.done())
            threading.Event().wait(0.3)  # on the loop, on purpose
        await working
        for user_id in USERS:
            check(user_id, await events_of(log, user_id), threads)
        assert all(len(thread.returned) == 50 for thread in threads)
