"""A Redis user that may do no more than the guide says is enough."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError

from bridge import AgentWebSocketBridge, UserExecutionContext
from tests.redis.marks import NEEDS_REDIS
from tests.redis.server import RedisServer
from tests.support import Tab, a_manager
from websocket_core.commands import Command, Commands

pytestmark = NEEDS_REDIS

RULES = (
    "~myapp:* resetchannels &myapp:* "
    "+@read +@write +@scripting +@pubsub +@connection -@dangerous +time +info +client|kill"
)
"""As in docs/guides/redis.md, which a test of the documentation compares."""


async def test_everything_works_for_a_user_with_the_rights_that_the_guide_names(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    try:
        admin: Redis = Redis.from_url(server.url)
        admin.execute_command("ACL", "SETUSER", "app", "on", ">secret", *RULES.split())  # type: ignore[no-untyped-call]
        url = server.url.replace("redis://", "redis://app:secret@")
        async with a_manager(url, namespace="myapp") as here, a_manager(url, namespace="myapp") as there:
            tab = await Tab.open(here, "alice")
            await tab.greeted()
            context = UserExecutionContext(user_id="alice", run_id="r1", thread_id="t1")
            async with AgentWebSocketBridge(there, context).run("planner") as run:
                await run.thinking("a")
            await tab.has(3)
            done: list[str] = []

            async def handler(command: Command) -> None:
                done.append(command.user_id)
                working.stop()

            working = Commands(there)
            await Commands(here).submit("alice", "message", {})
            await working.work(handler)
            assert done == ["alice"]
            await there.revoke("alice")
            assert await tab.ended() == 4410
            server.kill()
            server.start()
            admin.execute_command("ACL", "SETUSER", "app", "on", ">secret", *RULES.split())  # type: ignore[no-untyped-call]

            await there.get_emitter("alice").emit("t", {"n": 1})
            await there.delete_user("alice")
            restricted: Redis = Redis.from_url(url)
            with pytest.raises(NoPermissionError):
                restricted.set("other:key", "x")
            with pytest.raises(NoPermissionError):
                restricted.flushall()
            restricted.close()
            admin.close()
    finally:
        server.stop()


def test_the_guide_names_these_rights() -> None:
    guide = Path(__file__).resolve().parents[2] / "docs" / "guides" / "redis.md"
    assert RULES in guide.read_text(encoding="utf-8")
