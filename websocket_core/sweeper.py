"""`Sweeper`: the one job that looks at everything from time to time."""

from __future__ import annotations

import logging

from websocket_core.lag import LoopLag
from websocket_core.limits import Limits
from websocket_core.log import LogStore
from websocket_core.metrics import Metrics
from websocket_core.registry import Registry

logger = logging.getLogger(__name__)


class Sweeper:
    """Ends stale connections and drops expired events."""

    def __init__(self, registry: Registry, log: LogStore, *, limits: Limits, metrics: Metrics) -> None:
        self._registry = registry
        self._log = log
        self._limits = limits
        self._metrics = metrics

    async def run(self) -> None:
        lag = LoopLag(self._limits.sweep_interval, self._metrics)
        while True:
            now, lost = await lag.tick()
            for connection in (*self._registry, *self._registry.leaving()):
                connection.check(now, lost)
            try:
                await self._log.expire()
            except Exception:  # the sweeper must live; the next sweep tries again
                logger.exception("expiring old events failed")
