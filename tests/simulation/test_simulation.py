"""A few seeds of the simulation, and what makes them worth something: they repeat exactly, and they notice defects."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.simulation import rolling_log
from tests.simulation.checker import Fault
from tests.simulation.loop import Deadlock, Livelock, SimLoop, seeded_world
from tests.simulation.network import Conditions, FrameMeter, Network
from tests.simulation.scenario import Kind, Outcome, kind_of, run_seed
from websocket_core.connection import WebSocketConnection
from websocket_core.cursor import Gap, LogCursor
from websocket_core.identity import LogName
from websocket_core.log import GapReason, Position
from websocket_core.logs import memory
from websocket_core.outbound import Outbound
from websocket_core.outbox import Outbox, Outboxes, Waiting
from websocket_core.wire import provisional_frame

ROOT = Path(__file__).resolve().parents[2]


def first_violation(seeds: range, kind: Kind | None = None) -> Outcome:
    for seed in seeds:
        outcome = run_seed(seed, kind)
        if outcome.violations:
            return outcome
    raise AssertionError(f"{len(seeds)} seeds noticed nothing")


@pytest.mark.parametrize("seed", range(1_000, 1_008))
def test_a_seed_breaks_no_promise(seed: int) -> None:
    outcome = run_seed(seed, Kind.CHAOS)
    assert outcome.violations == []
    assert outcome.deliveries > 20


@pytest.mark.parametrize("seed", range(1_000, 1_006))
def test_a_store_that_is_rolled_back_shows_nobody_a_history_that_contradicts_what_was_seen(seed: int) -> None:
    outcome = run_seed(seed, Kind.ROLLBACK)
    assert outcome.violations == []
    assert outcome.faults["rollback"] > 0
    assert outcome.faults["rollback_ahead_idle"] > 0


@pytest.mark.parametrize("seed", range(1_000, 1_006))
def test_a_loop_that_stands_still_for_five_seconds_disconnects_nobody_who_answers_afterwards(seed: int) -> None:
    """Nothing else goes wrong in this world, so no connection may end at all. Each time-out is shorter than that."""
    outcome = run_seed(seed, Kind.STALLS)
    assert outcome.violations == []
    assert outcome.faults["loop_stall_beyond_timeout"] > 0


@pytest.mark.parametrize("seed", range(1_000, 1_006))
def test_a_log_that_is_away_again_and_again_takes_nothing_down(seed: int) -> None:
    """What waits for it is shown to its own user between `degraded` and `restored`, and comes in that order later."""
    outcome = run_seed(seed, Kind.AWAY)
    assert outcome.violations == []
    assert outcome.faults["log_was_away"] > 0
    assert outcome.deliveries > 20


def test_faults_land() -> None:
    landed: Counter[str] = Counter()
    for seed in range(1_012, 1_018):
        landed += run_seed(seed, Kind.CHAOS).faults + run_seed(seed, Kind.ROLLBACK).faults
        landed += run_seed(seed, Kind.AWAY).faults
    for fault in (
        "cut", "cut_mid_frame", "stall", "half_open", "slow_reader", "lost_wake_up", "cancelled_in_append",
        "rollback_lost_entry", "rollback_unnoticed", "rollback_woken", "rollback_retried", "rollback_ahead",
        "rollback_overgrown", "rollback_resume_lost", "rollback_resume_kept", "revoked_open", "revoked_resuming",
        "revoked_refused", "revoked_came_back", "log_was_away", "log_had_a_hiccup", "log_killed", "log_frozen",
        "shown_provisionally",
    ):  # fmt: skip
        assert landed[fault] > 0, fault


def test_seeds_are_of_every_kind() -> None:
    kinds = Counter(map(kind_of, range(500)))
    assert kinds[Kind.CHAOS] > kinds[Kind.ROLLBACK] > kinds[Kind.STALLS] > 25


def test_a_seed_is_the_same_in_every_process_and_under_every_hash_seed() -> None:
    digests = []
    for hash_seed in ("0", "77"):
        done = subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--worker", "3", "4"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=50,
        )
        digests.append([json.loads(line)["digest"] for line in done.stdout.splitlines()])
    assert {kind_of(seed) for seed in range(3, 7)} == {Kind.CHAOS, Kind.ROLLBACK, Kind.STALLS}
    here = [run_seed(seed).digest for seed in range(3, 7)]
    assert digests == [here, here]
    assert len(set(here)) == 4


def test_resume_by_epoch_and_offset_alone_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A positive control: the rule that other systems use."""
    honest = memory._Log.fault

    def by_offset(log: memory._Log, position: Position) -> GapReason | None:
        reason = honest(log, position)
        return None if reason is GapReason.DIVERGED and position.offset <= log.head else reason

    monkeypatch.setattr(memory._Log, "fault", by_offset)
    first_violation(range(40), Kind.CHAOS)


