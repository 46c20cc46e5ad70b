"""Where keys come from, and where they never are."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import pytest

from converge.extensions.llm import (
    AnthropicProvider,
    ChatMessage,
    KeyMissing,
    MistralProvider,
    OpenAIProvider,
    SDKMissing,
)
from converge.plugins import Secret
from converge.testing.llm import Answer
from tests.llm.providers.loopback import LoopbackVendor

VENDORS = [
    (OpenAIProvider, "openai", "OPENAI_API_KEY"),
    (AnthropicProvider, "anthropic", "ANTHROPIC_API_KEY"),
    (MistralProvider, "mistral", "MISTRAL_API_KEY"),
]
HELLO = [ChatMessage("user", "Hello")]

vendors = pytest.mark.parametrize(("provider_class", "name", "variable"), VENDORS, ids=[name for _, name, _ in VENDORS])


@vendors
async def test_a_missing_key_says_which_variable_to_set(
    provider_class: Any, name: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(variable, raising=False)
    provider = provider_class()
    with pytest.raises(KeyMissing, match=variable):
        await provider.complete(HELLO)
    with pytest.raises(KeyMissing, match=variable):
        provider.chat([{"role": "user", "content": "Hello"}])


@vendors
async def test_the_key_is_read_from_the_environment(
    provider_class: Any, name: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "  sk-of-the-environment\n")
    with LoopbackVendor(name) as vendor:
        vendor.will(Answer())
        provider = provider_class(base_url=vendor.url)
        await provider.complete(HELLO)
        await provider.aclose()
    assert "sk-of-the-environment" in str(vendor.seen[0].headers)


@vendors
@pytest.mark.parametrize("key", ["sk-two words", "sk-two\nlines", "sk-é"])
async def test_a_key_that_cannot_be_one_is_refused_and_not_shown(
    provider_class: Any, name: str, variable: str, key: str
) -> None:
    with pytest.raises(KeyMissing) as caught:
        await provider_class(key, base_url="http://127.0.0.1:9").complete(HELLO)
    assert "sk-" not in str(caught.value)


async def test_a_server_of_ones_own_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with LoopbackVendor("openai") as vendor:
        vendor.will(Answer("Hello."))
        provider = OpenAIProvider(base_url=vendor.url)
        assert (await provider.complete(HELLO)).text == "Hello."
        await provider.aclose()


@vendors
def test_a_provider_with_a_key_cannot_be_pickled(provider_class: Any, name: str, variable: str) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(provider_class(Secret("sk-0123")))


@vendors
@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1:9", "http://[bad", "http://127.0.0.1:99999999", "nowhere", "http://", "", "http://h:0"]
)
def test_an_address_that_is_none_is_refused(provider_class: Any, name: str, variable: str, url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        provider_class("sk-0123", base_url=url)


@vendors
def test_an_address_with_a_password_is_refused_and_not_shown(provider_class: Any, name: str, variable: str) -> None:
    for url in ("https://me:sk-0123@127.0.0.1:9", "ftp://me:sk-0123@127.0.0.1:9"):
        with pytest.raises(ValueError, match="api_key") as caught:
            provider_class(base_url=url)
        assert "sk-0123" not in str(caught.value)


@vendors
@pytest.mark.parametrize("wrong", [{"timeout_sec": 0}, {"timeout_sec": float("nan")}, {"max_output_tokens": 0}])
def test_options_out_of_bounds_are_refused(
    provider_class: Any, name: str, variable: str, wrong: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        provider_class("sk-0123", **wrong)


@vendors
def test_a_missing_library_says_what_to_install(
    provider_class: Any, name: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [module for module in sys.modules if module.partition(".")[0] in (name, f"{name}ai")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "mistralai" if name == "mistral" else name, None)
    with pytest.raises(SDKMissing, match=rf"converge-llm\[{name}\]"):
        provider_class("sk-0123")


def test_no_library_of_a_vendor_is_imported_unless_its_provider_is_made() -> None:
    script = """
import sys
import converge.extensions.llm as llm
for name in llm.__all__:
    getattr(llm, name)
llm.FallbackProvider([llm.ScriptedProvider([])])
loaded = {"openai", "anthropic", "mistralai", "httpx2", "pydantic", "opentelemetry"} & set(sys.modules)
assert not loaded, loaded
llm.OpenAIProvider("sk-0123")
assert "openai" in sys.modules and not {"anthropic", "mistralai"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_the_contract_is_there_without_converge_llm() -> None:
    script = """
import sys
sys.modules["converge.extensions.llm"] = None
import converge.testing.llm
from converge.testing.llm import LLMProviderContract
assert not any(name.startswith("converge.extensions.llm.") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
