"""Whether the cache's disk of a node of a cluster is dead, so that the node should give way to those who can go on.

A slow or a full disk is not dead: waiting helps there. Dead is one that refuses to write, again and again, *after* a log of this
node has halted over it. And giving way is right only if somebody can take over without loss; else whatever can still be read is
worth more, and it is for an administrator to decide.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import structlog
import trio

from registry import DtlState, RegistryView

log = structlog.get_logger()

LOOK_S = 1.0
REFUSALS = 3  # one after the other
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_PROBE = ".alive"


class DiskWatch:
    """``run`` looks; ``is_dead`` is what it has found. ``halted``: whether a log of this node has halted (cheap)."""

    def __init__(self, cache: Path, halted: Callable[[], bool]) -> None:
        self.is_dead = False
        self._cache, self._halted = cache, halted
        self._refusals = 0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await trio.sleep(LOOK_S)
            if self.is_dead or self._halted():
                reason = await trio.to_thread.run_sync(refusal, self._cache, abandon_on_cancel=True)
                self.found(reason)

    def found(self, reason: str) -> None:
        """The disk has been tried: why it refuses; "" if it does not."""
        self._refusals = self._refusals + 1 if reason else 0
        dead = self._refusals >= REFUSALS
        if dead and not self.is_dead:
            log.error("cache_disk_dead", directory=str(self._cache), reason=reason)
        self.is_dead = dead


def refusal(cache: Path) -> str:
    """Write a little there and sync it: why that fails; "" if it does not, or only for want of room. Blocks."""
    path = cache / _PROBE
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(descriptor, os.urandom(512), 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.unlink(path)
    except OSError as error:
        return "" if error.errno in _NO_ROOM else str(error.strerror)
    return ""


def somebody_can_take_over(view: RegistryView, node: str) -> bool:
    """Whether anything that a node owns is in sync on another one that lives."""
    living = {record.id for record in view.nodes() if not record.expired and record.id != node}
    return bool(living) and any(
        record.owner == node and record.dtl.state is DtlState.IN_SYNC and record.dtl.peer in living
        for record in view.objects_with_log()
    )
