"""The senders an agent is willing to hear."""

from __future__ import annotations

from converge.core.errors import IdentityError
from converge.core.identity import Identity

__all__ = ["IdentityRegistry"]


class IdentityRegistry:
    """An allow-list of agents and their public keys.

    An id is the SHA-256 of its key, so a registry cannot hold a wrong pair: it refuses one. One registry may be
    shared by the agents of a process; each call is one dictionary operation and safe between threads.
    """

    def __init__(self) -> None:
        self._keys: dict[str, bytes] = {}

    def register(self, agent_id: str, public_key: bytes) -> None:
        """Allow `agent_id`. `IdentityError` (a ValueError) when the key is not a key or does not hash to the id."""
        fingerprint = Identity.from_public_key(public_key).fingerprint
        if fingerprint != agent_id:
            raise IdentityError(
                f"the public key belongs to {fingerprint}, not to {agent_id}: an agent id is the SHA-256 of its key"
            )
        self._keys[agent_id] = bytes(public_key)

    def unregister(self, agent_id: str) -> None:
        """Stop allowing `agent_id`; an unknown one is no error."""
        self._keys.pop(agent_id, None)

    def get(self, agent_id: str) -> bytes | None:
        """The public key of `agent_id`, or None when it is not allowed."""
        return self._keys.get(agent_id)

    def __contains__(self, agent_id: object) -> bool:
        return agent_id in self._keys

    def __len__(self) -> int:
        return len(self._keys)
