"""What a provider raises when the vendor fails."""
# these are tests, shipped to authors
# the name of a test is its sentence

from __future__ import annotations

import asyncio
import time
import traceback
from email.utils import formatdate
from typing import TYPE_CHECKING, Final

import pytest

from converge.testing.llm.asking import whole
from converge.testing.llm.fixtures import Answer, Failure, FailureKind, ProviderFixtures, Subject, Vendor

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.extensions.llm.errors import ProviderError

__all__ = ["FailingContract"]

_KINDS: Final[dict[FailureKind, str]] = {
    "rate_limited": "RateLimited",
    "overloaded": "Overloaded",
    "rejected": "Rejected",
    "no_key": "Rejected",
    "broken": "BadReply",
    "garbage": "BadReply",
}

_streamed = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])


class FailingContract(ProviderFixtures):
    """A provider whose vendor fails."""

    @_streamed
    @pytest.mark.parametrize("kind", _KINDS)
    def test_a_failure_is_the_error_that_says_what_to_do(
        self, subject: Subject, vendor: Vendor | None, kind: FailureKind, streamed: bool
    ) -> None:
        provider = self.completing(subject)
        self.told(vendor, Failure(kind))
        error = self._failure(provider, streamed=streamed)
        assert type(error).__name__ == _KINDS[kind]
        self._check_the_key_is_nowhere(error)

    @_streamed
    @pytest.mark.parametrize("kind", ["rate_limited", "garbage"])
    def test_after_a_failure_the_next_call_is_answered(
        self, subject: Subject, vendor: Vendor | None, kind: FailureKind, streamed: bool
    ) -> None:
        from converge.extensions.llm.errors import ProviderError

        provider = self.completing(subject)
        self.told(vendor, Failure(kind), Answer("Paris."))

        async def twice(it: Subject) -> str:
            with pytest.raises(ProviderError):
                await whole(it, streamed=streamed)
            return (await whole(it, streamed=streamed)).text

        assert self.run(provider, twice) == "Paris."

    @_streamed
    def test_the_seconds_to_wait_are_in_the_error(
        self, subject: Subject, vendor: Vendor | None, streamed: bool
    ) -> None:
        provider = self.completing(subject)
        self.told(vendor, Failure("rate_limited", "17"))
        error = self._failure(provider, streamed=streamed)
        assert getattr(error, "retry_after", None) == 17

    def test_a_date_to_wait_for_becomes_seconds(self, subject: Subject, vendor: Vendor | None) -> None:
        provider = self.completing(subject)
        self.told(vendor, Failure("rate_limited", formatdate(time.time() + 3600, usegmt=True)))
        retry_after = getattr(self._failure(provider, streamed=False), "retry_after", None)
        assert retry_after is not None
        assert 0 < retry_after <= 3600

    @pytest.mark.parametrize("header", ["soon", "", "nan", "-5"])
    def test_a_time_to_wait_that_is_none_does_no_harm(
        self, subject: Subject, vendor: Vendor | None, header: str
    ) -> None:
        provider = self.completing(subject)
        self.told(vendor, Failure("rate_limited", header))
        error = self._failure(provider, streamed=False)
        assert type(error).__name__ == "RateLimited"
        assert getattr(error, "retry_after", None) in (None, 0)

    @_streamed
    def test_no_answer_in_time_is_a_timeout(self, impatient: Subject, vendor: Vendor | None, streamed: bool) -> None:
        if impatient is None:
            pytest.skip("the test class gives no `impatient` provider")
        provider = self.completing(impatient)
        self.told(vendor, Failure("hang"))
        error = self._failure(provider, streamed=streamed)
        assert type(error).__name__ == "ProviderTimeout"
        assert isinstance(error, TimeoutError)

    @_streamed
    def test_a_cancelled_call_ends_and_others_go_on(
        self, subject: Subject, vendor: Vendor | None, streamed: bool
    ) -> None:
        provider = self.completing(subject)
        self.told(vendor, Failure("hang"), Answer("Paris."))

        async def cancelled(it: Subject) -> str:
            task = asyncio.create_task(whole(it, streamed=streamed))
            await self._until_asked(vendor)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return (await whole(it, streamed=streamed)).text

        assert self.run(provider, cancelled) == "Paris."

    def test_a_call_does_not_block_the_event_loop(self, subject: Subject, vendor: Vendor | None) -> None:
        provider = self.completing(subject)
        self.told(vendor, Failure("hang"), Answer("Paris."))

        async def beside(it: Subject) -> str:
            hanging = asyncio.create_task(whole(it, streamed=False))
            await self._until_asked(vendor)
            answered = await whole(it, streamed=False)
            assert not hanging.done()
            hanging.cancel()
            await asyncio.gather(hanging, return_exceptions=True)
            return answered.text

        assert self.run(provider, beside) == "Paris."

    def test_chat_fails_as_complete_does(self, subject: Subject, vendor: Vendor | None) -> None:
        self.completing(subject)
        self.told(vendor, Failure("overloaded"))
        error = self._raised(lambda: subject.chat([{"role": "user", "content": "Hello"}]))
        assert type(error).__name__ == "Overloaded"
        self._check_the_key_is_nowhere(error)

    def test_the_key_is_not_shown(self, subject: Subject) -> None:
        if self.key is None:
            pytest.skip("the test class gives no `key`")
        assert self.key not in repr(subject)
        assert self.key not in str(subject)
        assert self.key not in repr(vars(subject))

    async def _until_asked(self, vendor: Vendor | None) -> None:
        """Until the vendor has the request in hand, where it can say so."""
        asked = getattr(vendor, "asked", None)
        if asked is None:
            await asyncio.sleep(0.2)
            return
        while not asked():  # noqa: ASYNC110  # the vendor is in another thread
            await asyncio.sleep(0.005)

    def _failure(self, provider: Subject, *, streamed: bool) -> ProviderError:
        from converge.extensions.llm.errors import ProviderError

        async def fails(it: Subject) -> ProviderError:
            with pytest.raises(ProviderError) as caught:
                await whole(it, streamed=streamed)
            return caught.value

        return self.run(provider, fails)

    def _raised(self, call: Callable[[], object]) -> BaseException:
        from converge.extensions.llm.errors import ProviderError

        with pytest.raises(ProviderError) as caught:
            call()
        return caught.value

    def _check_the_key_is_nowhere(self, error: BaseException) -> None:
        if self.key is None:
            return
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        assert self.key not in shown
        assert self.key not in repr(error)
        assert self.key not in repr(vars(error))
