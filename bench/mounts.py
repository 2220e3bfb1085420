"""What the rows over a mount run on: the daemon, the null file system, the raw disk; and the rows."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.fio import Load, Result, fio, lay_out
from bench.measure import Row, Target, alternate
from tests.mounted_pool import MountedPool, unmount, wait_until

MIB, GIB = 1 << 20, 1 << 30
CLUSTER = 4096


@dataclass(frozen=True, slots=True)
class Effort:
    """How long and how often."""

    seconds: float = 4.0
    rounds: int = 3
    random_bytes: int = 512 * MIB
    sequential_bytes: int = 3 * GIB // 2
    mapped_bytes: int = 1 << 40  # of the row on a restart
    map_stride: int = 1 << 20


QUICK = Effort(1.0, 1, 64 * MIB, 128 * MIB, 16 << 30, 512 << 10)


@contextmanager
def pool(work: Path, environment: dict[str, str] | None = None) -> Iterator[MountedPool]:
    """A vPool under ``work``; nothing of it is left."""
    running = MountedPool(work / "pool", work / "mount", environment={"VPOOL_LOG__LEVEL": "warning", **(environment or {})})
    try:
        with running:
            yield running
    finally:
        shutil.rmtree(work / "pool", ignore_errors=True)


@contextmanager
def null_pyfuse3(work: Path, size: int) -> Iterator[Path]:
    """The reference for FUSE: its one file."""
    memory = Path("/dev/shm") / f"vpool-bench-{os.getpid()}"
    mount = work / "null"
    mount.mkdir()
    with memory.open("wb") as file:
        file.truncate(size)
    server = subprocess.Popen([sys.executable, "-m", "bench.null_pyfuse3", str(mount), str(memory)])
    try:
        wait_until(lambda: os.path.ismount(mount) or server.poll() is not None, "the null file system is mounted", 20)
        lay_out(mount / "null.raw", size)
        yield mount / "null.raw"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(20)
        unmount(mount)
        mount.rmdir()
        memory.unlink()


def iops_row(key: str, what: str, load: Load, measured: Path, reference: tuple[str, Path], target: Target, effort: Effort) -> Row:
    """A load on a volume, alternating with the same on the reference."""
    results: list[tuple[Path, Result]] = []

    def measure(path: Path) -> float:
        result = fio(path, load)
        results.append((path, result))
        return result.per_second if load.block < MIB else result.bytes_per_second

    name, other = reference
    runs, reference_runs = alternate(effort.rounds, lambda: measure(measured), lambda: measure(other))
    details = {
        f"latency_ms_{percentile}{suffix}": round(
            sorted(getattr(r, f"latency_ms_{percentile}") for p, r in results if p == path)[0], 3
        )
        for percentile in ("p50", "p99")
        for suffix, path in (("", measured), ("_reference", other))
    }
    return Row(key, what, "1/s" if load.block < MIB else "B/s", runs, target, name, reference_runs, details)


def against_null(work: Path, effort: Effort) -> list[Row]:
    """FUSE without the lane."""
    rows = []
    with pool(work) as running, null_pyfuse3(work, effort.random_bytes) as null:
        volume = running.make_volume("bench.raw", effort.random_bytes)
        lay_out(volume, effort.random_bytes)
        for rw, what in (("randwrite", "write"), ("randread", "warm read")):
            load = Load(rw, CLUSTER, depth=16, size=effort.random_bytes, seconds=effort.seconds)
            rows.append(
                iops_row(
                    f"fuse_{rw}",
                    f"FUSE without lane, 4 KiB {what}, QD16",
                    load,
                    volume,
                    ("null pyfuse3", null),
                    Target(0.8),
                    effort,
                )
            )
    return rows


def against_raw(work: Path, effort: Effort) -> list[Row]:
    """Synced writes, against O_DIRECT on a written file of the same file system."""
    rows = []
    raw = work / "raw"
    lay_out(raw, max(effort.random_bytes, effort.sequential_bytes))
    size = effort.random_bytes
    loads = (
        ("sync32", "4 KiB random write, QD16, sync every 32", Load("randwrite", CLUSTER, 16, 1, 32, size, effort.seconds), 1.2),
        ("fsync_qd1", "fsync after each 4 KiB write, QD1", Load("randwrite", CLUSTER, 1, 1, 1, size, effort.seconds), 0.9),
        ("fsync_8", "fsync after each 4 KiB write, 8 jobs", Load("randwrite", CLUSTER, 1, 8, 1, size, effort.seconds), 0.9),
    )
    with pool(work) as running:
        volume = running.make_volume("bench.raw", max(size, effort.sequential_bytes))
        lay_out(volume, size)
        for key, what, load, ratio in loads:
            rows.append(iops_row(key, what, load, volume, ("raw disk, O_DIRECT", raw), Target(ratio), effort))
    raw.unlink()
    return rows


def sequential(work: Path, effort: Effort) -> list[Row]:
    """Sustained sequential write, synced each 64 MiB, below the soft limit of the write cache.

    The log has been written once (a segment's first use costs a write of zeros), and is empty at the start of each run.
    """
    raw = work / "raw"
    load = Load("write", MIB, depth=4, size=effort.sequential_bytes, sync_every=64)
    lay_out(raw, effort.sequential_bytes)
    with pool(work, {"VPOOL_VOLUMES__TLOG_AGE_S": "1"}) as running:
        volume = running.make_volume("bench.raw", effort.sequential_bytes)

        def on_volume() -> float:
            wait_until(lambda: dirty_bytes(running) == 0, "everything is in the backend", 300)
            return fio(volume, load).bytes_per_second

        first = on_volume()
        runs, reference = alternate(effort.rounds, on_volume, lambda: fio(raw, load).bytes_per_second)
    raw.unlink()
    details = {"bytes": effort.sequential_bytes, "first_use_of_the_log": f"{first / MIB:,.0f} MiB/s"}
    return [Row("sequential", "sequential write, synced", "B/s", runs, Target(0.8), "raw disk, O_DIRECT", reference, details)]


def dirty_bytes(running: MountedPool) -> int:
    """What ``vpool status`` says is not in the backend yet."""
    command = [sys.executable, "-m", "vpool", "status", "--json", "--dir", str(running.directory)]
    return int(json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)["dirty_bytes"])
