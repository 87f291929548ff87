"""What a connection sends: the right frames in the right order, and nothing that does not belong to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import turns, virtual_time
from websocket_core.cursor import Ended, Gap, Step
from websocket_core.errors import IsolationViolation
from websocket_core.events import Event
from websocket_core.identity import LogName
from websocket_core.log import Entry, GapReason, Position
from websocket_core.metrics import Metrics
from websocket_core.outbound import CURSOR_BYTES, Expired, Ordered, Outbound, SocketLost
from websocket_core.wire import PLAIN, PROTOCOL, event_frame

OWN = LogName("user", "alice")
GAP = Gap(GapReason.TRIMMED, Position("e", 4, "m4"))
GAP_FRAME = {"type": "gap", "reason": "trimmed", "cursor": "e.4.m4"}


class Socket:
    """Keeps what is sent; `error` is raised instead, `hold` makes writes wait."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.closed: list[tuple[int, str]] = []
        self.error: BaseException | None = None
        self.hold: asyncio.Event | None = None
        self.seconds = 0.0

    async def send_text(self, data: str) -> None:
        if self.seconds:
            await asyncio.sleep(self.seconds)
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise self.error
        self.texts.append(data)

    async def close(self, code: int, reason: str) -> None:
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise self.error
        self.closed.append((code, reason))

    @property
    def frames(self) -> list[Any]:
        return [json.loads(line) for text in self.texts for line in text.split("\n")]


def an_entry(offset: int, *, log: LogName = OWN, size: int = 0, at: float = 0.0) -> Entry:
    body = f'{{"type":"x","data":{{"n":{offset},"pad":"{"y" * size}"}},"id":"m{offset}"'
    return Entry(log, "e", offset, f"m{offset}", f"m{offset - 1}", Event(f"m{offset}", body.encode()), at)


def an_outbound(
    socket: Socket, protocol: str = PLAIN, *, batch_bytes: int = 262_144, metrics: Metrics | None = None
) -> Outbound:
    return Outbound(
        socket,
        own_log=OWN,
        protocol=protocol,
        batch_bytes=batch_bytes,
        metrics=metrics or Metrics(),
        clock=lambda: 50.0,
        monotonic=asyncio.get_running_loop().time,
    )


CONTROLS = ['{"type":"connected"}', '{"type":"pong"}']


async def test_a_plain_client_gets_one_object_per_frame_controls_first() -> None:
    socket = Socket()
    await an_outbound(socket).send(CONTROLS, [an_entry(1), GAP, an_entry(5)])
    assert [len(text.split("\n")) for text in socket.texts] == [1] * 5
    assert [frame["type"] for frame in socket.frames] == ["connected", "pong", "x", "gap", "x"]
    assert socket.frames[3] == GAP_FRAME
    assert socket.texts[2] == event_frame(an_entry(1))


async def test_a_client_of_the_protocol_gets_the_same_objects_in_one_frame() -> None:
    plain, shared = Socket(), Socket()
    steps: list[Step] = [an_entry(1), GAP, an_entry(5)]
    await an_outbound(plain).send(CONTROLS, steps)
    await an_outbound(shared, PROTOCOL).send(CONTROLS, steps)
    assert shared.texts == ["\n".join(plain.texts)]


@pytest.mark.parametrize("protocol", [PLAIN, PROTOCOL])
@pytest.mark.parametrize(
    ("controls", "steps"), [(CONTROLS[:1], []), ([], [an_entry(1)]), ([], [GAP])], ids=["control", "event", "gap"]
)
async def test_a_single_object_is_the_same_frame_for_everybody(
    protocol: str, controls: list[str], steps: list[Entry | Gap]
) -> None:
    socket = Socket()
    await an_outbound(socket, protocol).send(controls, steps)
    assert len(socket.texts) == 1
    assert socket.texts[0].count("\n") == 0


@pytest.mark.parametrize("protocol", [PLAIN, PROTOCOL])
async def test_nothing_to_send_is_no_frame(protocol: str) -> None:
    socket = Socket()
    await an_outbound(socket, protocol).send([], [])
    assert socket.texts == []


async def test_a_frame_is_full_before_it_is_too_big() -> None:
    socket = Socket()
    entry = an_entry(1, size=1_000)
    line = len(entry.event.body) + CURSOR_BYTES
    await an_outbound(socket, PROTOCOL, batch_bytes=line * 3).send([], [entry] * 7)
    assert [text.count("\n") + 1 for text in socket.texts] == [3, 3, 1]


