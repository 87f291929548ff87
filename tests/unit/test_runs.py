"""Which runs are open: found by user and run id together, stopped all at once, forgotten when they end."""

from __future__ import annotations

from collections.abc import Callable

from websocket_core.identity import UserId
from websocket_core.runs import OpenRuns

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
