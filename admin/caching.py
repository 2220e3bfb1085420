"""The cache directory as an administrator handles it: made redundant, and replaced under a running node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import trio
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from admin.contents_routes import REFUSALS
from volumedriver import EvacuationStatus, StillDirty


class StillDirtyReport(BaseModel):
    """What only the cache of this host has."""

    path: str = Field(description="empty for the log of files, or a volume without a name")
    object: str
    bytes: int
    reason: str = Field(description="why the backend has not got it")


class EvacuationReport(BaseModel):
    """How far an evacuation is."""

    running: bool
    bytes_at_start: int = Field(description="what only the cache had when it began")
    bytes_left: int = Field(description="of all open volumes now, what was written since included")
    waiting: int = Field(description="volumes whose data of the start are not all in the backend yet")
    left: list[StillDirtyReport]
    unopened: list[str] = Field(description="objects with a log here that could not be opened: what they have dirty is not known")


class EvacuationOrder(BaseModel):
    """A request to begin; nothing can be chosen."""

    model_config = ConfigDict(extra="forbid")


class Replacement(BaseModel):
    """A request for another cache directory."""

    model_config = ConfigDict(extra="forbid")

    path: str | None = Field(default=None, description="absolute; null: the same, emptied")
    accept_loss: bool = Field(default=False, description="also when the backend has not got everything")
    send_s: float = Field(default=30.0, gt=0, le=3600, description="how long clients may wait for the rest to be sent")


class ReplacementReport(BaseModel):
    """What came of it."""

    path: str = Field(description="where the cache is now")
    old: str = Field(description="where the old one is; empty if it is gone")
    lost: list[StillDirtyReport]


class Volumes(Protocol):
    """What is asked of the volume driver."""

    def evacuate(self) -> EvacuationStatus: ...

    def evacuation(self) -> EvacuationStatus | None: ...

    async def replace_cache(
        self, change: Callable[[bool], None], *, send_s: float, accept_loss: bool
    ) -> Sequence[StillDirty]: ...


class Namespace(Protocol):
    """What is asked of the object router."""

    def refresh(self, objects: Sequence[str]) -> None: ...


class View(Protocol):
    """What is asked of the registry's view."""

    def object(self, object_id: str) -> Any: ...

    def path_of(self, inode: int) -> str | None: ...


class Directory(Protocol):
    """What is asked of who knows the directories."""

    @property
    def real(self) -> Path: ...

    def check(self, new: Path | None) -> None: ...

    def change(self, new: Path | None, *, complete: bool) -> Path | None: ...


class Caching:
    """See the module."""

    def __init__(self, volumes: Volumes, namespace: Namespace, view: View, directory: Directory) -> None:
        self._volumes = volumes
        self._namespace = namespace
        self._view = view
        self._directory = directory

    def evacuate(self) -> EvacuationReport:
        """Begin, or look at the one that runs."""
        return self._report(self._volumes.evacuate())

    def evacuation(self) -> EvacuationReport:
        """How far the last one is; one that has nothing to do if there was none."""
        return self._report(self._volumes.evacuation() or EvacuationStatus(False, 0, 0, 0, (), ()))

    async def check(self, wanted: Replacement) -> None:
        """See that it could be done: before the cache is evacuated for it. Errors as ``replace``."""
        await trio.to_thread.run_sync(self._directory.check, Path(wanted.path) if wanted.path is not None else None)

    async def replace(self, wanted: Replacement) -> ReplacementReport:
        """Have another directory in the place of the cache. Invalid, Denied, NoSpace, Unavailable, Conflict: as it was."""
        new = Path(wanted.path) if wanted.path is not None else None
        await trio.to_thread.run_sync(self._directory.check, new)
        old: list[Path | None] = []

        def change(complete: bool) -> None:
            old.append(self._directory.change(new, complete=complete))

        lost = await self._volumes.replace_cache(change, send_s=wanted.send_s, accept_loss=wanted.accept_loss)
        if lost:
            self._namespace.refresh([each.object for each in lost])
        return ReplacementReport(
            path=str(self._directory.real),
            old=str(old[-1]) if old[-1] is not None else "",
            lost=[self._dirty(each) for each in lost],
        )

    def _report(self, status: EvacuationStatus) -> EvacuationReport:
        return EvacuationReport(
            running=status.running,
            bytes_at_start=status.bytes_at_start,
            bytes_left=status.bytes_left,
            waiting=status.waiting,
            left=[self._dirty(each) for each in status.left],
            unopened=list(status.unopened),
        )

    def _dirty(self, each: StillDirty) -> StillDirtyReport:
        record = self._view.object(each.object)
        path = self._view.path_of(record.inode) if record is not None and record.inode else None
        return StillDirtyReport(path=(path or "").removeprefix("/"), object=each.object, bytes=each.bytes, reason=each.reason)


def add_caching(api: FastAPI, caching: Caching) -> None:
    """Add the routes to the application."""

    @api.get("/v1/cache/evacuation", responses=REFUSALS)
    async def evacuation() -> EvacuationReport:
        return caching.evacuation()

    @api.post("/v1/cache/evacuation", status_code=202, responses=REFUSALS)
    async def evacuate(_: EvacuationOrder) -> EvacuationReport:
        return caching.evacuate()

    @api.post("/v1/cache/replacements/check", status_code=204, responses=REFUSALS)
    async def check(wanted: Replacement) -> None:
        await caching.check(wanted)

    @api.post("/v1/cache/replacements", responses=REFUSALS)
    async def replace(wanted: Replacement) -> ReplacementReport:
        return await caching.replace(wanted)
