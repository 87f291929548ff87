"""`emitter_for`, `Worker` and `SyncWorker`: emitting from processes that serve nobody.

A Celery task, an arq job or a cron script appends to the same logs as the servers, over one connection to Redis. It
holds no sockets, follows no log and opens no subscriber; the processes that hold the user's sockets deliver.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple, Self, TypedDict, Unpack

from websocket_core.appender import Appender
from websocket_core.errors import (
    InvalidConfiguration,
    InvalidInput,
    LogUnavailable,
    ManagerClosed,
    UnknownConnection,
    WrongEventLoop,
)
from websocket_core.events import Event, EventEncoder
from websocket_core.hand_over import HandOvers
from websocket_core.identity import LogName, UserId, checked_user_id
from websocket_core.limits import Limits, Retention, RetryPolicy
from websocket_core.log import LogStore, LogWriter, Position
from websocket_core.logs import open_backend
from websocket_core.logs.queues import Queues
from websocket_core.metrics import Metrics, process_metrics
from websocket_core.outbox import Outboxes
from websocket_core.sync_emitter import SyncEmitter
from websocket_core.tasks import wait_until
from websocket_core.unified_emitter import UnifiedWebSocketEmitter

logger = logging.getLogger(__name__)

ENDING: Final = 5.0
"""Seconds above `Limits.shutdown_timeout` that a thread of ours may take to end."""


class WorkerOptions(TypedDict, total=False):
    """What can be said of a worker beside where its logs are: as of a manager."""

    namespace: str
    limits: Limits
    retention: Retention
    """As the servers have it: whoever appends also trims."""
    retry: RetryPolicy
    metrics: Metrics
    clock: Callable[[], float]
    monotonic: Callable[[], float]
    entropy: Callable[[int], bytes]
    rng: random.Random


class _Labels(NamedTuple):
    user_id: str
    run_id: str | None
    thread_id: str | None


class _Counted:
    """The log, as far as a worker writes to it. Knows what is under way, and appends nothing while it is closed."""

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer
        self._under_way = 0
        self._idle: asyncio.Event | None = None
        """Of the loop in which it is open."""

    def open(self) -> None:
        self._idle = asyncio.Event()
        self._idle.set()
        self._under_way = 0

    async def append(self, log: LogName, event: Event) -> Position:
        idle = self._idle
        if idle is None:
            raise LogUnavailable("the worker was closed")
        self._under_way += 1
        idle.clear()
        try:
            return await self._writer.append(log, event)
        finally:
            self._under_way -= 1
            if not self._under_way:
                idle.set()

    async def wait_idle(self) -> None:
        if self._idle is not None:
            await self._idle.wait()

    def close(self) -> None:
        self._idle = None


class Worker:
    """Emits to any user, from async code that serves nobody. Used as `async with Worker("redis://...") as worker:`.

    One for the life of a process is enough, in one event loop. `log` is an address of Redis, or a `LogStore` of one's
    own. Raises `InvalidConfiguration`, also for `memory://`: nobody would read what is appended there.
    """

    def __init__(self, log: str | LogStore, **options: Unpack[WorkerOptions]) -> None:
        if isinstance(log, str) and log.partition("://")[0] == "memory":
            raise InvalidConfiguration(
                "a worker needs a log that other processes read, such as 'redis://host:6379/0': what is appended to "
                "'memory://' ends with this process"
            )
        clock = options.get("clock", time.time)
        entropy = options.get("entropy", os.urandom)
        monotonic = options.get("monotonic", time.monotonic)
        self.limits = options.get("limits") or Limits()
        self.metrics = options.get("metrics") or process_metrics()
        self.encoder = EventEncoder(
            event_bytes=self.limits.event_bytes, event_depth=self.limits.event_depth, clock=clock, entropy=entropy
        )
        self.log, self.state = open_backend(
            log, None, namespace=options.get("namespace", "unified-websocket"),
            retention=options.get("retention") or Retention(), limits=self.limits,
            clock=clock, monotonic=monotonic, entropy=entropy, rng=options.get("rng"), metrics=self.metrics,
        )  # fmt: skip
        self.queues = Queues(self.log, clock=clock, monotonic=monotonic)
        self._writer = _Counted(self.log)
        self.appender = Appender(
            self._writer,
            retry=options.get("retry") or RetryPolicy(),
            metrics=self.metrics,
            monotonic=monotonic,
            rng=options.get("rng"),
        )
        self._outboxes = Outboxes(self.appender, encoder=self.encoder, limits=self.limits, metrics=self.metrics)
        self.hand_overs = HandOvers(self.appender, self._outboxes, limits=self.limits)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        if self._loop is not None and self._loop.is_running():
            raise WrongEventLoop("this worker is in use already; make one worker for each event loop")
        self._loop = asyncio.get_running_loop()
        self._outboxes.clear()
        self._writer.open()
        self.appender.closed = False
        self.hand_overs.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    def emitter(
        self, user_id: str, *, run_id: str | None = None, thread_id: str | None = None
    ) -> UnifiedWebSocketEmitter:
        """An emitter of this user, whose events are of that run and thread unless they name another.

        Works until the worker is closed. Raises `InvalidUserId`, and `ManagerClosed` before the worker was entered.
        """
        if self._loop is None:
            raise ManagerClosed("the worker is not open: use it as `async with Worker(...) as worker:`")
        return UnifiedWebSocketEmitter(self, user_id, _Labels(user_id, run_id, thread_id))

    async def require_connection(self, user_id: UserId, connection_id: str) -> None:
        """Raise `UnknownConnection` unless some process registered this connection within `Retention.age`."""
        if not isinstance(connection_id, str):
            raise InvalidInput("a connection id is a string")
        if not await self.state.knows_connection(user_id, connection_id):
            raise UnknownConnection("this user has no connection of that id; nothing was appended")

    async def close(self) -> None:
        """Wait until what was emitted is in the log, at most `Limits.shutdown_timeout` seconds, and disconnect.

        What is emitted afterwards raises `ManagerClosed`. The worker may be entered again.
        """
        if self._loop is None:
            return
        deadline = asyncio.get_running_loop().time() + self.limits.shutdown_timeout
        await wait_until(deadline, [self.hand_overs.close(), self._outboxes.flush()])
        self.appender.closed = True
        await wait_until(deadline, [self._writer.wait_idle()])
        self._writer.close()
        await self._outboxes.close()
        await self.log.close()
        self._loop = None


class _Life:
    """The thread of a `SyncWorker` in one process, with the event loop in which its worker is."""

    def __init__(self, make: Callable[[], Worker]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._worker: Worker | None = None
        self._patience = 0.0

    def worker(self) -> Worker:
        """The worker, running."""
        with self._lock:
            if self._thread is None:
                ready = threading.Event()
                self._thread = threading.Thread(
                    target=self._run, args=(ready,), name="websocket_core worker", daemon=True
                )
                self._thread.start()
                ready.wait()
            if self._worker is None:
                self._thread = None
                raise ManagerClosed("the event loop of the worker did not start")
            return self._worker

    def _run(self, ready: threading.Event) -> None:
        try:
            asyncio.run(self._serve(ready))
        except Exception:
            logger.exception("the thread of a worker failed")
        finally:
            self._worker = None
            ready.set()

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with self._make() as worker:
            self._patience = worker.limits.shutdown_timeout + ENDING
            self._worker = worker
            ready.set()
            await self._stop.wait()

    def end(self) -> None:
        """Flush, and wait until the thread has ended. In a forked process there is none."""
        if self._process != os.getpid():
            return
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is None or self._loop is None or self._stop is None:
                return
            with contextlib.suppress(RuntimeError):  # the loop has ended already
                self._loop.call_soon_threadsafe(self._stop.set)
            thread.join(self._patience)
            if thread.is_alive():
                logger.error("the thread of a worker did not end in time")


class SyncWorker:
    """Emits to any user, from code that cannot await: Celery tasks, cron, scripts.

    A thread with an event loop of its own does the work. It is started by the first use in each process, so a worker
    may be made when a module is imported and used in processes that were forked later; it ends with `close`, with the
    `with` block, or with the interpreter. Safe from several threads. `log` and the options are those of `Worker`.
    """

    def __init__(self, log: str | LogStore, **options: Unpack[WorkerOptions]) -> None:
        made = [Worker(log, **options)]  # at once, so that what is wrong with the configuration is raised here
        self._make = lambda: made.pop() if made else Worker(log, **options)
        self._lives: dict[int, _Life] = {}
        """By process: a forked one has no thread but its own, and may find the locks of others held for ever."""
        self._closed = False

    def __enter__(self) -> Self:
        self._closed = False
        self._worker()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _worker(self) -> Worker:
        _refuse_running_loop()
        if self._closed:
            raise ManagerClosed("the worker was closed; nothing was appended")
        pid = os.getpid()
        life = self._lives.get(pid)
        if life is None:
            life = self._lives.setdefault(pid, _Life(self._make))
            atexit.register(self.close)
        worker = life.worker()
        if self._closed:  # by another thread, meanwhile
            life.end()
            raise ManagerClosed("the worker was closed; nothing was appended")
        return worker

    def emitter(self, user_id: str, *, run_id: str | None = None, thread_id: str | None = None) -> SyncEmitter:
        """An emitter of this user, whose events are of that run and thread unless they name another.

        It holds nothing; ask for it at each use, or keep it until the worker is closed. Raises `InvalidUserId`,
        `ManagerClosed` after `close`, and `WrongEventLoop` on the thread of a running event loop.
        """
        return self._worker().emitter(user_id, run_id=run_id, thread_id=thread_id).sync

    def close(self) -> None:
        """Wait until what was emitted is in the log, at most `Limits.shutdown_timeout` seconds; disconnect, and end
        the thread. What is emitted afterwards raises `ManagerClosed`. May be called again."""
        self._closed = True
        atexit.unregister(self.close)
        life = self._lives.pop(os.getpid(), None)
        if life is not None:
            life.end()


def _refuse_running_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise WrongEventLoop(
        "this would hold up the event loop that runs in this thread: use `async with` and `await` here"
    )


class EmitterFor:
    """What `emitter_for` gives. Entered with `async with` it is a `UnifiedWebSocketEmitter`, with `with` a
    `SyncEmitter`; leaving the block waits until what was emitted is in the log."""

    def __init__(self, worker: Worker, user_id: UserId, run_id: str | None, thread_id: str | None) -> None:
        self._worker = worker
        self._user_id = user_id
        self._run_id = run_id
        self._thread_id = thread_id
        self._life: _Life | None = None

    def _emitter(self) -> UnifiedWebSocketEmitter:
        return self._worker.emitter(self._user_id, run_id=self._run_id, thread_id=self._thread_id)

    async def __aenter__(self) -> UnifiedWebSocketEmitter:
        await self._worker.__aenter__()
        return self._emitter()

    async def __aexit__(self, *_exc: object) -> None:
        await self._worker.close()

    def __enter__(self) -> SyncEmitter:
        _refuse_running_loop()
        if self._life is not None:
            raise InvalidInput("this block was entered already; call emitter_for for each")
        self._life = _Life(lambda: self._worker)
        self._life.worker()
        return self._emitter().sync

    def __exit__(self, *_exc: object) -> None:
        life, self._life = self._life, None
        if life is not None:
            life.end()


def emitter_for(
    log: str | LogStore,
    user_id: str,
    *,
    run_id: str | None = None,
    thread_id: str | None = None,
    **options: Unpack[WorkerOptions],
) -> EmitterFor:
    """An emitter of one user, without a server: `async with emitter_for("redis://...", user_id="alice") as emitter:`,
    or plain `with` in code that cannot await.

    `namespace`, `retention` and `limits` are to be those of the servers. Each block makes a connection of its own; a
    process that emits often keeps a `Worker` or a `SyncWorker`. Raises `InvalidUserId` and `InvalidConfiguration`.
    """
    return EmitterFor(Worker(log, **options), checked_user_id(user_id), run_id, thread_id)
