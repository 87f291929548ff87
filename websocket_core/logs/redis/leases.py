"""`RedisLeases`: the leases of runs, in Redis.

What a lease says is in the slot of its user's log: a hash, in which the fields of one lease begin with its id. When it
expires is in one sorted set for all users, beside another of those that were claimed; both are in a slot of their own,
so that prolonging and claiming exclude each other.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, Protocol, runtime_checkable

from pydantic_core import to_json

from websocket_core.errors import InvalidInput, LogUnavailable
from websocket_core.events import Event, check_event_id
from websocket_core.identity import UserId, checked_user_id
from websocket_core.leases import Contact, Expired, Held, Lease, Look, Seen
from websocket_core.logs.redis.exchange import Script
from websocket_core.logs.redis.names import Namespace

logger = logging.getLogger(__name__)

KEPT_SECONDS: Final = 86_400
"""How long a lease that nobody prolongs, and that nobody was there to claim, is remembered at least."""
LOST_SECONDS: Final = 86_400
"""How long it is remembered that a lease was claimed, for a holder that was only frozen."""
AT_ONCE: Final = 500
"""Leases in one script at most."""
ID_SIZE: Final = 16
"""Of a lease id, in bytes."""


@runtime_checkable
class Process(Protocol):
    """The connection of this process to Redis: commands, and what is published to it."""

    channel: str
    """Where others reach it."""

    def submit(self, *command: Any) -> asyncio.Future[Any]: ...

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any: ...

    def listen(self, heard: Callable[[], None]) -> Callable[[], None]: ...


class RedisLeases:
    """`Leases` of every process with the same Redis and namespace. Time is told by the clock of Redis."""

    def __init__(self, process: Process, names: Namespace, *, age: float) -> None:
        self._process = process
        self._names = names
        self._keep = int(max(KEPT_SECONDS, age) * 1000)
        self._index = (names.plain("{r}:due"), names.plain("{r}:lost"))
        self._hold_script = Script.load("lease_hold")
        self._claim_script = Script.load("lease_claim")
        self._drop_script = Script.load("lease_drop")
        self._cancel_script = Script.load("lease_cancel")
        self._decide_script = Script.load("lease_decide")

    def listen(self, heard: Callable[[], None]) -> Callable[[], None]:
        return self._process.listen(heard)

    async def hold(self, leases: Sequence[Lease], *, seconds: float, until: int | None = None) -> Held:
        lost: set[str] = set()
        left = seconds
        for start in range(0, len(leases), AT_ONCE):
            members = [_member(lease) for lease in leases[start : start + AT_ONCE]]
            arguments = (int(seconds * 1000), "" if until is None else until, self._keep, *members)
            till, rest, *gone = await self._process.run(self._hold_script, self._index, arguments)
            until, left = int(till), min(left, int(rest) / 1000)
            lost.update(member[:ID_SIZE].decode() for member in gone)
        return Held(frozenset(lost), until or 0, left)

    async def write(self, lease: Lease, *, begun: bool, approvals: Sequence[str]) -> None:
        key = self._runs(lease.user_id)
        fields: list[Any] = [
            f"{lease.id}.r", lease.run_id, f"{lease.id}.h", self._process.channel,
            f"{lease.id}.s", int(begun), f"{lease.id}.d", _packed(lease),
        ]  # fmt: skip
        submit = self._process.submit
        await asyncio.gather(
            # A decision that stands already stays.
            *[submit("HSETNX", key, f"a.{approval_id}", f"{lease.id}\n") for approval_id in approvals],
            submit("HSET", key, *fields),
            submit("PEXPIRE", key, self._keep),
        )

    async def look(self, wanted: Sequence[Look]) -> list[Seen]:
        asked = [
            self._process.submit(
                "HMGET", self._runs(look.user_id),
                *[f"{lease}.s" for lease in look.leases], *[f"{lease}.c" for lease in look.leases],
                *[f"a.{approval}" for approval in look.approvals],
            )
            for look in wanted
        ]  # fmt: skip
        answers = await _answers(asked)
        return [_seen(look, answer) for look, answer in zip(wanted, answers, strict=True)]

    async def drop(self, leases: Sequence[Lease]) -> None:
        of_users: dict[UserId, list[str]] = {}
        for lease in leases:
            of_users.setdefault(lease.user_id, []).append(lease.id)
        drop = partial(self._process.run, self._drop_script)
        await _answers([drop((self._runs(user_id),), ids) for user_id, ids in of_users.items()])
        await self._forget([_member(lease) for lease in leases])

    async def claim(self, contact: Contact | None, *, seconds: float, most: int) -> tuple[Contact, list[Expired]]:
        lease = int(seconds * 1000)
        arguments = (*(contact or (0, 0)), lease, lease, LOST_SECONDS * 1000, most)
        now, since, *members = await self._process.run(self._claim_script, self._index, arguments)
        expired: list[Expired] = []
        orphans: list[bytes] = []
        for member, answer in zip(members, await self._read(members), strict=True):
            found = None if answer is None else _expired(*_named(member), *answer)
            if found is not None:
                expired.append(found)
            elif answer is not None:
                orphans.append(member)  # its user was deleted, or its process died before it said what it was
        await self._fence([each.lease for each in expired])
        await self._forget(orphans)
        return Contact(int(now), int(since)), expired

    async def cancel(self, user_id: UserId, run_id: str) -> bool:
        channels = await self._process.run(self._cancel_script, (self._runs(user_id),), (run_id,))
        await self._signal(channels)
        return bool(channels)

    async def decide(self, user_id: UserId, approval_id: str, decision: str) -> str | None:
        arguments = (f"a.{approval_id}", decision)
        answer = await self._process.run(self._decide_script, (self._runs(user_id),), arguments)
        if not answer:
            return None
        stands, channel = answer
        await self._signal([channel])
        return str(stands.decode())

    async def _signal(self, channels: Iterable[bytes]) -> None:
        """Wake who holds the runs; who does not hear it finds what is asked at the next renewal."""
        await asyncio.gather(*[self._process.submit("PUBLISH", channel, "look") for channel in set(channels)])

    async def _read(self, members: Sequence[bytes]) -> list[Any]:
        asked = []
        for member in members:
            name, user_id = _named(member)
            asked.append(self._process.submit("HMGET", self._runs(user_id), f"{name}.s", f"{name}.d"))
        return await _answers(asked)

    async def _fence(self, leases: Sequence[Lease]) -> None:
        """Note in the slots of the logs that nothing more is appended for these leases."""
        submit = self._process.submit
        keys = [lost_key(self._names, lease.user_id) for lease in leases]
        await _answers(
            [
                *[submit("SADD", key, lease.id) for key, lease in zip(keys, leases, strict=True)],
                *[submit("PEXPIRE", key, LOST_SECONDS * 1000) for key in keys],
            ]
        )

    async def _forget(self, members: Sequence[bytes]) -> None:
        for start in range(0, len(members), AT_ONCE):
            await self._process.submit("ZREM", self._index[0], *members[start : start + AT_ONCE])

    def _runs(self, user_id: UserId) -> str:
        return runs_key(self._names, user_id)


def runs_key(names: Namespace, user_id: UserId) -> str:
    """Where the leases of a user's runs are."""
    return names.of_user(user_id, "r")


