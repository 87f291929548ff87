"""The gate: half of a busy turn goes to those who get in, the others are told when to come, and nobody is counted for
longer than they are there."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import VirtualLoop, run_in_virtual_time, virtual_time
from websocket_core.admission import (
    LATEST,
    SLICE,
    SLOWEST,
    SOONEST,
    AdmissionGate,
    Admitted,
    Refusal,
    network_of,
)
from websocket_core.limits import Limits
from websocket_core.metrics import Metrics

HERE = "192.0.2.1"


def a_gate(*, handshakes: int = 1_000_000, connections_per_address: int = 1_000_000) -> AdmissionGate:
    limits = Limits(handshakes=handshakes, connections_per_address=connections_per_address)
    return AdmissionGate(limits, Metrics())


def spend(seconds: float) -> None:
    """Let time pass within this turn of the loop, as work does."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.now += seconds


def let_in(gate: AdmissionGate, address: str | None = None) -> Admitted:
    admitted = gate.enter(address)
    assert isinstance(admitted, Admitted)
    return admitted


def sent_away(gate: AdmissionGate, address: str | None = None) -> Refusal:
    refusal = gate.enter(address)
    assert isinstance(refusal, Refusal)
    return refusal


# -- turns of the loop


@virtual_time
async def test_a_turn_that_takes_long_lets_in_and_sends_away_for_as_long_as_each_other() -> None:
    gate = a_gate()
    seen = ""
    for _ in range(40):
        seen += "i" if isinstance(gate.enter(None), Admitted) else "o"
        spend(SLICE / 8)
    assert seen == ("i" * 8 + "o" * 8) * 2 + "i" * 8


@virtual_time
async def test_the_next_turn_begins_with_those_who_get_in() -> None:
    gate = a_gate()
    let_in(gate)
    spend(SLICE * 1.5)
    sent_away(gate)
    await asyncio.sleep(0)
    let_in(gate)
    spend(SLICE * 0.9)
    let_in(gate)


@virtual_time
async def test_a_loop_that_keeps_up_lets_everybody_in() -> None:
    gate = a_gate()
    for _ in range(10_000):
        let_in(gate).served()
        spend(SLICE * 0.9)
        await asyncio.sleep(0)


@virtual_time
async def test_what_was_done_in_a_turn_before_the_first_came_does_not_count_against_them() -> None:
    gate = a_gate()
    let_in(gate)
    await asyncio.sleep(0)
    spend(100.0)
    let_in(gate)


def test_a_gate_serves_the_next_loop_when_the_first_has_gone() -> None:
    """The end of a turn that never came is no turn that lasts for ever."""
    gate = a_gate()

    async def enter(*, then_spend: float) -> object:
        entered = gate.enter(None)
        spend(then_spend)
        return entered

    for number in range(3):
        loop = VirtualLoop()
        loop.now += SLICE * 1.5 * number
        first = loop.create_task(enter(then_spend=SLICE * 1.5))
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert isinstance(first.result(), Admitted)
        loop.close()


# -- how many are in the making


@virtual_time
async def test_no_more_are_let_in_than_may_be_in_the_making() -> None:
    gate = a_gate(handshakes=3)
    first, *_ = [let_in(gate) for _ in range(3)]
    assert sent_away(gate).status == 503
    await asyncio.sleep(1.0)
    assert sent_away(gate).status == 503, "a new turn makes no room"
    first.served()
    let_in(gate)
    sent_away(gate)
    first.served()
    sent_away(gate)


@virtual_time
async def test_who_is_served_or_leaves_makes_room_once() -> None:
    gate = a_gate(handshakes=2)
    for _ in range(100):
        admitted = let_in(gate)
        if _ % 2:
            admitted.served()
        admitted.leave()
    assert gate._under_way == 0
    let_in(gate)
    let_in(gate)
    sent_away(gate)


# -- when to come again


async def _refused(gate: AdmissionGate, count: int) -> list[float]:
    """When the next ones are told to come, in seconds from now."""
    return [sent_away(gate).retry_after for _ in range(count)]


@virtual_time
async def test_each_is_given_a_time_of_its_own_one_after_the_other() -> None:
    gate = a_gate(handshakes=1)
    let_in(gate)
    times = await _refused(gate, 100)
    assert times == pytest.approx([SOONEST + number / SLOWEST for number in range(1, 101)])


@virtual_time
async def test_times_that_were_given_away_are_not_given_again_and_those_that_passed_are() -> None:
    gate = a_gate(handshakes=1)
    let_in(gate)
    loop = asyncio.get_running_loop()
    given_first = [loop.time() + seconds for seconds in await _refused(gate, 20)]
    await asyncio.sleep(0.5)
    given_then = [loop.time() + seconds for seconds in await _refused(gate, 20)]
    assert given_first[-1] < given_then[0]
    assert sorted(given_first + given_then) == given_first + given_then
    await asyncio.sleep(100.0)
    assert await _refused(gate, 1) == pytest.approx([SOONEST + 1 / SLOWEST])


@virtual_time
async def test_nobody_is_sent_away_for_longer_than_a_minute_or_shorter_than_a_second() -> None:
    gate = a_gate(handshakes=1)
    let_in(gate)
    times = await _refused(gate, 10_000)
    assert min(times) >= SOONEST
    assert times[-1] == LATEST == max(times)


@virtual_time
async def test_the_times_follow_the_pace_at_which_newcomers_were_served() -> None:
    gate = a_gate(handshakes=1)
    for _ in range(201):
        let_in(gate).served()
        await asyncio.sleep(0.01)
    let_in(gate)
    times = await _refused(gate, 10)
    assert times[-1] - times[0] == pytest.approx(9 / 100, rel=0.1)


