"""Promise: a log that is away takes nothing down.

Connections stay open and are told `degraded`, and `restored` when it is back. What the runs of this process emit
meanwhile is shown to their own user's connections, provisionally, and comes through the log later, in order and once.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from fastapi import FastAPI

from bridge import UserExecutionContext
from tests.asgi import ASGIClient, ask, scope_of
from tests.away import AwayLog, Way
from tests.support import FakeSocket, Tab, a_manager, events_of, turns, until, virtual_time
from websocket_core.auth import AuthRequest
from websocket_core.control import Order, control_event
from websocket_core.cursor import LogCursor
from websocket_core.errors import AppendFailed, AuthenticationFailed, ConnectionRefused, IsolationViolation
from websocket_core.events import Event
from websocket_core.identity import Grant, LogName, Principal, UserId
from websocket_core.limits import Limits, Retention, RetryPolicy
from websocket_core.log import Batch, Position
from websocket_core.metrics import Metrics
from websocket_core.outbound import Outbound
from websocket_core.outbox import Outbox, Waiting
from websocket_core.provisional import AT_ONCE, AT_ONCE_BYTES, Outage
from websocket_core.router import health_router, websocket_router
from websocket_core.transports.entrance import Entrance
from websocket_core.transports.websocket import _Refresh
from websocket_core.unified_manager import UnifiedWebSocketManager
from websocket_core.wire import PLAIN, PROTOCOL, CloseCode

WAYS: list[Way] = ["killed", "frozen"]
ALICE, BOB = (LogName.of_user(UserId(name)) for name in ("alice", "bob"))
PROTOCOLS = pytest.mark.parametrize("v1", [False, True], ids=["plain", "v1"])


def now() -> float:
    return asyncio.get_running_loop().time()


async def a_tab(manager: UnifiedWebSocketManager, user: str, *args: Any, **options: Any) -> Tab:
    """One that is connected."""
    tab = await Tab.open(manager, user, *args, **options)
    await tab.greeted()
    return tab


def types(tab: Tab) -> list[str]:
    """What the tab was sent, without what keeps it alive."""
    return [frame["type"] for frame in tab.socket.frames if frame["type"] not in ("ping", "pong")]


def provisional(tab: Tab) -> list[Any]:
    """The `n` of what it was shown."""
    return [frame["event"]["data"]["n"] for frame in tab.socket.of_type("provisional")]


def put(
    manager: UnifiedWebSocketManager, user: str, number: int, *, connection_id: str | None = None, **labels: Any
) -> Event:
    """An event of a run of this user, which waits in the outbox."""
    owner = b',"user_id":"%b"' % user.encode()
    event = manager.encoder.encode("work", {"n": number, **labels.pop("more", {})}, owner, **labels)
    event = event._replace(connection_id=connection_id)
    assert manager.outbox(user).put(event)
    return event


async def degraded(manager: UnifiedWebSocketManager, *tabs: Tab) -> None:
    await until(lambda: manager.availability.degraded, "degraded", 10.0)
    await until(lambda: all("degraded" in types(tab) for tab in tabs), "degraded", 10.0)


async def restored(*tabs: Tab) -> None:
    await until(lambda: all(types(tab).count("restored") == types(tab).count("degraded") for tab in tabs), "", 20.0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("moment", [0.0, 0.9, 1.9])
@PROTOCOLS
def test_everybody_is_told_within_eight_seconds_and_stays_connected(way: Way, moment: float, v1: bool) -> None:
    """Also who is just waiting for an answer of the log, and one that has never been told a word."""

    @virtual_time
    async def story() -> None:
        log = AwayLog()
        async with a_manager(log) as manager:
            tabs = [await a_tab(manager, user, v1=v1) for user in ("alice", "alice", "bob")]
            await asyncio.sleep(20.0 + moment)
            gone = now()
            log.go_away(way)
            await log.append_elsewhere(ALICE, put_elsewhere(manager, 1))  # her tabs are woken, and read
            await until(lambda: all("degraded" in types(tab) for tab in tabs), "degraded", 30.0)
            assert now() - gone < 8.0
            assert {tab.socket.of_type("degraded")[0]["since"] for tab in tabs} == {manager.availability.since}
            await asyncio.sleep(300.0)
            assert [tab.serving.done() for tab in tabs] == [False] * 3
            log.come_back()
            await restored(*tabs)
            await tabs[0].has(1)
            assert types(tabs[0]) == types(tabs[1]) == ["connected", "degraded", "restored", "work"]
            assert types(tabs[2]) == ["connected", "degraded", "restored"]

    story()


def put_elsewhere(manager: UnifiedWebSocketManager, number: int, user: str = "alice") -> Event:
    """An event that another process emits."""
    return manager.encoder.encode("work", {"n": number}, b',"user_id":"%b"' % user.encode())


@pytest.mark.parametrize("way", WAYS)
@PROTOCOLS
def test_a_run_is_shown_to_its_user_while_the_log_is_away_and_comes_in_order_and_once_when_it_is_back(
    way: Way, v1: bool
) -> None:
    @virtual_time
    async def story() -> None:
        log = AwayLog(patience=2.0)
        async with a_manager(log, retry=RetryPolicy(maximum=0.5)) as manager:
            alice, other, bob = [await a_tab(manager, user, v1=v1) for user in ("alice", "alice", "bob")]
            await manager.get_emitter("alice").emit("work", {"n": 0})
            await alice.has(1)
            log.go_away(way)
            await degraded(manager, alice, other, bob)
            began = now()
            bridge = manager.create_agent_bridge(UserExecutionContext("alice", "r1", "t1"))
            async with bridge.run("planner") as run:
                await run.thinking("hm")
                async with run.tool("search") as tool:
                    tool.result = 1
            assert now() - began < 0.1, "a run waited for a log that is known to be away"
            shown = ["agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed"]
            for tab in (alice, other):
                await until(lambda tab=tab: len(tab.socket.of_type("provisional")) == 5, "showing it")  # type: ignore[misc]
                events = [frame["event"] for frame in tab.socket.of_type("provisional")]
                assert [event["type"] for event in events] == shown
                assert not any("cursor" in event for event in events)
                assert {event["user_id"] for event in events} == {"alice"}
            assert types(bob) == ["connected", "degraded"]
            log.come_back()
            await restored(alice, other, bob)
            real = await alice.has(6)
            await other.has(6)
            assert [event["type"] for event in real[1:]] == shown
            assert [event["id"] for event in real[1:]] == [event["id"] for event in events]
            assert [{**event, "cursor": ""} for event in real[1:]] == [{**event, "cursor": ""} for event in events]
            await asyncio.sleep(60.0)
            for tab in (alice, other):
                assert types(tab) == ["connected", "work", "degraded", *["provisional"] * 5, "restored", *shown]
            assert types(bob) == ["connected", "degraded", "restored"]
            assert [event["type"] for event in await events_of(log, "alice")] == ["work", *shown]

    story()


@virtual_time
async def test_what_waited_already_is_shown_after_degraded_and_what_waits_after_restored_is_not_shown() -> None:
    log = AwayLog()
    async with a_manager(log) as manager:
        tab = await a_tab(manager, "alice")
        log.go_away()
        await asyncio.sleep(2.0)
        for number in range(3):
            put(manager, "alice", number)
        await turns()
        assert types(tab) == ["connected"]
        await degraded(manager, tab)
        await until(lambda: provisional(tab) == [0, 1, 2])
        log.come_back()
        await restored(tab)
        await tab.has(3)
        log.go_away()
        put(manager, "alice", 3)
        await asyncio.sleep(2.0)
        log.come_back()
        await tab.has(4)
        await asyncio.sleep(60.0)
        assert types(tab) == ["connected", "degraded", *["provisional"] * 3, "restored", *["work"] * 4]


@virtual_time
async def test_each_time_that_it_is_away_is_told_and_shown_anew() -> None:
    log = AwayLog()
    async with a_manager(log) as manager:
        tab = await a_tab(manager, "alice")
        for number in range(4):
            log.go_away()
            await until(lambda: manager.availability.degraded, "degraded", 10.0)
            put(manager, "alice", number)
            await until(lambda number=number: provisional(tab)[-1:] == [number], "showing it")  # type: ignore[misc]
            log.come_back()
            await restored(tab)
            await tab.has(number + 1)
        assert types(tab) == ["connected", *["degraded", "provisional", "restored", "work"] * 4]
        assert (provisional(tab), tab.numbers) == ([0, 1, 2, 3], [0, 1, 2, 3])


@virtual_time
async def test_an_outbox_that_was_emptied_and_filled_again_within_one_outage_is_shown_whole() -> None:
    """Its numbers begin anew. The log came back for a moment in which nobody asked it."""
    log = AwayLog()
    async with a_manager(log, limits=Limits(check_interval=20.0), retry=RetryPolicy(maximum=0.1)) as manager:
        tab = await a_tab(manager, "alice")
        log.go_away()
        await until(lambda: manager.availability.degraded, "degraded", 60.0)
        manager._outboxes._back = lambda: None  # nobody hears that something got in
        for number in range(3):
            put(manager, "alice", number)
        await until(lambda: provisional(tab) == [0, 1, 2])
        log.come_back()
        await until(lambda: manager._outboxes.waiting(UserId("alice")) is None, "emptying it", 9.0)
        log.go_away()
        for number in range(3, 5):
            put(manager, "alice", number)
        await until(lambda: provisional(tab) == [0, 1, 2, 3, 4])
        assert manager.availability.degraded
        log.come_back()
        await restored(tab)
        await tab.has(5)
        assert tab.numbers == [0, 1, 2, 3, 4]


@virtual_time
async def test_only_what_is_for_this_connection_is_shown() -> None:
    log = AwayLog()
    async with a_manager(log) as manager:
        mine = await a_tab(manager, "alice", "mine")
        other = await a_tab(manager, "alice", "other")
        narrow = await a_tab(manager, "alice", "narrow", only_thread="t1")
        bob = await a_tab(manager, "bob", "mine")
        log.go_away()
        await degraded(manager, mine, other, narrow, bob)
        put(manager, "alice", 1, connection_id="mine")
        put(manager, "alice", 2, connection_id="other")
        put(manager, "alice", 3, thread_id="t1")
        put(manager, "alice", 4, thread_id="t2")
        manager.outbox("alice").put(control_event(Order(1000, "nobody"), "control1"))
        put(manager, "alice", 5, thread_id="t1", connection_id="narrow")
        put(manager, "alice", 6)
        await until(lambda: provisional(mine) == [1, 3, 4, 6])
        await until(lambda: provisional(other) == [2, 3, 4, 6])
        await until(lambda: provisional(narrow) == [3, 5])
        log.come_back()
        await restored(mine, other, narrow, bob)
        await until(lambda: (mine.numbers, other.numbers, narrow.numbers) == ([1, 3, 4, 6], [2, 3, 4, 6], [3, 5]))
        assert types(bob) == ["connected", "degraded", "restored"]


@PROTOCOLS
def test_a_slow_reader_delays_nobody_and_is_shown_what_still_waits(v1: bool) -> None:
    @virtual_time
    async def story() -> None:
        log = AwayLog()
        async with a_manager(log, limits=Limits(write_timeout=1_000.0)) as manager:
            slow, quick = [await a_tab(manager, "alice", v1=v1) for _ in range(2)]
            log.go_away()
            await degraded(manager, slow, quick)
            slow.socket.block()
            count = AT_ONCE * 5
            for number in range(count):
                put(manager, "alice", number)
                if number % 7 == 0:
                    await turns(3)
            await until(lambda: len(provisional(quick)) == count, "showing it to the quick one", 30.0)
            assert provisional(quick) == list(range(count))
            slow.socket.unblock()
            await until(lambda: len(provisional(slow)) == count, "showing it to the slow one", 30.0)
            assert provisional(slow) == list(range(count))
            slow.socket.block()
            for number in range(count, count * 2):
                put(manager, "alice", number)
            log.come_back()
            await restored(quick)
            await quick.has(count * 2, 30.0)
            slow.socket.unblock()
            await restored(slow)
            await slow.has(count * 2, 30.0)
            for tab in (slow, quick):
                assert tab.numbers == list(range(count * 2))
                seen = types(tab)
                assert "provisional" not in seen[seen.index("restored") :]
                assert set(seen[seen.index("restored") + 1 :]) == {"work"}

    story()


@virtual_time
async def test_large_events_do_not_share_a_frame_without_end() -> None:
    log = AwayLog()
    async with a_manager(log) as manager:
        tab = await a_tab(manager, "alice", v1=True)
        log.go_away()
        await degraded(manager, tab)
        for number in range(40):
            put(manager, "alice", number, more={"pad": "x" * 20_000})
        await until(lambda: len(provisional(tab)) == 40, "showing it", 30.0)
        assert max(tab.socket.write_sizes) < AT_ONCE_BYTES + 25_000


@virtual_time
async def test_what_was_dropped_is_passed_over() -> None:
    log = AwayLog()
    async with a_manager(log, limits=Limits(outbox=3)) as manager:
        tab = await a_tab(manager, "alice")
        log.go_away()
        await degraded(manager, tab)
        for number in range(3):
            put(manager, "alice", number)
        manager.outbox("alice").drop()
        manager.outbox("alice").drop()
        await until(lambda: provisional(tab) == [0, 1, 2])
        log.come_back()
        await restored(tab)
        await tab.has(4)
        assert [event["data"] for event in tab.events] == [{"n": 0}, {"n": 1}, {"n": 2}, {"count": 2}]


# -- isolation


@virtual_time
async def test_an_outbox_of_another_log_closes_the_connection_and_is_counted() -> None:
    """By whatever mistake: the outbox that is found for Alice's log is Bob's."""
    log, metrics = AwayLog(), Metrics()
    async with a_manager(log, metrics=metrics) as manager:
        tab, bob = await a_tab(manager, "alice"), await a_tab(manager, "bob")
        log.go_away()
        await degraded(manager, tab, bob)
        outboxes = manager._outboxes
        outboxes.waiting_for = lambda log: outboxes.waiting(UserId("bob"))  # type: ignore[method-assign]
        put(manager, "bob", 1)
        outboxes._wake(ALICE)
        assert await tab.ended() == 1011
        assert metrics.isolation_violations == 1
        assert types(tab) == ["connected", "degraded"]
        await until(lambda: provisional(bob) == [1])


@PROTOCOLS
async def test_an_event_that_waits_for_another_log_is_compared_again_right_before_the_write(v1: bool) -> None:
    socket = FakeSocket()
    outbound = Outbound(
        socket, own_log=ALICE, protocol=PROTOCOL if v1 else PLAIN, batch_bytes=10_000, metrics=Metrics()
    )
    event = Event("e1", b'{"type":"work","data":{},"id":"e1"')
    await outbound.send((), [Waiting(ALICE, event)])
    assert socket.frames == [{"type": "provisional", "event": {"type": "work", "data": {}, "id": "e1"}}]
    for steps in ([Waiting(BOB, event)], [Waiting(BOB, event), Waiting(ALICE, event)]):
        with pytest.raises(IsolationViolation):
            await outbound.send((), steps)
    with pytest.raises(IsolationViolation):
        await outbound.send(['{"type":"pong"}'], [Waiting(BOB, event)])
    assert "e1" not in json.dumps(socket.frames[1:])


def test_an_event_that_waits_for_another_log_is_compared_with_the_grant() -> None:
    cursor = LogCursor(Grant.own(Principal("alice")), connection_id="tab")
    event = Event("e1", b'{"type":"work","data":{},"id":"e1"')
    assert cursor.foresees(ALICE, event)
    for other in (BOB, LogName.of_user(UserId("Alice")), LogName("topic", "alice")):
        with pytest.raises(IsolationViolation):
            cursor.foresees(other, event)


def test_an_outbox_gives_out_nothing_without_the_log_that_it_is_for() -> None:
    assert Waiting._fields == ("log", "event")
    assert Outbox.after.__annotations__["return"] == "tuple[list[Waiting], int]"


# -- newcomers


def application(manager: UnifiedWebSocketManager) -> FastAPI:
    async def authenticate(request: AuthRequest) -> Principal:
        if request.token is None:
            raise AuthenticationFailed("no token")
        return Principal(request.token)

    app = FastAPI()
    app.include_router(websocket_router(manager, authenticate=authenticate), prefix="/live")
    app.include_router(health_router(manager))
    return app


@pytest.mark.parametrize("way", WAYS)
def test_newcomers_are_told_1013_at_once(way: Way) -> None:
    @virtual_time
    async def story() -> None:
        log = AwayLog()
        async with a_manager(log) as manager:
            log.go_away(way)
            await degraded(manager)
            began, reads = now(), log.reads
            for cursor in (None, "latest", "abc.1.x"):
                socket = FakeSocket()
                with pytest.raises(ConnectionRefused):
                    await manager.connect_user(socket, "alice", cursor=cursor)
                assert (socket.close_code, socket.frames) == (1013, [])
            assert (now(), log.reads) == (began, reads)
            assert manager.get_stats()["total_connections"] == 0

    story()


@pytest.mark.parametrize("way", WAYS)
def test_who_is_on_the_way_in_when_the_log_goes_away_is_refused_when_asked(way: Way) -> None:
    """It passed the first look, and is not registered yet; then nobody would tell it anything."""

    @virtual_time
    async def story() -> None:
        log = AwayLog()
        asked, answered = asyncio.Event(), asyncio.Event()

        async def authorize(*_question: object) -> bool:
            asked.set()
            await answered.wait()
            return True

        async with a_manager(log, authorize=authorize) as manager:
            socket = FakeSocket()
            connecting = asyncio.create_task(manager.connect_user(socket, "alice"))
            await asked.wait()
            log.go_away(way)
            await degraded(manager)
            answered.set()
            with pytest.raises(ConnectionRefused):
                await connecting
            assert (socket.close_code, socket.frames) == (1013, [])

    story()


@pytest.mark.parametrize("way", WAYS)
def test_who_has_just_come_in_when_the_log_goes_away_is_sent_away_at_once(way: Way) -> None:
    """It has not been greeted, and cannot be: where it stands is not known without the log."""

    @virtual_time
    async def story() -> None:
        log = AwayLog()
        async with a_manager(log) as manager:
            await asyncio.sleep(1.0)
            sockets = [FakeSocket() for _ in range(2)]
            for turn, socket in enumerate(sockets):
                connection = await manager.connect_user(socket, "alice")
                log.go_away(way)
                await turns(turn * 3)  # before its writer has begun, and when that reads
                connection.degrade(degrade_by_hand(manager))
                await turns()
                assert (socket.close_code, socket.frames) == (1013, [])
                log.come_back()
            assert manager._outboxes._watchers == {}

    story()


@pytest.mark.parametrize("way", WAYS)
def test_whoever_comes_through_a_route_is_told_at_once_too(way: Way) -> None:
    """With a token, with a ticket, or with nothing yet; and a page that asks for a ticket is answered 503."""

    @virtual_time
    async def story() -> None:
        log = AwayLog()
        bearer = {"authorization": "Bearer alice"}
        async with a_manager(log) as manager:
            app = application(manager)
            answer = await ask(app, "POST", "/live/ticket", headers=bearer)
            assert answer.status == 200
            log.go_away(way)
            await degraded(manager)
            began = now()
            comes: list[dict[str, Any]] = [{"headers": bearer}, {"query": {"ticket": answer.body["ticket"]}}, {}]
            for options in comes:
                async with ASGIClient(app, "/live/ws", **options) as client:
                    await until(lambda client=client: client.code is not None)  # type: ignore[misc]
                    assert (client.accepted, client.code, client.reason) == (True, 1013, "overloaded")
            refused = await ask(app, "POST", "/live/ticket", headers=bearer)
            assert (refused.status, refused.body["code"]) == (503, "unavailable")
            assert refused.headers["retry-after"] == "1"
            assert now() - began < 0.1
            log.come_back()
            await until(lambda: not manager.availability.degraded, "", 20.0)
            assert (await ask(app, "POST", "/live/ticket", headers=bearer)).status == 200
            async with ASGIClient(app, "/live/ws", query={"ticket": answer.body["ticket"]}) as client:
                await until(lambda: client.frames)  # it was not spent by who was refused

    story()


@virtual_time
async def test_a_socket_that_the_server_has_closed_meanwhile_is_let_go_quietly() -> None:
    """A handshake takes long while the log is frozen, and the server's own pings go unanswered: its close is first."""
    log = AwayLog(patience=2.0)
    async with a_manager(log) as manager:
        await asyncio.sleep(1.0)
        log.go_away("frozen")
        sent: list[str] = []

        async def send(message: Any) -> None:
            sent.append(message["type"])
            if message["type"] == "websocket.close":
                raise RuntimeError("Unexpected ASGI message 'websocket.close', after sending 'websocket.close'.")

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        headers = {"authorization": "Bearer alice"}
        await application(manager)(scope_of("websocket", "/live/ws", headers=headers, subprotocols=[]), receive, send)
        assert sent == ["websocket.accept", "websocket.close"]
        log.come_back()


