"""Tabs: the Python `websockets` client behaving as a browser tab does, well or badly, over the simulated network."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from tests.simulation.ledger import Asked, Closed, Connecting, Received
from websocket_core.wire import PROTOCOL

if TYPE_CHECKING:
    from tests.simulation.scenario import World

NEVER: Final = 1e9


class Credential(NamedTuple):
    """A token, and what stands in it."""

    token: str
    token_id: str
    issued_at: int
    """In whole Unix seconds, as such tokens have it."""


@dataclass(slots=True)
class Manners:
    """What a tab does in one session beside reading."""

    kind: str = "own"
    answers_pings: bool = True
    leaves_after: float = NEVER
    names_another_user: bool = False
    meddles: bool = False
    """Sends frames that concern other users."""
    first_frame: bool = False
    """Sends its token in the first frame."""
    token_seconds: float = NEVER


class Tab:
    """One tab of one user: connects, reads, is cut, comes back with its cursor, until the world ends."""

    def __init__(self, world: World, name: str, user: str, *, intruder: bool = False) -> None:
        self.world = world
        self.name = name
        self.user = user
        self.intruder = intruder
        self.rng = random.Random(f"{world.seed}/{name}")
        self.v1 = self.rng.random() < 0.6
        self.connection_id = f"c{name}" if self.rng.random() < 0.6 else None
        self.thread_id = "t1" if self.rng.random() < 0.15 else None
        self.cursor: str | None = None
        self.kind = "none"
        self.number = 0
        self.greeted = False
        self.gate = asyncio.Event()
        """Closed while the tab does not read."""
        self.gate.set()
        self.known_as: str | None = None
        """The connection id that the server gave or took."""
        self.credential: Credential | None = None
        self._habits = random.Random(f"{world.seed}/{name}/credentials")

    def _manners(self) -> Manners:
        rng, calm = self.rng, self.world.calm
        kind = "own" if self.cursor is not None else "none"
        manners = Manners(kind=kind, first_frame=rng.random() < 0.3)
        if self.intruder:
            manners.names_another_user = True
            manners.kind = rng.choice(("none", "latest", "invented"))
            return manners
        if calm:
            return manners
        draw = rng.random()
        if draw < 0.03:
            manners.kind = "none"
        elif draw < 0.08:
            manners.kind = "latest"
        elif draw < 0.12:
            manners.kind = "foreign"
        elif draw < 0.17:
            manners.kind = "invented"
        elif draw < 0.19:
            manners.kind = "malformed"
        manners.answers_pings = rng.random() > 0.05
        manners.names_another_user = rng.random() < 0.2
        manners.meddles = rng.random() < 0.15
        if rng.random() < 0.1:
            manners.leaves_after = rng.uniform(0.0, 6.0)
        if rng.random() < 0.2:
            manners.token_seconds = rng.uniform(0.8, 4.0)
        return manners

    def _cursor_of(self, kind: str) -> str | None:
        """What to present, and what that is a case of."""
        rng = self.rng
        match kind:
            case "none":
                return None
            case "latest":
                return "latest"
            case "own":
                return self.cursor
            case "foreign":
                others = [tab.cursor for tab in self.world.tabs if tab.user != self.user and tab.cursor]
                return rng.choice(others) if others else "Zm9yZWlnbg.3.e3"
            case "malformed":
                return rng.choice(
                    ["-1", "a.b", "x.9223372036854775808.y", "..", "a.1.b" * 60, "e.1.", '["a"]', "a.1.5.\n"]
                )
        epoch, offset, mark = (self.cursor or "ZXBvY2g.0.").split(".", 2)
        return rng.choice(
            [
                f"{epoch}.{int(offset) + rng.randrange(1, 50)}.{mark or 'x'}",  # from the future
                f"{epoch}.{max(1, int(offset))}.{mark}x",  # another mark
                f"{epoch[::-1]}x.{max(1, int(offset))}.{mark or 'x'}",  # another epoch
                f"{epoch}.9007199254740991.x",
            ]
        )

    async def live(self) -> None:
        while not self.world.over:
            told = await self._session(self._manners())
            if self.world.over:
                return
            await asyncio.sleep(self.rng.uniform(1.0, 4.0) if self.intruder else self.rng.uniform(0.05, 0.6))
            if told == 1000:  # nobody is to come back by itself then: it is the user's wish
                await asyncio.sleep(self._habits.uniform(0.5, 4.0))
            elif told == 4410:
                self.cursor = self.credential = None
                await self._next_second()

    async def _next_second(self) -> None:
        """What was issued in the same second as a revocation is revoked as well; most users take longer to log in."""
        if self._habits.random() < 0.7:
            now = self.world.loop.time()
            await asyncio.sleep(math.floor(now) + 1 - now)
        self.credential = self.world.log_in(self.user)

    def _credential(self, manners: Manners) -> Credential:
        """What it comes with: what it has, also when it does not know that this is good no more, or a new one."""
        world, habits = self.world, self._habits
        if manners.token_seconds != NEVER:
            return world.log_in(self.user, manners.token_seconds)
        if self.credential is None and habits.random() < 0.3:  # of another tab of the browser
            others = [tab.credential for tab in world.tabs if tab.user == self.user and tab.credential is not None]
            self.credential = habits.choice(others) if others else None
        if self.credential is None or habits.random() < 0.2:
            self.credential = world.log_in(self.user)
        return self.credential

    async def _session(self, manners: Manners) -> int | None:
        """One connection; the code with which the server ended it, or None if the client did, or somebody else."""
        world = self.world
        cursor = self._cursor_of(manners.kind)
        if cursor is None:
            manners.kind = "none"
        self.number = number = world.next_connection()
        self.greeted = False
        query: dict[str, str] = {} if cursor is None else {"cursor": cursor}
        if self.connection_id is not None:
            query["connection_id"] = self.connection_id
        if self.thread_id is not None:
            query["thread_id"] = self.thread_id
        if manners.names_another_user:
            query["user_id"] = self.rng.choice(world.users)
        credential = Credential("not.a.token", "", 0) if self.intruder else self._credential(manners)
        token = credential.token
        headers = {} if manners.first_frame else {"Authorization": f"Bearer {token}"}
        world.record(
            Connecting(
                world.loop.time(),
                self.name,
                number,
                None if self.intruder else self.user,
                manners.kind,
                cursor,
                self.connection_id,
                self.thread_id,
                not self.v1,
                None
                if manners.token_seconds == NEVER
                else world.loop.time() + manners.token_seconds + world.limits.expiry_grace,
                credential.token_id,
                credential.issued_at,
            )
        )
        if manners.kind not in ("own", "malformed"):
            world.faults[f"connect_{manners.kind}"] += 1
            self.cursor = None
        socket: ClientConnection | None = None
        code, reason, given_up = 1006, "", True
        try:
            socket = await connect(
                f"ws://server/live/ws?{urlencode(query)}",
                additional_headers=headers,
                subprotocols=[Subprotocol(PROTOCOL)] if self.v1 else None,
                compression=None,
                proxy=None,
                open_timeout=NEVER if world.patient else 4.0,
                close_timeout=2.0,
                ping_interval=None if world.patient else 20.0,
                ping_timeout=20.0,
                max_queue=self.rng.choice((1, 4, 16)),
                local_addr=(self.name, number),
            )
            if manners.first_frame:
                await socket.send(json.dumps({"type": "auth", "token": token}))
            await self._converse(socket, manners, number)
        except (ConnectionClosed, InvalidHandshake, OSError, EOFError, TimeoutError):
            given_up = False
        finally:
            try:
                if socket is not None:
                    with contextlib.suppress(OSError):
                        await socket.close()
                    code, reason = socket.close_code or 1006, socket.close_reason or ""
            finally:
                self.greeted = False
                world.record(Closed(world.loop.time(), number, code, reason, given_up))
                world.faults[f"closed_{code}"] += 1
        if code == 4400:
            self.cursor = None
        return None if given_up else code

    async def _converse(self, socket: ClientConnection, manners: Manners, number: int) -> None:
        world, loop = self.world, self.world.loop
        leaves_at = loop.time() + manners.leaves_after
        if manners.meddles:
            await self._meddle(socket, number)
        while not world.over:
            await self.gate.wait()
            try:
                quiet = 0.5 if world.open_runs(self.user) else 2.0
                async with asyncio.timeout_at(min(leaves_at, loop.time() + quiet)):
                    text = await socket.recv()
            except TimeoutError:
                if loop.time() >= leaves_at:
                    return
                await self._ask(socket, number)
                continue
            assert isinstance(text, str)
            frames = [json.loads(line) for line in text.split("\n")]
            for frame in frames:
                world.record(Received(loop.time(), number, frame, len(frames)))
                await self._take(socket, manners, frame)

    async def _take(self, socket: ClientConnection, manners: Manners, frame: dict[str, Any]) -> None:
        kind = frame["type"]
        if "cursor" in frame and kind != "pong":
            self.cursor = frame["cursor"]
        if kind == "connected":
            self.greeted = True
            self.known_as = frame["connection_id"]
        elif kind == "ping" and self.v1 and (manners.answers_pings or self.world.healed):
            await self._say(socket, {"type": "pong", "cursor": self.cursor})

    async def _say(self, socket: ClientConnection, frame: dict[str, Any]) -> None:
        """Send a frame. That the other end has closed is learnt when everything that came before was read."""
        with contextlib.suppress(ConnectionClosed):
            await socket.send(json.dumps(frame))

    async def _ask(self, socket: ClientConnection, number: int) -> None:
        """Now and then, in a quiet moment: stop one of the user's own runs."""
        runs = self.world.open_runs(self.user)
        if runs and self.rng.random() < 0.1:
            run_id = self.rng.choice(runs)
            self.world.faults["cancel_by_user"] += 1
            await self._request(socket, number, {"type": "cancel", "run_id": run_id}, run_id)

    async def _meddle(self, socket: ClientConnection, number: int) -> None:
        """Reach for what is another user's: all of it must be refused."""
        others = [user for user in self.world.users if user != self.user]
        if not others:
            return
        other = self.rng.choice(others)
        self.world.faults["meddling"] += 1
        # Only numbers that this user has used up: the same run id must not become this user's own meanwhile.
        used = self.world.producers[self.user].number
        mine = self.world.open_runs(self.user)
        foreign = [run for run in self.world.open_runs(other) if run not in mine and int(run[3:]) < used]
        if foreign and self.rng.random() < 0.7:
            frame = {"type": "cancel", "run_id": foreign[0]}
            await self._request(socket, number, frame, foreign[0], foreign=True)
        else:
            token = self.world.log_in(other).token
            await self._request(socket, number, {"type": "auth", "token": token}, "", foreign=True)

    async def _request(
        self, socket: ClientConnection, number: int, frame: dict[str, Any], run_id: str, *, foreign: bool = False
    ) -> None:
        request_id = f"q{self.rng.getrandbits(40):x}"
        self.world.record(Asked(self.world.loop.time(), number, request_id, run_id, foreign))
        await self._say(socket, {**frame, "request_id": request_id})
