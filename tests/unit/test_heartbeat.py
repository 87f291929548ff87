"""What the answers of a client say: that it is there, within a time; and where it is, in doubt only with a reason."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support import FakeSocket, Tab, TroubledLog, a_manager, turns, until, virtual_time
from websocket_core.heartbeat import Heartbeat
from websocket_core.limits import Limits, Retention
from websocket_core.log import Position
from websocket_core.unified_manager import UnifiedWebSocketManager
from websocket_core.wire import PROTOCOL, decode_cursor, encode_cursor


def at(offset: int, epoch: str = "e") -> Position:
    return Position(epoch, offset, f"m{offset}" if offset else "")


def asked(heartbeat: Heartbeat, now: float, *, owes: bool = True) -> None:
    heartbeat.asked(now, at(9), owes=owes)


# -- whether it is there


def test_an_answer_is_owed_from_the_question_on_and_for_the_whole_timeout() -> None:
    heartbeat = Heartbeat(timeout=20.0)
    assert not heartbeat.overdue(1e9, 0.0), "nothing was asked"
    asked(heartbeat, 100.0)
    assert not heartbeat.overdue(120.0, 0.0)
    assert heartbeat.overdue(120.001, 0.0)


def test_what_is_overdue_is_told_once() -> None:
    heartbeat = Heartbeat(timeout=20.0)
    asked(heartbeat, 100.0)
    assert [heartbeat.overdue(130.0, 0.0) for _ in range(3)] == [True, False, False]
    asked(heartbeat, 140.0)
    assert [heartbeat.overdue(now, 0.0) for now in (150.0, 161.0)] == [False, True], "the next question counts anew"


def test_anything_that_comes_is_an_answer() -> None:
    heartbeat = Heartbeat(timeout=20.0)
    asked(heartbeat, 100.0)
    heartbeat.heard()
    assert not heartbeat.overdue(1_000.0, 0.0)
    heartbeat.heard()
    asked(heartbeat, 2_000.0)
    assert heartbeat.overdue(2_021.0, 0.0), "but not one that came before the question"


def test_a_second_question_gives_no_more_time_for_the_first() -> None:
    """With a heartbeat shorter than the time-out, the client would else never be late."""
    heartbeat = Heartbeat(timeout=20.0)
    for now in (100.0, 105.0, 110.0, 115.0, 119.0):
        asked(heartbeat, now)
    assert not heartbeat.overdue(120.0, 0.0)
    assert heartbeat.overdue(120.5, 0.0)


def test_a_client_that_promised_nothing_owes_nothing() -> None:
    heartbeat = Heartbeat(timeout=20.0)
    asked(heartbeat, 100.0, owes=False)
    assert not heartbeat.overdue(1_000.0, 0.0)


def test_time_in_which_the_loop_stood_still_does_not_count() -> None:
    heartbeat = Heartbeat(timeout=20.0)
    asked(heartbeat, 100.0)
    assert not heartbeat.overdue(150.0, 35.0), "15 of 50 seconds"
    assert not heartbeat.overdue(155.0, 0.0), "and 20: what was given back once stays given back"
    assert heartbeat.overdue(155.001, 0.0)


def test_a_stall_from_before_the_question_gives_no_credit_beyond_the_present() -> None:
    heartbeat = Heartbeat(timeout=20.0)
    asked(heartbeat, 100.0)
    assert not heartbeat.overdue(101.0, 50.0)
    assert not heartbeat.overdue(121.0, 0.0)
    assert heartbeat.overdue(121.5, 0.0), "it is owed since 101 at the latest"


# -- where it is


def test_a_client_where_the_connection_is_is_in_no_doubt() -> None:
    heartbeat = Heartbeat(timeout=20.0)
    for _ in range(5):
        heartbeat.asked(0.0, at(9), owes=True)
        assert not heartbeat.doubts(at(9), at(9))


def test_before_the_first_read_there_is_nothing_to_compare_with() -> None:
    assert not Heartbeat(timeout=20.0).doubts(at(9), None)


@pytest.mark.parametrize(
    "claimed",
    [at(9, "f"), at(3, "f"), at(10), at(10_000), Position("e", 9, "other"), Position("e", 9, "m"), at(0, "f")],
    ids=["another life", "another life, behind", "ahead", "far ahead", "another entry", "part of a mark", "new life"],
)
def test_what_nobody_here_can_have_sent_is_doubtful_at_once_and_once_for_each_ping(claimed: Position) -> None:
    """To compare costs a read of all that is retained; a client is not to have that as often as it likes."""
    heartbeat = Heartbeat(timeout=20.0)
    assert heartbeat.doubts(claimed, at(9))
    assert not heartbeat.doubts(claimed, at(9))
    heartbeat.asked(0.0, None, owes=True)
    assert heartbeat.doubts(claimed, at(9))
    assert not heartbeat.doubts(claimed, at(9))


def test_a_client_that_stands_still_behind_what_both_named_has_missed_something() -> None:
    heartbeat = Heartbeat(timeout=20.0)
    heartbeat.asked(0.0, at(7), owes=True)
    assert not heartbeat.doubts(at(5), at(9)), "it may be slow"
    heartbeat.asked(0.0, at(9), owes=True)
    assert heartbeat.doubts(at(5), at(9))


def test_a_client_that_comes_along_behind_is_only_slow() -> None:
    heartbeat = Heartbeat(timeout=20.0)
    for offset in range(1, 9):
        heartbeat.asked(0.0, at(9), owes=True)
        assert not heartbeat.doubts(at(offset), at(9))


def test_a_client_that_is_not_behind_what_the_ping_named_has_missed_nothing() -> None:
    """It answered the ping at once, and the connection went on meanwhile."""
    heartbeat = Heartbeat(timeout=20.0)
    for _ in range(3):
        heartbeat.asked(0.0, at(5), owes=True)
        assert not heartbeat.doubts(at(5), at(9))


def test_one_answer_is_judged_for_each_ping() -> None:
    """Many pongs in a row are not many heartbeats in which it stood still."""
    heartbeat = Heartbeat(timeout=20.0)
    assert not heartbeat.doubts(at(5), at(9)), "nothing was asked yet"
    heartbeat.asked(0.0, at(9), owes=True)
    assert [heartbeat.doubts(at(5), at(9)) for _ in range(10)] == [False] * 10
    heartbeat.asked(0.0, at(9), owes=True)
    assert [heartbeat.doubts(at(5), at(9)) for _ in range(10)] == [True] + [False] * 9


def test_what_it_missed_is_told_once_and_again_if_it_does_not_help() -> None:
    heartbeat = Heartbeat(timeout=20.0)
    told = []
    for _ in range(6):
        heartbeat.asked(0.0, at(9), owes=True)
        told.append(heartbeat.doubts(at(5), at(9)))
    assert told == [False, True, False, True, False, True]


def test_a_client_that_moved_and_stopped_again_is_given_a_heartbeat_first() -> None:
    heartbeat = Heartbeat(timeout=20.0)
    told = []
    for claimed in (5, 6, 6, 9, 6, 6):
        heartbeat.asked(0.0, at(9), owes=True)
        told.append(heartbeat.doubts(at(claimed), at(9)))
    assert told == [False, False, True, False, False, True]


def test_a_client_that_stands_where_the_newest_ping_stood_has_missed_nothing() -> None:
    """Also if it stood there before, when an earlier ping named more: the log went back, or the connection did."""
    heartbeat = Heartbeat(timeout=20.0)
    heartbeat.asked(0.0, at(9), owes=True)
    assert not heartbeat.doubts(at(5), at(9))
    heartbeat.asked(0.0, at(5), owes=True)
    assert not heartbeat.doubts(at(5), at(6))


def test_the_life_of_the_log_counts_when_a_client_is_behind_what_was_named() -> None:
    """A ping named the old life; a claim in the new one is not behind it, however small its offset."""
    heartbeat = Heartbeat(timeout=20.0)
    for _ in range(3):
        heartbeat.asked(0.0, at(9, "old"), owes=True)
        assert not heartbeat.doubts(at(2), at(4))
    heartbeat.asked(0.0, None, owes=True)
    assert not heartbeat.doubts(at(2), at(4)), "nor was anything named"


# -- over a connection

LIMITS = Limits(heartbeat=10.0, heartbeat_timeout=5.0)


class Client:
    """A client that says where it stands when it is asked, as a test has it."""

    def __init__(self, tab: Tab) -> None:
        self.tab = tab
        self.pings = 0

    @classmethod
    async def of(cls, manager: UnifiedWebSocketManager, **options: Any) -> Client:
        socket = FakeSocket(subprotocol=PROTOCOL, answers_pings=False)
        client = cls(await Tab.open(manager, "alice", "tab", socket=socket, **options))
        await client.tab.greeted()
        return client

    async def asked(self) -> str:
        """Wait for the next ping; the cursor in it."""
        self.pings += 1
        await until(lambda: len(self.tab.socket.of_type("ping")) == self.pings, "a ping", LIMITS.heartbeat + 1.0)
        return str(self.tab.socket.of_type("ping")[-1]["cursor"])

    async def says(self, cursor: str, kind: str = "pong") -> list[dict[str, Any]]:
        """Say that it stands there; what comes within a second, without the answer to a ping of its own."""
        before = len(self.tab.socket.frames)
        self.tab.socket.client_sends({"type": kind, "cursor": cursor})
        await asyncio.sleep(1.0)
        return [frame for frame in self.tab.socket.frames[before:] if frame["type"] != "pong"]


def numbers(frames: list[dict[str, Any]]) -> list[Any]:
    """What the events carry, and the reasons of the gaps."""
    return [frame["reason"] if frame["type"] == "gap" else frame["data"]["n"] for frame in frames]


async def emitted(manager: UnifiedWebSocketManager, *what: int) -> list[str]:
    """Emit; the cursors."""
    emitter = manager.get_emitter("alice")
    return [encode_cursor(await emitter.emit("x", {"n": n})) for n in what]


@virtual_time
async def test_a_client_where_the_connection_is_is_sent_nothing() -> None:
    async with a_manager(limits=LIMITS) as manager:
        client = await Client.of(manager)
        cursors = await emitted(manager, 1, 2, 3)
        for _ in range(3):
            assert await client.asked() == cursors[-1]
            assert await client.says(cursors[-1]) == []
            assert await client.says(cursors[-1], "ping") == []


@virtual_time
async def test_a_client_that_missed_something_is_sent_it_again_without_a_gap() -> None:
    async with a_manager(limits=LIMITS) as manager:
        client = await Client.of(manager)
        cursors = await emitted(manager, 1, 2, 3)
        await client.asked()
        assert await client.says(cursors[0]) == [], "it may be slow"
        await client.asked()
        assert numbers(await client.says(cursors[0])) == [2, 3]
        await client.asked()
        assert await client.says(cursors[2]) == []


@virtual_time
async def test_what_a_client_missed_and_the_log_no_longer_holds_is_a_gap() -> None:
    async with a_manager(limits=LIMITS, retention=Retention(events=2)) as manager:
        client = await Client.of(manager)
        cursors = await emitted(manager, 1)
        await client.tab.has(1)
        await emitted(manager, 2)
        await client.tab.has(2)
        await emitted(manager, 3, 4)
        await client.asked()
        await client.says(cursors[0])
        await client.asked()
        assert numbers(await client.says(cursors[0])) == ["trimmed", 3, 4]


@pytest.mark.parametrize("kind", ["ping", "pong"])
@pytest.mark.parametrize("v1", [True, False])
@virtual_time
async def test_a_client_that_cannot_be_where_it_says_is_told_a_gap_and_shown_what_there_is(kind: str, v1: bool) -> None:
    """Also one that is ahead of its log, as after a store went back in time. It need not be asked first."""
    async with a_manager(limits=LIMITS) as manager:
        client = await Client.of(manager)
        if not v1:
            client = Client(await Tab.open(manager, "alice", "tab"))
            await client.tab.greeted()
        epoch, offset, mark = decode_cursor((await emitted(manager, 1, 2))[-1])
        await client.tab.has(2)
        for claimed, reason in (
            (Position(epoch, offset + 5, "later"), "diverged"),
            (Position(epoch, offset, "other"), "diverged"),
            (Position("before", offset, mark), "new_epoch"),
            (Position("before", 1, "e1"), "new_epoch"),
        ):
            assert numbers(await client.says(encode_cursor(claimed), kind)) == [reason, 1, 2]
            assert await client.says(encode_cursor(claimed), kind) == [], "not as often as it likes"
            await client.asked()
        await emitted(manager, 3)
        await client.tab.has(11)
        assert [event["data"]["n"] for event in client.tab.events] == [1, 2] * 5 + [3], "and it goes on from there"


@virtual_time
async def test_a_cursor_of_another_user_is_a_place_nowhere() -> None:
    async with a_manager(limits=LIMITS) as manager:
        client = await Client.of(manager)
        await emitted(manager, 1)
        hers = [await manager.get_emitter("bob").emit("x", {"n": f"bob {n}"}) for n in range(5)]
        await client.tab.has(1)
        for position in hers:
            assert numbers(await client.says(encode_cursor(position))) == ["new_epoch", 1]
            await client.asked()


@virtual_time
async def test_a_client_ahead_that_is_right_is_told_nothing() -> None:
    """It has the newest event from another connection, and this one has not come to it yet."""
    log = TroubledLog()
    async with a_manager(log, limits=LIMITS) as manager:
        log.deaf = True
        client = await Client.of(manager)
        cursors = await emitted(manager, 1, 2)
        assert await client.says(cursors[-1]) == []
        await client.asked()
        assert numbers(client.tab.socket.events) == [1, 2], "which it comes to at its own heartbeat"
        assert client.tab.socket.of_type("gap") == []


@virtual_time
async def test_a_claim_is_compared_once_the_log_can_be_read_again() -> None:
    log = TroubledLog()
    async with a_manager(log, limits=LIMITS) as manager:
        client = await Client.of(manager)
        (cursor,) = await emitted(manager, 1)
        await client.tab.has(1)
        epoch, offset, _ = decode_cursor(cursor)
        log.unreadable = True
        wrong = encode_cursor(Position(epoch, offset + 1, "later"))
        assert await client.says(wrong) == []
        log.unreadable = False
        await client.asked()
        assert numbers(await client.says(wrong)) == ["diverged", 1], "it says so at each heartbeat"
        assert client.tab.connection.state == "open"


@virtual_time
async def test_only_the_newest_of_many_claims_is_looked_at() -> None:
    """What a client says costs it more than it costs the server."""
    log = TroubledLog()
    async with a_manager(log, limits=LIMITS) as manager:
        client = await Client.of(manager)
        await emitted(manager, 1)
        await client.tab.has(1)
        client.tab.socket.block()
        await emitted(manager, 2)
        await turns()
        for number in range(60):
            client.tab.socket.client_sends({"type": "pong", "cursor": f"before.{number + 1}.x"})
        await turns(200)
        client.tab.socket.unblock()
        await asyncio.sleep(1.0)
        assert len(client.tab.socket.of_type("gap")) <= 2