def test_resume_by_epoch_and_offset_alone_is_found_out_when_the_store_is_rolled_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A positive control: after a rollback the epoch is the same, and the offset is there again."""
    honest = rolling_log._Log.fault

    def by_offset(log: rolling_log._Log, position: Position) -> GapReason | None:
        reason = honest(log, position)
        return None if reason is GapReason.DIVERGED and position.offset <= log.head else reason

    monkeypatch.setattr(rolling_log._Log, "fault", by_offset)
    outcome = first_violation(range(10), Kind.ROLLBACK)
    assert outcome.faults["rollback_overgrown"] + outcome.faults["rollback_resume_lost"] > 0


def test_a_client_that_is_ahead_of_its_log_and_not_told_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A positive control: a store that has nothing new for who stands beyond its head."""
    honest = rolling_log._Log.fault

    def up_to_date(log: rolling_log._Log, position: Position) -> GapReason | None:
        return None if position.epoch == log.epoch and position.offset > log.head else honest(log, position)

    monkeypatch.setattr(rolling_log._Log, "fault", up_to_date)
    outcome = first_violation(range(10), Kind.ROLLBACK)
    assert Fault.GAP_WITHOUT_NOTICE in {violation.fault for violation in outcome.violations}


def test_what_waits_shown_to_whom_it_is_not_for_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A positive control: an outbox that is found by a wrong name, and neither of the two looks."""
    honest = Outboxes.waiting_for

    def any_outbox(outboxes: Outboxes, log: LogName) -> Outbox | None:
        return honest(outboxes, log) or next(iter(outboxes._outboxes.values()), None)

    monkeypatch.setattr(Outboxes, "waiting_for", any_outbox)
    monkeypatch.setattr(LogCursor, "foresees", lambda _cursor, _log, _event: True)
    monkeypatch.setattr(Outbound, "_render_other", render_unseen)
    outcome = first_violation(range(40), Kind.AWAY)
    assert Fault.LEAK in {violation.fault for violation in outcome.violations}


def render_unseen(outbound: Outbound, step: Gap | Waiting) -> str:
    return outbound._render_gap(step) if isinstance(step, Gap) else provisional_frame(step.event)


def test_a_stall_that_counts_against_the_clients_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A positive control: a server that takes the time in which it stood still for silence of its clients."""
    honest = WebSocketConnection.check
    monkeypatch.setattr(WebSocketConnection, "check", lambda connection, now, _lost=0.0: honest(connection, now))
    outcome = first_violation(range(20), Kind.STALLS)
    assert {violation.fault for violation in outcome.violations} == {Fault.DISCONNECTED}


