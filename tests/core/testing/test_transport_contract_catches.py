"""The contract of transports fails for a transport with a mistake: each promise has its mutant."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from converge.core.identity import Identity
from converge.network.errors import TransportClosed, Undeliverable
from converge.network.transport.local import LocalTransport
from converge.network.transport.store import StoreTransport
from converge.testing.transport import Medium, TransportContract
from tests.core.network.transport.connecting import WAITING, Local, Stored
from tests.core.testing import broken_transports as broken


class Contract(TransportContract):
    waiting_messages = WAITING + 50
    blocked_sec: ClassVar[float] = 0.2


class Impatient(Contract):
    patience: ClassVar[float] = 1.0


class AtLeastOnce(Contract):
    delivery: ClassVar[Literal["at most once", "at least once"]] = "at least once"
    crosses_processes: ClassVar[bool] = True


class ImpatientAtLeastOnce(AtLeastOnce):
    patience: ClassVar[float] = 1.0


class BrokenLocal(Local):
    def __init__(self, kind: type[LocalTransport]) -> None:
        super().__init__()
        self.transport = kind

    def __call__(self, identity: Identity) -> LocalTransport:
        broken.KEYS[identity.fingerprint] = identity
        return self.transport(identity.fingerprint, self.registry, maxsize=WAITING)


class BrokenStored(Stored):
    transport: type[StoreTransport] = StoreTransport

    def __call__(self, identity: Identity) -> StoreTransport:
        return self.transport(identity.fingerprint, self.store, maxsize=WAITING)

    def __getstate__(self) -> dict[str, object]:
        return super().__getstate__() | {"transport": self.transport}


@asynccontextmanager
async def local_medium(kind: type[LocalTransport]) -> AsyncIterator[Medium]:
    local = BrokenLocal(kind)
    yield Medium(local, local.misdeliver)


@asynccontextmanager
async def stored_medium(kind: type[StoreTransport], path: Path) -> AsyncIterator[Medium]:
    stored = BrokenStored("sqlite", path)
    stored.transport = kind
    try:
        yield Medium(stored, stored.misdeliver, stored.inject)
    finally:
        stored.close()


MISTAKES: list[tuple[type[LocalTransport], str]] = [
    (broken.FallsBackToEverybody, "a_topic_without_subscribers_is_no_error_and_reaches_nobody"),
    (broken.FallsBackToEverybody, "a_subscription_is_to_exactly_one_topic"),
    (broken.TellsEverybody, "a_direct_message_reaches_its_recipient_only"),
    (broken.TellsEverybody, "a_direct_message_goes_to_its_recipient_only_whatever_its_topics"),
    (broken.ComparesNamesOfTopics, "a_subscription_is_to_exactly_one_topic"),
    (broken.SendsOnceATopic, "a_message_with_two_topics_comes_once_to_who_subscribed_to_both"),
    (broken.HearsItself, "a_broadcast_reaches_everybody_but_its_sender"),
    (broken.HearsItself, "a_topic_message_does_not_come_back_to_its_sender"),
    (broken.HearsItself, "a_broadcast_with_nobody_else_there_is_no_error"),
    (broken.IgnoresUnsubscribe, "who_unsubscribed_gets_no_more"),
    (broken.SaysNothingOfNobody, "a_direct_message_to_an_agent_that_never_was_there_is_undeliverable"),
    (broken.SharesItsPayload, "each_receiver_has_a_copy_of_its_own_and_so_has_the_sender"),
    (broken.HoldsThePayload, "an_unsigned_message_can_travel_and_is_a_copy_of_what_it_was"),
    (broken.LosesHeaders, "every_field_arrives_as_it_was_signed"),
    (broken.NewestFirst, "messages_of_one_sender_arrive_in_order_whatever_they_are"),
    (broken.NewestFirst, "senders_that_send_at_once_lose_nothing_and_each_is_in_order"),
    (broken.LosesWhatACancelledReceiveHad, "a_cancelled_receive_loses_no_message"),
    (broken.LosesWhatComesAtTheTimeout, "a_receive_that_times_out_loses_no_message"),
    (broken.LosesWhatComesAtTheTimeout, "receive_gives_up_after_its_timeout"),
    (broken.GivesUpNever, "receive_gives_up_after_its_timeout"),
    (broken.AllGetTheSame, "several_receivers_of_one_transport_get_each_message_once"),
    (broken.DropsWhatACancelledSendHad, "a_cancelled_send_arrives_once_or_not_at_all_and_hurts_no_other"),
    (broken.StartsAnew, "starting_and_stopping_twice_is_no_error"),
    (broken.StopsOnceOnly, "starting_and_stopping_twice_is_no_error"),
    (broken.ForgetsItsTopics, "subscriptions_outlive_a_restart"),
    (broken.SubscribesWhenStartedOnly, "subscriptions_change_while_it_is_stopped_too"),
    (broken.LeavesWhoWaits, "all_who_wait_for_a_message_are_told_of_the_stop"),
    (broken.SendsWhenStopped, "it_cannot_be_used_before_the_start_nor_after_the_stop"),
    (broken.LeavesATask, "nothing_is_left_running_after_the_stop"),
    (broken.HasNoBound, "what_an_agent_that_reads_nothing_does_not_get_is_refused_or_counted"),
    (broken.HasNoBound, "a_subscriber_that_reads_nothing_takes_nothing_from_the_others"),
    (broken.DropsInSilence, "what_an_agent_that_reads_nothing_does_not_get_is_refused_or_counted"),
    (broken.DropsInSilence, "a_subscriber_that_reads_nothing_takes_nothing_from_the_others"),
    (broken.DropsForAll, "a_subscriber_that_reads_nothing_takes_nothing_from_the_others"),
    (broken.WaitsForTheSlowest, "a_subscriber_that_reads_nothing_takes_nothing_from_the_others"),
    (broken.CountsNothingAtTheStop, "what_an_agent_that_stops_has_not_received_is_counted"),
    (broken.TakesAnySize, "the_largest_message_travels_and_one_byte_more_is_undeliverable"),
    (broken.RefusesTheLargest, "the_largest_message_travels_and_one_byte_more_is_undeliverable"),
    (broken.TakesAnyPayload, "a_payload_that_is_not_plain_data_is_undeliverable"),
    (broken.TrustsTheUnsigned, "an_unsigned_message_is_refused"),
    (broken.TrustsTheUnsigned, "a_message_in_the_name_of_another_is_refused"),
    (broken.TrustsForgeries, "a_forged_message_is_refused"),
    (broken.RemembersForgeries, "a_forged_message_is_refused"),
    (broken.TrustsAnybody, "a_registry_is_an_allow_list_of_senders"),
    (broken.TrustsReplays, "a_replayed_message_passes_once"),
    (broken.TrustsOldMessages, "what_is_old_or_from_the_future_or_expired_is_refused"),
    (broken.TrustsTheFuture, "what_is_old_or_from_the_future_or_expired_is_refused"),
    (broken.TrustsExpiredMessages, "what_is_old_or_from_the_future_or_expired_is_refused"),
    (broken.TrustsTheAddress, "a_message_for_another_agent_is_refused"),
    (broken.TrustsTheTopic, "a_topic_that_was_not_subscribed_is_refused"),
    (broken.StartsOnceOnly, "a_stopped_transport_can_be_started_again"),
    (broken.LeavesTheBlockRunning, "an_async_with_block_starts_and_stops"),
    (broken.NeverWritesToItself, "an_agent_can_write_to_itself"),
    (broken.KnowsNoTopics, "a_topic_message_reaches_its_subscribers_only"),
    (broken.TrustsNobody, "a_signed_message_passes_with_nothing_configured"),
    (broken.KnowsNoBatches, "the_messages_of_a_batch_pass_one_by_one"),
    (broken.SendsOneAtATime, "tasks_that_send_at_once_on_one_transport_lose_nothing"),
    (broken.WaitsUntilItIsRead, "two_who_write_to_each_other_do_not_block_each_other"),
    (broken.ForgetsWhatItKnows, "acknowledging_is_no_error_for_any_transport"),
    (broken.TakesTheFieldsForTheMessage, "who_connects_with_the_identity_of_nobody_reaches_nobody"),
]
MISTAKES_IN_STORES: list[tuple[type[StoreTransport], str]] = [
    (broken.AcknowledgesAtOnce, "what_was_not_acknowledged_comes_again_and_the_rest_does_not"),
    (broken.AcknowledgesAtOnce, "another_receiver_of_the_same_agent_gets_what_was_not_acknowledged"),
    (broken.RefusesWhatComesAgain, "what_was_not_acknowledged_comes_again_and_the_rest_does_not"),
    (broken.NeverAcknowledges, "what_was_not_acknowledged_comes_again_and_the_rest_does_not"),
    (broken.NeverAcknowledges, "a_killed_receiver_gets_again_what_it_had_not_acknowledged"),
    (broken.ForgetsWhatItHasRead, "what_was_acknowledged_cannot_be_sent_again"),
    (broken.RemembersWhatItRefused, "a_forged_message_is_refused"),
    (broken.LosesWhatComesWhileItIsAway, "who_is_away_gets_messages_at_the_next_start"),
    (broken.LosesWhatComesWhileItIsAway, "a_killed_receiver_gets_again_what_it_had_not_acknowledged"),
    (broken.LetsGarbageOut, "what_is_no_message_is_refused_and_the_next_one_passes"),
    (broken.DropsGarbageInSilence, "what_is_no_message_is_refused_and_the_next_one_passes"),
    (broken.EndsWithItsFirstUser, "all_who_wait_for_a_message_are_told_of_the_stop"),
    (broken.TrustsForgedLetters, "a_forged_message_that_came_by_itself_is_refused"),
    (broken.StaysInItsProcess, "agents_of_two_processes_write_to_each_other"),
    (broken.TellsBeforeItIsStored, "what_a_killed_sender_was_told_is_sent_arrives"),
]

FOUND = (AssertionError, TimeoutError, Undeliverable, RuntimeError, KeyError, TransportClosed, pytest.fail.Exception)


@pytest.mark.parametrize(("transport", "test"), MISTAKES)
def test_a_mistake_is_found(transport: type[LocalTransport], test: str) -> None:
    with pytest.raises(FOUND):
        getattr(Impatient(), f"test_{test}")(lambda: local_medium(transport))


@pytest.mark.parametrize(("transport", "test"), MISTAKES_IN_STORES)
def test_a_mistake_of_a_transport_that_delivers_at_least_once_is_found(
    transport: type[StoreTransport], test: str, tmp_path: Path
) -> None:
    with pytest.raises(FOUND):
        getattr(ImpatientAtLeastOnce(), f"test_{test}")(lambda: stored_medium(transport, tmp_path / "store"))


@pytest.mark.parametrize("test", sorted({test for _, test in MISTAKES}))
def test_a_sound_transport_passes_the_same_tests(test: str) -> None:
    getattr(Contract(), f"test_{test}")(lambda: local_medium(LocalTransport))


@pytest.mark.parametrize("test", sorted({test for _, test in MISTAKES_IN_STORES}))
def test_a_sound_transport_that_delivers_at_least_once_passes_the_same_tests(test: str, tmp_path: Path) -> None:
    getattr(AtLeastOnce(), f"test_{test}")(lambda: stored_medium(StoreTransport, tmp_path / "store"))


def test_each_test_of_the_contract_has_a_mutant() -> None:
    tests = {name.removeprefix("test_") for name in dir(TransportContract) if name.startswith("test_")}
    assert tests == {test for _, test in [*MISTAKES, *MISTAKES_IN_STORES]}
