"""Stores that the tests of the command make, damage and look into, past the command."""

from __future__ import annotations

from pathlib import Path

from converge.core.plain import Plain
from converge.core.store import Store, VersionedStore, versioned
from converge.plugins import default_manager

KINDS = ("sqlite", "file", "shelf")
"""A name for each kind of store; `shelf` has four methods (see conftest)."""

VALUES: dict[str, Plain] = {
    "bytes": b"\0\xff",
    "dict": {"é": [1, None, {"deep": b"x"}], "$bytes": "no"},
    "float": float("inf"),
    "int": 7,
    "null": None,
    "text": "line\nnext \x1b[31m",
}
MARK = "a mark that is found in the bytes of a record"


def made(name: str, values: dict[str, Plain]) -> str:
    """A store of plugin and path `name`, filled and closed."""
    with opened(name) as store:
        if isinstance(store, VersionedStore):
            store.put_many(values)
        else:
            for key, value in values.items():
                store.put(key, value)
    return name


def opened(name: str) -> Store:
    plugin, _, path = name.partition(":")
    store = default_manager().build("store", {"use": plugin, "path": path})
    assert isinstance(store, Store)
    return store


def damage(path: Path) -> None:
    """Turn a byte over of the one record that has the mark in it."""
    files = path.rglob("*") if path.is_dir() else [path]
    (file,) = [file for file in files if file.is_file() and MARK.encode() in file.read_bytes()]
    file.write_bytes(file.read_bytes().replace(MARK.encode(), MARK.upper().encode()))


def damaged(name: str) -> str:
    """A store with three keys, the second of which is damaged."""
    made(name, {"a": 1, "b": MARK, "c": 3})
    damage(Path(name.partition(":")[2]))
    return name


def space(path: Path) -> int:
    """The bytes in a file, or in a folder and of its sub-folders."""
    return sum(each.stat().st_size for each in [path, *path.rglob("*")])


def content(store: VersionedStore, prefix: str = "") -> dict[str, Plain]:
    return {key: store.get(key) for key in store.list(prefix)}


def held(name: str) -> dict[str, Plain]:
    with opened(name) as store:
        return content(versioned(store))