def test_lost_signals_without_the_position_check_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A positive control: a heartbeat that does not look into the log."""
    honest = WebSocketConnection._beat

    def blind(connection: WebSocketConnection) -> None:
        dirty = connection._follower.dirty
        honest(connection)
        connection._follower.dirty = dirty

    monkeypatch.setattr(WebSocketConnection, "_beat", blind)
    outcome = first_violation(range(40), Kind.CHAOS)
    assert outcome.faults["lost_wake_up"] > 0


# -- the loop


def test_when_everybody_waits_and_no_timer_is_set_it_is_a_deadlock() -> None:
    loop = SimLoop()
    try:
        with pytest.raises(Deadlock):
            loop.run_until_complete(loop.create_future())
    finally:
        loop.close()


def test_tasks_that_keep_each_other_busy_are_noticed() -> None:
    async def busy() -> None:
        while True:  # noqa: ASYNC110 - that it turns for ever is the point
            await asyncio.sleep(0)

    loop = SimLoop()
    try:
        task = loop.create_task(busy())
        with pytest.raises(Livelock):
            loop.run_until_complete(task)
        loop._selector = type(loop._selector)(loop)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
    finally:
        loop.close()


def test_an_hour_takes_no_time_and_clocks_follow_the_loop() -> None:
    import time

    async def wait() -> float:
        began = time.monotonic()
        await asyncio.sleep(3_600.0)
        return time.monotonic() - began

    loop = SimLoop()
    try:
        with seeded_world(loop, 1):
            assert loop.run_until_complete(wait()) == 3_600.0
    finally:
        loop.close()


@pytest.mark.parametrize("order", ["fifo", "adversarial"])
def test_ready_tasks_run_in_an_order_that_the_seed_chooses(order: str) -> None:
    async def tell(number: int, told: list[int]) -> None:
        told.append(number)

    def told_by(seed: int) -> list[int]:
        told: list[int] = []

        async def main() -> None:
            await asyncio.gather(*(tell(number, told) for number in range(8)))

        loop = SimLoop(seed, order=order)
        try:
            loop.run_until_complete(main())
        finally:
            loop.close()
        return told

    assert told_by(1) == told_by(1)
    assert sorted(told_by(1)) == list(range(8))
    assert (told_by(1) == list(range(8))) == (order == "fifo")


def test_while_the_server_stands_still_its_clients_live_on_and_what_they_send_is_there_when_it_goes_on() -> None:
    loop = SimLoop()
    net = Network(loop, random.Random(5))
    told: list[tuple[str, float]] = []

    async def client() -> None:
        transport, _protocol = await net.connect(Collector, "server", 80, "me")
        for text in (b"one", b"two", b"three"):
            await asyncio.sleep(0.5)
            transport.write(text)
            told.append(("sent", round(loop.time(), 1)))

    async def main() -> None:
        server = Collector()
        net.listen(lambda: server, "server", 80)
        sending = loop.create_task(client(), context=loop.outside.copy())
        await asyncio.sleep(0.7)
        loop.stall(5.0)
        loop.call_later(2.0, lambda: told.append((server.arrived.decode(), round(loop.time(), 1))))
        await asyncio.sleep(0.0)
        told.append((server.arrived.decode(), round(loop.time(), 1)))
        await asyncio.wait([sending])

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    assert told == [
        ("sent", 0.5),
        ("sent", 1.0),
        ("sent", 1.5),
        ("one", 5.7),
        ("onetwothree", 5.7),  # a timer that was due meanwhile comes after what was there to be read
    ]


# -- the network


class Collector(asyncio.Protocol):
    """Keeps what arrives, and when writing was paused."""

    def __init__(self) -> None:
        self.arrived = bytearray()
        self.events: list[str] = []
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.arrived += data

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")

    def eof_received(self) -> None:
        self.events.append("end")

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append("lost" if exc is None else type(exc).__name__)


async def pair(net: Network, conditions: Conditions) -> tuple[Collector, Collector]:
    """A client and a server that are connected."""
    server = Collector()
    net.conditions["me"] = conditions
    net.listen(lambda: server, "server", 80)
    _transport, client = await net.connect(Collector, "server", 80, "me")
    return client, server


def in_a_network(story: Callable[[Network], object]) -> None:
    loop = SimLoop()
    net = Network(loop, random.Random(5))

    async def main() -> None:
        await story(net)  # type: ignore[misc]

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    assert not loop.failures


def test_bytes_arrive_in_order_and_whole_however_they_are_split() -> None:
    async def story(net: Network) -> None:
        client, server = await pair(net, Conditions(jitter=0.5, fragments=0.9, capacity=100))
        assert server.transport is not None
        sent = random.Random(1).randbytes(5_000)
        for index in range(0, len(sent), 77):
            server.transport.write(sent[index : index + 77])
        server.transport.close()
        await asyncio.sleep(200.0)
        assert bytes(client.arrived) == sent
        assert client.events == ["end", "lost"]
        assert not net.links

    in_a_network(story)


def test_a_reader_who_stops_pauses_the_writer() -> None:
    async def story(net: Network) -> None:
        client, server = await pair(net, Conditions(capacity=100, high_water=200))
        assert server.transport is not None
        assert client.transport is not None
        client.transport.pause_reading()
        server.transport.write(b"x" * 1_000)
        await asyncio.sleep(10.0)
        assert server.events == ["pause"]
        assert client.arrived == b""
        client.transport.resume_reading()
        await asyncio.sleep(10.0)
        assert server.events == ["pause", "resume"]
        assert len(client.arrived) == 1_000
        server.transport.abort()
        await asyncio.sleep(1.0)
        assert client.events == ["ConnectionResetError"]

    in_a_network(story)


def test_the_server_of_a_client_that_died_is_not_told() -> None:
    async def story(net: Network) -> None:
        client, server = await pair(net, Conditions())
        (link,) = net.links_of("me")
        link.vanish()
        assert server.transport is not None
        server.transport.write(b"hello")
        await asyncio.sleep(1_000.0)
        assert client.events == ["ConnectionAbortedError"]
        assert server.events == []
        assert link.half_open
        link.heal()
        await asyncio.sleep(1.0)
        assert server.events == ["ConnectionResetError"]

    in_a_network(story)


def test_a_meter_knows_when_bytes_stop_inside_a_frame() -> None:
    frame = bytes([0x81, 126, 0, 200]) + b"x" * 200
    stream = b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + frame + bytes([0x81, 2]) + b"ok" + bytes([0x8A, 0])
    ends = {len(stream) - 2, len(stream) - 6, len(stream) - 6 - len(frame), len(stream)}
    meter = FrameMeter()
    for index, byte in enumerate(stream):
        meter.feed(bytes([byte]))
        assert meter.inside == (index + 1 not in ends and index + 1 > len(stream) - 6 - len(frame)), index
    assert meter.frames == 3
