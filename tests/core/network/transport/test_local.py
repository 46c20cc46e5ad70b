from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from converge.core.message import Message
from converge.core.topic import Topic
from converge.network.errors import TransportClosed, Undeliverable
from converge.network.transport.local import LocalTransport, LocalTransportRegistry, default_registry
from converge.plugins import default_manager

NEWS, SPORT = Topic("news"), Topic("sport")


class Town:
    """Local transports of one registry by agent id, started when first named."""

    def __init__(self) -> None:
        self.registry = LocalTransportRegistry()
        self.all: list[LocalTransport] = []

    async def start(self, agent_id: str, maxsize: int = 1024) -> LocalTransport:
        transport = LocalTransport(agent_id, self.registry, maxsize=maxsize)
        self.all.append(transport)
        await transport.start()
        return transport


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    town = Town()
    yield town
    for transport in town.all:
        await transport.stop()


async def waiting(transport: LocalTransport) -> list[object]:
    """The `text` of all messages that wait."""
    texts = []
    while True:
        try:
            texts.append((await transport.receive(timeout=0)).payload.get("text"))
        except TimeoutError:
            return texts


def to(recipient: str, text: str = "hello") -> Message:
    return Message(sender="a", recipient=recipient, payload={"text": text})


def about(*topics: Topic, text: str = "hello") -> Message:
    return Message(sender="a", topics=topics, payload={"text": text})


# direct


async def test_a_direct_message_reaches_its_recipient_only(town: Town) -> None:
    a, b, c = [await town.start(name) for name in "abc"]
    await a.send(to("b"))
    assert [await waiting(transport) for transport in (a, b, c)] == [[], ["hello"], []]


async def test_messages_of_one_sender_arrive_in_order(town: Town) -> None:
    a, b = await town.start("a"), await town.start("b")
    for number in range(100):
        await a.send(to("b", str(number)))
    assert await waiting(b) == [str(number) for number in range(100)]


async def test_an_agent_can_write_to_itself(town: Town) -> None:
    a = await town.start("a")
    await a.send(to("a"))
    assert await waiting(a) == ["hello"]


async def test_a_direct_message_to_nobody_here_says_why_and_what_to_do(town: Town) -> None:
    a = await town.start("a")
    with pytest.raises(
        Undeliverable, match="message to b not sent: no agent of that id runs in this process"
    ) as caught:
        await a.send(to("b"))
    assert "does not leave the process; start the agent here, or choose a transport that crosses" in str(caught.value)
    assert caught.value.recipient == "b"


async def test_a_direct_message_goes_to_its_recipient_whatever_its_topics(town: Town) -> None:
    a, b, c = [await town.start(name) for name in "abc"]
    await c.subscribe(NEWS)
    await a.send(Message(sender="a", recipient="b", topics=[NEWS], payload={"text": "hello"}))
    assert (await waiting(b), await waiting(c)) == (["hello"], [])


# topics and broadcasts


async def test_a_topic_message_reaches_its_subscribers_only(town: Town) -> None:
    a, b, c = [await town.start(name) for name in "abc"]
    await b.subscribe(NEWS)
    await c.subscribe(SPORT)
    await a.send(about(NEWS))
    assert (await waiting(b), await waiting(c)) == (["hello"], [])


async def test_a_message_with_several_topics_comes_once_to_who_subscribed_to_two(town: Town) -> None:
    a, b = await town.start("a"), await town.start("b")
    await b.subscribe(NEWS)
    await b.subscribe(SPORT)
    await a.send(about(NEWS, SPORT))
    assert await waiting(b) == ["hello"]


async def test_a_topic_without_subscribers_is_nobodys_and_counted(town: Town) -> None:
    a, b = await town.start("a"), await town.start("b")
    await a.send(about(NEWS))
    assert await waiting(b) == []
    assert a.counters == {"no_subscriber": 1}


@pytest.mark.parametrize("other", [Topic("news", version="2"), Topic("news", {"lang": "en"}), Topic("News")])
async def test_subscriptions_are_to_exactly_one_topic(town: Town, other: Topic) -> None:
    a, b = await town.start("a"), await town.start("b")
    await b.subscribe(NEWS)
    await a.send(about(other))
    assert await waiting(b) == []


