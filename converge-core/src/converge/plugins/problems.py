"""What is wrong with the values of options, each with its place, and how the texts name values and types."""

from __future__ import annotations

import re
import types
import typing
from typing import TYPE_CHECKING, Any

from converge.plugins.errors import PluginError, PluginOptionsError, join_path
from converge.plugins.kinds import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "UNIONS",
    "Problems",
    "Refused",
    "Unusable",
    "expected_one_of",
    "segment",
    "shown",
    "type_name",
    "unexpected",
    "unknown_option",
    "unsupported",
]

UNIONS = (typing.Union, types.UnionType)
"""The origins of `Union[A, B]` and of `A | B`."""


class Refused(Exception):
    """Values that the options do not take: `problems` are pairs of a path and a text. It never leaves this package."""

    def __init__(self, *problems: tuple[str, str]) -> None:
        super().__init__(*problems)
        self.problems = problems


class Unusable(Exception):
    """The options class itself cannot work, whatever the values. It never leaves this package."""


class Problems:
    """Collects refusals, each under its path, so that one run shows all of them."""

    def __init__(self) -> None:
        self._found: list[tuple[str, str]] = []

    def add(self, path: str, text: str) -> None:
        """Note one more."""
        self._found.append((path, text))

    def under(self, path: str) -> _Under:
        """A context in which whatever is refused is noted below `path`."""
        return _Under(self, path)

    def raise_any(self) -> None:
        """Raise `Refused` with all that was noted, if anything was."""
        if self._found:
            raise Refused(*self._found)


class _Under:
    """Keeps a refusal for later; any other error of a nested plugin goes on, with the path noted."""

    def __init__(self, problems: Problems, path: str) -> None:
        self._problems, self._path = problems, path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if isinstance(error, Refused | PluginOptionsError):
            head = join_path(self._path, error.where) if isinstance(error, PluginOptionsError) else self._path
            for path, text in error.problems:
                self._problems.add(join_path(head, path), text)
            return True
        if isinstance(error, PluginError):
            error.where = join_path(self._path, error.where)
        return False


def unsupported(kind: object) -> Unusable:
    """The error for an option of a type that cannot be written in a table."""
    return Unusable(f"an option cannot be of type {type_name(kind)}")


def unknown_option(key: object, valid: list[str]) -> str:
    """The text for a key that no option has, with the valid ones."""
    if not valid:
        return "is not an option; this takes no options"
    hint = did_you_mean(key, valid) if isinstance(key, str) else ""
    return f"is not an option; valid options are {', '.join(valid)}.{hint}"


def unexpected(kind: object, value: object) -> Refused:
    """The error for a value of another type than the option's."""
    return Refused(("", f"expected {type_name(kind)}, got {shown(value)}"))


def expected_one_of(choices: Iterable[object]) -> str:
    """The text for a choice that was not met."""
    return f"expected one of {', '.join(map(repr, choices))}"


def shown(value: object) -> str:
    """A value as the texts show it: with its type, and cut when it is long."""
    if value is None:
        return "None"
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python writes out
        return f"a huge {type(value).__name__}"
    return f"the {type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def type_name(kind: object) -> str:
    """A type as the texts show it."""
    if typing.get_origin(kind) in UNIONS:
        return " or ".join(type_name(arm) for arm in typing.get_args(kind))
    if kind is None or kind is object or kind is Any:
        return "any value"
    if isinstance(kind, type) and not typing.get_args(kind):
        return {"NoneType": "None", "Path": "a path (str)"}.get(kind.__name__, kind.__name__)
    return str(kind).replace("typing.", "").replace("collections.abc.", "")


def segment(key: object) -> str:
    """A key of a table as part of a path; quoted when it would be misread there."""
    return key if isinstance(key, str) and re.fullmatch(r"[\w-]+", key) else repr(key)
