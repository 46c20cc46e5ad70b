"""What a model is offered to call: the decisions it may make and the agent's tools, as functions with JSON schemas."""

from __future__ import annotations

import copy
import functools
import inspect
import json
import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from converge.extensions.llm.chat import ToolSpec
from converge.extensions.llm.limits import MAX_ID_CHARS, MAX_TOOLS_BYTES
from converge.extensions.llm.shapes import SHAPES, schema_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from converge.core.tools import Tool

__all__ = ["Offer", "offer_of"]

_DESCRIPTIONS: Final[Mapping[str, str]] = {
    "AcceptProposal": "Accept the other side's proposal in a negotiation.",
    "ClaimTask": "Claim a pending task, so that it is yours to do.",
    "CreatePool": "Create a pool of agents.",
    "Delegate": "Hand a part of your authority to an agent you know.",
    "JoinPool": "Ask to be let into a pool.",
    "LeavePool": "Leave a pool.",
    "Propose": "Make a proposal in a negotiation.",
    "RejectProposal": "Reject the other side's proposal in a negotiation.",
    "ReportTask": "Report the result of a task that you hold. This ends the task.",
    "RevokeDelegation": "Take back what you delegated.",
    "SendMessage": "Send a message to an agent you know, or without a recipient to all who listen to its topics.",
    "SubmitBid": "Bid in an auction.",
    "SubmitTask": "Submit a new task for agents to do.",
    "Vote": "Cast your one vote in a ballot.",
}
_OUTSIDE_NAME: Final = re.compile(r"[^A-Za-z0-9_-]")  # what vendors do not take in the name of a function
_MAX_NAME: Final = 64  # of OpenAI and Mistral; Anthropic takes twice that
_MAX_DESCRIPTION: Final = 1024
_MAX_SCHEMA_BYTES: Final = 4096
_ANY_OBJECT: Final[Mapping[str, Any]] = {"type": "object", "additionalProperties": True}
_log = logging.getLogger(__name__)


@frozen
class Offer:
    """The functions a model can call, and what each of them is: a decision or a tool, by the agent's own name.

    `decisions` and `tools` map the names that the model uses. `left_out` names tools for which there was no room.
    """

    specs: tuple[ToolSpec, ...]
    decisions: Mapping[str, str]
    tools: Mapping[str, str]
    left_out: tuple[str, ...] = ()
    size: int = 0
    """How many bytes it takes in a prompt."""

    @property
    def tool_specs(self) -> tuple[ToolSpec, ...]:
        """Those of the tools alone."""
        return tuple(spec for spec in self.specs if spec.name in self.tools)

    def meaning(self, name: str, arguments: object) -> tuple[str, object]:
        """The decision that a call of `name` is, and its fields; the name itself when it is none that was offered."""
        if name in self.tools:
            return "InvokeTool", {"tool_name": self.tools[name], "params": arguments}
        return self.decisions.get(name, name), arguments


def offer_of(allowed: Collection[str], tools: Iterable[Tool], room: int = MAX_TOOLS_BYTES) -> Offer:
    """The decisions in `allowed`, and `tools` if InvokeTool is one of them, while these take at most `room` bytes."""
    specs = [_spec_of_decision(name) for name in sorted(allowed) if name in _DESCRIPTIONS]
    decisions = {spec.name: spec.name for spec in specs}
    names: dict[str, str] = {}
    left_out: list[str] = []
    size = 0
    for tool in tools if "InvokeTool" in allowed else ():
        spec = _spec_of(tool, {*decisions, *names})
        if size + _size(spec) > room or len(tool.name) > MAX_ID_CHARS:
            left_out.append(tool.name)
            continue
        size += _size(spec)
        specs.append(spec)
        names[spec.name] = tool.name
    return Offer(tuple(specs), decisions, names, tuple(left_out), sum(_size(spec) for spec in specs))


@functools.cache
def _spec_of_decision(name: str) -> ToolSpec:
    return ToolSpec(name=name, description=_DESCRIPTIONS[name], parameters=schema_of(SHAPES[name]))


def _spec_of(tool: Tool, taken: Collection[str]) -> ToolSpec:
    description, parameters = "", dict(_ANY_OBJECT)
    try:
        description = str(getattr(tool, "description", None) or inspect.getdoc(type(tool)) or "")
        given = getattr(tool, "parameters", None)
        if isinstance(given, dict) and len(json.dumps(given)) <= _MAX_SCHEMA_BYTES:
            parameters = copy.deepcopy(given)
    except Exception:  # noqa: BLE001  # a tool is foreign code; without a schema it can be called all the same
        _log.warning("the tool %r cannot say what it takes; it is offered without a schema", tool.name, exc_info=True)
    return ToolSpec(
        name=_free_name(tool.name, taken), description=description[:_MAX_DESCRIPTION], parameters=parameters
    )


def _free_name(name: str, taken: Collection[str]) -> str:
    base = _OUTSIDE_NAME.sub("_", name)[:_MAX_NAME] or "tool"
    free, number = base, 1
    while free in taken:
        number += 1
        free = f"{base[: _MAX_NAME - 4]}_{number}"
    return free


def _size(spec: ToolSpec) -> int:
    return len(spec.name) + len(spec.description.encode()) + len(json.dumps(spec.parameters))
