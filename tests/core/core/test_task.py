from __future__ import annotations

import copy
import inspect
import pickle
import uuid
import weakref
from collections.abc import Iterable

import pytest

from converge.core.capability import Capability, CapabilitySet
from converge.core.task import Task, TaskState


def test_a_task_needs_nothing() -> None:
    task = Task()
    assert uuid.UUID(task.id).version == 4
    assert task.state is TaskState.PENDING
    assert (task.objective, task.inputs, task.outputs, task.constraints, task.evaluator) == (
        "",
        {},
        None,
        {},
        "default",
    )
    assert (task.assigned_to, task.result, task.claimed_at, task.pool_id, task.topic) == (None,) * 5
    assert (task.required_capabilities, task.priority, task.attempt, task.error) == ([], 0, 0, None)


def test_every_task_has_an_id_of_its_own() -> None:
    assert len({Task().id for _ in range(100)}) == 100


def test_the_parameters_are_those_of_the_contract_in_its_order() -> None:
    assert list(inspect.signature(Task).parameters)[:13] == [
        "id",
        "objective",
        "inputs",
        "outputs",
        "constraints",
        "evaluator",
        "state",
        "assigned_to",
        "result",
        "claimed_at",
        "pool_id",
        "topic",
        "required_capabilities",
    ]


def test_defaults_are_not_shared() -> None:
    task = Task()
    task.inputs["x"] = task.constraints["x"] = 1
    task.required_capabilities.append("x")
    assert (Task().inputs, Task().constraints, Task().required_capabilities) == ({}, {}, [])


def test_a_task_is_mutable_and_can_be_referenced_weakly() -> None:
    task = Task()
    reference = weakref.ref(task)
    task.state = TaskState.COMPLETED
    assert reference() is task
    del task
    assert reference() is None


def test_tasks_survive_copy_and_pickle() -> None:
    task = Task("t", "do", {"x": [1]}, required_capabilities=["a"])
    assert copy.deepcopy(task) == task == pickle.loads(pickle.dumps(task))


def test_a_misspelt_attribute_is_refused() -> None:
    with pytest.raises(AttributeError):
        Task().ressult = 1  # type: ignore[attr-defined]  # what is being tested


@pytest.mark.parametrize("state", list(TaskState))
def test_a_states_value_is_its_name_in_lower_case(state: TaskState) -> None:
    assert state.value == state.name.lower()


def test_three_states_are_final() -> None:
    assert [state.name for state in TaskState] == ["PENDING", "ASSIGNED", "RUNNING", "COMPLETED", "FAILED", "CANCELLED"]
    assert {state.name for state in TaskState if state.is_final} == {"COMPLETED", "FAILED", "CANCELLED"}


def test_required_capabilities_are_names_however_they_are_given() -> None:
    values: list[Iterable[Capability | str]] = [["b", "a"], ("b", "a"), CapabilitySet(["b", "a"])]
    values.append([Capability("b"), "a"])
    for value in values:
        assert Task(required_capabilities=value).required_capabilities == ["b", "a"]


def test_a_set_of_required_capabilities_has_the_same_order_in_every_process() -> None:
    names = {f"capability {number}" for number in range(50)}
    assert Task(required_capabilities=names).required_capabilities == sorted(names)
    assert Task(required_capabilities=frozenset(names)).required_capabilities == sorted(names)


def test_a_lone_str_is_no_list_of_capabilities() -> None:
    with pytest.raises(TypeError, match=r'write \["review"\]'):
        Task(required_capabilities="review")
    with pytest.raises(TypeError, match=r'write \["review"\]'):
        Task().required_capabilities = "review"  # type: ignore[assignment]  # what is being tested