async def test_an_event_larger_than_a_frame_goes_alone() -> None:
    socket = Socket()
    steps = [an_entry(1), an_entry(2, size=5_000), an_entry(3)]
    await an_outbound(socket, PROTOCOL, batch_bytes=2_000).send(CONTROLS, steps)
    assert [text.count("\n") + 1 for text in socket.texts] == [3, 1, 1]
    assert [frame["data"]["n"] for frame in socket.frames if frame["type"] == "x"] == [1, 2, 3]


STEPS = st.lists(st.builds(an_entry, st.integers(1, 99), size=st.integers(0, 700)) | st.just(GAP), max_size=12)


@settings(max_examples=200, deadline=None)
@given(STEPS, st.lists(st.sampled_from(CONTROLS), max_size=3), st.integers(300, 2_000))
def test_however_frames_are_cut_the_client_reads_the_same(
    steps: Sequence[Entry | Gap], controls: Sequence[str], batch_bytes: int
) -> None:
    async def send(protocol: str) -> Socket:
        socket = Socket()
        await an_outbound(socket, protocol, batch_bytes=batch_bytes).send(controls, steps)
        return socket

    plain, shared = asyncio.run(send(PLAIN)), asyncio.run(send(PROTOCOL))
    assert shared.frames == plain.frames
    for text in shared.texts:
        assert "\n" not in text or len(text.encode()) <= batch_bytes
    assert "" not in shared.texts


def test_the_allowance_for_a_cursor_covers_the_longest() -> None:
    longest = Entry(OWN, "e" * 64, 2**53 - 1, "m" * 64, "", Event("m" * 64, b'{"id":"x"'), 0.0)
    assert len(event_frame(longest)) + 1 <= len(longest.event.body) + CURSOR_BYTES


# -- isolation


@pytest.mark.parametrize("protocol", [PLAIN, PROTOCOL])
@pytest.mark.parametrize("log", [LogName("user", "bob"), LogName("topic", "alice"), LogName("user", "Alice")])
async def test_an_entry_of_another_log_never_reaches_the_socket(protocol: str, log: LogName) -> None:
    """The last look before the socket, apart from the grant that decided what was read."""
    for steps in ([an_entry(9, log=log)], [an_entry(1), an_entry(9, log=log), an_entry(2)]):
        socket, metrics = Socket(), Metrics()
        with pytest.raises(IsolationViolation):
            await an_outbound(socket, protocol, metrics=metrics).send(CONTROLS, steps)
        assert all(frame.get("id") != "m9" for frame in socket.frames)
        assert all(frame.get("id") != "m2" for frame in socket.frames), "and nothing after it"


# -- an order to go


@pytest.mark.parametrize("protocol", [PLAIN, PROTOCOL])
@pytest.mark.parametrize("batch_bytes", [100, 262_144])
async def test_an_order_comes_after_what_was_before_it_was_written_and_before_anything_else(
    protocol: str, batch_bytes: int
) -> None:
    socket, metrics = Socket(), Metrics()
    outbound = an_outbound(socket, protocol, batch_bytes=batch_bytes, metrics=metrics)
    with pytest.raises(Ordered) as ordered:
        await outbound.send(CONTROLS, [an_entry(1), GAP, an_entry(5), Ended(4410), an_entry(6), GAP, Ended(1000)])
    assert ordered.value.code == 4410
    assert [frame.get("id", frame["type"]) for frame in socket.frames] == ["connected", "pong", "m1", "gap", "m5"]
    assert (metrics.events_delivered, metrics.gaps) == (2, 1)


@pytest.mark.parametrize("protocol", [PLAIN, PROTOCOL])
async def test_an_order_alone_writes_nothing(protocol: str) -> None:
    socket = Socket()
    for controls in ([], CONTROLS[:1]):
        with pytest.raises(Ordered):
            await an_outbound(socket, protocol).send(controls, [Ended(1000)])
    assert socket.texts == CONTROLS[:1]


@pytest.mark.parametrize("protocol", [PLAIN, PROTOCOL])
async def test_what_an_order_follows_must_have_been_written_for_it_to_count(protocol: str) -> None:
    """Or a client would be told to go by a code, having been shown less than it believes."""
    socket = Socket()
    socket.error = ConnectionResetError()
    with pytest.raises(SocketLost):
        await an_outbound(socket, protocol).send([], [an_entry(1), Ended(4410)])


