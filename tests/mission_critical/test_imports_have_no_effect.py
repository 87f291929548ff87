"""Promise: importing does nothing, and nothing is shared by accident.

No loop, no task, no thread, no socket, no environment, no metric; no optional package; and several managers, several
loops and several threads live in one process without knowing of each other.
"""

from __future__ import annotations

import asyncio
import gc
import json
import pkgutil
import subprocess
import sys
import textwrap
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import bridge
import websocket_core
from bridge import UserExecutionContext
from tests.support import FakeSocket, Tab, a_manager, until
from websocket_core.errors import WrongEventLoop
from websocket_core.metrics import Metrics
from websocket_core.unified_manager import UnifiedWebSocketManager

NEEDS_AN_EXTRA = {f"websocket_core.server{part}" for part in ("", "_frames", "_logging", "_requests")} | {
    f"websocket_core.logs.redis{part}"
    for part in (
        "",
        ".addresses",
        ".exchange",
        ".feed",
        ".greeting",
        ".leases",
        ".link",
        ".names",
        ".packing",
        ".recent",
        ".refusals",
        ".seats",
        ".sentinels",
        ".shares",
        ".state",
        ".waiting",
        ".work",
    )
}
"""Modules that import an optional package as soon as they are imported."""

MODULES = sorted(
    module.name
    for package in (websocket_core, bridge)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not module.name.endswith("__main__") and (module.name not in NEEDS_AN_EXTRA or find_spec("uvicorn"))
)

FIXED_NAMES = """
from websocket_core import UnifiedWebSocketManager, UnifiedWebSocketEmitter
from websocket_core import WebSocketManager, websocket_manager, get_websocket_manager
from websocket_core import Limits, Principal, Retention
from websocket_core.auth import AuthenticationFailed, JWTAuthenticator
from websocket_core.router import websocket_router, metrics_router
from websocket_core.unified_manager import UnifiedWebSocketManager
from websocket_core.unified_emitter import UnifiedWebSocketEmitter
from websocket_core.agent_bridge import AgentWebSocketBridge
from bridge import AgentWebSocketBridge, UserExecutionContext
"""


PACKAGES = sorted({str(Path(package.__path__[0]).parent) for package in (websocket_core, bridge)})


def in_a_fresh_process(program: str, *more_paths: str) -> Any:
    """Run the program with what is importable here; what it prints last, as JSON."""
    prelude = f"import sys\nsys.path[:0] = {[*more_paths, *PACKAGES]!r}\n"
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-W", "error", "-c", prelude + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


WATCH = """
import json, sys

# Everything of others first, whose effects are not ours.
import asyncio, fastapi, jwt, prometheus_client, pydantic, starlette.websockets, tenacity, websockets
import email.message, http.cookies, logging, os, random, socket, threading, time
try:
    import uvicorn, uvicorn.config, uvicorn.logging
except ImportError:
    pass

effects = []

def by_us():
    return sys._getframe(2).f_globals.get("__name__", "").split(".")[0] in PACKAGES

def watch(event, arguments):
    if event.startswith(("socket.", "subprocess.", "os.system", "os.fork")):
        effects.append(event.split(".")[0])
    elif event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        effects.append("file")

class Environment(dict):
    def noted(name):
        def method(self, *arguments):
            if by_us():
                effects.append("environment")
            return getattr(dict, name)(self, *arguments)
        return method

    get, __getitem__, __contains__, __iter__, items, keys, copy, pop = map(
        noted, "get __getitem__ __contains__ __iter__ items keys copy pop".split()
    )

def told(owner, name, effect):
    real = getattr(owner, name)
    def call(*arguments, **options):
        if by_us():
            effects.append(effect)
        return real(*arguments, **options)
    setattr(owner, name, call)

os.environ = Environment(os.environ)
told(os, "getenv", "environment")
told(os, "urandom", "entropy")
told(time, "time", "clock")
told(time, "monotonic", "clock")
told(threading.Thread, "start", "thread")
for name in ("new_event_loop", "get_event_loop", "run", "create_task", "ensure_future"):
    told(asyncio, name, "loop")
metrics = set(prometheus_client.REGISTRY._collector_to_names)
handlers = list(logging.getLogger().handlers)
levels = {name: logger.level for name, logger in logging.root.manager.loggerDict.items() if hasattr(logger, "level")}
sys.addaudithook(watch)

import importlib
for name in MODULES:
    importlib.import_module(name)

if set(prometheus_client.REGISTRY._collector_to_names) != metrics:
    effects.append("metrics")
if threading.active_count() != 1:
    effects.append("thread")
for name, logger in logging.root.manager.loggerDict.items():
    if hasattr(logger, "level") and logger.level != levels.get(name, 0):
        effects.append("logging")
    if name.split(".")[0] in PACKAGES and getattr(logger, "handlers", []):
        effects.append("logging")
if logging.getLogger().handlers != handlers:
    effects.append("logging")
print(json.dumps(sorted(set(effects))))
"""
"""Imports MODULES in a process where everything that an import must not do is noted."""


