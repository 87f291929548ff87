"""What an application mounts: the routes of a manager, its health, and the metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp

from websocket_core.auth import Authenticator
from websocket_core.errors import InvalidInput
from websocket_core.metrics import process_metrics
from websocket_core.transports.entrance import Entrance
from websocket_core.transports.ticket import TicketEndpoint
from websocket_core.transports.websocket import WebSocketEndpoint
from websocket_core.unified_manager import UnifiedWebSocketManager


def websocket_router(
    manager: UnifiedWebSocketManager,
    *,
    authenticate: Authenticator,
    origins: Sequence[str] | None = None,
    query_token: bool = False,
) -> APIRouter:
    """A router with `GET /ws` and `POST /ticket`, to be included under a prefix of the application's choice.

    `origins` is the exact list of origins (`https://app.example`) whose pages may connect; without it only pages of
    the server's own origin may. `query_token` accepts `?token=`, which ends up in access logs: leave it off where a
    ticket, a header or a first frame will do. Raises `InvalidInput` for something that is no origin, `*` included.
    """
    if isinstance(origins, str):
        raise InvalidInput("origins is a list, such as ['https://app.example']")
    router = APIRouter()
    entrance = Entrance(manager, authenticate=authenticate, origins=origins, query_token=query_token)
    ticket: ASGIApp = TicketEndpoint(manager, entrance)
    listed = entrance.listed_origins
    if listed is not None:  # pages of other origins may read the answer, and send the cookies and headers it needs
        ticket = CORSMiddleware(
            ticket,
            allow_origins=listed,
            allow_methods=["POST"],
            allow_headers=["Authorization", "Content-Type"],
            allow_credentials=True,
        )
    # Objects and not functions: Starlette then leaves the ASGI triple to them.
    router.routes.append(WebSocketRoute("/ws", WebSocketEndpoint(manager, entrance), name="unified_websocket"))
    router.routes.append(Route("/ticket", ticket, name="unified_websocket_ticket", include_in_schema=False))
    return router


def health_router(manager: UnifiedWebSocketManager) -> APIRouter:
    """A router with `GET /livez`, 200 while the event loop turns, and `GET /readyz`, 503 once `manager` is draining or
    shut down, so that a load balancer sends nobody new while the last clients are sent away.

    While the log is away, `/readyz` says `degraded` with 200: every process sees the same, so a load balancer that took
    them out would take down the whole application for it.
    """
    router = APIRouter()

    @router.get("/livez", include_in_schema=False)
    async def livez() -> Response:
        return Response("ok\n", media_type="text/plain")

    @router.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        if manager.draining:
            return Response("draining\n", status_code=503, media_type="text/plain")
        return Response("degraded\n" if manager.availability.degraded else "ok\n", media_type="text/plain")

    return router


def metrics_router(
    path: str = "/metrics", *, authorize: Callable[[Request], Awaitable[bool]] | None = None
) -> APIRouter:
    """A router with the Prometheus metrics of this process: ours, and all of prometheus-client's default registry.

    No series names a user, but their sums are nobody else's business: mount it where only the scraper comes, or give
    `authorize`, which looks at each request; anything but True is answered with 403.
    """
    process_metrics()
    router = APIRouter()

    @router.get(path, include_in_schema=False)
    async def metrics(request: Request) -> Response:
        if authorize is not None and await authorize(request) is not True:
            return Response("forbidden\n", status_code=403, media_type="text/plain")
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return router
