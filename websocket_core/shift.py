"""`Shift`: one worker at a work queue. It takes what there is, keeps the leases while handlers run, and settles."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from websocket_core.errors import LogUnavailable, ManagerClosed
from websocket_core.metrics import Metrics
from websocket_core.work import Held, Outcome, WorkLimits, WorkQueue

logger = logging.getLogger(__name__)

LOOK: Final = 1.0
"""Seconds between two looks at a queue that no signal came from: for leases that ended, and signals that were lost."""
AT_ONCE: Final = 64
"""So many items are taken at once at most."""
LONGEST_PAUSE: Final = 2.0
"""Seconds between two attempts to reach a store that is away."""
ENDING: Final = 3.0
"""Seconds that a worker spends on giving back what it held."""
AWAY: Final = (LogUnavailable, ManagerClosed)
"""What a store raises that cannot be reached, or not any more."""

T = TypeVar("T")
Handler = Callable[[T], Awaitable[object]]


class Shift(Generic[T]):
    """One worker at one queue, from `run` to its end. `open_item` makes of an item what handlers get; None for one
    that is foreign."""

    def __init__(
        self,
        queue: WorkQueue,
        limits: WorkLimits,
        *,
        worker: str,
        concurrency: int,
        open_item: Callable[[Held], T | None],
        handler: Handler[T],
        given_up: Handler[T] | None,
        metrics: Metrics,
        closed: Callable[[], bool],
    ) -> None:
        self._queue = queue
        self._limits = limits
        self._worker = worker
        self._concurrency = concurrency
        self._open = open_item
        self._handler = handler
        self._given_up = given_up
        self._metrics = metrics
        self._closed = closed
        self._held: dict[str, Held] = {}
        """What this worker has and is not rid of yet."""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._taking: asyncio.Future[Sequence[Held]] | None = None
        self._changed = asyncio.Event()
        self._stopping = False

    def stop(self) -> None:
        self._stopping = True
        self._changed.set()

    async def run(self) -> None:
        """Work until `stop`, and until what was begun by then is done."""
        unwatch = self._queue.watch(self._changed.set)
        try:
            async with asyncio.TaskGroup() as group:
                renewing = group.create_task(self._renew(), name="websocket_core leases")
                await self._take(group)
                while self._held:
                    await self._wait(LOOK)
                renewing.cancel()
        finally:
            unwatch()
            if not self._closed():  # else nothing can be given back any more
                await self._end()
        if self._closed() and not self._stopping:
            raise ManagerClosed("the manager was shut down; no more commands are taken")

    async def _take(self, group: asyncio.TaskGroup) -> None:
        failures = 0
        while not self._stopping and not self._closed():
            self._changed.clear()
            asked = min(self._concurrency - len(self._held), AT_ONCE)
            taken: Sequence[Held] = ()
            if asked > 0:
                try:
                    # Not cancelled with this task: what it was given by then would be nobody's for a whole lease.
                    self._taking = asyncio.ensure_future(self._queue.take(self._worker, asked, list(self._held)))
                    taken = await asyncio.shield(self._taking)
                    self._taking = None
                    failures = 0
                except AWAY:
                    failures += 1
                    if failures == 1:
                        logger.warning("commands cannot be taken now; trying again")
            for held in taken:
                self._held[held.key] = held
                # Owned by the group; noted here so that one whose lease was lost is ended.
                self._tasks[held.key] = group.create_task(self._handle(held), name="websocket_core command")
            if len(taken) < max(asked, 1):  # else there may be more
                await self._wait(min(LONGEST_PAUSE, 0.05 * 2.0 ** min(failures, 16)) if failures else LOOK)

    async def _wait(self, seconds: float) -> None:
        """Until something has changed, no longer than that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        self._changed.clear()

    async def _handle(self, held: Held) -> None:
        outcome = await self._outcome(held)
        settled = await self._settle(held, outcome)
        self._held.pop(held.key, None)
        self._tasks.pop(held.key, None)
        self._changed.set()
        if settled:
            match outcome:
                case Outcome.DONE:
                    self._metrics.commands_done += 1
                case Outcome.AGAIN:
                    self._metrics.commands_retried += 1
                case Outcome.DEAD:
                    self._metrics.commands_dead += 1

    async def _outcome(self, held: Held) -> Outcome:
        opened = self._open(held)
        if opened is None:
            return Outcome.FOREIGN
        if held.attempt <= self._limits.attempts:
            try:
                await self._handler(opened)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                self._failed(held)  # something that the handler awaited was cancelled, and not this worker
            except Exception:  # the application's own code
                self._failed(held)
            else:
                return Outcome.DONE
        else:  # begun so often, and never settled: it may be what its workers died of
            logger.error("a command is given up: its workers died", extra={"attempt": held.attempt})
        if held.attempt < self._limits.attempts:
            return Outcome.AGAIN
        if self._given_up is not None:
            try:
                await self._given_up(opened)
            except Exception:
                logger.exception("what is done about a command that was given up failed")
        return Outcome.DEAD

    def _failed(self, held: Held) -> None:
        last = held.attempt >= self._limits.attempts
        logger.warning(
            "a command failed and is given up" if last else "a command failed and is tried again",
            extra={"attempt": held.attempt},
            exc_info=True,
        )

    async def _settle(self, held: Held, outcome: Outcome) -> bool:
        """Whether it was settled by this worker. As long as the store is away the lease is running out: no longer."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._limits.lease
        failures = 0
        while True:
            try:
                settled = await self._queue.settle(self._worker, held, outcome)
            except AWAY:
                failures += 1
                pause = min(LONGEST_PAUSE, 0.05 * 2.0 ** min(failures, 16))
                if loop.time() + pause > until:
                    logger.warning("a command could not be settled, and is given to another worker")
                    return False
                await asyncio.sleep(pause)
                continue
            if not settled and not failures:  # after a failure, it may have been settled by the first attempt
                logger.warning("a command was taken by another worker, as its lease had ended")
            return settled or failures > 0

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._limits.lease / 3)
            if not self._held:
                continue
            try:
                lost = await self._queue.renew(self._worker, list(self._held))
            except AWAY:
                continue
            for key in lost:
                task = self._tasks.pop(key, None)
                if self._held.pop(key, None) is not None and task is not None:
                    logger.warning("the lease of a command has ended; its handler is cancelled")
                    task.cancel()
            self._changed.set()

    async def _end(self) -> None:
        """Give back what this worker still holds."""
        try:
            async with asyncio.timeout(ENDING):
                if self._taking is not None:
                    for held in await self._taking:
                        self._held[held.key] = held
                for held in list(self._held.values()):
                    await self._queue.settle(self._worker, held, Outcome.BACK)
                    del self._held[held.key]
                await self._queue.leave(self._worker)
        except (*AWAY, TimeoutError):
            logger.warning("what a worker held could not be given back; others take it when the leases have ended")
