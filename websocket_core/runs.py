"""The runs that are open, by user and run id, so that a user can stop one: those of this process, and by their leases
those of others."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from websocket_core.appender import Appender
from websocket_core.approvals import CANCELLED, CLOSED, EXPIRED, Approvals, Pending, packed
from websocket_core.authorization import Authorization, Verb
from websocket_core.errors import FrameRefused, LogUnavailable
from websocket_core.events import EventEncoder
from websocket_core.identity import UserId, text_fault
from websocket_core.inbound import FrameHandler, Peer
from websocket_core.leases import Leases
from websocket_core.limits import Limits
from websocket_core.log import LogWriter
from websocket_core.metrics import Metrics
from websocket_core.reaper import Reaper
from websocket_core.run_keeper import HeldRun, LeasedWriter, RunKeeper
from websocket_core.state import SharedState


def keeper_of(
    state: SharedState,
    *,
    limits: Limits,
    monotonic: Callable[[], float],
    entropy: Callable[[int], bytes],
    rng: random.Random | None,
) -> RunKeeper | None:
    """What holds the leases of runs. None for a state that has no attribute `leases`, or None there: then runs end with
    their process, and the new epoch of their log tells it."""
    leases: Leases | None = getattr(state, "leases", None)
    if leases is None:
        return None
    return RunKeeper(leases, seconds=limits.lease, monotonic=monotonic, entropy=entropy, rng=rng)


class OpenRuns:
    """Which runs are open. Somebody else's run does not exist here: every look-up names the user.

    A run id may be open more than once, when an application uses it again before the first run has ended; stopping
    it stops all of them.
    """

    def __init__(self, keeper: RunKeeper | None = None) -> None:
        self.keeper: Final = keeper
        """Holds the leases of runs; None where they end with the process, and nobody else can know of them."""
        self.approvals: Final = Approvals()
        self._runs: dict[UserId, dict[str, list[Callable[[], None]]]] = {}

    def __len__(self) -> int:
        return sum(len(stops) for runs in self._runs.values() for stops in runs.values())

    def open(self, user_id: UserId, run_id: str, stop: Callable[[], None]) -> Callable[[], None]:
        """Note that a run is open, and how to stop it. Returns what must be called when it has ended."""
        self._runs.setdefault(user_id, {}).setdefault(run_id, []).append(stop)

        def close() -> None:
            runs = self._runs.get(user_id, {})
            stops = runs.get(run_id, [])
            if stop in stops:
                stops.remove(stop)
            if not stops:
                runs.pop(run_id, None)
            if not runs:
                self._runs.pop(user_id, None)

        return close

    def clear(self) -> None:
        """Forget all at once; for a loop that is gone."""
        self._runs.clear()
        self.approvals.clear()
        if self.keeper is not None:
            self.keeper.clear()

    def cancel(self, user_id: UserId, run_id: str) -> bool:
        """Ask every open run of that user and id to stop; False if there is none."""
        stops = list(self._runs.get(user_id, {}).get(run_id, ()))
        for stop in stops:
            stop()
        return bool(stops)

    def writer(self, log: LogWriter) -> LogWriter:
        """The way to the log by which the events of runs go in step with their leases."""
        return log if self.keeper is None else LeasedWriter(log, self.keeper)

    def jobs(
        self, appender: Appender, encoder: EventEncoder, *, limits: Limits, metrics: Metrics
    ) -> dict[str, Callable[[], Coroutine[None, None, None]]]:
        """What must run as long as runs do: one job that renews all leases, and one that ends the runs of the dead."""
        if self.keeper is None:
            return {}
        reaper = Reaper(self.keeper.leases, appender, encoder, seconds=limits.lease, metrics=metrics)
        return {"run keeper": self.keeper.run, "reaper": reaper.run}

    def release(self, run: HeldRun, *, told: bool) -> None:
        """A run that others know of has ended; `told` is whether its terminal event is on its way to the log."""
        if self.keeper is not None:
            self.keeper.close(run, told=told)

    def expect(self, user_id: UserId, approval_id: str, run: HeldRun | None) -> Pending:
        """A run waits for a decision of the user. Raises `InvalidEvent` if one does under this id."""
        pending = self.approvals.expect(user_id, approval_id)
        if run is not None and self.keeper is not None:
            self.keeper.expect(run, approval_id, pending.take)
        return pending

    def expect_no_more(self, approval_id: str, run: HeldRun) -> None:
        """A run that others know of waits for this decision no more."""
        if self.keeper is not None:
            self.keeper.expect_no_more(run, approval_id)

    async def decide(self, user_id: UserId, approval_id: str, decision: str) -> str | None:
        """Decide what a run of this user waits for, wherever it is. The decision that stands: the first, which need not
        be this one; None if nobody waits for it. Raises `LogUnavailable`."""
        stands = None
        if self.keeper is not None:
            stands = await self.keeper.leases.decide(user_id, approval_id, decision)
        here = self.approvals.decide(user_id, approval_id, stands or decision)
        return here or stands

    async def close(self) -> None:
        """End the leases of runs that are over. Those of runs that are still open expire, and others end the runs."""
        if self.keeper is not None:
            await self.keeper.close_down()

    async def cancel_anywhere(self, user_id: UserId, run_id: str) -> bool:
        """The same, also for a run that another process holds: it is told to stop. Raises `LogUnavailable`."""
        if self.cancel(user_id, run_id):
            return True
        if self.keeper is None or text_fault(run_id, characters=256, utf8_bytes=1024):
            return False  # no run can have such an id
        return await self.keeper.leases.cancel(user_id, run_id)


def cancel_handler(runs: OpenRuns, authorization: Authorization) -> FrameHandler:
    """Answers `cancel {run_id}`. Somebody else's run is no run."""

    async def cancel(peer: Peer, frame: Mapping[str, Any]) -> None:
        run_id = frame.get("run_id")
        if not isinstance(run_id, str):
            raise FrameRefused("invalid", "cancel carries a run_id")
        await _authorize(authorization, peer, Verb.CANCEL)
        try:
            found = await runs.cancel_anywhere(peer.user_id, run_id)
        except LogUnavailable:
            raise FrameRefused("unavailable", "whether there is such a run cannot be told now") from None
        if not found:
            raise FrameRefused("not_found", "there is no such open run")

    return cancel


