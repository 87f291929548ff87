"""What the tests of promises share: a fake socket, tabs that a manager serves, virtual time, a frozen clock."""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import json
import selectors
from collections import Counter, deque
from collections.abc import Callable, Collection, Coroutine, Generator
from typing import Any, Literal, ParamSpec

from websocket_core import testing
from websocket_core.connection import WebSocketConnection
from websocket_core.control import CONTROL
from websocket_core.errors import LogUnavailable
from websocket_core.events import Event
from websocket_core.identity import LogName, UserId
from websocket_core.inbound import Authenticate
from websocket_core.limits import Limits, Retention, RetryPolicy
from websocket_core.log import Batch, Entry, LogStore, Position
from websocket_core.logs.memory import MemoryLog
from websocket_core.metrics import Metrics
from websocket_core.unified_manager import UnifiedWebSocketManager
from websocket_core.wire import PROTOCOL

P = ParamSpec("P")

FROZEN = 1_795_000_000.123456
"""A moment, in Unix seconds: 2026-11-18T11:06:40.123456+00:00."""

# -- waiting


async def until(condition: Callable[[], object], what: str = "the condition", seconds: float = 5.0) -> None:
    """Wait until the condition holds; fail after `seconds` of the loop's time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not condition():
        if loop.time() > deadline:
            raise AssertionError(f"{what} did not come about within {seconds} s")
        await asyncio.sleep(seconds / 5_000)


async def turns(count: int = 20) -> None:
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)


# -- virtual time


class _VirtualSelector(selectors.DefaultSelector):
    """Never blocks: where a loop would sleep, its clock jumps."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise AssertionError("every task waits and no timer is set: a lost wake-up or a dead lock")
        self.loop.now += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock moves only when nothing is ready, and then at once to the next timer."""

    def __init__(self) -> None:
        selector = _VirtualSelector()
        selector.loop = self
        self.now = 1_000.0
        super().__init__(selector)

    def time(self) -> float:
        return self.now

    def wall_clock(self) -> float:
        """Unix seconds."""
        return FROZEN + self.now


def run_in_virtual_time(main: Coroutine[Any, Any, None]) -> None:
    """Run to the end in a virtual loop, and demand that no task is left."""

    async def whole() -> None:
        await main
        await turns(5)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks were left behind: {left}"

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(whole())


def virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Decorates a test that runs in a virtual loop, where an hour takes no time."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        run_in_virtual_time(test(*args, **kwargs))

    # pytest reads the parameters here; a coroutine function in `__wrapped__` would be run by the plugin.
    run.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    del run.__wrapped__
    return run


# -- determinism


def frozen_clock() -> float:
    return FROZEN


def counted_entropy() -> Callable[[int], bytes]:
    """Bytes that are the same in every run: 0, 1, 2 ... in each draw, with the number of the draw first."""
    draws = itertools.count()
    return lambda size: bytes([next(draws) % 256, *range(1, size)])


def a_manager(
    log: str | LogStore = "memory://",
    *,
    limits: Limits | None = None,
    retention: Retention | None = None,
    **options: Any,
) -> UnifiedWebSocketManager:
    """A manager with metrics of its own, and in virtual time with clocks that follow it."""
    options.setdefault("metrics", Metrics())
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return UnifiedWebSocketManager(log, limits=limits, retention=retention, **options)
    if isinstance(loop, VirtualLoop):
        options.setdefault("monotonic", loop.time)
        options.setdefault("clock", loop.wall_clock)
    return UnifiedWebSocketManager(log, limits=limits, retention=retention, **options)


def quick_retry(attempts: int = 3) -> RetryPolicy:
    return RetryPolicy(attempts=attempts, initial=0.001, maximum=0.002, seconds=5.0)


# -- sockets and tabs


class FakeSocket(testing.FakeSocket):
    """The product's fake socket, which also notes when a write begins and how large it is."""

    def __init__(self, *, subprotocol: str | None = None, answers_pings: bool = True) -> None:
        super().__init__(subprotocol=subprotocol, answers_pings=answers_pings)
        self.write_sizes: list[int] = []

    async def send_text(self, data: str) -> None:
        self.write_sizes.append(len(data))
        await super().send_text(data)

    def of_type(self, frame_type: str) -> list[dict[str, Any]]:
        return [frame for frame in self.frames if frame["type"] == frame_type]


