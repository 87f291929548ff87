"""Promise: whoever follows the README or the tutorial sees what they say."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.docs.pages import REPOSITORY, Block, blocks_of
from tests.docs.serving import Served, served

README = REPOSITORY / "README.md"
TUTORIAL = REPOSITORY / "docs" / "tutorial.md"
SECONDS = 15.0

Frame = dict[str, Any]


def save(page: Path, directory: Path) -> list[Block]:
    """Save the files of a page in the directory, as a reader does."""
    blocks = blocks_of(page)
    for block in blocks:
        if block.how in ("server", "file"):
            (directory / block.file).write_text(block.text, encoding="utf-8")
    return blocks


@pytest.fixture(scope="module")
def readme_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("readme")
    save(README, directory)
    with served(directory, "app") as server:
        yield server


@pytest.fixture(scope="module")
def tutorial_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("tutorial")
    save(TUTORIAL, directory)
    with served(directory, "app") as server:
        yield server


async def read_until(socket: ClientConnection, last: str) -> list[Frame]:
    """The frames up to the first of that type."""
    frames: list[Frame] = []
    async with asyncio.timeout(SECONDS):
        while not frames or frames[-1]["type"] != last:
            frames.append(json.loads(await socket.recv()))
    return frames


def shape(frame: Frame) -> object:
    """A frame with everything taken out that differs from run to run."""
    varying = {
        "connection_id",
        "cursor",
        "duration",
        "id",
        "run_id",
        "timestamp",
        "tool_call_id",
        "user_id",
        "message_id",
    }
    return {
        key: type(value).__name__ if key in varying else shape(value) if isinstance(value, dict) else value
        for key, value in frame.items()
    }


def commands(page: Path, program: str) -> list[str]:
    """The URLs that the shell blocks of a page call with a program."""
    text = "\n".join(block.text for block in blocks_of(page) if block.language == "sh")
    return re.findall(rf"^\S*{program}\b.*?'(\S+?)'", text, re.MULTILINE)


def test_the_readme_example_has_fifteen_lines() -> None:
    (example,) = [block for block in blocks_of(README) if block.language == "python"]
    assert sum(bool(line.strip()) for line in example.text.splitlines()) == 15


async def test_the_readme_example_shows_what_the_readme_shows(readme_server: Served) -> None:
    """The commands of the README, in its order: the run comes to a user who was not there, then live."""
    (post,), (live,) = commands(README, "curl"), commands(README, "websockets")
    here = f"127.0.0.1:{readme_server.port}"
    (shown,) = [block for block in blocks_of(README) if block.language == "json"]
    expected = [json.loads(line) for line in shown.text.splitlines()]
    async with httpx.AsyncClient() as http:
        assert (await http.post(post.replace("127.0.0.1:8000", here))).status_code == 200
        async with connect(live.replace("127.0.0.1:8000", here)) as socket:
            frames = await read_until(socket, "agent_completed")
            assert [shape(frame) for frame in frames] == [shape(frame) for frame in expected]
            assert (await http.post(post.replace("127.0.0.1:8000", here))).status_code == 200
            again = await read_until(socket, "agent_completed")
            assert [shape(frame) for frame in again] == [shape(frame) for frame in expected[1:]]
    cursor = frames[-1]["cursor"]
    async with connect(f"{live}&cursor={cursor}".replace("127.0.0.1:8000", here)) as socket:
        resumed = await read_until(socket, "agent_completed")
        assert resumed[0]["resumed"] is True
        assert resumed[1:] == again


async def test_bob_gets_nothing_of_anybody_else(readme_server: Served) -> None:
    here = f"127.0.0.1:{readme_server.port}"
    async with httpx.AsyncClient() as http, connect(f"ws://{here}/live/ws?token=bob") as bob:
        await http.post(f"http://{here}/ask/carol?question=secret")
        await http.post(f"http://{here}/ask/bob?question=mine")
        frames = await read_until(bob, "agent_completed")
    assert {frame["user_id"] for frame in frames} == {"bob"}
    assert "secret" not in json.dumps(frames)


class Page:
    """What the page of the tutorial does, without a browser."""

    def __init__(self, server: Served, user: str) -> None:
        self._url = f"ws://127.0.0.1:{server.port}/live/ws"
        self.user = user
        self.cursor: str | None = None
        self.frames: list[Frame] = []

    async def read(self, *, until: str) -> None:
        """Connect, authenticate with the first frame, and read up to a frame of that type; then be cut off."""
        async with connect(self._url, origin=None) as socket:
            cursors = {"": self.cursor} if self.cursor else {}
            await socket.send(json.dumps({"type": "auth", "token": self.user, "cursors": cursors}))
            frames = await read_until(socket, until)
        self.frames += frames
        self.cursor = [frame["cursor"] for frame in frames if "cursor" in frame][-1]

    @property
    def events(self) -> list[Frame]:
        return [frame for frame in self.frames if "id" in frame]

    @property
    def text(self) -> str:
        return "".join(event["data"]["text"] for event in self.events if event["type"] == "message_delta")


async def ask(server: Served, user: str) -> None:
    async with httpx.AsyncClient() as http:
        answer = await http.post(f"http://127.0.0.1:{server.port}/ask/{user}", params={"question": "How many words?"})
        assert answer.status_code == 202


async def test_the_tutorial_cuts_and_resumes_without_loss(tutorial_server: Served) -> None:
    """Sections 4 and 5: cut while the answer grows, come back, and nothing is missing or there twice."""
    page = Page(tutorial_server, "alice")
    await ask(tutorial_server, "alice")
    await page.read(until="message_delta")
    await page.read(until="agent_completed")
    assert [frame["resumed"] for frame in page.frames if frame["type"] == "connected"] == [False, True]
    assert not [frame for frame in page.frames if frame["type"] == "gap"]
    assert len({event["id"] for event in page.events}) == len(page.events)
    assert page.text == "Your question has 3 words. I counted each of them with care. "
    assert page.events[-1]["data"]["status"] == "success"

    late = Page(tutorial_server, "alice")
    await late.read(until="agent_completed")
    # The same run; the pieces of the answer come as one, since the late page catches up.
    assert late.text == page.text
    assert [event for event in late.events if event["type"] != "message_delta"] == [
        event for event in page.events if event["type"] != "message_delta"
    ]
    assert late.events[-1]["cursor"] == page.events[-1]["cursor"]


async def test_the_tutorials_second_user_sees_only_its_own_run(tutorial_server: Served) -> None:
    """Section 6."""
    await ask(tutorial_server, "carol")
    await ask(tutorial_server, "bob")
    page = Page(tutorial_server, "bob")
    await page.read(until="tool_completed")
    assert {event["user_id"] for event in page.events} == {"bob"}


async def test_the_tutorials_run_is_stopped(tutorial_server: Served) -> None:
    """Section 7, and that a run of somebody else does not exist."""
    url = f"ws://127.0.0.1:{tutorial_server.port}/live/ws"
    await ask(tutorial_server, "dave")
    async with connect(url, additional_headers={"Authorization": "Bearer dave"}) as socket:
        run_id = (await read_until(socket, "agent_started"))[-1]["run_id"]
        async with connect(url, additional_headers={"Authorization": "Bearer eve"}) as other:
            await other.send(json.dumps({"type": "cancel", "run_id": run_id}))
            assert (await read_until(other, "error"))[-1]["code"] == "not_found"
        await socket.send(json.dumps({"type": "cancel", "run_id": run_id}))
        frames = await read_until(socket, "agent_completed")
    assert frames[-1]["data"]["status"] == "cancelled"
    started = [frame["data"]["tool_call_id"] for frame in frames if frame["type"] == "tool_executing"]
    ended = [frame["data"]["tool_call_id"] for frame in frames if frame["type"] == "tool_completed"]
    assert started == ended


async def test_the_tutorials_terminal_program_prints_the_run(tutorial_server: Served, tmp_path: Path) -> None:
    """Section 8, with the server's port in place of 8000."""
    import sys

    save(TUTORIAL, tmp_path)
    program = (tmp_path / "tail.py").read_text().replace("127.0.0.1:8000", f"127.0.0.1:{tutorial_server.port}")
    (tmp_path / "tail.py").write_text(program)
    await ask(tutorial_server, "frank")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-u", "tail.py", "frank", cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        printed = ""
        async with asyncio.timeout(SECONDS):
            while "tool_completed" not in printed:
                line = await process.stdout.readline()
                assert line, "the program ended"
                printed += line.decode()
        assert "agent_started {'agent': 'counter'}" in printed
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_the_page_comes_and_another_origin_is_refused(tutorial_server: Served) -> None:
    """What section 3 rests on: the page is of the server's own origin."""
    here = f"127.0.0.1:{tutorial_server.port}"
    async with httpx.AsyncClient() as http:
        assert "new WebSocket" in (await http.get(f"http://{here}/")).text
    async with connect(f"ws://{here}/live/ws", origin=f"http://{here}") as socket:  # type: ignore[arg-type]
        await socket.send(json.dumps({"type": "auth", "token": "grace"}))
        assert (await read_until(socket, "connected"))[-1]["user_id"] == "grace"
    with pytest.raises(Exception, match="403"):
        await connect(f"ws://{here}/live/ws", origin="http://elsewhere.example")  # type: ignore[arg-type]


async def test_a_wrong_first_frame_is_answered_with_a_code(tutorial_server: Served) -> None:
    async with connect(f"ws://127.0.0.1:{tutorial_server.port}/live/ws") as socket:
        await socket.send("nonsense")
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4400
