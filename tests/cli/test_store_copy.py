"""`converge store copy`: what the copy holds, and what happens when something goes wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from converge.core.plain import Plain
from tests.cli.stores import KINDS, VALUES, damaged, held, made, opened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cli.conftest import Converge
    from tests.core.plugins.conftest import Site

ODD: dict[str, Plain] = VALUES | {
    "a/../b": 1,
    "a\0b": 1,
    "CASE": 1,
    "case": 2,
    "é": 1,
    "e\u0301": 2,
    "line\nbreak": 1,
    "%41": 1,
    ".batch": 1,
    "long" * 25: 1,
    "deep": [[[[[{"a": -1.5e300}]]]]],
    "big": b"x" * 3_000_000,
}


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("kind", ["file", "shelf"])
def test_a_copy_there_and_back_is_equal(converge: Converge, kind: str) -> None:
    made("sqlite:one", ODD)
    there = converge("store", "copy", "sqlite:one", f"{kind}:two")
    assert (there.code, there.err) == (0, "")
    assert there.out.startswith(f"copied {len(ODD)} keys, 30")
    assert there.out.endswith(" s\n")
    assert converge("store", "copy", f"{kind}:two", "sqlite:new/three").code == 0
    assert held("sqlite:new/three") == held(f"{kind}:two") == ODD


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("kind", KINDS)
def test_a_destination_with_keys_is_left_alone_unless_they_may_be_replaced(converge: Converge, kind: str) -> None:
    made("sqlite:s", {"a:1": "new", "a:2": "new", "b:1": "new"})
    there = made(f"{kind}:t", {"a:2": "old", "a:3": "old", "b:3": "old"})
    refused = converge("store", "copy", "sqlite:s", there)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == (
        "Error: the destination has 3 keys already; copy to an empty one, or replace what it has with --overwrite\n"
    )
    assert "has 1 key under 'b' already" in converge("store", "copy", "sqlite:s", there, "--prefix", "b").err
    assert held(there) == {"a:2": "old", "a:3": "old", "b:3": "old"}

    done = converge("store", "copy", "sqlite:s", there, "--prefix", "a:", "--overwrite")
    assert done.code == 0
    assert done.out.startswith("copied 2 keys, 8 bytes, in ")
    assert done.out.endswith(" s; deleted 1 key that the source does not have\n")
    assert held(there) == {"a:1": "new", "a:2": "new", "b:3": "old"}


def test_only_the_keys_of_the_prefix_are_copied(converge: Converge) -> None:
    made("sqlite:s", {"a:1": 1, "a:2": 2, "b:1": 3})
    made("sqlite:t", {"b:2": 4})
    assert converge("store", "copy", "sqlite:s", "sqlite:t", "--prefix", "a:").code == 0
    assert held("sqlite:t") == {"a:1": 1, "a:2": 2, "b:2": 4}


@pytest.mark.usefixtures("site")
def test_a_store_is_not_copied_to_itself(converge: Converge, tmp_path: Path) -> None:
    made("sqlite:s", {"k": 1})
    made("shelf:folder", {"k": 1})
    Path("link").symlink_to("s")
    Path("hard").hardlink_to("s")
    Path("dangling").symlink_to("absent")
    Path("c.toml").write_text('[store]\nuse = "sqlite"\npath = "s"\n')
    same = [
        ("sqlite:s", "sqlite:./s"),
        ("sqlite:s", f"sqlite:path={tmp_path}/x/../s,durability=process"),
        ("sqlite:s", "sqlite:link"),
        ("sqlite:hard", "sqlite:s"),
        ("c.toml", "sqlite:s"),
        ("sqlite:absent", "sqlite:dangling"),
        ("shelf:folder", "file:folder/"),
        ("memory", "memory"),
    ]
    for source, destination in same:
        done = converge("store", "copy", source, destination, "--overwrite")
        assert (done.code, f"{source} and {destination} are the same store" in done.err) == (2, True), source
    assert held("sqlite:s") == {"k": 1}


@pytest.mark.parametrize("source", ["sqlite:absent", "absent.toml", "sqlit:x", "sqlite:path=t,x=1"])
def test_a_source_that_is_not_there_makes_no_destination(converge: Converge, tmp_path: Path, source: str) -> None:
    assert converge("store", "copy", source, "sqlite:d").code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["sqlite", "file"])
def test_a_damaged_record_stops_the_copy_unless_it_may_be_left_out(converge: Converge, kind: str) -> None:
    name = damaged(f"{kind}:s")
    done = converge("store", "copy", name, "sqlite:t")
    assert (done.code, done.out) == (1, "")
    assert "the record of 'b' is corrupt" in done.err
    assert done.err.endswith("; --skip-damaged leaves the damaged records of SRC out\n")

    made("sqlite:t", {"b": "from before", "old": 1})
    done = converge("store", "copy", name, "sqlite:t", "--overwrite", "--skip-damaged")
    assert (done.code, done.out[:13]) == (1, "copied 2 keys")
    left_out, summary = done.err.splitlines()
    assert left_out.startswith("left out: ")
    assert "the record of 'b' is corrupt" in left_out
    assert summary == "Error: 1 damaged record left out"
    assert held("sqlite:t") == {"a": 1, "b": "from before", "c": 3}


def test_the_bar_is_on_standard_error_and_only_when_wanted(converge: Converge) -> None:
    made("sqlite:s", {"k": 1})
    assert converge("store", "copy", "sqlite:s", "sqlite:t").err == ""
    done = converge("store", "copy", "sqlite:s", "sqlite:t", "--overwrite", "--progress")
    assert done.out.startswith("copied 1 key, 1 byte, in ")
    assert on_terminal("store", "copy", "sqlite:s", "sqlite:t", "--overwrite").count("copying") >= 1
    assert on_terminal("store", "copy", "sqlite:s", "sqlite:t", "--overwrite", "--no-progress") == ""


def on_terminal(*arguments: str) -> str:
    """What the command writes to a standard error that is a terminal."""
    mine, its = os.openpty()
    running = subprocess.Popen(
        [sys.executable, "-m", "converge.cli", *arguments],
        stdout=subprocess.DEVNULL, stderr=its, env=os.environ | {"TERM": "xterm"},
    )  # fmt: skip
    os.close(its)
    seen = b""
    try:
        while piece := os.read(mine, 1000):
            seen += piece
    except OSError:  # how Linux says that the other side is closed
        pass
    os.close(mine)
    assert running.wait(60) == 0
    return seen.decode()


HANGING = """
import time
from pathlib import Path
from converge.extensions.storage.sqlite import SQLiteOptions, SQLiteStore


