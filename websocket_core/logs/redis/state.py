"""What processes share that is no log, in Redis: connection ids, the deny-list and tickets; leases and seats beside it.

What belongs to a user is in the slot of the user's log. A ticket is asked for by whoever has not said who they are, so
it has a key of its own; the user's slot notes which tickets there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from websocket_core.errors import LogUnavailable
from websocket_core.identity import UserId
from websocket_core.logs.redis.exchange import Script
from websocket_core.logs.redis.leases import Process, RedisLeases, runs_key
from websocket_core.logs.redis.names import Namespace
from websocket_core.logs.redis.seats import RedisSeats, seats_key
from websocket_core.state import TICKETS_PER_USER

LONGEST_SECONDS: Final = 100 * 365 * 86_400
"""What Redis is asked to keep for longer is kept for so long; it refuses times that overflow its clock."""


class Commands(Protocol):
    """An `Exchange`, or what passes on to one."""

    def submit(self, *command: Any) -> asyncio.Future[Any]: ...

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any: ...


class RedisState:
    """`SharedState` of every process with the same Redis and namespace.

    Connection ids and tickets grow old by the clock of Redis, which all processes share; denials end by `clock`, and
    Redis drops them at that time. A Redis that restarts without persistence, or from an old file, forgets all of it:
    what was denied in the last 3 seconds is denied again, and other tokens that were denied since that file are good
    again until they expire. Every method raises `LogUnavailable`, and
    `ManagerClosed` after the exchange was closed. Whether anything happened is then unknown, and all but `take_ticket`
    may be called again.
    """

    def __init__(
        self,
        exchange: Commands,
        names: Namespace,
        *,
        age: float,
        per_user: int,
        clock: Callable[[], float] = time.time,
        surely: Callable[[Script, Sequence[str], Sequence[Any]], Awaitable[Any]] | None = None,
    ) -> None:
        """`surely` runs a script as `exchange.run` does, and again if Redis is restarted or replaced right after."""
        self._exchange = exchange
        self._surely = surely or exchange.run
        self._names = names
        self._age = age
        self._per_user = per_user
        self._clock = clock
        self.leases: Final = RedisLeases(exchange, names, age=age) if isinstance(exchange, Process) else None
        """The leases of runs, where this process can be told of what is asked of them."""
        self.seats: Final = (
            RedisSeats(exchange, names, age=age, known=per_user) if isinstance(exchange, Process) else None
        )
        """The connections of users in all processes."""
        self._connection_script = Script.load("state_connection")
        self._deny_script = Script.load("state_deny")
        self._ticket_script = Script.load("state_ticket")

    async def remember_connection(self, user_id: UserId, connection_id: str) -> None:
        arguments = (_exact(connection_id), _milliseconds(self._age), self._per_user)
        await self._exchange.run(self._connection_script, (self._connections(user_id),), arguments)

    async def knows_connection(self, user_id: UserId, connection_id: str) -> bool:
        seen, (seconds, micros) = await asyncio.gather(
            self._exchange.submit("ZSCORE", self._connections(user_id), _exact(connection_id)),
            self._exchange.submit("TIME"),
        )
        return seen is not None and int(seconds) * 1_000_000 + int(micros) - float(seen) <= self._age * 1e6

    async def forget_user(self, user_id: UserId) -> None:
        _, keys = await asyncio.gather(
            self._exchange.submit(
                "DEL", self._connections(user_id), runs_key(self._names, user_id), seats_key(self._names, user_id)
            ),
            self._exchange.submit("HKEYS", self._tickets(user_id)),
        )
        await self._drop_tickets(user_id, keys)

    async def deny(self, user_id: UserId, token_id: str | None, *, issued_until: float, until: float) -> None:
        left = until - self._clock()
        arguments = (repr(float(issued_until)), repr(float(until)), _milliseconds(left) if left >= 0.0 else 0)
        await self._surely(self._deny_script, (self._denial(user_id, token_id),), arguments)

    async def denied(self, user_id: UserId, token_id: str | None, issued_at: float | None) -> bool:
        # Each is asked for by GET, which fails for what is no text; MGET would answer that nothing is denied.
        asked = [self._exchange.submit("GET", self._denial(user_id, None))]
        if token_id is not None:
            asked.append(self._exchange.submit("GET", self._denial(user_id, token_id)))
        everything, *of_token = [_denial_of(stored) for stored in await asyncio.gather(*asked)]
        now = self._clock()
        if everything is not None and (issued_at is None or issued_at <= everything.issued_until):
            of_token.append(everything)
        return any(denial is not None and now <= denial.until for denial in of_token)

    async def keep_ticket(self, user_id: UserId, key: str, content: bytes, *, seconds: float) -> None:
        user, exact, lasts = _exact(user_id), _exact(key), _milliseconds(seconds)
        # Kept before it is noted: whoever finds it noted can drop it.
        await self._exchange.submit("SET", self._ticket(exact), b"%d\n%b%b" % (len(user), user, content), "PX", lasts)
        arguments = (exact, lasts, TICKETS_PER_USER)
        above = await self._exchange.run(self._ticket_script, (self._tickets(user_id),), arguments)
        await self._drop_tickets(user_id, above)

    async def take_ticket(self, key: str) -> bytes | None:
        exact = _exact(key)
        kept: bytes | None = await self._exchange.submit("GETDEL", self._ticket(exact))
        if kept is None:
            return None
        try:
            size, _, rest = kept.partition(b"\n")
            user_id, content = UserId(rest[: int(size)].decode()), rest[int(size) :]
        except ValueError:
            raise _foreign() from None
        if not user_id or len(user_id.encode()) != int(size):
            raise _foreign()
        with contextlib.suppress(LogUnavailable):  # it makes room for another, and is taken already
            await self._exchange.submit("HDEL", self._tickets(user_id), exact)
        return content

    async def _drop_tickets(self, user_id: UserId, keys: Iterable[bytes]) -> None:
        """They are noted until they are dropped: whoever dies in between leaves them to the next."""
        dropped = list(keys)
        if dropped:
            await asyncio.gather(*[self._exchange.submit("DEL", self._ticket(key)) for key in dropped])
            await self._exchange.submit("HDEL", self._tickets(user_id), *dropped)

    def _connections(self, user_id: UserId) -> str:
        return self._names.of_user(user_id, "k")

    def _denial(self, user_id: UserId, token_id: str | None) -> str:
        which = "d" if token_id is None else f"d:{hashlib.sha256(_exact(token_id)).hexdigest()}"
        return self._names.of_user(user_id, which)

    def _tickets(self, user_id: UserId) -> str:
        return self._names.of_user(user_id, "t")

    def _ticket(self, key: bytes) -> bytes:
        return self._names.plain("t:").encode() + key


class _Denial(NamedTuple):
    issued_until: float
    until: float


def _denial_of(stored: bytes | None) -> _Denial | None:
    if stored is None:
        return None
    try:
        issued_until, until = stored.split(b" ")
        return _Denial(float(issued_until), float(until))
    except ValueError:
        raise _foreign() from None


def _foreign() -> LogUnavailable:
    return LogUnavailable("what Redis holds is not what was stored there")


def _exact(text: str) -> bytes:
    """One text, one sequence of bytes. A token may name itself by a lone surrogate, which has no UTF-8."""
    return text.encode(errors="surrogatepass")


def _milliseconds(seconds: float) -> int:
    """At least so many, and at least one."""
    return math.floor(min(seconds, LONGEST_SECONDS) * 1000.0) + 1
