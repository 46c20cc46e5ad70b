"""The state machine of a task, pure: a stored record goes in, the next one comes out.

PENDING --claim--> ASSIGNED --report--> COMPLETED
ASSIGNED --fail, lease expired--> PENDING while attempts are left, else FAILED
PENDING, ASSIGNED --cancel--> CANCELLED; --fail by an administrator, deadline--> FAILED

`attempt` grows with every claim and is the fencing epoch: a move by a claimant names its agent and its attempt, and
is refused unless both are the record's (Kleppmann, "How to do distributed locking", 2016).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from attrs import asdict, evolve, field, frozen

from converge.coordination.errors import ClaimLost, InvalidTransition
from converge.core.plain import Plain
from converge.core.task import Task, TaskState
from converge.core.topic import Topic

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DEFAULT_CLAIM_TTL_SEC", "DEFAULT_MAX_ATTEMPTS", "TaskRecord"]

DEFAULT_CLAIM_TTL_SEC = 300.0
DEFAULT_MAX_ATTEMPTS = 20
"""Claims before a task that never ends is given up; the delivery limit of RabbitMQ's quorum queues."""

_POSITIVE = ("claim_ttl_sec", "timeout_sec")
_COUNTS = {"max_retries": 0, "max_attempts": 1}
_IMMUTABLE = (
    *("objective", "inputs", "outputs", "constraints", "evaluator"),
    *("pool_id", "topic", "required_capabilities", "priority"),
)


