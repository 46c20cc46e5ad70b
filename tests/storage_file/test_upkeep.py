"""Checking, repairing and compacting: what is damaged is told and moved aside, and everything sound stays."""

from __future__ import annotations

import errno
import os
import random
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

import pytest

from converge.core.errors import CursorExpired, StoreCorruption, StoreError
from converge.core.store import DELETED
from converge.extensions.storage.file import FileStore, StoreFolderError
from converge.extensions.storage.file.names import file_name, place_of, shard_of
from converge.extensions.storage.file.record import encode_record, seal
from tests.storage_file import crash_disk
from tests.storage_file.crash_disk import Killed, Recorder, read_tree, safe_disk, write_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from converge.core.plain import Plain

LONG = "long-" * 60
SOUND: dict[str, Plain] = {f"sound-{number}": {"n": number} for number in range(20)}


@pytest.fixture
def store(path: Path) -> Iterator[FileStore]:
    with FileStore(path) as store:
        store.put_many(SOUND | {"bad": "once well"})
        store.put("sound-0", "anew")
        yield store


def held_by(store: FileStore) -> dict[str, tuple[Plain, int]]:
    return {key: found for key in SOUND if (found := store.get_versioned(key)) is not None}


def the_only(problems: Iterator[StoreError]) -> StoreError:
    (problem,) = problems
    return problem


def assert_repaired(store: FileStore, expected: dict[str, tuple[Plain, int]]) -> None:
    assert [*store.check()] == []
    assert [*store.repair()] == []
    assert held_by(store) == expected
    assert sorted(change.key for change in store.changes(0)[1]) == store.list() == sorted(expected)
    newest, _ = store.changes()
    assert store.compare_and_set("bad", "put anew", 0) > newest


def make_folder(place: Path) -> None:
    place.unlink()
    place.mkdir()
    (place / "within").write_bytes(b"mine")


def make_pipe(place: Path) -> None:
    place.unlink()
    os.mkfifo(place)


# Records


