"""`RedisSeats`: how many connections a user has in all processes together, in Redis.

A hash in the slot of the user's log has a field for each connection. A process says that it is there by a key that
expires; it is asked for only when a user has more seats than there may be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from websocket_core.identity import UserId
from websocket_core.logs.redis.exchange import Script
from websocket_core.logs.redis.leases import Process
from websocket_core.logs.redis.names import Namespace
from websocket_core.state import Seat

SEATS_SECONDS: Final = 30 * 86_400
"""How long the seats of a user are kept after the last connect: as long as the head of the log."""


class RedisSeats:
    """`Seats` of every process with the same Redis and namespace."""

    def __init__(self, process: Process, names: Namespace, *, age: float, known: int) -> None:
        self.process: Final = process.channel
        self._commands = process
        self._names = names
        self._age = int(age * 1000)
        self._known = known
        self._seat_script = Script.load("state_seat")
        self._unseat_script = Script.load("state_unseat")

    async def take(self, user_id: UserId, seat: Seat, *, most: int) -> list[Seat]:
        seats = seats_key(self._names, user_id)
        keys = (self._names.of_user(user_id, "k"), seats)
        connection_id = seat.connection_id.encode(errors="surrogatepass")
        arguments = (
            connection_id, self._age + 1, self._known, seat.id, self.process, most, SEATS_SECONDS * 1000,
        )  # fmt: skip
        same, processes = await self._commands.run(self._seat_script, keys, arguments)
        if processes:
            others = [name for each in processes if (name := each.decode(errors="replace")) != self.process]
            there = await asyncio.gather(*[self.is_there(other) for other in others])
            gone = [other for other, is_there in zip(others, there, strict=True) if not is_there]
            same += await self._commands.run(self._unseat_script, (seats,), (seat.id, most, *gone))
        return [_seat(each) for each in same]

    async def leave(self, left: Sequence[tuple[UserId, str]]) -> None:
        await asyncio.gather(
            *[self._commands.submit("HDEL", seats_key(self._names, user_id), seat) for user_id, seat in left]
        )

    async def elsewhere(self, user_id: UserId) -> bool:
        values: list[bytes] = await self._commands.submit("HVALS", seats_key(self._names, user_id))
        mine = self.process.encode()
        return any(value.split(b"\n", 2)[1:2] not in ([mine], []) for value in values)

    async def stay(self, seconds: float) -> None:
        await self._commands.submit("SET", _there(self.process), "", "PX", int(seconds * 1000))

    async def is_there(self, process: str) -> bool:
        # What was read from Redis names no key that is not such a one.
        if not process.startswith(self._names.plain("process:")):
            return False
        # Redis knows at once that a process was killed, and after a while that one stands still.
        said, listening = await asyncio.gather(
            self._commands.submit("EXISTS", _there(process)), self._commands.submit("PUBSUB", "NUMSUB", process)
        )
        return int(said) > 0 and int(listening[1]) > 0


def seats_key(names: Namespace, user_id: UserId) -> str:
    return names.of_user(user_id, "s")


def _there(process: str) -> str:
    return f"{process}:there"


def _seat(fields: Sequence[Any]) -> Seat:
    seat, connection_id, process = fields
    return Seat(
        seat.decode(errors="replace"),
        connection_id.decode(errors="surrogatepass"),
        process.decode(errors="replace"),
    )
