"""`Reaper`: ends the runs of processes that are gone. Every process has one."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Final

from websocket_core.appender import Appender
from websocket_core.errors import AppendFailed, LogUnavailable, ManagerClosed
from websocket_core.events import AGENT_ERROR, Event, EventEncoder, owner_part
from websocket_core.identity import LogName
from websocket_core.leases import Contact, Expired, Leases, terminal_id
from websocket_core.metrics import Metrics

logger = logging.getLogger(__name__)

LOOKS: Final = 6
"""How many times in the time of a lease it is looked whether one has expired."""
AT_ONCE: Final = 256
"""How many leases are claimed at once."""
GONE: Final = "the process that ran it is gone"


class Reaper:
    """Claims leases that have expired, and tells the users that these runs were lost.

    Their stories are whole: a lease that does not say that its `agent_started` has reached the log is from a process
    that died before or right after that, so it is appended again, by its id, which makes one event of it. Where the
    lease says so it is not: it may have been trimmed since, and nobody is to see it twice. The end has the id that the
    process itself would have given it, so that two parties that end a run are one event.
    """

    def __init__(
        self,
        leases: Leases,
        appender: Appender,
        encoder: EventEncoder,
        *,
        seconds: float,
        metrics: Metrics,
        rng: random.Random | None = None,
    ) -> None:
        self._leases = leases
        self._appender = appender
        self._encoder = encoder
        self._seconds = seconds
        self._metrics = metrics
        self._rng = rng or random.SystemRandom()
        self._contact: Contact | None = None

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._seconds / LOOKS * self._rng.uniform(0.5, 1.5))
            try:
                while await self.sweep() == AT_ONCE:
                    pass
            except (LogUnavailable, AppendFailed, ManagerClosed) as error:
                logger.debug("lost runs could not be ended", extra={"error": type(error).__name__})
            except Exception:  # the job must live; the next look tries again
                logger.exception("ending lost runs failed")

    async def sweep(self) -> int:
        """End what has expired; how many runs that were. Raises `LogUnavailable` and `AppendFailed`: what was claimed
        is then left to the next who looks."""
        self._contact, expired = await self._leases.claim(self._contact, seconds=self._seconds, most=AT_ONCE)
        # Children before their parents, as their process would have ended them.
        for each in sorted(expired, key=lambda each: each.lease.number, reverse=True):
            await self._end(each)
        return len(expired)

    async def _end(self, expired: Expired) -> None:
        lease = expired.lease
        log = LogName.of_user(lease.user_id)
        if lease.started is not None:
            if not expired.begun:
                await self._appender.append(log, lease.started)
            await self._appender.append(log, self._terminal(expired, lease.started))
        await self._leases.drop([lease])
        self._metrics.runs_lost += 1
        logger.warning("a run was lost: its process did not renew its lease")

    def _terminal(self, expired: Expired, started: Event) -> Event:
        lease = expired.lease
        return self._encoder.encode(
            AGENT_ERROR,
            {"agent": lease.agent, "error": GONE, "reason": "lost"},
            owner_part(lease.user_id),
            run_id=lease.run_id,
            thread_id=lease.thread_id,
            event_id=terminal_id(started.id),
        )
