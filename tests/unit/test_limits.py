"""Limits, retention and retry policy are frozen values that refuse what makes no sense."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from websocket_core.errors import InvalidConfiguration, InvalidInput
from websocket_core.limits import Limits, Retention, RetryPolicy

VALUES = [Limits, Retention, RetryPolicy]
FIELDS = [(cls, field.name) for cls in VALUES for field in fields(cls)]
FLOATS = [(cls, name) for cls, name in FIELDS if isinstance(getattr(cls(), name), float)]
COUNTS = [(cls, name) for cls, name in FIELDS if isinstance(getattr(cls(), name), int)]


@pytest.mark.parametrize("cls", VALUES)
def test_the_defaults_pass_their_own_check(cls: type[Any]) -> None:
    assert cls() == cls()
    assert hash(cls()) == hash(cls())


@pytest.mark.parametrize(("cls", "name"), FIELDS)
@pytest.mark.parametrize("value", [0, -1, True, None, "5", [5], float("nan"), float("inf"), -0.5, 5j])
def test_a_value_that_makes_no_sense_is_refused_by_name(cls: type[Any], name: str, value: object) -> None:
    with pytest.raises(InvalidConfiguration, match=rf"{cls.__name__}\.{name} must be"):
        cls(**{name: value})


@pytest.mark.parametrize(("cls", "name"), COUNTS)
def test_a_count_is_no_fraction(cls: type[Any], name: str) -> None:
    with pytest.raises(InvalidConfiguration, match="must be a number, not float"):
        cls(**{name: 1.5})
    assert getattr(cls(**{name: 1}), name) == 1


@pytest.mark.parametrize(("cls", "name"), FLOATS)
def test_a_duration_or_a_rate_may_be_a_whole_number_or_a_fraction(cls: type[Any], name: str) -> None:
    assert getattr(cls(**{name: 3}), name) == 3
    assert getattr(cls(**{name: 0.001}), name) == 0.001


def test_durations_and_rates_are_fractions_and_the_rest_are_whole_numbers() -> None:
    """So that a size or a count cannot be given as a fraction by a wrong annotation."""
    durations = {
        "heartbeat", "heartbeat_timeout", "write_timeout", "auth_timeout", "expiry_grace", "lease", "sweep_interval",
        "shutdown_timeout", "snapshot_timeout", "burst_window", "busy_window", "age", "seconds", "initial", "maximum",
        "check_interval", "degraded_after",
    }  # fmt: skip
    assert {name for _, name in FLOATS} == durations | {"frames_per_second", "bytes_per_second"}


@given(st.floats(min_value=1e-6, max_value=1e9), st.integers(min_value=1, max_value=10**12))
def test_every_finite_number_above_zero_is_allowed(seconds: float, count: int) -> None:
    limits = Limits(heartbeat=seconds, connections=count)
    assert (limits.heartbeat, limits.connections) == (seconds, count)


@pytest.mark.parametrize("cls", VALUES)
def test_a_value_is_frozen_and_has_no_room_for_a_misspelt_name(cls: type[Any]) -> None:
    name = fields(cls)[0].name
    with pytest.raises(FrozenInstanceError):
        setattr(cls(), name, 5)
    with pytest.raises((AttributeError, TypeError)):
        object.__setattr__(cls(), "misspelt", 5)
    with pytest.raises(TypeError):
        cls(misspelt=5)
    with pytest.raises(TypeError):
        cls(5)


def test_a_replaced_value_is_checked_again() -> None:
    with pytest.raises(InvalidConfiguration):
        replace(Limits(), topics=0)


def test_the_refusal_is_a_value_error_for_who_knows_no_other() -> None:
    with pytest.raises(ValueError, match=r"Limits\.topics must be above zero and finite, not 0"):
        Limits(topics=0)
    assert issubclass(InvalidConfiguration, InvalidInput)