class Tab:
    """A browser tab of one user: a fake socket, its connection, and the task that serves it."""

    def __init__(
        self, socket: FakeSocket, connection: WebSocketConnection, authenticate: Authenticate | None = None
    ) -> None:
        self.socket = socket
        self.connection = connection
        self.before: list[dict[str, Any]] = []
        """What the same client had received before it reconnected."""
        self.serving = asyncio.get_running_loop().create_task(connection.serve(authenticate=authenticate))

    @classmethod
    async def open(
        cls,
        manager: UnifiedWebSocketManager,
        user_id: str,
        connection_id: str | None = None,
        *,
        cursor: str | None = None,
        v1: bool = False,
        socket: FakeSocket | None = None,
        authenticate: Authenticate | None = None,
        **options: Any,
    ) -> Tab:
        socket = socket or FakeSocket(subprotocol=PROTOCOL if v1 else None)
        connection = await manager.connect_user(socket, user_id, connection_id, cursor=cursor, **options)
        return cls(socket, connection, authenticate)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [*self.before, *self.socket.events]

    @property
    def numbers(self) -> list[Any]:
        """The `n` of each event."""
        return [event["data"]["n"] for event in self.events]

    @property
    def cursor(self) -> str:
        """The newest cursor that a client would have: of an event, a gap, a ping or the greeting."""
        return str(next(frame["cursor"] for frame in reversed(self.socket.frames) if "cursor" in frame))

    async def has(self, count: int, seconds: float = 5.0) -> list[dict[str, Any]]:
        """Wait for that many events; they."""
        await until(lambda: len(self.events) >= count, f"receiving {count} events", seconds)
        return self.events

    async def greeted(self) -> dict[str, Any]:
        await until(lambda: self.socket.frames, "the greeting")
        return self.socket.frames[0]

    async def cut(self) -> None:
        """The network goes away."""
        self.socket.client_leaves()
        await self.serving

    async def ended(self, seconds: float = 5.0) -> int | None:
        """Wait until the server has closed this tab; the code."""
        await until(self.serving.done, "the end of the connection", seconds)
        await self.serving
        return self.socket.close_code


# -- reading a log as its owner would


async def entries_of(log: LogStore, user_id: str) -> list[Entry]:
    """All that is retained of a user's log."""
    name = LogName.of_user(UserId(user_id))
    out: list[Entry] = []
    after = None
    while True:
        batch = await log.read(name, after, 256)
        out.extend(batch.entries)
        if not batch.more:
            return out
        after = out[-1].position


def decoded(entry: Entry) -> dict[str, Any]:
    """The event of an entry, as JSON."""
    event: dict[str, Any] = json.loads(entry.event.body + b"}")
    return event


async def events_of(log: LogStore, user_id: str) -> list[dict[str, Any]]:
    """All events retained of a user's log, decoded; without the control entries, which nobody is shown."""
    return [decoded(entry) for entry in await entries_of(log, user_id) if entry.event.connection_id != CONTROL]


# -- the law of runs


TERMINAL = frozenset({"agent_completed", "agent_error"})