async def test_who_unsubscribed_gets_no_more(town: Town) -> None:
    a, b = await town.start("a"), await town.start("b")
    await b.subscribe(NEWS)
    await b.unsubscribe(NEWS)
    await b.unsubscribe(SPORT)
    await a.send(about(NEWS))
    assert await waiting(b) == []


async def test_a_broadcast_reaches_everybody_but_its_sender(town: Town) -> None:
    a, b, c = [await town.start(name) for name in "abc"]
    await a.send(about())
    assert [await waiting(transport) for transport in (a, b, c)] == [[], ["hello"], ["hello"]]


async def test_a_message_without_a_sender_does_not_come_back_either(town: Town) -> None:
    a, b = await town.start("a"), await town.start("b")
    await a.subscribe(NEWS)
    await a.send(Message(payload={"text": "all"}))
    await a.send(Message(topics=[NEWS]))
    assert (await waiting(a), await waiting(b)) == ([], ["all"])
    assert a.counters == {"no_subscriber": 1}


async def test_a_broadcast_with_nobody_there_is_counted(town: Town) -> None:
    a = await town.start("a")
    await a.send(about())
    assert a.counters == {"no_audience": 1}


async def test_each_receiver_and_the_sender_have_their_own_payload(town: Town) -> None:
    a, b, c = [await town.start(name) for name in "abc"]
    payload = {"items": [1]}
    await a.send(Message(sender="a", payload=payload))
    first, second = await b.receive(timeout=1), await c.receive(timeout=1)
    first.payload["items"].append("tampered")
    assert (second.payload, payload) == ({"items": [1]}, {"items": [1]})


async def test_a_payload_changed_after_the_send_does_not_change_what_was_sent(town: Town) -> None:
    a, b = await town.start("a"), await town.start("b")
    payload = {"text": "before"}
    await a.send(Message(sender="a", recipient="b", payload=payload))
    payload["text"] = "after"
    assert await waiting(b) == ["before"]


# bounds


async def test_a_direct_message_to_a_full_mailbox_is_refused_and_the_others_stay(town: Town) -> None:
    a, b = await town.start("a"), await town.start("b", maxsize=2)
    await a.send(to("b", "1"))
    await a.send(to("b", "2"))
    with pytest.raises(Undeliverable, match=r"its mailbox is full \(2 messages\); send more slowly"):
        await a.send(to("b", "3"))
    assert await waiting(b) == ["1", "2"]


async def test_a_sender_in_a_loop_does_not_outrun_a_receiver_that_is_reading(town: Town) -> None:
    a, b = await town.start("a"), await town.start("b", maxsize=10)

    async def read() -> list[object]:
        return [(await b.receive()).payload["text"] for _ in range(500)]

    reading = asyncio.create_task(read())
    for number in range(500):
        await a.send(to("b", str(number)))
    assert await reading == [str(number) for number in range(500)]


async def test_copies_for_full_mailboxes_are_dropped_and_counted_and_the_others_get_theirs(town: Town) -> None:
    a, b, c = await town.start("a"), await town.start("b", maxsize=1), await town.start("c")
    await a.send(about(text="1"))
    await a.send(about(text="2"))
    assert (await waiting(b), await waiting(c)) == (["1"], ["1", "2"])
    assert a.counters == {"dropped_mailbox_full": 1}


async def test_a_broadcast_that_nobody_could_take_is_undeliverable(town: Town) -> None:
    a, _b = await town.start("a"), await town.start("b", maxsize=1)
    await a.send(about())
    with pytest.raises(Undeliverable, match=r"none of the 1 agents it is for could take it \(mailbox_full\)"):
        await a.send(about())


async def test_a_message_too_large_to_be_received_is_refused_at_the_sender(town: Town) -> None:
    a, b = await town.start("a"), await town.start("b")
    with pytest.raises(Undeliverable, match="put large data in a store"):
        await a.send(to("b", "x" * 300_000))
    with pytest.raises(Undeliverable, match="put large data in a store"):
        await a.send(to("b", "x" * 2_000_000))
    await a.send(to("b", "x" * 260_000))
    assert await waiting(b) == ["x" * 260_000]


