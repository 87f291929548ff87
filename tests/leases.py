"""`Leases` in memory: several processes in one, for tests that need no Redis, and against which its form is tested."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from websocket_core.errors import LogUnavailable
from websocket_core.identity import UserId
from websocket_core.leases import Contact, Expired, Held, Lease, Leases, Look, Seen
from websocket_core.state import MemoryState


@dataclass
class _Record:
    lease: Lease
    channel: int
    begun: bool
    cancelled: bool = False


@dataclass
class SharedLeases:
    """What all processes see. `away` makes every call fail; `now` gives seconds."""

    now: Callable[[], float]
    records: dict[tuple[UserId, str], _Record] = field(default_factory=dict)
    approvals: dict[tuple[UserId, str], tuple[str, str]] = field(default_factory=dict)
    due: dict[tuple[UserId, str], float] = field(default_factory=dict)
    lost: dict[tuple[UserId, str], float] = field(default_factory=dict)
    listeners: dict[int, list[Callable[[], None]]] = field(default_factory=dict)
    deaf: bool = False
    away: bool = False
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._channels = itertools.count()

    def process(self) -> FakeLeases:
        return FakeLeases(self, next(self._channels))

    def forget_everything(self) -> None:
        for each in (self.records, self.approvals, self.due, self.lost):
            each.clear()


class FakeLeases:
    """The leases of one process."""

    def __init__(self, shared: SharedLeases, channel: int) -> None:
        self.shared: Final = shared
        self.channel: Final = channel
        self.away = False

    async def _reach(self, call: str) -> None:
        self.shared.calls.append(call)
        await asyncio.sleep(0)
        if self.shared.away or self.away:
            raise LogUnavailable("told to be away")

    def listen(self, heard: Callable[[], None]) -> Callable[[], None]:
        listeners = self.shared.listeners.setdefault(self.channel, [])
        listeners.append(heard)
        return lambda: listeners.remove(heard)

    async def hold(self, leases: Sequence[Lease], *, seconds: float, until: int | None = None) -> Held:
        await self._reach("hold")
        now = self.shared.now()
        till = (until or 0) / 1000
        if not now < till <= now + seconds:
            till = now + seconds
        lost = set()
        for lease in leases:
            if _key(lease) in self.shared.lost:
                lost.add(lease.id)
            else:
                self.shared.due[_key(lease)] = till
        await asyncio.sleep(0)
        return Held(frozenset(lost), int(till * 1000), till - now)

    async def write(self, lease: Lease, *, begun: bool, approvals: Sequence[str]) -> None:
        await self._reach("write")
        known = self.shared.records.get(_key(lease))
        cancelled = known is not None and known.cancelled
        self.shared.records[_key(lease)] = _Record(lease, self.channel, begun, cancelled)
        for approval_id in approvals:
            self.shared.approvals.setdefault((lease.user_id, approval_id), (lease.id, ""))

    async def look(self, wanted: Sequence[Look]) -> list[Seen]:
        await self._reach("look")
        return [self._seen(look) for look in wanted]

    def _seen(self, look: Look) -> Seen:
        records = {each: self.shared.records.get((look.user_id, each)) for each in look.leases}
        decided = {each: self.shared.approvals.get((look.user_id, each), ("", ""))[1] for each in look.approvals}
        return Seen(
            frozenset(each for each, record in records.items() if record is None),
            frozenset(each for each, record in records.items() if record is not None and record.cancelled),
            {each: decision for each, decision in decided.items() if decision},
        )

    async def drop(self, leases: Sequence[Lease]) -> None:
        await self._reach("drop")
        for lease in leases:
            self.shared.records.pop(_key(lease), None)
            self.shared.due.pop(_key(lease), None)
            for key in [key for key, waits in self.shared.approvals.items() if waits[0] == lease.id]:
                del self.shared.approvals[key]

    async def claim(self, contact: Contact | None, *, seconds: float, most: int) -> tuple[Contact, list[Expired]]:
        await self._reach("claim")
        now = int(self.shared.now() * 1000)
        last, since = contact or (0, 0)
        if now < last or now - last > seconds * 500:
            since = now
        found: list[Expired] = []
        if now - since >= seconds * 1000:
            expired = sorted((at, key) for key, at in self.shared.due.items() if at * 1000 <= now)
            for _at, key in expired[:most]:
                record = self.shared.records.get(key)
                if record is None:
                    del self.shared.due[key]
                    continue
                self.shared.due[key] = self.shared.now() + seconds
                self.shared.lost[key] = self.shared.now()
                found.append(Expired(record.lease, record.begun))
        return Contact(now, since), found

    async def cancel(self, user_id: UserId, run_id: str) -> bool:
        await self._reach("cancel")
        found = False
        for (owner, _), record in self.shared.records.items():
            if owner == user_id and record.lease.run_id == run_id:
                found = record.cancelled = True
                self._signal(record.channel)
        return found

    async def decide(self, user_id: UserId, approval_id: str, decision: str) -> str | None:
        await self._reach("decide")
        waits = self.shared.approvals.get((user_id, approval_id))
        if waits is None:
            return None
        if not waits[1]:
            self.shared.approvals[user_id, approval_id] = waits = (waits[0], decision)
        record = self.shared.records.get((user_id, waits[0]))
        if record is not None:
            self._signal(record.channel)
        return waits[1]

    def _signal(self, channel: int) -> None:
        if not self.shared.deaf:
            for heard in self.shared.listeners.get(channel, ()):
                heard()


def _key(lease: Lease) -> tuple[UserId, str]:
    return lease.user_id, lease.id


class LeasedState(MemoryState):
    """The state of one process among several that share leases."""

    def __init__(self, leases: Leases, **options: Any) -> None:
        options.setdefault("age", 3_600.0)
        options.setdefault("per_user", 1_000)
        super().__init__(**options)
        self.leases = leases
