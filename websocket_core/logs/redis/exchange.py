"""`Exchange`: commands to Redis over one connection that one owner has.

Whoever asks awaits a future and never touches the connection: a caller that is cancelled or loses patience takes nobody
else's answer and leaves none behind. While one round trip is under way, commands collect, and go together in the next.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from typing import Any, Final

from redis.exceptions import RedisError

from websocket_core.errors import LogUnavailable, ManagerClosed
from websocket_core.logs.redis.addresses import Addresses, Rests
from websocket_core.logs.redis.greeting import Server, get_to_know
from websocket_core.logs.redis.link import Link, ReplyError, pack
from websocket_core.logs.redis.refusals import CONCERN_THE_SERVER, Complaints, Refused, reason_of, word_of
from websocket_core.logs.redis.sentinels import Watch

logger = logging.getLogger(__name__)

MOST: Final = 128
"""Commands in one round trip at most."""
EARLY: Final = 32
"""So many go without waiting for what else this turn of the loop brings: Redis and we work at the same time."""
MOST_BYTES: Final = 1_048_576
"""Bytes in one round trip, above which no further command joins it."""
SHORT_REST: Final = 0.5
"""A command waits until the next attempt if that is no further off; else it fails at once."""
STALL_SECONDS: Final = 0.5
"""After an answer that took longer, sentinels are asked whether this is still the master."""
RELOADS: Final = 3
"""How often in a row scripts are loaded again before Redis is said not to keep them."""
QUIET_SECONDS: Final = 60.0
"""Between two warnings of the same refusal."""

Command = tuple[Any, ...]
Item = tuple[bytes, asyncio.Future[Any]]

_PING: Final = pack("PING")


class Script:
    """A script in Lua, with the digest by which Redis knows it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self.loading = pack("SCRIPT", "LOAD", text)

    @classmethod
    def load(cls, name: str) -> Script:
        """The script of that name beside this module."""
        return cls(files(__package__).joinpath(f"{name}.lua").read_text(encoding="utf-8"))


