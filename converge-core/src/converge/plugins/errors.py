"""The errors of `converge.plugins`.

    PluginError
    ├── PluginUnknown       (LookupError)   nothing enabled has this kind and name
    ├── PluginBroken        (RuntimeError)  it is installed, and importing it fails
    ├── PluginAmbiguous     (ValueError)    two distributions offer this kind and name
    ├── PluginIncompatible  (RuntimeError)  it was written for another plugin API
    └── PluginOptionsError  (ValueError)    its options are not what it takes

The text of an error is made from its attributes when it is shown, so `where` may be set by whoever knows the place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from converge.core.errors import ConvergeError
from converge.plugins.kinds import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "PluginAmbiguous",
    "PluginBroken",
    "PluginError",
    "PluginIncompatible",
    "PluginOptionsError",
    "PluginUnknown",
    "join_path",
    "join_place",
]

_OURS: Final = {
    ("store", "sqlite"): "converge-storage-sqlite",
    ("store", "file"): "converge-storage-file",
    ("transport", "websocket"): "converge-websocket",
    ("llm_provider", "openai"): "'converge-llm[openai]'",
    ("llm_provider", "anthropic"): "'converge-llm[anthropic]'",
    ("llm_provider", "mistral"): "'converge-llm[mistral]'",
    ("llm_provider", "fallback"): "converge-llm",
    ("llm_provider", "recording"): "converge-llm",
    ("llm_provider", "retrying"): "converge-llm",
    ("llm_provider", "scripted"): "converge-llm",
    ("agent", "llm"): "converge-llm",
    ("command", "hub"): "converge-websocket",
    ("hooks", "otel"): "converge-otel",
    ("tool", "mcp"): "converge-mcp",
    ("command", "mcp"): "converge-mcp",
}
"""What to install for a plugin of our own. A hint never repeats what the user typed: that name may be anybody's."""


class PluginError(ConvergeError):
    """Base of what goes wrong with a plugin.

    Attributes: `kind`, `name`, `distribution`, `version` and `target` (`module:attribute`) of the plugin, each empty
    when it is not known; `where` is the place in the configuration that asked for it.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        *,
        distribution: str = "",
        version: str = "",
        target: str = "",
        where: str = "",
    ) -> None:
        super().__init__(kind, name)
        self.kind, self.name = kind, name
        self.distribution, self.version, self.target = distribution, version, target
        self.where = where

    def __str__(self) -> str:
        return f"{self.where}: {self._text()}" if self.where else self._text()

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (type(self), self.args, self.__dict__.copy())

    def _text(self) -> str:
        return f"{self._subject()} failed"

    def _subject(self) -> str:
        source = ", ".join(filter(None, (f"{self.distribution} {self.version}".strip(), self.target)))
        return f"the {self.kind} plugin {self.name!r}" + (f" ({source})" if source else "")


def _restore(cls: type[PluginError], args: tuple[object, ...], state: dict[str, object]) -> PluginError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(state)
    return error


class PluginUnknown(PluginError, LookupError):
    """No enabled plugin has this kind and name.

    Attributes: `installed`, the names that do exist, and `disabled`, why this one is blocked (empty: it is not there).
    """

    def __init__(
        self,
        kind: str,
        name: str,
        *,
        installed: Sequence[str] = (),
        disabled: str = "",
        distribution: str = "",
        where: str = "",
    ) -> None:
        super().__init__(kind, name, distribution=distribution, where=where)
        self.installed, self.disabled = tuple(installed), disabled

    @property
    def package(self) -> str:
        """What to install when it is a plugin of Converge's own distributions; else empty."""
        return _OURS.get((self.kind, self.name), "")

    def _text(self) -> str:
        if self.disabled:
            return f"{self._subject()} is disabled by {self.disabled}; remove that entry to use it"
        names = ", ".join(self.installed) or "none"
        hint = did_you_mean(self.name, self.installed)
        step = (
            f"Install it: pip install {self.package}" if self.package else "`converge plugins list` shows all of them"
        )
        return f"no {self.kind} plugin is named {self.name!r}; installed: {names}.{hint} {step}"


