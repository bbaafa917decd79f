"""What the server tells Prometheus: requests, seconds, which model answered, what was down."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from recspect.serving.answering import POPULAR, Answer

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Bounds of the histogram of seconds."""


class Figures:
    """Counters of one server, in a registry of its own, so that two servers in one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("recspect_requests", "Requests by path and status", ("path", "status"), registry=self.registry)
        self.seconds = Histogram("recspect_request_seconds", "Seconds per request by path", ("path",), buckets=SECONDS, registry=self.registry)
        self.lists = Counter("recspect_lists", "Lists by model and arm", ("model", "arm"), registry=self.registry)
        self.fallbacks = Counter("recspect_fallbacks", "Lists of popular items, since the model could not answer", registry=self.registry)
        self.degraded = Counter("recspect_degraded", "Lists that were made without something that was down", registry=self.registry)

    def told(self, answer: Answer) -> None:
        """Count a list."""
        self.lists.labels(answer.model, answer.arm).inc()
        if answer.model == POPULAR:
            self.fallbacks.inc()
        if answer.degraded:
            self.degraded.inc()

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        Gauge(f"recspect_{name}", what, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
