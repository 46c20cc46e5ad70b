"""Spans of calls, by OpenTelemetry's semantic conventions for generative AI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from converge.observability.tracing import current_span, end_span, is_in_trace, is_tracing, start_span

if TYPE_CHECKING:
    from types import TracebackType

    from converge.extensions.llm.chat import Reply
    from converge.observability.tracing import AttributeValue, Span

__all__ = ["ChatSpan"]

_OPERATION: Final = "gen_ai.operation.name"


class ChatSpan:
    """A block in which a model is asked once.

    Within an agent's span of the same call it adds to that what it knows, so that no token is counted twice; else it
    is a span "chat MODEL" of its own. It does not become the open span: the block may belong to an async generator.
    """

    def __init__(
        self, vendor: str, model: str, max_output_tokens: int | None = None, temperature: float | None = None
    ) -> None:
        self._attributes: dict[str, AttributeValue] = {
            _OPERATION: "chat",
            "gen_ai.provider.name": vendor,
            "gen_ai.request.model": model,
        }
        if max_output_tokens is not None:
            self._attributes["gen_ai.request.max_tokens"] = max_output_tokens
        if temperature is not None:
            self._attributes["gen_ai.request.temperature"] = temperature
        self._name = f"chat {model}"
        self._span: Span | None = None
        self._is_own = False

    def __enter__(self) -> Self:
        around = current_span()
        if around is not None and around.attributes.get(_OPERATION) == "chat":
            self._span = around
            around.attributes.update(self._attributes)
        elif is_tracing() or is_in_trace():
            self._span, self._is_own = start_span(self._name, self._attributes, kind="client"), True
        return self

    def note(self, reply: Reply) -> None:
        """Add what the reply says of itself."""
        if self._span is None:
            return
        self._span.set_attribute("gen_ai.response.model", reply.model)
        self._span.set_attribute("gen_ai.response.finish_reasons", reply.finish)
        self._span.set_attribute("gen_ai.usage.input_tokens", reply.usage.input_tokens)
        self._span.set_attribute("gen_ai.usage.output_tokens", reply.usage.output_tokens)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._span is None or not self._is_own:
            return
        if isinstance(error, GeneratorExit):  # the reader of a stream had enough
            error = None
        if error is not None:
            status = getattr(error, "status", None)
            self._span.set_attribute("error.type", str(status) if status else type(error).__name__)
        end_span(self._span, error)
