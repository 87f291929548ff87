"""Waiting for several things at once, for a limited time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any


async def wait_until(deadline: float, waits: Sequence[Awaitable[Any]]) -> None:
    """Wait for all of them, no longer than until the deadline of the loop's clock; what is late by then is cancelled,
    and given one second to end. Raises nothing of theirs. Cancelled, it cancels what is no task of somebody else."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    if not tasks:
        return
    try:
        await asyncio.wait(tasks, timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
    except BaseException:
        for wait, task in zip(waits, tasks, strict=True):
            if task is not wait:
                task.cancel()
        raise
    late = [task for task in tasks if not task.done()]
    for task in late:
        task.cancel()
    if late:
        await asyncio.wait(late, timeout=1.0)
