"""What the protocols know of an object's log: records with numbers (LSNs), and which epoch wrote which. Pure.

LSNs count from 1 over the whole life of an object and continue across epochs. An epoch has one writer, and every restart takes a
new epoch, so (epoch, LSN) names one record for ever, and two logs that agree on one record agree on all before it. A *lineage*
says from which LSN on each epoch wrote; comparing two lineages finds where two logs part, without looking at a byte.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asked for a write: a request's id. Numbers count up within an object and a node's incarnation."""

    node: str
    incarnation: int
    number: int


@dataclass(frozen=True, slots=True)
class TailRecord:
    """A record of the tail as it travels, or a run of consecutive ones; ``payload`` means nothing to the protocols."""

    lsn: int  # of the first
    origin: Origin | None  # None: written by the owner itself; also of a run
    payload: object
    count: int = 1

    @property
    def last_lsn(self) -> int:
        """Of the last."""
        return self.lsn + self.count - 1


@dataclass(frozen=True, slots=True)
class Lineage:
    """(epoch, first LSN) of every epoch that wrote, ascending in both."""

    starts: tuple[tuple[int, int], ...] = ()

    def epoch_at(self, lsn: int) -> int:
        """The epoch that wrote a record; 0 before the first."""
        for epoch, first in reversed(self.starts):
            if first <= lsn:
                return epoch
        return 0

    def first_at(self, lsn: int) -> int:
        """The first LSN of the epoch that wrote a record; 1 before the first."""
        for _, first in reversed(self.starts):
            if first <= lsn:
                return first
        return 1

    def with_epoch(self, epoch: int, first_lsn: int) -> Lineage:
        """An epoch begins; what was written at or past its first LSN before is cut off."""
        return Lineage((*[start for start in self.starts if start[1] < first_lsn], (epoch, first_lsn)))

    def holds(self, epoch: int, lsn: int, end_lsn: int) -> bool:
        """Whether a log with this lineage, which ends at ``end_lsn``, has the record that ``epoch`` wrote at ``lsn``."""
        return lsn <= end_lsn and self.epoch_at(lsn) == epoch

    def common_end(self, end_lsn: int, other: Lineage, other_end_lsn: int) -> int:
        """The last LSN up to which two logs are the same; 0 if they have nothing in common."""
        lsn = min(end_lsn, other_end_lsn)
        while lsn > 0 and self.epoch_at(lsn) != other.epoch_at(lsn):
            lsn = max(self.first_at(lsn), other.first_at(lsn)) - 1
        return lsn
