"""`Share`: what one asker wants of a script that serves many in one call.

A call costs Redis and us as much as a third of what it does for one event, so those who ask in the same turn of the
loop share it. Such a script answers each share by itself, with an error where that one failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from websocket_core.logs.redis.packing import packed_parts


class Call:
    """A call of a script, but for its shares: `fixed` are the arguments that all of them have in common, and
    `arguments` is how many each has of its own."""

    def __init__(self, digest: str, fixed: Sequence[str | int], arguments: int) -> None:
        self._begins = packed_parts("EVALSHA", digest)
        self._fixed = packed_parts(*fixed)
        self._parts = 3 + len(fixed)
        self._arguments = arguments

    def of(self, shares: Sequence[Share]) -> bytes:
        """The call, as it travels."""
        _, counts, keys, arguments = zip(*shares, strict=True)
        count = sum(counts)
        number = b"%d" % count
        return b"*%d\r\n%b$%d\r\n%b\r\n%b%b%b" % (
            self._parts + count + len(shares) * self._arguments,
            self._begins, len(number), number, b"".join(keys), self._fixed, b"".join(arguments),
        )  # fmt: skip


class Share(NamedTuple):
    """`keys` and `arguments` are packed."""

    call: Call
    key_count: int
    keys: bytes
    arguments: bytes
