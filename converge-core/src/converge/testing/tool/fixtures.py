"""The fixture of the contract, and what a tool may declare."""
# these are tests, shipped to authors
# the name of a test is its sentence

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

import pytest
from attrs import frozen

if TYPE_CHECKING:
    from converge.core.tools import Tool

__all__ = ["ANY", "Example", "ToolFixtures"]

ANY: Final = object()
"""The result of an example that is another one each time."""


@frozen
class Example:
    """Params that fit, and what the tool returns for them; without a result, only that it returns one is tested."""

    params: Mapping[str, Any]
    result: object = ANY


class ToolFixtures:
    """What the author of a tool gives and declares."""

    examples: ClassVar[Sequence[Example]] = ()
    """One at least. The tool is called with them many times, so take what harms nobody."""
    refused: ClassVar[Sequence[Mapping[str, Any]]] = ()
    """Params that do not fit: the call fails, and says why. Without any, that test is skipped."""
    importable: ClassVar[bool] = True
    """Whether the tool can run in a process; see "Where a tool runs" in the page on tools."""
    at_once: ClassVar[int] = 8
    """So many calls are made at the same time."""
    patience: ClassVar[float] = 30.0
    """After how many seconds a call is taken for blocked."""

    @pytest.fixture
    def subject(self) -> Tool:
        """The tool."""
        raise NotImplementedError("override the fixture `subject`")
