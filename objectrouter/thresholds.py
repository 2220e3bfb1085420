"""When an object should move to the node that uses it: decaying counters of forwarded requests. Pure.

Counted where requests are sent from: a node that forwards more than ``forwards`` requests, of which older ones count for less,
asks for the object. The owner adds what only it knows: how much it uses the object itself, and that it has stayed long enough.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Threshold:
    """``forwards`` within about 1.4 half-lives. A longer ``half_life_s`` moves objects later, and less often to and fro."""

    forwards: float = 2000.0
    half_life_s: float = 30.0
    again_s: float = 5.0  # after a refusal


class ForwardCounter:
    """Of one object on a node that does not own it."""

    def __init__(self, threshold: Threshold | None = None) -> None:
        self._threshold = threshold or Threshold()
        self._count = 0.0
        self._at = 0.0
        self._not_before = 0.0

    def count(self, now: float) -> float:
        """Forwarded requests, decayed."""
        return float(self._count * 2.0 ** ((self._at - now) / self._threshold.half_life_s))

    def forwarded(self, now: float, requests: int = 1) -> bool:
        """Some have been forwarded; True if the object should be asked for now."""
        self._count, self._at = self.count(now) + requests, now
        return self._count > self._threshold.forwards and now >= self._not_before

    def refused(self, now: float) -> None:
        """The owner has said no, or the hand-over was given up."""
        self._not_before = now + self._threshold.again_s

    def reset(self, now: float) -> None:
        """The object has another owner, or is here."""
        self._count, self._at = 0.0, now
