"""The demo's sign-in: a name, no password, a short-lived signed token. The page says so too."""

from __future__ import annotations

import secrets
import time

import jwt
from fastapi import HTTPException, Request

from websocket_core.auth import AuthenticationFailed, AuthRequest, JWTAuthenticator
from websocket_core.identity import UserId

_ALGORITHM = "HS256"


class Sessions:
    """Signs and checks tokens. The key is random and dies with the process, unless several processes share one.

    `authenticate` is what the live route checks tokens with; `user` checks the other routes' with the same.
    """

    def __init__(self, *, lifetime: int = 3600, key: str | None = None) -> None:
        self.lifetime = lifetime
        self._key = key or secrets.token_urlsafe(48)
        self.authenticate = JWTAuthenticator(self._key, algorithms=[_ALGORITHM])

    def token(self, user: UserId) -> str:
        """A token for that user, good for `lifetime` seconds. Whoever asks for a name gets it."""
        now = int(time.time())
        claims = {"sub": user, "iat": now, "exp": now + self.lifetime, "jti": secrets.token_urlsafe(12)}
        return jwt.encode(claims, self._key, algorithm=_ALGORITHM)

    async def user(self, request: Request) -> UserId:
        """The user whose token a request carries (a FastAPI dependency); 401 without a good one."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        try:
            if scheme.lower() != "bearer":
                raise AuthenticationFailed("sign in first, then send the token as `Authorization: Bearer`")
            return UserId((await self.authenticate(AuthRequest(token=token.strip()))).user_id)
        except AuthenticationFailed as error:
            raise HTTPException(401, str(error), headers={"WWW-Authenticate": "Bearer"}) from error
