"""Judges what a fleet of real processes did. Trusts what the emitting processes wrote down, and nothing that the tested
system says of itself.

Nobody can look into real processes to see in which order a log took its entries, so there is no model of a log here, as
the simulation has one. There are witnesses instead: every client that was shown two entries one behind the other says
which came before which, and for one log all of them, the reader at the end included, must agree. Positions carry marks
that are new at every append, so two histories of one log can't agree by accident.

Between two gaps a client is shown every entry exactly once, in order. A gap excuses what was emitted before it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from tests.simulation.checker import Fault, Violation
from tests.simulation.ledger import Closed, Connecting, Received, Secrets

KIND: Final = "fact"
LANE: Final = 1_000_000_000
"""Emissions of one lane are numbered below this, so that lane and number make one number."""
MAY_END_WITH: Final = frozenset({None, 1000, 1006, 1011, 1012, 1013, 4408})
"""Codes with which a connection may end when processes die: of the network, a restart, an overload, a time-out."""


class Fact(NamedTuple):
    """One emission: the n-th of one lane. A lane is one sequence of calls for one user in one process."""

    user: str
    lane: int
    n: int

    @property
    def id(self) -> str:
        """The event id. The same one is used for different users, whose logs have nothing to do with each other."""
        return f"{self.lane}.{self.n}"

    def data(self, secrets: Secrets, padding: int = 0) -> dict[str, Any]:
        """The payload, which nobody else could have made."""
        number = self.lane * LANE + self.n
        return {"stamp": secrets.stamp(self.user, number), "text": secrets.text(self.user, number, 20 + padding)}


class Place(NamedTuple):
    """What a cursor says, for who looks inside."""

    epoch: str
    offset: int
    mark: str

    @classmethod
    def of(cls, cursor: object) -> Place | None:
        epoch, offset, mark = (*str(cursor).split(".", 2), "", "")[:3]
        return cls(epoch, int(offset), mark) if offset.isdecimal() else None


@dataclass(slots=True)
class Promise:
    """What holds in one mode of persistence beside what always holds."""

    durable: bool = False
    """Nothing that was acknowledged is ever lost, and so nobody is told a gap."""
    forgets_ids: bool = False
    """The store may lose by which ids it knows what it holds: what is appended again is stored twice, and clients drop
    it by its id."""
    unseen: bool = False
    """The store may lose what nobody has read yet and who emitted it remembers no more: nobody can notice."""


@dataclass(slots=True)
class Story:
    """All that is known of one run."""

    secrets: Secrets
    promise: Promise
    journals: list[str] = field(default_factory=list)
    """What the emitting processes wrote down, line by line: `[kind, when, user, lane, n, cursor]`."""
    tabs: dict[str, list[Connecting | Received | Closed]] = field(default_factory=dict)
    """What each client was shown, over all its connections."""
    last: dict[str, list[Connecting | Received | Closed]] = field(default_factory=dict)
    """For each user, what a client was shown that came at the end and without a cursor: all that the log holds."""
    residue: dict[str, int] = field(default_factory=dict)
    """What was left behind at the end, by name. All of it should be 0."""


@dataclass(slots=True)
class Verdict:
    violations: list[Violation] = field(default_factory=list)
    emitted: int = 0
    acknowledged: int = 0
    shown: int = 0
    resumed: int = 0
    """Connections that went on from their cursor."""
    gaps: Counter[str] = field(default_factory=Counter)
    """Gaps that were told, by reason."""
    repeated: int = 0
    """Events that were shown again behind a gap, where a client drops them by their id."""
    twice: int = 0
    """Events that were shown again without a gap, at another place, by a store that may forget ids."""
    told: int = 0
    """Acknowledged, never shown to some client of its user, and that user was told a gap afterwards."""
    unseen: int = 0
    """The same, and nobody was told or had read it."""

    @property
    def by_class(self) -> Counter[str]:
        return Counter(str(violation.fault) for violation in self.violations)


@dataclass(slots=True)
class _Tab:
    """What one client knows."""

    name: str
    user: str
    place: Place | None = None
    gap_due: bool = False
    chain: set[str] = field(default_factory=set)
    """Ids shown since the last gap."""
    reached: dict[int, int] = field(default_factory=dict)
    """For each lane, the greatest number since the last gap."""
    handled: set[str] = field(default_factory=set)
    """Ids that the application of the client saw, once each."""
    told_at: float = -1.0
    """When it was told a gap last."""


class Ledger:
    """One pass over a story."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self._secrets = story.secrets
        self.verdict = Verdict()
        self._invoked: dict[Fact, float] = {}
        self._acknowledged: dict[Fact, str] = {}
        self._before: dict[tuple[str, Place], Place] = {}
        self._stands: dict[tuple[str, Place], str] = {}
        self._now = 0.0

    def judge(self) -> Verdict:
        self._read_journals()
        last = {user: self._walk(f"the log of {user}", user, records) for user, records in self._story.last.items()}
        tabs = [self._walk(name, self._user_of(records), records) for name, records in self._story.tabs.items()]
        self._positions_of_acknowledgements()
        for tab in tabs:
            self._whole(tab, last.get(tab.user))
        self._losses(tabs, last)
        for name, count in self._story.residue.items():
            if count:
                fault = Fault.LEAK if name.startswith("isolation_violations") else Fault.RESIDUE
                self._found(fault, f"{name}: {count}")
        self.verdict.emitted = len(self._invoked)
        self.verdict.acknowledged = len(self._acknowledged)
        return self.verdict

    def _found(self, fault: Fault, what: str) -> None:
        self.verdict.violations.append(Violation(fault, self._now, what))

    @staticmethod
    def _user_of(records: Iterable[Connecting | Received | Closed]) -> str:
        return next(str(record.user) for record in records if isinstance(record, Connecting))

    def _read_journals(self) -> None:
        for line in self._story.journals:
            kind, at, user, lane, n, cursor = json.loads(line)
            fact = Fact(user, lane, n)
            if kind == "invoked":
                self._invoked.setdefault(fact, at)
            elif kind == "acknowledged":
                self._acknowledged[fact] = cursor

    # -- one client

    def _walk(self, name: str, user: str, records: Sequence[Connecting | Received | Closed]) -> _Tab:
        tab = _Tab(name, user)
        presented: str | None = None
        for record in records:
            self._now = record.at
            match record:
                case Connecting():
                    presented = record.cursor
                case Closed():
                    if record.code not in MAY_END_WITH:
                        self._found(Fault.DISCONNECTED, f"{name} was sent away with {record.code}")
                case Received():
                    match record.frame.get("type"):
                        case "connected":
                            self._greeted(tab, presented, record.frame)
                        case "gap":
                            self._gap(tab, record)
                        case "ping":
                            self._ping(tab, record.frame)
                        case "provisional":
                            self._owned(tab, record.frame.get("event", {}))
                        case _ if "id" in record.frame:
                            self._shown(tab, record.frame)
        return tab

    def _greeted(self, tab: _Tab, presented: str | None, frame: dict[str, Any]) -> None:
        if frame.get("user_id") != tab.user:
            self._found(Fault.LEAK, f"{tab.name} was greeted as {frame.get('user_id')!r}")
        place = Place.of(frame.get("cursor"))
        if place is None:
            self._found(Fault.CHAIN_BREAK, f"{tab.name} was greeted without a place")
        elif presented is None:
            tab.place, tab.gap_due = place, False
        elif frame.get("resumed"):
            self.verdict.resumed += 1
            if place != Place.of(presented) or (tab.place is not None and place != tab.place):
                self._found(Fault.CHAIN_BREAK, f"{tab.name} was resumed at a place that is not its own")
            tab.gap_due = False
        else:
            tab.gap_due = True

    def _gap(self, tab: _Tab, record: Received) -> None:
        frame = record.frame
        self.verdict.gaps[str(frame.get("reason"))] += 1
        place = Place.of(frame.get("cursor"))
        if place is None or frame.get("reason") not in ("trimmed", "diverged", "new_epoch"):
            self._found(Fault.CORRUPT, f"{tab.name} was told a gap without a place or a reason")
        if self._story.promise.durable:
            self._found(Fault.NEEDLESS_GAP, f"{tab.name} was told a gap, and nothing can be missing")
        tab.place, tab.gap_due, tab.told_at = place, False, record.at
        tab.chain.clear()
        tab.reached.clear()

    def _ping(self, tab: _Tab, frame: dict[str, Any]) -> None:
        if not tab.gap_due and Place.of(frame.get("cursor")) != tab.place:
            self._found(Fault.CHAIN_BREAK, f"a ping names a place where {tab.name} is not")

    def _owned(self, tab: _Tab, frame: dict[str, Any]) -> Fact | None:
        """Whose event it truly is: that of this client's user, or there is a violation and None."""
        data = frame.get("data")
        data = data if isinstance(data, dict) else {}
        stamp = self._secrets.read(data.get("stamp"))
        if stamp is None:
            self._found(Fault.CORRUPT, f"{tab.name} was shown an event without a stamp of ours")
            return None
        fact = Fact(stamp.user, *divmod(stamp.number, LANE))
        if stamp.user != tab.user or frame.get("user_id") != tab.user:
            self._found(Fault.LEAK, f"{tab.name}, of {tab.user!r}, was shown {fact}")
            return None
        if fact not in self._invoked:
            self._found(Fault.PHANTOM, f"{fact} was never emitted")
            return None
        text = data.get("text")
        intact = isinstance(text, str) and text == self._secrets.text(tab.user, stamp.number, len(text))
        if not intact or len(data) != 2 or frame.get("id") != fact.id or frame.get("type") != KIND:
            self._found(Fault.CORRUPT, f"{fact} is not what was emitted")
        return fact

    def _shown(self, tab: _Tab, frame: dict[str, Any]) -> None:
        self.verdict.shown += 1
        fact = self._owned(tab, frame)
        if fact is None:
            return
        if tab.gap_due:
            self._found(Fault.GAP_WITHOUT_NOTICE, f"{tab.name} was not resumed, and no gap was told")
            tab.gap_due = False
        place = Place.of(frame.get("cursor"))
        if place is None or tab.place is None:
            self._found(Fault.CHAIN_BREAK, f"{fact} was shown to {tab.name} without a place")
            return
        held = self._stands.setdefault((tab.user, place), fact.id)
        if held != fact.id:
            self._found(Fault.CORRUPT, f"{fact} stands where {held} stands")
        known = fact.id in tab.chain
        if known and self._story.promise.forgets_ids and place.offset > tab.place.offset:
            self.verdict.twice += 1
        elif known:
            self._found(Fault.DUPLICATE, f"{fact} was shown to {tab.name} before")
        elif fact.id in tab.handled:
            self.verdict.repeated += 1
        self._joins(tab, place, fact, known=known)
        if not known and fact.n <= tab.reached.get(fact.lane, 0):
            self._found(Fault.REORDER, f"{fact} was shown to {tab.name} after what was emitted later")
        tab.reached[fact.lane] = max(fact.n, tab.reached.get(fact.lane, 0))
        tab.chain.add(fact.id)
        tab.handled.add(fact.id)
        tab.place = place

    def _joins(self, tab: _Tab, place: Place, fact: Fact, *, known: bool) -> None:
        """Whether that place is right behind the one where the client stands."""
        assert tab.place is not None
        if place.epoch != tab.place.epoch:
            self._found(Fault.GAP_WITHOUT_NOTICE, f"{fact} is of another life, and {tab.name} was told no gap")
        elif place.offset <= tab.place.offset:
            if not known:
                self._found(Fault.REORDER, f"{fact} was shown to {tab.name} after what stands behind it")
        elif place.offset > tab.place.offset + 1:
            missing = place.offset - tab.place.offset - 1
            self._found(Fault.LOST_SILENT, f"{missing} entries before {fact} were not shown to {tab.name}")
        else:
            before = self._before.setdefault((tab.user, place), tab.place)
            if before != tab.place:
                what = f"{fact} joins something else than what {tab.name} was shown, which was told no gap"
                self._found(Fault.GAP_WITHOUT_NOTICE, what)

    # -- the end

    def _positions_of_acknowledgements(self) -> None:
        for fact, cursor in self._acknowledged.items():
            place = Place.of(cursor)
            held = None if place is None else self._stands.get((fact.user, place), fact.id)
            if held != fact.id:
                self._found(Fault.CHAIN_BREAK, f"emit returned for {fact} the position of {held}")

    def _whole(self, tab: _Tab, last: _Tab | None) -> None:
        """At the end everybody stands where the log ends, and was shown all that it holds."""
        if last is None or tab.place != last.place:
            self._found(Fault.LOST, f"{tab.name} does not stand at the end of its log after everything was healed")
        elif missing := last.handled - tab.handled:
            self._found(Fault.LOST_SILENT, f"{tab.name} was never shown {len(missing)} events that the log holds")

    def _losses(self, tabs: Sequence[_Tab], last: dict[str, _Tab]) -> None:
        """What was acknowledged and some client of that user was never shown."""
        of_user: dict[str, list[_Tab]] = {}
        for tab in tabs:
            of_user.setdefault(tab.user, []).append(tab)
        for fact in self._acknowledged:
            log = last.get(fact.user)
            held = log is not None and fact.id in log.handled
            if self._story.promise.durable and not held:
                self._found(Fault.LOST, f"{fact} was acknowledged and is in no log")
                continue
            readers = of_user.get(fact.user, [])
            if held or all(fact.id in tab.handled for tab in readers):
                continue  # where a log holds what a client was not shown, that was found before
            if max(tab.told_at for tab in readers) >= self._invoked[fact]:
                self.verdict.told += 1
                continue
            read = any(fact.id in tab.handled for tab in readers)
            self.verdict.unseen += not read
            if read or not self._story.promise.unseen:
                self._found(Fault.LOST_SILENT, f"{fact} was acknowledged, is gone, and its user was told no gap")
