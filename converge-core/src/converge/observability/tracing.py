"""Spans: what took how long, and within what. Identifiers are those of W3C Trace Context (Recommendation, 2021)."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import threading
import time
from contextlib import suppress
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Literal, ParamSpec, Protocol, TypeAlias, TypeVar, cast

from attrs import define, field

from converge.observability.trace_context import SpanContext, parse_traceparent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

__all__ = [
    "MAX_LINKS",
    "AttributeValue",
    "Span",
    "SpanExporter",
    "SpanKind",
    "continuing",
    "current_span",
    "end_span",
    "get_current_trace_id",
    "get_current_traceparent",
    "is_in_trace",
    "is_tracing",
    "register_span_exporter",
    "start_span",
    "trace",
    "unregister_span_exporter",
]

AttributeValue: TypeAlias = str | bool | int | float
"""What an attribute of a span can be."""

SpanKind: TypeAlias = Literal["internal", "producer", "consumer", "client", "server"]
"""The part a span has in an exchange, by the names of OpenTelemetry: who sends and goes on is a producer, who sends and
waits for the answer a client."""

MAX_LINKS = 128
"""Links kept of one span; the default limit of OpenTelemetry's SDKs."""

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

_log = logging.getLogger(__name__)


@define
class Span:
    """One timed step. `start_ns` and `end_ns` are Unix nanoseconds; `error` is the exception that left the step.

    `links` are other spans that it has to do with. One that is not `sampled` is exported nowhere, nor are those that it
    leads to in other processes. `has_remote_parent`: its parent was named by a `traceparent`.
    """

    name: str
    trace_id: str
    span_id: str
    parent_id: str | None
    start_ns: int
    end_ns: int | None = None
    attributes: dict[str, AttributeValue] = field(factory=dict)
    error: str | None = None
    kind: SpanKind = "internal"
    links: tuple[SpanContext, ...] = ()
    sampled: bool = True
    has_remote_parent: bool = False

    def set_attribute(self, name: str, value: AttributeValue) -> None:
        """Note something about the step, before it ends."""
        self.attributes[name] = value

    @property
    def context(self) -> SpanContext:
        """The span as other processes know it."""
        return SpanContext(self.trace_id, self.span_id, self.sampled)

    @property
    def traceparent(self) -> str:
        """The span as the parent of another, for the header `traceparent` of a message."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


class SpanExporter(Protocol):
    """Takes finished spans elsewhere. To implement one, write `export`.

    One with a method `samples(span)` is asked, when a span begins a trace, whether that trace is worth recording; it is
    as quick. A trace is recorded if one exporter wants it, or has no such method.
    """

    def export(self, span: Span) -> None:
        """Take one finished span.

        It is called where the span ended, possibly on an event loop and from several threads, so it has to be quick:
        put the span in a queue. What it raises is logged and reaches nobody else.
        """


_current: ContextVar[Span | SpanContext | None] = ContextVar("converge_span", default=None)
_exporters: tuple[SpanExporter, ...] = ()
_exporters_lock = threading.Lock()


def register_span_exporter(exporter: SpanExporter) -> None:
    """Give every span that ends from now on to `exporter`; registering it again changes nothing."""
    global _exporters  # spans end anywhere in the process, so its exporters are the process's
    if not callable(getattr(exporter, "export", None)):
        raise TypeError(f"{type(exporter).__name__} is no span exporter; it needs a method export(span)")
    with _exporters_lock:
        if not any(known is exporter for known in _exporters):
            _exporters = (*_exporters, exporter)


def unregister_span_exporter(exporter: SpanExporter) -> None:
    """Give no more spans to `exporter`; one that is not registered is no error."""
    global _exporters  # see register_span_exporter
    with _exporters_lock:
        _exporters = tuple(known for known in _exporters if known is not exporter)


def is_tracing() -> bool:
    """Whether anybody takes spans. Converge itself makes none otherwise: asking is all that tracing costs then."""
    return bool(_exporters)


def is_in_trace() -> bool:
    """Whether a span is open here, or a trace goes on here; quicker than to ask which."""
    return _current.get() is not None


def current_span() -> Span | None:
    """The innermost span that is open here."""
    span = _current.get()
    return span if isinstance(span, Span) else None


def get_current_trace_id() -> str | None:
    """The id of the trace that is open here, or goes on here from another process, 32 hex digits; None outside any."""
    span = _current.get()
    return span.trace_id if span else None


def get_current_traceparent() -> str | None:
    """The innermost open span in the form of the W3C header `traceparent`; None outside any."""
    span = _current.get()
    return span.traceparent if span else None


def start_span(
    name: str,
    attributes: Mapping[str, AttributeValue] | None = None,
    *,
    parent: str | None = None,
    kind: SpanKind = "internal",
    links: Sequence[SpanContext] = (),
) -> Span:
    """A span that begins now and is not the one that is open here: for a step that no block encloses.

    Arguments as for `trace`. Give it to `end_span`, or it is never exported.
    """
    above = _current.get() if parent is None else parse_traceparent(parent)
    span = Span(
        name,
        os.urandom(16).hex() if above is None else above.trace_id,
        os.urandom(8).hex(),
        None if above is None else above.span_id,
        time.time_ns(),
        attributes=dict(attributes or {}),
        kind=kind,
        links=tuple(links[:MAX_LINKS]),
        sampled=above is None or above.sampled,
        has_remote_parent=above is not None and parent is not None,
    )
    if above is None:
        span.sampled = _is_wanted(span)
    return span


def end_span(span: Span, error: BaseException | str | None = None, *, end_ns: int | None = None) -> None:
    """End `span` now, or at the Unix time `end_ns`, and export it; `error` is what went wrong, if something did."""
    span.end_ns = max(time.time_ns() if end_ns is None else end_ns, span.start_ns)
    if error is not None:
        span.error = error if isinstance(error, str) else _describe(error)
    if span.sampled:
        _export(span)


class continuing:  # noqa: N801  # used like a function, as `trace`
    """A block in which `parent` is the open span: one that does not end with it, or one of another process.

    The latter is given as its W3C `traceparent`, and what is sent in the block carries that on: a process which exports
    nothing does not break a trace. A malformed one changes nothing.
    """

    def __init__(self, parent: Span | str) -> None:
        self._parent = parse_traceparent(parent) if isinstance(parent, str) else parent
        self._token: Token[Span | SpanContext | None] | None = None

    def __enter__(self) -> None:
        if self._parent is not None:
            self._token = _current.set(self._parent)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None:
            _current.reset(self._token)


class trace:  # noqa: N801  # used like a function: `with trace("name"):`, `async with`, `@trace("name")`
    """A span around a block (`with` or `async with`, which gives the `Span`) or around each call of a function.

    It is a child of the span that is open here, in this thread or asyncio task; without one it begins a trace. With
    `parent`, a W3C `traceparent`, it is a child of that instead; a malformed one begins a trace. Of `links`, at most
    `MAX_LINKS` are kept. What the block raises is noted in the span and goes on. A generator function is refused: its
    body runs outside the call.
    """

    def __init__(
        self,
        name: str,
        attributes: Mapping[str, AttributeValue] | None = None,
        *,
        parent: str | None = None,
        kind: SpanKind = "internal",
        links: Sequence[SpanContext] = (),
    ) -> None:
        self._name, self._attributes, self._parent = name, attributes, parent
        self._kind: SpanKind = kind
        self._links = links
        self._open: list[tuple[Span, Token[Span | SpanContext | None], int]] = []

    def __enter__(self) -> Span:
        span = start_span(self._name, self._attributes, parent=self._parent, kind=self._kind, links=self._links)
        self._open.append((span, _current.set(span), time.perf_counter_ns()))
        return span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        span, token, started = self._open.pop()
        with suppress(ValueError):  # an async generator may be closed in another context, where this was never set
            _current.reset(token)
        end_span(span, error, end_ns=span.start_ns + time.perf_counter_ns() - started)

    async def __aenter__(self) -> Span:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def __call__(self, function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
        """`function` with a span of its own around each call, awaited calls included."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"trace() cannot wrap the generator function {function.__qualname__}; use `with` inside it")
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def traced_coroutine(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> object:
                with self._another():
                    return await function(*args, **kwargs)

            return cast("Callable[_Parameters, _Result]", traced_coroutine)

        @functools.wraps(function)
        def traced(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
            with self._another():
                return function(*args, **kwargs)

        return traced

    def _another(self) -> trace:
        return trace(self._name, self._attributes, parent=self._parent, kind=self._kind, links=self._links)


def _is_wanted(root: Span) -> bool:
    """Whether an exporter wants the trace that `root` begins; without exporters it is left to those of others."""
    for exporter in _exporters:
        samples = getattr(exporter, "samples", None)
        try:
            if samples is None or samples(root):
                return True
        except Exception:  # noqa: BLE001  # as in _export; what may be of interest is recorded
            _log.exception("the span exporter %s failed on the root span %r", type(exporter).__qualname__, root.name)
            return True
    return not _exporters


def _describe(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001  # an error that cannot be shown still ends the span
        return type(error).__name__


def _export(span: Span) -> None:
    for exporter in _exporters:
        try:
            exporter.export(span)
        except Exception:  # noqa: BLE001  # one exporter's failure must not reach the traced code or the others
            _log.exception("the span exporter %s failed on the span %r", type(exporter).__qualname__, span.name)
