"""Runs the unmarked Python blocks of one page in order, in one namespace, as `python -m asyncio` would.

Called in a process of its own with the page's name; the blocks come as JSON on standard input: `[[line, text], ...]`.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import sys


async def run(page: str, blocks: list[tuple[int, str]]) -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    for line, text in blocks:
        # Moved down, so that a traceback names the line of the page.
        code = compile("\n" * (line - 1) + text, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        if code.co_flags & inspect.CO_COROUTINE:
            await eval(code, namespace)
        else:
            exec(code, namespace)


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], json.load(sys.stdin)))
