"""`Exchange`: commands to Redis over one connection that one task owns.

Whoever asks awaits a future and never touches the connection: a caller that is cancelled or loses patience takes nobody
else's answer and leaves none behind. While one round trip is under way, commands collect, and go together in the next.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from itertools import chain, repeat
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from websocket_core.errors import LogUnavailable, ManagerClosed

logger = logging.getLogger(__name__)

MOST: Final = 128
"""Commands in one round trip at most."""
MOST_BYTES: Final = 1_048_576
"""Bytes of arguments in one round trip, above which no further command joins it."""

Command = tuple[Any, ...]

_RUN_ID: Final = re.compile(rb"^run_id:(\w+)", re.MULTILINE)
_NOTHING: Final = object()


class Script:
    """A script in Lua, with the digest by which Redis knows it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    @classmethod
    def load(cls, name: str) -> Script:
        """The script of that name beside this module."""
        return cls(files(__package__).joinpath(f"{name}.lua").read_text(encoding="utf-8"))


def connect(url: str, *, timeout: float, connected: Callable[[Any], Awaitable[None]] | None = None) -> Redis:
    """A client whose retries are off: by default it executed one append three times when replies were lost. `connected`
    is awaited with each new connection before it is used, those included that the client makes without being asked."""
    client: Redis = Redis.from_url(
        url,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        max_connections=1,
        protocol=2,
        decode_responses=False,
        redis_connect_func=connected,
    )
    return client


