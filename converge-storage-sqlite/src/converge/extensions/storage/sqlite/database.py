"""One open database: who may use it when, and what its errors become."""

from __future__ import annotations

import fcntl
import os
import threading
import weakref
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import apsw

from converge.core.errors import StoreError
from converge.extensions.storage.sqlite.batch import Batch, meta
from converge.extensions.storage.sqlite.errors import translated
from converge.extensions.storage.sqlite.opening import (
    connect,
    make_folder,
    open_lock_file,
    prepare,
    require_sound_wal,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Database"]


class Database:
    """Three connections to one file, each with its lock: one writes, one reads, one asks for the newest version.

    So a read waits for no commit, and the question for no long read. Writers of all processes queue on the lock
    file: under contention the kernel's queue is fair where SQLite's own retries are not.
    """

    def __init__(self, path: Path, durability: Literal["power", "process"]) -> None:
        self.path = path
        self._process = os.getpid()
        self._closed = False
        self._write_lock, self._read_lock, self._newest_lock = threading.Lock(), threading.Lock(), threading.Lock()
        require_sound_wal(apsw.sqlite_lib_version())
        with translated(path):
            real = Path(os.path.realpath(path))  # one lock file, whatever links lead to the database
            make_folder(real.parent)
            self._lock_file = open_lock_file(real)
            self.drop_lock_file = weakref.finalize(self, os.close, self._lock_file)
            with self._alone():
                self._writer = prepare(real, path, durability)
            self._reader = connect(real, reads_only=True)
            self._newest = connect(real, reads_only=True)
        _databases.add(self)

    @contextmanager
    def writing(self, remembered: int, key: str | None = None) -> Iterator[Batch]:
        """A transaction of the only writer; committed at the end of the block, undone by any exception."""
        self._require_usable()
        with self._write_lock:
            self._require_usable()
            with translated(self.path, key), self._alone():
                try:
                    self._writer.execute("BEGIN IMMEDIATE")
                    batch = Batch(self._writer, remembered)
                    yield batch
                    batch.finish()
                    self._writer.execute("COMMIT")
                finally:
                    if self._writer.in_transaction:
                        self._writer.execute("ROLLBACK")

    def read(
        self, sql: str, parameters: tuple[apsw.SQLiteValue, ...], key: str | None = None
    ) -> list[tuple[apsw.SQLiteValue, ...]]:
        """All rows of one query."""
        self._require_usable()
        with self._read_lock, translated(self.path, key):
            return list(self._reader.execute(sql, parameters))

    @contextmanager
    def snapshot(self) -> Iterator[apsw.Connection]:
        """The reading connection within one transaction: what it reads is of one instant."""
        self._require_usable()
        with self._read_lock, translated(self.path):
            self._reader.execute("BEGIN")
            try:
                yield self._reader
            finally:
                self._reader.execute("ROLLBACK")

    def newest_version(self) -> int:
        """The version of the latest commit of any process, in some 4 µs."""
        self._require_usable()
        with self._newest_lock, translated(self.path):
            return meta(self._newest)[1]

    def close(self) -> None:
        """Close the connections and the lock file, after the operations under way; twice is no error."""
        if self._closed or os.getpid() != self._process:
            return  # a forked child must not touch its parent's connections
        with self._write_lock, self._read_lock, self._newest_lock, translated(self.path):
            self._closed = True
            for connection in (self._newest, self._reader, self._writer):
                connection.close()
            self.drop_lock_file()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        fcntl.flock(self._lock_file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock_file, fcntl.LOCK_UN)

    def _require_usable(self) -> None:
        if self._closed:
            raise StoreError(f"{self.path}: this store is closed; open it again")
        if os.getpid() != self._process:
            raise StoreError(f"{self.path}: this store was opened before a fork; open it in the child, after the fork")


_databases: weakref.WeakSet[Database] = weakref.WeakSet()


def _drop_inherited_lock_files() -> None:
    # A child that keeps its copy of the descriptor would keep the lock of a parent that dies while it writes.
    for database in list(_databases):
        database.drop_lock_file()


os.register_at_fork(after_in_child=_drop_inherited_lock_files)
