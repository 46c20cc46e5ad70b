from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

from converge.observability.errors import MetricError, ReplayLogError

HEAVY = ("cattrs", "cryptography", "pluggy", "msgpack", "importlib_metadata", "asyncio", "converge.core.message")


@pytest.mark.parametrize("module", ["logging", "metrics", "replay", "tracing"])
def test_importing_observability_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, converge.observability.{module}; print(*(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("error", [MetricError("wrong"), ReplayLogError("path", 3, "cut")])
def test_observability_errors_survive_pickle(error: Exception) -> None:
    restored = pickle.loads(pickle.dumps(error))
    assert (type(restored), str(restored), vars(restored)) == (type(error), str(error), vars(error))
