"""The processes of `benchmarks.redis_log`: `python -m benchmarks.redis_roles ROLE STACK URL JSON`.

A role prints one line of JSON when it is ready, begins at a line on its standard input, and prints what it measured
when it is done, or, if it only listens, at the next line.
"""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from websocket_core.cursor import LogCursor
from websocket_core.events import Event, EventEncoder, owner_part
from websocket_core.identity import Grant, LogName, Principal, UserId
from websocket_core.limits import Retention
from websocket_core.log import Position
from websocket_core.logs.redis import RedisLog
from websocket_core.logs.redis.addresses import Addresses
from websocket_core.logs.redis.link import Link, pack
from websocket_core.logs.redis.names import Namespace

TEXT = "x" * 143
"""With it an event is 300 bytes as it is stored."""
Publish = Callable[[int], Awaitable[Any]]
"""Publishes one event to the user of that number, with the time in it."""


async def line() -> str:
    return await asyncio.to_thread(sys.stdin.readline)


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def settle() -> None:
    """What was made to get here is not measured, in no stack: a collection of it would take a tenth of a second."""
    gc.collect()
    gc.freeze()


def cpu() -> float:
    return time.process_time()


def our_publisher(url: str, options: dict[str, Any]) -> tuple[Publish, Callable[[], Awaitable[None]]]:
    log = RedisLog(url, Retention(events=options.get("retained", 5_000)), namespace="bench")
    encoder = EventEncoder(event_bytes=262_144, event_depth=32)
    names = [LogName.of_user(UserId(f"user-{number}")) for number in range(options["users"])]
    owners = [owner_part(UserId(name.name)) for name in names]

    def encoded(number: int) -> Event:
        return encoder.encode("agent_thinking", {"thought": TEXT, "sent": time.monotonic()}, owners[number])

    ready = [[encoded(number) for _ in range(options.get("encoded", 0))] for number in range(len(names))]

    async def publish(number: int) -> Position:
        return await log.append(names[number], ready[number].pop() if ready[number] else encoded(number))

    return publish, log.close


def socketio_publisher(url: str, options: dict[str, Any]) -> tuple[Publish, Callable[[], Awaitable[None]]]:
    import socketio

    manager = socketio.AsyncRedisManager(url, write_only=True)

    async def publish(number: int) -> None:
        data = {"thought": TEXT, "sent": time.monotonic()}
        await manager.emit("agent_thinking", data, room=f"user-{number}")

    async def close() -> None:
        await manager.redis.aclose()

    return publish, close


def channels_publisher(url: str, options: dict[str, Any]) -> tuple[Publish, Callable[[], Awaitable[None]]]:
    from channels_redis.pubsub import RedisPubSubChannelLayer

    layer = RedisPubSubChannelLayer(hosts=[url])

    async def publish(number: int) -> None:
        message = {"type": "agent_thinking", "thought": TEXT, "sent": time.monotonic()}
        await layer.group_send(f"user-{number}", message)

    async def close() -> None:
        await layer.flush()

    return publish, close


PUBLISHERS = {"ours": our_publisher, "python-socketio": socketio_publisher, "channels_redis": channels_publisher}


async def append(stack: str, url: str, options: dict[str, Any]) -> None:
    """`concurrent` callers that each publish one event after the other: `total` in all."""
    publish, close = PUBLISHERS[stack](url, options)
    users, callers, total = options["users"], options["concurrent"], options["total"]

    async def caller(first: int) -> None:
        for number in range(first, total, callers):
            await publish(number % users)

    await asyncio.gather(*[publish(number) for number in range(min(users, 16))])
    say(ready=True)
    await line()
    began, used = time.perf_counter(), cpu()
    await asyncio.gather(*[caller(first) for first in range(callers)])
    say(seconds=time.perf_counter() - began, cpu=cpu() - used, events=total)
    await close()


async def paced(stack: str, url: str, options: dict[str, Any]) -> None:
    """`rate` events a second for `seconds`, one user after the other, from `first` on."""
    publish, close = PUBLISHERS[stack](url, options)
    users, first, rate = options["users"], options.get("first", 0), options["rate"]
    many = 512 if stack == "ours" else 16
    for start in range(first, users if stack == "ours" else first + many, many):  # nobody's first event is measured
        await asyncio.gather(*[publish(number) for number in range(start, min(users, start + many))])
    settle()
    say(ready=True)
    await line()
    began, used = time.monotonic(), cpu()
    total = int(rate * options["seconds"])
    under_way: set[asyncio.Future[Any]] = set()
    for number in range(total):
        due = began + number / rate
        if (left := due - time.monotonic()) > 0.0002:
            await asyncio.sleep(left)
        task = asyncio.ensure_future(publish(first + number * 7919 % (users - first)))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    await asyncio.gather(*under_way)
    say(seconds=time.monotonic() - began, cpu=cpu() - used, events=total)
    await close()


def sent_at(body: bytes) -> float:
    return float(body[body.index(b'"sent":') + 7 :].split(b"}", 1)[0])


