"""Promise: the number of metric series does not grow with users, and no series says who they are."""

from __future__ import annotations

import contextlib

from prometheus_client import CollectorRegistry, generate_latest

from bridge import UserExecutionContext
from tests.support import FakeSocket, Tab, a_manager, turns, virtual_time
from websocket_core.errors import ConnectionRefused, InvalidInput
from websocket_core.identity import Principal
from websocket_core.limits import Limits, Retention
from websocket_core.metrics import Metrics

USERS = 10_000


def series(metrics: Metrics) -> list[str]:
    """The names of all series, with their labels."""
    registry = CollectorRegistry()
    metrics.register(registry)
    lines = generate_latest(registry).decode().splitlines()
    return [line.rpartition(" ")[0] for line in lines if not line.startswith("#")]


@virtual_time
async def test_ten_thousand_users_leave_the_series_as_they_were() -> None:
    """Each with a thread, a run and an event type of its own, every fifth with a connection, a token and a close."""
    metrics = Metrics()
    before = series(metrics)
    limits = Limits(connections=USERS // 5, sweep_interval=100.0)
    async with a_manager(limits=limits, metrics=metrics) as manager:
        for n in range(USERS):
            user = f"user-{n}"
            await manager.get_emitter(user).emit(f"type-{n}", {"n": n}, run_id=f"run-{n}", thread_id=f"thread-{n}")
            if n % 5:
                continue
            socket = FakeSocket()
            principal = Principal(user, token_id=f"token-{n}")
            await manager.connect_user(socket, user, f"tab-{n}", principal=principal)
            if n % 100 == 0:
                await turns(3)
                socket.client_leaves(3_000 + n // 100)
                await manager.revoke(user, f"token-{n}")
        await turns(5)
        assert metrics.connections >= USERS // 5 * 0.9
        assert metrics.events_delivered >= USERS // 5 * 0.9
        assert series(metrics) == before
        refused = FakeSocket()
        try:
            for n in range(200):
                await manager.connect_user(refused, f"more-{n}")
        except ConnectionRefused:
            pass
        assert series(metrics) == before


@virtual_time
async def test_a_thousand_ways_to_fail_leave_the_series_as_they_were() -> None:
    """Frames of a thousand unknown types, events that are refused, gaps, evictions, runs that fail in ways of their
    own."""
    metrics = Metrics()
    before = series(metrics)
    limits = Limits(frames_per_second=100_000, connections_per_user=3)
    async with a_manager(limits=limits, metrics=metrics, retention=Retention(events=2)) as manager:
        tab = await Tab.open(manager, "alice")
        await tab.greeted()
        for n in range(1_000):
            tab.socket.client_sends({"type": f"unknown-{n}", "request_id": f"request-{n}"})
            if n % 10 == 0:
                with contextlib.suppress(InvalidInput):
                    await manager.get_emitter("alice").emit(f"bad\n{n}", {"n": n})
            if n % 50 == 0:
                await turns(30)
        for n in range(20):
            await Tab.open(manager, "alice", f"tab-{n}", cursor=f"epoch-{n}.7.mark-{n}")
            error = type(f"Error{n}", (LookupError,), {})
            try:
                async with manager.create_agent_bridge(UserExecutionContext("alice", f"run-{n}")).run(f"agent-{n}"):
                    raise error(f"reason-{n}")
            except LookupError:
                pass
        await turns(200)
        assert metrics.gaps > 0
        assert metrics.evictions > 0
        assert series(metrics) == before


def test_the_labels_of_all_series_are_bounds_of_buckets() -> None:
    """A label is where a user would come in."""
    metrics = Metrics()
    registry = CollectorRegistry()
    metrics.register(registry)
    labels = {name for family in registry.collect() for sample in family.samples for name in sample.labels}
    assert labels == {"le"}
    assert len(series(metrics)) < 100
