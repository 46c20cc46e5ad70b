"""`chat` and `chat_stream` for providers that are asynchronous at heart."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from converge.extensions.llm.blocking import iterate, wait_for
from converge.extensions.llm.plain_messages import chat_messages

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Sequence

    from converge.extensions.llm.chat import ChatMessage, Reply, ToolSpec

__all__ = ["BlockingChat"]


class BlockingChat:
    """Write `complete` and `stream`; blocking `chat` and `chat_stream` come with it."""

    def chat(self, messages: list[dict[str, Any]], **kwargs: Any) -> str:
        """The text of the reply; blocks the calling thread.

        `messages` are dicts with "role" and "content". `kwargs` are those of `complete`: `tools`, `max_output_tokens`
        and `temperature`.
        """
        return wait_for(self.complete(chat_messages(messages), **kwargs)).text

    def chat_stream(self, messages: list[dict[str, Any]], **kwargs: Any) -> Iterator[str]:
        """The text of the reply in pieces as they come; each step blocks the calling thread. Arguments as of `chat`."""
        for piece in iterate(self.stream(chat_messages(messages), **kwargs)):
            if isinstance(piece, str):
                yield piece

    @abstractmethod
    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        tools: Sequence[ToolSpec] = (),
        max_output_tokens: int | None = None,
        temperature: float | None = None,
    ) -> Reply:
        """The reply to `messages`."""

    @abstractmethod
    def stream(
        self,
        messages: Sequence[ChatMessage],
        *,
        tools: Sequence[ToolSpec] = (),
        max_output_tokens: int | None = None,
        temperature: float | None = None,
    ) -> AsyncGenerator[str | Reply, None]:
        """The reply in pieces, and then as a whole."""
