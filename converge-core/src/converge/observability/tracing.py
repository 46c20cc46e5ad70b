"""Spans: what took how long, and within what. Identifiers are those of W3C Trace Context (Recommendation, 2021)."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import re
import threading
import time
from contextlib import suppress
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeAlias, TypeVar, cast

from attrs import define, field

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

__all__ = [
    "AttributeValue",
    "Span",
    "SpanExporter",
    "current_span",
    "get_current_trace_id",
    "get_current_traceparent",
    "register_span_exporter",
    "trace",
    "unregister_span_exporter",
]

AttributeValue: TypeAlias = str | bool | int | float
"""What an attribute of a span can be."""

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

_log = logging.getLogger(__name__)
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?", re.ASCII)


@define
class Span:
    """One timed step. `start_ns` and `end_ns` are Unix nanoseconds; `error` is the exception that left the step."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str | None
    start_ns: int
    end_ns: int | None = None
    attributes: dict[str, AttributeValue] = field(factory=dict)
    error: str | None = None

    def set_attribute(self, name: str, value: AttributeValue) -> None:
        """Note something about the step, before it ends."""
        self.attributes[name] = value

    @property
    def traceparent(self) -> str:
        """The span as the parent of another, for the header `traceparent` of a message."""
        return f"00-{self.trace_id}-{self.span_id}-01"


class SpanExporter(Protocol):
    """Takes finished spans elsewhere. To implement one, write `export`."""

    def export(self, span: Span) -> None:
        """Take one finished span.

        It is called where the span ended, possibly on an event loop and from several threads, so it has to be quick:
        put the span in a queue. What it raises is logged and reaches nobody else.
        """


_current: ContextVar[Span | None] = ContextVar("converge_span", default=None)
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


def current_span() -> Span | None:
    """The innermost span that is open here."""
    return _current.get()


def get_current_trace_id() -> str | None:
    """The id of the trace that is open here, 32 hex digits; None outside any."""
    span = _current.get()
    return span.trace_id if span else None


def get_current_traceparent() -> str | None:
    """The innermost open span in the form of the W3C header `traceparent`; None outside any."""
    span = _current.get()
    return span.traceparent if span else None


class trace:  # noqa: N801  # used like a function: `with trace("name"):`, `async with`, `@trace("name")`
    """A span around a block (`with` or `async with`, which gives the `Span`) or around each call of a function.

    It is a child of the span that is open here, in this thread or asyncio task; without one it begins a trace. With
    `parent`, a W3C `traceparent`, it is a child of that instead; a malformed one begins a trace. What the block
    raises is noted in the span and goes on. A generator function is refused: its body runs outside the call.
    """

    def __init__(
        self, name: str, attributes: Mapping[str, AttributeValue] | None = None, *, parent: str | None = None
    ) -> None:
        self._name, self._attributes, self._parent = name, attributes, parent
        self._open: list[tuple[Span, Token[Span | None], int]] = []

    def __enter__(self) -> Span:
        trace_id, parent_id = _lineage(self._parent)
        span = Span(
            self._name,
            trace_id,
            os.urandom(8).hex(),
            parent_id,
            time.time_ns(),
            attributes=dict(self._attributes or {}),
        )
        self._open.append((span, _current.set(span), time.perf_counter_ns()))
        return span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        span, token, started = self._open.pop()
        with suppress(ValueError):  # an async generator may be closed in another context, where this was never set
            _current.reset(token)
        span.end_ns = span.start_ns + time.perf_counter_ns() - started
        if error is not None:
            span.error = _describe(error)
        _export(span)

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
                with trace(self._name, self._attributes, parent=self._parent):
                    return await function(*args, **kwargs)

            return cast("Callable[_Parameters, _Result]", traced_coroutine)

        @functools.wraps(function)
        def traced(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
            with trace(self._name, self._attributes, parent=self._parent):
                return function(*args, **kwargs)

        return traced


def _lineage(traceparent: str | None) -> tuple[str, str | None]:
    """The trace a new span belongs to, and its parent in it."""
    if traceparent is not None:
        found = _TRACEPARENT.fullmatch(traceparent)
        if found and int(found[1], 16) and int(found[2], 16):
            return found[1], found[2]
        return os.urandom(16).hex(), None
    span = _current.get()
    return (span.trace_id, span.span_id) if span else (os.urandom(16).hex(), None)


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
