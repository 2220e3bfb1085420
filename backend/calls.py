"""Requests of synchronous libraries, from the trio loop: threads, limits, time-outs, retries, counting.

Concurrency: everything but the attempt itself runs on the trio loop. A cancelled or timed-out try is abandoned, not stopped: its
thread ends by the time-outs of its socket and gives its place in the limiter back only then, so abandoned tries count against the
limits.
``_under_way`` is changed without an await between test and change; an await added there would let ``drain`` return too early.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final, TypeVar

import structlog
import trio

from backend.answers import Slow
from backend.counters import Operation, StoreCounters
from backend.retry import RetryBudget, RetryPlan, RetryPolicy
from backend.settings import BackendSettings
from vpool.errors import Corrupt, Internal, Unavailable, VPoolError

T = TypeVar("T")
_log = structlog.get_logger("backend")

_READS: Final = ("get", "size")


class TimedOut(Unavailable):
    """A try was given up by our own clock. Outside this room it is an ``Unavailable`` like any other."""


class _Place:
    """A limiter that starts the clock of a try when its place is there, and notes when its thread has really ended."""

    def __init__(self, calls: Calls, limiter: trio.CapacityLimiter, on_start: Callable[[], None]) -> None:
        self._calls, self._limiter, self._on_start = calls, limiter, on_start

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        await self._limiter.acquire_on_behalf_of(borrower)
        self._calls._under_way += 1
        self._on_start()

    def release_on_behalf_of(self, borrower: object) -> None:
        self._limiter.release_on_behalf_of(borrower)
        self._calls._under_way -= 1
        if self._calls._under_way == 0:
            self._calls._idle.set()
            self._calls._idle = trio.Event()


class Calls:
    """Runs the requests of one store."""

    def __init__(
        self,
        url: str,
        settings: BackendSettings,
        counters: StoreCounters,
        *,
        translate: Callable[[Exception], VPoolError],
        random: Callable[[], float] | None = None,
    ) -> None:
        """Prepare to run requests.

        Args:
            url: of the store, without credentials, for the log.
            settings: limits and times.
            counters: where requests are counted.
            translate: turns an exception of the library into one of ours; total.
            random: numbers in [0, 1) for the jitter.
        """
        self._url = url
        self._settings = settings
        self._counters = counters
        self._translate = translate
        self._random = random or Random().random  # noqa: S311 (jitter is no secret)
        self._budget = RetryBudget(settings.retry_budget, settings.retry_budget_per_s)
        self._uploads = trio.CapacityLimiter(settings.uploads_in_flight_max)
        self._reads = trio.CapacityLimiter(settings.reads_in_flight_max)
        self._others = trio.CapacityLimiter(settings.others_in_flight_max)
        self._under_way = 0
        self._idle = trio.Event()

    async def run(self, operation: Operation, attempt: Callable[[], T], *, deadline_s: float | None = None) -> T:
        """Run ``attempt`` in a thread until it succeeds, fails for good, or the deadline has passed.

        Every attempt must be repeatable. Waiting for a place in the limiter counts against no time-out.

        Raises:
            Unavailable: the deadline has passed; for a put or delete the outcome is unknown.
            VPoolError: what ``translate`` made of an error that a retry cannot mend.
        """
        begun_s = trio.current_time()
        failure: BaseException | None = None
        try:
            return await self._run(operation, attempt, deadline_s)
        except BaseException as error:
            failure = error
            raise
        finally:
            self._counters.ended(operation, trio.current_time() - begun_s, failure)

    async def drain(self) -> None:
        """Wait until no thread is under way any more, but no longer than the settings allow."""
        with trio.move_on_after(self._settings.close_timeout_s) as scope:
            while self._under_way:
                await self._idle.wait()
        if scope.cancelled_caught:
            _log.warning("backend_closed_with_requests_under_way", url=self._url, requests=self._under_way)

    async def _run(self, operation: Operation, attempt: Callable[[], T], deadline_s: float | None) -> T:
        policy = RetryPolicy.of(self._settings, deadline_s=deadline_s)
        plan: RetryPlan | None = None
        cut_short = False
        known: VPoolError | None = None  # the last failure that was more than our own deadline

        def begin() -> float:
            """The first try has got its place, and the deadline begins; returns when this try must have ended."""
            nonlocal plan, cut_short
            now_s = trio.current_time()
            plan = plan or RetryPlan(policy, self._budget, self._random, now_s)
            self._counters.tried(operation, again=plan.tries_failed > 0)
            cut_short = plan.remaining_s(now_s) < self._settings.try_timeout_s
            return now_s + min(self._settings.try_timeout_s, plan.remaining_s(now_s))

        while True:
            try:
                result = await self._try(operation, attempt, begin)
            except VPoolError as failure:
                if plan is None:
                    raise Internal("a try ended before it began", operation=operation) from failure
                if not (isinstance(failure, TimedOut) and cut_short):
                    known = failure
                await self._pause(operation, plan, failure, known or failure)
            else:
                self._budget.succeeded(trio.current_time())
                self._answered()
                return result

    async def _try(self, operation: Operation, attempt: Callable[[], T], begin: Callable[[], float]) -> T:
        """One try, in a thread; its time-out begins when it has got its place."""
        with trio.CancelScope() as scope:

            def on_start() -> None:
                scope.deadline = begin()

            place = _Place(self, self._limiter_of(operation), on_start)
            try:
                return await trio.to_thread.run_sync(attempt, abandon_on_cancel=True, limiter=place)  # type: ignore[arg-type]
            except VPoolError:
                raise
            except Exception as error:
                raise self._translate(error) from error
        raise TimedOut("the store did not answer in time", url=self._url, operation=operation)

    async def _pause(self, operation: Operation, plan: RetryPlan, failure: VPoolError, told: VPoolError) -> None:
        """Wait for the next try, or raise what ends the request: ``told`` if it is that there is no time left."""
        if not isinstance(failure, Unavailable | Corrupt):
            self._answered()
            raise failure
        self._counters.failed(operation, failure.message)
        now_s = trio.current_time()
        pause_s = plan.after_failure(
            now_s,
            corrupt=isinstance(failure, Corrupt),
            retry_after_s=failure.retry_after_s if isinstance(failure, Slow) else 0.0,
        )
        if pause_s is None:
            told.details.setdefault("tries", plan.tries_failed)
            if isinstance(told, Unavailable):
                self._note_failing(operation, told, now_s)
                raise Unavailable(told.message, **told.details) from told  # our own kinds of it stay in this room
            raise told
        await trio.sleep(pause_s)

    def _note_failing(self, operation: Operation, error: VPoolError, now_s: float) -> None:
        if self._counters.failing_since_s is None:
            self._counters.failing_since_s = now_s
            _log.warning("backend_unavailable", url=self._url, operation=operation, reason=str(error))

    def _answered(self) -> None:
        if self._counters.failing_since_s is not None:
            failing_s = trio.current_time() - self._counters.failing_since_s
            self._counters.failing_since_s = None
            _log.info("backend_available_again", url=self._url, failing_s=round(failing_s, 1))

    def _limiter_of(self, operation: Operation) -> trio.CapacityLimiter:
        if operation == "put":
            return self._uploads
        return self._reads if operation in _READS else self._others
