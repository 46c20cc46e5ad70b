"""A provider that waits and asks again."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, ClassVar, Final

from attrs import field, frozen, validators

from converge.extensions.llm.blocking_chat import BlockingChat
from converge.extensions.llm.chat import as_chat_provider, check_ready
from converge.extensions.llm.closing import closed
from converge.extensions.llm.errors import BadReply, Overloaded, ProviderError, ProviderTimeout, RateLimited
from converge.plugins import plugin_field

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from converge.extensions.llm.chat import ChatMessage, ChatProvider, LLMProvider, Reply, ToolSpec

__all__ = ["RetryingOptions", "RetryingProvider", "retrying"]

_AGAIN: Final = (RateLimited, Overloaded, ProviderTimeout, BadReply)
_FIRST_WAIT_SEC: Final = 1.0
_SPREAD: Final = 0.1
_log = logging.getLogger(__name__)


@frozen
class RetryingOptions:
    """What a table with `use = "retrying"` may say."""

    provider: object = plugin_field("llm_provider")
    attempts: int = field(default=4, validator=validators.ge(1))
    most_wait_sec: float = field(default=60.0, validator=validators.ge(0))


def retrying(
    provider: LLMProvider | ChatProvider,
    attempts: int = 4,
    most_wait_sec: float = 60.0,
    *,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    chance: Callable[[], float] = random.random,
) -> RetryingProvider:
    """`provider`, asked up to `attempts` times; see `RetryingProvider`."""
    return RetryingProvider(provider, attempts, most_wait_sec, sleep=sleep, chance=chance)


class RetryingProvider(BlockingChat):
    """A provider that asks another one again when that may help.

    That is at `RateLimited`, `Overloaded`, `ProviderTimeout` and `BadReply`. It waits as long as the vendor says
    (Retry-After) and up to a tenth more; else twice as long each time, from a second on, times a random number from a
    half to one: many who failed at once shall not come back at once. All waits of a call together are at most
    `most_wait_sec`: one beyond that is not begun, the error is raised at once. A stream is begun again only while
    nothing of it has been handed on. Each attempt may cost tokens. `sleep` takes seconds; `chance` gives a number from
    0 to 1.
    """

    converge_options = RetryingOptions
    vendor: ClassVar[str] = "retrying"

    def __init__(
        self,
        provider: LLMProvider | ChatProvider,
        attempts: int = 4,
        most_wait_sec: float = 60.0,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        if attempts < 1 or most_wait_sec < 0:
            raise ValueError(f"attempts is 1 at least and most_wait_sec not negative, not {attempts}, {most_wait_sec}")
        self.provider = as_chat_provider(provider)
        self.attempts, self.most_wait_sec = attempts, most_wait_sec
        self.retries = 0
        """How often it has asked again, over all calls."""
        self._sleep, self._chance = sleep, chance

    @property
    def model(self) -> str:
        """The model that is asked."""
        return self.provider.model

    def __repr__(self) -> str:
        return f"RetryingProvider({self.provider!r}, attempts={self.attempts})"

    def check_ready(self) -> None:
        """Raise what the provider that is asked is known to be missing."""
        check_ready(self.provider)

    def to_options(self) -> dict[str, object]:
        """The options that make an equal provider."""
        return {"provider": self.provider, "attempts": self.attempts, "most_wait_sec": self.most_wait_sec}

    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        tools: Sequence[ToolSpec] = (),
        max_output_tokens: int | None = None,
        temperature: float | None = None,
    ) -> Reply:
        waits = _Waits(self)
        while True:
            try:
                return await self.provider.complete(
                    messages, tools=tools, max_output_tokens=max_output_tokens, temperature=temperature
                )
            except _AGAIN as error:
                wait = waits.after(error)
                if wait is None:
                    raise
            await self._pause(wait)

    async def stream(
        self,
        messages: Sequence[ChatMessage],
        *,
        tools: Sequence[ToolSpec] = (),
        max_output_tokens: int | None = None,
        temperature: float | None = None,
    ) -> AsyncGenerator[str | Reply, None]:
        waits, begun = _Waits(self), False
        while True:
            pieces = self.provider.stream(
                messages, tools=tools, max_output_tokens=max_output_tokens, temperature=temperature
            )
            try:
                async with closed(pieces):
                    async for piece in pieces:
                        begun = True
                        yield piece
                return  # noqa: TRY300  # an else would read the stream outside of the try
            except _AGAIN as error:
                wait = None if begun else waits.after(error)
                if wait is None:
                    raise
            await self._pause(wait)

    async def aclose(self) -> None:
        """Close the provider."""
        close = getattr(self.provider, "aclose", None)
        if close is not None:
            await close()

    async def _pause(self, seconds: float) -> None:
        self.retries += 1
        await self._sleep(seconds)


class _Waits:
    """The waits of one call."""

    def __init__(self, settings: RetryingProvider) -> None:
        self._settings = settings
        self._asked = 0
        self._left = settings.most_wait_sec

    def after(self, error: ProviderError) -> float | None:
        """Seconds to wait before asking again; None when that is of no use any more."""
        self._asked += 1
        if self._asked >= self._settings.attempts:
            return None
        wait = self._wait(getattr(error, "retry_after", None))
        if wait > self._left:
            return None
        self._left -= wait
        _log.info("asking again in %.1f s, attempt %d: %s", wait, self._asked + 1, error)
        return wait

    def _wait(self, said: float | None) -> float:
        chance = self._settings._chance()
        if said:
            return float(said) * (1 + _SPREAD * chance)
        return _FIRST_WAIT_SEC * 2.0 ** min(self._asked - 1, 16) * (0.5 + chance / 2)
