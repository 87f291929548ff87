"""`Commands`: frames become work of the user who sent them, and one handler has each until it is settled."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import BaseModel

from tests.support import FakeSocket, Tab, a_manager, turns, until, virtual_time
from websocket_core.authorization import Verb
from websocket_core.commands import Command, Commands
from websocket_core.errors import (
    FrameRefused,
    InvalidConfiguration,
    InvalidEvent,
    InvalidUserId,
    LogUnavailable,
    ManagerClosed,
)
from websocket_core.identity import Principal
from websocket_core.limits import Limits
from websocket_core.logs.memory import MemoryLog
from websocket_core.metrics import Metrics
from websocket_core.unified_manager import UnifiedWebSocketManager
from websocket_core.work import MemoryWork, WorkLimits
from websocket_core.worker import Worker


class Desk:
    """Handles commands as a test tells it to."""

    def __init__(self) -> None:
        self.begun: list[Command] = []
        self.done: list[str] = []
        self.given_up: list[Command] = []
        self.open = asyncio.Event()
        self.open.set()
        self.failures = 0
        """So many attempts fail from now on."""

    async def __call__(self, command: Command) -> None:
        self.begun.append(command)
        if self.failures:
            self.failures -= 1
            raise RuntimeError("told to fail")
        await self.open.wait()
        self.done.append(command.command_id)

    async def bury(self, command: Command) -> None:
        self.given_up.append(command)


@asynccontextmanager
async def at_work(commands: Commands, desk: Desk, **options: Any) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(commands.work(desk, given_up=desk.bury, **options))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def send(tab: Tab, **frame: Any) -> dict[str, Any]:
    """Send a frame; what it was answered."""
    answered = len(answers(tab))
    tab.socket.client_sends(frame)
    await until(lambda: len(answers(tab)) > answered, "the answer")
    return answers(tab)[-1]


def answers(tab: Tab) -> list[dict[str, Any]]:
    return [frame for frame in tab.socket.frames if frame["type"] in ("ack", "error")]


# -- what users send


async def test_a_frame_becomes_a_command_of_the_user_who_sent_it() -> None:
    async with a_manager() as manager:
        commands = Commands(manager)
        commands.accept("ask")
        tab = await Tab.open(manager, "alice", "tab1")
        ack = await send(
            tab, type="ask", command_id="c1", data={"text": "hi"}, thread_id="t1", user_id="bob", request_id="7"
        )
        assert ack == {"type": "ack", "request_id": "7", "result": {"command_id": "c1"}}
        async with at_work(commands, desk := Desk()):
            await until(lambda: desk.done, "the command")
        (command,) = desk.begun
        assert (command.user_id, command.type, command.data) == ("alice", "ask", {"text": "hi"})
        assert (command.command_id, command.thread_id, command.connection_id) == ("c1", "t1", "tab1")
        assert command.attempt == 1
        assert "hi" not in repr(command)


async def test_a_command_that_is_sent_again_is_acknowledged_and_done_once() -> None:
    async with a_manager() as manager:
        commands = Commands(manager)
        commands.accept("ask")
        tabs = [await Tab.open(manager, "alice"), await Tab.open(manager, "alice"), await Tab.open(manager, "bob")]
        for tab in tabs:
            assert (await send(tab, type="ask", command_id="c1"))["result"] == {"command_id": "c1"}
        async with at_work(commands, desk := Desk()):
            await until(lambda: len(desk.done) == 2, "one of each user")
            assert (await send(tabs[0], type="ask", command_id="c1"))["result"] == {"command_id": "c1"}
            await turns()
            assert sorted(command.user_id for command in desk.begun) == ["alice", "bob"]


async def test_a_command_without_an_id_is_given_one_and_a_request_id_is_none() -> None:
    """Tabs count their requests anew when they are loaded again, and nothing that a user asks for may be swallowed."""
    async with a_manager() as manager:
        commands = Commands(manager)
        commands.accept("ask")
        tab = await Tab.open(manager, "alice")
        given = {(await send(tab, type="ask", request_id="1"))["result"]["command_id"] for _ in range(3)}
        assert len(given) == 3
        async with at_work(commands, desk := Desk()):
            await until(lambda: len(desk.done) == 3, "all three")
        assert set(desk.done) == given


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"data": [1]}, "invalid"),
        ({"data": "text"}, "invalid"),
        ({"data": None}, "invalid"),
        ({"data": {"n": 2**70}}, "malformed"),
        ({"data": {"n": 2**65}}, "invalid"),
        ({"command_id": ""}, "invalid"),
        ({"command_id": "a b"}, "invalid"),
        ({"command_id": "x" * 65}, "invalid"),
        ({"command_id": 7}, "invalid"),
        ({"command_id": ["c"]}, "invalid"),
        ({"thread_id": 7}, "invalid"),
        ({"thread_id": "a\nb"}, "invalid"),
        ({"thread_id": ""}, "invalid"),
        ({"data": {"text": 7}}, "invalid"),
        ({"data": {}}, "invalid"),
    ],
)
async def test_what_is_no_command_is_refused_and_changes_nothing(wrong: dict[str, Any], code: str) -> None:
    class Ask(BaseModel):
        text: str

    async with a_manager() as manager:
        commands = Commands(manager)
        commands.accept("ask", check=Ask.model_validate)
        tab = await Tab.open(manager, "alice")
        answer = await send(tab, **{"type": "ask", "data": {"text": "hi"}, **wrong})
        assert (answer["type"], answer["code"]) == ("error", code)
        assert (await send(tab, type="ask", data={"text": "good"}))["type"] == "ack"
        async with at_work(commands, desk := Desk()):
            await until(lambda: desk.done, "the good one")
        assert [command.data for command in desk.begun] == [{"text": "good"}]


async def test_a_check_cannot_change_what_it_looks_at() -> None:
    async with a_manager() as manager:
        commands = Commands(manager)
        commands.accept("ask", check=dict.clear)
        tab = await Tab.open(manager, "alice")
        await send(tab, type="ask", data={"text": "hi"})
        async with at_work(commands, desk := Desk()):
            await until(lambda: desk.done, "the command")
        assert desk.begun[0].data == {"text": "hi"}


async def test_data_that_grows_when_it_is_stored_is_bounded_too() -> None:
    async with a_manager(limits=Limits(frame_bytes=300)) as manager:
        commands = Commands(manager)
        commands.accept("ask")
        tab = await Tab.open(manager, "alice")
        tab.socket.client_sends('{"type":"ask","data":{"n":[' + ",".join(["1e15"] * 50) + "]}}")
        await until(lambda: answers(tab), "the answer")
        assert answers(tab)[0]["code"] == "too_large"


async def test_commands_are_guarded_as_every_verb_is() -> None:
    asked: list[tuple[str, Verb]] = []

    async def rule(principal: Principal, verb: Verb) -> bool:
        asked.append((principal.user_id, verb))
        return verb is not Verb.COMMAND

    async with a_manager(authorize=rule) as manager:
        commands = Commands(manager)
        commands.accept("ask")
        tab = await Tab.open(manager, "alice")
        assert (await send(tab, type="ask"))["code"] == "forbidden"
        assert asked[-1] == ("alice", Verb.COMMAND)
        async with at_work(commands, desk := Desk()):
            await turns()
            assert not desk.begun


class AwayState:
    """A deny-list that cannot be asked."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.away = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def denied(self, *asked: Any) -> bool:
        if self.away:
            raise LogUnavailable("told to be away")
        return bool(await self._inner.denied(*asked))


