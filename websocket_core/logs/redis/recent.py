"""`Acknowledged`: a short memory of what Redis acknowledged, for the case that it forgets it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, NamedTuple

from websocket_core.errors import LogUnavailable
from websocket_core.identity import LogName
from websocket_core.logs.redis.exchange import end_task

KEPT_SECONDS: Final = 3.0
"""How long what was acknowledged is kept at least."""
KEPT: Final = 20_000
KEPT_BYTES: Final = 16_777_216
ASK_SECONDS: Final = 1.0
"""How often Redis is asked whether it is still the one that acknowledged."""


_new: Any = tuple.__new__  # as in `packing`


class Recent(NamedTuple):
    at: float
    log: LogName | None
    """The log that it was done to; None for what is done to none."""
    size: int
    again: Callable[[], bytes]
    """The command that does it again."""


class Acknowledged:
    """What was acknowledged in the last seconds before Redis was last known to be there, the oldest first.

    While there is something, one task asks Redis every second: after a restart or a failover somebody must notice, also
    when nothing else is appended, and the seconds count from before Redis went away, however long it stays away.
    """

    def __init__(self, ask: Callable[[], Awaitable[Any]], *, monotonic: Callable[[], float]) -> None:
        """`ask` raises `LogUnavailable` while Redis is away. What is here must have been appended again when it returns
        from another Redis than before."""
        self._ask = ask
        self._monotonic = monotonic
        self._held: deque[Recent] = deque()
        self._bytes = 0
        self._vigil: asyncio.Task[None] | None = None
        self._closed = False

    def __iter__(self) -> Iterator[Recent]:
        return iter(list(self._held))

    def add(self, log: LogName | None, size: int, again: Callable[[], bytes]) -> None:
        """Keep what was just acknowledged, of about so many bytes."""
        held = self._held
        held.append(_new(Recent, (self._monotonic(), log, size, again)))
        self._bytes += size
        while len(held) > KEPT or self._bytes > KEPT_BYTES:
            self._drop_oldest()
        if self._vigil is None and not self._closed:
            # Lives while something is held. Owned by this memory: ended by `close`.
            self._vigil = asyncio.get_running_loop().create_task(self._watch(), name="websocket_core redis vigil")

    def forget(self, log: LogName) -> None:
        """Forget what belongs to that log."""
        self._held = deque([each for each in self._held if each.log != log])
        self._bytes = sum(each.size for each in self._held)

    async def close(self) -> None:
        self._closed = True
        if self._vigil is not None:
            await end_task(self._vigil)
            self._vigil = None

    async def _watch(self) -> None:
        while self._held:
            await asyncio.sleep(ASK_SECONDS)
            horizon = self._monotonic() - KEPT_SECONDS
            try:
                await self._ask()
            except LogUnavailable:
                continue
            while self._held and self._held[0].at < horizon:
                self._drop_oldest()
        self._vigil = None

    def _drop_oldest(self) -> None:
        self._bytes -= self._held.popleft().size