def handlers_of(runs: OpenRuns, authorization: Authorization) -> dict[str, FrameHandler]:
    """What answers the frames by which a user has a say in runs, by their type."""
    return {"cancel": cancel_handler(runs, authorization), "approve": approve_handler(runs, authorization)}


DECISION_CHARACTERS: Final = 64


def approve_handler(runs: OpenRuns, authorization: Authorization) -> FrameHandler:
    """Answers `approve {approval_id, decision, ...}`. The first decision stands: the same one again is acknowledged
    again, another is `invalid`. What somebody else is asked is not there."""

    async def approve(peer: Peer, frame: Mapping[str, Any]) -> None:
        approval_id, decision = frame.get("approval_id"), frame.get("decision")
        fault = text_fault(decision, characters=DECISION_CHARACTERS, utf8_bytes=4 * DECISION_CHARACTERS)
        fault = fault or text_fault(approval_id, characters=256, utf8_bytes=1024)
        if not isinstance(approval_id, str) or not isinstance(decision, str) or fault is not None:
            raise FrameRefused("invalid", "approve carries an approval_id and a decision, which is a short text")
        if decision in (CANCELLED, EXPIRED):
            raise FrameRefused("invalid", "this word says that nobody decided")
        await _authorize(authorization, peer, Verb.APPROVE)
        data = {key: value for key, value in frame.items() if key not in _APPROVE_KEYS}
        try:
            chosen = packed(decision, data)
        except ValueError:
            raise FrameRefused("invalid", "the decision cannot be encoded") from None
        try:
            stands = await runs.decide(peer.user_id, approval_id, chosen)
        except LogUnavailable:
            raise FrameRefused("unavailable", "whether somebody waits for it cannot be told now") from None
        if stands is None or stands == CLOSED:
            raise FrameRefused("not_found", "nobody waits for this decision")
        if stands != chosen:
            raise FrameRefused("invalid", "it was decided otherwise before")

    return approve


_APPROVE_KEYS: Final = frozenset({"type", "request_id", "approval_id", "decision"})


async def _authorize(authorization: Authorization, peer: Peer, verb: Verb) -> None:
    try:
        refusal = await authorization.refusal(peer.principal, verb, peer.user_id)
    except LogUnavailable:
        raise FrameRefused("unavailable", f"whether you may {verb} cannot be told now") from None
    if refusal is not None:
        raise FrameRefused("forbidden", f"you may not {verb} anything here")
