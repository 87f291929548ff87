"""Work that waits to be taken by exactly one worker: what users ask for, in contrast to events, which everybody sees.

`WorkQueue` is what `websocket_core.commands` consumes; `MemoryWork` is its form for one process. Laws, which one suite
checks for both forms:

1.  One of all who take is given an item. While its lease is renewed nobody else is.
2.  An item whose lease has ended is given to somebody again, and says for which time.
3.  Only who holds an item settles it.
4.  An item is known by its owner and id from when it is put until `remembered` seconds after it was settled for good.
5.  What is kept is bounded: items that wait, in all and of each owner; ids; dead letters.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from websocket_core.errors import InvalidConfiguration
from websocket_core.identity import UserId

IDS: Final = 100_000
"""So many ids of what was settled are remembered at most, whatever their age."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkLimits:
    """The bounds of one queue. All processes that use it have the same.

    Raises `InvalidConfiguration` when a value is not a finite number above zero.
    """

    waiting: int = 10_000
    """Items that wait or are worked on. Above it, newcomers are refused."""
    waiting_per_user: int = 100
    """The same of one user."""
    lease: float = 30.0
    """Seconds without a sign of life after which a worker counts as dead, and what it held is taken by another."""
    attempts: int = 5
    """So many times an item is begun; after that it is a dead letter."""
    back_off: float = 1.0
    """Seconds before the second attempt; doubled for each further one, up to the lease."""
    remembered: float = 3_600.0
    """Seconds that the id of a settled item is known, so that nobody can ask for it again by mistake."""
    dead: int = 1_000
    """Dead letters that are kept; the oldest goes first."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            number = isinstance(value, (int, float) if each.type == "float" else int) and not isinstance(value, bool)
            if not (number and 0 < value < float("inf")):
                raise InvalidConfiguration(f"WorkLimits.{each.name} must be a finite number above zero")

    def delay(self, attempt: int) -> float:
        """Seconds between a failed attempt and the next."""
        return min(self.lease, self.back_off * 2.0 ** min(attempt - 1, 32))


class Item(NamedTuple):
    """What somebody asks for. It names its owner, who is the one that was authenticated."""

    owner: UserId
    id: str
    kind: str
    body: bytes
    """JSON, an object."""
    thread_id: str | None = None
    connection_id: str | None = None


class Held(NamedTuple):
    """An item in the hands of one worker."""

    key: str
    item: Item
    attempt: int
    """1 for the first."""
    put_at: float
    """Unix seconds."""


class Put(StrEnum):
    """What became of an item that was put."""

    TAKEN = "taken"
    KNOWN = "known"
    """It was put before."""
    FULL = "full"


class Outcome(StrEnum):
    """How whoever holds an item settles it."""

    DONE = "done"
    AGAIN = "again"
    """It failed, and is given out again after a while."""
    BACK = "back"
    """It was not really begun: given out again at once, and this time does not count."""
    DEAD = "dead"
    FOREIGN = "foreign"
    """It is no item of ours."""


class WorkQueue(Protocol):
    """One queue, over all processes that share it. Every method raises `LogUnavailable` when it cannot tell."""

    async def put(self, item: Item) -> Put:
        """Let the item wait, unless it is known. One atomic step; may be called again when the outcome is unknown."""
        ...

    async def take(self, worker: str, most: int, running: Collection[str]) -> Sequence[Held]:
        """Up to so many items, which are this worker's from now on: those whose lease has ended, except the keys that
        it knows to be `running`, and the oldest that nobody has. Does not wait."""
        ...

    async def renew(self, worker: str, keys: Collection[str]) -> Sequence[str]:
        """Begin the leases of these anew; the keys of those that this worker does not hold any more."""
        ...

    async def settle(self, worker: str, held: Held, outcome: Outcome) -> bool:
        """End the hold; False if this worker does not hold it any more, and nothing was changed."""
        ...

    async def dead(self, most: int) -> Sequence[Held]:
        """The newest dead letters, newest first."""
        ...

    async def leave(self, worker: str) -> None:
        """Forget a worker that holds nothing any more."""
        ...

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake` when there may be something to take, until the returned function is called. A call may be late,
        spurious or lost."""
        ...


