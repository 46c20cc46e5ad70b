from __future__ import annotations

import math

import pytest

from converge.policy.errors import PolicyOptionError
from converge.policy.safety import ActionPolicy, ResourceLimits, validate_safety

NO_AMOUNTS = [math.nan, math.inf, -math.inf, -1, True, "1", None]


def test_limits_have_the_documented_defaults() -> None:
    limits = ResourceLimits()
    assert (limits.max_cpu_tokens, limits.max_memory_mb, limits.max_network_requests) == (1.0, 512, 100)


@pytest.mark.parametrize("value", NO_AMOUNTS)
@pytest.mark.parametrize("name", ["max_cpu_tokens", "max_memory_mb", "max_network_requests"])
def test_a_limit_that_is_no_amount_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(PolicyOptionError, match=name) as caught:
        ResourceLimits(**{name: value})  # type: ignore[arg-type]  # what is refused is the point
    assert caught.value.option == name


@pytest.mark.parametrize(
    ("cpu", "mem", "valid"), [(0, 0, True), (1.0, 512, True), (1.01, 0, False), (0, 512.5, False), (10**400, 0, False)]
)
def test_what_is_asked_for_is_valid_up_to_the_limits(cpu: float, mem: float, valid: bool) -> None:
    assert validate_safety(ResourceLimits(), cpu, mem) is valid


@pytest.mark.parametrize("value", NO_AMOUNTS)
def test_what_is_no_amount_is_not_valid(value: float) -> None:
    assert validate_safety(ResourceLimits(), value, 0) is False
    assert validate_safety(ResourceLimits(), 0, value) is False


def test_limits_of_zero_allow_nothing_but_zero() -> None:
    limits = ResourceLimits(0, 0, 0)
    assert validate_safety(limits, 0, 0)
    assert not validate_safety(limits, 1e-9, 0)


def test_no_list_allows_all_and_an_empty_one_none() -> None:
    assert ActionPolicy().is_allowed("InvokeTool") is True
    assert ActionPolicy(None).is_allowed("InvokeTool") is True
    assert ActionPolicy([]).is_allowed("InvokeTool") is False


def test_only_what_is_listed_is_allowed() -> None:
    policy = ActionPolicy(["SendMessage"])
    assert policy.is_allowed("SendMessage")
    assert not policy.is_allowed("sendmessage")
    assert not policy.is_allowed("")


def test_the_list_cannot_be_changed_afterwards() -> None:
    names = ["SendMessage"]
    policy = ActionPolicy(names)
    names.append("InvokeTool")
    assert not policy.is_allowed("InvokeTool")


@pytest.mark.parametrize("names", ["SendMessage", b"SendMessage", 7, ["SendMessage", None], [""], [str]])
def test_a_list_of_anything_but_names_is_refused(names: object) -> None:
    with pytest.raises(PolicyOptionError, match="allowed_actions"):
        ActionPolicy(names)
