"""The handlers that pyfuse3 calls: each turns one request of the kernel into one of the object router, and its errors into errno.

A handle *is* the inode number: the router counts handles, and all that a handle must remember is there. So reads and writes need
no table. One bit more says that it is open for writing, for ``Writers``.

Concurrency: pyfuse3 runs a handler per request, many at once, on the one trio loop.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import pyfuse3
import structlog
import trio
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
    XAttrNameT,
)

from fuse.attributes import NODE_KINDS, check_attribute_name, entry_of, may_see_attribute
from fuse.errnos import errno_of
from fuse.router import Router
from fuse.writers import Writers
from vpool.errors import Exists, Internal, VPoolError

if TYPE_CHECKING:
    from objectrouter import Inode

log = structlog.get_logger()

ENTRIES_PER_REQUEST = 128
NAME_BYTES_MAX = 255
WRITING = 1 << 63  # of a handle: open for writing
INODE = WRITING - 1  # of a handle: the inode number
_HERE, _ABOVE = 1, 2  # cookies of "." and ".."; those of names are greater

P = ParamSpec("P")
T = TypeVar("T")


def _refusal(request: str, error: Exception) -> FUSEError:
    """What the kernel is told, and the log if it is our fault or an operator's business."""
    if not isinstance(error, VPoolError) or isinstance(error, Internal):
        log.error("fuse_request_failed", request=request, error=repr(error), exc_info=error)
        return FUSEError(errno.EIO)
    code = errno_of(error)
    if code == errno.EIO:
        log.warning("fuse_request_refused", request=request, error=str(error))
    elif code not in (errno.ENOENT, errno.ENODATA):  # what programs ask in vain all day
        log.debug("fuse_request_refused", request=request, kind=type(error).__name__, error=str(error))
    return FUSEError(code)


