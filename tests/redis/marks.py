"""How tests on a real Redis are marked."""

from __future__ import annotations

import os

import pytest

from tests.redis.server import redis_binary

NEEDS_REDIS = [
    pytest.mark.redis,
    pytest.mark.skipif(
        redis_binary() is None and not os.environ.get("CI"), reason="no redis-server: apt-get install redis-server"
    ),
]
"""The `pytestmark` of tests on a real Redis: skipped where there is none, but in CI, where they fail."""
