"""What routers say to each other about requests on an object. Pure.

A request keeps its id (``Origin``: node, incarnation, number within the object) whatever happens to it; it is sent under the
epoch that the sender believes in, and an answer counts only under the epoch under which the request was sent last.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from volumedriver import Origin


class RequestKind(str, Enum):
    """All that the protocols tell apart."""

    READ = "read"
    WRITE = "write"  # anything that changes the object: write, write zeroes, discard, resize
    FLUSH = "flush"


@dataclass(frozen=True, slots=True)
class Request:
    """One request, as sent. ``payload`` means nothing to the protocols."""

    object: str
    origin: Origin
    session: int  # of the sender with this receiver, within its incarnation; a newer one fences what is left of the older
    lowest: int  # the sender has had the answers to all numbers below this one
    epoch: int
    first_epoch: int  # under which it was sent first
    kind: RequestKind
    payload: Any
    acknowledged: tuple[tuple[int, int], ...] = ()  # flush: (epoch, LSN) of the sender's last unflushed write of each epoch


@dataclass(frozen=True, slots=True)
class Done:
    """It has been executed; for a write ``epoch`` and ``lsn`` name its record."""

    value: Any = None
    epoch: int = 0
    lsn: int = 0


@dataclass(frozen=True, slots=True)
class Moved:
    """Not executed here: the receiver does not own the object at the request's epoch. ``owner`` "": it does not know who does."""

    owner: str
    epoch: int


WhyFailed = Literal["fenced", "lost", "invalid", "waited"]


@dataclass(frozen=True, slots=True)
class Failed:
    """It is not executed, or may not have been, and will not be sent again.

    ``fenced``: the sender's incarnation is over. ``lost``: a flush of writes that were acknowledged and have not survived (an
    error that is told once, as fsync does); or a write of which nobody knows any more whether it has been executed. ``invalid``:
    the sender breaks the rules. ``waited``: no owner in time.
    """

    why: WhyFailed


Answer = Done | Moved | Failed


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer on its way back."""

    object: str
    origin: Origin
    epoch: int  # the request's
    answer: Answer
