"""What the tests run in processes of their own: `sqlite_worker.py TASK PATH …`."""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import TYPE_CHECKING

from converge.core.errors import StoreError
from converge.extensions.storage.sqlite import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import Callable


def fill(path: str, limit: str) -> None:
    """Write until the file may not grow; print what was accepted, what was refused and how, and what came after."""
    store = SQLiteStore(path, durability="process")
    store.put("old", "old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    accepted, refused = [], ""
    for number in range(1000):
        try:
            store.put_many({f"a{number}": "x" * 9000, "old": number})
        except OSError as error:
            refused = f"{type(error).__name__}: {error}"
            break
        accepted.append(number)
    held = [store.list(), store.get("old")]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    store.put("later", 1)
    sys.stdout.write(json.dumps([len(accepted), refused, held, store.get("later")]))


def open_in_read_only_folder(path: str) -> None:
    """Print the error; root may write anywhere, so become somebody else first."""
    if os.geteuid() == 0:
        os.seteuid(65534)
    try:
        SQLiteStore(path)
    except StoreError as error:
        sys.stdout.write(f"{type(error).__name__}: {error}")


TASKS: list[Callable[..., None]] = [fill, open_in_read_only_folder]

if __name__ == "__main__":
    next(task for task in TASKS if task.__name__ == sys.argv[1])(*sys.argv[2:])
