"""The options of `use = "llm"` in a configuration."""

from __future__ import annotations

from typing import Any

from attrs import field, fields, frozen

from converge.extensions.llm.budget import Budget
from converge.extensions.llm.judging import DecisionRules
from converge.extensions.llm.limits import DEFAULT_DECISIONS, DEFAULT_PROMPT_BYTES
from converge.extensions.llm.memory import MemoryWindow
from converge.plugins import plugin_field

__all__ = ["BudgetOptions", "LLMAgentOptions", "MemoryOptions"]


@frozen(kw_only=True)
class BudgetOptions:
    """`budget`: what may be spent, as `converge.extensions.llm.Budget` describes it."""

    requests_per_minute: int | None = 30
    requests: int | None = None
    tokens: int | None = None
    money: float | None = None
    window_sec: float | None = None
    input_price: float = 0.0
    output_price: float = 0.0
    calls_in_a_row: int | None = 50


@frozen(kw_only=True)
class MemoryOptions:
    """`memory`: how much of the conversation is remembered."""

    messages: int = 40
    bytes: int = 64 * 1024


@frozen(kw_only=True)
class LLMAgentOptions:
    """What a table with `use = "llm"` may say. `decisions` are the ones that the model may make."""

    provider: object = plugin_field("llm_provider")
    system_prompt: str | None = None
    decisions: list[str] = field(factory=lambda: list(DEFAULT_DECISIONS))
    broadcast: bool = True
    topics: list[str] | None = None
    budget: BudgetOptions = field(factory=BudgetOptions)
    memory: MemoryOptions = field(factory=MemoryOptions)
    timeout_sec: float = 120.0
    max_output_tokens: int | None = 4096
    temperature: float | None = None
    max_prompt_bytes: int = DEFAULT_PROMPT_BYTES
    native_calls: bool = True
    corrections: int = 1

    def arguments(self) -> dict[str, Any]:
        """The arguments of `LLMAgent` besides identity and provider; `ValueError` for a value out of bounds."""
        same = ("system_prompt", "timeout_sec", "max_output_tokens", "temperature", "max_prompt_bytes", "native_calls")
        return {name: getattr(self, name) for name in (*same, "corrections")} | {
            "rules": DecisionRules(self.decisions, broadcast=self.broadcast, topics=self.topics),
            "budget": Budget(**_values(self.budget)),
            "memory": MemoryWindow(**_values(self.memory)),
        }


def _values(options: Any) -> dict[str, Any]:  # noqa: ANN401  # an attrs object
    return {attribute.name: getattr(options, attribute.name) for attribute in fields(type(options))}