class Store(SQLiteStore):
    converge_options = SQLiteOptions

    def get_versioned(self, key):
        if key == "key-0600":
            Path(f"{self._where}.reached").touch()
            time.sleep(600)
        return super().get_versioned(key)

    def __init__(self, path, durability):
        super().__init__(path, durability)
        self._where = path
"""


@pytest.mark.parametrize("kind", ["sqlite", "file"])
def test_a_copy_that_was_killed_is_completed_by_another_one(
    converge: Converge, site: Site, tmp_path: Path, kind: str
) -> None:
    site.store("hanging", HANGING)
    made("sqlite:s", {f"key-{number:04}": number for number in range(700)})
    running = subprocess.Popen(
        [sys.executable, "-m", "converge.cli", "store", "copy", "hanging:s", f"{kind}:t"], start_new_session=True
    )
    wait_for((tmp_path / "s.reached").exists)
    running.send_signal(signal.SIGKILL)
    running.wait(30)
    with opened("sqlite:s") as store:
        store.delete("key-0000")
    refused = converge("store", "copy", "sqlite:s", f"{kind}:t")
    assert (refused.code, "the destination has 500 keys already" in refused.err) == (2, True)
    done = converge("store", "copy", "sqlite:s", f"{kind}:t", "--overwrite")
    assert done.out.startswith("copied 699 keys, ")
    assert done.out.endswith("deleted 1 key that the source does not have\n")
    assert held(f"{kind}:t") == held("sqlite:s")


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


WRITER = """
import sys
from pathlib import Path
from converge.plugins import default_manager

store = default_manager().build("store", {"use": sys.argv[1], "path": "s"})
number = 0
while not Path("stop").exists():
    number += 1
    store.put_many({"pair:a": number, "pair:b": number})
    store.put(f"window:{number:06}", number)
    store.delete(f"window:{number - 20:06}")
"""


@pytest.fixture
def writing(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Starts a process that writes to the store `s`; it ends when there is a file `stop`."""
    started: list[subprocess.Popen[bytes]] = []

    def writing(kind: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", WRITER, kind], cwd=tmp_path))
        return started[-1]

    yield writing
    for process in started:
        process.kill()
        process.wait(30)


def require_one_instant(copied: dict[str, Plain]) -> None:
    """What the writer keeps true at each moment is true in the copy."""
    newest = copied["pair:a"]
    assert isinstance(newest, int)
    assert copied["pair:b"] == newest
    window = [value for key, value in copied.items() if key.startswith("window:")]
    last = window[-1] if window else 0
    assert isinstance(last, int)
    assert last in (newest, newest - 1)
    assert window == [*range(last - len(window) + 1, last + 1)]
    assert len(window) in (min(last, 20), min(last, 21))


@pytest.mark.parametrize("kind", ["sqlite", "file"])
def test_a_copy_of_a_store_in_use_is_the_store_at_one_instant(
    converge: Converge, writing: Callable[[str], subprocess.Popen[bytes]], kind: str
) -> None:
    made(f"{kind}:s", {f"old-{number:04}": b"x" * 100 for number in range(1200)})
    writer = writing(kind)
    with opened(f"{kind}:s") as source:
        wait_for(lambda: source.get("pair:b") is not None)
        copies = 0
        while copies < 4:
            before, then = source.get("pair:b"), time.monotonic()
            done = converge("store", "copy", f"{kind}:s", "sqlite:t", "--overwrite")
            assert (done.code, done.err) == (0, "")
            copied = held("sqlite:t")
            require_one_instant(copied)
            copies += copied["pair:a"] != before  # else the writer was not given any time meanwhile
            assert time.monotonic() - then < 60
    Path("stop").touch()
    assert writer.wait(30) == 0
    assert converge("store", "copy", f"{kind}:s", "sqlite:t", "--overwrite").code == 0
    assert held("sqlite:t") == held(f"{kind}:s")
