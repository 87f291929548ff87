"""What is bounded, and by how much: `Limits`, `Retention` and `RetryPolicy`.

All are frozen values that check themselves when they are made. Durations are seconds, sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from websocket_core.errors import InvalidConfiguration


def _check_positive(value: object) -> None:
    """Refuse every numeric field of `value` that is not a finite number above zero."""
    for field in fields(value):  # type: ignore[arg-type]
        number = getattr(value, field.name)
        name = f"{type(value).__name__}.{field.name}"
        wanted = float if field.type == "float" else int
        if isinstance(number, bool) or not isinstance(number, (int, wanted)):
            raise InvalidConfiguration(f"{name} must be a number, not {type(number).__name__}")
        if not 0 < number < float("inf"):
            raise InvalidConfiguration(f"{name} must be above zero and finite, not {number!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of one manager.

    Raises `InvalidConfiguration` when a value is not a finite number above zero.
    """

    connections_per_user: int = 10
    """Above it, the user's own oldest connection by arrival is closed with 4409. Of all processes that share a log."""
    connections: int = 10_000
    """Above it, the newcomer is refused with 1013."""
    connections_per_address: int = 10_000
    """Above it, a newcomer from the same address (IPv6: from the same /64) is refused with HTTP 429. As many as in all
    until it is set, since behind a proxy that is not trusted everybody has the proxy's address."""
    handshakes: int = 500
    """How many connections may be in the making at once; above it, newcomers are refused with HTTP 503."""
    frame_bytes: int = 65_536
    """The largest frame that a client may send."""
    event_bytes: int = 262_144
    """The largest encoded event. Below 16 KiB, the end of a run with the longest names and ids may not fit."""
    event_depth: int = 100
    """How deeply the data of an event, or a frame of a client, may be nested."""
    heartbeat: float = 25.0
    """Seconds from one `ping` to the next; each one also compares the position with the log."""
    heartbeat_timeout: float = 20.0
    """Seconds within which a `unified-websocket.v1` client answers a `ping`."""
    write_timeout: float = 10.0
    """Seconds within which one write to a socket finishes; seen at the next sweep."""
    auth_timeout: float = 5.0
    """Seconds that an accepted socket has to send its `auth` frame."""
    unauthenticated: int = 1_000
    """How many accepted sockets may wait for their `auth` frame at once."""
    unauthenticated_per_address: int = 200
    """How many of them from one address (IPv6: from one /64)."""
    frames_per_second: float = 50.0
    """How many frames one client may send for long; four times as many may come at once. Above it, 4429."""
    bytes_per_second: float = 65_536.0
    """How many bytes in frames one client may send for long; four times as many may come at once. Above it, 4429."""
    expiry_grace: float = 5.0
    """Seconds that a socket may outlive its token."""
    topics: int = 100
    """How many topics one connection may follow."""
    outbox: int = 10_000
    """How many events of one user may wait for a log that is away."""
    outbox_bytes: int = 16_777_216
    """How many bytes of events of one user may wait for a log that is away."""
    known_connections: int = 1_000
    """How many connection ids of one user are remembered; the longest unused goes first."""
    batch_events: int = 256
    """How many events are read for a connection at once."""
    batch_bytes: int = 262_144
    """The size of a frame above which no further event joins it."""
    burst_frames: int = 4
    """How many frames within `burst_window` go at once to a client that takes several events in one; what comes after
    them shares a frame at the window's end."""
    burst_window: float = 0.02
    """Seconds; also the longest that an event waits for company."""
    busy_events: int = 5_000
    """With more events per second than this in one process, only the first frame of a `busy_window` goes at once."""
    busy_window: float = 0.05
    """Seconds; takes the place of a shorter `burst_window` then."""
    lease: float = 30.0
    """Seconds after which a run whose process does not renew its lease is lost; it is renewed three times in them. Only
    where processes share a log."""
    sweep_interval: float = 1.0
    """Seconds between two looks at all connections for stale ones."""
    shutdown_timeout: float = 10.0
    """Seconds that `shutdown()` spends on delivering what was emitted before it."""
    check_interval: float = 2.0
    """Seconds between two questions to the log whether it is there. An answer may take half as long."""
    degraded_after: float = 5.0
    """Seconds without an answer of the log after which clients are told `degraded`."""
    snapshot_timeout: float = 5.0
    """Seconds that the `snapshot` hook may take; a gap is told without a snapshot after that."""

    def __post_init__(self) -> None:
        _check_positive(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How much of each log is kept. What goes first is always the oldest.

    Raises `InvalidConfiguration` when a value is not a finite number above zero.
    """

    events: int = 5_000
    """Events per log."""
    bytes: int = 2_097_152
    """Encoded bytes per log."""
    age: float = 3_600.0
    """Seconds that an event is kept."""
    total_bytes: int = 536_870_912
    """All logs in memory together, with what entries and logs, empty ones too, cost beside their bytes. The largest is
    trimmed first; all empty ones that nobody watches count as one. Only the event appended last may stand above it."""
    heads: int = 100_000
    """How many empty logs in memory are remembered beside those that somebody watches; the longest unused forgets its
    epoch first."""

    def __post_init__(self) -> None:
        _check_positive(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How an append that failed is tried again: exponential back-off with full jitter.

    Before attempt n + 1 it waits a random time between 0 and `min(maximum, initial * 2 ** (n - 1))` seconds, as in
    "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).
    """

    attempts: int = 5
    """Attempts in all, the first included."""
    seconds: float = 10.0
    """No attempt starts later than this after the first."""
    initial: float = 0.05
    maximum: float = 2.0

    def __post_init__(self) -> None:
        _check_positive(self)
