"""The state machine of a task, pure: a stored record goes in, the next one comes out.

PENDING --claim, award--> ASSIGNED --report--> COMPLETED
ASSIGNED --fail, lease expired--> PENDING while attempts are left, else FAILED
PENDING, ASSIGNED --cancel--> CANCELLED; --fail by an administrator, deadline, failed dependency--> FAILED

`attempt` grows with every claim and is the fencing epoch: a move by a claimant names its agent and its attempt, and
is refused unless both are the record's (Kleppmann, "How to do distributed locking", 2016).
"""

from __future__ import annotations

from types import NoneType
from typing import TYPE_CHECKING, Any, NamedTuple

from attrs import field, fields, frozen

from converge.coordination import constraints as rules
from converge.coordination.equality import copied, same
from converge.coordination.errors import ClaimLost, InvalidTransition
from converge.core.plain import Plain, pack, unpack_own
from converge.core.task import Task, TaskState
from converge.core.topic import Topic

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MAX_HISTORY", "TaskEvent", "TaskRecord"]

MAX_HISTORY = 100
"""Events kept of a task: the first, and the latest ones."""

_MAX_REASON_IN_HISTORY = 500
_PENDING, _ASSIGNED = TaskState.PENDING.value, TaskState.ASSIGNED.value  # .value is a property, slow in a hot path
_COMPLETED, _FAILED = TaskState.COMPLETED.value, TaskState.FAILED.value
_OPEN = frozenset({_PENDING, _ASSIGNED})
_STATE_NAMED = {state.value: state for state in TaskState}
_set = object.__setattr__  # of a task's fields, none of which has a converter
_IMMUTABLE = (
    *("objective", "inputs", "outputs", "constraints", "evaluator"),
    *("pool_id", "topic", "required_capabilities", "priority", "depends_on", "idempotency_key"),
)
_STATES = frozenset(state.value for state in TaskState if state is not TaskState.RUNNING)
_SHAPE: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("id", "evaluator", "state"), (str,)),
    **dict.fromkeys(("pool_id", "assigned_to", "error", "idempotency_key", "traceparent"), (str, NoneType)),
    **dict.fromkeys(("inputs", "constraints"), (dict,)),
    **dict.fromkeys(("outputs", "topic"), (dict, NoneType)),
    **dict.fromkeys(("required_capabilities", "depends_on", "history"), (list,)),
    **dict.fromkeys(("priority", "attempt", "failures", "not_started"), (int,)),
    **dict.fromkeys(("claimed_at", "lease_expires_at", "not_before"), (int, float, NoneType)),
    "submitted_at": (int, float),
}


_GIVEN = ("id", *_IMMUTABLE, "traceparent")
_seen_shapes: set[tuple[object, ...]] = set()  # names and types of the fields of records that were right
_MAX_SHAPES = 1_000


class TaskEvent(NamedTuple):
    """One entry of a task's history. `at` is in Unix seconds; `agent_id` is None where nobody held the task."""

    at: float
    event: str
    agent_id: str | None
    attempt: int
    reason: str | None


