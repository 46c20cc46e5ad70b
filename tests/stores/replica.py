"""What one gets who only follows the feed of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from converge.core.follower import Follower
from converge.core.store import DELETED

if TYPE_CHECKING:
    from converge.core.plain import Plain
    from converge.core.store import VersionedStore

__all__ = ["Replica"]


class Replica:
    """The content of a store, kept by its changes alone."""

    def __init__(self, store: VersionedStore) -> None:
        self._follower = Follower(store, "")
        self.content: dict[str, Plain] = {}
        self.poll()

    def poll(self) -> dict[str, Plain]:
        """The content after the changes since the last time."""
        empty, changes = self._follower.poll()
        if empty:
            self.content.clear()
        for key, value, _ in changes:
            self.content.pop(key, None)
            if value is not DELETED:
                self.content[key] = value
        return self.content
