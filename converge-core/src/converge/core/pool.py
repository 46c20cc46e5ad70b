"""A pool: agents that share topics, admission and governance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, field, validators

from converge.core.topic import Topic

if TYPE_CHECKING:
    from collections.abc import Iterable

    from attrs import Attribute

    from converge.policy.admission import AdmissionPolicy  # noqa: TC004  # a higher layer: named, never loaded
    from converge.policy.governance import GovernanceModel  # noqa: TC004  # as above
    from converge.policy.trust import TrustModel  # noqa: TC004  # as above

__all__ = ["Pool", "check_threshold"]


def check_threshold(_instance: object, _attribute: Attribute[float], value: object) -> None:
    """The attrs validator of a `trust_threshold`: `ValueError` unless `value` is a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"trust_threshold is a number from 0 to 1, not {value!r}")


def _own_topics(topics: Iterable[Topic]) -> list[Topic]:
    return list(topics)


def _own_ids(agents: Iterable[str]) -> set[str]:
    if isinstance(agents, str):
        raise TypeError(f"agents are given as a list of ids; write [{agents!r}]")
    return set(agents)


@define
class Pool:
    """A pool and its present members. The one from a `PoolManager` is the caller's copy: join and leave through it.

    Raises `ValueError` for a `trust_threshold` that is no number from 0 to 1, or an empty id.
    """

    id: str = field(validator=validators.and_(validators.instance_of(str), validators.min_len(1)))
    topics: list[Topic] = field(factory=list, converter=_own_topics)
    admission_policy: AdmissionPolicy | None = None
    governance: GovernanceModel | None = None
    agents: set[str] = field(factory=set, converter=_own_ids)
    trust_model: TrustModel | None = None
    trust_threshold: float = field(default=0.0, validator=check_threshold)

    def add_agent(self, agent_id: str) -> None:
        """Count `agent_id` among the members of this object."""
        self.agents.add(agent_id)

    def remove_agent(self, agent_id: str) -> None:
        """Remove `agent_id` from the members of this object; a stranger is no error."""
        self.agents.discard(agent_id)
