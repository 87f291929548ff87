"""Which runs are open: found by user and run id together, stopped all at once, forgotten when they end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from websocket_core.authorization import Authorization
from websocket_core.errors import FrameRefused
from websocket_core.identity import Principal, UserId
from websocket_core.runs import OpenRuns, cancel_handler

ALICE, BOB = UserId("alice"), UserId("bob")


class Run:
    """Counts how often it was asked to stop."""

    def __init__(self, runs: OpenRuns, user_id: UserId = ALICE, run_id: str = "r1") -> None:
        self.stops = 0
        self.close: Callable[[], None] = runs.open(user_id, run_id, self.stop)

    def stop(self) -> None:
        self.stops += 1


def test_a_run_is_stopped_by_its_user_and_id() -> None:
    runs = OpenRuns()
    run = Run(runs)
    assert runs.cancel(ALICE, "r1")
    assert run.stops == 1
    assert len(runs) == 1, "it is open until it has ended"


def test_somebody_elses_run_does_not_exist() -> None:
    runs = OpenRuns()
    run = Run(runs)
    for user_id, run_id in ((BOB, "r1"), (UserId("Alice"), "r1"), (ALICE, "R1"), (ALICE, ""), (UserId("alice r1"), "")):
        assert not runs.cancel(user_id, run_id)
    assert run.stops == 0


def test_ids_that_would_join_to_the_same_text_are_kept_apart() -> None:
    runs = OpenRuns()
    run = Run(runs, UserId("a:b"), "c")
    assert not runs.cancel(UserId("a"), "b:c")
    assert run.stops == 0


def test_a_run_that_has_ended_is_not_found_and_nothing_is_kept_of_it() -> None:
    runs = OpenRuns()
    run = Run(runs)
    run.close()
    assert not runs.cancel(ALICE, "r1")
    assert (len(runs), run.stops, runs._runs) == (0, 0, {})


def test_asking_for_a_run_that_is_not_there_leaves_no_trace() -> None:
    runs = OpenRuns()
    assert not runs.cancel(ALICE, "r1")
    assert runs._runs == {}


def test_a_run_id_that_is_used_twice_stops_both() -> None:
    runs = OpenRuns()
    first, second = Run(runs), Run(runs)
    assert runs.cancel(ALICE, "r1")
    assert (first.stops, second.stops) == (1, 1)
    first.close()
    assert runs.cancel(ALICE, "r1")
    assert (first.stops, second.stops) == (1, 2)
    second.close()
    assert not runs.cancel(ALICE, "r1")


def test_closing_twice_does_not_close_the_successor() -> None:
    runs = OpenRuns()
    first = Run(runs)
    first.close()
    second = Run(runs)
    first.close()
    assert runs.cancel(ALICE, "r1")
    assert (first.stops, second.stops) == (0, 1)


def test_a_run_may_end_while_it_is_being_stopped() -> None:
    """Stopping one may end others of the same id, at once."""
    runs = OpenRuns()
    stopped: list[str] = []
    closes: list[Callable[[], None]] = []
    for name in ("a", "b", "c"):

        def stop(name: str = name) -> None:
            stopped.append(name)
            for close in closes:
                close()

        closes.append(runs.open(ALICE, "r1", stop))
    assert runs.cancel(ALICE, "r1")
    assert stopped == ["a", "b", "c"]
    assert len(runs) == 0


def test_runs_of_one_user_are_independent() -> None:
    runs = OpenRuns()
    one, other = Run(runs, run_id="r1"), Run(runs, run_id="r2")
    one.close()
    assert runs.cancel(ALICE, "r2")
    assert other.stops == 1
    assert len(runs) == 1


def test_clearing_forgets_all_and_a_late_end_is_nothing() -> None:
    runs = OpenRuns()
    run = Run(runs)
    runs.clear()
    assert len(runs) == 0
    assert not runs.cancel(ALICE, "r1")
    successor = Run(runs)
    run.close()
    assert runs.cancel(ALICE, "r1")
    assert (run.stops, successor.stops) == (0, 1)


# -- the frame that stops them


class Somebody:
    """A connection of a user, as far as stopping a run needs it."""

    def __init__(self, user_id: UserId) -> None:
        self.user_id = user_id
        self.principal = Principal(user_id)


async def stopped_by(runs: OpenRuns, user_id: UserId, frame: dict[str, Any], *, permitted: bool = True) -> str | None:
    """What a `cancel` of this user is refused with; None if it was taken."""

    async def permits(_principal: Principal) -> bool:
        return permitted

    peer: Any = Somebody(user_id)
    try:
        assert await cancel_handler(runs, Authorization(permits=permits, narrow=None))(peer, frame) is None
    except FrameRefused as refusal:
        return refusal.code
    return None


async def test_a_user_stops_an_own_run_and_no_other() -> None:
    runs = OpenRuns()
    run = Run(runs)
    assert await stopped_by(runs, BOB, {"run_id": "r1"}) == "not_found", "as if it did not exist"
    assert await stopped_by(runs, ALICE, {"run_id": "r2"}) == "not_found"
    assert run.stops == 0
    assert await stopped_by(runs, ALICE, {"run_id": "r1", "user_id": "bob"}) is None
    assert run.stops == 1


@pytest.mark.parametrize("frame", [{}, {"run_id": None}, {"run_id": 1}, {"run_id": ["r1"]}, {"run_ids": ["r1"]}])
async def test_a_frame_that_names_no_run_is_invalid(frame: dict[str, Any]) -> None:
    runs = OpenRuns()
    run = Run(runs)
    assert await stopped_by(runs, ALICE, frame) == "invalid"
    assert run.stops == 0


async def test_who_is_revoked_stops_nothing_and_learns_nothing() -> None:
    runs = OpenRuns()
    run = Run(runs)
    for run_id in ("r1", "r2"):
        assert await stopped_by(runs, ALICE, {"run_id": run_id}, permitted=False) == "forbidden"
    assert run.stops == 0
