"""`HandOvers`: how events of other threads come to the event loop of a manager, and the answers back."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context, copy_context
from typing import Final

from websocket_core.appender import TURN, Appender
from websocket_core.errors import AppendFailed, ManagerClosed, WrongEventLoop
from websocket_core.events import Event
from websocket_core.identity import UserId
from websocket_core.limits import Limits
from websocket_core.log import Position
from websocket_core.outbox import Outboxes

LOOK: Final = 0.25
"""After so many seconds without an answer, a thread looks whether the loop still runs."""

Append = Callable[[str, Event], Awaitable[Position]]
"""Appends an encoded event of that type; runs on the loop."""


class _HandOver:
    """One event on its way from a thread to the loop, and the answer on its way back."""

    __slots__ = ("answered", "append", "error", "event", "event_type", "position", "task", "user_id", "withdrawn")

    def __init__(self, user_id: UserId, event_type: str, event: Event, append: Append | None) -> None:
        self.user_id = user_id
        self.event_type = event_type
        self.event = event
        self.append = append
        """None: nobody waits for an answer, and the event goes to the user's outbox."""
        self.position: Position | None = None
        self.error: Exception | None = None
        self.task: asyncio.Task[None] | None = None
        self.withdrawn = False
        self.answered = threading.Lock()
        """Held until the answer is there."""
        self.answered.acquire()

    def cancel(self) -> None:
        self.withdrawn = True
        if self.task is not None:
            self.task.cancel()


