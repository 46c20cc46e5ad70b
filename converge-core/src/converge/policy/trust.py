"""How much each agent is trusted."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen

from converge.policy.errors import TrustError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["TrustModel", "TrustOptions"]


@frozen
class TrustOptions:
    """Options of `TrustModel`: what a stranger is trusted, and agent id -> trust for those who are known."""

    default_trust: float = 0.5
    scores: dict[str, float] = field(factory=dict)


class TrustModel:
    """A trust between 0 and 1 for each agent; one that nothing is known about has `default_trust`. Thread-safe.

    Identities cost nothing, so whoever lost trust comes back as a stranger: a threshold that is to mean something
    has to be above `default_trust`. Memory grows with the number of agents whose trust differs from the default,
    and those are never dropped, because forgetting a distrusted agent would raise its trust: call `update_trust` for
    agents that earned it, not for everybody who knocks.
    """

    converge_options: ClassVar[type[TrustOptions]] = TrustOptions

    def __init__(self, default_trust: float = 0.5, scores: Mapping[str, float] | None = None) -> None:
        self.default_trust = _trust(default_trust, "default_trust")
        self._scores = {
            _agent_id(agent): _trust(trust, f"trust of {agent!r}") for agent, trust in (scores or {}).items()
        }
        self._lock = threading.Lock()

    def get_trust(self, agent_id: str) -> float:
        """The trust of `agent_id`, 0 to 1."""
        return self._scores.get(agent_id, self.default_trust)

    def update_trust(self, agent_id: str, delta: float) -> float:
        """Add `delta`, which may be negative; the new trust, kept within 0 to 1.

        Raises `TrustError` (ValueError), with nothing changed, when `delta` is not a finite number.
        """
        if not _is_number(delta) or not -math.inf < delta < math.inf:
            raise TrustError(f"trust cannot change by {delta!r}; give a finite number")
        with self._lock:
            trust = min(1.0, max(0.0, self.get_trust(_agent_id(agent_id)) + min(1.0, max(-1.0, delta))))
            if trust == self.default_trust:
                self._scores.pop(agent_id, None)
            else:
                self._scores[agent_id] = trust
            return trust

    def to_options(self) -> dict[str, float | dict[str, float]]:
        """The default and what is known of each agent: `TrustModel(**options)` goes on from here."""
        with self._lock:
            return {"default_trust": self.default_trust, "scores": dict(self._scores)}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(default_trust={self.default_trust}, {len(self._scores)} agents known)"

    def __reduce__(self) -> tuple[type[TrustModel], tuple[float, dict[str, float]]]:
        with self._lock:  # a copy has a lock of its own; a lock cannot be copied
            return type(self), (self.default_trust, dict(self._scores))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _trust(value: float, what: str) -> float:
    if not _is_number(value) or not 0 <= value <= 1:
        raise TrustError(f"{what} is {value!r}; trust is a number from 0 to 1")
    return float(value)


def _agent_id(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TrustError(f"{value!r} is no agent id; trust is kept for non-empty str ids")
    return value
