"""What the connections to all vendors have in common: one TLS context, and answers that are bounded."""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from converge.extensions.llm.errors import BadReply

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

    from httpx2 import Response

__all__ = ["MOST_BYTES", "check_url", "connection_options", "tls_context"]

MOST_BYTES = 64 * 1024 * 1024
"""Bytes of one answer; one with more is a `BadReply`. A stream of 128,000 tokens, a frame each, has about 36 MB."""


def check_url(url: str) -> None:
    """Refuse, by a `ValueError`, what is no address of a server, and one with a password, which would be shown."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port or a host that cannot be one
        parts, good = None, False
    if parts is not None and parts.username is not None:
        raise ValueError("base_url has a user or a password in it; give the key as api_key")
    if not good:
        raise ValueError(f"base_url is http:// or https:// with a host, not {url!r:.200}")


@cache
def tls_context() -> ssl.SSLContext:
    """One for all connections: to read the certificates takes 50 ms, which no event loop should wait for."""
    context: ssl.SSLContext = importlib.import_module("httpx2").create_ssl_context()  # what all the libraries stand on
    return context


def connection_options() -> dict[str, Any]:
    """Arguments of an `httpx2.AsyncClient`. Nothing is asked for compressed: a few bytes could become gigabytes."""
    return {
        "verify": tls_context(),
        "headers": {"Accept-Encoding": "identity"},
        "event_hooks": {"response": [_bound]},
    }


async def _bound(response: Response) -> None:
    encoding = response.headers.get("content-encoding", "identity")
    if encoding != "identity":
        await response.aclose()
        raise BadReply(f"the answer is compressed ({encoding:.40}), which was not asked for")
    response.stream = _bounded_stream()(response.stream)


@cache
def _bounded_stream() -> type[Any]:
    base: Any = importlib.import_module("httpx2").AsyncByteStream

    class BoundedStream(base):  # type: ignore[misc]  # its class is there when a vendor's library is
        """A body that ends with an error beyond `MOST_BYTES`."""

        def __init__(self, stream: Any) -> None:  # noqa: ANN401  # an AsyncByteStream
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            left = MOST_BYTES
            async for part in self._stream:
                left -= len(part)
                if left < 0:
                    raise BadReply(f"the answer has more than {MOST_BYTES} bytes")
                yield part

        async def aclose(self) -> None:
            await self._stream.aclose()

    return BoundedStream
