"""Promise: the limits hold at every moment, and who has to go is the one that has been there longest.

A user above the limit loses the own oldest connection by arrival; a manager that is full refuses the newcomer.
"""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.support import FakeSocket, Tab, TroubledLog, a_manager, turns, until, virtual_time
from websocket_core.connection import WebSocketConnection
from websocket_core.errors import ConnectionRefused
from websocket_core.limits import Limits
from websocket_core.state import MemoryState


@virtual_time
async def test_the_oldest_by_arrival_goes_and_not_the_first_by_name() -> None:
    """Ids are chosen so that order of arrival, alphabetical order and length all differ."""
    arrivals = ["m", "zz", "a", "9", "B", "aa", "z", "0"]
    async with a_manager(limits=Limits(connections_per_user=3)) as manager:
        tabs: dict[str, Tab] = {}
        for number, name in enumerate(arrivals):
            tabs[name] = await Tab.open(manager, "alice", name)
            await tabs[name].greeted()
            if number >= 3:
                oldest = arrivals[number - 3]
                assert await tabs[oldest].ended() == 4409, oldest
            alive = [name for name, tab in tabs.items() if tab.connection.state == "open"]
            assert alive == arrivals[max(0, number - 2) : number + 1]
        assert manager.metrics.evictions == len(arrivals) - 3


@virtual_time
async def test_activity_does_not_make_a_connection_younger() -> None:
    async with a_manager(limits=Limits(connections_per_user=2)) as manager:
        first, second = [await Tab.open(manager, "alice", name) for name in ("b", "a")]
        first.socket.client_sends({"type": "ping"})
        await manager.get_emitter("alice").emit("custom", {"n": 1}, connection_id="b")
        await first.has(1)
        await Tab.open(manager, "alice", "c")
        assert await first.ended() == 4409
        assert second.connection.state == "open"


@virtual_time
async def test_a_tab_that_came_back_is_the_youngest() -> None:
    async with a_manager(limits=Limits(connections_per_user=2)) as manager:
        first, second = [await Tab.open(manager, "alice", name) for name in ("one", "two")]
        await first.greeted()
        again = await Tab.open(manager, "alice", "one")
        assert await first.ended() == 4409
        await Tab.open(manager, "alice", "three")
        assert await second.ended() == 4409
        assert again.connection.state == "open"


@virtual_time
async def test_the_same_connection_id_replaces_its_connection() -> None:
    async with a_manager() as manager:
        old, other = [await Tab.open(manager, "alice", name) for name in ("same", "other")]
        elsewhere = await Tab.open(manager, "bob", "same")
        await manager.get_emitter("alice").emit("custom", {"n": 1})
        await old.has(1)
        new = await Tab.open(manager, "alice", "same", cursor=old.cursor)
        assert await old.ended() == 4409
        await manager.get_emitter("alice").emit("custom", {"n": 2})
        await new.has(1)
        await other.has(2)
        assert (old.numbers, new.numbers) == ([1], [2])
        assert elsewhere.connection.state == "open"
        assert manager.get_stats()["total_connections"] == 3
        assert manager.metrics.connections == 3


@pytest.mark.parametrize("seed", range(3))
@virtual_time
async def test_fifty_connects_at_once_never_exceed_the_limit(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At no moment are more registered than allowed, although every step of a connect gives up the loop."""
    rng = random.Random(seed)
    most = 0

    class SlowState(MemoryState):
        async def remember_connection(self, user_id: object, connection_id: str) -> None:
            await asyncio.sleep(rng.random() * 0.001)

    class SlowSocket(FakeSocket):
        class application_state:
            name = "CONNECTING"

        async def accept(self) -> None:
            await asyncio.sleep(rng.random() * 0.001)

    state = SlowState(age=3_600.0, per_user=1_000)
    async with a_manager(TroubledLog(), limits=Limits(connections_per_user=4), state=state) as manager:
        tabs: list[Tab] = []

        async def connect(user: str, number: int) -> None:
            tabs.append(await Tab.open(manager, user, f"{number}", socket=SlowSocket()))

        add = manager._registry.add

        def watched(connection: WebSocketConnection, *, per_user: int) -> WebSocketConnection | None:
            nonlocal most
            replaced = add(connection, per_user=per_user)
            most = max(most, len(manager._registry.of(connection.user_id)))
            return replaced

        monkeypatch.setattr(manager._registry, "add", watched)
        async with asyncio.TaskGroup() as group:
            for number in range(50):
                group.create_task(connect("alice", number))
                group.create_task(connect("bob", number))
        await until(lambda: sum(tab.serving.done() for tab in tabs) == 92)
        assert most == 4
        codes = [tab.socket.close_code for tab in tabs]
        assert codes.count(None) == 8
        assert codes.count(4409) + codes.count(None) == 100
        assert manager.get_stats()["total_connections"] == manager.metrics.connections == 8
        await manager.get_emitter("alice").emit("custom", {"n": 1})
        await turns()
        assert sum(bool(tab.events) for tab in tabs) == 4


@virtual_time
async def test_a_full_manager_refuses_the_newcomer_and_keeps_who_is_there() -> None:
    async with a_manager(limits=Limits(connections=3)) as manager:
        tabs = [await Tab.open(manager, user) for user in ("alice", "bob", "carol")]
        socket = FakeSocket()
        with pytest.raises(ConnectionRefused) as refused:
            await manager.connect_user(socket, "dave")
        assert refused.value.code == socket.close_code == 1013
        assert socket.frames == []
        assert manager.metrics.refusals == 1
        assert all(tab.connection.state == "open" for tab in tabs)
        await tabs[0].cut()
        await Tab.open(manager, "dave")
        assert manager.get_stats()["total_connections"] == 3


@virtual_time
async def test_the_total_limit_holds_for_fifty_connects_at_once() -> None:
    async with a_manager(TroubledLog(), limits=Limits(connections=10)) as manager:
        sockets = [FakeSocket() for _ in range(50)]
        outcomes = await asyncio.gather(
            *(manager.connect_user(socket, f"user-{n}") for n, socket in enumerate(sockets)), return_exceptions=True
        )
        refused = [outcome for outcome in outcomes if isinstance(outcome, ConnectionRefused)]
        assert len(refused) == 40
        assert manager.get_stats()["total_connections"] == 10
        assert sum(socket.close_code == 1013 for socket in sockets) == 40


@virtual_time
async def test_one_user_at_the_limit_is_no_limit_for_another() -> None:
    async with a_manager(limits=Limits(connections_per_user=2)) as manager:
        bobs = [await Tab.open(manager, "bob", name) for name in ("one", "two")]
        for number in range(20):
            await Tab.open(manager, "alice", f"{number}")
        assert all(tab.connection.state == "open" for tab in bobs)
        assert len(manager._registry.of(bobs[0].connection.user_id)) == 2


@virtual_time
async def test_the_default_limits_are_those_that_are_documented() -> None:
    limits = Limits()
    assert (limits.connections_per_user, limits.connections) == (10, 10_000)
    async with a_manager() as manager:
        assert (manager.MAX_CONNECTIONS_PER_USER, manager.MAX_TOTAL_CONNECTIONS) == (10, 10_000)
        assert limits.outbox == manager.MAX_PENDING_MESSAGES
        tabs = [await Tab.open(manager, "alice") for _ in range(11)]
        assert await tabs[0].ended() == 4409
        assert manager.get_stats()["total_connections"] == 10
