"""Tools: what an agent can have done by name, and the registry that knows them."""

from __future__ import annotations

import functools
import inspect
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypedDict,
    TypeVar,
    overload,
    runtime_checkable,
)

from converge.core.tool_schema import Documentation, ToolSchema, check_signature, documentation_of, schema_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ISOLATIONS", "FunctionTool", "Isolation", "Tool", "ToolRegistry", "tool"]

Isolation: TypeAlias = Literal["auto", "inline", "thread", "process"]
"""Where a tool runs: on the event loop, in a thread of its own, in a process that can be killed, or as fits it best."""

ISOLATIONS: Final[tuple[Isolation, ...]] = ("auto", "inline", "thread", "process")

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


@runtime_checkable
class Tool(Protocol):
    """Something an agent can have done by name.

    `name` must not change. `run` is called with the parameters of an `InvokeTool` decision; treat them as untrusted.
    It may be a coroutine function, which runs on the event loop; a plain one runs in a thread or, so that it can be
    killed, in a process. An attribute `isolation` (`"auto"`, `"inline"`, `"thread"` or `"process"`) says so for one
    tool, and `timeout_sec` how long it may take. What it returns goes to the agent, what it raises too, as the text of
    the error. `converge.core.tool_call.current_call` tells it about its call.
    """

    @property
    def name(self) -> str:
        """What decisions call it."""
        ...

    def run(self, params: dict[str, Any]) -> Any:  # noqa: ANN401  # the result is the tool's own
        """Do it, and return the result, or an awaitable of it."""
        ...


class ToolRegistry:
    """Tools by name. A name belongs to one tool from its registration on, whatever the tool's `name` says later."""

    def __init__(self) -> None:
        self._tools: dict[str, Tool] = {}

    def register(self, tool: Tool) -> None:
        """Make `tool` known under its name; registering the same object again changes nothing.

        Raises `TypeError` when it is no Tool, `ValueError` when its name is empty or another tool's.
        """
        name = _name_of(tool)
        if self._tools.setdefault(name, tool) is not tool:
            raise ValueError(
                f"there is another tool named {name!r}; unregister it first, or give this one another name"
            )

    def unregister(self, name: str) -> None:
        """Forget the tool of that name; an unknown name is no error."""
        self._tools.pop(name, None)

    def get(self, name: str) -> Tool | None:
        """The tool of that name, or None."""
        return self._tools.get(name)

    def list_names(self) -> list[str]:
        """The names of all tools, sorted."""
        return sorted(self._tools)

    def __contains__(self, name: object) -> bool:
        return name in self._tools

    def __len__(self) -> int:
        return len(self._tools)


def _name_of(candidate: object) -> str:
    if not isinstance(candidate, Tool) or isinstance(candidate, type):
        hint = "decorate the function with @tool" if inspect.isroutine(candidate) else "it needs a name and run(params)"
        raise TypeError(f"{candidate!r:.80} is not a Tool: {hint}")
    name: object = candidate.name
    if not isinstance(name, str):
        raise TypeError(f"the name of a tool must be a str, not {type(name).__name__}")
    if not name:
        raise ValueError(f"{candidate!r:.80} has an empty name; a tool is called by its name")
    return name


class FunctionTool(Generic[P, R_co]):
    """A function as a Tool, made by `tool`; calling it calls the function.

    `name`, `description` and `parameters` (the JSON schema) are what a language model is told. It is pickled by its
    import name, as functions are.
    """

    def __init__(
        self,
        function: Callable[P, R_co],
        name: str,
        description: str | None,
        isolation: Isolation = "auto",
        timeout_sec: float | None = None,
    ) -> None:
        functools.update_wrapper(self, function)
        self.name = name
        self.isolation, self.timeout_sec = isolation, timeout_sec
        self._function = function
        self._description = description

    @property
    def description(self) -> str:
        """What it does: as given to `tool`, else the docstring without its sections."""
        return self._documentation.description if self._description is None else self._description

    @property
    def parameters(self) -> dict[str, Any]:
        """The JSON schema of the parameters: an object, with nothing allowed beyond its properties.

        Raises `TypeError` when a type hint has no JSON form.
        """
        return self._schema.parameters

    def run(self, params: dict[str, Any]) -> Any:  # noqa: ANN401  # as the protocol has it
        """The result of the function for `params`; `ToolParameterError` before the call when they do not fit."""
        return self._function(**self._schema.arguments(params))  # type: ignore[call-arg]  # the schema is the function's

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """What the function returns for these arguments, which are not checked."""
        return self._function(*args, **kwargs)

    @functools.cached_property
    def _schema(self) -> ToolSchema:
        return schema_of(self._function, self.name)

    @functools.cached_property
    def _documentation(self) -> Documentation:
        return documentation_of(self._function)

    def __repr__(self) -> str:
        return f"<tool {self.name!r}: {self._function.__module__}.{self._function.__qualname__}>"

    def __reduce__(self) -> str:
        return self._function.__qualname__


class _AsyncFunctionTool(FunctionTool[P, R_co]):
    """A coroutine function as a Tool: whoever has to know sees it in `run`."""

    async def run(self, params: dict[str, Any]) -> Any:  # noqa: ANN401  # as the protocol has it
        """The awaited result of the function; `ToolParameterError` before the call when `params` do not fit."""
        return await super().run(params)


@overload
def tool(function: Callable[P, R_co], /) -> FunctionTool[P, R_co]: ...


@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    isolation: Isolation = "auto",
    timeout_sec: float | None = None,
) -> Callable[[Callable[P, R_co]], FunctionTool[P, R_co]]: ...


def tool(
    function: Callable[P, R_co] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    isolation: Isolation = "auto",
    timeout_sec: float | None = None,
) -> FunctionTool[P, R_co] | Callable[[Callable[P, R_co]], FunctionTool[P, R_co]]:
    """A Tool from a typed function, sync or async; a decorator, with or without arguments.

    The name is the function's and the description its docstring's unless given. Each parameter needs a type hint,
    from which the JSON schema and the check of the parameters are made. `isolation` says where it runs
    (docs/tools.md); `timeout_sec` goes in the place of the executor's. Raises `TypeError` when a parameter has no hint
    or the function takes `*args`, `**kwargs` or positional-only parameters, `ValueError` for an isolation that does
    not exist.
    """
    if isolation not in ISOLATIONS:
        raise ValueError(f"isolation is one of {', '.join(ISOLATIONS)}, not {isolation!r}")
    if timeout_sec is not None and not 0 < timeout_sec < float("inf"):
        raise ValueError(f"timeout_sec is a number of seconds above 0, or None, not {timeout_sec!r}")
    options: _Options = {
        "name": name,
        "description": description,
        "isolation": isolation,
        "timeout_sec": timeout_sec,
    }
    if function is None:
        return functools.partial(_function_tool, **options)
    return _function_tool(function, **options)


class _Options(TypedDict):
    name: str | None
    description: str | None
    isolation: Isolation
    timeout_sec: float | None


def _function_tool(
    function: Callable[P, R_co],
    *,
    name: str | None,
    description: str | None,
    isolation: Isolation,
    timeout_sec: float | None,
) -> FunctionTool[P, R_co]:
    if not inspect.isroutine(function):
        raise TypeError(
            f"@tool takes a function, not {function!r:.80}; a class with name and run(params) is a Tool as it is"
        )
    check_signature(function)
    kind = _AsyncFunctionTool if inspect.iscoroutinefunction(function) else FunctionTool
    return kind(function, name or function.__name__, description, isolation, timeout_sec)
