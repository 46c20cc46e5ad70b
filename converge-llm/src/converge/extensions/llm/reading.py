"""From a reply to the decisions that it may lead to, and to what is told about the rest."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any, Final

from attrs import field, frozen

from converge.core.decisions import Decision
from converge.core.plain import pack, unpack_own
from converge.extensions.llm.chat import ChatMessage, Reply, ToolCall
from converge.extensions.llm.decoding import DecisionRefused, Refusal, decision_of
from converge.extensions.llm.judging import DecisionRules, Situation
from converge.extensions.llm.limits import MAX_DECISIONS, MAX_ID_CHARS
from converge.extensions.llm.parsing import ReplyUnusable, array_in, whole_array

if TYPE_CHECKING:
    from collections.abc import Sequence

    from converge.extensions.llm.offering import Offer

__all__ = ["Answer", "read_reply"]

_REMEMBERED_CHARS: Final = 4_000
_REMEMBERED_ARGUMENTS: Final = 2_000
_REFUSALS_TOLD: Final = 8


@frozen
class Answer:
    """What became of a reply.

    `calls` are the decisions by the id of the call they came in, `told_by_call` the refusals of calls; `untold` are
    the refusals that no call answers. `unusable` is the reason why nothing could be read. `to_ask` are the decisions
    for a person to allow. `as_message` is the reply as it is remembered.
    """

    decisions: tuple[Decision, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    calls: tuple[tuple[str, Decision], ...] = ()
    told_by_call: dict[str, Refusal] = field(factory=dict)
    untold: tuple[Refusal, ...] = ()
    unusable: str | None = None
    to_ask: tuple[Decision, ...] = ()
    as_message: ChatMessage = field(factory=lambda: ChatMessage(role="assistant", content=""))

    @property
    def useless(self) -> bool:
        """Whether the model is to be asked again: it wanted something, and nothing of it can be done."""
        return not self.decisions and bool(self.refusals)

    def call_of(self, decision: Decision) -> str | None:
        """The id of the call that this very decision came in."""
        return next((call_id for call_id, made in self.calls if made is decision), None)

    def refusal_of(self, call_id: str) -> Refusal | None:
        """Why the call of this id led to nothing."""
        return self.told_by_call.get(call_id)


@frozen
class _Reader:
    agent_id: str
    rules: DecisionRules
    situation: Situation

    def read(self, name: object, data: object) -> tuple[Decision, bool]:
        """The decision, and whether a person has to allow it; `DecisionRefused`."""
        self.rules.check_type(name)
        decision = decision_of(name, data, self.agent_id)
        return decision, self.rules.check(decision, self.situation)


def read_reply(
    reply: Reply,
    agent_id: str,
    offer: Offer,
    rules: DecisionRules,
    situation: Situation,
    *,
    native: bool,
    must_act: bool = False,
) -> Answer:
    """What `reply` leads to; raises nothing.

    With `native`, its calls count, or without any a text that is a JSON array and nothing else; a text that is none
    is no decision, and refused only if the agent `must_act`. Else the one array in the text.
    """
    reader = _Reader(agent_id, rules, situation)
    if native and reply.tool_calls:
        return _from_calls(reply, offer, reader)
    try:
        items = whole_array(reply.text) if native else array_in(reply.text)
    except ReplyUnusable as error:
        return _unusable(reply.text, error.reason, str(error))
    if items is None and must_act:
        return _unusable(
            reply.text, "no_call", "your reply called no function, so nothing happened, and a task of yours waits"
        )
    return _from_items(items or [], reply.text, reader)


def _unusable(text: object, reason: str, why: str) -> Answer:
    refusal = Refusal("reply", reason, why)
    return Answer(refusals=(refusal,), untold=(refusal,), unusable=reason, as_message=_remembered(text))


def _from_items(items: Sequence[Any], text: str, reader: _Reader) -> Answer:
    decisions: list[Decision] = []
    to_ask: list[Decision] = []
    refusals: list[Refusal] = []
    for item in items[:MAX_DECISIONS]:
        name = item.get("type") if isinstance(item, dict) else None
        try:
            if not isinstance(item, dict):
                raise DecisionRefused("no_object", f"a decision is an object, not {type(item).__name__}")
            decision, asked = reader.read(name, {key: value for key, value in item.items() if key != "type"})
        except DecisionRefused as error:
            refusals.append(_refusal(name, error))
            continue
        decisions.append(decision)
        to_ask += [decision] if asked else []
    if len(items) > MAX_DECISIONS:
        refusals.append(_surplus(len(items)))
    told = tuple(refusals[:_REFUSALS_TOLD] + refusals[_REFUSALS_TOLD:][-1:])
    return Answer(
        decisions=tuple(decisions),
        refusals=tuple(refusals),
        untold=told,
        to_ask=tuple(to_ask),
        as_message=_remembered(text),
    )


def _from_calls(reply: Reply, offer: Offer, reader: _Reader) -> Answer:
    decisions: list[tuple[str, Decision]] = []
    to_ask: list[Decision] = []
    refused: dict[str, Refusal] = {}
    remembered: list[ToolCall] = []
    for call in reply.tool_calls[:MAX_DECISIONS]:
        call_id = _call_id(call.id, remembered)
        remembered.append(_remembered_call(call, call_id))
        name, data = offer.meaning(str(call.name), call.arguments)
        try:
            if not isinstance(call.arguments, dict):
                raise DecisionRefused("malformed", "the arguments are no JSON object")
            decision, asked = reader.read(name, data)
        except DecisionRefused as error:
            refused[call_id] = _refusal(name, error)
            continue
        decisions.append((call_id, decision))
        to_ask += [decision] if asked else []
    surplus = (_surplus(len(reply.tool_calls)),) if len(reply.tool_calls) > MAX_DECISIONS else ()
    return Answer(
        decisions=tuple(decision for _, decision in decisions),
        refusals=(*refused.values(), *surplus),
        calls=tuple(decisions),
        told_by_call=refused,
        untold=surplus,
        to_ask=tuple(to_ask),
        as_message=ChatMessage(role="assistant", content=reply.text[:_REMEMBERED_CHARS], tool_calls=tuple(remembered)),
    )


def _refusal(name: object, error: DecisionRefused) -> Refusal:
    return Refusal(name[:60] if isinstance(name, str) else "?", error.reason, str(error)[:500])


def _surplus(count: int) -> Refusal:
    text = f"a reply may hold {MAX_DECISIONS} decisions; of {count} the rest were left out"
    return Refusal("reply", "too_many", text)


def _remembered(text: object) -> ChatMessage:
    """The reply as the model will see it again; never empty, which not every vendor takes."""
    content = text if isinstance(text, str) else ""
    cut = content[:_REMEMBERED_CHARS] + ("… (cut)" if len(content) > _REMEMBERED_CHARS else "")
    return ChatMessage(role="assistant", content=_encodable(cut) if cut.strip() else "[]")


def _remembered_call(call: ToolCall, call_id: str) -> ToolCall:
    arguments: dict[str, Any] = {}
    try:
        packed = pack(call.arguments)
        arguments = unpack_own(packed) if len(packed) <= _REMEMBERED_ARGUMENTS else {"(cut)": "too long to be kept"}
        raw = json.dumps(arguments, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        arguments, raw = {}, "{}"  # what is no plain data was refused
    name = "".join(letter for letter in str(call.name) if letter.isascii() and (letter.isalnum() or letter in "_-"))
    return ToolCall(call_id, name[:64] or "unknown", arguments or {}, raw if arguments else "{}")


def _call_id(given: object, taken: Sequence[ToolCall]) -> str:
    """The id of a call, which its result has to name: a new one where the model's cannot serve."""
    fits = isinstance(given, str) and 0 < len(given) <= MAX_ID_CHARS and given.isascii() and given.isprintable()
    if fits and all(given != call.id for call in taken):
        return str(given)
    return secrets.token_hex(5)[:9]  # nine letters and digits, as Mistral wants them


def _encodable(text: str) -> str:
    return text.encode(errors="replace").decode()
