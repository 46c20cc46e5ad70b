"""What goes wrong when a model is asked.

ConvergeError
└── ProviderError
    ├── RateLimited      asked too often: wait, then again
    ├── Overloaded       the vendor fails, or cannot be reached: wait, then again
    ├── ProviderTimeout  no answer in time
    ├── BadReply         an answer that is broken off or cannot be read
    ├── Rejected         the request itself is refused: the same one will be refused again
    │   └── ReplayMismatch  a recording holds another conversation
    ├── KeyMissing       no key to ask with
    ├── SDKMissing       the vendor's library is not installed
    └── ScriptExhausted  a scripted provider has nothing more to say
"""

from __future__ import annotations

from converge.core.errors import ConvergeError

__all__ = [
    "BadReply",
    "KeyMissing",
    "Overloaded",
    "ProviderError",
    "ProviderTimeout",
    "RateLimited",
    "Rejected",
    "ReplayMismatch",
    "SDKMissing",
    "ScriptExhausted",
]


class ProviderError(ConvergeError):
    """Base of what providers raise. `status` is the HTTP status of the answer, None when there was none.

    No text or attribute holds an API key, and no error of a vendor's library is chained: those hold the request.
    """

    def __init__(self, text: str, *, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class RateLimited(ProviderError, RuntimeError):
    """The vendor refuses for now (429). `retry_after`: seconds that it asks to wait, None if it does not say."""

    def __init__(self, text: str, *, retry_after: float | None = None, status: int | None = None) -> None:
        super().__init__(text, status=status)
        self.retry_after = retry_after


class Overloaded(ProviderError, ConnectionError):
    """The vendor failed (5xx), or could not be reached. `retry_after` as of `RateLimited`."""

    def __init__(self, text: str, *, retry_after: float | None = None, status: int | None = None) -> None:
        super().__init__(text, status=status)
        self.retry_after = retry_after


class ProviderTimeout(ProviderError, TimeoutError):
    """No whole answer within the provider's `timeout_sec`. Tokens may have been used."""


class BadReply(ProviderError, ValueError):
    """An answer that is broken off, or is not what the vendor's interface promises. Tokens may have been used."""


class Rejected(ProviderError, ValueError):
    """The vendor refuses the request (400, 401, 403, 404 …): correct the key, the model or the request."""


class ReplayMismatch(Rejected):
    """A recording holds another request at this place, or none; the text shows the difference."""


class KeyMissing(ProviderError, LookupError):
    """There is no usable API key; the text says which environment variable to set."""


class SDKMissing(ProviderError, ImportError):
    """The vendor's library is not installed; the text says what to install."""


class ScriptExhausted(ProviderError, AssertionError):
    """A `ScriptedProvider` was asked more often than its script has replies, or less often."""
