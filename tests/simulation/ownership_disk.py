"""What a host's disk has of each object: a log of its own, what is staged, and what it keeps for others."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from objectrouter.handover_messages import Finish
from volumedriver import Entries, Kept, Lineage, TailRecord


@dataclass(slots=True)
class Log:
    """Records past ``trimmed``; what is before is in the backend."""

    trimmed: int
    records: list[TailRecord]
    lineage: Lineage
    executed: Entries  # of what is not in ``records``
    epochs: set[int]  # it is the object's log if the registry says one of these, and this node
    synced: int = 0
    lossy: bool = False  # a power cut has taken something, perhaps

    @property
    def end(self) -> int:
        return self.trimmed + len(self.records)

    def part(self, first: int, last: int) -> tuple[TailRecord, ...]:
        return tuple(self.records[first - self.trimmed - 1 : last - self.trimmed])

    def cut(self, end: int) -> None:
        del self.records[max(0, end - self.trimmed) :]
        self.synced = min(self.synced, end)

    def trim(self, through: int) -> None:
        through = min(through, self.end)
        if through > self.trimmed:
            del self.records[: through - self.trimmed]
            self.trimmed = through


@dataclass(slots=True)
class Staging:
    """From a hand-over (complete with ``finish``) or a steal."""

    epoch: int  # the object's log at this epoch
    attempt: int | None  # None: of a steal
    log: Log
    finish: Finish | None = None

    @property
    def complete(self) -> bool:
        return self.attempt is None or self.finish is not None


@dataclass(slots=True)
class Stored:
    kept: Kept
    records: list[TailRecord] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.kept.trimmed_through + len(self.records)


class Disk:
    def __init__(self) -> None:
        self.logs: dict[str, Log] = {}
        self.staged: dict[str, Staging] = {}
        self.stores: dict[str, Stored] = {}

    def power_cut(self, random: Random) -> None:
        """What was not synced is there as a prefix."""
        for log in self.logs.values():
            if log.end > log.synced:
                log.cut(random.randint(max(log.synced, log.trimmed), log.end))
            log.lossy = True

    def durable(self, object_id: str) -> tuple[Lineage, int]:
        stored, log = self.stores.get(object_id), self.logs.get(object_id)
        if stored is not None and stored.kept.epoch:
            return stored.kept.lineage, stored.end
        return (log.lineage, min(log.synced, log.end)) if log is not None else (Lineage(), 0)
