"""One open database: its connections, its lock, and who may use them when."""

from __future__ import annotations

import fcntl
import os
import threading
import weakref
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import apsw

from converge.core.errors import StoreError
from converge.extensions.storage.sqlite.commits import CommitQueue, Job
from converge.extensions.storage.sqlite.errors import FAILURES, again_if_corrupt, translated, translation
from converge.extensions.storage.sqlite.opening import (
    connect,
    make_folder,
    open_lock_file,
    prepare,
    require_sound_wal,
)
from converge.extensions.storage.sqlite.writer import Writer, newest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Database"]

_T = TypeVar("_T")
_TOKEN_BYTES = 16


class Database:
    """Three connections to one file, each with its lock: one writes, one reads, one asks for the newest version.

    So a read waits for no commit, and the question for no long read. Writers of one object queue for a common commit
    (`CommitQueue`), those of all objects and processes for the lock file: under contention the kernel's queue is
    fair where SQLite's own retries are not. In the lock file stands a token of the object that wrote last; who finds
    its own there knows the newest version without asking.
    """

    def __init__(self, path: Path, durability: Literal["power", "process"], remembered: int) -> None:
        self.path = path
        self._process = os.getpid()
        self._closed = False
        self._commits = CommitQueue()
        self._read_lock, self._newest_lock = threading.Lock(), threading.Lock()
        self._token = os.urandom(_TOKEN_BYTES)
        self._interrupted = False  # whether a commit was left half done, as only a KeyboardInterrupt can
        require_sound_wal(apsw.sqlite_lib_version())
        with translated(path):
            self._real = Path(os.path.realpath(path))  # one lock file, whatever links lead to the database
            make_folder(self._real.parent)
            self._lock_file = open_lock_file(self._real)
            self.drop_lock_file = weakref.finalize(self, os.close, self._lock_file)
            opened: list[apsw.Connection] = []
            try:
                with self._alone():
                    opened.append(again_if_corrupt(lambda: prepare(self._real, path, durability)))
                opened += (connect(self._real, reads_only=True), connect(self._real, reads_only=True))
            except BaseException:
                for connection in opened:
                    connection.close()
                self.drop_lock_file()
                raise
        self._writer = Writer(opened[0], remembered)
        self._reader, self._newest = opened[1:]
        _databases.add(self)

    def write(self, act: Callable[[Writer], _T], key: str | None = None, *, single: bool = False) -> _T:
        """What `act` returns, in a transaction that is committed when this returns and undone when this raises.

        `single`: it writes with one statement at most. It may run twice, the first time being undone.
        """
        self._require_usable()
        try:
            return self._commits.run(act, self._commit, single=single)
        except FAILURES as error:
            raise translation(error, self.path, key) from error

    def read(
        self, sql: str, parameters: tuple[apsw.SQLiteValue, ...], key: str | None = None
    ) -> list[tuple[apsw.SQLiteValue, ...]]:
        """All rows of one query."""
        self._require_usable()
        with self._read_lock:
            try:
                return again_if_corrupt(lambda: self._reader.execute(sql, parameters).fetchall())
            except FAILURES as error:
                raise translation(error, self.path, key) from error

    def read_at_once(self, act: Callable[[apsw.Connection], _T]) -> _T:
        """What `act` reads with the reading connection within one transaction, and so as of one instant."""

        def in_transaction() -> _T:
            self._reader.execute("BEGIN")
            try:
                return act(self._reader)
            finally:
                self._reader.execute("ROLLBACK")

        self._require_usable()
        with self._read_lock, translated(self.path):
            return again_if_corrupt(in_transaction)

    @contextmanager
    def apart(self) -> Iterator[apsw.Connection]:
        """A reading connection of its own for something long, with none of what the others have cached."""
        self._require_usable()
        with translated(self.path):
            connection = connect(self._real, reads_only=True)
            try:
                yield connection
            finally:
                connection.close()

    def log(self) -> Path:
        """The file that every commit is written to first."""
        self._require_usable()
        return self._log

    def newest_version(self) -> int:
        """The version of the latest commit of any process, in some 4 µs."""
        self._require_usable()
        with self._newest_lock:
            try:
                return again_if_corrupt(lambda: newest_of(self._newest))
            except FAILURES as error:
                raise translation(error, self.path) from error

    def compact(self) -> int:
        """Rebuild the file without its gaps and empty the log; how many bytes that gave back."""
        self._require_usable()
        with self._commits.exclusively():
            self._require_usable()
            with translated(self.path), self._alone():
                self._writer.undo()  # what an interrupted commit may have left
                before = self._size()
                connection = self._writer.connection
                again_if_corrupt(lambda: connection.execute("VACUUM"))
                again_if_corrupt(lambda: connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE))
                return max(0, before - self._size())

    def close(self) -> None:
        """Close the connections and the lock file, after the operations under way; twice is no error."""
        if self._closed or os.getpid() != self._process:
            return  # a forked child must not touch its parent's connections
        with self._commits.exclusively(), self._read_lock, self._newest_lock, translated(self.path):
            self._closed = True
            for connection in (self._newest, self._reader, self._writer.connection):
                connection.close()
            self.drop_lock_file()

    def _commit(self, jobs: Sequence[Job]) -> None:
        """Settle all jobs; to be called by the leader of the queue."""
        try:
            self._require_usable()  # a job that queued behind the closing; its lock file may be another's by now
            fcntl.flock(self._lock_file, fcntl.LOCK_EX)
            if self._interrupted:
                self._writer.undo()
            self._interrupted = True
            self._forget_if_another_wrote()
            if len(jobs) == 1 or not self._together(jobs):
                for job in jobs:
                    self._by_itself(job)
            self._interrupted = False
        except Exception as error:  # noqa: BLE001  # raised by each caller, in its own thread
            for job in jobs:
                if not job.settled:
                    job.error, job.settled = error, True
        finally:
            if not self._closed:
                fcntl.flock(self._lock_file, fcntl.LOCK_UN)

    def _together(self, jobs: Sequence[Job]) -> bool:
        """All jobs in one transaction; False, with nothing done, when one of them fails."""
        try:
            self._writer.begin()
            for job in jobs:
                job.result = job.act(self._writer)
            self._finish()
        except Exception:  # noqa: BLE001  # whose fault it is shows when each is done by itself
            self._writer.undo()
            return False
        for job in jobs:
            job.settled = True
        return True

    def _by_itself(self, job: Job) -> None:
        try:
            again_if_corrupt(lambda: self._do(job))
        except Exception as error:  # noqa: BLE001  # raised by the caller, in its own thread
            job.error = error
        job.settled = True

    def _do(self, job: Job) -> None:
        try:
            if job.single and not self._writer.prunes:
                job.result = job.act(self._writer)
            else:
                self._writer.begin()
                job.result = job.act(self._writer)
                self._finish()
        except Exception as error:
            self._writer.undo()
            if isinstance(error, (apsw.IOError, apsw.FullError)) and not self._writer.bury():
                error.add_note("The disk takes no writes; should all processes die now, this write may come back.")
            raise

    def _finish(self) -> None:
        if self._writer.prunes:
            self._writer.prune()
        self._writer.commit()

    def _forget_if_another_wrote(self) -> None:
        # The token goes into the file before anything is committed: a writer that dies in between, or cannot write
        # it, leaves the others with a token that is not theirs, which costs them a question and nothing else.
        if os.pread(self._lock_file, _TOKEN_BYTES, 0) != self._token:
            self._writer.newest = None
            os.pwrite(self._lock_file, self._token, 0)

    @property
    def _log(self) -> Path:
        return Path(f"{self._real}-wal")

    def _size(self) -> int:
        log = self._log
        return self._real.stat().st_size + (log.stat().st_size if log.exists() else 0)

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
