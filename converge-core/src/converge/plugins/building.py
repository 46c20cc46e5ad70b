"""How a driver becomes an object, and an object options again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import cast

import attrs
from attrs import frozen

from converge.plugins.errors import PluginBroken, PluginOptionsError
from converge.plugins.fields import PLUGIN_KIND
from converge.plugins.problems import Refused, Unusable
from converge.plugins.secret import Secret

__all__ = ["Call", "check_options", "options_of", "prepare", "read_table", "takes"]

_Parameters = Mapping[str, inspect.Parameter]


@frozen
class Call:
    """What is left to do once everything is checked."""

    make: Callable[..., object]
    positional: tuple[object, ...] = ()
    named: Mapping[str, object] = {}

    def __call__(self) -> object:
        """The object."""
        return self.make(*self.positional, **self.named)


def read_table(kind: str, table: object) -> tuple[str, dict[str, object]]:
    """The name and the options of a table such as `{"use": "sqlite", "path": "x.db"}`, or of a name alone."""
    if isinstance(table, str):
        return table, {}
    if not isinstance(table, Mapping):
        text = f"expected the name of a plugin or a table with `use`, got {type(table).__name__}"
        raise PluginOptionsError(kind, "", problems=[("", text)])
    options = dict(table)
    name = options.pop("use", None)
    if not isinstance(name, str) or not name:
        text = f'{"is missing" if name is None else "is not a name"}; name the {kind} plugin, for example use = "NAME"'
        raise PluginOptionsError(kind, "", problems=[("use", text)])
    return name, options


def prepare(
    kind: str,
    name: str,
    driver: object,
    table: Mapping[str, object],
    context: Mapping[str, object],
    build_nested: Callable[[str, object], object],
) -> Call:
    """The call that makes the object of `driver`; nothing of it has run yet, nested plugins excepted."""
    options_class = _options_class(kind, name, driver)
    if options_class is None:
        _check_none(kind, name, table)
    if _is_ready(kind, driver):
        return Call(lambda: driver)
    options = None if options_class is None else _structure(kind, name, options_class, table, build_nested)
    from_options = getattr(driver, "from_options", None)
    if callable(from_options) and options is not None:
        parameters = _parameters(from_options)
        named = _accepted(parameters, context)
        _check_required(kind, name, parameters, named, positional=1)
        return Call(from_options, (options,), named)
    make = cast("Callable[..., object]", driver)
    parameters = _parameters(make)
    given = {} if options is None else _arguments(options)
    _check_taken(kind, name, parameters, given)
    offered = {key: value for key, value in _accepted(parameters, context).items() if key not in table}
    _check_required(kind, name, parameters, given | offered)
    return Call(make, (), given | offered)


def options_of(obj: object, describe: Callable[[object, str], dict[str, object] | None]) -> dict[str, object] | None:
    """The options from which `obj` can be built again, by its `to_options()`; None when it cannot say."""
    options_class = getattr(obj, "converge_options", None)
    to_options = getattr(obj, "to_options", None)
    if not callable(to_options):
        return {} if options_class is None else None
    options = dict(to_options())
    kinds = _plugin_kinds(options_class)
    for key, value in options.items():
        if isinstance(value, Secret):
            options[key] = {"env": value.env} if value.env else None
        elif key in kinds and value is not None and not isinstance(value, str | Mapping):
            options[key] = _described(value, kinds[key], describe)
        if options[key] is None and value is not None:
            return None
    return options


def _described(value: object, kind: str, describe: Callable[[object, str], dict[str, object] | None]) -> object:
    """The table of one plugin, or those of a list of them; None when one of them has none."""
    if not isinstance(value, list | tuple):
        return describe(value, kind)
    tables = [one if isinstance(one, str | Mapping) else describe(one, kind) for one in value]
    return None if None in tables else tables


def check_options(kind: str, name: str, driver: object, table: Mapping[str, object]) -> None:
    """Raise what `prepare` would raise for the options in `table`; those of a plugin inside them are not looked at."""
    options_class = _options_class(kind, name, driver)
    if options_class is None:
        _check_none(kind, name, table)
    elif not _plugin_kinds(options_class):
        _structure(kind, name, options_class, table, _not_built)


def _check_none(kind: str, name: str, table: Mapping[str, object]) -> None:
    if table:
        problems = [(str(key), "is not an option; this plugin takes no options") for key in table]
        raise PluginOptionsError(kind, name, problems=problems)


def _not_built(kind: str, table: object) -> object:
    raise AssertionError(f"no option is a plugin, and yet {table!r} is to be a {kind}")


def takes(driver: object, name: str) -> bool:
    """Whether `build` hands what is called `name` in its context on to `driver`."""
    make = getattr(driver, "from_options", None) if getattr(driver, "converge_options", None) is not None else None
    if make is None:
        make = driver
    parameters = _parameters(make) if callable(make) else None
    return parameters is not None and (_takes_any(parameters) or _takes(parameters, name))


def _plugin_kinds(options_class: object) -> dict[str, str]:
    if not isinstance(options_class, type) or not attrs.has(options_class):
        return {}
    fields = [field for field in attrs.fields(options_class) if PLUGIN_KIND in field.metadata]
    return {field.alias or field.name: field.metadata[PLUGIN_KIND] for field in fields}


def _options_class(kind: str, name: str, driver: object) -> type | None:
    options_class = getattr(driver, "converge_options", None)
    if options_class is None or (isinstance(options_class, type) and attrs.has(options_class)):
        return options_class
    raise PluginBroken(kind, name, reason=f"its converge_options is {options_class!r}, which is no attrs class")


def _is_ready(kind: str, driver: object) -> bool:
    """Whether the driver is the object itself: it cannot be called, or it is a tool (which may be callable, too)."""
    return not callable(driver) or (kind == "tool" and not isinstance(driver, type) and hasattr(driver, "run"))


def _structure(
    kind: str,
    name: str,
    options_class: type,
    table: Mapping[str, object],
    build_nested: Callable[[str, object], object],
) -> object:
    from converge.plugins.structure import structure

    try:
        return structure(options_class, table, build_nested)
    except Refused as error:
        raise PluginOptionsError(kind, name, problems=error.problems) from error
    except Unusable as error:
        raise PluginBroken(kind, name, reason=f"{options_class.__qualname__}: {error}") from error


def _arguments(options: object) -> dict[str, object]:
    fields = attrs.fields(type(cast("attrs.AttrsInstance", options)))
    return {field.alias or field.name: getattr(options, field.name) for field in fields if field.init}


def _parameters(make: Callable[..., object]) -> _Parameters | None:
    try:
        return inspect.signature(make).parameters
    except (TypeError, ValueError):  # some callables written in C do not say
        return None


def _accepted(parameters: _Parameters | None, context: Mapping[str, object]) -> dict[str, object]:
    if parameters is None:
        return {}
    if _takes_any(parameters):
        return dict(context)
    return {key: value for key, value in context.items() if _takes(parameters, key)}


def _takes_any(parameters: _Parameters) -> bool:
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())


def _takes(parameters: _Parameters, key: str) -> bool:
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return key in parameters and parameters[key].kind in by_name


def _check_taken(kind: str, name: str, parameters: _Parameters | None, given: Mapping[str, object]) -> None:
    if parameters is None or _takes_any(parameters):
        return
    surplus = [key for key in given if not _takes(parameters, key)]
    if surplus:
        raise PluginBroken(kind, name, reason=f"its constructor does not take its own options {', '.join(surplus)}")


def _check_required(
    kind: str, name: str, parameters: _Parameters | None, given: Mapping[str, object], positional: int = 0
) -> None:
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    missing = [
        key
        for key, parameter in list((parameters or {}).items())[positional:]
        if parameter.default is inspect.Parameter.empty and parameter.kind not in variadic and key not in given
    ]
    if missing:
        text = "is required by the plugin, and neither its options nor the caller give it"
        raise PluginOptionsError(kind, name, problems=[(key, text) for key in missing])
