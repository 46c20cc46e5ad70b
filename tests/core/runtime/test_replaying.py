"""What a runtime records can be written, loaded and verified by somebody else, whatever the messages are like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from converge.core.decisions import SendMessage
from converge.core.message import Message
from converge.core.topic import Topic
from converge.observability.replay import ReplayLog
from tests.core.runtime.conftest import Scripted, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.core.runtime.conftest import World

KEY = bytes(range(32))


async def test_bytes_and_encrypted_and_batch_signed_messages_load_back_equal_and_verify(
    world: World, tmp_path: Path
) -> None:
    log, peer = ReplayLog(), await world.peer()
    raw = {"n": "raw", "bytes": b"\x00\xff" * 50, "deep": [{"inf": float("inf"), "none": None, "text": "\u2028 ü"}]}
    batch = [SendMessage(Message(recipient=peer.id, payload={"n": n, "bytes": bytes([n])})) for n in range(20)]
    agent = Scripted([], batch, [])
    agent.topics.append(Topic("news"))
    await world.started(agent, replay_log=log)
    await agent.called(1)
    secret = Message(sender=peer.id, payload={"n": "secret"}, task_id="t").encrypt_payload(KEY)
    came = [
        Message(recipient=agent.id, payload=raw).sign(peer.identity),
        secret.evolve(topics=(Topic("news"),)).sign(peer.identity),
        Message(sender=peer.id, recipient=agent.id, payload={"n": "unsigned", "b": b"\x01"}),
    ]
    for message in came:
        await peer.transport.send(message)
    heard = [await peer.hear() for _ in batch]
    await until(lambda: len(log.events) == 23)
    log.export(tmp_path / "log.jsonl")
    loaded = ReplayLog()
    loaded.load(tmp_path / "log.jsonl")
    assert loaded.events == log.events
    messages = {message.id: message for message in (Message.from_dict(event["data"]) for event in loaded.events)}
    for message in [*came, *heard]:
        again = messages[message.id]
        assert again == message
        assert again.verify() == message.is_signed
        assert again.to_bytes() == message.to_bytes(), "the bytes that were signed"
    assert len({message.signature[:64] for message in heard}) == 1, "they share a signature"
    assert messages[came[1].id].decrypt_payload(KEY).payload == {"n": "secret"}


async def test_a_log_that_fails_costs_no_message(world: World) -> None:
    class Full(ReplayLog):
        def record_message(self, message: Message) -> None:
            raise OSError("no space left on device")

    agent, peer = Scripted(), await world.peer()
    runtime = await world.started(agent, replay_log=Full())
    await agent.called(1)
    await peer.tell(agent.id, 1)
    await agent.called(2)
    assert agent.payloads == [[], [1]]
    assert world.counted("converge_replay_failures_total") == 1
    assert runtime.is_healthy()


async def test_a_log_of_a_runtime_is_bounded_and_tells_what_it_forgot(world: World) -> None:
    log: Any = ReplayLog(max_events=5)
    agent, peer = Scripted(), await world.peer()
    await world.started(agent, replay_log=log)
    for n in range(12):
        await peer.tell(agent.id, n)
    await until(lambda: sum(map(len, agent.payloads)) == 12)
    assert [Message.from_dict(event["data"]).payload["n"] for event in log.events] == [7, 8, 9, 10, 11]
    assert log.dropped == 7
