"""Promise: whoever is revoked is out, everywhere, within two seconds, and is sent nothing that came later; and whoever
is not meant notices nothing.

A revocation is an order in the user's own log, among its events. So the tests look from two sides: from the process
that revokes, and from another one that shares log and deny-list with it and learns of it by reading only.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support import (
    FakeSocket,
    Tab,
    TroubledLog,
    VirtualLoop,
    a_manager,
    entries_of,
    quick_retry,
    turns,
    until,
    virtual_time,
)
from websocket_core.control import CONTROL, Order, control_event
from websocket_core.errors import AppendFailed, ConnectionRefused, InvalidInput, LogUnavailable
from websocket_core.identity import LogName, Principal, UserId
from websocket_core.limits import Limits, Retention
from websocket_core.log import Batch, LogStore, Position
from websocket_core.logs.memory import MemoryLog
from websocket_core.state import MemoryState
from websocket_core.testing import SuspendingLog
from websocket_core.unified_manager import UnifiedWebSocketManager
from websocket_core.wire import CLOSE_RULES, PROTOCOL, CloseCode, decode_cursor, encode_cursor

SHOWN = {"connected", "ping", "pong", "gap", "ack", "error", "custom", "message_delta"}
"""The types of frame that a client may be sent in these tests."""
WITHIN = 2.0
"""Seconds."""

WHERE = pytest.mark.parametrize("where", ["this process", "another process"])
SPEAKS = pytest.mark.parametrize("v1", [False, True], ids=["plain", "v1"])


# -- what the tests are made of


class State(MemoryState):
    """A deny-list that can be away, and that can be held up on either side of an answer."""

    def __init__(self, **options: Any) -> None:
        options = {"age": 3_600.0, "per_user": 100} | options
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        super().__init__(clock=loop.wall_clock, monotonic=loop.time, **options)
        self.away = False
        self.asked = 0
        self.before: Callable[[], Awaitable[None]] | None = None
        self.after: Callable[[], Awaitable[None]] | None = None

    async def deny(self, user_id: UserId, token_id: str | None, *, issued_until: float, until: float) -> None:
        if self.away:
            raise LogUnavailable("told to be away")
        await super().deny(user_id, token_id, issued_until=issued_until, until=until)

    async def denied(self, user_id: UserId, token_id: str | None, issued_at: float | None) -> bool:
        self.asked += 1
        if self.away:
            raise LogUnavailable("told to be away")
        if self.before is not None:
            await self.before()
        answer = await super().denied(user_id, token_id, issued_at)
        if self.after is not None:
            await self.after()
        return answer


class GatedLog(TroubledLog):
    """Reads of one user's log wait while the gate is shut, before or after they have read."""

    def __init__(self, retention: Retention | None = None) -> None:
        super().__init__(retention)
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0
        self.gate_first = True

    async def read(self, log: LogName, after: Position | None, limit: int) -> Batch:
        if log.name != "alice":
            return await super().read(log, after, limit)
        batch = None if self.gate_first else await super().read(log, after, limit)
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1
        return batch or await super().read(log, after, limit)


class SlowSocket(FakeSocket):
    """Takes a while for each frame, and takes all of them."""

    async def send_text(self, data: str) -> None:
        await asyncio.sleep(0.05)
        await super().send_text(data)


class Processes:
    """Two managers that share a log and a deny-list: `here` revokes, and `tabs_at` has the connections."""

    def __init__(self, here: UnifiedWebSocketManager, there: UnifiedWebSocketManager, log: Any, state: State) -> None:
        self.here = here
        self.there = there
        self.log = log
        self.state = state

    async def emit(self, n: Any, user: str = "alice", **options: Any) -> Position:
        return await self.here.get_emitter(user).emit("custom", {"n": n}, **options)

    async def order_offsets(self, user: str = "alice") -> list[int]:
        return [entry.offset for entry in await entries_of(self.log, user) if entry.event.connection_id == CONTROL]


@asynccontextmanager
async def processes(
    where: str = "another process", log: LogStore | None = None, state: State | None = None, **options: Any
) -> AsyncIterator[Processes]:
    log = log or TroubledLog()
    state = state or State()
    async with a_manager(log, state=state, **options) as here:
        if where == "this process":
            yield Processes(here, here, log, state)
            return
        async with a_manager(log, state=state, **options) as there:
            yield Processes(here, there, log, state)


def wall_clock() -> float:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop.wall_clock()


def issued(user: str = "alice", token_id: str | None = None, *, ago: float = 0.0, **options: Any) -> Principal:
    """Who brings a token that was issued so many seconds ago."""
    return Principal(user, token_id=token_id, claims={"iat": wall_clock() - ago}, **options)


async def a_tab(manager: UnifiedWebSocketManager, principal: Principal | None = None, **options: Any) -> Tab:
    principal = principal or issued()
    return await Tab.open(manager, str(principal.user_id), principal=principal, **options)


async def refused(manager: UnifiedWebSocketManager, principal: Principal, **options: Any) -> FakeSocket:
    """The socket of a connection that is refused with 4410, before it was shown anything."""
    socket = FakeSocket()
    with pytest.raises(ConnectionRefused) as caught:
        await manager.connect_user(socket, str(principal.user_id), principal=principal, **options)
    assert caught.value.code == socket.close_code == 4410
    assert socket.texts == []
    return socket


async def ends(tab: Tab, within: float = WITHIN) -> None:
    _done, late = await asyncio.wait([tab.serving], timeout=within + 0.01)
    assert not late, f"the connection did not end within {within} s"
    await tab.serving


