"""Where Chromium is, and what happens without it. Debian's is driven; none is ever downloaded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import Final

import pytest

NOT_FOUND: Final = "Chromium not found: the browser tests did not run"

FLAGS: Final = (
    "--no-sandbox",  # Chromium has none for root, whom CI often is
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium(environment: Mapping[str, str] = os.environ, path: str = "/usr/bin/chromium") -> str:
    """The program to drive: `CHROMIUM` of the environment, else `path`. Without it the test is skipped, or fails
    where `CI` is set."""
    program = shutil.which(environment.get("CHROMIUM") or path)
    if program is None and environment.get("CI"):
        pytest.fail(NOT_FOUND, pytrace=False)
    if program is None:
        pytest.skip(NOT_FOUND)
    return program
