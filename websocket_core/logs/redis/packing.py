"""How an entry is stored and published: labels, a line break, and the body as the emitter encoded it.

Labels are divided by `\\x1f`, which none of them can contain: no id or name may have control characters, except for the
one that marks control entries. What cannot be read is none of ours.
"""

from __future__ import annotations

from typing import Any, Final

from websocket_core.events import Event
from websocket_core.identity import LogName
from websocket_core.log import Entry

DIVIDER: Final = "\x1f"

_new: Any = tuple.__new__  # half the cost of Entry(...), for what is made once for each event


def packed_event(event: Event, owner: bytes) -> bytes:
    """What an emitter says of an entry: connection, thread, owner and body. The rest is said by the log."""
    if event.connection_id is None and event.thread_id is None:
        return b"\x1f\x1f%b\n%b" % (owner, event.body)
    labels = f"{_marked(event.connection_id)}{DIVIDER}{_marked(event.thread_id)}{DIVIDER}"
    return b"%b%b\n%b" % (labels.encode(), owner, event.body)


def packed_parts(*parts: str | int) -> bytes:
    """Arguments of a command, as Redis is sent them."""
    encoded = [str(part).encode() for part in parts]
    return b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in encoded)


def published_entry(log: LogName, data: bytes, clocks: float) -> Entry:
    """An entry as it is published: epoch and offset, then as it is stored. `clocks` is how far the monotonic clock is
    ahead of Unix time. Raises `ValueError` for anything else."""
    # Once for every event that is followed in this process: written for speed.
    labels, _, body = data.partition(b"\n")
    epoch, offset, mark, prev, at, event_id, connection, thread, owner = labels.decode().split(DIVIDER, 8)
    event = _new(Event, (event_id, body, connection[1:] if connection else None, thread[1:] if thread else None))
    if owner != log.name:
        # The owner as it is stored, to be compared with the log that was asked for; labels of a later release follow.
        log = _named(log, owner.split(DIVIDER, 1)[0])
    entry: Entry = _new(Entry, (log, epoch, int(offset), mark, prev, event, int(at) / 1000 + clocks))
    return entry


def stored_entry(log: LogName, epoch: str, offset: int, data: bytes, clocks: float) -> Entry:
    """An entry as it is stored: mark, prev, ms of the server's clock, event id, connection, thread, owner, body. Raises
    `ValueError` for anything else."""
    labels, _, body = data.partition(b"\n")
    mark, prev, at, event_id, connection, thread, owner = labels.decode().split(DIVIDER, 6)
    event = _new(Event, (event_id, body, connection[1:] if connection else None, thread[1:] if thread else None))
    if owner != log.name:
        log = _named(log, owner.split(DIVIDER, 1)[0])
    entry: Entry = _new(Entry, (log, epoch, offset, mark, prev, event, int(at) / 1000 + clocks))
    return entry


def _named(log: LogName, owner: str) -> LogName:
    """The log of that owner, for whom the log that was asked for may be another's."""
    return log if owner == log.name else LogName(log.kind, owner)


def _marked(text: str | None) -> str:
    """As it is stored: nothing is not the same as an empty text."""
    return "" if text is None else f"={text}"
