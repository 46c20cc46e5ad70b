"""The contract of transports as a test class. Inherit it, give one fixture, and every promise is tested.

class TestMyTransport(TransportContract):
    @pytest.fixture
    def medium(self):
        @asynccontextmanager
        async def medium():
            async with MyServer() as server:
                yield Medium(lambda identity: MyTransport(identity.fingerprint, server.uri, identity))
        return medium
"""

import pytest

_PARTS = ("acknowledging", "bounds", "fixtures", "life", "processes", "receiving", "routing", "verifying")
pytest.register_assert_rewrite(*(f"{__name__}.{part}" for part in _PARTS))  # so that a failure shows its values

from converge.testing.transport.acknowledging import AcknowledgeContract  # noqa: E402  # the rewriting has to come first
from converge.testing.transport.bounds import BoundsContract  # noqa: E402  # as above
from converge.testing.transport.fixtures import Medium  # noqa: E402  # as above
from converge.testing.transport.life import LifeContract  # noqa: E402  # as above
from converge.testing.transport.processes import ProcessContract  # noqa: E402  # as above
from converge.testing.transport.receiving import ReceivingContract  # noqa: E402  # as above
from converge.testing.transport.routing import RoutingContract  # noqa: E402  # as above
from converge.testing.transport.verifying import VerifyingContract  # noqa: E402  # as above

__all__ = ["Medium", "TransportContract"]


class TransportContract(
    LifeContract,
    RoutingContract,
    ReceivingContract,
    VerifyingContract,
    BoundsContract,
    AcknowledgeContract,
    ProcessContract,
):
    """Every promise of `converge.network.transport.base`, as tests. What a transport declares not to do is skipped."""
