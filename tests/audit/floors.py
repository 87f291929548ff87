"""The minimum versions that past advisories call for, and what in this repository is below them.

Each row is one advisory, or a few with the same answer. `opened` says how far to trust it: the record of the advisory
itself was read, in a stored copy of an advisory database. A row that is not `opened` comes from a summary: check it
before you quote it. The table is no substitute for the databases, which know what was found since; it holds where
they cannot be reached.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version


@dataclass(frozen=True, slots=True)
class Floor:
    """Below `minimum`, `happened` can happen."""

    name: str
    minimum: str
    advisories: str
    happened: str
    opened: bool
    asked: bool = False
    """Our code imports it, so that `pyproject.toml` has to ask for the minimum: whoever installs us gets it."""


FLOORS: Final = (
    Floor(
        "PyJWT", "2.15.0", "CVE-2026-102275", "a private key passes under another public key", opened=True, asked=True
    ),
    Floor(
        "PyJWT",
        "2.15.0",
        "CVE-2026-101918",
        "deep payloads end the caller, unverified ones too",
        opened=False,
        asked=True,
    ),
    Floor(
        "PyJWT",
        "2.14.0",
        "CVE-2026-102266 to -102274, -101917",
        "empty secrets and altered public keys pass as keys; redirects lead to somebody else's key set",
        opened=False,
        asked=True,
    ),
    Floor(
        "PyJWT",
        "2.13.0",
        "CVE-2026-48526, -48523",
        "a public key as JSON passes for a secret; keys of a set ignore the list of algorithms",
        opened=True,
        asked=True,
    ),
    Floor(
        "PyJWT",
        "2.12.0",
        "CVE-2026-32597",
        "critical headers that it does not know are ignored",
        opened=True,
        asked=True,
    ),
    Floor("PyJWT", "2.4.0", "CVE-2022-29217", "a public key passes for a secret", opened=True, asked=True),
    Floor("starlette", "1.3.1", "CVE-2026-54283", "URL-encoded forms escape the limits", opened=True, asked=True),
    Floor("starlette", "1.3.0", "PYSEC-2026-248", "a path that changes request.url.hostname", opened=True, asked=True),
    Floor("starlette", "1.1.0", "CVE-2026-48817", "a made-up HTTP method calls any method", opened=True, asked=True),
    Floor(
        "starlette", "1.0.1", "CVE-2026-48710", "a Host header that changes request.url.path", opened=True, asked=True
    ),
    Floor("starlette", "0.49.1", "CVE-2025-62727", "a Range header takes the processor", opened=False, asked=True),
    Floor(
        "fastapi",
        "0.65.2",
        "CVE-2021-32677",
        "other sites send JSON as plain text, with cookies",
        opened=True,
        asked=True,
    ),
    Floor("uvicorn", "0.11.7", "CVE-2020-7695", "line breaks in a header split the response", opened=True, asked=True),
    Floor(
        "uvicorn", "0.11.7", "CVE-2020-7694", "line breaks in a path forge lines of the log", opened=False, asked=True
    ),
    Floor(
        "websockets",
        "9.1",
        "CVE-2021-33880",
        "the time that a refusal takes tells the password",
        opened=True,
        asked=True,
    ),
    Floor(
        "websockets", "5.0", "CVE-2018-1000518", "small frames inflate to all of the memory", opened=True, asked=True
    ),
    Floor("httptools", "0.6.0", "CVE-2023-30589", "requests smuggled between headers", opened=False, asked=True),
    Floor("h11", "0.16.0", "CVE-2025-43859", "requests smuggled in chunked bodies", opened=True, asked=True),
    Floor("pydantic", "2.4.0", "CVE-2024-3772", "an e-mail address takes the processor", opened=True, asked=True),
    Floor(
        "redis",
        "8.1.0",
        "measured by this project",
        "cancelled commands leave the pool answering with errors: so with 4.5.4, no longer with 8.1.0",
        opened=True,
        asked=True,
    ),
    Floor(
        "redis",
        "4.5.4",
        "CVE-2023-28859",
        "the reply to a cancelled command goes to the next user",
        opened=False,
        asked=True,
    ),
    Floor(
        "redis",
        "4.5.3",
        "CVE-2023-28858",
        "the reply to a cancelled pipeline goes to the next user",
        opened=True,
        asked=True,
    ),
    Floor("orjson", "3.11.6", "CVE-2025-67221", "deep values end the process in dumps", opened=True),
    Floor("orjson", "3.9.15", "CVE-2024-27454", "deep documents end the process in loads", opened=True),
    Floor("python-socketio", "5.16.2", "CVE-2026-48804", "messages are kept whose attachments never come", opened=True),
    Floor(
        "python-socketio", "5.14.0", "CVE-2025-61765", "pickle on the message queue runs what it is sent", opened=True
    ),
    Floor(
        "python-engineio", "3.9.0", "CVE-2019-13611", "other sites open sockets with a visitor's cookies", opened=True
    ),
    Floor("cryptography", "50.0.0", "CVE-2026-69247", "PKCS#7 decryption tells how it failed", opened=True),
    Floor("cryptography", "46.0.7", "CVE-2026-39892", "buffers with gaps are read past their end", opened=False),
    Floor("idna", "3.15", "CVE-2026-45409, CVE-2024-3651", "a host name takes the processor", opened=True),
    Floor("pip", "26.1.2", "CVE-2026-8643", "a wheel writes scripts where it likes", opened=True),
    Floor(
        "urllib3", "2.7.0", "CVE-2026-44431, -44432", "headers follow a redirect; small answers inflate", opened=False
    ),
    Floor("requests", "2.33.0", "CVE-2026-25645", "known from another project's release notes", opened=False),
    Floor("Pygments", "2.20.0", "CVE-2026-4539", "a source text takes the processor", opened=False),
    Floor("PyYAML", "5.4", "CVE-2020-14343", "full_load runs what a document says", opened=False),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What one line asks for: exactly `version`, or at least it. Without a version, any will do."""

    where: str
    name: str
    version: Version | None
    exact: bool
    for_users: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    where: str
    name: str
    has: str
    needs: str
    advisories: str
    happened: str