def test_importing_every_module_has_no_effect() -> None:
    program = f"MODULES = {MODULES!r}\nPACKAGES = ('websocket_core', 'bridge')\n{WATCH}"
    assert in_a_fresh_process(program) == []


def test_the_watcher_of_the_test_above_sees_what_it_must(tmp_path: Path) -> None:
    """The same watcher, for a module that does it all."""
    (tmp_path / "guilty.py").write_text(
        textwrap.dedent(
            """
            import asyncio, logging, os, prometheus_client, socket, threading, time
            os.environ.get("HOME"), time.time(), os.urandom(1)
            asyncio.new_event_loop().close()
            prometheus_client.Counter("guilty", "guilty")
            logging.getLogger("guilty").setLevel(10)
            threading.Thread(target=int).start()
            open(os.devnull, "w").close()
            """
        )
    )
    program = f"MODULES = ['guilty']\nPACKAGES = ('guilty',)\n{WATCH}"
    assert in_a_fresh_process(program, str(tmp_path)) == sorted(
        ["clock", "entropy", "environment", "file", "logging", "loop", "metrics", "socket", "thread"]
    )


def test_each_module_and_each_fixed_name_can_be_the_first_to_be_imported() -> None:
    """No import works only because another came first. Each is tried in a fork of a process that has none of ours."""
    programs = [f"import {name}" for name in MODULES] + [line for line in FIXED_NAMES.splitlines() if line]
    failed = in_a_fresh_process(
        f"""
        import json, os, sys, traceback
        import fastapi, jwt, prometheus_client, pydantic, tenacity, websockets

        failed = []
        for program in {programs!r}:
            child = os.fork()
            if child == 0:
                try:
                    exec(program, {{}})
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
                os._exit(0)
            if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
                failed.append(program)
        print(json.dumps(failed))
        """
    )
    assert failed == []


def test_the_packages_themselves_load_nothing() -> None:
    loaded = in_a_fresh_process(
        """
        import json, sys
        import websocket_core, bridge
        dir(websocket_core), dir(bridge)
        print(json.dumps(sorted(sys.modules)))
        """
    )
    assert [name for name in loaded if name.startswith(("websocket_core.", "bridge."))] == []
    assert not {"fastapi", "asyncio", "pydantic", "jwt", "prometheus_client", "tenacity"} & set(loaded)


def test_no_optional_package_is_loaded_by_the_core() -> None:
    """Extras are loaded by the one module that is theirs."""
    wanted = [name for name in MODULES if name not in NEEDS_AN_EXTRA]
    loaded = in_a_fresh_process(
        f"""
        import importlib, json, sys
        for name in {wanted!r}:
            importlib.import_module(name)
        from websocket_core import UnifiedWebSocketManager
        UnifiedWebSocketManager()
        print(json.dumps(sorted(name for name in sys.modules if "." not in name)))
        """
    )
    extras = {"uvicorn", "uvloop", "httptools", "redis", "hiredis", "httpx", "pytest", "hypothesis", "orjson"}
    assert not extras & set(loaded)


def test_the_core_works_without_the_optional_packages() -> None:
    """With every extra made impossible to import, a manager connects, emits and delivers."""
    delivered = in_a_fresh_process(
        """
        import sys
        for name in ("uvicorn", "uvloop", "httptools", "redis", "hiredis", "httpx", "orjson", "pytest"):
            sys.modules[name] = None
        import asyncio, json
        import websocket_core.router, bridge
        from websocket_core import UnifiedWebSocketManager
        from websocket_core.testing import FakeSocket

        async def main():
            async with UnifiedWebSocketManager() as manager:
                socket = FakeSocket()
                await manager.connect_user(socket, "alice")
                async with manager.create_agent_bridge(bridge.UserExecutionContext("alice", "r1")).run("planner"):
                    pass
                await socket.wait_for(2)
                return [event["type"] for event in socket.events]

        print(json.dumps(asyncio.run(main())))
        """
    )
    assert delivered == ["agent_started", "agent_completed"]


def test_the_old_names_are_the_same_objects() -> None:
    from websocket_core import WebSocketManager, get_websocket_manager, websocket_manager
    from websocket_core.agent_bridge import AgentWebSocketBridge

    assert WebSocketManager is websocket_core.UnifiedWebSocketManager is UnifiedWebSocketManager
    assert websocket_manager is get_websocket_manager() is websocket_core.websocket_manager
    assert isinstance(websocket_manager, UnifiedWebSocketManager)
    assert AgentWebSocketBridge is bridge.AgentWebSocketBridge


def test_the_manager_of_the_process_is_made_on_first_access() -> None:
    made = in_a_fresh_process(
        """
        import json
        import websocket_core.unified_manager as home
        made = []
        home.UnifiedWebSocketManager.__init__ = lambda self: made.append(1)
        import websocket_core
        websocket_core.get_websocket_manager, websocket_core.WebSocketManager
        counts = [len(made)]
        websocket_core.websocket_manager
        counts.append(len(made))
        websocket_core.websocket_manager, websocket_core.get_websocket_manager()
        counts.append(len(made))
        print(json.dumps(counts))
        """
    )
    assert made == [0, 1, 1]


