"""What an owner, its DTL peer and a thief say to each other. Pure.

A *session* is (epoch, number): the owner numbers its sessions within an epoch, and a peer takes only what belongs to the newest
it has begun, so that a late message of an older one cannot rewind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from volumedriver.executed import Entries
from volumedriver.tail import Lineage, TailRecord

WhyRefused = Literal["fenced", "session", "gap", "no-space"]


@dataclass(frozen=True, slots=True)
class Open:
    """Owner → peer: what do you hold? Changes nothing."""

    object: str
    epoch: int
    session: int


@dataclass(frozen=True, slots=True)
class Opened:
    """Peer → owner. ``holds``: it has a store of the object at all (else everything else is empty)."""

    object: str
    epoch: int
    session: int
    holds: bool
    end_lsn: int
    lineage: Lineage


@dataclass(frozen=True, slots=True)
class Begin:
    """Owner → peer: the session begins. Everything past ``keep_through`` is cut, records from ``first_lsn`` on will come.

    If ``first_lsn`` is not the next after what is kept, the rest is dropped: it lies before the head.
    """

    object: str
    epoch: int
    session: int
    keep_through: int
    first_lsn: int
    lineage: Lineage
    executed: Entries


@dataclass(frozen=True, slots=True)
class Append:
    """Owner → peer: records in order, and the table of what has been executed, with at least all that these records are of.

    None: the records say themselves whose they are.
    """

    object: str
    epoch: int
    session: int
    records: tuple[TailRecord, ...]
    executed: Entries | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """Peer → owner: everything through ``through`` is durable."""

    object: str
    epoch: int
    session: int
    through: int


@dataclass(frozen=True, slots=True)
class Trim:
    """Owner → peer: the head includes everything through ``through``; what requests it executed stays known."""

    object: str
    epoch: int
    session: int
    through: int
    executed: Entries


@dataclass(frozen=True, slots=True)
class Ping:
    """Owner → peer: am I fenced?"""

    object: str
    epoch: int
    session: int
    token: int


@dataclass(frozen=True, slots=True)
class Pong:
    """Peer → owner: no, and no fence will be confirmed before this has run out."""

    object: str
    epoch: int
    session: int
    token: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Peer → owner."""

    object: str
    epoch: int
    session: int
    why: WhyRefused


@dataclass(frozen=True, slots=True)
class Fence:
    """Thief → peer: refuse the owner of ``epoch`` and all before from now on, durably."""

    object: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Fenced:
    """Peer → thief: done, and no word given to the owner is valid any more."""

    object: str
    epoch: int
    holds: bool
    trimmed_through: int
    end_lsn: int
    lineage: Lineage
    executed: Entries


@dataclass(frozen=True, slots=True)
class Fetch:
    """Thief → peer: send me records from here on."""

    object: str
    epoch: int
    first_lsn: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """Peer → thief: records in order, beginning at the one asked for; as many as fit."""

    object: str
    epoch: int
    records: tuple[TailRecord, ...]


ToPeer = Open | Begin | Append | Trim | Ping | Fence | Fetch
FromPeer = Opened | Stored | Pong | Refused | Fenced | Fetched


@dataclass(frozen=True, slots=True)
class Send:
    """Effect: a message to a node, perhaps this one. It may be lost, late, doubled and overtaken."""

    node: str
    message: object
