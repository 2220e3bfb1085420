"""The namespace as an administrator looks at it: directories by entry, and what stands behind a name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from fastapi import FastAPI, Query, Request
from pydantic import BaseModel, Field

from admin.contents_routes import REFUSALS, path_behind
from vpool.errors import Invalid, NotFound

if TYPE_CHECKING:
    from objectrouter import DirectoryEntry, Inode

ENTRIES = "/v1/entries/"
FILES = "/v1/files/"
ROOT = 1
LIMIT_MAX = 1000


class Names(Protocol):
    """What is asked of the object router."""

    async def lookup(self, parent: int, name: str) -> Inode: ...

    async def attributes(self, inode: int) -> Inode: ...

    async def entries(self, directory: int, after_cookie: int, limit: int) -> list[tuple[DirectoryEntry, Inode]]: ...

    def handles(self, inode: int) -> int: ...


class Objects(Protocol):
    """What is asked of the registry's view."""

    def object(self, object_id: str) -> Any: ...

    def handles(self, inode: int) -> dict[str, int]: ...


class EntryReport(BaseModel):
    """One name."""

    name: str
    kind: str = Field(description="directory, file, volume, symlink, fifo, socket, character-device or block-device")
    inode: int
    object: str = Field(description="UUID; empty for what has no content of its own")
    size: int = Field(description="bytes")
    mode: int = Field(description="permission bits")
    uid: int
    gid: int
    nlink: int
    mtime_ns: int


class EntryList(BaseModel):
    """Some entries of a directory."""

    entries: list[EntryReport]
    after: int = Field(description="ask for what is behind this; 0: that was all")


class FileReport(EntryReport):
    """What stands behind a name."""

    path: str
    atime_ns: int
    ctime_ns: int
    target: str = Field(description="of a symbolic link")
    handles: dict[str, int] = Field(description="open handles by node, as the registry knows them")
    handles_here: int = Field(description="opened by clients of this node")
    record: dict[str, Any] | None = Field(description="what the registry says of the object")


class Entries:
    """Names of one node's vPool. All methods may run concurrently on the trio loop."""

    def __init__(self, names: Names, objects: Objects) -> None:
        self._names = names
        self._objects = objects

    async def list(self, path: str, after: int, limit: int) -> EntryList:
        """Entries of a directory behind a cookie. NotFound; Invalid: no directory."""
        inode = await self._find(path)
        if inode.kind.value != "directory":
            raise Invalid(f"{path} is a {inode.kind.value}, not a directory; vpool file show tells of it")
        found = await self._names.entries(inode.number, after, limit)
        entries = [EntryReport(**_fields(entry.name, each)) for entry, each in found]
        return EntryList(entries=entries, after=found[-1][0].cookie if len(found) == limit else 0)

    async def show(self, path: str) -> FileReport:
        """What stands behind a name. NotFound."""
        inode = await self._find(path)
        record = self._objects.object(inode.object) if inode.object else None
        return FileReport(
            **_fields(_parts(path)[-1] if _parts(path) else "", inode),
            path="/".join(_parts(path)),
            atime_ns=inode.atime_ns,
            ctime_ns=inode.ctime_ns,
            target=inode.target,
            handles=self._objects.handles(inode.number),
            handles_here=self._names.handles(inode.number),
            record=_plain(asdict(record)) if record is not None else None,
        )

    async def _find(self, path: str) -> Inode:
        inode = await self._names.attributes(ROOT)
        parts = _parts(path)
        for depth, name in enumerate(parts, 1):
            if inode.kind.value != "directory":
                raise Invalid(f"{'/'.join(parts[: depth - 1])} is a {inode.kind.value}, not a directory")
            try:
                inode = await self._names.lookup(inode.number, name)
            except NotFound:
                raise NotFound(f"there is no {'/'.join(parts[:depth])}") from None
        return inode


def add_entries(api: FastAPI, entries: Entries) -> None:
    """Add the routes to the application."""

    @api.get(f"{ENTRIES}{{path:path}}", responses=REFUSALS)
    async def listed(
        path: str,
        request: Request,
        after: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=LIMIT_MAX)] = LIMIT_MAX,
    ) -> EntryList:
        return await entries.list(path_behind(request, ENTRIES), after, limit)

    @api.get(f"{FILES}{{path:path}}", responses=REFUSALS)
    async def shown(path: str, request: Request) -> FileReport:
        return await entries.show(path_behind(request, FILES))


def _fields(name: str, inode: Inode) -> dict[str, Any]:
    return {
        "name": name,
        "kind": inode.kind.value,
        "inode": inode.number,
        "object": inode.object,
        "size": inode.size,
        "mode": inode.mode,
        "uid": inode.uid,
        "gid": inode.gid,
        "nlink": inode.nlink,
        "mtime_ns": inode.mtime_ns,
    }


def _plain(value: Any) -> Any:
    """Enumerations as their values, all the way down; checksums stay whole numbers."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return getattr(value, "value", value)


def _parts(path: str) -> Sequence[str]:
    parts = [part for part in path.split("/") if part]
    if "." in parts or ".." in parts:
        raise Invalid(f"the path {path!r} must not contain '.' or '..'; write it from the root of the vPool")
    return parts
