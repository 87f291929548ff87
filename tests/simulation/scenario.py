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
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from typing import Any, Final

import jwt
import uvicorn
from fastapi import FastAPI
from websockets.exceptions import InvalidState

from tests.simulation.checker import Checker, Violation
from tests.simulation.client import NEVER, Credential, Tab
from tests.simulation.ledger import (
    Draining,
    History,
    LifeEnded,
    Quiesced,
    Received,
    Record,
    Residue,
    Retained,
    Revoked,
    Revoking,
    RolledBack,
    Saved,
    Secrets,
    Steady,
    StillOpen,
)
from tests.simulation.loop import SimLoop, seeded_world
from tests.simulation.network import Conditions, Link, Network
from tests.simulation.producers import Producer
from tests.simulation.rolling_log import RollingLog
from tests.simulation.sim_log import WAYS, CheckedSimLog, LogTrouble, SimLog, SimState
from websocket_core.auth import JWTAuthenticator
from websocket_core.errors import AppendFailed, IsolationViolation, LogUnavailable, ManagerClosed
from websocket_core.identity import LogName, UserId
from websocket_core.limits import Limits, Retention, RetryPolicy
from websocket_core.logs.memory import MemoryLog
from websocket_core.metrics import Metrics
from websocket_core.router import websocket_router
from websocket_core.server import DrainingServer, server_config
from websocket_core.state import MemoryState
from websocket_core.unified_manager import UnifiedWebSocketManager

KEY: Final = "a key of thirty-two bytes at least, for tests"
ALIKE: Final = (
    ("alice", "alice*"), ("alice", "Alice"), ("a", "a:b"), ("jos\u00e9", "jose\u0301"), ("1", "01"), ("bo", "bob"),
)  # fmt: skip
"""Users whose ids are easily taken for each other."""
TURN: Final = 0.01
SLOW_ORDERS: Final = True
"""Whether an order may be a while under way to its log. An open defect: such an order for all of a user's credentials
also ends who has logged in anew meanwhile, since it does not say until when they were issued. To be True when it does.
"""
REVOKED_SECONDS: Final = 2.0
"""So long after a revocation every connection has ended that it concerns."""
ACTIVE_SECONDS: Final = 14.0
QUIET_SECONDS: Final = 26.0
"""Enough for every time-out there is, one after the other."""


class Kind(StrEnum):
    """What a world is made to show."""

    CHAOS = "chaos"
    """Everything goes wrong that can, over logs in the memory of the server."""
    SIGNALS = "signals"
    """The same, and every wake-up arrives at once, so that nobody needs the heartbeat to find an entry."""
    ROLLBACK = "rollback"
    """The same, over a store that outlives the server and is rolled back now and then."""
    AWAY = "away"
    """The same, and the log is away for everybody for seconds, again and again. The server lives on."""
    STALLS = "stalls"
    """The loop stands still now and then, and nothing else goes wrong: no connection may end."""


_DRAWN: Final = {Kind.CHAOS: 6, Kind.ROLLBACK: 3, Kind.STALLS: 1}
"""How often a seed makes which kind."""