async def end_task(task: asyncio.Task[Any], *, patience: float = 1.0) -> None:
    """Cancel a task of ours and wait until it has ended; again, if it has not within so many seconds. Libraries have
    been seen to swallow a cancellation."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=patience)


class Exchange:
    """One connection, used in one event loop."""

    def __init__(self, url: str, *, timeout: float, replay: Callable[[], Sequence[Command]] = lambda: ()) -> None:
        """`replay` gives the commands that go first when Redis was restarted, or another took its place."""
        self._client = connect(url, timeout=timeout, connected=self._get_to_know)
        self._timeout = timeout
        self._replay = replay
        self._server: bytes | None = None
        self._connection: int | None = None
        self._queue: deque[tuple[Command, asyncio.Future[Any]]] = deque()
        self._pump: asyncio.Task[None] | None = None
        self._closed = False

    def submit(self, *command: Any) -> asyncio.Future[Any]:
        """Queue a command; its answer, or `LogUnavailable`, in which case it was executed or not."""
        if self._closed:
            raise ManagerClosed("the log was closed")
        # Encoded before it has a place in the queue: what cannot be fails its own caller, and no neighbour.
        command = (command[0], *[part if type(part) is bytes else str(part).encode() for part in command[1:]])
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append((command, answer))
        if self._pump is None:
            # Lives while something waits. Owned by this exchange: ended by `close`.
            self._pump = asyncio.get_running_loop().create_task(self._run(), name="websocket_core redis exchange")
            self._pump.add_done_callback(self._ended)
        return answer

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Run a script; its answer. Raises `LogUnavailable`."""
        try:
            return await self.submit("EVALSHA", script.digest, len(keys), *keys, *arguments)
        except _Unknown:  # after a restart, a failover or SCRIPT FLUSH; nothing was executed
            return await self.submit("EVAL", script.text, len(keys), *keys, *arguments)

    async def close(self) -> None:
        """End the connection. What waits fails with `LogUnavailable`."""
        self._closed = True
        if self._pump is not None:
            await end_task(self._pump)
        await self._client.aclose()

    async def _run(self) -> None:
        try:
            while self._queue:
                batch = self._take()
                answers: Sequence[Any] = ()
                try:
                    answers = await self._round_trip([command for command, _ in batch])
                except (RedisError, OSError, TimeoutError) as error:
                    logger.debug("an exchange with Redis failed", extra={"error": type(error).__name__})
                    if isinstance(error, (TimeoutError, RedisTimeout)):  # what waited behind it has waited long enough
                        batch.extend(self._queue)
                        self._queue.clear()
                    await self._client.connection_pool.disconnect()
                finally:
                    self._settle(batch, answers)
        except Exception:
            logger.exception("the exchange with Redis crashed")
            raise
        finally:
            self._give_up()

    def _give_up(self) -> None:
        self._pump = None
        left, self._queue = list(self._queue), deque()
        self._settle(left, ())

    def _take(self) -> list[tuple[Command, asyncio.Future[Any]]]:
        batch: list[tuple[Command, asyncio.Future[Any]]] = []
        size = 0
        while self._queue and len(batch) < MOST and (not batch or size < MOST_BYTES):
            command, answer = self._queue.popleft()
            size += sum(map(len, command))
            batch.append((command, answer))
        return batch

    async def _round_trip(self, commands: Sequence[Command]) -> list[Any]:
        async with asyncio.timeout(self._timeout * 2):
            answers = await self._send(commands)
        if any(isinstance(answer, ReadOnlyError) for answer in answers):
            await self._client.connection_pool.disconnect()  # this is a replica now; the next connection finds out
        return [_error_of(answer) if isinstance(answer, Exception) else answer for answer in answers]

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        answers: list[Any] = await pipeline.execute(raise_on_error=False)
        return answers

    async def _get_to_know(self, connection: Any) -> None:
        """A new connection, before its first command. What the old one may still have under way is fenced off, if the
        server is the same: after a restart the number belongs to somebody else. If it is another, what was acknowledged
        lately goes first."""
        await connection.on_connect()
        about, number = await _ask(connection, [("INFO", "server"), ("CLIENT", "ID")])
        if isinstance(about, Exception):
            raise about
        found = _RUN_ID.search(about)
        server = None if found is None else found[1]
        if self._connection is not None and server is not None and server == self._server:
            await _ask(connection, [("CLIENT", "KILL", "ID", self._connection)])  # an error means that it is gone
        elif self._server is not None and (lately := list(self._replay())):
            logger.warning("Redis was restarted or replaced; sending again what it acknowledged last")
            for start in range(0, len(lately), MOST):
                await _ask(connection, lately[start : start + MOST])
        self._server = server
        self._connection = number if isinstance(number, int) else None

    @staticmethod
    def _settle(batch: list[tuple[Command, asyncio.Future[Any]]], answers: Sequence[Any]) -> None:
        """Hand out the answers; to those for whom there is none, `LogUnavailable`."""
        for (_, waiting), answer in zip(batch, chain(answers, repeat(_NOTHING)), strict=False):
            if waiting.done():
                continue  # whoever asked has been cancelled
            if answer is _NOTHING:
                waiting.set_exception(LogUnavailable("Redis did not answer"))
            elif isinstance(answer, Exception):
                waiting.set_exception(answer)
            else:
                waiting.set_result(answer)

    def _ended(self, pump: asyncio.Task[None]) -> None:
        if self._pump is pump:  # cancelled before its first turn, it has run nothing at all
            self._give_up()


class _Unknown(LogUnavailable):
    """Redis does not have the script."""


def _error_of(error: Exception) -> LogUnavailable:
    if isinstance(error, NoScriptError):
        return _Unknown("Redis does not have the script")
    word = str(error).split(" ", 1)[0] if isinstance(error, ResponseError) else ""
    known = word if word.isupper() and len(word) <= 16 else type(error).__name__
    logger.warning("Redis refused a command", extra={"error": known})
    return LogUnavailable(f"Redis refused a command: {known}")


async def _ask(connection: Any, commands: Sequence[Command]) -> list[Any]:
    """Send commands over a connection that nobody else uses yet; their answers, errors among them."""
    await connection.send_packed_command(connection.pack_commands(commands))
    answers: list[Any] = []
    for _ in commands:
        try:
            answers.append(await connection.read_response())
        except ResponseError as error:
            answers.append(error)
    return answers
