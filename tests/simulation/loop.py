"""A seeded asyncio event loop with virtual time, and the world around it: clocks and randomness that follow the seed.

Nothing here waits. Where a loop would sleep, the clock jumps to the next timer, so an hour takes no time; where a loop
would sleep with no timer set, `Deadlock` is raised, since nobody is left who could wake anybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

import jwt.api_jwt

if TYPE_CHECKING:
    from tests.simulation.network import Network

EPOCH: Final = 4_000_000_000.0
"""The wall clock, in Unix seconds, when the loop's own clock stands at 0: a whole second."""

IDLE_TURNS: Final = 20_000
"""So many turns in a row without time passing are taken for a busy loop that never ends."""


_OUTSIDE: Final[contextvars.ContextVar[bool]] = contextvars.ContextVar("outside", default=False)
"""Whether what runs belongs to another process than the server, and goes on while that stands still."""


class Deadlock(AssertionError):
    """Every task waits and no timer is set: a lost wake-up."""


class Livelock(AssertionError):
    """Tasks keep each other busy, and time does not pass."""


class _ClockSelector:
    """Stands where a selector would: no file descriptor is ever ready, and waiting is a jump of the clock."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self._turns = 0

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise Deadlock("every task waits and no timer is set")
        if timeout > 0:
            self._turns = 0
            self._loop.jump()
        else:
            self._turns += 1
            if self._turns > IDLE_TURNS:
                raise Livelock("the loop turned too often without time passing")
        return []

    def close(self) -> None:
        """Nothing is open."""


class _ShuffledReady(deque[Any]):
    """The ready handles, of which steps of tasks are taken in an order chosen by the seed; all others stay in line.

    asyncio promises its order to nobody in writing, so code that depends on it deserves to be looked at. A schedule
    found here need not be one that a real loop makes: judge it by itself.
    """

    WINDOW: Final = 8

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng
        self.shuffled = 0
        """How many steps were taken before one that had come before."""

    def popleft(self) -> Any:
        steps = 0
        for handle in self:
            if steps == self.WINDOW or not _is_task_step(handle):
                break
            steps += 1
        if steps > 1:
            chosen = self._rng.randrange(steps)
            self.shuffled += chosen > 0
            handle = self[chosen]
            del self[chosen]
            return handle
        return super().popleft()


class _HaltedReady(deque[Any]):
    """The ready handles while the server stands still: its own are put aside in `held`."""

    def __init__(self, ready: deque[Any]) -> None:
        super().__init__(ready)
        self.held: list[Any] = []

    def popleft(self) -> Any:
        handle = super().popleft()
        if handle._context.get(_OUTSIDE, False):
            return handle
        self.held.append(handle)
        return _NOTHING


class _Nothing:
    """Stands for a handle that was put aside."""

    _cancelled = True


_NOTHING: Final = _Nothing()


def _is_task_step(handle: Any) -> bool:
    callback = handle._callback
    return type(callback).__name__ in ("TaskStepMethWrapper", "TaskWakeupMethWrapper") or isinstance(
        getattr(callback, "__self__", None), asyncio.Task
    )


class SimLoop(asyncio.BaseEventLoop):
    """An event loop without threads, sockets or real time. `order` is `fifo`, as asyncio has it, or `adversarial`."""

    _scheduled: list[asyncio.TimerHandle]
    _ready: deque[Any]

    def __init__(self, seed: int = 0, *, order: str = "fifo") -> None:
        super().__init__()
        self.now = 0.0
        self.steps = 0
        self.failures: list[str] = []
        """What the loop's exception handler was told: errors that nobody handled."""
        self.network: Network | None = None
        self._selector = _ClockSelector(self)
        self._clock_resolution = 1e-9
        if order == "adversarial":
            self._ready = _ShuffledReady(random.Random(f"order/{seed}"))
        self.inside = contextvars.Context()
        """For callbacks of the server."""
        self.outside = contextvars.Context()
        """For callbacks of clients and of the network."""
        self.outside.run(_OUTSIDE.set, True)
        self.set_exception_handler(self._note_failure)

    def _note_failure(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.failures.append(f"{context.get('message')}: {type(error).__name__}: {error}")

    def time(self) -> float:
        return self.now

    def wall_clock(self) -> float:
        """Unix seconds."""
        return EPOCH + self.now

    def jump(self) -> None:
        """Move the clock to the next timer."""
        self.now = max(self.now, self._scheduled[0].when())

    @property
    def shuffled(self) -> int:
        """How many steps of tasks were taken out of their order."""
        return self._ready.shuffled if isinstance(self._ready, _ShuffledReady) else 0

    def stall(self, seconds: float) -> None:
        """Let the server stand still, as when it calls something that blocks. Clients live on, and what they send is
        there when it goes on."""
        if not isinstance(self._ready, _HaltedReady):
            ready, self._ready = self._ready, _HaltedReady(self._ready)
            ready.clear()
            self.call_later(seconds, self._go_on, ready, context=self.outside)

    def _go_on(self, ready: deque[Any]) -> None:
        assert isinstance(self._ready, _HaltedReady)
        ready.extend(self._ready.held)
        ready.extend(self._ready)
        self._ready = ready

    def _run_once(self) -> None:
        self.steps += 1
        super()._run_once()  # type: ignore[misc]

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody sleeps, so nobody is woken."""

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> NoReturn:  # type: ignore[override]
        raise AssertionError("a thread was asked for; a simulation has none")

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], Any], host: str, port: int, **options: Any
    ) -> tuple[Any, Any]:
        assert self.network is not None
        name, session = options.get("local_addr", ("somebody", 0))
        return await self.network.connect(protocol_factory, host, port, name, session)

    async def create_server(  # type: ignore[override]
        self, protocol_factory: Callable[[], Any], host: str, port: int, **_options: Any
    ) -> Any:
        assert self.network is not None
        return self.network.listen(protocol_factory, host, port)


@contextlib.contextmanager
def seeded_world(loop: SimLoop, seed: int) -> Iterator[Callable[[int], bytes]]:
    """Within it, the clocks, `os.urandom` and the `random` module follow the loop and the seed; yields the entropy.

    Our managers take their clocks and randomness as arguments. uvicorn, websockets and FastAPI do not, and are not
    changed: the functions that they call are.
    """
    bytes_of = random.Random(f"entropy/{seed}").randbytes

    class SeededDatetime(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromtimestamp(loop.wall_clock(), tz)

    state = random.getstate()
    kept: list[tuple[Any, str, Any]] = []

    def patch(module: Any, name: str, value: Any) -> None:
        kept.append((module, name, getattr(module, name)))
        setattr(module, name, value)

    patch(time, "time", loop.wall_clock)
    patch(time, "monotonic", loop.time)
    patch(jwt.api_jwt, "datetime", SeededDatetime)
    patch(os, "urandom", bytes_of)
    patch(random, "_urandom", bytes_of)  # what SystemRandom, and with it `secrets`, draws from
    random.seed(f"module/{seed}")
    try:
        yield bytes_of
    finally:
        for module, name, value in reversed(kept):
            setattr(module, name, value)
        random.setstate(state)
