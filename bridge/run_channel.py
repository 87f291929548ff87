"""`RunChannel`: the way from one user's runs to that user's outbox."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from websocket_core.errors import InvalidEvent
from websocket_core.events import EventEncoder, owner_part
from websocket_core.identity import UserId, text_fault
from websocket_core.outbox import Outbox
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
    ) -> bool:
        """Hand the outbox an event that another will close, for which a slot was reserved. False if it did not fit:
        then the slot is given back, and the other must not come either."""
        fits = False
        try:
            fits = self.put(event_type, data, run_id, event_id=event_id, optional=optional)
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
    ) -> bool:
        """Hand an event to the outbox; False if it did not fit. Never waits.

        A value under one of the `optional` keys that is not JSON, or makes the event too big, is left out: the key is
        then null and `<key>_omitted` names its type. Anything else that is not JSON raises `InvalidEvent`.
        """
        encode = self._encoder.encode
        labels = {"run_id": run_id, "thread_id": self._thread_id, "event_id": event_id}
        try:
            event = encode(event_type, data, self._owner, **labels)
        except InvalidEvent:
            if not any(data.get(key) is not None for key in optional):
                raise
            data = dict(data)
            for key in optional:
                if data.get(key) is not None:
                    data[f"{key}_omitted"] = type(data[key]).__name__
                    data[key] = None
            event = encode(event_type, data, self._owner, **labels)
        return self.outbox.put(event, reserved=reserved)