async def test_a_payload_that_is_not_plain_data_is_undeliverable_and_says_where(town: Town) -> None:
    a, _b = await town.start("a"), await town.start("b")
    with pytest.raises(Undeliverable, match="text"):
        await a.send(Message(sender="a", recipient="b", payload={"text": object()}))


@pytest.mark.parametrize("maxsize", [0, -1])
async def test_a_mailbox_without_a_bound_is_refused(maxsize: int) -> None:
    with pytest.raises(ValueError, match="at least one message"):
        await LocalTransport("a", LocalTransportRegistry(), maxsize=maxsize).start()


# receiving


async def test_receive_gives_up_after_its_timeout(town: Town) -> None:
    a = await town.start("a")
    with pytest.raises(TimeoutError):
        await a.receive(timeout=0.001)


async def test_a_cancelled_receive_loses_no_message(town: Town) -> None:
    a, b = await town.start("a"), await town.start("b")
    lost = 0
    for number in range(200):
        receiving = asyncio.create_task(b.receive())
        for _ in range(number % 3):
            await asyncio.sleep(0)
        await a.send(to("b", str(number)))
        for _ in range(number % 5):
            await asyncio.sleep(0)
        receiving.cancel()
        try:
            received = (await receiving).payload["text"]
        except asyncio.CancelledError:
            received = (await b.receive(timeout=1)).payload["text"]
        lost += received != str(number)
    assert lost == 0


async def test_messages_go_to_several_receivers_once_each(town: Town) -> None:
    a, b = await town.start("a"), await town.start("b")
    receiving = [asyncio.create_task(b.receive()) for _ in range(3)]
    await asyncio.sleep(0)
    for text in ("1", "2", "3"):
        await a.send(to("b", text))
    assert sorted([(await task).payload["text"] for task in receiving]) == ["1", "2", "3"]


# start and stop


async def test_a_transport_that_is_not_started_says_so() -> None:
    transport = LocalTransport("a", LocalTransportRegistry())
    for use in (transport.send(to("b")), transport.receive()):
        with pytest.raises(TransportClosed, match=r"a is not started; call start\(\) first"):
            await use


async def test_stopping_twice_or_before_the_start_is_no_error() -> None:
    transport = LocalTransport("a", LocalTransportRegistry())
    await transport.stop()
    await transport.start()
    await transport.stop()
    await transport.stop()


async def test_stopping_wakes_everybody_who_waits_in_receive(town: Town) -> None:
    a = await town.start("a")
    receiving = [asyncio.create_task(a.receive()) for _ in range(2)]
    await asyncio.sleep(0)
    await a.stop()
    for task in receiving:
        with pytest.raises(TransportClosed, match="stopped"):
            await asyncio.wait_for(task, 1)


async def test_messages_that_wait_at_a_stop_are_counted_and_gone(town: Town) -> None:
    a, b = await town.start("a"), await town.start("b")
    await a.send(to("b"))
    await a.send(to("b"))
    await b.stop()
    assert b.counters == {"dropped_at_stop": 2}
    with pytest.raises(Undeliverable):
        await a.send(to("b"))
    await b.start()
    assert await waiting(b) == []


async def test_a_full_mailbox_can_be_stopped(town: Town) -> None:
    a, b = await town.start("a"), await town.start("b", maxsize=1)
    await a.send(to("b"))
    await b.stop()
    assert b.counters == {"dropped_at_stop": 1}


async def test_subscriptions_are_in_force_again_after_a_restart(town: Town) -> None:
    a, b = await town.start("a"), await town.start("b")
    await b.subscribe(NEWS)
    await b.subscribe(SPORT)
    await b.stop()
    await b.unsubscribe(SPORT)
    await a.send(about(NEWS, text="while away"))
    await b.start()
    await a.send(about(NEWS, text="news"))
    await a.send(about(SPORT, text="sport"))
    assert await waiting(b) == ["news"]


