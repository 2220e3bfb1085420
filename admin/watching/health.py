"""From a sample to what is wrong with a node. Pure; what has to be remembered between samples is handed in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from admin.watching.health_codes import HEALTH_CODES, Severity
from admin.watching.sample import ClusterSample, NodeSample, VolumeSample

NEAR = 0.9
DISK_FULL_BYTES = 64 << 20
REGISTRY_SILENT_S = 10.0
RETRIED_SHARE, RETRIED_TRIES_MIN = 0.1, 10
BACKEND_SLOW_S, BACKEND_SLOW_MIN = 5.0, 3
CLOCK_STEP_S = 2.0
CLOCK_STEP_TOLD_S = 600.0


class Answer(Enum):
    """What the store said when it was asked."""

    YES = "reachable"
    NONE = "no answer"
    REFUSAL = "refused"


@dataclass(frozen=True, slots=True)
class BackendAnswer:
    """The last look at the store."""

    answer: Answer
    words: str  # what is wrong; empty if nothing is


@dataclass(frozen=True, slots=True)
class Limits:
    """Where trouble begins, as far as it can be set."""

    hard_bytes: int
    dirty_old_s: float
    verify_days: float  # 0: a pass begins only when asked for


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    code: str
    subject: str  # path of a volume; empty: the node
    message: str

    @property
    def severity(self) -> Severity:
        return HEALTH_CODES[self.code].severity


@dataclass(frozen=True, slots=True)
class Memory:
    """What earlier looks have left: a sample about a minute old, and when the clock was last found to have been set."""

    earlier: NodeSample | None
    stepped_boot_s: float | None
    step_s: float


def problems_of(sample: NodeSample, backend: BackendAnswer, memory: Memory, limits: Limits, events_problem: str) -> list[Problem]:
    """All that is wrong, worst first, then by code and subject."""
    found = [*_backend(sample, backend, memory), *_cache(sample), *_node(sample, memory, events_problem)]
    if sample.cluster is not None:
        found += _cluster(sample.cluster)
    found += _content(sample, limits, is_backend_there=backend.answer is Answer.YES)
    for volume in sample.volumes:
        found += _volume(volume, limits)
    return sorted(found, key=lambda problem: (-problem.severity, problem.code, problem.subject))


def stepped(before: NodeSample, now: NodeSample) -> float:
    """By how many seconds the clock was set between two samples; 0.0 if it ran on as the host's own did."""
    step = (now.at - before.at) - (now.boot_s - before.boot_s)
    return step if abs(step) > CLOCK_STEP_S else 0.0


def _backend(sample: NodeSample, backend: BackendAnswer, memory: Memory) -> Iterator[Problem]:
    if backend.answer is Answer.REFUSAL:
        yield Problem("BACKEND_REFUSES", "", backend.words)
    elif backend.answer is Answer.NONE:
        yield Problem("BACKEND_UNREACHABLE", "", backend.words)
    if memory.earlier is None:
        return
    tries = retries = most = 0
    problem = ""
    for operation, now in sample.store.items():
        before = memory.earlier.store.get(operation)
        if before is None:
            continue
        tries += now.tries - before.tries
        again = now.retries - before.retries
        retries += again
        if again > most:
            most, problem = again, now.problem
        lately = now.latency.since(before.latency)
        if operation in ("put", "get") and lately.count >= BACKEND_SLOW_MIN and (lately.mean_s or 0.0) > BACKEND_SLOW_S:
            yield Problem("BACKEND_SLOW", operation, f"{lately.count} of them took {lately.mean_s:.1f} s on average")
    if tries >= RETRIED_TRIES_MIN and retries > RETRIED_SHARE * tries:
        why = f", lately because of: {problem}" if problem else ""
        yield Problem("BACKEND_ERRORS", "", f"{retries} of {tries} tries were repetitions{why}")


