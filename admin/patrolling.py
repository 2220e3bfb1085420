"""The background verification as an administrator sees it: where it stands, what is lost and whose it is, and how to go on."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any, Protocol

from fastapi import FastAPI
from pydantic import BaseModel, Field

from admin.contents_routes import REFUSALS
from volumedriver import FILE_BYTES_MAX, LAYOUT_NAMED, VOLUME_BYTES_MAX, LostRange, MetaCluster, NeededObject, Patrol
from vpool.errors import Invalid, NotFound

CLUSTER = 4096
REGION_BYTES = FILE_BYTES_MAX + CLUSTER


class Objects(Protocol):
    """What is asked of the registry's view."""

    def object(self, object_id: str) -> Any: ...

    def file_at(self, log: str, address: int) -> Any: ...

    def path_of(self, inode: int) -> str | None: ...

    def resolve(self, path: str) -> Any: ...


class PatrolReport(BaseModel):
    """Where the background verification stands."""

    enabled: bool = Field(description="a pass begins by itself every verify.days")
    number: int = Field(description="of the pass that runs, or was last; 0: none yet")
    running: bool
    started_ns: int
    ended_ns: int
    next_start_ns: int = Field(description="0 while one runs, or when none will")
    objects_done: int
    objects: int
    pass_bytes: int = Field(description="compared in this pass")
    bytes_per_s: int = Field(description="that it allows itself now")
    bytes_compared: int = Field(description="since the start of the daemon, like the next two")
    damaged_objects: int
    rewritten_clusters: int = Field(description="mended from copies on this host")
    lost_ranges: int
    lost_bytes: int
    needed_objects: int = Field(description="that a restart without the cache needs, and that are damaged or missing")
    waiting_for: str


class LostReport(BaseModel):
    """A range without a good copy."""

    path: str = Field(description="empty if what had the range has no name any more")
    kind: str = Field(description="volume, file, size (the object's own record of its size), or unused")
    offset: int = Field(description="bytes in the volume or file")
    length: int
    object: str = Field(description="UUID of the volume or the log of files")
    log_offset: int = Field(description="bytes in that object's address space")
    bucket: str
    name: str
    reason: str
    found_ns: int


class NeededReport(BaseModel):
    """An object that a restart without the cache would not get."""

    path: str
    object: str
    bucket: str
    name: str
    reason: str
    found_ns: int


class LostList(BaseModel):
    """Everything that is known to be lost."""

    lost: list[LostReport]
    needed: list[NeededReport]


class Beginning(BaseModel):
    """A pass that is wanted now."""

    hurry: bool = Field(True, description="held back by verify.bytes_per_s_max alone")


class Acceptance(BaseModel):
    """Lost ranges that are to be zeros from now on."""

    path: str
    offset: int = Field(0, ge=0, description="bytes in the volume or file")
    length: int | None = Field(None, ge=1, description="bytes; by default to the end; from 0 on with the record of the size")


class Accepted(BaseModel):
    """What was done."""

    zeroed_bytes: int


