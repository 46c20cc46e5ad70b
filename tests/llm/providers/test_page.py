"""The provider that the page on providers writes passes the contract."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from converge.testing.llm import LLMProviderContract
from tests.llm.providers.loopback import LoopbackVendor

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[3] / "docs" / "llm-providers.md"


def class_of_the_page(name: str) -> type[Any]:
    (block,) = (
        block
        for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
        if f"class {name}" in block
    )
    names: dict[str, Any] = {}
    exec(compile(block, str(PAGE), "exec"), names)
    made: type[Any] = names[name]
    return made


class TestEcho(LLMProviderContract):
    @pytest.fixture
    def subject(self) -> Any:
        return class_of_the_page("Echo")()


class TestOllama(LLMProviderContract):
    finishes = frozenset({"length"})

    @pytest.fixture
    def vendor(self) -> Iterator[LoopbackVendor]:
        with LoopbackVendor("ollama") as vendor:
            yield vendor

    @pytest.fixture
    def subject(self, vendor: LoopbackVendor) -> Any:
        return class_of_the_page("OllamaProvider")(base_url=vendor.url, timeout_sec=50)

    @pytest.fixture
    def impatient(self, vendor: LoopbackVendor) -> Any:
        return class_of_the_page("OllamaProvider")(base_url=vendor.url, timeout_sec=0.3)
