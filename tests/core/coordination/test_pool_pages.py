"""The examples of the pages on pools and trust do what their comments say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[3] / "docs"
PRINTED = re.compile(r"^ *print\(.*\)  # ([^:\n]+)", re.MULTILINE)


@pytest.mark.parametrize("page", ["pools", "trust"])
def test_the_examples_print_what_they_say(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL)
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)
    printed = capsys.readouterr().out.splitlines()
    if page == "pools":
        assert printed[:3] == ["True"] * 3
        printed = printed[2:]
    assert printed == PRINTED.findall("".join(blocks))
