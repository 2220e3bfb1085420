"""A healthy node as a sample, to be changed by tests."""

from __future__ import annotations

from admin.watching.gathering import REQUEST_BOUNDS_S
from admin.watching.health import Limits
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

MIB, GIB = 1 << 20, 1 << 30
LIMITS = Limits(hard_bytes=4 * GIB, dirty_old_s=120.0, verify_days=30.0)


def histogram(*counts: int, sum_s: float = 0.0) -> Histogram:
    """Counts of the first buckets; the others are empty."""
    return Histogram(REQUEST_BOUNDS_S, (*counts, *[0] * (len(REQUEST_BOUNDS_S) + 1 - len(counts))), sum_s)


def store_operation(
    *, tries: int = 0, retries: int = 0, latency: Histogram | None = None, problem: str = ""
) -> StoreOperationSample:
    return StoreOperationSample(0, 0, {}, tries, retries, 0, 0, latency or histogram(), problem)


def a_volume(**changed: object) -> VolumeSample:
    fields: dict[str, object] = {
        "object": "0" * 32,
        "path": "machines/web.raw",
        "kind": "volume",
        "state": "serving",
        "halted_reason": "",
        "size": 10 * GIB,
        "dirty_bytes": 5 * MIB,
        "oldest_dirty_age_s": 2.0,
        "uploading": 1,
        "retries": 0,
        "stalled": "",
        "waiting_writers": 0,
        "misses": 3,
        "hit_bytes": 8192,
        "missed_bytes": 4096,
        "operations": {"read": OperationSample(1, 4096, histogram(1, 2, sum_s=0.00005))},
    }
    return VolumeSample(**{**fields, **changed})  # type: ignore[arg-type]


def a_cluster(**changed: object) -> ClusterSample:
    fields: dict[str, object] = {
        "votes": True,
        "leads": False,
        "has_leader": True,
        "term": 3,
        "lag_entries": 2,
        "lease_left_s": 3.5,
        "answers_waiting": 0,
        "members": 3,
        "connected": 3,
        "dead_nodes": (),
        "maintenance": (),
    }
    return ClusterSample(**{**fields, **changed})  # type: ignore[arg-type]


def a_node(**changed: object) -> NodeSample:
    fields: dict[str, object] = {
        "at": 1_000_000.0,
        "boot_s": 5000.0,
        "uptime_s": 100.0,
        "version": "1.0",
        "volumes": (a_volume(),),
        "cache": CacheSample(1 * GIB, 6 * GIB, 2 * GIB, GIB, 2 * GIB, 64 * MIB, 100 * GIB, 200 * GIB),
        "queues": QueuesSample(1, 2, 3, 4),
        "store": {"put": store_operation(tries=7, latency=histogram(0, 7, sum_s=0.1)), "get": store_operation()},
        "backend_failing_s": 0.0,
        "registry": {"AdvanceHeads": CommandSample(1, histogram(0, 0, 5, sum_s=0.004))},
        "registry_waiting_s": 0.0,
        "verification": VerificationSample(True, True, 900_000.0, 0.0, 7 * MIB, 1, 4096, 0, 0, 0),
        "handover": HandoverSample(
            Histogram((0.1,), (0, 0), 0.0),
            0,
            0,
            0,
            0,
            {"automatic": Histogram((0.1,), (0, 2), 3.0), "command": Histogram((0.1,), (0, 0), 0.0)},
            0,
        ),
        "export": ExportSample(3, 1, ""),
        "anonymous_bytes": 100 * MIB,
        "open_files": 50,
        "open_files_max": 65_536,
        "slow_requests": 4,
        "last_event": 17,
        "events_lost": 0,
        "cluster": a_cluster(),
    }
    return NodeSample(**{**fields, **changed})  # type: ignore[arg-type]
