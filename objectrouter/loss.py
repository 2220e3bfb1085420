"""How much a take-over without a whole tail may lose, as far as anybody knows. Pure.

What is known is what the dead node said at its last renewal, which was at most a lease before it was lost; of what it took after
that nothing is known, and that is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from registry import DtlState, NodeRecord, ObjectRecord
from vpool.sizes import show_size


@dataclass(frozen=True, slots=True)
class Loss:
    """What may be lost with a node, of all that it served in the same way as the object.

    Attributes:
        bytes_at_most: as of ``reported_ms``; None: it has told nothing.
        age_s: for how long the oldest of it had been only there, at most.
        reported_ms: when that was, by the lost node's clock, Unix time; 0: never.
        not_open: logs of which it knew nothing itself.
        text: the same as a sentence.
    """

    bytes_at_most: int | None
    age_s: float
    reported_ms: int
    not_open: int
    text: str


def loss_of(record: ObjectRecord, owner: NodeRecord | None) -> Loss:
    """Of an object that its owner's death leaves without a whole tail."""
    told = None if owner is None else owner.unsaved
    if told is None or not told.at_ms:
        return Loss(None, 0.0, 0, 0, "how much that is nobody knows: its node has not told")
    amount = told.bytes if record.dtl.state is DtlState.IN_SYNC else told.unprotected_bytes
    age_s = told.age_ms / 1000 if amount else 0.0
    at = datetime.fromtimestamp(told.at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    in_sync = record.dtl.state is DtlState.IN_SYNC
    which = "of everything that it served" if in_sync else "of what it served without a second copy in sync"
    text = (
        f"when the node last reported ({at} by its clock), at most {show_size(amount)} {which} was not in the backend, the "
        f"oldest of it for {age_s:.1f} s; what it took since is unknown"
    )
    if told.not_open:
        text += f", and so is what {told.not_open} logs held that were not open there"
    return Loss(amount, age_s, told.at_ms, told.not_open, text)
