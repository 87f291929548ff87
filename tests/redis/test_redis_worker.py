"""Promise: a process that serves nobody emits to any user, and the user's tabs anywhere see it in order, once."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.redis.marks import NEEDS_REDIS
from tests.redis.server import RedisServer
from tests.support import Tab, a_manager, check_runs, until
from websocket_core import emitter_for
from websocket_core.errors import AppendFailed, UnknownConnection
from websocket_core.limits import Limits, RetryPolicy
from websocket_core.unified_manager import UnifiedWebSocketManager
from websocket_core.worker import SyncWorker, Worker

pytestmark = NEEDS_REDIS

REPOSITORY = Path(__file__).resolve().parents[2]

_numbers = itertools.count()


@pytest.fixture
def namespace() -> str:
    return f"worker{os.getpid()}.{next(_numbers)}"


def a_server_process(server: RedisServer, namespace: str, **options: Any) -> UnifiedWebSocketManager:
    return a_manager(server.url, namespace=namespace, **options)


def clients(server: RedisServer) -> list[str]:
    """The connections that Redis has beside the one that asks, each by the number of its subscriptions."""
    lines = server.ask("CLIENT", "LIST").decode().splitlines()[1:]
    fields = [dict(field.partition("=")[::2] for field in line.split(" ")) for line in lines]
    known = sorted((one for one in fields if "sub" in one), key=lambda one: int(one["id"]))
    return [f"sub={one['sub']}" for one in known[:-1]]  # the last to come is the one that asks


async def run(code: str, *arguments: str) -> str:
    """Run Python in a process of the operating system, with this one's path; what it printed."""
    code = f"import sys; sys.path[:0] = {sys.path!r}\n{code}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(30.0):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, err.decode()
    assert not err, err.decode()
    return out.decode()


# -- one user


async def test_what_a_worker_emits_reaches_the_tabs_of_its_user_and_no_other(
    server: RedisServer, namespace: str
) -> None:
    async with (
        a_server_process(server, namespace) as one,
        a_server_process(server, namespace) as other,
        emitter_for(server.url, "alice", namespace=namespace, run_id="r1") as emitter,
    ):
        tabs = [await Tab.open(manager, "alice") for manager in (one, other)]
        stranger = await Tab.open(one, "bob")
        for number in range(20):
            await emitter.emit("t", {"n": number})
        for tab in tabs:
            assert [event["data"]["n"] for event in await tab.has(20)] == list(range(20))
            assert {event["run_id"] for event in tab.events} == {"r1"}
        await one.get_emitter("bob").emit("t", {"n": -1})
        await stranger.has(1)
        assert stranger.numbers == [-1]


async def test_code_that_cannot_await_emits_in_its_own_order_and_leaves_no_thread_and_no_connection(
    server: RedisServer, namespace: str
) -> None:
    before = threading.active_count()

    def task() -> int:
        with emitter_for(server.url, user_id="alice", namespace=namespace) as emitter:
            for number in range(0, 10, 2):
                emitter.post("t", {"n": number})
                position = emitter.emit("t", {"n": number + 1})
            emitter.post("t", {"n": 10})
        return position.offset

    async with a_server_process(server, namespace) as manager:
        tab = await Tab.open(manager, "alice")
        await tab.greeted()
        await manager.get_emitter("bob").emit("t", {"n": 0})  # it has all its connections now
        connections = len(clients(server))
        assert await asyncio.to_thread(task) == 10
        await tab.has(11)
        assert tab.numbers == list(range(11))
        await until(lambda: len(clients(server)) == connections, "the end of the connection")
    assert "websocket_core worker" not in [thread.name for thread in threading.enumerate()]
    assert threading.active_count() <= before + 1  # of `to_thread`


async def test_a_worker_opens_one_connection_and_no_subscriber(server: RedisServer, namespace: str) -> None:
    await until(lambda: not clients(server), "the end of those of other tests")
    async with Worker(server.url, namespace=namespace) as worker:
        assert not clients(server)
        await asyncio.gather(*[worker.emitter(f"user{n % 7}").emit("t", {"n": n}) for n in range(50)])
        assert clients(server) == ["sub=0"]
    await until(lambda: not clients(server), "the end of the connection")


