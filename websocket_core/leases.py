"""Leases: what processes share of the runs that are open, so that no run is orphaned with its process.

A process that holds runs renews their leases. Whoever finds one expired claims it, which cannot happen twice at a
time, and tells the user that the run was lost. Logs that end with their process need none of this: their new epoch
ends all runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from websocket_core.events import Event
from websocket_core.identity import UserId


class Lease(NamedTuple):
    """What others must know of one run to stop it, to answer it, and to end it when its process is gone."""

    id: str
    """Random, of this opening: a run id may be used again."""
    number: int
    """Counts the openings of one process, so that a child's is above its parent's."""
    user_id: UserId
    run_id: str
    thread_id: str | None
    parent_run_id: str | None
    agent: str
    started: Event | None
    """Its `agent_started`. None for a run that its user is told nothing of."""


class LeasedEvent(Event):
    """An event of a run with a lease. A log that can tell refuses it with `LeaseLost`, in the step that would append
    it, when somebody else has claimed the lease."""

    lease_id: str


class LeaseLost(Exception):
    """Nothing was appended: somebody else has ended the run."""


def terminal_id(started_id: str) -> str:
    """The event id of the one event that ends a run, derived so that whoever ends it appends the same one."""
    return f"{started_id}.end"


class Held(NamedTuple):
    """What came of holding leases."""

    lost: frozenset[str]
    """Which of them, by id, somebody else has claimed: their runs are over."""
    until: int
    """When the others expire, by the clock of the store."""
    seconds: float
    """How long they are held at least, counted from before the call."""


class Look(NamedTuple):
    """What to look for: of one user, leases and approvals that are waited for."""

    user_id: UserId
    leases: Sequence[str]
    approvals: Sequence[str] = ()


class Seen(NamedTuple):
    missing: frozenset[str]
    """Leases that the store has forgotten."""
    cancelled: frozenset[str]
    """Leases whose run the user has cancelled."""
    decisions: Mapping[str, str]
    """By approval id, what the user has decided, as JSON."""


class Contact(NamedTuple):
    """Since when a process has been in touch with the store without a break, in ms of the clock of the store."""

    last: int
    since: int


class Expired(NamedTuple):
    """A lease that was claimed, to be settled by whoever claimed it."""

    lease: Lease
    begun: bool
    """Whether its `agent_started` is known to have reached the log."""


class Leases(Protocol):
    """The leases of a process and of all its neighbours. Every coroutine method raises `LogUnavailable`, and may be
    called again."""

    def listen(self, heard: Callable[[], None]) -> Callable[[], None]:
        """Call `heard` when something is asked of a run that this process holds, until the returned function is
        called. Calls may be lost."""
        ...

    async def hold(self, leases: Sequence[Lease], *, seconds: float, until: int | None = None) -> Held:
        """Prolong leases, or begin to hold them, in one atomic step for each: for so many seconds, or `until` then, if
        that is still to come. Those that were claimed stay lost."""
        ...

    async def write(self, lease: Lease, *, begun: bool, approvals: Sequence[str]) -> None:
        """Say what a lease is, and which approvals its run waits for."""
        ...

    async def look(self, wanted: Sequence[Look]) -> list[Seen]:
        """What has been asked of the runs of this process."""
        ...

    async def drop(self, leases: Sequence[Lease]) -> None:
        """End leases whose run is over and told."""
        ...

    async def claim(self, contact: Contact | None, *, seconds: float, most: int) -> tuple[Contact, list[Expired]]:
        """Claim leases that have expired, to settle them within `seconds`; after that others may claim them.

        Nothing is claimed before this process has been in touch for `seconds` without a break: after an outage every
        holder gets the time to come back."""
        ...

    async def cancel(self, user_id: UserId, run_id: str) -> bool:
        """Note on every lease with this run id that the user has cancelled it, and signal its holder. False if there
        is none."""
        ...

    async def decide(self, user_id: UserId, approval_id: str, decision: str) -> str | None:
        """Note what the user has decided, and signal who waits for it. The decision that stands: this one, or one that
        came before; None if nobody waits for it."""
        ...