async def ends_with(tab: Tab, code: int, within: float = WITHIN) -> None:
    await ends(tab, within)
    assert tab.socket.close_code == code
    assert tab.socket.close_reason == CLOSE_RULES[CloseCode(code)].reason
    shows_no_order(tab)


def shows_no_order(*tabs: Tab) -> None:
    for tab in tabs:
        assert {frame["type"] for frame in tab.socket.frames} <= SHOWN
        assert not any("order" in frame or CONTROL in text for frame in tab.socket.frames for text in tab.socket.texts)


# -- everybody who is meant, and nobody else


@WHERE
@virtual_time
async def test_a_revoked_user_is_out_everywhere_within_two_seconds(where: str) -> None:
    async with processes(where) as both:
        await both.emit(0, thread_id="t")
        first = await both.here.head("alice")
        hers = [
            await a_tab(both.there),
            await a_tab(both.there, v1=True),
            await a_tab(both.there, connection_id="named"),
            await a_tab(both.there, cursor=encode_cursor(first)),
            await a_tab(both.there, cursor="latest"),
            await a_tab(both.there, only_thread="t"),
            await a_tab(both.there, issued(token_id="t1", ago=1_000.0, expires_at=wall_clock() + 900)),
            await a_tab(both.there, Principal("alice")),
        ]
        others = [
            await a_tab(both.there, issued(user), v1=v1)
            for user in ("bob", "Alice", "alice ", "alic", "alice:", "a")
            for v1 in (False, True)
        ]
        await both.emit(1, thread_id="t")
        for tab, expected in zip(hers, ([0, 1], [0, 1], [0, 1], [1], [1], [0, 1], [0, 1], [0, 1]), strict=True):
            await tab.has(len(expected))
            assert tab.numbers == expected
        began = asyncio.get_running_loop().time()
        await both.here.revoke("alice")
        await both.emit("later", thread_id="t")
        for tab in hers:
            await ends_with(tab, 4410)
            assert "later" not in tab.numbers
        assert asyncio.get_running_loop().time() - began <= WITHIN
        assert both.there.get_stats()["total_connections"] == len(others)
        for tab in others:
            await both.emit("still here", tab.connection.user_id)
        for tab in others:
            assert (await tab.has(2))[0]["user_id"] == tab.connection.user_id
            assert tab.connection.state == "open"
        shows_no_order(*hers, *others)


@WHERE
@virtual_time
async def test_a_revoked_token_ends_the_connections_that_it_opened_and_no_others(where: str) -> None:
    """Somebody else's token of the same id included: an id is unique within its issuer, if that much."""
    async with processes(where) as both:
        meant = [await a_tab(both.there, issued(token_id="t1"), v1=v1) for v1 in (False, True, False)]
        spared = [
            await a_tab(both.there, issued(token_id="t2")),
            await a_tab(both.there, issued(token_id="t1 ")),
            await a_tab(both.there, issued(token_id="T1")),
            await a_tab(both.there, issued()),
            await a_tab(both.there, issued("bob", "t1")),
            await a_tab(both.there, issued("Alice", "t1")),
        ]
        await both.here.revoke("alice", "t1")
        for user in ("alice", "bob", "Alice"):
            await both.emit("later", user)
        for tab in meant:
            await ends_with(tab, 4410)
            assert tab.numbers == []
        for tab in spared:
            await tab.has(1)
            assert tab.connection.state == "open"
        shows_no_order(*spared)
        await refused(both.there, issued(token_id="t1"))
        for principal in (issued(token_id="t2"), issued("bob", "t1"), issued()):
            again = await a_tab(both.there, principal)
            await again.has(1)


@virtual_time
async def test_revoking_somebody_who_is_not_there_counts_for_when_they_come() -> None:
    async with processes() as both:
        old, other = issued(ago=10.0), issued("bob", ago=10.0)
        await both.here.revoke("alice")
        await refused(both.there, old)
        await (await a_tab(both.there, other)).greeted()


# -- nothing later, wherever the reader stands


@SPEAKS
@virtual_time
async def test_what_follows_the_order_in_the_same_batch_is_not_sent(v1: bool) -> None:
    log = TroubledLog()
    async with processes(log=log, limits=Limits(heartbeat=5.0)) as both:
        tab = await a_tab(both.there, v1=v1)
        await tab.greeted()
        log.deaf = True
        for n in range(3):
            await both.emit(n)
        await both.here.revoke("alice")
        for _ in range(3):
            await both.emit("later")
        await turns()
        assert tab.numbers == [], "no wake-up, so the whole is read at once"
        await ends_with(tab, 4410, within=5.0)
        assert tab.numbers == [0, 1, 2]


@SPEAKS
@virtual_time
async def test_deltas_around_the_order_are_not_joined_across_it(v1: bool) -> None:
    log = TroubledLog()
    async with processes(log=log, limits=Limits(heartbeat=5.0)) as both:
        tab = await a_tab(both.there, v1=v1)
        await tab.greeted()
        log.deaf = True

        async def delta(start: int, text: str) -> None:
            data = {"message_id": "m", "start": start, "text": text}
            await both.here.get_emitter("alice").emit("message_delta", data)

        await delta(0, "one ")
        await delta(4, "two ")
        await both.here.revoke("alice")
        await delta(8, "secret")
        await ends_with(tab, 4410, within=5.0)
        assert "".join(event["data"]["text"] for event in tab.events) == "one two "


