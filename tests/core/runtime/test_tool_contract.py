"""The contract of tools, over tools of each kind."""

from __future__ import annotations

from typing import Any

import pytest

from converge.core.tools import Tool, tool
from converge.testing.tool import Example, ToolContract


@tool
def word_count(text: str, longest: int = 40) -> dict[str, int]:
    """Count the words of a text.

    Args:
        text: What to look at.
        longest: Words of more letters are left out.
    """
    words = [word for word in text.split() if len(word) <= longest]
    return {word: words.count(word) for word in words}


@tool(isolation="inline", timeout_sec=5.0)
async def word_count_async(text: str) -> dict[str, int]:
    """Count the words of a text."""
    return word_count(text)


class Plain:
    """A class without state."""

    name = "plain"

    def run(self, params: dict[str, Any]) -> int:
        return len(params["text"])


class Stateful:
    """An object that no other process can find."""

    name = "stateful"

    def __init__(self, offset: int) -> None:
        self._offset = offset

    def run(self, params: dict[str, Any]) -> int:
        return self._offset + int(params.get("x", 0))


class TestWordCount(ToolContract):
    examples = (
        Example({"text": "a b a"}, {"a": 2, "b": 1}),
        Example({"text": "abc b", "longest": 1}, {"b": 1}),
    )
    refused = ({}, {"text": 5}, {"text": "a", "size": 1})

    @pytest.fixture
    def subject(self) -> Tool:
        return word_count


class TestAsyncWordCount(ToolContract):
    examples = (Example({"text": "a b a"}, {"a": 2, "b": 1}),)
    refused = ({},)

    @pytest.fixture
    def subject(self) -> Tool:
        return word_count_async


class TestPlain(ToolContract):
    examples = (Example({"text": "abc"}, 3), Example({"text": ""}))
    refused = ({},)

    @pytest.fixture
    def subject(self) -> Tool:
        return Plain()


class TestStateful(ToolContract):
    importable = False
    examples = (Example({"x": 1}, 6), Example({}, 5))

    @pytest.fixture
    def subject(self) -> Tool:
        return Stateful(5)
