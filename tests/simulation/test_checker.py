"""The checker, judged: a clean history passes, and each way of spoiling it is called what it is."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.simulation.checker import Checker, Fault, check
from tests.simulation.ledger import (
    DELTA,
    Answered,
    Appended,
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
    Record,
    Residue,
    Retained,
    Revoked,
    Revoking,
    RolledBack,
    RunStopped,
    Saved,
    Secrets,
    Steady,
    StillOpen,
)

RETAINED = Retained(events=6, bytes=10_000_000, age=3_600.0)
USERS = ["alice", "bob"]


class Story:
    """A history as an honest server would leave it, told step by step."""

    def __init__(self) -> None:
        self.secrets = Secrets(1, USERS)
        self.records: list[Record] = []
        self.now = 0.0
        self.epochs = dict.fromkeys(USERS, "first")
        self.logs: dict[str, list[dict[str, Any]]] = {user: [] for user in USERS}
        self.marks: dict[str, list[str]] = {user: [] for user in USERS}
        self.attempt = ""
        """What marks end with, so that they differ from those before a rollback."""
        self.users: dict[int, str] = {}
        self.runs = 0

    @property
    def history(self) -> History:
        return History(self.secrets, RETAINED, self.records)

    def at(self) -> float:
        self.now += 0.001
        return self.now

    def add(self, record: Record) -> None:
        self.records.append(record)

    def position(self, user: str, offset: int) -> str:
        mark = self.marks[user][offset - 1] if offset else ""
        return f"{self.epochs[user]}.{offset}.{mark}"

    def emit(self, user: str, number: int, kind: str = "note", connection_id: str | None = None) -> None:
        data = {"stamp": self.secrets.stamp(user, number), "n": number}
        if kind.startswith("agent_"):
            data = {"agent": self.secrets.stamp(user, number)}
        emission = Emission(user, Key(number, kind), "plain", data, connection_id=connection_id)
        event = {"type": kind, "data": data, "user_id": user, "id": f"{kind}{number}"}
        position = self.append(user, event)
        self.add(Invoked(self.at(), emission))
        self.add(Appended(self.at(), user, str(event["id"]), copy.deepcopy(event), 100, connection_id, position))
        self.add(Answered(self.at(), emission, "ok", position))

    def put(self, user: str, number: int) -> dict[str, Any]:
        """An event that waits in an outbox."""
        data = {"stamp": self.secrets.stamp(user, number), "n": number}
        emission = Emission(user, Key(number, "note"), "plain", data)
        self.add(Invoked(self.at(), emission))
        self.add(Answered(self.at(), emission, "queued"))
        return {"type": "note", "data": data, "user_id": user, "id": f"note{number}"}

    def take(self, user: str, event: dict[str, Any]) -> None:
        """An outbox gets it into the log."""
        position = self.append(user, event)
        self.add(Appended(self.at(), user, str(event["id"]), copy.deepcopy(event), 100, None, position))

    def delta(self, number: int, start: int, length: int) -> None:
        """A piece of text for alice."""
        text = self.secrets.text("alice", number, start + length)[start:]
        data = {"message_id": self.secrets.stamp("alice", number), "start": start, "text": text}
        event = {"type": DELTA, "data": data, "user_id": "alice", "id": f"d{number}.{start}"}
        self.add(Invoked(self.at(), Emission("alice", Key(number, DELTA), "text", None)))
        position = self.append("alice", event)
        self.add(Appended(self.at(), "alice", str(event["id"]), copy.deepcopy(event), 100, None, position))

    def append(self, user: str, event: dict[str, Any]) -> str:
        self.logs[user].append(event)
        self.marks[user].append(f"{event['id']}{self.attempt}")
        return self.position(user, len(self.logs[user]))

    def connect(
        self,
        connection: int,
        tab: str,
        user: str,
        kind: str = "none",
        offset: int | None = None,
        *,
        cursor: str | None = None,
    ) -> None:
        self.users[connection] = user
        cursor = cursor if offset is None else self.position(user, offset)
        connection_id = "cay" if tab == "ay" else None
        self.add(Connecting(self.at(), tab, connection, user, kind, cursor, connection_id))

    def frame(self, connection: int, frame: dict[str, Any]) -> None:
        self.add(Received(self.at(), connection, frame))

    def greet(self, connection: int, offset: int, *, resumed: bool = False) -> None:
        user = self.users[connection]
        cursor = self.position(user, offset)
        self.frame(connection, {"type": "connected", "user_id": user, "resumed": resumed, "cursor": cursor})

    def gap(self, connection: int, offset: int, reason: str) -> None:
        self.frame(
            connection, {"type": "gap", "reason": reason, "cursor": self.position(self.users[connection], offset)}
        )

    def show(self, connection: int, *offsets: int) -> None:
        user = self.users[connection]
        for offset in offsets:
            self.frame(connection, self.made(user, offset))

    def made(self, user: str, offset: int) -> dict[str, Any]:
        """The frame of an entry."""
        return {**copy.deepcopy(self.logs[user][offset - 1]), "cursor": self.position(user, offset)}

    def ping(self, connection: int, offset: int) -> None:
        self.frame(connection, {"type": "ping", "cursor": self.position(self.users[connection], offset)})

    def forget(self, user: str, epoch: str) -> None:
        self.add(LifeEnded(self.at(), user))
        self.logs[user] = []
        self.marks[user] = []
        self.epochs[user] = epoch
        self.add(Opened(self.at(), user, f"{epoch}.0."))

    def roll_back(self, kept: dict[str, int]) -> None:
        """Hold no more than so many entries of each log."""
        self.add(RolledBack(self.at(), 1, 4.0))
        for user, count in kept.items():
            del self.logs[user][count:]
            del self.marks[user][count:]
        self.attempt += "x"

    def close(self, connection: int, code: int = 1006, reason: str = "") -> None:
        self.add(Closed(self.at(), connection, code, reason))


def clean_story() -> Story:
    """Two users, three tabs: live events, an addressed one, a resume, a trimmed log, a forgotten log, merged text."""
    story = Story()
    for user in USERS:
        story.add(Opened(story.at(), user, "first.0."))
    for connection, tab, user in ((1, "ax", "alice"), (2, "ay", "alice"), (3, "bx", "bob")):
        story.connect(connection, tab, user)
        story.greet(connection, 0)
    for number in (1, 2):
        story.emit("alice", number)
        story.emit("bob", number)
    story.show(1, 1, 2)
    story.show(2, 1, 2)
    story.show(3, 1, 2)
    story.emit("alice", 3, connection_id="cay")
    story.show(2, 3)
    story.ping(1, 3)
    story.close(1)
    story.emit("alice", 4)
    story.emit("alice", 5)
    story.show(2, 4, 5)
    story.connect(4, "ax", "alice", "own", 3)
    story.greet(4, 3, resumed=True)
    story.show(4, 4, 5)
    story.close(4)
    for number in range(6, 16):
        story.emit("alice", number)
    story.show(2, *range(6, 16))
    story.connect(5, "ax", "alice", "own", 5)
    story.greet(5, 5)
    story.gap(5, 9, "trimmed")
    story.show(5, *range(10, 16))
    story.forget("alice", "second")
    for connection in (2, 5):
        story.gap(connection, 0, "new_epoch")
    story.emit("alice", 16, "agent_started")
    story.emit("alice", 17)
    for connection in (2, 5):
        story.show(connection, 1, 2)
    for start in (0, 10, 20):
        story.delta(18, start, 10)
    story.show(2, 3, 4, 5)
    merged = copy.deepcopy(story.logs["alice"][2])
    merged["data"]["text"] = story.secrets.text("alice", 18, 30)
    story.frame(5, {**merged, "cursor": story.position("alice", 5)})
    story.add(Draining(story.at()))
    story.close(3, 1012, "restarting")
    story.connect(6, "bx", "bob", "own", 2)
    story.greet(6, 2, resumed=True)
    story.add(Quiesced(story.at() + 10, {"ax": 5, "ay": 2, "bx": 6}, 3))
    story.add(Residue(story.at() + 20, {"tasks": [], "isolation_violations": 0}))
    return story


def story_of_a_rollback() -> Story:
    """A store that loses entries 3 to 5, in front of alice's tabs: one is idle and has read beyond what is kept, one is
    sent what was read for it before, one comes back with a cursor that is no more, and one had read what was kept."""
    story = Story()
    story.add(Opened(story.at(), "alice", "first.0."))
    tabs = {1: "idle", 2: "sent", 3: "gone", 4: "kept"}
    for connection, tab in tabs.items():
        story.connect(connection, tab, "alice")
        story.greet(connection, 0)
    for number in (1, 2):
        story.emit("alice", number)
    for connection in tabs:
        story.show(connection, 1, 2)
    story.add(Saved(story.at(), 1))
    for number in (3, 4, 5):
        story.emit("alice", number)
    story.show(1, 3, 4)
    story.show(3, 3, 4)
    story.close(3)
    cursor, read = story.position("alice", 4), story.made("alice", 3)
    story.roll_back({"alice": 2})
    story.frame(2, read)
    story.emit("alice", 3)
    story.emit("alice", 6)
    story.show(4, 3, 4)
    for connection in (1, 2):
        story.gap(connection, 0, "diverged")
        story.show(connection, 1, 2, 3, 4)
    story.connect(5, "gone", "alice", "own", cursor=cursor)
    story.frame(5, {"type": "connected", "user_id": "alice", "resumed": False, "cursor": cursor})
    story.gap(5, 0, "diverged")
    story.show(5, 1, 2, 3, 4)
    story.ping(4, 4)
    story.now += 5.0
    story.add(Quiesced(story.at(), {"idle": 1, "sent": 2, "gone": 5, "kept": 4}, 4))
    return story


def story_of_an_outage() -> Story:
    """The log is away while a run of alice's goes on: her tabs are shown it provisionally, then as it was appended."""
    story = Story()
    for user in USERS:
        story.add(Opened(story.at(), user, "first.0."))
    for connection, tab, user in ((1, "ax", "alice"), (2, "ay", "alice"), (3, "bx", "bob")):
        story.connect(connection, tab, user)
        story.greet(connection, 0)
    story.emit("alice", 1)
    for connection in (1, 2):
        story.show(connection, 1)
    for connection in (1, 2, 3):
        story.frame(connection, {"type": "degraded", "since": "2026-11-20T09:00:00.123456+00:00"})
    waiting = [story.put("alice", number) for number in (2, 3, 4)]
    for event in waiting:
        for connection in (1, 2):
            story.frame(connection, {"type": "provisional", "event": copy.deepcopy(event)})
    for event in waiting:
        story.take("alice", event)
    for connection in (1, 2, 3):
        story.frame(connection, {"type": "restored"})
    for connection in (1, 2):
        story.show(connection, 2, 3, 4)
    story.add(Quiesced(story.at() + 10, {"ax": 1, "ay": 2, "bx": 3}, 3))
    return story


