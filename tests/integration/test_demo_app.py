"""Promise: the demo is an ordinary application of the SDK: its HTTP side refuses what it should, its agent tells the
truth about the documentation, and `python -m examples.docs_agent` starts, serves and stops without noise."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from websockets.asyncio.client import ClientConnection, connect

from examples.docs_agent.agent import Pace
from examples.docs_agent.app import told_to_users
from examples.docs_agent.library import DocumentNotFound
from tests.browser.documents import ALICE_ASKS, BOB_ASKS, DOCUMENTS, write_documents
from tests.browser.serving import REPOSITORY, Demo, http_client
from tests.listening import free_port
from tests.support import check_runs

AT_ONCE = Pace(word=0.0, step=0.0)
NEVER = Pace(word=0.0, step=3600.0)
"""Runs that are under way until they are stopped."""

TERMINAL = frozenset({"agent_completed", "agent_error"})


@pytest.fixture
def documentation(tmp_path: Path) -> Path:
    return write_documents(tmp_path)


@pytest.fixture
async def demo(documentation: Path) -> AsyncIterator[Demo]:
    async with Demo(documentation, AT_ONCE) as running:
        yield running


@pytest.fixture
async def client(demo: Demo) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(demo.base) as http:
        yield http


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def ask(demo: Demo, user: str, question: str) -> str:
    """Asks as that user; the run's id."""
    async with http_client(demo.base) as http:
        answer = await http.post("/runs", json={"question": question}, headers=bearer(await demo.token(user)))
    assert answer.status_code == 202, answer.text
    run_id: str = answer.json()["run_id"]
    return run_id


@contextlib.asynccontextmanager
async def live(demo: Demo, user: str) -> AsyncIterator[ClientConnection]:
    async with asyncio.timeout(20), connect(f"ws://127.0.0.1:{demo.port}/live/ws") as link:
        await link.send(json.dumps({"type": "auth", "token": await demo.token(user)}))
        greeting = json.loads(await link.recv())
        assert (greeting["type"], greeting["user_id"]) == ("connected", user)
        yield link


async def until_the_end(link: ClientConnection) -> list[dict[str, Any]]:
    """The events up to the end of a run."""
    events: list[dict[str, Any]] = []
    while not events or events[-1]["type"] not in TERMINAL:
        events.append(json.loads(await link.recv()))
    return events


async def answered(demo: Demo, user: str, question: str) -> list[dict[str, Any]]:
    async with live(demo, user) as link:
        await ask(demo, user, question)
        events = await until_the_end(link)
    check_runs(events)
    return events


# -- signing in


async def test_a_sign_in_gives_a_token_for_exactly_that_name(client: httpx.AsyncClient) -> None:
    for name in ("alice", "Alice", " alice ", "a:b", "é", "e\u0301", "<b>", "__proto__", "x" * 256):
        answer = await client.post("/session", json={"user": name})
        assert answer.status_code == 200
        assert answer.json()["user"] == name
        claims = jwt.decode(answer.json()["token"], options={"verify_signature": False})
        assert claims["sub"] == name
        assert claims["exp"] - claims["iat"] == answer.json()["expires_in"] == 3600


async def test_a_name_that_is_none_is_refused_without_being_quoted(client: httpx.AsyncClient) -> None:
    for name in ("", "x" * 257, "secret\n", "\x00secret", 7, None, ["alice"], {"secret": 1}):
        answer = await client.post("/session", json={"user": name})
        assert answer.status_code == 400
        assert "secret" not in answer.text


async def test_a_body_of_another_shape_is_a_400(client: httpx.AsyncClient, demo: Demo) -> None:
    signed_in = bearer(await demo.token("alice"))
    for body in (b"", b"alice", b"{", b"[]", b'{"user": "a", "admin": true}', b"\xff", b"null", b"{}"):
        assert (await client.post("/session", content=body)).status_code == 400, body
        assert (await client.post("/runs", content=body, headers=signed_in)).status_code == 400, body


