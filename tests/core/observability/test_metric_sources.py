"""What is counted elsewhere, and asked for when somebody looks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from converge.observability.metrics import DROPPED, SOURCE_FAILURES, MetricsCollector, Sample

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_samples_of_sources_and_what_was_counted_here_are_added_up() -> None:
    metrics = MetricsCollector()
    metrics.inc("lost_total", 1)
    metrics.gauge("there", 5)
    metrics.add_source(lambda: [Sample("lost_total", 2), Sample("lost_total", 3, labels=(("by", "x"),))])
    remove = metrics.add_source(lambda: [Sample("lost_total", 4), Sample("there", 1, "gauge")])
    assert metrics.snapshot() == {"counters": {"lost_total": 7, 'lost_total{by="x"}': 3}, "gauges": {"there": 6}}
    assert metrics.snapshot()["counters"]["lost_total"] == 7, "looking changes nothing"
    remove()
    remove()
    assert metrics.snapshot()["counters"]["lost_total"] == 3
    assert ("lost_total", "counter", {"by": "x"}, 3) in metrics.series()


def failing() -> Iterator[Sample]:
    yield Sample("begun_total", 1)
    raise LookupError("away")


@pytest.mark.parametrize(
    "source",
    [failing, lambda: 1 / 0, lambda: [Sample("x", float("nan"))], lambda: [("x",)], lambda: [Sample("bad name", 1)]],
)
def test_a_source_that_fails_is_counted_and_the_others_are_shown(source: Any, caplog: Any) -> None:
    metrics = MetricsCollector()
    metrics.add_source(source)
    metrics.add_source(lambda: [Sample("good_total", 1)])
    assert metrics.snapshot()["counters"]["good_total"] == 1
    assert metrics.snapshot()["counters"][SOURCE_FAILURES] >= 1
    assert "a source of metrics has failed" in caplog.text


def test_sources_are_bounded_too() -> None:
    metrics = MetricsCollector(max_names=2, max_series=2)
    metrics.add_source(lambda: [Sample("n_total", 1, labels=(("n", str(n)),)) for n in range(5)])
    shown = metrics.snapshot()["counters"]
    assert len([name for name in shown if name.startswith("n_total")]) == 2
    assert shown[DROPPED] == 3


def test_a_source_cannot_change_what_a_name_means() -> None:
    metrics = MetricsCollector()
    metrics.inc("x_total")
    metrics.add_source(lambda: [Sample("x_total", 5, "gauge")])
    assert metrics.snapshot() == {"counters": {"x_total": 1}, "gauges": {}}
