"""Text deltas, coalesced at the source.

A model that writes 100 tokens a second would make 100 events a second. The first piece of a message goes out at
once; later pieces wait for a window that grows with the answer, so that a minute of text makes at most about 300
events and still grows before the reader's eyes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

WINDOWS: Final = ((2.0, 0.040), (10.0, 0.100), (float("inf"), 0.250))
"""Until this many seconds after a message began, its pieces wait at most that many seconds."""


class DeltaBuffer:
    """The text of one message that was not sent yet.

    `send(start, text)` is called with each coalesced piece, of at most `characters`; `start` counts the Unicode code
    points before it.
    """

    __slots__ = ("_began", "_characters", "_loop", "_pieces", "_send", "_start", "_timer")

    def __init__(self, send: Callable[[int, str], None], *, characters: int) -> None:
        self._send = send
        self._characters = characters
        self._loop = asyncio.get_running_loop()
        self._began: float | None = None
        self._pieces: list[str] = []
        self._start = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, text: str) -> bool:
        """Take a piece of text; True if it went out at once."""
        if not text:
            return False
        self._pieces.append(text)
        now = self._loop.time()
        if self._began is None:
            self._began = now
            self.flush()
            return True
        if self._timer is None:
            age = now - self._began
            window = next(window for until, window in WINDOWS if age < until)
            self._timer = self._loop.call_later(window, self.flush)
        return False

    def reset(self) -> None:
        """Begin the message anew, as when a model is asked again: an empty piece at 0 takes back what was sent."""
        self._pieces.clear()
        self.flush()
        self._start = 0
        self._began = None
        self._send(0, "")

    def flush(self) -> None:
        """Send what waits, now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._pieces:
            text = "".join(self._pieces)
            self._pieces.clear()
            for index in range(0, len(text), self._characters):
                piece = text[index : index + self._characters]
                start = self._start
                self._start += len(piece)
                self._send(start, piece)
