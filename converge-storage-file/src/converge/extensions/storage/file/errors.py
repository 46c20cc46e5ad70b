"""The error of a file store about its folder; those of the system stay `OSError`."""

from __future__ import annotations

from converge.core.errors import StoreError

__all__ = ["StoreFolderError"]


class StoreFolderError(StoreError, ValueError):
    """A file that the store keeps for itself is damaged beyond its own repair. Attributes: `path`, `reason`."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[type[StoreFolderError], tuple[str, str]]:
        return type(self), (self.path, self.reason)