class Arrivals:
    """What a subscriber has received, and how long it was under way."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.count = 0

    def take(self, sent: float) -> None:
        self.count += 1
        self.latencies.append(time.monotonic() - sent)

    async def report(self) -> None:
        say(ready=True)
        await line()
        settle()
        say(settled=True)
        self.latencies.clear()
        self.count = 0
        began, used = time.monotonic(), cpu()
        await line()
        found = {"cpu": cpu() - used, "events": self.count, "seconds": time.monotonic() - began}
        if len(self.latencies) > 100:
            cuts = statistics.quantiles(self.latencies, n=100)
            found |= {"p50": cuts[49], "p99": cuts[98]}
        say(**found)


async def subscribe_ours(url: str, options: dict[str, Any]) -> None:
    """Called back with each entry, whose number, mark and predecessor were compared; with `cursors`, woken, and a
    cursor advanced, as that of a connection is."""
    log = RedisLog(url, namespace="bench")
    arrivals = Arrivals()
    woken: dict[LogCursor, None] = {}
    busy = [False]
    something = asyncio.Event()

    async def follow(number: int) -> None:
        cursor = LogCursor(Grant.own(Principal(f"user-{number}")), connection_id="bench")

        def wake() -> None:
            woken[cursor] = None
            something.set()

        def call_back() -> None:
            copies = log._follower().copies_of(cursor.log).copies  # type: ignore[union-attr]
            if copies:
                arrivals.take(sent_at(copies[-1].event.body))

        log.watch(cursor.log, wake if options["cursors"] else call_back)
        cursor.position = await log.open(cursor.log)

    async def read() -> None:
        while True:
            await something.wait()
            something.clear()
            busy[0] = True
            while woken:
                cursor = next(iter(woken))
                del woken[cursor]
                batch = await log.read(cursor.log, cursor.position, 256)
                for step in cursor.advance(batch):
                    arrivals.take(sent_at(step.event.body))  # type: ignore[union-attr]

    numbers = range(options["first"], options["first"] + options["users"])
    began, used = time.monotonic(), cpu()
    for start in range(0, len(numbers), 2_000):
        await asyncio.gather(*[follow(number) for number in numbers[start : start + 2_000]])
    print(f"following {len(numbers)}: {time.monotonic() - began:.2f} s, CPU {cpu() - used:.2f} s", file=sys.stderr)
    reading = asyncio.create_task(read())
    quiet = 0
    while quiet < 5:  # each subscription has its log compared with the position once
        await asyncio.sleep(0.2)
        quiet = 0 if busy[0] else quiet + 1
        busy[0] = False
    await asyncio.sleep(0.5)
    await arrivals.report()
    reading.cancel()
    await log.close()


async def subscribe_socketio(url: str, options: dict[str, Any]) -> None:
    """Takes each message off the channel that all processes share, and finds who it is for; nobody is connected, so
    nothing is sent."""
    import socketio

    arrivals = Arrivals()

    class Counting(socketio.AsyncRedisManager):  # type: ignore[misc]
        async def _handle_emit(self, message: dict[str, Any]) -> None:
            await super()._handle_emit(message)
            arrivals.take(message["data"][0]["sent"])

    server = socketio.AsyncServer(client_manager=Counting(url), async_mode="asgi")
    server.manager.initialize()
    await asyncio.sleep(1.0)
    await arrivals.report()


async def subscribe_channels(url: str, options: dict[str, Any]) -> None:
    """A channel in each user's group, and a task that receives from it."""
    from channels_redis.pubsub import RedisPubSubChannelLayer

    layer = RedisPubSubChannelLayer(hosts=[url])
    arrivals = Arrivals()

    async def follow(number: int) -> None:
        channel = await layer.new_channel()
        await layer.group_add(f"user-{number}", channel)
        while True:
            arrivals.take((await layer.receive(channel))["sent"])

    numbers = range(options["first"], options["first"] + options["users"])
    tasks = [asyncio.create_task(follow(number)) for number in numbers]
    await asyncio.sleep(1.0 + len(numbers) / 500)
    await arrivals.report()
    for task in tasks:
        task.cancel()


async def subscribe_floor(url: str, options: dict[str, Any]) -> None:
    """Subscribed to the same channels, and nothing is done with what arrives."""
    link = Link(await Addresses(url, timeout=2.0).dial())
    arrivals = Arrivals()

    def received(replies: list[Any]) -> None:
        arrivals.count += len(replies)

    link.received = received
    names = Namespace("bench")
    channels = [names.of_log(LogName.of_user(UserId(f"user-{number}"))).channel for number in range(options["users"])]
    for start in range(0, len(channels), 512):
        link.write(pack("SUBSCRIBE", *channels[start : start + 512]))
    await asyncio.sleep(2.0)
    await arrivals.report()
    link.close()


SUBSCRIBERS = {
    "ours": subscribe_ours,
    "python-socketio": subscribe_socketio,
    "channels_redis": subscribe_channels,
    "hiredis, uvloop": subscribe_floor,
}


async def subscribe(stack: str, url: str, options: dict[str, Any]) -> None:
    await SUBSCRIBERS[stack](url, options)


async def catch_up(stack: str, url: str, options: dict[str, Any]) -> None:
    """All that each of `users` users has missed, read from the first event on."""
    log = RedisLog(url, namespace="bench")
    names = [LogName.of_user(UserId(f"user-{number}")) for number in range(options["users"])]

    async def read(name: LogName) -> int:
        found, after = 0, None
        while True:
            batch = await log.read(name, after, 256)
            found += len(batch.entries)
            if not batch.more:
                return found
            after = batch.entries[-1].position

    await read(names[0])
    say(ready=True)
    await line()
    began, used = time.perf_counter(), cpu()
    events = sum(await asyncio.gather(*[read(name) for name in names]))
    say(seconds=time.perf_counter() - began, cpu=cpu() - used, events=events)
    await log.close()


ROLES = {"append": append, "paced": paced, "subscribe": subscribe, "catch_up": catch_up}


def main() -> None:
    role, stack, url, options = sys.argv[1:]
    import uvloop

    uvloop.run(ROLES[role](stack, url, json.loads(options)))


if __name__ == "__main__":
    main()
