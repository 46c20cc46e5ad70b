"""Who is there, and what they can do."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from attrs import field, frozen, validators

from converge.core.capability import Capability, as_capabilities, capability_names
from converge.core.errors import IdentityError
from converge.core.follower import Follower
from converge.core.identity import Identity
from converge.core.pool import check_threshold
from converge.core.store import DELETED, Store, versioned
from converge.core.topic import Topic

if TYPE_CHECKING:
    from collections.abc import Iterable

    from converge.core.plain_json import Json
    from converge.policy.trust import TrustModel

__all__ = ["AgentDescriptor", "DiscoveryQuery", "DiscoveryService"]

_PREFIX = "agent:"
_log = logging.getLogger(__name__)


def _topics(values: Iterable[Topic]) -> tuple[Topic, ...]:
    if isinstance(values, str | Topic):
        raise TypeError(f"topics are given as a list of Topic, not {type(values).__name__}")
    topics = tuple(values)
    for topic in topics:
        if not isinstance(topic, Topic):
            raise TypeError(f"topics is a list of Topic; one is {type(topic).__name__}: write Topic({topic!r:.60})")
    return topics


@frozen
class AgentDescriptor:
    """What an agent tells about itself.

    Making one does not check that `public_key` belongs to `id`; `check_key` does, and so does everything that takes
    a descriptor in: `from_dict` and the discovery service.
    """

    id: str = field(validator=validators.and_(validators.instance_of(str), validators.min_len(1)))
    topics: tuple[Topic, ...] = field(default=(), converter=_topics)
    capabilities: tuple[Capability, ...] = field(default=(), converter=as_capabilities)
    public_key: bytes | None = field(default=None, validator=validators.optional(validators.instance_of(bytes)))

    def check_key(self) -> None:
        """Raise `IdentityError` (ValueError) when there is a public key and it does not hash to the id."""
        if self.public_key is not None and Identity.from_public_key(self.public_key).fingerprint != self.id:
            raise IdentityError(f"the public key in the descriptor of {self.id} belongs to another agent")

    def to_dict(self) -> dict[str, Json]:
        """The descriptor as data that `json.dumps` takes; the key in hex."""
        return {
            "id": self.id,
            "topics": [topic.to_dict() for topic in self.topics],
            "capabilities": [capability.to_dict() for capability in self.capabilities],
            "public_key": None if self.public_key is None else self.public_key.hex(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> AgentDescriptor:
        """The descriptor that `to_dict` gave `data` of; all but the id may be absent.

        Raises `ValueError`, whatever is wrong with the data; when the key is another agent's, it is an `IdentityError`.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"an agent descriptor is read from a dict, not from {type(data).__name__}")  # bad data
        values: dict[str, Any] = dict(data)
        try:
            for name, read in _READERS.items():
                if name in values:
                    values[name] = read(values[name])
            descriptor = cls(**values)
        except TypeError as error:
            raise ValueError(f"this is no agent descriptor: {error}") from None
        descriptor.check_key()
        return descriptor


_READERS: dict[str, Callable[[Any], object]] = {
    "topics": lambda topics: [Topic.from_dict(topic) for topic in topics],
    "capabilities": lambda capabilities: [Capability.from_dict(capability) for capability in capabilities],
    "public_key": lambda key: None if key is None else bytes.fromhex(key),
}
"""What turns a field of `to_dict` into what the constructor takes."""


@frozen
class DiscoveryQuery:
    """Any of `topics` (see `Topic.matches`) and all of `capabilities`, by name; an empty field does not filter.

    Both take any iterable; capabilities may be names, `Capability` objects or a `CapabilitySet`. Raises `TypeError`
    for a lone str, `ValueError` for a `trust_threshold` that is no number from 0 to 1.
    """

    topics: tuple[Topic, ...] = field(default=(), converter=_topics)
    capabilities: frozenset[str] = field(default=frozenset(), converter=capability_names)
    trust_threshold: float = field(default=0.0, validator=check_threshold)

    def matches(self, descriptor: AgentDescriptor) -> bool:
        """Whether topics and capabilities fit; trust is the service's to judge."""
        if not self.capabilities <= {capability.name for capability in descriptor.capabilities}:
            return False
        return not self.topics or any(mine.matches(theirs) for mine in self.topics for theirs in descriptor.topics)


