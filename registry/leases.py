"""Leases: who may serve until when, and who may be declared dead. Pure: every time is handed in.

**Why nobody serves when another takes over.** A node serves until the time at which it *sent* its last committed renewal, plus
the lease. Another sees that renewal applied after it was sent, waits for the lease and a margin (for clocks that run at
different rates), and proposes ``Expire(node, number)``. If a newer renewal stands before that in the log it is refused; if it
stands behind, the renewal is refused, so it never lengthens the lease. No clock is compared with another host's.

**Why nobody is expired for nothing.** A watcher counts only time in which it saw the registry commit: intervals between two
sightings that are no longer than ``sighting_s``. A registry that was away, a watcher that was cut off or paused count nothing.

All times are seconds of one clock per host, ``CLOCK_BOOTTIME`` (it goes on while a host sleeps).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LeaseTimings:
    """Seconds.

    A shorter lease is a quicker failover, and less time in which a slow registry goes unnoticed. ``margin_s`` pays for
    the difference of two clocks' rates over ``lease_s + margin_s`` and must never be 0.
    """

    lease_s: float = 4.0
    margin_s: float = 1.0
    renew_s: float = 0.5
    sighting_s: float = 1.0  # the longest interval between two sightings of a commit that counts

    def validate(self) -> None:
        """Rules across fields. Errors: ``ValueError``."""
        if not 0 < 2 * self.renew_s <= self.lease_s:
            raise ValueError("a lease must outlive two renewals: renew_s at most half of lease_s")
        if self.margin_s <= 0 or self.sighting_s < self.renew_s:
            raise ValueError("margin_s must be positive and sighting_s at least renew_s")


class Lease:
    """A node's own lease. Whoever replies asks ``serves`` at the reply, not at the admission."""

    def __init__(self, timings: LeaseTimings | None = None) -> None:
        self.timings = timings or LeaseTimings()
        self.timings.validate()
        self._sent: dict[int, float] = {}  # number -> when; those that may still be answered
        self._last_sent_at: float | None = None
        self._top = 0  # greatest number committed
        self._until: float | None = None
        self._ended = False

    @property
    def until(self) -> float | None:
        """The end of the lease as of now; None: it has never been had, or has been taken away."""
        return None if self._ended else self._until

    @property
    def ended(self) -> bool:
        """Whether the incarnation is over."""
        return self._ended

    def due(self, now: float) -> bool:
        """Whether the next renewal should be sent; the caller also asks whether the data path is healthy."""
        return not self._ended and (self._last_sent_at is None or now - self._last_sent_at >= self.timings.renew_s)

    def sent(self, number: int, now: float) -> None:
        """A renewal is about to leave, numbered above all before. To be called *before* it can be on its way."""
        if number in self._sent or number <= self._top:
            raise ValueError("a renewal has a number of its own, above those committed")
        self._sent[number] = now
        self._last_sent_at = now
        for old in [old for old, at in self._sent.items() if now - at > self.timings.lease_s]:
            del self._sent[old]  # its lease would be over before it began

    def committed(self, number: int) -> None:
        """The registry has committed a renewal; answers may come late, twice and in any order."""
        at = self._sent.pop(number, None)
        if at is None or self._ended:
            return
        self._top = max(self._top, number)
        if self._until is None or at + self.timings.lease_s > self._until:
            self._until = at + self.timings.lease_s

    def end(self) -> None:
        """The incarnation is over (a renewal was refused as fenced, or the node gives up): it never serves again."""
        self._ended = True
        self._sent.clear()

    def serves(self, now: float) -> bool:
        """Whether the node may acknowledge at this very moment."""
        return not self._ended and self._until is not None and now < self._until


@dataclass(slots=True)
class _Watched:
    incarnation: int
    number: int
    silent_s: float  # counted so far without a newer renewal
    patience_s: float  # more than lease and margin


class Watcher:
    """What one node knows of the others' renewals. Feed it what the local replica shows, then ask."""

    def __init__(self, timings: LeaseTimings | None = None) -> None:
        self.timings = timings or LeaseTimings()
        self.timings.validate()
        self._nodes: dict[str, _Watched] = {}
        self._sighted_at: float | None = None

    def saw_commit(self, now: float) -> None:
        """The registry has committed something at ``now`` or shortly before, after the last call (the own renewal will do)."""
        if self._sighted_at is not None and 0 < now - self._sighted_at <= self.timings.sighting_s:
            for watched in self._nodes.values():
                watched.silent_s += now - self._sighted_at
        self._sighted_at = now

    def renewed(self, node: str, number: int, now: float, incarnation: int = 0, *, patience_s: float = 0.0) -> None:
        """The local replica shows this as a node's newest renewal. Nothing new changes nothing.

        ``patience_s``: how much longer than others it may be silent (maintenance). To be called for every node before
        ``expirable``. What shows is as old as the replica: time before ``now`` is not counted for it.
        """
        watched = self._nodes.get(node)
        if watched is None or (watched.incarnation, watched.number) != (incarnation, number):
            # Of the interval that is running only the part from now on may count.
            begun = 0.0 if self._sighted_at is None else self._sighted_at - now
            self._nodes[node] = _Watched(incarnation, number, min(0.0, begun), patience_s)
        else:
            watched.patience_s = patience_s

    def forget(self, node: str) -> None:
        """The node has expired, has left, or is the watcher itself."""
        self._nodes.pop(node, None)

    def expirable(self, now: float) -> list[tuple[str, int]]:
        """(node, number of its last renewal) of those that may be proposed as dead, by name.

        Empty while the last sighting of a commit is older than ``sighting_s``.
        """
        if self._sighted_at is None or now - self._sighted_at > self.timings.sighting_s:
            return []
        silent_s = self.timings.lease_s + self.timings.margin_s
        return sorted(
            (node, watched.number) for node, watched in self._nodes.items() if watched.silent_s >= silent_s + watched.patience_s
        )

    def silent_s(self, node: str) -> float:
        """For how long a node has not renewed, as far as that counts."""
        watched = self._nodes.get(node)
        return max(0.0, watched.silent_s) if watched is not None else 0.0