def check_runs(events: list[dict[str, Any]], *, finished: bool = True) -> None:
    """Every run opened is closed by exactly one terminal event, every tool by exactly one `tool_completed`, in order.

    Run ids may be used again after their run has ended. `finished` demands that nothing is open at the end.
    """
    open_runs: dict[str, None] = {}
    open_tools: dict[tuple[str, str], None] = {}
    ids = Counter(event["id"] for event in events)
    assert max(ids.values(), default=1) == 1, "an event id is in the log twice"
    for event in events:
        kind, run = event["type"], str(event.get("run_id"))
        if kind == "agent_started":
            assert run not in open_runs, f"run {run} was started while it is open"
            open_runs[run] = None
        elif kind in TERMINAL:
            assert run in open_runs, f"run {run} was ended and is not open"
            del open_runs[run]
            unpaired = [tool for tool in open_tools if tool[0] == run]
            assert not unpaired, f"run {run} was ended before its tools {unpaired}"
        elif kind == "tool_executing":
            key = (run, event["data"]["tool_call_id"])
            assert run in open_runs, f"a tool of {run}, which is not open"
            assert key not in open_tools
            open_tools[key] = None
        elif kind == "tool_completed":
            key = (run, event["data"]["tool_call_id"])
            assert key in open_tools, f"tool {key} was completed and is not open"
            del open_tools[key]
        elif "run_id" in event:
            assert run in open_runs, f"{kind} of {run}, which is not open"
    if finished:
        assert not open_runs, f"runs without an end: {list(open_runs)}"
        assert not open_tools, f"tools without an end: {list(open_tools)}"


# -- driving a coroutine by hand


class Suspensions:
    """Awaits a coroutine, counts its suspensions, and calls `act` at those whose number is in `at`."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], at: Collection[int], act: Callable[[], object]) -> None:
        self._coroutine = coroutine
        self._at = at
        self._act = act
        self.count = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        send: Any = None
        error: BaseException | None = None
        while True:
            try:
                yielded = self._coroutine.send(send) if error is None else self._coroutine.throw(error)
            except StopIteration as stop:
                return stop.value
            send = error = None
            self.count += 1
            if self.count in self._at:
                self._act()
            try:
                send = yield yielded
            except BaseException as thrown:
                error = thrown


def cancel_this_task() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


def cancelling() -> int:
    """How many cancellations of this task are not taken back."""
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


# -- a log in trouble


Trouble = Literal["none", "refuse", "lose", "hang"]


class TroubledLog(MemoryLog):
    """A `MemoryLog` whose every call gives up the event loop first, and that gets into trouble when told to.

    `refuse`: appends raise and nothing is appended. `lose`: the event is appended and the reply is lost. `hang`:
    appends wait until `recover()`. `plan` says what the next appends meet, one by one, before `trouble` does.
    """

    def __init__(self, retention: Retention | None = None, **options: Any) -> None:
        loop = asyncio.get_running_loop()
        options.setdefault("monotonic", loop.time)
        super().__init__(retention, **options)
        self.trouble: Trouble = "none"
        self.plan: deque[Trouble] = deque()
        self.attempts: list[str] = []
        self.deaf = False
        """Whether wake-ups are lost."""
        self.unreadable = False
        self._well = asyncio.Event()

    def recover(self) -> None:
        self.trouble = "none"
        self._well.set()

    async def open(self, log: LogName) -> Position:
        await asyncio.sleep(0)
        return await super().open(log)

    async def read(self, log: LogName, after: Position | None, limit: int) -> Batch:
        await asyncio.sleep(0)
        if self.unreadable:
            raise LogUnavailable("told to be unreadable")
        batch = await super().read(log, after, limit)
        await asyncio.sleep(0)
        return batch

    async def control(self, log: LogName) -> Entry | None:
        await asyncio.sleep(0)
        if self.unreadable:
            raise LogUnavailable("told to be unreadable")
        return await super().control(log)

    async def append(self, log: LogName, event: Event) -> Position:
        self.attempts.append(event.id)
        await asyncio.sleep(0)
        trouble = self.plan.popleft() if self.plan else self.trouble
        if trouble == "refuse":
            raise LogUnavailable("told to refuse")
        if trouble == "hang":
            await self._well.wait()
        position = await super().append(log, event)
        await asyncio.sleep(0)
        if trouble == "lose":
            raise LogUnavailable("told to lose the reply")
        return position

    def watch(self, log: LogName, wake: Callable[[], None]) -> Callable[[], None]:
        return super().watch(log, lambda: None if self.deaf else wake())
