"""From the table of a configuration to an attrs options class, without guessing. cattrs is imported when first used."""

from __future__ import annotations

import collections.abc
import datetime
import functools
import math
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from converge.plugins.fields import PLUGIN_KIND
from converge.plugins.problems import (
    UNIONS,
    Problems,
    Refused,
    Unusable,
    expected_one_of,
    segment,
    shown,
    type_name,
    unexpected,
    unknown_option,
    unsupported,
)
from converge.plugins.secret import Secret

if TYPE_CHECKING:
    from cattrs import Converter

__all__ = ["structure"]

_BuildNested = Callable[[str, object], object]
_build_nested: ContextVar[_BuildNested] = ContextVar("converge_build_nested")

_EXACT: dict[type, tuple[type, ...]] = {
    bool: (bool,),
    int: (int,),
    float: (float, int),
    str: (str,),
    bytes: (bytes,),
    Path: (str, Path),
    datetime.datetime: (datetime.datetime,),
    datetime.date: (datetime.date,),
    datetime.time: (datetime.time,),
}
"""What a field of a type takes; nothing else is converted."""

_ARRAYS = (list, collections.abc.Sequence, collections.abc.MutableSequence, collections.abc.Collection, Iterable)
_SETS = (set, frozenset, collections.abc.Set, collections.abc.MutableSet)
_TABLES = (dict, Mapping, collections.abc.MutableMapping)


def structure(options: type, table: Mapping[str, object], build_nested: _BuildNested) -> object:
    """An instance of `options` from `table`; `build_nested` makes the object of a `plugin_field`.

    Raises `Refused` with all problems at once. A `PluginError` of a nested plugin passes with the path of its field
    in `where`. `Unusable` tells the author of an option of a type that is not supported or cannot be resolved.
    """
    from cattrs.errors import StructureHandlerNotFoundError

    token = _build_nested.set(build_nested)
    try:
        return _converter().structure(table, options)
    except StructureHandlerNotFoundError as error:
        raise unsupported(error.type_) from error
    finally:
        _build_nested.reset(token)


@functools.cache
def _converter() -> Converter:
    """A converter in which cattrs finds the hook for a type; the hooks here replace its lenient ones."""
    from cattrs import Converter

    converter = Converter()
    for leaf in _EXACT:
        converter.register_structure_hook(leaf, _leaf)
    converter.register_structure_hook(Enum, _enum)
    converter.register_structure_hook(Secret, _secret)
    converter.register_structure_hook(type(None), _none)
    add = converter.register_structure_hook_func
    add(_is_class, _refuse_type)  # asked last: cattrs would guess where the hooks below do not apply
    add(_is((object, Any)), lambda value, _: value)
    add(_is((typing.Literal,)), _literal)
    add(_is(_ARRAYS), functools.partial(_array, converter))
    add(_is(_SETS), functools.partial(_set, converter))
    add(_is((tuple,)), functools.partial(_tuple, converter))
    add(_is(_TABLES), functools.partial(_table, converter))
    add(_is(UNIONS), functools.partial(_union, converter))
    add(lambda kind: isinstance(kind, type) and attrs.has(kind), functools.partial(_options, converter))
    return converter


def _is(origins: tuple[object, ...]) -> Callable[[object], bool]:
    return lambda kind: any((typing.get_origin(kind) or kind) is origin for origin in origins)


def _is_class(kind: object) -> bool:
    """Whether `kind` is a class, with parameters or without; `Annotated`, `NewType` and aliases are left to cattrs."""
    origin = typing.get_origin(kind) or kind
    return isinstance(origin, type) and not _is((typing.Annotated,))(kind)


def _refuse_type(value: object, kind: object) -> object:
    raise unsupported(kind)


