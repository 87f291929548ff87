"""What a server does not wait for: request heads and bodies that never end, and frames that no application sees.

Nothing here needs a network or uvicorn: the protocols tell what happened, and are told who is to go.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import socket
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Final, Protocol

from websocket_core.admission import network_of
from websocket_core.errors import InvalidConfiguration
from websocket_core.lag import LATE

logger = logging.getLogger(__name__)

GRACE: Final = 1.0
"""Seconds in which a request may arrive before its sender needs one of the places that are bounded. Honest ones take
less: those who do not send cannot keep them out, and thousands who come back at once through one proxy are no flood."""
BODY_RATE: Final = 1_024
"""Bytes per second that a request body brings at least, on average over each `ServerBounds.body_timeout`."""
AT_ONCE: Final = 64
"""How many late connections are ended before the loop gets a turn."""
WARNING_INTERVAL: Final = 60.0
"""Seconds between two warnings at least."""

_LINGER_NOT: Final = struct.pack("ii", 1, 0)
"""For SO_LINGER: reset the connection instead of closing it in good order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerBounds:
    """What one server grants to a peer before an application sees anything of it.

    Raises `InvalidConfiguration` when a value is not a finite number above zero.
    """

    handshake_timeout: float = 5.0
    """Seconds from the first byte, or from the opening of the connection, to the end of a request's head."""
    body_timeout: float = 10.0
    """Seconds in which a request body is whole, or brings 1 KiB for each of them; then so many seconds again."""
    header_bytes: int = 32_768
    """The largest head of a request, its first line included."""
    headers: int = 128
    """The most header fields of a request."""
    pending: int = 8_192
    """How many connections may have owed the head of their request for longer than a second, and how many for less.
    Above it, the newest is refused. Of the descriptors that the process may have, they never take all."""
    pending_per_address: int = 4_096
    """How many of those that have for longer, from one address (IPv6: from one /64); trusted proxies do not count."""
    fragments: int = 256
    """The most frames that one WebSocket message may come in."""
    wire_frames: int = 4_096
    """How many frames a socket may send at once; a control frame or a fragment counts as four."""
    wire_frames_per_second: float = 1_024.0
    """How many more it may send with each second."""

    def __post_init__(self) -> None:
        for field in fields(self):
            number = getattr(self, field.name)
            allowed = (int, float) if field.type == "float" else (int,)
            if isinstance(number, bool) or not isinstance(number, allowed) or not 0 < number < float("inf"):
                raise InvalidConfiguration(f"ServerBounds.{field.name} must be above zero and finite, not {number!r}")


def cut(transport: asyncio.Transport) -> None:
    """Close the socket now. What waits to be sent is dropped, also by the kernel: to a client that has stopped reading
    it would offer megabytes for minutes after the close."""
    end: Any = transport.get_extra_info("socket")
    if transport.get_write_buffer_size() and end is not None:
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    transport.abort()


def has_unread(transport: asyncio.Transport) -> bool:
    """Whether something waits in the kernel that the event loop has not come to read yet."""
    end: Any = transport.get_extra_info("socket")
    poll = getattr(select, "poll", None)
    if end is None or poll is None or end.fileno() < 0:
        return False
    look = poll()
    look.register(end.fileno(), select.POLLIN)
    return bool(look.poll(0))


class Credit:
    """How many frames a socket may still send: a full bucket at first, refilled with time."""

    __slots__ = ("_at", "_capacity", "_clock", "_left", "_rate")

    def __init__(self, bounds: ServerBounds, clock: Callable[[], float]) -> None:
        self._capacity = self._left = float(bounds.wire_frames)
        self._rate = bounds.wire_frames_per_second
        self._clock = clock
        self._at = clock()

    def spend(self, cost: int) -> bool:
        """False if there is not so much left. The clock is read only when the bucket looks empty."""
        left = self._left - cost
        if left < 0.0:
            now = self._clock()
            left = min(self._capacity, self._left + (now - self._at) * self._rate) - cost
            self._at = now
        self._left = left
        return left >= 0.0


class Sender(Protocol):
    """A connection that owes a request."""

    @property
    def address(self) -> str | None:
        """Where it comes from; None if that says nothing, as on a Unix socket."""
        ...

    def has_unread(self) -> bool:
        """Whether it has sent something that was not read yet."""
        ...

    def refuse(self) -> None:
        """End the connection without a word."""
        ...

    def head_is_late(self) -> None:
        """End the connection: the head of its request did not come in time."""
        ...

    def body_is_late(self) -> bool:
        """A period of its body is over. True if the connection was ended; else it gets another one."""
        ...


