"""One vPool over many lives: each round it is written to, brought down in one way or another, started again and checked.

The same volume and the same files live on over all rounds, with a cache so small that the segments of its log are used again and
again. What a round does comes from a seed; when exactly a kill hits, the machine decides.
"""

from __future__ import annotations

import enum
import errno
import json
import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.crash.history import UNIT_BYTES, History, Judgement
from tests.crash.journals import Journals
from tests.crash.segments import Uses
from tests.crash.stamp import Load, Signature, Writers, read_stamps
from tests.mounted_pool import CHILDREN_S, MountedPool, alive_in_group, wait_until

VOLUME_UNITS = 48 << 11  # 48 MiB
LOAD = Load(units=VOLUME_UNITS)
RESTART_S = 60.0
ROUNDS_TO_TELL = 10  # a run of so many has met what it is for: used a segment again, for one
SMALL_CACHE = {
    "VPOOL_CACHE__SIZE_BYTES": "256MiB",
    "VPOOL_CACHE__READ_CACHE_BYTES": "166MiB",  # which leaves the log 22 segments, the least for this hard limit
    "VPOOL_CACHE__MAP_CACHE_BYTES": "8MiB",
    "VPOOL_VOLUMES__SOFT_BYTES": "12MiB",
    "VPOOL_VOLUMES__HARD_BYTES": "24MiB",
    "VPOOL_VOLUMES__SCOS_PER_TLOG": "2",
    "VPOOL_VOLUMES__TLOG_AGE_S": "0.5",
    "VPOOL_VOLUMES__TLOGS_PER_CHECKPOINT": "4",
    "VPOOL_VOLUMES__STOP_S": "20",
    "VPOOL_FUSE__ATTRIBUTES_TIMEOUT_S": "0",  # what is wrong is to be seen, not remembered
    "VPOOL_FUSE__ENTRY_TIMEOUT_S": "0",
}


class Ending(enum.Enum):
    """How a life ends."""

    LOAD = "killed under load"
    STOP = "killed within a clean stop"
    CLEAN = "stopped"


@dataclass(frozen=True, slots=True)
class Plan:
    """A round: how long it is written to, how the daemon ends, and what happens before it is up again."""

    ending: Ending
    load_s: float
    kill_s: float  # after the signal to stop, for STOP
    loses_cache: bool
    failed_starts_s: tuple[float, ...]  # after how long each start that is to fail is killed

    @classmethod
    def throw(cls, dice: random.Random, load_s: float, number: int) -> Plan:
        """By chance; a third of the rounds lose the cache, three in a row, so that in the six between segments are reused."""
        ending = dice.choices(list(Ending), weights=(6, 2, 1))[0]
        starts = dice.choices((0, 1, 2), weights=(6, 3, 1))[0]
        return cls(
            ending=ending,
            load_s=dice.uniform(0.05, load_s),
            kill_s=dice.uniform(0, 0.8),
            loses_cache=number % 9 in (2, 3, 4),
            failed_starts_s=tuple(dice.uniform(0, 1.5) for _ in range(starts)),
        )


