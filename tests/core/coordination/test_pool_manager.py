from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from attrs import frozen

from converge.coordination.errors import ForeignRecord, PoolExists, UnknownPool
from converge.coordination.pool_manager import PoolManager
from converge.core.pool import Pool
from converge.core.store import VersionedStore
from converge.core.task import Task
from converge.core.topic import Topic
from converge.extensions.storage.memory import MemoryStore
from converge.plugins import PluginError, PluginManager
from converge.policy.admission import AdmissionPolicy, OpenAdmission, TokenAdmission, WhitelistAdmission
from converge.policy.governance import DemocraticGovernance, DictatorialGovernance, GovernanceModel
from converge.policy.trust import TrustModel
from converge.policy.unrestored import UnrestoredAdmission, UnrestoredGovernance

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from converge.core.plain import Plain


@pytest.fixture
def open_pools(open_store: Callable[[], VersionedStore]) -> Callable[[], PoolManager]:
    """Gives a new manager on the same data at each call."""
    return lambda: PoolManager(open_store())


def get(pools: PoolManager, pool_id: str = "p") -> Pool:
    pool = pools.get_pool(pool_id)
    assert pool is not None
    return pool


def test_agents_join_and_leave(open_pools: Callable[[], PoolManager]) -> None:
    one, two = open_pools(), open_pools()
    pool = one.create_pool({"id": "p", "topics": [Topic("news"), "sport", {"namespace": "x"}]})
    assert pool.topics == [Topic("news"), Topic("sport"), Topic("x")]
    assert two.get_pools_for_agent("a") == []
    assert one.join_pool("a", "p")
    assert one.join_pool("a", "p")
    assert two.join_pool("b", "p")
    one.create_pool({"id": "o"})
    assert two.join_pool("a", "o")
    assert one.get_pools_for_agent("a") == two.get_pools_for_agent("a") == ["o", "p"]
    assert get(one).agents == {"a", "b"}
    assert two.leave_pool("a", "p")
    assert not one.leave_pool("a", "p")
    assert one.get_pools_for_agent("a") == ["o"]
    assert get(open_pools()).agents == {"b"}


def test_without_a_store_pools_live_in_memory() -> None:
    pools = PoolManager()
    pools.create_pool({"id": "p"})
    assert pools.join_pool("a", "p")
    assert not pools.blocking


def test_the_pool_that_is_given_out_is_a_copy(open_pools: Callable[[], PoolManager]) -> None:
    pools = open_pools()
    pools.create_pool({"id": "p"}).add_agent("intruder")
    get(pools).agents.add("intruder")
    assert get(pools).agents == set()


