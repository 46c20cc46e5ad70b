"""What an agent can do: capabilities, and sets of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import asdict, evolve, field, frozen, validators

from converge.core.plain import Plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["Capability", "CapabilitySet", "capability_names"]


def _copy(value: Mapping[str, Plain]) -> dict[str, Plain]:
    return dict(value)


@frozen
class Capability:
    """One thing an agent can do. Tasks ask for it by `name`; the rest describes it to whoever chooses between agents.

    `latency_ms` is the typical time of one call in milliseconds, None when unknown.
    """

    name: str = field(validator=validators.and_(validators.instance_of(str), validators.min_len(1)))
    version: str = field(default="1.0", validator=validators.instance_of(str))
    description: str = field(default="", validator=validators.instance_of(str))
    constraints: dict[str, Plain] = field(factory=dict, converter=_copy, hash=False)
    costs: dict[str, Plain] = field(factory=dict, converter=_copy, hash=False)
    latency_ms: float | None = None

    def evolve(self, **changes: Any) -> Capability:  # the fields have different types
        """A copy with `changes` applied."""
        return evolve(self, **changes)

    def to_dict(self) -> dict[str, Plain]:
        """The fields as plain data; `from_dict` makes an equal capability of it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Capability:
        """The capability in `data`; `TypeError` or `ValueError` when a field is missing, unknown or of a wrong type."""
        return cls(**data)


class CapabilitySet:
    """The capabilities of one agent, at most one for each name."""

    def __init__(self, capabilities: Iterable[Capability | str] = ()) -> None:
        self._by_name: dict[str, Capability] = {}
        for capability in capabilities:
            self.add(capability)

    def add(self, capability: Capability | str) -> None:
        """Add a capability, replacing one of the same name; a str is a capability of that name alone."""
        if isinstance(capability, str):
            capability = Capability(capability)
        if not isinstance(capability, Capability):
            raise TypeError(f"a capability is a Capability or its name, not {type(capability).__name__}")
        self._by_name[capability.name] = capability

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
    """The names in a mixed list of capabilities and names."""
    return frozenset(item if isinstance(item, str) else item.name for item in capabilities)
