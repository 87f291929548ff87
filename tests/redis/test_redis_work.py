"""The laws of work in Redis, what is found there that is none of ours, and workers that are killed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import statistics
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.redis.marks import NEEDS_REDIS
from tests.redis.server import RedisServer
from tests.support import Tab, a_manager, until
from tests.work_laws import MakeQueue, WorkLaws, an_item, ids, one, taken_in_time
from websocket_core.commands import Command, Commands
from websocket_core.errors import LogUnavailable
from websocket_core.logs.redis import RedisLog
from websocket_core.metrics import Metrics
from websocket_core.work import Outcome, Put, WorkLimits, WorkQueue
from websocket_core.worker import Worker

pytestmark = NEEDS_REDIS

_numbers = itertools.count()


@pytest.fixture
def namespace() -> str:
    return f"work{os.getpid()}.{next(_numbers)}"


@pytest.fixture
async def make(server: RedisServer, namespace: str) -> AsyncIterator[MakeQueue]:
    """Each queue over connections of its own, as in a process of its own."""
    logs: list[RedisLog] = []

    def making(**limits: int | float) -> WorkQueue:
        logs.append(RedisLog(server.url, namespace=namespace))
        return logs[-1].work("commands", WorkLimits(**limits))  # type: ignore[arg-type]

    yield making
    for log in logs:
        await log.close()


class TestRedisWork(WorkLaws):
    pass


STREAM = "{wY29tbWFuZHM}:s"


async def tell(server: RedisServer, *command: Any) -> Any:
    client: Redis = Redis.from_url(server.url, protocol=2)
    try:
        return await client.execute_command(*command)  # type: ignore[no-untyped-call]
    finally:
        await client.aclose()


# -- what is found in Redis


async def test_what_is_none_of_ours_is_set_aside_and_counted_and_what_comes_behind_it_is_done(
    server: RedisServer, namespace: str
) -> None:
    good = {"n": "alice", "i": "c1", "k": "ask", "h": "", "c": "", "b": "{}"}
    foreign: list[dict[str, Any]] = [
        {"hello": "world"},
        {**good, "extra": "x"},
        {name: value for name, value in good.items() if name != "n"},
        {**good, "n": ""},
        {**good, "n": "a\nb"},
        {**good, "n": "x" * 300},
        {**good, "n": b"\xff\xfe"},
        {**good, "i": "not an id"},
        {**good, "k": ""},
        {**good, "b": "not JSON"},
        {**good, "b": "[1]"},
        {**good, "b": "[" * 100_000},
        {**good, "b": b"\xff"},
        {**good, "b": json.dumps({"text": "x" * 2_000_000})},
        {**good, "b": b"\x80\x04\x95\x0f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix."},
    ]
    metrics = Metrics()
    async with Worker(server.url, namespace=namespace, metrics=metrics) as worker:
        commands = Commands(worker)
        for entry in foreign:
            fields = [part for pair in entry.items() for part in pair]
            await tell(server, "XADD", f"{namespace}:1:{STREAM}", "*", *fields)
        await commands.submit("alice", "ask", {"n": 1})
        done: list[Command] = []

        async def handler(command: Command) -> None:
            done.append(command)

        working = asyncio.create_task(commands.work(handler))
        await until(lambda: done, "the good one")
        assert [command.data for command in done] == [{"n": 1}]
        await until(lambda: metrics.foreign_entries == len(foreign), "the count")
        commands.stop()
        await working
        assert await tell(server, "XLEN", f"{namespace}:1:{STREAM}") == 0
        assert await commands.dead_letters() == []
        kept = await tell(server, "XRANGE", f"{namespace}:1:{STREAM[:-1]}f", "-", "+")
        assert len(kept) == len(foreign)
        assert kept[0][1][b"hello"] == b"world"
        assert max(len(value) for _, fields in kept for value in fields.values()) <= 16_384


async def test_a_stream_that_was_deleted_in_the_midst_is_begun_anew(
    make: MakeQueue, server: RedisServer, namespace: str
) -> None:
    queue = make(waiting_per_user=2)
    for lost in (["DEL", f"{namespace}:1:{STREAM}"], ["FLUSHALL"]):
        for number in (1, 3):
            assert await queue.put(an_item(number)) is Put.TAKEN
        held = await one(queue)
        await tell(server, *lost)
        assert await queue.renew("w1", [held.key]) == [held.key]
        assert not await queue.settle("w1", held, Outcome.DONE)
        assert not await queue.take("w1", 5, ())
        await queue.leave("w1")
        assert await queue.put(an_item(1)) is Put.TAKEN, "what was lost can be asked for again"
        assert await tell(server, "ZCARD", f"{namespace}:1:{STREAM[:-1]}i") == 1, "what was lost is known for ever"
        assert [await queue.put(an_item(n)) for n in (2, 4)] == [Put.TAKEN, Put.FULL], "what was lost counts"
        assert await queue.settle("w1", await one(queue), Outcome.DONE)
        await tell(server, "FLUSHALL")


async def test_the_ids_of_what_was_settled_are_bounded(
    make: MakeQueue, server: RedisServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("websocket_core.logs.redis.work.IDS", 3)
    queue = make()
    for number in range(10):
        await queue.put(an_item(f"waits{number}", f"user{number}"))
    for number in range(10):
        await queue.settle("w1", await one(queue), Outcome.DONE)
        await queue.put(an_item(f"settled{number}"))
    assert await tell(server, "ZCARD", f"{namespace}:1:{STREAM[:-1]}i") == 10 + 3
    assert await queue.put(an_item("waits9", "user9")) is Put.KNOWN


async def test_a_group_that_was_destroyed_gives_everything_again(
    make: MakeQueue, server: RedisServer, namespace: str
) -> None:
    queue = make()
    for number in range(2):
        await queue.put(an_item(number))
    held = await one(queue)
    await tell(server, "XGROUP", "DESTROY", f"{namespace}:1:{STREAM}", "workers")
    assert not await queue.settle("w1", held, Outcome.DONE)
    assert ids(await queue.take("w1", 5, ())) == ["c0", "c1"]


async def test_an_item_that_somebody_deleted_while_it_was_held_is_no_hindrance(
    make: MakeQueue, server: RedisServer, namespace: str
) -> None:
    queue = make(lease=0.05)
    for number in range(2):
        await queue.put(an_item(number))
    held = await queue.take("w1", 2, ())
    await tell(server, "XDEL", f"{namespace}:1:{STREAM}", held[0].key)
    assert (await taken_in_time(queue, "w2")).item.id == "c1"
    assert await queue.settle("w1", held[0], Outcome.DONE) in (True, False)
    await asyncio.sleep(0.1)
    assert ids(await queue.take("w3", 5, ())) == ["c1"]


async def test_another_kind_of_key_in_its_place_is_an_outage_and_no_crash(
    make: MakeQueue, server: RedisServer, namespace: str
) -> None:
    queue = make()
    await tell(server, "SET", f"{namespace}:1:{STREAM}", "x")
    for call in (queue.put(an_item(1)), queue.take("w1", 1, ())):
        with pytest.raises(LogUnavailable):
            await call
    await tell(server, "DEL", f"{namespace}:1:{STREAM}")
    assert await queue.put(an_item(1)) is Put.TAKEN


async def test_users_and_queues_cannot_choose_what_keys_are_called(server: RedisServer, namespace: str) -> None:
    log = RedisLog(server.url, namespace=namespace)
    hostile = "a}:{*\u00fc"
    for name in ("commands", hostile, "Commands"):
        queue = log.work(name, WorkLimits())
        for owner in (hostile, "alice", "{u"):
            assert await queue.put(an_item(1, owner)) is Put.TAKEN
        await queue.settle("w1", await one(queue), Outcome.DEAD)
    keys = await tell(server, "KEYS", f"{namespace}:*")
    tags = {key.decode().partition(":1:")[2].rpartition(":")[0] for key in keys}
    assert len(tags) == 3
    for tag in tags:
        assert tag.startswith("{w")
        assert tag.count("{") == tag.count("}") == 1
        assert set(tag[2:-1]) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    await log.close()


async def test_two_namespaces_and_two_queues_share_nothing(server: RedisServer, namespace: str) -> None:
    logs = [RedisLog(server.url, namespace=name) for name in (namespace, f"{namespace}.other")]
    queues = [log.work(name, WorkLimits()) for log in logs for name in ("commands", "other")]
    for queue in queues:
        assert await queue.put(an_item(1)) is Put.TAKEN
    for queue in queues:
        assert len(await queue.take("w1", 5, ())) == 1
    for log in logs:
        await log.close()


async def test_workers_that_left_are_forgotten(make: MakeQueue, server: RedisServer, namespace: str) -> None:
    queue = make()
    for worker in range(20):
        await queue.put(an_item(worker))
        held = await one(queue, f"w{worker}")
        await queue.settle(f"w{worker}", held, Outcome.AGAIN if worker == 7 else Outcome.DONE)
        await queue.leave(f"w{worker}")
    shown = await tell(server, "XINFO CONSUMERS", f"{namespace}:1:{STREAM}", "workers")
    assert [consumer["name"] for consumer in shown] == [b"w7"], "it has an item that is to be tried again"


# -- across processes


async def test_what_a_tab_sends_is_done_in_another_process_and_answered_in_the_tab(
    server: RedisServer, namespace: str
) -> None:
    async with (
        a_manager(server.url, namespace=namespace) as manager,
        Worker(server.url, namespace=namespace, metrics=Metrics()) as worker,
    ):
        Commands(manager).accept("ask")
        commands = Commands(worker)

        async def answer(command: Command) -> None:
            emitter = worker.emitter(command.user_id, thread_id=command.thread_id)
            await emitter.emit("answer", command.data, event_id=f"{command.command_id}.answer")

        working = asyncio.create_task(commands.work(answer))
        tab, stranger = await Tab.open(manager, "alice"), await Tab.open(manager, "bob")
        for _ in range(2):
            tab.socket.client_sends({"type": "ask", "command_id": "c1", "data": {"text": "hi"}, "thread_id": "t1"})
        (event,) = await tab.has(1)
        assert (event["type"], event["data"], event["thread_id"], event["id"]) == (
            "answer", {"text": "hi"}, "t1", "c1.answer",
        )  # fmt: skip
        assert [frame["result"] for frame in tab.socket.of_type("ack")] == [{"command_id": "c1"}] * 2
        commands.stop()
        await working
        assert not stranger.events


async def test_an_idle_worker_begins_a_command_within_50_ms_and_asks_once_a_second(
    server: RedisServer, namespace: str
) -> None:
    loop = asyncio.get_running_loop()
    async with (
        Worker(server.url, namespace=namespace, metrics=Metrics()) as here,
        Worker(server.url, namespace=namespace, metrics=Metrics()) as there,
    ):
        took: list[float] = []

        async def handler(command: Command) -> None:
            took.append(loop.time() - command.data["at"])

        commands = Commands(there)
        working = asyncio.create_task(commands.work(handler))
        await Commands(here).submit("alice", "ask", {"at": loop.time()})
        await until(lambda: took, "the first")  # and with it the subscription
        took.clear()
        for number in range(1, 21):
            await asyncio.sleep(0.01)
            await Commands(here).submit("alice", "ask", {"at": loop.time()})
            await until(lambda number=number: len(took) == number, "the next")  # type: ignore[misc]
        assert statistics.median(took) < 0.05

        async def scripts() -> int:
            shown = await tell(server, "INFO", "commandstats")
            return int(shown["cmdstat_evalsha"]["calls"])

        before = await scripts()
        await asyncio.sleep(2.5)
        assert await scripts() - before <= 4
        commands.stop()
        await working


WORKER = """
import asyncio, json, os, signal, sys
from websocket_core.commands import Commands
from websocket_core.work import WorkLimits
from websocket_core.worker import Worker