DAMAGES: dict[str, Callable[[Path], object]] = {
    "emptied": lambda place: place.write_bytes(b""),
    "garbage": lambda place: place.write_bytes(b"garbage"),
    "cut": lambda place: place.write_bytes(place.read_bytes()[:-1]),
    "of another key": lambda place: place.write_bytes(encode_record("other", 1, b"\xc0")),
    "no plain data": lambda place: place.write_bytes(encode_record("bad", 1, b"\xc1")),
    "a folder": make_folder,
    "a pipe": make_pipe,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_record_is_told_moved_aside_and_appears_as_a_deletion(
    damage: Callable[[Path], object], store: FileStore, path: Path
) -> None:
    damage(path / place_of("bad"))
    expected, (cursor, _) = held_by(store), store.changes()
    before = read_tree(path) if not (path / place_of("bad")).is_fifo() else {}
    found = the_only(store.check())
    with pytest.raises(StoreCorruption) as caught:
        store.get("bad")
    assert isinstance(found, StoreCorruption)
    assert str(found) == str(caught.value), "the error that a reader gets"
    if before:
        assert read_tree(path) == before, "checking changes nothing"
    assert str(the_only(store.repair())) == str(found)
    assert [change[:2] for change in store.changes(cursor)[1]] == [("bad", DELETED)]
    assert store.get("bad") is None
    (aside,) = (path / ".damaged").iterdir()
    assert aside.name == place_of("bad").replace("/", "-")
    assert_repaired(store, expected)


def test_what_is_moved_aside_keeps_its_bytes_and_gets_a_name_of_its_own(store: FileStore, path: Path) -> None:
    contents = [b"first", b"second", b"third"]
    for content in contents:
        store.put("bad", 1)
        (path / place_of("bad")).write_bytes(content)
        the_only(store.repair())
    assert sorted(aside.read_bytes() for aside in (path / ".damaged").iterdir()) == sorted(contents)
    assert all(shard_of("bad") in aside.name for aside in (path / ".damaged").iterdir())


def test_each_damaged_record_is_told_once(store: FileStore, path: Path) -> None:
    bad = ["sound-3", "sound-7", "sound-11"]
    for key in bad:
        (path / place_of(key)).write_bytes(b"")
    assert sorted(getattr(problem, "key", "") for problem in store.check()) == sorted(bad)
    assert sorted(getattr(problem, "key", "") for problem in store.repair()) == sorted(bad)
    assert [*store.check()] == []
    assert set(store.list()) == set(SOUND) - set(bad) | {"bad"}


def test_what_was_put_anew_between_the_finding_and_the_repair_stays(store: FileStore, path: Path) -> None:
    for key in ("sound-3", "sound-7"):
        (path / place_of(key)).write_bytes(b"")
    repairing = store.repair()
    first = next(repairing)
    assert isinstance(first, StoreCorruption)
    (other,) = {"sound-3", "sound-7"} - {first.key}
    store.put(other, "anew")  # no lock is held between two errors
    assert [*repairing] == []
    assert (store.get(first.key), store.get(other)) == (None, "anew")


def test_a_record_that_the_disk_cannot_read_now_is_an_os_error_and_stays_where_it_is(
    store: FileStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, read = path / place_of("bad"), os.read

    def failing(descriptor: int, size: int) -> bytes:
        if os.fstat(descriptor).st_ino == inode:
            raise OSError(errno.EIO, "unreadable")
        return read(descriptor, size)

    inode = place.stat().st_ino
    monkeypatch.setattr(os, "read", failing)
    uses: list[Callable[[], object]] = [lambda: store.get("bad"), lambda: [*store.check()], lambda: [*store.repair()]]
    for use in uses:
        with pytest.raises(OSError, match="unreadable"):
            use()
    monkeypatch.undo()
    assert store.get("bad") == "once well"


def test_the_deletion_of_a_long_key_is_told_as_long_as_the_journal_knows_the_key(store: FileStore, path: Path) -> None:
    for known in (True, False):
        store.put(LONG, 1)
        (path / place_of(LONG)).write_bytes(b"garbage")
        if not known:
            (path / ".journal").unlink()
            store.put("sound-1", {"n": 1})
        cursor, _ = store.changes()
        found = the_only(store.repair())
        assert getattr(found, "key", "") == file_name(LONG)
        if known:
            assert [change[:2] for change in store.changes(cursor)[1]] == [(LONG, DELETED)]
        else:
            with pytest.raises(CursorExpired):
                store.changes(cursor)
        assert store.get(LONG) is None
        assert [*store.check()] == []


# Files in a wrong place


def test_a_record_in_a_wrong_place_is_told_and_moved_aside(store: FileStore, path: Path) -> None:
    expected = held_by(store)
    store.delete("bad")
    wrong = next(shard for shard in sorted(folder.name for folder in path.glob("??")) if shard != shard_of("stray"))
    for name in (file_name("stray"), file_name(LONG)):
        for folder in (path, path / wrong):
            if folder.name == shard_of(LONG):
                continue
            (folder / name).write_bytes(encode_record("stray", 1, b"\xc0"))
            found = the_only(store.check())
            assert isinstance(found, StoreFolderError)
            assert found.path == str(folder / name)
            assert f"belongs into the sub-folder {shard_of('stray' if name == file_name('stray') else LONG)}" in str(
                found
            )
            assert "stray" not in store.list()
            assert str(the_only(store.repair())) == str(found)
            assert not (folder / name).exists()
    assert_repaired(store, expected)


def test_a_file_in_the_place_of_a_sub_folder_is_told_and_moved_aside(store: FileStore, path: Path) -> None:
    shard = next(f"{number:02x}" for number in range(256) if not (path / f"{number:02x}").exists())
    key = next(f"key-{number}" for number in range(10_000) if shard_of(f"key-{number}") == shard)
    (path / shard).write_bytes(b"mine")
    cursor, _ = store.changes()
    with pytest.raises(NotADirectoryError):
        store.put(key, 1)
    with FileStore(path) as other:
        assert "in the place of a sub-folder" in str(the_only(other.check()))
        the_only(other.repair())
    assert (path / ".damaged" / shard).read_bytes() == b"mine"
    store.put(key, 1)
    assert [*store.check()] == []
    with pytest.raises(CursorExpired):
        store.changes(cursor)


# The store's own files


def test_a_damaged_batch_is_moved_aside_and_the_store_goes_on(store: FileStore, path: Path) -> None:
    store.delete("bad")
    expected = held_by(store)
    for content in (b"garbage", seal(b"cv-batch", [["k", "v", None]])):
        (path / ".batch").write_bytes(content)
        with FileStore(path) as opened:
            for use in (store, opened):
                found = the_only(use.check())
                assert isinstance(found, StoreFolderError)
                assert found.path == str(path / ".batch")
            assert str(the_only(opened.repair())) == str(found)
            assert held_by(opened) == held_by(store) == expected
            assert [*store.check()] == []
        assert content in [aside.read_bytes() for aside in (path / ".damaged").iterdir()]
    assert_repaired(store, expected)


JOURNAL_DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": lambda place: place.unlink(),
    "emptied": lambda place: place.write_bytes(b""),
    "a damaged header": lambda place: place.write_bytes(b"x" + place.read_bytes()[1:]),
    "a damaged entry": lambda place: place.write_bytes(
        (content := place.read_bytes())[:40] + bytes([content[40] ^ 1]) + content[41:]
    ),
    "cut": lambda place: place.write_bytes(place.read_bytes()[:60]),
    "a folder": make_folder,
}


@pytest.mark.parametrize("damage", JOURNAL_DAMAGES.values(), ids=JOURNAL_DAMAGES)
def test_a_damaged_journal_is_told_and_a_new_one_begun(
    damage: Callable[[Path], object], store: FileStore, path: Path
) -> None:
    store.delete("bad")
    expected, (cursor, _) = held_by(store), store.changes()
    damage(path / ".journal")
    found = the_only(store.check())
    assert isinstance(found, StoreFolderError)
    assert found.path == str(path / ".journal")
    assert "cursors of before expire" in str(found)
    assert str(the_only(store.repair())) == str(found)
    with pytest.raises(CursorExpired):
        store.changes(cursor)
    assert_repaired(store, expected)


def test_a_torn_end_of_the_journal_is_of_a_write_that_never_was_and_no_damage(store: FileStore, path: Path) -> None:
    with (path / ".journal").open("ab") as journal:
        journal.write(b"\1\2\3")
    assert [*store.check()] == []


def test_lost_counters_are_told_and_found_again_in_the_records(store: FileStore, path: Path) -> None:
    store.delete("bad")
    expected = held_by(store)
    for file in [*path.glob(".next-*"), *path.glob("*/.next-*")]:
        file.unlink()
    assert any("no file tells which versions" in str(problem) for problem in store.check())
    assert [*store.repair()]
    assert_repaired(store, expected)


def test_a_record_above_all_counters_is_told_and_its_version_not_used_again(store: FileStore, path: Path) -> None:
    store.delete("bad")
    newest, _ = store.changes()
    (path / place_of("sound-1")).write_bytes(encode_record("sound-1", newest + 1000, b"\xc0"))
    found = the_only(store.check())
    assert isinstance(found, StoreFolderError)
    assert f"its version {newest + 1000} is above all counters" in str(found)
    assert str(the_only(store.repair())) == str(found)
    assert [*store.check()] == []
    assert store.compare_and_set("bad", 1, 0) > newest + 1000


# Death in the middle


def damaged(path: Path) -> list[bytes]:
    """A folder with damage of every kind; the bytes that must not be lost."""
    with FileStore(path) as store:
        store.put_many(SOUND | {"bad": 1, LONG: 2})
    contents = [b"a damaged record", b"another one, of a long key", b"a damaged batch", b"stray"]
    places = [place_of("bad"), place_of(LONG), ".batch", f"{shard_of('bad')}/{file_name(LONG)}"]
    for place, content in zip(places, contents, strict=True):
        (path / place).write_bytes(content)
    return contents


def repair_until_killed(path: Path, disk: crash_disk.Folder, calls: int, seen: Callable[[], None]) -> bool:
    """Whether a repair was killed at its n-th call that changes the disk."""
    recorder = Recorder(path, disk, seen)
    with pytest.MonkeyPatch.context() as monkeypatch:
        recorder.install(monkeypatch)
        store = FileStore(path)
        recorder.calls_left = calls
        try:
            list(store.repair())
        except Killed:
            return True
        finally:
            recorder.calls_left = None
            store.close()
    return False


def assert_repairs(path: Path, contents: list[bytes]) -> None:
    with FileStore(path) as store:
        list(store.repair())
        assert [*store.check()] == []
        assert store.list() == sorted(SOUND)
        assert {key: store.get(key) for key in SOUND} == SOUND
        store.put("later", 1)
    left = list(read_tree(path).values())
    assert all(content in left for content in contents), "damaged bytes are never destroyed"


def test_a_repair_killed_at_any_call_can_be_done_again(tmp_path: Path) -> None:
    calls = 0
    while True:
        path = tmp_path / str(calls)
        contents = damaged(path)
        killed = repair_until_killed(path, safe_disk(read_tree(path)), calls, lambda: None)
        assert_repairs(path, contents)
        if not killed:
            break
        calls += 1
    assert calls > 20


def test_a_power_cut_during_a_repair_destroys_nothing(tmp_path: Path) -> None:
    path, chance = tmp_path / "store", random.Random(8)
    contents = damaged(path)
    disk = safe_disk(read_tree(path))
    trees: list[crash_disk.Tree] = []
    repair_until_killed(path, disk, 10**9, lambda: trees.extend([*disk.worst_cuts(), disk.cut(chance)]))
    assert len(trees) > 100
    for number, tree in enumerate(trees):
        if number % 3 == 0 or number > len(trees) - 10:
            write_tree(tmp_path / str(number), tree)
            assert_repairs(tmp_path / str(number), contents)


# Compaction


class ShortMemory(FileStore):
    remembered_writes: ClassVar[int] = 20


def test_compaction_gives_back_what_nobody_needs_and_says_how_much(path: Path) -> None:
    with ShortMemory(path) as store:
        for number in range(35):
            store.put(f"k{number % 5}", number)
        cursor, _ = store.changes()
        for number in range(5):
            store.delete(f"k{number}")
        store.put("kept", 1)
        left = [".new-dead", f"{shard_of('kept')}/.new-7", f"{shard_of('k0')}/.new-undo"]
        for place in left:
            (path / place).write_bytes(b"x" * 1000)
        before = sum(len(content or b"") for content in read_tree(path).values())
        shards = {shard_of(f"k{number}") for number in range(5)}
        folders = sum((path / shard).lstat().st_size for shard in shards - {shard_of("kept")})
        freed = store.compact()
        after = sum(len(content or b"") for content in read_tree(path).values())
        assert freed == before - after + folders > 3000
        assert {folder.name for folder in path.glob("??")} == {shard_of("kept")}
        assert len(store._ledger.journal) == 20
        assert [change.key for change in store.changes(cursor)[1]] == [*(f"k{number}" for number in range(5)), "kept"]
        assert store.compact() == 0
        for number in range(5):
            store.put(f"k{number}", "anew")
        assert [*store.check()] == []


def test_stores_beside_a_compaction_go_on(path: Path) -> None:
    with FileStore(path) as store, FileStore(path) as other:
        for turn in range(10):
            for key in ("a", "b", "c"):
                other.put(key, turn)
                cursor, _ = store.changes()
                other.delete(key)
            store.compact()
            assert not [*path.glob("??")]
            newest, changes = other.changes(cursor)
            assert [change[:2] for change in changes] == [("c", DELETED)]
            other.put_many({"a": 1, "b": 2})
            assert other.compare_and_set("c", 1, 0) > newest
            assert store.list() == other.list() == ["a", "b", "c"]
            other.delete_many(["a", "b", "c"])
            assert [*other.check()] == [*store.check()] == []


def test_a_compaction_killed_at_any_call_or_cut_off_loses_nothing(tmp_path: Path) -> None:
    chance = random.Random(9)
    for calls in range(100):
        path = tmp_path / str(calls)
        with ShortMemory(path) as store:
            for number in range(30):
                store.put(f"k{number % 5}", number)
            store.delete_many(["k0", "k1"])
            newest, _ = store.changes()
            (path / ".new-dead").write_bytes(b"x")
            disk = safe_disk(read_tree(path))
            recorder = Recorder(path, disk, lambda: None)
            with pytest.MonkeyPatch.context() as monkeypatch:
                recorder.install(monkeypatch)
                with ShortMemory(path) as dying:
                    recorder.calls_left = calls
                    with suppress(Killed):
                        dying.compact()
                    done = recorder.calls_left > 0
                    recorder.calls_left = None
            assert store.list() == ["k2", "k3", "k4"]
            assert store.compare_and_set("k0", 1, 0) > newest
        for number, tree in enumerate([*disk.worst_cuts(), disk.cut(chance)]):
            cut = tmp_path / f"{calls}-{number}"
            write_tree(cut, tree)
            with FileStore(cut) as after:
                assert [*after.check()] == []
                assert after.list() == ["k2", "k3", "k4"]
                assert after.compare_and_set("k0", 1, 0) > newest
        if done:
            assert calls > 5
            return
    raise AssertionError("a compaction makes fewer calls")


def test_a_sub_folder_that_is_a_link_to_another_disk_is_used_and_kept(store: FileStore, path: Path) -> None:
    shard = path / shard_of("bad")
    shard.rename(path.with_name("elsewhere"))
    shard.symlink_to(path.with_name("elsewhere"))
    assert store.get("bad") == "once well"
    for key in [key for key in store.list() if shard_of(key) == shard.name]:
        store.delete(key)
    store.compact()
    assert shard.is_symlink()
    store.put("bad", "again")
    assert [*store.check()] == []
