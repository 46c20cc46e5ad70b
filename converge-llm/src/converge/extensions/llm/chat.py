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
    """What a call took."""

    input_tokens: int = 0
    output_tokens: int = 0


@frozen
class Reply:
    """What a model answered. `finish`: stop, length, tool_calls or refused."""

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = field(factory=Usage)
    model: str = ""
    finish: str = "stop"


@frozen
class ChatMessage:
    """One message of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@runtime_checkable
class LLMProvider(Protocol):
    """What a provider of your own needs."""

    def chat(self, messages: list[dict[str, Any]], **kwargs: Any) -> str:
        """The reply to `messages`."""
        ...


class ChatProvider(Protocol):
    """What the providers of Converge have besides."""

    model: str

    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        tools: Sequence[ToolSpec] = (),
        max_output_tokens: int | None = None,
        temperature: float | None = None,
    ) -> Reply:
        """The reply to `messages`."""
        ...

    def stream(
        self,
        messages: Sequence[ChatMessage],
        *,
        tools: Sequence[ToolSpec] = (),
        max_output_tokens: int | None = None,
        temperature: float | None = None,
    ) -> AsyncIterator[str | Reply]:
        """The reply in pieces, and then as a whole."""
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
