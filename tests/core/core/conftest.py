from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest

from converge.core import ed25519, wire
from converge.core.verified_trees import VerifiedTrees


@pytest.fixture(params=["cryptography", "pynacl"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Everything of Ed25519 goes through this backend; what the other one made or verified is forgotten."""
    module = importlib.import_module(f"converge.core.ed25519_{request.param}")
    monkeypatch.setattr(ed25519, "_backend", module)
    monkeypatch.setattr(wire, "_verified_trees", VerifiedTrees())
    ed25519.load_public_key.cache_clear()
    yield module.NAME
    ed25519.load_public_key.cache_clear()
