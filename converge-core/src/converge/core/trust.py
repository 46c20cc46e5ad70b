"""Asking how much an agent is trusted, so that whatever goes wrong is a no."""

from __future__ import annotations

import inspect
import logging
from typing import Protocol

__all__ = ["GivesTrust", "reaches"]

_log = logging.getLogger(__name__)


class GivesTrust(Protocol):
    """What a trust model offers to those who ask it."""

    def get_trust(self, agent_id: str) -> float:
        """The trust of `agent_id`, 0 to 1. May raise: then the agent is not trusted."""


def reaches(model: GivesTrust, agent_id: str, threshold: float) -> bool:
    """Whether `model` gives the agent a trust of at least `threshold`.

    A model that raises, or answers with anything but a number from 0 to 1, gives none; that is logged. Never raises.
    """
    try:
        trust: object = model.get_trust(agent_id)
    except Exception as error:  # noqa: BLE001  # whatever a model raises is a denial
        _log.warning("%r is not trusted: %s raised %s", agent_id, _name(model), _reason(error))
        return False
    if not isinstance(trust, int | float) or isinstance(trust, bool) or not 0 <= trust <= 1:
        _log.warning("%r is not trusted: %s answered with %s, not 0 to 1", agent_id, _name(model), _discard(trust))
        return False
    return trust >= threshold


def _name(model: object) -> str:
    return f"{type(model).__module__}.{type(model).__qualname__}"


def _discard(answer: object) -> str:
    """The kind of `answer`; a coroutine is closed, so that it does not complain about never having been awaited."""
    if inspect.iscoroutine(answer):
        answer.close()
    return type(answer).__name__


def _reason(error: Exception) -> str:
    """The error in one escaped line."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  # an error that cannot be shown is still a reason
        text = "an error without a text"
    return f"{type(error).__name__}: {text!r}"
