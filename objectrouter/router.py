"""The Object Router: every request of every front end passes here.

It turns inodes into objects and objects into the driver that serves them, and keeps what belongs to the owner (live sizes
and times, handles). With one node every object is local; an object of another node is refused as moved.

Concurrency: one ``_Active`` per inode in use, made under the inode's lock. Handles are counted before any await of ``open``
ends and given back after the last await of ``release``, so the count is never below what clients hold.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from time import perf_counter_ns

import structlog
import trio

from filedriver import FileDriver
from objectrouter.slow import SlowRequests
from objectrouter.traffic import ObjectTraffic, OperationTimes, Traffic
from registry import (
    CloseHandle,
    Create,
    DirectoryEntry,
    Inode,
    InodeKind,
    Link,
    ObjectRecord,
    ObjectState,
    OpenHandle,
    Publish,
    RegistryClient,
    RemoveDirectory,
    Rename,
    Resize,
    SetAttributes,
    Unlink,
)
from volumedriver import Phase, Region, VolumeDriver, Waiting, waited_since
from vpool.errors import Conflict, Corrupt, Halted, Invalid, Moved, NoSpace, NotFound, Unavailable, VPoolError

log = structlog.get_logger()

SWEEP_S = 5.0
COUNT_PAUSE_S = 5.0
COUNT_SHARE = 20  # counting all bytes takes at most one in so many seconds
ACTIVE_MAX = 4096  # inodes without handles whose live state is kept


@dataclass(frozen=True, slots=True)
class RouterSettings:
    """What an operator may set of the router."""

    volume_rules: tuple[str, ...] = ("*.raw", "*-flat.vmdk")  # names (as in fnmatch) of new files that become volumes
    slow_s: float = 1.0  # a request that takes as long is kept, with what it waited for
    slow_kept: int = 256  # how many of them


@dataclass(frozen=True, slots=True)
class FilesystemStatistics:
    """For statfs."""

    total_bytes: int
    free_bytes: int
    inodes: int
    inodes_free: int


class _Active:
    """An inode whose object is open on this node."""

    def __init__(self, record: ObjectRecord, inode: Inode, region: Region, traffic: ObjectTraffic) -> None:
        self.record = record
        self.traffic = traffic
        self.is_volume = inode.kind is InodeKind.VOLUME
        self.region = region
        self.handles = 0  # held by clients of this node
        self.registered = False  # the registry knows that this node has it open
        self.published_size = inode.size
        self.unlinked = False


class ObjectRouter:
    """Namespace and data of the vPool as the front ends see them; see ``start``."""

    def __init__(self, registry: RegistryClient, volumes: VolumeDriver, files: FileDriver, settings: RouterSettings) -> None:
        self.registry = registry
        self.volumes = volumes
        self.files = files
        self.settings = settings
        self.traffic = Traffic()
        self.slow = SlowRequests(threshold_s=settings.slow_s, kept=settings.slow_kept)
        self._sizes_known = True
        self._used_bytes = 0  # sum of all sizes, as far as ``_count_bytes`` has looked
        self._statistics_asked = trio.Event()
        self._active: dict[int, _Active] = {}
        self._locks: defaultdict[int, trio.Lock] = defaultdict(trio.Lock)

    @classmethod
    @contextlib.asynccontextmanager
    async def start(
        cls,
        *,
        registry: RegistryClient,
        volumes: VolumeDriver,
        files: FileDriver,
        settings: RouterSettings,
        left_open: Sequence[int] = (),
        sizes_known: bool = True,
        note_sizes_known: Callable[[], None] = lambda: None,
    ) -> AsyncIterator[ObjectRouter]:
        """Run the router; on leaving, what is unpublished is published, so the drivers must still run then.

        ``left_open``: inodes that this node's last life had open when it ended (``RegistryView.inodes_held``, read before the
        node registers anew): their sizes are looked up in their logs and published before anybody can ask.

        ``sizes_known``: all other published sizes are right. Not so when a cache was lost (contents have gone back, sizes have
        not), or when the last life ended before it had looked up what was left open: then each size is looked up when it is
        asked for, and all of them in the background. ``note_sizes_known`` (may block) is called once they are.
        """
        async with trio.open_nursery() as nursery:
            router = cls(registry, volumes, files, settings)
            caught_up = [await router._catch_up(inode) for inode in left_open]
            router._sizes_known = sizes_known and all(caught_up)
            nursery.start_soon(router._learn_sizes, note_sizes_known)
            nursery.start_soon(router._count_bytes)
            nursery.start_soon(router._sweep)
            try:
                yield router
            finally:
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    for inode in list(router._active):
                        await router._publish(inode)

    # -- namespace -----------------------------------------------------------------------------------------------------

    async def lookup(self, parent: int, name: str) -> Inode:
        """The inode behind a name. NotFound."""
        found = self.registry.view.lookup(parent, name)
        if found is None:
            raise NotFound("no such name", name=name)
        return await self._live(found)

    async def attributes(self, inode: int) -> Inode:
        """An inode with the size and times that its owner knows. NotFound."""
        return await self._live(self._inode(inode))

    async def set_attributes(
        self,
        inode: int,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        size: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
    ) -> Inode:
        """Change what is given; a size cuts or grows the object first. NotFound, Invalid, NoSpace, Halted."""
        if size is not None:
            await self._truncate(inode, size)
        if (mode, uid, gid, atime_ns, mtime_ns) != (None,) * 5:
            if mtime_ns is not None and (active := self._active.get(inode)) is not None:
                await self._publish(inode)
                active.region.mtime_ns = mtime_ns
            await self.registry.submit(
                SetAttributes(inode, mode=mode, uid=uid, gid=gid, atime_ns=atime_ns, mtime_ns=mtime_ns, ctime_ns=time.time_ns())
            )
        return await self.attributes(inode)

    async def create(self, parent: int, name: str, *, mode: int, uid: int, gid: int, size: int = 0) -> Inode:
        """A new volume or file, by the rules for names. Exists, NotFound (parent), Invalid."""
        kind = InodeKind.VOLUME if self.is_volume_name(name) else InodeKind.FILE
        created = await self.registry.submit(
            Create(
                parent,
                name,
                kind,
                mode,
                uid,
                gid,
                time.time_ns(),
                object=uuid.uuid4().hex,
                size=size,
                log="" if kind is InodeKind.VOLUME else self.files.log_id,
            )
        )
        return created.inode

    async def make_directory(self, parent: int, name: str, *, mode: int, uid: int, gid: int) -> Inode:
        """A new directory. Exists, NotFound, Invalid."""
        return (await self.registry.submit(Create(parent, name, InodeKind.DIRECTORY, mode, uid, gid, time.time_ns()))).inode

    async def symlink(self, parent: int, name: str, target: str, *, uid: int, gid: int) -> Inode:
        """A new symbolic link. Exists, NotFound, Invalid."""
        command = Create(parent, name, InodeKind.SYMLINK, 0o777, uid, gid, time.time_ns(), target=target)
        return (await self.registry.submit(command)).inode

    async def link(self, inode: int, parent: int, name: str) -> Inode:
        """A further name for a file or volume. Exists, NotFound, Denied (directory)."""
        return await self._live(await self.registry.submit(Link(inode, parent, name, time.time_ns())))

    async def unlink(self, parent: int, name: str) -> None:
        """Remove a name; the object goes with its last name and handle. NotFound, Invalid (directory)."""
        await self._lost_name(await self.registry.submit(Unlink(parent, name, time.time_ns())))

    async def remove_directory(self, parent: int, name: str) -> None:
        """Remove an empty directory. NotFound, Conflict (not empty), Invalid."""
        await self.registry.submit(RemoveDirectory(parent, name, time.time_ns()))

    async def rename(
        self, parent: int, name: str, new_parent: int, new_name: str, *, no_replace: bool = False, exchange: bool = False
    ) -> None:
        """Move a name, as renameat2(2) does. NotFound, Exists, Conflict, Invalid."""
        renamed = await self.registry.submit(
            Rename(parent, name, new_parent, new_name, time.time_ns(), no_replace=no_replace, exchange=exchange)
        )
        if renamed.replaced is not None:
            await self._lost_name(renamed.replaced)

    async def entries(self, directory: int, after_cookie: int, limit: int) -> list[tuple[DirectoryEntry, Inode]]:
        """Up to ``limit`` entries behind a cookie (0: from the start), each with its inode. NotFound, Invalid."""
        if self._inode(directory).kind is not InodeKind.DIRECTORY:
            raise Invalid("not a directory", inode=directory, reason="not_directory")
        found = []
        for entry in self.registry.view.entries(directory, after_cookie, limit):
            inode = self.registry.view.inode(entry.inode)
            if inode is not None:
                found.append((entry, await self._live(inode)))
        return found

    def is_volume_name(self, name: str) -> bool:
        """Whether a new file of this name becomes a volume."""
        return any(fnmatchcase(name, rule) for rule in self.settings.volume_rules)

    def statistics(self) -> FilesystemStatistics:
        """Numbers for statfs: what the backend can take is not known, so free space is what the largest volume could fill."""
        free = 64 << 40
        self._statistics_asked.set()
        return FilesystemStatistics(total_bytes=self._used_bytes + free, free_bytes=free, inodes=1 << 31, inodes_free=1 << 30)

    # -- data ----------------------------------------------------------------------------------------------------------

    async def open(self, inode: int) -> None:
        """Take a handle: until its release the object stays, even without a name. NotFound, Halted, Moved, Unavailable."""
        active = await self._activate(inode)
        active.handles += 1
        try:
            if not active.registered:
                async with self._locks[inode]:
                    if not active.registered:
                        await self._register(inode, active)
        except BaseException as error:
            active.handles -= 1
            if isinstance(error, NotFound) and not active.handles and self._active.get(inode) is active:
                await self._let_go(inode)
            raise

    async def release(self, inode: int) -> None:
        """Give a handle back; the last one publishes size and times, and lets an object without a name go."""
        active = self._active[inode]
        if active.handles == 1:
            await self._publish(inode)
        active.handles -= 1
        if active.handles == 0 and active.unlinked:
            await self._let_go(inode)

    async def read(self, inode: int, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes; short at the end. Corrupt, Halted."""
        began = perf_counter_ns()
        active = self._active.get(inode) or await self._activate(inode)
        times = active.traffic.reads
        try:
            data = await active.region.read(offset, length)
        except VPoolError as error:
            self._refused(times, "read", inode, offset, length, began, error)
            raise
        elapsed = perf_counter_ns() - began
        times.ended(elapsed, len(data))
        if elapsed >= self.slow.threshold_ns:
            self._note_slow("read", inode, offset, length, began, elapsed)
        return data

    async def write(self, inode: int, offset: int, data: bytes) -> int:
        """Write; acknowledged on return. NoSpace beyond the largest size, Halted."""
        began = perf_counter_ns()
        active = self._active.get(inode) or await self._activate(inode)
        times = active.traffic.writes
        try:
            await active.region.write(offset, data)
        except VPoolError as error:
            self._refused(times, "write", inode, offset, len(data), began, error)
            raise
        elapsed = perf_counter_ns() - began
        times.ended(elapsed, len(data))
        if elapsed >= self.slow.threshold_ns:
            self._note_slow("write", inode, offset, len(data), began, elapsed)
        return len(data)

    async def zero(self, inode: int, offset: int, length: int) -> None:
        """write_zeroes and discard: the range reads as zeros and takes no space."""
        began = perf_counter_ns()
        active = self._active.get(inode) or await self._activate(inode)
        times = active.traffic.zeroes
        try:
            await active.region.zero(offset, length)
        except VPoolError as error:
            self._refused(times, "zero", inode, offset, length, began, error)
            raise
        elapsed = perf_counter_ns() - began
        times.ended(elapsed, length)
        if elapsed >= self.slow.threshold_ns:
            self._note_slow("zero", inode, offset, length, began, elapsed)

    async def flush(self, inode: int) -> None:
        """fsync: durable on return; a changed size is published."""
        began = perf_counter_ns()
        active = self._active.get(inode) or await self._activate(inode)
        times = active.traffic.flushes
        try:
            await active.region.flush()
        except VPoolError as error:
            self._refused(times, "flush", inode, 0, 0, began, error)
            raise
        if active.region.size != active.published_size:
            await self._publish(inode)
        elapsed = perf_counter_ns() - began
        times.ended(elapsed, 0)
        if elapsed >= self.slow.threshold_ns:
            self._note_slow("flush", inode, 0, 0, began, elapsed)

    async def volume_region(self, inode: int) -> Region:
        """The open region of a volume, for what looks at the whole of it. Invalid: the inode is no volume; as ``open``."""
        if self._inode(inode).kind is not InodeKind.VOLUME:
            raise Invalid("not a volume", inode=inode)
        active = self._active.get(inode) or await self._activate(inode)
        return active.region

    async def reopen(self, inode: int, *, accept_loss: bool) -> None:
        """Open a halted volume again; see ``VolumeDriver.reopen``. Invalid: the inode is no volume."""
        found = self._inode(inode)
        if found.kind is not InodeKind.VOLUME:
            raise Invalid("not a volume", inode=inode)
        async with self._locks[inode]:
            volume = await self.volumes.reopen(found.object, accept_loss=accept_loss)
            if inode in self._active:
                active = self._active[inode]
                active.region = await Region.of_volume(volume, active.record.size, found.mtime_ns)

    async def reopen_files(self, *, accept_loss: bool) -> None:
        """Open this node's halted log of files again; see ``VolumeDriver.reopen``."""
        log_volume = await self.volumes.reopen(self.files.log_id, accept_loss=accept_loss)
        for active in [each for each in self._active.values() if not each.is_volume]:
            record = active.record
            active.region = await Region.of_file(log_volume, record.address, record.size, active.region.mtime_ns)

    def handles(self, inode: int) -> int:
        """Handles that clients of this node hold."""
        active = self._active.get(inode)
        return active.handles if active is not None else 0

    # -- within --------------------------------------------------------------------------------------------------------

    def _refused(
        self, times: OperationTimes, operation: str, inode: int, offset: int, length: int, began_ns: int, error: VPoolError
    ) -> None:
        times.failed += 1
        elapsed_ns = perf_counter_ns() - began_ns
        if elapsed_ns >= self.slow.threshold_ns:
            self._note_slow(operation, inode, offset, length, began_ns, elapsed_ns, str(error))

    def _note_slow(
        self, operation: str, inode: int, offset: int, length: int, began_ns: int, elapsed_ns: int, error: str = ""
    ) -> None:
        self.slow.note(
            at=time.time(),
            operation=operation,
            inode=inode,
            offset=offset,
            length=length,
            seconds=elapsed_ns / 1e9,
            waited_s={phase.value: seconds for phase, seconds in waited_since(began_ns).items()},
            error=error,
        )

    def _inode(self, number: int) -> Inode:
        found = self.registry.view.inode(number)
        if found is None:
            raise NotFound("no such inode", inode=number)
        return found

    async def _live(self, inode: Inode) -> Inode:
        """An inode with its owner's size and time."""
        if not self._sizes_known and inode.object and inode.number not in self._active:
            await self._catch_up(inode.number)
        active = self._active.get(inode.number)
        if active is None:
            return inode
        region = active.region
        mtime = max(region.mtime_ns, inode.mtime_ns) if region.unpublished else inode.mtime_ns
        return replace(inode, size=region.size, mtime_ns=mtime, ctime_ns=max(inode.ctime_ns, mtime))

    async def _activate(self, number: int) -> _Active:
        """Open the object behind an inode on this node."""
        with Waiting(Phase.OPENING):
            return await self._activated(number)

    async def _activated(self, number: int) -> _Active:
        async with self._locks[number]:
            active = self._active.get(number)
            if active is not None:
                return active
            inode = self._reachable(number)
            if not inode.object:
                raise Invalid("has no content", inode=number, reason="is_directory")
            record = self.registry.view.object(inode.object)
            if record is None:
                raise NotFound("the object is gone", inode=number, object=inode.object)
            if inode.kind is InodeKind.VOLUME:
                if record.owner not in ("", self.volumes.node_id):
                    raise Moved("another node owns the volume", object=record.id, owner=record.owner)
                region = await Region.of_volume(await self.volumes.attach(record.id), record.size, inode.mtime_ns)
            else:
                region = await self.files.region(record, inode.mtime_ns)
            self._reachable(number)  # its last name may have gone meanwhile
            traffic = self.traffic.of(record.id if inode.kind is InodeKind.VOLUME else record.log)
            active = self._active[number] = _Active(record, inode, region, traffic)
            return active

    def _reachable(self, number: int) -> Inode:
        """An inode that has a name or, on some node, a handle; any other is the reapers'."""
        inode = self._inode(number)
        if inode.nlink == 0 and not self.registry.view.handles(number):
            raise NotFound("neither name nor handle is left", inode=number)
        return inode

    async def _catch_up(self, inode: int) -> bool:
        """Look a size up and publish it; False when that must be tried again."""
        try:
            self._reachable(inode)
        except NotFound:  # its name was gone, and with the earlier life of this node its last handle
            return True
        try:
            await self._activate(inode)
        except (NotFound, Invalid, Halted, Corrupt, Moved, NoSpace) as error:
            log.warning("not_caught_up", inode=inode, reason=str(error))
        except Unavailable as error:
            log.warning("not_caught_up_yet", inode=inode, reason=str(error))
            return False
        await self._publish(inode)
        return True

    async def _learn_sizes(self, note: Callable[[], None]) -> None:
        if not self._sizes_known:
            objects = [record for record in self.registry.view.objects() if record.inode and record.state is ObjectState.LIVE]
            self._sizes_known = all([await self._catch_up(record.inode) for record in objects])
            log.info("sizes_looked_up", objects=len(objects), all=self._sizes_known)
        if not self._sizes_known:
            return  # each goes on to be looked up when it is asked for, and all again in the next life
        await trio.to_thread.run_sync(note)

    async def _truncate(self, inode: int, size: int) -> None:
        active = self._active.get(inode) or await self._activate(inode)
        await active.region.truncate(size)
        await self._publish(inode)

    async def _publish(self, inode: int) -> None:
        """Tell the registry the size and time that the owner knows; an object that is going away meanwhile needs none."""
        active = self._active.get(inode)
        if active is None or not active.region.unpublished:
            return
        region, record = active.region, active.record
        region.unpublished = False
        size, mtime_ns = region.size, region.mtime_ns
        known = self.registry.view.inode(inode)
        ctime_ns = max(mtime_ns, known.ctime_ns) if known is not None else mtime_ns
        try:
            if active.is_volume:
                epoch = self.volumes.epoch(record.id)
                if size != active.published_size:
                    await self.registry.submit(Resize(record.id, epoch, size, mtime_ns))
                await self.registry.submit(Publish(record.id, epoch, mtime_ns=mtime_ns, ctime_ns=ctime_ns))
            else:
                epoch = self.files.epoch(record)
                await self.registry.submit(Publish(record.id, epoch, size=size, mtime_ns=mtime_ns, ctime_ns=ctime_ns))
            active.published_size = size
        except VPoolError as error:
            region.unpublished = True
            log.info("not_published", inode=inode, reason=str(error))

    async def _lost_name(self, inode: Inode) -> None:
        if inode.nlink > 0 or not inode.object:
            return
        active = self._active.get(inode.number)
        if active is not None:
            active.unlinked = True
            if active.handles:
                return
        await self._let_go(inode.number)

    async def _let_go(self, inode: int) -> None:
        """Neither name nor handle is left here."""
        active = self._active.pop(inode, None)
        if active is not None and active.registered:
            await self._close_handle(inode, active)
        self.volumes.orphaned()
        self.files.orphaned()

    async def _count_bytes(self) -> None:
        """Renew what statfs tells, when it has been asked for: looking at every object takes too long for the loop."""

        def count() -> int:
            return sum(record.size for record in self.registry.view.objects())

        while True:
            self._statistics_asked = trio.Event()
            await self._statistics_asked.wait()
            began = trio.current_time()
            try:
                self._used_bytes = await trio.to_thread.run_sync(count)
            except VPoolError as error:
                log.warning("bytes_not_counted", reason=str(error))
            await trio.sleep(max(COUNT_PAUSE_S, COUNT_SHARE * (trio.current_time() - began)))

    async def _sweep(self) -> None:
        """Publish what is unpublished, and forget the live state of files nobody holds."""
        while True:
            await trio.sleep(SWEEP_S)
            for inode, active in list(self._active.items()):
                await self._publish(inode)
                if active.handles == 0 and active.registered:
                    await self._unregister(inode, active)
            idle = [inode for inode, active in self._active.items() if not active.handles and not active.is_volume]
            for inode in idle[: max(0, len(self._active) - ACTIVE_MAX)]:
                if not self._active[inode].registered and not self._active[inode].region.unpublished:
                    del self._active[inode]
            for inode in [inode for inode, lock in self._locks.items() if inode not in self._active and not lock.locked()]:
                del self._locks[inode]

    async def _register(self, inode: int, active: _Active) -> None:
        try:
            await self.registry.submit(OpenHandle(inode))
        except trio.Cancelled:
            active.registered = True  # the wait is cancelled, the command is not: the sweep gives back what nobody holds
            raise
        active.registered = True

    async def _unregister(self, inode: int, active: _Active) -> None:
        async with self._locks[inode]:
            if active.handles == 0 and active.registered:
                await self._close_handle(inode, active)

    async def _close_handle(self, inode: int, active: _Active) -> None:
        """Tell the registry once that this node has the inode open no more; a refusal hinders nobody."""
        active.registered = False
        try:
            await self.registry.submit(CloseHandle(inode))
        except (NotFound, Conflict):
            pass
        except VPoolError as error:
            log.warning("handle_not_given_back", inode=inode, reason=str(error))
