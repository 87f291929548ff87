"""`POST /ticket`: a page with the application's own authentication gets a ticket for one connection."""

from __future__ import annotations

import logging
import math
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from websocket_core.admission import Refusal, network_of
from websocket_core.authorization import Verb
from websocket_core.errors import AuthenticationFailed, AuthenticationUnavailable, InvalidInput, LogUnavailable
from websocket_core.identity import UserId
from websocket_core.tickets import TICKET_SECONDS
from websocket_core.transports.entrance import Entrance, host_of
from websocket_core.unified_manager import UnifiedWebSocketManager
from websocket_core.wire import CloseCode

logger = logging.getLogger(__name__)

NO_STORE: Final = {"Cache-Control": "no-store", "Vary": "Authorization, Cookie, Origin"}


class TicketEndpoint:
    """The ASGI application behind `POST /ticket`. Reads nothing of the body."""

    def __init__(self, manager: UnifiedWebSocketManager, entrance: Entrance) -> None:
        self._manager = manager
        self._entrance = entrance

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._answer(Request(scope))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> JSONResponse:
        scope = request.scope
        if request.method != "POST":
            return _refused(405, "invalid", "a ticket is asked for with POST", {"Allow": "POST"})
        if not self._entrance.allows_origin(scope):
            return _refused(403, "forbidden", "this origin may not ask for tickets")
        admitted = self._manager.admission.enter(network_of(host_of(scope)))
        if isinstance(admitted, Refusal):
            code = "limit" if admitted.status == 429 else "unavailable"
            again = {"Retry-After": str(math.ceil(admitted.retry_after))}
            return _refused(admitted.status, code, "too many at once; come again later", again)
        try:
            if self._manager.draining:
                return _refused(503, "unavailable", "the server is about to stop", {"Retry-After": "1"})
            return await self._issue(scope)
        finally:
            admitted.leave()

    async def _issue(self, scope: Scope) -> JSONResponse:
        try:
            request = self._entrance.request(scope)
            principal = await self._entrance.principal(request)
            user_id = UserId(principal.user_id)
            refusal = await self._manager.authorization.refusal(principal, Verb.TICKET, user_id)
            if refusal is CloseCode.REVOKED:
                raise AuthenticationFailed("the credential was revoked")
            if refusal is not None:
                return _refused(403, "forbidden", "no ticket for this credential")
            ticket = await self._entrance.tickets.issue(principal, origin=request.origin)
        except (LogUnavailable, AuthenticationUnavailable):
            return _refused(503, "unavailable", "no ticket can be issued now", {"Retry-After": "1"})
        except AuthenticationFailed:
            return _refused(401, "unauthenticated", "not authenticated", {"WWW-Authenticate": "Bearer"})
        except InvalidInput as error:
            logger.warning("a ticket could not be issued: %s", error)
            return _refused(400, "invalid", "no ticket can be issued for this request")
        except Exception:
            logger.exception("a ticket could not be issued")
            return _refused(500, "internal", "the request failed")
        return JSONResponse({"ticket": ticket, "expires_in": int(TICKET_SECONDS)}, headers=NO_STORE)


def _refused(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The `error` frame as an HTTP answer."""
    body = {"type": "error", "code": code, "message": message}
    return JSONResponse(body, status_code=status, headers={**NO_STORE, **(headers or {})})
