"""Where a trust model keeps what it knows: in memory, or in a store that processes share."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

from converge.core.errors import VersionConflict
from converge.policy.errors import TrustError, TrustRecordError
from converge.policy.standing import Standing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from converge.core.plain import Plain
    from converge.core.store import VersionedStore

__all__ = ["MemoryKeeper", "StoreKeeper", "TrustKeeper"]

_KEYS_IN_MEMORY = 100_000
_RECENT = 32
_LONGEST_NAME = 128
_FIELDS = ("score", "successes", "failures", "at", "recent")


class TrustKeeper(Protocol):
    """Standings by agent id. Thread-safe."""

    def read(self, agent_id: str) -> Standing | None:
        """What is known of the agent; None: nothing."""

    def change(self, agent_id: str, move: Callable[[Standing | None], Standing | None], key: str | None) -> bool:
        """Keep `move(what is known)`, unless the outcome `key` has been counted; whether it was kept.

        `move` may be called several times. None from it forgets the agent.
        """

    def known(self) -> dict[str, Standing]:
        """What was known at first, when nothing had been kept elsewhere."""


class MemoryKeeper:
    """Keeps standings in this object, and the latest 100,000 outcomes that were counted."""

    def __init__(self, given: Mapping[str, Standing]) -> None:
        self._standings = dict(given)
        self._counted: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, agent_id: str) -> Standing | None:
        """As `TrustKeeper`."""
        return self._standings.get(agent_id)

    def change(self, agent_id: str, move: Callable[[Standing | None], Standing | None], key: str | None) -> bool:
        """As `TrustKeeper`."""
        with self._lock:
            if key is not None and key in self._counted:
                return False
            moved = move(self._standings.get(agent_id))
            if moved is None:
                self._standings.pop(agent_id, None)
            else:
                self._standings[agent_id] = moved
            if key is not None:
                self._counted[key] = None
                if len(self._counted) > _KEYS_IN_MEMORY:
                    self._counted.popitem(last=False)
            return True

    def known(self) -> dict[str, Standing]:
        """As `TrustKeeper`: all of it."""
        with self._lock:
            return dict(self._standings)


class StoreKeeper:
    """Keeps a record for each agent under `trust:<name>:<agent id>`, written by compare-and-set.

    An outcome with a key is counted exactly once by all processes together. The key goes into the agent's record in
    the same write as the outcome, then under `trust-counted:<name>:<key>`; only when it is there may it leave the
    record, which holds the latest 32. So at each moment one of the two knows of it, and since the mark is looked for
    after the record was read, a key that left the record meanwhile fails the write or is found as a mark.
    """

    def __init__(self, store: VersionedStore, name: str, given: Mapping[str, Standing]) -> None:
        self.store, self.name = store, name
        self._given = dict(given)
        self._records, self._marks = (f"{prefix}:{_encoded(name)}:" for prefix in ("trust", "trust-counted"))

    def read(self, agent_id: str) -> Standing | None:
        """As `TrustKeeper`. Raises `TrustRecordError` for what is no record of a standing."""
        return self._read(agent_id)[0]

    def change(self, agent_id: str, move: Callable[[Standing | None], Standing | None], key: str | None) -> bool:
        """As `TrustKeeper`. Raises `TrustRecordError` for what is no record of a standing."""
        while True:
            known, recent, version = self._read(agent_id)
            if key is not None and self._is_counted(key, recent):
                return False
            moved = move(known)
            if moved is None:
                raise TrustError("a standing in a store is never forgotten")
            kept = recent if key is None else [*self._unmarked(recent), key]
            try:
                self.store.compare_and_set(self._records + agent_id, _record(moved, kept), version)
            except VersionConflict:
                continue
            if key is not None:
                self._mark(key)
            return True

    def known(self) -> dict[str, Standing]:
        """As `TrustKeeper`."""
        return dict(self._given)

    def _read(self, agent_id: str) -> tuple[Standing | None, list[str], int]:
        key = self._records + agent_id
        found = self.store.get_versioned(key)
        if found is None:
            return self._given.get(agent_id), [], 0
        try:
            return *_standing(found[0]), found[1]
        except TrustError as error:
            raise TrustRecordError(key, str(error)) from None

    def _is_counted(self, key: str, recent: list[str]) -> bool:
        """Whether the outcome has been counted. One whose writer died before the mark gets it now."""
        if key in recent:
            self._mark(key)
            return True
        return self.store.get_versioned(self._mark_of(key)) is not None

    def _unmarked(self, recent: list[str]) -> list[str]:
        """The latest keys; those that have to leave are marked first."""
        leaving = len(recent) + 1 - _RECENT
        for key in recent[: max(0, leaving)]:
            self._mark(key)
        return recent[max(0, leaving) :]

    def _mark(self, key: str) -> None:
        self.store.put_if_absent(self._mark_of(key), value=True)

    def _mark_of(self, key: str) -> str:
        return self._marks + _encoded(key)


def _encoded(name: str) -> str:
    """`name` without colons, and short: no two names give one key."""
    encoded = name.replace("%", "%25").replace(":", "%3A")
    if len(encoded.encode()) <= _LONGEST_NAME:
        return encoded
    return "%" + hashlib.sha256(name.encode()).hexdigest()


def _record(standing: Standing, recent: list[str]) -> Plain:
    return {
        "score": standing.score,
        "successes": standing.successes,
        "failures": standing.failures,
        "at": standing.at,
        "recent": [*recent],
    }


def _standing(value: Plain) -> tuple[Standing, list[str]]:
    if not isinstance(value, dict) or {*value} != {*_FIELDS}:
        raise TrustError(f"it is no dict of {', '.join(_FIELDS)}")
    recent = value["recent"]
    if not isinstance(recent, list) or not all(isinstance(key, str) for key in recent):
        raise TrustError("recent is no list of outcomes")
    return Standing.checked(*(value[name] for name in _FIELDS[:4])), [*recent]  # type: ignore[list-item]  # checked above
