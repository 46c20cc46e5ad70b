"""How another process finds a tool: by an import name, never by its pickled state."""

from __future__ import annotations

import importlib
import runpy
import sys
from typing import TYPE_CHECKING, Any, Literal

from attrs import frozen

from converge.core.errors import ToolNotImportable

if TYPE_CHECKING:
    from types import ModuleType

    from converge.core.tools import Tool

__all__ = ["MAIN_NAME", "ToolReference"]

MAIN_NAME = "__mp_main__"
"""What `__main__` is called in another process, as with multiprocessing: its `if __name__` block does not run."""


@frozen
class ToolReference:
    """Where a tool is. `origin` says how `module` is found: by its name, or as the program, by name or by path.

    `is_class`: `path` leads to its class, which is called with no arguments; else to the tool itself.
    """

    origin: Literal["module", "main_module", "main_path"]
    module: str
    path: str
    is_class: bool

    @classmethod
    def of(cls, tool: Tool) -> ToolReference:
        """The reference of `tool`; `ToolNotImportable` when another process could not get at an equal one.

        It is found if it is a global of a module (a function with `@tool`, an object), or an object without any state
        of a class that is one and needs no arguments.
        """
        found = _function(tool) or _global(tool) or _stateless(tool)
        if found is None:
            raise ToolNotImportable(
                f"the tool {tool.name!r} cannot be found by another process: make it a global of a module, or of a "
                "class that is one, takes no arguments and keeps no state; or give it isolation='thread'"
            )
        module, path, is_class = found
        origin, name = _origin(module)
        return cls(origin, name, path, is_class)

    def resolve(self) -> Tool:
        """The tool, in this process; whatever importing its module raises, or a `ToolNotImportable`."""
        value: Any = self._imported()
        for part in self.path.split("."):
            value = getattr(value, part, None)
        tool = value() if self.is_class and value is not None else value
        if tool is None or not callable(getattr(tool, "run", None)):
            raise ToolNotImportable(f"{self.module}:{self.path} is no tool in the process that was to run it")
        return tool  # type: ignore[no-any-return]  # it has a run

    def _imported(self) -> object:
        if self.origin == "module":
            return importlib.import_module(self.module)
        if MAIN_NAME not in sys.modules:
            _load_main(self.origin == "main_module", self.module)
        return sys.modules[MAIN_NAME]


def _function(tool: Any) -> tuple[str, str, bool] | None:  # noqa: ANN401  # a Tool, looked at for what it may have
    """A tool made of a function, which is named where the function was."""
    module, path = getattr(tool, "__module__", None), getattr(tool, "__qualname__", None)
    if isinstance(module, str) and isinstance(path, str) and _at(module, path) is tool:
        return module, path, False
    return None


def _global(tool: object) -> tuple[str, str, bool] | None:
    """An object that its class's module has under a name."""
    module = type(tool).__module__
    names = vars(sys.modules.get(module, object())) if module in sys.modules else {}
    for name, value in names.items():
        if value is tool:
            return module, name, False
    return None


def _stateless(tool: object) -> tuple[str, str, bool] | None:
    kind = type(tool)
    state = getattr(tool, "__dict__", {}) or [
        name for base in kind.__mro__ for name in getattr(base, "__slots__", ()) if hasattr(tool, name)
    ]
    if state or _at(kind.__module__, kind.__qualname__) is not kind:
        return None
    return kind.__module__, kind.__qualname__, True


def _at(module: str, path: str) -> object:
    value: object = sys.modules.get(module)
    for part in path.split("."):
        value = getattr(value, part, None)
    return value


def _origin(module: str) -> tuple[Literal["module", "main_module", "main_path"], str]:
    if module not in ("__main__", MAIN_NAME):
        return "module", module
    main = sys.modules[module]
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name:
        return "main_module", spec.name
    path = getattr(main, "__file__", None)
    if path is None:
        raise ToolNotImportable(
            "a tool of an interactive session cannot be found by another process; put it into a file, or give it "
            "isolation='thread'"
        )
    return "main_path", path


def _load_main(by_name: bool, target: str) -> None:
    main = _module(MAIN_NAME)
    if by_name:
        content = runpy.run_module(target, run_name=MAIN_NAME, alter_sys=True)
    else:
        content = runpy.run_path(target, run_name=MAIN_NAME)
    main.__dict__.update(content)
    sys.modules["__main__"] = sys.modules[MAIN_NAME] = main


def _module(name: str) -> ModuleType:
    from types import ModuleType

    return ModuleType(name)
