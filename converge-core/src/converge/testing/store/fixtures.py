"""The fixtures of the contract, what a store may declare, and what the tests share."""
# these are tests, shipped to authors
# the name of a test is its sentence

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, ClassVar

import pytest

from converge.core.store import Store, VersionedStore
from converge.testing.store.children import Call, Children

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["StoreFixtures", "in_threads", "switching_often", "version_of"]


class StoreFixtures:
    """What the author of a store gives and declares."""

    versioned: ClassVar[bool] = True
    """False for a store with the four methods of `Store` only."""
    durable: ClassVar[bool] = True
    """False for a store whose content ends with the object."""
    shared: ClassVar[bool | None] = None
    """False for a durable store that one process uses at a time, True for one that is shared without being durable.
    Where nothing is said, a store is shared if it is durable."""
    closes: ClassVar[bool] = True
    """False for a store that goes on working after `close()`."""
    random_histories: ClassVar[int] = 30
    """How many random histories of 30 operations are compared with a dict."""
    processes: ClassVar[int] = 4
    """How many processes race. 0 leaves out every test with processes: for a variant of a store that another class
    tests in full."""
    kills: ClassVar[int] = 12
    """How many writers are killed."""
    patience: ClassVar[float] = 30.0
    """After how many seconds a call, or a process, is taken for blocked."""

    @pytest.fixture
    def opener(self) -> Callable[[], Store] | None:
        """A callable without arguments that opens the same data at each call; yours, if they are durable or shared.

        Other processes call it too, so it can be pickled: `functools.partial(MyStore, tmp_path / "s")`.
        """
        return None

    @pytest.fixture
    def store(self, opener: Callable[[], Store] | None) -> Iterator[Store]:
        """An empty store; yours, if you give no `opener`."""
        if opener is None:
            raise NotImplementedError("override the fixture `opener`, or `store` for a store of one process")
        with opener() as store:
            yield store

    @pytest.fixture
    def reopen(self, opener: Callable[[], Store] | None) -> Iterator[Callable[[Store], Store] | None]:
        """A function that closes a store and opens its data again; None if the store is not durable."""
        if not self.durable:
            yield None
            return
        if opener is None:
            raise NotImplementedError("override the fixture `opener` (or `reopen`), or declare `durable = False`")
        with ExitStack() as opened:

            def reopen(store: Store) -> Store:
                store.close()
                return opened.enter_context(opener())

            yield reopen

    @pytest.fixture
    def feed(self, store: Store) -> VersionedStore:
        """`store` as a versioned one; skips the test when it is none."""
        if not self.versioned:
            pytest.skip("the store declares versioned = False")
        assert isinstance(store, VersionedStore), "not a VersionedStore: derive from it, or declare versioned = False"
        return store

    @pytest.fixture
    def together(self, store: Store, opener: Callable[[], Store] | None) -> Iterator[list[Store]]:
        """Four references to the data: `store` twice, and two other objects; skips when the store is not shared."""
        opener = self._opener_of_shared(opener)
        with opener() as third, opener() as fourth:
            yield [store, store, third, fourth]

    @pytest.fixture
    def children(self, opener: Callable[[], Store] | None) -> Iterator[Children]:
        """Starts processes that open the same data; skips when the store is not shared."""
        opener = self._opener_of_shared(opener)
        if not self.processes:
            pytest.skip("the class declares processes = 0")
        with Children(opener, self.patience) as children:
            yield children

    def is_shared(self) -> bool:
        """What the class declares, or what follows from `durable`."""
        return self.durable if self.shared is None else self.shared

    def _opener_of_shared(self, opener: Callable[[], Store] | None) -> Callable[[], Store]:
        if not self.is_shared():
            declared = "durable = False, and not shared = True" if self.shared is None else "shared = False"
            pytest.skip(f"the store declares {declared}")
        if opener is None:
            raise NotImplementedError("a shared store gives the fixture `opener`; or declare `shared = False`")
        return opener


def version_of(store: VersionedStore, key: str) -> int:
    """The version of `key`, which is there."""
    found = store.get_versioned(key)
    assert found is not None
    return found[1]


def in_threads(work: Callable[[int], None], patience: float = 120.0) -> None:
    """Run `work(0)` to `work(3)` from one instant on, and raise what one of them raised."""
    barrier = threading.Barrier(4)

    def run(number: int) -> None:
        barrier.wait()
        work(number)

    with switching_often():
        calls = [Call(lambda number=number: run(number)) for number in range(4)]  # type: ignore[misc]  # a default that binds
        for call in calls:
            call.ended(patience)
    for call in calls:
        call.result(0)


@contextmanager
def switching_often() -> Iterator[None]:
    """Let threads of this process alternate many times a millisecond, so that a race that is there is met."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, 1e-5))
    try:
        yield
    finally:
        sys.setswitchinterval(before)
