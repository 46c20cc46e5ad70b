"""A pool as the store holds it, and the specs that it is made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from attrs import asdict, field, frozen

from converge.coordination.equality import same
from converge.core.pool import Pool
from converge.core.topic import Topic

if TYPE_CHECKING:
    from converge.core.plain import Plain

__all__ = ["POLICIES", "PoolRecord", "read_spec"]

POLICIES = ("admission_policy", "governance", "trust_model")
_SPEC_KEYS = ("id", "topics", *POLICIES, "trust_threshold", "allowed_task_types")
_NOT_COMPARED = {
    "admission_policy": ("verifier",),
    "trust_model": ("scores", "evidence", "name"),
}
_Table = dict[str, Any]


@frozen(kw_only=True)
class PoolRecord:
    """The settings and the members of a pool. Policies are tables `{"use": name, …options}`, or None.

    `allowed_task_types` None: tasks of any type.
    """

    id: str
    topics: list[dict[str, Any]] = field(factory=list)
    trust_threshold: float = 0.0
    members: list[str] = field(factory=list)
    admission_policy: _Table | None = None
    governance: _Table | None = None
    trust_model: _Table | None = None
    allowed_task_types: list[str] | None = None

    @classmethod
    def from_plain(cls, data: object) -> PoolRecord:
        """The record in a stored value; `ValueError` when it is not one of this version."""
        if not isinstance(data, dict):
            raise ValueError(f"it is {type(data).__name__}, not a dict")
        try:
            record = cls(**data)
        except TypeError as error:
            raise ValueError(str(error)) from None
        _check_id(record.id)
        _check_threshold(record.trust_threshold)
        _check_members(record.members)
        for topic in _listed(record.topics, "topics"):
            Topic.from_dict(topic)
        _check_types(record.allowed_task_types)
        if not all(isinstance(table, dict | None) for table in record.policies.values()):
            raise ValueError("a policy is a table or None")
        return record

    def to_plain(self) -> dict[str, Plain]:
        """The record as the store takes it."""
        return asdict(self, recurse=False)

    @property
    def policies(self) -> dict[str, _Table | None]:
        """The tables of the policies, by the name of the setting."""
        return {name: getattr(self, name) for name in POLICIES}

    def differing_settings(self, other: PoolRecord) -> list[str]:
        """The settings in which two pools differ; members are none.

        Left out is what says nothing when it differs: the salted verifier of a token, scores that were earned, and
        the name under which they are kept.
        """
        names = ("topics", "trust_threshold", "allowed_task_types", *POLICIES)
        return [name for name in names if not same(self._compared(name), other._compared(name))]

    def _compared(self, name: str) -> Plain:
        value = getattr(self, name)
        if not isinstance(value, dict):
            return value  # type: ignore[no-any-return]  # plain data, as every setting is
        return {key: item for key, item in value.items() if key not in _NOT_COMPARED.get(name, ())}


def read_spec(spec: Mapping[str, Any] | Pool) -> tuple[PoolRecord, dict[str, object]]:
    """The record of a new pool without its policies, and those as they were given.

    A topic is a `Topic`, the dict of one, or its namespace. `ValueError` for a spec that makes no sense.
    """
    if isinstance(spec, Pool):
        given: dict[str, Any] = {name: getattr(spec, name, None) for name in (*_SPEC_KEYS, "agents")}
    else:
        given = dict(spec)
        unknown = sorted(str(key) for key in given if key not in _SPEC_KEYS)
        if unknown:
            raise ValueError(f"a pool spec has no key {unknown[0]!r}; it has {', '.join(_SPEC_KEYS)}")
    threshold = given.get("trust_threshold")
    threshold = 0.0 if threshold is None else threshold
    record = PoolRecord(
        id=_check_id(given.get("id")),
        topics=[_topic(topic).to_dict() for topic in _listed(given.get("topics") or [], "topics")],
        trust_threshold=_check_threshold(threshold),
        members=_check_members(sorted(given.get("agents") or [])),
        allowed_task_types=_types(given.get("allowed_task_types")),
    )
    return record, {name: given.get(name) for name in POLICIES}


def _check_id(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"the id of a pool is a non-empty str, not {value!r}")
    return value


def _check_threshold(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"trust_threshold is a number from 0 to 1, not {value!r}")
    return float(value)


def _check_members(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(agent_id, str) and agent_id for agent_id in value):
        raise ValueError(f"the members of a pool are agent ids, not {value!r}")
    return value


def _types(value: object) -> list[str] | None:
    """None: any type. An empty list: none at all."""
    if value is None:
        return None
    return sorted({*_check_types(_listed(value, "allowed_task_types"))})  # type: ignore[misc]  # None was handled


def _check_types(value: object) -> list[str] | None:
    if value is None or (isinstance(value, list) and all(isinstance(each, str) and each for each in value)):
        return value
    raise ValueError(f"allowed_task_types are names, non-empty strs, not {value!r}")


def _listed(value: object, name: str) -> list[Any]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise ValueError(f"{name} is a list, not {value!r}")
    return [*value]


def _topic(value: object) -> Topic:
    if isinstance(value, str):
        return Topic(value)
    return value if isinstance(value, Topic) else Topic.from_dict(value)  # type: ignore[arg-type]  # it checks
