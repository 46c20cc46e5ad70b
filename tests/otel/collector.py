"""A collector on loopback that takes OTLP over HTTP and keeps what it gets, decoded by OpenTelemetry's own messages."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan

Value = str | bool | int | float | None


class Received(NamedTuple):
    """A span as it came, with what it came from."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str | None
    kind: str
    links: list[tuple[str, str]]
    error: str | None
    attributes: dict[str, Value]
    resource: dict[str, Value]
    scope: str
    nanoseconds: int


class Point(NamedTuple):
    """One value of a metric."""

    name: str
    kind: str
    labels: dict[str, Value]
    value: float


class Collector:
    """What has come so far; thread-safe enough for a test that waits for it."""

    def __init__(self) -> None:
        self.spans: list[Received] = []
        self.points: list[Point] = []
        self.headers: list[dict[str, str]] = []
        self.requests = 0
        self.came = threading.Condition()
        self.answer: Callable[[BaseHTTPRequestHandler], None] = _well
        self.uri = ""

    def wait_for(self, done: Callable[[], bool], timeout: float = 60) -> None:
        """Wait until `done()`, which is asked after each request."""
        with self.came:
            assert self.came.wait_for(done, timeout), f"{len(self.spans)} spans came: {[s.name for s in self.spans]}"

    def take(self, path: str, body: bytes, headers: dict[str, str]) -> None:
        with self.came:
            self.requests += 1
            self.headers.append(headers)
            if path == "/v1/traces":
                self.spans += _spans(ExportTraceServiceRequest.FromString(body))
            elif path == "/v1/metrics":
                self.points += _points(ExportMetricsServiceRequest.FromString(body))
            else:
                raise AssertionError(f"nothing of OTLP is sent to {path}")
            self.came.notify_all()


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            collector.take(self.path, body, {name.lower(): value for name, value in self.headers.items()})
            collector.answer(self)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that goes away is what some tests are about."""

    server = Server(("127.0.0.1", 0), Handler)
    collector.uri = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _well(request: BaseHTTPRequestHandler) -> None:
    respond(request, 200, ExportTraceServiceResponse().SerializeToString())


def respond(request: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
    request.send_response(status)
    request.send_header("content-type", "application/x-protobuf")
    request.send_header("content-length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


def garbage(request: BaseHTTPRequestHandler) -> None:
    respond(request, 200, b"\xff\x00 no protobuf at all")


def refusing(request: BaseHTTPRequestHandler) -> None:
    respond(request, 400, b"no")


def silent(release: threading.Event) -> Callable[[BaseHTTPRequestHandler], None]:
    """It takes the request, and says nothing until it is released."""

    def wait(request: BaseHTTPRequestHandler) -> None:
        release.wait(60)
        request.close_connection = True

    return wait


def _spans(request: ExportTraceServiceRequest) -> Iterator[Received]:
    for resource_spans in request.resource_spans:
        resource = _values(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield Received(
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex() or None,
                    ProtoSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
                    [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                    span.status.message if span.status.code == span.status.STATUS_CODE_ERROR else None,
                    _values(span.attributes),
                    resource,
                    scope_spans.scope.name,
                    span.end_time_unix_nano - span.start_time_unix_nano,
                )


def _points(request: ExportMetricsServiceRequest) -> Iterator[Point]:
    for resource_metrics in request.resource_metrics:
        for scope_metrics in resource_metrics.scope_metrics:
            for metric in scope_metrics.metrics:
                kind = metric.WhichOneof("data") or ""
                for point in getattr(metric, kind).data_points:
                    value = point.as_int if point.HasField("as_int") else point.as_double
                    yield Point(metric.name, kind, _values(point.attributes), value)


def _values(pairs: Iterable[KeyValue]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for pair in pairs:
        kind = pair.value.WhichOneof("value")
        values[pair.key] = None if kind is None else getattr(pair.value, kind)
    return values


def wait_until(done: Callable[[], bool], timeout: float = 30) -> None:
    """For what no request tells of."""
    until = time.monotonic() + timeout
    while not done():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)
