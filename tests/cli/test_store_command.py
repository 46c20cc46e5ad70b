"""`converge store`: naming a store, and `ls`, `get`, `check` and `compact`; `copy` is tested beside this file."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from converge.core.plain import pack
from converge.core.plain_json import from_json
from converge.core.store import VersionedStore, versioned
from tests.cli.stores import KINDS, VALUES, damaged, made, opened, space

if TYPE_CHECKING:
    from tests.cli.conftest import Converge
    from tests.core.plugins.conftest import Site

READING = (["ls"], ["get", "k"], ["check"], ["check", "--repair"], ["compact"])


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "converge.cli", *arguments],
        capture_output=True, text=True, timeout=60, env=os.environ | environment, check=False,
    )  # fmt: skip


# Naming a store


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("kind", KINDS)
def test_a_store_is_named_by_its_plugin_and_its_path(converge: Converge, tmp_path: Path, kind: str) -> None:
    made(f"{kind}:{tmp_path}/a=b,c", {"k": 1})
    assert converge("store", "ls", f"{kind}:{tmp_path}/a=b,c").out == "k\n"
    assert converge("store", "ls", f"{kind}:./a=b,c").out == "k\n"
    assert converge("store", "ls", f'{kind}:path="a=b,c"').out == "k\n"


def test_options_are_toml_scalars_or_text(converge: Converge, site: Site) -> None:
    site.store("told", "class Store:\n" + SAYING)
    said = converge(
        "store", "ls", "told:text=x y.z,number=3,quoted='3',yes=true,part=1.5,odd=\"a,b=c\",list=[1],none="
    ).err
    given = {"text": "x y.z", "number": 3, "quoted": "3", "yes": True, "part": 1.5, "odd": "a,b=c", "list": "[1]"}
    assert said.endswith(f"RuntimeError: {given | {'none': ''}}\n")


SAYING = """
    from attrs import frozen

    @frozen
    class converge_options:
        text: object
        number: object
        quoted: object
        yes: object
        part: object
        odd: object
        list: object
        none: object

    def __init__(self, **options):
        raise RuntimeError(options)
