"""The ledger of the fleet finds every kind of violation, in a story that is right but for that."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.redis.fleet.ledger import KIND, LANE, Fact, Ledger, Place, Promise, Story, Verdict
from tests.simulation.checker import Fault
from tests.simulation.ledger import Closed, Connecting, Received, Secrets

SECRETS = Secrets(7, ["alice", "bob"])


class Made:
    """A story as it is told, and then judged. Alice's lane is 1, Bob's is 2; the n-th event stands at offset n."""

    def __init__(self, promise: Promise) -> None:
        self.story = Story(SECRETS, promise)
        self._now = 0.0
        self._connections = 0

    def _at(self) -> float:
        self._now += 1.0
        return self._now

    def emit(self, user: str, *numbers: int, acknowledged: bool = True, epoch: str = "first", mark: str = "m") -> None:
        for n in numbers:
            fact = Fact(user, self.lane(user), n)
            cursor = f"{epoch}.{n}.{mark}{n}"
            self.note("invoked", fact)
            if acknowledged:
                self.note("acknowledged", fact, cursor)

    def note(self, kind: str, fact: Fact, cursor: str = "") -> None:
        self.story.journals.append(json.dumps([kind, self._at(), *fact, cursor]))

    @staticmethod
    def lane(user: str) -> int:
        return 1 if user == "alice" else 2

    def open(self, user: str, name: str | None = None, cursor: str | None = None) -> Client:
        self._connections += 1
        if name is None:
            records = self.story.last.setdefault(user, [])
        else:
            records = self.story.tabs.setdefault(name, [])
        kind = "none" if cursor is None else "own"
        records.append(Connecting(self._at(), name or "last", self._connections, user, kind, cursor))
        return Client(self, user, records, self._connections)

    def read_at_the_end(self, user: str, *numbers: int, epoch: str = "first", mark: str = "m") -> None:
        client = self.open(user)
        client.greet(
            f"{epoch}.{numbers[0] - 1 if numbers else 0}.{f'{mark}{numbers[0] - 1}' if numbers[0] > 1 else ''}"
        )
        client.show(*numbers, epoch=epoch, mark=mark)

    def judged(self) -> Verdict:
        return Ledger(self.story).judge()


class Client:
    def __init__(self, made: Made, user: str, records: list[Any], connection: int) -> None:
        self._made = made
        self._user = user
        self._records = records
        self._connection = connection

    def receive(self, frame: dict[str, Any]) -> None:
        self._records.append(Received(self._made._at(), self._connection, frame))

    def greet(self, cursor: str = "first.0.", *, resumed: bool = False, user: str | None = None) -> None:
        self.receive({"type": "connected", "user_id": user or self._user, "resumed": resumed, "cursor": cursor})

    def frame(self, n: int, *, epoch: str = "first", mark: str = "m", offset: int | None = None, **changed: Any) -> Any:
        fact = Fact(self._user, self._made.lane(self._user), n)
        at = n if offset is None else offset
        event = {"type": KIND, "data": fact.data(SECRETS), "user_id": self._user, "id": fact.id}
        return {**event, "cursor": f"{epoch}.{at}.{mark}{at}", **changed}

    def show(self, *numbers: int, **place: Any) -> None:
        for n in numbers:
            self.receive(self.frame(n, **place))

    def gap(self, cursor: str, reason: str = "diverged") -> None:
        self.receive({"type": "gap", "reason": reason, "cursor": cursor})

    def ping(self, cursor: str) -> None:
        self.receive({"type": "ping", "cursor": cursor})

    def close(self, code: int = 1006) -> None:
        self._records.append(Closed(self._made._at(), self._connection, code))


def clean(promise: Promise) -> tuple[Made, Client]:
    """Two users and three tabs, one of which is cut and resumes; everybody was shown everything there is."""
    made = Made(promise)
    made.emit("alice", 1, 2, 3, 4)
    made.emit("bob", 1, 2)
    one, two, bob = (made.open(user, name) for user, name in (("alice", "a1"), ("alice", "a2"), ("bob", "b1")))
    for client in (one, two, bob):
        client.greet()
    one.show(1, 2)
    one.ping("first.2.m2")
    one.close()
    two.show(1, 2, 3, 4)
    bob.show(1, 2)
    one = made.open("alice", "a1", "first.2.m2")
    one.greet("first.2.m2", resumed=True)
    one.show(3, 4)
    made.read_at_the_end("alice", 1, 2, 3, 4)
    made.read_at_the_end("bob", 1, 2)
    return made, one


@pytest.mark.parametrize("promise", [Promise(), Promise(durable=True), Promise(unseen=True)])
def test_nothing_is_found_in_a_story_that_is_right(promise: Promise) -> None:
    verdict = clean(promise)[0].judged()
    assert verdict.violations == []
    assert (verdict.emitted, verdict.acknowledged, verdict.shown, verdict.resumed) == (6, 6, 16, 1)
    assert (verdict.gaps.total(), verdict.repeated, verdict.told, verdict.unseen) == (0, 0, 0, 0)


def of_another_user(made: Made, one: Client) -> None:
    one.receive(made.open("bob", "b2").frame(1))


def with_another_name_on_it(_made: Made, one: Client) -> None:
    one.receive(one.frame(4, user_id="bob"))


def greeted_as_another(made: Made, _one: Client) -> None:
    made.open("alice", "a3").greet("first.4.m4", user="bob")


def counted_by_a_server(made: Made, _one: Client) -> None:
    made.story.residue["isolation_violations of node-1"] = 1


def shown_provisionally(made: Made, one: Client) -> None:
    one.receive({"type": "provisional", "event": made.open("bob", "b2").frame(1)})


def shown_twice(_made: Made, one: Client) -> None:
    one.show(4)


def stored_twice(_made: Made, one: Client) -> None:
    one.show(4, offset=5)


def shown_late(made: Made, one: Client) -> None:
    made.emit("alice", 5, 6, acknowledged=False)
    one.show(6, offset=5)
    one.show(5, offset=6)


def shown_behind_its_place(made: Made, one: Client) -> None:
    made.emit("alice", 5, acknowledged=False)
    one.show(5, offset=3, mark="x")


def never_emitted(_made: Made, one: Client) -> None:
    one.show(5)


def without_a_stamp(_made: Made, one: Client) -> None:
    one.receive(one.frame(4, data={"stamp": "4.0.alice", "text": ""}))


def with_other_text(_made: Made, one: Client) -> None:
    data = Fact("alice", 1, 4).data(SECRETS)
    one.receive(one.frame(4, data={**data, "text": "x" + data["text"][1:]}))


def with_more_in_it(_made: Made, one: Client) -> None:
    one.receive(one.frame(4, data={**Fact("alice", 1, 4).data(SECRETS), "more": 1}))


def under_another_id(_made: Made, one: Client) -> None:
    one.receive(one.frame(4, id="1.5"))


def in_place_of_another(made: Made, _one: Client) -> None:
    made.emit("alice", 5, acknowledged=False)
    client = made.open("alice", "a3")
    client.greet()
    client.show(1, 2, 3)
    client.show(5, offset=4)


def passed_over(made: Made, one: Client) -> None:
    made.emit("alice", 5, 6, acknowledged=False)
    one.show(6)


def another_life_without_a_gap(made: Made, one: Client) -> None:
    made.emit("alice", 5, acknowledged=False)
    one.show(5, epoch="second")


def another_history_without_a_gap(made: Made, one: Client) -> None:
    """It is shown what comes behind an entry that took the place of one which it was shown."""
    made.emit("alice", 5, 6, acknowledged=False)
    other = made.open("alice", "a3")
    other.greet()
    other.show(1, 2, 3, 4)
    other.show(5, mark="fork")
    one.show(5)
    one.show(6)
    other.show(6)


def not_resumed_and_no_gap(made: Made, one: Client) -> None:
    one.close()
    again = made.open("alice", "a1", "first.4.m4")
    again.greet("first.4.m4", resumed=False)
    again.show(4)


def resumed_elsewhere(made: Made, one: Client) -> None:
    one.close()
    made.open("alice", "a1", "first.4.m4").greet("first.3.m3", resumed=True)


def resumed_at_a_place_that_it_did_not_name(made: Made, one: Client) -> None:
    """It stands where the server says, and had asked for another place."""
    one.close()
    made.open("alice", "a1", "first.3.m3").greet("first.4.m4", resumed=True)


def greeted_nowhere(made: Made, _one: Client) -> None:
    made.open("alice", "a3").greet("nowhere")


def greeted_nowhere_again(made: Made, one: Client) -> None:
    one.close()
    made.open("alice", "a1", "first.4.m4").greet("nowhere", resumed=True)


def shown_nowhere(made: Made, one: Client) -> None:
    made.emit("alice", 5, acknowledged=False)
    one.receive(one.frame(5, cursor="nowhere"))


def told_a_gap_without_a_reason(_made: Made, one: Client) -> None:
    one.gap("first.4.m4", "somehow")


def pinged_elsewhere(_made: Made, one: Client) -> None:
    one.ping("first.3.m3")


def acknowledged_elsewhere(made: Made, _one: Client) -> None:
    made.note("acknowledged", Fact("alice", 1, 4), "first.3.m3")


def sent_away(_made: Made, one: Client) -> None:
    one.close(4410)


def crashed(made: Made, _one: Client) -> None:
    made.story.residue["tracebacks of node-1"] = 2


def left_behind(made: Made, _one: Client) -> None:
    made.open("alice", "a3").greet()


def not_shown_what_is_there(made: Made, _one: Client) -> None:
    """It was sent right behind it, after a gap that was not before it."""
    client = made.open("alice", "a3", "other.9.x")
    client.greet("other.9.x")
    client.gap("first.2.m2", "new_epoch")
    client.show(3, 4)


PLANTED: list[tuple[Callable[[Made, Client], None], Fault]] = [
    (of_another_user, Fault.LEAK),
    (with_another_name_on_it, Fault.LEAK),
    (greeted_as_another, Fault.LEAK),
    (counted_by_a_server, Fault.LEAK),
    (shown_provisionally, Fault.LEAK),
    (shown_twice, Fault.DUPLICATE),
    (stored_twice, Fault.DUPLICATE),
    (shown_late, Fault.REORDER),
    (shown_behind_its_place, Fault.REORDER),
    (never_emitted, Fault.PHANTOM),
    (without_a_stamp, Fault.CORRUPT),
    (with_other_text, Fault.CORRUPT),
    (with_more_in_it, Fault.CORRUPT),
    (under_another_id, Fault.CORRUPT),
    (in_place_of_another, Fault.CORRUPT),
    (passed_over, Fault.LOST_SILENT),
    (not_shown_what_is_there, Fault.LOST_SILENT),
    (left_behind, Fault.LOST),
    (another_life_without_a_gap, Fault.GAP_WITHOUT_NOTICE),
    (another_history_without_a_gap, Fault.GAP_WITHOUT_NOTICE),
    (not_resumed_and_no_gap, Fault.GAP_WITHOUT_NOTICE),
    (resumed_elsewhere, Fault.CHAIN_BREAK),
    (resumed_at_a_place_that_it_did_not_name, Fault.CHAIN_BREAK),
    (greeted_nowhere, Fault.CHAIN_BREAK),
    (greeted_nowhere_again, Fault.CHAIN_BREAK),
    (shown_nowhere, Fault.CHAIN_BREAK),
    (told_a_gap_without_a_reason, Fault.CORRUPT),
    (pinged_elsewhere, Fault.CHAIN_BREAK),
    (acknowledged_elsewhere, Fault.CHAIN_BREAK),
    (sent_away, Fault.DISCONNECTED),
    (crashed, Fault.RESIDUE),
]


@pytest.mark.parametrize(("plant", "fault"), PLANTED, ids=lambda each: getattr(each, "__name__", str(each)))
def test_what_is_planted_is_found(plant: Callable[[Made, Client], None], fault: Fault) -> None:
    made, one = clean(Promise())
    plant(made, one)
    assert fault in {violation.fault for violation in made.judged().violations}


def lost(promise: Promise, *, gap: bool = False, read: bool = True) -> Verdict:
    """Alice's third event was acknowledged, and is gone. One of her tabs had read it, if anybody; with `gap` it is
    told."""
    made = Made(promise)
    made.emit("alice", 1, 2, 3)
    for name in ("a1", "a2"):
        client = made.open("alice", name)
        client.greet()
        client.show(1, 2)
        if name == "a1" and read:
            client.show(3)
        if name == "a1" and gap:
            client.gap("first.0.")
            client.show(1, 2)
    made.read_at_the_end("alice", 1, 2)
    return made.judged()


def test_a_loss_that_was_told_is_counted_and_no_violation() -> None:
    verdict = lost(Promise(), gap=True)
    assert verdict.violations == []
    assert (verdict.told, verdict.unseen, verdict.repeated, verdict.gaps["diverged"]) == (1, 0, 2, 1)


def test_a_loss_of_which_nobody_was_told_is_found() -> None:
    """The tab that had read it stands where the log is not, and the other one misses it."""
    assert lost(Promise(unseen=True)).by_class == {"LOST": 1, "LOST_SILENT": 1}


def test_a_gap_that_was_told_before_excuses_nothing() -> None:
    made, one = clean(Promise())
    one.gap("first.3.m3")
    one.show(4)
    made.emit("alice", 5)
    assert made.judged().by_class == {"LOST_SILENT": 1}


def test_a_loss_that_nobody_could_notice_is_a_violation_unless_the_mode_says_so() -> None:
    assert lost(Promise(), read=False).by_class == {"LOST_SILENT": 1}
    verdict = lost(Promise(unseen=True), read=False)
    assert verdict.violations == []
    assert verdict.unseen == 1


def test_where_nothing_may_be_lost_every_loss_and_every_gap_is_a_violation() -> None:
    assert lost(Promise(durable=True), gap=True).by_class == {"LOST": 1, "NEEDLESS_GAP": 1}
    assert lost(Promise(durable=True), read=False).by_class == {"LOST": 1}


def test_what_was_shown_before_a_gap_is_repeated_behind_it_and_no_duplicate() -> None:
    made, one = clean(Promise())
    one.gap("first.1.m1")
    one.show(2, 3, 4)
    verdict = made.judged()
    assert verdict.violations == []
    assert verdict.repeated == 3


def test_what_a_client_was_not_acknowledged_may_be_in_the_log_or_not() -> None:
    made = clean(Promise(durable=True))[0]
    made.emit("alice", 5, acknowledged=False)
    assert made.judged().violations == []


def test_what_is_stored_twice_is_counted_where_a_store_may_forget_ids_and_shown_twice_is_a_duplicate_even_there() -> (
    None
):
    made, one = clean(Promise(forgets_ids=True))
    stored_twice(made, one)
    verdict = made.judged()
    assert verdict.twice == 1
    assert Fault.DUPLICATE not in {violation.fault for violation in verdict.violations}
    made, one = clean(Promise(forgets_ids=True))
    shown_twice(made, one)
    assert Fault.DUPLICATE in {violation.fault for violation in made.judged().violations}


def test_one_number_stands_for_a_lane_and_a_number_of_it() -> None:
    fact = Fact("alice", 12, 345)
    stamp = SECRETS.read(fact.data(SECRETS)["stamp"])
    assert stamp is not None
    assert (stamp.user, *divmod(stamp.number, LANE)) == fact
    assert Place.of("epoch.7.m.x") == ("epoch", 7, "m.x")
    assert Place.of("nonsense") is None
