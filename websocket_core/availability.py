"""`Availability`: whether the log is there, and who is told when it is not.

A log that is away takes nothing down. The application runs on, its connections stay open and are told, what its agent
runs emit waits in the outboxes and is shown provisionally, and newcomers are refused at once, since the deny-list is
away as well. One job asks the log again and again; when it answers, everybody is told, and reads.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Final

from websocket_core.connection import WebSocketConnection
from websocket_core.errors import LogUnavailable
from websocket_core.lag import LATE
from websocket_core.limits import Limits
from websocket_core.log import Checkable, LogStore
from websocket_core.metrics import Metrics
from websocket_core.outbox import Outboxes
from websocket_core.provisional import Outage
from websocket_core.registry import Registry

logger = logging.getLogger(__name__)

TOLD_AT_ONCE: Final = 100
"""So many connections are told in one turn of the event loop."""
READS_PER_SECOND: Final = 5_000
"""About so many connections per second read when the log is back, so that it is not knocked over."""


class Availability:
    """Asks the log of one manager whether it is there, every `Limits.check_interval`.

    It is away when nothing was answered for `Limits.degraded_after`, and at the start when the first question is not;
    then it is asked after 1, 2, 4 and 4 seconds (by the default interval), with jitter, until it answers. Whatever the
    outboxes get into it meanwhile has it asked at once. A store that is not `Checkable` is never away.
    """

    def __init__(
        self,
        log: LogStore,
        registry: Registry,
        outboxes: Outboxes,
        *,
        limits: Limits,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._store: Checkable | None = log if isinstance(log, Checkable) else None
        self._registry = registry
        self._outboxes = outboxes
        self._interval = limits.check_interval
        self._degraded_after = limits.degraded_after
        self._metrics = metrics
        self._clock = clock
        self.rng: Final = rng or random.SystemRandom()
        self._outage: Outage | None = None
        self._back = asyncio.Event()

    @property
    def degraded(self) -> bool:
        """Whether the log is away, as far as is known."""
        return self._outage is not None

    @property
    def since(self) -> str | None:
        """When it was first found away, as times are written on the wire; None while it is there."""
        return None if self._outage is None else self._outage.since

    def jobs(self) -> dict[str, Callable[[], Coroutine[None, None, None]]]:
        """What is to run as long as the manager does: nothing for a log that is never away."""
        return {} if self._store is None else {"availability": self.run}

    def run(self) -> Coroutine[None, None, None]:
        """The job. Nothing is known of the log when it begins."""
        self._forget()
        self._back = asyncio.Event()
        return self._run()

    def _forget(self) -> None:
        if self._outage is not None:
            self._outage = None
            self._metrics.degraded -= 1
            self._outboxes.trust()

    async def _run(self) -> None:
        answered_at: float | None = None  # at the start the first failure is enough
        try:
            while True:
                away_since = await self._until_silent(answered_at)
                await self._begin(away_since)
                await self._until_it_answers()
                answered_at = asyncio.get_running_loop().time()
                await self._end()
        finally:
            self._forget()

    async def _until_silent(self, answered_at: float | None) -> float:
        """Ask until nothing was answered for too long; the Unix second in which that began."""
        loop = asyncio.get_running_loop()
        since: float | None = None
        silent_from = float("-inf")
        while True:
            asked_at, asked_on = loop.time(), self._clock()
            # At the start there is a connection to be made first, which may take its time.
            if await self._answers(patience=self._degraded_after if answered_at is None else None):
                if answered_at is None:  # a job before this one may have been ended in the middle of an outage
                    await self._tell(lambda connection: connection.restore(), pause=0.0)
                answered_at, since = loop.time(), None
                await asyncio.sleep(self._interval)
                continue
            if since is None:
                since = asked_on
                if answered_at is not None:  # longer ago than the interval is only where the event loop stood still
                    silent_from = max(answered_at, asked_at - self._interval)
            if loop.time() - silent_from >= self._degraded_after:
                return since
            await asyncio.sleep(self._interval / 4 * self.rng.uniform(0.5, 1.0))

    async def _until_it_answers(self) -> None:
        """Ask until it answers, with exponential back-off and jitter; at once when an outbox gets something in."""
        attempt = 0
        while True:
            self._back.clear()
            pause = self._interval * min(2.0, 0.5 * 2**attempt) * self.rng.uniform(0.5, 1.0)
            shortest = pause / 8
            await asyncio.sleep(shortest)  # however often the outboxes call
            try:
                async with asyncio.timeout(pause - shortest):
                    await self._back.wait()
            except TimeoutError:
                pass
            if await self._answers():
                return
            attempt = min(attempt + 1, 8)

    async def _answers(self, *, patience: float | None = None) -> bool:
        """Ask the log once. A time limit that ran out while the event loop stood still says nothing of it."""
        assert self._store is not None
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + (patience or self._interval / 2)
            try:
                async with asyncio.timeout_at(due):
                    await self._store.check()
                return True
            except TimeoutError:
                if loop.time() - due < LATE:
                    return False
            except LogUnavailable:
                return False
            except Exception:  # a store that breaks its contract is no reason to stop asking
                logger.exception("the log could not be asked whether it is there")
                return False

    async def _begin(self, since: float) -> None:
        """From now on newcomers are refused. Tell everybody else."""
        text = datetime.fromtimestamp(since, UTC).isoformat(timespec="microseconds")
        outage = self._outage = Outage(text, self._outboxes)
        self._metrics.degraded += 1
        self._metrics.outages += 1
        logger.error("the log is away: connections stay open, newcomers are refused, events of agent runs wait")
        self._outboxes.suspect(self._back.set)
        await self._tell(lambda connection: connection.degrade(outage), pause=0.0)

    async def _end(self) -> None:
        """Let newcomers in, tell everybody, and have them read, not all at once."""
        self._forget()
        logger.warning("the log is back")
        await self._tell(lambda connection: connection.restore(), pause=TOLD_AT_ONCE / READS_PER_SECOND)

    async def _tell(self, tell: Callable[[WebSocketConnection], None], *, pause: float) -> None:
        connections = list(self._registry)
        for start in range(0, len(connections), TOLD_AT_ONCE):
            if start:
                await asyncio.sleep(pause * self.rng.uniform(0.5, 1.5))
            for connection in connections[start : start + TOLD_AT_ONCE]:
                tell(connection)
