"""One seed's world: users, their tabs and agents, a server, a network, and what goes wrong; then it is healed and
judged."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import logging
import random
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import jwt
import uvicorn
from fastapi import FastAPI
from websockets.exceptions import InvalidState

from tests.simulation.checker import Checker, Violation
from tests.simulation.client import Tab
from tests.simulation.ledger import (
    Draining,
    History,
    LifeEnded,
    Quiesced,
    Record,
    Residue,
    Retained,
    Secrets,
)
from tests.simulation.loop import SimLoop, seeded_world
from tests.simulation.network import Conditions, Network
from tests.simulation.producers import Producer
from tests.simulation.sim_log import LogTrouble, SimLog
from websocket_core.auth import JWTAuthenticator
from websocket_core.errors import IsolationViolation
from websocket_core.identity import LogName, UserId
from websocket_core.limits import Limits, Retention, RetryPolicy
from websocket_core.logs.memory import MemoryLog
from websocket_core.metrics import Metrics
from websocket_core.router import websocket_router
from websocket_core.server import DrainingServer, server_config
from websocket_core.unified_manager import UnifiedWebSocketManager

KEY: Final = "a key of thirty-two bytes at least, for tests"
ALIKE: Final = (
    ("alice", "alice*"), ("alice", "Alice"), ("a", "a:b"), ("jos\u00e9", "jose\u0301"), ("1", "01"), ("bo", "bob"),
)  # fmt: skip
"""Users whose ids are easily taken for each other."""
ACTIVE_SECONDS: Final = 14.0
QUIET_SECONDS: Final = 26.0
"""Enough for every time-out there is, one after the other."""


class OrderedSet(dict[Any, None]):
    """What uvicorn needs of a set, in order of arrival: a set of objects has another order in every process."""

    def add(self, item: Any) -> None:
        self[item] = None

    def remove(self, item: Any) -> None:
        del self[item]

    def discard(self, item: Any) -> None:
        self.pop(item, None)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self.keys()))


class ErrorLog(logging.Handler):
    """Keeps what was logged as an error with a traceback: a crash that somebody caught at the edge."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.errors: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.levelno >= logging.ERROR:
            error = record.exc_info[1]
            if isinstance(error, IsolationViolation):
                return  # counted by a metric, and held against the replies that were mixed up on purpose
            self.errors.append(f"{record.name}: {record.getMessage().strip()}: {type(error).__name__}: {error}")


class Backend:
    """One life of the server: a manager with its log, an application and uvicorn."""

    def __init__(self, world: World, trouble: LogTrouble, generation: int) -> None:
        self.inner = MemoryLog(world.retention, limits=world.limits, monotonic=world.loop.time, entropy=world.entropy)
        self.log = SimLog(
            self.inner,
            loop=world.loop,
            rng=random.Random(f"{world.seed}/log/{generation}"),
            trouble=trouble,
            faults=world.faults,
            record=world.record,
        )
        self.metrics = Metrics()
        self.manager = UnifiedWebSocketManager(
            self.log,
            limits=world.limits,
            retention=world.retention,
            retry=RetryPolicy(attempts=4, seconds=3.0, initial=0.05, maximum=0.4),
            metrics=self.metrics,
            clock=world.loop.wall_clock,
            monotonic=world.loop.time,
            entropy=world.entropy,
            rng=random.Random(f"{world.seed}/retry/{generation}"),
        )
        app = FastAPI(lifespan=self.manager.lifespan)
        authenticate = JWTAuthenticator(KEY, algorithms=["HS256"])
        app.include_router(websocket_router(self.manager, authenticate=authenticate), prefix="/live")
        options: dict[str, Any] = {} if world.own_server else {"ws": "websockets-sansio"}
        config = server_config(
            app,
            host="server",
            port=80,
            http=world.http,
            lifespan="on",
            log_config=None,
            access_log=False,
            date_header=False,
            ws_ping_interval=4.0,
            ws_ping_timeout=4.0,
            timeout_graceful_shutdown=4,
            **options,
        )
        self.server = DrainingServer(config, drain=2.0) if world.own_server else uvicorn.Server(config)
        state: Any = self.server.server_state
        state.connections = OrderedSet()
        state.tasks = OrderedSet()
        self._own = world.own_server
        self._faults = world.faults
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._serving = asyncio.create_task(self.server._serve())
        while not self.server.started:  # noqa: ASYNC110 - uvicorn offers nothing to wait for
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        assert self._serving is not None
        self.server.should_exit = True
        try:
            await self._serving
        except InvalidState:
            # uvicorn's own protocol stumbles over a socket whose client has sent its close and does not take the
            # answer; what it would have done next is done here. Under our own server that must not happen.
            if self._own:
                raise
            self._faults["uvicorn_crashed_at_its_end"] += 1
            await self.server.lifespan.shutdown()
        self.log.dead = True


