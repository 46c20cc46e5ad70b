"""Models of Anthropic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from attrs import field, frozen, validators

from converge.extensions.llm.anthropic_messages import MessageStream, message_reply, request_messages, request_tools
from converge.extensions.llm.connections import connection_options
from converge.extensions.llm.vendor import VendorProvider
from converge.plugins import Secret

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anthropic import AsyncAnthropic

    from converge.extensions.llm.chat import Reply
    from converge.extensions.llm.vendor import Request

__all__ = ["AnthropicOptions", "AnthropicProvider"]

_MOST_OUTPUT: Final = 4096  # the interface wants a limit; all its models can write this much


@frozen
class AnthropicOptions:
    """What a table with `use = "anthropic"` may say."""

    api_key: Secret | None = None
    model: str = "claude-sonnet-4-20250514"
    base_url: str | None = None
    timeout_sec: float = field(default=60.0, validator=validators.gt(0))
    max_output_tokens: int | None = field(default=None, validator=validators.optional(validators.ge(1)))


class AnthropicProvider(VendorProvider):
    """A model of Anthropic. The key is `api_key`, or `ANTHROPIC_API_KEY`.

    The interface wants a limit on output: 4096 tokens where none is set.
    """

    vendor: ClassVar[str] = "anthropic"
    converge_options = AnthropicOptions
    _sdk: ClassVar[str] = "anthropic"
    _variable: ClassVar[str] = "ANTHROPIC_API_KEY"

    def __init__(
        self,
        api_key: str | Secret | None = None,
        model: str = "claude-sonnet-4-20250514",
        *,
        base_url: str | None = None,
        timeout_sec: float = 60.0,
        max_output_tokens: int | None = None,
    ) -> None:
        super().__init__(
            api_key, model, base_url=base_url, timeout_sec=timeout_sec, max_output_tokens=max_output_tokens
        )

    def _connect(self, key: str) -> AsyncAnthropic:
        connections = self._library.DefaultAsyncHttpxClient(**connection_options())
        client: AsyncAnthropic = self._library.AsyncAnthropic(
            api_key=key,
            base_url=self.base_url,
            max_retries=0,
            timeout=self.timeout_sec,
            http_client=connections,
            open_telemetry=False,  # the spans are ours
        )
        return client

    async def _disconnect(self, client: AsyncAnthropic) -> None:
        await client.close()

    async def _ask(self, client: AsyncAnthropic, request: Request) -> Reply:
        create: Any = client.messages.create  # typed for literals, where we have data
        message = await create(**_arguments(request))
        return message_reply(self._body(message), asked=self._asked)

    async def _pieces(self, client: AsyncAnthropic, request: Request) -> AsyncGenerator[str | Reply, None]:
        create: Any = client.messages.create  # as above
        arrived = MessageStream(asked=self._asked)
        async with await create(**_arguments(request), stream=True) as events:
            async for event in events:
                piece = arrived.add(self._body(event))
                if piece:
                    yield piece
        yield arrived.reply()


def _arguments(request: Request) -> dict[str, Any]:
    system, turns = request_messages(request.messages)
    arguments: dict[str, Any] = {
        "model": request.model,
        "messages": turns,
        "max_tokens": request.max_output_tokens or _MOST_OUTPUT,
    }
    if system:
        arguments["system"] = system
    if request.tools:
        arguments["tools"] = request_tools(request.tools)
    if request.temperature is not None:
        arguments["extra_body"] = {
            "temperature": request.temperature
        }  # the library no longer names it; models do take it
    return arguments
