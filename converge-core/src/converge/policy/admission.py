"""Who may join a pool."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen

from converge.policy.errors import PolicyOptionError
from converge.policy.options import NoOptions, check_agent_id
from converge.policy.scrypt import check_verifier, make_verifier, verifies

if TYPE_CHECKING:
    from converge.plugins import Secret
    from converge.policy.token_options import TokenOptions

__all__ = ["AdmissionPolicy", "OpenAdmission", "TokenAdmission", "WhitelistAdmission", "WhitelistOptions"]


class AdmissionPolicy(ABC):
    """Decides who may join. To implement one, write `can_admit`; it may be called from any thread.

    To be found by name and restored after a restart, a policy also has `converge_options`, an attrs class whose
    fields are the keywords of the constructor, and `to_options()`, and is registered under `converge.admission`.
    """

    depends_on_members: ClassVar[bool] = True
    """Whether the answer may change with `context["members"]`. If so, it is asked again when others join meanwhile."""

    @abstractmethod
    def can_admit(self, agent_id: str, context: Mapping[str, object]) -> bool:
        """Whether the agent may join.

        `context` has `pool_id`, `members` (a frozenset of the present ones), and `token`, which is None when the
        agent brought none. An agent joins only if it is admitted to the very members it comes to, so a policy that
        limits their number holds, however many come at once.

        Only True admits. Whatever this raises is a denial, and so is an answer that is not a bool.
        """


@frozen
class OpenAdmission(AdmissionPolicy):
    """Admits everybody."""

    depends_on_members: ClassVar[bool] = False
    converge_options: ClassVar[type[NoOptions]] = NoOptions

    def to_options(self) -> dict[str, str]:
        """No options."""
        return {}

    def can_admit(self, agent_id: str, context: Mapping[str, object]) -> bool:
        """True."""
        return True


@frozen
class WhitelistOptions:
    """Options of `WhitelistAdmission`: the ids of the agents that may join."""

    agents: list[str]


def _agent_ids(value: object) -> frozenset[str]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise PolicyOptionError("WhitelistAdmission", "agents", f"is {value!r}; give a list of agent ids")
    return frozenset(check_agent_id("WhitelistAdmission", f"agents[{index}]", item) for index, item in enumerate(value))


@frozen
class WhitelistAdmission(AdmissionPolicy):
    """Admits the agents that are named, and nobody when none is."""

    depends_on_members: ClassVar[bool] = False
    converge_options: ClassVar[type[WhitelistOptions]] = WhitelistOptions

    agents: frozenset[str] = field(converter=_agent_ids)

    def to_options(self) -> dict[str, list[str]]:
        """The named agents, sorted."""
        return {"agents": sorted(self.agents)}

    def can_admit(self, agent_id: str, context: Mapping[str, object]) -> bool:
        """Whether the agent is named."""
        return agent_id in self.agents


class _TokenOptions:
    """`TokenAdmission.converge_options`, imported when asked for: the field type `Secret` is in the plugin layer."""

    def __get__(self, instance: object, owner: type[object]) -> type[TokenOptions]:
        from converge.policy.token_options import TokenOptions

        return TokenOptions


@frozen(init=False)
class TokenAdmission(AdmissionPolicy):
    """Admits whoever brings the token as `context["token"]`.

    Made from the token, or from the `verifier` that `to_options()` gave; exactly one of the two. The token itself is
    never kept: what stays, in memory and in a store, is a salted scrypt verifier, so checking one token takes about
    50 ms of a core. Two policies are equal when they have the same verifier. `PolicyOptionError` (a ValueError) when
    the token is empty or longer than 4,096 bytes, or the verifier is malformed.
    """

    depends_on_members: ClassVar[bool] = False
    converge_options = _TokenOptions()

    verifier: str = field(repr=False)

    def __init__(self, token: str | Secret | None = None, *, verifier: str | None = None) -> None:
        if (token is None) == (verifier is None):
            raise PolicyOptionError("TokenAdmission", "token", "or else verifier has to be given, and not both")
        self.__attrs_init__(_verifier_of(token) if verifier is None else _checked(verifier))

    def to_options(self) -> dict[str, str]:
        """The verifier; `TokenAdmission(**options)` is an equal policy."""
        return {"verifier": self.verifier}

    def can_admit(self, agent_id: str, context: Mapping[str, object]) -> bool:
        """Whether `context["token"]`, a str or a `Secret`, is the token."""
        token = _text(context.get("token"))
        return token is not None and verifies(self.verifier, token)


def _verifier_of(token: object) -> str:
    text = _text(token)
    if text is None:
        raise PolicyOptionError("TokenAdmission", "token", f"is {type(token).__name__}; a token is a str or a Secret")
    try:
        return make_verifier(text)
    except ValueError as error:
        raise PolicyOptionError("TokenAdmission", "token", str(error)) from None


def _checked(verifier: object) -> str:
    if not isinstance(verifier, str):
        raise PolicyOptionError("TokenAdmission", "verifier", f"is {type(verifier).__name__}, not a str")
    try:
        return check_verifier(verifier)
    except ValueError as error:
        raise PolicyOptionError("TokenAdmission", "verifier", str(error)) from None


def _text(token: object) -> str | None:
    """The text of a str or a `Secret`; None for anything else."""
    if token is None or isinstance(token, str):
        return token
    from converge.plugins import Secret

    return token.reveal() if isinstance(token, Secret) else None
