"""A distribution brings a subcommand: its name is listed without an import, and a broken one hurts its caller only."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Converge
    from tests.core.plugins.conftest import Site

GREET = """
import click

@click.command()
@click.argument("name")
def greet(name):
    "Say hello to NAME."
    click.echo(f"hello {name}")
"""


def install(site: Site, name: str, source: str, distribution: str) -> None:
    module = distribution.replace("-", "_")
    site.install(distribution, f"[converge.commands]\n{name} = {module}:{name}\n", {module: source})


def test_a_command_of_a_plugin_runs_and_has_help(converge: Converge, site: Site) -> None:
    install(site, "greet", GREET, "acme-greet")
    assert converge("greet", "you").out == "hello you\n"
    assert "Say hello to NAME." in converge("greet", "--help").out
    refused = converge("greet")
    assert (refused.code, "Missing argument" in refused.err) == (2, True)


def test_help_lists_it_with_its_distribution_and_imports_nothing(converge: Converge, site: Site) -> None:
    install(site, "greet", "raise SystemExit('imported')\n", "acme-greet")
    shown = converge("--help")
    assert shown.code == 0
    assert re.search(r"greet +Brought by acme-greet 1\.0\.", shown.out)
    assert re.search(r"hub +Brought by converge-websocket", shown.out)


def test_a_broken_one_is_one_line_for_its_caller_and_nothing_for_others(converge: Converge, site: Site) -> None:
    install(site, "greet", "raise RuntimeError('no luck')\n", "acme-greet")
    failed = converge("greet", "you")
    assert failed.code == 2
    assert failed.err.startswith(
        "Error: the command plugin 'greet' (acme-greet 1.0, acme_greet:greet) cannot be loaded"
    )
    assert "no luck" in failed.err
    assert len(failed.err.splitlines()) == 1
    assert converge("plugins", "list").code == 0


def test_what_is_no_command_is_said_to_be_none(converge: Converge, site: Site) -> None:
    install(site, "greet", "greet = 5\n", "acme-greet")
    assert "it is a int, not a click.Command" in converge("greet").err


def test_two_of_one_name_are_listed_and_neither_runs(converge: Converge, site: Site) -> None:
    install(site, "greet", GREET, "acme-greet")
    install(site, "greet", GREET, "other-greet")
    assert "Brought by acme-greet 1.0, other-greet 1.0." in converge("--help").out
    assert "other-greet" in converge("greet", "you").err


def test_a_plugin_cannot_replace_a_command_of_ours(converge: Converge, site: Site) -> None:
    install(site, "plugins", "plugins = 5\n", "acme-plugins")
    assert converge("plugins", "list").code == 0
    assert "List and check the plugins" in converge("--help").out


def test_one_that_is_disabled_is_not_listed_and_says_by_what(
    converge: Converge, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site, "greet", GREET, "acme-greet")
    monkeypatch.setenv("CONVERGE_DISABLE_PLUGINS", "acme-greet")
    assert "greet" not in converge("--help").out
    assert "is disabled by CONVERGE_DISABLE_PLUGINS" in converge("greet", "you").err


def test_an_unknown_command_is_unknown(converge: Converge) -> None:
    assert "No such command 'nonsense'" in converge("nonsense").err
