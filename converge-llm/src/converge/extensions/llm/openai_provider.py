"""Models of OpenAI, and of everything that speaks its chat completions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from attrs import field, frozen, validators

from converge.extensions.llm.completions import CompletionStream, completion_reply, request_messages, request_tools
from converge.extensions.llm.connections import connection_options
from converge.extensions.llm.vendor import VendorProvider
from converge.plugins import Secret

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from openai import AsyncOpenAI

    from converge.extensions.llm.chat import Reply
    from converge.extensions.llm.vendor import Request

__all__ = ["OpenAIOptions", "OpenAIProvider"]


@frozen
class OpenAIOptions:
    """What a table with `use = "openai"` may say."""

    api_key: Secret | None = None
    model: str = "gpt-4o-mini"
    base_url: str | None = None
    timeout_sec: float = field(default=60.0, validator=validators.gt(0))
    max_output_tokens: int | None = field(default=None, validator=validators.optional(validators.ge(1)))


class OpenAIProvider(VendorProvider):
    """A model of OpenAI; with `base_url`, one of any server that speaks chat completions: vLLM, Ollama, a gateway.

    The key is `api_key`, or `OPENAI_API_KEY`; a server at `base_url` may do without. There the limit on output goes by
    its older name `max_tokens`, which such servers know.
    """

    vendor: ClassVar[str] = "openai"
    converge_options = OpenAIOptions
    _sdk: ClassVar[str] = "openai"
    _variable: ClassVar[str] = "OPENAI_API_KEY"
    _also: ClassVar[tuple[str, ...]] = ("openai.resources.chat.completions.completions", "openai.pagination")

    def __init__(
        self,
        api_key: str | Secret | None = None,
        model: str = "gpt-4o-mini",
        *,
        base_url: str | None = None,
        timeout_sec: float = 60.0,
        max_output_tokens: int | None = None,
    ) -> None:
        super().__init__(
            api_key, model, base_url=base_url, timeout_sec=timeout_sec, max_output_tokens=max_output_tokens
        )

    def _default_key(self) -> str | None:
        return None if self.base_url is None else "none"

    def _connect(self, key: str) -> AsyncOpenAI:
        connections = self._library.DefaultAsyncHttpxClient(**connection_options())
        client: AsyncOpenAI = self._library.AsyncOpenAI(
            api_key=key, base_url=self.base_url, max_retries=0, timeout=self.timeout_sec, http_client=connections
        )
        return client

    async def _disconnect(self, client: AsyncOpenAI) -> None:
        await client.close()

    async def _ask(self, client: AsyncOpenAI, request: Request) -> Reply:
        create: Any = client.chat.completions.create  # typed for literals, where we have data
        completion = await create(**self._arguments(request))
        return completion_reply(self._body(completion), asked=self._asked)

    async def _pieces(self, client: AsyncOpenAI, request: Request) -> AsyncGenerator[str | Reply, None]:
        create: Any = client.chat.completions.create  # as above
        arrived = CompletionStream(asked=self._asked)
        chunks = await create(**self._arguments(request), stream=True, stream_options={"include_usage": True})
        async with chunks:
            async for chunk in chunks:
                piece = arrived.add(self._body(chunk))
                if piece:
                    yield piece
        yield arrived.reply()

    def _arguments(self, request: Request) -> dict[str, Any]:
        arguments: dict[str, Any] = {"model": request.model, "messages": request_messages(request.messages)}
        if request.tools:
            arguments["tools"] = request_tools(request.tools)
        if request.max_output_tokens is not None:
            limit = "max_completion_tokens" if self.base_url is None else "max_tokens"
            arguments[limit] = request.max_output_tokens
        if request.temperature is not None:
            arguments["temperature"] = request.temperature
        return arguments
