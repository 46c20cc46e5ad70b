"""What arrives at the collector of what ends here, and what it costs when the collector is not well."""

from __future__ import annotations

import gc
import resource
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from converge.extensions.otel import OpenTelemetry
from converge.observability import tracing
from converge.observability.trace_context import SpanContext
from converge.observability.tracing import Span, end_span, start_span, trace
from tests.otel.collector import garbage, refusing, silent, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.otel.collector import Collector

NOWHERE = "http://127.0.0.1:9"  # the discard port; nothing listens there


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Neither an exporter nor a thread, once the collector has let go of what it held."""
    before = {*threading.enumerate()}
    yield
    assert not tracing.is_tracing()
    wait_until(lambda: not [one for one in threading.enumerate() if one not in before and "otel" in one.name.lower()])


def test_a_span_arrives_as_it_was(collector: Collector) -> None:
    other = SpanContext("a" * 32, "b" * 16)
    with OpenTelemetry(collector.uri + "/", "house", "one") as telemetry:
        attributes: dict[str, tracing.AttributeValue] = {"n": 1, "x": 0.5, "yes": True, "text": "é"}
        outer_trace = trace("outer", attributes, kind="server", links=[other])
        with outer_trace as outer, pytest.raises(ValueError, match="bad"), trace("inner") as inner:
            raise ValueError("bad")
        far = start_span("far", parent=f"00-{'c' * 32}-{'d' * 16}-01", kind="consumer")
        end_span(far, end_ns=far.start_ns + 5)
    spans = {span.name: span for span in collector.spans}
    assert {span.name: (span.trace_id, span.span_id, span.parent_id) for span in collector.spans} == {
        "outer": (outer.trace_id, outer.span_id, None),
        "inner": (outer.trace_id, inner.span_id, outer.span_id),
        "far": ("c" * 32, far.span_id, "d" * 16),
    }
    assert spans["outer"].attributes == {"n": 1, "x": 0.5, "yes": True, "text": "é"}
    assert [(name, spans[name].kind) for name in spans] == [
        ("inner", "internal"),
        ("outer", "server"),
        ("far", "consumer"),
    ]
    assert spans["outer"].links == [("a" * 32, "b" * 16)]
    assert (spans["inner"].error, spans["inner"].attributes) == ("ValueError: bad", {"error.type": "ValueError"})
    assert (spans["outer"].error, spans["far"].nanoseconds) == (None, 5)
    assert spans["outer"].resource["service.name"] == "house"
    assert spans["outer"].resource["service.instance.id"] == "one"
    assert spans["outer"].scope == "converge"
    assert telemetry.counters == {"spans_exported": 3}


def test_what_otlp_cannot_take_is_shown_as_well_as_can_be_and_costs_no_other_span(collector: Collector) -> None:
    strange: dict[str, Any] = {"half \ud800": "a\udfff", "huge": 2**70, "low": -(2**63), "object": object(), "no": None}
    with OpenTelemetry(collector.uri) as telemetry:
        with trace("before"):
            pass
        with pytest.raises(ValueError, match="text"), trace("name \ud800", strange):
            raise ValueError("a text \ud800" + "x" * 5_000)
    before, span = collector.spans
    assert (before.name, span.name) == ("before", "name \\ud800")
    assert span.attributes == {
        "half \\ud800": "a\\udfff",
        "huge": hex(2**70),
        "low": -(2**63),
        "object": "object",
        "no": "NoneType",
        "error.type": "ValueError",
    }
    assert span.error is not None
    assert span.error.startswith("ValueError: a text \\ud800")
    assert len(span.error) < 1_010
    assert telemetry.counters == {"spans_exported": 2}


def test_starting_and_stopping_twice_changes_nothing_and_it_starts_anew(collector: Collector) -> None:
    telemetry = OpenTelemetry(collector.uri)
    telemetry.stop()
    for name in ("first", "second"):
        telemetry.start()
        telemetry.start()
        with trace(name):
            pass
        telemetry.stop()
        telemetry.stop()
    with trace("outside"):
        pass
    assert [span.name for span in collector.spans] == ["first", "second"]


def test_two_of_them_do_not_disturb_each_other(collector: Collector) -> None:
    with OpenTelemetry(NOWHERE, flush_timeout_sec=0.5) as lost, OpenTelemetry(collector.uri) as found, trace("step"):
        pass
    assert (found.counters, [span.name for span in collector.spans]) == ({"spans_exported": 1}, ["step"])
    wait_until(lambda: lost.counters == {"spans_failed": 1})


def test_a_span_of_a_trace_that_is_not_sampled_is_not_sent(collector: Collector) -> None:
    with OpenTelemetry(collector.uri):
        with trace("unwanted", parent=f"00-{'c' * 32}-{'d' * 16}-00"), trace("inner"):
            assert (tracing.get_current_traceparent() or "").endswith("-00")
        with trace("wanted"):
            pass
    assert [span.name for span in collector.spans] == ["wanted"]


@pytest.mark.parametrize(
    ("sampler", "argument", "roots", "children"),
    [
        ("always_off", "", 0, 0),
        ("parentbased_always_off", "", 0, 1),
        ("traceidratio", "0", 0, 0),
        ("parentbased_traceidratio", "0", 0, 1),
        ("parentbased_traceidratio", "1", 1, 1),
        ("always_on", "", 1, 1),
    ],
)
def test_the_sampler_is_the_one_of_the_environment(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, sampler: str, argument: str, roots: int, children: int
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    with OpenTelemetry(collector.uri) as telemetry:
        with trace("root") as root:
            assert root.sampled == bool(roots)
        with trace("child", parent=f"00-{'c' * 32}-{'d' * 16}-01"):
            pass
    names = [span.name for span in collector.spans]
    assert (names.count("root"), names.count("child")) == (roots, children)
    assert telemetry.counters["spans_exported"] == roots + children


def test_what_is_not_given_comes_from_the_environment(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.uri)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=seven,deployment.environment=test")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "from outside")
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "1")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "many")
    with OpenTelemetry(), trace("step", {"a": 1, "b": 2}):
        pass
    (span,) = collector.spans
    assert span.resource["service.name"] == "from outside"
    assert span.resource["service.instance.id"] == "seven"
    assert span.resource["deployment.environment"] == "test"
    assert span.attributes == {"b": 2}
    assert (collector.headers[0]["x-tenant"], collector.headers[0]["content-encoding"]) == ("blue", "gzip")


def test_the_sdk_can_be_disabled(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "TRUE")
    with OpenTelemetry(collector.uri), trace("step"):
        assert not tracing.is_tracing()
    assert collector.requests == 0


def test_a_process_has_a_name_and_an_instance_of_its_own_by_default(collector: Collector) -> None:
    with OpenTelemetry(collector.uri), trace("step"):
        pass
    assert collector.spans[0].resource["service.name"] == "converge"
    assert collector.spans[0].resource["service.instance.id"]


def test_a_collector_that_is_away_costs_the_spans_and_stopping_is_bounded() -> None:
    telemetry = OpenTelemetry(NOWHERE, flush_timeout_sec=0.5)
    telemetry.start()
    with trace("step"):
        pass
    started = time.monotonic()
    telemetry.stop()
    assert time.monotonic() - started < 10  # the SDK would try for as long again, and wait for 30 s
    wait_until(lambda: telemetry.counters == {"spans_failed": 1})


def test_a_collector_that_refuses_is_told_in_the_counts(collector: Collector) -> None:
    collector.answer = refusing
    with OpenTelemetry(collector.uri) as telemetry, trace("step"):
        pass
    assert telemetry.counters == {"spans_failed": 1}


def test_an_answer_that_makes_no_sense_harms_nobody(collector: Collector) -> None:
    collector.answer = garbage
    with OpenTelemetry(collector.uri) as telemetry:
        for _ in range(2):
            with trace("step"):
                pass
    assert telemetry.counters == {"spans_exported": 2}


def test_of_a_hundred_thousand_spans_for_a_silent_collector_a_bounded_number_waits(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    release = threading.Event()
    collector.answer = silent(release)
    telemetry = OpenTelemetry(collector.uri, queue_size=500, flush_timeout_sec=0.2)
    telemetry.start()
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(100_000):
        with trace("step", {"number": number, "text": "x" * 1_000}):
            pass
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 50_000  # kB; all of them would take 200 MB
    assert telemetry.counters["spans_dropped"] >= 100_000 - 2 * 500  # those that wait, and those that were sent
    assert caplog.text.count("500 spans wait for the collector") == 1
    telemetry.stop()
    release.set()
    wait_until(lambda: telemetry.counters.total() == 100_000)


def test_what_is_sent_and_dropped_by_many_threads_adds_up(collector: Collector) -> None:
    telemetry = OpenTelemetry(collector.uri, queue_size=64)

    def work() -> None:
        for _ in range(2_000):
            with trace("step"):
                pass

    with telemetry:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert telemetry.counters.total() == 8_000
    assert telemetry.counters["spans_exported"] == len(collector.spans) > 0


def test_a_span_is_no_longer_taken_after_the_end(collector: Collector) -> None:
    with OpenTelemetry(collector.uri):
        late: Span = start_span("late")
    end_span(late)
    assert collector.spans == []
