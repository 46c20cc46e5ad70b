"""A store that fails at the n-th write or read, for every n."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from converge.coordination.task_manager import TaskManager
from converge.core.errors import CursorExpired
from converge.core.store import Change, VersionedStore, Write
from converge.core.task import Task, TaskState
from converge.extensions.storage.memory import MemoryStore

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Iterable, Mapping

    from converge.core.plain import Plain


class Failing(MemoryStore):
    """Raises instead of doing the write, or the read, that `writes_left` or `reads_left` comes to."""

    writes_left = reads_left = 1_000_000

    def _write_now(self) -> None:
        self.writes_left -= 1
        if self.writes_left < 0:
            raise OSError(28, "No space left on device")

    def _read_now(self) -> None:
        self.reads_left -= 1
        if self.reads_left < 0:
            raise OSError(5, "Input/output error")

    def put(self, key: str, value: Plain) -> None:
        self._write_now()
        super().put(key, value)

    def put_many(self, items: Mapping[str, Plain]) -> None:
        self._write_now()
        super().put_many(items)

    def compare_and_set(self, key: str, value: Plain, expected: int) -> int:
        self._write_now()
        return super().compare_and_set(key, value, expected)

    def compare_and_set_many(self, writes: Iterable[Write]) -> builtins.list[int | None]:
        self._write_now()
        return super().compare_and_set_many(writes)

    def delete_many(self, keys: Iterable[str]) -> None:
        self._write_now()
        super().delete_many(keys)

    def get_versioned(self, key: str) -> tuple[Plain, int] | None:
        self._read_now()
        return super().get_versioned(key)

    def list(self, prefix: str = "") -> builtins.list[str]:
        self._read_now()
        return super().list(prefix)

    def changes(self, cursor: int | None = None, prefix: str = "") -> tuple[int, builtins.list[Change]]:
        self._read_now()
        return super().changes(cursor, prefix)


class WithoutCommits(Failing):
    """Each write of a batch is a write of its own, which may be the last one."""

    def compare_and_set_many(self, writes: Iterable[Write]) -> builtins.list[int | None]:
        return VersionedStore.compare_and_set_many(self, writes)


def life(manager: TaskManager) -> list[Callable[[], object]]:
    return [
        lambda: manager.submit(Task(id="t", constraints={"max_retries": 2})),
        lambda: manager.submit(Task(id="u")),
        lambda: manager.submit(Task(id="v")),
        lambda: manager.claim("a", "t"),
        lambda: manager.renew_claim("a", "t"),
        lambda: manager.fail_task("t", "again", agent_id="a"),
        lambda: manager.claim("b", "t"),
        lambda: manager.cancel_task("u"),
        lambda: manager.report("b", "t", {"x": 1}),
        lambda: manager.claim("a", "v"),
        lambda: manager.release_claims("a"),
        lambda: manager.fail_task("v", "enough"),
        lambda: manager.submit(Task(id="w")),
        manager.close,
    ]


def records(store: MemoryStore) -> dict[str, Plain]:
    return {key: store.get(key) for key in MemoryStore.list(store, "task:")}


def open_ids(store: MemoryStore) -> set[str]:
    states = {key.removeprefix("task:"): value["state"] for key, value in records(store).items()}  # type: ignore[call-overload, index]  # records are dicts
    return {task_id for task_id, state in states.items() if state in ("pending", "assigned")}


def listed(manager: TaskManager) -> set[str]:
    held = {task.id for agent in "ab" for task in manager.list_held_tasks(agent)}
    return {task.id for task in manager.list_pending_tasks()} | held


@pytest.mark.parametrize("kind", [Failing, WithoutCommits])
@pytest.mark.parametrize(
    ("resource", "known", "least"),
    [("writes_left", 10_000, 10), ("writes_left", 0, 10), ("reads_left", 0, 10), ("reads_left", 10_000, 4)],
)  # with records at hand there are fewer reads that can fail
def test_what_raised_changed_nothing_and_what_was_accepted_is_seen_afterwards(
    kind: type[Failing], resource: str, known: int, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("converge.coordination.task_store._HINTS_PER_COMMIT", 1)
    monkeypatch.setattr("converge.coordination.task_store._KNOWN", known)
    failures = allowed = 0
    while True:
        store = kind()
        manager = TaskManager(store)
        setattr(store, resource, allowed)
        raised = 0
        for operation in life(manager):
            before = records_without_failing(store)
            try:
                operation()
            except (OSError, ValueError):
                raised += 1
                assert records_without_failing(store) == before
        failures += raised
        store.writes_left = store.reads_left = 1_000_000
        fresh = TaskManager(store)
        assert listed(fresh) == listed(manager) == open_ids(store)
        if not raised:
            break
        for operation in life(fresh)[:3]:
            operation()
        assert {"t", "u", "v"} <= {key.removeprefix("task:") for key in records(store)}
        allowed += 1
    assert allowed > least
    assert failures >= allowed


def records_without_failing(store: Failing) -> dict[str, Plain]:
    left = store.reads_left
    store.reads_left = 1_000_000
    found = records(store)
    store.reads_left = left
    return found


def test_a_batch_on_a_store_without_commits_can_be_submitted_again() -> None:
    for allowed in range(8):
        store = WithoutCommits()
        store.writes_left = allowed
        with pytest.raises(OSError, match="No space left"):
            TaskManager(store).submit_many([Task(id=name) for name in "abcd"])
        store.writes_left = 1_000
        fresh = TaskManager(store)
        assert len(fresh.list_pending_tasks()) == allowed // 2
        fresh.submit_many([Task(id=name) for name in "abcd"])
        assert {task.id for task in fresh.list_pending_tasks()} == set("abcd")
        assert {task.id for task in TaskManager(store).list_pending_tasks()} == set("abcd")


def test_a_look_that_failed_at_any_read_is_made_good_by_the_next() -> None:
    for allowed in range(1, 12):
        store = Failing()
        writer, reader = TaskManager(store), TaskManager(store)
        writer.submit_many([Task(id=f"t{number}") for number in range(5)])
        store.reads_left = allowed
        try:
            reader.sync()
        except OSError:
            assert reader.may_have_changed()
        store.reads_left = 1_000
        assert len(reader.list_pending_tasks()) == 5
        writer.submit(Task(id="late"))
        store.reads_left = 0
        with pytest.raises(OSError, match="Input/output"):
            reader.sync()
        store.reads_left = 1_000
        assert len(reader.list_pending_tasks()) == 6


class Interrupting(MemoryStore):
    """Calls `between` once, right after the first listing of hints has been read or before it is."""

    between: Callable[[], object] | None = None
    before = False

    def list(self, prefix: str = "") -> builtins.list[str]:
        between, self.between = self.between, None
        if between is not None and self.before:
            between()
        found = super().list(prefix)
        if between is not None and not self.before:
            between()
        return found


@pytest.mark.parametrize("before", [True, False])
def test_a_manager_that_opens_while_another_works_misses_nothing(*, before: bool) -> None:
    store = Interrupting()
    writer = TaskManager(store)
    writer.submit_many([Task(id="a"), Task(id="b")])

    def work() -> None:
        writer.submit(Task(id="c"))
        writer.cancel_task("a")
        writer.claim("x", "b")
        writer.close()

    store.between, store.before = work, before
    opening = TaskManager(store)
    opening.sync()
    assert [task.id for task in opening.list_pending_tasks()] == ["c"]
    assert [task.id for task in opening.list_held_tasks("x")] == ["b"]
    assert opening.open_among("abc") == {"b", "c"}


class Forgetful(MemoryStore):
    remembered_deletions = 2


def test_a_manager_that_was_away_too_long_lists_again_and_misses_no_end() -> None:
    store = Forgetful()
    away, worker = TaskManager(store), TaskManager(store)
    mine = [Task(id=f"t{number}") for number in range(6)]
    away.submit_many(mine)
    assert away.claim("x", "t5")
    assert len(away.list_pending_tasks()) == 5
    cursor = store.changes()[0]
    for number in range(4):
        worker.cancel_task(f"t{number}")
    worker.submit(Task(id="new"))
    worker.close()
    with pytest.raises(CursorExpired):
        store.changes(cursor)
    assert [task.id for task in away.list_pending_tasks()] == ["t4", "new"]
    assert [task.id for task in away.list_held_tasks("x")] == ["t5"]
    assert [task.state for task in mine[:4]] == [TaskState.CANCELLED] * 4
    assert (away.progress().pending, away.progress().claimed, away.progress().cancelled) == (2, 1, 4)
    worker.cancel_task("t4")
    assert away.progress().done == 5


def test_hints_that_could_not_be_removed_are_removed_by_the_next_opening() -> None:
    store = Failing()
    manager = TaskManager(store)
    manager.submit_many([Task(id="t"), Task(id="u")])
    manager.cancel_task("t")
    store.writes_left = 0
    manager.close()
    assert manager.counters["hints_left"] == 1
    store.writes_left = 10
    fresh = TaskManager(store)
    assert [task.id for task in fresh.list_pending_tasks()] == ["u"]
    assert store.list("open:") == ["open:t", "open:u"]
    fresh.close()
    assert store.list("open:") == ["open:u"]
