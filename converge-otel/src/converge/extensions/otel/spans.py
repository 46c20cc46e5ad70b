"""From Converge's spans to those of OpenTelemetry's SDK: same ids, parents, links, times and attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import ReadableSpan, SpanLimits
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from converge.extensions.otel.attributes import clean, text

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    from converge.observability import trace_context
    from converge.observability.tracing import Span

__all__ = ["KINDS", "Conversion", "WaitingSpan", "parent_of"]

KINDS = {
    "internal": SpanKind.INTERNAL,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
    "client": SpanKind.CLIENT,
    "server": SpanKind.SERVER,
}
_SAMPLED, _NOT_SAMPLED = TraceFlags(TraceFlags.SAMPLED), TraceFlags(TraceFlags.DEFAULT)
_UNSET = Status(StatusCode.UNSET)
_MAX_ERROR = 1_000


class WaitingSpan(ReadableSpan):
    """A span in the queue. It is translated when its turn comes, in the SDK's thread and not where it ended."""

    def __init__(self, span: Span) -> None:
        self.span = span

    @property
    def context(self) -> SpanContext:
        return _ANY_SAMPLED


class Conversion:
    """Makes the SDK's spans, within the limits that its environment variables `OTEL_SPAN_…_LIMIT` set."""

    def __init__(self, resource: Resource, scope: InstrumentationScope) -> None:
        self._resource, self._scope = resource, scope
        self._limits = SpanLimits()

    def __call__(self, span: Span) -> ReadableSpan:
        """The SDK's form of `span`, which has ended."""
        limits = self._limits
        attributes = clean(span.attributes, limits.max_span_attributes, limits.max_span_attribute_length)
        status = _UNSET
        if span.error is not None:
            attributes["error.type"] = text(span.error.partition(":")[0])
            status = Status(StatusCode.ERROR, text(span.error, _MAX_ERROR))
        return ReadableSpan(
            name=text(span.name),
            context=_context(span.context),
            parent=parent_of(span),
            resource=self._resource,
            attributes=attributes,
            links=[Link(_context(link, is_remote=True)) for link in span.links[: limits.max_links]],
            kind=KINDS[span.kind],
            status=status,
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=self._scope,
        )


def parent_of(span: Span) -> SpanContext | None:
    """The context of the span's parent."""
    if span.parent_id is None:
        return None
    flags = _SAMPLED if span.sampled else _NOT_SAMPLED
    return SpanContext(int(span.trace_id, 16), int(span.parent_id, 16), span.has_remote_parent, flags)


def _context(span: trace_context.SpanContext, *, is_remote: bool = False) -> SpanContext:
    flags = _SAMPLED if span.sampled else _NOT_SAMPLED
    return SpanContext(int(span.trace_id, 16), int(span.span_id, 16), is_remote, flags)


_ANY_SAMPLED = SpanContext(1, 1, False, _SAMPLED)  # what the processor asks of a span is only whether it is sampled
