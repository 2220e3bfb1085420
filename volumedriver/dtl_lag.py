"""How far a peer is behind its owner's log, in bytes and in seconds. Pure.

The log's growth is noted in steps; a step that the peer has in part counts as one that it lacks, so what is told is never too
little. What a head has passed nobody lacks. Steps are bounded: when there are many, old ones are joined.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

STEPS_MAX = 1024
STEP_S = 0.01  # what comes within it is one step


@dataclass(slots=True)
class _Step:
    last_lsn: int
    total_bytes: int  # of the log, with this step
    since: float  # when its first record was noted


class Lag:
    """Of one log and its peers."""

    def __init__(self, end_lsn: int, tail_bytes: int, now: float) -> None:
        """``tail_bytes``: of what the log has already and no head has passed."""
        self._total, self._passed_bytes, self._stored = tail_bytes, 0, 0
        self._steps = [_Step(end_lsn, tail_bytes, now)] if tail_bytes else []

    def appended(self, end_lsn: int, added_bytes: int, now: float) -> None:
        """The log ends here now, and is so much longer."""
        self._total += added_bytes
        last = self._steps[-1] if self._steps else None
        if last is not None and last.last_lsn > self._stored and now - last.since < STEP_S:
            last.last_lsn, last.total_bytes = end_lsn, self._total
            return
        if len(self._steps) >= STEPS_MAX:
            self._join_old()
        self._steps.append(_Step(end_lsn, self._total, now))

    def trimmed(self, through_lsn: int) -> None:
        """A head has passed this."""
        gone = self._first_past(through_lsn)
        if gone:
            self._passed_bytes = self._steps[gone - 1].total_bytes
            del self._steps[:gone]

    def stored(self, through_lsn: int) -> None:
        """The peer that there is now has everything through this LSN, and not more."""
        self._stored = through_lsn

    @property
    def bytes(self) -> int:
        """That the peer lacks, at most."""
        first = self._first_past(self._stored)
        return self._total - (self._steps[first - 1].total_bytes if first else self._passed_bytes)

    def seconds(self, now: float) -> float:
        """For how long the oldest that it lacks has been in the log, at most."""
        first = self._first_past(self._stored)
        return max(0.0, now - self._steps[first].since) if first < len(self._steps) else 0.0

    def _first_past(self, lsn: int) -> int:
        return bisect_right(self._steps, lsn, key=lambda step: step.last_lsn)

    def _join_old(self) -> None:
        half = len(self._steps) // 2
        joined = [
            _Step(later.last_lsn, later.total_bytes, earlier.since)
            for earlier, later in zip(self._steps[0:half:2], self._steps[1:half:2], strict=True)
        ]
        self._steps[:half] = joined
