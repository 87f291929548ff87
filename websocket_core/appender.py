"""`Appender`: how an event gets into a log, at once or after some attempts, and its caller learns what became of it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from websocket_core.errors import AppendFailed, LogUnavailable, ManagerClosed
from websocket_core.events import Event
from websocket_core.identity import LogName
from websocket_core.limits import RetryPolicy
from websocket_core.log import LogWriter, Position
from websocket_core.metrics import Metrics

logger = logging.getLogger(__name__)

TURN: Final = 64
"""After this many appends in a row, a producer gives the event loop a turn."""
SAMPLE: Final = 16
"""Of so many appends, the latency of one is measured; measuring each would cost a tenth of the append."""


class Appender:
    """Appends encoded events, and tries again after a failure: exponential back-off with full jitter.

    A first attempt that succeeds passes through no retry machinery at all.
    """

    def __init__(
        self,
        writer: LogWriter,
        *,
        retry: RetryPolicy,
        metrics: Metrics,
        monotonic: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._writer = writer
        self.retry: Final = retry
        self._metrics = metrics
        self._monotonic = monotonic
        self._rng = rng or random.SystemRandom()
        self._sleep = sleep
        self._streak = 0
        self.closed = False

    async def append(self, log: LogName, event: Event) -> Position:
        """The position of the event in the log.

        Raises `AppendFailed` when every attempt of the retry policy was spent, and `ManagerClosed`.
        """
        if self.closed:
            raise ManagerClosed("the manager was shut down; nothing was appended")
        started = self._monotonic()
        try:
            position = await self._writer.append(log, event)
        except LogUnavailable as error:
            position = await self._again(log, event, error, started)
        self._streak += 1
        self._metrics.events_appended += 1
        if self._streak % SAMPLE == 0:
            self._metrics.append_latency.observe(self._monotonic() - started)
            if self._streak >= TURN:
                self._streak = 0
                await asyncio.sleep(0)
        return position

    async def append_surely(self, log: LogName, event: Event, failed: Callable[[], None]) -> Position:
        """Like `append`, without an end to the attempts. Calls `failed` after each that failed."""
        started = self._monotonic()
        try:
            position = await self._writer.append(log, event)
        except LogUnavailable as error:
            failed()
            retrying = self._retrying(error, stop=lambda _state: False, failed=failed)
            position = await retrying(self._attempt(log, event, error))
        self._streak += 1
        self._metrics.events_appended += 1
        if self._streak % SAMPLE == 0:
            self._metrics.append_latency.observe(self._monotonic() - started)
            if self._streak >= TURN:
                self._streak = 0
                await asyncio.sleep(0)
        return position

    async def _again(self, log: LogName, event: Event, error: LogUnavailable, started: float) -> Position:
        policy = self.retry

        def spent(state: RetryCallState) -> bool:
            begins = self._monotonic() - started + state.upcoming_sleep
            return state.attempt_number >= policy.attempts or begins > policy.seconds

        retrying = self._retrying(error, stop=spent)
        try:
            return await retrying(self._attempt(log, event, error))
        except LogUnavailable as last:
            self._metrics.append_failures += 1
            attempts = retrying.statistics["attempt_number"]
            logger.warning("an append failed for good", extra={"attempts": attempts})
            raise AppendFailed(event.id, attempts) from last

    def _attempt(self, log: LogName, event: Event, error: LogUnavailable) -> Callable[[], Awaitable[Position]]:
        """The append as tenacity calls it. The attempt that was made before tenacity came in counts as its first."""
        first: list[LogUnavailable] = [error]

        async def attempt() -> Position:
            if first:
                raise first.pop()
            self._metrics.retries += 1
            return await self._writer.append(log, event)

        return attempt

    def _retrying(
        self,
        error: LogUnavailable,
        *,
        stop: Callable[[RetryCallState], bool],
        failed: Callable[[], None] | None = None,
    ) -> AsyncRetrying:
        logger.warning("an append failed and is tried again", extra={"error": type(error).__name__})

        def back_off(state: RetryCallState) -> float:
            exponent = min(state.attempt_number - 1, 32)
            return self._rng.uniform(0.0, min(self.retry.maximum, self.retry.initial * 2**exponent))

        def after(state: RetryCallState) -> None:
            if failed is not None and state.outcome is not None and state.outcome.failed:
                failed()

        return AsyncRetrying(
            retry=retry_if_exception_type(LogUnavailable),
            wait=back_off,
            stop=stop,
            sleep=self._sleep,
            after=after,
            reraise=True,
        )
