"""Promise: an event reaches the connections of the one user whom it was emitted to, and nobody else's, ever.

It holds whatever the users are called, however many emit at once, whatever cursor a client presents, and also when
one part of the SDK makes a mistake: what is about to be sent is compared with its owner twice.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import hmac
import json
import logging
import pickle
import random
import unicodedata
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from tests.support import FakeSocket, Tab, TroubledLog, a_manager, turns, until, virtual_time
from websocket_core.cursor import LogCursor
from websocket_core.errors import AuthenticationFailed, InvalidInput, InvalidUserId, IsolationViolation
from websocket_core.identity import Grant, LogName, Principal, UserId
from websocket_core.log import Batch, Entry, LogStore, Position
from websocket_core.logs.memory import MemoryLog
from websocket_core.metrics import Metrics
from websocket_core.outbound import Outbound
from websocket_core.unified_emitter import UnifiedWebSocketEmitter
from websocket_core.unified_manager import UnifiedWebSocketManager
from websocket_core.wire import PROTOCOL, decode_cursor, encode_cursor, event_frame

HOSTILE_IDS = [
    "a", "A", "a:b", "A:B", "a:b:c", "b", "{a}", "{a}:b", "a}", "a*", "a?", "[a]", "*", "alice", "Alice", "ALICE",
    "alice*", "alice ", " alice", "alice:", "user:alice", "topic:alice", "user", "topic", "alice/bob", "alice\\bob",
    "../alice", ".", "..", "%61lice", "alice%00", "alice\u200b", "\u202ealice", "alice\u0301", "alic\u00e9",
    "alice\u0301".replace("e\u0301", "\u00e9") + "s", "e\u0301", "\u00e9", "\u212a", "K", "k", "\u212b", "\u00c5",
    "A\u030a", "\u00df", "ss", "\ufb01", "fi", "I", "i", "\u0130", "\u0131", "1", "01", "1.0", "\uff11", "\u0661",
    "True", "None", "null", "nan", "0", "-1", "__proto__", "constructor", "'; --", '"', "\\", "<b>", "$(id)", "\ue000",
    "\U0001f600", "\U0001f468\u200d\U0001f469", "x" * 256, "x" * 255, "x" * 255 + "y", "\u00e9" * 256,
]  # fmt: skip
"""Pairs of these are equal after folding, normalising, trimming, joining or matching of some kind."""

REFUSED_IDS: list[Any] = [
    1, 1.0, True, None, b"a", ["a"], ("a",), pytest.param(object(), id="an object"),
    "", "a\n", "\na", "a\x00", "\x7f", "a\x85", "\ud800", "a\udfff", "x" * 257, "\u00e9" * 257, "\u20ac" * 171,
]  # fmt: skip


def a_hundred_users() -> list[str]:
    """The hostile ids, and plain ones up to a hundred."""
    users = [*HOSTILE_IDS, *(f"user-{number}" for number in range(100 - len(HOSTILE_IDS)))]
    assert len(users) == len(set(users)) == 100
    return users


class Ledger:
    """What was emitted to whom, kept apart from everything under test.

    Each payload carries an HMAC by a secret of the user it was meant for, so an event with the right labels and
    somebody else's content is found as well.
    """

    def __init__(self) -> None:
        self.emitted: dict[str, list[int]] = defaultdict(list)

    @staticmethod
    def _mac(user: str, n: int) -> str:
        secret = hashlib.sha256(b"secret of " + user.encode()).digest()
        return hmac.new(secret, str(n).encode(), "sha256").hexdigest()

    def payload(self, user: str, n: int) -> dict[str, Any]:
        self.emitted[user].append(n)
        return {"n": n, "mac": self._mac(user, n)}

    def judge(self, user: str, events: list[dict[str, Any]]) -> None:
        """Every event is this user's, by label and by content, and they are all of them, in order."""
        for event in events:
            assert event["user_id"] == user
            data = event["data"]
            assert hmac.compare_digest(data["mac"], self._mac(user, data["n"])), "somebody else's content"
        assert [event["data"]["n"] for event in events] == self.emitted[user]


