"""What follows from the figures for the settings of the caches. Pure.

No formula knows the guests; each line says what it is computed from, so that whoever knows better can do it again.
"""

from __future__ import annotations

from vpool.doctor.report import Report, Verdict
from vpool.settings import SEGMENT_BYTES, SEGMENTS_SPARE, Settings
from vpool.sizes import show_size

GIB = 1 << 30
DISK_PART = 0.8  # of what is free: SSDs and file systems grow slow when they are full
READ_PART = 0.2  # of the cache: design default
HARD_BYTES_MIN, HARD_BYTES_MAX = 1 * GIB, 64 * GIB
OUTAGE_S = 600.0  # how long writers should not notice that the backend is away
GUEST_BYTES_PER_S = 20 << 20  # what one busy guest writes over minutes


def advise(report: Report, settings: Settings, held_bytes: int) -> None:
    """Add recommendations for the sizes of cache, read cache and hard limit. ``held_bytes``: by the cache now."""
    figures = report.figures
    free = figures.get("disk_free_bytes")
    if free is None:
        return
    cache = int((free + held_bytes) * DISK_PART) // GIB * GIB
    if cache < 2 * GIB:
        said = f"{show_size(int(free + held_bytes))} is too little: give the cache a disk with at least 4 GiB free"
        report.add("advice", "cache.size_bytes", Verdict.WARNING, said)
        return
    slow_reads = figures.get("backend_get_median_s", 0.0) > 0.02
    part = 0.5 if slow_reads else READ_PART
    read = int(cache * part)
    log = cache - read
    hard = max(HARD_BYTES_MIN, min(HARD_BYTES_MAX, int(GUEST_BYTES_PER_S * OUTAGE_S), log - SEGMENTS_SPARE * SEGMENT_BYTES))
    report.figures |= {
        "advice_size_bytes": float(cache),
        "advice_read_cache_bytes": float(read),
        "advice_hard_bytes": float(hard),
    }
    given = settings.cache.size_bytes
    report.add(
        "advice",
        "cache.size_bytes",
        Verdict.NOTE,
        f"{show_size(cache)}, {DISK_PART:.0%} of what is free or held by the cache; now {show_size(given)}",
        "a cache may be smaller: what it must hold is what guests write while the backend is slow or away",
    )
    why = "half of it, since a miss takes long here" if slow_reads else "a fifth of it, since misses are cheap here"
    report.add("advice", "cache.read_cache_bytes", Verdict.NOTE, f"{show_size(read)}, {why}; more if guests read more than that")
    minutes = hard / GUEST_BYTES_PER_S / 60
    report.add(
        "advice",
        "volumes.hard_bytes",
        Verdict.NOTE,
        f"{show_size(hard)}: a guest that writes {show_size(GUEST_BYTES_PER_S)}/s goes on for {minutes:.0f} min without backend",
        "it is also the most that is lost with this host's disk; volumes.soft_bytes: half of it",
    )
    _rates(report)


def _rates(report: Report) -> None:
    """Whether the backend can keep up."""
    figures = report.figures
    disk, backend = figures.get("disk_write_bytes_per_s"), figures.get("backend_put_bytes_per_s")
    if disk is None or backend is None:
        return
    guests = max(1, int(backend / GUEST_BYTES_PER_S))
    found = f"{show_size(int(backend))}/s to the backend: about {guests} guests that write {show_size(GUEST_BYTES_PER_S)}/s each"
    advice = "bursts go at the disk's rate until the cache is full" if disk > backend else ""
    report.add("advice", "sustained writes of this node", Verdict.NOTE, found, advice)
