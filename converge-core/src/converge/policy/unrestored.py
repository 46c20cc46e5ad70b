"""What stands in for a policy that cannot be restored: it denies, and says so each time it is asked."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from attrs import frozen

from converge.policy.admission import AdmissionPolicy
from converge.policy.governance import GovernanceModel

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["UnrestoredAdmission", "UnrestoredGovernance"]

_log = logging.getLogger(__name__)


@frozen
class UnrestoredAdmission(AdmissionPolicy):
    """Admits nobody. `name` is what the policy was stored as, `reason` why that could not be built again."""

    name: str
    reason: str

    def can_admit(self, agent_id: str, context: Mapping[str, object]) -> bool:
        """False."""
        _log.warning(
            "%r is not admitted: the admission policy %r was not restored (%s); register it under converge.admission",
            agent_id, self.name, self.reason,
        )  # fmt: skip
        return False


@frozen
class UnrestoredGovernance(GovernanceModel):
    """Decides nothing. `name` is what the model was stored as, `reason` why that could not be built again."""

    name: str
    reason: str

    def resolve_dispute(self, context: Mapping[str, object]) -> None:
        """None."""
        _log.warning(
            "nothing is decided: the governance model %r was not restored (%s); register it under converge.governance",
            self.name, self.reason,
        )  # fmt: skip
