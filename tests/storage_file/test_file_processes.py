"""What a writer leaves in the folder when it dies or may not grow a file; other processes are the contract's."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from converge.core.store import DELETED
from converge.extensions.storage.file import FileStore
from converge.testing.store.children import Children

WORKER = Path(__file__).with_name("file_worker.py")


def run(*arguments: object) -> str:
    command = [sys.executable, str(WORKER), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "operation", ["put", "put_if_absent", "delete", "put_many", "delete_many", "compare_and_set_many"]
)
def test_a_writer_killed_before_any_call_has_done_all_of_it_or_nothing(operation: str, path: Path) -> None:
    outcomes = json.loads(run("die_at_each_call", path, operation))
    assert outcomes[0] == ["old", True]
    assert outcomes[-1] == ["new", True]
    assert all(outcome in (["old", True], ["new", True]) for outcome in outcomes), outcomes
    assert outcomes == sorted(outcomes, key=lambda outcome: outcome[0] == "new"), "old up to one moment, new after it"
    assert len(outcomes) > 5


def test_a_file_that_may_not_grow_is_an_os_error_and_changes_nothing(path: Path) -> None:
    refused, held, kept, seen = json.loads(run("fill", path))
    assert refused == ["OSError"] * 4
    assert held == {"old": "old", "other": 1}
    assert kept is True
    assert seen == ["later"]
    with FileStore(path) as store:
        assert store.list() == ["k", "later", "old", "other"]
        assert DELETED not in [change.value for change in store.changes(0)[1]]


def test_a_forked_child_is_told_which_store_and_what_to_do(path: Path) -> None:
    with Children(partial(FileStore, path)) as children:
        answers = children.start("use_after_fork").hear()
    told = f"{path}: this store was opened before a fork; open it in the child, after the fork"
    assert set(answers.values()) == {told}
    assert len(answers) >= 7
