"""Compares the versions that this repository uses with what is known to be unsafe.

    python -m tests.audit

Three checks: the minimum versions of `floors.py`, pip-audit on the constraint files, npm audit beside each
package.json. The last two ask a service over the network. A service that cannot be reached is no failure, and no
success: the check is NOT CHECKED, and the last line says so. Exits with 1 when something was found.

Neither tool's word is taken for it. Where the service is only partly there, as behind a mirror, pip-audit skips every
package and reports no vulnerabilities, and an empty list of advisories looks like a clean bill. So each service first
has to find a vulnerability that is known; only then does its silence mean something.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.audit.floors import Finding, below, bounds_of, not_asked, pins_of, table

REPOSITORY: Final = Path(__file__).resolve().parents[2]
SERVICES: Final = ("pypi", "osv")
"""The services that pip-audit knows, in the order in which they are tried."""
KNOWN_PYTHON: Final = ("PyJWT==2.3.0", "CVE-2022-29217")
KNOWN_NODE: Final = ("ws", "8.17.0")
"""Versions with a published vulnerability, which every service has to know."""
REACH_SECONDS: Final = 15.0
AUDIT_SECONDS: Final = 300.0
NOT_OURS: Final = frozenset({"node_modules", "build", "dist"})
CONTROL: Final = "control.txt"
"""Pins what is known to be broken, for a test that shows so, in a directory from which nothing else imports."""


class State(StrEnum):
    PASSED = "passed"
    FOUND = "FOUND VULNERABILITIES"
    PARTLY = "passed in part, the rest NOT CHECKED"
    NOT_CHECKED = "NOT CHECKED"
    NOTHING = "nothing to check"


@dataclass(frozen=True, slots=True)
class Report:
    """What one check came to, in a word, a few words and lines."""

    check: str
    state: State
    word: str
    lines: tuple[str, ...] = ()


class Ran(NamedTuple):
    """A command that ended; or did not, and then `err` says why and there is no `out`."""

    out: str
    err: str


Run = Callable[[Sequence[str], Path, float], Ran]


def run_command(command: Sequence[str], cwd: Path, seconds: float) -> Ran:
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Ran("", f"no answer within {seconds:g} s")
    except OSError as error:
        return Ran("", f"{command[0]} cannot be run: {error.strerror}")
    return Ran(done.stdout, done.stderr)


_ADDRESS: Final = re.compile(r"\w+://\S+|(?<=')[\w-]+(?:\.[\w-]+)+(?=')")


def reason(text: str) -> str:
    """The last line that says something, without addresses: a mirror's may be nobody's business, or hold a password."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _ADDRESS.sub("(address)", lines[-1])[:300] if lines else "it ended without a word"


# -- minimum versions


def check_floors(root: Path) -> Report:
    """Every pin in `constraints/` and every lower bound in `pyproject.toml` against the table."""
    pins = [each for path in constraint_files(root) for each in pins_of(_text(path), _name(path, root))]
    bounds = list(bounds_of(_text(root / "pyproject.toml"), "pyproject.toml"))
    if not pins:
        return Report("floors", State.NOT_CHECKED, "no constraint files")
    found = [each for each in pins if isinstance(each, Finding)]
    for asked in (*(each for each in pins if not isinstance(each, Finding)), *bounds):
        found += below(asked)
    found += not_asked(bounds, "pyproject.toml")
    word = f"{len(pins)} pins and {len(bounds)} lower bounds"
    return Report("floors", State.FOUND if found else State.PASSED, word, tuple(table(found)) if found else ())


def constraint_files(root: Path) -> list[Path]:
    return [path for path in sorted(root.glob("constraints/*.txt")) if path.name != CONTROL]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


# -- pip-audit


class Audited(NamedTuple):
    """What pip-audit said of one file: a line for each vulnerability, their names, and what it did not look up."""

    lines: list[str]
    names: set[str]
    skipped: list[str]
    looked_up: int


def pip_audit(run: Run, root: Path, service: str, file: Path, seconds: float) -> Audited | str:
    """One file of exact versions, without resolving anything; a string says why there is no answer.

    The exit code says nothing: 1 stands for a vulnerability and for a crash, 0 for "all safe" and "all skipped".
    """
    options = "--no-deps --disable-pip --progress-spinner off --desc off --format json --timeout 5".split()
    ran = run([sys.executable, "-m", "pip_audit", *options, "-s", service, "-r", str(file)], root, seconds)
    try:
        answer = Audited([], set(), [], 0)
        for each in json.loads(ran.out)["dependencies"]:
            if "skip_reason" in each:
                answer.skipped.append(f"{each['name']}: {each['skip_reason']}")
                continue
            answer = answer._replace(looked_up=answer.looked_up + 1)
            for vulnerability in each["vulns"]:
                names = [vulnerability["id"], *vulnerability["aliases"]]
                fixed = ", ".join(vulnerability["fix_versions"]) or "none yet"
                answer.names.update(names)
                answer.lines.append(f"{each['name']} {each['version']}: {', '.join(names)}; fixed in: {fixed}")
    except (ValueError, KeyError, TypeError):
        return reason(ran.err)
    return answer


