"""Asking the limits of an agent and its pools before each of its decisions."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from converge.core.decisions import ClaimTask, Decision, InvokeTool, SendMessage, SubmitTask
from converge.policy.limits import Exceeded, Limiter, Limits, take
from converge.policy.shared_limits import SharedLimiter
from converge.runtime.calls import described

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from converge.core.store import Store
    from converge.observability.metrics import MetricsCollector
    from converge.runtime.config import Config, PoolConfig
    from converge.runtime.keys import Member

__all__ = ["LIMITED", "DecisionLimits", "limits_of", "pool_limiters"]

LIMITED = "converge_limited_total"
"""The counter of what a limit refused, with the labels `limit` and `scope`."""

_NAMES = ((SendMessage, "messages"), (InvokeTool, "tool_calls"), (SubmitTask, "tasks"), (ClaimTask, "claims"))
_log = logging.getLogger(__name__)


class DecisionLimits:
    """The limits on the decisions of one agent: its own and those of its pools. For one executor; thread-safe.

    A pool's `Limiter` is given to each of its members, who share it. A limit that raises refuses.
    """

    def __init__(self, limiters: Iterable[Limiter]) -> None:
        self._limiters = tuple(limiters)
        turns = [(each.limits.decisions_per_turn, each) for each in self._limiters]
        self._turn = min(
            ((most, each) for most, each in turns if most is not None), key=lambda one: one[0], default=None
        )
        self._shared = tuple(each for each in self._limiters if isinstance(each, SharedLimiter))
        self._in_turn = 0
        self._failed: Exception | None = None

    @property
    def shared(self) -> bool:
        """Whether `reserve` has anything to do."""
        return bool(self._shared)

    @property
    def blocking(self) -> bool:
        """Whether `reserve` may wait for a disk or a network."""
        return any(each.blocking for each in self._shared)

    def begin_turn(self) -> None:
        """What comes now is of another call of `decide`."""
        self._in_turn = 0

    def reserve(self, decisions: Iterable[object]) -> None:
        """Take what `decisions` need from limits that several processes share; when that fails, all are refused."""
        counts = Counter(name for one in decisions if isinstance(one, Decision) for name in _names(one))
        self._failed = None
        try:
            for limiter in self._shared:
                limiter.reserve(counts)
        except Exception as error:  # noqa: BLE001  # a store that is away; it denies
            _log.warning("the limits that processes share cannot be asked: %s", described(error))
            self._failed = error

    def refusal(self, decision: Decision, metrics: MetricsCollector | None = None) -> str | None:
        """Count `decision`; why it is refused, if it is, and then it is counted in `metrics` only."""
        try:
            exceeded = self._take(decision)
        except BaseException as error:  # noqa: BLE001  # whatever a limit raises, it denies; nothing awaits here
            _log.warning("the limits failed on %s, so it is refused", type(decision).__name__, exc_info=True)
            text, limit, scope = f"the limits failed: {described(error)}", "failed", "agent"
        else:
            if exceeded is None:
                return None
            text, limit, scope = str(exceeded), exceeded.limit, exceeded.scope
        if metrics is not None:
            metrics.inc(LIMITED, labels={"limit": limit, "scope": scope})
        return text

    def _take(self, decision: Decision) -> Exceeded | None:
        if self._failed is not None:
            raise self._failed
        if self._turn is not None and self._in_turn >= self._turn[0]:
            most, limiter = self._turn
            return Exceeded("decisions_per_turn", limiter.scope, limiter.owner, f"{most} of each call of decide", 0.0)
        exceeded = take(self._limiters, _names(decision))
        self._in_turn += exceeded is None
        return exceeded


def pool_limiters(pools: Iterable[PoolConfig], store: Store) -> dict[str, Limiter]:
    """The limiters that the members of each pool share, in every process on `store`, for the pools that have limits."""
    limited = {pool.id: pool.limits for pool in pools if pool.limits is not None}
    return {pool_id: SharedLimiter(limits, f"pool {pool_id}", store) for pool_id, limits in limited.items()}


def _names(decision: Decision) -> list[str]:
    """The limits that a decision counts for."""
    names = ["decisions", *(name for kind, name in _NAMES if isinstance(decision, kind))]
    return [*names, f"tools.{decision.tool_name}"] if isinstance(decision, InvokeTool) else names


def limits_of(member: Member, config: Config, pools: Mapping[str, Limiter]) -> DecisionLimits | None:
    """The limits of an agent: its entry's, else those of `[limits]`, and its pools'. None when nothing limits it."""
    own = config.limits if member.config.limits is None else member.config.limits
    limiters = [pools[name] for name in member.config.pools if name in pools]
    if own != Limits():
        limiters.insert(0, Limiter(own, f"agent {member.name}"))
    return DecisionLimits(limiters) if limiters else None
