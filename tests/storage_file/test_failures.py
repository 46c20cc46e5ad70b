"""Calls of the system that fail: what raised has changed nothing, what returned is there, and the store goes on."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from converge.core.store import DELETED, Write
from converge.extensions.storage.file import FileStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.core.plain import Plain

CALLS = ("fsync", "ftruncate", "mkdir", "open", "pwrite", "rename", "rmdir", "unlink", "write")
OPERATIONS: dict[str, tuple[Callable[[FileStore], object], dict[str, Plain]]] = {
    "put": (lambda store: store.put("k", "new"), {"k": "new", "other": 1}),
    "put a new key": (lambda store: store.put("n", "new"), {"k": "old", "other": 1, "n": "new"}),
    "put_if_absent": (lambda store: store.put_if_absent("n", "new"), {"k": "old", "other": 1, "n": "new"}),
    "compare_and_set": (lambda store: store.compare_and_set("k", "new", version(store)), {"k": "new", "other": 1}),
    "compare_and_set_many": (
        lambda store: store.compare_and_set_many([Write("k", "new", version(store)), Write("n", 1, 0)]),
        {"k": "new", "n": 1, "other": 1},
    ),
    "delete": (lambda store: store.delete("k"), {"other": 1}),
    "put_many": (lambda store: store.put_many({"k": "new", "n": 1, "m": 2}), {"k": "new", "n": 1, "m": 2, "other": 1}),
    "delete_many": (lambda store: store.delete_many(["k", "other"]), {}),
    "compact": (lambda store: store.compact(), {"k": "old", "other": 1}),
}


def version(store: FileStore) -> int:
    found = store.get_versioned("k")
    assert found is not None
    return found[1]


def follow(replica: dict[str, Plain], store: FileStore, cursor: int) -> dict[str, Plain]:
    """`replica` after the changes since `cursor`."""
    for key, value, _ in store.changes(cursor)[1]:
        replica.pop(key, None)
        if value is not DELETED:
            replica[key] = value
    return replica


class InjectedError(OSError):
    """What a failing call raises."""


class FailingOnce:
    """The n-th of the calls of this thread fails with EIO; a write has put half of its data down by then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
        self.left = nth
        self.thread = threading.get_ident()
        self.name = ""
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, call: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*arguments: object, **named: object) -> object:
            if threading.get_ident() != self.thread:
                return call(*arguments, **named)
            self.left -= 1
            if self.left == 0:
                self.name = name
                if name == "write":
                    descriptor, data = arguments
                    assert isinstance(data, bytes | memoryview)
                    call(descriptor, data[: len(data) // 2])
                raise InjectedError(errno.EIO, "injected")
            return call(*arguments, **named)

        return wrapped


@pytest.mark.parametrize("name", OPERATIONS)
def test_whichever_call_fails_the_operation_is_done_or_raises_and_changed_nothing(name: str, tmp_path: Path) -> None:
    operate, done = OPERATIONS[name]
    failed = []
    for nth in range(1, 100):
        with FileStore(tmp_path / str(nth)) as store:
            store.put("k", "old")
            store.put("gone", 1)
            store.delete("gone")
            store.put("other", 1)
            newest, _ = store.changes()
            with pytest.MonkeyPatch.context() as monkeypatch:
                failing = FailingOnce(monkeypatch, nth)
                try:
                    operate(store)
                    expected = done
                except InjectedError:
                    expected = {"k": "old", "other": 1}
            assert {key: store.get(key) for key in store.list()} == expected, (nth, failing.name)
            for key in ("k", "n", "m", "other"):
                assert store.get(key) == expected.get(key), (nth, failing.name)
            assert follow({"k": "old", "other": 1}, store, newest) == expected, (nth, failing.name)
            assert store.compare_and_set("later", 1, 0) > newest
        with FileStore(tmp_path / str(nth)) as store:
            assert {key: store.get(key) for key in store.list()} == expected | {"later": 1}, (nth, failing.name)
        if not failing.name:
            break
        failed.append(failing.name)
    assert {"fsync", "open"} <= set(failed)
    assert failed.count("fsync") >= 1 + (name != "delete")


def test_a_failed_fsync_is_never_tried_again_on_the_same_file(store: FileStore, path: Path) -> None:
    synced: list[str] = []

    def fsync(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        raise InjectedError(errno.EIO, "injected")

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="injected"):
            store.put("k", 1)
    assert len(synced) == 1
    assert not list(path.rglob(".new-*"))


def test_an_opening_that_fails_leaves_a_folder_that_opens(tmp_path: Path) -> None:
    for nth in range(1, 100):
        place = tmp_path / str(nth)
        with pytest.MonkeyPatch.context() as monkeypatch:
            failing = FailingOnce(monkeypatch, nth)
            with suppress(InjectedError):
                FileStore(place).close()
        with FileStore(place) as store:
            store.put("k", 1)
            assert store.list() == ["k"]
        if not failing.name:
            return
    raise AssertionError("an opening makes fewer calls")


def test_a_write_that_no_flush_says_to_be_durable_is_not_followed_by_another_before_the_disk_knows(
    store: FileStore, path: Path
) -> None:
    store.put("k", "old")
    with FileStore(path) as other:
        newest, _ = store.changes()
        with pytest.MonkeyPatch.context() as monkeypatch:
            calls = iter([None, InjectedError(errno.EIO, "injected")])  # the file is flushed, its folder is not
            fsync = os.fsync

            def failing(descriptor: int) -> None:
                if error := next(calls, None):
                    raise error
                fsync(descriptor)

            monkeypatch.setattr(os, "fsync", failing)
            with pytest.raises(OSError, match="injected"):
                store.put("k", "new")
        assert [file.name for file in path.glob(".next-*")] == [f".next-{newest + 1}"]
        assert other.compare_and_set("other", 1, 0) == newest + 3
        assert [file.name for file in path.glob(".next-*")] == [f".next-{newest + 3}"], "flushed before the write"
        assert store.get("k") == other.get("k") == "old"


def test_a_file_that_the_system_cannot_tell_of_is_not_taken_for_an_absent_one(store: FileStore) -> None:
    store.put("k", "old")
    uses: list[Callable[[], object]] = [
        lambda: store.put_if_absent("k", "new"), lambda: store.delete("k"), lambda: store.put_many({"k": 1, "n": 2}),
        lambda: store.get("k"), lambda: store.get("absent"),
    ]  # fmt: skip

    def failing(place: str) -> os.stat_result:
        raise InjectedError(errno.EIO, "injected")

    for use in uses:
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(os, "lstat", failing)
            with pytest.raises(OSError, match="injected"):
                use()
    assert (store.list(), store.get("k")) == (["k"], "old")
