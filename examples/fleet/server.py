"""One server process of the fleet: `python -m examples.fleet.server server-1`."""

from __future__ import annotations

import os
import sys
import uuid

from fastapi import FastAPI

from examples.docs_agent.app import create_app
from examples.docs_agent.session import Sessions
from websocket_core import UnifiedWebSocketManager, WebSocketConnection
from websocket_core.commands import Commands
from websocket_core.identity import UserId
from websocket_core.server import run

NAMESPACE = "fleet"
QUESTION = "question"


def create(name: str) -> FastAPI:
    """The demo on the Redis of the fleet. It answers nothing itself, and tells each connection where it is."""

    async def tell(connection: WebSocketConnection) -> None:
        emitter = manager.get_emitter(connection.user_id)
        await emitter.emit("served_by", {"process": name}, connection_id=connection.connection_id)

    manager = UnifiedWebSocketManager(log=os.environ["FLEET_REDIS"], namespace=NAMESPACE, on_connect=tell)
    commands = Commands(manager)

    async def ask(user: UserId, question: str) -> str:
        run_id = uuid.uuid4().hex
        await commands.submit(user, QUESTION, {"question": question}, command_id=run_id)
        return run_id

    def kill(victim: str) -> None:
        os.write(int(os.environ["FLEET_ORDERS"]), f"{victim}\n".encode())

    return create_app(manager=manager, sessions=Sessions(key=os.environ["FLEET_KEY"]), ask=ask, kill=kill)


if __name__ == "__main__":
    run(create(sys.argv[1]), fd=int(os.environ["FLEET_SOCKET"]), drain=2.0)