def test_no_two_hostile_ids_are_the_same_user() -> None:
    """The list above does its work: it holds pairs that every careless comparison would mix up."""
    careless: list[Callable[[str], str]] = [
        str.casefold,
        str.lower,
        str.strip,
        lambda text: unicodedata.normalize("NFC", text),
        lambda text: unicodedata.normalize("NFKC", text),
        lambda text: text.rstrip("*"),
        lambda text: text[:255],
        lambda text: text.split(":")[0],
        lambda text: text.replace("\u200b", ""),
    ]
    for fold in careless:
        assert len({fold(user) for user in HOSTILE_IDS}) < len(set(HOSTILE_IDS))


@pytest.mark.parametrize("make_log", [MemoryLog, TroubledLog], ids=["memory", "every call suspends"])
@pytest.mark.parametrize("seed", range(2))
@virtual_time
async def test_a_hundred_users_at_once_each_see_exactly_their_own_events(
    make_log: Callable[[], LogStore], seed: int
) -> None:
    """All emit at once and interleave at random, each with an early tab, a `v1` tab, a late tab and one that is cut."""
    rng = random.Random(seed)
    ledger = Ledger()
    users = a_hundred_users()
    per_user = 12
    async with a_manager(make_log()) as manager:
        tabs: dict[str, list[Tab]] = {user: [] for user in users}

        async def produce(user: str) -> None:
            for n in range(per_user):
                data = ledger.payload(user, n)
                match rng.randrange(4):
                    case 0:
                        await manager.get_emitter(user).emit_agent_thinking(data)
                    case 1:
                        await manager.emit_critical_event(user, "custom", data)
                    case 2:
                        await manager.get_emitter(user).notify_custom("custom", data, run_id="shared", thread_id="t")
                    case _:
                        await UnifiedWebSocketEmitter(manager, user).notify_agent_thinking("x", **data)
                for _ in range(rng.randrange(3)):
                    await asyncio.sleep(rng.choice([0, 0, 0.001]))

        async def look(user: str) -> None:
            for number in range(3):
                await asyncio.sleep(rng.random() * 0.004)
                # Every user's tabs have the same connection ids.
                tabs[user].append(await Tab.open(manager, user, f"tab-{number}", v1=number == 1))

        async def be_cut(user: str) -> None:
            tab = await Tab.open(manager, user, "cut")
            await asyncio.sleep(rng.random() * 0.01)
            await tab.cut()
            again = await Tab.open(manager, user, "cut", cursor=tab.cursor if tab.events else None)
            again.before = tab.events
            tabs[user].append(again)

        async with asyncio.TaskGroup() as group:
            jobs = [job(user) for user in users for job in (produce, look, be_cut)]
            rng.shuffle(jobs)
            for job in jobs:
                group.create_task(job)
        for user in users:
            for tab in tabs[user]:
                await tab.has(per_user)
        await turns()
        for user in users:
            assert len(tabs[user]) == 4
            for tab in tabs[user]:
                ledger.judge(user, tab.events)
                assert (await tab.greeted())["user_id"] == user
        assert manager.metrics.isolation_violations == 0
        assert manager.get_stats()["total_users"] == 100


@virtual_time
async def test_runs_of_a_hundred_users_under_one_run_id_do_not_meet() -> None:
    users = a_hundred_users()
    async with a_manager(TroubledLog()) as manager:
        tabs = {user: await Tab.open(manager, user) for user in users}

        class Context:
            run_id = "r1"
            thread_id = "t1"

            def __init__(self, user_id: str) -> None:
                self.user_id = user_id

        async def work(user: str) -> None:
            async with manager.create_agent_bridge(Context(user)).run("agent") as run:
                await run.thinking(user)
                async with run.tool("search", q=user) as tool:
                    await asyncio.sleep(0)
                    tool.result = user
                await run.delta(user)
                run.result = user

        async with asyncio.TaskGroup() as group:
            for user in users:
                group.create_task(work(user))
        for user in users:
            events = await tabs[user].has(6)
            assert [event["type"] for event in events] == [
                "agent_started", "agent_thinking", "tool_executing", "tool_completed", "message_delta",
                "agent_completed",
            ]  # fmt: skip
            data = [event["data"] for event in events]
            said = [
                data[1]["thought"],
                data[2]["arguments"]["q"],
                data[3]["result"],
                data[4]["text"],
                data[5]["result"],
            ]
            assert said == [user] * 5


