"""The shape of the code: imports point down the module table, files stay small, nothing is ambient.

The rules are functions from source text to findings, so that each is itself tested on a source that breaks it.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

import bridge
import websocket_core

TABLE: Final[tuple[tuple[str, ...], ...]] = (
    ("websocket_core.errors", "websocket_core.limits", "websocket_core.identity", "websocket_core.tasks"),
    (
        "websocket_core.metrics",
        "websocket_core.events",
        "websocket_core.control",
        "websocket_core.log",
        "websocket_core.leases",
        "websocket_core.state",
        "websocket_core.work",
    ),
    (
        "websocket_core.logs.sizes",
        "websocket_core.logs.ages",
        "websocket_core.logs.memory",
        "websocket_core.logs.redis.names",
        "websocket_core.logs.redis.packing",
        "websocket_core.logs.redis.refusals",
        "websocket_core.logs.redis.link",
        "websocket_core.logs.redis.addresses",
        "websocket_core.logs.redis.greeting",
        "websocket_core.logs.redis.sentinels",
        "websocket_core.logs.redis.shares",
        "websocket_core.logs.redis.waiting",
        "websocket_core.logs.redis.exchange",
        "websocket_core.logs.redis.feed",
        "websocket_core.logs.redis.recent",
        "websocket_core.logs.redis.leases",
        "websocket_core.logs.redis.seats",
        "websocket_core.logs.redis.state",
        "websocket_core.logs.redis.work",
        "websocket_core.logs.redis",
        "websocket_core.logs",
        "websocket_core.logs.queues",
    ),
    ("websocket_core.cursor", "websocket_core.merging", "websocket_core.wire"),
    (
        "websocket_core.appender",
        "websocket_core.outbox",
        "websocket_core.hand_over",
        "websocket_core.sync_emitter",
        "websocket_core.unified_emitter",
        "websocket_core.heartbeat",
        "websocket_core.pacing",
        "websocket_core.inbound",
        "websocket_core.provisional",
        "websocket_core.outbound",
        "websocket_core.follower",
        "websocket_core.endings",
        "websocket_core.connection",
    ),
    (
        "websocket_core.admission",
        "websocket_core.background",
        "websocket_core.emitters",
        "websocket_core.authorization",
        "websocket_core.approvals",
        "websocket_core.run_keeper",
        "websocket_core.reaper",
        "websocket_core.runs",
        "websocket_core.registry",
        "websocket_core.revocation",
        "websocket_core.seating",
        "websocket_core.hooks",
        "websocket_core.lag",
        "websocket_core.sweeper",
        "websocket_core.availability",
        "websocket_core.unified_manager",
    ),
    (
        "websocket_core.auth",
        "websocket_core.tickets",
        "websocket_core.topics",
        "websocket_core.event_bus",
        "websocket_core.progress",
        "websocket_core.shift",
        "websocket_core.commands",
        "websocket_core.worker",
    ),
    (
        "websocket_core.server_check",
        "websocket_core.transports",
        "websocket_core.transports.entrance",
        "websocket_core.transports.ticket",
        "websocket_core.transports.websocket",
        "websocket_core.transports.sse",
        "websocket_core.transports.long_poll",
        "websocket_core.transports.socketio",
    ),
    (
        "websocket_core.router",
        "websocket_core.server_bounds",
        "websocket_core.server_logging",
        "websocket_core.server_requests",
        "websocket_core.server_frames",
        "websocket_core.server",
        "websocket_core.client",
        "websocket_core.log_probe",
        "websocket_core.log_conformance",
        "websocket_core.testing",
    ),
    (
        "bridge.context",
        "bridge.deltas",
        "bridge.run_channel",
        "bridge.approvals",
        "bridge.agent_run",
        "bridge.agent_bridge",
    ),
    ("bridge.runtimes", "bridge.protocols"),
    (
        "websocket_core.compat",
        "bridge",
        "websocket_core.agent_bridge",
        "websocket_core",
        "websocket_core.__main__",
    ),
)
"""Section 8 of the design. A module imports only from rows above its own, or from modules before it in its row."""

ORDER: Final = {name: place for place, name in enumerate(name for row in TABLE for name in row)}
LAST_ROW: Final = frozenset(TABLE[-1])

ALLOWED: Final = frozenset({("websocket_core.unified_manager", "create_agent_bridge", "bridge.agent_bridge")})
"""The one import that points up at run time: module, function, what is imported."""
ALLOWED_FOR_TYPES: Final = frozenset({"websocket_core.unified_manager", "websocket_core", "bridge"})
"""Modules whose `if TYPE_CHECKING:` may name anything."""

MOST_LINES: Final = 400


def _modules() -> dict[str, Path]:
    """Every module of both packages by its dotted name."""
    found: dict[str, Path] = {}
    for package in (websocket_core, bridge):
        assert package.__file__ is not None
        root = Path(package.__file__).parent
        for path in sorted(root.rglob("*.py")):
            parts = [package.__name__, *path.relative_to(root).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES: Final = _modules()
SOURCES: Final = {name: path.read_text(encoding="utf-8") for name, path in MODULES.items()}


# -- imports


def _is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(name: str, source: str) -> Iterator[tuple[str, str | None, bool]]:
    """What a module imports of ours: the module, the function around the import, and whether only types need it."""

    def walk(node: ast.AST, function: str | None, for_types: bool) -> Iterator[tuple[str, str | None, bool]]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, function, for_types
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in MODULES else str(node.module), function, for_types
        elif isinstance(node, ast.If) and _is_type_checking(node.test):
            for statement in node.body:
                yield from walk(statement, function, True)
            for statement in node.orelse:
                yield from walk(statement, function, for_types)
        else:
            inner = node.name if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) else function
            for child in ast.iter_child_nodes(node):
                yield from walk(child, inner, for_types)

    for target, function, for_types in walk(ast.parse(source), None, False):
        if target.split(".")[0] in ("websocket_core", "bridge"):
            yield target, function, for_types


def _place(module: str) -> int | None:
    """Where a module stands; a module of a listed package stands where the package does."""
    while module:
        if module in ORDER:
            return ORDER[module]
        if module.rpartition(".")[0] in ("websocket_core", "bridge", ""):
            return None
        module = module.rpartition(".")[0]
    return None


def wrong_imports(name: str, source: str) -> list[str]:
    found = []
    for target, function, for_types in imports(name, source):
        if (name, function, target) in ALLOWED or (for_types and name in ALLOWED_FOR_TYPES):
            continue
        mine, other = _place(name), _place(target)
        if mine is None or other is None or other >= mine:
            found.append(f"{name} imports {target}")
    return found


def hidden_imports(name: str, source: str) -> list[str]:
    """Imports by a string, which only the modules that make names lazily may use."""
    if name in LAST_ROW:
        return []
    return [
        f"{name} imports by a string in line {node.lineno}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("import_module", "__import__")
    ]


# -- what no module does


def _aliases(tree: ast.AST) -> dict[str, str]:
    """What the imported names of a module stand for."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def calls(source: str) -> Iterator[tuple[str, int]]:
    """The dotted names of everything that is called, imports resolved, with the line."""
    tree = ast.parse(source)
    aliases = _aliases(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition(".")
            yield aliases.get(first, first) + dot + rest, node.lineno


AMBIENT: Final = frozenset(
    """time.time time.time_ns time.monotonic time.monotonic_ns time.perf_counter time.perf_counter_ns time.localtime
    os.urandom os.getrandom os.getenv os.environ.get datetime.datetime.now datetime.datetime.utcnow
    datetime.datetime.today datetime.date.today""".split()
)
AMBIENT_MODULES: Final = ("uuid.", "secrets.", "random.")
NOT_AMBIENT: Final = frozenset({"random.Random", "random.SystemRandom"})
FORBIDDEN: Final = frozenset({"print", "time.sleep", "yaml.load", "eval", "exec", "breakpoint"})
FORBIDDEN_MODULES: Final = frozenset({"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle"})


def forbidden_calls(name: str, source: str) -> list[str]:
    return [f"{name}:{line} calls {called}" for called, line in calls(source) if called in FORBIDDEN]


def forbidden_modules(name: str, source: str) -> list[str]:
    used = {value.split(".")[0] for value in _aliases(ast.parse(source)).values()}
    return [f"{name} imports {module}" for module in sorted(used & FORBIDDEN_MODULES)]


def ambient_calls(name: str, source: str) -> list[str]:
    return [
        f"{name}:{line} calls {called}"
        for called, line in calls(source)
        if called in AMBIENT or (called.startswith(AMBIENT_MODULES) and called not in NOT_AMBIENT)
    ]


_CONTAINERS: Final = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
_MAKERS: Final = frozenset(
    "list dict set bytearray defaultdict deque OrderedDict Counter WeakValueDictionary WeakSet ContextVar".split()
)


def module_state(name: str, source: str) -> list[str]:
    """Mutable values that a module keeps under a name which is not `Final`, and `global` statements."""
    tree = ast.parse(source)
    found = [f"{name}:{node.lineno} has a global" for node in ast.walk(tree) if isinstance(node, ast.Global)]
    for node in tree.body:
        if isinstance(node, ast.Assign):
            target, value, final = ast.unparse(node.targets[0]), node.value, False
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            target, value = ast.unparse(node.target), node.value
            final = ast.unparse(node.annotation).partition("[")[0] in ("Final", "typing.Final")
        else:
            continue
        made = isinstance(value, ast.Call) and ast.unparse(value.func).rpartition(".")[2] in _MAKERS
        if (made or isinstance(value, _CONTAINERS)) and not final and not target.startswith("__"):
            found.append(f"{name}:{node.lineno} keeps {target}")
    return found


def _is_broad(node: ast.ExceptHandler) -> bool:
    if node.type is None:
        return True
    named = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    return any(ast.unparse(one) in ("Exception", "BaseException") for one in named)


def broad_excepts(name: str, source: str) -> list[str]:
    """Handlers of `Exception` and wider without a reason beside them, a raise or a log line inside."""
    commented = {
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and not token.string.startswith("# noqa")
    }
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ExceptHandler) or not _is_broad(node):
            continue
        inside = [each for statement in node.body for each in ast.walk(statement)]
        raises = any(isinstance(each, ast.Raise) for each in inside)
        logs = any(isinstance(each, ast.Call) and ast.unparse(each.func).startswith("logger.") for each in inside)
        reason = commented & {node.lineno, node.body[0].lineno - 1, node.body[0].lineno}
        if not (raises or logs or reason):
            found.append(f"{name}:{node.lineno} swallows everything without a reason")
    return found