@pytest.mark.parametrize("protocol", [PLAIN, PROTOCOL])
async def test_an_entry_of_another_log_before_an_order_is_still_a_violation(protocol: str) -> None:
    socket = Socket()
    with pytest.raises(IsolationViolation):
        await an_outbound(socket, protocol).send([], [an_entry(9, log=LogName("user", "bob")), Ended(4410)])
    assert socket.texts == []


# -- a gap with a snapshot


@pytest.mark.parametrize("protocol", [PLAIN, PROTOCOL])
async def test_a_gap_carries_the_snapshot_as_it_was_encoded(protocol: str) -> None:
    socket = Socket()
    snapshot = '{"text":"é \\"quoted\\" \U0001f600","n":1.50,"big":12345678901234567890}'.encode()
    await an_outbound(socket, protocol).send([], [GAP._replace(snapshot=snapshot), an_entry(5)])
    assert socket.frames[0] == {**GAP_FRAME, "snapshot": json.loads(snapshot)}
    assert snapshot.decode() in socket.texts[0]
    assert socket.frames[1]["id"] == "m5"


@pytest.mark.parametrize("protocol", [PLAIN, PROTOCOL])
async def test_a_gap_without_a_snapshot_does_not_speak_of_one(protocol: str) -> None:
    socket = Socket()
    await an_outbound(socket, protocol).send([], [GAP])
    assert socket.frames == [GAP_FRAME]


# -- a socket that is lost, slow or closed


@pytest.mark.parametrize("protocol", [PLAIN, PROTOCOL])
@pytest.mark.parametrize("error", [ConnectionResetError(), RuntimeError("closed"), OSError(), KeyError("x")])
async def test_whatever_a_socket_raises_means_that_it_is_lost(protocol: str, error: Exception) -> None:
    socket, metrics = Socket(), Metrics()
    socket.error = error
    outbound = an_outbound(socket, protocol, metrics=metrics)
    with pytest.raises(SocketLost) as lost:
        await outbound.send([], [an_entry(1), an_entry(2)])
    assert lost.value.__cause__ is error
    assert outbound.write_since is None
    assert metrics.events_delivered == 0
    with pytest.raises(SocketLost):
        await outbound.close(1000, "")
    assert outbound.write_since is None


def _is_not_writing(outbound: Outbound) -> bool:
    return outbound.write_since is None


@virtual_time
async def test_a_write_that_hangs_shows_since_when() -> None:
    socket = Socket()
    outbound = an_outbound(socket)
    began = asyncio.get_running_loop().time()
    assert (outbound.write_since, outbound.wrote_at) == (None, began)
    socket.hold = asyncio.Event()
    await asyncio.sleep(7)
    sending = asyncio.ensure_future(outbound.send(CONTROLS, []))
    await asyncio.sleep(5)
    assert outbound.write_since == began + 7
    assert outbound.wrote_at == began, "it has not ended"
    socket.hold.set()
    await sending
    assert outbound.wrote_at == began + 12
    assert _is_not_writing(outbound)


@virtual_time
async def test_a_close_that_hangs_shows_since_when() -> None:
    socket = Socket()
    socket.hold = asyncio.Event()
    outbound = an_outbound(socket)
    closing = asyncio.create_task(outbound.close(1012, "restarting"))
    await turns()
    assert outbound.write_since is not None
    socket.hold.set()
    await closing
    assert socket.closed == [(1012, "restarting")]
    assert _is_not_writing(outbound)


@virtual_time
async def test_a_cancelled_write_is_a_cancellation_and_no_lost_socket() -> None:
    socket = Socket()
    socket.hold = asyncio.Event()
    outbound = an_outbound(socket)
    sending = asyncio.ensure_future(outbound.send(CONTROLS, []))
    await turns()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert outbound.write_since is None


# -- expiry


@pytest.mark.parametrize("protocol", [PLAIN, PROTOCOL])
async def test_after_its_time_nothing_is_written(protocol: str) -> None:
    socket = Socket()
    now = [50.0]
    outbound = Outbound(
        socket, own_log=OWN, protocol=protocol, batch_bytes=1_000, metrics=Metrics(), clock=lambda: now[0]
    )
    outbound.expire(55.0, grace=5.0)
    now[0] = 60.0
    await outbound.send(CONTROLS, [an_entry(1)])
    sent = list(socket.texts)
    now[0] = 60.001
    assert outbound.expired()
    for controls, steps in ((CONTROLS, []), ([], [an_entry(2)]), (CONTROLS, [an_entry(2)])):
        with pytest.raises(Expired):
            await outbound.send(controls, steps)
    assert socket.texts == sent
    await outbound.close(4419, "token expired")
    assert socket.closed == [(4419, "token expired")], "but the reason may be told"
    outbound.expire(None, grace=5.0)
    assert not outbound.expired()
    await outbound.send(CONTROLS, [])


