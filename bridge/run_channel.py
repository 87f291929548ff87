"""`RunChannel`: the way from one user's runs to that user's outbox."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from websocket_core.errors import InvalidEvent
from websocket_core.events import AGENT_STARTED, Event, EventEncoder, owner_part
from websocket_core.identity import UserId, text_fault
from websocket_core.outbox import Outbox
from websocket_core.run_keeper import HeldRun
from websocket_core.runs import OpenRuns

logger = logging.getLogger(__name__)

ERROR_CHARACTERS: Final = 4_096
"""How much of the description of an exception is shown."""

DescribeError = Callable[[BaseException], str]
"""What a user is shown of an exception."""


def describe_by_type(error: BaseException) -> str:
    """The name of the exception's type. Its text may hold secrets, so showing that is the application's choice."""
    return type(error).__name__


def check_name(what: str, value: object) -> None:
    """Refuse with `InvalidEvent` what is no text of 1 to 256 characters without control characters. Names that are
    short leave room for the event that ends what they began."""
    fault = text_fault(value, characters=256, utf8_bytes=1024)
    if fault is not None:
        raise InvalidEvent(f"{what}: {fault}. Nothing was appended")


class RunChannel:
    """The way from one user's runs to that user's outbox. Made by the bridge; knows no other user."""

    def __init__(
        self,
        user_id: UserId,
        thread_id: str | None,
        *,
        outbox: Callable[[], Outbox],
        encoder: EventEncoder,
        open_runs: OpenRuns,
        monotonic: Callable[[], float],
        describe_error: DescribeError,
    ) -> None:
        self.user_id: Final = user_id
        self.open_runs: Final = open_runs
        self.monotonic: Final = monotonic
        self.new_id: Final = encoder.new_id
        self.delta_characters: Final = encoder.safe_characters
        self._error_characters = min(ERROR_CHARACTERS, encoder.safe_characters)
        self._thread_id = thread_id
        self._outbox = outbox
        self._encoder = encoder
        self._owner = owner_part(user_id)
        self._describe_error = describe_error

    @property
    def outbox(self) -> Outbox:
        return self._outbox()

    def begin(
        self, agent: str, run_id: str, *, parent_run_id: str | None, started_id: str, stop: Callable[[], None]
    ) -> tuple[bool, HeldRun | None]:
        """Hand the outbox `agent_started`, and keep a slot for the end of the run; whether both fit, and the run as
        others know it, where there are others. `stop` is called when they end it."""
        told = self.outbox.reserve()
        started = None
        if told:
            data: dict[str, Any] = {"agent": agent}
            if parent_run_id is not None:
                data["parent_run_id"] = parent_run_id
            try:
                started = self._encode(AGENT_STARTED, data, run_id, started_id)
            except BaseException:
                self.outbox.release()
                raise
        keeper = self.open_runs.keeper
        held = None
        if keeper is not None:
            held = keeper.open(self.user_id, run_id, self._thread_id, parent_run_id, agent, started, stop)
        if started is None:
            self.outbox.drop()
        elif not self.outbox.put(started if held is None else held.marked(started)):
            told = False
            self.outbox.release()
            if held is not None:
                held.lease = held.lease._replace(started=None)
        return told, held

    def describe(self, error: BaseException) -> str:
        """What the user is shown of the exception, as text that can be encoded."""
        try:
            text = str(self._describe_error(error))
        except Exception:  # the application's own code, in the middle of ending a run
            logger.exception("describe_error failed")
            text = describe_by_type(error)
        text = text.encode(errors="replace").decode()
        return text if len(text) <= self._error_characters else f"{text[: self._error_characters]} ..."

    def open(
        self,
        event_type: str,
        data: Mapping[str, Any],
        run_id: str,
        *,
        event_id: str | None = None,
        optional: tuple[str, ...] = (),
        held: HeldRun | None = None,
    ) -> bool:
        """Hand the outbox an event that another will close, for which a slot was reserved. False if it did not fit:
        then the slot is given back, and the other must not come either."""
        fits = False
        try:
            fits = self.put(event_type, data, run_id, event_id=event_id, optional=optional, held=held)
        finally:
            if not fits:
                self.outbox.release()
        return fits

    def put(
        self,
        event_type: str,
        data: Mapping[str, Any],
        run_id: str,
        *,
        event_id: str | None = None,
        reserved: bool = False,
        optional: tuple[str, ...] = (),
        held: HeldRun | None = None,
    ) -> bool:
        """Hand an event to the outbox; False if it did not fit. Never waits.

        A value under one of the `optional` keys that is not JSON, or makes the event too big, is left out: the key is
        then null and `<key>_omitted` names its type. Anything else that is not JSON raises `InvalidEvent`.
        """
        try:
            event = self._encode(event_type, data, run_id, event_id)
        except InvalidEvent:
            if not any(data.get(key) is not None for key in optional):
                raise
            data = dict(data)
            for key in optional:
                if data.get(key) is not None:
                    data[f"{key}_omitted"] = type(data[key]).__name__
                    data[key] = None
            event = self._encode(event_type, data, run_id, event_id)
        return self.outbox.put(event if held is None else held.marked(event), reserved=reserved)

    def _encode(self, event_type: str, data: Mapping[str, Any], run_id: str, event_id: str | None) -> Event:
        return self._encoder.encode(event_type, data, self._owner, run_id, self._thread_id, event_id)
