"""Records that change move by move: the shell around the state machines of auctions, negotiations and delegations.

Each record lies under one key and is the truth. A move reads it, computes the next state and stores that by
compare-and-set; when another move came first, it is judged again by what that one left. So moves on one record happen
one after the other, whichever processes they come from, and the order of their versions is the order of the moves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar

from converge.coordination.records import decoded
from converge.core.errors import VersionConflict
from converge.core.limits import check_text
from converge.core.plain import Plain, pack, unpack
from converge.core.store import Store, versioned
from converge.extensions.storage.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.core.store import VersionedStore

__all__ = ["MoveRecord", "MoveRecords", "agent_ids", "bounded", "check_agent", "is_time"]


class MoveRecord(Protocol):
    """One state of something that has an id; immutable."""

    @property
    def id(self) -> str:
        """What the key ends with."""

    @classmethod
    def from_plain(cls, data: object) -> Self:
        """The record in a stored value; `ValueError` or `TypeError` when it is not one of this version."""

    def to_plain(self) -> dict[str, Plain]:
        """The record as the store takes it."""


_R = TypeVar("_R", bound=MoveRecord)


class MoveRecords(Generic[_R]):
    """The records of `kind` under `prefix` in `store`, or in memory when there is none.

    Safe between threads, and between processes on a store that they share; keeps nothing itself. `unknown` makes the
    error for an id that is not there. What lies under a key and is no record of this version is a `ForeignRecord`.
    """

    def __init__(self, store: Store | None, prefix: str, kind: type[_R], unknown: Callable[[str], Exception]) -> None:
        self.store: VersionedStore = versioned(MemoryStore() if store is None else store)
        self.prefix = prefix
        self._kind, self._unknown = kind, unknown

    @property
    def blocking(self) -> bool:
        """Whether calls may wait for a disk or a network."""
        return self.store.blocking

    def find(self, record_id: str) -> _R | None:
        """The record as the store holds it now; None when there is none."""
        found = self._find(record_id)
        return None if found is None else found[0]

    def get(self, record_id: str) -> _R:
        """The record as the store holds it now; the error for an unknown id when there is none."""
        return self._get(record_id)[0]

    def create(self, record: _R) -> _R | None:
        """None when `record` is stored now, else the one of its id that was there first."""
        while True:
            found = self._find(record.id)
            if found is not None:
                return found[0]
            try:
                self.store.compare_and_set(self.prefix + record.id, record.to_plain(), 0)
            except VersionConflict:
                continue
            return None

    def change(self, record_id: str, move: Callable[[_R], _R]) -> _R:
        """The record after `move`, which gets the present one; what it raises leaves the store as it is.

        `move` may be called several times. When it returns what it got, nothing is written.
        """
        while True:
            record, version = self._get(record_id)
            moved = move(record)
            if moved is record:
                return record
            try:
                self.store.compare_and_set(self.prefix + record_id, moved.to_plain(), version)
            except VersionConflict:
                continue
            return moved

    def decoded(self, key: str, value: Plain) -> _R:
        """The record in what the store holds under `key`."""
        return decoded(key, self.prefix, value, self._from_plain)

    def _get(self, record_id: str) -> tuple[_R, int]:
        found = self._find(record_id)
        if found is None:
            raise self._unknown(record_id)
        return found

    def _find(self, record_id: str) -> tuple[_R, int] | None:
        check_text(record_id, "an id")
        key = self.prefix + record_id
        found = self.store.get_versioned(key)
        return None if found is None else (self.decoded(key, found[0]), found[1])

    def _from_plain(self, value: Plain) -> _R:
        try:
            return self._kind.from_plain(value)
        except TypeError as error:
            raise ValueError(str(error)) from None


def check_agent(agent_id: object) -> str:
    """`agent_id` itself; `TypeError` or `ValueError` unless it is a non-empty str."""
    check_text(agent_id, "an agent id")
    return str(agent_id)


def agent_ids(value: object, what: str) -> list[str]:
    """A list of agent ids, each once, in their order; `ValueError` for anything else, a lone str included."""
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        raise ValueError(f"{what} is a list of agent ids, not {value!r}")
    return [*dict.fromkeys(check_agent(agent_id) for agent_id in value)]


def bounded(value: Plain, limit: int, what: str) -> Plain:
    """A copy of `value` that shares nothing with it.

    `TypeError` for what is not plain data, `ValueError` when it takes more than `limit` bytes.
    """
    packed = pack(value)
    if len(packed) > limit:
        raise ValueError(f"{what} takes {len(packed)} bytes; at most {limit} are kept, so send a reference to it")
    copy: Plain = unpack(packed)
    return copy


def is_time(value: object) -> bool:
    """Whether `value` is a finite number of Unix seconds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
