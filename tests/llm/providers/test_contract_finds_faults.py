"""What is wrong with a provider is found by the contract."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from converge.extensions.llm import BadReply, ChatMessage, Overloaded, Reply, ScriptedProvider
from converge.testing.llm import LLMProviderContract
from tests.llm.providers.test_contract_of_others import ScriptedVendor

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

KEY = "sk-0123456"


class Contract(LLMProviderContract):
    key = KEY
    patience = 1.0


class ChangesMessages:
    def chat(self, messages: list[dict[str, Any]], **kwargs: Any) -> str:
        messages.append({"role": "assistant", "content": "x"})
        return "x"


class GivesNothing:
    def chat(self, messages: list[dict[str, Any]], **kwargs: Any) -> None:
        return None


class ShowsItsKey(ScriptedProvider):
    def __repr__(self) -> str:
        return f"ShowsItsKey({KEY})"

    async def complete(self, messages: Sequence[ChatMessage], **options: Any) -> Reply:
        raise Overloaded(f"the key {KEY} is overloaded")


class WithoutReply(ScriptedProvider):
    async def stream(self, messages: Sequence[ChatMessage], **options: Any) -> AsyncGenerator[str | Reply, None]:
        async for piece in super().stream(messages, **options):
            if isinstance(piece, str):
                yield piece


class BlocksTheLoop(ScriptedProvider):
    async def complete(self, messages: Sequence[ChatMessage], **options: Any) -> Reply:
        reply = await super().complete(messages, **options)
        time.sleep(1.2 * Contract.patience)  # noqa: ASYNC251  # the fault
        return reply


class OneKindOfError(ScriptedProvider):
    async def complete(self, messages: Sequence[ChatMessage], **options: Any) -> Reply:
        raise BadReply("something")


@pytest.mark.parametrize("provider", [ChangesMessages(), GivesNothing()])
def test_a_chat_that_is_none(provider: Any) -> None:
    contract = Contract()
    with pytest.raises(AssertionError):  # noqa: PT012  # one of the two finds it
        contract.test_chat_gives_the_text(provider, None)
        contract.test_chat_leaves_the_messages_as_they_were(provider, None)


def test_a_key_that_is_shown() -> None:
    provider, vendor = ShowsItsKey(["x"]), ScriptedVendor()
    with pytest.raises(AssertionError):
        Contract().test_the_key_is_not_shown(provider)
    with pytest.raises(AssertionError):
        Contract().test_a_failure_is_the_error_that_says_what_to_do(provider, vendor, "overloaded", streamed=False)


def test_a_stream_without_its_reply() -> None:
    with pytest.raises((AssertionError, AttributeError)):
        Contract().test_a_reply_has_text_usage_model_and_finish(
            WithoutReply(["one two"]), ScriptedVendor(), streamed=True
        )


def test_a_call_that_blocks_the_loop() -> None:
    vendor = ScriptedVendor()
    vendor.provider = BlocksTheLoop(["a", "b"])
    with pytest.raises((AssertionError, TimeoutError)):
        Contract().test_a_call_does_not_block_the_event_loop(vendor.provider, vendor)


def test_an_error_of_another_kind() -> None:
    for kind in ("rate_limited", "overloaded", "rejected"):
        with pytest.raises(AssertionError):
            Contract().test_a_failure_is_the_error_that_says_what_to_do(
                OneKindOfError(["x"]), ScriptedVendor(), kind, streamed=False
            )


def test_what_is_as_it_should_be_is_not_found_fault_with() -> None:
    vendor = ScriptedVendor()
    contract = LLMProviderContract()  # with all the patience of its own
    contract.test_a_failure_is_the_error_that_says_what_to_do(vendor.provider, vendor, "overloaded", streamed=True)
    vendor = ScriptedVendor()
    contract.test_a_call_does_not_block_the_event_loop(vendor.provider, vendor)
