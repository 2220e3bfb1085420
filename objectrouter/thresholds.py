"""When an object should move to the node that uses it: decaying counters of requests. Pure.

Each node counts what it asks of an object, whether it owns it or not; older requests count for less. A node that does not own it
and has passed the threshold asks for it, and says its count. The owner grants that only if the asker uses it clearly more than it
does itself (``yields``), and after a minimum stay: two hosts that use an object alike leave it where it is.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Threshold:
    """``forwards`` within about 1.4 half-lives. A longer ``half_life_s`` moves objects later, and less often to and fro."""

    forwards: float = 2000.0
    half_life_s: float = 30.0
    again_s: float = 5.0  # after a refusal
    ratio: float = 2.0  # of the asker's use to the owner's


class UseCounter:
    """Of one object on one node."""

    def __init__(self, threshold: Threshold | None = None) -> None:
        self.threshold = threshold or Threshold()
        self._count = 0.0
        self._at = 0.0
        self._not_before = 0.0

    def count(self, now: float) -> float:
        """Requests, decayed."""
        return float(self._count * 2.0 ** ((self._at - now) / self.threshold.half_life_s))

    def used(self, now: float, requests: int = 1) -> None:
        """Some have been made here."""
        self._count, self._at = self.count(now) + requests, now

    def wants(self, now: float) -> bool:
        """Whether a node that does not own the object should ask for it now."""
        return now >= self._not_before and self.count(now) > self.threshold.forwards

    def refused(self, now: float) -> None:
        """The owner has said no, or the hand-over was given up."""
        self._not_before = now + self.threshold.again_s

    def yields(self, asker: float, now: float) -> bool:
        """On the owner: whether a node with that count should have the object."""
        return asker >= self.threshold.ratio * self.count(now)
