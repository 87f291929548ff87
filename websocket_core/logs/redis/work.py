"""`WorkQueue` in Redis: a stream with a consumer group, and beside it which ids are known and how many each user has.

An item that a worker was given is pending in the group until it is settled. Its idle time tells the lease: renewing
sets it to 0, a failure to the lease without the pause, and who finds it as long as the lease claims the item.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, Protocol

from websocket_core.events import check_event_id
from websocket_core.identity import LogName, checked_user_id, text_fault
from websocket_core.logs.redis.exchange import Script
from websocket_core.logs.redis.names import Namespace
from websocket_core.work import IDS, Held, Item, Outcome, Put, WorkLimits

GROUP: Final = "workers"
MOST_BYTES: Final = 1_048_576
"""What is larger is none of ours, and is not even fetched."""
FOREIGN: Final = 100
"""So many entries that are none of ours are kept to be looked at, those of up to `FOREIGN_BYTES` whole."""
FOREIGN_BYTES: Final = 16_384
FORGOTTEN_SECONDS: Final = 86_400
"""A worker that was not heard of for so long, and at least for ten leases, is forgotten."""


class Host(Protocol):
    """The log on Redis, as far as work needs it."""

    def submit(self, *command: Any) -> asyncio.Future[Any]: ...

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any: ...

    def watch(self, log: LogName, wake: Callable[[], None]) -> Callable[[], None]: ...


class RedisWork:
    """`WorkQueue` of every process with the same Redis, namespace and queue."""

    def __init__(
        self,
        host: Host,
        names: Namespace,
        queue: str,
        limits: WorkLimits,
        *,
        passed_over: Callable[[int], None],
    ) -> None:
        """`passed_over` is told how many entries were found that are none of ours."""
        tag = names.plain(f"{{w{base64.urlsafe_b64encode(queue.encode()).rstrip(b'=').decode()}}}:")
        self._stream = tag + "s"
        self._ids = tag + "i"
        self._owners = tag + "o"
        self._dead = tag + "d"
        self._foreign = tag + "f"
        self._signals = LogName("topic", f"\x00work {queue}")  # no topic of an application can be called so
        self._channel = names.of_log(self._signals).channel
        self._host = host
        self._limits = limits
        self._passed_over = passed_over
        self._put_script = Script.load("work_put")
        self._take_script = Script.load("work_take")
        self._renew_script = Script.load("work_renew")
        self._settle_script = Script.load("work_settle")
        self._leave_script = Script.load("work_leave")

    async def put(self, item: Item) -> Put:
        limits = self._limits
        arguments = (
            item.owner, item.id, limits.waiting, limits.waiting_per_user, _milliseconds(limits.remembered), IDS,
            self._channel, item.kind, _marked(item.thread_id), _marked(item.connection_id), item.body,
        )  # fmt: skip
        answer: bytes = await self._host.run(self._put_script, (self._stream, self._ids, self._owners), arguments)
        return Put(answer.decode())

    async def take(self, worker: str, most: int, running: Collection[str]) -> Sequence[Held]:
        arguments = (GROUP, worker, most, _milliseconds(self._limits.lease), MOST_BYTES, *running)
        answer = await self._host.run(self._take_script, (self._stream,), arguments)
        taken: list[Held] = []
        for key, attempt, fields in answer:
            held = None if isinstance(fields, int) else _held(key.decode(), attempt, fields)
            if held is None:
                self._passed_over(1)
                await self._settle(worker, key.decode(), Outcome.FOREIGN, attempt)
            else:
                taken.append(held)
        return taken

    async def renew(self, worker: str, keys: Collection[str]) -> Sequence[str]:
        lost = await self._host.run(self._renew_script, (self._stream,), (GROUP, worker, *keys))
        return [key.decode() for key in lost]

    async def settle(self, worker: str, held: Held, outcome: Outcome) -> bool:
        if outcome is Outcome.FOREIGN:
            self._passed_over(1)
        return await self._settle(worker, held.key, outcome, held.attempt)

    async def _settle(self, worker: str, key: str, outcome: Outcome, attempt: int) -> bool:
        lease = self._limits.lease
        idle = lease - (self._limits.delay(attempt) if outcome is Outcome.AGAIN else 0.0)
        arguments = (
            GROUP, worker, key, outcome, attempt, _milliseconds(idle), self._limits.dead, self._channel,
            FOREIGN, FOREIGN_BYTES,
        )  # fmt: skip
        keys = (self._stream, self._ids, self._owners, self._dead, self._foreign)
        return bool(await self._host.run(self._settle_script, keys, arguments))

    async def dead(self, most: int) -> Sequence[Held]:
        found = await self._host.submit("XREVRANGE", self._dead, "+", "-", "COUNT", most)
        letters: list[Held] = []
        for _, fields in found:
            named = dict(zip(fields[::2], fields[1::2], strict=False))
            key, attempts = named.pop(b"s", b""), named.pop(b"a", b"")
            if attempts.isdigit():
                flat = [part for pair in named.items() for part in pair]
                held = _held(key.decode(errors="replace"), int(attempts), flat)
                letters += [] if held is None else [held]
        return letters

    async def leave(self, worker: str) -> None:
        unheard = max(FORGOTTEN_SECONDS, 10 * self._limits.lease)
        await self._host.run(self._leave_script, (self._stream,), (GROUP, worker, _milliseconds(unheard)))

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        return self._host.watch(self._signals, wake)


def _held(key: str, attempt: int, fields: Sequence[bytes]) -> Held | None:
    """An item as Redis has it; None for what is none."""
    try:
        named = {name.decode(): value for name, value in zip(fields[::2], fields[1::2], strict=True)}
        body, texts = named.pop("b"), {name: value.decode() for name, value in named.items()}
        if sorted(texts) != ["c", "h", "i", "k", "n"] or len(fields) != 12:
            return None
        if text_fault(texts["k"], characters=128, utf8_bytes=512) is not None:
            return None
        labels = [_unmarked(texts["h"]), _unmarked(texts["c"])]
        item = Item(checked_user_id(texts["n"]), check_event_id(texts["i"]), texts["k"], body, *labels)
        return Held(key, item, attempt, int(key.partition("-")[0]) / 1000)
    except (ValueError, KeyError):
        return None


def _marked(text: str | None) -> str:
    """As it is stored: nothing is not the same as an empty text."""
    return "" if text is None else f"={text}"


def _unmarked(stored: str) -> str | None:
    return stored[1:] if stored else None


def _milliseconds(seconds: float) -> int:
    return max(0, int(seconds * 1000))
