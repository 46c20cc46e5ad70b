"""Trust that is kept in a store: shared, restored, counted once, whoever dies when."""

from __future__ import annotations

import copy
import math
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converge.core.plain import pack
from converge.core.store import VersionedStore
from converge.extensions.storage.memory import MemoryStore
from converge.extensions.storage.sqlite import SQLiteStore
from converge.policy.decide import is_trusted
from converge.policy.errors import TrustError, TrustRecordError
from converge.policy.trust import TrustModel
from tests.core.coordination.pool_crashing import Crash, Crashing


class Clock:
    now = 1_700_000_000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


def test_models_of_one_name_share_what_they_know_and_it_survives(tmp_path: Path) -> None:
    with SQLiteStore(tmp_path / "s.db") as store:
        one, two = TrustModel(store=store, name="x"), TrustModel(store=store, name="x")
        assert one.update_trust("a", 0.25) == two.get_trust("a") == 0.75
        assert two.record_outcome("a", success=False)
        assert one.get_trust("a") == pytest.approx(1.5 / 3)
        assert TrustModel(store=store, name="y").get_trust("a") == 0.5
    with SQLiteStore(tmp_path / "s.db") as store:
        assert TrustModel(store=store, name="x").get_trust("a") == pytest.approx(1.5 / 3)


def test_what_a_model_was_given_counts_until_the_store_knows_better() -> None:
    store = MemoryStore()
    model = TrustModel(0.2, {"a": 0.9})
    model.bind(store, "x")
    model.bind(store, "x")
    assert store.list() == []
    assert (model.get_trust("a"), model.get_trust("b"), model.name, model.store) == (0.9, 0.2, "x", store)
    model.update_trust("a", -0.4)
    again = TrustModel(**model.to_options())
    assert again.get_trust("a") == 0.9
    again.bind(store, "x")
    assert again.get_trust("a") == 0.5


def test_a_model_is_kept_in_one_place() -> None:
    model = TrustModel(store=MemoryStore(), name="x")
    with pytest.raises(TrustError, match="in another store"):
        model.bind(MemoryStore(), "x")
    with pytest.raises(TrustError, match="has the name 'x', not 'y'"):
        TrustModel(name="x").bind(MemoryStore(), "y")
    with pytest.raises(TypeError, match="not copied"):
        copy.deepcopy(model)
    assert "kept as 'x'" in repr(model)
    for name in ("", 7):
        with pytest.raises(TrustError, match="the name of a trust model"):
            TrustModel(name=name)  # type: ignore[arg-type]  # mistakes


def test_no_two_names_and_agents_share_a_record() -> None:
    store = MemoryStore()
    pairs = [("a", "b:c"), ("a:b", "c"), ("a%3Ab", "c"), ("x" * 900, "c"), ("x" * 899, "c")]
    for number, (name, agent) in enumerate(pairs):
        TrustModel(store=store, name=name).update_trust(agent, number / 16)
    for number, (name, agent) in enumerate(pairs):
        assert TrustModel(store=store, name=name).get_trust(agent) == 0.5 + number / 16


@pytest.mark.parametrize("shared", [True, False])
def test_an_outcome_with_a_key_is_counted_once(*, shared: bool) -> None:
    model = TrustModel(half_life_sec=math.inf, store=MemoryStore() if shared else None)
    for _ in range(3):
        counted = [model.record_outcome("a", success=True, key=f"t{number}") for number in range(100)]
    assert counted == [False] * 100
    assert model.get_trust("a") == pytest.approx(101 / 102)
    assert model.record_outcome("a", success=True)
    assert model.record_outcome("a", success=True)
    assert model.get_trust("a") == pytest.approx(103 / 104)


@settings(max_examples=150)
@given(
    deaths=st.lists(st.tuples(st.integers(0, 8), st.booleans()), max_size=12),
    keys=st.lists(st.integers(0, 60), min_size=1, max_size=80),
)
def test_whoever_dies_when_each_outcome_that_is_told_until_it_is_known_counts_once(
    deaths: list[tuple[int, bool]], keys: list[int]
) -> None:
    store = Crashing()
    for number, key in enumerate(keys):
        if number < len(deaths):
            store.arm(deaths[number][0], late=deaths[number][1])
            with suppress(Crash):
                TrustModel(half_life_sec=math.inf, store=store).record_outcome("a", success=True, key=f"t{key}")
            store.disarm()
        TrustModel(half_life_sec=math.inf, store=store).record_outcome("a", success=True, key=f"t{key}")
    different = len({*keys})
    assert TrustModel(half_life_sec=math.inf, store=store).get_trust("a") == pytest.approx(
        (different + 1) / (different + 2)
    )


