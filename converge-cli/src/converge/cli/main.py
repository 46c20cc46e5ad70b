"""The entry point, which imports a subcommand only when it is called."""

from __future__ import annotations

import importlib
import sys

import click

__all__ = ["cli", "main"]

_COMMANDS = {
    "approvals": "Allow or forbid what agents may not do by themselves.",
    "plugins": "List and check the plugins that are installed.",
    "run": "Run the agents of a config file.",
    "store": "See what a store holds, check it, copy it.",
}


class _LazyGroup(click.Group):
    """Knows its own subcommands by name and one line of help, and those of plugins by their metadata.

    `--help` imports none of them, so a plugin that is broken hurts only who calls its command. A plugin cannot replace
    a subcommand of our own.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*_COMMANDS, *_brought()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return _plugin_command(cmd_name)
        command = getattr(importlib.import_module(f"converge.cli.commands.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)  # our own modules
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted((_brought() | _COMMANDS).items()))


def _brought() -> dict[str, str]:
    """The subcommands of plugins that are enabled, each with the distributions it comes from."""
    from converge.plugins import default_manager

    found: dict[str, str] = {}
    for plugin in default_manager().list("command"):
        if plugin.disabled is None:
            earlier = f"{found[plugin.name]}, " if plugin.name in found else "Brought by "
            found[plugin.name] = f"{earlier}{plugin.distribution} {plugin.version}"
    return {name: f"{text}." for name, text in found.items()}


def _plugin_command(name: str) -> click.Command | None:
    """The subcommand that a plugin brings; None when there is none. An error of the plugin platform passes."""
    from converge.plugins import PluginBroken, PluginUnknown, default_manager

    try:
        command = default_manager().find("command", name)
    except PluginUnknown as error:
        if error.disabled or error.package:
            raise
        return None
    if not isinstance(command, click.Command):
        raise PluginBroken("command", name, reason=f"it is a {type(command).__name__}, not a click.Command")
    return command


def _version(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib.metadata import version

    click.echo(f"converge {version('converge-cli')} (core {version('converge-core')})")
    ctx.exit()


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Converge: agents with identities, tasks, pools and plugins."""


def main() -> None:
    """Run the command; an error of Converge is one line on standard error and exit code 2 (usage, config) or 1."""
    debug = "--debug" in sys.argv[1:]
    try:
        cli(prog_name="converge")
    except Exception as error:
        if debug:
            raise
        code = _exit_code(error)
        if code is None:
            raise
        from converge.cli.output import printable

        click.echo(f"Error: {printable(str(error), lines=True)}", err=True)
        sys.exit(code)


def _exit_code(error: Exception) -> int | None:
    """2 for what the user can mend in a file or on the command line, 1 for what went wrong, None for a bug of ours."""
    from converge.cli.errors import DestinationNotEmpty
    from converge.core.errors import ConvergeError
    from converge.plugins import PluginError
    from converge.runtime.errors import ConfigError

    if isinstance(error, (ConfigError, DestinationNotEmpty, FileNotFoundError, PluginError)):
        return 2
    return 1 if isinstance(error, (ConvergeError, OSError)) else None
