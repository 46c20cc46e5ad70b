"""The rule of trust, pure: what is known of an agent, and how outcomes, corrections and time change it.

It is the beta reputation of Jøsang and Ismail ("The Beta Reputation System", Bled eCommerce Conference, 2002): with r
successes and s failures the trust is (r + 1) / (r + s + 2), the mean of a beta distribution, 0.5 when nothing is known.
A prior other than 0.5 enters as the base rate a of subjective logic (Jøsang, 2016): (r + 2a) / (r + s + 2). Old
outcomes are forgotten as they propose, by a factor on r and s, which here goes by time: both halve in each half-life.
"""

from __future__ import annotations

from attrs import evolve, frozen

from converge.policy.errors import TrustError
from converge.policy.options import is_amount

__all__ = ["HALF_LIFE_SEC", "MAX_WEIGHT", "Standing", "check_half_life", "check_trust"]

HALF_LIFE_SEC = 30 * 24 * 3600.0
"""After how many seconds an outcome counts for half, unless a model says otherwise: 30 days."""

MAX_WEIGHT = 1000.0
"""The most that one outcome can weigh."""

_PRIOR = 2.0  # W: how many outcomes the base rate weighs
_MOST = 1e12  # no evidence grows beyond, so that nothing ever overflows


def check_trust(value: object, what: str) -> float:
    """`value` as a float; `TrustError` naming `what` unless it is a number from 0 to 1."""
    if not isinstance(value, int | float) or not is_amount(value) or value > 1:
        raise TrustError(f"{what} is {value!r}; trust is a number from 0 to 1")
    return float(value)


def check_half_life(value: object) -> float:
    """`value` as a float; `TrustError` unless it is a number above 0. Infinity: nothing is forgotten."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
        raise TrustError(f"half_life_sec is {value!r}; give seconds above 0, or infinity to forget nothing")
    return float(value)


@frozen
class Standing:
    """What is known of one agent at the Unix time `at`: its base rate `score`, and the weight of its outcomes.

    All numbers are finite, so trust is never NaN; `score` is from 0 to 1.
    """

    score: float
    successes: float = 0.0
    failures: float = 0.0
    at: float = 0.0

    @classmethod
    def checked(cls, score: object, successes: object, failures: object, at: object) -> Standing:
        """One from stored values; `TrustError` for what is none."""
        amounts = {"successes": successes, "failures": failures, "at": at}
        for name, value in amounts.items():
            if not is_amount(value) or value > _MOST:  # type: ignore[operator]  # a number, as is_amount found
                raise TrustError(f"{name} is {value!r}; it is a finite number, at least 0")
        return cls(check_trust(score, "score"), *(float(value) for value in amounts.values()))  # type: ignore[arg-type]  # numbers, as above

    @property
    def trust(self) -> float:
        """The trust at the time `at`, 0 to 1."""
        evidence = self.successes + self.failures
        if not evidence:
            return self.score
        return min(1.0, max(0.0, (self.successes + _PRIOR * self.score) / (evidence + _PRIOR)))

    def faded(self, now: float, half_life: float) -> Standing:
        """What is left of the outcomes at `now`. A time in the future was a wrong clock's, and is taken as now."""
        if not self.successes and not self.failures:
            return evolve(self, at=now)
        left = _left(now - self.at, half_life)
        return evolve(self, successes=self.successes * left, failures=self.failures * left, at=now)

    def with_outcome(self, *, success: bool, weight: float, at: float, now: float, half_life: float) -> Standing:
        """After one more outcome, which came at the time `at`. Outcomes may be added in any order."""
        faded = self.faded(now, half_life)
        counts = float(weight) * _left(now - min(at, now), half_life)
        if success:
            return evolve(faded, successes=min(_MOST, faded.successes + counts))
        return evolve(faded, failures=min(_MOST, faded.failures + counts))

    def moved(self, delta: float, now: float, half_life: float) -> Standing:
        """After a correction by `delta`: the base rate moves so that the trust does.

        Where the base rate would leave 0 to 1, outcomes are taken for their opposites, as many as are needed.
        """
        faded = self.faded(now, half_life)
        trust = min(1.0, max(0.0, faded.trust + min(1.0, max(-1.0, delta))))
        evidence = faded.successes + faded.failures
        if not evidence:
            return evolve(faded, score=trust)
        whole = trust * (evidence + _PRIOR)
        score = min(1.0, max(0.0, (whole - faded.successes) / _PRIOR))
        if 0 < score < 1:
            return evolve(faded, score=score)
        successes = min(evidence, max(0.0, whole - _PRIOR * score))
        return evolve(faded, score=score, successes=successes, failures=evidence - successes)


def _left(age: float, half_life: float) -> float:
    """The part of an outcome that counts after `age` seconds."""
    return float(0.5 ** (max(0.0, age) / half_life))
