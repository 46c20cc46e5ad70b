"""Carrying out what agents decide: one handler for each kind of decision, under a policy."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, TypeVar

from attrs import frozen

from converge.coordination.ballot import BallotBox
from converge.coordination.errors import MoveRefused, UnknownPool
from converge.coordination.task_desk import TaskDesk
from converge.coordination.task_index import Filter
from converge.coordination.task_moves import ClaimMove, Move, MoveResult, ReportMove, SubmitMove
from converge.core.agent import Outcome
from converge.core.decisions import (
    ClaimTask,
    CreatePool,
    Decision,
    InvokeTool,
    JoinPool,
    LeavePool,
    ReportTask,
    SendMessage,
    SubmitTask,
    Vote,
)
from converge.core.errors import ToolFailed
from converge.core.task import Task
from converge.policy.safety import ActionPolicy, ResourceLimits, validate_safety
from converge.runtime.calls import contained, described, settled
from converge.runtime.decision_trace import carrying_out
from converge.runtime.errors import Refused
from converge.runtime.executor_options import StandardExecutorOptions
from converge.runtime.handlers import MoveHandlers
from converge.runtime.store_work import StoreWork, in_turns
from converge.runtime.tools.calls import DEFAULT_TOOL_TIMEOUT_SEC, ToolCalls
from converge.runtime.tools.limits import MAX_RESULT_BYTES, ToolLimits

if TYPE_CHECKING:
    from converge.coordination.bidding import BiddingProtocol
    from converge.coordination.claims import Claim
    from converge.coordination.delegation import DelegationProtocol
    from converge.coordination.negotiation import NegotiationProtocol
    from converge.coordination.pool_manager import PoolManager
    from converge.coordination.task_manager import TaskManager
    from converge.core.message import Message
    from converge.core.plain import Plain
    from converge.core.store import Store
    from converge.core.tools import Isolation, ToolRegistry
    from converge.network.network import AgentNetwork
    from converge.observability.metrics import MetricsCollector
    from converge.observability.replay import ReplayLog
    from converge.runtime.approving import ApprovalGate
    from converge.runtime.limiting import DecisionLimits
    from converge.runtime.threads import StoreThread
    from converge.runtime.tools.pool import ToolPool

__all__ = ["DEFAULT_TOOL_TIMEOUT_SEC", "Executor", "Handler", "Refused", "StandardExecutor"]

_log = logging.getLogger(__name__)


class Executor(Protocol):
    """What carries out the decisions of one agent. If it has a `close`, plain or async, stopping the agent calls it."""

    async def execute(self, decisions: Iterable[Decision]) -> Sequence[Outcome] | None:
        """Carry out `decisions` in order; one that fails does not stop the rest. Their outcomes, if it keeps any."""


Handler: TypeAlias = Callable[[Any], object]
"""Takes a decision; what it returns (or what awaiting that gives) becomes the outcome's value."""

_T = TypeVar("_T")


@frozen
class _Route:
    name: str  # what the action policy is asked for
    handler: Handler
    on_store: bool = False  # may wait for the store: done together with its neighbours in one hop
    move: Callable[[Any], Move] | None = None  # what it is to the task manager, which commits many together
    sends: bool = False  # no more than a message: neighbours share a signature


