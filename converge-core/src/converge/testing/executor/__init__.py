"""The contract of executors as a test class. Inherit it, give one fixture, and every promise is tested.

class TestMyExecutor(ExecutorContract):
    @pytest.fixture
    def make(self):
        return MyExecutor

`make` is called as a runtime calls an executor factory: `make(agent_id, network, task_manager, pool_manager, **more)`.
"""

import pytest

_PARTS = ("deciding", "extending", "fixtures", "invoking")
pytest.register_assert_rewrite(*(f"{__name__}.{part}" for part in _PARTS))  # so that a failure shows its values

from converge.testing.executor.deciding import DecidingContract  # noqa: E402  # the rewriting has to come first
from converge.testing.executor.extending import ExtendingContract  # noqa: E402  # as above
from converge.testing.executor.invoking import InvokingContract  # noqa: E402  # as above

__all__ = ["ExecutorContract"]


class ExecutorContract(DecidingContract, ExtendingContract, InvokingContract):
    """Every promise of `converge.runtime.executor.Executor`, as tests. What one declares to lack is skipped."""