@pytest.mark.parametrize("user_id", REFUSED_IDS, ids=repr)
async def test_what_is_no_user_id_is_refused_alike_everywhere(user_id: Any) -> None:
    class Context:
        run_id = thread_id = None

        def __init__(self) -> None:
            self.user_id = user_id

    async with a_manager() as manager:
        socket = FakeSocket()
        with pytest.raises(InvalidUserId):
            await manager.connect_user(socket, user_id)
        with pytest.raises(InvalidUserId):
            await manager.emit_critical_event(user_id, "custom", {})
        with pytest.raises(InvalidUserId):
            manager.get_emitter(user_id)
        with pytest.raises(InvalidUserId):
            UnifiedWebSocketEmitter(manager, user_id)
        with pytest.raises(InvalidUserId):
            manager.create_agent_bridge(Context())
        with pytest.raises(InvalidUserId):
            await manager.head(user_id)
        with pytest.raises(InvalidUserId):
            await manager.disconnect_user(user_id)
        with pytest.raises(InvalidUserId):
            await manager.delete_user(user_id)
        with pytest.raises(InvalidUserId):
            Principal(user_id)
        assert manager.get_stats()["total_connections"] == 0
        assert socket.frames == []
        assert (await manager.head("1")).offset == 0


@pytest.mark.parametrize("user_id", ["1\n", "se\x00cret", "s" * 300])
def test_the_refusal_of_a_user_id_does_not_quote_it(user_id: str) -> None:
    with pytest.raises(InvalidUserId) as caught:
        Principal(user_id)
    assert user_id not in str(caught.value)
    assert "secret" not in str(caught.value)


@virtual_time
async def test_disconnecting_and_deleting_a_user_touches_nobody_else() -> None:
    users = a_hundred_users()
    async with a_manager() as manager:
        tabs = {user: await Tab.open(manager, user, "same") for user in users}
        await manager.get_emitter("A").emit("custom", {"n": 0})
        for user in users:
            await manager.get_emitter(user).emit("custom", {"n": 1})
        await manager.disconnect_user("a", "same")
        assert await tabs["a"].ended() == 1000
        await manager.delete_user("alice")
        assert await tabs["alice"].ended() == 1000
        await turns()
        assert manager.get_stats()["total_connections"] == 98
        for user in users:
            if user not in ("a", "alice"):
                assert tabs[user].connection.state == "open"
                assert (await manager.head(user)).offset == (2 if user == "A" else 1)
        assert (await manager.head("alice")).offset == 0
        assert (await manager.head("a")).offset == 2, "its event, and the order to go"


# -- cursors are data, never an address


@pytest.mark.parametrize("epochs_collide", [False, True])
@virtual_time
async def test_another_users_cursor_reads_only_my_log(epochs_collide: bool) -> None:
    """Whichever position of Alice's log Bob presents, he is told a gap and then shown his own log from the start."""
    options: dict[str, Any] = {"entropy": bytes} if epochs_collide else {}
    log = MemoryLog(**options)
    async with a_manager(log, **options) as manager:
        alice, bob = manager.get_emitter("alice"), manager.get_emitter("bob")
        hers = [await alice.emit("custom", {"n": f"alice {n}"}) for n in range(5)]
        own = [await bob.emit("custom", {"n": f"bob {n}"}) for n in range(3)]
        assert (hers[0].epoch == own[0].epoch) is epochs_collide
        mixed = [
            Position(hers[0].epoch, 0, ""),
            Position(hers[0].epoch, 3, own[2].mark),
            Position(own[0].epoch, 3, hers[2].mark),
            Position(own[0].epoch, 99, own[2].mark),
            Position("invented", 1, "invented"),
        ]
        honoured = {Position(own[0].epoch, 0, ""), *own}
        for position in [*hers, *mixed]:
            if position in honoured:
                continue
            tab = await Tab.open(manager, "bob", cursor=encode_cursor(position))
            await tab.has(3)
            await turns()
            assert tab.numbers == ["bob 0", "bob 1", "bob 2"]
            assert [frame["type"] for frame in tab.socket.frames[:2]] == ["connected", "gap"]
            assert tab.socket.frames[0]["resumed"] is False
            assert tab.socket.frames[0]["cursor"] == encode_cursor(position), "its own, until the gap moves it"
            assert decode_cursor(tab.socket.frames[1]["cursor"]).epoch == own[0].epoch
            await tab.cut()
        assert manager.metrics.isolation_violations == 0