def shown(story: Story, connection: int, number: int, kind: str = "note") -> int:
    """Where in the history this connection was shown that event."""
    stamp = story.secrets.stamp(story.users[connection], number)
    for index, record in enumerate(story.records):
        if not isinstance(record, Received) or record.connection != connection or record.frame["type"] != kind:
            continue
        if record.frame["data"].get("stamp") == stamp:
            return index
    raise AssertionError("not in this history")


def received(story: Story, connection: int, frame_type: str) -> int:
    return next(
        index
        for index, record in enumerate(story.records)
        if isinstance(record, Received) and record.connection == connection and record.frame["type"] == frame_type
    )


def frame_at(story: Story, index: int) -> dict[str, Any]:
    record = story.records[index]
    assert isinstance(record, Received)
    return record.frame


def insert_frame(story: Story, index: int, connection: int, frame: dict[str, Any]) -> None:
    story.records.insert(index + 1, Received(story.records[index].at, connection, frame))


def leak(story: Story) -> None:
    index = shown(story, 3, 1)
    insert_frame(story, shown(story, 1, 2), 1, copy.deepcopy(frame_at(story, index)))


def leak_under_another_label(story: Story) -> None:
    frame = copy.deepcopy(frame_at(story, shown(story, 3, 1)))
    number, mac, _user = frame["data"]["stamp"].split(".", 2)
    frame["data"]["stamp"] = f"{number}.{mac}.alice"
    frame["user_id"] = "alice"
    insert_frame(story, shown(story, 1, 2), 1, frame)


