"""Log lines of the server: without queries, one record each, whatever a client put into it."""

from __future__ import annotations

import io
import json
import logging
import logging.config
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from websocket_core.server_logging import (
    CONTINUED,
    LOGGERS,
    JSONFormatter,
    LogFormat,
    WithoutQueries,
    escaped,
    logging_config,
    strip_queries,
)

SECRET = "t1cket-s3cret"


@pytest.fixture(autouse=True)
def _loggers_as_they_were() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(each.level, each.propagate, list(each.handlers), list(each.filters)) for each in loggers]
    yield
    for each, (level, propagate, handlers, filters) in zip(loggers, before, strict=True):
        each.setLevel(level)
        each.propagate, each.handlers, each.filters = propagate, handlers, filters


class Log:
    """What uvicorn's loggers write in one format, to one stream."""

    def __init__(self, log_format: LogFormat) -> None:
        self.stream = io.StringIO()
        config = logging_config(log_format)
        config.pop("root", None)
        for handler in config["handlers"].values():
            handler["stream"] = self.stream
        logging.config.dictConfig(config)

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


def accepted(path: str, client: str = "10.0.0.1:5") -> None:
    """As uvicorn says it of a WebSocket."""
    logging.getLogger("uvicorn.error").info('%s - "WebSocket %s" [accepted]', client, path)


def requested(path: str, method: str = "GET") -> None:
    """As uvicorn says it of a request."""
    logging.getLogger("uvicorn.access").info('%s - "%s %s HTTP/%s" %d', "10.0.0.1:5", method, path, "1.1", 200)


FORMATS: list[LogFormat] = ["text", "json"]

# -- queries

QUERIES = [
    f"?ticket={SECRET}", f"?{SECRET}", f"?a=1&token={SECRET}", f"??{SECRET}", f"?a=%22{SECRET}", f"?a=\"{SECRET}",
    f"?a='{SECRET}", f"?a=b c {SECRET}", f"?a\n{SECRET}", f"?%s{SECRET}", f"?a#{SECRET}",
]  # fmt: skip


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("log_format", FORMATS)
def test_no_query_is_written(log_format: LogFormat, query: str) -> None:
    log = Log(log_format)
    accepted(f"/live/ws{query}")
    requested(f"/live/poll{query}")
    logging.getLogger("uvicorn.error").warning(f"something about /live/ws{query}")
    assert SECRET not in log.text
    assert log.text.count("/live/ws") == 2
    assert log.text.count("/live/poll") == 1
    assert len(log.lines) == 3


def test_what_is_no_query_is_written_as_it_is() -> None:
    log = Log("text")
    accepted("/live/ws")
    requested("/live/poll")
    logging.getLogger("uvicorn.error").warning("ready? yes, %d%%, %s", 100, ["a", None])
    logging.getLogger("uvicorn.error").warning("100% sure")
    assert log.lines == [
        'INFO:     10.0.0.1:5 - "WebSocket /live/ws" [accepted]',
        'INFO:     10.0.0.1:5 - "GET /live/poll HTTP/1.1" 200 OK',
        "WARNING:  ready? yes, 100%, ['a', None]",
        "WARNING:  100% sure",
    ]


def test_a_scope_is_logged_without_its_query() -> None:
    """uvicorn logs whole scopes at its lowest level, `trace`."""
    log = Log("text")
    scope = {"type": "websocket", "path": "/live/ws", "query_string": f"ticket={SECRET}".encode(), "headers": SECRET}
    logging.getLogger("uvicorn.asgi").warning("%s [%d] Started scope=%s", "10.0.0.1:5 - ASGI", 1, scope)
    assert SECRET not in log.text
    assert "/live/ws" in log.text


def test_the_filter_works_without_our_formats_and_is_there_once() -> None:
    """An application may bring a configuration of its own."""
    logger = logging.getLogger("uvicorn.error")
    for _ in range(3):
        strip_queries()
    assert [getattr(each, "strips_queries", False) for each in logger.filters].count(True) == 1
    stream = io.StringIO()
    logger.handlers = [logging.StreamHandler(stream)]
    logger.propagate = False
    logger.setLevel(logging.INFO)
    accepted(f"/live/ws?ticket={SECRET}")
    assert stream.getvalue() == '10.0.0.1:5 - "WebSocket /live/ws" [accepted]\n'


def test_a_mapping_of_arguments_is_cleaned_as_well() -> None:
    record = logging.LogRecord("uvicorn.error", 20, "", 0, "%(path)s %(n)d", ({"path": f"/x?{SECRET}", "n": 3},), None)
    assert WithoutQueries().filter(record)
    assert record.getMessage() == "/x 3"


# -- one line each

