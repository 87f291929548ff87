"""What a server writes to its log: no query strings, and no record that looks like two.

uvicorn logs the address of every socket and request with its query, and with it tickets, tokens and cursors; and what
it logs of a request is what a client chose to send.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Literal

from uvicorn.logging import AccessFormatter, DefaultFormatter

LogFormat = Literal["text", "json"]

LOGGERS: Final = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")
CONTINUED: Final = "  | "
"""Begins each line of a record but the first, such as those of a traceback. No record begins with it."""

_QUERY: Final = re.compile(r"(?<=\S)\?\S.*", re.DOTALL)
_OF_EVERY_RECORD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


def escaped(text: str, *, keep: str = "") -> str:
    """The text on one line: what does not print, line ends, ANSI sequences and lone surrogates included, as `\\x..`."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in keep else each.encode("unicode_escape").decode("ascii") for each in text
    )


def _clean(value: object) -> object:
    """An argument of a record. Numbers stay numbers, since `%d` may be waiting for one."""
    if value is None or isinstance(value, (int, float)):
        return value
    if isinstance(value, Mapping):  # a scope, which uvicorn logs at its lowest level
        value = {key: "..." if key in ("query_string", "headers") else each for key, each in value.items()}
        return escaped(str(value))
    return escaped(str(value).partition("?")[0])


class WithoutQueries(logging.Filter):
    """Cuts the query off whatever a record names, and escapes what a client may have put into it.

    It changes records and drops none. `strips_queries` tells that it is one, also to those who cannot import this.
    """

    strips_queries: ClassVar[bool] = True

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.args:
            record.msg = escaped(_QUERY.sub("", str(record.msg)).rstrip("\n"), keep="\n")
            record.args = None
        elif isinstance(record.args, Mapping):
            record.args = {key: _clean(value) for key, value in record.args.items()}
        else:
            record.args = tuple(map(_clean, record.args))
        return True


def strip_queries() -> None:
    """Have the query cut off everything that uvicorn logs in this process. Doing it again changes nothing."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if not any(getattr(each, "strips_queries", False) for each in logger.filters):
            logger.addFilter(WithoutQueries())


# -- formats


def _continued(text: str) -> str:
    first, *rest = text.split("\n")
    return "\n".join([first, *(CONTINUED + escaped(line) for line in rest)])


class TextFormatter(DefaultFormatter):
    """uvicorn's, with every line of a record but the first marked as such."""

    def format(self, record: logging.LogRecord) -> str:
        return _continued(super().format(record))


class AccessTextFormatter(AccessFormatter):
    """The same for requests."""

    def format(self, record: logging.LogRecord) -> str:
        return _continued(super().format(record))


class JSONFormatter(logging.Formatter):
    """One line of ASCII for a record, which is a JSON object, whatever is in it.

    It has `time`, `level`, `logger` and `message`; `exception` with the traceback if there is one; and `extra` with
    what the record carries besides, as far as it is text, a number or a truth value. Of other values it has the type.
    """

    def __init__(self, **_settings: object) -> None:
        super().__init__()  # uvicorn passes what its own formatters take

    def format(self, record: logging.LogRecord) -> str:
        try:
            message = record.getMessage()
        except Exception:  # the arguments do not fit; the record is not to be lost for that
            message = str(record.msg)
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            line["exception"] = record.exc_text
        extra = {str(key): _plain(value) for key, value in vars(record).items() if key not in _OF_EVERY_RECORD}
        if extra:
            line["extra"] = extra
        return json.dumps(line, ensure_ascii=True, allow_nan=False).replace("\x7f", "\\u007f")


def _plain(value: object) -> object:
    if isinstance(value, float) and not float("-inf") < value < float("inf"):
        return str(value)
    return value if value is None or isinstance(value, (str, int, float, bool)) else f"<{type(value).__name__}>"


def logging_config(log_format: LogFormat) -> dict[str, Any]:
    """uvicorn's own configuration of its loggers, on the same streams, in this format.

    As JSON, what any other logger says at WARNING or above is written so as well, unless the application configures
    logging itself, before or later.
    """
    names = {"default": TextFormatter, "access": AccessTextFormatter}
    formatters: dict[str, Any] = {"default": {"()": JSONFormatter}, "access": {"()": JSONFormatter}}
    if log_format == "text":
        request = '%(levelprefix)s %(client_addr)s - "%(request_line)s" %(status_code)s'
        formats = {"default": "%(levelprefix)s %(message)s", "access": request}
        formatters = {name: {"()": names[name], "fmt": fmt, "use_colors": None} for name, fmt in formats.items()}
    handler = {"class": "logging.StreamHandler", "filters": ["queries"]}
    config: dict[str, Any] = {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"queries": {"()": WithoutQueries}},
        "formatters": formatters,
        "handlers": {
            "default": {**handler, "formatter": "default", "stream": "ext://sys.stderr"},
            "access": {**handler, "formatter": "access", "stream": "ext://sys.stdout"},
        },
        "loggers": {
            "uvicorn": {"handlers": ["default"], "level": "INFO", "propagate": False},
            "uvicorn.error": {"level": "INFO"},
            "uvicorn.access": {"handlers": ["access"], "level": "INFO", "propagate": False},
        },
    }
    if log_format == "json" and not logging.getLogger().handlers:
        config["handlers"]["others"] = {**config["handlers"]["default"], "filters": []}
        config["root"] = {"handlers": ["others"]}
    return config
