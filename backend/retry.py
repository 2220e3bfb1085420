"""When to try again: back-off with full jitter, a budget over all requests, a deadline. Pure; clock and randomness are handed in.

The budget is a token bucket that every retry draws from and every success pays into. When it is empty a retry is not refused but
put off until its token is there: a dead store sees a fixed rate from this node however many requests wait for it, while one that
fails now and then is not slowed down.
Source of full jitter: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from backend.settings import BackendSettings


class RetryBudget:
    """The token bucket that all requests of one store share. Not thread-safe: used on the trio loop only, without an await."""

    PER_SUCCESS: Final = 0.5
    """Tokens that a success brings: with one request in three failing, retries still wait for nothing but their back-off."""

    def __init__(self, tokens_max: int, tokens_per_s: float) -> None:
        if tokens_max < 1 or tokens_per_s <= 0:
            raise ValueError("a retry budget needs at least one token and a rate above zero")
        self._tokens_max = float(tokens_max)
        self._tokens_per_s = tokens_per_s
        self._tokens = float(tokens_max)
        self._seen_s: float | None = None

    def tokens(self, now_s: float) -> float:
        """Tokens at hand; negative while retries are already waiting for theirs."""
        if self._seen_s is not None and now_s > self._seen_s:
            self._tokens = min(self._tokens_max, self._tokens + (now_s - self._seen_s) * self._tokens_per_s)
        self._seen_s = now_s if self._seen_s is None else max(now_s, self._seen_s)
        return self._tokens

    def wait_s(self, now_s: float) -> float:
        """Seconds until a token that is taken now would be there; takes nothing."""
        return max(0.0, (1.0 - self.tokens(now_s)) / self._tokens_per_s)

    def take(self, now_s: float) -> None:
        """Take one token; the balance may become negative by what is waiting."""
        self.tokens(now_s)
        self._tokens -= 1.0

    def succeeded(self, now_s: float) -> None:
        """A request has succeeded, whether at its first try or at a later one."""
        self._tokens = min(self._tokens_max, self.tokens(now_s) + self.PER_SUCCESS)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The numbers of a plan; see ``BackendSettings`` for their meaning."""

    deadline_s: float
    backoff_first_s: float
    backoff_max_s: float
    corrupt_tries_max: int

    @classmethod
    def of(cls, settings: BackendSettings, *, deadline_s: float | None = None) -> RetryPolicy:
        """The policy that the settings ask for, with another deadline where one is given."""
        return cls(
            deadline_s=settings.deadline_s if deadline_s is None else deadline_s,
            backoff_first_s=settings.backoff_first_s,
            backoff_max_s=settings.backoff_max_s,
            corrupt_tries_max=settings.corrupt_tries_max,
        )


class RetryPlan:
    """The tries of one request. ``random`` gives numbers in [0, 1)."""

    def __init__(self, policy: RetryPolicy, budget: RetryBudget, random: Callable[[], float], now_s: float) -> None:
        self._policy = policy
        self._budget = budget
        self._random = random
        self._until_s = now_s + policy.deadline_s
        self.tries_failed = 0
        self.tries_corrupt = 0

    def remaining_s(self, now_s: float) -> float:
        """Seconds until the deadline, never below zero."""
        return max(0.0, self._until_s - now_s)

    def after_failure(self, now_s: float, *, corrupt: bool = False, retry_after_s: float = 0.0) -> float | None:
        """Seconds to pause before the next try, or None: give up.

        Args:
            now_s: the time of the failure, of the same clock as at the start.
            corrupt: the answer came, but its checksum was wrong; such tries are counted apart and are few.
            retry_after_s: what the store itself asked for (``Retry-After``); a pause is never shorter.
        """
        self.tries_failed += 1
        self.tries_corrupt += corrupt
        if self.tries_corrupt >= self._policy.corrupt_tries_max:
            return None
        ceiling_s = min(self._policy.backoff_max_s, self._policy.backoff_first_s * 2.0 ** min(self.tries_failed - 1, 30))
        pause_s = max(self._random() * ceiling_s, retry_after_s, self._budget.wait_s(now_s))
        if now_s + pause_s >= self._until_s:
            return None
        self._budget.take(now_s)
        return pause_s
