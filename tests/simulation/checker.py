"""Judges a history. Trusts the ledger of what was emitted to whom, and nothing that the tested system says of itself.

A model of each log, kept from outside, says in which order entries were taken, what is still retained, and which
cursor names which place. Each tab is then followed through its connections: what it may be shown next is exactly one
thing, except that what happens between a request and its answer may be seen either way.

A store that is rolled back begins another life of its logs, which shares the beginning with the one before. Who stands
in what they share goes on without noticing: what was lost unread is owed to nobody. Who stands beyond it, in a history
that is no more, must be told a gap before anything else.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple, assert_never

from tests.simulation.ledger import (
    DELTA,
    Answered,
    Appended,
    Asked,
    Closed,
    Connecting,
    Draining,
    Emission,
    History,
    Invoked,
    Key,
    LifeEnded,
    Opened,
    Quiesced,
    Received,
    Residue,
    Retained,
    Revoked,
    Revoking,
    RolledBack,
    RunStopped,
    Saved,
    Steady,
    StillOpen,
    stamp_text,
)
from tests.simulation.provisional import Provisional


class Fault(StrEnum):
    LEAK = "LEAK"
    """Somebody got what was for somebody else: another user, another connection, nobody."""
    LOST = "LOST"
    """Acknowledged and gone, or passed over together with a gap that was told."""
    LOST_SILENT = "LOST_SILENT"
    """Retained, never shown, and not a word about it."""
    DUPLICATE = "DUPLICATE"
    REORDER = "REORDER"
    GAP_WITHOUT_NOTICE = "GAP_WITHOUT_NOTICE"
    """What is no longer retained, or belongs to an earlier life, was passed over without a gap."""
    NEEDLESS_GAP = "NEEDLESS_GAP"
    PHANTOM = "PHANTOM"
    """Signed, and never emitted."""
    CORRUPT = "CORRUPT"
    CHAIN_BREAK = "CHAIN_BREAK"
    """A cursor that does not stand for the place where it was given out."""
    LATE_AFTER_REVOKE = "LATE_AFTER_REVOKE"
    """Who was revoked was shown what came later, was not sent away in time, or was let in again."""
    DISCONNECTED = "DISCONNECTED"
    """A connection ended for which there was no reason."""
    PROVISIONAL = "PROVISIONAL"
    """What waits for a log that is away was shown at another time, out of order, twice, or never came."""
    RESIDUE = "RESIDUE"


ONCE: Final = frozenset({"agent_started", "agent_completed", "agent_error", "tool_executing", "tool_completed"})
"""What the bridge tells once, whatever happens."""


class Violation(NamedTuple):
    fault: Fault
    at: float
    what: str


class Place(NamedTuple):
    """In which life of a log, and behind how many entries. Of lives that share it, the one in which the last of these
    entries was appended."""

    life: int
    behind: int


INFINITE: Final = float("inf")
REVOKED_SECONDS: Final = 2.0
"""So long after a revocation every connection has ended that it concerns."""

NOWHERE: Final = Place(-1, 0)
"""Where a client stands that has come with a cursor which is not one of its log."""


@dataclass(slots=True)
class _Entry:
    key: Key | None
    at: float
    size: int
    event_id: str
    connection_id: str | None
    thread_id: str | None
    text: str = ""


@dataclass(slots=True)
class _Saved:
    """What a log was, in case that it is rolled back to it."""

    life: int
    head: int
    gone: int
    bytes: int
    ids: dict[str, int]


class _LogModel:
    """One user's log, written again: entries by their place, and how many of them are gone."""

    def __init__(self, retained: Retained) -> None:
        self._retained = retained
        self.life = 0
        self.lives: list[list[_Entry]] = [[]]
        """All entries of each life, with those that it shares with the life that it began from."""
        self.epochs: list[str] = [""]
        """Of each life; empty as long as no position in it was given out."""
        self.places: dict[str, Place] = {}
        self.keys: list[dict[Key, list[int]]] = [{}]
        """For each life, where a fact stands; more than once if it was retried when its id was forgotten already."""
        self._origins: list[Place | None] = [None]
        """For each life, which one it began from, and how much it shares with it."""
        self._ids: dict[str, int] = {}
        self._gone = 0
        self._bytes = 0
        self._most_gone: dict[str, int] = {}
        self._saved: dict[int, _Saved] = {}

    @property
    def entries(self) -> list[_Entry]:
        return self.lives[self.life]

    @property
    def head(self) -> int:
        return len(self.entries)

    def place(self, life: int, behind: int) -> Place:
        """The place behind so many entries of that life."""
        while (origin := self._origins[life]) is not None and behind <= origin.behind:
            life = origin.life
        return Place(life, behind)

    def identity(self, life: int, index: int) -> Place:
        """The entry at that index of that life, in the life in which it was appended."""
        return Place(self.place(life, index + 1).life, index)

    def joins(self, place: Place, life: int | None = None) -> bool:
        """Whether that life, or the present one, goes on from that place."""
        life = self.life if life is None else life
        return place.behind <= len(self.lives[life]) and self.place(life, place.behind) == place

    def lasts(self, entry: Place) -> bool:
        """Whether that entry is of the present life."""
        return entry.behind < self.head and self.identity(self.life, entry.behind) == entry

    def gone(self, now: float) -> int:
        """How many entries of this life are retained no more."""
        entries = self.entries
        while self._gone < len(entries) and entries[self._gone].at < now - self._retained.age:
            self._drop()
        return self._gone

    def most_gone(self, now: float) -> int:
        """How many were retained no more at some time: what was trimmed comes back with a rollback."""
        return max(self.gone(now), self._most_gone.get(self.epochs[self.life], 0))

    def _drop(self) -> None:
        entry = self.entries[self._gone]
        self._bytes -= entry.size
        self._gone += 1
        if self._ids.get(entry.event_id) == self._gone - 1:
            del self._ids[entry.event_id]

    def append(self, entry: _Entry) -> tuple[int, bool]:
        """Where the entry stands, from 0, and whether it is new."""
        self.gone(entry.at)
        known = self._ids.get(entry.event_id)
        if known is not None:
            return known, False
        index = len(self.entries)
        self.entries.append(entry)
        self._ids[entry.event_id] = index
        if entry.key is not None:
            self.keys[self.life].setdefault(entry.key, []).append(index)
        self._bytes += entry.size
        while index + 1 - self._gone > self._retained.events or (
            self._bytes > self._retained.bytes and index - self._gone > 0
        ):
            self._drop()
        return index, True

    def end_life(self) -> None:
        """The log begins anew, with nothing."""
        self._begin_life([], "", None)
        self._ids = {}
        self._gone = 0
        self._bytes = 0

    def _begin_life(self, entries: list[_Entry], epoch: str, origin: Place | None) -> None:
        self.life += 1
        self.lives.append(entries)
        self.epochs.append(epoch)
        self._origins.append(origin)
        keys: dict[Key, list[int]] = {}
        for index, entry in enumerate(entries):
            if entry.key is not None:
                keys.setdefault(entry.key, []).append(index)
        self.keys.append(keys)

    def save(self, number: int) -> None:
        if self.epochs[self.life]:  # otherwise there is no such log
            self._saved[number] = _Saved(self.life, self.head, self._gone, self._bytes, dict(self._ids))

    def roll_back(self, number: int) -> None:
        """Be what it was at that snapshot, in another life unless nothing has come since."""
        saved = self._saved.get(number)
        self._saved = {each: state for each, state in self._saved.items() if each <= number}
        epoch = self.epochs[self.life]
        self._most_gone[epoch] = max(self._gone, self._most_gone.get(epoch, 0))
        if saved is None:
            self.end_life()
            return
        if (saved.life, saved.head) != (self.life, self.head):
            entries = self.lives[saved.life][: saved.head]
            self._begin_life(entries, self.epochs[saved.life], Place(saved.life, saved.head))
            self._ids = dict(saved.ids)
            self._gone = saved.gone
            self._bytes = saved.bytes

    def stood_before(self, key: Key) -> bool:
        """Whether that fact stood in the log before it was rolled back."""
        epoch = self.epochs[self.life]
        return any(key in keys for keys, of in zip(self.keys[:-1], self.epochs, strict=False) if of == epoch)

    def note(self, position: str, index: int) -> None:
        """A position was given out for the place behind so many entries."""
        self.places.setdefault(position, self.place(self.life, index))
        epoch = position.partition(".")[0]
        self.epochs[self.life] = epoch
        self.places.setdefault(f"{epoch}.0.", self.place(self.life, 0))


