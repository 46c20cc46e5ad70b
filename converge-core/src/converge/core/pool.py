"""A pool: agents that share topics, admission and governance."""

from __future__ import annotations

from attrs import define, field

from converge.core.topic import Topic
from converge.policy.admission import AdmissionPolicy
from converge.policy.governance import GovernanceModel
from converge.policy.trust import TrustModel

__all__ = ["Pool"]


@define
class Pool:
    """A pool and its present members. The one from a `PoolManager` is the caller's copy: join and leave through it."""

    id: str
    topics: list[Topic] = field(factory=list)
    admission_policy: AdmissionPolicy | None = None
    governance: GovernanceModel | None = None
    agents: set[str] = field(factory=set, converter=set)
    trust_model: TrustModel | None = None
    trust_threshold: float = 0.0

    def add_agent(self, agent_id: str) -> None:
        """Count `agent_id` among the members of this object."""
        self.agents.add(agent_id)

    def remove_agent(self, agent_id: str) -> None:
        """Remove `agent_id` from the members of this object; a stranger is no error."""
        self.agents.discard(agent_id)