def test_unknown_pools_are_said_to_be_unknown(open_pools: Callable[[], PoolManager]) -> None:
    pools = open_pools()
    assert pools.get_pool("no") is None
    for move in (pools.join_pool, pools.leave_pool):
        with pytest.raises(UnknownPool, match="there is no pool 'no'"):
            move("a", "no")
    pools.create_pool({"id": "p"})
    for agent in ("", None):
        with pytest.raises(ValueError, match="an agent id is a non-empty str"):
            pools.join_pool(agent, "p")  # type: ignore[arg-type]  # mistakes


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({}, "the id of a pool"),
        ({"id": ""}, "the id of a pool"),
        ({"id": "p", "color": "red"}, "no key 'color'"),
        ({"id": "p", "trust_threshold": float("nan")}, "a number from 0 to 1"),
        ({"id": "p", "trust_threshold": 1.5}, "a number from 0 to 1"),
        ({"id": "p", "trust_threshold": True}, "a number from 0 to 1"),
        ({"id": "p", "topics": "news"}, "topics is a list"),
        ({"id": "p", "topics": [{"no": 1}]}, "topic"),
        ({"id": "p", "admission_policy": DemocraticGovernance()}, "is no AdmissionPolicy"),
        ({"id": "p", "governance": 5}, "is no GovernanceModel"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(
    open_pools: Callable[[], PoolManager], spec: dict[str, Any], said: str
) -> None:
    pools = open_pools()
    with pytest.raises(ValueError, match=said):
        pools.create_pool(spec)
    assert pools.get_pool("p") is None


@pytest.mark.parametrize("policy", [{"type": "whitelist", "agents": ["a"]}, "no-such-policy", {"use": "whitelist"}])
def test_a_policy_that_cannot_be_built_makes_no_pool(open_pools: Callable[[], PoolManager], policy: object) -> None:
    pools = open_pools()
    with pytest.raises(PluginError, match="admission"):
        pools.create_pool({"id": "p", "admission_policy": policy})
    assert pools.get_pool("p") is None


def test_a_pool_object_is_a_spec_with_its_members(open_pools: Callable[[], PoolManager]) -> None:
    pools = open_pools()
    given = Pool("p", topics=[Topic("t")], governance=DemocraticGovernance(), trust_threshold=0.3)
    given.agents.update(["a", "b"])
    pools.create_pool(given)
    again = get(open_pools())
    assert (again.agents, again.topics, again.trust_threshold) == ({"a", "b"}, [Topic("t")], 0.3)
    assert again.governance == DemocraticGovernance()
    assert open_pools().get_pools_for_agent("b") == ["p"]


def test_pools_survive_a_restart_with_their_policies(open_pools: Callable[[], PoolManager]) -> None:
    open_pools().create_pool(
        {
            "id": "p",
            "admission_policy": WhitelistAdmission(["a", "b"]),
            "governance": {"use": "dictatorial", "leader_id": "a"},
            "trust_model": TrustModel(scores={"a": 0.9, "b": 0.1}),
            "trust_threshold": 0.6,
        }
    )
    restarted = open_pools()
    assert restarted.join_pool("a", "p")
    assert not restarted.join_pool("b", "p")
    assert not restarted.join_pool("c", "p")
    pool = get(restarted)
    assert pool.admission_policy == WhitelistAdmission(["a", "b"])
    assert pool.governance == DictatorialGovernance("a")
    assert pool.trust_model is not None
    assert pool.trust_model.get_trust("b") == 0.1
    assert get(restarted).trust_model is pool.trust_model


def test_a_threshold_without_a_trust_model_admits_nobody(open_pools: Callable[[], PoolManager]) -> None:
    pools = open_pools()
    pools.create_pool({"id": "p", "trust_threshold": 0.1})
    assert not pools.join_pool("a", "p")
    pools.create_pool({"id": "q", "trust_threshold": 0.7, "trust_model": "default"})
    assert not pools.join_pool("a", "q")
    model = get(pools, "q").trust_model
    assert model is not None
    model.update_trust("a", 0.3)
    assert pools.join_pool("a", "q")


def test_a_token_opens_its_pool_and_is_nowhere_in_the_store(
    open_store: Callable[[], VersionedStore], open_pools: Callable[[], PoolManager]
) -> None:
    open_pools().create_pool({"id": "p", "admission_policy": TokenAdmission("open sesame")})
    pools = open_pools()
    assert not pools.join_pool("a", "p")
    assert not pools.join_pool("a", "p", token="wrong")
    assert pools.join_pool("a", "p", token="open sesame")
    assert "open sesame" not in str(open_store().get("pool:p"))


def test_creating_a_pool_again_keeps_its_members_and_its_policies(open_pools: Callable[[], PoolManager]) -> None:
    open_pools().create_pool({"id": "p", "admission_policy": TokenAdmission("old")})
    pools = open_pools()
    assert pools.join_pool("a", "p", token="old")
    again = open_pools()
    pool = again.create_pool({"id": "p", "admission_policy": TokenAdmission("of the attacker")})
    assert pool.agents == {"a"}
    assert not again.join_pool("evil", "p", token="of the attacker")
    assert again.join_pool("b", "p", token="old")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"admission_policy": None}, "admission_policy"),
        ({"admission_policy": OpenAdmission()}, "admission_policy"),
        ({"admission_policy": WhitelistAdmission(["evil"])}, "admission_policy"),
        ({"trust_threshold": 0.0}, "trust_threshold"),
        ({"topics": []}, "topics"),
        ({"governance": "democratic", "topics": []}, "topics, governance"),
    ],
)
def test_a_pool_of_other_settings_under_the_same_id_is_an_error(
    open_pools: Callable[[], PoolManager], change: Mapping[str, object], named: str
) -> None:
    spec = {"id": "p", "topics": ["t"], "admission_policy": WhitelistAdmission(["a"]), "trust_threshold": 0.2}
    pools = open_pools()
    pools.create_pool(spec)
    assert open_pools().create_pool(spec).id == "p"
    for one in (pools, open_pools()):
        with pytest.raises(PoolExists, match=f"exists with another {named};") as caught:
            one.create_pool({**spec, **change})
        assert caught.value.pool_id == "p"
        assert not one.join_pool("evil", "p")


