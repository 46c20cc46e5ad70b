"""The agents of the audit: one lead, who plans and counts, and auditors, who read files and vote.

What must not be lost goes through tasks, the pool and the ballot box in the store. So it does not matter in which
process an agent runs, or that one was killed: whoever comes back goes on from what the store holds. Besides, the lead
asks the members by message where they had placed the elected modules, and by which figure.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import analysis
import corpus
import election
import report
from attrs import field, frozen, validators

from converge.core.agent import Agent, AgentState
from converge.core.decisions import ClaimTask, Decision, ReportTask, SendMessage, SubmitTask, Vote
from converge.core.message import Message
from converge.core.task import Task, TaskState
from converge.network.discovery import DiscoveryQuery
from converge.network.errors import Undeliverable
from converge.policy.decide import settles

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from converge.core.identity import Identity

AUDIT, LEAD = "audit-python", "lead-audit"
POOL = "auditors"
CLAIM_TTL_SEC = 5.0
BALLOT_TIMEOUT_SEC = 60.0
ANSWER_TIMEOUT_SEC = 10.0
TASKS_AT_ONCE = 4

_log = logging.getLogger(__name__)


@frozen
class AuditOptions:
    """`[audit]`: `path` is a folder, a file or "stdlib"; `report` is the folder for report.json and report.html. Both
    are relative to where the command is run. `seats` is how many modules are elected.
    """

    path: str = corpus.STDLIB
    report: Path = Path()
    seats: int = field(default=10, validator=validators.ge(1))


@frozen
class AuditorOptions(AuditOptions):
    """`lens`: by which figure this auditor ranks modules when it votes."""

    lens: str = field(default="complexity", validator=validators.in_(sorted(election.LENSES)))


class Auditor(Agent):
    """Claims files, analyses them, and votes when it is asked to."""

    blocking = True  # parsing keeps a processor busy: `decide` runs in a thread
    converge_options = AuditorOptions

    def __init__(self, identity: Identity, options: AuditorOptions) -> None:
        super().__init__(identity)
        self.capabilities.add(AUDIT)
        self.capabilities.add(_ballot_capability(self.id))
        self._lens, self._seats = options.lens, options.seats
        self._root = corpus.root_of(options.path)

    @classmethod
    def from_options(cls, options: AuditorOptions, identity: Identity) -> Self:
        return cls(identity, options)

    def decide(self, messages: list[Message], tasks: list[Task]) -> list[Decision]:
        mine = [task for task in tasks if task.assigned_to == self.id]
        others = [task for task in tasks if task.assigned_to is None and task.inputs.get("root") == str(self._root)]
        done: list[Decision] = [decision for task in mine for decision in self._do(task)]
        done += [
            SendMessage(message.reply(self._places(message))) for message in messages if "ballot" in message.payload
        ]
        return done + [ClaimTask(task.id) for task in others[:TASKS_AT_ONCE]]

    def _do(self, task: Task) -> list[Decision]:
        if task.objective == "analyse":
            return [ReportTask(task.id, self._analyse(task.inputs))]
        ranking = self._rank(_strings(task.inputs["tasks"]))
        return [Vote(str(task.inputs["ballot"]), ranking), ReportTask(task.id, None)]

    def _analyse(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        path: str = inputs["path"]
        if inputs["error"] is not None:
            return dict(analysis.unreadable(path, inputs["error"]))
        try:
            data = corpus.read(self._root, path)
        except (OSError, ValueError) as error:
            return dict(analysis.unreadable(path, str(error)))
        if sha256(data).hexdigest() != inputs["sha256"]:
            return dict(analysis.unreadable(path, "the file changed after the audit had begun; run it again"))
        return dict(analysis.analyse(data, path))

    def _rank(self, task_ids: list[str]) -> list[Any]:
        tasks = self.context.tasks
        assert tasks is not None
        results = [_result(task) for task_id in task_ids if (task := tasks.get_task(task_id)) is not None]
        return election.rank(results, self._lens, 10 * self._seats)

    def _places(self, question: Message) -> dict[str, Any]:
        """By which figure I rank, and where the modules in question stand on my ballot, counted from 1."""
        ballots = self.context.ballots
        assert ballots is not None
        mine = _strings(ballots.votes(str(question.payload["ballot"])).get(self.id))
        asked = set(_strings(question.payload.get("modules")))
        return {"lens": self._lens, "places": {path: place for place, path in enumerate(mine, 1) if path in asked}}


class Lead(Agent):
    """Submits one task a file, then one ballot a member, then counts. Each step is a task itself, so that a lead that
    was killed finds the step it was at.
    """

    converge_options = AuditOptions

    def __init__(self, identity: Identity, options: AuditOptions) -> None:
        super().__init__(identity)
        self.capabilities.add(LEAD)
        self._options = options
        self._root = corpus.root_of(options.path)
        self._files: list[corpus.SourceFile] = []
        self._job = self._tag = ""
        self._greeted = False

    @classmethod
    def from_options(cls, options: AuditOptions, identity: Identity) -> Self:
        return cls(identity, options)

    async def on_start(self) -> None:
        self._files = await asyncio.to_thread(corpus.find, self._options.path)
        self._job = corpus.job_id(self._files)
        # The same files in two folders are one job, and two sets of tasks.
        self._tag = f"audit:{self._job}:{zlib.crc32(str(self._root).encode()):08x}"

    async def decide(self, messages: list[Message], tasks: list[Task]) -> list[Decision]:
        if not self._greeted:
            await self._greet()
        steps = {task.objective: task for task in tasks if task.id.startswith(self._tag)}
        for objective, step in (("collect", self._ask_for_votes), ("count", self._count)):
            task = steps.get(objective)
            if task is not None:
                return await step(task) if task.assigned_to == self.id else [ClaimTask(task.id)]
        return await self._plan()

    async def _greet(self) -> None:
        tasks = self.context.tasks
        assert tasks is not None
        self._greeted = True
        known = await self.context.run(tasks.get_task, f"{self._tag}:collect")
        left = await self.context.run(tasks.open_among, self._file_tasks())
        resumed = f"; going on, {len(self._files) - len(left)} are done already" if known is not None else ""
        print(f"Auditing {len(self._files)} files of {self._root}{resumed}.")

    async def _plan(self) -> list[Decision]:
        """One task for each file, and one that stands for collecting them. What is there already stays as it is."""
        tasks = self.context.tasks
        assert tasks is not None
        counted = await self.context.run(tasks.get_task, f"{self._tag}:count")
        if counted is not None and counted.state is TaskState.COMPLETED:
            await self._publish()
            return []
        while not await self.context.discover(DiscoveryQuery(capabilities=[AUDIT])):
            _log.warning("waiting for an agent that offers %s", AUDIT)
            await asyncio.sleep(0.2)
        return [*map(self._file_task, range(len(self._files))), SubmitTask(self._step("collect"))]

    async def _ask_for_votes(self, collect: Task) -> list[Decision]:
        """When every file is done: one ballot for each member of the pool."""
        await self.context.wait_for_tasks(self._file_tasks())
        pools = self.context.pools
        assert pools is not None
        pool = await self.context.run(pools.get_pool, POOL)
        electorate = sorted(pool.agents) if pool is not None else []
        ballots = [SubmitTask(self._ballot(member)) for member in electorate]
        return [*ballots, SubmitTask(self._step("count", {"members": list(electorate)})), ReportTask(collect.id, None)]

    async def _count(self, count: Task) -> list[Decision]:
        """When the votes are in: the report."""
        tasks = self.context.tasks
        assert tasks is not None
        ids = [self._ballot(member).id for member in _strings(count.inputs["members"])]
        try:
            async with asyncio.timeout(BALLOT_TIMEOUT_SEC):
                await self.context.wait_for_tasks(ids)
        except TimeoutError:
            absent = [task_id for task_id in ids if await self.context.run(tasks.cancel_task, task_id)]
            print(f"{len(absent)} members did not vote within {BALLOT_TIMEOUT_SEC:.0f} s; the others decide.")
        await self._publish()
        return [ReportTask(count.id, None)]

    async def _publish(self) -> None:
        """Count the votes, write the report, print the table, and end."""
        done = await self.context.wait_for_tasks(self._file_tasks())
        results = [_result(task) for task in done]
        members: dict[str, list[str]] = {}
        for task in done:
            members.setdefault((task.assigned_to or "nobody")[:8], []).append(str(task.inputs["path"]))
        job = report.Job(id=self._job, root=str(self._root), paths=[file.path for file in self._files])
        elected = await self._elected()
        places = await self._ask([seat.module for seat in elected])
        summary = report.summary(job, results, elected, members, places)
        report.write_json(self._options.report / "report.json", summary)
        report.write_html(self._options.report / "report.html", summary)
        _print(summary, self._options.report)
        self.state = AgentState.OFFLINE

    async def _elected(self) -> list[election.Seat]:
        pools, ballots = self.context.pools, self.context.ballots
        assert pools is not None
        assert ballots is not None
        pool = await self.context.run(pools.get_pool, POOL)
        votes = await self.context.run(ballots.votes, f"{self._tag}:care")
        governance = None if pool is None else pool.governance

        def resolve(first_votes: Mapping[str, str]) -> str | None:
            chosen = None if governance is None else settles(governance, {"votes": dict(first_votes)})
            return None if chosen is None else str(chosen)

        return election.elect({member: _strings(vote) for member, vote in votes.items()}, self._options.seats, resolve)

    async def _ask(self, modules: Sequence[str]) -> dict[str, dict[str, int]]:
        """Where the members had placed the elected modules, by lens; of those who answer."""
        pools = self.context.pools
        assert pools is not None
        pool = await self.context.run(pools.get_pool, POOL)
        members = sorted(pool.agents) if pool is not None else []
        answers = await asyncio.gather(*(self._ask_one(member, modules) for member in members))
        heard = [answer for answer in answers if answer is not None]
        print(f"{len(heard)} of {len(members)} members told where they had placed the elected modules.")
        return {str(answer["lens"]): _places(answer["places"], modules) for answer in heard}

    async def _ask_one(self, member: str, modules: Sequence[str]) -> dict[str, Any] | None:
        question = Message(recipient=member, payload={"ballot": f"{self._tag}:care", "modules": [*modules]})
        try:
            answer = await self.context.network.request(question, ANSWER_TIMEOUT_SEC)
        except (TimeoutError, Undeliverable) as error:
            _log.info("%s was asked and has not answered: %s", member, error)
            return None
        return answer.payload if {"lens", "places"} <= answer.payload.keys() else None

    # -- tasks

    def _file_tasks(self) -> list[str]:
        return [f"{self._tag}:{number:06}" for number in range(len(self._files))]

    def _file_task(self, number: int) -> SubmitTask:
        file = self._files[number]
        return SubmitTask(
            Task(
                id=f"{self._tag}:{number:06}",
                objective="analyse",
                inputs={"root": str(self._root), "path": file.path, "sha256": file.sha256, "error": file.error},
                constraints={"claim_ttl_sec": CLAIM_TTL_SEC},
                pool_id=POOL,
                required_capabilities=[AUDIT],
            )
        )

    def _ballot(self, member: str) -> Task:
        return Task(
            id=f"{self._tag}:ballot:{member}",
            objective="vote",
            inputs={"root": str(self._root), "ballot": f"{self._tag}:care", "tasks": list(self._file_tasks())},
            constraints={"claim_ttl_sec": CLAIM_TTL_SEC},
            pool_id=POOL,
            required_capabilities=[_ballot_capability(member)],
        )

    def _step(self, name: str, inputs: dict[str, Any] | None = None) -> Task:
        return Task(
            id=f"{self._tag}:{name}",
            objective=name,
            inputs=inputs or {},
            constraints={"claim_ttl_sec": CLAIM_TTL_SEC},
            required_capabilities=[LEAD],
        )


def _ballot_capability(member: str) -> str:
    """What only one agent offers: how a task is addressed to it."""
    return f"ballot:{member}"


def _strings(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _places(told: object, modules: Sequence[str]) -> dict[str, int]:
    """What a member told of `modules`; what makes no sense is left out."""
    places = told if isinstance(told, dict) else {}
    return {path: place for path in modules if type(place := places.get(path)) is int and place > 0}


def _result(task: Task) -> dict[str, Any]:
    """What became of a file: its analysis, or why there is none."""
    if task.state is TaskState.COMPLETED and isinstance(task.result, dict):
        return task.result
    return dict(analysis.unreadable(str(task.inputs["path"]), task.error or "it was not analysed"))


def _short(cell: str, most: int = 32) -> str:
    return cell if len(cell) <= most else f"{cell[: most - 1]}…"


def _print(summary: report.Summary, folder: Path) -> None:
    rows = [[_short(cell) for cell in row] for row in report.table(summary)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    counts = summary["counts"]
    print(
        f"{counts['files']} files, {counts['lines']} lines, {counts['functions']} functions; "
        f"{counts['failed']} files do not parse. "
        f"Written: {folder / 'report.json'}, {folder / 'report.html'}"
    )