# -- the connection


@virtual_time
async def test_nobody_reads_a_log_that_is_known_to_be_away_and_everybody_does_when_it_is_back() -> None:
    """Heartbeats, claims of clients and wake-ups included; an event of another process comes with `restored`."""
    log = AwayLog()
    async with a_manager(log, limits=Limits(heartbeat=5.0)) as manager:
        tabs = [await a_tab(manager, f"user{index}", v1=True) for index in range(20)]
        log.go_away("frozen")
        await degraded(manager, *tabs)
        reads = log.reads
        log.deaf = True
        for index in range(20):
            await log.append_elsewhere(
                LogName.of_user(UserId(f"user{index}")), put_elsewhere(manager, index, f"user{index}")
            )
            tabs[index].connection.compare(Position("x", 7, "y"))
        await asyncio.sleep(60.0)
        assert log.reads == reads
        assert all(len(tab.socket.of_type("ping")) > 8 for tab in tabs)
        log.come_back()
        await restored(*tabs)
        back = now()
        for tab in tabs:
            await tab.has(1)
        assert now() - back < 0.5, "somebody waited for a heartbeat"


@virtual_time
async def test_a_read_that_failed_is_tried_again_by_each_at_its_own_time() -> None:
    log = AwayLog()
    async with a_manager(log) as manager:
        tabs = [await a_tab(manager, "alice", f"tab{index}") for index in range(10)]
        times: list[float] = []
        honest = log.read

        async def noted(log: LogName, after: Position | None, limit: int) -> Batch:
            times.append(now())
            return await honest(log, after, limit)

        log.read = noted  # type: ignore[method-assign]
        log.go_away()
        await log.append_elsewhere(ALICE, put_elsewhere(manager, 1))
        await asyncio.sleep(1.6)
        log.come_back()
        again = [at for at in times if at > times[0] + 0.1]
        assert len(set(again)) >= 10, "they come together"
        assert min(again) - times[0] >= 0.5
        for tab in tabs:
            await tab.has(1)


