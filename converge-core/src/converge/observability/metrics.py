"""Counters and gauges in memory, in the text form that Prometheus scrapes."""

from __future__ import annotations

import logging
import re
import threading
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from attrs import define, field

from converge.observability.errors import MetricError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["CONTENT_TYPE", "DROPPED", "SOURCE_FAILURES", "Family", "MetricsCollector", "Sample", "format_families"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""The media type of `MetricsCollector.format_prometheus`."""

DROPPED: Final = "converge_metrics_dropped_total"
"""The counter of what was not recorded because a bound was reached."""

SOURCE_FAILURES: Final = "converge_metrics_source_failures_total"
"""The counter of sources that could not say what they have."""

_MAX_LABEL_VALUE = 256
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*", re.ASCII)
_LABEL_NAME = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})

_Kind: TypeAlias = Literal["counter", "gauge"]
_Labels: TypeAlias = tuple[tuple[str, str], ...]
_log = logging.getLogger(__name__)


class Sample(NamedTuple):
    """One value that a source gives; what has the same name and labels is added up."""

    name: str
    value: float
    kind: _Kind = "counter"
    labels: tuple[tuple[str, str], ...] = ()


class Family(NamedTuple):
    """All values of one name: by labels, sorted."""

    name: str
    kind: _Kind
    series: list[tuple[tuple[tuple[str, str], ...], float]]


@define
class _Metric:
    kind: _Kind
    series: dict[_Labels, float] = field(factory=dict)


class MetricsCollector:
    """Counters and gauges by name and labels. Thread-safe.

    Names and label names are those of Prometheus (`[a-zA-Z_:][a-zA-Z0-9_:]*`; no colon in a label's). Memory is
    bounded: beyond `max_names` metrics, or `max_series` combinations of labels in one metric, what is new is not
    recorded but counted in `converge_metrics_dropped_total`; what is there goes on. A label value is cut after 256
    characters. A bad name, label or value is a `MetricError` (ValueError).

    What is counted elsewhere is asked for when somebody looks: see `add_source`.
    """

    def __init__(self, *, max_names: int = 500, max_series: int = 1_000) -> None:
        self._max_names, self._max_series = max_names, max_series
        self._metrics: dict[str, _Metric] = {}
        self._lock = threading.Lock()
        self._sources: tuple[Callable[[], Iterable[Sample]], ...] = ()

    def add_source(self, source: Callable[[], Iterable[Sample]]) -> Callable[[], None]:
        """Ask `source` for samples at each look, until what is returned is called.

        It is called in the thread of who looks, and must be quick. Samples of the same name and labels, also of several
        sources, are added up. One that raises, or gives what is no sample, is logged and counted in
        `converge_metrics_source_failures_total`; the other sources are shown.
        """
        with self._lock:
            self._sources = (*self._sources, source)

        def remove() -> None:
            with self._lock:
                self._sources = tuple(one for one in self._sources if one is not source)

        return remove

    def inc(self, name: str, value: float = 1, labels: Mapping[str, str] | None = None) -> None:
        """Add `value`, finite and not negative, to a counter; one that is new starts at 0."""
        if not _is_finite(value) or value < 0:
            raise MetricError(f"{name}: a counter cannot grow by {value!r}; add a finite number, at least 0")
        key = _key(labels) if labels else ()
        with self._lock:
            series = self._series(name, "counter", key)
            if series is not None:
                series[key] = series.get(key, 0) + value

    def gauge(self, name: str, value: float, labels: Mapping[str, str] | None = None) -> None:
        """Set a gauge to `value`, which is finite."""
        if not _is_finite(value):
            raise MetricError(f"{name}: a gauge cannot be {value!r}; set it to a finite number")
        key = _key(labels) if labels else ()
        with self._lock:
            series = self._series(name, "gauge", key)
            if series is not None:
                series[key] = value

    def collect(self) -> list[Family]:
        """All values now, those of the sources included, sorted."""
        asked = MetricsCollector(max_names=self._max_names, max_series=self._max_series)
        for source in self._sources:
            try:
                asked._add(source())
            except Exception:  # noqa: BLE001  # one source must not keep the others from being shown
                self.inc(SOURCE_FAILURES)
                _log.warning("a source of metrics has failed", exc_info=True)
        with self._lock:
            metrics = {name: (metric.kind, dict(metric.series)) for name, metric in self._metrics.items()}
        for name, metric in asked._metrics.items():
            kind, series = metrics.setdefault(name, (metric.kind, {}))
            if kind == metric.kind:
                for labels, value in metric.series.items():
                    series[labels] = series.get(labels, 0) + value
        return [Family(name, kind, sorted(series.items())) for name, (kind, series) in sorted(metrics.items())]

    def snapshot(self) -> dict[str, dict[str, float]]:
        """All values now, as `{"counters": {name: value}, "gauges": {name: value}}`.

        A name with labels is written as Prometheus does: `sent{kind="direct"}`.
        """
        values: dict[str, dict[str, float]] = {"counters": {}, "gauges": {}}
        for name, kind, series in self.collect():
            values[f"{kind}s"].update((name + _braces(labels), value) for labels, value in series)
        return values

    def series(self) -> list[tuple[str, Literal["counter", "gauge"], dict[str, str], float]]:
        """All values now, each as name, kind, labels and value; those of one name follow each other."""
        return [(name, kind, dict(labels), value) for name, kind, series in self.collect() for labels, value in series]

    def format_prometheus(self) -> str:
        """All values now in the Prometheus text exposition format, version 0.0.4, sorted; see `CONTENT_TYPE`."""
        return format_families(self.collect())

    def _add(self, samples: Iterable[Sample]) -> None:
        for name, value, kind, labels in samples:
            if not _is_finite(value):
                raise MetricError(f"{name} cannot be {value!r}; a sample is a finite number")
            key = _key(dict(labels)) if labels else ()
            series = self._series(name, kind, key)
            if series is not None:
                series[key] = series.get(key, 0) + value

    def _series(self, name: str, kind: _Kind, key: _Labels) -> dict[_Labels, float] | None:
        """Where the value goes; None when a bound was reached."""
        metric = self._metrics.get(name)
        if metric is None:
            if not _NAME.fullmatch(name):
                raise MetricError(f"{name!r} is not the name of a metric; use letters, digits, _ and :, no digit first")
            if len(self._metrics) - (DROPPED in self._metrics) >= self._max_names and name != DROPPED:
                self._drop()
                return None
            metric = self._metrics[name] = _Metric(kind)
        elif metric.kind != kind:
            raise MetricError(f"{name} is a {metric.kind} and cannot be used as a {kind}; choose another name")
        if key not in metric.series and len(metric.series) >= self._max_series:
            self._drop()
            return None
        return metric.series

    def _drop(self) -> None:
        dropped = self._metrics.setdefault(DROPPED, _Metric("counter"))
        dropped.series[()] = dropped.series.get((), 0) + 1


def format_families(families: Iterable[Family]) -> str:
    """`families` in the Prometheus text exposition format, version 0.0.4."""
    lines: list[str] = []
    for name, kind, series in families:
        lines.append(f"# TYPE {name} {kind}")
        lines.extend(f"{name}{_braces(labels)} {_number(value)}" for labels, value in series)
    return "".join(f"{line}\n" for line in lines)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -float("inf") < value < float("inf")


def _key(labels: Mapping[str, str]) -> _Labels:
    for name, value in labels.items():
        if not _LABEL_NAME.fullmatch(name):
            raise MetricError(
                f"{name!r} is not the name of a label; use letters, digits and _, no digit and no __ first"
            )
        if not isinstance(value, str):
            raise MetricError(f"the label {name} is {value!r}; a label's value is a str")
    return tuple(sorted((name, _cut(value)) for name, value in labels.items()))


def _cut(value: str) -> str:
    return value[:_MAX_LABEL_VALUE].encode(errors="backslashreplace").decode()


def _braces(labels: _Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels) + "}"


def _number(value: float) -> str:
    return "+Inf" if value == float("inf") else str(value)
