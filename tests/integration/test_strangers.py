"""The strangers of `tests/hostile.py` are there in these tests, whether or not a test thinks of them."""

from __future__ import annotations

import pytest
from fastapi import FastAPI, WebSocket

from tests.hostile import Strangers
from tests.integration.conftest import Serve
from tests.integration.support import serving
from websocket_core.log import Batch, Position
from websocket_core.logs.memory import MemoryLog
from websocket_core.unified_manager import UnifiedWebSocketManager


@pytest.mark.parametrize("hostile", [True, False])
async def test_they_are_beside_an_application_that_is_served(
    serve: Serve, strangers: list[Strangers], hostile: bool
) -> None:
    async with serve(hostile=hostile) as (site, application), site.client("alice") as alice:
        await application.run()
        await alice.has(6)
        stats = application.manager.get_stats()
        assert stats["total_users"] == (2 if hostile else 1), "they do not count"
    (beside,) = strangers
    assert beside.manager is application.manager
    assert len(beside.all) > 10, "they came again with what there was to name"
    assert all(stranger.socket.frames[0]["user_id"] == stranger.user for stranger in beside.all)


async def test_they_are_beside_an_endpoint_of_ones_own(strangers: list[Strangers]) -> None:
    manager = UnifiedWebSocketManager()
    app = FastAPI()

    @app.websocket("/live/ws")
    async def endpoint(websocket: WebSocket) -> None:
        await (await manager.connect_user(websocket, "alice")).serve()

    async with serving(app) as site, site.client(None) as alice:
        await manager.get_emitter("alice").emit("custom", {"n": 1})
        await alice.has(1)
        await manager.shutdown()
    assert [each.manager for each in strangers] == [manager]
    assert len(strangers[0].all) > 5


async def test_they_notice_a_leak_in_an_application_that_is_served(strangers: list[Strangers]) -> None:
    class Leaking(MemoryLog):
        async def read(self, log: object, after: Position | None, limit: int) -> Batch:
            alices, hers = next(
                ((name, held) for name, held in self._logs.items() if name.name == "alice"), (log, None)
            )
            batch = await super().read(alices if hers is not None else log, None, limit)  # type: ignore[arg-type]
            return batch._replace(entries=[entry._replace(log=log) for entry in batch.entries])  # type: ignore[arg-type]

    async with UnifiedWebSocketManager(Leaking()) as manager:
        await manager.get_emitter("alice").emit("custom", {"n": 1})
    with pytest.raises(AssertionError, match="was sent events"):
        strangers[0].judge()
    strangers.clear()
