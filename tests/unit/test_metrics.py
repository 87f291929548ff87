"""The metrics: what is counted, under which names, and that their number does not grow with the users."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.support import Tab, a_manager
from websocket_core.metrics import LATENCY_BOUNDS, Latency, Metrics, process_metrics

COUNTERS = {
    "events_appended": "websocket_events_appended_total",
    "events_delivered": "websocket_events_delivered_total",
    "events_dropped": "websocket_events_dropped_total",
    "retries": "websocket_append_retries_total",
    "append_failures": "websocket_append_failures_total",
    "gaps": "websocket_gaps_total",
    "evictions": "websocket_evictions_total",
    "evictions_failed": "websocket_evictions_failed_total",
    "refusals": "websocket_refusals_total",
    "stale": "websocket_stale_connections_total",
    "uncut": "websocket_uncut_connections_total",
    "runs_lost": "websocket_runs_lost_total",
    "outages": "websocket_log_outages_total",
    "commands_accepted": "websocket_commands_accepted_total",
    "commands_refused": "websocket_commands_refused_total",
    "commands_done": "websocket_commands_done_total",
    "commands_retried": "websocket_commands_retried_total",
    "commands_dead": "websocket_commands_dead_total",
    "feed_replacements": "websocket_feed_replacements_total",
    "foreign_entries": "websocket_foreign_entries_total",
    "isolation_violations": "isolation_violations_total",
}
GAUGES = {"connections": "websocket_connections", "degraded": "websocket_degraded"}
HISTOGRAMS = {
    "append_latency": "websocket_append_seconds",
    "delivery_latency": "websocket_delivery_seconds",
    "loop_lag": "websocket_loop_lag_seconds",
}


def exposed(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every series of the text that a scrape gets."""
    registry = CollectorRegistry()
    metrics.register(registry)
    text = generate_latest(registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_metric_is_exposed_from_the_start_with_nothing_counted() -> None:
    series = exposed(Metrics())
    expected = {*COUNTERS.values(), *GAUGES.values()}
    for name in HISTOGRAMS.values():
        expected |= {f"{name}_bucket", f"{name}_count", f"{name}_sum"}
    assert {name for name, _ in series} == expected
    assert set(series.values()) == {0.0}
    assert ("isolation_violations_total", ()) in series


@pytest.mark.parametrize("attribute", [*COUNTERS, *GAUGES])
def test_a_counter_shows_what_was_added_and_no_other_moves(attribute: str) -> None:
    metrics = Metrics()
    before = exposed(metrics)
    setattr(metrics, attribute, 7)
    after = exposed(metrics)
    changed = {key: value for key, value in after.items() if before[key] != value}
    assert changed == {((COUNTERS | GAUGES)[attribute], ()): 7.0}


def test_no_metric_has_a_label_but_the_bound_of_its_bucket() -> None:
    assert {label for _, labels in exposed(Metrics()) for label, _ in labels} == {"le"}


def test_misspelt_counters_are_refused() -> None:
    with pytest.raises(AttributeError):
        Metrics().event_appended = 1  # type: ignore[attr-defined]


# -- latencies


def _buckets(metrics: Metrics, name: str) -> dict[float, float]:
    return {
        float(labels[0][1]): value for (series, labels), value in exposed(metrics).items() if series == f"{name}_bucket"
    }


@pytest.mark.parametrize(("attribute", "name"), HISTOGRAMS.items())
def test_a_latency_is_a_cumulative_histogram(attribute: str, name: str) -> None:
    metrics = Metrics()
    for seconds in (0.00001, 0.0005, 0.0005, 0.5, 100.0):
        getattr(metrics, attribute).observe(seconds)
    buckets = _buckets(metrics, name)
    assert sorted(buckets) == [*LATENCY_BOUNDS, float("inf")]
    assert [buckets[bound] for bound in sorted(buckets)] == [1, 1, 1, 3, 3, 3, 3, 3, 3, 4, 4, 4, 5]
    series = exposed(metrics)
    assert series[f"{name}_count", ()] == 5
    assert series[f"{name}_sum", ()] == pytest.approx(100.50101)


@pytest.mark.parametrize("index", range(len(LATENCY_BOUNDS)))
def test_a_duration_of_exactly_a_bound_belongs_to_its_bucket(index: int) -> None:
    """`le` means less or equal."""
    latency = Latency()
    latency.observe(LATENCY_BOUNDS[index])
    assert latency.counts[index] == 1


@pytest.mark.parametrize("seconds", [0.0, 10.0001, 1e9])
def test_any_duration_falls_into_a_bucket(seconds: float) -> None:
    latency = Latency()
    latency.observe(seconds)
    assert sum(latency.counts) == 1


def test_the_bounds_rise() -> None:
    assert list(LATENCY_BOUNDS) == sorted(set(LATENCY_BOUNDS))


# -- of a process


def test_the_metrics_of_the_process_are_made_once_and_in_the_default_registry() -> None:
    metrics = process_metrics()
    assert process_metrics() is metrics
    text = generate_latest(REGISTRY).decode()
    assert text.count("# TYPE isolation_violations_total counter") == 1
    assert a_manager(metrics=None).metrics is metrics


async def test_the_number_of_series_does_not_grow_with_users_events_and_runs() -> None:
    metrics = Metrics()
    before = exposed(metrics)
    async with a_manager(metrics=metrics) as manager:
        tabs = []
        for number in range(30):
            user_id = f"a-user-{number}"
            tab = await Tab.open(manager, user_id, f"a-tab-{number}", v1=number % 2 == 0)
            await manager.get_emitter(user_id).emit(f"a-type-{number}", {"a-key": number}, run_id=f"a-run-{number}")
            tabs.append(tab)
        for tab in tabs:
            await tab.has(1)
        after = exposed(metrics)
        assert after.keys() == before.keys()
        assert after["websocket_events_appended_total", ()] == 30
        assert after["websocket_events_delivered_total", ()] == 30
        assert after["websocket_connections", ()] == 30
        for tab in tabs:
            await tab.cut()
        assert exposed(metrics)["websocket_connections", ()] == 0
    registry = CollectorRegistry()
    metrics.register(registry)
    assert "a-" not in generate_latest(registry).decode()
