"""What one process knows of the descriptors in their records: an index, kept by the change feed and the clock."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from attrs import define, frozen

from converge.core.store import DELETED
from converge.network.discovery_index import TermIndex, terms_of
from converge.network.discovery_lease import MAX_TTL_SEC, Lease, LeaseBook
from converge.network.discovery_record import EXPIRED, Proof, plain_record, read_record
from converge.network.discovery_renewal import RenewalBook
from converge.network.discovery_store import GRACE_SEC
from converge.network.errors import DescriptorRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from converge.core.capability import Capability
    from converge.core.clock import Clock
    from converge.core.plain import Plain
    from converge.core.plain_json import Json
    from converge.core.topic import Topic
    from converge.network.discovery_store import Records

__all__ = ["Described", "DescriptorView", "Entry"]

_log = logging.getLogger(__name__)


class Described(Protocol):
    """A descriptor, as far as it matters here."""

    @property
    def id(self) -> str:
        """Of which agent it is."""

    @property
    def topics(self) -> tuple[Topic, ...]:
        """Its topics."""

    @property
    def capabilities(self) -> tuple[Capability, ...]:
        """Its capabilities."""

    def to_dict(self) -> dict[str, Json]:
        """Its fields."""


_D = TypeVar("_D", bound=Described)


@frozen
class Entry(Generic[_D]):
    """A descriptor with its lease, and with its proof when it is signed."""

    descriptor: _D
    lease: Lease | None
    proof: Proof | None
    renewer: bytes | None = None

    def to_plain(self) -> dict[str, Plain]:
        """The record that is stored."""
        if self.proof is not None:
            return self.proof.to_plain()
        return plain_record(self.descriptor.to_dict(), self.lease)


@define(eq=False)
class _Known(Generic[_D]):
    version: int
    entry: Entry[_D]
    renewed_us: int = -1  # when it was last renewed together with others


class DescriptorView(Generic[_D]):
    """The descriptors that are accepted and whose lease is not over. Not thread-safe: its owner holds a lock.

    A record that is refused is counted in `counters["refused_descriptor"]` and logged, and what was known of that agent
    stays. `parse` makes a descriptor of its fields and raises `ValueError` for what is none.
    """

    def __init__(
        self, records: Records, parse: Callable[[Mapping[str, Any]], _D], clock: Clock, *, require_signed: bool
    ) -> None:
        self.index: TermIndex[_D] = TermIndex()
        self.counters: Counter[str] = Counter()
        self._records, self._parse, self._clock = records, parse, clock
        self._require_signed = require_signed
        self._known: dict[str, _Known[_D]] = {}
        self._leases = LeaseBook()
        self._renewals = RenewalBook()
        self._dormant: dict[str, _Known[_D]] = {}  # whose lease is over, as far as is known, and may be renewed yet

    def get(self, agent_id: str) -> Entry[_D] | None:
        """What is known of the agent."""
        known = self._known.get(agent_id)
        return None if known is None else known.entry

    def version_of(self, agent_id: str) -> int:
        """The version of the record that is known of the agent; 0 when there is none."""
        known = self._known.get(agent_id)
        return 0 if known is None else known.version

    # -- what is in the records

    def refresh(self) -> None:
        """Take in what has changed in the records since the last time; the first time, all there is."""
        self._take_renewals()
        self.expire()
        emptied, changes = self._records.poll()
        if emptied:
            for agent_id in {*self._known, *self._dormant} - {change.key for change in changes}:
                self.forget(agent_id)
        for change in changes:
            if change.value is DELETED:
                if change.version > self.version_of(change.key):
                    self.forget(change.key)
            else:
                self.take(change.key, change.value, change.version)
        self._take_renewals()
        self.expire()

    def _take_renewals(self) -> None:
        """Take in what others have renewed since the last time, if there is anybody whom that could be about."""
        if not len(self._renewals):
            return
        emptied, changes = self._records.poll_renewals()
        if emptied:
            self._renewals.drop(self._renewals.keys() - {change.key for change in changes})
        for change in changes:
            if change.value is DELETED:
                self._renewals.drop([change.key])
                continue
            try:
                issued_us, agent_ids = self._renewals.take(change.key, change.value)
            except ValueError as error:
                self.counters["refused_renewal"] += 1
                _log.warning("the renewal %r is refused: %r", change.key, str(error))
                continue
            self.renewed(agent_ids, issued_us)

    def renewed(self, agent_ids: Iterable[str], issued_us: int) -> None:
        """Begin the leases of signed descriptors anew, from `issued_us` on; they were over only as far as was known."""
        monotonic, leases = self._clock.monotonic(), dict[int, Lease]()  # one for all that last as long
        for agent_id in agent_ids:
            known = self._known.get(agent_id) or self._dormant.get(agent_id)
            if known is None or known.entry.lease is None:
                continue
            if issued_us <= max(known.entry.lease.issued_us, known.renewed_us):
                continue  # a replay
            known.renewed_us = issued_us
            if agent_id in self._dormant:
                self._put(agent_id, known)
            ttl_us = known.entry.lease.ttl_us
            if (lease := leases.get(ttl_us)) is None:
                lease = leases[ttl_us] = Lease(issued_us, ttl_us)
            self._leases.watch(agent_id, known.version, lease, monotonic)

    def take(self, agent_id: str, value: object, version: int) -> bool:
        """Take in a record that was met; whether it is what is known of the agent now."""
        if version <= max(self.version_of(agent_id), self._leases.version_over(agent_id)):
            return False  # an own one comes back by the feed, and does not begin anew when it was over meanwhile
        if value == EXPIRED:
            self.forget(agent_id)
            left_behind = Lease.begin(self._clock.time(), 2 * GRACE_SEC)  # its writer died, unless it is gone by then
            self._leases.watch(agent_id, version, left_behind, self._clock.monotonic())
            return False
        try:
            entry = self.read(agent_id, value)
            self.check_newer(agent_id, entry)
        except ValueError as error:
            self.refuse(agent_id, error)
            return False
        self.know(agent_id, version, entry)
        if entry.renewer is not None and entry.proof is not None:
            self.renewed([agent_id], self._renewals.follow(agent_id, entry.proof.body, entry.renewer))
        return True

    def read(self, agent_id: str, value: object) -> Entry[_D]:
        """The entry in a record of `agent_id`; `ValueError` for whatever is wrong with it."""
        record = read_record(agent_id, value)
        descriptor = self._parse(record.fields)
        if descriptor.id != agent_id:
            raise DescriptorRefused(agent_id, f"it describes {descriptor.id}")
        if record.proof is None and self._require_signed:
            raise DescriptorRefused(agent_id, "it is not signed, and this service takes signed ones only")
        return Entry(descriptor, record.lease, record.proof, record.renewer)

    def check_newer(self, agent_id: str, entry: Entry[_D]) -> None:
        """Raise `DescriptorRefused` when `entry` must not take the place of what is known of the agent.

        The very same signed bytes may, and change nothing: they do not begin the lease anew.
        """
        known = self.get(agent_id)
        signed = None if known is None else known.proof
        if entry.proof is None or entry.lease is None:
            if signed is not None:
                raise DescriptorRefused(agent_id, "it is not signed, and the one in force is")
        elif signed is None or signed.body != entry.proof.body:
            last = self.last_issued(agent_id)
            if entry.lease.issued_us <= last:
                raise DescriptorRefused(
                    agent_id, f"it was signed at {entry.lease.issued_us} µs, and one of {last} µs was there before"
                )

    def last_issued(self, agent_id: str) -> int:
        """When the newest signed descriptor of the agent was issued, in Unix microseconds; -1 when none is known."""
        known = self.get(agent_id)
        if known is not None and known.proof is not None and known.lease is not None:
            return known.lease.issued_us
        return self._leases.last_issued(agent_id, self._clock.monotonic())

    def refuse(self, agent_id: str, error: ValueError) -> None:
        """Count and log what is refused where nobody can be told."""
        self.counters["refused_descriptor"] += 1
        reason = error.reason if isinstance(error, DescriptorRefused) else str(error)
        _log.warning("the descriptor of %r is refused: %r", agent_id, reason)

    # -- what is known

    def know(self, agent_id: str, version: int, entry: Entry[_D]) -> None:
        """Put `entry` in the place of what is known of the agent; its lease, if new, is observed from now on."""
        if (known := self._known.get(agent_id) or self._dormant.get(agent_id)) is not None:
            self._leave(known.entry)
        self._put(agent_id, _Known(version, entry))
        if entry.lease is None:
            self._leases.forget(agent_id)
        else:
            self._leases.watch(agent_id, version, entry.lease, self._clock.monotonic())

    def _put(self, agent_id: str, known: _Known[_D]) -> None:
        old, entry = self.get(agent_id), known.entry
        self._known[agent_id] = known
        self._dormant.pop(agent_id, None)
        if old is None or (old is not entry and old.descriptor != entry.descriptor):
            descriptor = entry.descriptor
            terms = terms_of(descriptor.topics, [capability.name for capability in descriptor.capabilities])
            self.index.put(agent_id, descriptor, terms)

    def forget(self, agent_id: str) -> None:
        """Drop what is known of the agent; an unknown one is no error."""
        self._drop(agent_id)
        self._leases.forget(agent_id)
        if (dormant := self._dormant.pop(agent_id, None)) is not None:
            self._leave(dormant.entry)

    def _drop(self, agent_id: str) -> None:
        known = self._known.pop(agent_id, None)
        self.index.remove(agent_id)
        if known is not None and known.entry.renewer is not None:
            self._dormant[agent_id] = known  # until it is forgotten
        if known is not None and known.entry.proof is not None and known.entry.lease is not None:
            monotonic, lease = self._clock.monotonic(), known.entry.lease
            self._leases.remember_end(agent_id, lease.issued_us, monotonic + lease.ttl_sec, monotonic)

    def _leave(self, entry: Entry[_D]) -> None:
        if entry.renewer is not None and entry.proof is not None:
            self._renewals.leave(entry.proof.body)

    def expire(self) -> None:
        """Drop those whose lease is over. Costs what is over, and two looks at a clock."""
        for agent_id in self._leases.expire(self._clock.time(), self._clock.monotonic()):
            self._drop(agent_id)

    def remove_expired(self) -> list[str]:
        """Delete the records of those whose lease is over; the ids of those that nobody renewed at that moment."""
        removed = []
        for agent_id, version in self._leases.over():
            if self._records.remove(agent_id, version):
                removed.append(agent_id)
                self.forget(agent_id)
                continue
            found = self._records.read(agent_id)
            self.forget(agent_id)
            if found is not None:
                self.take(agent_id, *found)
        for key in self._renewals.issued_before(int((self._clock.time() - MAX_TTL_SEC) * 1e6)):
            self._records.forget_renewal(key)  # of a process that was killed; nobody's lease is longer
            self._renewals.drop([key])
        return removed

    def is_over(self, entry: Entry[_D]) -> bool:
        """Whether the wall clock says that the lease of `entry` is over."""
        return entry.lease is not None and entry.lease.expires_at <= self._clock.time()
