"""`Feed`: what is appended to the logs that somebody follows here, as Redis publishes it.

A push is a signal and a copy. Its number, mark and predecessor are compared with what came before; if it does not join,
or signals were lost, the copies are dropped and whoever reads asks Redis. No correctness rests on a push.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from redis.exceptions import RedisError

from websocket_core.identity import LogName
from websocket_core.log import Batch, Entry, Position
from websocket_core.logs.redis.addresses import Addresses, Rests
from websocket_core.logs.redis.exchange import Exchange, end_task
from websocket_core.logs.redis.link import Link, pack
from websocket_core.logs.redis.names import Namespace
from websocket_core.logs.redis.refusals import Complaints, Refused, reason_of, refused
from websocket_core.logs.redis.sentinels import Watch

logger = logging.getLogger(__name__)

COPIES: Final = 256
"""How many of the newest entries of a followed log are kept here at most."""
COPIES_BYTES: Final = 262_144
"""How large their bodies are together at most, unless it is one."""
COPIES_SECONDS: Final = 15.0
"""After so long without a push, or twice that, they are dropped: whoever followed has read them."""
PROBE_SECONDS: Final = 2.0
"""Between two events that make the round trip through Redis to show that they arrive."""
DEAF_SECONDS: Final = 6.0
"""Without one for so long, the subscriber is deaf: it is replaced."""
LINGER_SECONDS: Final = 30.0
"""How long a log is subscribed to after its last watcher has left: most come back."""
LINGERING: Final = 4_096
"""How many are at most."""
SUBSCRIBED_AT_ONCE: Final = 512


class Hub:
    """The newest entries of one log, as far as they join, and who is woken by the next."""

    __slots__ = ("copies", "fresh", "log", "size", "watchers")

    def __init__(self, log: LogName) -> None:
        self.log = log
        self.watchers: tuple[Callable[[], None], ...] = ()
        self.copies: deque[Entry] = deque(maxlen=COPIES)
        self.size = 0
        """At least what the bodies of the copies have in bytes."""
        self.fresh = False

    def drop(self) -> None:
        self.copies.clear()
        self.size = 0

    def take(self, entry: Entry | None) -> None:
        """Keep a copy of an entry; None drops them all, as one does that does not join."""
        # Once for every event that is followed in this process: written for speed.
        copies = self.copies
        if entry is None:
            self.drop()
        else:
            _, epoch, offset, mark, prev, event, _ = entry
            if copies:
                _, last_epoch, last_offset, last_mark, _, _, _ = copies[-1]
                if prev == last_mark and offset == last_offset + 1 and epoch == last_epoch:
                    copies.append(entry)
                elif epoch != last_epoch or offset > last_offset or mark != last_mark:
                    self.drop()
                    copies.append(entry)
            else:
                copies.append(entry)
            self.fresh = True
            self.size += len(event.body)
            if self.size > COPIES_BYTES:
                self._shrink()
        for watcher in self.watchers:
            watcher()

    def leave(self, watcher: Callable[[], None]) -> None:
        """One who follows twice leaves once."""
        place = self.watchers.index(watcher)
        self.watchers = self.watchers[:place] + self.watchers[place + 1 :]

    def _shrink(self) -> None:
        """To half, so that it is seldom done."""
        copies = self.copies
        self.size = sum(len(entry.event.body) for entry in copies)
        while self.size > COPIES_BYTES // 2 and len(copies) > 1:
            self.size -= len(copies.popleft().event.body)

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
        """`entry` makes an entry out of what was published to that log, and None out of anything else; `probe` names
        this process, among all that use the namespace; `healed` is called each time a subscriber that heard nothing any
        more has been replaced by one that is subscribed to everything. Raises `InvalidConfiguration`."""
        self._addresses = Addresses(url, timeout=timeout)
        self._names = names
        self._exchange = exchange
        self._timeout = timeout
        self._entry = entry
        self.channel = names.plain(f"process:{probe}")
        """On which this process hears its own probes, and the signals of others: anything but an empty text."""
        self._own = self.channel.encode()
        self._probe = pack("PUBLISH", self.channel, "")
        self._healed = healed
        self._rng = rng
        self._rests = Rests(rng)
        self._guard: Watch | None = None
        self._complaints = Complaints(logger, "the subscriber of the log is replaced")
        self._monotonic = monotonic
        self._hubs: dict[bytes, Hub] = {}
        self._hub_of: dict[LogName, Hub] = {}
        self._lingering: dict[bytes, float] = {}
        """Channels whose last watcher has left, and until when they stay; the first to go first."""
        self._listeners: dict[object, Callable[[], None]] = {}
        self._changed: dict[bytes, None] = {}
        self._cooled_at = monotonic()
        self._link: Link | None = None
        self._gone: asyncio.Future[None] | None = None
        self._heard_at = 0.0
        self._stands = False
        """Whether the subscriber is subscribed to everything."""
        self._replacing = False
        """Whether one was lost that was."""
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def follow(self, log: LogName, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake` after each push of that log, and whenever pushes may have been lost, until the returned function
        is called."""
        hub = self._hub_of.get(log)
        channel = self._names.of_log(log).channel.encode()
        if hub is None:
            hub = self._hubs[channel] = self._hub_of[log] = Hub(log)
            self._want(channel)
        else:
            self._lingering.pop(channel, None)
        hub.watchers += (wake,)
        self._start()
        there = True

        def leave() -> None:
            nonlocal there
            if not there:
                return
            there = False
            hub.leave(wake)
            if not hub.watchers:
                self._lingering[channel] = self._monotonic() + LINGER_SECONDS
                if len(self._lingering) > LINGERING:
                    self._unfollow(next(iter(self._lingering)))

        return leave

    def listen(self, heard: Callable[[], None]) -> Callable[[], None]:
        """Call `heard` whenever somebody publishes anything but an empty text on `channel`, and whenever that may have
        been missed, until the returned function is called."""
        token = object()
        self._listeners[token] = heard
        self._start()

        def leave() -> None:
            self._listeners.pop(token, None)

        return leave

    def copies_of(self, log: LogName) -> Hub | None:
        return self._hub_of.get(log)

    async def close(self) -> None:
        self._closed = True
        if self._task is not None:
            await end_task(self._task)
        if self._guard is not None:
            await end_task(self._guard.task)

    # -- one subscriber after the other

    def _start(self) -> None:
        if self._task is None and not self._closed:
            # Lives until `close`, which ends it.
            self._task = asyncio.get_running_loop().create_task(self._run(), name="websocket_core redis feed")

    async def _run(self) -> None:
        """Listen, and begin anew whenever the connection is lost or says nothing."""
        while True:
            try:
                await self._listen()
            except (RedisError, OSError, Refused) as error:
                self._complaints.say(reason_of(error))
            except Exception:  # a subscriber that dies for good leaves everybody waiting
                logger.exception("the subscriber of the log crashed and is replaced")
            self._rests.failed(0.0)
            await asyncio.sleep(self._rests.left(0.0))

    async def _listen(self) -> None:
        async with asyncio.timeout(self._timeout * 2):
            link = Link(await self._addresses.dial())
        self._gone = gone = asyncio.get_running_loop().create_future()
        link.received, link.lost = self._received, self._lost
        try:
            if link.closed:
                raise ConnectionResetError("the connection was lost")
            if self._guard is None and self._addresses.guarded:
                self._guard = Watch(self._addresses, self._switched, rng=self._rng)
            self._link = link
            self._stands = False
            self._heard_at = 0.0
            self._changed.clear()
            await self._subscribe(link, list(self._hubs))
            await self._subscribe(link, [self._own])  # its confirmation is the last
            began = self._monotonic()
            seconds = 0
            while not gone.done():
                await asyncio.wait([gone], timeout=1.0)
                seconds += 1
                if self._stands and not gone.done():
                    self._rests.succeeded()
                if self._monotonic() - max(began, self._heard_at) > DEAF_SECONDS:
                    raise TimeoutError("nothing arrives")
                if seconds % PROBE_SECONDS == 0:
                    self._send_probe()
                self._tidy()
            gone.result()
        finally:
            # At once, not when the next one stands: what it hears must not join what was heard before.
            self._link = None
            self._replacing = self._replacing or self._stands
            link.close()
            for hub in self._hubs.values():
                hub.drop()
            await link.wait_closed()

    async def _subscribe(self, link: Link, channels: list[bytes]) -> None:
        for start in range(0, len(channels), SUBSCRIBED_AT_ONCE):
            link.write(pack("SUBSCRIBE", *channels[start : start + SUBSCRIBED_AT_ONCE]))
            await link.drained()

    def _send_probe(self) -> None:
        """Send an event through Redis to ourselves. Its absence is noticed."""
        asking = self._exchange.send(self._probe)
        asking.add_done_callback(lambda answer: answer.cancelled() or answer.exception())

    # -- what is followed

    def _want(self, channel: bytes) -> None:
        if self._link is None:
            return  # the next one subscribes to everything
        if not self._changed:
            asyncio.get_running_loop().call_soon(self._carry_out)
        self._changed[channel] = None

    def _carry_out(self) -> None:
        changed, self._changed = self._changed, {}
        if self._link is not None:
            for verb, channels in (
                ("SUBSCRIBE", [channel for channel in changed if channel in self._hubs]),
                ("UNSUBSCRIBE", [channel for channel in changed if channel not in self._hubs]),
            ):
                for start in range(0, len(channels), SUBSCRIBED_AT_ONCE):
                    self._link.write(pack(verb, *channels[start : start + SUBSCRIBED_AT_ONCE]))

    def _unfollow(self, channel: bytes) -> None:
        del self._lingering[channel]
        hub = self._hubs.pop(channel)
        del self._hub_of[hub.log]
        self._want(channel)

    def _tidy(self) -> None:
        """Leave what nobody came back to, and drop copies of what has become quiet."""
        now = self._monotonic()
        for channel, until in list(self._lingering.items()):
            if until > now:
                break
            self._unfollow(channel)
        if now - self._cooled_at >= COPIES_SECONDS:
            self._cooled_at = now
            for hub in self._hubs.values():
                if not hub.fresh:
                    hub.drop()
                hub.fresh = False

    # -- what is heard

    def _received(self, replies: list[Any]) -> None:
        hubs = self._hubs
        try:
            for reply in replies:
                if type(reply) is not list:
                    raise refused("subscriptions", str(reply))
                kind, channel, payload = reply
                if kind != b"message":
                    self._confirmed(kind, channel)
                elif (hub := hubs.get(channel)) is None:
                    if channel == self._own:
                        self._heard(payload)
                elif hub.watchers:
                    hub.take(self._entry(hub.log, payload))
                else:
                    hub.drop()  # nobody is there to read it; whoever comes back reads the log
        except Exception as error:  # told by whoever replaces the subscriber; the transport would only log it
            self._end(error)

    def _confirmed(self, kind: bytes, channel: bytes) -> None:
        if kind != b"subscribe":
            return
        if channel == self._own:
            self._stands = True
            self._complaints.end()
            self._send_probe()
            if self._replacing:
                self._replacing = False
                self._healed()
            _call(self._listeners.values())
        elif (hub := self._hubs.get(channel)) is not None:
            hub.take(None)  # whoever read before this may have missed something
        else:
            self._want(channel)  # given up while everything was subscribed to

    def _heard(self, payload: bytes) -> None:
        self._heard_at = self._monotonic()
        if payload:
            _call(self._listeners.values())

    def _lost(self, _link: Link) -> None:
        self._end(ConnectionResetError("the connection was lost"))

    def _switched(self) -> None:
        self._end(ConnectionResetError("another has become the master"))

    def _end(self, error: Exception) -> None:
        if self._gone is not None and not self._gone.done():
            self._gone.set_exception(error)


def _call(listeners: Iterable[Callable[[], None]]) -> None:
    for listener in list(listeners):
        listener()