async def test_what_is_left_is_counted_without_the_grace_and_never_below_nothing() -> None:
    now = [50.0]
    outbound = Outbound(
        Socket(), own_log=OWN, protocol=PLAIN, batch_bytes=1_000, metrics=Metrics(), clock=lambda: now[0]
    )
    assert outbound.expires_in() is None
    assert not outbound.expired()
    outbound.expire(55.12345, grace=5.0)
    assert outbound.expires_in() == 5.123
    now[0] = 58.0
    assert (outbound.expires_in(), outbound.expired()) == (0.0, False)


async def test_expiry_is_looked_at_before_each_write_and_not_once_for_all() -> None:
    socket = Socket()
    now = [50.0]
    outbound = Outbound(socket, own_log=OWN, protocol=PLAIN, batch_bytes=1_000, metrics=Metrics(), clock=lambda: now[0])
    outbound.expire(60.0, grace=0.0)
    send = socket.send_text

    async def send_slowly(data: str) -> None:
        await send(data)
        now[0] += 6.0

    outbound._send_text = send_slowly
    with pytest.raises(Expired):
        await outbound.send([], [an_entry(1), an_entry(2), an_entry(3)])
    assert [frame["data"]["n"] for frame in socket.frames] == [1, 2]


@pytest.mark.parametrize("protocol", [PLAIN, PROTOCOL])
@pytest.mark.parametrize("expires_at", [None, 10_000.0])
async def test_a_connection_that_closes_is_sent_nothing_more_of_its_batch(
    protocol: str, expires_at: float | None
) -> None:
    socket = Socket()
    outbound = an_outbound(socket, protocol, batch_bytes=400)
    outbound.expire(expires_at, grace=5.0)
    send = socket.send_text

    async def send_and_close(data: str) -> None:
        await send(data)
        outbound.stop()

    outbound._send_text = send_and_close
    with pytest.raises(Expired):
        await outbound.send([], [an_entry(1, size=300), an_entry(2, size=300), an_entry(3, size=300)])
    assert [frame["data"]["n"] for frame in socket.frames] == [1]
    await outbound.close(4410, "revoked")
    assert socket.closed == [(4410, "revoked")]


# -- metrics


@pytest.mark.parametrize("protocol", [PLAIN, PROTOCOL])
async def test_events_and_gaps_are_counted_and_control_frames_are_not(protocol: str) -> None:
    metrics = Metrics()
    outbound = an_outbound(Socket(), protocol, metrics=metrics)
    await outbound.send(CONTROLS, [GAP, an_entry(1), an_entry(2), an_entry(3)])
    await outbound.send(CONTROLS, [])
    assert (metrics.events_delivered, metrics.gaps) == (3, 1)


async def test_events_that_are_cut_into_several_frames_are_counted_once() -> None:
    socket, metrics = Socket(), Metrics()
    steps = [an_entry(number, size=500) for number in range(1, 8)]
    await an_outbound(socket, PROTOCOL, batch_bytes=1_700, metrics=metrics).send(CONTROLS, steps)
    assert len(socket.texts) == 4
    assert metrics.events_delivered == 7


@virtual_time
async def test_the_latency_is_that_of_the_oldest_event_of_a_frame_to_the_end_of_its_write() -> None:
    loop = asyncio.get_running_loop()
    socket = Socket()
    socket.seconds = 2.0
    now = loop.time()
    shared, plain = Metrics(), Metrics()
    await an_outbound(socket, PROTOCOL, metrics=shared).send(
        [], [an_entry(1, at=now - 3), an_entry(2, at=now - 1), an_entry(3, at=now)]
    )
    assert shared.delivery_latency.sum == pytest.approx(5.0)
    assert sum(shared.delivery_latency.counts) == 1
    now = loop.time()
    await an_outbound(socket, metrics=plain).send([], [an_entry(1, at=now - 3), an_entry(2, at=now - 1)])
    assert plain.delivery_latency.sum == pytest.approx(5.0 + 5.0)
    assert sum(plain.delivery_latency.counts) == 2
