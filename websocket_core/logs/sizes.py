"""What a log in memory costs, and logs by their size, so that the largest is found without looking at all of them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Generic, Protocol, TypeVar

from websocket_core.identity import LogName

ENTRY_OVERHEAD: Final = 400
LOG_OVERHEAD: Final = 800
"""Bytes that an entry takes beside its body, and a log beside its entries, for `Retention.total_bytes`.

Measured on CPython 3.11. With tracemalloc, the growth by 1,000 to 8,000 appends to one log was 280 to 345 bytes for
each beside its body; by 10,000 to 50,000 logs with a UUID for a name, 575 to 710 for each empty one and 1,080 to 1,150
for each with one entry, beside its body. It does not see what the allocator rounds up: the resident memory grew by 418
and by 1,222 bytes, which is an entry of 400 and a log of 800.
"""


class Sized(Protocol):
    """A log as it is filed. `size_class`, `floor` and `ceiling` belong to `Sizes`, which the log need only hold."""

    name: LogName
    size_class: int
    floor: int
    ceiling: int

    def cost(self) -> int:
        """Its size in bytes; 0 if it is not to be found."""
        ...


T = TypeVar("T", bound=Sized)


def size_class(size: int) -> tuple[int, int, int]:
    """The class of a size, and the least and the greatest size in it, which differ by a quarter at most."""
    bits = size.bit_length()
    if bits <= 3:
        return size, size, size
    step = 1 << (bits - 3)
    floor = size // step * step
    return bits << 2 | (size // step & 3), floor, floor + step - 1


class Sizes(Generic[T]):
    """Logs in classes of about the same size. There are at most four classes for each power of two."""

    def __init__(self) -> None:
        self._classes: dict[int, OrderedDict[LogName, T]] = {}

    def file(self, log: T) -> None:
        """Call this when the size of the log is below its floor or above its ceiling."""
        if log.size_class:
            members = self._classes[log.size_class]
            del members[log.name]
            if not members:
                del self._classes[log.size_class]
        log.size_class, log.floor, log.ceiling = size_class(log.cost())
        if log.size_class:
            self._classes.setdefault(log.size_class, OrderedDict())[log.name] = log

    def largest(self, besides: T | None = None) -> T | None:
        """A log of the largest class, the longest in it first; None if there is none `besides` that one."""
        if not self._classes:
            return None
        greatest = max(self._classes)
        for log in self._classes[greatest].values():
            if log is not besides:
                return log
        greatest = max((other for other in self._classes if other != greatest), default=0)
        return next(iter(self._classes[greatest].values())) if greatest else None
