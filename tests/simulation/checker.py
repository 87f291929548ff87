"""Judges a history. Trusts the ledger of what was emitted to whom, and nothing that the tested system says of itself.

A model of each log, kept from outside, says in which order entries were taken, what is still retained, and which
cursor names which place. Each tab is then followed through its connections: what it may be shown next is exactly one
thing, except that what happens between a request and its answer may be seen either way.
"""

from __future__ import annotations

import json
from collections import Counter
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
    RunStopped,
    stamp_text,
)


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
    RESIDUE = "RESIDUE"


ONCE: Final = frozenset({"agent_started", "agent_completed", "agent_error", "tool_executing", "tool_completed"})
"""What the bridge tells once, whatever happens."""


class Violation(NamedTuple):
    fault: Fault
    at: float
    what: str


class Place(NamedTuple):
    """In which life of a log, and behind how many entries."""

    life: int
    behind: int


@dataclass(slots=True)
class _Entry:
    key: Key | None
    at: float
    size: int
    event_id: str
    connection_id: str | None
    thread_id: str | None
    text: str = ""


class _LogModel:
    """One user's log, written again: entries by their place, and how many of them are gone."""

    def __init__(self, retained: Retained) -> None:
        self._retained = retained
        self.life = 0
        self.lives: list[list[_Entry]] = [[]]
        self.places: dict[str, Place] = {}
        self.keys: list[dict[Key, list[int]]] = [{}]
        """For each life, where a fact stands; more than once if it was retried when its id was forgotten already."""
        self._ids: dict[str, int] = {}
        self._gone = 0
        self._bytes = 0

    @property
    def entries(self) -> list[_Entry]:
        return self.lives[self.life]

    @property
    def head(self) -> int:
        return len(self.entries)

    def gone(self, now: float) -> int:
        """How many entries of this life are retained no more."""
        entries = self.entries
        while self._gone < len(entries) and entries[self._gone].at < now - self._retained.age:
            self._drop()
        return self._gone

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
        self.life += 1
        self.lives.append([])
        self.keys.append({})
        self._ids = {}
        self._gone = 0
        self._bytes = 0

    def note(self, position: str, index: int) -> None:
        """A position was given out for the place behind so many entries."""
        self.places.setdefault(position, Place(self.life, index))
        epoch = position.partition(".")[0]
        self.places.setdefault(f"{epoch}.0.", Place(self.life, 0))


