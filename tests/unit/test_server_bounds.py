"""Who of those that owe a request is to go, and when; and how many frames a socket may send. In virtual time."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import pytest

from tests.support import VirtualLoop, virtual_time
from websocket_core.errors import InvalidConfiguration
from websocket_core.lag import LATE
from websocket_core.server_bounds import AT_ONCE, GRACE, Credit, Handshakes, ServerBounds, has_unread


class Sender:
    """A connection that notes what became of it."""

    def __init__(self, address: str | None = "10.0.0.1", *, periods: int = 0, unread: bool = False) -> None:
        self.address = address
        self.periods = periods
        self.unread = unread
        self.ended: float | None = None
        self.how = ""

    def _end(self, how: str) -> None:
        assert not self.how, "ended twice"
        self.ended, self.how = asyncio.get_running_loop().time(), how

    def has_unread(self) -> bool:
        return self.unread

    def refuse(self) -> None:
        self._end("refused")

    def head_is_late(self) -> None:
        self._end("late head")

    def body_is_late(self) -> bool:
        self.periods -= 1
        if self.periods < 0:
            self._end("late body")
        return self.periods < 0


def of_this_loop(
    trusted: frozenset[str] = frozenset(), *, descriptors: int | None = None, **bounds: Any
) -> tuple[Handshakes, VirtualLoop]:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return Handshakes(ServerBounds(**bounds), loop, trusts=trusted.__contains__, descriptors=descriptors), loop


def expect(
    handshakes: Handshakes, count: int, address: str | None = "10.0.0.1", *, unread: bool = False
) -> list[Sender]:
    senders = [Sender(address, unread=unread) for _ in range(count)]
    for sender in senders:
        handshakes.expect_head(sender)
    return senders


# -- heads


@virtual_time
async def test_a_head_is_late_so_long_after_it_was_first_owed_whatever_came_since() -> None:
    handshakes, loop = of_this_loop(handshake_timeout=5.0)
    began = loop.time()
    [dripping] = expect(handshakes, 1)
    for _ in range(49):
        await asyncio.sleep(0.1)
        handshakes.expect_head(dripping)  # every byte says that the head is still owed
    await asyncio.sleep(0.11)
    assert dripping.how == "late head"
    assert dripping.ended == pytest.approx(began + 5.0)
    assert handshakes.waiting == 0


@virtual_time
async def test_each_has_its_own_deadline() -> None:
    handshakes, loop = of_this_loop(handshake_timeout=2.0)
    began = loop.time()
    senders = []
    for _ in range(40):
        senders += expect(handshakes, 1)
        await asyncio.sleep(0.1)
    await asyncio.sleep(3.0)
    for number, sender in enumerate(senders):
        assert sender.ended == pytest.approx(began + 0.1 * number + 2.0)


@virtual_time
async def test_whoever_has_sent_the_head_or_has_gone_is_left_alone() -> None:
    handshakes, _loop = of_this_loop(handshake_timeout=2.0)
    quick, slow, gone = expect(handshakes, 3)
    await asyncio.sleep(0.1)
    handshakes.settle(quick)
    await asyncio.sleep(1.5)
    handshakes.settle(slow)
    handshakes.settle(gone)
    await asyncio.sleep(10.0)
    assert [sender.how for sender in (quick, slow, gone)] == ["", "", ""]


@virtual_time
async def test_nothing_is_kept_of_those_who_have_gone() -> None:
    handshakes, loop = of_this_loop(handshake_timeout=1.0, pending=8, pending_per_address=2)
    for address in ("10.0.0.1", "2001:db8::1", None):
        expect(handshakes, 2, address)
        expect(handshakes, 2, address)
        await asyncio.sleep(GRACE / 2 + 0.1)
        early = expect(handshakes, 1, address)
        handshakes.settle(early[0])
        await asyncio.sleep(2.0)
    assert handshakes.waiting == 0
    assert not handshakes._slow_of
    assert [line._timer for line in (handshakes._new, handshakes._slow, handshakes._bodies)] == [None] * 3
    assert not [handle for handle in loop._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]


@virtual_time
async def test_a_stall_of_the_loop_counts_against_nobody_whose_request_was_there() -> None:
    handshakes, loop = of_this_loop(handshake_timeout=2.0)
    sent, silent = expect(handshakes, 2)
    await asyncio.sleep(1.0)
    loop.now += 30.0
    await asyncio.sleep(LATE / 2)  # the request was in the kernel's buffer all the time, and is read now
    assert (sent.how, silent.how) == ("", "")
    handshakes.settle(sent)
    await asyncio.sleep(LATE)
    assert (sent.how, silent.how) == ("", "late head")


@virtual_time
async def test_many_that_are_late_together_leave_the_loop_its_turns() -> None:
    handshakes, _loop = of_this_loop(handshake_timeout=1.0, pending_per_address=1_000)
    senders = expect(handshakes, 5 * AT_ONCE)
    seen: set[int] = set()
    await asyncio.sleep(1.0)
    for _ in range(20):
        seen.add(sum(bool(sender.how) for sender in senders))
        await asyncio.sleep(0)
    assert {AT_ONCE, 2 * AT_ONCE, 3 * AT_ONCE, 4 * AT_ONCE, 5 * AT_ONCE} <= seen


# -- how many


@virtual_time
async def test_above_the_bound_the_newest_is_refused_until_somebody_has_gone() -> None:
    handshakes, _loop = of_this_loop(pending=3, handshake_timeout=10.0)
    first, *others = expect(handshakes, 4, None)
    assert [sender.how for sender in (first, *others)] == ["", "", "", "refused"]
    handshakes.settle(first)
    assert expect(handshakes, 1, None)[0].how == ""
    assert handshakes.waiting == 3


@virtual_time
async def test_those_who_do_not_send_take_the_places_of_the_slow_and_of_nobody_else() -> None:
    handshakes, _loop = of_this_loop(pending=3, handshake_timeout=10.0)
    silent = expect(handshakes, 3, None)
    await asyncio.sleep(GRACE + 0.01)
    quick, slow = expect(handshakes, 2, None)
    await asyncio.sleep(GRACE / 2)
    handshakes.settle(quick)
    await asyncio.sleep(GRACE)
    assert (quick.how, slow.how) == ("", "refused")
    assert handshakes.waiting == 3
    handshakes.settle(silent[0])
    [slow] = expect(handshakes, 1, None)
    await asyncio.sleep(GRACE + 0.01)
    assert slow.how == ""


@virtual_time
async def test_nobody_is_refused_whose_request_waits_to_be_read() -> None:
    """When thousands come back at once, it is the server that is slow."""
    handshakes, _loop = of_this_loop(pending=3, pending_per_address=2, handshake_timeout=10.0)
    expect(handshakes, 3)
    at_once = expect(handshakes, 5, unread=True)
    await asyncio.sleep(GRACE + 0.01)
    assert not any(sender.how for sender in at_once)
    for sender in at_once:
        handshakes.settle(sender)
    assert handshakes.waiting == 2


@virtual_time
async def test_they_never_take_all_the_descriptors_of_the_process() -> None:
    handshakes, _loop = of_this_loop(descriptors=120, handshake_timeout=10.0)
    assert sum(not sender.how for sender in expect(handshakes, 200, "10.0.0.1")) == 60
    await asyncio.sleep(GRACE + 0.01)
    assert handshakes.waiting == 30, "a quarter for one address"
    expect(handshakes, 60, "10.0.0.2")
    await asyncio.sleep(GRACE + 0.01)
    assert handshakes.waiting == 40, "a third for all of them"
    few, _loop = of_this_loop(descriptors=1)
    assert expect(few, 1)[0].how == ""


@virtual_time
async def test_one_address_keeps_only_so_many_and_does_not_stand_in_the_way_of_others() -> None:
    handshakes, _loop = of_this_loop(pending_per_address=2, handshake_timeout=10.0)
    many, other = expect(handshakes, 5), expect(handshakes, 2, "10.0.0.2")
    await asyncio.sleep(GRACE + 0.01)
    assert [sender.how for sender in many] == ["", "", "refused", "refused", "refused"]
    assert [sender.how for sender in other] == ["", ""]
    handshakes.settle(many[0])
    [next_one] = expect(handshakes, 1)
    await asyncio.sleep(GRACE + 0.01)
    assert next_one.how == ""


@virtual_time
async def test_a_crowd_from_one_address_whose_requests_come_at_once_is_no_flood() -> None:
    handshakes, _loop = of_this_loop(pending_per_address=2)
    crowd = expect(handshakes, 1_000)
    await asyncio.sleep(GRACE / 2)
    for sender in crowd:
        handshakes.settle(sender)
    await asyncio.sleep(10.0)
    assert not any(sender.how for sender in crowd)


@virtual_time
async def test_an_ipv6_network_counts_as_one_address_and_a_proxy_as_none() -> None:
    handshakes, _loop = of_this_loop(frozenset({"10.9.9.9"}), pending_per_address=1)
    network = [expect(handshakes, 1, f"2001:db8:0:1::{number}")[0] for number in range(1, 4)]
    neighbour = expect(handshakes, 1, "2001:db8:0:2::1")[0]
    proxy, unix = expect(handshakes, 3, "10.9.9.9"), expect(handshakes, 3, None)
    await asyncio.sleep(GRACE + 0.01)
    assert [sender.how for sender in network] == ["", "refused", "refused"]
    assert not any(sender.how for sender in (neighbour, *proxy, *unix))


@virtual_time
async def test_refusals_are_warned_of_once_a_minute_with_their_number(caplog: pytest.LogCaptureFixture) -> None:
    handshakes, _loop = of_this_loop(pending=1, handshake_timeout=100.0)
    expect(handshakes, 51)  # 50 at once
    await asyncio.sleep(30.0)
    expect(handshakes, 2)  # one at once and one after the first moment
    await asyncio.sleep(31.0)
    expect(handshakes, 2)  # one at once
    said = [record for record in caplog.records if record.name == "websocket_core.server_bounds"]
    assert [record.levelno for record in said] == [logging.WARNING] * 2
    assert [record.getMessage().rsplit(" ", 1)[1] for record in said] == ["1", "52"]
    assert "10.0.0.1" not in caplog.text


class Ended(asyncio.Transport):
    """A transport of that socket."""

    def __init__(self, end: socket.socket | None) -> None:
        super().__init__({"socket": end})


def test_what_waits_in_the_kernel_can_be_seen() -> None:
    near, far = socket.socketpair()
    with near, far:
        assert not has_unread(Ended(near))
        far.sendall(b"x")
        assert has_unread(Ended(near))
        near.recv(10)
        assert not has_unread(Ended(near))
        far.close()
        assert has_unread(Ended(near)), "that it was closed"
    assert not has_unread(Ended(near)), "there is none any more"
    assert not has_unread(Ended(None))


# -- bodies


@virtual_time
async def test_a_body_gets_another_period_as_long_as_its_sender_earns_it() -> None:
    handshakes, loop = of_this_loop(body_timeout=10.0)
    began = loop.time()
    slow, steady = Sender(), Sender(periods=3)
    for sender in (slow, steady):
        handshakes.expect_head(sender)
        assert handshakes.expect_body(sender)
        assert not handshakes.expect_body(sender), "it is owed already"
    assert handshakes.waiting == 0, "the head is there"
    await asyncio.sleep(100.0)
    assert (slow.how, steady.how) == ("late body", "late body")
    assert slow.ended == pytest.approx(began + 10.0)
    assert steady.ended == pytest.approx(began + 40.0)


@virtual_time
async def test_a_body_that_is_whole_is_not_looked_at_any_more() -> None:
    handshakes, _loop = of_this_loop(body_timeout=1.0)
    sender = Sender()
    handshakes.expect_body(sender)
    handshakes.settle(sender)
    await asyncio.sleep(5.0)
    handshakes.expect_body(sender)
    handshakes.expect_head(sender)  # the next request began
    await asyncio.sleep(2.0)
    assert sender.how == ""


# -- frames


def test_a_socket_may_send_a_burst_and_then_so_many_frames_with_each_second() -> None:
    now = [0.0]
    credit = Credit(ServerBounds(wire_frames=100, wire_frames_per_second=10.0), lambda: now[0])
    assert all(credit.spend(4) for _ in range(25))
    assert not credit.spend(1)
    now[0] += 0.5
    assert [credit.spend(2), credit.spend(2), credit.spend(2)] == [True, True, False]
    now[0] += 1_000.0
    assert sum(credit.spend(1) for _ in range(200)) == 100, "no more than a burst, however long it was quiet"


def test_what_was_refused_is_not_forgiven_by_asking_again() -> None:
    now = [0.0]
    credit = Credit(ServerBounds(wire_frames=10, wire_frames_per_second=1.0), lambda: now[0])
    for _ in range(30):
        credit.spend(1)
    now[0] += 10.0
    assert not credit.spend(1)


# -- configuration


@pytest.mark.parametrize("field", ServerBounds.__slots__)
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "5", True, None])
def test_a_bound_is_a_finite_number_above_zero(field: str, value: Any) -> None:
    with pytest.raises(InvalidConfiguration, match=field):
        ServerBounds(**{field: value})


@virtual_time
async def test_a_timeout_shorter_than_the_first_moment_holds() -> None:
    handshakes, _loop = of_this_loop(handshake_timeout=0.02)
    [sender] = expect(handshakes, 1)
    await asyncio.sleep(0.021)
    assert sender.how == "late head"
