"""The options of `TokenAdmission`, apart from it because they need the plugin layer's `Secret`."""

from __future__ import annotations

from attrs import frozen

from converge.plugins import Secret  # the types of options are read at run time

__all__ = ["TokenOptions"]


@frozen
class TokenOptions:
    """Either the token, by environment reference, or the verifier that a policy gave as its options."""

    token: Secret | None = None
    verifier: str | None = None
