"""No log line, close reason or error text carries a token, a cursor or a payload, at whatever level one logs."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import httpx
import pytest

from tests.integration.conftest import Serve
from tests.integration.support import CANARY, bearer, token
from tests.support import until
from websocket_core import Limits
from websocket_core.errors import InvalidEvent


def everything_logged(records: list[logging.LogRecord]) -> str:
    """Messages, arguments, extra fields and tracebacks of what the SDK and the server say."""
    formatter = logging.Formatter()
    parts = []
    for record in records:
        if record.name.split(".")[0] in ("websocket_core", "bridge", "uvicorn", "starlette", "fastapi", "root"):
            parts.append(formatter.format(record))
            parts.append(repr({name: value for name, value in vars(record).items() if name != "args"}))
            parts.append(repr(record.args))
    return "\n".join(parts)


async def test_logs_at_the_lowest_level_carry_no_secret(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    async def crash(_peer: Any, _frame: Any) -> None:
        raise ZeroDivisionError

    good, bad = token("alice", claim="claim-canary"), token("alice", key="another secret of thirty-two bytes!")
    cursors: set[str] = set()
    with caplog.at_level(logging.DEBUG):
        for name in ("websocket_core", "bridge"):
            logging.getLogger(name).setLevel(logging.DEBUG)
        limits = Limits(expiry_grace=0.1, sweep_interval=0.05)
        async with serve(limits=limits, query_token=True) as (site, application), httpx.AsyncClient() as http:
            application.manager._handlers["crash"] = crash
            async with site.client(None, headers={"Authorization": f"Bearer {good}"}, v1=True) as client:
                await application.run()
                await client.has(6)
                await client.ask({"type": "crash", "text": CANARY})
                await client.ask({"type": CANARY})
                await client.ask({"type": "auth", "token": good})
                await client.ask({"type": "auth", "token": bad})
                await client.say(f'{{"type": "{CANARY}"')
                await client.gets(lambda: [f for f in client.of_type("error") if f["code"] == "malformed"])
                cursors |= {event["cursor"] for event in client.events}
                await client.cut()
            async with site.client("alice", cursor=client.cursor) as again:
                await again.greeted()
                await again.say(CANARY.encode())
                await again.closed()
            for wrong in (bad, "not.a.token", f"{CANARY}.x.y"):
                async with site.client(None, headers={"Authorization": f"Bearer {wrong}"}) as refused:
                    assert await refused.closed() == 4401
                    assert CANARY not in refused.reason
            async with site.client(None, token=good) as by_query:
                await by_query.greeted()
            async with site.client("alice", cursor=f"{CANARY}.x") as malformed:
                assert await malformed.closed() == 4400
            async with site.client(None, headers=bearer("alice", exp=int(time.time()) + 1)) as expiring:
                await expiring.closed()
            with pytest.raises(InvalidEvent):
                await application.manager.get_emitter("alice").emit("custom", {"x": {CANARY}})
            failing = asyncio.create_task(_failing_run(application))
            await asyncio.wait([failing])
            assert isinstance(failing.exception(), LookupError)
            await until(lambda: application.manager.get_stats()["total_users"] == 1)
            await http.get(f"{site.http}/metrics")
    text = everything_logged(caplog.records)
    assert "ZeroDivisionError" in text, "a crash is logged with its traceback"
    assert text.count("connected") >= 2, "two lines for each connection"
    for secret in (good, bad, good.split(".")[2], bad.split(".")[2], "claim-canary", CANARY, "s3cret-of-the-agent"):
        assert secret not in text
    for cursor in cursors:
        assert cursor not in text
        assert cursor.split(".", 2)[0] not in text, "not even the epoch"


async def _failing_run(application: Any) -> None:
    from bridge import UserExecutionContext

    bridge = application.manager.create_agent_bridge(UserExecutionContext("alice", "r9"))
    async with bridge.run("planner") as run, run.tool("search", query=CANARY):
        raise LookupError("s3cret-of-the-agent")


async def test_user_ids_are_logged_at_debug_only(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        async with serve() as (site, application), site.client("user-canary") as client:
            await application.run("user-canary")
            await client.has(6)
            await client.cut()
    assert "user-canary" not in everything_logged(caplog.records)
