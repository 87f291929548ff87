"""The public API types as its users write it, and wrong uses do not type."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import bridge
import websocket_core

EXAMPLES = Path(__file__).with_name("typing_examples.py")
ROOTS = [str(Path(package.__file__ or "").parent.parent) for package in (websocket_core, bridge)]

needs_mypy = pytest.mark.skipif(
    importlib.util.find_spec("mypy") is None, reason="NOT CHECKED: mypy is not installed, so nothing here was typed"
)


def _cache(config: pytest.Config, tmp_path: Path) -> Path:
    """Kept from run to run, where pytest keeps anything."""
    return Path(config.cache.mkdir("mypy")) if hasattr(config, "cache") else tmp_path / "cache"


def _mypy(source: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """Check one file as a user would who has installed the packages, apart from this repository's configuration."""
    assert all((Path(root) / "websocket_core" / "py.typed").exists() for root in ROOTS[:1])
    assert all((Path(root) / "bridge" / "py.typed").exists() for root in ROOTS[1:])
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={cache}", "--no-error-summary",
         "--python-version=3.11", "--follow-imports=silent", str(source)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=source.parent,
        env={"PATH": "", "MYPYPATH": ":".join(dict.fromkeys(ROOTS)) if "site-packages" not in ROOTS[0] else ""},
    )  # fmt: skip


@needs_mypy
@pytest.mark.timeout(300)
def test_the_public_api_types_under_strict_mypy(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Every `assert_type` holds, and every call that is marked as wrong is an error: an unused mark fails too."""
    source = tmp_path / "usage.py"
    source.write_text(EXAMPLES.read_text(encoding="utf-8"), encoding="utf-8")
    checked = _mypy(source, _cache(pytestconfig, tmp_path))
    assert (checked.stdout.strip(), checked.stderr.strip()) == ("", "")
    assert checked.returncode == 0


@needs_mypy
@pytest.mark.timeout(300)
def test_a_wrong_use_is_reported_and_so_is_a_mark_without_one(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """The check above can fail: it sees our types and not `Any`."""
    source = tmp_path / "wrong.py"
    source.write_text(
        "from websocket_core import UnifiedWebSocketManager\n"
        "manager = UnifiedWebSocketManager()\n"
        "manager.get_emitter()\n"
        "manager.get_stats()  # type: ignore[call-arg]\n",
        encoding="utf-8",
    )
    checked = _mypy(source, _cache(pytestconfig, tmp_path))
    assert "wrong.py:3: error: Missing positional argument" in checked.stdout
    assert 'wrong.py:4: error: Unused "type: ignore" comment' in checked.stdout
    assert checked.returncode == 1


def test_both_packages_say_that_they_are_typed() -> None:
    for package in (websocket_core, bridge):
        assert (Path(package.__file__ or "").parent / "py.typed").exists()