@virtual_time
async def test_a_cursor_of_a_user_without_a_log_makes_no_path_to_it() -> None:
    async with a_manager() as manager:
        await manager.get_emitter("alice").emit("custom", {"n": 1})
        hers = encode_cursor(await manager.head("alice"))
        tab = await Tab.open(manager, "bob", cursor=hers)
        await tab.greeted()
        await manager.get_emitter("alice").emit("custom", {"n": 2})
        await manager.get_emitter("bob").emit("custom", {"n": 3})
        await tab.has(1)
        await turns()
        assert tab.numbers == [3]


# -- two checks, each of which is enough


class PoisonedLog(MemoryLog):
    """Hands out, among a user's entries, one of somebody else: what a store with a mixed-up key would do."""

    planted: Entry | None = None
    victim = LogName.of_user(UserId("bob"))

    async def read(self, log: LogName, after: Position | None, limit: int) -> Batch:
        batch = await super().read(log, after, limit)
        if self.planted is None or log != self.victim or not batch.entries:
            return batch
        real = batch.entries[-1]
        foreign = self.planted._replace(epoch=real.epoch, offset=real.offset, mark=real.mark, prev=real.prev)
        return batch._replace(entries=[*batch.entries[:-1], foreign])


async def _plant(manager: UnifiedWebSocketManager, log: PoisonedLog) -> None:
    await manager.get_emitter("alice").emit("custom", {"n": "canary of alice"})
    log.planted = (await log.read(LogName.of_user(UserId("alice")), None, 1)).entries[0]


def _read_check_off(self: LogCursor, batch: Batch) -> list[Any]:
    """`LogCursor.advance` without its comparison of owners."""
    self.position = batch.entries[-1].position if batch.entries else batch.start
    return list(batch.entries)


def _write_check_off(self: Outbound, step: Any) -> str:
    """`Outbound._render` without its comparison of owners."""
    return event_frame(step)


@pytest.mark.parametrize("v1", [False, True])
@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("lost_check", ["none", "when read", "before the write"])
def test_a_foreign_entry_in_the_store_closes_the_connection_and_is_not_sent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, lost_check: str, live: bool, v1: bool
) -> None:
    """Either check alone stops it."""
    if lost_check == "when read":
        monkeypatch.setattr(LogCursor, "advance", _read_check_off)
    elif lost_check == "before the write":
        monkeypatch.setattr(Outbound, "_render", _write_check_off)

    @virtual_time
    async def scenario() -> None:
        log = PoisonedLog()
        async with a_manager(log) as manager:
            await _plant(manager, log)
            other = await Tab.open(manager, "carol")
            bob = manager.get_emitter("bob")
            if not live:
                await bob.emit("custom", {"n": 1})
            tab = await Tab.open(manager, "bob", v1=v1)
            if live:
                await tab.greeted()
                await bob.emit("custom", {"n": 1})
            assert await tab.ended() == 1011
            assert tab.socket.events == []
            assert "canary" not in "".join(tab.socket.texts)
            assert manager.metrics.isolation_violations == 1
            assert manager.get_stats()["total_connections"] == 1
            await manager.get_emitter("carol").emit("custom", {"n": 2})
            await other.has(1)

    with caplog.at_level(logging.DEBUG):
        scenario()
    assert [record.levelname for record in caplog.records if "isolation" in record.message] == ["CRITICAL"]
    assert "canary" not in caplog.text


@pytest.mark.parametrize("v1", [False, True])
def test_a_grant_of_the_wrong_log_sends_nothing_of_it(monkeypatch: pytest.MonkeyPatch, v1: bool) -> None:
    """The check before the write does not trust the grant: it takes the owner from the principal."""
    honest = Grant.own
    monkeypatch.setattr(Grant, "own", lambda principal: honest(Principal("alice")))

    @virtual_time
    async def scenario() -> None:
        async with a_manager() as manager:
            await manager.get_emitter("alice").emit("custom", {"n": "canary of alice"})
            tab = await Tab.open(manager, "bob", v1=v1)
            assert await tab.ended() == 1011
            assert tab.socket.events == []
            assert "canary" not in "".join(tab.socket.texts)
            assert manager.metrics.isolation_violations == 1

    scenario()


