"""The contract of LLM providers as a test class. Inherit it, give the provider and its vendor, and get every test.

class TestAcme(LLMProviderContract):
    @pytest.fixture
    def vendor(self):
        with acme_server() as server:  # answers on loopback as the vendor would; see `Vendor`
            yield server

    @pytest.fixture
    def subject(self, vendor):
        return AcmeProvider("a-key", base_url=vendor.url)

A provider that has `chat` only needs the one or the other; what it lacks is skipped. Nothing of converge-llm is
imported before a test needs it.
"""

import pytest

_PARTS = ("asking", "contract", "failing", "fixtures")
pytest.register_assert_rewrite(*(f"{__name__}.{part}" for part in _PARTS))  # so that a failure shows its values

from converge.testing.llm.contract import LLMProviderContract  # noqa: E402  # the rewriting has to come first
from converge.testing.llm.fixtures import Answer, Failure, FunctionCall, Vendor  # noqa: E402  # as above

__all__ = ["Answer", "Failure", "FunctionCall", "LLMProviderContract", "Vendor"]