def _cache(sample: NodeSample) -> Iterator[Problem]:
    cache = sample.cache
    if cache.log_used_bytes >= NEAR * cache.log_limit_bytes:
        yield Problem(
            "CACHE_NEAR_LIMIT", "", f"the log has {_share(cache.log_used_bytes, cache.log_limit_bytes)} of its segments"
        )
    to_grow = cache.log_to_grow_bytes + max(0, cache.read_cache_limit_bytes - cache.read_cache_used_bytes)
    if cache.failed:
        yield Problem("CACHE_DISK_FAILS", "", "; ".join(cache.failed))
    if cache.refused:
        yield Problem("CACHE_DISK_FULL", "", "; ".join(cache.refused))
    elif cache.disk_free_bytes < DISK_FULL_BYTES:
        yield Problem("CACHE_DISK_FULL", "", f"{cache.disk_free_bytes >> 20} MiB are free")
    elif cache.disk_free_bytes < to_grow:
        yield Problem("CACHE_DISK_SHORT", "", f"{cache.disk_free_bytes >> 20} MiB are free, {to_grow >> 20} may be needed")


def _node(sample: NodeSample, memory: Memory, events_problem: str) -> Iterator[Problem]:
    if sample.registry_waiting_s > REGISTRY_SILENT_S:
        yield Problem("REGISTRY_SILENT", "", f"a command has waited for {sample.registry_waiting_s:.0f} s")
    if memory.stepped_boot_s is not None and sample.boot_s - memory.stepped_boot_s < CLOCK_STEP_TOLD_S:
        yield Problem("CLOCK_STEPPED", "", f"by {memory.step_s:+.1f} s, {sample.boot_s - memory.stepped_boot_s:.0f} s ago")
    if sample.open_files >= NEAR * sample.open_files_max:
        yield Problem("OPEN_FILES_NEAR_LIMIT", "", f"{sample.open_files} of {sample.open_files_max}")
    if events_problem:
        yield Problem("EVENTS_LOST", "", f"{sample.events_lost} since the start; the last because: {events_problem}")


def _cluster(cluster: ClusterSample) -> Iterator[Problem]:
    if not cluster.has_leader:
        yield Problem("REGISTRY_NO_MAJORITY", "", f"{cluster.connected} of {cluster.members} members are connected")
    for node in cluster.dead_nodes:
        yield Problem("NODE_DEAD", node, "it has not renewed its lease in time")


def _content(sample: NodeSample, limits: Limits, *, is_backend_there: bool) -> Iterator[Problem]:
    found = sample.verification
    if found.lost_ranges:
        yield Problem("CONTENT_LOST", "", f"{found.lost_ranges} ranges, {found.lost_bytes} bytes")
    if found.needed_objects:
        yield Problem("RESTART_WOULD_FAIL", "", f"{found.needed_objects} objects")
    took_days = (sample.at - found.started) / 86_400
    if found.running and limits.verify_days and took_days > 2 * limits.verify_days:
        yield Problem("VERIFY_OVERDUE", "", f"the pass that runs has begun {took_days:.0f} days ago")
    if sample.export.problem and is_backend_there:
        yield Problem("EXPORT_WAITS", "", sample.export.problem)


def _volume(volume: VolumeSample, limits: Limits) -> Iterator[Problem]:
    if volume.state == "halted":
        yield Problem("VOLUME_HALTED" if volume.kind == "volume" else "FILES_HALTED", volume.path, volume.halted_reason)
    if volume.waiting_writers:
        why = volume.stalled or "the backend takes less than is written"
        yield Problem("WRITERS_WAIT", volume.path, f"{volume.waiting_writers} wait: {why}")
    if volume.dirty_bytes >= NEAR * limits.hard_bytes:
        yield Problem("CACHE_NEAR_LIMIT", volume.path, f"{_share(volume.dirty_bytes, limits.hard_bytes)} of volumes.hard_bytes")
    if volume.oldest_dirty_age_s > limits.dirty_old_s:
        megabytes = -(-volume.dirty_bytes >> 20)
        yield Problem(
            "DIRTY_OLD",
            volume.path,
            f"{megabytes} MiB are not in the backend, the oldest for {volume.oldest_dirty_age_s:.0f} s"
            + (f": {volume.stalled}" if volume.stalled else ""),
        )


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "all"
