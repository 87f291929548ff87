"""What an application mounts: the routes of a manager, its health, and the metrics."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.routing import WebSocketRoute

from websocket_core.auth import Authenticator
from websocket_core.metrics import process_metrics
from websocket_core.transports.websocket import WebSocketEndpoint
from websocket_core.unified_manager import UnifiedWebSocketManager


def websocket_router(
    manager: UnifiedWebSocketManager,
    *,
    authenticate: Authenticator,
    origins: Sequence[str] | None = None,
    query_token: bool = False,
) -> APIRouter:
    """A router with `GET /ws`, to be included under a prefix of the application's choice.

    `origins` is the exact list of origins (`https://app.example`) whose pages may connect; without it only pages of
    the server's own origin may. `query_token` accepts `?token=`, which ends up in access logs: leave it off where a
    header or a first frame will do. Raises `InvalidInput` for something that is no origin.
    """
    router = APIRouter()
    endpoint = WebSocketEndpoint(
        manager,
        authenticate=authenticate,
        origins=None if origins is None else list(origins),
        query_token=query_token,
    )
    # An object and not a function: Starlette then leaves the ASGI triple to it.
    router.routes.append(WebSocketRoute("/ws", endpoint, name="unified_websocket"))
    return router


def health_router(manager: UnifiedWebSocketManager) -> APIRouter:
    """A router with `GET /livez`, 200 while the event loop turns, and `GET /readyz`, 503 once `manager` is draining or
    shut down, so that a load balancer sends nobody new while the last clients are sent away."""
    router = APIRouter()

    @router.get("/livez", include_in_schema=False)
    async def livez() -> Response:
        return Response("ok\n", media_type="text/plain")

    @router.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        if manager.draining:
            return Response("draining\n", status_code=503, media_type="text/plain")
        return Response("ok\n", media_type="text/plain")

    return router


def metrics_router(path: str = "/metrics") -> APIRouter:
    """A router with the Prometheus metrics of this process: ours, and all of prometheus-client's default registry."""
    process_metrics()
    router = APIRouter()

    @router.get(path, include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return router
