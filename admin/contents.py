"""The contents of whole volumes: read and filled from outside, copied, verified, resized.

A volume that is being filled carries a mark in its own log (``volumedriver.filling``), so that an interrupted import or copy goes
on where it was, and nobody takes it for complete without being told.

Concurrency: what is written between two marks is acknowledged before the second is written, so a mark is never ahead of the data.
Two clients that fill the same volume write the same bytes, because the fingerprint of their source is the same.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import trio

from admin.contents_models import ContentReport, Extents, FillingReport
from admin.events import Tell
from admin.models import VolumeReport
from admin.service import Administration, check_size, normal
from volumedriver import Filling, Progress, Region, read_filling, survey, write_filling
from vpool.errors import Conflict, Exists, Invalid, NotFound

if TYPE_CHECKING:
    from objectrouter import Inode

DATA_BYTES_MAX = 8 << 20  # of one request
DATA_REQUESTS_MAX = 16  # at once
EXTENT_CLUSTERS_MAX = 1 << 18
COPY_PARTS = 4  # at once
COPY_STEP_BYTES = 64 << 20  # between two marks
ZEROS = bytes(64 << 10)


class Router(Protocol):
    """What is asked of the object router."""

    async def volume_region(self, inode: int) -> Region: ...

    async def read(self, inode: int, offset: int, length: int) -> bytes: ...

    async def write(self, inode: int, offset: int, data: bytes) -> int: ...

    async def flush(self, inode: int) -> None: ...

    async def set_attributes(self, inode: int, *, size: int | None = None) -> Inode: ...

    def handles(self, inode: int) -> int: ...


class Verifier(Protocol):
    """What is asked of the volume driver."""

    def epoch(self, object_id: str) -> int: ...

    async def drain(self, object_id: str) -> None: ...

    def verification(self, object_id: str, *, size: int, patience_s: float | None, tell: Tell) -> Any: ...


class Contents:
    """Contents of the volumes of one node. All methods may run concurrently on the trio loop."""

    def __init__(self, administration: Administration, router: Router, volumes: Verifier) -> None:
        self._administration = administration
        self._router = router
        self._volumes = volumes
        self._fillings: dict[int, Filling] = {}  # by inode, of this life of the daemon
        self._reading = trio.CapacityLimiter(DATA_REQUESTS_MAX)
        self._writing = trio.CapacityLimiter(DATA_REQUESTS_MAX)  # apart: writes that wait for room must not hold up reads

    # -- size ----------------------------------------------------------------------------------------------------------

    async def resize(self, path: str, size: int, *, shrink: bool) -> VolumeReport:
        """Change a volume's size, durably.

        Raises:
            Invalid: a size that no volume can have, or a smaller one without ``shrink``.
            Conflict: it is open and would shrink, or an import or copy into it has not ended.
        """
        check_size(size)
        inode, region = await self._region(path)
        await self._refuse_unfinished(path, region)
        if size < region.size:
            if not shrink:
                raise Invalid(
                    f"{normal(path)} has {region.size} bytes; at {size} its last {region.size - size} would be lost for ever; "
                    "say --shrink if that is meant"
                )
            if handles := self._router.handles(inode):
                raise Conflict(f"{normal(path)} is open ({handles} handles) and cannot shrink below its clients; close it first")
        if size != region.size:
            await self._router.set_attributes(inode, size=size)
            await self._router.flush(inode)
        return await self._administration.volume(path)

    # -- reading -------------------------------------------------------------------------------------------------------

    async def describe(self, path: str) -> ContentReport:
        """Size and version of a volume's content. NotFound, Invalid; Halted, Corrupt, Unavailable: it cannot be opened."""
        inode, region = await self._region(path)
        filling = await read_filling(region.volume)
        return ContentReport(
            path=normal(path),
            size=region.size,
            version=self._version(region),
            handles=self._router.handles(inode),
            filling=filling and _report(path, filling, region.size),
        )

    async def extents(self, path: str, offset: int, end: int) -> Extents:
        """What is mapped from ``offset`` on, up to ``end`` or as far as one answer goes."""
        _, region = await self._region(path)
        end = min(end, region.size)
        if offset >= end:
            return Extents(extents=[], until=max(offset, end))
        found = await survey(region.volume, offset, end, clusters_max=EXTENT_CLUSTERS_MAX)
        until = min(max(found.position, offset), end)
        cut = [(max(start, offset), min(start + length, until)) for start, length in found.extents]
        return Extents(extents=[(start, stop - start) for start, stop in cut if stop > start], until=until)

    async def read(self, path: str, offset: int, length: int) -> bytes:
        """Bytes of a volume; short at its end. Invalid; Corrupt, Halted."""
        _check_range(offset, length)
        inode, _ = await self._region(path)
        async with self._reading:
            return await self._router.read(inode, offset, length)

    # -- filling -------------------------------------------------------------------------------------------------------

    async def begin_filling(self, path: str, size: int, filling: Filling, *, trust: bool = False) -> FillingReport:
        """Make a volume that is to be filled, or find one whose filling has not ended. Durable on return, mark in the backend.

        Raises:
            Exists: there is a volume of that name, and it is complete.
            Conflict: it was being filled from something else, or the source has changed since.
        """
        check_size(size)
        inode, region = await self._made(path)
        known = await read_filling(region.volume)
        if known is None:
            if region.size:
                raise Exists(f"{normal(path)} exists and is complete; choose another name, or delete it first")
            await write_filling(region.volume, filling)
            known = filling
        elif known.kind != filling.kind or not _same(known.fingerprint, filling.fingerprint, trust):
            raise Conflict(
                f"{normal(path)} holds an unfinished {known.kind} of {known.source} ({known.done_bytes} bytes done), and the "
                "source is another one or has changed since; delete the volume and begin anew"
            )
        # The registry keeps the size when this host's cache is lost: without the mark in the backend, the volume that comes back
        # from there would be taken for complete.
        await self._volumes.drain(region.volume.object_id)
        if region.size != size:
            await self._router.set_attributes(inode, size=size)
        await self._router.flush(inode)
        self._fillings[inode] = known
        return _report(path, known, size)

    async def write(self, path: str, offset: int, data: bytes) -> None:
        """Write a piece of what a volume is filled with; acknowledged, not flushed, on return.

        Raises:
            Conflict: the volume is not being filled.
            Invalid: beyond its end.
        """
        _check_range(offset, len(data))
        inode, region = await self._region(path)
        self._filling(path, inode)
        if offset + len(data) > region.size:
            raise Invalid(f"bytes {offset} to {offset + len(data)} are beyond the end of {normal(path)}, {region.size} bytes")
        async with self._writing:
            await self._router.write(inode, offset, data)

    async def note_progress(self, path: str, done_bytes: int) -> FillingReport:
        """Everything before ``done_bytes`` has been written: an interrupted filling goes on from there."""
        inode, region = await self._region(path)
        filling = replace(self._filling(path, inode), done_bytes=done_bytes)
        await write_filling(region.volume, filling)
        self._fillings[inode] = filling
        return _report(path, filling, region.size)

    async def finish_filling(self, path: str) -> VolumeReport:
        """The volume is complete; durable on return."""
        inode, region = await self._region(path)
        self._filling(path, inode)
        await self._router.flush(inode)
        await write_filling(region.volume, None)
        await self._router.flush(inode)
        del self._fillings[inode]
        return await self._administration.volume(path)

    # -- long work -----------------------------------------------------------------------------------------------------

    async def verify(self, path: str, patience_s: float | None, tell: Tell) -> dict[str, Any]:
        """Read every live cluster again; see ``volumedriver.verification``."""
        _, region = await self._region(path)
        verification = self._volumes.verification(region.volume.object_id, size=region.size, patience_s=patience_s, tell=tell)
        await verification.run()
        return {"path": normal(path), "size": region.size}

    async def copy(self, path: str, target: str, *, while_open: bool, trust_source: bool, tell: Tell) -> dict[str, Any]:
        """Copy a volume; what is a hole or reads as zeros takes no space in the copy. Goes on where an earlier one ended.

        Raises:
            Conflict: the source is open or was written meanwhile, and ``while_open`` is not given; as ``begin_filling``.
        """
        inode, region = await self._source(path, while_open)
        version = self._version(region)
        filling = Filling("copy", normal(path), version, 0)
        begun = await self.begin_filling(target, region.size, filling, trust=trust_source or while_open)
        to_inode, _ = await self._region(target)
        copied = 0
        offset = begun.done_bytes
        while offset < region.size:
            found = await self.extents(path, offset, min(region.size, offset + COPY_STEP_BYTES))
            copied += await self._copy_extents(inode, to_inode, found)
            offset = found.until
            await self.note_progress(target, offset)
            await tell(Progress(offset, region.size, copied, 0, ""))
        if not while_open and self._version(region) != version:
            raise Conflict(
                f"{normal(path)} was written while it was copied, so {normal(target)} is of no one moment; delete that and copy "
                "again when nobody writes, or allow it with --while-open"
            )
        await self.finish_filling(target)
        return {"path": normal(target), "size": region.size, "copied_bytes": copied}

    async def check_copy(self, path: str, target: str, *, while_open: bool) -> None:
        """See that a copy may begin, before an answer does. NotFound, Invalid, Conflict, Exists."""
        _, region = await self._source(path, while_open)
        check_size(region.size)
        with contextlib.suppress(NotFound):
            _, to_region = await self._region(target)
            if await read_filling(to_region.volume) is None and to_region.size:
                raise Exists(f"{normal(target)} exists and is complete; choose another name, or delete it first")

    async def _source(self, path: str, while_open: bool) -> tuple[int, Region]:
        inode, region = await self._region(path)
        await self._refuse_unfinished(path, region)
        if (handles := self._router.handles(inode)) and not while_open:
            raise Conflict(
                f"{normal(path)} is open ({handles} handles), so a copy may be of no one moment; close it first, or allow it "
                "with --while-open"
            )
        return inode, region

    async def _copy_extents(self, inode: int, to_inode: int, found: Extents) -> int:
        limit = trio.CapacityLimiter(COPY_PARTS)
        copied = 0

        async def part(offset: int, length: int) -> None:
            nonlocal copied
            async with limit:
                data = await self._router.read(inode, offset, length)
                for start, stop in data_runs(data):
                    await self._router.write(to_inode, offset + start, data[start:stop])
                    copied += stop - start

        async with trio.open_nursery() as nursery:
            for start, length in found.extents:
                for at in range(start, start + length, DATA_BYTES_MAX // 2):
                    nursery.start_soon(part, at, min(DATA_BYTES_MAX // 2, start + length - at))
        return copied

    # -- within --------------------------------------------------------------------------------------------------------

    async def _region(self, path: str) -> tuple[int, Region]:
        _, _, inode = await self._administration.find(path)
        return inode.number, await self._router.volume_region(inode.number)

    async def _made(self, path: str) -> tuple[int, Region]:
        try:
            return await self._region(path)
        except NotFound:
            # Without a size until the mark is in it: so a crash leaves no volume that seems to be complete.
            await self._administration.make_empty_volume(path)
        return await self._region(path)

    async def _refuse_unfinished(self, path: str, region: Region) -> None:
        filling = await read_filling(region.volume)
        if filling is not None:
            raise Conflict(
                f"{normal(path)} is not complete: the {filling.kind} of {filling.source} has not ended; give that command "
                "again, or delete the volume"
            )

    def _filling(self, path: str, inode: int) -> Filling:
        filling = self._fillings.get(inode)
        if filling is None:
            raise Conflict(f"nothing is filling {normal(path)} since the daemon started; begin again, it goes on where it was")
        return filling

    def _version(self, region: Region) -> str:
        """Another one after every write; after a restart, too, since a time may have gone back then."""
        object_id = region.volume.object_id
        return f"{object_id}-{region.size}-{self._volumes.epoch(object_id)}-{region.mtime_ns}"


def data_runs(data: bytes) -> list[tuple[int, int]]:
    """(start, stop) of what is not zeros, in steps of 64 KiB. Pure."""
    runs: list[tuple[int, int]] = []
    step = len(ZEROS)
    for start in range(0, len(data), step):
        piece = data[start : start + step]
        if piece == ZEROS or not piece.strip(b"\0"):
            continue
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], start + len(piece))
        else:
            runs.append((start, start + len(piece)))
    return runs


def _same(known: str, given: str, trust: bool) -> bool:
    """Whether two fingerprints are of one content; with ``trust``, of one source whose size is the same."""
    return known == given or (trust and known.split("-")[:2] == given.split("-")[:2])


def _report(path: str, filling: Filling, size: int) -> FillingReport:
    return FillingReport(path=normal(path), kind=filling.kind, source=filling.source, done_bytes=filling.done_bytes, size=size)


def _check_range(offset: int, length: int) -> None:
    if offset < 0 or length <= 0:
        raise Invalid(f"a range begins at 0 or later and has at least 1 byte, not {length} at {offset}")
    if length > DATA_BYTES_MAX:
        raise Invalid(f"one request has at most {DATA_BYTES_MAX} bytes, not {length}")
