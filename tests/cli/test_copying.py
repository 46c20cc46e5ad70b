"""Copying one store into another while things happen to the source at chosen moments."""

from __future__ import annotations

import pickle
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from converge.cli.copying import Copied, copy
from converge.cli.errors import DestinationNotEmpty, SourceTooBusy
from converge.core.errors import StoreCorruption
from converge.core.plain import Plain, pack
from converge.core.store import Change, versioned
from converge.extensions.storage.memory import MemoryStore
from tests.cli.stores import content, damaged, made, opened, space

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Mapping
    from pathlib import Path


class Source(MemoryStore):
    """A store in which something happens at chosen moments of the copy."""

    remembered_deletions = 2

    def __init__(self, keys: int = 0) -> None:
        super().__init__()
        self.at_read: dict[int, Callable[[], None]] = {}
        self.at_feed: dict[int, Callable[[], None]] = {}
        self.reads = self.feeds = 0
        self.put_many({f"k{number:04}": number for number in range(keys)})

    def get_versioned(self, key: str) -> tuple[Plain, int] | None:
        found = super().get_versioned(key)
        self.reads += 1
        self.at_read.pop(self.reads, lambda: None)()
        return found

    def changes(self, cursor: int | None = None, prefix: str = "") -> tuple[int, builtins.list[Change]]:
        found = super().changes(cursor, prefix)
        self.feeds += 1
        self.at_feed.pop(self.feeds, lambda: None)()
        return found


