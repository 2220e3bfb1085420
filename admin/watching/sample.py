"""A node at one moment, as plain numbers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Histogram:
    """Latencies since a start. ``counts[i]``: at most ``bounds_s[i]``, more than the one before; the last: above all."""

    bounds_s: tuple[float, ...]
    counts: tuple[int, ...]
    sum_s: float

    @property
    def count(self) -> int:
        return sum(self.counts)

    @property
    def cumulative(self) -> list[int]:
        """How many were at most each bound; one more entry for all of them."""
        return list(accumulate(self.counts))

    def since(self, before: Histogram) -> Histogram:
        """What came after an earlier look; all of it when the figures have begun anew meanwhile."""
        if before.bounds_s != self.bounds_s or any(a < b for a, b in zip(self.counts, before.counts, strict=True)):
            return self
        counts = tuple(a - b for a, b in zip(self.counts, before.counts, strict=True))
        return Histogram(self.bounds_s, counts, max(0.0, self.sum_s - before.sum_s))

    @property
    def mean_s(self) -> float | None:
        """None when there was none."""
        return self.sum_s / self.count if self.count else None

    def quantile_s(self, share: float) -> float | None:
        """The bound of the bucket that the quantile lies in (so never less than it); None when there was none."""
        wanted = share * self.count
        if not self.count:
            return None
        for bound, reached in zip(self.bounds_s, self.cumulative, strict=False):
            if reached >= wanted:
                return bound
        return float("inf")


@dataclass(frozen=True, slots=True)
class OperationSample:
    """Requests of one kind of front ends on one object with a log."""

    failed: int
    bytes: int
    latency: Histogram


@dataclass(frozen=True, slots=True)
class VolumeSample:
    """One volume, or the log of the node's files."""

    object: str
    path: str  # of files: "(files)"; of a volume without a name: "(UUID)"
    kind: str
    state: str  # serving, halted, closed
    halted_reason: str
    size: int
    dirty_bytes: int
    oldest_dirty_age_s: float
    uploading: int
    retries: int
    stalled: str
    waiting_writers: int
    misses: int  # requests that needed something from the backend
    hit_bytes: int  # read from the read cache
    missed_bytes: int  # fetched because a request needed them
    operations: Mapping[str, OperationSample]
    dtl: str = "off"  # off, degraded, catching-up, in-sync, following
    dtl_lag: int = 0  # records that the peer has not confirmed
    dtl_lag_bytes: int = 0  # the same, at most
    dtl_lag_s: float = 0.0  # age of the oldest of them, at most
    dtl_mode: str = "off"  # off, sync, async


@dataclass(frozen=True, slots=True)
class StoreOperationSample:
    """Requests of one kind to the object store."""

    succeeded: int
    cancelled: int
    errors: Mapping[str, int]
    tries: int
    retries: int
    sent_bytes: int
    received_bytes: int
    latency: Histogram
    problem: str = ""  # why the last try failed of those that were to be repeated


@dataclass(frozen=True, slots=True)
class CommandSample:
    """Commands of one kind to the registry."""

    refused: int
    latency: Histogram


@dataclass(frozen=True, slots=True)
class CacheSample:
    """The cache directory and what is in memory of it."""

    log_used_bytes: int
    log_limit_bytes: int
    log_to_grow_bytes: int  # what the log may yet take of the disk
    read_cache_used_bytes: int
    read_cache_limit_bytes: int
    map_cache_bytes: int
    disk_free_bytes: int
    disk_size_bytes: int
    refused: tuple[str, ...] = ()  # what the disk has no room for just now
    failed: tuple[str, ...] = ()  # caches that its errors have put out of use


@dataclass(frozen=True, slots=True)
class QueuesSample:
    """What is on its way to and from the backend."""

    uploads: int
    uploads_queued: int
    fetches: int
    fetches_queued: int


@dataclass(frozen=True, slots=True)
class VerificationSample:
    """The background verification; counters since the start."""

    enabled: bool
    running: bool
    started: float  # unix time of the pass that runs, or was last; 0.0: none yet
    ended: float  # unix time of the last end; 0.0: while one runs, or none yet
    compared_bytes: int
    damaged_objects: int
    mended_bytes: int
    lost_ranges: int
    lost_bytes: int
    needed_objects: int  # that a restart without the cache needs, damaged or missing


@dataclass(frozen=True, slots=True)
class ExportSample:
    """The copy of the registry in the backend."""

    exports: int  # made since the start
    failures: int
    problem: str  # why the last one was not taken; empty if it was


@dataclass(frozen=True, slots=True)
class HandoverSample:
    """Volumes that have gone to other nodes and come from them; requests of other nodes. Zero on a node that is alone."""

    handed_over: Histogram  # how long clients waited here for each
    taken_over: int
    given_up: int
    forwarded_requests: int  # of this node, to owners elsewhere
    executed_requests: int  # of other nodes, here
    stolen: Mapping[str, Histogram]  # what dead nodes owned, by cause: how long it took until it was served here
    stolen_with_loss: int


@dataclass(frozen=True, slots=True)
class ClusterSample:
    """A node of several, and what it sees of the others."""

    votes: bool
    leads: bool
    has_leader: bool  # False: no majority, as far as this node knows
    term: int
    lag_entries: int  # committed, and not applied here yet
    lease_left_s: float  # how long it may answer yet; 0.0: it may not now
    answers_waiting: int  # for the lease
    members: int  # with this one
    connected: int  # of these, with this one
    dead_nodes: tuple[str, ...]  # members that have been declared dead
    maintenance: tuple[str, ...]  # nodes in maintenance


@dataclass(frozen=True, slots=True)
class NodeSample:
    """All of it."""

    at: float  # unix time
    boot_s: float  # CLOCK_BOOTTIME: what a step of the clock does not change
    uptime_s: float
    version: str
    volumes: tuple[VolumeSample, ...]
    cache: CacheSample
    queues: QueuesSample
    store: Mapping[str, StoreOperationSample]
    backend_failing_s: float  # for how long the store has not answered; 0.0: it does
    registry: Mapping[str, CommandSample]
    registry_waiting_s: float
    verification: VerificationSample
    export: ExportSample
    handover: HandoverSample
    anonymous_bytes: int  # RssAnon
    open_files: int
    open_files_max: int
    slow_requests: int
    last_event: int
    events_lost: int
    cluster: ClusterSample | None = None  # None: it is alone
