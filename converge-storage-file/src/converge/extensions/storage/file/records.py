"""The records in a folder: found, read and checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from converge.core.errors import StoreCorruption
from converge.extensions.storage.file.folder import Irregular
from converge.extensions.storage.file.names import identify, key_of, may_start_with, place_of
from converge.extensions.storage.file.record import Record, decode_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from converge.core.plain import Plain
    from converge.extensions.storage.file.folder import Folder

__all__ = ["Records"]


class Records:
    """The records in `folder`. Reading one needs no lock; what is damaged is `StoreCorruption`."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def listed(self, shards: Mapping[str, Iterable[str]], prefix: str = "") -> Iterator[tuple[str, str | None]]:
        """Where the records lie whose keys may start with `prefix`, and their keys, but for long ones.

        `shards` has the names of the files in each shard. A record in a shard that is not its own is left out: no
        reader looks for it there.
        """
        for shard, names in shards.items():
            for name in names:
                if may_start_with(prefix, name) and (identity := identify(name)) and identity[0] == shard:
                    yield f"{shard}/{name}", identity[1]

    def keys(self, shards: Mapping[str, Iterable[str]], prefix: str = "") -> Iterator[str]:
        """The keys of those records, without the ones that have just been removed."""
        for place, key in self.listed(shards, prefix):
            if key is None:
                record = self.at(place)
                key = None if record is None else record.key
            if key is not None and key.startswith(prefix):
                yield key

    def get(self, key: str) -> Record | None:
        """The record of `key`, None when there is none."""
        return self._read(place_of(key), key)

    def at(self, place: str) -> Record | None:
        """The record at `place`, None when there is none."""
        return self._read(place, None)

    def value(self, record: Record) -> Plain:
        """The value of `record`."""
        try:
            return record.value
        except ValueError as error:
            raise StoreCorruption(record.key, self._folder.place(place_of(record.key)), str(error)) from error

    def _read(self, place: str, key: str | None) -> Record | None:
        try:
            data = self._folder.read(place)
            if data is None:
                return None
            record = decode_record(data)
            if record.key != key and (key is not None or place_of(record.key) != place):
                raise ValueError(f"it is the record of {record.key!r}")
        except (Irregular, ValueError) as error:
            name = _name(place)
            raise StoreCorruption(key or key_of(name) or name, self._folder.place(place), str(error)) from error
        return record


def _name(place: str) -> str:
    return place.rpartition("/")[2]
