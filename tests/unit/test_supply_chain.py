"""What this project is made of and brings with it: versions, dangerous calls, addresses in committed files.

The rules are functions from text to findings, so that each is itself tested on a text that breaks it. What reads the
repository is skipped where there is none, as beside an installed wheel.
"""

from __future__ import annotations

import ast
import ipaddress
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import bridge
import websocket_core
from tests.audit.__main__ import (
    KNOWN_NODE,
    KNOWN_PYTHON,
    SERVICES,
    Ran,
    Run,
    State,
    check_floors,
    check_node,
    check_python,
    main,
    packages,
    reason,
    run_command,
)
from tests.audit.floors import FLOORS, Asked, Finding, below, bounds_of, lower_bound, not_asked, pins_of, table

REPOSITORY: Final = Path(__file__).resolve().parents[2]


def minimum(name: str) -> Version:
    """The greatest of the minimums that the table has for a package."""
    return max(Version(floor.minimum) for floor in FLOORS if canonicalize_name(floor.name) == canonicalize_name(name))


# -- the versions that are used


def test_every_installed_package_is_at_its_floor_or_above() -> None:
    checked = set()
    for name in {floor.name for floor in FLOORS}:
        try:
            installed = version(name)
        except PackageNotFoundError:
            continue
        checked.add(name)
        assert below(Asked("installed", name, Version(installed), exact=True)) == []
    assert checked >= {"PyJWT", "starlette", "fastapi", "pydantic", "websockets"}, "these come with the package itself"


def test_who_installs_the_package_is_asked_for_the_floors_of_what_it_imports() -> None:
    """From the metadata of the installed package; `make setup` brings it up to date with `pyproject.toml`."""
    asked = [
        Asked("metadata", requirement.name, lower_bound(requirement), exact=False, for_users=True)
        for requirement in map(Requirement, requires("unified-websocket") or [])
    ]
    assert [finding for each in asked for finding in below(each)] == []
    assert not_asked(asked, "metadata") == []


LEAST: Final = {
    "PyJWT": "2.15.0",
    "starlette": "1.3.1",
    "fastapi": "0.65.2",
    "uvicorn": "0.11.7",
    "websockets": "9.1",
    "redis": "8.1.0",
    "orjson": "3.11.6",
    "python-socketio": "5.16.2",
    "python-engineio": "3.9.0",
    "h11": "0.16.0",
}
"""What the advisories that this project has learnt from call for. The table may ask for more, never for less."""


@pytest.mark.parametrize(("name", "least"), LEAST.items())
def test_no_floor_of_the_table_is_ever_lowered(name: str, least: str) -> None:
    assert minimum(name) >= Version(least)


def test_the_rows_of_the_table_can_be_used_and_say_what_they_are() -> None:
    for floor in FLOORS:
        assert str(Version(floor.minimum)) == floor.minimum
        assert floor.advisories
        assert floor.happened
    keys = [(canonicalize_name(floor.name), floor.minimum, floor.advisories) for floor in FLOORS]
    assert len(keys) == len(set(keys))
    opened = {floor.opened for floor in FLOORS}
    assert opened == {True, False}, "a row says whether its advisory was read or comes from a summary"


PYPROJECT: Final = REPOSITORY / "pyproject.toml"


@pytest.mark.skipif(not PYPROJECT.exists(), reason="no pyproject.toml here: only the installed packages")
def test_the_lower_bounds_of_the_project_are_at_the_floors() -> None:
    bounds = list(bounds_of(PYPROJECT.read_text(encoding="utf-8"), "pyproject.toml"))
    assert [finding for each in bounds for finding in below(each)] == []
    assert not_asked(bounds, "pyproject.toml") == []


needs_constraints = pytest.mark.skipif(
    not (REPOSITORY / "constraints").is_dir(), reason="no checkout here: constraint files are no part of a wheel"
)


@needs_constraints
def test_what_the_repository_asks_for_is_at_the_floors() -> None:
    report = check_floors(REPOSITORY)
    assert report.state is State.PASSED, "\n".join(report.lines)
    pins, bounds = (int(number) for number in re.findall(r"\d+", report.word))
    assert pins > 60
    assert bounds > 20


@needs_constraints
def test_every_row_of_the_table_is_about_something_that_is_pinned() -> None:
    """A row for what is no longer here proves nothing, and hides that."""
    pinned = {
        canonicalize_name(each.name)
        for path in REPOSITORY.glob("constraints/*.txt")
        for each in pins_of(path.read_text(encoding="utf-8"), path.name)
    }
    assert {canonicalize_name(floor.name) for floor in FLOORS} <= pinned


# -- what the audit makes of versions


def findings_in(constraints: str) -> list[Finding]:
    found: list[Finding] = []
    for each in pins_of(constraints, "constraints/dev.txt"):
        found += [each] if isinstance(each, Finding) else below(each)
    return found


@pytest.mark.parametrize(
    "line",
    [
        "PyJWT==2.14.9",
        "pyjwt==2.14.9",
        "PyJWT==2.15.0rc1",
        "PyJWT==0.1  # for a reason",
        "python_socketio==5.16.1",
        "Python.SocketIO==5.13",
        "redis==8.0.9",
        "starlette==1.3.0",
    ],
)
def test_a_pin_below_a_floor_is_found_however_it_is_spelled(line: str) -> None:
    (first, *_others) = findings_in(f"# a comment\n\nannotated-doc==0.0.6\n{line}\n")
    assert first.where == "constraints/dev.txt"
    assert first.has.startswith("==")
    assert first.needs.startswith(">=")
    assert first.advisories


