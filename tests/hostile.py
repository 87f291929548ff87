"""Strangers: users who are connected beside everybody else, who name whatever can be named, and who must receive
nothing of anybody.

They come to a manager by way of another one, which shares its log and its state as another server process would. So
they count against no limit of the first, need nobody's permission to authenticate, and can be there in any test.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, NamedTuple

from tests.support import until
from websocket_core import testing
from websocket_core.connection import WebSocketConnection
from websocket_core.events import Event
from websocket_core.identity import LogName
from websocket_core.limits import Limits
from websocket_core.log import Batch, Entry, LogStore, Position
from websocket_core.logs.memory import MemoryLog
from websocket_core.metrics import Metrics
from websocket_core.state import MemoryState
from websocket_core.unified_manager import UnifiedWebSocketManager
from websocket_core.wire import PROTOCOL, decode_cursor, encode_cursor

USERS: Final = ("mallory", "alice*", "alic", "*")
"""A plain name, and names that a careless comparison takes for others."""
SAMPLE: Final = 12
"""Of so many of each kind of name use is made."""
HARMLESS: Final = {"connected", "ping", "pong", "gap", "error"}
"""What a stranger may be sent: the positions in a log of its own, and refusals."""
REFUSALS: Final = {"not_found", "unknown_type", "malformed", "unauthenticated", "invalid", "forbidden"}


class Names(NamedTuple):
    """What there is to name. `epochs` are those of other users' logs."""

    users: list[str]
    connections: list[str]
    threads: list[str]
    runs: list[str]
    cursors: list[str]
    epochs: set[str]

    @classmethod
    def of(cls, manager: UnifiedWebSocketManager) -> Names:
        """Everything that stands in the logs and the state of a manager, as somebody would know it who has seen them
        all; a sample of each."""
        log, state = manager._log, manager.state
        while not isinstance(log, MemoryLog) and hasattr(log, "inner"):
            log = log.inner
        users, connections, threads, runs, cursors = [], [], [], [], []
        epochs = set()
        if isinstance(log, MemoryLog):
            for name, held in log._logs.items():
                if name.name in USERS:
                    continue
                users.append(name.name)
                epochs.add(held.epoch)
                retained = range(held.head - held.count + 1, held.head + 1)
                for offset in _sample(retained):
                    entry = held.entry(offset)
                    cursors.append(encode_cursor(entry.position))
                    connections.append(entry.event.connection_id)
                    threads.append(entry.event.thread_id)
                    runs.append(json.loads(entry.event.body + b"}").get("run_id"))
                cursors.append(encode_cursor(Position(held.epoch, held.head, held.mark)))
        if isinstance(state, MemoryState):
            for user, known in state._connections.items():
                connections.extend(known if user not in USERS else ())
        runs.extend(run for of_user in manager.runs._runs.values() for run in of_user)
        return cls(
            users=_sample(_named(users)),
            connections=_sample(_named(name for name in connections if name != "\x00")),
            threads=_sample(_named(threads)),
            runs=_sample(_named(runs)),
            cursors=_sample(_named(cursors)),
            epochs=epochs,
        )


def _named(names: Iterable[str | None]) -> list[str]:
    """Each name once, in order."""
    return list(dict.fromkeys(name for name in names if name))


