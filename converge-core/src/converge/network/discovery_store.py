"""Where the records of descriptors are kept: in a store, or in this process.

A store deletes whatever is there, but what has expired must be removed only if nobody has renewed it. So it is first
replaced by `EXPIRED`, by compare-and-set, and deleted right after. Who finds that marker waits for the deletion, and
writes over it only when it has stayed longer than a deletion may take: its writer died in between.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from converge.core.errors import VersionConflict
from converge.core.follower import Follower
from converge.core.store import Change, Write, check_key, versioned
from converge.network.discovery_record import EXPIRED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from converge.core.plain import Plain
    from converge.core.store import Store

__all__ = ["GRACE_SEC", "PREFIX", "RENEWALS", "LocalRecords", "Records", "StoredRecords"]

PREFIX = "agent:"
"""What the key of an agent's record begins with; its id follows."""

RENEWALS = "agents-renewed:"
"""What the key of a renewal of many begins with; the fingerprint of its renewer and a number follow."""

GRACE_SEC = 0.5
"""How long the marker of an expired record is waited for. Who wrote it deletes it in half of that, or leaves it."""

_POLL_SEC = 0.005


class Records(Protocol):
    """The records by agent id, each with a version that grows. Thread-safe; errors are the store's."""

    blocking: bool
    """Whether calls may wait for a disk or a network."""

    def read(self, agent_id: str) -> tuple[Plain, int] | None:
        """The record and its version, or None."""

    def versions(self, agent_ids: Sequence[str]) -> dict[str, int]:
        """The versions of the records that there are, by agent id; no record is decoded."""

    def write(self, writes: Sequence[Write]) -> list[int | None]:
        """Each write (keys are agent ids): the new version, or None where the version was not the expected one."""

    def delete(self, agent_ids: Sequence[str]) -> None:
        """Delete the records, whatever their versions."""

    def remove(self, agent_id: str, version: int) -> bool:
        """Delete the record if it has this version; whether it had."""

    def poll(self) -> tuple[bool, list[Change]]:
        """As `Follower.poll`, with agent ids as keys."""

    def renew(self, key: str, renewal: Plain) -> None:
        """Keep a renewal of many (`discovery_renewal`) at this key."""

    def forget_renewal(self, key: str) -> None:
        """Delete a renewal of many."""

    def poll_renewals(self) -> tuple[bool, list[Change]]:
        """As `poll`, of the renewals of many."""


class StoredRecords:
    """The records in a store, shared with everybody who has it."""

    def __init__(self, store: Store) -> None:
        self._store = versioned(store)
        self.blocking = self._store.blocking
        self._follower = Follower(self._store, PREFIX)
        self._renewals = Follower(self._store, RENEWALS)

    def read(self, agent_id: str) -> tuple[Plain, int] | None:
        """As `Records.read`. While the record is being deleted, this waits: up to `GRACE_SEC` seconds."""
        key = check_key(PREFIX + agent_id)
        found = self._store.get_versioned(key)
        until = time.monotonic() + GRACE_SEC
        while found is not None and found[0] == EXPIRED and time.monotonic() < until:
            time.sleep(_POLL_SEC)
            found = self._store.get_versioned(key)
        return found

    def versions(self, agent_ids: Sequence[str]) -> dict[str, int]:
        """As `Records.versions`."""
        found = self._store.versions_of([PREFIX + agent_id for agent_id in agent_ids])
        return {key.removeprefix(PREFIX): version for key, version in found.items()}

    def write(self, writes: Sequence[Write]) -> list[int | None]:
        """As `Records.write`, in one commit where the store can."""
        if len(writes) > 1:
            return self._store.compare_and_set_many([write._replace(key=PREFIX + write.key) for write in writes])
        try:
            return [self._store.compare_and_set(PREFIX + key, value, expected) for key, value, expected in writes]
        except VersionConflict:
            return [None]

    def delete(self, agent_ids: Sequence[str]) -> None:
        """As `Records.delete`, in one commit."""
        if len(agent_ids) == 1:
            self._store.delete(PREFIX + agent_ids[0])
        else:
            self._store.delete_many([PREFIX + agent_id for agent_id in agent_ids])

    def remove(self, agent_id: str, version: int) -> bool:
        """As `Records.remove`."""
        began = time.monotonic()
        if self.write([Write(agent_id, EXPIRED, version)]) == [None]:
            return False
        if time.monotonic() - began < GRACE_SEC / 2:  # later, somebody may have taken the marker for a dead one's
            self._store.delete(PREFIX + agent_id)
        return True

    def poll(self) -> tuple[bool, list[Change]]:
        """As `Records.poll`."""
        emptied, changes = self._follower.poll()
        return emptied, [change._replace(key=change.key.removeprefix(PREFIX)) for change in changes]

    def renew(self, key: str, renewal: Plain) -> None:
        """As `Records.renew`."""
        self._store.put(RENEWALS + key, renewal)

    def forget_renewal(self, key: str) -> None:
        """As `Records.forget_renewal`."""
        self._store.delete(RENEWALS + key)

    def poll_renewals(self) -> tuple[bool, list[Change]]:
        """As `Records.poll_renewals`."""
        emptied, changes = self._renewals.poll()
        return emptied, [change._replace(key=change.key.removeprefix(RENEWALS)) for change in changes]


class LocalRecords:
    """The records of this process alone. The service that owns them holds a lock."""

    blocking = False

    def __init__(self) -> None:
        self._version = 0
        self._records: dict[str, tuple[Plain, int]] = {}

    def read(self, agent_id: str) -> tuple[Plain, int] | None:
        """As `Records.read`."""
        check_key(PREFIX + agent_id)
        return self._records.get(agent_id)

    def versions(self, agent_ids: Sequence[str]) -> dict[str, int]:
        """As `Records.versions`."""
        return {agent_id: self._records[agent_id][1] for agent_id in agent_ids if agent_id in self._records}

    def write(self, writes: Sequence[Write]) -> list[int | None]:
        """As `Records.write`; with one owner there is nobody to lose against."""
        for key, value, _ in writes:
            self._version += 1
            self._records[key] = value, self._version
        return [self._records[key][1] for key, _, _ in writes]

    def delete(self, agent_ids: Sequence[str]) -> None:
        """As `Records.delete`."""
        for agent_id in agent_ids:
            self._records.pop(agent_id, None)

    def remove(self, agent_id: str, version: int) -> bool:
        """As `Records.remove`."""
        return self._records.get(agent_id, (None, 0))[1] == version and self._records.pop(agent_id, None) is not None

    def poll(self) -> tuple[bool, list[Change]]:
        """Nothing: whoever changes these has them."""
        return False, []

    def renew(self, key: str, renewal: Plain) -> None:
        """Nothing: nobody else is there to be told."""

    def forget_renewal(self, key: str) -> None:
        """Nothing: there are none."""

    def poll_renewals(self) -> tuple[bool, list[Change]]:
        """Nothing: there are none."""
        return False, []
