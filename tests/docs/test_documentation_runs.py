"""Promise: what the documentation shows runs. Every Python block is executed, every link leads somewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.docs.pages import LINKED_PAGES, PAGES, REPOSITORY, Block, anchors_of, blocks_of, links_of, name_of, prose_of
from tests.docs.serving import served

LANGUAGES = {"": "a drawing", "html": "a file", "json": "parsed", "nginx": "a proxy's", "python": "run", "sh": "typed"}
RUN_BLOCKS = Path(__file__).with_name("run_blocks.py")


def run(directory: Path, *arguments: str, text: str = "") -> None:
    """Run Python in the directory, with warnings shown and a bound on the time; fail with what it said."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        input=text,
        capture_output=True,
        text=True,
        timeout=50,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def run_marked(blocks: list[Block], directory: Path) -> None:
    """Save the blocks as the files that their marks name, and run each as its mark says."""
    for block in blocks:
        (directory / block.file).write_text(block.text, encoding="utf-8")
    for block in blocks:
        path = directory / block.file
        path.write_text(block.text, encoding="utf-8")  # again: a page may improve on a file
        match block.how:
            case "server":
                with served(directory, path.stem) as server:
                    answer = httpx.get(f"http://127.0.0.1:{server.port}/")
                    assert answer.status_code < 500, server.log
            case "file" if path.suffix == ".py":
                run(directory, "-c", f"import {path.stem}")
            case "file" | "pytest":
                pass
            case _:
                raise AssertionError(f"<!-- runs: {block.how} ... --> is no mark")
    tests = [block.file for block in blocks if block.how == "pytest"]
    assert len(set(tests)) == len(tests), "a file of tests would replace another one"
    if tests:
        run(directory, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)


RUNNING_PAGES = [page for page in PAGES if any(block.language == "python" for block in blocks_of(page))]


@pytest.mark.parametrize("page", RUNNING_PAGES, ids=name_of)
def test_every_python_block_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    """Unmarked blocks of a page share one namespace, in order; marked ones run as their mark says."""
    blocks = blocks_of(page)
    unmarked = [(block.line, block.text) for block in blocks if block.language == "python" and block.how is None]
    marked = [block for block in blocks if block.how is not None]
    run_marked(marked, tmp_path)
    if unmarked:
        run(tmp_path, "-W", "error", str(RUN_BLOCKS), name_of(page), text=json.dumps(unmarked))
    assert len(unmarked) + len(marked) >= sum(block.language == "python" for block in blocks)


def test_every_block_names_a_language_that_is_taken_care_of() -> None:
    """A block that hides its language would hide Python that does not run."""
    for page in PAGES:
        for block in blocks_of(page):
            assert block.language in LANGUAGES, f"{name_of(page)}:{block.line}: {block.language}"
            assert block.language or "──" in block.text, f"{name_of(page)}:{block.line}: name the language"
            assert block.how is None or block.language in ("python", "html"), f"{name_of(page)}:{block.line}"


def test_the_runner_really_runs_what_it_is_given(tmp_path: Path) -> None:
    """A runner that swallowed errors would pass everything."""
    for broken in ("assert 1 == 2", "await nothing()", "import no_such_module"):
        with pytest.raises(AssertionError):
            run(tmp_path, str(RUN_BLOCKS), "page.md", text=json.dumps([[1, "import asyncio"], [3, broken]]))
    run(tmp_path, str(RUN_BLOCKS), "page.md", text=json.dumps([[1, "import asyncio"], [3, "await asyncio.sleep(0)"]]))


def test_every_json_block_is_json() -> None:
    """One document, or one on each line."""
    seen = 0
    for page in PAGES:
        for block in blocks_of(page):
            if block.language == "json":
                seen += 1
                try:
                    json.loads(block.text)
                except json.JSONDecodeError:
                    for line in block.text.splitlines():
                        assert json.loads(line), f"{name_of(page)}:{block.line}"
    assert seen > 10


@pytest.mark.parametrize("page", LINKED_PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    """Relative targets exist, in the repository and in the built site; anchors are headings; others are https."""
    for line, target in links_of(page):
        place = f"{name_of(page)}:{line}: {target}"
        if "://" in target:
            assert re.fullmatch(r"https://[^\s]+", target), place
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.is_relative_to(REPOSITORY), place
        assert linked.is_file(), place
        if page.is_relative_to(REPOSITORY / "docs"):
            assert linked.is_relative_to(REPOSITORY / "docs"), f"{place} is not in the built site"
        assert not anchor or anchor in anchors_of(linked), f"{place}: no such heading"


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    for page in LINKED_PAGES:
        text = "\n".join(line for _number, line in prose_of(page)) + "\n".join(b.text for b in blocks_of(page))
        for named in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE):
            assert named in targets, f"{name_of(page)}: make {named}"


def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """A strict build, and no script, style, font or picture of another host in it."""
    run(REPOSITORY, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site"))
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len(PAGES) - 1
    for built in pages:
        html = built.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|link|img|iframe|source)[^>]+(?:src|href)=.?(?:https?:)?//", html), built.name
    for style in (tmp_path / "site").rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", style.read_text(encoding="utf-8")), (
            style.name
        )
