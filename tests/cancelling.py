"""Cancels an operation at each of its suspensions in turn.

    async def scenario(strike: Strike) -> None:
        task = strike.operation(emitter.emit("work", {}))
        await asyncio.wait([task])
        ...  # demand what must hold, whether or not `strike.landed`

    assert sweep(scenario).points >= 2

The scenario runs once to count the suspensions, then anew for each of them, in an event loop of its own. A suspension
for a future is struck twice: while the operation waits, and when the answer is there but the operation has not run on
yet. Where an operation still waits after it was cancelled, it is cancelled again at each of these waits.
"""

from __future__ import annotations

import ast
import asyncio
import importlib.util
from collections.abc import Callable, Collection, Coroutine, Generator, Iterable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

from tests.support import run_in_virtual_time

Scenario = Callable[["Strike"], Coroutine[Any, Any, None]]


class Await(NamedTuple):
    """One `await` in the source."""

    file: str
    line: int
    column: int
    function: str

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.line} in {self.function}"


class Strike:
    """What happens to the operation of one run of a scenario: nothing, or a cancellation at chosen suspensions.

    Suspensions are counted from 1; at 0 a task is cancelled before its first turn. With `late` the cancellation
    comes when the future that the operation waits for is done.
    """

    def __init__(self, at: Collection[int] = (), *, late: bool = False) -> None:
        self.at = at
        self.late = late
        self.landed = 0
        """How many cancellations have come."""
        self.count = 0
        self.futures: list[bool] = []
        """Of each suspension, whether it was for a future and not only for a turn of the loop."""
        self.awaits: set[Await] = set()
        """Where the operation stood when it was cancelled: each `await` from the outermost to the innermost."""
        self.task: asyncio.Task[Any] | None = None
        self._enough = False
        self.of_the_product = False
        """Whether the operation is a task that the product makes, which can be cancelled before its first turn."""
        self.cancel: Callable[[asyncio.Task[Any]], object] = asyncio.Task.cancel
        """What a cancellation does."""

    def __repr__(self) -> str:
        when = "when the answer is there" if self.late else "while it waits"
        return f"cancelled at the suspensions {tuple(self.at)} of {self.count}, {when}" if self.at else "left alone"

    def operation(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """The task of this operation, which will be struck."""
        assert self.task is None, "a scenario has one operation"
        self.task = asyncio.get_running_loop().create_task(_Driven(coroutine, self), name="the operation")
        return self.task

    def product_task(self, function: str, *, skip: int = 0) -> None:
        """Strike the next task that the product makes of the coroutine function with this qualified name."""
        self.of_the_product = True
        loop = asyncio.get_running_loop()
        left = skip

        def make(
            loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any] | Generator[Any, None, Any], **how: Any
        ) -> asyncio.Task[Any]:
            nonlocal left
            assert isinstance(coroutine, Coroutine)
            if self.task is not None or getattr(coroutine, "__qualname__", "") != function or (left := left - 1) >= 0:
                return asyncio.Task(coroutine, loop=loop, **how)
            self.task = asyncio.Task(_Driven(coroutine, self), loop=loop, **how)
            if 0 in self.at:
                self._hit(self.task)
            return self.task

        loop.set_task_factory(make)

    def enough(self) -> None:
        """What the operation does from now on is not struck, nor is the end of its present wait."""
        self._enough = True
        if self.futures:
            self.futures[-1] = False

    def suspended(self, coroutine: Coroutine[Any, Any, Any], waits_for: Any) -> None:
        """Called by the operation in its own task, before the loop sees what it waits for."""
        if self._enough:
            return
        self.count += 1
        self.futures.append(waits_for is not None)
        if self.count not in self.at:
            return
        task = asyncio.current_task()
        assert task is not None
        self.awaits.update(_awaits_of(coroutine))
        if self.late:
            waits_for.add_done_callback(lambda _future: self._hit(task))
        else:
            self._hit(task)

    def _hit(self, task: asyncio.Task[Any]) -> None:
        self.landed += 1
        self.cancel(task)


class _Driven(Coroutine[Any, Any, Any]):
    """A coroutine for a task, which tells a strike of each suspension."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], strike: Strike) -> None:
        self._coroutine = coroutine
        self._strike = strike

    def send(self, value: Any) -> Any:
        yielded = self._coroutine.send(value)
        self._strike.suspended(self._coroutine, yielded)
        return yielded

    def throw(self, *error: Any) -> Any:
        yielded = self._coroutine.throw(*error)
        self._strike.suspended(self._coroutine, yielded)
        return yielded

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        raise TypeError("this is for a task")


def _awaits_of(coroutine: Any) -> Iterator[Await]:
    """Where a suspended coroutine stands, from the outside in."""
    while coroutine is not None:
        frame: FrameType | None = getattr(coroutine, "cr_frame", None)
        if frame is None:
            return
        code: CodeType = frame.f_code
        line, _end, column, _end_column = list(code.co_positions())[frame.f_lasti // 2]
        yield Await(code.co_filename, line or 0, column or 0, code.co_qualname.replace(".<locals>", ""))
        coroutine = coroutine.cr_await


class Swept(NamedTuple):
    """What a sweep did."""

    points: int
    """How many suspensions the operation has."""
    cancellations: int
    """How many times it was cancelled: at each suspension, late where it can be, and again while it cleaned up."""
    awaits: frozenset[Await]


def sweep(
    scenario: Scenario, *, run: Callable[[Coroutine[Any, Any, None]], None] = run_in_virtual_time, again: bool = True
) -> Swept:
    """Run the scenario once for each point at which its operation can be cancelled.

    With `again` off, an operation that cleans up after a cancellation is not cancelled a second time.
    """
    awaits: set[Await] = set()
    cancellations = 0

    def strike(*at: int, late: bool = False) -> Strike:
        nonlocal cancellations
        strike = Strike(at, late=late)
        try:
            run(scenario(strike))
            assert strike.landed == len(at), f"{strike.landed} cancellations landed; the scenario is not the same twice"
        except BaseException as error:
            error.add_note(f"The operation was {strike!r}: {', '.join(map(str, strike.awaits)) or 'no await of it'}.")
            raise
        cancellations += len(at)
        awaits.update(strike.awaits)
        return strike

    whole = strike()
    for point in range(0 if whole.of_the_product else 1, whole.count + 1):
        first = strike(point)
        if again:
            for second in range(point + 1, first.count + 1):
                strike(point, second)
        if point and whole.futures[point - 1]:
            strike(point, late=True)
    return Swept(whole.count, cancellations, frozenset(awaits))


def awaits_in(modules: Iterable[str]) -> Iterator[Await]:
    """Every `await` in the source of these modules."""
    for name in modules:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        for function, node in _awaits_below(tree, ""):
            yield Await(spec.origin, node.lineno, node.col_offset, function)


def _awaits_below(node: ast.AST, function: str) -> Iterator[tuple[str, ast.Await]]:
    """Each `await` below a node, with the classes and functions that it stands in."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Await):
            yield function, child
        within = function
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            within = f"{function}.{child.name}".removeprefix(".")
        yield from _awaits_below(child, within)
