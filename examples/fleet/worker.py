"""The process of the fleet that works: `python -m examples.fleet.worker worker-1`. It serves nobody."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

from examples.docs_agent.agent import Librarian
from examples.docs_agent.app import REPOSITORY, answer_question
from examples.docs_agent.library import DocumentNotFound, Library
from examples.fleet.server import NAMESPACE
from websocket_core import UnifiedWebSocketManager
from websocket_core.commands import Command, Commands


async def work() -> None:
    """Answer one question after the other until told to end."""
    librarian = Librarian(Library.load(REPOSITORY))
    async with UnifiedWebSocketManager(log=os.environ["FLEET_REDIS"], namespace=NAMESPACE) as manager:

        async def answer(command: Command) -> None:
            question = str(command.data["question"])
            with contextlib.suppress(DocumentNotFound):  # told to the user as the end of the run
                await answer_question(manager, librarian, command.user_id, command.command_id, question)

        commands = Commands(manager)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, commands.stop)
        await commands.work(answer, concurrency=16)


if __name__ == "__main__":
    asyncio.run(work())
