"""The contract of tools fails for a tool with a mistake: each promise has its mutant."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest

from converge.core.tools import Tool
from converge.testing.tool import Example, ToolContract


class Sound:
    """Repeats what it is given; subclasses make mistakes."""

    name = "repeat"
    description = "Repeats a text."
    parameters: ClassVar[dict[str, Any]] = {
        "type": "object",
        "properties": {"text": {"type": "string"}},
        "required": ["text"],
        "additionalProperties": False,
    }

    def run(self, params: dict[str, Any]) -> Any:
        if not isinstance(params.get("text"), str):
            raise ValueError("text has to be a str")
        return {"text": params["text"]}


class HasNoName(Sound):
    name = ""


class RenamesItself(Sound):
    calls = 0
    isolation = "thread"

    @property
    def name(self) -> str:  # type: ignore[override]  # the mistake
        return f"repeat-{RenamesItself.calls}"

    def run(self, params: dict[str, Any]) -> Any:
        RenamesItself.calls += 1
        return super().run(params)


class SaysNonsenseOfItself(Sound):
    isolation = "procces"


class HasNoTime(Sound):
    timeout_sec = 0.0


class HasNoSchema(Sound):
    parameters: ClassVar[dict[str, Any]] = {"text": "a str"}


class AsksForMore(Sound):
    parameters = Sound.parameters | {"required": ["text", "size"]}


class HasState(Sound):
    def __init__(self) -> None:
        self.state = 1


class Shortens(Sound):
    def run(self, params: dict[str, Any]) -> Any:
        return {"text": super().run(params)["text"][:1]}


class ReturnsAnObject(Sound):
    def run(self, params: dict[str, Any]) -> Any:
        return {super().run(params)["text"]}


class TakesAnything(Sound):
    def run(self, params: dict[str, Any]) -> Any:
        return params


class BreaksWithAFailure(Sound):
    broken = False

    def run(self, params: dict[str, Any]) -> Any:
        if BreaksWithAFailure.broken:
            return None
        BreaksWithAFailure.broken = "text" not in params
        return super().run(params)


class Mixes(Sound):
    isolation = "thread"
    now = ""

    def run(self, params: dict[str, Any]) -> Any:
        Mixes.now = super().run(params)["text"]
        time.sleep(0.05)
        return {"text": Mixes.now}


class UsesUpItsParams(Sound):
    def run(self, params: dict[str, Any]) -> Any:
        return {"text": params.pop("text")}


class BreaksWhenItIsCancelled(Sound):
    broken = False

    async def run(self, params: dict[str, Any]) -> Any:
        if BreaksWhenItIsCancelled.broken:
            return None
        BreaksWhenItIsCancelled.broken = True
        await asyncio.sleep(0.01)
        BreaksWhenItIsCancelled.broken = False
        return super().run(params)


class Contract(ToolContract):
    examples: ClassVar[Sequence[Example]] = (
        Example({"text": "one"}, {"text": "one"}),
        Example({"text": "two"}, {"text": "two"}),
    )
    refused = ({}, {"text": 5})
    patience = 10.0


class WithoutResults(Contract):
    examples = (Example({"text": "one"}),)


MISTAKES: list[tuple[type[Sound], str]] = [
    (HasNoName, "it_is_registered_under_its_name"),
    (RenamesItself, "its_name_is_the_same_after_calls"),
    (SaysNonsenseOfItself, "where_it_runs_and_how_long_it_may_take_are_what_there_is"),
    (HasNoTime, "where_it_runs_and_how_long_it_may_take_are_what_there_is"),
    (HasNoSchema, "its_parameters_are_a_schema_that_the_examples_fit"),
    (AsksForMore, "its_parameters_are_a_schema_that_the_examples_fit"),
    (HasState, "another_process_can_import_it_if_it_is_declared_so"),
    (Shortens, "each_example_gives_its_result_wherever_it_may_run"),
    (ReturnsAnObject, "its_result_is_plain_data_where_it_runs_in_a_process"),
    (TakesAnything, "params_that_do_not_fit_fail_and_say_why"),
    (BreaksWithAFailure, "a_call_that_fails_does_not_change_the_next_one"),
    (Mixes, "calls_at_the_same_time_get_each_its_own_result"),
    (UsesUpItsParams, "it_leaves_the_params_as_they_were"),
    (BreaksWhenItIsCancelled, "a_call_that_is_cancelled_does_not_keep_the_next_one"),
]
FOUND = (AssertionError, ValueError)


@pytest.mark.parametrize(("kind", "test"), MISTAKES)
def test_a_mistake_is_found(kind: type[Tool], test: str) -> None:
    with pytest.raises(FOUND):
        getattr(Contract(), f"test_{test}")(kind())


@pytest.mark.parametrize("test", sorted({test for _, test in MISTAKES}))
@pytest.mark.parametrize("contract", [Contract, WithoutResults])
def test_a_sound_tool_passes_the_same_tests(contract: type[ToolContract], test: str) -> None:
    getattr(contract(), f"test_{test}")(Sound())


def test_an_author_who_gives_no_example_is_told_so() -> None:
    with pytest.raises(AssertionError, match="give at least one example"):
        ToolContract().test_its_name_is_the_same_after_calls(Sound())


def test_a_tool_that_is_declared_not_to_be_importable_has_to_be_so() -> None:
    class Apart(Contract):
        importable = False

    Apart().test_another_process_can_import_it_if_it_is_declared_so(HasState())
    with pytest.raises(pytest.fail.Exception):
        Apart().test_another_process_can_import_it_if_it_is_declared_so(Sound())


def test_each_test_of_the_contract_has_a_mutant() -> None:
    tests = {name.removeprefix("test_") for name in dir(ToolContract) if name.startswith("test_")}
    assert tests == {test for _, test in MISTAKES}
