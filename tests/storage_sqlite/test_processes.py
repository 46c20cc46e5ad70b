"""What a process meets on a full disk and in a read-only folder; processes that share a file are the contract's."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import pytest

from converge.extensions.storage.sqlite import SQLiteStore
from converge.testing.store.children import Children

WORKER = Path(__file__).with_name("sqlite_worker.py")


def run(*arguments: object) -> str:
    command = [sys.executable, str(WORKER), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("limit", [100_000, 300_001])
def test_a_write_that_finds_no_space_changes_nothing_and_later_ones_work(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "s.db"
    accepted, refused, (keys, old), later = json.loads(run("fill", path, limit))
    assert accepted > 0
    assert refused.startswith(f"StoreFileError: {path}: ")
    assert "nothing was changed" in refused
    assert keys == sorted(["old", *(f"a{number}" for number in range(accepted))])
    assert (old, later) == (accepted - 1, 1)


def test_a_read_only_folder_is_an_error_that_says_what_to_do() -> None:
    with tempfile.TemporaryDirectory() as name:  # not tmp_path: the worker becomes a user who may not enter that
        folder = Path(name)
        folder.chmod(0o555)
        said = run("open_in_read_only_folder", folder / "s.db")
        assert said.startswith(f"StoreFileError: {folder / 's.db'}: Permission denied; see that the folder exists")
        assert list(folder.iterdir()) == []


def test_a_forked_child_is_told_which_store_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with Children(partial(SQLiteStore, path)) as children:
        answers = children.start("use_after_fork").hear()
    told = f"{path}: this store was opened before a fork; open it in the child, after the fork"
    assert set(answers.values()) == {told}
    assert len(answers) >= 7
