"""Frames between routers about who owns an object. Pure; docs/formats/cluster.md has the table."""

from __future__ import annotations

from objectrouter.handover_messages import Ask, Cancelled, Copied, Copy, Denied, Finish, Granted, Ready
from objectrouter.wire_parts import ENTRIES, FLAG, LINEAGE, NUMBER, REAL, RECORDS, TEXT, FrameTable, word

HandoverMessage = Ask | Denied | Granted | Copy | Copied | Finish | Ready | Cancelled
OwnershipMessage = HandoverMessage

_ATTEMPT = (TEXT, NUMBER, NUMBER)  # object, epoch, attempt
OWNERSHIP = FrameTable(
    {
        20: (Ask, (TEXT, NUMBER, NUMBER, REAL, FLAG)),
        21: (Denied, (TEXT, NUMBER, word("not-owner", "busy", "stay", "used", "status", "no-room"))),
        22: (Granted, (*_ATTEMPT, NUMBER, NUMBER, LINEAGE)),
        23: (Copy, (*_ATTEMPT, RECORDS)),
        24: (Copied, (*_ATTEMPT, NUMBER)),
        25: (Finish, (*_ATTEMPT, NUMBER, LINEAGE, ENTRIES)),
        26: (Ready, _ATTEMPT),
        27: (Cancelled, _ATTEMPT),
    }
)
