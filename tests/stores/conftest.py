from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from tests.stores.harness import FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder for stores whose calls fail."""
    with TemporaryDirectory(dir=FOLDER) as folder:
        yield Path(folder)
