"""Many agents of one service, renewed by one record, as other processes see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from converge.core.identity import Identity
from converge.core.plain import pack
from converge.extensions.storage.memory import MemoryStore
from converge.network.discovery import AgentDescriptor, DiscoveryService, SignedDescriptor
from converge.network.discovery_lease import MAX_TTL_SEC
from converge.network.discovery_renewal import GROUP, MAX_NAMED, PURPOSE, Renewal, hash_of, read_renewal, sign_renewal
from converge.network.discovery_store import PREFIX, RENEWALS
from tests.core.network.discovery_clock import ManualClock, listed

if TYPE_CHECKING:
    from collections.abc import Callable

TTL_SEC = 10.0
IDENTITIES = [Identity.generate() for _ in range(GROUP + 6)]
IDS = [identity.fingerprint for identity in IDENTITIES]
FIRST, LAST = IDS[0], IDS[-1]
RENEWER = Identity.generate()


class World:
    """One service with many agents, and another process that looks on."""

    def __init__(self) -> None:
        self.clock, self.store = ManualClock(), MemoryStore()
        self.mine, self.theirs = self.opened(), self.opened()
        for identity in IDENTITIES:
            self.mine.register(SignedDescriptor.sign(AgentDescriptor(identity.fingerprint), identity, TTL_SEC))
        assert self.mine.renew_many(IDS) == []  # from now on, all have named the service
        self.pass_time()

    def opened(self) -> DiscoveryService:
        return DiscoveryService(self.store, clock=self.clock)

    def pass_time(self, seconds: float = TTL_SEC * 0.6, *, renewing: bool = True) -> None:
        self.clock.advance(seconds)
        if renewing:
            assert self.mine.renew_many(IDS) == []

    def records(self) -> dict[str, object]:
        return {key: self.store.get(key) for key in self.store.list(PREFIX)}

    def renewal(self) -> tuple[str, Any]:
        (key,) = self.store.list(RENEWALS)
        return key, self.store.get(key)


@pytest.fixture
def world() -> World:
    return World()


def test_a_renewal_of_many_writes_one_record_and_others_see_everybody(world: World) -> None:
    before = world.records()
    for _ in range(5):
        world.pass_time()
        assert listed(world.theirs) == sorted(IDS)
    assert listed(world.mine) == sorted(IDS)
    assert world.records() == before
    key, value = world.renewal()
    assert len([*read_renewal(key.removeprefix(RENEWALS).partition(":")[0], value).named()]) == len(IDS)


def test_when_the_process_is_dead_all_its_agents_are_gone_after_a_lease(world: World) -> None:
    assert listed(world.theirs) == sorted(IDS)
    world.pass_time(TTL_SEC - 0.1, renewing=False)
    assert listed(world.theirs) == sorted(IDS)
    world.pass_time(0.2, renewing=False)
    assert listed(world.theirs) == []
    assert world.records() == {}
    assert listed(world.opened()) == []


def test_a_process_that_comes_later_and_one_that_seldom_looks_find_who_is_renewed(world: World) -> None:
    assert listed(world.theirs) == sorted(IDS)
    for _ in range(3):
        world.pass_time()
    assert world.theirs.get(FIRST) is None  # as far as it knows, without a look at the store
    assert listed(world.theirs) == sorted(IDS)
    assert listed(world.opened()) == sorted(IDS)


def test_a_clock_that_was_set_back_keeps_no_dead_agent(world: World) -> None:
    assert listed(world.theirs) == sorted(IDS)
    world.clock.step(-3600)
    world.pass_time(TTL_SEC + 0.1, renewing=False)
    assert listed(world.theirs) == []


def test_after_a_clock_was_set_back_renewals_still_count(world: World) -> None:
    assert listed(world.theirs) == sorted(IDS)
    world.clock.step(-3600)
    for _ in range(4):
        world.pass_time()
        assert listed(world.theirs) == sorted(IDS)


def test_one_that_is_not_renewed_any_more_is_gone_while_the_others_stay(world: World) -> None:
    assert listed(world.theirs) == sorted(IDS)
    for _ in range(2):
        world.clock.advance(TTL_SEC * 0.6)
        assert world.mine.renew_many(IDS[:-1]) == []
    assert listed(world.theirs) == sorted(IDS[:-1])


def test_an_agent_that_was_unregistered_does_not_come_back_by_a_renewal(world: World) -> None:
    key, value = world.renewal()
    assert listed(world.theirs) == sorted(IDS)
    world.theirs.unregister(LAST)
    assert world.mine.renew_many(IDS) == [LAST]
    world.store.put(key, value)  # one that names it still
    assert listed(world.opened()) == sorted(IDS[:-1])
    assert listed(world.theirs) == sorted(IDS[:-1])


def test_an_agent_that_another_process_has_registered_since_is_not_renewed_here(world: World) -> None:
    world.clock.advance(1)
    world.theirs.register(SignedDescriptor.sign(AgentDescriptor(LAST), IDENTITIES[-1], TTL_SEC))
    assert world.mine.renew_many(IDS) == [LAST]
    world.clock.advance(TTL_SEC - 0.5)
    assert world.mine.renew_many(IDS[:-1]) == []
    world.clock.advance(1)
    assert listed(world.opened()) == sorted(IDS[:-1])


def test_the_last_one_to_leave_takes_the_renewal_along(world: World) -> None:
    for agent_id in IDS:
        assert world.store.list(RENEWALS) != []
        world.mine.unregister(agent_id)
    assert world.store.list() == []


def test_what_a_killed_process_leaves_is_removed_after_the_longest_lease(world: World) -> None:
    other = DiscoveryService(world.store, clock=world.clock)
    assert listed(other) == sorted(IDS)
    world.pass_time(MAX_TTL_SEC + 1, renewing=False)
    assert listed(other) == []
    assert world.store.list() == []


def test_an_older_renewal_that_is_put_back_renews_nobody(world: World) -> None:
    key, old = world.renewal()
    assert listed(world.theirs) == sorted(IDS)
    world.pass_time()
    assert listed(world.theirs) == sorted(IDS)
    world.pass_time(renewing=False)
    world.store.put(key, old)
    world.store.put(f"{key}0", old)
    assert listed(world.theirs) == sorted(IDS)  # nor does it end what the newer one began
    world.pass_time(renewing=False)
    world.store.put(f"{key}1", old)
    assert listed(world.theirs) == []


def names() -> list[bytes]:
    return [bytes(16)]


FORGED: dict[str, Callable[[Any], object]] = {
    "altered": lambda value: {**value, "body": value["body"][:-1] + b"x"},
    "of another key": lambda value: {**value, "public_key": RENEWER.public_key},
    "signed by another key": lambda value: {**value, "signature": RENEWER.sign(PURPOSE + value["body"])},
    "all of another": lambda _: sign_renewal(2**60, names(), RENEWER),
    "no dict": lambda _: "renewed",
    "a part missing": lambda value: {"body": value["body"]},
    "no bytes": lambda value: {**value, "body": "body"},
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_a_forged_renewal_is_counted_and_renews_nobody(world: World, forge: Callable[[Any], Any]) -> None:
    key, value = world.renewal()
    assert listed(world.theirs) == sorted(IDS)
    world.pass_time(renewing=False)
    world.store.put(key, forge(value))
    assert listed(world.theirs) == sorted(IDS)
    assert world.theirs.counters["refused_renewal"] == 1
    world.pass_time(renewing=False)
    assert listed(world.theirs) == []


def test_only_the_renewer_that_an_agent_has_named_renews_it(world: World) -> None:
    key, value = world.renewal()
    renewal = read_renewal(key.removeprefix(RENEWALS).partition(":")[0], value)
    assert listed(world.theirs) == sorted(IDS)
    world.pass_time(renewing=False)
    at = f"{RENEWALS}{RENEWER.fingerprint}:0"
    world.store.put(at, sign_renewal(int(world.clock.time() * 1e6), [*renewal.named()], RENEWER))
    world.pass_time(renewing=False)
    assert listed(world.theirs) == []
    assert world.theirs.counters["refused_renewal"] == 0


@pytest.mark.parametrize(
    "body", [[2, 1, b""], [1, -1, b""], [1, 1, b"x" * 15], [1, 1, "text"], [1, 1], [True, 1, b""], {"a": 1}]
)
def test_what_is_signed_and_no_renewal_is_refused(body: Any) -> None:
    packed = pack(body)
    record = {"body": packed, "public_key": RENEWER.public_key, "signature": RENEWER.sign(PURPOSE + packed)}
    with pytest.raises(ValueError, match="renewal"):
        read_renewal(RENEWER.fingerprint, record)


def test_a_renewal_that_names_too_many_is_refused() -> None:
    record = sign_renewal(1, [hash_of(b"x")] * MAX_NAMED, RENEWER)
    assert read_renewal(RENEWER.fingerprint, record).issued_us == 1
    with pytest.raises(ValueError, match="names at most 4096 descriptors"):
        read_renewal(RENEWER.fingerprint, sign_renewal(1, [hash_of(b"x")] * (MAX_NAMED + 4), RENEWER))


def test_a_hash_across_two_others_is_not_named() -> None:
    first, second = hash_of(b"1"), hash_of(b"2")
    renewal = Renewal(1, first + second)
    assert renewal.names(first)
    assert renewal.names(second)
    assert not renewal.names((first + second)[5:21])
    assert not renewal.names(hash_of(b"3"))


def test_few_agents_sign_for_themselves() -> None:
    store, clock = MemoryStore(), ManualClock()
    service = DiscoveryService(store, clock=clock)
    for identity in IDENTITIES[:3]:
        service.register(SignedDescriptor.sign(AgentDescriptor(identity.fingerprint), identity, TTL_SEC))
    for _ in range(3):
        clock.advance(TTL_SEC / 2)
        assert service.renew_many(IDS[:3]) == []
    assert store.list(RENEWALS) == []
    assert listed(DiscoveryService(store, clock=clock)) == sorted(IDS[:3])