@frozen(kw_only=True)
class TaskRecord:
    """A task as the store holds it. Times are Unix seconds. `history` holds `[time, event, agent, attempt, reason]`."""

    id: str
    objective: Plain
    inputs: dict[str, Plain]
    outputs: dict[str, Plain] | None
    constraints: dict[str, Plain]
    evaluator: str
    pool_id: str | None
    topic: dict[str, Any] | None
    required_capabilities: list[str]
    priority: int
    submitted_at: float
    state: str = TaskState.PENDING.value
    assigned_to: str | None = None
    attempt: int = 0
    failures: int = 0
    claimed_at: float | None = None
    lease_expires_at: float | None = None
    result: Plain = None
    error: str | None = None
    history: list[Plain] = field(factory=list)

    @classmethod
    def of(cls, task: Task, now: float) -> TaskRecord:
        """The first record of `task`; `ValueError` when a constraint makes no sense."""
        if not task.id or not isinstance(task.id, str):
            raise ValueError("a task needs an id: a non-empty str")
        if task.state is not TaskState.PENDING:
            raise ValueError(f"task {task.id} is {task.state.value}; only a PENDING task can be submitted")
        if type(task.priority) is not int:
            raise ValueError(f"task {task.id}: priority is an int, not {task.priority!r}")
        _check_constraints(task.id, task.constraints)
        return cls(
            id=task.id,
            objective=task.objective,
            inputs=dict(task.inputs),
            outputs=task.outputs,
            constraints=dict(task.constraints),
            evaluator=task.evaluator,
            pool_id=task.pool_id,
            topic=None if task.topic is None else task.topic.to_dict(),
            required_capabilities=list(task.required_capabilities),
            priority=task.priority,
            submitted_at=now,
            history=[[now, "submitted", None, 0, None]],
        )

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> TaskRecord:
        """The record in a stored value; `ValueError` when it is not one."""
        try:
            return cls(**data)
        except TypeError as error:
            raise ValueError(f"not a task record of this version: {error}") from None

    def to_plain(self) -> dict[str, Plain]:
        """The record as the store takes it."""
        return asdict(self, recurse=False)

    def same_task_as(self, other: TaskRecord) -> bool:
        """Whether the fields that never change are equal."""
        return all(getattr(self, name) == getattr(other, name) for name in _IMMUTABLE)

    def mirror_into(self, task: Task) -> None:
        """Write what changes over a task's life into `task`."""
        task.state = TaskState(self.state)
        task.assigned_to, task.result, task.claimed_at = self.assigned_to, self.result, self.claimed_at
        task.attempt, task.error = self.attempt, self.error

    def to_task(self) -> Task:
        """A new Task object of this record."""
        task = Task(
            id=self.id,
            objective=self.objective,
            inputs=self.inputs,
            outputs=self.outputs,
            constraints=self.constraints,
            evaluator=self.evaluator,
            pool_id=self.pool_id,
            topic=None if self.topic is None else Topic.from_dict(self.topic),
            required_capabilities=self.required_capabilities,
            priority=self.priority,
        )
        self.mirror_into(task)
        return task

    # -- what holds now

    @property
    def is_open(self) -> bool:
        """Whether the task can still change: PENDING or ASSIGNED."""
        return self.state in (TaskState.PENDING.value, TaskState.ASSIGNED.value)

    @property
    def claim_ttl_sec(self) -> float:
        """How long a claim lives from its last renewal, in seconds."""
        return _number(self.constraints.get("claim_ttl_sec"), DEFAULT_CLAIM_TTL_SEC)

    @property
    def max_attempts(self) -> int:
        """How many claims there may be in all."""
        retries = self.constraints.get("max_retries")
        default = retries + 1 if isinstance(retries, int) else DEFAULT_MAX_ATTEMPTS
        return int(_number(self.constraints.get("max_attempts"), default))

    def is_expired(self, now: float) -> bool:
        """Whether the lease has run out. Expiry decides who may claim next, never what is stored."""
        return self.lease_expires_at is not None and now >= self.lease_expires_at

    def is_overdue(self, now: float) -> bool:
        """Whether the deadline has passed for a task that nobody has started."""
        deadline = self.constraints.get("deadline")
        return self.state == TaskState.PENDING.value and isinstance(deadline, (int, float)) and now >= deadline

    # -- transitions

    def claim(self, agent_id: str, now: float) -> TaskRecord:
        """Assigned to `agent_id` under the next attempt. The caller has seen that the task is PENDING."""
        attempt = self.attempt + 1
        return evolve(
            self,
            state=TaskState.ASSIGNED.value,
            assigned_to=agent_id,
            attempt=attempt,
            claimed_at=now,
            lease_expires_at=self._lease_end(now, now),
            history=[*self.history, [now, "claimed", agent_id, attempt, None]],
        )

    def renew(self, agent_id: str, attempt: int | None, now: float) -> TaskRecord:
        """The lease extended by its TTL, at most to `timeout_sec` after the claim."""
        self._check_claimant(agent_id, attempt)
        end = self._lease_end(now, self.claimed_at if self.claimed_at is not None else now)
        if end <= now:
            raise ClaimLost(f"task {self.id}: timeout_sec is over for attempt {self.attempt}; the claim is not renewed")
        return evolve(self, lease_expires_at=end)

    def report(self, agent_id: str, attempt: int | None, result: Plain, now: float) -> TaskRecord:
        """Completed with `result`."""
        self._check_claimant(agent_id, attempt)
        return self._end(TaskState.COMPLETED, "completed", now, result=result)

    def fail(self, agent_id: str, attempt: int | None, reason: str, now: float) -> TaskRecord:
        """Given back by its claimant: PENDING again while `max_retries` allows, else FAILED."""
        self._check_claimant(agent_id, attempt)
        failed = evolve(self, failures=self.failures + 1)
        if failed.failures > _number(self.constraints.get("max_retries"), 0) or self.attempt >= self.max_attempts:
            return failed._end(TaskState.FAILED, "failed", now, error=reason)
        return failed._requeue("failed", reason, now)

    def release(self, agent_id: str, attempt: int | None, now: float) -> TaskRecord:
        """Given back unharmed by its claimant; PENDING again while attempts are left."""
        self._check_claimant(agent_id, attempt)
        return self.expire(now, "given back")

    def expire(self, now: float, reason: str = "lease expired") -> TaskRecord:
        """Taken from a claimant that did not renew: PENDING again while attempts are left, else FAILED."""
        if self.attempt >= self.max_attempts:
            error = f"{reason} at attempt {self.attempt} of {self.max_attempts}"
            return self._end(TaskState.FAILED, "expired", now, error=error)
        return self._requeue("expired", reason, now)

    def end(self, state: TaskState, reason: str, now: float) -> TaskRecord:
        """Ended by an administrator, FAILED or CANCELLED, whoever holds it."""
        if not self.is_open:
            raise InvalidTransition(f"task {self.id} is {self.state} already and stays so")
        return self._end(state, state.value, now, error=reason)

    def _end(
        self, state: TaskState, event: str, now: float, *, result: Plain = None, error: str | None = None
    ) -> TaskRecord:
        return evolve(
            self,
            state=state.value,
            lease_expires_at=None,
            result=result,
            error=error,
            history=[*self.history, [now, event, self.assigned_to, self.attempt, error]],
        )

    def _requeue(self, event: str, reason: str, now: float) -> TaskRecord:
        return evolve(
            self,
            state=TaskState.PENDING.value,
            assigned_to=None,
            claimed_at=None,
            lease_expires_at=None,
            history=[*self.history, [now, event, self.assigned_to, self.attempt, reason]],
        )

    def _lease_end(self, now: float, claimed_at: float) -> float:
        timeout = self.constraints.get("timeout_sec")
        end = now + self.claim_ttl_sec
        return min(end, claimed_at + timeout) if isinstance(timeout, (int, float)) else end

    def _check_claimant(self, agent_id: str, attempt: int | None) -> None:
        """`attempt` None: the caller knows of no epoch, and its identity alone has to be the claimant's."""
        holder = self.state == TaskState.ASSIGNED.value and self.assigned_to == agent_id
        if holder and attempt in (None, self.attempt):
            return
        if not self.is_open:
            now = f"it is {self.state}"
        elif self.assigned_to is None:
            now = "nobody holds it"
        elif holder:
            now = f"attempt {self.attempt} holds it, this is attempt {attempt}"
        else:
            now = f"{self.assigned_to} holds it"
        raise ClaimLost(f"task {self.id} is not held by {agent_id}: {now}; nothing was stored")


def _number(value: object, default: float) -> float:
    return default if not isinstance(value, (int, float)) else value


def _check_constraints(task_id: str, constraints: Mapping[str, object]) -> None:
    for name in (*_POSITIVE, "deadline"):
        value = constraints.get(name)
        if value is None:
            continue
        wrong = isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value)
        if wrong or (name in _POSITIVE and value <= 0):  # type: ignore[operator]  # a number, tested before
            raise ValueError(f"task {task_id}: constraint {name} is a finite number of seconds above 0, not {value!r}")
    for name, least in _COUNTS.items():
        count = constraints.get(name)
        if count is not None and (type(count) is not int or count < least):
            raise ValueError(f"task {task_id}: constraint {name} is an int of at least {least}, not {count!r}")
