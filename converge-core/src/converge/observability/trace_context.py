"""What of a span travels: the header `traceparent` of W3C Trace Context (Recommendation, 2021)."""

from __future__ import annotations

import re

from attrs import frozen

__all__ = ["SpanContext", "parse_traceparent"]

_SAMPLED = 0x01
_FORM = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)


@frozen
class SpanContext:
    """A span as another process knows it: 32 and 16 hex digits, and whether its trace is recorded."""

    trace_id: str
    span_id: str
    sampled: bool = True

    @property
    def traceparent(self) -> str:
        """The header that names this span as the parent of another."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def parse_traceparent(header: str) -> SpanContext | None:
    """The span that `header` names; None for one that is malformed. A later version is read as far as it is known."""
    found = _FORM.fullmatch(header)
    if found is None or (found[1] == "00" and found[5] is not None):
        return None
    if found[2].strip("0") == "" or found[3].strip("0") == "":  # W3C: all zeros is no id
        return None
    return SpanContext(found[2], found[3], bool(int(found[4], 16) & _SAMPLED))