@pytest.mark.parametrize(
    "line", ["PyJWT==2.15.0", "PyJWT==2.15", "pyjwt==3.0", "annotated-doc==0.0.1", "# PyJWT==1.0", ""]
)
def test_a_pin_at_its_floor_or_above_is_not_found(line: str) -> None:
    assert findings_in(line) == []


@pytest.mark.parametrize(
    "line",
    [
        "annotated-doc",
        "annotated-doc>=0.0.1",
        "annotated-doc==0.0.*",
        "annotated-doc==0.0.1,!=0.0.2",
        "annotated-doc===0.0.1",
        "annotated-doc[more]==0.0.1",
        "annotated-doc==0.0.1; python_version < '3.12'",
        "annotated-doc @ https://{host}/annotated_doc.whl",
        "-r more.txt",
        "-c more.txt",
        "--extra-index-url https://{host}/simple",
        "--pre",
        "annotated-doc==one",
        "./annotated_doc.whl",
    ],
)
def test_a_line_of_a_constraint_file_that_is_no_pin_is_found(line: str) -> None:
    """Nothing stands in a constraint file that is not compared: no address, no option, no range."""
    (found,) = findings_in(line)
    assert found.where == "constraints/dev.txt:1"
    assert found.needs == "name==version"


PROJECT: Final = """
[build-system]
requires = [{build}]
[project]
dependencies = [{project}]
[project.optional-dependencies]
server = [{extra}]
[dependency-groups]
build = []
dev = [{group}, {{ include-group = "build" }}]
"""


@pytest.mark.parametrize(
    ("part", "where"),
    [("build", "build-system"), ("project", "project"), ("extra", "extra server"), ("group", "group dev")],
)
def test_a_lower_bound_that_lets_in_too_much_is_found_in_every_part(part: str, where: str) -> None:
    lines = {name: '"orjson>=3.11.6"' for name in ("build", "project", "extra", "group")}
    asked = list(bounds_of(PROJECT.format(**lines), "pyproject.toml"))
    assert [below(each) for each in asked] == [[]] * 4
    lines[part] = '"orjson>=3.11.5"'
    asked = list(bounds_of(PROJECT.format(**lines), "pyproject.toml"))
    (found,) = [finding for each in asked for finding in below(each)]
    assert (found.where, found.name, found.has, found.needs) == (
        f"pyproject.toml, {where}",
        "orjson",
        ">=3.11.5",
        ">=3.11.6",
    )


@pytest.mark.parametrize(
    ("specifier", "least"),
    [
        ("", None),
        ("<3", None),
        ("!=2.14", None),
        (">=2.14", "2.14"),
        (">2.14", "2.14"),
        ("~=2.14", "2.14"),
        ("==2.14", "2.14"),
        ("==2.14.*", "2.14"),
        (">=2.14,>=2.15,<3", "2.15"),
    ],
)
def test_the_lower_bound_is_the_least_that_is_let_in(specifier: str, least: str | None) -> None:
    expected = None if least is None else Version(least)
    assert lower_bound(Requirement(f"PyJWT{specifier}")) == expected
    asked = Asked("here", "PyJWT", expected, exact=False)
    assert bool(below(asked)) is (expected is None or expected < Version("2.15"))


def test_what_the_code_imports_must_be_asked_of_users_and_not_only_of_developers() -> None:
    """Else another package chooses the version that users get."""
    names = {floor.name for floor in FLOORS if floor.asked}
    for_users = [Asked("x", name, minimum(name), exact=False, for_users=True) for name in names]
    assert not_asked(for_users, "pyproject.toml") == []
    without = [each for each in for_users if each.name != "starlette"]
    developers = [*without, Asked("x", "starlette", minimum("starlette"), exact=False)]
    for asked in (without, developers):
        assert {finding.name for finding in not_asked(asked, "pyproject.toml")} == {"starlette"}
    text = PROJECT.format(build="", project='"a"', extra='"b"', group='"c"').replace("[, ", "[")
    assert {each.name: each.for_users for each in bounds_of(text, "x")} == {"a": True, "b": True, "c": False}


def test_the_table_of_findings_lines_up_and_leaves_nothing_out() -> None:
    lines = table(findings_in("PyJWT==2.0\nredis==8.0.9\n"))
    assert lines[0].split() == ["where", "package", "has", "needs", "advisory", "what", "happens"]
    column = lines[0].index("needs")
    assert all(line[column:].startswith(">=") for line in lines[1:])
    assert len(lines) == 1 + sum(floor.name == "PyJWT" for floor in FLOORS) + 1


# -- what the audit makes of the tools


def a_repository(root: Path, *, constraints: dict[str, str] | None = None, bounds: Sequence[str] = ()) -> Path:
    """A repository that passes, if nothing else is asked for."""
    names = sorted({floor.name for floor in FLOORS if floor.asked})
    lines = [f'"{line}"' for line in (*(f"{name}>={minimum(name)}" for name in names), *bounds)]
    (root / "pyproject.toml").write_text(f"[project]\ndependencies = [{', '.join(lines)}]\n", encoding="utf-8")
    files = {"bench.txt": "orjson==3.13.0\n", "dev.txt": "idna==3.20\n"} if constraints is None else constraints
    (root / "constraints").mkdir()
    for name, text in files.items():
        (root / "constraints" / name).write_text(text, encoding="utf-8")
    return root


