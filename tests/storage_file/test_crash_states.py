"""What a power cut may leave at any moment: the last accepted state or the one under way, and no version twice."""

from __future__ import annotations

import copy
import os
import random
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, Self

import pytest

from converge.core.errors import StoreError
from converge.core.store import Write
from converge.extensions.storage.file import FileStore
from converge.extensions.storage.file.counters import Counters
from converge.extensions.storage.file.folder import Folder
from converge.extensions.storage.file.journal import Journal
from converge.extensions.storage.file.ledger import Ledger
from converge.extensions.storage.file.record import decode_record
from tests.storage_file import crash_disk
from tests.storage_file.crash_disk import Killed, Recorder, read_tree, safe_disk, write_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from converge.core.plain import Plain

KEYS = [f"k{number}" for number in range(6)]

Held = dict[str, tuple["Plain", int]]
"""Value and version of each key that is there."""

Operation = tuple[str, "Callable[[FileStore], object]"]


class Crash(NamedTuple):
    """What a power cut left, and what has to be there: one of `states`, and no version up to `seen` again."""

    tree: crash_disk.Tree
    states: list[Held]
    seen: int
    during: str


def operations(chance: random.Random, count: int) -> list[Operation]:
    """Operations of each kind in turn, with random values, on few keys."""

    def value() -> Plain:
        return {"n": chance.randrange(1000), "pad": "p" * chance.choice([0, 20, 5000])}

    def version(store: FileStore, key: str) -> int:
        found = store.get_versioned(key)
        return found[1] if found else 0

    def one(number: int) -> Operation:
        key, item = chance.choice(KEYS), value()
        some = {key: value() for key in chance.sample(KEYS, 3)}
        return [
            ("put", lambda store: store.put(key, item)),
            ("compare_and_set", lambda store: store.compare_and_set(key, item, version(store, key))),
            ("put_if_absent", lambda store: store.put_if_absent(key, item)),
            ("delete", lambda store: store.delete(key)),
            ("put_many", lambda store: store.put_many(some)),
            ("delete_many", lambda store: store.delete_many(some)),
            (
                "compare_and_set_many",
                lambda store: store.compare_and_set_many(
                    [Write(key, item, version(store, key)) for key, item in some.items()]
                ),
            ),
        ][number * 4 % 7]

    return [one(number) for number in range(count)]


def held_by(store: FileStore) -> Held:
    return {key: found for key in KEYS if (found := store.get_versioned(key)) is not None}


def newest_visible(disk: crash_disk.Folder) -> int:
    """The newest version that a reader could see at this moment."""
    newest = 0
    for place, content in disk.tree().items():
        if place.endswith(".record") and content is not None:
            with suppress(ValueError):  # one of the mistakes below shows readers half a record
                newest = max(newest, decode_record(content).version)
    return newest