async def test_a_body_over_16_kib_is_a_413_whether_its_length_was_announced_or_not(
    client: httpx.AsyncClient, demo: Demo
) -> None:
    signed_in = bearer(await demo.token("alice"))
    just = json.dumps({"user": ""}).encode()
    just = just[:-1] + b" " * (16_384 - len(just)) + b"}"
    assert (await client.post("/session", content=just)).status_code == 400  # an empty name; the size is all right

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(17):
            yield b" " * 1024

    for path in ("/session", "/runs"):
        assert (await client.post(path, content=just + b" ", headers=signed_in)).status_code == 413
        assert (await client.post(path, content=pieces(), headers=signed_in)).status_code == 413


# -- asking


async def test_asking_takes_a_token_that_this_process_signed_and_that_is_still_good(
    client: httpx.AsyncClient, demo: Demo
) -> None:
    good = await demo.token("alice")
    header, claims, signature = good.split(".")
    now = int(time.time())
    forged = jwt.encode({"sub": "alice", "iat": now, "exp": now + 60}, "k" * 48, algorithm="HS256")
    unsigned = jwt.encode({"sub": "alice", "iat": now, "exp": now + 60}, "", algorithm="none")
    other = (await demo.token("bob")).split(".")[1]
    for authorization in (
        None, "", "Bearer", f"Basic {good}", good, f"Bearer {forged}", f"Bearer {unsigned}",
        f"Bearer {header}.{claims}.", f"Bearer {header}.{other}.{signature}", f"Bearer {good}x",
    ):  # fmt: skip
        headers = {} if authorization is None else {"Authorization": authorization}
        answer = await client.post("/runs", json={"question": ALICE_ASKS}, headers=headers)
        assert answer.status_code == 401, authorization
        assert answer.headers["www-authenticate"] == "Bearer"
    assert (await client.post("/runs", json={"question": ALICE_ASKS}, headers=bearer(good))).status_code == 202


async def test_a_question_is_some_text_of_at_most_300_characters(client: httpx.AsyncClient, demo: Demo) -> None:
    signed_in = bearer(await demo.token("alice"))
    for question in ("", "   ", "\n\t", "x" * 301, 5, None, ["a"]):
        answer = await client.post("/runs", json={"question": question}, headers=signed_in)
        assert answer.status_code == 400, question
    assert await demo.events_so_far("alice") == 0
    assert (await client.post("/runs", json={"question": "x" * 300}, headers=signed_in)).status_code == 202


async def test_the_fifth_run_of_a_user_and_the_65th_of_all_are_a_429_until_one_ends(documentation: Path) -> None:
    async with Demo(documentation, NEVER) as demo, http_client(demo.base) as client:
        signed_in = bearer(await demo.token("user 0"))
        runs = [await ask(demo, "user 0", ALICE_ASKS) for _ in range(4)]
        refused = await client.post("/runs", json={"question": ALICE_ASKS}, headers=signed_in)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
        for number in range(1, 16):
            signed_in = bearer(await demo.token(f"user {number}"))
            for _ in range(4):
                assert (await client.post("/runs", json={"question": BOB_ASKS}, headers=signed_in)).status_code == 202
        late = bearer(await demo.token("user 16"))
        assert (await client.post("/runs", json={"question": BOB_ASKS}, headers=late)).status_code == 429
        async with live(demo, "user 0") as link:
            await link.send(json.dumps({"type": "cancel", "run_id": runs[0]}))
            await until_the_end(link)
        assert (await client.post("/runs", json={"question": BOB_ASKS}, headers=late)).status_code == 202


# -- every answer


