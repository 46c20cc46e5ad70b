"""The contract of tools as a test class. Inherit it, give the tool and an example, and every promise is tested.

class TestWordCount(ToolContract):
    examples = (Example({"text": "a b a"}, {"a": 2, "b": 1}),)
    refused = ({}, {"text": 5})

    @pytest.fixture
    def subject(self):
        return word_count
"""

import pytest

_PARTS = ("calling", "contract", "fixtures")
pytest.register_assert_rewrite(*(f"{__name__}.{part}" for part in _PARTS))  # so that a failure shows its values

from converge.testing.tool.contract import ToolContract  # noqa: E402  # the rewriting has to come first
from converge.testing.tool.fixtures import Example  # noqa: E402  # as above

__all__ = ["Example", "ToolContract"]
