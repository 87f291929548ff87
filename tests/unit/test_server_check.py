"""What is said of the server that an application runs under, and that asking never harms."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

import websocket_core
from websocket_core.limits import Limits
from websocket_core.server import CuttableProtocol, server_config
from websocket_core.server_check import check_server
from websocket_core.server_logging import LOGGERS, strip_queries
from websocket_core.server_requests import request_protocol

SOCKET = {"type": "websocket", "path": "/live/ws"}


@pytest.fixture(autouse=True)
def _loggers_as_they_were() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(each.level, each.propagate, list(each.handlers), list(each.filters)) for each in loggers]
    for each in loggers:
        each.filters = []
        each.setLevel(logging.WARNING)
    yield
    for each, (level, propagate, handlers, filters) in zip(loggers, before, strict=True):
        each.setLevel(level)
        each.propagate, each.handlers, each.filters = propagate, handlers, filters


async def app(_scope: Any, _receive: Any, _send: Any) -> None: ...


class Protocol:
    """As far as the check looks into uvicorn's: a method of it runs the application."""

    def __init__(self, config: Any) -> None:
        self.config = config

    async def run_asgi(self, scope: Any, limits: Limits) -> list[str]:
        return check_server(scope, limits)


class Cycle:
    """The same for a request: the method is of an object that knows a method of the protocol."""

    def __init__(self, config: Any) -> None:
        self.on_response = Protocol(config).run_asgi

    async def run_asgi(self, scope: Any, limits: Limits) -> list[str]:
        return check_server(scope, limits)


def a_config(**settings: Any) -> uvicorn.Config:
    config = uvicorn.Config(app, **{"log_config": None, "log_level": "warning", **settings})
    config.load()
    return config


async def found(config: Any, owner: Any = Protocol, scope: Any = SOCKET, limits: Limits | None = None) -> list[str]:
    return list(await asyncio.create_task(owner(config).run_asgi(scope, limits or Limits())))


SAFE: dict[str, Any] = {
    "ws": CuttableProtocol, "http": request_protocol("auto"), "ws_per_message_deflate": False, "ws_max_size": 65_536,
}  # fmt: skip


async def test_our_own_configuration_has_nothing_unsafe() -> None:
    config = server_config(app, log_config=None)
    config.load()
    assert await found(config) == []
    assert await found(a_config(**SAFE)) == [], "and nobody need use our function for that"


UNSAFE: list[tuple[dict[str, Any], str]] = [
    ({"ws": "websockets-sansio"}, "CuttableProtocol"),
    ({"ws": asyncio.Protocol}, "ws='websockets-sansio'"),
    ({"ws": "none"}, "ws='websockets-sansio'"),
    ({"ws_per_message_deflate": True}, "ws_per_message_deflate=False"),
    ({"ws_max_size": 65_537}, "ws_max_size=65536"),
    ({"http": "h11"}, "no deadline"),
    ({"http": "httptools"}, "no deadline"),
    ({"forwarded_allow_ips": "*"}, "forwarded_allow_ips"),
    ({"forwarded_allow_ips": "10.0.0.1, *"}, "forwarded_allow_ips"),
    ({"forwarded_allow_ips": ["*"]}, "forwarded_allow_ips"),
]


@pytest.mark.parametrize(("settings", "advice"), UNSAFE)
async def test_each_unsafe_setting_is_one_sentence_that_says_what_to_do(settings: dict[str, Any], advice: str) -> None:
    [finding] = await found(a_config(**{**SAFE, **settings}))
    assert advice in finding
    assert finding.endswith(".")
    assert "\n" not in finding


async def test_frames_are_compared_with_the_limit_of_the_manager() -> None:
    config = a_config(**SAFE)
    assert await found(config, limits=Limits(frame_bytes=65_536)) == []
    [finding] = await found(config, limits=Limits(frame_bytes=65_535))
    assert "ws_max_size=65535" in finding


async def test_trusted_headers_matter_only_where_they_are_read() -> None:
    assert await found(a_config(**SAFE, forwarded_allow_ips="*", proxy_headers=False)) == []
    assert await found(a_config(**SAFE, forwarded_allow_ips="10.0.0.0/8")) == []


async def test_loggers_that_write_queries_are_told_until_ours_is_there() -> None:
    config = a_config(**SAFE, log_level="info")
    logging.getLogger("uvicorn.access").handlers = [logging.NullHandler()]
    findings = await found(config)
    assert [finding.split()[2] for finding in findings] == ["uvicorn.error", "uvicorn.access"]
    assert all("strip_queries()" in finding for finding in findings)
    config.access_log = False
    assert len(await found(config)) == 1
    config.access_log = True
    strip_queries()
    assert await found(config) == []


async def test_frames_in_the_log_are_told_where_they_are_written() -> None:
    plain, ours = a_config(**{**SAFE, "ws": "websockets-sansio"}, log_level="debug"), a_config(**SAFE)
    strip_queries()
    logging.getLogger("uvicorn.error").setLevel(logging.DEBUG)
    assert any("DEBUG" in finding for finding in await found(plain))
    assert await found(ours) == []


async def test_uvicorn_as_it_comes_is_told_of_in_full() -> None:
    logging.getLogger("uvicorn.access").handlers = [logging.NullHandler()]
    findings = await found(a_config(ws="websockets-sansio", log_level="info"))
    assert len(findings) == 6
    assert len(set(findings)) == 6


async def test_a_request_knows_its_server_as_well() -> None:
    findings = await found(a_config(**{**SAFE, "ws_per_message_deflate": True}), Cycle, {"type": "http"})
    assert len(findings) == 1


# -- what is not known


async def test_a_server_that_is_not_known_has_no_findings() -> None:
    looks_like_one = SimpleNamespace(**vars(a_config(ws_per_message_deflate=True)))
    for config in (None, looks_like_one, object(), "config"):
        assert await found(config) == []
    assert check_server(SOCKET, Limits()) == [], "this task is the test's"
    config = a_config(ws_per_message_deflate=True)
    assert await found(config, scope={"type": "lifespan"}) == []
    assert await found(config, scope={}) == []


async def test_a_task_of_the_applications_own_sees_nothing() -> None:
    class Outer(Protocol):
        async def run_asgi(self, scope: Any, limits: Limits) -> list[str]:
            async def inside() -> list[str]:
                return check_server(scope, limits)

            return await asyncio.create_task(inside())

    assert await found(a_config(ws_per_message_deflate=True), Outer) == []


def test_without_a_task_or_a_loop_there_is_nothing_to_see() -> None:
    assert check_server(SOCKET, Limits()) == []


async def test_a_configuration_of_another_version_breaks_nothing() -> None:
    config = a_config(**SAFE)
    del config.ws_protocol_class
    assert await found(config) == []
    unloaded = uvicorn.Config(app, log_config=None)
    assert await found(unloaded) == []


def test_the_check_imports_nothing_of_uvicorn() -> None:
    assert websocket_core.__file__ is not None
    root = str(Path(websocket_core.__file__).parents[1])
    program = (
        f"import sys; sys.path.insert(0, {root!r})\n"
        "from websocket_core.server_check import check_server\n"
        "from websocket_core.limits import Limits\n"
        "assert check_server({'type': 'websocket'}, Limits()) == []\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'uvicorn'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=40)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
