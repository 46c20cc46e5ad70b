"""The plugin manager: finds drivers by name and makes objects of them."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Self

import attrs

from converge.plugins.building import check_options, options_of, prepare, read_table
from converge.plugins.disabling import Blocklist
from converge.plugins.errors import PluginAmbiguous, PluginError, PluginUnknown, join_place
from converge.plugins.installed import Installed, PluginInfo
from converge.plugins.kinds import KINDS, Kind, as_kind
from converge.plugins.loading import check_api, load, target_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping
    from types import TracebackType

    from converge.plugins.checking import CheckResult
    from converge.plugins.hooks import Hooks

__all__ = ["Override", "PluginManager", "default_manager"]


class Override:
    """A driver put in place of whatever has its kind and name, until `close()` or the end of the `with` block."""

    def __init__(self, manager: PluginManager, plugin: object) -> None:
        self._manager, self._plugin = manager, plugin
        self._open = True

    def close(self) -> None:
        """Take the override back; closing twice is no error."""
        if self._open:
            self._open = False
            self._manager.unregister(self._plugin)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class PluginManager:
    """Finds drivers by kind and name, and builds objects from names and options.

    Objects registered in code answer first, the last one before the others; then the entry points of what is
    installed. Nothing is imported but the one driver that is asked for. May be used from several threads.
    """

    def __init__(self) -> None:
        self._installed = Installed()
        self._blocked = Blocklist()
        self._lock = threading.Lock()
        self._hooks_made: Hooks | None = None
        self._overrides: dict[int, tuple[Kind, str, object]] = {}

    @property
    def failures(self) -> Mapping[str, int]:
        """How often each registered object raised and was passed over, by the name it was registered under."""
        return dict(self._hooks_made.failures) if self._hooks_made else {}

    def find(self, kind: str, name: str) -> object:
        """The driver of this kind and name: a class, a factory or an object.

        Raises `PluginUnknown`, `PluginBroken`, `PluginAmbiguous` or `PluginIncompatible`; `ValueError` for a kind
        that does not exist.
        """
        kind = as_kind(kind)
        if not isinstance(name, str):
            raise TypeError(f"the name of a plugin is a str, not {type(name).__name__}")
        driver = self._hooks().find(kind, name)
        if driver is None:
            raise self._unknown(kind, name)
        check_api(driver, kind, name)
        return driver

    def build(self, kind: str, table: Mapping[str, object] | str, *, where: str = "", **context: object) -> object:
        """The object that `table` describes: `{"use": name, …options}`, or a name alone.

        The options are checked against the attrs class that the driver names as `converge_options`. `context` are
        arguments that the caller has at hand; those that the driver does not take are left out, and an option set in
        the table goes before them. `where` is the place of the table in a configuration, for the error texts.

        Raises what `find` raises, `PluginOptionsError` for options that do not fit, and whatever the driver itself
        raises, with a note that says what was being built.
        """
        kind = as_kind(kind)

        def build_nested(nested_kind: str, nested_table: object) -> object:
            return self.build(nested_kind, nested_table, **context)  # type: ignore[arg-type]  # read_table refuses other types

        try:
            name, options = read_table(kind, table)
            call = prepare(kind, name, self.find(kind, name), options, context, build_nested)
        except PluginError as error:
            error.where = join_place(where, error.where)
            raise
        try:
            return call()
        except Exception as error:
            error.add_note(f"while building the {kind} plugin {name!r}" + (f" ({where})" if where else ""))
            raise

    def check_options(self, kind: str, table: Mapping[str, object] | str, *, where: str = "") -> object:
        """The driver that `table` names, once its options are found to fit; nothing is built.

        Raises what `build` raises before it builds, but for plugins inside the options.
        """
        kind = as_kind(kind)
        try:
            name, options = read_table(kind, table)
            driver = self.find(kind, name)
            check_options(kind, name, driver, options)
        except PluginError as error:
            error.where = join_place(where, error.where)
            raise
        return driver

    def describe(self, obj: object, kind: str | None = None) -> dict[str, object] | None:
        """The table from which `build` makes an equal object again, or None when there is none.

        There is one when `obj` is, or its class is, a driver that `find` returns by name at the moment, and the
        object can say its options: by `to_options() -> dict`, or because its class takes none. Secrets are described
        by their environment variable, plugins in options by their own tables. Imports nothing.
        """
        name = next((name for each in ([as_kind(kind)] if kind else KINDS) for name in self._names_of(obj, each)), None)
        if name is None:
            return None
        options = options_of(obj, self.describe)
        return None if options is None else {"use": name, **options}

    def register(self, plugin: object, name: str | None = None) -> str:
        """Let the hook implementations of `plugin` answer first; the name it is registered under.

        `plugin` has methods such as `converge_find_store(name)` marked with `hookimpl`. One that raises is logged,
        counted in `failures` and passed over.
        """
        return self._hooks().register(plugin, name)

    def unregister(self, plugin: object) -> None:
        """Take a registered object out again; `ValueError` when it is not registered."""
        self._hooks().unregister(plugin)
        self._overrides.pop(id(plugin), None)

    def override(self, kind: str, name: str, driver: object) -> Override:
        """Put `driver` in place of whatever has this kind and name, at once; the result takes it back."""
        from converge.plugins.hooks import answering

        kind = as_kind(kind)
        if driver is None:
            raise TypeError("a driver cannot be None, which means that there is no answer")
        plugin = answering(kind, name, driver)
        self.register(plugin)
        self._overrides[id(plugin)] = kind, name, driver
        return Override(self, plugin)

    def disable(self, entries: Iterable[str], *, source: str) -> None:
        """Block installed plugins from now on: each entry is DISTRIBUTION, KIND:NAME or KIND:NAME@DISTRIBUTION.

        `source` is where the entries come from and appears in error texts. What is registered in code is not
        blocked. A malformed entry is a `PluginOptionsError`, and then no entry is taken.
        """
        self._blocked.add(entries, source)

    def list(self, kind: str | None = None) -> list[PluginInfo]:
        """The installed plugins, of one kind or of all, disabled and clashing ones included. Imports none."""
        wanted = as_kind(kind) if kind else None
        found = [self._with_state(plugin) for plugin in self._installed.all() if wanted in (None, plugin.kind)]
        enabled: dict[tuple[str, str], set[str]] = {}
        for plugin in found:
            if plugin.disabled is None:
                enabled.setdefault((plugin.kind, plugin.name), set()).add(plugin.distribution)
        return [
            attrs.evolve(plugin, clash=tuple(sorted(enabled[plugin.kind, plugin.name] - {plugin.distribution})))
            if plugin.disabled is None
            else plugin
            for plugin in found
        ]

    def check(self, kind: str | None = None, timeout: float = 10.0) -> Generator[CheckResult]:
        """Import each installed plugin in a process of its own, several at once, and say how it went.

        Results come as they are ready. `timeout` is in seconds; a process that is not done by then is killed with
        its children; so are those that run when the generator is closed. Nothing is imported into this process.
        """
        from converge.plugins.checking import check_plugins

        return check_plugins(self.list(kind), timeout)

    def _hooks(self) -> Hooks:
        if self._hooks_made is None:
            from converge.plugins.hooks import Hooks

            with self._lock:
                if self._hooks_made is None:
                    self._hooks_made = Hooks(self._find_installed)
        return self._hooks_made

    def _find_installed(self, kind: Kind, name: str) -> object | None:
        enabled = self._enabled(kind, name)
        if len(enabled) > 1:
            candidates = [(plugin.distribution, plugin.version, plugin.target) for plugin in enabled]
            raise PluginAmbiguous(kind, name, candidates=candidates)
        return load(enabled[0]) if enabled else None

    def _enabled(self, kind: Kind, name: str) -> tuple[PluginInfo, ...]:
        return tuple(plugin for plugin in self._installed.named(kind, name) if self._blocked.reason(plugin) is None)

    def _with_state(self, plugin: PluginInfo) -> PluginInfo:
        return attrs.evolve(plugin, disabled=self._blocked.reason(plugin))

    def _unknown(self, kind: Kind, name: str) -> PluginError:
        for plugin in self._installed.named(kind, name):
            reason = self._blocked.reason(plugin)
            if reason:
                return PluginUnknown(kind, name, disabled=reason, distribution=plugin.distribution)
        names = {plugin.name for plugin in self.list(kind) if plugin.disabled is None}
        names.update(of_name for of_kind, of_name, _ in list(self._overrides.values()) if of_kind == kind)
        return PluginUnknown(kind, name, installed=sorted(names))

    def _names_of(self, obj: object, kind: Kind) -> Iterator[str]:
        """The names under which `find` returns `obj` or its class now."""
        own = (obj, type(obj))
        for of_kind, name, driver in reversed(list(self._overrides.values())):
            if of_kind == kind and any(driver is each for each in own) and self._answers(kind, name, driver):
                yield name
        for plugin in self._installed.all():
            if plugin.kind == kind and len(self._enabled(kind, plugin.name)) == 1:
                driver = _loaded(plugin)
                if (
                    driver is not None
                    and any(driver is each for each in own)
                    and self._answers(kind, plugin.name, driver)
                ):
                    yield plugin.name

    def _answers(self, kind: Kind, name: str, driver: object) -> bool:
        return self._hooks().find_registered(kind, name) in (None, driver)


def _loaded(plugin: PluginInfo) -> object | None:
    """The driver of `plugin` if its module is imported already, else None."""
    target = target_of(plugin)
    driver: object = sys.modules.get(target[0]) if target else None
    for attribute in target[1] if target else []:
        driver = getattr(driver, "__dict__", {}).get(attribute)
    return driver


_default: PluginManager | None = None
_default_lock = threading.Lock()


def default_manager() -> PluginManager:
    """The manager of this process, made when first asked for."""
    global _default
    if _default is None:
        with _default_lock:
            if _default is None:
                _default = PluginManager()
    return _default