def _sample(names: Any) -> list[Any]:
    """The first, the last, and some of those between."""
    names = list(names)
    return names if len(names) <= SAMPLE else [names[n * (len(names) - 1) // (SAMPLE - 1)] for n in range(SAMPLE)]


class _Shared:
    """A log that is somebody else's to trim and to close."""

    def __init__(self, log: LogStore) -> None:
        self.inner = log

    async def open(self, log: LogName) -> Position:
        return await self.inner.open(log)

    async def read(self, log: LogName, after: Position | None, limit: int) -> Batch:
        return await self.inner.read(log, after, limit)

    async def control(self, log: LogName) -> Entry | None:
        return await self.inner.control(log)

    def watch(self, log: LogName, wake: Callable[[], None]) -> Callable[[], None]:
        return self.inner.watch(log, wake)

    async def append(self, log: LogName, event: Event) -> Position:
        raise AssertionError("strangers emit nothing")

    async def forget(self, log: LogName) -> None:
        raise AssertionError("strangers delete nobody")

    async def expire(self) -> None: ...

    async def close(self) -> None: ...


class Elsewhere(UnifiedWebSocketManager):
    """The manager that the strangers are connected to."""

    def __init__(self, manager: UnifiedWebSocketManager) -> None:
        super().__init__(
            _Shared(manager._log),
            state=manager.state,
            metrics=Metrics(),
            limits=Limits(connections_per_user=1_000),
            clock=manager._clock,
            monotonic=manager.monotonic,
        )
        self._handlers = manager._handlers  # what a frame may do is what it may do there, to the runs that are there


class Stranger:
    """One connection of a hostile user, which reads all that it is given."""

    def __init__(self, user: str, **options: Any) -> None:
        self.user = user
        self.v1 = options.pop("v1", False)
        self.options = options
        self.socket = testing.FakeSocket(subprotocol=PROTOCOL if self.v1 else None)
        self.asked = 0

    async def come(self, manager: UnifiedWebSocketManager) -> None:
        self.connection: WebSocketConnection = await manager.connect_user(self.socket, self.user, **self.options)
        self.serving = asyncio.get_running_loop().create_task(self.connection.serve(), name="a stranger")

    def ask(self, **frame: Any) -> None:
        self.socket.client_sends({**frame, "request_id": f"{self.asked}"})
        self.asked += 1

    @property
    def answered(self) -> bool:
        return sum("request_id" in frame for frame in self.socket.frames) >= self.asked

    def judge(self, epochs: set[str]) -> None:
        """It was greeted as itself, told of positions in its own log, refused what it asked for, and shown nothing."""
        name = f"{self.user!r} with {self.options}"
        assert self.socket.events == [], f"{name} was sent events"
        for frame in self.socket.frames:
            assert frame["type"] in HARMLESS, f"{name} was sent {frame}"
            assert frame.get("user_id", self.user) == self.user, f"{name} was greeted as {frame['user_id']!r}"
            assert frame.get("code") in {None, *REFUSALS}, f"{name} was told {frame}"
            if frame.get("cursor") not in (None, self.options.get("cursor")):  # its own is not news to it
                assert decode_cursor(frame["cursor"]).epoch not in epochs, f"{name} was told of another log"
        assert self.socket.close_code in (None, 1012), f"{name} was closed with {self.socket.close_code}"


class Strangers:
    """The strangers beside one manager."""

    def __init__(self, manager: UnifiedWebSocketManager) -> None:
        self.manager = manager
        self.elsewhere = Elsewhere(manager)
        self.all: list[Stranger] = [
            Stranger("mallory", connection_id="tab-1", v1=True),
            Stranger("mallory", connection_id="same", only_thread="t1"),
            Stranger("alice*", connection_id="tab-1"),
            Stranger("alic", cursor="latest", v1=True),
            Stranger("*"),
        ]
        self._violations = manager.metrics.isolation_violations
        self._epochs: set[str] = set()

    async def come(self) -> None:
        """Be there from the beginning."""
        for stranger in self.all:
            await stranger.come(self.elsewhere)

    async def name_everything(self) -> Names:
        """Come again with every cursor, connection and thread that there is by now, and ask for every run, topic and
        position; until all of it was answered."""
        names = Names.of(self.manager)
        self._epochs |= names.epochs
        late = [Stranger("mallory", cursor=cursor, v1=n % 2 == 0) for n, cursor in enumerate(names.cursors)]
        taken = {(each.user, each.options.get("connection_id")) for each in self.all}
        for n, name in enumerate(names.connections):
            late += [Stranger(USERS[n % 4], connection_id=name)] if (USERS[n % 4], name) not in taken else []
        late += [Stranger("mallory", thread_id=name, only_thread=name) for name in names.threads]
        self.all += late
        for stranger in late:
            await stranger.come(self.elsewhere)
        for stranger in self.all[:3]:
            for run in names.runs:
                stranger.ask(type="cancel", run_id=run, user_id=names.users[0] if names.users else "alice")
            for cursor in names.cursors[:4]:
                stranger.ask(type="ping", cursor=cursor)
            stranger.ask(type="subscribe", topics=[*names.users, *names.threads, "*"], cursors={"": names.cursors[:1]})
            stranger.ask(type="auth", token="".join(names.users[:1]), user_id="".join(names.users[:1]))
        await until(lambda: all(each.socket.frames and each.answered for each in self.all), "every answer", 10.0)
        return names

    def judge(self) -> None:
        """Nobody of them received anything of anybody."""
        for stranger in self.all:
            stranger.judge(self._epochs)
        assert self.elsewhere.metrics.isolation_violations == 0
        assert self.manager.metrics.isolation_violations == self._violations

    async def leave(self) -> None:
        """Go, and leave no task behind."""
        await self.elsewhere.shutdown()
        await asyncio.gather(*(each.serving for each in self.all if hasattr(each, "serving")), return_exceptions=True)


async def beside(manager: UnifiedWebSocketManager, work: Callable[[], Awaitable[None]]) -> Strangers:
    """Do some work of a manager's users with strangers beside them from before its begin until after its end."""
    strangers = Strangers(manager)
    await strangers.come()
    try:
        await work()
        await strangers.name_everything()
    finally:
        await strangers.leave()
    return strangers