@pytest.mark.parametrize("left", range(6))
def test_an_outcome_whose_writer_died_is_known_long_after_others_took_its_place(left: int) -> None:
    store = Crashing()
    store.arm(left, late=True)
    with suppress(Crash):
        TrustModel(half_life_sec=math.inf, store=store).record_outcome("a", success=True, key="t")
    store.disarm()
    model = TrustModel(half_life_sec=math.inf, store=store)
    for number in range(100):
        assert model.record_outcome("a", success=True, key=f"other{number}")
    model.record_outcome("a", success=True, key="t")
    assert model.get_trust("a") == pytest.approx(102 / 103)


class Between(MemoryStore):
    """Calls `between` once, after the next look at a record."""

    between: Any = None

    def get_versioned(self, key: str) -> Any:
        found = super().get_versioned(key)
        between, self.between = self.between, None
        if between is not None:
            between()
        return found


def test_an_outcome_that_left_the_record_while_another_looked_is_still_known() -> None:
    store = Between()
    slow, fast = (TrustModel(half_life_sec=math.inf, store=store) for _ in range(2))

    def meanwhile() -> None:
        fast.record_outcome("a", success=True, key="t")
        for number in range(100):
            fast.record_outcome("a", success=True, key=f"other{number}")

    store.between = meanwhile
    assert not slow.record_outcome("a", success=True, key="t")
    assert slow.get_trust("a") == pytest.approx(102 / 103)


def test_changes_of_many_threads_all_count() -> None:
    store = MemoryStore()
    models = [TrustModel(half_life_sec=math.inf, store=store) for _ in range(4)]

    def work(model: TrustModel) -> None:
        for number in range(100):
            model.record_outcome("a", success=True, key=f"t{number}")
            model.record_outcome("b", success=False)

    threads = [threading.Thread(target=work, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert models[0].get_trust("a") == pytest.approx(101 / 102)
    assert models[0].get_trust("b") == pytest.approx(1 / 402)


def test_outcomes_are_forgotten_by_the_clock_and_corrections_are_not() -> None:
    clock = Clock()
    model = TrustModel(half_life_sec=100.0, clock=clock)
    model.update_trust("a", 0.25)
    model.record_outcome("a", success=False, weight=2.0)
    assert model.get_trust("a") == pytest.approx(1.5 / 4)
    clock.now += 100
    assert model.get_trust("a") == pytest.approx(1.5 / 3)
    clock.now += 1e6
    assert model.get_trust("a") == pytest.approx(0.75)
    model.record_outcome("b", success=True, at=clock.now - 100)
    assert model.get_trust("b") == pytest.approx(1.5 / 2.5)
    assert TrustModel(**model.to_options(), clock=clock).get_trust("b") == model.get_trust("b")


@pytest.mark.parametrize(
    "mistake",
    [
        {"success": 1},
        {"success": None},
        {"weight": 0},
        {"weight": -1.0},
        {"weight": math.nan},
        {"weight": math.inf},
        {"weight": 1001},
        {"weight": True},
        {"at": math.nan},
        {"at": math.inf},
        {"at": -1.0},
        {"at": "now"},
        {"key": ""},
        {"key": 7},
        {"agent_id": ""},
    ],
)
@pytest.mark.parametrize("shared", [True, False])
def test_an_outcome_that_makes_no_sense_changes_nothing(mistake: dict[str, Any], *, shared: bool) -> None:
    store = MemoryStore()
    model = TrustModel(store=store if shared else None)
    with pytest.raises(TrustError):
        model.record_outcome(**{"agent_id": "a", "success": True, **mistake})
    assert model.get_trust("a") == 0.5
    assert store.list() == []


def test_evidence_that_is_none_is_refused() -> None:
    for evidence in ([1.0, 2.0], [1.0, 2.0, math.nan], [-1.0, 0.0, 0.0], "abc"):
        with pytest.raises(TrustError):
            TrustModel(evidence={"a": evidence})  # type: ignore[dict-item]  # mistakes


SOUND: dict[str, Any] = {"score": 0.5, "successes": 1.0, "failures": 0.0, "at": 1.0, "recent": ["t#1"]}
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=3) | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200)
@given(field=st.sampled_from([*SOUND, "more", ""]), value=plain)
def test_what_is_no_record_denies_and_is_left_alone(field: str, value: Any) -> None:
    store: VersionedStore = MemoryStore()
    model = TrustModel(1.0, store=store)
    key = "trust:default:a"
    store.put(key, {**SOUND, field: value} if field else value)
    before = pack(store.get(key))
    with suppress(TrustRecordError):
        assert 0 <= model.get_trust("a") <= 1
        assert isinstance(model.record_outcome("a", success=True, key="t#2"), bool)
        return
    assert not is_trusted(model, "a", 0.1)
    for move in (lambda: model.update_trust("a", 0.1), lambda: model.record_outcome("a", success=True, key="t#3")):
        with pytest.raises(TrustRecordError, match="holds no trust that this version can use") as caught:
            move()
        assert caught.value.key == key
    assert pack(store.get(key)) == before