def pins_of(text: str, where: str) -> Iterator[Asked | Finding]:
    """The pins of a constraint file. A line that is not one is a finding: an address, an option, a range."""
    for number, line in enumerate(text.splitlines(), start=1):
        bare = line.partition(" #")[0].strip()
        if not bare or bare.startswith("#"):
            continue
        try:
            requirement = Requirement(bare)
            (only,) = requirement.specifier
            if only.operator != "==" or requirement.extras or requirement.marker:
                raise ValueError(bare)
            yield Asked(where, requirement.name, Version(only.version), exact=True)
        except (InvalidRequirement, InvalidVersion, ValueError):
            yield Finding(f"{where}:{number}", "", bare, "name==version", "", "nobody can say which version this is")


def bounds_of(text: str, where: str) -> Iterator[Asked]:
    """The lower bounds of everything that a `pyproject.toml` asks for: users, extras, groups, the build."""
    document = tomllib.loads(text)
    project = document.get("project", {})
    parts = {
        "build-system": document.get("build-system", {}).get("requires", []),
        "project": project.get("dependencies", []),
        **{f"extra {name}": lines for name, lines in project.get("optional-dependencies", {}).items()},
        **{f"group {name}": lines for name, lines in document.get("dependency-groups", {}).items()},
    }
    for part, lines in parts.items():
        for line in lines:
            if isinstance(line, str):
                requirement = Requirement(line)
                users = part == "project" or part.startswith("extra ")
                yield Asked(
                    f"{where}, {part}", requirement.name, lower_bound(requirement), exact=False, for_users=users
                )


def lower_bound(requirement: Requirement) -> Version | None:
    """The least version that the requirement lets in. `>1.0` counts as 1.0, so that it never hides something."""
    bounds = [
        Version(each.version.removesuffix(".*"))
        for each in requirement.specifier
        if each.operator in (">=", ">", "==", "~=")
    ]
    return max(bounds, default=None)


def below(asked: Asked, floors: Iterable[Floor] = FLOORS) -> list[Finding]:
    """The floors that what is asked for does not reach."""
    name = canonicalize_name(asked.name)
    has = "any version" if asked.version is None else f"{'==' if asked.exact else '>='}{asked.version}"
    return [
        Finding(asked.where, floor.name, has, f">={floor.minimum}", floor.advisories, floor.happened)
        for floor in floors
        if canonicalize_name(floor.name) == name and (asked.version is None or asked.version < Version(floor.minimum))
    ]


def not_asked(bounds: Iterable[Asked], where: str, floors: Iterable[Floor] = FLOORS) -> list[Finding]:
    """The floors of what our code imports that users are not asked to have: another package would choose for them."""
    names = {canonicalize_name(each.name) for each in bounds if each.for_users}
    return [
        Finding(where, floor.name, "not asked for", f">={floor.minimum}", floor.advisories, floor.happened)
        for floor in floors
        if floor.asked and canonicalize_name(floor.name) not in names
    ]


def table(findings: Iterable[Finding]) -> list[str]:
    """The findings as aligned lines under a head."""
    head = ("where", "package", "has", "needs", "advisory", "what happens")
    rows = [head, *((f.where, f.name, f.has, f.needs, f.advisories, f.happened) for f in findings)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
