"""A unit of work and the states it goes through."""

from __future__ import annotations

import uuid
from enum import Enum
from typing import TYPE_CHECKING, cast

from attrs import define, field

from converge.core.capability import Capability
from converge.core.plain import Plain
from converge.core.topic import Topic

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Task", "TaskState"]


class TaskState(Enum):
    """PENDING → ASSIGNED → COMPLETED, or FAILED, or CANCELLED; the last three are final.

    RUNNING is for applications that show their own progress; the task manager stores ASSIGNED while a claim lives.
    """

    PENDING = "pending"
    ASSIGNED = "assigned"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether no transition leads out of this state."""
        return self in _FINAL


_KEYED = uuid.UUID("6f0d5c5e-6b0e-5a59-9a43-6d2f2c6c1f7a")  # the name space of ids that come from a key
_FINAL = frozenset({TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELLED})


def _names(capabilities: Iterable[Capability | str]) -> list[str]:
    if isinstance(capabilities, str):
        raise TypeError(f'required_capabilities is a list of names; write ["{capabilities}"]')
    names = [item.name if isinstance(item, Capability) else item for item in capabilities]
    # a set has another order in each process, and the same task submitted from two must be the same
    return sorted(names) if isinstance(capabilities, set | frozenset) else names


@define(weakref_slot=True)
class Task:
    """A unit of work. Mutable: the manager that took it mirrors the stored record into the submitted object.

    `objective`, `inputs`, `outputs`, `constraints` and `result` are plain data. Keys of `constraints` that Converge
    knows: `timeout_sec` (how long one attempt may take), `deadline` (Unix seconds after which nobody may start it),
    `claim_ttl_sec` (how long a claim lives unless renewed; default 300), `max_retries` (further attempts after the
    claimant failed it; default 0), `retry_backoff_sec` (the pause after the first failure, doubled with each further
    one; default 0), `max_attempts` (claims in all), `award_only` (nobody claims it, it is awarded), `cpu`,
    `memory_mb` (checked against the agent's `ResourceLimits`).

    `priority`: the higher is listed first. `depends_on`: ids of tasks that have to be COMPLETED before anybody may
    claim this one; when one of them ends otherwise, this one is FAILED. `idempotency_key`: tasks with the same key have
    the same id, so that submitting one again, in whatever process, finds the first. `claimed_at` is in Unix seconds.
    `attempt` counts the claims so far and is the fencing epoch of the present one; `error` says why it FAILED or was
    CANCELLED. `traceparent` is the trace in which it was submitted (W3C Trace Context); it makes no other task of it.

    Raises `ValueError` for an id beside an `idempotency_key` that gives another.
    """

    id: str = field(default=None)  # drawn below, where the key is known
    objective: Plain = ""
    inputs: dict[str, Plain] = field(factory=dict)
    outputs: dict[str, Plain] | None = None
    constraints: dict[str, Plain] = field(factory=dict)
    evaluator: str = "default"
    state: TaskState = TaskState.PENDING
    assigned_to: str | None = None
    result: Plain = None
    claimed_at: float | None = None
    pool_id: str | None = None
    topic: Topic | None = None
    required_capabilities: list[str] = field(factory=list, converter=_names)
    priority: int = field(default=0, kw_only=True)
    attempt: int = field(default=0, kw_only=True)
    error: str | None = field(default=None, kw_only=True)
    depends_on: list[str] = field(factory=list, kw_only=True)
    idempotency_key: str | None = field(default=None, kw_only=True)
    traceparent: str | None = field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        given: str | None = cast("str | None", self.id)
        derived = None if self.idempotency_key is None else str(uuid.uuid5(_KEYED, self.idempotency_key))
        if derived is not None and given not in (None, derived):
            raise ValueError(f"the idempotency key {self.idempotency_key!r} gives the id {derived}, not {given!r}")
        if given is None:
            self.id = derived or str(uuid.uuid4())
