"""`converge plugins`: what is installed, and whether it can be imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import click

from converge.cli.output import print_json, printable
from converge.plugins import KINDS, PluginError, default_manager

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rich.console import Console

    from converge.plugins import CheckResult, PluginInfo

__all__ = ["plugins"]

_T = TypeVar("_T")
_COLOURS: Final = {"ok": "green", "installed": "green", "disabled": "yellow"}
_UNBROKEN: Final = 10_000

_kind = click.option("--kind", type=click.Choice(KINDS), help="Only plugins of this kind.")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")


@click.group()
def plugins() -> None:
    """List the installed plugins, or check that they can be imported."""


@plugins.command("list")
@_kind
@_as_json
def list_plugins(kind: str | None, as_json: bool) -> None:
    """Show the installed plugins. Nothing is imported."""
    found = _or_one_line(lambda: default_manager().list(kind))
    if as_json:
        print_json([_plain(plugin) for plugin in found])
    else:
        _print_table("target", [(plugin, plugin.target, *_state(plugin)) for plugin in found])


@plugins.command("check")
@_kind
@_as_json
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="Seconds after which an import is given up.",
)
def check_plugins(kind: str | None, as_json: bool, timeout: float) -> None:
    """Import each plugin in a process of its own.

    The exit code is 1 when one of them does not work; a disabled plugin is not counted.
    """
    results = _or_one_line(lambda: _check(kind, timeout, progress=not as_json))
    if as_json:
        outcomes = [
            {"status": each.status, "detail": each.detail, "seconds": round(each.seconds, 3)} for each in results
        ]
        print_json([_plain(each.plugin) | outcome for each, outcome in zip(results, outcomes, strict=True)])
    else:
        _print_table("time", [(each.plugin, f"{each.seconds:.1f} s", each.status, each.detail) for each in results])
    if not all(result.good for result in results):
        raise SystemExit(1)


def _or_one_line(action: Callable[[], list[_T]]) -> list[_T]:
    try:
        return action()
    except PluginError as error:  # a malformed list of disabled plugins
        raise click.ClickException(str(error)) from error


def _check(kind: str | None, timeout: float, *, progress: bool) -> list[CheckResult]:
    """The results in the order of the list, with a progress bar on a terminal's stderr meanwhile."""
    from rich.progress import Progress

    manager = default_manager()
    order = {_key(plugin): place for place, plugin in enumerate(manager.list(kind))}
    results = []
    with Progress(console=_console(stderr=True), transient=True, disable=not progress) as bar:
        task = bar.add_task("importing", total=len(order))
        for result in manager.check(kind, timeout):
            results.append(result)
            bar.advance(task)
    return sorted(results, key=lambda result: order.get(_key(result.plugin), len(order)))


def _key(plugin: PluginInfo) -> tuple[str, str, str, str]:
    return plugin.kind, plugin.name, plugin.distribution, plugin.target


def _state(plugin: PluginInfo) -> tuple[str, str]:
    if plugin.disabled is not None:
        return "disabled", plugin.disabled
    if plugin.clash:
        return "ambiguous", f"also offered by {', '.join(plugin.clash)}"
    return "installed", ""


def _plain(plugin: PluginInfo) -> dict[str, object]:
    from attrs import asdict

    return asdict(plugin)


def _print_table(third: str, rows: Iterable[tuple[PluginInfo, str, str, str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in ("kind", "name", "distribution", third, "state"):
        table.add_column(column, overflow="fold")
    for plugin, detail, state, reason in rows:
        cells = (plugin.kind, plugin.name, f"{plugin.distribution} {plugin.version}", detail)
        said = Text(printable(f"{state}: {reason}" if reason else state, lines=True), style=_COLOURS.get(state, "red"))
        table.add_row(*(Text(printable(cell, lines=True)) for cell in cells), said)
    _console().print(table if table.row_count else "No plugins are installed.")


def _console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal; where there is none, lines are left whole for whoever reads them."""
    from rich.console import Console

    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=_UNBROKEN)
