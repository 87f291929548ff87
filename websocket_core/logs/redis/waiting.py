"""`Waiting`: whoever waits for an answer of Redis, in the order in which they asked."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from websocket_core.errors import LogUnavailable
from websocket_core.logs.redis.link import ReplyError
from websocket_core.logs.redis.refusals import word_of
from websocket_core.logs.redis.shares import Call, Share

MOST: Final = 128
"""Commands in one round trip at most."""
MOST_BYTES: Final = 1_048_576
"""Bytes in one round trip, above which nobody else joins it."""
TOGETHER: Final = 64
"""Askers that share one call at most: while Redis is at it, for less than a millisecond, it serves nobody else."""
TOGETHER_BYTES: Final = 65_536
"""Bytes in one call, above which nobody else shares it."""

Answer = asyncio.Future[Any]

_new: Any = tuple.__new__  # half the cost of Asked(...), for what is made once for each event


class Refusal(NamedTuple):
    """What Redis refused, by the word that names the reason."""

    answer: Answer
    word: str


class Asked(NamedTuple):
    """One who asks. An answer that is done waits no more: whoever asked is gone."""

    what: bytes | Share
    """A command as it travels, or a share of one."""
    answer: Answer


class Waiting:
    """Those whose command was not sent yet, those who have no answer yet, and those whose script Redis did not have.

    The next answer is for the first of those who have none.
    """

    def __init__(self) -> None:
        self.queue: deque[Asked] = deque()
        self.flight: deque[list[Asked]] = deque()  # both are looked at for each event, and changed here alone
        """For each answer that is to come, those whom it is for: several, if they share a call."""
        self._unknown: list[Asked] = []

    @property
    def lacks_scripts(self) -> bool:
        return bool(self._unknown)

    def ask(self, what: bytes | Share) -> Answer:
        answer: Answer = asyncio.get_running_loop().create_future()
        self.queue.append(_new(Asked, (what, answer)))
        return answer

    def expect(self, count: int = 1) -> None:
        """Something was sent that nobody asked for, and will be answered."""
        for _ in range(count):
            self.flight.append([Asked(b"", _answered())])

    def depart(self) -> list[bytes]:
        """What goes in one round trip: of those who still wait, as many as there is room for, and at the end those who
        share a call. With a second call behind the first, Redis might lack the script for the one and, when another
        process has just brought it, have it for the other: what is appended to one log would change its order."""
        queue = self.queue
        calls: list[list[Asked]] = []
        sharing: list[Asked] = []
        of: Call | None = None
        size = full = 0
        while queue and len(calls) < MOST and size < MOST_BYTES:
            asked = queue[0]
            what, answer = asked
            if answer.done():  # cancelled before it was sent
                queue.popleft()
                continue
            if isinstance(what, bytes):
                if sharing:
                    break
                calls.append([asked])
                size += len(what)
            else:
                call, _, keys, arguments = what
                if not sharing:
                    calls.append(sharing)
                    of = call
                    full = size + TOGETHER_BYTES
                elif call is not of or size >= full or len(sharing) == TOGETHER:
                    break
                sharing.append(asked)
                size += len(keys) + len(arguments)
            queue.popleft()
        self.flight += calls
        return [_packed(each) for each in calls]

    def settle(self, replies: Sequence[Any]) -> list[Refusal]:
        """Give each its answer; what was refused. Raises `ValueError` for answers that do not belong to what was asked:
        none that follows can be trusted."""
        flight = self.flight
        if len(replies) > len(flight):
            raise ValueError("more answers than questions")
        refusals: list[Refusal] = []
        for reply in replies:
            call = flight[0]
            if isinstance(call[0].what, bytes):
                self._settle(call[0], reply, refusals)
            elif type(reply) is ReplyError:
                for asked in call:
                    self._settle(asked, reply, refusals)
            elif isinstance(reply, list):
                for asked, answer in zip(call, reply, strict=True):
                    if type(answer) is ReplyError or (waiting := asked[1]).done():
                        self._settle(asked, answer, refusals)
                    else:
                        waiting.set_result(answer)
            else:
                raise ValueError("an answer to another question")
            flight.popleft()
        return refusals

    def _settle(self, asked: Asked, reply: Any, refusals: list[Refusal]) -> None:
        answer = asked.answer
        if type(reply) is not ReplyError:
            if not answer.done():  # else whoever asked has been cancelled
                answer.set_result(reply)
        elif (word := word_of(str(reply))) != "NOSCRIPT":
            refusals.append(Refusal(answer, word))
        elif not answer.done():
            self._unknown.append(asked)

    def ask_again(self) -> None:
        """Those whose script was not there are the first to go, in their order, before everything that came after."""
        self.queue.extendleft(reversed(self._unknown))
        self._unknown = []

    def fail_unknown(self, reason: str) -> None:
        unknown, self._unknown = self._unknown, []
        _fail(unknown, reason)

    def fail_queued(self, reason: str) -> None:
        queued = list(self.queue)
        self.queue.clear()
        _fail(queued, reason)

    def fail_sent(self, reason: str, *, queued: bool) -> None:
        """All that was sent fails, and what is queued too if that is said."""
        left = self._unknown
        for call in self.flight:
            left += call
        self._unknown = []
        self.flight.clear()
        if queued:
            left += self.queue
            self.queue.clear()
        _fail(left, reason)


def _answered() -> Answer:
    """For what nobody asked."""
    answer: Answer = asyncio.get_running_loop().create_future()
    answer.set_result(None)
    return answer


def fail(answer: Answer, reason: str) -> None:
    if not answer.done():
        answer.set_exception(LogUnavailable(reason))


def _fail(asked: Iterable[Asked], reason: str) -> None:
    for each in asked:
        fail(each.answer, reason)


def _packed(asked: list[Asked]) -> bytes:
    """The command of one who asks, or the call of all who share it."""
    first = asked[0].what
    return first if isinstance(first, bytes) else first.call.of([what for what, _ in asked])  # type: ignore[misc]
