"""`Addresses`: what the URL of a Redis means, and a connection to it, which redis-py makes.

It owns names, TLS, unix sockets, users and passwords, the database and the questions to sentinels. Its automatic
retries are off: by default it executed one append three times when replies were lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import urlsplit

from redis.asyncio.connection import ConnectionPool, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ReadOnlyError, ResponseError

from websocket_core.errors import InvalidConfiguration

SENTINEL_PORT: Final = 26_379
FIRST_REST: Final = 0.1
LONGEST_REST: Final = 4.0
"""Between attempts to reach Redis: doubled from the first to the longest, with jitter."""


class Addresses:
    """Where Redis is: `redis://[user:password@]host:port/db`, `rediss://...` for TLS, `unix:///path?db=0`, and
    `redis+sentinel://[user:password@]host:port,host:port/service/db`, or `rediss+sentinel://...` for TLS to both.

    Options behind `?` are those of redis-py. `sentinel_username` and `sentinel_password` are for the sentinels, user
    and password for Redis. Raises `InvalidConfiguration`, whose text holds nothing of the URL.
    """

    def __init__(self, url: str, *, timeout: float) -> None:
        self._timeout = timeout
        self._sentinels: list[tuple[str, int]] = []
        self._service = ""
        self._sentinel_options: dict[str, Any] = {}
        try:
            self._options = self._parsed(url)
            self._options |= self._always(timeout)
            _connection(self._options)  # nothing is opened yet; an option that there is not is found here
        except (ValueError, TypeError, AttributeError):  # with parts of the URL in their texts
            raise InvalidConfiguration(
                "the address of Redis cannot be read: write redis://[user:password@]host:port/db, and percent-encode "
                "what is special in a password"
            ) from None

    @property
    def guarded(self) -> bool:
        """Whether sentinels watch over the master, so that another may take its place at any time."""
        return bool(self._sentinels)

    @property
    def service(self) -> bytes:
        """What sentinels call it."""
        return self._service.encode()

    async def dial(self) -> Any:
        """A new connection of redis-py's, greeted and logged in; the sentinels, if there are any, are asked anew.
        Raises `RedisError`, `OSError` or `TimeoutError`."""
        where = await self._master() if self._sentinels else {}
        connection = await _connected(self._options | where)
        if where:
            async with _closed_if_it_fails(connection):
                await _check_master(connection)
        return connection

    async def dial_sentinel(self, number: int) -> Any:
        """The same to one of the sentinels, counted round and round."""
        host, port = self._sentinels[number % len(self._sentinels)]
        options = {name: value for name, value in self._sentinel_options.items() if name != "ssl"}
        if "ssl" in self._sentinel_options:
            options["connection_class"] = SSLConnection
        return await _connected(options | {"host": host, "port": port})

    def _parsed(self, url: str) -> dict[str, Any]:
        scheme, _, rest = url.partition("://")
        if not scheme.endswith("+sentinel"):
            return dict(parse_url(url))
        authority, slash, path = rest.partition("/")
        credentials, at, hosts = authority.rpartition("@")
        path, question, query = path.partition("?")
        self._service, _, database = path.partition("/")
        if not (slash and self._service):
            raise ValueError("no service")
        for host in hosts.split(","):
            parts = urlsplit(f"//{host}")
            if not parts.hostname:
                raise ValueError("no host")
            self._sentinels.append((parts.hostname, parts.port or SENTINEL_PORT))
        plain = scheme.removesuffix("+sentinel")
        options: dict[str, Any] = dict(parse_url(f"{plain}://{credentials}{at}-/{database}{question}{query}"))
        self._sentinel_options = {
            name.removeprefix("sentinel_"): options.pop(name) for name in list(options) if name.startswith("sentinel_")
        }
        if plain == "rediss":
            secure = {name: value for name, value in options.items() if name.startswith("ssl_")}
            self._sentinel_options |= {"ssl": True, **secure}
        # One that stands still must not use up the time of the others, nor of the connection to the master.
        self._sentinel_options |= self._always(self._timeout / 2) | {"decode_responses": True}
        return options

    @staticmethod
    def _always(timeout: float) -> dict[str, Any]:
        return {
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "protocol": 2,
            "decode_responses": False,
        }

    async def _master(self) -> dict[str, Any]:
        # Made for one question: nothing of it stays open, and none of it belongs to an event loop.
        asked = _Sentinels(self._sentinels, sentinel_kwargs=self._sentinel_options)  # type: ignore[no-untyped-call]
        async with asked:
            host, port = await asked.discover_master(self._service)
        return {"host": host, "port": port}


class Rests:
    """How long to wait before the next attempt: nothing after a success, longer after each failure."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.failures = 0
        self.until = 0.0

    def left(self, now: float) -> float:
        return self.until - now if self.failures else 0.0

    def failed(self, now: float) -> None:
        longest = min(LONGEST_REST, FIRST_REST * 2.0 ** min(self.failures, 16))
        self.until = now + self._rng.uniform(longest / 2, longest)
        self.failures += 1

    def succeeded(self) -> None:
        self.failures = 0


class _Sentinels(Sentinel):
    """Asks all of them at once. The first that answers may be one that was cut off together with an old master."""

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        asked = [self._ask(each, service_name) for each in self.sentinels]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        known = [answer for answer in answers if isinstance(answer, tuple)]
        if not known:
            raise MasterNotFoundError("no sentinel knows a master that is alive")
        return max(known, key=lambda answer: answer[0])[1]

    async def _ask(self, sentinel: Any, service_name: str) -> tuple[int, tuple[str, int]] | None:
        """How late it was decided who is the master, and who is. While the others are still told to follow the next
        one, what a sentinel says of the master is said of the old one; where the master is, it knows already."""
        state = (await sentinel.sentinel_masters()).get(service_name)
        if state is None:
            return None
        where: tuple[str, int] = await sentinel.sentinel_get_master_addr_by_name(service_name)
        alive = where != (state["ip"], state["port"]) or self.check_master_state(state, service_name)
        return (state["config-epoch"], where) if alive else None


def _connection(options: dict[str, Any]) -> Any:
    return ConnectionPool(**options).make_connection()  # type: ignore[no-untyped-call]


async def _connected(options: dict[str, Any]) -> Any:
    connection = _connection(options)
    async with _closed_if_it_fails(connection):
        await connection.connect()
    return connection


@contextlib.asynccontextmanager
async def _closed_if_it_fails(connection: Any) -> AsyncIterator[None]:
    try:
        yield
    except BaseException as error:
        await connection.disconnect(nowait=True)
        if isinstance(error, RuntimeError):  # so says uvloop of a transport that was lost in the middle of the greeting
            raise ConnectionResetError("the connection was lost") from error
        raise


async def _check_master(connection: Any) -> None:
    """Raises `ReadOnlyError` if that is a replica, as the old master is that sentinels still named."""
    try:
        await connection.send_command("ROLE")
        role = await connection.read_response()
    except ResponseError:
        return  # it does not let us ask; a write will show
    if role[0] != b"master":
        raise ReadOnlyError("a replica")
