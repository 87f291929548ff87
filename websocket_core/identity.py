"""Who somebody is and what they may read: `UserId`, `LogName`, `Principal`, `Grant`."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, NewType

from websocket_core.errors import InvalidInput, InvalidUserId

UserId = NewType("UserId", str)
"""A user id that was checked. Compared exactly: no case folding, no normalisation, no trimming."""

USER_ID_CHARACTERS: Final = 256
USER_ID_BYTES: Final = 512
INFINITE: Final = float("inf")


def text_fault(value: object, *, characters: int, utf8_bytes: int) -> str | None:
    """What keeps `value` from being an identifier of ours, in words that do not quote it; None if nothing does."""
    if not isinstance(value, str):
        return f"it must be a string, not {type(value).__name__}"
    if not value:
        return "it must not be empty"
    if len(value) > characters:
        return f"it must have at most {characters} characters, not {len(value)}"
    if value.isascii():
        return None if value.isprintable() else "it must not contain control characters"
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return "it must not contain lone surrogates"
    if size > utf8_bytes:
        return f"it must have at most {utf8_bytes} UTF-8 bytes, not {size}"
    if any(unicodedata.category(character) == "Cc" for character in value):
        return "it must not contain control characters"
    return None


def checked_user_id(value: object) -> UserId:
    """The value as a `UserId`: non-empty text of at most 256 characters and 512 UTF-8 bytes, without control
    characters and lone surrogates.

    Emitting and connecting use this same rule. Raises `InvalidUserId`, which does not quote the value.
    """
    fault = text_fault(value, characters=USER_ID_CHARACTERS, utf8_bytes=USER_ID_BYTES)
    if fault is not None:
        raise InvalidUserId(f"this is not a user id: {fault}")
    return UserId(str.__str__(value))


class LogName(NamedTuple):
    """Which log: a user's own or a topic's. Two different names are never equal and share no text form."""

    kind: Literal["user", "topic"]
    name: str

    @classmethod
    def of_user(cls, user_id: UserId) -> LogName:
        return cls("user", user_id)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who authenticated. Made by an authenticator and never changed.

    `expires_at` is in Unix seconds; None never expires. Raises `InvalidUserId`, and `InvalidInput` for an `expires_at`
    that is not a finite number.
    """

    user_id: UserId | str
    expires_at: float | None = None
    token_id: str | None = None
    claims: Mapping[str, object] = field(default_factory=dict, repr=False, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "user_id", checked_user_id(self.user_id))
        expires_at = self.expires_at
        if expires_at is not None and not (isinstance(expires_at, (int, float)) and -INFINITE < expires_at < INFINITE):
            raise InvalidInput("expires_at must be a finite number of Unix seconds, or None")
        object.__setattr__(self, "claims", MappingProxyType(dict(self.claims)))

    @property
    def issued_at(self) -> float | None:
        """When the credential was issued, in Unix seconds, by its claim `iat`; None if it does not say."""
        issued_at = self.claims.get("iat")
        if isinstance(issued_at, bool) or not isinstance(issued_at, (int, float)):
            return None
        return float(issued_at) if -INFINITE < issued_at < INFINITE else None


class Grant:
    """The right to read one log. Holding it is the permission; there is no other way to a log.

    Made only by an authoriser: `Grant.own` gives a principal its own log.
    """

    __slots__ = ("_log",)

    _log: LogName

    def __init__(self) -> None:
        raise TypeError("a Grant is made by an authoriser, never directly; see Grant.own")

    @classmethod
    def own(cls, principal: Principal) -> Grant:
        """The grant of a principal for its own log."""
        grant = object.__new__(cls)
        grant._log = LogName.of_user(UserId(principal.user_id))
        return grant

    @property
    def log(self) -> LogName:
        """The log that may be read. Settled for life."""
        return self._log

    def __repr__(self) -> str:
        return f"<Grant for a {self.log.kind} log>"