class _Line:
    """Senders in the order of their deadlines, which are equally far away for all of them; so one timer is enough."""

    def __init__(self, seconds: float, loop: asyncio.AbstractEventLoop, end: Callable[[Sender], None]) -> None:
        self._seconds = seconds
        self._loop = loop
        self._end = end
        self._due: dict[Sender, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, who: Sender) -> bool:
        return who in self._due

    def add(self, who: Sender) -> None:
        self._due[who] = self._loop.time() + self._seconds
        if self._timer is None:
            self._look_in(self._seconds)

    def discard(self, who: Sender) -> bool:
        return self._due.pop(who, None) is not None

    def _look_in(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._look, self._loop.time() + seconds)

    def _look(self, wanted: float) -> None:
        self._timer = None
        now = self._loop.time()
        if now - wanted >= LATE:  # the loop stood still, perhaps with the rest of the request waiting to be read
            self._look_in(LATE)
            return
        ended = 0
        while self._due:
            who, due = next(iter(self._due.items()))
            if due > now or ended == AT_ONCE:
                self._look_in(max(due - now, 0.0))
                return
            del self._due[who]
            self._end(who)
            ended += 1


def _part(bound: int, descriptors: int | None, share: int) -> int:
    """The bound, or that share of the descriptors if it is smaller."""
    return bound if descriptors is None else max(1, min(bound, descriptors // share))


class Handshakes:
    """The connections of one server that owe it a request, and who of them is to go.

    A connection owes a head until it is whole. For the first moment the bound is only there against running out of
    sockets; who takes longer needs a place, of the server's and of its address's. Late is whoever owes a head
    `handshake_timeout` after it was first owed, whatever came in between, and whoever brings a body too slowly.

    Nobody is refused whose request waits to be read: when thousands come back at once, it is the server that is slow.
    """

    def __init__(
        self,
        bounds: ServerBounds,
        loop: asyncio.AbstractEventLoop,
        *,
        trusts: Callable[[str], bool] | None = None,
        descriptors: int | None = None,
    ) -> None:
        """`trusts` tells whether an address is a proxy's, behind which many clients may be; `descriptors` is how many
        the process may have."""
        grace = min(GRACE, bounds.handshake_timeout / 2)
        self._most_new = _part(bounds.pending, descriptors, 2)
        self._most_slow = _part(bounds.pending, descriptors, 3)
        self._most_of_one = _part(bounds.pending_per_address, descriptors, 4)
        self._loop = loop
        self._trusts = trusts
        self._new = _Line(grace, loop, self._settle)
        self._slow = _Line(bounds.handshake_timeout - grace, loop, self._end_head)
        self._bodies = _Line(bounds.body_timeout, loop, self._end_body)
        self._slow_of: Counter[str] = Counter()
        self._refused = 0
        self._quiet_until = float("-inf")

    @property
    def waiting(self) -> int:
        """How many owe a head."""
        return len(self._new) + len(self._slow)

    def expect_head(self, who: Sender) -> None:
        """The head of a request is owed from now on, unless it is already. May refuse the sender."""
        if who in self._new or who in self._slow:
            return
        self._bodies.discard(who)
        if len(self._new) >= self._most_new and not who.has_unread():
            self._refuse(who)
        else:
            self._new.add(who)

    def expect_body(self, who: Sender) -> bool:
        """The head is there, and its body is owed from now on; False if it is already."""
        if who in self._bodies:
            return False
        self.settle(who)
        self._bodies.add(who)
        return True

    def settle(self, who: Sender) -> None:
        """Nothing is owed any more, or the sender has gone."""
        if self._slow.discard(who):
            self._forget(who)
        elif not self._new.discard(who):
            self._bodies.discard(who)

    def _settle(self, who: Sender) -> None:
        """The first moment is over."""
        group = self._group(who)
        full = len(self._slow) >= self._most_slow or (group is not None and self._slow_of[group] >= self._most_of_one)
        if full and not who.has_unread():
            self._refuse(who)
            return
        if group is not None:
            self._slow_of[group] += 1
        self._slow.add(who)

    def _end_head(self, who: Sender) -> None:
        self._forget(who)
        who.head_is_late()

    def _end_body(self, who: Sender) -> None:
        if not who.body_is_late():
            self._bodies.add(who)

    def _group(self, who: Sender) -> str | None:
        address = who.address
        return None if address is None or (self._trusts and self._trusts(address)) else network_of(address)

    def _forget(self, who: Sender) -> None:
        group = self._group(who)
        if group is not None:
            self._slow_of[group] -= 1
            if not self._slow_of[group]:
                del self._slow_of[group]

    def _refuse(self, who: Sender) -> None:
        self._refused += 1
        now = self._loop.time()
        if now >= self._quiet_until:
            self._quiet_until = now + WARNING_INTERVAL
            logger.warning(
                "connections are refused: too many have not sent their request; since the last such line: %d",
                self._refused,
            )
            self._refused = 0
        who.refuse()
