"""Promise: two users side by side each see their own runs whole, and nothing of the other, not even for a moment."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.async_api import WebSocketRoute, expect

from examples.docs_agent.agent import Pace
from tests.browser.conftest import OpenTab, StartDemo
from tests.browser.documents import ALICE_ALONE, ALICE_ASKS, BOB_ALONE, BOB_ASKS
from tests.browser.serving import SLOW
from tests.browser.tabs import CONTROL_TYPES, Pane, Tab, check_handled_once
from tests.support import check_runs

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

TOOLS = ["search_documentation", "read_section", "read_section", "read_section", "count_words"]


async def _signed_in(tab: Tab) -> tuple[Pane, Pane]:
    left, right = tab.pane("left"), tab.pane("right")
    await left.has_state("live")
    await right.has_state("live")
    await left.watch_for(BOB_ALONE)
    await right.watch_for(ALICE_ALONE)
    return left, right


async def test_two_users_each_see_a_full_run_of_their_own_and_nothing_else(
    start_demo: StartDemo, open_tab: OpenTab
) -> None:
    demo = await start_demo()
    tab = await open_tab(f"{demo.base}/?left=alice&right=Alice")  # who look alike, and are two people
    left, right = await _signed_in(tab)
    await left.part("question").fill(ALICE_ASKS)
    await right.part("question").fill(BOB_ASKS)
    await left.part("ask").click()
    await right.part("ask").click()

    for pane, user, asked in ((left, "alice", ALICE_ASKS), (right, "Alice", BOB_ASKS)):
        await pane.has_run("success")
        log = await demo.events(user)
        check_runs(log)
        result = log[-1]["data"]["result"]
        await expect(pane.root.locator(".run h3")).to_have_text(asked)
        assert await pane.part("tool", "success").locator(".tool-name").all_text_contents() == TOOLS
        assert await pane.answer() == result["answer"]
        assert await pane.part("thinking").all_text_contents() == [
            event["data"]["thought"] for event in log if event["type"] == "agent_thinking"
        ]
        sources = await pane.part("sources").locator("li").all_inner_texts()
        assert [" ".join(source.split()) for source in sources] == [
            f"{one['number']} {one['heading']} {one['document']}:{one['line']}" for one in result["sources"]
        ]
        handled = next(frames for frames in await tab.handled() if frames[0]["user_id"] == user)
        check_handled_once([handled], log)
        events = sum(frame["type"] not in CONTROL_TYPES for frame in handled)
        await expect(pane.part("ledger")).to_have_text(f"{events} events, every one addressed to {user}.")

    await _tools_open_to_what_they_were_given_and_found(left, await demo.events("alice"))
    # The words were chosen well: each is in what its owner sees.
    assert await left.sightings(ALICE_ALONE) == set(ALICE_ALONE)
    assert await right.sightings(BOB_ALONE) == set(BOB_ALONE)
    assert {wire.user for wire in tab.wires} == {"alice", "Alice"}


async def _tools_open_to_what_they_were_given_and_found(pane: Pane, log: list[dict[str, Any]]) -> None:
    begun = [event["data"] for event in log if event["type"] == "tool_executing"]
    ended = {event["data"]["tool_call_id"]: event["data"] for event in log if event["type"] == "tool_completed"}
    for place, given in enumerate(begun):
        tool = pane.part("tool").nth(place)
        arguments, result = tool.locator("pre").first, tool.locator("pre").last
        await expect(arguments).not_to_be_visible()
        await tool.locator("summary").click()
        await expect(arguments).to_be_visible()
        await expect(result).to_be_visible()
        assert json.loads(await arguments.inner_text()) == given["arguments"]
        assert json.loads(await result.inner_text()) == ended[given["tool_call_id"]]["result"]
        await tool.locator("summary").click()
        await expect(arguments).not_to_be_visible()


async def test_a_stopped_run_ends_in_every_tab_of_its_owner_and_nobody_elses(
    start_demo: StartDemo, open_tab: OpenTab
) -> None:
    demo = await start_demo(Pace(word=0.05, step=0.4))
    tab = await open_tab(f"{demo.base}/?left=alice&right=bob")
    second = await open_tab(f"{demo.base}/?user=alice")
    left, right = await _signed_in(tab)
    await second.pane().has_state("live")
    await left.ask(ALICE_ASKS)
    await right.ask(BOB_ASKS)
    await left.until("(pane) => pane.querySelector('[data-testid=tool][data-state=running] pre + h4')")
    await right.has_run("running")
    await left.part("stop").click()

    for pane in (left, second.pane()):
        await pane.has_run("cancelled")
        await expect(pane.part("tool", "running")).to_have_count(0)
        await expect(pane.part("tool", "cancelled")).to_have_count(1)
        await expect(pane.part("run-state")).to_have_text("Stopped")
        await expect(pane.part("stop")).to_have_count(0)
    await right.has_run("running")
    demo.hurry()
    await right.has_run("success")
    assert await right.answer() == (await demo.events("bob"))[-1]["data"]["result"]["answer"]
    log = await demo.events("alice")
    check_runs(log)
    assert log[-1]["data"]["status"] == "cancelled"
    await expect(left.part("trouble")).to_be_empty()


async def test_whoever_signs_in_next_in_a_pane_finds_nothing_of_who_was_there_before(
    start_demo: StartDemo, open_tab: OpenTab
) -> None:
    demo = await start_demo()
    tab = await open_tab(f"{demo.base}/?left=alice")
    left = tab.pane("left")
    await left.has_state("live")
    await left.ask(ALICE_ASKS)
    await left.has_run("success")
    await left.part("question").fill("And its lamp by day?")
    await left.part("sign-out").click()
    await left.has_state("signed-out")
    await left.watch_for([*ALICE_ALONE, "every one addressed to alice"])
    await left.part("user").fill("bob")
    await left.part("sign-in").click()
    await left.has_state("live")
    await expect(left.part("ledger")).to_have_text("No events yet.")
    await expect(left.part("question")).to_have_value("")
    await left.ask(BOB_ASKS)
    await left.has_run("success")
    await expect(left.part("run")).to_have_count(1)
    await expect(left.root.locator("h2")).to_have_text("bob")


async def test_a_frame_for_somebody_else_would_raise_an_alarm_and_not_be_shown(
    start_demo: StartDemo, open_tab: OpenTab
) -> None:
    """The absence of the alarm in every other test says something only if it would go off."""

    demo = await start_demo()
    tab = await open_tab(demo.base)

    async def meddle(route: WebSocketRoute) -> None:
        server = route.connect_to_server()

        def pass_on(message: str | bytes) -> None:
            lines = (message if isinstance(message, str) else message.decode()).split("\n")
            for frame in map(json.loads, lines):
                if frame["type"] == "agent_thinking":
                    frame["user_id"] = "bob"
                route.send(json.dumps(frame))

        server.on_message(pass_on)

    await tab.page.route_web_socket("**/live/ws", meddle)
    await tab.page.goto(f"{demo.base}/?user=alice")
    pane = tab.pane()
    await pane.has_state("live")
    await pane.ask(ALICE_ASKS)
    await pane.has_run("success")
    await expect(pane.part("foreign-notice")).to_contain_text("Isolation broken.")
    await expect(pane.part("ledger")).to_contain_text("3 more not addressed to alice")
    await expect(pane.part("thinking")).to_have_count(0)
    await tab.page.goto("about:blank")


async def test_the_fifth_run_at_once_is_refused_with_words(start_demo: StartDemo, open_tab: OpenTab) -> None:
    demo = await start_demo(SLOW)
    tab = await open_tab(f"{demo.base}/?left=alice&right=bob")
    tab.allow("status of 429")
    left, right = await _signed_in(tab)
    for count in range(1, 5):
        await left.ask(ALICE_ASKS)
        await expect(left.part("run", "running")).to_have_count(count)
    await left.ask(ALICE_ASKS)
    await expect(left.part("trouble")).to_contain_text("as many runs as the demo allows")
    await right.ask(BOB_ASKS)  # is asked by somebody else, and so is not the fifth
    await right.has_run("running")
    await left.part("stop").first.click()
    await expect(left.part("run", "running")).to_have_count(3)
    await left.ask(ALICE_ASKS)
    await expect(left.part("run", "running")).to_have_count(4)