async def test_leaving_the_block_waits_for_what_nobody_awaited(server: RedisServer, namespace: str) -> None:
    async with emitter_for(server.url, "alice", namespace=namespace) as emitter:
        emits = [asyncio.create_task(emitter.emit("t", {"n": number})) for number in range(300)]
        await asyncio.sleep(0)
    assert all(emit.done() for emit in emits)
    assert [emit.result().offset for emit in emits] == list(range(1, 301))


async def test_a_retry_with_the_same_event_id_in_another_process_is_no_second_event(
    server: RedisServer, namespace: str
) -> None:
    positions = []
    for _ in range(2):
        async with emitter_for(server.url, "alice", namespace=namespace) as emitter:
            positions.append(await emitter.emit("t", {"n": 1}, event_id="job-17.started"))
    assert positions[0] == positions[1]


async def test_an_event_for_one_connection_is_read_by_that_one_and_an_unknown_one_is_refused(
    server: RedisServer, namespace: str
) -> None:
    async with (
        a_server_process(server, namespace) as manager,
        emitter_for(server.url, "alice", namespace=namespace) as emitter,
    ):
        first, second = [await Tab.open(manager, "alice", name) for name in ("first", "second")]
        await Tab.open(manager, "bob", "bobs")
        await emitter.emit("t", {"n": 1}, connection_id="second")
        await emitter.emit("t", {"n": 2})
        await asyncio.gather(first.has(1), second.has(2))
        assert (first.numbers, second.numbers) == ([2], [1, 2])
        for unknown in ("third", "bobs"):
            with pytest.raises(UnknownConnection):
                await emitter.emit("t", {"n": 3}, connection_id=unknown)


async def test_without_redis_every_call_fails_in_bounded_time_and_names_the_event(tmp_path: Path) -> None:
    away = RedisServer(tmp_path)
    away.kill()
    limits = Limits(shutdown_timeout=0.5)
    retry = RetryPolicy(attempts=3, initial=0.001, maximum=0.002, seconds=0.5)
    before = time.monotonic()
    async with emitter_for(away.url, "alice", retry=retry, limits=limits) as emitter:
        for options in ({}, {"connection_id": "c"}):
            with pytest.raises(AppendFailed) as failed:
                await emitter.emit("t", {}, event_id="e1", **options)
            assert failed.value.event_id == "e1"

    def task() -> None:
        with emitter_for(away.url, "alice", retry=retry, limits=limits) as emitter:
            emitter.post("t", {})
            with pytest.raises(AppendFailed):
                emitter.emit("t", {})

    await asyncio.to_thread(task)
    assert time.monotonic() - before < 10.0


# -- many users, threads, forks


async def test_several_threads_share_one_worker_and_each_keeps_its_order(server: RedisServer, namespace: str) -> None:
    def task(worker: SyncWorker, thread: int) -> None:
        emitter = worker.emitter("alice", thread_id=str(thread))
        for number in range(50):
            emitter.emit("t", {"n": number})

    async with a_server_process(server, namespace) as manager:
        tab = await Tab.open(manager, "alice")
        worker = SyncWorker(server.url, namespace=namespace)
        await asyncio.gather(*[asyncio.to_thread(task, worker, thread) for thread in range(4)])
        await asyncio.to_thread(worker.close)
        events = await tab.has(200)
        for thread in range(4):
            assert [event["data"]["n"] for event in events if event["thread_id"] == str(thread)] == list(range(50))


FORKING = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later warn of forks beside threads
from websocket_core.worker import SyncWorker
url, namespace = sys.argv[1:]
worker = SyncWorker(url, namespace=namespace)
worker.emitter("alice").emit("t", {"n": "parent"}, thread_id="before")
children = []
for child in range(3):
    pid = os.fork()
    if pid == 0:
        emitter = worker.emitter("alice", thread_id=f"child{child}")
        for number in range(20):
            emitter.emit("t", {"n": number})
        worker.close()
        os._exit(0)
    children.append(pid)
for number in range(20):
    worker.emitter("alice", thread_id="parent").emit("t", {"n": number})
