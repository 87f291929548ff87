"""The promise: whatever happens, in whatever order, nobody is shown another user's event, every connection sees its own
events in order and once, and what it does not see it is told of.

A Hypothesis state machine drives a real manager, over fake sockets and a small log, in virtual time. It is judged by
a model that knows only what was emitted to whom:

- a user has a list of what was emitted since the log was last lost (`Life`); the last few of it are retained;
- a connection stands at one place in that list, and moves by what it receives;
- an event moves it to the next place that it may see, a gap over what is no longer retained or into another life;
- nothing else moves it;
- an order to go takes a place in the list that nobody sees, ends the connections that it concerns within two seconds,
  and nothing that comes after it reaches them;
- and in the end every other one stands where there is nothing more to see.

Whose an event is, is looked up in a ledger of random tokens in the payloads, never in a field that the SDK writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from itertools import cycle
from random import Random
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support import VirtualLoop
from websocket_core.control import CONTROL
from websocket_core.errors import ConnectionRefused, UnknownConnection
from websocket_core.identity import LogName, Principal, UserId
from websocket_core.limits import Limits, Retention
from websocket_core.log import LogStore, Position
from websocket_core.logs.memory import MemoryLog
from websocket_core.metrics import Metrics
from websocket_core.testing import FailingLog, FakeSocket, SuspendingLog
from websocket_core.unified_manager import UnifiedWebSocketManager
from websocket_core.wire import PROTOCOL, CloseCode, decode_cursor, encode_cursor

T = TypeVar("T")

USERS = ("ann", "Ann", "ann:tab-1")
TABS = ("tab-1", "ann")
THREADS = (None, "t-1", "t-2")
RETENTION = Retention(events=5, age=100.0)
LIMITS = Limits(heartbeat=25.0, batch_events=3, burst_frames=1)
AT_ONCE = LIMITS.heartbeat / 5
"""Within this time a connection has seen everything that it was woken for."""
AT_LAST = LIMITS.heartbeat * 3
"""Within this time a connection has seen everything, also if wake-ups were lost."""
GONE = 2.1
"""Within this time a connection is gone that was ordered to go."""

PHASES = (Phase.generate,)
"""Add `Phase.shrink`, and run with `--timeout 0`, for the shortest way to a failure; that takes minutes."""

ANY = st.integers(0, 11)
"""Chooses among however many there are."""
ANY_TAB = st.sampled_from([(user, tab) for user in USERS for tab in TABS])


@dataclass
class Told:
    """One event of the model: what was emitted, and to whom of the user's tabs. An order is for a tab that is none."""

    event_id: str
    token: str
    tab: str | None
    thread: str | None
    at: float
    cursor: str


@dataclass
class Life:
    """What was emitted to one user between two losses of the log. The place of an event is its index plus one."""

    user: str
    number: int
    told: list[Told] = field(default_factory=list)
    epoch: str | None = None

    def oldest(self, now: float) -> int:
        """The place of the oldest event that is retained; one after the last if there is none."""
        first = max(1, len(self.told) - RETENTION.events + 1)
        while first <= len(self.told) and self.told[first - 1].at < now - RETENTION.age:
            first += 1
        return first


@dataclass
class Client:
    """Who keeps a cursor, and connects again and again with it."""

    user: str
    tab: str
    thread: str | None
    cursor: str | None = None
    tokens: list[str] = field(default_factory=list)

    def may_see(self, told: Told) -> bool:
        return told.tab in (None, self.tab) and self.thread in (None, told.thread)


@dataclass
class Link:
    """One connection of a client, with what the model knew when it was asked for: the current life, its oldest event,
    its end, and whether the cursor that was given named a place of it."""

    client: Client
    socket: FakeSocket
    given: str | None
    given_was_true: bool
    life: Life
    oldest: int
    head: int
    resumes: bool
    principal: Principal
    serving: asyncio.Task[None] | None = None
    may_end: bool = False
    ever_blocked: bool = False
    order: Order | None = None
    read: int = 0
    texts: int = 0
    place: tuple[Life, int] | None = None
    gap_due: bool = False

    @property
    def open(self) -> bool:
        return self.serving is not None and not self.serving.done()