@virtual_time
async def test_a_writer_that_is_cancelled_when_the_log_goes_away_ends() -> None:
    """Its question to the log is given up, and at the same moment somebody else cancels it."""
    log = AwayLog()
    async with a_manager(log) as manager:
        tabs = [await a_tab(manager, "alice") for _ in range(3)]
        log.go_away("frozen")
        await log.append_elsewhere(ALICE, put_elsewhere(manager, 1))
        await turns()
        outage = degrade_by_hand(manager)
        for order, tab in zip(("before", "after", "never"), tabs, strict=True):
            writer = tab.connection._writer
            assert writer is not None
            if order == "before":
                writer.cancel()
            tab.connection.degrade(outage)
            if order == "after":
                writer.cancel()
        await until(lambda: tabs[0].serving.done() and tabs[1].serving.done())
        await until(lambda: "degraded" in types(tabs[2]))
        assert not tabs[2].serving.done()
        assert writer is not None
        assert writer.cancelling() == 0
        assert types(tabs[0]) == types(tabs[1]) == ["connected"]
        assert not manager._outboxes._watchers.get(ALICE, [None])[1:]
        log.come_back()
        tabs[2].connection.restore()
        await tabs[2].has(1)


@virtual_time
async def test_who_is_ordered_to_end_is_shown_nothing_provisional_any_more() -> None:
    """Its order stands in the log, which cannot be read; what is emitted after it must not be shown."""
    log = AwayLog()
    async with a_manager(log) as manager:
        ordered, other = await a_tab(manager, "alice"), await a_tab(manager, "alice")
        log.go_away()
        await degraded(manager, ordered, other)
        put(manager, "alice", 1)
        await until(lambda: provisional(ordered) == provisional(other) == [1])
        ordered.connection.order(CloseCode.REVOKED)
        put(manager, "alice", 2)
        await until(lambda: provisional(other) == [1, 2])
        assert await ordered.ended() == 4410
        assert provisional(ordered) == [1]


