"""The log backends, and which one a URL means."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence

from websocket_core.errors import InvalidConfiguration
from websocket_core.limits import Limits, Retention
from websocket_core.log import LogStore
from websocket_core.logs.memory import MemoryLog

logger = logging.getLogger(__name__)


def workers_of(command_line: Sequence[str]) -> int:
    """How many worker processes uvicorn, fastapi, gunicorn or hypercorn was told to start; 1 if nothing says so."""
    for index, word in enumerate(command_line):
        name, _, value = word.partition("=")
        if name in ("--workers", "-w"):
            value = value or (command_line[index + 1] if index + 1 < len(command_line) else "")
            return int(value) if value.isdecimal() else 1
    return 1


def open_log(
    url: str,
    *,
    retention: Retention,
    limits: Limits,
    monotonic: Callable[[], float],
    entropy: Callable[[int], bytes],
) -> LogStore:
    """The log behind a URL: `memory://` lives and dies with the process. Raises `InvalidConfiguration`."""
    if url == "memory://":
        if (workers := workers_of(sys.argv)) > 1:
            logger.warning(
                "memory:// under several workers: each process has logs of its own, so a user sees only the events "
                "that were emitted in the process of the connection; run one worker",
                extra={"workers": workers},
            )
        return MemoryLog(retention, limits=limits, monotonic=monotonic, entropy=entropy)
    scheme = url.partition("://")[0]
    raise InvalidConfiguration(f"there is no log for the scheme {scheme[:32]!r}; this release has 'memory://'")