for pid in children:
    assert os.waitpid(pid, 0)[1] == 0
worker.emitter("alice").post("t", {"n": "last"}, thread_id="after")
"""


async def test_a_worker_that_is_forked_in_the_midst_works_in_every_process_and_flushes_at_the_exit(
    server: RedisServer, namespace: str
) -> None:
    async with a_server_process(server, namespace) as manager:
        tab = await Tab.open(manager, "alice")
        await run(FORKING, server.url, namespace)
        events = await tab.has(82)
        assert len({event["id"] for event in events}) == 82
        for name in ("parent", "child0", "child1", "child2"):
            assert [event["data"]["n"] for event in events if event["thread_id"] == name] == list(range(20))
        assert events[-1]["data"]["n"] == "last"


# -- an agent in a worker


AN_AGENT = """
import asyncio, sys
from bridge import UserExecutionContext
from websocket_core import UnifiedWebSocketManager

async def main(url, namespace):
    async with UnifiedWebSocketManager(log=url, namespace=namespace) as manager:
        bridge = manager.create_agent_bridge(UserExecutionContext("alice", "r1", "t1"))
        async with bridge.run("planner") as run:
            await run.thinking("Looking for flights")
            async with run.tool("search", query="LIS") as tool:
                tool.result = {"hits": 3}
            await run.delta("Three ")
            await run.delta("flights")
            run.result = {"answer": "Three flights"}

asyncio.run(main(*sys.argv[1:]))
"""


async def test_an_agent_that_runs_in_another_process_is_seen_in_every_tab(server: RedisServer, namespace: str) -> None:
    """A manager without connections gives a worker the bridge."""
    async with a_server_process(server, namespace) as manager:
        tab = await Tab.open(manager, "alice")
        await run(AN_AGENT, server.url, namespace)
        await until(lambda: tab.events and tab.events[-1]["type"] == "agent_completed", "the end of the run")
        check_runs(tab.events)
        kinds = [event["type"] for event in tab.events]
        assert kinds[:4] == ["agent_started", "agent_thinking", "tool_executing", "tool_completed"]
        assert {(event["run_id"], event["thread_id"]) for event in tab.events} == {("r1", "t1")}


# -- Celery


async def test_a_celery_task_tells_its_user_in_order_and_once_although_it_is_tried_again(
    server: RedisServer, namespace: str
) -> None:
    """The example, in a real worker that forks: its task fails after three events, and is tried again."""
    if find_spec("celery") is None and not os.environ.get("CI"):
        pytest.skip("celery is not installed: make setup")
    environment = {
        **os.environ,
        "REDIS_URL": server.url,
        "BROKER_URL": f"{server.url[:-2]}/1",
        "NAMESPACE": namespace,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = f"{sys.executable} -m celery -A examples.celery_worker.tasks worker --concurrency 1 --loglevel WARNING"
    quiet = "--without-gossip --without-mingle --without-heartbeat"
    celery = await asyncio.create_subprocess_exec(
        *command.split(),
        *quiet.split(),
        cwd=REPOSITORY,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        async with a_server_process(server, namespace) as manager:
            tab = await Tab.open(manager, "alice")
            stranger = await Tab.open(manager, "bob")
            asking = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "examples.celery_worker", "alice", "LIS",
                cwd=REPOSITORY, env=environment, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            task_id = (await asking.communicate())[0].decode().strip()
            events = await tab.has(5, seconds=10.0)
            assert [event["type"] for event in events] == [
                "agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed",
            ]  # fmt: skip
            assert {event["run_id"] for event in events} == {task_id}
            check_runs(events)
            await manager.get_emitter("alice").emit("t", {})  # what was told twice would stand before it
            assert [event["type"] for event in await tab.has(6)][5:] == ["t"]
            assert not stranger.events
        celery.send_signal(signal.SIGTERM)
        async with asyncio.timeout(5.0):
            said = (await celery.communicate())[0].decode()
        assert celery.returncode == 0, said
        assert "Traceback" not in said, said
    finally:
        if celery.returncode is None:
            os.killpg(celery.pid, signal.SIGKILL)  # a session of its own: the worker and what it forked
            await celery.wait()