def kind_of(seed: int) -> Kind:
    """The kind of a seed's world, where none is asked for."""
    return random.Random(f"{seed}/kind").choices(list(_DRAWN), list(_DRAWN.values()))[0]


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
        self.inner: MemoryLog | RollingLog = world.store or MemoryLog(
            world.retention, limits=world.limits, monotonic=world.loop.time, entropy=world.entropy
        )
        kind = CheckedSimLog if world.kind is Kind.AWAY else SimLog
        self.log = kind(
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
            state=SimState(world.state, self.log),
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

    def watchers(self) -> int:
        """How many wait to be woken by a log."""
        if isinstance(self.inner, RollingLog):
            return self.inner.watched()
        held = {id(log): log for log in (*self.inner._logs.values(), *self.inner._heads.values())}
        return sum(len(log.watchers) for log in held.values())

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
    kind: Kind
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

    def __init__(self, seed: int, loop: SimLoop, entropy: Any, kind: Kind) -> None:
        self.seed = seed
        self.kind = kind
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
            check_interval=0.4,
            degraded_after=0.8,
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
        if kind is Kind.SIGNALS:
            self.trouble.lost_wakes = self.trouble.late_wakes = 0.0
        elif kind is Kind.STALLS:
            self.trouble.mixed_replies = 0.0
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
            if kind is Kind.STALLS:  # a narrow line is reason enough to end
                wide = replace(self.net.conditions[tab.name], capacity=65_536, high_water=65_536)
                self.net.conditions[tab.name] = wide
        self.healed = self.over = self.closing = False
        self.state = MemoryState(
            age=self.retention.age,
            per_user=self.limits.known_connections,
            clock=loop.wall_clock,
            monotonic=loop.time,
        )
        """What servers share that follow one another. It is not rolled back, even where logs are."""
        self._judge = random.Random(f"{seed}/revocations")
        self.revokes = kind is not Kind.STALLS and self._judge.random() < 0.6
        self._revoking: list[asyncio.Task[None]] = []
        self._stands_until = 0.0
        self._tokens = 0
        self._number = 0
        self._generation = 0
        self.store: RollingLog | None = None
        if kind is Kind.ROLLBACK:
            self.store = RollingLog(self.retention, limits=self.limits, monotonic=loop.time, entropy=entropy)
        self.backend = Backend(self, self.trouble, 0)
        self._backends = [self.backend]
        self.producers = {user: Producer(self, user, index) for index, user in enumerate(self.users)}

    # -- what tabs and producers use

    @property
    def calm(self) -> bool:
        """Whether nothing goes wrong of which a client would be the cause."""
        return self.healed or self.kind is Kind.STALLS

    @property
    def patient(self) -> bool:
        """Whether clients wait for the server as long as it takes."""
        return self.kind is Kind.STALLS

    @property
    def manager(self) -> UnifiedWebSocketManager:
        return self.backend.manager

    def record(self, record: Record) -> None:
        self.records.append(record)

    def next_connection(self) -> int:
        self._number += 1
        return self._number

    def log_in(self, user: str, seconds: float = NEVER) -> Credential:
        """A new credential of this user."""
        self._tokens += 1
        now = self.loop.wall_clock()
        token_id, issued_at = f"j{self._tokens}", int(now)
        claims = {"sub": user, "exp": now + seconds, "iat": issued_at, "jti": token_id}
        return Credential(jwt.encode(claims, KEY, algorithm="HS256"), token_id, issued_at)

    def open_runs(self, user: str) -> list[str]:
        return self.producers[user].open_runs

    def _trace_bytes(self, number: int, down: bool, data: bytes) -> None:
        self._trace.update(b"%b/%d/%d/%d/%b" % (repr(self.loop.now).encode(), number, down, len(data), data))

    # -- what goes wrong

    async def _nemesis(self, until: float) -> None:
        """Faults, one after the other, with healing in between left to chance."""
        rng, loop = self.rng, self.loop
        actions: list[tuple[Callable[[], Awaitable[None] | None], int]] = [
            (self._cut, 10), (self._stall, 4), (self._vanish, 3), (self._stop_reading, 4), (self._stall_all, 1),
            (self._log_trouble, 3), (self._forget, 1), (self._crowd, 1), (self._stand_still, 1),
            (self._disconnect_user, 1),
        ]  # fmt: skip
        if self.store is not None:
            actions.append((self._roll_back, 3))
        restarts = [rng.uniform(3.0, until)] if rng.random() < 0.35 else []
        if self.kind is Kind.AWAY:
            restarts.clear()
        while loop.time() < until:
            if self.kind is Kind.STALLS:
                await asyncio.sleep(rng.uniform(0.2, 5.0))
                await self._stand_still()
                continue
            await asyncio.sleep(rng.expovariate(2.5))
            if self.store is not None and rng.random() < 0.4:
                self._save(self.store)
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
        batch = await self.backend.inner.read(LogName.of_user(UserId(user)), None, 1)
        self.faults["forgotten_log"] += bool(batch.entries)
        with contextlib.suppress(AppendFailed, LogUnavailable):
            if self.rng.random() < 0.5:
                await self.manager.delete_user(user)
            else:
                await self.backend.log.forget(LogName.of_user(UserId(user)))

    async def _disconnect_user(self) -> None:
        user = UserId(self.rng.choice(self.users))
        present = self.manager._registry.of(user)
        only = self._judge.choice(list(present)) if present and self._judge.random() < 0.5 else None
        self.faults["disconnected"] += len(present) if only is None else 1
        with contextlib.suppress(AppendFailed):
            await self.manager.disconnect_user(user, only)

    # -- revocation

    async def _judgements(self, until: float) -> None:
        """Users, or one of their credentials, are revoked at bad moments."""
        judge, loop = self._judge, self.loop
        ways = (
            self._revoke_at_once, self._revoke_returning, self._revoke_behind_a_read, self._revoke_behind_the_head,
            self._revoke_blocked, self._revoke_in_trouble, *((self._revoke_slowly,) if SLOW_ORDERS else ()),
        )  # fmt: skip
        while True:
            await asyncio.sleep(judge.expovariate(0.45))
            if loop.time() >= until:
                return
            user = judge.choice(self.users)
            self._in_time(judge.choice(ways)(user))

    def _in_time(self, work: Coroutine[Any, Any, None]) -> None:
        self._revoking.append(asyncio.create_task(work))

    def _links_of_user(self, user: str) -> list[Link]:
        return [link for tab in self.tabs if tab.user == user for link in self.net.links_of(tab.name)]

    async def _revoke_at_once(self, user: str) -> None:
        await self._revoke(user)

    async def _revoke_returning(self, user: str) -> None:
        """While the user's tabs come back with their cursors."""
        for link in self._links_of_user(user):
            link.cut()
        await asyncio.sleep(self._judge.uniform(0.05, 0.9))
        await self._revoke(user)

    async def _revoke_behind_a_read(self, user: str) -> None:
        """Just behind the read of one that comes back, or of one that is there."""
        if self._judge.random() < 0.6:
            for link in self._links_of_user(user):
                link.cut()
        log = self.backend.log
        log.ambushes[LogName.of_user(UserId(user))] = lambda: self._in_time(self._revoke(user))

    async def _revoke_behind_the_head(self, user: str) -> None:
        """When one comes: just after the head was noted, or after the deny-list was asked."""
        for link in self._links_of_user(user):
            link.cut()
        log = self.backend.log
        ambushes = self._judge.choice((log.ambushes_at_open, log.ambushes_at_denial))
        ambushes[LogName.of_user(UserId(user))] = lambda: self._in_time(self._revoke(user))
        if SLOW_ORDERS and self._judge.random() < 0.3:
            log.slow_orders[LogName.of_user(UserId(user))] = self._judge.uniform(0.2, 3.0)

    async def _revoke_blocked(self, user: str) -> None:
        """While nothing can be written to some of the user's tabs, which have much to read; perhaps much more comes
        behind the order, so that it is trimmed before they come to it."""
        for tab in self.tabs:
            if tab.user == user and tab.gate.is_set() and self._judge.random() < 0.7:
                tab.gate.clear()
                self.loop.call_later(self._judge.uniform(2.0, 7.0), tab.gate.set)
        producer = self.producers[user]
        lane = f"burst{len(self._revoking)}"
        await producer.emit_burst(self._judge.randrange(3, 12), lane)
        await self._revoke(user)
        few = min(self.retention.events, 40)
        await producer.emit_burst(self._judge.choice((2, few + 2)), lane)

    async def _revoke_in_trouble(self, user: str) -> None:
        self._log_trouble()
        await asyncio.sleep(self._judge.uniform(0.0, 0.2))
        await self._revoke(user)

    async def _revoke_slowly(self, user: str) -> None:
        """The order is a while under way to the log, and clients come back meanwhile, with old credentials and new."""
        if self._judge.random() < 0.5:
            for link in self._links_of_user(user):
                link.cut()
            await asyncio.sleep(self._judge.uniform(0.0, 0.4))
        self.backend.log.slow_orders[LogName.of_user(UserId(user))] = self._judge.uniform(0.2, 3.0)
        await self._revoke(user)

    async def _revoke(self, user: str) -> None:
        """Call for it until it is acknowledged; 2 seconds later, see who is still there."""
        token_id = None
        if self._judge.random() < 0.5:
            held = [tab.credential.token_id for tab in self.tabs if tab.user == user and tab.credential is not None]
            token_id = self._judge.choice([*held, "j1", "nobody's"])
        self.faults["revoke_token" if token_id else "revoke_user"] += 1
        while True:
            asked = Revoking(self.loop.time(), user, token_id, self.loop.wall_clock())
            self.record(asked)
            try:
                await self.manager.revoke(user, token_id)
                break
            except (AppendFailed, LogUnavailable, ManagerClosed):
                self.faults["revoke_again"] += 1
                await asyncio.sleep(0.1)
        since = self.loop.time()
        self.record(Revoked(since, user, token_id, asked.issued_until))
        # It is asked again since the server may be made to stand still meanwhile.
        while (due := max(since, self._stands_until) + REVOKED_SECONDS + TURN) > self.loop.time():  # noqa: ASYNC110
            await asyncio.sleep(due - self.loop.time() + TURN)
        open_now = [link.session for link in self.net.links.values() if link.in_service]
        self.record(StillOpen(self.loop.time(), open_now))

    def _save(self, store: RollingLog) -> None:
        self.record(Saved(self.loop.time(), store.save()))

    def _roll_back(self) -> None:
        """The store dies with what it had not made safe. It may be away for a while, and readers may be woken by its
        return or not."""
        store, log, rng = self.store, self.backend.log, self.rng
        if store is None or not store.snapshots:
            return
        self._roll_back_to(store, rng.choice(store.snapshots[-3:]), wake=rng.random() < 0.5)
        for producer in self.producers.values():
            producer.doubts = rng.random() < 0.5
        if rng.random() < 0.5:
            log.trouble = replace(log.trouble, refused=1.0, unreadable=1.0)
            self.loop.call_later(rng.uniform(0.05, 1.0), self._log_recovers, log)

    def _roll_back_to(self, store: RollingLog, number: int, *, wake: bool, told_within: float | None = None) -> None:
        lost = store.roll_back(number, wake=wake)
        self.record(RolledBack(self.loop.time(), number, told_within))
        if lost:
            self.faults["rollback"] += 1
            self.faults["rollback_lost_entry"] += lost
            self.faults["rollback_woken" if wake else "rollback_unnoticed"] += 1

    def _crowd(self) -> None:
        """More tabs of one user than allowed: the oldest must go."""
        user = self.rng.choice(self.users)
        self.faults["crowd"] += 1
        for index in range(4):
            tab = Tab(self, f"{len(self._guests)}guest{index}", user)
            self._guests.append(self._outside(tab.live()))
            self.loop.call_later(self.rng.uniform(1.0, 3.0), self._guests[-1].cancel)

    _guests: list[asyncio.Task[None]]

    def _outside(self, life: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A client: a process of its own, which lives on while the server stands still."""
        return self.loop.create_task(life, context=self.loop.outside.copy())

    async def _stand_still(self) -> None:
        """The process does nothing for a while, as when something blocking is called."""
        seconds = self.rng.choice((self.rng.uniform(0.3, 5.0), 5.0))
        self.faults["loop_stall"] += 1
        if seconds > self.limits.heartbeat_timeout:
            self.faults["loop_stall_beyond_timeout"] += 1
        self._stands_until = self.loop.time() + seconds
        self.loop.stall(seconds)
        await asyncio.sleep(seconds + TURN)  # so that the server has a turn before it is stalled again

    async def _outages(self, until: float) -> None:
        """The log is away for everybody, and comes back."""
        rng = random.Random(f"{self.seed}/outages")
        log = self.backend.log
        while True:
            await asyncio.sleep(rng.uniform(0.3, 4.0))
            if self.loop.time() >= until:
                return
            way = rng.choice(WAYS)
            log.go_away(way)
            await asyncio.sleep(rng.choice((rng.uniform(0.05, 0.8), rng.uniform(0.8, 4.0), rng.uniform(0.8, 4.0))))
            self.faults["log_was_away" if self.manager.availability.degraded else "log_had_a_hiccup"] += 1
            self.faults[f"log_{way}"] += 1
            log.come_back()

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
        if self.store is None:
            self.record(LifeEnded(self.loop.time(), None))
        self._generation += 1
        self.backend = Backend(self, self.trouble, self._generation)
        self._backends.append(self.backend)
        self.closing = False
        await self.backend.start()

    async def _come(self, tab: Tab) -> None:
        if self.kind is Kind.STALLS and self.rng.random() < 0.5:  # where nobody has to come back: let some come late
            await asyncio.sleep(self.rng.uniform(0.0, ACTIVE_SECONDS))
        await tab.live()

    async def _intrude(self) -> None:
        tab = Tab(self, "intruder", self.users[0], intruder=True)
        await tab.live()

    # -- from beginning to end

    async def run(self) -> None:
        self._guests = []
        await self.backend.start()
        if self.kind is Kind.STALLS:
            self.record(Steady(self.loop.time()))
        tabs = [self._outside(self._come(tab)) for tab in self.tabs]
        if self.rng.random() < 0.3 and self.kind is not Kind.STALLS:
            tabs.append(self._outside(self._intrude()))
        work = []
        for producer in self.producers.values():
            work.append(asyncio.create_task(producer.emit_events(self.rng.randrange(20, 100))))
            work.append(asyncio.create_task(producer.run_agents(self.rng.randrange(1, 5))))
        left: dict[str, Any] = {}
        if self.revokes:
            self._in_time(self._judgements(ACTIVE_SECONDS - 1.0))
        outages = asyncio.create_task(self._outages(ACTIVE_SECONDS)) if self.kind is Kind.AWAY else None
        await self._nemesis(ACTIVE_SECONDS)
        if outages is not None:
            await outages
            await asyncio.sleep(4.0)
            present = list(self.manager._registry)
            left["still degraded"] = sum(connection._follower._provisional is not None for connection in present)
            left["still degraded"] += self.manager.availability.degraded
        _done, late = await asyncio.wait(work, timeout=60.0)
        left["producers that hang"] = len(late)
        for task in work:
            if task.done() and not task.cancelled() and task.exception() is not None:
                left["producers that crashed"] = repr(task.exception())
            task.cancel()
        await asyncio.wait(work)
        left["revocations that hang"] = await self._judged()
        await self._finale()
        self._heal()
        for guest in self._guests:
            guest.cancel()
        await asyncio.sleep(QUIET_SECONDS)
        if self.store is not None:
            await self._lose_what_was_read(self.store)
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

    async def _judged(self) -> int:
        """Wait until every revocation was acknowledged and looked after; how many were not."""
        log = self.backend.log
        for ambushes in (log.ambushes, log.ambushes_at_open, log.ambushes_at_denial):
            ambushes.clear()
        if not self._revoking:
            return 0
        _done, late = await asyncio.wait(self._revoking, timeout=30.0)
        for task in self._revoking:
            task.cancel()
        for error in (task.exception() for task in self._revoking if task.done() and not task.cancelled()):
            if error is not None:
                raise error
        return len(late)

    async def _finale(self) -> None:
        """Every tab is cut, and the last event of its user comes just behind the read of one that is back."""
        if self.kind is Kind.STALLS:
            for producer in self.producers.values():
                await producer.emit_last()
            return
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

    async def _lose_what_was_read(self, store: RollingLog) -> None:
        """Everybody is connected and idle when the store loses what they have read. No signal tells them."""
        heartbeat = self.limits.heartbeat
        self._save(store)
        for producer in self.producers.values():
            await producer.emit_last()
            await producer.emit_last()
        await asyncio.sleep(heartbeat + 2.0)
        self.backend.log.trouble = LogTrouble(lost_wakes=1.0)
        self._roll_back_to(store, store.snapshots[-1], wake=False, told_within=heartbeat + 1.0)
        # The offset that they stand at is not there any more, or is given to another entry, perhaps of the same event.
        others, again = self.rng.choice(((0, 0), (0, 0), (1, 0), (2, 0), (3, 0), (0, 2), (1, 1)))
        for producer in self.producers.values():
            for _ in range(others):
                await producer.emit_last(remember=False)
            await producer.emit_again(again)
        await asyncio.sleep(heartbeat + 2.0)
        self.backend.log.trouble = LogTrouble()
        await asyncio.sleep(heartbeat + 2.0)

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
        left["watchers"] = backend.watchers()
        left["outboxes"] = len(manager._outboxes)
        left["watchers of outboxes"] = len(manager._outboxes._watchers)
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
            if not isinstance(record, Received):  # which came over the network, and is in the trace already
                self._trace.update(repr(record).encode())
        retention = self.retention
        retained = Retained(retention.events, retention.bytes, retention.age)
        checker = Checker(History(self.secrets, retained, self.records))
        violations = checker.run()
        return Outcome(
            self.seed,
            self.kind,
            violations,
            self.faults + checker.landed + Counter(shuffled_step=self.loop.shuffled),
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


def run_seed(seed: int, kind: Kind | None = None) -> Outcome:
    """Live through one seed and judge it; in a world of that kind, or of the kind that is the seed's own."""
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
            world = World(seed, loop, entropy, kind or kind_of(seed))
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