def degrade_by_hand(manager: UnifiedWebSocketManager) -> Outage:
    return Outage("2026-11-20T09:00:00.123456+00:00", manager._outboxes)


@virtual_time
async def test_nothing_is_left_of_a_connection_that_goes_while_the_log_is_away() -> None:
    log = AwayLog()
    async with a_manager(log) as manager:
        tabs = [await a_tab(manager, "alice") for _ in range(5)]
        early = await a_tab(manager, "alice")
        await early.cut()
        log.go_away()
        await degraded(manager, *tabs)
        assert len(manager._outboxes._watchers[ALICE]) == 5
        for tab in tabs:
            await tab.cut()
        assert manager._outboxes._watchers == {}
        early.connection.degrade(degrade_by_hand(manager))
        assert manager._outboxes._watchers == {}, "one that has ended is not told"


@virtual_time
async def test_a_token_is_refreshed_later_and_the_connection_stays() -> None:
    log = AwayLog()

    async def authenticate(request: AuthRequest) -> Principal:
        return Principal("alice")

    async with a_manager(log) as manager:
        entrance = Entrance(manager, authenticate=authenticate)
        scope: dict[str, Any] = {"headers": [], "query_string": b"", "client": None}
        tab = await a_tab(manager, "alice", authenticate=_Refresh(entrance, scope))
        log.go_away()
        await degraded(manager, tab)
        tab.socket.client_sends({"type": "auth", "token": "newer", "request_id": "1"})
        await until(lambda: tab.socket.of_type("error"))
        assert tab.socket.of_type("error")[0]["code"] == "unavailable"
        log.come_back()
        await restored(tab)
        tab.socket.client_sends({"type": "auth", "token": "newer", "request_id": "2"})
        await until(lambda: tab.socket.of_type("ack"))


