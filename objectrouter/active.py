"""An inode whose object is open on this node, with what its owner knows and the registry does not yet. Pure."""

from __future__ import annotations

from dataclasses import replace

from objectrouter.remote_region import RemoteRegion
from objectrouter.traffic import ObjectTraffic
from registry import Inode, InodeKind, ObjectRecord
from volumedriver import Region

RELATIME_NS = 24 * 3600 * 1_000_000_000  # an older time of access is renewed by every read, as with the mount option relatime


class Active:
    """See above.

    Attributes:
        record: the object, as it was when it was opened.
        former: of what was another node's when it was opened here: what was acknowledged there and not flushed is known to it.
        handles: held by clients of this node.
        registered: the registry knows that this node has it open, so a next life will look its size up. Always while something is
            unpublished, unless the last name is gone.
        unlinked: its last name is gone.
        settling: commands under way that publish it.
        atime_ns: of the last read that counts.
        read_since: that has changed since it was published.
        allocated: bytes that the content takes, as last counted.
        recounted: that has changed since it was published.
        awaits_map: the count goes on when a part of the map has been fetched.
    """

    def __init__(self, record: ObjectRecord, inode: Inode, region: Region | RemoteRegion, traffic: ObjectTraffic) -> None:
        self.record = record
        self.traffic = traffic
        self.is_volume = inode.kind is InodeKind.VOLUME
        self.region = region
        self.former: RemoteRegion | None = None
        self.handles = 0
        self.registered = False
        self.published_size = inode.size
        self.unlinked = False
        self.settling = 0
        self.atime_ns = inode.atime_ns
        self.read_since = False
        self.allocated = inode.allocated
        self.recounted = False
        self.awaits_map = False
        changed_since = inode.atime_ns <= max(inode.mtime_ns, inode.ctime_ns)
        self._renewed_when_ns = 0 if changed_since else inode.atime_ns + RELATIME_NS  # by a read at this time or later

    @property
    def is_remote(self) -> bool:
        """Whether another node owns it, which keeps its times and publishes them."""
        return isinstance(self.region, RemoteRegion)

    @property
    def is_left_behind(self) -> bool:
        """Whether the object has gone to another node since, and nobody here has followed it."""
        return isinstance(self.region, Region) and self.region.volume.has_moved

    def follow(self, region: Region | RemoteRegion) -> None:
        """The object has another owner: this is how its bytes are reached from now on."""
        before, self.region = self.region, region
        if isinstance(before, RemoteRegion) and before.unsynced and isinstance(region, Region):
            self.former = before
        region.unsynced = region.unsynced or before.unsynced
        if isinstance(region, RemoteRegion):
            if isinstance(before, Region) and before.unsynced and before.volume.left_at is not None:
                region.written_here(*before.volume.left_at)
            self.read_since = self.recounted = self.awaits_map = False  # its owner publishes
        if isinstance(region, Region) and before.ctime_ns > region.ctime_ns:
            region.mtime_ns, region.ctime_ns, region.unpublished = before.mtime_ns, before.ctime_ns, True

    async def flush(self) -> None:
        """Make it durable, wherever it is. ``Unavailable`` (reason ``lost``), once: something has gone with a former owner."""
        former, self.former = self.former, None
        if former is not None:
            await former.flush()
        await self.region.flush()

    @property
    def unpublished(self) -> bool:
        """Whether there is something to tell the registry."""
        return self.region.unpublished or self.read_since or self.recounted

    @property
    def uncounted(self) -> bool:
        """Whether it will be known how much the content takes, but is not yet."""
        return self.region.counting or self.awaits_map

    def note_read(self, now_ns: int) -> None:
        """Something was read. The time of access follows where it is older than a change, or than a day (relatime)."""
        if self.is_remote:
            return
        if now_ns >= self._renewed_when_ns or self.region.mtime_ns >= self.atime_ns or self.region.ctime_ns >= self.atime_ns:
            self.atime_ns, self.read_since = now_ns, True
            self._renewed_when_ns = now_ns + RELATIME_NS

    def count(self) -> int | None:
        """Bytes that the content takes; what was counted last as long as a new count is not at hand."""
        counted = self.region.allocated()
        if counted is not None and counted != self.allocated:
            self.allocated, self.recounted = counted, True
        return self.allocated

    def estimate(self) -> None:
        """Take what the content would take if it had no holes: nobody will count it."""
        self.allocated, self.recounted = self.region.without_holes, True

    def seen_in(self, inode: Inode) -> Inode:
        """The inode as its owner knows it."""
        region = self.region
        if self.is_remote:
            return told_by_owner(inode, region.size, region.mtime_ns, region.ctime_ns)
        if not (region.unpublished or self.settling):
            allocated = self.count() if self.uncounted else self.allocated
            return replace(inode, size=region.size, atime_ns=self.atime_ns, allocated=allocated)
        return replace(
            inode,
            size=region.size,
            allocated=self.count(),
            atime_ns=self.atime_ns,
            mtime_ns=region.mtime_ns,
            ctime_ns=max(inode.ctime_ns, region.ctime_ns),
        )


def told_by_owner(inode: Inode, size: int, mtime_ns: int, ctime_ns: int) -> Inode:
    """An inode as another node, which owns its object, knows it; times that were set since count."""
    mtime_ns = mtime_ns if ctime_ns > inode.ctime_ns else inode.mtime_ns
    return replace(inode, size=size, mtime_ns=mtime_ns, ctime_ns=max(inode.ctime_ns, ctime_ns))
