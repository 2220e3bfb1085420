"""Frames between routers about who owns an object. Pure; docs/formats/cluster.md has the table."""

from __future__ import annotations

from typing import get_args

from objectrouter.handover_messages import Ask, Cancelled, Copied, Copy, Denied, Finish, Granted, Ready
from objectrouter.wire_parts import ENTRIES, FLAG, LINEAGE, NUMBER, REAL, RECORDS, TEXT, FrameTable, word
from objectrouter.wishes import Bid, Wish, WishState

HandoverMessage = Ask | Denied | Granted | Copy | Copied | Finish | Ready | Cancelled
OwnershipMessage = HandoverMessage | Bid | Wish

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
        28: (Bid, (TEXT, NUMBER, FLAG)),
        29: (Wish, (TEXT, NUMBER, word(*get_args(WishState)), NUMBER, NUMBER, TEXT)),
    }
)
