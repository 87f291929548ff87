"""The documentation as a small library: read from disk once, split by headings, searched with BM25.

Everything the agent's tools do happens here, on real files, without a network. Nothing outside the repository's own
Markdown can be opened: a document is looked up by name in what was loaded, never by path on the disk.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from examples.docs_agent.text import marked, plain, terms, words

_HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*#*\s*$")
_HEADING_WEIGHT = 3  # a word in a section's heading counts as often as three in its text
_MAX_DOCUMENTS = 500
_MAX_DOCUMENT_BYTES = 1_048_576


class DocumentNotFound(LookupError):
    """No document of that name was loaded. Ask for one of `Library.documents`."""


@dataclass(frozen=True, slots=True)
class Section:
    """One heading and the text under it, up to the next heading of any level."""

    id: str
    document: str
    heading: str
    line: int
    text: str
    counts: Mapping[str, int]  # of each term, in heading and text
    weights: Mapping[str, int]  # the same, where one in the heading counts for more


@dataclass(frozen=True, slots=True)
class Hit:
    """A section that matches a search, and how well (BM25; higher is better)."""

    section: Section
    score: float


class Library:
    """The loaded sections and their index. Immutable once made."""

    def __init__(self, sections: Iterable[Section], counts: Mapping[str, Mapping[str, int]]) -> None:
        """`counts` says of each document how often it holds each term, also where no section does."""
        self.sections = tuple(sections)
        self._counts = counts
        self.documents = tuple(dict.fromkeys(section.document for section in self.sections))
        self._by_id = {section.id: section for section in self.sections}
        self._holding: Counter[str] = Counter(term for section in self.sections for term in section.weights)
        self._lengths = {section.id: sum(section.counts.values()) for section in self.sections}
        self._mean_length = max(1.0, sum(self._lengths.values()) / max(1, len(self.sections)))

    @classmethod
    def load(cls, root: Path) -> Library:
        """Reads the Markdown at the root and under `docs/`; not what a link puts outside `root`, nor over 1 MiB."""
        root = root.resolve()
        paths = sorted(root.glob("*.md")) + sorted((root / "docs").rglob("*.md"))
        sections: list[Section] = []
        counts: dict[str, Counter[str]] = {}
        for path in paths[:_MAX_DOCUMENTS]:
            if path.resolve().is_relative_to(root) and path.is_file() and path.stat().st_size <= _MAX_DOCUMENT_BYTES:
                text = path.read_text(encoding="utf-8", errors="replace")
                name = path.relative_to(root).as_posix()
                sections.extend(split(name, text))
                counts[name] = Counter(terms(text))
        return cls(sections, counts)

    def rarity(self, term: str) -> float:
        """The weight of a term: how few sections hold it (BM25's inverse document frequency, never negative)."""
        holding = self._holding[term]
        return math.log(1 + (len(self.sections) - holding + 0.5) / (holding + 0.5))

    def search(self, query: Iterable[str], limit: int = 5) -> list[Hit]:
        """The best sections for the query's terms, best first. Robertson and Walker's BM25, k1 = 1.2, b = 0.75."""
        wanted = tuple(dict.fromkeys(query))
        hits = []
        for section in self.sections:
            score = 0.0
            for term in wanted:
                count = section.weights.get(term, 0)
                if count:
                    norm = 1.2 * (0.25 + 0.75 * self._lengths[section.id] / self._mean_length)
                    score += self.rarity(term) * count * 2.2 / (count + norm)
            if score > 0:
                hits.append(Hit(section, round(score, 3)))
        hits.sort(key=lambda hit: (-hit.score, hit.section.id))
        return hits[:limit]

    def section(self, section_id: str) -> Section:
        """The section of that id, as a search names it."""
        try:
            return self._by_id[section_id]
        except KeyError:
            raise DocumentNotFound(f"there is no section {section_id!r}; ids come from a search") from None

    def document(self, name: str) -> tuple[Section, ...]:
        """The sections of one document, by its path in the repository, or by a file name that only one has."""
        exact = [document for document in self.documents if document == name]
        named = exact or [document for document in self.documents if document.rpartition("/")[2] == name]
        if len(named) != 1:
            raise DocumentNotFound(f"there is no document {name!r}; {_naming(self.documents)}")
        return tuple(section for section in self.sections if section.document == named[0])

    def count(self, document: str, wanted: Iterable[str]) -> dict[str, int]:
        """How often each term occurs in one document, headings and code included. Terms that do not are left out."""
        here = self._counts[self.document(document)[0].document]
        return {term: here[term] for term in wanted if here.get(term)}


def split(document: str, markdown: str) -> Iterator[Section]:
    """The sections of one document in order. A heading inside a code block is text; an empty section is left out."""
    used: Counter[str] = Counter()
    for heading, line, body in _headed(document, markdown):
        if body.strip():
            slug = "-".join(words(heading)) or "section"
            used[slug] += 1
            anchor = f"{slug}-{used[slug]}" if used[slug] > 1 else slug
            yield _section(document, heading, line, body.strip(), anchor)


def _headed(document: str, markdown: str) -> Iterator[tuple[str, int, str]]:
    heading, start, body = document, 1, list[str]()
    for number, (line, is_code) in enumerate(marked(markdown), start=1):
        found = None if is_code else _HEADING.match(line)
        if found is None:
            body.append(line)
        else:
            yield heading, start, "\n".join(body)
            heading, start, body = plain(found.group(2)), number, []
    yield heading, start, "\n".join(body)


def _section(document: str, heading: str, line: int, text: str, anchor: str) -> Section:
    in_heading = terms(heading)
    counts = Counter(terms(text) + in_heading)
    weights = counts + Counter(in_heading * (_HEADING_WEIGHT - 1))
    return Section(f"{document}#{anchor}", document, heading, line, text, counts, weights)


def _naming(documents: tuple[str, ...]) -> str:
    if not documents:
        return "none was found beside this program"
    shown = ", ".join(documents[:6])
    return f"the documents are {shown}" + (f" and {len(documents) - 6} more" if len(documents) > 6 else "")
