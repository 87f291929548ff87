"""The log on Redis: `log="redis://host:6379/0"`. Needs the extra `redis`.

One stream for each log; one script appends, deduplicates, numbers, chains, trims and publishes in one atomic step. What
is published is copied to the readers of every process; what does not join is read from the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import time
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, Final, NamedTuple

from websocket_core.control import CONTROL
from websocket_core.errors import LogUnavailable
from websocket_core.events import Event, random_text
from websocket_core.identity import LogName
from websocket_core.leases import LeasedEvent, LeaseLost
from websocket_core.limits import Limits, Retention
from websocket_core.log import Batch, Entry, GapReason, Position
from websocket_core.logs.redis.addresses import Addresses
from websocket_core.logs.redis.exchange import Exchange, Script
from websocket_core.logs.redis.feed import Feed
from websocket_core.logs.redis.link import pack
from websocket_core.logs.redis.names import Names, Namespace
from websocket_core.logs.redis.packing import packed_event, packed_parts, published_entry, stored_entry
from websocket_core.logs.redis.recent import Acknowledged
from websocket_core.logs.redis.shares import Call, Share
from websocket_core.logs.redis.state import RedisState
from websocket_core.logs.redis.work import RedisWork
from websocket_core.metrics import Metrics
from websocket_core.work import WorkLimits

logger = logging.getLogger(__name__)

_new: Any = tuple.__new__  # as in `packing`

HEAD_SECONDS: Final = 30 * 86_400
"""How long the head of a log is remembered after its last use."""
TIMEOUT: Final = 2.0
PLACES: Final = 8_192
"""Of so many logs this process remembers what their keys are called."""
SPARE_BYTES: Final = 1_048_576
"""So much larger than an event may be here, an entry is still read: another process may have other limits."""
RANDOM_BYTES: Final = 12
"""Of each append: half for its mark, and half for the epoch of a log that has none."""
RANDOM_AT_ONCE: Final = 64
"""So many appends share one call of the source of randomness."""


class Place(NamedTuple):
    """A log in Redis: its names, and what every append to it says of it, packed."""

    names: Names
    owner: bytes
    keys: bytes
    runs: bytes
    """The key of the user's runs that have ended."""
    channel: bytes


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
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        entropy: Callable[[int], bytes] = os.urandom,
        rng: random.Random | None = None,
        skew: Callable[[], float] | None = None,
    ) -> None:
        retention = retention or Retention()
        Addresses(url, timeout=timeout)  # what cannot be read is found out here
        self._url = url
        self._names = Namespace(namespace)
        self._events = retention.events
        self._bytes = retention.bytes
        self._age = int(retention.age * 1000)
        limits = limits or Limits()
        self._batch_bytes = limits.batch_bytes
        self._entry_bytes = limits.event_bytes + SPARE_BYTES
        self._place = lru_cache(PLACES)(self._place_of)
        self._timeout = timeout
        self._metrics = metrics or Metrics()
        self._monotonic = monotonic
        self._clocks = monotonic() - clock()
        self._entropy = entropy
        self._rng = rng or random.SystemRandom()
        self._skew = skew
        self._append_script = Script.load("append")
        self._append_call = self._call_with(0)
        self._read_script = Script.load("read")
        self._open_script = Script.load("open")
        self._forget_script = Script.load("forget")
        self._name = random_text(entropy, 9)
        self.channel = self._names.plain(f"process:{self._name}")
        """Where this process can be told, by `PUBLISH` with anything but an empty text, to look after its runs."""
        self._looked = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._begin()

    def _begin(self) -> None:
        """Without connections. Those of a loop that is gone can neither be used nor closed any more."""
        self._acknowledged = Acknowledged(lambda: self._writer.submit("PING"), monotonic=self._monotonic)
        self._writing: Exchange | None = None
        self._reading: Exchange | None = None
        self._feed: Feed | None = None
        self._random: list[bytes] = []  # of this process alone: a forked one comes with a loop of its own

    def _come_to_loop(self) -> None:
        """Begin anew where the running loop is another than before."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._begin()

    def state(self, *, per_user: int, clock: Callable[[], float]) -> RedisState:
        """What processes share beside the logs, over the same connection as reading."""
        return RedisState(
            self, self._names, age=self._age / 1000, per_user=per_user, clock=clock, surely=self._run_surely
        )

    def work(self, queue: str, limits: WorkLimits) -> RedisWork:
        """Work for one of many processes, over the same connection as reading."""
        return RedisWork(self, self._names, queue, limits, passed_over=self._passed_over)

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
            self._writing = Exchange(
                self._url,
                timeout=self._timeout,
                replay=self._lately,
                rng=self._rng,
                scripts=(self._append_script, self._forget_script),  # both are there, or neither: order is kept
            )
        return self._writing

    @property
    def reader(self) -> Exchange:
        """The connection for everything that can be asked again."""
        self._come_to_loop()
        if self._reading is None:
            scripts = (self._open_script, self._read_script)
            self._reading = Exchange(self._url, timeout=self._timeout, scripts=scripts, rng=self._rng)
        return self._reading

    async def open(self, log: LogName) -> Position:
        names = self._names.of_log(log)
        keys = (names.meta, names.entries, names.ids)
        answer = await self.reader.run(self._open_script, keys, (self._new_epoch(), HEAD_SECONDS * 1000))
        return _position_of(answer)

    async def read(self, log: LogName, after: Position | None, limit: int) -> Batch:
        self._come_to_loop()
        hub = None if self._feed is None else self._feed.copies_of(log)
        if hub is not None and after is not None:
            copied = hub.after(after, limit, self._batch_bytes)
            if copied is not None:
                return copied
        names = self._place(log).names
        place = ("", 0, "") if after is None else after
        arguments = (self._skew_ms(), self._age, limit, self._batch_bytes, self._entry_bytes, *place)
        answer = await self.reader.run(self._read_script, (names.meta, names.entries), arguments)
        if not answer:
            return Batch(None, (), False, GapReason.NEW_EPOCH if after is not None else None)
        epoch, reason, start, start_mark, more, foreign, *found = answer
        life = epoch.decode()
        entries: list[Entry] = []
        for offset, packed in zip(found[::2], found[1::2], strict=True):
            try:
                entries.append(stored_entry(log, life, offset, packed, self._clocks))
            except (ValueError, OverflowError):
                foreign += 1
        if foreign:
            self._passed_over(foreign)
        gap = GapReason(reason.decode()) if reason else None
        return Batch(Position(life, start, start_mark.decode()), entries, bool(more), gap)

    async def control(self, log: LogName) -> Entry | None:
        published: bytes | None = await self.reader.submit("HGET", self._place(log).names.meta, "c")
        return None if published is None else self._published(log, published)

    def watch(self, log: LogName, wake: Callable[[], None]) -> Callable[[], None]:
        return self._follower().follow(log, wake)

    def listen(self, heard: Callable[[], None]) -> Callable[[], None]:
        """Call `heard` when somebody publishes something on `channel`, until the returned function is called."""
        return self._follower().listen(heard)

    def _follower(self) -> Feed:
        self._come_to_loop()
        if self._feed is None:
            self._feed = Feed(
                self._url,
                self._names,
                self.reader,
                timeout=self._timeout,
                entry=self._published,
                probe=self._name,
                healed=self._healed,
                rng=self._rng,
                monotonic=self._monotonic,
            )
        return self._feed

    def _healed(self) -> None:
        self._metrics.feed_replacements += 1

    async def check(self) -> None:
        """See whether Redis answers both connections and takes a write. Raises `LogUnavailable`."""
        alive = self._names.plain(f"alive:{self._name}")
        await asyncio.gather(self._writer.submit("SET", alive, "", "PX", 10_000), self.reader.submit("PING"))
        if not self._looked:
            self._looked = True
            await self._look_at_memory()

    async def _look_at_memory(self) -> None:
        """Warn of a Redis that would throw logs away."""
        with contextlib.suppress(LogUnavailable):  # it may not say
            about = (await self.reader.submit("INFO", "memory")).decode(errors="replace")
            known = dict(line.split(":", 1) for line in about.splitlines() if ":" in line)
            if known.get("maxmemory", "0") != "0" and known.get("maxmemory_policy") != "noeviction":
                logger.warning(
                    "this Redis throws keys away when it is full, and users lose events: set maxmemory-policy to "
                    "noeviction",
                    extra={"maxmemory_policy": known.get("maxmemory_policy")},
                )

    async def append(self, log: LogName, event: Event) -> Position:
        lease_id = event.lease_id if isinstance(event, LeasedEvent) else None
        place = self._place(log)
        writer, acknowledged = self._writer, self._acknowledged  # not those of a log that was begun anew meanwhile
        answer: bytes = await writer.send(self._append_of(place, event, lease_id=lease_id))
        if not answer:
            raise LeaseLost("another process has ended this run")
        position = _position_of(answer)
        acknowledged.add(log, len(event.body), partial(self._append_again, place, event, position))
        return position

    def _place_of(self, log: LogName) -> Place:
        names = self._names.of_log(log)
        runs = self._names.of_user(log.name, "x")
        return Place(
            names, log.name.encode(), packed_parts(*names[:3]), packed_parts(runs), packed_parts(names.channel)
        )

    def _call_with(self, skew: int) -> Call:
        fixed = (self._age, self._events, self._bytes, HEAD_SECONDS * 1000, skew)
        self._call_skew = skew
        return Call(self._append_script.digest, fixed, arguments=3)

    def _append_of(
        self, place: Place, event: Event, was: Position | None = None, *, lease_id: str | None = None
    ) -> Share:
        """A share of the script that appends, for this event; with `was`, where it was acknowledged before; with a
        lease, unless that is lost."""
        if not self._random:
            text = random_text(self._entropy, RANDOM_BYTES * RANDOM_AT_ONCE).encode()
            size = len(text) // RANDOM_AT_ONCE
            self._random = [text[start : start + size] for start in range(0, len(text), size)]
        if self._skew is not None and (skew := self._skew_ms()) != self._call_skew:
            self._append_call = self._call_with(skew)
        said = packed_event(event, place.owner)
        kind = b"1" if event.connection_id == CONTROL else b"0"
        about = self._random.pop() + kind + event.id.encode()
        if lease_id is not None:
            about += b"\x1fL" + lease_id.encode()
        elif was is not None:
            about += b"\x1fW%b %d" % (was.epoch.encode(), was.offset)
        arguments = b"%b$%d\r\n%b\r\n$%d\r\n%b\r\n" % (place.channel, len(about), about, len(said), said)
        keys = place.keys if lease_id is None else place.keys + place.runs
        share: Share = _new(Share, (self._append_call, 3 if lease_id is None else 4, keys, arguments))
        return share

    def _append_again(self, place: Place, event: Event, was: Position) -> bytes:
        share = self._append_of(place, event, was)
        return share.call.of([share])

    def _lately(self) -> list[bytes]:
        """What was acknowledged in the last seconds, to be done again: appended by id, denied for no longer."""
        return [recent.again() for recent in self._acknowledged]

    async def _run_surely(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """As `run`, and again if Redis forgets it: for what may be done twice."""
        command = pack("EVAL", script.text, len(keys), *keys, *arguments)
        writer, acknowledged = self._writer, self._acknowledged
        answer = await writer.send(command)
        acknowledged.add(None, len(command), lambda: command)
        return answer

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
        self._begin()

    def _published(self, log: LogName, data: bytes) -> Entry | None:
        """The entry of a push; None for anything else."""
        try:
            return published_entry(log, data, self._clocks)
        except (ValueError, OverflowError):
            if data:
                self._passed_over(1)
            return None

    def _passed_over(self, foreign: int) -> None:
        self._metrics.foreign_entries += foreign
        logger.warning("something in Redis is no entry of a log and was passed over", extra={"entries": foreign})

    def _new_epoch(self) -> str:
        return random_text(self._entropy, 6)

    def _skew_ms(self) -> int:
        return 0 if self._skew is None else int(self._skew() * 1000)


def _position_of(answer: bytes) -> Position:
    epoch, offset, mark = answer.decode().split(" ")
    position: Position = _new(Position, (epoch, int(offset), mark))
    return position
