"""A server process of the fleet: the application that `python -m websocket_core serve tests.redis.fleet.node:create
--factory` serves, with an emitter inside if there is work for one."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncIterator
from typing import Final

import jwt
from fastapi import FastAPI

from tests.redis.fleet.emitter import Emitting, Work
from websocket_core.auth import JWTAuthenticator
from websocket_core.router import metrics_router, websocket_router

VARIABLE: Final = "UNIFIED_WEBSOCKET_FLEET"
SECRET: Final = "a secret that all servers of the fleet share"


def token(user: str) -> str:
    return jwt.encode({"sub": user, "exp": int(time.time()) + 3_600}, SECRET, algorithm="HS256")


def create() -> FastAPI:
    work = Work.from_json(os.environ[VARIABLE])
    manager = work.manager()
    emitting: list[Emitting] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with manager.lifespan(app):
            if work.journal:
                emitting.append(Emitting(manager.get_emitter, work))
            yield

    app = FastAPI(lifespan=lifespan)
    app.include_router(
        websocket_router(manager, authenticate=JWTAuthenticator(SECRET, algorithms=["HS256"])), prefix="/live"
    )
    app.include_router(metrics_router())

    @app.post("/halt")
    async def halt() -> None:
        """Emit nothing more; answers when all that was begun is acknowledged."""
        while emitting:
            await emitting.pop().stop()

    return app
