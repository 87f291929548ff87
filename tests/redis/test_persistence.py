"""What is promised under faults of everything at once, one row for each mode of persistence, judged by the ledger.

Short runs; `python -m tests.redis.fleet.chaos` has the long ones.
"""

from __future__ import annotations

from pathlib import Path

from tests.redis.fleet.chaos import MODES, Row, run
from tests.redis.marks import NEEDS_REDIS

pytestmark = NEEDS_REDIS

SECONDS = 3.0
NETWORK = ("reply_lost", "cut", "silent", "half_closed_to_us", "half_closed_to_redis", "clients_cut")


async def a_row(directory: Path, mode: str, *store: str, network: tuple[str, ...] = NETWORK) -> Row:
    """A short run in which Redis suffers this, the first of it surely, and beside it the network and the processes."""
    row = await run(
        directory, mode, seconds=SECONDS, nodes=2, rate=40.0, pause=0.3, store=store, network=network,
        processes=("server_killed", "worker_killed"),
    )  # fmt: skip
    assert row.faults[store[0]] > 0
    assert [f"{violation.fault} {violation.what}" for violation in row.verdict.violations] == []
    assert row.verdict.acknowledged > 200
    assert row.inflicted >= 5
    return row


async def test_with_every_append_on_disk_nothing_is_lost_and_nobody_is_told_a_gap(tmp_path: Path) -> None:
    row = await a_row(tmp_path, "always", "redis_killed", "redis_frozen_for_long", "redis_read_only")
    assert row.verdict.gaps.total() == 0
    assert row.verdict.repeated == 0


async def test_with_a_write_to_disk_every_second_a_killed_redis_loses_nothing_in_silence(tmp_path: Path) -> None:
    await a_row(tmp_path, "everysec", "redis_killed", "commands_killed", "redis_full")


async def test_without_persistence_whoever_misses_something_is_told(tmp_path: Path) -> None:
    row = await a_row(tmp_path, "none", "redis_killed", "scripts_flushed")
    assert row.verdict.gaps["new_epoch"] > 0


async def test_whoever_has_read_what_an_older_dump_does_not_hold_is_told(tmp_path: Path) -> None:
    row = await a_row(tmp_path, "rdb", "rolled_back", "redis_killed")
    assert row.verdict.gaps["diverged"] > 0


async def test_a_flushed_redis_is_told_to_everybody(tmp_path: Path) -> None:
    row = await a_row(tmp_path, "flushall", "flushed", "buffers_overrun")
    assert row.verdict.gaps["new_epoch"] > 0


async def test_what_was_evicted_is_told_and_what_redis_refuses_for_want_of_memory_is_not_lost(tmp_path: Path) -> None:
    row = await a_row(tmp_path, "eviction", "evicted", "redis_full")
    assert row.faults["keys evicted"] > 0


async def test_after_a_failover_to_a_replica_that_was_behind_whoever_was_ahead_of_it_is_told(tmp_path: Path) -> None:
    # Everybody goes through the proxy: were it silent, there would be nothing of which the replica is behind.
    row = await a_row(tmp_path, "failover", "failed_over", "commands_killed", network=("reply_lost", "clients_cut"))
    assert row.verdict.gaps["diverged"] > 0


def test_every_mode_has_a_row() -> None:
    assert set(MODES) == {"none", "rdb", "everysec", "always", "flushall", "eviction", "failover"}