def safe(name: str) -> dict[str, Any]:
    return {"name": name, "version": "1.0", "vulns": []}


def skipped(name: str) -> dict[str, Any]:
    return {"name": name, "skip_reason": f"Dependency not found and could not be audited: {name} (1.0)"}


def vulnerable(name: str, *names: str, fixed: Sequence[str] = ("2.4.0",)) -> dict[str, Any]:
    vulnerability = {"id": names[0], "aliases": [*names[1:]], "fix_versions": [*fixed]}
    return {"name": name, "version": "1.0", "vulns": [vulnerability]}


def answered(*dependencies: dict[str, Any]) -> Ran:
    """As pip-audit 2.10 answers, with what it says beside it."""
    return Ran(json.dumps({"dependencies": dependencies, "fixes": []}), "WARNING: users are encouraged to fully hash")


UNREACHABLE: Final = Ran(
    "",
    "Traceback (most recent call last):\n  File ...\nConnectionError: Pool(host='db.example'): refused\n",
)
KNOWS: Final = answered(vulnerable("pyjwt", "PYSEC-2022-202", KNOWN_PYTHON[1]))
NPM_KNOWS: Final = Ran(
    json.dumps(
        {
            "auditReportVersion": 2,
            "vulnerabilities": {
                "ws": {"severity": "high", "range": "8.17.0", "via": [{"title": "many headers"}]},
                "engine": {"severity": "high", "range": "*", "via": ["ws"]},
            },
        }
    ),
    "",
)
NPM_SILENT: Final = Ran(json.dumps({"auditReportVersion": 2, "vulnerabilities": {}}), "")
NPM_REFUSED: Final = Ran(json.dumps({"message": "405 Method Not Allowed - POST https://{host}/-/npm/v1"}), "npm error")
NPM_NO_LOCK: Final = Ran(
    json.dumps({"error": {"code": "ENOLOCK", "summary": "This requires an existing lockfile."}}), ""
)


class Tools:
    """pip-audit and npm, as a test wants them to answer."""

    def __init__(self, pip: Callable[[str, str], Ran] | None = None, npm: Callable[[Path], Ran] | None = None) -> None:
        self.commands: list[list[str]] = []
        self.asked: list[tuple[str, str]] = []
        self._pip = pip or (lambda _service, _file: UNREACHABLE)
        self._npm = npm or (lambda _directory: NPM_REFUSED)

    def __call__(self, command: Sequence[str], cwd: Path, seconds: float) -> Ran:
        assert seconds > 0
        self.commands.append([*command])
        if command[0] == "npm":
            assert [*command[1:]] == ["audit", "--json"]
            return self._npm(cwd)
        service, file = command[command.index("-s") + 1], Path(command[command.index("-r") + 1])
        if file.name == "known.txt":
            assert file.read_text(encoding="utf-8").strip() == KNOWN_PYTHON[0]
        self.asked.append((service, file.name))
        return self._pip(service, file.name)


def knowing(files: dict[str, Ran], service: str = "pypi") -> Callable[[str, str], Ran]:
    """A pip-audit for which one service can be reached, and says this of the files."""
    return lambda asked, file: ({"known.txt": KNOWS} | files)[file] if asked == service else UNREACHABLE


ALL_SAFE: Final = {"bench.txt": answered(safe("orjson")), "dev.txt": answered(safe("idna"))}


def test_a_version_below_a_floor_fails_the_audit_and_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = a_repository(tmp_path, constraints={"dev.txt": "idna==3.20\nPyJWT==2.3.0\n"}, bounds=["orjson>=3.9"])
    assert main(root, Tools(knowing({"dev.txt": answered(safe("idna"))}))) == 1
    out = capsys.readouterr().out
    shown = next(line for line in out.splitlines() if "CVE-2022-29217" in line)
    assert shown.split()[:4] == ["constraints/dev.txt", "PyJWT", "==2.3.0", ">=2.4.0"]
    assert "a public key passes for a secret" in shown
    assert "pyproject.toml, project" in out
    assert "floors FOUND" in out.splitlines()[-1]


@pytest.mark.parametrize(
    ("file", "old", "new", "found"),
    [
        ("constraints/dev.txt", "idna==3.20", "idna>=3.20", "constraints/dev.txt:1"),
        ("constraints/bench.txt", "3.13.0", "3.11.5", "constraints/bench.txt"),
        ("pyproject.toml", "starlette>=", "somebody-else>=", "not asked for"),
        ("pyproject.toml", "starlette>=1.3.1", "starlette", "any version"),
    ],
)
def test_each_file_that_says_a_version_is_compared(file: str, old: str, new: str, found: str, tmp_path: Path) -> None:
    path = a_repository(tmp_path) / file
    assert check_floors(tmp_path).state is State.PASSED
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    report = check_floors(tmp_path)
    assert report.state is State.FOUND
    assert any(found in line for line in report.lines[1:])


def test_no_constraint_file_is_no_success(tmp_path: Path) -> None:
    root = a_repository(tmp_path, constraints={})
    assert check_floors(root).state is State.NOT_CHECKED
    assert check_python(root, Tools(knowing({}))).state is State.NOT_CHECKED


