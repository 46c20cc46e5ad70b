"""Random histories of two services on one store, compared with a model that goes through everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from attrs import define, evolve
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from converge.core.identity import Identity
from converge.core.plain import Plain
from converge.core.topic import Topic
from converge.extensions.storage.memory import MemoryStore
from converge.network.discovery import AgentDescriptor, DiscoveryQuery, DiscoveryService, SignedDescriptor
from converge.network.discovery_lease import LeaseBook
from converge.network.discovery_registrar import Registrar
from converge.network.discovery_view import DescriptorView
from converge.network.errors import DescriptorRefused
from tests.core.network.discovery_clock import ManualClock

TTL, HOUR = 10.0, 3600.0


def signer(seed: bytes) -> Identity:
    """The same in every run, so that the histories are too."""
    public_key = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return Identity(public_key, seed)


SIGNERS = {identity.fingerprint: identity for identity in map(signer, (b"1" * 32, b"2" * 32))}
PLAIN = ["plain 0", "plain 1"]
AGENTS = [*SIGNERS, *PLAIN]
QUERIES = [
    DiscoveryQuery(),
    DiscoveryQuery([Topic("news")]),
    DiscoveryQuery([Topic("news", {"lang": "en"}), Topic("sport")], ["x"]),
    DiscoveryQuery(capabilities=["x", "y"]),
]
MICRO = 1_000_000


@define(eq=False)
class Modelled:
    """A record; a renewal is another one."""

    descriptor: AgentDescriptor
    leased: bool
    issued_us: int

    @property
    def is_signed(self) -> bool:
        return self.descriptor.id in SIGNERS

    def says(self) -> tuple[object, ...]:
        return self.descriptor, self.leased, self.leased and self.issued_us


def same(one: Modelled | None, other: Modelled | None) -> bool:
    """Whether the two are the same bytes, maybe written twice."""
    return one is not None and other is not None and one.says() == other.says()


class Seen:
    """What one service remembers: what it saw when, what it registered, and what has gone."""

    def __init__(self) -> None:
        self.observed: dict[Modelled, float] = {}
        self.over: set[Modelled] = set()  # once it is over it stays so, whatever becomes of the clock
        self.refused: set[Modelled] = set()  # the feed tells of each once
        self.mine: dict[str, Modelled] = {}
        self.known: dict[str, Modelled] = {}
        self.gone: dict[str, tuple[int, float]] = {}


services_drawn = st.sampled_from([0, 1])
agents_drawn = st.sampled_from(AGENTS)
topics_drawn = st.lists(
    st.sampled_from([Topic("news"), Topic("news", {"lang": "en"}), Topic("sport")]), max_size=2, unique=True
)
names_drawn = st.lists(st.sampled_from(["x", "y"]), max_size=2, unique=True)


class DiscoveryLife(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock, self.store = ManualClock(), MemoryStore()
        self.services = [self.opened(), self.opened()]
        self.seen = [Seen(), Seen()]
        self.there: dict[str, Modelled] = {}
        self.written: list[tuple[Modelled, Plain]] = []

    def opened(self) -> DiscoveryService:
        return DiscoveryService(self.store, clock=self.clock)

    # the model

    def is_over(self, number: int, record: Modelled) -> bool:
        if not record.leased or record in self.seen[number].over:
            return record.leased
        observed = self.seen[number].observed.get(record, self.clock.monotonic())
        return (
            record.issued_us + TTL * MICRO <= int(self.clock.time() * MICRO) or self.clock.monotonic() >= observed + TTL
        )

    def drop(self, number: int, agent_id: str) -> None:
        seen = self.seen[number]
        known = seen.known.pop(agent_id, None)
        if known is not None and known.is_signed:
            seen.gone[agent_id] = known.issued_us, self.clock.monotonic() + TTL

    def last_issued(self, number: int, agent_id: str) -> int:
        seen = self.seen[number]
        if agent_id in seen.known:
            return seen.known[agent_id].issued_us
        issued_us, until = seen.gone.get(agent_id, (-1, 0.0))
        return issued_us if until > self.clock.monotonic() else -1

    def expire(self, number: int) -> None:
        for agent_id, record in [*self.seen[number].known.items()]:
            if self.is_over(number, record):
                self.seen[number].over.add(record)
                self.drop(number, agent_id)

    def meet(self, number: int, agent_id: str) -> None:
        """The service looks at the record of the agent."""
        seen, record = self.seen[number], self.there.get(agent_id)
        if record is None:
            self.drop(number, agent_id)
        elif same(known := seen.known.get(agent_id), record) and known is not None:
            seen.observed[record] = seen.observed[known]
            seen.known[agent_id] = record
        elif record not in seen.observed:
            if record.is_signed and record.issued_us <= self.last_issued(number, agent_id):
                seen.refused.add(record)
                return
            seen.observed[record] = self.clock.monotonic()
            seen.known[agent_id] = record
        self.expire(number)

    def refresh(self, number: int) -> None:
        """And takes away what is over."""
        self.expire(number)
        for agent_id in AGENTS:
            record = self.there.get(agent_id)
            if record not in self.seen[number].refused:
                self.meet(number, agent_id)
            if record is not None and record in self.seen[number].observed and self.is_over(number, record):
                del self.there[agent_id]

    def write(self, number: int, record: Modelled) -> None:
        seen, agent_id = self.seen[number], record.descriptor.id
        self.there[agent_id] = seen.known[agent_id] = seen.mine[agent_id] = record
        seen.observed[record] = self.clock.monotonic()
        self.written.append((record, self.store.get(f"agent:{agent_id}")))

    def issued(self, number: int, agent_id: str) -> int:
        now = int(self.clock.time() * MICRO)
        return max(now, self.last_issued(number, agent_id) + 1) if agent_id in SIGNERS else now

    # what happens

    @rule(number=services_drawn, agent_id=agents_drawn, topics=topics_drawn, names=names_drawn, leased=st.booleans())
    def register(self, number: int, agent_id: str, topics: list[Topic], names: list[str], leased: bool) -> None:
        descriptor = AgentDescriptor(agent_id, topics, names)
        self.expire(number)
        self.meet(number, agent_id)
        if agent_id in SIGNERS:
            self.services[number].register(SignedDescriptor.sign(descriptor, SIGNERS[agent_id], TTL))
        else:
            self.services[number].register(descriptor, ttl_sec=TTL if leased else None)
        leased = leased or agent_id in SIGNERS
        self.write(number, Modelled(descriptor, leased, self.issued(number, agent_id)))

    @rule(number=services_drawn, agent_id=st.sampled_from([*SIGNERS]))
    def register_unsigned(self, number: int, agent_id: str) -> None:
        self.services[number].query(DiscoveryQuery(), refresh_from_store=True)
        self.refresh(number)
        if agent_id in self.seen[number].known:
            with pytest.raises(DescriptorRefused):
                self.services[number].register(AgentDescriptor(agent_id))

    @rule(number=services_drawn, agent_id=agents_drawn)
    def renew(self, number: int, agent_id: str) -> None:
        seen, there = self.seen[number], self.there.get(agent_id)
        mine = seen.mine.get(agent_id)
        renewed = self.services[number].renew(agent_id)
        if mine is None or not same(seen.known.get(agent_id), mine):
            assert not renewed
        elif not mine.leased:
            assert renewed
        elif same(there, mine):
            assert renewed
            self.write(number, Modelled(mine.descriptor, True, self.issued(number, agent_id)))
        else:
            newer = there is not None and (not there.is_signed or there.issued_us > mine.issued_us)
            assert renewed is (there is not None and not newer)
            if renewed:
                self.write(number, Modelled(mine.descriptor, True, self.issued(number, agent_id)))
            else:
                self.meet(number, agent_id)

    @precondition(lambda self: any(record.is_signed for record, _ in self.written))
    @rule(back=st.integers(1, 5))
    def replay(self, back: int) -> None:
        """Somebody who can write to the store puts an earlier record there once more."""
        signed = [entry for entry in self.written if entry[0].is_signed]
        record, value = signed[-min(back, len(signed))]
        self.store.put(f"agent:{record.descriptor.id}", value)
        self.there[record.descriptor.id] = evolve(record)

    @rule(number=services_drawn, agent_id=agents_drawn)
    def unregister(self, number: int, agent_id: str) -> None:
        self.services[number].unregister(agent_id)
        self.there.pop(agent_id, None)
        self.seen[number].mine.pop(agent_id, None)
        self.drop(number, agent_id)

    @rule(seconds=st.sampled_from([0.5, 3.0, 9.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(hours=st.sampled_from([-1, 1]), seconds=st.sampled_from([0.0, 11.0]))
    def clock_jumps(self, hours: int, seconds: float) -> None:
        self.clock.step(hours * HOUR)
        self.clock.advance(seconds)

    @rule(number=services_drawn)
    def reopen(self, number: int) -> None:
        self.services[number], self.seen[number] = self.opened(), Seen()

    @rule(number=services_drawn)
    def release(self, number: int) -> None:
        before = set(self.there)
        self.refresh(number)
        assert set(self.services[number].release_expired()) == before - set(self.there)

    @rule(number=services_drawn, query=st.sampled_from(QUERIES), refresh=st.booleans())
    def ask(self, number: int, query: DiscoveryQuery, refresh: bool) -> None:
        found = self.services[number].query(query, refresh_from_store=refresh)
        if refresh:
            self.refresh(number)
        else:
            self.expire(number)
        known = self.seen[number].known
        expected = [known[agent_id].descriptor for agent_id in sorted(known)]
        assert found == [descriptor for descriptor in expected if query.matches(descriptor)]

    @invariant()
    def the_store_holds_what_is_there(self) -> None:
        assert self.store.list() == sorted(f"agent:{agent_id}" for agent_id in self.there)


def run(examples: int) -> None:
    run_state_machine_as_test(
        DiscoveryLife,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            database=None,
            derandomize=True,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        ),
    )


def test_two_services_on_one_store_do_what_the_model_does() -> None:
    run(100)


@pytest.mark.soak
def test_two_services_do_what_the_model_does_for_long() -> None:
    run(3_000)


MUTANTS: dict[str, tuple[type, str, Callable[[Any], Callable[..., object]]]] = {
    "leases end by the wall clock alone": (
        LeaseBook,
        "expire",
        lambda real: lambda book, now, _: real(book, now, -1.0),
    ),
    "leases end by observation alone": (
        LeaseBook,
        "expire",
        lambda real: lambda book, _, uptime: real(book, -1.0, uptime),
    ),
    "older ones are accepted": (DescriptorView, "check_newer", lambda _: lambda *_: None),
    "renewals are not followed": (Registrar, "_renewed_to", lambda _: lambda *_: None),
    "what has gone is forgotten at once": (LeaseBook, "last_issued", lambda _: lambda *_: -1),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_model_catches(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, change = MUTANTS[name]
    monkeypatch.setattr(owner, attribute, change(getattr(owner, attribute)))
    with pytest.raises((AssertionError, ExceptionGroup, pytest.fail.Exception, KeyError)):
        run(600)