@WHERE
@SPEAKS
@virtual_time
async def test_a_reader_that_is_far_behind_and_slow_is_out_in_time(where: str, v1: bool) -> None:
    """In the process that revokes it is not waited for until it comes to the order; in another one it comes to it."""
    log = TroubledLog()
    async with processes(where, log=log, limits=Limits(batch_events=8, batch_bytes=200)) as both:
        for n in range(100):
            await both.emit(n)
        tab = await a_tab(both.there, socket=SlowSocket(subprotocol=PROTOCOL if v1 else None))
        await tab.has(10)
        await both.here.revoke("alice")
        for _ in range(3):
            await both.emit("later")
        await ends_with(tab, 4410, within=WITHIN if where == "this process" else 10.0)
        assert tab.numbers == list(range(len(tab.numbers)))
        if where == "another process":
            assert len(tab.numbers) == 100


@WHERE
@SPEAKS
@virtual_time
async def test_a_reader_that_is_blocked_in_a_write_is_given_up(where: str, v1: bool) -> None:
    """No frame gets through to it, the close frame included, so its socket goes without a word."""
    async with processes(where) as both:
        tab = await a_tab(both.there, v1=v1)
        await tab.greeted()
        tab.socket.block()
        for n in range(5):
            await both.emit(n)
        await turns()
        await both.here.revoke("alice")
        await both.emit("later")
        within = WITHIN if where == "this process" else Limits().write_timeout + 1.0
        await ends(tab, within)
        assert tab.socket.close_code is None
        assert both.there.metrics.uncut == 1
        tab.socket.unblock()
        await both.emit("later")
        await asyncio.sleep(60)
        assert "later" not in tab.numbers
        await refused(both.there, issued(ago=60.0 + WITHIN + 15.0))


@virtual_time
async def test_a_connection_that_was_replaced_and_hangs_is_given_up_as_well() -> None:
    """It is on its way out already, and nobody counts it any more."""
    async with processes("this process") as both:
        hanging = await a_tab(both.here, connection_id="a")
        await hanging.greeted()
        hanging.socket.block()
        await both.emit(0)
        await turns()
        newer = await a_tab(both.here, connection_id="a")
        await newer.has(1)
        assert both.here.get_stats()["total_connections"] == 1
        await both.here.revoke("alice")
        await ends_with(newer, 4410)
        await ends(hanging)
        hanging.socket.unblock()
        await turns()
        assert hanging.numbers == []


@WHERE
@pytest.mark.parametrize("gate_first", [True, False], ids=["before it reads", "when it has read"])
@virtual_time
async def test_a_reader_that_is_suspended_in_a_read_sends_nothing_later(where: str, gate_first: bool) -> None:
    log = GatedLog()
    async with processes(where, log=log) as both:
        tab = await a_tab(both.there)
        await both.emit(0)
        await tab.has(1)
        log.gate.clear()
        log.gate_first = gate_first
        await both.emit(1)
        await until(lambda: log.waiting == 1, "the read")
        await both.here.revoke("alice")
        await both.emit("later")
        asyncio.get_running_loop().call_later(0.5, log.gate.set)
        await ends_with(tab, 4410)
        assert tab.numbers == [0, 1]


@virtual_time
async def test_a_reader_whose_read_does_not_return_is_out_in_time() -> None:
    """A store that hangs holds nobody in."""
    log = GatedLog()
    async with processes("this process", log=log) as both:
        tab = await a_tab(both.there)
        await tab.greeted()
        log.gate.clear()
        await both.emit(1)
        await until(lambda: log.waiting == 1, "the read")
        await both.here.revoke("alice")
        await ends(tab)
        log.gate.set()
        await asyncio.sleep(5)
        assert tab.numbers == []


CURSORS = pytest.mark.parametrize("cursor", ["none", "latest", "before", "invented"])


def cursor_of(name: str, position: Position) -> str | None:
    """A cursor of each kind that a client may come with."""
    invented = encode_cursor(Position("invented", 7, "invented"))
    return {"none": None, "latest": "latest", "before": encode_cursor(position), "invented": invented}[name]


@WHERE
@CURSORS
@virtual_time
async def test_who_is_revoked_between_authentication_and_registration_is_shown_nothing_later(
    where: str, cursor: str
) -> None:
    async with processes(where) as both:
        before = await both.emit(0)

        async def revoke_now() -> None:
            both.state.after = None
            await both.emit(1)
            await both.here.revoke("alice")
            await both.emit("later")

        both.state.after = revoke_now  # the answer was that all is well
        tab = await a_tab(both.there, issued(ago=1.0), cursor=cursor_of(cursor, before))
        await ends_with(tab, 4410)
        assert "later" not in tab.numbers


@virtual_time
async def test_who_is_revoked_in_that_moment_and_reads_slowly_is_out_in_time_all_the_same() -> None:
    """Nobody could tell it: it was not registered yet when the order was given."""
    async with processes("this process", limits=Limits(batch_events=8, batch_bytes=200)) as both:
        for n in range(100):
            await both.emit(n)

        async def revoke_now() -> None:
            both.state.after = None
            await both.here.revoke("alice")
            await both.emit("later")

        both.state.after = revoke_now
        tab = await a_tab(both.there, issued(ago=1.0), socket=SlowSocket())
        await ends_with(tab, 4410, within=WITHIN)
        assert 0 < len(tab.numbers) < 100


@WHERE
@CURSORS
@pytest.mark.parametrize("retention", [1, 2, 3])
@virtual_time
async def test_and_neither_if_the_order_is_trimmed_before_the_first_read(
    where: str, cursor: str, retention: int
) -> None:
    async with processes(where, log=TroubledLog(Retention(events=retention))) as both:
        before = await both.emit(0)

        async def revoke_now() -> None:
            both.state.after = None
            await both.here.revoke("alice")
            for _ in range(retention):
                await both.emit("later")

        both.state.after = revoke_now
        tab = await a_tab(both.there, issued(ago=1.0), cursor=cursor_of(cursor, before))
        assert await both.order_offsets() == []
        await ends_with(tab, 4410)
        assert "later" not in tab.numbers