class PluginBroken(PluginError, RuntimeError):
    """The plugin is installed and cannot be loaded. Attribute: `reason`. The cause is chained."""

    def __init__(
        self,
        kind: str,
        name: str,
        *,
        reason: str,
        distribution: str = "",
        version: str = "",
        target: str = "",
        where: str = "",
    ) -> None:
        super().__init__(kind, name, distribution=distribution, version=version, target=target, where=where)
        self.reason = reason

    def _text(self) -> str:
        owner = self.distribution
        check = f"reinstall or update {owner}, or run `converge plugins check --kind {self.kind}`"
        return f"{self._subject()} cannot be loaded: {self.reason}; {check if owner else 'its author has to repair it'}"


class PluginAmbiguous(PluginError, ValueError):
    """Two plugins have one kind and name. Attribute: `candidates`, triples (distribution, version, target)."""

    def __init__(
        self, kind: str, name: str, *, candidates: Sequence[tuple[str, str, str]] = (), where: str = ""
    ) -> None:
        super().__init__(kind, name, where=where)
        self.candidates = tuple(candidates)

    def _text(self) -> str:
        listed = " and ".join(f"{name} {version} ({target})" for name, version, target in self.candidates)
        if len({name for name, _, _ in self.candidates}) == 1:
            step = "its metadata must name each plugin once: reinstall or update it"
        else:
            entry = f"{self.kind}:{self.name}@{self.candidates[0][0]}"
            step = (
                f"uninstall one, or disable one, for example with CONVERGE_DISABLE_PLUGINS={entry} "
                f'or disabled = ["{entry}"] under [plugins] in converge.toml'
            )
        return f"{self._subject()} is offered more than once: by {listed}; {step}"


class PluginIncompatible(PluginError, RuntimeError):
    """The plugin states another plugin API. Attributes: `found` (as the plugin wrote it) and `expected`."""

    def __init__(
        self,
        kind: str,
        name: str,
        *,
        found: str,
        expected: int,
        distribution: str = "",
        version: str = "",
        target: str = "",
        where: str = "",
    ) -> None:
        super().__init__(kind, name, distribution=distribution, version=version, target=target, where=where)
        self.found, self.expected = found, expected

    def _text(self) -> str:
        newer = self.found.isdecimal() and int(self.found) > self.expected
        step = "update converge-core" if newer else f"update {self.distribution or 'the plugin'}"
        return (
            f"{self._subject()} was written for plugin API {self.found}, and this converge-core has plugin API "
            f"{self.expected}; {step}"
        )


class PluginOptionsError(PluginError, ValueError):
    """Options that the plugin does not take.

    Attribute: `problems`, pairs of the path of an option (`tls.cert`, `agents[0]`; empty: all of them) and a text.
    """

    def __init__(self, kind: str, name: str, *, problems: Sequence[tuple[str, str]] = (), where: str = "") -> None:
        super().__init__(kind, name, where=where)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        lines = [": ".join(filter(None, (join_place(self.where, path), text))) for path, text in self.problems]
        if len(lines) == 1:
            return f"{lines[0]} (options of {self._subject()})" if self.name else lines[0]
        subject = self._subject() if self.name else "a plugin"
        return "\n  ".join([f"{len(lines)} problems with the options of {subject}:", *lines])


def join_path(head: str, tail: str) -> str:
    """The path of an option inside another: `tls` and `cert` are `tls.cert`, `agents` and `[0]` are `agents[0]`."""
    return f"{head}.{tail}" if head and tail and not tail.startswith("[") else head + tail


def join_place(where: str, path: str) -> str:
    """A place in a configuration and the path below it, as one str: `converge.toml [store] tls.cert`."""
    return f"{where} {path}".strip()
