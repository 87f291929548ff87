"""What Redis says no with, and what may be told of it: no more than a word, since the rest may quote what was sent."""

from __future__ import annotations

import logging
import re
from typing import Final

from redis.exceptions import AuthenticationError, AuthorizationError, BusyLoadingError, ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

CONCERN_THE_SERVER: Final = frozenset({"READONLY", "LOADING", "MASTERDOWN", "NOAUTH"})
"""Not the command is wrong but the connection, or its server: another connection finds out what is there now."""

_IN_SCRIPT: Final = re.compile(r": -(READONLY|OOM|MISCONF|NOREPLICAS|NOPERM|WRONGTYPE|MASTERDOWN) ")
"""Redis 6.2 says no within a script by an error of the script that quotes the refusal."""


class Complaints:
    """Says a reason once, however often it is met, until the complaints have ended."""

    def __init__(self, logger: logging.Logger, message: str) -> None:
        self._logger = logger
        self._message = message
        self._said: set[str] = set()

    def say(self, reason: str) -> None:
        level = logging.DEBUG if reason in self._said else logging.WARNING
        self._said.add(reason)
        self._logger.log(level, self._message, extra={"reason": reason})

    def end(self) -> None:
        self._said.clear()


class Refused(Exception):
    """Redis is there and cannot be used. Its text is ours."""


def word_of(text: str) -> str:
    """The word that names an error reply: `READONLY`, `OOM`, `WRONGTYPE`; `ERR` for what has none."""
    if text.startswith("ERR Error running script") and (found := _IN_SCRIPT.search(text)):
        return found[1]
    word = text.split(" ", 1)[0]
    return word if word.isascii() and word.isalpha() and word.isupper() and len(word) <= 16 else "ERR"


def refused(what: str, text: str) -> Refused:
    """That Redis refuses something that cannot be done without."""
    word = word_of(text)
    if word == "LOADING":
        return Refused("Redis is still loading")
    if word == "NOAUTH":
        return Refused("Redis refused the user or the password")
    return Refused(f"Redis refuses {what}: {word}")


def reason_of(error: Exception) -> str:
    """Why Redis could not be reached, in words that hold no address, user or password."""
    match error:
        case Refused():
            return str(error)
        case AuthenticationError() | AuthorizationError():
            return "Redis refused the user or the password"
        case BusyLoadingError():
            return "Redis is still loading"
        case ReadOnlyError():
            return "Redis is a replica, and no sentinel knows its master"
        case ResponseError():
            return "Redis refused the connection"
        case TimeoutError() | RedisTimeout():
            return "Redis did not answer in time"
    return "Redis cannot be reached"
