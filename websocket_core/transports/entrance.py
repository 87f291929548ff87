"""What every transport asks before it does anything else: where a request comes from, and what it says who it is."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, MutableMapping
from typing import Any, Final
from urllib.parse import parse_qsl

from websocket_core.auth import Authenticator, AuthRequest
from websocket_core.errors import AuthenticationFailed, AuthenticationUnavailable, InvalidInput, LogUnavailable
from websocket_core.identity import Principal
from websocket_core.tickets import Tickets
from websocket_core.unified_manager import UnifiedWebSocketManager

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]

QUERY_FIELDS: Final = 64
"""More than so many in a query string are refused."""

_ORIGIN: Final = re.compile(
    r"(https?)://(\[[0-9a-f:.]+\]|[^\s\x00-\x20/?#@\\:\[\]*]+)(?::([0-9]{1,5}))?\Z", re.ASCII | re.I
)
_ESCAPED: Final = re.compile(r"\\(?:([0-3][0-7]{2})|(.))", re.DOTALL)


class Entrance:
    """The way in, alike for every transport of one router.

    `origins` is the exact list of origins whose pages may come in; None allows those of the server's own. Cookies are
    shown to the authenticator only if there is a list. Raises `InvalidInput` for something that is no origin, of which
    `*` is one: whoever may read the events of the user that a browser is logged in as has to be named.
    """

    def __init__(
        self,
        manager: UnifiedWebSocketManager,
        *,
        authenticate: Authenticator,
        origins: Iterable[str] | None = None,
        query_token: bool = False,
    ) -> None:
        self._manager = manager
        self._authenticate = authenticate
        self._origins = None if origins is None else frozenset(map(_origin, origins))
        self._query_token = query_token
        self.tickets = Tickets(manager)

    @property
    def listed_origins(self) -> list[str] | None:
        """The origins of the list as browsers write them."""
        if self._origins is None:
            return None
        usual = {("http", 80), ("https", 443)}
        return sorted(
            f"{scheme}://{host}{'' if (scheme, port) in usual else f':{port}'}" for scheme, host, port in self._origins
        )

    def allows_origin(self, scope: Scope) -> bool:
        """Programs send no origin. A browser's must be on the list; without a list it must be the server's own."""
        origin = host = None
        for name, value in scope["headers"]:
            if name == b"origin":
                origin = value.decode("latin-1")
            elif name == b"host":
                host = value.decode("latin-1")
        if origin is None:
            return True
        try:
            named = _origin(origin)
            if self._origins is not None:
                return named in self._origins
            scheme = "https" if scope.get("scheme") in ("wss", "https") else "http"
            return named == _origin(f"{scheme}://{host or ''}")
        except InvalidInput:
            return False

    def request(self, scope: Scope, token: str | None = None) -> AuthRequest:
        """What an authenticator may look at. Raises `InvalidInput` for a query string that is none."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        text = scope.get("query_string", b"").decode("latin-1")
        try:
            query = dict(parse_qsl(text, keep_blank_values=True, max_num_fields=QUERY_FIELDS))
        except ValueError:
            raise InvalidInput("the query string has too many fields") from None
        return AuthRequest(
            headers=headers,
            query=query,
            cookies={} if self._origins is None else _cookies(headers.get("cookie", "")),
            client=tuple(scope["client"]) if scope.get("client") else None,
            origin=headers.get("origin"),
            token=token or _bearer(headers) or (query.get("token") if self._query_token else None),
        )

    async def principal(self, request: AuthRequest, ticket: str | None = None) -> Principal:
        """Who it is: by the ticket if there is one, else by the application's authenticator.

        Raises `AuthenticationFailed`, also for a principal whose time is up, `AuthenticationUnavailable`,
        `LogUnavailable`, and whatever an authenticator raises that breaks its contract.
        """
        if self._manager.availability.degraded:  # whoever it is, nothing can be shown; and the answer is told at once
            raise LogUnavailable("the log is away")
        if ticket is not None:
            principal = await self.tickets.spend(ticket, origin=request.origin)
        else:
            try:
                principal = await self._authenticate(request)
            except OSError as error:  # of a database, say; it must not pass for a client that has left
                logger.exception("the authenticator could not reach what it needs")
                raise AuthenticationUnavailable("the authenticator could not reach what it needs") from error
        if principal.expires_at is not None and self._manager.now() >= principal.expires_at:
            raise AuthenticationFailed("the token has expired")
        return principal


def host_of(scope: Scope) -> str | None:
    """The address of the client, where the server knows it."""
    client = scope.get("client")
    return client[0] if client else None


def _bearer(headers: dict[str, str]) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _cookies(header: str) -> dict[str, str]:
    """The cookies by name. In time that grows with the length of the header, which `http.cookies` does not promise:
    before Python 3.11.10 and 3.12.6, the backslashes that fit into one header held up everybody for seconds."""
    cookies = {}
    for part in header.split(";"):
        name, equals, value = (text.strip() for text in part.partition("="))
        if name and equals:
            quoted = len(value) > 1 and value[0] == value[-1] == '"'
            cookies[name] = _ESCAPED.sub(_unescaped, value[1:-1]) if quoted else value
    return cookies


def _unescaped(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 8)) if escape[1] else escape[2]


def _origin(text: str) -> tuple[str, str, int]:
    """Scheme, host and port of an origin. Raises `InvalidInput` if it is none."""
    if text == "*":
        raise InvalidInput("* is not an origin: name each origin whose pages may read a user's events")
    parts = _ORIGIN.match(text)
    if parts is None:
        raise InvalidInput("an origin is scheme://host[:port], and nothing else")
    scheme, host, port = parts[1].lower(), parts[2].lower(), parts[3]
    return scheme, host, int(port) if port else {"http": 80, "https": 443}[scheme]
