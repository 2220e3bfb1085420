"""What a node that carries out an administrator's command says to the node that is to have an object. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

WishState = Literal["asking", "receiving", "finishing", "ready", "over", "opening", "done", "failed"]


@dataclass(frozen=True, slots=True)
class Bid:
    """Ask its owner for the object; said again and again, as long as somebody watches.

    ``ticket``: of the command; a wish that has ended is not begun anew under it. ``cancel``: nobody wants it any more.
    """

    object: str
    ticket: int
    cancel: bool = False


@dataclass(frozen=True, slots=True)
class Wish:
    """How a wish goes, or went; the answer to ``Bid``."""

    object: str
    ticket: int
    state: WishState
    came: int = 0  # records
    wanted: int = 0  # records, as of the beginning
    why: str = ""  # of one that has failed
