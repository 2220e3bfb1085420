"""The Object Router: every request of every front end passes here.

It turns inodes into objects and objects into the driver that serves them, and keeps what belongs to the owner (live sizes
and times, handles). With one node every object is local; requests on an object that another node owns go there
(``neighbours.py``).

**Names.** A look-up of a name and a listing see everything that was committed anywhere before: of several nodes they ask the
registry first, and wait. Attributes of an inode do so too, but go on with what is known here if there is no answer in time.

Concurrency: one ``Active`` per inode in use, made under the inode's lock. Handles are counted before any await of ``open``
ends and given back after the last await of ``release``, so the count is never below what clients hold.

**Answers.** On an object of this node they leave only if it may serve at that very moment (``replies.py``); requests that other
nodes forward are executed by the same methods, not ``gated``: ``serving.py`` decides when they are answered.

**Handles and the registry.** The handles that keep an object without a name are counted here, by its owner. The registry is told
only of those whose object was written to (``_register``): what it is told is what a next life has to look up, because sizes
are published later (``Settler``). Volumes are told at once.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from time import perf_counter_ns

import structlog
import trio

from filedriver import FileDriver
from objectrouter.active import Active, told_by_owner
from objectrouter.departed import Departed
from objectrouter.mirror_owner import DtlMode
from objectrouter.movements import Movements
from objectrouter.moves import Moves, is_alone
from objectrouter.neighbours import Neighbourhood, Neighbours
from objectrouter.operation import Attributes
from objectrouter.parting import Parting
from objectrouter.remote_region import RemoteRegion
from objectrouter.replies import Replies
from objectrouter.settler import Settler
from objectrouter.slow import SlowRequests
from objectrouter.takeover import Takeover
from objectrouter.traffic import OperationTimes, Traffic
from registry import (
    Create,
    Created,
    DirectoryEntry,
    Inode,
    InodeKind,
    Link,
    ObjectKind,
    ObjectRecord,
    OpenHandle,
    RegistryClient,
    RemoveAttribute,
    RemoveDirectory,
    Rename,
    Resize,
    SetAttribute,
    SetAttributes,
    Unlink,
)
from volumedriver import FILE_ADDRESSES, Phase, Region, VolumeDriver, Waiting, gives_way, waited_since
from vpool.errors import Conflict, Corrupt, Halted, Invalid, Moved, NoSpace, NotFound, Unavailable, VPoolError

log = structlog.get_logger()

REFRESH_PAUSE_S = 1.0
BARRIER_S = 1.0
MOVED_PAUSE_S = 0.01
AT_ONCE = 32  # files that are registered, or followed, side by side

NAME_BYTES_MAX = 255
TIME_NS_MAX = (1 << 63) - 1  # in 2262, as far as 64 bits go; the other end is in 1677
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


class ObjectRouter:
    """Namespace and data of the vPool as the front ends see them; see ``start``."""

    def __init__(
        self, registry: RegistryClient, volumes: VolumeDriver, files: FileDriver, settings: RouterSettings, nursery: trio.Nursery
    ) -> None:
        self.registry = registry
        self.volumes = volumes
        self.files = files
        self.settings = settings
        self.traffic = Traffic()
        self.slow = SlowRequests(threshold_s=settings.slow_s, kept=settings.slow_kept)
        self._nursery = nursery
        self._sizes_known = True
        self._logs_unknown: set[str] = set()  # logs of files that came from another node: published sizes may be wrong
        self._note_sizes_unknown: Callable[[], None] = lambda: None
        self._neighbours: Neighbours | None = None  # of a node of a cluster
        self._no_movements = Movements()
        self._replies: Replies | None = None  # likewise
        self._behind = False  # the registry has not answered in time, and not since
        self._active: dict[int, Active] = {}
        self._departed = Departed()
        self._leaving: set[str] = set()  # logs of files that are about to be handed over
        self._settler = Settler(registry, self._epoch)
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
        note_sizes_unknown: Callable[[], None] = lambda: None,
        neighbourhood: Neighbourhood | None = None,
    ) -> AsyncIterator[ObjectRouter]:
        """Run the router; on leaving, what is unpublished is published, so the drivers must still run then.

        ``left_open``: inodes that this node's last life had open when it ended (``RegistryView.inodes_held``, read before the
        node registers anew): their sizes are looked up in their logs and published before anybody can ask.

        ``sizes_known``: all other published sizes are right. Not so when a cache was lost (contents have gone back, sizes have
        not), or when the last life ended before it had looked up what was left open: then each size is looked up when it is
        asked for, and all of them in the background. ``note_sizes_known`` (may block) is called once they are,
        ``note_sizes_unknown`` when a log of files has come from another node.

        ``neighbourhood``: where the routers of other nodes are; None: there are none.
        """
        async with trio.open_nursery() as nursery:
            router = cls(registry, volumes, files, settings, nursery)
            files.handles_are_counted_by(router.handles)
            caught_up = [await router._catch_up(inode) for inode in left_open]
            for active in router._active.values():
                active.region.unpublished = True  # the earlier life may have told its size, and not what it takes
            await router._settler.settle(router._active.values())
            router._note_sizes_unknown = note_sizes_unknown
            router._sizes_known = sizes_known and all(caught_up)
            nursery.start_soon(router._learn_sizes, note_sizes_known)
            nursery.start_soon(router._settle)
            nursery.start_soon(router._settler.bring_maps)
            try:
                async with contextlib.AsyncExitStack() as beside:
                    if neighbourhood is not None:
                        router._neighbours = await beside.enter_async_context(
                            Neighbours.start(neighbourhood, registry, volumes, router)
                        )
                        router._replies = router._neighbours.replies
                    yield router
            finally:
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await router._settler.settle(list(router._active.values()))

    # -- namespace -----------------------------------------------------------------------------------------------------

    async def lookup(self, parent: int, name: str) -> Inode:
        """The inode behind a name. NotFound, Invalid (longer than a name can be)."""
        if len(os.fsencode(name)) > NAME_BYTES_MAX:
            raise Invalid("a name has at most 255 bytes", reason="name_too_long")
        await self.registry.barrier()
        found = self.registry.view.lookup(parent, name)
        if found is None:
            raise NotFound("no such name", name=name)
        return await self._live(found)

    async def attributes(self, inode: int) -> Inode:
        """An inode with the size and times that its owner knows. NotFound."""
        await self._caught_up()
        found = self.registry.view.inode(inode) or self._departed.get(inode)
        if found is None:
            raise NotFound("no such inode", inode=inode)
        return await self._live(found)

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
        """Change what is given; a size cuts or grows the object first. NotFound, Invalid, NoSpace, Halted.

        Times are kept as 64 bits of nanoseconds; one beyond that (1677 to 2262) becomes the nearest, as on Linux itself.
        """
        atime_ns, mtime_ns = _as_kept(atime_ns), _as_kept(mtime_ns)
        if size is not None:
            await self._truncate(inode, size)
        if (mode, uid, gid, atime_ns, mtime_ns) == (None,) * 5:
            return await self.attributes(inode)
        active, now = self._active.get(inode), time.time_ns()
        if active is not None:  # from here on what is published says the same, in whatever order it gets there
            active.region.mtime_ns = active.region.mtime_ns if mtime_ns is None else mtime_ns
            active.atime_ns = active.atime_ns if atime_ns is None else atime_ns
            if active.region.unpublished:  # a later life takes what is published with this ctime for the newest
                mtime_ns = active.region.mtime_ns
        elif (gone := self._departed.get(inode)) is not None and self.registry.view.inode(inode) is None:
            return self._departed.change(
                replace(
                    gone,
                    mode=gone.mode if mode is None else mode,
                    uid=gone.uid if uid is None else uid,
                    gid=gone.gid if gid is None else gid,
                    atime_ns=gone.atime_ns if atime_ns is None else atime_ns,
                    mtime_ns=gone.mtime_ns if mtime_ns is None else mtime_ns,
                    ctime_ns=now,
                )
            )
        command = SetAttributes(inode, mode=mode, uid=uid, gid=gid, atime_ns=atime_ns, mtime_ns=mtime_ns, ctime_ns=now)
        return await self._live(await self.registry.submit(command))

    async def create(
        self, parent: int, name: str, *, mode: int, uid: int, gid: int, size: int = 0, opened: bool = False
    ) -> Inode:
        """A new volume or file, by the rules for names; ``opened``: with a handle, as by ``open``.

        Exists, NotFound (parent), Invalid, NoSpace.
        """
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
                log="" if kind is InodeKind.VOLUME else await self.files.log_for_new(),
                opened=opened,
                layout=1 if kind is InodeKind.VOLUME else self.files.layout,
            )
        )
        if opened:
            await self._take_up(created)
        return created.inode

    async def make_node(self, parent: int, name: str, kind: str, *, mode: int, uid: int, gid: int, device: int = 0) -> Inode:
        """A new pipe, socket or device node, which the kernel alone does something with. Exists, NotFound, Invalid.

        ``kind``: ``fifo``, ``socket``, ``character-device`` or ``block-device``.
        """
        command = Create(parent, name, InodeKind(kind), mode, uid, gid, time.time_ns(), rdev=device)
        return (await self.registry.submit(command)).inode

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
        self._lost_name(await self.registry.submit(Unlink(parent, name, time.time_ns())))

    async def remove_directory(self, parent: int, name: str) -> None:
        """Remove an empty directory. NotFound, Conflict (not empty), Invalid."""
        now = time.time_ns()
        self._departed.add(await self.registry.submit(RemoveDirectory(parent, name, now)), now)

    async def rename(
        self, parent: int, name: str, new_parent: int, new_name: str, *, no_replace: bool = False, exchange: bool = False
    ) -> None:
        """Move a name, as renameat2(2) does. NotFound, Exists, Conflict, Invalid.

        A file that takes the place of another is made durable first: programs replace files so, and names are durable at once.
        """
        if not (no_replace or exchange):
            await self._flush_replacement(parent, name, new_parent, new_name)
        renamed = await self.registry.submit(
            Rename(parent, name, new_parent, new_name, time.time_ns(), no_replace=no_replace, exchange=exchange)
        )
        if renamed.replaced is not None:
            self._lost_name(renamed.replaced)

    async def entries(self, directory: int, after_cookie: int, limit: int) -> list[tuple[DirectoryEntry, Inode]]:
        """Up to ``limit`` entries behind a cookie (0: from the start), each with its inode. NotFound, Invalid."""
        if not after_cookie:
            await self.registry.barrier()
        if self._inode(directory).kind is not InodeKind.DIRECTORY:
            raise Invalid("not a directory", inode=directory, reason="not_directory")
        found = []
        for entry in self.registry.view.entries(directory, after_cookie, limit):
            inode = self.registry.view.inode(entry.inode)
            if inode is not None:
                active = self._active.get(inode.number)
                here = self._neighbours is None or (active is not None and not active.is_remote)
                found.append((entry, await self._live(inode) if here else inode))  # a listing waits for no other node
        return found

    def is_volume_name(self, name: str) -> bool:
        """Whether a new file of this name becomes a volume."""
        return any(fnmatchcase(name, rule) for rule in self.settings.volume_rules)

    # -- extended attributes -------------------------------------------------------------------------------------------

    async def attribute(self, inode: int, name: str) -> bytes:
        """The value of an extended attribute. NotFound (reason ``no_attribute``)."""
        await self._caught_up()
        value = self.registry.view.attribute(inode, name)
        if value is None:
            raise NotFound("no such extended attribute", inode=inode, name=name, reason="no_attribute")
        return value

    async def attribute_names(self, inode: int) -> list[str]:
        """Names of all extended attributes."""
        await self._caught_up()
        return self.registry.view.attribute_names(inode)

    async def set_attribute(self, inode: int, name: str, value: bytes) -> None:
        """Set an extended attribute, durably. NotFound, Invalid, NoSpace."""
        await self.registry.submit(SetAttribute(inode, name, value, time.time_ns()))

    async def remove_attribute(self, inode: int, name: str) -> None:
        """Take one away, durably. NotFound."""
        await self.registry.submit(RemoveAttribute(inode, name, time.time_ns()))

    def statistics(self) -> FilesystemStatistics:
        """Numbers for statfs: what the backend can take is not known, so free space is what the largest volume could fill."""
        free = 64 << 40
        inodes, held_bytes = self.registry.view.counted()
        inodes_free = max(0, FILE_ADDRESSES - inodes)
        return FilesystemStatistics(held_bytes + free, free, inodes + inodes_free, inodes_free)

    # -- data ----------------------------------------------------------------------------------------------------------

    async def open(self, inode: int) -> None:
        """Take a handle: until its release the object stays, even without a name. NotFound, Halted, Moved, Unavailable."""
        active = await self._activate(inode)
        active.handles += 1
        if not self._registry_counts(active):
            return
        try:
            await self._register(inode, active)
        except BaseException as error:
            active.handles -= 1
            if isinstance(error, NotFound) and not active.handles and self._active.get(inode) is active:
                self._let_go(inode, is_volume=active.is_volume)
            raise

    async def release(self, inode: int) -> None:
        """Give a handle back; after the last one an object without a name goes.

        New content in the place of what was cut off is flushed first: programs that replace a file so and do not sync expect the
        one or the other after a power cut. Nobody waits for it.
        """
        active = self._active[inode]
        if active.handles == 1 and not active.unlinked:
            try:
                await self._where_it_is(inode, active, lambda region: region.flush_replacement())
            except VPoolError as error:
                log.warning("not_flushed", inode=inode, reason=str(error))
        active.handles -= 1
        if active.handles:
            return
        for region in (active.region, active.former):
            if isinstance(region, RemoteRegion):
                region.closed()
        active.former = None
        if active.unlinked:
            self._let_go(inode, is_volume=active.is_volume)
        else:
            self._settler.released()

    async def read(self, inode: int, offset: int, length: int, *, gated: bool = True) -> bytes:
        """Up to ``length`` bytes; short at the end. Corrupt, Halted."""
        began = perf_counter_ns()
        active = self._active.get(inode) or await self._activate(inode)
        active.note_read(time.time_ns())
        times = active.traffic.reads
        try:
            while True:
                region = active.region
                try:
                    data = await region.read(offset, length)
                    break
                except Moved as error:
                    await self._follow(inode, active, region, error)
            if gated and self._replies is not None:
                await self._may_reply(active)
        except VPoolError as error:
            self._refused(times, "read", inode, offset, length, began, error)
            raise
        elapsed = perf_counter_ns() - began
        times.ended(elapsed, len(data))
        if elapsed >= self.slow.threshold_ns:
            self._note_slow("read", inode, offset, length, began, elapsed)
        return data

    async def write(self, inode: int, offset: int, data: bytes, *, gated: bool = True) -> int:
        """Write; acknowledged on return. NoSpace beyond the largest size, Halted."""
        began = perf_counter_ns()
        active = self._active.get(inode) or await self._activate(inode)
        if not active.registered:
            await self._register(inode, active)
        times = active.traffic.writes
        try:
            while True:
                region = active.region
                try:
                    await region.write(offset, data)
                    break
                except Moved as error:
                    await self._follow(inode, active, region, error)
            if gated and self._replies is not None:
                await self._may_reply(active)
        except VPoolError as error:
            self._refused(times, "write", inode, offset, len(data), began, error)
            raise
        elapsed = perf_counter_ns() - began
        times.ended(elapsed, len(data))
        if elapsed >= self.slow.threshold_ns:
            self._note_slow("write", inode, offset, len(data), began, elapsed)
        return len(data)

    async def zero(self, inode: int, offset: int, length: int, *, gated: bool = True) -> None:
        """write_zeroes and discard: the range reads as zeros and takes no space."""
        began = perf_counter_ns()
        active = self._active.get(inode) or await self._activate(inode)
        if not active.registered:
            await self._register(inode, active)
        times = active.traffic.zeroes
        try:
            await self._where_it_is(inode, active, lambda region: region.zero(offset, length))
            if gated and self._replies is not None:
                await self._may_reply(active)
        except VPoolError as error:
            self._refused(times, "zero", inode, offset, length, began, error)
            raise
        elapsed = perf_counter_ns() - began
        times.ended(elapsed, length)
        if elapsed >= self.slow.threshold_ns:
            self._note_slow("zero", inode, offset, length, began, elapsed)

    async def flush(self, inode: int, *, gated: bool = True) -> None:
        """fsync: durable on return, names and size included."""
        began = perf_counter_ns()
        active = self._active.get(inode) or await self._activate(inode)
        times = active.traffic.flushes
        try:
            await self._where_it_is(inode, active, lambda region: self._flushed(active))
            if gated and self._replies is not None:
                await self._may_reply(active)
        except VPoolError as error:
            self._refused(times, "flush", inode, 0, 0, began, error)
            raise
        elapsed = perf_counter_ns() - began
        times.ended(elapsed, 0)
        if elapsed >= self.slow.threshold_ns:
            self._note_slow("flush", inode, 0, 0, began, elapsed)

    async def sync_before_close(self, inode: int) -> None:
        """As ``flush``, if there is anything to make durable."""
        active = self._active.get(inode)
        if active is not None and (active.region.unsynced or active.former is not None):
            await self.flush(inode)

    async def volume_region(self, inode: int) -> Region:
        """The open region of a volume, for what looks at the whole of it. Invalid: the inode is no volume; as ``open``."""
        if self._inode(inode).kind is not InodeKind.VOLUME:
            raise Invalid("not a volume", inode=inode)
        active = self._active.get(inode) or await self._activate(inode)
        if isinstance(active.region, RemoteRegion):
            record = self.registry.view.object(active.record.id)
            owner = "" if record is None else record.owner
            raise Moved("another node owns the volume; ask that one", object=active.record.id, owner=owner)
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
                active.region = await Region.of_volume(volume, active.record.size, found.mtime_ns, found.ctime_ns)

    async def reopen_files(self, *, accept_loss: bool) -> None:
        """Open this node's halted log of files again; see ``VolumeDriver.reopen``."""
        await self.volumes.reopen(self.files.log_id, accept_loss=accept_loss)
        for active in [each for each in self._active.values() if each.record.log == self.files.log_id and not each.is_remote]:
            record = active.record
            active.region = await self.files.region(record, active.region.mtime_ns, active.region.ctime_ns)

    def refresh(self, objects: Sequence[str]) -> None:
        """The contents of these objects have gone back to what the backend has (the cache was given up): look at them anew.

        In the background, for as long as it takes; until then whoever uses one is refused.
        """
        for inode, active in list(self._active.items()):
            if (active.record.log or active.record.id) in objects:
                self._nursery.start_soon(self._refresh, inode, active)

    async def _refresh(self, inode: int, active: Active) -> None:
        while True:
            async with self._locks[inode]:
                if self._active.get(inode) is not active:
                    return
                record = active.record
                try:
                    if active.is_volume:
                        volume = await self.volumes.attach(record.id)
                        active.region = await Region.of_volume(volume, record.size, active.region.mtime_ns)
                    else:
                        active.region = await self.files.region(record, active.region.mtime_ns)
                except (Unavailable, NoSpace, Conflict) as error:
                    log.warning("not_refreshed_yet", object=record.id, reason=str(error))
                except VPoolError as error:  # halted, damaged, or gone: opening it says so, and is what mends it
                    log.error("not_refreshed", object=record.id, reason=str(error))
                    return
                else:
                    return
            await trio.sleep(REFRESH_PAUSE_S)

    # -- what other nodes ask of objects of this one (``objectrouter.serving.LocalObjects``) ----------------------------

    async def cut(self, inode: int, size: int, *, gated: bool) -> None:
        """Set the size. As ``set_attributes``."""
        await self._truncate(inode, size, gated=gated)

    async def owned_attributes(self, inode: int) -> Attributes:
        """Open an object of this node, if it is not open, and what is known of it. ``Moved``: it is not this node's."""
        active = self._active.get(inode)
        if active is None:
            found = self._inode(inode)
            record = self.registry.view.object(found.object)
            if record is None or self._is_elsewhere(record):
                raise Moved("another node owns the object", inode=inode)
            active = await self._activate(inode)
        if active.is_remote or active.is_left_behind:
            record = self.registry.view.object(active.record.id)
            if record is None or self._is_elsewhere(record):
                raise Moved("another node owns the object", inode=inode)
            await self._follow(inode, active, active.region, None)  # it has come here
        if active.is_remote:
            raise Moved("another node owns the object", inode=inode)
        return Attributes(active.region.size, active.region.mtime_ns, active.region.ctime_ns, active.allocated)

    def seen(self, object_id: str) -> Attributes | None:
        """What is known of an object of this node that is open; None: what is published is right."""
        record = self.registry.view.object(object_id)
        active = None if record is None else self._active.get(record.inode)
        if active is None or active.is_remote:
            return None
        return Attributes(active.region.size, active.region.mtime_ns, active.region.ctime_ns, active.allocated)

    def requests(self, object_id: str) -> int:
        """How many requests were made here of an object with a log."""
        return self.traffic.requests(object_id)

    def begun(self, object_id: str) -> tuple[int, int]:
        """(epoch, its first LSN) of an open log. NotFound."""
        return self.volumes.begun(object_id)

    def written(self, object_id: str) -> int:
        """LSN of the last record of an open log. NotFound."""
        return self.volumes.written(object_id)

    # -- what comes to this node -----------------------------------------------------------------------------------------

    @property
    def takeover(self) -> Takeover:
        """Of what dead nodes owned. Conflict: this vPool has one node."""
        if self._neighbours is None:
            raise Conflict("this vPool has one node; there is nobody to take anything over from")
        return self._neighbours.takeover

    @property
    def movements(self) -> Movements:
        """What has moved between nodes, in numbers."""
        return self._no_movements if self._neighbours is None else self._neighbours.movements()

    @property
    def moves(self) -> Moves:
        """Of volumes between nodes. Conflict: this vPool has one node."""
        if self._neighbours is None:
            raise Conflict("this vPool has one node; there is nowhere to move anything")
        return self._neighbours.ownership.moves

    def remains_bytes(self, record: ObjectRecord, node: str) -> int | None:
        """Bytes in the log that this very node has of an object which it owned; None: it is another node, or there is none."""
        if node != self.registry.node or record.owner == node:
            return None
        return self.volumes.log_bytes(record.id)

    async def set_dtl(self, object_id: str, mode: DtlMode | None, peer: str) -> None:
        """Say how an object's tail is mirrored (None: as it is), or name its peer ("": any); the registry has it on return.

        Errors: ``Conflict`` (one node), ``Moved`` (another node owns it), ``NotFound``, ``Invalid`` (no such peer), ``Halted``.
        """
        if self._neighbours is None:
            raise Conflict("this vPool has one node; there is nobody to keep a second copy")
        await self.volumes.attach(object_id)
        mirror = self._neighbours.ownership.mirror(object_id)
        if mirror is None:
            raise Unavailable("the object is just being opened or closed", object=object_id)
        await mirror.order(mode, peer)

    async def take_up(self, record: ObjectRecord) -> None:
        """Open a log that the registry has given to this node; who has its objects open here goes on with it.

        Errors: as ``VolumeDriver.take_over``.
        """
        await self.volumes.take_over(record)
        if record.kind is ObjectKind.FILE_LOG:
            self._note_sizes_unknown()
            self._logs_unknown.add(record.id)
            self._nursery.start_soon(self._learn_sizes_in, record.id)
        elif record.inode:
            self._nursery.start_soon(self._learn_size, record.inode)
        for active in list(self._active.values()):
            if active.is_remote and (active.record.log or active.record.id) == record.id:
                await self._comes_here(active)

    async def may_leave(self, log_id: str) -> None:
        """Before a log of files goes: the registry is told what is open here, and sizes and times. Conflict: not now.

        What has neither name nor handle is the reaper's of whoever owns the log, who asks the registry only.
        """
        record = self.registry.view.object(log_id)
        if record is None or record.kind is not ObjectKind.FILE_LOG:
            return
        self._leaving.add(log_id)
        actives = self._opened_in(log_id)
        await self._settler.settle(list(actives.values()))
        at_once = trio.CapacityLimiter(AT_ONCE)
        async with trio.open_nursery() as nursery:
            for inode, active in actives.items():
                if active.handles and not active.registered:
                    nursery.start_soon(self._register_before_leaving, inode, active, at_once)
        if any(active.handles and not active.registered for active in self._opened_in(log_id).values()):
            self._leaving.discard(log_id)
            raise Conflict("a file that has lost its name is open here, and the registry does not know of it", object=log_id)

    async def leaves(self, log_id: str) -> None:
        """A log of files is held: what has changed since ``may_leave`` is told, since its next owner cannot know the times."""
        if log_id in self._leaving:
            await self._settler.settle([active for active in self._opened_in(log_id).values() if active.unpublished])

    def stays(self, log_id: str) -> None:
        """No hand-over of it is under way."""
        self._leaving.discard(log_id)

    async def part(self, object_id: str, tell: Callable[[int, int], None]) -> None:
        """Give a file of this node a log of its own; see ``Parting``."""
        record = self.registry.view.object(object_id)
        if record is None or self._neighbours is None:
            raise NotFound("no such file", object=object_id)
        if self._is_elsewhere(record):
            raise Moved("another node owns the file", object=object_id)
        if is_alone(self.registry.view, record):
            return
        active = await self._activate(record.inode)
        active.handles += 1  # it stays open, and what lost its name stays
        former = active.region.volume if isinstance(active.region, Region) else None
        parting = Parting(self.registry, self.volumes, self._neighbours.serving, active.record, tell)
        try:
            if former is None or active.is_left_behind:
                raise Moved("another node owns the file", object=object_id)
            moved = await parting.run(active)
            active.traffic = self.traffic.of(moved.log)
        finally:
            await self.release(record.inode)
        self._nursery.start_soon(parting.erase_former, former)

    async def went_away(self, object_id: str) -> None:
        """Another node owns what was this one's: who has it open here goes on there."""
        at_once = trio.CapacityLimiter(AT_ONCE)
        async with trio.open_nursery() as nursery:
            for inode, active in list(self._active.items()):
                if (active.record.log or active.record.id) != object_id or not active.is_left_behind:
                    continue
                if active.is_volume or active.handles or active.settling or self._locks[inode].locked():
                    nursery.start_soon(self._goes_along, inode, active, at_once)
                    continue
                del self._active[inode]
                if active.registered:
                    self._settler.let_go(active.record)

    async def _goes_along(self, inode: int, active: Active, at_once: trio.CapacityLimiter) -> None:
        async with at_once:
            try:
                await self._follow(inode, active, active.region, None)
                if active.handles and not active.registered:
                    await self._register(inode, active)
            except VPoolError as error:  # whoever asks for it next follows it
                log.info("not_followed_yet", object=active.record.id, reason=str(error))

    async def _register_before_leaving(self, inode: int, active: Active, at_once: trio.CapacityLimiter) -> None:
        async with at_once:
            try:
                await self._register(inode, active)
            except VPoolError as error:
                log.info("not_registered", object=active.record.id, reason=str(error))

    def _opened_in(self, log_id: str) -> dict[int, Active]:
        """Files of a log that are open on this node, which owns it."""
        return {inode: active for inode, active in self._active.items() if active.record.log == log_id and not active.is_remote}

    def _registry_counts(self, active: Active) -> bool:
        """Whether the registry has to know of each handle: of volumes, and of what another node owns, or is about to."""
        if active.is_volume or active.is_remote or active.is_left_behind:
            return True
        return active.record.log in self._leaving

    async def _comes_here(self, active: Active) -> None:
        region, record = active.region, active.record
        if active.is_volume:
            volume = await self.volumes.attach(record.id)
            active.follow(await Region.of_volume(volume, record.size, region.mtime_ns, region.ctime_ns))
        else:
            active.follow(await self.files.region(record, region.mtime_ns, region.ctime_ns))
        log.info("object_is_here_now", object=record.id, handles=active.handles)

    async def _learn_size(self, inode: int) -> None:
        """Look a size up in a log that came from another node: what that had published may be newer or older."""
        try:
            await self._catch_up(inode)
        except VPoolError as error:
            log.warning("not_caught_up", inode=inode, reason=str(error))
        active = self._active.get(inode)
        if active is not None and not active.is_remote:
            active.region.unpublished = True
            self._settler.released()

    async def _learn_sizes_in(self, log_id: str) -> None:
        after = 0
        while found := self.registry.view.files_in(log_id, after, 256):
            after = found[-1][0]
            for _, object_id in found:
                file = self.registry.view.object(object_id)
                if file is not None:
                    await self._learn_size(file.inode)
            if len(self._active) > ACTIVE_MAX:
                await self._settler.settle(list(self._active.values()))
                self._forget_idle()
            await trio.lowlevel.checkpoint()
        self._logs_unknown.discard(log_id)

    @property
    def answers_waiting(self) -> int:
        """Answers to this node's front ends that wait for its lease."""
        return 0 if self._replies is None else self._replies.waiting

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

    async def _caught_up(self) -> None:
        """What was committed before shows here; or what is known, where there is no answer in time (and then until there is)."""
        if self._neighbours is None or self._behind:
            return
        with trio.move_on_after(BARRIER_S) as scope:
            await self.registry.barrier()
        if scope.cancelled_caught and not self._behind:
            self._behind = True
            log.warning("registry_silent", after_s=BARRIER_S, consequence="attributes may be old; names wait")
            self._nursery.start_soon(self._catch_up_again)

    async def _catch_up_again(self) -> None:
        await self.registry.barrier()
        self._behind = False
        log.info("registry_answers_again")

    def _inode(self, number: int) -> Inode:
        found = self.registry.view.inode(number)
        if found is None:
            raise NotFound("no such inode", inode=number)
        return found

    async def _live(self, inode: Inode) -> Inode:
        """An inode with its owner's size and time."""
        if inode.object and inode.number not in self._active and self._is_size_unknown(inode):
            await self._catch_up(inode.number)
        active = self._active.get(inode.number)
        if active is None:
            return await self._elsewhere(inode)
        if active.is_left_behind:
            await self._follow(inode.number, active, active.region, None)
        if isinstance(active.region, RemoteRegion):
            await active.region.refresh()
        return active.seen_in(inode)

    def _is_size_unknown(self, inode: Inode) -> bool:
        if not self._sizes_known or not self._logs_unknown:
            return not self._sizes_known
        record = self.registry.view.object(inode.object)
        return record is not None and record.log in self._logs_unknown

    async def _elsewhere(self, inode: Inode) -> Inode:
        """An inode that is not open here: another node may own its object, and know more than is published."""
        if self._neighbours is None or not inode.object:
            return inode
        record = self.registry.view.object(inode.object)
        owning = self.registry.view.object(record.log) if record is not None and record.log else record
        if owning is None or owning.owner in ("", self.volumes.node_id):
            return inode
        told = await self._neighbours.look(owning.owner, inode.object)
        return inode if told is None else told_by_owner(inode, told.size, told.mtime_ns, told.ctime_ns)

    def _epoch(self, record: ObjectRecord) -> int:
        """Epoch under which an open object is written. NotFound: it is not open.

        0 for what another node owns: of that only a handle is given back.
        """
        if self._is_elsewhere(record):
            return 0
        return self.files.epoch(record) if record.log else self.volumes.epoch(record.id)

    async def _activate(self, number: int) -> Active:
        """Open the object behind an inode on this node."""
        with Waiting(Phase.OPENING):
            return await self._activated(number)

    async def _activated(self, number: int) -> Active:
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
            region = await self._region(record, inode)
            self._reachable(number)  # its last name may have gone meanwhile
            active = self._active.get(number)  # it may have been made and opened while we looked at it
            if active is None:
                active = self._active[number] = self._new_active(record, inode, region)
            return active

    async def _where_it_is(self, inode: int, active: Active, do: Callable[[Region | RemoteRegion], Awaitable[None]]) -> None:
        """Do something with an object's bytes, and again if it had moved and nothing was done."""
        while True:
            region = active.region
            try:
                return await do(region)
            except Moved as error:
                await self._follow(inode, active, region, error)

    async def _follow(self, inode: int, active: Active, region: Region | RemoteRegion, error: Moved | None) -> None:
        """Reach an object where its owner is now; ``region`` is how that was tried.

        ``error`` is raised if the request is one of another node's, which goes there itself.
        """
        if self._neighbours is None or (error is not None and gives_way()):
            raise error or Moved("another node owns the object", inode=inode)
        async with self._locks[inode]:
            if active.region is not region:
                return
            record = self.registry.view.object(active.record.id)
            if record is None:
                raise NotFound("the object is gone", inode=inode)
            found = await self._region(record, self._inode(inode))
            active.follow(found)
            active.published_size = self._inode(inode).size

    async def _region(self, record: ObjectRecord, inode: Inode) -> Region | RemoteRegion:
        """The bytes of an object, wherever its owner is; what nobody owns becomes this node's."""
        while True:
            try:
                if self._neighbours is not None and self._is_elsewhere(record):
                    return await self._neighbours.region(record.id)
                if inode.kind is not InodeKind.VOLUME:
                    return await self.files.region(record, inode.mtime_ns, inode.ctime_ns)
                volume = await self.volumes.attach(record.id)
                return await Region.of_volume(volume, record.size, inode.mtime_ns, inode.ctime_ns)
            except (Conflict, Moved) as error:  # another node was the first to open it; or it is being handed over just now
                if self._neighbours is None:
                    raise
                await self.registry.barrier()
                found = self.registry.view.object(record.id)
                if found is None or (isinstance(error, Conflict) and not self._is_elsewhere(found)):
                    raise
                if found == record:
                    await trio.sleep(MOVED_PAUSE_S)
                record = found

    def _is_elsewhere(self, record: ObjectRecord) -> bool:
        """Whether another node owns an object: a file's owner is its log's. ``record`` may be older than its owner."""
        owning = self.registry.view.object(record.log or record.id)
        return owning is not None and owning.owner not in ("", self.volumes.node_id)

    def _new_active(self, record: ObjectRecord, inode: Inode, region: Region | RemoteRegion) -> Active:
        return Active(record, inode, region, self.traffic.of(record.log or record.id))

    def _reachable(self, number: int) -> Inode:
        """An inode that has a name or a handle; any other is the reapers'."""
        inode = self._inode(number)
        if inode.nlink == 0 and not self.handles(number) and not self.registry.view.handles(number):
            raise NotFound("neither name nor handle is left", inode=number)
        return inode

    async def _take_up(self, created: Created) -> None:
        """Open what was made with a handle, which the registry has counted already."""
        inode, record = created.inode, created.object
        assert record is not None, "what is opened has an object"
        try:
            region = await self._region_here(record, inode) if record.log else None
            active = self._active.get(inode.number)
            if active is None and region is not None:  # nobody can have opened it yet, but may have looked at it
                active = self._active[inode.number] = self._new_active(record, inode, region)
            if active is None:
                active = await self._activate(inode.number)
        except BaseException:
            self._settler.let_go(record)
            raise
        active.handles += 1
        active.registered = True

    async def _region_here(self, record: ObjectRecord, inode: Inode) -> Region | None:
        """A new file in a log of this node; None: another node owns that."""
        if self._is_elsewhere(record):
            return None
        try:
            return await self.files.region(record, inode.mtime_ns)
        except Moved:  # the log was handed over just now
            return None

    async def _catch_up(self, inode: int) -> bool:
        """Look a size up and publish it; False when that must be tried again."""
        try:
            found = self._reachable(inode)
        except NotFound:  # its name was gone, and with the earlier life of this node its last handle
            return True
        record = self.registry.view.object(found.object)
        if record is not None and self._is_elsewhere(record):  # its owner knows
            return True
        try:
            await self._activate(inode)
        except (NotFound, Invalid, Halted, Corrupt, Moved, NoSpace) as error:
            log.warning("not_caught_up", inode=inode, reason=str(error))
        except Unavailable as error:
            log.warning("not_caught_up_yet", inode=inode, reason=str(error))
            return False
        return True

    async def _learn_sizes(self, note: Callable[[], None]) -> None:
        if not self._sizes_known:
            known, looked_at = True, 0
            async for inode in self._all_with_content():
                known = await self._catch_up(inode) and known
                looked_at += 1
                if len(self._active) > ACTIVE_MAX:
                    await self._settler.settle(list(self._active.values()))
                    self._forget_idle()
            await self._settler.settle(list(self._active.values()))
            self._sizes_known = known
            log.info("sizes_looked_up", objects=looked_at, all=known)
        if not self._sizes_known:
            return  # each goes on to be looked up when it is asked for, and all again in the next life
        await trio.to_thread.run_sync(note)

    async def _all_with_content(self) -> AsyncIterator[int]:
        """Inodes of all volumes and files."""
        for record in self.registry.view.objects_with_log():
            if record.inode:
                yield record.inode
            after = 0
            while found := self.registry.view.files_in(record.id, after, 256):
                after = found[-1][0]
                for _, object_id in found:
                    file = self.registry.view.object(object_id)
                    if file is not None:
                        yield file.inode
                await trio.lowlevel.checkpoint()

    async def _truncate(self, inode: int, size: int, *, gated: bool = True) -> None:
        active = self._active.get(inode) or await self._activate(inode)
        if not active.registered:
            await self._register(inode, active)
        await self._where_it_is(inode, active, lambda region: self._cut(active, region, size))
        if gated:
            await self._may_reply(active)

    async def _cut(self, active: Active, region: Region | RemoteRegion, size: int) -> None:
        await region.truncate(size)
        if active.is_volume:
            await self._resize(active)

    async def _flushed(self, active: Active) -> None:
        await active.flush()
        if active.is_volume:
            await self._resize(active)

    async def _may_reply(self, active: Active) -> None:
        """Answers on what this node owns leave under its lease only. ``Fenced``: its life is over."""
        if self._replies is not None and not active.is_remote:
            await self._replies.allowed(active.record.log or active.record.id)

    async def _resize(self, active: Active) -> None:
        """Tell the registry a volume's size, at once: it is what the size is if the host is lost. ``Moved``."""
        size = active.region.size
        if active.is_remote or size == active.published_size:
            return
        try:
            async with self.volumes.at_epoch(active.record.id) as epoch:
                await self.registry.submit(Resize(active.record.id, epoch, size, active.region.mtime_ns))
        except (Conflict, NotFound):
            if self._neighbours is not None and self._is_elsewhere(active.record):  # it was handed over meanwhile
                raise Moved("another node owns the volume now", object=active.record.id) from None
            raise
        active.published_size = size

    async def _flush_replacement(self, parent: int, name: str, new_parent: int, new_name: str) -> None:
        moved = self.registry.view.lookup(parent, name)
        active = self._active.get(moved.number) if moved is not None else None
        if active is None or active.is_volume or not active.region.unsynced:
            return
        if self.registry.view.lookup(new_parent, new_name) is not None:
            await active.region.flush()

    def _lost_name(self, inode: Inode) -> None:
        if inode.nlink > 0:
            return
        active = self._active.get(inode.number)
        self._departed.add(inode if active is None else active.seen_in(inode), inode.ctime_ns)
        if not inode.object:
            return
        if active is not None:
            active.unlinked = True
            if active.handles:
                return
        self._let_go(inode.number, is_volume=inode.kind is InodeKind.VOLUME)

    def _let_go(self, inode: int, *, is_volume: bool) -> None:
        """Neither name nor handle is left here."""
        active = self._active.pop(inode, None)
        if active is not None and active.registered:
            self._settler.let_go(active.record)
        (self.volumes if is_volume else self.files).orphaned()

    async def _settle(self) -> None:
        """Publish what is unpublished, and forget the live state of files nobody holds."""
        while True:
            await self._settler.pause()
            if await self._settler.settle_let_go():
                self.volumes.orphaned()
                self.files.orphaned()
            actives = list(self._active.values())
            for active in [active for active in actives if active.is_volume]:
                try:
                    await self._resize(active)
                except VPoolError as error:
                    log.info("not_published", object=active.record.id, reason=str(error))
            await self._settler.settle(actives)
            self._forget_idle()

    def _forget_idle(self) -> None:
        idle = [inode for inode, active in self._active.items() if not active.handles and not active.is_volume]
        for inode in idle[: max(0, len(self._active) - ACTIVE_MAX)]:
            active = self._active[inode]
            if not (active.registered or active.unpublished or active.uncounted or active.settling):
                del self._active[inode]
        for inode, active in list(self._active.items()):  # what another node owns may be somebody else's the next time
            if active.is_remote and not (active.handles or active.registered or active.settling):
                del self._active[inode]
        for inode in [inode for inode, lock in self._locks.items() if inode not in self._active and not lock.locked()]:
            del self._locks[inode]

    async def _register(self, inode: int, active: Active) -> None:
        """Tell the registry that this node has the inode open; one without a name needs it no more."""
        async with self._locks[inode]:
            if active.registered or (active.unlinked and not active.is_volume):
                return
            try:
                await self.registry.submit(OpenHandle(inode))
            except trio.Cancelled:
                active.registered = True  # the wait is cancelled, the command is not: it is given back when nobody holds it
                raise
            except NotFound:
                if active.is_volume or not active.handles:
                    raise
                return  # the last name has just gone
            active.registered = True


def _as_kept(time_ns: int | None) -> int | None:
    return None if time_ns is None else max(-TIME_NS_MAX, min(TIME_NS_MAX, time_ns))