class StandardExecutor:
    """The executor named "standard".

    `safety_policy` is a pair (ResourceLimits | None, ActionPolicy | None): the action policy is asked before every
    decision, by the name of the class whose handler takes it (a subclass of SendMessage is a SendMessage, whatever it
    calls itself); the limits before SubmitTask and ClaimTask. A policy that raises, or answers with anything but True,
    refuses. A task is claimed only if it fits the agent's pools and what `capabilities()` returns (None: not checked).

    `bidding_protocols` maps auction ids to auctions; ones that are added to it later are found. `votes_store` is a
    mapping id → {agent: option} or a store. `custom_handlers` maps decision classes to functions, plain or
    async, and goes before the built-in ones. A decision that nothing handles, or whose manager or protocol is missing,
    is refused, with the reason, and so is a move that an auction, a negotiation or a delegation does not allow.

    Tools (docs/tools.md): an async one runs on the event loop and is cancelled at `tool_timeout_sec` (None: no limit).
    A plain one that another process can import runs in a process, under `tool_limits`, and is killed then; any other
    runs in a thread of its own, which Python cannot end, so at the timeout its result is given up and the thread is
    left behind. `tool_isolation` other than `auto` goes over what a tool says. A result of more than
    `max_result_bytes` is an error. `tool_pool` None shares the processes of the event loop; `close` gives them up.
    `tool_allowlist` None allows every registered tool, an empty one none.

    `approvals` holds back what a person has to allow (docs/approvals.md): its outcome is `waiting`. `limits` are asked
    last (docs/policy.md).

    When a manager's store is blocking, neighbouring decisions that need it are done together in one thread hop, and
    what they and the decisions of other agents do to tasks is one commit, if the agents wait at the same time. For the
    coroutines of one event loop.
    """

    converge_options: ClassVar[type] = StandardExecutorOptions

    def __init__(
        self,
        agent_id: str,
        network: AgentNetwork | None = None,
        task_manager: TaskManager | None = None,
        pool_manager: PoolManager | None = None,
        *,
        metrics_collector: MetricsCollector | None = None,
        bidding_protocols: Mapping[str, BiddingProtocol] | None = None,
        negotiation_protocol: NegotiationProtocol | None = None,
        delegation_protocol: DelegationProtocol | None = None,
        votes_store: MutableMapping[str, dict[str, Plain]] | Store | None = None,
        safety_policy: tuple[ResourceLimits | None, ActionPolicy | None] | None = None,
        replay_log: ReplayLog | None = None,
        tool_registry: ToolRegistry | None = None,
        custom_handlers: Mapping[type[Decision], Handler] | None = None,
        tool_timeout_sec: float | None = DEFAULT_TOOL_TIMEOUT_SEC,
        tool_allowlist: Collection[str] | None = None,
        tool_isolation: Isolation = "auto",
        tool_limits: ToolLimits | None = None,
        tool_pool: ToolPool | None = None,
        max_result_bytes: int = MAX_RESULT_BYTES,
        store_thread: StoreThread | None = None,
        capabilities: Callable[[], Collection[str]] | None = None,
        approvals: ApprovalGate | None = None,
        limits: DecisionLimits | None = None,
    ) -> None:
        self.agent_id = agent_id
        self._network, self._tasks, self._pools = network, task_manager, pool_manager
        self._metrics, self._replay_log = metrics_collector, replay_log
        self._ballots = None if votes_store is None else BallotBox(votes_store)
        self._limits, self._actions = safety_policy if safety_policy is not None else (None, None)
        self._tool_calls = ToolCalls(
            agent_id,
            tool_registry,
            timeout_sec=tool_timeout_sec,
            allowlist=tool_allowlist,
            max_result_bytes=max_result_bytes,
            limits=tool_limits,
            pool=tool_pool,
            isolation=tool_isolation,
            claims=self._claims,
        )
        self._store_thread = store_thread
        self._capabilities = capabilities
        self._approvals, self._rates = approvals, limits
        moves = MoveHandlers(agent_id, bidding_protocols, negotiation_protocol, delegation_protocol)
        self._on_stores = (task_manager, pool_manager, self._ballots, moves)
        self._moves, self._custom = moves, custom_handlers
        self._routes: dict[type[Decision], _Route] = {}  # made for the first decision: an idle agent needs none
        self._found: dict[type, _Route] = {}  # by the very class of a decision

    def _built_in(self, moves: MoveHandlers) -> dict[type[Decision], _Route]:
        on_store: dict[type[Decision], Handler] = {
            CreatePool: self._create_pool,
            JoinPool: self._join,
            LeavePool: self._leave,
            Vote: self._vote,
            **moves.table(),
        }
        moves_of: dict[type[Decision], Callable[[Any], Move]] = {
            SubmitTask: self._submit,
            ClaimTask: self._claim,
            ReportTask: self._report,
        }
        routes = {
            SendMessage: _Route(SendMessage.__name__, self._send, sends=True),
            InvokeTool: _Route(InvokeTool.__name__, self._tool_calls.invoke),
        }
        routes |= {kind: _Route(kind.__name__, call, on_store=True) for kind, call in on_store.items()}
        return routes | {
            kind: _Route(kind.__name__, _no_handler, on_store=True, move=move) for kind, move in moves_of.items()
        }

    async def close(self) -> None:
        """Kill the tools' processes that no other agent uses. It can execute again."""
        await self._tool_calls.close()

    async def execute(self, decisions: Iterable[Decision]) -> list[Outcome]:
        """Carry out `decisions` in order; one outcome for each. Raises only when it is cancelled."""
        outcomes: list[Outcome] = []
        if self._rates is not None:
            decisions = [*decisions]
            await self._reserve(self._rates, decisions)
        for (waits, on_store, sends), group in groupby(decisions, key=self._carried_out_with):
            if waits:
                outcomes += await self._hold([*group])
                continue
            if on_store:
                for others, moving in in_turns(group, lambda decision: self._route(decision).move is not None):
                    outcomes += await self._on_stores_together(others, moving)
                continue
            run = list(group)
            outcomes += await self._send_many(run) if sends and len(run) > 1 else [await self._one(one) for one in run]
        for outcome in outcomes:
            self._note(outcome)
        return outcomes

    async def _reserve(self, limits: DecisionLimits, decisions: Sequence[Decision]) -> None:
        """Begin a turn, with what it needs of limits that several processes share."""
        limits.begin_turn()
        if self._store_thread is not None and limits.blocking:
            await self._store_thread.run(limits.reserve, decisions)
        elif limits.shared:
            limits.reserve(decisions)

    def _carried_out_with(self, decision: Decision) -> tuple[bool, bool, bool]:
        route = self._route(decision)
        waits = self._approvals is not None and self._approvals.needs(route.name, decision)
        return waits, route.on_store, route.sends

    async def _hold(self, decisions: Sequence[Decision]) -> list[Outcome]:
        """Let decisions that a person has to allow wait, unless they are refused anyway."""

        def hold() -> list[Outcome]:
            return [self._held(decision) for decision in decisions]

        gate, thread = self._approvals, self._store_thread
        return await thread.run(hold) if thread is not None and gate is not None and gate.blocking else hold()

    def _held(self, decision: Decision) -> Outcome:
        refusal = self._refusal(decision)
        if refusal is not None:
            return Outcome(decision, "refused", error=refusal)
        assert self._approvals is not None  # only these come here
        try:
            return self._approvals.hold(self._route(decision).name, decision)
        except Exception as error:  # noqa: BLE001  # becomes the outcome that the agent sees
            return _failure(decision, error)

    def _may_block(self) -> bool:
        return any(manager is not None and manager.blocking for manager in self._on_stores)

    def _route(self, decision: object) -> _Route:
        kind = type(decision)
        if (route := self._found.get(kind)) is None:
            if not self._routes:
                routes = {kind: _Route(kind.__name__, call) for kind, call in (self._custom or {}).items()}
                self._routes = self._built_in(self._moves) | routes
            found = _nearest(self._routes, decision)
            route = self._found[kind] = _Route(kind.__name__, _no_handler) if found is None else found
        return route

    async def _on_stores_together(self, others: list[Decision], moving: list[Decision]) -> list[Outcome]:
        """Carry out `others` one by one, and then together what `moving` does to tasks."""
        work = StoreWork(others, moving, self._one_on_store, self._move)
        tasks, thread = self._tasks, self._store_thread

        def all_of_it() -> list[MoveResult]:
            moves = work.moves()
            return [] if tasks is None else tasks.carry_out(moves)

        if thread is None or not self._may_block():
            results = all_of_it()
        elif tasks is not None and tasks.blocking and moving:
            results = await TaskDesk.of(tasks).carry_out(work.moves, thread.run)
        else:
            results = await thread.run(all_of_it)
        return work.outcomes(results)

    def _move(self, decision: Decision) -> Move | Outcome:
        """What a decision asks of the task manager, or its outcome when it is not to be asked."""
        refusal = self._refusal(decision)
        if refusal is not None:
            return Outcome(decision, "refused", error=refusal)
        move = self._route(decision).move
        assert move is not None  # only these come here
        try:
            self._task_manager()
            return move(decision)
        except BaseException as error:  # noqa: BLE001  # becomes the outcome that the agent sees; nothing awaits here
            return _failure(decision, contained(error))

    def _one_on_store(self, decision: Decision) -> Outcome:
        refusal = self._refusal(decision)
        if refusal is not None:
            return Outcome(decision, "refused", error=refusal)
        try:
            return Outcome(decision, "done", self._route(decision).handler(decision))
        except BaseException as error:  # noqa: BLE001  # becomes the outcome that the agent sees; nothing awaits here
            return _failure(decision, contained(error))

    async def _one(self, decision: Decision) -> Outcome:
        refusal = self._refusal(decision)
        if refusal is not None:
            return Outcome(decision, "refused", error=refusal)
        try:
            with carrying_out(decision):
                return Outcome(decision, "done", await settled(self._route(decision).handler, decision))
        except Exception as error:  # noqa: BLE001  # becomes the outcome that the agent sees
            return _failure(decision, error)

    def _refusal(self, decision: object) -> str | None:
        refusal = self._not_allowed(decision)
        if refusal is not None or self._rates is None or not isinstance(decision, Decision):
            return refusal
        if self._approvals is not None and self._approvals.allowed(decision):
            return None  # counted when it was held back
        return self._rates.refusal(decision, self._metrics)

    def _not_allowed(self, decision: object) -> str | None:
        if not isinstance(decision, Decision):
            return f"{type(decision).__name__} is no Decision"
        if self._actions is None and self._limits is None:
            return None
        name = self._route(decision).name
        try:
            allowed: object = self._actions is None or self._actions.is_allowed(name)
            if inspect.iscoroutine(allowed):
                allowed.close()  # or it would complain that nobody awaited it
            if allowed is not True:
                return f"the action policy does not allow {name}"
            return self._over_limits(decision)
        except Refused as refused:
            return str(refused)
        except BaseException as error:  # noqa: BLE001  # whatever a policy raises, it denies; nothing awaits here
            _log.warning("the safety policy failed on %s of %s, so it is refused", name, self.agent_id, exc_info=True)
            return f"the safety policy failed: {described(error)}"

    def _over_limits(self, decision: Decision) -> str | None:
        if self._limits is None or not isinstance(decision, SubmitTask | ClaimTask):
            return None
        task = decision.task if isinstance(decision, SubmitTask) else self._task_manager().get_task(decision.task_id)
        constraints = {} if task is None else task.constraints
        cpu, memory = constraints.get("cpu", 0), constraints.get("memory_mb", 0)
        if validate_safety(self._limits, cpu, memory):  # type: ignore[arg-type]  # what is no number is refused by it
            return None
        return f"the task asks for cpu {cpu!r} and memory_mb {memory!r}, beyond {self._limits}"

    def _note(self, outcome: Outcome) -> None:
        if outcome.status in ("refused", "failed"):
            _log.info("%s: %s %s: %s", self.agent_id, type(outcome.decision).__name__, outcome.status, outcome.error)
        if self._metrics is not None:
            self._metrics.inc(f"converge_decisions_{outcome.status}_total")

    # -- handlers

    async def _send(self, decision: SendMessage) -> None:
        message = await self._to_send_with().send(self._own(decision))
        if self._replay_log is not None:
            self._replay_log.record_message(message)

    async def _send_many(self, decisions: Sequence[Any]) -> list[Outcome]:
        """Send in their order; what is unsigned shares a signature."""
        judged = [self._to_send(decision) for decision in decisions]
        messages = [each for each in judged if not isinstance(each, Outcome)]
        sent: Iterator[Message | Exception] = iter(await self._network.send_many(messages) if self._network else ())
        return [
            each if isinstance(each, Outcome) else self._sent(decision, next(sent))
            for decision, each in zip(decisions, judged, strict=True)
        ]

    def _to_send(self, decision: SendMessage) -> Message | Outcome:
        """What is to be sent, or the outcome of what is not."""
        refusal = self._refusal(decision)
        if refusal is not None:
            return Outcome(decision, "refused", error=refusal)
        try:
            return self._own(decision)
        except Exception as error:  # noqa: BLE001  # becomes the outcome that the agent sees
            return _failure(decision, error)

    def _sent(self, decision: Decision, result: Message | Exception) -> Outcome:
        if isinstance(result, Exception):
            return _failure(decision, result)
        if self._replay_log is not None:
            self._replay_log.record_message(result)
        return Outcome(decision, "done")

    def _to_send_with(self) -> AgentNetwork:
        if self._network is None:
            raise Refused("this executor has no network to send with")
        return self._network

    def _own(self, decision: SendMessage) -> Message:
        """The message, with the agent as its sender."""
        network, message = self._to_send_with(), decision.message
        if message.sender not in ("", self.agent_id):
            raise Refused(f"the sender is {message.sender}; {self.agent_id} sends in its own name only")
        if message.sender or network.signs_for(self.agent_id):
            return message
        return message.evolve(sender=self.agent_id)

    def _claims(self) -> Collection[Claim]:
        return () if self._tasks is None else self._tasks.claims_of(self.agent_id)

    def _submit(self, decision: SubmitTask) -> Move:
        task: object = decision.task  # an agent may have put anything there
        if not isinstance(task, Task):
            raise TypeError(f"a Task is submitted, not {type(task).__name__}")
        if not self._is_for_its_pool(task):
            raise Refused(f"the pool {task.pool_id!r} is for tasks of other types than that of task {task.id}")
        return SubmitMove(task)

    def _is_for_its_pool(self, task: Task) -> bool:
        """Whether the pool takes tasks of this type; one that does not exist yet has no say."""
        if self._pools is None or task.pool_id is None:
            return True
        try:
            return self._pools.accepts(task.pool_id, task)
        except UnknownPool:
            return True

    def _claim(self, decision: ClaimTask) -> Move:
        pools = None if self._pools is None else self._pools.get_pools_for_agent(self.agent_id)
        capabilities = None if self._capabilities is None else self._capabilities()
        return ClaimMove(self.agent_id, decision.task_id, Filter(pools, capabilities))

    def _report(self, decision: ReportTask) -> Move:
        return ReportMove(self.agent_id, decision.task_id, decision.result)

    def _create_pool(self, decision: CreatePool) -> object:
        return self._pool_manager().create_pool(decision.spec)

    def _join(self, decision: JoinPool) -> bool:
        if not self._pool_manager().join_pool(self.agent_id, decision.pool_id):
            raise Refused(f"pool {decision.pool_id} does not admit this agent")
        return True

    def _leave(self, decision: LeavePool) -> bool:
        return self._pool_manager().leave_pool(self.agent_id, decision.pool_id)

    def _vote(self, decision: Vote) -> None:
        if self._ballots is None:
            raise Refused("this executor has no votes_store")
        self._ballots.cast(decision.vote_id, self.agent_id, decision.option)

    def _task_manager(self) -> TaskManager:
        if self._tasks is None:
            raise Refused("this executor has no task manager")
        return self._tasks

    def _pool_manager(self) -> PoolManager:
        if self._pools is None:
            raise Refused("this executor has no pool manager")
        return self._pools


def _nearest(table: Mapping[type[Decision], _T], decision: object) -> _T | None:
    """What `table` has for the class of `decision`, or for the nearest of its bases."""
    return next((table[kind] for kind in type(decision).__mro__ if kind in table), None)


def _no_handler(decision: object) -> object:
    raise Refused(f"nothing here carries out {type(decision).__name__}; give the executor a handler in custom_handlers")


def _failure(decision: Decision, error: Exception) -> Outcome:
    if isinstance(error, Refused | MoveRefused):
        return Outcome(decision, "refused", error=str(error))
    if isinstance(error, ToolFailed):  # its text names the type that the tool raised
        return Outcome(decision, "failed", error=str(error))
    return Outcome(decision, "failed", error=described(error))
