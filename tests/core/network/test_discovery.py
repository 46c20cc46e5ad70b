from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converge.core.capability import Capability, CapabilitySet
from converge.core.errors import IdentityError
from converge.core.identity import Identity
from converge.core.store import Store
from converge.core.topic import Topic
from converge.extensions.storage.memory import MemoryStore
from converge.extensions.storage.sqlite import SQLiteStore
from converge.network.discovery import AgentDescriptor, DiscoveryQuery, DiscoveryService
from converge.policy.trust import TrustModel

ALICE, BOB, EVIL = (Identity.generate() for _ in range(3))
NEWS, SPORT = Topic("news", {"lang": "en"}), Topic("sport")
EVERYBODY = DiscoveryQuery()

OpenStore = Callable[[], Store]


@pytest.fixture(params=["memory", "sqlite"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenStore]:
    """Opens one store again and again: as each process would, where processes can share it."""
    if request.param == "memory":
        one = MemoryStore()
        yield lambda: one
        return
    opened: list[Store] = []

    def open_again() -> Store:
        opened.append(SQLiteStore(tmp_path / "c.db"))
        return opened[-1]

    yield open_again
    for store in opened:
        store.close()


def ids(found: list[AgentDescriptor]) -> list[str]:
    return [descriptor.id for descriptor in found]


def service(*descriptors: AgentDescriptor, trust_model: TrustModel | None = None) -> DiscoveryService:
    made = DiscoveryService(trust_model=trust_model)
    for descriptor in descriptors:
        made.register(descriptor)
    return made


# descriptors

FULL = AgentDescriptor(
    ALICE.fingerprint,
    [NEWS, SPORT],
    [Capability("review", "2.0", "reads code", {"max": [1, {"x": b"\0"}]}, {"usd": math.inf}, 12.5), Capability("b")],
    ALICE.public_key,
)


@pytest.mark.parametrize("descriptor", [FULL, AgentDescriptor("a"), AgentDescriptor("a", [Topic("x")], ["y"])])
def test_a_descriptor_survives_json(descriptor: AgentDescriptor) -> None:
    text = json.dumps(descriptor.to_dict(), allow_nan=False)
    assert AgentDescriptor.from_dict(json.loads(text)) == descriptor


def test_names_are_capabilities_in_a_descriptor() -> None:
    assert AgentDescriptor("a", capabilities=["x"]).capabilities == (Capability("x"),)
    assert AgentDescriptor("a", capabilities=CapabilitySet(["x"])).capabilities == (Capability("x"),)


def test_descriptors_do_not_share_defaults_and_are_hashable() -> None:
    assert len({AgentDescriptor("a"), AgentDescriptor("a"), AgentDescriptor("b"), FULL}) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"id": None},
        {"id": ""},
        {"id": 7},
        {"topics": "news"},
        {"topics": None},
        {"topics": [{}]},
        {"topics": ["news"]},
        {"topics": 5},
        {"capabilities": "review"},
        {"capabilities": [{"version": "1"}]},
        {"capabilities": [{"name": "x", "colour": "red"}]},
        {"capabilities": [["x"]]},
        {"capabilities": [{"name": "x", "costs": []}]},
        {"capabilities": [{"name": "x", "latency_ms": -1}]},
        {"public_key": "zz"},
        {"public_key": ALICE.public_key},
        {"public_key": "00"},
        {"public_key": "00" * 32},
        {"public_key": EVIL.public_key.hex()},
        {"colour": "red"},
        {5: "x"},
    ],
)
def test_a_malformed_descriptor_is_a_value_error(change: dict[object, object]) -> None:
    with pytest.raises(ValueError):
        AgentDescriptor.from_dict({**FULL.to_dict(), **change})  # type: ignore[dict-item]  # what is being tested


