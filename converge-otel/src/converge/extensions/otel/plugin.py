"""The lifecycle plugin named "otel", which is also used in code."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, ClassVar, Self

from converge.extensions.otel.counts import Counts
from converge.extensions.otel.options import OpenTelemetryOptions
from converge.observability.tracing import register_span_exporter, unregister_span_exporter
from converge.plugins import Secret, hookimpl

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from converge.extensions.otel.metrics import MetricPipeline
    from converge.extensions.otel.traces import SpanPipeline
    from converge.observability.metrics import MetricsCollector

__all__ = ["OpenTelemetry"]

_ABORT_SEC = 0.5  # of the time for flushing, to let the SDK's threads notice that it is over
_log = logging.getLogger(__name__)


class OpenTelemetry:
    """Pushes the spans of this process, and what `metrics_collector` counts, to an OTLP collector over HTTP.

    As a lifecycle plugin it begins when the first agent of the process starts, and ends when the last has stopped. In
    code, `start` and `stop` do that, or a `with` block. Keywords are the fields of `OpenTelemetryOptions`.

    A collector that is slow, away or answers nonsense costs spans, which `counters` counts (`spans_exported`,
    `spans_dropped` because the queue was full, `spans_failed`), and never time: only stopping waits for it, at most
    `flush_timeout_sec`. Several of these, with collectors of their own, do not disturb each other.
    """

    converge_options: ClassVar[type[OpenTelemetryOptions]] = OpenTelemetryOptions

    def __init__(
        self,
        endpoint: str | None = None,
        service_name: str | None = None,
        instance_id: str | None = None,
        headers: Mapping[str, str | Secret] | None = None,
        *,
        traces: bool = True,
        metrics: bool = True,
        metrics_interval_sec: float | None = None,
        queue_size: int | None = None,
        flush_timeout_sec: float = 4.0,
        metrics_collector: MetricsCollector | None = None,
    ) -> None:
        self._options = OpenTelemetryOptions(
            endpoint=endpoint,
            service_name=service_name,
            instance_id=instance_id,
            headers={
                key: value if isinstance(value, Secret) else Secret(value) for key, value in (headers or {}).items()
            },
            traces=traces,
            metrics=metrics,
            metrics_interval_sec=metrics_interval_sec,
            queue_size=queue_size,
            flush_timeout_sec=flush_timeout_sec,
        )
        self._collector = metrics_collector
        self._counts = Counts(metrics_collector)
        self._lock = threading.Lock()
        self._agents = 0
        self._spans: SpanPipeline | None = None
        self._metrics: MetricPipeline | None = None

    @property
    def counters(self) -> Counter[str]:
        """How many spans were exported, dropped and sent in vain so far."""
        return self._counts.snapshot()

    def start(self) -> None:
        """Begin to push. Starting twice changes nothing; with `OTEL_SDK_DISABLED=true` nothing begins.

        Opens no connection: a collector that is away is noticed later, and logged by the SDK.
        """
        if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
            _log.info("OTEL_SDK_DISABLED is true: no traces and metrics are pushed")
            return
        with self._lock:
            self._open()

    def stop(self) -> None:
        """Push what waits and end the SDK's threads; waits for that at most `flush_timeout_sec`. Twice is no error.

        Only a request that the collector holds open outlives it, in a daemon thread, for `OTEL_EXPORTER_OTLP_TIMEOUT`
        (10 s).
        """
        with self._lock:
            spans, metrics, self._spans, self._metrics = self._spans, self._metrics, None, None
        if spans is not None:
            unregister_span_exporter(spans)
        _close(spans, metrics, self._options.flush_timeout_sec)

    async def stop_async(self) -> None:
        """`stop`, without holding up the event loop. Cancelling ends the waiting, and the rest goes on."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def work() -> None:
            self.stop()
            try:
                loop.call_soon_threadsafe(done.set)
            except RuntimeError:
                _log.debug("the event loop was closed before all spans were pushed")

        threading.Thread(target=work, name="converge-otel-stop", daemon=True).start()
        await done.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @hookimpl
    def converge_runtime_starting(self) -> None:
        """Begin with the first agent."""
        self._agents += 1
        self.start()

    @hookimpl(trylast=True)
    async def converge_runtime_stopped(self) -> None:
        """End with the last agent."""
        self._agents = max(self._agents - 1, 0)
        if self._agents == 0:
            await self.stop_async()

    def _open(self) -> None:
        from converge.extensions.otel.resource import resource_of, scope_of_converge  # the SDK takes 150 ms to import

        options, headers = self._options, {key: value.reveal() for key, value in self._options.headers.items()}
        endpoint = None if options.endpoint is None else options.endpoint.rstrip("/")
        resource, scope = resource_of(options), scope_of_converge()
        if options.traces and self._spans is None:
            from converge.extensions.otel.traces import SpanPipeline

            self._spans = SpanPipeline(endpoint, headers, options.queue_size, resource, scope, self._counts)
            register_span_exporter(self._spans)
        if options.metrics and self._collector is not None and self._metrics is None:
            from converge.extensions.otel.metrics import MetricPipeline

            self._metrics = MetricPipeline(
                endpoint, headers, options.metrics_interval_sec, resource, scope, self._collector
            )


def _close(spans: SpanPipeline | None, metrics: MetricPipeline | None, timeout_sec: float) -> None:
    """Flush both at once, and give up what is not through in time."""
    until = time.monotonic() + timeout_sec
    patience = timeout_sec - min(_ABORT_SEC, timeout_sec / 2)
    closing = []
    if spans is not None:
        closing.append(_in_thread(spans.shutdown))
    if metrics is not None:
        closing.append(_in_thread(lambda: metrics.shutdown(patience)))
    for thread in closing:
        thread.join(max(until - (timeout_sec - patience) - time.monotonic(), 0))
    if spans is not None and closing[0].is_alive():
        _log.warning("the collector has not taken all spans within %s s; the rest is lost", patience)
        spans.abort()
    for thread in closing:
        thread.join(max(until - time.monotonic(), 0))


def _in_thread(call: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=call, name="converge-otel-flush", daemon=True)
    thread.start()
    return thread
