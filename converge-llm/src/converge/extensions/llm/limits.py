"""The bounds of what a model is shown and of what it may say. Sizes are bytes of UTF-8 unless named otherwise."""

from __future__ import annotations

from typing import Final

__all__ = [
    "DEFAULT_DECISIONS",
    "DEFAULT_PROMPT_BYTES",
    "MAX_DECISIONS",
    "MAX_DEPTH",
    "MAX_ID_CHARS",
    "MAX_ITEM_BYTES",
    "MAX_NAMES",
    "MAX_PAYLOAD_BYTES",
    "MAX_REPLY_BYTES",
    "MAX_RESULT_BYTES",
    "MAX_SYSTEM_PROMPT_BYTES",
    "MAX_TEXT_BYTES",
    "MAX_TOOLS_BYTES",
]

MAX_DECISIONS: Final = 32
"""The most decisions that are taken from one reply."""

DEFAULT_DECISIONS: Final = (
    "SendMessage",
    "JoinPool",
    "LeavePool",
    "ClaimTask",
    "SubmitTask",
    "ReportTask",
    "InvokeTool",
)
"""What a model may decide unless its agent is told otherwise."""

MAX_ID_CHARS: Final = 256
"""The longest id or name in a decision, in characters."""

MAX_NAMES: Final = 32
"""The most topics, capabilities, dependencies or scopes in one decision."""

MAX_DEPTH: Final = 32
"""How deep what a decision carries may be nested."""

MAX_PAYLOAD_BYTES: Final = 16 * 1024
"""The largest payload of a message, inputs of a task, parameters of a tool or content of a move, as msgpack."""

MAX_RESULT_BYTES: Final = 64 * 1024
"""The largest result of a task, as msgpack."""

MAX_TEXT_BYTES: Final = 4 * 1024
"""The longest objective of a task."""

MAX_REPLY_BYTES: Final = 256 * 1024
"""The longest reply that is looked at at all."""

DEFAULT_PROMPT_BYTES: Final = 32 * 1024
"""The most that one call shows a model: instructions, tools, conversation and what is new."""

MAX_SYSTEM_PROMPT_BYTES: Final = 8 * 1024
"""The longest `system_prompt`."""

MAX_TOOLS_BYTES: Final = 12 * 1024
"""The most that the schemas of tools take in a prompt; tools beyond that are left out, which is logged."""

MAX_ITEM_BYTES: Final = 4 * 1024
"""The most that one message, result or task takes in a prompt; longer ones are cut, visibly."""
