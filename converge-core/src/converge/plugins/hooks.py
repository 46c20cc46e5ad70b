"""Who answers for a name: objects registered in code first, the entry points last. Needs pluggy; import it lazily."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Callable, Generator

import pluggy

from converge.plugins.kinds import KINDS, Kind, did_you_mean
from converge.plugins.specs import PROJECT, DriverSpecs, hook_name, hookimpl

__all__ = ["Hooks", "answering"]

_logger = logging.getLogger(__name__)
_Failed = Callable[[str, BaseException | None], None]


class _Answers:
    """A plugin object for pluggy; its hook implementations are set as attributes."""


def answering(kind: Kind, wanted: str, driver: object) -> object:
    """A plugin object that answers `driver` for one kind and name."""

    def answer(name: str) -> object | None:
        return driver if name == wanted else None

    plugin = _Answers()
    setattr(plugin, hook_name(kind), hookimpl(answer))
    return plugin


class Hooks:
    """The registered objects, each behind a guard: one that raises is logged, counted and passed over.

    `failures` counts, by name of the registered object.
    """

    def __init__(self, last: Callable[[Kind, str], object | None]) -> None:
        self.failures: Counter[str] = Counter()
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(DriverSpecs)
        self._guards: dict[int, tuple[object, object]] = {}
        self._last = _Answers()
        for kind in KINDS:
            setattr(self._last, hook_name(kind), hookimpl(_asking(last, kind), trylast=True))
        self._manager.register(self._last, "converge-entry-points")

    def find(self, kind: Kind, name: str) -> object | None:
        """The first answer, the entry points' included, or None."""
        found: object | None = getattr(self._manager.hook, hook_name(kind))(name=name)
        return found

    def find_registered(self, kind: Kind, name: str) -> object | None:
        """The first answer of a registered object, or None."""
        found: object | None = self._manager.subset_hook_caller(hook_name(kind), [self._last])(name=name)
        return found

    def register(self, plugin: object, name: str | None) -> str:
        """Let `plugin` answer before everybody registered so far; its name."""
        if id(plugin) in self._guards:
            raise ValueError(f"{plugin!r} is registered already; unregister it first")
        label = name or self._manager.get_canonical_name(plugin)
        if self._manager.has_plugin(label):
            raise ValueError(f"a plugin object is registered as {label!r} already; unregister it or use another name")
        guard = self._guard(plugin, label)
        try:
            self._manager.register(guard, label)
        except pluggy.PluginValidationError as error:
            raise TypeError(f"{plugin!r} does not fit the hooks: {error}") from None
        self._guards[id(plugin)] = plugin, guard
        return label

    def unregister(self, plugin: object) -> None:
        """Take `plugin` out again; `ValueError` when it is not registered."""
        if id(plugin) not in self._guards:
            raise ValueError(f"{plugin!r} is not registered")
        self._manager.unregister(self._guards.pop(id(plugin))[1])

    def _guard(self, plugin: object, label: str) -> _Answers:
        guard, known = _Answers(), [hook_name(kind) for kind in KINDS]
        for attribute in dir(plugin):
            options = self._manager.parse_hookimpl_opts(plugin, attribute)
            if options is None:
                continue
            hook = options.get("specname") or attribute
            if hook not in known:
                raise TypeError(f"{plugin!r}: {hook!r} is no hook.{did_you_mean(hook, known)}")
            if options.get("hookwrapper"):
                raise TypeError(f"{plugin!r}: {hook!r} is an old-style wrapper; mark it with hookimpl(wrapper=True)")
            guarded = _guarded_wrapper if options.get("wrapper") else _guarded
            failed = functools.partial(self._failed, label)
            setattr(guard, attribute, guarded(getattr(plugin, attribute), failed))
        if not vars(guard):
            raise TypeError(f"{plugin!r} implements no hook; mark methods such as {known[0]}(name) with hookimpl")
        return guard

    def _failed(self, label: str, hook: str, error: BaseException | None) -> None:
        self.failures[label] += 1
        _logger.warning("%s of the registered plugin object %r failed and is passed over", hook, label, exc_info=error)


def _asking(last: Callable[[Kind, str], object | None], kind: Kind) -> Callable[[str], object | None]:
    def ask(name: str) -> object | None:
        return last(kind, name)

    return ask


def _guarded(method: Callable[..., object], failed: _Failed) -> Callable[..., object]:
    @functools.wraps(method)
    def guarded(*args: object) -> object:
        try:
            return method(*args)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  # a registered object that raises must not block the others
            failed(method.__name__, error)
            return None

    return guarded


def _guarded_wrapper(
    method: Callable[..., Generator[None, object, object]], failed: _Failed
) -> Callable[..., Generator[None, object, object]]:
    """A wrapper that fails is as if it were not there: the answer, or the error, that it wraps goes on."""

    @functools.wraps(method)
    def guarded(*args: object) -> Generator[None, object, object]:
        wrapper = method(*args)
        try:
            next(wrapper)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  # as above, StopIteration (no yield) included
            failed(method.__name__, error)
            return (yield)
        try:
            answer = yield
        except BaseException as error:  # noqa: BLE001  # raised again by _finish unless the wrapper answers instead
            return _finish(functools.partial(wrapper.throw, error), None, error, failed, method.__name__)
        return _finish(functools.partial(wrapper.send, answer), answer, None, failed, method.__name__)

    return guarded


def _finish(
    resume: Callable[[], None], answer: object, error: BaseException | None, failed: _Failed, name: str
) -> object:
    try:
        resume()
        failed(name, None)  # it yielded twice
    except StopIteration as done:
        return done.value
    except KeyboardInterrupt:
        raise
    except BaseException as raised:  # noqa: BLE001  # as above
        if raised is not error:
            failed(name, raised)
    if error is not None:
        raise error
    return answer
