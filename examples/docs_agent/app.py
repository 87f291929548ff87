"""The demo application: a page, a sign-in without passwords, one agent, and the SDK's live route under `/live`."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field

from bridge import AgentWebSocketBridge, UserExecutionContext
from examples.docs_agent.agent import Librarian, Pace
from examples.docs_agent.library import DocumentNotFound, Library
from examples.docs_agent.runs import Runs, TooManyRuns
from examples.docs_agent.session import Sessions
from examples.docs_agent.web import SecurityHeaders, read_body
from websocket_core import UnifiedWebSocketManager
from websocket_core.errors import InvalidUserId
from websocket_core.identity import UserId, checked_user_id
from websocket_core.router import metrics_router, websocket_router

REPOSITORY = Path(__file__).resolve().parents[2]
STATIC = Path(__file__).resolve().parent / "static"
THREAD = "documentation"


def told_to_users(error: BaseException) -> str:
    """The text of the one error that is written for them; of any other the type alone, as its text may hold secrets."""
    return str(error) if isinstance(error, DocumentNotFound) else type(error).__name__


class SignIn(BaseModel):
    """The body of `POST /session`."""

    model_config = ConfigDict(extra="forbid", strict=True)
    user: str


class Question(BaseModel):
    """The body of `POST /runs`."""

    model_config = ConfigDict(extra="forbid", strict=True, str_strip_whitespace=True)
    question: str = Field(min_length=1, max_length=300)


def create_app(
    *,
    manager: UnifiedWebSocketManager | None = None,
    documentation: Path = REPOSITORY,
    pace: Pace | None = None,
    sessions: Sessions | None = None,
) -> FastAPI:
    """The application: by default its own manager in memory, its own signing key, and this repository's documents."""
    manager = manager or UnifiedWebSocketManager()
    sessions = sessions or Sessions()
    librarian = Librarian(Library.load(documentation), pace)
    runs = Runs()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Runs inside, so that at shutdown they are cancelled, and have said so, before the manager goes.
        async with manager.lifespan(app), runs:
            yield

    app = FastAPI(title="Unified WebSocket demo", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(SecurityHeaders)
    app.include_router(websocket_router(manager, authenticate=sessions.authenticate), prefix="/live")
    app.include_router(metrics_router())
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/")
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", media_type="text/html; charset=utf-8")

    @app.post("/session")
    async def sign_in(request: Request) -> dict[str, str | int]:
        body = await read_body(request, SignIn)
        try:
            user = checked_user_id(body.user)
        except InvalidUserId as error:
            raise HTTPException(400, str(error)) from error
        return {"token": sessions.token(user), "user": user, "expires_in": sessions.lifetime}

    @app.post("/runs", status_code=202)
    async def ask(request: Request, user: UserId = Depends(sessions.user)) -> dict[str, str]:
        question = (await read_body(request, Question)).question
        run_id = uuid.uuid4().hex

        async def answered() -> None:
            context = UserExecutionContext(user_id=user, run_id=run_id, thread_id=THREAD)
            bridge = AgentWebSocketBridge(manager, context, describe_error=told_to_users)
            await librarian.answer(bridge, question)

        try:
            runs.start(user, answered)
        except TooManyRuns as error:
            detail = "that is as many runs as the demo allows at once; wait for one to end, or stop one"
            raise HTTPException(429, detail, headers={"Retry-After": "5"}) from error
        return {"run_id": run_id}

    return app