def test_what_was_checked_and_safe_is_said_to_have_passed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tools = Tools(knowing(ALL_SAFE))
    assert main(a_repository(tmp_path), tools) == 0
    out = capsys.readouterr().out
    assert "!!!" not in out
    assert "NOT CHECKED" not in out
    assert out.splitlines()[-1] == (
        "audit: floors passed (2 pins and 9 lower bounds); pip-audit passed (2 packages at pypi); "
        "npm audit nothing to check (there is no package.json)"
    )


def test_each_constraint_file_is_asked_about_as_it_stands(tmp_path: Path) -> None:
    """Without resolving anything: what is asked about is what is pinned."""
    root = a_repository(tmp_path)
    tools = Tools(knowing(ALL_SAFE))
    check_python(root, tools)
    assert tools.asked == [("pypi", "known.txt"), ("pypi", "bench.txt"), ("pypi", "dev.txt")]
    for command in tools.commands:
        assert command[:3] == [sys.executable, "-m", "pip_audit"]
        assert {"--no-deps", "--disable-pip"} <= set(command)
        assert "--ignore-vuln" not in command
    assert {str(path) for path in root.glob("constraints/*.txt")} <= {word for each in tools.commands for word in each}


BELIEVED_BY_NOBODY: Final = {
    "unreachable": UNREACHABLE,
    "not installed": Ran("", "python: No module named pip_audit"),
    "a time-out": Ran("", "no answer within 15 s"),
    "nothing at all": Ran("", ""),
    "a mirror that has no advisories": answered(skipped("pyjwt")),
    "a service that finds nothing": answered(safe("pyjwt")),
    "a service that finds something else": answered(vulnerable("pyjwt", "CVE-2099-1")),
    "another format": Ran("[]", ""),
    "no names": Ran('{"dependencies": [{"name": "pyjwt", "version": "2.3.0", "vulns": [{}]}]}', ""),
}


