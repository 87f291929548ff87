"""`Commands`: what users ask for travels from their sockets to workers, each taken by exactly one.

A connection's frame becomes an item of a work queue, with the user who was authenticated and never one that the frame
names. A worker in any process takes it, and settles it when its handler has returned. See `websocket_core.work`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, runtime_checkable

from websocket_core.appender import Appender
from websocket_core.authorization import Authorization, Verb
from websocket_core.errors import FrameRefused, InvalidConfiguration, InvalidEvent, LogUnavailable
from websocket_core.events import RESERVED_TYPES, EventEncoder, check_event_id, encode_json
from websocket_core.identity import UserId, checked_user_id, text_fault
from websocket_core.inbound import FrameHandler, Peer
from websocket_core.limits import Limits
from websocket_core.logs.queues import Queues
from websocket_core.metrics import Metrics
from websocket_core.shift import Handler, Shift
from websocket_core.work import Held, Item, Put, WorkLimits

OURS: Final = RESERVED_TYPES | {"auth", "subscribe", "unsubscribe", "cancel", "approve"}
"""Types of frames that are no application's."""

Check = Callable[[dict[str, Any]], object]
"""Looks at the data of a command, and refuses it by raising `ValueError`, as pydantic does."""


class CommandHost(Protocol):
    """What commands need of a manager or a worker."""

    @property
    def queues(self) -> Queues: ...

    @property
    def encoder(self) -> EventEncoder: ...

    @property
    def limits(self) -> Limits: ...

    @property
    def metrics(self) -> Metrics: ...

    @property
    def appender(self) -> Appender: ...