class Explorer:
    """Runs real stores on a recorded disk, and collects what a power cut could leave after each of their calls."""

    def __init__(self, tmp_path: Path, seed: int, cuts: int = 4) -> None:
        self.tmp_path = tmp_path
        self.chance = random.Random(seed)
        self.cuts = cuts
        self.crashes: list[Crash] = []
        self.moments: list[tuple[crash_disk.Folder, list[Held], int, str]] = []
        self._known: set[int] = set()
        self._folders = 0

    def run(self, count: int) -> None:
        """Explore a store from its first opening through `count` random operations."""
        root = self._new_root()
        disk = crash_disk.Folder()
        root.mkdir()
        with Recording(self, root, disk) as recording:
            recording.states[:] = [{}]
            store = FileStore(root)
            for name, operate in operations(random.Random(count), count):
                self._during(name, operate, store, recording)
            assert read_tree(root) == disk.tree(), "the recorder has missed a call"
            store.close()

    def _during(self, name: str, operate: Callable[[FileStore], object], store: FileStore, now: Recording) -> None:
        before = held_by(store)
        states = [before]
        now.begin(states, name)
        operate(store)
        after = held_by(store)
        states.append(after)  # all that was collected during the operation shares this list
        now.begin([after], f"after {name}")
        now.seen = max(now.seen, store.changes()[0])
        now.collect()

    def recover(self, disk: crash_disk.Folder, states: list[Held], seen: int, during: str) -> None:
        """Explore the recovery of a store whose processes all died: the calls of the next one that opens it."""
        root = self._new_root()
        write_tree(root, disk.tree())
        with Recording(self, root, disk) as recording:
            recording.seen = seen
            recording.begin(states, f"recovery from {during}")
            FileStore(root).close()

    def kill(self, name: str, operate: Callable[[FileStore], object], after_calls: int) -> bool:
        """Explore what another process does after one was killed at its n-th call; False when it makes fewer."""
        root = self._new_root()
        root.mkdir()
        disk = crash_disk.Folder()
        with Recording(self, root, disk) as recording:
            recording.muted = True
            beside, dying = FileStore(root), FileStore(root)
            dying.put_many(dict.fromkeys(KEYS[:4], "old"))
            before = held_by(beside)
            recording.recorder.calls_left = after_calls
            try:
                operate(dying)
            except Killed:
                killed = True
            else:
                killed = False
            recording.recorder.calls_left = None
            recording.seen = max(recording.seen, newest_visible(disk))
            unfinished = [before, self._peek(root)]
            if (root / ".batch").exists() or not killed:
                unfinished = []  # accepted; whoever comes next completes it
            self._write_beside(beside, recording, unfinished, f"{name} killed at call {after_calls}")
            beside.close()
        return killed

    def _write_beside(self, beside: FileStore, now: Recording, unfinished: list[Held], during: str) -> None:
        """A put of another process, while it is open whether what `unfinished` tells of is on the disk."""
        if not unfinished:
            beside.list()
            unfinished = [held_by(beside)]
        states = list(unfinished)
        now.muted = False
        now.begin(states, f"put beside {during}")
        version = beside.compare_and_set("k5", "beside", 0)
        states += [state | {"k5": ("beside", version)} for state in unfinished]
        now.seen = max(now.seen, version)

    def _peek(self, root: Path) -> Held:
        """What readers see in `root`, without a store that could change it."""
        found = [decode_record(place.read_bytes()) for place in root.glob("*/*.record")]
        return {record.key: (record.value, record.version) for record in found}

    def _new_root(self) -> Path:
        self._folders += 1
        return self.tmp_path / f"run-{self._folders}"

    def collect(self, disk: crash_disk.Folder, states: list[Held], seen: int, during: str) -> None:
        for tree in [*disk.worst_cuts(), *(disk.cut(self.chance) for _ in range(self.cuts))]:
            digest = hash((frozenset(tree.items()), id(states), seen))
            if digest not in self._known:
                self._known.add(digest)
                self.crashes.append(Crash(tree, states, seen, during))

    def violations(self) -> Iterator[str]:
        """What is wrong after each crash, of the crashes where something is."""
        root = self.tmp_path / "crash"
        for crash in self.crashes:
            write_tree(root, crash.tree)
            if wrong := wrong_after(crash, root):
                yield f"{crash.during}: {wrong}"


class Recording:
    """One store's life on a recorded disk."""

    def __init__(self, explorer: Explorer, root: Path, disk: crash_disk.Folder) -> None:
        self.explorer, self.disk = explorer, disk
        self.states: list[Held] = []
        self.seen = 0
        self.during = "the first opening"
        self.muted = False
        self.recorder = Recorder(root, disk, self.collect)
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> Self:
        self.recorder.install(self._patch)
        return self

    def __exit__(self, *exception: object) -> None:
        self._patch.undo()

    def begin(self, states: list[Held], during: str) -> None:
        self.states, self.during = states, during

    def collect(self) -> None:
        if self.muted:
            return
        self.seen = max(self.seen, newest_visible(self.disk))
        self.explorer.collect(self.disk, self.states, self.seen, self.during)
        if ".batch" in self.disk.names or self.explorer.chance.random() < 0.05:
            self.explorer.moments.append((copy.deepcopy(self.disk), self.states, self.seen, self.during))


