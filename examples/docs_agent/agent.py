"""The librarian: answers a question about the documentation by searching, reading and counting, and tells what it does.

It is an ordinary agent. Of the SDK it knows the bridge's run: `thinking`, `tool`, `delta`, `emit` and `result`.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass

from bridge import AgentRun, AgentWebSocketBridge
from examples.docs_agent import answer
from examples.docs_agent.library import Library, Section
from examples.docs_agent.text import clipped, question_terms

_READ = re.compile(r"\s*(?:please\s+)?(?:read|open|show)\s+(?:me\s+)?([\w./-]+\.md)\s*[.!?]?\s*", re.IGNORECASE)
_SECTIONS_READ = 3
_SHOWN = 600  # characters of a section that a tool's result shows


@dataclass(frozen=True, slots=True)
class Pace:
    """How long the agent lingers, in seconds, so that a person can follow it and press Stop. Zero in tests."""

    word: float = 0.025
    step: float = 0.45


class Librarian:
    """Answers questions from one library. Holds nothing about any user or run."""

    def __init__(self, library: Library, pace: Pace | None = None) -> None:
        self._library = library
        self._pace = pace or Pace()

    async def answer(self, bridge: AgentWebSocketBridge, question: str) -> None:
        """Answers in one run of the bridge. Raises `DocumentNotFound` when told to read what does not exist."""
        asked_for = _READ.fullmatch(question)
        if asked_for:
            await self._read(bridge, question, asked_for.group(1))
        else:
            await self._answer(bridge, question)

    async def _answer(self, bridge: AgentWebSocketBridge, question: str) -> None:
        library = self._library
        wanted = question_terms(question)
        async with bridge.run("librarian") as run:
            await run.emit("question_asked", {"question": question})
            words = ", ".join(wanted.values()) or "none that I could look up"
            await run.thinking(f"The words that matter here: {words}.")
            await self._step()
            async with run.tool("search_documentation", query=question) as tool:
                hits = library.search(wanted)
                tool.result = {
                    "sections_searched": len(library.sections),
                    "hits": [
                        {"section": hit.section.id, "heading": hit.section.heading, "score": hit.score} for hit in hits
                    ],
                }
            if not hits:
                text = answer.nothing_found(library, wanted)
                await self._say(run, text)
                run.result = {"answer": text, "sources": []}
                return

            sections = [hit.section for hit in hits[:_SECTIONS_READ]]
            best = sections[0]
            await run.thinking(f"“{best.heading}” in {best.document} fits best. Reading {_number(len(sections))}.")
            for section in sections:
                await self._step()
                async with run.tool("read_section", section=section.id) as tool:
                    tool.result = _shown(library.section(section.id))

            await self._step()
            async with run.tool("count_words", words=list(wanted.values())) as tool:
                counts: dict[str, dict[str, int]] = {}
                for document in library.documents:
                    counts[document] = library.count(document, wanted)
                    await tool.progress(document=document, done=len(counts), of=len(library.documents))
                    await asyncio.sleep(2 * self._pace.step / len(library.documents))
                tool.result = {
                    "documents": {
                        document: {wanted[term]: count for term, count in here.items()}
                        for document, here in counts.items()
                        if here
                    }
                }

            chosen = answer.quotes(library, sections, wanted)
            await run.thinking(f"Quoting {_number(len(chosen))} of the sentences I read, and what I counted.")
            await self._step()
            text = answer.composed(chosen, counts, wanted)
            await self._say(run, text)
            run.result = {"answer": text, "sources": answer.sources(chosen)}

    async def _read(self, bridge: AgentWebSocketBridge, question: str, name: str) -> None:
        async with bridge.run("librarian") as run:
            await run.emit("question_asked", {"question": question})
            await run.thinking(f"I am to read {name}.")
            await self._step()
            async with run.tool("read_document", document=name) as tool:
                sections = self._library.document(name)
                tool.result = {
                    "document": sections[0].document,
                    "sections": [section.heading for section in sections],
                    "words": sum(len(section.text.split()) for section in sections),
                }
            await self._step()
            text = answer.outlined(sections)
            await self._say(run, text)
            first = sections[0]
            source = {"number": 1, "document": first.document, "heading": first.heading, "line": first.line}
            run.result = {"answer": text, "sources": [source]}

    async def _say(self, run: AgentRun, text: str) -> None:
        for word in re.findall(r"\S+\s*|\s+", text):
            await run.delta(word)
            await asyncio.sleep(self._pace.word)

    async def _step(self) -> None:
        await asyncio.sleep(self._pace.step)


def _shown(section: Section) -> dict[str, object]:
    return {
        "document": section.document,
        "heading": section.heading,
        "line": section.line,
        "words": len(section.text.split()),
        "text": clipped(section.text, _SHOWN),
    }


def _number(count: int) -> str:
    return {0: "none", 1: "one", 2: "two", 3: "three", 4: "four"}.get(count, str(count))
