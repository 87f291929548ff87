"""Promise: the page of the tutorial does in a real browser what the tutorial says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.async_api import async_playwright, expect

from tests.browser.chromium import FLAGS, chromium
from tests.docs.serving import Served, served
from tests.docs.test_readme_and_tutorial import TUTORIAL, save

pytestmark = pytest.mark.browser


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("tutorial-page")
    save(TUTORIAL, directory)
    with served(directory, "app") as running:
        yield running


async def test_the_page_is_cut_resumed_stopped_and_told_of_a_gap(server: Served) -> None:
    """Sections 4 to 7, in their order, without an error in the console."""
    errors: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        page = await browser.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.set_default_timeout(10_000)
        state, answer, events = page.locator("#state"), page.locator("#answer"), page.locator("#events li")

        await page.goto(f"http://127.0.0.1:{server.port}/")
        await expect(state).to_have_text("alice: connected")

        await page.click("#ask")
        await expect(answer).to_contain_text("Your question has 3 words.")
        await page.click("#cut")
        await expect(state).to_contain_text("closed")
        await page.click("#resume")
        await expect(state).to_have_text("alice: resumed")
        await expect(events.last).to_contain_text("agent_completed", timeout=15_000)
        await expect(answer).to_have_text("Your question has 3 words. I counted each of them with care.")
        kinds = [text.split()[0] for text in await events.all_inner_texts()]
        assert kinds == ["agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed"]

        bob = await browser.new_page()
        bob.on("pageerror", lambda error: errors.append(str(error)))
        await bob.goto(f"http://127.0.0.1:{server.port}/?user=bob")
        await expect(bob.locator("#state")).to_have_text("bob: connected")

        late = await browser.new_page()
        await late.goto(f"http://127.0.0.1:{server.port}/")
        await expect(late.locator("#events li")).to_have_count(5)

        await page.click("#ask")
        await expect(answer).to_contain_text("Your question")
        await page.click("#stop")
        await expect(events.last).to_contain_text('"status":"cancelled"')
        assert await bob.locator("#events li").count() == 0

        # What a restart of the server does to a cursor: it is of another epoch.
        await page.click("#cut")
        await expect(state).to_contain_text("closed")
        await page.evaluate("cursor = 'another.1.life'")
        await page.click("#resume")
        await expect(state).to_have_text("gap (new_epoch): here is everything that is still held")
        await expect(events.last).to_contain_text('"status":"cancelled"')
        await browser.close()
    assert errors == []
