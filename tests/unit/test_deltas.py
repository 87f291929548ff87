"""Text, coalesced at the source: soon enough to be seen growing, seldom enough to be cheap, and never out of place."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge import AgentRun, UserExecutionContext
from bridge.deltas import WINDOWS, DeltaBuffer
from tests.support import a_manager, check_runs, events_of, run_in_virtual_time, virtual_time
from websocket_core.errors import InvalidEvent
from websocket_core.limits import Limits, Retention
from websocket_core.logs.memory import MemoryLog


class Sent:
    """What a buffer sent, and when, in seconds since it was made."""

    def __init__(self, characters: int = 10_000) -> None:
        self.pieces: list[tuple[int, str]] = []
        self.times: list[float] = []
        self._began = self.now = asyncio.get_running_loop().time()
        self.buffer = DeltaBuffer(self._send, characters=characters)

    def _send(self, start: int, text: str) -> None:
        self.pieces.append((start, text))
        self.times.append(round(asyncio.get_running_loop().time() - self._began, 6))

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.pieces)

    def check(self) -> None:
        """The pieces join without overlap and without a hole."""
        here = 0
        for start, text in self.pieces:
            assert start == here
            assert text
            here += len(text)


async def until_time(seconds: float, sent: Sent) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(max(0.0, sent._began + seconds - loop.time()))


@virtual_time
async def test_the_first_piece_goes_out_at_once() -> None:
    sent = Sent()
    assert sent.buffer.add("Hello")
    assert sent.pieces == [(0, "Hello")]


@virtual_time
async def test_what_follows_waits_for_a_window_and_goes_out_together() -> None:
    sent = Sent()
    sent.buffer.add("a")
    await until_time(1.0, sent)
    assert not sent.buffer.add("b")
    await until_time(1.02, sent)
    assert not sent.buffer.add("c")
    await until_time(1.039, sent)
    assert sent.pieces == [(0, "a")]
    await until_time(1.5, sent)
    assert sent.pieces == [(0, "a"), (1, "bc")]
    assert sent.times == [0.0, 1.04], "counted from the first piece that waits"


@pytest.mark.parametrize(
    ("age", "window"),
    [(0.0, 0.04), (1.999, 0.04), (2.0, 0.1), (9.999, 0.1), (10.0, 0.25), (3_600.0, 0.25)],
)
def test_the_window_grows_with_the_age_of_the_message(age: float, window: float) -> None:
    async def main() -> None:
        sent = Sent()
        sent.buffer.add("a")
        await until_time(age, sent)
        sent.buffer.add("b")
        await until_time(age + 1.0, sent)
        assert sent.times == [0.0, pytest.approx(age + window, abs=1e-5)]

    run_in_virtual_time(main())


def test_the_windows_are_those_of_the_design() -> None:
    assert ((2.0, 0.040), (10.0, 0.100), (float("inf"), 0.250)) == WINDOWS


@virtual_time
async def test_the_age_is_that_of_the_message_and_not_of_the_buffer() -> None:
    sent = Sent()
    await until_time(20.0, sent)
    assert sent.buffer.add("a")
    sent.buffer.add("b")
    await until_time(21.0, sent)
    assert sent.times == [20.0, 20.04]


@virtual_time
async def test_an_answer_of_a_minute_makes_at_most_350_events() -> None:
    """100 tokens a second for 60 seconds, which would be 6,000 events one by one."""
    sent = Sent()
    tokens = [f"token{number} " for number in range(6_000)]
    for number, token in enumerate(tokens):
        await until_time(number * 0.01, sent)
        sent.buffer.add(token)
    await asyncio.sleep(1.0)
    assert sent.text == "".join(tokens)
    sent.check()
    assert 250 <= len(sent.pieces) <= 350
    gaps = [after - before for before, after in zip(sent.times, sent.times[1:], strict=False)]
    assert max(gaps[:40]) <= 0.055, "it still grows before the reader's eyes"
    assert max(gaps) <= 0.265


@virtual_time
async def test_flushing_sends_now_and_not_again_later() -> None:
    sent = Sent()
    sent.buffer.add("a")
    sent.buffer.add("b")
    sent.buffer.flush()
    assert sent.pieces == [(0, "a"), (1, "b")]
    await asyncio.sleep(1.0)
    sent.buffer.flush()
    assert sent.pieces == [(0, "a"), (1, "b")]


@virtual_time
async def test_after_a_flush_the_next_piece_has_a_whole_window_again() -> None:
    sent = Sent()
    sent.buffer.add("a")
    sent.buffer.add("b")
    await until_time(0.03, sent)
    sent.buffer.flush()
    sent.buffer.add("c")
    await until_time(1.0, sent)
    assert sent.times == [0.0, 0.03, 0.07]


@virtual_time
async def test_flushing_before_there_was_text_is_nothing() -> None:
    sent = Sent()
    sent.buffer.flush()
    assert sent.pieces == []
    assert sent.buffer.add("a"), "and the first piece is still the first"


@virtual_time
async def test_empty_text_is_no_piece() -> None:
    sent = Sent()
    assert not sent.buffer.add("")
    assert sent.buffer.add("a"), "and the first piece is still the first"
    assert not sent.buffer.add("")
    await asyncio.sleep(1.0)
    assert sent.pieces == [(0, "a")]


@virtual_time
async def test_the_start_counts_code_points() -> None:
    """Not bytes, not UTF-16 units, not what a reader sees as one character."""
    sent = Sent()
    for piece in ("\U0001f600", "e\u0301", "\U0001f468\u200d\U0001f469", "x"):
        sent.buffer.add(piece)
        sent.buffer.flush()
    assert [start for start, _ in sent.pieces] == [0, 1, 3, 6]


@virtual_time
async def test_a_long_text_is_cut_into_pieces_that_fit() -> None:
    sent = Sent(characters=4)
    sent.buffer.add("abcdefghij")
    sent.buffer.add("klmno")
    sent.buffer.flush()
    assert sent.pieces == [(0, "abcd"), (4, "efgh"), (8, "ij"), (10, "klmn"), (14, "o")]


STEPS = st.lists(
    st.one_of(st.text(st.sampled_from("ab\U0001f600é"), max_size=12), st.floats(0, 20), st.just("flush")), max_size=30
)


@settings(max_examples=100, deadline=None)
@given(STEPS, st.integers(1, 8))
def test_whatever_comes_when_the_pieces_join_to_the_whole_text(steps: list[str | float], characters: int) -> None:
    async def main() -> None:
        sent = Sent(characters)
        whole = ""
        for step in steps:
            if isinstance(step, float):
                await asyncio.sleep(step)
            elif step == "flush":
                sent.buffer.flush()
                assert sent.text == whole
            else:
                sent.buffer.add(step)
                whole += step
            assert whole.startswith(sent.text)
        await asyncio.sleep(0.25)
        assert sent.text == whole
        assert all(len(text) <= characters for _, text in sent.pieces)
        sent.check()

    run_in_virtual_time(main())


# -- in a run


class Told:
    """A run, and what its user is told."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.log = MemoryLog(Retention(bytes=50_000_000))
        self.manager = a_manager(self.log, limits=limits)
        self.bridge = self.manager.create_agent_bridge(UserExecutionContext("alice"))

    def run(self) -> AgentRun:
        return self.bridge.run("writer", run_id="r1")

    async def events(self) -> list[dict[str, Any]]:
        return await events_of(self.log, "alice")

    async def short(self) -> list[str]:
        return [
            f"{event['data']['start']}:{event['data']['text']}" if event["type"] == "message_delta" else event["type"]
            for event in await self.events()
        ]