def _leaf(value: object, kind: type) -> object:
    if issubclass(kind, Enum):  # class Level(str, Enum) comes here by its first base
        return _enum(value, kind)
    taken = _EXACT.get(kind)
    if taken is None:
        raise unsupported(kind)
    right = isinstance(value, taken) and (kind is bool or not isinstance(value, bool))
    if not right or (kind is datetime.date and isinstance(value, datetime.datetime)):
        raise unexpected(kind, value)
    if isinstance(value, int) and kind is float:
        return _float(value)
    return Path(value) if isinstance(value, str) and kind is Path else value


def _float(value: int) -> float:
    try:
        made = float(value)
    except OverflowError:
        made = math.inf
    if made != value:
        raise Refused(("", f"{shown(value)} has no exact float; write it as a float to have it rounded"))
    return made


def _enum(value: object, kind: type[Enum]) -> object:
    if isinstance(value, kind):
        return value
    for member in kind:
        if type(member.value) is type(value) and member.value == value:
            return member
    raise Refused(("", f"{expected_one_of([member.value for member in kind])}, got {shown(value)}"))


def _literal(value: object, kind: object) -> object:
    choices = typing.get_args(kind)
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    raise Refused(("", f"{expected_one_of(choices)}, got {shown(value)}"))


def _none(value: object, _: object) -> None:
    if value is not None:
        raise Refused(("", f"expected nothing, got {shown(value)}"))


def _secret(value: object, _: object) -> Secret:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, Mapping) or set(value) != {"env"} or not isinstance(value["env"], str) or not value["env"]:
        # the value is left out of the text: it may be the secret itself
        raise Refused(("", 'a secret is taken from the environment only: write { env = "NAME" } and set that variable'))
    name = value["env"]
    found = os.environ.get(name)
    if not found:
        state = "not set" if found is None else "empty"
        raise Refused(("", f"the environment variable {name} is {state}; set it to the secret"))
    return Secret(found, name)


def _array(converter: Converter, value: object, kind: object) -> list[object]:
    if not isinstance(value, list | tuple):
        raise unexpected(kind, value)
    (element,) = typing.get_args(kind) or (object,)
    return _items(converter, ((f"[{index}]", item, element) for index, item in enumerate(value)))


def _set(converter: Converter, value: object, kind: object) -> object:
    items = list(value) if isinstance(value, set | frozenset) else value
    if not isinstance(items, list | tuple):
        raise unexpected(kind, value)
    (element,) = typing.get_args(kind) or (object,)
    made = _items(converter, ((f"[{index}]", item, element) for index, item in enumerate(items)))
    mutable = (typing.get_origin(kind) or kind) in (set, collections.abc.MutableSet)
    return set(made) if mutable else frozenset(made)


def _tuple(converter: Converter, value: object, kind: object) -> tuple[object, ...]:
    if not isinstance(value, list | tuple):
        raise unexpected(kind, value)
    elements = typing.get_args(kind)
    if not elements or elements[-1] is Ellipsis:
        elements = (elements[0] if elements else object,) * len(value)
    elif len(elements) != len(value):
        raise Refused(("", f"expected {len(elements)} items, got {len(value)}"))
    triples = ((f"[{index}]", item, element) for index, (item, element) in enumerate(zip(value, elements, strict=True)))
    return tuple(_items(converter, triples))


def _table(converter: Converter, value: object, kind: object) -> dict[object, object]:
    if not isinstance(value, Mapping):
        raise unexpected(kind, value)
    key_type, value_type = typing.get_args(kind) or (object, object)
    keys = _items(converter, ((segment(key), key, key_type) for key in value))
    values = _items(converter, ((segment(key), item, value_type) for key, item in value.items()))
    return dict(zip(keys, values, strict=True))


def _items(converter: Converter, triples: Iterable[tuple[str, object, object]]) -> list[object]:
    """Each value as its type; all refusals together, each under its path."""
    made: list[object] = []
    problems = Problems()
    for path, value, kind in triples:
        with problems.under(path):
            made.append(converter.structure(value, kind))  # type: ignore[arg-type]  # cattrs takes any annotation, not classes only
    problems.raise_any()
    return made


