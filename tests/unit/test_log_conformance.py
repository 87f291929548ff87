"""The promise: every log backend keeps the laws of a log, and so does a log whose every call suspends."""

from __future__ import annotations

from collections.abc import Callable

from websocket_core.limits import Retention
from websocket_core.log import LogStore
from websocket_core.logs.memory import MemoryLog
from websocket_core.testing import FailingLog, LogConformance, SuspendingLog


class TestMemoryLog(LogConformance):
    def make_log(self, retention: Retention, monotonic: Callable[[], float]) -> LogStore:
        return MemoryLog(retention, monotonic=monotonic)


class TestMemoryLogThatSuspends(LogConformance):
    def make_log(self, retention: Retention, monotonic: Callable[[], float]) -> LogStore:
        return SuspendingLog(MemoryLog(retention, monotonic=monotonic), turns=2)


class TestFailingLogThatWasToldNothing(LogConformance):
    def make_log(self, retention: Retention, monotonic: Callable[[], float]) -> LogStore:
        return FailingLog(MemoryLog(retention, monotonic=monotonic))
