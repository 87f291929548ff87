"""The runs that are open in this process, by user and run id, so that a user can stop one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from websocket_core.authorization import Authorization, Verb
from websocket_core.errors import FrameRefused, LogUnavailable
from websocket_core.identity import UserId
from websocket_core.inbound import FrameHandler, Peer


class OpenRuns:
    """Which runs are open. Somebody else's run does not exist here: every look-up names the user.

    A run id may be open more than once, when an application uses it again before the first run has ended; stopping
    it stops all of them.
    """

    def __init__(self) -> None:
        self._runs: dict[UserId, dict[str, list[Callable[[], None]]]] = {}

    def __len__(self) -> int:
        return sum(len(stops) for runs in self._runs.values() for stops in runs.values())

    def open(self, user_id: UserId, run_id: str, stop: Callable[[], None]) -> Callable[[], None]:
        """Note that a run is open, and how to stop it. Returns what must be called when it has ended."""
        self._runs.setdefault(user_id, {}).setdefault(run_id, []).append(stop)

        def close() -> None:
            runs = self._runs.get(user_id, {})
            stops = runs.get(run_id, [])
            if stop in stops:
                stops.remove(stop)
            if not stops:
                runs.pop(run_id, None)
            if not runs:
                self._runs.pop(user_id, None)

        return close

    def clear(self) -> None:
        """Forget all at once; for a loop that is gone."""
        self._runs.clear()

    def cancel(self, user_id: UserId, run_id: str) -> bool:
        """Ask every open run of that user and id to stop; False if there is none."""
        stops = list(self._runs.get(user_id, {}).get(run_id, ()))
        for stop in stops:
            stop()
        return bool(stops)


def cancel_handler(runs: OpenRuns, authorization: Authorization) -> FrameHandler:
    """Answers `cancel {run_id}`. Somebody else's run is no run."""

    async def cancel(peer: Peer, frame: Mapping[str, Any]) -> None:
        run_id = frame.get("run_id")
        if not isinstance(run_id, str):
            raise FrameRefused("invalid", "cancel carries a run_id")
        try:
            refusal = await authorization.refusal(peer.principal, Verb.CANCEL, peer.user_id)
        except LogUnavailable:
            raise FrameRefused("unavailable", "whether runs may be stopped here cannot be told now") from None
        if refusal is not None:
            raise FrameRefused("forbidden", "runs may not be stopped here")
        if not runs.cancel(peer.user_id, run_id):
            raise FrameRefused("not_found", "there is no such open run")

    return cancel
