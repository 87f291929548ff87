"""Promise: a task may be cancelled wherever it waits, and nothing is half done, lost, told twice or left behind.

Each operation is run once to count its suspensions, then again for each of them, and cancelled there. Every read and
append of the log, every look into the shared state and every move of a socket suspends before and after it takes
effect. After each cancellation an event is in the log wholly or not at all, emitting again with its id makes one
entry, a client that comes back with its last cursor gets exactly what it lacks, another user has noticed nothing,
the cancellation was not swallowed, and in the end no task, watcher, outbox or connection is left.

`test_no_await_is_left_out` compares the waits that were struck with the `await`s in the source.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import nullcontext, suppress
from functools import cache, partial
from types import MappingProxyType, TracebackType
from typing import Any, Final, NamedTuple, Self

import pytest
from starlette.routing import Route, WebSocketRoute

from tests.cancelling import Scenario, Strike, Swept, awaits_in, sweep
from tests.support import (
    FakeSocket,
    Tab,
    TroubledLog,
    VirtualLoop,
    a_manager,
    decoded,
    entries_of,
    events_of,
    run_in_virtual_time,
    turns,
    until,
    virtual_time,
)
from websocket_core import availability
from websocket_core.appender import TURN
from websocket_core.auth import AuthRequest
from websocket_core.connection import WebSocketConnection
from websocket_core.control import CONTROL
from websocket_core.errors import (
    AppendFailed,
    AuthenticationFailed,
    AuthenticationUnavailable,
    ConnectionRefused,
    LogUnavailable,
    ManagerClosed,
)
from websocket_core.events import Event
from websocket_core.identity import LogName, Principal, UserId
from websocket_core.inbound import Peer
from websocket_core.limits import Limits, Retention, RetryPolicy
from websocket_core.log import Batch, Entry, GapReason, Position
from websocket_core.log_probe import check_chain
from websocket_core.logs.memory import MemoryLog
from websocket_core.outbound import CONTROL_FRAMES
from websocket_core.router import websocket_router
from websocket_core.state import MemoryState
from websocket_core.unified_emitter import UnifiedWebSocketEmitter
from websocket_core.wire import PROTOCOL

Record = Callable[[str, object], None]

ALICE: Final = LogName.of_user(UserId("alice"))
SWEEPER: Final = "websocket_core sweeper"
AVAILABILITY: Final = "websocket_core availability"

# -- what suspends


class AlicesLog(TroubledLog):
    """A log whose troubles are Alice's alone, which counts who watches it."""

    def __init__(self, retention: Retention | None = None) -> None:
        super().__init__(retention)
        self.watching = 0
        self.vanished: set[LogName] = set()
        self.well = asyncio.Event()
        """Set as long as nothing is the matter."""

    def recover(self) -> None:
        super().recover()
        self.well.set()

    async def read(self, log: LogName, after: Position | None, limit: int) -> Batch:
        if log in self.vanished:
            self.vanished.remove(log)
            await asyncio.sleep(0)
            return Batch(None, (), False, None if after is None else GapReason.NEW_EPOCH)
        if log == ALICE:
            return await super().read(log, after, limit)
        await asyncio.sleep(0)
        batch = await MemoryLog.read(self, log, after, limit)
        await asyncio.sleep(0)
        return batch

    async def vanish(self, log: LogName) -> None:
        """Begin the log anew, and let the next read find none."""
        await MemoryLog.forget(self, log)
        self.vanished.add(log)

    async def control(self, log: LogName) -> Entry | None:
        if log == ALICE:
            return await super().control(log)
        await asyncio.sleep(0)
        entry = await MemoryLog.control(self, log)
        await asyncio.sleep(0)
        return entry

    async def append(self, log: LogName, event: Event) -> Position:
        if log == ALICE:
            return await super().append(log, event)
        await asyncio.sleep(0)
        position = await MemoryLog.append(self, log, event)
        await asyncio.sleep(0)
        return position

    async def open(self, log: LogName) -> Position:
        await asyncio.sleep(0)
        if log == ALICE and self.unreadable:
            raise LogUnavailable("told to be unreadable")
        position = await MemoryLog.open(self, log)
        await asyncio.sleep(0)
        return position

    def watch(self, log: LogName, wake: Callable[[], None]) -> Callable[[], None]:
        self.watching += 1
        unwatch = super().watch(log, wake)
        watched = True

        def end() -> None:
            nonlocal watched
            self.watching -= watched
            watched = False
            unwatch()

        return end

    async def forget(self, log: LogName) -> None:
        await asyncio.sleep(0)
        await super().forget(log)
        await asyncio.sleep(0)

    async def expire(self) -> None:
        await asyncio.sleep(0)
        await super().expire()
        await asyncio.sleep(0)

    async def close(self) -> None:
        await asyncio.sleep(0)
        await super().close()
        await asyncio.sleep(0)


class CheckedLog(AlicesLog):
    """The same, and it can be away: then it says so when asked, Alice's reads hang, and her appends are refused."""

    def __init__(self, retention: Retention | None = None) -> None:
        super().__init__(retention)
        self.away = False
        self._returned = asyncio.Event()

    def go_away(self) -> None:
        self.away, self.trouble = True, "refuse"
        self._returned.clear()

    def recover(self) -> None:
        super().recover()
        self.away = False
        self._returned.set()

    async def check(self) -> None:
        await asyncio.sleep(0)
        if self.away:
            raise LogUnavailable("told to be away")
        await asyncio.sleep(0)

    async def read(self, log: LogName, after: Position | None, limit: int) -> Batch:
        if self.away and log == ALICE:
            await self._returned.wait()
        return await super().read(log, after, limit)


def suspending(inner: object) -> Any:
    """The same object, but each of its coroutine methods gives up the loop before and after it does its work."""

    class Suspending:
        def __getattr__(self, name: str) -> Any:
            method = getattr(inner, name)
            if not inspect.iscoroutinefunction(method):
                return method

            async def call(*args: Any, **kwargs: Any) -> Any:
                await asyncio.sleep(0)
                result = await method(*args, **kwargs)
                await asyncio.sleep(0)
                return result

            return call

    return Suspending()


class Line:
    """Where frames go out one after the other: a write that was begun and not finished leaves half a frame there."""

    def __init__(self) -> None:
        self.half = False
        self.faults: list[str] = []

    async def write(self, what: str, whole: Callable[[], Awaitable[None]]) -> None:
        if self.half:
            self.faults.append(f"{what} was written into a frame that was begun")
        await asyncio.sleep(0)
        self.half = True
        await asyncio.sleep(0)
        await whole()
        self.half = False
        await asyncio.sleep(0)


class SlowSocket(FakeSocket):
    """A client's socket on which everything takes its time. It still has to be accepted."""

    class _State:
        name = "CONNECTING"

    def __init__(self, *, subprotocol: str | None = None, answers_pings: bool = True) -> None:
        super().__init__(subprotocol=subprotocol, answers_pings=answers_pings)
        self.application_state = self._State()
        self.line = Line()

    async def accept(self) -> None:
        await asyncio.sleep(0)
        self.application_state.name = "CONNECTED"
        await asyncio.sleep(0)

    @property
    def left(self) -> bool:
        return self._left_with is not None

    async def receive(self) -> dict[str, Any]:
        await asyncio.sleep(0)
        return await super().receive()

    async def send_text(self, data: str) -> None:
        await self.line.write("a frame", partial(super().send_text, data))

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self.line.write("a close", partial(super().close, code, reason))


# -- the world of a scenario


