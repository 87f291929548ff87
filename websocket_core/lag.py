"""How late the event loop is: measured by the sweeper, which sleeps anyway, so that it costs no task and no timer."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from websocket_core.metrics import Metrics

logger = logging.getLogger(__name__)

LATE: Final = 0.5
"""So many seconds late is a stall: it is warned of, and its time counts against no peer."""
WARNING_INTERVAL: Final = 60.0
"""Seconds between two warnings at least."""


class LoopLag:
    """Ticks at an interval, and tells how much later than asked the event loop came to each tick.

    A stall shows as the time from the tick that it delayed to its end, so that at most one interval of it is missed.
    """

    def __init__(self, interval: float, metrics: Metrics) -> None:
        self._interval = interval
        self._metrics = metrics
        self._quiet_until = float("-inf")

    async def tick(self) -> tuple[float, float]:
        """Wait for one interval. The loop's time now, and the seconds lost to a stall: 0.0 if there was none."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._interval
        await asyncio.sleep(self._interval)
        now = loop.time()
        late = max(0.0, now - due)
        self._metrics.loop_lag.observe(late)
        if late < LATE:
            return now, 0.0
        if now >= self._quiet_until:
            self._quiet_until = now + WARNING_INTERVAL
            logger.warning(
                "the event loop stood still for %.1f s, and every user waited. Usually something blocking is called in "
                "async code: time.sleep, a synchronous HTTP or database client, long computing. Move it to "
                "asyncio.to_thread; PYTHONASYNCIODEBUG=1 logs what takes long",
                late,
            )
        return now, late
