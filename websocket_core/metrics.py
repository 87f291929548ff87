"""The Prometheus metrics, all in one place.

On the hot path a metric is a plain integer or a bucket count in a slot; prometheus-client reads them when it is
scraped. No series carries a user, a connection, a run, a topic or a token, so their number is constant.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from functools import cache
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

LATENCY_BOUNDS: Final = (
    0.000_025, 0.000_1, 0.000_25, 0.001, 0.002_5, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0,
)  # fmt: skip
"""Upper bounds of the latency buckets, in seconds."""


class Latency:
    """A histogram of durations in seconds."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BOUNDS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(LATENCY_BOUNDS, seconds)] += 1
        self.sum += seconds

    def family(self, name: str, documentation: str) -> HistogramMetricFamily:
        buckets: list[tuple[str, float]] = []
        total = 0
        for bound, count in zip((*map(str, LATENCY_BOUNDS), "+Inf"), self.counts, strict=True):
            total += count
            buckets.append((bound, total))
        return HistogramMetricFamily(name, documentation, buckets=buckets, sum_value=self.sum)


_COUNTERS: Final = {
    "events_appended": ("websocket_events_appended", "Events that a log acknowledged."),
    "events_delivered": ("websocket_events_delivered", "Events written to a socket."),
    "events_dropped": ("websocket_events_dropped", "Events of agent runs that did not fit in an outbox."),
    "retries": ("websocket_append_retries", "Further attempts at an append that failed."),
    "append_failures": ("websocket_append_failures", "Appends whose every attempt was spent."),
    "gaps": ("websocket_gaps", "Gaps told to clients."),
    "evictions": ("websocket_evictions", "Connections closed to make room for a newer one of the same user."),
    "evictions_failed": (
        "websocket_evictions_failed",
        "Connections of other processes that could not be ordered to make room.",
    ),
    "refusals": ("websocket_refusals", "Connections refused because of a limit."),
    "stale": (
        "websocket_stale_connections",
        "Connections closed because a write or an answer took too long.",
    ),
    "uncut": (
        "websocket_uncut_connections",
        "Connections that were given up while their socket stayed, because the server offers no way to cut it.",
    ),
    "feed_replacements": (
        "websocket_feed_replacements",
        "Subscribers of a shared log that heard nothing any more, or were cut off, and were replaced.",
    ),
    "foreign_entries": (
        "websocket_foreign_entries",
        "Times that something in a shared log, which no process here wrote so, was passed over.",
    ),
    "outages": ("websocket_log_outages", "Times that the log was away for so long that clients were told."),
    "runs_lost": ("websocket_runs_lost", "Agent runs of processes that were gone, which this process has ended."),
    "commands_accepted": ("websocket_commands_accepted", "Commands that were taken for workers."),
    "commands_refused": ("websocket_commands_refused", "Commands that were refused because too many waited."),
    "commands_done": ("websocket_commands_done", "Commands whose handler returned."),
    "commands_retried": ("websocket_commands_retried", "Commands that failed and were to be tried again."),
    "commands_dead": ("websocket_commands_dead", "Commands that were given up."),
    "isolation_violations": (
        "isolation_violations",
        "Entries that came up for a connection that may not read them. Anything but 0 is a defect.",
    ),
}


class Metrics:
    """The counters of a process. Attributes are plain numbers; add to them."""

    __slots__ = (*_COUNTERS, "append_latency", "connections", "degraded", "delivery_latency", "loop_lag")

    events_appended: int
    events_delivered: int
    events_dropped: int
    retries: int
    append_failures: int
    gaps: int
    evictions: int
    evictions_failed: int
    refusals: int
    stale: int
    uncut: int
    feed_replacements: int
    foreign_entries: int
    outages: int
    runs_lost: int
    commands_accepted: int
    commands_refused: int
    commands_done: int
    commands_retried: int
    commands_dead: int
    isolation_violations: int

    def __init__(self) -> None:
        for name in _COUNTERS:
            setattr(self, name, 0)
        self.connections = self.degraded = 0
        self.append_latency = Latency()
        self.delivery_latency = Latency()
        self.loop_lag = Latency()

    def collect(self) -> Iterator[Metric]:
        """What prometheus-client reads at each scrape."""
        for attribute, (name, documentation) in _COUNTERS.items():
            yield CounterMetricFamily(name, documentation, value=getattr(self, attribute))
        yield GaugeMetricFamily("websocket_connections", "Open connections.", value=self.connections)
        yield GaugeMetricFamily("websocket_degraded", "Managers whose log is away.", value=self.degraded)
        yield self.append_latency.family(
            "websocket_append_seconds", "From the call to the log's acknowledgement, of one append in sixteen."
        )
        yield self.delivery_latency.family(
            "websocket_delivery_seconds", "From the append of a frame's oldest event to the end of its write."
        )
        yield self.loop_lag.family(
            "websocket_loop_lag_seconds", "How much later than asked the event loop came to each sweep."
        )

    def register(self, registry: CollectorRegistry) -> None:
        """Show these metrics in `registry` from now on."""
        registry.register(self)


@cache
def process_metrics() -> Metrics:
    """The metrics of this process, registered with prometheus-client's default registry on the first call."""
    metrics = Metrics()
    metrics.register(REGISTRY)
    return metrics