def leak_to_another_connection(story: Story) -> None:
    insert_frame(story, shown(story, 4, 4), 4, copy.deepcopy(frame_at(story, shown(story, 2, 3))))


def leak_to_a_stranger(story: Story) -> None:
    story.records.insert(0, Connecting(0.0, "stranger", 99, None, "none"))
    insert_frame(story, shown(story, 3, 1), 99, copy.deepcopy(frame_at(story, shown(story, 3, 1))))


def appended_to_another_log(story: Story) -> None:
    event = {"type": "note", "data": {"stamp": story.secrets.stamp("bob", 1), "n": 1}, "user_id": "bob", "id": "x"}
    last = next(index for index, record in enumerate(story.records) if isinstance(record, LifeEnded))
    story.records.insert(last, Appended(story.records[last].at, "alice", "x", event, 100, "cay2", "first.16.x"))


def run_stopped_by_somebody_else(story: Story) -> None:
    story.records.insert(shown(story, 2, 17), RunStopped(story.records[shown(story, 2, 17)].at, "alice", "r1"))


def lost_after_it_was_acknowledged(story: Story) -> None:
    emission = Emission("bob", Key(3, "note"), "plain", {})
    index = received(story, 6, "connected")
    story.records.insert(index, Answered(story.records[index].at, emission, "ok", "first.3.note3"))
    story.records.insert(index, Invoked(story.records[index].at, emission))


