"""`RunKeeper`: holds the leases of the runs that are open in this process, and learns what is asked of them.

A run never waits for its lease. Its events do: `LeasedWriter` writes the lease before `agent_started` is appended, asks
whether it still holds before anything else is, if that is not sure, and ends it when the terminal event is in the log.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Final

from websocket_core.approvals import CLOSED
from websocket_core.errors import LogUnavailable, ManagerClosed
from websocket_core.events import Event, random_text
from websocket_core.identity import LogName, UserId
from websocket_core.leases import Lease, LeasedEvent, LeaseLost, Leases, Look, terminal_id
from websocket_core.log import LogWriter, Position
from websocket_core.outbox import SETTLE_SECONDS

logger = logging.getLogger(__name__)

RENEWALS: Final = 3
"""How many times a lease is renewed in its time."""
NEVER: Final = float("-inf")
NOWHERE: Final = Position("", 0, "")
"""Where the events of a run are that somebody else has ended."""


class HeldRun:
    """One open run of this process, from before its first event until its last is in the log."""

    __slots__ = ("approvals", "begun", "cancelled", "lease", "lost", "stop", "sure_until", "written")

    def __init__(self, lease: Lease, stop: Callable[[], None]) -> None:
        self.lease = lease
        self.stop: Callable[[], None] | None = stop
        """Ends the run; None when it has ended."""
        self.approvals: dict[str, Callable[[str], object]] = {}
        """What the run waits for: by approval id, what takes the decision."""
        self.sure_until = NEVER
        """Until then, in monotonic seconds, nobody else can have claimed the lease."""
        self.written = False
        """Whether the store was told everything that others must know."""
        self.begun = False
        """Whether `agent_started` is in the log."""
        self.cancelled = False
        self.lost = False
        """Whether somebody else has ended the run."""

    @property
    def started_id(self) -> str | None:
        return None if self.lease.started is None else self.lease.started.id

    def marked(self, event: Event) -> Event:
        """The event as one of this run."""
        made = tuple.__new__(RunEvent, event)
        made.run, made.lease_id = self, self.lease.id
        return made


class RunEvent(LeasedEvent):
    """An event of a run of this process."""

    run: HeldRun


class RunKeeper:
    """The leases of one process. `run` is a job of the manager; without it no run gets a lease."""

    def __init__(
        self,
        leases: Leases,
        *,
        seconds: float,
        monotonic: Callable[[], float],
        entropy: Callable[[int], bytes],
        rng: random.Random | None = None,
    ) -> None:
        self.leases: Final = leases
        self._seconds = seconds
        self._monotonic = monotonic
        self._entropy = entropy
        self._rng = rng or random.SystemRandom()
        self._numbers = itertools.count(1)
        self._held: dict[str, HeldRun] = {}
        self._unsaid: dict[str, HeldRun] = {}
        """Those that have begun, which their leases do not say yet."""
        self._closed: dict[tuple[UserId, str], None] = {}
        """Approvals that nobody waits for any more, which the store does not know yet."""
        self._over: dict[str, HeldRun] = {}
        """Those whose last event is in the log, while their leases are still there."""
        self._until: int | None = None
        self._together_until = NEVER
        self._unlisten: Callable[[], None] | None = None
        """A process without runs listens to nobody."""
        self._awake = asyncio.Event()
        self._asked = False
        self.running = False

    def __len__(self) -> int:
        return len(self._held)

    def open(
        self, user_id: UserId, run_id: str, thread_id: str | None, parent_run_id: str | None, agent: str,
        started: Event | None, stop: Callable[[], None],
    ) -> HeldRun | None:  # fmt: skip
        """Hold a run from now on. None while nobody renews leases here."""
        if not self.running:
            return None
        lease_id = random_text(self._entropy, 12)
        lease = Lease(lease_id, next(self._numbers), user_id, run_id, thread_id, parent_run_id, agent, started)
        run = self._held[lease_id] = HeldRun(lease, stop)
        if self._unlisten is None:
            self._unlisten = self.leases.listen(self._heard)
        return run

    def close(self, run: HeldRun, *, told: bool) -> None:
        """The run has ended. If its terminal event was `told` to the outbox, its lease ends when that is in the log; if
        it could not be, somebody else will tell it. A run of which nothing was told ends at once."""
        run.stop = None
        if run.lease.started is None:
            self._end(run)
        elif not told:
            self._held.pop(run.lease.id, None)

    def clear(self) -> None:
        """Forget all at once; for a loop that is gone. Their leases expire."""
        for runs in (self._held, self._unsaid, self._over):
            runs.clear()
        self._closed.clear()
        self.running = False
        self._unlisten = None

    def expect(self, run: HeldRun, approval_id: str, take: Callable[[str], object]) -> None:
        """The run waits for an approval, of which the store must know before the user does; `take` is called with the
        decision."""
        run.approvals[approval_id] = take
        run.written = False

    def expect_no_more(self, run: HeldRun, approval_id: str) -> None:
        """Nobody waits for it any more: whoever decides now is told so."""
        if run.approvals.pop(approval_id, None) is not None:
            self._closed[run.lease.user_id, approval_id] = None
            self._awake.set()

    # -- for the writer

    async def make_sure(self, run: HeldRun) -> None:
        """See to it that the lease is written, which is tried for so long as a caller of the bridge waits, and that it
        is still held; `run.lost` if it is not. Raises `LogUnavailable` if that can't be told."""
        if not run.written:
            try:
                async with asyncio.timeout(SETTLE_SECONDS):
                    await self._write(run)
            except (LogUnavailable, TimeoutError):
                logger.debug("the lease of a run could not be written")
        if run.sure_until != NEVER and self._monotonic() >= run.sure_until:
            await self._hold([run])

    def appended(self, run: HeldRun, event_id: str) -> None:
        """An event of the run is in the log."""
        if event_id == run.started_id:
            run.begun = True
            self._unsaid[run.lease.id] = run
            self._awake.set()
        elif run.started_id is not None and event_id == terminal_id(run.started_id):
            self._end(run)

    def given_up(self, run: HeldRun, event_id: str) -> None:
        """An event of the run can't be appended. If it was the terminal one, another process will tell the end."""
        if run.started_id is not None and event_id == terminal_id(run.started_id):
            self._held.pop(run.lease.id, None)

    def _end(self, run: HeldRun) -> None:
        if self._held.pop(run.lease.id, None) is not None:
            self._over[run.lease.id] = run
            self._awake.set()

    # -- the job

    def run(self) -> Coroutine[None, None, None]:
        self.running = True
        return self._run()

    async def _run(self) -> None:
        self._awake = asyncio.Event()
        loop = asyncio.get_running_loop()
        interval = self._seconds / RENEWALS
        due = loop.time() + self._rng.uniform(0.0, interval)
        try:
            while True:
                await self._wait_until(due)
                try:
                    if loop.time() >= due:
                        due = loop.time() + min(interval, max(0.05, interval / 10))  # soon, unless it works out
                        await self.renew()
                        due = loop.time() + interval
                    await self._say()
                    await self._drop()
                    if self._asked:
                        self._asked = False
                        await self._look(self._held.values())
                except (LogUnavailable, ManagerClosed) as error:
                    logger.debug("leases could not be renewed", extra={"error": type(error).__name__})
                except Exception:  # the job must live, or every run of this process is lost
                    logger.exception("renewing leases failed")
        finally:
            self._stopped()

    def _stopped(self) -> None:
        self.running = False
        if self._unlisten is not None:
            self._unlisten()
            self._unlisten = None

    async def _wait_until(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        timer = loop.call_at(due, self._awake.set)
        try:
            await self._awake.wait()
        finally:
            timer.cancel()
        self._awake.clear()

    def _heard(self) -> None:
        self._asked = True
        self._awake.set()

    async def renew(self) -> None:
        """Prolong all leases, and see what is asked of their runs. Raises `LogUnavailable`."""
        runs = list(self._held.values())
        if runs:
            await self._hold(runs, together=False)
            self._asked = False
            await self._look(run for run in runs if run.lease.id in self._held)

    async def close_down(self) -> None:
        """End the leases whose runs are over. Those of runs that are still open expire."""
        try:
            await self._drop()
        except (LogUnavailable, ManagerClosed):
            logger.debug("leases of runs that are over could not be ended")

    async def _hold(self, runs: list[HeldRun], *, together: bool = True) -> None:
        """Hold the leases, `together` with all others of this process, so that all of them expire at once."""
        asked = self._monotonic()
        # Not a lease that is about to expire: a run that has just begun would be lost with those that stood still.
        until = self._until if together and asked < self._together_until else None
        held = await self.leases.hold([run.lease for run in runs], seconds=self._seconds, until=until)
        self._until = held.until
        self._together_until = asked + held.seconds - self._seconds / RENEWALS
        for run in runs:
            if run.lease.id in held.lost:
                self.lose(run)
            else:
                run.sure_until = asked + held.seconds

    def lose(self, run: HeldRun) -> None:
        """Somebody else has ended the run: it is stopped, and nothing of it is told any more."""
        self._held.pop(run.lease.id, None)
        if not run.lost:
            run.lost = True
            logger.warning("a run was lost: this process did not renew its lease in time")
            if run.stop is not None:
                run.stop()

    async def _write(self, run: HeldRun) -> None:
        begun, approvals = run.begun, list(run.approvals)
        write = partial(self.leases.write, run.lease, begun=begun, approvals=approvals)
        if run.sure_until == NEVER:
            await asyncio.gather(self._hold([run]), write())
        else:
            await self._hold([run])
            if run.lost:  # whoever ends the run drops what the lease says
                return
            await write()
        run.written = approvals == list(run.approvals)

    async def _say(self) -> None:
        while self._closed:
            user_id, approval_id = next(iter(self._closed))
            await self.leases.decide(user_id, approval_id, CLOSED)
            self._closed.pop((user_id, approval_id), None)
        while self._unsaid:
            runs = list(self._unsaid.values())
            await asyncio.gather(*[self._write(run) for run in runs if run.lease.id in self._held])
            for run in runs:
                self._unsaid.pop(run.lease.id, None)

    async def _drop(self) -> None:
        over = list(self._over.values())
        if over:
            await self.leases.drop([run.lease for run in over])
            for run in over:
                self._over.pop(run.lease.id, None)

    async def _look(self, runs: Iterable[HeldRun]) -> None:
        of_users: dict[UserId, list[HeldRun]] = {}
        for run in runs:
            of_users.setdefault(run.lease.user_id, []).append(run)
        wanted = [
            Look(user_id, [run.lease.id for run in held], [each for run in held for each in run.approvals])
            for user_id, held in of_users.items()
        ]
        for held, seen in zip(of_users.values(), await self.leases.look(wanted) if wanted else [], strict=True):
            for run in held:
                if run.lease.id in seen.cancelled and not run.cancelled:
                    run.cancelled = True
                    if run.stop is not None:
                        run.stop()
                for approval_id, take in list(run.approvals.items()):
                    if approval_id in seen.decisions:
                        take(seen.decisions[approval_id])
                if run.lease.id in self._held and (run.lease.id in seen.missing or not run.written):
                    await self._write(run)


class LeasedWriter:
    """A `LogWriter` through which the events of runs go in step with their leases. All others pass straight on."""

    def __init__(self, writer: LogWriter, keeper: RunKeeper) -> None:
        self._writer = writer
        self._keeper = keeper

    def append(self, log: LogName, event: Event) -> Coroutine[Any, Any, Position]:
        if type(event) is RunEvent:
            return self._append_of(event.run, log, event)
        return self._writer.append(log, event)

    async def _append_of(self, run: HeldRun, log: LogName, event: Event) -> Position:
        if not run.lost:
            await self._keeper.make_sure(run)
        if run.lost:
            return NOWHERE
        try:
            position = await self._writer.append(log, event)
        except LeaseLost:  # while the event was on its way
            self._keeper.lose(run)
            return NOWHERE
        except LogUnavailable:
            raise
        except Exception:
            self._keeper.given_up(run, event.id)
            raise
        self._keeper.appended(run, event.id)
        return position
