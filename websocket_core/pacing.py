"""When a connection that shares frames writes: at once while it has credit, together with what follows afterwards.

A frame costs the server about as much as encoding and storing the event in it. Sending each event of a busy stream by
itself doubles the work; waiting before every frame would put the wait on every single event. So the first few frames
of a short window go at once, and only what comes after them waits for the window to end and shares a frame.
"""

from __future__ import annotations


class BurstCredit:
    """Decides how long to wait before the next frame. `frames` may go at once within each `window` of seconds."""

    __slots__ = ("_began", "_frames", "_used", "_window")

    def __init__(self, *, frames: int, window: float) -> None:
        self._frames = frames
        self._window = window
        self._began = float("-inf")
        self._used = 0

    def take(self, now: float) -> float:
        """Take the credit for a frame at `now`, in seconds of any steady clock, and return 0.0; or, if this window's
        is spent, the seconds until the next one."""
        left = self._began + self._window - now
        if left <= 0.0:
            self._began = now
            self._used = 1
            return 0.0
        if self._used < self._frames:
            self._used += 1
            return 0.0
        return left

    def renew(self, now: float) -> None:
        """Begin a window with a frame at `now`: one that waited, or that is full and waits for nothing."""
        self._began = now
        self._used = 1
