"""Who may do what: what is one's own, unless it is revoked or the application says no; and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import FakeSocket, Tab, a_manager, turns, until, virtual_time
from websocket_core.authorization import Authorization, Narrow, Verb
from websocket_core.errors import ConnectionRefused, LogUnavailable
from websocket_core.identity import Principal, UserId
from websocket_core.wire import CloseCode

ALICE = UserId("alice")
VERBS = pytest.mark.parametrize("verb", Verb)


class Rules:
    """A deny-list and a rule of the application that note who asks, and answer as a test has it."""

    def __init__(self, *, permits: Any = True, narrow: Any = True) -> None:
        self.answers = {"permits": permits, "narrow": narrow}
        self.asked: list[tuple[Any, ...]] = []

    def answer(self, which: str, *asked: object) -> Any:
        self.asked.append((which, *asked))
        if isinstance(self.answers[which], Exception):
            raise self.answers[which]
        return self.answers[which]

    async def permits(self, principal: Principal) -> bool:
        return bool(self.answer("permits", principal))

    async def narrow(self, principal: Principal, verb: Verb) -> bool:
        answer: bool = self.answer("narrow", principal, verb)
        return answer


@VERBS
async def test_everybody_may_do_everything_with_what_is_theirs(verb: Verb) -> None:
    rules = Rules()
    principal = Principal("alice")
    assert await Authorization(permits=rules.permits, narrow=None).refusal(principal, verb, ALICE) is None
    assert await Authorization(permits=rules.permits, narrow=rules.narrow).refusal(principal, verb, ALICE) is None
    assert rules.asked == [("permits", principal), ("permits", principal), ("narrow", principal, verb)]


@VERBS
@pytest.mark.parametrize("user_id", ["bob", "Alice", "alice ", "alic", "ali\u0301ce"])
async def test_nobody_may_do_anything_with_what_is_somebody_elses(verb: Verb, user_id: str) -> None:
    """Whatever the application would say: it is not asked."""
    rules = Rules()
    authorization = Authorization(permits=rules.permits, narrow=rules.narrow)
    assert await authorization.refusal(Principal(user_id), verb, ALICE) is CloseCode.NOT_ALLOWED
    assert rules.asked == []


async def test_what_no_rule_names_is_denied() -> None:
    rules = Rules()
    verb: Any = "read everybody's mail"
    refusal = await Authorization(permits=rules.permits, narrow=rules.narrow).refusal(Principal("alice"), verb, ALICE)
    assert (refusal, rules.asked) == (CloseCode.NOT_ALLOWED, [])


@VERBS
async def test_who_is_revoked_may_do_nothing_and_the_application_is_not_asked(verb: Verb) -> None:
    rules = Rules(permits=False)
    authorization = Authorization(permits=rules.permits, narrow=rules.narrow)
    assert await authorization.refusal(Principal("alice"), verb, ALICE) is CloseCode.REVOKED
    assert [asked[0] for asked in rules.asked] == ["permits"]


@VERBS
@pytest.mark.parametrize("answer", [False, None, 0, 1, "yes", [True], object()])
async def test_whatever_is_not_true_is_a_no(verb: Verb, answer: object) -> None:
    """A rule that forgets to answer, or answers with a coroutine or an object, must not open a door."""
    rules = Rules(narrow=answer)
    authorization = Authorization(permits=rules.permits, narrow=rules.narrow)
    assert await authorization.refusal(Principal("alice"), verb, ALICE) is CloseCode.NOT_ALLOWED


@VERBS
async def test_a_rule_that_cannot_answer_is_no_yes(verb: Verb) -> None:
    for rules in (Rules(permits=LogUnavailable("away")), Rules(narrow=OSError("away"))):
        authorization = Authorization(permits=rules.permits, narrow=rules.narrow)
        with pytest.raises((LogUnavailable, OSError)):
            await authorization.refusal(Principal("alice"), verb, ALICE)


# -- through the manager


def only(*verbs: Verb, asked: list[Verb] | None = None) -> Narrow:
    async def narrow(_principal: Principal, verb: Verb) -> bool:
        if asked is not None:
            asked.append(verb)
        return verb in verbs

    return narrow


@virtual_time
async def test_a_connection_asks_for_what_it_is_going_to_be_sent() -> None:
    asked: list[Verb] = []
    async with a_manager(authorize=only(*Verb, asked=asked)) as manager:
        position = await manager.get_emitter("alice").emit("x", {"n": 1})
        for cursor in (None, "latest", f"{position.epoch}.1.{position.mark}", "before.7.x"):
            await Tab.open(manager, "alice", cursor=cursor)
        await turns()
    assert asked == [Verb.HISTORY, Verb.CONNECT, Verb.RESUME, Verb.RESUME]


@pytest.mark.parametrize(
    ("cursor", "verb"), [(None, Verb.HISTORY), ("latest", Verb.CONNECT), ("before.7.x", Verb.RESUME)]
)
@virtual_time
async def test_who_may_not_is_closed_with_4403_and_sent_nothing(cursor: str | None, verb: Verb) -> None:
    async with a_manager(authorize=only(*set(Verb) - {verb})) as manager:
        await manager.get_emitter("alice").emit("x", {"n": 1})
        socket = FakeSocket()
        with pytest.raises(ConnectionRefused) as refused:
            await manager.connect_user(socket, "alice", "tab", cursor=cursor)
        await turns()
        assert (refused.value.code, socket.close_code, socket.texts) == (4403, 4403, [])
        assert manager.get_stats()["total_connections"] == 0
        assert not await manager.state.knows_connection(ALICE, "tab")


@virtual_time
async def test_a_rule_that_fails_lets_nobody_in() -> None:
    async def narrow(_principal: Principal, _verb: Verb) -> bool:
        raise ValueError("the permissions are away")

    async with a_manager(authorize=narrow) as manager:
        socket = FakeSocket()
        with pytest.raises(ValueError, match="the permissions are away"):
            await manager.connect_user(socket, "alice")
        await turns()
        assert (socket.texts, manager.get_stats()["total_connections"]) == ([], 0)


@pytest.mark.parametrize("may", [True, False])
@virtual_time
async def test_who_may_not_stop_runs_does_not(may: bool) -> None:
    stopped = []
    async with a_manager(authorize=only(*set(Verb) - (set() if may else {Verb.CANCEL}))) as manager:
        close = manager.runs.open(ALICE, "r1", lambda: stopped.append(1))
        tab = await Tab.open(manager, "alice")
        tab.socket.client_sends({"type": "cancel", "run_id": "r1", "request_id": "q"})
        await until(lambda: tab.socket.of_type("ack") or tab.socket.of_type("error"))
        (answer,) = [*tab.socket.of_type("ack"), *tab.socket.of_type("error")]
        assert (answer.get("code"), stopped) == ((None, [1]) if may else ("forbidden", []))
        tab.socket.client_sends({"type": "cancel", "run_id": "r2", "request_id": "q"})
        await until(lambda: len(tab.socket.of_type("ack") + tab.socket.of_type("error")) == 2)
        assert tab.socket.of_type("error")[-1]["code"] == ("not_found" if may else "forbidden")
        close()
