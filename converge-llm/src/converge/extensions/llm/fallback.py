"""A chain of providers, of which the next is asked when one cannot answer."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, ClassVar, Final, Self

from attrs import frozen

from converge.extensions.llm.blocking_chat import BlockingChat
from converge.extensions.llm.chat import as_chat_provider, check_ready
from converge.extensions.llm.closing import closed
from converge.extensions.llm.errors import KeyMissing, Overloaded, ProviderError, ProviderTimeout, RateLimited
from converge.plugins import plugin_field

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

    from converge.extensions.llm.chat import ChatMessage, ChatProvider, LLMProvider, Reply, ToolSpec

__all__ = ["FallbackOptions", "FallbackProvider"]

_NEXT: Final = (RateLimited, Overloaded, ProviderTimeout, KeyMissing)
_log = logging.getLogger(__name__)


@frozen
class FallbackOptions:
    """What a table with `use = "fallback"` may say: the providers, the first one first."""

    providers: list[object] = plugin_field("llm_provider")  # noqa: RUF009  # makes an attrs field


class FallbackProvider(BlockingChat):
    """Asks the first of `providers`, and the next one where that cannot answer.

    It cannot: `RateLimited`, `Overloaded`, `ProviderTimeout`, `KeyMissing`. Other errors are raised at once: the next
    provider would be asked for the same mistake. One that said how long to wait is passed over until then, unless all
    are. A stream changes over only while nothing of it has been handed on. When none can answer, the error is of the
    kind that a wait can help against, if one was, with the shortest wait. `clock` gives seconds.
    """

    converge_options = FallbackOptions
    vendor: ClassVar[str] = "fallback"

    def __init__(
        self, providers: Sequence[LLMProvider | ChatProvider], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if not providers:
            raise ValueError("providers is a list of one provider at least; a table's are tables with `use`")
        self.providers = [as_chat_provider(provider) for provider in providers]
        self.passed_over: Counter[int] = Counter()
        """How often the provider at each place could not answer."""
        self._not_before = [0.0] * len(self.providers)
        self._clock = clock

    @classmethod
    def from_options(cls, options: FallbackOptions) -> Self:
        """The chain that a table describes."""
        return cls(options.providers)  # type: ignore[arg-type]  # as_chat_provider refuses what is no provider

    @property
    def model(self) -> str:
        """The model of the first provider; a reply names the one that answered."""
        return self.providers[0].model

    def __repr__(self) -> str:
        return f"FallbackProvider({self.providers!r})"

    def check_ready(self) -> None:
        """Raise what is missing, if every provider is known to miss something."""
        missing: list[ProviderError] = []
        for provider in self.providers:
            try:
                check_ready(provider)
            except ProviderError as error:
                missing.append(error)
        if len(missing) == len(self.providers):
            raise missing[0]

    def to_options(self) -> dict[str, object]:
        """The options that make an equal provider."""
        return {"providers": list(self.providers)}

    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        tools: Sequence[ToolSpec] = (),
        max_output_tokens: int | None = None,
        temperature: float | None = None,
    ) -> Reply:
        failures: list[ProviderError] = []
        for place in self._order():
            try:
                return await self.providers[place].complete(
                    messages, tools=tools, max_output_tokens=max_output_tokens, temperature=temperature
                )
            except _NEXT as error:
                self._pass_over(place, error)
                failures.append(error)
        raise _all_failed(failures)

    async def stream(
        self,
        messages: Sequence[ChatMessage],
        *,
        tools: Sequence[ToolSpec] = (),
        max_output_tokens: int | None = None,
        temperature: float | None = None,
    ) -> AsyncGenerator[str | Reply, None]:
        failures: list[ProviderError] = []
        for place in self._order():
            begun = False
            pieces = self.providers[place].stream(
                messages, tools=tools, max_output_tokens=max_output_tokens, temperature=temperature
            )
            try:
                async with closed(pieces):
                    async for piece in pieces:
                        begun = True
                        yield piece
                return  # noqa: TRY300  # an else would be of the whole block
            except _NEXT as error:
                if begun:
                    raise
                self._pass_over(place, error)
                failures.append(error)
        raise _all_failed(failures)

    async def aclose(self) -> None:
        """Close each of the providers that can be closed; what one raises is raised when all have been."""
        problems: list[Exception] = []
        for provider in self.providers:
            close = getattr(provider, "aclose", None)
            try:
                if close is not None:
                    await close()
            except Exception as error:  # noqa: BLE001  # raised below
                problems.append(error)
        if problems:
            raise problems[0]

    def _order(self) -> Iterator[int]:
        now = self._clock()
        ready = [place for place, moment in enumerate(self._not_before) if moment <= now]
        yield from ready or range(len(self.providers))

    def _pass_over(self, place: int, error: ProviderError) -> None:
        self.passed_over[place] += 1
        retry_after = getattr(error, "retry_after", None)
        if retry_after is not None:
            self._not_before[place] = self._clock() + retry_after
        _log.warning("provider %d of %d cannot answer: %s", place + 1, len(self.providers), error)


def _all_failed(failures: Sequence[ProviderError]) -> ProviderError:
    text = "no provider can answer: " + "; ".join(str(error) for error in failures)
    waits = [wait for error in failures if (wait := getattr(error, "retry_after", None)) is not None]
    wait = min(waits, default=None)
    if any(isinstance(error, RateLimited) for error in failures):
        return RateLimited(text, retry_after=wait)
    if any(isinstance(error, Overloaded) for error in failures):
        return Overloaded(text, retry_after=wait)
    if any(isinstance(error, ProviderTimeout) for error in failures):
        return ProviderTimeout(text)
    return KeyMissing(text)
