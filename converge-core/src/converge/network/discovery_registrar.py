"""Writing descriptors into their records and keeping them there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from attrs import frozen

from converge.core.identity import Identity
from converge.core.store import Write
from converge.network.discovery_lease import Lease
from converge.network.discovery_record import sign_record
from converge.network.discovery_renewal import GROUP, GroupRenewals, hash_of
from converge.network.discovery_view import Described, Entry

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from converge.core.clock import Clock
    from converge.network.discovery_store import Records
    from converge.network.discovery_view import DescriptorView

__all__ = ["Put", "Registrar"]

_D = TypeVar("_D", bound=Described)


@frozen
class _Mine(Generic[_D]):
    """What was registered here, and what it takes to renew it."""

    entry: Entry[_D]
    ttl_sec: float | None
    signer: Identity | None


@frozen
class Put(Generic[_D]):
    """What is to be registered: the arguments of `Registrar.put`."""

    agent_id: str
    ttl_sec: float | None
    signer: Identity | None
    make: Callable[[Entry[_D] | None], Entry[_D]]


class Registrar(Generic[_D]):
    """Every change is one compare-and-set on the record, and then on the view. Not thread-safe: its owner holds a lock.

    The lock is held over both, else a refresh in between could be undone by what is older.
    """

    def __init__(self, records: Records, view: DescriptorView[_D], clock: Clock, *, shared: bool) -> None:
        self._records, self._view, self._clock = records, view, clock
        self._mine: dict[str, _Mine[_D]] = {}
        self._shared = shared
        self._group = GroupRenewals(records)

    def plain(self, descriptor: _D, ttl_sec: float | None) -> Entry[_D]:
        """An entry that nobody signs, with a lease from now on when there is a duration."""
        return Entry(descriptor, None if ttl_sec is None else Lease.begin(self._clock.time(), ttl_sec), None)

    def signed(self, descriptor: _D, ttl_sec: float, signer: Identity) -> Entry[_D]:
        """An entry signed now; with a time after that of any that was there, be the clock set back or not."""
        lease = Lease.begin(self._clock.time(), ttl_sec, self._view.last_issued(descriptor.id))
        renewer = self._group.key if self._shared and len(self._mine) >= GROUP else None
        return Entry(descriptor, lease, sign_record(descriptor.to_dict(), lease, signer, renewer), renewer)

    def put(
        self,
        agent_id: str,
        ttl_sec: float | None,
        signer: Identity | None,
        make: Callable[[Entry[_D] | None], Entry[_D]],
    ) -> None:
        """Write what `make` makes of the entry in force (None: there is none), until nobody was faster."""
        (error,) = self.put_many([Put(agent_id, ttl_sec, signer, make)])
        if error is not None:
            raise error

    def put_many(self, puts: Sequence[Put[_D]]) -> list[ValueError | None]:
        """`put` for each, of different agents, in one commit where the store can; what `make` has raised."""
        self._view.expire()
        errors: dict[str, ValueError] = {}
        left = [*puts]
        while left:
            made: list[tuple[Put[_D], Entry[_D]]] = []
            writes = []
            for put in left:
                expected = self._known_version(put.agent_id)
                try:
                    entry = put.make(self._view.get(put.agent_id))
                except ValueError as error:
                    errors[put.agent_id] = error
                    continue
                made.append((put, entry))
                writes.append(Write(put.agent_id, entry.to_plain(), expected))
            left = []
            for (put, entry), version in zip(made, self._records.write(writes) if writes else [], strict=True):
                if version is None:
                    left.append(put)  # somebody was faster
                    continue
                self._view.know(put.agent_id, version, entry)
                self._mine[put.agent_id] = _Mine(entry, put.ttl_sec, put.signer)
        return [errors.get(put.agent_id) for put in puts]

    def _known_version(self, agent_id: str) -> int:
        """The version of the record, 0 without one, after the view has taken it in."""
        found = self._records.read(agent_id)
        if found is None:
            self._view.forget(agent_id)
            return 0
        if found[1] != self._view.version_of(agent_id):
            self._view.take(agent_id, *found)
            self._view.expire()
        return found[1]

    def withdraw(self, agent_ids: Sequence[str]) -> None:
        """Delete the records, whoever wrote them, in one commit where the store can."""
        for agent_id in agent_ids:
            self._mine.pop(agent_id, None)
        self._records.delete(agent_ids)
        for agent_id in agent_ids:
            self._view.forget(agent_id)
        if not self._mine:
            self._group.clear()

    def renew(self, agent_ids: Iterable[str]) -> list[str]:
        """Begin the leases anew, in one commit where the store can; the ids that are not in force as they were put."""
        lost: list[str] = []
        moves: dict[str, tuple[Entry[_D], int]] = {}
        asked = dict.fromkeys(agent_ids)
        together = self._together(asked)
        named: dict[str, bytes] = {}
        for agent_id in asked:
            mine = self._mine.get(agent_id)
            if mine is None or not self._is_in_force(agent_id, mine) or (mine.entry.proof and mine.signer is None):
                lost.append(agent_id)
            elif agent_id in together:
                named[agent_id] = together[agent_id]
            elif mine.ttl_sec is not None:
                moves[agent_id] = self._renewed(mine, mine.ttl_sec), self._view.version_of(agent_id)
        if named:
            self._renew_together(named)
        writes = [Write(agent_id, entry.to_plain(), version) for agent_id, (entry, version) in moves.items()]
        written = self._records.write(writes) if writes else []
        for (agent_id, (entry, _)), version in zip(moves.items(), written, strict=True):
            if version is not None:
                self._renewed_to(agent_id, version, entry)
            elif not self._renew_contended(agent_id, entry):
                lost.append(agent_id)
        return lost

    def _is_in_force(self, agent_id: str, mine: _Mine[_D]) -> bool:
        known = self._view.get(agent_id)
        return known is mine.entry or known == mine.entry

    def _together(self, agent_ids: Iterable[str]) -> dict[str, bytes]:
        """Those that this service may renew by one record, with what names them; nobody when they are few."""
        found = {
            agent_id: hash_of(mine.entry.proof.body)
            for agent_id in agent_ids
            if (mine := self._mine.get(agent_id)) is not None
            and mine.entry.proof is not None
            and mine.entry.renewer == self._group.key
        }
        if len(found) < GROUP:
            return {}
        versions = self._records.versions([*found])  # nothing else would tell who has been deleted or overtaken
        return {
            agent_id: name
            for agent_id, name in found.items()
            if versions.get(agent_id) == self._view.version_of(agent_id)
        }

    def _renew_together(self, named: Mapping[str, bytes]) -> None:
        issued_us = self._group.renew(self._clock.time(), [*named.values()])
        self._view.renewed(named, issued_us)

    def _renewed(self, mine: _Mine[_D], ttl_sec: float) -> Entry[_D]:
        descriptor = mine.entry.descriptor
        return self.plain(descriptor, ttl_sec) if mine.signer is None else self.signed(descriptor, ttl_sec, mine.signer)

    def _renewed_to(self, agent_id: str, version: int, entry: Entry[_D]) -> None:
        self._view.know(agent_id, version, entry)
        mine = self._mine[agent_id]
        self._mine[agent_id] = _Mine(entry, mine.ttl_sec, mine.signer)

    def _renew_contended(self, agent_id: str, entry: Entry[_D]) -> bool:
        """Renew where the record is another one than expected: over one that is refused, not over a valid one."""
        while True:
            found = self._records.read(agent_id)
            if found is None:
                self._view.forget(agent_id)
                return False
            self._view.take(agent_id, *found)
            if self._view.get(agent_id) != self._mine[agent_id].entry:
                return False
            (version,) = self._records.write([Write(agent_id, entry.to_plain(), found[1])])
            if version is not None:
                self._renewed_to(agent_id, version, entry)
                return True
