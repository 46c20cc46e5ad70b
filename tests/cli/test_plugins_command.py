from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from converge.cli.commands.plugins import plugins
from tests.core.plugins.conftest import OURS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

    Install = Callable[..., None]

GOOD = "class Store:\n    pass\n"
EXPLODING = "raise SystemExit('imported')\n"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a dummy distribution with one store plugin into a folder on the path."""
    monkeypatch.delenv("CONVERGE_DISABLE_PLUGINS", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(name: str, source: str, distribution: str = "", group: str = "converge.stores") -> None:
        distribution = distribution or f"dummy-{name}"
        module = f"cli_{distribution}_{name}".replace("-", "_")
        info = tmp_path / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}:Store\n")
        (tmp_path / f"{module}.py").write_text(source)

    return install


def run(*arguments: str) -> Result:
    return CliRunner().invoke(plugins, arguments)


def rows(output: str) -> dict[str, list[str]]:
    """The lines of a table by the name of the plugin."""
    lines = [line.split() for line in output.splitlines()]
    return {line[1]: line for line in lines if len(line) > 1}


def dummies(output: str) -> list[dict[str, object]]:
    return [row for row in json.loads(output) if row["distribution"].startswith("dummy")]


def test_list_shows_what_is_installed_and_imports_nothing(install: Install) -> None:
    install("shelf", EXPLODING)
    result = run("list")
    assert result.exit_code == 0
    assert rows(result.output)["shelf"] == [
        "store",
        "shelf",
        "dummy-shelf",
        "1.0",
        "cli_dummy_shelf_shelf:Store",
        "installed",
    ]
    assert rows(result.output)["memory"][:3] == ["store", "memory", "converge-core"]
    assert not [name for name in sys.modules if name.startswith("cli_dummy")]


def test_list_shows_one_kind_only_when_asked(install: Install) -> None:
    install("shelf", EXPLODING)
    install("hammer", EXPLODING, group="converge.tools")
    assert {line[0] for line in rows(run("list", "--kind", "tool").output).values()} >= {"tool"}
    assert "shelf" not in run("list", "--kind", "tool").output
    assert run("list", "--kind", "tools").exit_code == 2
    assert run("list", "--kind", "handlers").output == "No plugins are installed.\n"


def test_list_says_what_is_disabled_and_what_clashes(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("shelf", EXPLODING)
    install("same", EXPLODING, "dummy-one")
    install("same", EXPLODING, "dummy-two")
    monkeypatch.setenv("CONVERGE_DISABLE_PLUGINS", "dummy-shelf")
    output = run("list").output
    assert "disabled: CONVERGE_DISABLE_PLUGINS (dummy-shelf)" in output
    assert "ambiguous: also offered by dummy-one" in output
    assert "ambiguous: also offered by dummy-two" in output


def test_list_prints_json_for_scripts(install: Install) -> None:
    install("shelf", EXPLODING)
    assert dummies(run("list", "--json").output) == [
        {
            "kind": "store",
            "name": "shelf",
            "distribution": "dummy-shelf",
            "version": "1.0",
            "target": "cli_dummy_shelf_shelf:Store",
            "disabled": None,
            "clash": [],
        }
    ]


def test_check_succeeds_when_every_plugin_can_be_imported(install: Install) -> None:
    install("shelf", GOOD, group="converge.tools")
    result = run("check", "--kind", "tool")
    assert result.exit_code == 0
    assert rows(result.output)["shelf"][-1] == "ok"


def test_check_fails_and_names_each_plugin_that_does_not_work(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("good", GOOD)
    install("bad", EXPLODING)
    install("hanging", "import time; time.sleep(600)")
    install("off", EXPLODING)
    monkeypatch.setenv("CONVERGE_DISABLE_PLUGINS", ", ".join(["store:off", *OURS]))
    result = run("check", "--kind", "store", "--timeout", "2")
    assert result.exit_code == 1
    assert "broken: the store plugin 'bad' (dummy-bad 1.0, cli_dummy_bad_bad:Store) cannot be loaded" in result.output
    assert "timeout: its import was not done after 2 s and was killed" in result.output
    assert "disabled: CONVERGE_DISABLE_PLUGINS (store:off)" in result.output
    assert [name for name in rows(result.output) if name in ("bad", "good", "hanging", "off")] == [
        "bad",
        "good",
        "hanging",
        "off",
    ]


def test_check_prints_json_for_scripts_and_still_fails(install: Install) -> None:
    install("good", GOOD)
    install("bad", EXPLODING)
    result = run("check", "--kind", "store", "--json")
    assert result.exit_code == 1
    bad, good = dummies(result.output)
    assert (bad["name"], bad["status"], good["name"], good["status"]) == ("bad", "broken", "good", "ok")
    assert "SystemExit" in str(bad["detail"])
    assert isinstance(good["seconds"], float)


def test_disabled_plugins_are_no_failure(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("off", EXPLODING, group="converge.tools")
    monkeypatch.setenv("CONVERGE_DISABLE_PLUGINS", "dummy-off")
    assert run("check", "--kind", "tool").exit_code == 0


@pytest.mark.parametrize("command", ["list", "check"])
def test_a_malformed_list_of_disabled_plugins_is_one_readable_line(
    install: Install, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    install("shelf", GOOD)
    monkeypatch.setenv("CONVERGE_DISABLE_PLUGINS", "stor:x")
    result = run(command)
    assert result.exit_code == 1
    assert result.output.startswith("Error: CONVERGE_DISABLE_PLUGINS: 'stor:x': 'stor' is no plugin kind;")
    assert len(result.output.splitlines()) == 1


def test_foreign_names_cannot_command_the_terminal(install: Install, tmp_path: Path) -> None:
    install("shelf", EXPLODING)
    points = tmp_path / "dummy_shelf-1.0.dist-info" / "entry_points.txt"
    points.write_text("[converge.stores]\n[red]evil\x1b[2J = a:b\n")
    output = run("list").output
    assert "\x1b" not in output
    assert "[red]evil\\x1b[2J" in output


def test_a_timeout_is_a_positive_number() -> None:
    assert run("check", "--timeout", "0").exit_code == 2
