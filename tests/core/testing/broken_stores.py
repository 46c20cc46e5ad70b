"""Stores with one mistake each, which the contract has to find. Processes of their own load them from here."""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from converge.core.errors import StoreCorruption, VersionConflict
from converge.core.file_notices import FileNotices
from converge.core.store import DELETED, Change, Store, VersionedStore, Write
from converge.extensions.storage.sqlite import SQLiteStore

if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterable, Iterator, Mapping

    from converge.core.errors import StoreError
    from converge.core.notices import Notices
    from converge.core.plain import Plain


class Sound(SQLiteStore):
    """What the others change in one point."""

    def __init__(self, path: Path) -> None:
        self.file = path
        super().__init__(path, durability="process")


class ChecksThenPuts(Sound):
    def put_if_absent(self, key: str, value: Plain) -> bool:
        if self.get(key) is not None:
            return False
        self.put(key, value)
        return True


class ChecksThenSwaps(Sound):
    def compare_and_set(self, key: str, value: Plain, expected: int) -> int:
        if self._version_now(key) != expected:
            raise VersionConflict(key, expected, None)
        self.put(key, value)
        return self._version_now(key)

    def compare_and_set_many(self, writes: Iterable[Write]) -> builtins.list[int | None]:
        return VersionedStore.compare_and_set_many(self, writes)

    def _version_now(self, key: str) -> int:
        found = self.get_versioned(key)
        return found[1] if found else 0


class GivesVersionsTwice(Sound):
    def compare_and_set(self, key: str, value: Plain, expected: int) -> int:
        return super().compare_and_set(key, value, expected) // 2 * 2


class BeginsVersionsAnew(Sound):
    """Each object counts its versions from the number of keys on, as one that does not keep the newest."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.before = super().changes()[0] - len(self.list())

    def get_versioned(self, key: str) -> tuple[Plain, int] | None:
        found = super().get_versioned(key)
        return found and (found[0], found[1] - self.before)

    def compare_and_set(self, key: str, value: Plain, expected: int) -> int:
        return super().compare_and_set(key, value, expected and expected + self.before) - self.before

    def changes(self, cursor: int | None = None, prefix: str = "") -> tuple[int, builtins.list[Change]]:
        newest, found = super().changes(cursor and cursor + self.before, prefix)
        return newest - self.before, [Change(key, value, version - self.before) for key, value, version in found]


class LeavesItsLock(Sound):
    """A file that is there stands for "somebody writes"; nobody takes it away for a dead one."""

    def put(self, key: str, value: Plain) -> None:
        with self._alone():
            super().put(key, value)

    def put_many(self, items: Mapping[str, Plain]) -> None:
        with self._alone():
            super().put_many(items)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        mark = self.file.with_name("writing")
        while True:
            try:
                mark.touch(exist_ok=False)
                break
            except FileExistsError:
                if not self.file.exists():  # the test is over
                    raise
                time.sleep(0.001)
        try:
            yield
        finally:
            mark.unlink()


class AcknowledgesBeforeItWrites(Sound):
    """As one that leaves a value to a thread; its feed tells the version that the value will have."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.late: dict[str, Plain] = {}
        self.settled = threading.Condition()

    def put(self, key: str, value: Plain) -> None:
        with self.settled:
            self.late[key] = value
        threading.Timer(0.005, self._write).start()

    def put_if_absent(self, key: str, value: Plain) -> bool:
        with self.settled:
            self.settled.wait_for(lambda: not self.late)
            return super().put_if_absent(key, value)

    def changes(self, cursor: int | None = None, prefix: str = "") -> tuple[int, builtins.list[Change]]:
        with self.settled:
            newest, found = super().changes(cursor, prefix)
            return newest + len(self.late), found

    def _write(self) -> None:
        with self.settled:
            while self.late:
                super().put(*self.late.popitem())
            self.settled.notify_all()


class WritesManyOneByOne(Sound):
    def put_many(self, items: Mapping[str, Plain]) -> None:
        for key, value in items.items():
            self.put(key, value)
            time.sleep(0.002)


class EmptiesBeforeItWrites(Sound):
    def put(self, key: str, value: Plain) -> None:
        self.delete(key)
        time.sleep(0.001)  # who reads gets a turn, however busy the machine is
        super().put(key, value)


class WritesInTwoSteps(Sound):
    def put(self, key: str, value: Plain) -> None:
        if isinstance(value, list):
            super().put(key, [*value[:-1], 0])
        super().put(key, value)


class SeesItsOwnWritesOnly(Sound):
    def may_have_changed(self, cursor: int) -> bool:
        return False


class TellsOfItsLockFile(Sound):
    def notices(self) -> Notices | None:
        return FileNotices.of(self.file.with_name(f"{self.file.name}.lock"))


class TellsForGood(Sound):
    def notices(self) -> Notices | None:
        notices = super().notices()
        assert notices is not None
        notices.clear = lambda: None  # type: ignore[method-assign]  # the mistake
        return notices


class KeepsWhatItHasRead(Sound):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.read: dict[str, Plain] = {}

    def get(self, key: str) -> Plain:
        if key not in self.read:
            self.read[key] = super().get(key)
        return self.read[key]


class ForgetsDeletions(Sound):
    def changes(self, cursor: int | None = None, prefix: str = "") -> tuple[int, builtins.list[Change]]:
        newest, found = super().changes(cursor, prefix)
        return newest, [change for change in found if change.value is not DELETED]


class BeginsAnewWhereNothingIs(Sound):
    """Two that open at one instant both find nothing, and the later one clears away what the first has made."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            time.sleep(0.03)
            for part in path.parent.glob(f"{path.name}*"):
                part.unlink(missing_ok=True)
        super().__init__(path)


class FourMethods(Store):
    """Shared, though put_if_absent is that of the base class, and a child takes up its parent's store."""

    shared = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.of_process: dict[int, Store] = {}

    @property
    def inner(self) -> Store:
        if os.getpid() not in self.of_process:
            self.of_process[os.getpid()] = Sound(self.path)
        return self.of_process[os.getpid()]

    def put(self, key: str, value: Plain) -> None:
        self.inner.put(key, value)

    def get(self, key: str) -> Plain:
        return self.inner.get(key)

    def delete(self, key: str) -> None:
        self.inner.delete(key)

    def list(self, prefix: str = "") -> builtins.list[str]:
        return self.inner.list(prefix)

    def close(self) -> None:
        self.inner.close()


class FindsFaults(Sound):
    def check(self) -> Iterator[StoreError]:
        for key in self.list():
            yield StoreCorruption(key, str(self.file), "made up")


class CompactsByDroppingAKey(Sound):
    def compact(self) -> int:
        self.delete(self.list()[0])
        return 1


class CompactsByWritingAnew(Sound):
    def compact(self) -> int:
        self.put_many({key: self.get(key) for key in self.list()})
        return 0


class CompactsACopy(Sound):
    """What others write between the copy and its return is lost."""

    def compact(self) -> int:
        held = {key: self.get(key) for key in self.list()}
        time.sleep(0.005)
        self.put_many(held)
        self.delete_many([key for key in self.list() if key not in held])
        return 0


class RepairsWhatIsSound(Sound):
    def repair(self) -> Iterator[StoreError]:
        self.delete(self.list()[-1])
        return iter(())


class SaysItIsNotShared(Sound):
    shared = False
