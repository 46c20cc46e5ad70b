from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize(
    ("page", "printed"),
    [
        ("messages.md", ["to you\nto subscribers\nto everybody\n", "{'sum': 3}\n"]),
        ("discovery.md", ["['reviewer']\n"]),
    ],
)
def test_each_example_of_the_page_runs(page: str, printed: list[str]) -> None:
    found = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    for code, expected in zip(found, printed, strict=True):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True, timeout=60
        )
        assert done.stdout == expected


def test_every_refusal_that_can_be_counted_is_in_the_table() -> None:
    import inspect

    from converge.network.replay_window import ReplayWindow
    from converge.network.transport.base import Transport

    code = inspect.getsource(Transport) + inspect.getsource(ReplayWindow)
    reasons = set(re.findall(r'return "(\w+)"', code)) | {"malformed"}
    table = set(re.findall(r"`refused_(\w+)`", (DOCS / "messages.md").read_text()))
    assert reasons == table
