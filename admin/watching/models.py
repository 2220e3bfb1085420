"""What the routes of watching take and give, as JSON. Fields are added, never changed or taken away, within ``/v1``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class EventReport(BaseModel):
    """One event; further fields are the event's own (docs/events.md)."""

    model_config = ConfigDict(extra="allow")

    number: int = Field(description="goes up by one with each event, over restarts; a gap is a lost event")
    at: float = Field(description="unix time")
    event: str
    level: str


class EventList(BaseModel):
    """Events, oldest first."""

    events: list[EventReport]
    last: int = Field(description="number of the newest event there is, told or not")


class ProblemReport(BaseModel):
    """Something that is wrong."""

    code: str
    severity: str = Field(description="warning or critical")
    subject: str = Field(description="path of a volume; empty: the node")
    message: str
    remedy: str
    since: float = Field(description="unix time of the first look that found it")
    muted: bool
    muted_until: float | None = Field(description="unix time; null: for good, or not muted")


class HealthReport(BaseModel):
    """How the node is."""

    severity: str = Field(description="ok, warning or critical: the worst of what is not muted")
    problems: list[ProblemReport]
    muted: dict[str, float | None] = Field(description="muted codes, and when each ends by itself (unix time; null: never)")


class NewMute(BaseModel):
    """A request to mute a code."""

    model_config = ConfigDict(extra="forbid")

    code: str
    seconds: float | None = Field(default=None, description="for how long; null: until it is unmuted")


class SlowReport(BaseModel):
    """A request that took too long."""

    number: int = Field(description="1 for the first since the daemon's start")
    at: float = Field(description="unix time of its end")
    operation: str
    path: str = Field(description="empty when it has no name any more")
    inode: int
    offset: int
    length: int
    seconds: float
    waited_s: dict[str, float] = Field(
        description="opening, room (write cache full), delay (above the soft limit), backend; the rest is the engine and its disk"
    )
    error: str = Field(description="how it was refused; empty if it was answered")


class SlowList(BaseModel):
    """The last slow requests, oldest first."""

    threshold_s: float
    seen: int = Field(description="since the daemon's start, kept or not")
    requests: list[SlowReport]


class TopOperation(BaseModel):
    """Requests of one kind on one volume since the daemon's start."""

    count: int
    failed: int
    bytes: int
    sum_s: float
    counts: list[int] = Field(description="by latency: entry i at most bounds_s[i], the last one longer than all")


class TopVolume(BaseModel):
    """One volume, or (files)."""

    object: str
    path: str
    state: str
    dirty_bytes: int
    oldest_dirty_age_s: float
    waiting_writers: int
    stalled: str
    misses: int
    hit_bytes: int
    missed_bytes: int
    operations: dict[str, TopOperation]


class TopReport(BaseModel):
    """A node at one moment; rates are differences of two."""

    at: float
    boot_s: float = Field(description="of a clock that nobody sets: divide by its differences")
    uptime_s: float
    severity: str
    problems: list[str] = Field(description="codes that stand and are not muted")
    bounds_s: list[float]
    volumes: list[TopVolume]
    log_used_bytes: int
    log_limit_bytes: int
    read_cache_used_bytes: int
    read_cache_limit_bytes: int
    uploads: int
    uploads_queued: int
    fetches: int
    fetches_queued: int
    sent_bytes: int
    received_bytes: int
    backend_retries: int
    anonymous_bytes: int
