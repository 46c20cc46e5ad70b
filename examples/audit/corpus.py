"""The body of code under audit: which Python files it holds, and one id for exactly that content."""

from __future__ import annotations

import hashlib
import os
import stat
import sysconfig
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from attrs import frozen

from converge.core.errors import ConvergeError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["STDLIB", "CorpusNotFoundError", "EmptyCorpusError", "SourceFile", "find", "job_id", "read", "root_of"]

STDLIB = "stdlib"
"""The path that stands for the standard library of the running interpreter (a folder of that name is `./stdlib`)."""

_SKIPPED_FOLDERS = frozenset({"__pycache__", "site-packages"})


class CorpusNotFoundError(ConvergeError, FileNotFoundError):
    """The path to audit does not exist."""


class EmptyCorpusError(ConvergeError, ValueError):
    """The path to audit exists, but there is no Python file in it."""


@frozen
class SourceFile:
    """One file of the corpus.

    `path` is relative to the root with `/` between its parts, `size` is in bytes, `sha256` is the hex digest of the
    contents. A file that cannot be read has size 0, no digest, and says why in `error`; otherwise `error` is None.
    """

    path: str
    size: int
    sha256: str
    error: str | None = None


def root_of(path: str) -> Path:
    """The folder that the relative paths of `find(path)` start from.

    `CorpusNotFoundError` when there is no such path.
    """
    target = Path(sysconfig.get_path("stdlib") if path == STDLIB else path)
    if not target.exists():
        raise CorpusNotFoundError(f"{path!r} does not exist; give a folder, a Python file or {STDLIB!r}")
    return target if target.is_dir() else target.parent


def find(path: str) -> list[SourceFile]:
    """Every `*.py` file under the folder `path`, or the one file `path`, sorted by relative path.

    Skipped are folders whose name starts with a dot, `__pycache__`, `site-packages`, and symbolic links to folders, so
    that no loop can trap the walk and no file is counted twice. Nothing else is left out: what cannot be read is
    listed with its error, a folder that cannot be opened too. Raises `CorpusNotFoundError` and `EmptyCorpusError`.
    """
    root = root_of(path)
    if path == STDLIB or Path(path).is_dir():
        found = _walk(root)
    else:
        found = [_describe(root, name) for name in _python([Path(path).name])]
    if not found:
        raise EmptyCorpusError(f"there is no Python file (*.py) in {path!r}; give a folder or file that has some")
    return sorted(found, key=lambda file: file.path)


def job_id(files: Iterable[SourceFile]) -> str:
    """16 hex digits that are equal on every machine that sees the same relative paths with the same contents.

    A SHA-256 over the sorted paths and content digests, each preceded by its length so that no two lists look alike.
    """
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.path):
        for part in (file.path.encode(), file.sha256.encode()):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:16]


def read(root: Path, path: str) -> bytes:
    """The contents of the file at the relative `path` under `root`.

    A path that would lead out of `root` is a `ValueError`, for a path may come from another agent. What is not a
    regular file is an `OSError`, like every other reason why it cannot be read.
    """
    pure = PurePosixPath(path)
    target = root / pure
    if pure.is_absolute() or ".." in pure.parts or target.drive != root.drive:
        raise ValueError(f"{path!r} leads out of the folder under audit; give a path relative to it, without '..'")
    if not stat.S_ISREG(target.stat().st_mode):  # opening a pipe would wait for its writer for ever
        raise OSError(f"{path!r} is not a regular file")
    return target.read_bytes()


def _walk(root: Path) -> list[SourceFile]:
    """The Python files under `root` and the folders that cannot be opened, in no order."""
    found: list[SourceFile] = []

    def closed(error: OSError) -> None:
        found.append(_unreadable(Path(error.filename).relative_to(root).as_posix(), error))

    for folder, folders, files in os.walk(root, onerror=closed):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _SKIPPED_FOLDERS]
        place = Path(folder).relative_to(root)
        found += [_describe(root, (place / name).as_posix()) for name in _python(files)]
    return found


def _python(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.endswith(".py")]


def _describe(root: Path, name: str) -> SourceFile:
    try:
        data = read(root, name)
        name.encode()
    except OSError as error:
        return _unreadable(name, error)
    except UnicodeEncodeError:
        return _unreadable(name, OSError("its name is not valid UTF-8; rename it"))
    return SourceFile(name, len(data), hashlib.sha256(data).hexdigest())


def _unreadable(name: str, error: OSError) -> SourceFile:
    shown = name.encode("utf-8", "backslashreplace").decode()  # a name that is no UTF-8 has lone surrogates
    return SourceFile(shown, 0, "", f"cannot be read: {error.strerror or error}")