@WHERE
@virtual_time
async def test_nobody_steps_over_the_order_with_a_cursor_that_was_guessed(where: str) -> None:
    """Offsets are counted and event ids may be the application's own, so a client can know what will come."""
    async with processes(where) as both:
        before = await both.emit(0)

        async def revoke_now() -> None:
            both.state.after = None
            await both.here.revoke("alice", "t1")
            await both.emit("later", event_id="known")
            await both.emit("later")

        both.state.after = revoke_now
        guessed = encode_cursor(Position(before.epoch, before.offset + 2, "known"))
        tab = await a_tab(both.there, issued(token_id="t1"), cursor=guessed)
        await ends_with(tab, 4410)
        assert tab.numbers == []


@virtual_time
async def test_who_is_revoked_while_the_deny_list_is_asked_is_refused() -> None:
    async with processes() as both:

        async def revoke_now() -> None:
            both.state.before = None
            await both.here.revoke("alice")

        both.state.before = revoke_now
        await refused(both.there, issued(ago=1.0))


@virtual_time
async def test_the_head_is_noted_before_the_deny_list_is_asked() -> None:
    """The other way round, an order that comes between the two would be taken for settled."""
    calls: list[str] = []

    class Log(MemoryLog):
        async def open(self, log: LogName) -> Position:
            calls.append("head")
            return await super().open(log)

    class Noting(State):
        async def denied(self, user_id: UserId, token_id: str | None, issued_at: float | None) -> bool:
            calls.append("deny-list")
            return await super().denied(user_id, token_id, issued_at)

    async with processes("this process", log=Log(), state=Noting()) as both:
        await a_tab(both.here)
        assert calls[:2] == ["head", "deny-list"]


@pytest.mark.parametrize("seed", range(12))
@virtual_time
async def test_at_whatever_moment_it_comes_nothing_behind_the_order_is_delivered(seed: int) -> None:
    """Tabs come, are cut and come again with the cursor they have, over a log and a deny-list that give up the loop at
    every call, while events flow and one revocation falls in between."""
    rng = random.Random(seed)
    log = TroubledLog(Retention(events=rng.choice([4, 20, 5_000])))
    options: dict[str, Any] = {"limits": Limits(connections_per_user=100, heartbeat=2.0)}
    async with processes(log=SuspendingLog(log), **options) as both:
        both.log = log

        async def pause() -> None:
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(rng.choice([0, 0, 0.001, 0.01]))

        both.state.before = both.state.after = pause
        old = [issued(token_id=f"t{n}", ago=1.0) for n in range(10)]
        whole_user = rng.random() < 0.5
        order: list[int] = []
        tabs: list[Tab] = []
        codes: list[int] = []

        async def flow() -> None:
            for n in range(120):
                await both.emit(n)
                await pause()

        async def come(principal: Principal) -> None:
            cursor: str | None = None
            for _ in range(6):
                manager = rng.choice([both.here, both.there])
                log.deaf = rng.random() < 0.2
                try:
                    tab = await a_tab(manager, principal, cursor=cursor, v1=rng.random() < 0.5)
                except ConnectionRefused as refusal:
                    codes.append(refusal.code)
                    return
                tabs.append(tab)
                await asyncio.sleep(rng.random() * 0.2)
                if tab.socket.frames:
                    cursor = rng.choice([tab.cursor, tab.socket.frames[0]["cursor"], None, "latest"])
                if rng.random() < 0.7:
                    await tab.cut()
                elif rng.random() < 0.5 and cursor not in (None, "latest"):
                    tab.socket.client_sends({"type": "ping", "cursor": cursor})

        async def revoke() -> None:
            await asyncio.sleep(rng.random() * 0.4)
            for _ in range(1 if whole_user else len(old)):
                await both.here.revoke("alice", None if whole_user else f"t{len(order)}")
                control = await log.control(LogName.of_user(UserId("alice")))
                assert control is not None
                order.append(control.offset)

        async with asyncio.TaskGroup() as group:
            group.create_task(flow())
            group.create_task(revoke())
            for principal in old:
                group.create_task(come(principal))
        log.deaf = False
        for tab in tabs:
            await ends(tab, 10.0)
        assert set(codes) <= {4410}
        for tab in tabs:
            bound = order[0 if whole_user else int(str(tab.connection.principal.token_id)[1:])]
            assert all(decode_cursor(event["cursor"]).offset < bound for event in tab.events)
            assert tab.socket.close_code in (4410, None)
        shows_no_order(*tabs)
        for principal in old:
            await refused(both.there, principal)
        assert both.here.metrics.isolation_violations == both.there.metrics.isolation_violations == 0


# -- coming back


@WHERE
@virtual_time
async def test_the_old_token_is_refused_with_whatever_cursor(where: str) -> None:
    async with processes(where) as both:
        positions = [await both.emit(n) for n in range(3)]
        old = issued(ago=5.0)
        tab = await a_tab(both.there, old)
        await tab.has(3)
        kept = tab.cursor
        await both.here.revoke("alice")
        await ends_with(tab, 4410)
        orders = await both.order_offsets()
        entries = await entries_of(both.log, "alice")
        control = next(entry.position for entry in entries if entry.offset == orders[0])
        later = await both.emit("later")
        invented = [Position("x", 0, ""), Position(later.epoch, 99, "x"), Position(later.epoch, 2, "x")]
        cursors = [encode_cursor(position) for position in [*positions, control, later, *invented]]
        for cursor in [None, "latest", kept, *cursors]:
            for v1 in (False, True):
                socket = FakeSocket(subprotocol=PROTOCOL if v1 else None)
                with pytest.raises(ConnectionRefused) as caught:
                    await both.there.connect_user(socket, "alice", principal=old, cursor=cursor)
                assert caught.value.code == socket.close_code == 4410
                assert socket.texts == []
        for principal in (Principal("alice"), Principal("alice", claims={"iat": "soon"}), issued(ago=4.9)):
            await refused(both.there, principal, cursor=kept)
        assert both.there.get_stats()["total_connections"] == 0


