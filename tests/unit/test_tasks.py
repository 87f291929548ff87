"""Waiting for several things at once ends at its deadline, whatever they do, and leaves no task behind."""

from __future__ import annotations

import asyncio

import pytest

from tests.support import turns, virtual_time
from websocket_core.tasks import wait_until


@virtual_time
async def test_it_ends_when_all_have_ended() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    await wait_until(began + 100.0, [asyncio.sleep(seconds) for seconds in (3.0, 1.0, 2.0)])
    assert loop.time() == began + 3.0


@virtual_time
async def test_nothing_to_wait_for_takes_no_time() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    await wait_until(began + 100.0, [])
    assert loop.time() == began


@virtual_time
async def test_what_is_late_is_cancelled_at_the_deadline() -> None:
    """And what is not is none the worse for it."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    ended: list[tuple[str, float]] = []

    async def work(name: str, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
            ended.append((name, loop.time() - began))
        except asyncio.CancelledError:
            ended.append((f"{name} was cancelled", loop.time() - began))
            raise

    await wait_until(began + 5.0, [work("short", 1.0), work("long", 50.0), work("for ever", 1e9)])
    assert loop.time() == began + 5.0
    assert ended == [("short", 1.0), ("long was cancelled", 5.0), ("for ever was cancelled", 5.0)]


@virtual_time
async def test_what_takes_its_time_to_be_cancelled_is_given_a_second() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    ended: list[float] = []

    async def work(seconds: float) -> None:
        try:
            await asyncio.sleep(1e9)
        finally:
            await asyncio.sleep(seconds)
            ended.append(seconds)

    stubborn = asyncio.ensure_future(work(30.0))
    await wait_until(began + 5.0, [work(0.5), stubborn])
    assert loop.time() == began + 6.0
    assert ended == [0.5]
    assert not stubborn.done(), "nobody waits for it any longer"
    await asyncio.wait([stubborn])


@virtual_time
async def test_a_deadline_that_is_over_cancels_without_waiting() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    future = loop.create_future()
    done = loop.create_future()
    done.set_result(None)
    await wait_until(began - 5.0, [future, done])
    assert loop.time() == began
    assert future.cancelled()
    assert not done.cancelled()


@virtual_time
async def test_it_raises_nothing_of_what_it_waits_for() -> None:
    loop = asyncio.get_running_loop()

    async def fail() -> None:
        raise ValueError("not yours")

    async def fail_when_cancelled() -> None:
        try:
            await asyncio.sleep(1e9)
        except asyncio.CancelledError:
            raise KeyError("nor this") from None

    tasks = [asyncio.ensure_future(each) for each in (fail(), fail_when_cancelled(), asyncio.sleep(0.9))]
    await wait_until(loop.time() + 1.0, tasks)
    assert [type(task.exception()) for task in tasks] == [ValueError, KeyError, type(None)]


@virtual_time
async def test_being_cancelled_it_cancels_what_is_nobody_elses() -> None:
    """A coroutine that was handed over has no other owner; a task has."""
    loop = asyncio.get_running_loop()
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(1e9)
        finally:
            ended.append("cancelled")

    somebody_elses = asyncio.ensure_future(asyncio.sleep(1e9))
    waiting = asyncio.ensure_future(wait_until(loop.time() + 5.0, [work(), somebody_elses]))
    await turns()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await turns()
    assert (ended, somebody_elses.done()) == (["cancelled"], False)
    somebody_elses.cancel()
    await turns()
