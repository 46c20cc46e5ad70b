"""What the standard executor does with decisions about auctions, negotiations and delegations.

The agent is always the executor's own. A subclass of a decision may say more than the decision itself: an
`AcceptProposal` or `RejectProposal` with a `proposal_number`, a `Delegate` with a `parent_id` and an `expires_at`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from converge.coordination.bidding import StoredAuctions
from converge.coordination.errors import MoveRefused
from converge.core.decisions import (
    AcceptProposal,
    Decision,
    Delegate,
    Propose,
    RejectProposal,
    RevokeDelegation,
    SubmitBid,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from converge.coordination.auction_record import Bid
    from converge.coordination.bidding import BiddingProtocol
    from converge.coordination.delegation import DelegationProtocol
    from converge.coordination.negotiation import NegotiationProtocol, NegotiationSession

__all__ = ["MoveHandlers"]


class MoveHandlers:
    """The moves of one agent in the protocols that it was given; without the one it needs, a move is `MoveRefused`."""

    def __init__(
        self,
        agent_id: str,
        bidding_protocols: Mapping[str, BiddingProtocol] | None,
        negotiation_protocol: NegotiationProtocol | None,
        delegation_protocol: DelegationProtocol | None,
    ) -> None:
        self._agent_id = agent_id
        self._auctions = {} if bidding_protocols is None else bidding_protocols  # kept: auctions may be added to it
        self._negotiation, self._delegation = negotiation_protocol, delegation_protocol

    @property
    def blocking(self) -> bool:
        """Whether a move may wait for a disk or a network."""
        auctions = [self._auctions] if isinstance(self._auctions, StoredAuctions) else self._auctions.values()
        protocols = [*auctions, self._negotiation, self._delegation]
        return any(protocol is not None and protocol.blocking for protocol in protocols)

    def table(self) -> dict[type[Decision], Callable[[Any], object]]:
        """The handler of each kind of decision."""
        return {
            SubmitBid: self._bid,
            Propose: self._propose,
            AcceptProposal: self._accept,
            RejectProposal: self._reject,
            Delegate: self._delegate,
            RevokeDelegation: self._revoke,
        }

    def _bid(self, decision: SubmitBid) -> Bid:
        auction = self._auctions.get(decision.auction_id)
        if auction is None:
            raise MoveRefused(
                f"this executor has no auction {decision.auction_id!r}; give it in bidding_protocols",
                decision.auction_id,
            )
        return auction.submit_bid(self._agent_id, decision.amount, decision.content)

    def _propose(self, decision: Propose) -> NegotiationSession:
        session_id = decision.session_id
        return self._negotiations(session_id).propose(session_id, self._agent_id, decision.proposal_content)

    def _accept(self, decision: AcceptProposal) -> NegotiationSession:
        session_id, number = decision.session_id, getattr(decision, "proposal_number", None)
        return self._negotiations(session_id).accept(session_id, self._agent_id, proposal_number=number)

    def _reject(self, decision: RejectProposal) -> NegotiationSession:
        session_id, number = decision.session_id, getattr(decision, "proposal_number", None)
        return self._negotiations(session_id).reject(session_id, self._agent_id, proposal_number=number)

    def _delegate(self, decision: Delegate) -> str:
        return self._delegations(decision.delegatee_id).delegate(
            self._agent_id,
            decision.delegatee_id,
            decision.scope,
            parent_id=getattr(decision, "parent_id", None),
            expires_at=getattr(decision, "expires_at", None),
        )

    def _revoke(self, decision: RevokeDelegation) -> bool:
        return self._delegations(decision.delegation_id).revoke(decision.delegation_id, agent_id=self._agent_id)

    def _negotiations(self, session_id: str) -> NegotiationProtocol:
        if self._negotiation is None:
            raise MoveRefused("this executor has no negotiations; give it a negotiation_protocol", session_id)
        return self._negotiation

    def _delegations(self, subject_id: str) -> DelegationProtocol:
        if self._delegation is None:
            raise MoveRefused("this executor has no delegations; give it a delegation_protocol", subject_id)
        return self._delegation