"""


@pytest.mark.parametrize("options", ["", "path=x,", "path=x,oops", "path=x,path=y", "path=x,use=file"])
def test_options_that_cannot_be_read_are_shown(converge: Converge, options: str) -> None:
    done = converge("store", "ls", f"sqlite:{options}")
    assert done.code == 2
    assert "cannot be read; options are written NAME:PATH or NAME:key=value,key=value" in done.err


def test_a_tilde_is_the_home_folder(converge: Converge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    made(f"sqlite:{tmp_path}/home/x.db", {"k": 1})
    assert converge("store", "ls", "sqlite:~/x.db").out == "k\n"
    assert converge("store", "ls", "sqlite:path=~/x.db,durability=process").out == "k\n"


def test_a_plugin_without_options_is_named_alone(converge: Converge) -> None:
    assert converge("store", "ls", "memory").code == 0
    assert converge("store", "check", "memory").out == "sound: no problems found\n"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sqlit:x.db", "Error: sqlit:x.db: no store plugin is named 'sqlit'; installed: file, memory, sqlite."),
        ("state.db", "Error: state.db: no store plugin is named 'state.db'"),
        ("sqlite:path=x.db,durabilty=power", "durabilty: is not an option; valid options are path, durability."),
        ("sqlite:path=x.db,durability=none", "x.db,durability=none durability: "),
        ("memory:x.db", "memory:x.db path: is not an option; this plugin takes no options"),
        ("sqlite", "sqlite path: is missing"),
    ],
)
def test_a_name_that_is_wrong_is_one_line_and_exit_code_2(
    converge: Converge, tmp_path: Path, name: str, expected: str
) -> None:
    (tmp_path / "x.db").touch()
    done = converge("store", "ls", name)
    assert (done.code, done.out) == (2, "")
    assert expected in done.err
    assert len(done.err.splitlines()) == 1


CONFIG = '[store]\nuse = "sqlite"\npath = "state.db"\n'


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a config, which is not the folder that the command runs in."""
    for name in [name for name in os.environ if name.startswith("CONVERGE_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "converge.toml").write_text(CONFIG)
    made(f"sqlite:{folder}/state.db", {"of the file": 1})
    made(f"sqlite:{folder}/other.db", {"of the environment": 1})
    return folder


@pytest.mark.usefixtures("project")
def test_a_config_names_its_store_as_a_run_would_build_it(converge: Converge, monkeypatch: pytest.MonkeyPatch) -> None:
    assert converge("store", "ls", "project/converge.toml").out == "of the file\n"
    monkeypatch.setenv("CONVERGE_STORE__PATH", "other.db")
    assert converge("store", "ls", "project/converge.toml").out == "of the environment\n"
    monkeypatch.setenv("CONVERGE_STORE__PATH", "absent.db")
    assert (done := converge("store", "ls", "project/converge.toml")).code == 2
    assert "there is no store at" in done.err
    assert "project/absent.db" in done.err


def test_without_a_name_it_is_the_config_in_this_folder(
    converge: Converge, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    assert converge("store", "ls").out == "of the file\n"
    assert converge("store", "get", "of the file").out == "1\n"
    assert converge("store", "check").code == 0
    (project / "converge.toml").unlink()
    assert (done := converge("store", "ls")).code == 2
    assert done.err.startswith("Error: there is no config converge.toml; name a store, such as sqlite:converge.db")


def test_mistakes_in_a_config_name_the_place(converge: Converge, project: Path) -> None:
    (project / "converge.toml").write_text('[store]\nuse = "sqlit"\n')
    assert (
        "converge.toml [store]: no store plugin is named 'sqlit'"
        in converge("store", "ls", "project/converge.toml").err
    )
    (project / "converge.toml").write_text(CONFIG + "durabilty = 1\n")
    assert "converge.toml [store] durabilty: is not an opt" in converge("store", "ls", "project/converge.toml").err
    (project / "converge.toml").write_text("[store")
    done = converge("store", "ls", "project/converge.toml")
    assert (done.code, "this is not TOML" in done.err) == (2, True)


def test_a_plugin_that_a_config_disables_is_not_loaded(project: Path) -> None:
    (project / "converge.toml").write_text(CONFIG + '[plugins]\ndisabled = ["store:sqlite"]\n')
    done = process("store", "ls", str(project / "converge.toml"))
    assert done.returncode == 2
    assert "is disabled by converge.toml [plugins] disabled" in done.stderr


@pytest.mark.parametrize("command", READING, ids=" ".join)
@pytest.mark.parametrize("name", ["sqlite:absent/x.db", "file:path=absent", "shelf:absent", "shelf"])
def test_reading_makes_no_store(converge: Converge, site: Site, tmp_path: Path, command: list[str], name: str) -> None:
    done = converge("store", command[0], name, *command[1:])
    assert done.code == 2
    assert done.err.startswith("Error: there is no store at ")
    assert list(tmp_path.iterdir()) == [site.folder]


def test_what_a_plugin_raises_when_it_opens_is_an_error_of_the_store(converge: Converge, site: Site) -> None:
    site.store("bad", "class Store:\n    def __init__(self):\n        raise KeyError('no\\x1b[2J')\n")
    done = converge("store", "ls", "bad")
    assert (done.code, done.err) == (1, "Error: bad: it cannot be opened: KeyError: 'no\\x1b[2J'\n")
    site.store("foreign", "class Store:\n    pass\n")
    assert "foreign: the plugin 'foreign' made a Store, not a Store" in converge("store", "ls", "foreign").err


# ls


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("kind", KINDS)
def test_ls_prints_the_keys_sorted_and_by_prefix(converge: Converge, kind: str) -> None:
    name = made(f"{kind}:s", {"b": 1, "a:2": 1, "a:1": 1, "B": 1})
    assert converge("store", "ls", name).out == "B\na:1\na:2\nb\n"
    assert converge("store", "ls", name, "--prefix", "a:").out == "a:1\na:2\n"
    assert json.loads(converge("store", "ls", name, "--json").out) == ["B", "a:1", "a:2", "b"]
    assert converge("store", "ls", name, "--prefix", "\udcff").code == 2


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("kind", KINDS)
def test_ls_long_shows_version_size_and_type(converge: Converge, kind: str) -> None:
    name = made(f"{kind}:s", VALUES)
    with opened(name) as store:
        versions = {
            key: found[1] if isinstance(store, VersionedStore) and (found := store.get_versioned(key)) else None
            for key in VALUES
        }
    kinds = ["bytes", "dict", "float", "int", "null", "str"]
    rows = [
        {"key": key, "version": versions[key], "size": len(pack(value)), "type": kind}
        for (key, value), kind in zip(VALUES.items(), kinds, strict=True)
    ]
    assert json.loads(converge("store", "ls", name, "--long", "--json").out) == rows
    lines = [line.split() for line in converge("store", "ls", name, "-l").out.splitlines()]
    assert lines == [[str(row["version"] or "-"), str(row["size"]), str(row["type"]), str(row["key"])] for row in rows]


def test_keys_cannot_command_the_terminal(converge: Converge) -> None:
    key = "evil\x1b[2J\nsecond\x9b é"
    name = made("sqlite:s", {key: 1})
    for options in ([], ["--long"]):
        out = converge("store", "ls", name, *options).out
        assert out.endswith("evil\\x1b[2J\\nsecond\\x9b é\n")
        assert len(out.splitlines()) == 1
    assert json.loads(converge("store", "ls", name, "--json").out) == [key]
    assert "\x1b" not in converge("store", "get", name, key + "\x1b").err


def test_an_output_that_lacks_a_letter_gets_its_number(tmp_path: Path) -> None:
    name = made(f"sqlite:{tmp_path}/s", {"Ω": 1})
    assert process("store", "ls", name, PYTHONIOENCODING="latin-1").stdout == "\\u03a9\n"


def test_a_pipe_that_is_closed_early_ends_ls_quietly(tmp_path: Path) -> None:
    name = made(f"sqlite:{tmp_path}/s", {f"key-{number:05}": number for number in range(20_000)})
    running = subprocess.Popen(
        [sys.executable, "-m", "converge.cli", "store", "ls", name],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stdout is not None
    assert running.stderr is not None
    assert running.stdout.readline() == "key-00000\n"
    running.stdout.close()
    assert running.stderr.read() == ""
    assert running.wait(30) == 1
    running.stderr.close()


# get


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("kind", KINDS)
def test_get_prints_a_value_as_json(converge: Converge, kind: str) -> None:
    name = made(f"{kind}:s", VALUES)
    for key, value in VALUES.items():
        assert from_json(json.loads(converge("store", "get", name, key).out)) == value
    assert converge("store", "get", name, "bytes").out == '{\n  "$bytes": "AP8="\n}\n'
    assert converge("store", "get", name, "text").out == '"line\\nnext \\u001b[31m"\n'
    assert "é" in converge("store", "get", name, "dict").out


def test_get_shows_control_characters_as_json_does(converge: Converge) -> None:
    name = made("sqlite:s", {"k": "\x9b \u202e \U000e0001 é"})
    assert converge("store", "get", name, "k").out == '"\\u009b \\u202e \\udb40\\udc01 é"\n'


@pytest.mark.usefixtures("site")
def test_get_as_json_has_key_and_version(converge: Converge) -> None:
    made("sqlite:s", {"other": 0})
    made("sqlite:s", {"k": b"x"})
    value = {"$bytes": "eA=="}
    assert json.loads(converge("store", "get", "sqlite:s", "k", "--json").out) == {
        "key": "k",
        "version": 2,
        "value": value,
    }
    made("shelf:t", {"k": b"x"})
    assert json.loads(converge("store", "get", "shelf:t", "k", "--json").out)["version"] is None


def test_get_raw_writes_bytes_and_text_as_they_are(converge: Converge) -> None:
    name = made("sqlite:s", {"bytes": b"\0\x1b\xff", "text": "é\x1b[0m", "number": 1})
    assert process("store", "get", name, "text", "--raw", PYTHONIOENCODING="ascii").stdout == "é\x1b[0m"
    with open("out", "wb") as out:  # noqa: PTH123  # the folder of the test
        command = [sys.executable, "-m", "converge.cli", "store", "get", name, "bytes", "--raw"]
        subprocess.run(command, stdout=out, check=True, timeout=60)
    assert Path("out").read_bytes() == b"\0\x1b\xff"
    refused = converge("store", "get", name, "number", "--raw")
    assert (refused.code, "'number' is int; --raw is for bytes and str" in refused.err) == (2, True)
    assert converge("store", "get", name, "text", "--raw", "--json").code == 2


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("kind", KINDS)
def test_an_absent_key_is_exit_code_1_and_a_stored_none_is_not(converge: Converge, kind: str) -> None:
    name = made(f"{kind}:s", {"k": None})
    assert (done := converge("store", "get", name, "K")).code == 1
    assert (done.out, done.err) == ("", "Error: 'K' is absent\n")
    assert converge("store", "get", name, "k").out == "null\n"


@pytest.mark.parametrize("key", ["", "k" * 1025, "\udcff"])
def test_what_cannot_be_a_key_is_a_mistake_of_the_command_line(converge: Converge, key: str) -> None:
    assert (done := converge("store", "get", made("sqlite:s", {}), key)).code == 2
    assert "a store key" in done.err or "the store key" in done.err
    assert converge("store", "get", "sqlite:s", "sqlite:s", "k").code == 2


# check and compact


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_store_is_exit_code_0(converge: Converge, kind: str) -> None:
    name = made(f"{kind}:s", VALUES)
    assert (done := converge("store", "check", name)).code == 0
    assert done.out == "sound: no problems found\n"
    report = json.loads(converge("store", "check", name, "--json").out)
    assert report == {"sound": True, "problems": [], "repaired": []}


@pytest.mark.parametrize("kind", ["sqlite", "file"])
def test_damage_is_named_and_exit_code_1_wherever_it_is_met(converge: Converge, kind: str) -> None:
    name = damaged(f"{kind}:s")
    assert (done := converge("store", "check", name)).code == 1
    assert "the record of 'b' is corrupt" in done.out
    assert done.out.splitlines()[-1] == "1 problem found"
    report = json.loads(converge("store", "check", name, "--json").out)
    assert (report["sound"], [problem["key"] for problem in report["problems"]]) == (False, ["b"])
    assert (done := converge("store", "get", name, "b")).code == 1
    assert "the record of 'b' is corrupt" in done.err
    assert converge("store", "get", name, "c").out == "3\n"
    assert (done := converge("store", "ls", "--long", name)).code == 1
    assert [line.split()[1:] for line in done.out.splitlines()] == [
        ["1", "int", "a"],
        ["-", "damaged", "b"],
        ["1", "int", "c"],
    ]
    assert done.err == "Error: 1 record damaged; `converge store check` says how\n"
    assert converge("store", "ls", "--long", "--json", name).code == 1


def test_a_store_that_cannot_be_opened_for_damage_is_an_error_of_one_line(converge: Converge) -> None:
    Path("s").write_bytes(b"no database " * 1000)
    for command in READING:
        done = converge("store", command[0], "sqlite:s", *command[1:])
        assert (done.code, done.out, len(done.err.splitlines())) == (1, "", 1)
        assert done.err.startswith("Error: s: ")


REPAIRING = """
from converge.core.errors import StoreCorruption

class Store(Base):
    def repair(self):
        for problem in self.check():
            self._file(problem.key).rename(self.path.parent / "aside")
            yield problem

    def get(self, key):
        try:
            return super().get(key)
        except ValueError:
            raise StoreCorruption(key, "here\\x1b[2J", "why") from None
"""


def test_repair_prints_what_it_moved_aside_and_checks_again(converge: Converge, site: Site) -> None:
    site.store("mending", "from dummy_shelf_shelf import Store as Base\n" + REPAIRING)
    name = made("mending:s", {"a": 1, "b": 2})
    Path("s", b"b".hex()).write_bytes(b"\xc1")
    text = "here\\x1b[2J: the record of 'b' is corrupt (why); restore it from a backup or put it anew"
    assert converge("store", "check", name).out == f"{text}\n1 problem found\n"
    done = converge("store", "check", name, "--repair")
    assert (done.code, done.out) == (0, f"moved aside: {text}\n1 problem repaired\nsound: no problems found\n")
    Path("s", b"b".hex()).write_bytes(b"\xc1")
    report = json.loads(converge("store", "check", name, "--repair", "--json").out)
    assert (report["sound"], [problem["error"] for problem in report["repaired"]]) == (True, ["StoreCorruption"])


def test_a_folder_is_sound_again_after_repair(converge: Converge) -> None:
    name = damaged("file:s")
    done = converge("store", "check", name, "--repair")
    assert done.code == 0
    assert done.out.startswith("moved aside: ")
    assert done.out.endswith("1 problem repaired\nsound: no problems found\n")
    assert converge("store", "ls", name).out == "a\nc\n"


@pytest.mark.usefixtures("site")
def test_a_store_that_cannot_repair_itself_says_what_to_do(converge: Converge) -> None:
    done = converge("store", "check", made("shelf:s", {"k": 1}), "--repair")
    assert (done.code, done.out) == (1, "")
    assert "cannot repair itself; copy what can be read to a new store, or restore a backup" in done.err


@pytest.mark.parametrize("kind", ["sqlite", "file"])
def test_compact_prints_the_bytes_that_are_given_back(converge: Converge, kind: str) -> None:
    name = made(f"{kind}:s", {f"k{number}": b"x" * 1000 for number in range(300)})
    with opened(name) as store:
        versioned(store).delete_many(store.list()[:-1])
    before = space(Path("s"))
    done = converge("store", "compact", name)
    number, rest = done.out.split(" ", 1)
    assert (done.code, rest) == (0, "bytes given back\n")
    assert int(number) > 100_000
    assert space(Path("s")) <= before - int(number) + 8192  # what opening and closing write meanwhile
    assert converge("store", "ls", name).out == "k99\n"


@pytest.mark.usefixtures("site")
def test_a_store_with_nothing_to_compact_gives_nothing_back(converge: Converge) -> None:
    assert converge("store", "compact", made("shelf:s", {"k": 1})).out == "0 bytes given back\n"


def test_the_help_of_converge_imports_no_command() -> None:
    code = (
        "import sys; sys.argv = ['converge', '--help']\n"
        "from converge.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: print(sorted(name for name in sys.modules if name.startswith('converge')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert re.search(r"store +See what a store holds, check it, copy it\.", done.stdout)
    imported = set(ast.literal_eval(done.stdout.splitlines()[-1]))
    beside_plugins = {name for name in imported if not name.startswith("converge.plugins")}  # they know more commands
    assert beside_plugins == {"converge", "converge.cli", "converge.cli.main", "converge.core", "converge.core.errors"}


def test_the_session_in_the_documentation_is_real(converge: Converge) -> None:
    page = (Path(__file__).parents[2] / "docs" / "stores.md").read_text().partition("## The command\n")[2]
    code, session = (page.split(f"```{language}\n")[1].split("```")[0] for language in ("python", "console"))
    exec(code, {})  # our own page
    shown = said = ""
    for command, output in re.findall(r"^\$ converge (.*)\n((?:[^$].*\n)*)", session, re.MULTILINE):
        done = converge(*shlex.split(command))
        shown += f"$ {command}\n{output}"
        said += f"$ {command}\n{done.out}{done.err}"
    assert shown.count("$ store") == session.count("$ converge") > 5
    seconds = re.compile(r"\d+\.\d s$", re.MULTILINE)
    assert seconds.sub("a while", said) == seconds.sub("a while", shown)
