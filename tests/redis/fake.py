"""Something that speaks as Redis does, and says what a test wants: what a real one says only once in a while."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable
from types import TracebackType
from typing import Self

import hiredis

from tests.listening import stop_accepting

Command = list[bytes]


class FakeRedis:
    """`async with FakeRedis() as fake:`; `fake.says` is asked first what to answer, and None means: as Redis would."""

    def __init__(self) -> None:
        self.says: Callable[[Command], bytes | None] = lambda command: None
        self.about = b"redis_version:7.0.15\r\nrun_id:one\r\n"
        self.opened: list[float] = []
        """When each connection was made."""
        self.asked: list[Command] = []
        """All commands that did not belong to the greeting."""
        self.executed: list[bytes] = []
        """The last argument of each script that was run."""
        self.scripts: set[bytes] = set()
        self.refuses = False
        """Whether connections are closed at once."""
        self.writers: list[asyncio.StreamWriter] = []
        self._cut: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        await stop_accepting(self._server)
        writers = [*self.writers, *self._cut]
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.gather(*[writer.wait_closed() for writer in writers], return_exceptions=True)

    def cut(self) -> None:
        for writer in self.writers:
            writer.close()
        self._cut += self.writers
        self.writers.clear()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.opened.append(asyncio.get_running_loop().time())
        self.writers.append(writer)
        number = len(self.opened)
        parser = hiredis.Reader()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while not self.refuses and (chunk := await reader.read(65_536)):
                parser.feed(chunk)
                while (command := parser.gets()) is not False:
                    writer.write(self._answer(command, number))
        writer.close()

    def _answer(self, command: Command, number: int) -> bytes:
        said = self.says(command)
        if said is not None:
            return said
        match command:
            case [b"INFO", *_]:
                return b"$%d\r\n%s\r\n" % (len(self.about), self.about)
            case [b"CLIENT", b"ID"]:
                return b":%d\r\n" % number
            case [b"CLIENT" | b"SELECT" | b"AUTH", *_]:
                return b"+OK\r\n"
            case [b"SCRIPT", b"LOAD", text]:
                digest = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
                self.scripts.add(digest)
                return b"$40\r\n%s\r\n" % digest
            case [b"SUBSCRIBE", *channels]:
                return b"".join(
                    b"*3\r\n$9\r\nsubscribe\r\n$%d\r\n%s\r\n:1\r\n" % (len(channel), channel) for channel in channels
                )
            case [b"EVALSHA", digest, *_, last]:
                if digest not in self.scripts:
                    return b"-NOSCRIPT No matching script. Please use EVAL.\r\n"
                self.executed.append(last)
                return b"$%d\r\n%s\r\n" % (len(last), last)
        self.asked.append(command)
        return b"$%d\r\n%s\r\n" % (len(command[-1]), command[-1])