async def test_the_last_look_before_the_socket_knows_its_own_log_only() -> None:
    log = MemoryLog()
    async with a_manager(log) as manager:
        await manager.get_emitter("alice").emit("custom", {"n": 1})
        await manager.get_emitter("bob").emit("custom", {"n": 2})
        entry_of = {}
        for user in ("alice", "bob"):
            entry_of[user] = (await log.read(LogName.of_user(UserId(user)), None, 1)).entries[0]
    for protocol in ("plain", PROTOCOL):
        socket = FakeSocket()
        own_log = LogName.of_user(UserId("bob"))
        outbound = Outbound(socket, own_log=own_log, protocol=protocol, batch_bytes=1_000, metrics=Metrics())
        await outbound.send([], [entry_of["bob"]])
        assert [event["data"] for event in socket.events] == [{"n": 2}]
        foreign = [
            entry_of["alice"],
            entry_of["alice"]._replace(log=LogName("topic", "bob")),
            entry_of["alice"]._replace(log=LogName("user", "BOB")),
        ]
        for entry in foreign:
            with pytest.raises(IsolationViolation):
                await outbound.send([], [entry])
        assert len(socket.texts) == 1


@pytest.mark.parametrize("other", [LogName("user", "alice"), LogName("user", "Bob"), LogName("topic", "bob")])
async def test_a_cursor_takes_no_entry_of_another_log_and_stays_where_it_is(other: LogName) -> None:
    log = MemoryLog()
    async with a_manager(log) as manager:
        await manager.get_emitter("bob").emit("custom", {"n": 1})
        batch = await log.read(LogName.of_user(UserId("bob")), None, 10)
    cursor = LogCursor(Grant.own(Principal("bob")), connection_id="c")
    with pytest.raises(IsolationViolation):
        cursor.advance(batch._replace(entries=[batch.entries[0]._replace(log=other)]))
    assert cursor.position is None
    assert len(cursor.advance(batch)) == 1


# -- nobody makes a grant, nobody changes a principal


def test_a_grant_cannot_be_constructed() -> None:
    with pytest.raises(TypeError):
        Grant()
    with pytest.raises(TypeError):
        Grant(LogName("user", "alice"))  # type: ignore[call-arg]
    assert Grant.own(Principal("alice")).log == LogName("user", "alice")
    assert "alice" not in repr(Grant.own(Principal("alice")))


def test_a_principal_cannot_be_changed() -> None:
    claims = {"role": "user"}
    principal = Principal("alice", claims=claims)
    with pytest.raises(AttributeError):
        principal.user_id = "bob"  # type: ignore[misc]
    claims["role"] = "admin"
    assert principal.claims == {"role": "user"}
    with pytest.raises(TypeError):
        principal.claims["role"] = "admin"  # type: ignore[index]


def test_log_names_are_injective() -> None:
    """No two logs share a name, a hash key or a text form, whatever their users are called."""
    names = [LogName(kind, name) for kind in ("user", "topic") for name in HOSTILE_IDS]
    assert len(set(names)) == len(names)
    assert len({pickle.dumps(tuple(name)) for name in names}) == len(names)
    assert copy.copy(names[0]) == names[0]


@virtual_time
async def test_a_principal_of_another_user_is_refused_at_connect() -> None:
    async with a_manager() as manager:
        await manager.get_emitter("alice").emit("custom", {"n": 1})
        for user in ("alice", "Bob", "bob "):
            socket = FakeSocket()
            with pytest.raises(InvalidInput):
                await manager.connect_user(socket, user, principal=Principal("bob"))
            await turns()
            assert socket.frames == []
        assert manager.get_stats()["total_connections"] == 0


@virtual_time
async def test_a_token_refreshed_on_an_open_socket_must_be_for_the_same_user() -> None:
    async def authenticate(token: str) -> Principal:
        if token == "wrong":
            raise AuthenticationFailed("no")
        return Principal(token, expires_at=None)

    async with a_manager() as manager:
        tab = await Tab.open(manager, "bob", authenticate=authenticate)
        tab.socket.client_sends({"type": "auth", "token": "bob", "request_id": "1"})
        await until(lambda: tab.socket.of_type("ack"), "the ack")
        tab.socket.client_sends({"type": "auth", "token": "wrong", "request_id": "2"})
        await until(lambda: tab.socket.of_type("error"), "the error")
        assert tab.socket.of_type("error")[0]["code"] == "unauthenticated"
        tab.socket.client_sends({"type": "auth", "token": "alice", "request_id": "3"})
        assert await tab.ended() == 4403
        assert tab.connection.principal.user_id == "bob"
        with pytest.raises(ValueError, match="keeps its user"):
            tab.connection.renew(Principal("alice"))
        await manager.get_emitter("alice").emit("custom", {"n": 1})
        await turns()
        assert tab.events == []


