"""A TCP proxy before Redis that does what networks do: delays, loses replies, goes silent, closes one half."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

from tests.listening import stop_accepting


class Link:
    """One connection that goes through the proxy."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.subscriber = False
        """Whether a subscription was asked for on it."""
        self.reply_is_lost = False
        self.held: list[bytes] | None = None

    def close(self) -> None:
        self.client.close()
        self.server.close()


class Proxy:
    """`async with Proxy(port) as proxy:`; what is to go wrong is set on the way."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._arrived: set[asyncio.StreamWriter] = set()
        """Those that are not linked yet, and those that could not be."""
        self.links: list[Link] = []
        self.opened = 0
        """How many connections there were in all."""
        self.lost = 0
        """How many replies, or pushes, were lost."""
        self.blackholed = False
        """Nothing passes in either direction, and nothing is closed; what was sent meanwhile is lost."""
        self.deaf = False
        """Nothing passes to subscribers."""
        self.swallowed: bytes | None = None
        """Whatever passes to a subscriber and holds this is lost."""
        self.delay = 0.0
        """Seconds that everything takes to the server."""
        self._lose: tuple[bytes, int] = (b"", 0)
        self._hold: bytes | None = None

    def lose_replies(self, to: bytes, times: int = 1) -> None:
        """Pass on the next requests that hold these bytes, and instead of the reply close the connection."""
        self._lose = (to, times)

    def hold(self, holding: bytes) -> None:
        """Keep the next request that holds these bytes, and what follows it on its connection, until `release`."""
        self._hold = holding

    @property
    def holds(self) -> bool:
        return any(link.held for link in self.links)

    async def release(self) -> None:
        """Deliver what was held, also if whoever sent it is long gone."""
        for link in self.links:
            if link.held is not None:
                with contextlib.suppress(OSError):
                    link.server.write(b"".join(link.held))
                    await link.server.drain()
                link.held = None

    def cut(self) -> None:
        """Close every connection."""
        for link in self.links:
            link.close()

    def half_close(self, *, towards_client: bool) -> None:
        """End one direction of every connection."""
        for link in self.links:
            with contextlib.suppress(OSError):
                (link.client if towards_client else link.server).write_eof()

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        await stop_accepting(self._server)
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        writers = [writer for link in self.links for writer in (link.client, link.server)]
        for writer in (*writers, *self._arrived):
            writer.transport.abort()  # what is still to be written may never be read
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._arrived.add(writer)
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
        except (OSError, asyncio.CancelledError):
            writer.close()
            return
        self._arrived.discard(writer)
        link = Link(writer, to_server)
        self.links.append(link)
        self.opened += 1
        for pump in (self._requests(link, reader), self._replies(link, from_server)):
            task = asyncio.get_running_loop().create_task(pump)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _requests(self, link: Link, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: that half was closed by us
            while chunk := await reader.read(65_536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if self.blackholed:
                    continue
                if b"SUBSCRIBE" in chunk:
                    link.subscriber = True
                if self._hold is not None and self._hold in chunk:
                    self._hold = None
                    link.held = []
                if link.held is not None:
                    link.held.append(chunk)
                    continue
                needle, times = self._lose
                if times and needle in chunk:
                    self._lose = (needle, times - 1)
                    link.reply_is_lost = True
                link.server.write(chunk)
                await link.server.drain()
        if link.held is None:
            link.server.close()

    async def _replies(self, link: Link, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: that half was closed by us
            while chunk := await reader.read(65_536):
                if link.reply_is_lost:
                    self.lost += 1
                    link.close()
                    return
                if self.blackholed or (link.subscriber and self.deaf):
                    continue
                if link.subscriber and self.swallowed is not None and self.swallowed in chunk:
                    self.lost += 1
                    continue
                link.client.write(chunk)
                await link.client.drain()
        link.client.close()
