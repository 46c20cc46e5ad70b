"""How much each agent is trusted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen

from converge.core.clock import SystemClock
from converge.core.store import versioned
from converge.policy.errors import TrustError
from converge.policy.options import is_amount
from converge.policy.standing import HALF_LIFE_SEC, MAX_WEIGHT, Standing, check_half_life, check_trust
from converge.policy.trust_keeping import MemoryKeeper, StoreKeeper

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from converge.core.clock import Clock
    from converge.core.store import Store
    from converge.policy.trust_keeping import TrustKeeper

__all__ = ["TrustModel", "TrustOptions"]

_NAME = "the name of a trust model"


@frozen
class TrustOptions:
    """Options of `TrustModel`.

    `default_trust` is what a stranger is trusted, `scores` agent id -> trust for those who are known, `evidence` agent
    id -> `[successes, failures, Unix seconds]`, `half_life_sec` after how long an outcome counts for half, and `name`
    under which the scores are kept in a store: models of one name share them.
    """

    default_trust: float = 0.5
    scores: dict[str, float] = field(factory=dict)
    evidence: dict[str, list[float]] = field(factory=dict)
    half_life_sec: float = HALF_LIFE_SEC
    name: str | None = None


class TrustModel:
    """A trust between 0 and 1 for each agent; one that nothing is known about has `default_trust`. Thread-safe.

    Outcomes move the trust by the rule of `converge.policy.standing` and are forgotten by half in each
    `half_life_sec`; a correction by `update_trust` stays. With a `store`, everything is kept there under `name` (or
    "default"), one record an agent, and models of one name in any number of processes share it; calls may then wait
    for the store. Else it lives in this object.

    Identities cost nothing, so whoever lost trust comes back as a stranger: a threshold that is to mean something
    has to be above `default_trust`. What is kept grows with the number of agents whose trust differs from the default,
    and those are never dropped, because forgetting a distrusted agent would raise its trust: call `update_trust` for
    agents that earned it, not for everybody who knocks.
    """

    converge_options: ClassVar[type[TrustOptions]] = TrustOptions

    def __init__(
        self,
        default_trust: float = 0.5,
        scores: Mapping[str, float] | None = None,
        *,
        evidence: Mapping[str, Sequence[float]] | None = None,
        half_life_sec: float = HALF_LIFE_SEC,
        name: str | None = None,
        store: Store | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.default_trust = check_trust(default_trust, "default_trust")
        self.half_life_sec = check_half_life(half_life_sec)
        self._name = None if name is None else _check_text(_NAME, name)
        self._clock: Clock = SystemClock() if clock is None else clock
        self._keeper: TrustKeeper = MemoryKeeper(_given(self.default_trust, scores or {}, evidence or {}))
        if store is not None:
            self.bind(store, name or "default")

    @property
    def name(self) -> str | None:
        """Under which name the scores are kept in a store; None when there is none yet."""
        return self._name

    @property
    def store(self) -> Store | None:
        """The store in which the scores are kept; None: in this object."""
        return self._keeper.store if isinstance(self._keeper, StoreKeeper) else None

    def bind(self, store: Store, name: str, *, like: TrustModel | None = None) -> None:
        """Keep everything in `store` from now on. What this object knows counts until the store knows better.

        With `like`, what that model was given counts instead. Binding again to the same is no error. Raises
        `TrustError` when the model is kept in another store, or by another name.
        """
        lifted = versioned(store)
        if isinstance(self._keeper, StoreKeeper):
            if self._keeper.store is not lifted:
                raise TrustError("this trust model keeps its scores in another store; give a model of its own")
        elif self._name not in (None, name):
            raise TrustError(f"this trust model has the name {self._name!r}, not {name!r}")
        else:
            self._name = _check_text(_NAME, name)
            self._keeper = StoreKeeper(lifted, self._name, (self if like is None else like)._keeper.known())

    def get_trust(self, agent_id: str) -> float:
        """The trust of `agent_id` now, 0 to 1. Raises `TrustRecordError` when something else lies in the store."""
        known = self._keeper.read(agent_id)
        return self.default_trust if known is None else known.faded(self._now(), self.half_life_sec).trust

    def update_trust(self, agent_id: str, delta: float) -> float:
        """Add `delta`, which may be negative; the new trust, kept within 0 to 1.

        Raises `TrustError` (ValueError), with nothing changed, when `delta` is not a finite number.
        """
        if not _is_number(delta) or not -math.inf < delta < math.inf:
            raise TrustError(f"trust cannot change by {delta!r}; give a finite number")
        moved = self.default_trust

        def move(known: Standing | None) -> Standing | None:
            nonlocal moved
            standing = self._or_new(known).moved(delta, self._now(), self.half_life_sec)
            moved = standing.trust
            return self._unless_forgotten(standing)

        self._keeper.change(_agent_id(agent_id), move, None)
        return moved

    def record_outcome(
        self,
        agent_id: str,
        success: bool,
        weight: float = 1.0,
        at: float | None = None,
        *,
        key: str | None = None,
    ) -> bool:
        """Count one success or failure of `agent_id`; False when the outcome `key` has been counted before.

        `at` is when it happened, in Unix seconds (default now, and at most that): the order of the calls does not
        matter. `key` names the outcome, such as the task id and the attempt: in a store it is counted exactly once by
        all processes, in memory unless 100,000 others came after it. Raises `TrustError`, with nothing changed, for a
        `success` that is no bool, a `weight` that is not above 0 and at most 1,000, or an `at` that is no time.
        """
        if not isinstance(success, bool):
            raise TrustError(f"an outcome is True or False, not {success!r}")
        if not is_amount(weight) or not 0 < weight <= MAX_WEIGHT:
            raise TrustError(f"an outcome weighs more than 0 and at most {MAX_WEIGHT:g}, not {weight!r}")
        if at is not None and not is_amount(at):
            raise TrustError(f"an outcome has a time in Unix seconds, at least 0, not {at!r}")
        if key is not None:
            _check_text("the key of an outcome", key)

        def move(known: Standing | None) -> Standing:
            now = self._now()
            return self._or_new(known).with_outcome(
                success=success,
                weight=weight,
                at=now if at is None else at,
                now=now,
                half_life=self.half_life_sec,
            )

        return self._keeper.change(_agent_id(agent_id), move, key)

    def to_options(self) -> dict[str, Any]:
        """What is given at the beginning, from which `TrustModel(**options)` goes on.

        In memory that is everything. Of a model in a store it is the name, and what was known when it came there.
        """
        options: dict[str, Any] = {"default_trust": self.default_trust}
        known = self._keeper.known()
        options["scores"] = {
            agent: standing.score for agent, standing in known.items() if standing.score != self.default_trust
        }
        evidence = {
            agent: [standing.successes, standing.failures, standing.at]
            for agent, standing in known.items()
            if standing.successes or standing.failures
        }
        if evidence:
            options["evidence"] = evidence
        if self.half_life_sec != HALF_LIFE_SEC:
            options["half_life_sec"] = self.half_life_sec
        if self._name is not None:
            options["name"] = self._name
        return options

    def __repr__(self) -> str:
        known = len(self._keeper.known())
        where = f"kept as {self._name!r}" if self.store is not None else f"{known} agents known"
        return f"{type(self).__name__}(default_trust={self.default_trust}, {where})"

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made of. A copy lives in memory: neither a lock nor a store can be copied."""
        if self.store is not None:
            raise TypeError("a trust model in a store is not copied; make another one with its store and name")
        return {**self.__dict__, "_keeper": self._keeper.known()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({**state, "_keeper": MemoryKeeper(state["_keeper"])})

    def _now(self) -> float:
        return max(0.0, self._clock.time())

    def _or_new(self, known: Standing | None) -> Standing:
        return Standing(self.default_trust) if known is None else known

    def _unless_forgotten(self, standing: Standing) -> Standing | None:
        """None for a stranger's standing, which need not be kept in memory."""
        is_default = standing.score == self.default_trust and not standing.successes and not standing.failures
        return None if is_default and self.store is None else standing


def _given(
    default_trust: float, scores: Mapping[str, float], evidence: Mapping[str, Sequence[float]]
) -> dict[str, Standing]:
    given = {}
    for agent in {**scores, **evidence}:
        if not isinstance(outcomes := evidence.get(agent, (0.0, 0.0, 0.0)), list | tuple) or len(outcomes) != 3:
            raise TrustError(f"the evidence of {agent!r} is {outcomes!r}; give successes, failures and Unix seconds")
        score = check_trust(scores.get(agent, default_trust), f"trust of {agent!r}")
        given[_agent_id(agent)] = Standing.checked(score, *outcomes)
    return given


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_text(what: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TrustError(f"{what} is a non-empty str, not {value!r}")
    return value


def _agent_id(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TrustError(f"{value!r} is no agent id; trust is kept for non-empty str ids")
    return value
