from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.otel.collector import Collector, collecting

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as one:
        yield one
