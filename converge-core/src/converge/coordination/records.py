"""Reading records: what lies under a key is the record it is looked for as, or it is foreign."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from converge.coordination.errors import ForeignRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.core.plain import Plain

__all__ = ["Record", "decoded"]


class Record(Protocol):
    """A stored record knows the id that it is stored under."""

    @property
    def id(self) -> str:
        """The key without its prefix."""


_R = TypeVar("_R", bound=Record)


def decoded(key: str, prefix: str, value: Plain, from_plain: Callable[[Plain], _R]) -> _R:
    """The record in what the store holds under `key`, a `prefix` and the id of the record.

    `from_plain` raises a `ValueError` for what is none. Raises `ForeignRecord` then, and for the record of another id.
    """
    try:
        record = from_plain(value)
    except ValueError as error:
        raise ForeignRecord(key, str(error)) from None
    if prefix + record.id != key:
        raise ForeignRecord(key, f"it is the record of {record.id!r}")
    return record
