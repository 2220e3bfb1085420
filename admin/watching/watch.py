"""Looks at the node every few seconds, asks the store now and then, and says when a problem comes up and when it is over.

Concurrency: ``look`` may be called by anybody beside ``run``; a lock keeps two from asking the store, or from telling of the same
problem, at once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import structlog
import trio

from admin.watching.gathering import Gathering
from admin.watching.health import Answer, BackendAnswer, Limits, Memory, Problem, problems_of, stepped
from admin.watching.health_codes import Severity
from admin.watching.mutes import Mutes
from admin.watching.sample import NodeSample
from vpool.errors import Unavailable, VPoolError

log = structlog.get_logger()

CHECK_S = 3.0  # how long the store may take to say that it is there
CHECK_VALID_S = 1.0
REMEMBERED_S = 60.0
CALM_LOOKS = 2  # a problem must be gone so often before it is over, or one at the edge would fill the events


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """What an operator may set of it."""

    period_s: float = 5.0
    backend_check_s: float = 10.0
    dirty_old_s: float = 120.0
    verify_days: float = 30.0


@dataclass(frozen=True, slots=True)
class Standing:
    """A problem that stands, since when, and whether an operator has muted its code."""

    problem: Problem
    since: float  # unix time of the first look that found it
    muted: bool
    muted_until: float | None


@dataclass(frozen=True, slots=True)
class Health:
    """How the node is."""

    sample: NodeSample
    standing: tuple[Standing, ...]

    @property
    def severity(self) -> Severity:
        """The worst of what is not muted."""
        return max((each.problem.severity for each in self.standing if not each.muted), default=Severity.OK)


class _Told:
    """A problem that the log has told of."""

    def __init__(self, problem: Problem, sample: NodeSample) -> None:
        self.problem = problem
        self.since = sample.at
        self.since_boot_s = sample.boot_s
        self.absent = 0  # looks in a row that have not found it


class Watch:
    """See the module; ``run`` is the background, ``look`` an answer for somebody who asks."""

    def __init__(self, gathering: Gathering, mutes: Mutes, settings: WatchSettings, *, hard_bytes: int) -> None:
        self.mutes = mutes
        self.gathering = gathering
        self._settings = settings
        self._limits = Limits(hard_bytes, settings.dirty_old_s, settings.verify_days)
        self._samples: deque[NodeSample] = deque()
        self._stepped: tuple[float, float] | None = None  # when (CLOCK_BOOTTIME), by how much
        self._told: dict[tuple[str, str], _Told] = {}
        self._asked: tuple[float, BackendAnswer] | None = None
        self._looking = trio.Lock()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.look(check_every_s=self._settings.backend_check_s)
            except (VPoolError, OSError) as error:  # a look that fails must not end the daemon
                log.warning("look_failed", error=repr(error))
            await trio.sleep(self._settings.period_s)

    async def look(self, *, check_every_s: float = CHECK_VALID_S) -> Health:
        """How the node is now; the store is asked unless it was within ``check_every_s``."""
        async with self._looking:
            backend = await self._backend(check_every_s)
            sample = await self.gathering.sample()
            self._remember(sample)
            when, step_s = self._stepped or (None, 0.0)
            memory = Memory(self._samples[0] if len(self._samples) > 1 else None, when, step_s)
            problems = problems_of(sample, backend, memory, self._limits, self.gathering.rooms.events.problem)
            self._tell(problems, sample)
        muted = self.mutes.current()
        return Health(
            sample,
            tuple(
                Standing(problem, self._told[problem.code, problem.subject].since, problem.code in muted, muted.get(problem.code))
                for problem in problems
            ),
        )

    async def _backend(self, valid_s: float) -> BackendAnswer:
        now = trio.current_time()
        if self._asked is None or now - self._asked[0] >= valid_s:
            self._asked = (trio.current_time(), await self._ask())
        return self._asked[1]

    async def _ask(self) -> BackendAnswer:
        with trio.move_on_after(CHECK_S):
            try:
                await self.gathering.rooms.store.check()
            except Unavailable as error:
                return BackendAnswer(Answer.NONE, str(error))
            except VPoolError as error:
                return BackendAnswer(Answer.REFUSAL, str(error))
            return BackendAnswer(Answer.YES, "")
        return BackendAnswer(Answer.NONE, f"no answer within {CHECK_S:g} s")

    def _remember(self, sample: NodeSample) -> None:
        if self._samples and (step_s := stepped(self._samples[-1], sample)):
            self._stepped = (sample.boot_s, step_s)
        self._samples.append(sample)
        while sample.boot_s - self._samples[0].boot_s > REMEMBERED_S:
            self._samples.popleft()

    def _tell(self, problems: list[Problem], sample: NodeSample) -> None:
        found = {(problem.code, problem.subject): problem for problem in problems}
        for key, problem in found.items():
            told = self._told.get(key)
            if told is None:
                self._told[key] = _Told(problem, sample)
                log.info(
                    "health_problem_began",
                    code=problem.code,
                    severity=problem.severity.name.lower(),
                    subject=problem.subject,
                    message=problem.message,
                )
            else:
                told.absent = 0
        for key, told in list(self._told.items()):
            if key in found:
                continue
            told.absent += 1
            if told.absent >= CALM_LOOKS:
                del self._told[key]
                lasted_s = round(sample.boot_s - told.since_boot_s, 1)
                log.info("health_problem_ended", code=told.problem.code, subject=told.problem.subject, lasted_s=lasted_s)
