from __future__ import annotations

import pickle

import pytest

from converge.network.errors import TransportClosed, Undeliverable


@pytest.mark.parametrize(
    "error", [Undeliverable("bob", "gone"), Undeliverable(None, "full"), TransportClosed("stopped")]
)
def test_network_errors_survive_pickle(error: Exception) -> None:
    restored = pickle.loads(pickle.dumps(error))
    assert (type(restored), str(restored), vars(restored)) == (type(error), str(error), vars(error))


def test_undeliverable_names_the_recipient_and_the_reason_and_is_a_connection_error() -> None:
    error = Undeliverable("bob", "it is gone")
    assert str(error) == "message to bob not sent: it is gone"
    assert (error.recipient, error.reason) == ("bob", "it is gone")
    assert isinstance(error, ConnectionError)
    assert str(Undeliverable(None, "it is gone")) == "message not sent: it is gone"
