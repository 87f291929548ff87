"""What things are called in Redis: exact, injective, and in one slot for each log."""

from __future__ import annotations

import base64
from typing import NamedTuple

from websocket_core.errors import InvalidConfiguration
from websocket_core.identity import LogName

FORMAT = "1"
"""The version of what is stored. Another one uses other keys, so that two releases run side by side."""


class Names(NamedTuple):
    """The keys of one log, and the channel on which what is appended to it is published."""

    meta: str
    entries: str
    ids: str
    channel: str


class Namespace:
    """The names of one application. Raises `InvalidConfiguration` for a namespace that is not 1 to 64 of
    `A-Z a-z 0-9 _ . -`."""

    def __init__(self, namespace: str) -> None:
        plain = namespace.replace("_", "").replace(".", "").replace("-", "")
        if not (0 < len(namespace) <= 64 and namespace.isascii() and (plain.isalnum() or not plain)):
            raise InvalidConfiguration("a namespace is 1 to 64 characters out of A-Z a-z 0-9 _ . -")
        self._prefix = f"{namespace}:{FORMAT}:"

    def of_log(self, log: LogName) -> Names:
        """The braces hold our own text, in which the name of the log is encoded: whoever chooses a user id chooses
        no slot and no key of somebody else."""
        tag = f"{self._prefix}{{{log.kind[0]}{_encoded(log.name)}}}:"
        return Names(tag + "m", tag + "e", tag + "i", tag + "c")

    def of_user(self, user_id: str, what: str) -> str:
        """A key beside the user's log, in the same slot."""
        return f"{self._prefix}{{u{_encoded(user_id)}}}:{what}"

    def plain(self, what: str) -> str:
        """A key that belongs to no user."""
        return f"{self._prefix}{what}"


def _encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()