@runtime_checkable
class AnsweringHost(Protocol):
    """What they need of one that has connections."""

    @property
    def authorization(self) -> Authorization: ...

    @property
    def frame_handlers(self) -> dict[str, FrameHandler]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What a user asks for, as a worker gets it."""

    user_id: UserId
    """Who was authenticated on the connection that it came from."""
    type: str
    data: dict[str, Any] = field(repr=False)
    command_id: str
    thread_id: str | None = None
    connection_id: str | None = None
    """The connection that it came from; an answer may be emitted to that one alone."""
    attempt: int = 1
    submitted_at: float = 0.0
    """Unix seconds, by the clock of the store."""


class Commands:
    """The commands of one application. `host` is a `UnifiedWebSocketManager`, or in a worker process a `Worker`.

    All objects with the same log, namespace and `queue` share their commands; all have the same `limits`. Raises
    `InvalidConfiguration`.
    """

    def __init__(self, host: CommandHost, *, queue: str = "commands", limits: WorkLimits | None = None) -> None:
        self.limits: Final = limits or WorkLimits()
        self._host = host
        self._queue = host.queues.of(queue, self.limits)
        self._shifts: dict[object, Shift[Command]] = {}
        self._stopped = False

    # -- where users are connected

    def accept(self, frame_type: str, *, check: Check | None = None) -> None:
        """Take frames of this type from every connection of the manager: `{"type": ..., "command_id": ..., "data":
        {...}, "thread_id": ...}`, all but the type optional. They are answered by an `ack` whose result is
        `{command_id}` once the command waits for a worker, or by an `error`.

        The same user's command of the same `command_id` is taken once. One without is given an id, and is taken as
        often as it comes. `check` is called with the data. Raises `InvalidConfiguration`.
        """
        host = self._host
        if not isinstance(host, AnsweringHost):
            raise InvalidConfiguration("frames are accepted where connections are: make Commands of a manager")
        if fault := text_fault(frame_type, characters=128, utf8_bytes=512):
            raise InvalidConfiguration(f"this is not a type of frames: {fault}")
        if frame_type in OURS or frame_type in host.frame_handlers:
            raise InvalidConfiguration(f"frames of type {frame_type!r} have a meaning already; choose another type")
        authorization = host.authorization

        async def accept(peer: Peer, frame: Mapping[str, Any]) -> Mapping[str, Any]:
            data = frame.get("data", {})
            try:
                item = self._item(
                    peer.user_id, frame_type, data, frame.get("command_id"),
                    frame.get("thread_id"), peer.connection_id,
                )  # fmt: skip
                if len(item.body) > self._host.limits.frame_bytes:
                    raise FrameRefused("too_large", "the data is too large")
                if check is not None:
                    check(data)  # which is encoded already: a check changes nothing
            except ValueError:
                raise FrameRefused("invalid", "this is not what this command takes") from None
            try:
                refusal = await authorization.refusal(peer.principal, Verb.COMMAND, peer.user_id)
                if refusal is not None:
                    raise FrameRefused("forbidden", "commands may not be given here")
                await self._put(item)
            except LogUnavailable:
                raise FrameRefused("unavailable", "try again later, with the same command_id") from None
            return {"command_id": item.id}

        host.frame_handlers[frame_type] = accept

    async def submit(
        self,
        user_id: str,
        command_type: str,
        data: dict[str, Any],
        *,
        command_id: str | None = None,
        thread_id: str | None = None,
        connection_id: str | None = None,
    ) -> str:
        """Hand in a command for a user, from an endpoint or a job of one's own; its command id.

        Raises `InvalidUserId` and `InvalidEvent`; `FrameRefused` with code `limit` when too many wait; and
        `LogUnavailable`, when the outcome is unknown: submit it again with the same `command_id`.
        """
        item = self._item(checked_user_id(user_id), command_type, data, command_id, thread_id, connection_id)
        if len(item.body) > self._host.limits.event_bytes:
            raise InvalidEvent(f"the data has {len(item.body)} bytes, which is more than Limits.event_bytes")
        await self._put(item)
        return item.id

    def _item(
        self,
        user_id: UserId,
        command_type: str,
        data: object,
        command_id: object,
        thread_id: object,
        connection_id: str | None,
    ) -> Item:
        """Raises `InvalidEvent`."""
        if not isinstance(data, dict):
            raise InvalidEvent(f"the data of a command is a dict, not {type(data).__name__}")
        for what, text, characters in (("type", command_type, 128), ("thread_id", thread_id, 256)):
            if text is not None and (fault := text_fault(text, characters=characters, utf8_bytes=4 * characters)):
                raise InvalidEvent(f"the {what} of a command: {fault}")
        known = self._host.encoder.new_id() if command_id is None else check_event_id(command_id)  # type: ignore[arg-type]
        body = encode_json(data, depth=self._host.limits.event_depth)
        return Item(user_id, known, command_type, body, thread_id, connection_id)  # type: ignore[arg-type]

    async def _put(self, item: Item) -> None:
        put = await self._queue.put(item)
        if put is Put.FULL:
            self._host.metrics.commands_refused += 1
            raise FrameRefused("limit", "too many commands wait; try again later, with the same command_id")
        if put is Put.TAKEN:
            self._host.metrics.commands_accepted += 1

    # -- where they are worked on

    async def work(
        self,
        handler: Handler[Command],
        *,
        concurrency: int = 8,
        given_up: Handler[Command] | None = None,
    ) -> None:
        """Take commands and await `handler` with each, so many at once, until `stop` or a cancellation.

        A command is done when the handler has returned. When it raised, the command is tried again after a pause, here
        or elsewhere; after `WorkLimits.attempts` it is a dead letter, and `given_up` is awaited with it. When this
        process dies, another takes the command within a lease, so a handler may see a command twice and must bear it:
        `command_id` and event ids made of it are the means. A handler that blocks the event loop for as long as the
        lease counts as dead. Cancelled, this cancels the handlers, and others take their commands at once.

        Never raises because of Redis, which it waits for; raises `ManagerClosed` when the host was shut down.
        """
        if concurrency < 1:
            raise InvalidConfiguration("concurrency is a number above zero")
        shift = Shift(
            self._queue,
            self.limits,
            worker=self._host.encoder.new_id(),
            concurrency=concurrency,
            open_item=_opened,
            handler=handler,
            given_up=given_up,
            metrics=self._host.metrics,
            closed=lambda: self._host.appender.closed,
        )
        if self._stopped:
            return
        token = object()
        self._shifts[token] = shift
        try:
            await shift.run()
        finally:
            del self._shifts[token]

    def stop(self) -> None:
        """Take no more commands with this object: every `work` returns when its handlers have, and one that begins
        later at once. For a signal handler."""
        self._stopped = True
        for shift in self._shifts.values():
            shift.stop()

    async def dead_letters(self, most: int = 100) -> list[Command]:
        """The commands that were given up lately, newest first. Raises `LogUnavailable`."""
        opened = [_opened(held) for held in await self._queue.dead(most)]
        return [command for command in opened if command is not None]


def _opened(held: Held) -> Command | None:
    """The command that an item carries; None for one that carries none."""
    item = held.item
    try:
        data = json.loads(item.body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict):
        return None
    return Command(
        user_id=item.owner,
        type=item.kind,
        data=data,
        command_id=item.id,
        thread_id=item.thread_id,
        connection_id=item.connection_id,
        attempt=held.attempt,
        submitted_at=held.put_at,
    )
