"""The contract of stores fails for a store with a mistake: each race and each kill has its mutant."""

from __future__ import annotations

import inspect
import sys
from contextlib import ExitStack
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar

import pytest

from converge.core.errors import StoreError
from converge.testing.store import StoreContract
from converge.testing.store.children import Children
from tests.core.testing import broken_stores as broken

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from converge.core.store import Store

pytest_plugins = ["pytester"]


class Impatient(StoreContract):
    patience: ClassVar[float] = 3.0


class FourMethods(StoreContract):
    versioned = False


class OneProcess(StoreContract):
    shared = False


class NeverCloses(StoreContract):
    closes = False


def run(contract: StoreContract, test: str, opener: Callable[[], Store]) -> None:
    """Run one test of the contract, with what its fixtures give for `opener`."""
    method = getattr(contract, test)
    wanted = inspect.signature(method).parameters
    with ExitStack() as stack:
        given: dict[str, object] = {"opener": opener, "attempt": 0, "reopen": None}
        if {"store", "feed", "together"} & {*wanted}:
            store = stack.enter_context(opener())
            given |= {"store": store, "feed": store}
        if "together" in wanted:
            given["together"] = [store, store, stack.enter_context(opener()), stack.enter_context(opener())]
        if "children" in wanted:
            given["children"] = stack.enter_context(Children(opener))
        method(**{name: given[name] for name in wanted})


KILLS = "what_was_accepted_survives_kills_and_no_version_is_used_again"
MISTAKES: list[tuple[Callable[[Path], Store], str, str]] = [
    (broken.GivesVersionsTwice, "no_increment_is_lost_and_no_version_given_twice_among_processes", "later version"),
    (broken.BeginsAnewWhereNothingIs, "processes_may_open_new_data_at_the_same_instant", "open_first|p0"),
    (broken.SeesItsOwnWritesOnly, "a_change_by_another_process_is_seen_at_once", "a false no"),
    (broken.KeepsWhatItHasRead, "a_change_by_another_process_is_seen_at_once", "assert 0 == 1"),
    (broken.ForgetsDeletions, "a_change_by_another_process_is_seen_at_once", "DELETED"),
    (broken.TellsOfItsLockFile, "notices_tell_of_each_write_by_another_process", "was told to nobody"),
    (broken.TellsForGood, "notices_tell_of_each_write_by_another_process", "what was cleared is told again"),
    (broken.ForgetsDeletions, "processes_that_write_see_all_of_each_other", "follows the feed"),
    (broken.SeesItsOwnWritesOnly, "processes_that_write_see_all_of_each_other", "follows the feed"),
    (broken.EmptiesBeforeItWrites, "a_reader_sees_only_accepted_values_while_processes_write", "always there"),
    (broken.WritesInTwoSteps, "a_reader_sees_only_accepted_values_while_processes_write", "nobody has written"),
    (broken.KeepsWhatItHasRead, "a_reader_sees_only_accepted_values_while_processes_write", "shown no more than"),
    (broken.CompactsACopy, "compact_and_check_may_run_while_another_process_writes", "while the store was compacted"),
    (broken.AcknowledgesBeforeItWrites, KILLS, "told to be accepted"),
    (broken.WritesManyOneByOne, KILLS, "there in part"),
    (broken.BeginsVersionsAnew, KILLS, "version .*(given|used)"),
    (broken.LeavesItsLock, "a_writer_killed_while_it_holds_the_store_leaves_no_lock", "still blocked after 3.0 s"),
    (broken.FindsFaults, KILLS, "made up"),
    (broken.FindsFaults, "a_sound_store_has_nothing_to_report", "made up"),
    (broken.CompactsByDroppingAKey, "compacting_loses_nothing", "has lost something"),
    (broken.CompactsByWritingAnew, "compacting_keeps_versions_and_cursors", "has changed versions"),
    (broken.CompactsACopy, "compact_and_check_may_run_while_threads_write", "while the store was compacted"),
    (broken.RepairsWhatIsSound, "repairing_a_sound_store_changes_nothing_or_is_refused", "k59"),
    (broken.ForgetsDeletions, "threads_on_one_object_end_in_what_the_feed_tells", "not told by the feed"),
    (broken.SeesItsOwnWritesOnly, "threads_on_several_objects_end_in_what_the_feed_tells", "not told by the feed"),
    (broken.EmptiesBeforeItWrites, "a_thread_reads_only_accepted_values_while_others_write", "always there"),
    (broken.SaysItIsNotShared, "what_is_declared_is_what_the_store_says_of_itself", "shared is False; make both tell"),
]  # fmt: skip
"""A mistake, the test that finds it, and a part of what that says."""


@pytest.mark.parametrize(("store", "test", "text"), MISTAKES)
def test_a_mistake_is_found(store: Callable[[Path], Store], test: str, text: str, tmp_path: Path) -> None:
    waits = store in (broken.LeavesItsLock, broken.KeepsWhatItHasRead, broken.TellsOfItsLockFile)
    contract = Impatient() if waits else StoreContract()
    with pytest.raises(AssertionError, match=text):
        run(contract, f"test_{test}", partial(store, tmp_path / "s"))


