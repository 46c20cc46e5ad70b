"""The hook specifications: who answers for a name of each kind. This module needs pluggy; import it lazily."""

from __future__ import annotations

import pluggy

__all__ = ["PROJECT", "DriverSpecs", "hook_name", "hookimpl", "hookspec"]

PROJECT = "converge"
hookspec = pluggy.HookspecMarker(PROJECT)
"""Marks a hook specification."""
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a hook implementation of an object given to `PluginManager.register`."""


def hook_name(kind: str) -> str:
    """The hook that finds drivers of `kind`."""
    return f"converge_find_{kind}"


class DriverSpecs:
    """One hook per kind of driver; the first answer that is not None is taken.

    An implementation gets the name that was asked for and returns the driver (a class, a factory or an object), or
    None to leave the answer to the next one; the entry points are asked last. It must be quick and may be asked from
    any thread.
    """

    @hookspec(firstresult=True)
    def converge_find_transport(self, name: str) -> object | None:
        """The transport called `name`: what carries messages between agents."""

    @hookspec(firstresult=True)
    def converge_find_store(self, name: str) -> object | None:
        """The store called `name`: what keeps tasks, pools and checkpoints."""

    @hookspec(firstresult=True)
    def converge_find_executor(self, name: str) -> object | None:
        """The executor called `name`: what carries out the decisions of an agent."""

    @hookspec(firstresult=True)
    def converge_find_governance(self, name: str) -> object | None:
        """The governance model called `name`: how a pool settles disputes."""

    @hookspec(firstresult=True)
    def converge_find_tool(self, name: str) -> object | None:
        """The tool called `name`: what an agent may invoke."""

    @hookspec(firstresult=True)
    def converge_find_llm_provider(self, name: str) -> object | None:
        """The LLM provider called `name`: who answers a chat."""

    @hookspec(firstresult=True)
    def converge_find_admission(self, name: str) -> object | None:
        """The admission policy called `name`: who may join a pool."""

    @hookspec(firstresult=True)
    def converge_find_trust(self, name: str) -> object | None:
        """The trust model called `name`: how far an agent is trusted."""

    @hookspec(firstresult=True)
    def converge_find_agent(self, name: str) -> object | None:
        """The agent class called `name`."""

    @hookspec(firstresult=True)
    def converge_find_command(self, name: str) -> object | None:
        """The subcommand of `converge` called `name`: a `click.Command`."""

    @hookspec(firstresult=True)
    def converge_find_hooks(self, name: str) -> object | None:
        """The lifecycle listener called `name`: what wants to know of events in a runtime."""

    @hookspec(firstresult=True)
    def converge_find_handlers(self, name: str) -> object | None:
        """The handlers called `name`: what carries out decisions of kinds that core does not know."""