# -- the application


@virtual_time
async def test_an_applications_own_emit_tries_again_and_then_raises() -> None:
    log = AwayLog()
    retry = RetryPolicy(attempts=3, initial=0.01, maximum=0.02)
    async with a_manager(log, retry=retry) as manager:
        tab = await a_tab(manager, "alice")
        log.go_away()
        await degraded(manager, tab)
        with pytest.raises(AppendFailed) as failed:
            await manager.get_emitter("alice").emit("work", {"n": 1}, event_id="x1")
        assert (failed.value.event_id, failed.value.attempts) == ("x1", 3)
        await turns()
        assert types(tab) == ["connected", "degraded"], "what was not put into an outbox is not shown"
        log.come_back()
        await restored(tab)
        await manager.get_emitter("alice").emit("work", {"n": 1}, event_id="x1")
        await tab.has(1)
        assert tab.numbers == [1]


@pytest.mark.parametrize("way", WAYS)
@PROTOCOLS
def test_a_shutdown_while_the_log_is_away_ends_in_time(way: Way, v1: bool) -> None:
    @virtual_time
    async def story() -> None:
        log = AwayLog()
        manager = a_manager(log, limits=Limits(shutdown_timeout=4.0))
        async with manager:
            tabs = [await a_tab(manager, "alice", v1=v1) for _ in range(3)]
            tabs[2].socket.block()
            log.go_away(way)
            await degraded(manager, *tabs[:2])
            put(manager, "alice", 1)
            await until(lambda: provisional(tabs[0]) == [1])
            began = now()
        assert now() - began <= 4.0 + 1.1
        assert [tab.socket.close_code for tab in tabs[:2]] == [1012, 1012]
        assert (manager.availability.degraded, manager.metrics.degraded) == (False, 0)
        assert manager._outboxes._watchers == {}
        log.come_back()
        async with manager:  # and it may be started again
            await a_tab(manager, "alice")

    story()


@virtual_time
async def test_health_says_that_it_is_degraded_and_stays_well() -> None:
    log = AwayLog()
    async with a_manager(log) as manager:
        app = application(manager)

        async def said(path: str) -> tuple[int, str]:
            answer = await ask(app, "GET", path)
            return answer.status, answer.text

        assert await said("/readyz") == (200, "ok\n")
        log.go_away()
        await degraded(manager)
        assert await said("/livez") == (200, "ok\n")
        assert await said("/readyz") == (200, "degraded\n")
        log.come_back()
        await until(lambda: not manager.availability.degraded, "", 20.0)
        assert await said("/readyz") == (200, "ok\n")


@virtual_time
async def test_a_gap_that_is_found_when_the_log_is_back_is_told_after_restored() -> None:
    log = AwayLog(Retention(events=2))
    async with a_manager(log) as manager:
        tab = await a_tab(manager, "alice")
        log.go_away()
        await degraded(manager, tab)
        for number in range(5):
            await log.append_elsewhere(ALICE, put_elsewhere(manager, number))
        log.come_back()
        await restored(tab)
        await tab.has(2)
        assert types(tab) == ["connected", "degraded", "restored", "gap", "work", "work"]