def wrong_after(crash: Crash, root: Path) -> str:
    """What a real store that opens the folder finds wrong; nothing has to be durable any more."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)
        try:
            with FileStore(root) as store:
                return _wrong_in(store, crash)
        except (OSError, StoreError) as error:
            return repr(error)


def _wrong_in(store: FileStore, crash: Crash) -> str:
    held = held_by(store)
    if held not in crash.states:
        return f"it holds {held}, and not one of {crash.states}"
    if store.list() != sorted(held):
        return f"it lists {store.list()}, and holds {sorted(held)}"
    if sorted(change.key for change in store.changes(0)[1]) != sorted(held):
        return "the feed tells something else"
    if damage := [*store.check()]:
        return f"it finds {damage}"
    version = store.compare_and_set("fresh", 1, 0)
    return f"version {version} is given out again" if version <= crash.seen else ""


def test_every_crash_state_holds_the_last_accepted_state_or_the_one_under_way(tmp_path: Path) -> None:
    explorer = Explorer(tmp_path, seed=1, cuts=3)
    explorer.run(28)
    assert [*explorer.violations()] == []
    assert {crash.during.removeprefix("after ") for crash in explorer.crashes} == {
        "the first opening", "put", "compare_and_set", "put_if_absent", "delete", "put_many", "delete_many",
        "compare_and_set_many",
    }  # fmt: skip
    assert len(explorer.crashes) > 1500


def test_a_crash_during_the_recovery_from_a_crash_loses_nothing_either(tmp_path: Path) -> None:
    explorer = Explorer(tmp_path, seed=2, cuts=1)
    explorer.run(25)
    kills = explorer.chance.sample(explorer.moments, 25)
    crashes = explorer.chance.sample(explorer.crashes, 10)
    explorer.crashes.clear()
    assert sum(".batch" in disk.names for disk, *_ in kills) > 10
    for kill in kills:
        explorer.recover(*kill)
    for crash in crashes:
        explorer.recover(safe_disk(crash.tree), crash.states, crash.seen, crash.during)
    assert [*explorer.violations()] == []
    assert len(explorer.crashes) > 500


def without_file_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    create = Folder.create

    def forgetful(self: Folder, name: str, data: bytes, *, durable: bool = True) -> None:
        create(self, name, data, durable=False)

    def closing(self: Folder, descriptors: list[int]) -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    monkeypatch.setattr(Folder, "create", forgetful)
    monkeypatch.setattr(Folder, "finish", closing)


def without_folder_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Folder, "sync", lambda self, shard="": None)


def with_the_rename_before_the_file_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    without_file_sync(monkeypatch)
    move = Folder.move

    def hasty(self: Folder, old: str, new: str) -> None:
        move(self, old, new)
        descriptor = os.open(self.place(new), os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    monkeypatch.setattr(Folder, "move", hasty)


def with_writes_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    move = Folder.move

    def in_place(self: Folder, old: str, new: str) -> None:
        if not new.endswith(".record"):
            move(self, old, new)
            return
        data = self.read(old)
        assert data is not None
        descriptor = os.open(self.place(new), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(descriptor, data)
        os.fsync(descriptor)
        os.close(descriptor)
        self.remove(old)

    monkeypatch.setattr(Folder, "move", in_place)


def without_counters_of_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    move = Counters.move
    monkeypatch.setattr(Counters, "move", lambda self, shard, number: None if shard else move(self, shard, number))


def without_noticing_an_old_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    complete = Ledger._complete_batch
    monkeypatch.setattr(Ledger, "_complete_batch", lambda self, counter: complete(self, 0))


MISTAKES = [
    without_file_sync,
    without_folder_sync,
    with_the_rename_before_the_file_sync,
    with_writes_in_place,
    without_counters_of_shards,
    without_noticing_an_old_batch,
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=[mistake.__name__ for mistake in MISTAKES])
def test_the_explorer_finds_a_store(mistake: Callable[[pytest.MonkeyPatch], None], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        mistake(monkeypatch)
        explorer = Explorer(tmp_path, seed=4)
        explorer.run(15)
        explorer.chance.shuffle(explorer.crashes)
        assert next(explorer.violations(), None) is not None


def test_the_explorer_finds_a_store_that_goes_on_after_a_killed_writer(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Journal, "is_finished", lambda self: True)
        explorer = Explorer(tmp_path, seed=5, cuts=1)
        calls = 0
        while explorer.kill(*KILLED[0], calls):
            calls += 1
        assert any("given out again" in violation for violation in explorer.violations())


def test_the_explorer_finds_a_recovery_that_completes_a_batch_which_is_not_durable(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        complete = Ledger._complete_batch

        def hasty(self: Ledger, counter: int) -> None:
            with pytest.MonkeyPatch.context() as inner:
                sync = Folder.sync
                inner.setattr(Folder, "sync", lambda self, shard="": sync(self, shard) if shard else None)
                complete(self, counter)

        monkeypatch.setattr(Ledger, "_complete_batch", hasty)
        explorer = Explorer(tmp_path, seed=6, cuts=2)
        explorer.run(15)
        explorer.crashes.clear()
        for kill in explorer.moments.copy():
            explorer.recover(*kill)
        assert next(explorer.violations(), None) is not None


KILLED: list[Operation] = [
    ("put", lambda store: store.put("k0", "new")),
    ("delete", lambda store: store.delete("k1")),
    ("put_many", lambda store: store.put_many({"k0": "new", "k2": "new", "k4": "new"})),
]


@pytest.mark.parametrize(("name", "operate"), KILLED, ids=[name for name, _ in KILLED])
def test_a_power_cut_after_a_kill_loses_nothing_that_another_process_wrote(
    name: str, operate: Callable[[FileStore], object], tmp_path: Path
) -> None:
    explorer = Explorer(tmp_path, seed=3, cuts=1)
    calls = 0
    while explorer.kill(name, operate, calls):
        calls += 1
    assert [*explorer.violations()] == []
    assert calls > 5
    assert len(explorer.crashes) > 200
