"""When the writer of a connection writes: it sleeps until it is woken, and one that shares frames writes at once while
it has credit, together with what follows afterwards.

A frame costs the server about as much as encoding and storing the event in it. Sending each event of a busy stream by
itself doubles the work; waiting before every frame would put the wait on every single event. So the first few frames
of a short window go at once, and only what comes after them waits for the window to end and shares a frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from websocket_core.limits import Limits
from websocket_core.metrics import Metrics


class Alarm:
    """Wakes the one task that waits for it. A signal that comes while nobody waits is not kept: the task looks at its
    work before it waits."""

    __slots__ = ("_counted", "_enough", "_loop", "_waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None
        self._counted = 0
        self._enough = 0

    def ring(self) -> None:
        """Wake the task. Raises `RuntimeError` if its event loop was closed."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def count(self) -> None:
        """The same for a task in `wait`; one in `linger` is woken when enough have come. Raises as `ring`."""
        self._counted += 1
        if self._counted >= self._enough:
            waiter = self._waiter
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    def wait(self) -> asyncio.Future[None]:
        """What to await until the alarm rings. No coroutine, which would be one more for each event."""
        self._waiter = self._loop.create_future()
        return self._waiter

    async def linger(self, seconds: float, enough: int) -> None:
        """Wait so many seconds, until `enough` were counted, or until the alarm rings."""
        self._counted, self._enough = 0, enough
        timer = self._loop.call_later(seconds, self.ring)
        await self.wait()
        timer.cancel()
        self._enough = 0


BURST_SECONDS: Final = 4.0
"""So many seconds' worth may come at once."""


class Allowance:
    """How much a client may send: so many frames and bytes per second for long, and a few seconds' worth at once."""

    __slots__ = ("_at", "_bytes", "_bytes_per_second", "_frames", "_frames_per_second")

    def __init__(self, *, frames_per_second: float, bytes_per_second: float) -> None:
        self._frames_per_second = frames_per_second
        self._bytes_per_second = bytes_per_second
        self._frames = self._bytes = 0.0  # used, and not yet given back by time
        self._at = 0.0

    def take(self, size: int, now: float) -> bool:
        """Count a frame of so many bytes at `now`, in seconds of any steady clock; False if that is too much. A first
        frame always fits, however large."""
        passed = now - self._at
        self._at = now
        self._frames = max(0.0, self._frames - passed * self._frames_per_second) + 1.0
        used = max(0.0, self._bytes - passed * self._bytes_per_second)
        self._bytes = used + size
        most = BURST_SECONDS * self._bytes_per_second
        return self._frames <= max(1.0, BURST_SECONDS * self._frames_per_second) and (self._bytes <= most or not used)


LOAD_SECONDS: Final = 0.1
"""Over so many seconds the load of the process is measured."""


class Pacing:
    """How the connections of one manager share frames; each has a `BurstCredit` of its own.

    Above `Limits.busy_events` per second, delivered to all of them together, the process has no time for frames that
    can be shared: windows are then longer, and only the first frame of a window goes at once.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self.frames = limits.burst_frames
        self.window = limits.burst_window
        self.busy_window = max(limits.busy_window, limits.burst_window)
        self._busy_events = limits.busy_events
        self._metrics = metrics
        self._since = float("-inf")
        self._delivered = 0
        self._busy = False

    def busy(self, now: float) -> bool:
        """Whether the process delivered more than that lately."""
        passed = now - self._since
        if passed >= LOAD_SECONDS:
            delivered = self._metrics.events_delivered
            self._busy = delivered - self._delivered > self._busy_events * passed
            self._since = now
            self._delivered = delivered
        return self._busy


class BurstCredit:
    """Decides how long to wait before the next frame: so many may go at once within each window of seconds."""

    __slots__ = ("_began", "_pacing", "_used")

    def __init__(self, pacing: Pacing) -> None:
        self._pacing = pacing
        self._began = float("-inf")
        self._used = 0

    def take(self, now: float) -> float:
        """Take the credit for a frame at `now`, in seconds of any steady clock, and return 0.0; or, if this window's
        is spent, the seconds until the next one."""
        pacing = self._pacing
        passed = now - self._began
        if passed >= pacing.busy_window or (passed >= pacing.window and not pacing.busy(now)):
            self._began = now
            self._used = 1
            return 0.0
        if pacing.busy(now):
            return pacing.busy_window - passed
        if self._used < pacing.frames:
            self._used += 1
            return 0.0
        return pacing.window - passed

    async def spend(self, alarm: Alarm, enough: int, time: Callable[[], float]) -> None:
        """Take the credit for a frame. Without any, wait until the window ends, `enough` are counted or it rings."""
        seconds = self.take(time())
        if seconds:
            await alarm.linger(seconds, enough)
            self.renew(time())

    def renew(self, now: float) -> None:
        """Begin a window with a frame at `now`: one that waited, or that is full and waits for nothing."""
        self._began = now
        self._used = 1