@frozen(kw_only=True, slots=False)  # with a __dict__ a changed copy costs a tenth
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
    depends_on: list[str] = field(factory=list)
    idempotency_key: str | None = None
    traceparent: str | None = None
    state: str = _PENDING
    assigned_to: str | None = None
    attempt: int = 0
    failures: int = 0
    not_started: int = 0
    claimed_at: float | None = None
    lease_expires_at: float | None = None
    not_before: float | None = None
    result: Plain = None
    error: str | None = None
    history: list[Plain] = field(factory=list)

    @classmethod
    def of(cls, task: Task, now: float, traceparent: str | None = None) -> TaskRecord:
        """The first record of `task`, sharing nothing with it; of the trace `traceparent` unless it names one itself.

        `TypeError` for what is not plain data, `ValueError` for a field or a constraint that makes no sense.
        """
        if not task.id:
            raise ValueError("a task needs an id: a non-empty str")
        if task.topic is not None and not isinstance(task.topic, Topic):
            raise ValueError(f"task {task.id}: topic is a Topic or None, not {task.topic!r}")
        given = {name: getattr(task, name) for name in _GIVEN}
        if task.topic is not None:
            given["topic"] = task.topic.to_dict()
        record = object.__new__(cls)
        record.__dict__.update(_UNTOUCHED)
        record.__dict__.update(unpack_own(pack(given)))
        record.__dict__.update(submitted_at=now, history=[[now, "submitted", None, 0, None]])
        if traceparent is not None and task.traceparent is None:
            record.__dict__["traceparent"] = traceparent
        try:
            record._check()
        except ValueError as error:
            raise ValueError(f"task {task.id}: {error}") from None
        return record

    @classmethod
    def from_plain(cls, data: object) -> TaskRecord:
        """The record in a stored value; `ValueError` when it is not one of this version."""
        if not isinstance(data, dict):
            raise ValueError(f"it is {type(data).__name__}, not a dict")
        if data.keys() == _UNTOUCHED.keys():
            record = object.__new__(cls)
            record.__dict__.update(data)
        else:
            try:
                record = cls(**data)
            except TypeError as error:
                raise ValueError(str(error)) from None
        record._check()
        return record

    def to_plain(self) -> dict[str, Plain]:
        """The record as the store takes it."""
        return dict(self.__dict__)

    def same_task_as(self, other: TaskRecord) -> bool:
        """Whether the fields that make the task what it is are the same."""
        return all(same(getattr(self, name), getattr(other, name)) for name in _IMMUTABLE)

    def mirror_into(self, task: Task) -> None:
        """Write what changes over a task's life into `task`, and the trace it was first submitted in."""
        _set(task, "state", _STATE_NAMED[self.state])
        _set(task, "assigned_to", self.assigned_to)
        _set(task, "result", copied(self.result))
        _set(task, "claimed_at", self.claimed_at)
        _set(task, "attempt", self.attempt)
        _set(task, "error", self.error)
        _set(task, "traceparent", self.traceparent)

    def to_task(self) -> Task:
        """A new Task object of this record, the caller's own."""
        return Task(
            id=self.id,
            objective=copied(self.objective),
            inputs=_copied(self.inputs),
            outputs=None if self.outputs is None else _copied(self.outputs),
            constraints=_copied(self.constraints),
            evaluator=self.evaluator,
            state=_STATE_NAMED[self.state],
            assigned_to=self.assigned_to,
            result=copied(self.result),
            claimed_at=self.claimed_at,
            pool_id=self.pool_id,
            topic=None if self.topic is None else Topic.from_dict(self.topic),
            required_capabilities=self.required_capabilities,
            priority=self.priority,
            attempt=self.attempt,
            error=self.error,
            depends_on=[*self.depends_on],
            idempotency_key=self.idempotency_key,
            traceparent=self.traceparent,
        )

    def to_first_task(self, task_id: str) -> Task:
        """A new task that asks for the same under another id, with nothing of what has become of this one."""
        never = {"assigned_to": None, "attempt": 0, "claimed_at": None, "result": None, "error": None}
        return self._with(id=task_id, state=_PENDING, idempotency_key=None, traceparent=None, **never).to_task()

    # -- what holds now

    @property
    def ended_at(self) -> float:
        """The Unix time of the latest event, which for a task that has ended is its end."""
        latest = self.history[-1] if self.history else None
        return latest[0] if isinstance(latest, list) and isinstance(latest[0], int | float) else self.submitted_at

    def events(self) -> list[TaskEvent]:
        """The history; an entry that is none of this version is left out."""
        return [event for entry in self.history for event in _events(entry)]

    @property
    def is_open(self) -> bool:
        """Whether the task can still change: PENDING or ASSIGNED."""
        return self.state in _OPEN

    @property
    def is_dead(self) -> bool:
        """Whether it has FAILED."""
        return self.state == _FAILED

    @property
    def has_failed(self) -> bool:
        """Whether it has ended without being COMPLETED."""
        return not self.is_open and self.state != _COMPLETED

    @property
    def is_pending(self) -> bool:
        """Whether nobody holds the open task."""
        return self.state == _PENDING

    @property
    def is_assigned(self) -> bool:
        """Whether somebody holds it."""
        return self.state == _ASSIGNED

    @property
    def claim_ttl_sec(self) -> float:
        """How long a claim lives from its last renewal, in seconds."""
        return rules.claim_ttl_sec(self.constraints)

    @property
    def deadline(self) -> float:
        """The Unix time after which nobody may start the task; infinite without one."""
        return rules.deadline(self.constraints)

    @property
    def max_attempts(self) -> float:
        """How many claims there may be in all."""
        return rules.max_attempts(self.constraints)

    @property
    def is_award_only(self) -> bool:
        """Whether nobody may claim it but the one it was awarded to."""
        return rules.award_only(self.constraints)

    @property
    def is_exhausted(self) -> bool:
        """Whether there may be no further attempt; an award that nobody started was none."""
        return self.attempt - self.not_started >= self.max_attempts

    @property
    def is_awarded(self) -> bool:
        """Whether it is held by somebody who has not begun yet."""
        return self.state == _ASSIGNED and self.claimed_at is None

    @property
    def timeout_at(self) -> float:
        """The Unix time to which the present claim can be renewed at most."""
        return (self.claimed_at or 0.0) + rules.timeout_sec(self.constraints)

    def is_expired(self, now: float) -> bool:
        """Whether the lease has run out. Expiry decides who may claim next, never what is stored."""
        return self.lease_expires_at is not None and now >= self.lease_expires_at

    def is_overdue(self, now: float) -> bool:
        """Whether the deadline has passed for a task that nobody has started."""
        return self.state == _PENDING and now >= self.deadline

    def is_delayed(self, now: float) -> bool:
        """Whether the pause after a failure is not over."""
        return self.not_before is not None and now < self.not_before

    # -- transitions

    def claim(self, agent_id: str, now: float) -> TaskRecord:
        """Assigned to `agent_id` under the next attempt. The caller has seen that the task is PENDING."""
        attempt = self.attempt + 1
        return self._with(
            state=_ASSIGNED,
            assigned_to=agent_id,
            attempt=attempt,
            claimed_at=now,
            lease_expires_at=self._lease_from(now),
            not_before=None,
            history=self._history(now, "claimed", agent_id, attempt, None),
        )

    def start(self, now: float) -> TaskRecord:
        """Begun by the one it was awarded to, under the attempt of the award."""
        event = self._history(now, "started", self.assigned_to, self.attempt, None)
        return self._with(claimed_at=now, lease_expires_at=self._lease_from(now), history=event)

    def award(self, agent_id: str, start_within_sec: float, attempt: int | None, now: float) -> TaskRecord:
        """Assigned to `agent_id`, who has to claim it within that time, or somebody else is next."""
        if attempt not in (None, self.attempt + 1):
            raise InvalidTransition(f"task {self.id} is at attempt {self.attempt}; {attempt} is not the next", self.id)
        if self.state != _PENDING:
            raise InvalidTransition(f"task {self.id} is {self.state}; only a PENDING one is awarded", self.id)
        if not self.is_award_only:
            raise InvalidTransition(
                f"task {self.id} is for whoever claims it; submit it with the constraint award_only", self.id
            )
        attempt = self.attempt + 1
        return self._with(
            state=_ASSIGNED,
            assigned_to=agent_id,
            attempt=attempt,
            claimed_at=None,
            lease_expires_at=now + start_within_sec,
            not_before=None,
            history=self._history(now, "awarded", agent_id, attempt, None),
        )

    def renew(self, agent_id: str, attempt: int | None, now: float) -> TaskRecord:
        """The lease extended by its TTL, at most to `timeout_sec` after the claim."""
        self._check_claimant(agent_id, attempt)
        if self.is_awarded:
            return self.start(now)
        end = min(now + self.claim_ttl_sec, self.timeout_at)
        if end <= now:
            raise ClaimLost(
                f"task {self.id}: timeout_sec is over for attempt {self.attempt}; the claim is not renewed", self.id
            )
        return self._with(lease_expires_at=end)

    def report(self, agent_id: str, attempt: int | None, result: Plain, now: float) -> TaskRecord:
        """Completed with `result`; the record itself when the same claim has reported the same already."""
        again = self.state == _COMPLETED and self.assigned_to == agent_id
        if again and attempt in (None, self.attempt) and same(self.result, result):
            return self
        self._check_claimant(agent_id, attempt)
        return self._end(TaskState.COMPLETED, "completed", now, result=result)

    def fail(self, agent_id: str, attempt: int | None, reason: str, now: float) -> TaskRecord:
        """Given back by its claimant: PENDING again while `max_retries` allows, else FAILED."""
        self._check_claimant(agent_id, attempt)
        failed = self._with(failures=self.failures + 1)
        if failed.failures > rules.max_retries(self.constraints) or self.is_exhausted:
            return failed._end(TaskState.FAILED, "failed", now, error=reason)
        pause = rules.retry_pause_sec(self.constraints, failed.failures)
        return failed._requeue("failed", reason, now, now + pause if pause else None)

    def release(self, agent_id: str, attempt: int | None, now: float) -> TaskRecord:
        """Given back unharmed by its claimant; PENDING again while attempts are left."""
        self._check_claimant(agent_id, attempt)
        return self.expire(now, "given back")

    def expire(self, now: float, reason: str = "lease expired") -> TaskRecord:
        """Taken from a claimant that did not renew: PENDING again while attempts are left, else FAILED."""
        if self.is_awarded:
            return self._with(not_started=self.not_started + 1)._requeue("not started", reason, now)
        if self.is_exhausted:
            error = f"{reason} at attempt {self.attempt} of {self.max_attempts}"
            return self._end(TaskState.FAILED, "expired", now, error=error)
        return self._requeue("expired", reason, now)

    def miss_deadline(self, now: float) -> TaskRecord:
        """FAILED, because no attempt may start after the deadline."""
        error = "the deadline has passed: no attempt may start any more"
        return self._end(TaskState.FAILED, "overdue", now, error=error)

    def miss_dependency(self, dependency: str, state: str, now: float) -> TaskRecord:
        """FAILED, because what it needs will never be COMPLETED."""
        error = f"it depends on task {dependency}, which is {state}"
        return self._end(TaskState.FAILED, "dependency failed", now, error=error)

    def end(self, state: TaskState, reason: str, now: float) -> TaskRecord:
        """Ended by an administrator, FAILED or CANCELLED, whoever holds it."""
        if not self.is_open:
            raise InvalidTransition(f"task {self.id} is {self.state} already and stays so", self.id)
        return self._end(state, state.value, now, error=reason)

    def _end(
        self, state: TaskState, event: str, now: float, *, result: Plain = None, error: str | None = None
    ) -> TaskRecord:
        return self._with(
            state=state.value,
            lease_expires_at=None,
            not_before=None,
            result=result,
            error=error,
            history=self._history(now, event, self.assigned_to, self.attempt, error),
        )

    def _lease_from(self, now: float) -> float:
        return now + min(self.claim_ttl_sec, rules.timeout_sec(self.constraints))

    def _with(self, **changes: object) -> TaskRecord:
        """A copy with other values in some fields. What is given is not checked: it comes from here."""
        copy = object.__new__(TaskRecord)
        copy.__dict__.update(self.__dict__)
        copy.__dict__.update(changes)
        return copy

    def _requeue(self, event: str, reason: str, now: float, not_before: float | None = None) -> TaskRecord:
        return self._with(
            state=_PENDING,
            assigned_to=None,
            claimed_at=None,
            lease_expires_at=None,
            not_before=not_before,
            history=self._history(now, event, self.assigned_to, self.attempt, reason),
        )

    def _history(self, now: float, event: str, agent_id: str | None, attempt: int, reason: str | None) -> list[Plain]:
        if not isinstance(reason, str | None):
            raise TypeError(f"a reason is a str, not {type(reason).__name__}")
        kept = self.history
        if len(kept) >= MAX_HISTORY:
            kept = [kept[0], *kept[2 - MAX_HISTORY :]]
        short = None if reason is None else reason[:_MAX_REASON_IN_HISTORY]
        return [*kept, [now, event, agent_id, attempt, short]]

    def _check_claimant(self, agent_id: str, attempt: int | None) -> None:
        """`attempt` None: the caller knows of no epoch, and its identity alone has to be the claimant's."""
        holder = self.state == _ASSIGNED and self.assigned_to == agent_id
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
        raise ClaimLost(f"task {self.id} is not held by {agent_id}: {now}; nothing was stored", self.id)

    def _check(self) -> None:
        """`ValueError` unless all who read the record later can rely on its fields."""
        self._check_shape()
        if not all(isinstance(name, str) for name in self.required_capabilities):
            raise ValueError(f"required_capabilities holds names, not {self.required_capabilities!r}")
        if not all(isinstance(name, str) for name in self.depends_on) or "" in self.depends_on:
            raise ValueError(f"depends_on holds ids of tasks, not {self.depends_on!r}")
        if self.state not in _STATES:
            raise ValueError(f"no stored task has the state {self.state!r}")
        if (self.state == _ASSIGNED) != (self.lease_expires_at is not None):
            raise ValueError(f"it is {self.state} and its lease_expires_at is {self.lease_expires_at!r}")
        if self.topic is not None:
            Topic.from_dict(self.topic)
        if self.constraints:
            rules.check_constraints(self.constraints)

    def _check_shape(self) -> None:
        shape = (*self.__dict__, *map(type, self.__dict__.values()))
        if shape in _seen_shapes:  # there are few, and one look costs a tenth of a walk over the fields
            return
        for name, kinds in _SHAPE.items():
            if not isinstance(value := getattr(self, name), kinds):
                wanted = " or ".join("None" if kind is NoneType else kind.__name__ for kind in kinds)
                raise ValueError(f"{name} is {wanted}, not {value!r}")
        if len(_seen_shapes) < _MAX_SHAPES:
            _seen_shapes.add(shape)


def _events(entry: Plain) -> Iterator[TaskEvent]:
    match entry:
        case [int() | float() as at, str(event), str() | None as agent_id, int(attempt), str() | None as reason]:
            yield TaskEvent(at, event, agent_id, attempt, reason)


def _copied(value: dict[str, Plain]) -> dict[str, Plain]:
    return {key: copied(item) for key, item in value.items()}


_UNTOUCHED: dict[str, Any] = {each.name: None for each in fields(TaskRecord)} | {
    "state": _PENDING,
    **dict.fromkeys(("attempt", "failures", "not_started"), 0),
}
"""All fields in their order, with what those that a new task does not give begin with."""