async def test_what_cannot_be_told_is_unavailable_and_not_allowed() -> None:
    from websocket_core.state import MemoryState

    state = AwayState(MemoryState(age=60.0, per_user=10))
    async with a_manager(state=state) as manager:
        Commands(manager).accept("ask")
        tab = await Tab.open(manager, "alice")
        state.away = True
        assert (await send(tab, type="ask"))["code"] == "unavailable"
        state.away = False
        assert (await send(tab, type="ask"))["type"] == "ack"


async def test_a_full_queue_is_told_and_nothing_is_trimmed() -> None:
    async with a_manager() as manager:
        commands = Commands(manager, limits=WorkLimits(waiting=3, waiting_per_user=2))
        commands.accept("ask")
        alice, bob = await Tab.open(manager, "alice"), await Tab.open(manager, "bob")
        got = [(await send(alice, type="ask", command_id=f"c{n}")).get("code", "ack") for n in range(3)]
        assert got == ["ack", "ack", "limit"]
        assert [(await send(bob, type="ask", command_id=f"c{n}")).get("code", "ack") for n in (0, 1)] == [
            "ack",
            "limit",
        ]
        assert manager.metrics.commands_refused == 2
        async with at_work(commands, desk := Desk()):
            await until(lambda: len(desk.done) == 3, "all that were taken")
            assert (await send(alice, type="ask", command_id="c2"))["type"] == "ack"
            await until(lambda: len(desk.done) == 4, "what was refused before")
        assert manager.metrics.commands_accepted == manager.metrics.commands_done == 4