@dataclass(slots=True)
class _Tab:
    """What one client has been shown, over all its connections."""

    place: Place
    got: set[Place] = field(default_factory=set)
    missing: dict[Place, bool] = field(default_factory=dict)
    """Passed over, and whether it was gone by then."""


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
    ended: bool = False
    revoked_at: float = float("inf")


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
        self._queued: dict[tuple[str, Key], Emission] = {}
        self._models: dict[str, _LogModel] = {}
        self._lanes: dict[tuple[str, int, str], int] = {}
        self._tabs: dict[str, _Tab] = {}
        self._connections: dict[int, _Connection] = {}
        self._asked: dict[tuple[int, str], Asked] = {}
        self._may_stop: Counter[tuple[str, str]] = Counter()
        self._drain: dict[int, Place] = {}
        self._now = 0.0

    def run(self) -> list[Violation]:
        for record in self._records:
            self._now = record.at
            match record:
                case Invoked(emission=emission):
                    whose = emission.user, emission.key
                    self._emissions.setdefault(whose, emission)
                    self._invoked_in.setdefault(whose, self._model(emission.user).life)
                case Answered():
                    self._answered(record)
                case Appended():
                    self._appended(record)
                case Opened():
                    model = self._model(record.log_user)
                    model.note(record.position, model.head)
                case LifeEnded():
                    self._life_ended(record)
                case Connecting():
                    self._connecting(record)
                case Received():
                    self._received(record)
                case Closed():
                    self._closed(record)
                case Revoked():
                    for connection in self._connections.values():
                        if connection.opened.user == record.user and not connection.ended:
                            connection.revoked_at = min(connection.revoked_at, record.at)
                case Draining():
                    self._drain = {
                        number: Place(connection.model.life, connection.model.head)
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
        first = len(stands) == 1
        if not first and whose[1].kind in ONCE and stands[-2] >= model.gone(record.at):
            self._found(Fault.DUPLICATE, f"{whose[1]} was told twice")  # and not because its id was forgotten
        if emission is not None and first:
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
            Place(life, index)
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
        honourable = place is not None and place.life == model.life and place.behind >= gone
        connection = _Connection(record, model, model.life, gone, model.head, honourable)
        self._connections[record.connection] = connection
        if record.not_after is not None:
            connection.revoked_at = record.not_after
        if record.kind != "own" and record.tab in self._tabs:
            self._settle(self._tabs.pop(record.tab))

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
            case _:
                self.deliveries += 1
                self._event(connection, frame)

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
        start = model.places.get(str(frame.get("cursor")))
        resumed = frame.get("resumed")
        if start is None:
            self._found(Fault.CHAIN_BREAK, "connected names a place that is not in the user's log")
            return
        tab = self._tabs.get(opened.tab)
        if tab is None:
            tab = self._tabs[opened.tab] = _Tab(start)
        connection.tab = tab
        gone = model.gone(self._now)
        if opened.kind in ("none", "latest") and resumed:
            self._found(Fault.CHAIN_BREAK, "resumed, and there was no cursor")
        if opened.kind == "latest":
            if start.life == connection.life and start.behind < connection.head:
                self._found(Fault.CHAIN_BREAK, "the end of the log was asked for")
            tab.place = start
            return
        if opened.kind == "none":
            tab.place = start
            self._not_beyond_the_oldest(model, start, gone, Fault.LOST_SILENT)
            return
        honoured = model.places.get(opened.cursor or "") if opened.kind == "own" else None
        if resumed:
            if not connection.honourable:
                self._found(Fault.GAP_WITHOUT_NOTICE, f"a cursor was honoured that nothing joins ({opened.kind})")
                tab.place = start
            elif start != honoured:
                self._found(Fault.CHAIN_BREAK, "resumed at another place than the cursor's")
            return
        if honoured is not None and honoured.life == model.life and honoured.behind >= gone:
            self._found(Fault.NEEDLESS_GAP, "a cursor was not honoured and could have been")
        connection.gap_due = True
        tab.place = start
        self._not_beyond_the_oldest(model, start, gone, Fault.LOST)

    def _not_beyond_the_oldest(self, model: _LogModel, start: Place, gone: int, fault: Fault) -> None:
        if start.life == model.life and start.behind > gone:
            self._found(fault, f"{start.behind - gone} retained entries are passed over at the start")

    def _gap(self, connection: _Connection, frame: dict[str, Any]) -> None:
        model, tab = connection.model, connection.tab
        assert model is not None
        start = model.places.get(str(frame.get("cursor")))
        if tab is None or start is None:
            self._found(Fault.CHAIN_BREAK, "a gap names a place that is not in the user's log")
            return
        gone = model.gone(self._now)
        if connection.gap_due:
            connection.gap_due = False
        elif connection.opened.kind == "latest" and connection.life != model.life:
            pass  # it asked for what comes from now on, and the log began anew before it was there
        elif tab.place.life == model.life and tab.place.behind >= gone:
            self._found(Fault.NEEDLESS_GAP, "a gap, and nothing is missing")
        tab.place = start
        self._not_beyond_the_oldest(model, start, gone, Fault.LOST)

    def _ping(self, connection: _Connection, frame: dict[str, Any]) -> None:
        model, tab = connection.model, connection.tab
        assert model is not None
        place = model.places.get(str(frame.get("cursor")))
        if tab is None or place is None or place.life != tab.place.life or place.behind < tab.place.behind:
            self._found(Fault.CHAIN_BREAK, "a ping names a place where the client cannot be")
            return
        if self._passed_over(connection, tab, place):
            self._found(Fault.CHAIN_BREAK, "a ping names a place ahead of what was shown")
        tab.place = place

    def _passed_over(self, connection: _Connection, tab: _Tab, until: Place) -> list[Place]:
        """What this connection should have been shown before that place, and was not."""
        assert connection.model is not None
        entries = connection.model.lives[until.life]
        return [
            Place(until.life, index)
            for index in range(tab.place.behind, until.behind)
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
        life = tab.place.life
        stands = model.keys[life].get(key)
        if not stands:
            later = [at for at in range(life + 1, len(model.keys)) if key in model.keys[at]]
            if not later:
                self._found(Fault.PHANTOM, f"{key} stands in no log of this user")
                return
            self._found(Fault.GAP_WITHOUT_NOTICE, f"{key} is of a later life, and no gap was told")
            life = later[0]
            stands = model.keys[life][key]
            tab.place = Place(life, stands[0])
        index = next((each for each in stands if each >= tab.place.behind), stands[-1])
        place = Place(life, index)
        last = self._last_merged(connection, model.lives[life], index, frame)
        if last is None:
            self._found(Fault.CORRUPT, f"{key} holds other text than the log")
            last = index
        if model.lives[life][last].at > connection.revoked_at:
            self._found(Fault.LATE_AFTER_REVOKE, f"{key} was appended when this connection had no right any more")
        if place in tab.got and index < tab.place.behind:
            self._found(Fault.DUPLICATE, f"{key} was shown before")
            return
        if index < tab.place.behind:
            tab.missing.pop(place, None)
            self._found(Fault.REORDER, f"{key} was shown after what came later")
            tab.got.add(place)
            return
        gone = model.gone(self._now) if life == model.life else 0
        for passed in self._passed_over(connection, tab, place):
            tab.missing[passed] = life != model.life or passed.behind < gone
        tab.got.update(Place(life, each) for each in range(index, last + 1))
        tab.place = Place(life, last + 1)
        named = model.places.get(str(frame.get("cursor")))
        if named != tab.place:
            self._found(Fault.CHAIN_BREAK, f"{key} carries the cursor of another place")

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
        promised = self._drain.pop(record.connection, None)
        if promised is None or connection.tab is None or record.given_up:
            return
        if record.at > connection.revoked_at:
            return  # nothing may be written to it any more, so it is not owed anything either
        if record.code != 1012 or record.reason != "restarting":
            return
        tab = connection.tab
        if tab.place.life == promised.life and self._passed_over(connection, tab, promised):
            self._found(Fault.LOST, "a connection was drained before it had been given everything")

    # -- the end

    def _settle(self, tab: _Tab) -> None:
        for place, was_gone in tab.missing.items():
            fault = Fault.GAP_WITHOUT_NOTICE if was_gone else Fault.LOST_SILENT
            self._found(fault, f"{place} was never shown")
        tab.missing.clear()

    def _quiesced(self, record: Quiesced) -> None:
        self._check_queued()
        for tab_name, number in record.live.items():
            connection = self._connections.get(number)
            if connection is None or connection.tab is None or connection.ended or connection.model is None:
                self._found(Fault.LOST, f"{tab_name} is not connected after everything was healed")
                continue
            tab, model = connection.tab, connection.model
            if tab.place.life != model.life:
                self._found(Fault.GAP_WITHOUT_NOTICE, f"{tab_name} was never told that the log began anew")
                continue
            gone = model.gone(self._now)
            for place in self._passed_over(connection, tab, Place(model.life, model.head)):
                tab.missing[place] = place.behind < gone
        if record.registered != len(record.live):
            what = f"{record.registered} connections are registered, and {len(record.live)} clients are connected"
            self._found(Fault.RESIDUE, what)


def check(history: History) -> list[Violation]:
    return Checker(history).run()


def parse_frames(text: str) -> list[dict[str, Any]]:
    """The objects of one message."""
    return [json.loads(line) for line in text.split("\n")]