class Counting(MemoryStore):
    """A destination that knows how many values came together."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def put_many(self, items: Mapping[str, Plain]) -> None:
        self.batches.append(len(items))
        super().put_many(items)


def test_values_are_written_in_batches_of_500_keys_or_4_mb() -> None:
    destination = Counting()
    assert copy(Source(1200), destination) == Copied(1200, sum(len(pack(number)) for number in range(1200)), 0, ())
    assert destination.batches == [500, 500, 200]
    source, destination = MemoryStore(), Counting()
    source.put_many({f"k{number}": b"x" * 1_500_000 for number in range(7)})
    copy(source, destination)
    assert destination.batches == [3, 3, 1]


def test_a_copy_never_holds_all_values(tmp_path: Path) -> None:
    with opened(made(f"sqlite:{tmp_path}/s", {})) as source, opened(f"sqlite:{tmp_path}/t") as destination:
        for number in range(60):
            source.put(f"k{number}", bytes([number]) * 1_000_000)
        tracemalloc.start()
        try:
            copy(versioned(source), versioned(destination))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 20_000_000
        assert content(versioned(destination)) == content(versioned(source))
    assert space(tmp_path / "t") > 60_000_000


def test_what_changes_while_keys_are_read_is_in_the_copy() -> None:
    source, destination = Source(1200), MemoryStore()

    def happen() -> None:
        source.delete("k0003")  # read and written already
        source.put("k0600", "newer")  # read, not written yet
        source.put("k0601", "again")
        source.delete("k1100")  # still to be read
        source.put("a new one", 1)

    source.at_read[700] = happen
    source.at_read[1200] = lambda: source.put("k0001", "at last")
    assert copy(source, destination).keys == 1199
    assert content(destination) == content(source)
    assert destination.get("k0600") == "newer"
    assert destination.get("k0003") is destination.get("k1100") is None


def test_what_changes_while_the_feed_is_followed_is_in_the_copy() -> None:
    source, destination = Source(3), MemoryStore()
    source.at_read[1] = lambda: source.put("first", 1)
    source.at_feed[2] = lambda: source.put("second", 2)
    source.at_feed[3] = lambda: source.delete("first")
    source.at_feed[4] = lambda: source.put("second", 3)
    done = copy(source, destination)
    assert (done.size, done.deleted) == (4, 0)  # what is overtaken by a change is not written
    assert content(destination) == content(source) == {"k0000": 0, "k0001": 1, "k0002": 2, "second": 3}


def test_a_key_of_a_source_that_was_empty_and_is_gone_again_is_not_in_the_copy() -> None:
    source, destination = Source(), MemoryStore()
    source.at_feed[1] = lambda: source.put("short-lived", 1)
    source.at_read[1] = lambda: source.delete("short-lived")
    source.at_feed[2] = lambda: source.delete("short-lived")
    copy(source, destination)
    assert content(destination) == {}


def test_changes_outside_of_the_prefix_are_not_copied() -> None:
    source, destination = Source(2), MemoryStore()
    source.at_read[1] = lambda: source.put_many({"k9": 1, "other": 1})
    destination.put("other", "mine")
    copy(source, destination, "k")
    assert content(destination) == {"k0000": 0, "k0001": 1, "k9": 1, "other": "mine"}


def test_changes_are_read_after_each_batch_so_that_the_feed_need_not_remember_them_for_long() -> None:
    source, destination = Source(2000), MemoryStore()
    for read in (400, 900, 1400, 1900):
        source.at_read[read] = lambda gone=(f"k{read - 1:04}", f"k{read - 2:04}"): source.delete_many(gone)  # type: ignore[misc]  # the loop's value is meant
    copy(source, destination)
    assert source.reads == 2000
    assert content(destination) == content(source)


def forget(source: Source, first: int) -> Callable[[], None]:
    """More deletions than the source remembers."""
    return lambda: source.delete_many([f"k{first + number:04}" for number in range(5)])


def test_a_source_that_forgot_its_changes_is_read_again() -> None:
    source, destination = Source(40), MemoryStore()
    for read, first in {30: 10, 70: 15, 105: 20, 130: 25}.items():  # late in each pass but the last
        source.at_read[read] = forget(source, first)
    destination.put("older", 1)
    done = copy(source, destination, overwrite=True)
    assert content(destination) == content(source)
    assert done.keys == len(content(source)) == 20


def test_a_source_that_forgets_its_changes_every_time_is_given_up() -> None:
    source = Source(100)

    def happen() -> None:
        source.put_many(dict.fromkeys(passing, source.reads))
        source.delete_many(passing)

    passing = [f"passing{number}" for number in range(4)]
    source.at_read = dict.fromkeys(range(1, 1000), happen)
    with pytest.raises(SourceTooBusy, match="forgot what changed in it before that could be read, 5 times in a row"):
        copy(source, MemoryStore())


def test_a_source_that_never_stands_still_is_given_up() -> None:
    class Restless(Source):
        def changes(self, cursor: int | None = None, prefix: str = "") -> tuple[int, builtins.list[Change]]:
            found = super().changes(cursor, prefix)
            self.put("clock", self.feeds)
            return found

    source, destination = Restless(3), MemoryStore()
    with pytest.raises(SourceTooBusy, match=r"between any two of 10000 readings.*pause those who write") as caught:
        copy(source, destination)
    assert "copy again with --overwrite" in str(caught.value)


def test_a_record_that_is_damaged_while_the_copy_runs_is_treated_like_any_other() -> None:
    class Damaged(Source):
        damaged = False

        def get_versioned(self, key: str) -> tuple[Plain, int] | None:
            found = super().get_versioned(key)
            if key == "k0001" and self.damaged:
                raise StoreCorruption(key, "here", "why")
            return found

        def changes(self, cursor: int | None = None, prefix: str = "") -> tuple[int, builtins.list[Change]]:
            found = super().changes(cursor, prefix)
            if any(change.key == "k0001" for change in found[1]) and self.damaged:
                raise StoreCorruption("k0001", "here", "why")
            return found

        def happen(self) -> None:
            self.put_many({"k0001": "damaged", "k0000": "newer"})
            self.damaged = True

    for skip in (False, True):
        source, destination = Damaged(3), MemoryStore()
        source.at_read[3] = source.happen
        if not skip:
            with pytest.raises(StoreCorruption):
                copy(source, destination)
            continue
        done = copy(source, destination, skip_damaged=True)
        assert (done.keys, [error.key for error in done.damaged]) == (2, ["k0001"])
        assert destination.get("k0000") == "newer"


def test_a_damaged_record_that_is_put_anew_is_copied(tmp_path: Path) -> None:
    damaged(f"sqlite:{tmp_path}/s")
    with opened(f"sqlite:{tmp_path}/s") as source:
        destination = MemoryStore()
        done = copy(
            versioned(source),
            destination,
            skip_damaged=True,
            on_progress=lambda read, there_are: source.put("b", "mended") if read == there_are else None,
        )
    assert (done.keys, done.damaged) == (3, ())
    assert content(destination) == {"a": 1, "b": "mended", "c": 3}


def test_a_destination_that_is_not_empty_is_untouched() -> None:
    destination = MemoryStore()
    destination.put_many({"a": 1, "b": 2})
    with pytest.raises(DestinationNotEmpty) as caught:
        copy(Source(3), destination)
    assert (caught.value.count, caught.value.prefix) == (2, "")
    assert content(destination) == {"a": 1, "b": 2}


def test_progress_is_told_after_each_batch() -> None:
    told: list[tuple[int, int]] = []
    copy(Source(1200), MemoryStore(), on_progress=lambda *figures: told.append(figures))
    assert told == [(500, 1200), (1000, 1200), (1200, 1200)]


@pytest.mark.parametrize("error", [DestinationNotEmpty(2, "a:"), SourceTooBusy("it moves")])
def test_the_errors_survive_pickling(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
