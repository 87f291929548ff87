"""The vocabulary of events, strict JSON, and the one place where an event is encoded.

Event types are plain strings, so an application adds its own by using them. The known types have pydantic models of
their data, open for extra keys: they document and check what the bridge sends, and applications may parse with them.
"""

from __future__ import annotations

import base64
import itertools
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from enum import Enum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, JsonValue
from pydantic_core import PydanticSerializationError, to_json

from websocket_core.errors import InvalidEvent
from websocket_core.identity import UserId, text_fault

AGENT_STARTED: Final = "agent_started"
AGENT_THINKING: Final = "agent_thinking"
TOOL_EXECUTING: Final = "tool_executing"
TOOL_COMPLETED: Final = "tool_completed"
AGENT_COMPLETED: Final = "agent_completed"
AGENT_ERROR: Final = "agent_error"
MESSAGE_DELTA: Final = "message_delta"
TOOL_PROGRESS: Final = "tool_progress"
APPROVAL_REQUESTED: Final = "approval_requested"
APPROVAL_RESOLVED: Final = "approval_resolved"
EVENTS_DROPPED: Final = "events_dropped"

CRITICAL_EVENTS: Final = (AGENT_STARTED, AGENT_THINKING, TOOL_EXECUTING, TOOL_COMPLETED, AGENT_COMPLETED)
"""The five events that tell a run, in the order in which a simple run emits them."""

RESERVED_TYPES: Final = frozenset(
    {
        "connected", "ping", "pong", "gap", "subscribed", "unsubscribed", "ack", "error",
        "degraded", "provisional", "restored",
    }
)  # fmt: skip
"""Names of control frames. An event of such a type is refused."""


