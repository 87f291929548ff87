"""What ends the writer of a connection, and what the client is told about it."""

from __future__ import annotations

import logging
from typing import NamedTuple

from websocket_core.errors import IsolationViolation, LogUnavailable
from websocket_core.metrics import Metrics
from websocket_core.outbound import Expired, Ordered, SocketLost
from websocket_core.wire import CloseCode, close_code

logger = logging.getLogger(__name__)


class Ending(NamedTuple):
    """How a connection ends."""

    code: CloseCode | None
    """What to close with; None if nothing says so."""
    say_goodbye: bool
    """Whether the socket takes a close at all."""


def ending_of(error: Exception, code: CloseCode | None, metrics: Metrics) -> Ending:
    """What an error of the writer means for a connection that was to close with `code` anyway, or was not. Counts and
    logs what somebody has to look into."""
    match error:
        case Ordered():
            return Ending(close_code(error.code), True)
        case Expired():
            return Ending(code or CloseCode.EXPIRED, True)
        case SocketLost():
            logger.debug("a socket took no frame", extra={"error": type(error.__cause__).__name__})
            return Ending(code, False)
        case IsolationViolation():
            metrics.isolation_violations += 1
            logger.critical("isolation violation: the connection is closed", exc_info=error)
            return Ending(CloseCode.INTERNAL, True)
        case LogUnavailable():
            return Ending(CloseCode.OVERLOADED, True)
        case _:
            logger.error("the writer of a connection crashed", exc_info=error)
            return Ending(CloseCode.INTERNAL, True)
