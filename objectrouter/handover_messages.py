"""What the source and the target of a hand-over say to each other. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from volumedriver import Entries, Lineage, TailRecord

WhyDenied = Literal["not-owner", "busy", "stay", "used", "status", "no-room", "nameless"]


@dataclass(frozen=True, slots=True)
class Ask:
    """Target → source: give me the object that you own at this epoch."""

    object: str
    epoch: int
    incarnation: int  # of the target
    use: float = 0.0  # how much the target uses it (``UseCounter.count``)
    by_command: bool = False  # an administrator wants it there: neither stay nor use matter


@dataclass(frozen=True, slots=True)
class Denied:
    """Source → target: not now. ``stay``: it has been here too short a time; ``used``: it is used here as well."""

    object: str
    epoch: int
    why: WhyDenied


@dataclass(frozen=True, slots=True)
class Granted:
    """Source → target: attempt begins; records from ``first_lsn`` on will come, what is before is in the backend."""

    object: str
    epoch: int
    attempt: int
    first_lsn: int
    end_lsn: int = field(default=0, compare=False)  # as of now
    lineage: Lineage = field(default=Lineage(), compare=False)  # as of now: what the target has may be a part of this


@dataclass(frozen=True, slots=True)
class Copy:
    """Source → target: records in order."""

    object: str
    epoch: int
    attempt: int
    records: tuple[TailRecord, ...]


@dataclass(frozen=True, slots=True)
class Copied:
    """Target → source: everything through ``through`` is durable here."""

    object: str
    epoch: int
    attempt: int
    through: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Source → target: I have stopped; the log ends at ``end_lsn``, and these requests have been executed."""

    object: str
    epoch: int
    attempt: int
    end_lsn: int
    lineage: Lineage
    executed: Entries


@dataclass(frozen=True, slots=True)
class Ready:
    """Target → source: all of it is durable here, with what ``Finish`` said."""

    object: str
    epoch: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Either way: this attempt is over. For the target that is a hint; the registry decides."""

    object: str
    epoch: int
    attempt: int


ToSource = Ask | Copied | Ready | Cancelled
ToTarget = Denied | Granted | Copy | Finish | Cancelled
