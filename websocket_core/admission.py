"""Who is let in when more come than can be served: a gate before anything that costs something.

When thousands of clients come back at once, a server that takes them all serves each so late that it has given up
by then, and comes again: nobody gets in any more. A server that takes as many as it can and sends the others away for
a while, at a tenth of the cost, has everybody back in the time that the work takes.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from ipaddress import IPv6Address, ip_address
from typing import Final, NamedTuple

from websocket_core.limits import Limits
from websocket_core.metrics import Metrics

SLICE: Final = 0.25
"""Seconds. Once one turn of the event loop has spent so long on newcomers, it spends as long on sending others away,
and so on in turns: at least half of the time goes to those who get in."""
SOONEST: Final = 1.0
LATEST: Final = 60.0
"""Seconds after which somebody who was sent away may come again."""
SLOWEST: Final = 20.0
"""Newcomers per second that are counted on at least, when the others are given their times."""


class Refusal(NamedTuple):
    """Why somebody is not let in now: an HTTP status, and after how many seconds to come again."""

    status: int
    retry_after: float


class Admitted:
    """Somebody who was let in. `served` when the handshake is over, or waits for the client; `leave` at the end."""

    __slots__ = ("_address", "_gate", "_under_way")

    def __init__(self, gate: AdmissionGate, address: str | None) -> None:
        self._gate = gate
        self._address = address
        self._under_way = True

    def served(self) -> None:
        if self._under_way:
            self._under_way = False
            self._gate.count_served()

    def leave(self) -> None:
        self.served()
        self._gate.count_left(self._address)


class AdmissionGate:
    """Counts who comes in, by address too, and decides whom to send away. One for each manager, in one event loop."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits = limits
        self._metrics = metrics
        self._addresses: Counter[str] = Counter()
        self._under_way = 0
        self._turn: asyncio.AbstractEventLoop | None = None
        self._began = 0.0
        self._admitted = 0
        self._slot = float("-inf")
        self._second = float("-inf")
        self._served = self._pace = 0

    def enter(self, address: str | None) -> Admitted | Refusal:
        """Let somebody in, or say why not."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._turn is not loop:
            self._turn = loop
            self._began = now
            self._admitted = 0
            loop.call_soon(self._end_turn)
        if address is not None and self._addresses[address] >= self._limits.connections_per_address:
            self._metrics.refusals += 1
            return Refusal(429, SOONEST)
        spent = now - self._began
        if self._under_way >= self._limits.handshakes or int(spent / SLICE) % 2 == 1:
            # Each is given a time of its own, one after the other at the pace at which newcomers get in.
            pace = max(SLOWEST, self._pace, self._admitted / max(spent, SLICE))
            self._slot = min(max(self._slot, now + SOONEST) + 1.0 / pace, now + LATEST)
            self._metrics.refusals += 1
            return Refusal(503, self._slot - now)
        self._admitted += 1
        self._under_way += 1
        if address is not None:
            self._addresses[address] += 1
        return Admitted(self, address)

    def count_served(self) -> None:
        self._under_way -= 1
        now = asyncio.get_running_loop().time()
        if now - self._second >= 1.0:
            self._pace = self._served if now - self._second < 2.0 else 0
            self._second = now
            self._served = 0
        self._served += 1

    def count_left(self, address: str | None) -> None:
        if address is not None:
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]

    def _end_turn(self) -> None:
        self._turn = None


def network_of(host: str | None) -> str | None:
    """Whom an address stands for when connections are counted: an IPv4 address for itself, an IPv6 address for its
    network of 64 bits, since whoever has one of them has them all. None if there is none to count, as on a Unix socket.
    """
    if not host:
        return None
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return f"{IPv6Address(int(address) >> 64 << 64)}/64"
    return sys.intern(str(address))