@dataclass(slots=True)
class Lives:
    """A pool with what was written to it; ``begin`` once, then ``round`` again and again."""

    pool: MountedPool
    seed: int
    load: Load = LOAD
    load_s: float = 1.2
    before_kill: Callable[[], None] = lambda: None
    history: History = field(default_factory=History)
    counts: Counter[str] = field(default_factory=Counter)
    segments: Uses = field(default_factory=Uses)
    journals: Journals = field(init=False)
    _dice: random.Random = field(init=False)
    _number: int = 0

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)
        self.journals = Journals(self.pool.mount / "files", self.seed)

    def begin(self) -> None:
        """Make the volume and the directory of files in a pool that runs."""
        self.pool.make_volume("disk.raw", self.load.units * UNIT_BYTES)
        self.journals.directory.mkdir()

    def round(self) -> None:
        """One more life and its end. Violation, or AssertionError, with what is needed to look for its cause."""
        self._number += 1
        plan = Plan.throw(self._dice, self.load_s, self._number)
        print(f"round {self._number}: {plan}", flush=True)
        try:
            self._live(plan)
            self._restart(plan)
            self._check(cache_lost=plan.loses_cache)
            self._look_at_log()
        except BaseException:
            print(f"VPOOL_SEED={self.seed}, round {self._number}: {plan}\n{self.pool.tail_of_log(60)}", flush=True)
            raise
        self.counts[plan.ending.value] += 1
        self.counts["caches lost"] += plan.loses_cache
        self.counts["starts killed"] += len(plan.failed_starts_s)

    def assert_segments_were_reused(self) -> None:
        """Else a run that was long enough has shown nothing of recycled segments."""
        print(f"{self.segments.again} segments used again", flush=True)
        assert self._number < ROUNDS_TO_TELL or self.segments.again, "no segment of the log was used again"

    def _live(self, plan: Plan) -> None:
        stop = threading.Event()
        signature = Signature(self.seed, self._number, 0)
        files = threading.Thread(target=self.journals.work, args=(self._number, stop), name="journals", daemon=True)
        with Writers(self.pool.mount / "disk.raw", self.history, self.load, signature) as writers:
            files.start()
            time.sleep(plan.load_s)  # the moment of the kill is what is random here
            errors = [*writers.errors, *self.journals.errors]
            assert not errors, f"requests failed while the daemon was there: {errors}"
            if plan.ending is Ending.CLEAN:
                self._join(writers, files, stop)
                code = self.pool.stop()
                assert code == 0, f"a clean stop ended with {code}"
                if not self._left_a_tail():
                    self.history.everything_is_safe()
                    self.journals.history.everything_is_safe()
            else:
                self._kill(plan.kill_s if plan.ending is Ending.STOP else None)
                self._join(writers, files, stop)
        self.segments.look(self.pool.directory / "cache")
        errors = [*writers.errors, *self.journals.errors]
        if plan.ending is not Ending.CLEAN:
            errors = [error for error in errors if not _is_of_a_reply_cut_off(error)]
        assert not errors, f"wrong reads, or errors other than those of a daemon that is gone: {errors}"
        self.counts["writes"] += writers.acknowledged
        self.counts["reads"] += writers.reads
        self.counts["fsyncs"] += writers.fsyncs

    def _join(self, writers: Writers, files: threading.Thread, stop: threading.Event) -> None:
        stop.set()
        files.join(60)
        assert not files.is_alive(), "a request on a file hangs although the daemon is gone or was told to stop"
        writers.stop()

    def _kill(self, after_term_s: float | None) -> None:
        """``kill -9`` of the daemon alone; what it has started must end by itself."""
        pid = self.pool.pid
        if after_term_s is not None:
            os.kill(pid, signal.SIGTERM)
            time.sleep(after_term_s)
        self.before_kill()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not alive_in_group(pid), "the daemon's children end with it", CHILDREN_S)
        self.pool.kill()

    def _restart(self, plan: Plan) -> None:
        if plan.loses_cache:
            shutil.rmtree(self.pool.directory / "cache")
            self.segments.look(self.pool.directory / "cache")
        for after_s in plan.failed_starts_s:
            self.pool.spawn()
            time.sleep(after_s)
            self._kill(None)
        took_s = self.pool.start(RESTART_S)
        self.counts["restart ms"] += int(took_s * 1000)

    def _check(self, *, cache_lost: bool) -> None:
        units = range(self.load.units)
        seen = read_stamps(self.pool.mount / "disk.raw", 0, self.load.units, self.seed)
        found = self.history.judge(seen, units, cache_lost=cache_lost)
        self.history.settle(seen, units)
        files = self.journals.check(cache_lost=cache_lost)
        self._note(found, files)

    def _note(self, found: Judgement, files: int) -> None:
        print(f"round {self._number}: {found}, {files} units of files", flush=True)
        self.counts["writes lost with a cache"] += found.lost_acknowledged

    def _left_a_tail(self) -> bool:
        return any(line.get("event") == "tail_left_in_cache" for line in log_lines(self.pool)[-20:])

    def _look_at_log(self) -> None:
        """Nothing that says a promise was broken, and no traceback, may be in the log."""
        bad = [line for line in log_lines(self.pool) if line.get("level") in ("error", "critical") or "exception" in line]
        assert not bad, f"unexpected lines in the daemon's log: {bad[:3]}"


def log_lines(pool: MountedPool) -> list[dict[str, object]]:
    """What the daemon has logged so far; lines that are not JSON count as errors unless they say that it is ready."""
    lines: list[dict[str, object]] = []
    for text in pool.log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            line = {"event": text} if text.startswith("vpool ready") or not text.strip() else {"event": text, "level": "error"}
        lines.append(line if isinstance(line, dict) else {"event": text})
    return lines


def chosen_seed() -> int:
    """``VPOOL_SEED``, else a new one; printed."""
    seed = int(os.environ.get("VPOOL_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"VPOOL_SEED={seed}", flush=True)
    return seed


def chosen_rounds(rounds: int, *, least: int, within_s: float) -> Iterator[int]:
    """Numbers of rounds: ``VPOOL_ROUNDS`` of them; else ``rounds``, or fewer (but ``least``) where they take too long."""
    given = os.environ.get("VPOOL_ROUNDS")
    end_s = time.monotonic() + within_s
    for number in range(1, int(given or rounds) + 1):
        if not given and number > least and time.monotonic() > end_s:
            print(f"the time for {rounds} rounds is over after {number - 1}", flush=True)
            return
        yield number


__all__ = ["ROUNDS_TO_TELL", "SMALL_CACHE", "Ending", "Lives", "Plan", "chosen_rounds", "chosen_seed", "log_lines"]


def _is_of_a_reply_cut_off(error: Exception) -> bool:
    """The kernel's answer to a request whose reply was being written when the daemon was killed (fuse_dev_do_write: the pages of
    a process with a fatal signal cannot be had). Before the kill no error of any kind is taken."""
    return isinstance(error, OSError) and error.errno == errno.EIO
