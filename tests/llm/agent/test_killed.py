"""A process that is killed while its agent waits for the model: the next one knows what was said and spent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from converge.core.identity import Identity
from converge.extensions.llm.agent import LLMAgent
from converge.extensions.llm.budget import Budget
from converge.extensions.storage.sqlite import SQLiteStore
from tests.llm.agent.conftest import Model
from tests.llm.agent.test_memory import running

CHILD = """
import asyncio, sys, time
from converge.core.identity import Identity
from converge.core.message import Message
from converge.extensions.llm import Budget, LLMAgent
from converge.extensions.storage.sqlite import SQLiteStore
from converge.network.transport.local import LocalTransport
from converge.runtime.loop import AgentRuntime

class Chat:
    asked = 0
    def chat(self, messages, **options):
        Chat.asked += 1
        if Chat.asked == 2:
            print("asked", flush=True)
            time.sleep(600)
        return "[]"

async def main():
    agent = LLMAgent(Identity.load(sys.argv[1]), Chat(), budget=Budget(requests=9))
    author = Identity.generate()
    sender = LocalTransport(author.fingerprint)
    await sender.start()
    async with AgentRuntime(agent, LocalTransport(agent.id), store=SQLiteStore(sys.argv[2])):
        for text in ("my name is Ada", "and I am killed now"):
            await sender.send(Message(recipient=agent.id, payload={"text": text}).sign(author))
            while not agent.counts.values["requests"]:
                await asyncio.sleep(0.01)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def killed_in_its_second_call(key: Path, path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(key), str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "asked\n"
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


async def test_the_next_process_goes_on_where_the_killed_one_was(tmp_path: Path, me: Identity) -> None:
    key, path = tmp_path / "key.pem", tmp_path / "x.db"
    me.save(key)
    killed_in_its_second_call(key, path)
    model = Model()
    agent = LLMAgent(me, model, budget=Budget(requests=9))
    with SQLiteStore(path) as store:
        async with running(agent, store) as send:
            await send("what is my name?")
    assert "my name is Ada" in model.shown[0][1].content
    assert agent.spent.requests == 3, "the call that was cut off counts, too"
