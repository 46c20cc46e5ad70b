"""Descriptors under the signature of their agent, and what becomes of forged ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

from converge.core.agent import Agent
from converge.core.capability import Capability
from converge.core.errors import IdentityError, SigningError
from converge.core.identity import Identity
from converge.core.message import Message
from converge.core.plain import Plain, pack, unpack
from converge.core.store import Store
from converge.core.topic import Topic
from converge.extensions.storage.memory import MemoryStore
from converge.network.discovery import AgentDescriptor, DiscoveryService, SignedDescriptor
from converge.network.discovery_lease import DEFAULT_TTL_SEC
from converge.network.discovery_record import MAX_CAPABILITIES, MAX_DESCRIPTOR_BYTES, PURPOSE
from converge.network.errors import DescriptorRefused
from converge.network.network import AgentNetwork, build_descriptor
from converge.network.transport.local import LocalTransport, LocalTransportRegistry
from tests.core.network.discovery_clock import EVERYBODY, ManualClock, listed

ALICE, BOB = Identity.generate(), Identity.generate()
NOW = 1_700_000_000.0


def descriptor(identity: Identity = ALICE, *capabilities: str) -> AgentDescriptor:
    return AgentDescriptor(
        identity.fingerprint, [Topic("news", {"lang": "en"})], capabilities or ["review"], identity.public_key
    )


def told(identity: Identity = ALICE, *capabilities: str, issued_at: float = NOW, ttl: float = 60) -> SignedDescriptor:
    """As it comes from elsewhere: without the signer."""
    signed = SignedDescriptor.sign(descriptor(identity, *capabilities), identity, ttl, issued_at=issued_at)
    return SignedDescriptor.from_plain(signed.to_plain())


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture(params=[None, MemoryStore], ids=["no store", "store"])
def service(request: pytest.FixtureRequest, clock: ManualClock) -> DiscoveryService:
    store: Store | None = None if request.param is None else request.param()
    return DiscoveryService(store, require_signed=True, clock=clock)


def key(identity: Identity = ALICE) -> str:
    return f"agent:{identity.fingerprint}"


# the form


def test_a_signed_descriptor_travels_as_plain_data() -> None:
    signed = SignedDescriptor.sign(descriptor(), ALICE)
    received = SignedDescriptor.from_plain(unpack(pack(signed.to_plain())))
    assert received == signed
    assert (received.descriptor, received.id) == (descriptor(), ALICE.fingerprint)
    assert received.lease.ttl_sec == DEFAULT_TTL_SEC
    assert (signed.signer, received.signer) == (ALICE, None)
    assert ALICE.private_key is not None
    assert ALICE.private_key.hex() not in repr(signed)


def test_what_is_signed_is_the_prefix_and_the_stored_bytes() -> None:
    plain: Any = told().to_plain()
    assert plain == {
        "body": pack([1, int(NOW * 1e6), 60_000_000, descriptor().to_dict()]),
        "public_key": ALICE.public_key,
        "signature": ALICE.sign(b"converge/descriptor/v1\0" + plain["body"]),
    }


def test_a_descriptor_without_a_key_inside_can_be_signed() -> None:
    bare = AgentDescriptor(ALICE.fingerprint, capabilities=["x"])
    assert SignedDescriptor.from_plain(SignedDescriptor.sign(bare, ALICE).to_plain()).descriptor == bare


def test_only_the_agent_itself_signs_and_only_with_its_private_key() -> None:
    with pytest.raises(IdentityError, match="belongs to another agent"):
        SignedDescriptor.sign(descriptor(BOB), ALICE)
    with pytest.raises(SigningError):
        SignedDescriptor.sign(descriptor(), Identity.from_public_key(ALICE.public_key))


# registering


def test_a_signed_descriptor_is_found_in_every_process_of_the_store(clock: ManualClock) -> None:
    store = MemoryStore()
    mine, theirs = (DiscoveryService(store, require_signed=True, clock=clock) for _ in range(2))
    mine.register(SignedDescriptor.sign(descriptor(), ALICE))
    assert theirs.query(EVERYBODY, refresh_from_store=True) == [descriptor()]
    assert mine.query(EVERYBODY) == [descriptor()]
    assert theirs.counters == {}


def altered(signed: SignedDescriptor, **changes: bytes) -> SignedDescriptor:
    return attrs.evolve(signed, proof=attrs.evolve(signed.proof, **changes))


FORGED: dict[str, Callable[[], SignedDescriptor]] = {
    "altered": lambda: altered(told(), body=told().proof.body.replace(b"review", b"revoke")),
    "cut": lambda: altered(told(), body=told().proof.body[:-1]),
    "extended": lambda: altered(told(), body=told().proof.body + b"\xc0"),
    "other signature": lambda: altered(told(), signature=told(issued_at=NOW + 1).proof.signature),
    "no signature": lambda: altered(told(), signature=b""),
    "foreign key": lambda: altered(told(), public_key=BOB.public_key),
    "foreign signer": lambda: altered(
        told(), public_key=BOB.public_key, signature=BOB.sign(PURPOSE + told().proof.body)
    ),
    "signature of a message": lambda: altered(
        told(), signature=ALICE.sign(b"converge/message/v1\0" + told().proof.body)
    ),
    "bare signature": lambda: altered(told(), signature=ALICE.sign(told().proof.body)),
    "relabelled": lambda: attrs.evolve(told(), descriptor=descriptor(BOB)),
    "foreign renewer": lambda: attrs.evolve(told(), signer=BOB),
    "verify-only renewer": lambda: attrs.evolve(told(), signer=Identity.from_public_key(ALICE.public_key)),
    "signed junk": lambda: altered(told(), body=pack(["x"]), signature=ALICE.sign(PURPOSE + pack(["x"]))),
}


@pytest.mark.parametrize("kind", FORGED)
def test_what_is_forged_is_refused_at_the_registration_and_changes_nothing(
    service: DiscoveryService, kind: str
) -> None:
    with pytest.raises(DescriptorRefused, match="is refused: "):
        service.register(FORGED[kind]())
    assert listed(service) == []
    service.register(told())
    with pytest.raises(DescriptorRefused):
        service.register(FORGED[kind]())
    assert service.query(EVERYBODY) == [descriptor()]


def test_where_signatures_are_required_a_plain_one_is_refused(service: DiscoveryService) -> None:
    with pytest.raises(DescriptorRefused, match=r"takes signed ones only; give it SignedDescriptor\.sign"):
        service.register(descriptor())
    assert listed(service) == []


def test_where_they_are_not_a_plain_one_does_not_replace_a_signed_one_in_force(clock: ManualClock) -> None:
    store = MemoryStore()
    service, other = DiscoveryService(store, clock=clock), DiscoveryService(store, clock=clock)
    service.register(descriptor(ALICE, "plain"))
    service.register(told())
    for asked in (service, other):
        with pytest.raises(DescriptorRefused, match="it is not signed, and the one in force is"):
            asked.register(descriptor(ALICE, "plain"))
        assert asked.query(EVERYBODY) == [descriptor()]
    store.put(key(), descriptor(ALICE, "plain").to_dict())  # type: ignore[arg-type]  # JSON is plain data
    assert service.query(EVERYBODY, refresh_from_store=True) == [descriptor()]
    assert service.counters == {"refused_descriptor": 1}
    clock.advance(61)
    service.register(descriptor(ALICE, "plain"))
    assert service.query(EVERYBODY) == [descriptor(ALICE, "plain")]


def test_the_lease_of_a_signed_one_is_what_is_signed(service: DiscoveryService, clock: ManualClock) -> None:
    with pytest.raises(ValueError, match=r"give ttl_sec to SignedDescriptor\.sign"):
        service.register(told(), ttl_sec=5)
    service.register(told(ttl=5))
    assert not service.renew(ALICE.fingerprint)  # it was signed elsewhere
    clock.advance(5.1)
    assert listed(service) == []
    with pytest.raises(DescriptorRefused, match="its lease is over; ask the agent for a new one"):
        service.register(told(ttl=5))


# replays


def test_an_older_one_never_replaces_a_newer_one(service: DiscoveryService) -> None:
    service.register(told(ALICE, "new", issued_at=NOW + 2))
    for issued_at in (NOW, NOW + 1.999999, NOW + 2):
        with pytest.raises(DescriptorRefused, match="it was signed at"):
            service.register(told(ALICE, "old", issued_at=issued_at))
    service.register(told(ALICE, "new", issued_at=NOW + 2))  # the very same
    assert service.query(EVERYBODY) == [descriptor(ALICE, "new")]


def test_an_older_one_that_is_put_into_the_store_is_refused(clock: ManualClock) -> None:
    store = MemoryStore()
    owner, observer = (DiscoveryService(store, require_signed=True, clock=clock) for _ in range(2))
    owner.register(SignedDescriptor.sign(descriptor(ALICE, "old"), ALICE))
    old = store.get(key())
    clock.advance(1)
    owner.register(SignedDescriptor.sign(descriptor(ALICE, "new"), ALICE))
    assert observer.query(EVERYBODY, refresh_from_store=True) == [descriptor(ALICE, "new")]
    store.put(key(), old)
    assert observer.query(EVERYBODY, refresh_from_store=True) == [descriptor(ALICE, "new")]
    assert observer.counters == {"refused_descriptor": 1}
    assert owner.renew(ALICE.fingerprint)
    newcomer = DiscoveryService(store, require_signed=True, clock=clock)
    assert newcomer.query(EVERYBODY, refresh_from_store=True) == [descriptor(ALICE, "new")]


@pytest.mark.parametrize("end", ["deleted", "expired"])
def test_what_is_gone_does_not_come_back_by_a_replay(clock: ManualClock, end: str) -> None:
    store = MemoryStore()
    owner, observer = (DiscoveryService(store, require_signed=True, clock=clock) for _ in range(2))
    owner.register(SignedDescriptor.sign(descriptor(), ALICE, 10))
    stored = store.get(key())
    assert listed(observer) == [ALICE.fingerprint]
    if end == "deleted":
        owner.unregister(ALICE.fingerprint, identity=ALICE)
    else:
        clock.step(-3600)
        clock.advance(10)
    assert listed(observer) == []
    store.put(key(), stored)
    assert listed(observer) == []
    assert observer.counters == {"refused_descriptor": 1}
    owner.register(SignedDescriptor.sign(descriptor(), ALICE, 10))
    assert listed(observer) == [ALICE.fingerprint]


def test_a_replay_of_the_present_one_does_not_begin_its_lease_anew(clock: ManualClock) -> None:
    store = MemoryStore()
    observer = DiscoveryService(store, require_signed=True, clock=clock)
    DiscoveryService(store, clock=clock).register(told(ttl=10))
    assert listed(observer) == [ALICE.fingerprint]
    clock.step(-3600)
    for _ in range(5):
        clock.advance(2)
        store.put(key(), store.get(key()))
        left = listed(observer)
    assert left == []


def test_a_deletion_by_who_can_write_to_the_store_is_healed_by_the_agent(clock: ManualClock) -> None:
    store = MemoryStore()
    owner, observer = (DiscoveryService(store, require_signed=True, clock=clock) for _ in range(2))
    owner.register(SignedDescriptor.sign(descriptor(), ALICE))
    store.delete(key())
    assert not owner.renew(ALICE.fingerprint)
    owner.register(SignedDescriptor.sign(descriptor(), ALICE))
    assert listed(observer) == [ALICE.fingerprint]


# unregistering


@pytest.mark.parametrize("who", [None, BOB, Identity.from_public_key(ALICE.public_key)])
def test_nobody_unregisters_another_agent_where_signatures_are_required(
    service: DiscoveryService, who: Identity | None
) -> None:
    service.register(SignedDescriptor.sign(descriptor(), ALICE))
    with pytest.raises(DescriptorRefused, match="only the agent itself unregisters it here; give its identity"):
        service.unregister(ALICE.fingerprint, identity=who)
    assert listed(service) == [ALICE.fingerprint]
    service.unregister(ALICE.fingerprint, identity=ALICE)
    assert listed(service) == []
    service.unregister(ALICE.fingerprint, identity=ALICE)


# limits

LARGE = {
    "topics": (AgentDescriptor(ALICE.fingerprint, [Topic(f"{n}") for n in range(65)]), "it has 65 topics; at most 64"),
    "capabilities": (
        AgentDescriptor(ALICE.fingerprint, capabilities=[f"{n}" for n in range(MAX_CAPABILITIES + 1)]),
        "it has 257 capabilities; at most 256",
    ),
    "bytes": (
        AgentDescriptor(ALICE.fingerprint, capabilities=[Capability("x", description="d" * MAX_DESCRIPTOR_BYTES)]),
        r"it has 65\d\d\d bytes; at most 65536",
    ),
}


@pytest.mark.parametrize("what", LARGE)
def test_what_is_too_large_is_refused_with_what_and_how_much(clock: ManualClock, what: str) -> None:
    large, text = LARGE[what]
    store = MemoryStore()
    service = DiscoveryService(store, clock=clock)
    with pytest.raises(DescriptorRefused, match=text):
        service.register(large)
    with pytest.raises(DescriptorRefused, match=text):
        SignedDescriptor.sign(large, ALICE)
    store.put(key(), large.to_dict())  # type: ignore[arg-type]  # JSON is plain data
    body = pack([1, int(NOW * 1e6), 60_000_000, large.to_dict()])
    store.put(key(BOB), {"body": body, "public_key": BOB.public_key, "signature": BOB.sign(PURPOSE + body)})
    assert listed(service) == []
    assert service.counters == {"refused_descriptor": 2}


def test_an_id_that_is_too_long_for_a_key_is_refused() -> None:
    for service in (DiscoveryService(), DiscoveryService(MemoryStore())):
        with pytest.raises(ValueError, match="at most 1024 are allowed"):
            service.register(AgentDescriptor("a" * 1_100))


def test_the_error_says_which_agent_and_why_and_survives_a_pickle() -> None:
    import pickle

    error = DescriptorRefused("a", "why")
    assert isinstance(error, ValueError)
    assert (error.agent_id, error.reason, str(error)) == ("a", "why", "the descriptor of 'a' is refused: why")
    restored = pickle.loads(pickle.dumps(error))
    assert (type(restored), str(restored), vars(restored)) == (type(error), str(error), vars(error))


# mutations


def mutated(record: dict[str, Plain], other: dict[str, Plain], chance: random.Random) -> Any:
    """A signed record with one thing wrong, often in a way that a careless reader would not notice."""
    part = chance.choice(["body", "public_key", "signature"])
    value = record[part]
    assert isinstance(value, bytes)
    body: Any = unpack(record["body"])  # type: ignore[arg-type]  # bytes
    match chance.randrange(10):
        case 0 | 1 | 2:
            place = chance.randrange(len(value))
            return {
                **record,
                part: value[:place] + bytes([value[place] ^ 1 << chance.randrange(8)]) + value[place + 1 :],
            }
        case 3:
            return {**record, part: value[: chance.randrange(len(value))]}
        case 4:
            return {**record, part: value + chance.randbytes(1 + chance.randrange(8))}
        case 5:
            return {**record, part: other[part]}
        case 6:
            left = {name: entry for name, entry in record.items() if name != part}
            return chance.choice([left, {**record, "lease": [0, 1]}, [record], {**left, part: value.hex()}, other])
        case 7:
            body[chance.randrange(3)] += chance.choice([-1, 1, 2**40])
            return {**record, "body": pack(body)}
        case 8:
            fields = chance.choice([{**body[3], "capabilities": []}, {**body[3], "id": "x"}, [], {**body[3], "x": 1}])
            return {**record, "body": pack([*body[:3], fields])}
        case _:
            return chance.choice([body[3], {**body[3], "lease": body[1:3]}, {**body[3], **record}, body, None, "x", 7])


def records(identities: list[Identity], at: float) -> Iterator[dict[str, Plain]]:
    for identity in identities:
        yield SignedDescriptor.sign(descriptor(identity), identity, issued_at=at).to_plain()


@pytest.mark.parametrize("known", [False, True], ids=["newcomer", "known before"])
def test_of_10_000_mutated_records_none_is_accepted(
    clock: ManualClock, known: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL")
    chance = random.Random(17)
    identities = [Identity.generate() for _ in range(250)]
    store = MemoryStore()
    service = DiscoveryService(store, require_signed=True, clock=clock)
    good = list(records(identities, NOW - 1))
    right = {identity.fingerprint: descriptor(identity) for identity in identities}
    if known:
        store.put_many({key(identity): record for identity, record in zip(identities, good, strict=True)})
        assert {found.id: found for found in service.query(EVERYBODY, refresh_from_store=True)} == right
    fresh = list(records(identities, NOW))
    rounds = 20
    for _ in range(rounds):
        wrong = {}
        for place, identity in enumerate(identities):
            made = mutated(fresh[place], fresh[place - 1], chance)
            assert made != fresh[place]
            wrong[key(identity)] = made
        store.put_many(wrong)
        found = service.query(EVERYBODY, refresh_from_store=True)
        assert {one.id: one for one in found} == (right if known else {})
    assert service.counters == {"refused_descriptor": rounds * len(identities)}
    store.put_many({key(identity): record for identity, record in zip(identities, fresh, strict=True)})
    assert {one.id: one for one in service.query(EVERYBODY, refresh_from_store=True)} == right


# a network registers signed ones


def network(store: Store | None, clock: ManualClock, **options: Any) -> AgentNetwork:
    discovery = DiscoveryService(store, clock=clock, lease_ttl_sec=10, **options)
    return AgentNetwork(LocalTransport(ALICE.fingerprint, LocalTransportRegistry()), discovery)


def test_a_network_with_a_store_registers_its_agent_signed_and_under_a_lease(clock: ManualClock) -> None:
    store = MemoryStore()
    mine = network(store, clock, require_signed=True)
    agent = Agent(ALICE)
    mine.register_agent(agent)
    strict = DiscoveryService(store, require_signed=True, clock=clock)
    for _ in range(3):
        clock.advance(9)
        mine.renew_agents([agent.id, "nobody"])
        assert strict.query(EVERYBODY, refresh_from_store=True) == [build_descriptor(agent)]
    clock.advance(11)
    assert listed(strict) == []
    mine.renew_agents([agent.id])  # it was away for a while
    assert listed(strict) == [agent.id]
    mine.unregister_agent(agent.id)
    mine.unregister_agent(agent.id)
    mine.unregister_agent(BOB.fingerprint)
    mine.renew_agents([agent.id])
    assert store.list() == []


def test_a_network_without_a_store_needs_no_lease(clock: ManualClock) -> None:
    mine = network(None, clock)
    mine.register_agent(Agent(ALICE))
    clock.advance(100)
    mine.renew_agents([ALICE.fingerprint])
    assert listed(mine.discovery) == [ALICE.fingerprint]


def test_an_agent_that_cannot_sign_has_a_lease_where_that_is_allowed(clock: ManualClock) -> None:
    mute = Agent(Identity.from_public_key(ALICE.public_key))
    mine = network(MemoryStore(), clock)
    mine.register_agent(mute)
    clock.advance(9)
    mine.renew_agents([mute.id])
    clock.advance(9)
    assert listed(mine.discovery) == [mute.id]
    clock.advance(2)
    assert listed(mine.discovery) == []
    with pytest.raises(DescriptorRefused):
        network(MemoryStore(), clock, require_signed=True).register_agent(mute)


def test_an_agent_that_runs_twice_is_not_fought_over(clock: ManualClock) -> None:
    store = MemoryStore()
    one, two = network(store, clock), network(store, clock)
    one.register_agent(Agent(ALICE), descriptor(ALICE, "one"))
    clock.advance(1)
    two.register_agent(Agent(ALICE), descriptor(ALICE, "two"))
    for _ in range(5):
        one.renew_agents([ALICE.fingerprint])
        assert one.discovery.query(EVERYBODY, refresh_from_store=True) == [descriptor(ALICE, "two")]
        two.renew_agents([ALICE.fingerprint])
        clock.advance(3)


def test_a_message_signature_is_none_of_a_descriptor() -> None:
    message = Message(payload={"x": 1}).sign(ALICE)
    forged = altered(told(), signature=message.signature[:64])
    with pytest.raises(DescriptorRefused, match="the signature is not one"):
        SignedDescriptor.from_plain(forged.to_plain())
