"""What a stamped writer did, and which contents of the disk that allows. Pure: no I/O, no clock, no randomness.

The *units* of a history are 512-byte sectors. Every write has a number of its own (its *sequence*), which is also in each sector
it writes, so a reader can tell whose write it sees. Requests that overlap are never under way together, so the writes of one unit
have one order; and a request A comes *before* B where A was acknowledged before B was issued.

A history lives over many rounds (a round ends with a kill and a restart). ``judge`` compares what is seen after a restart with
what was done; ``settle`` then makes it the past: what is not there any more is dead and must never be seen again.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

UNIT_BYTES = 512
CLUSTER_UNITS = 8
NEVER_WRITTEN = 0
PROBLEMS_SHOWN = 8


class Violation(AssertionError):
    """What is seen is not a content that the promises allow."""


@dataclass(slots=True, eq=False)
class Write:
    """One request; ``acknowledged`` stays None where the daemon died before it answered."""

    sequence: int  # when it was issued, too: numbers are given in that order
    first: int
    count: int
    acknowledged: int | None = None

    @property
    def end(self) -> int:
        return self.first + self.count

    def covers_cluster(self, unit: int) -> bool:
        """Whether it has written the whole 4 KiB cluster of ``unit`` (and so may not be seen in a part of it)."""
        start = unit - unit % CLUSTER_UNITS
        return self.first <= start and start + CLUSTER_UNITS <= self.end

    def __str__(self) -> str:
        answer = "not acknowledged" if self.acknowledged is None else f"acknowledged at {self.acknowledged}"
        return f"write {self.sequence} of units {self.first}+{self.count} ({answer})"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a restart has kept and lost; only of contents that are allowed."""

    writes: int  # requests with a unit that was compared
    lost: int  # requests of which at least one unit is gone
    lost_acknowledged: int


@dataclass(slots=True)
class History:
    """All writes to one address space, by unit in their order. May be used by many threads."""

    _units: defaultdict[int, list[Write]] = field(default_factory=lambda: defaultdict(list))
    _in_flight: set[Write] = field(default_factory=set)
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _safe: int = 0

    def issue(self, first: int, count: int) -> Write | None:
        """Note a request that is about to be sent; None where it overlaps one under way (then take another place)."""
        with self._lock:
            if any(first < other.end and other.first < first + count for other in self._in_flight):
                return None
            self._now += 1
            write = Write(self._now, first, count)
            self._in_flight.add(write)
            for unit in range(first, write.end):
                self._units[unit].append(write)
            return write

    def acknowledge(self, write: Write) -> None:
        """Note that a request was answered."""
        with self._lock:
            self._now += 1
            write.acknowledged = self._now
            self._in_flight.remove(write)

    def refuse(self, write: Write) -> None:
        """Note that a request has failed: it may or may not have been done, and nothing of it is under way any more."""
        with self._lock:
            self._in_flight.remove(write)

    def floor(self, first: int, count: int) -> dict[int, int]:
        """The oldest content that a read which begins now may return: unit → newest acknowledged sequence."""
        with self._lock:
            return {unit: _newest_acknowledged(self._units.get(unit, [])) for unit in range(first, first + count)}

    def compare(self, floor: Mapping[int, int], seen: Mapping[int, int]) -> None:
        """Check a read against the floor from before it, whatever was written meanwhile. Violation."""
        with self._lock:
            for unit, oldest in floor.items():
                found = seen.get(unit, NEVER_WRITTEN)
                if found < oldest:
                    raise Violation(f"stale read: unit {unit} showed write {found} after write {oldest} was acknowledged")
                if found and _find(self._units.get(unit, []), found) is None:
                    raise Violation(
                        f"unit {unit} showed write {found}, which is none of its writes: {_names(self._units.get(unit, []))}"
                    )

    def everything_is_safe(self) -> None:
        """Note that all that was acknowledged until now is in the backend: from now on no loss of a cache may take it."""
        with self._lock:
            self._now += 1
            self._safe = self._now

    def judge(self, seen: Mapping[int, int], units: Iterable[int], *, cache_lost: bool) -> Judgement:
        """Compare the sequence seen in each unit with the history.

        Args:
            seen: unit → sequence in it; units that are not in it, or 0, were read as zeros.
            units: all units that were read.
            cache_lost: the loss of a tail is allowed; then what is left must be a prefix of the order of the writes.

        Raises:
            Violation: says for the first few units what is wrong.
        """
        problems: list[str] = []
        shown: set[Write] = set()
        lost: dict[Write, int] = {}
        for unit in units:
            done = self._units.get(unit, [])
            place = _find(done, seen.get(unit, NEVER_WRITTEN))
            if place is None:
                problems.append(
                    f"unit {unit} has write {seen[unit]}, which was never (or is no longer) one of its writes: {_names(done)}"
                )
                continue
            if place >= 0:
                shown.add(done[place])
                problems += _torn(unit, done[place], seen)
            for write in done[place + 1 :]:
                lost.setdefault(write, unit)
        problems += self._not_allowed(lost, cache_lost)
        problems += _gap(shown, lost)
        if problems:
            more = f"\n… and {len(problems) - PROBLEMS_SHOWN} more" if len(problems) > PROBLEMS_SHOWN else ""
            raise Violation("\n".join(problems[:PROBLEMS_SHOWN]) + more)
        return Judgement(
            writes=len(shown | lost.keys()),
            lost=len(lost),
            lost_acknowledged=sum(write.acknowledged is not None for write in lost),
        )

    def settle(self, seen: Mapping[int, int], units: Iterable[int]) -> None:
        """Make what is seen the past. Only after ``judge`` has found it right, and with no request under way."""
        assert not self._in_flight, "a request is still under way"
        self._now += 1
        for unit in units:
            done = self._units.get(unit)
            if not done:
                continue
            place = _find(done, seen.get(unit, NEVER_WRITTEN))
            assert place is not None
            del done[place + 1 :]
            for write in done:
                if write.acknowledged is None:
                    write.acknowledged = self._now
            oldest = _newest_safe(done, self._safe)
            if oldest > 0:
                del done[:oldest]

    def forget(self, units: Iterable[int]) -> None:
        """Drop units that nothing can reach any more, for instance those of a deleted file."""
        with self._lock:
            for unit in units:
                self._units.pop(unit, None)

    def _not_allowed(self, lost: Mapping[Write, int], cache_lost: bool) -> list[str]:
        limit = self._safe if cache_lost else self._now + 1
        why = "although it was in the backend" if cache_lost else "although the cache was kept"
        return [
            f"{write} is lost at unit {unit}, {why}"
            for write, unit in lost.items()
            if write.acknowledged is not None and write.acknowledged <= limit
        ]


