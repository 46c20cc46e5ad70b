"""The shapes that agents and providers exchange."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, runtime_checkable

from attrs import field, frozen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

__all__ = [
    "ChatMessage",
    "ChatProvider",
    "LLMProvider",
    "Reply",
    "ToolCall",
    "ToolSpec",
    "Usage",
    "as_chat_provider",
    "check_ready",
]


@frozen
class ToolSpec:
    """A function that a model can call; `parameters` is a JSON schema of an object."""

    name: str
    description: str
    parameters: dict[str, Any]


@frozen
class ToolCall:
    """A call that a model asks for. `arguments` is None when what it wrote (`raw`) is no JSON object."""

    id: str
    name: str
    arguments: dict[str, Any] | None
    raw: str = ""


@frozen
class Usage:
    """The tokens that a call took, as the vendor counts them; zeros where it does not say. Input includes its cache."""

    input_tokens: int = 0
    output_tokens: int = 0


@frozen
class Reply:
    """What a model answered.

    `model` is the one that answered, which may be more exact than what was asked for. `finish` is "stop", "length" (cut
    off by a limit), "tool_calls" or "refused".
    """

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = field(factory=Usage)
    model: str = ""
    finish: str = "stop"


@frozen
class ChatMessage:
    """One message of a conversation.

    `tool_calls` are those of an assistant's message; a message of the role "tool" is the result of the call
    `tool_call_id`. Several system messages become one where a vendor takes one only.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@runtime_checkable
class LLMProvider(Protocol):
    """What a provider of your own needs.

    An agent calls `chat` in a thread of its own, with a time limit: it may block, also in several threads.
    What it raises is a failed call to the agent; the classes of `converge.extensions.llm.errors` say what can be done.
    `chat_stream(messages, **kwargs)`, which gives an iterator of pieces of text, is optional.
    """

    def chat(self, messages: list[dict[str, Any]], **kwargs: Any) -> str:
        """The text of the reply to `messages`, dicts with "role" and "content", which are left as they were."""
        ...


class ChatProvider(Protocol):
    """What the providers of Converge have besides: each vendor's own function calling, without blocking.

    Both methods raise `ProviderError` of the class that says what to do, end by a time limit of their own, end at once
    when they are cancelled, and may be used on several event loops. One that has connections has `aclose()` too.
    """

    model: str

    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        tools: Sequence[ToolSpec] = (),
        max_output_tokens: int | None = None,
        temperature: float | None = None,
    ) -> Reply:
        """The reply to `messages`; of `tools`, the model may call any."""
        ...

    def stream(
        self,
        messages: Sequence[ChatMessage],
        *,
        tools: Sequence[ToolSpec] = (),
        max_output_tokens: int | None = None,
        temperature: float | None = None,
    ) -> AsyncIterator[str | Reply]:
        """The text of the reply in pieces that are not empty, and then the whole `Reply`; never without it."""
        ...


def as_chat_provider(provider: object) -> ChatProvider:
    """`provider` itself if it can `complete`; else one that calls its `chat` in a thread of its own."""
    if callable(getattr(provider, "complete", None)):
        return cast("ChatProvider", provider)
    if callable(getattr(provider, "chat", None)):
        return _Threaded(cast("LLMProvider", provider))
    raise TypeError(f"{type(provider).__name__} is no provider: it has neither chat(messages) nor complete(messages)")


class _Threaded:
    def __init__(self, provider: LLMProvider) -> None:
        self._provider = provider
        self.model = str(getattr(provider, "model", ""))

    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        tools: Sequence[ToolSpec] = (),
        max_output_tokens: int | None = None,
        temperature: float | None = None,
    ) -> Reply:
        plain = [{"role": message.role, "content": message.content} for message in messages]
        text = await _in_thread(self._provider, plain)
        return Reply(cast("str", text), model=self.model)

    async def stream(
        self,
        messages: Sequence[ChatMessage],
        *,
        tools: Sequence[ToolSpec] = (),
        max_output_tokens: int | None = None,
        temperature: float | None = None,
    ) -> AsyncIterator[str | Reply]:
        reply = await self.complete(messages)
        yield reply.text
        yield reply


async def _in_thread(provider: LLMProvider, messages: list[dict[str, Any]]) -> object:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[object] = loop.create_future()

    def settle(value: object, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(value)
        elif isinstance(error, Exception) and not isinstance(error, StopIteration):
            done.set_exception(error)
        else:
            done.set_exception(RuntimeError(f"the provider raised {type(error).__name__}: {error}"))

    def work() -> None:
        value: object = None
        failure: BaseException | None = None
        try:
            value = provider.chat(messages)
        except BaseException as error:  # noqa: BLE001  # whatever a provider raises is handed to who awaits it
            failure = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, value, failure)

    threading.Thread(target=contextvars.copy_context().run, args=(work,), name="converge-llm", daemon=True).start()
    return await done


def check_ready(provider: object) -> None:
    """Raise what is known to be missing before `provider` is asked, such as `KeyMissing`; asks nobody.

    Providers say it by a method `check_ready()`; of one that has none, nothing is known.
    """
    check = getattr(provider, "check_ready", None)
    if callable(check):
        check()