@pytest.mark.parametrize("answer", BELIEVED_BY_NOBODY.values(), ids=BELIEVED_BY_NOBODY)
def test_a_service_that_does_not_find_what_is_known_is_loudly_not_checked(
    answer: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor is it a failure: nobody's audit depends on a network. The files are not asked about at all."""
    tools = Tools(lambda _service, _file: answer)
    assert main(a_repository(tmp_path), tools) == 0
    out = capsys.readouterr().out
    assert "pip-audit NOT CHECKED (no service that can be relied on)" in out.splitlines()[-1]
    for service in SERVICES:
        assert any(line.startswith(f"!!!     {service}: ") and len(line) > 20 for line in out.splitlines())
    assert "pip-audit passed" not in out
    assert tools.asked == [(service, "known.txt") for service in SERVICES]
    assert "db.example" not in out, "an address may be nobody's business"


def test_the_next_service_is_asked_where_the_first_is_of_no_use(tmp_path: Path) -> None:
    tools = Tools(knowing(ALL_SAFE, "osv"))
    report = check_python(a_repository(tmp_path), tools)
    assert (report.state, report.word) == (State.PASSED, "2 packages at osv")
    assert tools.asked == [("pypi", "known.txt"), ("osv", "known.txt"), ("osv", "bench.txt"), ("osv", "dev.txt")]


def test_a_vulnerability_fails_the_audit_and_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answered(safe("idna"), vulnerable("h11", "PYSEC-1", "CVE-1", fixed=()), vulnerable("h12", "PYSEC-2"))
    assert main(a_repository(tmp_path), Tools(knowing({**ALL_SAFE, "dev.txt": found}))) == 1
    out = capsys.readouterr().out
    assert "constraints/dev.txt: h11 1.0: PYSEC-1, CVE-1; fixed in: none yet" in out
    assert "constraints/dev.txt: h12 1.0: PYSEC-2; fixed in: 2.4.0" in out
    assert "pip-audit FOUND VULNERABILITIES (4 packages at pypi)" in out.splitlines()[-1]


@pytest.mark.parametrize(
    ("answer", "state", "word"),
    [
        (answered(safe("idna"), skipped("h11")), State.PARTLY, "2 packages at pypi, 1 NOT CHECKED"),
        (UNREACHABLE, State.PARTLY, "1 packages at pypi, 1 NOT CHECKED"),
        (answered(vulnerable("idna", "PYSEC-1"), skipped("h11")), State.FOUND, "2 packages at pypi, 1 NOT CHECKED"),
    ],
    ids=["one package", "one file", "beside a vulnerability"],
)
def test_what_the_service_left_out_is_said(
    answer: Ran, state: State, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(a_repository(tmp_path), Tools(knowing({**ALL_SAFE, "dev.txt": answer}))) == (state is State.FOUND)
    out = capsys.readouterr().out
    assert f"pip-audit {state} ({word})" in out.splitlines()[-1]
    assert "!!!     NOT CHECKED constraints/dev.txt: " in out


def test_a_service_that_goes_away_after_the_first_question_has_checked_nothing(tmp_path: Path) -> None:
    root = a_repository(tmp_path)
    for answer in (UNREACHABLE, answered(skipped("idna"))):
        report = check_python(root, Tools(knowing(dict.fromkeys(ALL_SAFE, answer))))
        assert (report.state, report.word) == (State.NOT_CHECKED, "0 packages at pypi, 2 NOT CHECKED")


# -- npm


def a_package(root: Path, *names: str) -> None:
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "package.json").write_text("{}", encoding="utf-8")


def npm(root: Path, answers: dict[str, Ran], known: Ran = NPM_KNOWS) -> Callable[[Path], Ran]:
    def answer(directory: Path) -> Ran:
        if directory.is_relative_to(root):
            return answers[directory.relative_to(root).as_posix()]
        name, version = KNOWN_NODE
        assert json.loads((directory / "package.json").read_text())["dependencies"] == {name: version}
        assert json.loads((directory / "package-lock.json").read_text())["packages"][f"node_modules/{name}"] == {
            "version": version
        }
        return known

    return answer


def test_only_packages_of_this_repository_are_audited(tmp_path: Path) -> None:
    a_package(tmp_path, "client", "client/node_modules/ws", ".venv/lib/x", "build/x", "docs/demo")
    assert packages(tmp_path) == [tmp_path / "client", tmp_path / "docs/demo"]


def test_without_a_package_json_npm_is_not_asked(tmp_path: Path) -> None:
    tools = Tools()
    report = check_node(tmp_path, tools)
    assert (report.state, report.word) == (State.NOTHING, "there is no package.json")
    assert tools.commands == []


@pytest.mark.parametrize(
    ("known", "why"),
    [
        (NPM_REFUSED, "405 Method Not Allowed"),
        (NPM_SILENT, "its silence means nothing"),
        (Ran("", "npm cannot be run: No such file or directory"), "cannot be run"),
        (Ran("not JSON", "npm error"), "npm error"),
        (Ran("[]", ""), "without a word"),
    ],
)
def test_an_npm_service_that_does_not_find_what_is_known_is_not_checked(known: Ran, why: str, tmp_path: Path) -> None:
    a_package(tmp_path, "client")
    report = check_node(tmp_path, Tools(npm=npm(tmp_path, {"client": NPM_SILENT}, known)))
    assert report.state is State.NOT_CHECKED
    assert why in report.lines[0]
    assert "://" not in report.lines[0]


def test_the_vulnerabilities_of_each_node_package_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a_repository(tmp_path)
    a_package(tmp_path, "client", "demo")
    tools = Tools(knowing(ALL_SAFE), npm(tmp_path, {"client": NPM_KNOWS, "demo": NPM_SILENT}))
    assert main(tmp_path, tools) == 1
    out = capsys.readouterr().out
    assert "client/package.json: ws 8.17.0: high; many headers" in out
    assert "client/package.json: engine *: high; through ws" in out
    assert "npm audit FOUND VULNERABILITIES (2 package.json)" in out.splitlines()[-1]


def test_a_node_package_without_a_lock_file_is_not_checked(tmp_path: Path) -> None:
    a_package(tmp_path, "client", "demo")
    report = check_node(tmp_path, Tools(npm=npm(tmp_path, {"client": NPM_NO_LOCK, "demo": NPM_SILENT})))
    assert (report.state, report.word) == (State.PARTLY, "1 package.json, 1 NOT CHECKED")
    assert "existing lockfile" in report.lines[0]
    report = check_node(tmp_path, Tools(npm=npm(tmp_path, {"client": NPM_SILENT, "demo": NPM_SILENT})))
    assert (report.state, report.lines) == (State.PASSED, ())


# -- running a command


def test_a_command_that_cannot_run_or_never_ends_is_an_answer_too(tmp_path: Path) -> None:
    run: Run = run_command
    assert run(["no-such-program"], tmp_path, 10) == Ran("", "no-such-program cannot be run: No such file or directory")
    endless = [sys.executable, "-c", "import threading; threading.Event().wait()"]
    assert run(endless, tmp_path, 0.2) == Ran("", "no answer within 0.2 s")
    program = "import os, sys; print(os.getcwd()); print('why', file=sys.stderr); sys.exit(1)"
    out, err = run([sys.executable, "-c", program], tmp_path, 30)
    assert Path(out.strip()) == tmp_path.resolve()
    assert err.strip() == "why"


def test_a_reason_is_one_line_without_addresses() -> None:
    assert reason("one\n\ntwo: https://user:password@{host}/x refused\n  \n") == "two: (address) refused"
    assert reason("host='mirror.example' is gone") == "host='(address)' is gone"
    assert reason("a.b.Error: 'x' is not 'y'") == "a.b.Error: 'x' is not 'y'"
    assert reason(" \n ") == "it ended without a word"
    assert len(reason("x" * 5000)) == 300


# -- what the code calls

READERS: Final = frozenset("pickle cPickle _pickle marshal shelve dill cloudpickle jsonpickle joblib".split())
"""Modules that make any object, or any code, of bytes."""
RUNNERS: Final = frozenset("eval exec compile __import__".split())
SHELLS: Final = frozenset(
    "os.system os.popen subprocess.getoutput subprocess.getstatusoutput asyncio.create_subprocess_shell".split()
)
YAML_WITH_A_LOADER: Final = frozenset({"yaml.load", "yaml.load_all"})
YAML_NEVER: Final = frozenset(
    """yaml.unsafe_load yaml.unsafe_load_all yaml.full_load yaml.full_load_all
    yaml.Loader yaml.UnsafeLoader yaml.FullLoader""".split()
)
YAML_SAFE: Final = frozenset({"yaml.SafeLoader", "yaml.CSafeLoader", "yaml.BaseLoader", "yaml.CBaseLoader"})
DECODERS: Final = ("decode", "decode_complete")


class Source:
    """A module as its rules see it: its nodes, and dotted names with imports resolved."""

    def __init__(self, text: str) -> None:
        self.nodes = list(ast.walk(ast.parse(text)))
        self._names: dict[str, str] = {}
        self.imports: list[tuple[int, str]] = []
        for node in self.nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    first = alias.name.partition(".")[0]
                    self._names[alias.asname or first] = alias.name if alias.asname else first
                    self.imports.append((node.lineno, alias.name))
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    self._names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                    self.imports.append((node.lineno, f"{node.module}.{alias.name}"))

    def name(self, node: ast.AST | None) -> str:
        """`np.load` as `numpy.load`; empty for what is no name."""
        if isinstance(node, ast.Name):
            return self._names.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            return f"{self.name(node.value)}.{node.attr}"
        return ""

    def mentioned(self) -> Iterator[tuple[int, str, ast.AST]]:
        """Every name and attribute that is read, called or not."""
        for node in self.nodes:
            if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
                yield node.lineno, self.name(node), node

    def calls(self) -> Iterator[ast.Call]:
        return (node for node in self.nodes if isinstance(node, ast.Call))


def _is(node: ast.AST | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def makes_objects_of_bytes(source: Source) -> Iterator[str]:
    for line, name in source.imports:
        if name.partition(".")[0] in READERS:
            yield f"{line} imports {name}"
    for call in source.calls():
        if call.args and source.name(call.func).rpartition(".")[2] in ("import_module", "__import__"):
            wanted = call.args[0].value if isinstance(call.args[0], ast.Constant) else None
            if isinstance(wanted, str) and wanted.partition(".")[0] in READERS:
                yield f"{call.lineno} imports {wanted}"


def reads_any_yaml(source: Source) -> Iterator[str]:
    guarded = set()
    for call in source.calls():
        loader = next((each.value for each in call.keywords if each.arg == "Loader"), None) or (
            call.args[1] if len(call.args) > 1 else None
        )
        if source.name(loader) in YAML_SAFE:
            guarded.add(id(call.func))
    for line, name, node in source.mentioned():
        if name in YAML_NEVER or (name in YAML_WITH_A_LOADER and id(node) not in guarded):
            yield f"{line} reads YAML with {name}"


def runs_text(source: Source) -> Iterator[str]:
    for line, name, _node in source.mentioned():
        if name.removeprefix("builtins.") in RUNNERS:
            yield f"{line} uses {name}"
    yield from (f"{line} imports {name}" for line, name in source.imports if name.partition(".")[0] == "builtins")


def uses_a_shell(source: Source) -> Iterator[str]:
    for line, name, _node in source.mentioned():
        if name in SHELLS or name.endswith(".subprocess_shell"):
            yield f"{line} uses {name}"
    for call in source.calls():
        if any(each.arg == "shell" and not _is(each.value, False) for each in call.keywords):
            yield f"{call.lineno} starts a shell"
    for node in source.nodes:
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "shell" and _is(value, True):
                    yield f"{node.lineno} starts a shell"


def trusts_unsigned_tokens(source: Source) -> Iterator[str]:
    for node in source.nodes:
        if isinstance(node, ast.Dict):
            pairs: list[tuple[ast.AST | None, ast.AST]] = [*zip(node.keys, node.values, strict=True)]
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            pairs = [(node.targets[0].slice, node.value)]
        elif isinstance(node, ast.keyword):
            pairs = [(ast.Constant(node.arg), node.value)]
        else:
            continue
        for key, value in pairs:
            if isinstance(key, ast.Constant) and key.value == "verify_signature" and not _is(value, True):
                yield f"{value.lineno if isinstance(value, ast.expr) else 0} does not verify signatures"
    for call in source.calls():
        if source.name(call.func).rpartition(".")[2] not in DECODERS or not source.name(call.func).startswith("jwt."):
            continue
        for each in call.keywords:
            if each.arg == "verify" and not _is(each.value, True):
                yield f"{call.lineno} does not verify tokens"
            if each.arg == "algorithms" and "none" in {
                str(inner.value).lower() for inner in ast.walk(each.value) if isinstance(inner, ast.Constant)
            }:
                yield f"{call.lineno} takes tokens without a signature"


Rule = Callable[[Source], Iterator[str]]
RULES: Final[tuple[Rule, ...]] = (
    makes_objects_of_bytes,
    reads_any_yaml,
    runs_text,
    uses_a_shell,
    trusts_unsigned_tokens,
)


def sources_under(*roots: Path) -> dict[str, str]:
    return {
        f"{root.name}/{path.relative_to(root).as_posix()}": path.read_text(encoding="utf-8")
        for root in roots
        for path in sorted(root.rglob("*.py"))
    }


PACKAGES: Final = sources_under(*(Path(str(package.__file__)).parent for package in (websocket_core, bridge)))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_module_of_the_packages_breaks_the_rule(rule: Rule) -> None:
    assert PACKAGES.keys() >= {
        "websocket_core/auth.py",
        "websocket_core/transports/websocket.py",
        "bridge/agent_run.py",
    }
    assert [f"{name}:{finding}" for name, text in PACKAGES.items() for finding in rule(Source(text))] == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_example_and_no_benchmark_breaks_the_rule(rule: Rule) -> None:
    roots = [REPOSITORY / name for name in ("examples", "benchmarks")]
    if not all(root.is_dir() for root in roots):
        pytest.skip("no checkout here: examples and benchmarks are no part of a wheel")
    texts = sources_under(*roots)
    assert {name.partition("/")[0] for name in texts} == {"examples", "benchmarks"}
    assert [f"{name}:{finding}" for name, text in texts.items() for finding in rule(Source(text))] == []


OFFENDERS: Final[dict[Rule, list[str]]] = {
    makes_objects_of_bytes: [
        "import pickle",
        "import pickle as json",
        "def f():\n    import marshal",
        "from marshal import loads",
        "from pickle import loads as read",
        "import shelve",
        "import dill",
        "import cloudpickle.cloudpickle",
        "from joblib import load",
        "if TYPE_CHECKING:\n    import _pickle",
        "import importlib\nimportlib.import_module('pickle').loads(b'')",
        "from importlib import import_module as get\nget('marshal')",
        "__import__('pickle')",
    ],
    reads_any_yaml: [
        "import yaml\nyaml.load(text)",
        "import yaml\nyaml.load(text, yaml.Loader)",
        "import yaml\nyaml.load(text, Loader=yaml.FullLoader)",
        "import yaml\nyaml.load(text, Loader=chosen)",
        "import yaml as y\ny.load_all(text)",
        "from yaml import load\nload(text)",
        "from yaml import unsafe_load as safe_load\nsafe_load(text)",
        "import yaml\nyaml.full_load(text)",
        "import yaml\nread = yaml.load",
        "import yaml\nyaml.safe_load(yaml.load(text))",
    ],
    runs_text: [
        "eval('1')",
        "exec(text)",
        "compile(text, '', 'exec')",
        "__import__(name)",
        "run = eval",
        "list(map(exec, texts))",
        "import builtins\nbuiltins.eval(text)",
        "from builtins import exec as run\nrun(text)",
        "import builtins\ngetattr(builtins, name)(text)",
    ],
    uses_a_shell: [
        "import subprocess\nsubprocess.run(text, shell=True)",
        "from subprocess import Popen\nPopen(text, shell=1)",
        "import subprocess\nsubprocess.run(text, shell=chosen)",
        "import subprocess\nsubprocess.run(text, **{'shell': True})",
        "import os\nos.system(text)",
        "from os import popen as p\np(text)",
        "import subprocess\nsubprocess.getoutput(text)",
        "import asyncio\nawait asyncio.create_subprocess_shell(text)",
        "await loop.subprocess_shell(protocol, text)",
    ],
    trusts_unsigned_tokens: [
        "import jwt\njwt.decode(token, options={'verify_signature': False})",
        "import jwt\njwt.decode(token, key, options={'verify_signature': chosen})",
        "from jwt import decode as d\nd(token, options=dict(verify_signature=False))",
        "OPTIONS = {'verify_signature': 0}",
        "options['verify_signature'] = False",
        "import jwt\njwt.decode(token, key, verify=False)",
        "import jwt\njwt.decode(token, None, algorithms=['none'])",
        "import jwt\njwt.decode_complete(token, None, algorithms=['HS256', 'None'])",
    ],
}


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        pytest.param(rule, text, id=f"{rule.__name__}-{n}")
        for rule, texts in OFFENDERS.items()
        for n, text in enumerate(texts)
    ],
)
def test_each_rule_finds_what_breaks_it(rule: Rule, text: str) -> None:
    assert [*rule(Source(text))] != []