@frozen
class OddIds(AdmissionPolicy):
    """No plugin, so nothing of it can be stored but its class."""

    def can_admit(self, agent_id: str, context: Mapping[str, object]) -> bool:
        return len(agent_id) % 2 == 1


class Nobody(GovernanceModel):
    def resolve_dispute(self, context: Mapping[str, object]) -> None:
        return None


def test_a_policy_that_is_no_plugin_works_until_the_restart_and_then_denies(
    open_pools: Callable[[], PoolManager], caplog: pytest.LogCaptureFixture
) -> None:
    pools = open_pools()
    spec = {"id": "p", "admission_policy": OddIds(), "governance": Nobody()}
    pools.create_pool(spec)
    assert pools.join_pool("odd", "p")
    assert not pools.join_pool("even", "p")
    restarted = open_pools()
    assert not restarted.join_pool("odds?", "p")
    assert restarted.join_pool("odd", "p")  # is a member already
    pool = restarted.create_pool(spec)
    assert isinstance(pool.admission_policy, UnrestoredAdmission)
    assert isinstance(pool.governance, UnrestoredGovernance)
    assert not restarted.join_pool("odds?", "p")
    assert "its admission_policy" in caplog.text
    assert "OddIds" in caplog.text
    assert "cannot be restored and denies from now on" in caplog.text


class Explodes(AdmissionPolicy):
    def __init__(self) -> None:
        if Explodes.armed:
            raise RuntimeError("the plugin is broken")

    armed = False

    def can_admit(self, agent_id: str, context: Mapping[str, object]) -> bool:
        return True


def test_whatever_a_plugin_raises_while_it_is_restored_the_pool_denies(monkeypatch: pytest.MonkeyPatch) -> None:
    store, plugins = MemoryStore(), PluginManager()
    with plugins.override("admission", "explodes", Explodes):
        PoolManager(store, plugins=plugins).create_pool({"id": "p", "admission_policy": "explodes"})
        works = PoolManager(store, plugins=plugins)
        assert works.join_pool("a", "p")
        monkeypatch.setattr(Explodes, "armed", True)
        broken = PoolManager(store, plugins=plugins)
        assert not broken.join_pool("b", "p")
        assert broken.leave_pool("a", "p")
    gone = PoolManager(store, plugins=plugins)
    assert not gone.join_pool("b", "p")


def test_a_pool_with_an_unrestorable_trust_model_lets_nobody_reach_its_threshold() -> None:
    class Own(TrustModel):
        pass

    store = MemoryStore()
    PoolManager(store).create_pool({"id": "p", "trust_model": Own(1.0), "trust_threshold": 0.5})
    assert not PoolManager(store).join_pool("a", "p")


@pytest.mark.parametrize("record", [5, {}, {"id": "q"}, {"id": "p", "members": [1]}, {"id": "p", "new": 1}])
def test_a_foreign_record_spoils_nothing_but_itself(
    open_store: Callable[[], VersionedStore], open_pools: Callable[[], PoolManager], record: Plain
) -> None:
    pools = open_pools()
    pools.create_pool({"id": "good"})
    assert pools.join_pool("a", "good")
    open_store().put("pool:p", record)
    for one in (pools, open_pools()):
        assert one.get_pools_for_agent("a") == ["good"]
        with pytest.raises(ForeignRecord):
            one.join_pool("a", "p")
        with pytest.raises(ForeignRecord):
            one.create_pool({"id": "p"})


