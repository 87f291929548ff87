"""Markdown as plain sentences and words: what the library indexes and what the agent quotes. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

_WORD = re.compile(r"[^\W_]+")
_FENCE = re.compile(r"^\s{0,3}(`{3,}|~{3,})")
_ITEM = re.compile(r"^\s*(?:[-*+]|\d+[.)])\s+")
_CELL_END = re.compile(r"(?<!\\)\|")
_TABLE_RULE = re.compile(r"^\s*\|?[\s:|-]+\|[\s:|-]*$")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_MARKS = re.compile(r"\*\*|__(?=\S)|(?<=\S)__|`|<[^<>\s][^<>]*>")
_ENDINGS = "ations ation ions ion ings ing ers ies ied ated ate ed es s".split()
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"”’)]*\s+(?=[A-Z“\"(\[])")

STOP_WORDS = frozenset(
    """
    a about above after again all also am an and any are as at be because been before being below between both
    but by can could did do does doing down during each few for from further get gets give had has have having
    he her here hers him his how i if in into is it its itself just let like many may me might more most much
    must my no nor not of off on once one only or other our out over own please same say says shall she should
    so some such tell than that the their them then there these they thing things this those through to too
    under until up us use used very was we were what when where which while who whom whose why will with would
    yes you your explain describe happen happens mean means work works
    """.split()
)


def stem(word: str) -> str:
    """One spelling for the common English endings, so that *resumes*, *resumed* and *resuming* meet at *resum*.

    A handful of rules in the spirit of Porter's stemmer; what they get wrong they get wrong alike everywhere.
    """
    for ending in (
        "ations",
        "ation",
        "ions",
        "ion",
        "ings",
        "ing",
        "ers",
        "ies",
        "ied",
        "ated",
        "ate",
        "ed",
        "es",
        "s",
    ):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith(("ss", "us", "is")):
            word = word[: -len(ending)]
            if ending in ("ings", "ing", "ed") and word[-1] == word[-2] and word[-1] not in "lsz":
                word = word[:-1]
            break
    return word[:-1] if word.endswith(("e", "y")) and len(word) > 3 else word


def words(text: str) -> list[str]:
    """The words of a text in order, in lower case; `tool_completed` is two."""
    return [found.group().lower() for found in _WORD.finditer(text)]


def terms(text: str) -> list[str]:
    """The stems of the words that carry meaning, in order, repeats included."""
    return [stem(word) for word in words(text) if word not in STOP_WORDS]


def question_terms(question: str) -> dict[str, str]:
    """Each distinct stem of a question, with the word as the person first wrote it."""
    found: dict[str, str] = {}
    for word in words(question):
        if word not in STOP_WORDS:
            found.setdefault(stem(word), word)
    return found


def marked(markdown: str) -> Iterator[tuple[str, bool]]:
    """Each line, and whether it belongs to a fenced code block (its fences included)."""
    fence = ""
    for line in markdown.splitlines():
        found = _FENCE.match(line)
        if fence:
            yield line, True
            if found and found.group(1).startswith(fence):
                fence = ""
        else:
            fence = found.group(1) if found else ""
            yield line, bool(fence)


def prose(markdown: str) -> Iterator[str]:
    """The paragraphs, list items and table rows of a section as plain text. Code blocks are left out.

    A row of more than two columns names its columns, since a cell says little without its heading.
    """
    block: list[str] = []
    columns: list[str] = []
    for line, is_code in marked(markdown):
        is_row = not is_code and line.lstrip().startswith("|")
        if block and (is_code or is_row or not line.strip() or _ITEM.match(line)):
            yield " ".join(block)
            block = []
        if not is_row:
            columns = []
        if is_code or not line.strip() or _TABLE_RULE.match(line):
            continue
        if not is_row:
            block.append(plain(_ITEM.sub("", line.lstrip("> "))))
        elif not columns:
            columns = _cells(line)
        else:
            yield _row(columns, _cells(line))
    if block:
        yield " ".join(block)


def _cells(line: str) -> list[str]:
    return [plain(cell) for cell in _CELL_END.split(line.strip().removeprefix("|").removesuffix("|"))]


def _row(columns: list[str], cells: list[str]) -> str:
    if len(cells) == 2:
        return ": ".join(cell for cell in cells if cell)
    pairs = zip(columns[1:], cells[1:], strict=False)
    named = [f"{column}: {cell}" if column else cell for column, cell in pairs if cell]
    return f"{cells[0]} – {'; '.join(named)}" if named else cells[0]


def sentences(markdown: str) -> Iterator[str]:
    """The sentences of a section's prose, in order."""
    for block in prose(markdown):
        for sentence in _SENTENCE_END.split(block):
            if sentence.strip():
                yield sentence.strip()


def plain(line: str) -> str:
    """One line of Markdown without its marks: emphasis, code ticks, link targets and tags."""
    return " ".join(_MARKS.sub("", _LINK.sub(r"\1", line)).split())


def clipped(text: str, length: int) -> str:
    """The text, or its beginning up to a word's end with an ellipsis, in at most `length` characters."""
    if len(text) <= length:
        return text
    head = text[: length - 1]
    return head[: head.rfind(" ") if " " in head[length // 2 :] else len(head)].rstrip(",;:. ") + "…"