class World:
    """A manager with Alice, whose operation is cancelled, and Bob, who must not notice.

    At the end everybody leaves, and nothing may be left of anybody.
    """

    def __init__(
        self,
        strike: Strike,
        *,
        limits: Limits | None = None,
        retention: Retention | None = None,
        log: AlicesLog | None = None,
        **options: Any,
    ) -> None:
        self.strike = strike
        self.log = log or AlicesLog(retention)
        loop = asyncio.get_running_loop()
        clock = loop.wall_clock if isinstance(loop, VirtualLoop) else time.time
        self.state: Any = MemoryState(age=3_600.0, per_user=1_000, clock=clock, monotonic=loop.time)
        options.setdefault("retry", RetryPolicy(attempts=4, initial=0.01, maximum=0.02, seconds=5.0))
        self.manager = a_manager(
            self.log,
            limits=limits,
            retention=retention,
            state=suspending(self.state),
            rng=random.Random(4),
            **options,
        )
        self.sockets: list[SlowSocket] = []
        self.tabs: list[Tab] = []
        self.emitted = {"alice": 0, "bob": 0}
        self.traffic: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self.manager.__aenter__()
        self.bob = await self.tab("bob", "bob's")
        self.witness = await self.tab("alice", "witness")
        await self.emit("bob")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, _tb: TracebackType | None
    ) -> None:
        if exc is not None:
            return  # the loop is about to end, and with it all tasks
        await self._check_bob()
        await self._check_witness()
        await self._everybody_leaves()
        await self.manager.shutdown()
        assert self.log.watching == 0
        assert len(self.manager._outboxes) == len(self.manager.hand_overs) == 0

    @property
    def alice(self) -> UnifiedWebSocketEmitter:
        """Her emitter. Asked for at each use, since nobody may hold it in the end."""
        return self.manager.get_emitter("alice")

    @property
    def newer(self) -> Principal:
        """Alice with a credential that was issued after everything that happened."""
        return Principal("alice", claims={"iat": self.manager.now() + 1.0})

    def socket(self, *, v1: bool = False) -> SlowSocket:
        self.sockets.append(SlowSocket(subprotocol=PROTOCOL if v1 else None))
        return self.sockets[-1]

    async def tab(self, user: str, connection_id: str = "tab", *, v1: bool = False, **options: Any) -> Tab:
        tab = await Tab.open(self.manager, user, connection_id, socket=self.socket(v1=v1), **options)
        self.tabs.append(tab)
        return tab

    async def emit(self, user: str, count: int = 1) -> None:
        for _ in range(count):
            number = self.emitted[user] + 1
            await self.manager.get_emitter(user).emit("work", {"n": number}, event_id=f"{user}-{number}")
            self.emitted[user] = number

    def begin(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start the operation, while Bob's events go on."""
        task = self.strike.operation(coroutine)
        self.others_go_on()
        return task

    def others_go_on(self) -> None:
        async def traffic() -> None:
            with suppress(ManagerClosed):
                for _ in range(3):
                    await self.emit("bob")
                    await turns(2)

        self.traffic.append(asyncio.get_running_loop().create_task(traffic()))

    async def run(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Let the operation run to its end, or to the end that a cancellation makes."""
        task = self.begin(coroutine)
        await self.over(task)
        return task

    async def over(self, task: asyncio.Task[Any]) -> None:
        """Wait for the operation. If it was cancelled, that must be how it ends."""
        await asyncio.wait([task])
        assert task.cancelled() == bool(self.strike.landed), f"the operation, {self.strike!r}, ended as {task!r}"
        if task.cancelled():
            with pytest.raises(asyncio.CancelledError):
                task.result()  # lets go of the traceback, and with it of what the operation held

    async def ids(self) -> list[str]:
        """The ids of the events in Alice's log, whose chain must be whole."""
        entries = await entries_of(self.log, "alice")
        if entries:
            first = entries[0]
            check_chain(entries, Position(first.epoch, first.offset - 1, first.prev))
        entries = [entry for entry in entries if entry.event.connection_id != CONTROL]
        for entry in entries:
            event = decoded(entry)
            assert (event["id"], event["user_id"]) == (entry.event.id, "alice")
        return [entry.event.id for entry in entries]

    async def comes_back(
        self,
        *sockets: FakeSocket,
        lacks: list[str] | None = None,
        gaps: int = 0,
        otherwise: str | None = None,
        v1: bool = False,
        **options: Any,
    ) -> None:
        """A client that had these sockets, one after the other, comes back and has then seen all of Alice's events
        once each, in order; or, where that is not everything, those that it had and those that it `lacks`.

        It presents its newest cursor, or if it never had one what is given as `otherwise`."""
        frames = [frame for socket in sockets for frame in socket.frames]
        seen = [frame["id"] for frame in frames if "id" in frame]
        if lacks is None:
            everything = await self.ids()
            assert seen == everything[: len(seen)], "what was received before is no beginning of the log"
            lacks = everything[len(seen) :]
        cursor = next((frame["cursor"] for frame in reversed(frames) if "cursor" in frame), None)
        tab = await self.tab("alice", "tab", v1=v1, cursor=cursor or otherwise, **options)
        greeting = await tab.greeted()
        await tab.has(len(lacks))
        await self.emit("alice")
        await tab.has(len(lacks) + 1)
        await turns()
        assert [event["id"] for event in tab.events] == [*lacks, f"alice-{self.emitted['alice']}"]
        assert greeting["resumed"] is (cursor is not None and not gaps)
        assert len(tab.socket.of_type("gap")) == gaps
        await tab.cut()

    async def close_witness(self) -> None:
        await self.witness.cut()
        self.tabs.remove(self.witness)

    async def starts_anew(self) -> None:
        """The manager was shut down and is started again. Bob comes back, and nobody else."""
        await self.manager.__aenter__()
        self.tabs.clear()
        before = self.bob
        self.bob = await self.tab("bob", "bob's", cursor=before.cursor)
        self.bob.before = before.events

    async def _check_bob(self) -> None:
        await asyncio.gather(*self.traffic)
        await self.emit("bob")
        await self.bob.has(self.emitted["bob"])
        self._check_tab(self.bob, [f"bob-{number + 1}" for number in range(self.emitted["bob"])])

    async def _check_witness(self) -> None:
        """Alice's other tab has seen everything that is in her log."""
        if self.witness in self.tabs:
            expected = await self.ids()
            await self.witness.has(len(expected))
            self._check_tab(self.witness, expected)

    @staticmethod
    def _check_tab(tab: Tab, expected: list[str]) -> None:
        assert [event["id"] for event in tab.events] == expected
        assert tab.socket.of_type("gap") == []
        assert {event["user_id"] for event in tab.events} <= {tab.connection.user_id}
        assert tab.connection.state == "open"
        assert tab.socket.close_code is None

    async def _everybody_leaves(self) -> None:
        for tab in self.tabs:
            await tab.cut()
        for socket in self.sockets:
            assert socket.line.faults == []
        jobs = sorted(f"websocket_core {job}" for job in self.manager._background._jobs)
        await until(lambda: tasks() == jobs, f"the end of all tasks but {jobs}: {tasks()}")
        manager = self.manager
        self.strike.task = None
        for generation in range(3):
            if manager.get_stats()["active_emitters"]:
                gc.collect(generation)  # a traceback may hold one
        assert set(manager.get_stats().values()) == {0}, manager.get_stats()
        assert manager.metrics.connections == 0
        assert manager.metrics.isolation_violations == 0
        assert manager._registry.leaving() == []
        assert manager._emitters._kept == {}
        assert len(manager._outboxes) == len(manager.hand_overs) == len(manager.runs) == 0
        assert (manager.admission._under_way, len(manager.admission._addresses)) == (0, 0)
        assert self.log.watching == 0
        known = {name: set(of_user) for name, of_user in self.state._connections.items()}
        assert known.get(UserId("alice"), set()) <= {"tab", "witness", "old"}
        assert known.get(UserId("bob"), set()) == {"bob's"}


def tasks() -> list[str]:
    """The names of all tasks but this one."""
    return sorted(task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task())


# -- emit


async def _emit(world: World) -> None:
    await world.alice.emit("work", {"n": "x"}, event_id="x1")


async def _emit_to_one(world: World) -> None:
    """The connection is not there now, so that the shared state is asked."""
    await world.alice.emit("work", {"n": "x"}, event_id="x1", connection_id="old")


async def _emit_every_way(world: World) -> None:
    emitter = world.alice
    data = {"n": "x"}
    await emitter.emit_agent_started(data, event_id="x1")
    await emitter.emit_agent_thinking(data, event_id="x2")
    await emitter.emit_tool_executing(data, event_id="x3")
    await emitter.emit_tool_completed(data, event_id="x4")
    await emitter.emit_agent_completed(data, event_id="x5")
    await emitter.notify_agent_started("planner", event_id="x6")
    await emitter.notify_agent_thinking("hm", event_id="x7")
    await emitter.notify_tool_executing("search", event_id="x8")
    await emitter.notify_tool_completed("search", 1, event_id="x9")
    await emitter.notify_agent_completed(1, event_id="x10")
    await emitter.notify_agent_error("oh", event_id="x11")
    await emitter.notify_custom("work", data, event_id="x12")


async def _emit_the_64th(world: World) -> None:
    """The one after which a producer gives up its turn."""
    for number in range(16):
        await world.alice.emit("work", {"n": number}, event_id=f"x{number + 1}")


EMITS: Final = {
    "emit": (_emit, 1),
    "emit to one connection": (_emit_to_one, 1),
    "emit in every way": (_emit_every_way, 12),
    "emit the 64th": (_emit_the_64th, 16),
}


async def emits(name: str, strike: Strike) -> None:
    emit, count = EMITS[name]
    async with World(strike) as world:
        old = await world.tab("alice", "old")
        await old.cut()
        world.tabs.remove(world.witness)
        before = TURN - 8 if "64th" in name else 2
        await world.emit("alice", before)
        await world.run(emit(world))
        ids = [f"x{number + 1}" for number in range(count)]
        there = (await world.ids())[before:]
        assert there == ids[: len(there)], "an event is there that was not reached, or one is missing"
        await turns()
        assert (await world.ids())[before:] == there, "something was appended after the cancellation"
        await emit(world)
        assert (await world.ids())[before:] == ids
        for event in await events_of(world.log, "alice"):
            assert event["data"], "an event without its data"
        if name == "emit to one connection":
            await world.witness.cut()
        else:
            world.tabs.append(world.witness)
            await world.comes_back()


async def emits_a_critical_event(strike: Strike) -> None:
    """It takes no event id, so it can only be there or not."""
    async with World(strike) as world:
        await world.run(world.manager.emit_critical_event("alice", "agent_error", {"error": "x"}))
        assert len(await world.ids()) in ((0, 1) if strike.landed else (1,))
        await world.comes_back()


APPENDS: Final[dict[str, list[Any]]] = {
    "append, refused": ["refuse", "refuse"],
    "append, reply lost": ["lose", "refuse", "lose"],
    "append, all attempts spent": ["refuse"] * 4,
    "append, replies lost to the end": ["lose"] * 4,
    "append, hanging": ["refuse", "hang"],
}


async def appends_in_trouble(name: str, strike: Strike) -> None:
    """With every wait between two attempts."""
    async with World(strike) as world:
        await world.emit("alice", 2)
        world.log.plan.extend(APPENDS[name])

        async def emit() -> Position | None:
            try:
                return await world.alice.emit("work", {"n": "x"}, event_id="x1")
            except AppendFailed:
                return None

        recovery = asyncio.get_running_loop().call_later(1.0, world.log.recover)
        task = await world.run(emit())
        recovery.cancel()
        before = len(world.log.attempts)
        there = (await world.ids())[2:]
        assert there in ([], ["x1"])
        world.log.recover()
        world.log.plan.clear()
        await asyncio.sleep(60)
        assert len(world.log.attempts) == before, "it was tried again after the cancellation"
        assert (await world.ids())[2:] == there
        position = await world.alice.emit("work", {"n": "x"}, event_id="x1")
        assert (await world.ids())[2:] == ["x1"]
        assert position.offset == 3
        if not strike.landed:
            assert task.result() in (None, position)
        await world.comes_back()


# -- the outbox


def _events(world: World, count: int, *, first: int = 1) -> list[Event]:
    encode = world.manager.encoder.encode
    return [
        encode("work", {"n": number}, b',"user_id":"alice"', event_id=f"p{number}")
        for number in range(first, first + count)
    ]


async def pumps(strike: Strike) -> None:
    """The pump itself is cancelled. What waits is appended by the next one, in order and once each."""
    async with World(strike) as world:
        world.log.plan.extend(["refuse", "lose"])
        strike.product_task("Outbox._run")
        outbox = world.manager.outbox("alice")
        assert all(outbox.put(event) for event in _events(world, 3))
        outbox.drop()
        outbox.drop()
        world.others_go_on()
        assert strike.task is not None
        await world.over(strike.task)
        async with asyncio.timeout(2.0):
            await outbox.settled()
            await outbox.wait_in_log()
        outbox = world.manager.outbox("alice")
        assert outbox.put(*_events(world, 1, first=4))
        await until(lambda: not len(outbox), "a pump that goes on")
        await outbox.flush()
        assert outbox._bytes == 0
        events = await events_of(world.log, "alice")
        kinds = [event["id"] if event["type"] == "work" else event["data"] for event in events]
        assert kinds == ["p1", "p2", "p3", {"count": 2}, "p4"]
        await world.comes_back()


async def pumps_many(strike: Strike) -> None:
    """Now and then the pump gives the loop a turn."""
    async with World(strike) as world:
        await world.emit("alice", TURN - 8)
        strike.product_task("Outbox._run")
        outbox = world.manager.outbox("alice")
        assert all(outbox.put(event) for event in _events(world, 16))
        assert strike.task is not None
        await world.over(strike.task)
        outbox = world.manager.outbox("alice")
        assert outbox.put(*_events(world, 1, first=17))
        await until(lambda: not len(outbox), "a pump that goes on")
        assert (await world.ids())[TURN - 8 :] == [f"p{number}" for number in range(1, 18)]
        await world.comes_back()


async def _settled(world: World) -> None:
    await world.manager.outbox("alice").settled()


async def _settled_while_failing(world: World) -> None:
    """Which gives up its turn now and then, and does not wait."""
    outbox = world.manager.outbox("alice")
    await outbox.settled()
    for _ in range(TURN):
        await outbox.settled()


async def _in_log(world: World) -> None:
    await world.manager.outbox("alice").wait_in_log()


async def _flush(world: World) -> None:
    await world.manager._outboxes.flush()


WAITS: Final = {
    "settled": _settled,
    "settled, while the log fails": _settled_while_failing,
    "wait_in_log": _in_log,
    "flush": _flush,
}


async def waits_for_the_outbox(name: str, strike: Strike) -> None:
    """Somebody who waits for the outbox is cancelled; neither the events nor the others who wait are touched."""
    async with World(strike) as world:
        world.log.plan.extend(["refuse"] * 3 if "fails" in name else ["lose"])
        outbox = world.manager.outbox("alice")
        for event in _events(world, 3):
            assert outbox.put(event)
        another = asyncio.create_task(outbox.wait_in_log())
        await world.run(WAITS[name](world))
        assert outbox.put(*_events(world, 1, first=4))
        await another
        await outbox.flush()
        assert await world.ids() == ["p1", "p2", "p3", "p4"]
        assert len(outbox._waiters) == 0
        await world.comes_back()


async def closes_the_outboxes(strike: Strike) -> None:
    async with World(strike) as world:
        world.log.plan.extend(["none", "hang"])
        outbox = world.manager.outbox("alice")
        for event in _events(world, 3):
            assert outbox.put(event)
        await until(lambda: len(outbox) == 2)
        await world.run(world.manager._outboxes.close())
        world.log.recover()
        await world.manager._outboxes.close()
        await asyncio.sleep(60)
        assert await world.ids() == ["p1"]
        assert world.manager.outbox("alice").put(*_events(world, 1, first=3))
        await world.manager._outboxes.flush()
        assert await world.ids() == ["p1", "p3"]
        await world.comes_back()


# -- connect and resume


class Connect(NamedTuple):
    cursor: str = "none"
    """What the client presents: its cursor (`own`), `latest`, or nothing."""
    retention: int = 1_000
    per_user: int = 10
    old: str | None = None
    """The id of a connection that must make room."""
    hook: int = 0
    """For so many turns `on_connect` takes its time, and the writer works meanwhile."""
    away: bool = False
    """Whether the log cannot be read."""


CONNECTS: Final = {
    "connect": Connect(),
    "connect, live only": Connect(cursor="latest"),
    "connect, resuming": Connect(cursor="own", hook=12),
    "connect, resuming after a trim": Connect(cursor="own", hook=12, retention=2),
    "connect in place of the same connection": Connect(cursor="own", old="tab"),
    "connect above the user's limit": Connect(cursor="own", old="old", per_user=1),
    "connect while the log is away": Connect(cursor="own", away=True),
}


async def connects(name: str, strike: Strike) -> None:
    how = CONNECTS[name]

    async def on_connect(connection: WebSocketConnection) -> None:
        if connection.websocket is socket:
            await turns(how.hook)

    async def on_disconnect(connection: WebSocketConnection) -> None:
        await turns(3)

    limits = Limits(connections_per_user=how.per_user)
    retention = Retention(events=how.retention)
    socket = SlowSocket()
    async with World(
        strike, limits=limits, retention=retention, on_connect=on_connect, on_disconnect=on_disconnect
    ) as world:
        manager = world.manager
        await world.close_witness()
        world.sockets.append(socket)
        first = await world.tab("alice", how.old or "tab")
        await world.emit("alice")
        await first.has(1)
        if how.old is None:
            await first.cut()
        await world.emit("alice", 4)
        if how.old is not None:
            await first.has(5)
        world.log.unreadable = how.away
        presented = {"none": None, "own": first.cursor, "latest": "latest"}[how.cursor]

        async def connect() -> WebSocketConnection | None:
            try:
                return await manager.connect_user(socket, "alice", "tab", cursor=presented)
            except LogUnavailable:
                return None

        task = await world.run(connect())
        world.log.unreadable = False
        await turns(30)
        connection = None if task.cancelled() else task.result()
        assert (connection is None) == (bool(strike.landed) or how.away)
        left = first.serving.done()
        assert not (how.old and connection) or left
        assert manager.get_stats()["total_connections"] == 1 + (connection is not None) + (not left)
        assert world.log.watching == manager.get_stats()["total_connections"]
        if how.retention > 2:
            await world.emit("alice", 2)
        if not left:
            await first.has(7)
            await first.cut()
        elif how.old:
            assert first.socket.close_code == 4409
        world.tabs.remove(first)
        if connection is None:
            socket.client_leaves()
        else:
            tab = Tab(socket, connection)
            await tab.greeted()
            await turns(30)
            await tab.cut()
        if how.cursor == "none":
            await world.comes_back(socket)
        elif how.cursor == "latest":
            await world.comes_back(socket, lacks=[], otherwise="latest")
        elif how.retention == 2:
            seen = [event["id"] for event in socket.events]
            lacks = [event_id for event_id in await world.ids() if event_id not in seen]
            told = any(frame["type"] == "gap" for frame in socket.frames)
            await world.comes_back(first.socket, socket, lacks=lacks, gaps=not told)
        else:
            await world.comes_back(first.socket, socket)


async def is_refused(revoked: bool, strike: Strike) -> None:
    """The user was revoked, or the manager is full. The refusal itself is cancelled."""
    async with World(strike, limits=Limits(connections=2)) as world:
        if revoked:
            await world.close_witness()
            await world.manager.revoke("alice")
        before = world.manager.get_stats()["total_connections"]
        socket = world.socket()

        async def connect() -> None:
            with pytest.raises(ConnectionRefused):
                await world.manager.connect_user(socket, "alice", "tab")

        await world.run(connect())
        await turns()
        assert world.manager.get_stats()["total_connections"] == before
        assert socket.frames == []
        code = 4410 if revoked else 1013
        assert socket.close_code in ((None, code) if strike.landed else (code,))
        await world.emit("alice")
        if not revoked:
            await world.witness.has(1)
            await world.close_witness()
        await world.comes_back(principal=world.newer)


async def is_refused_while_the_log_is_away(strike: Strike) -> None:
    log = CheckedLog()
    async with World(strike, log=log) as world:
        log.go_away()
        await until(lambda: world.manager.availability.degraded, seconds=20.0)
        socket = world.socket()

        async def connect() -> None:
            with pytest.raises(ConnectionRefused):
                await world.manager.connect_user(socket, "alice", "tab")

        await world.run(connect())
        assert socket.frames == []
        assert socket.close_code in ((None, 1013) if strike.landed else (1013,))
        log.recover()
        await until(lambda: not world.manager.availability.degraded, seconds=20.0)
        await world.comes_back()


async def takes_the_head(strike: Strike) -> None:
    async with World(strike) as world:
        await world.emit("alice")
        await world.run(world.manager.head("alice"))
        assert (await world.manager.head("alice")).offset == 1
        await world.comes_back()


# -- serve


SERVES: Final = (
    "serve until the client leaves",
    "serve until a bad frame",
    "serve until the server closes",
    "serve a socket of another make",
)


class TextSocket(SlowSocket):
    """One that knows no ASGI messages."""

    receive: Any = property()

    async def receive_text(self) -> str:
        message = await SlowSocket.receive(self)
        if message["type"] == "websocket.disconnect":
            raise ConnectionResetError
        return str(message["text"])


async def serves(name: str, strike: Strike) -> None:
    """Every kind of frame is answered, some while the client takes nothing."""

    async def authenticate(token: str) -> Principal:
        await asyncio.sleep(0)
        if token != "good":
            raise AuthenticationFailed("not good")
        return Principal("alice", expires_at=4_000_000_000.0)

    async def waits(_peer: Peer, frame: Mapping[str, Any]) -> Mapping[str, Any]:
        await asyncio.sleep(0)
        return {}

    stopped: list[str] = []
    async with World(strike) as world:
        world.manager._handlers["wait"] = waits
        socket = TextSocket() if "another make" in name else SlowSocket()
        world.sockets.append(socket)
        connection = await world.manager.connect_user(socket, "alice", "tab")
        closed = world.manager.runs.open(connection.user_id, "r1", lambda: stopped.append("r1"))
        task = world.begin(connection.serve(authenticate=authenticate))
        await world.emit("alice", 2)
        for frame in (
            {"type": "ping", "request_id": "1"},
            {"type": "cancel", "run_id": "r1", "request_id": "2"},
            {"type": "cancel", "run_id": "r2", "request_id": "3"},
            {"type": "auth", "token": "good", "request_id": "4"},
            {"type": "auth", "token": "bad", "request_id": "5"},
            {"type": "strange", "request_id": "6"},
            {"type": "wait", "request_id": "7"},
            "no frame",
        ):
            socket.client_sends(frame)
        await until(lambda: task.done() or len(socket.controls) == 9)
        if name.endswith("leaves"):
            socket.block()
            connection.send_control("pong")
            await turns(20)  # it is being written, and the others wait
            for _ in range(CONTROL_FRAMES):
                connection.send_control("pong")
            socket.client_sends({"type": "ping"})
            await turns(20)
            socket.unblock()
            await until(lambda: task.done() or len(socket.of_type("pong")) == CONTROL_FRAMES + 3)
        await world.emit("alice", 2)
        if name.endswith("frame"):
            socket.client_sends(b"binary")
        elif name.endswith("closes"):
            await world.manager.disconnect_user("alice", "tab")
        else:
            socket.client_leaves()
        await world.over(task)
        await until(lambda: connection.state == "closed")
        closed()
        if not strike.landed:
            assert stopped == ["r1"]
            answers = ["pong", "ack", "error", "ack", "error", "error", "ack", "error"]
            assert [frame["type"] for frame in socket.controls[1:9]] == answers
            assert socket.close_code == {"closes": 1000, "frame": 1003}.get(name.split()[-1])
        socket.client_leaves()
        await world.comes_back(socket)


# -- the writer


async def writes(v1: bool, strike: Strike) -> None:
    """The task that sends is cancelled: in the greeting, a batch, a control frame, a ping, a close."""
    limits = Limits(heartbeat=5.0, heartbeat_timeout=4.0, batch_events=3, batch_bytes=700, burst_frames=2)
    async with World(strike, limits=limits) as world:
        await world.emit("alice", 4)
        strike.product_task("WebSocketConnection._write")
        tab = await world.tab("alice", v1=v1)
        socket = tab.socket
        world.others_go_on()
        writer = strike.task
        assert writer is not None

        async def reaches(what: Callable[[], object]) -> None:
            await until(lambda: writer.done() or what(), seconds=30.0)

        await reaches(lambda: len(socket.events) == 4)
        await world.emit("alice", 6)  # more than the burst credit
        await reaches(lambda: len(socket.events) == 10)
        socket.client_sends({"type": "ping"})
        await world.emit("alice", 1)
        await reaches(lambda: socket.of_type("pong") and len(socket.events) == 11)
        world.log.unreadable = True
        await world.emit("alice", 1)
        await turns()
        world.log.unreadable = False
        await reaches(lambda: len(socket.events) == 12)
        await reaches(lambda: socket.of_type("ping"))
        await world.emit("alice", 3)
        await world.manager.disconnect_user("alice", "tab")
        await world.over(writer)
        await until(tab.serving.done)
        assert tab.serving.result() is None, "an endpoint returns when its writer has gone"
        assert socket.close_code in ((None, 1000) if strike.landed else (1000,))
        socket.client_leaves()
        world.tabs.remove(tab)
        await world.comes_back(socket, v1=v1)


async def writes_after_a_trim(v1: bool, strike: Strike) -> None:
    """A gap is told, whatever frame was the last; one that was told is not told again."""

    async def snapshot(_connection: WebSocketConnection) -> dict[str, object]:
        await turns(2)
        return {"shown": "instead"}

    async with World(strike, retention=Retention(events=2), snapshot=snapshot) as world:
        await world.close_witness()
        first = await world.tab("alice", v1=v1)
        await world.emit("alice")
        await first.has(1)
        await first.cut()
        await world.emit("alice", 4)
        strike.product_task("WebSocketConnection._write")
        tab = await world.tab("alice", v1=v1, cursor=first.cursor)
        world.others_go_on()
        writer = strike.task
        assert writer is not None
        await until(lambda: writer.done() or len(tab.events) == 2)
        assert writer.cancelled() == bool(strike.landed)
        strike.enough()
        await tab.cut()
        seen = [event["id"] for event in tab.events]
        lacks = [event_id for event_id in await world.ids() if event_id not in seen]
        told = any(frame["type"] == "gap" for frame in tab.socket.frames)
        await world.comes_back(first.socket, tab.socket, lacks=lacks, gaps=not told, v1=v1)


async def writes_after_a_late_trim(strike: Strike) -> None:
    """The client was connected all the time, and takes nothing while its place is trimmed."""
    async with World(strike, retention=Retention(events=2)) as world:
        await world.close_witness()
        strike.product_task("WebSocketConnection._write")
        tab = await world.tab("alice")
        writer = strike.task
        assert writer is not None
        await world.emit("alice")
        await until(lambda: writer.done() or tab.events)
        tab.socket.block()
        await world.emit("alice", 4)
        await turns()
        tab.socket.unblock()
        await until(lambda: writer.done() or len(tab.events) == 4)
        assert writer.cancelled() == bool(strike.landed)
        strike.enough()
        await tab.cut()
        seen = [event["id"] for event in tab.events]
        assert seen == [f"alice-{n}" for n in (1, 2, 4, 5)][: len(seen)]
        told = tab.socket.of_type("gap")
        has_cursor = any("cursor" in frame for frame in tab.socket.frames)
        lacks = [event_id for event_id in await world.ids() if event_id not in seen]
        await world.comes_back(tab.socket, lacks=lacks, gaps=has_cursor and not told)


async def writes_from_a_late_start(strike: Strike) -> None:
    """While a client without a cursor connects, more is emitted than is retained."""
    async with World(strike, retention=Retention(events=2)) as world:
        await world.close_witness()
        remember = world.state.remember_connection

        async def meanwhile(user_id: UserId, connection_id: str) -> None:
            await world.emit("alice", 4)
            await remember(user_id, connection_id)

        strike.product_task("WebSocketConnection._write")
        world.state.remember_connection = meanwhile
        tab = await world.tab("alice")
        world.state.remember_connection = remember
        writer = strike.task
        assert writer is not None
        await until(lambda: writer.done() or len(tab.events) == 2)
        assert writer.cancelled() == bool(strike.landed)
        strike.enough()
        await tab.cut()
        seen = [event["id"] for event in tab.events]
        assert seen == ["alice-3", "alice-4"][: len(seen)]
        await world.comes_back(tab.socket, lacks=["alice-3", "alice-4"][len(seen) :])


async def writes_to_a_new_life(strike: Strike) -> None:
    """The log is gone, as when a store has lost its memory. The connection opens the next one and tells a gap."""
    async with World(strike) as world:
        await world.close_witness()
        strike.product_task("WebSocketConnection._write")
        tab = await world.tab("alice")
        writer = strike.task
        assert writer is not None
        await world.emit("alice")
        await until(lambda: writer.done() or tab.events)
        await world.log.vanish(ALICE)
        await world.emit("alice", 2)
        await until(lambda: writer.done() or len(tab.events) == 3)
        assert writer.cancelled() == bool(strike.landed)
        strike.enough()
        world.log.vanished.clear()
        await tab.cut()
        seen = [event["id"] for event in tab.events]
        assert seen == [f"alice-{n}" for n in (1, 2, 3)][: len(seen)]
        told = tab.socket.of_type("gap")
        has_cursor = any("cursor" in frame for frame in tab.socket.frames)
        lacks = [event_id for event_id in await world.ids() if event_id not in seen]
        await world.comes_back(tab.socket, lacks=lacks, gaps=has_cursor and not told)


async def writes_what_was_lost(strike: Strike) -> None:
    """An event was sent and never came. The client says so at two heartbeats, and is sent it again."""
    limits = Limits(heartbeat=5.0, heartbeat_timeout=4.0)
    async with World(strike, limits=limits) as world:
        strike.product_task("WebSocketConnection._write")
        socket = SlowSocket(subprotocol=PROTOCOL, answers_pings=False)
        tab = Tab(socket, await world.manager.connect_user(socket, "alice", "tab"))
        world.tabs.append(tab)
        world.sockets.append(socket)
        writer = strike.task
        assert writer is not None
        await world.emit("alice", 3)
        await until(lambda: writer.done() or len(tab.events) == 3)
        if len(tab.events) == 3:
            socket.frames.remove(socket.events.pop())
        mine = tab.cursor if socket.frames else ""

        async def is_behind_at(pings: int) -> None:
            await until(lambda: writer.done() or len(socket.of_type("ping")) == pings, seconds=30.0)
            for ping in socket.of_type("ping"):
                ping.pop("cursor", None)  # it names a place where this client is not
            socket.client_sends({"type": "pong", "cursor": mine})

        await is_behind_at(1)
        await is_behind_at(2)
        await until(lambda: writer.done() or len(tab.events) == 3)
        assert writer.cancelled() == bool(strike.landed)
        strike.enough()
        await tab.cut()
        await world.comes_back(socket, v1=True)


# -- close


async def _disconnect(world: World) -> None:
    await world.manager.disconnect_user("alice", "tab")


async def _wait_closed(world: World) -> None:
    connection = world.manager._registry.of(UserId("alice"))["tab"]
    await world.manager.disconnect_user("alice", "tab")
    await connection.wait_closed()


async def closes(close: Callable[[World], Coroutine[Any, Any, None]], strike: Strike) -> None:
    """A forced close can be asked for again when it was cancelled."""
    async with World(strike) as world:
        tab = await world.tab("alice")
        await world.emit("alice", 2)
        await tab.has(2)
        await world.run(close(world))
        await world.manager.disconnect_user("alice", "tab")
        assert await tab.ended() == 1000
        await world.comes_back(tab.socket)


async def revokes(strike: Strike) -> None:
    async with World(strike) as world:
        tab = await world.tab("alice")
        await world.emit("alice", 2)
        await tab.has(2)
        await world.close_witness()
        await world.run(world.manager.revoke("alice"))
        await world.manager.revoke("alice")
        assert await tab.ended() == 4410
        with pytest.raises(ConnectionRefused) as refused:
            await world.manager.connect_user(world.socket(), "alice", "tab")
        assert refused.value.code == 4410
        await world.comes_back(tab.socket, principal=world.newer)


async def deletes(elsewhere: bool, strike: Strike) -> None:
    """Also a user who has connections in other processes, whom the new life of the log sends away."""

    async def is_elsewhere(user_id: UserId) -> bool:
        await asyncio.sleep(0)
        return elsewhere

    async with World(strike) as world:
        world.manager._seating.elsewhere = is_elsewhere  # type: ignore[method-assign]
        tab = await world.tab("alice")
        await world.emit("alice", 2)
        await tab.has(2)
        await world.close_witness()
        await world.run(world.manager.delete_user("alice"))
        await world.manager.delete_user("alice")
        assert await tab.ended() == 1000
        assert await world.ids() == []
        assert UserId("alice") not in world.state._connections
        world.emitted["alice"] = 0
        await world.comes_back()


async def _shutdown(world: World) -> None:
    await world.manager.shutdown()


async def _drain(world: World) -> None:
    await world.manager.drain(budget=1.0)


async def _lifespan(world: World) -> None:
    """The application ends; the manager is started again by it, which changes nothing."""
    async with world.manager.lifespan(None):
        pass


async def _leave(world: World) -> None:
    async with world.manager:
        pass


ENDS: Final = {
    "the end of `async with`": _leave,
    "shutdown": _shutdown,
    "drain": _drain,
    "the end of a lifespan": _lifespan,
}


async def ends(name: str, strike: Strike) -> None:
    """A shutdown that was cancelled leaves no task of its own, and the next one does what is left to do: everything
    that was emitted before is delivered, everybody is sent away with 1012."""
    left: list[str] = []

    async def on_disconnect(connection: WebSocketConnection) -> None:
        await asyncio.sleep(0.05)
        left.append(connection.connection_id)

    world = World(strike, on_disconnect=on_disconnect)
    manager = world.manager
    async with world:
        slow = await world.tab("alice", v1=True)
        await slow.greeted()
        slow.socket.block()
        await world.emit("alice", 5)
        asyncio.get_running_loop().call_later(0.5, slow.socket.unblock)
        world.log.plan.extend(["refuse", "none", "refuse", "refuse"])
        for event in _events(world, 3):
            assert manager.outbox("alice").put(event)
        before = asyncio.all_tasks()
        await world.run(ENDS[name](world))
        await asyncio.gather(*world.traffic)
        await turns()
        new = [task for task in asyncio.all_tasks() - before if "Hooks" not in repr(task.get_coro())]
        assert new == [], "tasks that the shutdown made and left"
        await manager.shutdown()
        assert tasks() == []
        assert await world.ids() == [*(f"alice-{n}" for n in range(1, 6)), "p1", "p2", "p3"]
        assert world.bob.socket.close_code == slow.socket.close_code == world.witness.socket.close_code == 1012
        assert [event["id"] for event in slow.events] == [event["id"] for event in world.witness.events]
        assert [event["id"] for event in slow.events] == await world.ids()
        assert [event["id"] for event in world.bob.events][:1] == ["bob-1"]
        assert sorted(left) == ["bob's", "tab", "witness"]
        for emit in (world.emit("alice"), world.manager.connect_user(world.socket(), "alice")):
            with pytest.raises(ManagerClosed):
                await emit
        world.emitted["alice"] = 5
        await world.starts_anew()
        await world.comes_back(slow.socket, v1=True)


async def ends_in_trouble(name: str, strike: Strike) -> None:
    """A client takes nothing, a log takes nothing, and a hook of the application never ends."""

    async def on_disconnect(connection: WebSocketConnection) -> None:
        await world.log.well.wait()

    world = World(strike, on_disconnect=on_disconnect, limits=Limits(shutdown_timeout=2.0))
    manager = world.manager
    async with world:
        stuck = await world.tab("alice")
        await stuck.greeted()
        stuck.socket.block()
        await world.emit("alice", 2)
        world.log.trouble = "refuse"
        assert manager.outbox("alice").put(*_events(world, 1))
        await world.run(ENDS[name](world))
        await asyncio.gather(*world.traffic)
        began = asyncio.get_running_loop().time()
        await manager.shutdown()
        assert asyncio.get_running_loop().time() - began < 6.0
        stuck.socket.client_leaves()
        await turns()
        assert tasks() == []
        world.log.recover()
        assert await world.ids() == ["alice-1", "alice-2"]
        await world.starts_anew()
        await world.comes_back(stuck.socket)


# -- the tasks of a manager


async def sweeps(strike: Strike) -> None:
    """Without its sweeper a manager makes another at the next connect."""
    strike.product_task("Sweeper.run")
    async with World(strike, limits=Limits(sweep_interval=1.0)) as world:
        sweeper = strike.task
        assert sweeper is not None
        await asyncio.sleep(2.5)
        strike.enough()
        assert sweeper.cancelled() == bool(strike.landed)
        tab = await world.tab("alice")
        assert tasks().count(SWEEPER) == 1
        tab.socket.block()
        await world.emit("alice")
        await until(lambda: tab.connection.state == "closed", seconds=30.0)
        assert world.manager.metrics.stale == 1, "nobody looked for a write that takes too long"
        tab.socket.client_leaves()
        await tab.serving
        await world.comes_back(tab.socket)


async def watches_the_log(second: bool, strike: Strike) -> None:
    """Without its job a manager makes another at the next connect, and nobody is left degraded by the first. With
    `second` that other one is struck."""
    log = CheckedLog()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(availability, "TOLD_AT_ONCE", 1)
        strike.product_task("Availability._run", skip=int(second))
        async with World(strike, log=log) as world:
            manager = world.manager
            job = strike.task or manager._background._tasks["availability"]
            tabs = [world.bob, world.witness]
            await asyncio.sleep(3.0)
            log.go_away()
            with suppress(AssertionError):
                await until(lambda: all(tab.socket.of_type("degraded") for tab in tabs) or job.done(), seconds=15.0)
            assert job.done() or manager.availability.degraded
            await asyncio.sleep(1.0)
            if second:
                job.cancel()
            log.recover()
            await until(lambda: job.done() or not manager.availability.degraded, seconds=15.0)
            if second:
                await (await world.tab("alice", "old")).cut()
                world.tabs.pop()
                assert strike.task is not None
                job = strike.task
            await asyncio.sleep(1.0)
            strike.enough()
            assert job.cancelled() == bool(strike.landed)
            assert (manager.availability.degraded, manager.metrics.degraded) == (False, 0)
            tab = await world.tab("alice", "old")
            assert tasks().count(AVAILABILITY) == 1
            for each in tabs:
                await until(
                    lambda each=each: len(each.socket.of_type("degraded")) == len(each.socket.of_type("restored"))  # type: ignore[misc]
                )
            await world.emit("alice")
            await tab.cut()
            world.tabs.remove(tab)
            await world.comes_back()


async def writes_while_the_log_is_away(v1: bool, strike: Strike) -> None:
    """The writer is in the middle of a read when the log goes away, shows what waits, and reads when it is back."""
    log = CheckedLog()
    async with World(strike, log=log) as world:
        strike.product_task("WebSocketConnection._write")
        tab = await world.tab("alice", v1=v1)
        await world.emit("alice", 2)
        await until(lambda: tab.serving.done() or len(tab.events) == 2)
        log.go_away()
        await MemoryLog.append(log, ALICE, world.manager.encoder.encode("work", {"n": "x"}, b',"user_id":"alice"'))
        await until(lambda: world.manager.availability.degraded, seconds=20.0)
        for number in range(3):
            event = world.manager.encoder.encode("work", {"n": f"p{number}"}, b',"user_id":"alice"')
            assert world.manager.outbox("alice").put(event)
            await turns(4)
        await until(lambda: tab.serving.done() or len(tab.socket.of_type("provisional")) == 3)
        await until(lambda: len(world.witness.socket.of_type("provisional")) == 3)
        log.recover()
        await until(lambda: not world.manager.availability.degraded, seconds=20.0)
        await until(lambda: tab.serving.done() or len(tab.events) == 6)
        strike.enough()
        shown = [frame["event"]["data"]["n"] for frame in tab.socket.of_type("provisional")]
        assert shown == ["p0", "p1", "p2"][: len(shown)]
        await tab.cut()
        world.tabs.remove(tab)
        await world.comes_back(tab.socket, v1=v1)


async def runs_a_hook(strike: Strike) -> None:
    async def on_disconnect(connection: WebSocketConnection) -> None:
        await turns(3)

    async with World(strike, on_disconnect=on_disconnect) as world:
        strike.product_task("Hooks._run")
        tab = await world.tab("alice")
        await tab.cut()
        await until(lambda: strike.task is not None)
        assert strike.task is not None
        await world.over(strike.task)
        await world.comes_back(tab.socket)


# -- the endpoint


class Visit(NamedTuple):
    """What a client brings, does, and is closed with."""

    headers: Mapping[str, str] = MappingProxyType({})
    query: str = "connection_id=tab"
    frames: tuple[Any, ...] = ()
    code: int | None = None
    """None: it is connected, then leaves. Below 1000 it is an HTTP status."""
    leaves: bool = False
    """Before it is connected."""
    away: bool = False
    """The log cannot be read."""
    other: Mapping[str, str] | None = None
    """The headers of somebody else who is in the making all the while."""


GOOD: Final = {"type": "auth", "token": "good"}
BEARER: Final = {"authorization": "Bearer good"}
VISITS: Final = {
    "by a header": Visit(BEARER, "connection_id=tab&cursor=CURSOR"),
    "by the first frame": Visit(frames=({**GOOD, "cursors": {"": "CURSOR"}},)),
    "by a ticket": Visit(query="connection_id=tab&cursor=CURSOR&ticket=TICKET"),
    "by a ticket in the first frame": Visit(frames=({"type": "auth", "ticket": "TICKET", "cursors": {"": "CURSOR"}},)),
    "refreshing its token": Visit(BEARER, "connection_id=tab&cursor=CURSOR", ({**GOOD, "request_id": "1"},)),
    "refreshing by a ticket": Visit(
        BEARER, "connection_id=tab&cursor=CURSOR", ({"type": "auth", "ticket": "TICKET", "request_id": "1"},)
    ),
    "from a foreign page": Visit({"origin": "https://evil.example"}, code=4403),
    "leaving in the handshake": Visit(leaves=True),
    "leaving before its first frame": Visit(frames=(None,), leaves=True),
    "without a first frame": Visit(code=4408),
    "with a binary first frame": Visit(frames=(b"x",), code=1003),
    "with a first frame that is no frame": Visit(frames=("x",), code=4400),
    "with a large first frame": Visit(frames=(json.dumps({**GOOD, "x": "x" * 30_000}),), code=1009),
    "with another first frame": Visit(frames=({"type": "ping"},), code=4401),
    "with bad cursors": Visit(frames=({**GOOD, "cursors": []},), code=4400),
    "with a bad token": Visit({"authorization": "Bearer bad"}, code=4401),
    "with an expired token": Visit({"authorization": "Bearer expired"}, code=4401),
    "with a bad cursor": Visit(BEARER, "cursor=x", code=4400),
    "while the log is away": Visit(BEARER, code=1013, away=True),
    "where the authenticator fails": Visit({"authorization": "Bearer crash"}, code=1011),
    "while nobody can tell who it is": Visit({"authorization": "Bearer unavailable"}, code=1013),
    "where many wait": Visit(frames=(GOOD,), code=1013, other={}),
    "where many of the same address wait": Visit(frames=(GOOD,), code=4429, other={}),
    "where many are in the making": Visit(BEARER, code=503, other={"authorization": "Bearer slow"}),
    "where many are in the making, elsewhere": Visit(BEARER, code=1013, other={"authorization": "Bearer slow"}),
}


class Site:
    """An application with our routes, whose authenticator takes its time."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.slow = asyncio.Event()
        router = websocket_router(world.manager, authenticate=self.authenticate)
        routes = {route.path: route.app for route in router.routes if isinstance(route, (Route, WebSocketRoute))}
        self.ws: Any = routes["/ws"]
        self.ticket = routes["/ticket"]

    async def authenticate(self, request: AuthRequest) -> Principal:
        await asyncio.sleep(0)
        if request.token == "slow":
            await self.slow.wait()
        if request.token == "crash":
            raise ZeroDivisionError
        if request.token == "unavailable":
            raise AuthenticationUnavailable("not now")
        if request.token not in ("good", "expired"):
            raise AuthenticationFailed("not good")
        return Principal("alice", expires_at=1.0 if request.token == "expired" else None)

    async def asks_for_a_ticket(self) -> str | None:
        """By `POST /ticket`; None if it was refused."""
        sent: list[Any] = []

        async def send(message: Any) -> None:
            await asyncio.sleep(0)
            sent.append(message)
            await asyncio.sleep(0)

        async def receive() -> Any:
            raise AssertionError("nothing of the body is read")

        scope = {**_scope(BEARER, ""), "type": "http", "scheme": "http", "method": "POST", "path": "/ticket"}
        await self.ticket(scope, receive, send)
        assert sent[0]["status"] in (200, 503)
        return str(json.loads(sent[1]["body"])["ticket"]) if sent[0]["status"] == 200 else None


async def visits(name: str, strike: Strike) -> None:
    visit = VISITS[name]
    limits = Limits(
        unauthenticated=1 if name == "where many wait" else 1_000,
        unauthenticated_per_address=1,
        handshakes=1 if "in the making" in name else 500,
    )
    async with World(strike, limits=limits) as world:
        site = Site(world)
        first = await world.tab("alice")
        await world.emit("alice")
        await first.has(1)
        await first.cut()
        await world.emit("alice", 2)
        ticket = await site.asks_for_a_ticket()
        world.log.unreadable = visit.away
        other: asyncio.Task[None] | None = None
        others = world.socket()
        if visit.other is not None:
            other = asyncio.create_task(site.ws(_scope(visit.other, "connection_id=old"), *_asgi(others)))
            await until(lambda: site.ws._waiting == 1 or world.manager.admission._under_way == 1)

        def filled(text: str) -> str:
            return text.replace("CURSOR", first.cursor).replace("TICKET", ticket or "")

        socket = world.socket()
        scope = _scope(visit.headers, filled(visit.query))
        if not name.endswith("elsewhere"):
            scope["extensions"] = {"websocket.http.response": {}}
        task = world.begin(site.ws(scope, *_asgi(socket)))
        for frame in visit.frames:
            if frame is not None:
                socket.client_sends(filled(json.dumps(frame)) if isinstance(frame, dict) else frame)
        if visit.leaves:
            if visit.frames:
                await until(lambda: site.ws._waiting or task.done())
            socket.client_leaves()
        elif visit.code is None:
            await until(lambda: task.done() or len(socket.events) == 2)
            await until(lambda: task.done() or "refreshing" not in name or socket.of_type("ack"))
            await world.emit("alice")
            await until(lambda: task.done() or len(socket.events) == 3)
            socket.client_leaves()
        await world.over(task)
        await turns()
        if other is not None:
            assert site.ws._waiting + world.manager.admission._under_way == 1
            others.client_leaves()
            site.slow.set()
            await other
        assert site.ws._waiting == len(site.ws._waiting_by_address) == 0
        world.log.unreadable = False
        if visit.code is not None:
            assert socket.frames == []
            assert socket.close_code == visit.code or (strike.landed and socket.close_code is None)
        await world.comes_back(first.socket, socket)


async def writes_under_an_endpoint(strike: Strike) -> None:
    """The endpoint returns when its writer was cancelled, as after any other end."""
    async with World(strike) as world:
        site = Site(world)
        await world.emit("alice")
        strike.product_task("WebSocketConnection._write")
        socket = world.socket()
        endpoint = asyncio.create_task(site.ws(_scope(BEARER, "connection_id=tab"), *_asgi(socket)))
        await until(lambda: strike.task is not None)
        writer = strike.task
        assert writer is not None
        await world.emit("alice")
        await until(lambda: writer.done() or len(socket.events) == 2)
        await world.manager.disconnect_user("alice", "tab")
        await world.over(writer)
        async with asyncio.timeout(1.0):
            await endpoint
        assert socket.close_code in ((None, 1000) if strike.landed else (1000,))
        await world.comes_back(socket)


async def asks_for_a_ticket(strike: Strike) -> None:
    async with World(strike) as world:
        site = Site(world)
        await world.run(site.asks_for_a_ticket())
        ticket = await site.asks_for_a_ticket()
        assert ticket is not None
        socket = world.socket()
        serving = asyncio.create_task(site.ws(_scope({}, f"connection_id=tab&ticket={ticket}"), *_asgi(socket)))
        await world.emit("alice")
        await until(lambda: len(socket.events) == 1)
        socket.client_leaves()
        await serving
        await world.comes_back(socket)


def _scope(headers: Mapping[str, str], query: str) -> dict[str, Any]:
    return {
        "type": "websocket",
        "scheme": "ws",
        "headers": [(b"host", b"app.example"), *((k.encode(), v.encode()) for k, v in headers.items())],
        "query_string": query.encode(),
        "client": ("192.0.2.1", 5000),
        "subprotocols": [],
    }


def _asgi(socket: SlowSocket) -> tuple[Any, Any]:
    """The two sides of the ASGI triple for this client."""
    shaken = False

    async def receive() -> dict[str, Any]:
        nonlocal shaken
        if shaken or socket.left:
            return await socket.receive()
        await asyncio.sleep(0)
        shaken = True
        return {"type": "websocket.connect"}

    async def send(message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            await socket.accept()
        elif kind == "websocket.send":
            await socket.send_text(message["text"])
        elif kind == "websocket.close":
            await socket.close(message["code"], message.get("reason", ""))
        elif kind == "websocket.http.response.start":
            await socket.close(message["status"])
        else:
            await asyncio.sleep(0)

    return receive, send


# -- threads


def _in_real_time(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


QUICK: Final = RetryPolicy(attempts=3, initial=0.001, maximum=0.002, seconds=10.0)
"""With these a thread that nobody answers waits for twenty seconds."""


async def hands_over(withdrawn: bool, strike: Strike) -> None:
    """The append for a thread is cancelled on the loop: because the thread has given up, or by somebody else."""
    async with World(strike, retry=QUICK) as world:
        hand_overs = world.manager.hand_overs
        await world.emit("alice", 2)
        world.log.plan.extend(["refuse", "none", "lose"])
        strike.product_task("HandOvers._append")
        if withdrawn:
            strike.of_the_product = False  # a thread that gives up finds a task that has begun
            strike.cancel = lambda task: hand_overs._tasks[task].cancel()
        world.alice.sync.post("work", {"n": "p"}, event_id="p1")

        def emit() -> Coroutine[Any, Any, Position]:
            return asyncio.to_thread(world.alice.sync.emit, "work", {"n": "x"}, event_id="x1")

        began = time.monotonic()
        with pytest.raises(AppendFailed) if strike.at else nullcontext():
            await emit()
        assert time.monotonic() - began < 5.0, "the thread was not answered"
        await until(lambda: len(hand_overs) == 0)
        await world.manager._outboxes.flush()
        there = await world.ids()
        assert there in (["alice-1", "alice-2", "p1"], ["alice-1", "alice-2", "p1", "x1"])
        if strike.landed and not withdrawn:
            with pytest.raises(ManagerClosed):  # all tasks are being cancelled: the loop is about to end
                await emit()
            position = await world.alice.emit("work", {"n": "x"}, event_id="x1")
        else:
            position = await emit()
        assert await world.ids() == ["alice-1", "alice-2", "p1", "x1"]
        assert position.offset == 4
        await world.comes_back()


async def waits_for_a_thread(strike: Strike) -> None:
    """The wait for the thread is cancelled. The thread's call goes on, and its event is there once."""
    async with World(strike, retry=QUICK) as world:
        await world.run(asyncio.to_thread(world.alice.sync.emit, "work", {"n": "x"}, event_id="x1"))
        await until(lambda: world.log.attempts.count("x1") and not len(world.manager.hand_overs))
        assert await world.ids() == ["x1"]
        await asyncio.to_thread(world.alice.sync.emit, "work", {"n": "x"}, event_id="x1")
        assert await world.ids() == ["x1"]
        await world.comes_back()


async def closes_the_hand_overs(strike: Strike) -> None:
    """While threads wait for their answers."""
    async with World(strike, retry=QUICK) as world:
        hand_overs = world.manager.hand_overs
        world.log.plan.extend(["hang"])
        calls = [
            asyncio.create_task(asyncio.to_thread(world.alice.sync.emit, "work", {"n": n}, event_id=f"x{n}"))
            for n in range(2)
        ]
        await until(lambda: len(world.log.attempts) == 2 and len(hand_overs) == 1)
        asyncio.get_running_loop().call_later(0.01, world.log.recover)
        await world.run(hand_overs.close())
        outcomes = [type(outcome) for outcome in await asyncio.gather(*calls, return_exceptions=True)]
        calls.clear()
        assert set(outcomes) <= {Position, AppendFailed}
        await hand_overs.close()
        assert len(hand_overs) == 0
        with pytest.raises(ManagerClosed):
            await asyncio.to_thread(world.alice.sync.emit, "work", {"n": "late"})
        ids = await world.ids()
        acknowledged = [f"x{n}" for n, outcome in enumerate(outcomes) if outcome is Position]
        assert set(acknowledged) <= set(ids) <= {"x0", "x1"}
        await world.comes_back()


# -- the sweeps


class Operation(NamedTuple):
    scenario: Scenario
    floor: int
    """With fewer suspensions than this the sweep would prove less than it says."""
    run: Callable[[Coroutine[Any, Any, None]], None] = run_in_virtual_time


OPERATIONS: Final[dict[str, dict[str, Operation]]] = {
    "emit": {
        "emit": Operation(partial(emits, "emit"), 2),
        "emit to one connection": Operation(partial(emits, "emit to one connection"), 4),
        "emit in every way": Operation(partial(emits, "emit in every way"), 24),
        "emit the 64th": Operation(partial(emits, "emit the 64th"), 33),
        "emit_critical_event": Operation(emits_a_critical_event, 2),
    },
    "append": {
        "append, refused": Operation(partial(appends_in_trouble, "append, refused"), 6),
        "append, reply lost": Operation(partial(appends_in_trouble, "append, reply lost"), 10),
        "append, all attempts spent": Operation(partial(appends_in_trouble, "append, all attempts spent"), 7),
        "append, replies lost to the end": Operation(
            partial(appends_in_trouble, "append, replies lost to the end"), 11
        ),
        "append, hanging": Operation(partial(appends_in_trouble, "append, hanging"), 5),
    },
    "outbox": {
        "the pump": Operation(pumps, 10),
        "the pump with many events": Operation(pumps_many, 33),
        "settled": Operation(partial(waits_for_the_outbox, "settled"), 1),
        "settled, while the log fails": Operation(partial(waits_for_the_outbox, "settled, while the log fails"), 2),
        "wait_in_log": Operation(partial(waits_for_the_outbox, "wait_in_log"), 2),
        "flush": Operation(partial(waits_for_the_outbox, "flush"), 1),
        "close the outboxes": Operation(closes_the_outboxes, 1),
    },
    "resume": {
        **{name: Operation(partial(connects, name), 3 if "away" in name else 6) for name in CONNECTS},
        "connect to a full manager": Operation(partial(is_refused, False), 11),
        "connect after a revocation": Operation(partial(is_refused, True), 9),
        "connect while the log is away": Operation(is_refused_while_the_log_is_away, 5),
        "head": Operation(takes_the_head, 2),
    },
    "serve": {name: Operation(partial(serves, name), 20) for name in SERVES},
    "send": {
        "the writer, plain": Operation(partial(writes, False), 60),
        "the writer, unified-websocket.v1": Operation(partial(writes, True), 40),
        "the writer after a late trim": Operation(writes_after_a_late_trim, 25),
        "the writer from a late start": Operation(writes_from_a_late_start, 12),
        "the writer in a new life of the log": Operation(writes_to_a_new_life, 22),
        "the writer after a loss": Operation(writes_what_was_lost, 20),
        "the writer while the log is away, plain": Operation(partial(writes_while_the_log_is_away, False), 30),
        "the writer while the log is away, unified-websocket.v1": Operation(
            partial(writes_while_the_log_is_away, True), 25
        ),
        "the writer under an endpoint": Operation(writes_under_an_endpoint, 20),
        "the writer after a trim, plain": Operation(partial(writes_after_a_trim, False), 15),
        "the writer after a trim, unified-websocket.v1": Operation(partial(writes_after_a_trim, True), 8),
    },
    "close": {
        "disconnect_user": Operation(partial(closes, _disconnect), 0),
        "wait_closed": Operation(partial(closes, _wait_closed), 1),
        "delete_user": Operation(partial(deletes, False), 4),
        "delete_user, who is elsewhere": Operation(partial(deletes, True), 6),
        "revoke": Operation(revokes, 4),
        **{name: Operation(partial(ends, name), 5) for name in ENDS},
        **{f"{name}, in trouble": Operation(partial(ends_in_trouble, name), 5) for name in ENDS},
        "the sweeper": Operation(sweeps, 6),
        "the job that asks whether the log is there": Operation(partial(watches_the_log, False), 25),
        "the job that takes its place": Operation(partial(watches_the_log, True), 4),
        "a hook": Operation(runs_a_hook, 3),
    },
    "endpoint": {
        **{
            f"a client {name}": Operation(partial(visits, name), 1 if "in the handshake" in name else 4)
            for name in VISITS
        },
        "a page that asks for a ticket": Operation(asks_for_a_ticket, 6),
    },
    "threads": {
        "a hand-over that is given up": Operation(partial(hands_over, True), 6, _in_real_time),
        "a hand-over that somebody cancels": Operation(partial(hands_over, False), 6, _in_real_time),
        "the wait for a thread": Operation(waits_for_a_thread, 1, _in_real_time),
        "close the hand-overs": Operation(closes_the_hand_overs, 1, _in_real_time),
    },
}


@cache
def swept(kind: str, name: str) -> Swept:
    """What the sweep of this operation found: nothing, or it raises. Each is made once for all tests."""
    operation = OPERATIONS[kind][name]
    return sweep(operation.scenario, run=operation.run)


def _check(kind: str, name: str, record_property: Record) -> None:
    found = swept(kind, name)
    record_property("points", found.points)
    record_property("cancellations", found.cancellations)
    assert found.points >= OPERATIONS[kind][name].floor, "the operation waits less than it should: this proves little"


@pytest.mark.parametrize("name", OPERATIONS["emit"])
def test_a_cancelled_emit_is_in_the_log_wholly_or_not_at_all(name: str, record_property: Record) -> None:
    """Emitting again with the same id makes one entry of it, in the same place."""
    _check("emit", name, record_property)


@pytest.mark.parametrize("name", OPERATIONS["append"])
def test_an_append_that_is_cancelled_between_its_attempts_is_not_tried_again(
    name: str, record_property: Record
) -> None:
    _check("append", name, record_property)


@pytest.mark.parametrize("name", OPERATIONS["outbox"])
def test_a_cancellation_takes_nothing_out_of_an_outbox(name: str, record_property: Record) -> None:
    _check("outbox", name, record_property)


@pytest.mark.parametrize("name", OPERATIONS["resume"])
def test_a_connect_that_is_cancelled_leaves_nothing_of_it(name: str, record_property: Record) -> None:
    """The client that comes back gets exactly what it lacks."""
    _check("resume", name, record_property)


@pytest.mark.parametrize("name", OPERATIONS["serve"])
def test_an_endpoint_that_is_cancelled_while_it_serves_ends_its_connection(name: str, record_property: Record) -> None:
    _check("serve", name, record_property)


@pytest.mark.parametrize("name", OPERATIONS["send"])
def test_a_writer_that_is_cancelled_writes_nothing_more_and_loses_nothing(name: str, record_property: Record) -> None:
    _check("send", name, record_property)


@pytest.mark.parametrize("name", OPERATIONS["close"])
def test_what_a_cancelled_close_did_not_do_the_next_one_does(name: str, record_property: Record) -> None:
    _check("close", name, record_property)


@pytest.mark.parametrize("name", OPERATIONS["endpoint"])
def test_a_visit_that_is_cancelled_is_forgotten(name: str, record_property: Record) -> None:
    """From the handshake to the close."""
    _check("endpoint", name, record_property)


@pytest.mark.parametrize("name", OPERATIONS["threads"])
def test_a_cancellation_on_the_loop_leaves_no_thread_waiting(name: str, record_property: Record) -> None:
    _check("threads", name, record_property)


@virtual_time
async def test_waits_that_are_given_up_do_not_pile_up_before_a_log_that_hangs() -> None:
    log = TroubledLog()
    async with a_manager(log) as manager:
        log.trouble = "hang"
        outbox = manager.outbox("alice")
        event = manager.encoder.encode("work", {}, b',"user_id":"alice"')
        assert outbox.put(event)
        for _ in range(100):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(outbox.settled(), 0.5)
        assert len(outbox._waiters) <= 1
        log.recover()
        await outbox.settled()
        assert [entry.event.id for entry in await entries_of(log, "alice")] == [event.id]


# -- that nothing is left out


SWEPT_MODULES: Final = tuple(
    f"websocket_core.{name}"
    for name in (
        "appender", "availability", "background", "connection", "follower", "hand_over", "hooks", "inbound", "lag",
        "outbound", "outbox", "pacing", "revocation", "sweeper", "tasks", "tickets", "transports.entrance",
        "transports.ticket", "transports.websocket", "unified_emitter", "unified_manager",
    )
)  # fmt: skip


def test_no_await_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """Every `await` of the modules that emit, append, send, resume and close was cancelled in one of the sweeps."""
    found = [swept(kind, name) for kind, operations in OPERATIONS.items() for name in operations]
    struck = {each[:3] for swept_operation in found for each in swept_operation.awaits}
    awaits = {each[:3]: each for each in awaits_in(SWEPT_MODULES)}
    missed = [str(each) for place, each in awaits.items() if place not in struck]
    assert not missed, "no operation here was cancelled there:\n" + "\n".join(missed)
    points, cancellations = sum(each.points for each in found), sum(each.cancellations for each in found)
    with capsys.disabled():
        print(
            f"\ncancelled {len(found)} operations with {points} suspensions {cancellations} times, "
            f"at each of {len(awaits)} awaits"
        )
    assert (len(awaits) > 150, points > 1_000, cancellations > 1_200) == (True, True, True)