def in_threads(*works: Callable[[], object]) -> list[object]:
    barrier = threading.Barrier(len(works))
    results: list[object] = [None] * len(works)

    def run(number: int) -> None:
        barrier.wait()
        try:
            results[number] = works[number]()
        except ValueError as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(works))]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(before)
    return results


def test_joins_and_leaves_at_one_instant_lose_nobody(open_pools: Callable[[], PoolManager]) -> None:
    managers = [open_pools(), open_pools()]
    managers[0].create_pool({"id": "p"})

    def come_and_go(number: int) -> None:
        for n in range(20):
            managers[number % 2].join_pool(f"{number}-{n}", "p")
            if n % 2:
                managers[(number + 1) % 2].leave_pool(f"{number}-{n}", "p")
            managers[number % 2].get_pools_for_agent("x")

    in_threads(*(lambda number=number: come_and_go(number) for number in range(4)))
    expected = {f"{number}-{n}" for number in range(4) for n in range(0, 20, 2)}
    for one in (*managers, open_pools()):
        assert get(one).agents == expected
        assert one.get_pools_for_agent("0-0") == ["p"]
        assert one.get_pools_for_agent("0-1") == []


def test_two_that_create_one_pool_at_one_instant_get_the_same_or_an_error(
    open_pools: Callable[[], PoolManager],
) -> None:
    managers = [open_pools(), open_pools()]
    for number in range(20):
        same = in_threads(*[lambda one=one, n=number: one.create_pool({"id": f"p{n}"}).id for one in managers])
        assert same == [f"p{number}"] * 2
        specs = [{"id": f"q{number}", "admission_policy": WhitelistAdmission([agent])} for agent in "ab"]
        made = in_threads(
            *[lambda one=one, spec=spec: one.create_pool(spec) for one, spec in zip(managers, specs, strict=True)]
        )
        assert sorted(type(outcome).__name__ for outcome in made) == ["Pool", "PoolExists"]
        winner = next(outcome for outcome in made if isinstance(outcome, Pool))
        for one in managers:
            assert get(one, f"q{number}").admission_policy == winner.admission_policy


class Forgetful(MemoryStore):
    remembered_deletions = 1


def test_a_manager_that_was_away_too_long_looks_again() -> None:
    store = Forgetful()
    pools = PoolManager(store)
    pools.create_pool({"id": "p"})
    pools.create_pool({"id": "q"})
    assert pools.join_pool("a", "p")
    assert pools.join_pool("a", "q")
    assert pools.get_pools_for_agent("a") == ["p", "q"]
    store.delete("pool:p")
    for number in range(3):
        store.put(f"x{number}", 1)
        store.delete(f"x{number}")
    assert pools.get_pools_for_agent("a") == ["q"]


def test_what_a_trust_model_has_learnt_survives_a_restart(open_pools: Callable[[], PoolManager]) -> None:
    given = TrustModel(0.3, {"a": 0.9})
    open_pools().create_pool({"id": "p", "trust_model": given, "trust_threshold": 0.6})
    given.update_trust("b", 0.5)
    given.update_trust("a", -0.6)
    restarted = open_pools()
    assert restarted.join_pool("b", "p")
    assert not restarted.join_pool("a", "p")
    model = get(restarted).trust_model
    assert model is not None
    assert model.record_outcome("a", success=True, weight=20.0)
    assert given.get_trust("a") > 0.6
    assert open_pools().join_pool("a", "p")


def test_a_model_that_is_given_again_after_a_restart_knows_what_the_pool_knows(
    open_pools: Callable[[], PoolManager],
) -> None:
    spec = {"id": "p", "trust_threshold": 0.6}
    open_pools().create_pool({**spec, "trust_model": TrustModel()})
    model = get(open_pools()).trust_model
    assert model is not None
    model.update_trust("a", 0.2)
    again = TrustModel(scores={"evil": 1.0})
    pools = open_pools()
    pools.create_pool({**spec, "trust_model": again})
    assert (again.get_trust("a"), again.get_trust("evil")) == (0.7, 0.5)
    again.update_trust("b", 0.2)
    assert pools.join_pool("b", "p")
    assert not pools.join_pool("evil", "p")


