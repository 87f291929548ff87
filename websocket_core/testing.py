"""The test kit: fakes for who tests an application, and the laws of a log for who writes a backend.

    manager = UnifiedWebSocketManager()
    socket = FakeSocket()
    await manager.connect_user(socket, "alice")
    await manager.get_emitter("alice").notify_agent_thinking("hm")
    await socket.wait_for(1)
    assert socket.events[0]["data"] == {"thought": "hm"}

`FakeSocket` is a client, `SuspendingLog` and `FailingLog` make a log behave as one over a network does, and
`LogConformance` is the suite that every log backend passes. Nothing here needs a particular test runner.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from websocket_core.errors import LogUnavailable
from websocket_core.events import Event
from websocket_core.identity import LogName
from websocket_core.log import Batch, Entry, LogStore, Position
from websocket_core.log_conformance import LogConformance
from websocket_core.wire import PROTOCOL

__all__ = ["FailingLog", "FakeSocket", "LogConformance", "SuspendingLog"]


class SuspendingLog:
    """A `LogStore` whose every call gives up the event loop before and after `inner` does its work.

    A log in memory never suspends, which hides races and lost wake-ups; behind this one they show. `turns` is how
    often it gives up the loop each time. A call that is cancelled before `inner` was reached did nothing; one that is
    cancelled later did all of it.
    """

    def __init__(self, inner: LogStore, *, turns: int = 1) -> None:
        self.inner = inner
        self._turns = turns

    async def open(self, log: LogName) -> Position:
        await self._suspend()
        position = await self.inner.open(log)
        await self._suspend()
        return position

    async def read(self, log: LogName, after: Position | None, limit: int) -> Batch:
        await self._suspend()
        batch = await self.inner.read(log, after, limit)
        await self._suspend()
        return batch

    async def control(self, log: LogName) -> Entry | None:
        await self._suspend()
        entry = await self.inner.control(log)
        await self._suspend()
        return entry

    def watch(self, log: LogName, wake: Callable[[], None]) -> Callable[[], None]:
        return self.inner.watch(log, wake)

    async def append(self, log: LogName, event: Event) -> Position:
        await self._suspend()
        position = await self.inner.append(log, event)
        await self._suspend()
        return position

    async def forget(self, log: LogName) -> None:
        await self._suspend()
        await self.inner.forget(log)
        await self._suspend()

    async def expire(self) -> None:
        await self._suspend()
        await self.inner.expire()
        await self._suspend()

    async def close(self) -> None:
        await self._suspend()
        await self.inner.close()
        await self._suspend()

    async def _suspend(self) -> None:
        for _ in range(self._turns):
            await asyncio.sleep(0)


class FailingLog:
    """A `LogStore` that fails when it is told to, and otherwise is `inner`.

    A failure is `LogUnavailable`, as a backend raises it that has lost its server. `appends` and `reads` count the
    calls that were made, failed ones included.
    """

    def __init__(self, inner: LogStore) -> None:
        self.inner = inner
        self.appends = 0
        self.reads = 0
        self._append_failures: deque[bool] = deque()
        self._read_failures = 0
        self._released: asyncio.Event | None = None

    def fail_appends(self, times: int = 1, *, reply_lost: bool = False) -> None:
        """Let the next appends fail. With `reply_lost` the event is appended and only the caller does not learn it."""
        self._append_failures.extend([reply_lost] * times)

    def fail_reads(self, times: int = 1) -> None:
        """Let the next calls of `read`, `control` and `open` fail."""
        self._read_failures += times

    def hang(self) -> None:
        """Let every call that starts from now on wait for `release`."""
        self._released = self._released or asyncio.Event()

    def release(self) -> None:
        """Let the calls that hang go on, and those that follow not hang."""
        if self._released is not None:
            self._released.set()
            self._released = None

    def recover(self) -> None:
        """Take back everything that the log was told."""
        self._append_failures.clear()
        self._read_failures = 0
        self.release()

    async def open(self, log: LogName) -> Position:
        await self._before_reading()
        return await self.inner.open(log)

    async def read(self, log: LogName, after: Position | None, limit: int) -> Batch:
        self.reads += 1
        await self._before_reading()
        return await self.inner.read(log, after, limit)

    async def control(self, log: LogName) -> Entry | None:
        await self._before_reading()
        return await self.inner.control(log)

    def watch(self, log: LogName, wake: Callable[[], None]) -> Callable[[], None]:
        return self.inner.watch(log, wake)

    async def append(self, log: LogName, event: Event) -> Position:
        self.appends += 1
        await self._hanging()
        if not self._append_failures:
            return await self.inner.append(log, event)
        if self._append_failures.popleft():
            await self.inner.append(log, event)
            raise LogUnavailable("the reply to an append was lost, as the test said")
        raise LogUnavailable("an append failed, as the test said")

    async def forget(self, log: LogName) -> None:
        await self._hanging()
        await self.inner.forget(log)

    async def expire(self) -> None:
        await self._hanging()
        await self.inner.expire()

    async def close(self) -> None:
        await self.inner.close()

    async def _before_reading(self) -> None:
        await self._hanging()
        if self._read_failures:
            self._read_failures -= 1
            raise LogUnavailable("a read failed, as the test said")

    async def _hanging(self) -> None:
        if self._released is not None:
            await self._released.wait()


class FakeSocket:
    """A client in memory, for `manager.connect_user`.

    What the server sends is kept in `texts` as it came and in `frames` as JSON objects, however many of them share a
    text; `events` are those with an id, `controls` the others, all in the order of arrival. With
    `subprotocol="unified-websocket.v1"` it is a client that owes pongs, and it answers every `ping` unless
    `answers_pings` is off; that takes effect only while `connection.serve()` runs.

    `close_code` and `close_reason` are what the server closed with; the code is None as long as it has not.
    """

    def __init__(self, *, subprotocol: str | None = None, answers_pings: bool = True) -> None:
        self.subprotocol = subprotocol
        self.texts: list[str] = []
        self.frames: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.controls: list[dict[str, Any]] = []
        self.close_code: int | None = None
        self.close_reason = ""
        self._answers_pings = answers_pings and subprotocol == PROTOCOL
        self._incoming: deque[dict[str, Any]] = deque()
        self._left_with: int | None = None
        self._blocked = False
        self._waiters: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        kinds = [frame["type"] for frame in self.controls]
        return f"<FakeSocket {len(self.events)} events, controls {kinds}, close code {self.close_code}>"

    # -- for the test

    async def wait_for(self, what: int | Callable[[FakeSocket], object], *, timeout: float = 5.0) -> None:
        """Wait until there are that many events, or until `what(socket)` is true; it is asked whenever something
        happens to the socket. Raises `TimeoutError` after `timeout` seconds, saying what is there."""
        try:
            async with asyncio.timeout(timeout):
                while not (len(self.events) >= what if isinstance(what, int) else what(self)):
                    await self._change()
        except TimeoutError:
            raise TimeoutError(f"not within {timeout} s; there is {self!r}") from None

    async def wait_closed(self, *, timeout: float = 5.0) -> int:
        """Wait until the server has closed the socket; the close code."""
        await self.wait_for(lambda socket: socket.close_code is not None, timeout=timeout)
        assert self.close_code is not None
        return self.close_code

    def client_sends(self, frame: Mapping[str, Any] | str | bytes) -> None:
        """Send a frame to the server: a mapping as JSON, a string as it is, bytes as a binary frame."""
        kind = "bytes" if isinstance(frame, bytes) else "text"
        payload = json.dumps(dict(frame)) if isinstance(frame, Mapping) else frame
        self._incoming.append({"type": "websocket.receive", kind: payload})
        self._notify()

    def client_leaves(self, code: int = 1006) -> None:
        """Be gone: the server reads a disconnect after what was sent before, and no write succeeds any more."""
        self._left_with = code
        self._notify()

    def block(self) -> None:
        """Stop reading: every write of the server, a close included, hangs until `unblock` or `client_leaves`."""
        self._blocked = True

    def unblock(self) -> None:
        """Read on."""
        self._blocked = False
        self._notify()

    # -- for the connection

    async def send_text(self, data: str) -> None:
        """Raises `ConnectionResetError` when the client is gone and `RuntimeError` after a close, as servers do."""
        await self._until_writable()
        self.texts.append(data)
        for line in data.split("\n"):
            frame = json.loads(line)
            self.frames.append(frame)
            (self.events if "id" in frame else self.controls).append(frame)
            if frame["type"] == "ping" and self._answers_pings:
                self.client_sends({"type": "pong"})
        self._notify()

    async def receive(self) -> dict[str, Any]:
        """The next ASGI message; the same disconnect again and again at the end."""
        while not self._incoming:
            code = self._left_with if self._left_with is not None else self.close_code
            if code is not None:
                return {"type": "websocket.disconnect", "code": code}
            await self._change()
        return self._incoming.popleft()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Raises like `send_text`."""
        await self._until_writable()
        self.close_code = code
        self.close_reason = reason
        self._notify()

    async def _until_writable(self) -> None:
        while self._blocked and self._left_with is None:
            await self._change()
        if self._left_with is not None:
            raise ConnectionResetError("the client is gone")
        if self.close_code is not None:
            raise RuntimeError("the socket was closed")

    async def _change(self) -> None:
        """Wait until something happens to the socket."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _notify(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