def test_a_name_that_does_not_exist_says_so() -> None:
    for package in (websocket_core, bridge):
        with pytest.raises(AttributeError, match="nothing_of_that_name"):
            package.nothing_of_that_name  # noqa: B018
        assert not hasattr(package, "__wrapped__"), "what inspects modules must not be fooled"


def test_every_public_name_is_there() -> None:
    for package in (websocket_core, bridge):
        assert sorted(package.__all__) == sorted(set(package.__all__))
        for name in package.__all__:
            assert getattr(package, name) is not None
            assert name in dir(package)


def test_a_manager_can_be_made_without_a_running_loop() -> None:
    manager = UnifiedWebSocketManager(metrics=Metrics())
    emitter = manager.get_emitter("alice")

    async def use() -> int:
        position = await emitter.emit("custom", {})
        return position.offset

    assert asyncio.run(use()) == 1


# -- several managers, loops and threads


async def test_two_managers_in_one_loop_know_nothing_of_each_other() -> None:
    async with a_manager() as one, a_manager() as two:
        tabs = [await Tab.open(manager, "alice", "tab") for manager in (one, two)]
        await one.get_emitter("alice").emit("custom", {"n": 1})
        await two.get_emitter("alice").emit("custom", {"n": 2})
        for tab in tabs:
            await tab.has(1)
        assert [tab.numbers for tab in tabs] == [[1], [2]]
        assert one.get_emitter("alice") is not two.get_emitter("alice")
        await one.shutdown()
        assert await tabs[0].ended() == 1012
        await two.get_emitter("alice").emit("custom", {"n": 3})
        await tabs[1].has(2)
        assert one.metrics.events_appended == 1
        assert two.metrics.events_appended == 2


def test_two_managers_in_two_loops_in_two_threads() -> None:
    """At once, with the same users, and each with its own clients."""
    users = [f"user-{number}" for number in range(10)]
    received: dict[int, list[list[Any]]] = {}
    together = threading.Barrier(2, timeout=20)
    failures: list[BaseException] = []

    async def use(number: int) -> None:
        async with a_manager() as manager:
            tabs = [await Tab.open(manager, user) for user in users]
            together.wait()
            for n in range(100):
                for user in users:
                    await manager.emit_critical_event(user, "custom", {"n": (number, n)})
                async with manager.create_agent_bridge(UserExecutionContext("agents")).run("planner"):
                    pass
            for tab in tabs:
                await tab.has(100, seconds=20.0)
            received[number] = [tab.numbers for tab in tabs]
            assert manager.metrics.isolation_violations == 0

    def run(number: int) -> None:
        try:
            asyncio.run(use(number))
        except BaseException as error:
            failures.append(error)
            together.abort()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=40)
    assert failures == []
    for number in range(2):
        assert received[number] == [[[number, n] for n in range(100)]] * len(users)


def test_one_manager_does_not_serve_two_running_loops() -> None:
    manager = a_manager()
    outcome: list[BaseException | None] = []

    async def other() -> None:
        try:
            await manager.connect_user(FakeSocket(), "bob")
        except BaseException as error:
            outcome.append(error)
        else:
            outcome.append(None)

    async def main() -> None:
        async with manager:
            tab = await Tab.open(manager, "alice")
            thread = threading.Thread(target=lambda: asyncio.run(other()))
            thread.start()
            await asyncio.to_thread(thread.join)
            await manager.get_emitter("alice").emit("custom", {"n": 1})
            await tab.has(1)

    asyncio.run(main())
    assert len(outcome) == 1
    assert isinstance(outcome[0], WrongEventLoop)


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_a_manager_whose_loop_has_gone_serves_the_next_one() -> None:
    """As under a test client that starts a loop for each use, without any shutdown between: what was retained is
    still there, and nothing of the old loop is touched."""
    manager = a_manager()
    seen: list[list[Any]] = []
    cursor = None

    async def use(n: int, cursor: str | None) -> str:
        socket = FakeSocket()
        await manager.connect_user(socket, "alice", "tab", cursor=cursor)
        await manager.get_emitter("alice").emit("custom", {"n": n})
        await until(lambda: socket.events)
        assert manager.get_stats()["total_connections"] == 1
        seen.append([event["data"]["n"] for event in socket.events])
        return str(socket.events[-1]["cursor"])

    for n in range(3):
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)
        cursor = loop.run_until_complete(use(n, cursor))
        loop.close()  # without cancelling anything: the worst way for a loop to go
        gc.collect()
    assert seen == [[0], [1], [2]]
    assert manager.metrics.connections == 1


def test_a_lifespan_may_be_entered_again_and_again() -> None:
    manager = a_manager()
    offsets = []

    async def use() -> None:
        async with manager.lifespan(None):
            tab = await Tab.open(manager, "alice", cursor="latest")
            position = await manager.get_emitter("alice").emit("custom", {"n": 1})
            offsets.append(position.offset)
            await tab.has(1)
        assert await tab.ended() == 1012

    for _ in range(3):
        asyncio.run(use())
    assert offsets == [1, 2, 3], "the log lives as long as the process"
