"""`Emitters`: the emitters that a manager has handed out."""

from __future__ import annotations

import weakref

from websocket_core.identity import UserId
from websocket_core.unified_emitter import EmitterHost, UnifiedWebSocketEmitter


class Emitters:
    """The same emitter for a user while the user is connected or somebody holds it."""

    def __init__(self, host: EmitterHost) -> None:
        self._host = host
        self._held: weakref.WeakValueDictionary[UserId, UnifiedWebSocketEmitter] = weakref.WeakValueDictionary()
        self._kept: dict[UserId, UnifiedWebSocketEmitter] = {}

    def __len__(self) -> int:
        return len(self._held)

    def of(self, user_id: UserId) -> UnifiedWebSocketEmitter:
        emitter = self._held.get(user_id)
        if emitter is None:
            emitter = self._held[user_id] = UnifiedWebSocketEmitter(self._host, user_id)
        return emitter

    def keep(self, user_id: UserId) -> None:
        """Keep the emitter of a user who is connected, if there is one."""
        emitter = self._held.get(user_id)
        if emitter is not None:
            self._kept[user_id] = emitter

    def release(self, user_id: UserId) -> None:
        """The user is not connected any more."""
        self._kept.pop(user_id, None)

    def clear(self) -> None:
        """Keep none."""
        self._kept.clear()
