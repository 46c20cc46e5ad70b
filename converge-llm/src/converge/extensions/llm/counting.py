"""What an agent counts: for whoever looks at the agent, and in the metrics where there are some."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.observability.metrics import MetricsCollector

__all__ = ["Counts"]

_log = logging.getLogger(__name__)


class Counts:
    """Counters by name, without labels in `values`; in `metrics` as `converge_llm_<name>_total`, with labels."""

    def __init__(self, metrics: Callable[[], MetricsCollector | None]) -> None:
        self.values: Counter[str] = Counter()
        self._metrics = metrics

    def add(self, name: str, value: float = 1, **labels: str) -> None:
        """Count `value` more."""
        if not value:
            return
        self.values[name] += value  # type: ignore[assignment]  # money is no int, and a Counter does not mind
        for label in labels.values():
            self.values[f"{name}:{label}"] += value  # type: ignore[assignment]  # as above
        metrics = self._metrics()
        if metrics is None:
            return
        try:
            metrics.inc(f"converge_llm_{name}_total", value, labels)
        except Exception:  # noqa: BLE001  # a collector is the application's; counting must not cost a decision
            _log.exception("converge_llm_%s_total could not be counted", name)
