"""The laws of `websocket_core.work` as a suite, which every form of a work queue runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.support import until
from websocket_core.identity import UserId
from websocket_core.work import Held, Item, Outcome, Put, WorkLimits, WorkQueue

MakeQueue = Callable[..., WorkQueue]
"""Makes a queue with those fields of `WorkLimits`; all that one test makes are ways to the same queue."""


def an_item(number: int | str = 1, owner: str = "alice", **labels: Any) -> Item:
    return Item(UserId(owner), f"c{number}", "ask", b'{"n":"%b"}' % str(number).encode(), **labels)


def ids(held: Sequence[Held]) -> list[str]:
    return [each.item.id for each in held]


async def one(queue: WorkQueue, worker: str = "w1") -> Held:
    """The next item, which must be there."""
    (held,) = await queue.take(worker, 1, ())
    return held


async def taken_in_time(queue: WorkQueue, worker: str, seconds: float = 5.0) -> Held:
    """The next item, when there is one."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while loop.time() < deadline:
        if held := await queue.take(worker, 1, ()):
            return held[0]
        await asyncio.sleep(0.005)
    raise AssertionError("nothing to take")


class WorkLaws:
    """Subclass it, with a fixture `make` that gives a `MakeQueue`."""

    async def test_an_item_is_given_to_exactly_one_of_all_who_take(self, make: MakeQueue) -> None:
        queue = make()
        for number in range(60):
            assert await queue.put(an_item(number)) is Put.TAKEN
        shares = await asyncio.gather(*[queue.take(f"w{n % 4}", 7, ()) for n in range(12)])
        assert sorted(name for share in shares for name in ids(share)) == sorted(f"c{n}" for n in range(60))

    async def test_the_oldest_is_given_first_and_no_more_than_asked_for(self, make: MakeQueue) -> None:
        queue = make()
        for number in range(5):
            await queue.put(an_item(number))
        assert ids(await queue.take("w1", 3, ())) == ["c0", "c1", "c2"]
        assert ids(await queue.take("w2", 3, ())) == ["c3", "c4"]
        assert ids(await queue.take("w2", 3, ())) == []

    async def test_an_item_arrives_as_it_was_put(self, make: MakeQueue) -> None:
        queue = make()
        items = [
            Item(UserId("a:b{c}\U0001f600*"), "A.b_c-1", "t\u00e9xt", '{"text":"\u2028 \U0001f600"}'.encode(), "", ""),
            Item(UserId("a"), "x" * 64, "k", b"{}", None, None),
            Item(UserId("a"), "y", "k", b"{}", "=t", "\u00fc"),
        ]
        for item in items:
            await queue.put(item)
        held = await queue.take("w1", 5, ())
        assert [each.item for each in held] == items
        assert [each.attempt for each in held] == [1, 1, 1]
        assert len({each.key for each in held}) == 3
        assert all(each.put_at > 1_600_000_000 for each in held)

    # -- idempotence

    async def test_an_id_is_taken_once_while_it_waits_is_held_and_was_settled(self, make: MakeQueue) -> None:
        queue = make()
        assert await queue.put(an_item(1)) is Put.TAKEN
        assert await queue.put(an_item(1)) is Put.KNOWN
        held = await one(queue)
        assert await queue.put(an_item(1)) is Put.KNOWN
        assert await queue.settle("w1", held, Outcome.DONE)
        assert await queue.put(an_item(1)) is Put.KNOWN
        assert not await queue.take("w1", 5, ())

    async def test_what_one_user_calls_an_item_says_nothing_of_another_user(self, make: MakeQueue) -> None:
        queue = make()
        for owner, name in (("a", "bc"), ("ab", "c"), ("A", "bc"), ("a", "b.c"), ("1:a", "bc"), ("a\u0301", "c")):
            assert await queue.put(Item(UserId(owner), name, "k", b"{}")) is Put.TAKEN
        assert len(await queue.take("w1", 10, ())) == 6

    async def test_an_id_is_forgotten_some_time_after_it_was_settled_and_not_before(self, make: MakeQueue) -> None:
        queue = make(remembered=0.1)
        await queue.put(an_item(1))
        held = await one(queue)
        await asyncio.sleep(0.15)
        assert await queue.put(an_item(1)) is Put.KNOWN, "it is still being worked on"
        await queue.settle("w1", held, Outcome.DONE)
        await asyncio.sleep(0.15)
        assert await queue.put(an_item(1)) is Put.TAKEN

    # -- bounds

    async def test_a_full_queue_refuses_newcomers_and_has_room_again_when_something_is_settled(
        self, make: MakeQueue
    ) -> None:
        queue = make(waiting=3)
        for number in range(3):
            assert await queue.put(an_item(number, f"user{number}")) is Put.TAKEN
        assert await queue.put(an_item(9, "user9")) is Put.FULL
        assert await queue.put(an_item(0, "user0")) is Put.KNOWN, "it is there, however full"
        held = await one(queue)
        assert await queue.put(an_item(9, "user9")) is Put.FULL, "what is worked on counts"
        await queue.settle("w1", held, Outcome.DONE)
        assert await queue.put(an_item(9, "user9")) is Put.TAKEN

    async def test_one_user_cannot_fill_the_queue_for_the_others(self, make: MakeQueue) -> None:
        queue = make(waiting_per_user=2)
        assert [await queue.put(an_item(n)) for n in range(4)] == [Put.TAKEN, Put.TAKEN, Put.FULL, Put.FULL]
        assert await queue.put(an_item(1, "bob")) is Put.TAKEN
        for outcome in (Outcome.DONE, Outcome.DEAD):
            await queue.settle("w1", await one(queue), outcome)
        assert [await queue.put(an_item(n)) for n in range(4, 7)] == [Put.TAKEN, Put.TAKEN, Put.FULL]

    # -- leases

    async def test_what_a_dead_worker_held_is_given_to_another_which_learns_that_it_is_not_the_first(
        self, make: MakeQueue
    ) -> None:
        queue = make(lease=0.1)
        await queue.put(an_item(1))
        first = await one(queue, "dead")
        for attempt in (2, 3):
            again = await taken_in_time(queue, f"w{attempt}")
            assert (again.item, again.attempt) == (first.item, attempt)

    async def test_nobody_else_is_given_an_item_before_its_lease_has_ended(self, make: MakeQueue) -> None:
        queue = make(lease=30.0)
        await queue.put(an_item(1))
        await one(queue)
        assert not await queue.take("w1", 5, ())
        assert not await queue.take("w2", 5, ())

    async def test_a_lease_that_is_renewed_does_not_end(self, make: MakeQueue) -> None:
        queue = make(lease=0.6)
        await queue.put(an_item(1))
        held = await one(queue)
        for _ in range(10):
            await asyncio.sleep(0.1)
            assert await queue.renew("w1", [held.key]) == []
            assert not await queue.take("w2", 5, ())
        assert (await taken_in_time(queue, "w2")).attempt == 2

    async def test_renewing_tells_what_was_lost_and_does_not_take_it_back(self, make: MakeQueue) -> None:
        queue = make(lease=0.05)
        for number in range(2):
            await queue.put(an_item(number))
        held = await queue.take("slow", 2, ())
        taken = await taken_in_time(queue, "quick")
        lost = await queue.renew("slow", [each.key for each in held])
        assert taken.key in lost
        assert await queue.settle("quick", taken, Outcome.DONE)

    async def test_a_worker_is_not_given_again_what_it_says_it_is_running(self, make: MakeQueue) -> None:
        """Its loop may have stood still for a lease."""
        queue = make(lease=0.05)
        for number in range(2):
            await queue.put(an_item(number))
        held = await queue.take("w1", 2, ())
        await asyncio.sleep(0.1)
        assert not await queue.take("w1", 5, [each.key for each in held])
        assert ids(await queue.take("w1", 5, [held[0].key])) == ["c1"]

    async def test_what_a_worker_is_running_does_not_hide_what_another_has_left(self, make: MakeQueue) -> None:
        queue = make(lease=0.05)
        for number in range(6):
            await queue.put(an_item(number))
        running = [each.key for each in await queue.take("w1", 5, ())]
        await one(queue, "dead")
        await asyncio.sleep(0.1)
        assert ids(await queue.take("w1", 1, running)) == ["c5"]

    # -- settling

    async def test_only_who_holds_an_item_settles_it(self, make: MakeQueue) -> None:
        queue = make(lease=30.0)
        await queue.put(an_item(1))
        held = await one(queue)
        for outcome in (Outcome.DONE, Outcome.AGAIN, Outcome.BACK, Outcome.DEAD):
            assert not await queue.settle("w2", held, outcome)
        assert not await queue.take("w2", 5, ())
        assert not await queue.dead(5)
        assert await queue.settle("w1", held, Outcome.DONE)
        assert not await queue.settle("w1", held, Outcome.DONE)

    async def test_who_was_too_slow_settles_nothing(self, make: MakeQueue) -> None:
        queue = make(lease=0.1)
        await queue.put(an_item(1))
        slow = await one(queue, "slow")
        quick = await taken_in_time(queue, "quick")
        assert not await queue.settle("slow", slow, Outcome.DONE)
        assert await queue.settle("quick", quick, Outcome.DONE)

    async def test_what_failed_is_given_again_after_a_pause_and_counts(self, make: MakeQueue) -> None:
        queue = make(lease=30.0, back_off=0.3)
        await queue.put(an_item(1))
        assert await queue.settle("w1", await one(queue), Outcome.AGAIN)
        assert not await queue.take("w2", 5, ())
        again = await taken_in_time(queue, "w2")
        assert again.attempt == 2
        assert not await queue.settle("w1", again, Outcome.DONE)

    async def test_what_is_given_back_is_there_at_once_and_does_not_count(self, make: MakeQueue) -> None:
        queue = make(lease=30.0)
        await queue.put(an_item(1))
        for worker in ("w1", "w2", "w1"):
            held = await one(queue, worker)
            assert held.attempt == 1
            assert await queue.settle(worker, held, Outcome.BACK)

    async def test_dead_letters_are_kept_newest_first_and_no_more_than_so_many(self, make: MakeQueue) -> None:
        queue = make(dead=3)
        for number in range(5):
            await queue.put(an_item(number, thread_id="t"))
            await queue.settle("w1", await one(queue), Outcome.DEAD)
        letters = await queue.dead(10)
        assert ids(letters) == ["c4", "c3", "c2"]
        assert letters[0].item == an_item(4, thread_id="t")
        assert letters[0].attempt == 1
        assert ids(await queue.dead(1)) == ["c4"]
        assert not await queue.take("w1", 5, ())
        assert await queue.put(an_item(4, thread_id="t")) is Put.KNOWN

    async def test_a_worker_that_leaves_takes_nothing_with_it(self, make: MakeQueue) -> None:
        queue = make(lease=0.1)
        for number in range(3):
            await queue.put(an_item(number))
        held = await queue.take("w1", 2, ())
        await queue.settle("w1", held[0], Outcome.DONE)
        await queue.leave("w1")
        assert {(await taken_in_time(queue, "w2")).item.id for _ in range(2)} == {"c1", "c2"}

    # -- signals

    async def test_whoever_watches_is_woken_by_what_is_put_and_given_back(self, make: MakeQueue) -> None:
        queue = make(lease=30.0)
        woken: list[int] = []
        unwatch = queue.watch(lambda: woken.append(1))
        await asyncio.sleep(0.05)  # a subscription takes a moment, and what came before it wakes as well
        woken.clear()
        await queue.put(an_item(1))
        await until(lambda: woken, "the signal of a put")
        held = await one(queue)
        woken.clear()
        await queue.settle("w1", held, Outcome.BACK)
        await until(lambda: woken, "the signal of what is given back")
        unwatch()
        woken.clear()
        await queue.put(an_item(2))
        await queue.put(an_item(3))
        assert not woken

    async def test_two_ways_to_the_same_queue_are_one_queue(self, make: MakeQueue) -> None:
        here, there = make(), make()
        await here.put(an_item(1))
        assert await there.put(an_item(1)) is Put.KNOWN
        held = await one(there)
        assert await here.settle("w1", held, Outcome.DONE)

    def test_limits_that_make_no_sense_are_refused(self) -> None:
        for wrong in ({"waiting": 0}, {"lease": float("inf")}, {"attempts": 1.5}, {"dead": True}, {"back_off": -1.0}):
            with pytest.raises(ValueError, match=f"WorkLimits.{next(iter(wrong))}"):
                WorkLimits(**wrong)