@dataclass(slots=True)
class _Tab:
    """What one client has been shown, over all its connections."""

    place: Place
    got: set[Place] = field(default_factory=set)
    missing: dict[Place, bool] = field(default_factory=dict)
    """Passed over, and whether it was gone by then."""
    ids: set[str] = field(default_factory=set)
    """Of the events that it was shown: our clients handle none of them again."""
    handled: set[Key] = field(default_factory=set)


@dataclass(slots=True)
class _Connection:
    opened: Connecting
    model: _LogModel | None
    life: int
    gone: int
    head: int
    honourable: bool
    """Whether the cursor it presented could be honoured when it did."""
    tab: _Tab | None = None
    gap_due: bool = False
    presented: Place | None = None
    """What its own cursor named."""
    greeted: bool = False
    ended: bool = False
    revoked_at: float = INFINITE
    """Nothing that was appended later may be shown to it."""
    revoked_since: float = INFINITE
    """When the revocation of its credential was acknowledged, if it was there by then."""
    denied: bool = False
    """Whether it came when its credential was revoked already."""

    @property
    def user(self) -> str:
        return self.opened.user or ""


class Checker:
    """One pass over a history."""

    def __init__(self, history: History) -> None:
        self._secrets = history.secrets
        self._retained = history.retained
        self._records = history.records
        self.violations: list[Violation] = []
        self.deliveries = 0
        self._emissions: dict[tuple[str, Key], Emission] = {}
        self._invoked_in: dict[tuple[str, Key], int] = {}
        self._invoked_at: dict[tuple[str, Key], float] = {}
        self._provisional = Provisional()
        self._queued: dict[tuple[str, Key], Emission] = {}
        self._models: dict[str, _LogModel] = {}
        self._lanes: dict[tuple[str, int, str], int] = {}
        self._tabs: dict[str, _Tab] = {}
        self._connections: dict[int, _Connection] = {}
        self._asked: dict[tuple[int, str], Asked] = {}
        self._may_stop: Counter[tuple[str, str]] = Counter()
        self._drain: dict[int, Place] = {}
        self._tell_by: dict[int, float] = {}
        """Until when a connection must have been told that it stands in a history that is no more."""
        self._steady = False
        self._called_for: list[Revoking] = []
        self._revoked: list[Revoked] = []
        self._sent_away: set[str] = set()
        """Tabs that were told 4410, and have not come back yet."""
        self.landed: Counter[str] = Counter()
        """What happened to clients, as far as only the history shows it."""
        self._now = 0.0

    def run(self) -> list[Violation]:
        for record in self._records:
            self._now = record.at
            if self._tell_by:
                self._overdue()
            match record:
                case Invoked(emission=emission):
                    whose = emission.user, emission.key
                    self._emissions.setdefault(whose, emission)
                    self._invoked_in.setdefault(whose, self._model(emission.user).life)
                    self._invoked_at.setdefault(whose, record.at)
                case Answered():
                    self._answered(record)
                case Appended():
                    self._appended(record)
                case Opened():
                    model = self._model(record.log_user)
                    model.note(record.position, model.head)
                case LifeEnded():
                    self._life_ended(record)
                case Saved():
                    for model in self._models.values():
                        model.save(record.number)
                case RolledBack():
                    self._rolled_back(record)
                case Steady():
                    self._steady = True
                case Connecting():
                    self._connecting(record)
                case Received():
                    self._received(record)
                case Closed():
                    self._closed(record)
                case Revoked():
                    self._acknowledged(record)
                case Revoking():
                    self._called(record)
                case StillOpen():
                    self._still_open(record)
                case Draining():
                    self._drain = {
                        number: connection.model.place(connection.model.life, connection.model.head)
                        for number, connection in self._connections.items()
                        if connection.tab is not None and connection.model is not None and not connection.ended
                    }
                case Asked():
                    self._asked[record.connection, record.request_id] = record
                    opened = self._connections[record.connection].opened
                    if not record.foreign:
                        self._may_stop[str(opened.user), record.run_id] += 1
                case RunStopped():
                    if not self._may_stop[record.user, record.run_id]:
                        self._found(Fault.LEAK, f"run {record.run_id!r} was stopped by somebody else")
                case Quiesced():
                    self._quiesced(record)
                case Residue():
                    for name, left in record.left.items():
                        if left:
                            fault = Fault.LEAK if name == "isolation_violations" else Fault.RESIDUE
                            self._found(fault, f"{name}: {left}")
                case _:
                    assert_never(record)
        for tab in self._tabs.values():
            self._settle(tab)
        return self.violations

    def _found(self, fault: Fault, what: str) -> None:
        self.violations.append(Violation(fault, self._now, what))

    def _model(self, user: str) -> _LogModel:
        model = self._models.get(user)
        if model is None:
            model = self._models[user] = _LogModel(self._retained)
        return model

    # -- what the log took

    def _key(self, event: dict[str, Any]) -> tuple[str, Key] | None:
        """Whose fact this is and which, by its stamp."""
        stamp = self._secrets.read(stamp_text(event))
        if stamp is None:
            return None
        start = event["data"].get("start", 0) if event["type"] == DELTA else 0
        return stamp.user, Key(stamp.number, event["type"], start)

    def _appended(self, record: Appended) -> None:
        self._provisional.taken(record.log_user, record.event_id)
        whose = self._key(record.event)
        if whose is not None and whose[0] != record.log_user:
            self._found(Fault.LEAK, "an event was appended to the log of another user")
        model = self._model(record.log_user)
        text = record.event["data"]["text"] if record.event["type"] == DELTA else ""
        entry = _Entry(
            None if whose is None else whose[1],
            record.at,
            record.size,
            record.event_id,
            record.connection_id,
            record.event.get("thread_id"),
            text,
        )
        index, new = model.append(entry)
        model.note(record.position, index + 1)
        if whose is None or not new:
            return
        emission = self._emission(*whose)
        stands = model.keys[model.life][whose[1]]
        if len(stands) > 1:
            if whose[1].kind in ONCE and stands[-2] >= model.gone(record.at):
                self._found(Fault.DUPLICATE, f"{whose[1]} was told twice")  # and not because its id was forgotten
        elif any(whose[1] in keys for keys in model.keys[:-1]):  # it was emitted again, later than others
            self.landed["rollback_retried"] += model.stood_before(whose[1])
        elif emission is not None:
            lane = whose[0], model.life, emission.lane
            if self._lanes.get(lane, 0) > whose[1].number:
                self._found(Fault.REORDER, f"{whose[1]} was appended after what was emitted later")
            self._lanes[lane] = max(self._lanes.get(lane, 0), whose[1].number)

    def _emission(self, user: str, key: Key) -> Emission | None:
        if key.kind == DELTA:
            key = Key(key.number, DELTA)
        elif key.kind == "agent_error":
            key = Key(key.number, "agent_completed")
        return self._emissions.get((user, key))

    def _places_of(self, user: str, key: Key) -> list[Place]:
        """Where the fact stands, in the lives of the log since it was emitted."""
        model = self._model(user)
        keys = (key, Key(key.number, "agent_error")) if key.kind == "agent_completed" else (key,)
        return [
            model.identity(life, index)
            for life in range(self._invoked_in.get((user, key), 0), model.life + 1)
            for each in keys
            for index in model.keys[life].get(each, ())
        ]

    def _answered(self, record: Answered) -> None:
        emission = record.emission
        if emission.outcome in ("unknown", "queued") or record.outcome == "ok":
            emission.outcome = record.outcome
        if record.outcome == "queued":
            self._queued[emission.user, emission.key] = emission
        if record.outcome != "ok":
            return
        places = self._places_of(emission.user, emission.key)
        if not places:
            self._found(Fault.LOST, f"{emission.key} was acknowledged and is in no log")
        elif record.position:
            named = self._model(emission.user).places.get(record.position)
            if named is None or Place(named.life, named.behind - 1) not in places:
                self._found(Fault.CHAIN_BREAK, f"emit returned the position of something else than {emission.key}")

    def _life_ended(self, record: LifeEnded) -> None:
        if record.log_user is not None:
            self._model(record.log_user).end_life()
            return
        self._check_queued()
        for model in self._models.values():
            model.end_life()

    def _rolled_back(self, record: RolledBack) -> None:
        for each in self._models.values():
            each.roll_back(record.number)
        for number, connection in self._connections.items():
            model, tab = connection.model, connection.tab
            if not connection.denied and connection.revoked_since < INFINITE:
                # The order may be lost; then the connection ends by its deadline.
                spent = connection.opened.not_after
                until = connection.revoked_since + REVOKED_SECONDS
                connection.revoked_at = until if spent is None else min(spent, until)
            if connection.ended or model is None or tab is None or model.joins(tab.place):
                continue
            self.landed["rollback_ahead"] += 1
            if record.told_within is not None:
                self.landed["rollback_ahead_idle"] += 1
                self._tell_by[number] = record.at + record.told_within

    def _overdue(self) -> None:
        for number, by in list(self._tell_by.items()):
            if self._now > by:
                del self._tell_by[number]
                self._found(Fault.GAP_WITHOUT_NOTICE, f"connection {number} is ahead of its log, and nobody tells it")

    def _check_queued(self) -> None:
        for whose, emission in self._queued.items():
            if not self._places_of(*whose):
                self._found(Fault.LOST, f"{emission.key} was promised by an outbox and never appended")
        self._queued.clear()

    # -- what a tab was shown

    def _connecting(self, record: Connecting) -> None:
        if record.user is None:
            self._connections[record.connection] = _Connection(record, None, 0, 0, 0, honourable=False)
            return
        model = self._model(record.user)
        place = model.places.get(record.cursor or "") if record.kind == "own" else None
        gone = model.gone(record.at)
        honourable = place is not None and model.joins(place) and place.behind >= gone
        if place is not None and model.epochs[place.life] == model.epochs[model.life]:
            if not model.joins(place):
                self.landed["rollback_resume_lost"] += 1
            elif place.life != model.life:
                self.landed["rollback_resume_kept"] += 1
        connection = _Connection(record, model, model.life, gone, model.head, honourable)
        self._connections[record.connection] = connection
        if record.not_after is not None:
            connection.revoked_at = record.not_after
        if any(revoked.concerns(record) for revoked in self._revoked):
            connection.denied = True
            connection.revoked_at = connection.revoked_since = record.at
        if record.kind not in ("own", "malformed") and record.tab in self._tabs:
            self._settle(self._tabs.pop(record.tab))

    def _concerned(self, record: Revoking) -> list[_Connection]:
        return [each for each in self._connections.values() if not each.ended and record.concerns(each.opened)]

    def _called(self, record: Revoking) -> None:
        self._called_for.append(record)
        for connection in self._concerned(record):
            resuming = "revoked_resuming" if connection.opened.kind == "own" else "revoked_connecting"
            self.landed["revoked_open" if connection.greeted else resuming] += 1

    def _acknowledged(self, record: Revoked) -> None:
        self._revoked.append(record)
        for connection in self._concerned(record):
            connection.revoked_at = min(connection.revoked_at, record.at)
            connection.revoked_since = min(connection.revoked_since, record.at)

    def _still_open(self, record: StillOpen) -> None:
        for number in record.connections:
            connection = self._connections.get(number)
            if connection is not None and connection.revoked_since + REVOKED_SECONDS < record.at:
                what = f"connection {number} was revoked at {connection.revoked_since:.3f} and is open"
                self._found(Fault.LATE_AFTER_REVOKE, what)

    def _received(self, record: Received) -> None:
        connection = self._connections[record.connection]
        frame = record.frame
        kind = frame.get("type")
        if connection.model is None:
            if kind != "error":
                self._found(Fault.LEAK, f"a stranger was sent {kind}")
            return
        if record.together > 1 and connection.opened.plain:
            self._found(Fault.CORRUPT, "a plain client got several objects in a frame")
        match kind:
            case "connected":
                self._greeted(connection, frame)
            case "gap":
                self._gap(connection, frame)
            case "ping":
                self._ping(connection, frame)
            case "ack":
                asked = self._answer_to(record)
                if asked is not None and asked.foreign:
                    self._found(Fault.LEAK, "what concerns another user was granted")
            case "pong":
                pass
            case "error":
                self._answer_to(record)
            case "degraded":
                self._each(Fault.PROVISIONAL, self._provisional.degraded(record.connection, connection.user))
            case "restored":
                self._each(Fault.PROVISIONAL, self._provisional.restored(record.connection))
            case "provisional":
                self.landed["shown_provisionally"] += 1
                self._shown_provisionally(record.connection, connection, frame["event"])
            case _:
                self.deliveries += 1
                self._event(connection, frame)

    def _each(self, fault: Fault, findings: Iterable[str]) -> None:
        for what in findings:
            self._found(fault, what)

    def _shown_provisionally(self, number: int, connection: _Connection, event: dict[str, Any]) -> None:
        opened = connection.opened
        self._each(Fault.PROVISIONAL, self._provisional.shown(number, str(event.get("id"))))
        whose = self._key(event)
        if event.get("user_id") != opened.user or (whose is not None and whose[0] != opened.user):
            self._found(Fault.LEAK, f"{opened.user!r} was shown what waits for another user")
            return
        if whose is None:
            if event.get("type") != "events_dropped":
                self._found(Fault.CORRUPT, "an event without a stamp of ours waits")
            return
        emission = self._emission(*whose)
        if emission is None or not self._intact(emission, event) or "cursor" in event:
            self._found(Fault.CORRUPT, f"{whose[1]} is not what was emitted, or has a place in the log already")
            return
        if opened.thread_id is not None and event.get("thread_id") != opened.thread_id:
            self._found(Fault.PROVISIONAL, f"{whose[1]} is of another thread")
        if self._invoked_at[whose[0], emission.key] > connection.revoked_at:
            self._found(Fault.LATE_AFTER_REVOKE, f"{whose[1]} waits since this connection had no right any more")

    def _answer_to(self, record: Received) -> Asked | None:
        """What this connection asked, and is answered now."""
        request_id = record.frame.get("request_id")
        asked = self._asked.get((record.connection, str(request_id)))
        if asked is None and request_id is not None:
            self._found(Fault.LEAK, "an answer to what somebody else asked")
        return asked

    def _greeted(self, connection: _Connection, frame: dict[str, Any]) -> None:
        model = connection.model
        assert model is not None
        opened = connection.opened
        if frame.get("user_id") != opened.user:
            self._found(Fault.LEAK, "connected as another user")
        connection.greeted = True
        if connection.denied:
            self._found(Fault.LATE_AFTER_REVOKE, "a credential that was revoked is let in again")
        elif opened.tab in self._sent_away:
            self._sent_away.remove(opened.tab)
            self.landed["revoked_came_back"] += 1
        tab = connection.tab = self._tabs.setdefault(opened.tab, _Tab(NOWHERE))
        if opened.kind not in ("none", "latest") and not frame.get("resumed"):
            self._not_honoured(connection, frame)
            return
        start = model.places.get(str(frame.get("cursor")))
        if start is None:
            self._found(Fault.CHAIN_BREAK, "connected names a place that is not in the user's log")
            return
        if opened.kind in ("none", "latest"):
            tab.place = start
            if frame.get("resumed"):
                self._found(Fault.CHAIN_BREAK, "resumed, and there was no cursor")
            if opened.kind == "none":
                self._not_beyond_the_oldest(model, start, model.gone(self._now), Fault.LOST_SILENT)
            elif model.life == connection.life and start.behind < connection.head:
                self._found(Fault.CHAIN_BREAK, "the end of the log was asked for")
            return
        honoured = model.places.get(opened.cursor or "") if opened.kind == "own" else None
        if not connection.honourable and (honoured is None or not any(self._joined_since(connection, honoured)[1:])):
            self._found(Fault.GAP_WITHOUT_NOTICE, f"a cursor was honoured that nothing joins ({opened.kind})")
            tab.place = start
        elif start != honoured:
            self._found(Fault.CHAIN_BREAK, "resumed at another place than the cursor's")
        self.landed["resumed"] += 1

    def _not_honoured(self, connection: _Connection, frame: dict[str, Any]) -> None:
        """A client stands where it stood until it is told the gap: with another cursor, if it is cut before that, it
        would come back as if nothing were missing."""
        model, opened = connection.model, connection.opened
        assert model is not None
        connection.gap_due = True
        if frame.get("cursor") != opened.cursor:
            self._found(Fault.CHAIN_BREAK, "a client is sent elsewhere, and not told of the gap first")
        was = connection.presented = model.places.get(opened.cursor or "") if opened.kind == "own" else None
        if was is not None and all(self._joined_since(connection, was)) and was.behind >= model.most_gone(self._now):
            self._found(Fault.NEEDLESS_GAP, "a cursor was not honoured and could have been")
            connection.presented = None

    def _not_beyond_the_oldest(self, model: _LogModel, start: Place, gone: int, fault: Fault) -> None:
        if model.joins(start) and start.behind > max(gone, model.most_gone(self._now)):
            self._found(fault, f"{start.behind - gone} retained entries are passed over at the start")

    @staticmethod
    def _joined_since(connection: _Connection, place: Place) -> list[bool]:
        """Whether the place was one of the log's, for each of its lives since the connection could stand there: a store
        that is rolled back may also remember what it had forgotten."""
        model = connection.model
        assert model is not None
        return [model.joins(place, life) for life in range(max(connection.life, place.life), model.life + 1)]

    def _gap(self, connection: _Connection, frame: dict[str, Any]) -> None:
        model, tab = connection.model, connection.tab
        assert model is not None
        start = model.places.get(str(frame.get("cursor")))
        if tab is None or start is None:
            self._found(Fault.CHAIN_BREAK, "a gap names a place that is not in the user's log")
            return
        number = connection.opened.connection
        was = connection.presented if connection.gap_due else tab.place
        latest = connection.opened.kind == "latest" and connection.life != model.life
        if connection.gap_due:
            connection.gap_due = False
        elif latest:
            pass  # it asked for what comes from now on, and the log began anew before it was there
        elif (
            model.joins(start)
            and all(self._joined_since(connection, tab.place))
            and tab.place.behind >= model.most_gone(self._now)
            and not self._may_be_ahead(connection, tab.place)
        ):
            self._found(Fault.NEEDLESS_GAP, "a gap, and nothing is missing")
            was = None
        if was is not None and not latest and not self._is_reason(connection, str(frame.get("reason")), was, start):
            self._found(Fault.CORRUPT, f"the reason of the gap is not {frame.get('reason')!r}")
        if was is not None and not model.joins(was) and model.epochs[was.life] == model.epochs[model.life]:
            self.landed["rollback_overgrown"] += model.head >= was.behind
        self.landed[f"gap_{frame.get('reason')}"] += 1
        self._tell_by.pop(number, None)
        tab.place = start
        self._not_beyond_the_oldest(model, start, model.gone(self._now), Fault.LOST)

    def _is_reason(self, connection: _Connection, reason: str, was: Place, start: Place) -> bool:
        """Whether that can be why a reader who stood at `was` is told to go on from `start`."""
        model = connection.model
        assert model is not None
        if model.epochs[was.life] != model.epochs[start.life]:
            return reason == "new_epoch"
        if reason == "new_epoch":  # it was forgotten, and that was rolled back when the gap was under way
            return any(epoch != model.epochs[was.life] for epoch in model.epochs[connection.life :])
        if reason == "trimmed":
            return start.behind > was.behind
        return reason == "diverged" and (not model.joins(was) or self._may_be_ahead(connection, was))

    def _may_be_ahead(self, connection: _Connection, place: Place) -> bool:
        """Whether the connection of a client that stands there may have stepped over entries which are not for it, and
        which the log has lost since."""
        model = connection.model
        assert model is not None
        for life, entries in enumerate(model.lives):
            at = place.behind
            if not model.joins(place, life):
                continue
            while at < len(entries) and not self._visible(connection, entries[at]):
                at += 1
                if not model.joins(model.place(life, at)):
                    return True
        return False

    def _ping(self, connection: _Connection, frame: dict[str, Any]) -> None:
        model, tab = connection.model, connection.tab
        assert model is not None
        place = model.places.get(str(frame.get("cursor")))
        if tab is None or place is None or not model.joins(tab.place, place.life) or place.behind < tab.place.behind:
            self._found(Fault.CHAIN_BREAK, "a ping names a place where the client cannot be")
            return
        if self._passed_over(connection, tab, place.life, place.behind):
            self._found(Fault.CHAIN_BREAK, "a ping names a place ahead of what was shown")
        tab.place = place

    def _passed_over(self, connection: _Connection, tab: _Tab, life: int, until: int) -> list[Place]:
        """What this connection should have been shown of that life before so many entries, and was not."""
        model = connection.model
        assert model is not None
        entries = model.lives[life]
        return [
            model.identity(life, index)
            for index in range(tab.place.behind, until)
            if self._visible(connection, entries[index])
        ]

    @staticmethod
    def _visible(connection: _Connection, entry: _Entry) -> bool:
        opened = connection.opened
        return (entry.connection_id is None or entry.connection_id == opened.connection_id) and (
            opened.thread_id is None or entry.thread_id == opened.thread_id
        )

    def _event(self, connection: _Connection, frame: dict[str, Any]) -> None:
        model, tab, opened = connection.model, connection.tab, connection.opened
        assert model is not None
        whose = self._key(frame)
        if whose is None:
            if frame.get("type") != "events_dropped":
                self._found(Fault.CORRUPT, "an event without a stamp of ours")
            return
        user, key = whose
        if user != opened.user:
            self._found(Fault.LEAK, f"{opened.user!r} was shown {key} of {user!r}")
            return
        emission = self._emission(user, key)
        if emission is None or emission.outcome == "failed":
            self._found(Fault.PHANTOM, f"{key} was never emitted")
            return
        if not self._intact(emission, frame):
            self._found(Fault.CORRUPT, f"{key} is not what was emitted")
        if emission.connection_id is not None and emission.connection_id != opened.connection_id:
            self._found(Fault.LEAK, f"{key} was for another connection of this user")
            return
        if tab is None:
            self._found(Fault.CHAIN_BREAK, "an event before the greeting")
            return
        if connection.gap_due:
            connection.gap_due = False
            self._found(Fault.GAP_WITHOUT_NOTICE, "not resumed, and no gap was told")
        self._place_event(connection, tab, model, key, frame)

    def _intact(self, emission: Emission, frame: dict[str, Any]) -> bool:
        data = frame["data"]
        if frame.get("user_id") != emission.user or frame.get("thread_id") != emission.thread_id:
            return False
        if frame.get("run_id") != emission.run_id:
            return False
        if frame["type"] == DELTA:
            start, text = data.get("start"), data.get("text")
            whole = self._secrets.text(emission.user, emission.key.number, start + len(text))
            return bool(whole[start:] == text)
        return emission.data is None or data == emission.data

    def _place_event(
        self, connection: _Connection, tab: _Tab, model: _LogModel, key: Key, frame: dict[str, Any]
    ) -> None:
        named = model.places.get(str(frame.get("cursor")))
        self._handle(tab, key, str(frame.get("id")))
        lives = [life for life in self._likely_lives(model, tab, named) if key in model.keys[life]]
        if not lives:
            self._found(Fault.PHANTOM, f"{key} stands in no log of this user")
            return
        life = next((each for each in lives if model.joins(tab.place, each)), None)
        if life is None:
            self._found(Fault.GAP_WITHOUT_NOTICE, f"{key} is of a later life, and no gap was told")
            life = lives[0]
            tab.place = model.place(life, model.keys[life][key][0])
        stands = model.keys[life][key]
        index = next((each for each in stands if each >= tab.place.behind), stands[-1])
        entry = model.identity(life, index)
        last = self._last_merged(connection, model.lives[life], index, frame)
        if last is None:
            self._found(Fault.CORRUPT, f"{key} holds other text than the log")
            last = index
        if model.lives[life][last].at > connection.revoked_at:
            self._found(Fault.LATE_AFTER_REVOKE, f"{key} was appended when this connection had no right any more")
        if entry in tab.got and index < tab.place.behind:
            self._found(Fault.DUPLICATE, f"{key} was shown before")
            return
        if index < tab.place.behind:
            tab.missing.pop(entry, None)
            self._found(Fault.REORDER, f"{key} was shown after what came later")
            tab.got.add(entry)
            return
        gone = model.gone(self._now)
        for passed in self._passed_over(connection, tab, life, index):
            tab.missing[passed] = not model.lasts(passed) or passed.behind < gone
        tab.got.update(model.identity(life, each) for each in range(index, last + 1))
        tab.place = model.place(life, last + 1)
        if named != tab.place:
            self._found(Fault.CHAIN_BREAK, f"{key} carries the cursor of another place")

    @staticmethod
    def _likely_lives(model: _LogModel, tab: _Tab, named: Place | None) -> dict[int, None]:
        """Every life, first the one in which the cursor stands, then that of the tab. A fact may stand in several, and
        it is no fault to be shown one that was read before the store was rolled back."""
        likely = () if named is None else (named.life,)
        return dict.fromkeys((*likely, *range(max(0, tab.place.life), len(model.lives)), *range(tab.place.life)))

    def _handle(self, tab: _Tab, key: Key, event_id: str) -> None:
        """What a client does with an event, whatever gap came before: one whose id it knows is dropped. Of text it
        sees by `start` what it has already."""
        if event_id in tab.ids:
            return
        tab.ids.add(event_id)
        if key.kind != DELTA and key in tab.handled:
            self._found(Fault.DUPLICATE, f"{key} came again under another id, so that it was handled twice")
        tab.handled.add(key)

    def _last_merged(
        self, connection: _Connection, entries: list[_Entry], index: int, frame: dict[str, Any]
    ) -> int | None:
        """Where the last of the entries stands that were merged into this frame; None if they do not make it up."""
        if frame["type"] != DELTA:
            return index
        left = frame["data"]["text"]
        key = entries[index].key
        for at in range(index, len(entries)):
            entry = entries[at]
            if not self._visible(connection, entry):
                continue
            if not left.startswith(entry.text) or key is None or entry.key is None or entry.key.number != key.number:
                return None
            left = left[len(entry.text) :]
            if not left:
                return at
        return None

    def _closed(self, record: Closed) -> None:
        connection = self._connections[record.connection]
        connection.ended = True
        self._tell_by.pop(record.connection, None)
        if record.code == 4410 and connection.model is not None:
            self._sent_away.add(connection.opened.tab)
            self.landed["revoked_refused"] += connection.denied
            if not any(each.concerns(connection.opened) for each in self._called_for):
                what = f"connection {record.connection} was told 4410, and its credential is good"
                self._found(Fault.DISCONNECTED, what)
        if self._steady:
            self._found(Fault.DISCONNECTED, f"connection {record.connection} ended with {record.code}")
        promised = self._drain.pop(record.connection, None)
        if promised is None or connection.tab is None or record.given_up:
            return
        if record.at > connection.revoked_at:
            return  # nothing may be written to it any more, so it is not owed anything either
        if record.code != 1012 or record.reason != "restarting":
            return
        model, tab = connection.model, connection.tab
        assert model is not None
        if model.joins(tab.place, promised.life) and self._passed_over(connection, tab, promised.life, promised.behind):
            self._found(Fault.LOST, "a connection was drained before it had been given everything")

    # -- the end

    def _settle(self, tab: _Tab) -> None:
        for place, was_gone in tab.missing.items():
            fault = Fault.GAP_WITHOUT_NOTICE if was_gone else Fault.LOST_SILENT
            self._found(fault, f"{place} was never shown")
        tab.missing.clear()

    def _quiesced(self, record: Quiesced) -> None:
        self._check_queued()
        self._each(Fault.PROVISIONAL, self._provisional.end(set(record.live.values())))
        self._steady = False
        for tab_name, number in record.live.items():
            connection = self._connections.get(number)
            if connection is None or connection.tab is None or connection.ended or connection.model is None:
                self._found(Fault.LOST, f"{tab_name} is not connected after everything was healed")
                continue
            if connection.revoked_since < INFINITE:
                self._found(Fault.LATE_AFTER_REVOKE, f"{tab_name} was revoked and is connected at the end")
            tab, model = connection.tab, connection.model
            if not model.joins(tab.place):
                what = f"{tab_name} was never told that the log began anew or was rolled back"
                self._found(Fault.GAP_WITHOUT_NOTICE, what)
                continue
            gone = model.gone(self._now)
            for place in self._passed_over(connection, tab, model.life, model.head):
                tab.missing[place] = place.behind < gone
        if record.registered != len(record.live):
            what = f"{record.registered} connections are registered, and {len(record.live)} clients are connected"
            self._found(Fault.RESIDUE, what)


def check(history: History) -> list[Violation]:
    return Checker(history).run()


def parse_frames(text: str) -> list[dict[str, Any]]:
    """The objects of one message."""
    return [json.loads(line) for line in text.split("\n")]