async def test_a_connection_that_was_open_before_may_send_what_is_accepted_now() -> None:
    async with a_manager() as manager:
        tab = await Tab.open(manager, "alice")
        assert (await send(tab, type="ask"))["code"] == "unknown_type"
        Commands(manager).accept("ask")
        assert (await send(tab, type="ask"))["type"] == "ack"


async def test_a_type_that_has_a_meaning_already_is_refused() -> None:
    async with a_manager() as manager:
        commands = Commands(manager)
        commands.accept("ask")
        for taken in ("ask", "cancel", "ping", "auth", "subscribe", "approve", "ack", "", "a\n"):
            with pytest.raises(InvalidConfiguration):
                commands.accept(taken)
    async with Worker(MemoryLog(), metrics=Metrics()) as worker:
        with pytest.raises(InvalidConfiguration, match="make Commands of a manager"):
            Commands(worker).accept("ask")


async def test_an_application_submits_commands_of_its_own() -> None:
    async with a_manager() as manager:
        commands = Commands(manager)
        assert await commands.submit("alice", "remind", {"at": "noon"}, command_id="c1", thread_id="t1") == "c1"
        assert await commands.submit("alice", "remind", {"at": "noon"}, command_id="c1") == "c1"
        second = await commands.submit("alice", "remind", {})
        async with at_work(commands, desk := Desk()):
            await until(lambda: len(desk.done) == 2, "both")
        assert desk.done == ["c1", second]
        with pytest.raises(InvalidUserId):
            await commands.submit("", "remind", {})
        with pytest.raises(InvalidEvent):
            await commands.submit("alice", "remind", {"at": object()})
        with pytest.raises(InvalidEvent):
            await commands.submit("alice", "remind", {"text": "x" * 300_000})
        for _ in range(100):
            await commands.submit("bob", "remind", {})
        with pytest.raises(FrameRefused) as refused:
            await commands.submit("bob", "remind", {})
        assert refused.value.code == "limit"


# -- how it is worked on


async def test_so_many_are_worked_on_at_once_and_no_more() -> None:
    async with a_manager() as manager:
        commands = Commands(manager)
        for number in range(7):
            await commands.submit("alice", "ask", {"n": number})
        desk = Desk()
        desk.open.clear()
        async with at_work(commands, desk, concurrency=3):
            await until(lambda: len(desk.begun) == 3, "three")
            await asyncio.sleep(0.05)
            assert len(desk.begun) == 3
            desk.open.set()
            await until(lambda: len(desk.done) == 7, "all")
    with pytest.raises(InvalidConfiguration):
        await commands.work(desk, concurrency=0)


@virtual_time
async def test_what_failed_is_tried_again_after_a_pause_that_grows_and_then_given_up() -> None:
    loop = asyncio.get_running_loop()
    async with a_manager() as manager:
        commands = Commands(manager, limits=WorkLimits(attempts=4, back_off=10.0, lease=30.0))
        times: list[float] = []
        desk = Desk()
        desk.failures = 4

        async def noting(command: Command) -> None:
            times.append(loop.time())
            await desk(command)

        await commands.submit("alice", "ask", {"secret": "payload"}, command_id="c1")
        working = asyncio.create_task(commands.work(noting, given_up=desk.bury))
        await until(lambda: desk.given_up, "the end", seconds=500.0)
        working.cancel()
        await asyncio.wait([working])
        pauses = [after - before for before, after in itertools.pairwise(times)]
        assert [10.0 <= pauses[0] < 12.0, 20.0 <= pauses[1] < 22.0, 30.0 <= pauses[2] < 32.0] == [True] * 3
        assert [command.attempt for command in desk.begun] == [1, 2, 3, 4]
        assert [command.command_id for command in desk.given_up] == ["c1"]
        (letter,) = await commands.dead_letters()
        assert (letter.command_id, letter.data, letter.attempt) == ("c1", {"secret": "payload"}, 4)
        assert manager.metrics.commands_retried == 3
        assert manager.metrics.commands_dead == 1
        assert manager.metrics.commands_done == 0


