"""`python -m tests.redis.lease_process URL NAMESPACE LEASE RUNS`: a worker process with open runs.

Each run is alice's, has a child, and thinks five times a second; `thought N` on its own line tells each time that all
runs have. It ends when it is killed, or when all its runs have been stopped.
"""

from __future__ import annotations

import asyncio
import sys

from bridge import RunCancelled, UserExecutionContext
from websocket_core.limits import Limits
from websocket_core.unified_manager import UnifiedWebSocketManager

PAUSE = 0.2


def say(text: str) -> None:
    print(text, flush=True)


async def main(url: str, namespace: str, lease: float, runs: int) -> None:
    manager = UnifiedWebSocketManager(url, namespace=namespace, limits=Limits(lease=lease))
    thoughts = 0

    async def run(number: int) -> None:
        nonlocal thoughts
        bridge = manager.create_agent_bridge(UserExecutionContext("alice", f"run {number}", "t1"))
        try:
            async with bridge.run("parent") as parent, parent.child("child", run_id=f"child {number}") as child:
                while True:
                    await child.thinking("hm")
                    thoughts += 1
                    if thoughts % runs == 0:
                        say(f"thought {thoughts}")
                    await asyncio.sleep(PAUSE)
        except RunCancelled:
            say("stopped")

    async with manager:
        await asyncio.gather(*[run(number) for number in range(runs)])
        await asyncio.sleep(lease)
    say("over")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])))