@WHERE
@virtual_time
async def test_a_newer_token_is_let_in_and_the_old_order_does_not_end_it(where: str) -> None:
    async with processes(where) as both:
        positions = [await both.emit(n) for n in range(3)]
        await both.here.revoke("alice")
        await both.here.revoke("alice", "t1")
        await both.emit(3)
        await asyncio.sleep(1.0)
        expected = {None: [0, 1, 2, 3], "latest": [], encode_cursor(positions[1]): [2, 3]}
        tabs = []
        for cursor, numbers in expected.items():
            for v1 in (False, True):
                tab = await a_tab(both.there, issued(token_id="t2"), cursor=cursor, v1=v1)
                tabs.append((tab, numbers))
        await turns()
        await both.emit(4)
        for tab, numbers in tabs:
            await tab.has(len(numbers) + 1)
            assert tab.numbers == [*numbers, 4]
        await asyncio.sleep(100)
        for tab, _ in tabs:
            assert tab.connection.state == "open"
            shows_no_order(tab)
        invented = encode_cursor(Position("invented", 7, "invented"))
        told = await a_tab(both.there, issued(), cursor=invented)
        await told.has(5)
        assert told.socket.of_type("gap"), "after a gap, the last order is looked at, and is known to be settled"
        assert told.connection.state == "open"


@virtual_time
async def test_a_denial_lasts_as_long_as_it_was_asked_to_and_no_repetition_shortens_it() -> None:
    async with processes() as both:
        old = issued(token_id="t1", ago=1.0)
        await both.here.revoke("alice", "t1", seconds=100.0)
        await both.here.revoke("alice", seconds=50.0)
        await both.here.revoke("alice", seconds=1.0)
        for seconds, is_refused in ((0.5, True), (49.0, True), (51.0, True), (98.0, True), (101.0, False)):
            await asyncio.sleep(max(0.0, seconds - (wall_clock() - old.claims["iat"] - 1.0)))  # type: ignore[operator]
            if is_refused:
                await refused(both.there, old)
            else:
                await (await a_tab(both.there, old)).greeted()
        await both.here.revoke("bob", seconds=50.0)
        await both.here.revoke("bob", seconds=1.0)
        await asyncio.sleep(49.0)
        await refused(both.there, issued("bob", ago=60.0))
        await asyncio.sleep(2.0)
        await (await a_tab(both.there, issued("bob", ago=60.0))).greeted()


@virtual_time
async def test_who_is_deleted_and_comes_again_is_still_revoked() -> None:
    async with processes("this process") as both:
        tab = await a_tab(both.here, issued(ago=1.0))
        await tab.greeted()
        await both.here.revoke("alice")
        await both.here.delete_user("alice")
        await tab.ended()
        await refused(both.here, issued(ago=1.0))
        await asyncio.sleep(1.0)
        await (await a_tab(both.here, issued())).greeted()


# -- orders that are retained no more


@SPEAKS
@pytest.mark.parametrize("defence", ["both", "the deny-list only", "the order only"])
@virtual_time
async def test_an_order_that_was_trimmed_ends_whoever_comes_to_the_gap(v1: bool, defence: str) -> None:
    """The log keeps its last order, and the deny-list is asked as well: either is enough."""
    log = TroubledLog(Retention(events=3))
    async with processes(log=log, limits=Limits(heartbeat=5.0)) as both:
        tab = await a_tab(both.there, issued(token_id="t1", ago=1.0), v1=v1)
        await both.emit(0)
        await tab.has(1)
        log.deaf = True
        await both.here.revoke("alice", "t1")
        if defence == "the deny-list only":
            await both.here.disconnect_user("alice", "somebody else")
        elif defence == "the order only":
            both.state._denials.clear()
        for n in range(10):
            await both.emit(f"later {n}")
        assert await both.order_offsets() == []
        await ends_with(tab, 4410, within=5.0)
        assert tab.numbers == [0]
        assert tab.socket.of_type("gap") == []


@virtual_time
async def test_after_a_gap_the_log_is_asked_for_its_last_order_also_when_it_aged_out() -> None:
    log = TroubledLog(Retention(age=60.0))
    async with processes(log=log, limits=Limits(heartbeat=100.0)) as both:
        tab = await a_tab(both.there, issued(ago=1.0))
        await both.emit(0)
        await tab.has(1)
        log.deaf = True
        await both.here.revoke("alice", seconds=1.0)
        await asyncio.sleep(70.0)
        await both.emit("later")
        log.deaf = False
        await both.emit("later")
        await ends_with(tab, 4410)
        assert tab.numbers == [0]


@virtual_time
async def test_a_gap_ends_nobody_who_is_not_meant() -> None:
    log = TroubledLog(Retention(events=3))
    async with processes(log=log, limits=Limits(heartbeat=5.0)) as both:
        tab = await a_tab(both.there, issued(token_id="t2"))
        await tab.greeted()
        log.deaf = True
        await both.here.revoke("alice", "t1")
        for n in range(10):
            await both.emit(n)
        await tab.has(3, seconds=6.0)
        assert tab.numbers == [7, 8, 9]
        assert [frame["reason"] for frame in tab.socket.of_type("gap")] == ["trimmed"]
        assert tab.connection.state == "open"