@pytest.mark.parametrize(
    ("store", "test"),
    [
        (broken.ChecksThenPuts, "put_if_absent_has_one_winner_among_processes"),
        (broken.FourMethods, "put_if_absent_has_one_winner_among_processes"),  # the default of the base class
        (broken.ChecksThenPuts, "threads_on_several_objects_have_one_winner"),
        (broken.ChecksThenSwaps, "no_increment_is_lost_and_no_version_given_twice_among_processes"),
        (broken.ChecksThenSwaps, "threads_on_several_objects_lose_no_increment"),
    ],
)
def test_a_race_is_lost_by_a_store_that_checks_and_then_writes(
    store: Callable[[Path], Store], test: str, tmp_path: Path
) -> None:
    def lost(attempt: int) -> bool:
        try:
            run(StoreContract(), f"test_{test}", partial(store, tmp_path / f"{attempt}"))
        except AssertionError:
            return True
        return False

    assert any(lost(attempt) for attempt in range(5))


@pytest.mark.parametrize(
    "test",
    [
        "a_reader_sees_only_accepted_values_while_processes_write",
        "compact_and_check_may_run_while_another_process_writes",
        "processes_may_open_new_data_at_the_same_instant",
        KILLS,
    ],
)
def test_a_shared_store_of_four_methods_passes_what_it_can_do(test: str, tmp_path: Path) -> None:
    run(FourMethods(), f"test_{test}", partial(broken.FourMethods, tmp_path / "s"))


def test_a_store_that_goes_on_after_a_fork_is_found(tmp_path: Path) -> None:
    test = "test_a_store_cannot_be_used_in_a_forked_child_and_its_parent_goes_on"
    with pytest.raises(AssertionError, match="these were done in the forked child"):
        run(FourMethods(), test, partial(broken.FourMethods, tmp_path / "s"))


@pytest.mark.parametrize(
    ("contract", "text"), [(FourMethods, "versioned = False; Sound is another"), (OneProcess, "shared = False, Sound")]
)
def test_a_declaration_that_is_not_true_is_found(contract: type[StoreContract], text: str, tmp_path: Path) -> None:
    test = "test_what_is_declared_is_what_the_store_says_of_itself"
    with pytest.raises(AssertionError, match=text):
        run(contract(), test, partial(broken.Sound, tmp_path / "s"))


def test_a_store_that_closes_and_declares_that_it_does_not_is_found(tmp_path: Path) -> None:
    test = "test_closing_twice_is_fine_and_using_a_closed_store_is_not"
    with pytest.raises(StoreError, match="closed"):
        run(NeverCloses(), test, partial(broken.Sound, tmp_path / "s"))


def test_an_opener_that_no_other_process_can_have_says_what_to_give_instead(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"cannot be pickled .* give functools.partial"):
        Children(lambda: broken.Sound(tmp_path / "s"))


def test_an_opener_that_cannot_be_imported_says_where_to_put_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("made_in_memory")
    module.Lost = type("Lost", (broken.Sound,), {"__module__": "made_in_memory"})  # type: ignore[attr-defined]  # made here
    monkeypatch.setitem(sys.modules, "made_in_memory", module)
    with (
        Children(partial(module.Lost, tmp_path / "s")) as children,
        pytest.raises(AssertionError, match=r"No module named 'made_in_memory'.* at the top of a module"),
    ):
        children.start("serve").hear()


def test_a_process_that_is_blocked_and_one_that_fails_are_told_apart(tmp_path: Path) -> None:
    opener = partial(broken.Sound, tmp_path / "s")
    with Children(opener, patience=1.0) as children:
        child = children.start("serve")
        with pytest.raises(AssertionError, match=r"serve: nothing was heard for 1\.0 s; it is blocked"):
            [child.hear() for _ in range(2)]  # that it is ready, if it has had the time to say so, and then nothing
    with Children(opener) as children:
        child = children.start("serve")
        assert child.hear() == "ready"
        child.say(["put", "", 1])
        for _ in range(2):
            with pytest.raises(AssertionError, match=r"ended with code 1[^$]*a store key cannot be empty"):
                child.hear()


SUITE = """
from functools import partial
import pytest
from converge.extensions.storage.memory import MemoryStore
from converge.extensions.storage.sqlite import SQLiteStore
from converge.testing.store import StoreContract

class TestInMemory(StoreContract):
    durable = False
    random_histories = 1

    @pytest.fixture
    def store(self):
        return MemoryStore()

class TestVariant(StoreContract):
    random_histories = 1
    processes = 0

    @pytest.fixture
    def opener(self, tmp_path):
        return partial(SQLiteStore, tmp_path / "s")

class TestWithoutOpener(StoreContract):
    random_histories = 1

    @pytest.fixture
    def store(self, tmp_path):
        with SQLiteStore(tmp_path / "s") as store:
            yield store

    @pytest.fixture
    def reopen(self, tmp_path):
        return lambda store: SQLiteStore(tmp_path / "s")

class TestWithoutAnything(StoreContract):
    pass
"""


def test_what_is_left_out_shows_with_its_reason_and_what_is_missing_as_an_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE)
    ran = pytester.runpytest_subprocess(
        "-rs", "--tb=line", "-p", "no:asyncio", "-k", "process or killed or several or declared"
    )
    outcomes, text = ran.parseoutcomes(), ran.stdout.str()
    of_processes, of_objects = 11, 3  # the parameters of one test counted
    assert outcomes["skipped"] == (of_processes + of_objects) + of_processes, text
    for reason in ("the store declares durable = False, and not shared = True", "the class declares processes = 0"):
        assert reason in text
    assert "NotImplementedError: a shared store gives the fixture `opener`; or declare `shared = False`" in text
    assert "NotImplementedError: override the fixture `opener`, or `store` for a store of one process" in text
    assert "failed" not in outcomes, text