@virtual_time
async def test_an_emitter_is_bound_to_one_user_for_life() -> None:
    class Context:
        user_id = "alice"
        run_id = thread_id = "x"

    async with a_manager() as manager:
        with pytest.raises(InvalidUserId):
            UnifiedWebSocketEmitter(manager, "bob", Context())
        emitter = manager.get_emitter("alice")
        with pytest.raises(AttributeError):
            emitter.user_id = "bob"  # type: ignore[misc, assignment]
        assert manager.get_emitter("alice") is emitter
        kept = [manager.get_emitter(user) for user in a_hundred_users()]
        assert len(set(map(id, kept))) == 100


@virtual_time
async def test_a_bridge_keeps_the_user_it_was_made_for() -> None:
    """The context is read once: who changes it later changes nothing."""

    class Context:
        user_id = "alice"
        run_id: str | None = "r"
        thread_id: str | None = "t"

    async with a_manager() as manager:
        context = Context()
        bridge = manager.create_agent_bridge(context)
        context.user_id = "bob"
        async with bridge.run("agent"):
            pass
        assert (await manager.head("alice")).offset == 2
        assert (await manager.head("bob")).offset == 0


# -- every verb is guarded alike


@virtual_time
async def test_somebody_elses_run_answers_a_cancel_as_if_it_did_not_exist() -> None:
    class Context:
        user_id = "alice"
        run_id = "r1"
        thread_id = None

    async with a_manager() as manager:
        answers = {}
        finish = asyncio.Event()
        async with asyncio.TaskGroup() as group:

            async def agent() -> None:
                async with manager.create_agent_bridge(Context()).run("agent"):
                    await finish.wait()

            task = group.create_task(agent())
            await until(lambda: len(manager.runs) == 1)
            for user in ("bob", "Alice", "alice "):
                tab = await Tab.open(manager, user)
                for run_id in ("r1", "nobodys"):
                    tab.socket.client_sends({"type": "cancel", "run_id": run_id})
                await until(lambda tab=tab: len(tab.socket.of_type("error")) == 2)  # type: ignore[misc]
                answers[user] = tab.socket.of_type("error")
            assert not task.done()
            finish.set()
        for mine, nobodys in answers.values():
            assert mine == nobodys
            assert mine["code"] == "not_found"


@virtual_time
async def test_no_metric_carries_an_identity_and_their_number_is_constant() -> None:
    registry = CollectorRegistry()
    metrics = Metrics()
    metrics.register(registry)
    before = len(generate_latest(registry).splitlines())
    async with a_manager(metrics=metrics) as manager:
        for number in range(20):
            tab = await Tab.open(manager, f"canary-{number}", f"canary-connection-{number}")
            await manager.get_emitter(f"canary-{number}").emit("canary_type", {"n": 1}, run_id="canary-run")
            await tab.has(1)
        text = generate_latest(registry).decode()
    assert "canary" not in text
    assert len(text.splitlines()) == before
    assert "isolation_violations_total 0.0" in text


@virtual_time
async def test_a_key_in_the_data_replaces_no_field_of_the_envelope() -> None:
    envelope = {"type": "connected", "user_id": "bob", "cursor": "x.1.y", "id": "i", "timestamp": "t", "data": {}}
    async with a_manager() as manager:
        mine = await Tab.open(manager, "alice")
        his = await Tab.open(manager, "bob")
        await manager.get_emitter("alice").emit("custom", envelope, run_id="r", thread_id="t")
        await mine.has(1)
        await turns()
        event = mine.events[0]
        assert (event["type"], event["user_id"], event["data"]) == ("custom", "alice", envelope)
        assert json.loads(mine.socket.texts[-1]) == event
        assert his.events == []
