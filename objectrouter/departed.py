"""Inodes that have lost their last name and that the registry has dropped, for clients that still have them. Pure.

POSIX lets a process keep a removed directory as its working directory, or a removed pipe open, and look at it. Such an inode is
in the memory of this node only, which is enough: whoever has it open has it by a mount of this node.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

from registry import Inode

DEPARTED_MAX = 4096  # the newest; that many removed things in use at once are not expected


class Departed:
    """The newest ``DEPARTED_MAX`` of them."""

    def __init__(self) -> None:
        self._inodes: OrderedDict[int, Inode] = OrderedDict()

    def add(self, inode: Inode, now_ns: int) -> None:
        """One more, without a name from now on."""
        self._inodes[inode.number] = replace(inode, nlink=0, ctime_ns=max(now_ns, inode.ctime_ns))
        if len(self._inodes) > DEPARTED_MAX:
            self._inodes.popitem(last=False)

    def get(self, number: int) -> Inode | None:
        """The inode, if it is remembered."""
        return self._inodes.get(number)

    def change(self, inode: Inode) -> Inode:
        """Keep other attributes of one that is remembered."""
        self._inodes[inode.number] = inode
        return inode
