"""The parameters of a typed function: what may be given to it, as JSON schema and as a check.

msgspec and docstring_parser do the work. They are imported when a tool is first looked at, not when it is declared.
"""

from __future__ import annotations

import contextlib
import inspect
import typing
from typing import TYPE_CHECKING, Any, NamedTuple

from converge.core.errors import ToolParameterError

if TYPE_CHECKING:
    from collections.abc import Callable

    from msgspec import Struct

__all__ = ["Documentation", "ToolSchema", "check_signature", "documentation_of", "schema_of"]


class Documentation(NamedTuple):
    """What a docstring says: the whole description, and one for each parameter that has one."""

    description: str
    parameters: dict[str, str]


class ToolSchema(NamedTuple):
    """How parameters are checked, and the JSON schema (draft 2020-12) that says so."""

    tool: str
    model: type[Struct]
    parameters: dict[str, Any]

    def arguments(self, params: object) -> dict[str, Any]:
        """The keyword arguments in `params`, each of its hinted type; `ToolParameterError` with the place if not."""
        import msgspec

        try:
            values = msgspec.convert(params, self.model)
        except msgspec.ValidationError as error:
            raise ToolParameterError(f"tool {self.tool!r}: {error}; see its parameters for the schema") from None
        given = {name: getattr(values, name) for name in self.model.__struct_fields__}
        return {name: value for name, value in given.items() if value is not msgspec.UNSET}


def check_signature(function: Callable[..., object]) -> None:
    """Raise `TypeError` unless every parameter of `function` has a name of its own, a type hint and can go by name."""
    for parameter in inspect.signature(function).parameters.values():
        where = f"{function.__qualname__}: the parameter {parameter.name!r}"
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{where} takes any number of values, which no schema can describe; name each parameter")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise TypeError(f"{where} is positional-only, but parameters come by name; remove the slash")
        if parameter.annotation is parameter.empty:
            raise TypeError(f"{where} has no type hint; write one, such as {parameter.name}: str")


def schema_of(function: Callable[..., object], tool: str) -> ToolSchema:
    """The schema of a function that passed `check_signature`; `TypeError` for a hint that has no JSON form."""
    import msgspec

    signature = inspect.signature(function)
    hints = _resolved_hints(function)
    fields = [
        (name, hints[name]) if parameter.default is parameter.empty else _optional_field(name, hints[name])
        for name, parameter in signature.parameters.items()
    ]
    try:
        model = msgspec.defstruct("Parameters", fields, kw_only=True, forbid_unknown_fields=True)
        (reference,), components = msgspec.json.schema_components([model], ref_template="#/$defs/{name}")
    except TypeError as error:
        reason = str(error).strip().splitlines()[-1]  # above it stands advice for users of msgspec
        raise TypeError(f"{function.__qualname__}: a type hint has no JSON form: {reason}") from None
    schema = components.pop(reference["$ref"].rpartition("/")[2])
    schema.pop("title", None)
    described = documentation_of(function).parameters
    for name, entry in schema["properties"].items():
        _annotate(entry, signature.parameters[name], described.get(name))
    return ToolSchema(tool, model, schema | ({"$defs": components} if components else {}))


def documentation_of(function: Callable[..., object]) -> Documentation:
    """The docstring of `function`, in Google, NumPy, reST or Epydoc style; empty when there is none."""
    import docstring_parser

    text = inspect.getdoc(function) or ""
    try:
        parsed = docstring_parser.parse(text)
    except docstring_parser.ParseError:
        return Documentation(text, {})
    described = {entry.arg_name: entry.description for entry in parsed.params if entry.description}
    return Documentation(parsed.description or "", described)


def _resolved_hints(function: Callable[..., object]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise TypeError(
            f"{function.__qualname__}: a type hint cannot be resolved ({error}); define or import it at module level"
        ) from None


def _optional_field(name: str, hint: Any) -> tuple[str, Any, Any]:  # noqa: ANN401  # a hint is no class
    import msgspec

    return name, typing.Union[hint, msgspec.UnsetType], msgspec.UNSET  # noqa: UP007  # a hint may not support |


def _annotate(entry: dict[str, Any], parameter: inspect.Parameter, description: str | None) -> None:
    import msgspec

    if description is not None:
        entry.setdefault("description", description)
    if parameter.default is not parameter.empty:
        with contextlib.suppress(TypeError):  # a default without a JSON form works, it is only not shown
            entry["default"] = msgspec.to_builtins(parameter.default)