async def end_task(task: asyncio.Task[Any], *, patience: float = 1.0) -> None:
    """Cancel a task of ours and wait until it has ended; again, if it has not within so many seconds. Libraries have
    been seen to swallow a cancellation."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=patience)


class Exchange:
    """One connection, used in one event loop."""

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        replay: Callable[[], Sequence[Command | bytes]] = lambda: (),
        scripts: Sequence[Script] = (),
        rng: random.Random | None = None,
    ) -> None:
        """`scripts` are loaded before the first command; `replay` gives the commands that go first when Redis was
        restarted, or another took its place. Raises `InvalidConfiguration`."""
        self._addresses = Addresses(url, timeout=timeout)
        self._timeout = timeout
        self._replay = replay
        self._scripts = {script.digest: script for script in scripts}
        self._server: Server | None = None
        self._link: Link | None = None
        self._queue: deque[Item] = deque()
        self._flight: deque[Item] = deque()
        """What was sent and has no answer yet, in order: the next answer is for the first."""
        self._unknown: list[Item] = []
        """What of this round trip was refused because Redis does not have the script."""
        self._reload = False
        self._reloads = 0
        self._retired = False
        self._pinging = False
        self._proven = False
        """Whether the connection has been of use yet."""
        self._busy = False
        """Whether what is queued goes with what is under way, or is about to."""
        self._sent_at = 0.0
        self._heard_at = 0.0
        self._taken = 0
        """How much the connection had taken in then."""
        self._timer: asyncio.TimerHandle | None = None
        self._reaching: asyncio.Task[None] | None = None
        self._resting = False
        self._asked = False
        self._rng = rng or random.SystemRandom()
        self._rests = Rests(self._rng)
        self._guard: Watch | None = None
        self._switches = 0
        self._reason = "Redis did not answer"
        self._complaints = Complaints(logger, "Redis cannot be used")
        self._quiet_until: dict[str, float] = {}
        self._closed = False

    def send(self, packed: bytes) -> asyncio.Future[Any]:
        """Queue a command that `pack` has encoded; its answer, or `LogUnavailable`, in which case it was executed or
        not."""
        if self._closed:
            raise ManagerClosed("the log was closed")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append((packed, answer))
        if not self._busy:
            self._begin()
        elif not self._flight and len(self._queue) >= EARLY and self._link is not None:
            self._depart()
        return answer

    def submit(self, *command: Any) -> asyncio.Future[Any]:
        """As `send`. What cannot be encoded raises `TypeError` or `UnicodeEncodeError`, and has no place in the queue:
        it fails its own caller, and no neighbour."""
        return self.send(pack(*command))

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Run a script; its answer. Raises `LogUnavailable`."""
        self._scripts.setdefault(script.digest, script)
        return await self.send(pack("EVALSHA", script.digest, len(keys), *keys, *arguments))

    async def close(self) -> None:
        """End the connection. What waits fails with `LogUnavailable`."""
        self._closed = True
        if self._reaching is not None:
            await end_task(self._reaching)
        if self._guard is not None:
            await end_task(self._guard.task)
        link = self._link
        self._part(everything=True)
        if link is not None:
            await link.wait_closed()

    # -- one round trip after the other

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        if self._closed:
            self._refuse()
        elif self._link is not None:
            self._busy = True
            loop.call_soon(self._depart)  # with all that is queued in this turn of the loop
        elif self._resting:
            self._busy = self._asked = True
            if self._rests.left(loop.time()) > SHORT_REST:
                loop.call_soon(self._refuse)
        elif self._reaching is None:
            self._busy = True
            # Ends when Redis is reached, or nobody asks any more. Owned by this exchange: ended by `close`.
            self._reaching = loop.create_task(self._reach(), name="websocket_core redis exchange")
            self._reaching.add_done_callback(self._ended)

    def _depart(self) -> None:
        link, queue, flight = self._link, self._queue, self._flight
        if link is None or flight:
            return  # it was lost meanwhile, and whoever lost it has seen to the queue
        now = asyncio.get_running_loop().time()
        if now - self._heard_at > 2 * self._timeout:
            self._part()  # not even a ping came through: this process stood still, and who knows what else did
            return
        parts: list[bytes] = []
        if self._reload:
            for script in self._scripts.values():
                parts.append(script.loading)
                flight.append((b"", _answered()))
        size = 0
        room = MOST
        while queue and room and size < MOST_BYTES:
            item = queue.popleft()
            if item[1].done():
                continue  # cancelled before it was sent
            flight.append(item)
            parts.append(item[0])
            size += len(item[0])
            room -= 1
        self._busy = bool(parts)
        if parts:
            self._sent_at, self._taken = now, link.taken
            link.write(b"".join(parts))

    def _received(self, replies: list[Any]) -> None:
        flight = self._flight
        if len(replies) > len(flight):
            self._part()  # more answers than questions: none of them can be trusted
            return
        self._heard_at = asyncio.get_running_loop().time()
        if self._link is not None:
            self._taken = self._link.taken
        for reply in replies:
            item = flight.popleft()
            if type(reply) is ReplyError:
                self._refused(item, str(reply))
            elif not (waiting := item[1]).done():  # else whoever asked has been cancelled
                waiting.set_result(reply)
        if not flight:
            self._landed()

    def _landed(self) -> None:
        """A round trip has ended: everything that was sent has its answer."""
        self._busy = False
        self._reload = bool(self._unknown)
        if self._unknown:
            # In their order, before everything that came after them, once the scripts are there.
            self._reloads += 1
            if self._reloads > RELOADS:
                _fail(self._unknown, "Redis does not keep scripts")
                self._reload = False
            else:
                self._queue.extendleft(reversed(self._unknown))
            self._unknown = []
        else:
            self._reloads = 0
        if self._retired:
            self._rests.failed(self._heard_at)
            self._part()
            return
        pinged, self._pinging = self._pinging, False
        if not pinged:
            self._proven = True
            self._rests.succeeded()
            self._complaints.end()
        if self._addresses.guarded and self._heard_at - self._sent_at > STALL_SECONDS:
            self._part()
        elif self._queue:
            self._depart()  # before those who have their answers go on, for the same reason

    def _refused(self, item: Item, text: str) -> None:
        word = word_of(text)
        if word == "NOSCRIPT":
            if not item[1].done():
                self._unknown.append(item)
            return
        self._retired = self._retired or word in CONCERN_THE_SERVER
        _fail([item], f"Redis refused a command: {word}")
        self._warn(word)

    def _tick(self) -> None:
        """Nobody is left waiting, and a connection that nobody uses is tried before it is trusted."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        link = self._link
        if link is None:
            return
        if self._flight:
            due = max(self._sent_at, self._heard_at) + self._timeout
            if now >= due:
                if link.taken == self._taken:
                    logger.debug("Redis did not answer in time")
                    self._rests.failed(now)
                    self._part(everything=True)  # what waited behind it has waited long enough
                    return
                self._taken, due = link.taken, now + self._timeout  # a long answer is on its way
        else:
            due = self._heard_at + self._timeout / 2
            if now >= due:
                self._busy = self._pinging = True
                self._sent_at, self._taken = now, link.taken
                self._flight.append((b"", _answered()))
                link.write(_PING)
                due = now + self._timeout
        self._timer = loop.call_at(due, self._tick)

    def _lost(self, link: Link) -> None:
        if link is self._link:
            if not self._proven:
                self._rests.failed(asyncio.get_running_loop().time())
            self._part()

    def _part(self, *, everything: bool = False) -> None:
        """Give the connection up for good. What is under way fails, and what is queued too, or waits for the next."""
        if self._timer is not None:
            self._timer.cancel()
        if self._link is not None:
            self._link.close()
        self._link = self._timer = None
        self._retired = self._reload = self._pinging = self._busy = False
        left = [*self._unknown, *self._flight, *(self._queue if everything else ())]
        self._unknown = []
        self._flight.clear()
        if everything:
            self._queue.clear()
        _fail(left, "Redis did not answer")
        if self._queue:
            self._begin()

    # -- coming to know a connection

    async def _reach(self) -> None:
        """Come to Redis; again and again, for as long as somebody asks."""
        while True:
            rest = self._rests.left(asyncio.get_running_loop().time())
            self._asked = self._asked or bool(self._queue)
            if rest > 0.0:
                self._resting = True
                if rest > SHORT_REST:
                    self._refuse()
                await asyncio.sleep(rest)
                self._resting = False
                if not self._asked:
                    return
            self._busy, self._asked = True, False
            try:
                await self._open()
            except (RedisError, OSError, Refused) as error:
                self._reason = reason_of(error)
                self._complaints.say(self._reason)
            except Exception:
                logger.exception("coming to know Redis crashed")
            else:
                return
            self._rests.failed(asyncio.get_running_loop().time())
            self._asked = bool(self._queue)
            self._refuse()

    async def _open(self) -> None:
        switches = self._switches
        async with asyncio.timeout(self._timeout * 2):
            link = Link(await self._addresses.dial())
        try:
            scripts = [script.loading for script in self._scripts.values()]
            server = await get_to_know(link, self._server, scripts=scripts, replay=self._replay, timeout=self._timeout)
            if link.closed or switches != self._switches:
                raise ConnectionResetError("the connection was lost, or another has become the master")
        except BaseException:
            link.close()
            raise
        link.received, link.lost = self._received, self._lost
        self._server, self._link = server, link
        self._proven = False
        loop = asyncio.get_running_loop()
        self._heard_at = loop.time()
        self._timer = loop.call_at(self._heard_at + self._timeout / 2, self._tick)
        self._busy = False
        if self._guard is None and self._addresses.guarded:
            self._guard = Watch(self._addresses, self._switched, rng=self._rng)
        if self._queue:
            self._begin()

    def _switched(self) -> None:
        self._switches += 1
        if self._link is not None:
            self._part()

    def _refuse(self) -> None:
        """Nobody waits for a Redis that was just found away."""
        self._busy = False
        left = list(self._queue)
        self._queue.clear()
        _fail(left, self._reason)

    def _warn(self, word: str) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._quiet_until.get(word, now):
            self._quiet_until[word] = now + QUIET_SECONDS
            logger.warning("Redis refused a command", extra={"error": word})

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._reaching = None
        self._resting = False
        if task.cancelled():  # perhaps before its first turn
            self._refuse()
        elif self._queue and self._link is None:
            self._begin()


def _fail(items: Iterable[Item], text: str) -> None:
    for _, waiting in items:
        if not waiting.done():
            waiting.set_exception(LogUnavailable(text))


def _answered() -> asyncio.Future[Any]:
    """For what nobody asked."""
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    answer.set_result(None)
    return answer
