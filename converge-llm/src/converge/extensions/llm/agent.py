"""An agent whose decisions a language model makes, within limits that the model cannot change."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from converge.core.agent import Agent, Outcome
from converge.core.clock import Clock, SystemClock
from converge.extensions.llm.budget import Budget, Exhausted, Ledger, Spent
from converge.extensions.llm.calling import CallFailed, call, estimated
from converge.extensions.llm.chat import ChatMessage, as_chat_provider, check_ready
from converge.extensions.llm.counting import Counts
from converge.extensions.llm.judging import DecisionRules, Situation
from converge.extensions.llm.limits import DEFAULT_PROMPT_BYTES
from converge.extensions.llm.memory import Conversation, MemoryWindow
from converge.extensions.llm.offering import Offer, offer_of
from converge.extensions.llm.options import LLMAgentOptions
from converge.extensions.llm.prompting import (
    DEFAULT_SYSTEM_PROMPT,
    News,
    PeerLine,
    instructions,
    outcome_line,
    wants_attention,
)
from converge.extensions.llm.quoting import fenced, line_of, new_fence
from converge.extensions.llm.reading import Answer, read_reply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from converge.core.decisions import Decision
    from converge.core.identity import Identity
    from converge.core.message import Message
    from converge.core.task import Task
    from converge.core.tools import Tool
    from converge.extensions.llm.chat import ChatProvider, LLMProvider, Reply
    from converge.observability.metrics import MetricsCollector

__all__ = ["LLMAgent"]

_MIN_PROMPT_BYTES: Final = 28 * 1024
_MIN_TURN_BYTES: Final = 2 * 1024
_MAX_PEERS_KNOWN: Final = 1_024
_FAILURES_BEFORE_DROPPING: Final = 5
_MAX_BACKOFF_SEC: Final = 60.0
_MAX_RETRY_AFTER_SEC: Final = 3_600.0
_log = logging.getLogger(__name__)


class LLMAgent(Agent):
    """An agent that shows a model what is new, and decides what the model replies, as far as `rules` allow it.

    `provider` is any object with `chat(messages) -> str`, or one that can `complete` (each vendor's own tool calling);
    with `native_calls=False`, or when it says `calls_functions = False`, the latter answers in text too.
    `system_prompt` are your words; the limits and the format are appended to them. The model is asked when there are
    messages, tool results, decisions that failed, or tasks that it has not seen; in the background, for at most
    `timeout_sec` seconds. A tool it calls is an `InvokeTool` decision, whose outcome is shown at the next `decide`.
    When nothing in a reply can be used it is told why and asked again at once, at most `corrections` times.

    A reply is data: what it may lead to is in docs/llm-limits.md. What was refused is told to the model once, and
    counted in `counts` and, as `converge_llm_…_total`, in `metrics` (by default those of the runtime). When a `budget`
    is used up the agent does not call, says so in the log, in `exhausted` and in the counters, keeps what is new (64
    messages at most), and goes on when the budget allows it. The conversation, and what was spent, are kept in the
    store of the runtime under `conversation:<agent id>`.

    `decide` raises nothing but `CancelledError`. For one event loop.
    """

    converge_options: ClassVar[type] = LLMAgentOptions

    def __init__(
        self,
        identity: Identity,
        provider: LLMProvider | ChatProvider,
        system_prompt: str | None = None,
        *,
        tools: Sequence[Tool] = (),
        rules: DecisionRules | None = None,
        budget: Budget | None = None,
        memory: MemoryWindow | None = None,
        timeout_sec: float = 120.0,
        max_output_tokens: int | None = 4096,
        temperature: float | None = None,
        max_prompt_bytes: int = DEFAULT_PROMPT_BYTES,
        native_calls: bool = True,
        corrections: int = 1,
        metrics: MetricsCollector | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(identity)
        self.tools = tuple(tools)
        self.rules = DecisionRules() if rules is None else rules
        self.provider = as_chat_provider(provider)
        self._native = native_calls and callable(getattr(provider, "complete", None))
        self._native = self._native and getattr(provider, "calls_functions", True) is True
        self._words = DEFAULT_SYSTEM_PROMPT if system_prompt is None else system_prompt
        self._prompt_bytes, self._timeout = max_prompt_bytes, timeout_sec
        self._max_output, self._temperature, self._corrections = max_output_tokens, temperature, corrections
        self._check_bounds()
        self._clock: Clock = SystemClock() if clock is None else clock
        self._ledger = Ledger(Budget() if budget is None else budget, self._clock)
        self.exhausted: Exhausted | None = None
        """The budget that forbids a call now, or None: it is looked at when there is something to ask about."""
        self._conversation = Conversation(memory)
        self.metrics = metrics
        self.counts = Counts(self._collector)
        self._news = News()
        self._seen: frozenset[tuple[object, ...]] = frozenset()
        self._writers: dict[str, None] = {}
        self._answer = Answer()
        self._answered: dict[str, Outcome] = {}
        self._failures = 0
        self._not_before = 0.0  # on the monotonic clock
        self._loaded_from: object = None
        self._offered: tuple[list[Tool | None], Offer] = [], offer_of(self.rules.allowed, ())

    @classmethod
    def from_options(cls, options: LLMAgentOptions, *, identity: Identity) -> LLMAgent:
        """The agent that a `use = "llm"` table describes."""
        return cls(identity, cast("Any", options.provider), **options.arguments())

    def _check_bounds(self) -> None:
        if not isinstance(self._words, str):
            raise TypeError(f"system_prompt is a str, not {type(self._words).__name__}")
        if self._prompt_bytes < _MIN_PROMPT_BYTES:
            raise ValueError(f"max_prompt_bytes is {self._prompt_bytes}; give at least {_MIN_PROMPT_BYTES}")
        size, most = len(self._words.encode()), self._prompt_bytes // 4
        if size > most:
            raise ValueError(
                f"system_prompt has {size} bytes; at most {most}, a quarter of max_prompt_bytes, are allowed"
            )
        if not 0 < self._timeout < float("inf"):
            raise ValueError(f"timeout_sec is {self._timeout!r}; give seconds, finite and above 0")
        if not 0 <= self._corrections <= 3:  # each is a call that costs
            raise ValueError(f"corrections is {self._corrections!r}; give a number from 0 to 3")

    @property
    def spent(self) -> Spent:
        """What was spent so far, in the present window of the budget."""
        return self._ledger.spent

    def asks(self, decision: Decision) -> bool:
        """Whether the judge of `rules` wants a person to allow `decision`, one of the last `decide`.

        For an `ApprovalPolicy` of your own; say `can_ask=True` in the rules when there is one.
        """
        return any(decision is asked for asked in self._answer.to_ask)

    def on_start(self) -> None:
        """Raise what the provider is known to be missing, such as a key: a start that can only fail does so at once."""
        check_ready(self.provider)

    # -- deciding

    async def decide(self, messages: list[Message], tasks: list[Task]) -> Sequence[Decision]:
        """What the model decides about what is new; [] when nothing is, when it fails, or when a budget is used up."""
        try:
            return await self._decide(messages, tasks)
        except Exception:  # noqa: BLE001  # an agent survives its input: this batch is lost, which is counted and logged
            self._news.clear()
            self.counts.add("decide_errors")
            _log.exception("%s: asking the model failed", self.id)
            return []

    async def _decide(self, messages: Sequence[Message], tasks: Sequence[Task]) -> list[Decision]:
        await self._load()
        self._take_in(messages, tasks)
        if not self._news.due or self._stopped():
            return []
        offer = self._offer()
        peers = await self._peers()
        situation = Situation(
            frozenset({*self._writers, *(peer for peer, _ in peers)} - {self.id}), frozenset(offer.tools.values())
        )
        decisions: list[Decision] = []
        for attempt in range(self._corrections + 1):
            if attempt and self._stopped():
                break
            said, reply = await self._ask(offer, tasks, peers)
            if reply is None:
                break
            decisions = self._take(said, reply, offer, situation, tasks)
            if decisions or not self._answer.useless:
                break
        await self._save()
        return decisions

    def _take_in(self, messages: Sequence[Message], tasks: Sequence[Task]) -> None:
        """Keep what is new, and see whether the model is to be asked about it."""
        for message in messages:
            if message.is_signed and message.verify():
                self._writers.pop(message.sender, None)
                self._writers[message.sender] = None
        while len(self._writers) > _MAX_PEERS_KNOWN:
            self._writers.pop(next(iter(self._writers)))
        seen = frozenset((task.id, task.state, task.attempt) for task in tasks)
        changed = not seen <= self._seen
        self._seen = seen
        others: list[Outcome] = []
        for outcome in self.outcomes:
            call_id = self._answer.call_of(outcome.decision)
            if call_id is None or call_id in self._answered:
                others.append(outcome)
            else:
                self._answered[call_id] = outcome
        if messages or changed:
            self._ledger.in_a_row = 0
        if messages or changed or any(wants_attention(outcome) for outcome in self.outcomes):
            self._news.due = True
        lost = self._news.lost
        self._news.add(messages, others)
        self.counts.add("not_kept", self._news.lost - lost)
        self.outcomes = ()

    def _stopped(self) -> bool:
        """Whether a budget, or a failure a moment ago, forbids the call that is due."""
        pause = self._not_before - self._clock.monotonic()
        if pause > 0:
            self._call_again(pause)
            return True
        exhausted = self._ledger.exhausted()
        if exhausted is None:
            self.exhausted = None
            return False
        if self.exhausted is None or self.exhausted.budget != exhausted.budget:
            _log.warning("%s does not ask its model: %s", self.id, exhausted)
        self.exhausted = exhausted
        self.counts.add("budget_stops", budget=exhausted.budget.replace(" ", "_"))
        if exhausted.again_in_sec is not None:
            self._call_again(exhausted.again_in_sec)
        return True

    def _offer(self) -> Offer:
        tools: list[Tool | None] = [*self.tools]
        if self._context is not None:
            known = self._context.tools
            tools = [known.get(name) for name in known.list_names()]
        before, offer = self._offered
        if len(tools) == len(before) and all(one is other for one, other in zip(tools, before, strict=True)):
            return offer
        offer = offer_of(self.rules.allowed, [tool for tool in tools if tool is not None], self._prompt_bytes * 3 // 8)
        self._offered = tools, offer
        self.counts.add("tools_left_out", len(offer.left_out))
        if offer.left_out:
            _log.warning("%s: no room in the prompt for the tools %s", self.id, ", ".join(offer.left_out)[:500])
        return offer

    async def _peers(self) -> list[PeerLine]:
        if self._context is None:
            return []
        try:
            found = await self._context.peers()
        except Exception:  # noqa: BLE001  # a store that is away; who has written is known all the same
            self.counts.add("discovery_failures")
            _log.exception("%s: its peers cannot be looked up", self.id)
            return []
        return [(peer.id, tuple(capability.name for capability in peer.capabilities)) for peer in found]

    # -- one call

    async def _ask(
        self, offer: Offer, tasks: Sequence[Task], peers: Sequence[PeerLine]
    ) -> tuple[list[ChatMessage], Reply | None]:
        """What was said, and the reply; None when there was none, and what is new is kept or given up."""
        system = instructions(self._words, self.id, offer, self.rules.allowed, native=self._native)
        room = self._prompt_bytes - len(system.encode()) - (offer.size if self._native else 0)
        said = self._turn(tasks, peers, max(room * 2 // 3, _MIN_TURN_BYTES))
        messages = self._conversation.prompt(system, said, room + len(system.encode()))
        self.counts.add("requests")
        self._ledger.begin()
        if self._ledger.budget.has_totals:
            await self._save()  # so that a process that is killed in a call over and over comes to an end
        try:
            reply = await call(
                self.provider,
                messages,
                tools=offer.specs if self._native else (),
                agent_id=self.id,
                timeout_sec=self._timeout,
                max_output_tokens=self._output_limit(),
                temperature=self._temperature,
            )
        except CallFailed as failed:
            if failed.spent:
                self._charge(estimated(messages))
            self._put_off(failed)
            return said, None
        self._failures = 0
        self._charge(reply.usage)
        return said, reply

    def _turn(self, tasks: Sequence[Task], peers: Sequence[PeerLine], room: int) -> list[ChatMessage]:
        """The results of the calls that the model waits for, and what else is new."""
        calls = self._conversation.open_calls
        for_calls = room // 2 if calls else 0
        news, missing = self._news.shown(self.id, tasks, peers, room - for_calls)
        self.counts.add("not_shown", missing)
        if not calls:
            return [ChatMessage(role="user", content=news)]
        share = max(for_calls // len(calls) - _FENCE_BYTES, _MIN_ANSWER_BYTES)
        said = [
            ChatMessage(role="tool", content=fenced(new_fence(), [self._result(one.id, share)]), tool_call_id=one.id)
            for one in calls
        ]
        last = said[-1]  # not every vendor takes a user's turn right after a result
        said[-1] = ChatMessage(role="tool", content=f"{last.content}\n{news}", tool_call_id=last.tool_call_id)
        return said

    def _result(self, call_id: str, room: int) -> str:
        outcome = self._answered.get(call_id)
        if outcome is not None:
            return outcome_line(outcome, room)
        refusal = self._answer.refusal_of(call_id)
        if refusal is not None:
            return line_of("not_done", {"why": refusal.text}, room)
        return line_of(
            "unknown", {"why": "nothing is known about what became of this; look before you repeat it"}, room
        )

    def _output_limit(self) -> int | None:
        limits = [limit for limit in (self._max_output, self._ledger.tokens_left()) if limit is not None]
        return max(min(limits), 1) if limits else None

    def _charge(self, usage: Any) -> None:  # noqa: ANN401  # a Usage
        cost = self._ledger.charge(usage)
        self.counts.add("input_tokens", usage.input_tokens)
        self.counts.add("output_tokens", usage.output_tokens)
        self.counts.add("money", cost)

    def _put_off(self, failed: CallFailed) -> None:
        """Try what is new again later. After several failures in a row it is given up, if it may be the cause."""
        self._failures += 1
        self.counts.add("failures", reason=failed.reason)
        pause = min(2.0 ** min(self._failures - 1, 10), _MAX_BACKOFF_SEC)
        pause = max(pause, min(failed.retry_after or 0.0, _MAX_RETRY_AFTER_SEC))
        self._not_before = self._clock.monotonic() + pause
        if self._failures >= _FAILURES_BEFORE_DROPPING and not failed.transient:
            self.counts.add("messages_given_up", len(self._news.messages))
            _log.error("%s: the model failed %d times, so what is new is dropped: %s", self.id, self._failures, failed)
            self._news.clear()
            self._failures = 0
            return
        self._news.due = True
        _log.warning("%s: the model gave no reply, next try in %.0f s: %s", self.id, pause, failed)
        self._call_again(pause)

    def _call_again(self, after_sec: float) -> None:
        if self._context is not None:
            self._context.call_again(after_sec)

    def _take(
        self, said: Sequence[ChatMessage], reply: Reply, offer: Offer, situation: Situation, tasks: Sequence[Task]
    ) -> list[Decision]:
        """The decisions in `reply`; it is remembered, and what was refused is told at the next turn."""
        holds = any(task.assigned_to == self.id for task in tasks)
        self._answer = read_reply(reply, self.id, offer, self.rules, situation, native=self._native, must_act=holds)
        self._answered = {}
        self._news.clear()
        self._news.add(refusals=self._answer.untold)
        for refusal in self._answer.refusals:
            self.counts.add("refused", reason=refusal.reason)
        if self._answer.unusable is not None:
            self.counts.add("bad_replies", reason=self._answer.unusable)
        self.counts.add("decisions", len(self._answer.decisions))
        self._conversation.add(said, self._answer.as_message)
        return list(self._answer.decisions)

    # -- what survives a restart

    async def _load(self) -> None:
        context = self._context
        if context is None or context is self._loaded_from:
            return
        self._loaded_from = context
        if context.store is None or len(self._conversation):
            return
        try:
            stored = await context.run(context.store.get, self._key)
            if stored is not None:
                self._restore(stored)
        except Exception:  # noqa: BLE001  # whatever is wrong with it, an agent without memory is better than none
            self.counts.add("memory_lost")
            _log.exception("%s: its conversation cannot be read from %r; it starts a new one", self.id, self._key)

    def _restore(self, stored: object) -> None:
        if not isinstance(stored, dict) or set(stored) != {"conversation", "spent"}:
            raise ValueError("this is no record of a conversation")
        if not isinstance(stored["spent"], dict):
            raise ValueError("this is no record of what was spent")
        spent = Spent.from_plain(stored["spent"])
        self._ledger.restore(spent)
        conversation = Conversation(self._conversation.window)
        conversation.restore(stored["conversation"])
        if not self._native and conversation.has_calls:
            raise ValueError("it is a conversation with function calls, which this agent's provider does not take")
        self._conversation = conversation

    async def _save(self) -> None:
        context = self._context
        if context is None or context.store is None:
            return
        record = {"conversation": self._conversation.to_plain(), "spent": self._ledger.spent.to_plain()}
        try:
            await context.run(context.store.put, self._key, record)
        except Exception:  # noqa: BLE001  # the decisions are made; what is lost is what a restart would remember
            self.counts.add("memory_failures")
            _log.exception("%s: its conversation cannot be stored", self.id)

    @property
    def _key(self) -> str:
        return f"conversation:{self.id}"

    def _collector(self) -> MetricsCollector | None:
        return self.metrics if self.metrics is not None or self._context is None else self._context.metrics


_FENCE_BYTES: Final = 60
_MIN_ANSWER_BYTES: Final = 150