HARMLESS: Final = [
    "import re\nre.compile('x')",
    "from re import compile\ncompile('x')",
    "import json\njson.loads(text)",
    "import yaml\nyaml.safe_load(text)\nyaml.dump(value)",
    "import yaml\nyaml.load(text, Loader=yaml.SafeLoader)",
    "from yaml import CSafeLoader, load\nload(text, CSafeLoader)",
    "import subprocess\nsubprocess.run(['ls'], shell=False)",
    "tools = {'shell': 'a tool of an agent'}",
    "import jwt\njwt.decode(token, key, algorithms=['ES256'], options={'verify_signature': True, 'verify_aud': False})",
    "codec.decode(text, verify=False)",
    "self.evaluate = lambda: model.eval()",
    "import importlib\nimportlib.import_module('websocket_core.compat')",
]


@pytest.mark.parametrize("text", HARMLESS)
def test_no_rule_finds_anything_in_what_is_harmless(text: str) -> None:
    assert [finding for rule in RULES for finding in rule(Source(text))] == []


# -- what is committed

DOCUMENTED: Final = frozenset("semver.org keepachangelog.com www.apache.org www.w3.org".split())
"""Public addresses that documents may name. A new one is added here on purpose."""
MADE_UP: Final = frozenset("example test invalid localhost evil".split())
"""Last parts of names that nobody can own."""
PLACEHOLDERS: Final = frozenset("app host server unused localhost example.com example.org example.net".split())
"""And single letters. A name without a dot is somebody's mirror as soon as a network resolves it."""
FIXTURES: Final = frozenset("db7.internal keys.internal redis.internal".split())
"""What other tests let pass for a secret of the network. New ones end in `.example`."""
DOCUMENTATION_NETWORKS: Final = [
    ipaddress.ip_network(each) for each in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
]

