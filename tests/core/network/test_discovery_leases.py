"""Descriptors that have to be renewed, in one process and in several that share a store."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import TypeAlias

import pytest

from converge.core.errors import IdentityError, StoreError
from converge.core.identity import Identity
from converge.core.plain import Plain
from converge.core.store import Change, Store, VersionedStore
from converge.extensions.storage.memory import MemoryStore
from converge.network.discovery import AgentDescriptor, DiscoveryService, SignedDescriptor
from converge.network.discovery_lease import MAX_TTL_SEC, Lease, LeaseBook
from converge.network.discovery_record import EXPIRED
from converge.network.discovery_store import GRACE_SEC
from tests.core.network.discovery_clock import EVERYBODY, ManualClock, listed

ALICE = Identity.generate()
PLAIN = AgentDescriptor("a", capabilities=["x"])
SIGNED = SignedDescriptor.sign(AgentDescriptor(ALICE.fingerprint, capabilities=["x"]), ALICE, 10)
HOUR = 3600.0

Changes: TypeAlias = list[Change]  # a class with a method `list` has no list inside


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["no store", "store"])
def service(request: pytest.FixtureRequest, clock: ManualClock) -> DiscoveryService:
    return DiscoveryService(MemoryStore() if request.param == "store" else None, clock=clock)


def register(service: DiscoveryService, kind: str) -> str:
    """Register an agent for ten seconds."""
    if kind == "signed":
        service.register(SIGNED)
        return SIGNED.id
    service.register(PLAIN, ttl_sec=10)
    return PLAIN.id


@pytest.mark.parametrize("kind", ["plain", "signed"])
def test_a_descriptor_is_gone_when_its_lease_is_over_and_stays_while_it_is_renewed(
    service: DiscoveryService, clock: ManualClock, kind: str
) -> None:
    agent_id = register(service, kind)
    for _ in range(5):
        clock.advance(9.9)
        assert [found.id for found in service.query(EVERYBODY)] == [agent_id]
        assert service.renew(agent_id)
    clock.advance(10.1)
    assert service.query(EVERYBODY) == []
    assert service.get(agent_id) is None
    assert not service.renew(agent_id)
    register(service, kind)
    assert listed(service) == [agent_id]


def test_without_a_lease_a_descriptor_stays(service: DiscoveryService, clock: ManualClock) -> None:
    service.register(PLAIN)
    clock.advance(100 * 365 * 24 * HOUR)
    assert listed(service) == ["a"]
    assert service.renew("a")
    assert service.release_expired() == []


def test_registering_anew_gives_or_takes_the_lease(service: DiscoveryService, clock: ManualClock) -> None:
    service.register(PLAIN, ttl_sec=10)
    service.register(PLAIN)
    clock.advance(11)
    assert listed(service) == ["a"]
    service.register(PLAIN, ttl_sec=10)
    clock.advance(11)
    assert listed(service) == []


def test_only_what_was_registered_here_is_renewed_here(clock: ManualClock) -> None:
    store = MemoryStore()
    mine, theirs = DiscoveryService(store, clock=clock), DiscoveryService(store, clock=clock)
    mine.register(PLAIN, ttl_sec=10)
    assert listed(theirs) == ["a"]
    assert not theirs.renew("a")
    assert not theirs.renew("nobody")
    assert mine.renew_many(["a", "b", "a"]) == ["b"]


@pytest.mark.parametrize("ttl", [0, -1, math.nan, math.inf, MAX_TTL_SEC + 1, True, "60"])
def test_a_ttl_that_is_no_time_is_refused(service: DiscoveryService, ttl: float) -> None:
    with pytest.raises(ValueError, match="ttl_sec is a number of seconds above 0, at most 86400"):
        service.register(PLAIN, ttl_sec=ttl)
    with pytest.raises(ValueError, match="ttl_sec is a number"):
        SignedDescriptor.sign(SIGNED.descriptor, ALICE, ttl)
    with pytest.raises(ValueError, match="ttl_sec is a number"):
        DiscoveryService(lease_ttl_sec=ttl)
    assert listed(service) == []


# the store, and who else has it


@pytest.mark.parametrize("kind", ["plain", "signed"])
@pytest.mark.parametrize("how", ["query", "release"])
def test_whoever_notices_removes_what_is_over_from_the_store(clock: ManualClock, kind: str, how: str) -> None:
    store = MemoryStore()
    gone = register(DiscoveryService(store, clock=clock), kind)
    keeper = DiscoveryService(store, clock=clock)
    keeper.register(AgentDescriptor("z"))
    clock.advance(11)
    if how == "query":
        assert listed(keeper) == ["z"]
    else:
        assert keeper.release_expired() == [gone]
    assert store.list() == ["agent:z"]
    assert keeper.counters == {}


@pytest.mark.parametrize("kind", ["plain", "signed"])
def test_a_clock_that_was_set_back_keeps_no_dead_agent_alive(clock: ManualClock, kind: str) -> None:
    store = MemoryStore()
    agent_id = register(DiscoveryService(store, clock=clock), kind)
    observer = DiscoveryService(store, clock=clock)
    assert listed(observer) == [agent_id]
    clock.step(-HOUR)
    clock.advance(9.9)
    assert listed(observer) == [agent_id]
    clock.advance(0.2)
    assert listed(observer) == []
    assert store.list() == []


@pytest.mark.parametrize("kind", ["plain", "signed"])
def test_an_agent_whose_clock_was_set_back_stays_while_it_renews(clock: ManualClock, kind: str) -> None:
    store = MemoryStore()
    alive, observer = DiscoveryService(store, clock=clock), DiscoveryService(store, clock=clock)
    agent_id = register(alive, kind)
    assert listed(observer) == [agent_id]
    clock.step(-HOUR)
    for _ in range(6):
        clock.advance(4)
        assert alive.renew(agent_id)
        assert listed(observer) == listed(alive) == [agent_id]
    assert observer.counters == {}


@pytest.mark.parametrize("kind", ["plain", "signed"])
def test_an_agent_that_was_released_too_early_is_told_and_comes_back(clock: ManualClock, kind: str) -> None:
    store = MemoryStore()
    alive, ahead = (
        DiscoveryService(store, clock=clock),
        DiscoveryService(store, clock=ManualClock(1_700_000_000 + HOUR)),
    )
    agent_id = register(alive, kind)
    assert ahead.release_expired() == [agent_id]
    assert not alive.renew(agent_id)
    register(alive, kind)
    assert listed(alive) == [agent_id]


def test_a_renewal_that_another_process_overtook_is_refused(clock: ManualClock) -> None:
    store = MemoryStore()
    mine, theirs = DiscoveryService(store, clock=clock), DiscoveryService(store, clock=clock)
    mine.register(PLAIN, ttl_sec=10)
    theirs.register(AgentDescriptor("a", capabilities=["theirs"]), ttl_sec=10)
    assert not mine.renew("a")
    theirs.unregister("a")
    assert not mine.renew("a")
    assert store.list() == []


@pytest.mark.parametrize("junk", ["x", {}, [], None, {"id": "b"}, {"id": "a", "colour": "red"}])
def test_a_renewal_writes_over_what_is_no_descriptor(clock: ManualClock, junk: Plain) -> None:
    store = MemoryStore()
    mine, theirs = DiscoveryService(store, clock=clock), DiscoveryService(store, clock=clock)
    mine.register(PLAIN, ttl_sec=10)
    store.put("agent:a", junk)
    assert listed(theirs) == []
    assert mine.renew("a")
    assert listed(theirs) == ["a"]
    assert mine.counters == theirs.counters == {"refused_descriptor": 1}


class Interrupted(MemoryStore):
    """Lets somebody else do something right before, or in the middle of, a removal."""

    def __init__(self) -> None:
        super().__init__()
        self.before_marking: Callable[[], object] | None = None
        self.before_deleting: Callable[[], object] | None = None

    def compare_and_set(self, key: str, value: Plain, expected: int) -> int:
        if value == EXPIRED and self.before_marking is not None:
            act, self.before_marking = self.before_marking, None
            act()
        return super().compare_and_set(key, value, expected)

    def delete(self, key: str) -> None:
        if self.before_deleting is not None:
            act, self.before_deleting = self.before_deleting, None
            act()
        super().delete(key)


@pytest.mark.parametrize("kind", ["plain", "signed"])
def test_a_renewal_at_the_moment_of_the_removal_wins(clock: ManualClock, kind: str) -> None:
    store = Interrupted()
    alive, remover = DiscoveryService(store, clock=clock), DiscoveryService(store, clock=clock)
    agent_id = register(alive, kind)
    assert listed(remover) == [agent_id]
    clock.advance(10.1)
    store.before_marking = lambda: alive.renew(agent_id)
    assert remover.release_expired() == []
    assert listed(remover) == listed(alive) == [agent_id]


@pytest.mark.parametrize("kind", ["plain", "signed"])
def test_a_registration_in_the_middle_of_the_removal_waits_for_its_end(clock: ManualClock, kind: str) -> None:
    store = Interrupted()
    alive, remover = DiscoveryService(store, clock=clock), DiscoveryService(store, clock=clock)
    agent_id = register(alive, kind)
    clock.advance(10.1)
    coming = threading.Thread(target=register, args=(alive, kind))
    store.before_deleting = coming.start
    assert remover.release_expired() == [agent_id]
    coming.join()
    assert listed(remover) == listed(alive) == [agent_id]


def test_a_removal_whose_process_died_in_the_middle_is_finished_by_another(clock: ManualClock) -> None:
    store = MemoryStore()
    store.put("agent:a", EXPIRED)
    service = DiscoveryService(store, clock=clock)
    assert listed(service) == []
    assert store.list() == ["agent:a"]
    clock.advance(2 * GRACE_SEC)
    assert listed(service) == []
    assert store.list() == []
    assert service.counters == {}


def test_an_agent_is_registered_over_a_removal_that_nobody_finishes(clock: ManualClock) -> None:
    store = MemoryStore()
    store.put("agent:a", EXPIRED)
    service = DiscoveryService(store, clock=clock)
    service.register(PLAIN)
    clock.advance(10 * GRACE_SEC)
    assert listed(service) == ["a"]
    assert listed(DiscoveryService(store, clock=clock)) == ["a"]


def test_a_store_that_cannot_be_written_answers_without_what_is_over(clock: ManualClock) -> None:
    class Full(MemoryStore):
        full = False

        def compare_and_set(self, key: str, value: Plain, expected: int) -> int:
            if self.full:
                raise StoreError("no space left")
            return super().compare_and_set(key, value, expected)

    store = Full()
    service = DiscoveryService(store, clock=clock)
    service.register(PLAIN, ttl_sec=10)
    service.register(AgentDescriptor("z"))
    clock.advance(11)
    store.full = True
    assert listed(service) == ["z"]
    assert service.counters == {"removal_failures": 1}
    with pytest.raises(StoreError):
        service.release_expired()
    store.full = False
    assert service.release_expired() == ["a"]


def test_a_registration_that_the_store_refuses_changes_nothing(clock: ManualClock) -> None:
    class Full(MemoryStore):
        def compare_and_set(self, key: str, value: Plain, expected: int) -> int:
            raise StoreError("no space left")

    service = DiscoveryService(Full(), clock=clock)
    with pytest.raises(StoreError):
        service.register(PLAIN, ttl_sec=10)
    assert service.query(EVERYBODY) == []
    assert listed(service) == []


class Minimal(Store):
    """The four methods that a third party has to write."""

    def __init__(self) -> None:
        self.inner = MemoryStore()

    def put(self, key: str, value: Plain) -> None:
        self.inner.put(key, value)

    def get(self, key: str) -> Plain:
        return self.inner.get(key)

    def delete(self, key: str) -> None:
        self.inner.delete(key)

    def list(self, prefix: str = "") -> list[str]:
        return self.inner.list(prefix)


def test_leases_work_on_a_store_of_four_methods(clock: ManualClock) -> None:
    store = Minimal()
    mine, theirs = DiscoveryService(store, clock=clock), DiscoveryService(store, clock=clock)
    agent_id = register(mine, "signed")
    assert listed(theirs) == [agent_id]
    clock.advance(5)
    assert mine.renew(agent_id)
    clock.advance(9)
    assert listed(theirs) == [agent_id]
    clock.advance(2)
    assert listed(theirs) == []
    assert store.list() == []


def test_opening_reads_nothing_and_a_query_never_lists() -> None:
    class Watched(MemoryStore):
        def list(self, prefix: str = "") -> list[str]:
            raise AssertionError("listed")

        def changes(self, cursor: int | None = None, prefix: str = "") -> tuple[int, Changes]:
            calls.append((cursor, prefix))
            return super().changes(cursor, prefix)

    calls: list[tuple[int | None, str]] = []
    store: VersionedStore = Watched()
    store.put("task:0", 0)
    service = DiscoveryService(store)
    assert service.query(EVERYBODY) == []
    assert calls == []
    assert listed(service) == listed(service) == []
    store.put("task:1", 1)
    service.register(PLAIN)
    assert listed(service) == ["a"]
    assert [prefix for _, prefix in calls] == ["agent:"] * len(calls)
    assert [cursor for cursor, _ in calls].count(0) == 1


def test_what_was_over_before_the_feed_told_of_it_does_not_begin_anew(clock: ManualClock) -> None:
    store = MemoryStore()
    service = DiscoveryService(store, clock=clock)
    for kind in ("plain", "signed"):
        register(service, kind)
    clock.step(-HOUR)
    clock.advance(10)
    assert listed(service) == []
    assert store.list() == []
    assert service.counters == {}


def test_a_feed_that_has_forgotten_too_much_is_read_anew(clock: ManualClock) -> None:
    class Forgetful(MemoryStore):
        remembered_deletions = 1

    store = Forgetful()
    mine, theirs = DiscoveryService(store, clock=clock), DiscoveryService(store, clock=clock)
    for number in range(6):
        theirs.register(AgentDescriptor(f"{number}"), ttl_sec=10)
    assert len(listed(mine)) == 6
    clock.step(-HOUR)
    clock.advance(6)
    for number in range(4):
        theirs.unregister(f"{number}")
    assert listed(mine) == ["4", "5"]
    clock.advance(4.1)  # what was observed before the reading counts
    assert listed(mine) == []


# the book of leases


def test_the_book_does_not_grow_with_renewals() -> None:
    book, clock = LeaseBook(), ManualClock()
    for version in range(5_000):
        clock.advance(0.001)
        book.watch("a", version, Lease.begin(clock.time(), 86_400), clock.monotonic())
    assert sum(len(part) for part in vars(book).values() if isinstance(part, list)) < 300
    assert book.expire(clock.time() + 1, clock.monotonic()) == []
    assert book.expire(clock.time() + 86_400, clock.monotonic()) == ["a"]
    assert book.over() == [("a", 4_999)]


def test_the_same_lease_under_a_new_version_is_no_renewal() -> None:
    book, clock = LeaseBook(), ManualClock()
    lease = Lease.begin(clock.time(), 10)
    book.watch("a", 1, lease, clock.monotonic())
    clock.step(-HOUR)
    clock.advance(9)
    book.watch("a", 2, lease, clock.monotonic())
    clock.advance(1)
    assert book.expire(clock.time(), clock.monotonic()) == ["a"]
    assert book.over() == [("a", 2)]


def test_what_is_remembered_of_the_gone_is_forgotten_in_time() -> None:
    book = LeaseBook()
    for number in range(10_000):
        book.remember_end(f"{number}", number, number + 10.0, float(number))
    assert book.last_issued("9999", 10_008.0) == 9_999
    assert book.last_issued("9999", 10_009.0) == -1
    assert len(vars(book)["_ended"]) < 200


def test_an_identity_signs_for_itself_only() -> None:
    with pytest.raises(IdentityError, match="it belongs to another agent"):
        SignedDescriptor.sign(PLAIN, ALICE)
