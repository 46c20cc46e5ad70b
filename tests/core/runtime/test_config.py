"""Reading `converge.toml`, what goes on top of it, and how mistakes in it are told."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from converge.runtime.config import AgentConfig, Config, PoolConfig, RunConfig, load_config
from converge.runtime.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

WHOLE = """
[store]
use = "sqlite"
path = "a.db"
[transport]
use = "local"
[run]
processes = 2
until = "lead"
release_interval_sec = 2
state = "state"
[plugins]
disabled = ["store:file"]
[audit]
path = "src"
deep = { level = 3 }
[[pools]]
id = "p"
topics = ["news"]
admission = { use = "whitelist", agents = ["a"] }
governance = "democratic"
trust = { use = "simple" }
trust_threshold = 0.5
[[agents]]
name = "lead"
class = "pkg.agents:Lead"
options = "audit"
path = "elsewhere"
[[agents]]
use = "llm"
count = 4
pools = ["p"]
capabilities = ["read"]
options = { model = "m" }
extra = 1
"""


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Config]:
    def load(text: str = "", settings: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> Config:
        (tmp_path / "converge.toml").write_text(text)
        return load_config(tmp_path / "converge.toml", settings, environment or {})

    return load


def test_every_table_and_key_is_read(load: Callable[..., Config], tmp_path: Path) -> None:
    config = load(WHOLE)
    assert config.store == {"use": "sqlite", "path": "a.db"}
    assert config.transport == {"use": "local"}
    assert config.run == RunConfig(processes=2, until="lead", release_interval_sec=2.0, state=Path("state"))
    assert config.plugins.disabled == ["store:file"]
    assert config.pools == [
        PoolConfig(
            id="p", topics=["news"], admission={"use": "whitelist", "agents": ["a"]}, governance="democratic",
            trust={"use": "simple"}, trust_threshold=0.5,
        )
    ]  # fmt: skip
    assert config.agents == [
        AgentConfig(
            name="lead", driver="pkg.agents:Lead", is_class=True, place="converge.toml [[agents]] 0",
            options={"path": "elsewhere", "deep": {"level": 3}},
        ),
        AgentConfig(
            name="llm", driver="llm", is_class=False, count=4, pools=["p"], capabilities=["read"],
            options={"model": "m", "extra": 1}, place="converge.toml [[agents]] 1",
        ),
    ]  # fmt: skip
    assert (config.folder, config.state) == (tmp_path, tmp_path / "state")
    assert config.place("[run]") == "converge.toml [run]"


def test_everything_has_a_default(load: Callable[..., Config], tmp_path: Path) -> None:
    config = load()
    assert (config.store, config.transport) == ({"use": "memory"}, {"use": "local"})
    assert config.run == RunConfig(processes=1, until=None, release_interval_sec=1.0, state=Path(".converge"))
    assert (config.pools, config.agents, config.plugins.disabled) == ([], [], [])
    assert load('[[agents]]\nclass = "m:Reviewer"').agents[0].name == "reviewer"


def test_the_environment_goes_over_the_file_and_settings_over_both(load: Callable[..., Config]) -> None:
    environment = {
        "CONVERGE_STORE__PATH": "env.db",
        "CONVERGE_RUN__PROCESSES": "3",
        "CONVERGE_AGENTS__1__COUNT": "5",
        "CONVERGE_DISABLE_PLUGINS": "other",
        "UNRELATED__KEY": "x",
    }
    config = load(WHOLE, environment=environment)
    assert (config.store["path"], config.run.processes, config.agents[1].count) == ("env.db", 3, 5)
    config = load(WHOLE, ["run.processes=4", "agents.1.count=6", "run.processes=7"], environment)
    assert (config.store["path"], config.run.processes, config.agents[1].count) == ("env.db", 7, 6)


def test_the_environment_of_the_process_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "converge.toml").write_text("")
    monkeypatch.setenv("CONVERGE_RUN__PROCESSES", "9")
    assert load_config(tmp_path / "converge.toml").run.processes == 9


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8), ("true", True), ("0.5", 0.5), ('["a", "b"]', ["a", "b"]),
        ('{ use = "x" }', {"use": "x"}), ('"8"', "8"),
        ("other.db", "other.db"), ("", ""), ("a=b", "a=b"), ("1\nsecond = 2", "1\nsecond = 2"), ("[1", "[1"),
        ("True", "True"), (" spaced out ", " spaced out "),
    ],
)  # fmt: skip
def test_a_value_is_toml_if_it_is_toml_and_else_a_string(load: Callable[..., Config], text: str, value: object) -> None:
    assert load("", [f"store.path={text}", "store.use=memory"]).store["path"] == value
    assert load('[store]\nuse = "memory"', (), {"CONVERGE_STORE__PATH": text}).store["path"] == value


def test_a_setting_reaches_into_lists_and_makes_tables_that_are_missing(load: Callable[..., Config]) -> None:
    config = load(
        WHOLE, ["pools.0.admission.agents.0=b", "audit.deep.level=4", "audit.new.key=1", "agents.0.name=chief"]
    )
    assert config.pools[0].admission == {"use": "whitelist", "agents": ["b"]}
    assert config.agents[0].options == {"path": "elsewhere", "deep": {"level": 4}, "new": {"key": 1}}
    assert config.agents[0].name == "chief"


AGENT = '[[agents]]\nuse = "x"\n'


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("x = [", "converge.toml: this is not TOML: "),
        ("[stor]", "[stor]: there is no such table; there is store, transport, run, plugins, http, approvals, limits"),
        ("[stor]", "Did you mean 'store'?"),
        ("processes = 2", "converge.toml [processes]: there is no such table"),
        ("[run]\nproceses = 2", "converge.toml [run]: proceses is not an option; valid options are processes, until,"),
        ("[run]\nproceses = 2", "Did you mean 'processes'?"),
        ("[run]\nprocesses = 0", "converge.toml [run]: processes "),
        ("[run]\nprocesses = 257", "converge.toml [run]: processes "),
        ('[run]\nprocesses = "2"', "converge.toml [run]: processes expected int, got the str '2'"),
        ("[run]\nprocesses = true", "converge.toml [run]: processes expected int, got the bool True"),
        ("[run]\nrelease_interval_sec = 0", "converge.toml [run]: release_interval_sec "),
        ("[run]\nrelease_interval_sec = nan", "converge.toml [run]: release_interval_sec "),
        ("[run]\nuntil = 5\nstate = 6", "until expected str, got the int 5; state expected"),
        ("run = 5", "converge.toml [run]: it has to be a table"),
        ('[plugins]\ndisabled = "x"', "converge.toml [plugins]: disabled expected list[str], got the str 'x'"),
        ('store = "sqlite"', 'converge.toml [store]: it needs the name of a plugin: use = "memory"'),
        ("[transport]\nuri = 'x'", 'converge.toml [transport]: it needs the name of a plugin: use = "local"'),
        ("[agents]", "converge.toml agents: write it as tables: [[agents]]"),
        ("pools = [1]", "converge.toml pools: write it as tables: [[pools]]"),
        ("[[pools]]", "converge.toml [[pools]] 0: id is missing"),
        ("[[pools]]\nid = ''", "converge.toml [[pools]] 0: id "),
        ("[[pools]]\nid = 'p'\n[[pools]]\nid = 'p'", "converge.toml [[pools]] 1: there is another pool 'p'"),
        ("[[pools]]\nid = 'p'\ntopic = 1", "[[pools]] 0: topic is not an option; valid options are id, topics,"),
        ("[[agents]]", 'converge.toml [[agents]] 0: it needs either class = "module:Class" or use = "plugin"'),
        (AGENT + "class = 'm:C'", "converge.toml [[agents]] 0: it needs either class"),
        ("[[agents]]\nclass = 'm'", "converge.toml [[agents]] 0 class: it is written \"module:Class\", not 'm'"),
        ("[[agents]]\nclass = ':C'", "[[agents]] 0 class: it is written"),
        ("[[agents]]\nclass = 'm:'", "[[agents]] 0 class: it is written"),
        ("[[agents]]\nclass = 'a..b:C'", "[[agents]] 0 class: it is written"),
        ("[[agents]]\nclass = 'a:b:C'", "[[agents]] 0 class: it is written"),
        ("[[agents]]\nclass = 5", "[[agents]] 0 class: it is written"),
        ("[[agents]]\nuse = 5", "[[agents]] 0 use: it is the name of a plugin, not 5"),
        ("[[agents]]\nuse = ''", "[[agents]] 0 use: it is the name of a plugin, not ''"),
        (AGENT + "count = 0", "converge.toml [[agents]] 0: count "),
        (AGENT + "count = 10001", "converge.toml [[agents]] 0: count "),
        (AGENT + "count = true", "converge.toml [[agents]] 0: count expected int, got the bool True"),
        (AGENT + "pools = 'p'", "converge.toml [[agents]] 0: pools expected list[str], got the str 'p'"),
        (AGENT + "approvals = true", "converge.toml [[agents]] 0: approvals "),
        ("[approvals]\nneeded = []\n" + AGENT, "[approvals]: needed"),
        (AGENT + "name = 5", "converge.toml [[agents]] 0: name expected str, got the int 5"),
        (AGENT + "name = '../key'", "converge.toml [[agents]] 0 name: '../key' cannot be part of a file name"),
        (AGENT + "name = ''", "converge.toml [[agents]] 0 name: '' cannot be part of a file name"),
        (AGENT + "options = 'gone'", "converge.toml [[agents]] 0 options: there is no table [gone]"),
        (AGENT + "options = 5", "converge.toml [[agents]] 0 options: it is a table, or the name of one, not 5"),
        (AGENT + "options = { use = 'y' }", "converge.toml [[agents]] 0 options: use is not an option"),
        (AGENT + AGENT, "converge.toml [[agents]] 1: another entry has an agent 'x' already; set a name of its own"),
        (AGENT + "count = 2\n[[agents]]\nuse = 'x-2'", "[[agents]] 1: another entry has an agent 'x-2' already"),
        ("[[agents]]\nuse = 'x-2'\n" + AGENT + "count = 2", "[[agents]] 1: another entry has an agent 'x-2' already"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_names_the_place_and_the_fix(
    load: Callable[..., Config], text: str, error: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        load(text)
    assert error in str(raised.value)
    assert "\n" not in str(raised.value)
    assert str(raised.value) == f"{raised.value.place}: {raised.value.problem}"


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ("nonsense", "--set nonsense: a setting is written table.key=value"),
        ("=1", "--set =1: a setting is written table.key=value"),
        ("a..b=1", "--set a..b=1: a setting is written table.key=value"),
        ("stor.path=x", "converge.toml [stor]: there is no such table (set by --set stor.path=x); there is store,"),
        ("agents.2.count=1", "--set agents.2.count=1: '2' is not the number of an entry; there are 2, counted from 0"),
        ("agents.count=1", "--set agents.count=1: 'count' is not the number of an entry"),
        ("agents.-1.count=1", "'-1' is not the number of an entry"),
        ("run.until.name=x", "--set run.until.name=x: there is no table to put 'name' into"),
        ("run.processes=many", "converge.toml [run]: processes expected int, got the str 'many'"),
        ("agents=5", "converge.toml agents: write it as tables: [[agents]]"),
    ],
)
def test_a_mistake_in_a_setting_names_the_setting_or_what_it_sets(
    load: Callable[..., Config], setting: str, error: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        load(WHOLE, [setting])
    assert error in str(raised.value)


def test_a_mistake_in_the_environment_names_the_variable(load: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=r"there is no such table \(set by CONVERGE_STOR__PATH\)"):
        load("", (), {"CONVERGE_STOR__PATH": "x"})
    with pytest.raises(ConfigError, match=r"^CONVERGE_STORE__: a variable is written CONVERGE_TABLE__KEY=value"):
        load("", (), {"CONVERGE_STORE__": "x"})


def test_a_file_that_is_missing_or_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no such config; give the path of one: '.*/nowhere\.toml'"):
        load_config(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigError, match="it cannot be read: Is a directory"):
        load_config(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"^binary\.toml: this is not TOML"):
        load_config(tmp_path / "binary.toml")


def test_a_config_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(ConfigError("f [run]", "wrong")))
    assert (str(error), error.place, error.problem) == ("f [run]: wrong", "f [run]", "wrong")


def test_the_config_of_the_audit_is_read() -> None:
    audit = Path(__file__).parents[3] / "examples/audit/converge.toml"
    config = load_config(audit, ["agents.1.count=2"], {})
    assert [agent.name for agent in config.agents] == ["lead", "complexity", "length", "size", "hotspot"]
    assert config.agents[1].options == {"path": "stdlib", "report": ".", "seats": 10, "lens": "complexity"}
