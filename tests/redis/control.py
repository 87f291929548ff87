"""The positive control of the cancellation storm: reads through whatever redis-py is on the path, with its own pool.

    PYTHONPATH=.venv-control python tests/redis/control.py PORT CALLS SEED

Sets a value for each of a hundred users, then reads them; the part of the calls that `cancelled_after` says is
cancelled at a random moment. Prints one JSON object: the version, how many calls were answered, and how many of them
with another user's value.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any

USERS = 100
AT_ONCE = 50
LONGEST = 0.03
"""Seconds, at most, after which a call is cancelled that is to be."""


def cancelled_after(rng: random.Random) -> float | None:
    """When to cancel a call; None for one that may go on to its end. The same for the control and for what it is one
    of."""
    return rng.uniform(0.0, LONGEST) if rng.random() < 0.5 else None


def provide_distutils() -> None:
    """The old version asks it for one function, which it does not use here; Python 3.12 has it no more."""
    if find_spec("distutils") is None:
        package, util = ModuleType("distutils"), ModuleType("distutils.util")
        util.strtobool = None  # type: ignore[attr-defined]
        sys.modules.update({"distutils": package, "distutils.util": util})


async def storm(port: int, calls: int, seed: int) -> dict[str, Any]:
    provide_distutils()
    import redis
    from redis.asyncio import Redis

    rng = random.Random(seed)
    client: Any = Redis(host="127.0.0.1", port=port, decode_responses=True)
    for user in range(USERS):
        await client.set(f"value:{user}", f"of {user}")
    places = asyncio.Semaphore(AT_ONCE)
    loop = asyncio.get_running_loop()
    answered = wrong = failed = cancelled = 0

    async def read(user: int, after: float | None) -> None:
        nonlocal answered, wrong, failed, cancelled
        async with places:
            call = asyncio.ensure_future(client.get(f"value:{user}"))
            if after is not None:
                loop.call_later(after, call.cancel)
            await asyncio.wait([call])
            if call.cancelled():
                cancelled += 1
            elif call.exception() is not None:
                failed += 1
            else:
                answered += 1
                wrong += call.result() != f"of {user}"

    await asyncio.gather(*[read(rng.randrange(USERS), cancelled_after(rng)) for _ in range(calls)])
    return {
        "version": redis.__version__, "answered": answered, "wrong": wrong, "failed": failed, "cancelled": cancelled,
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(asyncio.run(storm(*map(int, sys.argv[1:4])))))
