"""Asking a policy so that it fails closed: one that raises, or answers with something else than a decision, denies.

Policies are plugins. These functions are how the layers above ask them; each denial by failure is logged with its
reason.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from attrs import frozen

from converge.core.trust import reaches
from converge.policy.ballots import Option, check_option
from converge.policy.options import is_amount

if TYPE_CHECKING:
    from converge.policy.admission import AdmissionPolicy
    from converge.policy.governance import GovernanceModel
    from converge.policy.trust import TrustModel

__all__ = ["Verdict", "admits", "is_trusted", "settles", "verdict"]

_log = logging.getLogger(__name__)


def admits(policy: AdmissionPolicy, agent_id: str, context: Mapping[str, object]) -> bool:
    """Whether `policy` admits the agent. Only True admits: an error, a truthy object or a coroutine does not."""
    try:
        answer: object = policy.can_admit(agent_id, context)
    except Exception as error:  # noqa: BLE001  # whatever a policy raises is a denial
        _log.warning("%r is not admitted: %s raised %s", agent_id, _name(policy), _reason(error, context))
        return False
    if isinstance(answer, bool):
        return answer
    _log.warning("%r is not admitted: %s answered with %s, not a bool", agent_id, _name(policy), _discard(answer))
    return False


def is_trusted(model: TrustModel | None, agent_id: str, threshold: float) -> bool:
    """Whether the agent's trust is at least `threshold`. At 0 everybody's is, and no model is asked or needed."""
    if not is_amount(threshold) or threshold > 1:
        _log.warning("%r is not trusted: the threshold %r is not a number from 0 to 1", agent_id, threshold)
        return False
    if threshold == 0:
        return True
    if model is None:
        _log.warning("%r is not trusted: there is a threshold of %s and no trust model to ask", agent_id, threshold)
        return False
    return reaches(model, agent_id, threshold)


@frozen
class Verdict:
    """What a governance model decided: an option, or None for nothing; and why, when it is because the model failed."""

    option: Option | None = None
    failure: str | None = None


def verdict(model: GovernanceModel, context: Mapping[str, object]) -> Verdict:
    """What `model` decides. One that raises, or answers with what is no option, decides nothing, and says why."""
    try:
        answer: object = model.resolve_dispute(context)
        if inspect.isawaitable(answer):
            return Verdict(failure=f"{_name(model)} answered with {_discard(answer)}, not an option")
        return Verdict(None if answer is None else check_option(answer, "decision"))
    except Exception as error:  # noqa: BLE001  # whatever a model raises decides nothing
        return Verdict(failure=f"{_name(model)} raised {_reason(error, context)}")


def settles(model: GovernanceModel, context: Mapping[str, object]) -> Option | None:
    """What `model` decides, or None: nothing is decided, or the model failed."""
    decided = verdict(model, context)
    if decided.failure is not None:
        _log.warning("nothing is decided: %s", decided.failure)
    return decided.option


def _name(policy: object) -> str:
    return f"{type(policy).__module__}.{type(policy).__qualname__}"


def _discard(answer: object) -> str:
    """The kind of `answer`; a coroutine is closed, so that it does not complain about never having been awaited."""
    if inspect.iscoroutine(answer):
        answer.close()
    return type(answer).__name__


def _reason(error: Exception, context: object) -> str:
    """The error in one escaped line, without the token that the policy was asked with."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  # an error that cannot be shown is still a reason
        text = "an error without a text"
    token = context.get("token") if isinstance(context, Mapping) else None
    if isinstance(token, str) and token:
        text = text.replace(token, "<token>")
    return f"{type(error).__name__}: {text!r}"