@virtual_time
async def test_a_pace_of_long_ago_says_nothing() -> None:
    gate = a_gate(handshakes=1)
    for _ in range(201):
        let_in(gate).served()
        await asyncio.sleep(0.01)
    await asyncio.sleep(60.0)
    let_in(gate).served()
    let_in(gate)
    times = await _refused(gate, 10)
    assert times[-1] - times[0] == pytest.approx(9 / SLOWEST)


@virtual_time
async def test_the_times_follow_the_pace_of_the_turn_when_a_storm_comes_at_once() -> None:
    """In the first second there is no pace yet, and a server that takes a thousand does not ask for twenty."""
    gate = a_gate()
    for _ in range(250):
        let_in(gate)
        spend(SLICE / 250)
    spend(SLICE / 1_000)
    times = await _refused(gate, 11)
    assert times[-1] - times[0] == pytest.approx(10 / 1_000, rel=0.05)


@virtual_time
async def test_those_who_come_when_they_were_told_to_get_in() -> None:
    """Eight thousand at once, of whom a server can take 500 in a second: all are in after about as long as that takes,
    and half of the time at least went to them."""
    loop = asyncio.get_running_loop()
    gate = a_gate(handshakes=100)
    began = loop.time()
    attempts, inside, work = 0, 0, 1 / 500

    async def client() -> None:
        nonlocal attempts, inside
        while True:
            attempts += 1
            entered = gate.enter(None)
            if isinstance(entered, Admitted):
                spend(work)
                entered.leave()
                inside += 1
                return
            spend(work / 10)
            await asyncio.sleep(entered.retry_after)

    await asyncio.gather(*[client() for _ in range(8_000)])
    assert inside == 8_000
    assert loop.time() - began <= 2.5 * 8_000 * work
    assert attempts <= 4 * 8_000


# -- addresses


@virtual_time
async def test_an_address_has_so_many_connections_and_others_have_theirs() -> None:
    gate = a_gate(connections_per_address=2)
    first, _ = let_in(gate, HERE), let_in(gate, HERE)
    assert sent_away(gate, HERE) == Refusal(429, SOONEST)
    let_in(gate, "192.0.2.2")
    first.served()
    assert sent_away(gate, HERE).status == 429, "it is there until it leaves"
    first.leave()
    let_in(gate, HERE)
    sent_away(gate, HERE)


@virtual_time
async def test_where_there_is_no_address_nobody_is_counted() -> None:
    gate = a_gate(connections_per_address=1)
    admitted = [let_in(gate, None) for _ in range(100)]
    for each in admitted:
        each.leave()
    assert not gate._addresses


@virtual_time
async def test_who_is_refused_is_counted_in_the_metrics_and_nowhere_else() -> None:
    metrics = Metrics()
    gate = AdmissionGate(Limits(handshakes=1, connections_per_address=2), metrics)
    admitted = let_in(gate, HERE)
    for _ in range(5):
        assert sent_away(gate, HERE).status == 503
    assert metrics.refusals == 5
    admitted.served()
    other = let_in(gate, HERE)
    assert sent_away(gate, HERE).status == 429, "which costs no room in the making"
    assert metrics.refusals == 6
    other.leave()
    admitted.leave()
    assert (gate._under_way, dict(gate._addresses)) == (0, {})


@virtual_time
async def test_an_address_that_asks_too_often_takes_no_times_of_others() -> None:
    gate = a_gate(handshakes=2, connections_per_address=1)
    let_in(gate, HERE)
    for _ in range(100):
        assert sent_away(gate, HERE) == Refusal(429, SOONEST)
    let_in(gate, "192.0.2.2")
    assert sent_away(gate, "192.0.2.3").retry_after == pytest.approx(SOONEST + 1 / SLOWEST)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["enter", "enter", "served", "leave", "turn"]), st.integers(0, 9)), max_size=60)
)
def test_whoever_comes_and_goes_nothing_is_left_behind_and_no_bound_is_passed(steps: list[tuple[str, int]]) -> None:
    async def run() -> None:
        gate = a_gate(handshakes=3, connections_per_address=2)
        under_way: dict[Admitted, str] = {}
        inside: dict[Admitted, str] = {}
        for what, which in steps:
            if what == "enter":
                address = f"192.0.2.{which % 3}"
                entered = gate.enter(address)
                room = len(under_way) < 3 and list(inside.values()).count(address) < 2
                assert isinstance(entered, Admitted) == room
                if isinstance(entered, Admitted):
                    under_way[entered] = inside[entered] = address
            elif what == "turn":
                await asyncio.sleep(which / 3)
            elif inside:
                chosen = list(inside)[which % len(inside)]
                under_way.pop(chosen, None)
                if what == "served":
                    chosen.served()
                else:
                    del inside[chosen]
                    chosen.leave()
        for left in inside:
            left.leave()
        assert (gate._under_way, dict(gate._addresses)) == (0, {})

    run_in_virtual_time(run())


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:c000:201", "192.0.2.1"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("2001:db8:0:1:ffff:ffff:ffff:ffff", "2001:db8:0:1::/64"),
        ("2001:DB8:0:1::", "2001:db8:0:1::/64"),
        ("2001:db8:0:2::1", "2001:db8:0:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("testclient", "testclient"),
        ("192.0.2.1.", "192.0.2.1."),
        ("192.0.02.1", "192.0.02.1"),
        ("", None),
        (None, None),
    ],
)
def test_an_address_stands_for_itself_or_for_the_network_that_one_customer_has(
    host: str | None, counted: str | None
) -> None:
    assert network_of(host) == counted