def _torn(unit: int, write: Write, seen: Mapping[int, int]) -> list[str]:
    """A write of a whole cluster is in all of it, or newer ones are."""
    if not write.covers_cluster(unit):
        return []
    start = unit - unit % CLUSTER_UNITS
    torn = [other for other in range(start, start + CLUSTER_UNITS) if seen.get(other, NEVER_WRITTEN) < write.sequence]
    if torn:
        return [f"cluster {start // CLUSTER_UNITS} is torn: unit {unit} has {write}, units {torn} have older ones"]
    return []


def _find(done: list[Write], sequence: int) -> int | None:
    """Index of the newest write whose content is seen; -1: none of them; None: it is not one of them."""
    for index in range(len(done) - 1, -1, -1):
        if done[index].sequence == sequence:
            return index
    return -1 if sequence == NEVER_WRITTEN else None


def _gap(shown: set[Write], lost: Mapping[Write, int]) -> list[str]:
    """A prefix: no write is seen that was issued after a lost one was acknowledged."""
    first_lost = min((write for write in lost if write.acknowledged is not None), key=_answered, default=None)
    if first_lost is None:
        return []
    late = [write for write in shown if write.sequence > _answered(first_lost)]
    if not late:
        return []
    newest = max(late, key=lambda write: write.sequence)
    return [f"not a prefix: {first_lost} is lost at unit {lost[first_lost]}, but {len(late)} later ones are there: {newest}"]


def _answered(write: Write) -> int:
    assert write.acknowledged is not None
    return write.acknowledged


def _newest_acknowledged(done: list[Write]) -> int:
    return next((write.sequence for write in reversed(done) if write.acknowledged is not None), NEVER_WRITTEN)


def _newest_safe(done: list[Write], safe: int) -> int:
    """Index of the newest write that no loss can take; what is before it can never be seen again."""
    for index in range(len(done) - 1, -1, -1):
        acknowledged = done[index].acknowledged
        if acknowledged is not None and acknowledged <= safe:
            return index
    return -1


def _names(done: list[Write]) -> str:
    return ", ".join(str(write.sequence) for write in done[-6:]) or "none"
