"""`Approval`: one question to the user in the middle of a run, from `approval_requested` to `approval_resolved`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from bridge.run_channel import RunChannel, check_name
from websocket_core.approvals import CANCELLED, EXPIRED, Decision
from websocket_core.events import APPROVAL_REQUESTED, APPROVAL_RESOLVED
from websocket_core.run_keeper import HeldRun


class Approval:
    """Asked once, and closed on every path: what was requested is resolved, by the user, by a time-out or by the end of
    the run."""

    def __init__(self, channel: RunChannel, run_id: str, approval_id: str, *, held: HeldRun | None, told: bool) -> None:
        self._channel = channel
        self._run_id = run_id
        self._approval_id = approval_id
        self._held = held
        self._run_told = told
        self._told = False
        self._open = True
        check_name("approval_id", approval_id)
        self._pending = channel.open_runs.expect(channel.user_id, approval_id, held)

    async def wait(self, data: Mapping[str, Any], timeout: float | None) -> Decision:
        """Ask the user; what is decided. Raises `TimeoutError`."""
        channel = self._channel
        try:
            if self._run_told and channel.outbox.reserve():
                # Either the question and its end are told, or neither is.
                self._told = channel.open(APPROVAL_REQUESTED, data, self._run_id, held=self._held)
            elif self._run_told:
                channel.outbox.drop()
            await channel.outbox.settled()
            async with asyncio.timeout(timeout):
                decision = await self._pending.answer
        except BaseException as error:
            self._resolve(EXPIRED if isinstance(error, TimeoutError) else CANCELLED)
            self._forget()
            raise
        self._resolve(decision.decision)
        await channel.outbox.settled()
        return decision

    def end(self) -> None:
        """The run ends. Never waits."""
        if self._open:
            self._resolve(CANCELLED)
            if not self._pending.answer.done():
                self._pending.answer.set_exception(RuntimeError("the run has ended, and the question with it"))
                self._pending.answer.exception()  # whoever asked may be gone as well
        self._forget()

    def _forget(self) -> None:
        self._pending.close()
        if self._held is not None:
            self._channel.open_runs.expect_no_more(self._approval_id, self._held)

    def _resolve(self, decision: str) -> None:
        if self._open:
            self._open = False
            if self._told:
                data = {"approval_id": self._approval_id, "decision": decision}
                self._channel.put(APPROVAL_RESOLVED, data, self._run_id, reserved=True, held=self._held)
