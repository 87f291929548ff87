"""`Approvals`: what the runs of this process wait for a user to decide."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from pydantic_core import to_json

from websocket_core.errors import InvalidEvent
from websocket_core.identity import UserId

CANCELLED: Final = "cancelled"
EXPIRED: Final = "expired"
CLOSED: Final = '"closed"'
"""What stands where nobody waits for a decision any more."""


class Decision(NamedTuple):
    """What a user has decided."""

    decision: str
    """As the client sent it; `approved` and `rejected` are the usual words."""
    data: Mapping[str, Any]
    """What else the frame carried."""

    @property
    def approved(self) -> bool:
        """Whether the decision is the word `approved`."""
        return self.decision == "approved"


def packed(decision: str, data: Mapping[str, Any]) -> str:
    """A decision as text. Equal decisions are equal texts."""
    return to_json([decision, dict(sorted(data.items()))]).decode()


def unpacked(text: str) -> Decision:
    """A decision that `packed` made. Raises `ValueError` for anything else."""
    decision, data = json.loads(text)
    if not isinstance(decision, str) or not isinstance(data, dict):
        raise ValueError("this is not a decision")
    return Decision(decision, data)


class Pending:
    """One decision that a run waits for. Known until the run has ended, so that asking again is answered alike."""

    def __init__(self, forget: Callable[[], None]) -> None:
        self.answer: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self.stands: str | None = None
        self.close = forget
        """Forget it: nobody waits any more."""

    def take(self, text: str) -> str:
        """Decide; the decision that stands, which is the first."""
        if self.stands is None:
            try:
                decision = unpacked(text)
            except ValueError:
                return CLOSED
            self.stands = text
            if not self.answer.done():
                self.answer.set_result(decision)
        return self.stands


class Approvals:
    """By user and approval id together: somebody else's does not exist."""

    def __init__(self) -> None:
        self._pending: dict[UserId, dict[str, Pending]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._pending.values()))

    def expect(self, user_id: UserId, approval_id: str) -> Pending:
        """Wait for a decision of that user from now on. Raises `InvalidEvent` if another run does under this id."""
        of_user = self._pending.setdefault(user_id, {})
        if approval_id in of_user:
            raise InvalidEvent("an approval with this approval_id is open. Nothing was appended")

        def forget() -> None:
            if of_user.get(approval_id) is pending:
                del of_user[approval_id]
                if not of_user and self._pending.get(user_id) is of_user:
                    del self._pending[user_id]

        pending = of_user[approval_id] = Pending(forget)
        return pending

    def decide(self, user_id: UserId, approval_id: str, text: str) -> str | None:
        """The decision that stands; None if nobody waits for it here."""
        pending = self._pending.get(user_id, {}).get(approval_id)
        return None if pending is None else pending.take(text)

    def clear(self) -> None:
        """Forget all at once; for a loop that is gone."""
        self._pending.clear()
