"""Models of Mistral."""

from __future__ import annotations

import importlib
import math
import re
from typing import TYPE_CHECKING, Any, ClassVar, Final

from attrs import field, frozen, validators

from converge.extensions.llm.completions import CompletionStream, completion_reply, request_messages, request_tools
from converge.extensions.llm.connections import connection_options, tls_context
from converge.extensions.llm.vendor import VendorProvider
from converge.plugins import Secret

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from mistralai.client import Mistral

    from converge.extensions.llm.chat import Reply
    from converge.extensions.llm.vendor import Request

__all__ = ["MistralOptions", "MistralProvider"]

_IDS: Final = re.compile(r"[a-zA-Z0-9]{9}")  # the only ids of calls that the vendor takes


@frozen
class MistralOptions:
    """What a table with `use = "mistral"` may say."""

    api_key: Secret | None = None
    model: str = "mistral-small-latest"
    base_url: str | None = None
    timeout_sec: float = field(default=60.0, validator=validators.gt(0))
    max_output_tokens: int | None = field(default=None, validator=validators.optional(validators.ge(1)))


class MistralProvider(VendorProvider):
    """A model of Mistral. The key is `api_key`, or `MISTRAL_API_KEY`."""

    vendor: ClassVar[str] = "mistral_ai"
    converge_options = MistralOptions
    _sdk: ClassVar[str] = "mistralai.client"
    _variable: ClassVar[str] = "MISTRAL_API_KEY"
    _also: ClassVar[tuple[str, ...]] = ("mistralai.client.chat",)

    def __init__(
        self,
        api_key: str | Secret | None = None,
        model: str = "mistral-small-latest",
        *,
        base_url: str | None = None,
        timeout_sec: float = 60.0,
        max_output_tokens: int | None = None,
    ) -> None:
        super().__init__(
            api_key, model, base_url=base_url, timeout_sec=timeout_sec, max_output_tokens=max_output_tokens
        )

    def _connect(self, key: str) -> Mistral:
        # its own connections are closed by a finalizer, wherever that happens to run: these are closed by us
        connections = importlib.import_module("httpx2")
        client: Mistral = self._library.Mistral(
            api_key=key,
            server_url=self.base_url,
            client=connections.Client(verify=tls_context()),
            async_client=connections.AsyncClient(**connection_options(), follow_redirects=True),
            retry_config=None,
            timeout_ms=math.ceil(self.timeout_sec * 1000),
        )
        return client

    async def _disconnect(self, client: Mistral) -> None:
        settings = client.sdk_configuration
        if settings.async_client is not None:
            await settings.async_client.aclose()
        if settings.client is not None:
            settings.client.close()

    async def _ask(self, client: Mistral, request: Request) -> Reply:
        complete: Any = client.chat.complete_async  # typed for literals, where we have data
        completion = await complete(**_arguments(request))
        return completion_reply(self._body(completion), asked=self._asked)

    async def _pieces(self, client: Mistral, request: Request) -> AsyncGenerator[str | Reply, None]:
        begin: Any = client.chat.stream_async  # as above
        arrived = CompletionStream(asked=self._asked)
        async with await begin(**_arguments(request)) as events:
            async for event in events:
                piece = arrived.add(self._body(event.data))
                if piece:
                    yield piece
        yield arrived.reply()


def _arguments(request: Request) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "model": request.model,
        "messages": request_messages(request.messages, ids=_IDS, id_length=9),
    }
    if request.tools:
        arguments["tools"] = request_tools(request.tools)
    if request.max_output_tokens is not None:
        arguments["max_tokens"] = request.max_output_tokens
    if request.temperature is not None:
        arguments["temperature"] = request.temperature
    return arguments