def lost_behind_a_gap(story: Story) -> None:
    """The gap tells of more than is gone."""
    frame_at(story, received(story, 5, "gap"))["cursor"] = "first.11.note11"
    for number in (11, 10):
        del story.records[shown(story, 5, number)]


def lost_in_silence(story: Story) -> None:
    del story.records[shown(story, 2, 4)]


def the_last_lost_in_silence(story: Story) -> None:
    for connection in (2, 5):
        index = max(
            index
            for index, record in enumerate(story.records)
            if isinstance(record, Received) and record.connection == connection
        )
        del story.records[index]


def lost_in_a_drain(story: Story) -> None:
    del story.records[shown(story, 3, 2)]
    # The tab then resumes from its true place, so nothing else is wrong.
    resuming = next(record for record in story.records if isinstance(record, Connecting) and record.connection == 6)
    resuming.cursor = "first.1.note1"
    index = received(story, 6, "connected")
    frame_at(story, index)["cursor"] = "first.1.note1"
    event = copy.deepcopy(story.logs["bob"][1])
    insert_frame(story, index, 6, {**event, "cursor": "first.2.note2"})


def duplicate(story: Story) -> None:
    index = shown(story, 2, 9)
    insert_frame(story, index, 2, copy.deepcopy(frame_at(story, index)))


def told_twice(story: Story) -> None:
    """A run begins twice: two entries, one fact."""
    began = next(
        record for record in story.records if isinstance(record, Appended) and record.event["type"] == "agent_started"
    )
    index = next(index for index, record in enumerate(story.records) if isinstance(record, Draining))
    again = Appended(
        story.records[index].at, "alice", "other", copy.deepcopy(began.event), 100, "nobody", "second.6.other"
    )
    story.records.insert(index, again)


def reordered(story: Story) -> None:
    first, second = shown(story, 2, 9), shown(story, 2, 10)
    story.records[first], story.records[second] = story.records[second], story.records[first]


def gap_not_told(story: Story) -> None:
    del story.records[received(story, 5, "gap")]


def resumed_in_another_life(story: Story) -> None:
    """The log began anew, and its reader is never told."""
    index = max(
        index
        for index, record in enumerate(story.records)
        if isinstance(record, Received) and record.connection == 5 and record.frame["type"] == "gap"
    )
    del story.records[index]


def needless_gap(story: Story) -> None:
    insert_frame(story, shown(story, 2, 9), 2, {"type": "gap", "reason": "trimmed", "cursor": "first.9.note9"})


def needless_reset(story: Story) -> None:
    index = received(story, 4, "connected")
    frame_at(story, index)["resumed"] = False
    insert_frame(story, index, 4, {"type": "gap", "reason": "diverged", "cursor": "first.0."})
    for offset in (2, 1):
        event = copy.deepcopy(frame_at(story, shown(story, 1, offset)))
        insert_frame(story, index + 1, 4, event)