@dataclass
class Order:
    """That a connection has to go: where it stands in the log, with which code, until when, and whether it is the only
    reason that the connection has."""

    life: Life
    place: int
    code: CloseCode
    until: float
    only: bool


class DeafLog(SuspendingLog):
    """Loses every second wake-up, as a network may."""

    def watch(self, log: LogName, wake: Callable[[], None]) -> Callable[[], None]:
        heard = cycle((True, False))
        return super().watch(log, lambda: wake() if next(heard) else None)


LOGS: dict[str, Callable[[LogStore], LogStore]] = {
    "in memory": lambda store: store,
    "that suspends": lambda store: SuspendingLog(store, turns=3),
    "that loses wake-ups": DeafLog,
}


class EverythingThatHappens(RuleBasedStateMachine):
    """The machine, over one of `LOGS`. `patience` is how long a connection may take to see everything."""

    def __init__(self, log: str, patience: float) -> None:
        super().__init__()
        self.patience = patience
        self.loop = VirtualLoop()
        self.now = 1_000.0
        self.wall = 1_795_000_000
        random = Random(0)
        store: LogStore = MemoryLog(RETENTION, monotonic=lambda: self.now, entropy=random.randbytes)
        self.log = FailingLog(LOGS[log](store))
        self.metrics = Metrics()
        self.manager = UnifiedWebSocketManager(
            self.log,
            limits=LIMITS,
            retention=RETENTION,
            metrics=self.metrics,
            clock=lambda: float(self.wall),
            monotonic=lambda: self.now,
            entropy=random.randbytes,
            rng=random,
        )
        self.ledger: dict[str, str] = {}
        self.lives = {user: [Life(user, 0)] for user in USERS}
        self.epochs: dict[str, Life] = {}
        self.clients: list[Client] = []
        self.links: list[Link] = []
        self.revoked: dict[str, list[Principal]] = {user: [] for user in USERS}
        self.sound = True
        self.do(self.manager.__aenter__())
        self.sound = True

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        self.sound = False
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        try:
            if self.sound:
                for link in self.links:
                    self.set_blocked(link, False)
                self.everything_arrives()
        finally:
            left = self.do(self.end())
            self.loop.close()
        assert not left, f"tasks outlive the manager: {left}"

    async def end(self) -> list[asyncio.Task[Any]]:
        """End everything; the tasks that the manager left behind."""
        for link in self.links:
            link.socket.client_leaves()
        await self.manager.shutdown()
        await asyncio.sleep(0)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        return left

    # -- the model

    def life(self, user: str) -> Life:
        return self.lives[user][-1]

    def note_epoch(self, user: str, epoch: str) -> None:
        """An epoch is the name of one life of one user."""
        life = self.life(user)
        if epoch not in self.epochs and life.epoch is None:
            life.epoch = epoch
            self.epochs[epoch] = life

    def placed(self, user: str, cursor: str) -> tuple[Life, int]:
        """Where a cursor stands that the server gave to this user."""
        position = decode_cursor(cursor)
        self.note_epoch(user, position.epoch)
        life = self.epochs[position.epoch]
        assert life.user == user, "a cursor of another user's log was given out"
        assert self.is_true(user, cursor), "a cursor was given out that names no place"
        return life, position.offset

    def is_true(self, user: str, cursor: str) -> bool:
        """Whether the cursor names a place in a life of this user."""
        position = decode_cursor(cursor)
        life = self.epochs.get(position.epoch)
        if life is None or life.user != user or position.offset > len(life.told):
            return False
        return cursor == (life.told[position.offset - 1].cursor if position.offset else f"{life.epoch}.0.")

    def tell(self, told: Told, user: str, position: Position) -> None:
        """An append was acknowledged: it is the next of the user's events, or one that is retained already."""
        self.note_epoch(user, position.epoch)
        life = self.life(user)
        assert self.epochs[position.epoch] is life, "an append went to another log, or to one that is gone"
        told.cursor = encode_cursor(position)
        oldest = life.oldest(told.at)
        known = [held for held in life.told[oldest - 1 :] if held.event_id == told.event_id]
        if known:
            assert told.cursor == known[0].cursor, "an event that is retained was appended again"
        else:
            assert position.offset == len(life.told) + 1, "the offsets have a hole, or one was used twice"
            life.told.append(told)

    # -- what connections received

    @invariant()
    def nobody_has_received_anything_but_their_own_in_order_and_once(self) -> None:
        for link in self.links:
            for text in link.socket.texts[link.texts :]:
                owners = {self.ledger[token] for token in re.findall(r"token-\d+", text)}
                assert owners <= {link.client.user}, f"{link.client.user} was sent an event of {owners}"
            link.texts = len(link.socket.texts)
            while link.read < len(link.socket.frames):
                self.follow(link, link.socket.frames[link.read])
                link.read += 1
            assert link.open or link.may_end, f"a connection ended by itself with {link.socket.close_code}"
            assert link.socket.close_code != CloseCode.INTERNAL
            if (order := link.order) is not None:
                assert not link.open or self.loop.time() <= order.until, "a connection stays that was ordered to go"
                assert link.open or not order.only or link.socket.close_code == order.code
        assert self.metrics.isolation_violations == 0
        self.sound = True

    def follow(self, link: Link, frame: dict[str, Any]) -> None:
        """Move the connection to where this frame puts it."""
        if link.read == 0:
            self.greeted(link, frame)
        elif frame["type"] == "gap":
            self.gapped(link, frame)
        else:
            assert not link.gap_due, "the gap does not come first"
            if frame["type"] == "note":
                self.received(link, frame)
            elif frame["type"] == "ping":
                self.stepped(link, frame)
            else:
                assert frame["type"] == "pong"
        link.client.cursor = frame.get("cursor", link.client.cursor)

    def greeted(self, link: Link, frame: dict[str, Any]) -> None:
        """Between the call of `connect_user` and this first read, more may have happened: see `Link.oldest`."""
        user, given = link.client.user, link.given
        assert frame["type"] == "connected"
        assert (frame["user_id"], frame["connection_id"]) == (user, link.client.tab)
        if given not in (None, "latest"):
            assert given == frame["cursor"], "a client stands where its cursor is until it is told a gap"
            if not frame["resumed"]:
                link.gap_due = True
                return
            assert self.is_true(user, str(given)), "a cursor was honoured that names no place of this user"
        life, place = link.place = self.placed(user, frame["cursor"])
        same_life = life is link.life
        if given is None:
            assert not frame["resumed"]
            oldest = life.oldest(self.now)
            assert not same_life or link.oldest <= place + 1 <= oldest, "it does not start at the oldest event"
        elif given == "latest":
            assert not frame["resumed"]
            assert not same_life or place >= link.head, "it does not start at the end"
        else:
            assert not same_life or place + 1 >= link.oldest, "events after the cursor are gone, and no gap is told"

    def gapped(self, link: Link, frame: dict[str, Any]) -> None:
        stood, link.place = link.place, self.placed(link.client.user, frame["cursor"])
        life, place = link.place
        assert place + 1 <= life.oldest(self.now), "the gap passes over events that are retained"
        if link.gap_due:
            self.gapped_at_the_start(link, frame["reason"], life, place)
        else:
            assert stood is not None
            before, seen = stood
            if life is before:
                assert frame["reason"] == "trimmed"
                assert place > seen, "a needless gap: all that follows is retained"
            else:
                assert frame["reason"] == "new_epoch"
                assert life.number > before.number, "a life came back"
        link.gap_due = False

    def gapped_at_the_start(self, link: Link, reason: str, life: Life, place: int) -> None:
        """The cursor that the client came with was not honoured."""
        epoch, offset, _mark = decode_cursor(link.given)
        assert (reason == "new_epoch") == (self.epochs.get(epoch) is not life)
        if link.given_was_true and self.epochs.get(epoch) is life:
            assert (reason, place > offset) == ("trimmed", True), "a needless gap"

    def received(self, link: Link, frame: dict[str, Any]) -> None:
        assert link.place is not None
        client, (life, seen) = link.client, link.place
        token = frame["data"]["token"]
        assert self.ledger[token] == client.user
        places = [place for place, told in enumerate(life.told, 1) if told.token == token]
        assert places, "an event of another life came without a gap, or one that was a retry of another"
        told = life.told[places[0] - 1]
        assert client.may_see(told), "an event for another tab or of another thread"
        assert places[0] > seen, "an event came twice, or out of order"
        if (order := link.order) is not None:
            assert life is not order.life or places[0] < order.place, "an event came after the order to go"
            assert life is order.life or life.number < order.life.number or order.code != CloseCode.REVOKED
        skipped = [held for held in life.told[seen : places[0] - 1] if client.may_see(held)]
        assert not skipped, f"{len(skipped)} events are missing, and no gap was told"
        assert (frame["id"], frame["cursor"]) == (told.event_id, told.cursor)
        assert frame["user_id"] == client.user
        assert frame.get("thread_id") == told.thread
        if link.resumes:
            assert token not in client.tokens, "a client that resumed with its last cursor got an event again"
        client.tokens.append(token)
        link.place = (life, places[0])

    def stepped(self, link: Link, frame: dict[str, Any]) -> None:
        """A ping tells the connection's own place, which may be behind events that it may not see."""
        assert link.place is not None
        life, seen = link.place
        now, place = self.placed(link.client.user, frame["cursor"])
        assert now is life
        assert place >= seen
        skipped = [held for held in life.told[seen:place] if link.client.may_see(held)]
        assert not skipped, "a ping passed over events that were not sent"
        link.place = (life, place)

    def has_everything(self, link: Link) -> bool:
        if link.place is None or link.gap_due:
            return False
        life, seen = link.place
        left = [told for told in life.told[seen:] if link.client.may_see(told)]
        return life is self.life(link.client.user) and not left

    @rule()
    def everything_arrives(self) -> None:
        """Every connection whose client reads has, in the end, all there is to see."""

        async def arrive() -> None:
            deadline = self.loop.time() + self.patience
            while True:
                self.nobody_has_received_anything_but_their_own_in_order_and_once()
                late = [
                    link
                    for link in self.links
                    if link.open and (link.order is not None or (not link.may_end and not self.has_everything(link)))
                ]
                if not late:
                    return
                assert self.loop.time() < deadline, f"{len(late)} connections wait for events in vain"
                await asyncio.sleep(0.25)

        self.do(arrive())

    # -- emitting

    def new_event(self, user: str, tab: str | None = None, thread: str | None = None, again: int | None = None) -> Told:
        """An event to be emitted, or the retry of an earlier one: the same id, and a payload that must not count.

        All users' events have the same ids in the same order, so that nothing but the log tells them apart.
        """
        token = f"token-{len(self.ledger)}"
        self.ledger[token] = user
        ever = sum(len(life.told) for life in self.lives[user])
        if again is None:
            return Told(f"e{ever}-{len(self.ledger)}" if ever % 2 else f"e{ever}", token, tab, thread, self.now, "")
        earlier = [told for life in self.lives[user] for told in life.told if told.token][-8:]
        first = earlier[again % len(earlier)]
        return Told(first.event_id, token, first.tab, first.thread, self.now, "")

    async def emit(self, user: str, told: Told) -> None:
        try:
            position = await self.manager.get_emitter(user).emit(
                "note",
                {"token": told.token},
                event_id=told.event_id,
                thread_id=told.thread,
                connection_id=told.tab,
            )
        except UnknownConnection:
            there = [link for link in self.links if (link.client.user, link.client.tab) == (user, told.tab)]
            assert not any(link.open and not link.may_end for link in there), "an open connection is unknown"
        else:
            self.tell(told, user, position)

    @initialize(counts=st.tuples(*[st.integers(0, 7) for _ in USERS]))
    def something_was_emitted_before(self, counts: tuple[int, ...]) -> None:
        for user, count in zip(USERS, counts, strict=True):
            for _ in range(count):
                self.do(self.emit(user, self.new_event(user)))

    @rule(user=st.sampled_from(USERS), thread=st.sampled_from(THREADS))
    def emit_one(self, user: str, thread: str | None) -> None:
        self.do(self.emit(user, self.new_event(user, thread=thread)))

    @rule(user=st.sampled_from(USERS), tab=st.sampled_from(TABS), thread=st.sampled_from(THREADS))
    def emit_to_one_tab(self, user: str, tab: str, thread: str | None) -> None:
        self.do(self.emit(user, self.new_event(user, tab, thread)))

    @rule(user=st.sampled_from(USERS), count=st.integers(2, 9), thread=st.sampled_from(THREADS))
    def emit_more_than_fits(self, user: str, count: int, thread: str | None) -> None:
        async def burst() -> None:
            for _ in range(count):
                await self.emit(user, self.new_event(user, thread=thread))

        self.do(burst())

    @rule(count=st.integers(1, 3))
    def emit_to_all_at_once(self, count: int) -> None:
        async def one_after_the_other(user: str) -> None:
            for _ in range(count):
                await self.emit(user, self.new_event(user))

        async def all_users() -> None:
            await asyncio.gather(*[one_after_the_other(user) for user in USERS])

        self.do(all_users())

    @rule(user=st.sampled_from(USERS), which=ANY)
    def emit_again_with_the_same_id(self, user: str, which: int) -> None:
        if any(told.token for life in self.lives[user] for told in life.told):
            self.do(self.emit(user, self.new_event(user, again=which)))

    @rule(user=st.sampled_from(USERS), failures=st.integers(1, 4), reply_lost=st.booleans())
    def emit_through_failures(self, user: str, failures: int, reply_lost: bool) -> None:
        self.log.fail_appends(failures, reply_lost=reply_lost)
        self.do(self.emit(user, self.new_event(user)))

    @rule(user=st.sampled_from(USERS), turns=st.integers(0, 5))
    def cancel_an_emit_and_emit_it_again(self, user: str, turns: int) -> None:
        told = self.new_event(user)

        async def cancel() -> None:
            emitting = asyncio.create_task(
                self.manager.get_emitter(user).emit("note", {"token": told.token}, event_id=told.event_id)
            )
            for _ in range(turns):
                await asyncio.sleep(0)
            emitting.cancel()
            await asyncio.wait([emitting])
            await self.emit(user, told)

        self.do(cancel())

    # -- connecting

    def principal(self, user: str, tab: str) -> Principal:
        """Who logged in after everything that was revoked until now. The tabs of one name share a token."""
        return Principal(user, token_id=f"token of {tab} at {self.wall}", claims={"iat": self.wall})

    async def connect(self, client: Client, cursor: str | None, *, v1: bool, resumes: bool = False) -> None:
        life = self.life(client.user)
        true = cursor not in (None, "latest") and self.is_true(client.user, str(cursor))
        socket = FakeSocket(subprotocol=PROTOCOL if v1 else None)
        place = life.oldest(self.now), len(life.told)
        principal = self.principal(client.user, client.tab)
        link = Link(client, socket, cursor, true, life, *place, resumes=resumes, principal=principal)
        for other in self.links:
            other.may_end |= (other.client.user, other.client.tab) == (client.user, client.tab)
        connection = await self.manager.connect_user(
            socket, client.user, client.tab, principal=principal, cursor=cursor, only_thread=client.thread
        )
        link.serving = self.loop.create_task(connection.serve())
        self.links.append(link)

    def cursors_of(self, user: str) -> list[str]:
        """Every true cursor of a user's log, old ones included."""
        lives = [life for life in self.lives[user] if life.epoch is not None]
        return [cursor for life in lives for cursor in (f"{life.epoch}.0.", *[told.cursor for told in life.told])]

    def new_connection(self, tab: tuple[str, str], thread: str | None, cursor: str | None, v1: bool) -> None:
        client = Client(*tab, thread)
        self.clients.append(client)
        self.do(self.connect(client, cursor, v1=v1))

    @rule(tab=ANY_TAB, thread=st.sampled_from(THREADS), cursor=st.sampled_from([None, "latest"]), v1=st.booleans())
    def connect_anew(self, tab: tuple[str, str], thread: str | None, cursor: str | None, v1: bool) -> None:
        self.new_connection(tab, thread, cursor, v1)

    @rule(tab=ANY_TAB, thread=st.sampled_from(THREADS), which=ANY, v1=st.booleans())
    def connect_with_any_old_cursor(self, tab: tuple[str, str], thread: str | None, which: int, v1: bool) -> None:
        if own := self.cursors_of(tab[0]):
            self.new_connection(tab, thread, own[-1 - which % len(own)], v1)

    @rule(tab=ANY_TAB, other=st.sampled_from(USERS), which=ANY, v1=st.booleans())
    def connect_with_the_cursor_of_another_user(self, tab: tuple[str, str], other: str, which: int, v1: bool) -> None:
        if other != tab[0] and (others := self.cursors_of(other)):
            self.new_connection(tab, None, others[-1 - which % len(others)], v1)

    @rule(tab=ANY_TAB, mark=st.sampled_from(["invented", "of another entry"]), which=ANY, v1=st.booleans())
    def connect_with_another_mark(self, tab: tuple[str, str], mark: str, which: int, v1: bool) -> None:
        if told := self.life(tab[0]).told:
            epoch, offset, _ = decode_cursor(told[-1 - which % len(told)].cursor)
            mark = mark if mark == "invented" else told[which % len(told)].event_id
            self.new_connection(tab, None, encode_cursor(Position(epoch, offset, mark)), v1)

    @rule(tab=ANY_TAB, epoch=st.sampled_from(["invented", *USERS]), which=ANY, v1=st.booleans())
    def connect_with_another_epoch(self, tab: tuple[str, str], epoch: str, which: int, v1: bool) -> None:
        if own := self.cursors_of(tab[0]):
            cursor = decode_cursor(own[-1 - which % len(own)])
            epoch = self.life(epoch).epoch or "unknown" if epoch in USERS else epoch
            self.new_connection(tab, None, encode_cursor(cursor._replace(epoch=epoch)), v1)

    @rule(tab=ANY_TAB, ahead=st.integers(1, 9), v1=st.booleans())
    def connect_with_a_cursor_ahead_of_everything(self, tab: tuple[str, str], ahead: int, v1: bool) -> None:
        if own := self.cursors_of(tab[0]):
            epoch, offset, mark = decode_cursor(own[-1])
            self.new_connection(tab, None, encode_cursor(Position(epoch, offset + ahead, mark or "e0")), v1)

    @precondition(lambda self: self.clients)
    @rule(which=ANY, v1=st.booleans(), emits=st.integers(0, 6))
    def cut_and_resume_while_events_flow(self, which: int, v1: bool, emits: int) -> None:
        client = self.clients[-1 - which % len(self.clients)]
        for link in self.links:
            if link.client is client:
                self.cut(link)
        self.nobody_has_received_anything_but_their_own_in_order_and_once()

        async def flow() -> None:
            for _ in range(emits):
                await self.emit(client.user, self.new_event(client.user))

        async def both() -> None:
            resumed = client.cursor is not None
            await asyncio.gather(flow(), self.connect(client, client.cursor, v1=v1, resumes=resumed))

        self.do(both())

    def cut(self, link: Link) -> None:
        link.may_end = True
        if link.order is not None:
            link.order.only = False
        link.socket.client_leaves()

    @precondition(lambda self: self.links)
    @rule(which=ANY)
    def a_client_goes(self, which: int) -> None:
        self.cut(self.links[-1 - which % len(self.links)])

    def set_blocked(self, link: Link, blocked: bool) -> None:
        if blocked:
            link.may_end = link.ever_blocked = True  # whoever takes nothing for too long is given up
            link.socket.block()
            if link.order is not None:
                link.order.only = False
                link.order.until += LIMITS.sweep_interval
        else:
            link.socket.unblock()

    @precondition(lambda self: self.links)
    @rule(which=ANY, blocked=st.booleans())
    def a_client_stops_or_starts_reading(self, which: int, blocked: bool) -> None:
        self.set_blocked(self.links[-1 - which % len(self.links)], blocked)

    @rule(user=st.sampled_from(USERS), tab=st.sampled_from((None, *TABS)))
    def disconnect(self, user: str, tab: str | None) -> None:
        concerned = [link for link in self.links if link.client.user == user and tab in (None, link.client.tab)]
        self.do(self.order(user, self.manager.disconnect_user(user, tab), concerned, CloseCode.DISCONNECTED))

    @precondition(lambda self: self.links)
    @rule(which=ANY, everything=st.booleans())
    def revoke(self, which: int, everything: bool) -> None:
        """All that the user of a connection has, or only the token that it came with."""
        chosen = self.links[-1 - which % len(self.links)].principal
        concerned = [
            link
            for link in self.links
            if link.principal.user_id == chosen.user_id and (everything or link.principal.token_id == chosen.token_id)
        ]
        self.revoked[chosen.user_id] += [link.principal for link in concerned]
        revoking = self.manager.revoke(chosen.user_id, None if everything else chosen.token_id)
        self.do(self.order(chosen.user_id, revoking, concerned, CloseCode.REVOKED))
        self.wall += 1

    async def order(self, user: str, giving: Coroutine[Any, Any, None], concerned: list[Link], code: CloseCode) -> None:
        """Give an order; it takes the next place of the user's list."""
        self.nobody_has_received_anything_but_their_own_in_order_and_once()
        place = len(self.life(user).told) + 1
        for link in concerned:
            if link.order is None:
                until = self.loop.time() + GONE + LIMITS.sweep_interval * link.ever_blocked
                link.order = Order(self.life(user), place, code, until, only=not link.may_end)
            link.may_end = True
        await giving
        head = await self.manager.head(user)
        assert head.offset == place, "an order takes one place"
        self.tell(Told(head.mark, "", CONTROL, None, self.now, ""), user, head)

    @rule(user=st.sampled_from(USERS), which=ANY, v1=st.booleans())
    def connect_with_what_was_revoked(self, user: str, which: int, v1: bool) -> None:
        if revoked := self.revoked[user]:
            self.do(self.is_refused(revoked[-1 - which % len(revoked)], v1=v1))

    async def is_refused(self, principal: Principal, *, v1: bool) -> None:
        socket = FakeSocket(subprotocol=PROTOCOL if v1 else None)
        with pytest.raises(ConnectionRefused):
            await self.manager.connect_user(socket, principal.user_id, "revoked", principal=principal)
        assert (socket.close_code, socket.frames) == (CloseCode.REVOKED, [])

    @rule(tab=ANY_TAB, cursor=st.sampled_from([None, "latest"]), v1=st.booleans(), turns=st.integers(0, 9))
    def revoke_while_connecting(self, tab: tuple[str, str], cursor: str | None, v1: bool, turns: int) -> None:
        """With the credential that is revoked: it is refused, or ended by the order."""
        client = Client(*tab, None)
        concerned = [link for link in self.links if link.client.user == client.user]
        self.revoked[client.user] += [self.principal(*tab), *[link.principal for link in concerned]]
        place = len(self.life(client.user).told) + 1

        async def connect() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            with contextlib.suppress(ConnectionRefused):
                await self.connect(client, cursor, v1=v1)

        async def both() -> None:
            known = len(self.links)
            revoking = self.order(client.user, self.manager.revoke(client.user), concerned, CloseCode.REVOKED)
            await asyncio.gather(revoking, connect())
            for link in self.links[known:]:
                until = self.loop.time() + max(GONE, self.patience)
                link.order = Order(self.life(client.user), place, CloseCode.REVOKED, until, only=False)
                link.may_end = True

        self.do(both())
        self.wall += 1

    # -- what happens to the log and to time

    @rule(seconds=st.sampled_from([RETENTION.age / 2, RETENTION.age + 1]), expire=st.booleans())
    def events_grow_old(self, seconds: float, expire: bool) -> None:
        self.now += seconds
        if expire:
            self.do(self.log.expire())

    @rule(seconds=st.sampled_from([0.5, LIMITS.heartbeat + 1]))
    def the_loop_goes_on(self, seconds: float) -> None:
        self.do(asyncio.sleep(seconds))

    @rule(user=st.sampled_from(USERS), entirely=st.booleans())
    def lose_the_log(self, user: str, entirely: bool) -> None:
        head = self.do(self.manager.head(user))
        self.note_epoch(user, head.epoch)
        assert encode_cursor(head) == self.cursors_of(user)[-1], "the head is not the last event"
        if entirely:
            for link in self.links:
                link.may_end |= link.client.user == user

        async def lose() -> None:
            # What was read before is judged by the old life, so it begins and ends between two steps of the loop.
            await asyncio.sleep(0.25)
            self.nobody_has_received_anything_but_their_own_in_order_and_once()
            self.lives[user].append(Life(user, len(self.lives[user])))
            await (self.manager.delete_user(user) if entirely else self.log.forget(LogName.of_user(UserId(user))))

        self.do(lose())

    @rule()
    def restart_the_manager(self) -> None:
        """A shutdown delivers what was emitted before it."""
        reading = [link for link in self.links if link.open and not link.may_end]
        for link in self.links:
            link.may_end = True
        self.do(self.manager.shutdown())
        self.nobody_has_received_anything_but_their_own_in_order_and_once()
        for link in reading:
            assert link.socket.close_code == CloseCode.RESTARTING
            assert self.has_everything(link), "a shutdown left events behind"
        assert not any(link.open for link in self.links)
        self.do(self.manager.__aenter__())


def run_through(log: str, *, patience: float, examples: int) -> None:
    def machine() -> EverythingThatHappens:
        return EverythingThatHappens(log, patience)

    machine.__name__ = f"{log}, {patience}"  # what the seed is made of
    run_state_machine_as_test(
        machine,  # type: ignore[arg-type]  # it takes any factory
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            derandomize=True,
            database=None,
            deadline=None,
            phases=PHASES,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("log", LOGS)
def test_everybody_sees_their_own_events_in_order_and_once_or_is_told_of_a_gap(log: str) -> None:
    """Also when wake-ups are lost: every heartbeat reads."""
    run_through(log, patience=AT_LAST, examples=100)


@pytest.mark.parametrize("log", ["in memory", "that suspends"])
def test_nobody_waits_for_a_heartbeat_while_wake_ups_come(log: str) -> None:
    """No wake-up is lost between the log and a socket, whatever a connection is doing when it comes."""
    run_through(log, patience=AT_ONCE, examples=100)