# -- what a client says cannot lead around the order


@pytest.mark.parametrize("claim", ["behind the order", "the order", "ahead", "invented", "long ago"])
@SPEAKS
@virtual_time
async def test_a_client_that_claims_to_stand_behind_the_order_is_ended_by_it_all_the_same(claim: str, v1: bool) -> None:
    log = TroubledLog()
    async with processes(log=log, limits=Limits(heartbeat=5.0)) as both:
        start = await both.emit(0)
        tab = await a_tab(both.there, issued(token_id="t1"), v1=v1)
        await tab.has(1)
        log.deaf = True
        await both.here.revoke("alice", "t1")
        later = [await both.emit(f"later {n}") for n in range(3)]
        control = next(entry for entry in await entries_of(log, "alice") if entry.event.connection_id == CONTROL)
        claimed = {
            "behind the order": later[0],
            "the order": control.position,
            "ahead": Position(start.epoch, 99, "x"),
            "invented": Position("invented", 3, "x"),
            "long ago": Position(start.epoch, 0, ""),
        }[claim]
        for _ in range(3):
            tab.socket.client_sends({"type": "ping", "cursor": encode_cursor(claimed)})
            await turns()
        await ends_with(tab, 4410, within=5.0)
        assert {number for number in tab.numbers if number != 0} == set()


# -- a token refreshed on the open socket


def tokens(known: dict[str, Principal]) -> Callable[[str], Awaitable[Principal]]:
    async def authenticate(token: str) -> Principal:
        await asyncio.sleep(0)
        return known[token]

    return authenticate


@virtual_time
async def test_a_refresh_with_a_revoked_token_ends_the_connection() -> None:
    async with processes() as both:
        known = {"revoked": issued(token_id="t1"), "fine": issued(token_id="t3")}
        tab = await a_tab(both.there, issued(token_id="t2"), authenticate=tokens(known))
        await both.here.revoke("alice", "t1")
        tab.socket.client_sends({"type": "auth", "token": "fine", "request_id": "q"})
        await tab.socket.wait_for(lambda socket: [f for f in socket.frames if f["type"] == "ack"])
        tab.socket.client_sends({"type": "auth", "token": "revoked", "request_id": "q"})
        await turns(50)
        await both.emit("later")
        await ends_with(tab, 4410)
        assert tab.numbers == []


@WHERE
@virtual_time
async def test_a_connection_is_judged_by_the_token_that_it_has_now(where: str) -> None:
    """After a refresh the first token may be revoked without harm to it; the second one ends it."""
    async with processes(where) as both:
        known = {"second": issued(token_id="t2")}
        tab = await a_tab(both.there, issued(token_id="t1"), authenticate=tokens(known))
        tab.socket.client_sends({"type": "auth", "token": "second"})
        await tab.socket.wait_for(lambda socket: [f for f in socket.frames if f["type"] == "ack"])
        await both.here.revoke("alice", "t1")
        await both.emit(1)
        await tab.has(1)
        await asyncio.sleep(10)
        assert tab.connection.state == "open"
        await both.here.revoke("alice", "t2")
        await both.emit("later")
        await ends_with(tab, 4410)
        assert tab.numbers == [1]


@WHERE
@pytest.mark.parametrize("moment", ["before the token was read", "before the deny-list answers", "after it answered"])
@pytest.mark.parametrize("revoked", [None, "t2"], ids=["the user", "the new token"])
@virtual_time
async def test_a_revocation_in_the_middle_of_a_refresh_is_not_escaped_by_it(
    where: str, moment: str, revoked: str | None
) -> None:
    async with processes(where) as both:

        async def revoke_now() -> None:
            both.state.before = both.state.after = None
            await both.here.revoke("alice", revoked)
            await both.emit("later")
            await turns(50)

        async def authenticate(_token: str) -> Principal:
            renewed = issued(token_id="t2")
            await asyncio.sleep(0.01)
            if moment == "before the token was read":
                await revoke_now()
            return renewed

        tab = await a_tab(both.there, issued(token_id="t1"), authenticate=authenticate)
        await tab.greeted()
        if moment == "before the deny-list answers":
            both.state.before = revoke_now
        elif moment == "after it answered":
            both.state.after = revoke_now
        tab.socket.client_sends({"type": "auth", "token": "x"})
        await ends_with(tab, 4410)
        assert tab.numbers == [] or revoked == "t2"


@SPEAKS
@virtual_time
async def test_who_is_being_sent_away_is_revoked_all_the_same(v1: bool) -> None:
    """A client that is told to come again would keep its cursor; and until then it would be sent the rest."""
    async with processes("this process", limits=Limits(batch_events=8, batch_bytes=200)) as both:
        for n in range(200):
            await both.emit(n)
        tab = await a_tab(both.here, socket=SlowSocket(subprotocol=PROTOCOL if v1 else None))
        await tab.has(10)
        draining = asyncio.ensure_future(both.here.drain(1.0))
        await asyncio.sleep(0.1)
        assert tab.connection.state == "closing"
        await both.here.revoke("alice")
        await ends_with(tab, 4410)
        assert len(tab.numbers) < 200
        await draining


# -- what may fail


@SPEAKS
@virtual_time
async def test_a_lost_wake_up_costs_a_heartbeat_at_most(v1: bool) -> None:
    log = TroubledLog()
    async with processes(log=log, limits=Limits(heartbeat=25.0)) as both:
        tab = await a_tab(both.there, v1=v1)
        await tab.greeted()
        log.deaf = True
        await both.here.revoke("alice")
        await ends_with(tab, 4410, within=25.0)