url, namespace, name, limits = sys.argv[1:]

def say(*words):
    print(json.dumps([name, *words]), flush=True)

async def main():
    async with Worker(url, namespace=namespace) as worker:
        commands = Commands(worker, limits=WorkLimits(**json.loads(limits)))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, commands.stop)

        async def handler(command):
            say("begun", command.command_id, command.attempt)
            try:
                await asyncio.sleep(command.data["seconds"])
            except asyncio.CancelledError:
                say("cancelled", command.command_id, command.attempt)
                raise
            await worker.emitter(command.user_id).emit("done", {"n": name}, event_id=f"{command.command_id}.done")
            say("done", command.command_id, command.attempt)

        say("ready")
        await commands.work(handler)
    say("left")

asyncio.run(main())
"""


class Workers:
    """Worker processes of the operating system, and what they said."""

    def __init__(self, server: RedisServer, namespace: str, limits: dict[str, Any]) -> None:
        self._arguments = (server.url, namespace)
        self._limits = json.dumps(limits)
        self._reading: list[asyncio.Task[None]] = []
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        self.said: list[list[Any]] = []

    async def start(self, name: str) -> None:
        code = f"import sys; sys.path[:0] = {sys.path!r}\n{WORKER}"
        process = self.processes[name] = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, *self._arguments, name, self._limits, stdout=asyncio.subprocess.PIPE
        )
        self._reading.append(asyncio.create_task(self._read(process)))
        await until(lambda: [name, "ready"] in self.said, f"{name}", seconds=15.0)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self.said.append(json.loads(line))

    def words(self, what: str) -> list[list[Any]]:
        """What was said of that, without the word: name, command id, attempt."""
        return [[name, *rest] for name, word, *rest in self.said if word == what]

    async def end(self) -> None:
        for process in self.processes.values():
            if process.returncode is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                await process.wait()
        await asyncio.gather(*self._reading)


@pytest.fixture
async def workers(server: RedisServer, namespace: str) -> AsyncIterator[Callable[..., Workers]]:
    made: list[Workers] = []

    def making(at: RedisServer = server, **limits: Any) -> Workers:
        made.append(Workers(at, namespace, limits))
        return made[-1]

    yield making
    for each in made:
        await each.end()


async def test_what_a_killed_worker_was_at_is_done_by_another_within_the_lease(
    server: RedisServer, namespace: str, workers: Callable[..., Workers]
) -> None:
    loop = asyncio.get_running_loop()
    both = workers(lease=1.0)
    await asyncio.gather(both.start("one"), both.start("two"))
    async with Worker(server.url, namespace=namespace, metrics=Metrics()) as worker:
        commands = Commands(worker, limits=WorkLimits(lease=1.0))
        await commands.submit("alice", "ask", {"seconds": 0.6}, command_id="c1")
        await until(lambda: both.words("begun"), "the beginning")
        first = both.words("begun")[0][0]
        both.processes[first].kill()
        killed = loop.time()
        await until(lambda: both.words("done"), "the end", seconds=10.0)
        (other,) = {"one", "two"} - {first}
        assert both.words("begun") == [[first, "c1", 1], [other, "c1", 2]]
        assert both.words("done") == [[other, "c1", 2]]
        assert loop.time() - killed < 1.0 + 1.0 + 0.6 + 2.0  # lease, look, the handler, and a busy machine


async def test_a_handler_that_takes_several_leases_is_begun_once(
    server: RedisServer, namespace: str, workers: Callable[..., Workers]
) -> None:
    both = workers(lease=0.6)
    await asyncio.gather(both.start("one"), both.start("two"))
    async with Worker(server.url, namespace=namespace, metrics=Metrics()) as worker:
        commands = Commands(worker, limits=WorkLimits(lease=0.6))
        await commands.submit("alice", "ask", {"seconds": 2.5}, command_id="c1")
        await until(lambda: both.words("done"), "the end", seconds=10.0)
        assert len(both.words("begun")) == 1


async def test_a_worker_that_was_frozen_for_longer_than_its_lease_gives_way(
    server: RedisServer, namespace: str, workers: Callable[..., Workers]
) -> None:
    both = workers(lease=0.9)
    await both.start("frozen")
    async with Worker(server.url, namespace=namespace, metrics=Metrics()) as worker:
        commands = Commands(worker, limits=WorkLimits(lease=0.9))
        await commands.submit("alice", "ask", {"seconds": 4.0}, command_id="c1")
        await until(lambda: both.words("begun"), "the beginning")
        both.processes["frozen"].send_signal(signal.SIGSTOP)
        await both.start("other")
        await until(lambda: ["other", "c1", 2] in both.words("begun"), "the second beginning", seconds=10.0)
        both.processes["frozen"].send_signal(signal.SIGCONT)
        await until(lambda: both.words("cancelled") == [["frozen", "c1", 1]], "the end of the first", seconds=10.0)
        await until(lambda: both.words("done"), "the end", seconds=10.0)
        assert both.words("done") == [["other", "c1", 2]]


async def test_a_worker_that_is_told_to_stop_ends_what_it_has_begun_and_leaves(
    server: RedisServer, namespace: str, workers: Callable[..., Workers]
) -> None:
    one_worker = workers()
    await one_worker.start("one")
    async with Worker(server.url, namespace=namespace, metrics=Metrics()) as worker:
        commands = Commands(worker)
        await commands.submit("alice", "ask", {"seconds": 0.4}, command_id="c1")
        await until(lambda: one_worker.words("begun"), "the beginning")
        one_worker.processes["one"].send_signal(signal.SIGTERM)
        await until(lambda: one_worker.words("left"), "leaving", seconds=10.0)
        assert one_worker.words("done") == [["one", "c1", 1]]
        assert await one_worker.processes["one"].wait() == 0
        assert await tell(server, "XINFO CONSUMERS", f"{namespace}:1:{STREAM}", "workers") == []


async def test_of_many_commands_each_is_done_although_workers_and_redis_are_killed(
    tmp_path: Path, namespace: str, workers: Callable[..., Workers]
) -> None:
    """The answers are told with event ids made of the command ids, so that each stands in the log once, however often
    a command was begun."""
    server = RedisServer(tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    try:
        limits = {"lease": 1.0, "attempts": 50}
        fleet = workers(server, **limits)
        await asyncio.gather(*[fleet.start(f"w{n}") for n in range(3)])
        async with a_manager(server.url, namespace=namespace) as manager:
            tab = await Tab.open(manager, "alice")
            commands = Commands(manager, limits=WorkLimits(lease=1.0, attempts=50))
            for number in range(60):
                for _ in range(200):
                    with contextlib.suppress(LogUnavailable):
                        await commands.submit("alice", "ask", {"seconds": 0.05}, command_id=f"c{number}")
                        break
                    await asyncio.sleep(0.02)
                if number == 20:
                    fleet.processes["w0"].kill()
                if number == 30:
                    server.kill()
                    server.start()
                if number == 40:
                    fleet.processes["w1"].kill()
                    await fleet.start("w3")
            await tab.has(60, seconds=25.0)
            await until(lambda: len(fleet.words("done")) >= 60 - 2 * 8, "the words of the workers that live")
            assert Counter(event["id"] for event in tab.events) == Counter(f"c{n}.done" for n in range(60))
            assert await commands.dead_letters() == []
    finally:
        server.stop()
