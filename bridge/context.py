"""What the bridge must know of an agent run: whose it is, which run, which conversation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class RunContext(Protocol):
    """Anything with these three attributes. They are read once, when the bridge is made."""

    @property
    def user_id(self) -> str: ...

    @property
    def run_id(self) -> str | None: ...

    @property
    def thread_id(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class UserExecutionContext:
    """A `RunContext` for those who have none. Without a `run_id` each run gets one of its own."""

    user_id: str
    run_id: str | None = None
    thread_id: str | None = None