@dataclass
class Outcome:
    """What a seed came to."""

    seed: int
    violations: list[Violation]
    faults: Counter[str]
    digest: str
    virtual_seconds: float
    steps: int
    connections: int
    deliveries: int
    emitted: int
    records: list[Record] = field(repr=False)


class World:
    """Everything of one seed."""

    def __init__(self, seed: int, loop: SimLoop, entropy: Any, *, signals_arrive: bool = False) -> None:
        self.seed = seed
        self.loop = loop
        self.entropy = entropy
        self.rng = rng = random.Random(f"{seed}/world")
        self._trace = hashlib.blake2b(digest_size=16)
        self.net = Network(loop, random.Random(f"{seed}/net"), self._trace_bytes)
        self.faults = self.net.faults
        self.records: list[Record] = []
        self.users = list(rng.choice(ALIKE))
        if rng.random() < 0.5:
            self.users.append("carol")
        self.secrets = Secrets(seed, self.users)
        self.own_server = rng.random() < 0.5
        self.http = rng.choice(("h11", "httptools"))
        self.limits = Limits(
            connections_per_user=6,
            heartbeat=3.0,
            heartbeat_timeout=3.0,
            write_timeout=2.0,
            auth_timeout=2.0,
            expiry_grace=1.0,
            shutdown_timeout=4.0,
            batch_events=rng.choice((3, 16, 256)),
            batch_bytes=rng.choice((600, 4_096, 262_144)),
        )
        self.retention = Retention(
            events=rng.choice((12, 40, 5_000, 5_000)),
            bytes=rng.choice((8_000, 2_097_152, 2_097_152)),
            age=rng.choice((4.0, 3_600.0, 3_600.0)),
        )
        self.trouble = LogTrouble(
            suspends=rng.choice((0.0, 0.5, 1.0)),
            lost_wakes=rng.choice((0.0, 0.08, 0.3)),
            late_wakes=rng.choice((0.0, 0.1)),
            mixed_replies=rng.choice((0.0, 0.0, 0.02)),
        )
        if signals_arrive:
            self.trouble.lost_wakes = self.trouble.late_wakes = 0.0
        self.tabs = [
            Tab(self, f"{index}{letter}", user)
            for index, user in enumerate(self.users)
            for letter in "xyz"[: rng.randrange(1, 4)]
        ]
        for tab in self.tabs:
            self.net.conditions[tab.name] = Conditions(
                latency=rng.choice((0.001, 0.02, 0.2)),
                jitter=rng.choice((0.0, 0.02, 0.3)),
                fragments=rng.choice((0.0, 0.2, 0.9)),
                capacity=rng.choice((600, 4_000, 65_536)),
                high_water=rng.choice((1_000, 8_000, 65_536)),
            )
        self.healed = self.over = self.closing = False
        self._number = 0
        self._generation = 0
        self.backend = Backend(self, self.trouble, 0)
        self._backends = [self.backend]
        self.producers = {user: Producer(self, user, index) for index, user in enumerate(self.users)}

    # -- what tabs and producers use

    @property
    def manager(self) -> UnifiedWebSocketManager:
        return self.backend.manager

    def record(self, record: Record) -> None:
        self.records.append(record)

    def next_connection(self) -> int:
        self._number += 1
        return self._number

    def token(self, user: str, expires_at: float) -> str:
        return jwt.encode({"sub": user, "exp": expires_at}, KEY, algorithm="HS256")

    def open_runs(self, user: str) -> list[str]:
        return self.producers[user].open_runs

    def _trace_bytes(self, number: int, down: bool, data: bytes) -> None:
        self._trace.update(f"{self.loop.now!r}/{number}/{down}/{len(data)}/".encode())
        self._trace.update(data)

    # -- what goes wrong

    async def _nemesis(self, until: float) -> None:
        """Faults, one after the other, with healing in between left to chance."""
        rng, loop = self.rng, self.loop
        actions = (
            (self._cut, 10), (self._stall, 4), (self._vanish, 3), (self._stop_reading, 4), (self._stall_all, 1),
            (self._log_trouble, 3), (self._forget, 1), (self._crowd, 1), (self._stand_still, 1),
            (self._disconnect_user, 1),
        )  # fmt: skip
        restarts = [rng.uniform(3.0, until)] if rng.random() < 0.35 else []
        while loop.time() < until:
            await asyncio.sleep(rng.expovariate(2.5))
            if restarts and loop.time() > restarts[0]:
                restarts.pop()
                await self._restart()
                continue
            (action,) = rng.choices([each for each, _ in actions], [weight for _, weight in actions])
            result = action()
            if result is not None:
                await result

    def _some_tab(self) -> Tab:
        return self.rng.choice(self.tabs)

    def _cut(self) -> None:
        for link in self.net.links_of(self._some_tab().name):
            if self.rng.random() < 0.5:
                link.down.cut_inside = True
            else:
                link.cut()

    def _stall(self) -> None:
        for link in self.net.links_of(self._some_tab().name):
            link.stall(self.rng.uniform(0.2, 6.0))

    def _stall_all(self) -> None:
        for link in list(self.net.links.values()):
            link.stall(self.rng.uniform(0.2, 3.0))

    def _vanish(self) -> None:
        for link in self.net.links_of(self._some_tab().name):
            link.vanish()

    def _stop_reading(self) -> None:
        tab = self._some_tab()
        if tab.gate.is_set():
            tab.gate.clear()
            self.loop.call_later(self.rng.uniform(0.3, 7.0), tab.gate.set)

    def _log_trouble(self) -> None:
        log = self.backend.log
        name = self.rng.choice(("refused", "lost_replies", "unreadable"))
        worse: LogTrouble = replace(log.trouble)
        setattr(worse, name, self.rng.choice((0.3, 1.0)))
        log.trouble = worse
        self.loop.call_later(self.rng.uniform(0.1, 1.5), self._log_recovers, log)

    def _log_recovers(self, log: SimLog) -> None:
        log.trouble = self.trouble

    async def _forget(self) -> None:
        user = self.rng.choice(self.users)
        self.faults["forgotten_log"] += 1
        if self.rng.random() < 0.5:
            await self.manager.delete_user(user)
        else:
            await self.backend.log.forget(LogName.of_user(UserId(user)))

    async def _disconnect_user(self) -> None:
        self.faults["disconnected"] += 1
        await self.manager.disconnect_user(self.rng.choice(self.users))

    def _crowd(self) -> None:
        """More tabs of one user than allowed: the oldest must go."""
        user = self.rng.choice(self.users)
        self.faults["crowd"] += 1
        for index in range(4):
            tab = Tab(self, f"{len(self._guests)}guest{index}", user)
            self._guests.append(asyncio.create_task(tab.live()))
            self.loop.call_later(self.rng.uniform(1.0, 3.0), self._guests[-1].cancel)

    _guests: list[asyncio.Task[None]]

    def _stand_still(self) -> None:
        """The process does nothing for a while, as when something blocking is called."""
        self.faults["loop_stall"] += 1
        self.loop.now += self.rng.uniform(0.3, 5.0)

    async def _restart(self) -> None:
        """Another process, which remembers nothing."""
        kind = self.rng.choice(("drain", "shutdown", "stop", "crash"))
        self.faults[f"restart_{kind}"] += 1
        old = self.backend
        old.log.trouble = LogTrouble(suspends=self.trouble.suspends)
        self.closing = True
        if kind in ("drain", "shutdown"):
            for producer in self.producers.values():
                await producer.emit_last()  # which its clients have not been shown yet
        if kind == "crash":
            for link in list(self.net.links.values()):
                link.cut()
        elif kind != "stop" or self.own_server:
            self.record(Draining(self.loop.time()))
            if kind == "drain":
                await self.manager.drain(self.rng.uniform(0.5, 3.0))
            elif kind == "shutdown":
                await self.manager.shutdown()
        await old.stop()
        await asyncio.sleep(self.rng.uniform(0.0, 1.0))
        self.record(LifeEnded(self.loop.time(), None))
        self._generation += 1
        self.backend = Backend(self, self.trouble, self._generation)
        self._backends.append(self.backend)
        self.closing = False
        await self.backend.start()

    async def _intrude(self) -> None:
        tab = Tab(self, "intruder", self.users[0], intruder=True)
        await tab.live()

    # -- from beginning to end

    async def run(self) -> None:
        self._guests = []
        await self.backend.start()
        tabs = [asyncio.create_task(tab.live()) for tab in self.tabs]
        if self.rng.random() < 0.3:
            tabs.append(asyncio.create_task(self._intrude()))
        work = []
        for producer in self.producers.values():
            work.append(asyncio.create_task(producer.emit_events(self.rng.randrange(20, 100))))
            work.append(asyncio.create_task(producer.run_agents(self.rng.randrange(1, 5))))
        left: dict[str, Any] = {}
        await self._nemesis(ACTIVE_SECONDS)
        _done, late = await asyncio.wait(work, timeout=60.0)
        left["producers that hang"] = len(late)
        for task in work:
            if task.done() and not task.cancelled() and task.exception() is not None:
                left["producers that crashed"] = repr(task.exception())
            task.cancel()
        await asyncio.wait(work)
        await self._finale()
        self._heal()
        for guest in self._guests:
            guest.cancel()
        await asyncio.sleep(QUIET_SECONDS)
        live = {tab.name: tab.number if tab.greeted else -1 for tab in self.tabs}
        self.record(Quiesced(self.loop.time(), live, self.manager.get_stats()["total_connections"]))
        self.over = True
        _done, late = await asyncio.wait(tabs + self._guests, timeout=20.0)
        left["tabs that hang"] = len(late)
        await asyncio.sleep(3.0)
        left.update({f"before the end: {name}": count for name, count in self._statistics().items()})
        if self.own_server:  # another server may keep the sockets of clients that died; ours cuts them
            left["sockets before the end"] = [link.name for link in self.net.links.values() if link.meter.upgraded]
        for link in list(self.net.links.values()):
            link.heal()
        await self.backend.stop()
        await asyncio.sleep(1.0)
        self._note_residue(left)
        self.record(Residue(self.loop.time(), left))

    async def _finale(self) -> None:
        """Every tab is cut, and the last event of its user comes just behind the read of one that is back."""
        last: list[asyncio.Task[None]] = []
        for user, producer in self.producers.items():
            for link in [link for tab in self.tabs if tab.user == user for link in self.net.links_of(tab.name)]:
                link.cut()
            emit = partial(self._emit_last, producer, last)
            self.backend.log.ambushes[LogName.of_user(UserId(user))] = emit
        await asyncio.sleep(4.0)
        self.backend.log.ambushes.clear()
        if last:
            await asyncio.wait(last)

    def _emit_last(self, producer: Producer, last: list[asyncio.Task[None]]) -> None:
        last.append(asyncio.create_task(producer.emit_last()))

    def _alarms(self) -> int:
        """How often our own code noticed an entry of another log."""
        return sum(backend.metrics.isolation_violations for backend in self._backends)

    def _heal(self) -> None:
        self.healed = True
        for tab in self.tabs:
            tab.gate.set()
        self.net.heal()
        self.backend.log.trouble = LogTrouble()

    def _statistics(self) -> dict[str, int]:
        """Of the manager. An emitter may hang in a cycle of an error and its traceback, and goes when that does."""
        if self.manager.get_stats()["active_emitters"]:
            gc.collect()
        return self.manager.get_stats()

    def _note_residue(self, left: dict[str, Any]) -> None:
        backend, manager = self.backend, self.manager
        left.update(self._statistics())
        left["connections by the metrics"] = backend.metrics.connections
        left["isolation_violations"] = max(0, self._alarms() - self.faults["mixed_reply"])
        held = [*backend.inner._logs.values(), *backend.inner._heads.values()]
        left["watchers"] = sum(len(log.watchers) for log in held)
        left["outboxes"] = len(manager._outboxes)
        left["open runs"] = len(manager.runs)
        left["sockets"] = len(backend.server.server_state.connections)
        left["endpoints"] = len(backend.server.server_state.tasks)
        left["links"] = [link.name for link in self.net.links.values()]
        current = asyncio.current_task()
        left["tasks"] = sorted(str(task.get_coro()) for task in asyncio.all_tasks() if task is not current)
        left["errors that nobody handled"] = list(self.loop.failures)

    def outcome(self, crash: str | None, errors: list[str]) -> Outcome:
        if crash is not None or errors:
            names = {"crash": crash, "errors logged": errors}
            self.record(Residue(self.loop.time(), names))
        for record in self.records:
            self._trace.update(repr(record).encode())
        retention = self.retention
        retained = Retained(retention.events, retention.bytes, retention.age)
        checker = Checker(History(self.secrets, retained, self.records))
        violations = checker.run()
        return Outcome(
            self.seed,
            violations,
            self.faults,
            self._trace.hexdigest(),
            self.loop.time(),
            self.loop.steps,
            self.net.connected,
            checker.deliveries,
            sum(type(record).__name__ == "Appended" for record in self.records),
            self.records,
        )


def _end_tasks(loop: SimLoop) -> None:
    """After a crash, so that what it left behind does not complain when it is collected."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        with contextlib.suppress(Exception):
            loop.run_until_complete(asyncio.wait(tasks, timeout=60.0))


def run_seed(seed: int, *, signals_arrive: bool = False) -> Outcome:
    """Live through one seed and judge it. With `signals_arrive` no wake-up is lost or late."""
    loop = SimLoop(seed, order="adversarial" if seed % 4 == 3 else "fifo")
    errors = ErrorLog()
    root = logging.getLogger()
    root.addHandler(errors)
    collecting = gc.isenabled()
    gc.disable()  # so that weak references go when their last owner does, and not when memory happens to be short
    crash = None
    try:
        with seeded_world(loop, seed) as entropy:
            asyncio.set_event_loop(loop)
            world = World(seed, loop, entropy, signals_arrive=signals_arrive)
            try:
                loop.run_until_complete(world.run())
            except Exception as error:
                crash = "".join(traceback.format_exception(error)[-3:])
            outcome = world.outcome(crash, errors.errors)
            _end_tasks(loop)
    finally:
        asyncio.set_event_loop(None)
        loop.close()
        root.removeHandler(errors)
        if collecting:
            gc.enable()
    return outcome
