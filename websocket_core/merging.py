"""Adjacent text deltas as one, for a reader that catches up: a late tab gets an answer in a few pieces, not hundreds.

The one place where a server looks into a stored event again.
"""

from __future__ import annotations

import json
from typing import Any, Final

from pydantic_core import to_json

from websocket_core.cursor import Step
from websocket_core.events import MESSAGE_DELTA
from websocket_core.log import Entry

MERGED_CHARACTERS: Final = 16_384
"""A merged delta grows no further than this."""

_PREFIX: Final = b'{"type":"%b","data":' % to_json(MESSAGE_DELTA)[1:-1]
_KEYS: Final = {"message_id", "start", "text"}


def merge_deltas(steps: list[Step]) -> list[Step]:
    """The same steps, with runs of adjacent deltas of one message made one: the first's `start`, all their text, and
    the last's `id`, `timestamp` and position. What is no delta, does not join, or carries further keys stays as it is.
    """
    out: list[Step] = []
    open_event: dict[str, Any] | None = None
    for step in steps:
        event = _delta(step) if isinstance(step, Entry) else None
        last = out[-1] if out else None
        if event is not None and open_event is not None and isinstance(last, Entry) and isinstance(step, Entry):
            joined = _joined(open_event, event) if last.event[2:] == step.event[2:] else None
            if joined is not None:
                open_event = joined
                # `prev` and `at` are the first's: what is merged stands where all of them stood.
                body = to_json(joined)[:-1]
                out[-1] = step._replace(prev=last.prev, at=last.at, event=step.event._replace(body=body))
                continue
        open_event = event
        out.append(step)
    return out


def _delta(entry: Entry) -> dict[str, Any] | None:
    """The event of an entry, if it is a delta of the plain form."""
    if not entry.event.body.startswith(_PREFIX):
        return None
    event: dict[str, Any] = json.loads(entry.event.body + b"}")
    data = event["data"]
    plain = data.keys() == _KEYS and type(data["start"]) is int and isinstance(data["text"], str)
    return event if plain else None


def _joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any] | None:
    """Both as one; None if the second does not go on where the first ends."""
    one, two = first["data"], second["data"]
    if (
        one["message_id"] != two["message_id"]
        or first.get("run_id") != second.get("run_id")
        or two["start"] != one["start"] + len(one["text"])
        or len(one["text"]) + len(two["text"]) > MERGED_CHARACTERS
    ):
        return None
    return {**second, "data": {**two, "start": one["start"], "text": one["text"] + two["text"]}}
