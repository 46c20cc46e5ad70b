"""An agent whose provider can only fail does not start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from converge.core.identity import Identity
from converge.extensions.llm import FallbackProvider, LLMAgent, RecordingProvider, ScriptedProvider, retrying
from converge.extensions.llm.errors import KeyMissing
from converge.network.transport.local import LocalTransport, LocalTransportRegistry
from converge.runtime.loop import AgentRuntime

if TYPE_CHECKING:
    from pathlib import Path


class Keyless(ScriptedProvider):
    """Has no key."""

    def check_ready(self) -> None:
        raise KeyMissing("keyless: no API key; set KEYLESS_API_KEY")


async def started(provider: Any) -> None:
    agent = LLMAgent(Identity.generate(), provider)
    async with AgentRuntime(agent, LocalTransport(agent.id, LocalTransportRegistry())):
        pass


@pytest.mark.parametrize("wrapped", [False, True])
async def test_without_a_key_it_does_not_start(wrapped: bool, tmp_path: Path) -> None:
    provider: Any = Keyless([])
    if wrapped:
        provider = RecordingProvider(retrying(FallbackProvider([provider, Keyless([])])), tmp_path / "talk", "record")
    with pytest.raises(KeyMissing, match="set KEYLESS_API_KEY"):
        await started(provider)


async def test_one_of_several_providers_with_a_key_is_enough(tmp_path: Path) -> None:
    await started(FallbackProvider([Keyless([]), ScriptedProvider([])]))
    await started(ScriptedProvider([]))
