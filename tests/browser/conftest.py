"""One Chromium for all tests of this directory; for each test its own server, and tabs that are checked at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright

from examples.docs_agent.agent import Pace
from tests.browser.chromium import FLAGS, chromium
from tests.browser.documents import write_documents
from tests.browser.serving import QUICK, REPOSITORY, Demo, DemoProcess
from tests.browser.tabs import Tab

SCREENSHOTS = REPOSITORY / "build" / "screenshots"


class StartDemo(Protocol):
    """Starts a server that lasts until the tabs of the test were checked."""

    async def __call__(self, pace: Pace = QUICK, **settings: Any) -> Demo: ...


class OpenTab(Protocol):
    """Opens an address in a tab of a context of its own, with these settings of Playwright's."""

    async def __call__(self, address: str, *, recorded: bool = True, **settings: Any) -> Tab: ...


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def browser() -> AsyncIterator[Browser]:
    program = chromium()
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield running
        await running.close()


@pytest.fixture(scope="session")
def documentation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_documents(tmp_path_factory.mktemp("documentation"))


@pytest_asyncio.fixture(loop_scope="session")
async def start_demo(documentation: Path) -> AsyncIterator[StartDemo]:
    async with AsyncExitStack() as running:

        async def starting(pace: Pace = QUICK, **settings: Any) -> Demo:
            return await running.enter_async_context(Demo(documentation, pace, **settings))

        yield starting


@pytest_asyncio.fixture(loop_scope="session")
async def demo_process(documentation: Path) -> AsyncIterator[DemoProcess]:
    async with DemoProcess(documentation) as process:
        yield process


@pytest_asyncio.fixture(loop_scope="session")
async def open_tab(browser: Browser, start_demo: StartDemo) -> AsyncIterator[OpenTab]:
    # Torn down before the server, whose going would make every page complain.
    tabs: list[Tab] = []

    async def opening(address: str, *, recorded: bool = True, **settings: Any) -> Tab:
        # Tabs that share a context share a window, where one that is not in front draws once a second.
        context = await browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
        tabs.append(await Tab.open(context, address, recorded=recorded))
        return tabs[-1]

    yield opening
    for tab in tabs:
        await tab.check()
    for tab in tabs:
        await tab.page.context.close()


@pytest.fixture(scope="session")
def screenshot() -> Callable[[Tab, str], Awaitable[None]]:
    """Keeps a picture of the whole page under `build/screenshots/`, for people to look at."""

    async def taking(tab: Tab, name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        await tab.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True, animations="disabled")

    return taking
