"""Promise: whoever was cut off goes on at the cursor. Nothing is lost, nothing comes twice, what is gone is told."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.browser.conftest import OpenTab, StartDemo
from tests.browser.documents import ALICE_ASKS, BOB_ASKS
from tests.browser.serving import SLOW, DemoProcess
from tests.browser.tabs import check_handled_once
from websocket_core.limits import Retention

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


async def test_a_tab_cut_while_the_answer_grows_ends_up_like_one_that_was_not(
    start_demo: StartDemo, open_tab: OpenTab
) -> None:
    demo = await start_demo(SLOW)
    tab = await open_tab(f"{demo.base}/?left=alice&right=bob")
    uncut = await open_tab(f"{demo.base}/?user=alice")
    left, right, whole = tab.pane("left"), tab.pane("right"), uncut.pane()
    for pane in (left, right, whole):
        await pane.has_state("live")
    await right.ask(BOB_ASKS)
    await left.ask(ALICE_ASKS)

    await left.answer_grows_beyond(40)
    await left.part("cut").click()
    await left.has_state("cut")
    at_the_cut = await left.answer()
    await whole.answer_grows_beyond(len(at_the_cut) + 40)
    assert await left.answer() == at_the_cut, "a cut connection went on delivering"
    await left.part("restore").click()
    await left.has_state("live")
    await left.answer_grows_beyond(len(at_the_cut) + 40)
    await whole.has_run("running")  # else the cut was over after the run, and proves less

    demo.hurry()
    await left.has_run("success")
    await whole.has_run("success")
    assert await left.picture() == await whole.picture()
    log = await demo.events("alice")
    assert await left.answer() == await whole.answer() == log[-1]["data"]["result"]["answer"]

    sockets = [socket for socket in await tab.handled() if socket[0]["user_id"] == "alice"]
    assert [socket[0]["resumed"] for socket in sockets] == [False, True]
    assert not any(frame["type"] == "gap" for socket in sockets for frame in socket)
    check_handled_once(sockets, log)
    await expect(left.part("ledger")).to_contain_text("Resumed 1 time, no gaps.")

    await right.has_run("success")  # the other user's socket knew nothing of it
    others = [socket for socket in await tab.handled() if socket[0]["user_id"] == "bob"]
    assert len(others) == 1
    check_handled_once(others, await demo.events("bob"))


async def test_a_run_that_ends_while_the_tab_is_cut_is_there_when_it_comes_back(
    start_demo: StartDemo, open_tab: OpenTab
) -> None:
    demo = await start_demo()
    tab = await open_tab(f"{demo.base}/?user=alice")
    watching = await open_tab(f"{demo.base}/?user=alice")
    pane, whole = tab.pane(), watching.pane()
    await pane.has_state("live")
    await whole.has_state("live")
    await pane.part("cut").click()
    await pane.ask(ALICE_ASKS)
    await expect(pane.part("trouble")).to_contain_text("The run goes on without this page")
    await whole.has_run("success")
    await expect(pane.part("run")).to_have_count(0)
    await pane.part("restore").click()
    await pane.has_run("success")
    assert await pane.picture() == await whole.picture()
    check_handled_once(await tab.handled(), await demo.events("alice"))


async def test_sockets_that_break_twice_in_one_answer_come_back_by_themselves(
    start_demo: StartDemo, open_tab: OpenTab
) -> None:
    demo = await start_demo(SLOW)
    tab = await open_tab(f"{demo.base}/?user=alice")
    pane = tab.pane()
    await pane.has_state("live")
    await pane.ask(ALICE_ASKS)
    length = 0
    for _ in range(2):
        length = len(await pane.answer_grows_beyond(length + 20))
        assert await demo.break_sockets() == 1
        await pane.until("(pane) => pane.dataset.connection !== 'live'")
        await pane.has_state("live")
    demo.hurry()
    await pane.has_run("success")
    log = await demo.events("alice")
    assert await pane.answer() == log[-1]["data"]["result"]["answer"]
    sockets = await tab.handled()
    assert [socket[0]["resumed"] for socket in sockets] == [False, True, True]
    check_handled_once(sockets, log)


async def test_a_late_tab_shows_the_same_picture_from_the_middle_of_a_run_and_after_it(
    start_demo: StartDemo, open_tab: OpenTab
) -> None:
    demo = await start_demo(SLOW)
    tab = await open_tab(f"{demo.base}/?user=alice")
    pane = tab.pane()
    await pane.has_state("live")
    await pane.ask("read missing.md")
    await pane.has_run("error")
    await pane.ask(ALICE_ASKS)
    await pane.answer_grows_beyond(40)
    middle = await open_tab(f"{demo.base}/?user=alice")
    await middle.pane().answer_grows_beyond(40)
    await middle.pane().has_run("running")
    demo.hurry()
    await pane.has_run("success")
    await middle.pane().has_run("success")
    late = await open_tab(f"{demo.base}/?left=alice&right=bob")
    await late.pane("left").has_run("success")
    await late.pane("left").has_run("error", place=1)
    picture = await pane.picture()
    assert "DocumentNotFound" in picture
    assert "count_words" in picture
    assert await middle.pane().picture() == picture
    assert await late.pane("left").picture() == picture
    await late.pane("right").has_state("live")
    await expect(late.pane("right").part("run")).to_have_count(0)
    await expect(late.pane("right").part("ledger")).to_have_text("No events yet.")
    log = await demo.events("alice")
    check_handled_once(await middle.handled(), log)


async def test_a_reload_comes_back_with_the_same_two_people_and_the_same_picture(
    start_demo: StartDemo, open_tab: OpenTab
) -> None:
    demo = await start_demo(SLOW)
    tab = await open_tab(demo.base)
    left, right = tab.pane("left"), tab.pane("right")
    for pane, user in ((left, "alice"), (right, "bob")):
        await pane.part("user").fill(user)
        await pane.part("sign-in").click()
        await pane.has_state("live")
    await right.ask("read missing.md")
    await right.has_run("error")
    before = await right.picture()
    await left.ask(ALICE_ASKS)
    await left.answer_grows_beyond(20)
    await tab.page.reload()
    await right.has_run("error")
    assert await right.picture() == before
    await left.has_run("running")
    demo.hurry()
    await left.has_run("success")
    log = await demo.events("alice")
    assert await left.answer() == log[-1]["data"]["result"]["answer"]
    sockets = [socket for socket in await tab.handled() if socket[0]["user_id"] == "alice"]
    check_handled_once(sockets, log)


async def test_what_has_left_the_log_is_told_as_a_gap_and_the_answer_is_whole_all_the_same(
    start_demo: StartDemo, open_tab: OpenTab
) -> None:
    demo = await start_demo(SLOW, retention=Retention(events=60))
    tab = await open_tab(f"{demo.base}/?user=alice")
    pane = tab.pane()
    await pane.has_state("live")
    watching = await open_tab(f"{demo.base}/?user=alice")
    await watching.pane().has_state("live")
    await pane.ask(ALICE_ASKS)
    await pane.answer_grows_beyond(10)
    await pane.part("cut").click()
    await watching.pane().answer_grows_beyond(len(await pane.answer()) + 60)
    for number in range(1, 81):
        await demo.emit("alice", "note", {"number": number})
        if number % 20 == 0:  # so that whoever is not cut keeps up
            notes = "pane.querySelectorAll('[data-testid=other]')"
            await watching.pane().until(f"(pane) => {notes}.length === {number}")
    demo.hurry()
    await watching.pane().has_run("success")
    await pane.part("restore").click()
    await pane.has_run("success")
    gap = pane.part("gap-notice")
    await expect(gap).to_have_count(1)
    await expect(gap).to_have_attribute("data-reason", "trimmed")
    await expect(pane.part("ledger")).to_contain_text("Not resumed, 1 gap.")
    await expect(pane.root.locator(".hole")).to_have_count(0)
    assert await pane.answer() == await watching.pane().answer()
    await expect(watching.pane().part("gap-notice")).to_have_count(0)
    await expect(watching.pane().part("other")).to_have_count(80)
    shown = await pane.part("other").all_text_contents()
    assert 0 < len(shown) < 60
    assert '"number": 80' in shown[0]


async def test_a_killed_server_is_told_as_a_gap_and_ends_the_runs_that_were_under_way(
    demo_process: DemoProcess, open_tab: OpenTab
) -> None:
    tab = await open_tab(f"{demo_process.base}/?user=alice")
    # While nobody listens, every attempt to connect is an error to Chromium, and no page can keep it from saying so.
    tab.allow(r"ERR_CONNECTION_REFUSED|status of 401")
    pane = tab.pane()
    await pane.has_state("live")
    await pane.ask("read README.md")
    await pane.has_run("success")
    finished = await pane.answer()
    await pane.ask(ALICE_ASKS)
    await pane.has_run("running")
    await pane.answer_grows_beyond(20)
    await demo_process.kill()
    await pane.has_state("waiting")
    await pane.has_run("running")
    await demo_process.start()
    await pane.has_state("live")
    gap = pane.part("gap-notice")
    await expect(gap).to_have_count(1)
    await expect(gap).to_have_attribute("data-reason", "new_epoch")
    await pane.has_run("lost", place=0)
    await pane.has_run("success", place=1)
    assert await pane.part("answer").nth(1).text_content() == finished
    await expect(pane.part("stop")).to_have_count(0)
    await pane.ask("read missing.md")
    await pane.has_run("error")
    await expect(pane.part("run")).to_have_count(3)
