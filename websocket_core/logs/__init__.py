"""The log backends, and which one a URL means."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from websocket_core.errors import InvalidConfiguration
from websocket_core.limits import Limits, Retention
from websocket_core.log import LogStore
from websocket_core.logs.memory import MemoryLog
from websocket_core.metrics import Metrics
from websocket_core.state import MemoryState, SharedState

if TYPE_CHECKING:
    from websocket_core.logs.redis import RedisLog

logger = logging.getLogger(__name__)


def workers_of(command_line: Sequence[str]) -> int:
    """How many worker processes uvicorn, fastapi, gunicorn or hypercorn was told to start; 1 if nothing says so."""
    for index, word in enumerate(command_line):
        name, _, value = word.partition("=")
        if name in ("--workers", "-w"):
            value = value or (command_line[index + 1] if index + 1 < len(command_line) else "")
            return int(value) if value.isdecimal() else 1
    return 1


REDIS_SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")


def open_backend(
    log: str | LogStore,
    state: SharedState | None,
    *,
    namespace: str,
    retention: Retention,
    limits: Limits,
    clock: Callable[[], float],
    monotonic: Callable[[], float],
    entropy: Callable[[int], bytes],
    rng: random.Random | None,
    metrics: Metrics | None = None,
) -> tuple[LogStore, SharedState]:
    """The log behind a URL, or the one that was given, and the state that goes with it where none was given.

    `memory://` lives and dies with the process; `redis://`, `rediss://` and `unix://` are in Redis, shared by every
    process with the same URL and namespace. Raises `InvalidConfiguration`.
    """
    if isinstance(log, str) and log.partition("://")[0] in REDIS_SCHEMES:
        shared = _redis(
            log, retention, namespace=namespace, limits=limits, metrics=metrics,
            clock=clock, monotonic=monotonic, entropy=entropy, rng=rng,
        )  # fmt: skip
        return shared, state or shared.state(per_user=limits.known_connections, clock=clock)
    memory = MemoryState(age=retention.age, per_user=limits.known_connections, clock=clock, monotonic=monotonic)
    if not isinstance(log, str):
        return log, state or memory
    if log == "memory://":
        if (workers := workers_of(sys.argv)) > 1:
            logger.warning(
                "memory:// under several workers: each process has logs of its own, so a user sees only the events "
                "that were emitted in the process of the connection; run one worker",
                extra={"workers": workers},
            )
        return MemoryLog(retention, limits=limits, monotonic=monotonic, entropy=entropy), state or memory
    scheme = log.partition("://")[0]
    raise InvalidConfiguration(f"there is no log for the scheme {scheme[:32]!r}: use 'memory://' or 'redis://'")


def _redis(url: str, retention: Retention, **options: Any) -> RedisLog:
    try:
        from websocket_core.logs.redis import RedisLog
    except ModuleNotFoundError as error:
        if error.name not in ("redis", "hiredis"):
            raise
        raise InvalidConfiguration("this log needs redis: install unified-websocket[redis]") from None
    return RedisLog(url, retention, **options)
