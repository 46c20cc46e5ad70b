from __future__ import annotations

import asyncio
import re
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converge.observability.trace_context import SpanContext, parse_traceparent
from converge.observability.tracing import (
    MAX_LINKS,
    Span,
    continuing,
    current_span,
    end_span,
    get_current_trace_id,
    get_current_traceparent,
    is_tracing,
    register_span_exporter,
    start_span,
    trace,
    unregister_span_exporter,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class Collecting:
    """An exporter that keeps what it gets."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def export(self, span: Span) -> None:
        self.spans.append(span)


class FailingError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.fixture
def exporter() -> Iterator[Collecting]:
    collecting = Collecting()
    register_span_exporter(collecting)
    yield collecting
    unregister_span_exporter(collecting)


def test_there_is_no_trace_outside_a_span() -> None:
    assert (get_current_trace_id(), get_current_traceparent(), current_span()) == (None, None, None)


def test_a_span_has_w3c_ids_a_name_and_a_duration(exporter: Collecting) -> None:
    with trace("step", {"size": 3}) as span:
        span.set_attribute("kind", "x")
        assert get_current_trace_id() == span.trace_id
        assert get_current_traceparent() == f"00-{span.trace_id}-{span.span_id}-01"
        assert exporter.spans == []
    assert exporter.spans == [span]
    assert re.fullmatch("[0-9a-f]{32}", span.trace_id)
    assert re.fullmatch("[0-9a-f]{16}", span.span_id)
    assert (span.name, span.parent_id, span.error) == ("step", None, None)
    assert span.attributes == {"size": 3, "kind": "x"}
    assert span.end_ns is not None
    assert span.end_ns >= span.start_ns
    assert get_current_trace_id() is None


def test_an_inner_span_is_a_child_of_the_outer(exporter: Collecting) -> None:
    with trace("outer") as outer:
        with trace("inner") as inner:
            assert current_span() is inner
        assert current_span() is outer
    assert [span.name for span in exporter.spans] == ["inner", "outer"]
    assert (inner.trace_id, inner.parent_id) == (outer.trace_id, outer.span_id)


def test_spans_side_by_side_are_traces_of_their_own() -> None:
    with trace("a") as first:
        pass
    with trace("b") as second:
        pass
    assert first.trace_id != second.trace_id
    assert first.span_id != second.span_id


def test_a_trace_goes_on_from_the_header_of_a_message() -> None:
    with trace("sender") as sender:
        header = get_current_traceparent()
    with trace("receiver", parent=header) as receiver, trace("step") as step:
        assert (receiver.trace_id, receiver.parent_id) == (sender.trace_id, sender.span_id)
        assert step.parent_id == receiver.span_id


@pytest.mark.parametrize(
    "header",
    [
        "",
        "junk",
        f"00-{'0' * 32}-{'1' * 16}-01",
        f"00-{'1' * 32}-{'0' * 16}-01",
        f"ff-{'1' * 32}-{'1' * 16}-01",
        f"00-{'A' * 32}-{'1' * 16}-01",
        f"00-{'1' * 32}-{'1' * 16}-01\n",
        f"00-{'1' * 32}-{'1' * 16}-01-more",
    ],
)
def test_a_malformed_header_begins_a_trace(header: str) -> None:
    with trace("outer") as outer, trace("receiver", parent=header) as span:
        assert span.parent_id is None
        assert span.trace_id not in (outer.trace_id, "1" * 32, "0" * 32)


def test_a_header_of_a_later_version_is_read_as_far_as_it_is_known() -> None:
    with trace("receiver", parent=f"01-{'1' * 32}-{'2' * 16}-00-more") as span:
        assert (span.trace_id, span.parent_id) == ("1" * 32, "2" * 16)


def test_an_error_is_noted_and_goes_on(exporter: Collecting) -> None:
    with pytest.raises(ValueError, match="bad"), trace("step"):
        raise ValueError("bad")
    assert exporter.spans[0].error == "ValueError: bad"
    assert current_span() is None


def test_an_error_that_cannot_be_shown_is_noted_by_its_kind(exporter: Collecting) -> None:
    with pytest.raises(FailingError), trace("step"):
        raise FailingError
    assert exporter.spans[0].error == "FailingError"


def test_a_function_gets_a_span_for_each_call(exporter: Collecting) -> None:
    @trace("double", {"of": "number"})
    def double(number: int) -> int:
        """Twice as much."""
        return 2 * number if number < 3 else double(number - 1)

    assert [double(1), double(3)] == [2, 4]
    assert (double.__name__, double.__doc__) == ("double", "Twice as much.")
    assert [span.name for span in exporter.spans] == ["double"] * 3
    assert exporter.spans[1].parent_id == exporter.spans[2].span_id
    assert exporter.spans[0].attributes == {"of": "number"}


async def test_a_coroutine_function_gets_a_span_around_what_it_awaits(exporter: Collecting) -> None:
    @trace("step")
    async def step() -> str | None:
        await asyncio.sleep(0)
        return get_current_trace_id()

    assert asyncio.iscoroutinefunction(step)
    assert await step() == exporter.spans[0].trace_id
    assert get_current_trace_id() is None


async def test_concurrent_tasks_have_spans_of_their_own_under_the_one_that_started_them() -> None:
    async def step(name: str) -> Span:
        async with trace(name) as span:
            await asyncio.sleep(0)
            assert current_span() is span
            await asyncio.sleep(0)
            return span

    async with trace("outer") as outer:
        spans = await asyncio.gather(*(step(f"step {number}") for number in range(5)))
    assert {span.parent_id for span in spans} == {outer.span_id}
    assert len({span.span_id for span in spans}) == 5


def test_another_thread_begins_a_trace_of_its_own() -> None:
    seen: list[str | None] = []
    with trace("outer"):
        thread = threading.Thread(target=lambda: seen.append(get_current_trace_id()))
        thread.start()
        thread.join()
    assert seen == [None]


def test_a_generator_function_is_refused() -> None:
    def numbers() -> Iterator[int]:
        yield 1

    async def async_numbers() -> AsyncIterator[int]:
        yield 1

    for function in (numbers, async_numbers):
        with pytest.raises(TypeError, match="generator"):
            trace("step")(function)


async def test_a_span_in_an_async_generator_that_is_closed_elsewhere_ends_quietly(exporter: Collecting) -> None:
    async def numbers() -> AsyncIterator[int]:
        with trace("numbers"):
            yield 1
            yield 2

    generator = numbers()
    await asyncio.create_task(anext(generator))  # type: ignore[arg-type]  # the awaitable of an async generator is a coroutine
    await asyncio.create_task(generator.aclose())  # type: ignore[attr-defined]  # as is the object itself a generator
    assert [span.name for span in exporter.spans] == ["numbers"]


def test_an_exporter_that_raises_is_logged_and_the_others_still_get_the_span(
    exporter: Collecting, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Collecting):
        def export(self, span: Span) -> None:
            raise OSError("disk full")

    broken = Broken()
    unregister_span_exporter(exporter)
    register_span_exporter(broken)
    register_span_exporter(exporter)
    try:
        with trace("step") as span:
            pass
    finally:
        unregister_span_exporter(broken)
    assert exporter.spans == [span]
    assert "Broken" in caplog.text
    assert "disk full" in caplog.text


def test_registering_twice_exports_once_and_unregistering_ends_it(exporter: Collecting) -> None:
    register_span_exporter(exporter)
    with trace("a"):
        pass
    unregister_span_exporter(exporter)
    unregister_span_exporter(exporter)
    with trace("b"):
        pass
    assert [span.name for span in exporter.spans] == ["a"]


def test_what_cannot_export_is_refused() -> None:
    with pytest.raises(TypeError, match="export"):
        register_span_exporter(object())  # type: ignore[arg-type]  # what is refused is the point


def test_whether_anybody_takes_spans_can_be_asked(exporter: Collecting) -> None:
    assert is_tracing()
    unregister_span_exporter(exporter)
    assert not is_tracing()


def test_a_header_that_is_well_formed_names_a_span_and_whether_it_is_sampled() -> None:
    for flags, sampled in (("01", True), ("00", False), ("03", True), ("02", False), ("ff", True)):
        found = parse_traceparent(f"00-{'1' * 32}-{'2' * 16}-{flags}")
        assert found == SpanContext("1" * 32, "2" * 16, sampled)
        assert found.traceparent == f"00-{'1' * 32}-{'2' * 16}-{'01' if sampled else '00'}"


def test_what_is_not_sampled_is_exported_nowhere_nor_are_its_children(exporter: Collecting) -> None:
    with trace("outer", parent=f"00-{'1' * 32}-{'2' * 16}-00"), trace("inner"):
        assert get_current_traceparent() is not None
        assert str(get_current_traceparent()).endswith("-00")
    assert exporter.spans == []


def test_a_span_without_a_block_is_not_the_one_that_is_open(exporter: Collecting) -> None:
    with trace("outer") as outer:
        span = start_span("alone", {"a": 1}, kind="client", links=[outer.context] * (MAX_LINKS + 1))
        assert current_span() is outer
    end_span(span, "it broke", end_ns=0)
    assert exporter.spans == [outer, span]
    assert (span.parent_id, span.kind, span.attributes, span.error) == (outer.span_id, "client", {"a": 1}, "it broke")
    assert (span.end_ns, len(span.links)) == (span.start_ns, MAX_LINKS)  # it cannot end before it begins


def test_a_block_may_belong_to_a_span_that_does_not_end_with_it(exporter: Collecting) -> None:
    span = start_span("long")
    with continuing(span), trace("inner") as inner:
        assert inner.parent_id == span.span_id
    assert (current_span(), exporter.spans) == (None, [inner])


def test_a_trace_goes_through_a_block_without_a_span_of_its_own() -> None:
    header = f"00-{'1' * 32}-{'2' * 16}-00"
    with continuing(header):
        assert (get_current_traceparent(), get_current_trace_id(), current_span()) == (header, "1" * 32, None)
        with trace("inner") as inner:
            assert (inner.parent_id, inner.sampled) == ("2" * 16, False)
    with trace("outer") as outer, continuing("junk"):
        assert current_span() is outer


def test_a_trace_is_recorded_if_one_exporter_wants_it() -> None:
    class Choosing(Collecting):
        def __init__(self, wanted: bool | None) -> None:
            super().__init__()
            self.wanted = wanted

        def samples(self, span: Span) -> bool:
            if self.wanted is None:
                raise OSError("undecided")
            return self.wanted

    def recorded(*exporters: Choosing) -> int:
        for one in exporters:
            register_span_exporter(one)
        with trace("root"), trace("inner"):
            pass
        for one in exporters:
            unregister_span_exporter(one)
        return len(exporters[0].spans)

    assert recorded(Choosing(False)) == 0
    assert recorded(Choosing(True)) == 2
    assert recorded(Choosing(False), Choosing(True)) == 2
    assert recorded(Choosing(None)) == 2


HEX = "0123456789abcdefABCDEF-g\n "


@given(
    st.text()
    | st.text(HEX, min_size=50, max_size=60)
    | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
)
def test_whatever_a_peer_sends_as_a_header_names_a_span_or_nothing(header: str) -> None:
    found = parse_traceparent(header)
    if found is not None:
        assert (found.trace_id, found.span_id) == (header[3:35], header[36:52])
        assert found.trace_id.strip("0")
        assert parse_traceparent(found.traceparent) == found
