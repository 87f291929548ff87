"""`Feed`: what is appended to the logs that somebody follows here, as Redis publishes it.

A push is a signal and a copy. Its number, mark and predecessor are compared with what came before; if it does not join,
or signals were lost, the copies are dropped and whoever reads asks Redis. No correctness rests on a push.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from redis.exceptions import RedisError

from websocket_core.identity import LogName
from websocket_core.log import Batch, Entry, Position
from websocket_core.logs.redis.exchange import Exchange, connect, end_task
from websocket_core.logs.redis.names import Namespace

logger = logging.getLogger(__name__)

COPIES: Final = 256
"""How many of the newest entries of a followed log are kept here."""
PROBE_SECONDS: Final = 2.0
"""Between two events that make the round trip through Redis to show that they arrive."""
DEAF_SECONDS: Final = 6.0
"""Without one for so long, the subscriber is deaf: it is replaced."""
SUBSCRIBED_AT_ONCE: Final = 512


class Hub:
    """The newest entries of one log, as far as they join, and who is woken by the next."""

    __slots__ = ("copies", "size", "watchers")

    def __init__(self) -> None:
        self.watchers: dict[object, Callable[[], None]] = {}
        self.copies: deque[Entry] = deque(maxlen=COPIES)

    def wake(self) -> None:
        for watcher in list(self.watchers.values()):
            watcher()

    def take(self, entry: Entry | None) -> None:
        """Keep a copy of an entry; None drops them all, as one does that does not join."""
        last = self.copies[-1] if self.copies else None
        if entry is None:
            self.copies.clear()
        elif last is None or (
            entry.epoch == last.epoch and entry.offset == last.offset + 1 and entry.prev == last.mark
        ):
            self.copies.append(entry)
        elif entry.epoch != last.epoch or entry.offset > last.offset or entry.mark != last.mark:
            self.copies.clear()
            self.copies.append(entry)
        self.wake()

    def after(self, position: Position, limit: int, most_bytes: int) -> Batch | None:
        """What the copies have after a position, if that joins them and there is something; else None: ask Redis."""
        copies = self.copies
        if not copies or position.epoch != copies[0].epoch:
            return None
        behind = copies[-1].offset - position.offset
        if not 0 < behind <= len(copies) or copies[-behind].prev != position.mark:
            return None
        entries: list[Entry] = []
        size = 0
        for index in range(len(copies) - behind, min(len(copies), len(copies) - behind + limit)):
            size += len(copies[index].event.body)
            if entries and size > most_bytes:
                break
            entries.append(copies[index])
        return Batch(position, entries, len(entries) < behind)


class Feed:
    """One subscriber of one process, in one event loop."""

    def __init__(
        self,
        url: str,
        names: Namespace,
        exchange: Exchange,
        *,
        timeout: float,
        entry: Callable[[LogName, bytes], Entry | None],
        probe: str,
        healed: Callable[[], None],
        rng: random.Random,
        monotonic: Callable[[], float],
    ) -> None:
        self._names = names
        self._exchange = exchange
        self._client = connect(url, timeout=timeout)
        self._entry_of = entry
        self._probe_channel = names.plain(f"process:{probe}")
        self._healed = healed
        self._rng = rng
        self._monotonic = monotonic
        self._hubs: dict[str, tuple[LogName, Hub]] = {}
        self._changed = asyncio.Event()
        self._wanted: deque[tuple[str, bool]] = deque()
        self._heard_at = 0.0
        self._task: asyncio.Task[None] | None = None

    def follow(self, log: LogName, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake` after each push of that log, and whenever pushes may have been lost, until the returned function
        is called."""
        channel = self._names.of_log(log).channel
        held = self._hubs.get(channel)
        if held is None:
            held = self._hubs[channel] = (log, Hub())
            self._want(channel, True)
        hub = held[1]
        token = object()
        hub.watchers[token] = wake
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="websocket_core redis feed")

        def leave() -> None:
            hub.watchers.pop(token, None)
            if not hub.watchers and self._hubs.get(channel, (None, None))[1] is hub:
                del self._hubs[channel]
                self._want(channel, False)

        return leave

    def copies_of(self, log: LogName) -> Hub | None:
        held = self._hubs.get(self._names.of_log(log).channel)
        return None if held is None else held[1]

    async def close(self) -> None:
        if self._task is not None:
            await end_task(self._task)
        await self._client.aclose()

    def _want(self, channel: str, follow: bool) -> None:
        self._wanted.append((channel, follow))
        self._changed.set()

    async def _run(self) -> None:
        """Listen, and begin anew whenever the connection is lost or says nothing."""
        failures = 0
        while True:
            try:
                await self._listen()
            except (RedisError, OSError, TimeoutError) as error:
                logger.warning("the subscriber of the log is replaced", extra={"error": type(error).__name__})
            except Exception:  # a subscriber that dies for good leaves everybody waiting
                logger.exception("the subscriber of the log crashed and is replaced")
            self._healed()
            for _, hub in list(self._hubs.values()):
                hub.copies.clear()
            failures = 0 if self._heard_at > 0.0 else failures + 1
            await asyncio.sleep(self._rng.uniform(0.05, min(4.0, 0.1 * 2**failures)))

    async def _listen(self) -> None:
        self._heard_at = 0.0
        subscriber = self._client.pubsub()
        helpers: list[asyncio.Task[None]] = []
        try:
            self._wanted.clear()
            await subscriber.subscribe(self._probe_channel)
            for start in range(0, len(channels := list(self._hubs)), SUBSCRIBED_AT_ONCE):
                await subscriber.subscribe(*channels[start : start + SUBSCRIBED_AT_ONCE])
            began = self._monotonic()
            loop = asyncio.get_running_loop()
            helpers = [loop.create_task(self._subscribe(subscriber)), loop.create_task(self._probe())]
            while True:
                message = await subscriber.get_message(timeout=1.0)
                if message is not None:
                    self._take(message)
                for helper in helpers:
                    if helper.done():
                        helper.result()
                if self._monotonic() - max(began, self._heard_at) > DEAF_SECONDS:
                    raise TimeoutError("nothing arrives")
        finally:
            for helper in helpers:
                await end_task(helper, patience=0.1)
            await subscriber.aclose()  # type: ignore[no-untyped-call]

    async def _subscribe(self, subscriber: Any) -> None:
        """Carry out what was asked for since."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._wanted:
                channel, follow = self._wanted.popleft()
                if follow and channel in self._hubs:
                    await subscriber.subscribe(channel)
                elif not follow and channel not in self._hubs:
                    await subscriber.unsubscribe(channel)

    async def _probe(self) -> None:
        """Send an event through Redis to ourselves, again and again."""
        while True:
            asking = self._exchange.submit("PUBLISH", self._probe_channel, "")
            asking.add_done_callback(lambda answer: answer.cancelled() or answer.exception())  # its absence is noticed
            await asyncio.sleep(PROBE_SECONDS)

    def _take(self, message: dict[str, Any]) -> None:
        channel = message["channel"].decode()
        if channel == self._probe_channel:
            self._heard_at = self._monotonic()
            return
        held = self._hubs.get(channel)
        if held is None:
            return
        log, hub = held
        if message["type"] == "subscribe":
            hub.take(None)  # whoever read before this may have missed something
        elif message["type"] == "message":
            hub.take(self._entry(log, message["data"]))

    def _entry(self, log: LogName, data: bytes) -> Entry | None:
        """The entry of a push; None for anything else."""
        return self._entry_of(log, data)