@pytest.mark.parametrize("data", [None, [], "x", {}, 7])
def test_what_is_no_dict_of_a_descriptor_is_a_value_error(data: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="descriptor"):
        AgentDescriptor.from_dict(data)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.binary(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["id", "topics", "capabilities", "public_key", "name", "namespace", "attributes"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_no_stored_data_raises_anything_but_a_value_error(data: dict[str, object]) -> None:
    try:
        AgentDescriptor.from_dict(data)
    except ValueError:
        return


@pytest.mark.parametrize("wrong", [{"topics": "news"}, {"topics": NEWS}, {"topics": ["news"]}, {"capabilities": "x"}])
def test_lists_of_the_wrong_kind_are_refused_in_descriptors_and_queries(wrong: dict[str, object]) -> None:
    with pytest.raises(TypeError, match=r"list of|given as a list"):
        AgentDescriptor("a", **wrong)  # type: ignore[arg-type]  # what is being tested
    with pytest.raises(TypeError, match=r"list of|given as a list"):
        DiscoveryQuery(**wrong)  # type: ignore[arg-type]  # what is being tested


# queries

READER = AgentDescriptor("reader", [NEWS], ["read"])
WRITER = AgentDescriptor("writer", [NEWS, SPORT], ["read", Capability("write", "3.0")])
MUTE = AgentDescriptor("mute")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (DiscoveryQuery(), ["mute", "reader", "writer"]),
        (DiscoveryQuery([], [], 0), ["mute", "reader", "writer"]),
        (DiscoveryQuery(topics=[NEWS]), ["reader", "writer"]),
        (DiscoveryQuery(topics=[SPORT]), ["writer"]),
        (DiscoveryQuery(topics=(SPORT, NEWS)), ["reader", "writer"]),
        (DiscoveryQuery(topics=[Topic("news")]), ["reader", "writer"]),
        (DiscoveryQuery(topics=[Topic("news", {"lang": "de"})]), []),
        (DiscoveryQuery(topics=[Topic("news", version="2")]), []),
        (DiscoveryQuery(capabilities=["read"]), ["reader", "writer"]),
        (DiscoveryQuery(capabilities=["read", "write"]), ["writer"]),
        (DiscoveryQuery(capabilities=("write",)), ["writer"]),
        (DiscoveryQuery(capabilities=CapabilitySet(["write"])), ["writer"]),
        (DiscoveryQuery(capabilities=[Capability("write")]), ["writer"]),
        (DiscoveryQuery(capabilities={"read", "fly"}), []),
        (DiscoveryQuery([SPORT], ["read"]), ["writer"]),
        (DiscoveryQuery([Topic("fly")], ["read"]), []),
    ],
)
def test_a_query_asks_for_any_topic_and_all_capabilities(query: DiscoveryQuery, found: list[str]) -> None:
    assert ids(service(WRITER, READER, MUTE).query(query)) == found


def test_candidates_are_asked_instead_of_who_is_registered() -> None:
    assert ids(service(MUTE).query(EVERYBODY, candidates=(WRITER, READER))) == ["reader", "writer"]
    assert service(MUTE).query(EVERYBODY, candidates=[]) == []


def test_a_forged_candidate_is_left_out_and_counted() -> None:
    asked = service()
    forged = AgentDescriptor(ALICE.fingerprint, public_key=EVIL.public_key)
    assert ids(asked.query(EVERYBODY, candidates=[forged, FULL])) == [ALICE.fingerprint]
    assert asked.counters == {"refused_descriptor": 1}


@pytest.mark.parametrize("threshold", [math.nan, math.inf, -0.1, 1.1, True, "0.5", None])
def test_a_threshold_that_is_no_number_from_0_to_1_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        DiscoveryQuery(trust_threshold=threshold)


def test_only_agents_at_or_above_the_threshold_are_found() -> None:
    asked = service(READER, WRITER, MUTE, trust_model=TrustModel(0.5, {"reader": 0.75, "writer": 0.25}))
    assert ids(asked.query(DiscoveryQuery(trust_threshold=0.5))) == ["mute", "reader"]
    assert ids(asked.query(DiscoveryQuery(trust_threshold=0.75))) == ["reader"]
    assert ids(asked.query(DiscoveryQuery(trust_threshold=0))) == ["mute", "reader", "writer"]


