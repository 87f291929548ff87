"""For all tests."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator

import pytest


def pytest_configure() -> None:
    """A suite that a shell runs in the background ignores interrupts, and so would every process that it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A test, or a program that it runs in this process, may set levels; the next test finds them as they were."""
    loggers = [logging.getLogger(), logging.getLogger("websocket_core"), logging.getLogger("bridge")]
    before = [(logger.level, logger.disabled, logger.propagate) for logger in loggers]
    yield
    for logger, (level, disabled, propagate) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.disabled, logger.propagate = disabled, propagate