class HandOvers:
    """The way from all other threads to the event loop of one manager.

    A queue that the loop empties, bounded by `Limits.outbox` events and `Limits.outbox_bytes`; a thread that finds it
    full waits. Every wait of a thread ends: it takes `RetryPolicy.seconds` at most to be handed over, and twice that
    until the answer, which is what all attempts take and as much again for the last of them and for a loop that lags.
    """

    def __init__(self, appender: Appender, outboxes: Outboxes, *, limits: Limits) -> None:
        self._outboxes = outboxes
        self._limits = limits
        self._seconds = appender.retry.seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._process = 0
        self._context = Context()
        self._closed = False
        self._room = threading.Condition()
        """Guards the queue; re-entrant, as a signal handler may emit too."""
        self._queue: deque[_HandOver] = deque()
        self._bytes = 0
        self._scheduled = False
        self._tasks: dict[asyncio.Task[None], _HandOver] = {}

    def __len__(self) -> int:
        """How many events are on their way now."""
        return len(self._queue) + len(self._tasks)

    # -- on the loop, by the manager

    def start(self) -> None:
        """Bring what threads emit to the running loop from now on."""
        self._forget_other_loop()
        self._thread = threading.get_ident()
        self._process = os.getpid()
        # Not the context of the thread that happens to wake the loop: it may be that of another user's request.
        self._context = copy_context()
        self._loop = asyncio.get_running_loop()
        self._closed = False

    async def close(self) -> None:
        """Refuse what comes from now on, and wait until every thread that waits has its answer.

        Cancelled, it cancels the appends that are still under way; their callers get `AppendFailed`.
        """
        self._forget_other_loop()
        with self._room:
            self._closed = True
            self._room.notify_all()
        while self._queue:
            self._take()
        try:
            while self._tasks:
                await asyncio.wait(list(self._tasks))
        finally:
            for each in self._tasks.values():
                each.cancel()
            if self._tasks:
                await asyncio.wait(list(self._tasks), timeout=0.5)
            self._loop = None

    def _forget_other_loop(self) -> None:
        """Drop what was left with a loop that is gone. Its callers see that it is gone, and raise."""
        if self._loop is not asyncio.get_running_loop():
            with self._room:
                self._loop = None
                for each in self._queue:
                    each.answered.release()
                self._queue.clear()
                self._bytes = 0
                self._scheduled = False
            self._tasks.clear()

    def _take(self) -> None:
        """Take what is queued, no more in one turn of the loop than a producer on the loop would append."""
        loop = asyncio.get_running_loop()
        with self._room:
            taken = [self._queue.popleft() for _ in range(min(TURN, len(self._queue)))]
            self._bytes -= sum(len(each.event.body) for each in taken)
            self._scheduled = bool(self._queue)
            if self._scheduled:
                loop.call_soon(self._take)
            self._room.notify_all()
        for each in taken:
            if self._loop is not loop:  # it is ending, and no new task would
                each.answered.release()
            elif each.append is None:
                self._outboxes.of(each.user_id).put(each.event)
            else:
                # Owned by this object: ended by close(), or gone with a loop that is replaced.
                each.task = loop.create_task(self._append(each, each.append), name="websocket_core hand-over")
                self._tasks[each.task] = each
                each.task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        each = self._tasks.pop(task, None)
        # By somebody else than this object: all tasks are being cancelled, and the loop ends without a shutdown. A
        # backend that lets a CancelledError of its own escape is something else.
        if each is not None and task.cancelled() and task.cancelling() and not each.withdrawn:
            self._loop = None

    async def _append(self, each: _HandOver, append: Append) -> None:
        try:
            outbox = self._outboxes.waiting(each.user_id)
            if outbox is not None:  # what the same thread has posted before stands before it in the log
                await outbox.wait_in_log()
            each.position = await append(each.event_type, each.event)
        except Exception as error:  # raised again in the thread that called
            each.error = error
        finally:
            each.answered.release()

    # -- in any thread, by an emitter

    def append(self, user_id: UserId, event_type: str, event: Event, append: Append) -> Position:
        """The position of the event, when it is in the log. Raises what `append` raises, `AppendFailed` when no
        answer came in time, `ManagerClosed`, and `WrongEventLoop` on the loop's own thread."""
        loop = self._serving()
        if threading.get_ident() == self._thread:
            raise WrongEventLoop(
                "emitter.sync was called on the thread of the manager's event loop, which cannot wait for itself: "
                "use `await emitter.emit(...)` there, or call it through `await asyncio.to_thread(...)`"
            )
        each = _HandOver(user_id, event_type, event, append)
        self._queue_it(each, loop)
        try:
            self._wait(each, loop)
        except BaseException:
            self._withdraw(each, loop)
            raise
        if each.position is not None:
            return each.position
        # Taken out of the object that the traceback holds, or error and traceback would keep each other alive.
        error, each.error = each.error, None
        try:
            raise error or AppendFailed(event.id, 0)
        finally:
            del error

    def post(self, user_id: UserId, event_type: str, event: Event) -> None:
        """Hand the event to the user's outbox. Raises `ManagerClosed`, and `AppendFailed` when the loop stands still
        and the queue stays full."""
        loop = self._serving()
        if threading.get_ident() == self._thread:
            self._outboxes.of(user_id).put(event)
        else:
            self._queue_it(_HandOver(user_id, event_type, event, None), loop)

    def _serving(self) -> asyncio.AbstractEventLoop:
        if self._closed:
            raise ManagerClosed("the manager was shut down; nothing was appended")
        loop = self._loop
        # A forked child inherits a loop that looks as if it ran.
        if loop is None or not loop.is_running() or os.getpid() != self._process:
            raise ManagerClosed(
                "no event loop serves this manager in this process, so nothing was appended: start it with "
                "`async with manager` or FastAPI(lifespan=manager.lifespan) before a thread emits"
            )
        return loop

    def _queue_it(self, each: _HandOver, loop: asyncio.AbstractEventLoop) -> None:
        with self._room:
            size = len(each.event.body)
            if not self._fits(size) and not self._room.wait_for(
                lambda: self._closed or self._fits(size), timeout=min(self._seconds, threading.TIMEOUT_MAX)
            ):
                raise AppendFailed(each.event.id, 0) from TimeoutError("the event loop took nothing for too long")
            if self._closed or self._loop is not loop:
                raise ManagerClosed("the manager was shut down; nothing was appended")
            self._queue.append(each)
            self._bytes += size
            if not self._scheduled:
                try:
                    loop.call_soon_threadsafe(self._take, context=self._context)
                except RuntimeError as error:  # the loop was closed a moment ago
                    self._queue.pop()
                    self._bytes -= size
                    raise ManagerClosed("the event loop of the manager was closed; nothing was appended") from error
                self._scheduled = True

    def _fits(self, size: int) -> bool:
        limits = self._limits
        return not self._queue or (len(self._queue) < limits.outbox and self._bytes + size <= limits.outbox_bytes)

    def _wait(self, each: _HandOver, loop: asyncio.AbstractEventLoop) -> None:
        left = 2 * self._seconds
        while not each.answered.acquire(timeout=min(left, LOOK)):
            left -= LOOK
            if left <= 0:
                raise AppendFailed(each.event.id, 0) from TimeoutError("no answer came from the event loop")
            if self._loop is not loop or not loop.is_running():
                raise AppendFailed(each.event.id, 0) from ManagerClosed("the event loop of the manager has stopped")

    def _withdraw(self, each: _HandOver, loop: asyncio.AbstractEventLoop) -> None:
        """Nobody waits for it any more: it is not begun, and cancelled if it was."""
        with self._room:
            if each in self._queue:
                self._queue.remove(each)
                self._bytes -= len(each.event.body)
                return
        with suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(each.cancel, context=self._context)
