"""The contract of stores as a test class. Inherit it, give the fixture `store`, and every promise is tested.

class TestMyStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        return MyStore(tmp_path)

    @pytest.fixture
    def reopen(self, tmp_path):
        def reopen(store):
            store.close()
            return MyStore(tmp_path)
        return reopen
"""

import pytest

_PARTS = ("feed", "fixtures", "life", "model", "values", "versions")
pytest.register_assert_rewrite(*(f"{__name__}.{part}" for part in _PARTS))  # so that a failure shows its values

from converge.testing.store.feed import FeedContract  # noqa: E402  # the rewriting has to come first
from converge.testing.store.life import LifeContract  # noqa: E402  # as above
from converge.testing.store.values import ValueContract  # noqa: E402  # as above
from converge.testing.store.versions import VersionContract  # noqa: E402  # as above

__all__ = ["StoreContract"]


class StoreContract(ValueContract, VersionContract, FeedContract, LifeContract):
    """Every promise of `converge.core.store`, as tests. Declare what your store lacks; it shows as skipped."""