def sent_elsewhere_before_the_gap(story: Story) -> None:
    """Cut between the two, the client would come back with a cursor that is honoured."""
    frame_at(story, received(story, 5, "connected"))["cursor"] = "first.9.note9"


def phantom(story: Story) -> None:
    data = {"stamp": story.secrets.stamp("alice", 77), "n": 77}
    frame = {"type": "note", "data": data, "user_id": "alice", "id": "note77", "cursor": "first.9.note9"}
    insert_frame(story, shown(story, 2, 9), 2, frame)


def corrupt(story: Story) -> None:
    frame_at(story, shown(story, 2, 9))["data"]["n"] = 10


def corrupt_text(story: Story) -> None:
    frame = frame_at(story, received(story, 2, DELTA))
    frame["data"]["text"] = frame["data"]["text"][::-1]


def chain_break(story: Story) -> None:
    frame_at(story, shown(story, 2, 9))["cursor"] = "first.10.note10"


def ping_ahead_of_what_was_shown(story: Story) -> None:
    insert_frame(story, shown(story, 2, 8), 2, {"type": "ping", "cursor": "first.9.note9"})
    del story.records[shown(story, 2, 9)]


def late_after_revoke(story: Story) -> None:
    index = next(index for index, record in enumerate(story.records) if isinstance(record, LifeEnded))
    story.records.insert(index, Revoked(story.records[index].at, "alice"))


def revoked_of_a_token(story: Story, token_id: str) -> Revoked:
    """Connection 2 came with that token, and it is revoked when the log is forgotten."""
    opened = next(record for record in story.records if isinstance(record, Connecting) and record.connection == 2)
    opened.token_id = "j2"
    index = next(index for index, record in enumerate(story.records) if isinstance(record, LifeEnded))
    record = Revoked(story.records[index].at, "alice", token_id)
    story.records.insert(index, record)
    return record


def still_open_after_revoke(story: Story) -> None:
    record = revoked_of_a_token(story, "j2")
    for later in story.records[story.records.index(record) + 1 :]:
        later.at += 2.5
    story.records.insert(story.records.index(record) + 1, StillOpen(record.at + 2.1, [2]))


def let_in_again(story: Story) -> None:
    index = next(index for index, record in enumerate(story.records) if isinstance(record, Connecting))
    opened = story.records[index]
    assert isinstance(opened, Connecting)
    story.records.insert(index, Revoked(opened.at, str(opened.user)))


def told_4410_and_not_meant(story: Story) -> None:
    index = next(index for index, record in enumerate(story.records) if isinstance(record, Closed))
    closed = story.records[index]
    assert isinstance(closed, Closed)
    closed.code = 4410
    opened = next(r for r in story.records if isinstance(r, Connecting) and r.connection == closed.connection)
    opened.token_id, opened.issued_at = "mine", 100.0
    story.records.insert(index, Revoking(closed.at, str(opened.user), "another's"))
    story.records.insert(index, Revoking(closed.at, str(opened.user), None, 99.9))
    story.records.insert(index, Revoking(closed.at, "somebody", None))


def disconnected_by_a_stall(story: Story) -> None:
    story.records.insert(0, Steady(0.0))
    for record in [record for record in story.records if isinstance(record, Closed)]:
        record.at += 1_000.0
        story.records.remove(record)
    story.records = [record for record in story.records if not isinstance(record, Quiesced | Draining)]
    story.close(5, 4408)


def residue(story: Story) -> None:
    last = story.records[-1]
    assert isinstance(last, Residue)
    last.left["tasks"] = ["<coroutine object WebSocketConnection._write>"]


def residue_registered(story: Story) -> None:
    record = next(record for record in story.records if isinstance(record, Quiesced))
    record.registered = 4


# -- what a rollback may be made of


def after(story: Story, connection: int, frame_type: str) -> int:
    """Where in the history this connection was sent the last such frame."""
    return max(
        index
        for index, record in enumerate(story.records)
        if isinstance(record, Received) and record.connection == connection and record.frame["type"] == frame_type
    )


