"""The fixtures of the contract, and what its author may declare."""
# these are tests, shipped to authors
# the name of a test is its sentence

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias, TypeVar

import pytest
from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Answer", "Failure", "FailureKind", "FunctionCall", "ProviderFixtures", "Subject", "Vendor"]

_Result = TypeVar("_Result")

Subject: TypeAlias = Any
"""An `LLMProvider`, perhaps a `ChatProvider`: their module is not imported here."""

FailureKind = Literal["rate_limited", "overloaded", "rejected", "no_key", "hang", "broken", "garbage"]


@frozen
class FunctionCall:
    """A call that the vendor's model asks for."""

    name: str
    arguments: Mapping[str, Any]


@frozen
class Answer:
    """What the vendor's model answers to one request."""

    text: str = "Paris."
    calls: tuple[FunctionCall, ...] = ()
    input_tokens: int = 12
    output_tokens: int = 7
    finish: Literal["stop", "length", "tool_calls", "refused"] = "stop"


@frozen
class Failure:
    """How the vendor fails at one request.

    rate_limited: 429 with `retry_after` as its header; overloaded: 503; rejected: 400; no_key: 401, and the answer
    quotes the key; hang: no answer; broken: the answer breaks off in the middle; garbage: 200 with what is no answer.
    """

    kind: FailureKind
    retry_after: str | None = None


class Vendor(Protocol):
    """The other side: a server on loopback that speaks as the vendor does."""

    def will(self, *outcomes: Answer | Failure) -> None:
        """Answer the next requests so, one each, streamed where a request asks for it."""
        ...


class ProviderFixtures:
    """What the author of a provider gives and declares."""

    key: ClassVar[str | None] = None
    """The API key that the provider is made with: it must be in no text. None: it has none."""
    patience: ClassVar[float] = 60.0
    """After how many seconds a call is taken for blocked."""
    at_once: ClassVar[int] = 4
    """So many calls are made at the same time."""

    finishes: ClassVar[frozenset[str]] = frozenset({"length", "refused"})
    """Which ends of a reply, besides stop and tool_calls, the vendor tells apart."""

    @pytest.fixture
    def subject(self) -> Subject:
        """The provider."""
        raise NotImplementedError("override the fixture `subject`")

    @pytest.fixture
    def vendor(self) -> Vendor | None:
        """The other side of `subject`, told what to answer. None: what needs to know the answer is skipped."""
        return None

    @pytest.fixture
    def impatient(self) -> Subject:
        """A provider as `subject` whose time limit is less than a second. None: that test is skipped."""
        return None

    def told(self, vendor: Vendor | None, *outcomes: Answer | Failure) -> None:
        """Have the vendor answer so, or skip the test."""
        if vendor is None:
            pytest.skip("the test class gives no `vendor`")
        vendor.will(*outcomes)

    def completing(self, subject: Subject) -> Subject:
        """`subject`, if it can `complete`; else the test is skipped."""
        if not callable(getattr(subject, "complete", None)):
            pytest.skip("the provider has `chat` only")
        return subject

    def run(self, subject: Subject, use: Callable[[Any], Awaitable[_Result]]) -> _Result:
        """What `use(subject)` gives on an event loop of its own, at whose end the provider is closed."""

        async def used() -> _Result:
            try:
                async with asyncio.timeout(self.patience):
                    return await use(subject)
            finally:
                if callable(getattr(subject, "aclose", None)):
                    await subject.aclose()

        return asyncio.run(used())
