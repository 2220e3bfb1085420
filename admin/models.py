"""What the management API takes and gives, as JSON. Fields are added, never changed or taken away, within ``/v1``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ErrorReport(BaseModel):
    """The body of every answer that is not a success."""

    error: str = Field(description="class in vpool.errors, as in NotFound")
    message: str
    details: dict[str, str] = Field(default_factory=dict)


class NewVolume(BaseModel):
    """A request for a volume."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(description="in the vPool, as in machines/web.raw")
    size: int = Field(description="bytes; a multiple of 512, at most 64 TiB")


class Opening(BaseModel):
    """A request to open something halted again."""

    model_config = ConfigDict(extra="forbid")

    path: str | None = Field(default=None, description="of the volume; null: the log of this node's files")
    accept_loss: bool = Field(default=False, description="go on without what lies behind the damage in the local log")


class DtlOrder(BaseModel):
    """A request for another state of a volume's DTL; what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    path: str
    on: bool | None = Field(default=None, description="true: as mode sync; false: as mode off")
    mode: Literal["off", "sync", "async"] | None = Field(
        default=None, description="sync: flushes wait for a second node; async: they wait while it is too far behind"
    )
    peer: str = Field(default="", description="node id, or its beginning, that is to keep the copy; empty: chosen")


class VolumeReport(BaseModel):
    """One volume: what the namespace says of it, and what its driver says (which may grow further fields)."""

    model_config = ConfigDict(extra="allow")

    path: str
    inode: int
    object: str = Field(description="UUID; names the volume's bucket")
    size: int = Field(description="bytes")
    handles: int = Field(description="opened by clients of this node")
    state: str = Field(description="serving, closed or halted")
    epoch: int
    dirty_bytes: int = Field(description="acknowledged, not yet safe in the backend")
    oldest_dirty_age_s: float
    head_tlog: int = Field(description="last TLog that is safe in the backend")
    halted_reason: str = Field(description="why it refuses service and what to do; empty if it serves")


class VolumeList(BaseModel):
    """All volumes, by path."""

    volumes: list[VolumeReport]


class DaemonReport(BaseModel):
    """The process that answers."""

    version: str
    pid: int
    vpool: str
    node: str
    directory: str
    mountpoint: str
    uptime_s: float


class BackendReport(BaseModel):
    """The object store."""

    url: str
    reachable: bool
    problem: str = Field(description="why it is not reachable; empty if it is")


class CacheReport(BaseModel):
    """What is used of the cache; the engine may grow further fields."""

    model_config = ConfigDict(extra="allow")

    log_bytes_used: int
    log_bytes_max: int
    read_cache_used_bytes: int
    read_cache_bytes: int
    full: list[str] = Field(default=[], description="what its disk has no room for; writers may wait until there is some")
    map_failure: str = Field(default="", description="why the local map is of no use; it is had from the backend anew, by itself")
    read_cache_failed: str = Field(default="", description="why the read cache has switched itself off; empty if it has not")


class StatusReport(BaseModel):
    """The whole node at a glance."""

    daemon: DaemonReport
    backend: BackendReport
    cache: CacheReport
    dirty_bytes: int = Field(description="of all volumes and of the log of files")
    oldest_dirty_age_s: float
    uploading: int
    retries: int
    halted: int = Field(description="objects that refuse service")
    objects: list[dict[str, object]] = Field(description="each volume and the log of files, as the volume driver reports them")
