"""The laws of work, for the queue in memory."""

from __future__ import annotations

from typing import Any

import pytest

from tests.work_laws import MakeQueue, WorkLaws, an_item
from websocket_core import work
from websocket_core.errors import InvalidConfiguration
from websocket_core.logs.memory import MemoryLog
from websocket_core.logs.queues import Queues
from websocket_core.work import MemoryWork, Outcome, Put, WorkLimits


@pytest.fixture
def make() -> MakeQueue:
    queues = Queues(MemoryLog())
    return lambda **limits: queues.of("commands", WorkLimits(**limits))


class TestMemoryWork(WorkLaws):
    pass


def test_a_queue_has_one_name_and_one_set_of_limits() -> None:
    queues = Queues(MemoryLog())
    queue = queues.of("commands", WorkLimits())
    assert queues.of("commands", WorkLimits()) is queue
    assert queues.of("other", WorkLimits(lease=5.0)) is not queue
    with pytest.raises(InvalidConfiguration, match="other limits"):
        queues.of("commands", WorkLimits(lease=5.0))
    for name in ("", "a\n", "x" * 65):
        with pytest.raises(InvalidConfiguration, match="name of a queue"):
            queues.of(name, WorkLimits())


async def test_the_ids_of_what_was_settled_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "IDS", 3)
    now = 0.0
    queue: Any = MemoryWork(WorkLimits(), monotonic=lambda: now)
    for number in range(10):
        assert await queue.put(an_item(number)) is Put.TAKEN
        (held,) = await queue.take("w1", 1, ())
        await queue.settle("w1", held, Outcome.DONE)
    assert await queue.put(an_item(9)) is Put.KNOWN
    assert len(queue._settled) <= 3
    assert not queue._known
    assert not queue._owners
