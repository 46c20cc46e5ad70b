"""Three agents with a model and one without: a cited answer to a question, from real files.

The editor, who has no model, makes the plan of the work: the planner splits the question, the researcher finds lines in
the library, the planner writes the answer, the editor checks by code that each quote stands where the answer says, and
the critic votes. An answer whose quotes are not there, or that the critic rejects, is written once more. All of it is
tasks in the store, so a run that was killed goes on where it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from attrs import asdict, field, frozen
from desk_library import Citation, Library

from converge.core.agent import Agent, AgentState
from converge.core.task import Task, TaskState
from converge.extensions.llm import LLMAgent
from converge.extensions.llm.options import LLMAgentOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from converge.core.decisions import Decision
    from converge.core.identity import Identity
    from converge.core.message import Message

POOL = "desk"
ROUNDS = 2
MAX_QUESTIONS = 4


@frozen(kw_only=True)
class EditorOptions:
    """`[editor]`: the question, the folder of texts, and the file for the answer; relative to the config's folder."""

    question: str
    library: Path = Path("library")
    answer: Path = Path("answer.md")
    job: str = "research"


@frozen(kw_only=True)
class ResearcherOptions(LLMAgentOptions):
    """Besides those of any agent with a model, the folder of texts."""

    library: Path = Path("library")


@frozen
class Draft:
    """An answer, and what it rests on."""

    text: str
    citations: list[Citation] = field(factory=list)

    @classmethod
    def read(cls, result: object) -> Draft:
        """The draft in the result of a writing task; `ValueError` when it is none."""
        if not isinstance(result, dict) or not isinstance(result.get("answer"), str):
            raise ValueError("the result has no answer")
        citations = result.get("citations")
        if not isinstance(citations, list) or not citations:
            raise ValueError("the result has no citations")
        return cls(result["answer"], [Citation.read(citation) for citation in citations])


class Researcher(LLMAgent):
    """An agent with a model, which can search and read the library and nothing else."""

    converge_options = ResearcherOptions

    @classmethod
    def from_options(cls, options: LLMAgentOptions, *, identity: Identity) -> Self:
        assert isinstance(options, ResearcherOptions)  # what `converge_options` names
        researcher = cls(identity, cast("Any", options.provider), **options.arguments())
        researcher.tools = tuple(Library(_here(options.library)).tools())
        return researcher


class Editor(Agent):
    """Knows no answer; knows what a good one looks like."""

    converge_options = EditorOptions

    def __init__(self, identity: Identity, *, question: str, library: Path, answer: Path, job: str) -> None:
        super().__init__(identity)
        self._question, self._answer, self._job = question, _here(answer), job
        self._library = Library(_here(library))

    async def decide(self, messages: list[Message], tasks: list[Task]) -> Sequence[Decision]:
        try:
            print(await self._answered())
        except ValueError as error:
            print(f"no answer: {error}")
        self.state = AgentState.OFFLINE
        return []

    async def _answered(self) -> str:
        plan = await self._done(
            self._task("plan", "plan", "Split the question into at most 4 questions to look up", {})
        )
        looked_up = await self._done(
            *(
                self._task(f"look-up-{n}", "research", question, {})
                for n, question in enumerate(_questions(plan[0].result), 1)
            )
        )
        findings = [task.result for task in looked_up if task.state is TaskState.COMPLETED]
        objection = ""
        for number in range(1, ROUNDS + 1):
            objection = await self._round(number, findings, objection)
            if not objection:
                return f"the answer is in {self._answer.name}"
        return f"no answer: {objection}"

    async def _round(self, number: int, findings: list[Any], objection: str) -> str:
        """What is to be said against the answer of this round; nothing when it is published."""
        inputs = {"findings": findings, "objection": objection}
        (written,) = await self._done(self._task(f"write-{number}", "plan", _WRITING, inputs))
        try:
            draft = Draft.read(written.result)
        except ValueError as error:
            return str(error)
        problems = [problem for one in draft.citations if (problem := self._library.problem(one))]
        if problems:
            return "; ".join(problems)
        vote_id = f"{self._job}-answer-{number}"
        inputs = {"answer": draft.text, "citations": [asdict(one) for one in draft.citations], "vote_id": vote_id}
        (reviewed,) = await self._done(self._task(f"review-{number}", "review", _REVIEWING, inputs))
        assert self.context.ballots is not None
        votes = await self.context.run(self.context.ballots.votes, vote_id)
        if list(votes.values()) != ["accept"]:
            return f"the critic did not accept it: {reviewed.result!s}"
        self._answer.write_text(self._published(draft), encoding="utf-8")
        return ""

    def _task(self, name: str, capability: str, objective: str, inputs: dict[str, Any]) -> Task:
        return Task(
            id=f"{self._job}-{name}",
            objective=objective,
            inputs={"question": self._question, **inputs},
            pool_id=POOL,
            required_capabilities=[capability],
            constraints={"max_retries": 1},
        )

    async def _done(self, *tasks: Task) -> list[Task]:
        """The tasks, submitted if they are not yet, once they have ended."""
        assert self.context.tasks is not None
        await self.context.run(self.context.tasks.submit_many, tasks)
        return await self.context.wait_for_tasks([task.id for task in tasks])

    def _published(self, draft: Draft) -> str:
        sources = "\n".join(f"[{n}] {one.file}:{one.line}: “{one.quote}”" for n, one in enumerate(draft.citations, 1))
        return f"# {self._question}\n\n{draft.text}\n\n{sources}\n"


_WRITING = (
    "Answer the question from the findings alone, in a few sentences with marks like [1]. The result is an object with "
    '"answer" and "citations", a list of {"file", "line", "quote"} in the order of the marks; a quote is words of it.'
)
_REVIEWING = (
    "Judge whether the answer answers the question and says no more than its sources. Vote with the option accept or "
    "reject on the vote_id in the inputs, then report why in a sentence."
)


def _questions(result: object) -> list[str]:
    questions = result.get("questions") if isinstance(result, dict) else None
    if not isinstance(questions, list) or not questions:
        raise ValueError(f"the planner gave no questions but {result!r:.200}")
    return [str(question) for question in questions[:MAX_QUESTIONS]]


def _here(path: Path) -> Path:
    return path if path.is_absolute() else Path(__file__).parent / path
