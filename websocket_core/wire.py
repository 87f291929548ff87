"""The wire: frames and cursors to text and back, close codes, error codes. Pure functions and tables."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from websocket_core.errors import MalformedCursor, MalformedFrame
from websocket_core.events import Event
from websocket_core.log import Entry, Position

PROTOCOL: Final = "unified-websocket.v1"
"""The subprotocol whose clients answer pings and take several events in one frame, one JSON object per line."""
PLAIN: Final = "plain"
"""What `connected` calls the protocol of a client that offered none: one JSON object per frame."""

CURSOR_LATEST: Final = "latest"
"""Instead of a cursor: live events only."""

_EPOCH: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_OFFSET: Final = re.compile(r"(?:0|[1-9][0-9]{0,15})\Z")
_MARK: Final = re.compile(r"[A-Za-z0-9_.-]{0,64}\Z")
_OFFSET_LIMIT: Final = 2**53


def encode_cursor(position: Position) -> str:
    """The position as the opaque text that clients keep."""
    return f"{position.epoch}.{position.offset}.{position.mark}"


def decode_cursor(text: object) -> Position:
    """The position that a client presents. It is data, never an address: it says where in the client's own log.

    Raises `MalformedCursor`, which does not quote it.
    """
    if isinstance(text, str) and len(text) <= 160 and text.count(".") >= 2:
        epoch, offset, mark = text.split(".", 2)
        fits = _EPOCH.match(epoch) and _OFFSET.match(offset) and _MARK.match(mark)
        if fits and int(offset) < _OFFSET_LIMIT and (mark == "") == (offset == "0"):
            return Position(epoch, int(offset), mark)
    raise MalformedCursor("this is not a cursor")


def event_frame(entry: Entry) -> str:
    """The event of an entry as it is sent: the stored bytes, with the cursor put in."""
    _log, epoch, offset, mark, _prev, event, _at = entry
    return f'{event.body.decode()},"cursor":"{epoch}.{offset}.{mark}"}}'


def provisional_frame(event: Event) -> str:
    """The control frame that shows an event while it waits for the log: it has no cursor yet."""
    return f'{{"type":"provisional","event":{event.body.decode()}}}}}'


def control_frame(frame_type: str, /, **fields: object) -> str:
    """A control frame. Fields that are None are left out."""
    present = {name: value for name, value in fields.items() if value is not None}
    return json.dumps({"type": frame_type, **present}, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


ERROR_CODES: Final = frozenset(
    {
        "malformed", "unknown_type", "unauthenticated", "expired", "forbidden", "not_found", "invalid", "too_large",
        "limit", "unavailable", "internal",
    }
)  # fmt: skip
"""The `code` of every `error` frame is one of these."""


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError("number out of range")
    return number


def _short_integer(text: str) -> int:
    if len(text) > 20:
        raise ValueError("number out of range")
    return int(text)


def _refuse_constant(text: str) -> float:
    raise ValueError("not JSON")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object_without_duplicates,
    parse_float=_finite,
    parse_int=_short_integer,
    parse_constant=_refuse_constant,
)


def _depth_exceeds(text: str, depth: int) -> bool:
    """Whether brackets nest deeper than `depth`; those inside strings count too, which errs on the safe side only
    for texts that hold more than `depth` of them."""
    if text.count("[") + text.count("{") <= depth:
        return False
    level = deepest = 0
    quoted = escaped = False
    for character in text:
        if quoted:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                quoted = False
        elif character == '"':
            quoted = True
        elif character in "[{":
            level += 1
            deepest = max(deepest, level)
        elif character in "]}":
            level -= 1
    return deepest > depth


def parse_frame(text: str, *, depth: int = 100) -> Mapping[str, Any]:
    """A client's frame: a JSON object with a text `type`. Strict: no duplicate keys, no NaN, no number out of range,
    no lone surrogates, no nesting deeper than `depth`. Raises `MalformedFrame`, which does not quote it."""
    try:
        text.encode()  # a transport of one's own may let lone surrogates through
        if _depth_exceeds(text, depth):
            raise ValueError("nested too deeply")
        frame = _DECODER.decode(text)
        if "\\u" in text:  # only an escape can have brought in a lone surrogate
            json.dumps(frame, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise MalformedFrame("the frame is not strict JSON") from error
    if not isinstance(frame, dict) or not isinstance(frame.get("type"), str):
        raise MalformedFrame("the frame is not a JSON object with a type")
    return frame


class CloseCode(IntEnum):
    """Why the server closes a socket."""

    DISCONNECTED = 1000
    NOT_TEXT = 1003
    TOO_BIG = 1009
    INTERNAL = 1011
    RESTARTING = 1012
    OVERLOADED = 1013
    MALFORMED = 4400
    NOT_AUTHENTICATED = 4401
    NOT_ALLOWED = 4403
    TIMED_OUT = 4408
    REPLACED = 4409
    REVOKED = 4410
    EXPIRED = 4419
    LIMIT = 4429


def close_code(number: int) -> CloseCode:
    """The close code of that number; 1000 for one that this release does not know, so that the client stops."""
    return CloseCode(number) if number in CloseCode.__members__.values() else CloseCode.DISCONNECTED


class CloseRule(NamedTuple):
    """What a close code says, and what a client does about it."""

    reason: str
    reconnect: str
    """`stop`, `resume` (reconnect with back-off and jitter), `new_token` (fetch a token once, else stop) or
    `refresh` (fetch a token, then resume)."""
    keep_cursor: bool


CLOSE_RULES: Final[Mapping[CloseCode, CloseRule]] = MappingProxyType(
    {
        CloseCode.DISCONNECTED: CloseRule("disconnected by the application", "stop", True),
        CloseCode.NOT_TEXT: CloseRule("not a text frame", "stop", True),
        CloseCode.TOO_BIG: CloseRule("frame too big", "stop", True),
        CloseCode.INTERNAL: CloseRule("internal error", "resume", True),
        CloseCode.RESTARTING: CloseRule("restarting", "resume", True),
        CloseCode.OVERLOADED: CloseRule("overloaded", "resume", True),
        CloseCode.MALFORMED: CloseRule("malformed", "stop", True),
        CloseCode.NOT_AUTHENTICATED: CloseRule("not authenticated", "new_token", True),
        CloseCode.NOT_ALLOWED: CloseRule("not allowed", "stop", True),
        CloseCode.TIMED_OUT: CloseRule("timed out", "resume", True),
        CloseCode.REPLACED: CloseRule("replaced by a newer connection", "stop", True),
        CloseCode.REVOKED: CloseRule("revoked", "stop", False),
        CloseCode.EXPIRED: CloseRule("token expired", "refresh", True),
        CloseCode.LIMIT: CloseRule("limit reached", "resume", True),
    }
)
"""One rule for each code; `docs/reference/close-codes.md` shows the same table, and a test compares them."""
