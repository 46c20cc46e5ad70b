"""Streams that are closed when their reader goes."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["closed"]


@asynccontextmanager
async def closed(stream: AsyncIterator[object]) -> AsyncIterator[None]:
    """A block at whose end `stream` is closed, if it can be: a provider of somebody else's may be a plain iterator."""
    try:
        yield
    finally:
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()