def without(story: Story, connection: int, *numbers: int) -> None:
    """The connection is not shown these events after its gap."""
    gap = after(story, connection, "gap")
    stamps = [story.secrets.stamp("alice", number) for number in numbers]
    story.records = [
        record
        for index, record in enumerate(story.records)
        if index < gap
        or not isinstance(record, Received)
        or record.connection != connection
        or record.frame.get("data", {}).get("stamp") not in stamps
    ]


def resumed_by_epoch_and_offset(story: Story) -> None:
    """The offset is there again, and another entry has it."""
    greeting = frame_at(story, after(story, 5, "connected"))
    greeting["resumed"], greeting["cursor"] = True, story.position("alice", 4)
    without(story, 5, 1, 2, 3, 6)
    del story.records[after(story, 5, "gap")]


def another_history_without_a_gap(story: Story) -> None:
    """A socket that stayed open is shown what joins by its offset."""
    without(story, 2, 1, 2, 3)
    del story.records[after(story, 2, "gap")]


def idle_and_never_told(story: Story) -> None:
    without(story, 1, 1, 2, 3, 6)
    del story.records[after(story, 1, "gap")]


def idle_and_told_late(story: Story) -> None:
    index = after(story, 1, "gap")
    late = [record for record in story.records[index:] if isinstance(record, Received) and record.connection == 1]
    story.records = [record for record in story.records if record not in late]
    for record in late:
        record.at = story.now
    story.records[-1:-1] = late


def gap_for_who_missed_nothing(story: Story) -> None:
    rolled_back = next(index for index, record in enumerate(story.records) if isinstance(record, RolledBack))
    frames = [{"type": "gap", "reason": "diverged", "cursor": "first.0."}]
    frames += [story.made("alice", offset) for offset in (1, 2)]
    for frame in reversed(frames):
        insert_frame(story, rolled_back, 4, frame)


def gap_that_passes_over_the_new_history(story: Story) -> None:
    frame_at(story, after(story, 1, "gap"))["cursor"] = story.position("alice", 3)
    without(story, 1, 1, 2, 3)


def gap_for_another_reason(story: Story) -> None:
    frame_at(story, after(story, 1, "gap"))["reason"] = "new_epoch"


def gap_that_tells_of_trimming(story: Story) -> None:
    frame_at(story, after(story, 5, "gap"))["reason"] = "trimmed"


def handled_twice(story: Story) -> None:
    """The event that was appended again carries another id, so that no client knows it."""
    index = after(story, 1, "gap") + 3
    assert frame_at(story, index)["id"] == "note3"
    frame_at(story, index)["id"] = "another"


def kept_and_not_shown(story: Story) -> None:
    """Who stands in what was kept is owed what comes after it."""
    story.records = [
        record
        for record in story.records
        if not (isinstance(record, Received) and record.connection == 4 and record.frame.get("id") == "note3")
    ]


def previews(story: Story, connection: int) -> list[int]:
    """Where in the history this connection was shown what waits."""
    return [
        index
        for index, record in enumerate(story.records)
        if isinstance(record, Received) and record.connection == connection and record.frame["type"] == "provisional"
    ]


def shown_before_it_was_degraded(story: Story) -> None:
    del story.records[received(story, 1, "degraded")]
    del story.records[received(story, 1, "restored")]


def shown_after_it_was_restored(story: Story) -> None:
    index = previews(story, 1)[-1]
    insert_frame(story, received(story, 1, "restored"), 1, frame_at(story, index))
    del story.records[index]


def degraded_twice(story: Story) -> None:
    index = received(story, 1, "degraded")
    insert_frame(story, index, 1, copy.deepcopy(frame_at(story, index)))


def restored_twice(story: Story) -> None:
    index = received(story, 1, "restored")
    insert_frame(story, index, 1, {"type": "restored"})


def never_restored(story: Story) -> None:
    del story.records[received(story, 3, "restored")]


def shown_twice(story: Story) -> None:
    index = previews(story, 1)[1]
    insert_frame(story, index, 1, copy.deepcopy(frame_at(story, index)))