@virtual_time
async def test_text_comes_before_whatever_the_agent_does_after_it() -> None:
    told = Told()
    async with told.manager, told.run() as run:
        await run.delta("a")
        await run.delta("b")
        await run.thinking("hm")
        await run.delta("c")
        async with run.tool("search") as tool:
            await run.delta("d")
            await tool.progress(percent=1)
            await run.delta("e")
        await run.delta("f")
        await run.emit("mine", {})
        await run.delta("g")
    assert await told.short() == [
        "agent_started", "0:a", "1:b", "agent_thinking", "2:c", "tool_executing", "3:d", "tool_progress", "4:e",
        "tool_completed", "5:f", "mine", "6:g", "agent_completed",
    ]  # fmt: skip


@virtual_time
async def test_the_rest_of_the_text_comes_before_the_end_however_the_run_ends() -> None:
    for error in (None, ValueError("x"), asyncio.CancelledError(), TimeoutError()):
        told = Told()
        async with told.manager:
            try:
                async with told.run() as run:
                    await run.delta("a")
                    await run.delta("b")
                    if error is not None:
                        raise error
            except (ValueError, asyncio.CancelledError, TimeoutError):
                pass
            await asyncio.sleep(1.0)
        short = await told.short()
        assert short[:3] == ["agent_started", "0:a", "1:b"]
        assert len(short) == 4, "and nothing after the end"
        check_runs(await told.events())


