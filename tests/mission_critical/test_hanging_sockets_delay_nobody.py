"""Promise: a reader that is slow, hung or dead delays nobody: no emit, no other tab, no other user, no agent.

The log is the buffer. A hung connection holds a position and one batch, and is gone within the write time-out.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import tracemalloc

import pytest

from tests.support import FakeSocket, Tab, a_manager, turns, until, virtual_time
from websocket_core.limits import Limits, Retention
from websocket_core.wire import PROTOCOL

PROTOCOLS = pytest.mark.parametrize("v1", [False, True], ids=["plain", "v1"])


async def a_hung_tab(manager: object, user: str = "alice", *, v1: bool = False) -> Tab:
    tab = await Tab.open(manager, user, v1=v1)  # type: ignore[arg-type]
    await tab.greeted()
    tab.socket.block()
    return tab


@PROTOCOLS
@virtual_time
async def test_a_hung_socket_delays_no_emit_no_other_tab_and_no_other_user(v1: bool) -> None:
    loop = asyncio.get_running_loop()
    limits = Limits(write_timeout=30.0)
    async with a_manager(limits=limits) as manager:
        hung = [await a_hung_tab(manager, v1=v1) for _ in range(3)]
        other_tab = await Tab.open(manager, "alice", v1=v1)
        other_user = await Tab.open(manager, "bob", v1=v1)
        began = loop.time()
        for n in range(1_000):
            await manager.get_emitter("alice").emit("custom", {"n": n})
            await manager.get_emitter("bob").emit("custom", {"n": n})
        assert loop.time() == began, "no emit waited for anything but its turn"
        for tab in (other_tab, other_user):
            await tab.socket.wait_for(lambda socket: len(socket.frames) > 1_000)
            assert tab.numbers == list(range(1_000))
        company = limits.burst_window if v1 else 0.0
        assert loop.time() <= began + company, "no delivery waited either, but for company in its frame"
        assert [tab.events for tab in hung] == [[], [], []]


@PROTOCOLS
@virtual_time
async def test_a_hung_connection_is_deregistered_after_the_write_time_out_and_counted(v1: bool) -> None:
    loop = asyncio.get_running_loop()
    gone: list[float] = []

    async def note(_connection: object) -> None:
        gone.append(loop.time())

    limits = Limits(write_timeout=2.0, sweep_interval=0.5)
    async with a_manager(limits=limits, on_disconnect=note) as manager:
        hung = await a_hung_tab(manager, v1=v1)
        healthy = await Tab.open(manager, "alice", v1=v1)
        await healthy.greeted()
        await asyncio.sleep(10.0)
        assert gone == [], "who has nothing to read hangs nowhere"
        began = loop.time()
        await manager.get_emitter("alice").emit("custom", {"n": 1})
        await hung.ended(seconds=10.0)
        assert len(gone) == 1
        assert 2.0 <= gone[0] - began <= 2.6
        assert manager.metrics.stale == 1
        assert manager.get_stats()["total_connections"] == 1
        assert hung.connection.is_healthy is False
        assert healthy.connection.is_healthy is True
        assert hung.serving.done(), "the endpoint returns, so that the server can drop the socket"


@virtual_time
async def test_a_reader_that_is_slow_but_reads_stays() -> None:
    class Slow(FakeSocket):
        async def send_text(self, data: str) -> None:
            await asyncio.sleep(1.5)
            await super().send_text(data)

    async with a_manager(limits=Limits(write_timeout=2.0, sweep_interval=0.5)) as manager:
        tab = await Tab.open(manager, "alice", socket=Slow())
        for n in range(20):
            await manager.get_emitter("alice").emit("custom", {"n": n})
        await tab.has(20, seconds=60.0)
        assert tab.numbers == list(range(20))
        assert manager.metrics.stale == 0


@virtual_time
async def test_a_socket_that_hangs_from_its_first_frame_on_is_found() -> None:
    async with a_manager(limits=Limits(write_timeout=2.0, sweep_interval=0.5)) as manager:
        socket = FakeSocket()
        socket.block()
        tab = await Tab.open(manager, "alice", socket=socket)
        await tab.ended(seconds=5.0)
        assert socket.frames == []
        assert manager.get_stats()["total_connections"] == 0


@virtual_time
async def test_a_socket_that_hangs_at_its_close_is_found() -> None:
    async with a_manager(limits=Limits(write_timeout=2.0, sweep_interval=0.5)) as manager:
        tab = await a_hung_tab(manager)
        await manager.disconnect_user("alice")
        assert manager.get_stats()["total_connections"] == 0, "it counts no more at once"
        await tab.ended(seconds=5.0)
        assert tab.socket.close_code is None
        await turns()


@virtual_time
async def test_a_heartbeat_finds_a_socket_that_hangs_while_nothing_is_emitted() -> None:
    async with a_manager(limits=Limits(heartbeat=10.0, write_timeout=2.0, sweep_interval=0.5)) as manager:
        tab = await a_hung_tab(manager)
        await tab.ended(seconds=15.0)
        assert manager.get_stats()["total_connections"] == 0


@pytest.mark.parametrize("error", [ConnectionResetError(), RuntimeError("x"), OSError(), ValueError()], ids=repr)
@virtual_time
async def test_a_socket_that_raises_is_gone_at_once(error: Exception) -> None:
    class Broken(FakeSocket):
        async def send_text(self, data: str) -> None:
            if self.frames:
                raise error
            await super().send_text(data)

    async with a_manager() as manager:
        tab = await Tab.open(manager, "alice", socket=Broken())
        await tab.greeted()
        await manager.get_emitter("alice").emit("custom", {})
        await tab.ended(seconds=1.0)
        assert manager.get_stats()["total_connections"] == 0
        assert tab.socket.close_code is None


@PROTOCOLS
@virtual_time
async def test_a_hung_connection_holds_one_batch_at_most(v1: bool) -> None:
    """What it holds does not grow with what is emitted, in memory that is measured."""
    limits = Limits(write_timeout=3_600.0, batch_bytes=16_384)
    retention = Retention(events=50, bytes=65_536)

    async def grown(tabs: int) -> int:
        """By how much memory grows with so many hung tabs while 60 times what is retained is emitted."""
        async with a_manager(limits=limits, retention=retention) as manager:
            hung = [await a_hung_tab(manager, f"user-{number}", v1=v1) for number in range(tabs)]
            users = [tab.connection.user_id for tab in hung]
            for user in users:
                for n in range(100):
                    await manager.get_emitter(user).emit("custom", {"n": n, "pad": "x" * 1_000})
            await turns()
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            for user in users:
                for n in range(1_000):
                    await manager.get_emitter(user).emit("custom", {"n": n, "pad": "x" * 1_000})
            await turns()
            gc.collect()
            after = tracemalloc.get_traced_memory()[0]
            for tab in hung:
                assert tab.socket.write_sizes[1:] != []
                assert max(tab.socket.write_sizes) <= limits.batch_bytes
                tab.socket.client_leaves()
                await tab.serving
            return after - before

    tracemalloc.start()
    try:
        assert await grown(5) < 5 * 40_000, "a thousand events of a kilobyte each were emitted to each of them"
    finally:
        tracemalloc.stop()


@PROTOCOLS
@virtual_time
async def test_hanging_and_going_on_loses_nothing_and_doubles_nothing(v1: bool) -> None:
    async with a_manager() as manager:
        tab = await Tab.open(manager, "alice", v1=v1)
        await tab.greeted()
        number = itertools.count()
        for _ in range(20):
            tab.socket.block()
            for _ in range(50):
                await manager.get_emitter("alice").emit("custom", {"n": next(number)})
            await turns(5)
            tab.socket.unblock()
            await turns(3)
        await tab.has(1_000)
        assert tab.numbers == list(range(1_000))
        assert tab.socket.of_type("gap") == []


@virtual_time
async def test_a_client_that_sends_much_and_reads_nothing_is_held_up_and_grows_nothing() -> None:
    """With 64 answers waiting, no further frame is read from it; so what waits for it is bounded."""
    async with a_manager(limits=Limits(write_timeout=3_600.0, frames_per_second=1_000.0)) as manager:
        socket = FakeSocket(subprotocol=PROTOCOL)
        tab = await Tab.open(manager, "alice", socket=socket)
        await tab.greeted()
        socket.block()
        for n in range(1_000):
            socket.client_sends({"type": "ping", "request_id": str(n)})
        await asyncio.sleep(1.0)
        assert len(socket._incoming) >= 1_000 - 2 * 64 - 2
        socket.unblock()
        await until(lambda: len(socket.of_type("pong")) == 1_000)
        assert [frame["request_id"] for frame in socket.of_type("pong")] == [str(n) for n in range(1_000)]


@virtual_time
async def test_closing_a_slow_connection_does_not_wait_for_the_rest_of_its_batch() -> None:
    """Each frame takes long but not too long; the close comes after the one that is under way."""
    loop = asyncio.get_running_loop()
    async with a_manager(limits=Limits(write_timeout=2.0, sweep_interval=0.5)) as manager:
        for n in range(200):
            await manager.get_emitter("alice").emit("custom", {"n": n})
        tab = await Tab.open(manager, "alice", "tab", socket=Slow())
        await tab.has(2, seconds=10.0)
        began = loop.time()
        await Tab.open(manager, "alice", "tab", cursor="latest")
        assert await tab.ended(seconds=400.0) == 4409
        assert loop.time() - began <= Slow.SECONDS + 0.1


class Slow(FakeSocket):
    """Takes each frame, after a while."""

    SECONDS = 1.5

    async def send_text(self, data: str) -> None:
        await asyncio.sleep(self.SECONDS)
        await super().send_text(data)


@pytest.mark.parametrize("code", [1000, 4410])
@virtual_time
async def test_an_order_to_go_reaches_a_slow_connection_within_two_seconds(code: int) -> None:
    """However much it has not been sent yet. A write that is under way by then is cut, so it may learn no code."""
    loop = asyncio.get_running_loop()
    async with a_manager(limits=Limits(batch_events=10)) as manager:
        for n in range(200):
            await manager.get_emitter("alice").emit("custom", {"n": n})
        tab = await Tab.open(manager, "alice", "tab", socket=Slow())
        await tab.has(2, seconds=10.0)
        began = loop.time()
        await (manager.disconnect_user("alice", "tab") if code == 1000 else manager.revoke("alice"))
        assert await tab.ended(seconds=400.0) in (None, code)
        assert loop.time() - began <= 2.0 + 0.1
        assert len(tab.events) < 10
        assert manager.get_stats()["total_connections"] == 0
