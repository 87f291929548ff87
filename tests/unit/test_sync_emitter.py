"""`emitter.sync` and the hand-over behind it: the same events, labels and errors as the emitter's, from a thread.

The loop that serves runs in a thread of its own where a test has to stop it, block it, or close it.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import pytest

from bridge import UserExecutionContext
from tests.support import FakeSocket, Tab, a_manager, events_of, quick_retry, turns, until
from tests.unit.test_unified_emitter import METHODS, NAMES
from websocket_core.errors import (
    AppendFailed,
    InvalidEvent,
    InvalidInput,
    ManagerClosed,
    UnknownConnection,
    WrongEventLoop,
)
from websocket_core.events import Event, EventEncoder, owner_part
from websocket_core.identity import LogName, UserId
from websocket_core.limits import Limits, RetryPolicy
from websocket_core.log import LogStore, Position
from websocket_core.logs.memory import MemoryLog
from websocket_core.sync_emitter import SyncEmitter
from websocket_core.testing import FailingLog, SuspendingLog
from websocket_core.unified_emitter import UnifiedWebSocketEmitter


class Serving:
    """A manager whose loop runs in another thread than the test's."""

    def __init__(self, log: LogStore | None = None, *, limits: Limits | None = None, seconds: float = 5.0) -> None:
        self.log = log or MemoryLog()
        self.manager = a_manager(self.log, limits=limits, retry=RetryPolicy(seconds=seconds))
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self._unblock = threading.Event()
        self.thread.start()
        self.run(self.manager.__aenter__())
        self.sync = self.manager.get_emitter("alice").sync

    def run(self, main: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(main, self.loop).result(10)

    def block(self) -> None:
        """Let the loop stand still."""
        blocked = threading.Event()
        self.loop.call_soon_threadsafe(blocked.set)
        self.loop.call_soon_threadsafe(self._unblock.wait, 20)
        assert blocked.wait(5)

    def unblock(self) -> None:
        self._unblock.set()

    def stop(self) -> None:
        """Stop the loop, without a shutdown."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)

    def types(self, user_id: str = "alice") -> list[str]:
        return [event["type"] for event in self.run(events_of(self.log, user_id))]

    def end(self) -> None:
        self.unblock()
        if self.thread.is_alive():
            self.run(self.manager.shutdown())
            self.stop()
        if not self.loop.is_closed():
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
            self.loop.close()


@contextmanager
def serving(log: LogStore | None = None, **options: Any) -> Iterator[Serving]:
    served = Serving(log, **options)
    try:
        yield served
    finally:
        served.end()


def wait_until(condition: Callable[[], object]) -> None:
    """The same as `until`, in a thread."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.001)


def post_many(sync: SyncEmitter, count: int) -> None:
    for _ in range(count):
        sync.post("x", {})


# -- the same as the emitter


@pytest.mark.parametrize(("name", "arguments", "event_type", "data"), METHODS, ids=NAMES)
async def test_a_method_does_in_a_thread_what_the_emitters_does(
    name: str, arguments: tuple[Any, ...], event_type: str, data: dict[str, Any]
) -> None:
    log = MemoryLog()
    async with a_manager(log, clock=lambda: 1_795_000_000.5) as manager:
        emitter = manager.get_emitter("alice")
        emit: Callable[..., Position] = getattr(emitter.sync, name)
        labels = {"run_id": "r1", "thread_id": "t1"}
        position = await asyncio.to_thread(emit, *arguments, event_id="e1", **labels)
        twin = await getattr(emitter, name)(*arguments, event_id="e2", **labels)
        bare = await asyncio.to_thread(emit, *arguments)
        first, second, third = await events_of(log, "alice")
        assert isinstance(position, Position)
        assert [each.offset for each in (position, twin, bare)] == [1, 2, 3]
        assert (first["type"], first["data"], first["id"]) == (event_type, data, "e1")
        assert first | {"id": "e2"} == second
        assert not {"run_id", "thread_id"} & third.keys()


@pytest.mark.parametrize(
    ("name", "arguments", "event_type", "data"),
    [method for method in METHODS if method[0].startswith("notify_") and method[0] != "notify_custom"],
)
async def test_extra_keys_replace_nothing(
    name: str, arguments: tuple[Any, ...], event_type: str, data: dict[str, Any]
) -> None:
    log = MemoryLog()
    async with a_manager(log) as manager:
        extra = {"type": "ping", "user_id": "bob", "more": [1]}
        await asyncio.to_thread(getattr(manager.get_emitter("alice").sync, name), *arguments, **extra)
        (event,) = await events_of(log, "alice")
        assert (event["type"], event["user_id"], event["data"]) == (event_type, "alice", extra | data)


async def test_the_labels_of_the_context_are_used() -> None:
    log = MemoryLog()
    async with a_manager(log) as manager:
        emitter = UnifiedWebSocketEmitter(manager, "alice", UserExecutionContext("alice", "r1", "t1"))
        assert emitter.sync.user_id == "alice"
        await asyncio.to_thread(emitter.sync.emit, "x", {})
        await asyncio.to_thread(emitter.sync.post, "x", {}, run_id="r2")
        await asyncio.to_thread(emitter.sync.emit, "x", {})
        labels = [(event["run_id"], event["thread_id"]) for event in await events_of(log, "alice")]
        assert labels == [("r1", "t1"), ("r2", "t1"), ("r1", "t1")]


async def test_what_threads_emit_is_counted_by_the_emitter() -> None:
    async with a_manager() as manager:
        emitter = manager.get_emitter("alice")
        await asyncio.to_thread(emitter.sync.emit, "x", {})
        await emitter.emit("x", {})
        assert emitter.get_stats()["event_counts"] == {"x": 2}


async def test_only_the_connection_that_is_named_reads_the_event() -> None:
    async with a_manager() as manager:
        tab, other = await Tab.open(manager, "alice", "tab"), await Tab.open(manager, "alice", "other")
        sync = manager.get_emitter("alice").sync
        await asyncio.to_thread(sync.emit, "x", {"n": 1}, connection_id="tab")
        await asyncio.to_thread(sync.emit, "x", {"n": 2})
        await tab.has(2)
        await other.has(1)
        assert (tab.numbers, other.numbers) == ([1, 2], [2])
        with pytest.raises(UnknownConnection):
            await asyncio.to_thread(sync.emit, "x", {}, connection_id="nobody's")
        with pytest.raises(InvalidInput):
            await asyncio.to_thread(sync.emit, "x", {}, connection_id=1)  # type: ignore[arg-type]


async def test_holding_it_keeps_the_emitter_and_nothing_else_does() -> None:
    """No reference cycle: the emitter goes when the last user lets it go, not at a collection."""
    gc.disable()
    try:
        async with a_manager() as manager:
            sync = manager.get_emitter("alice").sync
            await asyncio.to_thread(sync.emit, "x", {})
            assert manager.get_stats()["active_emitters"] == 1
            del sync
            await until(lambda: manager.get_stats()["active_emitters"] == 0)
    finally:
        gc.enable()


# -- errors


@pytest.mark.parametrize("method", ["emit", "post"])
@pytest.mark.parametrize(("event_type", "data"), [("ping", {}), ("x", {"at": object()}), ("x", [])])
def test_a_bad_event_is_refused_before_anything_is_handed_over(method: str, event_type: str, data: Any) -> None:
    """In the calling thread: the loop, which stands still, has no part in it."""
    with serving() as served:
        served.block()
        with pytest.raises(InvalidEvent):
            getattr(served.sync, method)(event_type, data)
        assert len(served.manager.hand_overs) == 0


async def test_a_call_on_the_loops_own_thread_is_refused_and_says_what_to_do() -> None:
    log = MemoryLog()
    async with a_manager(log) as manager:
        with pytest.raises(WrongEventLoop, match=r"await emitter\.emit.*to_thread"):
            manager.get_emitter("alice").sync.emit("x", {})
        assert await events_of(log, "alice") == []


@pytest.mark.parametrize("method", ["emit", "post"])
async def test_a_manager_that_was_not_started_says_how_to_start_it(method: str) -> None:
    manager = a_manager()
    with pytest.raises(ManagerClosed, match=r"async with manager.*lifespan"):
        await asyncio.to_thread(getattr(manager.get_emitter("alice").sync, method), "x", {})


@pytest.mark.parametrize("method", ["emit", "post"])
async def test_a_manager_that_was_shut_down_takes_nothing(method: str) -> None:
    async with a_manager() as manager:
        sync = manager.get_emitter("alice").sync
    with pytest.raises(ManagerClosed, match="shut down"):
        await asyncio.to_thread(getattr(sync, method), "x", {})
    with pytest.raises(ManagerClosed):
        getattr(sync, method)("x", {})


@pytest.mark.parametrize("method", ["emit", "post"])
def test_a_loop_that_was_closed_takes_nothing(method: str) -> None:
    with serving() as served:
        served.stop()
        with pytest.raises(ManagerClosed):
            getattr(served.sync, method)("x", {})
        served.end()
        with pytest.raises(ManagerClosed):
            getattr(served.sync, method)("x", {})


@pytest.mark.parametrize("method", ["emit", "post"])
def test_a_forked_process_has_no_loop(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It inherits one that looks as if it ran; a queue that nobody empties would swallow the event."""
    with serving() as served:
        monkeypatch.setattr("os.getpid", lambda: -1)
        with pytest.raises(ManagerClosed, match="in this process"):
            getattr(served.sync, method)("x", {})


async def test_an_append_that_fails_is_the_same_error_as_the_emitters() -> None:
    log = FailingLog(MemoryLog())
    async with a_manager(log, retry=quick_retry(3)) as manager:
        log.fail_appends(3)
        with pytest.raises(AppendFailed) as caught:
            await asyncio.to_thread(manager.get_emitter("alice").sync.emit, "x", {}, event_id="e1")
        assert (caught.value.event_id, caught.value.attempts, log.appends) == ("e1", 3, 3)


async def test_an_error_of_the_backend_itself_reaches_the_caller() -> None:
    class Broken(MemoryLog):
        async def append(self, log: LogName, event: Event) -> Position:
            raise ZeroDivisionError

    async with a_manager(Broken()) as manager:
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(manager.get_emitter("alice").sync.emit, "x", {})


# -- every wait ends


def test_a_log_that_hangs_is_waited_for_twice_as_long_as_the_retry_policy_says() -> None:
    log = FailingLog(MemoryLog())
    with serving(log, seconds=0.2) as served:
        served.run(_call(log.hang))
        started = time.monotonic()
        with pytest.raises(AppendFailed) as caught:
            served.sync.emit("x", {}, event_id="e1")
        assert 0.4 <= time.monotonic() - started < 3
        assert caught.value.event_id == "e1"
        wait_until(lambda: len(served.manager.hand_overs) == 0)
        served.run(_call(log.release))
        assert served.sync.emit("x", {}, event_id="e1").offset == 1
        assert served.types() == ["x"]


async def _call(function: Callable[[], object]) -> None:
    function()


def test_what_was_given_up_before_the_loop_took_it_is_never_begun() -> None:
    log = FailingLog(MemoryLog())
    with serving(log, seconds=0.1) as served:
        served.block()
        with pytest.raises(AppendFailed):
            served.sync.emit("x", {})
        assert len(served.manager.hand_overs) == 0
        served.unblock()
        served.sync.emit("y", {})
        assert served.types() == ["y"]
        assert log.appends == 1


def test_a_loop_that_stops_meanwhile_is_noticed_long_before_the_time_out() -> None:
    log = FailingLog(MemoryLog())
    with serving(log, seconds=1_000.0) as served:
        served.run(_call(log.hang))
        caught: list[BaseException] = []

        def emit() -> None:
            try:
                served.sync.emit("x", {}, event_id="e1")
            except AppendFailed as error:
                caught.append(error)

        caller = threading.Thread(target=emit)
        caller.start()
        wait_until(lambda: log.appends)
        served.stop()
        caller.join(5)
        assert not caller.is_alive()
        assert [type(error.__cause__) for error in caught] == [ManagerClosed]


async def test_a_shutdown_answers_who_waits_for_a_log_that_hangs() -> None:
    log = FailingLog(MemoryLog())
    async with a_manager(log, limits=Limits(shutdown_timeout=0.05)) as manager:
        log.hang()
        call = asyncio.ensure_future(asyncio.to_thread(manager.get_emitter("alice").sync.emit, "x", {}))
        await until(lambda: log.appends)
        await manager.shutdown()
        with pytest.raises(AppendFailed):
            await asyncio.wait_for(call, 5)
        assert len(manager.hand_overs) == 0


async def test_a_shutdown_waits_for_the_append_of_a_thread_and_delivers_it() -> None:
    log = FailingLog(MemoryLog())
    async with a_manager(log) as manager:
        tab = await Tab.open(manager, "alice")
        await tab.greeted()
        log.hang()
        call = asyncio.ensure_future(asyncio.to_thread(manager.get_emitter("alice").sync.emit, "x", {}))
        await until(lambda: log.appends)
        ending = asyncio.ensure_future(manager.shutdown())
        await turns()
        assert not ending.done()
        log.release()
        assert (await asyncio.wait_for(call, 5)).offset == 1
        await ending
        await tab.ended()
        assert len(tab.events) == 1


async def test_a_loop_whose_tasks_are_all_cancelled_takes_no_more() -> None:
    """So `asyncio.run` ends. A new task would be left behind with the loop."""
    log = FailingLog(MemoryLog())
    async with a_manager(log) as manager:
        sync = manager.get_emitter("alice").sync
        log.hang()
        call = asyncio.ensure_future(asyncio.to_thread(sync.emit, "x", {}))
        await until(lambda: log.appends)
        for task in asyncio.all_tasks():
            if "hand-over" in task.get_name():
                task.cancel()
        with pytest.raises(AppendFailed):
            await asyncio.wait_for(call, 5)
        with pytest.raises(ManagerClosed):
            await asyncio.to_thread(sync.emit, "x", {})


async def test_a_backend_that_lets_a_cancellation_of_its_own_escape_ends_one_call_only() -> None:
    class Leaking(MemoryLog):
        async def append(self, log: LogName, event: Event) -> Position:
            if event.id == "e1":
                raise asyncio.CancelledError
            return await super().append(log, event)

    async with a_manager(Leaking()) as manager:
        sync = manager.get_emitter("alice").sync
        with pytest.raises(AppendFailed):
            await asyncio.to_thread(sync.emit, "x", {}, event_id="e1")
        assert (await asyncio.to_thread(sync.emit, "x", {})).offset == 1


def test_a_manager_that_moved_to_another_loop_is_served_there() -> None:
    manager = a_manager()

    async def use() -> Position:
        await manager.__aenter__()
        return await asyncio.to_thread(manager.get_emitter("alice").sync.emit, "x", {})

    first, second = asyncio.run(use()), asyncio.run(use())
    assert (first.offset, second.offset) == (1, 2)


async def test_a_manager_that_is_started_again_takes_events_again() -> None:
    async with a_manager() as manager:
        sync = manager.get_emitter("alice").sync
    async with manager:
        assert (await asyncio.to_thread(sync.emit, "x", {})).offset == 1


# -- bounds


@pytest.mark.parametrize("limits", [Limits(outbox=3), Limits(outbox_bytes=300)], ids=["count", "bytes"])
def test_a_thread_waits_when_too_much_waits_for_the_loop(limits: Limits) -> None:
    with serving(limits=limits, seconds=0.1) as served:
        for _ in range(10):
            served.sync.emit("before", {})  # and gives back the room that it took
        served.block()
        handed = 0
        with suppress(AppendFailed):
            while handed < 50:
                served.sync.post(f"x{handed}", {})
                handed += 1
        assert 1 < handed <= 3
        assert len(served.manager.hand_overs) == handed
        served.unblock()
        wait_until(lambda: len(served.types()) == 10 + handed)
        served.sync.emit("last", {})
        assert served.types()[10:] == [*(f"x{number}" for number in range(handed)), "last"]


def test_who_waited_for_room_goes_on_as_soon_as_there_is_some() -> None:
    with serving(limits=Limits(outbox=2), seconds=30.0) as served:
        served.block()
        poster = threading.Thread(target=post_many, args=(served.sync, 6))
        poster.start()
        wait_until(lambda: len(served.manager.hand_overs) == 2)
        served.unblock()
        poster.join(5)
        assert not poster.is_alive()


def test_who_waits_for_room_learns_of_a_shutdown() -> None:
    with serving(limits=Limits(outbox=1), seconds=30.0) as served:
        caught: list[str] = []

        def post() -> None:
            try:
                while True:
                    served.sync.post("x", {})
            except ManagerClosed as error:
                caught.append(str(error))

        served.block()
        stopped = asyncio.run_coroutine_threadsafe(served.manager.shutdown(), served.loop)
        posters = [threading.Thread(target=post) for _ in range(4)]
        for poster in posters:
            poster.start()
        wait_until(lambda: len(served.manager.hand_overs) == 1)
        served.unblock()
        stopped.result(5)
        for poster in posters:
            poster.join(5)
        assert len(caught) == 4


async def test_a_flood_of_posts_leaves_the_loop_its_turns() -> None:
    """No more of them in one turn than a producer on the loop would append."""
    taken: list[int] = []
    async with a_manager(limits=Limits(outbox=2_000)) as manager:
        sync = manager.get_emitter("alice").sync
        poster = threading.Thread(target=post_many, args=(sync, 1_000))
        poster.start()
        poster.join(10)  # blocks the loop on purpose
        assert len(manager.hand_overs) == 1_000
        while len(manager.hand_overs):
            taken.append(len(manager.hand_overs))
            await asyncio.sleep(0)
        assert max(before - after for before, after in itertools.pairwise(taken)) <= 64


# -- post


async def test_post_keeps_its_place_before_what_the_same_thread_emits_later() -> None:
    """Also while the log is away: what was posted waits in the outbox, and the emit waits behind it."""
    log = FailingLog(MemoryLog())
    async with a_manager(log) as manager:
        sync = manager.get_emitter("alice").sync

        def work() -> None:
            for number in range(5):
                sync.post(f"posted-{number}", {})
            sync.emit("emitted", {})

        log.fail_appends(3)
        await asyncio.to_thread(work)
        types = [event["type"] for event in await events_of(log, "alice")]
        assert types == [*(f"posted-{number}" for number in range(5)), "emitted"]


async def test_post_says_nothing_about_a_log_that_is_away() -> None:
    log = FailingLog(MemoryLog())
    async with a_manager(log, limits=Limits(outbox=2)) as manager:
        log.hang()
        sync = manager.get_emitter("alice").sync
        for number in range(5):
            await asyncio.to_thread(sync.post, f"x{number}", {})
            await until(lambda: len(manager.hand_overs) == 0)
        log.release()
        await until(lambda: len(manager.outbox("alice")) == 0)
        types = [event["type"] for event in await events_of(log, "alice")]
        assert types == ["x0", "x1", "events_dropped"]


async def test_post_works_on_the_loops_own_thread() -> None:
    log = MemoryLog()
    async with a_manager(log) as manager:
        manager.get_emitter("alice").sync.post("x", {"n": 1})
        manager.get_emitter("alice").sync.post("y", {"n": 2})
    assert [event["type"] for event in await events_of(log, "alice")] == ["x", "y"]


async def test_what_was_posted_before_a_shutdown_is_delivered() -> None:
    async with a_manager(SuspendingLog(MemoryLog())) as manager:
        alice, bob = FakeSocket(), FakeSocket()
        await manager.connect_user(alice, "alice")
        await manager.connect_user(bob, "bob")
        for user_id, count in (("alice", 100), ("bob", 300)):
            poster = threading.Thread(target=post_many, args=(manager.get_emitter(user_id).sync, count))
            poster.start()
            poster.join(10)  # all of it is queued, and the loop has seen none
        await manager.shutdown()
    assert (len(alice.events), len(bob.events)) == (100, 300)


# -- threads share what is behind it


async def test_no_identity_travels_with_the_thread_that_wakes_the_loop() -> None:
    """A context variable of the calling thread may be another user's; the log must not run under it."""
    who: ContextVar[str] = ContextVar("who", default="nobody")
    seen: list[str] = []

    class Looking(MemoryLog):
        async def append(self, log: LogName, event: Event) -> Position:
            seen.append(who.get())
            return await super().append(log, event)

    async with a_manager(Looking()) as manager:
        who.set("bob")
        sync = manager.get_emitter("alice").sync
        await asyncio.to_thread(sync.post, "x", {})
        await asyncio.to_thread(sync.emit, "x", {})
    assert seen == ["nobody", "nobody"]


def test_ids_of_many_threads_are_all_different() -> None:
    encoder = EventEncoder(event_bytes=1_000, event_depth=5)
    found: list[list[str]] = [[] for _ in range(8)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [
            threading.Thread(target=lambda ids: ids.extend(encoder.new_id() for _ in range(2_000)), args=(ids,))
            for ids in found
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    finally:
        sys.setswitchinterval(before)
    assert len({event_id for ids in found for event_id in ids}) == 16_000


def test_a_second_that_begins_in_two_threads_at_once_has_the_right_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """The remembered second and its text change together: here another event is encoded right between the two."""
    now = 1_795_000_000.5
    encoder = EventEncoder(event_bytes=1_000, event_depth=5, clock=lambda: now)
    owner = owner_part(UserId("alice"))
    encoder.encode("x", {}, owner)
    between: list[bytes] = []
    gmtime = time.gmtime

    def interrupted(second: float) -> time.struct_time:
        monkeypatch.setattr("time.gmtime", gmtime)
        between.append(encoder.encode("x", {}, owner, event_id="e").body)
        return gmtime(second)

    monkeypatch.setattr("time.gmtime", interrupted)
    now += 1.0
    assert encoder.encode("x", {}, owner, event_id="e").body == between[0]
    assert b"T11:06:41.5" in between[0]


async def test_two_managers_in_two_loops_do_not_meet() -> None:
    """A thread that runs a loop of its own may call the other loop's emitter."""
    async with a_manager() as here:

        async def elsewhere() -> tuple[int, int]:
            async with a_manager() as there:
                mine = await asyncio.to_thread(there.get_emitter("alice").sync.emit, "x", {})
                here.get_emitter("alice").sync.emit("x", {})
                return mine.offset, here.get_emitter("alice").sync.emit("x", {}).offset

        assert await asyncio.to_thread(asyncio.run, elsewhere()) == (1, 2)
