"""The log on Redis: `log="redis://host:6379/0"`. Needs the extra `redis`.

One stream for each log; one script appends, deduplicates, numbers, chains, trims and publishes in one atomic step. What
is published is copied to the readers of every process; what does not join is read from the stream.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from websocket_core.control import CONTROL
from websocket_core.events import Event, random_text
from websocket_core.identity import LogName
from websocket_core.limits import Limits, Retention
from websocket_core.log import Batch, Entry, GapReason, Position
from websocket_core.logs.redis.exchange import Command, Exchange, Script
from websocket_core.logs.redis.feed import Feed
from websocket_core.logs.redis.names import Namespace
from websocket_core.logs.redis.recent import Acknowledged
from websocket_core.logs.redis.state import RedisState

HEAD_SECONDS: Final = 30 * 86_400
"""How long the head of a log is remembered after its last use."""
TIMEOUT: Final = 2.0


class RedisLog:
    """A `LogStore` in Redis 6.2 or newer, shared by every process with the same URL and namespace.

    Connections are made when they are needed, in the event loop that needs them. Retention is kept by Redis: an entry
    that is too old is passed over at once and goes with the next append, or with the whole log. `skew` is added to the
    clock of the server, in seconds; for tests.
    """

    def __init__(
        self,
        url: str,
        retention: Retention | None = None,
        *,
        limits: Limits | None = None,
        namespace: str = "unified-websocket",
        timeout: float = TIMEOUT,
        healed: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
        entropy: Callable[[int], bytes] = os.urandom,
        rng: random.Random | None = None,
        skew: Callable[[], float] = lambda: 0.0,
    ) -> None:
        retention = retention or Retention()
        self._url = url
        self._names = Namespace(namespace)
        self._events = retention.events
        self._bytes = retention.bytes
        self._age = int(retention.age * 1000)
        self._batch_bytes = (limits or Limits()).batch_bytes
        self._timeout = timeout
        self._healed = healed
        self._monotonic = monotonic
        self._entropy = entropy
        self._rng = rng or random.SystemRandom()
        self._skew = skew
        self._append_script = Script.load("append")
        self._read_script = Script.load("read")
        self._open_script = Script.load("open")
        self._forget_script = Script.load("forget")
        self._clock_offset: float | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._begin()

    def _begin(self) -> None:
        """Without connections. Those of a loop that is gone can neither be used nor closed any more."""
        self._acknowledged = Acknowledged(lambda: self._writer.submit("PING"), monotonic=self._monotonic)
        self._writing: Exchange | None = None
        self._reading: Exchange | None = None
        self._feed: Feed | None = None

    def _come_to_loop(self) -> None:
        """Begin anew where the running loop is another than before."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._begin()

    def state(self, *, per_user: int, clock: Callable[[], float]) -> RedisState:
        """What processes share beside the logs, over the same connection as reading."""
        return RedisState(self, self._names, age=self._age / 1000, per_user=per_user, clock=clock)

    def submit(self, *command: Any) -> asyncio.Future[Any]:
        """As `Exchange.submit`, over the connection for everything that can be asked again."""
        return self.reader.submit(*command)

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """As `Exchange.run`, over the same connection."""
        return await self.reader.run(script, keys, arguments)

    @property
    def _writer(self) -> Exchange:
        self._come_to_loop()
        if self._writing is None:
            self._writing = Exchange(self._url, timeout=self._timeout, replay=self._lately)
        return self._writing

    @property
    def reader(self) -> Exchange:
        """The connection for everything that can be asked again."""
        self._come_to_loop()
        if self._reading is None:
            self._reading = Exchange(self._url, timeout=self._timeout)
        return self._reading

    async def open(self, log: LogName) -> Position:
        names = self._names.of_log(log)
        keys = (names.meta, names.entries, names.ids)
        epoch, offset, mark = await self.reader.run(self._open_script, keys, (self._new_epoch(), HEAD_SECONDS * 1000))
        return Position(epoch.decode(), offset, mark.decode())

    async def read(self, log: LogName, after: Position | None, limit: int) -> Batch:
        self._come_to_loop()
        hub = None if self._feed is None else self._feed.copies_of(log)
        if hub is not None and after is not None:
            copied = hub.after(after, limit, self._batch_bytes)
            if copied is not None:
                return copied
        names = self._names.of_log(log)
        place = ("", 0, "") if after is None else after
        arguments = (self._skew_ms(), self._age, limit, self._batch_bytes, *place)
        answer = await self.reader.run(self._read_script, (names.meta, names.entries), arguments)
        if not answer:
            return Batch(None, (), False, GapReason.NEW_EPOCH if after is not None else None)
        epoch, reason, start, start_mark, more, found = answer
        life = epoch.decode()
        entries = [self.entry(log, life, fields) for fields in found]
        gap = GapReason(reason.decode()) if reason else None
        return Batch(Position(life, start, start_mark.decode()), entries, bool(more), gap)

    async def control(self, log: LogName) -> Entry | None:
        packed, epoch = await self.reader.submit("HMGET", self._names.of_log(log).meta, "c", "e")
        if packed is None:
            return None
        offset, mark, prev, at, event_id, owner, body = packed.split(b"\n", 6)
        fields = (int(offset), mark, prev, at, event_id, b"=" + CONTROL.encode(), b"", owner, body)
        return self.entry(log, epoch.decode(), fields)

    def watch(self, log: LogName, wake: Callable[[], None]) -> Callable[[], None]:
        self._come_to_loop()
        if self._feed is None:
            self._feed = Feed(
                self._url,
                self._names,
                self.reader,
                timeout=self._timeout,
                entry=self.entry,
                probe=random_text(self._entropy, 9),
                healed=self._healed,
                rng=self._rng,
                monotonic=self._monotonic,
            )
        return self._feed.follow(log, wake)

    async def append(self, log: LogName, event: Event) -> Position:
        answer = await self._writer.run(self._append_script, *self._append_command(log, event))
        epoch, offset, mark = answer
        position = Position(epoch.decode(), offset, mark.decode())
        self._acknowledged.add(log, event, position)
        return position

    def _append_command(
        self, log: LogName, event: Event, was: Position | None = None
    ) -> tuple[Sequence[str], Sequence[Any]]:
        names = self._names.of_log(log)
        arguments = (
            self._skew_ms(), self._age, self._events, self._bytes, HEAD_SECONDS * 1000, names.channel,
            self._new_epoch(), log.name, event.id, random_text(self._entropy, 6), _marked(event.connection_id),
            _marked(event.thread_id), event.body, int(event.connection_id == CONTROL),
            *(() if was is None else (was.epoch, was.offset)),
        )  # fmt: skip
        return (names.meta, names.entries, names.ids), arguments

    def _lately(self) -> list[Command]:
        """What was acknowledged in the last seconds, to be appended again by id."""
        commands: list[Command] = [("SCRIPT", "LOAD", self._append_script.text)]
        for recent in self._acknowledged:
            keys, arguments = self._append_command(recent.log, recent.event, recent.position)
            commands.append(("EVALSHA", self._append_script.digest, len(keys), *keys, *arguments))
        return commands if len(commands) > 1 else []

    async def forget(self, log: LogName) -> None:
        names = self._names.of_log(log)
        self._acknowledged.forget(log)
        keys = (names.meta, names.entries, names.ids)
        await self._writer.run(self._forget_script, keys, (names.channel,))

    async def expire(self) -> None:
        """Redis drops what is too old."""

    async def close(self) -> None:
        self._come_to_loop()
        for held in (self._acknowledged, self._feed, self._writing, self._reading):
            if held is not None:
                await held.close()
        self._feed = self._writing = self._reading = None

    def entry(self, log: LogName, epoch: str, fields: Sequence[Any]) -> Entry:
        """An entry as Redis has it: offset, mark, prev, when in ms, id, connection id, thread id, owner, body."""
        offset, mark, prev, at, event_id, connection, thread, owner, body = fields
        event = Event(event_id.decode(), body, _unmarked(connection), _unmarked(thread))
        # The owner as it is stored, to be compared with the log that was asked for.
        named = LogName(log.kind, owner.decode())
        return Entry(named, epoch, int(offset), mark.decode(), prev.decode(), event, self._known_at(int(at) / 1000))

    def _known_at(self, seconds: float) -> float:
        """A time of the server's clock in ours. The difference is taken once, from the first entry that is seen."""
        if self._clock_offset is None:
            self._clock_offset = self._monotonic() - seconds
        return seconds + self._clock_offset

    def _new_epoch(self) -> str:
        return random_text(self._entropy, 6)

    def _skew_ms(self) -> int:
        return int(self._skew() * 1000)


def _marked(text: str | None) -> str:
    """As it is stored: nothing is not the same as an empty text."""
    return "" if text is None else f"={text}"


def _unmarked(stored: bytes) -> str | None:
    return stored[1:].decode() if stored else None
