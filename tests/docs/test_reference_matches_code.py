"""Promise: the reference says what the code does. Its tables are compared with the objects that they describe."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel, JsonValue

import bridge
import websocket_core
from tests.docs.pages import REPOSITORY, prose_of, tables_of, unquoted
from websocket_core import auth, errors, events, router, server, testing, wire
from websocket_core.limits import Limits, Retention, RetryPolicy
from websocket_core.metrics import Metrics

REFERENCE = REPOSITORY / "docs" / "reference"


def test_close_codes_are_those_of_the_code() -> None:
    table = tables_of(REFERENCE / "close-codes.md")["Close codes"][0]
    documented = [(int(row["code"]), row["reason"], row["client"], row["keeps cursor"]) for row in table]
    assert documented == [
        (int(code), rule.reason, rule.reconnect, "yes" if rule.keep_cursor else "no")
        for code, rule in wire.CLOSE_RULES.items()
    ]


def test_every_close_code_says_when_it_is_sent_and_every_instruction_what_it_means() -> None:
    codes, meanings, when = tables_of(REFERENCE / "close-codes.md")["Close codes"]
    assert [row["code"] for row in when] == [row["code"] for row in codes]
    assert {unquoted(row["client"]) for row in meanings} == {row["client"] for row in codes}


def test_error_codes_are_those_of_the_code() -> None:
    table = tables_of(REFERENCE / "wire.md")["Error codes"][0]
    assert {unquoted(row["code"]) for row in table} == wire.ERROR_CODES


def test_reserved_types_are_those_of_the_code() -> None:
    lines = [line for _number, line in prose_of(REFERENCE / "wire.md")]
    section = " ".join(lines[lines.index("## Reserved") : lines.index("## A client in short")])
    assert set(re.findall(r"`(\w+)`", section.partition("The last two")[0])) == events.RESERVED_TYPES


def test_gap_reasons_are_those_of_the_code() -> None:
    from websocket_core.log import GapReason

    table = tables_of(REFERENCE / "wire.md")["gap"][0]
    assert [unquoted(row["reason"]) for row in table] == [reason.value for reason in GapReason]


@pytest.mark.parametrize("kind", [Limits, Retention, RetryPolicy])
def test_limits_are_the_defaults_of_the_code(kind: type[Limits | Retention | RetryPolicy]) -> None:
    table = tables_of(REFERENCE / "limits.md")[kind.__name__][0]
    documented = {unquoted(row["name"]): row["default"] for row in table}
    actual = {field.name: field.default for field in fields(kind)}
    assert MISSING not in actual.values()
    assert documented == {name: f"{default:_}" for name, default in actual.items()}


def json_type(annotation: object) -> str:
    """How the reference names a type."""
    names: dict[object, str] = {str: "string", int: "integer", float: "number", JsonValue: "JSON"}
    if annotation in names:
        return names[annotation]
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) is types.UnionType:
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        assert len(kinds) == 1
        return json_type(kinds[0])
    raise AssertionError(f"the reference has no name for {annotation}")


@pytest.mark.parametrize("event_type", list(events.DATA_MODELS))
def test_events_have_the_keys_of_their_models(event_type: str) -> None:
    model: type[BaseModel] = events.DATA_MODELS[event_type]
    table = tables_of(REFERENCE / "events.md")[event_type][0]
    documented = [(unquoted(row["key"]), row["type"], row["always there"]) for row in table]
    assert documented == [
        (name, json_type(field.annotation), "yes" if field.is_required() else "no")
        for name, field in model.model_fields.items()
    ]


def test_no_event_is_missing_from_the_reference() -> None:
    headings = tables_of(REFERENCE / "events.md")
    assert {heading for heading in headings if "_" in heading} == set(events.DATA_MODELS)


def test_metrics_are_those_of_the_code() -> None:
    table = tables_of(REFERENCE / "metrics.md")["Metrics"][0]
    documented = [(unquoted(row["series"]), row["type"], row["meaning"]) for row in table]
    assert documented == [
        (f"{family.name}_total" if family.type == "counter" else family.name, family.type, family.documentation)
        for family in Metrics().collect()
    ]


def signature(name: str, function: Callable[..., Any], *, bound: bool = False) -> str:
    """A signature without types, as the reference writes it."""
    parameters = list(inspect.signature(function).parameters.values())[1 if bound else 0 :]
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    return f"{'await ' if inspect.iscoroutinefunction(function) else ''}{name}{inspect.Signature(bare)}"


def methods(kind: type) -> dict[str, str]:
    """The signatures of the public methods of a class, by name."""
    return {
        name: signature(name, member, bound=True)
        for name, member in vars(kind).items()
        if inspect.isfunction(member) and not name.startswith("_")
    }


CLASSES: dict[str, tuple[type, set[str]]] = {
    "UnifiedWebSocketManager": (
        websocket_core.UnifiedWebSocketManager,
        {"lifespan", "now", "outbox", "require_connection"},
    ),
    "UnifiedWebSocketEmitter": (websocket_core.UnifiedWebSocketEmitter, set()),
    "SyncEmitter": (websocket_core.SyncEmitter, set()),
    "WebSocketConnection": (
        websocket_core.WebSocketConnection,
        {
            "abandon",
            "check",
            "compare",
            "cut",
            "degrade",
            "detach",
            "heard",
            "order",
            "permitted",
            "renew",
            "restore",
            "send_control",
            "start",
        },
    ),
    "AgentWebSocketBridge": (bridge.AgentWebSocketBridge, set()),
    "AgentRun": (bridge.AgentRun, set()),
    "ToolCall": (bridge.ToolCall, set()),
}
"""The classes whose methods have a table, and those of their methods that have no row there: they are for the SDK's own
use, or told in prose (`lifespan`)."""


@pytest.mark.parametrize("heading", list(CLASSES))
def test_methods_have_the_signatures_of_the_code(heading: str) -> None:
    kind, internal = CLASSES[heading]
    table = tables_of(REFERENCE / "api.md")[heading][-1]
    documented = {unquoted(row["method"]) for row in table}
    actual = methods(kind)
    assert documented == {text for name, text in actual.items() if name not in internal}


@pytest.mark.parametrize("module", [auth, router, server], ids=lambda module: module.__name__)
def test_functions_have_the_signatures_of_the_code(module: types.ModuleType) -> None:
    for row in tables_of(REFERENCE / "api.md")[module.__name__][0]:
        documented = unquoted(row["name"])
        name, is_called, _ = documented.partition("(")
        assert documented == (signature(name, getattr(module, name)) if is_called else name)
        assert hasattr(module, name)


def test_every_public_name_is_in_the_reference() -> None:
    text = (REFERENCE / "api.md").read_text(encoding="utf-8")
    for module in (websocket_core, bridge, auth, testing):
        for name in module.__all__:
            assert f"`{name}`" in text or f"`{name}(" in text, f"{module.__name__}.{name}"


def test_errors_are_drawn_as_they_are() -> None:
    """All errors, in the order of the module, with their bases."""
    table = tables_of(REFERENCE / "api.md")["Errors"][0]
    documented = [(unquoted(row["error"]), re.findall(r"`(\w+)`", row["kind of"])) for row in table]
    assert documented == [
        (name, [base.__name__ for base in kind.__bases__])
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.UnifiedWebSocketError)
    ]


def test_the_manager_knows_the_arguments_that_the_reference_names() -> None:
    first, *_rest = tables_of(REFERENCE / "api.md")["UnifiedWebSocketManager"]
    documented = {name.partition("=")[0] for row in first for name in re.findall(r"`([^`]*)`", row["argument"])}
    actual = set(inspect.signature(websocket_core.UnifiedWebSocketManager).parameters)
    assert documented == actual
