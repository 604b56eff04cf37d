"""Measure the API and the index for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["Metrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """Hold the measurements of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "tribute_api_requests",
            "Requests answered.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "tribute_api_request_seconds",
            "From a request's first byte to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.streams = Gauge(
            "tribute_api_streams", "Clients that listen to events.", registry=self.registry
        )
        self.head = Gauge(
            "tribute_index_head_block", "Newest block of the chain.", registry=self.registry
        )
        self.block = Gauge(
            "tribute_index_block", "Newest block in the index.", registry=self.registry
        )
        self.lag = Gauge(
            "tribute_index_lag_blocks", "Blocks behind the head.", registry=self.registry
        )
        self.failing = Gauge(
            "tribute_index_failing", "1 while the chain cannot be followed.", registry=self.registry
        )
        self.events = Counter("tribute_index_events", "Events taken in.", registry=self.registry)
        self.reorganisations = Gauge(
            "tribute_index_reorganisations", "Reorganisations met.", registry=self.registry
        )

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Note a request."""
        known = method if method in ("GET", "HEAD", "POST", "OPTIONS") else "other"
        self._requests.labels(known, route, str(status)).inc()
        if route != "/v1/events":
            self._seconds.labels(route).observe(seconds)

    def followed(self, head: int, block: int, reorganisations: int | None = None) -> None:
        """Note how far the index has come."""
        self.head.set(head)
        self.block.set(block)
        self.lag.set(max(0, head - block))
        if reorganisations is not None:
            self.reorganisations.set(reorganisations)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)
