"""`Exchange`: commands to Redis over one connection that one owner has.

Whoever asks awaits a future and never touches the connection: a caller that is cancelled or loses patience takes nobody
else's answer and leaves none behind. While one round trip is under way, commands collect, and go together in the next.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any, Final

from redis.exceptions import RedisError

from websocket_core.errors import ManagerClosed
from websocket_core.logs.redis.addresses import Addresses, Rests
from websocket_core.logs.redis.greeting import Server, get_to_know
from websocket_core.logs.redis.link import Link, pack
from websocket_core.logs.redis.refusals import CONCERN_THE_SERVER, Complaints, Refused, reason_of
from websocket_core.logs.redis.sentinels import Watch
from websocket_core.logs.redis.shares import Share
from websocket_core.logs.redis.waiting import Waiting, fail

logger = logging.getLogger(__name__)

EARLY: Final = 32
"""So many go without waiting for what else this turn of the loop brings: Redis and we work at the same time."""
SHORT_REST: Final = 0.5
"""A command waits until the next attempt if that is no further off; else it fails at once."""
STALL_SECONDS: Final = 0.5
"""After an answer that took longer, sentinels are asked whether this is still the master."""
RELOADS: Final = 3
"""How often in a row scripts are loaded again before Redis is said not to keep them."""
QUIET_SECONDS: Final = 60.0
"""Between two warnings of the same refusal."""

Command = tuple[Any, ...]

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
        self._waiting = Waiting()
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

    def send(self, what: bytes | Share) -> asyncio.Future[Any]:
        """Queue a command that `pack` has encoded, or a share of one; its answer, or `LogUnavailable`, in which case it
        was executed or not."""
        if self._closed:
            raise ManagerClosed("the log was closed")
        waiting = self._waiting
        answer = waiting.ask(what)
        if not self._busy:
            self._begin()
        elif not waiting.flight and len(waiting.queue) >= EARLY and self._link is not None:
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
        link, waiting = self._link, self._waiting
        if link is None or waiting.flight:
            return  # it was lost meanwhile, and whoever lost it has seen to the queue
        now = asyncio.get_running_loop().time()
        if now - self._heard_at > 2 * self._timeout:
            self._part()  # not even a ping came through: this process stood still, and who knows what else did
            return
        parts: list[bytes] = []
        if self._reload:
            parts += [script.loading for script in self._scripts.values()]
            waiting.expect(len(parts))
        parts += waiting.depart()
        self._busy = bool(parts)
        if parts:
            self._sent_at, self._taken = now, link.taken
            link.write(b"".join(parts))

    def _received(self, replies: list[Any]) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        if self._link is not None:
            self._taken = self._link.taken
        try:
            refusals = self._waiting.settle(replies)
        except ValueError:
            self._part()
            return
        for refusal in refusals:
            self._retired = self._retired or refusal.word in CONCERN_THE_SERVER
            fail(refusal.answer, f"Redis refused a command: {refusal.word}")
            self._warn(refusal.word)
        if not self._waiting.flight:
            self._landed()

    def _landed(self) -> None:
        """A round trip has ended: everything that was sent has its answer."""
        waiting = self._waiting
        self._busy = False
        self._reload = waiting.lacks_scripts
        self._reloads = self._reloads + 1 if self._reload else 0
        if self._reloads > RELOADS:
            waiting.fail_unknown("Redis does not keep scripts")
            self._reload = False
        waiting.ask_again()  # once the scripts are there
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
        elif waiting.queue:
            self._depart()  # before those who have their answers go on, for the same reason

    def _tick(self) -> None:
        """Nobody is left waiting, and a connection that nobody uses is tried before it is trusted."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        link = self._link
        if link is None:
            return
        if self._waiting.flight:
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
                self._waiting.expect()
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
        self._waiting.fail_sent("Redis did not answer", queued=everything)
        if self._waiting.queue:
            self._begin()

    # -- coming to know a connection

    async def _reach(self) -> None:
        """Come to Redis; again and again, for as long as somebody asks."""
        while True:
            rest = self._rests.left(asyncio.get_running_loop().time())
            self._asked = self._asked or bool(self._waiting.queue)
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
            self._asked = bool(self._waiting.queue)
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
        if self._waiting.queue:
            self._begin()

    def _switched(self) -> None:
        self._switches += 1
        if self._link is not None:
            self._part()

    def _refuse(self) -> None:
        """Nobody waits for a Redis that was just found away."""
        self._busy = False
        self._waiting.fail_queued(self._reason)

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
        elif self._waiting.queue and self._link is None:
            self._begin()