def lost_key(names: Namespace, user_id: UserId) -> str:
    """Where it is noted which leases of the user's runs were claimed."""
    return names.of_user(user_id, "x")


async def _answers(asked: Sequence[Awaitable[Any]]) -> list[Any]:
    """The answers, None where there is none: what is wrong with one user's key is no trouble of the others. Raises
    `LogUnavailable` if there is no answer at all."""
    answers = await asyncio.gather(*asked, return_exceptions=True)
    failed = [answer for answer in answers if isinstance(answer, BaseException)]
    for error in failed:
        if not isinstance(error, LogUnavailable) or len(failed) == len(answers):
            raise error
    return [None if isinstance(answer, BaseException) else answer for answer in answers]


def _member(lease: Lease) -> bytes:
    return lease.id.encode() + lease.user_id.encode()


def _named(member: bytes) -> tuple[str, UserId]:
    return member[:ID_SIZE].decode(errors="replace"), UserId(member[ID_SIZE:].decode(errors="replace"))


def _packed(lease: Lease) -> bytes:
    started = lease.started
    return to_json(
        {
            "user": lease.user_id,
            "number": lease.number,
            "run": lease.run_id,
            "thread": lease.thread_id,
            "parent": lease.parent_run_id,
            "agent": lease.agent,
            "started": None if started is None else [started.id, started.body.decode()],
        }
    )


def _expired(name: str, user_id: UserId, begun: bytes | None, packed: bytes | None) -> Expired | None:
    """The lease as it is stored. None for what is not there, or was not stored by us."""
    if packed is None:
        return None
    try:
        fields = json.loads(packed)
        texts = [fields[field] for field in ("run", "agent", "user")]
        maybe = [fields[field] for field in ("thread", "parent")]
        if not all(isinstance(text, str) for text in (*texts, *(text for text in maybe if text is not None))):
            raise ValueError("a field is no text")
        if fields["user"] != checked_user_id(user_id):
            raise ValueError("the lease of somebody else")
        started = None
        if fields["started"] is not None:
            event_id, body = fields["started"]
            started = Event(check_event_id(event_id), body.encode(), None, maybe[0])
        lease = Lease(name, int(fields["number"]), user_id, texts[0], maybe[0], maybe[1], texts[1], started)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidInput):
        logger.warning("a lease in Redis is none of ours; it is passed over")
        return None
    return Expired(lease, begun == b"1")


def _seen(look: Look, answer: Sequence[bytes | None] | None) -> Seen:
    if answer is None:
        return Seen(frozenset(), frozenset(), {})
    count = len(look.leases)
    begun, cancelled, decided = answer[:count], answer[count : 2 * count], answer[2 * count :]
    decisions: dict[str, str] = {}
    for approval_id, value in zip(look.approvals, decided, strict=True):
        decision = (value or b"").partition(b"\n")[2]
        if decision:
            decisions[approval_id] = decision.decode(errors="replace")
    return Seen(
        frozenset(lease for lease, found in zip(look.leases, begun, strict=True) if found is None),
        frozenset(lease for lease, found in zip(look.leases, cancelled, strict=True) if found is not None),
        decisions,
    )
