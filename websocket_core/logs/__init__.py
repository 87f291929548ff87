"""The log backends, and which one a URL means."""

from __future__ import annotations

from collections.abc import Callable

from websocket_core.errors import InvalidConfiguration
from websocket_core.limits import Limits, Retention
from websocket_core.log import LogStore
from websocket_core.logs.memory import MemoryLog


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
        return MemoryLog(retention, limits=limits, monotonic=monotonic, entropy=entropy)
    scheme = url.partition("://")[0]
    raise InvalidConfiguration(f"there is no log for the scheme {scheme[:32]!r}; this release has 'memory://'")
