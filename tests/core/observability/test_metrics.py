from __future__ import annotations

import math
import re
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converge.observability.errors import MetricError
from converge.observability.metrics import DROPPED, MetricsCollector

LINE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"\})? (\S+)')
NO_NUMBERS = [math.nan, math.inf, -math.inf, True, "1", None]


@pytest.fixture
def metrics() -> MetricsCollector:
    return MetricsCollector()


def test_a_counter_adds_up_and_a_gauge_is_set(metrics: MetricsCollector) -> None:
    metrics.inc("sent")
    metrics.inc("sent", 2)
    metrics.gauge("depth", 7)
    metrics.gauge("depth", -1.5)
    assert metrics.snapshot() == {"counters": {"sent": 3}, "gauges": {"depth": -1.5}}


def test_labels_make_series_of_their_own_whatever_their_order(metrics: MetricsCollector) -> None:
    metrics.inc("sent", labels={"kind": "direct", "to": "a"})
    metrics.inc("sent", labels={"to": "a", "kind": "direct"})
    metrics.inc("sent")
    assert metrics.snapshot()["counters"] == {"sent": 1, 'sent{kind="direct",to="a"}': 2}


def test_a_snapshot_is_not_changed_by_what_comes_later(metrics: MetricsCollector) -> None:
    metrics.inc("sent")
    before = metrics.snapshot()
    metrics.inc("sent")
    assert before["counters"]["sent"] == 1


def test_prometheus_text_is_sorted_and_typed(metrics: MetricsCollector) -> None:
    metrics.inc("b_total", 1.5, {"kind": "y"})
    metrics.inc("b_total", labels={"kind": "x"})
    metrics.gauge("a", 2)
    assert metrics.format_prometheus() == (
        '# TYPE a gauge\na 2\n# TYPE b_total counter\nb_total{kind="x"} 1\nb_total{kind="y"} 1.5\n'
    )


def test_no_metrics_are_an_empty_text(metrics: MetricsCollector) -> None:
    assert metrics.format_prometheus() == ""
    assert metrics.snapshot() == {"counters": {}, "gauges": {}}


@given(value=st.text(max_size=40))
def test_any_label_value_stays_on_its_line_and_can_be_read_back(value: str) -> None:
    metrics = MetricsCollector()
    metrics.inc("m", labels={"l": value})
    kind, line, end = metrics.format_prometheus().split("\n")
    assert (kind, end) == ("# TYPE m counter", "")
    found = LINE.fullmatch(line)
    assert found
    assert found.group(1, 2, 4) == ("m", "l", "1")
    raw = found[3].replace("\\\\", "\0").replace("\\n", "\n").replace('\\"', '"').replace("\0", "\\")
    assert raw == value.encode(errors="backslashreplace").decode().replace("\0", "\\")


def test_a_long_label_value_is_cut(metrics: MetricsCollector) -> None:
    metrics.inc("m", labels={"l": "x" * 1000})
    assert list(metrics.snapshot()["counters"]) == ['m{l="' + "x" * 256 + '"}']


@pytest.mark.parametrize("value", [*NO_NUMBERS, -1])
def test_a_counter_refuses_what_cannot_be_added(metrics: MetricsCollector, value: Any) -> None:
    with pytest.raises(MetricError, match="sent"):
        metrics.inc("sent", value)
    assert metrics.snapshot()["counters"] == {}


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_a_gauge_refuses_what_is_no_finite_number(metrics: MetricsCollector, value: Any) -> None:
    with pytest.raises(MetricError, match="depth"):
        metrics.gauge("depth", value)


@pytest.mark.parametrize("name", ["", "1a", "a.b", "a b", "a\n", "a{}", "ä", "a-b"])
def test_a_bad_name_is_refused(metrics: MetricsCollector, name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a metric"):
        metrics.inc(name)
    with pytest.raises(ValueError, match="not the name of a metric"):
        metrics.gauge(name, 1)


@pytest.mark.parametrize("name", ["", "1a", "a:b", "__name", "a\n"])
def test_a_bad_label_is_refused(metrics: MetricsCollector, name: str) -> None:
    with pytest.raises(MetricError, match="not the name of a label"):
        metrics.inc("m", labels={name: "x"})


def test_a_label_value_is_a_str(metrics: MetricsCollector) -> None:
    labels: Any = {"l": 1}
    with pytest.raises(MetricError, match="l is 1"):
        metrics.inc("m", labels=labels)


def test_one_name_is_not_counter_and_gauge(metrics: MetricsCollector) -> None:
    metrics.inc("m")
    with pytest.raises(MetricError, match="choose another name"):
        metrics.gauge("m", 1)


def test_series_and_names_are_bounded_and_what_is_dropped_is_counted() -> None:
    metrics = MetricsCollector(max_names=2, max_series=3)
    for number in range(10):
        metrics.inc("m", labels={"peer": str(number)})
    metrics.gauge("second", 1)
    metrics.gauge("third", 1)
    metrics.inc("m", labels={"peer": "0"})
    values = metrics.snapshot()
    assert values["gauges"] == {"second": 1}
    assert values["counters"] == {DROPPED: 8, 'm{peer="0"}': 2, 'm{peer="1"}': 1, 'm{peer="2"}': 1}


def test_counts_from_many_threads_all_count(metrics: MetricsCollector) -> None:
    def count() -> None:
        for _ in range(2_000):
            metrics.inc("m")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.snapshot()["counters"]["m"] == 8_000
