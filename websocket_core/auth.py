"""Who is at the other end: `authenticate(request) -> Principal`, and the authenticators that come with the SDK."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import jwt
from jwt import PyJWKClient, PyJWKClientConnectionError

from websocket_core.errors import (
    AuthenticationFailed,
    AuthenticationUnavailable,
    InvalidConfiguration,
    InvalidUserId,
)
from websocket_core.identity import Principal

__all__ = [
    "AuthRequest", "AuthenticationFailed", "AuthenticationUnavailable", "Authenticator", "DevelopmentAuthenticator",
    "JWTAuthenticator",
]  # fmt: skip

logger = logging.getLogger(__name__)

TOKEN_CHARACTERS: Final = 16_384


@dataclass(frozen=True, slots=True)
class AuthRequest:
    """What an authenticator may look at. Header names are lower-case; `token` is the bearer token, wherever it came."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    cookies: Mapping[str, str] = field(default_factory=dict, repr=False)
    client: tuple[str, int] | None = None
    origin: str | None = None
    token: str | None = field(default=None, repr=False)


Authenticator = Callable[[AuthRequest], Awaitable[Principal]]
"""Any `async def (request) -> Principal` that raises `AuthenticationFailed`, or, when it cannot tell now,
`AuthenticationUnavailable`; an `OSError` counts as that."""

_SYMMETRIC: Final = frozenset({"HS256", "HS384", "HS512"})
_ASYMMETRIC: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
_SYMMETRIC_KEY_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}


class JWTAuthenticator:
    """Verifies a JSON Web Token with PyJWT; `sub` is the user id.

    `algorithms` is an explicit list of one family, symmetric or asymmetric. `exp` and `sub` are required, `aud` and
    `iss` when `audience` and `issuer` are given. With `jwks_url` keys come from that address only. Headers of a token
    choose among the keys of the configuration and nothing else: no key and no address in them is ever used.

    A principal expires `leeway` seconds after `exp`: that is how long the token is accepted.

    Raises `InvalidConfiguration` for a key that is missing, short, private or not of the algorithms, an unknown
    algorithm or mixed families.
    """

    def __init__(
        self,
        key: str | bytes | None = None,
        *,
        jwks_url: str | None = None,
        algorithms: Iterable[str],
        audience: str | Iterable[str] | None = None,
        issuer: str | None = None,
        leeway: float = 0.0,
    ) -> None:
        if isinstance(algorithms, str):
            raise InvalidConfiguration("algorithms is a list, such as ['HS256']")
        self._algorithms = list(algorithms)
        named = set(self._algorithms)
        if not named or not named <= _SYMMETRIC | _ASYMMETRIC:
            known = ", ".join(sorted(_SYMMETRIC | _ASYMMETRIC))
            raise InvalidConfiguration(f"algorithms must name at least one of {known}, and nothing else")
        if named & _SYMMETRIC and named & _ASYMMETRIC:
            raise InvalidConfiguration("algorithms must be symmetric or asymmetric, not both")
        if (key is None) == (jwks_url is None):
            raise InvalidConfiguration("give either key or jwks_url")
        if jwks_url is not None and named & _SYMMETRIC:
            raise InvalidConfiguration("keys from jwks_url are asymmetric; use such algorithms")
        if key is not None:
            _check_key(key, named)
        if jwks_url is not None and urlsplit(jwks_url).scheme not in ("http", "https"):
            raise InvalidConfiguration("jwks_url is an http or https address")
        if not (isinstance(leeway, (int, float)) and 0 <= leeway <= 300):
            raise InvalidConfiguration("leeway is 0 to 300 seconds")
        self._key = key
        # Without the client's cache of single keys, which would trust a key for ever after it was withdrawn.
        self._jwks = None if jwks_url is None else PyJWKClient(jwks_url, lifespan=300, timeout=5)
        self._audience = audience if audience is None or isinstance(audience, str) else list(audience)
        self._issuer = issuer
        self._leeway = leeway
        required = ["exp", "sub"]
        required += ["aud"] if audience is not None else []
        required += ["iss"] if issuer is not None else []
        self._required = required

    async def __call__(self, request: AuthRequest) -> Principal:
        """The principal of the request's bearer token. Raises `AuthenticationFailed`, without a reason that helps a
        forger; the reason is logged at DEBUG, without the token. Raises `AuthenticationUnavailable` while the key set
        cannot be fetched."""
        token = request.token
        if not token:
            raise AuthenticationFailed("no token was sent")
        if len(token) > TOKEN_CHARACTERS:
            raise AuthenticationFailed("the token was not accepted")
        try:
            claims = self._decode(token, await self._verification_key(token))
            expires_at = float(claims["exp"]) + self._leeway
            if not math.isfinite(expires_at):
                raise ValueError("exp is not finite")
            token_id = claims.get("jti")
            return Principal(
                user_id=claims["sub"],
                expires_at=expires_at,
                token_id=token_id if isinstance(token_id, str) else None,
                claims=claims,
            )
        except PyJWKClientConnectionError as error:
            logger.warning("the key set could not be fetched", extra={"error": type(error.__cause__).__name__})
            raise AuthenticationUnavailable("the keys that tokens are verified with cannot be had now") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, OSError, RecursionError) as error:
            logger.debug("a token was not accepted", extra={"error": type(error).__name__})
            raise AuthenticationFailed("the token was not accepted") from None

    async def _verification_key(self, token: str) -> Any:
        if self._jwks is None:
            return self._key
        import asyncio

        # PyJWKClient fetches with a blocking call, at most when a key id is new or the cache is old.
        return (await asyncio.to_thread(self._jwks.get_signing_key_from_jwt, token)).key

    def _decode(self, token: str, key: Any) -> dict[str, Any]:
        return jwt.decode(
            token,
            key,
            algorithms=self._algorithms,
            audience=self._audience,
            issuer=self._issuer,
            leeway=self._leeway,
            options={
                "require": self._required,
                "verify_aud": self._audience is not None,
                "enforce_minimum_key_length": True,
            },
        )