def test_candidates_are_held_to_the_threshold_too() -> None:
    asked = service(trust_model=TrustModel(0.5, {"reader": 0.75}))
    assert ids(asked.query(DiscoveryQuery(trust_threshold=0.6), candidates=[READER, WRITER])) == ["reader"]


@pytest.mark.parametrize("answer", [math.nan, math.inf, 2.0, None, "1", True])
def test_a_trust_model_that_answers_nonsense_trusts_nobody(answer: float) -> None:
    class Odd(TrustModel):
        def get_trust(self, agent_id: str) -> float:
            return answer

    assert service(READER, trust_model=Odd()).query(DiscoveryQuery(trust_threshold=0.1)) == []


def test_a_trust_model_that_fails_for_one_agent_costs_that_agent_only() -> None:
    class Failing(TrustModel):
        def get_trust(self, agent_id: str) -> float:
            if agent_id == "reader":
                raise RuntimeError("no answer")
            return 1.0

    asked = service(READER, WRITER, trust_model=Failing())
    assert ids(asked.query(DiscoveryQuery(trust_threshold=0.1))) == ["writer"]


# registering


def test_a_later_registration_replaces_the_earlier() -> None:
    known = service(AgentDescriptor("a", capabilities=["old"]), AgentDescriptor("a", capabilities=["new"]))
    assert known.query(EVERYBODY) == [AgentDescriptor("a", capabilities=["new"])]


def test_a_descriptor_with_another_agents_key_is_refused_and_changes_nothing(open_store: OpenStore) -> None:
    known = DiscoveryService(open_store())
    known.register(FULL)
    with pytest.raises(IdentityError, match="belongs to another agent"):
        known.register(AgentDescriptor(ALICE.fingerprint, public_key=EVIL.public_key))
    for asked in (known, DiscoveryService(open_store())):
        assert asked.query(EVERYBODY, refresh_from_store=True) == [FULL]


def test_unregistering_an_unknown_agent_is_no_error(open_store: OpenStore) -> None:
    DiscoveryService().unregister("nobody")
    DiscoveryService(open_store()).unregister("nobody")


# a shared store


def test_what_others_registered_is_seen_after_a_refresh_only(open_store: OpenStore) -> None:
    mine, theirs = DiscoveryService(open_store()), DiscoveryService(open_store())
    theirs.register(READER)
    assert mine.query(EVERYBODY) == []
    assert mine.query(EVERYBODY, refresh_from_store=True) == [READER]
    theirs.register(WRITER)
    assert mine.query(EVERYBODY) == [READER]
    assert ids(mine.query(EVERYBODY, refresh_from_store=True)) == ["reader", "writer"]


def test_what_others_changed_and_unregistered_is_followed(open_store: OpenStore) -> None:
    mine, theirs = DiscoveryService(open_store()), DiscoveryService(open_store())
    theirs.register(READER)
    theirs.register(WRITER)
    assert len(mine.query(EVERYBODY, refresh_from_store=True)) == 2
    theirs.unregister("reader")
    theirs.register(AgentDescriptor("writer", capabilities=["draw"]))
    assert mine.query(EVERYBODY, refresh_from_store=True) == [AgentDescriptor("writer", capabilities=["draw"])]


def test_an_own_agent_that_another_process_unregistered_is_gone_after_the_first_refresh(open_store: OpenStore) -> None:
    mine, theirs = DiscoveryService(open_store()), DiscoveryService(open_store())
    mine.register(READER)
    theirs.unregister("reader")
    assert mine.query(EVERYBODY, refresh_from_store=True) == []


def test_the_later_of_two_registrations_wins_in_both_processes(open_store: OpenStore) -> None:
    mine, theirs = DiscoveryService(open_store()), DiscoveryService(open_store())
    mine.register(AgentDescriptor("a", capabilities=["mine"]))
    theirs.register(AgentDescriptor("a", capabilities=["theirs"]))
    for asked in (mine, theirs):
        assert asked.query(EVERYBODY, refresh_from_store=True) == [AgentDescriptor("a", capabilities=["theirs"])]


