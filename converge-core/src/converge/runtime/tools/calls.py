"""The tool calls of one agent: which are allowed, where each runs, and how it ends."""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from converge.core.errors import ToolFailed, ToolNotImportable
from converge.core.plain import pack
from converge.core.tool_call import ToolCall, calling
from converge.core.tool_reference import ToolReference
from converge.core.tools import ISOLATIONS
from converge.observability.tracing import get_current_traceparent
from converge.runtime.calls import within
from converge.runtime.errors import Refused
from converge.runtime.threads import in_own_thread
from converge.runtime.tools.limits import MAX_RESULT_BYTES, ToolLimits
from converge.runtime.tools.linux import can_isolate

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from converge.coordination.claims import Claim
    from converge.core.decisions import InvokeTool
    from converge.core.tools import Isolation, Tool, ToolRegistry
    from converge.runtime.tools.pool import ToolPool

__all__ = ["DEFAULT_TOOL_TIMEOUT_SEC", "ToolCalls"]

DEFAULT_TOOL_TIMEOUT_SEC = 60.0
_MAX_COUNTED = 1_000
_log = logging.getLogger(__name__)


class ToolCalls:
    """Calls the tools in `registry` for an agent.

    `claims` gives the claims that the agent holds. Tools that need processes share those of `pool`, or of the event
    loop. `isolation` other than `auto` is that of every tool, whatever the tool itself says.
    """

    def __init__(
        self,
        agent_id: str,
        registry: ToolRegistry | None,
        *,
        timeout_sec: float | None = DEFAULT_TOOL_TIMEOUT_SEC,
        allowlist: Collection[str] | None = None,
        max_result_bytes: int = MAX_RESULT_BYTES,
        limits: ToolLimits | None = None,
        pool: ToolPool | None = None,
        isolation: Isolation = "auto",
        claims: Callable[[], Collection[Claim]] = lambda: (),
    ) -> None:
        if isinstance(allowlist, str | bytes):  # `in` would look for a part of it
            raise TypeError(f"tool_allowlist is a list of names; write [{allowlist!r}]")
        if isolation not in ISOLATIONS:
            raise ValueError(f"isolation is one of {', '.join(ISOLATIONS)}, not {isolation!r}")
        if max_result_bytes < 1:
            raise ValueError(f"max_result_bytes is {max_result_bytes!r}; a result takes at least a byte")
        self._agent_id, self._registry, self._timeout = agent_id, registry, timeout_sec
        self._allowlist = None if allowlist is None else frozenset(allowlist)
        self._max_result_bytes, self._isolation, self._claims = max_result_bytes, isolation, claims
        self._limits = ToolLimits() if limits is None else limits
        self._pool, self._opened = pool, None if pool is None else pool
        self._references: dict[str, tuple[Tool, ToolReference | ToolNotImportable]] = {}
        self._numbers: Counter[tuple[str, int]] = Counter()

    async def invoke(self, decision: InvokeTool) -> object:
        """What the tool returns; raises `Refused`, or what the tool raises.

        A tool that is not done in time is a `TimeoutError`; one that cannot have what it needs a `ToolNotImportable`.
        """
        name = decision.tool_name
        if self._allowlist is not None and name not in self._allowlist:
            raise Refused(f"the tool {name!r} is not on the allow-list")
        tool = None if self._registry is None else self._registry.get(name)
        if tool is None:
            known = [] if self._registry is None else self._registry.list_names()
            raise Refused(f"there is no tool {name!r}; there is {', '.join(known) or 'none'}")
        timeout = getattr(tool, "timeout_sec", None) or self._timeout
        call = self._call(decision, timeout)
        where, reference = self._place(name, tool, timeout)
        if where == "process":
            assert reference is not None  # it is what makes it a process
            return await self._in_process(reference, call, decision.params, timeout)
        run = _in_thread if where == "thread" else _inline
        return self._sized(await within(timeout, f"the tool {name!r}", run, tool, call, decision.params))

    async def close(self) -> None:
        """Kill the processes that no other agent uses."""
        opened, self._opened = self._opened, self._pool
        if opened is not None and opened is not self._pool:
            await opened.release()

    async def _in_process(
        self, reference: ToolReference, call: ToolCall, params: object, timeout: float | None
    ) -> object:
        if self._opened is None:
            from converge.runtime.tools.pool import ToolPool  # what runs no tool in a process needs none of it

            self._opened = ToolPool.shared(self._limits)
        try:
            return await self._opened.call(
                reference, call, params, timeout=timeout, max_result_bytes=self._max_result_bytes
            )
        except TimeoutError:
            raise TimeoutError(f"the tool {call.tool!r} gave no answer within {timeout} s") from None

    def _place(
        self, name: str, tool: Tool, timeout: float | None
    ) -> tuple[Literal["inline", "thread", "process"], ToolReference | None]:
        """Where the tool runs, and how a process finds it."""
        wanted = getattr(tool, "isolation", "auto") if self._isolation == "auto" else self._isolation
        if wanted == "inline":
            return "inline", None
        if wanted == "thread":
            return "thread", None
        if wanted == "process":
            if not can_isolate():
                raise ToolNotImportable(f"the tool {name!r} needs a process that can be killed, which takes Linux")
            reference = self._reference(name, tool)
            if isinstance(reference, ToolNotImportable):
                raise reference
            return "process", reference
        if inspect.iscoroutinefunction(tool.run):
            return "inline", None
        if timeout is None or not can_isolate():
            return "thread", None
        reference = self._reference(name, tool)
        return ("thread", None) if isinstance(reference, ToolNotImportable) else ("process", reference)

    def _reference(self, name: str, tool: Tool) -> ToolReference | ToolNotImportable:
        known = self._references.get(name)
        if known is not None and known[0] is tool:
            return known[1]
        try:
            reference: ToolReference | ToolNotImportable = ToolReference.of(tool)
        except ToolNotImportable as error:
            reference = error
        self._references[name] = tool, reference
        return reference

    def _call(self, decision: InvokeTool, timeout: float | None) -> ToolCall:
        claim, trace = self._claim(decision.task_id), get_current_traceparent()
        if claim is None:
            key = str(uuid4())
            return ToolCall(decision.tool_name, self._agent_id, key, timeout_sec=timeout, traceparent=trace)
        of_claim = claim.task_id, claim.attempt
        if of_claim not in self._numbers and len(self._numbers) >= _MAX_COUNTED:
            del self._numbers[next(iter(self._numbers))]  # of the oldest claim, which is over
        self._numbers[of_claim] += 1
        key = f"{claim.task_id}:{claim.attempt}:{self._numbers[of_claim]}"
        return ToolCall(decision.tool_name, self._agent_id, key, claim.task_id, claim.attempt, timeout, trace)

    def _claim(self, task_id: str | None) -> Claim | None:
        held = self._claims()
        if task_id is None:
            return next(iter(held)) if len(held) == 1 else None
        claim = next((one for one in held if one.task_id == task_id), None)
        if claim is None:
            raise Refused(f"this agent does not hold the task {task_id!r} that the call is for")
        return claim

    def _sized(self, value: object) -> object:
        """`value`, unless it is plain data of more bytes than are taken; another object is what it is."""
        try:
            size = len(pack(value))
        except TypeError:
            return value
        if size > self._max_result_bytes:
            raise ToolFailed(
                f"ValueError: the result takes {size} bytes, and at most {self._max_result_bytes} are taken; "
                "store it, and return its key"
            )
        return value


async def _inline(tool: Tool, call: ToolCall, params: dict[str, Any]) -> object:
    with calling(call):
        value = tool.run(params)
        return await value if inspect.isawaitable(value) else value


async def _in_thread(tool: Tool, call: ToolCall, params: dict[str, Any]) -> object:
    with calling(call):
        value = await in_own_thread(f"converge-tool-{call.tool}", tool.run, params)
        return await value if inspect.isawaitable(value) else value
