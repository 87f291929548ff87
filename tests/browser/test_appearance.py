"""Promise: the page can be read in light and dark, on a narrow screen, and used from the keyboard alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

import pytest
from playwright.async_api import expect

from examples.docs_agent.agent import Pace
from tests.browser.conftest import OpenTab, StartDemo
from tests.browser.documents import ALICE_ASKS, BOB_ASKS
from tests.browser.serving import SLOW
from tests.browser.tabs import Pane, Tab, script

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

Screenshot = Callable[[Tab, str], Awaitable[None]]

_SCHEMES: tuple[Literal["light"], Literal["dark"]] = ("light", "dark")


async def test_every_state_of_the_page_is_legible_in_light_and_in_dark(
    start_demo: StartDemo, open_tab: OpenTab, screenshot: Screenshot
) -> None:
    demo = await start_demo(SLOW)
    tab = await open_tab(demo.base)
    left, right = tab.pane("left"), tab.pane("right")

    async def look(name: str) -> None:
        for scheme in _SCHEMES:
            await tab.page.emulate_media(color_scheme=scheme)
            paper = await tab.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
            assert (int(paper.removeprefix("rgb(").split(",")[0]) < 64) == (scheme == "dark")
            found = await tab.page.evaluate(script("faint"))
            assert found["seen"] > 5
            assert not found["faint"], found["faint"]
            await screenshot(tab, f"{name}-{scheme}")

    await look("1-signed-out")
    await tab.page.goto(f"{demo.base}/?left=alice&right=bob")
    await left.has_state("live")
    await right.has_state("live")
    await left.ask(ALICE_ASKS)
    await right.ask(BOB_ASKS)
    await right.answer_grows_beyond(20)
    await look("2-running")
    await right.part("stop").click()
    await left.part("cut").click()
    await right.has_run("cancelled")
    await left.has_run("running")
    await look("3-cut-and-stopped")

    demo.hurry()
    await left.part("restore").click()
    await left.has_run("success")
    await right.ask("read missing.md")
    await right.has_run("error")
    await left.part("tool").first.locator("summary").click()
    await right.part("tool").first.locator("summary").click()
    await look("4-done-and-failed")

    for width in (320, 390):
        await tab.page.set_viewport_size({"width": width, "height": 844})
        sticks_out = await tab.page.evaluate(script("sticks_out"))
        assert not sticks_out, f"at {width} pixels: {sticks_out}"
    await look("5-narrow")


async def _tab_to(tab: Tab, name: str, *, side: str = "pane-left", text: str = "", back: bool = False) -> None:
    """Presses Tab, or Shift+Tab, until the focus is there; every stop on the way can be seen and has a ring."""
    passed: list[Any] = []
    for _ in range(60):
        await tab.page.keyboard.press("Shift+Tab" if back else "Tab")
        focus = await tab.page.evaluate(script("focus"))
        passed.append((focus["name"], focus["side"]))
        if focus["name"] == "body":
            continue  # round the end of the page
        assert focus["seen"], f"the focus is out of sight on {focus}"
        assert not focus["covered"], f"something is drawn over the focus on {focus}"
        assert focus["ring"] >= 2, f"the focus cannot be seen on {focus}"
        if focus["name"] == name and focus["side"] == side and text in focus["text"]:
            return
    raise AssertionError(f"{name} in {side} was not reached by keyboard; passed {passed}")


async def _focus_is(tab: Tab, name: str, side: str = "pane-left") -> None:
    focus = await tab.page.evaluate(script("focus"))
    assert (focus["name"], focus["side"]) == (name, side)


async def test_everything_can_be_done_from_the_keyboard(start_demo: StartDemo, open_tab: OpenTab) -> None:
    demo = await start_demo(Pace(word=0.05, step=0.02))
    tab = await open_tab(demo.base)
    keyboard = tab.page.keyboard
    left, right = tab.pane("left"), tab.pane("right")

    for pane, side, user in ((left, "pane-left", "ann"), (right, "pane-right", "ben")):
        await _tab_to(tab, "user", side=side)
        await keyboard.press("Control+A")
        await keyboard.type(user)
        await keyboard.press("Enter")
        await pane.has_state("live")
        await _focus_is(tab, "question", side)
    await keyboard.type("read missing.md")
    await keyboard.press("Enter")
    await right.has_run("error")
    await _focus_is(tab, "question", "pane-right")

    await _tab_to(tab, "question", back=True)
    await keyboard.type(ALICE_ASKS)
    await keyboard.press("Enter")
    await left.answer_grows_beyond(5)
    await expect(left.part("question")).to_have_value("")

    await _tab_to(tab, "cut", back=True)
    await keyboard.press("Space")
    await left.has_state("cut")
    await _focus_is(tab, "restore")
    await keyboard.press("Enter")
    await left.has_state("live")
    await _focus_is(tab, "cut")

    await _tab_to(tab, "stop")
    await left.has_run("running")
    await keyboard.press("Enter")
    await left.has_run("cancelled")
    await _focus_is(tab, "h3")  # and not thrown back to the top of the page

    await _open_a_tool(tab, left)
    await _open_a_second_tab(tab)
    await _tab_to(tab, "sign-out")
    await keyboard.press("Enter")
    await left.has_state("signed-out")
    await _focus_is(tab, "user")
    await right.has_state("live")


async def _open_a_tool(tab: Tab, pane: Pane) -> None:
    await _tab_to(tab, "summary", text="search_documentation")
    result = pane.part("tool").first.locator("pre").last
    await expect(result).not_to_be_visible()
    await tab.page.keyboard.press("Enter")
    await expect(result).to_be_visible()
    await _tab_to(tab, "pre")  # what it holds may be long, and is scrolled from the keyboard
    await _tab_to(tab, "summary", text="search_documentation", back=True)
    await tab.page.keyboard.press("Space")
    await expect(result).not_to_be_visible()


async def _open_a_second_tab(tab: Tab) -> None:
    await _tab_to(tab, "second-tab", text="Open a second tab as ann")
    async with tab.page.context.expect_page() as opening:
        await tab.page.keyboard.press("Enter")
    second = Tab(await opening.value)
    await second.pane().has_run("cancelled")
    await second.check()
    await second.page.close()


async def test_a_screen_reader_is_told_what_happens(start_demo: StartDemo, open_tab: OpenTab) -> None:
    demo = await start_demo()
    tab = await open_tab(f"{demo.base}/?user=alice")
    pane = tab.pane()
    status = pane.root.locator(".spoken[role=status]")
    await expect(status).to_have_text("Live as alice")
    await pane.ask(ALICE_ASKS)
    await expect(status).to_have_text(f"Done: {ALICE_ASKS}")
    await pane.part("cut").click()
    await pane.part("restore").click()
    await expect(status).to_have_text("Live again, from where it was cut")
    await expect(tab.page.get_by_role("region", name="alice")).to_have_count(1)
    await expect(tab.page.get_by_role("textbox", name="Question about the documentation")).to_have_count(1)
    await expect(tab.page.get_by_role("button", name="Cut connection")).to_have_count(1)


async def test_nothing_moves_for_whoever_asked_for_that(start_demo: StartDemo, open_tab: OpenTab) -> None:
    demo = await start_demo(SLOW)
    tab = await open_tab(f"{demo.base}/?user=alice")
    pane = tab.pane()
    await pane.has_state("live")
    await pane.ask(ALICE_ASKS)
    await pane.answer_grows_beyond(5)
    moving = "() => document.getAnimations().filter((one) => one.playState === 'running').length"
    assert await tab.page.evaluate(moving) > 0
    await tab.page.emulate_media(reduced_motion="reduce")
    assert await tab.page.evaluate(moving) == 0
    await pane.has_run("running")
    demo.hurry()
    await pane.has_run("success")
