"""Takes samples: asks each room for what it has counted."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio

from admin.watching.event_ring import EventRing
from admin.watching.sample import (
    CacheSample,
    ClusterSample,
    CommandSample,
    ExportSample,
    HandoverSample,
    Histogram,
    NodeSample,
    OperationSample,
    QueuesSample,
    StoreOperationSample,
    VerificationSample,
    VolumeSample,
)
from backend import LATENCY_BOUNDS_S, StoreCounters
from engine import CLUSTER, EngineStats
from objectrouter import (
    BUCKETS,
    PAUSES_S,
    STEALS_S,
    Movements,
    ObjectTraffic,
    OperationTimes,
    SlowRequests,
    Traffic,
    bucket_bound_s,
)
from recovery import ExportStatus
from registry import COMMAND_BOUNDS_S, ObjectRecord, RegistryCounters
from volumedriver import BackendQueues, PatrolStatus, VolumeStatus

FIRST_BUCKET, LAST_BUCKET = 3, 25  # of the router's: 8 µs and 34 s; finer and coarser ones are not told apart
REQUEST_BOUNDS_S = tuple(bucket_bound_s(bucket) for bucket in range(FIRST_BUCKET, LAST_BUCKET + 1))
FILES = "(files)"


class Volumes(Protocol):
    """What is asked of the volume driver; ``statuses`` in a thread."""

    def statuses(self) -> Sequence[VolumeStatus]: ...

    def backend_queues(self) -> BackendQueues: ...


class Router(Protocol):
    """What is asked of the object router."""

    traffic: Traffic
    slow: SlowRequests

    @property
    def movements(self) -> Movements: ...


class Store(Protocol):
    """What is asked of the object store."""

    url: str
    counters: StoreCounters

    async def check(self) -> None: ...


class Engine(Protocol):
    """What is asked of the engine."""

    def stats(self) -> EngineStats: ...


class View(Protocol):
    """What is asked of the registry's state, in a thread."""

    def path_of(self, inode: int) -> str | None: ...

    def object(self, object_id: str) -> ObjectRecord | None: ...


class Registry(Protocol):
    """What is asked of the registry's client."""

    counters: RegistryCounters

    @property
    def waiting_s(self) -> float: ...

    @property
    def view(self) -> View: ...


class Verifier(Protocol):
    """What is asked of the background verification."""

    def status(self) -> PatrolStatus: ...


class Exporter(Protocol):
    """What is asked of whoever copies the registry to the backend."""

    def status(self) -> ExportStatus: ...


class Cluster(Protocol):
    """What is asked of whoever keeps a node's lease."""

    async def sample(self) -> ClusterSample | None: ...


@dataclass(frozen=True, slots=True)
class Rooms:
    """Whom a sample is taken of."""

    router: Router
    volumes: Volumes
    store: Store
    engine: Engine
    registry: Registry
    patrol: Verifier
    exporter: Exporter
    events: EventRing
    cache: Path
    segment_bytes: int
    version: str
    cluster: Cluster | None = None


class Gathering:
    """Samples of one node; any number of tasks may ask at once."""

    def __init__(self, rooms: Rooms) -> None:
        self.rooms = rooms
        self._began = time.monotonic()

    async def sample(self) -> NodeSample:
        """The node as it is now; also forgets the traffic of volumes that were deleted."""
        rooms = self.rooms
        statuses, paths, cache = await trio.to_thread.run_sync(self._look)
        rooms.router.traffic.keep_only(status.object for status in statuses)
        queues = rooms.volumes.backend_queues()
        failing_since_s = rooms.store.counters.failing_since_s
        return NodeSample(
            at=time.time(),
            boot_s=time.clock_gettime(time.CLOCK_BOOTTIME),
            uptime_s=time.monotonic() - self._began,
            version=rooms.version,
            volumes=tuple(
                _volume(status, path, rooms.router.traffic.known(status.object))
                for status, path in zip(statuses, paths, strict=True)
            ),
            cache=cache,
            queues=QueuesSample(queues.uploads, queues.uploads_waiting, queues.fetches, queues.fetches_waiting),
            store=_store(rooms.store.counters),
            backend_failing_s=0.0 if failing_since_s is None else trio.current_time() - failing_since_s,
            registry={
                command: CommandSample(
                    times.refused, Histogram(COMMAND_BOUNDS_S, tuple(times.latency_counts), times.latency_sum_s)
                )
                for command, times in rooms.registry.counters.commands.items()
            },
            registry_waiting_s=rooms.registry.waiting_s,
            verification=_verification(rooms.patrol.status()),
            handover=_handover(rooms.router.movements),
            export=_export(rooms.exporter.status()),
            anonymous_bytes=_anonymous_bytes(),
            open_files=len(os.listdir("/proc/self/fd")),
            open_files_max=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            slow_requests=rooms.router.slow.seen,
            last_event=rooms.events.last,
            events_lost=rooms.events.lost,
            cluster=None if rooms.cluster is None else await rooms.cluster.sample(),
        )

    def _look(self) -> tuple[Sequence[VolumeStatus], list[str], CacheSample]:
        """What takes reads of the registry or of a disk: in a thread, so that I/O does not wait for it."""
        statuses = self.rooms.volumes.statuses()
        return statuses, [self._path(status) for status in statuses], self._cache()

    def _path(self, status: VolumeStatus) -> str:
        if status.kind != "volume":
            return FILES
        path = self.rooms.registry.view.path_of(status.inode) if status.inode else None
        return path.removeprefix("/") if path else f"({status.object})"

    def _cache(self) -> CacheSample:
        stats, size = self.rooms.engine.stats(), self.rooms.segment_bytes
        try:
            disk = os.statvfs(self.rooms.cache)
        except FileNotFoundError:  # it is being replaced just now
            disk = os.statvfs(self.rooms.cache.parent)
        return CacheSample(
            log_used_bytes=(stats.segments_max - stats.segments_free) * size,  # what is free counts files not made yet
            log_limit_bytes=stats.segments_max * size,
            log_to_grow_bytes=(stats.segments_max - stats.segments) * size,
            read_cache_used_bytes=stats.read_cache_used_bytes,
            read_cache_limit_bytes=stats.read_cache_bytes,
            map_cache_bytes=stats.map_cache_bytes,
            disk_free_bytes=disk.f_bavail * disk.f_frsize,
            disk_size_bytes=disk.f_blocks * disk.f_frsize,
            refused=tuple(stats.full),
            failed=tuple(each for each in (stats.map_failure, stats.map_set_aside, stats.read_cache_failed) if each is not None),
        )


