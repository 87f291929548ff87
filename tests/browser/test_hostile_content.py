"""Promise: whatever an event, a question or a document holds, the page shows it as text, under a strict policy."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.browser.conftest import OpenTab, StartDemo
from tests.browser.serving import http_client

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

MARKUP = (
    '<img src="/nowhere.png" onerror="window.owned = 1"><script>window.owned = 2</script>'
    '<a href="javascript:window.owned = 3">here</a> {{owned}} ${owned} </p></li></ol> \u202equince\u202c'
)
ELEMENTS = "img, script, iframe, object, embed, style, link, base, form form, a[href^=javascript], [onclick], [onerror]"


async def test_markup_in_a_question_and_in_a_document_is_shown_as_text(
    start_demo: StartDemo, open_tab: OpenTab
) -> None:
    demo = await start_demo()
    tab = await open_tab(f"{demo.base}/?user=mallory")
    pane = tab.pane()
    await pane.has_state("live")
    await pane.ask(MARKUP)
    await pane.has_run("success")
    await expect(pane.root.locator(".run h3")).to_have_text(MARKUP)
    await pane.open_all()
    shown = await pane.part("tool").filter(has_text="read_section").first.inner_text()
    assert 'window.owned = \\"by the quince page\\"</script>' in shown
    assert "onerror=" in shown
    await expect(pane.root.locator(ELEMENTS)).to_have_count(0)
    assert await tab.page.evaluate("() => window.owned") is None


async def test_names_that_mean_something_to_javascript_are_only_names(start_demo: StartDemo, open_tab: OpenTab) -> None:
    demo = await start_demo()
    tab = await open_tab(f"{demo.base}/?left=__proto__&right=constructor")
    left, right = tab.pane("left"), tab.pane("right")
    await left.has_state("live")
    await right.has_state("live")
    traps = {"__proto__": {"polluted": "yes"}, "constructor": {"prototype": {"polluted": "yes"}}, "toString": "no"}
    for user, pane in (("__proto__", left), ("constructor", right)):
        await demo.emit(user, "__proto__", traps)
        await demo.emit(user, "hasOwnProperty", {"note": MARKUP, **traps})
        for event_type in ("tool_executing", "tool_progress", "message_delta", "valueOf", "agent_completed"):
            named = {"tool": "__proto__", "tool_call_id": "__proto__", "message_id": "__proto__", "status": "__proto__"}
            await demo.emit(user, event_type, {**named, "text": "quince", **traps}, run_id="__proto__")
        await pane.has_run("success")
        await expect(pane.part("other")).to_have_count(3)
        await expect(pane.part("tool", "cancelled")).to_have_count(1)  # its end never came
        assert await pane.answer() == "quince"
        await pane.open_all()
        for part in ("other", "tool"):
            assert '"polluted": "yes"' in await pane.part(part).first.inner_text()
        await expect(pane.root.locator(ELEMENTS)).to_have_count(0)
    await left.ask("__proto__ constructor")
    await expect(left.part("run")).to_have_count(2)
    await left.has_run("success")
    await expect(left.root.locator(".run h3").first).to_have_text("__proto__ constructor")
    await expect(right.part("run")).to_have_count(1)
    assert await tab.page.evaluate("() => [{}.polluted, [].polluted, window.owned, typeof {}.toString]") == [
        None,
        None,
        None,
        "function",
    ]


async def test_a_name_full_of_markup_is_a_name(start_demo: StartDemo, open_tab: OpenTab) -> None:
    demo = await start_demo()
    tab = await open_tab(demo.base)
    left, right = tab.pane("left"), tab.pane("right")
    await left.part("user").fill(MARKUP)
    await left.part("user").press("Enter")
    await left.has_state("live")
    await expect(left.root.locator("h2")).to_have_text(MARKUP)
    await expect(left.root.locator(ELEMENTS)).to_have_count(0)
    await left.ask("read README.md")
    await left.has_run("success")
    tab.allow("status of 400")
    await right.part("user").fill("x" * 257)
    await right.part("sign-in").click()
    await expect(right.part("trouble")).to_contain_text("at most 256 characters")
    await right.has_state("signed-out")


async def test_the_policy_allows_nothing_but_the_pages_own_files(start_demo: StartDemo) -> None:
    demo = await start_demo()
    async with http_client(demo.base) as client:
        page = await client.get("/")
    directives = dict(part.strip().partition(" ")[::2] for part in page.headers["content-security-policy"].split(";"))
    assert directives["default-src"] == "'none'"
    for directive in ("script-src", "style-src", "connect-src"):
        assert directives[directive] == "'self'"
    for directive in ("base-uri", "form-action", "frame-ancestors"):
        assert directives[directive] == "'none'"
    assert directives["require-trusted-types-for"] == "'script'"
    everything = " ".join(directives.values())
    assert not {"'unsafe-inline'", "'unsafe-eval'", "*", "http:", "https:"} & set(everything.split())


async def test_the_browser_enforces_the_policy_and_the_tests_would_hear_of_it(
    start_demo: StartDemo, open_tab: OpenTab
) -> None:
    """The absence of violations in every other test says something only if they are seen."""
    demo = await start_demo()
    tab = await open_tab(demo.base)
    tab.allow("Content Security Policy|requires 'Trusted")
    refused = await tab.page.evaluate(
        """async () => {
          const script = document.createElement("script");
          const attempts = [
            () => { document.body.innerHTML = "<b></b>"; },
            () => { script.text = "window.owned = 1"; },
            () => fetch("http://localhost:9/what-i-read-here"),
          ];
          const errors = [];
          for (const attempt of attempts) await (async () => attempt())().catch((error) => errors.push(error.name));
          return errors;
        }"""
    )
    assert refused == ["TypeError", "TypeError", "TypeError"]
    assert await tab.page.evaluate("() => window.owned") is None
    assert len(tab.noise) >= 3
    violations = await tab.page.evaluate("() => window.record.violations.splice(0)")
    assert {"require-trusted-types-for", "connect-src"} <= {violation.partition(":")[0] for violation in violations}
