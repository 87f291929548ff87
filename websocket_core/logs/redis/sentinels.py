"""`Watch`: hears from a sentinel that another has become the master.

The old one may not know for ten seconds, and drops what it took meanwhile. Who never hears it finds out in the end: a
connection is lost, says READONLY, or says nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Callable
from typing import Any, Final

from redis.exceptions import RedisError

from websocket_core.logs.redis.addresses import Addresses, Rests
from websocket_core.logs.redis.link import Link, pack

logger = logging.getLogger(__name__)

TOPICS: Final = ("+switch-master", "+failover-state-reconf-slaves")
"""The second comes from the one that carries the change out, as soon as it says where the next master is."""
PING_SECONDS: Final = 5.0
"""Between two pings of the sentinel; one that has not answered by the next is left for another."""

_PING: Final = pack("PING")


class Watch:
    """One subscription to one sentinel after the other, in one event loop."""

    def __init__(self, addresses: Addresses, switched: Callable[[], None], *, rng: random.Random) -> None:
        """`switched` is called whenever another has become the master."""
        self._addresses = addresses
        self._switched = switched
        self._rests = Rests(rng)
        # Owned by this watch: ended by `close`.
        self.task = asyncio.get_running_loop().create_task(self._run(), name="websocket_core redis sentinel watch")

    async def _run(self) -> None:
        for number in itertools.count():
            try:
                await self._listen(number)
            except (RedisError, OSError) as error:
                logger.debug("a sentinel is watched no more", extra={"error": type(error).__name__})
            except Exception:
                logger.exception("watching a sentinel crashed")
            self._rests.failed(0.0)
            await asyncio.sleep(self._rests.left(0.0))

    async def _listen(self, number: int) -> None:
        link = Link(await self._addresses.dial_sentinel(number))
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heard = True

        def received(replies: list[Any]) -> None:
            nonlocal heard
            heard = True
            for reply in replies:
                if type(reply) is not list:
                    lost(link)  # it does not let us subscribe
                elif reply[0] == b"message" and self._addresses.service in reply[2].split(b" ")[:2]:
                    self._switched()

        def lost(_link: Link) -> None:
            if not gone.done():
                gone.set_result(None)

        link.received, link.lost = received, lost
        try:
            link.write(pack("SUBSCRIBE", *TOPICS))
            while heard and not gone.done() and not link.closed:
                heard = False
                link.write(_PING)
                await asyncio.wait([gone], timeout=PING_SECONDS)
                if heard and not gone.done():
                    self._rests.succeeded()
        finally:
            link.close()
            await link.wait_closed()
