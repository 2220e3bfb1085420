"""What a node does with the logs of an object that it finds on its own disk, as the registry stands. Pure.

A log is marked, durably, with the epochs for which it is the object's log: the one that it serves, and, *before* ``NewEpoch`` is
submitted, the one after. What a hand-over or a steal stages is marked with the epoch that is to come of it. Without these marks a
log that somebody else has continued since could not be told from one whose owner died too early to know that it had its epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from registry import ObjectRecord


@dataclass(frozen=True, slots=True)
class StagedMark:
    """Of what is staged."""

    epoch: int  # it is the object's log at this epoch
    attempt: int | None  # of a hand-over; None: of a steal
    complete: bool  # a hand-over: with ``Finish``; a steal: always


def log_to_open(record: ObjectRecord, own: frozenset[int] | None, staged: StagedMark | None) -> Literal["staged", "own", "none"]:
    """Which log a node opens that owns the object, or finds it without an owner. ``own``: marks of its log, None without one.

    "none": all that is left is in the backend, unless a peer in sync has the tail (then ``Thief``, from itself).
    """
    if staged is not None and staged.complete and staged.epoch == record.epoch and staged.attempt in (None, record.attempt):
        return "staged"
    return "own" if own is not None and record.epoch in own else "none"


@dataclass(frozen=True, slots=True)
class Fate:
    """Of the log of a node that does not own the object any more."""

    what: Literal["store", "keep", "drop"]
    epoch: int = 0  # store: it ends where this epoch ended


def fate_of_log(record: ObjectRecord, me: str, own: frozenset[int], stored_epoch: int) -> Fate:
    """What becomes of a log here. ``stored_epoch``: of the newest session of the DTL store that there is already, or 0.

    "store": it is kept as the object's DTL store, for the new owner and its heads to dispose of. "keep": it may hold what nobody
    else does, or the registry shows too little yet. "drop": a head has passed it, or an administrator has said so.
    """
    newest = max(own)
    if newest > record.epoch:
        return Fate("keep")  # an epoch that was about to be taken: its outcome does not show yet
    mine = [remains for remains in record.remains if remains.node == me and remains.epoch in own]
    if mine:
        left = mine[-1]
        return Fate("keep") if left.lost or stored_epoch >= left.epoch else Fate("store", left.epoch)
    if record.dtl.peer == me and record.epoch - 1 in own and stored_epoch < record.epoch - 1:
        return Fate("store", record.epoch - 1)  # a head has passed it, and the new owner counts on it all the same
    return Fate("drop") if record.epoch > newest else Fate("keep")
