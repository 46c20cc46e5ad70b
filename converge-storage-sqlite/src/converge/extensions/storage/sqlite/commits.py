"""Group commit: writers that wait at the same time share one transaction, and so one flush of the disk."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from converge.extensions.storage.sqlite.writer import Writer

__all__ = ["CommitQueue", "Job"]

_T = TypeVar("_T")
_TOGETHER = 256
_LOOK_AGAIN = 0.05  # seconds
_MAIN = threading.main_thread().ident


class Job:
    """What one caller wants written, and how that ended.

    `single` says that `act` writes with one statement at most, which is a transaction in itself. Whoever commits it
    settles it once its effect is certain: with `result`, or with the `error` that kept it from having any.
    """

    __slots__ = ("act", "error", "result", "settled", "single", "turn")

    def __init__(self, act: Callable[[Writer], object], *, single: bool) -> None:
        self.act = act
        self.single = single
        self.result: Any = None
        self.error: Exception | None = None
        self.settled = False
        self.turn: threading.Lock | None = None  # taken while there is nothing for the caller to look at

    def make_turn(self) -> None:
        """Let the caller be woken from now on."""
        turn = threading.Lock()
        turn.acquire()
        self.turn = turn

    def await_turn(self) -> None:
        """Return when somebody calls `wake`, or called it since `make_turn`, or after a while."""
        assert self.turn is not None
        self.turn.acquire(timeout=_LOOK_AGAIN)

    def wake(self) -> None:
        """Let the caller look again, if it waits."""
        if self.turn is not None and self.turn.locked():
            try:
                self.turn.release()
            except RuntimeError:
                return  # somebody else has just done so


class CommitQueue:
    """The threads that write through one database object.

    One leads: it commits its own job and those that have queued up by then, at most 256, in the order in which they
    came, and wakes the first of those that came meanwhile. There is no thread of its own.

    A KeyboardInterrupt may end the main thread's part at any instruction. So that it harms nobody else, the main
    thread commits no job but its own, a job stays in the queue until it is settled, and being woken is a hint: who
    waits looks again by itself now and then.
    """

    def __init__(self) -> None:
        self._leading = threading.Lock()
        self._waiting: deque[Job] = deque()

    def run(self, act: Callable[[Writer], _T], commit: Callable[[Sequence[Job]], None], *, single: bool = False) -> _T:
        """What `act` returns, once it is committed; or the error that kept it from having any effect.

        `commit` settles jobs and is the same for all callers. (To hold it here would tie a cycle around the database.)
        The main thread, when it is interrupted in here, does not learn how its job ended.
        """
        job = Job(act, single=single)
        behind_others = bool(self._waiting)
        if behind_others:
            job.make_turn()
        self._waiting.append(job)
        try:
            if behind_others:  # the first of them has been woken, or will be, and takes the rest along
                job.await_turn()
            while not job.settled:
                if self._leading.locked():
                    if job.turn is not None:
                        job.await_turn()
                    else:
                        job.make_turn()  # and look again: whoever did something meanwhile found no turn to call
                    continue
                with self._leading:  # no signal is handled between the taking and the block
                    if not job.settled:
                        self._lead(job, commit)
                if self._waiting:
                    self._wake_first()
        except BaseException:
            job.act = _nothing
            raise
        if job.error is not None:
            raise job.error
        return cast("_T", job.result)

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """The block runs while nobody commits."""
        try:
            with self._leading:
                yield
        finally:
            self._wake_first()

    def _lead(self, own: Job, commit: Callable[[Sequence[Job]], None]) -> None:
        if len(self._waiting) == 1 or threading.get_ident() == _MAIN:
            commit([own])
        else:
            commit([*self._waiting.copy()][:_TOGETHER])
        while self._waiting and self._waiting[0].settled:
            self._waiting.popleft().wake()

    def _wake_first(self) -> None:
        try:
            self._waiting[0].wake()
        except IndexError:
            return  # nobody waits any more


def _nothing(_: Writer) -> None:
    """What is left of a job whose caller was interrupted."""