class Patrolling:
    """Questions and orders; all may run concurrently on the trio loop."""

    def __init__(self, patrol: Patrol, objects: Objects) -> None:
        self._patrol = patrol
        self._objects = objects

    def status(self) -> PatrolReport:
        """Where it stands."""
        return PatrolReport(**asdict(self._patrol.status()))

    def begin(self, wanted: Beginning) -> PatrolReport:
        """Begin a pass, or go on with the one that runs."""
        self._patrol.ask(hurry=wanted.hurry)
        return self.status()

    async def lost(self) -> LostList:
        """What is lost now."""
        lost = [report for found in await self._patrol.lost() for report in self._reports(found)]
        return LostList(lost=lost, needed=[self._needed(found) for found in self._patrol.record.needed])

    async def accept(self, wanted: Acceptance) -> Accepted:
        """Let what is lost of a volume or file be zeros.

        Raises:
            NotFound: there is no such path.
            Invalid: it has no content.
        """
        inode = self._objects.resolve(wanted.path)
        if inode is None:
            raise NotFound(f"there is no {wanted.path}")
        record = self._objects.object(inode.object) if inode.object else None
        if record is None:
            raise Invalid(f"{wanted.path} is a {inode.kind.value}; only volumes and files have content")
        object_id, start, content, whole_end = record.id, 0, 0, (1 << 64) - CLUSTER
        if record.log:
            object_id, start = record.log, record.address * REGION_BYTES
            content, whole_end = start + (CLUSTER if record.layout == LAYOUT_NAMED else 0), start + REGION_BYTES
        first = content + wanted.offset
        if wanted.length is not None:
            end = min(first + wanted.length, whole_end)
            return Accepted(zeroed_bytes=await self._patrol.accept(object_id, first, end))
        first = start if wanted.offset == 0 else first
        size_lost = any(lost.offset <= start < lost.offset + lost.length for lost in await self._patrol.lost(object_id))
        zeroed = await self._patrol.accept(object_id, first, whole_end)
        if record.log and record.layout == LAYOUT_NAMED and size_lost and first == start:
            await self._patrol.tell_size(object_id, start, MetaCluster(inode.size, time.time_ns(), record.id))
        return Accepted(zeroed_bytes=zeroed)

    def _reports(self, lost: LostRange) -> list[LostReport]:
        record = self._objects.object(lost.object)
        if record is None:
            return []
        if record.inode:
            kind = "volume" if lost.offset < VOLUME_BYTES_MAX else "size"
            offset = lost.offset if kind == "volume" else 0
            return [self._report(lost, kind, self._path(record.inode), offset, lost.offset, lost.length)]
        reports = []
        at, end = lost.offset, lost.offset + lost.length
        while at < end:
            address = at // REGION_BYTES
            stop = min(end, (address + 1) * REGION_BYTES)
            reports += self._of_file(lost, address, at, stop)
            at = stop
        return reports

    def _of_file(self, lost: LostRange, address: int, at: int, stop: int) -> list[LostReport]:
        file, start = self._objects.file_at(lost.object, address), address * REGION_BYTES
        if file is None:
            return [self._report(lost, "unused", "", at - start, at, stop - at)]
        path = self._path(file.inode)
        named = file.layout == LAYOUT_NAMED
        content, content_end = (start + CLUSTER, start + REGION_BYTES) if named else (start, start + FILE_BYTES_MAX)
        reports = []
        if at < content or stop > content_end:
            meta = start if named else content_end
            reports.append(self._report(lost, "size", path, 0, meta, CLUSTER))
        first, last = max(at, content), min(stop, content_end)
        if first < last:
            reports.append(self._report(lost, "file", path, first - content, first, last - first))
        return reports

    def _report(self, lost: LostRange, kind: str, path: str, offset: int, log_offset: int, length: int) -> LostReport:
        return LostReport(
            path=path,
            kind=kind,
            offset=offset,
            length=length,
            object=lost.object,
            log_offset=log_offset,
            bucket=lost.bucket,
            name=lost.name,
            reason=lost.reason,
            found_ns=lost.found_ns,
        )

    def _needed(self, needed: NeededObject) -> NeededReport:
        record = self._objects.object(needed.object)
        path = self._path(record.inode) if record is not None and record.inode else ""
        return NeededReport(path=path, **asdict(needed))

    def _path(self, inode: int) -> str:
        return (self._objects.path_of(inode) or "").lstrip("/")


def add_patrolling(api: FastAPI, patrolling: Patrolling) -> None:
    """Add the routes to the application."""

    @api.get("/v1/patrol", responses=REFUSALS)
    async def status() -> PatrolReport:
        return patrolling.status()

    @api.post("/v1/patrol", responses=REFUSALS)
    async def begin(wanted: Beginning) -> PatrolReport:
        return patrolling.begin(wanted)

    @api.get("/v1/patrol/lost", responses=REFUSALS)
    async def lost() -> LostList:
        return await patrolling.lost()

    @api.post("/v1/patrol/acceptances", responses=REFUSALS)
    async def accept(wanted: Acceptance) -> Accepted:
        return await patrolling.accept(wanted)
