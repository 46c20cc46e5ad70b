"""One call of a provider: bounded in time, traced, and never more than a `CallFailed` when it goes wrong."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from converge.core.errors import ConvergeError
from converge.extensions.llm.chat import Reply, ToolCall, Usage
from converge.observability.tracing import Span, trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from converge.extensions.llm.chat import ChatMessage, ChatProvider, ToolSpec

__all__ = ["CallFailed", "call", "estimated"]

_GRACE_SEC: Final = 0.25
_BYTES_A_TOKEN: Final = 4  # the vendors' rule of thumb for English; where nothing is reported it is all there is
_MAX_CALLS_READ: Final = 1_000
_TRANSIENT: Final = frozenset({"KeyMissing", "Overloaded", "RateLimited"})  # the errors of our providers, by name
_log = logging.getLogger(__name__)


class CallFailed(ConvergeError, RuntimeError):
    """A provider gave no reply. `reason` is the class of its error, or a word, for the counter.

    `retry_after` is how many seconds the provider asks to wait, if it does; `spent` whether tokens may have been used;
    `transient` that what was asked is surely not the cause.
    """

    def __init__(self, reason: str, text: str, *, retry_after: float | None = None, spent: bool = True) -> None:
        super().__init__(text)
        self.reason, self.retry_after, self.spent = reason, retry_after, spent
        self.transient = reason in _TRANSIENT


async def call(
    provider: ChatProvider,
    messages: Sequence[ChatMessage],
    *,
    tools: Sequence[ToolSpec],
    agent_id: str,
    timeout_sec: float,
    max_output_tokens: int | None,
    temperature: float | None,
) -> Reply:
    """The reply of `provider`, checked for its types, with an estimate of its tokens where it reports none.

    A span "chat MODEL" has the attributes of OpenTelemetry's semantic conventions for generative AI. Raises
    `CallFailed`, and `CancelledError` when the caller is cancelled. A provider that ignores being cancelled is left.
    """
    model = _model_of(provider)
    attributes: dict[str, str | bool | int | float] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": _provider_name(provider),
        "gen_ai.request.model": model,
        "gen_ai.agent.id": agent_id,
    }
    options = {"gen_ai.request.max_tokens": max_output_tokens, "gen_ai.request.temperature": temperature}
    attributes |= {name: value for name, value in options.items() if value is not None}
    with trace(f"chat {model}".strip(), attributes, kind="client") as span:
        try:
            given: object = await _within(
                timeout_sec,
                provider,
                messages,
                tools=tools,
                max_output_tokens=max_output_tokens,
                temperature=temperature,
            )
            reply = _checked(given, messages)
        except CallFailed as failed:
            span.set_attribute("error.type", failed.reason)
            raise
        _note(span, reply)
        return reply


def _note(span: Span, reply: Reply) -> None:
    span.set_attribute("gen_ai.response.model", reply.model)
    span.set_attribute("gen_ai.response.finish_reasons", reply.finish)
    span.set_attribute("gen_ai.usage.input_tokens", reply.usage.input_tokens)
    span.set_attribute("gen_ai.usage.output_tokens", reply.usage.output_tokens)


async def _within(seconds: float, provider: ChatProvider, messages: Sequence[ChatMessage], **options: Any) -> object:
    task = asyncio.create_task(_contained(provider, messages, options), name="converge-llm-call")
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    finally:
        if not task.done():
            await _give_up(task)
    if not done:
        raise CallFailed("timeout", f"the provider gave no answer within {seconds} s")
    value = task.result()
    if isinstance(value, CallFailed):
        raise value
    return value


async def _contained(provider: ChatProvider, messages: Sequence[ChatMessage], options: dict[str, Any]) -> object:
    """What the provider answers, or what it raises as a `CallFailed`: a task must not carry SystemExit and the like."""
    try:
        return await provider.complete(messages, **options)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        return _failure(error)
    except GeneratorExit:
        raise
    except BaseException as error:  # noqa: BLE001  # whatever a provider raises, its agent goes on
        return _failure(error)


async def _give_up(task: asyncio.Task[object]) -> None:
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=_GRACE_SEC)
    if not done:
        _log.error("the provider ignores that its call was cancelled; the call is left behind")
    elif not task.cancelled():
        task.exception()  # too late to matter; asked for, so that asyncio does not report it as lost


def _failure(error: BaseException) -> CallFailed:
    retry_after = getattr(error, "retry_after", None)
    if not isinstance(retry_after, int | float) or not 0 <= retry_after < float("inf"):
        retry_after = None
    kind = type(error).__name__
    spent = kind not in _TRANSIENT and kind != "Rejected"
    try:
        text = f"{kind}: {error!s:.500}"
    except Exception:  # noqa: BLE001  # an error that cannot be shown is still an error
        text = kind
    return CallFailed(kind, text, retry_after=retry_after, spent=spent)


def _checked(given: object, messages: Sequence[ChatMessage]) -> Reply:
    """`given` as a reply whose fields are what they claim to be."""
    if not isinstance(given, Reply):
        raise CallFailed("no_reply", f"the provider returned {type(given).__name__}, not a Reply")
    text: object = given.text
    if text is None and given.tool_calls:
        text = ""
    if not isinstance(text, str):
        raise CallFailed("no_reply", f"the provider's text is {type(text).__name__}, not str")
    calls: object = given.tool_calls
    if not isinstance(calls, tuple | list) or not all(isinstance(one, ToolCall) for one in calls[:_MAX_CALLS_READ]):
        raise CallFailed("no_reply", "the provider's tool_calls are no tuple of ToolCall")
    usage = _usage(given.usage, text, messages)
    model: object = given.model
    finish: object = given.finish
    return Reply(text, tuple(calls[:_MAX_CALLS_READ]), usage, str(model)[:200], str(finish)[:40])


def _usage(given: object, text: str, messages: Sequence[ChatMessage]) -> Usage:
    counts = (getattr(given, "input_tokens", 0), getattr(given, "output_tokens", 0))
    if all(type(count) is int and 0 <= count < 2**40 for count in counts) and any(counts):
        return Usage(*counts)
    return estimated(messages, text)


def estimated(messages: Sequence[ChatMessage], text: str = "") -> Usage:
    """About what a call takes, where the provider does not say: a token for each four bytes, rounded up."""
    read = sum(len(message.content.encode(errors="replace")) for message in messages)
    written = len(text.encode(errors="replace"))
    return Usage(-(-read // _BYTES_A_TOKEN), -(-written // _BYTES_A_TOKEN))


def _model_of(provider: object) -> str:
    model = getattr(provider, "model", "")
    return model[:200] if isinstance(model, str) else ""


def _provider_name(provider: object) -> str:
    name = getattr(provider, "vendor", None)
    return (
        name if isinstance(name, str) and name else type(provider).__name__.lstrip("_").removesuffix("Provider").lower()
    )