def too_long(name: str, source: str) -> list[str]:
    lines = len(source.splitlines())
    return [f"{name} has {lines} lines"] if lines > MOST_LINES else []


Rule = Callable[[str, str], list[str]]
RULES: Final[tuple[Rule, ...]] = (
    wrong_imports,
    hidden_imports,
    forbidden_calls,
    forbidden_modules,
    ambient_calls,
    module_state,
    broad_excepts,
    too_long,
)


def test_every_module_has_a_place_in_the_table() -> None:
    """A new module is placed on purpose, so that its imports are checked at all."""
    assert {name for name in MODULES if _place(name) is None} == set()
    assert "websocket_core.unified_manager" in MODULES, "the packages were not found"
    assert "bridge.agent_run" in MODULES


def test_no_module_is_listed_twice() -> None:
    assert len(ORDER) == sum(len(row) for row in TABLE)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_module_keeps_the_rule(rule: Rule) -> None:
    findings = [finding for name, source in SOURCES.items() for finding in rule(name, source)]
    assert findings == []


def test_the_exception_for_the_bridge_is_in_use() -> None:
    """An exception that nobody needs any more is a hole."""
    used = {
        (name, function, target)
        for name, source in SOURCES.items()
        for target, function, for_types in imports(name, source)
        if not for_types
    }
    assert used >= ALLOWED


