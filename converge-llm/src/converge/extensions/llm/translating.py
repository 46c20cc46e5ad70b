"""Errors of the vendors' libraries as those of Converge, without a key in them."""

from __future__ import annotations

import math
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from converge.extensions.llm.errors import (
    BadReply,
    Overloaded,
    ProviderError,
    ProviderTimeout,
    RateLimited,
    Rejected,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["provider_error", "retry_after_of", "scrubbed"]

_MOST_TEXT: Final = 500
_TIMEOUTS: Final = frozenset({"APITimeoutError", "TimeoutException", "TimeoutError"})
_UNREADABLE: Final = frozenset(
    {"APIResponseValidationError", "ResponseValidationError", "JSONDecodeError", "ValidationError", "DecodingError"}
    | {"RecursionError", "UnicodeDecodeError"}
)
_UNREACHABLE: Final = frozenset({"APIConnectionError", "TransportError", "NoResponseError", "OSError"})
_UNSENDABLE: Final = frozenset({"LocalProtocolError", "UnsupportedProtocol", "InvalidURL"})
_LIMITED_TYPES: Final = frozenset({"rate_limit_error", "rate_limit_exceeded", "tokens", "requests"})
_OVERLOADED_TYPES: Final = frozenset(
    {"api_error", "internal_error", "overloaded_error", "server_error", "service_unavailable", "timeout_error"}
)
# 408 is a timeout of the vendor's, 409 a conflict that its libraries would retry; Anthropic's 529 is among the 5xx
_AGAIN: Final = frozenset({408, 409, 425})


def provider_error(error: Exception, *, asked: str, key: str | None, begun: bool = False) -> ProviderError:
    """`error`, raised while the model `asked` was asked, as one of ours; not chained to it.

    The classes are recognised by name, so that no vendor's library is needed. `begun`: a part of the reply had come.
    """
    for known in (error, error.__cause__):  # ours may have been raised below a library that wraps what it meets
        if isinstance(known, ProviderError):
            return _bare(known, asked)
    names = _names(error)
    if names & _TIMEOUTS:
        return ProviderTimeout(f"{asked}: no answer in time; try again, or raise timeout_sec")
    said = scrubbed(_text(error), key)
    if names & _UNREADABLE:
        return BadReply(f"{asked}: the reply cannot be read ({type(error).__name__}): {said}", status=_status(error))
    status = _status(error)
    if status is not None and status >= 300:
        return _by_status(status, error, f"{asked}: HTTP {status}: {said}")
    return _without_status(error, names, asked, said, begun=begun)


def _bare(error: ProviderError, asked: str) -> ProviderError:
    """`error` without the frames and causes that hold the request."""
    if asked not in str(error):
        error.args = (f"{asked}: {error}",)
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def scrubbed(text: str, key: str | None) -> str:
    """`text`, shortened, without `key`."""
    if key:
        text = text.replace(key, "***")
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}… ({len(text)} characters)"


def retry_after_of(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds that `headers` ask to wait: `retry-after-ms`, or `Retry-After` as a number or a date (RFC 9110, 10.2.3).

    `now` is in Unix seconds. None when they say nothing that can be understood.
    """
    milliseconds = _seconds(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _seconds(value)
    if seconds is not None or value is None:
        return seconds
    try:
        moment = parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None
    return max(0.0, moment - (time.time() if now is None else now))


def _seconds(value: str | None) -> float | None:
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _by_status(status: int, error: Exception, text: str) -> ProviderError:
    if status == 429:
        return RateLimited(text, retry_after=retry_after_of(_headers(error)), status=status)
    if status >= 500 or status in _AGAIN:
        return Overloaded(text, retry_after=retry_after_of(_headers(error)), status=status)
    return Rejected(text, status=status)


def _without_status(error: Exception, names: set[str], asked: str, said: str, *, begun: bool) -> ProviderError:
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    all_names = names | _names(cause)
    if all_names & _UNSENDABLE:  # the text may quote a header, and so the key in another spelling
        return Rejected(f"{asked}: the request cannot be sent ({type(cause).__name__}); check base_url and api_key")
    if all_names & _TIMEOUTS:
        return ProviderTimeout(f"{asked}: no answer in time; try again, or raise timeout_sec")
    if names & _UNREACHABLE:
        if begun or "complete message body" in _text(cause) or "IncompleteRead" in all_names:
            return BadReply(f"{asked}: the reply broke off: {said}")
        return Overloaded(f"{asked}: no connection, or it was lost before an answer: {said}")
    kinds = _kinds(error)
    if kinds & _LIMITED_TYPES:
        return RateLimited(f"{asked}: {said}", retry_after=retry_after_of(_headers(error)))
    if kinds & _OVERLOADED_TYPES:
        return Overloaded(f"{asked}: {said}", retry_after=retry_after_of(_headers(error)))
    if kinds:
        return Rejected(f"{asked}: {said}")
    if "SDKError" in names:  # Mistral's, for an answer that is neither JSON nor an error
        return BadReply(f"{asked}: the reply cannot be read: {said}", status=_status(error))
    return ProviderError(f"{asked}: {type(error).__name__}: {said}")


def _kinds(error: Exception) -> set[str]:
    """What the vendor calls an error that it tells within a stream, where there is no status."""
    found = {getattr(error, "type", None), getattr(error, "code", None)}
    body: object = getattr(error, "body", None)
    if isinstance(body, dict):
        inner = body.get("error")
        for part in (body, inner if isinstance(inner, dict) else {}):
            found |= {value for value in (part.get("type"), part.get("code")) if isinstance(value, str)}
    return {kind for kind in found if isinstance(kind, str) and kind}


def _status(error: Exception) -> int | None:
    status = getattr(error, "status_code", None) or getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _headers(error: Exception) -> Mapping[str, str]:
    response = getattr(error, "response", None) or getattr(error, "raw_response", None)
    headers: Mapping[str, str] | None = getattr(response, "headers", None)
    return {} if headers is None else headers


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _text(error: BaseException) -> str:
    message = getattr(error, "message", None)
    text = message if isinstance(message, str) and message else str(error)
    return " ".join(text.split())
