"""The counters: which versions may have been given out, in the names of empty files.

`.next-N` in a folder says that no version above N has been given out *by a write to that folder*. The greatest N of
all says it of the store. A write to one record moves the counter of its shard on, before the record in the same
folder, so that the one sync at its end makes both durable; a batch moves the counter of the root.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from converge.extensions.storage.file.names import shard_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from converge.extensions.storage.file.folder import Folder

__all__ = ["ROOT", "Counters", "greatest", "number_in"]

ROOT = ""
_COUNTER = ".next-"


class Counters:
    """The counters, and where this process saw each of them last; to be used under the store's lock."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._seen: dict[str, int] = {}

    def read(self, names: dict[str, list[str]]) -> int:
        """Learn all counters from the names of the files in each folder; the greatest, 0 when there is none."""
        self._seen = {shard: number for shard in names if (number := greatest(names[shard]))}
        return max(self._seen.values(), default=0)

    def learn(self, entries: Iterable[tuple[int, str]]) -> None:
        """Where others will have put the counters with the writes `entries`, each a version and a key.

        A guess: a batch leaves those of its keys alone. A counter that is elsewhere is looked for.
        """
        for version, key in entries:
            self._seen[shard_of(key) if key else ROOT] = version + 1

    def has(self, shard: str) -> bool:
        """Whether `shard` is known to have a counter, which is made when the shard is durable in its parent."""
        return shard in self._seen

    def forget(self, shard: str) -> None:
        """Know of no counter in `shard`, which is about to be removed."""
        self._seen.pop(shard, None)

    def move(self, shard: str, number: int) -> None:
        """Let the counter of `shard` be `number`, in place of what it was."""
        start = f"{shard}/{_COUNTER}" if shard else _COUNTER
        new = f"{start}{number}"
        try:
            self._folder.move(f"{start}{self._seen[shard]}", new)
        except (KeyError, FileNotFoundError):
            self._search_and_move(shard, start, new)
        self._seen[shard] = number

    def _search_and_move(self, shard: str, start: str, new: str) -> None:
        former = greatest(self._folder.names(shard))
        if former:
            self._folder.move(f"{start}{former}", new)
        else:
            self._folder.sync()  # the shard, because what lies in a folder is as durable as its name
            self._folder.create(new, b"", durable=False)


def number_in(name: str) -> int | None:
    """The number of the counter `name`; None when it is another file."""
    digits = name.removeprefix(_COUNTER)
    return int(digits) if name.startswith(_COUNTER) and digits.isascii() and digits.isdigit() else None


def greatest(names: Iterable[str]) -> int:
    """The greatest number of the counters among `names`, 0 when there is none."""
    return max((number for name in names if (number := number_in(name))), default=0)
