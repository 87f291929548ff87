"""A tab of the browser and the panes in it, with everything that the browser complained about or was sent."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from playwright.async_api import BrowserContext, ConsoleMessage, Locator, Page, TimeoutError, WebSocket

CONTROL_TYPES: Final = frozenset({"connected", "ping", "pong", "gap", "ack", "error"})

_SCRIPTS: Final = Path(__file__).with_name("scripts")


def script(name: str) -> str:
    """A script that runs in the page, without its opening comment."""
    lines = (_SCRIPTS / f"{name}.js").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("//"))


_SIGHTINGS: Final = script("sightings")

_WATCH_FOR: Final = f"""(pane, words) => {{
  const look = () => window.record.sightings.push(...({_SIGHTINGS})(pane, words));
  new MutationObserver(look).observe(pane, {{ subtree: true, childList: true, characterData: true, attributes: true }});
  look();
}}"""


class Wire:
    """One WebSocket of a tab, as the browser's debugger saw it: whose token went in, and what came out."""

    def __init__(self, socket: WebSocket) -> None:
        self.user: str | None = None
        self.received: list[dict[str, Any]] = []
        socket.on("framesent", self._sent)
        socket.on("framereceived", self._received)

    def _sent(self, frame: str | bytes) -> None:
        sent = json.loads(frame)
        if sent["type"] == "auth":
            claims = sent["token"].split(".")[1]
            self.user = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["sub"]

    def _received(self, frame: str | bytes) -> None:
        self.received += frames([frame if isinstance(frame, str) else frame.decode()])

    def check(self) -> None:
        """Demands that every frame is for whoever signed in on this socket, by the token and not by the page."""
        for frame in self.received:
            if frame["type"] == "connected" or frame["type"] not in CONTROL_TYPES:
                assert frame["user_id"] == self.user, f"{frame['type']} of {frame['user_id']} reached {self.user}"


class Tab:
    """One page, and all that the browser said about it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.noise: list[str] = []
        self.wires: list[Wire] = []
        self._allowed: list[re.Pattern[str]] = []
        page.set_default_timeout(10_000)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.noise.append(f"uncaught: {error}"))
        page.on("crash", lambda _page: self.noise.append("the page crashed"))
        page.on("dialog", lambda dialog: self.noise.append(f"a dialog: {dialog.message}"))
        page.on("websocket", lambda socket: self.wires.append(Wire(socket)))

    def _console(self, message: ConsoleMessage) -> None:
        self.noise.append(f"{message.type}: {message.text}")

    @classmethod
    async def open(cls, context: BrowserContext, address: str, *, recorded: bool = True) -> Tab:
        tab = cls(await context.new_page())
        if recorded:
            await tab.page.add_init_script(script("recorder"))
        await tab.page.goto(address)
        return tab

    def pane(self, side: str = "left") -> Pane:
        return Pane(self, side)

    def allow(self, pattern: str) -> None:
        """Messages of the browser that this test cannot but cause."""
        self._allowed.append(re.compile(pattern))

    async def check(self) -> None:
        """Demands that the browser had nothing to complain about, and that every frame was for its reader."""
        left = [said for said in self.noise if not any(allowed.search(said) for allowed in self._allowed)]
        assert not left, f"the browser said: {left}"
        for wire in self.wires:
            wire.check()
        if not self.page.is_closed():
            record = await self.page.evaluate("() => window.record ?? null")
            if record is not None:
                assert not record["violations"], f"the page broke its policy: {record['violations']}"
                assert not record["sightings"], f"a pane showed {set(record['sightings'])}, which is another user's"
            assert await self.page.get_by_test_id("foreign-notice").count() == 0

    async def handled(self) -> list[list[dict[str, Any]]]:
        """The frames that the page's own handler was given since it was loaded, for each socket."""
        record: list[list[str]] = await self.page.evaluate("() => window.record.handled")
        return [frames(socket) for socket in record]