class DiscoveryService:
    """The agents that registered, in this process or, with a store, in every process that shares it.

    Descriptors in the store are followed by its change feed. One that is malformed or whose key is not its id's is
    refused and counted in `counters["refused_descriptor"]`, and what was known of that agent stays. A process that was
    killed leaves its descriptors behind until an agent of the same identity unregisters. `trust_model` is anything
    with a `get_trust(agent_id)` from 0 to 1. Safe between threads; with a store, calls may block on it.
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
        """Make `descriptor` known, replacing the agent's earlier one.

        Raises `IdentityError` (ValueError), with nothing changed, when its key does not hash to its id, and what the
        store raises.
        """
        descriptor.check_key()
        with self._lock:  # over both: else a refresh in between could be undone by what is older
            if self._store is not None:
                self._store.put(_PREFIX + descriptor.id, descriptor.to_dict())  # type: ignore[arg-type]  # JSON is plain data
            self._agents[descriptor.id] = descriptor

    def unregister(self, agent_id: str) -> None:
        """Forget an agent, whoever registered it; an unknown one is no error."""
        with self._lock:
            if self._store is not None:
                self._store.delete(_PREFIX + agent_id)
            self._agents.pop(agent_id, None)

    def query(
        self,
        query: DiscoveryQuery,
        candidates: Iterable[AgentDescriptor] | None = None,
        refresh_from_store: bool = False,
    ) -> list[AgentDescriptor]:
        """The agents that fit, sorted by id: out of `candidates` if given, else out of all that are known.

        `refresh_from_store` first reads what other processes registered since the last time. With a trust model and a
        threshold above 0, only agents of at least that trust; when the model fails for one, that one is left out.
        A candidate whose key is not its id's is left out and counted.
        """
        if refresh_from_store and self._follower is not None:
            self._refresh(self._follower)
        if candidates is None:
            with self._lock:
                candidates = list(self._agents.values())
        else:
            candidates = [candidate for candidate in candidates if self._is_authentic(candidate)]
        found = [descriptor for descriptor in candidates if query.matches(descriptor)]
        if self._trust is not None and query.trust_threshold > 0:
            trust, threshold = self._trust, query.trust_threshold
            found = [descriptor for descriptor in found if _is_trusted(trust, descriptor.id, threshold)]
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
            descriptor = AgentDescriptor.from_dict(value)  # type: ignore[arg-type]  # stored data: it checks
            if descriptor.id != agent_id:
                raise IdentityError(f"it describes {descriptor.id}")
        except ValueError as error:
            self._refuse(agent_id, error)
        else:
            self._agents[agent_id] = descriptor

    def _is_authentic(self, descriptor: AgentDescriptor) -> bool:
        try:
            descriptor.check_key()
        except IdentityError as error:
            self._refuse(descriptor.id, error)
            return False
        return True

    def _refuse(self, agent_id: str, error: ValueError) -> None:
        self.counters["refused_descriptor"] += 1
        _log.warning("the descriptor of %r is refused: %r", agent_id, str(error))


def _is_trusted(model: TrustModel, agent_id: str, threshold: float) -> bool:
    try:
        trust: object = model.get_trust(agent_id)
    except Exception:  # noqa: BLE001  # whatever a trust model raises is a denial
        _log.exception("%r is not trusted: the trust model failed", agent_id)
        return False
    return isinstance(trust, int | float) and not isinstance(trust, bool) and threshold <= trust <= 1