def _answered(
    handler: Callable[Concatenate[Operations, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Operations, P], Coroutine[Any, Any, T]]:
    """A handler from which nothing but FUSEError (and cancellation) can come: anything else would end pyfuse3's loop."""

    @functools.wraps(handler)
    async def answered(self: Operations, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await handler(self, *args, **kwargs)
        except FUSEError:
            raise
        except Exception as error:
            raise _refusal(handler.__name__, error) from None

    return answered


def _answered_by_number(
    handler: Callable[Concatenate[Operations, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Operations, P], Coroutine[Any, Any, T]]:
    """As ``_answered``, for a request on an inode that the kernel has found before: what is gone since is *stale*, not *absent*.

    Another node may have renamed something over the name meanwhile, at no moment of which the name was absent. At ESTALE the
    kernel walks the path once more (``retry_estale`` in linux/namei.h), and finds what is there now.
    """
    answered = _answered(handler)

    @functools.wraps(handler)
    async def looked_at_again(self: Operations, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await answered(self, *args, **kwargs)
        except FUSEError as error:
            if error.errno == errno.ENOENT:
                raise FUSEError(errno.ESTALE) from None
            raise

    return looked_at_again


def _name(name: FileNameT) -> str:
    return os.fsdecode(name)


def _is_for_writing(flags: int) -> bool:
    return flags & os.O_ACCMODE != os.O_RDONLY or bool(flags & os.O_TRUNC)


class Operations(pyfuse3.Operations):
    """The vPool as the kernel sees it.

    ``entry_timeout_s``, ``attributes_timeout_s``: how long it may believe an answer. ``greeted`` is set when the kernel has sent
    INIT, whose answer is out before another task runs.
    """

    supports_dot_lookup = False
    enable_writeback_cache = False  # a write is acknowledged by our log, not by the kernel's memory

    def __init__(
        self,
        router: Router,
        writers: Writers,
        *,
        entry_timeout_s: float,
        attributes_timeout_s: float,
        sync_on_close: bool = False,
    ) -> None:
        super().__init__()
        self.greeted = trio.Event()
        self.writes_under_way = 0
        self._router = router
        self._writers = writers
        self._read, self._write = router.read, router.write
        self._entry_timeout_s = entry_timeout_s
        self._attributes_timeout_s = attributes_timeout_s
        self._sync_on_close = sync_on_close

    def init(self) -> None:
        self.greeted.set()

    # -- data: nothing here may cost much -----------------------------------------------------------------------------

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        try:
            return await self._read(fh & INODE, off, size)
        except Exception as error:
            raise _refusal("read", error) from None

    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        self.writes_under_way += 1
        try:
            return await self._write(fh & INODE, off, buf)
        except Exception as error:
            raise _refusal("write", error) from None
        finally:
            self.writes_under_way -= 1

    @_answered
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        await self._router.flush(fh & INODE)

    @_answered
    async def flush(self, fh: FileHandleT) -> None:
        """close(2) of one descriptor. ENOSYS: the kernel asks no more, and a close costs no request."""
        if not self._sync_on_close:
            raise FUSEError(errno.ENOSYS)
        await self._router.sync_before_close(fh & INODE)

    # -- handles ------------------------------------------------------------------------------------------------------

    @_answered_by_number
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        """O_TRUNC empties a file; a volume keeps its size, as zeros: backup tools open disks so, and then skip zeros."""
        found = await self._router.attributes(inode)
        writing = _is_for_writing(flags)
        if writing:
            self._writers.enter()
        try:
            await self._router.open(inode)
            try:
                if flags & os.O_TRUNC:
                    await self._truncate_at_open(found, ctx)
            except BaseException:
                await self._router.release(inode)
                raise
        except BaseException:
            if writing:
                self._writers.leave()
            raise
        return self._handle(found, writing)

    async def _truncate_at_open(self, found: Inode, ctx: RequestContext) -> None:
        """The kernel leaves it to us to take set-user-id and set-group-id away here; for root they stay."""
        kept = found.mode & ~stat.S_ISUID & ~(stat.S_ISGID if found.mode & stat.S_IXGRP else 0)
        if kept != found.mode and ctx.uid != 0:
            await self._router.set_attributes(found.number, mode=kept)
        if not found.size:
            return
        if found.kind.value == "volume":
            await self._router.zero(found.number, 0, found.size)
        else:
            await self._router.set_attributes(found.number, size=0)

    @_answered
    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        writing = _is_for_writing(flags)
        if writing:
            self._writers.enter()
        try:
            made = await self._router.create(
                parent_inode, _name(name), mode=stat.S_IMODE(mode), uid=ctx.uid, gid=ctx.gid, opened=True
            )
        except BaseException as error:
            if writing:
                self._writers.leave()
            if isinstance(error, Exists) and not flags & os.O_EXCL:
                raise FUSEError(errno.ESTALE) from None  # made meanwhile: the kernel looks again, and at its permissions
            raise
        return self._handle(made, writing), self._attributes(made)

    @_answered
    async def release(self, fh: FileHandleT) -> None:
        try:
            await self._router.release(fh & INODE)
        finally:
            if fh & WRITING:
                self._writers.leave()

    def _handle(self, inode: Inode, writing: bool) -> FileInfo:
        # Volumes bypass the kernel's cache: their guests have one, and another host may become the writer.
        fh = inode.number | WRITING if writing else inode.number
        return FileInfo(fh=fh, direct_io=inode.kind.value == "volume", keep_cache=False)

    # -- attributes ---------------------------------------------------------------------------------------------------

    @_answered_by_number
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return self._attributes(await self._router.attributes(inode))

    @_answered_by_number
    async def setattr(
        self, inode: InodeT, attr: EntryAttributes, fields: SetattrFields, fh: FileHandleT | None, ctx: RequestContext
    ) -> EntryAttributes:
        by_name = fields.update_size and not (fh is not None and fh & WRITING)
        with self._writers.entered() if by_name else contextlib.nullcontext():
            changed = await self._set_attributes(inode, attr, fields)
        return self._attributes(changed)

    async def _set_attributes(self, inode: InodeT, attr: EntryAttributes, fields: SetattrFields) -> Inode:
        return await self._router.set_attributes(
            inode,
            mode=stat.S_IMODE(attr.st_mode) if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        )

    @_answered
    async def access(self, inode: InodeT, mode: ModeT, ctx: RequestContext) -> bool:
        return True  # the kernel checks modes itself (default_permissions)

    def _attributes(self, inode: Inode) -> EntryAttributes:
        return entry_of(inode, entry_timeout_s=self._entry_timeout_s, attributes_timeout_s=self._attributes_timeout_s)

    # -- names --------------------------------------------------------------------------------------------------------

    @_answered
    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        return self._attributes(await self._router.lookup(parent_inode, _name(name)))

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        """Nothing is remembered per lookup: inode numbers come from the registry and stay."""

    @_answered
    async def mknod(self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext) -> EntryAttributes:
        """Anything but a directory or a symbolic link. Device nodes are kept; the mount opens none (``nodev``)."""
        permissions = stat.S_IMODE(mode)
        if stat.S_ISREG(mode):
            made = await self._router.create(parent_inode, _name(name), mode=permissions, uid=ctx.uid, gid=ctx.gid)
            return self._attributes(made)
        kind = NODE_KINDS.get(stat.S_IFMT(mode))
        if kind is None:
            raise FUSEError(errno.EINVAL)
        device = rdev if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0
        made = await self._router.make_node(
            parent_inode, _name(name), kind, mode=permissions, uid=ctx.uid, gid=ctx.gid, device=device
        )
        return self._attributes(made)

    @_answered
    async def mkdir(self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext) -> EntryAttributes:
        made = await self._router.make_directory(parent_inode, _name(name), mode=stat.S_IMODE(mode), uid=ctx.uid, gid=ctx.gid)
        return self._attributes(made)

    @_answered
    async def symlink(self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext) -> EntryAttributes:
        return self._attributes(await self._router.symlink(parent_inode, _name(name), _name(target), uid=ctx.uid, gid=ctx.gid))

    @_answered_by_number
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        return os.fsencode((await self._router.attributes(inode)).target)

    @_answered
    async def link(self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        return self._attributes(await self._router.link(inode, new_parent_inode, _name(new_name)))

    @_answered
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        await self._router.unlink(parent_inode, _name(name))

    @_answered
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        await self._router.remove_directory(parent_inode, _name(name))

    @_answered
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        if flags & ~(pyfuse3.RENAME_NOREPLACE | pyfuse3.RENAME_EXCHANGE):
            raise FUSEError(errno.EINVAL)  # RENAME_WHITEOUT
        await self._router.rename(
            parent_inode_old,
            _name(name_old),
            parent_inode_new,
            _name(name_new),
            no_replace=bool(flags & pyfuse3.RENAME_NOREPLACE),
            exchange=bool(flags & pyfuse3.RENAME_EXCHANGE),
        )

    # -- directories --------------------------------------------------------------------------------------------------

    @_answered
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        return inode

    @_answered
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        """Names with their attributes (readdirplus), from a cookie on: entries that stay are neither skipped nor repeated."""
        for cookie, name in ((_HERE, b"."), (_ABOVE, b"..")):
            if cookie > start_id and not await self._reply_dot(fh, token, name, cookie):
                return
        cookie = start_id if start_id > _ABOVE else 0  # 0: the listing begins, and is to be of now
        while found := await self._router.entries(fh, cookie, ENTRIES_PER_REQUEST):
            for entry, inode in found:
                if not pyfuse3.readdir_reply(token, os.fsencode(entry.name), self._attributes(inode), entry.cookie):
                    return
                cookie = entry.cookie

    async def _reply_dot(self, directory: int, token: ReaddirToken, name: bytes, cookie: int) -> bool:
        inode = await self._router.attributes(directory)
        if cookie == _ABOVE:
            inode = await self._router.attributes(inode.parent)
        return pyfuse3.readdir_reply(token, FileNameT(name), self._attributes(inode), cookie)

    @_answered
    async def releasedir(self, fh: FileHandleT) -> None:
        """Nothing is kept for an open directory."""

    @_answered
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        """Names are durable when their request has been answered: the registry logs before it answers."""

    @_answered
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        numbers = self._router.statistics()
        data = StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_blocks = numbers.total_bytes // 4096
        data.f_bfree = data.f_bavail = numbers.free_bytes // 4096
        data.f_files = numbers.inodes
        data.f_ffree = data.f_favail = numbers.inodes_free
        data.f_namemax = NAME_BYTES_MAX
        return data

    # -- extended attributes: XATTR_CREATE and XATTR_REPLACE are seen to by pyfuse3, under the kernel's lock of the inode --------

    @_answered_by_number
    async def setxattr(self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext) -> None:
        check_attribute_name(name)
        await self._router.set_attribute(inode, os.fsdecode(name), bytes(value))

    @_answered_by_number
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        check_attribute_name(name)
        return await self._router.attribute(inode, os.fsdecode(name))

    @_answered_by_number
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        names = [XAttrNameT(os.fsencode(name)) for name in await self._router.attribute_names(inode)]
        return [name for name in names if may_see_attribute(name, ctx.uid)]

    @_answered_by_number
    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        check_attribute_name(name)
        await self._router.remove_attribute(inode, os.fsdecode(name))
