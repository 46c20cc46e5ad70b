"""What the page on tools says is so: its code runs, its figures are those of the code, its class passes its tests."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import attrs
import pytest

from converge.core.tool_call import ToolCall, calling
from converge.core.tools import ISOLATIONS
from converge.runtime.execution import check_execution
from converge.runtime.executor_options import ProcessExecutorOptions, StandardExecutorOptions
from converge.runtime.tools.calls import DEFAULT_TOOL_TIMEOUT_SEC
from converge.runtime.tools.limits import MAX_RESULT_BYTES, ToolLimits
from converge.runtime.tools.pool import DEFAULT_WORKERS, IDLE_SEC
from converge.runtime.tools.process import LOAD_TIMEOUT_SEC
from converge.testing.tool import ToolContract

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "tools.md").read_text()
CONFIGURATION = (DOCS / "configuration.md").read_text()
RUNTIME = (DOCS / "runtime.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_tools_on_the_page_can_be_called() -> None:
    count, pay, _ = BLOCKS
    made: dict[str, object] = {"__name__": "page"}
    exec(compile(count, "docs/tools.md", "exec", dont_inherit=True), made)
    exec(compile(pay, "docs/tools.md", "exec", dont_inherit=True), made)
    assert made["word_count"].run({"text": "a b a"}) == {"a": 2, "b": 1}  # type: ignore[attr-defined]  # a tool
    assert made["word_count"].parameters["properties"]["longest"]["default"] == 40  # type: ignore[attr-defined]  # as above
    with calling(ToolCall("pay", "me", "t:1:2")):
        assert made["pay"].run({"account": "a", "amount": 3}).endswith("Idempotency-Key: t:1:2")  # type: ignore[attr-defined]  # as above


def test_the_contract_on_the_page_passes_for_the_tool_on_the_page(tmp_path: Path) -> None:
    count, _, contract = BLOCKS
    (tmp_path / "acme_words.py").write_text(count)
    (tmp_path / "test_words.py").write_text(f"from acme_words import word_count\n{contract}")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "test_words.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    promises = [name for name in dir(ToolContract) if name.startswith("test_")]
    assert f"{len(promises)} passed" in done.stdout


def test_every_place_where_a_tool_runs_is_on_the_page() -> None:
    assert set(re.findall(r'^\| `"(\w+)"` \|', PAGE, re.MULTILINE)) == set(ISOLATIONS)


def test_the_figures_on_the_page_are_those_of_the_code() -> None:
    for field in attrs.fields(ToolLimits):
        shown = "no limit" if field.default is None else field.default
        assert f"| `{field.name}` | {shown} |" in PAGE
    assert f"`tool_timeout_sec` of the executor ({DEFAULT_TOOL_TIMEOUT_SEC:.0f} s)" in PAGE
    assert f"importing the module has {LOAD_TIMEOUT_SEC:.0f} s of its own" in PAGE
    assert f"share {DEFAULT_WORKERS} processes" in PAGE
    assert f"idle for {IDLE_SEC:.0f} s is ended" in PAGE
    assert MAX_RESULT_BYTES == 1024 * 1024
    assert "`max_result_bytes` (1 MiB)" in PAGE


def test_every_option_of_the_executors_is_in_the_table_of_the_configuration() -> None:
    table = CONFIGURATION.partition('Options of the executors `"standard"` and `"process"`')[2].partition("No other")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == {
        field.name for field in attrs.fields(StandardExecutorOptions)
    }
    missing = {field.name for field in attrs.fields(StandardExecutorOptions)} - {
        field.name for field in attrs.fields(ProcessExecutorOptions)
    }
    assert missing == {"tool_isolation"}
    assert f"`{StandardExecutorOptions().tool_timeout_sec}`" in table
    assert f"`{StandardExecutorOptions().max_result_bytes}`" in table


def test_the_configuration_on_the_page_is_one(tmp_path: Path) -> None:
    from converge.plugins import default_manager
    from converge.runtime.config import load_config

    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert tomllib.loads(text)["agents"][0]["tools"] == ["search", {"use": "fetch", "retries": 2}]
    file = tmp_path / "converge.toml"
    file.write_text(re.sub(r"^tools = .*$", "", text, flags=re.MULTILINE))  # those are somebody's
    check_execution(default_manager(), load_config(file, environment={}))


async def test_the_handlers_on_the_page_of_the_runtime_carry_out_what_they_say() -> None:
    from converge.runtime.errors import Refused

    (block,) = re.findall(r"```python\n(.*?)```", RUNTIME, re.DOTALL)
    made: dict[str, object] = {"__name__": "page"}
    exec(compile(block, "docs/runtime.md", "exec", dont_inherit=True), made)
    ((kind, shout),) = made["HANDLERS"].items()  # type: ignore[attr-defined]  # a mapping
    assert await shout(kind("hey")) == "HEY"
    with pytest.raises(Refused):
        await shout(kind(""))
