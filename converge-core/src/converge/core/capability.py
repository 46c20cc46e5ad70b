"""What an agent can do: capabilities, and sets of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import evolve, field, frozen, validators

from converge.core.plain import Plain, pack, unpack
from converge.core.plain_json import from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from attrs import Attribute

    from converge.core.plain_json import Json

__all__ = ["Capability", "CapabilitySet", "as_capabilities", "capability_names"]


def _own(value: Mapping[str, Plain]) -> dict[str, Plain]:
    """A copy that shares nothing with `value`, of plain data only."""
    if not isinstance(value, Mapping):
        raise TypeError(f"constraints and costs of a capability are dicts, not {type(value).__name__}")
    copy: dict[str, Plain] = unpack(pack(dict(value)))
    return copy


def _check_latency(_capability: Capability, _attribute: Attribute[float | None], value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"latency_ms is a finite number of milliseconds, at least 0, not {value!r}")


@frozen
class Capability:
    """One thing an agent can do. Tasks ask for it by `name`; the rest describes it to whoever chooses between agents.

    `constraints` and `costs` are plain data, copied. `latency_ms` is the typical time of one call in milliseconds, None
    when unknown. Equality goes by all fields, the hash by those that cannot be changed in place.

    Raises `TypeError` or `ValueError` for a field of a wrong type or out of bounds.
    """

    name: str = field(validator=validators.and_(validators.instance_of(str), validators.min_len(1)))
    version: str = field(default="1.0", validator=validators.instance_of(str))
    description: str = field(default="", validator=validators.instance_of(str))
    constraints: dict[str, Plain] = field(factory=dict, converter=_own, hash=False)
    costs: dict[str, Plain] = field(factory=dict, converter=_own, hash=False)
    latency_ms: float | None = field(default=None, validator=_check_latency)

    def evolve(self, **changes: Any) -> Capability:  # the fields have different types
        """A copy with `changes` applied."""
        return evolve(self, **changes)

    def to_dict(self) -> dict[str, Json]:
        """The fields as data that `json.dumps` takes; bytes and non-finite floats as in `converge.core.plain_json`."""
        return {
            "name": self.name,
            "version": self.version,
            "description": self.description,
            "constraints": to_json(self.constraints),
            "costs": to_json(self.costs),
            "latency_ms": self.latency_ms,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Capability:
        """The capability that `to_dict` gave `data` of; all but the name may be absent.

        Raises `ValueError`, whatever is wrong with the data, an unknown key included.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"a capability is read from a dict, not from {type(data).__name__}")  # bad data
        values: dict[str, Any] = {
            key: from_json(value, str(key)) if key in ("constraints", "costs") else value for key, value in data.items()
        }
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"this is no capability: {error}") from None


class CapabilitySet:
    """The capabilities of one agent, at most one for each name."""

    def __init__(self, capabilities: Iterable[Capability | str] = ()) -> None:
        self._by_name: dict[str, Capability] = {}
        for capability in as_capabilities(capabilities):
            self.add(capability)

    def add(self, capability: Capability | str) -> None:
        """Add a capability, replacing one of the same name; a str is a capability of that name alone."""
        known = _as_capability(capability)
        self._by_name[known.name] = known

    def has(self, name: str, version: str | None = None) -> bool:
        """Whether a capability of that name is here, and of that version when one is given."""
        found = self._by_name.get(name)
        return found is not None and (version is None or found.version == version)

    def names(self) -> list[str]:
        """The names, sorted."""
        return sorted(self._by_name)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[Capability]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def __eq__(self, other: object) -> bool:
        return self._by_name == other._by_name if isinstance(other, CapabilitySet) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # a set that changes has no hash

    def __repr__(self) -> str:
        return f"CapabilitySet({self.names()})"


def capability_names(capabilities: Iterable[Capability | str]) -> frozenset[str]:
    """The names in capabilities and names, mixed as they come; `TypeError` for a lone str, or anything else in it."""
    return frozenset(capability.name for capability in as_capabilities(capabilities))


def as_capabilities(values: Iterable[Capability | str]) -> tuple[Capability, ...]:
    """Capabilities, each str as a capability of that name alone; `TypeError` as `capability_names`."""
    if isinstance(values, str):
        raise TypeError(f"capabilities are given as a list; write [{values!r}]")
    return tuple(_as_capability(value) for value in values)


def _as_capability(value: Capability | str) -> Capability:
    if isinstance(value, str):
        return Capability(value)
    if not isinstance(value, Capability):
        raise TypeError(f"a capability is a Capability or its name, not {type(value).__name__}")
    return value
