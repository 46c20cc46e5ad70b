"""Who is there, and what they can do."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from attrs import field, frozen, validators

from converge.core.capability import Capability, as_capabilities, capability_names
from converge.core.clock import Clock, SystemClock
from converge.core.ed25519 import fingerprint_of
from converge.core.errors import IdentityError
from converge.core.identity import Identity
from converge.core.pool import check_threshold
from converge.core.topic import Topic
from converge.core.trust import GivesTrust, reaches
from converge.network.discovery_index import ways
from converge.network.discovery_lease import DEFAULT_TTL_SEC, Lease, check_ttl
from converge.network.discovery_record import Proof, check_size, read_record, sign_record
from converge.network.discovery_registrar import Put, Registrar
from converge.network.discovery_store import LocalRecords, Records, StoredRecords
from converge.network.discovery_view import DescriptorView, Entry
from converge.network.errors import DescriptorRefused

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable

    from converge.core.plain import Plain
    from converge.core.plain_json import Json
    from converge.core.store import Store

__all__ = ["AgentDescriptor", "DiscoveryQuery", "DiscoveryService", "SignedDescriptor", "fields_of"]

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


@frozen
class SignedDescriptor:
    """A descriptor and the lease it asks for, under the signature of its agent.

    Made by `sign`, or by `from_plain` out of what somebody else sent. `signer` is there in what `sign` made, so that a
    discovery service can sign again to renew it.
    """

    descriptor: AgentDescriptor
    lease: Lease
    proof: Proof = field(repr=False)
    signer: Identity | None = field(default=None, eq=False, repr=False)

    @property
    def id(self) -> str:
        """Of which agent it is."""
        return self.descriptor.id

    @classmethod
    def sign(
        cls,
        descriptor: AgentDescriptor,
        identity: Identity,
        ttl_sec: float = DEFAULT_TTL_SEC,
        *,
        issued_at: float | None = None,
    ) -> SignedDescriptor:
        """`descriptor`, signed by its own agent, for `ttl_sec` seconds from `issued_at` (Unix seconds, default now).

        Raises `IdentityError` when the identity is not that agent, `SigningError` when it has no private key, and
        `DescriptorRefused` (ValueError) when the descriptor is too large.
        """
        lease = Lease.begin(time.time() if issued_at is None else issued_at, ttl_sec)
        return cls(descriptor, lease, _signed(descriptor, lease, identity), identity)

    def to_plain(self) -> dict[str, Plain]:
        """What is stored, and what can be sent: plain data, of bytes."""
        return self.proof.to_plain()

    @classmethod
    def from_plain(cls, value: object) -> SignedDescriptor:
        """What `to_plain` gave `value` of, verified; `DescriptorRefused` (ValueError) for whatever is wrong with it."""
        key = value.get("public_key") if isinstance(value, dict) else None
        agent_id = fingerprint_of(key) if isinstance(key, bytes) else "an unknown agent"
        try:
            record = read_record(agent_id, value)
            descriptor = AgentDescriptor.from_dict(record.fields)
        except ValueError as error:
            raise DescriptorRefused(agent_id, str(error)) from None
        if record.proof is None or record.lease is None or descriptor.id != agent_id:
            raise DescriptorRefused(agent_id, "it is not signed by the agent that it describes")
        return cls(descriptor, record.lease, record.proof)


def _signed(descriptor: AgentDescriptor, lease: Lease, identity: Identity) -> Proof:
    if identity.fingerprint != descriptor.id:
        raise IdentityError(
            f"the descriptor of {descriptor.id} cannot be signed by {identity.fingerprint}: it belongs to another agent"
        )
    return sign_record(fields_of(descriptor), lease, identity)


def fields_of(descriptor: AgentDescriptor) -> dict[str, Json]:
    """What is stored of a descriptor that may be: its key is its own and it is not too large."""
    descriptor.check_key()
    fields = descriptor.to_dict()
    try:
        check_size(fields)
    except ValueError as error:
        raise DescriptorRefused(descriptor.id, f"{error}; tell less, and let agents ask for the rest") from None
    return fields


class DiscoveryService:
    """The agents that registered, in this process or, with a store, in every process that shares it.

    Descriptors in the store are followed by its change feed and indexed by topic and capability; opening a service
    reads nothing. One that is malformed, too large, forged, or older than one that was there is refused and counted in
    `counters["refused_descriptor"]`, and what was known of that agent stays.

    A descriptor with a lease is gone when it has not been renewed in time: by the wall clock, or because this process
    has seen no renewal for as long. With `require_signed` only signed descriptors are taken in, and only its own agent
    takes one out. `lease_ttl_sec` is the lease that `AgentNetwork` asks for where the service is `leased`: with a store
    or `require_signed`. Without either, what it holds ends with the process, so no lease is needed.

    `trust_model` is anything with a `get_trust(agent_id)` from 0 to 1. Safe between threads; with a store, calls may
    block on it.
    """

    def __init__(
        self,
        store: Store | None = None,
        trust_model: GivesTrust | None = None,
        *,
        require_signed: bool = False,
        lease_ttl_sec: float = DEFAULT_TTL_SEC,
        clock: Clock | None = None,
    ) -> None:
        self.require_signed, self.lease_ttl_sec = require_signed, check_ttl(lease_ttl_sec)
        self.leased = require_signed or store is not None
        self._local = store is None
        self._trust = trust_model
        self._clock: Clock = SystemClock() if clock is None else clock
        self._records: Records = LocalRecords() if store is None else StoredRecords(store)
        self._view = DescriptorView(
            self._records, AgentDescriptor.from_dict, self._clock, require_signed=require_signed
        )
        self._registrar = Registrar(self._records, self._view, self._clock, shared=store is not None)
        self._lock = threading.RLock()

    @property
    def blocking(self) -> bool:
        """Whether calls may wait for a disk or a network."""
        return self._records.blocking

    @property
    def counters(self) -> Counter[str]:
        """What nobody else is told: `refused_descriptor`, and `removal_failures` of expired ones in a query."""
        return self._view.counters

    # -- taking in and out

    def register(self, descriptor: AgentDescriptor | SignedDescriptor, *, ttl_sec: float | None = None) -> None:
        """Make `descriptor` known, replacing the agent's earlier one.

        A plain one stays until it is unregistered, or with `ttl_sec` for so many seconds after this or the last
        `renew`. A signed one has its lease in what is signed; one that `sign` made in this process is signed anew with
        the time of now, one that came from elsewhere is taken as it is.

        Raises `IdentityError` (ValueError) when its key does not hash to its id, `DescriptorRefused` (ValueError) when
        it is too large, forged, over, older than the one in force, or not signed where it has to be: that is with
        `require_signed`, and while a signed one of the agent is in force. Then, and when the store raises, nothing has
        changed.
        """
        (error,) = self.register_many([(descriptor, ttl_sec)])
        if error is not None:
            raise error

    def register_many(
        self, descriptors: Iterable[tuple[AgentDescriptor | SignedDescriptor, float | None]]
    ) -> list[ValueError | None]:
        """`register` for each descriptor with its `ttl_sec`, in one commit where the store can; why it is refused.

        Of several of one agent, each is registered after the one before.
        """
        puts: list[Put[AgentDescriptor] | ValueError] = []
        for descriptor, ttl_sec in descriptors:
            try:
                puts.append(self._put_of(descriptor, ttl_sec))
            except ValueError as error:
                puts.append(error)
        errors: list[ValueError | None] = [put if isinstance(put, ValueError) else None for put in puts]
        with self._lock:
            for group in _of_different_agents(puts):
                for index, refused in zip(group, self._registrar.put_many([*group.values()]), strict=True):
                    errors[index] = refused
        return errors

    def _put_of(self, descriptor: AgentDescriptor | SignedDescriptor, ttl_sec: float | None) -> Put[AgentDescriptor]:
        if isinstance(descriptor, SignedDescriptor):
            if ttl_sec is not None:
                raise ValueError(
                    "the lease of a signed descriptor is signed too; give ttl_sec to SignedDescriptor.sign"
                )
            return self._put_of_signed(descriptor)
        if self.require_signed:
            raise DescriptorRefused(
                descriptor.id,
                "this service takes signed ones only; give it SignedDescriptor.sign(descriptor, identity)",
            )
        fields_of(descriptor)
        if ttl_sec is not None:
            check_ttl(ttl_sec)

        def make(present: Entry[AgentDescriptor] | None) -> Entry[AgentDescriptor]:
            if present is not None and present.proof is not None:
                raise DescriptorRefused(
                    descriptor.id, "it is not signed, and the one in force is; sign it, or wait until that is over"
                )
            return self._registrar.plain(descriptor, ttl_sec)

        return Put(descriptor.id, ttl_sec, None, make)

    def _put_of_signed(self, signed: SignedDescriptor) -> Put[AgentDescriptor]:
        signer, given = signed.signer, SignedDescriptor.from_plain(signed.to_plain())
        if given.id != signed.id:
            raise DescriptorRefused(signed.id, f"what is signed describes {given.id}")
        if signer is not None and not _is_owner(signer, given.id):
            raise DescriptorRefused(given.id, f"{signer.fingerprint} cannot renew it: it belongs to another agent")

        def make(present: Entry[AgentDescriptor] | None) -> Entry[AgentDescriptor]:
            if signer is not None:
                return self._registrar.signed(given.descriptor, given.lease.ttl_sec, signer)
            entry = self._view.read(given.id, given.to_plain())
            if self._view.is_over(entry):
                raise DescriptorRefused(given.id, "its lease is over; ask the agent for a new one")
            self._view.check_newer(given.id, entry)
            return entry

        return Put(given.id, given.lease.ttl_sec, signer, make)

    def renew(self, agent_id: str) -> bool:
        """Begin the lease of a descriptor that was registered here anew; True also when it has none.

        False when it is not in force any more: it was over before this, it was unregistered, another process has
        registered the agent since, or it was signed elsewhere. Then register it again if that is still wanted. Raises
        what the store raises.
        """
        return not self.renew_many([agent_id])

    def renew_many(self, agent_ids: Iterable[str]) -> list[str]:
        """`renew` for each, in one commit where the store can; the ids for which it is False."""
        with self._lock:
            return self._registrar.renew(agent_ids)

    def unregister(self, agent_id: str, *, identity: Identity | None = None) -> None:
        """Forget an agent, whoever registered it; an unknown one is no error.

        With `require_signed` the agent's own `identity`, private key included, has to be given: `DescriptorRefused`
        (ValueError) without.
        """
        (error,) = self.unregister_many({agent_id: identity})
        if error is not None:
            raise error

    def unregister_many(self, agents: Mapping[str, Identity | None]) -> list[DescriptorRefused | None]:
        """`unregister` for each id with its identity, in one commit where the store can; why one is refused."""
        refused = {
            agent_id: DescriptorRefused(agent_id, "only the agent itself unregisters it here; give its identity")
            for agent_id, identity in agents.items()
            if self.require_signed and not _is_owner(identity, agent_id)
        }
        with self._lock:
            if allowed := [agent_id for agent_id in agents if agent_id not in refused]:
                self._registrar.withdraw(allowed)
        return [refused.get(agent_id) for agent_id in agents]

    def release_expired(self) -> list[str]:
        """Read what has changed, and delete the records of those whose lease is over; their ids.

        A renewal at the same moment wins. Queries that refresh do this by the way.
        """
        with self._lock:
            self._view.refresh()
            return self._view.remove_expired()

    # -- asking

    def get(self, agent_id: str, refresh_from_store: bool = False) -> AgentDescriptor | None:
        """The descriptor of one agent, or None; `refresh_from_store` as in `query`."""
        with self._lock:
            self._look(refresh_from_store)
            entry = self._view.get(agent_id)
        return None if entry is None else entry.descriptor

    def query(
        self,
        query: DiscoveryQuery,
        candidates: Iterable[AgentDescriptor] | None = None,
        refresh_from_store: bool = False,
    ) -> list[AgentDescriptor]:
        """The agents that fit, sorted by id: out of `candidates` if given, else out of all that are known.

        `refresh_from_store` first reads what other processes registered since the last time. With a trust model and a
        threshold above 0, only agents of at least that trust; when the model fails for one, that one is left out.
        A candidate whose key is not its id's is left out and counted. Costs in proportion to the topic or capability
        that the fewest agents have.
        """
        with self._lock:
            self._look(refresh_from_store)
            found = (
                self._view.index.find_any(ways(query.topics, query.capabilities), _id_of) if candidates is None else []
            )
        if candidates is not None:
            fitting = [one for one in candidates if self._is_authentic(one) and query.matches(one)]
            found = sorted(fitting, key=_id_of)
        if self._trust is not None and query.trust_threshold > 0:
            trust, threshold = self._trust, query.trust_threshold
            found = [descriptor for descriptor in found if reaches(trust, descriptor.id, threshold)]
        return found

    def _look(self, refresh_from_store: bool) -> None:
        if not refresh_from_store and not self._local:
            self._view.expire()
            return
        self._view.refresh()
        try:
            self._view.remove_expired()
        except Exception:  # noqa: BLE001  # a store that can be read and not written still answers
            self.counters["removal_failures"] += 1
            _log.exception("could not remove expired descriptors; the next refresh tries again")

    def _is_authentic(self, descriptor: AgentDescriptor) -> bool:
        try:
            descriptor.check_key()
        except IdentityError as error:
            with self._lock:
                self._view.refuse(descriptor.id, error)
            return False
        return True


def _of_different_agents(
    puts: Iterable[Put[AgentDescriptor] | ValueError],
) -> list[dict[int, Put[AgentDescriptor]]]:
    """The puts by their places, in groups in which each agent is once."""
    groups: list[dict[int, Put[AgentDescriptor]]] = []
    times: dict[str, int] = {}
    for index, put in enumerate(puts):
        if isinstance(put, ValueError):
            continue
        number = times[put.agent_id] = times.get(put.agent_id, -1) + 1
        if number == len(groups):
            groups.append({})
        groups[number][index] = put
    return groups


def _is_owner(identity: Identity | None, agent_id: str) -> bool:
    return identity is not None and identity.fingerprint == agent_id and identity.private_key is not None


def _id_of(descriptor: AgentDescriptor) -> str:
    return descriptor.id
