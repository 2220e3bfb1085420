"""The bytes of an object that another node owns: what ``volumedriver.Region`` is for one of this node.

Size and times are as the owner last told them, with every answer to a change; ``refresh`` asks. What is published is the owner's
to publish, so nothing is ever unpublished here.
"""

from __future__ import annotations

import trio

from objectrouter.operation import PART_BYTES, Attributes, Operation
from objectrouter.remote_object import RemoteObject
from vpool.errors import Invalid, VPoolError

REFRESH_S = 1.0


class RemoteRegion:
    """See ``volumedriver.Region`` for what each promises; all raise in addition what ``RemoteObject.request`` does."""

    lacks_map = False
    counting = False

    def __init__(self, remote: RemoteObject, attributes: Attributes) -> None:
        self.size, self.mtime_ns, self.ctime_ns, self._allocated = 0, 0, 0, attributes.allocated
        self.unpublished = False
        self.unsynced = False
        self._emptied = False
        self._remote = remote
        self._heard(attributes)

    async def read(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes; short, maybe empty, at the end."""
        parts = []
        while length > 0:
            asked = min(length, PART_BYTES)
            data = await self._remote.request(Operation("read", (offset, asked)), 0)
            assert isinstance(data, bytes)
            parts.append(data)
            if len(data) < asked:
                break
            offset, length = offset + asked, length - asked
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def write(self, offset: int, data: bytes) -> None:
        """Write and, beyond the end, grow. What is longer than ``PART_BYTES`` is several requests, one after the other."""
        self.unsynced = True
        if len(data) <= PART_BYTES:
            await self._change("write", offset, bytes(data))
            return
        view = memoryview(data)
        for at in range(0, len(data), PART_BYTES):
            await self._change("write", offset + at, bytes(view[at : at + PART_BYTES]))

    async def zero(self, offset: int, length: int) -> None:
        """Make a range within the size read as zeros."""
        self.unsynced = True
        await self._change("zero", offset, length)

    async def truncate(self, size: int) -> None:
        """Set the size."""
        if size < 0:
            raise Invalid("a size cannot be negative", size=size)
        self.unsynced = True
        self._emptied = self._emptied or size == 0 < self.size
        await self._change("truncate", size)

    async def flush(self) -> None:
        """Durable at the owner on return: all that was acknowledged before.

        ``Unavailable`` (reason ``lost``), once: something that was acknowledged here has gone with an owner.
        """
        unsynced, self.unsynced = self.unsynced, False
        try:
            await self._remote.request(Operation("flush"), 0)
        except BaseException:
            self.unsynced = unsynced
            raise
        self._emptied = False

    async def flush_replacement(self) -> None:
        """Flush if the content takes the place of what was cut off."""
        if self._emptied and self.unsynced:
            await self.flush()

    async def refresh(self) -> None:
        """Ask the owner for size and times; what was heard last stays if it does not answer within ``REFRESH_S``."""
        if not self._remote.is_attached:
            return
        with trio.move_on_after(REFRESH_S):
            try:
                value = await self._remote.request(Operation("attributes"), 0)
            except VPoolError:  # whoever reads or writes hears of it
                return
            if isinstance(value, Attributes):
                self._heard(value)

    def written_here(self, epoch: int, lsn: int) -> None:
        """This node owned it, and has not flushed what was written through it: its last record. A flush asks for that."""
        self.unsynced = True
        self._remote.written(0, epoch, lsn)

    def closed(self) -> None:
        """Nobody has it open here any more."""
        self._remote.closed(0)

    def allocated(self) -> int | None:
        """Bytes that the content takes, as the owner last told."""
        return self._allocated

    @property
    def without_holes(self) -> int:
        """Bytes that the content would take if it had no holes."""
        return self.size

    async def bring_map(self) -> None:
        """Nothing: it is the owner's."""

    async def _change(self, name: str, *arguments: int | bytes) -> None:
        value = await self._remote.request(Operation(name, arguments), 0)
        if isinstance(value, Attributes):  # None: it had been executed before, and this is the answer to its repetition
            self._heard(value)

    def _heard(self, told: Attributes) -> None:
        self.size, self.mtime_ns, self.ctime_ns, self._allocated = told.size, told.mtime_ns, told.ctime_ns, told.allocated