@virtual_time
async def test_each_message_counts_its_own_text_and_the_run_has_one_by_default() -> None:
    told = Told()
    async with told.manager, told.run() as run:
        await run.delta("ab")
        await run.delta("x", message_id="m")
        await run.delta("cd")
        await run.delta("yz", message_id="m")
    deltas = [event["data"] for event in await told.events() if event["type"] == "message_delta"]
    ids = list(dict.fromkeys(delta["message_id"] for delta in deltas))
    assert len(ids) == 2
    assert ids[1] == "m"
    for message_id, text in zip(ids, ("abcd", "xyz"), strict=True):
        mine = [delta for delta in deltas if delta["message_id"] == message_id]
        assert "".join(delta["text"] for delta in mine) == text
        assert [delta["start"] for delta in mine] == [0, len(mine[0]["text"])]


@virtual_time
async def test_two_runs_do_not_share_a_message() -> None:
    told = Told()
    async with told.manager:
        for _ in range(2):
            async with told.run() as run:
                await run.delta("a")
    deltas = [event["data"] for event in await told.events() if event["type"] == "message_delta"]
    assert [delta["start"] for delta in deltas] == [0, 0]
    assert deltas[0]["message_id"] != deltas[1]["message_id"]


@virtual_time
async def test_a_minute_of_a_fast_model_is_at_most_350_events_in_the_log() -> None:
    told = Told()
    loop = asyncio.get_running_loop()
    async with told.manager, told.run() as run:
        began = loop.time()
        for number in range(6_000):
            await asyncio.sleep(max(0.0, began + number * 0.01 - loop.time()))
            await run.delta("token ")
    events = await told.events()
    assert "".join(event["data"]["text"] for event in events[1:-1]) == "token " * 6_000
    assert len(events) <= 352


@virtual_time
async def test_text_longer_than_an_event_is_told_in_several() -> None:
    told = Told(Limits(event_bytes=10_000))
    text = "\x00\U0001f600" * 10_000
    async with told.manager, told.run() as run:
        await run.delta(text)
    events = await told.events()
    assert "".join(event["data"]["text"] for event in events[1:-1]) == text
    assert len(events) > 10


@pytest.mark.parametrize("text", ["\ud800", "a\udfff", b"a", None, 5, ["a"]])
def test_text_that_is_none_is_refused_and_the_run_goes_on(text: Any) -> None:
    async def main() -> None:
        told = Told()
        async with told.manager, told.run() as run:
            await run.delta("a")
            with pytest.raises(InvalidEvent):
                await run.delta(text)
            await run.delta("b")
        assert await told.short() == ["agent_started", "0:a", "1:b", "agent_completed"]

    run_in_virtual_time(main())


@pytest.mark.parametrize("message_id", ["", "\ud800", "a\n", "m" * 257, 5, b"m", ("m",)])
def test_a_message_id_that_is_none_is_refused_each_time_and_the_run_still_ends(message_id: Any) -> None:
    """An agent that goes on after the refusal: nothing may be left in a buffer whose flush would fail in the end."""

    async def main() -> None:
        told = Told()
        async with told.manager:
            async with told.run() as run:
                for _ in range(3):
                    with pytest.raises(InvalidEvent):
                        await run.delta("text", message_id=message_id)
                    await asyncio.sleep(1.0)
            assert run.status == "success"
            assert not told.manager.outbox("alice").in_use
        assert await told.short() == ["agent_started", "agent_completed"]

    run_in_virtual_time(main())


@virtual_time
async def test_a_stream_that_never_waits_gives_others_a_turn() -> None:
    told = Told()
    ticks = 0

    async def ticking() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    async with told.manager:
        other = asyncio.create_task(ticking())
        async with told.run() as run:
            await run.delta("first")
            before = ticks
            for _ in range(1_000):
                await run.delta("x")
            assert ticks - before >= 10
        other.cancel()