def shown_in_another_order(story: Story) -> None:
    first, second, _third = previews(story, 2)
    one, two = frame_at(story, first), frame_at(story, second)
    one["event"], two["event"] = two["event"], one["event"]


def shown_and_never_appended(story: Story) -> None:
    """An event of nobody's outbox, which was promised to nobody."""
    for index in previews(story, 1):
        if frame_at(story, index)["event"]["id"] == "note3":
            frame_at(story, index)["event"]["id"] = "another"


def shown_to_another_thread(story: Story) -> None:
    opened = next(record for record in story.records if isinstance(record, Connecting) and record.connection == 2)
    opened.thread_id = "t1"
    story.records = [
        record
        for record in story.records
        if not (isinstance(record, Received) and record.connection == 2 and "data" in record.frame)
    ]


def shown_to_another_user(story: Story) -> None:
    insert_frame(story, received(story, 3, "degraded"), 3, copy.deepcopy(frame_at(story, previews(story, 1)[0])))
    frame = story.records.pop(received(story, 3, "provisional"))
    story.records.insert(previews(story, 1)[0], frame)


def shown_with_a_place(story: Story) -> None:
    frame_at(story, previews(story, 1)[0])["event"]["cursor"] = "first.2.note2"


def shown_with_other_data(story: Story) -> None:
    frame_at(story, previews(story, 1)[0])["event"]["data"]["n"] = 7


def shown_after_revocation(story: Story) -> None:
    index = received(story, 1, "degraded")
    story.records.insert(index, Revoking(story.records[index].at, "alice"))
    story.records.insert(index + 1, Revoked(story.records[index].at, "alice"))
    story.records = [
        record
        for place, record in enumerate(story.records)
        if place < index
        or not isinstance(record, Received)
        or (record.connection == 1 and record.frame["type"] != "note")
        or record.connection == 3
    ]


OUTAGE_CORRUPTIONS: list[tuple[Callable[[Story], None], Fault]] = [
    (shown_before_it_was_degraded, Fault.PROVISIONAL),
    (shown_after_it_was_restored, Fault.PROVISIONAL),
    (degraded_twice, Fault.PROVISIONAL),
    (restored_twice, Fault.PROVISIONAL),
    (never_restored, Fault.PROVISIONAL),
    (shown_twice, Fault.PROVISIONAL),
    (shown_in_another_order, Fault.PROVISIONAL),
    (shown_and_never_appended, Fault.PROVISIONAL),
    (shown_to_another_thread, Fault.PROVISIONAL),
    (shown_to_another_user, Fault.LEAK),
    (shown_with_a_place, Fault.CORRUPT),
    (shown_with_other_data, Fault.CORRUPT),
    (shown_after_revocation, Fault.LATE_AFTER_REVOKE),
]

ROLLBACK_CORRUPTIONS: list[tuple[Callable[[Story], None], Fault]] = [
    (resumed_by_epoch_and_offset, Fault.GAP_WITHOUT_NOTICE),
    (another_history_without_a_gap, Fault.GAP_WITHOUT_NOTICE),
    (idle_and_never_told, Fault.GAP_WITHOUT_NOTICE),
    (idle_and_told_late, Fault.GAP_WITHOUT_NOTICE),
    (gap_for_who_missed_nothing, Fault.NEEDLESS_GAP),
    (gap_that_passes_over_the_new_history, Fault.LOST),
    (gap_for_another_reason, Fault.CORRUPT),
    (gap_that_tells_of_trimming, Fault.CORRUPT),
    (handled_twice, Fault.DUPLICATE),
    (kept_and_not_shown, Fault.LOST_SILENT),
]