BREACHES: Final[list[tuple[Rule, str, str]]] = [
    (wrong_imports, "websocket_core.errors", "from websocket_core.limits import Limits"),
    (wrong_imports, "websocket_core.errors", "import websocket_core.limits"),
    (wrong_imports, "websocket_core.cursor", "def f():\n    from websocket_core.wire import PROTOCOL"),
    (wrong_imports, "websocket_core.wire", "import websocket_core"),
    (wrong_imports, "websocket_core.wire", "from websocket_core import connection"),
    (wrong_imports, "websocket_core.log", "from websocket_core.log import Entry"),
    (wrong_imports, "websocket_core.connection", "if TYPE_CHECKING:\n    from websocket_core.registry import Registry"),
    (wrong_imports, "websocket_core.unified_manager", "from bridge.agent_bridge import AgentWebSocketBridge"),
    (wrong_imports, "websocket_core.unified_manager", "def connect_user():\n    from bridge.agent_bridge import X"),
    (wrong_imports, "websocket_core.unified_manager", "def create_agent_bridge():\n    from bridge.agent_run import X"),
    (wrong_imports, "websocket_core.unified_manager", "if not TYPE_CHECKING:\n    import bridge.agent_bridge"),
    (wrong_imports, "websocket_core.unlisted", "from websocket_core.errors import InvalidInput"),
    (hidden_imports, "websocket_core.wire", "importlib.import_module('websocket_core.connection')"),
    (forbidden_calls, "m", "def f():\n    print('x')"),
    (forbidden_calls, "m", "import time as t\nt.sleep(1)"),
    (forbidden_calls, "m", "from time import sleep\nsleep(1)"),
    (forbidden_calls, "m", "import yaml\nyaml.load(x)"),
    (forbidden_modules, "m", "def f():\n    import pickle"),
    (forbidden_modules, "m", "from marshal import loads"),
    (ambient_calls, "m", "import time\nstarted = time.time()"),
    (ambient_calls, "m", "from time import monotonic as now\nnow()"),
    (ambient_calls, "m", "from datetime import UTC, datetime\ndatetime.now(UTC)"),
    (ambient_calls, "m", "import random\nrandom.random()"),
    (ambient_calls, "m", "import uuid\nuuid.uuid4().hex"),
    (ambient_calls, "m", "import os\nos.urandom(8)"),
    (ambient_calls, "m", "import os\nos.environ.get('DEBUG')"),
    (module_state, "m", "connections = {}"),
    (module_state, "m", "seen: set[str] = set()"),
    (module_state, "m", "names = [n for n in 'abc']"),
    (module_state, "m", "def f():\n    global x\n    x = 1"),
    (broad_excepts, "m", "try:\n    f()\nexcept Exception:\n    pass"),
    (broad_excepts, "m", "try:\n    f()\nexcept:\n    g()"),
    (broad_excepts, "m", "try:\n    f()\nexcept (OSError, BaseException) as e:\n    g()"),
    (broad_excepts, "m", "try:\n    f()\nexcept Exception:  # noqa: BLE001\n    pass"),
    (too_long, "m", "x\n" * 401),
]


