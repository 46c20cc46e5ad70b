"""A provider whose replies are written beforehand: for tests, and for a first try without a key."""

from __future__ import annotations

import inspect
import re
import threading
from collections import deque
from typing import TYPE_CHECKING, ClassVar, Self, TypeAlias

from attrs import field, frozen

from converge.extensions.llm.arguments import json_text
from converge.extensions.llm.blocking_chat import BlockingChat
from converge.extensions.llm.chat import ChatMessage, Reply, ToolCall, ToolSpec
from converge.extensions.llm.errors import ScriptExhausted

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
    from types import TracebackType

__all__ = ["Asked", "Line", "ScriptedCall", "ScriptedOptions", "ScriptedProvider", "ScriptedReply"]

Line: TypeAlias = "str | Reply | BaseException"
"""One line of a script: a text, a whole reply, or an exception that is raised."""

_WORDS = re.compile(r"\s*\S+\s*$|\s*\S+")


@frozen
class ScriptedCall:
    """A tool call in the script of a configuration."""

    name: str
    arguments: dict[str, object] = field(factory=dict)


@frozen
class ScriptedReply:
    """A reply in the script of a configuration that is more than a text."""

    text: str = ""
    tool_calls: list[ScriptedCall] = field(factory=list)


@frozen
class ScriptedOptions:
    """What a table with `use = "scripted"` may say: the replies, in order; each a text or a table."""

    replies: list[str | ScriptedReply]
    model: str = "scripted"


@frozen
class Asked:
    """What the provider was asked."""

    messages: tuple[ChatMessage, ...]
    tools: tuple[ToolSpec, ...]
    max_output_tokens: int | None
    temperature: float | None


class ScriptedProvider(BlockingChat):
    """Gives the lines of its script, one for each call; or what a function makes of the messages.

    A line is a text, a `Reply`, or an exception, which is raised. A function takes the list of `ChatMessage` and gives
    a line, or an awaitable of one. A call beyond the script raises `ScriptExhausted`; `assert_consumed()`, or leaving
    a `with` block of the provider, does so when lines are left over or a call went beyond. What was asked is in
    `asked`. A stream gives the words one by one. May be used from several threads.
    """

    converge_options = ScriptedOptions
    vendor: ClassVar[str] = "scripted"

    def __init__(
        self,
        replies: Iterable[Line] | Callable[[Sequence[ChatMessage]], Line | Awaitable[Line]],
        *,
        model: str = "scripted",
    ) -> None:
        if isinstance(replies, str):
            raise TypeError("replies is a list of replies, or a function; for one reply write [reply]")
        self.model = model
        self.asked: list[Asked] = []
        self._function = replies if callable(replies) else None
        self._script = () if callable(replies) else tuple(replies)
        for place, line in enumerate(self._script):
            _check(line, f"replies[{place}]")
        self._left: deque[Line] = deque(self._script)
        self._beyond = 0
        self._lock = threading.Lock()

    @classmethod
    def from_options(cls, options: ScriptedOptions) -> Self:
        """The script that a table describes."""
        return cls([_line(place, reply) for place, reply in enumerate(options.replies)], model=options.model)

    def __repr__(self) -> str:
        return f"ScriptedProvider({len(self._left)} of {len(self._script)} replies left)"

    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        tools: Sequence[ToolSpec] = (),
        max_output_tokens: int | None = None,
        temperature: float | None = None,
    ) -> Reply:
        asked = Asked(tuple(messages), tuple(tools), max_output_tokens, temperature)
        line: object = self._next(asked)
        if self._function is not None:
            line = self._function(messages)
            if inspect.isawaitable(line):
                line = await line
        _check(line, "what the function gives")
        if isinstance(line, BaseException):
            raise line
        return line if isinstance(line, Reply) else Reply(str(line), model=self.model)

    async def stream(
        self,
        messages: Sequence[ChatMessage],
        *,
        tools: Sequence[ToolSpec] = (),
        max_output_tokens: int | None = None,
        temperature: float | None = None,
    ) -> AsyncGenerator[str | Reply, None]:
        reply = await self.complete(messages, tools=tools, max_output_tokens=max_output_tokens, temperature=temperature)
        for word in _WORDS.findall(reply.text) or ([reply.text] if reply.text else []):
            yield word
        yield reply

    def assert_consumed(self) -> None:
        """Raise `ScriptExhausted` if replies are left over, or if a call went beyond the script."""
        if self._left:
            raise ScriptExhausted(
                f"{len(self._left)} of {len(self._script)} scripted replies were not asked for; the next is "
                f"{_shown(self._left[0])}"
            )
        if self._beyond:
            raise ScriptExhausted(
                f"the provider was asked {self._beyond} time(s) beyond its script of {len(self._script)} replies"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.assert_consumed()

    def _next(self, asked: Asked) -> Line:
        with self._lock:
            self.asked.append(asked)
            if self._function is not None:
                return ""
            if self._left:
                return self._left.popleft()
            self._beyond += 1
        last = _shown(asked.messages[-1].content) if asked.messages else "nothing"
        raise ScriptExhausted(
            f"the script has {len(self._script)} replies; this is call {len(self.asked)}, whose last message is {last}"
        )


def _check(line: object, place: str) -> None:
    if not isinstance(line, str | Reply | BaseException):
        raise TypeError(f"{place} is {type(line).__name__}, not a str, a Reply or an exception")


def _shown(line: object) -> str:
    text = repr(line)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _line(place: int, reply: str | ScriptedReply) -> Line:
    if isinstance(reply, str):
        return reply
    calls = tuple(
        ToolCall(f"call_{place}_{number}", call.name, dict(call.arguments), json_text(call.arguments))
        for number, call in enumerate(reply.tool_calls)
    )
    return Reply(reply.text, calls, model="scripted", finish="tool_calls" if calls else "stop")