async def test_what_is_logged_of_a_failure_is_its_traceback_and_never_the_payload(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with a_manager() as manager:
        commands = Commands(manager, limits=WorkLimits(attempts=1))
        await commands.submit("alice-secret", "ask", {"text": "payload-secret"}, thread_id="thread-secret")
        desk = Desk()
        desk.failures = 1
        async with at_work(commands, desk):
            await until(lambda: desk.given_up, "the end")
    (record,) = [each for each in caplog.records if each.exc_info]
    assert record.getMessage() == "a command failed and is given up"
    assert record.levelno == logging.WARNING
    assert "secret" not in caplog.text
    assert all("secret" not in str(vars(each)) for each in caplog.records if each is not record)


async def test_a_command_whose_failure_is_told_to_nobody_does_not_end_the_worker() -> None:
    async with a_manager() as manager:
        commands = Commands(manager, limits=WorkLimits(attempts=1))
        desk = Desk()
        desk.failures = 1

        async def broken(command: Command) -> None:
            raise ValueError("what is done about it fails as well")

        working = asyncio.create_task(commands.work(desk, given_up=broken))
        await commands.submit("alice", "ask", {}, command_id="bad")
        await commands.submit("alice", "ask", {}, command_id="good")
        await until(lambda: desk.done == ["good"], "the next one")
        await until(lambda: manager.metrics.commands_dead == 1, "the dead letter")
        commands.stop()
        await working


async def test_a_handler_that_awaits_something_cancelled_has_failed_and_the_worker_goes_on() -> None:
    """Such a CancelledError is nobody's order to end; taken for one, the command would be held for ever."""
    async with a_manager() as manager:
        commands = Commands(manager, limits=WorkLimits(attempts=2, back_off=0.01))
        seen: list[int] = []

        async def handler(command: Command) -> None:
            seen.append(command.attempt)
            if command.attempt == 1:
                lost = asyncio.get_running_loop().create_future()
                lost.cancel()
                await lost

        await commands.submit("alice", "ask", {})
        working = asyncio.create_task(commands.work(handler))
        await until(lambda: manager.metrics.commands_done == 1, "the second attempt")
        assert seen == [1, 2]
        commands.stop()
        await working


async def test_stop_takes_no_more_and_returns_when_what_was_begun_is_done() -> None:
    async with a_manager() as manager:
        commands = Commands(manager)
        for number in range(4):
            await commands.submit("alice", "ask", {}, command_id=f"c{number}")
        desk = Desk()
        desk.open.clear()
        async with at_work(commands, desk, concurrency=2) as working:
            await until(lambda: len(desk.begun) == 2, "two")
            commands.stop()
            await asyncio.sleep(0.02)
            assert not working.done()
            desk.open.set()
            await asyncio.wait_for(working, 2.0)
        assert desk.done == ["c0", "c1"]
        await commands.work(desk)  # a signal may come before the work has begun
        assert desk.done == ["c0", "c1"]
        async with at_work(Commands(manager), desk):
            await until(lambda: len(desk.done) == 4, "the rest, by the next worker")


async def test_a_worker_that_is_cancelled_gives_back_what_it_held_at_once() -> None:
    async with a_manager() as manager:
        commands = Commands(manager, limits=WorkLimits(lease=1_000.0))
        for number in range(3):
            await commands.submit("alice", "ask", {}, command_id=f"c{number}")
        desk = Desk()
        desk.open.clear()
        async with at_work(commands, desk, concurrency=2):
            await until(lambda: len(desk.begun) == 2, "two")
        assert desk.done == []
        desk.open.set()
        async with at_work(commands, desk):
            await until(lambda: len(desk.done) == 3, "all, by the next worker")
        assert {command.attempt for command in desk.begun} == {1}, "an attempt that was cut short does not count"


async def test_what_a_worker_is_just_being_given_when_it_is_cancelled_is_given_back_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taking = asyncio.Event()
    take = MemoryWork.take

    async def slowly(self: MemoryWork, *asked: Any) -> Any:
        taken = await take(self, *asked)
        taking.set()
        await asyncio.sleep(0.02)
        return taken

    async with a_manager() as manager:
        commands = Commands(manager, limits=WorkLimits(lease=1_000.0))
        await commands.submit("alice", "ask", {}, command_id="c1")
        monkeypatch.setattr(MemoryWork, "take", slowly)
        desk = Desk()
        async with at_work(commands, desk):
            await taking.wait()
        assert not desk.begun
        async with at_work(commands, desk):
            await until(lambda: desk.done == ["c1"], "the next worker")


@virtual_time
async def test_the_lease_of_a_long_handler_is_renewed() -> None:
    async with a_manager() as manager:
        commands = Commands(manager, limits=WorkLimits(lease=9.0))
        done: list[str] = []

        async def long(command: Command) -> None:
            await asyncio.sleep(100.0)
            done.append(command.command_id)

        await commands.submit("alice", "ask", {}, command_id="c1")
        workers = [asyncio.create_task(commands.work(long)) for _ in range(3)]
        await asyncio.sleep(300.0)
        assert done == ["c1"]
        commands.stop()
        await asyncio.wait(workers)


@virtual_time
async def test_a_worker_does_not_begin_again_what_it_is_running_when_its_own_lease_has_ended() -> None:
    async with a_manager() as manager:
        limits = WorkLimits(lease=9.0)
        commands = Commands(manager, limits=limits)
        queue: Any = manager.queues.of("commands", limits)
        queue.renew = lambda worker, keys: asyncio.sleep(0, [])
        begun: list[int] = []

        async def long(command: Command) -> None:
            begun.append(command.attempt)
            await asyncio.sleep(50.0)

        await commands.submit("alice", "ask", {})
        working = asyncio.create_task(commands.work(long))
        await asyncio.sleep(30.0)
        commands.stop()
        await working
        assert begun == [1]
        assert manager.metrics.commands_done == 1


async def test_more_than_is_taken_at_once_is_taken_in_one_go() -> None:
    async with a_manager() as manager:
        commands = Commands(manager, limits=WorkLimits(waiting_per_user=500))
        for number in range(200):
            await commands.submit("alice", "ask", {"n": number})
        desk = Desk()
        desk.open.clear()
        async with at_work(commands, desk, concurrency=150):
            await until(lambda: len(desk.begun) == 150, "as many as are worked on at once", seconds=0.5)


@virtual_time
async def test_a_worker_that_was_told_to_stop_keeps_the_lease_of_what_it_still_does() -> None:
    async with a_manager() as manager:
        stopped, other = [Commands(manager, limits=WorkLimits(lease=9.0)) for _ in range(2)]
        begun: list[int] = []

        async def long(command: Command) -> None:
            begun.append(command.attempt)
            await asyncio.sleep(100.0)

        await stopped.submit("alice", "ask", {})
        first = asyncio.create_task(stopped.work(long))
        await until(lambda: begun, "the beginning")
        stopped.stop()
        second = asyncio.create_task(other.work(long))
        await first
        other.stop()
        await second
        assert begun == [1]


@virtual_time
async def test_a_worker_that_lost_a_lease_cancels_the_handler_and_another_does_the_command() -> None:
    """Its loop stood still for longer than the lease, which here is played by renewals that do not arrive."""
    async with a_manager() as manager:
        limits = WorkLimits(lease=9.0)
        commands = Commands(manager, limits=limits)
        queue: Any = manager.queues.of("commands", limits)
        renew, queue.renew = queue.renew, lambda worker, keys: asyncio.sleep(0, [])
        ends: list[str] = []

        async def handler(command: Command) -> None:
            try:
                await asyncio.sleep(20.0 if command.attempt == 1 else 1.0)
                ends.append(f"done {command.attempt}")
            except asyncio.CancelledError:
                ends.append(f"cancelled {command.attempt}")
                raise

        await commands.submit("alice", "ask", {})
        frozen = asyncio.create_task(commands.work(handler, concurrency=1))
        await asyncio.sleep(0.1)
        other = asyncio.create_task(commands.work(handler, concurrency=1))
        await asyncio.sleep(9.5)
        queue.renew = renew
        await asyncio.sleep(20.0)
        assert sorted(ends) == ["cancelled 1", "done 2"]
        assert manager.metrics.commands_done == 1
        commands.stop()
        await asyncio.wait([frozen, other])


@virtual_time
async def test_a_command_that_kills_its_workers_is_given_up() -> None:
    async with a_manager() as manager:
        limits = WorkLimits(lease=5.0, attempts=3)
        commands = Commands(manager, limits=limits)
        queue = manager.queues.of("commands", limits)
        await commands.submit("alice", "ask", {}, command_id="poison")
        for worker in range(3):
            await asyncio.sleep(6.0)
            assert await queue.take(f"dies{worker}", 1, ())
        desk = Desk()
        async with at_work(commands, desk):
            await until(lambda: desk.given_up, "the end", seconds=50.0)
        assert not desk.begun
        assert [command.command_id for command in desk.given_up] == ["poison"]
        assert [letter.command_id for letter in await commands.dead_letters()] == ["poison"]


@virtual_time
async def test_a_store_that_is_away_is_waited_for_and_what_was_done_is_not_done_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    away = False
    for name in ("take", "settle", "renew"):
        method = getattr(MemoryWork, name)

        async def reached(self: MemoryWork, *asked: Any, method: Any = method) -> Any:
            if away:
                raise LogUnavailable("told to be away")
            return await method(self, *asked)

        monkeypatch.setattr(MemoryWork, name, reached)
    async with a_manager() as manager:
        commands = Commands(manager, limits=WorkLimits(lease=30.0))
        desk = Desk()
        desk.open.clear()
        await commands.submit("alice", "ask", {}, command_id="c1")
        async with at_work(commands, desk):
            await until(lambda: desk.begun, "the beginning")
            away = True
            desk.open.set()
            await asyncio.sleep(8.0)
            away = False
            await until(lambda: manager.metrics.commands_done == 1, "settling")
            away = True
            await asyncio.sleep(60.0)
            away = False
            await commands.submit("alice", "ask", {}, command_id="c2")
            await until(lambda: desk.done == ["c1", "c2"], "the next one")
            assert len(desk.begun) == 2


async def test_work_ends_with_its_manager() -> None:
    manager: UnifiedWebSocketManager = a_manager()
    async with manager:
        commands = Commands(manager)
        working = asyncio.create_task(commands.work(Desk()))
        await turns()
    with pytest.raises(ManagerClosed):
        await asyncio.wait_for(working, 3.0)


async def test_a_command_is_worked_on_at_once_when_it_comes() -> None:
    """By the signal, not by the next look at the queue."""
    loop = asyncio.get_running_loop()
    async with a_manager() as manager:
        commands = Commands(manager)
        async with at_work(commands, desk := Desk()):
            await asyncio.sleep(0.05)
            before = loop.time()
            await commands.submit("alice", "ask", {})
            await until(lambda: desk.done, "the command")
            assert loop.time() - before < 0.5


async def test_a_socket_of_the_testing_kit_can_send_commands() -> None:
    """As an application would test it."""
    async with a_manager() as manager:
        commands = Commands(manager)
        commands.accept("ask")

        async def answer(command: Command) -> None:
            emitter = manager.get_emitter(command.user_id)
            await emitter.emit("answer", {"to": command.data["text"]}, thread_id=command.thread_id)

        working = asyncio.create_task(commands.work(answer))
        tab = await Tab.open(manager, "alice", socket=FakeSocket())
        tab.socket.client_sends({"type": "ask", "data": {"text": "hi"}, "thread_id": "t1"})
        (event,) = await tab.has(1)
        assert (event["type"], event["data"], event["thread_id"]) == ("answer", {"to": "hi"}, "t1")
        commands.stop()
        await working
