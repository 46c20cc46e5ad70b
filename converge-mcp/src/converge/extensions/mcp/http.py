"""An MCP server behind a URL: streamable HTTP, with a bound for what one answer may hold."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx2
from mcp.client.streamable_http import streamable_http_client

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

    from mcp.client._transport import TransportStreams

__all__ = ["endpoint"]

_IDLE_SEC = 60.0
"""How much longer than a call a response may be silent: the caller gives up first, and says so to the server."""


@asynccontextmanager
async def endpoint(
    url: str, headers: Mapping[str, str], *, timeout_sec: float, max_message_bytes: int
) -> AsyncGenerator[TransportStreams, None]:
    """Streams of the messages from and to the server at `url`.

    Redirects are followed within its origin only, so that no answer chooses another host; no proxy or password is
    taken from the environment.
    """
    timeout = httpx2.Timeout(min(timeout_sec, 30.0), read=timeout_sec + _IDLE_SEC)
    transport = _Bounded(httpx2.AsyncHTTPTransport(), max_message_bytes)
    async with (
        httpx2.AsyncClient(headers=dict(headers), timeout=timeout, transport=transport, trust_env=False) as client,
        streamable_http_client(url, http_client=client, max_sse_event_size=max_message_bytes) as streams,
    ):
        yield streams


class _Bounded(httpx2.AsyncBaseTransport):
    """Cuts an answer off that is larger than `limit`; the events of a stream are bounded each by the SDK."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, limit: int) -> None:
        self._inner, self._limit = inner, limit

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._inner.handle_async_request(request)
        if "text/event-stream" not in response.headers.get("content-type", ""):
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = _BoundedStream(response.stream, self._limit)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _BoundedStream(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream, limit: int) -> None:
        self._inner, self._left, self._limit = inner, limit, limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            self._left -= len(chunk)
            if self._left < 0:
                raise httpx2.ReadError(f"the answer takes more than max_message_bytes = {self._limit}")
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()
