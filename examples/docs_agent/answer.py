"""What the agent says: sentences chosen from the sections it read, and where they stand. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from examples.docs_agent.library import Library, Section
from examples.docs_agent.text import clipped, sentences, terms

_QUOTES = 4
_QUOTES_PER_SECTION = 2
_SHORTEST = 24  # characters; below that a sentence is a fragment or a label
_TELLING = 70
_LONGEST = 420


@dataclass(frozen=True, slots=True)
class Quote:
    """One sentence of the documentation, and how much of the question it holds."""

    text: str
    section: Section
    score: float


def quotes(library: Library, sections: Sequence[Section], wanted: Mapping[str, str]) -> list[Quote]:
    """The sentences that hold most of the question, rarest words first, in the order of the sections they come from."""
    found: list[Quote] = []
    for rank, section in enumerate(sections):
        told = [text for text in sentences(section.text) if len(text) >= _SHORTEST]
        scored = [Quote(text, section, _score(library, text, wanted) / (1 + rank / 4)) for text in told]
        scored = [quote for quote in scored if quote.score > 0]
        scored.sort(key=lambda quote: -quote.score)
        found.extend(scored[:_QUOTES_PER_SECTION])
    best = sorted(found, key=lambda quote: -quote.score)[:_QUOTES]
    floor = best[0].score / 3 if best else 0.0
    return [quote for quote in found if quote in best and quote.score >= floor]


def _score(library: Library, sentence: str, wanted: Mapping[str, str]) -> float:
    here = set(terms(sentence))
    held = [library.rarity(term) for term in wanted if term in here]
    # Words that stand together say more than one of them often; a label says little, and a long sentence holds
    # more by chance.
    together = (1 + len(held)) / (1 + len(wanted))
    return sum(held) * together * min(1.0, len(sentence) / _TELLING) / (1 + len(sentence) / _LONGEST)


def sources(chosen: Sequence[Quote]) -> list[dict[str, object]]:
    """The sections quoted, numbered from 1 in the order of their first quote."""
    seen: dict[str, Section] = {}
    for quote in chosen:
        seen.setdefault(quote.section.id, quote.section)
    return [
        {"number": number, "document": section.document, "heading": section.heading, "line": section.line}
        for number, section in enumerate(seen.values(), start=1)
    ]


def composed(chosen: Sequence[Quote], counts: Mapping[str, Mapping[str, int]], wanted: Mapping[str, str]) -> str:
    """The answer: each quote with the number of its source, then what was counted."""
    quoted = dict.fromkeys(quote.section.id for quote in chosen)
    number = {section_id: place for place, section_id in enumerate(quoted, start=1)}
    paragraphs = ["This is what the documentation says." if chosen else "No single sentence of it answers this."]
    paragraphs += [f"“{clipped(quote.text, _LONGEST)}” [{number[quote.section.id]}]" for quote in chosen]
    return "\n\n".join([*paragraphs, counted(counts, wanted)])


def counted(counts: Mapping[str, Mapping[str, int]], wanted: Mapping[str, str]) -> str:
    """One sentence about how often the question's words occur, and where most."""
    totals = {term: sum(here.get(term, 0) for here in counts.values()) for term in wanted}
    parts = [f"“{wanted[term]}” {_times(total)}" for term, total in totals.items()]
    holding = [document for document, here in counts.items() if here]
    if not holding:
        return "None of the words you asked about occurs in it."
    most = max(holding, key=lambda document: sum(counts[document].values()))
    where = f"all in {most}" if len(holding) == 1 else f"in {len(holding)} documents, most in {most}"
    return f"Counted: {_listed(parts)}; {where}."


def nothing_found(library: Library, wanted: Mapping[str, str]) -> str:
    """What is said when no section matches: that nothing does, and in what."""
    if not library.sections:
        return "There is no documentation beside this program, so there is nothing to answer from."
    if not wanted:
        return "There is no word here that I could look up. Ask about a thing: a cursor, a gap, a heartbeat."
    looked = _listed([f"“{word}”" for word in wanted.values()], last="or")
    return (
        f"Nothing in the documentation speaks of {looked}. I looked in {len(library.sections)} sections of "
        f"{len(library.documents)} documents and will not guess."
    )


def outlined(document: Sequence[Section]) -> str:
    """What a document holds: its first sentences and its headings."""
    first = document[0]
    opening = " ".join(list(sentences(first.text))[:2])
    headings = [section.heading for section in document[1:]]
    outline = f"\n\nIts sections: {'; '.join(headings[:12])}{' …' if len(headings) > 12 else '.'}" if headings else ""
    return f"{first.document} begins: “{clipped(opening or first.heading, _LONGEST)}” [1]{outline}"


def _times(count: int) -> str:
    return {0: "not at all", 1: "once", 2: "twice"}.get(count, f"{count} times")


def _listed(parts: Sequence[str], last: str = "and") -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {last} {parts[-1]}"
