"""Who is there, and what they can do."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from converge.core.capability import Capability, capability_names
from converge.core.errors import IdentityError
from converge.core.follower import Follower
from converge.core.identity import Identity
from converge.core.store import DELETED, Store, versioned
from converge.core.topic import Topic

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from converge.policy.trust import TrustModel

__all__ = ["AgentDescriptor", "DiscoveryQuery", "DiscoveryService"]

_PREFIX = "agent:"
_log = logging.getLogger(__name__)


def _topics(values: Iterable[Topic]) -> tuple[Topic, ...]:
    return tuple(values)


def _capabilities(values: Iterable[Capability | str]) -> tuple[Capability, ...]:
    return tuple(Capability(value) if isinstance(value, str) else value for value in values)


@frozen
class AgentDescriptor:
    """What an agent tells about itself. `IdentityError` when `public_key` does not hash to `id`."""

    id: str
    topics: tuple[Topic, ...] = field(default=(), converter=_topics)
    capabilities: tuple[Capability, ...] = field(default=(), converter=_capabilities)
    public_key: bytes | None = None

    def __attrs_post_init__(self) -> None:
        if not self.id or not isinstance(self.id, str):
            raise IdentityError("an agent descriptor needs an id")
        if self.public_key is not None and Identity.from_public_key(self.public_key).fingerprint != self.id:
            raise IdentityError(f"the public key in the descriptor of {self.id} belongs to another agent")

    def to_dict(self) -> dict[str, Any]:
        """The descriptor as plain data that JSON can carry; the key in hex."""
        return {
            "id": self.id,
            "topics": [topic.to_dict() for topic in self.topics],
            "capabilities": [capability.to_dict() for capability in self.capabilities],
            "public_key": None if self.public_key is None else self.public_key.hex(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AgentDescriptor:
        """The descriptor in `data`; `ValueError` or `TypeError` when it is malformed or the key is another agent's."""
        key = data.get("public_key")
        return cls(
            id=data["id"],
            topics=[Topic.from_dict(topic) for topic in data.get("topics", ())],
            capabilities=[Capability.from_dict(item) for item in data.get("capabilities", ())],
            public_key=None if key is None else bytes.fromhex(key),
        )


def _names(values: Iterable[Capability | str]) -> frozenset[str]:
    return capability_names(values)


@frozen
class DiscoveryQuery:
    """Any of `topics` (see `Topic.matches`) and all of `capabilities`; an empty field does not filter."""

    topics: tuple[Topic, ...] = field(default=(), converter=_topics)
    capabilities: frozenset[str] = field(default=frozenset(), converter=_names)
    trust_threshold: float = 0.0

    def matches(self, descriptor: AgentDescriptor) -> bool:
        """Whether topics and capabilities fit; trust is the service's to judge."""
        if not self.capabilities <= capability_names(descriptor.capabilities):
            return False
        return not self.topics or any(mine.matches(theirs) for mine in self.topics for theirs in descriptor.topics)


class DiscoveryService:
    """The agents that registered, in this process or, with a store, in every process that shares it.

    Descriptors in the store are followed by its change feed. One that is malformed or whose key is not its id's is
    refused and counted in `counters["refused_descriptor"]`. A process that was killed leaves its descriptors behind
    until an agent of the same identity unregisters. Safe between threads; with a store, calls may block on it.
    """

    def __init__(self, store: Store | None = None, trust_model: TrustModel | None = None) -> None:
        self._store = None if store is None else versioned(store)
        self._trust = trust_model
        self._agents: dict[str, AgentDescriptor] = {}
        self._follower = None if self._store is None else Follower(self._store, _PREFIX)
        self._lock = threading.RLock()
        self.counters: Counter[str] = Counter()

    @property
    def blocking(self) -> bool:
        """Whether calls may wait for a disk or a network."""
        return self._store is not None and self._store.blocking

    def register(self, descriptor: AgentDescriptor) -> None:
        """Make `descriptor` known, replacing the agent's earlier one."""
        if self._store is not None:
            self._store.put(_PREFIX + descriptor.id, descriptor.to_dict())
        with self._lock:
            self._agents[descriptor.id] = descriptor

    def unregister(self, agent_id: str) -> None:
        """Forget an agent; an unknown one is no error."""
        if self._store is not None:
            self._store.delete(_PREFIX + agent_id)
        with self._lock:
            self._agents.pop(agent_id, None)

    def query(
        self,
        query: DiscoveryQuery,
        candidates: Iterable[AgentDescriptor] | None = None,
        refresh_from_store: bool = False,
    ) -> list[AgentDescriptor]:
        """The agents that fit, sorted by id: out of `candidates` if given, else out of all that are known.

        `refresh_from_store` first reads what other processes registered since the last time.
        """
        if refresh_from_store and self._follower is not None:
            self._refresh(self._follower)
        if candidates is None:
            with self._lock:
                candidates = list(self._agents.values())
        found = [descriptor for descriptor in candidates if query.matches(descriptor)]
        if self._trust is not None and query.trust_threshold > 0:
            found = [
                descriptor for descriptor in found if self._trust.get_trust(descriptor.id) >= query.trust_threshold
            ]
        return sorted(found, key=lambda descriptor: descriptor.id)

    def _refresh(self, follower: Follower) -> None:
        with self._lock:
            emptied, changes = follower.poll()
            if emptied:
                self._agents.clear()
            for key, value, _version in changes:
                agent_id = key.removeprefix(_PREFIX)
                if value is DELETED:
                    self._agents.pop(agent_id, None)
                else:
                    self._take(agent_id, value)

    def _take(self, agent_id: str, value: object) -> None:
        try:
            if not isinstance(value, dict):
                raise TypeError("not a map")
            descriptor = AgentDescriptor.from_dict(value)
            if descriptor.id != agent_id:
                raise IdentityError(f"it describes {descriptor.id}")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            self.counters["refused_descriptor"] += 1
            _log.warning("the stored descriptor of %s is refused: %s", agent_id, error)
        else:
            self._agents[agent_id] = descriptor
