"""What a model may do: the policy that stands outside of it."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from attrs import field, frozen

from converge.core.decisions import Delegate, InvokeTool, SendMessage
from converge.extensions.llm.decoding import DecisionRefused
from converge.extensions.llm.limits import DEFAULT_DECISIONS
from converge.extensions.llm.shapes import SHAPES

if TYPE_CHECKING:
    from converge.core.decisions import Decision

__all__ = ["DecisionRules", "Judge", "Situation", "Verdict"]

Verdict: TypeAlias = Literal["allow", "refuse", "ask"]
"""What a `Judge` says: carry it out, do not, or let a person say."""

Judge: TypeAlias = "Callable[[Decision], Verdict]"
"""A rule of the application's own, asked last. Whatever it raises, or answers besides a verdict, refuses."""

_VERDICTS: Final = ("allow", "refuse", "ask")
_log = logging.getLogger(__name__)


def _decisions(value: object) -> frozenset[str]:
    if isinstance(value, str | bytes) or not isinstance(value, Collection):
        raise TypeError(f"the allowed decisions are a list of names, not {value!r:.60}")
    unknown = sorted(str(name) for name in value if name not in SHAPES)
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no decision a model can make; there is {', '.join(SHAPES)}")
    return frozenset(value)


def _names(value: object) -> frozenset[str] | None:
    if value is None:
        return None
    if isinstance(value, str | bytes) or not isinstance(value, Collection):
        raise TypeError(f"give a list of names, not {value!r:.60}")
    return frozenset(str(name) for name in value)


@frozen
class Situation:
    """What the rules depend on at the moment: whom the agent knows, and the tools it has."""

    peers: frozenset[str] = frozenset()
    tools: frozenset[str] = frozenset()


@frozen
class DecisionRules:
    """Which decisions of a model are carried out.

    `allowed`: names of decisions; an empty list allows none. `broadcast`: whether it may send messages without a
    recipient, `topics`: the namespaces that such a message may be about (None: any). `judge` is asked last. `can_ask`
    says that somebody asks `LLMAgent.asks` and lets what is to be asked wait; without it "ask" refuses.
    """

    allowed: frozenset[str] = field(default=frozenset(DEFAULT_DECISIONS), converter=_decisions)
    broadcast: bool = True
    topics: frozenset[str] | None = field(default=None, converter=_names)
    judge: Judge | None = None
    can_ask: bool = False

    def check_type(self, name: object) -> None:
        """Raise `DecisionRefused` unless decisions called `name` may be made at all; asked before anything is read."""
        if not isinstance(name, str) or name not in SHAPES:
            shown = repr(name[:60]) if isinstance(name, str) else type(name).__name__
            raise DecisionRefused("unknown_type", f"{shown} is no type of decision")
        if name not in self.allowed:
            raise DecisionRefused("not_allowed", f"{name} is not allowed here")

    def check(self, decision: Decision, situation: Situation) -> bool:
        """Whether a person has to be asked about `decision`; `DecisionRefused` when it is not to be carried out."""
        self.check_type(type(decision).__name__)
        if isinstance(decision, SendMessage):
            self._check_message(decision, situation)
        elif isinstance(decision, Delegate) and decision.delegatee_id not in situation.peers:
            raise DecisionRefused("unknown_recipient", f"{decision.delegatee_id!r:.80} is no agent known here")
        elif isinstance(decision, InvokeTool) and decision.tool_name not in situation.tools:
            known = ", ".join(sorted(situation.tools)[:20]) or "none"
            raise DecisionRefused("unknown_tool", f"there is no tool {decision.tool_name!r:.80}; there is {known}")
        return self._judged(decision)

    def _check_message(self, decision: SendMessage, situation: Situation) -> None:
        message = decision.message
        if message.recipient is not None:
            if message.recipient not in situation.peers:
                raise DecisionRefused(
                    "unknown_recipient",
                    f"the recipient {message.recipient!r:.80} is no agent known here; it is the id of an agent that "
                    "has written or is listed as a peer, never an address",
                )
        elif not self.broadcast:
            raise DecisionRefused("no_recipient", "a message needs a recipient here")
        foreign = [] if self.topics is None else [t.namespace for t in message.topics if t.namespace not in self.topics]
        if foreign:
            raise DecisionRefused("unknown_topic", f"messages about {foreign[0]!r:.80} are not allowed here")

    def _judged(self, decision: Decision) -> bool:
        if self.judge is None:
            return False
        try:
            answer: object = self.judge(decision)
        except Exception:  # noqa: BLE001  # whatever a rule raises, it does not allow
            _log.warning("the judge of a model's decisions failed on %s", type(decision).__name__, exc_info=True)
            raise DecisionRefused("judge_failed", f"{type(decision).__name__} could not be judged") from None
        if inspect.iscoroutine(answer):
            answer.close()  # or it would complain that nobody awaited it
        if answer not in _VERDICTS:
            _log.warning("the judge of a model's decisions answered %r, which is no verdict", type(answer))
            raise DecisionRefused("judge_failed", f"{type(decision).__name__} could not be judged")
        if answer == "refuse":
            raise DecisionRefused("judged", f"this {type(decision).__name__} is not allowed here")
        if answer == "ask" and not self.can_ask:
            raise DecisionRefused("nobody_to_ask", f"this {type(decision).__name__} needs a person, and none is asked")
        return answer == "ask"
