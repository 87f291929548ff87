"""Promise: a server process that is killed is a blink. The page goes on at the cursor, on another process."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import expect

from tests.browser.conftest import OpenTab
from tests.browser.serving import REPOSITORY
from tests.listening import free_port
from tests.redis.marks import NEEDS_REDIS

pytestmark = [
    pytest.mark.browser,
    pytest.mark.asyncio(loop_scope="session"),
    *NEEDS_REDIS,
]

QUESTION = "How does a client resume after a cut?"


@pytest_asyncio.fixture(loop_scope="session")
async def fleet() -> AsyncIterator[str]:
    """`make demo-fleet`; its address."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "examples.fleet", "--port", str(port), cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20.0):
            assert b"open http://" in await process.stdout.readline()
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20.0):
            await process.communicate()


async def test_killing_the_process_that_serves_a_pane_shows_nothing_but_a_blink(fleet: str, open_tab: OpenTab) -> None:
    tab = await open_tab(f"{fleet}/?left=alice&right=bob")
    left, right = tab.pane("left"), tab.pane("right")
    for pane in (left, right):
        await pane.has_state("live")
        await expect(pane.part("served-by")).to_contain_text("server-")
    tab.allow("WebSocket connection to|net::ERR_")  # of what was on its way from a process that was killed
    await left.ask(QUESTION)
    await right.ask(QUESTION)
    await left.answer_grows_beyond(40)
    await left.part("kill").click()
    await left.has_run("success")
    await right.has_run("success")
    await left.has_state("live")
    sockets = [handled for handled in await tab.handled() if handled[0]["user_id"] == "alice"]
    assert [handled[0]["resumed"] for handled in sockets[:2]] == [False, True]
    assert not any(frame["type"] == "gap" for handled in sockets for frame in handled)
    ids = [frame["id"] for handled in sockets for frame in handled if "cursor" in frame and "id" in frame]
    assert len(ids) == len(set(ids)), "the server sent nothing twice"
    await expect(left.part("ledger")).to_contain_text("no gaps")
    answer = await left.answer()
    assert answer
    assert answer == await right.answer(), "both were answered alike, one across two processes"