CORRUPTIONS: list[tuple[Callable[[Story], None], Fault]] = [
    (leak, Fault.LEAK),
    (leak_under_another_label, Fault.LEAK),
    (leak_to_another_connection, Fault.LEAK),
    (leak_to_a_stranger, Fault.LEAK),
    (appended_to_another_log, Fault.LEAK),
    (run_stopped_by_somebody_else, Fault.LEAK),
    (lost_after_it_was_acknowledged, Fault.LOST),
    (lost_behind_a_gap, Fault.LOST),
    (lost_in_a_drain, Fault.LOST),
    (lost_in_silence, Fault.LOST_SILENT),
    (the_last_lost_in_silence, Fault.LOST_SILENT),
    (duplicate, Fault.DUPLICATE),
    (told_twice, Fault.DUPLICATE),
    (reordered, Fault.REORDER),
    (gap_not_told, Fault.GAP_WITHOUT_NOTICE),
    (resumed_in_another_life, Fault.GAP_WITHOUT_NOTICE),
    (needless_gap, Fault.NEEDLESS_GAP),
    (needless_reset, Fault.NEEDLESS_GAP),
    (phantom, Fault.PHANTOM),
    (corrupt, Fault.CORRUPT),
    (corrupt_text, Fault.CORRUPT),
    (chain_break, Fault.CHAIN_BREAK),
    (sent_elsewhere_before_the_gap, Fault.CHAIN_BREAK),
    (ping_ahead_of_what_was_shown, Fault.CHAIN_BREAK),
    (late_after_revoke, Fault.LATE_AFTER_REVOKE),
    (still_open_after_revoke, Fault.LATE_AFTER_REVOKE),
    (let_in_again, Fault.LATE_AFTER_REVOKE),
    (told_4410_and_not_meant, Fault.DISCONNECTED),
    (disconnected_by_a_stall, Fault.DISCONNECTED),
    (residue, Fault.RESIDUE),
    (residue_registered, Fault.RESIDUE),
]


def test_a_clean_history_passes() -> None:
    checker = Checker(clean_story().history)
    assert checker.run() == []
    assert checker.deliveries == 35


@pytest.mark.parametrize(("spoil", "fault"), CORRUPTIONS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_each_way_of_spoiling_a_history_is_called_what_it_is(spoil: Callable[[Story], None], fault: Fault) -> None:
    story = clean_story()
    spoil(story)
    violations = check(story.history)
    assert {violation.fault for violation in violations} == {fault}, violations


def test_a_clean_history_of_a_rollback_passes() -> None:
    """Nobody is owed what was lost unread, and nobody is told of a gap for it."""
    checker = Checker(story_of_a_rollback().history)
    assert checker.run() == []
    assert checker.landed == {
        "gap_diverged": 3, "rollback_ahead": 1, "rollback_ahead_idle": 1, "rollback_overgrown": 3,
        "rollback_resume_lost": 1, "rollback_retried": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "fault"), ROLLBACK_CORRUPTIONS, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_each_way_of_getting_a_rollback_wrong_is_called_what_it_is(
    spoil: Callable[[Story], None], fault: Fault
) -> None:
    story = story_of_a_rollback()
    spoil(story)
    violations = check(story.history)
    assert {violation.fault for violation in violations} == {fault}, violations


def test_a_clean_history_of_an_outage_passes() -> None:
    checker = Checker(story_of_an_outage().history)
    assert checker.run() == []
    assert checker.landed["shown_provisionally"] == 6


@pytest.mark.parametrize(
    ("spoil", "fault"), OUTAGE_CORRUPTIONS, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_each_way_of_getting_an_outage_wrong_is_called_what_it_is(spoil: Callable[[Story], None], fault: Fault) -> None:
    story = story_of_an_outage()
    spoil(story)
    violations = check(story.history)
    assert fault in {violation.fault for violation in violations}, violations


def test_every_class_of_violation_is_found_by_some_corruption() -> None:
    assert {fault for _spoil, fault in [*CORRUPTIONS, *OUTAGE_CORRUPTIONS]} == set(Fault)


@pytest.mark.parametrize("tell", [clean_story, story_of_a_rollback])
def test_any_single_event_that_is_dropped_is_missed(tell: Callable[[], Story]) -> None:
    """Whichever delivery disappears, something is said, unless the store has lost the entry and nobody is owed it."""
    rng = random.Random(4)
    whole = tell()
    kept = {whole.position("alice", offset) for offset in range(1, len(whole.logs["alice"]) + 1)}
    events = [
        index
        for index, record in enumerate(whole.records)
        if isinstance(record, Received) and "data" in record.frame
        if tell is clean_story or record.frame["cursor"] in kept
    ]
    for index in rng.sample(events, 12):
        story = tell()
        del story.records[index]
        assert check(story.history), json.dumps(frame_at(whole, index))
