"""What a user might write, run and type-checked against copies of Converge that are installed in every way."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal, assert_type

from attrs import frozen

from converge.coordination.task_manager import Claim, TaskManager
from converge.core.agent import Agent
from converge.core.decisions import ClaimTask, Decision, ReportTask
from converge.core.identity import Identity
from converge.core.message import Message
from converge.core.plain import Plain
from converge.core.store import Store
from converge.core.task import Task
from converge.core.tools import tool
from converge.extensions.storage.memory import MemoryStore
from converge.extensions.storage.sqlite import SQLiteStore
from converge.network.transport.local import LocalTransport
from converge.plugins import PluginManager
from converge.runtime.loop import AgentRuntime


class Reviewer(Agent):
    """Claims what is there, and reports what it holds."""

    def decide(self, messages: list[Message], tasks: list[Task]) -> list[Decision]:
        mine = [
            ReportTask(task.id, {"lines": count(str(task.objective))}) for task in tasks if task.assigned_to == self.id
        ]
        return [*mine, *(ClaimTask(task.id) for task in tasks if task.assigned_to is None)]


@tool
def count(text: str) -> int:
    """Count the lines of a text."""
    return text.count("\n") + 1


@frozen
class ShelfOptions:
    """The options of `Shelf`."""

    name: str = "oak"


class Shelf(MemoryStore):
    """A store plugin."""

    converge_options = ShelfOptions

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


def main(folder: Path) -> None:
    """Use a little of everything; each line that says a type is wrong when a checker sees none."""
    identity = Identity.generate()
    message = Message(payload={"text": "hello"})
    assert_type(message.sign(identity), Message)
    assert_type(identity.fingerprint, str)
    assert message.sign(identity).verify()

    store = SQLiteStore(folder / "converge.db")
    assert_type(store, SQLiteStore)
    assert_type(store.get_versioned("k"), tuple[Plain, int] | None)
    shared: Store = store
    manager = TaskManager(shared)
    task_id = manager.submit(Task(objective={"text": "one\ntwo"}))
    assert_type(task_id, str)
    claim = manager.claim(identity.fingerprint, task_id)
    assert_type(claim, Claim | Literal[False])
    assert claim
    assert_type(claim.expires_at, float)
    manager.report(identity.fingerprint, task_id, {"lines": 2})
    store.close()

    assert_type(count("one"), int)
    runtime = AgentRuntime(Reviewer(identity), LocalTransport(identity.fingerprint))
    assert_type(runtime.running, bool)
    plugins = PluginManager()
    with plugins.override("store", "shelf", Shelf):
        assert isinstance(plugins.build("store", {"use": "shelf", "name": "elm"}), Shelf)
    sys.stdout.write("used")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