class Pane:
    """One person's half of the page."""

    def __init__(self, tab: Tab, side: str) -> None:
        self._tab = tab
        self.root = tab.page.get_by_test_id(f"pane-{side}")

    def part(self, testid: str, state: str | None = None) -> Locator:
        wanted = f'[data-testid="{testid}"]' + ("" if state is None else f'[data-state="{state}"]')
        return self.root.locator(wanted)

    async def until(self, condition: str) -> None:
        """Waits until this function of the pane's element is true. Looks whenever the browser draws, where a locator
        looks every half second or second."""
        try:
            await self._tab.page.wait_for_function(condition, arg=await self.root.element_handle())
        except TimeoutError as error:
            shown = await self.root.inner_text()
            raise AssertionError(f"{condition} did not come about; the pane shows:\n{shown}") from error

    async def has_state(self, state: str = "live") -> None:
        await self.until(f"(pane) => pane.querySelector('[data-testid=state]').dataset.state === '{state}'")

    async def ask(self, question: str) -> None:
        await self.part("question").fill(question)
        await self.part("ask").click()

    async def has_run(self, state: str, place: int = 0) -> None:
        """Waits until the run in that place, newest first, is in that state."""
        runs = "pane.querySelectorAll('[data-testid=run]')"
        await self.until(f"(pane) => {runs}[{place}]?.dataset.state === '{state}'")

    async def answer_grows_beyond(self, length: int) -> str:
        """Waits until the answer of the newest run is longer than that; it."""
        answer = "pane.querySelector('[data-testid=run]')?.querySelector('[data-testid=answer]')"
        await self.until(f"(pane) => ({answer}?.textContent.length ?? 0) > {length}")
        return await self.answer()

    async def answer(self) -> str:
        """The answer of the newest run, character by character."""
        return await self.part("run").first.get_by_test_id("answer").text_content() or ""

    async def watch_for(self, words: Iterable[str]) -> None:
        """From now on, write down whenever one of these words is anywhere in this pane, its attributes included."""
        await self.root.evaluate(_WATCH_FOR, list(words))

    async def sightings(self, words: Iterable[str]) -> set[str]:
        """Which of these words are anywhere in this pane now."""
        return set(await self.root.evaluate(_SIGHTINGS, list(words)))

    async def open_all(self) -> None:
        await self.root.evaluate("(pane) => pane.querySelectorAll('details').forEach((one) => (one.open = true))")

    async def picture(self) -> str:
        """Everything that its runs show, tools opened, as a person would read it."""
        await self.open_all()
        return await self.root.locator(".stream").inner_text()


def frames(texts: Iterable[str]) -> list[dict[str, Any]]:
    """The frames in some WebSocket messages, each of which may hold several."""
    return [json.loads(line) for text in texts for line in text.split("\n") if line]


def check_handled_once(sockets: list[list[dict[str, Any]]], log: list[dict[str, Any]]) -> None:
    """Demands that what a page handled over several sockets is the log: everything, in order, and nothing twice.

    A delta may come merged with its neighbours, so of deltas it is the text that is compared: each must begin where
    the one before it ended.
    """
    seen = [frame for frame in itertools.chain(*sockets) if frame["type"] not in CONTROL_TYPES]
    ids = [event["id"] for event in seen]
    assert len(ids) == len(set(ids)), "an event was handled twice"
    assert _without_deltas(seen) == _without_deltas(log)
    assert _texts(seen) == _texts(log)


def _without_deltas(events: list[dict[str, Any]]) -> list[tuple[str, str, Any]]:
    return [(one["id"], one["type"], one["data"]) for one in events if one["type"] != "message_delta"]


def _texts(events: list[dict[str, Any]]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for event in events:
        if event["type"] == "message_delta":
            data = event["data"]
            known = texts.setdefault(data["message_id"], "")
            assert data["start"] == len(known), "a delta does not begin where the one before it ended"
            texts[data["message_id"]] = known + data["text"]
    return texts
