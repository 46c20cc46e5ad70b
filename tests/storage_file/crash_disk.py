"""A disk that remembers which of its writes a power cut may take, fed by the calls of a real store.

The model is strict. The content of a file is safe once the file was flushed. A name is safe once the folder that holds
it was flushed: of the changes to each folder since then any number of the first ones may survive, whatever survives of
other folders. A rename within a folder is one change. Of a file's new content nothing, half, zeros of its length, or
all may be there.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    import pytest

Tree: TypeAlias = "dict[str, bytes | None]"
"""Path of each file below the root, with its content; None for a folder."""


class File:
    """The content on the disk, and the one that readers see."""

    def __init__(self, content: bytes = b"", *, safe: bool = False) -> None:
        self.content = content
        self.safe = content if safe else b""

    def flush(self) -> None:
        self.safe = self.content

    def after_a_cut(self) -> list[bytes]:
        if self.content == self.safe:
            return [self.content]
        if self.content.startswith(self.safe):
            added = self.content[len(self.safe) :]
            ends = [b"", added[: len(added) // 2], bytes(len(added)), added]
            return [self.safe + end for end in ends]
        return [self.safe, b"", self.content[: len(self.content) // 2], bytes(len(self.content)), self.content]


class Folder:
    """The names on the disk, those that readers see, and the changes between the two."""

    def __init__(self) -> None:
        self.names: dict[str, File | Folder] = {}
        self.safe: dict[str, File | Folder] = {}
        self.pending: list[dict[str, File | Folder | None]] = []

    def change(self, names: dict[str, File | Folder | None]) -> None:
        _apply(self.names, names)
        self.pending.append(names)

    def flush(self) -> None:
        self.safe = dict(self.names)
        self.pending.clear()

    def after_a_cut(self, kept: int) -> dict[str, File | Folder]:
        names = dict(self.safe)
        for change in self.pending[:kept]:
            _apply(names, change)
        return names

    def tree(self) -> Tree:
        """What readers see."""
        return dict(_tree(self, "", lambda folder: folder.names, lambda file: file.content))

    def cut(self, chance: random.Random) -> Tree:
        """What one power cut leaves."""

        def names(folder: Folder) -> dict[str, File | Folder]:
            return folder.after_a_cut(chance.randint(0, len(folder.pending)))

        return dict(_tree(self, "", names, lambda file: chance.choice(file.after_a_cut())))

    def worst_cuts(self) -> Iterator[Tree]:
        """A power cut that leaves as little as it may, and one that keeps all names and as little content as it may."""
        yield dict(_tree(self, "", lambda folder: folder.safe, lambda file: file.safe))
        yield dict(_tree(self, "", lambda folder: folder.names, lambda file: file.safe))


class Killed(BaseException):
    """Raised in a store that is dead: nothing that it does from now on reaches the disk."""


class Recorder:
    """Passes calls of `os` that concern files below `root` on to the system, notes them in `disk`, tells `seen`."""

    def __init__(self, root: Path, disk: Folder, seen: Callable[[], None]) -> None:
        self.root = str(root)
        self.disk = disk
        self.seen = seen
        self.calls_left: int | None = None
        self._nodes: dict[int, File | Folder] = {}

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in CHANGING:
            monkeypatch.setattr(os, name, self._counted(getattr(os, name), getattr(self, f"_{name}")))

    def _counted(self, real: Callable[..., Any], record: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            concerned = any(self._concerns(argument) for argument in arguments[:2])
            if concerned and real is not CHANGING["close"]:
                if self.calls_left == 0:
                    raise Killed
                if self.calls_left is not None:
                    self.calls_left -= 1
            result = record(real, *arguments, **named) if concerned else real(*arguments, **named)
            if concerned:
                self.seen()
            return result

        return call

    def _concerns(self, argument: object) -> bool:
        if isinstance(argument, int):
            return argument in self._nodes
        return isinstance(argument, str | os.PathLike) and f"{argument}/".startswith(f"{self.root}/")

    def _at(self, place: object) -> tuple[Folder, str]:
        """The folder that holds `place`, and the name in it."""
        *folders, name = str(place).removeprefix(self.root).strip("/").split("/")
        found = self.disk
        for part in folders:
            inner = found.names[part]
            assert isinstance(inner, Folder)
            found = inner
        return found, name

    def _file(self, descriptor: int) -> File:
        node = self._nodes[descriptor]
        assert isinstance(node, File)
        return node

    def _write_at(self, descriptor: int, data: bytes, at: int) -> None:
        file = self._file(descriptor)
        file.content = file.content[:at].ljust(at, b"\0") + data + file.content[at + len(data) :]

    def _open(self, real: Callable[..., Any], place: object, flags: int, *rest: Any) -> Any:
        descriptor = real(place, flags, *rest)
        folder, name = self._at(place)
        if name and name not in folder.names:
            assert flags & os.O_CREAT
            folder.change({name: File()})
        node = folder.names[name] if name else self.disk
        if flags & os.O_TRUNC and isinstance(node, File):
            node.content = b""
        self._nodes[descriptor] = node
        return descriptor

    def _write(self, real: Callable[..., Any], descriptor: int, data: bytes) -> Any:
        at = os.lseek(descriptor, 0, os.SEEK_CUR)
        written = real(descriptor, data)
        self._write_at(descriptor, bytes(data)[:written], at)
        return written

    def _pwrite(self, real: Callable[..., Any], descriptor: int, data: bytes, at: int) -> Any:
        written = real(descriptor, data, at)
        self._write_at(descriptor, bytes(data)[:written], at)
        return written

    def _ftruncate(self, real: Callable[..., Any], descriptor: int, size: int) -> None:
        real(descriptor, size)
        file = self._file(descriptor)
        file.content = file.content[:size].ljust(size, b"\0")

    def _fsync(self, real: Callable[..., Any], descriptor: int) -> None:
        self._nodes[descriptor].flush()  # the model's disk; the real one would only cost time

    def _close(self, real: Callable[..., Any], descriptor: int) -> None:
        real(descriptor)
        del self._nodes[descriptor]

    def _rename(self, real: Callable[..., Any], old: object, new: object) -> None:
        real(old, new)
        (source, old_name), (target, new_name) = self._at(old), self._at(new)
        node = source.names[old_name]
        if source is target:
            source.change({old_name: None, new_name: node} if old_name != new_name else {})
        else:
            target.change({new_name: node})
            source.change({old_name: None})

    def _link(self, real: Callable[..., Any], old: object, new: object) -> None:
        real(old, new)
        (source, old_name), (target, new_name) = self._at(old), self._at(new)
        target.change({new_name: source.names[old_name]})

    def _unlink(self, real: Callable[..., Any], place: object) -> None:
        real(place)
        folder, name = self._at(place)
        folder.change({name: None})

    def _rmdir(self, real: Callable[..., Any], place: object) -> None:
        self._unlink(real, place)

    def _mkdir(self, real: Callable[..., Any], place: object, *mode: int) -> None:
        real(place, *mode)
        folder, name = self._at(place)
        folder.change({name: Folder()})


CHANGING: dict[str, Callable[..., Any]] = {
    name: getattr(os, name)
    for name in ("open", "write", "pwrite", "ftruncate", "fsync", "close", "rename", "link", "unlink", "rmdir", "mkdir")
}


def safe_disk(tree: Tree) -> Folder:
    """A disk that holds `tree`, all of it safe."""
    root = Folder()
    for place, content in sorted(tree.items()):
        *folders, name = place.split("/")
        found = root
        for part in folders:
            inner = found.names[part]
            assert isinstance(inner, Folder)
            found = inner
        found.names[name] = found.safe[name] = Folder() if content is None else File(content, safe=True)
    return root


def write_tree(root: Path, tree: Tree) -> None:
    """Let the folder `root` hold `tree` and nothing else; what is there already is used again."""
    root.mkdir(exist_ok=True)
    for folder, folders, files in os.walk(root, topdown=False):
        for name in files:
            Path(folder, name).unlink()
        for name in folders:
            if os.path.relpath(f"{folder}/{name}", root) not in tree:
                Path(folder, name).rmdir()
    for place, content in sorted(tree.items()):
        if content is None:
            (root / place).mkdir(exist_ok=True)
        else:
            (root / place).write_bytes(content)


def read_tree(root: Path) -> Tree:
    """The content of the folder `root`."""
    return {
        str(place.relative_to(root)): None if stat.S_ISDIR(place.lstat().st_mode) else place.read_bytes()
        for place in root.rglob("*")
    }


def _apply(names: dict[str, File | Folder], change: dict[str, File | Folder | None]) -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _tree(
    folder: Folder,
    start: str,
    names: Callable[[Folder], dict[str, File | Folder]],
    content: Callable[[File], bytes],
) -> Iterator[tuple[str, bytes | None]]:
    for name, node in names(folder).items():
        if isinstance(node, File):
            yield start + name, content(node)
        else:
            yield start + name, None
            yield from _tree(node, f"{start}{name}/", names, content)