def test_pools_that_were_made_with_one_trust_model_share_it_after_a_restart(
    open_pools: Callable[[], PoolManager],
) -> None:
    def create(pools: PoolManager) -> TrustModel:
        model = TrustModel()
        for name in ("p", "q"):
            pools.create_pool({"id": name, "trust_model": model, "trust_threshold": 0.6})
        return model

    pools = open_pools()
    create(pools).update_trust("a", 0.2)
    restarted = open_pools()
    create(restarted)
    for name in ("p", "q"):
        assert restarted.join_pool("a", name)


def test_a_model_that_is_kept_in_another_store_makes_no_pool(open_pools: Callable[[], PoolManager]) -> None:
    pools = open_pools()
    with pytest.raises(ValueError, match="keeps its scores in another store"):
        pools.create_pool({"id": "p", "trust_model": TrustModel(store=MemoryStore())})
    assert pools.get_pool("p") is None


def test_without_a_store_a_trust_model_stays_with_who_gave_it() -> None:
    model, pools = TrustModel(), PoolManager()
    pools.create_pool({"id": "p", "trust_model": model, "trust_threshold": 0.6})
    model.update_trust("a", 0.2)
    assert pools.join_pool("a", "p")
    assert (model.store, get(pools).trust_model) == (None, model)


def test_a_pool_takes_tasks_of_the_types_it_allows_and_still_does_after_a_restart(
    open_pools: Callable[[], PoolManager],
) -> None:
    code, other, none = Task(topic=Topic("code", {"x": 1})), Task(topic=Topic("news")), Task()
    open_pools().create_pool({"id": "p", "allowed_task_types": ["docs", "code"]})
    open_pools().create_pool({"id": "all"})
    open_pools().create_pool({"id": "nothing", "allowed_task_types": []})
    pools = open_pools()
    assert [pools.accepts("p", task) for task in (code, other, none)] == [True, False, False]
    assert [pools.accepts("all", task) for task in (code, other, none)] == [True, True, True]
    assert [pools.accepts("nothing", task) for task in (code, other, none)] == [False, False, False]
    with pytest.raises(UnknownPool):
        pools.accepts("no", code)
    with pytest.raises(PoolExists, match="another allowed_task_types;"):
        pools.create_pool({"id": "p"})
    for mistake in ("code", [""], [1], {"code": 1}):
        with pytest.raises(ValueError, match="allowed_task_types"):
            pools.create_pool({"id": "new", "allowed_task_types": mistake})


class AtMost(AdmissionPolicy):
    """Leaves room for three, and takes its time to count."""

    asked = 0

    def can_admit(self, agent_id: str, context: Mapping[str, object]) -> bool:
        self.asked += 1
        members = context["members"]
        assert isinstance(members, frozenset)
        return len(members) < 3


def test_a_policy_that_counts_members_holds_however_many_come_at_once(open_store: Callable[[], VersionedStore]) -> None:
    pools = PoolManager(open_store())
    pools.create_pool({"id": "p", "admission_policy": AtMost()})
    joined = in_threads(*(lambda name=name: pools.join_pool(name, "p") for name in "abcdefghij"))
    assert joined.count(True) == 3
    assert len(get(pools).agents) == 3


class Once(MemoryStore):
    """Loses the first race for a pool."""

    raced = False

    def compare_and_set(self, key: str, value: Plain, expected: int) -> int:
        if key == "pool:p" and expected and not self.raced:
            self.raced = True
            PoolManager(self).join_pool("other", "p", token="t")
        return super().compare_and_set(key, value, expected)


def test_a_policy_that_does_not_look_at_members_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    original = TokenAdmission.can_admit

    def counting(self: TokenAdmission, agent_id: str, context: Mapping[str, object]) -> bool:
        asked.append(agent_id)
        return original(self, agent_id, context)

    monkeypatch.setattr(TokenAdmission, "can_admit", counting)
    pools = PoolManager(Once())
    pools.create_pool({"id": "p", "admission_policy": TokenAdmission("t")})
    assert pools.join_pool("a", "p", token="t")
    assert asked == ["a", "other"]
    assert pools.counters["contended"] == 1
    assert get(pools).agents == {"a", "other"}
