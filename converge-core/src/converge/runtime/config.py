"""The configuration of a run: a TOML file, overridden by the environment and by `--set`.

Later wins: the file, then variables `CONVERGE_<TABLE>__<KEY>` (`CONVERGE_STORE__PATH=other.db`), then settings
`table.key=value`. A value is read as TOML if it is TOML, else as a string. A number in a path is an index:
`agents.1.count=8`.
"""

from __future__ import annotations

import errno
import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import field, frozen, validators

from converge.plugins import PluginError
from converge.plugins.kinds import did_you_mean
from converge.plugins.problems import Refused
from converge.plugins.structure import structure
from converge.policy.limits import Limits
from converge.runtime.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "AgentConfig",
    "ApprovalsConfig",
    "Config",
    "HttpConfig",
    "PluginsConfig",
    "PoolConfig",
    "RunConfig",
    "load_config",
]

_ENVIRONMENT = "CONVERGE_"
_TABLES = ("store", "transport", "run", "plugins", "http", "approvals", "limits", "pools", "agents")
_AGENT_FIELDS = ("name", "count", "pools", "capabilities", "approvals", "executor", "tools", "limits")
_AGENT_KEYS = ("class", "use", "options", *_AGENT_FIELDS)
_Table = dict[str, Any]


@frozen(kw_only=True)
class RunConfig:
    """`[run]`: in how many processes the agents run, what carries out their decisions, and when the run is over.

    `until` names the agents whose end ends the run; without it the run goes on until it is interrupted. Claims that
    have expired are released every `release_interval_sec` seconds. Keys and the lock of the run are in `state`, a
    folder relative to the config file. `executor` is the name of a plugin or a `use` table, and so is each of
    `handlers`, which carry out decisions of kinds that core does not know.
    """

    processes: int = field(default=1, validator=[validators.ge(1), validators.le(256)])
    until: str | None = None
    release_interval_sec: float = field(default=1.0, validator=validators.gt(0))
    state: Path = Path(".converge")
    executor: str | dict[str, object] = "standard"
    handlers: list[str | dict[str, object]] = field(factory=list)


@frozen(kw_only=True)
class PluginsConfig:
    """`[plugins]`: distributions, or `kind:name`, that are not to be loaded, and lifecycle listeners that are.

    An entry of `hooks` is the name of a plugin, or a `use` table with its options; they are told in this order.
    """

    disabled: list[str] = field(factory=list)
    hooks: list[str | dict[str, object]] = field(factory=list)


@frozen(kw_only=True)
class HttpConfig:
    """`[http]`: where `/health`, `/ready` and `/metrics` of the run are served; nowhere without `listen`.

    `listen` is `HOST:PORT`. `public` allows an address that other machines reach.
    """

    listen: str | None = None
    public: bool = False


@frozen(kw_only=True)
class ApprovalsConfig:
    """`[approvals]`: decisions of the agents that a person has to allow, and how long they wait for that, in seconds.

    An entry of `needed_for` is the name of a decision's class, or `"InvokeTool:NAME"`. `approvals` of an `[[agents]]`
    entry goes in its place.
    """

    needed_for: list[str] = field(factory=list)
    timeout_sec: float = 86_400.0


@frozen(kw_only=True)
class PoolConfig:
    """`[[pools]]`: `admission`, `governance` and `trust` are plugin names or `use` tables.

    `limits` are for all the members together that one process runs.
    """

    id: str = field(validator=validators.min_len(1))
    topics: list[str] = field(factory=list)
    admission: str | dict[str, object] | None = None
    governance: str | dict[str, object] | None = None
    trust: str | dict[str, object] | None = None
    trust_threshold: float = 0.0
    limits: Limits | None = None


@frozen(kw_only=True)
class AgentConfig:
    """`[[agents]]`: `class` (a `module:Class` of the user's own) or `use` (a plugin), and `count` agents of it.

    `options` is a table, or the name of a top-level table that several agents share; any further key of the entry is
    an option as well. `executor` goes in the place of the one of `[run]`; `tools` are names of tool plugins, or `use`
    tables. `name` is for keys, logs and `until`; by default the class or plugin name in lower case.
    """

    name: str
    driver: str
    is_class: bool
    count: int = field(default=1, validator=[validators.ge(1), validators.le(10_000)])
    pools: list[str] = field(factory=list)
    capabilities: list[str] = field(factory=list)
    approvals: ApprovalsConfig | None = None
    executor: str | dict[str, object] | None = None
    tools: list[str | dict[str, object]] = field(factory=list)
    limits: Limits | None = None
    options: dict[str, object] = field(factory=dict)
    place: str = ""


