from __future__ import annotations

import re
from pathlib import Path

import pytest

from converge.plugins import KINDS, PluginManager, PluginOptionsError
from converge.plugins.kinds import GROUPS

TEXT = (Path(__file__).parents[3] / "docs" / "plugins.md").read_text()


def test_the_code_on_the_page_runs_from_top_to_bottom() -> None:
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) >= 4
    namespace: dict[str, object] = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, "docs/plugins.md", "exec", dont_inherit=True), namespace)


def test_the_page_names_each_kind_with_its_group() -> None:
    for kind in KINDS:
        assert f"| `{kind}` | `{GROUPS[kind]}` |" in TEXT


def test_the_error_shown_on_the_page_is_what_one_gets() -> None:
    namespace: dict[str, object] = {"__name__": "page"}
    exec(
        compile(re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)[1], "docs/plugins.md", "exec", dont_inherit=True),
        namespace,
    )
    manager = PluginManager()
    manager.override("store", "shelf", namespace["Shelf"])
    table = {"use": "shelf", "path": "p", "durabilty": "power", "size": "5"}
    with pytest.raises(PluginOptionsError) as caught:
        manager.build("store", table, where="converge.toml [store]")
    assert f"```text\n{caught.value}\n```" in TEXT