def _union(converter: Converter, value: object, kind: object) -> object:
    arms = typing.get_args(kind)
    if value is None and type(None) in arms:
        return None
    arms = tuple(arm for arm in arms if arm is not type(None))
    if len(arms) == 1:
        return converter.structure(value, arms[0])
    for arm in arms:
        try:
            return converter.structure(value, arm)
        except Refused:
            continue
    raise unexpected(kind, value)


def _options(converter: Converter, value: object, kind: type[attrs.AttrsInstance]) -> object:
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise Refused(("", f"expected a table of options, got {shown(value)}"))
    fields = {field.alias or field.name: field for field in _resolved(kind) if field.init}
    problems, arguments = Problems(), {}
    for key in value:
        if key not in fields:
            problems.add(segment(key), unknown_option(key, list(fields)))
    for key, field in fields.items():
        given = value[key] if key in value else _default_plugin(field)
        if given is not attrs.NOTHING:
            with problems.under(key):
                arguments[key] = _field_value(converter, given, field)
        elif field.default is attrs.NOTHING:
            problems.add(key, f"is missing; it is required and takes {type_name(field.type)}")
    problems.raise_any()
    try:
        return kind(**arguments)
    except Exception as error:  # whatever a validator or converter raises, it refuses the value
        raise Refused((_refused_field(fields, arguments, error), _validator_text(error))) from error


def _resolved(kind: type[attrs.AttrsInstance]) -> tuple[attrs.Attribute[object], ...]:
    try:
        fields: tuple[attrs.Attribute[object], ...] = attrs.fields(attrs.resolve_types(kind))
    except NameError as error:
        raise Unusable(f"an annotation cannot be resolved ({error}); import it at run time") from error
    return fields


def _default_plugin(field: attrs.Attribute[object]) -> object:
    """The default of a plugin field when it has to be built, else NOTHING: attrs fills in the others."""
    named = PLUGIN_KIND in field.metadata and isinstance(field.default, str | Mapping)
    return field.default if named else attrs.NOTHING


def _field_value(converter: Converter, value: object, field: attrs.Attribute[object]) -> object:
    if PLUGIN_KIND not in field.metadata:
        kind: Any = object if field.type is None else field.type
        return converter.structure(value, kind)
    build = _build_nested.get()
    if isinstance(value, list | tuple) and any(isinstance(item, str | Mapping) for item in value):
        return _plugins(build, field.metadata[PLUGIN_KIND], value)
    return value if not isinstance(value, str | Mapping) else build(field.metadata[PLUGIN_KIND], value)


def _plugins(build: Callable[[str, object], object], kind: str, values: Iterable[object]) -> list[object]:
    """Each of `values` built, those that were built in code as they are; all refusals together."""
    made: list[object] = []
    problems = Problems()
    for index, value in enumerate(values):
        with problems.under(f"[{index}]"):
            made.append(build(kind, value) if isinstance(value, str | Mapping) else value)
    problems.raise_any()
    return made


def _refused_field(
    fields: Mapping[str, attrs.Attribute[object]], arguments: Mapping[str, object], error: Exception
) -> str:
    """The key whose validator raised `error`: attrs' own name the attribute, others are asked once more."""
    named = next((item.alias or item.name for item in error.args if isinstance(item, attrs.Attribute)), None)
    if named is not None:
        return named
    instance = types.SimpleNamespace(**{fields[key].name: value for key, value in arguments.items()})
    for key, value in arguments.items():
        validator = fields[key].validator
        try:
            if validator:
                validator(instance, fields[key], value)
        except Exception as again:  # noqa: BLE001  # only compared with the error that is reported
            if type(again) is type(error) and str(again) == str(error):
                return key
    return ""


def _validator_text(error: Exception) -> str:
    attrs_style = len(error.args) > 1 and isinstance(error.args[1], attrs.Attribute)
    return str(error.args[0] if attrs_style else error) or type(error).__name__