async def test_what_is_subscribed_before_the_start_holds_from_the_start(town: Town) -> None:
    a, b = await town.start("a"), LocalTransport("b", town.registry)
    await b.subscribe(NEWS)
    async with b:
        await a.send(about(NEWS))
        assert await waiting(b) == ["hello"]


async def test_starting_twice_keeps_what_waits(town: Town) -> None:
    a, b = await town.start("a"), await town.start("b")
    await a.send(to("b"))
    await b.start()
    assert await waiting(b) == ["hello"]


# two transports with one id


async def test_a_second_transport_of_one_id_takes_over_and_the_firsts_stop_does_not_hurt_it(town: Town) -> None:
    a, old = await town.start("a"), await town.start("b")
    new = await town.start("b")
    await a.send(to("b", "1"))
    await old.stop()
    await a.send(to("b", "2"))
    assert await waiting(new) == ["1", "2"]


async def test_the_second_transport_of_one_id_does_not_inherit_subscriptions(town: Town) -> None:
    a, old = await town.start("a"), await town.start("b")
    await old.subscribe(NEWS)
    new = await town.start("b")
    await a.send(about(NEWS))
    assert (await waiting(old), await waiting(new)) == ([], [])


async def test_what_the_first_transport_of_one_id_does_later_does_not_touch_the_seconds_subscriptions(
    town: Town,
) -> None:
    a, old = await town.start("a"), await town.start("b")
    new = await town.start("b")
    await new.subscribe(NEWS)
    await old.subscribe(SPORT)
    await old.unsubscribe(NEWS)
    await old.stop()
    await old.unsubscribe(NEWS)
    await a.send(about(NEWS, text="news"))
    await a.send(about(SPORT, text="sport"))
    assert await waiting(new) == ["news"]


async def test_a_take_over_is_logged(town: Town, caplog: pytest.LogCaptureFixture) -> None:
    await town.start("b")
    assert caplog.messages == []
    await town.start("b")
    assert caplog.messages == ["another local transport takes over the agent id 'b'; the earlier one gets nothing"]


# the registry


async def test_a_cleared_registry_reaches_nobody(town: Town) -> None:
    a, b = await town.start("a"), await town.start("b")
    await b.subscribe(NEWS)
    town.registry.clear()
    with pytest.raises(Undeliverable):
        await a.send(to("b"))
    await a.send(about(NEWS))
    await a.send(about())
    assert a.counters == {"no_subscriber": 1, "no_audience": 1}


async def test_unregistering_by_id_forgets_the_subscriptions_too(town: Town) -> None:
    a, b = await town.start("a"), await town.start("b")
    await b.subscribe(NEWS)
    town.registry.unregister("b")
    town.registry.unregister("b")
    await a.send(about(NEWS))
    assert a.counters == {"no_subscriber": 1}


async def test_transports_without_a_registry_share_that_of_the_process() -> None:
    async with LocalTransport("a") as a, LocalTransport("b") as b:
        assert default_registry.mailbox("b") is not None
        await a.send(to("b"))
        assert await waiting(b) == ["hello"]
    assert default_registry.mailbox("b") is None


async def test_an_agent_in_another_event_loop_is_undeliverable_not_silently_stuck(town: Town) -> None:
    a = await town.start("a")
    started, over = threading.Event(), threading.Event()

    def elsewhere() -> None:
        async def live() -> None:
            async with LocalTransport("b", town.registry):
                started.set()
                await asyncio.get_running_loop().run_in_executor(None, over.wait)

        asyncio.run(live())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    try:
        await asyncio.to_thread(started.wait)
        with pytest.raises(Undeliverable, match="another event loop of this process"):
            await a.send(to("b"))
    finally:
        over.set()
        await asyncio.to_thread(thread.join)


async def test_the_plugin_named_local_takes_the_size_of_its_mailbox_as_an_option() -> None:
    table = {"use": "local", "maxsize": 1}
    b = default_manager().build("transport", table, agent_id="b")
    assert isinstance(b, LocalTransport)
    async with b, LocalTransport("a") as a:
        await a.send(to("b"))
        with pytest.raises(Undeliverable, match="full"):
            await a.send(to("b"))
