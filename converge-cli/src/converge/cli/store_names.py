"""How a store is named on the command line, and how it is opened."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Final

import attrs
from attrs import frozen

from converge.core.errors import ConvergeError, StoreError
from converge.core.store import Store
from converge.plugins import PluginError, PluginOptionsError, default_manager
from converge.runtime.config import Config, load_config

__all__ = ["NamedStore", "named_store", "same_data"]

_PLUGIN: Final = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*):(.*)", re.DOTALL)
_OPTIONS: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_OPTION: Final = re.compile(
    r"""([A-Za-z_][A-Za-z0-9_]*)=("(?:[^"\\]|\\.)*"|'[^']*'|[^,]*)(,(?=.)|$)""",
    re.DOTALL,
)


@frozen
class NamedStore:
    """A store that was named, not opened yet. `table` is its `use` table, `config` the file that it comes from."""

    text: str
    table: dict[str, object]
    config: Config | None = None

    @property
    def path(self) -> Path | None:
        """The file or folder of the store; None when it has no option `path`."""
        if "path" not in self.table:
            return _default_path(self)
        path = self.table["path"]
        return (self.config.folder if self.config else Path()) / path if isinstance(path, str) else None

    @property
    def where(self) -> str:
        """How errors name the place where this store was named."""
        return self.config.place("[store]") if self.config else self.text

    def open(self, *, create: bool) -> Store:
        """The store; without `create` it has to be there, as far as that can be seen: a `path` that does not exist
        is a `FileNotFoundError`, and nothing is made.

        Raises `ConfigError`, `PluginError`, an OSError, or a `StoreError`, which has the cause when the plugin
        raised anything else.
        """
        if not create and (path := self.path) is not None and not path.exists():
            raise FileNotFoundError(f"there is no store at {path}")
        try:
            return self._open()
        except (ConvergeError, OSError):
            raise
        except Exception as error:
            raise StoreError(f"{self.text}: it cannot be opened: {type(error).__name__}: {error}") from error

    def _open(self) -> Store:
        if self.config is not None:
            from converge.runtime.application import open_store

            return open_store(self.config)
        store = default_manager().build("store", self.table, where=self.where)
        if not isinstance(store, Store):
            raise StoreError(
                f"{self.text}: the plugin {self.table['use']!r} made a {type(store).__name__}, not a Store"
            )
        return store


def named_store(text: str) -> NamedStore:
    """What `text` names: `NAME:PATH`, `NAME:key=value,…`, the path of a `*.toml`, or `NAME`.

    Raises `FileNotFoundError` and `ConfigError` for a config file, `PluginError` for a name or options that are wrong.
    """
    plugin = _PLUGIN.fullmatch(text)
    if plugin is None and text.endswith(".toml"):
        return _configured(text)
    if plugin is None:
        return _found(NamedStore(text, {"use": text}))
    name, rest = plugin[1], plugin[2]
    _found(NamedStore(text, {"use": name}))
    options = _options(name, rest, text) if _OPTIONS.match(rest) or not rest else {"path": rest}
    if isinstance(path := options.get("path"), str):
        options["path"] = os.path.expanduser(path)  # noqa: PTH111  # a shell leaves the ~ of sqlite:~/x.db to us
    return NamedStore(text, {"use": name, **options})


def same_data(one: NamedStore, other: NamedStore) -> bool:
    """Whether two names stand for one store, as far as their options tell: one file or folder, or equal options."""
    if one.path is None or other.path is None:
        return one.table == other.table
    if one.path.exists() and other.path.exists():
        return one.path.samefile(other.path)
    return os.path.realpath(one.path) == os.path.realpath(other.path)


def _configured(text: str) -> NamedStore:
    try:
        config = load_config(text)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"there is no config {text}; name a store, such as sqlite:converge.db, or the path of a config"
        ) from None
    default_manager().disable(config.plugins.disabled, source=config.place("[plugins] disabled"))
    return _found(NamedStore(text, config.store, config))


def _found(named: NamedStore) -> NamedStore:
    """`named` itself, when there is such a plugin."""
    _driver(named)
    return named


def _driver(named: NamedStore) -> object:
    try:
        return default_manager().find("store", str(named.table["use"]))
    except PluginError as error:
        error.where = named.where
        raise


def _options(name: str, text: str, where: str) -> dict[str, object]:
    options: dict[str, object] = {}
    place = 0
    while place < len(text):
        option = _OPTION.match(text, place)
        if option is None or option[1] in options or option[1] == "use":
            break
        options[option[1]] = _value(option[2])
        place = option.end()
    if place < len(text) or not text:
        problem = f"{text[place:]!r} cannot be read; options are written NAME:PATH or NAME:key=value,key=value"
        raise PluginOptionsError("store", name, problems=[("", problem)], where=where)
    return options


def _value(text: str) -> object:
    """A TOML scalar, or else the text itself."""
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = table["value"]
    return text if len(table) > 1 or isinstance(value, dict | list) else value


def _default_path(named: NamedStore) -> Path | None:
    """Where a store is whose options do not say it; None when that is not a matter of a path."""
    options = getattr(_driver(named), "converge_options", None)
    if not isinstance(options, type) or not attrs.has(options):
        return None
    option = attrs.fields_dict(options).get("path")
    default = None if option is None else option.default
    return Path(default) if isinstance(default, str | Path) else None
