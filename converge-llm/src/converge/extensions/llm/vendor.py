"""What the providers of the vendors have in common: key, clients, time limit, errors, spans, blocking calls."""

from __future__ import annotations

import asyncio
import importlib
import math
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from attrs import frozen

from converge.extensions.llm.blocking import blocking_loop, wait_for
from converge.extensions.llm.blocking_chat import BlockingChat
from converge.extensions.llm.chat import ChatMessage, Reply, ToolSpec
from converge.extensions.llm.connections import check_url, tls_context
from converge.extensions.llm.errors import BadReply, KeyMissing, SDKMissing
from converge.extensions.llm.spans import ChatSpan
from converge.extensions.llm.translating import provider_error
from converge.plugins import Secret

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable

__all__ = ["Request", "VendorProvider"]

_Result = TypeVar("_Result")
_END: Final = object()


@frozen
class Request:
    """One request to a vendor."""

    model: str
    messages: Sequence[ChatMessage]
    tools: Sequence[ToolSpec]
    max_output_tokens: int | None
    temperature: float | None


class VendorProvider(BlockingChat, ABC):
    """A model of a vendor, asked through the vendor's own library.

    `timeout_sec` bounds a whole call, streamed or not; the time that the reader of a stream takes does not count.
    `max_output_tokens` is what a call may write that does not say otherwise. The library retries nothing: `retrying`
    does. Every failure is a `ProviderError`, and a cancelled call closes its connection. The object may be used from
    several threads and event loops; each loop has a client of its own, which `aclose` closes.
    """

    vendor: ClassVar[str]
    """The value of `gen_ai.provider.name`."""

    _sdk: ClassVar[str]
    _variable: ClassVar[str]
    _also: ClassVar[tuple[str, ...]] = ()
    """Modules that the library would import at the first call, on the event loop."""

    def __init__(
        self,
        api_key: str | Secret | None,
        model: str,
        *,
        base_url: str | None,
        timeout_sec: float,
        max_output_tokens: int | None,
    ) -> None:
        if not model:
            raise ValueError(f"model is the name of a model, not {model!r}")
        if not 0 < timeout_sec < math.inf:
            raise ValueError(f"timeout_sec is a number of seconds above 0, not {timeout_sec!r}")
        if max_output_tokens is not None and max_output_tokens < 1:
            raise ValueError(f"max_output_tokens is a number above 0, or None; not {max_output_tokens!r}")
        if base_url is not None:
            check_url(base_url)
        self.model, self.base_url = model, base_url
        self.timeout_sec, self.max_output_tokens = timeout_sec, max_output_tokens
        self._given_key = Secret(api_key) if isinstance(api_key, str) else api_key
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()
        self._library = self._import()
        for name in self._also:
            with suppress(ImportError):  # a later version may have moved it, and imports it when it needs it
                importlib.import_module(name)
        tls_context()  # made now, not at the first call on an event loop

    def __repr__(self) -> str:
        return f"{type(self).__name__}(model={self.model!r}, base_url={self.base_url!r})"

    def to_options(self) -> dict[str, object]:
        """The options that make an equal provider, as `manager.describe` wants them."""
        return {
            "api_key": self._given_key,
            "model": self.model,
            "base_url": self.base_url,
            "timeout_sec": self.timeout_sec,
            "max_output_tokens": self.max_output_tokens,
        }

    def check_ready(self) -> None:
        """Raise `KeyMissing` when there is no usable key; nobody is asked whether it is good."""
        self._key()

    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        tools: Sequence[ToolSpec] = (),
        max_output_tokens: int | None = None,
        temperature: float | None = None,
    ) -> Reply:
        """The reply to `messages`. Raises `ProviderError` of the kind that says what to do."""
        request = self._request(messages, tools, max_output_tokens, temperature)
        with ChatSpan(self.vendor, self.model, request.max_output_tokens, temperature) as span:
            client = self._client()
            reply, _ = await self._guarded(self._ask(client, request), self.timeout_sec)
            span.note(reply)
            return reply

    async def stream(
        self,
        messages: Sequence[ChatMessage],
        *,
        tools: Sequence[ToolSpec] = (),
        max_output_tokens: int | None = None,
        temperature: float | None = None,
    ) -> AsyncGenerator[str | Reply, None]:
        """The text of the reply in pieces as they come, and at the end the whole `Reply`.

        A reply that breaks off raises `BadReply` after the pieces that came. Leave early by `aclose()` on the stream.
        """
        request = self._request(messages, tools, max_output_tokens, temperature)
        with ChatSpan(self.vendor, self.model, request.max_output_tokens, temperature) as span:
            pieces = self._pieces(self._client(), request)
            left, begun = self.timeout_sec, False
            try:
                while True:
                    piece, took = await self._guarded(_next(pieces), left, begun=begun)
                    left, begun = left - took, True
                    if piece is _END:
                        return
                    if isinstance(piece, Reply):
                        span.note(piece)
                    yield piece  # type: ignore[misc]  # all but the mark of the end are pieces
            finally:
                await pieces.aclose()

    async def aclose(self) -> None:
        """Close the client of this event loop, and that of the blocking calls; both are made anew when needed."""
        here = asyncio.get_running_loop()
        apart = blocking_loop(start=False)
        await self._close_here()
        if apart is not None and apart is not here:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._close_here(), apart))

    def close(self) -> None:
        """Close the client of the blocking calls; from an event loop, use `aclose`."""
        if blocking_loop(start=False) is not None:
            wait_for(self._close_here())

    # what a vendor adds

    @abstractmethod
    def _connect(self, key: str) -> Any:  # noqa: ANN401  # a client of the vendor's library
        """A client that retries nothing."""

    @abstractmethod
    async def _disconnect(self, client: Any) -> None:  # noqa: ANN401  # as above
        """Close a client."""

    @abstractmethod
    async def _ask(self, client: Any, request: Request) -> Reply:  # noqa: ANN401  # as above
        """One whole reply; may raise anything."""

    @abstractmethod
    def _pieces(self, client: Any, request: Request) -> AsyncGenerator[str | Reply, None]:  # noqa: ANN401  # as above
        """The reply as a stream, with the `Reply` at its end; may raise anything, `BadReply` if it breaks off."""

    def _default_key(self) -> str | None:
        """The key where none is set."""
        return None

    # in here

    @property
    def _asked(self) -> str:
        return f"{self.vendor} {self.model}"

    def _request(
        self,
        messages: Sequence[ChatMessage],
        tools: Sequence[ToolSpec],
        max_output_tokens: int | None,
        temperature: float | None,
    ) -> Request:
        most = self.max_output_tokens if max_output_tokens is None else max_output_tokens
        return Request(self.model, messages, tools, most, temperature)

    async def _guarded(self, work: Awaitable[_Result], seconds: float, *, begun: bool = False) -> tuple[_Result, float]:
        """The result of `work` and the seconds it took. Nothing of a vendor's error is chained: it holds the key."""
        clock = asyncio.get_running_loop().time
        started = clock()
        try:
            async with asyncio.timeout(seconds):
                result = await work
            return result, clock() - started
        except Exception as error:  # noqa: BLE001  # whatever a library raises becomes a ProviderError
            problem = provider_error(error, asked=self._asked, key=self._key_or_none(), begun=begun)
        raise problem

    def _client(self) -> Any:  # noqa: ANN401  # a client of the vendor's library
        loop = asyncio.get_running_loop()
        with self._lock:
            client = self._clients.get(loop)
            if client is None:
                client = self._clients[loop] = self._connected()
            return client

    def _connected(self) -> Any:  # noqa: ANN401  # as above
        key = self._key()
        try:
            return self._connect(key)
        except Exception as error:  # noqa: BLE001  # as in _guarded
            problem = provider_error(error, asked=self._asked, key=key)
        raise problem

    async def _close_here(self) -> None:
        with self._lock:
            client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await self._disconnect(client)

    def _key(self) -> str:
        key = self._key_or_none()
        if not key:
            raise KeyMissing(
                f"{self._asked}: no API key; set the environment variable {self._variable}, or give api_key"
            )
        if not key.isascii() or not key.isprintable() or " " in key:
            raise KeyMissing(
                f"{self._asked}: the API key has characters that no key has; check {self._variable}, or api_key"
            )
        return key

    def _key_or_none(self) -> str | None:
        given = self._given_key.reveal() if self._given_key is not None else os.environ.get(self._variable)
        return (given or "").strip() or self._default_key()

    def _import(self) -> Any:  # noqa: ANN401  # a module
        try:
            return importlib.import_module(self._sdk)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != self._sdk.partition(".")[0]:
                raise
        raise SDKMissing(
            f"{type(self).__name__} needs the package of its vendor: pip install 'converge-llm[{self.extra()}]'"
        )

    def _body(self, answer: object) -> dict[str, Any]:
        """The answer as plain data; the libraries give whatever came when it is nothing that they know."""
        dump = getattr(answer, "model_dump", None)
        body = None if dump is None else dump(warnings=False)
        if not isinstance(body, dict):
            raise BadReply(f"{self._asked}: the reply is no object of the interface: {answer!r:.100}")
        return body

    @classmethod
    def extra(cls) -> str:
        """The extra of converge-llm that brings the vendor's library."""
        return cls._variable.partition("_")[0].lower()


async def _next(pieces: AsyncGenerator[str | Reply, None]) -> str | Reply | object:
    try:
        return await anext(pieces)
    except StopAsyncIteration:
        return _END