HOSTILE = [
    "a\nERROR:    forged", "a\r\nERROR:    forged", "a\rERROR:    forged", "\x1b[2J\x1b[31mred", "a\x00b", "a\x85b",
    "a\u2028b", "a\x0bb", "a\x0cb", "a\x1cb", "\u202egnp.exe", "\ud800", "\x7f", "a\tb",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_client_sends_stays_on_its_line_as_text(text: str) -> None:
    log = Log("text")
    accepted(f"/live/{text}")
    requested(f"/live/{text}", method=f"GET{text}")
    logging.getLogger("uvicorn.error").warning("%r and %s", ValueError(text), ValueError(text))
    assert len(log.lines) == 3
    assert log.text.replace("\n", "").isprintable()
    assert text not in log.text


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_client_sends_stays_on_its_line_as_json(text: str) -> None:
    log = Log("json")
    accepted(f"/live/{text}")
    requested(f"/live/{text}")
    assert log.text.isascii()
    assert len(log.lines) == 2
    for line in log.lines:
        assert "/live/" in json.loads(line)["message"]
    assert log.text.replace("\n", "").isprintable()


def test_the_lines_of_a_traceback_cannot_be_taken_for_records() -> None:
    log = Log("text")
    try:
        raise ValueError("broken\nERROR:    forged\x1b[31m")
    except ValueError:
        logging.getLogger("uvicorn.error").exception("Exception in ASGI application\n")
    assert log.lines[0] == "ERROR:    Exception in ASGI application"
    assert len(log.lines) > 3
    assert all(line.startswith(CONTINUED) for line in log.lines[1:])
    assert "\x1b" not in log.text
    assert log.lines[-2].endswith("broken")
    accepted("/a\n" + CONTINUED + "forged")
    assert not log.lines[-1].startswith(CONTINUED)


def test_a_message_of_several_lines_keeps_them() -> None:
    """The traceback of an application that does not start reaches uvicorn as a message."""
    log = Log("text")
    logging.getLogger("uvicorn.error").error("Traceback:\n  File\x1b[0m\n")
    assert log.lines == ["ERROR:    Traceback:", f"{CONTINUED}  File\\x1b[0m"]


@given(st.text())
def test_what_is_escaped_prints_and_what_prints_is_not_changed(text: str) -> None:
    assert escaped(text).isprintable()
    if text.isprintable():
        assert escaped(text) == text
    assert "\n" not in escaped(text)
    escaped(text).encode("utf-8")


# -- JSON


def as_json(record: logging.LogRecord) -> dict[str, Any]:
    line = JSONFormatter().format(record)
    assert "\n" not in line
    assert line.isascii()
    found: dict[str, Any] = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    return found


def test_a_record_is_one_json_object() -> None:
    record = logging.LogRecord("a.b", logging.WARNING, "f.py", 1, "%s has %d", ("é", 3), None)
    record.created = 1_795_000_000.123456
    record.__dict__.update(connection_id="c1", count=2, ok=True, nothing=None, ratio=float("nan"), thing=object())
    assert as_json(record) == {
        "time": "2026-11-18T11:06:40.123+00:00",
        "level": "warning",
        "logger": "a.b",
        "message": "é has 3",
        "extra": {
            "connection_id": "c1", "count": 2, "ok": True, "nothing": None, "ratio": "nan", "thing": "<object>",
        },
    }  # fmt: skip


def test_a_traceback_is_a_field() -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError as error:
        record = logging.LogRecord("a", 40, "", 1, "broken", None, (ValueError, error, error.__traceback__))
    found = as_json(record)
    assert found["message"] == "broken"
    assert found["exception"].endswith("ValueError: first\nsecond")
    assert "extra" not in found


@pytest.mark.parametrize("args", [(), ("a",), ("a", "b", "c"), ("x", "y")])
def test_a_record_whose_arguments_do_not_fit_is_not_lost(args: tuple[str, ...]) -> None:
    record = logging.LogRecord("a", 40, "", 1, "%s of %d", args, None)
    assert as_json(record)["message"] == "%s of %d"


@given(st.text(), st.dictionaries(st.text(min_size=1), st.one_of(st.text(), st.floats(), st.integers(), st.none())))
def test_anything_is_one_line_of_json(text: str, extra: dict[str, Any]) -> None:
    record = logging.LogRecord(text, 40, text, 1, text, None, None)
    record.__dict__.update({f"x{key}": value for key, value in extra.items()})
    assert as_json(record)["message"] == text


def test_a_color_of_uvicorns_is_not_part_of_the_record() -> None:
    log = Log("json")
    logging.getLogger("uvicorn.error").info("Started [%d]", 7, extra={"color_message": "Started [\x1b[36m%d\x1b[0m]"})
    [line] = log.lines
    assert json.loads(line).keys() == {"time", "level", "logger", "message"}


def test_as_json_whatever_else_is_logged_is_written_too_unless_the_application_sees_to_that() -> None:
    root = logging.getLogger()
    before, root.handlers = list(root.handlers), []
    try:
        assert logging_config("json")["root"] == {"handlers": ["others"]}
        assert "root" not in logging_config("text")
        root.handlers = [logging.NullHandler()]
        assert "root" not in logging_config("json")
    finally:
        root.handlers = before
