"""What became of the spans."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from converge.observability.metrics import MetricsCollector

__all__ = ["Counts", "Fate"]

Fate = Literal["exported", "dropped", "failed"]
"""Taken by the collector; not even queued, because the queue was full; sent in vain."""


class Counts:
    """Counts spans by their fate, here and in the process's metrics. Thread-safe."""

    def __init__(self, metrics: MetricsCollector | None) -> None:
        self._metrics = metrics
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, fate: Fate, spans: int) -> None:
        """Count `spans` more."""
        with self._lock:
            self._counts[f"spans_{fate}"] += spans
        if self._metrics is not None:
            self._metrics.inc(f"converge_otel_spans_{fate}_total", spans)

    def snapshot(self) -> Counter[str]:
        """The counts now."""
        with self._lock:
            return Counter(self._counts)
