"""The errors of `converge.policy`. All are ValueErrors: a policy was made, or asked, with something it must refuse."""

from __future__ import annotations

from converge.core.errors import ConvergeError

__all__ = ["PolicyContextError", "PolicyError", "PolicyOptionError", "TrustError", "TrustRecordError"]


class PolicyError(ConvergeError, ValueError):
    """Base of what a policy raises."""


class PolicyOptionError(PolicyError):
    """A policy cannot be made from these options. Attributes: `policy`, `option`, `reason`."""

    def __init__(self, policy: str, option: str, reason: str) -> None:
        super().__init__(f"{policy}: {option} {reason}")
        self.policy, self.option, self.reason = policy, option, reason

    def __reduce__(self) -> tuple[type[PolicyOptionError], tuple[str, str, str]]:
        return type(self), (self.policy, self.option, self.reason)


class PolicyContextError(PolicyError):
    """What a policy was asked with is malformed, so nothing was decided. Attributes: `key`, `reason`."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"context[{key!r}] {reason}")
        self.key, self.reason = key, reason

    def __reduce__(self) -> tuple[type[PolicyContextError], tuple[str, str]]:
        return type(self), (self.key, self.reason)


class TrustError(PolicyError):
    """A trust value or change that is not a finite number in its range; nothing was changed."""


class TrustRecordError(TrustError):
    """What lies in a store where a trust is looked for is none of this version. Attributes: `key`, `reason`."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key!r} holds no trust that this version can use: {reason}; use the version that wrote it")
        self.key, self.reason = key, reason

    def __reduce__(self) -> tuple[type[TrustRecordError], tuple[str, str]]:
        return type(self), (self.key, self.reason)
