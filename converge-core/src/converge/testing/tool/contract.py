"""Every promise of a tool, as tests."""
# these are tests, shipped to authors
# the name of a test is its sentence

from __future__ import annotations

import asyncio
import contextlib
import copy
import inspect
import json
import math
from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from converge.core.errors import ToolNotImportable
from converge.core.plain import pack
from converge.core.tool_call import ToolCall
from converge.core.tool_call import calling as within_call
from converge.core.tool_reference import ToolReference
from converge.core.tools import ISOLATIONS, Isolation, Tool, ToolRegistry
from converge.testing.tool.calling import calling, places
from converge.testing.tool.fixtures import ANY, Example, ToolFixtures

if TYPE_CHECKING:
    from converge.core.agent import Outcome

__all__ = ["ToolContract"]


class ToolContract(ToolFixtures):
    """Every promise of `converge.core.tools.Tool`, as tests. What a tool declares to lack is skipped."""

    # what it says of itself

    def test_it_is_registered_under_its_name(self, subject: Tool) -> None:
        registry = ToolRegistry()
        registry.register(subject)
        assert registry.list_names() == [subject.name]
        assert registry.get(subject.name) is subject

    def test_where_it_runs_and_how_long_it_may_take_are_what_there_is(self, subject: Tool) -> None:
        assert getattr(subject, "isolation", "auto") in ISOLATIONS
        timeout = getattr(subject, "timeout_sec", None)
        assert timeout is None or 0 < timeout < math.inf

    def test_its_parameters_are_a_schema_that_the_examples_fit(self, subject: Tool) -> None:
        schema = getattr(subject, "parameters", None)
        if schema is None:
            pytest.skip("the tool has no `parameters`, which a language model would be told")
        assert isinstance(getattr(subject, "description", None), str), "a tool with parameters has a description too"
        assert json.loads(json.dumps(schema)) == schema
        assert schema.get("type") == "object"
        known, closed = set(schema.get("properties", {})), schema.get("additionalProperties") is False
        for example in self._given():
            assert set(schema.get("required", ())) <= set(example.params)
            assert not closed or set(example.params) <= known

    def test_another_process_can_import_it_if_it_is_declared_so(self, subject: Tool) -> None:
        if self.importable:
            assert ToolReference.of(subject).resolve().name == subject.name
        else:
            assert getattr(subject, "isolation", "auto") != "process", "it says that it runs in a process"
            with pytest.raises(ToolNotImportable):
                ToolReference.of(subject)

    # what it does

    def test_each_example_gives_its_result_wherever_it_may_run(self, subject: Tool) -> None:
        for place in places(subject, importable=self.importable):
            for example, outcome in zip(self._given(), self._called(subject, place, self._params()), strict=True):
                _check(example, outcome)

    def test_its_result_is_plain_data_where_it_runs_in_a_process(self, subject: Tool) -> None:
        if "process" not in places(subject, importable=self.importable):
            pytest.skip("the tool does not run in a process")
        for outcome in self._called(subject, "process", self._params()):
            assert outcome.status == "done", outcome.error
            pack(outcome.value)

    def test_params_that_do_not_fit_fail_and_say_why(self, subject: Tool) -> None:
        if not self.refused:
            pytest.skip("the test class gives no params that are `refused`")
        for place in places(subject, importable=self.importable):
            for params, outcome in zip(self.refused, self._called(subject, place, self.refused), strict=True):
                assert (outcome.status, bool(outcome.error)) == ("failed", True), params

    def test_a_call_that_fails_does_not_change_the_next_one(self, subject: Tool) -> None:
        if not self.refused:
            pytest.skip("the test class gives no params that are `refused`")
        for place in places(subject, importable=self.importable):
            calls = [params for example in self._given() for params in (self.refused[0], example.params)]
            for example, outcome in zip(self._given(), self._called(subject, place, calls)[1::2], strict=True):
                _check(example, outcome)

    def test_calls_at_the_same_time_get_each_its_own_result(self, subject: Tool) -> None:
        given = [self._given()[number % len(self._given())] for number in range(self.at_once)]

        async def at_once(place: Isolation) -> Sequence[Outcome]:
            async with calling(subject, place, self.patience) as call:
                return await asyncio.gather(*(call(example.params) for example in given))

        for place in places(subject, importable=self.importable):
            for example, outcome in zip(given, asyncio.run(at_once(place)), strict=True):
                _check(example, outcome)

    def test_it_leaves_the_params_as_they_were(self, subject: Tool) -> None:
        if getattr(subject, "isolation", "auto") == "process":
            pytest.skip("the tool runs in a process, which has a copy of them")
        for example in self._given():
            params = copy.deepcopy(dict(example.params))
            asyncio.run(self._run(subject, params))
            assert params == example.params

    def test_a_call_that_is_cancelled_does_not_keep_the_next_one(self, subject: Tool) -> None:
        example = self._given()[0]

        async def cancelled(place: Isolation) -> Outcome:
            async with calling(subject, place, self.patience) as call:
                task = asyncio.create_task(call(example.params))
                await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                return await call(example.params)

        for place in places(subject, importable=self.importable):
            _check(example, asyncio.run(cancelled(place)))

    def test_its_name_is_the_same_after_calls(self, subject: Tool) -> None:
        before = subject.name
        self._called(subject, places(subject, importable=self.importable)[0], self._params())
        assert subject.name == before

    # what the tests share

    def _given(self) -> Sequence[Example]:
        assert self.examples, "give at least one example: examples = (Example({…}, result),)"
        return self.examples

    def _params(self) -> list[Mapping[str, Any]]:
        return [example.params for example in self._given()]

    def _called(self, tool: Tool, place: Isolation, calls: Sequence[Mapping[str, Any]]) -> list[Outcome]:
        """What becomes of calls, one after the other."""

        async def one_by_one() -> list[Outcome]:
            async with calling(tool, place, self.patience) as call:
                return [await call(params) for params in calls]

        return asyncio.run(one_by_one())

    async def _run(self, tool: Tool, params: dict[str, Any]) -> None:
        with within_call(ToolCall(tool.name, "contract", "contract")):
            if inspect.iscoroutinefunction(tool.run):
                value: object = await tool.run(params)
            else:
                value = await asyncio.to_thread(tool.run, params)
            if isinstance(value, Awaitable):
                await value


def _check(example: Example, outcome: Outcome) -> None:
    assert outcome.status == "done", outcome.error
    assert example.result is ANY or outcome.value == example.result