_URL: Final = re.compile(r"\b(?:https?|wss?|ftp|git|ssh)(?:\+\w+)?://([^\s/?#\"'`<>,;)]*)", re.IGNORECASE)
_DOMAIN: Final = re.compile(
    r"(?<![\w.-])(?:(?<!/)|(?<=//))((?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+(?:com|org|io|dev|cloud|internal|corp|lan))\b(?!\()"
)
_PATH: Final = re.compile(r"(?<![\w.~})-])/(?:home|root|Users|work|workspace|mnt|opt|srv)/[\w.-]+|\b[A-Z]:\\+Users\\")
_PLACEHOLDER: Final = re.compile(r".*[{}$*^()+|\[\]]")


def _is_nobodys(host: str) -> bool:
    """Whether a host is made up, of this machine or documented. Of `{name}.domain`, only the domain is asked about."""
    host = _PLACEHOLDER.sub("", host).strip(".").lower()
    if len(host) < 2 or host in PLACEHOLDERS | DOCUMENTED | FIXTURES or host.rpartition(".")[2] in MADE_UP:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.partition(".")[2] in PLACEHOLDERS
    return address.is_loopback or address.is_unspecified or any(address in each for each in DOCUMENTATION_NETWORKS)


def addresses(text: str) -> list[str]:
    """Hosts that somebody could own, with or without a scheme: registries, mirrors, services."""
    found = []
    for match in _URL.finditer(text):
        host = match[1].replace("\\", "").rpartition("@")[2]
        bracketed = re.match(r"\[([0-9a-fA-F:.]*)", host)
        host = bracketed[1] if bracketed else host.partition(":")[0]
        if not _is_nobodys(host):
            found.append(host)
    return found + [match[1] for match in _DOMAIN.finditer(text) if not _is_nobodys(match[1])]


