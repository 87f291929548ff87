"""The documentation as the tests see it: pages, fenced blocks and how each is run, tables, headings, links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[2]
PAGES: Final = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
"""The pages whose Python runs."""
LINKED_PAGES: Final = [*PAGES, REPOSITORY / "CHANGELOG.md", REPOSITORY / "CONTRIBUTING.md"]
"""The pages whose links are checked."""

_FENCE: Final = re.compile(r"(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})(?P<language>.*)")
_MARK: Final = re.compile(r"<!-- runs: (?P<how>\w+) (?P<file>[\w.]+) -->")
_LINK: Final = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
_HEADING: Final = re.compile(r"#{1,6} +(?P<title>.*)")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block. `how` and `file` come from the mark above it, `<!-- runs: how file -->`."""

    line: int
    """The line of the page on which `text` begins."""
    language: str
    text: str
    how: str | None
    file: str


def name_of(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of a page. A fence that is indented, nested or left open is refused, as it could hide one."""
    blocks: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    mark: re.Match[str] | None = None
    opened: tuple[int, str] | None = None
    for number, line in enumerate(lines, start=1):
        fence = _FENCE.match(line)
        if fence is None:
            if opened is None and line.strip():
                mark = _MARK.fullmatch(line.strip())
                assert mark or not line.startswith("<!-- runs"), f"{name_of(page)}:{number}: not a mark: {line}"
            continue
        assert not fence["indent"] or opened, f"{name_of(page)}:{number}: a fence must not be indented"
        assert len(fence["fence"]) == 3, f"{name_of(page)}:{number}: a fence has three characters"
        if opened is None:
            opened = number + 1, fence["language"].strip()
            continue
        first, language = opened
        text = "\n".join(lines[first - 1 : number - 1]) + "\n"
        blocks.append(Block(first, language, text, mark["how"] if mark else None, mark["file"] if mark else ""))
        opened = mark = None
    assert opened is None, f"{name_of(page)}: a block is never closed"
    return blocks


def prose_of(page: Path) -> list[tuple[int, str]]:
    """The lines outside fenced blocks, with their numbers and without inline code."""
    inside = False
    prose: list[tuple[int, str]] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if _FENCE.match(line):
            inside = not inside
        elif not inside:
            prose.append((number, line))
    return prose


def links_of(page: Path) -> list[tuple[int, str]]:
    """The targets of all links of a page, with their lines."""
    without_code = [(number, re.sub(r"`[^`]*`", "`", line)) for number, line in prose_of(page)]
    text = "\n".join(line for _number, line in without_code)
    first = [number for number, _line in without_code]
    return [(first[text.count("\n", 0, link.start())], link["target"]) for link in _LINK.finditer(text)]


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, where GitHub and mkdocs agree on them."""
    anchors: set[str] = set()
    for _number, line in prose_of(page):
        heading = _HEADING.fullmatch(line)
        if heading:
            title = re.sub(r"[^\w\s-]", "", heading["title"]).strip().lower()
            if "--" not in (slug := re.sub(r"\s", "-", title)):
                anchors.add(slug)
    return anchors


def tables_of(page: Path) -> dict[str, list[list[dict[str, str]]]]:
    """The tables of a page by the heading above them; a table is a list of rows, a row the cells by column."""
    tables: dict[str, list[list[dict[str, str]]]] = {}
    heading = ""
    columns: list[str] | None = None
    for _number, line in prose_of(page):
        if found := _HEADING.fullmatch(line):
            heading = found["title"]
        if not line.startswith("|"):
            columns = None
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if columns is None:
            columns = cells
            tables.setdefault(heading, []).append([])
        elif not set(line) <= set("|-: "):
            tables[heading][-1].append(dict(zip(columns, cells, strict=True)))
    return tables


def unquoted(cell: str) -> str:
    """What stands in backticks."""
    found = re.fullmatch(r"`([^`]*)`", cell)
    assert found, f"not in backticks: {cell}"
    return found[1]