def check_python(root: Path, run: Run) -> Report:
    """pip-audit on each constraint file, with the first service that knows what has to be known."""
    files = constraint_files(root)
    service, refusals = None, []
    with tempfile.TemporaryDirectory(prefix="audit-") as directory:
        known = Path(directory) / "known.txt"
        known.write_text(f"{KNOWN_PYTHON[0]}\n", encoding="utf-8")
        for each in SERVICES:
            answer = pip_audit(run, root, each, known, REACH_SECONDS)
            if not isinstance(answer, str) and KNOWN_PYTHON[1] in answer.names:
                service = each
                break
            if isinstance(answer, str):
                refusals.append(f"{each}: {answer}")
            elif answer.skipped:
                refusals.append(f"{each}: {reason(answer.skipped[0])}")
            else:
                refusals.append(
                    f"{each}: does not know {KNOWN_PYTHON[1]} of {KNOWN_PYTHON[0]}, so its silence means nothing"
                )
    if service is None or not files:
        why = "no service that can be relied on" if files else "no constraint files"
        return Report("pip-audit", State.NOT_CHECKED, why, tuple(refusals))
    found: list[str] = []
    unknown: list[str] = []
    looked_up = 0
    for file in files:
        answer = pip_audit(run, root, service, file, AUDIT_SECONDS)
        if isinstance(answer, str):
            unknown.append(f"NOT CHECKED {_name(file, root)}: {answer}")
        else:
            found += [f"{_name(file, root)}: {line}" for line in answer.lines]
            unknown += [f"NOT CHECKED {_name(file, root)}: {line}" for line in answer.skipped]
            looked_up += answer.looked_up
    return _report("pip-audit", found, unknown, looked_up, f"packages at {service}")


def _report(check: str, found: list[str], unknown: list[str], looked_up: int, things: str) -> Report:
    if found:
        state = State.FOUND
    elif not looked_up:
        state = State.NOT_CHECKED
    else:
        state = State.PARTLY if unknown else State.PASSED
    word = f"{looked_up} {things}" + (f", {len(unknown)} NOT CHECKED" if unknown else "")
    return Report(check, state, word, (*found, *unknown))


# -- npm audit


def packages(root: Path) -> list[Path]:
    """The directories with a package.json that is ours."""
    found = []
    for directory, inner, files in os.walk(root):
        inner[:] = sorted(name for name in inner if name not in NOT_OURS and not name.startswith("."))
        if "package.json" in files:
            found.append(Path(directory))
    return found


def npm_audit(run: Run, directory: Path, seconds: float) -> list[str] | str:
    """A line for each vulnerable package; a string says why there is no answer."""
    ran = run(["npm", "audit", "--json"], directory, seconds)
    try:
        answer: dict[str, Any] = json.loads(ran.out)
        if "vulnerabilities" not in answer:
            error = answer.get("error") or {}
            return reason(str(error.get("summary") or answer.get("message") or ran.err))
        return [
            f"{name} {each['range']}: {each['severity']}; "
            + ", ".join(via["title"] if isinstance(via, dict) else f"through {via}" for via in each["via"])
            for name, each in sorted(answer["vulnerabilities"].items())
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        return reason(ran.err)


def check_node(root: Path, run: Run) -> Report:
    """npm audit in each directory with a package.json, if it finds what has to be found."""
    directories = packages(root)
    if not directories:
        return Report("npm audit", State.NOTHING, "there is no package.json")
    with tempfile.TemporaryDirectory(prefix="audit-") as made:
        name, version = KNOWN_NODE
        package = {"name": "known", "version": "1.0.0", "dependencies": {name: version}}
        lock = {
            **package,
            "lockfileVersion": 3,
            "packages": {"": package, f"node_modules/{name}": {"version": version}},
        }
        (Path(made) / "package.json").write_text(json.dumps(package), encoding="utf-8")
        (Path(made) / "package-lock.json").write_text(json.dumps(lock), encoding="utf-8")
        known = npm_audit(run, Path(made), REACH_SECONDS)
    if not known:
        known = f"does not know the vulnerabilities of {name} {version}, so its silence means nothing"
    if isinstance(known, str):
        return Report("npm audit", State.NOT_CHECKED, "the service cannot be relied on", (known,))
    found: list[str] = []
    unknown: list[str] = []
    for directory in directories:
        answer = npm_audit(run, directory, AUDIT_SECONDS)
        where = _name(directory / "package.json", root)
        if isinstance(answer, str):
            unknown.append(f"NOT CHECKED {where}: {answer}")
        else:
            found += [f"{where}: {line}" for line in answer]
    return _report("npm audit", found, unknown, len(directories) - len(unknown), "package.json")


# -- all of it


def checked(root: Path, run: Run) -> Iterator[Report]:
    yield check_floors(root)
    yield check_python(root, run)
    yield check_node(root, run)


def main(root: Path = REPOSITORY, run: Run = run_command) -> int:
    reports = []
    for report in checked(root, run):
        reports.append(report)
        loud = "NOT CHECKED" in report.state
        head = f"{report.check}: {report.state} ({report.word})"
        for line in (head, *(f"    {line}" for line in report.lines)):
            print(f"!!! {line}" if loud or "NOT CHECKED" in line else line, flush=True)
    print("audit: " + "; ".join(f"{report.check} {report.state} ({report.word})" for report in reports))
    return 1 if any(report.state is State.FOUND for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