@frozen(kw_only=True)
class Config:
    """A whole configuration. `folder` is where the file is: what a relative path in it is relative to."""

    store: dict[str, object] = field(factory=lambda: {"use": "memory"})
    transport: dict[str, object] = field(factory=lambda: {"use": "local"})
    run: RunConfig = field(factory=RunConfig)
    plugins: PluginsConfig = field(factory=PluginsConfig)
    http: HttpConfig = field(factory=HttpConfig)
    approvals: ApprovalsConfig = field(factory=ApprovalsConfig)
    limits: Limits = field(factory=Limits)
    pools: list[PoolConfig] = field(factory=list)
    agents: list[AgentConfig] = field(factory=list)
    file: Path = Path("converge.toml")

    @property
    def folder(self) -> Path:
        """The folder of the file."""
        return self.file.parent

    @property
    def state(self) -> Path:
        """The folder for keys and the lock of the run."""
        return self.folder / self.run.state

    def place(self, path: str) -> str:
        """How errors name a place in this configuration."""
        return f"{self.file.name} {path}"


def load_config(path: str | Path, settings: Iterable[str] = (), environment: Mapping[str, str] | None = None) -> Config:
    """The configuration in the file at `path`, with `environment` (by default the process's) and `settings` on top.

    Raises `ConfigError` for all that is wrong with it, naming the place; `FileNotFoundError` when there is no file.
    """
    file = Path(path).absolute()
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "there is no such config; give the path of one", str(path)) from None
    except OSError as error:
        raise ConfigError(str(path), f"it cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(file.name, f"this is not TOML: {error}") from None
    added: dict[str, str] = {}
    for source, keys, text in _overrides(settings, os.environ if environment is None else environment):
        if keys[0] not in data:
            added[keys[0]] = source
        _set(data, keys, _value(text), source)
    _check_tables(file, data, added)
    return _config(file, data)


def _overrides(settings: Iterable[str], environment: Mapping[str, str]) -> Iterable[tuple[str, list[str], str]]:
    for name in sorted(environment):
        if name.startswith(_ENVIRONMENT) and "__" in name:
            keys = name.removeprefix(_ENVIRONMENT).lower().split("__")
            if not all(keys):
                raise ConfigError(name, f"a variable is written {_ENVIRONMENT}TABLE__KEY=value")
            yield name, keys, environment[name]
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError(f"--set {setting}", "a setting is written table.key=value")
        yield f"--set {setting}", key.split("."), text


def _value(text: str) -> object:
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 else text


def _set(data: _Table, keys: list[str], value: object, source: str) -> None:
    place: Any = data
    for key, following in zip(keys, [*keys[1:], None], strict=True):
        if isinstance(place, list):
            if not key.isdecimal() or int(key) >= len(place):
                raise ConfigError(
                    source, f"{key!r} is not the number of an entry; there are {len(place)}, counted from 0"
                )
            if following is None:
                place[int(key)] = value
            place = place[int(key)]
        elif not isinstance(place, dict):
            raise ConfigError(source, f"there is no table to put {key!r} into")
        elif following is None:
            place[key] = value
        else:
            place = place.setdefault(key, {})


def _check_tables(file: Path, data: _Table, added: Mapping[str, str]) -> None:
    shared = [entry.get("options") for entry in _entries(file, data, "agents")]
    for key in data:
        if key not in _TABLES and key not in shared:
            by = f" (set by {added[key]})" if key in added else ""
            raise ConfigError(
                f"{file.name} [{key}]",
                f"there is no such table{by}; there is {', '.join(_TABLES)}, "
                f'and any that an agent names as its options (options = "{key}").{did_you_mean(key, _TABLES)}',
            )


def _config(file: Path, data: _Table) -> Config:
    return Config(
        file=file,
        store=_driver(file, data, "store", "memory"),
        transport=_driver(file, data, "transport", "local"),
        run=_structured(file, RunConfig, data.get("run", {}), "[run]"),
        plugins=_structured(file, PluginsConfig, data.get("plugins", {}), "[plugins]"),
        http=_structured(file, HttpConfig, data.get("http", {}), "[http]"),
        approvals=_structured(file, ApprovalsConfig, data.get("approvals", {}), "[approvals]"),
        limits=_structured(file, Limits, data.get("limits", {}), "[limits]"),
        pools=_pools(file, data),
        agents=_agents(file, data),
    )


def _entries(file: Path, data: _Table, key: str) -> list[_Table]:
    entries = data.get(key, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(f"{file.name} {key}", f"write it as tables: [[{key}]]")
    return entries


def _driver(file: Path, data: _Table, key: str, default: str) -> dict[str, object]:
    table = data.get(key, {"use": default})
    if not isinstance(table, dict) or not isinstance(table.get("use"), str):
        raise ConfigError(f"{file.name} [{key}]", f'it needs the name of a plugin: use = "{default}"')
    return table


def _pools(file: Path, data: _Table) -> list[PoolConfig]:
    pools: dict[str, PoolConfig] = {}
    for index, entry in enumerate(_entries(file, data, "pools")):
        pool: PoolConfig = _structured(file, PoolConfig, entry, f"[[pools]] {index}")
        if pools.setdefault(pool.id, pool) is not pool:
            raise ConfigError(f"{file.name} [[pools]] {index}", f"there is another pool {pool.id!r}; choose a new id")
    return list(pools.values())


def _agents(file: Path, data: _Table) -> list[AgentConfig]:
    agents: list[AgentConfig] = []
    taken: dict[str, AgentConfig] = {}  # entry names, and those of single agents, such as auditor-1
    for index, entry in enumerate(_entries(file, data, "agents")):
        agent = _agent(file, data, entry, f"{file.name} [[agents]] {index}")
        numbered = [f"{agent.name}-{number}" for number in range(1, agent.count + 1)] if agent.count > 1 else []
        for name in (agent.name, *numbered):
            if taken.setdefault(name, agent) is not agent:
                raise ConfigError(agent.place, f"another entry has an agent {name!r} already; set a name of its own")
        agents.append(agent)
    return agents


def _agent(file: Path, data: _Table, entry: _Table, place: str) -> AgentConfig:
    if ("class" in entry) == ("use" in entry):
        raise ConfigError(place, 'it needs either class = "module:Class" or use = "plugin"')
    is_class = "class" in entry
    driver = entry["class"] if is_class else entry["use"]
    if is_class and not _is_import_name(driver):
        raise ConfigError(f"{place} class", f'it is written "module:Class", not {driver!r}')
    if not isinstance(driver, str) or not driver:
        raise ConfigError(f"{place} use", f"it is the name of a plugin, not {driver!r}")
    options = entry.get("options", {})
    if isinstance(options, str):
        if not isinstance(data.get(options), dict):
            raise ConfigError(f"{place} options", f"there is no table [{options}]")
        options = data[options]
    if not isinstance(options, dict):
        raise ConfigError(f"{place} options", f"it is a table, or the name of one, not {options!r}")
    if "use" in options:
        raise ConfigError(f"{place} options", "use is not an option; the entry itself says what it uses")
    fields: _Table = {key: entry[key] for key in _AGENT_FIELDS if key in entry}
    fields.setdefault("name", driver.rpartition(":")[2].lower())
    inline = {key: value for key, value in entry.items() if key not in _AGENT_KEYS}
    table: _Table = {**fields, "driver": driver, "is_class": is_class, "options": {**options, **inline}, "place": place}
    agent: AgentConfig = _structured(file, AgentConfig, table, place.removeprefix(file.name).strip())
    if not agent.name or set(agent.name) & set("/\\\0"):
        raise ConfigError(f"{place} name", f"{agent.name!r} cannot be part of a file name")
    return agent


def _is_import_name(value: object) -> bool:
    if not isinstance(value, str):
        return False
    module, colon, name = value.partition(":")
    return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def _structured(file: Path, kind: type, table: object, place: str) -> Any:  # noqa: ANN401  # an instance of `kind`
    if not isinstance(table, dict):
        raise ConfigError(f"{file.name} {place}", "it has to be a table")
    try:
        return structure(kind, table, _no_plugin)
    except Refused as refused:
        texts = [f"{path} {text}".strip() for path, text in refused.problems]
        raise ConfigError(f"{file.name} {place}", "; ".join(texts)) from None


def _no_plugin(kind: str, table: object) -> object:
    raise PluginError(kind, str(table))
