"""An object router that keeps everything in memory: for tests of the front ends and of the management API."""

from __future__ import annotations

import os
import stat
import time
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from registry.model import ROOT_INODE, DirectoryEntry, Inode, InodeKind
from vpool.errors import Conflict, Denied, Exists, Invalid, NotFound, VPoolError

if TYPE_CHECKING:
    from objectrouter import FilesystemStatistics


class MemoryRouter:
    """Fulfils ``fuse.router.Router``. ``failures[method]`` is raised instead of the method's work."""

    def __init__(self) -> None:
        now = time.time_ns()
        root = Inode(ROOT_INODE, InodeKind.DIRECTORY, "", 0o755, os.geteuid(), os.getegid(), 2, 0, now, now, now, "", ROOT_INODE)
        self.inodes: dict[int, Inode] = {ROOT_INODE: root}
        self.names: dict[int, dict[str, tuple[int, int]]] = {ROOT_INODE: {}}  # directory → name → (cookie, inode)
        self.content: dict[int, bytearray] = {}
        self.open_handles: dict[int, int] = {}
        self.flushes: list[int] = []
        self.closes: list[int] = []
        self.attributes_of: dict[int, dict[str, bytes]] = {}
        self.writes: list[tuple[int, int, int]] = []  # inode, offset, bytes
        self.failures: dict[str, VPoolError | Exception] = {}
        self.reopened: list[tuple[int | None, bool]] = []  # inode (None: the log of files), whether a loss is accepted
        self.rules: tuple[str, ...] = ("*.raw",)
        self._last = ROOT_INODE
        self._cookie = 16  # those below are for . and ..

    def is_volume_name(self, name: str) -> bool:
        return any(fnmatchcase(name, rule) for rule in self.rules)

    def handles(self, inode: int) -> int:
        return self.open_handles.get(inode, 0)

    async def lookup(self, parent: int, name: str) -> Inode:
        self._fail("lookup")
        return self._live(self._entry(parent, name)[1])

    async def attributes(self, inode: int) -> Inode:
        self._fail("attributes")
        return self._live(inode)

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
        self._fail("set_attributes")
        if size is not None:
            content = self.content[inode]
            del content[size:]
            content.extend(bytes(size - len(content)))
        given = {"mode": mode, "uid": uid, "gid": gid, "atime_ns": atime_ns, "mtime_ns": mtime_ns}
        self.inodes[inode] = replace(self.inodes[inode], **{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]
        return self._live(inode)

    async def create(
        self, parent: int, name: str, *, mode: int, uid: int, gid: int, size: int = 0, opened: bool = False
    ) -> Inode:
        self._fail("create")
        kind = InodeKind.VOLUME if self.is_volume_name(name) else InodeKind.FILE
        made = self._add(parent, name, kind, mode, uid, gid)
        self.content[made.number] = bytearray(size)
        if opened:
            await self.open(made.number)
        return self._live(made.number)

    async def make_node(self, parent: int, name: str, kind: str, *, mode: int, uid: int, gid: int, device: int = 0) -> Inode:
        made = self._add(parent, name, InodeKind(kind), mode, uid, gid)
        self.inodes[made.number] = replace(made, rdev=device)
        return self.inodes[made.number]

    async def make_directory(self, parent: int, name: str, *, mode: int, uid: int, gid: int) -> Inode:
        made = self._add(parent, name, InodeKind.DIRECTORY, mode, uid, gid, own=parent)
        self.names[made.number] = {}
        return made

    async def symlink(self, parent: int, name: str, target: str, *, uid: int, gid: int) -> Inode:
        return self._add(parent, name, InodeKind.SYMLINK, 0o777, uid, gid, target=target)

    async def link(self, inode: int, parent: int, name: str) -> Inode:
        if self.inodes[inode].kind is InodeKind.DIRECTORY:
            raise Denied("a directory has one name", reason="not_permitted")
        self._name(parent, name, inode)
        self.inodes[inode] = replace(self.inodes[inode], nlink=self.inodes[inode].nlink + 1)
        return self._live(inode)

    async def unlink(self, parent: int, name: str) -> None:
        _, inode = self._entry(parent, name)
        if self.inodes[inode].kind is InodeKind.DIRECTORY:
            raise Invalid("is a directory", reason="is_directory")
        del self.names[parent][name]
        self._drop(inode)

    async def remove_directory(self, parent: int, name: str) -> None:
        _, inode = self._entry(parent, name)
        if self.inodes[inode].kind is not InodeKind.DIRECTORY:
            raise Invalid("is not a directory", reason="not_directory")
        if self.names[inode]:
            raise Conflict("the directory is not empty", reason="not_empty")
        del self.names[parent][name], self.names[inode], self.inodes[inode]

    async def rename(
        self, parent: int, name: str, new_parent: int, new_name: str, *, no_replace: bool = False, exchange: bool = False
    ) -> None:
        cookie, inode = self._entry(parent, name)
        target = self.names[new_parent].get(new_name)
        if exchange:
            self.names[parent][name] = self._entry(new_parent, new_name)
            self.names[new_parent][new_name] = (cookie, inode)
            return
        if target is not None and no_replace:
            raise Exists("the name is taken", name=new_name)
        del self.names[parent][name]
        self._cookie += 1
        self.names[new_parent][new_name] = (self._cookie, inode)
        if target is not None:
            self._drop(target[1])

    async def reopen(self, inode: int, *, accept_loss: bool) -> None:
        self._fail("reopen")
        self.reopened.append((inode, accept_loss))

    async def reopen_files(self, *, accept_loss: bool) -> None:
        self._fail("reopen_files")
        self.reopened.append((None, accept_loss))

    async def entries(self, directory: int, after_cookie: int, limit: int) -> list[tuple[DirectoryEntry, Inode]]:
        self._fail("entries")
        if directory not in self.names:
            raise Invalid("not a directory", reason="not_directory")
        found = sorted((cookie, name, inode) for name, (cookie, inode) in self.names[directory].items() if cookie > after_cookie)
        return [(DirectoryEntry(cookie, name, inode), self._live(inode)) for cookie, name, inode in found[:limit]]

    async def open(self, inode: int) -> None:
        self._fail("open")
        self.open_handles[inode] = self.open_handles.get(inode, 0) + 1

    async def release(self, inode: int) -> None:
        self.open_handles[inode] -= 1

    async def read(self, inode: int, offset: int, length: int) -> bytes:
        self._fail("read")
        return bytes(self.content[inode][offset : offset + length])

    async def write(self, inode: int, offset: int, data: bytes) -> int:
        self._fail("write")
        content = self.content[inode]
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data
        self.writes.append((inode, offset, len(data)))
        return len(data)

    async def zero(self, inode: int, offset: int, length: int) -> None:
        self._fail("zero")
        content = self.content[inode]
        length = max(0, min(length, len(content) - offset))
        content[offset : offset + length] = bytes(length)

    async def flush(self, inode: int) -> None:
        self._fail("flush")
        self.flushes.append(inode)

    async def sync_before_close(self, inode: int) -> None:
        self.closes.append(inode)

    async def attribute(self, inode: int, name: str) -> bytes:
        try:
            return self.attributes_of[inode][name]
        except KeyError:
            raise NotFound("no such attribute", reason="no_attribute") from None

    async def attribute_names(self, inode: int) -> list[str]:
        return list(self.attributes_of.get(inode, {}))

    async def set_attribute(self, inode: int, name: str, value: bytes) -> None:
        self.attributes_of.setdefault(inode, {})[name] = value

    async def remove_attribute(self, inode: int, name: str) -> None:
        await self.attribute(inode, name)
        del self.attributes_of[inode][name]

    def statistics(self) -> FilesystemStatistics:
        from objectrouter import FilesystemStatistics

        return FilesystemStatistics(total_bytes=1 << 40, free_bytes=1 << 39, inodes=1000, inodes_free=500)

    # -- for tests ----------------------------------------------------------------------------------------------------

    def inode_of(self, path: str) -> Inode:
        """The inode behind a path."""
        number = ROOT_INODE
        for name in path.split("/"):
            number = self._entry(number, name)[1]
        return self._live(number)

    def _fail(self, method: str) -> None:
        if (failure := self.failures.get(method)) is not None:
            raise failure

    def _entry(self, parent: int, name: str) -> tuple[int, int]:
        if parent not in self.names:
            raise Invalid("not a directory", reason="not_directory")
        try:
            return self.names[parent][name]
        except KeyError:
            raise NotFound("no such name", name=name) from None

    def _live(self, number: int) -> Inode:
        if number not in self.inodes:
            raise NotFound("no such inode", inode=number)
        found = self.inodes[number]
        return replace(found, size=len(self.content[number])) if number in self.content else found

    def _name(self, parent: int, name: str, inode: int) -> None:
        if name in self.names[parent]:
            raise Exists("the name is taken", name=name)
        self._cookie += 1
        self.names[parent][name] = (self._cookie, inode)

    def _add(
        self, parent: int, name: str, kind: InodeKind, mode: int, uid: int, gid: int, *, target: str = "", own: int = 0
    ) -> Inode:
        self._name(parent, name, self._last + 1)
        self._last += 1
        now = time.time_ns()
        nlink = 2 if kind is InodeKind.DIRECTORY else 1
        made = Inode(self._last, kind, f"{self._last:032x}", stat.S_IMODE(mode), uid, gid, nlink, 0, now, now, now, target, own)
        self.inodes[self._last] = made
        return made

    def _drop(self, inode: int) -> None:
        left = self.inodes[inode].nlink - 1
        self.inodes[inode] = replace(self.inodes[inode], nlink=left)
