"""What a test class declares is what its store is."""
# these are tests, shipped to authors
# the name of a test is its sentence

from __future__ import annotations

from typing import TYPE_CHECKING

from converge.core.store import VersionedStore
from converge.testing.store.fixtures import StoreFixtures

if TYPE_CHECKING:
    from converge.core.store import Store

__all__ = ["DeclarationContract"]


class DeclarationContract(StoreFixtures):
    """A declaration that leaves tests out must be true."""

    def test_what_is_declared_is_what_the_store_says_of_itself(self, store: Store) -> None:
        assert isinstance(store, VersionedStore) is self.versioned, (
            f"the test class says versioned = {self.versioned}; {type(store).__name__} is another kind of store"
        )
        assert store.shared is self.is_shared(), (
            f"the test class says shared = {self.is_shared()}, {type(store).__name__}.shared is {store.shared!r}; "
            "make both tell the truth: whether several processes may open the same data at once"
        )
        assert isinstance(store.blocking, bool)