def test_a_restart_finds_everybody_again(open_store: OpenStore) -> None:
    DiscoveryService(open_store()).register(FULL)
    assert DiscoveryService(open_store()).query(EVERYBODY, refresh_from_store=True) == [FULL]


@pytest.mark.parametrize(
    "forged",
    [
        {**FULL.to_dict(), "public_key": EVIL.public_key.hex()},
        AgentDescriptor(BOB.fingerprint, public_key=BOB.public_key).to_dict(),
        {"id": ALICE.fingerprint, "topics": "everything"},
        "x",
        [],
        None,
        {},
    ],
)
def test_what_is_forged_in_the_store_is_refused_and_counted_and_what_was_known_stays(
    open_store: OpenStore, forged: object
) -> None:
    mine, store = DiscoveryService(open_store()), open_store()
    mine.register(FULL)
    assert mine.query(EVERYBODY, refresh_from_store=True) == [FULL]
    store.put(f"agent:{ALICE.fingerprint}", forged)  # type: ignore[arg-type]  # plain data of any shape
    store.put("agent:reader", READER.to_dict())  # type: ignore[arg-type]  # as above
    assert mine.query(EVERYBODY, refresh_from_store=True) == sorted([FULL, READER], key=lambda found: found.id)
    assert mine.counters == {"refused_descriptor": 1}
    newcomer = DiscoveryService(open_store())
    assert newcomer.query(EVERYBODY, refresh_from_store=True) == [READER]
    assert newcomer.counters == {"refused_descriptor": 1}


def test_other_keys_of_the_store_are_not_agents(open_store: OpenStore) -> None:
    store = open_store()
    store.put("agents", READER.to_dict())  # type: ignore[arg-type]  # JSON is plain data
    store.put("task:agent:x", {})
    asked = DiscoveryService(store)
    assert asked.query(EVERYBODY, refresh_from_store=True) == []
    assert asked.counters == {}


def test_registering_and_refreshing_from_several_threads_ends_with_what_the_store_holds(open_store: OpenStore) -> None:
    mine, theirs = DiscoveryService(open_store()), DiscoveryService(open_store())

    def register(service: DiscoveryService, name: str) -> None:
        for number in range(30):
            service.register(AgentDescriptor("a", capabilities=[f"{name}{number}"]))
            service.query(EVERYBODY, refresh_from_store=True)

    threads = [threading.Thread(target=register, args=job) for job in ((mine, "m"), (mine, "n"), (theirs, "t"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    last = DiscoveryService(open_store()).query(EVERYBODY, refresh_from_store=True)
    assert len(last) == 1
    assert mine.query(EVERYBODY, refresh_from_store=True) == last
    assert theirs.query(EVERYBODY, refresh_from_store=True) == last


def test_a_service_blocks_as_its_store_does(open_store: OpenStore) -> None:
    store = open_store()
    assert DiscoveryService(store).blocking == store.blocking
    assert DiscoveryService().blocking is False


OTHER_PROCESS = """
import sys
from converge.core.identity import Identity
from converge.core.topic import Topic
from converge.extensions.storage.sqlite import SQLiteStore
from converge.network.discovery import AgentDescriptor, DiscoveryQuery, DiscoveryService
with SQLiteStore(sys.argv[1]) as store:
    service = DiscoveryService(store)
    print(*(found.id for found in service.query(DiscoveryQuery(), refresh_from_store=True)))
    me = Identity.generate()
    service.register(AgentDescriptor(me.fingerprint, [Topic("news")], ["review"], me.public_key))
    print(me.fingerprint)
"""


def test_agents_of_two_processes_find_each_other(tmp_path: Path) -> None:
    path = str(tmp_path / "c.db")
    with SQLiteStore(path) as store:
        mine = DiscoveryService(store)
        mine.register(FULL)
        done = subprocess.run(
            [sys.executable, "-c", OTHER_PROCESS, path], capture_output=True, text=True, check=True, timeout=60
        )
        seen, other = done.stdout.split()
        assert seen == ALICE.fingerprint
        assert ids(mine.query(DiscoveryQuery([Topic("news")], ["review"]), refresh_from_store=True)) == sorted(
            [ALICE.fingerprint, other]
        )