def _check_key(key: str | bytes, algorithms: set[str]) -> None:
    """Refuse a key that can verify nothing, or that should not be here."""
    if not isinstance(key, (str, bytes)):
        raise InvalidConfiguration(f"the key is a str or bytes, not {type(key).__name__}")
    if algorithms & _SYMMETRIC:
        secret = key.encode() if isinstance(key, str) else key
        wanted = max(_SYMMETRIC_KEY_BYTES[name] for name in algorithms)
        if len(secret) < wanted:
            raise InvalidConfiguration(f"the key has {len(secret)} bytes; these algorithms need at least {wanted}")
        if secret.lstrip().startswith((b"-----BEGIN", b"ssh-", b"ecdsa-")):
            raise InvalidConfiguration("the key is a public or private key; it is no secret for HS algorithms")
        return
    for name in sorted(algorithms):
        algorithm = jwt.get_algorithm_by_name(name)
        try:
            prepared = algorithm.prepare_key(key)
        except (jwt.PyJWTError, ValueError, TypeError):
            raise InvalidConfiguration(f"the key is no public key for {name}") from None
        if hasattr(prepared, "public_key"):
            raise InvalidConfiguration("the key is a private key; tokens are verified with the public one")
        if fault := algorithm.check_key_length(prepared):
            raise InvalidConfiguration(fault)


class DevelopmentAuthenticator:
    """Believes everybody: the token is the user id. FOR DEVELOPMENT ONLY.

    Whoever can reach the server can be anybody. It says so with a warning when it is made, and refuses to be made
    without `i_know_that_anybody_can_be_anybody=True`.
    """

    def __init__(self, *, i_know_that_anybody_can_be_anybody: bool = False) -> None:
        if not i_know_that_anybody_can_be_anybody:
            raise InvalidConfiguration(
                "DevelopmentAuthenticator checks nothing; pass i_know_that_anybody_can_be_anybody=True, "
                "or use JWTAuthenticator"
            )
        logger.warning("DevelopmentAuthenticator is in use: it checks nothing, and anybody can be anybody")

    async def __call__(self, request: AuthRequest) -> Principal:
        """The user that the token names. Raises `AuthenticationFailed` if there is none."""
        if not request.token:
            raise AuthenticationFailed("no token was sent; any user id will do")
        try:
            return Principal(request.token)
        except InvalidUserId:
            raise AuthenticationFailed("the token is not a user id") from None
