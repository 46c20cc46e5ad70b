"""The contract of stores as a test class. Inherit it, give one fixture, and every promise is tested.

class TestMyStore(StoreContract):
    @pytest.fixture
    def opener(self, tmp_path):
        return functools.partial(MyStore, tmp_path / "s")

A store whose content ends with the object gives `store` instead and declares `durable = False`.
"""

import pytest

_PARTS = (
    "care", "children", "crashes", "declarations", "feed", "fixtures", "life", "model", "processes", "replica",
    "threads", "values", "versions",
)  # fmt: skip
pytest.register_assert_rewrite(*(f"{__name__}.{part}" for part in _PARTS))  # so that a failure shows its values

from converge.testing.store.care import CareContract  # noqa: E402  # the rewriting has to come first
from converge.testing.store.crashes import CrashContract  # noqa: E402  # as above
from converge.testing.store.declarations import DeclarationContract  # noqa: E402  # as above
from converge.testing.store.feed import FeedContract  # noqa: E402  # as above
from converge.testing.store.life import LifeContract  # noqa: E402  # as above
from converge.testing.store.processes import ProcessContract  # noqa: E402  # as above
from converge.testing.store.threads import ThreadContract  # noqa: E402  # as above
from converge.testing.store.values import ValueContract  # noqa: E402  # as above
from converge.testing.store.versions import VersionContract  # noqa: E402  # as above

__all__ = ["StoreContract"]


class StoreContract(
    DeclarationContract,
    ValueContract,
    VersionContract,
    FeedContract,
    LifeContract,
    ThreadContract,
    CareContract,
    ProcessContract,
    CrashContract,
):
    """Every promise of `converge.core.store`, as tests. Declare what your store lacks; it shows as skipped."""