def _cases(cases: list[tuple[Rule, str, str]]) -> list[object]:
    return [pytest.param(*case, id=f"{case[0].__name__}-{number}") for number, case in enumerate(cases)]


@pytest.mark.parametrize(("rule", "name", "source"), _cases(BREACHES))
def test_each_rule_finds_a_breach_of_it(rule: Rule, name: str, source: str) -> None:
    assert rule(name, source) != []


KEPT: Final[list[tuple[Rule, str, str]]] = [
    (wrong_imports, "websocket_core.limits", "from websocket_core.errors import InvalidConfiguration\nimport json"),
    (wrong_imports, "websocket_core.unified_manager", "if TYPE_CHECKING:\n    from bridge.context import RunContext"),
    (wrong_imports, "bridge.runtimes.langgraph", "from bridge.agent_bridge import AgentWebSocketBridge"),
    (hidden_imports, "websocket_core.compat", "import_module('websocket_core.unified_manager')"),
    (ambient_calls, "m", "import time\ndef f(clock=time.time): return clock()"),
    (ambient_calls, "m", "import random\nrng = random.SystemRandom()"),
    (module_state, "m", "A: Final = {}\n__all__ = ['A']\nB = frozenset({1})"),
    (broad_excepts, "m", "try:\n    f()\nexcept Exception:  # the application's own code\n    pass"),
    (broad_excepts, "m", "try:\n    f()\nexcept BaseException:\n    g()\n    raise"),
    (too_long, "m", "x\n" * 400),
]


@pytest.mark.parametrize(("rule", "name", "source"), _cases(KEPT))
def test_each_rule_lets_pass_what_keeps_it(rule: Rule, name: str, source: str) -> None:
    assert rule(name, source) == []