class _Waiting:
    """An item of `MemoryWork` until it is settled."""

    __slots__ = ("attempts", "item", "put_at", "until", "worker")

    def __init__(self, item: Item, put_at: float) -> None:
        self.item = item
        self.put_at = put_at
        self.worker: str | None = None
        self.attempts = 0
        self.until = 0.0
        """When the lease ends, or the pause after a failure."""


class MemoryWork:
    """`WorkQueue` within one process. It ends with the process."""

    def __init__(
        self,
        limits: WorkLimits,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._monotonic = monotonic
        self._waiting: OrderedDict[str, _Waiting] = OrderedDict()
        self._count = 0
        self._owners: dict[UserId, int] = {}
        self._known: set[tuple[UserId, str]] = set()
        self._settled: OrderedDict[tuple[UserId, str], float] = OrderedDict()
        self._dead: deque[Held] = deque(maxlen=limits.dead)
        self._watchers: dict[object, Callable[[], None]] = {}

    async def put(self, item: Item) -> Put:
        name = (item.owner, item.id)
        horizon = self._monotonic() - self._limits.remembered
        while self._settled and (len(self._settled) > IDS or next(iter(self._settled.values())) < horizon):
            self._settled.popitem(last=False)
        if name in self._known or name in self._settled:
            return Put.KNOWN
        of_owner = self._owners.get(item.owner, 0)
        if len(self._waiting) >= self._limits.waiting or of_owner >= self._limits.waiting_per_user:
            return Put.FULL
        self._count += 1
        self._waiting[str(self._count)] = _Waiting(item, self._clock())
        self._known.add(name)
        self._owners[item.owner] = of_owner + 1
        self._wake()
        return Put.TAKEN

    async def take(self, worker: str, most: int, running: Collection[str]) -> Sequence[Held]:
        now = self._monotonic()
        taken: list[Held] = []
        for key, waiting in self._waiting.items():
            if len(taken) >= most:
                break
            if waiting.worker is None or (waiting.until <= now and key not in running):
                waiting.worker = worker
                waiting.until = now + self._limits.lease
                waiting.attempts += 1
                taken.append(Held(key, waiting.item, waiting.attempts, waiting.put_at))
        return taken

    async def renew(self, worker: str, keys: Collection[str]) -> Sequence[str]:
        lost = []
        for key in keys:
            waiting = self._waiting.get(key)
            if waiting is None or waiting.worker != worker:
                lost.append(key)
            else:
                waiting.until = self._monotonic() + self._limits.lease
        return lost

    async def settle(self, worker: str, held: Held, outcome: Outcome) -> bool:
        waiting = self._waiting.get(held.key)
        if waiting is None or waiting.worker != worker:
            return False
        now = self._monotonic()
        match outcome:
            case Outcome.AGAIN:
                waiting.until = now + self._limits.delay(held.attempt)
            case Outcome.BACK:
                waiting.worker = None
                waiting.attempts -= 1
                self._wake()
            case Outcome.DONE | Outcome.DEAD | Outcome.FOREIGN:
                self._end(held.key, waiting.item, now)
                if outcome is Outcome.DEAD:
                    self._dead.append(held)
        return True

    def _end(self, key: str, item: Item, now: float) -> None:
        del self._waiting[key]
        name = (item.owner, item.id)
        self._known.discard(name)
        self._settled[name] = now
        self._owners[item.owner] -= 1
        if not self._owners[item.owner]:
            del self._owners[item.owner]

    async def dead(self, most: int) -> Sequence[Held]:
        return list(self._dead)[: -most - 1 : -1]

    async def leave(self, worker: str) -> None:
        """Nothing is kept of it."""

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        token = object()
        self._watchers[token] = wake
        return lambda: self._watchers.pop(token, None) and None

    def _wake(self) -> None:
        for wake in list(self._watchers.values()):
            wake()
