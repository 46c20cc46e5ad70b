"""Numbers in environment variables, read as leniently as the SDK reads them."""

from __future__ import annotations

import logging
import os

__all__ = ["positive_number"]

_log = logging.getLogger(__name__)


def positive_number(name: str, default: int) -> int:
    """The whole number in the variable `name`; what is none above 0 is ignored, with a warning."""
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if text.isdecimal() and int(text) > 0:
        return int(text)
    _log.warning("%s is %r, which is no whole number above 0; %d is used", name, text, default)
    return default