@virtual_time
async def test_a_lost_wake_up_costs_nothing_in_the_process_that_revokes() -> None:
    log = TroubledLog()
    async with processes("this process", log=log, limits=Limits(heartbeat=25.0)) as both:
        tab = await a_tab(both.there)
        await tab.greeted()
        log.deaf = True
        await both.here.revoke("alice")
        await ends_with(tab, 4410)


@virtual_time
async def test_without_the_deny_list_nobody_is_let_in() -> None:
    async with processes() as both:
        both.state.away = True
        socket = FakeSocket()
        with pytest.raises(LogUnavailable):
            await both.there.connect_user(socket, "alice", principal=issued())
        assert socket.texts == []
        assert both.there.get_stats()["total_connections"] == 0


@SPEAKS
@virtual_time
async def test_without_the_deny_list_a_gap_waits_and_then_loses_nothing(v1: bool) -> None:
    log = TroubledLog(Retention(events=3))
    async with processes(log=log) as both:
        tab = await a_tab(both.there, v1=v1)
        await tab.greeted()
        log.deaf = True
        for n in range(10):
            await both.emit(n)
        log.deaf = False
        both.state.away = True
        await both.emit(10)
        await asyncio.sleep(3.0)
        assert tab.numbers == []
        assert tab.socket.of_type("gap") == []
        both.state.away = False
        await tab.has(3, seconds=2.0)
        await both.emit(11)
        await tab.has(4)
        assert tab.numbers == [8, 9, 10, 11]
        assert len(tab.socket.of_type("gap")) == 1


@virtual_time
async def test_without_the_deny_list_a_gap_at_the_start_is_no_way_in() -> None:
    async with processes() as both:
        await both.emit(0)

        async def go_away() -> None:
            both.state.after = None
            both.state.away = True

        both.state.after = go_away
        tab = await a_tab(both.there, cursor=encode_cursor(Position("invented", 7, "invented")))
        assert await tab.ended() == 1013
        assert tab.socket.texts == []


@virtual_time
async def test_without_the_deny_list_a_refresh_keeps_nobody_in() -> None:
    """A token that may be revoked is not taken: the connection ends, and comes back when it can be judged."""
    async with processes() as both:
        known = {"revoked": issued(token_id="t1", expires_at=wall_clock() + 10_000)}
        first = issued(token_id="t2", expires_at=wall_clock() + 10)
        tab = await a_tab(both.there, first, authenticate=tokens(known))
        await both.here.revoke("alice", "t1")
        await turns(50)
        assert tab.connection.state == "open"
        both.state.away = True
        tab.socket.client_sends({"type": "auth", "token": "revoked"})
        assert await tab.ended(20.0) == 1013
        both.state.away = False
        await refused(both.there, known["revoked"])


@virtual_time
async def test_the_deny_list_comes_first_and_without_it_nothing_is_ordered() -> None:
    async with processes("this process") as both:
        tab = await a_tab(both.here)
        await tab.greeted()
        both.state.away = True
        with pytest.raises(LogUnavailable):
            await both.here.revoke("alice")
        both.state.away = False
        assert await both.order_offsets() == []
        await asyncio.sleep(10)
        assert tab.connection.state == "open"

        denied_then: list[bool] = []

        class Log(MemoryLog):
            async def append(self, log: LogName, event: Any) -> Position:
                denied_then.append(await both.state.denied(UserId("alice"), None, wall_clock()))
                return await super().append(log, event)

        async with a_manager(Log(), state=both.state) as other:
            await other.revoke("alice")
        assert denied_then == [True]


@virtual_time
async def test_a_log_that_takes_no_order_ends_the_connections_here_and_says_so() -> None:
    log = TroubledLog()
    async with processes("this process", log=log, retry=quick_retry()) as both:
        tab = await a_tab(both.here, issued(ago=1.0))
        bob = await a_tab(both.here, issued("bob"))
        await tab.greeted()
        log.trouble = "refuse"
        with pytest.raises(AppendFailed):
            await both.here.revoke("alice")
        await ends_with(tab, 4410)
        await refused(both.here, issued(ago=4.0))
        log.recover()
        await both.here.revoke("alice")
        assert len(await both.order_offsets()) == 1, "calling again is safe"
        assert bob.connection.state == "open"


@pytest.mark.parametrize("trouble", ["lose", "refuse"])
@virtual_time
async def test_an_order_that_is_tried_again_stands_in_the_log_once(trouble: Any) -> None:
    log = TroubledLog()
    async with processes(log=log, retry=quick_retry()) as both:
        tab = await a_tab(both.there)
        await tab.greeted()
        log.plan.append(trouble)
        await both.here.revoke("alice")
        assert len(await both.order_offsets()) == 1
        await ends_with(tab, 4410)


@pytest.mark.parametrize(
    "arguments",
    [
        {"user_id": ""}, {"user_id": "a\n"}, {"user_id": None}, {"token_id": ""}, {"token_id": "t\x00"},
        {"token_id": 7}, {"token_id": "t" * 1_025}, {"token_id": "\ud800"}, {"seconds": 0}, {"seconds": -1.0},
        {"seconds": float("nan")}, {"seconds": float("inf")}, {"seconds": True}, {"seconds": "60"},
    ],
    ids=repr,
)  # fmt: skip
@virtual_time
async def test_a_revocation_that_makes_no_sense_is_refused_and_does_nothing(arguments: dict[str, Any]) -> None:
    async with processes("this process") as both:
        tab = await a_tab(both.here)
        await tab.greeted()
        with pytest.raises(InvalidInput) as caught:
            await both.here.revoke(**{"user_id": "alice"} | arguments)
        assert "t\x00" not in str(caught.value)
        await asyncio.sleep(10)
        assert tab.connection.state == "open"
        assert await both.order_offsets() == []
        await (await a_tab(both.here)).greeted()


