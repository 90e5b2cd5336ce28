"""Settings of the inference server's batching and channels."""

from __future__ import annotations

from dataclasses import dataclass

from grove.common.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """How rows are gathered into batches and how clients are held to their promises."""

    max_batch: int = 512
    """Rows of the largest batch (top bucket). 512: a fifth more rows/s than 256 on a CPU core, and little beyond it."""
    lanes: int = 0
    """Lanes to run. 0: one per CUDA device, or one single-threaded lane a core on CPU (faster than one wide lane)."""
    max_delay_us: int = 5000
    """Microseconds the oldest row may wait while a lane is free. 5000: about one CPU batch; only the safety net."""
    idle_after_ms: int = 100
    """Milliseconds after which a client that owes rows but sends none stops holding up batches. 100: twenty delays."""
    min_share_rows: int = 32
    """Fewest rows worth a lane of their own when rows are shared among lanes. 32: below it overhead rules."""
    max_window: int = 64
    """Requests one client may have outstanding; bounds the server's memory. 64: 32 times the two that hide latency."""
    max_request_rows: int = 4096
    """Rows of one request. 4096: eight top buckets, far above one group of games."""
    max_message_mb: int = 64
    """Megabytes of one received message frame; larger ones end their connection. 64: 4096 rows of 16 kB."""
    max_clients: int = 1024
    """Clients of one channel. 1024: dozens of machines; each costs a descriptor and what its window may hold."""
    forget_after_s: int = 60
    """Seconds without a word after which a client is forgotten. 60: longer than a reconnection, shorter than a leak."""
    hang_after_s: int = 120
    """Seconds a batch may be under way without progress before the server gives its lane up and ends, to be started
    again. 120: far above the slowest batch of a large network on one core."""
    deterministic: bool = False
    """One fixed bucket, so that a row's result does not depend on its company; slower, hence off."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            SettingError: a value out of range; the text names it, its limit and the remedy.
        """
        for name, low, high in _LIMITS:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise SettingError.of(
                    name, value, f"it must be a whole number from {low} to {high}", "choose one of them"
                )


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Where the server finds new models while it works."""

    watch_models: str | None = None
    """Folder whose newest model file is served (docs/guide/models.md). By default a run watches its own, RUN/models."""


@dataclass(frozen=True, kw_only=True)
class MetricsSettings:
    """Where the server tells its figures to Prometheus."""

    metrics_port: int = 0
    """Port of the server's /metrics on 127.0.0.1, see docs/reference/metrics.md. 0: none, which is usual."""

    def __post_init__(self) -> None:
        """Refuse what is no port.

        Raises:
            SettingError: a value out of range.
        """
        if not 0 <= self.metrics_port <= 65535:
            raise SettingError.of("metrics_port", self.metrics_port, "it must lie in 0..65535", "choose a free port")


_LIMITS: tuple[tuple[str, int, int], ...] = (
    ("max_batch", 1, 65536),
    ("lanes", 0, 1024),
    ("max_delay_us", 0, 60_000_000),
    ("idle_after_ms", 1, 3_600_000),
    ("min_share_rows", 1, 65536),
    ("max_window", 1, 512),  # below ZeroMQ's default high-water mark of 1000 messages a peer
    ("max_request_rows", 1, 1 << 20),
    ("max_message_mb", 1, 1024),
    ("max_clients", 1, 65536),
    ("forget_after_s", 1, 86_400),
    ("hang_after_s", 1, 86_400),
)
