"""Frames between routers about who owns an object. Pure; docs/formats/cluster.md has the table."""

from __future__ import annotations

from typing import get_args

from objectrouter.handover_messages import Ask, Cancelled, Copied, Copy, Denied, Finish, Granted, Ready
from objectrouter.wire_parts import ENTRIES, FLAG, LINEAGE, NUMBER, REAL, RECORDS, TEXT, FrameTable, word
from objectrouter.wishes import Bid, Wish, WishState
from volumedriver import Append, Fenced, Fetch, Fetched
from volumedriver import dtl_messages as dtl
from volumedriver.dtl_messages import Begin, Fence, Open, Opened, Refused, Stored, Trim

DtlMessage = (
    Open | Opened | Begin | Append | Stored | Trim | dtl.Ping | dtl.Pong | Refused | Fence | Fenced | Fetch | Fetched
)  # fmt: skip
HandoverMessage = Ask | Denied | Granted | Copy | Copied | Finish | Ready | Cancelled
OwnershipMessage = HandoverMessage | DtlMessage | Bid | Wish

_SESSION = (TEXT, NUMBER, NUMBER)  # object, epoch, session
_ATTEMPT = (TEXT, NUMBER, NUMBER)  # object, epoch, attempt
OWNERSHIP = FrameTable(
    {
        20: (Ask, (TEXT, NUMBER, NUMBER, REAL, FLAG)),
        21: (Denied, (TEXT, NUMBER, word("not-owner", "busy", "stay", "used", "status", "no-room", "nameless"))),
        22: (Granted, (*_ATTEMPT, NUMBER, NUMBER, LINEAGE)),
        23: (Copy, (*_ATTEMPT, RECORDS)),
        24: (Copied, (*_ATTEMPT, NUMBER)),
        25: (Finish, (*_ATTEMPT, NUMBER, LINEAGE, ENTRIES)),
        26: (Ready, _ATTEMPT),
        27: (Cancelled, _ATTEMPT),
        28: (Bid, (TEXT, NUMBER, FLAG)),
        29: (Wish, (TEXT, NUMBER, word(*get_args(WishState)), NUMBER, NUMBER, TEXT)),
        40: (Open, _SESSION),
        41: (Opened, (*_SESSION, FLAG, NUMBER, LINEAGE)),
        42: (Begin, (*_SESSION, NUMBER, NUMBER, LINEAGE, ENTRIES)),
        43: (Append, (*_SESSION, RECORDS)),
        44: (Stored, (*_SESSION, NUMBER)),
        45: (Trim, (*_SESSION, NUMBER, ENTRIES)),
        46: (dtl.Ping, (*_SESSION, NUMBER)),
        47: (dtl.Pong, (*_SESSION, NUMBER)),
        48: (Refused, (*_SESSION, word("fenced", "session", "gap", "no-space"))),
        60: (Fence, (TEXT, NUMBER)),
        61: (Fenced, (TEXT, NUMBER, FLAG, NUMBER, NUMBER, LINEAGE, ENTRIES)),
        62: (Fetch, (TEXT, NUMBER, NUMBER)),
        63: (Fetched, (TEXT, NUMBER, RECORDS)),
    }
)
