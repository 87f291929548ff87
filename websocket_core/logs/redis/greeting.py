"""What is asked of a new connection before its first command, and what goes first on it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from websocket_core.logs.redis.link import Link, ReplyError, pack
from websocket_core.logs.redis.refusals import CONCERN_THE_SERVER, Refused, refused, word_of

logger = logging.getLogger(__name__)

AT_ONCE: Final = 128
"""Commands that are sent again in one round trip."""
OLDEST: Final = (6, 2)

_RUN_ID: Final = re.compile(rb"^run_id:(\w+)", re.MULTILINE)
_VERSION: Final = re.compile(rb"^redis_version:(\d+)\.(\d+)", re.MULTILINE)
_ABOUT: Final = pack("INFO", "server")
_NUMBER: Final = pack("CLIENT", "ID")


class Server(NamedTuple):
    """Which run of which server a connection leads to, and its number there; None for what is not told."""

    run: bytes | None = None
    connection: int | None = None


async def get_to_know(
    link: Link,
    before: Server | None,
    *,
    scripts: Sequence[bytes],
    replay: Callable[[], Sequence[tuple[Any, ...] | bytes]],
    timeout: float,
) -> Server:
    """Load the scripts, which are given as commands. What the connection before may still have under way is fenced off,
    if the server is the same: after a restart the number belongs to somebody else. If it is another, what `replay`
    gives goes first. Raises `Refused`, `OSError` or `TimeoutError`."""
    about, number, *loaded = await link.ask([_ABOUT, _NUMBER, *scripts], timeout=timeout)
    if type(about) is ReplyError:
        raise refused("INFO", str(about))
    version = _VERSION.search(about)
    if version is not None and (int(version[1]), int(version[2])) < OLDEST:
        raise Refused("Redis is too old: 6.2 or newer is needed")
    for answer in loaded:
        if type(answer) is ReplyError:
            raise refused("scripts", str(answer))
    found = _RUN_ID.search(about)
    run = None if found is None else found[1]
    if before is not None and run is not None and run == before.run:
        if before.connection is not None:
            await link.ask([pack("CLIENT", "KILL", "ID", before.connection)], timeout=timeout)  # an error: it is gone
    elif before is not None and (lately := list(replay())):
        logger.warning("Redis was restarted or replaced; sending again what it acknowledged last")
        for start in range(0, len(lately), AT_ONCE):
            await _send_again(link, lately[start : start + AT_ONCE], timeout)
    return Server(run, number if isinstance(number, int) else None)


async def _send_again(link: Link, commands: Sequence[tuple[Any, ...] | bytes], timeout: float) -> None:
    packed = [command if isinstance(command, bytes) else pack(*command) for command in commands]
    answers = await link.ask(packed, timeout=timeout)
    each = [one for answer in answers for one in (answer if type(answer) is list else [answer])]
    words = [word_of(str(answer)) for answer in each if type(answer) is ReplyError]
    for word in words:
        if word in CONCERN_THE_SERVER or word == "NOSCRIPT":
            raise refused("what it acknowledged before", word)  # all of it is sent once more, to whoever is there then
    if words:
        logger.warning("Redis refused what it acknowledged before", extra={"error": words[0], "commands": len(words)})
