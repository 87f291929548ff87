"""What was emitted to whom, as only the harness knows it, and the history that a run leaves behind.

Every payload carries a stamp: a number, a MAC under a secret of its user that never enters the system under test, and
the user. A stamp cannot be made, moved to another user or changed by anything that is being tested.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

DELTA: Final = "message_delta"


class Stamp(NamedTuple):
    user: str
    number: int


class Key(NamedTuple):
    """One fact: which emission, what kind of event, and for a text delta where it starts."""

    number: int
    kind: str
    start: int = 0


class Secrets:
    """A secret for each user, and what is signed with it."""

    def __init__(self, seed: int, users: list[str]) -> None:
        self.users = users
        self._of = {user: hashlib.blake2b(f"{seed}/{user}".encode(), digest_size=16).digest() for user in users}
        self._macs: dict[tuple[str, int], str] = {}

    def _mac(self, user: str, number: int) -> str:
        known = self._macs.get((user, number))
        if known is None:
            known = self._macs[user, number] = self._sign(user, number)
        return known

    def _sign(self, user: str, number: int) -> str:
        return hmac.new(self._of[user], str(number).encode(), "sha256").hexdigest()[:24]

    def stamp(self, user: str, number: int) -> str:
        return f"{number}.{self._mac(user, number)}.{user}"

    def text(self, user: str, number: int, length: int) -> str:
        """Text that nobody else could have written, for streams of deltas."""
        seed = hmac.new(self._of[user], f"text/{number}".encode(), "sha256").digest()
        return hashlib.shake_128(seed).hexdigest(length // 2 + 1)[:length]

    def read(self, stamp: object) -> Stamp | None:
        """Whose stamp it truly is, whatever it claims; None if it is nobody's."""
        if not isinstance(stamp, str) or stamp.count(".") < 2:
            return None
        number, mac, claimed = stamp.split(".", 2)
        if not number.isdecimal():
            return None
        for user in [claimed, *self.users]:
            if user in self._of and hmac.compare_digest(self._mac(user, int(number)), mac):
                return Stamp(user, int(number))
        return None


def stamp_text(event: dict[str, Any]) -> object:
    """Where the stamp stands in an event."""
    data = event.get("data")
    if not isinstance(data, dict):
        return None
    for name in ("stamp", "message_id", "tool", "agent"):
        if name in data:
            return data[name]
    return None


@dataclass(slots=True)
class Emission:
    """One thing that was, or may have been, emitted."""

    user: str
    key: Key
    lane: str
    data: dict[str, Any] | None
    """What the receiver must find, where the harness knows all of it."""
    connection_id: str | None = None
    thread_id: str | None = None
    run_id: str | None = None
    outcome: str = "unknown"
    """`unknown`, `ok` (acknowledged), `queued` (in an outbox, which promises it) or `failed` (surely not appended)."""


# -- the history: what happened, in the order in which the harness saw it


@dataclass(slots=True)
class Invoked:
    at: float
    emission: Emission


@dataclass(slots=True)
class Answered:
    at: float
    emission: Emission
    outcome: str
    position: str = ""


@dataclass(slots=True)
class Appended:
    """A log took an entry. Seen where the log is called, from outside."""

    at: float
    log_user: str
    event_id: str
    event: dict[str, Any]
    size: int
    connection_id: str | None
    position: str


@dataclass(slots=True)
class Opened:
    """A log named its head."""

    at: float
    log_user: str
    position: str


@dataclass(slots=True)
class LifeEnded:
    """A log lost its memory of itself: one user's, or with None all."""

    at: float
    log_user: str | None


@dataclass(slots=True)
class Saved:
    """The store of all logs can be rolled back to what it holds now."""

    at: float
    number: int


@dataclass(slots=True)
class RolledBack:
    """The store holds what it held at that snapshot."""

    at: float
    number: int
    told_within: float | None
    """So many seconds later everybody who had read what is lost must have been told; None while faults may delay it."""


@dataclass(slots=True)
class Connecting:
    at: float
    tab: str
    connection: int
    user: str | None
    """Who the credential is for; None for an intruder."""
    kind: str
    """`none`, `latest`, `own`, `foreign`, `invented`, or `malformed`, after which the client goes on with its own."""
    cursor: str | None = None
    connection_id: str | None = None
    thread_id: str | None = None
    plain: bool = True
    not_after: float | None = None
    """When its token is spent, with the grace."""
    token_id: str | None = None
    issued_at: float | None = None
    """The claim `iat` of its token, in Unix seconds."""


@dataclass(slots=True)
class Received:
    at: float
    connection: int
    frame: dict[str, Any]
    together: int = 1
    """How many frames came in this message."""


@dataclass(slots=True)
class Closed:
    at: float
    connection: int
    code: int
    reason: str = ""
    given_up: bool = False
    """Whether the client left of its own accord, and may have thrown away what was under way."""


@dataclass(slots=True)
class Revoking:
    """A revocation was called for: of the user's credentials with that token id, or without one of all that were issued
    until then. From now on they may be refused."""

    at: float
    user: str
    token_id: str | None = None
    issued_until: float = math.inf
    """In Unix seconds."""

    def concerns(self, opened: Connecting) -> bool:
        """Whether that connection came with such a credential."""
        if self.user != opened.user:
            return False
        if self.token_id is not None:
            return self.token_id == opened.token_id
        return opened.issued_at is None or opened.issued_at <= self.issued_until


@dataclass(slots=True)
class Revoked(Revoking):
    """It was acknowledged: from this moment nothing newer may reach connections with such a credential, they end soon,
    and no other is let in with one."""


@dataclass(slots=True)
class StillOpen:
    """The connections to which the server has sent a frame, and which it has neither closed nor cut."""

    at: float
    connections: list[int]


@dataclass(slots=True)
class Draining:
    """A server that promised to deliver everything began to send its clients away."""

    at: float


@dataclass(slots=True)
class Steady:
    """From now on, and until all is quiet, nothing happens for which a connection may end."""

    at: float


@dataclass(slots=True)
class Asked:
    """A tab asked for a run to be cancelled, or with `foreign` for something that must be refused."""

    at: float
    connection: int
    request_id: str
    run_id: str
    foreign: bool = False


@dataclass(slots=True)
class RunStopped:
    """A run was ended by the bridge on behalf of its user."""

    at: float
    user: str
    run_id: str


@dataclass(slots=True)
class Quiesced:
    """Every fault is healed, and everything had time to arrive. `live` are the connections that are open."""

    at: float
    live: dict[str, int]
    registered: int


@dataclass(slots=True)
class Residue:
    """What was left behind at the end, by name. All of it should be nothing."""

    at: float
    left: dict[str, Any]


Record = (
    Invoked
    | Answered
    | Appended
    | Opened
    | LifeEnded
    | Saved
    | RolledBack
    | Connecting
    | Received
    | Closed
    | Revoking
    | Revoked
    | StillOpen
    | Draining
    | Steady
    | Asked
    | RunStopped
    | Quiesced
    | Residue
)


class Retained(NamedTuple):
    """How much each log keeps, as it was configured."""

    events: int
    bytes: int
    age: float


@dataclass(slots=True)
class History:
    secrets: Secrets
    retained: Retained
    records: list[Record]
