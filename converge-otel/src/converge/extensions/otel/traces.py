"""The way of spans: from where they end, through a bounded queue and the SDK's thread, to the collector."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import OTEL_BSP_MAX_EXPORT_BATCH_SIZE, OTEL_BSP_MAX_QUEUE_SIZE
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler
from opentelemetry.trace import NonRecordingSpan, set_span_in_context

from converge.extensions.otel.environment import positive_number
from converge.extensions.otel.spans import KINDS, Conversion, WaitingSpan, parent_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    from converge.extensions.otel.counts import Counts
    from converge.observability.tracing import Span

__all__ = ["SpanPipeline"]

_QUEUE_SIZE, _BATCH_SIZE = 2_048, 512  # the SDK's defaults, those of the specification
_TELL_EVERY_SEC = 60.0
_log = logging.getLogger(__name__)


class _Translating(SpanExporter):
    """Translates what has left the queue, and counts what becomes of it."""

    def __init__(self, exporter: SpanExporter, convert: Conversion, counts: Counts) -> None:
        self._exporter, self._convert, self._counts = exporter, convert, counts
        self._lock = threading.Lock()
        self.taken = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._lock:
            self.taken += len(spans)
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(
                [self._convert(each.span) for each in spans if isinstance(each, WaitingSpan)]
            )
        finally:
            self._counts.add("exported" if result is SpanExportResult.SUCCESS else "failed", len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class SpanPipeline:
    """Takes Converge's spans and pushes them in batches, from a thread of the SDK. An exporter of `tracing`.

    When `queue_size` spans wait, further ones are dropped: a collector that is slow or away costs memory for that many
    and nothing else. The sampler is the one that `OTEL_TRACES_SAMPLER` names.
    """

    def __init__(
        self,
        endpoint: str | None,
        headers: dict[str, str],
        queue_size: int | None,
        resource: Resource,
        scope: InstrumentationScope,
        counts: Counts,
    ) -> None:
        self._size = positive_number(OTEL_BSP_MAX_QUEUE_SIZE, _QUEUE_SIZE) if queue_size is None else queue_size
        batch = min(positive_number(OTEL_BSP_MAX_EXPORT_BATCH_SIZE, _BATCH_SIZE), self._size)
        self._counts = counts
        self._sampler: Sampler = TracerProvider(resource=resource, shutdown_on_exit=False).sampler
        self._asks_for_each = not isinstance(self._sampler, ParentBased)
        exporter = OTLPSpanExporter(endpoint and f"{endpoint}/v1/traces", headers=headers)
        self._exporter = _Translating(exporter, Conversion(resource, scope), counts)
        self._processor = BatchSpanProcessor(self._exporter, self._size, max_export_batch_size=batch)
        self._lock = threading.Lock()
        self._given = 0
        self._tell_again_at = 0.0

    def samples(self, span: Span) -> bool:
        """Whether the trace that `span` begins is to be recorded."""
        return self._is_sampled(span)

    def export(self, span: Span) -> None:
        """Queue `span`, or drop it when the queue is full. Quick; thread-safe."""
        if self._asks_for_each and not self._is_sampled(span):
            return
        with self._lock:
            room = self._size - (self._given - self._exporter.taken)
            if room > 0:
                self._given += 1
        if room > 0:
            self._processor.on_end(WaitingSpan(span))
        else:
            self._dropped()

    def shutdown(self) -> None:
        """Push what waits, and end the thread; returns when that is done. See `abort`."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]  # the SDK's method has no annotation

    def abort(self) -> None:
        """Let `shutdown` in another thread end: what waits is given up, and a request under way not repeated."""
        self._exporter.shutdown()

    def _is_sampled(self, span: Span) -> bool:
        parent = parent_of(span)
        context = None if parent is None else set_span_in_context(NonRecordingSpan(parent))
        result = self._sampler.should_sample(
            context, int(span.trace_id, 16), span.name, KINDS[span.kind], dict(span.attributes), ()
        )
        return result.decision is Decision.RECORD_AND_SAMPLE

    def _dropped(self) -> None:
        self._counts.add("dropped", 1)
        now = time.monotonic()
        if now >= self._tell_again_at:
            self._tell_again_at = now + _TELL_EVERY_SEC
            dropped = self._counts.snapshot()["spans_dropped"]
            _log.warning("%d spans wait for the collector, which is all there may be; %d dropped", self._size, dropped)