async def test_every_answer_carries_the_strict_headers_whatever_its_status(
    client: httpx.AsyncClient, demo: Demo
) -> None:
    signed_in = bearer(await demo.token("alice"))
    answers = [
        (200, await client.get("/")),
        (200, await client.get("/static/app.js")),
        (200, await client.get("/static/style.css")),
        (200, await client.get("/metrics")),
        (200, await client.post("/session", json={"user": "alice"})),
        (202, await client.post("/runs", json={"question": ALICE_ASKS}, headers=signed_in)),
        (400, await client.post("/session", json={})),
        (401, await client.post("/runs", json={"question": ALICE_ASKS})),
        (404, await client.get("/docs")),
        (404, await client.get("/openapi.json")),
        (405, await client.get("/session")),
        (413, await client.post("/session", content=b" " * 20_000)),
    ]
    for status, answer in answers:
        assert answer.status_code == status, answer.url
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"


async def test_only_the_pages_own_files_are_served(demo: Demo) -> None:
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd"):
        # By hand, since every client cleans up such a path before it sends it.
        reader, writer = await asyncio.open_connection("127.0.0.1", demo.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{demo.port}\r\nConnection: close\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        await writer.wait_closed()
        assert answer.startswith(b"HTTP/1.1 404"), path


async def test_the_live_route_takes_the_pages_own_origin_and_no_other(demo: Demo) -> None:
    address = f"ws://127.0.0.1:{demo.port}/live/ws"
    async with connect(address, origin=demo.base) as link:  # type: ignore[arg-type]
        await link.send(json.dumps({"type": "auth", "token": await demo.token("alice")}))
        assert json.loads(await link.recv())["type"] == "connected"
    with pytest.raises(Exception, match="403"):
        await connect(address, origin="https://evil.example")  # type: ignore[arg-type]


# -- a run


async def test_a_run_is_told_from_its_start_to_its_end_over_a_real_socket(demo: Demo) -> None:
    events = await answered(demo, "alice", ALICE_ASKS)
    assert {event["user_id"] for event in events} == {"alice"}
    assert {event["thread_id"] for event in events} == {"documentation"}
    assert len({event["run_id"] for event in events}) == 1
    kinds = [event["type"] for event in events]
    assert kinds[:3] == ["agent_started", "question_asked", "agent_thinking"]
    assert kinds.count("tool_executing") == 5
    assert kinds.count("tool_progress") == len(DOCUMENTS)
    deltas = [event["data"] for event in events if event["type"] == "message_delta"]
    text = ""
    for delta in deltas:
        assert delta["start"] == len(text)
        text += delta["text"]
    assert events[-1]["data"]["status"] == "success"
    assert events[-1]["data"]["result"]["answer"] == text


async def test_only_its_owner_can_stop_a_run(documentation: Path) -> None:
    async with Demo(documentation, NEVER) as demo, live(demo, "alice") as alice, live(demo, "bob") as bob:
        run_id = await ask(demo, "alice", ALICE_ASKS)
        while json.loads(await alice.recv())["type"] != "agent_thinking":
            pass
        await bob.send(json.dumps({"type": "cancel", "run_id": run_id, "request_id": "r"}))
        refused = json.loads(await bob.recv())
        assert (refused["type"], refused["code"]) == ("error", "not_found")
        await bob.send(json.dumps({"type": "cancel", "run_id": "of nobody", "request_id": "r"}))
        assert json.loads(await bob.recv()) == refused, "somebody else's run does not answer as one that is not there"

        await alice.send(json.dumps({"type": "cancel", "run_id": run_id, "request_id": "s"}))
        frames = [json.loads(await alice.recv()) for _ in range(2)]
        [end] = [frame for frame in frames if frame["type"] == "agent_completed"]
        [ack] = [frame for frame in frames if frame["type"] == "ack"]
        assert ack["request_id"] == "s"
        assert end["data"]["status"] == "cancelled"
        assert await demo.events_so_far("bob") == 0


# -- what the agent says is true


def words_of(text: str) -> str:
    """A text without its marks and line ends, written apart from the demo's own way of doing it."""
    return " ".join(re.sub(r"[*`_]", "", text).split())


def occurrences(name: str, forms: str) -> int:
    return len(re.findall(rf"\b(?:{forms})\b", DOCUMENTS[name], re.IGNORECASE))


async def test_every_quote_stands_in_the_section_that_is_named_beside_it(demo: Demo) -> None:
    fits_best = {
        ALICE_ASKS: "The lighthouse",
        "When is the sap down?": "Pruning",
        "How often is the mercury cleaned?": "The lens",
        "How is a graft bound?": "Grafting",
    }
    for question, heading in fits_best.items():
        events = await answered(demo, question, question)
        assert f"“{heading}” in docs/" in [e["data"]["thought"] for e in events if e["type"] == "agent_thinking"][1]
        result = events[-1]["data"]["result"]
        quotes = re.findall(r"^“(.+?)” \[(\d+)\]$", result["answer"], re.MULTILINE)
        assert quotes
        sources = {source["number"]: source for source in result["sources"]}
        assert set(sources) == {int(number) for _, number in quotes}
        for quote, number in quotes:
            source = sources[int(number)]
            lines = DOCUMENTS[source["document"]].splitlines()
            assert lines[source["line"] - 1].lstrip("# ") == source["heading"]
            under = re.split(r"^#+ ", "\n".join(lines[source["line"] :]), maxsplit=1, flags=re.MULTILINE)[0]
            # A row of a table is read out with the names of its columns, so of that only the cells can be looked for.
            for part in re.split(r" – |; |: ", quote) if "|" in under else [quote]:
                assert words_of(part) in words_of(under)


async def test_what_was_counted_is_what_an_independent_count_finds(demo: Demo) -> None:
    events = await answered(demo, "alice", ALICE_ASKS)
    expected = {
        "lamp": occurrences("docs/first.md", "lamps?"),
        "lighthouse": occurrences("docs/first.md", "lighthouses?"),
        "lit": occurrences("docs/first.md", "lit"),
    }
    assert expected == {"lamp": 8, "lighthouse": 3, "lit": 3}
    counted = next(e["data"] for e in events if e["type"] == "tool_completed" and e["data"]["tool"] == "count_words")
    assert counted["result"] == {"documents": {"docs/first.md": expected}}
    said = "Counted: “lamp” 8 times, “lighthouse” 3 times and “lit” 3 times; all in docs/first.md."
    assert events[-1]["data"]["result"]["answer"].endswith(said)

    events = await answered(demo, "bob", "Which page comes before the orchard and its trees, and which prunes?")
    text = events[-1]["data"]["result"]["answer"]
    pages = sum(occurrences(name, "pages?") for name in DOCUMENTS)
    orchards = occurrences("docs/second.md", "orchards?")
    trees = occurrences("docs/second.md", "trees?")
    assert (pages, orchards, trees) == (5, 4, 6)  # one orchard stands over sections only, one page stands in code
    for word, count in (("page", pages), ("orchard", orchards), ("trees", trees)):
        assert f"“{word}” {count} times" in text
    assert "“prunes” twice" in text
    assert text.endswith("in 2 documents, most in docs/second.md.")


async def test_of_this_repositorys_own_documents_too(tmp_path: Path) -> None:
    async with Demo(REPOSITORY, AT_ONCE) as demo:
        events = await answered(demo, "alice", "What is a cursor?")
    paths = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]
    texts = {path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    counts = {
        name: len(re.findall(r"(?<![^\W_])cursors?(?![^\W_])", text, re.IGNORECASE)) for name, text in texts.items()
    }
    counted = next(e["data"] for e in events if e["type"] == "tool_completed" and e["data"]["tool"] == "count_words")
    assert counted["result"]["documents"] == {name: {"cursor": count} for name, count in counts.items() if count}
    sources = events[-1]["data"]["result"]["sources"]
    assert sources
    for source in sources:
        line = texts[source["document"]].splitlines()[source["line"] - 1]
        assert words_of(line.lstrip("# ")) == words_of(source["heading"])


async def test_of_what_the_documents_do_not_speak_it_says_so_and_does_not_guess(demo: Demo) -> None:
    events = await answered(demo, "alice", "What is a zeppelin?")
    assert events[-1]["data"]["result"]["sources"] == []
    assert "Nothing in the documentation speaks of “zeppelin”." in events[-1]["data"]["result"]["answer"]
    events = await answered(demo, "bob", "What is it?")
    assert "There is no word here that I could look up." in events[-1]["data"]["result"]["answer"]


async def test_a_document_that_is_read_is_outlined_and_one_that_is_not_there_is_an_error_in_words(demo: Demo) -> None:
    events = await answered(demo, "alice", "Please read first.md.")
    text = events[-1]["data"]["result"]["answer"]
    assert text.startswith("docs/first.md begins: “A lighthouse stands")
    assert text.endswith("Its sections: The lamp; The lens; Fog.")
    for name in ("missing.md", "../pyproject.md", "/etc/passwd.md"):
        events = await answered(demo, "bob " + name, f"read {name}")
        assert events[-1]["type"] == "agent_error"
        assert events[-1]["data"]["error"].startswith(f"there is no document '{name}'; the documents are README.md")
        assert events[-2]["data"]["status"] == "error"


def test_of_an_error_that_was_not_written_for_users_they_are_told_the_type_alone() -> None:
    assert told_to_users(DocumentNotFound("there is no such document")) == "there is no such document"
    assert told_to_users(RuntimeError("postgres://user:secret@host")) == "RuntimeError"


async def test_without_any_documentation_it_says_that_there_is_none(tmp_path: Path) -> None:
    async with Demo(tmp_path, AT_ONCE) as demo:
        events = await answered(demo, "alice", ALICE_ASKS)
        assert "There is no documentation beside this program" in events[-1]["data"]["result"]["answer"]
        events = await answered(demo, "bob", "read README.md")
        assert events[-1]["data"]["error"].endswith("none was found beside this program")


async def test_a_link_that_leads_out_of_the_documentation_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secrets.md").write_text("# Zeppelin\n\nThe zeppelin is kept in the third hangar.\n")
    root = write_documents(tmp_path / "documentation")
    (root / "docs" / "way-out.md").symlink_to(tmp_path / "secrets.md")
    async with Demo(root, AT_ONCE) as demo:
        events = await answered(demo, "alice", "Where is the zeppelin kept?")
    assert "hangar" not in json.dumps(events)


# -- the command


@contextlib.contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "examples.docs_agent", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with process:
            yield process
    finally:
        process.kill()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_the_command_prints_its_address_serves_and_stops_without_noise_in_the_middle_of_a_run(
    how: signal.Signals,
) -> None:
    port = free_port()
    with started("--port", str(port)) as process:
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        [address] = re.findall(r"http://\S+", line)
        assert address == f"http://127.0.0.1:{port}/?left=alice&right=bob"
        transport = httpx.AsyncHTTPTransport(retries=5)  # the line is printed just before the port is opened
        async with http_client(f"http://127.0.0.1:{port}", transport=transport) as client:
            assert "<title>Agent runs, live" in (await client.get(address)).text
            token = (await client.post("/session", json={"user": "alice"})).json()["token"]
            async with asyncio.timeout(20), connect(f"ws://127.0.0.1:{port}/live/ws") as link:
                await link.send(json.dumps({"type": "auth", "token": token}))
                await client.post("/runs", json={"question": "What is a cursor?"}, headers=bearer(token))
                while json.loads(await link.recv())["type"] != "tool_executing":
                    pass
                process.send_signal(how)
                await link.wait_closed()
                assert link.close_code == 1012
        rest, noise = await asyncio.to_thread(process.communicate, None, 20)
        assert rest == ""
        assert noise == ""
        assert process.returncode == 0


async def test_a_port_that_is_taken_is_said_in_one_line_and_nothing_else(documentation: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with started("--port", str(port)) as process:
            said, noise = await asyncio.to_thread(process.communicate, None, 20)
    assert process.returncode == 1
    assert said == ""
    assert noise.startswith(f"Cannot listen on 127.0.0.1:{port} (")
    assert noise.endswith("Choose another port with --port.\n")
    assert noise.count("\n") == 1