# -- a disconnect by the application


@WHERE
@SPEAKS
@virtual_time
async def test_a_disconnected_user_is_sent_what_was_emitted_before_and_then_1000(where: str, v1: bool) -> None:
    async with processes(where) as both:
        await both.emit("old")
        hers = [await a_tab(both.there, connection_id=name, v1=v1) for name in ("a", "b", "c")]
        others = [await a_tab(both.there, issued(user), connection_id="a", v1=v1) for user in ("bob", "Alice")]
        for n in range(500):
            await both.emit(n)
        await both.here.disconnect_user("alice")
        await both.emit("later")
        for tab in hers:
            await ends_with(tab, 1000)
            assert tab.numbers == ["old", *range(500)]
        for tab in others:
            await both.emit(0, tab.connection.user_id)
            await tab.has(1)
            assert tab.connection.state == "open"
        again = await a_tab(both.there, issued(ago=100.0), connection_id="a", cursor=hers[0].cursor, v1=v1)
        await again.has(1)
        assert again.numbers == ["later"]
        assert again.socket.frames[0]["resumed"] is True
        await asyncio.sleep(60)
        assert again.connection.state == "open", "it is not sent away by the order that sent it away before"
        shows_no_order(again)


@WHERE
@virtual_time
async def test_one_connection_is_disconnected_and_the_others_of_the_user_stay(where: str) -> None:
    async with processes(where) as both:
        one = await a_tab(both.there, connection_id="a")
        spared = [
            await a_tab(both.there, connection_id="A"),
            await a_tab(both.there, connection_id="a "),
            await a_tab(both.there, connection_id="ab"),
            await a_tab(both.there, issued("bob"), connection_id="a"),
        ]
        await both.here.disconnect_user("alice", "a")
        for user in ("alice", "bob"):
            await both.emit("later", user)
        await ends_with(one, 1000)
        assert one.numbers == []
        for tab in spared:
            await tab.has(1)
            assert tab.connection.state == "open"
        for nobody in ("nobody", "", "\x00", "x" * 300, "\ud800"):
            await both.here.disconnect_user("alice", nobody)
        await both.here.disconnect_user("nobody")
        await asyncio.sleep(10)
        for tab in spared:
            assert tab.connection.state == "open"
        shows_no_order(*spared)


@virtual_time
async def test_a_revocation_after_a_disconnect_still_tells_the_client_to_forget() -> None:
    """Between the two orders the connection came back."""
    async with processes() as both:
        tab = await a_tab(both.there, connection_id="a")
        await both.here.disconnect_user("alice")
        await ends_with(tab, 1000)
        again = await a_tab(both.there, connection_id="a")
        await both.here.revoke("alice")
        await ends_with(again, 4410)


# -- an order is shown to nobody


@SPEAKS
@virtual_time
async def test_no_path_shows_an_order_to_a_client(v1: bool) -> None:
    """Live, from the start, by a cursor, from the end, narrowed, after a gap, after a claim, and when pinged."""
    log = TroubledLog(Retention(events=12))
    async with processes(log=log, limits=Limits(heartbeat=3.0)) as both:
        known: list[Tab] = [await a_tab(both.there, issued(token_id="mine"), v1=v1)]
        await known[0].greeted()
        numbers = iter(range(1_000))
        cursors: list[str | None] = [None, "latest", encode_cursor(Position("invented", 1, "x"))]

        async def orders() -> None:
            await both.here.revoke("alice", "not mine")
            await both.here.disconnect_user("alice", "not mine")
            await both.emit(next(numbers), thread_id="t")
            await both.here.revoke("alice", "not mine either")
            await log.append(  # of a later release
                LogName.of_user(UserId("alice")), control_event(Order(4410), "later")._replace(
                    id=both.here.encoder.new_id(), body=b'{"type":"control","order":{"kind":"new"},"id":"x"'
                )
            )  # fmt: skip

        for round_ in range(4):
            await orders()
            cursors.extend(encode_cursor(entry.position) for entry in await entries_of(log, "alice"))
            for cursor in cursors[:: 1 + round_]:
                known.append(await a_tab(both.there, issued(token_id="mine"), cursor=cursor, v1=v1))
                if len(known) % 2:
                    known.append(await a_tab(both.there, issued(token_id="mine"), cursor=cursor, only_thread="t"))
                known[-1].socket.client_sends({"type": "ping", "cursor": cursors[-1]})
            log.deaf = not log.deaf
            await asyncio.sleep(4.0)
        log.deaf = False
        await asyncio.sleep(4.0)
        shows_no_order(*known)
        assert len(await both.order_offsets()) >= 8, "there was something to show"
        for tab in known[-6:]:
            assert tab.connection.state == "open" or tab.socket.close_code == 4409
            assert tab.socket.of_type("ping")


@virtual_time
async def test_no_event_of_an_application_is_taken_for_an_order() -> None:
    async with processes("this process") as both:
        tab = await a_tab(both.here)
        await tab.greeted()
        emitter = both.here.get_emitter("alice")
        order = {"code": 4410}
        await emitter.emit("custom", {"n": 0, "type": "control", "order": order, "connection_id": CONTROL})
        await emitter.emit("control", {"n": 1, "order": order})
        with pytest.raises((InvalidInput, LookupError)):
            await emitter.emit("custom", {"n": 2}, connection_id=CONTROL)
        await tab.has(2)
        await asyncio.sleep(10)
        assert tab.connection.state == "open"
        assert tab.events[0]["data"]["order"] == order
        socket = FakeSocket()
        with pytest.raises(InvalidInput):
            await both.here.connect_user(socket, "alice", CONTROL)
