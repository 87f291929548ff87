"""The demo application: a page, a sign-in without passwords, one agent, and the SDK's live route under `/live`."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request
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

Ask = Callable[[UserId, str], Awaitable[str]]
"""Has a question answered and returns the id of the run. Raises `TooManyRuns`."""


def told_to_users(error: BaseException) -> str:
    """The text of the one error that is written for them; of any other the type alone, as its text may hold secrets."""
    return str(error) if isinstance(error, DocumentNotFound) else type(error).__name__


class SignIn(BaseModel):
    """The body of `POST /session`."""

    model_config = ConfigDict(extra="forbid", strict=True)
    user: str


class Victim(BaseModel):
    """The body of `POST /kill`."""

    model_config = ConfigDict(extra="forbid", strict=True)
    process: str = Field(max_length=64)


class Question(BaseModel):
    """The body of `POST /runs`."""

    model_config = ConfigDict(extra="forbid", strict=True, str_strip_whitespace=True)
    question: str = Field(min_length=1, max_length=300)


async def answer_question(
    manager: UnifiedWebSocketManager, librarian: Librarian, user: str, run_id: str, question: str
) -> None:
    """One run, told to that user."""
    context = UserExecutionContext(user_id=user, run_id=run_id, thread_id=THREAD)
    await librarian.answer(AgentWebSocketBridge(manager, context, describe_error=told_to_users), question)


def create_app(
    *,
    manager: UnifiedWebSocketManager | None = None,
    documentation: Path = REPOSITORY,
    pace: Pace | None = None,
    sessions: Sessions | None = None,
    ask: Ask | None = None,
    kill: Callable[[str], None] | None = None,
) -> FastAPI:
    """The application: by default its own manager in memory, its own signing key, and this repository's documents.

    Where several processes serve it, `ask` gives questions to those that work, and `kill` ends the process so named.
    """
    manager = manager or UnifiedWebSocketManager()
    sessions = sessions or Sessions()
    librarian = Librarian(Library.load(documentation), pace)
    runs = Runs()

    async def answer_here(user: UserId, question: str) -> str:
        run_id = uuid.uuid4().hex
        runs.start(user, lambda: answer_question(manager, librarian, user, run_id, question))
        return run_id

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
    async def asked(request: Request, user: UserId = Depends(sessions.user)) -> dict[str, str]:
        question = (await read_body(request, Question)).question
        try:
            return {"run_id": await (ask or answer_here)(user, question)}
        except TooManyRuns as error:
            detail = "that is as many runs as the demo allows at once; wait for one to end, or stop one"
            raise HTTPException(429, detail, headers={"Retry-After": "5"}) from error

    if kill is not None:

        @app.post("/kill", status_code=202)
        async def end_process(
            request: Request, after: BackgroundTasks, _user: UserId = Depends(sessions.user)
        ) -> dict[str, str]:
            victim = (await read_body(request, Victim)).process
            after.add_task(kill, victim)  # with the answer on its way: it may be the process that answers
            return {"process": victim}

    return app
