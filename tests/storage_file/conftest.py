from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from converge.extensions.storage.file import FileStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(path: Path) -> Iterator[FileStore]:
    with FileStore(path) as store:
        yield store
