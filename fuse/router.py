"""What this front end asks of the object router; ``objectrouter.ObjectRouter`` is one, and the tests have one in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from objectrouter import DirectoryEntry, FilesystemStatistics, Inode


class Router(Protocol):
    """See ``objectrouter.ObjectRouter`` for what each promises and raises."""

    async def lookup(self, parent: int, name: str) -> Inode: ...

    async def attributes(self, inode: int) -> Inode: ...

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
    ) -> Inode: ...

    async def create(self, parent: int, name: str, *, mode: int, uid: int, gid: int) -> Inode: ...

    async def make_directory(self, parent: int, name: str, *, mode: int, uid: int, gid: int) -> Inode: ...

    async def symlink(self, parent: int, name: str, target: str, *, uid: int, gid: int) -> Inode: ...

    async def link(self, inode: int, parent: int, name: str) -> Inode: ...

    async def unlink(self, parent: int, name: str) -> None: ...

    async def remove_directory(self, parent: int, name: str) -> None: ...

    async def rename(
        self, parent: int, name: str, new_parent: int, new_name: str, *, no_replace: bool = False, exchange: bool = False
    ) -> None: ...

    async def entries(self, directory: int, after_cookie: int, limit: int) -> list[tuple[DirectoryEntry, Inode]]: ...

    async def open(self, inode: int) -> None: ...

    async def release(self, inode: int) -> None: ...

    async def read(self, inode: int, offset: int, length: int) -> bytes: ...

    async def write(self, inode: int, offset: int, data: bytes) -> int: ...

    async def zero(self, inode: int, offset: int, length: int) -> None: ...

    async def flush(self, inode: int) -> None: ...

    def statistics(self) -> FilesystemStatistics: ...
