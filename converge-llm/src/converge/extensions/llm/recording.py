"""A provider that writes real replies to a file, and gives them again from there."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, cast, get_args

from attrs import frozen

from converge.extensions.llm.blocking_chat import BlockingChat
from converge.extensions.llm.chat import Reply, as_chat_provider, check_ready
from converge.extensions.llm.closing import closed
from converge.extensions.llm.errors import ProviderError, ReplayMismatch
from converge.extensions.llm.recording_file import Entry, append, as_error, as_reply, begin, difference, entry, load
from converge.plugins import plugin_field

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Sequence

    from converge.extensions.llm.chat import ChatMessage, ChatProvider, LLMProvider, ToolSpec

__all__ = ["RecordingMode", "RecordingOptions", "RecordingProvider"]

RecordingMode: TypeAlias = Literal["record", "replay", "auto"]
"""What to do with the file; `auto` replays it if there is one, and else records it."""

_log = logging.getLogger(__name__)


@frozen
class RecordingOptions:
    """What a table with `use = "recording"` may say. A replay needs no `provider`."""

    path: Path
    provider: object = plugin_field("llm_provider", default=None)
    mode: RecordingMode = "auto"


class RecordingProvider(BlockingChat):
    """Records what `provider` is asked and answers, to the file at `path`; or replays it without any vendor.

    Of failures, those that are `ProviderError` are recorded and raised again; a call that is cancelled is not. A stream
    that was left early replays the text that had come. A replay is strict: the requests have to be the recorded ones,
    in their order, from the first message to the last option; else `ReplayMismatch` shows the difference. The file
    holds the conversation, no key, and only its owner may read it. To record again, delete it or set `mode="record"`,
    which begins it anew at the first call.

    The calls of one conversation follow each other; give each agent a file of its own.
    """

    converge_options = RecordingOptions
    vendor: ClassVar[str] = "recording"

    def __init__(
        self,
        provider: LLMProvider | ChatProvider | None,
        path: str | os.PathLike[str],
        mode: RecordingMode = "auto",
    ) -> None:
        if mode not in get_args(RecordingMode):
            raise ValueError(f"mode is one of {', '.join(get_args(RecordingMode))}, not {mode!r}")
        self.path = Path(path)
        self.provider = None if provider is None else as_chat_provider(provider)
        self.mode: RecordingMode = mode
        self.replaying = mode == "replay" or (mode == "auto" and self.path.exists())
        self._entries: list[Entry] = []
        self._place = 0
        self._is_begun = False
        self._lock = threading.Lock()
        if self.replaying:
            self._recorded_model, self._entries = load(self.path)
        elif self.provider is None:
            raise ValueError(f"there is no recording at {self.path}, and no provider to record")

    @property
    def model(self) -> str:
        """The model that is asked, or that was when the recording was made."""
        return self._recorded_model if self.provider is None else self.provider.model

    def __repr__(self) -> str:
        return f"RecordingProvider({self.provider!r}, {str(self.path)!r}, mode={self.mode!r})"

    def check_ready(self) -> None:
        """Raise what the provider that is asked is known to be missing."""
        if not self.replaying:
            check_ready(self.provider)

    def to_options(self) -> dict[str, object]:
        """The options that make an equal provider."""
        return {"path": str(self.path), "provider": self.provider, "mode": self.mode}

    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        tools: Sequence[ToolSpec] = (),
        max_output_tokens: int | None = None,
        temperature: float | None = None,
    ) -> Reply:
        made = entry(self.model, messages, tools, max_output_tokens, temperature)
        if self.replaying:
            return self._replayed(made)
        try:
            reply = await self._real.complete(
                messages, tools=tools, max_output_tokens=max_output_tokens, temperature=temperature
            )
        except ProviderError as error:
            self._record({**made, "error": as_error(error)})
            raise
        self._record({**made, "reply": as_reply(reply)})
        return reply

    async def stream(
        self,
        messages: Sequence[ChatMessage],
        *,
        tools: Sequence[ToolSpec] = (),
        max_output_tokens: int | None = None,
        temperature: float | None = None,
    ) -> AsyncGenerator[str | Reply, None]:
        made = entry(self.model, messages, tools, max_output_tokens, temperature)
        if self.replaying:
            reply = self._replayed(made)
            if reply.text:
                yield reply.text
            yield reply
            return
        come: list[str] = []
        pieces = self._real.stream(messages, tools=tools, max_output_tokens=max_output_tokens, temperature=temperature)
        try:
            async with closed(pieces):
                async for piece in pieces:
                    if isinstance(piece, Reply):
                        self._record({**made, "reply": as_reply(piece)})
                    else:
                        come.append(piece)
                    yield piece
        except GeneratorExit:
            self._record({**made, "reply": as_reply(Reply("".join(come), model=self.model, finish="left"))})
            raise
        except ProviderError as error:
            self._record({**made, "error": as_error(error)})
            raise

    def assert_consumed(self) -> None:
        """Raise `ReplayMismatch` if a replay has requests left that were not made."""
        left = len(self._entries) - self._place
        if self.replaying and left:
            raise ReplayMismatch(f"{self.path}: {left} of {len(self._entries)} recorded requests were not made")

    async def aclose(self) -> None:
        """Close the provider."""
        close = getattr(self.provider, "aclose", None)
        if close is not None:
            await close()

    @property
    def _real(self) -> ChatProvider:
        assert self.provider is not None, "one that records has a provider"
        return self.provider

    def _replayed(self, made: dict[str, Any]) -> Reply:
        with self._lock:
            place = self._place
            if place >= len(self._entries):
                raise ReplayMismatch(
                    f"{self.path} holds {len(self._entries)} requests, and this is number {place + 1}; record it again"
                )
            recorded = self._entries[place]
            if recorded.request != made["request"]:
                shown = difference(recorded.request, made["request"])
                raise ReplayMismatch(
                    f"{self.path}: request {place + 1} is not the recorded one; undo that, or record again:\n{shown}"
                )
            self._place += 1
        if recorded.error is not None:
            raise recorded.error
        return cast("Reply", recorded.reply)

    def _record(self, made: dict[str, Any]) -> None:
        with self._lock:
            if not self._is_begun:
                begin(self.path, self.model)
                self._is_begun = True
                _log.info("recording the replies of %s to %s", self.model, self.path)
            append(self.path, made)
