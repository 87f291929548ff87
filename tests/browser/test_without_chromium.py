"""Promise: on a machine without Chromium the suite says that it did not run, and where `CI` is set it fails."""

from __future__ import annotations

import sys

import pytest

from tests.browser.chromium import NOT_FOUND, chromium

pytestmark = pytest.mark.browser


def test_without_chromium_the_tests_are_skipped_and_say_so() -> None:
    with pytest.raises(pytest.skip.Exception, match=NOT_FOUND):
        chromium({}, "/nowhere/chromium")


def test_without_chromium_in_ci_the_tests_fail_and_say_so() -> None:
    with pytest.raises(pytest.fail.Exception, match=NOT_FOUND):
        chromium({"CI": "true"}, "/nowhere/chromium")


def test_a_browser_that_was_named_is_taken_and_no_other_in_its_place() -> None:
    assert chromium({"CHROMIUM": sys.executable}, "/nowhere/chromium") == sys.executable
    with pytest.raises(pytest.fail.Exception):
        chromium({"CI": "1", "CHROMIUM": "/nowhere/chromium"}, sys.executable)