def _volume(status: VolumeStatus, path: str, traffic: ObjectTraffic | None) -> VolumeSample:
    operations = {}
    if traffic is not None:
        of = {"read": traffic.reads, "write": traffic.writes, "flush": traffic.flushes, "zero": traffic.zeroes}
        operations = {name: _operation(times) for name, times in of.items()}
    return VolumeSample(
        object=status.object,
        path=path,
        kind=status.kind,
        state=status.state,
        halted_reason=status.halted_reason,
        size=status.size,
        dirty_bytes=status.dirty_bytes,
        oldest_dirty_age_s=status.oldest_dirty_age_s,
        uploading=status.uploading,
        retries=status.retries,
        stalled=status.stalled,
        waiting_writers=status.waiting_writers,
        misses=status.misses,
        hit_bytes=status.hit_bytes,
        missed_bytes=status.missed_bytes,
        operations=operations,
        dtl=status.dtl,
        dtl_lag=status.dtl_lag,
        dtl_lag_bytes=status.dtl_lag_bytes,
        dtl_lag_s=status.dtl_lag_s,
        dtl_mode=status.dtl_mode,
    )


def _operation(times: OperationTimes) -> OperationSample:
    counts = list(times.counts)
    below, above = sum(counts[: FIRST_BUCKET + 1]), sum(counts[LAST_BUCKET + 1 : BUCKETS])
    told = (below, *counts[FIRST_BUCKET + 1 : LAST_BUCKET + 1], above)
    return OperationSample(times.failed, times.bytes, Histogram(REQUEST_BOUNDS_S, told, times.sum_ns / 1e9))


def _store(counters: StoreCounters) -> dict[str, StoreOperationSample]:
    return {
        operation: StoreOperationSample(
            succeeded=of.succeeded,
            cancelled=of.cancelled,
            errors=dict(of.errors),
            tries=of.tries,
            retries=of.retries,
            sent_bytes=of.sent_bytes,
            received_bytes=of.received_bytes,
            latency=Histogram(LATENCY_BOUNDS_S, tuple(of.latency_counts), of.latency_sum_s),
            problem=of.problem,
        )
        for operation, of in counters.operations.items()
    }


def _verification(status: PatrolStatus) -> VerificationSample:
    return VerificationSample(
        enabled=status.enabled,
        running=status.running,
        started=status.started_ns / 1e9,
        ended=status.ended_ns / 1e9,
        compared_bytes=status.bytes_compared,
        damaged_objects=status.damaged_objects,
        mended_bytes=status.rewritten_clusters * CLUSTER,
        lost_ranges=status.lost_ranges,
        lost_bytes=status.lost_bytes,
        needed_objects=status.needed_objects,
    )


def _export(status: ExportStatus) -> ExportSample:
    return ExportSample(status.full_exports + status.increments, status.failures, status.problem)


def _handover(movements: Movements) -> HandoverSample:
    pauses = Histogram(PAUSES_S, tuple(movements.pauses), movements.pause_sum_s)
    stolen = {
        cause: Histogram(STEALS_S, tuple(counts), movements.stolen_sum_s[cause]) for cause, counts in movements.stolen.items()
    }
    return HandoverSample(
        pauses, movements.taken_over, movements.given_up, movements.forwarded, movements.executed, stolen,
        movements.stolen_with_loss,
    )  # fmt: skip


def _anonymous_bytes() -> int:
    with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
        for line in lines:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0
