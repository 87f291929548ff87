"""Who somebody is: user ids compared exactly, principals and grants that cannot be changed or invented."""

from __future__ import annotations

import unicodedata
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from websocket_core.errors import InvalidInput, InvalidUserId
from websocket_core.identity import Grant, LogName, Principal, UserId, checked_user_id, text_fault

ANY_TEXT = st.text(st.characters(), max_size=600)


def _by_the_rule(text: str) -> bool:
    """The rule as section 9 of the design states it, written once more."""
    if not 1 <= len(text) <= 256 or any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        return False
    return len(text.encode()) <= 512


@settings(deadline=None, max_examples=400)
@given(st.one_of(ANY_TEXT, st.text(max_size=8), st.text(st.characters(codec="ascii"), max_size=300)))
def test_exactly_the_texts_of_the_rule_are_user_ids(text: str) -> None:
    if _by_the_rule(text):
        assert checked_user_id(text) == text
    else:
        with pytest.raises(InvalidUserId):
            checked_user_id(text)


@pytest.mark.parametrize(
    "user_id",
    [
        "a",
        " ",
        "a:b",
        "A:B",
        "{a}",
        "alice*",
        "../x",
        "%s",
        "'; --",
        "\u00e9",
        "e\u0301",
        "\U0001f600",
        "\u202e",
        "a" * 256,
    ],
)
def test_a_user_id_is_kept_as_it_is(user_id: str) -> None:
    """No folding, no normalising, no trimming: two that look alike are two users."""
    assert checked_user_id(user_id) == user_id
    assert checked_user_id(user_id).encode() == user_id.encode()


@pytest.mark.parametrize(
    "user_id",
    ["", "a\n", "\x00", "a\x7f", "a\x85", "\ud800", "a\udfffb", "x" * 257, "é" * 257, "\U0001f600" * 129],
)
def test_what_is_no_user_id_is_refused_without_being_quoted(user_id: str) -> None:
    with pytest.raises(InvalidUserId) as refused:
        checked_user_id(user_id)
    assert not user_id or user_id not in str(refused.value)
    str(refused.value).encode()


def test_the_bounds_are_256_characters_and_512_bytes() -> None:
    assert checked_user_id("é" * 256) == "é" * 256
    assert checked_user_id("\U0001f600" * 128) == "\U0001f600" * 128
    assert text_fault("€" * 171, characters=256, utf8_bytes=512) == "it must have at most 512 UTF-8 bytes, not 513"
    assert text_fault("x" * 257, characters=256, utf8_bytes=512) == "it must have at most 256 characters, not 257"


@pytest.mark.parametrize("value", [None, 1, 1.5, True, b"alice", ["alice"], ("user", "a"), object()])
def test_what_is_no_text_is_no_user_id(value: object) -> None:
    with pytest.raises(InvalidUserId, match=f"not {type(value).__name__}"):
        checked_user_id(value)


def test_a_str_that_lies_about_itself_is_taken_at_its_characters() -> None:
    """A subclass with an equality of its own could stand for two users at once; what comes out is a plain str."""

    class Chameleon(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return hash("bob")

        def __str__(self) -> str:
            return "bob"

    user = checked_user_id(Chameleon("alice"))
    assert type(user) is str
    assert user == "alice"
    assert user != "bob"
    assert type(Principal(Chameleon("alice")).user_id) is str


def test_a_users_log_and_a_topics_are_never_the_same() -> None:
    assert LogName.of_user(UserId("a")) == LogName("user", "a")
    assert LogName("user", "a") != LogName("topic", "a")
    assert len({LogName("user", "a"), LogName("topic", "a"), LogName("user", "A"), LogName("user", "a ")}) == 4


# -- principal


def test_a_principal_is_frozen() -> None:
    principal = Principal("alice", 5.0, "t1", {"role": "admin"})
    for name in ("user_id", "expires_at", "token_id", "claims"):
        with pytest.raises(FrozenInstanceError):
            setattr(principal, name, None)
        with pytest.raises(FrozenInstanceError):
            delattr(principal, name)


def test_the_claims_of_a_principal_are_a_copy_that_cannot_be_changed() -> None:
    claims: dict[str, object] = {"role": "reader"}
    principal = Principal("alice", claims=claims)
    claims["role"] = "admin"
    assert principal.claims == {"role": "reader"}
    with pytest.raises(TypeError):
        principal.claims["role"] = "admin"  # type: ignore[index]
    assert not hasattr(principal.claims, "update")
    assert Principal("alice").claims == {}


def test_two_principals_share_no_claims() -> None:
    assert Principal("alice").claims is not Principal("bob").claims


@pytest.mark.parametrize("user_id", ["", "a\x00", None, 5])
def test_a_principal_checks_its_user(user_id: Any) -> None:
    with pytest.raises(InvalidUserId):
        Principal(user_id)


@pytest.mark.parametrize("expires_at", [float("nan"), float("inf"), float("-inf"), "tomorrow", [1.0]])
def test_a_principal_refuses_an_expiry_that_would_never_come(expires_at: Any) -> None:
    """NaN compares as neither past nor future: a connection with it would be open for ever."""
    with pytest.raises(InvalidInput, match="expires_at"):
        Principal("alice", expires_at)


@pytest.mark.parametrize("expires_at", [None, 0, -1.0, 1_800_000_000, 1e30])
def test_a_principal_takes_any_finite_expiry_or_none(expires_at: float | None) -> None:
    assert Principal("alice", expires_at).expires_at == expires_at


def test_a_principal_shows_no_claims_and_is_hashable() -> None:
    principal = Principal("alice", 5.0, "t1", {"email": "secret@example.org"})
    assert "secret" not in repr(principal)
    assert hash(principal) == hash(Principal("alice", 5.0, "t1", {"email": "other"}))
    assert principal != Principal("alice", 5.0, "t1", {"email": "other"})


# -- grant


def test_a_grant_is_made_by_an_authoriser_and_by_nothing_else() -> None:
    with pytest.raises(TypeError, match=r"Grant\.own"):
        Grant()
    with pytest.raises(TypeError):
        Grant(LogName("user", "bob"))  # type: ignore[call-arg]
    grant = Grant.own(Principal("alice"))
    assert grant.log == LogName("user", "alice")


def test_a_grant_names_one_log_and_no_owner_in_its_text() -> None:
    grant = Grant.own(Principal("alice"))
    assert repr(grant) == "<Grant for a user log>"
    with pytest.raises(AttributeError):
        grant.another = 1  # type: ignore[attr-defined]


def test_a_grant_of_a_principal_is_for_that_user_alone() -> None:
    assert Grant.own(Principal("a")).log != Grant.own(Principal("A")).log
    assert Grant.own(Principal("é")).log != Grant.own(Principal(unicodedata.normalize("NFD", "é"))).log
