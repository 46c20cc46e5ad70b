"""What the process counts, as it arrives at the collector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from converge.extensions.otel import OpenTelemetry
from converge.extensions.otel.metrics import instrument_name
from converge.observability.metrics import MetricsCollector
from converge.observability.tracing import trace

if TYPE_CHECKING:
    from tests.otel.collector import Collector


def test_counters_and_gauges_arrive_with_their_labels_when_it_stops(collector: Collector) -> None:
    metrics = MetricsCollector()
    metrics.inc("sent_total", 2, {"kind": "direct"})
    metrics.inc("sent_total", 1, {"kind": "topic"})
    metrics.gauge("depth", 0.5)
    with OpenTelemetry(collector.uri, metrics_collector=metrics), trace("step"):
        metrics.inc("late_total")
    found = {(point.name, point.kind, *point.labels.values()): point.value for point in collector.points}
    assert found.pop(("converge_otel_spans_exported", "sum"), 1) == 1  # if the spans were faster
    assert found == {
        ("sent", "sum", "direct"): 2,
        ("sent", "sum", "topic"): 1,
        ("depth", "gauge"): 0.5,
        ("late", "sum"): 1,
    }
    assert metrics.snapshot()["counters"]["converge_otel_spans_exported_total"] == 1


def test_what_is_new_is_pushed_at_the_next_interval(collector: Collector) -> None:
    metrics = MetricsCollector()
    with OpenTelemetry(collector.uri, traces=False, metrics_collector=metrics, metrics_interval_sec=0.05):
        metrics.inc("early_total")
        collector.wait_for(lambda: any(point.name == "early" for point in collector.points))
        metrics.inc("late_total")
        metrics.inc("early_total")
        collector.wait_for(lambda: {("late", 1), ("early", 2)} <= {(one.name, one.value) for one in collector.points})
    assert collector.spans == []


def test_the_interval_may_come_from_the_environment(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "50")
    metrics = MetricsCollector()
    metrics.inc("early_total")
    with OpenTelemetry(collector.uri, metrics_collector=metrics):
        collector.wait_for(lambda: bool(collector.points))


def test_metrics_can_be_left_out(collector: Collector) -> None:
    metrics = MetricsCollector()
    metrics.inc("early_total")
    with OpenTelemetry(collector.uri, metrics=False, metrics_collector=metrics):
        pass
    assert collector.requests == 0


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("a_total", "counter", "a"),
        ("a_total", "gauge", "a_total"),
        ("_a:b", "counter", "a.b"),
        ("_", "gauge", None),
        ("a" * 256, "gauge", None),
    ],
)
def test_names_of_prometheus_become_names_of_opentelemetry(name: str, kind: str, expected: str | None) -> None:
    assert instrument_name(name, "counter" if kind == "counter" else "gauge") == expected


def test_a_metric_without_a_name_of_its_own_is_left_out_and_told(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = MetricsCollector()
    metrics.inc("a_total")
    metrics.gauge("a", 7)
    with OpenTelemetry(collector.uri, metrics_collector=metrics):
        pass
    assert [(point.name, point.value) for point in collector.points] == [("a", 7)]  # the names are sorted
    assert caplog.text.count("'a_total'") == 1


def test_a_collector_that_is_away_does_not_keep_it_from_stopping() -> None:
    metrics = MetricsCollector()
    metrics.inc("a_total")
    with OpenTelemetry("http://127.0.0.1:9", metrics_collector=metrics, flush_timeout_sec=0.3):
        pass