def machine_paths(text: str, here: Path = REPOSITORY) -> list[str]:
    """Paths of somebody's machine: home directories, places of work, this checkout."""
    found = [match[0] for match in _PATH.finditer(text)]
    if len(here.parts) > 2:
        found += re.findall(rf"(?<![\w.-]){re.escape(str(here))}(?![\w.-])", text)
    return found


def committed_files() -> list[Path]:
    """What is in the repository, and what would be after `git add`."""
    git = shutil.which("git")
    if git is None or not (REPOSITORY / ".git").exists():
        pytest.skip("no checkout here, or no git to ask what belongs to it")
    listing = [git, "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listing, cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=True)
    files = [REPOSITORY / name for name in sorted(set(done.stdout.split("\0"))) if name]
    assert Path(__file__).resolve() in files
    return [path for path in files if path.is_file()]


@pytest.mark.parametrize("rule", [addresses, machine_paths], ids=lambda rule: rule.__name__)
def test_no_committed_file_names_a_registry_or_a_machine(rule: Callable[[str], list[str]]) -> None:
    found = {}
    for path in committed_files():
        if findings := rule(path.read_text(encoding="utf-8", errors="replace")):
            found[path.relative_to(REPOSITORY).as_posix()] = findings
    assert found == {}


def spelled(*parts: str) -> str:
    """A name in pieces, so that this file itself does not hold it."""
    return ".".join(parts)


@pytest.mark.parametrize(
    "text",
    [
        "--index-url https://" + spelled("mirror", "somebody", "com") + "/simple",
        "resolved: https://" + spelled("registry", "somebody", "net") + "/ws.tgz",
        "https://user:{password}@" + spelled("packages", "somebody", "eu") + ":8443/",
        "http://" + "mirror" + "/simple",
        "http://" + spelled("10", "1", "2", "3") + ":3141/",
        "http://[" + "fd00::1" + "]/",
        "https://{tenant}." + spelled("somebody", "cn"),
        "git+ssh://git@" + spelled("code", "somebody", "se") + "/x.git",
        "trusted-host = " + spelled("pypi", "somebody", "internal"),
        "mail somebody@" + spelled("somebody", "org"),
        "HTTPS://" + spelled("Mirror", "Somebody", "Com"),
        "(" + spelled("pypi", "somebody", "org") + ")",
        "//" + spelled("cdn", "somebody", "io") + "/x.js",
    ],
)
def test_an_address_that_somebody_owns_is_found(text: str) -> None:
    assert addresses(text) != []


@pytest.mark.parametrize(
    "text",
    [
        "https://app.example, wss://id.example:443/x?y=z and http://app.example.evil/ or https://app.example.",
        "http://127.0.0.1:8000/ ws://localhost/ http://[::1]:80/ http://0.0.0.0/ http://192.0.2.1/ http://[2001:db8::1]/",
        "https://{host}/ ws://${location.host}/live http://{self.host}{path} https://*.app.example",
        r"re.compile(r'http://127\.0\.0\.1:(\d+)') or https://[^\s]+ or http://\S+",
        "https://semver.org/spec/v2.0.0.html",
        "example.org, sub.example.com and self.net, logging.INFO, Socket.IO, /socket.io/?EIO=4, site.app",
        "https://",
    ],
)
def test_an_address_of_nobody_is_not_found(text: str) -> None:
    assert addresses(text) == []


def test_a_path_of_a_machine_is_found_and_a_route_is_not() -> None:
    for parts in (("home", "somebody"), ("Users", "somebody"), ("root", ".cache"), ("work", "main"), ("opt", "wheels")):
        assert machine_paths(f"see '/{'/'.join(parts)}/x'") != []
    assert machine_paths("C:" + "\\" + "Users" + "\\" + "somebody") != []
    here = Path("/", "build", "agent", "checkout")
    assert machine_paths(f'cd "{here}"', here) == [str(here)]
    assert machine_paths(f"{here}s and a{here}", here) == []
    for text in (
        "/usr/bin/chromium",
        "https://app.example/home/x",
        "/live/ws",
        "docs/work/x",
        "~/work/x",
        "{root}/work/x",
    ):
        assert machine_paths(text, here) == []
