"""The fixtures of the contract, what a store may declare, and what the tests share."""
# these are tests, shipped to authors
# the name of a test is its sentence

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, ClassVar

import pytest

from converge.core.store import Store, VersionedStore

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["StoreFixtures", "in_threads", "version_of"]


class StoreFixtures:
    """What the author of a store gives and declares."""

    versioned: ClassVar[bool] = True
    """False for a store with the four methods of `Store` only."""
    durable: ClassVar[bool] = True
    """False for a store whose content ends with the object; a durable one gives the fixture `reopen`."""
    closes: ClassVar[bool] = True
    """False for a store that goes on working after `close()`."""
    random_histories: ClassVar[int] = 30
    """How many random histories of 30 operations are compared with a dict."""

    @pytest.fixture
    def store(self) -> Store:
        """An empty store; yours."""
        raise NotImplementedError("override the fixture `store`: it gives an empty store")

    @pytest.fixture
    def reopen(self) -> Callable[[Store], Store] | None:
        """A function that closes a store and opens its data again; yours, if the store is durable."""
        if self.durable:
            raise NotImplementedError("override the fixture `reopen`, or declare `durable = False`")
        return None

    @pytest.fixture
    def feed(self, store: Store) -> VersionedStore:
        """`store` as a versioned one; skips the test when it is none."""
        if not self.versioned:
            pytest.skip("the store declares versioned = False")
        assert isinstance(store, VersionedStore), "not a VersionedStore: derive from it, or declare versioned = False"
        return store


def version_of(store: VersionedStore, key: str) -> int:
    """The version of `key`, which is there."""
    found = store.get_versioned(key)
    assert found is not None
    return found[1]


def in_threads(work: Callable[[int], None]) -> None:
    """Run `work(0)` to `work(3)` from one instant on, and raise what one of them raised."""
    barrier, errors = threading.Barrier(4), []

    def run(number: int) -> None:
        barrier.wait()
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001  # raised again in the thread of the test
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
