"""The disk that DIR is, or will be, on: what it is, its room, what a sync costs, how fast it writes and reads."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vpool.doctor.report import Report, Verdict, quantile
from vpool.errors import Denied, NoSpace, Unavailable
from vpool.place import Place
from vpool.settings import Settings
from vpool.sizes import show_size

MIB = 1 << 20
SEQUENTIAL_BYTES = 256 * MIB
PIECE_BYTES = 4 * MIB
SYNC_BYTES = 4096
SYNC_FILE_BYTES = 16 * MIB
SYNC_S = 2.0
SYNC_SLOW_S = 0.010
SYNC_IMPOSSIBLE_S = 0.000_02  # no device that survives a power cut is that quick
RATE_LOW = 100 * MIB
IN_MEMORY = {"tmpfs", "ramfs"}
REMOTE = {"nfs", "nfs4", "cifs", "smb3", "fuse", "9p", "ceph", "glusterfs"}


@contextmanager
def scratch(directory: Path) -> Iterator[Path]:
    """A directory below ``directory`` that goes with the block. Denied, NoSpace, Unavailable."""
    path = directory / f".vpool-doctor-{os.getpid()}"
    try:
        path.mkdir(mode=0o700)
        yield path
    except PermissionError:
        raise Denied(f"{directory} cannot be written; run as its owner or as root") from None
    except OSError as error:
        kind = NoSpace if error.errno in (28, 122) else Unavailable
        raise kind(f"the disk of {directory} fails: {error.strerror}") from None
    finally:
        shutil.rmtree(path, ignore_errors=True)


def existing(directory: Path) -> Path:
    """The directory, or the nearest one above it that exists."""
    while not directory.is_dir():
        directory = directory.parent
    return directory


def examine_disk(place: Place, settings: Settings, report: Report) -> None:
    """All of it; blocks for some seconds."""
    directory = existing(place.cache if place.cache.is_dir() else place.directory)
    _kind(directory, report)
    _room(place, directory, settings, report)
    if shutil.disk_usage(directory).free < 2 * SEQUENTIAL_BYTES:
        report.add("disk", "speed", Verdict.WARNING, "not measured: there is too little room for it")
        return
    with scratch(directory) as path:
        _sync(path / "sync", report)
        _sequential(path / "sequential", report)


def _kind(directory: Path, report: Report) -> None:
    device = directory.stat().st_dev
    kind, source = _mount_of(directory)
    if kind in IN_MEMORY:
        said = "the cache would be in memory: what is not in the backend yet is lost with the power"
        report.add("disk", "file system", Verdict.PROBLEM, kind, said)
    elif kind.partition(".")[0] in REMOTE:
        advice = "the cache belongs on a disk of this host; over a network, syncs are slow and may not be what they say"
        report.add("disk", "file system", Verdict.WARNING, f"{kind} ({source})", advice)
    else:
        report.add("disk", "file system", Verdict.GOOD, f"{kind} ({source})")
    queue = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    for place in (queue / "queue", queue.resolve().parent / "queue"):
        if (place / "rotational").exists():
            if (place / "rotational").read_text().strip() == "1":
                report.add(
                    "disk", "device", Verdict.NOTE, "calls itself rotational", "an SSD makes syncs a hundred times quicker"
                )
            cache = place / "write_cache"
            if cache.exists():
                report.add("disk", "write cache", Verdict.NOTE, cache.read_text().strip())
            return


def _mount_of(directory: Path) -> tuple[str, str]:
    """Kind and source of the file system that a directory is on."""
    device = directory.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    found = ("unknown", "unknown")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        head, _, tail = line.partition(" - ")
        if head.split()[2] == wanted:
            kind, source = tail.split()[:2]
            found = kind, source
    return found


def _room(place: Place, directory: Path, settings: Settings, report: Report) -> None:
    usage = shutil.disk_usage(directory)
    report.figures |= {"disk_total_bytes": float(usage.total), "disk_free_bytes": float(usage.free)}
    found = (
        f"{show_size(usage.free)} free of {show_size(usage.total)}; cache.size_bytes is {show_size(settings.cache.size_bytes)}"
    )
    try:
        place.check_room(settings.cache.size_bytes)
    except NoSpace as error:
        report.add("disk", "room", Verdict.PROBLEM, found, error.message)
    else:
        report.add("disk", "room", Verdict.GOOD, found)


def _sync(path: Path, report: Report) -> None:
    """What a flush of the log costs: 4 KiB into a file that was written before, and a sync."""
    took: list[float] = []
    with path.open("wb", buffering=0) as file:
        for _ in range(SYNC_FILE_BYTES // MIB):
            file.write(bytes(MIB))
        os.fsync(file.fileno())
        data = os.urandom(SYNC_BYTES)
        deadline = time.monotonic() + SYNC_S
        while time.monotonic() < deadline:
            at = len(took) * SYNC_BYTES % SYNC_FILE_BYTES
            began = time.monotonic()
            os.pwrite(file.fileno(), data, at)
            os.fdatasync(file.fileno())
            took.append(time.monotonic() - began)
    median, slow = quantile(took, 0.5), quantile(took, 0.99)
    report.figures |= {"sync_median_s": median, "sync_p99_s": slow, "syncs_per_s": len(took) / SYNC_S}
    found = f"{median * 1e6:.0f} µs in the middle, {slow * 1e3:.2f} ms at 99 %, {len(took) / SYNC_S:.0f} per second"
    if median < SYNC_IMPOSSIBLE_S:
        advice = "no device is that quick: a cache without protection, or a host that ignores flushes, loses what it promised"
        report.add("disk", "sync", Verdict.WARNING, found, advice)
    elif median > SYNC_SLOW_S:
        advice = "every flush of a guest waits that long; a data-centre SSD takes less than 1 ms"
        report.add("disk", "sync", Verdict.WARNING, found, advice)
    else:
        report.add("disk", "sync", Verdict.GOOD, found)


def _sequential(path: Path, report: Report) -> None:
    data = os.urandom(PIECE_BYTES)
    with path.open("w+b", buffering=0) as file:
        began = time.monotonic()
        for _ in range(SEQUENTIAL_BYTES // PIECE_BYTES):
            file.write(data)
        os.fdatasync(file.fileno())
        written = SEQUENTIAL_BYTES / (time.monotonic() - began)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        began = time.monotonic()
        while file.read(PIECE_BYTES):
            pass
        read = SEQUENTIAL_BYTES / (time.monotonic() - began)
    report.figures |= {"disk_write_bytes_per_s": written, "disk_read_bytes_per_s": read}
    found = f"writes {show_size(int(written))}/s, reads {show_size(int(read))}/s"
    if written < RATE_LOW:
        report.add("disk", "rate", Verdict.WARNING, found, "guests write at most that fast, together")
    else:
        report.add("disk", "rate", Verdict.GOOD, found)
