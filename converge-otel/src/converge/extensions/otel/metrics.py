"""The way of metrics: what the collector of the process has counted, as OpenTelemetry's observable instruments."""

from __future__ import annotations

import logging
import math
import re
import threading
from typing import TYPE_CHECKING, Literal

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import Observation
from opentelemetry.sdk.environment_variables import OTEL_METRIC_EXPORT_INTERVAL
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

from converge.extensions.otel.environment import positive_number

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.metrics import CallbackOptions
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    from converge.observability.metrics import MetricsCollector

__all__ = ["MetricPipeline", "instrument_name"]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.\-/]{0,254}", re.ASCII)  # of an instrument, by the specification
_INTERVAL_MS = 60_000  # the specification's default
_SHUTDOWN_MS = 200
_log = logging.getLogger(__name__)


def instrument_name(name: str, kind: Literal["counter", "gauge"]) -> str | None:
    """What OpenTelemetry calls a metric that has a Prometheus name, without `_total`; None when it cannot be said."""
    if kind == "counter":
        name = name.removesuffix("_total")
    name = name.replace(":", ".").lstrip("_.")
    return name if _NAME.fullmatch(name) else None


class MetricPipeline:
    """Pushes all that `metrics` counts every `interval_sec` seconds, from a thread of its own. Counters are cumulative.

    The SDK's own thread would not do: instruments have to be there before a collection, and new counters appear at any
    time.
    """

    def __init__(
        self,
        endpoint: str | None,
        headers: dict[str, str],
        interval_sec: float | None,
        resource: Resource,
        scope: InstrumentationScope,
        metrics: MetricsCollector,
    ) -> None:
        self._metrics = metrics
        self._names: dict[str, str | None] = {}
        self._values: dict[str, list[Observation]] = {}
        if interval_sec is None:
            interval_sec = positive_number(OTEL_METRIC_EXPORT_INTERVAL, _INTERVAL_MS) / 1_000
        self._interval = interval_sec
        exporter = OTLPMetricExporter(endpoint and f"{endpoint}/v1/metrics", headers=headers)
        self._reader = PeriodicExportingMetricReader(exporter, export_interval_millis=math.inf)
        self._provider = MeterProvider([self._reader], resource, shutdown_on_exit=False)
        self._meter = self._provider.get_meter(scope.name, scope.version)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._push_again_and_again, name="converge-otel-metrics", daemon=True)
        self._thread.start()

    def shutdown(self, timeout_sec: float) -> None:
        """Push a last time, and end the thread; an unreachable collector is given up after `timeout_sec`."""
        self._over.set()
        self._thread.join(timeout_sec)
        self._provider.shutdown(_SHUTDOWN_MS)  # there is nothing left to be waited for: this wakes a retry
        self._thread.join(_SHUTDOWN_MS / 1_000)

    def _push_again_and_again(self) -> None:
        over = False
        while not over:
            over = self._over.wait(self._interval)
            try:
                self._look()
                self._reader.collect()
            except Exception:  # noqa: BLE001  # told in the log; the next push may succeed
                _log.warning("the metrics could not be pushed", exc_info=True)

    def _look(self) -> None:
        """Take the values that the instruments show, and make those instruments that are missing."""
        values: dict[str, list[Observation]] = {}
        for name, kind, labels, value in self._metrics.series():
            if name not in self._names:
                self._names[name] = self._instrument(name, kind)
            if (instrument := self._names[name]) is not None:
                values.setdefault(instrument, []).append(Observation(value, labels))
        self._values = values

    def _instrument(self, name: str, kind: Literal["counter", "gauge"]) -> str | None:
        instrument = instrument_name(name, kind)
        if instrument is None or instrument in self._names.values():
            _log.warning("the metric %r has no name of its own in OpenTelemetry and is not pushed", name)
            return None

        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return self._values.get(instrument, ())

        if kind == "counter":
            self._meter.create_observable_counter(instrument, [observe])
        else:
            self._meter.create_observable_gauge(instrument, [observe])
        return instrument