class _Data(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class AgentStarted(_Data):
    agent: str
    parent_run_id: str | None = None


class AgentThinking(_Data):
    thought: str


class ToolExecuting(_Data):
    tool: str
    tool_call_id: str
    arguments: JsonValue = None
    arguments_omitted: str | None = None
    """The Python type of arguments that are not JSON; `arguments` is then null."""


class ToolProgress(_Data):
    tool_call_id: str


class ToolCompleted(_Data):
    tool: str
    tool_call_id: str
    result: JsonValue = None
    status: Literal["success", "error", "cancelled"]
    duration: float
    """Seconds."""
    result_omitted: str | None = None
    """The Python type of a result that is not JSON; `result` is then null."""
    error: str | None = None


class AgentCompleted(_Data):
    agent: str
    result: JsonValue = None
    status: Literal["success", "cancelled", "interrupted"]
    duration: float
    result_omitted: str | None = None


class AgentError(_Data):
    agent: str
    error: str
    error_type: str | None = None
    reason: Literal["exception", "timeout", "lost"]
    duration: float | None = None


class MessageDelta(_Data):
    message_id: str
    start: int
    """How many Unicode code points of the message come before `text`."""
    text: str


class ApprovalRequested(_Data):
    approval_id: str
    message: str | None = None
    tool_call_id: str | None = None


class ApprovalResolved(_Data):
    approval_id: str
    decision: str
    """What the user decided, in the client's own word; `expired` or `cancelled` where nobody did."""


class EventsDropped(_Data):
    count: int


DATA_MODELS: Final[Mapping[str, type[BaseModel]]] = MappingProxyType(
    {
        AGENT_STARTED: AgentStarted,
        AGENT_THINKING: AgentThinking,
        TOOL_EXECUTING: ToolExecuting,
        TOOL_PROGRESS: ToolProgress,
        TOOL_COMPLETED: ToolCompleted,
        AGENT_COMPLETED: AgentCompleted,
        AGENT_ERROR: AgentError,
        MESSAGE_DELTA: MessageDelta,
        APPROVAL_REQUESTED: ApprovalRequested,
        APPROVAL_RESOLVED: ApprovalResolved,
        EVENTS_DROPPED: EventsDropped,
    }
)
"""The model of the data of each known event type."""


class Event(NamedTuple):
    """One immutable, encoded fact.

    `body` is the JSON object of section 6 of the design without its `cursor` and its closing brace, which are known
    only once the event stands in a log.
    """

    id: str
    body: bytes
    connection_id: str | None = None
    """The only connection that reads it; None: every connection of the log."""
    thread_id: str | None = None


_SCALARS: Final = frozenset({str, bool, type(None)})
_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**64 - 1


def _fits(value: object, depth: int) -> bool:
    """Whether `value`, no exact scalar of JSON, is JSON nested at most `depth` deep. The quick question, no reasons."""
    kind = type(value)
    if kind is dict:
        if depth == 0:
            return False
        for key, item in value.items():  # type: ignore[attr-defined]
            if type(key) is not str:
                return False
            kind = type(item)
            if kind in _SCALARS or (kind is int and _INT_MIN <= item <= _INT_MAX):
                continue
            if not _fits(item, depth - 1):
                return False
        return True
    if kind is list or kind is tuple:
        if depth == 0:
            return False
        for item in value:  # type: ignore[attr-defined]
            if type(item) not in _SCALARS and not _fits(item, depth - 1):
                return False
        return True
    if kind is int:
        return _INT_MIN <= value <= _INT_MAX  # type: ignore[operator]
    if kind is float:
        return math.isfinite(value)  # type: ignore[arg-type]
    return _is_a_kind_of_json(value, depth)


def _is_a_kind_of_json(value: object, depth: int) -> bool:
    """The same for subclasses (`defaultdict`, `IntEnum`, ...), which are written as what they extend."""
    match value:
        case Enum():  # written as its value, which need not be what it extends
            return isinstance(value, (str, int, float)) and (type(value.value) in _SCALARS or _fits(value.value, depth))
        case _ if is_dataclass(value):  # would be written as its fields, whatever it extends
            return False
        case str():
            return True
        case dict():
            return _fits(dict(value), depth)
        case list():
            return _fits(list(value), depth)
        case int() | float():
            return _fits(int(value) if isinstance(value, int) else float(value), depth)
        case _:
            return False


def _find_fault(value: object, path: str, depth: int, above: tuple[int, ...] = ()) -> str | None:
    """The first thing below `path` that is not JSON, with its type and path. Runs only after a refusal."""
    match value:
        case None | bool():
            return None
        case Enum():
            if isinstance(value, (str, int, float)):
                return _find_fault(value.value, path, depth, above)
            return f"{path} is of type {type(value).__name__}, which is not JSON"
        case _ if is_dataclass(value):
            return f"{path} is of type {type(value).__name__}, which is not JSON"
        case str():
            return f"{path} is a str with a lone surrogate" if _has_lone_surrogate(value) else None
        case int():
            fits = _INT_MIN <= value <= _INT_MAX
            return None if fits else f"{path} is an int of more than 64 bits: send it as a str"
        case float():
            return None if math.isfinite(value) else f"{path} is a float that is not finite: send None or a str"
        case dict() | list() | tuple() if type(value) is tuple or not isinstance(value, tuple):
            if id(value) in above:
                return f"{path} is a {type(value).__name__} that contains itself"
            if depth == 0:
                return f"{path} is nested too deeply"
            inside = (*above, id(value))
            if isinstance(value, dict):
                for key, item in value.items():
                    if type(key) is not str or _has_lone_surrogate(key):
                        return f"a key of {path} is not a str that can be encoded, but of type {type(key).__name__}"
                    if fault := _find_fault(item, f"{path}.{key[:40]}", depth - 1, inside):
                        return fault
                return None
            for index, item in enumerate(value):
                if fault := _find_fault(item, f"{path}[{index}]", depth - 1, inside):
                    return fault
            return None
        case _:
            return f"{path} is of type {type(value).__name__}, which is not JSON"


def _has_lone_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def encode_json(value: object, *, name: str = "data", depth: int = 100) -> bytes:
    """The value as JSON text in UTF-8, exactly, or `InvalidEvent` that names what is not JSON by type and path.

    JSON is: dict with str keys, list, tuple, str, bool, None, int of at most 64 bits, finite float, and subclasses of
    these except of tuple. Everything else is refused, never converted: NaN, bytes, set, datetime, dataclass, cycles,
    lone surrogates. The value is not changed and not kept.
    """
    if type(value) in _SCALARS or _fits(value, depth):
        try:
            return to_json(value)
        except PydanticSerializationError:
            pass  # a lone surrogate: the message of the library would quote the text
    fault = _find_fault(value, name, depth) or f"{name} cannot be encoded"
    raise InvalidEvent(f"{fault}. Nothing was appended")


_EVENT_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")


def check_event_id(event_id: str) -> str:
    """The id itself, if it is 1 to 64 of `A-Z a-z 0-9 _ . -`; `InvalidEvent` otherwise."""
    if not isinstance(event_id, str) or _EVENT_ID.match(event_id) is None:
        raise InvalidEvent("event_id must be 1 to 64 characters out of A-Z a-z 0-9 _ . -")
    return event_id


@lru_cache(maxsize=1024)
def _head(event_type: str) -> bytes:
    """The body up to the data, for a checked type."""
    fault = text_fault(event_type, characters=128, utf8_bytes=512)
    if fault is not None:
        raise InvalidEvent(f"this is not an event type: {fault}")
    if event_type in RESERVED_TYPES:
        raise InvalidEvent(f"{event_type!r} is the name of a control frame; choose another event type")
    return b'{"type":%b,"data":' % to_json(event_type)


@lru_cache(maxsize=4096)
def _labels(run_id: str | None, thread_id: str | None) -> bytes:
    """The part of the body that names run and thread."""
    parts = []
    for name, value in (("run_id", run_id), ("thread_id", thread_id)):
        if value is not None:
            fault = text_fault(value, characters=256, utf8_bytes=1024)
            if fault is not None:
                raise InvalidEvent(f"{name}: {fault}")
            parts.append(b',"%b":%b' % (name.encode(), to_json(value)))
    return b"".join(parts)


def owner_part(user_id: UserId) -> bytes:
    """The part of the body that names the user, for `EventEncoder.encode`."""
    return b',"user_id":' + to_json(user_id)


class EventEncoder:
    """Makes events: gives them an id and a time and encodes them, once.

    An id is 64 random bits, drawn at the first event, and a counter: unique across processes at the cost of an
    addition. `clock` gives Unix seconds, `entropy(n)` n random bytes. Threads may share one: the counter and the
    remembered second change in one step each.
    """

    def __init__(
        self,
        *,
        event_bytes: int,
        event_depth: int,
        clock: Callable[[], float] = time.time,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._event_bytes = event_bytes
        self._event_depth = event_depth
        self._clock = clock
        self._entropy = entropy
        self._prefix = ""
        self._count = itertools.count(1)
        self._second: tuple[int, bytes] = (-1, b"")

    @property
    def safe_characters(self) -> int:
        """How many characters of text fit into one event, whatever they are and however long the labels."""
        return max(1, min(self._event_bytes // 12, 32_768))

    def new_id(self) -> str:
        """An id that nobody else has: 11 characters of the process, then a hexadecimal count."""
        # Drawn here and not in the constructor, so that processes forked from one that built a manager differ.
        if not self._prefix:
            self._prefix = random_text(self._entropy, 8)
        return f"{self._prefix}{next(self._count):x}"

    def _timestamp(self) -> bytes:
        """Now, as in `2026-11-20T09:00:00.123456+00:00`. The text of the second is reused while it lasts."""
        now = self._clock()
        second = int(now)
        known, text = self._second
        if second != known:
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
            self._second = (second, text)
        return b"%b.%06d+00:00" % (text, int((now - second) * 1_000_000))

    def encode(
        self,
        event_type: str,
        data: Mapping[str, Any],
        owner: bytes,
        run_id: str | None = None,
        thread_id: str | None = None,
        event_id: str | None = None,
        connection_id: str | None = None,
    ) -> Event:
        """The event, encoded. `owner` comes from `owner_part`. Raises `InvalidEvent`."""
        if not isinstance(data, dict):
            raise InvalidEvent(f"data is of type {type(data).__name__}, and must be a dict. Nothing was appended")
        try:
            head = _head(event_type)
            labels = b"" if run_id is None and thread_id is None else _labels(run_id, thread_id)
        except TypeError:  # unhashable, so no str
            raise InvalidEvent("the event type, run_id and thread_id are of type str. Nothing was appended") from None
        event_id = self.new_id() if event_id is None else check_event_id(event_id)
        body = b'%b%b,"timestamp":"%b"%b%b,"id":"%b"' % (
            head,
            encode_json(data, depth=self._event_depth),
            self._timestamp(),
            owner,
            labels,
            event_id.encode(),
        )
        if len(body) > self._event_bytes:
            raise InvalidEvent(
                f"the event has {len(body)} bytes, and at most {self._event_bytes} are allowed "
                "(Limits.event_bytes). Nothing was appended"
            )
        # Half the cost of Event(...), once for each event.
        return tuple.__new__(Event, (event_id, body, connection_id, thread_id))


def random_text(entropy: Callable[[int], bytes], size: int) -> str:
    """`size` random bytes as URL-safe text without padding."""
    return base64.urlsafe_b64encode(entropy(size)).rstrip(b"=").decode()
